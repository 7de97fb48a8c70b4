/* SPDX-License-Identifier: MIT */
/* pci.h - virtio over PCI (virtio 1.4, 4.1): a function for pci_bus.h around a device.
 *
 * Modern; with a key also transitional, that is with the legacy registers in
 * I/O BAR 0. One memory BAR holds everything else at fixed places, see the
 * enum below. Each queue has a notification word of its own, so that an
 * ioeventfd for it needs no datamatch (and may be of the zero-length kind,
 * which KVM answers without looking at the instruction).
 *
 * Shared memory is answered like registers: right, and as slow as they are,
 * until an engine shows it to the guest as memory where the BAR is decoded.
 *
 * Interrupts: a queue calls by the descriptor that @vector_on gave for its
 * MSI-X vector; while the vector is masked it sets the pending bit; without
 * MSI-X it sets the ISR bit and the level of INTx.
 *
 * Threads: as in pci_bus.h; @msi and @irq may be called from any thread.
 */
#ifndef TRANSPORT_PCI_H
#define TRANSPORT_PCI_H

#include <sluice/virtio.h>

#include "transport/pci_bus.h"

enum {
	PCI_LEGACY_BAR = 0, /* I/O, transitional functions only; the 2-byte notification register is at PCI_LEGACY_NOTIFY */
	PCI_LEGACY_NOTIFY = 0x10, /* ioeventfd with datamatch = queue index, length 2 */
	PCI_VIRTIO_BAR = 2, /* memory, 64 bits */
	PCI_SHM_BAR = 4,    /* memory, 64 bits, only of a device with shared memory: its regions one behind the other */
	PCI_VIRTIO_BAR_SIZE = 0x10000,
	PCI_COMMON = 0,
	PCI_ISR = 0x1000,
	PCI_DEVICE = 0x2000,
	PCI_NOTIFY = 0x3000, /* queue i: PCI_NOTIFY + i * PCI_NOTIFY_STRIDE */
	PCI_NOTIFY_STRIDE = 4,
	PCI_MSIX_PBA = 0x4000,
	PCI_MSIX_TABLE = 0x8000,
};

struct pci;

/**
 * struct pci_env - what surrounds the function
 * @irq:        any thread; the level of INTx
 * @msi:        any thread; send this message
 * @vector_on:  control; the vector is unmasked from now on with this message, which may have changed: give the
 *              eventfd (stays the engine's) that an irqfd turns into this message, or -1: then @msi. Optional
 * @vector_off: control; the vector is masked. An event still on its way in the eventfd must not be lost. Optional
 * @kick_fds:   NULL, or an eventfd for each queue, signalled by ioeventfds. They stay the caller's
 * @transitional: with the legacy registers too
 */
struct pci_env {
	void *arg;
	void (*irq)(void *arg, bool level);
	void (*msi)(void *arg, uint64_t address, uint32_t data);
	int (*vector_on)(void *arg, unsigned int vector, uint64_t address, uint32_t data);
	void (*vector_off)(void *arg, unsigned int vector);
	const int *kick_fds;
	bool transitional;
};

/** pci_new() - become the transport of @device; NULL with @err filled */
struct pci *pci_new(struct sl_device *device, const struct pci_env *env, struct sl_err *err);
/** pci_free() - leave the device, which pci_reset() has stopped; NULL allowed */
void pci_free(struct pci *t);
/** pci_function() - what pci_bus_add() takes */
struct pci_function *pci_function(struct pci *t);
/** pci_num_vectors() - entries of the MSI-X table: one a queue and one for the configuration */
unsigned int pci_num_vectors(const struct pci *t);
/** pci_set_mem() - guest memory from now on, also for queues that run; takes its own count */
void pci_set_mem(struct pci *t, struct sl_mem *mem);
/** pci_reset() - see mmio_reset(); configuration space is pci_bus_reset()'s */
void pci_reset(struct pci *t, void (*done)(void *arg), void *arg);

#endif
