/* SPDX-License-Identifier: MIT */
/* mapping.h - what the rest of memory/ knows about a mapping */
#ifndef MEMORY_MAPPING_H
#define MEMORY_MAPPING_H

#include <sluice/memory.h>

/** mapping_lost() - has the file behind @m been truncated under us (see sl_mem_guard())? */
bool mapping_lost(const struct sl_mapping *m);

#endif
