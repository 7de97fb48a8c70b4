/* SPDX-License-Identifier: MIT */
/* crash.c - a device killed at every store, and a successor that finishes its work
 *
 * The vq files are compiled with a hook before each store to shared memory.
 * One workload (a driver that offers chains of all shapes, a device that pops
 * and completes them in batches and out of order) is first run through to
 * count its stores, then once for each store with the device dying right
 * before it. The driver lives on: it takes what is used and offers more. A
 * successor starts from ring and region, with the base of the first start, as
 * a front-end that lost its back-end would give it; it may die as well. At the
 * end the driver must have seen each request completed exactly once.
 */
#include <setjmp.h>

#include "rig.h"
#include "t.h"

#define REQUESTS 48
#define SLOT	 64 /* bytes of buffer of one request */

static void driver_is_running(void)
{
}

void (*ring_crash_point)(void) = driver_is_running;

/* What a dying sl_vq_new() had allocated is lost, as it would be with its process. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}

struct request {
	unsigned int added, completed, popped_at;
};

static struct {
	struct rig r;
	struct request req[REQUESTS];
	unsigned int next;		 /* request to add */
	struct sl_chain chain[REQUESTS]; /* in flight in the living device */
	unsigned int held, pops, stores, die_at, lives;
	uint64_t seed, driver_seed;
	jmp_buf death;
} s;

static void count_store(void)
{
	s.stores++;
	if (s.die_at && !--s.die_at)
		longjmp(s.death, 1);
}

/* ---- driver ---- */

static bool add_one(void)
{
	unsigned int i = s.next, shape;
	struct sl_dq_buf b[4];
	uint64_t at = rig_buf(&s.r, (size_t)i * SLOT);

	shape = rig_below(&s.driver_seed, s.r.o.num < 4 ? 1 + (s.r.o.num > 1) : 4);
	memcpy(rig_drv(&s.r, at), &i, 4);
	b[0] = (struct sl_dq_buf){at, 2};
	b[1] = (struct sl_dq_buf){at + 2, 2};
	b[2] = (struct sl_dq_buf){at + 8, 1};
	b[3] = (struct sl_dq_buf){at + 9, 3};
	if (shape == 0) { /* one descriptor: nothing comes back */
		b[0].len = 4;
		return sl_dq_add(s.r.dq, b, 1, NULL, 0, &s.req[i]);
	}
	if (shape == 1) {
		b[0].len = 4;
		b[2].len = 4;
		return sl_dq_add(s.r.dq, b, 1, b + 2, 1, &s.req[i]);
	}
	return sl_dq_add(s.r.dq, b, 2, b + 2, shape - 1, &s.req[i]);
}

static void driver_turn(bool all)
{
	struct request *q;
	uint32_t len;

	while ((q = sl_dq_get(s.r.dq, &len))) {
		unsigned int i = (unsigned int)(q - s.req), got;

		q->completed++;
		memcpy(&got, rig_drv(&s.r, rig_buf(&s.r, (size_t)i * SLOT + 8)), 4);
		if (len == 4)
			CHECK_EQ(got, i);
		if (!all && !rig_below(&s.driver_seed, 4))
			break;
	}
	while (s.next < REQUESTS && rig_below(&s.driver_seed, 8) && add_one())
		s.req[s.next++].added++;
	sl_dq_publish(s.r.dq);
}

static unsigned int completed(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < REQUESTS; i++)
		n += s.req[i].completed;
	return n;
}

/* ---- device ---- */

static void pop_some(void)
{
	while (s.held < REQUESTS && rig_below(&s.seed, 5)) {
		struct sl_chain *c = &s.chain[s.held];
		unsigned int i = 0;
		int ret = sl_vq_pop(s.r.vq, c);

		CHECK(ret >= 0);
		if (ret <= 0)
			break;
		CHECK_EQ(sl_cursor_read(&c->out, &i, 4), 4);
		if (i >= REQUESTS || !s.req[i].added || s.req[i].completed) {
			CHECK(!"a request that is not outstanding was popped");
			exit(1);
		}
		/* what was popped before comes again in the same order, before anything new */
		CHECK(s.req[i].popped_at == 0 || s.req[i].popped_at > s.pops);
		s.pops = s.req[i].popped_at ? s.req[i].popped_at : UINT32_MAX;
		c->out.front_cut = i; /* remember which one it is; the cursor is used up */
		s.held++;
	}
}

/* Only after a start the order matters: what is popped gets its number here. */
static void number_pops(void)
{
	static unsigned int clock;

	for (unsigned int k = 0; k < s.held; k++) {
		struct request *q = &s.req[s.chain[k].out.front_cut];

		if (!q->popped_at)
			q->popped_at = ++clock + 1000000;
	}
}

static void push_some(void)
{
	unsigned int n = rig_below(&s.seed, s.held + 1);

	while (n--) {
		unsigned int k = rig_below(&s.seed, s.held), i = s.chain[k].out.front_cut;
		uint32_t len = (uint32_t)s.chain[k].in.bytes;

		sl_cursor_write(&s.chain[k].in, &i, 4);
		sl_vq_push(s.r.vq, &s.chain[k], len < 4 ? 0 : 4);
		s.held--;
		if (k != s.held) { /* the last one takes its place; its cursors point into itself */
			struct sl_chain *to = &s.chain[k], *from = &s.chain[s.held];
			ptrdiff_t out = from->out.iov - from->iov, in = from->in.iov - from->iov;

			*to = *from;
			if (from->iov == from->store)
				to->iov = to->store;
			to->out.iov = to->iov + out;
			to->in.iov = to->iov + in;
		}
	}
}

/* Any turn of the device: pops, pushes and a publish, in every order. */
static void device_turn(void)
{
	ring_crash_point = count_store;
	pop_some();
	number_pops();
	push_some();
	if (rig_below(&s.seed, 2)) {
		pop_some();
		number_pops();
		push_some();
	}
	if (rig_below(&s.seed, 3))
		sl_vq_publish(s.r.vq);
	ring_crash_point = driver_is_running;
}

/* The region comes to a ring that was in use before, as after a migration: its used index is not 0 (spdk#3766). */
static void warm_up(unsigned int n)
{
	struct sl_dq_buf b = {rig_buf(&s.r, 0), 4};
	struct sl_chain c;

	s.r.cfg.inflight = NULL;
	REQUIRE(rig_start(&s.r));
	while (n--) {
		REQUIRE(sl_dq_add(s.r.dq, &b, 1, NULL, 0, &s));
		sl_dq_publish(s.r.dq);
		REQUIRE(sl_vq_pop(s.r.vq, &c) == 1);
		sl_vq_push(s.r.vq, &c, 0);
		sl_vq_publish(s.r.vq);
		REQUIRE(sl_dq_get(s.r.dq, NULL) == &s);
	}
	s.r.cfg.inflight = s.r.region;
	s.r.cfg.base = sl_vq_base(s.r.vq);
	sl_vq_free(s.r.vq);
	s.r.vq = NULL;
}

/* All as it was when the rig was opened: so many runs have no time for new memory each. */
static void reset(uint64_t seed)
{
	struct rig r = s.r;

	memset(&s, 0, sizeof(s));
	s.r = r;
	memset(r.drv, 0, r.size);
	memset(r.region, 0, sl_inflight_size(r.o.packed, r.o.num));
	rig_new_dq(&s.r);
	s.seed = s.driver_seed = seed;
}

/* Run the workload; the first device dies before store @first, the second before its store @second (0: never). */
static void run(const struct rig_options *o, uint64_t seed, unsigned int first, unsigned int second)
{
	ring_crash_point = driver_is_running;
	reset(seed);
	warm_up(seed % 2 * 3);
	s.die_at = first;
	if (setjmp(s.death)) {
		ring_crash_point = driver_is_running;
		sl_vq_free(s.r.vq);
		s.r.vq = NULL;
		s.held = s.pops = 0;
		s.die_at = ++s.lives == 1 ? second : 0;
		driver_turn(true);
	}
	ring_crash_point = count_store;
	REQUIRE(rig_start(&s.r));
	ring_crash_point = driver_is_running;
	for (unsigned int turn = 0; turn < 10000 && completed() < REQUESTS; turn++) {
		driver_turn(false);
		device_turn();
	}
	for (unsigned int i = 0; i < REQUESTS; i++)
		CHECK_EQ(s.req[i].completed, 1);
	CHECK(!sl_dq_get(s.r.dq, NULL));
	CHECK(!sl_vq_broken(s.r.vq) && !sl_dq_broken(s.r.dq));
	if (t_failures)
		fprintf(stderr, "packed %d num %u in_order %d indirect %d seed %llu first %u second %u\n", o->packed,
			o->num, o->in_order, o->indirect, (unsigned long long)seed, first, second);
	sl_vq_free(s.r.vq);
	s.r.vq = NULL;
}

static void enumerate(struct rig_options o)
{
	o.region = true;
	o.buffers = REQUESTS * SLOT;
	rig_open(&s.r, &o);
	for (uint64_t seed = 1; seed <= 2; seed++) {
		unsigned int n;

		run(&o, seed * 7919, 0, 0);
		n = s.stores;
		for (unsigned int k = 1; k <= n && !t_failures; k++) {
			run(&o, seed * 7919, k, 0);
			for (unsigned int j = 1; j <= 40 && !t_failures; j += o.num < 10 ? 1 + (j > 12) * 3 : 7)
				run(&o, seed * 7919, k, j);
		}
	}
	rig_close(&s.r);
}

static void shapes(bool packed, bool in_order)
{
	static const uint16_t split_sizes[] = {1, 4, 16}, packed_sizes[] = {1, 5, 16};

	for (unsigned int i = 0; i < 6; i++) {
		struct rig_options o = {.packed = packed, .in_order = in_order, .event_idx = i & 1};

		o.num = packed ? packed_sizes[i / 2] : split_sizes[i / 2];
		if (i & 1) {
			o.indirect = true;
			o.indirect_max = 4;
			o.indirect_min = 3;
		}
		enumerate(o);
	}
}

static void split_every_store(void)
{
	shapes(false, false);
}

static void split_in_order_every_store(void)
{
	shapes(false, true);
}

static void packed_every_store(void)
{
	shapes(true, false);
}

static void packed_in_order_every_store(void)
{
	shapes(true, true);
}

static const struct t_case cases[] = {
    {"split_every_store", split_every_store},
    {"split_in_order_every_store", split_in_order_every_store},
    {"packed_every_store", packed_every_store},
    {"packed_in_order_every_store", packed_in_order_every_store},
};
T_MAIN(cases)
