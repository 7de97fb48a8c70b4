/* SPDX-License-Identifier: MIT */
/* vhost_user_memory.c - vhost-user server: guest memory, dirty log, inflight region
 *
 * The snapshot in use is never changed. Memory that only grows is put under
 * the running rings at once. A message that may take memory away (a new
 * table, a removed region) first stops the rings, because once it is
 * acknowledged the front-end may give that memory to somebody else; the rings
 * then start again where they stopped, with their addresses translated anew.
 *
 * A descriptor is needed only while it is mapped; none is kept.
 */
#include "transport/vhost_user_server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct sl_mem *snapshot(struct sl_vhost_user_server *s, const struct sl_mem_region *regions, unsigned int n)
{
	struct sl_err err = {0};
	struct sl_mem *mem = sl_mem_new(regions, n, &err);

	if (!mem)
		vus_complain(s, "%s: %s", vu_request_name(s->conn->in.h.request), err.text);
	return mem;
}

/* Map one region of a message; its mapping is the caller's to put. */
static int map_region(struct sl_vhost_user_server *s, const struct vu_region *from, int fd, struct sl_mem_region *to)
{
	struct sl_err err = {0};

	to->gpa = from->gpa;
	to->size = from->size;
	to->uva = from->uva;
	to->access = SL_MEM_READ | SL_MEM_WRITE;
	to->mapping = sl_mapping_new(fd, from->mmap_offset, from->size, &err);
	if (!to->mapping) {
		vus_complain(s, "%s: %s", vu_request_name(s->conn->in.h.request), err.text);
		return -EINVAL;
	}
	to->hva = sl_mapping_addr(to->mapping);
	return 0;
}

static void use_memory(struct sl_vhost_user_server *s, struct sl_mem *mem)
{
	sl_mem_put(s->mem);
	s->mem = mem;
	vus_rings_start(s);
}

static int swap_memory(struct sl_vhost_user_server *s)
{
	struct sl_mem *mem = s->next_mem;

	s->next_mem = NULL;
	use_memory(s, mem);
	return VUS_OK;
}

/* Some memory may be taken away: no ring may run while that happens. */
static int replace_memory(struct sl_vhost_user_server *s, struct sl_mem *mem)
{
	if (!mem)
		return -EINVAL;
	s->next_mem = mem;
	vus_rings_stop(s, VUS_KEEP);
	return vus_when_drained(s, swap_memory);
}

int vus_set_mem_table(struct sl_vhost_user_server *s)
{
	struct vu_msg *m = &s->conn->in;
	struct sl_mem_region regions[VU_TABLE_REGIONS] = {0};
	unsigned int n = m->p.table.n, mapped = 0;
	struct sl_mem *mem = NULL;

	while (mapped < n && !map_region(s, &m->p.table.region[mapped], m->fds[mapped], &regions[mapped]))
		mapped++;
	if (mapped == n)
		mem = snapshot(s, regions, n);
	for (unsigned int i = 0; i < mapped; i++)
		sl_mapping_put(regions[i].mapping);
	return replace_memory(s, mem);
}

/* A copy of the regions in use with room for one more; NULL: no memory. */
static struct sl_mem_region *copy_regions(struct sl_vhost_user_server *s, unsigned int *n)
{
	const struct sl_mem_region *now = sl_mem_regions(s->mem, n);
	struct sl_mem_region *copy = calloc(*n + 1, sizeof(*copy));

	if (copy && *n)
		memcpy(copy, now, *n * sizeof(*copy));
	return copy;
}

int vus_add_mem_reg(struct sl_vhost_user_server *s)
{
	struct vu_msg *m = &s->conn->in;
	struct sl_mem_region *regions;
	struct sl_mem *mem = NULL;
	unsigned int n;

	regions = copy_regions(s, &n);
	if (!regions)
		return -ENOMEM;
	if (n < SL_MEM_MAX_REGIONS && !map_region(s, &m->p.reg.region, m->fds[0], &regions[n])) {
		mem = snapshot(s, regions, n + 1);
		sl_mapping_put(regions[n].mapping);
	}
	free(regions);
	if (!mem)
		return -EINVAL;
	sl_device_set_mem(s->device, mem);
	use_memory(s, mem);
	return VUS_OK;
}

int vus_rem_mem_reg(struct sl_vhost_user_server *s)
{
	const struct vu_region *gone = &s->conn->in.p.reg.region;
	struct sl_mem_region *regions;
	struct sl_mem *mem = NULL;
	unsigned int n, i;

	regions = copy_regions(s, &n);
	if (!regions)
		return -ENOMEM;
	for (i = 0; i < n; i++)
		if (regions[i].gpa == gone->gpa && regions[i].size == gone->size && regions[i].uva == gone->uva)
			break;
	if (i < n) {
		regions[i] = regions[n - 1];
		mem = snapshot(s, regions, n - 1);
	}
	free(regions);
	return replace_memory(s, mem);
}

int vus_set_log_base(struct sl_vhost_user_server *s)
{
	struct vu_msg *m = &s->conn->in;
	struct sl_err err = {0};
	struct sl_mapping *mapping = sl_mapping_new(m->fds[0], m->p.log.offset, m->p.log.size, &err);
	struct sl_dirty_log *log = mapping ? sl_dirty_log_new(mapping, m->p.log.size) : NULL;

	if (mapping)
		sl_mapping_put(mapping);
	if (log) {
		struct sl_dirty_log *old = s->log;

		s->log = log;
		vus_rings_log(s);
		sl_dirty_log_put(old);
	} else {
		vus_complain(s, "SET_LOG_BASE: %s", mapping ? "out of memory" : err.text);
	}
	/* Always answered with a u64, wanted or not (QEMU, DPDK). */
	vus_answer(s, sizeof(uint64_t));
	s->conn->out.p.u64 = !log;
	return VUS_ANSWER;
}

/* Bytes for one queue: enough for the format in use, or for both while none is. */
static uint64_t inflight_need(const struct sl_vhost_user_server *s, uint16_t queue_size)
{
	uint64_t split = sl_inflight_size(false, queue_size), packed = sl_inflight_size(true, queue_size);

	if (s->features_set)
		return s->features >> SL_F_RING_PACKED & 1 ? packed : split;
	return split > packed ? split : packed;
}

static bool inflight_counts_good(const struct sl_vhost_user_server *s, const struct vu_inflight *in)
{
	return in->num_queues && in->num_queues <= s->num_rings && in->queue_size &&
	       in->queue_size <= sl_device_max_queue_size(s->device);
}

/* A new region for the front-end to keep. It comes into use only when the front-end sends it back. */
int vus_get_inflight_fd(struct sl_vhost_user_server *s)
{
	struct vu_inflight want = s->conn->in.p.inflight;
	struct vu_msg *out = &s->conn->out;
	int fd = -1;

	/* As long as the request: senders and the protocol's text differ about 4 bytes of padding. */
	vus_answer(s, s->conn->in.h.size);
	out->p.inflight.num_queues = want.num_queues;
	out->p.inflight.queue_size = want.queue_size;
	if (inflight_counts_good(s, &want)) {
		uint64_t page = 4096; /* each queue's part starts on a page of its own */
		uint64_t size = want.num_queues * ((inflight_need(s, want.queue_size) + page - 1) & ~(page - 1));

		fd = memfd_create("sluice-inflight", MFD_CLOEXEC);
		if (fd >= 0 && !ftruncate(fd, (off_t)size)) {
			out->p.inflight.mmap_size = size;
			out->fds[0] = fd;
			out->nfds = 1;
			return VUS_ANSWER;
		}
	}
	/* A size of 0 is this answer's way to say no. */
	vus_complain(s, "GET_INFLIGHT_FD: no region for %u queues of %u", want.num_queues, want.queue_size);
	if (fd >= 0)
		close(fd);
	return VUS_ANSWER;
}

int vus_set_inflight_fd(struct sl_vhost_user_server *s)
{
	struct vu_msg *m = &s->conn->in;
	const struct vu_inflight *in = &m->p.inflight;
	struct vus_inflight region = {.num_queues = in->num_queues, .queue_size = in->queue_size};
	struct sl_err err = {0};

	if (vus_rings_run(s))
		return -EBUSY;
	if (!inflight_counts_good(s, in) || in->mmap_offset % 8)
		return -EINVAL;
	/* Whoever made the region, its queues are of equal size and aligned at least as its counters need. */
	region.stride = in->mmap_size / in->num_queues & ~7ULL;
	if (region.stride < inflight_need(s, in->queue_size))
		return -EINVAL;
	region.mapping = sl_mapping_new(m->fds[0], in->mmap_offset, in->mmap_size, &err);
	if (!region.mapping) {
		vus_complain(s, "SET_INFLIGHT_FD: %s", err.text);
		return -EINVAL;
	}
	if (s->inflight.mapping)
		sl_mapping_put(s->inflight.mapping);
	s->inflight = region;
	vus_rings_start(s);
	return VUS_OK;
}

int vus_inflight_part(struct sl_vhost_user_server *s, unsigned int index, uint16_t num, bool packed, void **part)
{
	const struct vus_inflight *in = &s->inflight;

	*part = NULL;
	if (!in->mapping)
		return 0;
	if (index >= in->num_queues || num > in->queue_size || sl_inflight_size(packed, num) > in->stride)
		return -EINVAL;
	*part = (uint8_t *)sl_mapping_addr(in->mapping) + index * in->stride;
	return 0;
}

void vus_memory_forget(struct sl_vhost_user_server *s)
{
	sl_mem_put(s->mem);
	sl_mem_put(s->next_mem);
	sl_dirty_log_put(s->log);
	if (s->inflight.mapping)
		sl_mapping_put(s->inflight.mapping);
	s->mem = s->next_mem = NULL;
	s->log = NULL;
	s->inflight = (struct vus_inflight){0};
}
