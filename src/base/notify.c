/* SPDX-License-Identifier: MIT */
/* notify.c - wake somebody who shares the descriptor with us and may do anything with it
 *
 * Theory of operation
 *
 * Whether a write to an eventfd may block is a flag of the open file, which
 * everybody shares who has a descriptor of it, and that it would block is a
 * count that everybody can set. So no look at either makes the write safe that
 * follows it, and there is no other system call that writes to an eventfd
 * (kernels up to 6.18 know no RWF_NOWAIT for it).
 *
 * What the kernel itself does to an eventfd never blocks. It does so when a
 * request of its asynchronous I/O is complete that names one. So a
 * notification is such a request: to read no bytes of the eventfd itself,
 * which fails at once and changes nothing, but is complete. Its event is taken
 * off the ring at once by moving the head, as libaio does it, so the ring
 * cannot fill.
 *
 * It costs some 0.2 microseconds more than a write. Where the kernel refuses
 * asynchronous I/O, what remains is to ask first and then write, and to have
 * a timer of this thread interrupt a write that blocks nevertheless. An eventfd
 * that does block is full, which is to say that its reader is notified already.
 */
#include "base/notify.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/loop_local.h"

#define RING_MAGIC 0xa10a10a1u
#define BLOCKED_NS 1000000 /* a write to an eventfd that lasts so long is one that blocks */

/** struct aio_ring - the head of the ring that a context's number is the address of; the kernel's layout */
struct aio_ring {
	uint32_t id, nr, head, tail, magic;
};

/**
 * struct notifier - of a loop
 * @context: 0: there is no asynchronous I/O here
 * @timer:   then, when @has_timer: interrupts this thread
 */
struct notifier {
	aio_context_t context;
	timer_t timer;
	bool has_timer;
};

static void drop(void *object)
{
	struct notifier *n = object;

	if (n->context)
		syscall(SYS_io_destroy, n->context);
	if (n->has_timer)
		timer_delete(n->timer);
	free(n);
}

static struct aio_ring *ring_of(const struct notifier *n)
{
	return (struct aio_ring *)(uintptr_t)n->context;
}

static void interrupt(int sig)
{
	(void)sig;
}

/* A signal that nobody has a use for, with a handler that does nothing but be there; 0: all are in use. */
static int take_signal(void)
{
	const struct sigaction ours = {.sa_handler = interrupt}; /* no SA_RESTART */
	struct sigaction old;

	for (int sig = SIGRTMAX; sig >= SIGRTMIN; sig--) {
		if (sigaction(sig, NULL, &old) || old.sa_flags & SA_SIGINFO)
			continue;
		if (old.sa_handler == interrupt || (old.sa_handler == SIG_DFL && !sigaction(sig, &ours, NULL)))
			return sig;
	}
	return 0;
}

static void make_timer(struct notifier *n)
{
	struct sigevent e = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = take_signal()};
	sigset_t set;

	e._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (!e.sigev_signo || timer_create(CLOCK_MONOTONIC, &e, &n->timer))
		return;
	n->has_timer = true;
	sigemptyset(&set);
	sigaddset(&set, e.sigev_signo);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void *make(struct sl_loop *loop, struct sl_err *err)
{
	struct notifier *n = calloc(1, sizeof(*n));

	(void)loop;
	(void)err;
	if (!n)
		return NULL;
	if (syscall(SYS_io_setup, 1, &n->context) < 0)
		n->context = 0;
	if (n->context && ring_of(n)->magic != RING_MAGIC) {
		syscall(SYS_io_destroy, n->context);
		n->context = 0;
	}
	if (!n->context)
		make_timer(n);
	return n;
}

static bool notify_by_kernel(struct notifier *n, int fd)
{
	struct iocb request = {
		.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd,
		.aio_flags = IOCB_FLAG_RESFD, .aio_resfd = (uint32_t)fd,
	}, *list = &request;
	struct aio_ring *ring = ring_of(n);

	if (syscall(SYS_io_submit, n->context, 1, &list) != 1)
		return false;
	__atomic_store_n(&ring->head, __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
	return true;
}

static void ask_and_write(const struct notifier *n, int fd)
{
	/* Again and again, for the first time may be before the write has begun. */
	static const struct itimerspec on = {{0, BLOCKED_NS}, {0, BLOCKED_NS}}, off;
	static const uint64_t one = 1;
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	if (poll(&p, 1, 0) != 1)
		return;
	if (n && n->has_timer)
		timer_settime(n->timer, 0, &on, NULL);
	/* Not again when it was interrupted: only one that blocks is. */
	(void)!write(fd, &one, sizeof(one));
	if (n && n->has_timer)
		timer_settime(n->timer, 0, &off, NULL);
}

void notify_peer(struct sl_loop *loop, int fd)
{
	static const char key;
	static const uint64_t one = 1;
	struct notifier *n = loop_local(loop, &key, make, drop, NULL);

	if (n && n->context && notify_by_kernel(n, fd))
		return;
	/* User-mode Linux hands over sockets. */
	if (send(fd, &one, sizeof(one), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == ENOTSOCK && !(n && n->context))
		ask_and_write(n, fd);
}
