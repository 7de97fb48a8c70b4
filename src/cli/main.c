/* SPDX-License-Identifier: MIT */
/* main.c - `sluice COMMAND ...`: one row a sub-command */
#include "cli/cmd.h"

#include "base/opts.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifndef SLUICE_VERSION
#define SLUICE_VERSION "unknown"
#endif

static const struct command {
	const char *name, *help;
	int (*fn)(int argc, char **argv);
} commands[] = {
	{"run", "boot a Linux guest whose devices are served here", cmd_run},
	{"serve", "serve devices to any VMM over vhost-user", cmd_serve},
	{"control", "ask or tell a running serve or run", cmd_control},
	{"top", "show what a running serve or run does, once a second", cmd_top},
	{"bench", "load a back-end, ours or not, and measure it", cmd_bench},
	{"devices", "device types, their sources, keys and defaults", cmd_devices},
};
#define NUM_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void help(FILE *out)
{
	fprintf(out, "usage: sluice COMMAND [OPTION]...\n\n");
	for (unsigned int i = 0; i < NUM_COMMANDS; i++)
		fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].help);
	fprintf(out, "\n`sluice COMMAND --help` says more; so does the manual page sluice(1).\n");
}

/*
 * A program that was started with a standard descriptor closed would give its
 * number to the next file: a disk image, say, that log lines then overwrite.
 * What takes the place can be neither read (0) nor written (1, 2), as before.
 */
static void fill_standard_descriptors(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

/* What was printed but did not arrive is a failure; a reader that wants no more (`| head`) needs no line about it. */
static int flush_output(int status)
{
	int err = fflush(stdout) ? errno : ferror(stdout) ? EIO : 0;

	if (!err || status)
		return status;
	if (err != EPIPE)
		fprintf(stderr, "sluice: standard output: write: %s\n", strerror(err));
	return EXIT_RUNTIME;
}

static int run_command(int argc, char **argv)
{
	const char *names[NUM_COMMANDS + 1] = {0};
	const char *near;

	if (argc < 2) {
		help(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		help(stdout);
		return 0;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("sluice %s\n", SLUICE_VERSION);
		return 0;
	}
	if (!strcmp(argv[1], BACKEND_NAME))
		return cmd_backend(argc - 1, argv + 1);
	for (unsigned int i = 0; i < NUM_COMMANDS; i++) {
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].fn(argc - 1, argv + 1);
		names[i] = commands[i].name;
	}
	near = opt_nearest(argv[1], names);
	if (near)
		fprintf(stderr, "sluice: %s: unknown command; did you mean '%s'?\n", argv[1], near);
	else
		fprintf(stderr, "sluice: %s: unknown command; `sluice --help` lists them\n", argv[1]);
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	const char *me = argc ? strrchr(argv[0], '/') : NULL;

	fill_standard_descriptors();
	/* A peer or a reader that goes away is an error code, not the end of the process. */
	signal(SIGPIPE, SIG_IGN);
	/* So is a file that has become as large as files may be here (ulimit -f): one request's, not everybody's. */
	signal(SIGXFSZ, SIG_IGN);
	me = me ? me + 1 : argc ? argv[0] : "";
	return flush_output(!strcmp(me, BACKEND_NAME) ? cmd_backend(argc, argv) : run_command(argc, argv));
}
