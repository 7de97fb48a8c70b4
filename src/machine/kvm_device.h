/* SPDX-License-Identifier: MIT */
/* kvm_device.h - a virtio device of this process in a KVM machine
 *
 * Its transport's registers are the board's to reach. Its queues never leave
 * the kernel on their way: an ioeventfd takes the guest's notification to the
 * loop that owns the queue, an irqfd takes the answer to the guest.
 */
#ifndef MACHINE_KVM_DEVICE_H
#define MACHINE_KVM_DEVICE_H

#include <pthread.h>

#include <sluice/virtio.h>

#include "machine/engine.h"
#include "machine/kvm_acpi.h"
#include "machine/kvm_board.h"
#include "transport/pci.h"

struct kvm_device;

/**
 * struct kvm_bus - where devices are put
 * @lock:        guards @intx
 * @intx:        devices that hold each of PCI's four pins
 * @pci:         devices by their number on the PCI bus; @num_pci of them, from 1 on
 * @mmio:        what the ACPI tables say of those on virtio-mmio
 */
struct kvm_bus {
	struct kvm_vm *vm;
	struct board *board;
	pthread_mutex_t lock;
	unsigned int intx[4];
	struct kvm_device *pci[PCI_DEVICES];
	unsigned int num_pci, num_mmio;
	struct acpi_mmio mmio[BOARD_MAX_MMIO];
};

void kvm_bus_init(struct kvm_bus *bus, struct kvm_vm *vm, struct board *board);
/** kvm_bus_decode() - see struct pci_bus_env; its @arg is the bus */
void kvm_bus_decode(void *bus, struct pci_function *f, unsigned int bar, uint64_t address, bool on);

/** kvm_device_add() - put @dev on a bus, before the guest runs; NULL with @err filled */
struct kvm_device *kvm_device_add(struct kvm_bus *bus, struct sl_device *dev, const struct machine_link *link,
				  struct sl_err *err);
/** kvm_device_remove() - the guest is gone: wait for requests in flight, let the device go; NULL allowed */
void kvm_device_remove(struct kvm_device *d);

#endif
