/* SPDX-License-Identifier: MIT */
/* backend.c - vhost-user-blk: this program under the name by which QEMU and libvirt start back-ends
 *
 * The conventions are those of QEMU's docs/interop/vhost-user.rst, "Backend
 * program conventions". What is asked for in their options becomes a device
 * of `sluice serve`.
 */
#include "cli/cmd.h"

#include "base/opts.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help_text[] =
	"usage: vhost-user-blk --socket-path=PATH|--fd=N --blk-file=PATH [--read-only]\n\n"
	"  --socket-path=PATH    listen there\n"
	"  --fd=N                use this inherited socket, listening or connected\n"
	"  --blk-file=PATH       the raw image or block device\n"
	"  --read-only           refuse every write\n"
	"  --print-capabilities  print what this program can do, as JSON\n\n"
	"  `sluice serve` can do more; see sluice-serve(1).\n";

/** struct request - what the options ask for */
struct request {
	const char *socket, *fd, *file;
	bool read_only;
};

static int print_capabilities(void)
{
	json_t *all = json_pack("{s:s, s:[s, s]}", "type", "block", "features", "read-only", "blk-file");

	json_dumpf(all, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(all);
	return 0;
}

/* A value as it stands in a device's text, with each comma twice. */
static void put_value(FILE *out, const char *value)
{
	for (; *value; value++) {
		if (*value == ',')
			putc(',', out);
		putc(*value, out);
	}
}

static int serve(const struct request *r)
{
	char serve_name[] = "serve", device[] = "--device", *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	int ret;

	if (!out)
		return cmd_fail(BACKEND_NAME, &(struct sl_err){.text = "out of memory"}, -ENOMEM);
	/* It is a path, whatever it looks like. */
	fputs(r->file[0] == '/' ? "blk," : "blk,./", out);
	put_value(out, r->file);
	fputs(r->read_only ? ",readonly=on," : ",", out);
	fputs(r->socket ? "socket=" : "fd=", out);
	put_value(out, r->socket ? r->socket : r->fd);
	ret = fclose(out);
	if (ret)
		ret = cmd_fail(BACKEND_NAME, &(struct sl_err){.text = "out of memory"}, -ENOMEM);
	else
		ret = cmd_serve(3, (char *[]){serve_name, device, text, NULL});
	free(text);
	return ret;
}

int cmd_backend(int argc, char **argv)
{
	static const struct option options[] = {{"socket-path", required_argument, NULL, 's'},
						{"fd", required_argument, NULL, 'f'},
						{"blk-file", required_argument, NULL, 'b'},
						{"read-only", no_argument, NULL, 'r'},
						{"print-capabilities", no_argument, NULL, 'p'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	struct request r = {0};
	uint64_t fd;
	int c;

	/* Whatever else is asked for. */
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--print-capabilities"))
			return print_capabilities();
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case 's':
			r.socket = optarg;
			break;
		case 'f':
			r.fd = optarg;
			break;
		case 'b':
			r.file = optarg;
			break;
		case 'r':
			r.read_only = true;
			break;
		case 'h':
			fputs(help_text, stdout);
			return 0;
		default:
			return cmd_bad_option(BACKEND_NAME, argv, c, options);
		}
	}
	if (optind < argc)
		return cmd_usage(BACKEND_NAME, "'%s': unexpected; options start with --", argv[optind]);
	if (!r.socket == !r.fd)
		return cmd_usage(BACKEND_NAME, "say where it is served with either --socket-path=PATH or --fd=N");
	if (r.fd && (opt_parse_uint(r.fd, &fd) || fd > INT32_MAX))
		return cmd_usage(BACKEND_NAME, "--fd=%s: wants the number of a descriptor", r.fd);
	if (!r.file)
		return cmd_usage(BACKEND_NAME, "no disk; add --blk-file=PATH");
	optind = 0; /* getopt_long() starts anew */
	return serve(&r);
}
