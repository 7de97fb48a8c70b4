/* SPDX-License-Identifier: MIT */
/* fuzz_ring.c - raw rings to both sides of a virtqueue, while a second thread rewrites them.
 *
 * SOURCES: src/base src/memory src/ring tests/ring/rig.c
 *
 * The input picks format, features and size, and then says step by step what
 * is written into the shared memory (descriptors, indices, tables, the
 * inflight region, any byte) and what the side under test does: the device
 * side with a driver that is only those writes, or the driver side with such
 * a device. The second thread copies descriptors over each other meanwhile
 * (not with FUZZ_QUIET=1, which makes a run repeatable).
 *
 * Oracles, each ends the run:
 *  - every entry of a chain lies inside the memory map; sums and counts agree and are bounded;
 *  - no id is handed out while it is in flight, and no more chains than the queue has entries;
 *  - a broken ring stays broken, for the same reason;
 *  - the driver side hands out only cookies that are outstanding, with lengths that were offered;
 *  - sanitizers, and libFuzzer's time limit.
 */
#include "ring/rig.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX 64 /* queue size */

static struct rig r;
static unsigned char *racing; /* atomic: memory that the other thread may write now, of @racing_size bytes */
static size_t racing_size;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* the other thread is between two writes */

static void require(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz_ring: %s\n", what);
	abort();
}

static void *rewrite(void *arg)
{
	uint64_t seed = 1;

	(void)arg;
	for (;;) {
		pthread_mutex_lock(&lock);
		for (unsigned int i = 0; racing && i < 64; i++) {
			uint64_t *to = (uint64_t *)(void *)racing + rig_below(&seed, (uint32_t)racing_size / 8);
			const uint64_t *from = (uint64_t *)(void *)racing + rig_below(&seed, (uint32_t)racing_size / 8);

			ring_store64(to, ring_load64(from));
		}
		pthread_mutex_unlock(&lock);
		usleep(1);
	}
	return NULL;
}

static void race(unsigned char *mem, size_t size)
{
	pthread_mutex_lock(&lock);
	racing = mem;
	racing_size = size;
	pthread_mutex_unlock(&lock);
}

/** struct input - what is left of the fuzzer's bytes */
struct input {
	const uint8_t *at, *end;
};

static uint32_t take(struct input *in, unsigned int bytes)
{
	uint32_t v = 0;

	while (bytes-- && in->at < in->end)
		v = v << 8 | *in->at++;
	return v;
}

/* ---- what the hostile side writes ---- */

static uint64_t address(struct input *in)
{
	uint32_t how = take(in, 1);

	switch (how & 3) {
	case 0:
		return RIG_GPA + r.size - take(in, 1);
	case 1:
		return (uint64_t)take(in, 4) << 32 | take(in, 4);
	case 2:
		return RIG_GPA + r.tables + 16 * (uint64_t)(how >> 2);
	default:
		return rig_buf(&r, take(in, 2) % 8192);
	}
}

static void put_desc(struct input *in)
{
	bool table = take(in, 1) & 1;
	size_t at = table ? r.tables + take(in, 1) % 128 * 16 : take(in, 1) % r.o.num * 16;
	uint64_t addr = address(in);
	uint32_t len = take(in, 1) & 1 ? take(in, 4) : take(in, 1) * 16;
	uint16_t flags = (uint16_t)take(in, 1), other = (uint16_t)take(in, 1);

	if (flags & 8)
		other = (uint16_t)take(in, 2);
	if (r.o.packed)
		flags = (uint16_t)((flags & 7) | (flags & 16 ? WIRE_F_USED : 0) | (flags & 32 ? 0 : WIRE_F_AVAIL));
	ring_store64((uint64_t *)(void *)(r.drv + at), addr);
	ring_store32((uint32_t *)(void *)(r.drv + at + 8), len);
	ring_store16((uint16_t *)(void *)(r.drv + at + 12), r.o.packed ? other : flags);
	ring_store16((uint16_t *)(void *)(r.drv + at + 14), r.o.packed ? flags : other);
}

static void put_heads(struct input *in)
{
	struct wire_avail *a = rig_avail(&r);
	unsigned int n = take(in, 1);

	if (r.o.packed)
		return;
	for (unsigned int i = 0; i < n % 8; i++)
		ring_store16(&a->ring[(a->idx + i) % r.o.num], (uint16_t)take(in, 1));
	ring_store16(&a->idx, (uint16_t)(n & 0x80 ? take(in, 2) : a->idx + n % 8));
}

static void put_used(struct input *in)
{
	struct wire_used *u = rig_used(&r);

	if (r.o.packed) {
		struct wire_pdesc *d = &rig_pdesc(&r)[take(in, 1) % r.o.num];

		ring_store16(&d->id, (uint16_t)take(in, 1));
		ring_store32(&d->len, take(in, 1));
		ring_store16(&d->flags, take(in, 1) & 1 ? WIRE_F_AVAIL | WIRE_F_USED | WIRE_F_WRITE : 0);
		return;
	}
	ring_store32(&u->ring[u->idx % r.o.num].id, take(in, 1));
	ring_store32(&u->ring[u->idx % r.o.num].len, take(in, 1));
	ring_store16(&u->idx, (uint16_t)(u->idx + take(in, 1) % 3));
}

static void put_bytes(struct input *in)
{
	bool region = r.region && take(in, 1) & 1;
	size_t size = region ? sl_inflight_size(r.o.packed, r.o.num) : r.size;
	uint16_t *at = (uint16_t *)(void *)((region ? (unsigned char *)r.region : r.drv) + take(in, 2) % size / 2 * 2);

	ring_store16(at, (uint16_t)take(in, 2));
}

static void write_something(struct input *in, uint32_t what)
{
	switch (what % 4) {
	case 0:
		put_desc(in);
		break;
	case 1:
		put_heads(in);
		break;
	case 2:
		put_bytes(in);
		break;
	default:
		put_used(in);
		break;
	}
}

/* ---- device side ---- */

static struct {
	struct sl_chain chain[MAX];
	bool used[MAX]; /* chain[i] is in flight */
	unsigned int n;
	const char *why;
} dev;

static void check_chain(const struct sl_chain *c)
{
	size_t sum[2] = {0, 0};

	require(c->out.cnt == c->out_cnt && c->in.cnt == c->in_cnt, "counts differ");
	require((unsigned int)c->out_cnt + c->in_cnt <= SL_VQ_CHAIN_MAX * (2 + r.o.one_byte), "too many entries");
	for (unsigned int i = 0; i < (unsigned int)c->out_cnt + c->in_cnt; i++) {
		const unsigned char *p = c->iov[i].iov_base;
		size_t len = c->iov[i].iov_len;

		require(len && p >= r.dev && len <= r.size && (size_t)(p - r.dev) <= r.size - len, "outside memory");
		sum[i >= c->out_cnt] += len;
	}
	require(sum[0] == c->out.bytes && sum[1] == c->in.bytes && sum[0] + sum[1] <= UINT32_MAX, "sums differ");
	require(c->id < r.o.num && c->slots && c->slots <= r.o.num, "id or slots");
}

static void pop(void)
{
	unsigned int at = 0;
	int ret;

	while (at < MAX && dev.used[at])
		at++;
	if (at == MAX)
		return;
	ret = sl_vq_pop(r.vq, &dev.chain[at]);
	if (ret == 1) {
		check_chain(&dev.chain[at]);
		for (unsigned int i = 0; i < MAX; i++)
			require(!dev.used[i] || dev.chain[i].id != dev.chain[at].id, "an id in flight again");
		dev.used[at] = true;
		dev.n++;
		require(dev.n <= r.o.num, "more in flight than the queue has");
	} else if (ret < 0 && ret != -ENOBUFS) {
		require(sl_vq_broken(r.vq) && (!dev.why || dev.why == sl_vq_broken(r.vq)), "broken for another reason");
		dev.why = sl_vq_broken(r.vq);
	}
	require(!dev.why || ret < 0, "a broken ring came back");
	require(sl_vq_inflight(r.vq) == dev.n, "in flight");
}

static void push(struct input *in)
{
	unsigned int at = take(in, 1) % MAX;

	if (!dev.used[at])
		return;
	sl_cursor_skip(&dev.chain[at].in, take(in, 1));
	sl_vq_push(r.vq, &dev.chain[at], (uint32_t)dev.chain[at].in.bytes);
	dev.used[at] = false;
	dev.n--;
}

static void start(struct input *in)
{
	sl_vq_free(r.vq);
	memset(dev.used, 0, sizeof(dev.used));
	dev.n = 0;
	dev.why = NULL;
	r.cfg.base = take(in, 1) & 1 ? take(in, 4) : r.o.packed ? 0x80008000 : 0;
	rig_start(&r);
}

static void new_memory(void)
{
	const struct sl_mem_region *have;
	unsigned int n;
	struct sl_mem *mem;

	have = sl_mem_regions(r.mem, &n);
	mem = sl_mem_new(have, n, NULL);
	sl_vq_set_mem(r.vq, mem);
	sl_mem_put(r.mem);
	r.mem = mem;
}

static void device_side(struct input *in)
{
	start(in);
	for (unsigned int steps = 0; steps < 2000 && in->at < in->end; steps++) {
		uint32_t what = take(in, 1);

		if (what < 110 || !r.vq) {
			write_something(in, what);
			if (!r.vq)
				start(in);
		} else if (what < 190) {
			pop();
		} else if (what < 225) {
			push(in);
		} else if (what < 235) {
			sl_vq_publish(r.vq);
		} else if (what < 242) {
			if (what & 1)
				sl_vq_disarm(r.vq);
			else
				sl_vq_rearm(r.vq);
		} else if (what < 248) {
			new_memory();
		} else {
			start(in);
		}
	}
	if (r.vq && dev.n)
		push(in); /* the rest is forgotten */
}

/* ---- driver side ---- */

static void driver_side(struct input *in)
{
	static bool outstanding[256];
	unsigned int n = 0;

	memset(outstanding, 0, sizeof(outstanding));
	for (unsigned int steps = 0; steps < 2000 && in->at < in->end; steps++) {
		uint32_t what = take(in, 1), k = take(in, 1);
		struct sl_dq_buf b[4] = {
		    {rig_buf(&r, 0), 1 + k}, {rig_buf(&r, 0), 16}, {rig_buf(&r, 0), 16}, {rig_buf(&r, 0), 16}};
		uint32_t len;
		bool *c;

		if (what < 80) {
			write_something(in, what < 60 ? 3 : 2);
		} else if (what < 150) {
			if (!outstanding[k] && sl_dq_add(r.dq, b + 1, k % 3, b, 1, &outstanding[k])) {
				outstanding[k] = true;
				n++;
			}
		} else if (what < 190) {
			sl_dq_publish(r.dq);
		} else if (what < 245) {
			c = sl_dq_get(r.dq, &len);
			if (c) {
				require(c >= outstanding && c < outstanding + 256 && *c, "a cookie not outstanding");
				require(len <= 1 + (uint32_t)(c - outstanding), "longer than offered");
				*c = false;
				n--;
			}
		} else if (what & 1) {
			sl_dq_disarm(r.dq);
		} else {
			sl_dq_rearm(r.dq);
		}
		require(sl_dq_outstanding(r.dq) == n, "outstanding");
	}
	while (n) {
		bool *c = sl_dq_detach(r.dq);

		require(c && *c, "a cookie is lost");
		*c = false;
		n--;
	}
	require(!sl_dq_detach(r.dq), "a cookie too many");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint16_t sizes[] = {1, 2, 3, 7, 8, 16, 32, 64};
	struct input in = {data, data + size};
	uint32_t how = take(&in, 1), more = take(&in, 1);
	struct rig_options o = {.num = sizes[more & 7],
				.packed = how & 1,
				.event_idx = how & 2,
				.indirect = how & 4,
				.in_order = how & 8,
				.indirect_max = 8,
				.indirect_min = 2,
				.buffers = 8192,
				.one_byte = more & 8 ? 100 : 0,
				.region = more & 16};
	static bool threads;
	pthread_t thread;

	if (!o.packed && o.num & (o.num - 1))
		o.num = 4;
	if (!threads && !getenv("FUZZ_QUIET"))
		require(!pthread_create(&thread, NULL, rewrite, NULL), "thread");
	threads = true;
	rig_open(&r, &o);
	if (more & 32)
		race(r.drv, more & 64 ? r.at.size : r.tables + 2048);
	if (how & 16)
		driver_side(&in);
	else
		device_side(&in);
	race(NULL, 0);
	rig_close(&r);
	return 0;
}
