/* SPDX-License-Identifier: MIT */
/* child.c - another program that never outlives this one
 *
 * Theory of Operation
 *
 * Between us and the program stands a guardian, a fork of this process that
 * holds nothing but one end of a socket pair. The program runs in a session of
 * the guardian's, out of reach of the terminal's signals. When our end of the
 * pair closes, because child_end() did it or because we were killed, the
 * guardian ends the program: SIGTERM first, then SIGKILL for its whole process
 * group. The latter matters for User-mode Linux, whose traced processes would
 * live on when only their tracer is killed.
 *
 *     sluice ---- life ----> guardian ---- pidfd ----> program [---> its processes]
 *
 * The guardian is forked from a process that may have threads, so it only uses
 * async-signal-safe functions.
 */
#include "machine/child.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_NO_PROGRAM 127

void child_arg(struct child_argv *a, const char *fmt, ...)
{
	char **v = realloc(a->v, (a->n + 2) * sizeof(*v)), *word;
	va_list ap;
	int ret;

	if (!v) {
		a->failed = 1;
		return;
	}
	a->v = v;
	va_start(ap, fmt);
	ret = vasprintf(&word, fmt, ap);
	va_end(ap);
	if (ret < 0) {
		a->failed = 1;
		word = NULL;
	} else {
		v[a->n++] = word;
	}
	v[a->n] = NULL;
}

void child_argv_free(struct child_argv *a)
{
	for (unsigned int i = 0; i < a->n; i++)
		free(a->v[i]);
	free(a->v);
	*a = (struct child_argv){0};
}

static int pidfd_of(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0); /* close-on-exec by definition */
}

/* Close every descriptor from 3 on but those in @keep. */
static void close_others(const int *keep, unsigned int n)
{
	unsigned int from = 3;

	for (;;) {
		unsigned int next = UINT32_MAX;

		for (unsigned int i = 0; i < n; i++)
			if ((unsigned int)keep[i] >= from && (unsigned int)keep[i] < next)
				next = (unsigned int)keep[i];
		if (next > from)
			close_range(from, next == UINT32_MAX ? next : next - 1, 0);
		if (next == UINT32_MAX)
			return;
		from = next + 1;
	}
}

static void default_signals(void)
{
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void program(const struct child_config *cfg, char *const *env, int life)
{
	default_signals();
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* for the case that somebody kills the guardian */
	close(life);
	for (unsigned int i = 0; i < cfg->num_fds; i++)
		fcntl(cfg->fds[i], F_SETFD, 0);
	execvpe(cfg->argv->v[0], cfg->argv->v, env);
	_exit(EXIT_NO_PROGRAM);
}

/* getdents64 instead of opendir, which allocates */
static void remove_dir(const char *path)
{
	alignas(struct dirent64) char buf[4096];
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long n;

	if (fd < 0)
		return;
	while ((n = syscall(SYS_getdents64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < n;) {
			const struct dirent64 *e = (const void *)(buf + at);

			unlinkat(fd, e->d_name, 0); /* fails for "." and "..", as it should */
			at += e->d_reclen;
		}
	close(fd);
	rmdir(path);
}

static _Noreturn void guardian(const struct child_config *cfg, char *const *env, int life)
{
	struct pollfd p[2] = {{.events = POLLIN}, {.fd = life, .events = POLLIN}};
	int keep[CHILD_MAX_FDS + 1], status = 0;
	pid_t pid;

	for (unsigned int i = 0; i < cfg->num_fds; i++)
		keep[i] = cfg->fds[i];
	keep[cfg->num_fds] = life;
	dup2(cfg->console, STDIN_FILENO);
	dup2(cfg->console, STDOUT_FILENO);
	close_others(keep, cfg->num_fds + 1);
	prctl(PR_SET_NAME, "sluice-guard");
	setsid();
	pid = fork();
	if (!pid)
		program(cfg, env, life);
	close_others(&life, 1);
	if (pid < 0)
		_exit(EXIT_NO_PROGRAM);
	setpgid(pid, pid); /* here too, lest it be killed by its group before it had the time */
	p[0].fd = pidfd_of(pid);
	while (poll(p, 2, -1) < 0 && errno == EINTR)
		;
	if (!p[0].revents) { /* the life line is cut */
		kill(pid, SIGTERM);
		poll(p, 1, CHILD_GRACE_MS);
	}
	/* The program, if it is still there, and what it would leave behind. Not yet waited for, its id is its own. */
	kill(-pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (cfg->rmdir)
		remove_dir(cfg->rmdir);
	_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status) & 127);
}

/* A copy of the environment with @add in front; the strings are shared. */
static char **extended_env(const char *add)
{
	size_t n = 0;
	char **env;

	while (environ[n])
		n++;
	env = calloc(n + 2, sizeof(*env));
	if (env) {
		memcpy(env + (add != NULL), environ, n * sizeof(*env));
		if (add)
			env[0] = (char *)(uintptr_t)add;
	}
	return env;
}

int child_start(struct child *c, const struct child_config *cfg, struct sl_err *err)
{
	char **env = extended_env(cfg->env);
	int life[2], ret = 0;

	*c = (struct child){.pidfd = -1, .life = -1};
	if (!env || cfg->argv->failed || cfg->num_fds > CHILD_MAX_FDS) {
		free(env);
		return sl_err_set(err, ENOMEM, "%s: cannot start: out of memory", cfg->argv->n ? cfg->argv->v[0] : "?");
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, life)) {
		ret = -errno;
		goto fail;
	}
	c->pid = fork();
	if (!c->pid)
		guardian(cfg, env, life[1]);
	if (c->pid < 0)
		ret = -errno;
	close(life[1]);
	c->life = life[0];
	if (!ret && (c->pidfd = pidfd_of(c->pid)) < 0) {
		ret = -errno;
		child_end(c);
		waitpid(c->pid, NULL, 0);
	}
	if (ret < 0 && c->life >= 0) {
		close(c->life);
		c->life = -1;
	}
fail:
	free(env);
	return ret ? sl_err_set(err, -ret, "%s: cannot start: %s", cfg->argv->v[0], strerror(-ret)) : 0;
}

void child_end(struct child *c)
{
	if (c->life >= 0)
		close(c->life);
	c->life = -1;
}

int child_wait(struct child *c)
{
	int status = 0;

	while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
		;
	close(c->pidfd);
	c->pidfd = -1;
	child_end(c);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
