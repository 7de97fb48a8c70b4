/* SPDX-License-Identifier: MIT */
/* rig.h - guest memory and driver-side queues for tests in one process.
 *
 * The same memfd is mapped twice, so that the driver's addresses, the device's
 * addresses and the guest physical addresses are three different things.
 */
#ifndef RIG_H
#define RIG_H

#include "t.h"

#include <sluice/dq.h>
#include <sluice/virtio.h>

#include <sys/mman.h>
#include <unistd.h>

#define RIG_GPA 0x40000000ULL

/**
 * struct rig - guest memory
 * @driver: the driver's mapping; offset 0 is guest physical address RIG_GPA
 * @mem:    the device's snapshot, with a mapping of its own
 * @used:   bytes handed out so far
 */
struct rig {
	int fd;
	size_t size, used;
	char *driver;
	struct sl_mapping *mapping;
	struct sl_mem *mem;
};

static inline void rig_open(struct rig *rig, size_t size)
{
	struct sl_mem_region r = {.gpa = RIG_GPA, .uva = RIG_GPA, .size = size, .access = SL_MEM_READ | SL_MEM_WRITE};

	*rig = (struct rig){.size = size};
	rig->fd = memfd_create("rig", MFD_CLOEXEC);
	REQUIRE(rig->fd >= 0 && ftruncate(rig->fd, (off_t)size) == 0);
	rig->driver = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, rig->fd, 0);
	REQUIRE(rig->driver != MAP_FAILED);
	rig->mapping = sl_mapping_new(rig->fd, 0, size, NULL);
	REQUIRE(rig->mapping);
	r.hva = sl_mapping_addr(rig->mapping);
	r.mapping = rig->mapping;
	rig->mem = sl_mem_new(&r, 1, NULL);
	REQUIRE(rig->mem);
}

static inline void rig_close(struct rig *rig)
{
	sl_mem_put(rig->mem);
	sl_mapping_put(rig->mapping);
	munmap(rig->driver, rig->size);
	close(rig->fd);
}

/* Zeroed guest memory. */
static inline void *rig_alloc(struct rig *rig, size_t size, size_t align)
{
	void *p;

	rig->used = (rig->used + align - 1) & ~(align - 1);
	REQUIRE(rig->used + size <= rig->size);
	p = rig->driver + rig->used;
	rig->used += size;
	memset(p, 0, size);
	return p;
}

static inline uint64_t rig_gpa(const struct rig *rig, const void *p)
{
	return RIG_GPA + (uint64_t)((const char *)p - rig->driver);
}

static inline struct sl_dq_buf rig_buf(const struct rig *rig, const void *p, uint32_t len)
{
	return (struct sl_dq_buf){rig_gpa(rig, p), len};
}

/** struct rig_queue - a driver-side queue and what the device is told about it */
struct rig_queue {
	struct sl_dq *dq;
	void *state;
	struct sl_queue_setup setup;
};

/* The ring features in @f decide the format. */
static inline void rig_queue(struct rig *rig, struct rig_queue *q, uint16_t num, const struct sl_features *f)
{
	bool packed = sl_features_has(f, SL_F_RING_PACKED), indirect = sl_features_has(f, SL_F_INDIRECT_DESC);
	struct sl_dq_layout layout;
	struct sl_dq_config cfg = {.num = num, .packed = packed, .event_idx = sl_features_has(f, SL_F_EVENT_IDX),
				   .indirect = indirect, .in_order = sl_features_has(f, SL_F_IN_ORDER)};

	sl_dq_layout(packed, num, &layout);
	cfg.ring = rig_alloc(rig, layout.size, 4096);
	cfg.state = q->state = aligned_alloc(64, (sl_dq_state_size(num) + 63) & ~(size_t)63);
	REQUIRE(q->state);
	if (indirect) {
		cfg.indirect_max = 8;
		cfg.indirect_min = 2;
		cfg.indirect_tables = rig_alloc(rig, (size_t)num * 8 * 16, 16);
		cfg.indirect_gpa = rig_gpa(rig, cfg.indirect_tables);
	}
	q->dq = sl_dq_init(&cfg);
	REQUIRE(q->dq);
	q->setup = (struct sl_queue_setup){
		.vq = {.num = num, .base = sl_dq_base(q->dq),
		       .desc = rig_gpa(rig, (char *)cfg.ring + layout.desc),
		       .driver = rig_gpa(rig, (char *)cfg.ring + layout.driver),
		       .device = rig_gpa(rig, (char *)cfg.ring + layout.device)},
		.kick_fd = -1, .call_fd = -1};
}

static inline void rig_queue_close(struct rig_queue *q)
{
	free(q->state);
	q->state = NULL;
}

#endif
