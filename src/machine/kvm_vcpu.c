/* SPDX-License-Identifier: MIT */
/* kvm_vcpu.c - a guest's processors, a thread each
 *
 * Theory of Operation
 *
 * A thread is in KVM_RUN nearly all of the time. It comes back when the guest
 * touches a port or an address that neither memory, nor KVM's own interrupt
 * controllers, nor an ioeventfd answers; the board does, and the next KVM_RUN
 * completes the instruction.
 *
 * To make a thread leave, cpus_end() sets the end, then immediate_exit in the
 * run page, then sends a signal. The thread looks at the end before each
 * KVM_RUN. If it looked too early, immediate_exit makes KVM_RUN return at
 * once, and if it is already inside, the signal does.
 *
 * The other processors wait in KVM_RUN until the first one sends them INIT and
 * SIPI; KVM's local APICs do that.
 */
#include "machine/kvm_vcpu.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <sluice/log.h>

#include "machine/kvm_cpuid.h"

#define KICK SIGUSR1
#define STACK_SIZE (256 << 10) /* some hosts put a page of 2 MiB under the default one of 8 MiB */

#define CR0_PE (1u << 0)
#define CR0_ET (1u << 4)
#define CR0_PG (1u << 31)
#define CR4_PAE (1u << 5)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define PTE_TABLE 0x03 /* present, writable */
#define PTE_2M 0x83

#define MSR_MTRR_DEF_TYPE 0x2ff
#define MTRR_ENABLED_WRITE_BACK 0x806

#define APIC_LVT0 0x350
#define APIC_LVT1 0x360
#define APIC_MODE_NMI 0x400
#define APIC_MODE_EXTINT 0x700

/* ---- the state a processor starts in ---- */

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool long_mode)
{
	return (struct kvm_segment){
		.limit = UINT32_MAX, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1,
		.l = long_mode, .db = !long_mode,
	};
}

/* The same descriptors in memory, for guests that load a segment register again: null, code, data. */
static void put_gdt(const struct sl_mem *mem, bool long_mode)
{
	const uint64_t gdt[] = {0, 0, long_mode ? 0x00af9b000000ffff : 0x00cf9b000000ffff, 0x00cf93000000ffff};

	sl_mem_write(mem, LAYOUT_GDT, gdt, sizeof(gdt));
}

/* One table of each upper level, four of 2 MiB pages. */
static void put_page_tables(const struct sl_mem *mem)
{
	uint64_t *tables = sl_mem_range(mem, LAYOUT_PAGE_TABLES, 6 * 4096, SL_MEM_WRITE);

	tables[0] = (LAYOUT_PAGE_TABLES + 4096) | PTE_TABLE;
	for (uint64_t i = 0; i < 4; i++)
		tables[512 + i] = (LAYOUT_PAGE_TABLES + (2 + i) * 4096) | PTE_TABLE;
	for (uint64_t i = 0; i < 4UL * 512; i++)
		tables[1024 + i] = i << 21 | PTE_2M;
}

static int set_first_state(struct cpu *c, const struct boot_entry *entry, struct sl_err *err)
{
	struct kvm_regs regs = {.rip = entry->rip, .rflags = 2};
	struct kvm_sregs s;

	if (ioctl(c->fd, KVM_GET_SREGS, &s))
		return kvm_fail(err, "KVM_GET_SREGS");
	s.cs = flat_segment(0x10, 0xb, entry->long_mode);
	s.ds = s.es = s.fs = s.gs = s.ss = flat_segment(0x18, 0x3, false);
	s.tr = (struct kvm_segment){.limit = 0x67, .type = 0xb, .present = 1};
	s.gdt = (struct kvm_dtable){.base = LAYOUT_GDT, .limit = 4 * 8 - 1};
	s.idt = (struct kvm_dtable){0};
	s.cr0 = CR0_PE | CR0_ET;
	put_gdt(c->cpus->vm->mem, entry->long_mode);
	if (entry->long_mode) {
		put_page_tables(c->cpus->vm->mem);
		s.cr3 = LAYOUT_PAGE_TABLES;
		s.cr4 = CR4_PAE;
		s.cr0 |= CR0_PG;
		s.efer = EFER_LME | EFER_LMA;
		regs.rsi = entry->arg;
	} else {
		s.cr4 = 0;
		s.efer = 0;
		regs.rbx = entry->arg;
	}
	if (ioctl(c->fd, KVM_SET_SREGS, &s))
		return kvm_fail(err, "KVM_SET_SREGS");
	return ioctl(c->fd, KVM_SET_REGS, &regs) ? kvm_fail(err, "KVM_SET_REGS") : 0;
}

static int set_cpuid(struct cpu *c, struct sl_err *err)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + CPUID_MAX_ENTRIES * sizeof(cpuid->entries[0]));
	bool deadline = ioctl(c->cpus->vm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	int ret = 0;

	if (!cpuid)
		return sl_err_set(err, ENOMEM, "out of memory");
	cpuid->nent = CPUID_MAX_ENTRIES;
	if (ioctl(c->cpus->vm->kvm, KVM_GET_SUPPORTED_CPUID, cpuid)) {
		ret = kvm_fail(err, "KVM_GET_SUPPORTED_CPUID");
	} else {
		cpuid_filter(cpuid, c->index, c->cpus->n, deadline);
		if (ioctl(c->fd, KVM_SET_CPUID2, cpuid))
			ret = kvm_fail(err, "KVM_SET_CPUID2");
	}
	free(cpuid);
	return ret;
}

/* The old interrupt controllers end at LINT0, NMIs at LINT1, as firmware would leave it. */
static int set_lapic(struct cpu *c, struct sl_err *err)
{
	const uint32_t lint0 = APIC_MODE_EXTINT, lint1 = APIC_MODE_NMI;
	struct kvm_lapic_state apic;

	if (ioctl(c->fd, KVM_GET_LAPIC, &apic))
		return kvm_fail(err, "KVM_GET_LAPIC");
	memcpy(apic.regs + APIC_LVT0, &lint0, sizeof(lint0));
	memcpy(apic.regs + APIC_LVT1, &lint1, sizeof(lint1));
	return ioctl(c->fd, KVM_SET_LAPIC, &apic) ? kvm_fail(err, "KVM_SET_LAPIC") : 0;
}

static int set_msrs(struct cpu *c, struct sl_err *err)
{
	union {
		struct kvm_msrs head;
		unsigned char room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
	} msrs = {.head = {.nmsrs = 1}};

	msrs.head.entries[0] = (struct kvm_msr_entry){.index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLED_WRITE_BACK};
	return ioctl(c->fd, KVM_SET_MSRS, &msrs) == 1 ? 0 : kvm_fail(err, "KVM_SET_MSRS");
}

static int cpu_new(struct cpu *c, const struct boot_entry *entry, struct sl_err *err)
{
	struct kvm_vm *vm = c->cpus->vm;
	void *run;
	int ret;

	c->fd = ioctl(vm->vm, KVM_CREATE_VCPU, c->index);
	if (c->fd < 0)
		return kvm_fail(err, "KVM_CREATE_VCPU");
	run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	if (run == MAP_FAILED)
		return kvm_fail(err, "mmap of a vCPU");
	c->run = run;
	ret = set_cpuid(c, err);
	if (!ret)
		ret = set_lapic(c, err);
	if (!ret)
		ret = set_msrs(c, err);
	if (!ret && !c->index)
		ret = set_first_state(c, entry, err);
	return ret;
}

/* ---- when a guest cannot go on ---- */

static const char *exit_name(unsigned int reason)
{
	static const char *const names[] = {
		[KVM_EXIT_UNKNOWN] = "unknown", [KVM_EXIT_EXCEPTION] = "exception", [KVM_EXIT_IO] = "io",
		[KVM_EXIT_HYPERCALL] = "hypercall", [KVM_EXIT_DEBUG] = "debug", [KVM_EXIT_HLT] = "hlt",
		[KVM_EXIT_MMIO] = "mmio", [KVM_EXIT_IRQ_WINDOW_OPEN] = "interrupt window",
		[KVM_EXIT_SHUTDOWN] = "shutdown", [KVM_EXIT_FAIL_ENTRY] = "failed entry", [KVM_EXIT_INTR] = "signal",
		[KVM_EXIT_SET_TPR] = "task priority", [KVM_EXIT_TPR_ACCESS] = "task priority access",
		[KVM_EXIT_NMI] = "nmi", [KVM_EXIT_INTERNAL_ERROR] = "internal error",
		[KVM_EXIT_SYSTEM_EVENT] = "system event", [KVM_EXIT_IOAPIC_EOI] = "end of interrupt",
	};

	return reason < sizeof(names) / sizeof(names[0]) && names[reason] ? names[reason] : "other";
}

/* Up to 16 bytes at RIP, as hexadecimal text. */
static void code_text(const struct cpu *c, uint64_t rip, char *text, size_t size)
{
	size_t at = 0;

	snprintf(text, size, "not in memory");
	for (unsigned int i = 0; i < 16; i++) {
		struct kvm_translation t = {.linear_address = rip + i};
		uint8_t byte;

		if (ioctl(c->fd, KVM_TRANSLATE, &t) || !t.valid ||
		    sl_mem_read(c->cpus->vm->mem, t.physical_address, &byte, 1))
			return;
		at += (size_t)snprintf(text + at, size - at, "%s%02x", i ? " " : "", byte);
	}
}

static void log_registers(const struct cpu *c)
{
	struct kvm_regs r;
	struct kvm_sregs s;
	char code[64];

	if (ioctl(c->fd, KVM_GET_REGS, &r) || ioctl(c->fd, KVM_GET_SREGS, &s)) {
		sl_log(SL_LOG_ERROR, "run: vCPU %u: no registers: %s", c->index, strerror(errno));
		return;
	}
	code_text(c, s.cs.base + r.rip, code, sizeof(code));
	sl_log(SL_LOG_ERROR, "run: vCPU %u: rip %04x:%016llx rflags %08llx code %s", c->index, s.cs.selector, r.rip,
	       r.rflags, code);
	sl_log(SL_LOG_ERROR, "run: vCPU %u: rax %016llx rbx %016llx rcx %016llx rdx %016llx", c->index, r.rax, r.rbx,
	       r.rcx, r.rdx);
	sl_log(SL_LOG_ERROR, "run: vCPU %u: rsi %016llx rdi %016llx rsp %016llx rbp %016llx", c->index, r.rsi, r.rdi,
	       r.rsp, r.rbp);
	sl_log(SL_LOG_ERROR, "run: vCPU %u: r8  %016llx r9  %016llx r10 %016llx r11 %016llx", c->index, r.r8, r.r9,
	       r.r10, r.r11);
	sl_log(SL_LOG_ERROR, "run: vCPU %u: r12 %016llx r13 %016llx r14 %016llx r15 %016llx", c->index, r.r12, r.r13,
	       r.r14, r.r15);
	sl_log(SL_LOG_ERROR, "run: vCPU %u: cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %04llx", c->index, s.cr0,
	       s.cr2, s.cr3, s.cr4, s.efer);
}

static void cannot_go_on(const struct cpu *c, const char *why)
{
	sl_log(SL_LOG_ERROR, "run: vCPU %u: KVM_RUN: exit %u (%s): %s", c->index, c->run->exit_reason,
	       exit_name(c->run->exit_reason), why);
	log_registers(c);
	cpus_end(c->cpus, GUEST_FAILED);
}

static void internal_error(const struct cpu *c)
{
	static const char *const kinds[] = {
		[1] = "an instruction that KVM cannot emulate", [2] = "two faults in the wrong order",
		[3] = "a fault while another one was delivered", [4] = "an exit it did not expect",
	};
	unsigned int kind = c->run->internal.suberror;
	char why[80];

	snprintf(why, sizeof(why), "%s (suberror %u)",
		 kind < sizeof(kinds) / sizeof(kinds[0]) && kinds[kind] ? kinds[kind] : "KVM does not say", kind);
	cannot_go_on(c, why);
}

static void failed_entry(const struct cpu *c)
{
	char why[80];

	snprintf(why, sizeof(why), "the processor refused the guest's state, hardware reason 0x%llx",
		 c->run->fail_entry.hardware_entry_failure_reason);
	cannot_go_on(c, why);
}

/* ---- running ---- */

static void do_io(struct cpu *c)
{
	struct kvm_run *run = c->run;
	char *data = (char *)run + run->io.data_offset;
	unsigned int width = run->io.size;

	for (uint32_t i = 0; i < run->io.count; i++, data += width) {
		uint32_t value = 0;

		memcpy(&value, data, width);
		board_port(c->cpus->board, run->io.port, width, run->io.direction == KVM_EXIT_IO_OUT, &value);
		if (run->io.direction == KVM_EXIT_IO_IN)
			memcpy(data, &value, width);
	}
}

static void do_mmio(struct cpu *c)
{
	uint64_t value = 0;
	uint32_t width = c->run->mmio.len > 8 ? 8 : c->run->mmio.len;

	memcpy(&value, c->run->mmio.data, width);
	board_memory(c->cpus->board, c->run->mmio.phys_addr, width, c->run->mmio.is_write, &value);
	if (!c->run->mmio.is_write)
		memcpy(c->run->mmio.data, &value, width);
}

static void system_event(const struct cpu *c)
{
	switch (c->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		cpus_end(c->cpus, GUEST_OFF);
		break;
	case KVM_SYSTEM_EVENT_RESET:
		cpus_end(c->cpus, GUEST_RESET);
		break;
	default:
		cannot_go_on(c, "an event of the system that is not known here");
	}
}

/* KVM_RUN came back: answer the guest. */
static void handle(struct cpu *c)
{
	switch (c->run->exit_reason) {
	case KVM_EXIT_IO:
		do_io(c);
		break;
	case KVM_EXIT_MMIO:
		do_mmio(c);
		break;
	case KVM_EXIT_INTR:
		break;
	case KVM_EXIT_SHUTDOWN:
		cpus_end(c->cpus, GUEST_TRIPLE_FAULT);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		system_event(c);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		internal_error(c);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		failed_entry(c);
		break;
	default:
		cannot_go_on(c, "nobody handles that");
	}
}

static bool told_to_end(const struct cpus *cs)
{
	return __atomic_load_n(&cs->end, __ATOMIC_ACQUIRE) != GUEST_RUNS;
}

/* A thread is gone; the last one says so. */
static void one_less(struct cpus *cs)
{
	const uint64_t one = 1;
	ssize_t n = sizeof(one);

	if (!__atomic_sub_fetch(&cs->running, 1, __ATOMIC_ACQ_REL))
		n = write(cs->ended, &one, sizeof(one));
	assert(n == sizeof(one)); /* a fresh eventfd takes a 1 */
}

static void *cpu_thread(void *arg)
{
	struct cpu *c = arg;
	struct cpus *cs = c->cpus;

	while (!told_to_end(cs)) {
		if (!ioctl(c->fd, KVM_RUN, 0)) {
			handle(c);
		} else if (errno != EINTR && errno != EAGAIN) {
			sl_log(SL_LOG_ERROR, "run: vCPU %u: KVM: KVM_RUN: %s", c->index, strerror(errno));
			log_registers(c);
			cpus_end(cs, GUEST_FAILED);
		}
	}
	one_less(cs);
	return NULL;
}

static void on_kick(int sig)
{
	(void)sig;
}

static int start_thread(struct cpu *c)
{
	sigset_t most, old;
	pthread_attr_t attr;
	char name[16];
	int ret;

	sigfillset(&most);
	sigdelset(&most, KICK);
	sigdelset(&most, SIGBUS); /* see sl_mem_guard() */
	pthread_sigmask(SIG_BLOCK, &most, &old);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	ret = pthread_create(&c->thread, &attr, cpu_thread, c);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!ret && snprintf(name, sizeof(name), "vcpu%u", c->index) > 0)
		pthread_setname_np(c->thread, name); /* for top and its like */
	__atomic_store_n(&c->started, !ret, __ATOMIC_RELEASE); /* and with it c->thread; pairs with cpus_end() */
	return -ret;
}

int cpus_start(struct cpus *c)
{
	const struct sigaction kick = {.sa_handler = on_kick};
	int ret = 0;

	sigaction(KICK, &kick, NULL);
	/* One count is ours, so that the others cannot reach 0 before all have started. */
	c->running = 1;
	for (unsigned int i = 0; i < c->n && !ret; i++) {
		__atomic_add_fetch(&c->running, 1, __ATOMIC_ACQ_REL);
		ret = start_thread(&c->cpu[i]);
		if (ret)
			__atomic_sub_fetch(&c->running, 1, __ATOMIC_ACQ_REL);
	}
	if (ret || told_to_end(c)) /* by the first ones, who could not kick those that came later */
		cpus_end(c, GUEST_FAILED);
	one_less(c);
	return ret;
}

void cpus_end(struct cpus *c, enum guest_end how)
{
	unsigned int none = GUEST_RUNS;

	__atomic_compare_exchange_n(&c->end, &none, (unsigned int)how, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
	for (unsigned int i = 0; i < c->n; i++) {
		if (!__atomic_load_n(&c->cpu[i].started, __ATOMIC_ACQUIRE))
			continue;
		__atomic_store_n(&c->cpu[i].run->immediate_exit, 1, __ATOMIC_RELEASE);
		pthread_kill(c->cpu[i].thread, KICK);
	}
}

enum guest_end cpus_join(struct cpus *c)
{
	for (unsigned int i = 0; i < c->n; i++) {
		if (c->cpu[i].started)
			pthread_join(c->cpu[i].thread, NULL);
		c->cpu[i].started = false;
	}
	return c->end;
}

/* ---- life ---- */

int cpus_new(struct cpus *c, struct kvm_vm *vm, struct board *board, unsigned int n, const struct boot_entry *entry,
	     struct sl_err *err)
{
	int ret = 0;

	*c = (struct cpus){.vm = vm, .board = board, .n = n};
	for (unsigned int i = 0; i < n; i++)
		c->cpu[i] = (struct cpu){.cpus = c, .index = i, .fd = -1};
	c->ended = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->ended < 0)
		return sl_err_set(err, errno, "eventfd: %s", strerror(errno));
	for (unsigned int i = 0; i < n && !ret; i++)
		ret = cpu_new(&c->cpu[i], entry, err);
	return ret;
}

void cpus_free(struct cpus *c)
{
	for (unsigned int i = 0; i < c->n; i++) {
		if (c->cpu[i].run)
			munmap(c->cpu[i].run, c->vm->run_size);
		if (c->cpu[i].fd >= 0)
			close(c->cpu[i].fd);
	}
	if (c->n && c->ended >= 0)
		close(c->ended);
}
