/* SPDX-License-Identifier: MIT */
/* board.c - a device behind a register transport. See board.h. */
#include "transport/board.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MAX_ROUNDS 2000000

const char *const board_names[BOARD_KINDS] = {"mmio", "mmio with eventfds", "pci with INTx", "pci with MSI-X",
					      "pci with eventfds"};

static void need(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "board: %s\n", what);
	abort();
}

/* ---- what the engine would do ---- */

static void irq(void *arg, bool level)
{
	atomic_store(&((struct board *)arg)->level, level);
}

static void msi(void *arg, uint64_t address, uint32_t data)
{
	struct board *b = arg;

	atomic_store(&b->last_address, address);
	atomic_store(&b->last_data, data);
	atomic_fetch_add(&b->messages, 1);
}

static int vector_on(void *arg, unsigned int vector, uint64_t address, uint32_t data)
{
	struct board *b = arg;

	(void)address;
	(void)data;
	b->vector_on[vector] = true;
	return b->vector_fd[vector];
}

static void vector_off(void *arg, unsigned int vector)
{
	((struct board *)arg)->vector_on[vector] = false;
}

static void decode(void *arg, struct pci_function *f, unsigned int bar, uint64_t address, bool on)
{
	struct board *b = arg;

	(void)f;
	(void)bar;
	(void)address;
	(void)on;
	b->changes++;
}

static bool take(int fd)
{
	uint64_t n;

	return read(fd, &n, sizeof(n)) == sizeof(n);
}

static void give(int fd)
{
	uint64_t one = 1;

	need(write(fd, &one, sizeof(one)) == sizeof(one), "eventfd");
}

/* ---- accesses ---- */

static bool is_pci(const struct board *b)
{
	return b->pci != NULL;
}

uint64_t board_read(struct board *b, uint64_t address, unsigned int width)
{
	uint64_t value;

	if (!is_pci(b))
		return mmio_read(b->mmio, address - BOARD_MMIO_BASE, width);
	pci_bus_read(&b->bus, PCI_MEMORY, address, width, &value);
	return value;
}

/* An access that an ioeventfd would have taken. */
static bool kicked(struct board *b, uint64_t address, unsigned int width, uint64_t value)
{
	unsigned int n = sl_device_num_queues(b->device);
	uint64_t queue = value;

	if (b->kind == BOARD_MMIO_FD) {
		if (address != BOARD_MMIO_BASE + MMIO_QUEUE_NOTIFY || width != 4)
			return false;
	} else if (b->kind == BOARD_PCI_FD) {
		uint64_t off = address - board_bar(b) - PCI_NOTIFY;

		if (off % PCI_NOTIFY_STRIDE)
			return false;
		queue = off / PCI_NOTIFY_STRIDE;
	} else {
		return false;
	}
	if (queue >= n)
		return false;
	give(b->kick_fds[queue]);
	return true;
}

void board_write(struct board *b, uint64_t address, unsigned int width, uint64_t value)
{
	struct pci_function *wait = NULL;

	if (kicked(b, address, width, value))
		return;
	if (is_pci(b))
		pci_bus_write(&b->bus, PCI_MEMORY, address, width, value, &wait);
	else if (!mmio_write(b->mmio, address - BOARD_MMIO_BASE, width, value) && !b->stepped)
		need(mmio_wait(b->mmio, 60000), "the device does not settle");
}

uint64_t board_bar(struct board *b)
{
	return (pci_bus_config_read(&b->bus, BOARD_SLOT, 0x10 + 4 * PCI_VIRTIO_BAR, 4) & ~15u) |
	       (uint64_t)pci_bus_config_read(&b->bus, BOARD_SLOT, 0x14 + 4 * PCI_VIRTIO_BAR, 4) << 32;
}

static uint64_t access_read(void *arg, enum register_space space, uint64_t address, unsigned int width)
{
	struct board *b = arg;

	return space == REGISTER_PCI ? pci_bus_ecam_read(&b->bus, address, width) : board_read(b, address, width);
}

static void access_write(void *arg, enum register_space space, uint64_t address, unsigned int width, uint64_t value)
{
	struct board *b = arg;

	if (space == REGISTER_PCI)
		pci_bus_ecam_write(&b->bus, address, width, value);
	else
		board_write(b, address, width, value);
}

void board_step(struct board *b)
{
	if (b->stepped)
		sl_loop_step(sl_device_control(b->device), 0);
}

static bool access_wait(void *arg, unsigned int round)
{
	struct board *b = arg;

	if (b->stepped)
		sl_loop_step(sl_device_control(b->device), 1);
	else
		usleep(100);
	return round < MAX_ROUNDS;
}

/* ---- life ---- */

static void open_mmio(struct board *b, bool legacy)
{
	bool fd = b->kind == BOARD_MMIO_FD;
	struct mmio_env env = {.arg = b, .irq = irq, .irq_fd = fd ? b->irq_fd : -1,
			       .kick_fds = fd ? b->kick_fds : NULL, .legacy = legacy};
	struct sl_err err;

	b->mmio = mmio_new(b->device, &env, &err);
	need(b->mmio, err.text);
}

static void open_pci(struct board *b, bool legacy)
{
	bool fd = b->kind == BOARD_PCI_FD;
	struct pci_bus_env bus = {.arg = b, .control = sl_device_control(b->device), .decode = decode,
				  .io = {0xc000, 0x1000}, .mem32 = {BOARD_WINDOW, 16 << 20},
				  .mem64 = {BOARD_WINDOW64, 1 << 30}};
	struct pci_env env = {.arg = b, .irq = irq, .msi = msi, .vector_on = fd ? vector_on : NULL,
			      .vector_off = fd ? vector_off : NULL, .kick_fds = fd ? b->kick_fds : NULL,
			      .transitional = legacy};
	struct sl_err err;

	pci_bus_init(&b->bus, &bus);
	b->pci = pci_new(b->device, &env, &err);
	need(b->pci, err.text);
	need(!pci_bus_add(&b->bus, pci_function(b->pci), BOARD_SLOT, 11, &err), err.text);
}

void board_open(struct board *b, enum board_kind kind, struct sl_device *device, bool legacy)
{
	memset(b, 0, sizeof(*b));
	b->kind = kind;
	b->device = device;
	b->stepped = sl_loop_is_here(sl_device_control(device));
	need(sl_device_num_queues(device) <= BOARD_MAX_QUEUES, "too many queues");
	b->access = (struct register_access){b, access_read, access_write, access_wait};
	b->irq_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	for (unsigned int i = 0; i < BOARD_MAX_QUEUES; i++)
		b->kick_fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	for (unsigned int i = 0; i <= BOARD_MAX_QUEUES; i++)
		b->vector_fd[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (kind <= BOARD_MMIO_FD)
		open_mmio(b, legacy);
	else
		open_pci(b, legacy);
}

static void is_done(void *arg)
{
	*(bool *)arg = true;
}

void board_close(struct board *b)
{
	bool done = false;

	if (is_pci(b))
		pci_reset(b->pci, is_done, &done);
	else
		mmio_reset(b->mmio, is_done, &done);
	while (!done)
		sl_loop_step(sl_device_control(b->device), 10);
	pci_free(b->pci);
	mmio_free(b->mmio);
	if (is_pci(b))
		pci_bus_destroy(&b->bus);
	close(b->irq_fd);
	for (unsigned int i = 0; i < BOARD_MAX_QUEUES; i++)
		close(b->kick_fds[i]);
	for (unsigned int i = 0; i <= BOARD_MAX_QUEUES; i++)
		close(b->vector_fd[i]);
}

void board_memory(struct board *b, const struct sl_link_region *r, unsigned int n)
{
	struct sl_mem_region out[SL_LINK_MAX_REGIONS] = {0};
	struct sl_mem *mem;

	for (unsigned int i = 0; i < n; i++) {
		out[i] = (struct sl_mem_region){.gpa = r[i].addr, .size = r[i].size, .uva = r[i].addr,
						.access = SL_MEM_READ | SL_MEM_WRITE};
		out[i].mapping = sl_mapping_new(r[i].fd, r[i].offset, r[i].size, NULL);
		need(out[i].mapping, "mapping");
		out[i].hva = sl_mapping_addr(out[i].mapping);
	}
	mem = sl_mem_new(out, n, NULL);
	need(mem, "memory map");
	for (unsigned int i = 0; i < n; i++)
		sl_mapping_put(out[i].mapping);
	if (is_pci(b))
		pci_set_mem(b->pci, mem);
	else
		mmio_set_mem(b->mmio, mem);
	sl_mem_put(mem);
}

struct sl_link *board_link(struct board *b)
{
	static const uint32_t data[BOARD_MAX_QUEUES + 1] = {0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
							    0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f, 0x50};
	struct sl_err err = {""};
	struct sl_link *l;

	if (!is_pci(b))
		l = link_mmio_open(&b->lm, &b->access, BOARD_MMIO_BASE, &err);
	else
		l = link_pci_open(&b->lp, &b->access, BOARD_FUNCTION, &err);
	need(l, err.text);
	if (b->kind == BOARD_PCI_MSIX || b->kind == BOARD_PCI_FD)
		need(!link_pci_msix(&b->lp, 0xfee00000, data, 1 + sl_device_num_queues(b->device)), "MSI-X");
	return l;
}

bool board_interrupted(struct board *b, unsigned int queue)
{
	switch (b->kind) {
	case BOARD_MMIO:
		return atomic_load(&b->level) && link_mmio_interrupt(&b->lm) & 1;
	case BOARD_MMIO_FD:
		return take(b->irq_fd) && link_mmio_interrupt(&b->lm) & 1;
	case BOARD_PCI_INTX:
		return atomic_load(&b->level) && link_pci_interrupt(&b->lp) & 1;
	case BOARD_PCI_MSIX:
		return atomic_exchange(&b->messages, 0);
	default:
		return take(b->vector_fd[1 + queue]);
	}
}
