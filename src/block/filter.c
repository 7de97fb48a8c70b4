/* SPDX-License-Identifier: MIT */
/* filter.c - what the filters share */
#include "block/filter.h"

const char *const filter_op_names[] = {
	"any",
	[BLOCK_READ + 1] = "read",
	[BLOCK_WRITE + 1] = "write",
	[BLOCK_FLUSH + 1] = "flush",
	[BLOCK_DISCARD + 1] = "discard",
	[BLOCK_WRITE_ZEROES + 1] = "write-zeroes",
	[BLOCK_SECURE_ERASE + 1] = "secure-erase",
	NULL,
};

struct filter *filter_alloc(const struct block_ops *ops, struct block *below, struct sl_err *err)
{
	struct filter *f = (struct filter *)block_alloc(ops, below->name, err);

	if (f) {
		f->below = below;
		below->above = &f->b;
		f->b.info = below->info;
	}
	return f;
}

void filter_close(struct block *b)
{
	block_close(((struct filter *)b)->below);
	block_free(b);
}

int filter_attach(struct block_channel *c, struct sl_err *err)
{
	struct filter_channel *fc = (struct filter_channel *)c;

	fc->below = block_attach(((struct filter *)c->block)->below, c->loop, err);
	return fc->below ? 0 : -1;
}

void filter_detach(struct block_channel *c)
{
	block_detach(((struct filter_channel *)c)->below);
}

void filter_commit(struct block_channel *c)
{
	block_commit(((struct filter_channel *)c)->below);
}

int filter_refresh(struct block *b, struct sl_err *err)
{
	struct block *below = ((struct filter *)b)->below;
	int ret = block_refresh(below, err);

	if (!ret)
		__atomic_store_n(&b->info.size, block_size_now(below), __ATOMIC_RELAXED);
	return ret;
}

int filter_resize(struct block *b, uint64_t size, struct sl_err *err)
{
	struct block *below = ((struct filter *)b)->below;

	return block_resize(below, size, err);
}

void filter_abandon(struct block_channel *c)
{
	block_abandon(((struct filter_channel *)c)->below);
}

void filter_report(struct block *b, const struct block_report *r)
{
	block_report(((struct filter *)b)->below, r);
}
