/* SPDX-License-Identifier: MIT */
/* uml_xsave.c - lets User-mode Linux 6.1 run on CPUs with a large extended state
 *
 * Preloaded into User-mode Linux, not part of sluice itself. That kernel saves
 * and restores its processes' extended registers by PTRACE_GETREGSET and
 * PTRACE_SETREGSET with a buffer of 2696 bytes. Reading fills what fits, but
 * Linux refuses to set anything but the whole state, which has 11008 bytes
 * where the CPU has AMX: "ptrace set fp regs failed, errno = 14". So a short
 * write becomes a read of the whole state and a write of it with the given
 * bytes at its front. What lies behind them is the process's own and stays.
 */
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define STATE_BYTES (64 * 1024)

long ptrace(enum __ptrace_request request, ...);

static long set_state(long pid, void *type, const struct iovec *part)
{
	static unsigned char state[STATE_BYTES]; /* its caller's stack is small, and it has one thread that does this */
	struct iovec all = {state, sizeof(state)};

	if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, type, &all) < 0)
		return -1;
	memcpy(state, part->iov_base, part->iov_len < all.iov_len ? part->iov_len : all.iov_len);
	return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, type, &all);
}

__attribute__((visibility("default"))) long ptrace(enum __ptrace_request request, ...)
{
	void *addr, *data;
	long ret, word;
	va_list ap;
	pid_t pid;

	va_start(ap, request);
	pid = va_arg(ap, pid_t);
	addr = va_arg(ap, void *);
	data = va_arg(ap, void *);
	va_end(ap);
	if (request == PTRACE_SETREGSET && addr == (void *)NT_X86_XSTATE)
		return set_state(pid, addr, data);
	if (request < PTRACE_PEEKTEXT || request > PTRACE_PEEKUSER)
		return syscall(SYS_ptrace, request, pid, addr, data);
	/* the peeking requests answer with the word itself, as in libc */
	ret = syscall(SYS_ptrace, request, pid, addr, &word);
	if (ret < 0)
		return ret;
	errno = 0;
	return word;
}
