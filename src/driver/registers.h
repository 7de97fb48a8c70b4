/* SPDX-License-Identifier: MIT */
/* registers.h - links to a device over its registers: virtio-mmio and virtio-pci (virtio 1.4, 4.1 and 4.2).
 *
 * Freestanding: the caller gives the memory of the link and functions that
 * reach the registers. So the same code drives hardware, another VMM's devices
 * from bare metal, and our own transports inside a test.
 *
 * The device sees the memory that the driver sees; set_memory() has nothing to
 * do. A queue always starts afresh (@base of a fresh ring): registers cannot
 * say anything else. queue_stop() needs RING_RESET; over mmio an older device
 * takes "not ready" for it.
 */
#ifndef DRIVER_REGISTERS_H
#define DRIVER_REGISTERS_H

#include <sluice/link.h>

enum register_space {
	REGISTER_MEMORY,
	REGISTER_PCI, /* configuration space; the address is device << 15 | function << 12 | register, as in ECAM */
};

/**
 * struct register_access - how to reach registers
 * @read:  @width is 1, 2 or 4; the value is little-endian no more: a number
 * @write: the same
 * @wait:  called between two looks at a register that has to change, @round counts from 0; false: it took too long
 */
struct register_access {
	void *arg;
	uint64_t (*read)(void *arg, enum register_space space, uint64_t address, unsigned int width);
	void (*write)(void *arg, enum register_space space, uint64_t address, unsigned int width, uint64_t value);
	bool (*wait)(void *arg, unsigned int round);
};

/**
 * struct register_link - the start of both links
 * @features:   accepted
 * @generation: of the configuration at the last events()
 * @fault:      NEEDS_RESET was told of
 */
struct register_link {
	struct sl_link link;
	const struct register_access *access;
	struct sl_features features;
	uint32_t generation;
	bool fault;
};

/** struct link_mmio - @base: address of the first register */
struct link_mmio {
	struct register_link r;
	uint64_t base;
};

/**
 * link_mmio_open() - look at a virtio-mmio device of version 2
 *
 * Return: the link, inside @l; NULL with @err filled when there is none.
 */
struct sl_link *link_mmio_open(struct link_mmio *l, const struct register_access *access, uint64_t base,
			       struct sl_err *err);
/** link_mmio_type() - virtio device id; 0: a place without a device */
uint32_t link_mmio_type(const struct link_mmio *l);
/** link_mmio_interrupt() - in the interrupt handler: what it is for, acknowledged; bit 0 queues, bit 1 configuration */
uint32_t link_mmio_interrupt(struct link_mmio *l);

#define LINK_PCI_MAX_QUEUES 64 /* notification addresses are kept for so many */

/**
 * struct link_pci
 * @function: see REGISTER_PCI
 * @common, @isr, @device, @notify: addresses in memory space; 0: there is none
 * @multiplier:     of notification offsets
 * @notify_address: of each queue, once started
 * @msix:           capability in configuration space; 0: none
 * @msix_table:     address
 * @vectors:        MSI-X vectors in use; 0: INTx
 */
struct link_pci {
	struct register_link r;
	uint64_t function;
	uint16_t type;
	uint64_t common, isr, device, notify, msix_table;
	uint32_t common_length, notify_length, device_length, multiplier;
	unsigned int msix, msix_size, vectors;
	uint64_t notify_address[LINK_PCI_MAX_QUEUES];
};

/** link_pci_open() - look at a virtio-pci function with modern registers whose BARs are assigned; switches it on */
struct sl_link *link_pci_open(struct link_pci *l, const struct register_access *access, uint64_t function,
			      struct sl_err *err);
/**
 * link_pci_msix() - interrupts by messages, before queues are started
 * @n: how many of @data; entry 0 is for the configuration, queue i has entry 1 + i, or the last one
 *
 * Return: 0, or -ENOTSUP when the function has fewer vectors or none.
 */
int link_pci_msix(struct link_pci *l, uint64_t address, const uint32_t *data, unsigned int n);
/** link_pci_interrupt() - in the handler of INTx: what it is for, acknowledged; bits as of link_mmio_interrupt() */
uint32_t link_pci_interrupt(struct link_pci *l);

/* ---- for the two links ---- */

/** register_config_read() - @len bytes from @address, again while the generation at @gen (of @gen_width bytes) moves */
int register_config_read(struct register_link *r, uint64_t gen, unsigned int gen_width, uint64_t address, void *dst,
			 uint32_t len, struct sl_err *err);
void register_config_write(struct register_link *r, uint64_t address, const void *src, uint32_t len);
/** register_await() - until (value & @mask) is @want; 0 or -ETIMEDOUT with @err filled */
int register_await(struct register_link *r, uint64_t address, unsigned int width, uint32_t mask, uint32_t want,
		   struct sl_err *err);
/** register_features() - fill @out through the select register at @select and the window at @window */
void register_features(struct register_link *r, uint64_t select, uint64_t window, struct sl_features *out);
void register_accept(struct register_link *r, uint64_t select, uint64_t window, const struct sl_features *f);
/** register_fresh() - is this a ring that starts afresh? */
bool register_fresh(const struct register_link *r, const struct sl_link_queue *q);
/** register_kick() - the word for a kick of queue @index, and its width when NOTIFICATION_DATA is not in force */
void register_kick(struct register_link *r, uint64_t address, unsigned int width, unsigned int index, uint16_t data);
/** register_events() - SL_LINK_CONFIG when the generation or NEEDS_RESET is news */
unsigned int register_events(struct register_link *r, uint32_t generation, uint32_t status);

static inline uint32_t register_get(const struct register_link *r, uint64_t address, unsigned int width)
{
	return (uint32_t)r->access->read(r->access->arg, REGISTER_MEMORY, address, width);
}

static inline void register_set(const struct register_link *r, uint64_t address, unsigned int width, uint32_t value)
{
	r->access->write(r->access->arg, REGISTER_MEMORY, address, width, value);
}

#endif
