/* SPDX-License-Identifier: MIT */
/* cmd.h - the sub-commands, and what they share.
 *
 * Each cmd_X() gets argv with its own name first and returns the exit status:
 * 0; 2 for what the person typed wrong; 1 for what failed at run time.
 */
#ifndef CLI_CMD_H
#define CLI_CMD_H

#include <getopt.h>

#include <sluice/error.h>
#include <sluice/loop.h>

#define EXIT_RUNTIME 1
#define EXIT_USAGE 2

int cmd_run(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_control(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_devices(int argc, char **argv);

/** cmd_backend() - the program by its other name */
#define BACKEND_NAME "vhost-user-blk"
int cmd_backend(int argc, char **argv);

/** cmd_fail() - print "sluice: CMD: TEXT" and give the exit status that belongs to @ret (-errno) */
int cmd_fail(const char *cmd, const struct sl_err *err, int ret);
/** cmd_usage() - print "sluice: CMD: ..." for a wrong command line and return EXIT_USAGE */
int cmd_usage(const char *cmd, const char *fmt, ...) SL_PRINTF(2, 3);
#define CMD_OPTIONS_MAX 31
/**
 * cmd_bad_option() - after getopt_long() answered '?' or ':' (opterr 0): say what is wrong with argv[optind - 1]
 * @options: as it was given them, CMD_OPTIONS_MAX at most: to name the nearest
 */
int cmd_bad_option(const char *cmd, char **argv, int answer, const struct option *options);

/**
 * struct data_threads - a few threads that each run a loop for queues
 *
 * The main thread keeps the control plane: sockets, configuration, signals.
 */
struct data_threads;
#define DATA_THREADS_MAX 256
/** data_threads_start() - @n loops, each on a thread of its own, all signals blocked; NULL with @err filled */
struct data_threads *data_threads_start(unsigned int n, struct sl_err *err);
/** data_threads_loops() - the loops, for struct device_env; *@n is their number */
struct sl_loop *const *data_threads_loops(const struct data_threads *t, unsigned int *n);
/** data_threads_end() - stop and join; no queue may be left on them; NULL allowed */
void data_threads_end(struct data_threads *t);

#endif
