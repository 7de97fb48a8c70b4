/* SPDX-License-Identifier: MIT */
/* test_block.c - opening sources, the checks of block_submit(), memory, null and the filters */
#include "bed.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define MiB (1u << 20)

/* ---- opening ---- */

static void refused(const char *name, uint64_t size, const char *keys, const char *why)
{
	char spec[512], line[512];
	const char *path = file_make(name, size, NULL, 0);

	snprintf(spec, sizeof(spec), "blk,%s%s", path, keys);
	snprintf(line, sizeof(line), "%s: %s", path, why);
	bed_refused(spec, line);
}

static void open_refused_lines(void)
{
	static const char *const lines[][2] = {
		{"blk", "blk: needs a source, as in 'blk,disk.img' or 'blk,memory:64M'"},
		{"blk,/nowhere/x.img", "/nowhere/x.img: cannot open: No such file or directory"},
		{"blk,/tmp", "/tmp: is a directory; a disk is a file or a block device"},
		{"blk,/dev/null", "/dev/null: neither a regular file nor a block device"},
		{"blk,foo:pool/image",
		 "foo:pool/image: no 'foo:' sources in this build; a file of that name is written ./foo:pool/image"},
		{"blk,iscsi+tcp:///x", "iscsi+tcp:///x: no 'iscsi+tcp:' sources in this build; a file of that name is "
				      "written ./iscsi+tcp:///x"},
		{"blk,memory:", "memory:: wants a size, as in memory:64M"},
		{"blk,memory:12Q", "memory:12Q: wants a size, as in memory:64M"},
		{"blk,memory:16E", "memory:16E: wants a size, as in memory:64M"},
		{"blk,memory:4E", "memory:4E: no address space for a disk of that size: Cannot allocate memory"},
		{"blk,null:x", "null:x: wants a size, as in null:64M"},
		{"blk,memory:0", "memory:0: too small: 0 bytes, less than one block of 512"},
		{"blk,null:1000", "null:1000: 1000 bytes are no multiple of the block size 512; 512 or 1024 would be"},
		{"blk,null:6K,block-size=4K",
		 "null:6K: 6144 bytes are no multiple of the block size 4096; 4096 or 8192 would be"},
		{"blk,null:1M,block-size=513", "blk: block-size=513: wants a power of two"},
		{"blk,null:1M,block-size=128K", "blk: block-size=128K: out of range, 512 to 65536 are allowed"},
		{"blk,null:1M,readonly=maybe", "blk: readonly=maybe: wants one of off, on"},
		{"blk,null:1M,delay-op=read", "blk: delay-op=: needs delay-ms="},
		{"blk,null:1M,delay-ms=1,delay-op=raed", "blk: delay-op=raed: unknown; did you mean 'read'?"},
		{"blk,null:1M,error-count=1", "blk: error-count=: needs error="},
		{"blk,null:1M,error=lots", "blk: error=lots: wants a share such as 10%"},
		{"blk,null:1M,error=101%", "blk: error=101%: wants a share such as 10%"},
		{"blk,null:1M,error=1%,error-sectors=9-3", "blk: error-sectors=9-3: wants FROM-TO, as in 0-7"},
		{"blk,null:1M,error=1%,error-sectors=9", "blk: error-sectors=9: wants FROM-TO, as in 0-7"},
	};

	for (unsigned int i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		bed_refused(lines[i][0], lines[i][1]);
	refused("empty", 0, "", "too small: 0 bytes, less than one block of 512");
	refused("small", 511, "", "too small: 511 bytes, less than one block of 512");
	refused("odd", 1300, "", "1300 bytes are no multiple of the block size 512; 1024 or 1536 would be");
}

static void open_refuses_other_images(void)
{
	static const struct {
		const char *format;
		unsigned int at, len;
		const char *magic;
	} images[] = {
		{"qcow2", 0, 4, "QFI\xfb"}, {"qed", 0, 4, "QED"},	       {"vdi", 64, 4, "\x7f\x10\xda\xbe"},
		{"vhdx", 0, 8, "vhdxfile"}, {"vmdk", 0, 4, "KDMV"},	       {"vmdk", 0, 4, "COWD"},
		{"vpc", 0, 8, "conectix"},  {"vmdk", 0, 21, "# Disk DescriptorFile"}, {"vpc", MiB - 512, 8, "conectix"},
	};

	for (unsigned int i = 0; i < sizeof(images) / sizeof(images[0]); i++) {
		char head[128] = "", spec[256], line[512];
		const char *path;
		struct bed bed;

		if (images[i].at < 100) {
			memcpy(head + images[i].at, images[i].magic, images[i].len);
			path = file_make("image", MiB, head, sizeof(head));
		} else {
			int fd;

			path = file_make("image", MiB, NULL, 0);
			fd = open(path, O_WRONLY);
			REQUIRE(pwrite(fd, images[i].magic, images[i].len, images[i].at) == images[i].len);
			close(fd);
		}
		snprintf(spec, sizeof(spec), "blk,%s", path);
		snprintf(line, sizeof(line),
			 "%s: looks like a %s image: write format=%s, or format=raw to serve its bytes as they are",
			 path, images[i].format, images[i].format);
		bed_refused(spec, line);
		bed_open(&bed, "blk,%s,format=raw", path);
		bed_close(&bed);
	}
}

/* Two processes, or two opens here: their locks belong to the open file, so both cases are the same. */
static void open_locked(void)
{
	struct flock qemu = {.l_type = F_RDLCK, .l_start = 101, .l_len = 1};
	struct bed first, second;
	char spec[256], line[256];
	const char *path = file_make("locked", MiB, NULL, 0);
	int fd;

	snprintf(spec, sizeof(spec), "blk,%s", path);
	snprintf(line, sizeof(line), "%s: in use by another process", path);
	bed_open(&first, "%s", spec);
	bed_refused(spec, line);
	strcat(spec, ",readonly=on");
	bed_refused(spec, line);
	bed_close(&first);

	bed_open(&first, "%s", spec);
	bed_open(&second, "%s", spec);
	bed_close(&second);
	snprintf(spec, sizeof(spec), "blk,%s", path);
	bed_refused(spec, line);
	bed_close(&first);

	/* QEMU with this disk open for writing holds a reader lock on this byte. */
	fd = open(path, O_RDWR | O_CLOEXEC);
	REQUIRE(fd >= 0 && fcntl(fd, F_OFD_SETLK, &qemu) == 0);
	bed_refused(spec, line);
	strcat(spec, ",readonly=on");
	bed_refused(spec, line);
	close(fd);
	bed_open(&first, "%s", spec);
	bed_close(&first);
}

static void open_unwritable(void)
{
	char spec[256], line[512];
	const char *path = file_make("unwritable", MiB, NULL, 0);
	struct bed bed;
	int status;
	pid_t pid;

	REQUIRE(chmod(path, 0444) == 0 && chmod(dir, 0755) == 0);
	snprintf(spec, sizeof(spec), "blk,%s", path);
	snprintf(line, sizeof(line),
		 "%s: cannot open for writing: Permission denied; add readonly=on to serve it read-only", path);
	/* root may write to everything */
	pid = fork();
	if (!pid) {
		t_failures = 0;
		if (!geteuid() && setuid(65534) < 0)
			_exit(2);
		bed_refused(spec, line);
		strcat(spec, ",readonly=on");
		bed_open(&bed, "%s", spec);
		bed_close(&bed);
		_exit(t_failures ? 1 : 0);
	}
	REQUIRE(waitpid(pid, &status, 0) == pid);
	CHECK_EQ(status, 0);
}

static void open_without_io_uring(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
	char spec[256], line[512];
	const char *path = file_make("disk", MiB, NULL, 0);
	int status;
	pid_t pid;

	snprintf(spec, sizeof(spec), "blk,%s", path);
	snprintf(line, sizeof(line),
		 "%s: this process may not use io_uring (Operation not permitted): see sysctl "
		 "kernel.io_uring_disabled and the container's seccomp profile",
		 path);
	pid = fork();
	if (!pid) {
		t_failures = 0;
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
			_exit(77);
		bed_refused(spec, line);
		_exit(t_failures ? 1 : 0);
	}
	REQUIRE(waitpid(pid, &status, 0) == pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		SKIP("seccomp filters are not allowed here");
	CHECK_EQ(status, 0);
}

/* ---- the checks of block_submit() ---- */

static void checks_of(const char *spec)
{
	unsigned char *buf = calloc(1, 8192);
	struct bed bed;
	uint64_t last = UINT64_MAX & ~(uint64_t)511;

	bed_open(&bed, "%s", spec);
	for (int op = 0; op < BLOCK_NUM_OPS; op++) {
		void *b = op == BLOCK_READ || op == BLOCK_WRITE ? buf : NULL;

		if (op == BLOCK_FLUSH)
			continue;
		CHECK_EQ(io(&bed, op, 1, 512, b), -EINVAL);
		CHECK_EQ(io(&bed, op, 512, 511, b), -EINVAL);
		CHECK_EQ(io(&bed, op, MiB, 512, b), -ENOSPC);	    /* starts at the end */
		CHECK_EQ(io(&bed, op, MiB - 512, 1024, b), -ENOSPC); /* ends beyond it */
		CHECK_EQ(io(&bed, op, last, 1024, b), -ENOSPC);	    /* wraps to 512 */
		CHECK_EQ(io(&bed, op, 1024, last, b), -ENOSPC);	    /* the same the other way round */
		CHECK_EQ(io(&bed, op, last, last, b), -ENOSPC);
		CHECK_EQ(io(&bed, op, MiB, 0, b), 0); /* nothing at the end is in range */
		CHECK_EQ(io(&bed, op, MiB + 512, 0, b), -ENOSPC);
	}
	CHECK_EQ(io(&bed, BLOCK_READ, MiB - 512, 512, buf), 0);
	CHECK_EQ(io(&bed, BLOCK_WRITE, MiB - 512, 512, buf), 0);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	bed_close(&bed);
	free(buf);
}

static void submit_checks_range(void)
{
	checks_of("blk,memory:1M");
	checks_of("blk,null:1M");
	checks_of("blk,null:1M,delay-ms=1");
	checks_of("blk,null:1M,error=100%,error-sectors=100-200");
}

static void submit_checks_abilities(void)
{
	unsigned char buf[512];
	struct bed bed;

	bed_open(&bed, "blk,memory:1M,readonly=on");
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 512, buf), 0);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 512, buf), -EROFS);
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 0, 512, NULL), -EROFS);
	CHECK_EQ(io(&bed, BLOCK_WRITE_ZEROES, 0, 512, NULL), -EROFS);
	CHECK_EQ(io(&bed, BLOCK_SECURE_ERASE, 0, 512, NULL), -EROFS);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	bed_close(&bed);

	bed_open(&bed, "blk,memory:1M,discard=off,block-size=4096");
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 0, 4096, NULL), -EOPNOTSUPP);
	CHECK_EQ(io(&bed, BLOCK_WRITE_ZEROES, 0, 4096, NULL), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 512, 4096, buf), -EINVAL);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 512, buf), -EINVAL);
	bed_close(&bed);
}

/* A refused request is done at the commit, neither before nor never. */
static void rejected_at_commit(void)
{
	struct bed bed;
	struct io ios[3];

	bed_open(&bed, "blk,memory:1M");
	for (unsigned int i = 0; i < 3; i++)
		io_submit(&bed, &ios[i], BLOCK_READ, 1, 512, NULL);
	for (unsigned int i = 0; i < 3; i++)
		CHECK_EQ(ios[i].dones, 0);
	block_commit(bed.c);
	for (unsigned int i = 0; i < 3; i++)
		CHECK_EQ(ios[i].dones, 1);
	block_commit(bed.c);
	CHECK_EQ(ios[0].dones, 1);
	bed_close(&bed);
}

/* ---- memory and null ---- */

static void memory_keeps_data(void)
{
	unsigned char *a = malloc(MiB), *b = malloc(MiB);
	struct iovec iov[3];
	struct bed bed;
	struct io one;

	bed_open(&bed, "blk,memory:4M");
	CHECK_EQ(io(&bed, BLOCK_READ, 0, MiB, b), 0);
	CHECK(all_zero(b, MiB));
	fill(a, MiB, 1);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 512, MiB, a), 0);
	iov[0] = (struct iovec){b, 1};
	iov[1] = (struct iovec){b + 1, 4096};
	iov[2] = (struct iovec){b + 4097, MiB - 4097};
	io_submit_iov(&bed, &one, BLOCK_READ, 512, MiB, iov, 3, 0);
	block_commit(bed.c);
	CHECK_EQ(io_wait(&bed, &one), 0);
	CHECK(!memcmp(a, b, MiB));

	for (int op = BLOCK_DISCARD; op < BLOCK_NUM_OPS; op++) {
		CHECK_EQ(io(&bed, BLOCK_WRITE, 0, MiB, a), 0);
		CHECK_EQ(io(&bed, op, 512, 512, NULL), 0); /* inside a page */
		CHECK_EQ(io(&bed, op, 4096 - 512, 3 * 4096 + 1024, NULL), 0);
		CHECK_EQ(io(&bed, BLOCK_READ, 0, MiB, b), 0);
		CHECK(!memcmp(a, b, 512) && all_zero(b + 512, 512) && !memcmp(a + 1024, b + 1024, 4096 - 512 - 1024));
		CHECK(all_zero(b + 4096 - 512, 3 * 4096 + 1024));
		CHECK(!memcmp(a + 4 * 4096 + 512, b + 4 * 4096 + 512, MiB - 4 * 4096 - 512));
	}
	bed_close(&bed);
	free(a);
	free(b);
}

static void null_moves_nothing(void)
{
	unsigned char a[512], b[512];
	struct bed bed;

	bed_open(&bed, "blk,null:1E");
	fill(a, 512, 1);
	memcpy(b, a, 512);
	CHECK_EQ(io(&bed, BLOCK_READ, (1ULL << 60) - 512, 512, b), 0);
	CHECK(!memcmp(a, b, 512));
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 0, 1ULL << 60, NULL), 0);
	bed_close(&bed);
}

/* ---- filters ---- */

static void delay_holds_its_kind(void)
{
	unsigned char buf[512] = {0};
	struct bed bed;
	struct io w[2], r;

	bed_open(&bed, "blk,memory:1M,delay-ms=30,delay-op=write");
	io_submit(&bed, &w[0], BLOCK_WRITE, 0, 512, buf);
	io_submit(&bed, &w[1], BLOCK_WRITE, 512, 512, buf);
	io_submit(&bed, &r, BLOCK_READ, 1024, 512, buf);
	block_commit(bed.c);
	CHECK_EQ(r.dones, 1);
	CHECK_EQ(w[0].dones, 0);
	CHECK_EQ(io_wait(&bed, &w[1]), 0);
	CHECK_EQ(io_wait(&bed, &w[0]), 0);
	CHECK(w[0].order < w[1].order);
	/* One that comes while another waits has its own time. */
	io_submit(&bed, &w[0], BLOCK_WRITE, 0, 512, buf);
	block_commit(bed.c);
	for (uint64_t until = sl_now() + 10000000; sl_now() < until;)
		sl_loop_step(bed.loop, 1);
	io_submit(&bed, &w[1], BLOCK_WRITE, 0, 512, buf);
	block_commit(bed.c);
	CHECK_EQ(io_wait(&bed, &w[0]), 0);
	CHECK_EQ(io_wait(&bed, &w[1]), 0);
	CHECK(w[0].order < w[1].order);
	bed_close(&bed);
}

static void error_hits_its_kind(void)
{
	unsigned char buf[4096] = {0};
	unsigned int failed = 0;
	struct bed bed;

	bed_open(&bed, "blk,memory:1M,error=100%%,error-op=write,error-errno=ENOSPC,error-sectors=8-15,error-count=2");
	CHECK_EQ(io(&bed, BLOCK_READ, 4096, 512, buf), 0);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 4096, buf), 0);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 8192, 4096, buf), 0);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 8192 - 512, 1024, buf), -ENOSPC);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 4096 - 512, 1024, buf), -ENOSPC);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 4096, 512, buf), 0); /* the count is used up: a retry succeeds */
	bed_close(&bed);

	bed_open(&bed, "blk,memory:1M,error=25%%");
	for (unsigned int i = 0; i < 1000; i++)
		failed += io(&bed, BLOCK_READ, 0, 512, buf) == -EIO;
	CHECK(failed > 150 && failed < 350);
	bed_close(&bed);
}

static void filters_stack(void)
{
	unsigned char buf[512] = {0};
	struct bed bed;
	struct io one;

	bed_open(&bed, "blk,memory:1M,error=100%%,delay-ms=20");
	CHECK_EQ(bed.block->info.size, MiB);
	CHECK(!strcmp(bed.block->name, "memory:1M"));
	io_submit(&bed, &one, BLOCK_READ, 0, 512, buf);
	block_commit(bed.c);
	CHECK_EQ(one.dones, 0);
	CHECK_EQ(io_wait(&bed, &one), -EIO);
	bed_close(&bed);
}

static const struct t_case cases[] = {
	{"open_refused_lines", open_refused_lines},
	{"open_refuses_other_images", open_refuses_other_images},
	{"open_locked", open_locked},
	{"open_unwritable", open_unwritable},
	{"open_without_io_uring", open_without_io_uring},
	{"submit_checks_range", submit_checks_range},
	{"submit_checks_abilities", submit_checks_abilities},
	{"rejected_at_commit", rejected_at_commit},
	{"memory_keeps_data", memory_keeps_data},
	{"null_moves_nothing", null_moves_nothing},
	{"delay_holds_its_kind", delay_holds_its_kind},
	{"error_hits_its_kind", error_hits_its_kind},
	{"filters_stack", filters_stack},
};

BED_MAIN(cases)
