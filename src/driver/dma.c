/* SPDX-License-Identifier: MIT */
/* dma.c - memory that a driver in user space shares with its device. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <sluice/link.h>

int sl_dma_open(struct sl_dma *dma, uint64_t addr, uint64_t size, struct sl_err *err)
{
	void *hva = MAP_FAILED;
	int fd, saved;

	*dma = (struct sl_dma){ .region.fd = -1 };
	fd = memfd_create("sluice-dma", MFD_CLOEXEC);
	/* Populated at once: page faults belong to nobody's measurement. */
	if (fd >= 0 && !ftruncate(fd, (off_t)size))
		hva = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (hva == MAP_FAILED) {
		saved = errno;
		if (fd >= 0)
			close(fd);
		return sl_err_set(err, saved, "memory: %llu bytes to share: %s", (unsigned long long)size,
				  strerror(saved));
	}
	dma->region = (struct sl_link_region){ .addr = addr, .size = size, .hva = hva, .fd = fd };
	return 0;
}

void *sl_dma_alloc(struct sl_dma *dma, uint64_t size, uint64_t align, uint64_t *addr)
{
	uint64_t at = (dma->used + align - 1) & ~(align - 1);

	if (at > dma->region.size || size > dma->region.size - at)
		return NULL;
	dma->used = at + size;
	if (addr)
		*addr = dma->region.addr + at;
	return (char *)dma->region.hva + at;
}

struct sl_dq *sl_dma_queue(struct sl_dma *dma, const struct sl_features *f, uint16_t num, void *state,
			   struct sl_link_queue *setup, struct sl_err *err)
{
	struct sl_dq_config cfg = {
		.num = num,
		.packed = sl_features_has(f, SL_F_RING_PACKED),
		.event_idx = sl_features_has(f, SL_F_EVENT_IDX),
		.in_order = sl_features_has(f, SL_F_IN_ORDER),
		.state = state,
	};
	struct sl_dq_layout at;
	struct sl_dq *dq;
	uint64_t addr;

	sl_dq_layout(cfg.packed, num, &at);
	cfg.ring = sl_dma_alloc(dma, at.size, 4096, &addr);
	if (!cfg.ring) {
		sl_err_set(err, ENOSPC, "memory: no room for a ring of %u entries", num);
		return NULL;
	}
	dq = sl_dq_init(&cfg);
	if (!dq) {
		sl_err_set(err, EINVAL, "queue: %u entries: not a legal size", num);
		return NULL;
	}
	*setup = (struct sl_link_queue){
		.num = num,
		.desc = addr + at.desc,
		.driver = addr + at.driver,
		.device = addr + at.device,
		.base = sl_dq_base(dq),
		.kick_fd = -1,
		.call_fd = -1,
	};
	return dq;
}

void sl_dma_close(struct sl_dma *dma)
{
	if (dma->region.fd < 0)
		return;
	munmap(dma->region.hva, dma->region.size);
	close(dma->region.fd);
	dma->region.fd = -1;
}
