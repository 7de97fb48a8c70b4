/* SPDX-License-Identifier: MIT */
/* kvm_serial.c - between the console's socket and a serial port
 *
 * Where a person types, Ctrl-A is the escape key: Ctrl-A x ends the run, Ctrl-A p presses the
 * guest's power button, Ctrl-A twice sends one to the guest.
 */
#include "machine/kvm_serial.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define ESCAPE 1 /* Ctrl-A */

/* Take the commands out of what was typed. */
static void filter(struct serial *s, size_t n)
{
	s->in_start = s->in_end = 0;
	for (size_t i = 0; i < n; i++) {
		char c = s->in[i];

		if (s->keys && !s->escape && c == ESCAPE) {
			s->escape = true;
			continue;
		}
		if (s->escape && c == 'x')
			s->ops->end(s->arg);
		else if (s->escape && c == 'p')
			s->ops->button(s->arg);
		else
			s->in[s->in_end++] = c;
		s->escape = false;
	}
}

/* Until the port is full or there is nothing to read. */
static void receive(void *arg)
{
	struct serial *s = arg;

	for (;;) {
		ssize_t n;

		s->in_start += uart16550_give(s->uart, s->in + s->in_start, s->in_end - s->in_start);
		if (s->in_start < s->in_end || s->closed)
			break;
		n = read(s->fd, s->in, sizeof(s->in));
		if (n <= 0) {
			s->closed = !n || (errno != EAGAIN && errno != EINTR);
			break;
		}
		filter(s, (size_t)n);
	}
	if (s->in_start < s->in_end || s->closed)
		sl_watch_del(&s->readable);
	else if (!s->readable.loop)
		sl_watch_add(s->loop, &s->readable, s->fd, EPOLLIN);
}

static void on_readable(void *arg, uint32_t events)
{
	(void)events;
	receive(arg);
}

/* Until the port has no more or the socket is full. */
static void send_out(void *arg)
{
	struct serial *s = arg;

	for (;;) {
		ssize_t n;

		if (s->out_start == s->out_end) {
			s->out_start = 0;
			s->out_end = uart16550_take(s->uart, s->out, sizeof(s->out));
			if (!s->out_end)
				break;
		}
		n = write(s->out_fd, s->out + s->out_start, s->out_end - s->out_start);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		s->out_start = n < 0 ? s->out_end : s->out_start + (size_t)n; /* nobody there: the guest goes on */
	}
	if (s->out_start == s->out_end)
		sl_watch_del(&s->writable);
	else if (!s->writable.loop)
		sl_watch_add(s->loop, &s->writable, s->out_fd, EPOLLOUT);
}

static void on_writable(void *arg, uint32_t events)
{
	(void)events;
	send_out(arg);
}

int serial_start(struct serial *s, struct sl_loop *loop, struct uart16550 *uart, int fd, bool keys,
		 const struct serial_ops *ops, void *arg)
{
	int ret;

	*s = (struct serial){.loop = loop, .uart = uart, .ops = ops, .arg = arg, .keys = keys};
	s->readable = (struct sl_watch){.fn = on_readable, .arg = s};
	s->writable = (struct sl_watch){.fn = on_writable, .arg = s};
	s->send = (struct sl_task){.fn = send_out, .arg = s};
	s->receive = (struct sl_task){.fn = receive, .arg = s};
	s->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	s->out_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	ret = s->fd < 0 || s->out_fd < 0 || fcntl(s->fd, F_SETFL, O_NONBLOCK) ? -errno : 0;
	if (!ret)
		ret = sl_watch_add(loop, &s->readable, s->fd, EPOLLIN);
	return ret;
}

void serial_output(struct serial *s)
{
	sl_task_send(s->loop, &s->send);
}

void serial_room(struct serial *s)
{
	sl_task_send(s->loop, &s->receive);
}

void serial_stop(struct serial *s)
{
	if (!s->loop)
		return;
	while (s->send.queued || s->receive.queued) /* sent to the loop, which has stopped running */
		sl_loop_step(s->loop, 0);
	send_out(s);
	sl_watch_del(&s->readable);
	sl_watch_del(&s->writable);
	if (s->fd >= 0)
		close(s->fd);
	if (s->out_fd >= 0)
		close(s->out_fd);
	s->loop = NULL;
}
