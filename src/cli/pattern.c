/* SPDX-License-Identifier: MIT */
/* pattern.c - block contents that say which block they are and which write made them.
 *
 * Each 8-byte word follows from block, generation and place by a counter that
 * is multiplied and folded, so that a word at a wrong place, of another block
 * or of an older write differs.
 */
#include "cli/pattern.h"

static uint64_t word(uint64_t seed, size_t i)
{
	uint64_t x = seed + i * 0x9e3779b97f4a7c15ull;

	x ^= x >> 32;
	return x * 0xd6e8feb86659fd93ull;
}

static uint64_t seed_of(uint64_t block, uint32_t generation)
{
	return word(block * 0xff51afd7ed558ccdull ^ generation, 1);
}

void pattern_fill(void *dst, size_t len, uint64_t block, uint32_t generation)
{
	uint64_t seed = seed_of(block, generation), *p = dst;

	for (size_t i = 0; i < len / 8; i++)
		p[i] = word(seed, i);
}

bool pattern_check(const void *src, size_t len, uint64_t block, uint32_t generation)
{
	uint64_t seed = seed_of(block, generation), diff = 0;
	const uint64_t *p = src;

	for (size_t i = 0; i < len / 8; i++)
		diff |= p[i] ^ word(seed, i);
	return !diff;
}
