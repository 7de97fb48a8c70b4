/* SPDX-License-Identifier: MIT */
/* memory.c - snapshots of the guest's memory map */
#include "memory/mapping.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/**
 * struct sl_mem - an immutable snapshot
 * @refs:    atomic
 * @regions: sorted by gpa, not overlapping
 */
struct sl_mem {
	unsigned int refs, n;
	struct sl_mem_region regions[];
};

static int by_gpa(const void *a, const void *b)
{
	uint64_t x = ((const struct sl_mem_region *)a)->gpa, y = ((const struct sl_mem_region *)b)->gpa;

	return (x > y) - (x < y);
}

/* The rules every region obeys, so that nobody has to look again: not empty, no wrap, no overlap. */
static int check_regions(const struct sl_mem *mem, struct sl_err *err)
{
	uint64_t end;

	for (unsigned int i = 0; i < mem->n; i++) {
		const struct sl_mem_region *r = &mem->regions[i];

		if (!r->size || __builtin_add_overflow(r->gpa, r->size - 1, &end) ||
		    __builtin_add_overflow(r->uva, r->size - 1, &end))
			return sl_err_set(err, EINVAL, "memory: region at %#" PRIx64 " of %" PRIu64 " bytes: not a range",
					  r->gpa, r->size);
		if (i && r->gpa - r[-1].gpa < r[-1].size)
			return sl_err_set(err, EINVAL, "memory: regions at %#" PRIx64 " and %#" PRIx64 " overlap",
					  r[-1].gpa, r->gpa);
	}
	return 0;
}

struct sl_mem *sl_mem_new(const struct sl_mem_region *regions, unsigned int n, struct sl_err *err)
{
	struct sl_mem *mem;

	if (n > SL_MEM_MAX_REGIONS) {
		sl_err_set(err, EINVAL, "memory: %u regions, at most %u are allowed", n, SL_MEM_MAX_REGIONS);
		errno = EINVAL;
		return NULL;
	}
	mem = calloc(1, sizeof(*mem) + n * sizeof(*regions));
	if (!mem) {
		sl_err_set(err, ENOMEM, "memory: out of memory");
		return NULL;
	}
	mem->refs = 1;
	mem->n = n;
	if (n) {
		memcpy(mem->regions, regions, n * sizeof(*regions));
		qsort(mem->regions, n, sizeof(*regions), by_gpa);
	}
	if (check_regions(mem, err)) {
		free(mem);
		errno = EINVAL;
		return NULL;
	}
	for (unsigned int i = 0; i < n; i++)
		if (regions[i].mapping)
			sl_mapping_get(regions[i].mapping);
	return mem;
}

struct sl_mem *sl_mem_get(struct sl_mem *mem)
{
	__atomic_fetch_add(&mem->refs, 1, __ATOMIC_RELAXED);
	return mem;
}

void sl_mem_put(struct sl_mem *mem)
{
	/* Release our accesses, acquire everybody else's before the mappings go. */
	if (!mem || __atomic_sub_fetch(&mem->refs, 1, __ATOMIC_ACQ_REL))
		return;
	for (unsigned int i = 0; i < mem->n; i++)
		sl_mapping_put(mem->regions[i].mapping);
	free(mem);
}

const struct sl_mem_region *sl_mem_regions(const struct sl_mem *mem, unsigned int *n)
{
	*n = mem->n;
	return mem->regions;
}

/* The region that holds @gpa, or NULL: binary search for the last one that starts at or before it. */
static const struct sl_mem_region *find(const struct sl_mem *mem, uint64_t gpa)
{
	const struct sl_mem_region *r = mem->regions;
	unsigned int n = mem->n;

	if (!n)
		return NULL;
	while (n > 1) {
		unsigned int half = n / 2;

		if (r[half].gpa <= gpa)
			r += half;
		n -= half;
	}
	/* gpa below the region wraps to a huge offset and is refused as well */
	return gpa - r->gpa < r->size ? r : NULL;
}

void *sl_mem_at(const struct sl_mem *mem, uint64_t gpa, uint64_t *len, unsigned int access)
{
	const struct sl_mem_region *r = find(mem, gpa);
	uint64_t off;

	if (!r || (r->access & access) != access || !*len)
		return NULL;
	off = gpa - r->gpa;
	if (*len > r->size - off)
		*len = r->size - off;
	return (char *)r->hva + off;
}

void *sl_mem_range(const struct sl_mem *mem, uint64_t gpa, uint64_t len, unsigned int access)
{
	uint64_t got = len;
	void *p = sl_mem_at(mem, gpa, &got, access);

	return p && got == len ? p : NULL;
}

int sl_mem_read(const struct sl_mem *mem, uint64_t gpa, void *dst, uint64_t len)
{
	while (len) {
		uint64_t n = len;
		const void *p = sl_mem_at(mem, gpa, &n, SL_MEM_READ);

		if (!p)
			return -EFAULT;
		memcpy(dst, p, n);
		dst = (char *)dst + n;
		gpa += n;
		len -= n;
		if (len && !gpa)
			return -EFAULT; /* never wrap */
	}
	return 0;
}

int sl_mem_write(const struct sl_mem *mem, uint64_t gpa, const void *src, uint64_t len)
{
	while (len) {
		uint64_t n = len;
		void *p = sl_mem_at(mem, gpa, &n, SL_MEM_WRITE);

		if (!p)
			return -EFAULT;
		memcpy(p, src, n);
		src = (const char *)src + n;
		gpa += n;
		len -= n;
		if (len && !gpa)
			return -EFAULT; /* never wrap */
	}
	return 0;
}

bool sl_mem_uva_to_gpa(const struct sl_mem *mem, uint64_t uva, uint64_t *gpa)
{
	for (const struct sl_mem_region *r = mem->regions; r < mem->regions + mem->n; r++) {
		if (uva - r->uva < r->size) {
			*gpa = r->gpa + (uva - r->uva);
			return true;
		}
	}
	return false;
}

bool sl_mem_hva_to_gpa(const struct sl_mem *mem, const void *hva, uint64_t *gpa)
{
	for (const struct sl_mem_region *r = mem->regions; r < mem->regions + mem->n; r++) {
		uint64_t off = (uint64_t)((uintptr_t)hva - (uintptr_t)r->hva);

		if (off < r->size) {
			*gpa = r->gpa + off;
			return true;
		}
	}
	return false;
}

bool sl_mem_lost(const struct sl_mem *mem)
{
	for (unsigned int i = 0; i < mem->n; i++)
		if (mem->regions[i].mapping && mapping_lost(mem->regions[i].mapping))
			return true;
	return false;
}
