/* SPDX-License-Identifier: MIT */
/* kvm_device.c - a virtio device of this process in a KVM machine
 *
 * Theory of Operation
 *
 *     guest writes the notification register -> ioeventfd -> the queue's loop pops, works, pushes
 *         -> eventfd -> irqfd -> the guest's interrupt
 *
 * No processor's thread is in that circle. On PCI each queue has a word of
 * its own, at which an ioeventfd of length 0 takes any value; KVM needs not
 * even decode the instruction. On MMIO all queues share a register and the
 * ioeventfds tell them apart by the value.
 *
 * An MSI-X vector gets its eventfd and its GSI when it is first unmasked. From
 * then on masking only takes the irqfd away; an event in between stays in the
 * eventfd, and KVM looks there when the irqfd comes back.
 *
 * On MMIO an interrupt is an edge: InterruptStatus always shows the bit of the
 * queues, its acknowledgement means nothing and ends in an eventfd that nobody
 * reads. The registers are readable without leaving the guest.
 *
 * ioeventfd=off and irqfd=off take these short cuts away, for comparison: the
 * processor's thread hands notifications to the queue's loop, and interrupts
 * are ioctls; on MMIO a level then, which the acknowledgement takes back.
 */
#include "machine/kvm_device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <sluice/log.h>

/* Pins of the I/O APIC that nothing else has, one for each device on MMIO. */
static const uint8_t mmio_pins[BOARD_MAX_MMIO] = {5, 6, 7, 10, 11, 12, 14, 15, 20, 21, 22, 23, 3};

/**
 * struct vector - an MSI-X vector
 * @fd:  eventfd, -1 until it is first needed
 * @gsi: its route
 * @on:  the irqfd is connected
 */
struct vector {
	int fd;
	unsigned int gsi;
	bool on;
};

/**
 * struct kvm_device
 * @pci, @mmio: one of them
 * @kicks:      an eventfd for each queue
 * @pin, @intx: PCI: which of the four pins, and whether this device holds it; MMIO: pin of the I/O APIC
 * @call, @ack: MMIO: the interrupt's eventfd, and the one that swallows acknowledgements; else -1
 */
struct kvm_device {
	struct kvm_bus *bus;
	struct sl_device *dev;
	struct machine_link link;
	struct pci *pci;
	struct mmio *mmio;
	unsigned int num_queues, num_vectors;
	int *kicks;
	struct vector *vectors;
	unsigned int pin;
	bool intx;
	int call, ack;
};

void kvm_bus_init(struct kvm_bus *bus, struct kvm_vm *vm, struct board *board)
{
	*bus = (struct kvm_bus){.vm = vm, .board = board};
	pthread_mutex_init(&bus->lock, NULL);
}

/* ---- PCI ---- */

static void pci_irq(void *arg, bool level)
{
	struct kvm_device *d = arg;
	struct kvm_bus *bus = d->bus;
	unsigned int *holders = &bus->intx[d->pin];

	pthread_mutex_lock(&bus->lock);
	if (d->intx != level) {
		d->intx = level;
		if (level ? !(*holders)++ : !--*holders)
			kvm_vm_irq(bus->vm, GSI_PCI + d->pin, level);
	}
	pthread_mutex_unlock(&bus->lock);
}

static void pci_msi(void *arg, uint64_t address, uint32_t data)
{
	struct kvm_device *d = arg;

	kvm_vm_msi_send(d->bus->vm, address, data);
}

static int vector_new(struct kvm_device *d, struct vector *v)
{
	int gsi = kvm_vm_msi_alloc(d->bus->vm);

	if (gsi < 0)
		return gsi;
	v->gsi = (unsigned int)gsi;
	v->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (v->fd < 0)
		kvm_vm_msi_release(d->bus->vm, v->gsi);
	return v->fd;
}

static int pci_vector_on(void *arg, unsigned int vector, uint64_t address, uint32_t data)
{
	struct kvm_device *d = arg;
	struct vector *v = &d->vectors[vector];

	if (v->fd < 0 && vector_new(d, v) < 0)
		return -1; /* out of routes: then by pci_msi() */
	if (kvm_vm_msi_route(d->bus->vm, v->gsi, address, data))
		return -1;
	if (!v->on)
		v->on = !kvm_vm_irqfd(d->bus->vm, v->fd, v->gsi, true);
	return v->on ? v->fd : -1;
}

static void pci_vector_off(void *arg, unsigned int vector)
{
	struct kvm_device *d = arg;
	struct vector *v = &d->vectors[vector];

	if (v->on)
		kvm_vm_irqfd(d->bus->vm, v->fd, v->gsi, false);
	v->on = false;
}

void kvm_bus_decode(void *arg, struct pci_function *f, unsigned int bar, uint64_t address, bool on)
{
	struct kvm_bus *bus = arg;
	struct kvm_device *d = bus->pci[f->device];

	if (!d || !d->link.ioeventfd || (bar != PCI_VIRTIO_BAR && bar != PCI_LEGACY_BAR))
		return;
	for (unsigned int i = 0; i < d->num_queues; i++) {
		const struct kvm_doorbell bell = bar == PCI_VIRTIO_BAR ?
			(struct kvm_doorbell){.addr = address + PCI_NOTIFY + i * PCI_NOTIFY_STRIDE} :
			(struct kvm_doorbell){address + PCI_LEGACY_NOTIFY, i, 2, .pio = true, .match = true};
		int ret = kvm_vm_ioeventfd(bus->vm, &bell, d->kicks[i], on);

		if (ret && on) /* its notifications then come by way of a processor's thread */
			sl_log(SL_LOG_WARN, "run: %s: queue %u has no ioeventfd: %s", sl_device_name(d->dev), i, strerror(-ret));
	}
}

static int attach_pci(struct kvm_device *d, struct sl_err *err)
{
	struct kvm_bus *bus = d->bus;
	unsigned int device = bus->num_pci + 1;
	const struct pci_env env = {
		.arg = d, .irq = pci_irq, .msi = pci_msi,
		.vector_on = d->link.irqfd ? pci_vector_on : NULL, .vector_off = d->link.irqfd ? pci_vector_off : NULL,
		.kick_fds = d->link.ioeventfd ? d->kicks : NULL, .transitional = d->link.legacy,
	};
	int ret;

	if (device >= PCI_DEVICES)
		return sl_err_set(err, E2BIG, "%s: no room on the PCI bus for more than %d devices",
				  sl_device_name(d->dev), PCI_DEVICES - 1);
	d->pin = device % 4;
	d->pci = pci_new(d->dev, &env, err);
	if (!d->pci)
		return -ENOMEM;
	d->num_vectors = pci_num_vectors(d->pci);
	d->vectors = calloc(d->num_vectors, sizeof(*d->vectors));
	if (!d->vectors)
		return sl_err_set(err, ENOMEM, "out of memory");
	for (unsigned int i = 0; i < d->num_vectors; i++)
		d->vectors[i].fd = -1;
	ret = pci_bus_add(&bus->board->pci, pci_function(d->pci), device, (uint8_t)(GSI_PCI + d->pin), err);
	if (ret)
		return ret;
	bus->pci[device] = d;
	bus->num_pci++;
	pci_set_mem(d->pci, bus->vm->mem);
	return 0;
}

/* ---- MMIO ---- */

/* Without an irqfd. */
static void mmio_irq(void *arg, bool level)
{
	struct kvm_device *d = arg;

	kvm_vm_irq(d->bus->vm, d->pin, level);
}

/* Connect the doorbells and the interrupt of a device at @at. */
static int connect_mmio(struct kvm_device *d, const struct acpi_mmio *at)
{
	struct kvm_doorbell bell = {.addr = at->addr + MMIO_QUEUE_NOTIFY, .len = 4, .match = true};
	struct kvm_vm *vm = d->bus->vm;
	int ret = d->call >= 0 ? kvm_vm_irqfd(vm, d->call, at->gsi, true) : 0;

	for (unsigned int i = 0; i < d->num_queues && !ret && d->link.ioeventfd; i++) {
		bell.data = i;
		ret = kvm_vm_ioeventfd(vm, &bell, d->kicks[i], true);
	}
	bell = (struct kvm_doorbell){at->addr + MMIO_INTERRUPT_ACK, MMIO_ACK_QUEUES, 4, .match = true};
	if (!ret && d->ack >= 0)
		ret = kvm_vm_ioeventfd(vm, &bell, d->ack, true);
	if (!ret)
		ret = kvm_vm_show(vm, at->addr, mmio_page(d->mmio), MMIO_SIZE);
	return ret;
}

/* The interrupt's eventfd, and the one for acknowledgements, as far as the keys allow them. */
static int mmio_events(struct kvm_device *d, struct sl_err *err)
{
	if (!d->link.irqfd)
		return 0;
	d->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->call >= 0 && d->link.ioeventfd)
		d->ack = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->call < 0 || (d->link.ioeventfd && d->ack < 0))
		return sl_err_set(err, errno, "eventfd: %s", strerror(errno));
	return 0;
}

static int attach_mmio(struct kvm_device *d, struct sl_err *err)
{
	struct kvm_bus *bus = d->bus;
	struct acpi_mmio *at = &bus->mmio[bus->num_mmio];
	struct mmio_env env = {
		.arg = d, .irq = mmio_irq, .kick_fds = d->link.ioeventfd ? d->kicks : NULL, .legacy = d->link.legacy,
	};
	int ret;

	if (bus->num_mmio == BOARD_MAX_MMIO)
		return sl_err_set(err, E2BIG, "%s: no room for more than %d devices with transport=mmio",
				  sl_device_name(d->dev), BOARD_MAX_MMIO);
	ret = mmio_events(d, err);
	if (ret)
		return ret;
	env.irq_fd = d->call;
	d->mmio = mmio_new(d->dev, &env, err);
	if (!d->mmio)
		return -ENOMEM;
	*at = (struct acpi_mmio){
		LAYOUT_VIRTIO_MMIO + bus->num_mmio * LAYOUT_VIRTIO_MMIO_STRIDE, MMIO_SIZE, mmio_pins[bus->num_mmio],
		.level = !d->link.irqfd,
	};
	d->pin = at->gsi;
	ret = connect_mmio(d, at);
	if (ret)
		return sl_err_set(err, -ret, "%s: KVM: cannot connect it: %s", sl_device_name(d->dev), strerror(-ret));
	bus->board->mmio[bus->num_mmio++] = d->mmio;
	mmio_set_mem(d->mmio, bus->vm->mem);
	return 0;
}

/* ---- life ---- */

static struct kvm_device *device_new(struct kvm_bus *bus, struct sl_device *dev, const struct machine_link *link,
				     struct sl_err *err)
{
	struct kvm_device *d = calloc(1, sizeof(*d));

	if (d)
		*d = (struct kvm_device){.bus = bus, .dev = dev, .link = *link, .call = -1, .ack = -1};
	if (d)
		d->kicks = calloc(sl_device_num_queues(dev), sizeof(*d->kicks));
	if (!d || !d->kicks) {
		free(d);
		sl_err_set(err, ENOMEM, "out of memory");
		return NULL;
	}
	for (; d->num_queues < sl_device_num_queues(dev); d->num_queues++) {
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

		if (fd < 0) {
			sl_err_set(err, errno, "%s: eventfd: %s", sl_device_name(dev), strerror(errno));
			kvm_device_remove(d);
			return NULL;
		}
		d->kicks[d->num_queues] = fd;
	}
	return d;
}

struct kvm_device *kvm_device_add(struct kvm_bus *bus, struct sl_device *dev, const struct machine_link *link,
				  struct sl_err *err)
{
	struct kvm_device *d = device_new(bus, dev, link, err);

	if (d && (link->mmio ? attach_mmio(d, err) : attach_pci(d, err))) {
		kvm_device_remove(d);
		return NULL;
	}
	return d;
}

static void reset_done(void *arg)
{
	*(bool *)arg = true;
}

/* Wait for the requests in flight. No processor runs any more, so the control loop is ours to turn. */
static void quiesce(struct kvm_device *d)
{
	bool done = false;

	if (d->pci)
		pci_reset(d->pci, reset_done, &done);
	else if (d->mmio)
		mmio_reset(d->mmio, reset_done, &done);
	while ((d->pci || d->mmio) && !done)
		sl_loop_step(sl_device_control(d->dev), 10);
}

void kvm_device_remove(struct kvm_device *d)
{
	if (!d)
		return;
	quiesce(d);
	pci_free(d->pci);
	mmio_free(d->mmio);
	for (unsigned int i = 0; i < d->num_vectors && d->vectors; i++)
		if (d->vectors[i].fd >= 0)
			close(d->vectors[i].fd);
	for (unsigned int i = 0; i < d->num_queues; i++)
		close(d->kicks[i]);
	if (d->call >= 0)
		close(d->call);
	if (d->ack >= 0)
		close(d->ack);
	free(d->vectors);
	free(d->kicks);
	free(d);
}
