/* SPDX-License-Identifier: MIT */
/* child.h - another program that never outlives this one */
#ifndef MACHINE_CHILD_H
#define MACHINE_CHILD_H

#include <stddef.h>
#include <sys/types.h>

#include <sluice/error.h>

/**
 * struct child_argv - a command line that is being put together
 * @v:      NULL-terminated
 * @failed: memory ran out on the way
 */
struct child_argv {
	char **v;
	unsigned int n;
	int failed;
};

/** child_arg() - add one word */
void child_arg(struct child_argv *a, const char *fmt, ...) SL_PRINTF(2, 3);
void child_argv_free(struct child_argv *a);

#define CHILD_MAX_FDS 64

/**
 * struct child_config - what to start
 * @argv:    the program, found in PATH, and its arguments
 * @console: becomes standard input and output
 * @fds:     stay open in the program, at the same numbers; CHILD_MAX_FDS at most
 * @env:     "NAME=VALUE" to add to the environment, or NULL
 * @rmdir:   a directory to remove in the end with all the files in it, or NULL
 */
struct child_config {
	const struct child_argv *argv;
	int console;
	const int *fds;
	unsigned int num_fds;
	const char *env;
	const char *rmdir;
};

/**
 * struct child - a started program
 * @pid:   of its guardian
 * @pidfd: readable when it has ended, -1 when there is none
 * @life:  while this is open the program may live
 */
struct child {
	pid_t pid;
	int pidfd, life;
};

int child_start(struct child *c, const struct child_config *cfg, struct sl_err *err);
/** child_end() - ask it to go; it is killed when it does not within CHILD_GRACE_MS; pidfd tells */
void child_end(struct child *c);
/** child_wait() - wait for its end: 0 to 127 its exit status, 128 + n when signal n killed it */
int child_wait(struct child *c);

#define CHILD_GRACE_MS 3000

#endif
