/* SPDX-License-Identifier: MIT */
/* test_image.c - image formats, by qemu-nbd and qemu-img */
#include "nbd/server.h"

#include <sched.h>
#include <sys/mount.h>

/* Does a qemu-nbd serve this image of our folder? @name is a pattern that does not match itself. -q: also when a process vanishes */
static bool serves(const char *name)
{
	return !shell("grep -qsa 'qemu-nbd.*%s/%s' /proc/[0-9]*/cmdline", dir, name);
}

static void formats(void)
{
	static const char *const names[] = {"qcow2", "vmdk", "vhdx", "vdi", "vpc", "qed"};

	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const char *f = names[i];
		unsigned char *all = malloc(8 * MiB);
		struct bed bed;
		int fd;

		/* vpc rounds sizes up to a geometry unless told not to */
		REQUIRE(!shell("qemu-img create -q -f %s %s %s/disk.%s 8M", f, strcmp(f, "vpc") ? "" : "-o force_size=on",
			       dir, f));
		bed_open(&bed, "blk,%s/disk.%s,format=%s", dir, f, f);
		CHECK_EQ(bed.block->info.size, 8 * MiB);
		CHECK(!bed.block->info.single);
		round_trip(&bed, true);
		/* what a discard leaves is anything: for the comparison it must be something */
		fill(all, MiB, i);
		CHECK_EQ(io(&bed, BLOCK_WRITE, 5 * MiB, MiB, all), 0);
		CHECK_EQ(io(&bed, BLOCK_READ, 0, 8 * MiB, all), 0);
		bed_close(&bed);
		fd = open(file_make("copy", 0, NULL, 0), O_WRONLY | O_CLOEXEC);
		REQUIRE(fd >= 0 && write(fd, all, 8 * MiB) == 8 * MiB);
		close(fd);
		if (strcmp(f, "vpc"))
			CHECK_EQ(shell("qemu-img check -q -f %s %s/disk.%s", f, dir, f), 0);
		CHECK_EQ(shell("qemu-img compare -q -f %s -F raw %s/disk.%s %s/copy", f, dir, f, dir), 0);
		bed_open(&bed, "blk,%s/disk.%s,format=%s,readonly=on,cache=writethrough", dir, f, f);
		CHECK(bed.block->info.read_only);
		CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 4096, all), -EROFS);
		bed_close(&bed);
		free(all);
	}
	/* nothing is left: no process, no folder of a socket */
	CHECK(!serves("disk[.]qcow2"));
}

/*
 * This program once more, as the part @name in the folder @dir: what starts threads cannot only fork, as keepers that are
 * done may not be gone.
 */
static pid_t child(const char *name)
{
	pid_t pid = fork();

	REQUIRE(pid >= 0);
	if (!pid) {
		execl("/proc/self/exe", "child", "--child", name, dir, NULL);
		_exit(127);
	}
	return pid;
}

static void write_and_wait(void)
{
	struct bed bed;
	unsigned char buf[4096] = {1};

	bed_open(&bed, "blk,%s/kill.qcow2,format=qcow2", dir);
	REQUIRE(!io(&bed, BLOCK_WRITE, 0, 4096, buf));
	file_make("ready", 1, NULL, 0);
	pause();
}

static void killed_sluice(void)
{
	unsigned int i;
	pid_t pid;

	REQUIRE(!shell("qemu-img create -q -f qcow2 %s/kill.qcow2 8M", dir));
	setenv("TMPDIR", dir, 1);
	pid = child("write_and_wait");
	for (i = 0; i < 6000 && shell("test -e %s/ready", dir); i++)
		nap();
	CHECK(serves("kill[.]qcow2"));
	end(pid);
	for (i = 0; i < 6000 && serves("kill[.]qcow2"); i++)
		nap();
	CHECK(!serves("kill[.]qcow2"));
	CHECK_EQ(shell("test \"$(ls -A %s | sort | tr '\\n' ' ')\" = 'kill.qcow2 ready '", dir), 0);
	CHECK_EQ(shell("qemu-img check -q -f qcow2 %s/kill.qcow2", dir), 0);
	unsetenv("TMPDIR");
}

/* The process of our own qemu-nbd; there is one. */
static pid_t our_qemu_nbd(void)
{
	char cmd[64];
	pid_t pid = 0;
	FILE *in;

	snprintf(cmd, sizeof(cmd), "pgrep -x -P %d qemu-nbd", (int)getpid());
	in = popen(cmd, "r");
	REQUIRE(in);
	if (fscanf(in, "%d", &pid) != 1)
		pid = 0;
	pclose(in);
	return pid;
}

static void kill_qemu_nbd(struct bed *bed)
{
	pid_t pid = our_qemu_nbd();

	REQUIRE(pid);
	kill(pid, SIGKILL);
	for (uint64_t until = sl_now() + 60000000000u; kill(pid, 0) == 0 && sl_now() < until;)
		sl_loop_step(bed->loop, 5);
}

/*
 * qemu-nbd is killed again and again while blocks of an image that grows are written over two connections, never
 * flushed by us, and read back: every write that was answered is there.
 */
static void server_killed(const char *format, const char *keys, unsigned int mib)
{
	const unsigned int blocks = mib * MiB / 65536;
	unsigned char *data = malloc(65536), *back = malloc(65536);
	struct bed bed, second;
	struct sl_err err;

	REQUIRE(!shell("qemu-img create -q -f %s %s/kill.%s %uM", format, dir, format, mib));
	bed_open(&bed, "blk,%s/kill.%s,format=%s%s", dir, format, format, keys);
	second = bed;
	second.c = block_attach(bed.block, bed.loop, &err);
	REQUIRE(second.c);
	for (unsigned int i = 0; i < 2 * blocks; i++) {
		unsigned int n = i * 7919 % blocks;
		struct io io_a, io_b;

		/* every block twice, the second time with other bytes */
		fill(data, 65536, i);
		io_submit(&bed, &io_a, BLOCK_WRITE, n * 65536ull, 32768, data);
		io_submit(&second, &io_b, BLOCK_WRITE, n * 65536ull + 32768, 32768, data + 32768);
		block_commit(bed.c);
		block_commit(second.c);
		if (i % blocks == blocks / 3)
			kill_qemu_nbd(&bed);
		CHECK_EQ(io_wait(&bed, &io_a), 0);
		CHECK_EQ(io_wait(&second, &io_b), 0);
	}
	kill_qemu_nbd(&bed);
	for (unsigned int i = blocks; i < 2 * blocks; i++) {
		fill(data, 65536, i);
		CHECK_EQ(io(&bed, BLOCK_READ, i * 7919 % blocks * 65536ull, 65536, back), 0);
		if (memcmp(data, back, 65536)) {
			fprintf(stderr, "%s%s: block %u is not what was written\n", format, keys, i * 7919 % blocks);
			t_failures++;
			break;
		}
	}
	block_detach(second.c);
	bed_close(&bed);
	free(data);
	free(back);
}

static void qemu_nbd_killed(void)
{
	server_killed("qcow2", "", 24); /* more than half of the log: our own flushes come in */
	server_killed("qcow2", ",cache=writethrough", 4);
	server_killed("vmdk", "", 4);
}

/* Zeroed and discarded blocks of the log, a request larger than the log, and room that is short. */
static void log_of_everything(void)
{
	unsigned char *data = malloc(40 * MiB), *back = malloc(40 * MiB);
	struct bed bed;
	struct io many[48];

	REQUIRE(!shell("qemu-img create -q -f qcow2 %s/a.qcow2 64M", dir));
	bed_open(&bed, "blk,%s/a.qcow2,format=qcow2", dir);
	fill(data, 40 * MiB, 1);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 40 * MiB, data), 0);
	CHECK_EQ(io(&bed, BLOCK_WRITE_ZEROES, MiB, MiB, NULL), 0);
	memset(data + MiB, 0, MiB);
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE_ZEROES, 3 * MiB, MiB, NULL, BLOCK_UNMAP), 0);
	memset(data + 3 * MiB, 0, MiB);
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 60 * MiB, MiB, NULL), 0);
	/* what is durable is not undone by what is older and is not */
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, MiB, data + 5 * MiB), 0);
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE, 0, MiB, data, BLOCK_FUA), 0);
	kill_qemu_nbd(&bed);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 40 * MiB, back), 0);
	CHECK(!memcmp(data, back, 40 * MiB));
	fill(data, 40 * MiB, 2);
	for (unsigned int i = 0; i < 40; i++)
		io_submit(&bed, &many[i], BLOCK_WRITE, i * MiB, MiB, data + i * MiB);
	block_commit(bed.c);
	for (unsigned int i = 0; i < 40; i++)
		CHECK_EQ(io_wait(&bed, &many[i]), 0);
	kill_qemu_nbd(&bed);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 40 * MiB, back), 0);
	CHECK(!memcmp(data, back, 40 * MiB));
	bed_close(&bed);
	free(data);
	free(back);
}

static void resized(void)
{
	static unsigned char a[MiB], b[MiB];
	struct bed bed;
	struct sl_err err;
	struct io held;

	REQUIRE(!shell("qemu-img create -q -f qcow2 %s/a.qcow2 8M && qemu-img create -q -f vmdk %s/a.vmdk 8M", dir, dir));
	bed_open(&bed, "blk,%s/a.qcow2,format=qcow2", dir);
	fill(a, MiB, 3);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 7 * MiB, MiB, a), 0);
	io_submit(&bed, &held, BLOCK_READ, 7 * MiB, 4096, b);
	block_commit(bed.c);
	CHECK_EQ(block_resize(bed.block, 16 * MiB, &err), 0);
	CHECK_EQ(bed.block->info.size, 16 * MiB);
	CHECK_EQ(io_wait(&bed, &held), 0);
	CHECK(!memcmp(a, b, 4096));
	CHECK_EQ(io(&bed, BLOCK_WRITE, 15 * MiB, MiB, a), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 15 * MiB, MiB, b), 0);
	CHECK(!memcmp(a, b, MiB));
	CHECK_EQ(block_resize(bed.block, 8 * MiB, &err), -EINVAL);
	CHECK(strstr(err.text, "only grows"));
	bed_close(&bed);
	CHECK_EQ(shell("qemu-img check -q -f qcow2 %s/a.qcow2", dir), 0);
	bed_open(&bed, "blk,%s/a.vmdk,format=vmdk", dir);
	CHECK(block_resize(bed.block, 16 * MiB, &err) < 0 && strstr(err.text, "does not support resize"));
	CHECK_EQ(bed.block->info.size, 8 * MiB);
	CHECK_EQ(io(&bed, BLOCK_READ, 7 * MiB, MiB, b), 0);
	bed_close(&bed);
}

/* format=raw looks at nothing: what a guest writes at the start never makes the image another one. */
static void never_probed(void)
{
	unsigned char header[4096] = {0}, back[4096];
	char path[256];
	struct bed bed;
	FILE *in;

	/* a whole header of an image that names a backing file on the host */
	REQUIRE(!shell("qemu-img create -q -f qcow2 -u -b /etc/passwd -F raw %s/evil 8M", dir));
	snprintf(path, sizeof(path), "%s/evil", dir);
	in = fopen(path, "re");
	REQUIRE(in && fread(header, 1, sizeof(header), in) == sizeof(header));
	fclose(in);
	snprintf(path, sizeof(path), "%s", file_make("disk", 8 * MiB, NULL, 0));
	bed_open(&bed, "blk,%s", path);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 4096, header), 0);
	bed_close(&bed);
	refuses("format=qcow2", "blk,%s", path);
	bed_open(&bed, "blk,%s,format=raw", path);
	CHECK_EQ(bed.block->info.size, 8 * MiB);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 4096, back), 0);
	CHECK(!memcmp(header, back, 4096));
	CHECK(!our_qemu_nbd());
	bed_close(&bed);
}

/* Discarded blocks leave the image on the host. */
static void discarded(void)
{
	unsigned char *data = malloc(8 * MiB);
	uint64_t before;
	char path[256];
	struct bed bed;

	snprintf(path, sizeof(path), "%s/a.qcow2", dir);
	REQUIRE(!shell("qemu-img create -q -f qcow2 %s 8M", path));
	bed_open(&bed, "blk,%s,format=qcow2", path);
	fill(data, 8 * MiB, 1);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 8 * MiB, data), 0);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	before = file_allocated(path);
	CHECK(before >= 8 * MiB);
	CHECK_EQ(io(&bed, BLOCK_DISCARD, MiB, 7 * MiB, NULL), 0);
	bed_close(&bed);
	CHECK(file_allocated(path) + 6 * MiB < before);
	bed_open(&bed, "blk,%s,format=qcow2,discard=off", path);
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 0, MiB, NULL), -EOPNOTSUPP);
	bed_close(&bed);
	free(data);
}

/* In a mount of its own, which is gone with the process. */
static void fill_up(void)
{
	static unsigned char data[MiB];
	unsigned int refused = 0;
	struct bed bed;

	if (unshare(geteuid() ? CLONE_NEWUSER | CLONE_NEWNS : CLONE_NEWNS) ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("tmpfs", dir, "tmpfs", 0, "size=3m"))
		exit(77);
	REQUIRE(!shell("qemu-img create -q -f qcow2 %s/a.qcow2 8M", dir));
	bed_open(&bed, "blk,%s/a.qcow2,format=qcow2", dir);
	fill(data, MiB, 1);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, MiB, data), 0);
	for (unsigned int i = 1; i < 8; i++) {
		int ret = io(&bed, BLOCK_WRITE, i * MiB, MiB, data);

		CHECK(ret == 0 || ret == -ENOSPC);
		refused += ret == -ENOSPC;
	}
	CHECK(refused >= 4);
	memset(data, 0, MiB);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, MiB, data), 0);
	CHECK(data[1000]);
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 0, MiB, NULL), 0);
	bed_close(&bed);
}

/* The host's file system is full: those writes fail with that reason, what is there can be read, and it goes on. */
static void full(void)
{
	int status;

	REQUIRE(waitpid(child("fill_up"), &status, 0) > 0 && WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		SKIP("no mount name space of its own here");
	CHECK_EQ(WEXITSTATUS(status), 0);
}

/* The image is somebody else's when qemu-nbd starts again: it waits for it. */
static void lock_lost(void)
{
	unsigned char buf[4096] = {1};
	struct bed bed;
	struct io held;
	pid_t pid;

	REQUIRE(!shell("qemu-img create -q -f qcow2 %s/a.qcow2 8M", dir));
	bed_open(&bed, "blk,%s/a.qcow2,format=qcow2", dir);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 4096, buf), 0);
	kill_qemu_nbd(&bed);
	pid = serve("qemu-nbd -t -f qcow2 -k %s %s/a.qcow2", sock, dir);
	io_submit(&bed, &held, BLOCK_READ, 0, 4096, buf);
	block_commit(bed.c);
	for (unsigned int i = 0; i < 100; i++)
		sl_loop_step(bed.loop, 5);
	end(pid);
	CHECK_EQ(io_wait(&bed, &held), 0);
	CHECK_EQ(buf[0], 1);
	/* closed while it cannot start */
	REQUIRE(!shell("mv %s/a.qcow2 %s/b", dir, dir));
	kill_qemu_nbd(&bed);
	for (unsigned int i = 0; i < 50; i++)
		sl_loop_step(bed.loop, 5);
	bed_close(&bed);
}

/* Whoever has the image lets go of it in time, as the qemu-nbd of a sluice that was killed does. */
static void lock_given_back(void)
{
	struct bed bed;
	pid_t pid;

	REQUIRE(!shell("qemu-img create -q -f qcow2 %s/a.qcow2 8M", dir));
	pid = serve("qemu-nbd -t -f qcow2 -k %s %s/a.qcow2", sock, dir);
	REQUIRE(!shell("(sleep 1; kill %d) &", (int)pid));
	bed_open(&bed, "blk,%s/a.qcow2,format=qcow2", dir);
	CHECK_EQ(bed.block->info.size, 8 * MiB);
	bed_close(&bed);
	REQUIRE(waitpid(pid, NULL, 0) == pid);
}

/* A qemu-nbd that stands still: requests fail in time, and the device is closed in bounded time. */
static void stands_still(void)
{
	unsigned char buf[4096];
	unsigned int late = 0;
	struct bed bed;
	pid_t pid;

	REQUIRE(!shell("qemu-img create -q -f qcow2 %s/a.qcow2 8M", dir));
	bed_open(&bed, "blk,%s/a.qcow2,format=qcow2,timeout=3", dir);
	CHECK_EQ(io_answered(&bed, BLOCK_READ, 0, 4096, buf, &late), 0);
	pid = our_qemu_nbd();
	kill(pid, SIGSTOP);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 4096, buf), -ETIMEDOUT);
	kill(pid, SIGCONT);
	CHECK_EQ(io_answered(&bed, BLOCK_READ, 0, 4096, buf, &late), 0);
	bed_close(&bed);
}

static void errors(void)
{
	struct bed bed;
	char path[256], *programs;

	REQUIRE(!shell("qemu-img create -q -f qcow2 %s/a.qcow2 8M", dir));
	refuses("format=qcow2", "blk,%s/a.qcow2", dir);
	bed_open(&bed, "blk,%s/a.qcow2,format=qcow2", dir);
	refuses("lock", "blk,%s/a.qcow2,format=qcow2", dir);
	bed_close(&bed);
	refuses("No such file", "blk,%s/none.qcow2,format=qcow2", dir);
	snprintf(path, sizeof(path), "%s", file_make("bad", MiB, "QFI\xfb\0\0\0\x03rubbish", 15));
	refuses("cluster size", "blk,%s,format=qcow2", path);
	refuses("VMDK", "blk,%s,format=vmdk", path);
	programs = strdup(getenv("PATH")); /* of any length */
	REQUIRE(programs);
	setenv("PATH", "/nowhere", 1);
	refuses("qemu-utils", "blk,%s/a.qcow2,format=qcow2", dir);
	setenv("PATH", programs, 1);
	free(programs);
	setenv("TMPDIR", "/nowhere", 1);
	refuses("/nowhere: no socket", "blk,%s/a.qcow2,format=qcow2", dir);
	unsetenv("TMPDIR");
}

static const struct t_case cases[] = {
	{"formats", formats},
	{"killed_sluice", killed_sluice},
	{"qemu_nbd_killed", qemu_nbd_killed},
	{"log_of_everything", log_of_everything},
	{"resized", resized},
	{"never_probed", never_probed},
	{"discarded", discarded},
	{"full", full},
	{"lock_lost", lock_lost},
	{"lock_given_back", lock_given_back},
	{"stands_still", stands_still},
	{"errors", errors},
};

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "--child")) {
		snprintf(dir, sizeof(dir), "%s", argv[3]);
		if (!strcmp(argv[2], "fill_up"))
			fill_up();
		else
			write_and_wait();
		return t_failures ? 1 : 0;
	}
	return nbd_run("qemu-nbd qemu-img", cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
