/* SPDX-License-Identifier: MIT */
/* any.c - any sequence of register accesses, made from bytes. See any.h. */
#include "transport/any.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include <sluice/log.h>

#define QUEUES 3
#define MAX_SIZE 64
#define CONFIG_LEN 22
#define MEMORY 0x40000ull  /* of the driver that does anything; at address 0 */
#define HONEST 0x1000000ull /* where the honest driver's memory is */
#define HONEST_SIZE 0x10000ull
#define SETTLE 1000

/** struct bed - a device that holds requests for a while, on a board; made once for each kind */
struct bed {
	bool made;
	struct sl_loop *loop;
	struct sl_device *device;
	struct board board;
	struct sl_dma wild, honest;
	struct sl_req *held;
	bool hold;
	uint8_t config[CONFIG_LEN], page[MMIO_SIZE], space[PCI_CONFIG_SIZE], common[0x38];
};

static bool racing;
static uint8_t *race_at[BOARD_KINDS][2]; /* atomic: memory of the beds that are made */

static void oracle(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "any: %s\n", what);
	abort();
}

/* ---- the device ---- */

static void finish(struct sl_req *r)
{
	static const uint8_t answer[16] = {0x5a};

	sl_req_done(r, (uint32_t)sl_cursor_write(&r->chain.in, answer, sizeof(answer)));
}

static void request(struct sl_queue *q, struct sl_req *r)
{
	struct bed *b = sl_device_priv(sl_queue_device(q));

	if (!b->hold) {
		finish(r);
		return;
	}
	r->next = b->held;
	b->held = r;
}

static void release(struct bed *b)
{
	while (b->held) {
		struct sl_req *r = b->held;

		b->held = r->next;
		finish(r);
	}
}

static const struct sl_device_ops device_ops = {.type = "blk", .id = 2, .request = request};

static void silent(void *arg, enum sl_log_level level, const char *line)
{
	(void)arg;
	(void)level;
	(void)line;
}

/* ---- the bed ---- */

static void give_memory(struct bed *b, unsigned int how)
{
	struct sl_link_region r[3] = {b->wild.region, b->honest.region};
	unsigned int n = 2;

	switch (how % 4) {
	case 1: /* less of it */
		r[0].size = 0x8000;
		break;
	case 2: /* in two pieces, the second elsewhere */
		r[0].size = 0x10000;
		r[2] = b->wild.region;
		r[2].addr = 0x80000;
		r[2].offset = 0x10000;
		r[2].size = MEMORY - 0x10000;
		n = 3;
		break;
	case 3: /* no longer there */
		r[0] = r[1];
		n = 1;
		break;
	}
	board_memory(&b->board, r, n);
}

static void make(struct bed *b, enum board_kind kind, bool legacy)
{
	static const struct sl_config_range writable[] = {{4, 3}, {CONFIG_LEN - 1, 1}, {0, 0}};
	struct sl_device_config cfg = {
		.ops = &device_ops, .priv = b, .name = "any", .num_queues = QUEUES, .max_queue_size = MAX_SIZE,
		.config = b->config, .config_len = CONFIG_LEN, .writable = writable,
	};
	static const unsigned int features[] = {SL_F_INDIRECT_DESC, SL_F_EVENT_IDX, SL_F_VERSION_1, SL_F_RING_PACKED,
						SL_F_IN_ORDER, SL_F_NOTIFICATION_DATA, SL_F_RING_RESET, 3, 70};

	sl_log_to(silent, NULL, SL_LOG_ERROR);
	for (unsigned int i = 0; i < sizeof(features) / sizeof(features[0]); i++)
		sl_features_set(&cfg.offered, features[i]);
	for (unsigned int i = 0; i < CONFIG_LEN; i++)
		b->config[i] = (uint8_t)(i + 1);
	cfg.control = b->loop = sl_loop_new();
	b->device = sl_device_new(&cfg, NULL);
	oracle(b->device && !sl_dma_open(&b->wild, 0, MEMORY, NULL) &&
	       !sl_dma_open(&b->honest, HONEST, HONEST_SIZE, NULL), "set-up");
	board_open(&b->board, kind, b->device, legacy);
	__atomic_store_n(&race_at[kind][legacy], b->wild.region.hva, __ATOMIC_RELEASE);
	b->made = true;
}

static bool is_pci(const struct bed *b)
{
	return b->board.pci != NULL;
}

/* ---- bytes ---- */

struct input {
	const uint8_t *p, *end;
};

static uint8_t byte(struct input *in)
{
	return in->p < in->end ? *in->p++ : 0;
}

static uint64_t number(struct input *in)
{
	static const uint64_t known[] = {0, 1, 2, 3, 4, 7, 8, 11, 15, 16, 64, 65, 0xff, 0x7fff, 0x8000, 0xffff, 0x10000,
					 0x1000, 0x2000, 0x3000, 0x3fff, MEMORY - 16, MEMORY, 0x80000000, 0xffffffff,
					 BOARD_WINDOW, BOARD_WINDOW + 0x10000, BOARD_WINDOW64, 1ull << 63, UINT64_MAX - 15,
					 UINT64_MAX, 0x5a5a5a5a5a5a5a5a};
	uint8_t how = byte(in);
	uint64_t n = 0;

	if (how < 160)
		return known[how % (sizeof(known) / sizeof(known[0]))];
	if (how < 224)
		return how - 160u;
	for (unsigned int i = 0; i < how % 8 + 1u; i++)
		n = n << 8 | byte(in);
	return n;
}

static unsigned int width(struct input *in)
{
	static const uint8_t widths[] = {4, 2, 1, 4, 8, 4, 2, 1, 3, 5, 6, 7, 4, 4, 4, 8};

	return widths[byte(in) % 16];
}

/* ---- what a driver may do ---- */

static uint64_t place(struct bed *b, struct input *in)
{
	static const uint16_t mmio[] = {0x10, 0x14, 0x20, 0x24, 0x28, 0x30, 0x34, 0x38, 0x3c, 0x40, 0x44, 0x50, 0x60, 0x64, 0x70,
					0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac, 0xb0, 0xc0, 0xfc, 0x100, 0x104, 0x114};
	static const uint16_t areas[] = {PCI_COMMON, PCI_COMMON, PCI_COMMON, PCI_ISR, PCI_DEVICE, PCI_NOTIFY, PCI_MSIX_PBA,
					 PCI_MSIX_TABLE};
	uint8_t how = byte(in), x = byte(in);

	if (!is_pci(b))
		return BOARD_MMIO_BASE + (how < 200 ? mmio[x % 28] : (uint64_t)(how << 8 | x) % (MMIO_SIZE + 16));
	if (how < 220)
		return board_bar(&b->board) + areas[how % 8] + x % 0x48;
	return board_bar(&b->board) + (uint64_t)(how << 8 | x);
}

static void io_access(struct bed *b, struct input *in)
{
	uint64_t at = (pci_bus_config_read(&b->board.bus, BOARD_SLOT, 0x10, 4) & ~3u) + byte(in) % 40u, value;
	struct pci_function *wait;
	unsigned int w = 1u << byte(in) % 3;

	if (byte(in) & 1)
		pci_bus_read(&b->board.bus, PCI_IO, at, w, &value);
	else
		pci_bus_write(&b->board.bus, PCI_IO, at, w, number(in), &wait);
}

static void config_access(struct bed *b, struct input *in)
{
	static const uint16_t known[] = {4, 4, 0x10, 0x18, 0x1c, 0x34, 0x40, 0x42, 0x43, 0xcf};
	struct pci_bus *bus = &b->board.bus;
	uint8_t how = byte(in);
	uint16_t reg = how & 1 ? known[how / 16 % 10] : (uint16_t)(byte(in) << (how & 2 ? 4 : 0));
	unsigned int device = how & 4 ? byte(in) % 33u : BOARD_SLOT, w = width(in);

	switch (how >> 3 & 3) {
	case 0:
		pci_bus_ecam_write(bus, device << 15 | reg, w, number(in));
		break;
	case 1:
		pci_bus_ecam_read(bus, device << 15 | (reg & 4095), w);
		break;
	case 2:
		pci_bus_port_write(bus, 0xcf8, 4, 0x80000000u | device << 11 | (reg & 0xfc));
		pci_bus_port_write(bus, (uint16_t)(0xcfc + (reg & 3)), w > 4 ? 4 : w, (uint32_t)number(in));
		break;
	default:
		pci_bus_port_write(bus, (uint16_t)(0xcf8 + reg % 8), w > 4 ? 4 : w, (uint32_t)number(in));
		pci_bus_port_read(bus, (uint16_t)(0xcf8 + reg % 8), w > 4 ? 4 : w);
	}
}

/* As an honest driver comes to DRIVER_OK, but for a step that is left out and a number that is odd. */
static void bring_up(struct bed *b, struct input *in)
{
	uint64_t base = is_pci(b) ? board_bar(&b->board) : BOARD_MMIO_BASE;
	uint8_t how = byte(in), skip = byte(in) % 16, num = (uint8_t)(8u << how % 4);
	bool pci = is_pci(b), packed = how & 16;
	struct sl_dq_layout at;
	uint64_t ring = (uint64_t)(how >> 5) << 13;
	struct {
		uint16_t mmio, pci;
		uint8_t width;
		uint64_t value;
	} list[] = {
		{0x70, 0x14, 1, 3},
		{0x24, 0x08, 4, 1},
		{0x20, 0x0c, 4, 1u | (packed ? 4 : 0) | (how & 4 ? 8 : 0) | 1u << 8 | (how & 8 ? 1u << 6 : 0)},
		{0x24, 0x08, 4, 0},
		{0x20, 0x0c, 4, how & 4 ? 3u << 28 : 0},
		{0x70, 0x14, 1, 11},
		{0x30, 0x16, 2, how % 3},
		{0x38, 0x18, 2, num},
		{0x80, 0x20, 4, ring},
		{0x90, 0x28, 4, ring},
		{0xa0, 0x30, 4, ring},
		{0x44, 0x1c, 2, 1},
		{0x70, 0x14, 1, 15},
	};

	sl_dq_layout(packed, num, &at);
	list[9].value += at.driver;
	list[10].value += at.device;
	for (unsigned int i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		if (i != skip)
			board_write(&b->board, base + (pci ? list[i].pci : list[i].mmio), pci ? list[i].width : 4,
				    list[i].value);
}

static void fill_ring(struct bed *b, struct input *in)
{
	uint8_t *mem = b->wild.region.hva, how = byte(in);
	uint64_t ring = (uint64_t)(how >> 5) << 13, addr = number(in) % (2 * MEMORY);
	unsigned int slot = byte(in) % 8u;
	uint32_t len = byte(in);
	uint16_t flags = byte(in) & 7, next = byte(in) % 8u, idx = byte(in) % 16;
	struct sl_dq_layout at;

	sl_dq_layout(how & 16, (uint16_t)(8u << how % 4), &at);
	if (how & 16)
		flags |= (uint16_t)(how & 8 ? 0x8000 : 0x80);
	memcpy(mem + ring + slot * 16, &addr, 8);
	memcpy(mem + ring + slot * 16 + 8, &len, 4);
	memcpy(mem + ring + slot * 16 + (how & 16 ? 14 : 12), &flags, 2);
	memcpy(mem + ring + slot * 16 + (how & 16 ? 12 : 14), &next, 2);
	if (!(how & 16) && ring + at.driver + 4 + 2 * slot + 2 <= MEMORY) {
		memcpy(mem + ring + at.driver + 4 + 2 * slot, &next, 2);
		memcpy(mem + ring + at.driver + 2, &idx, 2);
	}
}

static void turn(struct bed *b, unsigned int n)
{
	while (n--)
		sl_loop_step(b->loop, 0);
}

static void engine_reset(struct bed *b)
{
	if (is_pci(b))
		pci_bus_reset(&b->board.bus);
	else
		mmio_reset(b->board.mmio, NULL, NULL);
}

static void step(struct bed *b, struct input *in)
{
	uint8_t op = byte(in), value;

	switch (op % 16) {
	case 0:
		bring_up(b, in);
		break;
	case 1:
		fill_ring(b, in);
		break;
	case 2:
		eventfd_write(b->board.kick_fds[op >> 4 & 1], 1);
		break;
	case 3:
		b->hold = op & 16;
		if (op & 32)
			release(b);
		break;
	case 4:
		value = byte(in);
		sl_device_config_update(b->device, op >> 4, &value, 1);
		break;
	case 5:
		give_memory(b, op >> 4);
		break;
	case 6:
		turn(b, op >> 5);
		break;
	case 7:
		board_read(&b->board, place(b, in), width(in));
		break;
	case 8:
		if (op == 0xf8)
			engine_reset(b);
		break;
	case 9:
	case 10:
		if (is_pci(b))
			config_access(b, in);
		break;
	case 11:
		if (is_pci(b))
			io_access(b, in);
		break;
	default: {
		uint64_t at = place(b, in);
		unsigned int w = width(in);

		board_write(&b->board, at, w, number(in));
	}
	}
	if (op & 128)
		turn(b, 2);
}

/* ---- oracles ---- */

static void is_done(void *arg)
{
	*(bool *)arg = true;
}

static void settle(struct bed *b)
{
	bool done = false;

	b->hold = false;
	release(b);
	if (is_pci(b))
		pci_bus_reset(&b->board.bus);
	if (is_pci(b))
		pci_reset(b->board.pci, is_done, &done);
	else
		mmio_reset(b->board.mmio, is_done, &done);
	for (unsigned int i = 0; !done && i < SETTLE; i++) {
		turn(b, 1);
		release(b);
	}
	oracle(done && !b->held, "the reset does not come to an end");
	for (unsigned int i = 0; i < QUEUES; i++)
		oracle(!sl_queue_running(b->device, i), "a queue runs after the reset");
	sl_device_config_update(b->device, 0, b->config, CONFIG_LEN);
}

/* Registers as they were at the start, but for the generation. */
static void compare(struct bed *b, bool first)
{
	uint8_t now[MMIO_SIZE], space[PCI_CONFIG_SIZE], common[0x38];

	if (!is_pci(b)) {
		memcpy(now, mmio_page(b->board.mmio), sizeof(now));
		memset(now + 0xfc, 0, 4);
		if (first)
			memcpy(b->page, now, sizeof(now));
		oracle(!memcmp(now, b->page, sizeof(now)), "the registers are not as they were");
		return;
	}
	for (unsigned int i = 0; i < PCI_CONFIG_SIZE; i++)
		space[i] = (uint8_t)pci_bus_config_read(&b->board.bus, BOARD_SLOT, i, 1);
	pci_bus_config_write(&b->board.bus, BOARD_SLOT, 4, 2, 6);
	for (unsigned int i = 0; i < sizeof(common); i++)
		common[i] = i == 0x15 ? 0 : (uint8_t)board_read(&b->board, board_bar(&b->board) + i, 1);
	if (first) {
		memcpy(b->space, space, sizeof(space));
		memcpy(b->common, common, sizeof(common));
	}
	oracle(!memcmp(space, b->space, sizeof(space)), "configuration space is not as it was");
	oracle(!memcmp(common, b->common, sizeof(common)), "the registers are not as they were");
}

static void serve_honest(struct bed *b)
{
	static unsigned char state[4096] __attribute__((aligned(64)));
	struct sl_features f = {{0}};
	struct sl_link_queue setup;
	struct sl_dma dma = b->honest;
	struct sl_dq_buf buf;
	unsigned char *data;
	struct sl_link *l;
	struct sl_dq *dq;
	void *back = NULL;

	memset(dma.region.hva, 0, HONEST_SIZE);
	give_memory(b, 0);
	sl_features_set(&f, SL_F_VERSION_1);
	l = board_link(&b->board);
	oracle(!sl_link_negotiate(l, &f, NULL), "no negotiation after the reset");
	dq = sl_dma_queue(&dma, &f, 16, state, &setup, NULL);
	data = sl_dma_alloc(&dma, 16, 16, &buf.addr);
	buf.len = 16;
	oracle(!l->ops->queue_start(l, 1, &setup, NULL) && !sl_link_driver_ok(l, NULL), "no start after the reset");
	sl_dq_add(dq, NULL, 0, &buf, 1, data);
	if (sl_dq_publish(dq))
		l->ops->kick(l, 1, sl_dq_kick_data(dq));
	for (unsigned int i = 0; !back && i < SETTLE; i++) {
		turn(b, 1);
		back = sl_dq_get(dq, NULL);
	}
	oracle(back == data && data[0] == 0x5a, "an honest driver is not served");
}

void any_run(enum board_kind kind, const uint8_t *data, size_t size)
{
	static struct bed beds[BOARD_KINDS][2];
	static uint8_t copy[MEMORY];
	struct input in = {data, data + size};
	bool legacy = byte(&in) & 1;
	struct bed *b = &beds[kind][legacy];

	if (!b->made) {
		make(b, kind, legacy);
		settle(b);
		compare(b, true);
	}
	memset(b->wild.region.hva, 0, MEMORY);
	give_memory(b, 0);
	if (is_pci(b))
		pci_bus_config_write(&b->board.bus, BOARD_SLOT, 4, 2, 7);
	while (in.p < in.end)
		step(b, &in);
	settle(b);
	if (!racing) {
		memcpy(copy, b->wild.region.hva, MEMORY);
		turn(b, 10);
		oracle(!memcmp(copy, b->wild.region.hva, MEMORY), "guest memory is written after the reset");
	}
	compare(b, false);
	if (kind >= BOARD_PCI_INTX || !legacy)
		serve_honest(b);
	settle(b);
}

/* ---- the thread that rewrites memory ---- */

static void *rewrite(void *arg)
{
	uint32_t x = 1;

	(void)arg;
	for (;;) {
		for (unsigned int i = 0; i < 64; i++) {
			uint8_t *mem;

			x = x * 1664525 + 1013904223;
			mem = __atomic_load_n(&race_at[(x >> 8) % BOARD_KINDS][x >> 31], __ATOMIC_ACQUIRE);
			if (mem)
				__atomic_store_n(mem + (x >> 12) % 0x8000, (uint8_t)(x >> 4), __ATOMIC_RELAXED);
		}
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	}
	return NULL;
}

void any_race(void)
{
	pthread_t t;

	racing = true;
	oracle(!pthread_create(&t, NULL, rewrite, NULL), "thread");
}
