/* SPDX-License-Identifier: MIT */
/* filter.h - what the filters share: a block with another one below it.
 *
 * Most filters hold a request for a while, or finish it, or hand it down; the
 * source below then answers the caller itself. So such a filter costs nothing
 * on the way back and needs no state in the request after it let go.
 *
 * One that has to know when a request is done sends a stand-in of its own
 * (struct filter_hook) in its place. A channel has a fixed number of them; what
 * comes when all are under way waits in line.
 */
#ifndef BLOCK_FILTER_H
#define BLOCK_FILTER_H

#include "block/block.h"

struct filter {
	struct block b;
	struct block *below;
};

struct filter_channel {
	struct block_channel c;
	struct block_channel *below;
};

/** filter_alloc() - a filter with @ops on top of @below, with its abilities; NULL with @err filled */
struct filter *filter_alloc(const struct block_ops *ops, struct block *below, struct sl_err *err);

/* Operations for a filter's table. */
void filter_close(struct block *b);
int filter_attach(struct block_channel *c, struct sl_err *err);
void filter_detach(struct block_channel *c);
void filter_commit(struct block_channel *c);
int filter_refresh(struct block *b, struct sl_err *err);
int filter_resize(struct block *b, uint64_t size, struct sl_err *err);
/* Of a filter that holds nothing for long, or lets go of it by itself: what is below is abandoned. */
void filter_abandon(struct block_channel *c);
void filter_drain(struct block_channel *c);
void filter_report(struct block *b, const struct block_report *r);

/**
 * struct filter_hook - a request that stands in for one of the caller's; a filter's own struct may start with it
 * @origin: the caller's; its channel is the filter's
 */
struct filter_hook {
	struct block_req req, *origin;
};

/**
 * struct filter_hooks - the stand-ins of a channel
 * @free:    threaded through req.next
 * @waiting, @waiting_end: callers' requests that need one, oldest first
 * @start:   one is free for @req: take and send it
 * @resume:  starts those that wait, at the end of the turn
 */
struct filter_hooks {
	struct filter_channel *channel;
	struct filter_hook *free;
	void *memory;
	struct block_req *waiting, **waiting_end;
	void (*start)(struct block_channel *c, struct block_req *req);
	struct sl_task resume;
};

/** filter_hooks_init() - @n stand-ins of @size bytes each; in attach, 0 or -errno with @err filled */
int filter_hooks_init(struct filter_hooks *h, struct filter_channel *channel, unsigned int n, size_t size,
		      void (*start)(struct block_channel *c, struct block_req *req), struct sl_err *err);
/** filter_hooks_free() - in detach; safe when init failed or was not called */
void filter_hooks_free(struct filter_hooks *h);
/** filter_hooks_submit() - start @req now, or when its turn has come */
void filter_hooks_submit(struct filter_hooks *h, struct block_req *req);
/** filter_hooks_abandon() - finish those that wait with -ETIMEDOUT */
void filter_hooks_abandon(struct filter_hooks *h);
/** filter_hook_get() - a copy of @origin that ends in @done; NULL: all are under way */
struct filter_hook *filter_hook_get(struct filter_hooks *h, struct block_req *origin,
				    void (*done)(struct block_req *req, int result));
/** filter_hook_put() - it is done with */
void filter_hook_put(struct filter_hooks *h, struct filter_hook *hook);

/** filter_op_names - names for an OPT_ENUM of operations; the index minus 1 is an enum block_op */
extern const char *const filter_op_names[];
/** filter_op_matches() - does @chosen, an index into filter_op_names, mean @op? */
static inline bool filter_op_matches(unsigned int chosen, enum block_op op)
{
	return !chosen || chosen - 1 == (unsigned int)op;
}

#endif
