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

void sl_dma_close(struct sl_dma *dma)
{
	if (dma->region.fd < 0)
		return;
	munmap(dma->region.hva, dma->region.size);
	close(dma->region.fd);
	dma->region.fd = -1;
}
