/* SPDX-License-Identifier: MIT */
/* pci_bus.h - one PCI bus: configuration by ports and by ECAM, base address registers and who answers at an address.
 *
 * Bus 0 with 32 devices of one function each; 0:0.0 is a host bridge of its
 * own. A function that is not there reads as all ones.
 *
 * A base address register (BAR) decodes when its function's command register
 * says so and its address lies wholly inside a window of the bus and on no
 * BAR of a lower device or number that decodes. Otherwise nothing answers
 * there, however the driver came to that address; the register keeps what was
 * written, so sizing works as ever.
 *
 * Threads: the accesses of the guest come from any thread; what a write to
 * configuration space does is done on the control loop. The rest belongs to
 * the control loop.
 */
#ifndef TRANSPORT_PCI_BUS_H
#define TRANSPORT_PCI_BUS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>
#include <sluice/loop.h>

#define PCI_DEVICES 32
#define PCI_BARS 6
#define PCI_CONFIG_SIZE 256
#define PCI_ECAM_SIZE (1u << 20) /* of one bus: 4096 bytes a function */
#define PCI_PORT_ADDRESS 0xcf8	 /* 4 bytes */
#define PCI_PORT_DATA 0xcfc	 /* 4 bytes */

enum pci_space { PCI_IO, PCI_MEMORY };

/** enum pci_bar_kind - PCI_BAR_64 takes the next register too */
enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_32, PCI_BAR_64 };

struct pci_bus;
struct pci_function;

/**
 * struct pci_function_ops - a kind of function
 * @bar_read:       any thread; inside BAR @bar, at most 8 bytes from @off; @off + @width is inside it
 * @bar_write:      any thread; false when the processor should wait for @wait before it goes on
 * @wait:           any thread but the control loop's; false after @timeout_ms. Optional
 * @config_read:    control; a read of configuration touches byte @live to @live + 3: bring them up to date. Optional
 * @config_written: control; these bytes were written. Optional
 * @reset:          control; configuration is back to its initial state. Optional
 */
struct pci_function_ops {
	uint64_t (*bar_read)(struct pci_function *f, unsigned int bar, uint64_t off, unsigned int width);
	bool (*bar_write)(struct pci_function *f, unsigned int bar, uint64_t off, unsigned int width, uint64_t value);
	bool (*wait)(struct pci_function *f, unsigned int timeout_ms);
	void (*config_read)(struct pci_function *f);
	void (*config_written)(struct pci_function *f, unsigned int reg, unsigned int len);
	void (*reset)(struct pci_function *f);
};

/**
 * struct pci_bar
 * @size:     bytes, a power of two; memory at least 4096, I/O 4 to 256
 * @address:  where it decodes, when @decoded
 */
struct pci_bar {
	enum pci_bar_kind kind;
	uint64_t size;
	uint64_t address;
	bool decoded;
};

/**
 * struct pci_function - the start of every function's own struct
 * @config:   configuration space, little-endian; BAR registers are the bus's
 * @writable: bits of @config that a driver may write
 * @initial:  @config as it was when the function was added, for a reset
 * @live:     first of four bytes that are looked up when they are read; 0: none
 * @bar:      filled by the owner (@kind, @size) before pci_bus_add()
 */
struct pci_function {
	const struct pci_function_ops *ops;
	struct pci_bus *bus;
	unsigned int device, live;
	uint8_t config[PCI_CONFIG_SIZE], writable[PCI_CONFIG_SIZE], initial[PCI_CONFIG_SIZE];
	struct pci_bar bar[PCI_BARS];
};

/** struct pci_window - addresses that the bus claims; @size 0: none */
struct pci_window {
	uint64_t first, size;
};

/**
 * struct pci_bus_env - what surrounds the bus
 * @control: the loop on which configuration is written
 * @decode:  control; BAR @bar of @f answers at @address from now on, or (@on false) does not any more: the place to
 *           connect and disconnect ioeventfds. Optional
 * @io, @mem32, @mem64: windows; BARs are assigned from their front in the order of pci_bus_add()
 */
struct pci_bus_env {
	void *arg;
	struct sl_loop *control;
	void (*decode)(void *arg, struct pci_function *f, unsigned int bar, uint64_t address, bool on);
	struct pci_window io, mem32, mem64;
};

/**
 * struct pci_bus
 * @lock:    protects the configuration bytes of all functions, their decoding and @address
 * @address: the register at PCI_PORT_ADDRESS
 * @used:    bytes given out of env's windows
 */
struct pci_bus {
	struct pci_bus_env env;
	pthread_mutex_t lock;
	uint32_t address;
	uint64_t io_used, mem32_used, mem64_used;
	struct pci_function bridge;
	struct pci_function *functions[PCI_DEVICES];
};

/** pci_bus_init() - a bus with nothing but its host bridge */
void pci_bus_init(struct pci_bus *b, const struct pci_bus_env *env);
/** pci_bus_destroy() - nobody calls any more; functions stay their owners' */
void pci_bus_destroy(struct pci_bus *b);
/**
 * pci_bus_add() - put @f on the bus and assign its BARs
 * @device: 1 to 31
 * @line:   what the Interrupt Line register says
 *
 * Decoding is off until the driver's command register switches it on.
 * Return: 0 or -errno with @err filled. Before the guest runs.
 */
int pci_bus_add(struct pci_bus *b, struct pci_function *f, unsigned int device, uint8_t line, struct sl_err *err);
/** pci_bus_reset() - every function's configuration is as it was after pci_bus_add() */
void pci_bus_reset(struct pci_bus *b);

/** pci_bus_config_read() - @reg 0 to 4095; @width 1, 2 or 4; of a function that is there, bytes from 256 on are 0 */
uint32_t pci_bus_config_read(struct pci_bus *b, unsigned int device, unsigned int reg, unsigned int width);
void pci_bus_config_write(struct pci_bus *b, unsigned int device, unsigned int reg, unsigned int width, uint32_t value);
/** pci_bus_port_read() - of the 8 ports from PCI_PORT_ADDRESS */
uint32_t pci_bus_port_read(struct pci_bus *b, uint16_t port, unsigned int width);
void pci_bus_port_write(struct pci_bus *b, uint16_t port, unsigned int width, uint32_t value);
/** pci_bus_ecam_read() - @off from the start of bus 0's ECAM area; @width up to 8 */
uint64_t pci_bus_ecam_read(struct pci_bus *b, uint64_t off, unsigned int width);
void pci_bus_ecam_write(struct pci_bus *b, uint64_t off, unsigned int width, uint64_t value);

/** pci_bus_read() - a guest read; false when no BAR answers there (*@value is all ones then) */
bool pci_bus_read(struct pci_bus *b, enum pci_space space, uint64_t address, unsigned int width, uint64_t *value);
/**
 * pci_bus_write() - a guest write; false when no BAR answers there
 *
 * *@wait is set to a function whose wait() the processor should call before it
 * goes on, or NULL (see struct pci_function_ops).
 */
bool pci_bus_write(struct pci_bus *b, enum pci_space space, uint64_t address, unsigned int width, uint64_t value,
		   struct pci_function **wait);

/* ---- for functions ---- */

/** pci_bus_interrupt() - any thread; the Interrupt Status bit, which shows INTx even while it is switched off */
void pci_bus_interrupt(struct pci_function *f, bool on);

/** pci_config_set() - little-endian bytes of configuration */
void pci_config_set(struct pci_function *f, unsigned int reg, unsigned int width, uint64_t value);
uint64_t pci_config_get(const struct pci_function *f, unsigned int reg, unsigned int width);

#endif
