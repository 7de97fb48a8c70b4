/* SPDX-License-Identifier: MIT */
/* histogram.h - latencies, log-linear: 128 steps in each power of two, so a value is known to 0.8 %.
 *
 * One thread records; merge and ask when it is done.
 */
#ifndef CLI_HISTOGRAM_H
#define CLI_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEP_BITS 7
#define HISTOGRAM_MAX_BITS 40 /* values of 2^40 ns (18 minutes) and more count as that */
#define HISTOGRAM_BUCKETS ((HISTOGRAM_MAX_BITS - HISTOGRAM_STEP_BITS + 1) << HISTOGRAM_STEP_BITS)

/** struct histogram - zero it before use, but for @min: UINT64_MAX */
struct histogram {
	uint64_t count, sum, min, max;
	uint64_t bucket[HISTOGRAM_BUCKETS];
};

/* Values below 2^STEP_BITS have a bucket each; above, the top STEP_BITS + 1 bits and their place say which. */
static inline unsigned int histogram_index(uint64_t v)
{
	unsigned int shift;

	if (v >> HISTOGRAM_STEP_BITS == 0)
		return (unsigned int)v;
	if (v >> HISTOGRAM_MAX_BITS)
		return HISTOGRAM_BUCKETS - 1;
	shift = 63 - (unsigned int)__builtin_clzll(v) - HISTOGRAM_STEP_BITS;
	return (shift << HISTOGRAM_STEP_BITS) + (unsigned int)(v >> shift);
}

static inline void histogram_add(struct histogram *h, uint64_t v)
{
	h->bucket[histogram_index(v)]++;
	h->count++;
	h->sum += v;
	if (v < h->min)
		h->min = v;
	if (v > h->max)
		h->max = v;
}

void histogram_merge(struct histogram *into, const struct histogram *from);
/** histogram_at() - the value that @percent of all values do not exceed; 0 when there are none */
uint64_t histogram_at(const struct histogram *h, double percent);

#endif
