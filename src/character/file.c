/* SPDX-License-Identifier: MIT */
/* file.c - a file that gets all output; there is no input. A FIFO or a device does as well. */
#include "character/character_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static struct character *file_open(struct sl_loop *loop, const char *where, const char *path, struct sl_err *err)
{
	/* without O_NONBLOCK, opening a FIFO waits for its reader, and writing to a full one for room */
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
	struct character *c;

	if (fd < 0) {
		sl_err_set(err, errno, "%s: %s", where, errno == ENXIO ? "nobody reads from this FIFO" : strerror(errno));
		return NULL;
	}
	c = character_new(sizeof(*c), loop, err);
	if (!c) {
		close(fd);
		return NULL;
	}
	character_connect(c, -1, fd);
	return c;
}

const struct character_type character_file = {
	.name = "file",
	.path = true,
	.form = {"file:PATH", "a file that gets all output, empty at first; there is no input"},
	.open = file_open,
};
