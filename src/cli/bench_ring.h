/* SPDX-License-Identifier: MIT */
/* bench_ring.h - what a ring costs by itself: driver and device on two processors, nothing behind them */
#ifndef CLI_BENCH_RING_H
#define CLI_BENCH_RING_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>

/**
 * struct bench_ring_options
 * @packed:  ring format
 * @num:     queue size
 * @buffers: pieces of one chain: the first is read by the device, the others written; at most 16
 * @depth:   chains under way: 1 gives the time of a round trip, more the time for one chain in a stream
 * @seconds: how long
 * @cpu:     the driver runs on this processor and the device on the next; -1: anywhere
 */
struct bench_ring_options {
	bool packed;
	uint16_t num;
	unsigned int buffers, depth;
	double seconds;
	int cpu;
};

/**
 * struct bench_ring_result
 * @chains: that went round
 * @ns:     nanoseconds a chain: the whole time divided by their number
 */
struct bench_ring_result {
	uint64_t chains;
	double ns;
};

/** bench_ring_run() - measure; both sides poll. 0, or -errno with @err filled */
int bench_ring_run(const struct bench_ring_options *o, struct bench_ring_result *r, struct sl_err *err);

#endif
