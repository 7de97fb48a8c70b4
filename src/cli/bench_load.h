/* SPDX-License-Identifier: MIT */
/* bench_load.h - the load that one thread of `sluice bench blk` puts on one queue. */
#ifndef CLI_BENCH_LOAD_H
#define CLI_BENCH_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/cpu_time.h"
#include "cli/histogram.h"
#include "driver/blk.h"

enum bench_op { BENCH_READ, BENCH_WRITE, BENCH_RANDREAD, BENCH_RANDWRITE, BENCH_VERIFY };

/**
 * struct bench_plan - what every queue's thread does
 * @block_size: bytes of one request
 * @blocks:     of @block_size on the device
 * @depth:      requests under way, a queue
 * @queues:     threads and queues
 * @interrupt:  sleep for calls instead of polling
 * @cpu:        queue i's thread runs on processor @cpu + i; -1: anywhere
 * @stop:       set by the main thread: issue no more
 * @abandon:    set by the main thread: do not even wait for what is under way
 */
struct bench_plan {
	enum bench_op op;
	uint32_t block_size;
	uint64_t blocks;
	unsigned int depth, queues;
	bool interrupt;
	int cpu;
	bool stop, abandon; /* atomic */
};

/**
 * struct bench_io - one of the requests that are under way
 * @start: sl_now() when it was offered
 * @block: which one
 * @data:  its memory here
 * @buf:   its memory for the device
 * @expect: verify: generation that a read must find
 * @writing: verify: this is a write
 * @failed:  its end was an error
 */
struct bench_io {
	uint64_t start, block;
	void *data;
	struct sl_dq_buf buf;
	uint32_t expect;
	bool writing, failed;
};

/**
 * struct bench_worker - one queue and its thread
 * @done:     requests finished so far; read by the main thread meanwhile
 * @generations: verify: of each block, 0: never written, or UNSURE. Shared by all workers, which keep to blocks of their own
 * @elapsed:  ns between the first request and @plan->stop
 * @measured: requests finished in that time
 * @errors:   requests that failed
 * @mismatches: verify: blocks with other contents than were written
 * @failure:  NULL, or why the queue could not go on
 */
struct bench_worker {
	struct bench_plan *plan;
	struct vblk_queue *queue;
	unsigned int index;
	int call_fd;
	struct bench_io *ios;
	uint32_t *generations;
	uint64_t rng, next;
	uint64_t done; /* atomic */
	uint64_t elapsed, measured, errors, mismatches, calls;
	struct cpu_time cpu;
	struct histogram latency;
	const char *failure;
};

/** bench_load_thread() - the thread; @arg is its struct bench_worker */
void *bench_load_thread(void *arg);

#endif
