/* SPDX-License-Identifier: MIT */
/* bare.h - the little there is of a machine below the bare-metal program: serial port, interrupts, the way out */
#ifndef GUEST_BARE_H
#define GUEST_BARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** struct start_info - what a PVH loader hands over (Xen's hvm_start_info); addresses are physical */
struct start_info {
	uint32_t magic, version, flags, num_modules;
	uint64_t modules, command_line, rsdp, memory_map;
	uint32_t memory_map_entries, reserved;
};
#define START_INFO_MAGIC 0x336ec578

enum { EXIT_GOOD = 0x10, EXIT_BAD = 0x11 }; /* by isa-debug-exit the process ends with 2 * code + 1 */

static inline void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out16(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint64_t cycles(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return low | (uint64_t)high << 32;
}

/** put() - text on the serial port */
void put(const char *text);
void put_number(uint64_t n);
void put_hex(uint64_t n);
/**
 * leave() - end the program
 *
 * By isa-debug-exit where there is one. Else, as under our own engine, EXIT_GOOD switches the machine off and
 * anything else resets it.
 */
_Noreturn void leave(uint32_t code);
/** map_high() - one to one above 4 GiB, up to what it answers: 512 GiB where the processor has pages of 1 GiB, else 8 */
uint64_t map_high(void);

/** inspect_cpuid() - print all leaves */
bool inspect_cpuid(void);
/** inspect_memory() - write and read back some of all memory from 1 MiB to @end; false when it is not what was written */
bool inspect_memory(const struct start_info *si, uint64_t end);

#define VECTOR_QUEUE 0x41
#define VECTOR_CONFIG 0x40
#define MESSAGE_ADDRESS 0xfee00000u

/**
 * interrupts_init() - tables, local interrupt controller; the legacy controllers are masked
 * @handler: called with interrupts off for each device interrupt, or NULL
 */
void interrupts_init(void (*handler)(void));
/** interrupts_line() - line @gsi of the I/O interrupt controllers, edge triggered, becomes VECTOR_QUEUE */
void interrupts_line(unsigned int gsi);
/** interrupts_seen() - how many device interrupts there were */
uint64_t interrupts_seen(void);
/** interrupts_off() - and on again while halted until one comes, for interrupts_wait() */
static inline void interrupts_off(void)
{
	__asm__ volatile("cli" : : : "memory");
}

/** interrupts_wait() - sleep until an interrupt; none is lost between interrupts_off() and this. Off again afterwards */
void interrupts_wait(void);

#endif
