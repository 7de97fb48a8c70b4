/* SPDX-License-Identifier: MIT */
/* common.c - what sub-commands share: how they complain, and their data threads */
#include "cli/cmd.h"

#include "base/opts.h"
#include "base/thread.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- complaints ---- */

/* Errors that say something about this machine at this moment, not about the command line. */
static bool is_runtime(int ret)
{
	switch (-ret) {
	case EADDRINUSE:
	case EAGAIN:
	case EBUSY:
	case EIO:
	case EMFILE:
	case ENFILE:
	case ENOMEM:
	case ENOSPC:
	case ENOSYS:
	case EPERM:
		return true;
	}
	return false;
}

int cmd_fail(const char *cmd, const struct sl_err *err, int ret)
{
	fprintf(stderr, "sluice: %s: %s\n", cmd, err->text);
	return is_runtime(ret) ? EXIT_RUNTIME : EXIT_USAGE;
}

int cmd_usage(const char *cmd, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fprintf(stderr, "sluice: %s: %s\n", cmd, text);
	return EXIT_USAGE;
}

int cmd_bad_option(const char *cmd, char **argv, int answer, const struct option *options)
{
	const char *arg = argv[optind - 1], *near, *names[CMD_OPTIONS_MAX + 1] = {0};

	for (unsigned int i = 0; i < CMD_OPTIONS_MAX && options[i].name; i++)
		names[i] = options[i].name;
	if (answer == ':')
		return cmd_usage(cmd, "%s: needs a value", arg);
	near = strncmp(arg, "--", 2) ? NULL : opt_nearest(arg + 2, names);
	if (near)
		return cmd_usage(cmd, "%s: unknown option; did you mean '--%s'?", arg, near);
	return cmd_usage(cmd, "%s: unknown option; see `sluice %s --help`", arg, cmd);
}

/* ---- data threads ---- */

struct data_thread {
	pthread_t thread;
	struct sl_loop *loop;
	struct sl_task hello;
	sem_t running;
};

struct data_threads {
	unsigned int n;
	struct sl_loop *loops[DATA_THREADS_MAX];
	struct data_thread threads[];
};

static void say_running(void *arg)
{
	struct data_thread *t = arg;

	sem_post(&t->running);
}

static void *run(void *arg)
{
	struct data_thread *t = arg;

	sl_loop_run(t->loop);
	return NULL;
}

static int start_one(struct data_thread *t)
{
	int ret;

	t->loop = sl_loop_new();
	if (!t->loop)
		return errno;
	sem_init(&t->running, 0, 0);
	t->hello = (struct sl_task){.fn = say_running, .arg = t};
	ret = thread_start(&t->thread, run, t);
	if (ret) {
		sl_loop_free(t->loop);
		return -ret;
	}
	/* sl_loop_invoke() may be used from now on: the loop runs on its own thread. */
	sl_task_send(t->loop, &t->hello);
	while (sem_wait(&t->running) < 0)
		;
	return 0;
}

struct data_threads *data_threads_start(unsigned int n, struct sl_err *err)
{
	struct data_threads *t = calloc(1, sizeof(*t) + n * sizeof(t->threads[0]));

	if (!t) {
		sl_err_set(err, ENOMEM, "threads: out of memory");
		return NULL;
	}
	for (; t->n < n; t->n++) {
		int ret = start_one(&t->threads[t->n]);

		if (ret) {
			sl_err_set(err, ret, "threads: cannot start number %u: %s", t->n + 1, strerror(ret));
			data_threads_end(t);
			return NULL;
		}
		t->loops[t->n] = t->threads[t->n].loop;
	}
	return t;
}

struct sl_loop *const *data_threads_loops(const struct data_threads *t, unsigned int *n)
{
	*n = t->n;
	return t->loops;
}

void data_threads_end(struct data_threads *t)
{
	if (!t)
		return;
	for (unsigned int i = 0; i < t->n; i++) {
		sl_loop_quit(t->loops[i]);
		pthread_join(t->threads[i].thread, NULL);
		sl_loop_free(t->loops[i]);
		sem_destroy(&t->threads[i].running);
	}
	free(t);
}
