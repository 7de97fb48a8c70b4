/* SPDX-License-Identifier: MIT */
/* kvm_vm.h - a virtual machine as the kernel sees it: memory slots, interrupt routes, doorbells.
 *
 * Any thread may use what is below, but for open, close and memory. Errors of
 * ioctls come out as "KVM: NAME: WHY".
 */
#ifndef MACHINE_KVM_VM_H
#define MACHINE_KVM_VM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <sluice/memory.h>

#include "machine/kvm_layout.h"

struct kvm_routes; /* KVM's table of interrupt routes */

/**
 * struct kvm_vm
 * @kvm, @vm:  /dev/kvm and the machine; -1: not open
 * @memfd:     all of guest memory, the part below 4 GiB first; -1: it is private
 * @mem:       the map, for devices
 * @below_4g, @above_4g: bytes
 * @run_size:  bytes of a vCPU's shared run page
 * @slots:     memory slots in use
 * @lock:      guards @routes
 */
struct kvm_vm {
	int kvm, vm, memfd;
	struct sl_mem *mem;
	uint64_t below_4g, above_4g;
	size_t run_size;
	unsigned int slots;
	pthread_mutex_t lock;
	struct kvm_routes *routes;
};

/** kvm_open() - open /dev/kvm; a descriptor, or -errno with @err saying what to do */
int kvm_open(struct sl_err *err);
/** kvm_fail() - "KVM: @ioctl: WHY" from errno; -errno */
int kvm_fail(struct sl_err *err, const char *ioctl);

/**
 * enum kvm_memory - what guest memory is made of
 * @KVM_MEMORY_PRIVATE:   this process' own. Hosts give it large pages, so a guest that starts faults once where it
 *                        faults hundreds of times in a memfd
 * @KVM_MEMORY_SHARED:    a memfd, which other processes can have
 * @KVM_MEMORY_HUGEPAGES: a memfd too, in pages of 2 MiB, see hugepages.h
 */
enum kvm_memory { KVM_MEMORY_PRIVATE, KVM_MEMORY_SHARED, KVM_MEMORY_HUGEPAGES };

/** kvm_vm_new() - a machine with @memory bytes (a multiple of 1 MiB), interrupt controllers and PIT, without vCPUs */
int kvm_vm_new(struct kvm_vm *vm, uint64_t memory, enum kvm_memory kind, struct sl_err *err);
/** kvm_vm_free() - all vCPUs are gone; safe after kvm_vm_new() failed */
void kvm_vm_free(struct kvm_vm *vm);

/** kvm_vm_show() - let the guest read @size bytes of ours at @gpa without leaving it; its writes still leave. Before it runs */
int kvm_vm_show(struct kvm_vm *vm, uint64_t gpa, const void *data, uint64_t size);

/** kvm_vm_irq() - set a pin of the I/O APIC */
void kvm_vm_irq(struct kvm_vm *vm, unsigned int gsi, bool level);
/** kvm_vm_msi_send() - one message, now */
void kvm_vm_msi_send(struct kvm_vm *vm, uint64_t address, uint32_t data);
/** kvm_vm_msi_alloc() - a GSI for one MSI vector, or -ENOSPC */
int kvm_vm_msi_alloc(struct kvm_vm *vm);
void kvm_vm_msi_release(struct kvm_vm *vm, unsigned int gsi);
/** kvm_vm_msi_route() - where this GSI's messages go */
int kvm_vm_msi_route(struct kvm_vm *vm, unsigned int gsi, uint64_t address, uint32_t data);
/** kvm_vm_irqfd() - from now on (@on) writes to the eventfd @fd raise @gsi, without us */
int kvm_vm_irqfd(struct kvm_vm *vm, int fd, unsigned int gsi, bool on);

/**
 * struct kvm_doorbell - guest writes that become an eventfd's in the kernel
 * @len:   bytes of the write; 0: any length (memory only, and then any value)
 * @pio:   @addr is a port
 * @match: only the value @data
 */
struct kvm_doorbell {
	uint64_t addr, data;
	uint32_t len;
	bool pio, match;
};
/** kvm_vm_ioeventfd() - 0 or -errno */
int kvm_vm_ioeventfd(struct kvm_vm *vm, const struct kvm_doorbell *bell, int fd, bool on);

#endif
