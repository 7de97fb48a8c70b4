/* SPDX-License-Identifier: MIT */
/* nbd.h - private to nbd.c (requests over NBD) and nbd_image.c (image formats, by a qemu-nbd of our own) */
#ifndef BLOCK_NBD_H
#define BLOCK_NBD_H

#include "block/block.h"

struct nbd_image;

/**
 * struct nbd_place - where the server is
 * @uri:     what libnbd connects to; NULL: @image
 * @image:   our own qemu-nbd; nbd_open_at() owns it from its call on, also when it fails
 * @durable: every write is durable when the server answers
 */
struct nbd_place {
	const char *uri;
	struct nbd_image *image;
	bool durable;
};

/** nbd_open_at() - connect once, to learn what is there, for up to 10 s; control */
int nbd_open_at(const struct nbd_place *at, const char *name, const struct block_options *o, struct block **out,
		struct sl_err *err);

/** nbd_image_socket() - the path it listens on */
const char *nbd_image_socket(const struct nbd_image *image);
/**
 * nbd_image_ended() - is qemu-nbd gone? Any thread
 * @wait_ms: how long to wait for that
 * @why:     one line, its own words when it said something
 */
bool nbd_image_ended(const struct nbd_image *image, unsigned int wait_ms, char *why, size_t len);
void nbd_image_close(struct nbd_image *image); /* NULL allowed; control */

#endif
