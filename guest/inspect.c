/* SPDX-License-Identifier: MIT */
/* inspect.c - what the machine itself looks like from inside: its processor's CPUID, and its memory */
#include "bare.h"

/* ---- CPUID ---- */

static void read_leaf(uint32_t leaf, uint32_t index, uint32_t r[4])
{
	r[0] = leaf;
	r[2] = index;
	__asm__ volatile("cpuid" : "+a"(r[0]), "=b"(r[1]), "+c"(r[2]), "=d"(r[3]));
}

static void put_leaf(uint32_t leaf, uint32_t index)
{
	uint32_t r[4];

	read_leaf(leaf, index, r);
	if (!(r[0] | r[1] | r[2] | r[3]))
		return;
	put("cpuid");
	put(" ");
	put_hex(leaf);
	put(" ");
	put_hex(index);
	for (unsigned int i = 0; i < 4; i++) {
		put(" ");
		put_hex(r[i]);
	}
	put("\n");
}

/* Every leaf there is, with some indices; those that are all zero are left out. */
bool inspect_cpuid(void)
{
	static const uint32_t first[] = {0, 0x40000000, 0x80000000};
	uint32_t r[4];

	for (unsigned int range = 0; range < 3; range++) {
		read_leaf(first[range], 0, r);
		for (uint32_t leaf = first[range]; leaf <= r[0] && leaf < first[range] + 0x40; leaf++)
			for (uint32_t index = 0; index < 4; index++)
				put_leaf(leaf, index);
	}
	return true;
}

/* ---- memory ---- */

#define RAM 1
#define STEP (64ull << 20)
#define ABOVE (1ull << 20) /* below are this program and its tables */

struct range {
	uint64_t address, size;
	uint32_t type, reserved;
};

/* The last word of a range and one in each STEP: all are written, then all are read. */
static uint64_t touch(const struct range *r, bool check)
{
	uint64_t n = 0, end = r->address + r->size;

	for (uint64_t at = r->address; at < end; at += STEP, n++) {
		uint64_t last = (end - at > STEP ? at + STEP : end) - 8;
		volatile uint64_t *word = (uint64_t *)(uintptr_t)last;

		if (!check)
			*word = ~last;
		else if (*word != ~last)
			return UINT64_MAX;
	}
	return n;
}

bool inspect_memory(const struct start_info *si, uint64_t end)
{
	const struct range *map = (const struct range *)(uintptr_t)si->memory_map;
	uint64_t total = 0, highest = 0;

	for (unsigned int check = 0; check < 2; check++)
		for (uint32_t i = 0; i < si->memory_map_entries; i++) {
			if (map[i].type != RAM || map[i].address < ABOVE || map[i].address + map[i].size > end)
				continue;
			if (touch(&map[i], check) == UINT64_MAX)
				return false;
			total += check ? map[i].size : 0;
			highest = map[i].address + map[i].size;
		}
	put("memory ");
	put_number(total >> 20);
	put(" MiB up to ");
	put_hex(highest);
	put("\n");
	return true;
}
