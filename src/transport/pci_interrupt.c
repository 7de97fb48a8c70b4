/* SPDX-License-Identifier: MIT */
/* pci_interrupt.c - interrupts of a virtio-pci function: ISR and INTx, or MSI-X (PCI local bus 3.0, 6.8.2).
 *
 * Theory of operation: a vector is live while MSI-X is on, the function is
 * not masked and neither is its entry. The queues of a live vector call by the
 * descriptor that the engine gave for it, if it gave one; everything else
 * ends up in raise_vector(), on the caller's thread, which sends the message,
 * sets the pending bit or raises INTx, as the registers say at that moment.
 *
 * The registers change on the control loop only, under @irq_lock. After a
 * change first the descriptors are sorted out, then what is pending is sent:
 * a call that falls in between is sent or left pending by raise_vector(), and
 * an event that arrives twice does no harm.
 */
#include "transport/pci_impl.h"

enum { ENTRY_MASKED = 1 };
enum { ISR_QUEUES = 1, ISR_CONFIG = 2 };

/* ---- interrupts: any thread ---- */

static void set_level(struct pci *t)
{
	bool reason = t->isr && !t->msix_on, level = reason && !t->no_intx;

	if (reason != t->reason)
		pci_bus_interrupt(&t->f, reason);
	t->reason = reason;
	if (level == t->level)
		return;
	t->level = level;
	t->env.irq(t->env.arg, level);
}

static bool is_live(const struct pci *t, unsigned int v)
{
	return t->msix_on && !t->masked && !(t->table[v * 4 + 3] & ENTRY_MASKED);
}

static void send_message(struct pci *t, unsigned int v)
{
	t->env.msi(t->env.arg, t->table[v * 4] | (uint64_t)t->table[v * 4 + 1] << 32, t->table[v * 4 + 2]);
}

static void set_pending(struct pci *t, unsigned int v, bool on)
{
	uint32_t bit = 1u << v % 32, now = t->pending[v / 32];

	__atomic_store_n(&t->pending[v / 32], on ? now | bit : now & ~bit, __ATOMIC_RELAXED);
}

static void raise_vector(struct pci *t, unsigned int v, uint32_t isr)
{
	pthread_mutex_lock(&t->irq_lock);
	if (!t->msix_on) {
		t->isr |= isr;
		set_level(t);
	} else if (v < t->num_vectors) {
		if (is_live(t, v))
			send_message(t, v);
		else
			set_pending(t, v, true);
	}
	pthread_mutex_unlock(&t->irq_lock);
}

uint32_t pci_read_isr(struct pci *t)
{
	uint32_t isr;

	pthread_mutex_lock(&t->irq_lock);
	isr = t->isr;
	t->isr = 0;
	set_level(t);
	pthread_mutex_unlock(&t->irq_lock);
	return isr;
}

/* ---- interrupts: what the device tells, and changes of vectors on the control loop ---- */

void pci_queue_call(void *arg, unsigned int index)
{
	struct pci *t = arg;

	raise_vector(t, __atomic_load_n(&t->regs.queues[index].vector, __ATOMIC_RELAXED), ISR_QUEUES);
}

void pci_config_changed(void *arg)
{
	struct pci *t = arg;

	raise_vector(t, t->config_vector, ISR_CONFIG);
}

int pci_call_fd(void *arg, unsigned int index)
{
	struct pci *t = arg;
	uint16_t v = t->regs.queues[index].vector;

	return v < t->num_vectors ? t->vectors[v].fd : -1;
}

static void set_calls(struct pci *t, unsigned int first, unsigned int n)
{
	for (unsigned int i = 0; i < sl_device_num_queues(t->regs.device); i++) {
		uint16_t v = t->regs.queues[i].vector;

		if (v >= first && v < first + n)
			sl_queue_set_call(t->regs.device, i, pci_call_fd(t, i));
	}
}

/* Vectors @first to @first + @n may have got live, or no longer are, or have another message. */
static void vectors_changed(struct pci *t, unsigned int first, unsigned int n)
{
	const struct pci_env *e = &t->env;

	for (unsigned int v = first; v < first + n; v++)
		t->vectors[v].fd = is_live(t, v) && e->vector_on
					   ? e->vector_on(e->arg, v,
							  t->table[v * 4] | (uint64_t)t->table[v * 4 + 1] << 32,
							  t->table[v * 4 + 2])
					   : -1;
	set_calls(t, first, n);
	for (unsigned int v = first; v < first + n; v++) {
		bool was = t->vectors[v].live, now = is_live(t, v);

		t->vectors[v].live = now;
		if (was && !now && e->vector_off)
			e->vector_off(e->arg, v); /* by now nobody uses the descriptor */
		pthread_mutex_lock(&t->irq_lock);
		if (now && t->pending[v / 32] >> v % 32 & 1) {
			set_pending(t, v, false);
			send_message(t, v);
		}
		pthread_mutex_unlock(&t->irq_lock);
	}
}

void pci_write_table(struct pci *t, uint32_t off, unsigned int width, uint64_t value)
{
	uint32_t end = t->num_vectors * PCI_ENTRY_SIZE, first = off / PCI_ENTRY_SIZE, last = (off + width - 1) / PCI_ENTRY_SIZE;

	if (off >= end || width > end - off)
		return;
	pthread_mutex_lock(&t->irq_lock);
	for (unsigned int i = 0; i < width; i++) {
		uint32_t *word = &t->table[(off + i) / 4], shift = (off + i) % 4 * 8, now;

		now = (*word & ~(0xffu << shift)) | (uint32_t)(value >> 8 * i & 0xff) << shift;
		switch ((off + i) % PCI_ENTRY_SIZE / 4) {
		case 0:
			now &= ~3u;
			break;
		case 3:
			now &= ENTRY_MASKED;
			break;
		}
		__atomic_store_n(word, now, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&t->irq_lock);
	vectors_changed(t, first, last - first + 1);
}

/* The driver's choice of a vector; one that is not there is answered with none. */
static uint16_t checked_vector(const struct pci *t, uint16_t v)
{
	return v < t->num_vectors ? v : REGS_NO_VECTOR;
}

void pci_choose_config_vector(struct pci *t, uint16_t v)
{
	pthread_mutex_lock(&t->irq_lock);
	t->config_vector = checked_vector(t, v);
	pthread_mutex_unlock(&t->irq_lock);
}

void pci_choose_queue_vector(struct pci *t, uint16_t v)
{
	struct regs_queue *q = regs_queue(&t->regs);

	if (!q)
		return;
	__atomic_store_n(&q->vector, checked_vector(t, v), __ATOMIC_RELAXED);
	sl_queue_set_call(t->regs.device, t->regs.queue_sel, pci_call_fd(t, t->regs.queue_sel));
}

void pci_reset_interrupts(void *arg)
{
	struct pci *t = arg;

	pthread_mutex_lock(&t->irq_lock);
	t->isr = 0;
	t->config_vector = REGS_NO_VECTOR;
	for (unsigned int v = 0; v < t->num_vectors; v++)
		set_pending(t, v, false);
	set_level(t);
	pthread_mutex_unlock(&t->irq_lock);
}

void pci_clear_table(struct pci *t)
{
	pthread_mutex_lock(&t->irq_lock);
	for (unsigned int v = 0; v < t->num_vectors; v++) {
		for (unsigned int i = 0; i < 3; i++)
			image_set(t->table, v * PCI_ENTRY_SIZE + 4 * i, 0);
		image_set(t->table, v * PCI_ENTRY_SIZE + 12, ENTRY_MASKED);
		set_pending(t, v, false);
	}
	pthread_mutex_unlock(&t->irq_lock);
	vectors_changed(t, 0, t->num_vectors);
}

void pci_interrupt_switches(struct pci *t, bool msix_on, bool masked, bool no_intx)
{
	bool changed = msix_on != t->msix_on || masked != t->masked;

	pthread_mutex_lock(&t->irq_lock);
	t->msix_on = msix_on;
	t->masked = masked;
	t->no_intx = no_intx;
	set_level(t);
	pthread_mutex_unlock(&t->irq_lock);
	if (changed)
		vectors_changed(t, 0, t->num_vectors);
}
