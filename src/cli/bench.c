/* SPDX-License-Identifier: MIT */
/* bench.c - `sluice bench`: one row a part */
#include <stdio.h>
#include <string.h>

#include "base/opts.h"
#include "cli/bench.h"
#include "cli/cmd.h"

static const struct part {
	const char *name, *help;
	int (*fn)(int argc, char **argv);
} parts[] = {
	{ "blk", "load a block device over vhost-user, or one of this process", bench_blk },
	{ "ring", "turn a ring between two threads: what it costs by itself", bench_ring },
};
#define NUM_PARTS (sizeof(parts) / sizeof(parts[0]))

static void help(FILE *out)
{
	fprintf(out, "usage: sluice bench PART [OPTION]...\n\n");
	for (unsigned int i = 0; i < NUM_PARTS; i++)
		fprintf(out, "  %-5s %s\n", parts[i].name, parts[i].help);
	fprintf(out, "\n`sluice bench PART --help` says more; so does the manual page sluice-bench(1).\n");
}

int cmd_bench(int argc, char **argv)
{
	const char *names[NUM_PARTS + 1] = { 0 };
	const char *near;

	if (argc < 2) {
		help(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		help(stdout);
		return 0;
	}
	for (unsigned int i = 0; i < NUM_PARTS; i++) {
		if (!strcmp(argv[1], parts[i].name))
			return parts[i].fn(argc - 1, argv + 1);
		names[i] = parts[i].name;
	}
	near = opt_nearest(argv[1], names);
	return near ? cmd_usage("bench", "%s: nothing of this name to measure; did you mean '%s'?", argv[1], near)
		    : cmd_usage("bench", "%s: nothing of this name to measure; `sluice bench --help` lists all",
				argv[1]);
}
