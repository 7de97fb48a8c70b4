/* SPDX-License-Identifier: MIT */
/* reject.c - everything a driver, a device or a front-end must not do, one case each
 *
 * Cases named a.. and b.. are reports of other projects, by their number in
 * the list of historic bugs. Each breaks the ring, once, with one answer that stays.
 *
 * More than 800 lines: a flat list of cases, none of which knows another.
 */
#include <stdalign.h>
#include <unistd.h>

#include "rig.h"
#include "t.h"

static struct rig r;

static void open_rig(bool packed, uint16_t num)
{
	struct rig_options o = {.num = num, .packed = packed, .indirect = true, .buffers = 1 << 16};

	rig_open(&r, &o);
	REQUIRE(rig_start(&r));
}

/* ---- raw drivers ---- */

static void desc(unsigned int i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	rig_desc(&r)[i] = (struct wire_desc){addr, len, flags, next};
}

/* A descriptor that is available in the first round. */
static void pdesc(unsigned int i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t id)
{
	rig_pdesc(&r)[i] = (struct wire_pdesc){addr, len, id, flags | WIRE_F_AVAIL};
}

static void offer(uint16_t head)
{
	struct wire_avail *a = rig_avail(&r);

	a->ring[a->idx % r.o.num] = head;
	a->idx++;
}

/* The next pop breaks the ring; it stays broken and nothing moves any more. */
static void breaks_with(const char *why)
{
	struct sl_chain c;
	int err = sl_vq_pop(r.vq, &c);

	CHECK(err < 0 && err != -ENOBUFS);
	CHECK(sl_vq_broken(r.vq) && !strcmp(sl_vq_broken(r.vq), why));
	if (sl_vq_broken(r.vq) && strcmp(sl_vq_broken(r.vq), why))
		fprintf(stderr, "broken: %s\n", sl_vq_broken(r.vq));
	CHECK_EQ(sl_vq_pop(r.vq, &c), err);
	CHECK(!sl_vq_pending(r.vq) && !sl_vq_rearm(r.vq) && !sl_vq_publish(r.vq));
	CHECK_EQ(sl_vq_inflight(r.vq), 0);
	sl_vq_disarm(r.vq);
	rig_close(&r);
}

static struct sl_chain accepted;

static void accepts(unsigned int out, unsigned int in)
{
	CHECK_EQ(sl_vq_pop(r.vq, &accepted), 1);
	CHECK_EQ(accepted.out.cnt, out);
	CHECK_EQ(accepted.in.cnt, in);
	CHECK(!sl_vq_broken(r.vq));
	rig_close(&r);
}

/* Put a table of @n descriptors at @off of the buffers; split and packed tables differ in where flags are. */
static uint64_t table(size_t off, const struct wire_desc *d, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		struct wire_pdesc p = {d[i].addr, d[i].len, d[i].next, d[i].flags};

		memcpy(rig_drv(&r, rig_buf(&r, off)) + 16 * i, r.o.packed ? (const void *)&p : &d[i], 16);
	}
	return rig_buf(&r, off);
}

/* One indirect descriptor at the head. */
static void offer_table(uint64_t at, uint32_t len)
{
	if (r.o.packed) {
		pdesc(0, at, len, WIRE_F_INDIRECT, 0);
	} else {
		desc(0, at, len, WIRE_F_INDIRECT, 0);
		offer(0);
	}
}

static void offer_one(uint64_t at, uint32_t len, uint16_t flags)
{
	if (r.o.packed) {
		pdesc(0, at, len, flags, 0);
	} else {
		desc(0, at, len, flags, 0);
		offer(0);
	}
}

#define BOTH(packed) for (unsigned int packed = 0; packed < 2; packed++)
#define B0	     rig_buf(&r, 0)

/* ---- chains ---- */

static void a01_next_is_itself(void)
{
	open_rig(false, 8);
	desc(0, B0, 0, WIRE_F_NEXT, 0);
	offer(0);
	breaks_with("a descriptor chain is too long");
}

static void a02_next_beyond_table(void)
{
	open_rig(false, 8);
	desc(0, B0, 1, WIRE_F_NEXT, 8);
	offer(0);
	breaks_with("a descriptor's next lies beyond the table");
}

static void a02_circular_chain(void)
{
	open_rig(false, 8);
	desc(0, B0, 1, WIRE_F_NEXT, 1);
	desc(1, B0, 1, WIRE_F_NEXT, 0);
	offer(0);
	breaks_with("a descriptor chain is too long");
}

static void a02_circular_table(void)
{
	struct wire_desc d[] = {{0, 1, WIRE_F_NEXT, 1}, {0, 1, WIRE_F_NEXT, 0}};

	open_rig(false, 8);
	d[0].addr = d[1].addr = B0;
	offer_table(table(256, d, 2), 32);
	breaks_with("a descriptor chain is too long");
}

/* A3, A38: a head comes again as soon as it is pushed, and nothing is ever published. */
static void a03_more_than_the_ring_holds(void)
{
	struct sl_chain c;

	open_rig(false, 8);
	desc(0, B0, 1, 0, 0);
	for (unsigned int i = 0; i < 8; i++) {
		offer(0);
		CHECK_EQ(sl_vq_pop(r.vq, &c), 1);
		sl_vq_push(r.vq, &c, 0);
	}
	offer(0);
	breaks_with("more chains are available than the queue has entries");
}

static void a38_packed_more_than_the_ring_holds(void)
{
	struct sl_chain c;

	open_rig(true, 8);
	for (unsigned int i = 0; i < 8; i++) {
		pdesc(i, B0, 1, 0, 0);
		CHECK_EQ(sl_vq_pop(r.vq, &c), 1);
		sl_vq_push(r.vq, &c, 0);
	}
	rig_pdesc(&r)[0].flags = WIRE_F_USED; /* available in the second round, before the first is published */
	CHECK_EQ(sl_vq_pop(r.vq, &c), 0);
	CHECK(!sl_vq_pending(r.vq));
	rig_close(&r);
}

static void a04_buffer_crosses_regions(void)
{
	BOTH(packed)
	{
		struct rig_options o = {.num = 8, .packed = packed, .buffers = 4096, .one_byte = 4};
		uint64_t end;

		rig_open(&r, &o);
		REQUIRE(rig_start(&r));
		end = RIG_GPA + r.size;
		offer_one(end - 6, 6, 0);
		accepts(5, 0);
		rig_open(&r, &o);
		REQUIRE(rig_start(&r));
		offer_one(end - 6, 7, 0);
		breaks_with("a descriptor points outside guest memory");
	}
}

static void a04_table_crosses_regions(void)
{
	BOTH(packed)
	{
		struct rig_options o = {.num = 8, .packed = packed, .indirect = true, .buffers = 4096, .one_byte = 40};
		struct wire_desc d[] = {{0, 1, WIRE_F_NEXT, 1}, {0, 1, WIRE_F_NEXT, 2}, {0, 1, WIRE_F_WRITE, 0}};

		rig_open(&r, &o);
		REQUIRE(rig_start(&r));
		d[0].addr = d[1].addr = d[2].addr = B0;
		offer_table(table(r.size - 48 - r.buffers, d, 3), 48);
		accepts(2, 1);
	}
}

static void a05_table_half_outside(void)
{
	BOTH(packed)
	{
		struct wire_desc d[] = {{0, 1, WIRE_F_NEXT, 1}};

		open_rig(packed, 8);
		d[0].addr = B0;
		offer_table(table(r.size - 16 - r.buffers, d, 1), 32);
		breaks_with("an indirect table lies outside guest memory");
	}
}

static void a07_length_0_needs_no_address(void)
{
	BOTH(packed)
	{
		open_rig(packed, 8);
		offer_one(~0ULL, 0, 0);
		accepts(0, 0);
	}
}

static void a13_avail_jump(void)
{
	open_rig(false, 8);
	rig_avail(&r)->idx = 9;
	breaks_with("the available index jumped by more than the queue size");
}

static void a14_total_over_4_gib(void)
{
	static struct wire_desc d[2];
	struct sl_mem_region reg[2];
	const struct sl_mem_region *have;
	unsigned int n;
	struct sl_err err;

	BOTH(packed)
	{
		struct sl_mem *mem;

		open_rig(packed, 8);
		have = sl_mem_regions(r.mem, &n);
		reg[0] = *have;
		/* never touched, only translated */
		reg[1] = (struct sl_mem_region){.gpa = 1ULL << 40, .size = 1ULL << 33, .hva = r.dev, .access = 3};
		mem = sl_mem_new(reg, 2, &err);
		REQUIRE(mem);
		CHECK_EQ(sl_vq_set_mem(r.vq, mem), 0);
		sl_mem_put(mem);
		d[0] = (struct wire_desc){1ULL << 40, 1U << 31, WIRE_F_NEXT, 1};
		d[1] = (struct wire_desc){1ULL << 40, 1U << 31, 0, 0};
		offer_table(table(0, d, 2), 32);
		breaks_with("a descriptor chain is longer than 4 GiB");
	}
}

static void a16_table_at_odd_address(void)
{
	BOTH(packed)
	{
		struct wire_desc d[] = {{0, 5, WIRE_F_NEXT, 1}, {0, 7, WIRE_F_WRITE, 0}};

		open_rig(packed, 8);
		d[0].addr = d[1].addr = B0;
		offer_table(table(1001, d, 2), 32);
		accepts(1, 1);
		CHECK_EQ(accepted.out.bytes, 5);
		CHECK_EQ(accepted.in.bytes, 7);
	}
}

static void a17_largest_ring_over_the_index_wrap(void)
{
	struct rig_options o = {.num = 32768, .buffers = 4096};
	struct sl_chain c;

	rig_open(&r, &o);
	r.cfg.base = 65530;
	rig_avail(&r)->idx = 65530;
	rig_used(&r)->idx = 65530;
	REQUIRE(rig_start(&r));
	for (unsigned int i = 0; i < 32768; i++) {
		desc(i, B0, 1, 0, 0);
		offer((uint16_t)i);
	}
	for (unsigned int i = 0; i < 32768; i++) {
		REQUIRE(sl_vq_pop(r.vq, &c) == 1);
		CHECK_EQ(c.id, i);
		sl_vq_push(r.vq, &c, 0);
	}
	CHECK_EQ(sl_vq_pop(r.vq, &c), 0);
	sl_vq_publish(r.vq);
	CHECK_EQ(rig_used(&r)->idx, (uint16_t)(65530 + 32768));
	rig_close(&r);
}

static void a19_avail_garbage(void)
{
	open_rig(false, 256);
	rig_avail(&r)->idx = 0xbeef;
	breaks_with("the available index jumped by more than the queue size");
}

static void a21_next_beyond_odd_table(void)
{
	struct wire_desc d[] = {{0, 1, WIRE_F_NEXT, 1}, {0, 1, WIRE_F_NEXT, 3}, {0, 1, 0, 0}};

	open_rig(false, 8);
	d[0].addr = d[1].addr = B0;
	offer_table(table(256, d, 3), 48);
	breaks_with("a descriptor's next lies beyond its indirect table");
}

static void a22_many_of_length_0(void)
{
	BOTH(packed)
	{
		static struct wire_desc d[SL_VQ_CHAIN_MAX + 1];
		const unsigned int n = SL_VQ_CHAIN_MAX + 1;

		open_rig(packed, 8);
		for (unsigned int i = 0; i < n; i++)
			d[i] = (struct wire_desc){B0, 0, i < n - 1 ? WIRE_F_NEXT : 0, (uint16_t)(i + 1)};
		offer_table(table(256, d, n), 16 * n);
		breaks_with("a descriptor chain is too long");
	}
}

/* Linux does so when the device's segment limit is larger than a small queue. */
static void table_longer_than_a_small_queue_is_served(void)
{
	BOTH(packed)
	{
		static struct wire_desc d[SL_VQ_CHAIN_MAX];

		open_rig(packed, 8);
		for (unsigned int i = 0; i < SL_VQ_CHAIN_MAX; i++)
			d[i] = (struct wire_desc){B0, 1, i < SL_VQ_CHAIN_MAX - 1 ? WIRE_F_NEXT : 0, (uint16_t)(i + 1)};
		offer_table(table(256, d, SL_VQ_CHAIN_MAX), 16 * SL_VQ_CHAIN_MAX);
		accepts(SL_VQ_CHAIN_MAX, 0);
	}
}

static void a23_packed_id_beyond(void)
{
	open_rig(true, 8);
	pdesc(0, B0, 1, 0, 8);
	breaks_with("a buffer id is not less than the queue size");
}

static void a24_head_beyond(void)
{
	open_rig(false, 8);
	offer(8);
	breaks_with("an available head lies beyond the table");
}

static void a24_table_in_table(void)
{
	BOTH(packed)
	{
		struct wire_desc d[] = {{0, 16, WIRE_F_INDIRECT, 0}};

		open_rig(packed, 8);
		d[0].addr = B0;
		offer_table(table(256, d, 1), 16);
		breaks_with("an indirect descriptor inside an indirect table");
	}
}

static void a24_table_outside_memory(void)
{
	BOTH(packed)
	{
		open_rig(packed, 8);
		offer_table(0x1000, 16);
		breaks_with("an indirect table lies outside guest memory");
	}
}

static void a26_head_in_flight(void)
{
	struct sl_chain c;

	open_rig(false, 8);
	desc(0, B0, 1, 0, 0);
	offer(0);
	offer(0);
	CHECK_EQ(sl_vq_pop(r.vq, &c), 1);
	CHECK_EQ(sl_vq_pop(r.vq, &accepted), -EPROTO);
	CHECK(sl_vq_broken(r.vq));
	sl_vq_push(r.vq, &c, 0); /* may still be pushed; the ring is left alone */
	CHECK_EQ(rig_used(&r)->idx, 0);
	breaks_with("an available head is already in flight");
}

static void a26_packed_id_in_flight(void)
{
	struct sl_chain c;

	open_rig(true, 8);
	pdesc(0, B0, 1, 0, 3);
	pdesc(1, B0, 1, 0, 3);
	CHECK_EQ(sl_vq_pop(r.vq, &c), 1);
	CHECK_EQ(sl_vq_pop(r.vq, &accepted), -EPROTO);
	sl_vq_push(r.vq, &c, 0);
	breaks_with("a buffer id is already in flight");
}

/* ---- what a queue may not start with ---- */

static void refused(struct sl_vq_config cfg, const char *what)
{
	struct sl_err err = {0};

	errno = 0;
	CHECK(!sl_vq_new(&cfg, r.mem, &err));
	CHECK_EQ(errno, strstr(what, "memory") ? EFAULT : EINVAL);
	CHECK(strstr(err.text, what));
	if (!strstr(err.text, what))
		fprintf(stderr, "said: %s\n", err.text);
}

static void a28_ring_over_two_regions(void)
{
	BOTH(packed)
	{
		struct rig_options o = {.num = 8, .packed = packed, .buffers = 4096, .one_byte = 64};
		struct sl_vq_config cfg;

		rig_open(&r, &o);
		cfg = r.cfg;
		cfg.desc = RIG_GPA + r.size - 128;
		refused(cfg, "not in guest memory");
		cfg = r.cfg;
		cfg.device = RIG_GPA + r.size - 4;
		refused(cfg, "not in guest memory");
		cfg = r.cfg;
		cfg.driver = 0; /* A36: a queue that was never set up */
		refused(cfg, "not in guest memory");
		cfg.driver = ~0ULL - 3;
		refused(cfg, "not in guest memory");
		rig_close(&r);
	}
}

static void a28_bad_sizes(void)
{
	static const uint16_t bad[] = {0, 3, 32769, 65535};

	BOTH(packed)
	{
		struct rig_options o = {.num = 8, .packed = packed, .buffers = 4096};

		rig_open(&r, &o);
		for (unsigned int i = 0; i < 4; i++) {
			struct sl_vq_config cfg = r.cfg;

			cfg.num = bad[i];
			if (!packed || bad[i] != 3)
				refused(cfg, "size");
		}
		rig_close(&r);
	}
}

static void misaligned_rings(void)
{
	BOTH(packed)
	{
		struct rig_options o = {.num = 8, .packed = packed, .buffers = 4096};
		struct sl_vq_config cfg;

		rig_open(&r, &o);
		cfg = r.cfg;
		cfg.desc += 8;
		refused(cfg, "not aligned");
		cfg = r.cfg;
		cfg.driver += 1;
		refused(cfg, "not aligned");
		cfg = r.cfg;
		cfg.device += 2;
		refused(cfg, "not aligned");
		rig_close(&r);
	}
}

static void packed_bad_base(void)
{
	static const uint32_t bad[] = {0x80088000, 0x80008008, 0x80018000, 0x00008001};
	struct rig_options o = {.num = 8, .packed = true, .buffers = 4096};

	rig_open(&r, &o);
	for (unsigned int i = 0; i < 4; i++) {
		r.cfg.base = bad[i];
		refused(r.cfg, "base");
	}
	rig_close(&r);
}

static void a39_buffer_nowhere(void)
{
	BOTH(packed)
	{
		open_rig(packed, 8);
		offer_one(1ULL << 50, 0xffffffff, WIRE_F_WRITE);
		breaks_with("a descriptor points outside guest memory");
	}
}

static void address_and_length_wrap(void)
{
	BOTH(packed)
	{
		open_rig(packed, 8);
		offer_one(~0ULL - 7, 64, 0);
		breaks_with("a descriptor's address and length wrap");
		open_rig(packed, 8);
		offer_table(~0ULL - 15, 32);
		breaks_with("an indirect table's address and length wrap");
	}
}

static void write_to_read_only_memory(void)
{
	BOTH(packed)
	{
		struct sl_mem_region reg[2];
		const struct sl_mem_region *have;
		struct sl_mem *mem;
		unsigned int n;

		open_rig(packed, 8);
		have = sl_mem_regions(r.mem, &n);
		reg[0] = *have;
		reg[1] = (struct sl_mem_region){.gpa = 1 << 30, .size = 4096, .hva = r.dev, .access = SL_MEM_READ};
		mem = sl_mem_new(reg, 2, NULL);
		CHECK_EQ(sl_vq_set_mem(r.vq, mem), 0);
		sl_mem_put(mem);
		offer_one(1 << 30, 64, WIRE_F_WRITE);
		breaks_with("a descriptor points outside guest memory");
	}
}

/* Each descriptor covers 400 regions of one byte: 160 of them fit, 164 do not. */
static void too_many_pieces(void)
{
	for (unsigned int i = 0; i < 4; i++) {
		struct rig_options o = {
		    .num = 256, .packed = i & 1, .indirect = true, .buffers = 8192, .one_byte = 400};
		unsigned int n = i & 2 ? 164 : 160;
		struct wire_desc d[164];

		rig_open(&r, &o);
		REQUIRE(rig_start(&r));
		for (unsigned int k = 0; k < n; k++)
			d[k] = (struct wire_desc){RIG_GPA + r.size - 400, 400,
						  WIRE_F_WRITE | (k + 1 < n ? WIRE_F_NEXT : 0), (uint16_t)(k + 1)};
		offer_table(table(0, d, n), 16 * n);
		if (i & 2)
			breaks_with("a chain falls into too many pieces of guest memory");
		else
			accepts(0, 64000);
	}
}

/* A42: every combination of flags in every slot is answered in bounded time. */
static void a42_crafted_flags(void)
{
	for (unsigned int f = 0; f < 65536; f += 1 + f % 3) {
		struct sl_chain c;

		open_rig(true, 3);
		for (unsigned int i = 0; i < 3; i++)
			rig_pdesc(&r)[i] = (struct wire_pdesc){B0, 1, (uint16_t)i, (uint16_t)(f * (i + 1))};
		for (unsigned int i = 0; i < 4 && sl_vq_pop(r.vq, &c) == 1; i++)
			CHECK(c.slots >= 1 && c.slots <= 3);
		CHECK(sl_vq_inflight(r.vq) <= 3);
		rig_close(&r);
	}
}

static void a43_table_of_length_0(void)
{
	BOTH(packed)
	{
		open_rig(packed, 8);
		offer_table(B0, 0);
		breaks_with("an indirect table's length is 0 or no multiple of 16");
		open_rig(packed, 8);
		offer_table(B0, 24);
		breaks_with("an indirect table's length is 0 or no multiple of 16");
	}
}

static void a48_last_byte_of_memory(void)
{
	BOTH(packed)
	{
		open_rig(packed, 8);
		offer_one(RIG_GPA + r.size - 1, 1, 0);
		accepts(1, 0);
		open_rig(packed, 8);
		offer_one(RIG_GPA + r.size - 1, 2, 0);
		breaks_with("a descriptor points outside guest memory");
		open_rig(packed, 8);
		offer_one(RIG_GPA + r.size, 1, 0);
		breaks_with("a descriptor points outside guest memory");
	}
}

static void indirect_not_negotiated(void)
{
	BOTH(packed)
	{
		struct rig_options o = {.num = 8, .packed = packed, .buffers = 4096};

		rig_open(&r, &o);
		REQUIRE(rig_start(&r));
		offer_table(B0, 16);
		breaks_with("an indirect descriptor without the feature");
	}
}

static void indirect_with_next(void)
{
	BOTH(packed)
	{
		open_rig(packed, 8);
		offer_one(B0, 16, WIRE_F_INDIRECT | WIRE_F_NEXT);
		breaks_with("an indirect descriptor has a next one");
	}
}

/* Split: a table may end a chain (2.7.5.3.2). Packed: it may not (2.8.7). */
static void indirect_ends_a_chain(void)
{
	struct wire_desc d[] = {{0, 1, WIRE_F_NEXT, 1}, {0, 1, WIRE_F_WRITE, 0}};

	open_rig(false, 8);
	d[0].addr = d[1].addr = B0;
	desc(0, B0, 1, WIRE_F_NEXT, 1);
	desc(1, table(256, d, 2), 32, WIRE_F_INDIRECT | WIRE_F_WRITE, 0);
	offer(0);
	accepts(2, 1);
	open_rig(true, 8);
	pdesc(0, B0, 1, WIRE_F_NEXT, 0);
	pdesc(1, B0, 16, WIRE_F_INDIRECT, 0);
	breaks_with("an indirect descriptor inside a descriptor list");
}

static void readable_after_writable(void)
{
	BOTH(packed)
	{
		struct wire_desc d[] = {{0, 1, WIRE_F_WRITE | WIRE_F_NEXT, 1}, {0, 1, 0, 0}};

		open_rig(packed, 8);
		d[0].addr = d[1].addr = B0;
		offer_table(table(256, d, 2), 32);
		breaks_with("a device-readable descriptor follows a device-writable one");
		open_rig(packed, 8);
		if (packed) {
			pdesc(0, B0, 1, WIRE_F_WRITE | WIRE_F_NEXT, 0);
			pdesc(1, B0, 1, 0, 0);
		} else {
			desc(0, B0, 1, WIRE_F_WRITE | WIRE_F_NEXT, 1);
			desc(1, B0, 1, 0, 0);
			offer(0);
		}
		breaks_with("a device-readable descriptor follows a device-writable one");
	}
}

static void packed_list_longer_than_ring(void)
{
	open_rig(true, 3);
	for (unsigned int i = 0; i < 3; i++)
		pdesc(i, B0, 1, WIRE_F_NEXT, 0);
	breaks_with("a descriptor list is longer than the ring has room");
}

/* ---- memory and log ---- */

static void set_mem_without_ring(void)
{
	BOTH(packed)
	{
		struct sl_chain c;
		struct sl_mem *mem = sl_mem_new(NULL, 0, NULL);

		open_rig(packed, 8);
		offer_one(B0, 1, 0);
		CHECK_EQ(sl_vq_pop(r.vq, &c), 1);
		CHECK_EQ(sl_vq_set_mem(r.vq, mem), -EFAULT);
		sl_mem_put(mem);
		sl_vq_push(r.vq, &c, 0);
		breaks_with("the ring is not in the new guest memory");
	}
}

/* Chains in flight keep the snapshot they came from, also the second and third. */
static void set_mem_in_flight(void)
{
	BOTH(packed)
	{
		struct sl_chain c[3];

		open_rig(packed, 8);
		for (unsigned int i = 0; i < 3; i++) {
			const struct sl_mem_region *have;
			struct sl_mem *mem;
			unsigned int n;

			if (packed)
				pdesc(i, B0, 4, WIRE_F_WRITE, (uint16_t)i);
			else {
				desc(i, B0, 4, WIRE_F_WRITE, 0);
				offer((uint16_t)i);
			}
			REQUIRE(sl_vq_pop(r.vq, &c[i]) == 1);
			have = sl_mem_regions(r.mem, &n);
			mem = sl_mem_new(have, n, NULL);
			CHECK_EQ(sl_vq_set_mem(r.vq, mem), 0);
			sl_mem_put(r.mem); /* the queue holds the rest */
			r.mem = mem;
		}
		CHECK(c[0].hold != c[1].hold && c[1].hold != c[2].hold);
		sl_vq_push(r.vq, &c[1], 4);
		sl_vq_push(r.vq, &c[0], 4);
		sl_vq_publish(r.vq);
		rig_close(&r); /* c[2] is forgotten */
	}
}

static const uint8_t *log_open(struct sl_dirty_log **log, struct sl_mapping **m)
{
	FILE *f = tmpfile();

	REQUIRE(f && !ftruncate(fileno(f), 4096));
	*m = sl_mapping_new(fileno(f), 0, 4096, NULL);
	REQUIRE(*m);
	fclose(f);
	*log = sl_dirty_log_new(*m, 4096);
	REQUIRE(*log);
	return sl_mapping_addr(*m);
}

static bool dirty(const uint8_t *bits, uint64_t gpa)
{
	return bits[gpa / 4096 / 8] >> (gpa / 4096 % 8) & 1;
}

/* A46: logging, switched on with the chain in flight; tables, zero lengths, and cursors that are used up. */
static void a46_dirty_log(void)
{
	BOTH(packed)
	{
		struct wire_desc d[] = {{0, 100, WIRE_F_NEXT, 1},
					{0, 0, WIRE_F_NEXT | WIRE_F_WRITE, 2},
					{0, 8192, WIRE_F_NEXT | WIRE_F_WRITE, 3},
					{0, 0, WIRE_F_NEXT | WIRE_F_WRITE, 4},
					{0, 10, WIRE_F_WRITE, 0}};
		struct sl_dirty_log *log;
		struct sl_mapping *m;
		struct sl_chain c;
		const uint8_t *bits;
		char buf[8200] = "";

		open_rig(packed, 8);
		bits = log_open(&log, &m);
		d[0].addr = rig_buf(&r, 0x8000);
		d[2].addr = rig_buf(&r, 0x1800); /* three pages */
		d[4].addr = rig_buf(&r, 0x6000);
		offer_table(table(0, d, 5), 80);
		REQUIRE(sl_vq_pop(r.vq, &c) == 1);
		CHECK_EQ(c.in.cnt, 2);
		sl_vq_set_log(r.vq, log, true, r.cfg.device);
		sl_cursor_last_byte(&c.in);
		sl_cursor_write(&c.in, buf, 8195);
		sl_vq_push(r.vq, &c, 8195);
		sl_vq_publish(r.vq);
		sl_vq_rearm(r.vq);
		CHECK(dirty(bits, rig_buf(&r, 0x1800)) && dirty(bits, rig_buf(&r, 0x2800)) &&
		      dirty(bits, rig_buf(&r, 0x37ff)));
		CHECK(dirty(bits, rig_buf(&r, 0x6000)));
		CHECK(!dirty(bits, rig_buf(&r, 0x8000)) && !dirty(bits, rig_buf(&r, 0x4000)) &&
		      !dirty(bits, rig_buf(&r, 0x7000)));
		CHECK(dirty(bits, r.cfg.device));
		CHECK(!packed || dirty(bits, r.cfg.desc));
		CHECK(packed || !dirty(bits, r.cfg.desc));
		sl_vq_set_log(r.vq, NULL, false, 0);
		rig_close(&r);
		sl_dirty_log_put(log);
		sl_mapping_put(m);
	}
}

/* ---- what a device must not do ---- */

static void open_dq(bool packed, bool in_order)
{
	struct rig_options o = {.num = 8, .packed = packed, .in_order = in_order, .buffers = 4096};

	rig_open(&r, &o);
	for (unsigned int i = 0; i < 2; i++) {
		struct sl_dq_buf b = {B0, 4};

		REQUIRE(sl_dq_add(r.dq, NULL, 0, &b, 1, &r));
	}
	sl_dq_publish(r.dq);
}

static void dq_breaks_with(const char *why)
{
	struct sl_dq_buf b = {B0, 4};

	while (sl_dq_get(r.dq, NULL))
		;
	CHECK(sl_dq_broken(r.dq) && !strcmp(sl_dq_broken(r.dq), why));
	CHECK(!sl_dq_add(r.dq, &b, 1, NULL, 0, &r));
	CHECK(!sl_dq_publish(r.dq) && !sl_dq_rearm(r.dq));
	CHECK(sl_dq_detach(r.dq));
	rig_close(&r);
}

static void dq_id_not_outstanding(void)
{
	static const uint32_t ids[] = {5, 8, 0xffff, 0x10000, 0xffffffff};

	for (unsigned int i = 0; i < 5; i++) {
		open_dq(false, false);
		rig_used(&r)->ring[0].id = ids[i];
		rig_used(&r)->idx = 1;
		dq_breaks_with("the device used a chain that is not outstanding");
		open_dq(true, false);
		rig_pdesc(&r)[0].id = (uint16_t)(ids[i] == 0x10000 ? 0x8000 : ids[i]);
		rig_pdesc(&r)[0].flags = WIRE_F_AVAIL | WIRE_F_USED;
		dq_breaks_with("the device used a chain that is not outstanding");
	}
}

static void dq_length_too_long(void)
{
	open_dq(false, false);
	rig_used(&r)->ring[0].len = 5;
	rig_used(&r)->idx = 1;
	dq_breaks_with("the device wrote more than it was offered");
	open_dq(true, false);
	rig_pdesc(&r)[0].len = 5;
	rig_pdesc(&r)[0].flags = WIRE_F_AVAIL | WIRE_F_USED | WIRE_F_WRITE;
	dq_breaks_with("the device wrote more than it was offered");
}

static void dq_index_jumps(void)
{
	open_dq(false, false);
	rig_used(&r)->idx = 3;
	dq_breaks_with("the used index is ahead of what was made available");
	open_dq(false, false);
	rig_used(&r)->idx = 0xffff;
	dq_breaks_with("the used index is ahead of what was made available");
}

static void dq_batch_too_short(void)
{
	open_dq(false, true);
	rig_used(&r)->ring[0].id = 1;
	rig_used(&r)->idx = 1;
	dq_breaks_with("the used index is short of the batch that the device used");
}

static void dq_used_twice(void)
{
	open_dq(false, false);
	rig_used(&r)->idx = 2; /* both entries name head 0 */
	dq_breaks_with("the device used a chain that is not outstanding");
}

static void dq_bad_config(void)
{
	static alignas(4096) unsigned char ring[16384];
	static alignas(16) unsigned char state[4096];
	struct sl_dq_config good = {.num = 8, .ring = ring, .state = state}, bad = good;

	CHECK(sl_dq_init(&good));
	bad.num = 0;
	CHECK(!sl_dq_init(&bad));
	bad.num = 6;
	CHECK(!sl_dq_init(&bad));
	bad.packed = true;
	CHECK(sl_dq_init(&bad));
	bad.num = 32769;
	CHECK(!sl_dq_init(&bad));
	bad = good;
	bad.ring = ring + 16;
	CHECK(!sl_dq_init(&bad));
	bad = good;
	bad.state = state + 8;
	CHECK(!sl_dq_init(&bad));
	bad = good;
	bad.indirect = true;
	bad.indirect_tables = ring + 8;
	CHECK(!sl_dq_init(&bad));
}

/* ---- an inflight region that lies ---- */

static void open_region(bool packed)
{
	struct rig_options o = {.num = 8, .packed = packed, .buffers = 4096, .region = true};

	rig_open(&r, &o);
	REQUIRE(rig_start(&r));
	if (packed) {
		pdesc(0, B0, 4, WIRE_F_NEXT, 0);
		pdesc(1, B0, 4, WIRE_F_WRITE, 3);
	} else {
		desc(0, B0, 4, WIRE_F_NEXT, 1);
		desc(1, B0, 4, WIRE_F_WRITE, 0);
		offer(0);
	}
	REQUIRE(sl_vq_pop(r.vq, &accepted) == 1);
	sl_vq_free(r.vq); /* dies with it in flight */
	r.vq = NULL;
}

static void region_refused(const char *what)
{
	refused(r.cfg, what);
	rig_close(&r);
}

static void b13_lying_split_region(void)
{
	struct wire_inflight_split *s;

	open_region(false);
	s = r.region;
	s->last_batch_head = 8;
	s->used_idx = 0xffff; /* one behind the ring */
	region_refused("names an entry beyond the queue");

	open_region(false);
	s = r.region;
	s->last_batch_head = 1;
	s->desc[1].next = 0xffff;
	s->used_idx = 0xfffe;
	region_refused("names an entry beyond the queue");

	open_region(false);
	s = r.region;
	s->used_idx = 100;
	region_refused("larger than the queue");

	open_region(false);
	s = r.region;
	s->version = 7;
	region_refused("version");

	open_region(false);
	r.cfg.inflight = (char *)r.region + 4;
	region_refused("aligned");

	open_region(false);
	s = r.region;
	s->desc_num = 4096;
	region_refused("made for");

	/* every counter alike, everything in flight: comes out in some order, once each, then no more */
	open_region(false);
	s = r.region;
	for (unsigned int i = 0; i < 8; i++) {
		s->desc[i].inflight = 255;
		s->desc[i].counter = ~0ULL;
		desc(i, B0, 4, 0, 0);
	}
	REQUIRE(rig_start(&r));
	for (unsigned int i = 0; i < 8; i++) {
		struct sl_chain c;

		CHECK_EQ(sl_vq_pop(r.vq, &c), 1);
		CHECK_EQ(c.id, i);
	}
	rig_avail(&r)->idx = 8;
	CHECK_EQ(sl_vq_pop(r.vq, &accepted), 0);
	rig_close(&r);
}

static void b14_lying_packed_region(void)
{
	struct wire_inflight_packed *p;
	struct sl_chain c;

	open_region(true);
	p = r.region;
	p->used.idx = 8;
	region_refused("used position");
	open_region(true);
	p = r.region;
	p->used.old_wrap = 2;
	region_refused("used position");
	open_region(true);
	p = r.region;
	p->old_free_head = 9;
	region_refused("free list");
	open_region(true);
	p = r.region;
	p->desc[0].num = 0;
	region_refused("more descriptors");
	open_region(true);
	p = r.region;
	p->desc[0].num = 9;
	region_refused("more descriptors");
	open_region(true);
	p = r.region;
	p->version = 2;
	region_refused("version");

	/* a list that bites its tail: bounded by the count, and the count does not fit */
	open_region(true);
	p = r.region;
	p->desc[0].next = 0;
	p->desc[0].num = 5;
	REQUIRE(rig_start(&r));
	breaks_with("the inflight region holds half a descriptor list");
	open_region(true);
	p = r.region;
	p->desc[0].next = 0xffff;
	REQUIRE(rig_start(&r));
	breaks_with("the inflight region holds half a descriptor list");
	open_region(true);
	p = r.region;
	p->desc[0].num = 3;
	REQUIRE(rig_start(&r));
	breaks_with("the inflight region miscounts a descriptor list");
	open_region(true);
	p = r.region;
	p->desc[1].id = 8;
	REQUIRE(rig_start(&r));
	breaks_with("a buffer id is not less than the queue size");
	open_region(true);
	p = r.region;
	p->desc[1].addr = 1;
	REQUIRE(rig_start(&r));
	breaks_with("a descriptor points outside guest memory");

	/* the same id in flight twice */
	open_region(true);
	p = r.region;
	p->desc[5] = p->desc[1];
	p->desc[5].inflight = 1;
	p->desc[5].num = 1;
	p->desc[5].counter = 9;
	p->free_head = p->old_free_head = 8;
	REQUIRE(rig_start(&r));
	CHECK_EQ(sl_vq_pop(r.vq, &c), 1);
	CHECK_EQ(sl_vq_pop(r.vq, &accepted), -EPROTO);
	sl_vq_push(r.vq, &c, 0);
	breaks_with("a buffer id is already in flight");

	/* a free list that runs into a circle or ends too early while the queue runs */
	open_region(true);
	p = r.region;
	REQUIRE(rig_start(&r));
	CHECK_EQ(sl_vq_pop(r.vq, &c), 1);
	p->desc[2].next = 0xfff0;
	pdesc(2, B0, 4, WIRE_F_NEXT, 0);
	pdesc(3, B0, 4, 0, 1);
	CHECK_EQ(sl_vq_pop(r.vq, &accepted), -EPROTO);
	sl_vq_push(r.vq, &c, 0);
	breaks_with("the inflight region's free list is broken");
}

/* Random bytes in the region: refused or served, never a fault or a loop. */
static void b13_random_regions(void)
{
	uint64_t seed = 12345;

	for (unsigned int i = 0; i < 20000; i++) {
		bool packed = i & 1;
		struct sl_err err;
		struct sl_chain c[16];
		unsigned int n = 0;
		uint16_t *w;

		open_region(packed);
		w = r.region;
		for (unsigned int k = 1 + rig_below(&seed, 6); k--;) {
			unsigned int at = 6 + rig_below(&seed, (unsigned int)(sl_inflight_size(packed, 8) / 2) - 6);

			w[at] = (uint16_t)(rig_below(&seed, 2) ? rig_below(&seed, 10) : rig_random(&seed));
		}
		r.vq = sl_vq_new(&r.cfg, r.mem, &err);
		while (r.vq && n < 16 && sl_vq_pop(r.vq, &c[n]) == 1)
			n++;
		CHECK(n <= 8);
		while (n)
			sl_vq_push(r.vq, &c[--n], 0);
		if (r.vq)
			sl_vq_publish(r.vq);
		rig_close(&r);
	}
}

#define CASE(f)       \
	{             \
#f, f \
	}
static const struct t_case cases[] = {
    CASE(a01_next_is_itself),
    CASE(a02_next_beyond_table),
    CASE(a02_circular_chain),
    CASE(a02_circular_table),
    CASE(a03_more_than_the_ring_holds),
    CASE(a38_packed_more_than_the_ring_holds),
    CASE(a04_buffer_crosses_regions),
    CASE(a04_table_crosses_regions),
    CASE(a05_table_half_outside),
    CASE(a07_length_0_needs_no_address),
    CASE(a13_avail_jump),
    CASE(a14_total_over_4_gib),
    CASE(a16_table_at_odd_address),
    CASE(a17_largest_ring_over_the_index_wrap),
    CASE(a19_avail_garbage),
    CASE(a21_next_beyond_odd_table),
    CASE(a22_many_of_length_0),
    CASE(table_longer_than_a_small_queue_is_served),
    CASE(a23_packed_id_beyond),
    CASE(a24_head_beyond),
    CASE(a24_table_in_table),
    CASE(a24_table_outside_memory),
    CASE(a26_head_in_flight),
    CASE(a26_packed_id_in_flight),
    CASE(a28_ring_over_two_regions),
    CASE(a28_bad_sizes),
    CASE(misaligned_rings),
    CASE(packed_bad_base),
    CASE(a39_buffer_nowhere),
    CASE(address_and_length_wrap),
    CASE(write_to_read_only_memory),
    CASE(too_many_pieces),
    CASE(a42_crafted_flags),
    CASE(a43_table_of_length_0),
    CASE(a48_last_byte_of_memory),
    CASE(indirect_not_negotiated),
    CASE(indirect_with_next),
    CASE(indirect_ends_a_chain),
    CASE(readable_after_writable),
    CASE(packed_list_longer_than_ring),
    CASE(set_mem_without_ring),
    CASE(set_mem_in_flight),
    CASE(a46_dirty_log),
    CASE(dq_id_not_outstanding),
    CASE(dq_length_too_long),
    CASE(dq_index_jumps),
    CASE(dq_batch_too_short),
    CASE(dq_used_twice),
    CASE(dq_bad_config),
    CASE(b13_lying_split_region),
    CASE(b14_lying_packed_region),
    CASE(b13_random_regions),
};
T_MAIN(cases)
