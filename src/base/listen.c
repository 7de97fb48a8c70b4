/* SPDX-License-Identifier: MIT */
/* listen.c - a Unix socket with a name that this process listens on */
#include "base/listen.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 16

/* Is a server alive behind @path? A left-over file refuses; anything else is reason enough to leave it alone. */
static bool is_left_over(const struct sockaddr_un *sun)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool refused;

	if (fd < 0)
		return false;
	refused = connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) < 0 && errno == ECONNREFUSED;
	close(fd);
	return refused;
}

static int bind_path(int fd, const char *path, struct sl_err *err)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct stat st;

	if (strlen(path) >= sizeof(sun.sun_path))
		return sl_err_set(err, ENAMETOOLONG, "%s: socket: path is longer than %zu bytes", path,
				  sizeof(sun.sun_path) - 1);
	strcpy(sun.sun_path, path);
	if (!bind(fd, (struct sockaddr *)&sun, sizeof(sun)))
		return 0;
	if (errno != EADDRINUSE)
		return sl_err_set(err, errno, "%s: socket: %s", path, strerror(errno));
	if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return sl_err_set(err, EEXIST, "%s: socket: there is a file of this name that is no socket", path);
	if (!is_left_over(&sun))
		return sl_err_set(err, EADDRINUSE, "%s: socket: a live server listens on it", path);
	if (unlink(path) < 0 || bind(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0)
		return sl_err_set(err, errno, "%s: socket: taking over from a dead process: %s", path, strerror(errno));
	return 0;
}

int listener_open(struct listener *l, const char *path, mode_t mode, struct sl_err *err)
{
	struct stat st;
	int ret;

	*l = (struct listener){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
	if (l->fd < 0)
		return sl_err_set(err, errno, "%s: socket: %s", path, strerror(errno));
	ret = bind_path(l->fd, path, err);
	if (ret) {
		listener_close(l);
		return ret;
	}
	/* Nobody gets in before listen(), so the permissions are there in time. */
	l->path = strdup(path);
	if (!l->path || (mode && chmod(path, mode) < 0) || lstat(path, &st) < 0 || listen(l->fd, BACKLOG) < 0) {
		ret = sl_err_set(err, errno, "%s: socket: %s", path, strerror(errno));
		unlink(path);
		listener_close(l);
		return ret;
	}
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	return 0;
}

void listener_close(struct listener *l)
{
	struct stat st;

	if (l->path && !lstat(l->path, &st) && st.st_dev == l->dev && st.st_ino == l->ino)
		unlink(l->path);
	free(l->path);
	l->path = NULL;
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
}
