/* SPDX-License-Identifier: MIT */
/* link_mmio.c - a driver's way to a virtio-mmio device (virtio 1.4, 4.2.2 and 4.2.3). Freestanding. */
#include <errno.h>

#include "driver/fail.h"
#include "driver/registers.h"

enum { /* offsets */
	R_MAGIC = 0x000,
	R_VERSION = 0x004,
	R_DEVICE_ID = 0x008,
	R_DEVICE_FEATURES = 0x010,
	R_DEVICE_FEATURES_SEL = 0x014,
	R_DRIVER_FEATURES = 0x020,
	R_DRIVER_FEATURES_SEL = 0x024,
	R_QUEUE_SEL = 0x030,
	R_QUEUE_SIZE_MAX = 0x034,
	R_QUEUE_SIZE = 0x038,
	R_QUEUE_READY = 0x044,
	R_QUEUE_NOTIFY = 0x050,
	R_INTERRUPT_STATUS = 0x060,
	R_INTERRUPT_ACK = 0x064,
	R_STATUS = 0x070,
	R_QUEUE_DESC = 0x080,
	R_QUEUE_DRIVER = 0x090,
	R_QUEUE_DEVICE = 0x0a0,
	R_QUEUE_RESET = 0x0c0,
	R_CONFIG_GENERATION = 0x0fc,
	R_CONFIG = 0x100,
};

#define MAGIC 0x74726976
#define MAX_QUEUES 1024 /* the registers do not say how many there are: looked for so far */

static struct link_mmio *to_mmio(struct sl_link *l)
{
	return (struct link_mmio *)l;
}

static uint32_t get(const struct link_mmio *l, uint32_t reg)
{
	return register_get(&l->r, l->base + reg, 4);
}

static void set(const struct link_mmio *l, uint32_t reg, uint32_t value)
{
	register_set(&l->r, l->base + reg, 4, value);
}

static void set64(const struct link_mmio *l, uint32_t reg, uint64_t value)
{
	set(l, reg, (uint32_t)value);
	set(l, reg + 4, (uint32_t)(value >> 32));
}

static int mmio_features(struct sl_link *link, struct sl_features *out, struct sl_err *err)
{
	struct link_mmio *l = to_mmio(link);

	(void)err;
	register_features(&l->r, l->base + R_DEVICE_FEATURES_SEL, l->base + R_DEVICE_FEATURES, out);
	return 0;
}

static int mmio_accept(struct sl_link *link, const struct sl_features *f, struct sl_err *err)
{
	struct link_mmio *l = to_mmio(link);

	(void)err;
	register_accept(&l->r, l->base + R_DRIVER_FEATURES_SEL, l->base + R_DRIVER_FEATURES, f);
	return 0;
}

static int mmio_status_get(struct sl_link *link, struct sl_err *err)
{
	(void)err;
	return (int)(get(to_mmio(link), R_STATUS) & 0xff);
}

static int mmio_status_set(struct sl_link *link, uint8_t status, struct sl_err *err)
{
	struct link_mmio *l = to_mmio(link);

	set(l, R_STATUS, status);
	return status ? 0 : register_await(&l->r, l->base + R_STATUS, 4, 0xff, 0, err);
}

static int mmio_config_read(struct sl_link *link, uint32_t off, void *dst, uint32_t len, struct sl_err *err)
{
	struct link_mmio *l = to_mmio(link);

	return register_config_read(&l->r, l->base + R_CONFIG_GENERATION, 4, l->base + R_CONFIG + off, dst, len, err);
}

static int mmio_config_write(struct sl_link *link, uint32_t off, const void *src, uint32_t len, struct sl_err *err)
{
	struct link_mmio *l = to_mmio(link);

	(void)err;
	register_config_write(&l->r, l->base + R_CONFIG + off, src, len);
	return 0;
}

static int mmio_num_queues(struct sl_link *link, struct sl_err *err)
{
	struct link_mmio *l = to_mmio(link);
	int n = 0;

	for (; n < MAX_QUEUES; n++) {
		set(l, R_QUEUE_SEL, (uint32_t)n);
		if (!get(l, R_QUEUE_SIZE_MAX))
			break;
	}
	return n ? n : driver_fail(err, EPROTO, "mmio: the device has no queue");
}

static int mmio_set_memory(struct sl_link *link, const struct sl_link_region *regions, unsigned int n,
			   struct sl_err *err)
{
	(void)link;
	(void)regions;
	(void)n;
	(void)err;
	return 0;
}

static int mmio_queue_start(struct sl_link *link, unsigned int index, const struct sl_link_queue *q,
			    struct sl_err *err)
{
	struct link_mmio *l = to_mmio(link);

	if (!register_fresh(&l->r, q))
		return driver_fail(err, ENOTSUP, "mmio: queue: it has to start afresh");
	set(l, R_QUEUE_SEL, index);
	if (get(l, R_QUEUE_READY))
		return driver_fail(err, EBUSY, "mmio: queue: it runs already");
	if (get(l, R_QUEUE_SIZE_MAX) < q->num)
		return driver_fail(err, EINVAL, "mmio: queue: the device has no such queue or none of this size");
	set(l, R_QUEUE_SIZE, q->num);
	set64(l, R_QUEUE_DESC, q->desc);
	set64(l, R_QUEUE_DRIVER, q->driver);
	set64(l, R_QUEUE_DEVICE, q->device);
	set(l, R_QUEUE_READY, 1);
	return get(l, R_QUEUE_READY) ? 0 : driver_fail(err, EPROTO, "mmio: queue: the device refuses it");
}

static int mmio_queue_stop(struct sl_link *link, unsigned int index, uint32_t *base, struct sl_err *err)
{
	struct link_mmio *l = to_mmio(link);
	int ret;

	set(l, R_QUEUE_SEL, index);
	if (sl_features_has(&l->r.features, SL_F_RING_RESET)) {
		set(l, R_QUEUE_RESET, 1);
		ret = register_await(&l->r, l->base + R_QUEUE_RESET, 4, 1, 0, err);
	} else {
		set(l, R_QUEUE_READY, 0);
		ret = 0;
	}
	if (!ret)
		ret = register_await(&l->r, l->base + R_QUEUE_READY, 4, 1, 0, err);
	if (!ret && base)
		*base = sl_features_has(&l->r.features, SL_F_RING_PACKED) ? 0x80008000u : 0;
	return ret;
}

static void mmio_kick(struct sl_link *link, unsigned int index, uint16_t data)
{
	struct link_mmio *l = to_mmio(link);

	register_kick(&l->r, l->base + R_QUEUE_NOTIFY, 4, index, data);
}

static unsigned int mmio_events(struct sl_link *link)
{
	struct link_mmio *l = to_mmio(link);

	return register_events(&l->r, get(l, R_CONFIG_GENERATION), get(l, R_STATUS));
}

static void mmio_close(struct sl_link *link)
{
	mmio_status_set(link, 0, NULL);
}

static const struct sl_link_ops mmio_ops = {
	.name = "mmio",
	.features = mmio_features,
	.accept = mmio_accept,
	.status_get = mmio_status_get,
	.status_set = mmio_status_set,
	.config_read = mmio_config_read,
	.config_write = mmio_config_write,
	.num_queues = mmio_num_queues,
	.set_memory = mmio_set_memory,
	.queue_start = mmio_queue_start,
	.queue_stop = mmio_queue_stop,
	.kick = mmio_kick,
	.events = mmio_events,
	.close = mmio_close,
};

struct sl_link *link_mmio_open(struct link_mmio *l, const struct register_access *access, uint64_t base,
			       struct sl_err *err)
{
	*l = (struct link_mmio){ .r.link.ops = &mmio_ops, .r.access = access, .base = base };
	if (get(l, R_MAGIC) != MAGIC || get(l, R_VERSION) != 2) {
		driver_fail(err, ENODEV, "mmio: there is no virtio device of version 2");
		return NULL;
	}
	l->r.generation = get(l, R_CONFIG_GENERATION);
	return &l->r.link;
}

uint32_t link_mmio_type(const struct link_mmio *l)
{
	return get(l, R_DEVICE_ID);
}

uint32_t link_mmio_interrupt(struct link_mmio *l)
{
	uint32_t why = get(l, R_INTERRUPT_STATUS);

	set(l, R_INTERRUPT_ACK, why);
	return why;
}
