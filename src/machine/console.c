/* SPDX-License-Identifier: MIT */
/* console.c - between a guest's console, a stream socket, and a place where its bytes come from and go to
 *
 * One buffer for each direction, driven by the control loop, which must never
 * block: a reader that does not read only holds up the guest's console.
 */
#include "machine/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#define LAST_WORDS_MS 1000 /* how long console_stop() waits for a slow reader */

static void pump_out(void *arg)
{
	struct console *c = arg;
	struct console_buffer *b = &c->out;

	for (;;) {
		if (b->start == b->end) {
			ssize_t n = c->closed ? -1 : read(c->from, b->data, sizeof(b->data));

			if (n <= 0) {
				c->closed |= !n || (errno != EAGAIN && errno != EINTR);
				break;
			}
			b->start = 0;
			b->end = (size_t)n;
		}
		b->start += character_write(c->place, b->data + b->start, b->end - b->start);
		if (b->start < b->end)
			break;
	}
	if (b->start < b->end || c->closed)
		sl_watch_del(&c->readable);
	else if (!c->readable.loop)
		sl_watch_add(c->loop, &c->readable, c->from, EPOLLIN);
}

static void pump_in(void *arg)
{
	struct console *c = arg;
	struct console_buffer *b = &c->in;

	for (;;) {
		ssize_t n;

		if (b->start == b->end) {
			b->start = 0;
			b->end = character_read(c->place, b->data, sizeof(b->data));
			if (!b->end)
				break;
		}
		n = write(c->to, b->data + b->start, b->end - b->start);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		b->start = n < 0 ? b->end : b->start + (size_t)n; /* the guest is gone: so is this */
	}
	if (b->start == b->end)
		sl_watch_del(&c->writable);
	else if (!c->writable.loop)
		sl_watch_add(c->loop, &c->writable, c->to, EPOLLOUT);
}

static void on_readable(void *arg, uint32_t events)
{
	(void)events;
	pump_out(arg);
}

static void on_writable(void *arg, uint32_t events)
{
	(void)events;
	pump_in(arg);
}

static const struct character_user user = {
	.input = pump_in,
	.room = pump_out,
};

int console_start(struct console *c, struct sl_loop *loop, struct character *place, int fd)
{
	*c = (struct console){.loop = loop, .place = place, .from = fd};
	c->to = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* epoll takes a descriptor once */
	c->readable = (struct sl_watch){.fn = on_readable, .arg = c};
	c->writable = (struct sl_watch){.fn = on_writable, .arg = c};
	if (c->to < 0 || fcntl(fd, F_SETFL, O_NONBLOCK)) {
		int ret = -errno;

		console_stop(c);
		return ret;
	}
	character_use(place, &user, c);
	pump_out(c);
	pump_in(c);
	return 0;
}

void console_restore(struct console *c)
{
	if (c->place)
		character_restore(c->place);
}

/* True when there is something to say and somebody to say it to, and no end to the patience. */
static bool has_last_words(struct console *c, uint64_t until)
{
	struct pollfd from = {.fd = c->from, .events = POLLIN};

	pump_out(c);
	return sl_now() < until && (c->out.start < c->out.end || (!c->closed && poll(&from, 1, 0) > 0));
}

void console_stop(struct console *c)
{
	uint64_t until = sl_now() + LAST_WORDS_MS * 1000000ULL;

	if (!c->place)
		return;
	while (c->to >= 0 && has_last_words(c, until))
		sl_loop_step(c->loop, 100);
	sl_watch_del(&c->readable);
	sl_watch_del(&c->writable);
	close(c->from);
	if (c->to >= 0)
		close(c->to);
	character_close(c->place);
	c->place = NULL;
}
