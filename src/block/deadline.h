/* SPDX-License-Identifier: MIT */
/* deadline.h - how long the requests of a channel have been waiting for a store that may be gone.
 *
 * A source that waits for others (a server, a cluster) lists what it holds,
 * oldest first. One timer, set only while something is listed,
 *
 *   - writes a line when the oldest request is some seconds old, again when it is twice as old, and so on,
 *     and one when the store answers again;
 *   - hands the oldest request to expired() when it is older than the source's timeout= says.
 *
 * How a source uses it:
 *
 *   struct nbd          struct deadlines ages;   deadlines_init() in open, deadlines_free() in close,
 *                                                deadlines_report() in report
 *   struct nbd_channel  struct deadline age;     deadline_start() in attach, deadline_stop() in detach
 *   a request           struct deadline_entry;   in its scratch: deadline_add() in submit (once, not when it is sent
 *                                                again), deadline_del() just before its done()
 *
 * All of a channel's functions are for its loop; only report reads from beside.
 */
#ifndef BLOCK_DEADLINE_H
#define BLOCK_DEADLINE_H

#include <pthread.h>

#include <sluice/log.h>

#include "block/block.h"

#define DEADLINE_TIMEOUT_MAX 86400u /* seconds; .max of a source's key timeout=, whose .def is "0": wait for ever */

/** struct deadline_entry - a request that waits; 24 bytes of its scratch */
struct deadline_entry {
	struct deadline_entry *prev, *next;
	uint64_t since; /* sl_now() */
};

/**
 * struct deadlines - of a source: all its channels
 * @layer:      "nbd", "rbd": what the names of the figures start with
 * @timeout_ns: 0: wait for ever
 * @expired:    the request is too old: deadline_del() and done(-ETIMEDOUT) it, or drop it onto a list of such; on the
 *              channel's loop, from its timer. Must take the entry off the list
 * @timeouts:   how often that was; relaxed
 * @lock:       guards @first and the channels' links
 */
struct deadlines {
	const char *layer;
	uint64_t timeout_ns;
	void (*expired)(struct block_channel *c, struct deadline_entry *e);
	uint64_t timeouts;
	pthread_mutex_t lock;
	struct deadline *first;
};

/**
 * struct deadline - of a channel
 * @head, @tail: oldest and newest
 * @since, @count: of the oldest (0: none), and how many; relaxed, for the report
 * @warn_ns:  age at which the next line is due
 * @warned:   the last line said that there is no answer
 * @answered: there was one since
 * @expiring: what leaves the list now has not been answered
 */
struct deadline {
	struct deadlines *all;
	struct block_channel *channel;
	struct deadline *next, **prev;
	struct deadline_entry *head, *tail;
	uint64_t since, count;
	uint64_t warn_ns;
	bool warned, answered, expiring;
	struct sl_log_limit log;
	struct sl_timer timer;
};

void deadlines_init(struct deadlines *all, const char *layer, uint64_t timeout_s,
		    void (*expired)(struct block_channel *c, struct deadline_entry *e));
void deadlines_free(struct deadlines *all);
/** deadlines_report() - LAYER.requests-in-flight, LAYER.oldest-request-ms, LAYER.timeouts; control */
void deadlines_report(struct deadlines *all, const struct block_report *r);

void deadline_start(struct deadline *d, struct deadlines *all, struct block_channel *c);
/** deadline_stop() - safe when it was never started; nothing is listed any more */
void deadline_stop(struct deadline *d);
/** deadline_add() - the request is waiting from now on */
void deadline_add(struct deadline *d, struct deadline_entry *e);
/** deadline_del() - it is not any more */
void deadline_del(struct deadline *d, struct deadline_entry *e);

#endif
