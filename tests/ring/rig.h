/* SPDX-License-Identifier: MIT */
/* rig.h - driver and device of one queue in one process, over two mappings of the same memory.
 *
 * Guest memory is one memfd, mapped once for the driver side (drv) and once
 * for the device side (dev), so that an address of one is never valid for the
 * other. The ring lies at its start, indirect tables behind it, buffers behind
 * those.
 */
#ifndef RING_RIG_H
#define RING_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sluice/dq.h>
#include <sluice/memory.h>
#include <sluice/vq.h>

#include "ring/wire.h"

#define RIG_GPA 0x100000ULL

/**
 * struct rig_options - what kind of queue; the rest is derived
 * @indirect_max: entries of the driver's indirect tables; 0: none
 * @indirect_min: as in struct sl_dq_config
 * @buffers:  bytes of buffer memory behind the rings
 * @one_byte: cut the last @one_byte bytes of buffers and tables into regions of one byte each
 */
struct rig_options {
	uint16_t num;
	bool packed, event_idx, indirect, in_order;
	uint16_t indirect_max, indirect_min;
	size_t buffers;
	unsigned int one_byte;
	bool region;	  /* inflight region */
	bool one_mapping; /* both sides use the same addresses, so that ThreadSanitizer sees them meet */
};

struct rig {
	struct rig_options o;
	struct sl_dq_layout at;
	unsigned char *drv, *dev;     /* the two mappings */
	size_t size, tables, buffers; /* bytes; offsets of tables and buffers */
	struct sl_mem *mem;
	struct sl_vq_config cfg;
	struct sl_dq *dq;
	struct sl_vq *vq;
	void *state, *region;
};

void rig_open(struct rig *r, const struct rig_options *o);
void rig_close(struct rig *r);
/* A fresh dq on zeroed rings. */
void rig_new_dq(struct rig *r);
/* Start a vq at r->cfg; NULL when refused. */
struct sl_vq *rig_start(struct rig *r);

static inline uint64_t rig_buf(const struct rig *r, size_t off)
{
	return RIG_GPA + r->buffers + off;
}
/* The same place as the driver sees it. */
static inline unsigned char *rig_drv(const struct rig *r, uint64_t gpa)
{
	return r->drv + (gpa - RIG_GPA);
}
static inline unsigned char *rig_dev(const struct rig *r, uint64_t gpa)
{
	return r->dev + (gpa - RIG_GPA);
}
/* Raw views of the ring, through the driver's mapping. */
static inline struct wire_desc *rig_desc(const struct rig *r)
{
	return (void *)(r->drv + r->at.desc);
}
static inline struct wire_pdesc *rig_pdesc(const struct rig *r)
{
	return (void *)(r->drv + r->at.desc);
}
static inline struct wire_avail *rig_avail(const struct rig *r)
{
	return (void *)(r->drv + r->at.driver);
}
static inline struct wire_used *rig_used(const struct rig *r)
{
	return (void *)(r->drv + r->at.device);
}

/* A small deterministic generator (xorshift), seeded by the caller. */
static inline uint32_t rig_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return (uint32_t)(*s >> 32);
}
static inline uint32_t rig_below(uint64_t *s, uint32_t n)
{
	return (uint32_t)((uint64_t)rig_random(s) * n >> 32);
}

#endif
