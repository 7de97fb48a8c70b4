/* SPDX-License-Identifier: MIT */
/* test_file.c - raw files and block devices: data, space, errors, order */
#include "bed.h"

#include <linux/loop.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#define MiB (1u << 20)

static const char *const caches[] = {"writeback", "writethrough", "none"};

/* A file for caches[i]; NULL when this file system cannot be used past the page cache. */
static const char *cache_disk(unsigned int i, uint64_t size)
{
	const char *path = file_make("disk", size, NULL, 0);
	int fd = open(path, O_RDONLY | (strcmp(caches[i], "none") ? 0 : O_DIRECT));

	if (fd >= 0)
		close(fd);
	return fd >= 0 ? path : NULL;
}

static void data_round_trip(void)
{
	unsigned char *a = malloc(3 * MiB), *b = malloc(3 * MiB);
	struct bed bed;

	for (unsigned int i = 0; i < 3; i++) {
		const char *path = cache_disk(i, 8 * MiB);

		if (!path)
			continue;
		bed_open(&bed, "blk,%s,cache=%s", path, caches[i]);
		CHECK_EQ(bed.block->info.size, 8 * MiB);
		fill(a, 3 * MiB, i);
		memset(b, 0xff, 3 * MiB);
		CHECK_EQ(io(&bed, BLOCK_READ, MiB, MiB, b), 0);
		CHECK(all_zero(b, MiB)); /* a hole */
		CHECK_EQ(io(&bed, BLOCK_WRITE, 4 * MiB, 3 * MiB, a), 0);
		CHECK_EQ(io_flags(&bed, BLOCK_WRITE, 8 * MiB - 4096, 4096, a, BLOCK_FUA), 0);
		CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
		CHECK_EQ(io(&bed, BLOCK_READ, 4 * MiB, 3 * MiB, b), 0);
		CHECK(!memcmp(a, b, 3 * MiB));
		CHECK_EQ(io(&bed, BLOCK_READ, 8 * MiB - 4096, 4096, b), 0);
		CHECK(!memcmp(a, b, 4096));
		bed_close(&bed);
	}
	free(a);
	free(b);
}

/* Memory at any address, in pieces of any size, in more pieces than one system call takes. */
static void odd_buffers(void)
{
	unsigned char *a = malloc(2 * MiB), *b = malloc(2 * MiB + 4096);
	struct iovec *iov = calloc(4096, sizeof(*iov)), *before = calloc(4096, sizeof(*iov));
	struct bed bed;
	struct io one;

	for (unsigned int i = 0; i < 3; i++) {
		const char *path = cache_disk(i, 4 * MiB);
		static const unsigned int sizes[] = {512, 1, 511, 1024, 3, 509, 512, 4096 - 512 * 3 - 512};
		unsigned int n = 0;
		size_t at = 0;

		if (!path)
			continue;
		bed_open(&bed, "blk,%s,cache=%s", path, caches[i]);
		fill(a, 2 * MiB, i);
		CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 2 * MiB, a), 0);
		while (at < 2 * MiB) {
			size_t len = n < 8 ? sizes[n] : 512;

			iov[n++] = (struct iovec){b + 7 + at, len < 2 * MiB - at ? len : 2 * MiB - at};
			at += iov[n - 1].iov_len;
		}
		REQUIRE(n > 4000);
		memcpy(before, iov, n * sizeof(*iov));
		memset(b, 0, 2 * MiB + 4096);
		io_submit_iov(&bed, &one, BLOCK_READ, 0, 2 * MiB, iov, n, 0);
		block_commit(bed.c);
		CHECK_EQ(io_wait(&bed, &one), 0);
		CHECK(!memcmp(a, b + 7, 2 * MiB));
		CHECK(all_zero(b, 7) && all_zero(b + 7 + 2 * MiB, 4096 - 7));
		CHECK(!memcmp(before, iov, n * sizeof(*iov))); /* the owner's list is as it was */

		fill(b, 2 * MiB + 7, 99);
		io_submit_iov(&bed, &one, BLOCK_WRITE, 2 * MiB, 2 * MiB, iov, n, 0);
		block_commit(bed.c);
		CHECK_EQ(io_wait(&bed, &one), 0);
		CHECK_EQ(io(&bed, BLOCK_READ, 2 * MiB, 2 * MiB, a), 0);
		CHECK(!memcmp(a, b + 7, 2 * MiB));
		CHECK(!memcmp(before, iov, n * sizeof(*iov)));
		bed_close(&bed);
	}
	free(a);
	free(b);
	free(iov);
	free(before);
}

/* A file in tmpfs, named by its descriptor. */
static int memory_file(uint64_t size, char *path, size_t path_size)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);

	REQUIRE(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	snprintf(path, path_size, "/proc/self/fd/%d", fd);
	return fd;
}

/* A piece of memory that is longer than one call moves, so that the next call goes on inside it. */
static void longer_than_one_call(void)
{
	const uint64_t len = (1ULL << 30) + 64 * MiB, window = 64 * MiB;
	unsigned char tail[4096], *at;
	char path[64];
	int memory = memfd_create("window", MFD_CLOEXEC), fd = memory_file(len, path, sizeof(path));
	struct bed bed;
	struct io one;

	fill(tail, sizeof(tail), 6);
	REQUIRE(pwrite(fd, tail, sizeof(tail), (off_t)(len - sizeof(tail))) == sizeof(tail));
	/* The same memory again and again: it is the addresses that count. */
	at = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	REQUIRE(at != MAP_FAILED && memory >= 0 && ftruncate(memory, (off_t)window) == 0);
	for (uint64_t i = 0; i < len; i += window)
		REQUIRE(mmap(at + i, window, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory, 0) == at + i);
	bed_open(&bed, "blk,%s", path);
	io_submit(&bed, &one, BLOCK_READ, 0, len, at);
	block_commit(bed.c);
	CHECK_EQ(io_wait(&bed, &one), 0);
	CHECK(!memcmp(at + len - sizeof(tail), tail, sizeof(tail)));
	CHECK(one.one.iov_base == at && one.one.iov_len == len);
	bed_close(&bed);
	munmap(at, len);
	close(memory);
	close(fd);
}

/* More than there is room for in the ring, and (unaligned, direct) than there are bounce buffers. */
static void many_at_once(void)
{
	enum { N = 3000 };
	struct io *ios = calloc(N, sizeof(*ios));
	unsigned char *buf = malloc(N * 512 + 1);
	struct bed bed;

	for (unsigned int i = 0; i < 3; i++) {
		const char *path = cache_disk(i, N * 512);
		unsigned int wrong = 0;

		if (!path)
			continue;
		bed_open(&bed, "blk,%s,cache=%s", path, i == 1 ? "writeback" : caches[i]);
		fill(buf, N * 512 + 1, i);
		CHECK_EQ(io(&bed, BLOCK_WRITE, 0, N * 512, buf + 1), 0);
		memset(buf, 0, N * 512 + 1);
		for (unsigned int n = 0; n < N; n++)
			io_submit(&bed, &ios[n], BLOCK_READ, n * 512, 512, buf + 1 + n * 512);
		block_commit(bed.c);
		for (unsigned int n = 0; n < N; n++)
			wrong += io_wait(&bed, &ios[n]) != 0;
		CHECK_EQ(wrong, 0);
		for (unsigned int n = 0; n < N; n++)
			wrong += ios[n].dones != 1;
		CHECK_EQ(wrong, 0);
		fill(buf, 1, 0);
		bed_close(&bed);
	}
	free(ios);
	free(buf);
}

/* ---- space ---- */

static void space_on(const char *path, bool unmaps)
{
	unsigned char *a = malloc(2 * MiB), *b = malloc(2 * MiB);
	uint64_t full;
	struct bed bed;

	fill(a, 2 * MiB, 5);
	bed_open(&bed, "blk,%s", path);
	CHECK(bed.block->info.discard && bed.block->info.write_zeroes);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 2 * MiB, a), 0);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	full = file_allocated(path);

	CHECK_EQ(io(&bed, BLOCK_WRITE_ZEROES, 512, MiB - 512, NULL), 0);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 2 * MiB, b), 0);
	CHECK(!memcmp(a, b, 512) && all_zero(b + 512, MiB - 512) && !memcmp(a + MiB, b + MiB, MiB));
	CHECK(file_allocated(path) >= full);

	CHECK_EQ(io_flags(&bed, BLOCK_WRITE_ZEROES, MiB, MiB / 2, NULL, BLOCK_UNMAP | BLOCK_FUA), 0);
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 0, MiB, NULL), 0);
	CHECK_EQ(io_flags(&bed, BLOCK_DISCARD, 0, MiB, NULL, BLOCK_FUA), 0);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 2 * MiB, b), 0);
	CHECK(all_zero(b + MiB, MiB / 2) && !memcmp(a + MiB * 3 / 2, b + MiB * 3 / 2, MiB / 2));
	if (unmaps)
		CHECK(file_allocated(path) <= full - MiB);
	CHECK_EQ(bed.block->info.size, 2 * MiB);
	bed_close(&bed);
	free(a);
	free(b);
}

static void space_given_back(void)
{
	struct stat st;
	const char *path = file_make("disk", 2 * MiB, NULL, 0);

	space_on(path, true);
	REQUIRE(stat(path, &st) == 0);
	CHECK_EQ(st.st_size, 2 * MiB);
}

/* tmpfs knows holes but not FALLOC_FL_ZERO_RANGE: zeroes are written. */
static void zeroes_where_fallocate_cannot(void)
{
	unsigned char *a = malloc(4 * MiB);
	char path[64];
	int fd = memory_file(2 * MiB, path, sizeof(path));
	struct bed bed;

	space_on(path, true);
	close(fd);

	/* More than the zeroes of one write. */
	fd = memory_file(4 * MiB, path, sizeof(path));
	bed_open(&bed, "blk,%s", path);
	fill(a, 4 * MiB, 8);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 4 * MiB, a), 0);
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE_ZEROES, 512, 4 * MiB - 1024, NULL, BLOCK_FUA), 0);
	memset(a + 512, 1, 4 * MiB - 1024);
	CHECK_EQ(io(&bed, BLOCK_READ, 512, 4 * MiB - 512, a + 512), 0);
	CHECK(all_zero(a + 512, 4 * MiB - 1024));
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 512, a + 512), 0);
	CHECK(!memcmp(a, a + 512, 512));
	bed_close(&bed);
	close(fd);
	free(a);
}

/* tmpfs takes O_DIRECT but does not tell the alignment it wants. */
static void direct_alignment_unknown(void)
{
	unsigned char *a = malloc(MiB + 1), *b = malloc(MiB);
	char path[64];
	int fd = memory_file(4 * MiB, path, sizeof(path)), direct = open(path, O_RDONLY | O_DIRECT);
	struct bed bed;

	if (direct < 0)
		SKIP("tmpfs of this kernel has no O_DIRECT");
	close(direct);
	bed_open(&bed, "blk,%s,cache=none", path);
	fill(a, MiB + 1, 8);
	CHECK_EQ(io(&bed, BLOCK_WRITE, MiB, MiB, a + 1), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, MiB, MiB, b), 0);
	CHECK(!memcmp(a + 1, b, MiB));
	bed_close(&bed);
	close(fd);
	free(a);
	free(b);
}

static void discard_off_keeps_space(void)
{
	const char *path = file_make("disk", MiB, NULL, 0);
	unsigned char *a = malloc(MiB);
	uint64_t full;
	struct bed bed;

	bed_open(&bed, "blk,%s,discard=off", path);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, MiB, a), 0);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	full = file_allocated(path);
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 0, MiB, NULL), -EOPNOTSUPP);
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE_ZEROES, 0, MiB, NULL, BLOCK_UNMAP), 0);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	CHECK(file_allocated(path) >= full);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, MiB, a), 0);
	CHECK(all_zero(a, MiB));
	bed_close(&bed);
	free(a);
}

/* ---- errors ---- */

/* In a mount of the child's own; it is gone with the child. */
static void in_file_system(const char *type, const char *options, void (*fn)(void))
{
	int status;
	pid_t pid;

	if (geteuid())
		SKIP("mounting a small file system needs root");
	fflush(stdout);
	pid = fork();
	if (!pid) {
		t_failures = 0;
		if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		    mount("none", dir, type, 0, options) < 0)
			_exit(77);
		fn();
		_exit(t_failures ? 1 : 0);
	}
	REQUIRE(waitpid(pid, &status, 0) == pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		SKIP("no mount namespaces here");
	CHECK_EQ(status, 0);
}

static void fill_the_disk(void)
{
	const char *path = file_make("disk", 8 * MiB, NULL, 0);
	unsigned char *a = malloc(2 * MiB), b[4096];
	struct bed bed;
	struct io bad, good;

	fill(a, 2 * MiB, 3);
	bed_open(&bed, "blk,%s", path);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 4096, a), 0);
	/* Only the one that does not fit fails; one beside it is served. */
	io_submit(&bed, &bad, BLOCK_WRITE, MiB, 2 * MiB, a);
	io_submit(&bed, &good, BLOCK_READ, 0, 4096, b);
	block_commit(bed.c);
	CHECK_EQ(io_wait(&bed, &good), 0);
	CHECK_EQ(io_wait(&bed, &bad), -ENOSPC);
	CHECK(!memcmp(a, b, 4096));
	/* Part of it was written; the caller's list is whole again all the same. */
	CHECK(bad.one.iov_base == a && bad.one.iov_len == 2 * MiB);
	/* With room again the same request succeeds. */
	CHECK_EQ(io(&bed, BLOCK_DISCARD, MiB, 2 * MiB, NULL), 0);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 4 * MiB, MiB / 2, a), 0);
	bed_close(&bed);
	free(a);
}

static void enospc(void)
{
	in_file_system("tmpfs", "size=1M", fill_the_disk);
}

static void without_fallocate(void)
{
	const char *path = file_make("disk", 2 * MiB, NULL, 0);
	char spec[256], line[256];
	struct bed bed;

	space_on(path, false);
	snprintf(spec, sizeof(spec), "blk,%s,cache=none", path);
	snprintf(line, sizeof(line), "%s: cache=none: this file system cannot do it: Invalid argument", path);
	CHECK(!strcmp(bed_try(&bed, spec), line));
}

/* ramfs has neither holes nor O_DIRECT. */
static void no_fallocate_at_all(void)
{
	in_file_system("ramfs", NULL, without_fallocate);
}

static void file_that_shrank(void)
{
	const char *path = file_make("disk", 2 * MiB, NULL, 0);
	unsigned char *b = malloc(2 * MiB);
	struct bed bed;
	struct io bad, good;
	struct sl_err err;

	bed_open(&bed, "blk,%s", path);
	REQUIRE(truncate(path, MiB) == 0);
	io_submit(&bed, &bad, BLOCK_READ, MiB - 4096, 8192, b);
	io_submit(&bed, &good, BLOCK_READ, MiB - 4096, 4096, b + 8192);
	block_commit(bed.c);
	CHECK_EQ(io_wait(&bed, &bad), -EIO);
	CHECK(bad.one.iov_base == b && bad.one.iov_len == 8192);
	CHECK_EQ(io_wait(&bed, &good), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 2 * MiB - 4096, 4096, b), -EIO);

	CHECK_EQ(block_refresh(bed.block, &err), 0);
	CHECK_EQ(block_size_now(bed.block), MiB);
	CHECK_EQ(io(&bed, BLOCK_READ, MiB, 4096, b), -ENOSPC);
	REQUIRE(truncate(path, 4 * MiB + 100) == 0);
	CHECK_EQ(block_refresh(bed.block, &err), 0);
	CHECK_EQ(block_size_now(bed.block), 4 * MiB);
	CHECK_EQ(io(&bed, BLOCK_READ, 4 * MiB - 4096, 4096, b), 0);
	REQUIRE(truncate(path, 100) == 0);
	CHECK_EQ(block_refresh(bed.block, &err), -EINVAL);
	CHECK_EQ(block_size_now(bed.block), 4 * MiB);
	bed_close(&bed);
	free(b);
}

/* A process that is killed with writes in the kernel: its successor waits for the lock instead of giving up. */
static void open_after_kill(void)
{
	static struct io ios[64];
	unsigned char *a = calloc(1, MiB);
	const char *path = file_make("disk", 64 * MiB, NULL, 0);

	fflush(stdout);
	for (unsigned int round = 0; round < 5; round++) {
		struct bed bed;
		int ready[2];
		pid_t pid;
		char byte;

		REQUIRE(pipe2(ready, O_CLOEXEC) == 0);
		pid = fork();
		if (!pid) {
			bed_open(&bed, "blk,%s", path);
			for (unsigned int i = 0; i < 64; i++)
				io_submit(&bed, &ios[i], i % 8 == 7 ? BLOCK_FLUSH : BLOCK_WRITE, i * (uint64_t)MiB,
					  i % 8 == 7 ? 0 : MiB, a);
			block_commit(bed.c);
			REQUIRE(write(ready[1], "x", 1) == 1);
			for (;;)
				sl_loop_step(bed.loop, 100);
		}
		REQUIRE(read(ready[0], &byte, 1) == 1);
		kill(pid, SIGKILL);
		REQUIRE(waitpid(pid, NULL, 0) == pid);
		bed_open(&bed, "blk,%s", path);
		CHECK_EQ(io(&bed, BLOCK_READ, 0, MiB, a), 0);
		bed_close(&bed);
		close(ready[0]);
		close(ready[1]);
	}
	free(a);
}

/* ---- order ---- */

/* Reads that are in the page cache are done when the commit returns, whatever others in the same batch wait for. */
static void cached_reads_do_not_wait(void)
{
	enum { N = 32 };
	const char *path = file_make("disk", 64 * MiB, NULL, 0);
	unsigned char *a = malloc(MiB), *b = calloc(2 * N, 4096);
	unsigned int waiting = 0;
	struct io cold[N], warm[N];
	struct bed bed;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	fill(a, MiB, 9);
	for (unsigned int i = 0; i < 64; i++)
		REQUIRE(pwrite(fd, a, MiB, i * (off_t)MiB) == MiB);
	REQUIRE(fdatasync(fd) == 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
	bed_open(&bed, "blk,%s", path);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, MiB, a), 0);
	for (unsigned int i = 0; i < N; i++) {
		io_submit(&bed, &cold[i], BLOCK_READ, (i + 8) * (uint64_t)MiB, 4096, b + i * 4096);
		io_submit(&bed, &warm[i], BLOCK_READ, i * 4096, 4096, b + (N + i) * 4096);
	}
	block_commit(bed.c);
	for (unsigned int i = 0; i < N; i++) {
		CHECK_EQ(warm[i].dones, 1);
		waiting += !cold[i].dones;
	}
	for (unsigned int i = 0; i < N; i++) {
		CHECK_EQ(io_wait(&bed, &cold[i]), 0);
		CHECK(!memcmp(b + i * 4096, a, 4096));
		CHECK(!memcmp(b + (N + i) * 4096, a + i * 4096, 4096));
	}
	bed_close(&bed);
	close(fd);
	free(a);
	free(b);
	if (!waiting)
		SKIP("the file system keeps everything in memory");
}

/* ---- block devices ---- */

/* A loop device over @path; -1 when there are none. */
static int loop_make(const char *path, uint32_t block_size, char *name, size_t size)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), n = -1, fd, file;
	struct loop_config cfg = {.block_size = block_size};

	if (control >= 0)
		n = ioctl(control, LOOP_CTL_GET_FREE);
	if (control >= 0)
		close(control);
	if (n < 0)
		return -1;
	snprintf(name, size, "/dev/loop%d", n);
	fd = open(name, O_RDWR | O_CLOEXEC);
	file = open(path, O_RDWR | O_CLOEXEC);
	cfg.fd = (uint32_t)file;
	cfg.info.lo_flags = LO_FLAGS_AUTOCLEAR;
	if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &cfg) < 0) {
		close(fd);
		fd = -1;
	}
	close(file);
	return fd;
}

static void device_with(uint32_t block_size, const char *cache)
{
	const char *path = file_make("backing", 8 * MiB, NULL, 0);
	unsigned char *a = malloc(MiB), *b = malloc(MiB + 1);
	char name[32], line[128];
	struct bed bed, second;
	int fd = loop_make(path, block_size, name, sizeof(name));

	if (fd < 0)
		SKIP("no loop devices, or not root");
	bed_open(&bed, "blk,%s,cache=%s", name, cache);
	CHECK(bed.block->info.size == 8 * MiB && bed.block->info.block_size == block_size);
	fill(a, MiB, 4);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, MiB, a), 0);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 7 * MiB, MiB, a), 0);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 7 * MiB, MiB, b + 1), 0);
	CHECK(!memcmp(a, b + 1, MiB));
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE_ZEROES, block_size, MiB / 2, NULL, BLOCK_UNMAP), 0);
	CHECK_EQ(io(&bed, BLOCK_WRITE_ZEROES, MiB / 2, MiB / 4, NULL), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, MiB, b), 0);
	CHECK(!memcmp(a, b, block_size) && all_zero(b + block_size, MiB * 3 / 4 - block_size));
	CHECK(!memcmp(a + MiB * 3 / 4, b + MiB * 3 / 4, MiB / 4));
	CHECK(bed.block->info.discard && !bed.block->info.secure_erase);
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 7 * MiB, MiB, NULL), 0);
	CHECK_EQ(io_flags(&bed, BLOCK_DISCARD, 7 * MiB, block_size, NULL, BLOCK_FUA), 0);
	CHECK(file_allocated(path) < 2 * MiB);
	CHECK_EQ(io(&bed, BLOCK_SECURE_ERASE, 0, MiB, NULL), -EOPNOTSUPP);

	snprintf(line, sizeof(line), "blk,%s", name);
	CHECK(!strcmp(bed_try(&second, line) + strlen(name), ": in use by another process or mounted"));
	bed_close(&bed);
	if (block_size > 512) {
		snprintf(line, sizeof(line), "blk,%s,block-size=512", name);
		CHECK(!strcmp(bed_try(&second, line) + strlen(name),
			      ": block-size=512: 4096 is the least that works here"));
	}
	close(fd);
	free(a);
	free(b);
}

static void block_device(void)
{
	device_with(512, "writeback");
}

static void block_device_4k_direct(void)
{
	device_with(4096, "none");
}

static const struct t_case cases[] = {
	{"data_round_trip", data_round_trip},
	{"odd_buffers", odd_buffers},
	{"longer_than_one_call", longer_than_one_call},
	{"many_at_once", many_at_once},
	{"space_given_back", space_given_back},
	{"zeroes_where_fallocate_cannot", zeroes_where_fallocate_cannot},
	{"direct_alignment_unknown", direct_alignment_unknown},
	{"no_fallocate_at_all", no_fallocate_at_all},
	{"discard_off_keeps_space", discard_off_keeps_space},
	{"enospc", enospc},
	{"file_that_shrank", file_that_shrank},
	{"open_after_kill", open_after_kill},
	{"cached_reads_do_not_wait", cached_reads_do_not_wait},
	{"block_device", block_device},
	{"block_device_4k_direct", block_device_4k_direct},
};

BED_MAIN(cases)
