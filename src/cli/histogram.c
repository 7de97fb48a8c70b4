/* SPDX-License-Identifier: MIT */
/* histogram.c - latencies, log-linear. See histogram.h. */
#include "cli/histogram.h"

void histogram_merge(struct histogram *into, const struct histogram *from)
{
	for (unsigned int i = 0; i < HISTOGRAM_BUCKETS; i++)
		into->bucket[i] += from->bucket[i];
	into->count += from->count;
	into->sum += from->sum;
	if (from->min < into->min)
		into->min = from->min;
	if (from->max > into->max)
		into->max = from->max;
}

/* The middle of a bucket. */
static uint64_t bucket_value(unsigned int i)
{
	unsigned int shift;

	if (i < 2u << HISTOGRAM_STEP_BITS)
		return i;
	shift = (i >> HISTOGRAM_STEP_BITS) - 1;
	return ((uint64_t)(i - (shift << HISTOGRAM_STEP_BITS)) << shift) + (1ull << shift >> 1);
}

uint64_t histogram_at(const struct histogram *h, double percent)
{
	uint64_t rank = (uint64_t)((double)h->count * percent / 100.0), seen = 0, v;

	if (!h->count)
		return 0;
	for (unsigned int i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen > rank || seen == h->count) {
			v = bucket_value(i);
			return v < h->min ? h->min : v > h->max ? h->max : v;
		}
	}
	return h->max;
}
