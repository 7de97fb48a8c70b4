/* SPDX-License-Identifier: MIT */
/* mapping.h - what the rest of memory/ knows about a mapping */
#ifndef MEMORY_MAPPING_H
#define MEMORY_MAPPING_H

#include <sluice/memory.h>

/**
 * mapping_new_private() - @size bytes of zeroes that no other process can have
 *
 * Begins at a multiple of 2 MiB, and the kernel is asked to use pages of that
 * size, which it does for such memory on most hosts and for a memfd on few.
 * Return: a mapping with count 1, or NULL with @err filled.
 */
struct sl_mapping *mapping_new_private(uint64_t size, struct sl_err *err);

/** mapping_lost() - has the file behind @m been truncated under us (see sl_mem_guard())? */
bool mapping_lost(const struct sl_mapping *m);

#endif
