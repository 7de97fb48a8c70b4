/* SPDX-License-Identifier: MIT */
/* kvm_cpuid.c - the processor that a guest sees
 *
 * Theory of Operation
 *
 * A leaf that is not in the table below does not exist for the guest. A leaf
 * that is there comes from KVM, which has already removed what it cannot
 * virtualise, and then loses what says something about this very host: where
 * its processors sit, its power and thermal interfaces, its performance
 * counters, its frequencies, its name. Nested virtualisation is not offered.
 *
 * The vendor, family, model and stepping stay: kernels choose their
 * workarounds for errata by them. So do the sizes of caches.
 *
 * The topology is ours: one package, one thread a core, APIC ids from 0 on.
 * Above 0x40000000 there is KVM's own interface with its clock.
 */
#include "machine/kvm_cpuid.h"

#include <asm/kvm_para.h>
#include <stdint.h>
#include <string.h>

#define BIT(n) (1u << (n))

static const char brand[48] = "sluice virtual CPU";

/**
 * struct rule - what becomes of a leaf
 * @eax, @ebx, @ecx, @edx: bits that stay
 */
struct rule {
	uint32_t leaf, eax, ebx, ecx, edx;
};

#define ALL 0xffffffffu

static const struct rule rules[] = {
	{0x0, ALL, ALL, ALL, ALL},
	/* without DTES64, MONITOR, VMX, EST, TM2, PDCM, DCA; without PSN, DS, ACPI, TM, PBE */
	{0x1, ALL, ALL, ~(BIT(2) | BIT(3) | BIT(5) | BIT(7) | BIT(8) | BIT(15) | BIT(18)),
	 ~(BIT(18) | BIT(21) | BIT(22) | BIT(29) | BIT(31))},
	{0x2, ALL, ALL, ALL, ALL},
	{0x4, ALL, ALL, ALL, ALL},
	{0x6, BIT(2), 0, 0, 0}, /* the APIC timer runs in all power states */
	/* without SGX, RDT, PT; without AMX and hybrid, which have leaves of their own */
	{0x7, ALL, ~(BIT(2) | BIT(12) | BIT(15) | BIT(25)), ~BIT(30), ~(BIT(15) | BIT(22) | BIT(24) | BIT(25))},
	{0xd, ALL, ALL, ALL, ALL},
	{KVM_CPUID_SIGNATURE, ALL, ALL, ALL, ALL},
	{KVM_CPUID_FEATURES, BIT(KVM_FEATURE_CLOCKSOURCE) | BIT(KVM_FEATURE_NOP_IO_DELAY) | BIT(KVM_FEATURE_CLOCKSOURCE2) |
	 BIT(KVM_FEATURE_STEAL_TIME) | BIT(KVM_FEATURE_PV_EOI) | BIT(KVM_FEATURE_PV_UNHALT) |
	 BIT(KVM_FEATURE_PV_TLB_FLUSH) | BIT(KVM_FEATURE_PV_SEND_IPI) | BIT(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT), 0, 0, 0},
	{0x80000000, ALL, ALL, ALL, ALL},
	/* without SVM, IBS, watchdog, node id, performance counters */
	{0x80000001, ALL, ALL, ~(BIT(2) | BIT(10) | BIT(13) | BIT(19) | BIT(23) | BIT(24) | BIT(28)), ALL},
	{0x80000002, 0, 0, 0, 0},
	{0x80000003, 0, 0, 0, 0},
	{0x80000004, 0, 0, 0, 0},
	{0x80000005, ALL, ALL, ALL, ALL},
	{0x80000006, ALL, ALL, ALL, ALL},
	{0x80000007, 0, 0, 0, BIT(8)}, /* the TSC is invariant, if it is */
	{0x80000008, ALL, ALL, 0, 0},
	{0x80000019, ALL, ALL, ALL, ALL},
	{0x8000001d, ALL, ALL, ALL, ALL},
	{0x8000001e, 0, 0, 0, 0},
	{0x80000021, ALL, ALL, ALL, ALL},
};

static const struct rule *rule_of(uint32_t leaf)
{
	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
		if (rules[i].leaf == leaf)
			return &rules[i];
	return NULL;
}

/* Bits that number @cpus processors. */
static unsigned int id_bits(unsigned int cpus)
{
	unsigned int bits = 0;

	while (1u << bits < cpus)
		bits++;
	return bits;
}

/* A description of a cache: who shares it. The last level belongs to all, the others to one core. */
static void set_sharing(struct kvm_cpuid_entry2 *e, unsigned int cpus)
{
	unsigned int level = e->eax >> 5 & 7, ids = (1u << id_bits(cpus)) - 1;

	e->eax &= 0x3fff;
	if (level == 3)
		e->eax |= ids << 14;
	if (e->function == 0x4 && level)
		e->eax |= ids << 26;
}

static void customize(struct kvm_cpuid_entry2 *e, unsigned int cpu, unsigned int cpus, bool deadline)
{
	switch (e->function) {
	case 0x0:
		if (e->eax > 0xd)
			e->eax = 0xd;
		break;
	case 0x1:
		e->ebx = (e->ebx & 0xffff) | (1u << id_bits(cpus)) << 16 | cpu << 24;
		e->ecx |= BIT(31) | BIT(21) | (deadline ? BIT(24) : 0); /* a hypervisor is there; x2APIC */
		e->edx = cpus > 1 ? e->edx | BIT(28) : e->edx & ~BIT(28);
		break;
	case 0x4:
	case 0x8000001d:
		set_sharing(e, cpus);
		break;
	case KVM_CPUID_SIGNATURE:
		e->eax = KVM_CPUID_FEATURES;
		break;
	case 0x80000000:
		if (e->eax > 0x80000021)
			e->eax = 0x80000021;
		break;
	case 0x80000002:
	case 0x80000003:
	case 0x80000004:
		memcpy(&e->eax, brand + 16 * (e->function - 0x80000002), 16); /* eax to edx lie side by side */
		break;
	case 0x80000008:
		e->ecx = id_bits(cpus) << 12 | (cpus - 1);
		break;
	case 0x8000001e:
		e->eax = cpu;
		e->ebx = cpu;
		break;
	default:
		break;
	}
}

/* Leaf 0xb: threads, then cores. */
static void add_topology(struct kvm_cpuid2 *c, unsigned int cpu, unsigned int cpus)
{
	const struct kvm_cpuid_entry2 levels[] = {
		{.function = 0xb, .index = 0, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		 .eax = 0, .ebx = 1, .ecx = 1 << 8, .edx = cpu},
		{.function = 0xb, .index = 1, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		 .eax = id_bits(cpus), .ebx = cpus, .ecx = 2 << 8 | 1, .edx = cpu},
		{.function = 0xb, .index = 2, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ecx = 2, .edx = cpu},
	};

	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]) && c->nent < CPUID_MAX_ENTRIES; i++)
		c->entries[c->nent++] = levels[i];
}

void cpuid_filter(struct kvm_cpuid2 *c, unsigned int cpu, unsigned int cpus, bool deadline)
{
	unsigned int kept = 0;
	uint32_t highest = 0;

	for (unsigned int i = 0; i < c->nent; i++) {
		struct kvm_cpuid_entry2 e = c->entries[i];
		const struct rule *r = rule_of(e.function);

		if (!r)
			continue;
		e.eax &= r->eax;
		e.ebx &= r->ebx;
		e.ecx &= r->ecx;
		e.edx &= r->edx;
		customize(&e, cpu, cpus, deadline);
		if (!e.function)
			highest = e.eax;
		c->entries[kept++] = e;
	}
	c->nent = kept;
	if (highest >= 0xb)
		add_topology(c, cpu, cpus);
}
