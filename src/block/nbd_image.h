/* SPDX-License-Identifier: MIT */
/* nbd_image.h - format=qcow2 and the like */
#ifndef BLOCK_NBD_IMAGE_H
#define BLOCK_NBD_IMAGE_H

#include "block/block.h"

/**
 * nbd_image_open() - serve the image @path by a qemu-nbd of our own; control, on a thread that lives as long as @out
 * @format: qemu's name of it
 * @cache:  writeback, writethrough or none
 * @s:      timeout= is taken from it
 *
 * Return: 0 or -errno with @err filled.
 */
int nbd_image_open(const char *path, const char *format, const char *cache, const struct block_options *o,
		   struct spec *s, struct block **out, struct sl_err *err);

#endif
