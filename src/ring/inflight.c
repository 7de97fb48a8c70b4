/* SPDX-License-Identifier: MIT */
/* inflight.c - the vhost-user inflight region: which chains were in flight when a process died
 *
 * Theory of operation: the region lies in memory that outlives this process.
 * The kernel keeps whatever was stored before a kill, in the order of the
 * stores, so each step below is one store of at most 8 bytes and the order is
 * that of the program. docs/rings.md has the whole argument; in short:
 *
 *   split, fetch: counter, then inflight = 1.
 *   split, used:  link the batch into last_batch_head; used->idx of the ring;
 *                 inflight = 0 of the batch; used_idx. The ring's index is the
 *                 commit. A successor that finds used_idx behind it clears the
 *                 batch, which is the (idx - used_idx) first entries of the list.
 *   packed, fetch: fill entries from the front of the free list, mark the first
 *                 one in flight, then move old_free_head past them: the commit.
 *   packed, used: put the batch on the free list; move the used position (one
 *                 word); flags of the ring, the first descriptor's last: the
 *                 commit; inflight = 0 of the batch; move the old_* copies.
 *                 A successor that finds old and new used position to differ
 *                 looks at that first descriptor, and either finishes the
 *                 transaction or takes it back. Taking it back also un-marks
 *                 the other used descriptors of the batch, or the driver would
 *                 come upon them once the first one is used for something else.
 *
 * The available position is not stored: it is the used position plus what is
 * in flight. The front-end can write the region at any time; each index from
 * it is checked where it is read, and lists are bounded by the queue size.
 */
#include "ring/vq_impl.h"

#include <stdlib.h>

#define REGION_VERSION 1

uint64_t sl_inflight_size(bool packed, uint16_t num)
{
	uint64_t n = packed ? sizeof(struct wire_inflight_packed) + num * sizeof(struct wire_inflight_packed_desc)
			    : sizeof(struct wire_inflight_split) + num * sizeof(struct wire_inflight_split_desc);

	return (n + 63) / 64 * 64;
}

static int by_counter(const void *a, const void *b)
{
	const struct vq_resubmit *x = a, *y = b;

	if (x->counter != y->counter)
		return x->counter < y->counter ? -1 : 1;
	return x->entry < y->entry ? -1 : x->entry > y->entry;
}

static void resubmit_oldest_first(struct sl_vq *vq)
{
	if (!vq->resubmit_n) {
		free(vq->resubmit);
		vq->resubmit = NULL;
		return;
	}
	qsort(vq->resubmit, vq->resubmit_n, sizeof(*vq->resubmit), by_counter);
	vq->counter = vq->resubmit[vq->resubmit_n - 1].counter + 1;
	vq->special = true;
}

static int lies(struct sl_err *err, const char *what)
{
	return sl_err_set(err, EINVAL, "inflight region: %s: refused", what);
}

/* ---- split ---- */

/* The predecessor made a batch visible and died before it had cleared it. */
static int split_finish_batch(struct sl_vq *vq, struct sl_err *err)
{
	struct wire_inflight_split *r = vq->region_split;
	uint16_t n = (uint16_t)(vq->pub_used - ring_load16(&r->used_idx)), i = ring_load16(&r->last_batch_head);

	if (n > vq->num)
		return lies(err, "the last batch is larger than the queue");
	while (n--) {
		if (i >= vq->num)
			return lies(err, "the last batch names an entry beyond the queue");
		ring_store8(&r->desc[i].inflight, 0);
		i = ring_load16(&r->desc[i].next);
	}
	return 0;
}

static int split_open(struct sl_vq *vq, struct sl_err *err)
{
	struct wire_inflight_split *r = vq->region_split;
	bool any = false;
	int ret;

	for (uint32_t i = 0; i < vq->num && !any; i++)
		any = ring_load8(&r->desc[i].inflight);
	ret = any ? split_finish_batch(vq, err) : 0;
	if (ret)
		return ret;
	ring_store16_release(&r->used_idx, vq->pub_used);
	for (uint32_t i = 0; i < vq->num; i++) {
		if (!ring_load8(&r->desc[i].inflight))
			continue;
		vq->resubmit[vq->resubmit_n++] = (struct vq_resubmit){ring_load64(&r->desc[i].counter), (uint16_t)i, 1};
	}
	vq->taken = vq->resubmit_n;
	vq->next_avail = vq->avail_seen = (uint16_t)(vq->pub_used + vq->resubmit_n);
	return 0;
}

/* A region never used before. The used index goes in before the version: a successor of this very process must not
 * take the difference to a ring that is not new for an unfinished batch. */
static void split_init(struct sl_vq *vq)
{
	struct wire_inflight_split *r = vq->region_split;

	for (uint32_t i = 0; i < vq->num; i++)
		ring_store8(&r->desc[i].inflight, 0);
	ring_store64(&r->features, 0);
	ring_store16(&r->desc_num, vq->num);
	ring_store16(&r->used_idx, vq->pub_used);
	ring_store16_release(&r->version, REGION_VERSION);
}

void vq_inflight_split_fetch(struct sl_vq *vq, uint16_t head)
{
	struct wire_inflight_split_desc *d = &vq->region_split->desc[head];

	ring_store64(&d->counter, vq->counter++);
	ring_store8_release(&d->inflight, 1);
}

/* Before used->idx moves. */
void vq_inflight_split_begin(struct sl_vq *vq)
{
	struct wire_inflight_split *r = vq->region_split;

	for (uint16_t i = 0; i < vq->stage_n; i++) {
		ring_store16(&r->desc[vq->stage[i].entry].next, i ? vq->stage[i - 1].entry : 0);
		ring_store16_release(&r->last_batch_head, vq->stage[i].entry);
	}
}

/* After used->idx moved. */
void vq_inflight_split_end(struct sl_vq *vq)
{
	struct wire_inflight_split *r = vq->region_split;

	for (uint16_t i = 0; i < vq->stage_n; i++)
		ring_store8_release(&r->desc[vq->stage[i].entry].inflight, 0);
	ring_store16_release(&r->used_idx, vq->next_used);
	vq->stage_n = 0;
}

/* ---- packed ---- */

static uint64_t used_word(uint16_t idx, bool wrap, uint16_t old_idx, bool old_wrap)
{
	union wire_inflight_used u = {.idx = idx, .old_idx = old_idx, .wrap = wrap, .old_wrap = old_wrap};

	return u.word;
}

static bool still_available(uint16_t flags, bool wrap)
{
	return !!(flags & WIRE_F_AVAIL) == wrap && !!(flags & WIRE_F_USED) != wrap;
}

/* Used descriptors of the batch behind the first one are not used after all. Until it comes to them again the driver
 * does not look at them, and we not either: any flags that are not "used" will do. */
static void packed_unmark(struct sl_vq *vq, const union wire_inflight_used *u)
{
	uint16_t slot = u->old_idx;
	bool wrap = u->old_wrap;

	for (uint32_t i = 0; i < vq->num; i++) {
		uint16_t flags = ring_load16(&vq->ring[slot].flags);

		if (i && slot == u->idx)
			break;
		if (!!(flags & WIRE_F_AVAIL) == wrap && !!(flags & WIRE_F_USED) == wrap) {
			ring_store16(&vq->ring[slot].flags, wrap ? WIRE_F_AVAIL : WIRE_F_USED);
			vq_log_ring(vq, vq->desc_gpa + 16ULL * slot, 16);
		}
		if (++slot == vq->num) {
			slot = 0;
			wrap = !wrap;
		}
	}
}

/* Finish the transaction that the predecessor died in, or take it back. Idempotent, as we may die here as well. */
static int packed_settle(struct sl_vq *vq, struct sl_err *err)
{
	struct wire_inflight_packed *r = vq->region_packed;
	union wire_inflight_used u = {.word = ring_load64(&r->used.word)};
	uint16_t free_head = ring_load16(&r->free_head);

	if (u.idx >= vq->num || u.old_idx >= vq->num || u.wrap > 1 || u.old_wrap > 1)
		return lies(err, "its used position lies beyond the queue");
	if (u.idx == u.old_idx && u.wrap == u.old_wrap) {
		free_head = ring_load16(&r->old_free_head);
	} else if (still_available(ring_load16(&vq->ring[u.old_idx].flags), u.old_wrap)) {
		free_head = ring_load16(&r->old_free_head);
		packed_unmark(vq, &u);
		u.idx = u.old_idx;
		u.wrap = u.old_wrap;
	}
	if (free_head > vq->num)
		return lies(err, "its free list starts beyond the queue");
	ring_store16(&r->free_head, free_head);
	ring_store16(&r->old_free_head, free_head);
	ring_store64_release(&r->used.word, used_word(u.idx, u.wrap, u.idx, u.wrap));
	vq->free_head = free_head;
	vq->next_used = vq->pub_used = u.idx;
	vq->used_wrap = vq->pub_wrap = u.wrap;
	return 0;
}

static int packed_open(struct sl_vq *vq, struct sl_err *err)
{
	struct wire_inflight_packed *r = vq->region_packed;
	uint32_t slots = 0, to, i, n = 0;
	int ret = packed_settle(vq, err);

	if (ret)
		return ret;
	for (i = vq->free_head; i < vq->num && n < vq->num; i = ring_load16(&r->desc[i].next), n++)
		ring_store8(&r->desc[i].inflight, 0);
	for (i = 0; i < vq->num; i++) {
		struct vq_resubmit *e = &vq->resubmit[vq->resubmit_n];

		if (!ring_load8(&r->desc[i].inflight))
			continue;
		*e = (struct vq_resubmit){ring_load64(&r->desc[i].counter), (uint16_t)i, ring_load16(&r->desc[i].num)};
		if (!e->slots || (slots += e->slots) > vq->num)
			return lies(err, "more descriptors are in flight than the queue has");
		vq->resubmit_n++;
	}
	to = vq->next_used + slots;
	vq->taken = (uint16_t)slots;
	vq->next_avail = (uint16_t)(to < vq->num ? to : to - vq->num);
	vq->avail_wrap = to < vq->num ? vq->used_wrap : !vq->used_wrap;
	return 0;
}

static void packed_init(struct sl_vq *vq)
{
	struct wire_inflight_packed *r = vq->region_packed;

	for (uint32_t i = 0; i < vq->num; i++) {
		ring_store8(&r->desc[i].inflight, 0);
		ring_store16(&r->desc[i].next, (uint16_t)(i + 1));
	}
	ring_store64(&r->features, 0);
	ring_store16(&r->desc_num, vq->num);
	ring_store16(&r->free_head, 0);
	ring_store16(&r->old_free_head, 0);
	ring_store64(&r->used.word, used_word(vq->pub_used, vq->pub_wrap, vq->pub_used, vq->pub_wrap));
	ring_store16_release(&r->version, REGION_VERSION);
}

/* Record one descriptor of a chain. Until the commit the entries are still on the free list. */
int vq_inflight_packed_desc(struct sl_vq *vq, struct vq_record *rec, const struct wire_pdesc *d)
{
	struct wire_inflight_packed_desc *e;

	if (unlikely(rec->next >= vq->num))
		return vq_break(vq, "the inflight region's free list is broken");
	e = &vq->region_packed->desc[rec->next];
	ring_store64(&e->addr, d->addr);
	ring_store32(&e->len, d->len);
	ring_store16(&e->flags, d->flags);
	ring_store16(&e->id, d->id);
	rec->last = rec->next;
	rec->next = ring_load16(&e->next);
	rec->num++;
	return 0;
}

void vq_inflight_packed_commit(struct sl_vq *vq, const struct vq_record *rec, uint16_t id)
{
	struct wire_inflight_packed *r = vq->region_packed;
	struct wire_inflight_packed_desc *e = &r->desc[rec->first];

	ring_store16(&e->num, rec->num);
	ring_store16(&e->last, rec->last);
	ring_store64(&e->counter, vq->counter++);
	ring_store8_release(&e->inflight, 1);
	ring_store16_release(&r->free_head, rec->next);
	ring_store16_release(&r->old_free_head, rec->next);
	vq->free_head = rec->next;
	vq->entries[id] = (struct vq_entry){rec->first, rec->last};
}

/* Before the flags of the ring move. */
void vq_inflight_packed_begin(struct sl_vq *vq)
{
	struct wire_inflight_packed *r = vq->region_packed;

	for (uint16_t i = 0; i < vq->stage_n; i++) {
		ring_store16(&r->desc[vq->stage[i].last].next, vq->free_head);
		vq->free_head = vq->stage[i].entry;
		ring_store16_release(&r->free_head, vq->free_head);
	}
	ring_store64_release(&r->used.word, used_word(vq->next_used, vq->used_wrap, vq->pub_used, vq->pub_wrap));
	/* Most flags of the ring are plain stores, which a release store before them does not hold back. A kill sees the
	 * order of the instructions, so it is only the compiler that has to keep it. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* After the flags of the ring moved. */
void vq_inflight_packed_end(struct sl_vq *vq)
{
	struct wire_inflight_packed *r = vq->region_packed;

	for (uint16_t i = 0; i < vq->stage_n; i++)
		ring_store8_release(&r->desc[vq->stage[i].entry].inflight, 0);
	ring_store16_release(&r->old_free_head, vq->free_head);
	ring_store64_release(&r->used.word, used_word(vq->next_used, vq->used_wrap, vq->next_used, vq->used_wrap));
}

int vq_inflight_open(struct sl_vq *vq, struct sl_err *err)
{
	/* both layouts start alike */
	uint16_t version, num;
	int ret;

	if ((uintptr_t)vq->region % 8)
		return sl_err_set(err, EINVAL, "inflight region: not aligned to 8 bytes");
	version = ring_load16(&vq->region_split->version);
	num = ring_load16(&vq->region_split->desc_num);
	if (!version) {
		if (vq->packed)
			packed_init(vq);
		else
			split_init(vq);
		return 0;
	}
	if (version != REGION_VERSION)
		return sl_err_set(err, EINVAL, "inflight region: version %u: not known", version);
	if (num != vq->num)
		return sl_err_set(err, EINVAL, "inflight region: made for %u entries: the queue has %u", num, vq->num);
	vq->resubmit = calloc(vq->num, sizeof(*vq->resubmit));
	if (!vq->resubmit)
		return sl_err_set(err, ENOMEM, "inflight region: out of memory");
	ret = vq->packed ? packed_open(vq, err) : split_open(vq, err);
	if (!ret)
		resubmit_oldest_first(vq);
	return ret;
}
