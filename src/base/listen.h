/* SPDX-License-Identifier: MIT */
/* listen.h - a Unix socket with a name that this process listens on */
#ifndef BASE_LISTEN_H
#define BASE_LISTEN_H

#include <stdint.h>
#include <sys/types.h>

#include <sluice/error.h>

/**
 * struct listener
 * @fd:       non-blocking; -1: closed
 * @path:     its name
 * @dev, @ino: of the socket's file, to remove only our own
 */
struct listener {
	int fd;
	char *path;
	uint64_t dev, ino;
};

/**
 * listener_open() - create the socket @path and listen
 * @mode: permissions of its file; 0: what the umask leaves
 *
 * A socket that a dead process left behind is taken over, a live one is
 * refused (-EADDRINUSE). Return: 0 or -errno with @err filled, @l is closed then.
 */
int listener_open(struct listener *l, const char *path, mode_t mode, struct sl_err *err);
/** listener_close() - close it, and remove its file unless somebody put another one in its place; safe when closed */
void listener_close(struct listener *l);

#endif
