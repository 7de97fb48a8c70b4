/* SPDX-License-Identifier: MIT */
/* vq_packed.c - device side of a packed virtqueue (virtio 1.4, 2.8)
 *
 * Theory of operation: the used descriptors of a batch are written with their
 * flags left alone; publish then stores the flags of all but the first, and
 * the first one's last. The driver looks only at the first, so that the batch
 * becomes visible at once, and an inflight region sees one transaction.
 */
#include "ring/vq_impl.h"

static bool is_available(uint16_t flags, bool wrap)
{
	return !!(flags & WIRE_F_AVAIL) == wrap && !!(flags & WIRE_F_USED) != wrap;
}

/* All entries of the table belong to the chain; only their WRITE flag means anything (2.8.7). */
static int walk_indirect(struct sl_vq *vq, struct vq_walk *w, struct sl_chain *c, const struct wire_pdesc *d)
{
	struct vq_table t;
	int err;

	if (!vq->indirect)
		return vq_break(vq, "an indirect descriptor without the feature");
	if (d->flags & WIRE_F_NEXT)
		return vq_break(vq, "an indirect descriptor has a next one");
	err = vq_table_open(vq, &t, d->addr, d->len);
	for (uint32_t i = 0; !err && i < t.count; i++) {
		uint64_t raw[2];
		uint16_t flags;

		err = vq_table_fetch(vq, &t, i, raw);
		if (unlikely(err))
			break;
		flags = (uint16_t)(raw[1] >> 48);
		if (unlikely(flags & WIRE_F_INDIRECT))
			return vq_break(vq, "an indirect descriptor inside an indirect table");
		err = vq_walk_buffer(vq, w, c, raw[0], (uint32_t)raw[1], flags);
	}
	return err;
}

/* One descriptor of the ring, the @slots'th of its chain. 1: it was the last one. */
static int walk_desc(struct sl_vq *vq, struct vq_walk *w, struct sl_chain *c, const struct wire_pdesc *d,
		     uint16_t slots)
{
	int err;

	if (d->flags & WIRE_F_INDIRECT) {
		if (unlikely(slots > 1))
			return vq_break(vq, "an indirect descriptor inside a descriptor list");
		err = walk_indirect(vq, w, c, d);
		return err ? err : 1;
	}
	err = vq_walk_buffer(vq, w, c, d->addr, d->len, d->flags);
	return err ? err : !(d->flags & WIRE_F_NEXT);
}

static int check_id(struct sl_vq *vq, uint16_t id)
{
	if (unlikely(id >= vq->num))
		return vq_break(vq, "a buffer id is not less than the queue size");
	if (unlikely(vq->busy[id]))
		return vq_break(vq, "a buffer id is already in flight");
	return 0;
}

int vq_packed_pop(struct sl_vq *vq, struct sl_chain *c)
{
	uint16_t room = vq->num - vq->taken, slots = 0, slot = vq->next_avail;
	struct vq_record rec;
	struct wire_pdesc d;
	struct vq_walk w;
	uint16_t flags;
	int err;

	if (!room)
		return 0; /* every slot is ours: what the flags say is not about the driver */
	flags = ring_load16_acquire(&vq->ring[slot].flags); /* pair A */
	if (!is_available(flags, vq->avail_wrap))
		return 0;
	vq_walk_init(&w, c);
	rec = (struct vq_record){.first = vq->free_head, .next = vq->free_head};
	do {
		if (unlikely(slots == room)) {
			err = vq_break(vq, "a descriptor list is longer than the ring has room");
			break;
		}
		d = wire_fetch_pdesc(&vq->ring[slot]);
		if (!slots)
			d.flags = flags; /* the value that was judged, not a second look */
		slots++;
		if (++slot == vq->num)
			slot = 0;
		err = unlikely(vq->region) ? vq_inflight_packed_desc(vq, &rec, &d) : 0;
		if (likely(!err))
			err = walk_desc(vq, &w, c, &d, slots);
	} while (!err);
	__builtin_prefetch(&vq->ring[slot]);
	if (likely(err == 1))
		err = check_id(vq, d.id);
	if (likely(!err))
		err = vq_walk_done(vq, &w, c);
	if (unlikely(err))
		return vq_walk_abort(vq, &w, c, err);
	if (unlikely(vq->region))
		vq_inflight_packed_commit(vq, &rec, d.id);
	if (slot <= vq->next_avail)
		vq->avail_wrap = !vq->avail_wrap;
	vq->next_avail = slot;
	vq->taken += slots;
	vq_take(vq, c, d.id, slots);
	return 1;
}

/* A chain that a predecessor had in flight: its slots may be reused by now, the region has a copy. The copy is shared
 * with the front-end and judged like a ring. */
int vq_packed_resubmit(struct sl_vq *vq, struct sl_chain *c, const struct vq_resubmit *r)
{
	uint16_t slots = 0, i = r->entry, last = r->entry;
	struct wire_pdesc d = {0};
	struct vq_walk w;
	int err = 0;

	vq_walk_init(&w, c);
	while (!err) {
		const struct wire_inflight_packed_desc *e = &vq->region_packed->desc[i];

		d = (struct wire_pdesc){ring_load64(&e->addr), ring_load32(&e->len), ring_load16(&e->id),
					ring_load16(&e->flags)};
		last = i;
		i = ring_load16(&e->next);
		err = walk_desc(vq, &w, c, &d, ++slots);
		if (!err && (slots == r->slots || i >= vq->num))
			err = vq_break(vq, "the inflight region holds half a descriptor list");
	}
	if (err == 1)
		err = slots == r->slots ? check_id(vq, d.id)
					: vq_break(vq, "the inflight region miscounts a descriptor list");
	if (!err)
		err = vq_walk_done(vq, &w, c);
	if (err)
		return vq_walk_abort(vq, &w, c, err);
	vq->entries[d.id] = (struct vq_entry){r->entry, last};
	vq_take(vq, c, d.id, slots);
	return 1;
}

bool vq_packed_pending(const struct sl_vq *vq)
{
	return vq->taken < vq->num && is_available(ring_load16(&vq->ring[vq->next_avail].flags), vq->avail_wrap);
}

void vq_packed_stage(struct sl_vq *vq, uint16_t id, uint16_t slots, uint32_t len)
{
	struct wire_pdesc *d = &vq->ring[vq->next_used];
	struct vq_staged *s = &vq->stage[vq->stage_n++];

	ring_store32(&d->len, len);
	ring_store16(&d->id, id);
	s->slot = vq->next_used;
	s->flags = (uint16_t)((vq->used_wrap ? WIRE_F_AVAIL | WIRE_F_USED : 0) | (len ? WIRE_F_WRITE : 0));
	if (unlikely(vq->region)) {
		s->entry = vq->entries[id].first;
		s->last = vq->entries[id].last;
	}
	vq->busy[id] = 0;
	vq->staged += slots;
	if (slots >= vq->num - vq->next_used) {
		vq->used_wrap = !vq->used_wrap;
		vq->next_used = (uint16_t)(slots - (vq->num - vq->next_used));
	} else {
		vq->next_used += slots;
	}
}

bool vq_packed_publish(struct sl_vq *vq)
{
	uint16_t count = vq->staged;

	if (unlikely(vq->region))
		vq_inflight_packed_begin(vq);
	for (uint16_t i = 1; i < vq->stage_n; i++)
		ring_store16(&vq->ring[vq->stage[i].slot].flags, vq->stage[i].flags);
	ring_store16_release(&vq->ring[vq->stage[0].slot].flags, vq->stage[0].flags); /* pair B */
	if (unlikely(vq->region))
		vq_inflight_packed_end(vq);
	for (uint16_t i = 0; unlikely(vq->log) && i < vq->stage_n; i++)
		vq_log_ring(vq, vq->desc_gpa + 16ULL * vq->stage[i].slot, 16);
	vq->taken -= vq->staged;
	vq->staged = 0;
	vq->stage_n = 0;
	vq->pub_used = vq->next_used;
	vq->pub_wrap = vq->used_wrap;
	ring_fence(); /* pair D: flags before the driver's event */
	return wire_need_event_packed(ring_load32(vq->driver_event), vq->event_idx, vq->num, vq->pub_used, vq->pub_wrap,
				      count);
}

static void set_event(struct sl_vq *vq, uint32_t event)
{
	if (vq->event == event)
		return;
	vq->event = event;
	ring_store32(vq->device_event, event);
	vq_log_ring(vq, vq->device_gpa, 4);
}

void vq_packed_disarm(struct sl_vq *vq)
{
	set_event(vq, WIRE_EVENT(0, 0, WIRE_EVENT_DISABLE));
}

bool vq_packed_rearm(struct sl_vq *vq)
{
	if (vq->event_idx)
		set_event(vq, WIRE_EVENT(vq->next_avail, vq->avail_wrap, WIRE_EVENT_DESC));
	else
		set_event(vq, WIRE_EVENT(0, 0, WIRE_EVENT_ENABLE));
	ring_fence(); /* pair C: our event before the driver's flags */
	return vq_packed_pending(vq);
}
