/* SPDX-License-Identifier: MIT */
/* link_pci.c - a driver's way to a virtio-pci device with modern registers (virtio 1.4, 4.1). Freestanding.
 *
 * What the capabilities say is checked: a structure must be long enough for
 * what is read of it, and a queue's notification address lies inside the
 * notification structure.
 */
#include <errno.h>

#include "driver/fail.h"
#include "driver/registers.h"

enum { /* common configuration structure */
	R_DEVICE_FEATURE_SELECT = 0x00,
	R_DEVICE_FEATURE = 0x04,
	R_DRIVER_FEATURE_SELECT = 0x08,
	R_DRIVER_FEATURE = 0x0c,
	R_CONFIG_VECTOR = 0x10,
	R_NUM_QUEUES = 0x12,
	R_STATUS = 0x14,
	R_GENERATION = 0x15,
	R_QUEUE_SELECT = 0x16,
	R_QUEUE_SIZE = 0x18,
	R_QUEUE_VECTOR = 0x1a,
	R_QUEUE_ENABLE = 0x1c,
	R_QUEUE_NOTIFY_OFF = 0x1e,
	R_QUEUE_DESC = 0x20,
	R_QUEUE_DRIVER = 0x28,
	R_QUEUE_DEVICE = 0x30,
	R_QUEUE_RESET = 0x3a,
	COMMON_SIZE = 0x38, /* as of virtio 1.0; R_QUEUE_RESET lies behind it */
};

enum { /* configuration space */
	C_VENDOR = 0x00,
	C_DEVICE = 0x02,
	C_COMMAND = 0x04,
	C_STATUS = 0x06,
	C_BAR = 0x10,
	C_SUBSYSTEM = 0x2e,
	C_CAPABILITIES = 0x34,

	COMMAND_MEMORY = 2,
	COMMAND_MASTER = 4,
	STATUS_CAPABILITIES = 0x10,
	CAP_VENDOR = 0x09,
	CAP_MSIX = 0x11,
	MAX_CAPS = 48, /* so many fit; a longer list is a ring */

	CFG_COMMON = 1,
	CFG_NOTIFY = 2,
	CFG_ISR = 3,
	CFG_DEVICE = 4,

	MSIX_ENABLE = 1 << 15,
	MSIX_MASK_ALL = 1 << 14,
	MSIX_SIZE = 0x7ff,
	ENTRY_SIZE = 16,
};

#define VIRTIO_VENDOR 0x1af4

static struct link_pci *to_pci(struct sl_link *l)
{
	return (struct link_pci *)l;
}

static uint32_t get(const struct link_pci *l, uint32_t reg, unsigned int width)
{
	return register_get(&l->r, l->common + reg, width);
}

static void set(const struct link_pci *l, uint32_t reg, unsigned int width, uint32_t value)
{
	register_set(&l->r, l->common + reg, width, value);
}

static void set64(const struct link_pci *l, uint32_t reg, uint64_t value)
{
	set(l, reg, 4, (uint32_t)value);
	set(l, reg + 4, 4, (uint32_t)(value >> 32));
}

static uint32_t config_get(const struct link_pci *l, unsigned int reg, unsigned int width)
{
	return (uint32_t)l->r.access->read(l->r.access->arg, REGISTER_PCI, l->function | reg, width);
}

static void config_set(const struct link_pci *l, unsigned int reg, unsigned int width, uint32_t value)
{
	l->r.access->write(l->r.access->arg, REGISTER_PCI, l->function | reg, width, value);
}

/* ---- the table's operations ---- */

static int pci_features(struct sl_link *link, struct sl_features *out, struct sl_err *err)
{
	struct link_pci *l = to_pci(link);

	(void)err;
	register_features(&l->r, l->common + R_DEVICE_FEATURE_SELECT, l->common + R_DEVICE_FEATURE, out);
	if (l->common_length < R_QUEUE_RESET + 2)
		sl_features_clear(out, SL_F_RING_RESET);
	return 0;
}

static int pci_accept(struct sl_link *link, const struct sl_features *f, struct sl_err *err)
{
	struct link_pci *l = to_pci(link);

	(void)err;
	register_accept(&l->r, l->common + R_DRIVER_FEATURE_SELECT, l->common + R_DRIVER_FEATURE, f);
	return 0;
}

static int pci_status_get(struct sl_link *link, struct sl_err *err)
{
	(void)err;
	return (int)get(to_pci(link), R_STATUS, 1);
}

static int pci_status_set(struct sl_link *link, uint8_t status, struct sl_err *err)
{
	struct link_pci *l = to_pci(link);

	set(l, R_STATUS, 1, status);
	return status ? 0 : register_await(&l->r, l->common + R_STATUS, 1, 0xff, 0, err);
}

static int pci_config_read(struct sl_link *link, uint32_t off, void *dst, uint32_t len, struct sl_err *err)
{
	struct link_pci *l = to_pci(link);
	unsigned char *bytes = dst;
	uint32_t n = off < l->device_length ? l->device_length - off : 0;

	if (n > len)
		n = len;
	for (uint32_t i = n; i < len; i++)
		bytes[i] = 0;
	return n ? register_config_read(&l->r, l->common + R_GENERATION, 1, l->device + off, dst, n, err) : 0;
}

static int pci_config_write(struct sl_link *link, uint32_t off, const void *src, uint32_t len, struct sl_err *err)
{
	struct link_pci *l = to_pci(link);

	if (off > l->device_length || len > l->device_length - off)
		return driver_fail(err, EINVAL, "pci: configuration: it is not that long");
	register_config_write(&l->r, l->device + off, src, len);
	return 0;
}

static int pci_num_queues(struct sl_link *link, struct sl_err *err)
{
	uint32_t n = get(to_pci(link), R_NUM_QUEUES, 2);

	return n ? (int)n : driver_fail(err, EPROTO, "pci: the device has no queue");
}

static int pci_set_memory(struct sl_link *link, const struct sl_link_region *regions, unsigned int n,
			  struct sl_err *err)
{
	(void)link;
	(void)regions;
	(void)n;
	(void)err;
	return 0;
}

/* Where the selected queue is notified; 0: nowhere that is ours. */
static uint64_t notify_address(const struct link_pci *l)
{
	uint64_t at = (uint64_t)get(l, R_QUEUE_NOTIFY_OFF, 2) * l->multiplier;
	unsigned int width = sl_features_has(&l->r.features, SL_F_NOTIFICATION_DATA) ? 4 : 2;

	return at + width <= l->notify_length ? l->notify + at : 0;
}

/* The device answers with none when it cannot do that. */
static bool choose_vector(const struct link_pci *l, uint32_t reg, unsigned int vector)
{
	if (!l->vectors)
		return true;
	if (vector >= l->vectors)
		vector = l->vectors - 1;
	set(l, reg, 2, vector);
	return get(l, reg, 2) == vector;
}

static int pci_queue_start(struct sl_link *link, unsigned int index, const struct sl_link_queue *q,
			   struct sl_err *err)
{
	struct link_pci *l = to_pci(link);

	if (!register_fresh(&l->r, q))
		return driver_fail(err, ENOTSUP, "pci: queue: it has to start afresh");
	if (index >= LINK_PCI_MAX_QUEUES || index >= get(l, R_NUM_QUEUES, 2))
		return driver_fail(err, EINVAL, "pci: queue: there are not so many");
	set(l, R_QUEUE_SELECT, 2, index);
	if (get(l, R_QUEUE_ENABLE, 2))
		return driver_fail(err, EBUSY, "pci: queue: it runs already");
	if (get(l, R_QUEUE_SIZE, 2) < q->num)
		return driver_fail(err, EINVAL, "pci: queue: the device has none of this size");
	l->notify_address[index] = notify_address(l);
	if (!l->notify_address[index])
		return driver_fail(err, EPROTO, "pci: queue: its notification lies outside the structure");
	set(l, R_QUEUE_SIZE, 2, q->num);
	set64(l, R_QUEUE_DESC, q->desc);
	set64(l, R_QUEUE_DRIVER, q->driver);
	set64(l, R_QUEUE_DEVICE, q->device);
	if (!choose_vector(l, R_CONFIG_VECTOR, 0) || !choose_vector(l, R_QUEUE_VECTOR, 1 + index))
		return driver_fail(err, EPROTO, "pci: queue: the device has no vector for it");
	set(l, R_QUEUE_ENABLE, 2, 1);
	return get(l, R_QUEUE_ENABLE, 2) ? 0 : driver_fail(err, EPROTO, "pci: queue: the device refuses it");
}

static int pci_queue_stop(struct sl_link *link, unsigned int index, uint32_t *base, struct sl_err *err)
{
	struct link_pci *l = to_pci(link);
	int ret;

	if (!sl_features_has(&l->r.features, SL_F_RING_RESET))
		return driver_fail(err, ENOTSUP, "pci: queue: only a reset of the device can stop it");
	set(l, R_QUEUE_SELECT, 2, index);
	set(l, R_QUEUE_RESET, 2, 1);
	ret = register_await(&l->r, l->common + R_QUEUE_RESET, 2, 1, 0, err);
	if (!ret)
		ret = register_await(&l->r, l->common + R_QUEUE_ENABLE, 2, 1, 0, err);
	if (!ret && base)
		*base = sl_features_has(&l->r.features, SL_F_RING_PACKED) ? 0x80008000u : 0;
	return ret;
}

static void pci_kick(struct sl_link *link, unsigned int index, uint16_t data)
{
	struct link_pci *l = to_pci(link);

	if (index < LINK_PCI_MAX_QUEUES && l->notify_address[index])
		register_kick(&l->r, l->notify_address[index], 2, index, data);
}

static unsigned int pci_events(struct sl_link *link)
{
	struct link_pci *l = to_pci(link);

	return register_events(&l->r, get(l, R_GENERATION, 1), get(l, R_STATUS, 1));
}

static void pci_close(struct sl_link *link)
{
	pci_status_set(link, 0, NULL);
}

static const struct sl_link_ops pci_ops = {
	.name = "pci",
	.features = pci_features,
	.accept = pci_accept,
	.status_get = pci_status_get,
	.status_set = pci_status_set,
	.config_read = pci_config_read,
	.config_write = pci_config_write,
	.num_queues = pci_num_queues,
	.set_memory = pci_set_memory,
	.queue_start = pci_queue_start,
	.queue_stop = pci_queue_stop,
	.kick = pci_kick,
	.events = pci_events,
	.close = pci_close,
};

/* ---- capabilities ---- */

/* Address of a memory BAR; 0: it is none, or not assigned. */
static uint64_t bar_address(const struct link_pci *l, unsigned int bar)
{
	uint64_t low, high = 0;

	if (bar > 5)
		return 0;
	low = config_get(l, C_BAR + 4 * bar, 4);
	if (low & 1)
		return 0;
	if ((low & 6) == 4 && bar < 5)
		high = config_get(l, C_BAR + 4 * bar + 4, 4);
	return (low & ~15ull) | high << 32;
}

/* Where a structure of @at least bytes is; 0: none. */
static uint64_t structure(const struct link_pci *l, unsigned int cap, uint32_t least)
{
	uint64_t base = bar_address(l, config_get(l, cap + 4, 1)), off = config_get(l, cap + 8, 4);

	return base && config_get(l, cap + 12, 4) >= least ? base + off : 0;
}

/* Of several structures of one type the first that can be used counts (4.1.4.1). */
static void virtio_cap(struct link_pci *l, unsigned int cap)
{
	switch (config_get(l, cap + 3, 1)) {
	case CFG_COMMON:
		if (l->common)
			break;
		l->common = structure(l, cap, COMMON_SIZE);
		l->common_length = config_get(l, cap + 12, 4);
		break;
	case CFG_NOTIFY:
		if (l->notify)
			break;
		l->notify = structure(l, cap, 2);
		l->notify_length = config_get(l, cap + 12, 4);
		l->multiplier = config_get(l, cap + 16, 4);
		break;
	case CFG_ISR:
		if (!l->isr)
			l->isr = structure(l, cap, 1);
		break;
	case CFG_DEVICE:
		if (l->device)
			break;
		l->device = structure(l, cap, 1);
		l->device_length = l->device ? config_get(l, cap + 12, 4) : 0;
		break;
	}
}

static void msix_cap(struct link_pci *l, unsigned int cap)
{
	uint32_t table = config_get(l, cap + 4, 4);
	uint64_t base = bar_address(l, table & 7);

	if (!base)
		return;
	l->msix = cap;
	l->msix_size = (config_get(l, cap + 2, 2) & MSIX_SIZE) + 1;
	l->msix_table = base + (table & ~7u);
}

static void walk(struct link_pci *l)
{
	unsigned int cap = config_get(l, C_CAPABILITIES, 1) & 0xfc;

	if (!(config_get(l, C_STATUS, 2) & STATUS_CAPABILITIES))
		return;
	for (unsigned int i = 0; cap >= 0x40 && i < MAX_CAPS; i++) {
		uint32_t id = config_get(l, cap, 1);

		if (id == CAP_VENDOR)
			virtio_cap(l, cap);
		else if (id == CAP_MSIX)
			msix_cap(l, cap);
		cap = config_get(l, cap + 1, 1) & 0xfc;
	}
}

static uint16_t virtio_type(const struct link_pci *l)
{
	uint32_t id = config_get(l, C_DEVICE, 2);

	if (config_get(l, C_VENDOR, 2) != VIRTIO_VENDOR || id < 0x1000 || id > 0x107f)
		return 0;
	return (uint16_t)(id >= 0x1040 ? id - 0x1040 : config_get(l, C_SUBSYSTEM, 2));
}

struct sl_link *link_pci_open(struct link_pci *l, const struct register_access *access, uint64_t function,
			      struct sl_err *err)
{
	*l = (struct link_pci){ .r.link.ops = &pci_ops, .r.access = access, .function = function };
	l->type = virtio_type(l);
	if (!l->type) {
		driver_fail(err, ENODEV, "pci: there is no virtio function");
		return NULL;
	}
	walk(l);
	if (!l->common || !l->notify || !l->isr) {
		driver_fail(err, ENODEV, "pci: no modern registers, or their addresses are not assigned");
		return NULL;
	}
	config_set(l, C_COMMAND, 2, config_get(l, C_COMMAND, 2) | COMMAND_MEMORY | COMMAND_MASTER);
	l->r.generation = get(l, R_GENERATION, 1);
	return &l->r.link;
}

int link_pci_msix(struct link_pci *l, uint64_t address, const uint32_t *data, unsigned int n)
{
	uint32_t control;

	if (!l->msix || !n || n > l->msix_size)
		return -ENOTSUP;
	control = config_get(l, l->msix + 2, 2) & ~(uint32_t)MSIX_MASK_ALL;
	config_set(l, l->msix + 2, 2, control | MSIX_ENABLE | MSIX_MASK_ALL);
	for (unsigned int i = 0; i < n; i++) {
		uint64_t entry = l->msix_table + i * ENTRY_SIZE;

		register_set(&l->r, entry, 4, (uint32_t)address);
		register_set(&l->r, entry + 4, 4, (uint32_t)(address >> 32));
		register_set(&l->r, entry + 8, 4, data[i]);
		register_set(&l->r, entry + 12, 4, 0);
	}
	config_set(l, l->msix + 2, 2, control | MSIX_ENABLE);
	l->vectors = n;
	return 0;
}

uint32_t link_pci_interrupt(struct link_pci *l)
{
	return register_get(&l->r, l->isr, 1);
}
