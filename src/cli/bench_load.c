/* SPDX-License-Identifier: MIT */
/* bench_load.c - the load that one thread of `sluice bench blk` puts on one queue.
 *
 * The clock is read once for each batch of completions: that moment ends them
 * and starts what is issued in their place. A latency so begins where the
 * request is prepared and ends where its completion is found, both by the same
 * clock; what the thread itself needs for a batch is part of it.
 */
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sluice/loop.h>

#include "cli/bench_load.h"
#include "cli/pattern.h"

#define UNSURE	 0x80000000u /* a write of this generation failed: nobody knows what the block holds */
#define SLEEP_MS 100 /* how often a sleeping thread looks whether it is to stop */

static bool stopped(const struct bench_worker *w)
{
	return __atomic_load_n(&w->plan->stop, __ATOMIC_RELAXED);
}

static bool abandoned(const struct bench_worker *w)
{
	return __atomic_load_n(&w->plan->abandon, __ATOMIC_RELAXED);
}

static void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* xorshift64*, scaled to 0 .. n - 1 */
static uint64_t random_below(struct bench_worker *w, uint64_t n)
{
	uint64_t x = w->rng;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	w->rng = x;
	return (uint64_t)((unsigned __int128)(x * 0x2545f4914f6cdd1dull) * n >> 64);
}

static uint64_t next_block(struct bench_worker *w)
{
	const struct bench_plan *p = w->plan;

	if (p->op == BENCH_RANDREAD || p->op == BENCH_RANDWRITE)
		return random_below(w, p->blocks);
	if (w->next >= p->blocks)
		w->next = 0;
	return w->next++;
}

/* Offer @io; the queue has room for all of them. */
static void offer(struct bench_worker *w, struct bench_io *io, uint64_t now)
{
	uint64_t sector = io->block * (w->plan->block_size / VBLK_SECTOR);

	io->start = now;
	if (io->writing)
		vblk_write(w->queue, sector, &io->buf, 1, io);
	else
		vblk_read(w->queue, sector, &io->buf, 1, io);
}

static void issue(struct bench_worker *w, struct bench_io *io, uint64_t now)
{
	io->block = next_block(w);
	offer(w, io, now);
}

/* Nothing has finished: let time pass, or sleep until the device calls. */
static void idle(struct bench_worker *w)
{
	struct pollfd p = { .fd = w->call_fd, .events = POLLIN };
	uint64_t calls;

	w->failure = vblk_broken(w->queue);
	if (!w->plan->interrupt) {
		cpu_relax();
		return;
	}
	if (vblk_rearm(w->queue))
		return;
	if (poll(&p, 1, SLEEP_MS) > 0 && read(w->call_fd, &calls, sizeof(calls)) == sizeof(calls))
		w->calls += calls;
	vblk_disarm(w->queue);
}

static void account(struct bench_worker *w, struct bench_io *io, int result, uint64_t now)
{
	histogram_add(&w->latency, now - io->start);
	io->failed = result != 0;
	w->errors += io->failed;
}

/* What happens to a finished request: checked, issued again, or not. */
typedef void (*again_fn)(struct bench_worker *w, struct bench_io *io, uint64_t now);

static void no_more(struct bench_worker *w, struct bench_io *io, uint64_t now)
{
	(void)w;
	(void)io;
	(void)now;
}

/* Take what is finished and do @again with it. Inlined, so that @again is no call. Return: how many. */
static inline __attribute__((always_inline)) unsigned int harvest(struct bench_worker *w, again_fn again)
{
	struct bench_io *io;
	unsigned int n = 0;
	uint64_t now = 0;
	int result;

	while ((io = vblk_poll(w->queue, &result))) {
		if (!n++)
			now = sl_now();
		account(w, io, result, now);
		again(w, io, now);
		if (n == w->plan->depth)
			break; /* a device that answers as fast as we ask shall not keep us from looking at @stop */
	}
	if (n) {
		vblk_commit(w->queue);
		__atomic_store_n(&w->done, w->done + n, __ATOMIC_RELAXED);
	}
	return n;
}

/* Turn until there is nothing under way and @again issues no more. */
static void drain(struct bench_worker *w, again_fn again)
{
	while (vblk_outstanding(w->queue) && !w->failure && !abandoned(w))
		if (!harvest(w, again))
			idle(w);
}

static void run_until_stop(struct bench_worker *w, again_fn again, uint64_t start)
{
	vblk_commit(w->queue);
	while (!stopped(w) && !w->failure)
		if (!harvest(w, again))
			idle(w);
	w->elapsed = sl_now() - start;
	w->measured = w->done;
}

static void load(struct bench_worker *w)
{
	uint64_t start = sl_now();

	for (unsigned int i = 0; i < w->plan->depth; i++) {
		w->ios[i].writing = w->plan->op == BENCH_WRITE || w->plan->op == BENCH_RANDWRITE;
		issue(w, &w->ios[i], start);
	}
	run_until_stop(w, issue, start);
	drain(w, no_more);
}

/* ---- verify ---- */

/*
 * Request i of this queue keeps to the blocks that are i modulo the number of
 * all requests of all queues, so that no two requests for one block are ever
 * under way together and the last write is known.
 */
static uint64_t stride(const struct bench_worker *w)
{
	return (uint64_t)w->plan->depth * w->plan->queues;
}

static uint64_t lane(const struct bench_worker *w, const struct bench_io *io)
{
	return (uint64_t)w->index * w->plan->depth + (uint64_t)(io - w->ios);
}

/* Does it hold what its generation says? */
static bool is_known(const struct bench_worker *w, uint64_t block)
{
	return w->generations[block] && !(w->generations[block] & UNSURE);
}

/* A request that failed is counted as such, and says nothing about the data. */
static void check(struct bench_worker *w, const struct bench_io *io)
{
	if (io->failed && io->writing)
		w->generations[io->block] |= UNSURE;
	else if (!io->failed && !io->writing && !pattern_check(io->data, w->plan->block_size, io->block, io->expect))
		w->mismatches++;
}

static void verify_offer(struct bench_worker *w, struct bench_io *io, uint64_t now)
{
	uint32_t *generation = &w->generations[io->block];

	if (io->writing)
		pattern_fill(io->data, w->plan->block_size, io->block, *generation = (*generation & ~UNSURE) + 1);
	else
		memset(io->data, 0, 64); /* so that a read that does nothing is found out */
	io->expect = *generation;
	offer(w, io, now);
}

/* A block of its lane: a read of it, when there is something to read, or another write. */
static void verify_issue(struct bench_worker *w, struct bench_io *io, uint64_t now)
{
	uint64_t blocks = (w->plan->blocks - lane(w, io) + stride(w) - 1) / stride(w);

	io->block = lane(w, io) + random_below(w, blocks) * stride(w);
	io->writing = !is_known(w, io->block) || (random_below(w, 2));
	verify_offer(w, io, now);
}

static void verify_again(struct bench_worker *w, struct bench_io *io, uint64_t now)
{
	check(w, io);
	verify_issue(w, io, now);
}

/* The next written block of the lane after the last one read; false when there is none. */
static bool read_back_next(struct bench_worker *w, struct bench_io *io)
{
	while (io->block < w->plan->blocks && !is_known(w, io->block))
		io->block += stride(w);
	io->writing = false;
	return io->block < w->plan->blocks;
}

static void read_back_again(struct bench_worker *w, struct bench_io *io, uint64_t now)
{
	check(w, io);
	io->block += stride(w);
	if (read_back_next(w, io))
		verify_offer(w, io, now);
}

static void check_only(struct bench_worker *w, struct bench_io *io, uint64_t now)
{
	(void)now;
	check(w, io);
}

static void verify(struct bench_worker *w)
{
	uint64_t start = sl_now();

	for (unsigned int i = 0; i < w->plan->depth; i++)
		verify_issue(w, &w->ios[i], start);
	run_until_stop(w, verify_again, start);
	drain(w, check_only);
	for (unsigned int i = 0; i < w->plan->depth && !w->failure; i++) {
		w->ios[i].block = lane(w, &w->ios[i]);
		if (read_back_next(w, &w->ios[i]))
			verify_offer(w, &w->ios[i], sl_now());
	}
	vblk_commit(w->queue);
	drain(w, read_back_again);
}

void *bench_load_thread(void *arg)
{
	struct bench_worker *w = arg;
	struct cpu_time before = cpu_time_thread(), after;
	cpu_set_t set;

	if (w->plan->cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET((size_t)w->plan->cpu + w->index, &set);
		sched_setaffinity(0, sizeof(set), &set);
	}
	w->latency.min = UINT64_MAX;
	vblk_disarm(w->queue);
	if (w->plan->op == BENCH_VERIFY)
		verify(w);
	else
		load(w);
	after = cpu_time_thread();
	w->cpu.user = after.user - before.user;
	w->cpu.system = after.system - before.system;
	return NULL;
}
