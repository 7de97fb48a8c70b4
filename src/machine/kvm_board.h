/* SPDX-License-Identifier: MIT */
/* kvm_board.h - who answers when a guest leaves KVM: ports and device memory
 *
 * A processor's thread calls board_port() and board_memory(). Serial port,
 * clock and power management are answered there, under locks of their own.
 * PCI configuration and the registers of virtio devices are the transports',
 * which do what changes a device on the control loop.
 */
#ifndef MACHINE_KVM_BOARD_H
#define MACHINE_KVM_BOARD_H

#include <pthread.h>

#include "emulated/rtc.h"
#include "emulated/uart16550.h"
#include "machine/kvm_layout.h"
#include "machine/kvm_vm.h"
#include "transport/mmio.h"
#include "transport/pci_bus.h"

/** enum guest_end - why a guest's processors stop */
enum guest_end {
	GUEST_RUNS,
	GUEST_OFF,	    /* it switched itself off */
	GUEST_RESET,	    /* it asked for a reset */
	GUEST_TRIPLE_FAULT, /* it had no way to handle a fault: a reset, too */
	GUEST_FAILED,	    /* KVM or we cannot go on; that has been logged */
	GUEST_TOLD,	    /* we were told to end it */
};

#define BOARD_MAX_MMIO 13

/**
 * struct board_ops - what the board asks of the machine; any thread
 * @end:    the guest ends in this way
 * @output: the serial port has something to send
 * @room:   the serial port can receive again
 */
struct board_ops {
	void (*end)(void *arg, enum guest_end how);
	void (*output)(void *arg);
	void (*room)(void *arg);
};

/**
 * struct board
 * @lock:     guards @rtc and ACPI's registers
 * @pm_status, @pm_enable, @pm_control: ACPI's fixed registers
 * @pm_start: when the power management timer was 0
 * @sci:      level of ACPI's interrupt
 * @mmio:     virtio-mmio transports by their place; set before the guest runs
 */
struct board {
	struct kvm_vm *vm;
	const struct board_ops *ops;
	void *arg;
	struct uart16550 uart;
	struct rtc rtc;
	pthread_mutex_t lock;
	uint16_t pm_status, pm_enable, pm_control;
	uint64_t pm_start;
	bool sci;
	struct pci_bus pci;
	struct mmio *mmio[BOARD_MAX_MMIO];
};

/** board_init() - with a PCI bus that has nothing but its host bridge */
void board_init(struct board *b, struct kvm_vm *vm, const struct pci_bus_env *pci, const struct board_ops *ops, void *arg);
void board_destroy(struct board *b);
/** board_port() - a guest's access of 1, 2 or 4 bytes; *@value is what it writes or gets */
void board_port(struct board *b, uint16_t port, unsigned int width, bool write, uint32_t *value);
/** board_memory() - the same for memory, 1 to 8 bytes */
void board_memory(struct board *b, uint64_t addr, unsigned int width, bool write, uint64_t *value);
/** board_power_button() - somebody pressed it; any thread */
void board_power_button(struct board *b);

#endif
