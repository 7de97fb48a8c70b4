/* SPDX-License-Identifier: MIT */
/* filter.c - what the filters share */
#include "block/filter.h"

#include <errno.h>
#include <stdlib.h>

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

void filter_drain(struct block_channel *c)
{
	block_drain(((struct filter_channel *)c)->below);
}

void filter_report(struct block *b, const struct block_report *r)
{
	block_report(((struct filter *)b)->below, r);
}

/* ---- stand-ins ---- */

static void resume(void *arg)
{
	struct filter_hooks *h = arg;

	while (h->waiting && h->free) {
		struct block_req *req = h->waiting;

		h->waiting = req->next;
		if (!h->waiting)
			h->waiting_end = &h->waiting;
		h->start(&h->channel->c, req);
	}
	block_commit(&h->channel->c);
}

int filter_hooks_init(struct filter_hooks *h, struct filter_channel *channel, unsigned int n, size_t size,
		      void (*start)(struct block_channel *c, struct block_req *req), struct sl_err *err)
{
	*h = (struct filter_hooks){.channel = channel, .start = start, .resume = {.fn = resume, .arg = h}};
	h->waiting_end = &h->waiting;
	h->memory = calloc(n, size);
	if (!h->memory)
		return sl_err_set(err, ENOMEM, "%s: out of memory", channel->c.block->name);
	for (unsigned int i = 0; i < n; i++) {
		struct filter_hook *hook = (struct filter_hook *)(void *)((char *)h->memory + i * size);

		hook->req.next = (struct block_req *)h->free;
		h->free = hook;
	}
	return 0;
}

void filter_hooks_free(struct filter_hooks *h)
{
	if (h->channel)
		sl_task_cancel(h->channel->c.loop, &h->resume);
	free(h->memory);
}

void filter_hooks_submit(struct filter_hooks *h, struct block_req *req)
{
	if (!h->waiting && h->free) {
		h->start(&h->channel->c, req);
		return;
	}
	req->next = NULL;
	*h->waiting_end = req;
	h->waiting_end = &req->next;
}

void filter_hooks_abandon(struct filter_hooks *h)
{
	while (h->waiting) {
		struct block_req *req = h->waiting;

		h->waiting = req->next;
		block_finish(&h->channel->c, req, -ETIMEDOUT);
	}
	h->waiting_end = &h->waiting;
}

struct filter_hook *filter_hook_get(struct filter_hooks *h, struct block_req *origin,
				    void (*done)(struct block_req *req, int result))
{
	struct filter_hook *hook = h->free;

	if (!hook)
		return NULL;
	h->free = (struct filter_hook *)hook->req.next;
	hook->req.op = origin->op;
	hook->req.flags = origin->flags;
	hook->req.offset = origin->offset;
	hook->req.len = origin->len;
	hook->req.iov = origin->iov;
	hook->req.iovcnt = origin->iovcnt;
	hook->req.done = done;
	hook->origin = origin;
	return hook;
}

void filter_hook_put(struct filter_hooks *h, struct filter_hook *hook)
{
	hook->req.next = (struct block_req *)h->free;
	h->free = hook;
	if (h->waiting)
		sl_task_post(h->channel->c.loop, &h->resume);
}
