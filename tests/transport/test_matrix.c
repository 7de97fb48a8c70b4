/* SPDX-License-Identifier: MIT */
/* test_matrix.c - our blk device and our driver side through real registers: every transport with every ring format.
 *
 * {mmio, pci} x {callbacks, eventfds} x {split, packed} x {indirect,
 * event-idx, in-order}. The device's loop is stepped by hand, or runs on a
 * thread of its own.
 */
#include "t.h"

#include <pthread.h>
#include <unistd.h>

#include "cli/pattern.h"
#include "devices/devices.h"
#include "transport/board.h"

#define RING 32
#define QUEUES 2
#define DISK (4u << 20)
#define BLOCK 4096
#define DMA_ADDRESS 0x140000000ull
#define HANG_NS 20000000000ull
#define SLOTS 8

/** struct way - one cell of the matrix */
struct way {
	enum board_kind kind;
	bool packed, indirect, event_idx, in_order, thread;
};

/** struct slot - one request */
struct slot {
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} *header;
	unsigned char *data, *status;
	uint64_t header_addr, data_addr, status_addr;
};

struct bed {
	struct way way;
	struct sl_loop *loop;
	struct spec spec;
	struct served_device *device;
	pthread_t thread;
	struct board board;
	struct sl_link *link;
	struct sl_features features;
	struct sl_dma dma;
	void *ring, *tables, *state;
	uint64_t ring_addr, tables_addr;
	struct sl_dq *dq;
	struct slot slot[SLOTS];
};

static void *turn(void *arg)
{
	sl_loop_run(arg);
	return NULL;
}

static void open_device(struct bed *b, const char *text)
{
	struct device_env env;
	struct sl_err err = {""};

	b->loop = sl_loop_new();
	env = (struct device_env){.control = b->loop};
	REQUIRE(!spec_parse(&b->spec, text, &err));
	b->device = device_open(&b->spec, &env, &err);
	if (!b->device)
		fprintf(stderr, "%s\n", err.text);
	REQUIRE(b->device);
}

static void negotiate(struct bed *b)
{
	struct sl_features f = {{0}};
	struct sl_err err = {""};

	sl_features_set(&f, SL_F_VERSION_1);
	sl_features_set(&f, SL_F_RING_RESET);
	sl_features_set(&f, SL_F_NOTIFICATION_DATA);
	sl_features_set(&f, SL_F_NOTIF_CONFIG_DATA);
	if (b->way.packed)
		sl_features_set(&f, SL_F_RING_PACKED);
	if (b->way.indirect)
		sl_features_set(&f, SL_F_INDIRECT_DESC);
	if (b->way.event_idx)
		sl_features_set(&f, SL_F_EVENT_IDX);
	if (b->way.in_order)
		sl_features_set(&f, SL_F_IN_ORDER);
	if (sl_link_negotiate(b->link, &f, &err))
		fprintf(stderr, "%s: %s\n", board_names[b->way.kind], err.text);
	REQUIRE(!err.text[0]);
	CHECK_EQ(sl_features_has(&f, SL_F_RING_PACKED), b->way.packed);
	CHECK_EQ(sl_features_has(&f, SL_F_INDIRECT_DESC), b->way.indirect);
	CHECK_EQ(sl_features_has(&f, SL_F_EVENT_IDX), b->way.event_idx);
	CHECK_EQ(sl_features_has(&f, SL_F_IN_ORDER), b->way.in_order);
	CHECK_EQ(sl_features_has(&f, SL_F_NOTIFICATION_DATA), b->way.kind != BOARD_MMIO_FD);
	CHECK(sl_features_has(&f, SL_F_RING_RESET));
	b->features = f;
}

/* A fresh ring in the same place. */
static void fresh_queue(struct bed *b, unsigned int index)
{
	struct sl_dq_config cfg = {
		.num = RING, .packed = b->way.packed, .event_idx = b->way.event_idx, .indirect = b->way.indirect,
		.in_order = b->way.in_order, .ring = b->ring, .state = b->state, .indirect_tables = b->tables,
		.indirect_gpa = b->tables_addr, .indirect_max = 4, .indirect_min = 2,
	};
	struct sl_link_queue setup = {.num = RING, .kick_fd = -1, .call_fd = -1};
	struct sl_dq_layout at;
	struct sl_err err = {""};

	sl_dq_layout(b->way.packed, RING, &at);
	memset(b->ring, 0, at.size);
	b->dq = sl_dq_init(&cfg);
	REQUIRE(b->dq);
	setup.desc = b->ring_addr + at.desc;
	setup.driver = b->ring_addr + at.driver;
	setup.device = b->ring_addr + at.device;
	setup.base = sl_dq_base(b->dq);
	if (b->link->ops->queue_start(b->link, index, &setup, &err))
		fprintf(stderr, "%s: %s\n", board_names[b->way.kind], err.text);
	REQUIRE(!err.text[0]);
}

static void make_memory(struct bed *b)
{
	struct sl_dq_layout at;

	sl_dq_layout(b->way.packed, RING, &at);
	REQUIRE(!sl_dma_open(&b->dma, DMA_ADDRESS, 1 << 20, NULL));
	b->ring = sl_dma_alloc(&b->dma, at.size, 4096, &b->ring_addr);
	b->tables = sl_dma_alloc(&b->dma, RING * 4 * 16, 16, &b->tables_addr);
	b->state = aligned_alloc(64, (sl_dq_state_size(RING) + 63) & ~63ul);
	for (unsigned int i = 0; i < SLOTS; i++) {
		struct slot *s = &b->slot[i];

		s->header = sl_dma_alloc(&b->dma, 16, 16, &s->header_addr);
		s->data = sl_dma_alloc(&b->dma, BLOCK, BLOCK, &s->data_addr);
		s->status = sl_dma_alloc(&b->dma, 1, 1, &s->status_addr);
		REQUIRE(s->status);
	}
	board_memory(&b->board, &b->dma.region, 1);
}

static void bed_open(struct bed *b, const struct way *w, const char *text)
{
	*b = (struct bed){.way = *w};
	open_device(b, text);
	if (w->thread) {
		REQUIRE(!pthread_create(&b->thread, NULL, turn, b->loop));
		while (sl_loop_is_here(b->loop))
			usleep(100);
	}
	board_open(&b->board, w->kind, b->device->dev, false);
	b->link = board_link(&b->board);
	make_memory(b);
	negotiate(b);
	fresh_queue(b, 0);
	REQUIRE(!sl_link_driver_ok(b->link, NULL));
	CHECK_EQ(b->link->ops->status_get(b->link, NULL), SL_STATUS_ACKNOWLEDGE | SL_STATUS_DRIVER |
							  SL_STATUS_FEATURES_OK | SL_STATUS_DRIVER_OK);
	CHECK_EQ(b->link->ops->num_queues(b->link, NULL), QUEUES);
}

static void bed_close(struct bed *b)
{
	if (b->way.thread) {
		b->link->ops->close(b->link);
		sl_loop_quit(b->loop);
		pthread_join(b->thread, NULL);
	}
	board_close(&b->board);
	device_close(b->device);
	spec_free(&b->spec);
	sl_loop_free(b->loop);
	sl_dma_close(&b->dma);
	free(b->state);
}

static bool offer(struct bed *b, unsigned int i, bool write, uint64_t sector)
{
	struct slot *s = &b->slot[i];
	struct sl_dq_buf header = {s->header_addr, 16}, data = {s->data_addr, BLOCK}, status = {s->status_addr, 1};
	struct sl_dq_buf out[2] = {header, data}, in[2] = {data, status};

	s->header->type = write;
	s->header->reserved = 0;
	s->header->sector = sector;
	*s->status = 0xff;
	return write ? sl_dq_add(b->dq, out, 2, &status, 1, s) : sl_dq_add(b->dq, out, 1, in, 2, s);
}

static void publish(struct bed *b)
{
	if (sl_dq_publish(b->dq))
		b->link->ops->kick(b->link, 0, sl_dq_kick_data(b->dq));
}

/* The next completion; with @interrupt nothing but an interrupt ends the wait. */
static struct slot *next(struct bed *b, bool interrupt)
{
	uint64_t start = sl_now();
	struct slot *s;

	while (!(s = sl_dq_get(b->dq, NULL))) {
		REQUIRE(!sl_dq_broken(b->dq));
		if (interrupt && sl_dq_rearm(b->dq))
			continue;
		do {
			REQUIRE(sl_now() - start < HANG_NS);
			if (b->way.thread)
				usleep(20);
			else
				board_step(&b->board);
		} while (interrupt && !board_interrupted(&b->board, 0));
	}
	return s;
}

static void load(struct bed *b, bool interrupt)
{
	for (unsigned int round = 0; round < 12; round++) {
		bool write = round % 2 == 0;

		for (unsigned int i = 0; i < SLOTS; i++) {
			if (write)
				pattern_fill(b->slot[i].data, BLOCK, i, round);
			else
				memset(b->slot[i].data, 0, BLOCK);
			REQUIRE(offer(b, i, write, (round / 2 * SLOTS + i) * 8));
		}
		publish(b);
		for (unsigned int i = 0; i < SLOTS; i++) {
			struct slot *s = next(b, interrupt);

			CHECK_EQ(*s->status, 0);
			if (!write)
				CHECK(pattern_check(s->data, BLOCK, (uint64_t)(s - b->slot), round - 1));
		}
	}
	CHECK_EQ(sl_dq_outstanding(b->dq), 0);
}

static void body(const struct way *w)
{
	struct bed b;

	bed_open(&b, w, "blk,memory:4M,queues=2,in-order=on");
	load(&b, false);
	load(&b, true);
	/* stopped with requests in flight, started afresh */
	for (unsigned int i = 0; i < SLOTS; i++)
		offer(&b, i, false, i);
	publish(&b);
	CHECK_EQ(b.link->ops->queue_stop(b.link, 0, NULL, NULL), 0);
	fresh_queue(&b, 0);
	load(&b, true);
	/* reset with requests in flight, everything from the start */
	for (unsigned int i = 0; i < SLOTS; i++)
		offer(&b, i, false, i);
	publish(&b);
	negotiate(&b);
	fresh_queue(&b, 0);
	REQUIRE(!sl_link_driver_ok(b.link, NULL));
	load(&b, true);
	bed_close(&b);
}

static void each(bool thread)
{
	for (unsigned int i = 0; i < BOARD_KINDS * 16; i++) {
		struct way w = {(enum board_kind)(i / 16), i & 1, i & 2, i & 4, i & 8, thread};
		unsigned int before = t_failures;

		body(&w);
		if (t_failures != before)
			fprintf(stderr, "... with %s, %s%s%s%s\n", board_names[w.kind], w.packed ? "packed" : "split",
				w.indirect ? ", indirect" : "", w.event_idx ? ", event-idx" : "",
				w.in_order ? ", in-order" : "");
	}
}

static void test_stepped(void)
{
	each(false);
}

static void test_threads(void)
{
	each(true);
}

/* The device takes its time: status, queue_reset and ready say so until it is done, and nothing is taken meanwhile. */
static void slow(enum board_kind kind)
{
	struct way w = {.kind = kind};
	struct sl_dq_layout at;
	unsigned char *was;
	struct bed b;

	bed_open(&b, &w, "blk,memory:4M,queues=2,delay-ms=500");
	sl_dq_layout(false, RING, &at);
	for (unsigned int i = 0; i < SLOTS; i++)
		offer(&b, i, false, 0);
	publish(&b);
	for (unsigned int i = 0; i < 4; i++)
		board_step(&b.board);
	if (kind == BOARD_MMIO) {
		board_write(&b.board, BOARD_MMIO_BASE + 0x30, 4, 0);
		board_write(&b.board, BOARD_MMIO_BASE + 0xc0, 4, 1);
		CHECK_EQ(board_read(&b.board, BOARD_MMIO_BASE + 0xc0, 4), 1);
		CHECK_EQ(board_read(&b.board, BOARD_MMIO_BASE + 0x44, 4), 1);
		board_write(&b.board, BOARD_MMIO_BASE + 0xc0, 4, 1);
		CHECK(!mmio_write(b.board.mmio, 0x70, 4, 0));
		CHECK(!mmio_write(b.board.mmio, 0x70, 4, 0));
		CHECK(board_read(&b.board, BOARD_MMIO_BASE + 0x70, 4) != 0);
		board_write(&b.board, BOARD_MMIO_BASE + 0x70, 4, 15);
		CHECK(!mmio_wait(b.board.mmio, 1));
	} else {
		board_write(&b.board, b.board.lp.common + 0x16, 2, 0);
		board_write(&b.board, b.board.lp.common + 0x3a, 2, 1);
		CHECK_EQ(board_read(&b.board, b.board.lp.common + 0x3a, 2), 1);
		CHECK_EQ(board_read(&b.board, b.board.lp.common + 0x1c, 2), 1);
		board_write(&b.board, b.board.lp.common + 0x3a, 2, 1);
		board_write(&b.board, b.board.lp.common + 0x14, 1, 0);
		board_write(&b.board, b.board.lp.common + 0x14, 1, 0);
		CHECK(board_read(&b.board, b.board.lp.common + 0x14, 1) != 0);
		board_write(&b.board, b.board.lp.common + 0x14, 1, 15);
	}
	CHECK_EQ(b.link->ops->status_set(b.link, 0, NULL), 0); /* waits */
	CHECK_EQ(b.link->ops->status_get(b.link, NULL), 0);
	CHECK(kind != BOARD_MMIO || mmio_wait(b.board.mmio, 0));
	CHECK(kind == BOARD_MMIO || pci_function(b.board.pci)->ops->wait(pci_function(b.board.pci), 0));
	was = malloc(at.size);
	REQUIRE(was);
	memcpy(was, b.ring, at.size);
	for (unsigned int i = 0; i < 10; i++) {
		usleep(5000);
		board_step(&b.board);
	}
	CHECK(!memcmp(was, b.ring, at.size)); /* nothing is written after it */
	free(was);
	bed_close(&b);
}

static void test_slow_reset(void)
{
	slow(BOARD_MMIO);
	slow(BOARD_PCI_MSIX);
}

static const struct t_case cases[] = {
	{"stepped", test_stepped},
	{"threads", test_threads},
	{"slow_reset", test_slow_reset},
};
T_MAIN(cases)
