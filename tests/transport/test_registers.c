/* SPDX-License-Identifier: MIT */
/* test_registers.c - what a hostile or a merely odd driver does to the registers of virtio-mmio and virtio-pci.
 *
 * Cases that begin with a letter and a number are bugs that other programs
 * had. Everything runs on this thread; the loop is turned by hand. More than
 * 800 lines, because every case is short and stands on the same few helpers.
 */
#include "t.h"

#include <unistd.h>

#include <sluice/log.h>

#include "devices/devices.h"
#include "transport/board.h"

#define QUEUES 2
#define MAX_SIZE 256
#define MEMORY 0x100000ull /* guest memory: [0, MEMORY) and [HOLE_END, HOLE_END + MEMORY) */
#define HOLE_END 0x180000ull
#define LOW_RING 0x10000ull
#define READY (SL_STATUS_ACKNOWLEDGE | SL_STATUS_DRIVER | SL_STATUS_FEATURES_OK)

struct bed {
	struct sl_loop *loop;
	struct spec spec;
	struct served_device *device;
	struct sl_dma low, high;
	struct board board;
	bool pci;
	struct sl_link *link;
};

static void silent(void *arg, enum sl_log_level level, const char *line)
{
	(void)arg;
	(void)level;
	(void)line;
}

static void give_memory(struct bed *b)
{
	struct sl_link_region r[2] = {b->low.region, b->high.region};

	board_memory(&b->board, r, 2);
}

static void open_legacy(struct bed *b, enum board_kind kind, bool legacy)
{
	struct device_env env;

	*b = (struct bed){.pci = kind >= BOARD_PCI_INTX};
	sl_log_to(silent, NULL, SL_LOG_ERROR);
	b->loop = sl_loop_new();
	env = (struct device_env){.control = b->loop};
	REQUIRE(!spec_parse(&b->spec, "blk,memory:1M,queues=2,queue-size=256,in-order=on,serial=x", NULL));
	b->device = device_open(&b->spec, &env, NULL);
	REQUIRE(b->device);
	board_open(&b->board, kind, b->device->dev, legacy);
	REQUIRE(!sl_dma_open(&b->low, 0, MEMORY, NULL) && !sl_dma_open(&b->high, HOLE_END, MEMORY, NULL));
	give_memory(b);
	if (legacy)
		return;
	if (b->pci) /* BARs answer from here on */
		pci_bus_config_write(&b->board.bus, BOARD_SLOT, 4, 2, 7);
	b->link = board_link(&b->board);
}

static void open_bed(struct bed *b, enum board_kind kind)
{
	open_legacy(b, kind, false);
}

static void close_bed(struct bed *b)
{
	board_close(&b->board);
	device_close(b->device);
	spec_free(&b->spec);
	sl_dma_close(&b->low);
	sl_dma_close(&b->high);
	sl_loop_free(b->loop);
}

/* ---- registers by their meaning, so that most cases are for both transports ---- */

enum reg { STATUS, QUEUE_SELECT, SIZE, ENABLE, DESC, DRIVER, DEVICE, RESET, FEATURES_SEL, FEATURES, WANTED_SEL, WANTED };

static const struct {
	uint16_t mmio, pci;
	uint8_t pci_width;
} where[] = {
	[STATUS] = {0x70, 0x14, 1},
	[QUEUE_SELECT] = {0x30, 0x16, 2},
	[SIZE] = {0x38, 0x18, 2},
	[ENABLE] = {0x44, 0x1c, 2},
	[DESC] = {0x80, 0x20, 4},
	[DRIVER] = {0x90, 0x28, 4},
	[DEVICE] = {0xa0, 0x30, 4},
	[RESET] = {0xc0, 0x3a, 2},
	[FEATURES_SEL] = {0x14, 0x00, 4},
	[FEATURES] = {0x10, 0x04, 4},
	[WANTED_SEL] = {0x24, 0x08, 4},
	[WANTED] = {0x20, 0x0c, 4},
};

static uint64_t address(struct bed *b, enum reg r)
{
	return b->pci ? board_bar(&b->board) + where[r].pci : BOARD_MMIO_BASE + where[r].mmio;
}

static uint32_t get(struct bed *b, enum reg r)
{
	return (uint32_t)board_read(&b->board, address(b, r), b->pci ? where[r].pci_width : 4);
}

static void set(struct bed *b, enum reg r, uint32_t value)
{
	board_write(&b->board, address(b, r), b->pci ? where[r].pci_width : 4, value);
}

static void set64(struct bed *b, enum reg r, uint64_t value)
{
	board_write(&b->board, address(b, r), 4, (uint32_t)value);
	board_write(&b->board, address(b, r) + 4, 4, (uint32_t)(value >> 32));
}

static void steps(struct bed *b)
{
	for (unsigned int i = 0; i < 10; i++)
		board_step(&b->board);
}

static void reset(struct bed *b)
{
	set(b, STATUS, 0);
	steps(b);
	CHECK_EQ(get(b, STATUS), 0);
}

/* Features up to FEATURES_OK: word 0 and word 1. */
static void choose(struct bed *b, uint32_t low, uint32_t high)
{
	set(b, STATUS, SL_STATUS_ACKNOWLEDGE | SL_STATUS_DRIVER);
	set(b, WANTED_SEL, 0);
	set(b, WANTED, low);
	set(b, WANTED_SEL, 1);
	set(b, WANTED, high);
	set(b, STATUS, READY);
}

#define VERSION_1 1u
#define RING_RESET (1u << (SL_F_RING_RESET - 32))

static void set_up(struct bed *b, unsigned int queue, uint32_t size, uint64_t ring)
{
	struct sl_dq_layout at;

	sl_dq_layout(false, (uint16_t)size, &at);
	set(b, QUEUE_SELECT, queue);
	set(b, SIZE, size);
	set64(b, DESC, ring + at.desc);
	set64(b, DRIVER, ring + at.driver);
	set64(b, DEVICE, ring + at.device);
	set(b, ENABLE, 1);
}

static bool runs(struct bed *b, unsigned int queue)
{
	return sl_queue_running(b->device->dev, queue);
}

static void both(void (*body)(struct bed *b))
{
	static const enum board_kind kinds[] = {BOARD_MMIO, BOARD_PCI_INTX};

	for (unsigned int i = 0; i < 2; i++) {
		unsigned int before = t_failures;
		struct bed b;

		open_bed(&b, kinds[i]);
		body(&b);
		close_bed(&b);
		if (t_failures != before)
			fprintf(stderr, "... with %s\n", board_names[kinds[i]]);
	}
}

/** struct honest - a queue as an honest driver has it, for GET_ID requests */
struct honest {
	unsigned int queue;
	struct sl_dq *dq;
	unsigned char *data;
	uint64_t addr;
};

static void honest_start(struct bed *b, struct honest *h, unsigned int queue)
{
	static unsigned char state[8192] __attribute__((aligned(64)));
	struct sl_features f = {{0, 0}};
	struct sl_link_queue setup;
	struct sl_dma dma = b->low;

	b->link = board_link(&b->board); /* BARs may have moved */
	sl_features_set(&f, SL_F_VERSION_1);
	REQUIRE(!sl_link_negotiate(b->link, &f, NULL));
	dma.used = 0x80000;
	memset((char *)dma.region.hva + dma.used, 0, 0x10000);
	h->queue = queue;
	h->dq = sl_dma_queue(&dma, &f, 8, state, &setup, NULL);
	REQUIRE(h->dq);
	h->data = sl_dma_alloc(&dma, 64, 64, &h->addr);
	REQUIRE(h->data);
	REQUIRE(!b->link->ops->queue_start(b->link, queue, &setup, NULL));
	REQUIRE(!sl_link_driver_ok(b->link, NULL));
}

static void honest_request(struct bed *b, struct honest *h)
{
	struct sl_dq_buf out = {h->addr, 16}, in[2] = {{h->addr + 16, 20}, {h->addr + 63, 1}};

	memset(h->data, 0, 63);
	h->data[0] = 8;
	h->data[63] = 0xff;
	REQUIRE(sl_dq_add(h->dq, &out, 1, in, 2, h));
	if (sl_dq_publish(h->dq))
		b->link->ops->kick(b->link, h->queue, sl_dq_kick_data(h->dq));
	steps(b);
	CHECK(sl_dq_get(h->dq, NULL) == h);
	CHECK_EQ(h->data[63], 0);
	CHECK_EQ(h->data[16], 'x');
}

/* The proof that the device is well after all that was done to it. */
static void works(struct bed *b, unsigned int queue)
{
	struct honest h;

	honest_start(b, &h, queue);
	honest_request(b, &h);
	reset(b);
}

/* ---- cases ---- */

static void queue_select(struct bed *b)
{
	static const uint32_t wild[] = {QUEUES, 0xff, 0x7fff, 0x8000, 0xffff};

	choose(b, 0, VERSION_1);
	for (unsigned int i = 0; i < 5; i++) {
		set(b, QUEUE_SELECT, wild[i]);
		set_up(b, wild[i], 16, LOW_RING);
		CHECK_EQ(get(b, ENABLE), 0);
		set(b, RESET, 1);
		set(b, ENABLE, 0);
		if (!b->pci) {
			CHECK_EQ(board_read(&b->board, BOARD_MMIO_BASE + 0x34, 4), 0);
			continue;
		}
		CHECK_EQ(get(b, SIZE), 0);
		CHECK_EQ(board_read(&b->board, board_bar(&b->board) + 0x1a, 2), 0xffff);
		board_write(&b->board, board_bar(&b->board) + 0x1a, 2, 1);
		CHECK_EQ(board_read(&b->board, board_bar(&b->board) + 0x1a, 2), 0xffff);
	}
	set(b, STATUS, READY | SL_STATUS_DRIVER_OK);
	CHECK(!runs(b, 0) && !runs(b, 1));
	reset(b);
	works(b, 1);
}

static void A30_queue_select(void)
{
	both(queue_select);
}

static void A31_msix_vector(void)
{
	struct bed b;
	uint64_t common;

	open_bed(&b, BOARD_PCI_MSIX);
	common = board_bar(&b.board);
	CHECK_EQ(pci_num_vectors(b.board.pci), QUEUES + 1);
	for (uint32_t v = 0; v < 0x10000; v++) {
		if (v > 300 && v % 251)
			continue;
		board_write(&b.board, common + 0x10, 2, v);
		CHECK_EQ(board_read(&b.board, common + 0x10, 2), v <= QUEUES ? v : 0xffff);
		board_write(&b.board, common + 0x1a, 2, v);
		CHECK_EQ(board_read(&b.board, common + 0x1a, 2), v <= QUEUES ? v : 0xffff);
	}
	/* without a vector nothing is sent, and that does no harm */
	works(&b, 0);
	close_bed(&b);
}

static void A32_msix_table(void)
{
	static const unsigned int widths[] = {1, 2, 3, 4, 5, 6, 7, 8};
	uint64_t table, pba, value;
	struct bed b;

	open_bed(&b, BOARD_PCI_MSIX);
	table = board_bar(&b.board) + PCI_MSIX_TABLE;
	pba = board_bar(&b.board) + PCI_MSIX_PBA;
	for (unsigned int w = 0; w < 8; w++) {
		for (uint64_t off = 0; off < 0x8000 + 16; off += off < 128 || off > 0x7ff0 ? 1 : 61) {
			board_read(&b.board, table + off, widths[w]);
			board_write(&b.board, table + off, widths[w], UINT64_MAX);
			board_read(&b.board, pba + off, widths[w]);
			if (off < PCI_MSIX_TABLE - PCI_MSIX_PBA)
				board_write(&b.board, pba + off, widths[w], UINT64_MAX);
		}
	}
	/* every byte can be written alone, what is reserved stays 0 */
	for (unsigned int i = 0; i < 16; i++)
		board_write(&b.board, table + 16 + i, 1, 0x11 * i);
	CHECK_EQ(board_read(&b.board, table + 16, 8), 0x7766554433221100);
	CHECK_EQ(board_read(&b.board, table + 24, 8), 0x00000000bbaa9988);
	board_write(&b.board, table + 16, 1, 0xff);
	CHECK_EQ(board_read(&b.board, table + 16, 2), 0x11fc);
	board_write(&b.board, table + 28, 4, UINT32_MAX);
	CHECK_EQ(board_read(&b.board, table + 28, 4), 1);
	board_write(&b.board, table + 16, 8, 0x1122334455667788);
	board_write(&b.board, table + 24, 8, 0x99);
	CHECK_EQ(board_read(&b.board, table + 18, 4), 0x33445566);
	/* an access across the end of the table, or of the BAR */
	CHECK_EQ(board_read(&b.board, table + 16 * (QUEUES + 1), 4), 0);
	CHECK(!pci_bus_read(&b.board.bus, PCI_MEMORY, table + 0x8000 - 2, 4, &value));
	CHECK_EQ(value, UINT32_MAX);
	CHECK_EQ(board_read(&b.board, pba, 8), 0);
	works(&b, 0);
	close_bed(&b);
}

static void move_bar(struct bed *b, uint64_t to)
{
	pci_bus_config_write(&b->board.bus, BOARD_SLOT, 0x18, 4, (uint32_t)to);
	pci_bus_config_write(&b->board.bus, BOARD_SLOT, 0x1c, 4, (uint32_t)(to >> 32));
}

/* Does the function answer at @at? num_queues is the witness. */
static bool answers(struct bed *b, uint64_t at)
{
	return board_read(&b->board, at + 0x12, 2) == QUEUES;
}

static void A33_bar_moved(void)
{
	static const uint64_t refused[] = {0, 0x10000, BOARD_WINDOW - 0x10000, BOARD_WINDOW + (16 << 20), 0xffff0000,
					   0xffffffffffff0000, BOARD_WINDOW64 - 0x10000, BOARD_WINDOW64 + (1 << 30)};
	struct bed b;
	uint64_t home;

	open_bed(&b, BOARD_PCI_MSIX);
	home = board_bar(&b.board);
	CHECK(answers(&b, home));
	for (unsigned int i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		move_bar(&b, refused[i]);
		CHECK_EQ(board_bar(&b.board), refused[i]); /* the register keeps what was written */
		CHECK(!answers(&b, refused[i]) && !answers(&b, home));
		CHECK(!pci_function(b.board.pci)->bar[PCI_VIRTIO_BAR].decoded);
		move_bar(&b, home);
		CHECK(answers(&b, home));
	}
	move_bar(&b, BOARD_WINDOW + 0x30000 + 0x1234); /* bits below the size do not exist */
	CHECK_EQ(board_bar(&b.board), BOARD_WINDOW + 0x30000);
	CHECK(answers(&b, BOARD_WINDOW + 0x30000) && !answers(&b, home));
	works(&b, 0);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, 4, 2, 0);
	CHECK(!answers(&b, BOARD_WINDOW + 0x30000));
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, 4, 2, 2);
	CHECK(answers(&b, BOARD_WINDOW + 0x30000));
	/* from one place that decodes to another with one write */
	move_bar(&b, home);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, 0x18, 4, (uint32_t)home + 0x20000);
	CHECK(answers(&b, home + 0x20000) && !answers(&b, home));
	/* a reset of the bus takes everything back */
	pci_bus_reset(&b.board.bus);
	CHECK_EQ(board_bar(&b.board), home);
	CHECK(!answers(&b, home));
	close_bed(&b);
}

static void bar_sizing(void)
{
	struct bed b;

	open_bed(&b, BOARD_PCI_MSIX);
	move_bar(&b, UINT64_MAX);
	CHECK_EQ(pci_bus_config_read(&b.board.bus, BOARD_SLOT, 0x18, 4), 0xffff0004);
	CHECK_EQ(pci_bus_config_read(&b.board.bus, BOARD_SLOT, 0x1c, 4), 0xffffffff);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, 0x10, 4, UINT32_MAX);
	CHECK_EQ(pci_bus_config_read(&b.board.bus, BOARD_SLOT, 0x10, 4), 0);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, 0x30, 4, UINT32_MAX);
	CHECK_EQ(pci_bus_config_read(&b.board.bus, BOARD_SLOT, 0x30, 4), 0);
	close_bed(&b);
}

static void overlapping_bars(void)
{
	struct pci_function other = {.bar[1] = {.kind = PCI_BAR_32, .size = 0x10000}};
	struct bed b;
	uint64_t home;

	open_bed(&b, BOARD_PCI_MSIX);
	home = BOARD_WINDOW + 0x40000;
	REQUIRE(!pci_bus_add(&b.board.bus, &other, BOARD_SLOT - 1, 0, NULL));
	CHECK_EQ(pci_bus_add(&b.board.bus, &other, BOARD_SLOT, 0, NULL), -EINVAL);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT - 1, 4, 2, 2);
	CHECK(other.bar[1].decoded);
	move_bar(&b, home);
	CHECK(answers(&b, home));
	pci_bus_config_write(&b.board.bus, BOARD_SLOT - 1, 0x14, 4, (uint32_t)home);
	CHECK(other.bar[1].decoded); /* the lower device wins */
	CHECK(!pci_function(b.board.pci)->bar[PCI_VIRTIO_BAR].decoded);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT - 1, 0x14, 4, (uint32_t)home + 0x10000); /* beside it */
	CHECK(other.bar[1].decoded);
	CHECK(answers(&b, home));
	close_bed(&b);
}

static void never_used(struct bed *b)
{
	/* a ring at address 0, where there is memory, is as good as any; one that was never named is none */
	choose(b, 0, VERSION_1);
	set_up(b, 0, 16, 0);
	set(b, STATUS, READY | SL_STATUS_DRIVER_OK);
	CHECK(runs(b, 0));
	CHECK(!runs(b, 1));
	give_memory(b);
	steps(b);
	CHECK(!(get(b, STATUS) & SL_STATUS_NEEDS_RESET));
	set(b, QUEUE_SELECT, 1);
	set(b, RESET, 1);
	set(b, ENABLE, 0);
	CHECK_EQ(get(b, ENABLE), 0);
	reset(b);
	works(b, 1);
}

static void A36_never_used_queue(void)
{
	both(never_used);
}

static void notify_anything(struct bed *b)
{
	static const uint64_t values[] = {QUEUES, 0x7fff, 0x8000, 0xffff, 0x10000, 0x80000000, 0xffff0002, 0xffffffff};
	uint64_t bell = b->pci ? board_bar(&b->board) + PCI_NOTIFY : BOARD_MMIO_BASE + 0x50;

	choose(b, 0, VERSION_1);
	set_up(b, 0, 16, LOW_RING);
	set(b, STATUS, READY | SL_STATUS_DRIVER_OK);
	for (unsigned int i = 0; i < 8; i++) {
		board_write(&b->board, bell, 4, values[i]);
		if (b->pci)
			board_write(&b->board, bell + (values[i] & 0xfff), 2, values[i]);
	}
	steps(b);
	CHECK(runs(b, 0));
	CHECK(!(get(b, STATUS) & SL_STATUS_NEEDS_RESET));
	reset(b);
	works(b, 0);
}

static void A40_negative_notify(void)
{
	both(notify_anything);
}

static void size_above_max(struct bed *b)
{
	static const uint32_t sizes[] = {0, MAX_SIZE + 1, MAX_SIZE * 2, 0x8000, 0xffff};

	for (unsigned int i = 0; i < 5; i++) {
		choose(b, 0, VERSION_1);
		set_up(b, 0, MAX_SIZE, LOW_RING);
		reset(b);
		choose(b, 0, VERSION_1);
		set(b, QUEUE_SELECT, 0);
		set(b, SIZE, 16);
		set(b, SIZE, sizes[i]);
		if (b->pci)
			CHECK_EQ(get(b, SIZE), 16);
		if (b->pci) {
			reset(b);
			continue;
		}
		/* it cannot be read back, so the queue must not run with another size than the driver believes */
		set64(b, DESC, LOW_RING);
		set64(b, DRIVER, LOW_RING + 0x8000);
		set64(b, DEVICE, LOW_RING + 0xc000);
		set(b, ENABLE, 1);
		set(b, STATUS, READY | SL_STATUS_DRIVER_OK);
		CHECK(!runs(b, 0));
		CHECK(get(b, STATUS) & SL_STATUS_NEEDS_RESET);
		reset(b);
	}
	works(b, 0);
}

static void A41_queue_size_above_max(void)
{
	both(size_above_max);
}

/* A ring whose used area ends @beyond bytes behind @end. */
static bool starts_at(struct bed *b, uint64_t end, uint64_t beyond)
{
	bool good;

	choose(b, 0, VERSION_1);
	set(b, QUEUE_SELECT, 0);
	set(b, SIZE, 4);
	set64(b, DESC, LOW_RING);
	set64(b, DRIVER, LOW_RING + 0x1000);
	set64(b, DEVICE, end - (4 + 4 * 8 + 2) + beyond);
	set(b, ENABLE, 1);
	set(b, STATUS, READY | SL_STATUS_DRIVER_OK);
	good = runs(b, 0);
	CHECK_EQ(good, !(get(b, STATUS) & SL_STATUS_NEEDS_RESET));
	reset(b);
	return good;
}

static void ring_in_hole(struct bed *b)
{
	static const uint64_t ends[] = {MEMORY, HOLE_END + MEMORY};

	for (unsigned int i = 0; i < 2; i++) {
		/* the area is aligned to 4, its size is 38: the last place where it fits ends 2 bytes early */
		CHECK(starts_at(b, ends[i], (uint64_t)-2));
		CHECK(!starts_at(b, ends[i], 2));
		CHECK(!starts_at(b, ends[i], 18));
		CHECK(!starts_at(b, ends[i], 38));
	}
	CHECK(!starts_at(b, HOLE_END, 2));
	CHECK(starts_at(b, HOLE_END, 38));
	CHECK(!starts_at(b, 0, 2)); /* wraps */
	CHECK(!starts_at(b, 0, (uint64_t)-2));
	works(b, 0);
}

static void A48_ring_in_the_hole(void)
{
	both(ring_in_hole);
}

static void size_after_addresses(struct bed *b)
{
	choose(b, 0, VERSION_1 | RING_RESET);
	/* addresses that fit 4 entries at the end of memory; then a size for which they do not */
	set(b, QUEUE_SELECT, 0);
	set(b, SIZE, 4);
	set64(b, DESC, MEMORY - 64);
	set64(b, DRIVER, LOW_RING);
	set64(b, DEVICE, LOW_RING + 0x1000);
	set(b, SIZE, MAX_SIZE);
	set(b, ENABLE, 1);
	set(b, STATUS, READY | SL_STATUS_DRIVER_OK);
	CHECK(!runs(b, 0));
	CHECK(get(b, STATUS) & SL_STATUS_NEEDS_RESET);
	reset(b);
	/* once it is ready nothing changes any more */
	choose(b, 0, VERSION_1 | RING_RESET);
	set_up(b, 0, 4, LOW_RING);
	set(b, SIZE, MAX_SIZE);
	set64(b, DESC, MEMORY - 16);
	set(b, STATUS, READY | SL_STATUS_DRIVER_OK);
	CHECK(runs(b, 0));
	set(b, SIZE, MAX_SIZE);
	set64(b, DEVICE, HOLE_END - 2);
	steps(b);
	CHECK(runs(b, 0));
	/* the same way through a queue reset */
	set(b, RESET, 1);
	steps(b);
	CHECK_EQ(get(b, RESET), 0);
	CHECK_EQ(get(b, ENABLE), 0);
	CHECK(!runs(b, 0));
	set_up(b, 0, MAX_SIZE, MEMORY - 64);
	CHECK(!runs(b, 0));
	CHECK(get(b, STATUS) & SL_STATUS_NEEDS_RESET);
	reset(b);
	works(b, 0);
}

static void A49_size_after_addresses(void)
{
	both(size_after_addresses);
}

/* Whatever the registers of the queue say, it works only under DRIVER_OK. */
static void not_active(struct bed *b)
{
	uint64_t bell = b->pci ? board_bar(&b->board) + PCI_NOTIFY : BOARD_MMIO_BASE + 0x50;
	struct sl_queue_stats stats;

	choose(b, 0, VERSION_1);
	set_up(b, 0, 16, LOW_RING);
	memset((char *)b->low.region.hva + LOW_RING, 0xff, 0x4000); /* anyone who looks finds a broken ring */
	board_write(&b->board, bell, 4, 0);
	steps(b);
	CHECK_EQ(get(b, ENABLE), 1);
	CHECK(!runs(b, 0));
	CHECK_EQ(get(b, STATUS), READY);
	sl_queue_stats(b->device->dev, 0, &stats);
	CHECK_EQ(stats.requests, 0);
	set(b, STATUS, READY | SL_STATUS_DRIVER_OK);
	steps(b);
	CHECK(get(b, STATUS) & SL_STATUS_NEEDS_RESET); /* and now it did look */
	CHECK(b->pci || board_read(&b->board, BOARD_MMIO_BASE + 0x60, 4) & 2);
	CHECK(!b->pci || link_pci_interrupt(&b->board.lp) & 2);
	reset(b);
	memset((char *)b->low.region.hva + LOW_RING, 0, 0x4000);
	works(b, 0);
}

static void A50_active_without_driver_ok(void)
{
	both(not_active);
}

static void odd_order(struct bed *b)
{
	/* DRIVER_OK without FEATURES_OK */
	set_up(b, 0, 16, LOW_RING);
	set(b, STATUS, SL_STATUS_DRIVER_OK);
	CHECK_EQ(get(b, STATUS), 0);
	set(b, STATUS, SL_STATUS_ACKNOWLEDGE | SL_STATUS_DRIVER | SL_STATUS_DRIVER_OK);
	CHECK(!(get(b, STATUS) & SL_STATUS_DRIVER_OK));
	CHECK(!runs(b, 0));
	reset(b);
	/* features that are not offered, that nobody can have, or without VERSION_1 */
	choose(b, 1u << 30, VERSION_1);
	CHECK(!(get(b, STATUS) & SL_STATUS_FEATURES_OK));
	reset(b);
	choose(b, 0, 0);
	CHECK(!(get(b, STATUS) & SL_STATUS_FEATURES_OK));
	reset(b);
	set(b, WANTED_SEL, 4);
	set(b, WANTED, 1);
	choose(b, 0, VERSION_1);
	CHECK(!(get(b, STATUS) & SL_STATUS_FEATURES_OK));
	reset(b);
	set(b, WANTED_SEL, UINT32_MAX);
	set(b, WANTED, 0);
	choose(b, 0, VERSION_1);
	CHECK(get(b, STATUS) & SL_STATUS_FEATURES_OK);
	/* too late to choose others; status bits cannot be taken back, and NEEDS_RESET is not the driver's */
	set(b, WANTED_SEL, 1);
	set(b, WANTED, 0);
	CHECK(sl_features_has(sl_device_features(b->device->dev), SL_F_VERSION_1));
	CHECK(!b->pci || get(b, WANTED) == VERSION_1);
	set(b, STATUS, SL_STATUS_ACKNOWLEDGE);
	CHECK_EQ(get(b, STATUS), READY);
	set(b, STATUS, READY | SL_STATUS_NEEDS_RESET);
	CHECK_EQ(get(b, STATUS), READY);
	/* everything at once is a legal way to do it */
	set_up(b, 0, 16, LOW_RING);
	set(b, STATUS, READY | SL_STATUS_DRIVER_OK);
	CHECK(runs(b, 0));
	/* a queue that gets ready later */
	set_up(b, 1, 16, LOW_RING + 0x8000);
	CHECK(runs(b, 1));
	set(b, STATUS, READY | SL_STATUS_DRIVER_OK | SL_STATUS_FAILED);
	CHECK(get(b, STATUS) & SL_STATUS_FAILED);
	/* a queue reset without the feature does nothing */
	set(b, QUEUE_SELECT, 0);
	set(b, RESET, 1);
	CHECK_EQ(get(b, RESET), 0);
	CHECK(runs(b, 0));
	reset(b);
	works(b, 0);
}

static void A51_order_of_status(void)
{
	both(odd_order);
}

static void config_space(struct bed *b)
{
	uint64_t config = b->pci ? board_bar(&b->board) + PCI_DEVICE : BOARD_MMIO_BASE + 0x100;
	uint64_t generation = b->pci ? board_bar(&b->board) + 0x15 : BOARD_MMIO_BASE + 0xfc;
	unsigned int width = b->pci ? 1 : 4, len = sl_device_config_len(b->device->dev), before;

	CHECK_EQ(board_read(&b->board, config, 8), (1 << 20) / 512);
	/* at the last byte and beyond, any width */
	CHECK_EQ(board_read(&b->board, config + len, 4), 0);
	CHECK_EQ(board_read(&b->board, config + len - 1, 4), board_read(&b->board, config + len - 1, 1));
	for (uint64_t off = 0; off < 0x1000 - 0x100; off += off < 100 ? 1 : 97)
		for (unsigned int w = 1; w <= 8; w++) {
			board_write(&b->board, config + off, w, UINT64_MAX);
			board_read(&b->board, config + off, w);
		}
	board_write(&b->board, config + len - 2, 4, UINT32_MAX);
	CHECK_EQ(board_read(&b->board, config, 8), (1 << 20) / 512);
	/* the generation changes with each change, however often */
	for (uint64_t i = 0; i < 600; i++) {
		uint64_t capacity = 4096 + i;

		before = (unsigned int)board_read(&b->board, generation, width);
		sl_device_config_update(b->device->dev, 0, &capacity, 8);
		/* once before the bytes and once behind them: who reads across sees it */
		CHECK_EQ((board_read(&b->board, generation, width) - before) & 0xff, 2);
		CHECK_EQ(board_read(&b->board, config, 8), capacity);
	}
	works(b, 0);
}

static void A52_config_space(void)
{
	both(config_space);
}

static void feature_words(struct bed *b)
{
	static const uint32_t beyond[] = {2, 3, 4, 5, 0x7fffffff, 0x80000000, 0xffffffff};
	const struct sl_features *f = sl_device_offered(b->device->dev);

	set(b, FEATURES_SEL, 0);
	CHECK_EQ(get(b, FEATURES), (uint32_t)f->w[0]);
	set(b, FEATURES_SEL, 1);
	CHECK_EQ(get(b, FEATURES) & ~(b->pci ? 1u << 7 : 0), (uint32_t)(f->w[0] >> 32));
	for (unsigned int i = 0; i < 7; i++) {
		set(b, FEATURES_SEL, beyond[i]);
		CHECK_EQ(get(b, FEATURES), 0);
	}
}

static void test_feature_words(void)
{
	both(feature_words);
}

static void mmio_odds(void)
{
	struct bed b;
	uint64_t value;

	open_bed(&b, BOARD_MMIO);
	/* no shared memory: lengths and bases of all ones */
	for (unsigned int id = 0; id < 3; id++) {
		board_write(&b.board, BOARD_MMIO_BASE + 0xac, 4, id);
		CHECK_EQ(board_read(&b.board, BOARD_MMIO_BASE + 0xb0, 8), UINT64_MAX);
		CHECK_EQ(board_read(&b.board, BOARD_MMIO_BASE + 0xb8, 8), UINT64_MAX);
	}
	/* registers are 32 bits wide; anything else is not taken */
	board_write(&b.board, BOARD_MMIO_BASE + 0x70, 1, 1);
	board_write(&b.board, BOARD_MMIO_BASE + 0x70, 8, 1);
	board_write(&b.board, BOARD_MMIO_BASE + 0x71, 4, 1);
	CHECK_EQ(get(&b, STATUS), 0);
	CHECK_EQ(board_read(&b.board, BOARD_MMIO_BASE, 4), 0x74726976);
	CHECK_EQ(board_read(&b.board, BOARD_MMIO_BASE + 4, 1), 2);
	CHECK_EQ(mmio_read(b.board.mmio, MMIO_SIZE, 4), 0);
	CHECK_EQ(mmio_read(b.board.mmio, MMIO_SIZE - 2, 8), 0);
	CHECK_EQ(mmio_read(b.board.mmio, UINT64_MAX, 8), 0);
	CHECK(mmio_write(b.board.mmio, UINT64_MAX - 3, 8, 1));
	/* the page is what reads give */
	CHECK(!memcmp(mmio_page(b.board.mmio), "virt", 4));
	CHECK_EQ((uintptr_t)mmio_page(b.board.mmio) % 4096, 0);
	value = mmio_read(b.board.mmio, 0x100 + 32, 1); /* writeback, which a driver may write */
	mmio_write(b.board.mmio, (1ull << 32) + 0x100 + 32, 1, !value);
	CHECK_EQ(mmio_read(b.board.mmio, 0x100 + 32, 1), value);
	/* an acknowledgement of what is not pending */
	board_write(&b.board, BOARD_MMIO_BASE + 0x64, 4, UINT32_MAX);
	CHECK(!b.board.level);
	/* not ready and ready again: what was set up is still there */
	choose(&b, 0, VERSION_1);
	set_up(&b, 0, 16, LOW_RING);
	set(&b, STATUS, READY | SL_STATUS_DRIVER_OK);
	set(&b, ENABLE, 0);
	steps(&b);
	CHECK_EQ(get(&b, ENABLE), 0);
	CHECK(!runs(&b, 0));
	set(&b, ENABLE, 1);
	CHECK(runs(&b, 0));
	/* the line is high as long as one reason is left */
	memset((char *)b.low.region.hva + LOW_RING, 0xff, 0x4000);
	board_write(&b.board, BOARD_MMIO_BASE + 0x50, 4, 0);
	steps(&b);
	CHECK_EQ(board_read(&b.board, BOARD_MMIO_BASE + 0x60, 4), 2);
	CHECK(b.board.level);
	board_write(&b.board, BOARD_MMIO_BASE + 0x64, 4, 1);
	CHECK(b.board.level);
	board_write(&b.board, BOARD_MMIO_BASE + 0x64, 4, 2);
	CHECK(!b.board.level);
	memset((char *)b.low.region.hva + LOW_RING, 0, 0x4000);
	reset(&b);
	works(&b, 0);
	close_bed(&b);
}

static void pci_bus_scan(void)
{
	struct bed b;
	struct pci_bus *bus;

	open_bed(&b, BOARD_PCI_INTX);
	bus = &b.board.bus;
	for (unsigned int d = 0; d < 32; d++) {
		bool there = d == 0 || d == BOARD_SLOT;
		uint32_t id;

		pci_bus_port_write(bus, 0xcf8, 4, 0x80000000 | d << 11);
		id = pci_bus_port_read(bus, 0xcfc, 4);
		CHECK_EQ(id != UINT32_MAX, there);
		CHECK_EQ(pci_bus_ecam_read(bus, d << 15, 4), id);
		CHECK_EQ(pci_bus_port_read(bus, 0xcfe, 2), id >> 16);
		CHECK_EQ(pci_bus_port_read(bus, 0xcfd, 1), id >> 8 & 0xff);
		for (unsigned int f = 1; f < 8; f++) {
			pci_bus_port_write(bus, 0xcf8, 4, 0x80000000 | d << 11 | f << 8);
			CHECK_EQ(pci_bus_port_read(bus, 0xcfc, 4), UINT32_MAX);
			CHECK_EQ(pci_bus_ecam_read(bus, d << 15 | f << 12, 8), UINT64_MAX);
		}
		/* what is there has no extended capabilities */
		CHECK_EQ(pci_bus_ecam_read(bus, d << 15 | 0x100, 4), there ? 0 : UINT32_MAX);
		CHECK_EQ(pci_bus_ecam_read(bus, d << 15 | 0xffc, 4), there ? 0 : UINT32_MAX);
	}
	pci_bus_port_write(bus, 0xcf8, 4, 0x80010000 | BOARD_SLOT << 11); /* bus 1 */
	CHECK_EQ(pci_bus_port_read(bus, 0xcfc, 4), UINT32_MAX);
	pci_bus_port_write(bus, 0xcf8, 4, BOARD_SLOT << 11); /* not enabled */
	CHECK_EQ(pci_bus_port_read(bus, 0xcfc, 4), UINT32_MAX);
	pci_bus_port_write(bus, 0xcf8, 1, 0xff); /* only whole */
	CHECK_EQ(pci_bus_port_read(bus, 0xcf8, 4), BOARD_SLOT << 11);
	CHECK_EQ(pci_bus_ecam_read(bus, PCI_ECAM_SIZE, 4), UINT32_MAX);
	pci_bus_ecam_write(bus, PCI_ECAM_SIZE, 4, 0);
	pci_bus_config_write(bus, BOARD_SLOT, 0, 4, 0); /* read-only */
	CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, 0, 4), 0x10421af4);
	CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, 8, 4), 0x01000001);
	CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, 0x3c, 2), 0x010b);
	close_bed(&b);
}

/* The registers once more, through the window in configuration space. */
static void pci_config_window(void)
{
	unsigned int cap, last = 0;
	struct bed b;
	struct pci_bus *bus;

	open_bed(&b, BOARD_PCI_INTX);
	bus = &b.board.bus;
	for (cap = pci_bus_config_read(bus, BOARD_SLOT, 0x34, 1); cap; cap = pci_bus_config_read(bus, BOARD_SLOT, cap + 1, 1)) {
		CHECK(cap % 4 == 0 && cap > last && cap < 0x100);
		last = cap;
	}
	cap = last; /* ours is the last one */
	CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, cap + 3, 1), 5);
	pci_bus_config_write(bus, BOARD_SLOT, cap + 4, 1, PCI_VIRTIO_BAR);
	pci_bus_config_write(bus, BOARD_SLOT, cap + 8, 4, 0x14);
	pci_bus_config_write(bus, BOARD_SLOT, cap + 12, 4, 1);
	pci_bus_config_write(bus, BOARD_SLOT, cap + 16, 1, SL_STATUS_ACKNOWLEDGE);
	CHECK_EQ(get(&b, STATUS), SL_STATUS_ACKNOWLEDGE);
	CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, cap + 16, 1), SL_STATUS_ACKNOWLEDGE);
	pci_bus_config_write(bus, BOARD_SLOT, cap + 8, 4, 0x12);
	pci_bus_config_write(bus, BOARD_SLOT, cap + 12, 4, 2);
	CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, cap + 16, 2), QUEUES);
	/* nothing is looked up at an odd place or with a width that is none: the last answer stays */
	pci_bus_config_write(bus, BOARD_SLOT, cap + 8, 4, 0x11);
	CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, cap + 16, 2), QUEUES);
	pci_bus_config_write(bus, BOARD_SLOT, cap + 8, 4, 0x0f);
	pci_bus_config_write(bus, BOARD_SLOT, cap + 12, 4, 3);
	CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, cap + 16, 2), QUEUES);
	/* places and widths that are none */
	for (unsigned int bar = 0; bar < 256; bar++) {
		for (unsigned int len = 0; len < 10; len++) {
			pci_bus_config_write(bus, BOARD_SLOT, cap + 4, 1, bar);
			pci_bus_config_write(bus, BOARD_SLOT, cap + 12, 4, len);
			pci_bus_config_write(bus, BOARD_SLOT, cap + 8, 4, bar % 2 ? 0xffff : UINT32_MAX - bar);
			pci_bus_config_read(bus, BOARD_SLOT, cap + 16, 4);
			pci_bus_config_write(bus, BOARD_SLOT, cap + 16, 4, UINT32_MAX);
		}
	}
	works(&b, 0);
	close_bed(&b);
}

/* Shared memory: a capability for each region, and what is behind it, wherever the BAR is. */
static void shared_memory(void)
{
	static _Alignas(4096) unsigned char first[8192], second[4096];
	static const struct sl_device_ops ops = {.type = "shm", .id = 26};
	const struct sl_shm shm[] = {{7, first, sizeof(first)}, {9, second, sizeof(second)}, {11, first, 4096}};
	struct sl_device_config cfg = {
		.ops = &ops, .name = "shm", .num_queues = 1, .max_queue_size = 4, .shm = shm, .num_shm = 2,
		.control = sl_loop_new(),
	};
	struct sl_device *d = sl_device_new(&cfg, NULL);
	unsigned int seen = 0, cap;
	struct pci_function *wait;
	uint64_t value, base, off = 0;
	struct board board;
	struct pci_bus *bus = &board.bus;

	REQUIRE(d);
	board_open(&board, BOARD_PCI_INTX, d, false);
	for (cap = pci_bus_config_read(bus, BOARD_SLOT, 0x34, 1); cap; cap = pci_bus_config_read(bus, BOARD_SLOT, cap + 1, 1)) {
		if (pci_bus_config_read(bus, BOARD_SLOT, cap, 1) != 9 || pci_bus_config_read(bus, BOARD_SLOT, cap + 3, 1) != 8)
			continue;
		CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, cap + 2, 1), 24);
		CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, cap + 4, 1), PCI_SHM_BAR);
		CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, cap + 5, 1), shm[seen].id);
		CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, cap + 8, 4), off);
		CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, cap + 12, 4), shm[seen].size);
		CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, cap + 16, 4), 0);
		CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, cap + 20, 4), 0);
		off += shm[seen++].size;
	}
	CHECK_EQ(seen, 2);
	pci_bus_config_write(bus, BOARD_SLOT, 4, 2, 7);
	pci_bus_config_write(bus, BOARD_SLOT, 0x20, 4, UINT32_MAX);
	CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, 0x20, 4) & ~15u, (uint32_t)-16384);
	base = BOARD_WINDOW + 0x40000;
	pci_bus_config_write(bus, BOARD_SLOT, 0x20, 4, (uint32_t)base);
	pci_bus_config_write(bus, BOARD_SLOT, 0x24, 4, 0);
	for (unsigned int w = 1; w <= 8; w *= 2) {
		CHECK(pci_bus_write(bus, PCI_MEMORY, base + 8 * w, w, 0x8877665544332211, &wait) && !wait);
		CHECK(!memcmp(first + 8 * w, "\x11\x22\x33\x44\x55\x66\x77\x88", w) && !first[9 * w]);
		CHECK(pci_bus_read(bus, PCI_MEMORY, base + 8 * w, w, &value));
		CHECK(!memcmp(&value, "\x11\x22\x33\x44\x55\x66\x77\x88", w));
	}
	second[0] = 0x5a;
	CHECK(pci_bus_read(bus, PCI_MEMORY, base + 8192, 1, &value) && value == 0x5a);
	/* across the end of a region, and behind the last one: nothing */
	CHECK(pci_bus_write(bus, PCI_MEMORY, base + 8190, 4, UINT32_MAX, &wait) && !first[8190] && second[0] == 0x5a);
	CHECK(pci_bus_write(bus, PCI_MEMORY, base + 12284, 8, UINT64_MAX, &wait) && !second[4092]);
	CHECK(pci_bus_read(bus, PCI_MEMORY, base + 12288, 8, &value) && !value);
	CHECK(pci_bus_read(bus, PCI_MEMORY, base + 16376, 8, &value) && !value);
	board_close(&board);
	sl_device_free(d);
	cfg.num_shm = 3; /* as many as there can be: the list of capabilities still ends inside its space */
	d = sl_device_new(&cfg, NULL);
	board_open(&board, BOARD_PCI_INTX, d, false);
	for (cap = 0x34; pci_bus_config_read(bus, BOARD_SLOT, cap + (cap != 0x34), 1);)
		cap = pci_bus_config_read(bus, BOARD_SLOT, cap + (cap != 0x34), 1);
	CHECK(cap + 20 <= 256);
	CHECK_EQ(pci_bus_config_read(bus, BOARD_SLOT, cap + 3, 1), 5);
	board_close(&board);
	sl_device_free(d);
	cfg.num_shm = 4;
	CHECK(!sl_device_new(&cfg, NULL));
	cfg.num_shm = 1;
	cfg.shm = &(struct sl_shm){1, first + 1, 4096};
	CHECK(!sl_device_new(&cfg, NULL));
	cfg.shm = &(struct sl_shm){1, first, 100};
	CHECK(!sl_device_new(&cfg, NULL));
	sl_loop_free(cfg.control);
}

static void intx(void)
{
	struct bed b;
	uint64_t capacity = 7;

	open_bed(&b, BOARD_PCI_INTX);
	sl_device_config_update(b.device->dev, 0, &capacity, 8);
	CHECK(!b.board.level); /* nobody is told before DRIVER_OK */
	choose(&b, 0, VERSION_1);
	set(&b, STATUS, READY | SL_STATUS_DRIVER_OK);
	capacity = 8;
	sl_device_config_update(b.device->dev, 0, &capacity, 8);
	CHECK(b.board.level);
	CHECK_EQ(pci_bus_config_read(&b.board.bus, BOARD_SLOT, 6, 2), 0x18);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, 4, 2, 7 | 1 << 10);
	CHECK(!b.board.level);
	CHECK_EQ(pci_bus_config_read(&b.board.bus, BOARD_SLOT, 6, 2), 0x18);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, 4, 2, 7);
	CHECK(b.board.level);
	CHECK_EQ(board_read(&b.board, board_bar(&b.board) + PCI_ISR, 1), 2);
	CHECK(!b.board.level);
	CHECK_EQ(board_read(&b.board, board_bar(&b.board) + PCI_ISR, 1), 0);
	CHECK_EQ(pci_bus_config_read(&b.board.bus, BOARD_SLOT, 6, 2), 0x10);
	close_bed(&b);
}

static void update(struct bed *b, uint64_t capacity)
{
	sl_device_config_update(b->device->dev, 0, &capacity, 8);
}

static void msix_pending(void)
{
	struct bed b;
	uint64_t table, pba;
	unsigned int cap;

	open_bed(&b, BOARD_PCI_MSIX);
	cap = b.board.lp.msix;
	table = board_bar(&b.board) + PCI_MSIX_TABLE;
	pba = board_bar(&b.board) + PCI_MSIX_PBA;
	choose(&b, 0, VERSION_1);
	board_write(&b.board, board_bar(&b.board) + 0x10, 2, 2);
	set(&b, STATUS, READY | SL_STATUS_DRIVER_OK);
	update(&b, 1);
	CHECK_EQ(b.board.messages, 1);
	CHECK_EQ(b.board.last_data, 0x42);
	CHECK_EQ(b.board.last_address, 0xfee00000);
	/* the entry is masked */
	board_write(&b.board, table + 32 + 12, 4, 1);
	update(&b, 2);
	update(&b, 3);
	CHECK_EQ(b.board.messages, 1);
	CHECK_EQ(board_read(&b.board, pba, 8), 4);
	board_write(&b.board, table + 32 + 8, 4, 0x77);
	board_write(&b.board, table + 32 + 12, 4, 0);
	CHECK_EQ(b.board.messages, 2);
	CHECK_EQ(b.board.last_data, 0x77);
	CHECK_EQ(board_read(&b.board, pba, 8), 0);
	/* the function is masked */
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, cap + 2, 2, 0xc000);
	update(&b, 4);
	CHECK_EQ(board_read(&b.board, pba, 1), 4);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, cap + 2, 2, 0x8000);
	CHECK_EQ(b.board.messages, 3);
	/* off: INTx again */
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, cap + 2, 2, 0);
	update(&b, 5);
	CHECK_EQ(b.board.messages, 3);
	CHECK(b.board.level);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, cap + 2, 2, 0x8000);
	CHECK(!b.board.level);
	close_bed(&b);
}

/* With descriptors: a masked vector is given back to the engine, a live one is asked for. */
static void vector_descriptors(void)
{
	struct bed b;
	uint64_t table;

	open_bed(&b, BOARD_PCI_FD);
	table = board_bar(&b.board) + PCI_MSIX_TABLE;
	for (unsigned int v = 0; v <= QUEUES; v++)
		CHECK(b.board.vector_on[v]);
	board_write(&b.board, table + 16 + 12, 4, 1);
	CHECK(b.board.vector_on[0] && !b.board.vector_on[1] && b.board.vector_on[2]);
	board_write(&b.board, table + 16 + 12, 4, 0);
	CHECK(b.board.vector_on[1]);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, b.board.lp.msix + 2, 2, 0xc000);
	CHECK(!b.board.vector_on[0] && !b.board.vector_on[1] && !b.board.vector_on[2]);
	close_bed(&b);
}

static bool signalled(struct bed *b, unsigned int vector)
{
	uint64_t n;

	return read(b->board.vector_fd[vector], &n, sizeof(n)) == sizeof(n);
}

/* A queue that runs follows its vector: masked, unmasked, exchanged for another. */
static void vector_of_running_queue(void)
{
	struct honest h;
	struct bed b;
	uint64_t table, pba;

	open_bed(&b, BOARD_PCI_FD);
	table = board_bar(&b.board) + PCI_MSIX_TABLE;
	pba = board_bar(&b.board) + PCI_MSIX_PBA;
	honest_start(&b, &h, 0);
	honest_request(&b, &h);
	CHECK(signalled(&b, 1));
	board_write(&b.board, table + 16 + 12, 4, 1);
	honest_request(&b, &h);
	CHECK(!signalled(&b, 1));
	CHECK_EQ(board_read(&b.board, pba, 8), 2);
	CHECK_EQ(b.board.messages, 0);
	board_write(&b.board, table + 16 + 12, 4, 0);
	CHECK_EQ(board_read(&b.board, pba, 8), 0);
	CHECK_EQ(b.board.messages, 1);
	CHECK_EQ(b.board.last_data, 0x41);
	honest_request(&b, &h);
	CHECK(signalled(&b, 1));
	set(&b, QUEUE_SELECT, 0);
	board_write(&b.board, board_bar(&b.board) + 0x1a, 2, 2);
	honest_request(&b, &h);
	CHECK(!signalled(&b, 1) && signalled(&b, 2));
	board_write(&b.board, board_bar(&b.board) + 0x1a, 2, 0xffff);
	honest_request(&b, &h);
	CHECK(!signalled(&b, 1) && !signalled(&b, 2));
	CHECK_EQ(b.board.messages, 1);
	close_bed(&b);
}

/* What a transport cannot serve it does not offer, and does not take. */
static void hidden_features(void)
{
	struct bed b;

	open_bed(&b, BOARD_MMIO_FD);
	set(&b, FEATURES_SEL, 1);
	CHECK(!(get(&b, FEATURES) & 1u << (SL_F_NOTIFICATION_DATA - 32)));
	choose(&b, 0, VERSION_1 | 1u << (SL_F_NOTIFICATION_DATA - 32));
	CHECK(!(get(&b, STATUS) & SL_STATUS_FEATURES_OK));
	reset(&b);
	/* with an eventfd for the line nobody sets the bit of the queues: it always shows */
	CHECK_EQ(board_read(&b.board, BOARD_MMIO_BASE + 0x60, 4), 1);
	board_write(&b.board, BOARD_MMIO_BASE + 0x64, 4, UINT32_MAX);
	CHECK_EQ(board_read(&b.board, BOARD_MMIO_BASE + 0x60, 4), 1);
	works(&b, 0);
	close_bed(&b);
}

/* ---- legacy ---- */

/* A GET_ID over a legacy ring at page 16; the caller has set it up. */
static void legacy_request(struct bed *b, uint16_t num, void (*kick)(struct bed *b))
{
	unsigned char *mem = b->low.region.hva, *ring = mem + 0x10000, *data = mem + 0x40000;
	uint64_t used = (num * 16ull + 6 + 2 * num + 4095) & ~4095ull, at = 0x40000;
	uint32_t lens[3] = {16, 20, 1}, offs[3] = {0, 16, 63};
	uint16_t flags[3] = {1, 3, 2}, one = 1, idx;

	data[0] = 8;
	data[63] = 0xff;
	for (unsigned int i = 0; i < 3; i++) {
		uint64_t addr = at + offs[i];
		uint16_t next = (uint16_t)(i + 1);

		memcpy(ring + 16 * i, &addr, 8);
		memcpy(ring + 16 * i + 8, &lens[i], 4);
		memcpy(ring + 16 * i + 12, &flags[i], 2);
		memcpy(ring + 16 * i + 14, &next, 2);
	}
	memcpy(ring + num * 16 + 2, &one, 2);
	kick(b);
	steps(b);
	memcpy(&idx, ring + used + 2, 2);
	CHECK_EQ(idx, 1);
	CHECK_EQ(data[63], 0);
	CHECK_EQ(data[16], 'x');
}

static void m_write(struct bed *b, unsigned int off, uint32_t value)
{
	mmio_write(b->board.mmio, off, 4, value);
}

static void m_kick(struct bed *b)
{
	m_write(b, 0x50, 0);
}

static void legacy_mmio(void)
{
	struct bed b;

	open_legacy(&b, BOARD_MMIO, true);
	CHECK_EQ(mmio_read(b.board.mmio, 4, 4), 1);
	m_write(&b, 0x14, 1);
	CHECK_EQ(mmio_read(b.board.mmio, 0x10, 4), 0); /* no feature above 31 */
	m_write(&b, 0x28, 4096); /* before the reset, as Linux does it */
	m_write(&b, 0x70, 0);
	m_write(&b, 0x70, 3);
	m_write(&b, 0x30, 0);
	CHECK_EQ(mmio_read(b.board.mmio, 0x34, 4), MAX_SIZE);
	m_write(&b, 0x38, 64);
	m_write(&b, 0x3c, 4096);
	m_write(&b, 0x40, 16);
	CHECK_EQ(mmio_read(b.board.mmio, 0x40, 4), 16);
	m_write(&b, 0x44, 0); /* a register of version 2 */
	m_write(&b, 0x70, 7);
	CHECK(runs(&b, 0));
	legacy_request(&b, 64, m_kick);
	CHECK(b.board.level);
	m_write(&b, 0x64, mmio_read(b.board.mmio, 0x60, 4));
	CHECK(!b.board.level);
	m_write(&b, 0x40, 0);
	steps(&b);
	CHECK(!runs(&b, 0));
	CHECK_EQ(mmio_read(b.board.mmio, 0x40, 4), 0); /* or Linux takes the queue for one in use */
	m_write(&b, 0x40, 16);
	CHECK(runs(&b, 0));
	m_write(&b, 0x70, 0);
	steps(&b);
	CHECK_EQ(mmio_read(b.board.mmio, 0x70, 4), 0);
	/* page sizes and alignments that are none */
	for (uint32_t i = 0; i < 40; i++) {
		m_write(&b, 0x28, i < 32 ? 1u << i : i);
		m_write(&b, 0x3c, i < 32 ? 1u << (31 - i) : i * 3);
		m_write(&b, 0x40, UINT32_MAX - i);
		m_write(&b, 0x70, 7);
		m_write(&b, 0x70, 0);
	}
	close_bed(&b);
}

static uint64_t io_base(struct bed *b)
{
	return pci_bus_config_read(&b->board.bus, BOARD_SLOT, 0x10, 4) & ~3u;
}

static void io_write(struct bed *b, unsigned int off, unsigned int width, uint32_t value)
{
	struct pci_function *wait;

	CHECK(pci_bus_write(&b->board.bus, PCI_IO, io_base(b) + off, width, value, &wait));
}

static uint32_t io_read(struct bed *b, unsigned int off, unsigned int width)
{
	uint64_t value;

	CHECK(pci_bus_read(&b->board.bus, PCI_IO, io_base(b) + off, width, &value));
	return (uint32_t)value;
}

static void io_kick(struct bed *b)
{
	io_write(b, 0x10, 2, 0);
}

static void legacy_pci(void)
{
	struct bed b;

	open_legacy(&b, BOARD_PCI_INTX, true);
	CHECK_EQ(pci_bus_config_read(&b.board.bus, BOARD_SLOT, 0, 4), 0x10011af4);
	CHECK_EQ(pci_bus_config_read(&b.board.bus, BOARD_SLOT, 8, 1), 0);
	CHECK_EQ(pci_bus_config_read(&b.board.bus, BOARD_SLOT, 0x2e, 2), 2);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, 4, 2, 7);
	io_write(&b, 0x12, 1, 3);
	CHECK_EQ(io_read(&b, 0x00, 4), (uint32_t)sl_device_offered(b.device->dev)->w[0]);
	io_write(&b, 0x04, 4, 1u << 30); /* not offered; legacy drivers hear of no refusal */
	io_write(&b, 0x0e, 2, 5);
	CHECK_EQ(io_read(&b, 0x0c, 2), 0);
	io_write(&b, 0x0e, 2, 0);
	CHECK_EQ(io_read(&b, 0x0c, 2), MAX_SIZE);
	CHECK_EQ(io_read(&b, 0x14, 4), (1 << 20) / 512);
	io_write(&b, 0x08, 4, 16);
	io_write(&b, 0x12, 1, 7);
	CHECK(runs(&b, 0));
	legacy_request(&b, MAX_SIZE, io_kick);
	CHECK(b.board.level);
	CHECK_EQ(io_read(&b, 0x13, 1), 1);
	CHECK(!b.board.level);
	io_write(&b, 0x08, 4, 0);
	steps(&b);
	CHECK(!runs(&b, 0));
	CHECK_EQ(io_read(&b, 0x08, 4), 0);
	io_write(&b, 0x10, 2, 0xffff);
	for (unsigned int off = 0; off < 64; off++) /* anything at all */
		for (unsigned int w = 1; w <= 4; w *= 2) {
			uint64_t v;

			pci_bus_read(&b.board.bus, PCI_IO, io_base(&b) + off, w, &v);
		}
	io_write(&b, 0x12, 1, 0);
	steps(&b);
	CHECK_EQ(io_read(&b, 0x12, 1), 0);
	CHECK(!runs(&b, 0));
	/* the same function has modern registers */
	b.link = board_link(&b.board);
	works(&b, 1);
	close_bed(&b);
}

/* Two more registers while MSI-X is on, and the configuration behind them (4.1.4.8). */
static void legacy_msix(void)
{
	struct bed b;
	uint64_t table;
	unsigned int cap;

	open_legacy(&b, BOARD_PCI_MSIX, true);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, 4, 2, 7);
	for (cap = pci_bus_config_read(&b.board.bus, BOARD_SLOT, 0x34, 1);
	     cap && pci_bus_config_read(&b.board.bus, BOARD_SLOT, cap, 1) != 0x11;
	     cap = pci_bus_config_read(&b.board.bus, BOARD_SLOT, cap + 1, 1))
		;
	REQUIRE(cap);
	table = board_bar(&b.board) + PCI_MSIX_TABLE;
	for (uint32_t v = 0; v < 3; v++) {
		board_write(&b.board, table + 16 * v, 8, 0xfee00000);
		board_write(&b.board, table + 16 * v + 8, 8, 0x40 + v); /* and not masked */
	}
	CHECK_EQ(io_read(&b, 0x14, 4), (1 << 20) / 512);
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, cap + 2, 2, 0x8000);
	CHECK_EQ(io_read(&b, 0x18, 4), (1 << 20) / 512);
	CHECK_EQ(io_read(&b, 0x14, 2), 0xffff);
	CHECK_EQ(io_read(&b, 0x16, 2), 0xffff);
	io_write(&b, 0x12, 1, 3);
	io_write(&b, 0x04, 4, 0);
	io_write(&b, 0x14, 2, 3); /* there are three vectors: 0 to 2 */
	CHECK_EQ(io_read(&b, 0x14, 2), 0xffff);
	io_write(&b, 0x14, 2, 1);
	CHECK_EQ(io_read(&b, 0x14, 2), 1);
	io_write(&b, 0x0e, 2, 5); /* no such queue */
	io_write(&b, 0x16, 2, 2);
	CHECK_EQ(io_read(&b, 0x16, 2), 0xffff);
	io_write(&b, 0x0e, 2, 0);
	io_write(&b, 0x16, 2, 2);
	CHECK_EQ(io_read(&b, 0x16, 2), 2);
	io_write(&b, 0x08, 4, 16);
	io_write(&b, 0x12, 1, 7);
	legacy_request(&b, MAX_SIZE, io_kick);
	CHECK_EQ(b.board.messages, 1);
	CHECK_EQ(b.board.last_data, 0x42);
	CHECK_EQ(io_read(&b, 0x13, 1), 0);
	update(&b, 1);
	CHECK_EQ(b.board.messages, 2);
	CHECK_EQ(b.board.last_data, 0x41);
	CHECK_EQ(io_read(&b, 0x18, 4), 1);
	io_write(&b, 0x12, 1, 0);
	steps(&b);
	CHECK_EQ(io_read(&b, 0x14, 2), 0xffff); /* a reset takes the choice back */
	pci_bus_config_write(&b.board.bus, BOARD_SLOT, cap + 2, 2, 0);
	CHECK_EQ(io_read(&b, 0x14, 4), 1);
	close_bed(&b);
}

static const struct t_case cases[] = {
	{"A30_queue_select", A30_queue_select},
	{"A31_msix_vector", A31_msix_vector},
	{"A32_msix_table", A32_msix_table},
	{"A33_bar_moved", A33_bar_moved},
	{"A36_never_used_queue", A36_never_used_queue},
	{"A40_negative_notify", A40_negative_notify},
	{"A41_queue_size_above_max", A41_queue_size_above_max},
	{"A48_ring_in_the_hole", A48_ring_in_the_hole},
	{"A49_size_after_addresses", A49_size_after_addresses},
	{"A50_active_without_driver_ok", A50_active_without_driver_ok},
	{"A51_order_of_status", A51_order_of_status},
	{"A52_config_space", A52_config_space},
	{"bar_sizing", bar_sizing},
	{"overlapping_bars", overlapping_bars},
	{"feature_words", test_feature_words},
	{"mmio_odds", mmio_odds},
	{"pci_bus_scan", pci_bus_scan},
	{"pci_config_window", pci_config_window},
	{"shared_memory", shared_memory},
	{"intx", intx},
	{"msix_pending", msix_pending},
	{"vector_descriptors", vector_descriptors},
	{"vector_of_running_queue", vector_of_running_queue},
	{"hidden_features", hidden_features},
	{"legacy_mmio", legacy_mmio},
	{"legacy_pci", legacy_pci},
	{"legacy_msix", legacy_msix},
};
T_MAIN(cases)
