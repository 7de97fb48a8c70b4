/* SPDX-License-Identifier: MIT */
/* vq.c - what both formats of a device-side virtqueue share
 *
 * Theory of operation: vq_split.c and vq_packed.c judge descriptors and move
 * the positions in the ring. Here is what is around them: the configuration,
 * the snapshots that chains in flight keep alive, the blocks that hold long
 * scatter-gather lists, the in-order hold-back, the dirty log.
 */
#include "ring/vq_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---- snapshots ---- */

static struct sl_mem_hold *hold_new(struct sl_mem *mem)
{
	struct sl_mem_hold *h = calloc(1, sizeof(*h));

	if (h)
		h->mem = sl_mem_get(mem);
	return h;
}

static void hold_free(struct sl_mem_hold *h)
{
	sl_mem_put(h->mem);
	free(h);
}

static void hold_put(struct sl_vq *vq, struct sl_mem_hold *h)
{
	if (--h->count || h == vq->hold)
		return;
	for (struct sl_mem_hold **p = &vq->old; *p; p = &(*p)->next) {
		if (*p == h) {
			*p = h->next;
			break;
		}
	}
	hold_free(h);
}

/* Remember the region of a translation that just succeeded. */
static void set_hint(struct sl_vq *vq, uint64_t gpa)
{
	unsigned int lo = 0, hi;
	const struct sl_mem_region *r = sl_mem_regions(vq->hold->mem, &hi);

	while (hi - lo > 1) {
		unsigned int mid = lo + (hi - lo) / 2;

		if (r[mid].gpa <= gpa)
			lo = mid;
		else
			hi = mid;
	}
	vq->hint = &r[lo];
}

/* ---- scatter-gather blocks ---- */

static uint32_t grade_entries(uint32_t grade)
{
	return grade < VQ_GRADES - 1 ? 32U << 2 * grade : 65536; /* 32, 128, 512, 2048, 8192, 32768, 65536 */
}

static size_t grade_bytes(uint32_t grade)
{
	return sizeof(struct vq_block) + grade_entries(grade) * sizeof(struct iovec);
}

static void free_blocks(struct sl_vq *vq)
{
	for (uint32_t grade = 0; grade < VQ_GRADES; grade++) {
		while (vq->free_blocks[grade]) {
			struct vq_block *b = vq->free_blocks[grade];

			vq->free_blocks[grade] = b->next;
			vq->pool_bytes -= grade_bytes(grade);
			free(b);
		}
	}
}

static struct vq_block *take_free(struct sl_vq *vq, uint32_t grade)
{
	struct vq_block *b = vq->free_blocks[grade];

	if (b)
		vq->free_blocks[grade] = b->next;
	return b;
}

static struct vq_block *block_new(struct sl_vq *vq, uint32_t grade)
{
	struct vq_block *b = NULL;

	if (vq->pool_bytes + grade_bytes(grade) <= vq->pool_max)
		b = malloc(grade_bytes(grade));
	if (!b)
		return NULL;
	b->grade = grade;
	vq->pool_bytes += grade_bytes(grade);
	return b;
}

/* A block of at least this grade: of the grade; a new one; a larger one that is kept; a new one in place of those that
 * are kept and too small. */
static struct vq_block *block_get(struct sl_vq *vq, uint32_t grade)
{
	struct vq_block *b = take_free(vq, grade);

	if (!b)
		b = block_new(vq, grade);
	for (uint32_t larger = grade + 1; !b && larger < VQ_GRADES; larger++)
		b = take_free(vq, larger);
	if (!b) {
		free_blocks(vq);
		b = block_new(vq, grade);
	}
	if (!b)
		return NULL;
	b->next = vq->used_blocks;
	b->prev = &vq->used_blocks;
	if (b->next)
		b->next->prev = &b->next;
	vq->used_blocks = b;
	return b;
}

static struct vq_block *block_of(struct iovec *iov)
{
	return (struct vq_block *)(void *)((char *)iov - offsetof(struct vq_block, iov));
}

static void block_put(struct sl_vq *vq, struct iovec *iov)
{
	struct vq_block *b = block_of(iov);

	*b->prev = b->next;
	if (b->next)
		b->next->prev = b->prev;
	b->next = vq->free_blocks[b->grade];
	vq->free_blocks[b->grade] = b;
}

static int grow(struct sl_vq *vq, struct vq_walk *w, struct sl_chain *c)
{
	uint32_t grade = w->iov == c->store ? 0 : block_of(w->iov)->grade + 1;
	struct vq_block *b;

	if (w->n == VQ_CHAIN_MAX)
		return vq_break(vq, "a chain falls into too many pieces of guest memory");
	b = block_get(vq, grade);
	if (!b)
		return -ENOBUFS;
	memcpy(b->iov, w->iov, w->n * sizeof(*w->iov));
	if (w->iov != c->store)
		block_put(vq, w->iov);
	w->iov = b->iov;
	w->cap = grade_entries(b->grade) < VQ_CHAIN_MAX ? grade_entries(b->grade) : VQ_CHAIN_MAX;
	return 0;
}

/* ---- gathering ---- */

int vq_break(struct sl_vq *vq, const char *why)
{
	if (!vq->broken)
		vq->broken = why;
	vq->special = true;
	return -EPROTO;
}

int vq_walk_abort(struct sl_vq *vq, struct vq_walk *w, struct sl_chain *c, int err)
{
	if (w->iov != c->store)
		block_put(vq, w->iov);
	return err;
}

/* The buffer is not wholly inside the region of the last one, or there is no room for its entry. */
int vq_walk_slow(struct sl_vq *vq, struct vq_walk *w, struct sl_chain *c, uint64_t gpa, uint32_t len)
{
	uint64_t left = len;

	if (gpa + (len - 1) < gpa)
		return vq_break(vq, "a descriptor's address and length wrap");
	while (left) {
		uint64_t n = left;
		void *p = sl_mem_at(vq->hold->mem, gpa, &n, w->writing ? SL_MEM_WRITE : SL_MEM_READ);

		if (!p)
			return vq_break(vq, "a descriptor points outside guest memory");
		if (w->n == w->cap) {
			int err = grow(vq, w, c);

			if (err)
				return err;
		}
		w->iov[w->n].iov_base = p;
		w->iov[w->n++].iov_len = n;
		set_hint(vq, gpa);
		gpa += n;
		left -= n;
	}
	return 0;
}

int vq_table_open(struct sl_vq *vq, struct vq_table *t, uint64_t gpa, uint32_t len)
{
	uint64_t n = len;

	if (unlikely(!len || len % WIRE_DESC_SIZE))
		return vq_break(vq, "an indirect table's length is 0 or no multiple of 16");
	if (unlikely(gpa + (len - 1) < gpa))
		return vq_break(vq, "an indirect table's address and length wrap");
	t->gpa = gpa;
	t->count = len / WIRE_DESC_SIZE;
	if (likely(gpa - vq->hint->gpa < vq->hint->size && len <= vq->hint->size - (gpa - vq->hint->gpa) &&
		   vq->hint->access & SL_MEM_READ)) {
		t->host = (const unsigned char *)vq->hint->hva + (gpa - vq->hint->gpa);
		return 0;
	}
	t->host = sl_mem_at(vq->hold->mem, gpa, &n, SL_MEM_READ);
	if (!t->host)
		return vq_break(vq, "an indirect table lies outside guest memory");
	if (n < len)
		t->host = NULL;
	return 0;
}

/* The table is not aligned to 8 bytes (legal) or crosses regions. Each byte is read once. */
int vq_table_fetch_slow(struct sl_vq *vq, const struct vq_table *t, uint32_t i, void *dst)
{
	unsigned char *to = dst;

	if (!t->host) {
		if (sl_mem_read(vq->hold->mem, t->gpa + (uint64_t)i * WIRE_DESC_SIZE, dst, WIRE_DESC_SIZE))
			return vq_break(vq, "an indirect table lies outside guest memory");
		return 0;
	}
	for (size_t k = 0; k < WIRE_DESC_SIZE; k++)
		to[k] = ring_load8(t->host + (size_t)i * WIRE_DESC_SIZE + k);
	return 0;
}

/* ---- dirty log ---- */

static void log_host_range(struct sl_vq *vq, const struct sl_mem *mem, const void *p, size_t len)
{
	uint64_t gpa;

	if (len && sl_mem_hva_to_gpa(mem, p, &gpa))
		sl_dirty_log_mark(vq->log, gpa, len);
}

/* Everything the device may have written, as the driver offered it: entries wholly used up are whole again, the two
 * at the ends of what is left are completed by the cuts. */
static void log_chain(struct sl_vq *vq, const struct sl_chain *c)
{
	const struct iovec *first = c->in.iov, *last = first + c->in.cnt - 1;

	for (const struct iovec *v = c->iov + c->out_cnt; v < c->iov + c->out_cnt + c->in_cnt; v++) {
		const char *p = v->iov_base;
		size_t len = v->iov_len;

		if (c->in.cnt && v == first) {
			p -= c->in.front_cut;
			len += c->in.front_cut;
		}
		if (c->in.cnt && v == last)
			len += c->in.back_cut;
		log_host_range(vq, c->hold->mem, p, len);
	}
}

void vq_log_ring_slow(struct sl_vq *vq, uint64_t gpa, uint64_t len)
{
	sl_dirty_log_mark(vq->log, gpa, len);
}

void sl_vq_set_log(struct sl_vq *vq, struct sl_dirty_log *log, bool log_ring, uint64_t log_addr)
{
	struct sl_dirty_log *old = vq->log;

	vq->log = log ? sl_dirty_log_get(log) : NULL;
	vq->log_ring = log_ring;
	vq->log_addr = log_addr;
	sl_dirty_log_put(old);
}

/* ---- start and end ---- */

static void *ring_part(struct sl_mem *mem, uint64_t gpa, uint64_t len, unsigned int align, unsigned int access)
{
	void *p = sl_mem_range(mem, gpa, len, access);

	return (uintptr_t)p % align ? NULL : p;
}

/* Find the ring's three parts in @mem; false, and nothing changed, when one is not there in one piece. */
static bool map_ring(struct sl_vq *vq, struct sl_mem *mem)
{
	uint64_t desc_size = (uint64_t)WIRE_DESC_SIZE * vq->num;
	unsigned int rw = SL_MEM_READ | SL_MEM_WRITE;
	void *desc, *driver, *device;

	if (vq->packed) {
		desc = ring_part(mem, vq->desc_gpa, desc_size, 16, rw);
		driver = ring_part(mem, vq->driver_gpa, 4, 4, SL_MEM_READ);
		device = ring_part(mem, vq->device_gpa, 4, 4, rw);
	} else {
		desc = ring_part(mem, vq->desc_gpa, desc_size, 16, SL_MEM_READ);
		driver = ring_part(mem, vq->driver_gpa, WIRE_AVAIL_SIZE(vq->num), 2, SL_MEM_READ);
		device = ring_part(mem, vq->device_gpa, WIRE_USED_SIZE(vq->num), 4, rw);
	}
	if (!desc || !driver || !device)
		return false;
	vq->desc = desc;
	vq->avail = driver;
	vq->used = device;
	return true;
}

static int check_config(const struct sl_vq_config *cfg, struct sl_err *err)
{
	if (!cfg->num || cfg->num > SL_VQ_MAX_SIZE)
		return sl_err_set(err, EINVAL, "queue: size %u: not between 1 and 32768", cfg->num);
	if (!cfg->packed && cfg->num & (cfg->num - 1))
		return sl_err_set(err, EINVAL, "queue: size %u: a split ring needs a power of two", cfg->num);
	if (cfg->desc % 16 || cfg->driver % (cfg->packed ? 4 : 2) || cfg->device % 4)
		return sl_err_set(err, EINVAL, "queue: ring addresses: not aligned");
	if (cfg->packed && ((cfg->base & 0x7fff) >= cfg->num || (cfg->base >> 16 & 0x7fff) >= cfg->num))
		return sl_err_set(err, EINVAL, "queue: base %#x: beyond the ring", cfg->base);
	return 0;
}

/* Slots from the used to the available position of a packed base; more than num when they contradict each other. */
static uint32_t packed_distance(const struct sl_vq *vq)
{
	if (vq->avail_wrap == vq->used_wrap)
		return vq->next_avail >= vq->next_used ? (uint32_t)(vq->next_avail - vq->next_used) : UINT32_MAX;
	return (uint32_t)vq->num + vq->next_avail - vq->next_used;
}

static int set_base(struct sl_vq *vq, uint32_t base, struct sl_err *err)
{
	if (!vq->packed) {
		vq->next_avail = vq->avail_seen = (uint16_t)base;
		vq->next_used = vq->pub_used = ring_load16(&vq->used->idx);
		return 0;
	}
	vq->next_avail = base & 0x7fff;
	vq->avail_wrap = base >> 15 & 1;
	vq->next_used = vq->pub_used = base >> 16 & 0x7fff;
	vq->used_wrap = vq->pub_wrap = base >> 31;
	if (packed_distance(vq) > vq->num)
		return sl_err_set(err, EINVAL, "queue: base %#x: used position after the available one", base);
	/* Without an inflight region what lies between the two positions never comes back. */
	vq->taken = (uint16_t)packed_distance(vq);
	return 0;
}

static bool alloc_state(struct sl_vq *vq)
{
	vq->busy = calloc(vq->num, sizeof(*vq->busy));
	if (vq->packed || vq->region)
		vq->stage = calloc(vq->num, sizeof(*vq->stage));
	if (vq->in_order)
		vq->order = calloc(vq->num, sizeof(*vq->order));
	if (vq->packed && vq->region)
		vq->entries = calloc(vq->num, sizeof(*vq->entries));
	return vq->busy && (vq->stage || !(vq->packed || vq->region)) && (vq->order || !vq->in_order) &&
	       (vq->entries || !(vq->packed && vq->region));
}

/* 2 MiB hold a chain of VQ_CHAIN_MAX entries while it grows; a larger queue may have more in flight. */
static size_t pool_limit(uint16_t num)
{
	size_t n = (size_t)num * 4096;

	return n < 2 << 20 ? 2 << 20 : n > 16 << 20 ? 16 << 20 : n;
}

static struct sl_vq *alloc_queue(const struct sl_vq_config *cfg, struct sl_mem *mem)
{
	struct sl_vq *vq = calloc(1, sizeof(*vq));

	if (!vq)
		return NULL;
	vq->hold = hold_new(mem);
	if (!vq->hold) {
		free(vq);
		return NULL;
	}
	vq->packed = cfg->packed;
	vq->event_idx = cfg->event_idx;
	vq->indirect = cfg->indirect;
	vq->in_order = cfg->in_order;
	vq->num = vq->chain_max = cfg->num;
	if (cfg->indirect && vq->chain_max < SL_VQ_CHAIN_MAX)
		vq->chain_max = SL_VQ_CHAIN_MAX;
	vq->event = UINT32_MAX;
	vq->desc_gpa = cfg->desc;
	vq->driver_gpa = cfg->driver;
	vq->device_gpa = cfg->device;
	vq->region = cfg->inflight;
	vq->pool_max = pool_limit(cfg->num);
	sl_vq_set_log(vq, cfg->log, cfg->log_ring, cfg->log_addr);
	return vq;
}

static int set_up(struct sl_vq *vq, const struct sl_vq_config *cfg, struct sl_mem *mem, struct sl_err *err)
{
	int ret;

	if (!map_ring(vq, mem))
		return sl_err_set(err, EFAULT, "queue: ring addresses: not in guest memory, or not in one piece of it");
	set_hint(vq, cfg->desc);
	if (!alloc_state(vq))
		return sl_err_set(err, ENOMEM, "queue: out of memory");
	ret = set_base(vq, cfg->base, err);
	return !ret && vq->region ? vq_inflight_open(vq, err) : ret;
}

struct sl_vq *sl_vq_new(const struct sl_vq_config *cfg, struct sl_mem *mem, struct sl_err *err)
{
	struct sl_vq *vq = NULL;
	int ret = check_config(cfg, err);

	if (!ret) {
		vq = alloc_queue(cfg, mem);
		ret = vq ? set_up(vq, cfg, mem, err) : sl_err_set(err, ENOMEM, "queue: out of memory");
	}
	if (!ret)
		return vq;
	sl_vq_free(vq);
	errno = -ret;
	return NULL;
}

bool sl_vq_positions(const struct sl_vq_config *cfg, struct sl_mem *mem, uint16_t *avail, uint16_t *used)
{
	const struct wire_avail *a;
	const struct wire_used *u;

	if (cfg->packed)
		return false;
	a = sl_mem_range(mem, cfg->driver, WIRE_AVAIL_SIZE(cfg->num), SL_MEM_READ);
	u = sl_mem_range(mem, cfg->device, WIRE_USED_SIZE(cfg->num), SL_MEM_READ);
	if (!a || !u)
		return false;
	*avail = ring_load16(&a->idx);
	*used = ring_load16(&u->idx);
	return true;
}

void sl_vq_free(struct sl_vq *vq)
{
	if (!vq)
		return;
	sl_dirty_log_put(vq->log);
	while (vq->used_blocks)
		block_put(vq, vq->used_blocks->iov);
	free_blocks(vq);
	while (vq->old) {
		struct sl_mem_hold *h = vq->old;

		vq->old = h->next;
		hold_free(h);
	}
	hold_free(vq->hold);
	free(vq->busy);
	free(vq->stage);
	free(vq->order);
	free(vq->entries);
	free(vq->resubmit);
	free(vq);
}

int sl_vq_set_mem(struct sl_vq *vq, struct sl_mem *mem)
{
	struct sl_mem_hold *h, *old = vq->hold;

	if (vq->broken)
		return -EFAULT;
	h = hold_new(mem);
	if (!h || !map_ring(vq, mem)) {
		if (h)
			hold_free(h);
		vq_break(vq, h ? "the ring is not in the new guest memory" : "out of memory");
		return -EFAULT;
	}
	vq->hold = h;
	set_hint(vq, vq->desc_gpa);
	if (old->count) {
		old->next = vq->old;
		vq->old = old;
	} else {
		hold_free(old);
	}
	return 0;
}

/* ---- the queue ---- */

static int pop_special(struct sl_vq *vq, struct sl_chain *c)
{
	const struct vq_resubmit *r;
	int ret;

	if (vq->broken)
		return -EPROTO;
	r = &vq->resubmit[vq->resubmit_at];
	ret = vq->packed ? vq_packed_resubmit(vq, c, r) : vq_split_resubmit(vq, c, r);
	if (ret == 1 && ++vq->resubmit_at == vq->resubmit_n) {
		free(vq->resubmit);
		vq->resubmit = NULL;
		vq->special = false;
	}
	return ret;
}

unsigned int sl_vq_resubmits(const struct sl_vq *vq)
{
	return vq->resubmit ? (unsigned int)(vq->resubmit_n - vq->resubmit_at) : 0;
}

int sl_vq_pop(struct sl_vq *vq, struct sl_chain *c)
{
	if (unlikely(vq->special))
		return pop_special(vq, c);
	return vq->packed ? vq_packed_pop(vq, c) : vq_split_pop(vq, c);
}

bool sl_vq_pending(const struct sl_vq *vq)
{
	if (unlikely(vq->special))
		return !vq->broken;
	return vq->packed ? vq_packed_pending(vq) : vq_split_pending(vq);
}

static inline void stage(struct sl_vq *vq, uint16_t id, uint16_t slots, uint32_t len)
{
	if (vq->packed)
		vq_packed_stage(vq, id, slots, len);
	else
		vq_split_stage(vq, id, len);
}

/* Hold @c back until all that were popped before it are pushed. */
static void stage_in_order(struct sl_vq *vq, const struct sl_chain *c, uint32_t len)
{
	struct vq_order *o = &vq->order[c->seq];

	*o = (struct vq_order){.len = len, .id = c->id, .slots = c->slots, .done = true};
	while ((o = &vq->order[vq->order_head])->done) {
		o->done = false;
		stage(vq, o->id, o->slots, o->len);
		if (++vq->order_head == vq->num)
			vq->order_head = 0;
	}
}

void sl_vq_push(struct sl_vq *vq, struct sl_chain *c, uint32_t len)
{
	if (unlikely(vq->log))
		log_chain(vq, c);
	if (unlikely(c->iov != c->store))
		block_put(vq, c->iov);
	hold_put(vq, c->hold);
	vq->inflight--;
	if (unlikely(vq->broken))
		return;
	if (vq->in_order)
		stage_in_order(vq, c, len);
	else
		stage(vq, c->id, c->slots, len);
}

bool sl_vq_publish(struct sl_vq *vq)
{
	if (!vq->staged || unlikely(vq->broken))
		return false;
	return vq->packed ? vq_packed_publish(vq) : vq_split_publish(vq);
}

void sl_vq_disarm(struct sl_vq *vq)
{
	if (unlikely(vq->broken))
		return;
	if (vq->packed)
		vq_packed_disarm(vq);
	else
		vq_split_disarm(vq);
}

bool sl_vq_rearm(struct sl_vq *vq)
{
	bool more;

	if (unlikely(vq->broken))
		return false;
	more = vq->packed ? vq_packed_rearm(vq) : vq_split_rearm(vq);
	return more || unlikely(vq->special);
}

uint32_t sl_vq_base(const struct sl_vq *vq)
{
	if (!vq->packed)
		return vq->next_avail;
	return (uint32_t)vq->next_avail | (uint32_t)vq->avail_wrap << 15 | (uint32_t)vq->pub_used << 16 |
	       (uint32_t)vq->pub_wrap << 31;
}

unsigned int sl_vq_inflight(const struct sl_vq *vq)
{
	return vq->inflight;
}

const char *sl_vq_broken(const struct sl_vq *vq)
{
	return vq->broken;
}
