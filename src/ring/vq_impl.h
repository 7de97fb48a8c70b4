/* SPDX-License-Identifier: MIT */
/* vq_impl.h - what the files of the device side share.
 *
 * vq.c        configuration, snapshots, scatter-gather blocks, dirty log; picks the format
 * vq_split.c  the split format
 * vq_packed.c the packed format
 * inflight.c  the vhost-user inflight region of both
 */
#ifndef SLUICE_RING_VQ_IMPL_H
#define SLUICE_RING_VQ_IMPL_H

#include <errno.h>
#include <sluice/vq.h>

#include "ring/wire.h"

/** struct sl_mem_hold - one snapshot that chains of this queue point into (not shared by threads)
 * @count: chains in flight that use it
 */
struct sl_mem_hold {
	struct sl_mem *mem;
	uint32_t count;
	struct sl_mem_hold *next;
};

/** struct vq_block - scatter-gather entries of one chain that needs more than SL_CHAIN_INLINE
 * @next, @prev: in use: the queue's list of blocks in use; free: @next only, the list of its grade
 */
struct vq_block {
	struct vq_block *next, **prev;
	uint32_t grade;
	struct iovec iov[];
};

#define VQ_GRADES    7	   /* see grade_entries() in vq.c */
#define VQ_CHAIN_MAX 65535 /* scatter-gather entries of one chain: sl_chain counts them in 16 bits */

/** struct vq_staged - a used descriptor (packed) written but for its flags; or a head (split, with an inflight region)
 * @slot:  where in the ring (packed)
 * @flags: what to store there (packed)
 * @entry: its entry in the inflight region: split: the head; packed: first entry of its list
 * @last:  packed: last entry of its list
 */
struct vq_staged {
	uint16_t slot, flags, entry, last;
};

/** struct vq_order - in_order: a chain in the order of pops */
struct vq_order {
	uint32_t len;
	uint16_t id, slots;
	bool done;
};

/** struct vq_entry - packed, with an inflight region: where the chain of a buffer id is recorded */
struct vq_entry {
	uint16_t first, last;
};

/** struct vq_resubmit - a chain found in flight in the inflight region; private, so it cannot change any more */
struct vq_resubmit {
	uint64_t counter;
	uint16_t entry, slots;
};

/**
 * struct sl_vq
 * @special:    something out of the ordinary for pop: broken, or chains to resubmit
 * @chain_max:  descriptors of one chain, see SL_VQ_CHAIN_MAX
 * @hint:       region of the last translation
 * @next_avail: split: free running; packed: slot
 * @avail_seen: split: available index as last read
 * @next_used:  position after everything staged
 * @pub_used:   position after everything published
 * @taken:      chains (split) or slots (packed) popped and not yet published; at most num
 * @inflight:   chains popped and not pushed
 * @staged:     chains (split) or slots (packed) staged
 * @event:      packed: what the device event area holds, so that it is written only to change it
 * @busy:       by head or id: in flight
 */
struct sl_vq {
	bool packed, event_idx, indirect, in_order;
	bool special;
	bool avail_wrap, used_wrap, pub_wrap;
	uint16_t num, chain_max;
	uint16_t next_avail, avail_seen, next_used, pub_used;
	uint16_t taken, inflight, staged;
	uint32_t event;
	union {
		struct wire_desc *desc;
		struct wire_pdesc *ring;
	};
	union {
		const struct wire_avail *avail;
		const uint32_t *driver_event;
	};
	union {
		struct wire_used *used;
		uint32_t *device_event;
	};
	uint8_t *busy;
	const struct sl_mem_region *hint;
	struct sl_mem_hold *hold;

	struct vq_staged *stage;
	uint16_t stage_n;

	struct vq_order *order; /* in_order: ring of num entries */
	uint16_t order_head, order_tail;

	union {
		struct wire_inflight_split *region_split;
		struct wire_inflight_packed *region_packed;
		void *region;
	};
	struct vq_entry *entries;
	uint16_t free_head; /* packed region: our copy */
	uint64_t counter;
	struct vq_resubmit *resubmit;
	uint16_t resubmit_at, resubmit_n;

	struct sl_dirty_log *log;
	bool log_ring;
	uint64_t log_addr;

	struct sl_mem_hold *old; /* snapshots before the current one that chains in flight still use */
	struct vq_block *free_blocks[VQ_GRADES], *used_blocks;
	size_t pool_bytes, pool_max;
	uint64_t desc_gpa, driver_gpa, device_gpa;
	const char *broken;
};

/* ---- vq.c ---- */

/** struct vq_walk - a chain being gathered
 * @descs:   descriptors seen, the ones of length 0 included
 * @out_n:   entries the driver wrote; valid once @writing
 */
struct vq_walk {
	struct iovec *iov;
	uint32_t n, cap, out_n, descs;
	bool writing;
	uint64_t bytes, out_bytes;
};

/* Break the ring, once. Returns -EPROTO. */
int vq_break(struct sl_vq *vq, const char *why);
int vq_walk_slow(struct sl_vq *vq, struct vq_walk *w, struct sl_chain *c, uint64_t gpa, uint32_t len);
/* Give back what the walk took; returns @err. */
int vq_walk_abort(struct sl_vq *vq, struct vq_walk *w, struct sl_chain *c, int err);
/* Mark @len bytes at @off of the logged ring; nothing when the ring is not logged. */
void vq_log_ring_slow(struct sl_vq *vq, uint64_t gpa, uint64_t len);

static inline void vq_log_ring(struct sl_vq *vq, uint64_t gpa, uint64_t len)
{
	if (unlikely(vq->log && vq->log_ring))
		vq_log_ring_slow(vq, gpa, len);
}

static inline void vq_walk_init(struct vq_walk *w, struct sl_chain *c)
{
	*w = (struct vq_walk){.iov = c->store, .cap = SL_CHAIN_INLINE};
}

/* Take one buffer into the chain. @len and @flags come from a private copy of a descriptor. */
static inline int vq_walk_buffer(struct sl_vq *vq, struct vq_walk *w, struct sl_chain *c, uint64_t gpa, uint32_t len,
				 uint16_t flags)
{
	const struct sl_mem_region *r = vq->hint;
	uint64_t off = gpa - r->gpa;

	if (unlikely(++w->descs > vq->chain_max))
		return vq_break(vq, "a descriptor chain is too long");
	if (flags & WIRE_F_WRITE) {
		if (!w->writing) {
			w->writing = true;
			w->out_n = w->n;
			w->out_bytes = w->bytes;
		}
	} else if (unlikely(w->writing)) {
		return vq_break(vq, "a device-readable descriptor follows a device-writable one");
	}
	if (unlikely(!len))
		return 0;
	w->bytes += len;
	if (likely(off < r->size && len <= r->size - off && w->n < w->cap &&
		   (r->access & (w->writing ? SL_MEM_WRITE : SL_MEM_READ)))) {
		w->iov[w->n].iov_base = (char *)r->hva + off;
		w->iov[w->n++].iov_len = len;
		return 0;
	}
	return vq_walk_slow(vq, w, c, gpa, len);
}

/* The walk is done: fill the chain. */
static inline int vq_walk_done(struct sl_vq *vq, struct vq_walk *w, struct sl_chain *c)
{
	if (!w->writing) {
		w->out_n = w->n;
		w->out_bytes = w->bytes;
	}
	if (unlikely(w->bytes > UINT32_MAX))
		return vq_break(vq, "a descriptor chain is longer than 4 GiB");
	c->iov = w->iov;
	c->out_cnt = (uint16_t)w->out_n;
	c->in_cnt = (uint16_t)(w->n - w->out_n);
	c->out = (struct sl_cursor){.iov = w->iov, .cnt = w->out_n, .bytes = w->out_bytes};
	c->in = (struct sl_cursor){.iov = w->iov + w->out_n, .cnt = w->n - w->out_n, .bytes = w->bytes - w->out_bytes};
	return 0;
}

/* An indirect table: @host when it lies in one region, otherwise read piece by piece. */
struct vq_table {
	const unsigned char *host;
	uint64_t gpa;
	uint32_t count;
};

/* Judge the table that a descriptor points to. */
int vq_table_open(struct sl_vq *vq, struct vq_table *t, uint64_t gpa, uint32_t len);
/* Fetch one entry, once; @dst takes 16 bytes. @i is less than @t->count. */
int vq_table_fetch_slow(struct sl_vq *vq, const struct vq_table *t, uint32_t i, void *dst);

static inline int vq_table_fetch(struct sl_vq *vq, const struct vq_table *t, uint32_t i, uint64_t dst[2])
{
	const unsigned char *p;

	if (unlikely(!t->host || (uintptr_t)t->host % 8))
		return vq_table_fetch_slow(vq, t, i, dst);
	p = t->host + (size_t)i * WIRE_DESC_SIZE;
	wire_fetch16(p, dst);
	return 0;
}

/* The chain @c is the device's from now on. */
static inline void vq_take(struct sl_vq *vq, struct sl_chain *c, uint16_t id, uint16_t slots)
{
	c->id = id;
	c->slots = slots;
	c->hold = vq->hold;
	vq->hold->count++;
	vq->busy[id] = 1;
	vq->inflight++;
	if (vq->in_order) {
		c->seq = vq->order_tail;
		if (++vq->order_tail == vq->num)
			vq->order_tail = 0;
	}
}

/* ---- one pair of these for each format ---- */

int vq_split_pop(struct sl_vq *vq, struct sl_chain *c);
int vq_split_resubmit(struct sl_vq *vq, struct sl_chain *c, const struct vq_resubmit *r);
bool vq_split_pending(const struct sl_vq *vq);
void vq_split_stage(struct sl_vq *vq, uint16_t id, uint32_t len);
bool vq_split_publish(struct sl_vq *vq);
void vq_split_disarm(struct sl_vq *vq);
bool vq_split_rearm(struct sl_vq *vq);

int vq_packed_pop(struct sl_vq *vq, struct sl_chain *c);
int vq_packed_resubmit(struct sl_vq *vq, struct sl_chain *c, const struct vq_resubmit *r);
bool vq_packed_pending(const struct sl_vq *vq);
void vq_packed_stage(struct sl_vq *vq, uint16_t id, uint16_t slots, uint32_t len);
bool vq_packed_publish(struct sl_vq *vq);
void vq_packed_disarm(struct sl_vq *vq);
bool vq_packed_rearm(struct sl_vq *vq);

/* ---- inflight.c; called only with a region ---- */

/* Recover the region and set the queue's positions by it. 0, or -errno with @err filled. */
int vq_inflight_open(struct sl_vq *vq, struct sl_err *err);
void vq_inflight_split_fetch(struct sl_vq *vq, uint16_t head);
void vq_inflight_split_begin(struct sl_vq *vq);
void vq_inflight_split_end(struct sl_vq *vq);

/** struct vq_record - a packed chain being recorded; nothing counts before the commit */
struct vq_record {
	uint16_t first, last, next, num;
};
int vq_inflight_packed_desc(struct sl_vq *vq, struct vq_record *rec, const struct wire_pdesc *d);
void vq_inflight_packed_commit(struct sl_vq *vq, const struct vq_record *rec, uint16_t id);
void vq_inflight_packed_begin(struct sl_vq *vq);
void vq_inflight_packed_end(struct sl_vq *vq);

#endif
