/* SPDX-License-Identifier: MIT */
/* filter.h - what the filters share: a block with another one below it.
 *
 * A filter holds a request for a while, or finishes it, or hands it down; the
 * source below then answers the caller itself. So a filter costs nothing on
 * the way back and needs no state in the request after it let go.
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
void filter_report(struct block *b, const struct block_report *r);

/** filter_op_names - names for an OPT_ENUM of operations; the index minus 1 is an enum block_op */
extern const char *const filter_op_names[];
/** filter_op_matches() - does @chosen, an index into filter_op_names, mean @op? */
static inline bool filter_op_matches(unsigned int chosen, enum block_op op)
{
	return !chosen || chosen - 1 == (unsigned int)op;
}

#endif
