/* SPDX-License-Identifier: MIT */
/* test_nbd.c - NBD sources and image formats, with nbdkit, qemu-nbd and qemu-img */
#include "block/bed.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#define MiB (1u << 20)
#define SLOTS 32

static char sock[128], uri[256];

static int SL_PRINTF(1, 2) shell(const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd);
}

static bool have(const char *program)
{
	return !shell("command -v %s >/dev/null", program);
}

static void nap(void)
{
	const struct timespec ms = {.tv_nsec = 5000000};

	nanosleep(&ms, NULL);
}

static bool can_connect(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok;

	snprintf(a.sun_path, sizeof(a.sun_path), "%.100s", sock);
	ok = !connect(fd, (struct sockaddr *)&a, sizeof(a));
	close(fd);
	return ok;
}

/* A server on @sock, started by the shell words @fmt; it dies with us. */
static pid_t SL_PRINTF(1, 2) serve(const char *fmt, ...)
{
	char cmd[512], full[600];
	va_list ap;
	pid_t pid;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	snprintf(full, sizeof(full), "exec %s", cmd);
	unlink(sock);
	pid = fork();
	REQUIRE(pid >= 0);
	if (!pid) {
		execl("/bin/sh", "sh", "-c", full, NULL);
		_exit(127);
	}
	for (unsigned int i = 0; i < 2000 && !can_connect(); i++)
		nap();
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	REQUIRE(waitpid(pid, NULL, 0) == pid);
}

static void begin(void)
{
	dir_make();
	snprintf(sock, sizeof(sock), "%s/sock", dir);
	snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s", sock);
}

static void round_trip(struct bed *bed, bool space)
{
	unsigned char *a = malloc(3 * MiB), *b = malloc(3 * MiB);
	struct iovec iov[3] = {{b, 512}, {b + 1024, MiB}, {b + 2 * MiB, MiB - 512}};
	struct io one;

	fill(a, 3 * MiB, 7);
	CHECK_EQ(io(bed, BLOCK_WRITE, MiB, 3 * MiB, a), 0);
	CHECK_EQ(io_flags(bed, BLOCK_WRITE, 0, 4096, a, BLOCK_FUA), 0);
	CHECK_EQ(io(bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	CHECK_EQ(io(bed, BLOCK_READ, MiB, 3 * MiB, b), 0);
	CHECK(!memcmp(a, b, 3 * MiB));
	/* several stretches, larger than a bounce buffer, both ways */
	memset(b, 0, 3 * MiB);
	io_submit_iov(bed, &one, BLOCK_READ, MiB, 2 * MiB, iov, 3, 0);
	block_commit(bed->c);
	CHECK_EQ(io_wait(bed, &one), 0);
	CHECK(!memcmp(b, a, 512) && !memcmp(b + 1024, a + 512, MiB) && !memcmp(b + 2 * MiB, a + 512 + MiB, MiB - 512));
	io_submit_iov(bed, &one, BLOCK_WRITE, 5 * MiB, 2 * MiB, iov, 3, 0);
	block_commit(bed->c);
	CHECK_EQ(io_wait(bed, &one), 0);
	CHECK_EQ(io(bed, BLOCK_READ, 5 * MiB, 2 * MiB, b), 0);
	CHECK(!memcmp(a, b, 2 * MiB));
	if (space) {
		CHECK_EQ(io(bed, BLOCK_WRITE_ZEROES, MiB, MiB, NULL), 0);
		CHECK_EQ(io_flags(bed, BLOCK_WRITE_ZEROES, 2 * MiB, MiB, NULL, BLOCK_UNMAP), 0);
		CHECK_EQ(io(bed, BLOCK_READ, MiB, 2 * MiB, b), 0);
		CHECK(all_zero(b, 2 * MiB));
		if (bed->block->info.discard)
			CHECK_EQ(io(bed, BLOCK_DISCARD, 5 * MiB, MiB, NULL), 0);
	}
	CHECK_EQ(io(bed, BLOCK_READ, 8 * MiB, 4096, b), -ENOSPC);
	free(a);
	free(b);
}

static void nbdkit_round_trip(void)
{
	struct bed bed;
	pid_t pid;

	if (!have("nbdkit"))
		SKIP("no nbdkit");
	begin();
	pid = serve("nbdkit -f -U %s memory 8M", sock);
	bed_open(&bed, "blk,%s", uri);
	CHECK_EQ(bed.block->info.size, 8 * MiB);
	CHECK(bed.block->info.discard && bed.block->info.write_zeroes && bed.block->info.flush);
	round_trip(&bed, true);
	bed_close(&bed);
	end(pid);
	/* a server that takes nothing above 64 KiB, has no FUA, and blocks of 4 KiB */
	pid = serve("nbdkit -f -U %s --filter=fua --filter=blocksize-policy memory 8M "
		    "blocksize-minimum=4K blocksize-preferred=4K blocksize-maximum=64K blocksize-error-policy=error", sock);
	bed_open(&bed, "blk,%s,discard=off", uri);
	CHECK_EQ(bed.block->info.block_size, 4096);
	CHECK(!bed.block->info.discard);
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE_ZEROES, 0, 8 * MiB, NULL, BLOCK_FUA), 0);
	bed_close(&bed);
	end(pid);
	dir_remove();
}

struct slot {
	struct io io;
	unsigned int times;
	unsigned char data[16384], back[16384];
};

/* Every slot writes its own blocks again and again and reads them back, while the server dies twice. */
static void killed_under_load(const char *command)
{
	struct slot *slots = calloc(SLOTS, sizeof(*slots));
	unsigned int rounds = 0, kills = 0;
	struct bed bed;
	pid_t pid = serve(command, sock, dir);

	bed_open(&bed, "blk,%s", uri);
	for (unsigned int i = 0; i < SLOTS; i++)
		slots[i].io.dones = 1;
	while (rounds < 3000) {
		for (unsigned int i = 0; i < SLOTS; i++) {
			struct slot *s = &slots[i];
			bool write = !(s->times & 1);

			if (!s->io.dones)
				continue;
			CHECK_EQ(s->io.dones, 1);
			CHECK_EQ(s->io.result, 0);
			if (s->times && write)
				CHECK(!memcmp(s->data, s->back, sizeof(s->data)));
			if (write)
				fill(s->data, sizeof(s->data), s->times * SLOTS + i);
			io_submit(&bed, &s->io, write ? BLOCK_WRITE : BLOCK_READ, i * sizeof(s->data), sizeof(s->data),
				  write ? s->data : s->back);
			s->times++;
			rounds++;
		}
		block_commit(bed.c);
		sl_loop_step(bed.loop, 20);
		if (rounds >= (kills + 1) * 1000 && kills < 2) {
			end(pid);
			for (unsigned int i = 0; i < 20; i++) /* it is missed, and the first tries fail */
				sl_loop_step(bed.loop, 10);
			pid = serve(command, sock, dir);
			kills++;
		}
	}
	for (unsigned int i = 0; i < SLOTS; i++) {
		io_wait(&bed, &slots[i].io);
		CHECK_EQ(slots[i].io.result, 0);
		CHECK_EQ(io(&bed, BLOCK_READ, i * sizeof(slots[i].data), sizeof(slots[i].data), slots[i].back), 0);
		CHECK(!memcmp(slots[i].data, slots[i].back, sizeof(slots[i].data)));
	}
	CHECK_EQ(kills, 2);
	bed_close(&bed);
	end(pid);
	free(slots);
}

static void server_killed(void)
{
	if (!have("nbdkit") || !have("qemu-nbd"))
		SKIP("no nbdkit or no qemu-nbd");
	begin();
	file_make("disk", 8 * MiB, NULL, 0);
	killed_under_load("nbdkit -f -U %s --filter=delay file %s/disk wdelay=2ms rdelay=1ms");
	killed_under_load("qemu-nbd -t -f raw -k %s %s/disk");
	dir_remove();
}

static void error_and_delay(void)
{
	unsigned char buf[4096] = {1};
	struct bed bed;
	struct io slow[4];
	pid_t pid;

	if (!have("nbdkit"))
		SKIP("no nbdkit");
	begin();
	pid = serve("nbdkit -f -U %s --filter=error memory 8M error-pread=EIO error-pread-rate=100%%", sock);
	bed_open(&bed, "blk,%s", uri);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 4096, buf), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 4096, buf), -EIO);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 4096, buf), 0);
	bed_close(&bed);
	end(pid);
	pid = serve("nbdkit -f -U %s --filter=error memory 8M error-pwrite=ENOSPC error-pwrite-rate=100%%", sock);
	bed_open(&bed, "blk,%s", uri);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 4096, buf), -ENOSPC);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 4096, buf), 0);
	bed_close(&bed);
	end(pid);
	/* "I shut down" is no answer: asked again on another connection */
	pid = serve("nbdkit -f -U %s --filter=error memory 8M error-pread=ESHUTDOWN error-pread-rate=100%% "
		    "error-pread-file=%s/shut", sock, dir);
	bed_open(&bed, "blk,%s", uri);
	file_make("shut", 0, NULL, 0);
	io_submit(&bed, &slow[0], BLOCK_READ, 0, 4096, buf);
	block_commit(bed.c);
	for (unsigned int i = 0; i < 60; i++)
		sl_loop_step(bed.loop, 5);
	CHECK_EQ(slow[0].dones, 0);
	REQUIRE(!shell("rm %s/shut", dir));
	CHECK_EQ(io_wait(&bed, &slow[0]), 0);
	bed_close(&bed);
	end(pid);
	pid = serve("nbdkit -f -U %s --filter=delay memory 8M rdelay=1", sock);
	bed_open(&bed, "blk,%s", uri);
	for (unsigned int i = 0; i < 4; i++)
		io_submit(&bed, &slow[i], BLOCK_READ, i * 1024, 1024, buf + i * 1024);
	block_commit(bed.c);
	CHECK_EQ(io(&bed, BLOCK_WRITE, MiB, 4096, buf), 0); /* overtakes them */
	for (unsigned int i = 0; i < 4; i++)
		CHECK_EQ(slow[i].dones, 0);
	for (unsigned int i = 0; i < 4; i++)
		CHECK_EQ(io_wait(&bed, &slow[i]), 0);
	bed_close(&bed);
	end(pid);
	dir_remove();
}

/* A server that stands still holds up nobody else on the same loop. */
static void silent_server(void)
{
	unsigned char buf[4096], other[4096];
	struct block_channel *c;
	struct bed bed, sibling;
	struct io stuck;
	struct sl_err err;
	pid_t pid;

	if (!have("nbdkit"))
		SKIP("no nbdkit");
	begin();
	pid = serve("nbdkit -f -U %s memory 8M", sock);
	bed_open(&bed, "blk,%s", uri);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 4096, buf), 0);
	bed_open(&sibling, "blk,memory:1M");
	c = sibling.c;
	sibling.c = block_attach(sibling.block, bed.loop, &err);
	REQUIRE(sibling.c);
	kill(pid, SIGSTOP);
	REQUIRE(waitpid(pid, NULL, WUNTRACED) == pid); /* all its threads stand still */
	io_submit(&bed, &stuck, BLOCK_READ, 0, 4096, buf);
	block_commit(bed.c);
	for (unsigned int i = 0; i < 100; i++) {
		CHECK_EQ(io(&sibling, BLOCK_WRITE, i * 4096, 4096, other), 0);
		sl_loop_step(bed.loop, 1);
	}
	CHECK_EQ(stuck.dones, 0);
	kill(pid, SIGCONT);
	CHECK_EQ(io_wait(&bed, &stuck), 0);
	block_detach(sibling.c);
	sibling.c = c;
	bed_close(&sibling);
	bed_close(&bed);
	end(pid);
	dir_remove();
}

static void formats(void)
{
	static const char *const names[] = {"qcow2", "vmdk", "vhdx", "vdi", "vpc", "qed"};

	if (!have("qemu-nbd") || !have("qemu-img"))
		SKIP("no qemu-nbd or no qemu-img");
	begin();
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
	CHECK(shell("grep -qs 'disk[.]qcow2' /proc/[0-9]*/cmdline"));
	dir_remove();
}

/* Is a qemu-nbd with the image @name (a pattern that does not match itself) there? -q: also when a process vanishes */
static bool serves(const char *name)
{
	return !shell("grep -qsa 'qemu-nbd.*%s' /proc/[0-9]*/cmdline", name);
}

static void killed_sluice(void)
{
	unsigned int i;
	pid_t pid;

	if (!have("qemu-nbd") || !have("qemu-img"))
		SKIP("no qemu-nbd or no qemu-img");
	begin();
	REQUIRE(!shell("qemu-img create -q -f qcow2 %s/kill.qcow2 8M", dir));
	setenv("TMPDIR", dir, 1); /* the socket's folder stays */
	pid = fork();
	REQUIRE(pid >= 0);
	if (!pid) {
		struct bed bed;
		unsigned char buf[4096] = {1};

		bed_open(&bed, "blk,%s/kill.qcow2,format=qcow2", dir);
		REQUIRE(!io(&bed, BLOCK_WRITE, 0, 4096, buf));
		file_make("ready", 1, NULL, 0);
		pause();
	}
	for (i = 0; i < 2000 && shell("test -e %s/ready", dir); i++)
		nap();
	CHECK(serves("kill[.]qcow2"));
	end(pid);
	for (i = 0; i < 2000 && serves("kill[.]qcow2"); i++)
		nap();
	CHECK(!serves("kill[.]qcow2"));
	CHECK_EQ(shell("qemu-img check -q -f qcow2 %s/kill.qcow2", dir), 0);
	unsetenv("TMPDIR");
	dir_remove();
}

static void SL_PRINTF(2, 3) refuses(const char *want, const char *fmt, ...)
{
	struct bed bed;
	const char *said;
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	said = bed_try(&bed, text);
	if (!strstr(said, want))
		fprintf(stderr, "%s: said '%s', wanted '%s'\n", text, said, want);
	CHECK(strstr(said, want) && !strchr(said, '\n'));
	if (!said[0])
		bed_close(&bed);
}

static void errors(void)
{
	struct bed bed;
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char path[256];
	int fd, listening;
	pid_t pid;

	if (!have("nbdkit") || !have("qemu-nbd") || !have("qemu-img"))
		SKIP("no nbdkit, qemu-nbd or qemu-img");
	begin();
	refuses("No such file", "blk,%s", uri);
	refuses("Connection refused", "blk,nbd://127.0.0.1:1/");
	pid = serve("nbdkit -f -U %s --filter=exportname memory 8M exportname=right exportname-strict=true", sock);
	refuses("cannot connect", "blk,nbd+unix:///wrong?socket=%s", sock);
	bed_open(&bed, "blk,nbd+unix:///right?socket=%s", sock);
	bed_close(&bed);
	end(pid);
	pid = serve("nbdkit -f -r -U %s memory 8M", sock);
	refuses("readonly=on", "blk,%s", uri);
	end(pid);
	snprintf(a.sun_path, sizeof(a.sun_path), "%.63s/other", dir);
	listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	REQUIRE(!bind(listening, (struct sockaddr *)&a, sizeof(a)));
	refuses("refused", "blk,nbd+unix:///?socket=%s", a.sun_path);
	REQUIRE(!listen(listening, 8));
	pid = fork(); /* no NBD */
	REQUIRE(pid >= 0);
	if (!pid) {
		fd = accept(listening, NULL, NULL);
		_exit(write(fd, "SSH-2.0-OpenSSH_9.2p1 and a long banner that is not NBD\r\n", 57) != 57);
	}
	close(listening);
	snprintf(path, sizeof(path), "%s", a.sun_path);
	refuses("magic", "blk,nbd+unix:///?socket=%s", path);
	REQUIRE(waitpid(pid, NULL, 0) == pid);
	REQUIRE(!shell("qemu-img create -q -f qcow2 %s/a.qcow2 8M", dir));
	refuses("format=qcow2", "blk,%s/a.qcow2", dir);
	bed_open(&bed, "blk,%s/a.qcow2,format=qcow2", dir);
	refuses("lock", "blk,%s/a.qcow2,format=qcow2", dir);
	bed_close(&bed);
	refuses("No such file", "blk,%s/none.qcow2,format=qcow2", dir);
	snprintf(path, sizeof(path), "%s", file_make("bad", MiB, "QFI\xfb\0\0\0\x03rubbish", 15));
	refuses("cluster size", "blk,%s,format=qcow2", path);
	refuses("VMDK", "blk,%s,format=vmdk", path);
	snprintf(path, sizeof(path), "%s", getenv("PATH"));
	setenv("PATH", "/nowhere", 1);
	refuses("qemu-utils", "blk,%s/a.qcow2,format=qcow2", dir);
	setenv("PATH", path, 1);
	dir_remove();
}

static const struct t_case cases[] = {
	{"nbdkit_round_trip", nbdkit_round_trip},
	{"server_killed", server_killed},
	{"error_and_delay", error_and_delay},
	{"silent_server", silent_server},
	{"formats", formats},
	{"killed_sluice", killed_sluice},
	{"errors", errors},
};

T_MAIN(cases)
