/* SPDX-License-Identifier: MIT */
/* basic.c - what an honest driver and an honest device see of each other */
#include "rig.h"
#include "t.h"

static const struct sl_dq_buf *piece(const struct rig *r, size_t off, uint32_t len)
{
	static struct sl_dq_buf b[4];
	static unsigned int i;

	b[i = (i + 1) % 4] = (struct sl_dq_buf){rig_buf(r, off), len};
	return &b[i];
}

/* Echo: what was written comes back, for many rounds over the ring's end. */
static void echo(struct rig *r)
{
	struct sl_chain c;
	uint32_t len = 0;

	REQUIRE(rig_start(r));
	for (uint32_t i = 0; i < 200; i++) {
		char in[8] = "", out[8];

		snprintf(out, sizeof(out), "%07u", i);
		memcpy(rig_drv(r, rig_buf(r, 0)), out, 8);
		REQUIRE(sl_dq_add(r->dq, piece(r, 0, 8), 1, r->o.num > 1 || r->o.indirect_max ? piece(r, 64, 8) : NULL,
				  r->o.num > 1, &in[i % 8]));
		CHECK_EQ(sl_vq_pop(r->vq, &c), 0);
		sl_dq_publish(r->dq);
		REQUIRE(sl_vq_pop(r->vq, &c) == 1);
		CHECK_EQ(c.out.bytes, 8);
		CHECK_EQ(c.in.bytes, r->o.num > 1 ? 8 : 0);
		CHECK_EQ(sl_vq_inflight(r->vq), 1);
		CHECK_EQ(sl_cursor_read(&c.out, in, 8), 8);
		sl_cursor_write(&c.in, in, 8);
		CHECK(!sl_dq_get(r->dq, NULL));
		sl_vq_push(r->vq, &c, r->o.num > 1 ? 8 : 0);
		CHECK(!sl_dq_get(r->dq, NULL));
		sl_vq_publish(r->vq);
		CHECK(sl_dq_get(r->dq, &len) == &in[i % 8]);
		CHECK_EQ(len, r->o.num > 1 ? 8 : 0);
		if (r->o.num > 1)
			CHECK(!memcmp(rig_drv(r, rig_buf(r, 64)), out, 8));
		CHECK_EQ(sl_vq_base(r->vq), r->o.packed ? sl_dq_base(r->dq) : i + 1);
		CHECK(!sl_vq_pending(r->vq) && !sl_vq_broken(r->vq) && !sl_dq_broken(r->dq));
	}
}

static void echo_all(void)
{
	static const uint16_t sizes[] = {1, 2, 3, 7, 256, 32768};

	for (unsigned int i = 0; i < 6 * 32; i++) {
		struct rig_options o = {.num = sizes[i / 32],
					.packed = i & 1,
					.event_idx = i >> 1 & 1,
					.in_order = i >> 3 & 1,
					.buffers = 4096,
					.region = i >> 4 & 1};
		struct rig r;

		if (!o.packed && o.num & (o.num - 1))
			continue;
		if (i >> 2 & 1) {
			o.indirect = true;
			o.indirect_max = 4;
			o.indirect_min = 2;
		}
		rig_open(&r, &o);
		echo(&r);
		rig_close(&r);
	}
}

/* A20: exactly as many chains as the ring has entries; full is not empty. */
static void a20_full_is_not_empty(void)
{
	for (unsigned int i = 0; i < 8; i++) {
		static const uint16_t sizes[] = {1, 4, 256, 32768};
		struct rig_options o = {.num = sizes[i / 2], .packed = i & 1, .buffers = 4096};
		struct sl_chain *c = calloc(o.num, sizeof(*c));
		struct rig r;

		REQUIRE(c);
		rig_open(&r, &o);
		REQUIRE(rig_start(&r));
		for (unsigned int round = 0; round < 3; round++) {
			for (uint32_t k = 0; k < o.num; k++)
				REQUIRE(sl_dq_add(r.dq, piece(&r, 0, 1), 1, NULL, 0, &c[k]));
			CHECK(!sl_dq_add(r.dq, piece(&r, 0, 1), 1, NULL, 0, &c[0]));
			sl_dq_publish(r.dq);
			CHECK(sl_vq_pending(r.vq));
			for (uint32_t k = 0; k < o.num; k++)
				REQUIRE(sl_vq_pop(r.vq, &c[k]) == 1);
			CHECK_EQ(sl_vq_pop(r.vq, &c[0]), 0);
			CHECK(!sl_vq_pending(r.vq));
			for (uint32_t k = o.num; k--;)
				sl_vq_push(r.vq, &c[k], 0);
			sl_vq_publish(r.vq);
			for (uint32_t k = 0; k < o.num; k++)
				CHECK(sl_dq_get(r.dq, NULL) == &c[o.num - 1 - k]);
			CHECK(!sl_dq_get(r.dq, NULL));
		}
		rig_close(&r);
		free(c);
	}
}

/* Save and restore: a successor goes on where the queue stopped. */
static void base_restore(void)
{
	for (unsigned int packed = 0; packed < 2; packed++) {
		struct rig_options o = {.num = 8, .packed = packed, .buffers = 4096};
		struct sl_chain c;
		struct rig r;

		rig_open(&r, &o);
		REQUIRE(rig_start(&r));
		for (unsigned int i = 0; i < 100; i++) {
			REQUIRE(sl_dq_add(r.dq, piece(&r, 0, 1), 1, piece(&r, 8, 1), i % 3 > 0, &r));
			sl_dq_publish(r.dq);
			REQUIRE(sl_vq_pop(r.vq, &c) == 1);
			sl_vq_push(r.vq, &c, 0);
			sl_vq_publish(r.vq);
			CHECK(sl_dq_get(r.dq, NULL) == &r);
			r.cfg.base = sl_vq_base(r.vq);
			if (packed)
				CHECK_EQ(r.cfg.base & 0xffff, r.cfg.base >> 16);
			sl_vq_free(r.vq);
			REQUIRE(rig_start(&r));
		}
		rig_close(&r);
	}
}

/* Longer chains than fit into the chain itself; the pool of blocks is bounded and refills. */
static void long_chains(void)
{
	struct rig_options o = {
	    .num = 1024, .indirect = true, .indirect_max = 1024, .indirect_min = 2, .buffers = 65536};
	static struct sl_chain c[1024];
	struct sl_dq_buf b[1024];
	struct rig r;

	rig_open(&r, &o);
	REQUIRE(rig_start(&r));
	for (unsigned int i = 0; i < 1024; i++)
		b[i] = (struct sl_dq_buf){rig_buf(&r, i * 2), 1};
	for (unsigned int round = 0; round < 2; round++) {
		unsigned int n = 0;
		int ret;

		for (unsigned int i = 0; i < 1024; i++)
			REQUIRE(sl_dq_add(r.dq, b, 1000, b + 1000, 24, &r));
		sl_dq_publish(r.dq);
		while ((ret = sl_vq_pop(r.vq, &c[n])) == 1) {
			CHECK_EQ(c[n].out.cnt, 1000);
			CHECK_EQ(c[n].in.cnt, 24);
			CHECK(c[n].out.iov[999].iov_base == rig_dev(&r, rig_buf(&r, 1998)));
			n++;
		}
		CHECK_EQ(ret, -ENOBUFS);
		CHECK(n > 100 && n < 1024);
		CHECK(sl_vq_pending(r.vq) && !sl_vq_broken(r.vq));
		sl_vq_push(r.vq, &c[--n], 0);
		CHECK_EQ(sl_vq_pop(r.vq, &c[n]), 1);
		n++;
		for (unsigned int popped = n + 1; popped < 1024; popped++) {
			sl_vq_push(r.vq, &c[0], 0);
			REQUIRE(sl_vq_pop(r.vq, &c[0]) == 1);
		}
		while (n)
			sl_vq_push(r.vq, &c[--n], 0);
		sl_vq_publish(r.vq);
		while (sl_dq_get(r.dq, NULL))
			n++;
		CHECK_EQ(n, 1024);
	}
	rig_close(&r);
}

/* in_order: used in the order of pops, whatever the order of pushes. */
static void in_order_holds_back(void)
{
	for (unsigned int packed = 0; packed < 2; packed++) {
		struct rig_options o = {.num = 8, .packed = packed, .in_order = true, .buffers = 4096};
		struct sl_chain c[8];
		struct rig r;

		rig_open(&r, &o);
		REQUIRE(rig_start(&r));
		for (unsigned int i = 0; i < 8; i++)
			REQUIRE(sl_dq_add(r.dq, NULL, 0, piece(&r, i, 1), 1, &c[i]));
		sl_dq_publish(r.dq);
		for (unsigned int i = 0; i < 8; i++)
			REQUIRE(sl_vq_pop(r.vq, &c[i]) == 1);
		for (unsigned int i = 8; i-- > 1;)
			sl_vq_push(r.vq, &c[i], i & 1);
		CHECK(!sl_vq_publish(r.vq));
		CHECK(!sl_dq_get(r.dq, NULL));
		sl_vq_push(r.vq, &c[0], 0);
		sl_vq_publish(r.vq);
		for (unsigned int i = 0; i < 8; i++) {
			uint32_t len;

			CHECK(sl_dq_get(r.dq, &len) == &c[i]);
			CHECK_EQ(len, i & 1);
		}
		rig_close(&r);
	}
}

/* A device that uses a whole batch with one entry (2.7.9, 2.8.9). */
static void in_order_batch(void)
{
	for (unsigned int packed = 0; packed < 2; packed++) {
		struct rig_options o = {.num = 8, .packed = packed, .in_order = true, .buffers = 4096};
		struct rig r;
		uint32_t len;

		rig_open(&r, &o);
		for (unsigned int i = 0; i < 3; i++)
			REQUIRE(sl_dq_add(r.dq, piece(&r, 0, 4), 1, piece(&r, 8, 7), 1, (char *)&r + i));
		sl_dq_publish(r.dq);
		if (packed) {
			struct wire_pdesc *d = rig_pdesc(&r);
			uint16_t id = d[5].id;

			d[0].id = id;
			d[0].len = 3;
			d[0].flags = WIRE_F_AVAIL | WIRE_F_USED | WIRE_F_WRITE;
		} else {
			struct wire_used *u = rig_used(&r);

			u->ring[0].id = 4;
			u->ring[0].len = 3;
			u->idx = 3;
		}
		for (unsigned int i = 0; i < 3; i++) {
			CHECK(sl_dq_get(r.dq, &len) == (char *)&r + i);
			CHECK_EQ(len, i < 2 ? 7 : 3);
		}
		CHECK(!sl_dq_get(r.dq, NULL) && !sl_dq_broken(r.dq));
		CHECK_EQ(sl_dq_outstanding(r.dq), 0);
		rig_close(&r);
	}
}

static void events(void)
{
	for (unsigned int i = 0; i < 4; i++) {
		struct rig_options o = {.num = 4, .packed = i & 1, .event_idx = i >> 1, .buffers = 4096};
		struct sl_chain c;
		struct rig r;

		rig_open(&r, &o);
		REQUIRE(rig_start(&r));
		for (unsigned int k = 0; k < 50; k++) {
			bool armed = k & 1;

			if (armed) {
				CHECK(!sl_vq_rearm(r.vq));
				CHECK(!sl_dq_rearm(r.dq));
			} else {
				sl_vq_disarm(r.vq);
				sl_dq_disarm(r.dq);
			}
			REQUIRE(sl_dq_add(r.dq, piece(&r, 0, 1), 1, piece(&r, 1, 1), k % 3 > 0, &r));
			CHECK_EQ(sl_dq_publish(r.dq), armed || (!k && i == 2));
			CHECK(sl_vq_rearm(r.vq));
			REQUIRE(sl_vq_pop(r.vq, &c) == 1);
			sl_vq_push(r.vq, &c, 0);
			CHECK_EQ(sl_vq_publish(r.vq), armed || (!k && i == 2));
			CHECK(sl_dq_rearm(r.dq));
			CHECK(sl_dq_get(r.dq, NULL) == &r);
		}
		rig_close(&r);
	}
}

static void detach_gives_back(void)
{
	struct rig_options o = {.num = 8, .buffers = 4096};
	struct rig r;

	rig_open(&r, &o);
	for (unsigned int i = 0; i < 3; i++)
		REQUIRE(sl_dq_add(r.dq, piece(&r, 0, 1), 1, piece(&r, 8, 1), 1, (char *)&r + i));
	for (unsigned int i = 0; i < 3; i++)
		CHECK(sl_dq_detach(r.dq) == (char *)&r + i);
	CHECK(!sl_dq_detach(r.dq));
	CHECK_EQ(sl_dq_outstanding(r.dq), 0);
	rig_close(&r);
}

static void kick_data(void)
{
	struct rig_options o = {.num = 3, .packed = true, .buffers = 4096};
	static const uint16_t want[] = {0x8001, 0x8002, 0x0000, 0x0001};
	struct sl_chain c;
	struct rig r;

	rig_open(&r, &o);
	REQUIRE(rig_start(&r));
	for (unsigned int i = 0; i < 4; i++) {
		REQUIRE(sl_dq_add(r.dq, piece(&r, 0, 1), 1, NULL, 0, &r));
		sl_dq_publish(r.dq);
		CHECK_EQ(sl_dq_kick_data(r.dq), want[i]);
		REQUIRE(sl_vq_pop(r.vq, &c) == 1);
		sl_vq_push(r.vq, &c, 0);
		sl_vq_publish(r.vq);
		CHECK(sl_dq_get(r.dq, NULL));
	}
	rig_close(&r);
}

static const struct t_case cases[] = {
    {"echo_all", echo_all},	  {"a20_full_is_not_empty", a20_full_is_not_empty}, {"base_restore", base_restore},
    {"long_chains", long_chains}, {"in_order_holds_back", in_order_holds_back},	    {"in_order_batch", in_order_batch},
    {"events", events},		  {"detach_gives_back", detach_gives_back},	    {"kick_data", kick_data},
};
T_MAIN(cases)
