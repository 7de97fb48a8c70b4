/* SPDX-License-Identifier: MIT */
/* dq_impl.h - what the files of the driver side share. Freestanding. */
#ifndef SLUICE_RING_DQ_IMPL_H
#define SLUICE_RING_DQ_IMPL_H

#include <sluice/dq.h>

#include "ring/wire.h"

#define DQ_NONE UINT16_MAX /* no entry; ids are at most 32767 */

/**
 * struct dq_entry - private state, by head (split) or buffer id (packed)
 * @cookie: of the chain with this head or id; NULL: none outstanding
 * @in_len: bytes offered for the device to write
 * @next:   next free entry; split: also the chain's next descriptor
 * @slots:  descriptors of the ring that the chain takes
 * @later:  in_order: the chain added after this one
 */
struct dq_entry {
	void *cookie;
	uint32_t in_len;
	uint16_t next, slots, later;
};

/**
 * struct sl_dq
 * @free_slots:  descriptors of the ring that are free
 * @outstanding: chains added and not got; @added of them not yet published
 * @free_head:   first free entry; in_order takes them in ring order, so what is freed goes to @free_tail
 * @next_avail:  split: free running, everything added included; packed: slot
 * @pub_avail:   split: what the available index says
 * @last_used:   split: free running; packed: slot
 * @used_seen:   split: used index as last read
 * @first_flags: packed: flags of the first descriptor added since the last publish, which makes all visible
 * @event:       packed: what the driver event area holds
 * @oldest, @newest: in_order: the outstanding chains, linked by @later
 * @batch:       in_order: last chain of a batch that the device used with one entry, or DQ_NONE
 */
struct sl_dq {
	bool packed, event_idx, in_order;
	bool avail_wrap, used_wrap;
	uint16_t num;
	uint16_t free_slots, free_head, free_tail;
	uint16_t outstanding, added;
	uint16_t next_avail, pub_avail, last_used, used_seen;
	uint16_t first_slot, first_flags, slots_added;
	uint32_t event;
	union {
		struct wire_desc *desc;
		struct wire_pdesc *ring;
	};
	union {
		struct wire_avail *avail;
		uint32_t *driver_event;
	};
	union {
		const struct wire_used *used;
		const uint32_t *device_event;
	};
	struct wire_desc *tables; /* num tables of indirect_max entries, or NULL */
	uint64_t tables_gpa;
	uint16_t indirect_max, indirect_min;
	uint16_t oldest, newest, batch;
	uint32_t batch_len;
	uint16_t detach_at;
	const char *broken;
	struct dq_entry entry[];
};

/* ---- dq.c ---- */

void dq_break(struct sl_dq *dq, const char *why);
/* Chain @id is over: free its entry and its @slots; returns the cookie. */
void *dq_finish(struct sl_dq *dq, uint16_t id);
/* Is @id outstanding and @len not too long for it? Otherwise the queue is broken. */
bool dq_check_used(struct sl_dq *dq, uint32_t id, uint32_t len);
/* The chain to hand out for a used entry that names @id: @id itself or, in a batch, the oldest. Adjusts *@len. */
uint16_t dq_in_order(struct sl_dq *dq, uint16_t id, uint32_t *len);

/* Would a chain of @n pieces go into an indirect table? */
static inline bool dq_wants_indirect(const struct sl_dq *dq, unsigned int n)
{
	return dq->tables && n >= dq->indirect_min && n <= dq->indirect_max;
}

/* ---- one pair of these for each format ---- */

void dq_split_add(struct sl_dq *dq, const struct sl_dq_buf *out, unsigned int out_n, const struct sl_dq_buf *in,
		  unsigned int n, uint16_t id, bool indirect);
bool dq_split_publish(struct sl_dq *dq);
bool dq_split_used(struct sl_dq *dq, uint16_t *id, uint32_t *len);
void dq_split_disarm(struct sl_dq *dq);
bool dq_split_rearm(struct sl_dq *dq);

void dq_packed_add(struct sl_dq *dq, const struct sl_dq_buf *out, unsigned int out_n, const struct sl_dq_buf *in,
		   unsigned int n, uint16_t id, bool indirect);
bool dq_packed_publish(struct sl_dq *dq);
bool dq_packed_used(struct sl_dq *dq, uint16_t *id, uint32_t *len);
void dq_packed_disarm(struct sl_dq *dq);
bool dq_packed_rearm(struct sl_dq *dq);

#endif
