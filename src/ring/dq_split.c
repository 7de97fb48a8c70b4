/* SPDX-License-Identifier: MIT */
/* dq_split.c - driver side of a split virtqueue (virtio 1.4, 2.7) */
#include "ring/dq_impl.h"

static void put_desc(struct wire_desc *d, const struct sl_dq_buf *buf, uint16_t flags, uint16_t next)
{
	ring_store64(&d->addr, buf->addr);
	ring_store32(&d->len, buf->len);
	ring_store16(&d->flags, flags);
	ring_store16(&d->next, next);
}

static void add_indirect(struct sl_dq *dq, const struct sl_dq_buf *out, unsigned int out_n, const struct sl_dq_buf *in,
			 unsigned int n, uint16_t id)
{
	size_t at = (size_t)id * dq->indirect_max;
	struct sl_dq_buf table = {dq->tables_gpa + at * WIRE_DESC_SIZE, n * WIRE_DESC_SIZE};

	for (unsigned int i = 0; i < n; i++)
		put_desc(&dq->tables[at + i], i < out_n ? &out[i] : &in[i - out_n],
			 (i < out_n ? 0 : WIRE_F_WRITE) | (i + 1 < n ? WIRE_F_NEXT : 0),
			 i + 1 < n ? (uint16_t)(i + 1) : 0);
	put_desc(&dq->desc[id], &table, WIRE_F_INDIRECT, 0);
	dq->free_head = dq->entry[id].next;
}

void dq_split_add(struct sl_dq *dq, const struct sl_dq_buf *out, unsigned int out_n, const struct sl_dq_buf *in,
		  unsigned int n, uint16_t id, bool indirect)
{
	uint16_t at = id;

	if (indirect) {
		add_indirect(dq, out, out_n, in, n, id);
	} else {
		for (unsigned int i = 0; i < n; i++) {
			uint16_t next = dq->entry[at].next;

			put_desc(&dq->desc[at], i < out_n ? &out[i] : &in[i - out_n],
				 (i < out_n ? 0 : WIRE_F_WRITE) | (i + 1 < n ? WIRE_F_NEXT : 0), i + 1 < n ? next : 0);
			at = next;
		}
		dq->free_head = at;
	}
	ring_store16(&dq->avail->ring[dq->next_avail & (dq->num - 1)], id);
	dq->next_avail++;
}

bool dq_split_publish(struct sl_dq *dq)
{
	uint16_t old = dq->pub_avail;

	dq->pub_avail = dq->next_avail;
	ring_store16_release(&dq->avail->idx, dq->pub_avail); /* pair A */
	ring_fence();					      /* pair C: idx before the device's event */
	if (dq->event_idx)
		return wire_need_event(ring_load16((const uint16_t *)(const void *)&dq->used->ring[dq->num]),
				       dq->pub_avail, old);
	return !(ring_load16(&dq->used->flags) & WIRE_USED_NO_NOTIFY);
}

bool dq_split_used(struct sl_dq *dq, uint16_t *id, uint32_t *len)
{
	const struct wire_used_elem *e;
	uint32_t used;

	if (dq->last_used == dq->used_seen) {
		uint16_t idx = ring_load16_acquire(&dq->used->idx); /* pair B */

		if (unlikely((uint16_t)(idx - dq->last_used) > dq->outstanding - dq->added)) {
			dq_break(dq, "the used index is ahead of what was made available");
			return false;
		}
		dq->used_seen = idx;
		if (idx == dq->last_used) {
			if (unlikely(dq->batch != DQ_NONE))
				dq_break(dq, "the used index is short of the batch that the device used");
			return false;
		}
	}
	if (unlikely(dq->batch != DQ_NONE)) {
		used = dq->batch;
		*len = dq->batch_len;
	} else {
		e = &dq->used->ring[dq->last_used & (dq->num - 1)];
		used = ring_load32(&e->id);
		*len = ring_load32(&e->len);
		if (!dq_check_used(dq, used, *len))
			return false;
	}
	*id = (uint16_t)used;
	if (dq->in_order)
		*id = dq_in_order(dq, *id, len);
	dq->last_used++;
	return true;
}

/* With event_idx the event stays behind us: the device passes it again only after 65536 more chains. */
void dq_split_disarm(struct sl_dq *dq)
{
	if (!dq->event_idx)
		ring_store16(&dq->avail->flags, WIRE_AVAIL_NO_INTERRUPT);
}

bool dq_split_rearm(struct sl_dq *dq)
{
	if (dq->event_idx)
		ring_store16(&dq->avail->ring[dq->num], dq->last_used);
	else
		ring_store16(&dq->avail->flags, 0);
	ring_fence(); /* pair D: our event before the device's idx */
	return dq->last_used != ring_load16(&dq->used->idx);
}
