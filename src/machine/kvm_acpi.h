/* SPDX-License-Identifier: MIT */
/* kvm_acpi.h - the tables by which a guest learns what its machine has (ACPI 6.4) */
#ifndef MACHINE_KVM_ACPI_H
#define MACHINE_KVM_ACPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** struct acpi_mmio - a virtio-mmio device: LNRO0005, with its registers and the pin it interrupts by: edges, or a level */
struct acpi_mmio {
	uint64_t addr;
	unsigned int size, gsi;
	bool level;
};

/** struct acpi_config - what differs between machines */
struct acpi_config {
	unsigned int cpus;
	const struct acpi_mmio *mmio;
	unsigned int num_mmio;
};

/**
 * acpi_build() - write all tables, for a guest that sees @buf at @gpa, which is a multiple of 64
 *
 * The root (RSDP) comes first. Return: the bytes used, or -ENOSPC.
 */
int acpi_build(const struct acpi_config *cfg, uint64_t gpa, void *buf, size_t size);

#endif
