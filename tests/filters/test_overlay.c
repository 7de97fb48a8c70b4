/* SPDX-License-Identifier: MIT */
/* test_overlay.c - overlays: what is read, what stays, what several threads make of it, and what is refused */
#include "bed.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define MiB (1u << 20)
#define BLOCK 512u
#define DISK (4 * MiB)
#define BOOT_ID_AT 72 /* in the header: what says that the page cache is the one of then */

static unsigned char *model;

static const char *path_of(const char *name)
{
	static char paths[4][128];
	static unsigned int next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
	return path;
}

/* A base whose blocks all differ, and the model of what a disk above it has. */
static const char *make_base(void)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s", path_of("base"));
	if (!model)
		model = malloc(DISK);
	fill(model, DISK, 99);
	file_make("base", DISK, model, DISK);
	unlink(path_of("ovl"));
	return path;
}

static bool base_is_untouched(const char *path)
{
	unsigned char *was = malloc(DISK), *is = malloc(DISK);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool same;

	fill(was, DISK, 99);
	REQUIRE(fd >= 0 && pread(fd, is, DISK, 0) == DISK);
	close(fd);
	same = !memcmp(was, is, DISK);
	free(was);
	free(is);
	return same;
}

static void compare(struct bed *bed)
{
	unsigned char *is = malloc(DISK);

	CHECK_EQ(io(bed, BLOCK_READ, 0, DISK, is), 0);
	for (unsigned int i = 0; i < DISK / BLOCK; i++) {
		if (memcmp(is + i * BLOCK, model + i * BLOCK, BLOCK)) {
			fprintf(stderr, "block %u differs\n", i);
			t_failures++;
			break;
		}
	}
	free(is);
}

static uint32_t state = 1;

static uint32_t random_below(uint32_t n)
{
	state = state * 1664525u + 1013904223u;
	return (state >> 8) % n;
}

/* @len bytes at @buf as a list of up to 20 pieces of any length. */
static unsigned int cut_up(unsigned char *buf, size_t len, struct iovec *iov)
{
	unsigned int n = 0;

	while (len && n < 19) {
		size_t piece = 1 + random_below((uint32_t)len);

		if (random_below(8) == 0)
			piece = 0;
		iov[n++] = (struct iovec){buf, piece};
		buf += piece;
		len -= piece;
	}
	iov[n++] = (struct iovec){buf, len};
	return n;
}

/* One random request, wholly done when this returns. */
static void random_io(struct bed *bed)
{
	static const enum block_op ops[] = {BLOCK_READ, BLOCK_READ, BLOCK_READ, BLOCK_WRITE, BLOCK_WRITE,
					    BLOCK_WRITE_ZEROES, BLOCK_FLUSH};
	static unsigned char buf[128 * BLOCK];
	enum block_op op = ops[random_below(7)];
	uint32_t unit = bed->block->info.block_size, blocks = 1 + random_below(sizeof(buf) / unit);
	uint64_t len = (uint64_t)blocks * unit, at = (uint64_t)random_below(DISK / unit - blocks + 1) * unit;
	unsigned int flags = random_below(4) ? 0 : BLOCK_FUA;
	struct iovec iov[20], was[20];
	struct io one;
	unsigned int n = 0;

	if (op == BLOCK_FLUSH) {
		CHECK_EQ(io(bed, BLOCK_FLUSH, 0, 0, NULL), 0);
		return;
	}
	if (op == BLOCK_WRITE_ZEROES) {
		CHECK_EQ(io_flags(bed, op, at, len, NULL, random_below(2) ? BLOCK_UNMAP : 0), 0);
		memset(model + at, 0, len);
		return;
	}
	fill(buf, len, random_below(1u << 20));
	n = cut_up(buf, len, iov);
	memcpy(was, iov, sizeof(was));
	io_submit_iov(bed, &one, op, at, len, iov, n, op == BLOCK_WRITE ? flags : 0);
	block_commit(bed->c);
	CHECK_EQ(io_wait(bed, &one), 0);
	CHECK(!memcmp(was, iov, n * sizeof(iov[0]))); /* the list is as it was */
	if (op == BLOCK_READ)
		CHECK(!memcmp(buf, model + at, len));
	else
		memcpy(model + at, buf, len);
}

static void random_on(const char *keys, bool stays)
{
	const char *base = make_base();
	struct bed bed;

	for (unsigned int life = 0; life < (stays ? 3u : 1u); life++) {
		bed_open(&bed, "blk,%s,%s", base, keys);
		compare(&bed);
		for (unsigned int i = 0; i < 300; i++)
			random_io(&bed);
		compare(&bed);
		bed_close(&bed);
	}
	CHECK(base_is_untouched(base));
}

static void reads_what_was_written(void)
{
	char keys[256];

	random_on("temporary=on", false);
	snprintf(keys, sizeof(keys), "overlay=%s", path_of("ovl"));
	random_on(keys, true);
	strcat(keys, ",cache=writethrough");
	random_on(keys, true);
	snprintf(keys, sizeof(keys), "overlay=%s,block-size=4096", path_of("ovl"));
	random_on(keys, true);
	strcat(keys, ",cache=none");
	random_on(keys, true);
}

static uint64_t found;

static void number(void *arg, const char *name, uint64_t value)
{
	(void)arg;
	if (!strcmp(name, "overlay.allocated-bytes"))
		found = value;
}

static void discards_do_not_bring_back(void)
{
	const struct block_report r = {.number = number};
	const char *base = make_base();
	unsigned char buf[8192], was[8192];
	struct bed bed;

	bed_open(&bed, "blk,%s,overlay=%s", base, path_of("ovl"));
	fill(buf, sizeof(buf), 5);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 65536, 8192, buf), 0);
	block_report(bed.block, &r);
	CHECK_EQ(found, 8192);
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 65536, 8192, NULL), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 65536, 8192, buf), 0);
	memcpy(was, model + 65536, 8192);
	CHECK(memcmp(buf, was, 8192)); /* not the base's */
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 0, DISK, NULL), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 8192, buf), 0);
	CHECK(!memcmp(buf, model, 8192)); /* nothing newer there */
	bed_close(&bed);
	CHECK(base_is_untouched(base));
}

/* One base, several guests at the same time; each sees its own changes. */
static void guests_share_a_base(void)
{
	const char *base = make_base();
	unsigned char buf[3][512];
	struct bed beds[3];

	bed_open(&beds[0], "blk,%s,temporary=on", base);
	bed_open(&beds[1], "blk,%s,temporary=on", base);
	bed_open(&beds[2], "blk,%s,overlay=%s", base, path_of("ovl"));
	for (unsigned int i = 0; i < 3; i++) {
		fill(buf[i], 512, i);
		CHECK_EQ(io(&beds[i], BLOCK_WRITE, 512, 512, buf[i]), 0);
	}
	for (unsigned int i = 0; i < 3; i++) {
		unsigned char is[1024];

		CHECK_EQ(io(&beds[i], BLOCK_READ, 0, 1024, is), 0);
		CHECK(!memcmp(is, model, 512) && !memcmp(is + 512, buf[i], 512));
		bed_close(&beds[i]);
	}
	CHECK(base_is_untouched(base));
}

/* ---- ends that come suddenly ---- */

/* In a child that dies of SIGKILL: writes 1..64 to blocks 0, 3, 6, ...; of those up to @flush a flush knows. */
static void die_after_writing(const char *base, unsigned int flush)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct bed bed;
		unsigned char buf[BLOCK];

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		bed_open(&bed, "blk,%s,overlay=%s", base, path_of("ovl"));
		for (unsigned int i = 0; i < 64; i++) {
			memset(buf, (int)i + 1, sizeof(buf));
			REQUIRE(io(&bed, BLOCK_WRITE, i * 3 * BLOCK, BLOCK, buf) == 0);
			if (i + 1 == flush)
				REQUIRE(io(&bed, BLOCK_FLUSH, 0, 0, NULL) == 0);
		}
		kill(getpid(), SIGKILL);
	}
	REQUIRE(waitpid(pid, &status, 0) == pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void expect_writes(const char *base, unsigned int n)
{
	struct bed bed;

	for (unsigned int i = 0; i < n; i++)
		memset(model + i * 3 * BLOCK, (int)i + 1, BLOCK);
	bed_open(&bed, "blk,%s,overlay=%s", base, path_of("ovl"));
	compare(&bed);
	bed_close(&bed);
}

/* The process is killed, the host is not: every finished write is there. */
static void killed(void)
{
	const char *base = make_base();

	die_after_writing(base, 0);
	expect_writes(base, 64);
}

/* The host was started again: what was flushed is there, and what was not is as before. */
static void rebooted(void)
{
	const char *base = make_base();
	int fd;

	die_after_writing(base, 40);
	fd = open(path_of("ovl"), O_WRONLY | O_CLOEXEC);
	REQUIRE(fd >= 0 && pwrite(fd, "0000", 4, BOOT_ID_AT) == 4);
	close(fd);
	expect_writes(base, 40);
	/* and it is as good as any other from now on */
	die_after_writing(base, 0);
	expect_writes(base, 64);
}

/* ---- threads ---- */

#define THREADS 3u
#define ROUNDS 400u

struct worker {
	struct block *block;
	unsigned int me;
};

/* As io_done(), of which the threads would share the counter. */
static void thread_io_done(struct block_req *req, int result)
{
	struct io *io = (struct io *)req;

	io->result = result;
	io->dones++;
}

/* Every third block is this thread's, so that all of them set bits of the same words, and flush together. */
static void *work(void *arg)
{
	const struct worker *w = arg;
	struct bed bed = {.block = w->block, .loop = sl_loop_new()};
	unsigned char buf[BLOCK];
	uint32_t x = w->me + 1;
	struct io one = {0};
	struct sl_err err;

	bed.c = block_attach(w->block, bed.loop, &err);
	REQUIRE(bed.c);
	for (unsigned int i = 0; i < ROUNDS; i++) {
		x = x * 1664525u + 1013904223u;
		uint64_t block = (x >> 8) % (DISK / BLOCK / THREADS) * THREADS + w->me;
		enum block_op op = i % 10 == 9 ? BLOCK_FLUSH : i % 4 == 3 ? BLOCK_READ : BLOCK_WRITE;

		fill(buf, sizeof(buf), x);
		one.dones = 0;
		one.one = (struct iovec){buf, BLOCK};
		one.req = (struct block_req){.op = op, .flags = op == BLOCK_WRITE && i % 16 == 0 ? BLOCK_FUA : 0,
					     .offset = block * BLOCK, .len = op == BLOCK_FLUSH ? 0 : BLOCK,
					     .iov = &one.one, .iovcnt = op == BLOCK_FLUSH ? 0 : 1, .done = thread_io_done};
		block_submit(bed.c, &one.req);
		block_commit(bed.c);
		while (!one.dones)
			sl_loop_step(bed.loop, 1);
		CHECK_EQ(one.result, 0);
		if (op == BLOCK_WRITE)
			memcpy(model + block * BLOCK, buf, BLOCK);
		else if (op == BLOCK_READ)
			CHECK(!memcmp(model + block * BLOCK, buf, BLOCK));
		/* Come and go, while others make rounds for our flushes. */
		if (i % 50 == 49) {
			block_detach(bed.c);
			bed.c = block_attach(w->block, bed.loop, &err);
			REQUIRE(bed.c);
		}
	}
	block_detach(bed.c);
	sl_loop_free(bed.loop);
	return NULL;
}

static void several_threads(void)
{
	const char *base = make_base();
	struct worker workers[THREADS];
	pthread_t threads[THREADS];
	struct bed bed;
	int fd;

	bed_open(&bed, "blk,%s,overlay=%s", base, path_of("ovl"));
	for (unsigned int i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){bed.block, i};
		REQUIRE(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
	}
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	compare(&bed);
	bed_close(&bed);
	/* What is durable is all of it, too. */
	fd = open(path_of("ovl"), O_WRONLY | O_CLOEXEC);
	REQUIRE(fd >= 0 && pwrite(fd, "0000", 4, BOOT_ID_AT) == 4);
	close(fd);
	bed_open(&bed, "blk,%s,overlay=%s", base, path_of("ovl"));
	compare(&bed);
	bed_close(&bed);
}

/* Many requests at once, more than there are stand-ins, and reads from both places among them. */
static void many_at_once(void)
{
	static struct io ios[400];
	unsigned char *buf = malloc(400 * 1024);
	const char *base = make_base();
	struct bed bed;

	bed_open(&bed, "blk,%s,temporary=on", base);
	for (unsigned int i = 0; i < 200; i++) {
		fill(buf + i * 1024, 512, i);
		memcpy(model + i * 1024, buf + i * 1024, 512);
		io_submit(&bed, &ios[i], BLOCK_WRITE, i * 1024, 512, buf + i * 1024);
	}
	block_commit(bed.c);
	for (unsigned int i = 0; i < 200; i++)
		CHECK_EQ(io_wait(&bed, &ios[i]), 0);
	for (unsigned int i = 0; i < 400; i++)
		io_submit(&bed, &ios[i], BLOCK_READ, i % 200 * 1024, 1024, buf + i * 1024);
	block_commit(bed.c);
	for (unsigned int i = 0; i < 400; i++) {
		CHECK_EQ(io_wait(&bed, &ios[i]), 0);
		CHECK(!memcmp(buf + i * 1024, model + i % 200 * 1024, 1024));
	}
	bed_close(&bed);
	free(buf);
}

/* ---- no space ---- */

static int full(void)
{
	unsigned char *buf = malloc(65536);
	const char *base = make_base();
	unsigned int failed = 0;
	struct bed bed;
	char path[160];

	snprintf(path, sizeof(path), "%s/small", dir);
	if (mkdir(path, 0700) < 0 || unshare(CLONE_NEWNS) < 0 ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("none", path, "tmpfs", 0, "size=1M") < 0)
		return 77;
	for (unsigned int life = 0; life < 2; life++) {
		bed_open(&bed, "blk,%s,overlay=%s/ovl", base, path);
		compare(&bed);
		for (unsigned int i = 0; i < DISK / 65536; i++) {
			int ret;

			fill(buf, 65536, i);
			ret = io(&bed, BLOCK_WRITE, i * 65536, 65536, buf);
			CHECK(!ret || ret == -ENOSPC);
			failed += ret != 0;
			if (!ret)
				memcpy(model + i * 65536, buf, 65536);
		}
		CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0); /* only those that needed room know */
		compare(&bed);
		bed_close(&bed);
	}
	CHECK(failed > 50);
	free(buf);
	return t_failures ? 1 : 0;
}

static void scratch_that_is_full(void)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(full());
	REQUIRE(waitpid(pid, &status, 0) == pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		SKIP("no file system of its own for a test");
	CHECK_EQ(status, 0);
}

/* ---- sizes, and what is refused ---- */

static void grows(void)
{
	const char *base = make_base();
	unsigned char buf[8192];
	struct sl_err err;
	struct bed bed;

	bed_open(&bed, "blk,%s,overlay=%s", base, path_of("ovl"));
	CHECK_EQ(block_resize(bed.block, DISK - MiB, &err), -ENOTSUP);
	CHECK_EQ(block_resize(bed.block, 1ull << 40, &err), -EFBIG);
	CHECK_EQ(block_resize(bed.block, 2 * DISK, &err), 0);
	CHECK_EQ(bed.block->info.size, 2 * DISK);
	CHECK_EQ(io(&bed, BLOCK_READ, DISK - 4096, 8192, buf), 0);
	CHECK(!memcmp(buf, model + DISK - 4096, 4096) && all_zero(buf + 4096, 4096));
	fill(buf, sizeof(buf), 3);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 2 * DISK - 8192, 8192, buf), 0);
	bed_close(&bed);
	bed_open(&bed, "blk,%s,overlay=%s", base, path_of("ovl"));
	CHECK_EQ(bed.block->info.size, 2 * DISK);
	memset(buf, 1, sizeof(buf));
	CHECK_EQ(io(&bed, BLOCK_READ, DISK, 8192, buf), 0);
	CHECK(all_zero(buf, 8192));
	CHECK_EQ(io(&bed, BLOCK_READ, 2 * DISK - 8192, 512, buf), 0);
	CHECK(!all_zero(buf, 512));
	compare(&bed);
	bed_close(&bed);
}

static void only_read(void)
{
	const char *base = make_base();
	unsigned char buf[512] = {7};
	struct bed bed;

	bed_open(&bed, "blk,%s,overlay=%s", base, path_of("ovl"));
	CHECK_EQ(io(&bed, BLOCK_WRITE, 512, 512, buf), 0);
	bed_close(&bed);
	memcpy(model + 512, buf, 512);
	bed_open(&bed, "blk,%s,overlay=%s,readonly=on", base, path_of("ovl"));
	CHECK_EQ(io(&bed, BLOCK_WRITE, 512, 512, buf), -EROFS);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	compare(&bed);
	bed_close(&bed);
}

static void expect_refused(const char *keys, const char *line)
{
	char spec[512], full_line[512];
	const char *base = path_of("base");
	struct bed bed;
	const char *why;

	snprintf(spec, sizeof(spec), "blk,%s,%s", base, keys);
	snprintf(full_line, sizeof(full_line), "%s", line);
	why = bed_try(&bed, spec);
	if (strcmp(why, line))
		fprintf(stderr, "%s:\n  says     %s\n  expected %s\n", spec, why, line);
	CHECK(!strcmp(why, line));
	if (!why[0])
		bed_close(&bed);
}

/* Change some bytes of the header, and put them back. */
static void damaged(off_t at, const void *bytes, size_t len, const char *why)
{
	char keys[256], line[256], was[32];
	int fd = open(path_of("ovl"), O_RDWR | O_CLOEXEC);

	REQUIRE(fd >= 0 && pread(fd, was, len, at) == (ssize_t)len && pwrite(fd, bytes, len, at) == (ssize_t)len);
	snprintf(keys, sizeof(keys), "overlay=%s", path_of("ovl"));
	snprintf(line, sizeof(line), "overlay=%s: %s", path_of("ovl"), why);
	expect_refused(keys, line);
	REQUIRE(pwrite(fd, was, len, at) == (ssize_t)len);
	close(fd);
}

static void refused(void)
{
	static const uint64_t odd = 12345, huge = UINT64_MAX, none = 0;
	const char *base = make_base();
	char keys[256], line[256], spec[256];
	struct bed bed;

	expect_refused("temporary=on,readonly=on", "blk: temporary=on and readonly=on exclude each other");
	expect_refused("temporary=on,overlay=x", "blk: overlay= and temporary=on exclude each other");
	expect_refused("overlay=/nowhere/x", "overlay=/nowhere/x: cannot open: No such file or directory");
	file_make("other", MiB, "some data", 9);
	snprintf(keys, sizeof(keys), "overlay=%s", path_of("other"));
	snprintf(line, sizeof(line), "overlay=%s: is no overlay, and not empty", path_of("other"));
	expect_refused(keys, line);
	snprintf(keys, sizeof(keys), "overlay=%s", base);
	snprintf(line, sizeof(line), "%s: in use by another process", base);
	expect_refused(keys, line);

	snprintf(keys, sizeof(keys), "overlay=%s", path_of("ovl"));
	bed_open(&bed, "blk,%s,%s", base, keys);
	bed_close(&bed);
	/* It is not a disk by itself. */
	snprintf(line, sizeof(line), "%s: is an overlay: its base is the source, and this file its overlay=",
		 path_of("ovl"));
	snprintf(spec, sizeof(spec), "blk,%s", path_of("ovl"));
	CHECK(!strcmp(bed_try(&bed, spec), line));
	bed_open(&bed, "blk,%s,%s", base, keys);
	snprintf(line, sizeof(line), "%s: in use by another process", path_of("ovl"));
	expect_refused(keys, line);
	bed_close(&bed);
	strcat(keys, ",block-size=4096");
	snprintf(line, sizeof(line), "overlay=%s: was made with block-size=512, and %s has 4096", path_of("ovl"), base);
	expect_refused(keys, line);
	damaged(16, "\x02", 1, "of version 2; this program knows 1");
	damaged(20, "\x01\x01", 2, "its header is damaged");
	for (off_t at = 24; at <= 64; at += 8) {
		damaged(at, &odd, 8, "its header is damaged");
		damaged(at, &huge, 8, "its header is damaged");
		damaged(at, &none, 8, "its header is damaged");
	}
	REQUIRE(truncate(base, DISK / 2) == 0);
	snprintf(keys, sizeof(keys), "overlay=%s", path_of("ovl"));
	snprintf(line, sizeof(line), "overlay=%s: was made above a disk of %u bytes, and %s has %u", path_of("ovl"),
		 DISK, base, DISK / 2);
	expect_refused(keys, line);
}

static const struct t_case cases[] = {
	{"reads_what_was_written", reads_what_was_written},
	{"discards_do_not_bring_back", discards_do_not_bring_back},
	{"guests_share_a_base", guests_share_a_base},
	{"killed", killed},
	{"rebooted", rebooted},
	{"several_threads", several_threads},
	{"many_at_once", many_at_once},
	{"scratch_that_is_full", scratch_that_is_full},
	{"grows", grows},
	{"only_read", only_read},
	{"refused", refused},
};

int main(int argc, char **argv)
{
	int ret;

	dir_make();
	ret = t_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
	free(model);
	dir_remove();
	return ret;
}
