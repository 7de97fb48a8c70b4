/* SPDX-License-Identifier: MIT */
/* test_notify.c - notify_peer() where the kernel refuses asynchronous I/O: it neither blocks nor loses a notification.
 *
 * The kernel is made to refuse by a seccomp filter. poll() is this program's,
 * so that the peer can strike exactly between the question and the write.
 */
#include "t.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <sluice/loop.h>

#include "base/notify.h"
#include "base/thread.h"

static int victim = -1; /* filled and made to block once it was found to have room */

int poll(struct pollfd *p, nfds_t n, int timeout)
{
	const struct timespec at_once = {0};
	int ret = (int)syscall(SYS_ppoll, p, n, timeout ? NULL : &at_once, NULL, 0);

	if (victim >= 0 && n == 1 && p->fd == victim) {
		if (eventfd_write(victim, UINT64_MAX - 1) || fcntl(victim, F_SETFL, 0))
			abort();
		victim = -1;
	}
	return ret;
}

static void notifies(void)
{
	struct sl_loop *loop = sl_loop_new();
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	eventfd_t n = 0;

	for (unsigned int i = 0; i < 1000; i++)
		notify_peer(loop, fd);
	CHECK(!eventfd_read(fd, &n));
	CHECK_EQ(n, 1000);
	/* full: the reader is awake */
	CHECK(!eventfd_write(fd, UINT64_MAX - 1));
	CHECK(!fcntl(fd, F_SETFL, 0));
	notify_peer(loop, fd);
	CHECK(!eventfd_read(fd, &n));
	CHECK_EQ(n, UINT64_MAX - 1);
	close(fd);
	sl_loop_free(loop);
}

static void turn(struct sl_loop *loop)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	eventfd_t n = 0;

	for (unsigned int i = 0; i < 20; i++) {
		victim = fd;
		notify_peer(loop, fd);
		CHECK_EQ(victim, -1);
		CHECK(!eventfd_read(fd, &n));
		CHECK_EQ(n, UINT64_MAX - 1);
		notify_peer(loop, fd);
		CHECK(!eventfd_read(fd, &n));
		CHECK_EQ(n, 1);
	}
	close(fd);
}

static void turns(void)
{
	struct sl_loop *loop = sl_loop_new();

	turn(loop);
	sl_loop_free(loop);
}

static void *turn_elsewhere(void *arg)
{
	(void)arg;
	turns();
	return NULL;
}

/* Threads of the library block all signals. */
static void turns_on_a_thread(void)
{
	pthread_t thread;

	REQUIRE(!thread_start(&thread, turn_elsewhere, NULL));
	pthread_join(thread, NULL);
}

static const struct t_case cases[] = {
	{"notifies", notifies},
	{"turns", turns},
	{"turns_on_a_thread", turns_on_a_thread},
};

int main(int argc, char **argv)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog)) {
		fprintf(stderr, "seccomp filters are not allowed here\n");
		return 77;
	}
	return t_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
