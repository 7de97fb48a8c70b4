/* SPDX-License-Identifier: MIT */
/* vq_split.c - device side of a split virtqueue (virtio 1.4, 2.7) */
#include "ring/vq_impl.h"

/* The rest of a chain lies in the indirect table that @d points to. */
static int walk_indirect(struct sl_vq *vq, struct vq_walk *w, struct sl_chain *c, const struct wire_desc *d)
{
	struct vq_table t;
	uint32_t i = 0;
	int err;

	if (!vq->indirect)
		return vq_break(vq, "an indirect descriptor without the feature");
	if (d->flags & WIRE_F_NEXT)
		return vq_break(vq, "an indirect descriptor has a next one");
	err = vq_table_open(vq, &t, d->addr, d->len);
	while (!err) {
		uint64_t raw[2];
		uint16_t flags;

		err = vq_table_fetch(vq, &t, i, raw);
		if (unlikely(err))
			break;
		flags = (uint16_t)(raw[1] >> 32);
		if (unlikely(flags & WIRE_F_INDIRECT))
			return vq_break(vq, "an indirect descriptor inside an indirect table");
		err = vq_walk_buffer(vq, w, c, raw[0], (uint32_t)raw[1], flags);
		if (unlikely(err) || !(flags & WIRE_F_NEXT))
			break;
		i = (uint32_t)(raw[1] >> 48);
		if (unlikely(i >= t.count))
			return vq_break(vq, "a descriptor's next lies beyond its indirect table");
	}
	return err;
}

/* Gather the chain at @head, which is less than num and not in flight. */
static int gather(struct sl_vq *vq, struct sl_chain *c, uint16_t head)
{
	struct vq_walk w;
	uint16_t i = head;
	int err;

	vq_walk_init(&w, c);
	for (;;) {
		struct wire_desc d = wire_fetch_desc(&vq->desc[i]);

		if (d.flags & WIRE_F_INDIRECT) {
			err = walk_indirect(vq, &w, c, &d);
			break;
		}
		err = vq_walk_buffer(vq, &w, c, d.addr, d.len, d.flags);
		if (unlikely(err) || !(d.flags & WIRE_F_NEXT))
			break;
		i = d.next;
		if (unlikely(i >= vq->num)) {
			err = vq_break(vq, "a descriptor's next lies beyond the table");
			break;
		}
	}
	if (likely(!err))
		err = vq_walk_done(vq, &w, c);
	return likely(!err) ? 0 : vq_walk_abort(vq, &w, c, err);
}

/* Chains that are looked ahead: at about 20 ns for each this hides the way to another processor's cache. */
#define AHEAD 8

/* Fetch the head's descriptor at @pos of the available ring into the cache; only a guess, hence the mask. */
static inline void look_ahead(const struct sl_vq *vq, uint16_t pos)
{
	uint16_t mask = vq->num - 1;

	__builtin_prefetch(&vq->desc[ring_load16(&vq->avail->ring[pos & mask]) & mask]);
}

int vq_split_pop(struct sl_vq *vq, struct sl_chain *c)
{
	uint16_t mask = vq->num - 1, head;
	int err;

	if (vq->avail_seen == vq->next_avail) {
		uint16_t idx = ring_load16_acquire(&vq->avail->idx); /* pair A */

		if (idx == vq->next_avail)
			return 0;
		if (unlikely((uint16_t)(idx - vq->next_avail) > vq->num))
			return vq_break(vq, "the available index jumped by more than the queue size");
		vq->avail_seen = idx;
		for (uint16_t i = 1; i < AHEAD && i < (uint16_t)(idx - vq->next_avail); i++)
			look_ahead(vq, vq->next_avail + i);
	}
	if (unlikely(vq->taken >= vq->num))
		return vq_break(vq, "more chains are available than the queue has entries");
	head = ring_load16(&vq->avail->ring[vq->next_avail & mask]);
	if (unlikely(head >= vq->num))
		return vq_break(vq, "an available head lies beyond the table");
	if (unlikely(vq->busy[head]))
		return vq_break(vq, "an available head is already in flight");
	if ((uint16_t)(vq->avail_seen - vq->next_avail) > AHEAD)
		look_ahead(vq, vq->next_avail + AHEAD);
	err = gather(vq, c, head);
	if (unlikely(err))
		return err;
	if (unlikely(vq->region))
		vq_inflight_split_fetch(vq, head);
	vq->next_avail++;
	vq->taken++;
	vq_take(vq, c, head, 1);
	return 1;
}

/* A chain that a predecessor had in flight; the region knows it already. */
int vq_split_resubmit(struct sl_vq *vq, struct sl_chain *c, const struct vq_resubmit *r)
{
	int err = gather(vq, c, r->entry);

	if (err)
		return err;
	vq_take(vq, c, r->entry, 1);
	return 1;
}

bool vq_split_pending(const struct sl_vq *vq)
{
	return vq->avail_seen != vq->next_avail || ring_load16(&vq->avail->idx) != vq->next_avail;
}

void vq_split_stage(struct sl_vq *vq, uint16_t id, uint32_t len)
{
	struct wire_used_elem *e = &vq->used->ring[vq->next_used & (vq->num - 1)];

	ring_store32(&e->id, id);
	ring_store32(&e->len, len);
	vq->next_used++;
	vq->staged++;
	vq->busy[id] = 0;
	if (unlikely(vq->region))
		vq->stage[vq->stage_n++].entry = id;
}

static void log_published(struct sl_vq *vq)
{
	uint16_t mask = vq->num - 1, first = vq->pub_used & mask;
	uint64_t ring = vq->log_addr + offsetof(struct wire_used, ring);
	uint32_t n = vq->staged, upto = n < (uint32_t)(vq->num - first) ? n : (uint32_t)(vq->num - first);

	vq_log_ring(vq, ring + 8ULL * first, 8ULL * upto);
	if (n > upto)
		vq_log_ring(vq, ring, 8ULL * (n - upto));
	vq_log_ring(vq, vq->log_addr, sizeof(struct wire_used));
}

bool vq_split_publish(struct sl_vq *vq)
{
	uint16_t old = vq->pub_used, now = vq->next_used;

	if (unlikely(vq->region))
		vq_inflight_split_begin(vq);
	ring_store16_release(&vq->used->idx, now); /* pair B */
	if (unlikely(vq->region))
		vq_inflight_split_end(vq);
	if (unlikely(vq->log))
		log_published(vq);
	vq->taken -= vq->staged;
	vq->staged = 0;
	vq->pub_used = now;
	ring_fence(); /* pair D: idx before the driver's event */
	if (vq->event_idx)
		return wire_need_event(ring_load16(&vq->avail->ring[vq->num]), now, old);
	return !(ring_load16(&vq->avail->flags) & WIRE_AVAIL_NO_INTERRUPT);
}

/* With event_idx the event stays behind us: the driver passes it again only after 65536 more chains. */
void vq_split_disarm(struct sl_vq *vq)
{
	if (vq->event_idx)
		return;
	ring_store16(&vq->used->flags, WIRE_USED_NO_NOTIFY);
	vq_log_ring(vq, vq->log_addr, sizeof(struct wire_used));
}

bool vq_split_rearm(struct sl_vq *vq)
{
	if (vq->event_idx) {
		ring_store16((uint16_t *)(void *)&vq->used->ring[vq->num], vq->next_avail);
		vq_log_ring(vq, vq->log_addr + offsetof(struct wire_used, ring) + 8ULL * vq->num, 2);
	} else {
		ring_store16(&vq->used->flags, 0);
		vq_log_ring(vq, vq->log_addr, sizeof(struct wire_used));
	}
	ring_fence(); /* pair C: our event before the driver's idx */
	return vq_split_pending(vq);
}
