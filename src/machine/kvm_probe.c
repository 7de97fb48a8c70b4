/* SPDX-License-Identifier: MIT */
/* kvm_probe.c - how fast does KVM run guest code here?
 *
 * There are hosts where /dev/kvm opens and every ioctl works, but the kernel
 * interprets the guest's instructions. A machine of one page counts down in
 * real mode; that tells.
 */
#include "machine/kvm_probe.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <sluice/loop.h>

#include "machine/kvm_vm.h"

#define CODE_AT 0x1000
#define ROUNDS 3
#define COUNT 2000 /* iterations, of two instructions each: some ms on the slowest host known */

/* 1: dec %cx; jnz 1b; hlt */
static const uint8_t code[] = {0x49, 0x75, 0xfd, 0xf4};

/**
 * struct probe
 * @page: the machine's memory
 */
struct probe {
	int kvm, vm, cpu;
	void *page;
	struct kvm_run *run;
	size_t run_size;
};

static int build(struct probe *p, struct sl_err *err)
{
	struct kvm_userspace_memory_region region = {.guest_phys_addr = CODE_AT, .memory_size = 4096};
	void *run;
	int size;

	do
		p->vm = ioctl(p->kvm, KVM_CREATE_VM, 0);
	while (p->vm < 0 && errno == EINTR);
	if (p->vm < 0)
		return kvm_fail(err, "KVM_CREATE_VM");
	p->page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->page == MAP_FAILED)
		return sl_err_set(err, errno, "%s", strerror(errno));
	memcpy(p->page, code, sizeof(code));
	region.userspace_addr = (uintptr_t)p->page;
	if (ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region))
		return kvm_fail(err, "KVM_SET_USER_MEMORY_REGION");
	p->cpu = ioctl(p->vm, KVM_CREATE_VCPU, 0);
	if (p->cpu < 0)
		return kvm_fail(err, "KVM_CREATE_VCPU");
	size = ioctl(p->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = size < 0 ? MAP_FAILED : mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, p->cpu, 0);
	if (run == MAP_FAILED)
		return kvm_fail(err, "KVM_GET_VCPU_MMAP_SIZE");
	p->run = run;
	p->run_size = (size_t)size;
	return 0;
}

/* One countdown; nanoseconds in *@ns. */
static int count_down(struct probe *p, uint64_t *ns, struct sl_err *err)
{
	struct kvm_regs regs = {.rip = CODE_AT, .rcx = COUNT, .rflags = 2};
	struct kvm_sregs s;
	uint64_t start;
	int ret;

	if (ioctl(p->cpu, KVM_GET_SREGS, &s))
		return kvm_fail(err, "KVM_GET_SREGS");
	s.cs.selector = 0;
	s.cs.base = 0;
	if (ioctl(p->cpu, KVM_SET_SREGS, &s))
		return kvm_fail(err, "KVM_SET_SREGS");
	if (ioctl(p->cpu, KVM_SET_REGS, &regs))
		return kvm_fail(err, "KVM_SET_REGS");
	start = sl_now();
	do
		ret = ioctl(p->cpu, KVM_RUN, 0);
	while (ret < 0 && (errno == EINTR || errno == EAGAIN));
	*ns = sl_now() - start;
	if (ret < 0)
		return kvm_fail(err, "KVM_RUN");
	if (p->run->exit_reason != KVM_EXIT_HLT)
		return sl_err_set(err, ENOTSUP, "KVM: a counting loop ended with exit %u", p->run->exit_reason);
	return 0;
}

static void destroy(struct probe *p)
{
	const int fds[] = {p->cpu, p->vm, p->kvm};

	if (p->run)
		munmap(p->run, p->run_size);
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (p->page != MAP_FAILED)
		munmap(p->page, 4096);
}

int kvm_probe(uint64_t *rate, struct sl_err *err)
{
	struct probe p = {.kvm = kvm_open(err), .vm = -1, .cpu = -1, .page = MAP_FAILED};
	uint64_t ns = 0, best = UINT64_MAX;
	int ret = p.kvm < 0 ? p.kvm : build(&p, err);

	for (int i = 0; i < ROUNDS && !ret; i++) { /* the first one also pays for page faults */
		ret = count_down(&p, &ns, err);
		if (!ret && ns < best)
			best = ns;
	}
	if (!ret)
		*rate = 2ULL * COUNT * 1000000000 / (best ? best : 1);
	destroy(&p);
	return ret;
}
