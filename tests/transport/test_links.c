/* SPDX-License-Identifier: MIT */
/* test_links.c - the links over registers against devices that lie
 *
 * A real device is on the board; between it and the link somebody changes
 * what is read at one place.
 */
#include "t.h"

#include <sluice/log.h>

#include "devices/devices.h"
#include "transport/board.h"

/**
 * struct liar - reads at @address give @value, or with @moves another value each time
 * @patience: how often wait() says that it is still worth it
 */
struct liar {
	enum register_space space;
	uint64_t address, value;
	bool on, moves;
	unsigned int patience;
	uint64_t last_kick;
};

struct bed {
	struct sl_loop *loop;
	struct spec spec;
	struct served_device *device;
	struct board board;
	struct liar liar;
	struct register_access access;
	struct sl_link *link;
	union {
		struct link_mmio mmio;
		struct link_pci pci;
	};
	struct sl_err err;
};

static uint64_t lie_read(void *arg, enum register_space space, uint64_t address, unsigned int width)
{
	struct bed *b = arg;

	if (b->liar.on && b->liar.space == space && b->liar.address == address)
		return b->liar.moves ? ++b->liar.value : b->liar.value;
	return b->board.access.read(&b->board, space, address, width);
}

static void lie_write(void *arg, enum register_space space, uint64_t address, unsigned int width, uint64_t value)
{
	struct bed *b = arg;

	b->liar.last_kick = address;
	b->board.access.write(&b->board, space, address, width, value);
}

static bool lie_wait(void *arg, unsigned int round)
{
	struct bed *b = arg;

	board_step(&b->board);
	return round < b->liar.patience;
}

static void lie(struct bed *b, enum register_space space, uint64_t address, uint64_t value)
{
	b->liar = (struct liar){.space = space, .address = address, .value = value, .on = true, .patience = 20};
}

static void look(struct bed *b)
{
	b->err.text[0] = 0;
	if (b->board.pci)
		b->link = link_pci_open(&b->pci, &b->access, BOARD_FUNCTION, &b->err);
	else
		b->link = link_mmio_open(&b->mmio, &b->access, BOARD_MMIO_BASE, &b->err);
}

static void open_bed(struct bed *b, enum board_kind kind)
{
	struct device_env env;

	*b = (struct bed){.liar.patience = 20};
	b->loop = sl_loop_new();
	env = (struct device_env){.control = b->loop};
	REQUIRE(!spec_parse(&b->spec, "blk,memory:1M,queues=2", NULL));
	b->device = device_open(&b->spec, &env, NULL);
	REQUIRE(b->device);
	board_open(&b->board, kind, b->device->dev, false);
	b->access = (struct register_access){b, lie_read, lie_write, lie_wait};
	look(b);
	REQUIRE(b->link);
}

static void close_bed(struct bed *b)
{
	board_close(&b->board);
	device_close(b->device);
	spec_free(&b->spec);
	sl_loop_free(b->loop);
}

static const struct sl_link_queue queue = {.num = 16, .desc = 0x1000, .driver = 0x2000, .device = 0x3000, .kick_fd = -1,
					   .call_fd = -1};

static int negotiate(struct bed *b)
{
	struct sl_features f = {{1ull << SL_F_VERSION_1 | 1ull << SL_F_RING_RESET, 0}};

	return sl_link_negotiate(b->link, &f, &b->err);
}

/* What both links must survive; addresses of the registers are given. */
static void both(struct bed *b, uint64_t status, uint64_t generation, uint64_t config, uint64_t size, unsigned int num)
{
	uint8_t bytes[16];

	/* a reset that never ends */
	lie(b, REGISTER_MEMORY, status, 15);
	CHECK_EQ(b->link->ops->status_set(b->link, 0, &b->err), -ETIMEDOUT);
	/* FEATURES_OK that does not stick */
	lie(b, REGISTER_MEMORY, status, 0);
	CHECK_EQ(negotiate(b), -EPROTO);
	/* a configuration that changes all the time */
	lie(b, REGISTER_MEMORY, generation, 0);
	b->liar.moves = true;
	CHECK_EQ(b->link->ops->config_read(b->link, 0, bytes, 16, &b->err), -EPROTO);
	CHECK_EQ(b->link->ops->events(b->link), SL_LINK_CONFIG);
	b->liar.on = false;
	CHECK_EQ(b->link->ops->config_read(b->link, 0, bytes, 16, &b->err), 0);
	CHECK_EQ(bytes[1], 8); /* 2048 sectors */
	CHECK_EQ(negotiate(b), 0);
	/* one byte that is not the one before */
	lie(b, REGISTER_MEMORY, config, 0x44332211);
	CHECK_EQ(b->link->ops->config_read(b->link, 0, bytes, 3, &b->err), 0);
	b->liar.on = false;
	/* queues that are not there or too small, or of another life */
	CHECK(b->link->ops->queue_start(b->link, num, &queue, &b->err) < 0);
	CHECK(b->link->ops->queue_start(b->link, 60000, &queue, &b->err) < 0);
	lie(b, REGISTER_MEMORY, size, 8);
	CHECK_EQ(b->link->ops->queue_start(b->link, 0, &queue, &b->err), -EINVAL);
	b->liar.on = false;
	CHECK_EQ(b->link->ops->queue_start(b->link, 0, &(struct sl_link_queue){.num = 16, .base = 7}, &b->err), -ENOTSUP);
	CHECK_EQ(b->link->ops->queue_start(b->link, 0, &queue, &b->err), 0);
	CHECK_EQ(b->link->ops->queue_start(b->link, 0, &queue, &b->err), -EBUSY);
	CHECK_EQ(b->link->ops->num_queues(b->link, &b->err), num);
}

static void mmio(void)
{
	struct bed b;

	open_bed(&b, BOARD_MMIO);
	both(&b, BOARD_MMIO_BASE + 0x70, BOARD_MMIO_BASE + 0xfc, BOARD_MMIO_BASE + 0x100, BOARD_MMIO_BASE + 0x34, 2);
	lie(&b, REGISTER_MEMORY, BOARD_MMIO_BASE + 0xc0, 1); /* a queue that does not stop */
	CHECK_EQ(b.link->ops->queue_stop(b.link, 0, NULL, &b.err), -ETIMEDOUT);
	lie(&b, REGISTER_MEMORY, BOARD_MMIO_BASE + 0x34, 0);
	CHECK_EQ(b.link->ops->num_queues(b.link, &b.err), -EPROTO);
	lie(&b, REGISTER_MEMORY, BOARD_MMIO_BASE, 0);
	look(&b);
	CHECK(!b.link);
	lie(&b, REGISTER_MEMORY, BOARD_MMIO_BASE + 4, 1);
	look(&b);
	CHECK(!b.link && strstr(b.err.text, "version 2"));
	close_bed(&b);
}

/* QEMU's virtio-mmio shows word 1 for every choice but 0. */
static void qemu_features(void)
{
	struct sl_features f;
	struct bed b;

	open_bed(&b, BOARD_MMIO);
	lie(&b, REGISTER_MEMORY, BOARD_MMIO_BASE + 0x10, 0x21);
	CHECK_EQ(b.link->ops->features(b.link, &f, &b.err), 0);
	CHECK_EQ(f.w[0], 0x2100000021);
	CHECK_EQ(f.w[1], 0);
	close_bed(&b);
}

static void pci(void)
{
	uint64_t common, cfg = BOARD_FUNCTION;
	unsigned int cap;
	struct bed b;

	open_bed(&b, BOARD_PCI_INTX);
	common = b.pci.common;
	both(&b, common + 0x14, common + 0x15, b.pci.device, common + 0x18, 2);
	lie(&b, REGISTER_MEMORY, common + 0x3a, 1);
	CHECK_EQ(b.link->ops->queue_stop(b.link, 0, NULL, &b.err), -ETIMEDOUT);
	/* a notification outside the structure is never written */
	lie(&b, REGISTER_MEMORY, common + 0x1e, 0xffff);
	CHECK_EQ(b.link->ops->queue_start(b.link, 1, &queue, &b.err), -EPROTO);
	b.liar.last_kick = 0;
	b.link->ops->kick(b.link, 1, 0);
	b.link->ops->kick(b.link, 5000, 0);
	CHECK_EQ(b.liar.last_kick, 0);
	b.liar.on = false;
	CHECK_EQ(b.link->ops->config_write(b.link, 4000, "x", 1, &b.err), -EINVAL);
	/* capabilities in a ring, a list that is none, no BAR, a BAR of ports */
	for (cap = pci_bus_config_read(&b.board.bus, BOARD_SLOT, 0x34, 1); cap;
	     cap = pci_bus_config_read(&b.board.bus, BOARD_SLOT, cap + 1, 1)) {
		lie(&b, REGISTER_PCI, cfg | (cap + 1), 0x40);
		look(&b);
		lie(&b, REGISTER_PCI, cfg | (cap + 1), 0);
		look(&b);
		lie(&b, REGISTER_PCI, cfg | (cap + 4), 7);
		look(&b);
		lie(&b, REGISTER_PCI, cfg | (cap + 12), 0);
		look(&b);
	}
	lie(&b, REGISTER_PCI, cfg | 0x18, 4);
	look(&b);
	CHECK(b.link); /* above 4 GiB the lower half may be 0 */
	lie(&b, REGISTER_PCI, cfg | 0x18, 1);
	look(&b);
	CHECK(!b.link && strstr(b.err.text, "not assigned"));
	lie(&b, REGISTER_PCI, cfg | 6, 0);
	look(&b);
	CHECK(!b.link);
	lie(&b, REGISTER_PCI, cfg, 0x8086);
	look(&b);
	CHECK(!b.link);
	b.liar.on = false;
	look(&b);
	REQUIRE(b.link);
	CHECK_EQ(link_pci_msix(&b.pci, 0xfee00000, (const uint32_t[]){1, 2, 3, 4}, 4), -ENOTSUP);
	CHECK_EQ(link_pci_msix(&b.pci, 0xfee00000, (const uint32_t[]){1, 2, 3}, 3), 0);
	lie(&b, REGISTER_MEMORY, common + 0x1a, 0xffff);
	CHECK_EQ(negotiate(&b), 0);
	CHECK_EQ(b.link->ops->queue_start(b.link, 0, &queue, &b.err), -EPROTO);
	CHECK(strstr(b.err.text, "vector"));
	close_bed(&b);
}

static const struct t_case cases[] = {
	{"mmio", mmio},
	{"qemu_features", qemu_features},
	{"pci", pci},
};
T_MAIN(cases)
