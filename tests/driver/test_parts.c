/* SPDX-License-Identifier: MIT */
/* test_parts.c - the parts of bench that only compute: histogram, block pattern, CPU time. */
#include "t.h"

#include <time.h>
#include <unistd.h>

#include "cli/cpu_time.h"
#include "cli/histogram.h"
#include "cli/pattern.h"

static void test_histogram_resolution(void)
{
	struct histogram *h = calloc(1, sizeof(*h));

	REQUIRE(h);
	for (uint64_t v = 1; v < 1ull << 41; v += v / 37 + 1) {
		uint64_t got;

		memset(h, 0, sizeof(*h));
		h->min = UINT64_MAX;
		/* neighbours, so that the answer is not simply min or max */
		histogram_add(h, v / 2);
		histogram_add(h, v);
		histogram_add(h, v * 2);
		got = histogram_at(h, 50);
		if (v < 1ull << HISTOGRAM_MAX_BITS)
			CHECK(got >= v - v / 100 && got <= v + v / 100);
		CHECK_EQ(h->min, v / 2);
		CHECK_EQ(h->max, v * 2);
		CHECK_EQ(h->count, 3);
	}
	free(h);
}

static void test_histogram_percentiles(void)
{
	struct histogram *h = calloc(2, sizeof(*h));

	REQUIRE(h);
	h[0].min = h[1].min = UINT64_MAX;
	CHECK_EQ(histogram_at(h, 50), 0);
	for (uint64_t v = 0; v < 100; v++)
		histogram_add(&h[v % 2], v);
	histogram_merge(&h[0], &h[1]);
	CHECK_EQ(h->count, 100);
	CHECK_EQ(h->sum, 4950);
	CHECK_EQ(histogram_at(h, 0), 0);
	CHECK_EQ(histogram_at(h, 50), 50);
	CHECK_EQ(histogram_at(h, 99), 99);
	CHECK_EQ(histogram_at(h, 100), 99);
	histogram_add(h, UINT64_MAX);
	CHECK_EQ(histogram_at(h, 100), h->bucket[HISTOGRAM_BUCKETS - 1] ? histogram_at(h, 99.9) : 0);
	CHECK_EQ(h->max, UINT64_MAX);
	free(h);
}

static void test_pattern(void)
{
	unsigned char a[4096], b[4096];

	pattern_fill(a, sizeof(a), 5, 9);
	CHECK(pattern_check(a, sizeof(a), 5, 9));
	CHECK(!pattern_check(a, sizeof(a), 5, 8));
	CHECK(!pattern_check(a, sizeof(a), 6, 9));
	/* sectors that changed places, and a single bit */
	memcpy(b, a, sizeof(b));
	memcpy(b, a + 512, 512);
	CHECK(!pattern_check(b, sizeof(b), 5, 9));
	for (unsigned int i = 0; i < sizeof(a); i += 61) {
		a[i] ^= 1;
		CHECK(!pattern_check(a, sizeof(a), 5, 9));
		a[i] ^= 1;
	}
	memset(a, 0, sizeof(a));
	CHECK(!pattern_check(a, sizeof(a), 0, 0));
}

static void test_cpu_time(void)
{
	struct cpu_sample before, after;
	struct timespec start, now;
	struct cpu_time t;

	CHECK_EQ(cpu_sample(getpid(), &before), 0);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
	do
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	while ((now.tv_sec - start.tv_sec) * 1000000000 + (now.tv_nsec - start.tv_nsec) < 100000000);
	CHECK_EQ(cpu_sample(getpid(), &after), 0);
	t = cpu_between(&before, &after);
	CHECK(t.user + t.system >= 80000000 && t.user + t.system < 5000000000);
	/* numbers of threads that ended: never a negative difference */
	after.fine = 0;
	t = cpu_between(&before, &after);
	CHECK(t.user + t.system < 5000000000);
	CHECK(cpu_sample(0x7ffffff0, &before) < 0);
}

static const struct t_case cases[] = {
	{ "histogram_resolution", test_histogram_resolution },
	{ "histogram_percentiles", test_histogram_percentiles },
	{ "pattern", test_pattern },
	{ "cpu_time", test_cpu_time },
};
T_MAIN(cases)
