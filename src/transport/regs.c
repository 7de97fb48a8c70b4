/* SPDX-License-Identifier: MIT */
/* regs.c - what the register transports have in common.
 *
 * Theory of operation: registers of a queue are free to write until the
 * driver says that it is ready. From then on they are frozen, and everything
 * about the queue is judged together, in sl_queue_start(), when both the queue
 * is ready and DRIVER_OK is set: there is no time between a check and the use
 * of what was checked. What cannot start makes the device need a reset.
 *
 * Reset, queue reset and "not ready" stop queues whose requests may be in
 * flight. Until the device says that it stopped, the registers say so (status
 * is not 0, queue_reset is 1, ready is 1) and writes have no effect.
 */
#include "transport/regs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LEGACY_DESC_SIZE 16

static void begin(struct regs *r)
{
	pthread_mutex_lock(&r->lock);
	r->pending++;
	pthread_mutex_unlock(&r->lock);
}

static void end(struct regs *r)
{
	pthread_mutex_lock(&r->lock);
	if (!--r->pending)
		pthread_cond_broadcast(&r->settled);
	pthread_mutex_unlock(&r->lock);
}

bool regs_wait(struct regs *r, unsigned int timeout_ms)
{
	struct timespec until;
	bool settled;
	int ret = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += timeout_ms % 1000 * 1000000l;
	if (until.tv_nsec >= 1000000000l) {
		until.tv_nsec -= 1000000000l;
		until.tv_sec++;
	}
	pthread_mutex_lock(&r->lock);
	while (r->pending && !ret)
		ret = pthread_cond_timedwait(&r->settled, &r->lock, &until);
	settled = !r->pending;
	pthread_mutex_unlock(&r->lock);
	return settled;
}

static void initial_queue(const struct regs *r, struct regs_queue *q)
{
	uint16_t vector = q->vector; /* survives a queue reset, not a device reset */

	*q = (struct regs_queue){.num = r->initial_num, .vector = vector};
}

static void initial(struct regs *r)
{
	r->wanted = (struct sl_features){0};
	r->beyond = false;
	r->device_sel = r->driver_sel = r->queue_sel = 0;
	r->align = 0; /* but not the page size, which Linux says once, before its first reset */
	for (unsigned int i = 0; i < sl_device_num_queues(r->device); i++) {
		initial_queue(r, &r->queues[i]);
		__atomic_store_n(&r->queues[i].vector, REGS_NO_VECTOR, __ATOMIC_RELAXED);
	}
}

/* ---- what the device tells ---- */

static void queue_call(void *arg, unsigned int index)
{
	struct regs *r = arg;

	r->ops->call(r->t, index);
}

static void queue_stopped(void *arg, unsigned int index, uint32_t base)
{
	struct regs *r = arg;
	struct regs_queue *q = &r->queues[index];

	(void)base; /* a driver over registers always starts afresh */
	if (!q->stopping)
		return;
	if (q->resetting)
		initial_queue(r, q);
	q->enabled = q->stopping = false;
	q->page = 0; /* legacy: reads as "no ring" again */
	end(r);
	r->ops->changed(r->t);
}

static void queue_broken(void *arg, unsigned int index, const char *why)
{
	struct regs *r = arg;

	(void)index; /* the core has logged it */
	(void)why;
	r->ops->changed(r->t);
}

static void config_changed(void *arg)
{
	struct regs *r = arg;

	r->ops->changed(r->t);
	/* virtio 1.4, 3.1.1: no notification before DRIVER_OK */
	if (sl_device_status(r->device) & SL_STATUS_DRIVER_OK)
		r->ops->config_changed(r->t);
}

static const struct sl_transport_ops transport_ops = {
	.queue_call = queue_call,
	.queue_stopped = queue_stopped,
	.queue_broken = queue_broken,
	.config_changed = config_changed,
};

/* ---- life ---- */

int regs_init(struct regs *r, struct sl_device *device, const struct regs_ops *ops, void *t, const int *kick_fds,
	      uint16_t initial_num, struct sl_err *err)
{
	pthread_condattr_t attr;

	*r = (struct regs){.device = device, .ops = ops, .t = t, .kick_fds = kick_fds, .initial_num = initial_num};
	r->offered = *sl_device_offered(device);
	r->queues = calloc(sl_device_num_queues(device), sizeof(*r->queues));
	if (!r->queues)
		return sl_err_set(err, ENOMEM, "%s: out of memory", sl_device_name(device));
	initial(r);
	pthread_mutex_init(&r->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&r->settled, &attr);
	pthread_condattr_destroy(&attr);
	sl_device_attach(device, &transport_ops, r);
	return 0;
}

void regs_destroy(struct regs *r)
{
	sl_device_attach(r->device, NULL, NULL);
	sl_mem_put(r->mem);
	free(r->queues);
	pthread_cond_destroy(&r->settled);
	pthread_mutex_destroy(&r->lock);
}

void regs_set_mem(struct regs *r, struct sl_mem *mem)
{
	struct sl_mem *old = r->mem;

	r->mem = sl_mem_get(mem);
	sl_device_set_mem(r->device, mem);
	sl_mem_put(old);
}

static void reset_done(void *arg)
{
	struct regs *r = arg;
	void (*done)(void *arg) = r->reset_done;

	r->reset_done = NULL;
	r->resetting = false;
	initial(r);
	r->ops->reset(r->t);
	r->ops->changed(r->t);
	end(r);
	if (done)
		done(r->reset_arg);
}

void regs_reset(struct regs *r, void (*done)(void *arg), void *arg)
{
	if (done) {
		r->reset_done = done;
		r->reset_arg = arg;
	}
	if (r->resetting)
		return;
	r->resetting = true;
	begin(r);
	sl_device_reset(r->device, reset_done, r);
}

/* ---- queues ---- */

struct regs_queue *regs_queue(const struct regs *r)
{
	return r->queue_sel < sl_device_num_queues(r->device) ? &r->queues[r->queue_sel] : NULL;
}

uint16_t regs_queue_max(const struct regs *r)
{
	return regs_queue(r) ? sl_device_max_queue_size(r->device) : 0;
}

/* The selected queue, if the driver may write its registers now. */
static struct regs_queue *open_queue(const struct regs *r)
{
	struct regs_queue *q = regs_queue(r);

	return q && !r->resetting && !q->enabled && !q->stopping ? q : NULL;
}

int regs_size(struct regs *r, uint32_t num)
{
	struct regs_queue *q = open_queue(r);

	if (!q || !num || num > sl_device_max_queue_size(r->device))
		return -EINVAL;
	q->num = (uint16_t)num;
	return 0;
}

void regs_address(struct regs *r, uint64_t *which, unsigned int half, uint32_t value)
{
	if (!open_queue(r))
		return;
	*which = half ? (*which & UINT32_MAX) | (uint64_t)value << 32 : (*which & ~(uint64_t)UINT32_MAX) | value;
}

static void start_queue(struct regs *r, unsigned int index)
{
	const struct regs_queue *q = &r->queues[index];
	struct sl_queue_setup setup = {
		.vq = {.num = q->num, .desc = q->desc, .driver = q->driver, .device = q->device},
		.kick_fd = r->kick_fds ? r->kick_fds[index] : -1,
		.call_fd = r->ops->call_fd(r->t, index),
	};
	struct sl_err err = {.text = "there is no guest memory"};

	if (sl_features_has(sl_device_features(r->device), SL_F_RING_PACKED))
		setup.vq.base = 0x80008000u; /* both wrap counters start at 1 */
	if (!r->mem || sl_queue_start(r->device, index, &setup, r->mem, &err))
		sl_device_needs_reset(r->device, index, err.text);
}

void regs_enable(struct regs *r)
{
	struct regs_queue *q = open_queue(r);

	if (!q)
		return;
	q->enabled = true;
	if (sl_device_status(r->device) & SL_STATUS_DRIVER_OK)
		start_queue(r, r->queue_sel);
}

void regs_disable(struct regs *r, bool reset)
{
	struct regs_queue *q = regs_queue(r);

	if (!q || r->resetting || q->stopping || (reset && !q->enabled))
		return;
	q->resetting = reset;
	q->stopping = true;
	begin(r);
	sl_queue_stop(r->device, r->queue_sel); /* one that never ran is stopped at once */
}

static uint64_t align_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) & ~(to - 1);
}

void regs_legacy_page(struct regs *r, uint32_t page, uint32_t page_size, uint32_t align)
{
	struct regs_queue *q = open_queue(r);

	if (!page) {
		regs_disable(r, false);
		return;
	}
	if (!q)
		return;
	/* An alignment that is none cannot be computed with; the ring will be found misplaced or not. */
	if (!align || align & (align - 1))
		align = 4096;
	q->page = page;
	q->desc = (uint64_t)page * page_size;
	q->driver = q->desc + LEGACY_DESC_SIZE * (uint64_t)q->num;
	q->device = align_up(q->driver + 6 + 2 * (uint64_t)q->num, align);
	regs_enable(r);
}

/* ---- features and status ---- */

void regs_driver_features(struct regs *r, uint32_t word)
{
	unsigned int at = r->driver_sel / 2, shift = r->driver_sel % 2 * 32;

	if (r->resetting || sl_device_status(r->device) & SL_STATUS_FEATURES_OK)
		return;
	if (at >= SL_FEATURE_WORDS) {
		r->beyond |= word != 0;
		return;
	}
	r->wanted.w[at] = (r->wanted.w[at] & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)word << shift;
}

/* Tell the device what of the driver's choice concerns it. */
static bool accept(struct regs *r, bool legacy)
{
	struct sl_features f = r->wanted;

	for (unsigned int i = 0; i < SL_FEATURE_WORDS; i++) {
		if (legacy)
			f.w[i] &= i ? 0 : r->offered.w[i] & UINT32_MAX; /* has no way to hear of a refusal */
		if (f.w[i] & ~r->offered.w[i])
			return false;
		f.w[i] &= ~r->own.w[i];
	}
	if (!legacy && (r->beyond || !sl_features_has(&f, SL_F_VERSION_1)))
		return false;
	return sl_device_accept(r->device, &f) == 0;
}

void regs_status_write(struct regs *r, uint8_t status, bool legacy)
{
	uint8_t was = sl_device_status(r->device);

	if (r->resetting)
		return;
	if (!status) {
		regs_reset(r, NULL, NULL);
		return;
	}
	if (legacy) {
		status &= (uint8_t)~SL_STATUS_FEATURES_OK;
		if (status & ~was & SL_STATUS_DRIVER_OK && !accept(r, true))
			status &= (uint8_t)~SL_STATUS_DRIVER_OK;
	} else {
		if (status & ~was & SL_STATUS_FEATURES_OK && !accept(r, false))
			status &= (uint8_t)~SL_STATUS_FEATURES_OK;
		if (!((was | status) & SL_STATUS_FEATURES_OK))
			status &= (uint8_t)~SL_STATUS_DRIVER_OK;
	}
	sl_device_set_status(r->device, status);
	if (!(sl_device_status(r->device) & ~was & SL_STATUS_DRIVER_OK))
		return;
	for (unsigned int i = 0; i < sl_device_num_queues(r->device); i++)
		if (r->queues[i].enabled && !r->queues[i].stopping)
			start_queue(r, i);
}

/* ---- configuration ---- */

void image_config(const struct regs *r, uint32_t *image, uint32_t size, uint32_t *generation,
		  void (*show)(void *t, uint32_t generation))
{
	uint8_t now[SL_DEVICE_MAX_CONFIG + 4];
	uint32_t word;
	bool moved = false;

	sl_device_config_read(r->device, 0, now, size);
	for (uint32_t off = 0; off < size; off += 4) {
		memcpy(&word, now + off, 4);
		if (image[off / 4] == word)
			continue;
		if (!moved)
			show(r->t, ++*generation);
		moved = true;
		__atomic_store_n(&image[off / 4], word, __ATOMIC_RELEASE);
	}
	if (moved)
		show(r->t, ++*generation);
}
