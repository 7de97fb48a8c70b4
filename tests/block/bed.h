/* SPDX-License-Identifier: MIT */
/* bed.h - a source on a loop that the test steps by hand, and files to put under it */
#ifndef BLOCK_BED_H
#define BLOCK_BED_H

#include "block/block.h"
#include "t.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

/** struct bed - an open source with one channel */
struct bed {
	struct sl_loop *loop;
	struct spec spec;
	struct block *block;
	struct block_channel *c;
};

/** struct io - a request and what became of it */
struct io {
	struct block_req req;
	struct iovec one;
	int result;
	unsigned int dones;
	unsigned int order; /* the how-manieth to finish */
};

static unsigned int io_finished;
static bool io_in_submit;

static inline void io_done(struct block_req *req, int result)
{
	struct io *io = (struct io *)req;

	CHECK(!io_in_submit);
	io->result = result;
	io->dones++;
	io->order = ++io_finished;
}

/* "" or the error line of opening @text */
static inline const char *bed_try(struct bed *bed, const char *text)
{
	static struct sl_err err;

	*bed = (struct bed){0};
	err.text[0] = '\0';
	REQUIRE(spec_parse(&bed->spec, text, &err) == 0);
	if (block_open(&bed->spec, &bed->block, &err)) {
		CHECK(err.text[0]);
		spec_free(&bed->spec);
		return err.text;
	}
	CHECK(!err.text[0]);
	bed->loop = sl_loop_new();
	REQUIRE(bed->loop);
	bed->c = block_attach(bed->block, bed->loop, &err);
	REQUIRE(bed->c);
	return "";
}

static inline void SL_PRINTF(2, 3) bed_open(struct bed *bed, const char *fmt, ...)
{
	char text[512];
	const char *why;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	why = bed_try(bed, text);
	if (why[0])
		fprintf(stderr, "%s: %s\n", text, why);
	REQUIRE(!why[0]);
}

static inline void bed_close(struct bed *bed)
{
	block_detach(bed->c);
	block_close(bed->block);
	sl_loop_free(bed->loop);
	spec_free(&bed->spec);
}

/* Opening @spec must fail with exactly this line. */
static inline void bed_refused(const char *spec, const char *line)
{
	struct bed bed;
	const char *why = bed_try(&bed, spec);

	if (strcmp(why, line))
		fprintf(stderr, "%s:\n  says     %s\n  expected %s\n", spec, why, line);
	CHECK(!strcmp(why, line));
	if (!why[0])
		bed_close(&bed);
}

static inline void io_submit_iov(struct bed *bed, struct io *io, enum block_op op, uint64_t offset, uint64_t len,
				 struct iovec *iov, unsigned int iovcnt, unsigned int flags)
{
	io->dones = 0;
	io->req = (struct block_req){.op = op, .flags = flags, .offset = offset, .len = len, .iov = iov,
				     .iovcnt = iovcnt, .done = io_done};
	io_in_submit = true;
	block_submit(bed->c, &io->req);
	io_in_submit = false;
}

static inline void io_submit(struct bed *bed, struct io *io, enum block_op op, uint64_t offset, uint64_t len, void *buf)
{
	io->one = (struct iovec){buf, len};
	io_submit_iov(bed, io, op, offset, len, &io->one, buf ? 1 : 0, 0);
}

/* Until it is done, or a minute: a hang is a failure. */
static inline int io_wait(struct bed *bed, struct io *io)
{
	uint64_t until = sl_now() + 60000000000u;

	while (!io->dones && sl_now() < until)
		sl_loop_step(bed->loop, 20);
	REQUIRE(io->dones == 1);
	return io->result;
}

static inline int io_flags(struct bed *bed, enum block_op op, uint64_t offset, uint64_t len, void *buf,
			   unsigned int flags)
{
	struct iovec iov = {buf, len};
	struct io io;

	io_submit_iov(bed, &io, op, offset, len, &iov, buf ? 1 : 0, flags);
	block_commit(bed->c);
	return io_wait(bed, &io);
}

static inline int io(struct bed *bed, enum block_op op, uint64_t offset, uint64_t len, void *buf)
{
	return io_flags(bed, op, offset, len, buf, 0);
}

/* ---- files ---- */

static inline int SL_PRINTF(1, 2) shell(const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd);
}

static char dir[64];

static inline void dir_make(void)
{
	snprintf(dir, sizeof(dir), "%s/sluice-test.XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	REQUIRE(mkdtemp(dir));
}

static inline void dir_remove(void)
{
	REQUIRE(shell("rm -rf '%s'", dir) == 0);
}

/* All cases, in one folder @dir. */
#define BED_MAIN(cases)                                                                                                \
	int main(int argc, char **argv)                                                                                \
	{                                                                                                              \
		int ret;                                                                                               \
															       \
		dir_make();                                                                                            \
		ret = t_run(cases, sizeof(cases) / sizeof((cases)[0]), argc, argv);                                    \
		dir_remove();                                                                                          \
		return ret;                                                                                            \
	}

/* A sparse file of @size bytes that starts with @head; gives its path. */
static inline const char *file_make(const char *name, uint64_t size, const void *head, size_t head_len)
{
	static char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	unlink(path);
	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	REQUIRE(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	REQUIRE(!head_len || pwrite(fd, head, head_len, 0) == (ssize_t)head_len);
	close(fd);
	return path;
}

static inline uint64_t file_allocated(const char *path)
{
	struct stat st;

	REQUIRE(stat(path, &st) == 0);
	return (uint64_t)st.st_blocks * 512;
}

/* Bytes that differ from block to block and from seed to seed. */
static inline void fill(void *buf, size_t len, unsigned int seed)
{
	unsigned char *p = buf;
	uint32_t x = seed * 2654435761u + 1;

	for (size_t i = 0; i < len; i++) {
		x = x * 1664525u + 1013904223u;
		p[i] = (unsigned char)(x >> 24);
	}
}

static inline bool all_zero(const void *buf, size_t len)
{
	const unsigned char *p = buf;

	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

#endif
