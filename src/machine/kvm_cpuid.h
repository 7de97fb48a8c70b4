/* SPDX-License-Identifier: MIT */
/* kvm_cpuid.h - the processor that a guest sees */
#ifndef MACHINE_KVM_CPUID_H
#define MACHINE_KVM_CPUID_H

#include <linux/kvm.h>
#include <stdbool.h>

#define CPUID_MAX_ENTRIES 128

/**
 * cpuid_filter() - turn what KVM can do on this host into what a guest is told
 * @c:        in: KVM_GET_SUPPORTED_CPUID; out: for KVM_SET_CPUID2. Has room for CPUID_MAX_ENTRIES
 * @cpu:      this processor, which is also the id of its local APIC
 * @cpus:     how many there are
 * @deadline: the APIC timer can be given a TSC value (KVM_CAP_TSC_DEADLINE_TIMER)
 */
void cpuid_filter(struct kvm_cpuid2 *c, unsigned int cpu, unsigned int cpus, bool deadline);

#endif
