/* SPDX-License-Identifier: MIT */
/* pattern.h - block contents that say which block they are and which write made them. */
#ifndef CLI_PATTERN_H
#define CLI_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** pattern_fill() - what write number @generation puts into block @block; @len is a multiple of 8 */
void pattern_fill(void *dst, size_t len, uint64_t block, uint32_t generation);
/** pattern_check() - is all of it what that write put there? */
bool pattern_check(const void *src, size_t len, uint64_t block, uint32_t generation);

#endif
