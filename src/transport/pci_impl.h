/* SPDX-License-Identifier: MIT */
/* pci_impl.h - what pci.c and pci_interrupt.c know of each other */
#ifndef TRANSPORT_PCI_IMPL_H
#define TRANSPORT_PCI_IMPL_H

#include "transport/pci.h"
#include "transport/regs.h"

enum {
	PCI_COMMON_SIZE = 0x40, /* ends with the administration queues, of which there are none */
	PCI_MSIX_MAX = 2048,
	PCI_ENTRY_SIZE = 16, /* of the MSI-X table */
};

/** struct vector - control loop; @fd: for calls, or -1; @live: see pci_interrupt.c */
struct vector {
	int fd;
	bool live;
};

/**
 * struct pci
 * @common, @config: images
 * @config_len:      of @config, a multiple of 4
 * @msix_cap, @pci_cap: where these capabilities are
 *
 * Under @irq_lock (and changed by the control loop only, but for @isr, @reason, @level and @pending):
 * @isr, @reason, @level: interrupt status, whether it is a reason for INTx, and the level of INTx
 * @msix_on, @masked, @no_intx: from configuration space
 * @table:           MSI-X table, an image
 * @pending:         MSI-X pending bits, an image
 * @config_vector:   of the configuration
 */
struct pci {
	struct pci_function f;
	struct regs regs;
	struct pci_env env;
	unsigned int num_vectors, msix_cap, pci_cap;
	uint32_t common[PCI_COMMON_SIZE / 4];
	uint32_t *config, config_len, generation;
	struct vector *vectors;

	pthread_mutex_t irq_lock;
	uint32_t isr;
	bool reason, level, msix_on, masked, no_intx;
	uint32_t *table;
	uint32_t pending[PCI_MSIX_MAX / 32];
	uint16_t config_vector;
};

/* any thread */
uint32_t pci_read_isr(struct pci *t);
/* data; regs_ops.call */
void pci_queue_call(void *t, unsigned int index);

/* control */
int pci_call_fd(void *t, unsigned int index);
void pci_config_changed(void *t);
/* the device is reset: no vectors are chosen, nothing is pending */
void pci_reset_interrupts(void *t);
/* a vector that is not there is answered with none */
void pci_choose_config_vector(struct pci *t, uint16_t v);
void pci_choose_queue_vector(struct pci *t, uint16_t v);
/* bytes of the MSI-X table; those beyond its end are dropped */
void pci_write_table(struct pci *t, uint32_t off, unsigned int width, uint64_t value);
/* the table is as after power-on: every entry masked */
void pci_clear_table(struct pci *t);
/* configuration space switched something on or off */
void pci_interrupt_switches(struct pci *t, bool msix_on, bool masked, bool no_intx);

#endif
