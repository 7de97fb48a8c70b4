/* SPDX-License-Identifier: MIT */
/* machine.c - serial port, interrupts, page tables and the way out of the bare-metal program; what C itself needs.
 *
 * Built without SSE, so nothing has to be saved but general registers. One
 * processor, everything mapped one to one.
 */
#include "bare.h"

#include <string.h>

enum {
	PORT_SERIAL = 0x3f8,
	PORT_SERIAL_STATUS = 0x3fd,
	SERIAL_EMPTY = 0x20,
	PORT_PIC1_MASK = 0x21,
	PORT_PIC2_MASK = 0xa1,
	PORT_KEYBOARD = 0x64,
	KEYBOARD_RESET = 0xfe,
	PORT_DEBUG_EXIT = 0xf4,
	PORT_ACPI_CONTROL = 0x604, /* of our engine; its S5 has the number 0 */
	ACPI_SLEEP = 0x2000,
};

/* ---- what compilers expect of every C environment ---- */

void *memset(void *dst, int value, size_t n)
{
	unsigned char *d = dst;

	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(value) : "memory");
	return dst;
}

void *memcpy(void *restrict dst, const void *restrict src, size_t n)
{
	unsigned char *d = dst;

	__asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n) : : "memory");
	return dst;
}

/* ---- output ---- */

static void put_char(char c)
{
	for (unsigned int i = 0; i < 100000 && !(in8(PORT_SERIAL_STATUS) & SERIAL_EMPTY); i++)
		__builtin_ia32_pause();
	out8(PORT_SERIAL, (uint8_t)c);
}

void put(const char *text)
{
	for (; *text; text++) {
		if (*text == '\n')
			put_char('\r');
		put_char(*text);
	}
}

void put_number(uint64_t n)
{
	if (n >= 10)
		put_number(n / 10);
	put_char((char)('0' + n % 10));
}

void put_hex(uint64_t n)
{
	if (n >= 16)
		put_hex(n / 16);
	put_char("0123456789abcdef"[n % 16]);
}

void leave(uint32_t code)
{
	out32(PORT_DEBUG_EXIT, code);
	if (code == EXIT_GOOD)
		out16(PORT_ACPI_CONTROL, ACPI_SLEEP);
	out8(PORT_KEYBOARD, KEYBOARD_RESET);
	for (;;)
		__asm__ volatile("cli; hlt");
}

/* ---- pages ---- */

#define PAGE_PRESENT_WRITE_LARGE 0x83
#define CPUID_EXTENDED 0x80000001u
#define CPUID_GIANT_PAGES (1u << 26) /* edx */

extern uint64_t pdpt[512];

#define PAGE_PRESENT_WRITE 3
#define GIANT_SHIFT 30
#define LARGE_SHIFT 21

uint64_t map_high(void)
{
	static uint64_t tables[4][512] __attribute__((aligned(4096)));
	uint32_t a = CPUID_EXTENDED, b, c, d;
	uint64_t i = 4;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
	for (; d & CPUID_GIANT_PAGES && i < 512; i++)
		pdpt[i] = i << GIANT_SHIFT | PAGE_PRESENT_WRITE_LARGE;
	for (; i < 8; i++) {
		for (uint64_t k = 0; k < 512; k++)
			tables[i - 4][k] = i << GIANT_SHIFT | k << LARGE_SHIFT | PAGE_PRESENT_WRITE_LARGE;
		pdpt[i] = (uint64_t)(uintptr_t)tables[i - 4] | PAGE_PRESENT_WRITE;
	}
	return i << GIANT_SHIFT;
}

/* ---- interrupts ---- */

enum { /* local controller, from its base */
	LAPIC_ID = 0x20,
	LAPIC_EOI = 0xb0,
	LAPIC_SPURIOUS = 0xf0,
	LAPIC_ENABLE = 0x100,
	VECTOR_SPURIOUS = 0xff,
};
#define LAPIC_BASE 0xfee00000u
#define IOAPIC_BASE 0xfec00000u	 /* lines 0 to 23 */
#define IOAPIC2_BASE 0xfec10000u /* lines 24 to 47, where there are two */
#define IOAPIC_LINES 24

struct gate {
	uint16_t offset0, selector;
	uint8_t stack, type;
	uint16_t offset16;
	uint32_t offset32, zero;
};

struct __attribute__((packed)) table_pointer {
	uint16_t limit;
	uint64_t base;
};

/* start.S */
void enter_device(void);
void enter_spurious(void);
void enter_fault(void);
/* called from there */
void device_interrupt(void);
_Noreturn void fault(const uint64_t *pushed);

static struct gate gates[256];
static void (*on_interrupt)(void);
static volatile uint64_t seen;

static volatile uint32_t *word(uintptr_t address)
{
	return (volatile uint32_t *)address;
}

void device_interrupt(void)
{
	seen++;
	if (on_interrupt)
		on_interrupt();
	*word(LAPIC_BASE + LAPIC_EOI) = 0;
}

void fault(const uint64_t *pushed)
{
	uint64_t address;

	__asm__ volatile("mov %%cr2, %0" : "=r"(address));
	put("bare: exception; cr2 0x");
	put_hex(address);
	for (unsigned int i = 0; i < 4; i++) { /* with an error code or without: rip is the first or the second */
		put(" 0x");
		put_hex(pushed[i]);
	}
	put("\n");
	leave(EXIT_BAD);
}

static void set_gate(unsigned int vector, void (*handler)(void))
{
	uint64_t at = (uint64_t)(uintptr_t)handler;

	gates[vector] = (struct gate){
		.offset0 = (uint16_t)at,
		.selector = 8,
		.type = 0x8e, /* present, interrupt gate */
		.offset16 = (uint16_t)(at >> 16),
		.offset32 = (uint32_t)(at >> 32),
	};
}

void interrupts_init(void (*handler)(void))
{
	struct table_pointer p = {sizeof(gates) - 1, (uint64_t)(uintptr_t)gates};

	on_interrupt = handler;
	for (unsigned int v = 0; v < 32; v++)
		set_gate(v, enter_fault);
	for (unsigned int v = 32; v < 256; v++)
		set_gate(v, enter_spurious);
	set_gate(VECTOR_QUEUE, enter_device);
	set_gate(VECTOR_CONFIG, enter_device);
	__asm__ volatile("lidt %0" : : "m"(p));
	out8(PORT_PIC1_MASK, 0xff);
	out8(PORT_PIC2_MASK, 0xff);
	*word(LAPIC_BASE + LAPIC_SPURIOUS) = LAPIC_ENABLE | VECTOR_SPURIOUS;
}

void interrupts_line(unsigned int gsi)
{
	uintptr_t base = gsi < IOAPIC_LINES ? IOAPIC_BASE : IOAPIC2_BASE;
	uint32_t entry = 0x10 + 2 * (gsi % IOAPIC_LINES), id = *word(LAPIC_BASE + LAPIC_ID) & 0xff000000u;

	*word(base) = entry + 1;
	*word(base + 0x10) = id;
	*word(base) = entry;
	*word(base + 0x10) = VECTOR_QUEUE; /* fixed, edge, active high, not masked */
}

uint64_t interrupts_seen(void)
{
	return seen;
}
