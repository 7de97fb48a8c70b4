/* SPDX-License-Identifier: MIT */
/* test_throttle.c - the token bucket under a clock of its own, and what the filter does with requests.
 *
 * How well a rate is held in real time is measured by `make bench`; here no time is asserted.
 */
#include "bed.h"

#include <pthread.h>

#include "block/throttle.h"

#define SECOND 1000000000ull
#define MS 1000000ull

/* ---- the bucket ---- */

/* One client that comes as soon as it may, or @late ns after that: how many tokens in @ns? */
static uint64_t served(struct bucket *b, uint64_t start, uint64_t ns, uint64_t late, uint64_t each)
{
	uint64_t now = start, n = 0;

	while (now < start + ns) {
		uint64_t due = bucket_take(b, each, now);

		if (due > now) {
			now = due;
			/* It wakes up late, and takes what has become due meanwhile. */
			if (now < start + ns)
				n += each;
			now += late;
			continue;
		}
		n += each;
	}
	return n;
}

static bool near(uint64_t value, uint64_t wanted, double share)
{
	double d = (double)value - (double)wanted;

	return (d < 0 ? -d : d) <= (double)wanted * share + 1;
}

static void bucket_holds_its_rate(void)
{
	static const uint64_t rates[] = {1, 3, 100, 999, 1000, 10000, 100000, 1000000, 33333333};

	for (unsigned int i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		uint64_t seconds = rates[i] < 1000 ? 100 : rates[i] < 1000000 ? 10 : 1;
		uint64_t wanted = rates[i] * seconds, got;
		struct bucket b;

		bucket_init(&b, rates[i], 0, 10 * MS);
		got = served(&b, 5 * SECOND, seconds * SECOND, 0, 1);
		if (!near(got, wanted, 0.011))
			fprintf(stderr, "rate %llu: %llu, not %llu\n", (unsigned long long)rates[i],
				(unsigned long long)got, (unsigned long long)wanted);
		CHECK(near(got, wanted, 0.011)); /* the burst of 10 ms is 1 % of a second */
	}
}

/* Whoever comes late for his tokens finds those of the time that he missed. */
static void bucket_forgives_lateness(void)
{
	static const uint64_t lates[] = {0, 50000, MS, 4 * MS};

	for (unsigned int i = 0; i < sizeof(lates) / sizeof(lates[0]); i++) {
		struct bucket b;

		bucket_init(&b, 10000, 0, 10 * MS);
		CHECK(near(served(&b, SECOND, 10 * SECOND, lates[i], 1), 100000, 0.002));
	}
}

static void bucket_bursts_once(void)
{
	struct bucket b;
	unsigned int n;

	bucket_init(&b, 100, 50, 10 * MS);
	for (n = 0; bucket_take(&b, 1, 100 * SECOND) <= 100 * SECOND; n++)
		;
	CHECK_EQ(n, 50);
	/* a pause of a second brings a hundred, of which the bucket holds fifty */
	for (n = 0; bucket_take(&b, 1, 102 * SECOND) <= 102 * SECOND; n++)
		;
	CHECK_EQ(n, 50);
	/* a tenth of a second after that one, which took one more than there was: nine */
	for (n = 0; bucket_take(&b, 1, 102 * SECOND + 100 * MS) <= 102 * SECOND + 100 * MS; n++)
		;
	CHECK_EQ(n, 9);
}

/* What is larger than the bucket passes at once when nobody owes anything; those behind it pay for it. */
static void bucket_lets_large_ones_pass(void)
{
	struct bucket b;
	uint64_t due;

	bucket_init(&b, 1000, 10, 10 * MS);
	CHECK(bucket_take(&b, 5000, 10 * SECOND) <= 10 * SECOND);
	due = bucket_take(&b, 1, 10 * SECOND);
	CHECK(due > 14 * SECOND + 900 * MS && due <= 15 * SECOND);
}

/* Nothing wraps: the largest request at the least rate, and a bucket that is asked in the first nanosecond. */
static void bucket_extremes(void)
{
	struct bucket b;

	bucket_init(&b, 1, 0, 10 * MS);
	CHECK_EQ(bucket_take(&b, 1, 0), 0);
	CHECK_EQ(bucket_take(&b, UINT64_MAX, 1), SECOND - 10 * MS);
	CHECK(bucket_take(&b, 1, 2) > 3600 * SECOND);
	bucket_init(&b, UINT64_MAX, UINT64_MAX, 10 * MS);
	for (unsigned int i = 0; i < 1000; i++)
		CHECK(bucket_take(&b, 1u << 30, 5 * SECOND) <= 5 * SECOND);
	bucket_init(&b, 0, 0, 10 * MS);
	CHECK_EQ(bucket_take(&b, UINT64_MAX, 1), 0); /* no limit */
}

static void *take_many(void *arg)
{
	for (unsigned int i = 0; i < 100000; i++)
		bucket_take(arg, 1, SECOND);
	return NULL;
}

/* No token is given twice. */
static void bucket_is_shared(void)
{
	pthread_t threads[4];
	struct bucket b;

	bucket_init(&b, 1000000, 0, 0);
	for (unsigned int i = 0; i < 4; i++)
		REQUIRE(pthread_create(&threads[i], NULL, take_many, &b) == 0);
	for (unsigned int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK_EQ(bucket_take(&b, 1, SECOND), SECOND + 400 * MS);
}

/* ---- the filter ---- */

static void refused(void)
{
	struct bed bed;

	bed_refused("blk,null:1M,iops-burst=5", "blk: iops-burst=: needs iops=, iops-read= or iops-write=");
	bed_refused("blk,null:1M,iops=5,bps-burst=5", "blk: bps-burst=: needs bps=, bps-read= or bps-write=");
	bed_refused("blk,null:1M,throttle-group=a", "blk: throttle-group=: needs a limit, as iops= or bps=");
	bed_open(&bed, "blk,null:1M,iops=100,bps-write=1M,throttle-group=a");
	bed_refused("blk,null:1M,iops=200,bps-write=1M,throttle-group=a",
		       "blk: iops=200: throttle-group 'a' has 100; all members give the same limits");
	bed_refused("blk,null:1M,iops=100,throttle-group=a",
		       "blk: bps-write=0: throttle-group 'a' has 1048576; all members give the same limits");
	bed_close(&bed);
	/* A group ends with its last member. */
	bed_open(&bed, "blk,null:1M,iops=200,throttle-group=a");
	bed_close(&bed);
}

static uint64_t found;
static const char *wanted;

static void number(void *arg, const char *name, uint64_t value)
{
	(void)arg;
	if (!strcmp(name, wanted))
		found = value;
}

static uint64_t figure(struct bed *bed, const char *name)
{
	const struct block_report r = {.number = number};

	found = UINT64_MAX;
	wanted = name;
	block_report(bed->block, &r);
	return found;
}

/* With a request in ten minutes: what is over the limit stays, until it is abandoned. */
static void holds_and_lets_go(void)
{
	unsigned char buf[4096] = {0};
	struct io ios[6];
	struct bed bed;

	bed_open(&bed, "blk,memory:1M,bps-write=1");
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 4096, buf), 0); /* larger than the bucket */
	for (unsigned int i = 0; i < 3; i++)
		io_submit(&bed, &ios[i], BLOCK_WRITE, 0, 512, buf);
	io_submit(&bed, &ios[3], BLOCK_READ, 0, 512, buf);
	io_submit(&bed, &ios[4], BLOCK_FLUSH, 0, 0, NULL);
	block_commit(bed.c);
	for (unsigned int i = 0; i < 3; i++)
		CHECK_EQ(ios[i].dones, 0);
	CHECK_EQ(ios[3].dones, 1);
	CHECK_EQ(ios[4].dones, 1);
	CHECK_EQ(figure(&bed, "throttle.held"), 3);
	CHECK_EQ(figure(&bed, "throttle.delayed"), 3);
	CHECK(block_abandon(bed.c));
	block_commit(bed.c);
	for (unsigned int i = 0; i < 3; i++) {
		CHECK_EQ(ios[i].dones, 1);
		CHECK_EQ(ios[i].result, -ETIMEDOUT);
	}
	CHECK_EQ(figure(&bed, "throttle.held"), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 512, buf), 0);
	bed_close(&bed);
}

/* When the queue stops nothing is held, in whatever filter above; but it has used up the tokens. */
static void drained(void)
{
	unsigned char buf[512] = {0};
	struct io ios[20], later;
	struct bed bed;

	bed_open(&bed, "blk,memory:1M,iops=1,delay-ms=1,delay-op=flush");
	for (unsigned int i = 0; i < 20; i++)
		io_submit(&bed, &ios[i], i % 2 ? BLOCK_READ : BLOCK_WRITE, 512 * i, 512, buf);
	block_commit(bed.c);
	CHECK(figure(&bed, "throttle.held") > 0);
	block_drain(bed.c);
	block_commit(bed.c);
	for (unsigned int i = 0; i < 20; i++)
		CHECK_EQ(io_wait(&bed, &ios[i]), 0);
	CHECK_EQ(figure(&bed, "throttle.held"), 0);
	/* the queue starts again */
	block_detach(bed.c);
	bed.c = block_attach(bed.block, bed.loop, NULL);
	REQUIRE(bed.c);
	io_submit(&bed, &later, BLOCK_READ, 0, 512, buf);
	block_commit(bed.c);
	CHECK_EQ(later.dones, 0);
	CHECK_EQ(figure(&bed, "throttle.held"), 1);
	block_drain(bed.c);
	block_commit(bed.c);
	CHECK_EQ(io_wait(&bed, &later), 0);
	bed_close(&bed);
}

/* What comes after the stop has begun, because a filter above had it: the last one 99 s later
 * at this rate, and io_wait() gives up before. */
static void drained_later(void)
{
	unsigned char buf[512] = {0};
	struct io ios[100];
	struct bed bed;

	bed_open(&bed, "blk,memory:1M,iops=1,delay-ms=50");
	for (unsigned int i = 0; i < 100; i++)
		io_submit(&bed, &ios[i], BLOCK_READ, 512 * i, 512, buf);
	block_commit(bed.c);
	block_drain(bed.c);
	block_commit(bed.c);
	CHECK_EQ(io_wait(&bed, &ios[99]), 0);
	for (unsigned int i = 0; i < 99; i++)
		CHECK_EQ(io_wait(&bed, &ios[i]), 0);
	bed_close(&bed);
}

static void keeps_order(void)
{
	static struct io ios[100];
	unsigned char buf[512] = {0};
	struct bed bed;

	bed_open(&bed, "blk,memory:1M,iops=2000");
	for (unsigned int i = 0; i < 100; i++)
		io_submit(&bed, &ios[i], i % 3 ? BLOCK_WRITE : BLOCK_WRITE_ZEROES, 512 * i, 512, i % 3 ? buf : NULL);
	block_commit(bed.c);
	CHECK(figure(&bed, "throttle.held") > 0);
	for (unsigned int i = 0; i < 100; i++)
		CHECK_EQ(io_wait(&bed, &ios[i]), 0);
	for (unsigned int i = 1; i < 100; i++)
		CHECK(ios[i - 1].order < ios[i].order);
	CHECK_EQ(figure(&bed, "throttle.held"), 0);
	CHECK(figure(&bed, "throttle.waited-ms") > 0);
	bed_close(&bed);
}

/*
 * Two members of a group, one with a deep queue and one with a single request at a time: each gets its turn. Who stands
 * still for a while finds his tokens afterwards, so the queue is deep enough for seconds of that.
 */
static void members_take_turns(void)
{
	enum { DEEP = 20000 };
	struct io *deep = calloc(DEEP, sizeof(*deep));
	unsigned char buf[512] = {0};
	struct bed a, b;
	struct io one;
	unsigned int done = 0;

	REQUIRE(deep);
	bed_open(&a, "blk,memory:1M,iops=1000,throttle-group=g");
	bed_open(&b, "blk,memory:1M,iops=1000,throttle-group=g");
	for (unsigned int i = 0; i < DEEP; i++)
		io_submit(&a, &deep[i], BLOCK_READ, 0, 512, buf);
	block_commit(a.c);
	for (unsigned int i = 0; i < 50; i++) {
		uint64_t until = sl_now() + 20 * SECOND;

		io_submit(&b, &one, BLOCK_READ, 0, 512, buf);
		block_commit(b.c);
		while (!one.dones && sl_now() < until) {
			sl_loop_step(b.loop, 0);
			sl_loop_step(a.loop, 0);
		}
		CHECK_EQ(one.dones, 1);
	}
	/* One waits for itself and not for all: when it has had fifty turns, the other one cannot have had them all. */
	for (unsigned int i = 0; i < DEEP; i++)
		done += deep[i].dones;
	REQUIRE(done > 0 && done < DEEP);
	CHECK_EQ(io_wait(&a, &deep[done]), 0); /* it goes on */
	CHECK(block_abandon(a.c));
	block_commit(a.c);
	for (unsigned int i = 0; i < DEEP; i++)
		CHECK(deep[i].dones == 1 && (!deep[i].result || (i > done && deep[i].result == -ETIMEDOUT)));
	bed_close(&a);
	bed_close(&b);
	free(deep);
}

static const struct t_case cases[] = {
	{"bucket_holds_its_rate", bucket_holds_its_rate},
	{"bucket_forgives_lateness", bucket_forgives_lateness},
	{"bucket_bursts_once", bucket_bursts_once},
	{"bucket_lets_large_ones_pass", bucket_lets_large_ones_pass},
	{"bucket_extremes", bucket_extremes},
	{"bucket_is_shared", bucket_is_shared},
	{"refused", refused},
	{"holds_and_lets_go", holds_and_lets_go},
	{"drained", drained},
	{"drained_later", drained_later},
	{"keeps_order", keeps_order},
	{"members_take_turns", members_take_turns},
};

T_MAIN(cases)
