/* SPDX-License-Identifier: MIT */
/* bench_ring_cli.c - `sluice bench ring`: what a ring costs by itself, in each format, one chain and many under way. */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/opts.h"
#include "cli/bench.h"
#include "cli/bench_ring.h"
#include "cli/cmd.h"

#define STREAM_DEPTH 32

static const char help_text[] =
	"usage: sluice bench ring [OPTION]...\n\n"
	"  --split | --packed  one ring format only [both]\n"
	"  --depth N           chains under way; 1 is the round trip of one [1, then 32]\n"
	"  --buffers N         pieces of a chain, 1 to 16 [1]\n"
	"  --queue-size N      entries of the ring [256]\n"
	"  --seconds N         how long, for each result [1]\n"
	"  --cpu N             driver on processor N, device on N + 1 [anywhere]\n"
	"  --json              results for a program to read\n\n"
	"Driver and device are two threads of this process that only turn the ring and never sleep.\n";

enum { O_SPLIT, O_PACKED, O_DEPTH, O_BUFFERS, O_QUEUE_SIZE, O_SECONDS, O_CPU, O_JSON, O_HELP, NUM_OPTIONS };

static const struct option options[NUM_OPTIONS + 1] = {
	[O_SPLIT] = { "split", no_argument, NULL, O_SPLIT },
	[O_PACKED] = { "packed", no_argument, NULL, O_PACKED },
	[O_DEPTH] = { "depth", required_argument, NULL, O_DEPTH },
	[O_BUFFERS] = { "buffers", required_argument, NULL, O_BUFFERS },
	[O_QUEUE_SIZE] = { "queue-size", required_argument, NULL, O_QUEUE_SIZE },
	[O_SECONDS] = { "seconds", required_argument, NULL, O_SECONDS },
	[O_CPU] = { "cpu", required_argument, NULL, O_CPU },
	[O_JSON] = { "json", no_argument, NULL, O_JSON },
	[O_HELP] = { "help", no_argument, NULL, O_HELP },
};

/** struct ring_plan - @depth 0: both; @split, @packed: which formats */
struct ring_plan {
	struct bench_ring_options o;
	unsigned int depth;
	bool split, packed, json;
};

static int number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	if (!opt_parse_uint(text, out) && *out >= min && *out <= max)
		return 0;
	return cmd_usage("bench", "--%s %s: wants a number from %llu to %llu", option, text, (unsigned long long)min,
			 (unsigned long long)max);
}

static int set_option(struct ring_plan *p, int c, const char *text)
{
	uint64_t v = 0;
	char *end;
	int ret = 0;

	switch (c) {
	case O_DEPTH:
		ret = number("depth", text, 1, 32768, &v);
		p->depth = (unsigned int)v;
		break;
	case O_BUFFERS:
		ret = number("buffers", text, 1, 16, &v);
		p->o.buffers = (unsigned int)v;
		break;
	case O_QUEUE_SIZE:
		ret = number("queue-size", text, 1, 32768, &v);
		p->o.num = (uint16_t)v;
		break;
	case O_CPU:
		ret = number("cpu", text, 0, (uint64_t)sysconf(_SC_NPROCESSORS_CONF) - 1, &v);
		p->o.cpu = (int)v;
		break;
	default: /* O_SECONDS */
		p->o.seconds = strtod(text, &end);
		if (end == text || *end || !(p->o.seconds > 0 && p->o.seconds <= 1e6))
			return cmd_usage("bench", "--seconds %s: wants a number above 0", text);
	}
	return ret;
}

/* Return: -1 to go on, or the exit status. */
static int parse(struct ring_plan *p, int argc, char **argv)
{
	int c, ret;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		switch (c) {
		case O_SPLIT:
			p->split = true;
			break;
		case O_PACKED:
			p->packed = true;
			break;
		case O_JSON:
			p->json = true;
			break;
		case O_HELP:
			fputs(help_text, stdout);
			return 0;
		case '?':
		case ':':
			return cmd_bad_option("bench", argv, c, options);
		default:
			ret = set_option(p, c, optarg);
			if (ret)
				return ret;
		}
	}
	if (optind < argc)
		return cmd_usage("bench", "'%s': unexpected; options start with --", argv[optind]);
	if (p->o.cpu >= 0 && p->o.cpu + 2 > sysconf(_SC_NPROCESSORS_CONF))
		return cmd_usage("bench", "--cpu %d: this machine has no processors %d to %d", p->o.cpu, p->o.cpu,
				 p->o.cpu + 1);
	if (!p->split && !p->packed)
		p->split = p->packed = true;
	return -1;
}

static int measure(struct ring_plan *p, bool packed, unsigned int depth, json_t *results, struct sl_err *err)
{
	struct bench_ring_result r;
	int ret;

	p->o.packed = packed;
	p->o.depth = depth;
	ret = bench_ring_run(&p->o, &r, err);
	if (ret)
		return ret;
	if (!p->json)
		printf("%-6s  depth %-3u  %u buffer%s  %8.1f ns a chain  %8.2f M chains/s\n",
		       packed ? "packed" : "split", depth, p->o.buffers, p->o.buffers == 1 ? " " : "s", r.ns,
		       1e3 / r.ns);
	fflush(stdout);
	return json_array_append_new(results, json_pack("{s:s, s:i, s:i, s:i, s:f, s:I}", "ring",
							packed ? "packed" : "split", "depth", (int)depth, "buffers",
							(int)p->o.buffers, "queue_size", (int)p->o.num, "ns", r.ns,
							"chains", (json_int_t)r.chains));
}

int bench_ring(int argc, char **argv)
{
	struct ring_plan p = { .o = { .num = 256, .buffers = 1, .seconds = 1, .cpu = -1 } };
	json_t *results;
	struct sl_err err = { 0 };
	int ret = parse(&p, argc, argv);

	if (ret >= 0)
		return ret;
	results = json_array();
	ret = 0;
	for (int packed = !p.split; packed <= p.packed && !ret; packed++) {
		ret = measure(&p, packed, p.depth ? p.depth : 1, results, &err);
		if (!ret && !p.depth)
			ret = measure(&p, packed, STREAM_DEPTH, results, &err);
	}
	if (ret) {
		cmd_fail("bench", &err, ret);
	} else if (p.json) {
		json_dumpf(results, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
		printf("\n");
	}
	json_decref(results);
	return ret == -EINVAL ? EXIT_USAGE : ret ? EXIT_RUNTIME : 0;
}
