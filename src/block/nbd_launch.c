/* SPDX-License-Identifier: MIT */
/* nbd_launch.c - start qemu-nbd or qemu-img, with a listening socket the way systemd hands one over.
 *
 * The kernel sends the child SIGTERM when the thread that started it is gone, also after kill -9.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/nbd.h"

#define SOCKET_FD 3 /* where systemd's protocol wants it */

extern char **environ;

/* In the child of a process with threads: no stdio, no malloc. */
static void write_number(char *to, unsigned int n)
{
	char digits[12];
	unsigned int i = 0;

	do
		digits[i++] = (char)('0' + n % 10);
	while (n /= 10);
	while (i)
		*to++ = digits[--i];
	*to = '\0';
}

/**
 * struct launch - made before fork(), used after it
 * @listening: -1: it gets no socket
 * @pid_text:  the part of @envp that only the child knows
 */
struct launch {
	char **argv, **envp;
	char pid_text[32];
	pid_t parent;
	int listening, said;
};

static _Noreturn void run_child(struct launch *l)
{
	sigset_t none;

	setpgid(0, 0); /* Ctrl-C is for us: we end it when our last request is done */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != l->parent)
		_exit(1);
	signal(SIGTERM, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(l->said, STDERR_FILENO) < 0 || (l->listening >= 0 && dup2(l->listening, SOCKET_FD) < 0))
		_exit(1);
	write_number(strchr(l->pid_text, '=') + 1, (unsigned int)getpid());
	execvpe(l->argv[0], l->argv, l->envp);
	_exit(NBD_NO_PROGRAM);
}

static char **environment(char *pid_text)
{
	static char fds[] = "LISTEN_FDS=1";
	size_t n = 0, to = 0;
	char **envp;

	while (environ[n])
		n++;
	envp = calloc(n + 3, sizeof(*envp));
	if (!envp)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (strncmp(environ[i], "LISTEN_", strlen("LISTEN_")) != 0)
			envp[to++] = environ[i];
	envp[to++] = fds;
	envp[to] = pid_text;
	return envp;
}

int nbd_launch_fd(int fd)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, SOCKET_FD + 1);

	close(fd);
	return high;
}

int nbd_launch(char **argv, int listening, pid_t *pid, int *pidfd, int *said)
{
	struct launch l = {.argv = argv, .parent = getpid(), .pid_text = "LISTEN_PID=", .listening = listening};
	int fds[2], ret = 0;

	l.envp = environment(l.pid_text);
	if (!l.envp)
		return -ENOMEM;
	if (pipe2(fds, O_CLOEXEC) < 0) {
		free(l.envp);
		return -errno;
	}
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	l.said = nbd_launch_fd(fds[1]);
	*pid = l.said < 0 ? -1 : fork();
	if (!*pid)
		run_child(&l);
	if (*pid < 0)
		ret = -errno;
	if (l.said >= 0)
		close(l.said);
	free(l.envp);
	*said = fds[0];
	*pidfd = *pid < 0 ? -1 : pidfd_open(*pid, 0);
	if (*pid > 0 && *pidfd < 0) {
		ret = -errno;
		kill(*pid, SIGKILL);
		waitpid(*pid, NULL, 0);
	}
	if (ret)
		close(*said);
	return ret;
}
