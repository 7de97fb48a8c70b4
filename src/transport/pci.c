/* SPDX-License-Identifier: MIT */
/* pci.c - virtio over PCI (virtio 1.4, 4.1; MSI-X: PCI local bus 3.0, 6.8.2). See pci.h.
 *
 * Reads of the common structure and of the device's configuration have no
 * side effect and are loads from images that the control loop keeps up to
 * date; writes are carried out on the control loop. Notifications are handed
 * on in place, on whatever thread; for interrupts see pci_interrupt.c.
 */
#include "transport/pci_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { /* common configuration structure */
	R_DEVICE_FEATURE_SELECT = 0x00,
	R_DEVICE_FEATURE = 0x04,
	R_DRIVER_FEATURE_SELECT = 0x08,
	R_DRIVER_FEATURE = 0x0c,
	R_CONFIG_VECTOR = 0x10, /* 16 bits; above: num_queues */
	R_STATUS = 0x14,	/* 8 bits; above: config_generation, queue_select */
	R_QUEUE_SELECT = 0x16,
	R_QUEUE_SIZE = 0x18,
	R_QUEUE_VECTOR = 0x1a,
	R_QUEUE_ENABLE = 0x1c, /* above: queue_notify_off */
	R_QUEUE_DESC = 0x20,
	R_QUEUE_DRIVER = 0x28,
	R_QUEUE_DEVICE = 0x30,
	R_NOTIF_CONFIG_DATA = 0x38,
	R_QUEUE_RESET = 0x3a,
};

enum { /* legacy registers */
	L_DEVICE_FEATURES = 0x00,
	L_DRIVER_FEATURES = 0x04,
	L_QUEUE_PAGE = 0x08,
	L_QUEUE_SIZE = 0x0c,
	L_QUEUE_SELECT = 0x0e,
	L_NOTIFY = PCI_LEGACY_NOTIFY,
	L_STATUS = 0x12,
	L_ISR = 0x13,
	L_CONFIG_VECTOR = 0x14, /* these two only while MSI-X is on */
	L_QUEUE_VECTOR = 0x16,
	L_CONFIG = 0x14,
	L_CONFIG_MSIX = 0x18,
	LEGACY_PAGE = 4096,
	LEGACY_BAR_MAX = 256,
};

enum { /* configuration space and capabilities */
	C_VENDOR = 0x00,
	C_COMMAND = 0x04,
	C_STATUS = 0x06,
	C_REVISION = 0x08,
	C_CLASS = 0x0a,
	C_SUBSYSTEM = 0x2c,
	C_CAPABILITIES = 0x34,
	C_PIN = 0x3d,

	STATUS_CAPABILITIES = 0x10,
	COMMAND_NO_INTX = 1 << 10,

	CAP_VENDOR = 0x09,
	CAP_MSIX = 0x11,
	CAP_FIRST = 0x40,

	MSIX_CONTROL = 2, /* in the MSI-X capability */
	MSIX_ENABLE = 1 << 15,
	MSIX_MASK_ALL = 1 << 14,

	CFG_COMMON = 1,
	CFG_NOTIFY = 2,
	CFG_ISR = 3,
	CFG_DEVICE = 4,
	CFG_PCI = 5,
	CFG_SHM = 8,

	VIRTIO_VENDOR = 0x1af4,
	MODERN_ID = 0x1040,
};

static struct pci *to_pci(struct pci_function *f)
{
	return (struct pci *)f;
}

/* ---- images ---- */

static void show_generation(void *arg, uint32_t generation)
{
	struct pci *t = arg;
	uint32_t now = t->common[R_STATUS / 4] & ~0xff00u;

	__atomic_store_n(&t->common[R_STATUS / 4], now | (generation & 0xff) << 8, __ATOMIC_RELEASE);
}

static void set64(uint32_t *image, unsigned int off, uint64_t value)
{
	image_set(image, off, (uint32_t)value);
	image_set(image, off + 4, (uint32_t)(value >> 32));
}

static void refresh(void *arg)
{
	static const struct regs_queue none = {.vector = REGS_NO_VECTOR};
	struct pci *t = arg;
	const struct regs *r = &t->regs;
	const struct regs_queue *q = regs_queue(r);
	uint32_t sel = q ? r->queue_sel : 0;

	if (!q)
		q = &none;
	image_set(t->common, R_DEVICE_FEATURE_SELECT, r->device_sel);
	image_set(t->common, R_DEVICE_FEATURE, sl_features_word32(&r->offered, r->device_sel));
	image_set(t->common, R_DRIVER_FEATURE_SELECT, r->driver_sel);
	image_set(t->common, R_DRIVER_FEATURE, sl_features_word32(&r->wanted, r->driver_sel));
	image_set(t->common, R_CONFIG_VECTOR, t->config_vector | sl_device_num_queues(r->device) << 16);
	image_set(t->common, R_QUEUE_SIZE, q->num | (uint32_t)q->vector << 16);
	image_set(t->common, R_QUEUE_ENABLE, q->enabled | sel << 16);
	set64(t->common, R_QUEUE_DESC, q->desc);
	set64(t->common, R_QUEUE_DRIVER, q->driver);
	set64(t->common, R_QUEUE_DEVICE, q->device);
	image_set(t->common, R_NOTIF_CONFIG_DATA, sel | (uint32_t)q->resetting << 16);
	image_config(r, t->config, t->config_len, &t->generation, show_generation);
	image_set(t->common, R_STATUS, sl_device_status(r->device) | (t->generation & 0xff) << 8 | r->queue_sel << 16);
}

/* ---- the memory BAR ---- */

static uint64_t read_memory(struct pci *t, uint64_t off, unsigned int width)
{
	if (off < PCI_COMMON + PCI_COMMON_SIZE)
		return image_get(t->common, PCI_COMMON_SIZE, off, width);
	if (off == PCI_ISR)
		return pci_read_isr(t);
	if (off >= PCI_DEVICE && off < PCI_NOTIFY)
		return image_get(t->config, t->config_len, off - PCI_DEVICE, width);
	if (off >= PCI_MSIX_PBA && off < PCI_MSIX_PBA + sizeof(t->pending))
		return image_get(t->pending, sizeof(t->pending), off - PCI_MSIX_PBA, width);
	if (off >= PCI_MSIX_TABLE)
		return image_get(t->table, t->num_vectors * PCI_ENTRY_SIZE, off - PCI_MSIX_TABLE, width);
	return 0;
}

static void write_common32(struct pci *t, uint32_t off, uint32_t value)
{
	struct regs *r = &t->regs;
	struct regs_queue *q = regs_queue(r);

	switch (off) {
	case R_DEVICE_FEATURE_SELECT:
		r->device_sel = value;
		break;
	case R_DRIVER_FEATURE_SELECT:
		r->driver_sel = value;
		break;
	case R_DRIVER_FEATURE:
		regs_driver_features(r, value);
		break;
	case R_QUEUE_DESC:
	case R_QUEUE_DESC + 4:
		if (q)
			regs_address(r, &q->desc, off >> 2 & 1, value);
		break;
	case R_QUEUE_DRIVER:
	case R_QUEUE_DRIVER + 4:
		if (q)
			regs_address(r, &q->driver, off >> 2 & 1, value);
		break;
	case R_QUEUE_DEVICE:
	case R_QUEUE_DEVICE + 4:
		if (q)
			regs_address(r, &q->device, off >> 2 & 1, value);
		break;
	}
}

static void write_common16(struct pci *t, uint32_t off, uint16_t value)
{
	struct regs *r = &t->regs;

	switch (off) {
	case R_CONFIG_VECTOR:
		pci_choose_config_vector(t, value);
		break;
	case R_QUEUE_SELECT:
		r->queue_sel = value;
		break;
	case R_QUEUE_SIZE:
		regs_size(r, value);
		break;
	case R_QUEUE_VECTOR:
		pci_choose_queue_vector(t, value);
		break;
	case R_QUEUE_ENABLE:
		if (value == 1) /* only a reset disables */
			regs_enable(r);
		break;
	case R_QUEUE_RESET:
		if (value == 1 && sl_features_has(sl_device_features(r->device), SL_F_RING_RESET))
			regs_disable(r, true);
		break;
	}
}

/* Fields are written as a whole; a 64-bit one also in halves (4.1.3.1). Anything else has no effect. */
static void write_common(struct pci *t, uint32_t off, unsigned int width, uint64_t value)
{
	switch (width) {
	case 1:
		if (off == R_STATUS)
			regs_status_write(&t->regs, (uint8_t)value, false);
		break;
	case 2:
		write_common16(t, off, (uint16_t)value);
		break;
	case 4:
		write_common32(t, off, (uint32_t)value);
		break;
	case 8:
		if (off < R_QUEUE_DESC || off % 8)
			break;
		write_common32(t, off, (uint32_t)value);
		write_common32(t, off + 4, (uint32_t)(value >> 32));
		break;
	}
}

/* ---- the legacy BAR ---- */

static uint32_t legacy_config(const struct pci *t)
{
	return t->msix_on ? L_CONFIG_MSIX : L_CONFIG;
}

static uint32_t read_legacy(struct pci *t, uint32_t off, unsigned int width)
{
	const struct regs *r = &t->regs;
	const struct regs_queue *q = regs_queue(r);
	uint32_t value = 0;

	if (off >= legacy_config(t)) {
		sl_device_config_read(r->device, off - legacy_config(t), &value, width > 4 ? 4 : width);
		return value;
	}
	switch (off) {
	case L_DEVICE_FEATURES:
		return (uint32_t)r->offered.w[0];
	case L_DRIVER_FEATURES:
		return (uint32_t)r->wanted.w[0];
	case L_QUEUE_PAGE:
		return q ? q->page : 0;
	case L_QUEUE_SIZE:
		return regs_queue_max(r);
	case L_QUEUE_SELECT:
		return r->queue_sel;
	case L_STATUS:
		return sl_device_status(r->device);
	case L_CONFIG_VECTOR:
		return t->config_vector;
	case L_QUEUE_VECTOR:
		return q ? q->vector : REGS_NO_VECTOR;
	}
	return 0;
}

static void write_legacy(struct pci *t, uint32_t off, unsigned int width, uint32_t value)
{
	struct regs *r = &t->regs;

	if (off >= legacy_config(t)) {
		sl_device_config_write(r->device, off - legacy_config(t), &value, width);
		return;
	}
	switch (off << 4 | width) {
	case L_DRIVER_FEATURES << 4 | 4:
		r->driver_sel = 0;
		regs_driver_features(r, value);
		break;
	case L_QUEUE_PAGE << 4 | 4:
		regs_legacy_page(r, value, LEGACY_PAGE, LEGACY_PAGE);
		break;
	case L_QUEUE_SELECT << 4 | 2:
		r->queue_sel = value;
		break;
	case L_STATUS << 4 | 1:
		regs_status_write(r, (uint8_t)value, true);
		break;
	case L_CONFIG_VECTOR << 4 | 2:
		pci_choose_config_vector(t, (uint16_t)value);
		break;
	case L_QUEUE_VECTOR << 4 | 2:
		pci_choose_queue_vector(t, (uint16_t)value);
		break;
	}
}

/* ---- accesses by way of a BAR ---- */

struct access {
	struct pci *t;
	unsigned int bar, width;
	uint32_t off;
	uint64_t value;
	bool settled;
};

/* Where @width bytes at @off of the regions' BAR are; NULL: not in one region. */
static void *shared_memory(const struct pci *t, uint64_t off, unsigned int width)
{
	unsigned int n;
	const struct sl_shm *shm = sl_device_shm(t->regs.device, &n);

	for (unsigned int i = 0; i < n; off -= shm[i++].size)
		if (off < shm[i].size)
			return width <= shm[i].size - off ? (char *)shm[i].hva + off : NULL;
	return NULL;
}

static void legacy_read_on_control(void *arg)
{
	struct access *a = arg;

	a->value = read_legacy(a->t, a->off, a->width);
}

static uint64_t bar_read(struct pci_function *f, unsigned int bar, uint64_t off, unsigned int width)
{
	struct pci *t = to_pci(f);
	struct access a = {t, bar, width, (uint32_t)off, 0, true};

	if (bar == PCI_VIRTIO_BAR)
		return read_memory(t, off, width);
	if (bar == PCI_SHM_BAR) {
		const void *from = shared_memory(t, off, width);

		if (from)
			memcpy(&a.value, from, width);
		return a.value;
	}
	if (off == L_ISR)
		return pci_read_isr(t);
	sl_loop_invoke(sl_device_control(t->regs.device), legacy_read_on_control, &a);
	return a.value;
}

static void write_on_control(void *arg)
{
	struct access *a = arg;
	struct pci *t = a->t;

	if (a->bar == PCI_LEGACY_BAR) {
		if (a->width <= 4)
			write_legacy(t, a->off, a->width, (uint32_t)a->value);
		a->settled = !t->regs.pending; /* a legacy driver does not look */
	} else if (a->off < PCI_COMMON_SIZE) {
		write_common(t, a->off, a->width, a->value);
	} else if (a->off >= PCI_DEVICE && a->off < PCI_NOTIFY) {
		sl_device_config_write(t->regs.device, a->off - PCI_DEVICE, &a->value, a->width);
	} else if (a->off >= PCI_MSIX_TABLE) {
		pci_write_table(t, a->off - PCI_MSIX_TABLE, a->width, a->value);
	}
	refresh(t);
}

static bool bar_write(struct pci_function *f, unsigned int bar, uint64_t off, unsigned int width, uint64_t value)
{
	struct pci *t = to_pci(f);
	struct access a = {t, bar, width, (uint32_t)off, value, true};

	if (bar == PCI_VIRTIO_BAR && off >= PCI_NOTIFY && off < PCI_MSIX_PBA) {
		/* The place says which queue it is; what is written says nothing new (cf. NOTIFICATION_DATA). */
		if (off % PCI_NOTIFY_STRIDE == 0)
			sl_queue_kick(t->regs.device, (uint32_t)(off - PCI_NOTIFY) / PCI_NOTIFY_STRIDE);
		return true;
	}
	if (bar == PCI_LEGACY_BAR && off == L_NOTIFY) {
		sl_queue_kick(t->regs.device, value & 0xffff);
		return true;
	}
	if (bar == PCI_SHM_BAR) {
		void *to = shared_memory(t, off, width);

		if (to)
			memcpy(to, &value, width);
		return true;
	}
	sl_loop_invoke(sl_device_control(t->regs.device), write_on_control, &a);
	return a.settled;
}

static bool wait_settled(struct pci_function *f, unsigned int timeout_ms)
{
	return regs_wait(&to_pci(f)->regs, timeout_ms);
}

/* ---- configuration space ---- */

/* What the PCI configuration access capability points at; false when that is no place in a BAR of ours. */
static bool window(const struct pci *t, unsigned int *bar, uint32_t *off, uint32_t *len)
{
	*bar = (unsigned int)pci_config_get(&t->f, t->pci_cap + 4, 1);
	*off = (uint32_t)pci_config_get(&t->f, t->pci_cap + 8, 4);
	*len = (uint32_t)pci_config_get(&t->f, t->pci_cap + 12, 4);
	return *bar < PCI_BARS && t->f.bar[*bar].kind != PCI_BAR_NONE && (*len == 1 || *len == 2 || *len == 4) &&
	       *off % *len == 0 && *off < t->f.bar[*bar].size;
}

static void config_read(struct pci_function *f)
{
	struct pci *t = to_pci(f);
	uint32_t off, len;
	unsigned int bar;
	uint64_t value;

	if (!window(t, &bar, &off, &len))
		return;
	value = bar_read(f, bar, off, len);
	pthread_mutex_lock(&f->bus->lock);
	pci_config_set(f, t->pci_cap + 16, len, value);
	pthread_mutex_unlock(&f->bus->lock);
}

static bool msix_bit(const struct pci *t, unsigned int bit)
{
	return pci_config_get(&t->f, t->msix_cap + MSIX_CONTROL, 2) & bit;
}

static void switches_changed(struct pci *t)
{
	pci_interrupt_switches(t, msix_bit(t, MSIX_ENABLE), msix_bit(t, MSIX_MASK_ALL),
			       pci_config_get(&t->f, C_COMMAND, 2) & COMMAND_NO_INTX);
}

static void config_written(struct pci_function *f, unsigned int reg, unsigned int len)
{
	struct pci *t = to_pci(f);
	unsigned int bar, data = t->pci_cap + 16;
	uint32_t off, size;

	switches_changed(t);
	if (reg < data + 4 && data < reg + len && window(t, &bar, &off, &size))
		bar_write(f, bar, off, size, pci_config_get(f, data, size));
}

static void function_reset(struct pci_function *f)
{
	struct pci *t = to_pci(f);

	pci_clear_table(t);
	switches_changed(t);
}

static unsigned int add_cap(struct pci *t, unsigned int *last, unsigned int id, unsigned int len)
{
	unsigned int at = *last ? *last : CAP_FIRST;

	/* @last: where the list ends so far; the pointer to it is already there */
	pci_config_set(&t->f, at, 1, id);
	*last = (at + len + 3) & ~3u;
	pci_config_set(&t->f, at + 1, 1, *last);
	return at;
}

static unsigned int add_virtio_cap(struct pci *t, unsigned int *last, unsigned int type, unsigned int len, uint32_t off,
				   uint32_t size)
{
	unsigned int at = add_cap(t, last, CAP_VENDOR, len);

	pci_config_set(&t->f, at + 2, 1, len);
	pci_config_set(&t->f, at + 3, 1, type);
	pci_config_set(&t->f, at + 4, 1, PCI_VIRTIO_BAR);
	pci_config_set(&t->f, at + 8, 4, off);
	pci_config_set(&t->f, at + 12, 4, size);
	return at;
}

/* A capability for each region of shared memory, with offset and length of 64 bits. */
static void add_shm_caps(struct pci *t, unsigned int *last)
{
	unsigned int n;
	const struct sl_shm *shm = sl_device_shm(t->regs.device, &n);
	uint64_t off = 0;

	for (unsigned int i = 0; i < n; off += shm[i++].size) {
		unsigned int at = add_virtio_cap(t, last, CFG_SHM, 24, (uint32_t)off, (uint32_t)shm[i].size);

		pci_config_set(&t->f, at + 4, 1, PCI_SHM_BAR);
		pci_config_set(&t->f, at + 5, 1, shm[i].id);
		pci_config_set(&t->f, at + 16, 4, off >> 32);
		pci_config_set(&t->f, at + 20, 4, shm[i].size >> 32);
	}
	if (!n)
		return;
	for (t->f.bar[PCI_SHM_BAR] = (struct pci_bar){PCI_BAR_64, .size = 4096}; t->f.bar[PCI_SHM_BAR].size < off;)
		t->f.bar[PCI_SHM_BAR].size *= 2;
}

static void add_caps(struct pci *t)
{
	uint32_t num_queues = sl_device_num_queues(t->regs.device), config_len = sl_device_config_len(t->regs.device);
	unsigned int last = 0, at;

	pci_config_set(&t->f, C_CAPABILITIES, 1, CAP_FIRST);
	pci_config_set(&t->f, C_STATUS, 2, STATUS_CAPABILITIES);
	t->msix_cap = at = add_cap(t, &last, CAP_MSIX, 12);
	pci_config_set(&t->f, at + MSIX_CONTROL, 2, t->num_vectors - 1);
	pci_config_set(&t->f, at + 4, 4, PCI_MSIX_TABLE | PCI_VIRTIO_BAR);
	pci_config_set(&t->f, at + 8, 4, PCI_MSIX_PBA | PCI_VIRTIO_BAR);
	t->f.writable[at + MSIX_CONTROL + 1] = (MSIX_ENABLE | MSIX_MASK_ALL) >> 8;

	add_virtio_cap(t, &last, CFG_COMMON, 16, PCI_COMMON, PCI_COMMON_SIZE);
	at = add_virtio_cap(t, &last, CFG_NOTIFY, 20, PCI_NOTIFY, num_queues * PCI_NOTIFY_STRIDE);
	pci_config_set(&t->f, at + 16, 4, PCI_NOTIFY_STRIDE);
	add_virtio_cap(t, &last, CFG_ISR, 16, PCI_ISR, 4);
	if (config_len)
		add_virtio_cap(t, &last, CFG_DEVICE, 16, PCI_DEVICE, config_len);
	add_shm_caps(t, &last);
	t->pci_cap = at = add_virtio_cap(t, &last, CFG_PCI, 20, 0, 0);
	pci_config_set(&t->f, at + 4, 1, 0);
	pci_config_set(&t->f, at + 1, 1, 0); /* the last one */
	t->f.writable[at + 4] = 0xff;
	memset(&t->f.writable[at + 8], 0xff, 12);
	t->f.live = at + 16;
}

/** struct identity - what a type is to drivers that look at PCI's own numbers */
struct identity {
	uint16_t id, class, legacy;
};

static const struct identity identities[] = {
	{1, 0x0200, 0x1000}, {2, 0x0100, 0x1001}, {3, 0x0780, 0x1003}, {4, 0x00ff, 0x1005},
	{5, 0x00ff, 0x1002}, {8, 0x0100, 0x1004}, {9, 0x0002, 0x1009}, {19, 0x0280, 0},
};

static const struct identity *identify(uint16_t id)
{
	static const struct identity other = {0, 0x00ff, 0};

	for (unsigned int i = 0; i < sizeof(identities) / sizeof(identities[0]); i++)
		if (identities[i].id == id)
			return &identities[i];
	return &other;
}

static int describe(struct pci *t, struct sl_err *err)
{
	uint16_t id = sl_device_id(t->regs.device);
	const struct identity *who = identify(id);
	struct pci_function *f = &t->f;
	uint64_t size = 4;

	if (t->env.transitional && !who->legacy)
		return sl_err_set(err, EINVAL, "%s: pci: this type has no legacy form",
				  sl_device_name(t->regs.device));
	pci_config_set(f, C_VENDOR, 4, VIRTIO_VENDOR | (uint32_t)(t->env.transitional ? who->legacy : MODERN_ID + id) << 16);
	pci_config_set(f, C_REVISION, 1, !t->env.transitional);
	pci_config_set(f, C_CLASS, 2, who->class);
	pci_config_set(f, C_SUBSYSTEM, 4, VIRTIO_VENDOR | (uint32_t)(t->env.transitional ? id : MODERN_ID + id) << 16);
	pci_config_set(f, C_PIN, 1, 1);
	f->bar[PCI_VIRTIO_BAR] = (struct pci_bar){.kind = PCI_BAR_64, .size = PCI_VIRTIO_BAR_SIZE};
	if (t->env.transitional) {
		while (size < LEGACY_BAR_MAX && size < L_CONFIG_MSIX + (uint64_t)sl_device_config_len(t->regs.device))
			size *= 2;
		f->bar[PCI_LEGACY_BAR] = (struct pci_bar){.kind = PCI_BAR_IO, .size = size};
	}
	add_caps(t);
	return 0;
}

/* ---- life ---- */

static const struct regs_ops pci_regs_ops = {
	.call = pci_queue_call,
	.call_fd = pci_call_fd,
	.config_changed = pci_config_changed,
	.changed = refresh,
	.reset = pci_reset_interrupts,
};

static const struct pci_function_ops pci_ops = {
	.bar_read = bar_read,
	.bar_write = bar_write,
	.wait = wait_settled,
	.config_read = config_read,
	.config_written = config_written,
	.reset = function_reset,
};

static int make_tables(struct pci *t, struct sl_device *device, struct sl_err *err)
{
	t->num_vectors = sl_device_num_queues(device) + 1;
	if (t->num_vectors > PCI_MSIX_MAX)
		t->num_vectors = PCI_MSIX_MAX;
	t->config_len = (sl_device_config_len(device) + 3u) & ~3u;
	t->config_vector = REGS_NO_VECTOR;
	t->vectors = calloc(t->num_vectors, sizeof(*t->vectors));
	t->table = calloc(t->num_vectors, PCI_ENTRY_SIZE);
	t->config = calloc(1, t->config_len + 4);
	if (!t->vectors || !t->table || !t->config)
		return sl_err_set(err, ENOMEM, "%s: out of memory", sl_device_name(device));
	for (unsigned int v = 0; v < t->num_vectors; v++)
		t->vectors[v].fd = -1;
	return 0;
}

static void free_tables(struct pci *t)
{
	free(t->vectors);
	free(t->table);
	free(t->config);
	free(t);
}

struct pci *pci_new(struct sl_device *device, const struct pci_env *env, struct sl_err *err)
{
	struct pci *t = calloc(1, sizeof(*t));

	if (!t) {
		sl_err_set(err, ENOMEM, "%s: out of memory", sl_device_name(device));
		return NULL;
	}
	t->env = *env;
	t->f.ops = &pci_ops;
	if (make_tables(t, device, err) || regs_init(&t->regs, device, &pci_regs_ops, t, env->kick_fds,
						    sl_device_max_queue_size(device), err)) {
		free_tables(t);
		return NULL;
	}
	if (describe(t, err)) {
		regs_destroy(&t->regs);
		free_tables(t);
		return NULL;
	}
	sl_features_set(&t->regs.own, SL_F_NOTIF_CONFIG_DATA);
	sl_features_set(&t->regs.offered, SL_F_NOTIF_CONFIG_DATA);
	pthread_mutex_init(&t->irq_lock, NULL);
	pci_clear_table(t);
	refresh(t);
	return t;
}

void pci_free(struct pci *t)
{
	if (!t)
		return;
	regs_destroy(&t->regs);
	pthread_mutex_destroy(&t->irq_lock);
	free_tables(t);
}

struct pci_function *pci_function(struct pci *t)
{
	return &t->f;
}

unsigned int pci_num_vectors(const struct pci *t)
{
	return t->num_vectors;
}

void pci_set_mem(struct pci *t, struct sl_mem *mem)
{
	regs_set_mem(&t->regs, mem);
}

void pci_reset(struct pci *t, void (*done)(void *arg), void *arg)
{
	regs_reset(&t->regs, done, arg);
}
