/* SPDX-License-Identifier: MIT */
/* regs.h - what the register transports (mmio, pci, both with their legacy forms) have in common.
 *
 * The registers of all of them are one state machine: feature words, a
 * status, a selected queue with a size and three addresses that are let go at
 * once. A transport decodes offsets and widths and owns its interrupts.
 *
 * All functions are for the control loop but regs_wait() and the images.
 */
#ifndef TRANSPORT_REGS_H
#define TRANSPORT_REGS_H

#include <pthread.h>

#include <sluice/virtio.h>

#define REGS_NO_VECTOR 0xffff

/**
 * struct regs_queue
 * @num:       size; 0: the driver asked for one that is not allowed
 * @page:      legacy: page number of the ring
 * @enabled:   the driver said that it is ready; nothing above changes while it is
 * @stopping:  the device was asked to stop it
 * @resetting: by a queue reset
 * @vector:    pci: MSI-X vector; changed by the control loop, read by data loops
 */
struct regs_queue {
	uint16_t num;
	uint32_t page;
	uint64_t desc, driver, device;
	bool enabled, stopping, resetting;
	uint16_t vector;
};

/**
 * struct regs_ops - the transport
 * @call:           data; the driver is to be called for this queue, which has no call descriptor
 * @call_fd:        control; descriptor for the queue's calls, or -1
 * @config_changed: control; tell the driver
 * @changed:        control; registers read differently from now on
 * @reset:          control; the device is reset: so are the interrupts
 */
struct regs_ops {
	void (*call)(void *t, unsigned int index);
	int (*call_fd)(void *t, unsigned int index);
	void (*config_changed)(void *t);
	void (*changed)(void *t);
	void (*reset)(void *t);
};

/**
 * struct regs
 * @own:        features of the transport, which the device never hears of
 * @offered:    what the driver sees: the device's and @own, without those that the transport cannot serve
 * @wanted:     what the driver wrote so far
 * @beyond:     it wrote a bit that no feature has
 * @page_size, @align: legacy; a reset leaves the page size alone
 * @resetting:  nothing but notifications is taken until the device is reset
 * @pending:    resets and queue stops under way; changed on the control loop under @lock
 */
struct regs {
	struct sl_device *device;
	struct sl_mem *mem;
	const struct regs_ops *ops;
	void *t;
	const int *kick_fds;
	uint16_t initial_num;

	struct sl_features own, offered, wanted;
	bool beyond, resetting;
	uint32_t device_sel, driver_sel, queue_sel;
	uint32_t page_size, align;
	struct regs_queue *queues;

	void (*reset_done)(void *arg);
	void *reset_arg;

	pthread_mutex_t lock;
	pthread_cond_t settled;
	unsigned int pending;
};

/** regs_init() - @initial_num: size of a queue that the driver did not size; 0 or -ENOMEM with @err filled */
int regs_init(struct regs *r, struct sl_device *device, const struct regs_ops *ops, void *t, const int *kick_fds,
	      uint16_t initial_num, struct sl_err *err);
/** regs_destroy() - the device is stopped */
void regs_destroy(struct regs *r);
void regs_set_mem(struct regs *r, struct sl_mem *mem);
/** regs_reset() - @done: NULL, or called when it is complete */
void regs_reset(struct regs *r, void (*done)(void *arg), void *arg);
/** regs_wait() - any thread but the control loop's; false after @timeout_ms */
bool regs_wait(struct regs *r, unsigned int timeout_ms);

/** regs_queue() - the selected queue, or NULL: the one place that checks the driver's choice */
struct regs_queue *regs_queue(const struct regs *r);
/** regs_queue_max() - largest size of the selected queue; 0: there is no such queue */
uint16_t regs_queue_max(const struct regs *r);

/** regs_status_write() - @legacy: without FEATURES_OK, through legacy registers */
void regs_status_write(struct regs *r, uint8_t status, bool legacy);
void regs_driver_features(struct regs *r, uint32_t word);
/** regs_size() - size of the selected queue; a size that is not allowed is not taken: 0 or -EINVAL */
int regs_size(struct regs *r, uint32_t num);
/** regs_address() - @half 0 or 1 of one of the selected queue's addresses, @which is &q->desc and so on */
void regs_address(struct regs *r, uint64_t *which, unsigned int half, uint32_t value);
void regs_enable(struct regs *r);
/** regs_disable() - stop the selected queue; @reset: with all it was set up with (queue reset) */
void regs_disable(struct regs *r, bool reset);
/** regs_legacy_page() - legacy: where the selected queue's ring is; 0 stops it */
void regs_legacy_page(struct regs *r, uint32_t page, uint32_t page_size, uint32_t align);

/* ---- images: what reads give, written by the control loop, read by any thread ---- */

/** image_set() - @off and the size of what is there are multiples of 4 */
static inline void image_set(uint32_t *image, unsigned int off, uint32_t value)
{
	__atomic_store_n(&image[off / 4], value, __ATOMIC_RELAXED);
}

/** image_get() - @width (at most 8) little-endian bytes at @off; those from @size on are 0 */
static inline uint64_t image_get(const uint32_t *image, uint64_t size, uint64_t off, unsigned int width)
{
	uint64_t value = 0;

	if (off >= size)
		return 0;
	if (width == 4 && off % 4 == 0)
		return __atomic_load_n(&image[off / 4], __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < width && i < 8 && off + i < size; i++)
		value |= (uint64_t)(__atomic_load_n(&image[(off + i) / 4], __ATOMIC_RELAXED) >> (off + i) % 4 * 8 & 0xff)
			 << 8 * i;
	return value;
}

/**
 * image_config() - bring the device's configuration up to date in @image; *@generation moves before and after
 * @show: makes the new generation readable
 *
 * A driver that reads across the change sees two generations and reads again.
 */
void image_config(const struct regs *r, uint32_t *image, uint32_t size, uint32_t *generation,
		  void (*show)(void *t, uint32_t generation));

#endif
