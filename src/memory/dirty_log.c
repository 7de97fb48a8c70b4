/* SPDX-License-Identifier: MIT */
/* dirty_log.c - the bitmap of pages a back-end wrote, for live migration
 * (vhost-user, "Migration"): page n is bit n % 8 of byte n / 8.
 */
#include <sluice/memory.h>

#include <stdlib.h>

/**
 * struct sl_dirty_log
 * @refs:  atomic
 * @bits:  the bitmap inside @mapping
 * @pages: bits in it
 */
struct sl_dirty_log {
	unsigned int refs;
	struct sl_mapping *mapping;
	uint8_t *bits;
	uint64_t pages;
};

struct sl_dirty_log *sl_dirty_log_new(struct sl_mapping *mapping, uint64_t bytes)
{
	struct sl_dirty_log *log = calloc(1, sizeof(*log));

	if (!log)
		return NULL;
	log->refs = 1;
	log->mapping = sl_mapping_get(mapping);
	log->bits = sl_mapping_addr(mapping);
	log->pages = bytes > UINT64_MAX / 8 ? UINT64_MAX : bytes * 8;
	return log;
}

struct sl_dirty_log *sl_dirty_log_get(struct sl_dirty_log *log)
{
	__atomic_fetch_add(&log->refs, 1, __ATOMIC_RELAXED);
	return log;
}

void sl_dirty_log_put(struct sl_dirty_log *log)
{
	if (!log || __atomic_sub_fetch(&log->refs, 1, __ATOMIC_ACQ_REL))
		return;
	sl_mapping_put(log->mapping);
	free(log);
}

void sl_dirty_log_mark(struct sl_dirty_log *log, uint64_t gpa, uint64_t len)
{
	uint64_t first = gpa / SL_DIRTY_PAGE, last;

	if (!len || __builtin_add_overflow(gpa, len - 1, &last))
		return;
	last /= SL_DIRTY_PAGE;
	/* Release: whoever finds the bit set also finds the data that was written before it. */
	for (uint64_t page = first; page <= last && page < log->pages; page++)
		__atomic_fetch_or(&log->bits[page / 8], (uint8_t)(1u << (page % 8)), __ATOMIC_RELEASE);
}
