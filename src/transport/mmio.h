/* SPDX-License-Identifier: MIT */
/* mmio.h - virtio over MMIO (virtio 1.4, 4.2), version 2 and, when asked for, the legacy version 1.
 *
 * A pure register state machine: it knows nothing of a bus, of KVM or of an
 * interrupt controller. Whoever has those calls mmio_read() and mmio_write()
 * for guest accesses at any offset and of any width, and gives the callbacks.
 *
 * Reading a register has no side effect in this transport, so all that a
 * read can see is kept in one page, mmio_page(): an engine may map that page
 * read-only into the guest (KVM_MEM_READONLY), and then no read leaves the
 * guest; writes still arrive here, or at an ioeventfd.
 *
 * Threads: mmio_read(), mmio_write() and mmio_wait() may be called from any
 * thread; what a write does, it does on the device's control loop (which runs
 * by then), except for notifications and acknowledgements, which are done in
 * place. Everything else here is for the control loop's thread.
 */
#ifndef TRANSPORT_MMIO_H
#define TRANSPORT_MMIO_H

#include <sluice/virtio.h>

#define MMIO_SIZE 4096	     /* bytes of guest address space that a transport takes */
#define MMIO_QUEUE_NOTIFY 0x50	     /* where a 4-byte ioeventfd with datamatch = queue index belongs */
#define MMIO_INTERRUPT_ACK 0x64 /* see struct mmio_env, @irq_fd */
#define MMIO_ACK_QUEUES 1

struct mmio;

/**
 * struct mmio_env - what surrounds the transport
 * @arg:     for @irq
 * @irq:     any thread; the level of the interrupt line. Not used with @irq_fd
 * @irq_fd:  -1, or an eventfd that an irqfd turns into an edge on the interrupt line. The queues then signal it
 *           themselves, from wherever they run; nobody is there to set a bit of InterruptStatus, so it always shows
 *           the bit of the queues. An acknowledgement of that bit alone (4 bytes, MMIO_ACK_QUEUES) then means nothing
 *           and may be swallowed by an ioeventfd. Stays the caller's
 * @kick_fds: NULL, or an eventfd for each queue, signalled by ioeventfds. NOTIFICATION_DATA, whose words no
 *           datamatch can know, is not offered then. They stay the caller's
 * @legacy:  version 1
 */
struct mmio_env {
	void *arg;
	void (*irq)(void *arg, bool level);
	int irq_fd;
	const int *kick_fds;
	bool legacy;
};

/** mmio_new() - become the transport of @device; NULL with @err filled */
struct mmio *mmio_new(struct sl_device *device, const struct mmio_env *env, struct sl_err *err);
/** mmio_free() - leave the device, which mmio_reset() has stopped; NULL allowed */
void mmio_free(struct mmio *t);
/** mmio_set_mem() - guest memory from now on, also for queues that run; takes its own count */
void mmio_set_mem(struct mmio *t, struct sl_mem *mem);
/**
 * mmio_reset() - reset transport and device, as the driver can by writing 0 to Status
 * @done: NULL, or called on the control loop when all requests in flight are done, perhaps before this returns
 */
void mmio_reset(struct mmio *t, void (*done)(void *arg), void *arg);

/** mmio_read() - a guest read of @width (1, 2, 4, 8) bytes; beyond the end zeroes are read */
uint64_t mmio_read(const struct mmio *t, uint64_t off, unsigned int width);
/**
 * mmio_write() - a guest write
 *
 * Return: true, or false when the device still has to finish requests before
 * what was asked for (reset, queue reset, queue not ready) is done. The
 * registers show it, but not all drivers look: the processor that wrote
 * should wait for mmio_wait() before it goes on.
 */
bool mmio_write(struct mmio *t, uint64_t off, unsigned int width, uint64_t value);
/** mmio_wait() - wait until no reset or stop is under way; not on the control loop; false after @timeout_ms */
bool mmio_wait(struct mmio *t, unsigned int timeout_ms);
/** mmio_page() - MMIO_SIZE bytes, aligned to 4096: what reads give; changed in place */
const void *mmio_page(const struct mmio *t);

#endif
