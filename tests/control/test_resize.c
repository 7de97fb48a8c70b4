/* SPDX-License-Identifier: MIT */
/* test_resize.c - a disk that changes its size under a driver, over every transport.
 *
 * The driver is told by what its transport has for that: a configuration
 * interrupt, a message of the back-end. It then reads the new capacity.
 */
#include "t.h"

#include <linux/virtio_pci.h>
#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sluice/link.h>
#include <sluice/vhost_user_server.h>

#include "block/block.h"
#include "devices/devices.h"
#include "transport/board.h"

#define MIB (1ULL << 20)

static char dir[64], path[96];

/** struct bed - a disk on the file @path, and a driver's link to it */
struct bed {
	struct sl_loop *loop;
	struct spec spec;
	struct served_device *device;
	struct sl_link *link;
	struct sl_err err;
};

static void open_bed(struct bed *b, const char *keys)
{
	char text[256];
	struct device_env env;
	FILE *file;

	*b = (struct bed){.loop = sl_loop_new()};
	env = (struct device_env){.control = b->loop};
	file = fopen(path, "w");
	REQUIRE(file && !fclose(file) && !truncate(path, 4 * MIB));
	snprintf(text, sizeof(text), "blk,%s%s", path, keys);
	REQUIRE(!spec_parse(&b->spec, text, NULL));
	b->device = device_open(&b->spec, &env, &b->err);
	REQUIRE(b->device);
}

static void close_bed(struct bed *b)
{
	device_close(b->device);
	spec_free(&b->spec);
	sl_loop_free(b->loop);
	CHECK(!unlink(path));
}

/* Until the driver is up. */
static void negotiate(struct bed *b)
{
	struct sl_features f = {{1ull << SL_F_VERSION_1, 0}};

	CHECK_EQ(sl_link_negotiate(b->link, &f, &b->err), 0);
	CHECK_EQ(sl_link_driver_ok(b->link, &b->err), 0);
	b->link->ops->events(b->link);
}

static uint64_t capacity(struct bed *b)
{
	uint64_t sectors = 0;

	CHECK_EQ(b->link->ops->config_read(b->link, 0, &sectors, sizeof(sectors), &b->err), 0);
	return sectors * 512;
}

static uint64_t size_of_file(void)
{
	struct stat st;

	REQUIRE(!stat(path, &st));
	return (uint64_t)st.st_size;
}

/* ---- registers ---- */

/* An interrupt that says "configuration", and no other. */
static bool told(struct board *b)
{
	uint64_t n;

	switch (b->kind) {
	case BOARD_MMIO:
		return atomic_load(&b->level) && link_mmio_interrupt(&b->lm) == 2;
	case BOARD_MMIO_FD:
		/* The bit of the queues is always set where the driver reads it without leaving the guest. */
		return read(b->irq_fd, &n, sizeof(n)) == sizeof(n) && link_mmio_interrupt(&b->lm) & 2;
	case BOARD_PCI_INTX:
		return atomic_load(&b->level) && link_pci_interrupt(&b->lp) == 2;
	default: /* that of the configuration is always a message */
		return atomic_exchange(&b->messages, 0) == 1 && atomic_load(&b->last_data) == 0x40;
	}
}

static void over_registers(enum board_kind kind)
{
	struct board board;
	struct bed b;

	open_bed(&b, "");
	board_open(&board, kind, b.device->dev, false);
	b.link = board_link(&board);
	negotiate(&b);
	if (kind == BOARD_PCI_MSIX || kind == BOARD_PCI_FD)
		board_write(&board, board.lp.common + offsetof(struct virtio_pci_common_cfg, msix_config), 2, 0);
	CHECK_EQ(capacity(&b), 4 * MIB);
	CHECK(!told(&board));
	CHECK_EQ(device_resize(b.device, 8 * MIB, &b.err), 0);
	CHECK(told(&board));
	CHECK_EQ(b.link->ops->events(b.link), SL_LINK_CONFIG);
	CHECK_EQ(capacity(&b), 8 * MIB);
	CHECK_EQ(size_of_file(), 8 * MIB);
	/* the same size again is no news */
	CHECK_EQ(device_refresh(b.device, &b.err), 0);
	CHECK(!told(&board));
	/* smaller, by somebody else */
	REQUIRE(!truncate(path, 2 * MIB));
	CHECK_EQ(device_refresh(b.device, &b.err), 0);
	CHECK(told(&board));
	CHECK_EQ(b.link->ops->events(b.link), SL_LINK_CONFIG);
	CHECK_EQ(capacity(&b), 2 * MIB);
	CHECK_EQ(b.link->ops->events(b.link), 0);
	board_close(&board);
	close_bed(&b);
}

static void mmio(void)
{
	over_registers(BOARD_MMIO);
}

static void mmio_eventfd(void)
{
	over_registers(BOARD_MMIO_FD);
}

static void pci_intx(void)
{
	over_registers(BOARD_PCI_INTX);
}

static void pci_msix(void)
{
	over_registers(BOARD_PCI_MSIX);
}

static void pci_eventfd(void)
{
	over_registers(BOARD_PCI_FD);
}

/* ---- in one process ---- */

static void direct(void)
{
	struct bed b;

	open_bed(&b, ",delay-ms=1"); /* through a filter as well */
	b.link = sl_link_direct_open(b.device->dev, &b.err);
	REQUIRE(b.link);
	negotiate(&b);
	CHECK_EQ(device_resize(b.device, 8 * MIB, &b.err), 0);
	CHECK_EQ(b.link->ops->events(b.link), SL_LINK_CONFIG);
	CHECK_EQ(capacity(&b), 8 * MIB);
	b.link->ops->close(b.link);
	close_bed(&b);
}

/* ---- vhost-user ---- */

static void *run(void *arg)
{
	sl_loop_run(arg);
	return NULL;
}

static void hello(void *arg)
{
	*(atomic_bool *)arg = true;
}

static void finished(void *arg)
{
	sl_loop_quit(((struct bed *)arg)->loop);
}

static void make_larger(void *arg)
{
	struct bed *b = arg;

	CHECK_EQ(device_resize(b->device, 8 * MIB, &b->err), 0);
}

/* A device without a ring that runs is suspended, and says nothing. */
static void start_ring(struct bed *b, struct sl_dma *dma, void *state)
{
	struct sl_features f = {.w[0] = 1ULL << SL_F_VERSION_1};
	struct sl_link_queue queue;

	REQUIRE(!sl_dma_open(dma, 0x100000, 64 << 10, &b->err));
	REQUIRE(!b->link->ops->set_memory(b->link, &dma->region, 1, &b->err));
	REQUIRE(sl_dma_queue(dma, &f, 16, state, &queue, &b->err));
	REQUIRE(!b->link->ops->queue_start(b->link, 0, &queue, &b->err));
}

static void vhost_user(void)
{
	struct sl_vhost_user_config cfg = {.fd = -1};
	struct sl_link_vhost_user_config link = {.fd = -1};
	struct sl_vhost_user_server *server;
	struct pollfd p = {.events = POLLIN};
	atomic_bool running = false;
	struct sl_task task = {.fn = hello, .arg = &running};
	pthread_t thread;
	struct sl_dma dma;
	void *state = malloc(sl_dq_state_size(16));
	char socket[128];
	struct bed b;

	open_bed(&b, "");
	snprintf(socket, sizeof(socket), "%s/s", dir);
	cfg.device = b.device->dev;
	cfg.path = link.path = socket;
	server = sl_vhost_user_server_new(&cfg, &b.err);
	REQUIRE(server);
	REQUIRE(!pthread_create(&thread, NULL, run, b.loop));
	sl_task_send(b.loop, &task);
	while (!running)
		usleep(100);
	b.link = sl_link_vhost_user_open(&link, &b.err);
	REQUIRE(b.link);
	negotiate(&b);
	CHECK_EQ(capacity(&b), 4 * MIB);
	start_ring(&b, &dma, state);
	sl_loop_invoke(b.loop, make_larger, &b);
	p.fd = b.link->ops->event_fd(b.link);
	CHECK_EQ(poll(&p, 1, 60000), 1);
	CHECK_EQ(b.link->ops->events(b.link), SL_LINK_CONFIG);
	CHECK_EQ(capacity(&b), 8 * MIB);
	b.link->ops->close(b.link);
	sl_dma_close(&dma);
	free(state);
	sl_loop_quit(b.loop);
	pthread_join(thread, NULL);
	sl_vhost_user_server_stop(server, finished, &b);
	sl_loop_run(b.loop);
	sl_vhost_user_server_free(server);
	close_bed(&b);
}

/* ---- by the store's own word ---- */

/* A source whose size somebody else sets. */
static uint64_t store_size;

static int store_refresh(struct block *b, struct sl_err *err)
{
	(void)err;
	b->info.size = store_size;
	return 0;
}

static void *say_changed(void *block)
{
	block_changed(block);
	return NULL;
}

static void changed(void *arg)
{
	struct bed *b = arg;

	CHECK_EQ(block_refresh((struct block *)(void *)b->link, &b->err), 0);
	sl_loop_quit(b->loop);
}

/* From another thread, as stores do: the watcher hears of it on its own. */
static void store_says_so(void)
{
	static const struct block_ops ops = {.name = "store", .block_size = sizeof(struct block),
					     .close = block_free, .refresh = store_refresh};
	struct bed b = {.loop = sl_loop_new()};
	struct block *store = block_alloc(&ops, "store", &b.err);
	pthread_t thread;

	REQUIRE(store);
	block_changed(store); /* nobody wants to know */
	b.link = (struct sl_link *)(void *)store;
	block_watch(store, b.loop, changed, &b);
	store_size = 3 * MIB;
	REQUIRE(!pthread_create(&thread, NULL, say_changed, store));
	sl_loop_run(b.loop);
	pthread_join(thread, NULL);
	CHECK_EQ(store->info.size, 3 * MIB);
	block_close(store);
	sl_loop_free(b.loop);
}

/* ---- what cannot be ---- */

static void refused(void)
{
	struct bed b;

	open_bed(&b, ",readonly=on");
	CHECK_EQ(device_resize(b.device, 8 * MIB, &b.err), -EROFS);
	CHECK_EQ(size_of_file(), 4 * MIB);
	close_bed(&b);
	open_bed(&b, ",block-size=4096");
	CHECK_EQ(device_resize(b.device, 4 * MIB + 512, &b.err), -EINVAL);
	CHECK_EQ(device_resize(b.device, 0, &b.err), -EINVAL);
	CHECK_EQ(device_resize(b.device, INT64_MAX & ~4095ULL, &b.err), -EFBIG);
	CHECK(strstr(b.err.text, path) != NULL);
	CHECK_EQ(size_of_file(), 4 * MIB);
	close_bed(&b);
}

static const struct t_case cases[] = {
	{"mmio", mmio},		      {"mmio_eventfd", mmio_eventfd}, {"pci_intx", pci_intx},
	{"pci_msix", pci_msix},	      {"pci_eventfd", pci_eventfd},   {"direct", direct},
	{"vhost_user", vhost_user},   {"store_says_so", store_says_so}, {"refused", refused},
};

int main(int argc, char **argv)
{
	int ret;

	snprintf(dir, sizeof(dir), "%s/sluice-resize.XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	REQUIRE(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/disk", dir);
	ret = t_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
	rmdir(dir);
	return ret;
}
