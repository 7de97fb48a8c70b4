/* SPDX-License-Identifier: MIT */
/* kvm_vm.c - memory slots, interrupt routes and doorbells of a KVM machine
 *
 * Guest memory is two mappings, below and above the hole that devices have
 * from 3 to 4 GiB: private ones, or of one memfd when a device lives in another
 * process. Each mapping is a memory slot for KVM and a region of the snapshot
 * that devices use, and nothing else is memory: an address of a ring in the
 * hole is refused by the one translation there is.
 *
 * The interrupt routes are replaced as a whole whenever one changes; KVM knows
 * no other way. That happens when a guest sets up an MSI-X vector, not when
 * an interrupt is raised.
 */
#include "machine/kvm_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <sluice/log.h>

#include "machine/hugepages.h"
#include "memory/mapping.h"

#define MIB (1ULL << 20)
#define FIXED_ROUTES (16 + GSI_PINS) /* both PICs, the I/O APIC */

/**
 * struct kvm_routes
 * @used: bit per GSI above the pins
 * @set:  bit per GSI above the pins: @msi says where it goes
 */
struct kvm_routes {
	bool used[GSI_MAX - GSI_PINS];
	bool set[GSI_MAX - GSI_PINS];
	struct kvm_irq_routing_msi msi[GSI_MAX - GSI_PINS];
};

int kvm_fail(struct sl_err *err, const char *ioctl)
{
	int errnum = errno;

	return sl_err_set(err, errnum, "KVM: %s: %s", ioctl, strerror(errnum));
}

int kvm_open(struct sl_err *err)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), version;

	if (fd < 0 && (errno == EACCES || errno == EPERM))
		return sl_err_set(err, errno, "/dev/kvm: %s; type: sudo usermod -aG kvm $USER, then log in again",
				  strerror(errno));
	if (fd < 0)
		return sl_err_set(err, errno, "/dev/kvm: %s%s", strerror(errno), errno == ENOENT ?
				  "; type: sudo modprobe -a kvm-intel kvm-amd, or switch virtualisation on in the firmware" : "");
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		close(fd);
		return sl_err_set(err, ENODEV, "/dev/kvm: has interface version %d, not %d", version, KVM_API_VERSION);
	}
	return fd;
}

/* ---- memory ---- */

static int add_slot(struct kvm_vm *vm, uint64_t gpa, const void *hva, uint64_t size, uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = vm->slots, .flags = flags, .guest_phys_addr = gpa, .memory_size = size,
		.userspace_addr = (uintptr_t)hva,
	};

	if (ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &region))
		return -errno;
	vm->slots++;
	return 0;
}

int kvm_vm_show(struct kvm_vm *vm, uint64_t gpa, const void *data, uint64_t size)
{
	return add_slot(vm, gpa, data, size, KVM_MEM_READONLY);
}

/*
 * Sealed, because other processes may get it: none of them can take pages away
 * from under the guest.
 */
static int make_memfd(struct kvm_vm *vm, uint64_t memory, bool hugepages, struct sl_err *err)
{
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (hugepages ? MFD_HUGETLB | MFD_HUGE_2MB : 0);

	vm->memfd = memfd_create("sluice-guest", flags);
	if (vm->memfd < 0 || ftruncate(vm->memfd, (off_t)memory) ||
	    fcntl(vm->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return sl_err_set(err, errno, "--memory %lluM: %s", (unsigned long long)(memory / MIB), strerror(errno));
	return hugepages ? hugepages_reserve(vm->memfd, memory, err) : 0;
}

static int add_memory(struct kvm_vm *vm, uint64_t memory, struct sl_err *err)
{
	struct sl_mem_region regions[2] = {{.gpa = 0}, {.gpa = LAYOUT_4G, .uva = LAYOUT_4G}};
	unsigned int n = memory > LAYOUT_HOLE ? 2 : 1;
	int ret = 0;

	vm->below_4g = n == 2 ? LAYOUT_HOLE : memory;
	vm->above_4g = memory - vm->below_4g;
	for (unsigned int i = 0; i < n; i++) {
		struct sl_mem_region *r = &regions[i];

		r->size = i ? vm->above_4g : vm->below_4g;
		r->access = SL_MEM_READ | SL_MEM_WRITE;
		r->mapping = vm->memfd < 0 ? mapping_new_private(r->size, err) :
					     sl_mapping_new(vm->memfd, i ? vm->below_4g : 0, r->size, err);
		if (!r->mapping) {
			ret = -ENOMEM;
			break;
		}
		r->hva = sl_mapping_addr(r->mapping);
		/* no effect unless this host allows it, in /sys/kernel/mm/transparent_hugepage/shmem_enabled */
		madvise(r->hva, r->size, MADV_HUGEPAGE);
	}
	if (!ret) {
		vm->mem = sl_mem_new(regions, n, err);
		ret = vm->mem ? 0 : -ENOMEM;
	}
	for (unsigned int i = 0; i < n; i++) {
		if (!ret && add_slot(vm, regions[i].gpa, regions[i].hva, regions[i].size, 0))
			ret = kvm_fail(err, "KVM_SET_USER_MEMORY_REGION");
		sl_mapping_put(regions[i].mapping);
	}
	return ret;
}

/* ---- interrupts ---- */

static struct kvm_irq_routing_entry *fixed_routes(struct kvm_irq_routing_entry *e)
{
	for (unsigned int gsi = 0; gsi < 16; gsi++)
		*e++ = (struct kvm_irq_routing_entry){
			.gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = {gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi % 8},
		};
	/* As on every PC the timer's line, 0, ends at pin 2, and pin 0 is not connected. */
	for (unsigned int pin = 1; pin < GSI_PINS; pin++)
		*e++ = (struct kvm_irq_routing_entry){
			.gsi = pin == 2 ? 0 : pin, .type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = {KVM_IRQCHIP_IOAPIC, pin},
		};
	return e;
}

/* Called with the lock held, or before anybody else knows @vm. */
static int set_routes(struct kvm_vm *vm)
{
	struct kvm_irq_routing *table;
	struct kvm_irq_routing_entry *e;
	int ret;

	table = calloc(1, sizeof(*table) + (FIXED_ROUTES + GSI_MAX) * sizeof(*e));
	if (!table)
		return -ENOMEM;
	e = fixed_routes(table->entries);
	for (unsigned int i = 0; i < GSI_MAX - GSI_PINS; i++)
		if (vm->routes->set[i])
			*e++ = (struct kvm_irq_routing_entry){
				.gsi = GSI_PINS + i, .type = KVM_IRQ_ROUTING_MSI, .u.msi = vm->routes->msi[i],
			};
	table->nr = (uint32_t)(e - table->entries);
	ret = ioctl(vm->vm, KVM_SET_GSI_ROUTING, table) ? -errno : 0;
	free(table);
	return ret;
}

void kvm_vm_irq(struct kvm_vm *vm, unsigned int gsi, bool level)
{
	struct kvm_irq_level line = {.irq = gsi, .level = level};

	ioctl(vm->vm, KVM_IRQ_LINE, &line);
}

void kvm_vm_msi_send(struct kvm_vm *vm, uint64_t address, uint32_t data)
{
	struct kvm_msi msi = {.address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};

	ioctl(vm->vm, KVM_SIGNAL_MSI, &msi);
}

int kvm_vm_msi_alloc(struct kvm_vm *vm)
{
	int gsi = -ENOSPC;

	pthread_mutex_lock(&vm->lock);
	for (unsigned int i = 0; i < GSI_MAX - GSI_PINS && gsi < 0; i++)
		if (!vm->routes->used[i]) {
			vm->routes->used[i] = true;
			gsi = (int)(GSI_PINS + i);
		}
	pthread_mutex_unlock(&vm->lock);
	return gsi;
}

void kvm_vm_msi_release(struct kvm_vm *vm, unsigned int gsi)
{
	pthread_mutex_lock(&vm->lock);
	vm->routes->used[gsi - GSI_PINS] = vm->routes->set[gsi - GSI_PINS] = false;
	pthread_mutex_unlock(&vm->lock);
}

int kvm_vm_msi_route(struct kvm_vm *vm, unsigned int gsi, uint64_t address, uint32_t data)
{
	const struct kvm_irq_routing_msi msi = {
		.address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data,
	};
	int ret;

	pthread_mutex_lock(&vm->lock);
	vm->routes->msi[gsi - GSI_PINS] = msi;
	vm->routes->set[gsi - GSI_PINS] = true;
	ret = set_routes(vm);
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

int kvm_vm_irqfd(struct kvm_vm *vm, int fd, unsigned int gsi, bool on)
{
	struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = gsi, .flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN};

	return ioctl(vm->vm, KVM_IRQFD, &irqfd) ? -errno : 0;
}

int kvm_vm_ioeventfd(struct kvm_vm *vm, const struct kvm_doorbell *bell, int fd, bool on)
{
	struct kvm_ioeventfd io = {
		.addr = bell->addr, .len = bell->len, .datamatch = bell->data, .fd = fd,
		.flags = (bell->pio ? KVM_IOEVENTFD_FLAG_PIO : 0) | (bell->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
			 (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};

	return ioctl(vm->vm, KVM_IOEVENTFD, &io) ? -errno : 0;
}

static int add_interrupt_controllers(struct kvm_vm *vm, struct sl_err *err)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY}; /* port 0x61 answers, silently */
	uint64_t identity_map = LAYOUT_IDENTITY_MAP;
	int ret;

	if (ioctl(vm->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map))
		return kvm_fail(err, "KVM_SET_IDENTITY_MAP_ADDR");
	if (ioctl(vm->vm, KVM_SET_TSS_ADDR, LAYOUT_TSS))
		return kvm_fail(err, "KVM_SET_TSS_ADDR");
	if (ioctl(vm->vm, KVM_CREATE_IRQCHIP, 0))
		return kvm_fail(err, "KVM_CREATE_IRQCHIP");
	if (ioctl(vm->vm, KVM_CREATE_PIT2, &pit))
		return kvm_fail(err, "KVM_CREATE_PIT2");
	ret = set_routes(vm);
	return ret ? sl_err_set(err, -ret, "KVM: KVM_SET_GSI_ROUTING: %s", strerror(-ret)) : 0;
}

/* ---- the machine ---- */

static int check_capabilities(const struct kvm_vm *vm, struct sl_err *err)
{
	static const struct {
		int cap;
		const char *name;
	} needed[] = {
		{KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"}, {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
		{KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"}, {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
		{KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"}, {KVM_CAP_PIT2, "KVM_CAP_PIT2"},
		{KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM"}, {KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},
		{KVM_CAP_IOEVENTFD_ANY_LENGTH, "KVM_CAP_IOEVENTFD_ANY_LENGTH"},
		{KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"}, {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
	};

	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		if (ioctl(vm->kvm, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
			return sl_err_set(err, ENOTSUP, "KVM: this kernel has no %s", needed[i].name);
	return 0;
}

int kvm_vm_new(struct kvm_vm *vm, uint64_t memory, enum kvm_memory kind, struct sl_err *err)
{
	int ret;

	*vm = (struct kvm_vm){.kvm = -1, .vm = -1, .memfd = -1};
	pthread_mutex_init(&vm->lock, NULL);
	vm->routes = calloc(1, sizeof(*vm->routes));
	if (!vm->routes)
		return sl_err_set(err, ENOMEM, "out of memory");
	vm->kvm = ret = kvm_open(err);
	if (ret < 0)
		return ret;
	ret = check_capabilities(vm, err);
	if (ret)
		return ret;
	do
		vm->vm = ioctl(vm->kvm, KVM_CREATE_VM, 0);
	while (vm->vm < 0 && errno == EINTR); /* the kernel says so when a signal came meanwhile */
	if (vm->vm < 0)
		return kvm_fail(err, "KVM_CREATE_VM");
	ret = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (ret < 0)
		return kvm_fail(err, "KVM_GET_VCPU_MMAP_SIZE");
	vm->run_size = (size_t)ret;
	ret = add_interrupt_controllers(vm, err);
	if (!ret && kind != KVM_MEMORY_PRIVATE)
		ret = make_memfd(vm, memory, kind == KVM_MEMORY_HUGEPAGES, err);
	return ret ? ret : add_memory(vm, memory, err);
}

void kvm_vm_free(struct kvm_vm *vm)
{
	const int fds[] = {vm->vm, vm->kvm, vm->memfd};

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	sl_mem_put(vm->mem);
	free(vm->routes);
	pthread_mutex_destroy(&vm->lock);
}
