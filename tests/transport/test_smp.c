/* SPDX-License-Identifier: MIT */
/* test_smp.c - several processors at the registers at once, while the device runs on its own thread
 *
 * Each thread does accesses at random, of the harmful kinds too. What it
 * proves is that nothing hangs and that the thread sanitizer has nothing to
 * say; afterwards the device is reset and serves.
 */
#include "t.h"

#include <pthread.h>
#include <unistd.h>

#include <sluice/log.h>

#include "devices/devices.h"
#include "transport/board.h"

#define PROCESSORS 3
#define ACCESSES 4000
#define MEMORY 0x100000ull

struct bed {
	struct sl_loop *loop;
	struct board board;
	struct sl_dma dma;
};

struct processor {
	struct bed *bed;
	uint32_t x;
};

static void silent(void *arg, enum sl_log_level level, const char *line)
{
	(void)arg;
	(void)level;
	(void)line;
}

static uint32_t next(struct processor *p)
{
	p->x = p->x * 1664525 + 1013904223;
	return p->x >> 8;
}

static void mmio_access(struct processor *p)
{
	static const uint16_t regs[] = {0x14, 0x24, 0x20, 0x30, 0x38, 0x44, 0x50, 0x50, 0x50, 0x64, 0x70, 0x80, 0x90, 0xa0, 0xc0, 0x120};
	static const uint32_t values[] = {0, 1, 3, 11, 15, 16, 0x1000, 0x2000};
	uint64_t at = BOARD_MMIO_BASE + regs[next(p) % 16];

	board_read(&p->bed->board, BOARD_MMIO_BASE + next(p) % 0x180, 1u << next(p) % 4);
	if (next(p) % 64 == 0 || at != BOARD_MMIO_BASE + 0x70) /* not too many resets */
		board_write(&p->bed->board, at, 4, values[next(p) % 8]);
}

static void pci_access(struct processor *p)
{
	struct board *b = &p->bed->board;
	uint64_t bar = board_bar(b);

	switch (next(p) % 8) {
	case 0:
		board_read(b, bar + next(p) % 0x40, 1u << next(p) % 3);
		board_read(b, bar + PCI_ISR, 1);
		break;
	case 1:
		board_write(b, bar + PCI_MSIX_TABLE + next(p) % 3 * 16 + 12, 4, next(p) & 1);
		break;
	case 2:
		pci_bus_config_write(&b->bus, BOARD_SLOT, b->lp.msix + 2, 2, next(p) % 4 << 14);
		break;
	case 3:
		pci_bus_config_write(&b->bus, BOARD_SLOT, 4, 2, next(p) % 8 ? 7 : next(p) % 0x800);
		break;
	case 4:
		board_write(b, bar + 0x16, 2, next(p) % 3);
		board_write(b, bar + 0x1a, 2, next(p) % 4);
		board_write(b, bar + 0x10, 2, next(p) % 4);
		board_write(b, bar + 0x3a, 2, next(p) & 1);
		break;
	case 5:
		board_write(b, bar + 0x18, 2, 16);
		board_write(b, bar + 0x28, 4, 0x1000);
		board_write(b, bar + 0x30, 4, 0x2000);
		board_write(b, bar + 0x1c, 2, 1);
		board_write(b, bar + 0x14, 1, next(p) % 16 ? 15 : 0);
		break;
	default:
		board_write(b, bar + PCI_NOTIFY + next(p) % 4 * 4, 2, 0);
		pci_bus_config_read(&b->bus, BOARD_SLOT, next(p) % 256, 4);
	}
}

static void *run(void *arg)
{
	struct processor *p = arg;

	for (unsigned int i = 0; i < ACCESSES; i++) {
		if (p->bed->board.pci)
			pci_access(p);
		else
			mmio_access(p);
	}
	return NULL;
}

static void *turn(void *arg)
{
	sl_loop_run(arg);
	return NULL;
}

static void hammer(struct bed *b)
{
	struct processor p[PROCESSORS];
	pthread_t t[PROCESSORS];

	for (unsigned int i = 0; i < PROCESSORS; i++) {
		p[i] = (struct processor){b, i + 1};
		REQUIRE(!pthread_create(&t[i], NULL, run, &p[i]));
	}
	for (unsigned int i = 0; i < PROCESSORS; i++)
		pthread_join(t[i], NULL);
}

static void one(enum board_kind kind)
{
	struct sl_features f = {{1ull << SL_F_VERSION_1 | 1ull << SL_F_RING_RESET, 0}};
	struct served_device *device;
	struct device_env env;
	struct sl_link *l;
	struct spec spec;
	pthread_t t;
	struct bed b;

	sl_log_to(silent, NULL, SL_LOG_ERROR);
	b.loop = sl_loop_new();
	env = (struct device_env){.control = b.loop};
	REQUIRE(!spec_parse(&spec, "blk,memory:1M,queues=2,poll-us=0", NULL));
	device = device_open(&spec, &env, NULL);
	REQUIRE(device);
	REQUIRE(!pthread_create(&t, NULL, turn, b.loop));
	while (sl_loop_is_here(b.loop))
		usleep(100);
	board_open(&b.board, kind, device->dev, false);
	REQUIRE(!sl_dma_open(&b.dma, 0, MEMORY, NULL));
	board_memory(&b.board, &b.dma.region, 1);
	l = board_link(&b.board);
	REQUIRE(!sl_link_negotiate(l, &f, NULL));
	hammer(&b);
	if (b.board.pci)
		pci_bus_config_write(&b.board.bus, BOARD_SLOT, 4, 2, 7);
	CHECK_EQ(sl_link_negotiate(l, &f, NULL), 0);
	l->ops->close(l);
	sl_loop_quit(b.loop);
	pthread_join(t, NULL);
	board_close(&b.board);
	device_close(device);
	spec_free(&spec);
	sl_dma_close(&b.dma);
	sl_loop_free(b.loop);
}

static void mmio(void)
{
	one(BOARD_MMIO);
	one(BOARD_MMIO_FD);
}

static void pci(void)
{
	one(BOARD_PCI_MSIX);
	one(BOARD_PCI_FD);
}

static const struct t_case cases[] = {
	{"mmio", mmio},
	{"pci", pci},
};
T_MAIN(cases)
