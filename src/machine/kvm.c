/* SPDX-License-Identifier: MIT */
/* kvm.c - the engine that is sluice itself: KVM runs the guest, in this process
 *
 * docs/kvm.md describes the machine. This file puts its parts together:
 *
 *     kvm_vm      memory slots, interrupt routes, ioeventfd and irqfd
 *     kvm_vcpu    a thread for each processor; kvm_cpuid: what it is
 *     kvm_board   who answers at ports and addresses: serial port, clock, power, PCI, virtio-mmio
 *     kvm_device  a virtio device: transport, doorbells, interrupts
 *     kvm_acpi    the tables; kvm_boot: the kernel; kvm_serial: the console; kvm_probe: is this KVM any good?
 *
 * Threads: the control loop's, which is the caller's; the devices' data loops;
 * the processors'. These start in the first turn of the control loop, because
 * from then on they may ask it for something (see sl_loop_invoke()), and the
 * loop runs until the last of them has left.
 */
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine/engine.h"
#include "machine/kvm_acpi.h"
#include "machine/kvm_boot.h"
#include "machine/kvm_device.h"
#include "machine/kvm_serial.h"
#include "machine/kvm_vcpu.h"
#include "machine/placed.h"

/**
 * struct kvm - the engine's state
 * @start:   lets the processors run
 * @devices: one for each of the machine's
 * @built:   board, bus and serial port are there
 */
struct kvm {
	struct machine *m;
	struct kvm_vm vm;
	struct board board;
	struct kvm_bus bus;
	struct cpus cpus;
	struct serial serial;
	struct sl_task start;
	struct kvm_device **devices;
	bool built;
};

static bool kvm_hosts(uint16_t id)
{
	(void)id;
	return true;
}

/* Addresses that the processor has no lines for are of no use to a guest. */
static int check_memory(uint64_t memory, struct sl_err *err)
{
	unsigned int eax, ebx, ecx, edx, bits = 36;

	if (__get_cpuid(0x80000008, &eax, &ebx, &ecx, &edx))
		bits = eax & 0xff;
	if (memory + (LAYOUT_4G - LAYOUT_HOLE) > 1ULL << bits)
		return sl_err_set(err, EINVAL, "--memory: this processor has %u address lines, which is less", bits);
	return 0;
}

static int kvm_check(const struct machine_options *o, struct sl_err *err)
{
	int fd = kvm_open(err), ret;

	if (fd < 0)
		return fd;
	close(fd);
	if (o->cpus > KVM_MAX_CPUS)
		return sl_err_set(err, EINVAL, "--cpus %u: engine kvm has at most %d", o->cpus, KVM_MAX_CPUS);
	ret = check_memory(o->memory, err);
	if (!ret)
		ret = boot_check(o->kernel, err);
	if (!ret && o->initrd)
		ret = machine_check_file("--initrd", o->initrd, "", 0, "", err);
	return ret;
}

/* ---- what the board and the console ask for ---- */

static void guest_end(void *arg, enum guest_end how)
{
	struct kvm *k = arg;

	cpus_end(&k->cpus, how);
}

static void guest_output(void *arg)
{
	struct kvm *k = arg;

	serial_output(&k->serial);
}

static void guest_room(void *arg)
{
	struct kvm *k = arg;

	serial_room(&k->serial);
}

static const struct board_ops board_ops = {
	.end = guest_end,
	.output = guest_output,
	.room = guest_room,
};

static void escape_end(void *arg)
{
	struct kvm *k = arg;

	cpus_end(&k->cpus, GUEST_TOLD);
}

static void escape_button(void *arg)
{
	struct kvm *k = arg;

	board_power_button(&k->board);
}

static const struct serial_ops serial_ops = {
	.end = escape_end,
	.button = escape_button,
};

/* ---- start ---- */

/* A process that serves a device gets all of the guest's memory, as its devices here have. */
static int share_memory(struct kvm *k, struct remote *remote, struct sl_err *err)
{
	struct sl_link_region shared[SL_LINK_MAX_REGIONS];
	const struct sl_mem_region *regions;
	unsigned int n;

	regions = sl_mem_regions(k->vm.mem, &n);
	for (unsigned int i = 0; i < n; i++)
		shared[i] = (struct sl_link_region){
			.addr = regions[i].gpa, .size = regions[i].size, .hva = regions[i].hva, .fd = k->vm.memfd,
			.offset = i ? k->vm.below_4g : 0,
		};
	return remote_memory(remote, shared, n, err);
}

static int add_devices(struct kvm *k, struct sl_err *err)
{
	struct machine *m = k->m;

	k->devices = calloc(m->options->num_devices + 1, sizeof(*k->devices));
	if (!k->devices)
		return sl_err_set(err, ENOMEM, "out of memory");
	for (unsigned int i = 0; i < m->options->num_devices; i++) {
		struct machine_device *d = &m->devices[i];
		struct sl_device *dev = d->remote ? remote_device(d->remote) : d->served->dev;

		if (d->remote && share_memory(k, d->remote, err))
			return -EIO;
		k->devices[i] = kvm_device_add(&k->bus, dev, &d->link, err);
		if (!k->devices[i])
			return -EIO;
	}
	return 0;
}

static int put_tables(struct kvm *k, struct sl_err *err)
{
	const struct acpi_config cfg = {
		.cpus = k->m->options->cpus, .mmio = k->bus.mmio, .num_mmio = k->bus.num_mmio,
	};
	void *tables = sl_mem_range(k->vm.mem, LAYOUT_ACPI, LAYOUT_ACPI_SIZE, SL_MEM_WRITE);
	int ret = acpi_build(&cfg, LAYOUT_ACPI, tables, LAYOUT_ACPI_SIZE);

	return ret < 0 ? sl_err_set(err, -ret, "ACPI: no room for the tables") : 0;
}

static int load_kernel(struct kvm *k, struct boot_entry *entry, struct sl_err *err)
{
	const struct machine_options *o = k->m->options;
	struct boot_source src = {.kernel = o->kernel, .initrd = o->initrd, .rsdp = LAYOUT_ACPI};
	char *cmdline;
	int ret;

	if (asprintf(&cmdline, "console=ttyS0 panic=-1%s%s", o->append ? " " : "", o->append ? o->append : "") < 0)
		return sl_err_set(err, ENOMEM, "out of memory");
	src.cmdline = cmdline;
	ret = boot_load(&src, k->vm.mem, entry, err);
	free(cmdline);
	return ret;
}

static void start_cpus(void *arg)
{
	struct kvm *k = arg;
	int ret = cpus_start(&k->cpus);

	if (ret)
		sl_log(SL_LOG_ERROR, "run: cannot start a vCPU's thread: %s", strerror(-ret));
}

static enum kvm_memory memory_kind(const struct machine *m)
{
	if (m->options->hugepages)
		return KVM_MEMORY_HUGEPAGES;
	for (unsigned int i = 0; i < m->options->num_devices; i++)
		if (!m->devices[i].served)
			return KVM_MEMORY_SHARED; /* with the process that serves it */
	return KVM_MEMORY_PRIVATE;
}

static int build(struct kvm *k, int console, struct sl_err *err)
{
	struct machine *m = k->m;
	const struct pci_bus_env pci = {
		.arg = &k->bus, .control = m->control, .decode = kvm_bus_decode,
		.io = {PORT_PCI_IO, 0x10000 - PORT_PCI_IO}, .mem32 = {LAYOUT_PCI_MMIO, LAYOUT_PCI_MMIO_SIZE},
	};
	struct boot_entry entry;
	int ret = kvm_vm_new(&k->vm, m->options->memory, memory_kind(m), err);

	if (ret)
		return ret;
	board_init(&k->board, &k->vm, &pci, &board_ops, k);
	kvm_bus_init(&k->bus, &k->vm, &k->board);
	k->built = true;
	ret = add_devices(k, err);
	if (!ret)
		ret = put_tables(k, err);
	if (!ret)
		ret = load_kernel(k, &entry, err);
	if (!ret)
		ret = cpus_new(&k->cpus, &k->vm, &k->board, m->options->cpus, &entry, err);
	if (ret)
		return ret;
	ret = serial_start(&k->serial, m->control, &k->board.uart, console, m->keys, &serial_ops, k);
	return ret ? sl_err_set(err, -ret, "console: %s", strerror(-ret)) : 0;
}

static int kvm_start(struct machine *m, int console, struct sl_err *err)
{
	struct kvm *k = calloc(1, sizeof(*k));
	int ret;

	if (!k)
		return sl_err_set(err, ENOMEM, "out of memory");
	m->priv = k;
	k->m = m;
	ret = build(k, console, err);
	if (ret)
		return ret;
	m->ended = k->cpus.ended;
	k->start = (struct sl_task){.fn = start_cpus, .arg = k};
	sl_task_post(m->control, &k->start);
	return 0;
}

/* ---- end ---- */

static void kvm_end(struct machine *m)
{
	struct kvm *k = m->priv;

	cpus_end(&k->cpus, GUEST_TOLD);
}

static void kvm_button(struct machine *m)
{
	struct kvm *k = m->priv;

	board_power_button(&k->board);
}

static int kvm_wait(struct machine *m)
{
	struct kvm *k = m->priv;
	int how;

	sl_task_cancel(m->control, &k->start); /* when the loop never ran */
	how = cpus_join(&k->cpus);
	serial_stop(&k->serial);
	return how;
}

static const char *kvm_verdict(struct machine *m, int status, char *buf, size_t len)
{
	(void)m;
	(void)buf;
	(void)len;
	switch ((enum guest_end)status) {
	case GUEST_OFF:
		return NULL;
	case GUEST_RESET:
		return "the guest restarted, as it does after a panic";
	case GUEST_TRIPLE_FAULT:
		return "the guest crashed (triple fault)";
	case GUEST_TOLD:
		return "ended by Ctrl-A x";
	default:
		return "the guest cannot go on";
	}
}

static void kvm_finish(struct machine *m)
{
	struct kvm *k = m->priv;

	if (!k)
		return;
	serial_stop(&k->serial);
	cpus_free(&k->cpus);
	for (unsigned int i = 0; k->devices && i < m->options->num_devices; i++) {
		if (m->devices[i].remote)
			remote_leave(m->devices[i].remote);
		kvm_device_remove(k->devices[i]);
	}
	if (k->built)
		board_destroy(&k->board);
	kvm_vm_free(&k->vm);
	free(k->devices);
	free(k);
}

const struct engine engine_kvm = {
	.name = "kvm",
	.links = true,
	.hosts = kvm_hosts,
	.check = kvm_check,
	.start = kvm_start,
	.end = kvm_end,
	.button = kvm_button,
	.wait = kvm_wait,
	.verdict = kvm_verdict,
	.finish = kvm_finish,
};
