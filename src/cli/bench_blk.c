/* SPDX-License-Identifier: MIT */
/* bench_blk.c - `sluice bench blk`: load a virtio-blk device and say what it did.
 *
 * The main thread owns the link and a loop: signals, a tick, events of the
 * link and, with --device, the control plane of a device in this process. Each
 * queue has a thread of its own, see bench_load.c.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/opts.h"
#include "cli/bench.h"
#include "cli/bench_load.h"
#include "cli/cmd.h"
#include "devices/devices.h"

#define MS 1000000ull
#define SECOND 1000000000ull
#define TICK_MS 100
#define STUCK_S 10	   /* seconds without a completion: the device hangs */
#define MAX_QUEUES 256
#define MAX_DEPTH 8192
#define MAX_BLOCK_SIZE (16u << 20)
#define DEVICE_ADDRESS 0x100000000ull /* where the device finds our memory: unlike any address of ours */
#define ENTRIES_PER_REQUEST 3	      /* header, data, status */

static const char *const op_names[] = { "read", "write", "randread", "randwrite", "verify", NULL };

/**
 * struct bench - one run
 * @socket, @spec_text: where the device is; one of them
 * @ios, @private: memory of all queues
 * @before, @after: the back-end's processor time
 * @tick_done: requests at the last tick
 * @last_progress: when a request was last seen to finish
 * @shown:     when progress was last printed
 * @failure:   why the run ended early
 */
struct bench {
	const char *socket, *spec_text;
	struct bench_plan plan;
	double seconds;
	bool packed, json;
	pid_t pid;

	struct sl_loop *loop;
	struct spec spec;
	struct served_device *device;
	struct data_threads *threads;
	struct sl_link *link;
	struct sl_dma dma;
	struct vblk blk;
	struct vblk_queue *queues;
	struct bench_worker *workers;
	struct bench_io *ios;
	uint32_t *generations;
	char *private;

	struct sl_watch signals, events;
	struct sl_timer tick;
	unsigned int interrupts;
	uint64_t start, shown, tick_done, shown_done, last_progress;
	struct cpu_sample before, after;
	const char *failure;
};

static const char help_text[] =
	"usage: sluice bench blk --socket-path PATH | --device SPEC [OPTION]...\n\n"
	"  --socket-path PATH  a vhost-user-blk back-end that listens there\n"
	"  --device SPEC       a device in this process, see `sluice devices blk`\n"
	"  --op OP             read, write, randread, randwrite, verify [randread]\n"
	"  --bs SIZE           bytes of one request [4K]\n"
	"  --depth N           requests under way in each queue [32]\n"
	"  --queues N          queues, each with a thread of its own [1]\n"
	"  --seconds N         how long [5]\n"
	"  --poll | --interrupt  look for completions all the time, or sleep until called [--poll]\n"
	"  --split | --packed  ring format [--split]\n"
	"  --pid PID           the back-end's process: tell its CPU time per request\n"
	"  --cpu N             first queue's thread runs on processor N, the next on N + 1, ...\n"
	"  --json              results for a program to read\n\n"
	"write, randwrite and verify overwrite the device. verify writes blocks that say who they are,\n"
	"reads some of them meanwhile and all of them at the end, and counts those that differ.\n"
	"Ctrl-C ends early and tells what was measured.\n\n"
	"  sluice bench blk --socket-path /tmp/disk.sock --op randread --depth 32\n";

/* ---- the device ---- */

static int open_device(struct bench *b, struct sl_err *err)
{
	struct device_env env = { .control = b->loop };
	int ret = spec_parse(&b->spec, b->spec_text, err);

	if (ret)
		return ret;
	b->threads = data_threads_start(b->plan.queues, err);
	if (!b->threads)
		return -ENOMEM;
	env.loops = data_threads_loops(b->threads, &env.num_loops);
	b->device = device_open(&b->spec, &env, err);
	if (!b->device)
		return -EINVAL;
	b->link = sl_link_direct_open(b->device->dev, err);
	return b->link ? 0 : -ENOMEM;
}

static int open_link(struct bench *b, struct sl_err *err)
{
	struct sl_link_vhost_user_config cfg = { .path = b->socket };
	struct sl_features mask = { .w = { UINT64_MAX, UINT64_MAX } };
	int ret = 0;

	if (b->socket) {
		b->link = sl_link_vhost_user_open(&cfg, err);
		ret = b->link ? 0 : -EIO;
	} else {
		ret = open_device(b, err);
	}
	if (ret)
		return ret;
	/* In order, one slow request would hold up the rest: nobody who measures wants that unasked. */
	sl_features_clear(&mask, SL_F_IN_ORDER);
	if (!b->packed)
		sl_features_clear(&mask, SL_F_RING_PACKED);
	ret = vblk_open(&b->blk, b->link, &mask, err);
	if (!ret && b->packed && !sl_features_has(&b->blk.features, SL_F_RING_PACKED))
		ret = sl_err_set(err, ENOTSUP, "--packed: the device does not offer packed rings");
	return ret;
}

static const char *where(const struct bench *b)
{
	return b->socket ? b->socket : b->spec_text;
}

/* Does the request fit the device? */
static int check_plan(struct bench *b, struct sl_err *err)
{
	const struct vblk_info *info = &b->blk.info;
	struct bench_plan *p = &b->plan;
	int queues = b->link->ops->num_queues(b->link, err);

	if (queues < 0)
		return queues;
	if (queues > info->num_queues)
		queues = info->num_queues;
	if (p->queues > (unsigned int)queues)
		return sl_err_set(err, EINVAL, "--queues %u: %s has %d", p->queues, where(b), queues);
	if (p->block_size % info->block_size)
		return sl_err_set(err, EINVAL, "--bs %u: not a multiple of the device's block size %u", p->block_size,
				  info->block_size);
	if (info->size_max && p->block_size > info->size_max)
		return sl_err_set(err, EINVAL, "--bs %u: the device takes segments of up to %u bytes", p->block_size,
				  info->size_max);
	p->blocks = info->capacity / p->block_size;
	if (p->blocks < (uint64_t)p->depth * p->queues)
		return sl_err_set(err, EINVAL, "%s: %" PRIu64 " bytes are too small for %u requests of %u bytes",
				  where(b), info->capacity, p->depth * p->queues, p->block_size);
	if (info->read_only && p->op != BENCH_READ && p->op != BENCH_RANDREAD)
		return sl_err_set(err, EROFS, "--op %s: %s is read-only", op_names[p->op], where(b));
	return 0;
}

static uint16_t queue_size(const struct bench *b)
{
	uint16_t num = 16;

	while (num < b->plan.depth * ENTRIES_PER_REQUEST)
		num = (uint16_t)(num * 2);
	return num;
}

static int setup_queue(struct bench *b, unsigned int i, struct sl_err *err)
{
	struct bench_plan *p = &b->plan;
	struct bench_worker *w = &b->workers[i];
	uint16_t num = queue_size(b);
	uint64_t addr;
	void *ring = sl_dma_alloc(&b->dma, vblk_queue_shared_size(&b->blk, num), 4096, &addr);
	int ret;

	ret = vblk_queue_init(&b->queues[i], &b->blk, (uint16_t)i, num, ring, addr,
			      b->private + i * vblk_queue_private_size(num), err);
	if (ret)
		return ret;
	*w = (struct bench_worker){ .plan = p, .queue = &b->queues[i], .index = i, .ios = &b->ios[i * p->depth],
				    .generations = b->generations, .rng = 0x9e3779b97f4a7c15ull * (i + 1),
				    .next = p->blocks / p->queues * i };
	for (unsigned int k = 0; k < p->depth; k++) {
		struct bench_io *io = &w->ios[k];

		io->data = sl_dma_alloc(&b->dma, p->block_size, 4096, &io->buf.addr);
		io->buf.len = p->block_size;
		memset(io->data, (int)(k + 1), p->block_size);
	}
	return 0;
}

static int setup_queues(struct bench *b, struct sl_err *err)
{
	const struct bench_plan *p = &b->plan;
	uint16_t num = queue_size(b);
	uint64_t align = 4096, data = ((uint64_t)p->block_size + align - 1) & ~(align - 1), size;
	int ret;

	size = p->queues * (vblk_queue_shared_size(&b->blk, num) + align + p->depth * data);
	ret = sl_dma_open(&b->dma, DEVICE_ADDRESS, size, err);
	if (ret)
		return ret;
	b->queues = calloc(p->queues, sizeof(*b->queues));
	b->workers = calloc(p->queues, sizeof(*b->workers));
	b->ios = calloc((size_t)p->queues * p->depth, sizeof(*b->ios));
	b->private = aligned_alloc(64, (p->queues * vblk_queue_private_size(num) + 63) & ~(size_t)63);
	if (p->op == BENCH_VERIFY)
		b->generations = calloc(p->blocks, sizeof(*b->generations));
	if (!b->queues || !b->workers || !b->ios || !b->private || (p->op == BENCH_VERIFY && !b->generations))
		return sl_err_set(err, ENOMEM, "out of memory");
	for (unsigned int i = 0; i < p->queues && !ret; i++)
		ret = setup_queue(b, i, err);
	if (!ret)
		ret = b->link->ops->set_memory(b->link, &b->dma.region, 1, err);
	if (!ret)
		ret = vblk_start(&b->blk, b->queues, p->queues, err);
	for (unsigned int i = 0; i < p->queues && !ret; i++)
		b->workers[i].call_fd = b->link->ops->call_fd(b->link, i);
	return ret;
}

/* ---- while it runs ---- */

static void stop(struct bench *b)
{
	__atomic_store_n(&b->plan.stop, true, __ATOMIC_RELAXED);
}

static void give_up(struct bench *b, const char *why)
{
	if (!b->failure)
		b->failure = why;
	__atomic_store_n(&b->plan.abandon, true, __ATOMIC_RELAXED);
	stop(b);
}

static uint64_t total_done(const struct bench *b)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < b->plan.queues; i++)
		sum += __atomic_load_n(&b->workers[i].done, __ATOMIC_RELAXED);
	return sum;
}

static void show_progress(struct bench *b, uint64_t now)
{
	uint64_t done = b->tick_done;
	double rate;

	if (now - b->shown < SECOND || b->json || !isatty(STDERR_FILENO))
		return;
	rate = (double)(done - b->shown_done) * 1e9 / (double)(now - b->shown);
	fprintf(stderr, "\r%3.0f s  %10.0f IOPS  %8.1f MiB/s ", (double)(now - b->start) / 1e9, rate,
		rate * b->plan.block_size / (1 << 20));
	b->shown = now;
	b->shown_done = done;
}

static void on_tick(void *arg)
{
	struct bench *b = arg;
	uint64_t now = sl_now(), done = total_done(b);

	if (done != b->tick_done)
		b->last_progress = now;
	b->tick_done = done;
	if (now - b->last_progress > STUCK_S * SECOND)
		give_up(b, "the device has not finished a request for 10 seconds");
	if ((double)(now - b->start) >= b->seconds * 1e9)
		stop(b);
	show_progress(b, now);
	sl_timer_set(b->loop, &b->tick, TICK_MS * MS);
}

/* The first signal ends the measuring, the second one also the waiting for what is under way. */
static void on_signal(void *arg, uint32_t events)
{
	struct bench *b = arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(b->signals.fd, &info, sizeof(info)) != sizeof(info))
		return;
	stop(b);
	if (++b->interrupts > 1)
		give_up(b, "interrupted twice");
}

static void on_event(void *arg, uint32_t events)
{
	struct bench *b = arg;

	(void)events;
	if (!(b->link->ops->events(b->link) & SL_LINK_GONE))
		return;
	sl_watch_del(&b->events);
	give_up(b, "the back-end has gone");
}

static int watch(struct bench *b, struct sl_err *err)
{
	int fd = b->link->ops->event_fd ? b->link->ops->event_fd(b->link) : -1, ret;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	b->signals = (struct sl_watch){ .fn = on_signal, .arg = b };
	b->events = (struct sl_watch){ .fn = on_event, .arg = b };
	b->tick = (struct sl_timer){ .fn = on_tick, .arg = b };
	ret = sl_watch_add(b->loop, &b->signals, signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), EPOLLIN);
	if (!ret && fd >= 0)
		ret = sl_watch_add(b->loop, &b->events, fd, EPOLLIN);
	return ret ? sl_err_set(err, -ret, "event loop: %s", strerror(-ret)) : 0;
}

struct runner {
	pthread_t thread;
	bool ended; /* atomic */
	struct bench_worker *worker;
	struct sl_loop *loop;
	struct sl_task wake;
};

static void wake_main(void *arg)
{
	struct runner *r = arg;

	r->ended = true;
}

static void *run_worker(void *arg)
{
	struct runner *r = arg;

	bench_load_thread(r->worker);
	sl_task_send(r->loop, &r->wake);
	return NULL;
}

static int run(struct bench *b, struct sl_err *err)
{
	struct runner *runners = calloc(b->plan.queues, sizeof(*runners));
	unsigned int n, left;
	int ret = 0;

	if (!runners)
		return sl_err_set(err, ENOMEM, "out of memory");
	if (b->pid)
		cpu_sample(b->pid, &b->before);
	b->start = b->shown = b->last_progress = sl_now();
	sl_timer_set(b->loop, &b->tick, TICK_MS * MS);
	for (n = 0; n < b->plan.queues; n++) {
		struct runner *r = &runners[n];

		*r = (struct runner){ .worker = &b->workers[n],
				      .loop = b->loop,
				      .wake = { .fn = wake_main, .arg = r } };
		ret = pthread_create(&r->thread, NULL, run_worker, r);
		if (ret)
			break;
	}
	if (ret) {
		sl_err_set(err, ret, "thread %u: %s", n, strerror(ret));
		give_up(b, "cannot start all threads");
	}
	do {
		sl_loop_step(b->loop, -1);
		left = 0;
		for (unsigned int i = 0; i < n; i++)
			left += !runners[i].ended;
	} while (left);
	for (unsigned int i = 0; i < n; i++)
		pthread_join(runners[i].thread, NULL);
	if (b->pid)
		cpu_sample(b->pid, &b->after);
	sl_timer_clear(b->loop, &b->tick);
	free(runners);
	if (isatty(STDERR_FILENO) && !b->json && b->shown != b->start)
		fprintf(stderr, "\n");
	return -ret;
}

/* ---- results ---- */

/** struct bench_result - sums over all queues */
struct bench_result {
	struct histogram *latency;
	uint64_t done, errors, mismatches, kicks, calls;
	double seconds, iops;
	struct cpu_time front, back;
};

static int sum_up(const struct bench *b, struct bench_result *r)
{
	*r = (struct bench_result){ .latency = calloc(1, sizeof(*r->latency)) };
	if (!r->latency)
		return -ENOMEM;
	r->latency->min = UINT64_MAX;
	for (unsigned int i = 0; i < b->plan.queues; i++) {
		const struct bench_worker *w = &b->workers[i];
		uint64_t calls;

		histogram_merge(r->latency, &w->latency);
		r->done += w->done;
		r->errors += w->errors;
		r->mismatches += w->mismatches;
		r->kicks += w->queue->kicks;
		r->calls += w->calls;
		r->front.user += w->cpu.user;
		r->front.system += w->cpu.system;
		/* A poller never reads its calls. */
		if (read(w->call_fd, &calls, sizeof(calls)) == sizeof(calls))
			r->calls += calls;
		if (w->elapsed)
			r->iops += (double)w->measured * 1e9 / (double)w->elapsed;
		if ((double)w->elapsed / 1e9 > r->seconds)
			r->seconds = (double)w->elapsed / 1e9;
	}
	r->back = cpu_between(&b->before, &b->after);
	if (!r->latency->count)
		r->latency->min = 0;
	return 0;
}

static double per_io(const struct bench_result *r, uint64_t n)
{
	return r->done ? (double)n / (double)r->done : 0;
}

static void print_cpu(const char *who, const struct bench_result *r, const struct cpu_time *t)
{
	printf("  %s %.3f us (user %.3f, system %.3f)", who, per_io(r, t->user + t->system) / 1e3,
	       per_io(r, t->user) / 1e3, per_io(r, t->system) / 1e3);
}

static void print_text(const struct bench *b, const struct bench_result *r)
{
	const struct bench_plan *p = &b->plan;
	const struct histogram *h = r->latency;

	printf("%s: %s, %u bytes, depth %u, %u queue%s, %s, %s ring, %.2f s\n", where(b), op_names[p->op],
	       p->block_size, p->depth, p->queues, p->queues == 1 ? "" : "s", p->interrupt ? "interrupt" : "poll",
	       b->packed ? "packed" : "split", r->seconds);
	printf("  IOPS      %.0f\n", r->iops);
	printf("  bandwidth %.1f MiB/s\n", r->iops * p->block_size / (1 << 20));
	printf("  latency   min %.2f  p50 %.2f  p90 %.2f  p99 %.2f  p99.9 %.2f  max %.2f us\n", (double)h->min / 1e3,
	       (double)histogram_at(h, 50) / 1e3, (double)histogram_at(h, 90) / 1e3, (double)histogram_at(h, 99) / 1e3,
	       (double)histogram_at(h, 99.9) / 1e3, (double)h->max / 1e3);
	printf("  per I/O   kicks %.4f  calls %.4f\n", per_io(r, r->kicks), per_io(r, r->calls));
	printf("  CPU/IO  ");
	print_cpu("front-end", r, &r->front);
	if (b->pid)
		print_cpu(" back-end", r, &r->back);
	printf("\n");
	if (p->op == BENCH_VERIFY)
		printf("  verify    %" PRIu64 " requests, %" PRIu64 " differences\n", r->done, r->mismatches);
	if (r->errors)
		printf("  errors    %" PRIu64 "\n", r->errors);
}

static json_t *json_cpu(const struct bench_result *r, const struct cpu_time *t)
{
	return json_pack("{s:f, s:f, s:f}", "total", per_io(r, t->user + t->system), "user", per_io(r, t->user),
			 "system", per_io(r, t->system));
}

static void print_json(const struct bench *b, const struct bench_result *r)
{
	const struct bench_plan *p = &b->plan;
	const struct histogram *h = r->latency;
	json_t *latency = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "min", (json_int_t)h->min, "p50",
				    (json_int_t)histogram_at(h, 50), "p90", (json_int_t)histogram_at(h, 90), "p99",
				    (json_int_t)histogram_at(h, 99), "p99.9", (json_int_t)histogram_at(h, 99.9), "max",
				    (json_int_t)h->max, "mean", h->count ? (double)h->sum / (double)h->count : 0.0);
	json_t *device = json_string(where(b)); /* NULL: no UTF-8 */
	json_t *root = json_pack(
		"{s:o, s:s, s:i, s:i, s:i, s:s, s:s, s:f, s:I, s:I, s:I, s:f, s:f, s:o, s:f, s:f, s:o}", "device",
		device ? device : json_string("?"), "op", op_names[p->op], "block_size", (int)p->block_size, "depth",
		(int)p->depth, "queues", (int)p->queues, "completions", p->interrupt ? "interrupt" : "poll", "ring",
		b->packed ? "packed" : "split", "seconds", r->seconds, "requests", (json_int_t)r->done, "errors",
		(json_int_t)r->errors, "differences", (json_int_t)r->mismatches, "iops", r->iops, "bytes_per_second",
		r->iops * p->block_size, "latency_ns", latency, "kicks_per_io", per_io(r, r->kicks), "calls_per_io",
		per_io(r, r->calls), "frontend_cpu_ns_per_io", json_cpu(r, &r->front));

	if (b->pid)
		json_object_set_new(root, "backend_cpu_ns_per_io", json_cpu(r, &r->back));
	json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	printf("\n");
	json_decref(root);
}

static int report(struct bench *b)
{
	struct bench_result r;
	int status = 0;

	for (unsigned int i = 0; i < b->plan.queues && !b->failure; i++)
		b->failure = b->workers[i].failure;
	if (sum_up(b, &r))
		return EXIT_RUNTIME;
	if (b->json)
		print_json(b, &r);
	else
		print_text(b, &r);
	fflush(stdout);
	if (b->failure)
		status = cmd_usage("bench", "%s: %s", where(b), b->failure);
	else if (r.errors || r.mismatches)
		status = cmd_usage("bench", "%s: %" PRIu64 " requests failed, %" PRIu64 " blocks differ", where(b),
				   r.errors, r.mismatches);
	free(r.latency);
	return status ? EXIT_RUNTIME : 0;
}

/* ---- putting it together ---- */

static void clean_up(struct bench *b, bool started)
{
	if (started && !b->failure)
		vblk_stop(&b->blk, b->queues, b->plan.queues, NULL);
	sl_watch_del(&b->events);
	if (b->link)
		b->link->ops->close(b->link);
	device_close(b->device);
	if (b->spec_text)
		spec_free(&b->spec);
	data_threads_end(b->threads);
	sl_dma_close(&b->dma);
	if (b->signals.loop) {
		sl_watch_del(&b->signals);
		close(b->signals.fd);
	}
	sl_loop_free(b->loop);
	free(b->queues);
	free(b->workers);
	free(b->ios);
	free(b->generations);
	free(b->private);
}

static int run_bench(struct bench *b)
{
	struct sl_err err = { 0 };
	bool started = false;
	int ret = 0, status;

	b->dma.region.fd = -1;
	b->loop = sl_loop_new();
	if (!b->loop)
		ret = sl_err_set(&err, errno, "event loop: %s", strerror(errno));
	if (!ret)
		ret = open_link(b, &err);
	if (!ret)
		ret = check_plan(b, &err);
	if (!ret)
		ret = setup_queues(b, &err);
	started = !ret;
	if (!ret)
		ret = watch(b, &err);
	if (!ret)
		ret = run(b, &err);
	if (ret) {
		cmd_fail("bench", &err, ret);
		status = ret == -EINVAL || ret == -ENOTSUP || ret == -EROFS ? EXIT_USAGE : EXIT_RUNTIME;
	} else {
		status = report(b);
	}
	clean_up(b, started);
	return status;
}

/* ---- the command line ---- */

/* clang-format off */
enum {
	O_SOCKET, O_DEVICE, O_OP, O_BS, O_DEPTH, O_QUEUES, O_SECONDS, O_POLL, O_INTERRUPT, O_SPLIT, O_PACKED, O_JSON,
	O_PID, O_CPU, O_HELP, NUM_OPTIONS
};
/* clang-format on */

static const struct option options[NUM_OPTIONS + 1] = {
	[O_SOCKET] = { "socket-path", required_argument, NULL, O_SOCKET },
	[O_DEVICE] = { "device", required_argument, NULL, O_DEVICE },
	[O_OP] = { "op", required_argument, NULL, O_OP },
	[O_BS] = { "bs", required_argument, NULL, O_BS },
	[O_DEPTH] = { "depth", required_argument, NULL, O_DEPTH },
	[O_QUEUES] = { "queues", required_argument, NULL, O_QUEUES },
	[O_SECONDS] = { "seconds", required_argument, NULL, O_SECONDS },
	[O_POLL] = { "poll", no_argument, NULL, O_POLL },
	[O_INTERRUPT] = { "interrupt", no_argument, NULL, O_INTERRUPT },
	[O_SPLIT] = { "split", no_argument, NULL, O_SPLIT },
	[O_PACKED] = { "packed", no_argument, NULL, O_PACKED },
	[O_JSON] = { "json", no_argument, NULL, O_JSON },
	[O_PID] = { "pid", required_argument, NULL, O_PID },
	[O_CPU] = { "cpu", required_argument, NULL, O_CPU },
	[O_HELP] = { "help", no_argument, NULL, O_HELP },
};

static bool number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	return !opt_parse_uint(text, out) && *out >= min && *out <= max;
}

static int set_op(struct bench *b, const char *text)
{
	const char *near;

	for (unsigned int i = 0; op_names[i]; i++) {
		if (!strcmp(text, op_names[i])) {
			b->plan.op = (enum bench_op)i;
			return 0;
		}
	}
	near = opt_nearest(text, op_names);
	return near ? cmd_usage("bench", "--op %s: unknown; did you mean '%s'?", text, near)
		    : cmd_usage("bench", "--op %s: wants read, write, randread, randwrite or verify", text);
}

static int set_seconds(struct bench *b, const char *text)
{
	char *end;

	b->seconds = strtod(text, &end);
	if (end == text || *end || !(b->seconds > 0 && b->seconds <= 1e6))
		return cmd_usage("bench", "--seconds %s: wants a number above 0", text);
	return 0;
}

/* An option with a value. */
static int set_option(struct bench *b, int c, const char *text)
{
	uint64_t v = 0;

	switch (c) {
	case O_SOCKET:
		b->socket = text;
		return 0;
	case O_DEVICE:
		b->spec_text = text;
		return 0;
	case O_OP:
		return set_op(b, text);
	case O_BS:
		if (opt_parse_size(text, &v) || !v || v % VBLK_SECTOR || v > MAX_BLOCK_SIZE)
			return cmd_usage("bench", "--bs %s: wants a multiple of 512 up to 16M", text);
		b->plan.block_size = (uint32_t)v;
		return 0;
	case O_DEPTH:
		if (!number(text, 1, MAX_DEPTH, &v))
			return cmd_usage("bench", "--depth %s: wants a number from 1 to %u", text, MAX_DEPTH);
		b->plan.depth = (unsigned int)v;
		return 0;
	case O_QUEUES:
		if (!number(text, 1, MAX_QUEUES, &v))
			return cmd_usage("bench", "--queues %s: wants a number from 1 to %u", text, MAX_QUEUES);
		b->plan.queues = (unsigned int)v;
		return 0;
	case O_SECONDS:
		return set_seconds(b, text);
	case O_PID:
		if (!number(text, 1, INT32_MAX, &v) || cpu_sample((pid_t)v, &b->before))
			return cmd_usage("bench", "--pid %s: no process of this number", text);
		b->pid = (pid_t)v;
		return 0;
	default: /* O_CPU */
		if (!number(text, 0, CPU_SETSIZE - 1, &v))
			return cmd_usage("bench", "--cpu %s: wants the number of a processor", text);
		b->plan.cpu = (int)v;
		return 0;
	}
}

/* Return: -1 to go on, or the exit status. */
static int parse(struct bench *b, int argc, char **argv)
{
	int c, ret;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		switch (c) {
		case O_POLL:
		case O_INTERRUPT:
			b->plan.interrupt = c == O_INTERRUPT;
			break;
		case O_SPLIT:
		case O_PACKED:
			b->packed = c == O_PACKED;
			break;
		case O_JSON:
			b->json = true;
			break;
		case O_HELP:
			fputs(help_text, stdout);
			return 0;
		case '?':
		case ':':
			return cmd_bad_option("bench", argv, c, options);
		default:
			ret = set_option(b, c, optarg);
			if (ret)
				return ret;
		}
	}
	if (optind < argc)
		return cmd_usage("bench", "'%s': unexpected; options start with --", argv[optind]);
	if (!b->socket == !b->spec_text)
		return cmd_usage("bench", "blk: say what to load with either --socket-path PATH or --device SPEC");
	if (b->plan.cpu >= 0 && b->plan.cpu + (long)b->plan.queues > sysconf(_SC_NPROCESSORS_CONF))
		return cmd_usage("bench", "--cpu %d: this machine has no processors %d to %d", b->plan.cpu, b->plan.cpu,
				 b->plan.cpu + (int)b->plan.queues - 1);
	return -1;
}

int bench_blk(int argc, char **argv)
{
	struct bench b = { .plan = { .op = BENCH_RANDREAD, .block_size = 4096, .depth = 32, .queues = 1, .cpu = -1 },
			   .seconds = 5 };
	int ret = parse(&b, argc, argv);

	return ret >= 0 ? ret : run_bench(&b);
}
