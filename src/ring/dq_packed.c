/* SPDX-License-Identifier: MIT */
/* dq_packed.c - driver side of a packed virtqueue (virtio 1.4, 2.8)
 *
 * Everything added since the last publish becomes visible with one store: the
 * flags of the first descriptor added.
 */
#include "ring/dq_impl.h"

static uint16_t ring_flags(const struct sl_dq *dq, uint16_t flags)
{
	return flags | (dq->avail_wrap ? WIRE_F_AVAIL : WIRE_F_USED);
}

/* Take the next slot of the ring for @buf; its flags wait for publish when it is the first one. */
static void put_desc(struct sl_dq *dq, const struct sl_dq_buf *buf, uint16_t flags, uint16_t id)
{
	struct wire_pdesc *d = &dq->ring[dq->next_avail];

	flags = ring_flags(dq, flags);
	ring_store64(&d->addr, buf->addr);
	ring_store32(&d->len, buf->len);
	ring_store16(&d->id, id);
	if (!dq->slots_added) {
		dq->first_slot = dq->next_avail;
		dq->first_flags = flags;
	} else {
		ring_store16(&d->flags, flags);
	}
	dq->slots_added++;
	if (++dq->next_avail == dq->num) {
		dq->next_avail = 0;
		dq->avail_wrap = !dq->avail_wrap;
	}
}

static void add_indirect(struct sl_dq *dq, const struct sl_dq_buf *out, unsigned int out_n, const struct sl_dq_buf *in,
			 unsigned int n, uint16_t id)
{
	size_t at = (size_t)id * dq->indirect_max;
	struct sl_dq_buf table = {dq->tables_gpa + at * WIRE_DESC_SIZE, n * WIRE_DESC_SIZE};

	for (unsigned int i = 0; i < n; i++) {
		struct wire_pdesc *d = (struct wire_pdesc *)(void *)&dq->tables[at + i];
		const struct sl_dq_buf *b = i < out_n ? &out[i] : &in[i - out_n];

		ring_store64(&d->addr, b->addr);
		ring_store32(&d->len, b->len);
		ring_store16(&d->id, 0);
		ring_store16(&d->flags, i < out_n ? 0 : WIRE_F_WRITE);
	}
	put_desc(dq, &table, WIRE_F_INDIRECT, id);
}

void dq_packed_add(struct sl_dq *dq, const struct sl_dq_buf *out, unsigned int out_n, const struct sl_dq_buf *in,
		   unsigned int n, uint16_t id, bool indirect)
{
	if (indirect) {
		add_indirect(dq, out, out_n, in, n, id);
		return;
	}
	for (unsigned int i = 0; i < n; i++)
		put_desc(dq, i < out_n ? &out[i] : &in[i - out_n],
			 (i < out_n ? 0 : WIRE_F_WRITE) | (i + 1 < n ? WIRE_F_NEXT : 0), id);
}

bool dq_packed_publish(struct sl_dq *dq)
{
	uint16_t count = dq->slots_added;

	ring_store16_release(&dq->ring[dq->first_slot].flags, dq->first_flags); /* pair A */
	dq->slots_added = 0;
	ring_fence(); /* pair C: flags before the device's event */
	return wire_need_event_packed(ring_load32(dq->device_event), dq->event_idx, dq->num, dq->next_avail,
				      dq->avail_wrap, count);
}

static bool is_used(uint16_t flags, bool wrap)
{
	return !!(flags & WIRE_F_AVAIL) == wrap && !!(flags & WIRE_F_USED) == wrap;
}

/* A device that wrote nothing need not give a length (2.8.5); some give one without setting the flag. */
static uint32_t plausible(const struct sl_dq *dq, uint16_t id, uint32_t len)
{
	return id < dq->num && len <= dq->entry[id].in_len ? len : 0;
}

bool dq_packed_used(struct sl_dq *dq, uint16_t *id, uint32_t *len)
{
	const struct wire_pdesc *d = &dq->ring[dq->last_used];
	uint16_t slots;

	if (unlikely(dq->batch != DQ_NONE)) {
		*id = dq->batch;
		*len = dq->batch_len;
	} else {
		uint16_t flags = ring_load16_acquire(&d->flags); /* pair B */

		if (!is_used(flags, dq->used_wrap))
			return false;
		*id = ring_load16(&d->id);
		*len = ring_load32(&d->len);
		if (!(flags & WIRE_F_WRITE))
			*len = plausible(dq, *id, *len);
		if (!dq_check_used(dq, *id, *len))
			return false;
	}
	if (dq->in_order)
		*id = dq_in_order(dq, *id, len);
	slots = dq->entry[*id].slots;
	if (slots >= dq->num - dq->last_used) {
		dq->used_wrap = !dq->used_wrap;
		dq->last_used = (uint16_t)(slots - (dq->num - dq->last_used));
	} else {
		dq->last_used += slots;
	}
	return true;
}

/* Written only to change it: the device reads this line in each of its publishes. */
static void set_event(struct sl_dq *dq, uint32_t event)
{
	if (dq->event == event)
		return;
	dq->event = event;
	ring_store32(dq->driver_event, event);
}

void dq_packed_disarm(struct sl_dq *dq)
{
	set_event(dq, WIRE_EVENT(0, 0, WIRE_EVENT_DISABLE));
}

bool dq_packed_rearm(struct sl_dq *dq)
{
	if (dq->event_idx)
		set_event(dq, WIRE_EVENT(dq->last_used, dq->used_wrap, WIRE_EVENT_DESC));
	else
		set_event(dq, WIRE_EVENT(0, 0, WIRE_EVENT_ENABLE));
	ring_fence(); /* pair D: our event before the device's flags */
	return is_used(ring_load16(&dq->ring[dq->last_used].flags), dq->used_wrap);
}
