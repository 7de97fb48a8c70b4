/* SPDX-License-Identifier: MIT */
/* kvm_vcpu.h - a guest's processors, a thread each */
#ifndef MACHINE_KVM_VCPU_H
#define MACHINE_KVM_VCPU_H

#include <pthread.h>

#include "machine/kvm_board.h"
#include "machine/kvm_boot.h"
#include "machine/kvm_vm.h"

struct cpus;

/**
 * struct cpu
 * @fd:      the vCPU
 * @run:     the page that KVM shares with us: why the guest left, and what it wants
 * @started: there is a @thread; atomic
 */
struct cpu {
	struct cpus *cpus;
	unsigned int index;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	bool started;
};

/**
 * struct cpus - all of them
 * @end:     enum guest_end, set once; atomic
 * @running: threads that have not left yet; atomic
 * @ended:   eventfd, readable once all threads have left
 */
struct cpus {
	struct kvm_vm *vm;
	struct board *board;
	unsigned int n;
	unsigned int end, running;
	int ended;
	struct cpu cpu[KVM_MAX_CPUS];
};

/** cpus_new() - @n processors, the first of which begins at @entry; 0 or -errno with @err filled */
int cpus_new(struct cpus *c, struct kvm_vm *vm, struct board *board, unsigned int n, const struct boot_entry *entry,
	     struct sl_err *err);
/** cpus_start() - let them run; 0 or -errno (those that started have been told to end) */
int cpus_start(struct cpus *c);
/** cpus_end() - make all of them leave; any thread; only the first reason counts */
void cpus_end(struct cpus *c, enum guest_end how);
/** cpus_join() - wait for the threads, which have been told to end; says how the guest ended */
enum guest_end cpus_join(struct cpus *c);
/** cpus_free() - after cpus_join(), or after cpus_new() failed */
void cpus_free(struct cpus *c);

#endif
