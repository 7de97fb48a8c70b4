/* SPDX-License-Identifier: MIT */
/* uring.c - one io_uring for each loop.
 *
 * Theory of operation
 *
 * Sources stage operations while a batch is submitted; the commit hands them
 * to the kernel, URING_ENTRIES with one io_uring_enter(). A read that is in the
 * page cache is answered inside that call, so the commit looks at the
 * completion queue right after it, and what is done is on its way back to the
 * driver while the next ones are read: with all of a batch in one call, driver
 * and device would take turns instead of working at the same time. The kernel
 * never waits for a disk there: what cannot be answered at once completes
 * later, by itself, in any order.
 *
 * Later completions are noticed in two ways. While the loop is busy the ring is
 * a poller of which each turn reads one word of memory; it adds nothing to the
 * time a loop spins. Before the loop sleeps the poller goes inactive and the
 * ring's descriptor in the loop's epoll set wakes it up.
 *
 * At most URING_INFLIGHT operations are in the kernel, so the completion queue
 * cannot overflow; more wait in a list threaded through the operations.
 *
 * Completion work is left to the thread's next system call (COOP_TASKRUN)
 * instead of interrupting it. DEFER_TASKRUN would leave it to calls into the
 * ring only; but then the ring's descriptor does not become readable (seen with
 * 6.18), and a loop that sleeps would not wake up.
 */
#include "block/uring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/loop_local.h"

#define URING_ENTRIES 16
#define URING_INFLIGHT 1024

/**
 * struct uring
 * @inflight: staged or in the kernel
 * @waiting, @waiting_end: operations that wait for room, oldest first
 * @reaping:  inside reap(); commits of done() callbacks wait for its end
 */
struct uring {
	struct io_uring ring;
	struct sl_loop *loop;
	struct sl_watch watch;
	struct sl_poller poller;
	unsigned int inflight;
	bool reaping;
	struct uring_op *waiting, **waiting_end;
};

static const char uring_key;

/* ---- operations ---- */

static bool stage(struct uring *u, struct uring_op *op)
{
	struct io_uring_sqe *sqe = u->inflight < URING_INFLIGHT ? io_uring_get_sqe(&u->ring) : NULL;

	if (!sqe)
		return false;
	op->prepare(op, sqe);
	io_uring_sqe_set_data(sqe, op);
	u->inflight++;
	return true;
}

void uring_submit(struct uring *u, struct uring_op *op)
{
	if (!u->waiting && stage(u, op))
		return;
	op->next = NULL;
	*u->waiting_end = op;
	u->waiting_end = &op->next;
}

static void stage_waiting(struct uring *u)
{
	while (u->waiting) {
		/* prepare() may change nothing of the list, but done() of the staged operation reuses next. */
		struct uring_op *op = u->waiting, *next = op->next;

		if (!stage(u, op))
			return;
		u->waiting = next;
	}
	u->waiting_end = &u->waiting;
}

/* Does the kernel have work that it left to our next call? */
static bool has_deferred(const struct uring *u)
{
	return __atomic_load_n(u->ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN;
}

static bool have_completions(const struct uring *u)
{
	return io_uring_cq_ready(&u->ring) || has_deferred(u);
}

/* Take what is there now; true when there was any. */
static bool reap(struct uring *u)
{
	unsigned int n;

	if (has_deferred(u))
		io_uring_get_events(&u->ring);
	n = io_uring_cq_ready(&u->ring);
	if (!n)
		return false;
	u->reaping = true;
	for (unsigned int i = 0; i < n; i++) {
		struct io_uring_cqe *cqe;
		struct uring_op *op;
		int res;

		if (io_uring_peek_cqe(&u->ring, &cqe))
			break;
		op = io_uring_cqe_get_data(cqe);
		res = cqe->res;
		io_uring_cqe_seen(&u->ring, cqe);
		u->inflight--;
		op->done(op, res);
	}
	u->reaping = false;
	return true;
}

/* ---- the loop ---- */

static bool uring_poll(void *arg)
{
	struct uring *u = arg;
	bool work = reap(u);

	if (work || io_uring_sq_ready(&u->ring))
		uring_commit(u);
	if (!u->inflight)
		sl_poller_deactivate(u->loop, &u->poller);
	return work;
}

/* Staged operations are left over only when the kernel was out of memory: go round and try again. */
static bool uring_arm(void *arg)
{
	struct uring *u = arg;

	return have_completions(u) || io_uring_sq_ready(&u->ring);
}

static void uring_ready(void *arg, uint32_t events)
{
	struct uring *u = arg;

	(void)events;
	reap(u);
	uring_commit(u);
}

void uring_commit(struct uring *u)
{
	if (u->reaping)
		return;
	for (;;) {
		stage_waiting(u);
		/* Fails only for want of memory (-EAGAIN): the poller below tries again. */
		if (!io_uring_sq_ready(&u->ring) || io_uring_submit(&u->ring) <= 0)
			break;
		reap(u);
	}
	if (u->inflight)
		sl_poller_activate(u->loop, &u->poller);
}

/* ---- making one ---- */

static int make_ring(struct io_uring *ring, unsigned int entries)
{
	/* The second for kernels before 5.19. */
	static const unsigned int flags[] = {
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
		0,
	};
	int ret = -EINVAL;

	for (unsigned int i = 0; ret == -EINVAL && i < sizeof(flags) / sizeof(flags[0]); i++) {
		struct io_uring_params p = {
			.flags = flags[i] | IORING_SETUP_CQSIZE,
			.cq_entries = entries * (URING_INFLIGHT / URING_ENTRIES),
		};

		ret = io_uring_queue_init_params(entries, ring, &p);
	}
	return ret;
}

static int ring_error(const char *who, int ret, struct sl_err *err)
{
	if (ret == -EPERM || ret == -EACCES || ret == -ENOSYS)
		return sl_err_set(err, -ret,
				  "%s: this process may not use io_uring (%s): see sysctl kernel.io_uring_disabled "
				  "and the container's seccomp profile",
				  who, strerror(-ret));
	return sl_err_set(err, -ret, "%s: cannot set up an io_uring: %s", who, strerror(-ret));
}

int uring_probe(const char *who, struct sl_err *err)
{
	struct io_uring ring;
	int ret = make_ring(&ring, 1);

	if (ret)
		return ring_error(who, ret, err);
	io_uring_queue_exit(&ring);
	return 0;
}

static void *make(struct sl_loop *loop, struct sl_err *err)
{
	struct uring *u = calloc(1, sizeof(*u));
	int ret = u ? make_ring(&u->ring, URING_ENTRIES) : -ENOMEM;

	if (ret) {
		free(u);
		ring_error("block", ret, err);
		return NULL;
	}
	u->loop = loop;
	u->waiting_end = &u->waiting;
	u->watch.fn = uring_ready;
	u->watch.arg = u;
	u->poller.poll = uring_poll;
	u->poller.arm = uring_arm;
	u->poller.arg = u;
	ret = sl_watch_add(loop, &u->watch, u->ring.ring_fd, EPOLLIN);
	if (ret) {
		sl_err_set(err, -ret, "block: cannot wait for an io_uring: %s", strerror(-ret));
		io_uring_queue_exit(&u->ring);
		free(u);
		return NULL;
	}
	return u;
}

static void drop(void *object)
{
	struct uring *u = object;

	sl_poller_deactivate(u->loop, &u->poller);
	sl_watch_del(&u->watch);
	io_uring_queue_exit(&u->ring);
	free(u);
}

struct uring *uring_of(struct sl_loop *loop, struct sl_err *err)
{
	return loop_local(loop, &uring_key, make, drop, err);
}
