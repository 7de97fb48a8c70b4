/* SPDX-License-Identifier: MIT */
/* pci_bus.c - one PCI bus (PCI local bus 3.0, 3.2.2.3 and 6; PCI Express 7.2.2). See pci_bus.h.
 *
 * What decodes is a function of the registers alone: after each write that
 * may matter it is worked out anew for all of them, and only the differences
 * are carried out.
 */
#include "transport/pci_bus.h"

#include <errno.h>
#include <string.h>

enum { /* configuration space */
	C_VENDOR = 0x00,
	C_COMMAND = 0x04,
	C_STATUS = 0x06,
	C_CLASS = 0x0a,
	C_BAR = 0x10,
	C_LINE = 0x3c,
};

enum { COMMAND_IO = 1, COMMAND_MEMORY = 2, COMMAND_MASTER = 4, COMMAND_NO_INTX = 1 << 10 };
enum { STATUS_INTERRUPT = 1 << 3 };
enum { BAR_IS_IO = 1, BAR_IS_64 = 4 };

#define ADDRESS_ENABLE 0x80000000u
#define BRIDGE_VENDOR 0x1af4 /* nobody else's driver shall take our bridge for its own */
#define BRIDGE_DEVICE 0x10fe
#define CLASS_HOST_BRIDGE 0x0600

void pci_config_set(struct pci_function *f, unsigned int reg, unsigned int width, uint64_t value)
{
	for (unsigned int i = 0; i < width && reg + i < PCI_CONFIG_SIZE; i++)
		f->config[reg + i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get(const uint8_t *bytes, unsigned int reg, unsigned int width)
{
	uint64_t value = 0;

	for (unsigned int i = 0; i < width && reg + i < PCI_CONFIG_SIZE; i++)
		value |= (uint64_t)bytes[reg + i] << 8 * i;
	return value;
}

uint64_t pci_config_get(const struct pci_function *f, unsigned int reg, unsigned int width)
{
	return get(f->config, reg, width);
}

void pci_bus_interrupt(struct pci_function *f, bool on)
{
	if (!f->bus)
		return;
	pthread_mutex_lock(&f->bus->lock);
	f->config[C_STATUS] = (uint8_t)((f->config[C_STATUS] & ~STATUS_INTERRUPT) | (on ? STATUS_INTERRUPT : 0));
	pthread_mutex_unlock(&f->bus->lock);
}

/* ---- who decodes what ---- */

/** struct decoded - one BAR, as the registers want it */
struct decoded {
	struct pci_function *f;
	unsigned int bar;
	enum pci_space space;
	uint64_t first, size;
};

static bool inside(const struct pci_window *w, uint64_t first, uint64_t size)
{
	return first >= w->first && size <= w->size && first - w->first <= w->size - size;
}

static enum pci_space space_of(const struct pci_bar *bar)
{
	return bar->kind == PCI_BAR_IO ? PCI_IO : PCI_MEMORY;
}

/* Where BAR @i of @f would answer; false when it does not, others left aside. */
static bool wants(const struct pci_bus *b, struct pci_function *f, unsigned int i, struct decoded *out)
{
	const struct pci_bar *bar = &f->bar[i];
	unsigned int command = (unsigned int)get(f->config, C_COMMAND, 2);
	uint64_t reg;

	if (bar->kind == PCI_BAR_NONE || !(command & (bar->kind == PCI_BAR_IO ? COMMAND_IO : COMMAND_MEMORY)))
		return false;
	reg = get(f->config, C_BAR + 4 * i, bar->kind == PCI_BAR_64 ? 8 : 4) & ~(bar->size - 1);
	*out = (struct decoded){f, i, space_of(bar), reg, bar->size};
	if (bar->kind == PCI_BAR_IO)
		return inside(&b->env.io, reg, bar->size);
	return inside(&b->env.mem32, reg, bar->size) || inside(&b->env.mem64, reg, bar->size);
}

static unsigned int work_out(const struct pci_bus *b, struct decoded *out)
{
	unsigned int n = 0, k;

	for (unsigned int d = 0; d < PCI_DEVICES; d++) {
		for (unsigned int i = 0; b->functions[d] && i < PCI_BARS; i++) {
			if (!wants(b, b->functions[d], i, &out[n]))
				continue;
			for (k = 0; k < n; k++)
				if (out[k].space == out[n].space && out[k].first < out[n].first + out[n].size &&
				    out[n].first < out[k].first + out[k].size)
					break;
			n += k == n;
		}
	}
	return n;
}

static const struct decoded *find(const struct decoded *list, unsigned int n, const struct pci_function *f,
				  unsigned int bar)
{
	for (unsigned int k = 0; k < n; k++)
		if (list[k].f == f && list[k].bar == bar)
			return &list[k];
	return NULL;
}

static void decode(struct pci_bus *b, struct pci_function *f, unsigned int i, uint64_t address, bool on)
{
	struct pci_bar *bar = &f->bar[i];

	if (!on && b->env.decode)
		b->env.decode(b->env.arg, f, i, bar->address, false);
	pthread_mutex_lock(&b->lock);
	bar->decoded = on;
	bar->address = on ? address : bar->address;
	pthread_mutex_unlock(&b->lock);
	if (on && b->env.decode)
		b->env.decode(b->env.arg, f, i, address, true);
}

/* Only the control loop writes configuration, so it may read it without the lock. */
static void redecode(struct pci_bus *b)
{
	struct decoded list[PCI_DEVICES * PCI_BARS];
	unsigned int n = work_out(b, list);

	/* First let go of everything that moves, then take the new places. */
	for (unsigned int d = 0; d < PCI_DEVICES; d++) {
		for (unsigned int i = 0; b->functions[d] && i < PCI_BARS; i++) {
			struct pci_bar *bar = &b->functions[d]->bar[i];
			const struct decoded *now = find(list, n, b->functions[d], i);

			if (bar->decoded && (!now || now->first != bar->address))
				decode(b, b->functions[d], i, 0, false);
		}
	}
	for (unsigned int k = 0; k < n; k++)
		if (!list[k].f->bar[list[k].bar].decoded)
			decode(b, list[k].f, list[k].bar, list[k].first, true);
}

/* ---- configuration accesses ---- */

struct config_access {
	struct pci_bus *b;
	struct pci_function *f;
	unsigned int reg, width;
	uint32_t value;
};

static bool touches(const struct config_access *a, unsigned int first, unsigned int len)
{
	return a->reg < first + len && first < a->reg + a->width;
}

static void write_on_control(void *arg)
{
	struct config_access *a = arg;
	struct pci_function *f = a->f;

	pthread_mutex_lock(&a->b->lock);
	for (unsigned int i = 0; i < a->width && a->reg + i < PCI_CONFIG_SIZE; i++) {
		uint8_t mask = f->writable[a->reg + i], now = (uint8_t)(a->value >> 8 * i);

		f->config[a->reg + i] = (uint8_t)((f->config[a->reg + i] & ~mask) | (now & mask));
	}
	pthread_mutex_unlock(&a->b->lock);
	if (touches(a, C_COMMAND, 2) || touches(a, C_BAR, 4 * PCI_BARS))
		redecode(a->b);
	if (f->ops && f->ops->config_written)
		f->ops->config_written(f, a->reg, a->width);
}

static void look_up(void *arg)
{
	struct pci_function *f = arg;

	f->ops->config_read(f);
}

static bool legal_access(unsigned int device, unsigned int reg, unsigned int width)
{
	return device < PCI_DEVICES && width <= 4 && reg < 4096;
}

uint32_t pci_bus_config_read(struct pci_bus *b, unsigned int device, unsigned int reg, unsigned int width)
{
	struct config_access a = {b, NULL, reg, width, 0};
	uint32_t value;

	if (!legal_access(device, reg, width) || !b->functions[device])
		return UINT32_MAX;
	a.f = b->functions[device];
	if (a.f->live && touches(&a, a.f->live, 4))
		sl_loop_invoke(b->env.control, look_up, a.f);
	pthread_mutex_lock(&b->lock);
	value = (uint32_t)get(a.f->config, reg, width);
	pthread_mutex_unlock(&b->lock);
	return value;
}

void pci_bus_config_write(struct pci_bus *b, unsigned int device, unsigned int reg, unsigned int width, uint32_t value)
{
	struct config_access a = {b, NULL, reg, width, value};

	if (!legal_access(device, reg, width) || !b->functions[device] || reg >= PCI_CONFIG_SIZE)
		return;
	a.f = b->functions[device];
	sl_loop_invoke(b->env.control, write_on_control, &a);
}

/* The function and register that the address port points at; bus 0, function 0 only. */
static bool selected(struct pci_bus *b, uint16_t port, unsigned int *device, unsigned int *reg)
{
	uint32_t address = __atomic_load_n(&b->address, __ATOMIC_RELAXED);

	*device = address >> 11 & 31;
	*reg = (address & 0xfc) + (port & 3);
	return address & ADDRESS_ENABLE && !(address & 0x7fff0700);
}

static uint64_t ones(unsigned int width)
{
	return width >= 8 ? UINT64_MAX : (1ull << 8 * width) - 1;
}

uint32_t pci_bus_port_read(struct pci_bus *b, uint16_t port, unsigned int width)
{
	unsigned int device, reg;

	if (port == PCI_PORT_ADDRESS && width == 4)
		return __atomic_load_n(&b->address, __ATOMIC_RELAXED);
	if (port < PCI_PORT_DATA || port > PCI_PORT_DATA + 3 || !selected(b, port, &device, &reg))
		return (uint32_t)ones(width);
	return pci_bus_config_read(b, device, reg, width) & (uint32_t)ones(width);
}

void pci_bus_port_write(struct pci_bus *b, uint16_t port, unsigned int width, uint32_t value)
{
	unsigned int device, reg;

	if (port == PCI_PORT_ADDRESS && width == 4)
		__atomic_store_n(&b->address, value & ~3u, __ATOMIC_RELAXED);
	else if (port >= PCI_PORT_DATA && port <= PCI_PORT_DATA + 3 && selected(b, port, &device, &reg))
		pci_bus_config_write(b, device, reg, width, value);
}

uint64_t pci_bus_ecam_read(struct pci_bus *b, uint64_t off, unsigned int width)
{
	unsigned int device = off >> 15 & 31, reg = off & 4095;
	uint64_t value;

	if (off >= PCI_ECAM_SIZE || off >> 12 & 7 || !b->functions[device])
		return ones(width);
	value = pci_bus_config_read(b, device, reg, width > 4 ? 4 : width);
	if (width > 4)
		value |= (uint64_t)pci_bus_config_read(b, device, reg + 4, width - 4) << 32;
	return value & ones(width);
}

void pci_bus_ecam_write(struct pci_bus *b, uint64_t off, unsigned int width, uint64_t value)
{
	unsigned int device = off >> 15 & 31, reg = off & 4095;

	if (off >= PCI_ECAM_SIZE || off >> 12 & 7)
		return;
	pci_bus_config_write(b, device, reg, width > 4 ? 4 : width, (uint32_t)value);
	if (width > 4)
		pci_bus_config_write(b, device, reg + 4, width - 4, (uint32_t)(value >> 32));
}

/* ---- accesses to what the BARs decode ---- */

/* Who answers at @address, and with which BAR; NULL: nobody. */
static struct pci_function *at(struct pci_bus *b, enum pci_space space, uint64_t address, unsigned int width,
			       unsigned int *bar, uint64_t *off)
{
	struct pci_function *found = NULL;

	pthread_mutex_lock(&b->lock);
	for (unsigned int d = 0; d < PCI_DEVICES && !found; d++) {
		for (unsigned int i = 0; b->functions[d] && i < PCI_BARS; i++) {
			const struct pci_bar *r = &b->functions[d]->bar[i];

			if (!r->decoded || space_of(r) != space || address < r->address ||
			    address - r->address >= r->size || width > r->size - (address - r->address))
				continue;
			*bar = i;
			*off = address - r->address;
			found = b->functions[d];
			break;
		}
	}
	pthread_mutex_unlock(&b->lock);
	return found;
}

bool pci_bus_read(struct pci_bus *b, enum pci_space space, uint64_t address, unsigned int width, uint64_t *value)
{
	unsigned int bar;
	uint64_t off;
	struct pci_function *f = width <= 8 ? at(b, space, address, width, &bar, &off) : NULL;

	*value = f ? f->ops->bar_read(f, bar, off, width) & ones(width) : ones(width);
	return f != NULL;
}

bool pci_bus_write(struct pci_bus *b, enum pci_space space, uint64_t address, unsigned int width, uint64_t value,
		   struct pci_function **wait)
{
	unsigned int bar;
	uint64_t off;
	struct pci_function *f = width <= 8 ? at(b, space, address, width, &bar, &off) : NULL;

	*wait = NULL;
	if (!f)
		return false;
	if (!f->ops->bar_write(f, bar, off, width, value) && f->ops->wait)
		*wait = f;
	return true;
}

/* ---- life ---- */

void pci_bus_init(struct pci_bus *b, const struct pci_bus_env *env)
{
	*b = (struct pci_bus){.env = *env};
	pthread_mutex_init(&b->lock, NULL);
	pci_config_set(&b->bridge, C_VENDOR, 4, BRIDGE_VENDOR | BRIDGE_DEVICE << 16);
	pci_config_set(&b->bridge, C_CLASS, 2, CLASS_HOST_BRIDGE);
	memcpy(b->bridge.initial, b->bridge.config, PCI_CONFIG_SIZE);
	b->bridge.bus = b;
	b->functions[0] = &b->bridge;
}

void pci_bus_destroy(struct pci_bus *b)
{
	pthread_mutex_destroy(&b->lock);
}

/* Room for a BAR at the front of what is left of @w; 0: there is none. */
static uint64_t take(const struct pci_window *w, uint64_t *used, uint64_t size)
{
	uint64_t first = (w->first + *used + size - 1) & ~(size - 1);

	if (!w->size || first < w->first || !inside(w, first, size))
		return 0;
	*used = first + size - w->first;
	return first;
}

static int assign(struct pci_bus *b, struct pci_function *f, unsigned int i, struct sl_err *err)
{
	const struct pci_bar *bar = &f->bar[i];
	bool io = bar->kind == PCI_BAR_IO, wide = bar->kind == PCI_BAR_64;
	unsigned int width = wide ? 8 : 4, reg = C_BAR + 4 * i;
	uint64_t first = 0, mask = ~(bar->size - 1);

	if (io)
		first = take(&b->env.io, &b->io_used, bar->size);
	if (wide)
		first = take(&b->env.mem64, &b->mem64_used, bar->size);
	if (!io && !first)
		first = take(&b->env.mem32, &b->mem32_used, bar->size);
	if (!first)
		return sl_err_set(err, ENOSPC, "pci: device %u: no room for %llu bytes of %s", f->device,
				  (unsigned long long)bar->size, io ? "ports" : "memory");
	pci_config_set(f, reg, width, first | (io ? BAR_IS_IO : 0) | (wide ? BAR_IS_64 : 0));
	for (unsigned int k = 0; k < width; k++)
		f->writable[reg + k] = (uint8_t)(mask >> 8 * k);
	return 0;
}

int pci_bus_add(struct pci_bus *b, struct pci_function *f, unsigned int device, uint8_t line, struct sl_err *err)
{
	int ret = 0;

	if (!device || device >= PCI_DEVICES || b->functions[device])
		return sl_err_set(err, EINVAL, "pci: device %u: taken, or not from 1 to %u", device, PCI_DEVICES - 1);
	f->bus = b;
	f->device = device;
	for (unsigned int i = 0; i < PCI_BARS && !ret; i++)
		if (f->bar[i].kind != PCI_BAR_NONE)
			ret = assign(b, f, i, err);
	if (ret)
		return ret;
	f->writable[C_COMMAND] = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER;
	f->writable[C_COMMAND + 1] = COMMAND_NO_INTX >> 8;
	f->config[C_LINE] = line;
	f->writable[C_LINE] = 0xff;
	memcpy(f->initial, f->config, PCI_CONFIG_SIZE);
	b->functions[device] = f;
	return 0;
}

void pci_bus_reset(struct pci_bus *b)
{
	__atomic_store_n(&b->address, 0, __ATOMIC_RELAXED);
	for (unsigned int d = 0; d < PCI_DEVICES; d++) {
		struct pci_function *f = b->functions[d];

		if (!f)
			continue;
		pthread_mutex_lock(&b->lock);
		for (unsigned int i = 0; i < PCI_CONFIG_SIZE; i++)
			if (i != C_STATUS) /* which nobody writes; it shows what is now */
				f->config[i] = f->initial[i];
		pthread_mutex_unlock(&b->lock);
		if (f->ops && f->ops->reset)
			f->ops->reset(f);
	}
	redecode(b);
}
