/* SPDX-License-Identifier: MIT */
/* stdio.c - standard input and output; a terminal is raw meanwhile, but for Ctrl-C, which ends the run
 *
 * Others may have the same descriptors open, and do not expect O_NONBLOCK on
 * them. So input is read only when epoll says that there is some, and output
 * is opened anew where that is possible.
 */
#include "character/character_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

/** struct stdio - @saved: the terminal as it was, when @raw */
struct stdio {
	struct character c;
	bool raw;
	struct termios saved;
};

static int open_output(void)
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

static void make_raw(struct stdio *s)
{
	struct termios raw;

	s->raw = tcgetattr(STDIN_FILENO, &s->saved) == 0;
	if (!s->raw)
		return;
	raw = s->saved;
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST;
	raw.c_lflag |= ISIG;
	raw.c_cc[VQUIT] = raw.c_cc[VSUSP] = _POSIX_VDISABLE; /* these keys are the guest's */
	set_terminal(&raw);
}

static struct character *stdio_open(struct sl_loop *loop, const char *where, const char *path, struct sl_err *err)
{
	struct stdio *s = (struct stdio *)character_new(sizeof(*s), loop, err);
	int in, out;

	(void)path;
	if (!s)
		return NULL;
	in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
	out = in < 0 ? -1 : open_output();
	if (out < 0) {
		sl_err_set(err, errno, "%s: %s", where, strerror(errno));
		if (in >= 0)
			close(in);
		free(s);
		return NULL;
	}
	character_connect(&s->c, in, out);
	make_raw(s);
	return &s->c;
}

static void stdio_restore(struct character *c)
{
	struct stdio *s = (struct stdio *)c;

	if (s->raw)
		set_terminal(&s->saved);
	s->raw = false;
}

const struct character_type character_stdio = {
	.name = "stdio",
	.keyboard = true,
	.form = {"stdio", "standard input and output, which may be a terminal"},
	.open = stdio_open,
	.restore = stdio_restore,
};
