/* SPDX-License-Identifier: MIT */
/* test_blk.c - the blk driver and our blk device, over every link, with every ring format: one body for all.
 *
 * direct: the device's loop is this thread's and is stepped by hand between
 * two looks at the queue. vhost-user: the device runs on a thread of its own
 * behind a socket pair. mmio, pci: through registers, by hand again.
 */
#include "t.h"

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <sluice/vhost_user_server.h>

#include "cli/pattern.h"
#include "devices/devices.h"
#include "driver/blk.h"
#include "transport/board.h"

#include "random_ops.h"

#define QUEUES 2
#define RING 64
#define DISK (4u << 20)
#define SECTORS (DISK / VBLK_SECTOR)
#define AREA (1u << 20)
#define DEVICE_ADDRESS 0x300000000ull
#define HANG_MS 20000

enum link_kind { DIRECT, VHOST_USER, MMIO, PCI, NUM_LINKS };

static const char *const link_names[] = { "direct", "vhost-user", "mmio", "pci" };

/** struct way - one cell of the matrix */
struct way {
	enum link_kind link;
	bool packed, event_idx, in_order;
};

/**
 * struct bed - a device, a link to it, a driver with queues
 * @data: memory for requests: AREA bytes at @data_addr
 */
struct bed {
	struct way way;
	const char *text;
	struct sl_loop *loop;
	struct spec spec;
	struct served_device *device;
	struct sl_vhost_user_server *server;
	pthread_t thread;
	int sock;
	bool serving;
	struct board board;

	struct sl_link *link;
	struct sl_dma dma;
	struct vblk blk;
	struct vblk_queue q[QUEUES];
	void *private[QUEUES];
	unsigned char *data;
	uint64_t data_addr;
};

/* ---- the device's side ---- */

static void open_device(struct bed *b)
{
	struct device_env env;
	struct sl_err err = { 0 };

	b->loop = sl_loop_new();
	REQUIRE(b->loop);
	env = (struct device_env){ .control = b->loop };
	REQUIRE(!spec_parse(&b->spec, b->text, &err));
	b->device = device_open(&b->spec, &env, &err);
	if (!b->device)
		fprintf(stderr, "%s\n", err.text);
	REQUIRE(b->device);
}

static void close_device(struct bed *b)
{
	device_close(b->device);
	spec_free(&b->spec);
	sl_loop_free(b->loop);
}

static void front_end_gone(void *arg)
{
	sl_loop_quit(((struct bed *)arg)->loop);
}

static void *serve(void *arg)
{
	struct bed *b = arg;
	struct sl_vhost_user_config cfg = { .fd = b->sock, .connected = true, .gone = front_end_gone, .arg = b };
	struct sl_err err = { 0 };

	open_device(b);
	cfg.device = b->device->dev;
	b->server = sl_vhost_user_server_new(&cfg, &err);
	REQUIRE(b->server);
	sl_loop_run(b->loop);
	sl_vhost_user_server_stop(b->server, front_end_gone, b);
	sl_vhost_user_server_free(b->server);
	close_device(b);
	return NULL;
}

/* ---- the driver's side ---- */

static bool has_registers(const struct bed *b)
{
	return b->way.link == MMIO || b->way.link == PCI;
}

/* Is the device's loop turned by this thread? */
static bool by_hand(const struct bed *b)
{
	return b->way.link != VHOST_USER;
}

static void open_link(struct bed *b)
{
	struct sl_link_vhost_user_config cfg = { .timeout_ms = 10000 };
	struct sl_err err = { 0 };
	int pair[2];

	if (b->way.link == DIRECT) {
		open_device(b);
		b->link = sl_link_direct_open(b->device->dev, &err);
	} else if (has_registers(b)) {
		open_device(b);
		board_open(&b->board, b->way.link == MMIO ? BOARD_MMIO : BOARD_PCI_MSIX, b->device->dev, false);
		b->link = board_link(&b->board);
	} else {
		REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
		b->sock = pair[1];
		cfg.fd = pair[0];
		REQUIRE(!pthread_create(&b->thread, NULL, serve, b));
		b->link = sl_link_vhost_user_open(&cfg, &err);
	}
	if (!b->link)
		fprintf(stderr, "%s\n", err.text);
	REQUIRE(b->link);
}

static struct sl_features features_of(const struct way *w)
{
	struct sl_features f = { .w = { UINT64_MAX, UINT64_MAX } };

	if (!w->packed)
		sl_features_clear(&f, SL_F_RING_PACKED);
	if (!w->event_idx)
		sl_features_clear(&f, SL_F_EVENT_IDX);
	if (!w->in_order)
		sl_features_clear(&f, SL_F_IN_ORDER);
	return f;
}

static void bed_open(struct bed *b, const struct way *w, const char *text)
{
	struct sl_features mask = features_of(w);
	struct sl_err err = { 0 };
	uint64_t addr;
	void *ring;

	*b = (struct bed){ .way = *w, .text = text };
	open_link(b);
	if (vblk_open(&b->blk, b->link, &mask, &err))
		fprintf(stderr, "%s: %s\n", link_names[w->link], err.text);
	REQUIRE(!err.text[0]);
	CHECK_EQ(sl_features_has(&b->blk.features, SL_F_RING_PACKED), w->packed);
	CHECK_EQ(sl_features_has(&b->blk.features, SL_F_EVENT_IDX), w->event_idx);
	CHECK_EQ(sl_features_has(&b->blk.features, SL_F_IN_ORDER), w->in_order);
	REQUIRE(!sl_dma_open(&b->dma, DEVICE_ADDRESS, AREA + QUEUES * (64 << 10), NULL));
	for (unsigned int i = 0; i < QUEUES; i++) {
		ring = sl_dma_alloc(&b->dma, vblk_queue_shared_size(&b->blk, RING), 4096, &addr);
		b->private[i] = aligned_alloc(64, (vblk_queue_private_size(RING) + 63) & ~(size_t)63);
		REQUIRE(ring && b->private[i]);
		REQUIRE(!vblk_queue_init(&b->q[i], &b->blk, (uint16_t)i, RING, ring, addr, b->private[i], &err));
	}
	b->data = sl_dma_alloc(&b->dma, AREA, 4096, &b->data_addr);
	REQUIRE(b->data);
	REQUIRE(!b->link->ops->set_memory(b->link, &b->dma.region, 1, &err));
	if (has_registers(b))
		board_memory(&b->board, &b->dma.region, 1);
	if (vblk_start(&b->blk, b->q, QUEUES, &err))
		fprintf(stderr, "%s\n", err.text);
	REQUIRE(!err.text[0]);
}

static void bed_close(struct bed *b)
{
	b->link->ops->close(b->link);
	if (has_registers(b))
		board_close(&b->board);
	if (by_hand(b))
		close_device(b);
	else
		pthread_join(b->thread, NULL);
	sl_dma_close(&b->dma);
	for (unsigned int i = 0; i < QUEUES; i++)
		free(b->private[i]);
}

/* Let the device work a little. */
static void breathe(struct bed *b)
{
	if (by_hand(b))
		sl_loop_step(b->loop, 0);
	else
		nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
}

/* The next completion of queue @i, which must come. */
static void *next(struct bed *b, unsigned int i, int *result)
{
	uint64_t start = sl_now();
	void *cookie;

	vblk_commit(&b->q[i]);
	while (!(cookie = vblk_poll(&b->q[i], result))) {
		breathe(b);
		REQUIRE(!vblk_broken(&b->q[i]));
		REQUIRE(sl_now() - start < HANG_MS * 1000000ull);
	}
	return cookie;
}

static int only(struct bed *b, bool offered)
{
	int result = 1;

	REQUIRE(offered);
	CHECK(next(b, 0, &result) == b);
	CHECK_EQ(vblk_outstanding(&b->q[0]), 0);
	return result;
}

static struct sl_dq_buf at(const struct bed *b, uint32_t off, uint32_t len)
{
	return (struct sl_dq_buf){ b->data_addr + off, len };
}

static void for_each_way(const char *text, void (*body)(struct bed *b))
{
	for (unsigned int i = 0; i < NUM_LINKS * 8; i++) {
		struct way w = {
			.link = (enum link_kind)(i / 8),
			.packed = i & 1,
			.event_idx = i & 2,
			.in_order = i & 4,
		};
		unsigned int before = t_failures;
		struct bed b;

		bed_open(&b, &w, text);
		body(&b);
		bed_close(&b);
		if (t_failures != before)
			fprintf(stderr, "... with %s, %s%s%s\n", link_names[w.link], w.packed ? "packed" : "split",
				w.event_idx ? ", event-idx" : "", w.in_order ? ", in-order" : "");
	}
}

#define MEMORY "blk,memory:4M,queues=2,in-order=on,serial=disk-of-the-tests"

/* ---- bodies ---- */

static void info(struct bed *b)
{
	const struct vblk_info *i = &b->blk.info;

	CHECK_EQ(i->capacity, DISK);
	CHECK_EQ(i->block_size, 512);
	CHECK_EQ(i->num_queues, QUEUES);
	CHECK(i->seg_max >= 1 && i->seg_max <= VBLK_MAX_SEGMENTS);
	CHECK(!i->read_only);
	CHECK(i->flush);
	CHECK(i->max_discard);
	CHECK(i->max_write_zeroes);
}

static void test_info(void)
{
	for_each_way(MEMORY, info);
}

static void read_and_write(struct bed *b)
{
	struct sl_dq_buf out[3] = { at(b, 512, 512), at(b, 8192, 1024), at(b, 16384, 2560) };
	struct sl_dq_buf in = at(b, 65536, 4096);

	pattern_fill(b->data + 512, 512, 1, 1);
	pattern_fill(b->data + 8192, 1024, 2, 1);
	pattern_fill(b->data + 16384, 2560, 3, 1);
	CHECK_EQ(only(b, vblk_write(&b->q[0], 100, out, 3, b)), 0);
	CHECK_EQ(only(b, vblk_flush(&b->q[0], b)), 0);
	memset(b->data + 65536, 0xaa, 8192);
	CHECK_EQ(only(b, vblk_read(&b->q[0], 100, &in, 1, b)), 0);
	CHECK(pattern_check(b->data + 65536, 512, 1, 1));
	CHECK(pattern_check(b->data + 65536 + 512, 1024, 2, 1));
	CHECK(pattern_check(b->data + 65536 + 1536, 2560, 3, 1));
	CHECK_EQ(b->data[65536 + 4096], 0xaa);
	/* scattered again, from the middle */
	CHECK_EQ(only(b, vblk_read(&b->q[0], 101, out, 2, b)), 0);
	CHECK(!memcmp(b->data + 512, b->data + 65536 + 512, 512));
	CHECK(!memcmp(b->data + 8192, b->data + 65536 + 1024, 1024));
}

static void test_read_and_write(void)
{
	for_each_way(MEMORY, read_and_write);
}

static bool zero(const unsigned char *p, size_t n)
{
	while (n--)
		if (*p++)
			return false;
	return true;
}

static void ranges_and_id(struct bed *b)
{
	struct sl_dq_buf buf = at(b, 0, 8192);

	memset(b->data, 0x55, 8192);
	CHECK_EQ(only(b, vblk_write(&b->q[0], 0, &buf, 1, b)), 0);
	CHECK_EQ(only(b, vblk_write_zeroes(&b->q[0], 2, 3, false, b)), 0);
	CHECK_EQ(only(b, vblk_write_zeroes(&b->q[0], 8, 8, true, b)), 0);
	CHECK_EQ(only(b, vblk_discard(&b->q[0], 0, 1, b)), 0);
	CHECK_EQ(only(b, vblk_read(&b->q[0], 0, &buf, 1, b)), 0);
	CHECK_EQ(b->data[2 * 512 - 1], 0x55);
	CHECK(zero(b->data + 2 * 512, 3 * 512));
	CHECK_EQ(b->data[5 * 512], 0x55);
	CHECK(zero(b->data + 8 * 512, 8 * 512));
	memset(b->data, 0xee, 64);
	CHECK_EQ(only(b, vblk_get_id(&b->q[0], b->data_addr, b)), 0);
	CHECK(!strcmp((char *)b->data, "disk-of-the-tests"));
	CHECK_EQ(b->data[VBLK_ID_BYTES], 0xee);
}

static void test_ranges_and_id(void)
{
	for_each_way(MEMORY, ranges_and_id);
}

/* What the device must refuse, and only that request. */
static void refused(struct bed *b)
{
	struct sl_dq_buf block = at(b, 0, 4096), odd = at(b, 0, 100);

	CHECK_EQ(only(b, vblk_read(&b->q[0], SECTORS, &block, 1, b)), -EIO);
	CHECK_EQ(only(b, vblk_read(&b->q[0], SECTORS - 7, &block, 1, b)), -EIO);
	CHECK_EQ(only(b, vblk_read(&b->q[0], UINT64_MAX, &block, 1, b)), -EIO);
	CHECK_EQ(only(b, vblk_write(&b->q[0], UINT64_MAX / 512, &block, 1, b)), -EIO);
	CHECK_EQ(only(b, vblk_read(&b->q[0], 0, &odd, 1, b)), -EIO);
	CHECK_EQ(only(b, vblk_discard(&b->q[0], SECTORS - 1, 2, b)), -EIO);
	CHECK_EQ(only(b, vblk_write_zeroes(&b->q[0], UINT64_MAX, 8, false, b)), -EIO);
	CHECK_EQ(only(b, vblk_read(&b->q[0], SECTORS - 8, &block, 1, b)), 0);
}

static void test_refused(void)
{
	for_each_way(MEMORY, refused);
}

/* As many as fit, on both queues, twice round each ring; each cookie comes back once, with the right bytes. */
static void full(struct bed *b)
{
	bool back[QUEUES * RING];
	size_t at_disk;

	for (unsigned int i = 0; i < 4 * RING; i++) {
		struct sl_dq_buf block = at(b, i % 64 * 512, 512);

		pattern_fill(b->data + i % 64 * 512, 512, i, 7);
		CHECK_EQ(only(b, vblk_write(&b->q[0], i, &block, 1, b)), 0);
	}
	for (unsigned int round = 0; round < 8; round++) {
		unsigned int n[QUEUES] = { 0 };

		memset(back, 0, sizeof(back));
		for (unsigned int i = 0; i < QUEUES; i++) {
			while (n[i] < RING) {
				struct sl_dq_buf block = at(b, (i * RING + n[i]) * 512, 512);

				if (!vblk_read(&b->q[i], i * RING + n[i], &block, 1, &back[i * RING + n[i]]))
					break;
				n[i]++;
			}
			CHECK_EQ(n[i], RING / 3);
			CHECK_EQ(vblk_outstanding(&b->q[i]), RING / 3);
		}
		for (unsigned int i = 0; i < QUEUES; i++)
			vblk_commit(&b->q[i]);
		for (unsigned int i = 0; i < QUEUES; i++) {
			while (n[i]--) {
				int result = 1;
				bool *cookie = next(b, i, &result);

				CHECK_EQ(result, 0);
				CHECK(cookie >= back && cookie < back + QUEUES * RING && !*cookie);
				*cookie = true;
				at_disk = (size_t)(cookie - back);
				CHECK(pattern_check(b->data + at_disk * 512, 512, at_disk, 7));
			}
			CHECK_EQ(vblk_outstanding(&b->q[i]), 0);
			CHECK(!vblk_poll(&b->q[i], &(int){ 0 }));
		}
	}
}

static void test_full(void)
{
	for_each_way(MEMORY, full);
}

/* Did queue 0 call? By hand a look, otherwise a wait. */
static bool called(struct bed *b)
{
	struct pollfd p = { .events = POLLIN };
	uint64_t calls;

	if (has_registers(b))
		return board_interrupted(&b->board, 0);
	p.fd = b->link->ops->call_fd(b->link, 0);
	return poll(&p, 1, by_hand(b) ? 0 : HANG_MS) > 0 && read(p.fd, &calls, sizeof(calls)) == sizeof(calls);
}

static void interrupts(struct bed *b)
{
	struct sl_dq_buf block = at(b, 0, 4096);

	for (unsigned int i = 0; i < 200; i++) {
		uint64_t start = sl_now();
		void *cookie;
		int result = 1;

		REQUIRE(vblk_read(&b->q[0], i, &block, 1, b));
		vblk_commit(&b->q[0]);
		while (!(cookie = vblk_poll(&b->q[0], &result))) {
			if (vblk_rearm(&b->q[0]))
				continue;
			/* nothing but a call ends this */
			while (!called(b)) {
				REQUIRE(by_hand(b) && sl_now() - start < HANG_MS * 1000000ull);
				breathe(b);
			}
			vblk_disarm(&b->q[0]);
		}
		CHECK(cookie == b);
		CHECK_EQ(result, 0);
	}
}

static void test_interrupts(void)
{
	for_each_way(MEMORY, interrupts);
}

/* Stopped with requests in flight, started again where it was. */
static void stop_and_start(struct bed *b)
{
	struct sl_dq_buf block[16];
	int result = 1;

	if (has_registers(b))
		return; /* registers know only a fresh start: see the tests of the transports */
	for (unsigned int round = 0; round < 5; round++) {
		for (unsigned int i = 0; i < 16; i++) {
			block[i] = at(b, i * 4096, 4096);
			REQUIRE(vblk_read(&b->q[0], 8 * i, &block[i], 1, &block[i]));
		}
		vblk_commit(&b->q[0]);
		for (unsigned int i = 0; i < 3; i++)
			breathe(b);
		CHECK_EQ(vblk_stop(&b->blk, b->q, QUEUES, NULL), 0);
		CHECK_EQ(b->link->ops->call_fd(b->link, 0), -1);
		/* what was not taken before the stop is there after the start */
		while (vblk_poll(&b->q[0], &result))
			CHECK_EQ(result, 0);
		CHECK_EQ(vblk_start(&b->blk, b->q, QUEUES, NULL), 0);
		while (vblk_outstanding(&b->q[0])) {
			next(b, 0, &result);
			CHECK_EQ(result, 0);
		}
	}
	CHECK_EQ(only(b, vblk_read(&b->q[0], 0, block, 1, b)), 0);
}

static void test_stop_and_start(void)
{
	for_each_way(MEMORY, stop_and_start);
}

/* The link is closed with requests in flight. */
static void leave(struct bed *b)
{
	struct sl_dq_buf block = at(b, 0, 4096);

	for (unsigned int i = 0; i < 16; i++)
		REQUIRE(vblk_read(&b->q[1], 8 * i, &block, 1, b));
	vblk_commit(&b->q[1]);
	breathe(b);
}

static void test_leave(void)
{
	for_each_way("blk,memory:4M,queues=2,in-order=on,delay-ms=20", leave);
}

static void failing_writes(struct bed *b)
{
	struct sl_dq_buf block = at(b, 0, 4096);

	CHECK_EQ(only(b, vblk_write(&b->q[0], 0, &block, 1, b)), -EIO);
	CHECK_EQ(only(b, vblk_read(&b->q[0], 0, &block, 1, b)), 0);
}

static void test_failing_writes(void)
{
	for_each_way("blk,memory:4M,queues=2,in-order=on,error=100%,error-op=write", failing_writes);
}

static void read_only(struct bed *b)
{
	struct sl_dq_buf block = at(b, 0, 4096);

	CHECK(b->blk.info.read_only);
	CHECK_EQ(only(b, vblk_write(&b->q[0], 0, &block, 1, b)), -EIO);
	CHECK_EQ(only(b, vblk_read(&b->q[0], 0, &block, 1, b)), 0);
}

static void test_read_only(void)
{
	for_each_way("blk,memory:4M,queues=2,in-order=on,readonly=on", read_only);
}

static void breathe_bed(void *arg)
{
	breathe(arg);
}

static void random_requests(struct bed *b)
{
	struct random_ops *r = calloc(1, sizeof(*r));

	REQUIRE(r);
	r->q = &b->q[1];
	r->breathe = breathe_bed;
	r->arg = b;
	r->rng = 0x123456789abcdefull;
	random_run(r, 2000, b->data, b->data_addr);
	for (unsigned int i = 0; i < NUM_RANDOM_KINDS; i++)
		CHECK(r->count[i]);
	free(r);
}

static void test_random_requests(void)
{
	for_each_way(MEMORY, random_requests);
}

/* B31: going on from the ring alone would skip and repeat requests. */
static void test_restart_without_inflight(void)
{
	const struct way w = { .link = DIRECT };
	struct sl_err err = { 0 };
	struct sl_dq_buf block;
	struct bed b;

	bed_open(&b, &w, MEMORY);
	block = at(&b, 0, 4096);
	REQUIRE(vblk_read(&b.q[1], 0, &block, 1, &b));
	CHECK_EQ(vblk_restart(&b.blk, b.q, QUEUES, &err), -ENOTSUP);
	CHECK(strstr(err.text, "no inflight region"));
	b.blk.inflight = true;
	CHECK_EQ(vblk_restart(&b.blk, b.q, QUEUES, &err), -ENOTSUP);
	CHECK(strstr(err.text, "cannot reconnect"));
	bed_close(&b);
}

/* What the caller may not ask for. */
static void test_bad_queues(void)
{
	const struct way w = { .link = DIRECT };
	struct vblk_queue q;
	struct sl_err err;
	struct bed b;

	bed_open(&b, &w, MEMORY);
	CHECK_EQ(vblk_queue_init(&q, &b.blk, 0, 0, b.data, b.data_addr, b.private[0], &err), -EINVAL);
	CHECK_EQ(vblk_queue_init(&q, &b.blk, 0, 100, b.data, b.data_addr, b.private[0], &err), -EINVAL);
	CHECK(strstr(err.text, "illegal size"));
	bed_close(&b);
}

static const struct t_case cases[] = {
	{ "info", test_info },
	{ "read_and_write", test_read_and_write },
	{ "ranges_and_id", test_ranges_and_id },
	{ "refused", test_refused },
	{ "full", test_full },
	{ "interrupts", test_interrupts },
	{ "stop_and_start", test_stop_and_start },
	{ "leave", test_leave },
	{ "failing_writes", test_failing_writes },
	{ "read_only", test_read_only },
	{ "B31_restart_without_inflight", test_restart_without_inflight },
	{ "random_requests", test_random_requests },
	{ "bad_queues", test_bad_queues },
};
T_MAIN(cases)
