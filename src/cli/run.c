/* SPDX-License-Identifier: MIT */
/* run.c - `sluice run`: boot a guest whose devices this process serves */
#include "cli/cmd.h"
#include "cli/control.h"

#include "base/opts.h"
#include "machine/machine.h"

#include <sluice/memory.h>

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help_text[] =
	"usage: sluice run --kernel FILE [OPTION]...\n\n"
	"  --kernel FILE  what to boot: a bzImage; with --engine kvm also an ELF with a PVH entry,\n"
	"                 with --engine uml a User-mode Linux program\n"
	"  --initrd FILE  the guest's initial file system\n"
	"  --append TEXT  more words for the kernel's command line\n"
	"  --memory SIZE[,hugepages=on]\n"
	"                 guest memory, a multiple of 1M [512M]; in pages of 2M from the kernel's pool\n"
	"  --console PLACE\n"
	"                 where the guest's serial console is: stdio, pty, file:PATH, unix:PATH or none [stdio]\n"
	"  --cpus N       guest CPUs [1]\n"
	"  --engine NAME  what runs the guest's instructions: auto, kvm, qemu, uml [auto]\n"
	"  --device SPEC  TYPE[,SOURCE][,KEY=VALUE]...; see `sluice devices`.\n"
	"                 TYPE,socket=PATH is a device that another process serves\n"
	"  --control PATH listen there for `sluice control` and `sluice top`\n\n"
	"  Ctrl-C on the terminal ends the run.\n\n"
	"  sluice run --kernel vmlinuz --initrd initrd.img --append root=/dev/vda --device blk,disk.img\n";

static const struct opt_def memory_defs[] = {
	{"hugepages", OPT_BOOL, offsetof(struct machine_options, hugepages), "off", .help = "in pages of 2 MiB"},
	{NULL},
};
static const struct opt_table memory_table = {"memory", memory_defs};

/* SIZE[,hugepages=on|off] */
static int parse_memory(const char *text, struct machine_options *o)
{
	static const struct opt_table *const tables[] = {&memory_table, NULL};
	struct sl_err err = {0};
	struct spec spec;
	int ret = 0;

	if (spec_parse(&spec, text, &err) || spec.source || opt_parse_size(spec.type, &o->memory) ||
	    o->memory % (1 << 20) || o->memory < MACHINE_MIN_MEMORY || o->memory > MACHINE_MAX_MEMORY ||
	    opts_apply(&memory_table, &spec, o, &err) || opts_finish(tables, &spec, &err))
		ret = cmd_usage("run", "--memory %s: wants a size from 16M to 1T, a multiple of 1M, perhaps with "
				",hugepages=on", text);
	spec_free(&spec);
	return ret;
}

static int parse_cpus(const char *text, unsigned int *out)
{
	uint64_t n;

	if (opt_parse_uint(text, &n) || !n || n > MACHINE_MAX_CPUS)
		return cmd_usage("run", "--cpus %s: wants a number from 1 to %u", text, MACHINE_MAX_CPUS);
	*out = (unsigned int)n;
	return 0;
}

/* 0, an exit status, or -1: --help was asked for. @devices has room for all of argv. */
static int parse(int argc, char **argv, struct machine_options *o, const char **devices, const char **control)
{
	static const struct option options[] = {{"kernel", required_argument, NULL, 'k'},
						{"initrd", required_argument, NULL, 'i'},
						{"append", required_argument, NULL, 'a'},
						{"memory", required_argument, NULL, 'm'},
						{"console", required_argument, NULL, 'o'},
						{"cpus", required_argument, NULL, 'c'},
						{"engine", required_argument, NULL, 'e'},
						{"device", required_argument, NULL, 'd'},
						{"control", required_argument, NULL, 'C'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	int answer, ret = 0;

	opterr = 0;
	while (!ret && (answer = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (answer) {
		case 'k':
			o->kernel = optarg;
			break;
		case 'i':
			o->initrd = optarg;
			break;
		case 'a':
			o->append = optarg;
			break;
		case 'm':
			ret = parse_memory(optarg, o);
			break;
		case 'o':
			o->console = optarg;
			break;
		case 'c':
			ret = parse_cpus(optarg, &o->cpus);
			break;
		case 'e':
			o->engine = optarg;
			break;
		case 'd':
			devices[o->num_devices++] = optarg;
			break;
		case 'C':
			*control = optarg;
			break;
		case 'h':
			return -1;
		default:
			return cmd_bad_option("run", argv, answer, options);
		}
	}
	if (ret)
		return ret;
	if (optind < argc)
		return cmd_usage("run", "'%s': unexpected; options start with --", argv[optind]);
	return o->kernel ? 0 : cmd_usage("run", "no kernel; add --kernel FILE");
}

/* ---- the control socket ---- */

/** struct observer - @socket at @path while the machine @m runs */
struct observer {
	const char *path;
	struct sl_loop *loop;
	struct machine *m;
	struct control *socket;
};

static bool control_device(void *arg, unsigned int n, struct device_view *v)
{
	return machine_device(((struct observer *)arg)->m, n, v);
}

static void control_quit(void *arg)
{
	machine_quit(((struct observer *)arg)->m);
}

static int machine_up(void *arg, struct machine *m, struct sl_err *err)
{
	struct observer *o = arg;
	const struct control_config cfg = {
		.path = o->path, .command = "run", .loop = o->loop,
		.device = control_device, .quit = control_quit, .arg = o,
	};

	o->m = m;
	o->socket = control_new(&cfg, err);
	return o->socket ? 0 : -errno;
}

static void machine_down(void *arg)
{
	control_free(((struct observer *)arg)->socket);
}

static int run(struct machine_options *o, const char *control)
{
	struct device_env env = {.control = sl_loop_new()};
	struct observer observer = {.path = control, .loop = env.control};
	const struct machine_observer hooks = {.up = machine_up, .down = machine_down, .arg = &observer};
	struct data_threads *threads = NULL;
	struct sl_err err = {0};
	int ret = device_check_ids(o->devices, o->num_devices, &err);

	if (control)
		o->observer = &hooks;
	if (!ret && (!env.control || sl_mem_guard()))
		ret = sl_err_set(&err, errno, "cannot start: %s", strerror(errno));
	if (!ret) {
		threads = data_threads_start(1, &err);
		ret = threads ? 0 : -ENOMEM;
	}
	if (!ret) {
		env.loops = data_threads_loops(threads, &env.num_loops);
		ret = machine_run(o, &env, &err);
	}
	if (ret < 0)
		ret = cmd_fail("run", &err, ret);
	data_threads_end(threads);
	if (env.control)
		sl_loop_free(env.control);
	return ret;
}

int cmd_run(int argc, char **argv)
{
	struct machine_options o = {.engine = "auto", .console = "stdio", .memory = 512ULL << 20, .cpus = 1};
	const char **devices = calloc((size_t)argc, sizeof(*devices)), *control = NULL;
	int ret;

	if (!devices)
		return EXIT_RUNTIME;
	o.devices = devices;
	ret = parse(argc, argv, &o, devices, &control);
	if (ret < 0)
		fputs(help_text, stdout);
	ret = ret < 0 ? 0 : ret ? ret : run(&o, control);
	free(devices);
	return ret;
}
