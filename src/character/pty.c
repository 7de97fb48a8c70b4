/* SPDX-License-Identifier: MIT */
/* pty.c - a new pseudo terminal, for a terminal program to open
 *
 * Whether somebody has opened it can only be asked (a hang-up says: nobody), so
 * inotify tells when it is opened and then we ask. That somebody has closed it
 * shows when reading or writing fails.
 */
#include "character/character_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <termios.h>
#include <unistd.h>

#include <sluice/log.h>

/**
 * struct pty
 * @ours:   our end; the place gets a duplicate of it while there is a peer
 * @opened: inotify, says that the other end was opened
 */
struct pty {
	struct character c;
	int ours, opened;
	struct sl_watch watch;
};

/* Is there somebody? */
static void look(struct pty *p)
{
	struct pollfd state = {.fd = p->ours};
	int fd;

	if (p->c.in >= 0 || p->c.out >= 0 || poll(&state, 1, 0) < 0 || state.revents & POLLHUP)
		return;
	fd = fcntl(p->ours, F_DUPFD_CLOEXEC, 0);
	if (fd >= 0)
		character_connect_both(&p->c, fd);
}

static void on_opened(void *arg, uint32_t events)
{
	struct pty *p = arg;
	char buf[1024];

	(void)events;
	while (read(p->opened, buf, sizeof(buf)) > 0)
		;
	look(p);
}

/* Make the terminal raw, and known as one that nobody has open: it is so only after it was opened once. */
static int prepare(struct pty *p, char *name, size_t len)
{
	struct termios t;
	int fd;

	p->ours = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (p->ours < 0 || grantpt(p->ours) || unlockpt(p->ours) || ptsname_r(p->ours, name, len))
		return -errno;
	fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (!tcgetattr(fd, &t)) {
		cfmakeraw(&t);
		tcsetattr(fd, TCSANOW, &t);
	}
	close(fd);
	p->opened = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	return p->opened < 0 || inotify_add_watch(p->opened, name, IN_OPEN) < 0 ? -errno : 0;
}

static void pty_left(struct character *c)
{
	look((struct pty *)c); /* another one may have opened it before this one went */
}

static void pty_close(struct character *c)
{
	struct pty *p = (struct pty *)c;

	sl_watch_del(&p->watch);
	if (p->opened >= 0)
		close(p->opened);
	if (p->ours >= 0)
		close(p->ours);
	free(p);
}

static struct character *pty_open(struct sl_loop *loop, const char *where, const char *path, struct sl_err *err)
{
	struct pty *p = (struct pty *)character_new(sizeof(*p), loop, err);
	char name[64] = "";
	int ret;

	(void)path;
	if (!p)
		return NULL;
	p->ours = p->opened = -1;
	p->watch = (struct sl_watch){.fn = on_opened, .arg = p};
	ret = prepare(p, name, sizeof(name));
	if (!ret)
		ret = sl_watch_add(loop, &p->watch, p->opened, EPOLLIN);
	if (ret) {
		sl_err_set(err, -ret, "%s: %s", where, strerror(-ret));
		pty_close(&p->c);
		errno = -ret;
		return NULL;
	}
	sl_log(SL_LOG_INFO, "%s: %s", where, name);
	return &p->c;
}

const struct character_type character_pty = {
	.name = "pty",
	.form = {"pty", "a new pseudo terminal, whose name is printed"},
	.open = pty_open,
	.left = pty_left,
	.close = pty_close,
};
