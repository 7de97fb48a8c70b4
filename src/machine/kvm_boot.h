/* SPDX-License-Identifier: MIT */
/* kvm_boot.h - put a kernel into guest memory, as a boot loader does
 *
 * Knows files and guest memory, nothing of KVM. Two kinds of kernel: a bzImage,
 * entered by the 64-bit boot protocol (linux/Documentation/x86/boot.rst), and
 * an ELF program with a PVH entry (xen/docs/misc/pvh.pandoc), which a vmlinux
 * has, too.
 */
#ifndef MACHINE_KVM_BOOT_H
#define MACHINE_KVM_BOOT_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/memory.h>

/**
 * struct boot_source - what to load; the paths are as the person wrote them
 * @initrd:  NULL: none
 * @cmdline: the whole command line of the kernel
 * @rsdp:    guest physical address of the ACPI tables' root
 */
struct boot_source {
	const char *kernel, *initrd, *cmdline;
	uint64_t rsdp;
};

/**
 * struct boot_entry - how the first processor starts
 * @long_mode: 64-bit mode with 4 GiB mapped one to one; else 32-bit protected mode without paging
 * @rip:       first instruction
 * @arg:       address of what was prepared for the kernel: RSI in long mode, else EBX
 */
struct boot_entry {
	bool long_mode;
	uint64_t rip, arg;
};

/** boot_check() - is @path a kernel that boot_load() knows? Looks at the header only. 0 or -errno with @err filled */
int boot_check(const char *path, struct sl_err *err);
/** boot_load() - fill guest memory, which is all zeroes so far; 0 or -errno with @err filled */
int boot_load(const struct boot_source *src, const struct sl_mem *mem, struct boot_entry *out, struct sl_err *err);

enum { BOOT_RAM = 1, BOOT_RESERVED = 2 };
/** struct boot_range - an entry of the memory map; @type: one of the above */
struct boot_range {
	uint64_t addr, size;
	uint32_t type;
};
#define BOOT_MAX_RANGES 8
/** boot_memory_map() - what the guest is told of its memory; returns how many of @ranges are filled */
unsigned int boot_memory_map(const struct sl_mem *mem, struct boot_range *ranges);

#endif
