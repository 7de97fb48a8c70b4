/* SPDX-License-Identifier: MIT */
/* dq.c - what both formats of a driver-side virtqueue share
 *
 * Freestanding: no allocation, no libc. The device may be hostile: everything
 * needed to free a chain is in private memory, the ring is only written to
 * and, where the device answers, read once and judged.
 */
#include "ring/dq_impl.h"

static size_t align_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

/* The areas that driver and device write lie in cache lines of their own. */
void sl_dq_layout(bool packed, uint16_t num, struct sl_dq_layout *out)
{
	out->desc = 0;
	out->driver = align_up(WIRE_DESC_SIZE * (size_t)num, 64);
	if (packed) {
		out->device = out->driver + 64;
		out->size = out->device + 64;
	} else {
		out->device = align_up(out->driver + WIRE_AVAIL_SIZE(num), 4096); /* where legacy devices expect it */
		out->size = out->device + align_up(WIRE_USED_SIZE(num), 64);
	}
}

size_t sl_dq_state_size(uint16_t num)
{
	return sizeof(struct sl_dq) + num * sizeof(struct dq_entry);
}

static bool legal(const struct sl_dq_config *cfg)
{
	if (!cfg->num || cfg->num > 32768 || (!cfg->packed && cfg->num & (cfg->num - 1)))
		return false;
	if (!cfg->ring || (uintptr_t)cfg->ring % 4096 || !cfg->state || (uintptr_t)cfg->state % 16)
		return false;
	return !cfg->indirect || !cfg->indirect_tables ||
	       ((uintptr_t)cfg->indirect_tables % 16 == 0 && cfg->indirect_gpa % 16 == 0);
}

struct sl_dq *sl_dq_init(const struct sl_dq_config *cfg)
{
	struct sl_dq_layout at;
	struct sl_dq *dq;

	if (!legal(cfg))
		return NULL;
	dq = cfg->state;
	*dq = (struct sl_dq){.packed = cfg->packed, .event_idx = cfg->event_idx, .in_order = cfg->in_order};
	dq->num = cfg->num;
	dq->avail_wrap = dq->used_wrap = true;
	dq->free_slots = dq->num;
	dq->free_tail = dq->num - 1;
	dq->oldest = dq->newest = dq->batch = DQ_NONE;
	if (cfg->indirect && cfg->indirect_tables) {
		dq->tables = cfg->indirect_tables;
		dq->tables_gpa = cfg->indirect_gpa;
		dq->indirect_max = cfg->indirect_max < dq->num ? cfg->indirect_max : dq->num;
		dq->indirect_min = cfg->indirect_min;
	}
	for (uint32_t i = 0; i < dq->num; i++)
		dq->entry[i] = (struct dq_entry){.next = i + 1 < dq->num ? (uint16_t)(i + 1) : DQ_NONE};
	sl_dq_layout(dq->packed, dq->num, &at);
	dq->desc = (void *)((char *)cfg->ring + at.desc);
	dq->avail = (void *)((char *)cfg->ring + at.driver);
	dq->used = (void *)((char *)cfg->ring + at.device);
	return dq;
}

void dq_break(struct sl_dq *dq, const char *why)
{
	if (!dq->broken)
		dq->broken = why;
}

/* ---- add ---- */

static uint32_t total(const struct sl_dq_buf *buf, unsigned int n)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < n; i++)
		sum += buf[i].len;
	return sum > UINT32_MAX ? UINT32_MAX : (uint32_t)sum;
}

bool sl_dq_add(struct sl_dq *dq, const struct sl_dq_buf *out, unsigned int out_n, const struct sl_dq_buf *in,
	       unsigned int in_n, void *cookie)
{
	unsigned int n = out_n + in_n;
	bool indirect = dq_wants_indirect(dq, n);
	uint16_t id = dq->free_head, slots = indirect ? 1 : (uint16_t)n;
	struct dq_entry *e;

	if (unlikely(dq->broken || !n || n > dq->num || slots > dq->free_slots))
		return false;
	e = &dq->entry[id];
	if (dq->packed) {
		dq->free_head = e->next;
		dq_packed_add(dq, out, out_n, in, n, id, indirect);
	} else {
		dq_split_add(dq, out, out_n, in, n, id, indirect); /* takes @slots entries off the free list */
	}
	if (dq->free_head == DQ_NONE)
		dq->free_tail = DQ_NONE;
	e->cookie = cookie;
	e->in_len = total(in, in_n);
	e->slots = slots;
	if (dq->in_order) {
		e->later = DQ_NONE;
		if (dq->oldest == DQ_NONE)
			dq->oldest = id;
		else
			dq->entry[dq->newest].later = id;
		dq->newest = id;
	}
	dq->free_slots -= slots;
	dq->outstanding++;
	dq->added++;
	return true;
}

bool sl_dq_publish(struct sl_dq *dq)
{
	bool kick;

	if (!dq->added || unlikely(dq->broken))
		return false;
	kick = dq->packed ? dq_packed_publish(dq) : dq_split_publish(dq);
	dq->added = 0;
	return kick;
}

uint16_t sl_dq_kick_data(const struct sl_dq *dq)
{
	return dq->packed ? (uint16_t)(dq->next_avail | dq->avail_wrap << 15) : dq->pub_avail;
}

/* ---- get ---- */

bool dq_check_used(struct sl_dq *dq, uint32_t id, uint32_t len)
{
	if (unlikely(id >= dq->num || !dq->entry[id].cookie)) {
		dq_break(dq, "the device used a chain that is not outstanding");
		return false;
	}
	if (unlikely(len > dq->entry[id].in_len)) {
		dq_break(dq, "the device wrote more than it was offered");
		return false;
	}
	return true;
}

/* With in_order one used entry may stand for all chains up to the one it names; the earlier ones count as used
 * completely (2.8.9). */
uint16_t dq_in_order(struct sl_dq *dq, uint16_t id, uint32_t *len)
{
	uint16_t oldest = dq->oldest;

	if (oldest == id) {
		dq->batch = DQ_NONE;
		return id;
	}
	dq->batch = id;
	dq->batch_len = *len;
	*len = dq->entry[oldest].in_len;
	return oldest;
}

void *dq_finish(struct sl_dq *dq, uint16_t id)
{
	struct dq_entry *e = &dq->entry[id];
	void *cookie = e->cookie;
	uint16_t last = id;

	e->cookie = NULL;
	if (dq->in_order)
		dq->oldest = e->later;
	for (uint16_t i = 1; !dq->packed && i < e->slots; i++)
		last = dq->entry[last].next;
	if (dq->free_head == DQ_NONE) {
		dq->free_head = id;
		dq->free_tail = last;
		dq->entry[last].next = DQ_NONE;
	} else if (dq->in_order) {
		dq->entry[dq->free_tail].next = id;
		dq->free_tail = last;
		dq->entry[last].next = DQ_NONE;
	} else {
		dq->entry[last].next = dq->free_head;
		dq->free_head = id;
	}
	dq->free_slots += e->slots;
	dq->outstanding--;
	return cookie;
}

void *sl_dq_get(struct sl_dq *dq, uint32_t *len)
{
	uint32_t n;
	uint16_t id;

	if (unlikely(dq->broken) || !(dq->packed ? dq_packed_used(dq, &id, &n) : dq_split_used(dq, &id, &n)))
		return NULL;
	if (len)
		*len = n;
	return dq_finish(dq, id);
}

void *sl_dq_detach(struct sl_dq *dq)
{
	while (dq->detach_at < dq->num) {
		struct dq_entry *e = &dq->entry[dq->detach_at++];
		void *cookie = e->cookie;

		if (cookie) {
			e->cookie = NULL;
			dq->outstanding--;
			return cookie;
		}
	}
	return NULL;
}

/* ---- notification ---- */

void sl_dq_disarm(struct sl_dq *dq)
{
	if (dq->packed)
		dq_packed_disarm(dq);
	else
		dq_split_disarm(dq);
}

bool sl_dq_rearm(struct sl_dq *dq)
{
	bool more = dq->packed ? dq_packed_rearm(dq) : dq_split_rearm(dq);

	return !dq->broken && (more || dq->batch != DQ_NONE);
}

unsigned int sl_dq_outstanding(const struct sl_dq *dq)
{
	return dq->outstanding;
}

const char *sl_dq_broken(const struct sl_dq *dq)
{
	return dq->broken;
}

uint32_t sl_dq_base(const struct sl_dq *dq)
{
	uint32_t at = (uint32_t)dq->last_used | (uint32_t)dq->used_wrap << 15;

	return dq->packed ? at | at << 16 : dq->last_used;
}
