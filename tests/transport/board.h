/* SPDX-License-Identifier: MIT */
/* board.h - a device behind a register transport, and a link to it, without a machine between them.
 *
 * What an engine would do is done in the simplest way: accesses are function
 * calls, an "ioeventfd" is an eventfd written in their place, interrupts are
 * counted. The driver's memory is seen by the device at another address.
 */
#ifndef TRANSPORT_BOARD_H
#define TRANSPORT_BOARD_H

#include <stdatomic.h>

#include "driver/registers.h"
#include "transport/mmio.h"
#include "transport/pci.h"

enum board_kind {
	BOARD_MMIO,	/* every notification a register access, the line by callback */
	BOARD_MMIO_FD,	/* kicks and interrupts by eventfd */
	BOARD_PCI_INTX,
	BOARD_PCI_MSIX, /* messages by callback */
	BOARD_PCI_FD,	/* kicks and vectors by eventfd */
	BOARD_KINDS,
};

#define BOARD_MMIO_BASE 0xd0000000u
#define BOARD_WINDOW 0xe0000000u /* 32-bit memory window of the bus, 16 MiB */
#define BOARD_WINDOW64 0x8000000000ull
#define BOARD_SLOT 3
#define BOARD_FUNCTION (BOARD_SLOT << 15)
#define BOARD_MAX_QUEUES 16

/**
 * struct board
 * @stepped:  the control loop is this thread's and is turned in waits
 * @level:    of the interrupt line
 * @messages: sent by callback
 * @last_data, @last_address: of the last message
 * @vector_fd: by vector; -1: masked
 * @changes:  BARs that began or ceased to decode
 */
struct board {
	enum board_kind kind;
	struct sl_device *device;
	bool stepped;
	struct mmio *mmio;
	struct pci *pci;
	struct pci_bus bus;
	struct register_access access;
	union {
		struct link_mmio lm;
		struct link_pci lp;
	};
	atomic_bool level;
	atomic_uint messages;
	atomic_uint last_data;
	_Atomic uint64_t last_address;
	int irq_fd, kick_fds[BOARD_MAX_QUEUES], vector_fd[BOARD_MAX_QUEUES + 1];
	bool vector_on[BOARD_MAX_QUEUES + 1];
	unsigned int changes;
};

extern const char *const board_names[BOARD_KINDS];

/** board_open() - put @device on a board; @legacy: version 1 or a transitional function */
void board_open(struct board *b, enum board_kind kind, struct sl_device *device, bool legacy);
/** board_close() - reset, step until it is complete, let the device go */
void board_close(struct board *b);
/** board_memory() - the device sees the driver's memory */
void board_memory(struct board *b, const struct sl_link_region *r, unsigned int n);
/** board_link() - a link through the registers */
struct sl_link *board_link(struct board *b);
/** board_interrupted() - did an interrupt for a queue arrive? Takes and acknowledges it */
bool board_interrupted(struct board *b, unsigned int queue);
/** board_step() - turn the control loop a little, if it is ours to turn */
void board_step(struct board *b);

uint64_t board_read(struct board *b, uint64_t address, unsigned int width);
void board_write(struct board *b, uint64_t address, unsigned int width, uint64_t value);
/** board_bar() - where the virtio BAR is now */
uint64_t board_bar(struct board *b);

#endif
