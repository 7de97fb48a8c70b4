/* SPDX-License-Identifier: MIT */
/* top.c - `sluice top`: what the devices of a running process do now, once a second
 *
 * Asks the control socket for its counters and shows the differences. On a
 * terminal it takes the screen, without echo, and gives both back however it
 * ends; signals come by a descriptor, so that is at one place.
 */
#include "cli/cmd.h"

#include "cli/control.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#define SECOND_NS 1000000000ULL

static const char help_text[] =
	"usage: sluice top [--control PATH] [--once] [--json]\n\n"
	"  --control PATH  the socket of `sluice serve` or `sluice run` [$SLUICE_CONTROL]\n"
	"  --once          show one second and end; so it does where the output is no terminal\n"
	"  --json          the same as JSON, with each counter's rate\n\n"
	"  q or Ctrl-C ends it.\n";

/**
 * struct top
 * @fd:      the control socket
 * @signals: a descriptor
 * @screen:  taken
 * @keys:    standard input is a terminal, with @old to be given back
 * @last, @now: two answers of the process; @last may be NULL
 * @ended:   by the person
 */
struct top {
	const char *path;
	int fd, signals;
	bool screen, keys, ended;
	struct termios old;
	json_t *last, *now;
	struct sl_err err;
};

/* ---- the terminal ---- */

static void take_screen(struct top *t)
{
	struct termios raw;

	t->keys = !tcgetattr(STDIN_FILENO, &t->old);
	if (t->keys) {
		raw = t->old;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
	}
	fputs("\033[?1049h\033[?25l", stdout);
	fflush(stdout);
	t->screen = true;
}

static void give_screen(struct top *t)
{
	if (!t->screen)
		return;
	fputs("\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	if (t->keys)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &t->old);
	t->screen = t->keys = false;
}

static int take_signals(struct top *t)
{
	static const int all[] = {SIGINT, SIGTERM, SIGHUP, SIGTSTP};
	sigset_t set;

	sigemptyset(&set);
	for (unsigned int i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		sigaddset(&set, all[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	t->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return t->signals < 0 ? sl_err_set(&t->err, errno, "signals: %s", strerror(errno)) : 0;
}

static void on_signal(struct top *t)
{
	struct signalfd_siginfo info;

	if (read(t->signals, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo != SIGTSTP) {
		t->ended = true;
		return;
	}
	give_screen(t);
	raise(SIGSTOP);
	take_screen(t);
}

/* Wait until @fd is readable (-1: none), or the time has come, or the person has had enough. */
static bool wait_for(struct top *t, int fd, uint64_t until)
{
	while (!t->ended) {
		struct pollfd p[] = {{t->signals, POLLIN, 0}, {fd, POLLIN, 0}, {t->keys ? STDIN_FILENO : -1, POLLIN, 0}};
		uint64_t now = sl_now();
		char key;

		if (fd < 0 && now >= until)
			return true;
		if (poll(p, 3, fd >= 0 ? -1 : (int)((until - now) / 1000000) + 1) < 0 && errno != EINTR)
			return false;
		if (p[0].revents)
			on_signal(t);
		if (p[2].revents)
			t->ended |= read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q';
		if (p[1].revents)
			return !t->ended;
	}
	return false;
}

/* ---- figures ---- */

/* The next answer; 0, or -errno with t->err filled, or the person has ended it. */
static int ask(struct top *t)
{
	int ret = control_send(t->fd, t->path, json_pack("{s:s}", "command", "status"), &t->err);

	if (ret || !wait_for(t, t->fd, 0))
		return ret;
	json_decref(t->last);
	t->last = t->now;
	t->now = control_receive(t->fd, t->path, &t->err);
	return t->now ? 0 : -EIO;
}

static double seconds_between(const struct top *t)
{
	uint64_t a = control_number(t->last, "up-ms"), b = control_number(t->now, "up-ms");

	return b > a ? (double)(b - a) / 1000 : 1;
}

static json_t *device_at(const json_t *status, size_t i)
{
	return json_array_get(json_object_get(status, "devices"), i);
}

static json_t *queue_at(const json_t *device, size_t i)
{
	return json_array_get(json_object_get(device, "queues"), i);
}

static double rate(const json_t *last, const json_t *now, const char *name, double seconds)
{
	uint64_t a = control_number(last, name), b = control_number(now, name);

	return last && b > a ? (double)(b - a) / seconds : 0;
}

/* ---- the picture ---- */

enum { IOPS, READ, WRITE, FLUSH, ERRORS, KICKS, CALLS, IN_FLIGHT, NUM_COLUMNS };

static const struct column {
	const char *head, *figure;
	unsigned int base;
} columns[NUM_COLUMNS] = {
	[IOPS] = {"IO/s", "requests", 1000},
	[READ] = {"read/s", "read-bytes", 1024},
	[WRITE] = {"write/s", "write-bytes", 1024},
	[FLUSH] = {"flush/s", "flushes", 1000},
	[ERRORS] = {"error/s", "errors", 1000},
	[KICKS] = {"kick/s", "kicks", 1000},
	[CALLS] = {"call/s", "calls", 1000},
	[IN_FLIGHT] = {"in flight", "in-flight", 1000},
};

/* A line of the picture; what does not fit is cut off. */
struct paper {
	bool screen;
	unsigned int rows, width;
};

static void put_line(struct paper *p, const char *text)
{
	if (p->screen && !p->rows)
		return;
	printf("%.*s%s\n", p->screen ? (int)p->width : (int)strlen(text), text, p->screen ? "\033[K" : "");
	p->rows--;
}

static void put_row(struct paper *p, const char *name, const char *size, const double *values)
{
	char line[512], number[16];
	int n = snprintf(line, sizeof(line), "%-28.28s %7s", name, size);

	for (unsigned int i = 0; i < NUM_COLUMNS; i++)
		n += snprintf(line + n, sizeof(line) - (size_t)n, " %9s",
			      control_human(number, values[i], columns[i].base));
	put_line(p, line);
}

static void put_head(struct paper *p, const json_t *now)
{
	unsigned long long seconds = control_number(now, "up-ms") / 1000;
	const char *command = json_string_value(json_object_get(now, "command"));
	char line[512];
	int n;

	snprintf(line, sizeof(line), "sluice %.20s, process %llu, up %llu:%02llu:%02llu", command ? command : "",
		 (unsigned long long)control_number(now, "pid"), seconds / 3600, seconds / 60 % 60, seconds % 60);
	put_line(p, line);
	put_line(p, "");
	n = snprintf(line, sizeof(line), "%-28s %7s", "device", "size");
	for (unsigned int i = 0; i < NUM_COLUMNS; i++)
		n += snprintf(line + n, sizeof(line) - (size_t)n, " %9s", columns[i].head);
	put_line(p, line);
}

static void queue_values(const json_t *last, const json_t *now, double seconds, double *values)
{
	for (unsigned int i = 0; i < NUM_COLUMNS; i++)
		values[i] = i == IN_FLIGHT ? (double)control_number(now, columns[i].figure) :
					     rate(last, now, columns[i].figure, seconds);
}

static void put_device(struct paper *p, const json_t *last, const json_t *now, double seconds)
{
	const char *id = json_string_value(json_object_get(now, "id"));
	const char *text = json_string_value(json_object_get(now, "device"));
	size_t n = json_array_size(json_object_get(now, "queues"));
	double total[NUM_COLUMNS] = {0}, values[NUM_COLUMNS];
	char size[16], name[64];

	for (size_t q = 0; q < n; q++) {
		queue_values(queue_at(last, q), queue_at(now, q), seconds, values);
		for (unsigned int i = 0; i < NUM_COLUMNS; i++)
			total[i] += values[i];
	}
	control_human(size, (double)control_number(json_object_get(now, "figures"), "size-bytes"), 1024);
	put_row(p, id ? id : text ? text : "?", size, total);
	for (size_t q = 0; q < n; q++) {
		const char *state = json_string_value(json_object_get(queue_at(now, q), "state"));

		/* The only one adds nothing, but for a state in which it does nothing more. */
		if (n == 1 && state && strcmp(state, "broken") && strcmp(state, "stopping"))
			continue;
		snprintf(name, sizeof(name), "  queue %zu %.12s", q, state ? state : "");
		queue_values(queue_at(last, q), queue_at(now, q), seconds, values);
		put_row(p, name, "", values);
	}
}

static void show(struct top *t)
{
	struct paper p = {.screen = t->screen, .rows = 24, .width = 80};
	size_t n = json_array_size(json_object_get(t->now, "devices"));
	struct winsize size;

	if (t->screen && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) && size.ws_row && size.ws_col) {
		p.rows = size.ws_row;
		p.width = size.ws_col;
	}
	p.rows--; /* a line feed on the last one would scroll */
	if (t->screen)
		fputs("\033[H", stdout);
	put_head(&p, t->now);
	for (size_t i = 0; i < n; i++)
		put_device(&p, device_at(t->last, i), device_at(t->now, i), seconds_between(t));
	if (t->screen)
		fputs("\033[J", stdout);
	fflush(stdout);
}

/* Beside each counter of a queue its rate. */
static void show_json(struct top *t)
{
	size_t n = json_array_size(json_object_get(t->now, "devices"));
	double seconds = seconds_between(t);

	for (size_t d = 0; d < n; d++) {
		const json_t *last = device_at(t->last, d), *now = device_at(t->now, d);

		for (size_t q = 0; q < json_array_size(json_object_get(now, "queues")); q++) {
			json_t *queue = queue_at(now, q), *rates = json_object(), *value;
			const char *name;

			json_object_foreach(queue, name, value)
				if (json_is_integer(value) && strcmp(name, "index") && strcmp(name, "in-flight"))
					json_object_set_new(rates, name,
							    json_real(rate(queue_at(last, q), queue, name, seconds)));
			json_object_set_new(queue, "per-second", rates);
		}
	}
	json_dumpf(t->now, stdout, JSON_INDENT(2));
	putchar('\n');
}

/* ---- the command ---- */

static int once(struct top *t, bool json)
{
	int ret = ask(t);

	if (!ret && wait_for(t, -1, sl_now() + SECOND_NS))
		ret = ask(t);
	if (ret || t->ended)
		return ret;
	if (json)
		show_json(t);
	else
		show(t);
	return 0;
}

static int live(struct top *t)
{
	int ret = ask(t);

	if (ret)
		return ret;
	take_screen(t);
	do {
		uint64_t next = sl_now() + SECOND_NS;

		show(t);
		if (wait_for(t, -1, next))
			ret = ask(t);
	} while (!ret && !t->ended);
	give_screen(t);
	return ret;
}

static int top(const char *path, bool one, bool json)
{
	struct top t = {.path = path, .signals = -1};
	int ret;

	t.fd = control_connect(path, &t.err);
	ret = t.fd < 0 ? t.fd : take_signals(&t);
	if (!ret)
		ret = one || json || !isatty(STDOUT_FILENO) ? once(&t, json) : live(&t);
	json_decref(t.last);
	json_decref(t.now);
	if (t.fd >= 0)
		close(t.fd);
	if (t.signals >= 0)
		close(t.signals);
	if (ret)
		fprintf(stderr, "sluice: top: %s\n", t.err.text);
	return ret ? EXIT_RUNTIME : 0;
}

int cmd_top(int argc, char **argv)
{
	static const struct option options[] = {{"control", required_argument, NULL, 'c'},
						{"once", no_argument, NULL, 'o'},
						{"json", no_argument, NULL, 'j'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	const char *path = NULL;
	bool one = false, json = false;
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case 'c':
			path = optarg;
			break;
		case 'o':
			one = true;
			break;
		case 'j':
			json = true;
			break;
		case 'h':
			fputs(help_text, stdout);
			return 0;
		default:
			return cmd_bad_option("top", argv, c, options);
		}
	}
	if (optind < argc)
		return cmd_usage("top", "'%s': unexpected; options start with --", argv[optind]);
	path = control_path(path);
	return path ? top(path, one, json) : cmd_usage("top", "which process? add --control PATH");
}
