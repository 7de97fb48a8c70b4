/* SPDX-License-Identifier: MIT */
/* test_record.c - the log of the record filter: what is in it, in which order, and what when it cannot be written */
#include "bed.h"
#include "log.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

static const char *log_path(void)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/log", dir);
	return path;
}

static void everything_in_order(void)
{
	static const unsigned char kinds[] = {BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES,
					      BLOCK_SECURE_ERASE};
	unsigned char a[4096], b[512];
	struct iovec iov[2] = {{a, 4096}, {b, 512}};
	struct io one;
	struct bed bed;
	struct log log;

	fill(a, sizeof(a), 1);
	fill(b, sizeof(b), 2);
	bed_open(&bed, "blk,memory:1M,record=%s", log_path());
	io_submit_iov(&bed, &one, BLOCK_WRITE, 8192, 4608, iov, 2, BLOCK_FUA);
	block_commit(bed.c);
	CHECK_EQ(io_wait(&bed, &one), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 512, b), 0); /* is not logged */
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 4096, 8192, NULL), 0);
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE_ZEROES, 512, 1024, NULL, BLOCK_UNMAP), 0);
	CHECK_EQ(io(&bed, BLOCK_SECURE_ERASE, 0, 512, NULL), 0);
	bed_close(&bed);

	log_read(&log, log_path());
	CHECK_EQ(log.size, 1 << 20);
	CHECK_EQ(log.block_size, 512);
	REQUIRE(log.n == 10);
	for (unsigned int i = 0; i < 10; i++) {
		const struct record *r = log.events[i].r;

		CHECK_EQ(r->kind, i % 2 ? RECORD_DONE : RECORD_SUBMITTED);
		CHECK_EQ(r->op, kinds[i / 2]);
		CHECK_EQ(r->id, i / 2 + 1);
		CHECK_EQ(r->result, 0);
		CHECK(!i || r->time >= log.events[i - 1].r->time);
	}
	CHECK_EQ(log.events[0].r->flags, BLOCK_FUA);
	CHECK_EQ(log.events[0].r->offset, 8192);
	REQUIRE(log.events[0].r->data == 4608);
	CHECK(!memcmp(log.events[0].data, a, 4096));
	fill(b, sizeof(b), 2);
	CHECK(!memcmp(log.events[0].data + 4096, b, 512));
	CHECK_EQ(log.events[6].r->flags, BLOCK_UNMAP);
	CHECK_EQ(log.events[6].r->len, 1024);
	CHECK_EQ(log.events[6].r->data, 0);
	log_free(&log);
}

/* What a filter above lets fail never gets to the store. */
static void failures(void)
{
	unsigned char buf[512] = {0};
	struct bed bed;
	struct log log;

	bed_open(&bed, "blk,memory:1M,error=100%%,record=%s", log_path());
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 512, buf), -EIO);
	bed_close(&bed);
	log_read(&log, log_path());
	CHECK_EQ(log.n, 0);
	log_free(&log);
}

/* What is below may change a request on its way; the log has it as it came, twice. */
static void above_an_overlay(void)
{
	unsigned char buf[512] = {1};
	const char *base = file_make("base", 1 << 20, NULL, 0);
	struct bed bed;
	struct log log;

	bed_open(&bed, "blk,%s,overlay=%s/ovl,record=%s", base, dir, log_path());
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE, 4096, 512, buf, BLOCK_FUA), 0);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 4096, 512, buf), 0);
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 4096, 512, NULL), 0);
	bed_close(&bed);
	log_read(&log, log_path());
	REQUIRE(log.n == 6);
	for (unsigned int i = 0; i < 6; i++) {
		CHECK_EQ(log.events[i].r->offset, 4096);
		CHECK_EQ(log.events[i].r->len, 512);
		CHECK_EQ(log.events[i].r->flags, i < 2 ? BLOCK_FUA : 0);
	}
	log_free(&log);
}

/* More at once than the filter has stand-ins: all are logged and done, in order. */
static void many_at_once(void)
{
	static struct io ios[300];
	static unsigned char buf[300][512];
	struct bed bed;
	struct log log;

	bed_open(&bed, "blk,memory:1M,record=%s", log_path());
	for (unsigned int i = 0; i < 300; i++) {
		fill(buf[i], 512, i);
		io_submit(&bed, &ios[i], BLOCK_WRITE, 512 * i, 512, buf[i]);
	}
	block_commit(bed.c);
	for (unsigned int i = 0; i < 300; i++)
		CHECK_EQ(io_wait(&bed, &ios[i]), 0);
	/* Those that wait for a stand-in are given up at once when they are abandoned. */
	for (unsigned int i = 0; i < 300; i++)
		io_submit(&bed, &ios[i], BLOCK_WRITE, 512 * i, 512, buf[i]);
	block_abandon(bed.c);
	block_commit(bed.c);
	for (unsigned int i = 0; i < 300; i++)
		CHECK_EQ(ios[i].result, i < 64 ? 0 : -ETIMEDOUT);
	bed_close(&bed);
	log_read(&log, log_path());
	CHECK_EQ(log.n, 600 + 128);
	for (unsigned int i = 0, n = 0; i < log.n && n < 300; i++)
		if (log.events[i].r->kind == RECORD_SUBMITTED)
			CHECK(!memcmp(log.events[i].data, buf[n++], 512));
	log_free(&log);
}

/* As io_done(), of which the threads would share the counter. */
static void thread_io_done(struct block_req *req, int result)
{
	struct io *io = (struct io *)req;

	io->result = result;
	io->dones++;
}

struct writer {
	struct block *block;
	unsigned int seed;
};

static void *write_some(void *arg)
{
	struct writer *w = arg;
	struct bed bed = {.block = w->block, .loop = sl_loop_new()};
	unsigned char buf[4096];
	struct sl_err err;
	struct io one;

	bed.c = block_attach(w->block, bed.loop, &err);
	REQUIRE(bed.c);
	for (unsigned int i = 0; i < 500; i++) {
		size_t len = 512 * (1 + i % 8);

		memset(buf, (int)(w->seed * 16 + i % 16), sizeof(buf));
		one.req = (struct block_req){0};
		one.dones = 0;
		one.one = (struct iovec){buf, len};
		one.req.op = BLOCK_WRITE;
		one.req.offset = w->seed * 65536;
		one.req.len = len;
		one.req.iov = &one.one;
		one.req.iovcnt = 1;
		one.req.done = thread_io_done;
		block_submit(bed.c, &one.req);
		block_commit(bed.c);
		while (!one.dones)
			sl_loop_step(bed.loop, 1);
	}
	block_detach(bed.c);
	sl_loop_free(bed.loop);
	return NULL;
}

/* Channels on several threads: every record whole, and of each channel submitted and done in turns. */
static void several_threads(void)
{
	struct writer writers[3];
	pthread_t threads[3];
	unsigned int state[3] = {0}, count[3] = {0};
	struct bed bed;
	struct log log;

	bed_open(&bed, "blk,memory:1M,record=%s", log_path());
	for (unsigned int i = 0; i < 3; i++) {
		writers[i] = (struct writer){bed.block, i};
		REQUIRE(pthread_create(&threads[i], NULL, write_some, &writers[i]) == 0);
	}
	for (unsigned int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	bed_close(&bed);
	log_read(&log, log_path());
	CHECK_EQ(log.n, 3 * 500 * 2);
	for (unsigned int i = 0; i < log.n; i++) {
		const struct record *r = log.events[i].r;
		unsigned int who = (unsigned int)(r->offset / 65536);

		REQUIRE(who < 3);
		CHECK_EQ(r->kind, state[who] ? RECORD_DONE : RECORD_SUBMITTED);
		if (!state[who])
			CHECK(log.events[i].data[0] == who * 16 + count[who] % 16 &&
			      log.events[i].data[r->data - 1] == log.events[i].data[0]);
		count[who] += state[who];
		state[who] ^= 1;
	}
	log_free(&log);
}

/* In a child with a small file system of its own. */
static int full_log(void)
{
	unsigned char *buf = calloc(1, 65536);
	char path[160];
	struct bed bed;
	struct log log;
	unsigned int writes = 0;

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("none", dir, "tmpfs", 0, "size=1M") < 0)
		return 77;
	snprintf(path, sizeof(path), "%s/log", dir);
	bed_open(&bed, "blk,memory:64M,record=%s", path);
	for (unsigned int i = 0; i < 64; i++)
		CHECK_EQ(io(&bed, BLOCK_WRITE, i * 65536, 65536, buf), 0); /* the disk goes on */
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	bed_close(&bed);
	log_read(&log, path);
	for (unsigned int i = 0; i < log.n; i++)
		writes += log.events[i].r->kind == RECORD_DONE;
	CHECK(writes > 5 && writes < 16);
	log_free(&log);
	free(buf);
	return t_failures ? 1 : 0;
}

static void log_that_is_full(void)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(full_log());
	REQUIRE(waitpid(pid, &status, 0) == pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		SKIP("no file system of its own for a test");
	CHECK_EQ(status, 0);
}

static void refused(void)
{
	char spec[256], line[256];
	struct bed first, second;

	bed_open(&first, "blk,memory:1M,record=%s", log_path());
	snprintf(spec, sizeof(spec), "blk,memory:1M,record=%s", log_path());
	snprintf(line, sizeof(line), "blk: record=%s: in use by another device", log_path());
	CHECK(!strcmp(bed_try(&second, spec), line));
	bed_close(&first);
	CHECK(!strcmp(bed_try(&second, "blk,memory:1M,record=/nowhere/log"),
		      "blk: record=/nowhere/log: cannot open: No such file or directory"));
}

static const struct t_case cases[] = {
	{"everything_in_order", everything_in_order},
	{"failures", failures},
	{"above_an_overlay", above_an_overlay},
	{"many_at_once", many_at_once},
	{"several_threads", several_threads},
	{"log_that_is_full", log_that_is_full},
	{"refused", refused},
};

BED_MAIN(cases)
