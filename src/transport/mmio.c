/* SPDX-License-Identifier: MIT */
/* mmio.c - virtio over MMIO (virtio 1.4, 4.2, legacy: 4.2.4). See mmio.h.
 *
 * Registers are 32 bits wide and aligned; other writes to them have no
 * effect. Reads are loads from the page, whatever their width: nothing that a
 * driver reads depends on its having read. InterruptStatus is the one word
 * that other threads than the control loop's change, atomically; the line's
 * level is decided with it, under a lock.
 */
#include "transport/mmio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "transport/regs.h"

enum { /* offsets */
	R_MAGIC = 0x000,
	R_VERSION = 0x004,
	R_DEVICE_ID = 0x008,
	R_VENDOR_ID = 0x00c,
	R_DEVICE_FEATURES = 0x010,
	R_DEVICE_FEATURES_SEL = 0x014,
	R_DRIVER_FEATURES = 0x020,
	R_DRIVER_FEATURES_SEL = 0x024,
	R_GUEST_PAGE_SIZE = 0x028, /* legacy */
	R_QUEUE_SEL = 0x030,
	R_QUEUE_SIZE_MAX = 0x034,
	R_QUEUE_SIZE = 0x038,
	R_QUEUE_ALIGN = 0x03c, /* legacy */
	R_QUEUE_PFN = 0x040,   /* legacy */
	R_QUEUE_READY = 0x044,
	R_QUEUE_NOTIFY = MMIO_QUEUE_NOTIFY,
	R_INTERRUPT_STATUS = 0x060,
	R_INTERRUPT_ACK = MMIO_INTERRUPT_ACK,
	R_STATUS = 0x070,
	R_QUEUE_DESC = 0x080,
	R_QUEUE_DRIVER = 0x090,
	R_QUEUE_DEVICE = 0x0a0,
	R_SHM_LEN = 0x0b0,
	R_SHM_BASE = 0x0b8,
	R_QUEUE_RESET = 0x0c0,
	R_CONFIG_GENERATION = 0x0fc,
	R_CONFIG = 0x100,
};

#define MAGIC 0x74726976  /* "virt" */
#define VENDOR 0x4d515653 /* "SVQM": nobody gives these out */

enum { INT_QUEUES = MMIO_ACK_QUEUES, INT_CONFIG = 2 };

/**
 * struct mmio
 * @irq_lock:   InterruptStatus together with the level of the line
 * @config_len: bytes of configuration in the page, a multiple of 4
 * @wide_notify: NOTIFICATION_DATA is in force; atomic, for any thread
 */
struct mmio {
	struct regs regs;
	struct mmio_env env;
	pthread_mutex_t irq_lock;
	uint32_t config_len, generation;
	bool wide_notify;
	_Alignas(4096) uint32_t page[MMIO_SIZE / 4];
};

/* ---- interrupts ---- */

static void interrupt(struct mmio *t, uint32_t bits)
{
	static const uint64_t one = 1;

	if (t->env.irq_fd >= 0) {
		/* before the edge; pairs with the processor that takes the interrupt and reads */
		__atomic_fetch_or(&t->page[R_INTERRUPT_STATUS / 4], bits, __ATOMIC_SEQ_CST);
		while (write(t->env.irq_fd, &one, sizeof(one)) < 0 && errno == EINTR)
			;
		return;
	}
	pthread_mutex_lock(&t->irq_lock);
	__atomic_fetch_or(&t->page[R_INTERRUPT_STATUS / 4], bits, __ATOMIC_RELAXED);
	t->env.irq(t->env.arg, true);
	pthread_mutex_unlock(&t->irq_lock);
}

static void acknowledge(struct mmio *t, uint32_t bits)
{
	uint32_t *status = &t->page[R_INTERRUPT_STATUS / 4];

	if (t->env.irq_fd >= 0) {
		__atomic_fetch_and(status, ~bits | INT_QUEUES, __ATOMIC_SEQ_CST);
		return;
	}
	pthread_mutex_lock(&t->irq_lock);
	if (!__atomic_and_fetch(status, ~bits, __ATOMIC_RELAXED))
		t->env.irq(t->env.arg, false);
	pthread_mutex_unlock(&t->irq_lock);
}

static void queue_call(void *arg, unsigned int index)
{
	(void)index;
	interrupt(arg, INT_QUEUES);
}

static int call_fd(void *arg, unsigned int index)
{
	(void)index;
	return ((struct mmio *)arg)->env.irq_fd;
}

static void config_changed(void *arg)
{
	interrupt(arg, INT_CONFIG);
}

static void reset_interrupts(void *arg)
{
	acknowledge(arg, UINT32_MAX);
}

/* ---- what reads give ---- */

static void show_generation(void *arg, uint32_t generation)
{
	struct mmio *t = arg;

	__atomic_store_n(&t->page[R_CONFIG_GENERATION / 4], generation, __ATOMIC_RELEASE);
}

static void refresh(void *arg)
{
	struct mmio *t = arg;
	const struct regs *r = &t->regs;
	const struct regs_queue *q = regs_queue(r);

	image_set(t->page, R_DEVICE_FEATURES, sl_features_word32(&r->offered, r->device_sel));
	image_set(t->page, R_QUEUE_SIZE_MAX, regs_queue_max(r));
	image_set(t->page, R_QUEUE_PFN, q ? q->page : 0);
	if (!t->env.legacy) {
		image_set(t->page, R_QUEUE_READY, q ? q->enabled : 0);
		image_set(t->page, R_QUEUE_RESET, q ? q->resetting : 0);
	}
	image_config(r, t->page + R_CONFIG / 4, t->config_len, &t->generation, show_generation);
	image_set(t->page, R_STATUS, sl_device_status(r->device));
	__atomic_store_n(&t->wide_notify, sl_features_has(sl_device_features(r->device), SL_F_NOTIFICATION_DATA),
			 __ATOMIC_RELAXED);
}

uint64_t mmio_read(const struct mmio *t, uint64_t off, unsigned int width)
{
	return image_get(t->page, MMIO_SIZE, off, width);
}

const void *mmio_page(const struct mmio *t)
{
	return t->page;
}

/* ---- writes ---- */

static void write_size(struct mmio *t, uint32_t value)
{
	struct regs_queue *q = regs_queue(&t->regs);

	/* The register cannot be read back, so a size that is not taken must not leave an earlier one standing. */
	if (q && regs_size(&t->regs, value) && !q->enabled)
		q->num = 0;
}

static void write_address(struct regs *r, uint32_t off, uint32_t value)
{
	struct regs_queue *q = regs_queue(r);

	if (!q)
		return;
	switch (off & ~7u) {
	case R_QUEUE_DESC:
		regs_address(r, &q->desc, off >> 2 & 1, value);
		break;
	case R_QUEUE_DRIVER:
		regs_address(r, &q->driver, off >> 2 & 1, value);
		break;
	case R_QUEUE_DEVICE:
		regs_address(r, &q->device, off >> 2 & 1, value);
		break;
	}
}

/* Registers of version 2 only. */
static void write_modern(struct regs *r, uint32_t off, uint32_t value)
{
	switch (off) {
	case R_QUEUE_READY:
		if (value & 1)
			regs_enable(r);
		else
			regs_disable(r, false);
		break;
	case R_QUEUE_RESET:
		if (value & 1 && sl_features_has(sl_device_features(r->device), SL_F_RING_RESET))
			regs_disable(r, true);
		break;
	default:
		write_address(r, off, value);
	}
}

static void write_legacy(struct regs *r, uint32_t off, uint32_t value)
{
	switch (off) {
	case R_GUEST_PAGE_SIZE:
		r->page_size = value;
		break;
	case R_QUEUE_ALIGN:
		r->align = value;
		break;
	case R_QUEUE_PFN:
		regs_legacy_page(r, value, r->page_size, r->align);
		break;
	}
}

static void write_register(struct mmio *t, uint32_t off, uint32_t value)
{
	struct regs *r = &t->regs;

	switch (off) {
	case R_DEVICE_FEATURES_SEL:
		r->device_sel = value;
		break;
	case R_DRIVER_FEATURES_SEL:
		r->driver_sel = value;
		break;
	case R_DRIVER_FEATURES:
		regs_driver_features(r, value);
		break;
	case R_QUEUE_SEL:
		r->queue_sel = value;
		break;
	case R_QUEUE_SIZE:
		write_size(t, value);
		break;
	case R_STATUS:
		regs_status_write(r, (uint8_t)value, t->env.legacy);
		break;
	default:
		if (t->env.legacy)
			write_legacy(r, off, value);
		else
			write_modern(r, off, value);
	}
}

struct access {
	struct mmio *t;
	uint64_t off, value;
	unsigned int width;
	bool settled;
};

static void write_on_control(void *arg)
{
	struct access *a = arg;
	struct mmio *t = a->t;

	if (a->off >= R_CONFIG)
		sl_device_config_write(t->regs.device, (uint32_t)a->off - R_CONFIG, &a->value, a->width);
	else
		write_register(t, (uint32_t)a->off, (uint32_t)a->value);
	refresh(t);
	a->settled = !t->regs.pending;
}

static void notify(struct mmio *t, uint32_t value)
{
	/* With NOTIFICATION_DATA the upper half says how far the driver is, which the ring says as well. */
	if (__atomic_load_n(&t->wide_notify, __ATOMIC_RELAXED))
		value &= 0xffff;
	sl_queue_kick(t->regs.device, value);
}

bool mmio_write(struct mmio *t, uint64_t off, unsigned int width, uint64_t value)
{
	struct access a = {t, off, value, width, true};

	if (off >= MMIO_SIZE || width > 8 || (off < R_CONFIG && (width != 4 || off % 4)))
		return true;
	if (off == R_QUEUE_NOTIFY)
		notify(t, (uint32_t)value);
	else if (off == R_INTERRUPT_ACK)
		acknowledge(t, (uint32_t)value);
	else
		sl_loop_invoke(sl_device_control(t->regs.device), write_on_control, &a);
	return a.settled;
}

bool mmio_wait(struct mmio *t, unsigned int timeout_ms)
{
	return regs_wait(&t->regs, timeout_ms);
}

/* ---- life ---- */

static const struct regs_ops mmio_ops = {
	.call = queue_call,
	.call_fd = call_fd,
	.config_changed = config_changed,
	.changed = refresh,
	.reset = reset_interrupts,
};

static void first_page(struct mmio *t)
{
	const struct sl_device *d = t->regs.device;

	image_set(t->page, R_MAGIC, MAGIC);
	image_set(t->page, R_VERSION, t->env.legacy ? 1 : 2);
	image_set(t->page, R_DEVICE_ID, sl_device_id(d));
	image_set(t->page, R_VENDOR_ID, VENDOR);
	if (t->env.irq_fd >= 0)
		image_set(t->page, R_INTERRUPT_STATUS, INT_QUEUES);
	/* There is no shared memory: virtio 1.4, 4.2.2, a length of all ones */
	for (unsigned int off = R_SHM_LEN; !t->env.legacy && off < R_SHM_BASE + 8; off += 4)
		image_set(t->page, off, UINT32_MAX);
	refresh(t);
}

struct mmio *mmio_new(struct sl_device *device, const struct mmio_env *env, struct sl_err *err)
{
	struct mmio *t = aligned_alloc(4096, sizeof(*t));
	uint16_t max = sl_device_max_queue_size(device);

	if (!t) {
		sl_err_set(err, ENOMEM, "%s: out of memory", sl_device_name(device));
		return NULL;
	}
	memset(t, 0, sizeof(*t));
	t->env = *env;
	if (regs_init(&t->regs, device, &mmio_ops, t, env->kick_fds, env->legacy ? max : 0, err)) {
		free(t);
		return NULL;
	}
	if (env->legacy)
		t->regs.offered = (struct sl_features){{t->regs.offered.w[0] & UINT32_MAX}};
	if (env->kick_fds)
		sl_features_clear(&t->regs.offered, SL_F_NOTIFICATION_DATA);
	pthread_mutex_init(&t->irq_lock, NULL);
	t->config_len = (sl_device_config_len(device) + 3u) & ~3u;
	if (t->config_len > MMIO_SIZE - R_CONFIG)
		t->config_len = MMIO_SIZE - R_CONFIG;
	first_page(t);
	return t;
}

void mmio_free(struct mmio *t)
{
	if (!t)
		return;
	regs_destroy(&t->regs);
	pthread_mutex_destroy(&t->irq_lock);
	free(t);
}

void mmio_set_mem(struct mmio *t, struct sl_mem *mem)
{
	regs_set_mem(&t->regs, mem);
}

void mmio_reset(struct mmio *t, void (*done)(void *arg), void *arg)
{
	regs_reset(&t->regs, done, arg);
}
