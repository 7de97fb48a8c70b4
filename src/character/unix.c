/* SPDX-License-Identifier: MIT */
/* unix.c - a Unix socket that listens; one peer at a time, the next one waits until it has gone */
#include "character/character_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <sluice/log.h>

#include "base/listen.h"

/** struct server - @incoming: watched while there is no peer */
struct server {
	struct character c;
	struct listener listener;
	struct sl_watch incoming;
};

static void on_incoming(void *arg, uint32_t events)
{
	struct server *s = arg;
	int fd = accept4(s->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0)
		return;
	sl_watch_del(&s->incoming);
	character_connect_both(&s->c, fd);
}

static void server_left(struct character *c)
{
	struct server *s = (struct server *)c;

	sl_watch_add(c->loop, &s->incoming, s->listener.fd, EPOLLIN);
}

static void server_close(struct character *c)
{
	struct server *s = (struct server *)c;

	sl_watch_del(&s->incoming);
	listener_close(&s->listener);
	free(s);
}

static struct character *server_open(struct sl_loop *loop, const char *where, const char *path, struct sl_err *err)
{
	struct server *s = (struct server *)character_new(sizeof(*s), loop, err);
	int ret;

	if (!s)
		return NULL;
	ret = listener_open(&s->listener, path, 0, err);
	if (ret) {
		free(s);
		errno = -ret;
		return NULL;
	}
	s->incoming = (struct sl_watch){.fn = on_incoming, .arg = s};
	server_left(&s->c);
	sl_log(SL_LOG_INFO, "%s: listening", where);
	return &s->c;
}

const struct character_type character_unix = {
	.name = "unix",
	.path = true,
	.form = {"unix:PATH", "a Unix socket that listens there, for one peer at a time"},
	.open = server_open,
	.left = server_left,
	.close = server_close,
};
