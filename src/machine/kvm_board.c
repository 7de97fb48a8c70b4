/* SPDX-License-Identifier: MIT */
/* kvm_board.c - who answers when a guest leaves KVM
 *
 * What nobody answers reads as all ones and swallows writes, as on a PC.
 */
#include "machine/kvm_board.h"

#include <sluice/loop.h>

#define WAIT_MS 10000 /* a driver's patience with a reset; after that it sees the register as it is */

#define I8042_RESET 0xfe
#define RESET_CPU 0x04 /* bit of the register at PORT_RESET */

enum { PM_STATUS = 0, PM_ENABLE = 2, PM_CONTROL = 4, PM_TIMER = 8, PM_PORTS = 16 };
#define PM_POWER_BUTTON 0x0100
#define PM_STATUS_BITS 0x8731 /* those that are cleared by writing them */
#define PM_SCI_ENABLE 0x0001
#define PM_SLEEP_TYPE(control) ((control) >> 10 & 7)
#define PM_SLEEP 0x2000
#define PM_TYPE_OFF 0
#define PM_TIMER_HZ 3579545ULL

/* ---- power management ---- */

static void update_sci(struct board *b)
{
	bool level = b->pm_status & b->pm_enable;

	if (level == b->sci)
		return;
	b->sci = level;
	kvm_vm_irq(b->vm, GSI_SCI, level);
}

static uint32_t pm_timer(const struct board *b)
{
	uint64_t ns = sl_now() - b->pm_start;

	return (uint32_t)(ns / 1000000000 * PM_TIMER_HZ + ns % 1000000000 * PM_TIMER_HZ / 1000000000);
}

static uint32_t pm_read(struct board *b, unsigned int reg)
{
	switch (reg) {
	case PM_STATUS:
		return b->pm_status | (uint32_t)b->pm_enable << 16;
	case PM_ENABLE:
		return b->pm_enable;
	case PM_CONTROL:
		return b->pm_control | PM_SCI_ENABLE;
	case PM_TIMER:
		return pm_timer(b);
	default:
		return 0;
	}
}

/* True when the guest goes to sleep, which for this machine is "off". */
static bool pm_write(struct board *b, unsigned int reg, unsigned int width, uint32_t value)
{
	bool off = false;

	switch (reg) {
	case PM_STATUS:
		b->pm_status &= (uint16_t)~(value & PM_STATUS_BITS);
		if (width == 4)
			b->pm_enable = (uint16_t)(value >> 16);
		break;
	case PM_ENABLE:
		b->pm_enable = (uint16_t)value;
		break;
	case PM_CONTROL:
		off = value & PM_SLEEP && PM_SLEEP_TYPE(value) == PM_TYPE_OFF;
		b->pm_control = (uint16_t)(value & ~PM_SLEEP);
		break;
	default:
		break;
	}
	update_sci(b);
	return off;
}

void board_power_button(struct board *b)
{
	pthread_mutex_lock(&b->lock);
	b->pm_status |= PM_POWER_BUTTON;
	update_sci(b);
	pthread_mutex_unlock(&b->lock);
}

static uint32_t pm_port(struct board *b, unsigned int reg, unsigned int width, bool write, uint32_t value)
{
	bool off = false;

	pthread_mutex_lock(&b->lock);
	if (write)
		off = pm_write(b, reg, width, value);
	else
		value = pm_read(b, reg);
	pthread_mutex_unlock(&b->lock);
	if (off)
		b->ops->end(b->arg, GUEST_OFF);
	return value;
}

/* ---- ports ---- */

static uint32_t rtc_port(struct board *b, unsigned int port, bool write, uint32_t value)
{
	pthread_mutex_lock(&b->lock);
	if (write)
		rtc_write(&b->rtc, port, (uint8_t)value);
	else
		value = rtc_read(&b->rtc, port);
	pthread_mutex_unlock(&b->lock);
	return value;
}

static bool in(uint64_t addr, uint64_t first, uint64_t size)
{
	return addr - first < size;
}

/* A port of one byte: 0x60, 0x64, 0x70, 0x71, the serial port. True when there is one. */
static bool byte_port(struct board *b, uint16_t port, bool write, uint32_t *value)
{
	if (in(port, PORT_COM1, UART_PORTS)) {
		if (write)
			uart16550_write(&b->uart, port - PORT_COM1, (uint8_t)*value);
		else
			*value = uart16550_read(&b->uart, port - PORT_COM1);
	} else if (in(port, PORT_RTC, RTC_PORTS)) {
		*value = rtc_port(b, port - PORT_RTC, write, *value);
	} else if (port == PORT_I8042_COMMAND) {
		if (write && (uint8_t)*value == I8042_RESET)
			b->ops->end(b->arg, GUEST_RESET);
		if (!write)
			*value = 0; /* no keyboard: nothing to read, ready for a command */
	} else if (port == PORT_RESET) {
		if (write && *value & RESET_CPU)
			b->ops->end(b->arg, GUEST_RESET);
		if (!write)
			*value = 0;
	} else {
		return false;
	}
	return true;
}

static void pci_memory(struct board *b, enum pci_space space, uint64_t addr, unsigned int width, bool write,
		       uint64_t *value)
{
	struct pci_function *wait = NULL;

	if (!write)
		pci_bus_read(&b->pci, space, addr, width, value);
	else if (pci_bus_write(&b->pci, space, addr, width, *value, &wait) && wait)
		wait->ops->wait(wait, WAIT_MS);
}

void board_port(struct board *b, uint16_t port, unsigned int width, bool write, uint32_t *value)
{
	uint64_t wide = *value;

	if (width == 1 && byte_port(b, port, write, value))
		return;
	if (in(port, PORT_PM, PM_PORTS)) {
		*value = pm_port(b, port - PORT_PM, width, write, *value);
	} else if (in(port, PORT_PCI_ADDRESS, 8)) {
		if (write)
			pci_bus_port_write(&b->pci, port, width, *value);
		else
			*value = pci_bus_port_read(&b->pci, port, width);
	} else if (port >= PORT_PCI_IO) {
		pci_memory(b, PCI_IO, port, width, write, &wide);
		*value = (uint32_t)wide;
	} else if (!write) {
		*value = UINT32_MAX;
	}
}

/* ---- memory ---- */

static void virtio_mmio(struct mmio *t, uint64_t off, unsigned int width, bool write, uint64_t *value)
{
	if (!write)
		*value = mmio_read(t, off, width);
	else if (!mmio_write(t, off, width, *value))
		mmio_wait(t, WAIT_MS);
}

void board_memory(struct board *b, uint64_t addr, unsigned int width, bool write, uint64_t *value)
{
	if (in(addr, LAYOUT_VIRTIO_MMIO, LAYOUT_VIRTIO_MMIO_STRIDE * BOARD_MAX_MMIO)) {
		struct mmio *t = b->mmio[(addr - LAYOUT_VIRTIO_MMIO) / LAYOUT_VIRTIO_MMIO_STRIDE];

		if (t) {
			virtio_mmio(t, (addr - LAYOUT_VIRTIO_MMIO) % LAYOUT_VIRTIO_MMIO_STRIDE, width, write, value);
			return;
		}
	} else if (in(addr, LAYOUT_ECAM, LAYOUT_ECAM_SIZE)) {
		if (write)
			pci_bus_ecam_write(&b->pci, addr - LAYOUT_ECAM, width, *value);
		else
			*value = pci_bus_ecam_read(&b->pci, addr - LAYOUT_ECAM, width);
		return;
	} else if (in(addr, LAYOUT_PCI_MMIO, LAYOUT_PCI_MMIO_SIZE)) {
		pci_memory(b, PCI_MEMORY, addr, width, write, value);
		return;
	}
	if (!write)
		*value = UINT64_MAX;
}

/* ---- life ---- */

static void uart_irq(void *arg, bool level)
{
	struct board *b = arg;

	kvm_vm_irq(b->vm, GSI_COM1, level);
}

static void uart_output(void *arg)
{
	struct board *b = arg;

	b->ops->output(b->arg);
}

static void uart_room(void *arg)
{
	struct board *b = arg;

	b->ops->room(b->arg);
}

static const struct uart16550_ops uart_ops = {
	.irq = uart_irq,
	.output = uart_output,
	.room = uart_room,
};

void board_init(struct board *b, struct kvm_vm *vm, const struct pci_bus_env *pci, const struct board_ops *ops, void *arg)
{
	*b = (struct board){.vm = vm, .ops = ops, .arg = arg, .pm_start = sl_now()};
	pthread_mutex_init(&b->lock, NULL);
	uart16550_init(&b->uart, &uart_ops, b);
	rtc_init(&b->rtc);
	pci_bus_init(&b->pci, pci);
}

void board_destroy(struct board *b)
{
	pci_bus_destroy(&b->pci);
	uart16550_destroy(&b->uart);
	pthread_mutex_destroy(&b->lock);
}
