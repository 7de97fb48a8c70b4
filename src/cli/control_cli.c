/* SPDX-License-Identifier: MIT */
/* control_cli.c - `sluice control`: the control socket for people and scripts */
#include "cli/cmd.h"

#include "base/opts.h"
#include "cli/control.h"

#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE_MS 3000

static const char help_text[] =
	"usage: sluice control --control PATH COMMAND [--json]\n\n"
	"  status [DEVICE]       what is served, and its figures\n"
	"  resize DEVICE [SIZE]  make what is behind a device so large, and tell the guest; without SIZE as refresh\n"
	"  refresh [DEVICE]      look at the size again, of one device or of all, and tell the guest\n"
	"  quit                  end the process, as SIGTERM does\n\n"
	"  --control PATH        the socket of `sluice serve` or `sluice run` [$SLUICE_CONTROL]\n"
	"  --json                print the answer as it came\n\n"
	"  DEVICE is its id=, its number from 0, or its SPEC as it was typed.\n\n"
	"  sluice control --control ctl.sock resize root 20G\n";

/* ---- what people see ---- */

/* All figures but those that the line has shown, "NAME VALUE, NAME VALUE"; those that are 0 say nothing. */
static void print_figures(const json_t *object, const char *const *shown, const char *before)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)object, name, value) {
		bool skip = !json_is_integer(value) || !json_integer_value(value);

		for (const char *const *s = shown; *s && !skip; s++)
			skip = !strcmp(*s, name);
		if (skip)
			continue;
		printf("%s%s %lld", before, name, (long long)json_integer_value(value));
		before = ", ";
	}
}

static void print_queue(const json_t *queue)
{
	static const char *const shown[] = {"index", "in-flight", "requests", NULL};

	printf("    queue %lld: %s, %lld requests, %lld in flight",
	       (long long)json_integer_value(json_object_get(queue, "index")),
	       json_string_value(json_object_get(queue, "state")),
	       (long long)json_integer_value(json_object_get(queue, "requests")),
	       (long long)json_integer_value(json_object_get(queue, "in-flight")));
	print_figures(queue, shown, "; ");
	putchar('\n');
}

static void print_device(const json_t *device)
{
	static const char *const shown[] = {"size-bytes", "block-size-bytes", NULL};
	const char *id = json_string_value(json_object_get(device, "id"));
	const json_t *figures = json_object_get(device, "figures"), *queue;
	char size[16];
	size_t i;

	printf("%lld %s%s%s\n", (long long)json_integer_value(json_object_get(device, "number")), id ? id : "",
	       id ? ": " : "", json_string_value(json_object_get(device, "device")));
	if (json_is_true(json_object_get(device, "elsewhere"))) {
		printf("    another process serves it\n");
		return;
	}
	printf("    %s", json_is_true(json_object_get(device, "connected")) ? "in use" : "nobody uses it");
	if (control_number(figures, "size-bytes"))
		printf(", %llu bytes (%s)", (unsigned long long)control_number(figures, "size-bytes"),
		       control_human(size, (double)control_number(figures, "size-bytes"), 1024));
	print_figures(figures, shown, "; ");
	putchar('\n');
	json_array_foreach(json_object_get(device, "queues"), i, queue)
		print_queue(queue);
}

static void print_result(const json_t *result)
{
	const json_t *devices = json_object_get(result, "devices"), *device;
	size_t i;

	if (devices)
		printf("sluice %s, process %lld\n", json_string_value(json_object_get(result, "command")),
		       (long long)json_integer_value(json_object_get(result, "pid")));
	json_array_foreach(devices, i, device)
		print_device(device);
	if (control_number(result, "size-bytes"))
		printf("%llu bytes\n", (unsigned long long)control_number(result, "size-bytes"));
}

/* ---- the command line ---- */

static const struct command {
	const char *name, *form;
	int min, max;
} commands[] = {
	{"status", "status [DEVICE]", 0, 1},
	{"resize", "resize DEVICE [SIZE]", 1, 2},
	{"refresh", "refresh [DEVICE]", 0, 1},
	{"quit", "quit", 0, 0},
};
#define NUM_COMMANDS (sizeof(commands) / sizeof(commands[0]))

/* @argv: the command and its arguments. NULL: @status is said and to be the exit status. */
static json_t *make_request(int argc, char **argv, int *status)
{
	const char *names[NUM_COMMANDS + 1] = {0}, *near;
	const struct command *c = NULL;
	uint64_t size;
	json_t *request;

	for (unsigned int i = 0; i < NUM_COMMANDS; i++) {
		names[i] = commands[i].name;
		if (argc && !strcmp(argv[0], commands[i].name))
			c = &commands[i];
	}
	near = !c && argc ? opt_nearest(argv[0], names) : NULL;
	if (!c) {
		*status = !argc ? cmd_usage("control", "no command; status, resize, refresh or quit") :
			  near	? cmd_usage("control", "%s: unknown command; did you mean '%s'?", argv[0], near) :
				  cmd_usage("control", "%s: unknown command; see `sluice control --help`", argv[0]);
		return NULL;
	}
	if (argc - 1 < c->min || argc - 1 > c->max) {
		*status = cmd_usage("control", "%s: wants to be written %s", c->name, c->form);
		return NULL;
	}
	if (argc > 2 && (opt_parse_size(argv[2], &size) || !size || size > INT64_MAX)) {
		*status = cmd_usage("control", "%s: wants a size, such as 20G", argv[2]);
		return NULL;
	}
	request = json_pack("{s:s}", "command", c->name);
	if (argc > 1 && json_object_set_new(request, "device", json_string(argv[1]))) {
		json_decref(request);
		*status = cmd_usage("control", "%s: is no UTF-8", argv[1]);
		return NULL;
	}
	if (argc > 2)
		json_object_set_new(request, "size", json_integer((json_int_t)size));
	return request;
}

/* A resize takes its time, and a process may stand still: whoever waits is told for what. */
static void wait_for_answer(int fd, const char *path)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	if (!poll(&p, 1, PATIENCE_MS))
		fprintf(stderr, "sluice: control: %s: no answer yet; waiting, Ctrl-C ends it\n", path);
}

static int ask(const char *path, json_t *request, bool json)
{
	struct sl_err err = {0};
	json_t *result = NULL;
	int fd = control_connect(path, &err);

	if (fd < 0) {
		json_decref(request);
	} else if (!control_send(fd, path, request, &err)) {
		wait_for_answer(fd, path);
		result = control_receive(fd, path, &err);
	}
	if (fd >= 0)
		close(fd);
	if (!result) {
		fprintf(stderr, "sluice: control: %s\n", err.text);
		return EXIT_RUNTIME;
	}
	if (json) {
		json_dumpf(result, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		print_result(result);
	}
	json_decref(result);
	return 0;
}

int cmd_control(int argc, char **argv)
{
	static const struct option options[] = {{"control", required_argument, NULL, 'c'},
						{"json", no_argument, NULL, 'j'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	const char *path = NULL;
	bool json = false;
	json_t *request;
	int c, status = 0;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case 'c':
			path = optarg;
			break;
		case 'j':
			json = true;
			break;
		case 'h':
			fputs(help_text, stdout);
			return 0;
		default:
			return cmd_bad_option("control", argv, c, options);
		}
	}
	request = make_request(argc - optind, argv + optind, &status);
	if (!request)
		return status;
	path = control_path(path);
	if (path)
		return ask(path, request, json);
	json_decref(request);
	return cmd_usage("control", "which process? add --control PATH");
}
