/* SPDX-License-Identifier: MIT */
/* memory.h - guest memory: immutable counted snapshots of the memory map, and the dirty log.
 *
 * A map is never changed. A new memory table makes a new snapshot; work in
 * flight keeps the old one (and with it its mappings) alive by its count.
 * Snapshots may be shared by threads; their counts are atomic.
 *
 * sl_mem_at() is the only translation. It cuts at the region's end and never wraps.
 */
#ifndef SLUICE_MEMORY_H
#define SLUICE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sluice/error.h>

enum sl_mem_access { SL_MEM_READ = 1, SL_MEM_WRITE = 2 };

struct sl_mem;	   /* a snapshot */
struct sl_mapping; /* one counted host mapping, shared by the snapshots that use it */

/**
 * struct sl_mem_region - one range of guest physical addresses
 * @gpa:     first guest physical address
 * @size:    bytes; at least 1; gpa + size does not wrap
 * @uva:     the front-end's own virtual address of the range (vhost-user; otherwise equal to @gpa)
 * @hva:     where the range is in this process
 * @access:  SL_MEM_READ | SL_MEM_WRITE
 * @mapping: what keeps @hva mapped, or NULL when the caller of sl_mem_new() does
 */
struct sl_mem_region {
	uint64_t gpa, size, uva;
	void *hva;
	unsigned int access;
	struct sl_mapping *mapping;
};

#define SL_MEM_MAX_REGIONS 512

/**
 * sl_mapping_new() - map @size bytes at @offset of @fd, shared, read and write
 * @fd:     stays the caller's
 * @offset: need not be page aligned
 *
 * Refuses sizes and offsets that wrap or round to nothing, and ranges beyond
 * the end of the file. Return: a mapping with count 1, or NULL with @err filled.
 */
SL_API struct sl_mapping *sl_mapping_new(int fd, uint64_t offset, uint64_t size, struct sl_err *err);
/** sl_mapping_addr() - the host address of the first byte asked for */
SL_API void *sl_mapping_addr(const struct sl_mapping *m);
/** sl_mapping_get() - count it once more; any thread */
SL_API struct sl_mapping *sl_mapping_get(struct sl_mapping *m);
/** sl_mapping_put() - give a count back; with the last one it is unmapped. Any thread; NULL allowed */
SL_API void sl_mapping_put(struct sl_mapping *m);

/**
 * sl_mem_new() - a snapshot with count 1 of @n regions (in any order; n may be 0)
 *
 * Takes its own count of each region's mapping. Refuses empty, wrapping and
 * overlapping regions. Return: the snapshot, or NULL with @err filled.
 */
SL_API struct sl_mem *sl_mem_new(const struct sl_mem_region *regions, unsigned int n, struct sl_err *err);
/** sl_mem_get() - count it once more; any thread */
SL_API struct sl_mem *sl_mem_get(struct sl_mem *mem);
/** sl_mem_put() - give a count back; the last one frees it and puts its mappings. Any thread; NULL allowed */
SL_API void sl_mem_put(struct sl_mem *mem);

/** sl_mem_regions() - the regions, sorted by @gpa; *@n is their number */
SL_API const struct sl_mem_region *sl_mem_regions(const struct sl_mem *mem, unsigned int *n);

/**
 * sl_mem_at() - translate a guest physical address
 * @len:    in: bytes wanted (0 is answered with NULL); out: bytes that are contiguous from there, at most what was wanted
 * @access: what the caller will do
 *
 * Return: the host address, or NULL when @gpa is not in the map or does not allow @access.
 */
SL_API void *sl_mem_at(const struct sl_mem *mem, uint64_t gpa, uint64_t *len, unsigned int access);
/** sl_mem_range() - like sl_mem_at(), but the whole range or NULL */
SL_API void *sl_mem_range(const struct sl_mem *mem, uint64_t gpa, uint64_t len, unsigned int access);
/** sl_mem_read() - copy out, across regions; 0 or -EFAULT (nothing is promised of @dst then) */
SL_API int sl_mem_read(const struct sl_mem *mem, uint64_t gpa, void *dst, uint64_t len);
/** sl_mem_write() - copy in, across regions; 0 or -EFAULT */
SL_API int sl_mem_write(const struct sl_mem *mem, uint64_t gpa, const void *src, uint64_t len);
/** sl_mem_uva_to_gpa() - translate a front-end virtual address; false when no region holds it */
SL_API bool sl_mem_uva_to_gpa(const struct sl_mem *mem, uint64_t uva, uint64_t *gpa);
/** sl_mem_hva_to_gpa() - translate a host address of this map back; false when no region holds it */
SL_API bool sl_mem_hva_to_gpa(const struct sl_mem *mem, const void *hva, uint64_t *gpa);

#define SL_DIRTY_PAGE 4096

/**
 * struct sl_dirty_log - one bit for each 4 KiB page of guest memory, shared with the front-end (counted)
 */
struct sl_dirty_log;
/** sl_dirty_log_new() - @bytes of @mapping, of which it takes a count of its own, are the bitmap; NULL: no memory */
SL_API struct sl_dirty_log *sl_dirty_log_new(struct sl_mapping *mapping, uint64_t bytes);
/** sl_dirty_log_get() - count it once more; any thread */
SL_API struct sl_dirty_log *sl_dirty_log_get(struct sl_dirty_log *log);
/** sl_dirty_log_put() - give a count back; any thread; NULL allowed */
SL_API void sl_dirty_log_put(struct sl_dirty_log *log);
/** sl_dirty_log_mark() - @len bytes from @gpa were written: by atomic OR, any thread; what is beyond it is ignored */
SL_API void sl_dirty_log_mark(struct sl_dirty_log *log, uint64_t gpa, uint64_t len);

/**
 * sl_mem_guard() - survive a peer that truncates the file behind a mapping
 *
 * Installs a SIGBUS handler for the process: a fault inside a mapping made by
 * sl_mapping_new() puts private zero pages there and marks the mapping as
 * lost; any other SIGBUS keeps its default effect. 0 or -errno.
 */
SL_API int sl_mem_guard(void);
/** sl_mem_lost() - has a mapping of this snapshot been lost (see sl_mem_guard())? */
SL_API bool sl_mem_lost(const struct sl_mem *mem);

#endif
