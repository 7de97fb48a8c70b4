/* SPDX-License-Identifier: MIT */
/* overlay_flush.c - what makes the changes of an overlay=FILE durable, in an order that any power cut may end.
 *
 * Theory of operation
 *
 * In the file there is, beside the map that is in use, a durable one, which
 * alone counts after the host went down. A block must not be in it before its
 * data is safe, or its content would be neither the old nor the new. A round:
 *
 *	1. take some dirty pages of the map off the list, and copy them
 *	2. sync the scratch file: the data of all bits in the copies is safe
 *	3. write the copies to the durable map; back to 1
 *
 * until in 1 there is none left; then the sync of 2 was also that of the last
 * copies, and the round is over. Bits are never cleared, so a page of which
 * the power cut left only some sectors new is right too.
 *
 * Without fresh bits a round is one sync, as for any file.
 *
 * All channels share the map, and one of them at a time, the leader, makes a
 * round for all requests that came before it. Those that come meanwhile wait
 * for the next one on a lock-free stack, as what the round took off the list
 * is theirs too, and is not safe yet. The leader is always a channel that has
 * a request in the round, so it cannot be detached before the round is over;
 * then it passes the rest on to a channel of one that waits.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/overlay.h"

/** struct flush_wait - in a waiting request's scratch */
struct flush_wait {
	struct sl_task task;
	int result;
};

static void round_go_on(struct overlay *o);

static struct flush_wait *wait_of(struct block_req *req)
{
	_Static_assert(sizeof(struct flush_wait) <= sizeof(req->scratch), "scratch is too small");
	return (struct flush_wait *)(void *)req->scratch;
}

static struct overlay_channel *channel_of(const struct block_req *origin)
{
	return (struct overlay_channel *)origin->channel;
}

static void tell(struct block_req *req, void (*fn)(void *arg))
{
	wait_of(req)->task = (struct sl_task){.fn = fn, .arg = req};
	sl_task_send(req->channel->loop, &wait_of(req)->task);
}

/* ---- beginning and end of a round ---- */

static void begin(struct overlay_channel *ch, struct block_req *batch)
{
	struct overlay *o = overlay_of(ch);
	struct overlay_flusher *f = &o->flusher;

	f->batch = batch;
	f->leader = ch;
	f->cursor = 0;
	f->result = 0;
	round_go_on(o);
}

static void lead(void *arg)
{
	struct block_req *batch = arg;

	begin(channel_of(batch), batch);
}

/* Take what waits; NULL: nothing does, and nobody leads any more. */
static struct block_req *take_pending(struct overlay_flusher *f)
{
	struct block_req *batch;

	for (;;) {
		batch = __atomic_exchange_n(&f->pending, NULL, __ATOMIC_ACQUIRE);
		if (batch)
			return batch;
		__atomic_store_n(&f->leading, false, __ATOMIC_SEQ_CST);
		/* Whoever came after the exchange may have seen that somebody leads. */
		if (!__atomic_load_n(&f->pending, __ATOMIC_SEQ_CST) ||
		    __atomic_exchange_n(&f->leading, true, __ATOMIC_SEQ_CST))
			return NULL;
	}
}

static void answer(void *arg)
{
	struct block_req *req = arg;

	req->done(req, wait_of(req)->result);
}

/* The next round's leader owns the flusher from the moment it is told; the own requests' channel may go after done(). */
static void end(struct overlay *o)
{
	struct overlay_flusher *f = &o->flusher;
	struct overlay_channel *ch = f->leader;
	struct block_req *batch = f->batch, *next;
	int result = f->result;

	next = take_pending(f);
	if (next)
		tell(next, lead);
	for (; batch; batch = next) {
		next = batch->next;
		wait_of(batch)->result = result;
		if (channel_of(batch) == ch)
			answer(batch);
		else
			tell(batch, answer);
	}
}

void overlay_flush(struct overlay_channel *ch, struct block_req *req)
{
	struct overlay_flusher *f = &overlay_of(ch)->flusher;
	struct block_req *head = __atomic_load_n(&f->pending, __ATOMIC_RELAXED), *batch;

	do
		req->next = head;
	while (!__atomic_compare_exchange_n(&f->pending, &head, req, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
	if (__atomic_exchange_n(&f->leading, true, __ATOMIC_SEQ_CST))
		return;
	batch = take_pending(f);
	/* Another leader may have taken our request just before: then this channel has nothing that keeps it. */
	if (batch && channel_of(batch) == ch)
		begin(ch, batch);
	else if (batch)
		tell(batch, lead);
}

/* ---- a round ---- */

/* Put what this round took back on the list: it may or may not be durable. */
static void give_back(struct overlay *o)
{
	struct overlay_flusher *f = &o->flusher;

	for (size_t i = 0; i < (o->map.pages + 63) / 64; i++) {
		if (f->taken[i])
			__atomic_fetch_or(&o->map.dirty[i], f->taken[i], __ATOMIC_RELEASE);
		f->taken[i] = 0;
	}
}

static void over(struct overlay *o)
{
	struct overlay_flusher *f = &o->flusher;

	if (f->result)
		give_back(o);
	else
		memset(f->taken, 0, (o->map.pages + 63) / 64 * sizeof(f->taken[0]));
	end(o);
}

static void copy_page(const struct overlay_map *m, size_t page, unsigned char *to)
{
	for (size_t i = 0; i < MAP_PAGE_WORDS; i++) {
		uint64_t word = __atomic_load_n(&m->words[page * MAP_PAGE_WORDS + i], __ATOMIC_RELAXED);

		memcpy(to + i * 8, &word, 8);
	}
}

static void take_page(struct overlay *o, size_t page)
{
	struct overlay_flusher *f = &o->flusher;
	struct overlay_page *p = &f->pages[f->n++];

	f->taken[page / 64] |= (uint64_t)1 << page % 64;
	copy_page(&o->map, page, p->data);
	p->req.offset = o->durable_at + page * MAP_PAGE;
}

/* Up to FLUSH_PAGES dirty ones from the cursor on. What became dirty again after it was taken is for the next round. */
static void take_pages(struct overlay *o)
{
	struct overlay_flusher *f = &o->flusher;
	size_t words = (o->map.pages + 63) / 64;

	f->n = 0;
	for (; f->cursor < words; f->cursor++) {
		uint64_t *dirty = &o->map.dirty[f->cursor], bits;

		while ((bits = __atomic_load_n(dirty, __ATOMIC_RELAXED) & ~f->taken[f->cursor]) &&
		       f->n < FLUSH_PAGES) {
			uint64_t bit = bits & -bits;

			__atomic_fetch_and(dirty, ~bit, __ATOMIC_ACQ_REL);
			take_page(o, f->cursor * 64 + (unsigned int)__builtin_ctzll(bit));
		}
		if (f->n == FLUSH_PAGES)
			return;
	}
}

static void page_written(struct block_req *req, int result)
{
	struct overlay *o = ((struct overlay_page *)req)->overlay;
	struct overlay_flusher *f = &o->flusher;

	if (result)
		f->result = result;
	if (--f->under_way)
		return;
	if (f->result)
		over(o);
	else
		round_go_on(o);
}

static void synced(struct block_req *req, int result)
{
	struct overlay_flusher *f = (struct overlay_flusher *)(void *)((char *)req - offsetof(struct overlay_flusher, sync));
	struct overlay_channel *ch = f->leader;

	f->result = result;
	if (result || !f->n) {
		over(overlay_of(ch));
		return;
	}
	f->under_way = f->n;
	for (unsigned int i = 0; i < f->n; i++) {
		struct overlay_page *p = &f->pages[i];

		p->req.op = BLOCK_WRITE;
		p->req.flags = 0;
		p->req.len = MAP_PAGE;
		p->req.done = page_written;
		block_forward(ch->scratch, &p->req);
	}
	overlay_commit_soon(ch);
}

static void round_go_on(struct overlay *o)
{
	struct overlay_flusher *f = &o->flusher;

	take_pages(o);
	f->sync = (struct block_req){.op = BLOCK_FLUSH, .done = synced};
	block_forward(f->leader->scratch, &f->sync);
	overlay_commit_soon(f->leader);
}

/* ---- what it needs ---- */

int overlay_flusher_init(struct overlay *o, struct sl_err *err)
{
	struct overlay_flusher *f = &o->flusher;
	size_t words = (o->map.pages + 63) / 64;
	unsigned char *data = aligned_alloc(MAP_PAGE, (size_t)FLUSH_PAGES * MAP_PAGE);

	f->pages[0].data = data;
	f->taken = calloc(words, sizeof(uint64_t));
	o->map.dirty = calloc(words, sizeof(uint64_t));
	if (!data || !f->taken || !o->map.dirty) {
		overlay_flusher_free(o);
		return sl_err_set(err, ENOMEM, "%s: out of memory", o->f.b.name);
	}
	for (unsigned int i = 0; i < FLUSH_PAGES; i++) {
		struct overlay_page *p = &f->pages[i];

		p->overlay = o;
		p->data = data + (size_t)i * MAP_PAGE;
		p->iov = (struct iovec){p->data, MAP_PAGE};
		p->req.iov = &p->iov;
		p->req.iovcnt = 1;
	}
	return 0;
}

void overlay_flusher_free(struct overlay *o)
{
	free(o->flusher.pages[0].data);
	free(o->flusher.taken);
	free(o->map.dirty);
}
