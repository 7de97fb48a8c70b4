/* SPDX-License-Identifier: MIT */
/* kvm_acpi.c - the tables by which a guest learns what its machine has
 *
 *     RSDP -> XSDT -> FADT -> DSDT: devices, in a byte code (AML)
 *                  |      `-> FACS
 *                  |-> MADT: processors, I/O APIC
 *                  `-> MCFG: where PCI configuration is in memory
 *
 * Numbers are little-endian. A writer goes through the buffer once; when there
 * is no room any more it only counts, and the end reports it.
 */
#include "machine/kvm_acpi.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "machine/kvm_layout.h"

/**
 * struct writer
 * @at: bytes so far, also of those that found no room
 */
struct writer {
	uint8_t *buf;
	size_t size, at;
	uint64_t gpa;
};

static void put(struct writer *w, const void *data, size_t len)
{
	if (w->at + len <= w->size)
		memcpy(w->buf + w->at, data, len);
	w->at += len;
}

static void put_int(struct writer *w, uint64_t value, unsigned int bytes)
{
	put(w, &value, bytes); /* this engine's host is little-endian, too */
}

static void put_zeroes(struct writer *w, size_t n)
{
	while (n--)
		put_int(w, 0, 1);
}

static void patch(struct writer *w, size_t at, uint64_t value, unsigned int bytes)
{
	if (at + bytes <= w->size)
		memcpy(w->buf + at, &value, bytes);
}

static void align(struct writer *w, size_t to)
{
	put_zeroes(w, (to - w->at % to) % to);
}

static uint8_t checksum(const struct writer *w, size_t from, size_t to)
{
	uint8_t sum = 0;

	for (size_t i = from; i < to && i < w->size; i++)
		sum += w->buf[i];
	return (uint8_t)-sum;
}

/* ---- tables ---- */

#define HEADER_LENGTH 4
#define HEADER_CHECKSUM 9

static size_t table_begin(struct writer *w, const char *signature, uint8_t revision)
{
	size_t at;

	align(w, 16);
	at = w->at;
	put(w, signature, 4);
	put_int(w, 0, 4); /* length */
	put_int(w, revision, 1);
	put_int(w, 0, 1); /* checksum */
	put(w, "SLUICESLUICE  ", 14);
	put_int(w, 1, 4);
	put(w, "SLUI", 4);
	put_int(w, 1, 4);
	return at;
}

static uint64_t table_end(struct writer *w, size_t at)
{
	patch(w, at + HEADER_LENGTH, w->at - at, 4);
	patch(w, at + HEADER_CHECKSUM, checksum(w, at, w->at), 1);
	return w->gpa + at;
}

/* ---- AML ---- */

enum {
	AML_NAME = 0x08, AML_BYTE = 0x0a, AML_WORD = 0x0b, AML_DWORD = 0x0c, AML_STRING = 0x0d, AML_QWORD = 0x0e,
	AML_SCOPE = 0x10, AML_BUFFER = 0x11, AML_PACKAGE = 0x12, AML_EXT = 0x5b, AML_EXT_DEVICE = 0x82,
};

/* An object with a length: its three bytes come after the operation. */
static size_t aml_begin(struct writer *w, uint8_t op)
{
	put_int(w, op, 1);
	put_zeroes(w, 3);
	return w->at - 3;
}

static void aml_end(struct writer *w, size_t at)
{
	size_t len = w->at - at;

	patch(w, at, 0x80 | (len & 15) | len >> 4 << 8, 3); /* "two more bytes"; 20 bits of length */
}

static void aml_int(struct writer *w, uint64_t v)
{
	unsigned int bytes = v <= 0xff ? 1 : v <= 0xffff ? 2 : v <= 0xffffffff ? 4 : 8;
	static const uint8_t prefix[] = {[1] = AML_BYTE, [2] = AML_WORD, [4] = AML_DWORD, [8] = AML_QWORD};

	put_int(w, prefix[bytes], 1);
	put_int(w, v, bytes);
}

static void aml_string(struct writer *w, const char *s)
{
	put_int(w, AML_STRING, 1);
	put(w, s, strlen(s) + 1);
}

static void aml_name(struct writer *w, const char *name)
{
	put_int(w, AML_NAME, 1);
	put(w, name, 4);
}

static void aml_name_int(struct writer *w, const char *name, uint64_t value)
{
	aml_name(w, name);
	aml_int(w, value);
}

/* "PNP0A03" in 32 bits: three letters of five bits, four digits, the other way round */
static void aml_name_eisa(struct writer *w, const char *name, const char *id)
{
	unsigned int product;
	uint32_t v;

	sscanf(id + 3, "%4X", &product);
	v = (id[0] - 0x40u) << 26 | (id[1] - 0x40u) << 21 | (id[2] - 0x40u) << 16 | product;
	aml_name(w, name);
	put_int(w, AML_DWORD, 1);
	put_int(w, __builtin_bswap32(v), 4);
}

static size_t device_begin(struct writer *w, const char *name)
{
	size_t at;

	put_int(w, AML_EXT, 1);
	at = aml_begin(w, AML_EXT_DEVICE);
	put(w, name, 4);
	return at;
}

/* ---- resource templates: a buffer of descriptors ---- */

struct resources {
	size_t at, size_at;
};

static struct resources resources_begin(struct writer *w)
{
	struct resources r;

	aml_name(w, "_CRS");
	r.at = aml_begin(w, AML_BUFFER);
	put_int(w, AML_WORD, 1);
	r.size_at = w->at;
	put_int(w, 0, 2);
	return r;
}

static void resources_end(struct writer *w, struct resources r)
{
	put_int(w, 0x79, 1); /* end tag; a checksum of 0 is not checked */
	put_int(w, 0, 1);
	patch(w, r.size_at, w->at - r.size_at - 2, 2);
	aml_end(w, r.at);
}

static void res_io(struct writer *w, unsigned int port, unsigned int n)
{
	put_int(w, 0x47, 1);
	put_int(w, 1, 1); /* all 16 address lines */
	put_int(w, port, 2);
	put_int(w, port, 2);
	put_int(w, 1, 1);
	put_int(w, n, 1);
}

static void res_irq(struct writer *w, unsigned int irq)
{
	put_int(w, 0x22, 1); /* edge, active high */
	put_int(w, 1u << irq, 2);
}

static void res_memory(struct writer *w, uint64_t addr, uint64_t size)
{
	put_int(w, 0x86, 1);
	put_int(w, 9, 2);
	put_int(w, 1, 1); /* writable */
	put_int(w, addr, 4);
	put_int(w, size, 4);
}

static void res_interrupt(struct writer *w, unsigned int gsi, bool level)
{
	put_int(w, 0x89, 1);
	put_int(w, 6, 2);
	put_int(w, level ? 0x01 : 0x03, 1); /* consumer, level or edge, active high, exclusive */
	put_int(w, 1, 1);
	put_int(w, gsi, 4);
}

enum { WINDOW_MEMORY, WINDOW_IO, WINDOW_BUS };

/* A range that a bridge hands on: word (2) or double word (4) address space descriptor. */
static void res_window(struct writer *w, unsigned int bytes, unsigned int type, uint64_t first, uint64_t size)
{
	static const uint8_t flags[] = {[WINDOW_MEMORY] = 0x01, [WINDOW_IO] = 0x03, [WINDOW_BUS] = 0};

	put_int(w, bytes == 2 ? 0x88 : 0x87, 1);
	put_int(w, 3 + 5 * bytes, 2);
	put_int(w, type, 1);
	put_int(w, 0x0c, 1); /* producer, positive decode, both ends fixed */
	put_int(w, flags[type], 1);
	put_int(w, 0, bytes); /* granularity */
	put_int(w, first, bytes);
	put_int(w, first + size - 1, bytes);
	put_int(w, 0, bytes); /* translation */
	put_int(w, size, bytes);
}

/* ---- the DSDT ---- */

/* INTA to INTD of the devices go round four pins, so that neighbours do not share one. */
static void pci_interrupts(struct writer *w)
{
	size_t table;

	aml_name(w, "_PRT");
	table = aml_begin(w, AML_PACKAGE);
	put_int(w, 31 * 4, 1);
	for (unsigned int device = 1; device < 32; device++)
		for (unsigned int pin = 0; pin < 4; pin++) {
			size_t row = aml_begin(w, AML_PACKAGE);

			put_int(w, 4, 1);
			aml_int(w, device << 16 | 0xffff);
			aml_int(w, pin);
			aml_int(w, 0); /* no link device: the pin itself */
			aml_int(w, GSI_PCI + (device + pin) % 4);
			aml_end(w, row);
		}
	aml_end(w, table);
}

static void pci_root(struct writer *w)
{
	size_t dev = device_begin(w, "PCI0");
	struct resources r;

	aml_name_eisa(w, "_HID", "PNP0A08");
	aml_name_eisa(w, "_CID", "PNP0A03");
	aml_name_int(w, "_UID", 0);
	aml_name_int(w, "_SEG", 0);
	aml_name_int(w, "_BBN", 0);
	r = resources_begin(w);
	res_window(w, 2, WINDOW_BUS, 0, 1);
	res_io(w, PORT_PCI_ADDRESS, 8);
	res_window(w, 2, WINDOW_IO, 0, PORT_PCI_ADDRESS);
	res_window(w, 2, WINDOW_IO, PORT_PCI_IO, 0x10000 - PORT_PCI_IO);
	res_window(w, 4, WINDOW_MEMORY, LAYOUT_PCI_MMIO, LAYOUT_PCI_MMIO_SIZE);
	resources_end(w, r);
	pci_interrupts(w);
	aml_end(w, dev);
}

/* A device whose resources are some ports and perhaps an interrupt. */
static void legacy_device(struct writer *w, const char *name, const char *id, unsigned int port, unsigned int n, int irq)
{
	size_t dev = device_begin(w, name);
	struct resources r;

	aml_name_eisa(w, "_HID", id);
	aml_name_int(w, "_UID", 1);
	r = resources_begin(w);
	res_io(w, port, n);
	if (irq >= 0)
		res_irq(w, (unsigned int)irq);
	resources_end(w, r);
	aml_end(w, dev);
}

/* What is taken on the board and no driver wants. */
static void board_resources(struct writer *w)
{
	size_t dev = device_begin(w, "MRES");
	struct resources r;

	aml_name_eisa(w, "_HID", "PNP0C02");
	aml_name_int(w, "_UID", 2);
	r = resources_begin(w);
	res_memory(w, LAYOUT_ECAM, LAYOUT_ECAM_SIZE);
	res_io(w, PORT_PM, 16);
	resources_end(w, r);
	aml_end(w, dev);
}

static void named_device(struct writer *w, const char *prefix, unsigned int n, const char *id,
			 const struct acpi_mmio *mmio)
{
	struct resources r;
	char name[8];
	size_t dev;

	snprintf(name, sizeof(name), "%s%02X", prefix, n & 0xff);
	dev = device_begin(w, name);
	aml_name(w, "_HID");
	aml_string(w, id);
	aml_name_int(w, "_UID", n);
	if (mmio) {
		aml_name_int(w, "_CCA", 1); /* cache coherent */
		r = resources_begin(w);
		res_memory(w, mmio->addr, mmio->size);
		res_interrupt(w, mmio->gsi, mmio->level);
		resources_end(w, r);
	}
	aml_end(w, dev);
}

static uint64_t build_dsdt(struct writer *w, const struct acpi_config *cfg)
{
	size_t table = table_begin(w, "DSDT", 2), at;

	aml_name(w, "_S5_"); /* "off" is sleep type 0 */
	at = aml_begin(w, AML_PACKAGE);
	put_int(w, 4, 1);
	for (int i = 0; i < 4; i++)
		aml_int(w, 0);
	aml_end(w, at);
	at = aml_begin(w, AML_SCOPE);
	put(w, "\\_SB_", 5);
	pci_root(w);
	legacy_device(w, "COM1", "PNP0501", PORT_COM1, 8, GSI_COM1);
	legacy_device(w, "RTC0", "PNP0B00", PORT_RTC, 2, -1);
	board_resources(w);
	for (unsigned int i = 0; i < cfg->cpus; i++)
		named_device(w, "CP", i, "ACPI0007", NULL);
	for (unsigned int i = 0; i < cfg->num_mmio; i++)
		named_device(w, "VM", i, "LNRO0005", &cfg->mmio[i]);
	aml_end(w, at);
	return table_end(w, table);
}

/* ---- the other tables ---- */

static uint64_t build_facs(struct writer *w)
{
	size_t at;

	align(w, 64);
	at = w->at;
	put(w, "FACS", 4);
	put_int(w, 64, 4);
	put_zeroes(w, 24);
	put_int(w, 2, 1); /* version */
	put_zeroes(w, 31);
	return w->gpa + at;
}

/* A generic address: a register of @bits in I/O space. */
static void put_port(struct writer *w, unsigned int port, unsigned int bits)
{
	static const uint8_t access[] = {[1] = 1, [2] = 2, [4] = 3};

	put_int(w, port ? 1 : 0, 1);
	put_int(w, bits, 1);
	put_int(w, 0, 1);
	put_int(w, bits <= 32 ? access[bits / 8] : 0, 1);
	put_int(w, port, 8);
}

static uint64_t build_fadt(struct writer *w, uint64_t facs, uint64_t dsdt)
{
	enum {
		WBINVD = 1 << 0, C1_SUPPORTED = 1 << 2, NO_SLEEP_BUTTON = 1 << 5, NO_FIXED_RTC_WAKE = 1 << 6,
		TIMER_32_BITS = 1 << 8, RESET_REGISTER = 1 << 10,
	};
	enum { LEGACY_DEVICES = 1 << 0, NO_VGA = 1 << 2 };
	size_t at = table_begin(w, "FACP", 6);

	put_int(w, facs, 4);
	put_int(w, dsdt, 4);
	put_zeroes(w, 2); /* reserved, no preferred power profile */
	put_int(w, GSI_SCI, 2);
	put_zeroes(w, 8); /* no SMI command: always in ACPI mode */
	put_int(w, PORT_PM, 4);
	put_int(w, 0, 4);
	put_int(w, PORT_PM + 4, 4);
	put_zeroes(w, 8);
	put_int(w, PORT_PM + 8, 4);
	put_zeroes(w, 8); /* no general purpose events */
	put_int(w, 4, 1);
	put_int(w, 2, 1);
	put_int(w, 0, 1);
	put_int(w, 4, 1);
	put_zeroes(w, 4);
	put_int(w, 0xffff, 2); /* neither C2 nor C3 */
	put_int(w, 0xffff, 2);
	put_zeroes(w, 8);
	put_int(w, 0x32, 1); /* the century's register of the clock */
	put_int(w, LEGACY_DEVICES | NO_VGA, 2);
	put_int(w, 0, 1);
	put_int(w, WBINVD | C1_SUPPORTED | NO_SLEEP_BUTTON | NO_FIXED_RTC_WAKE | TIMER_32_BITS | RESET_REGISTER, 4);
	put_port(w, PORT_RESET, 8);
	put_int(w, 6, 1);
	put_zeroes(w, 3);
	put_int(w, facs, 8);
	put_int(w, dsdt, 8);
	put_port(w, PORT_PM, 32);
	put_zeroes(w, 12);
	put_port(w, PORT_PM + 4, 16);
	put_zeroes(w, 24);
	put_port(w, PORT_PM + 8, 32);
	put_zeroes(w, 4 * 12);
	put(w, "SLUICE\0\0", 8); /* hypervisor vendor */
	return table_end(w, at);
}

static void interrupt_override(struct writer *w, unsigned int irq, unsigned int gsi, unsigned int flags)
{
	put_int(w, 2, 1);
	put_int(w, 10, 1);
	put_int(w, 0, 1); /* ISA */
	put_int(w, irq, 1);
	put_int(w, gsi, 4);
	put_int(w, flags, 2);
}

static uint64_t build_madt(struct writer *w, const struct acpi_config *cfg)
{
	size_t at = table_begin(w, "APIC", 5);

	put_int(w, LAYOUT_LAPIC, 4);
	put_int(w, 1, 4); /* there are the two old controllers, too */
	for (unsigned int i = 0; i < cfg->cpus; i++) {
		put_int(w, 0, 1);
		put_int(w, 8, 1);
		put_int(w, i, 1);
		put_int(w, i, 1);
		put_int(w, 1, 4); /* enabled */
	}
	put_int(w, 1, 1);
	put_int(w, 12, 1);
	put_int(w, 0, 2);
	put_int(w, LAYOUT_IOAPIC, 4);
	put_int(w, 0, 4);
	interrupt_override(w, 0, 2, 0);
	interrupt_override(w, GSI_SCI, GSI_SCI, 0x0d); /* level, active high */
	put_int(w, 4, 1); /* NMI at LINT1 of all */
	put_int(w, 6, 1);
	put_int(w, 0xff, 1);
	put_int(w, 0, 2);
	put_int(w, 1, 1);
	return table_end(w, at);
}

static uint64_t build_mcfg(struct writer *w)
{
	size_t at = table_begin(w, "MCFG", 1);

	put_zeroes(w, 8);
	put_int(w, LAYOUT_ECAM, 8);
	put_zeroes(w, 2 + 1 + 1 + 4); /* segment 0, from bus 0 to bus 0 */
	return table_end(w, at);
}

#define RSDP_SIZE 36

static void fill_rsdp(struct writer *w, uint64_t xsdt)
{
	struct writer r = {.buf = w->buf, .size = w->size, .gpa = w->gpa};

	put(&r, "RSD PTR ", 8);
	put_int(&r, 0, 1);
	put(&r, "SLUICE", 6);
	put_int(&r, 2, 1);
	put_int(&r, 0, 4);
	put_int(&r, RSDP_SIZE, 4);
	put_int(&r, xsdt, 8);
	put_zeroes(&r, 4);
	patch(w, 8, checksum(w, 0, 20), 1);
	patch(w, 32, checksum(w, 0, RSDP_SIZE), 1);
}

int acpi_build(const struct acpi_config *cfg, uint64_t gpa, void *buf, size_t size)
{
	struct writer w = {.buf = buf, .size = size, .at = RSDP_SIZE, .gpa = gpa};
	uint64_t tables[3], facs = build_facs(&w), xsdt;
	size_t at;

	tables[0] = build_fadt(&w, facs, build_dsdt(&w, cfg));
	tables[1] = build_madt(&w, cfg);
	tables[2] = build_mcfg(&w);
	at = table_begin(&w, "XSDT", 1);
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		put_int(&w, tables[i], 8);
	xsdt = table_end(&w, at);
	if (w.at > size)
		return -ENOSPC;
	fill_rsdp(&w, xsdt);
	return (int)w.at;
}
