/* SPDX-License-Identifier: MIT */
/* race.c - a second thread rewrites the ring while it is read
 *
 * usage: ring-race [SECONDS]
 *
 * The writer puts plausible and absurd values into descriptors, indices,
 * tables and the inflight region, at any moment. Whatever comes out: each
 * entry of a chain lies inside guest memory, its counts are bounded, and a dq
 * hands out only cookies that are outstanding.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "rig.h"
#include "t.h"

static struct rig r;
static atomic_bool stop;
static double seconds = 3;
static unsigned long rounds, chains;

static uint64_t some_address(uint64_t *seed)
{
	switch (rig_below(seed, 6)) {
	case 0:
		return RIG_GPA + r.size - rig_below(seed, 64); /* at the end */
	case 1:
		return rig_random(seed) | (uint64_t)rig_random(seed) << 32;
	case 2:
		return ~0ULL - rig_below(seed, 64);
	default:
		return RIG_GPA + rig_below(seed, (uint32_t)r.size) / (1 + rig_below(seed, 2) * 15) * 16;
	}
}

static uint32_t some_length(uint64_t *seed)
{
	return rig_below(seed, 3) ? rig_below(seed, 9) * 16 : rig_random(seed) >> rig_below(seed, 32);
}

static uint16_t some_flags(uint64_t *seed)
{
	uint16_t f = rig_below(seed, 4) ? 0 : WIRE_F_INDIRECT;

	f |= rig_below(seed, 8);
	if (r.o.packed)
		f |= (rig_below(seed, 2) ? WIRE_F_AVAIL : 0) | (rig_below(seed, 4) ? 0 : WIRE_F_USED);
	return f;
}

/* One descriptor somewhere: in the ring, or in the buffers, where tables are looked for. */
static void scribble_desc(uint64_t *seed)
{
	size_t n = r.o.num, at = rig_below(seed, 2)
				     ? rig_below(seed, (uint32_t)n) * 16
				     : r.buffers + rig_below(seed, (uint32_t)(r.size - r.buffers) / 16) * 16;
	unsigned char *d = r.drv + at;
	unsigned int flags_at = r.o.packed ? 14 : 12, other_at = r.o.packed ? 12 : 14;

	switch (rig_below(seed, 4)) {
	case 0:
		ring_store64((uint64_t *)(void *)d, some_address(seed));
		break;
	case 1:
		ring_store32((uint32_t *)(void *)(d + 8), some_length(seed));
		break;
	case 2:
		ring_store16((uint16_t *)(void *)(d + flags_at), some_flags(seed));
		break;
	default:
		ring_store16((uint16_t *)(void *)(d + other_at), (uint16_t)rig_below(seed, (uint32_t)n + n / 8 + 1));
		break;
	}
}

static void scribble_index(uint64_t *seed)
{
	struct wire_avail *a = rig_avail(&r);
	struct wire_used *u = rig_used(&r);
	uint16_t idx = ring_load16(&a->idx), used = ring_load16(&u->idx);

	if (r.o.packed)
		return;
	ring_store16(&a->ring[rig_below(seed, r.o.num)],
		     (uint16_t)rig_below(seed, r.o.num + (rig_below(seed, 50) == 0)));
	ring_store16(&a->idx, (uint16_t)(idx + rig_below(seed, rig_below(seed, 100) ? 3 : 65536)));
	if (!rig_below(seed, 4)) {
		ring_store16(&u->idx, (uint16_t)(used + rig_below(seed, 2)));
		ring_store32(&u->ring[rig_below(seed, r.o.num)].id, rig_below(seed, r.o.num + 1));
		ring_store32(&u->ring[rig_below(seed, r.o.num)].len, some_length(seed));
	}
}

static void scribble_region(uint64_t *seed)
{
	size_t n = sl_inflight_size(r.o.packed, r.o.num) / 2;
	uint16_t *w = r.region;

	/* not version and size: a region that is refused tests nothing here */
	ring_store16(&w[6 + rig_below(seed, (uint32_t)n - 6)],
		     (uint16_t)(rig_below(seed, 4) ? rig_below(seed, r.o.num + 1) : rig_random(seed)));
}

static void *writer(void *arg)
{
	uint64_t seed = *(uint64_t *)arg;

	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		for (unsigned int i = 0; i < 20; i++)
			scribble_desc(&seed);
		scribble_index(&seed);
		if (r.region && !rig_below(&seed, 8))
			scribble_region(&seed);
	}
	return NULL;
}

static void check_chain(const struct sl_chain *c)
{
	size_t out = 0, in = 0;

	CHECK(c->out_cnt + c->in_cnt <= SL_VQ_CHAIN_MAX * (1 + r.o.one_byte));
	for (unsigned int i = 0; i < (unsigned int)c->out_cnt + c->in_cnt; i++) {
		const unsigned char *p = c->iov[i].iov_base;
		size_t len = c->iov[i].iov_len;

		CHECK(len && p >= r.dev && p < r.dev + r.size && len <= (size_t)(r.dev + r.size - p));
		*(i < c->out_cnt ? &out : &in) += len;
	}
	CHECK(c->out.bytes == out && c->in.bytes == in && out + in <= UINT32_MAX);
	CHECK(c->id < r.o.num);
	chains++;
}

static void device_life(struct sl_chain *c, uint64_t *seed)
{
	unsigned int n = 0, calls = 0;

	r.cfg.base = r.o.packed ? 0x80008000 : ring_load16(&rig_avail(&r)->idx) - rig_below(seed, r.o.num + 1U);
	if (!rig_start(&r)) {
		ring_store64(r.region, 0);
		ring_store64((uint64_t *)r.region + 1, 0);
		return;
	}
	while (calls++ < 4 * r.o.num && !sl_vq_broken(r.vq)) {
		if (n < r.o.num && sl_vq_pop(r.vq, &c[n]) == 1)
			check_chain(&c[n++]);
		CHECK_EQ(sl_vq_inflight(r.vq), n);
		if (n && !rig_below(seed, 3))
			sl_vq_push(r.vq, &c[--n], 0);
		if (!rig_below(seed, 8)) {
			sl_vq_publish(r.vq);
			sl_vq_rearm(r.vq);
		}
	}
	while (n)
		sl_vq_push(r.vq, &c[--n], 0);
	sl_vq_free(r.vq);
	r.vq = NULL;
	rounds++;
}

static void driver_life(uint64_t *seed)
{
	static unsigned char outstanding[256];
	unsigned int n = 0;

	memset(outstanding, 0, sizeof(outstanding));
	rig_new_dq(&r);
	for (unsigned int calls = 0; calls < 200 && !sl_dq_broken(r.dq); calls++) {
		struct sl_dq_buf b = {rig_buf(&r, 0), 64};
		unsigned int i = rig_below(seed, 256);
		unsigned char *p;
		uint32_t len;

		if (!outstanding[i] && sl_dq_add(r.dq, &b, 1, &b, 1, &outstanding[i])) {
			outstanding[i] = 1;
			n++;
		}
		sl_dq_publish(r.dq);
		p = sl_dq_get(r.dq, &len);
		if (p) {
			CHECK(*p == 1 && len <= 64);
			*p = 0;
			n--;
		}
		CHECK_EQ(sl_dq_outstanding(r.dq), n);
	}
}

static void race(struct rig_options o, bool driver)
{
	uint64_t seed = 1 + o.num + o.packed, seed2 = 77;
	struct sl_chain *c = calloc(o.num, sizeof(*c));
	struct timespec t0, t;
	pthread_t th;

	REQUIRE(c);
	rig_open(&r, &o);
	atomic_store(&stop, false);
	REQUIRE(!pthread_create(&th, NULL, writer, &seed2));
	clock_gettime(CLOCK_MONOTONIC, &t0);
	do {
		for (unsigned int i = 0; i < 100; i++) {
			if (driver)
				driver_life(&seed);
			else
				device_life(c, &seed);
		}
		clock_gettime(CLOCK_MONOTONIC, &t);
	} while ((double)(t.tv_sec - t0.tv_sec) + 1e-9 * (double)(t.tv_nsec - t0.tv_nsec) < seconds / 8);
	atomic_store(&stop, true);
	pthread_join(th, NULL);
	rig_close(&r);
	free(c);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		seconds = atof(argv[1]);
	for (unsigned int i = 0; i < 8; i++) {
		struct rig_options o = {.num = i & 2 ? 64 : 8,
					.packed = i & 1,
					.indirect = true,
					.event_idx = i & 2,
					.buffers = 8192,
					.one_byte = i & 2 ? 100 : 0,
					.region = (i & 4) && (i & 2)};

		race(o, (i & 6) == 4);
	}
	printf("%lu lives, %lu chains\n", rounds, chains);
	return t_failures ? 1 : 0;
}
