/* SPDX-License-Identifier: MIT */
/* kvm_layout.h - where everything is in a guest of the kvm engine; docs/kvm.md has the picture */
#ifndef MACHINE_KVM_LAYOUT_H
#define MACHINE_KVM_LAYOUT_H

#define KVM_MAX_CPUS 16

/* ---- guest physical addresses ---- */

/* What the boot loader leaves for the kernel, all below 640 KiB. */
#define LAYOUT_GDT 0x500UL
#define LAYOUT_ZERO_PAGE 0x7000UL  /* struct boot_params of a bzImage, struct hvm_start_info of a PVH kernel */
#define LAYOUT_MEMMAP 0x8000UL	    /* PVH: the memory map */
#define LAYOUT_PAGE_TABLES 0x9000UL /* 6 pages: 4 GiB mapped one to one */
#define LAYOUT_CMDLINE 0x20000UL
#define LAYOUT_CMDLINE_MAX 0x10000UL

#define LAYOUT_LOW_RAM_END 0x9fc00UL
#define LAYOUT_ACPI 0xe0000UL /* the RSDP first: this is where a kernel searches for it */
#define LAYOUT_ACPI_SIZE 0x20000UL
#define LAYOUT_HIGH_RAM 0x100000UL

/* From 3 to 4 GiB there are devices only; memory goes on above. */
#define LAYOUT_HOLE 0xc0000000UL
#define LAYOUT_PCI_MMIO 0xc0000000UL
#define LAYOUT_PCI_MMIO_SIZE 0x20000000UL
#define LAYOUT_ECAM 0xe0000000UL
#define LAYOUT_ECAM_SIZE 0x100000UL /* one bus */
#define LAYOUT_VIRTIO_MMIO 0xfeb00000UL
#define LAYOUT_VIRTIO_MMIO_STRIDE 0x1000UL
#define LAYOUT_IOAPIC 0xfec00000UL
#define LAYOUT_LAPIC 0xfee00000UL
#define LAYOUT_IDENTITY_MAP 0xfffbc000UL /* KVM's own, for Intel CPUs without unrestricted guests */
#define LAYOUT_TSS 0xfffbd000UL	  /* 3 pages, the same */
#define LAYOUT_4G 0x100000000UL

/* ---- ports ---- */

#define PORT_I8042_COMMAND 0x64
#define PORT_RTC 0x70
#define PORT_COM1 0x3f8
#define PORT_PM 0x600 /* ACPI's fixed registers, 16 ports */
#define PORT_PCI_ADDRESS 0xcf8 /* 4 ports, then 4 for the data */
#define PORT_RESET 0xcf9
#define PORT_PCI_IO 0x1000 /* I/O BARs, up to the end */

/* ---- interrupts: the pins of the I/O APIC, "GSI" ---- */

#define GSI_COM1 4
#define GSI_SCI 9
#define GSI_PCI 16 /* 4 pins, for INTA to INTD */
#define GSI_PINS 24
/* above: one for each MSI-X vector */
#define GSI_MAX 1024

#endif
