/* SPDX-License-Identifier: MIT */
/* rig.c - set up and tear down of the two-sided rig */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static size_t up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

static void make_map(struct rig *r)
{
	unsigned int n = r->o.one_byte, i;
	struct sl_mem_region *reg = calloc(n + 1, sizeof(*reg));
	struct sl_err err = {0};

	if (!reg)
		die("calloc");
	reg[0] = (struct sl_mem_region){
	    .gpa = RIG_GPA, .size = r->size - n, .uva = RIG_GPA, .hva = r->dev, .access = SL_MEM_READ | SL_MEM_WRITE};
	for (i = 1; i <= n; i++) {
		reg[i] = reg[0];
		reg[i].size = 1;
		reg[i].gpa = reg[i].uva = RIG_GPA + r->size - n + i - 1;
		reg[i].hva = r->dev + r->size - n + i - 1;
	}
	r->mem = sl_mem_new(reg, n + 1, &err);
	if (!r->mem) {
		fprintf(stderr, "%s\n", err.text);
		exit(1);
	}
	free(reg);
}

void rig_open(struct rig *r, const struct rig_options *o)
{
	int fd = memfd_create("rig", 0);

	memset(r, 0, sizeof(*r));
	r->o = *o;
	sl_dq_layout(o->packed, o->num, &r->at);
	r->tables = up(r->at.size, 4096);
	r->buffers = r->tables + up((size_t)o->num * o->indirect_max * 16, 4096);
	r->size = up(r->buffers + o->buffers, 4096);
	if (fd < 0 || ftruncate(fd, (off_t)r->size))
		die("memfd");
	r->drv = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	r->dev = o->one_mapping ? r->drv : mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (r->drv == MAP_FAILED || r->dev == MAP_FAILED)
		die("mmap");
	close(fd);
	make_map(r);
	r->state = aligned_alloc(16, up(sl_dq_state_size(o->num), 16));
	r->region = o->region ? calloc(1, sl_inflight_size(o->packed, o->num)) : NULL;
	if (!r->state || (o->region && !r->region))
		die("alloc");
	r->cfg = (struct sl_vq_config){
	    .num = o->num,
	    .packed = o->packed,
	    .event_idx = o->event_idx,
	    .indirect = o->indirect,
	    .in_order = o->in_order,
	    .desc = RIG_GPA + r->at.desc,
	    .driver = RIG_GPA + r->at.driver,
	    .device = RIG_GPA + r->at.device,
	    .inflight = r->region,
	};
	rig_new_dq(r);
}

void rig_new_dq(struct rig *r)
{
	struct sl_dq_config cfg = {
	    .num = r->o.num,
	    .packed = r->o.packed,
	    .event_idx = r->o.event_idx,
	    .indirect = r->o.indirect,
	    .in_order = r->o.in_order,
	    .ring = r->drv,
	    .state = r->state,
	    .indirect_tables = r->o.indirect_max ? r->drv + r->tables : NULL,
	    .indirect_gpa = RIG_GPA + r->tables,
	    .indirect_max = r->o.indirect_max,
	    .indirect_min = r->o.indirect_min,
	};

	for (size_t i = 0; i < r->at.size; i += 8) /* a racing writer may be at work */
		ring_store64((uint64_t *)(void *)(r->drv + i), 0);
	r->dq = sl_dq_init(&cfg);
	if (!r->dq) {
		fprintf(stderr, "sl_dq_init refused\n");
		exit(1);
	}
	r->cfg.base = sl_dq_base(r->dq);
}

struct sl_vq *rig_start(struct rig *r)
{
	struct sl_err err = {0};

	r->vq = sl_vq_new(&r->cfg, r->mem, &err);
	return r->vq;
}

void rig_close(struct rig *r)
{
	sl_vq_free(r->vq);
	sl_mem_put(r->mem);
	munmap(r->drv, r->size);
	if (r->dev != r->drv)
		munmap(r->dev, r->size);
	free(r->state);
	free(r->region);
}
