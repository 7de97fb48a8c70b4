/* SPDX-License-Identifier: MIT */
/* kvm_probe.c - how fast does KVM run guest code here?
 *
 * There are hosts where /dev/kvm opens and every ioctl works, but the kernel
 * interprets the guest's instructions. A machine of one page counts down in
 * real mode, from ever larger numbers, because entering a guest takes its time
 * too: nothing on hardware, most of a millisecond in an emulated processor. It
 * is over as soon as the rate is good, or when one countdown takes so long that
 * entering cannot be what is slow.
 */
#include "machine/kvm_probe.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <sluice/loop.h>

#include "machine/kvm_vm.h"

#define CODE_AT 0x1000
#define ROUNDS 10 /* at most, the best of these counts: other programs run as well */
#define SLOW_NS 3000000

/* iterations, of two instructions each; %cx has 16 bits */
static const uint16_t counts[] = {1000, 4000, 16000, 60000};

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
static int count_down(struct probe *p, uint16_t count, uint64_t *ns, struct sl_err *err)
{
	struct kvm_regs regs = {.rip = CODE_AT, .rcx = count, .rflags = 2};
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

static uint64_t rate_of(uint16_t count, uint64_t ns)
{
	return 2ULL * count * 1000000000 / ns;
}

/* The best of some countdowns from @count, in nanoseconds, or the first one that is good. */
static int best_of(struct probe *p, uint16_t count, uint64_t *best, struct sl_err *err)
{
	uint64_t ns = 0;
	int ret = 0;

	*best = UINT64_MAX;
	for (int i = 0; i < ROUNDS && !ret && rate_of(count, *best) < KVM_PROBE_FAST; i++) {
		ret = count_down(p, count, &ns, err);
		if (!ret && ns < *best)
			*best = ns ? ns : 1;
	}
	return ret;
}

int kvm_probe(uint64_t *rate, struct sl_err *err)
{
	struct probe p = {.kvm = kvm_open(err), .vm = -1, .cpu = -1, .page = MAP_FAILED};
	uint64_t best = 0;
	int ret = p.kvm < 0 ? p.kvm : build(&p, err);

	*rate = 0;
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]) && !ret; i++) {
		ret = best_of(&p, counts[i], &best, err);
		if (!ret)
			*rate = rate_of(counts[i], best);
		if (*rate >= KVM_PROBE_FAST || best > SLOW_NS)
			break;
	}
	destroy(&p);
	return ret;
}
