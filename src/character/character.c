/* SPDX-License-Identifier: MIT */
/* character.c - bytes from and to whoever is at the other end of a place, if anybody is
 *
 * A watch is on only while somebody waits for it, so a peer that has hung up or
 * is always ready cannot keep the loop busy.
 */
#include "character/character_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct character_type *const types[] = {
	&character_stdio, &character_pty, &character_file, &character_unix, &character_none,
};
#define NUM_TYPES (sizeof(types) / sizeof(types[0]))

/* ---- a peer ---- */

/* The peer is gone, as far as one direction can tell. */
static void lost(struct character *c, int *fd)
{
	if (c->type->left) {
		character_disconnect(c);
		c->type->left(c);
		return;
	}
	/* nobody else will come: one direction ends, the other goes on */
	sl_watch_del(fd == &c->in ? &c->readable : &c->writable);
	close(*fd);
	*fd = -1;
}

static void on_readable(void *arg, uint32_t events)
{
	struct character *c = arg;

	(void)events;
	sl_watch_del(&c->readable);
	c->ready = true;
	if (c->wants && c->user) {
		c->wants = false;
		c->user->input(c->arg);
	}
}

static void on_writable(void *arg, uint32_t events)
{
	struct character *c = arg;

	sl_watch_del(&c->writable);
	if (events & EPOLLHUP) /* a full pty says no more than that */
		lost(c, &c->out);
	if (c->user)
		c->user->room(c->arg);
}

/* epoll takes neither regular files nor /dev/null, which never block */
static bool can_poll(struct sl_loop *loop, int fd)
{
	struct sl_watch probe = {0};
	int ret = sl_watch_add(loop, &probe, fd, EPOLLIN);

	sl_watch_del(&probe);
	return ret == 0;
}

static void wait_for_input(struct character *c)
{
	c->wants = true;
	if (c->in >= 0 && c->in_polled && !c->readable.loop)
		sl_watch_add(c->loop, &c->readable, c->in, EPOLLIN);
}

void character_connect(struct character *c, int in, int out)
{
	struct stat st;

	c->in = in;
	c->out = out;
	c->in_polled = in >= 0 && can_poll(c->loop, in);
	c->out_polled = out >= 0 && can_poll(c->loop, out);
	c->ready = !c->in_polled;
	c->socket = out >= 0 && !fstat(out, &st) && S_ISSOCK(st.st_mode);
	if (c->wants)
		wait_for_input(c);
}

void character_disconnect(struct character *c)
{
	bool waits = c->writable.loop != NULL;

	sl_watch_del(&c->readable);
	sl_watch_del(&c->writable);
	if (c->in >= 0)
		close(c->in);
	if (c->out >= 0)
		close(c->out);
	c->in = c->out = -1;
	c->ready = false;
	if (waits && c->user)
		c->user->room(c->arg);
}

void character_connect_both(struct character *c, int fd)
{
	int out = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* one for each direction: epoll takes a descriptor once */

	character_connect(c, fd, out);
	if (out < 0)
		lost(c, &c->out);
}

/* ---- the user ---- */

void character_use(struct character *c, const struct character_user *user, void *arg)
{
	c->user = user;
	c->arg = arg;
}

size_t character_read(struct character *c, void *data, size_t len)
{
	ssize_t n;

	while (c->in >= 0 && c->ready && len) {
		c->ready = !c->in_polled;
		n = read(c->in, data, len);
		if (n > 0)
			return (size_t)n;
		if (!n || (errno != EAGAIN && errno != EINTR))
			lost(c, &c->in);
	}
	if (len)
		wait_for_input(c);
	return 0;
}

static ssize_t write_some(const struct character *c, const char *data, size_t len)
{
	return c->socket ? send(c->out, data, len, MSG_DONTWAIT | MSG_NOSIGNAL) : write(c->out, data, len);
}

size_t character_write(struct character *c, const void *data, size_t len)
{
	size_t done = 0;

	while (c->out >= 0 && done < len) {
		ssize_t n = write_some(c, (const char *)data + done, len - done);

		if (n >= 0) {
			done += (size_t)n;
		} else if (errno == EAGAIN && c->out_polled) {
			if (!c->writable.loop)
				sl_watch_add(c->loop, &c->writable, c->out, EPOLLOUT);
			return done;
		} else if (errno != EINTR) {
			lost(c, &c->out);
		}
	}
	return len;
}

bool character_is_keyboard(const struct character *c)
{
	return c->type->keyboard;
}

/* ---- life ---- */

struct character *character_new(size_t size, struct sl_loop *loop, struct sl_err *err)
{
	struct character *c = calloc(1, size);

	if (!c) {
		sl_err_set(err, ENOMEM, "out of memory");
		return NULL;
	}
	c->loop = loop;
	c->in = c->out = -1;
	c->readable = (struct sl_watch){.fn = on_readable, .arg = c};
	c->writable = (struct sl_watch){.fn = on_writable, .arg = c};
	return c;
}

struct character *character_open(const char *what, const char *text, struct sl_loop *loop, struct sl_err *err)
{
	size_t name = strcspn(text, ":");
	bool path = text[name] == ':' && text[name + 1];
	char where[512];

	for (unsigned int i = 0; i < NUM_TYPES; i++) {
		const struct character_type *t = types[i];
		struct character *c;

		if (strlen(t->name) != name || memcmp(t->name, text, name) || t->path != path || (!path && text[name]))
			continue;
		snprintf(where, sizeof(where), "%s %s", what, text);
		c = t->open(loop, where, text + name + 1, err);
		if (c)
			c->type = t;
		return c;
	}
	errno = EINVAL;
	sl_err_set(err, EINVAL, "%s %s: wants stdio, pty, file:PATH, unix:PATH or none", what, text);
	return NULL;
}

void character_restore(struct character *c)
{
	if (c->type->restore)
		c->type->restore(c);
}

void character_close(struct character *c)
{
	if (!c)
		return;
	c->user = NULL;
	character_restore(c);
	character_disconnect(c);
	if (c->type->close)
		c->type->close(c);
	else
		free(c);
}

const struct opt_source *character_forms(unsigned int n)
{
	return n < NUM_TYPES ? &types[n]->form : NULL;
}

/* ---- none ---- */

static struct character *none_open(struct sl_loop *loop, const char *where, const char *path, struct sl_err *err)
{
	(void)where;
	(void)path;
	return character_new(sizeof(struct character), loop, err);
}

const struct character_type character_none = {
	.name = "none",
	.form = {"none", "nowhere: what is written is gone"},
	.open = none_open,
};
