/* SPDX-License-Identifier: MIT */
/* console.c - our standard input and output as a guest's console
 *
 * Two pipes of one buffer each, driven by the control loop, which they must
 * never block: a reader of our output that does not read only holds up the
 * guest's console. A terminal is switched to raw mode, but for Ctrl-C, which
 * ends the run.
 */
#include "machine/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define LAST_WORDS_MS 1000 /* how long console_stop() waits for a slow reader of our output */

/* Watch the side that can move the data on. They come and go, so that a hang-up cannot wake us for ever. */
static void pipe_rearm(struct console_pipe *p)
{
	bool full = p->start < p->end;

	if (full || p->closed)
		sl_watch_del(&p->from);
	else if (p->from_polled && !p->from.loop)
		sl_watch_add(p->loop, &p->from, p->from_fd, EPOLLIN);
	if (!full)
		sl_watch_del(&p->to);
	else if (p->to_polled && !p->to.loop)
		sl_watch_add(p->loop, &p->to, p->to_fd, EPOLLOUT);
}

static void pipe_pump(struct console_pipe *p, bool readable)
{
	ssize_t n;

	for (;;) {
		if (p->start == p->end) {
			if (!readable || p->closed)
				break;
			n = read(p->from_fd, p->data, sizeof(p->data));
			if (n <= 0) {
				p->closed = n == 0 || (errno != EAGAIN && errno != EINTR);
				break;
			}
			p->start = 0;
			p->end = (size_t)n;
			readable = !p->from_polled; /* or it might block the next time */
		}
		n = write(p->to_fd, p->data + p->start, p->end - p->start);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n < 0) /* nobody there: the guest goes on without a reader */
			p->start = p->end;
		else
			p->start += (size_t)n;
	}
	pipe_rearm(p);
}

static void pipe_readable(void *arg, uint32_t events)
{
	(void)events;
	pipe_pump(arg, true);
}

static void pipe_writable(void *arg, uint32_t events)
{
	struct console_pipe *p = arg;

	(void)events;
	pipe_pump(p, !p->from_polled);
}

/* epoll takes neither regular files nor /dev/null, which never block */
static bool can_poll(struct sl_loop *loop, int fd)
{
	struct sl_watch probe = {0};
	int ret = sl_watch_add(loop, &probe, fd, EPOLLIN);

	sl_watch_del(&probe);
	return ret == 0;
}

static void pipe_start(struct console_pipe *p, struct sl_loop *loop, int from, int to)
{
	*p = (struct console_pipe){.loop = loop, .from_fd = from, .to_fd = to};
	p->from.fn = pipe_readable;
	p->to.fn = pipe_writable;
	p->from.arg = p->to.arg = p;
	p->from_polled = can_poll(loop, from);
	p->to_polled = can_poll(loop, to);
	pipe_pump(p, !p->from_polled);
}

/*
 * Standard output is shared with other processes, which do not expect
 * O_NONBLOCK: terminals and pipes are opened anew to have our own flag.
 */
static int open_stdout(void)
{
	struct stat st;
	int fd = -1;

	if (!fstat(STDOUT_FILENO, &st) && (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)))
		fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd >= 0 ? fd : fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
}

/* From the background, too, without being stopped for it. */
static void set_terminal(const struct termios *t)
{
	void (*old)(int) = signal(SIGTTOU, SIG_IGN);

	tcsetattr(STDIN_FILENO, TCSADRAIN, t);
	signal(SIGTTOU, old);
}

static void make_raw(struct console *c)
{
	struct termios raw;

	c->is_tty = tcgetattr(STDIN_FILENO, &c->saved) == 0;
	if (!c->is_tty)
		return;
	raw = c->saved;
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST;
	raw.c_lflag |= ISIG;
	raw.c_cc[VQUIT] = raw.c_cc[VSUSP] = _POSIX_VDISABLE; /* these keys are the guest's */
	set_terminal(&raw);
}

int console_start(struct console *c, struct sl_loop *loop, int fd)
{
	int again = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* one descriptor for each direction: epoll takes it once */
	int out = open_stdout(), in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0), ret = -errno;

	if (again < 0 || out < 0 || in < 0) {
		int fds[] = {fd, again, out, in};

		for (unsigned int i = 0; i < 4; i++)
			if (fds[i] >= 0)
				close(fds[i]);
		return ret;
	}
	fcntl(fd, F_SETFL, O_NONBLOCK);
	make_raw(c);
	pipe_start(&c->out, loop, fd, out);
	pipe_start(&c->in, loop, in, again);
	return 0;
}

void console_restore(struct console *c)
{
	if (c->is_tty)
		set_terminal(&c->saved);
	c->is_tty = false;
}

static void pipe_stop(struct console_pipe *p)
{
	sl_watch_del(&p->from);
	sl_watch_del(&p->to);
	close(p->from_fd);
	close(p->to_fd);
}

void console_stop(struct console *c)
{
	struct console_pipe *p = &c->out;
	struct pollfd out = {.fd = p->to_fd, .events = POLLOUT};
	uint64_t until = sl_now() + LAST_WORDS_MS * 1000000ULL;

	for (;;) {
		pipe_pump(p, true);
		if (p->start == p->end && p->closed)
			break;
		if (sl_now() > until || (p->start == p->end && poll(&(struct pollfd){.fd = p->from_fd, .events = POLLIN}, 1, 0) < 1))
			break;
		if (p->start < p->end)
			poll(&out, 1, 100);
	}
	pipe_stop(&c->out);
	pipe_stop(&c->in);
	console_restore(c);
}
