/* SPDX-License-Identifier: MIT */
/* guest_load.c - keeps reads of 4 KiB in flight on a disk: the load of bench/kvm.py, inside a guest
 *
 * usage: guest-load DISK COUNT DEPTH
 *
 * Linux' own asynchronous I/O with O_DIRECT, by bare system calls, so that a
 * static program of libc alone is all that the guest needs. As fio does it:
 * wait for at least one, then send as many as have come back.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK 4096
#define MAX_DEPTH 128

static uint64_t seed = 1;

/* xorshift: the same places in every run */
static uint64_t next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static int fail(const char *what)
{
	fprintf(stderr, "guest-load: %s: %s\n", what, strerror(errno));
	return 1;
}

/* Requests @count, @depth of them at a time, over @blocks blocks. */
static int load(int fd, uint64_t blocks, long count, long depth, char *buffers)
{
	static struct iocb iocbs[MAX_DEPTH];
	struct iocb *todo[MAX_DEPTH];
	struct io_event done[MAX_DEPTH];
	aio_context_t context = 0;
	long started = 0, finished = 0, ready = 0;

	if (syscall(SYS_io_setup, depth, &context))
		return fail("io_setup");
	for (; ready < depth; ready++)
		todo[ready] = &iocbs[ready];
	while (finished < count) {
		long n = ready < count - started ? ready : count - started;

		for (long i = 0; i < n; i++)
			*todo[i] = (struct iocb){
				.aio_data = (uintptr_t)todo[i], .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd,
				.aio_buf = (uintptr_t)buffers + (uintptr_t)(todo[i] - iocbs) * BLOCK, .aio_nbytes = BLOCK,
				.aio_offset = (int64_t)(next() % blocks * BLOCK),
			};
		if (n && syscall(SYS_io_submit, context, n, todo) != n)
			return fail("io_submit");
		started += n;
		ready = syscall(SYS_io_getevents, context, 1L, depth, done, NULL);
		if (ready < 0)
			return fail("io_getevents");
		for (long i = 0; i < ready; i++) {
			todo[i] = (struct iocb *)(uintptr_t)done[i].data;
			if (done[i].res != BLOCK) {
				errno = EIO;
				return fail("a request");
			}
		}
		finished += ready;
	}
	return 0;
}

int main(int argc, char **argv)
{
	long count = argc > 2 ? strtol(argv[2], NULL, 0) : 0, depth = argc > 3 ? strtol(argv[3], NULL, 0) : 0;
	char *buffers = aligned_alloc(BLOCK, MAX_DEPTH * BLOCK);
	int fd = argc > 1 ? open(argv[1], O_RDONLY | O_DIRECT) : -1;
	off_t size = lseek(fd, 0, SEEK_END);

	if (argc != 4 || count < 1 || depth < 1 || depth > MAX_DEPTH || !buffers)
		return fputs("usage: guest-load DISK COUNT DEPTH\n", stderr), 2;
	if (fd < 0 || size < BLOCK)
		return fail(argv[1]);
	return load(fd, (uint64_t)size / BLOCK, count, depth, buffers);
}
