/* SPDX-License-Identifier: MIT */
/* test_nbd.c - NBD sources, with nbdkit and qemu-nbd as servers */
#include "nbd/server.h"

static void nbdkit_round_trip(void)
{
	struct bed bed;
	pid_t pid;

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
}

static void server_killed(void)
{
	file_make("disk", 8 * MiB, NULL, 0);
	killed_under_load("nbdkit -f -U %s --filter=delay file %s/disk wdelay=2ms rdelay=1ms");
	killed_under_load("qemu-nbd -t -f raw -k %s %s/disk");
}

static void error_and_delay(void)
{
	unsigned char buf[4096] = {1};
	struct bed bed;
	struct io slow[4], quick;
	pid_t pid;

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
	pid = serve("nbdkit -f -U %s --filter=delay memory 8M rdelay=3", sock);
	bed_open(&bed, "blk,%s", uri);
	for (unsigned int i = 0; i < 4; i++)
		io_submit(&bed, &slow[i], BLOCK_READ, i * 1024, 1024, buf + i * 1024);
	block_commit(bed.c);
	io_submit(&bed, &quick, BLOCK_WRITE, MiB, 4096, buf);
	block_commit(bed.c);
	CHECK_EQ(io_wait(&bed, &quick), 0);
	for (unsigned int i = 0; i < 4; i++) {
		CHECK_EQ(io_wait(&bed, &slow[i]), 0);
		CHECK(quick.order < slow[i].order); /* it overtakes them */
	}
	bed_close(&bed);
	end(pid);
}

static void stand_still(pid_t pid)
{
	kill(pid, SIGSTOP);
	REQUIRE(waitpid(pid, NULL, WUNTRACED) == pid); /* all its threads stand still */
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

	pid = serve("nbdkit -f -U %s memory 8M", sock);
	bed_open(&bed, "blk,%s", uri);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 4096, buf), 0);
	bed_open(&sibling, "blk,memory:1M");
	c = sibling.c;
	sibling.c = block_attach(sibling.block, bed.loop, &err);
	REQUIRE(sibling.c);
	stand_still(pid);
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
}

/* A second channel of the same disk on the same loop. */
static struct bed another(struct bed *bed)
{
	struct bed more = *bed;
	struct sl_err err;

	more.c = block_attach(bed->block, bed->loop, &err);
	REQUIRE(more.c);
	return more;
}

/* Lines of the server's log that have @pattern. */
static unsigned int logged(const char *pattern)
{
	char cmd[256];
	unsigned int n = 0;
	FILE *in;

	snprintf(cmd, sizeof(cmd), "grep -cE '%s' %s/log", pattern, dir);
	in = popen(cmd, "r");
	REQUIRE(in && fscanf(in, "%u", &n) == 1);
	pclose(in);
	return n;
}

/* What arrives at the server: a connection for each channel, and each operation with its flags and within its limits. */
static void server_side(void)
{
	unsigned char *buf = calloc(2, MiB);
	struct bed bed, more[3];
	pid_t pid;

	pid = serve("nbdkit -f -U %s --filter=log --filter=blocksize-policy memory 8M logfile=%s/log "
		    "blocksize-preferred=4K blocksize-maximum=256K blocksize-error-policy=error", sock, dir);
	bed_open(&bed, "blk,%s", uri);
	CHECK(!bed.block->info.single);
	for (unsigned int i = 0; i < 3; i++)
		more[i] = another(&bed);
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE, 0, MiB, buf, BLOCK_FUA), 0);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 4096, buf), 0);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	CHECK_EQ(io(&bed, BLOCK_DISCARD, MiB, MiB, NULL), 0);
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE_ZEROES, 2 * MiB, 65536, NULL, BLOCK_UNMAP), 0);
	CHECK_EQ(io(&bed, BLOCK_WRITE_ZEROES, 3 * MiB, 65536, NULL), 0);
	for (unsigned int i = 0; i < 3; i++)
		CHECK_EQ(io(&more[i], BLOCK_READ, (i + 4) * MiB, 4096, buf), 0);
	for (unsigned int i = 0; i < 3; i++)
		block_detach(more[i].c);
	bed_close(&bed);
	end(pid);
	CHECK_EQ(logged("Write .*offset=0x[0-9a-f]+ count=0x40000 fua=1"), 4);
	CHECK_EQ(logged("Write .*count=0x1000 fua=0"), 1);
	CHECK_EQ(logged("Flush .*\\.\\.\\."), 1);
	CHECK_EQ(logged("Trim .*offset=0x100000 count=0x100000 fua=0"), 1);
	CHECK_EQ(logged("Zero .*offset=0x200000 count=0x10000 trim=1"), 1);
	CHECK_EQ(logged("Zero .*offset=0x300000 count=0x10000 trim=0"), 1);
	/* one to look at first, one for each channel; every read came over another one */
	REQUIRE(!shell("grep -oE 'connection=[0-9]+ Read .*count' %s/log | sort -u | cut -d' ' -f1 >%s/conns", dir, dir));
	CHECK_EQ(shell("test $(sort -u %s/conns | wc -l) = 3", dir), 0);
	free(buf);
}

struct figures {
	uint64_t connections, reconnects, lost, in_flight, timeouts;
};

static void figure(void *arg, const char *name, uint64_t value)
{
	struct figures *f = arg;

	if (!strcmp(name, "nbd.connections"))
		f->connections = value;
	else if (!strcmp(name, "nbd.reconnects"))
		f->reconnects = value;
	else if (!strcmp(name, "nbd.connections-lost"))
		f->lost = value;
	else if (!strcmp(name, "nbd.requests-in-flight"))
		f->in_flight = value;
	else if (!strcmp(name, "nbd.timeouts"))
		f->timeouts = value;
}

static struct figures figures(struct bed *bed)
{
	struct figures f = {0};
	const struct block_report r = {figure, &f};

	block_report(bed->block, &r);
	return f;
}

static bool same(const unsigned char *buf, size_t len, unsigned char byte)
{
	for (size_t i = 0; i < len; i++)
		if (buf[i] != byte)
			return false;
	return true;
}

static void step_for(struct bed *bed, unsigned int ms)
{
	const uint64_t until = sl_now() + ms * 1000000ull;

	while (sl_now() < until)
		sl_loop_step(bed->loop, 10);
}

/* One thread a connection: with more, nbdkit 1.32 may stumble when it is hung up on with requests under way. */

/* timeout=: the request fails, its memory stays as it is when the answer comes after all, and the disk goes on. */
static void timeout(void)
{
	static unsigned char buf[MiB];
	unsigned int late = 0;
	struct io stuck, flush;
	struct figures f;
	struct bed bed;
	pid_t pid;

	pid = serve("nbdkit -f -t 1 -U %s memory 8M", sock);
	bed_open(&bed, "blk,%s,timeout=1", uri);
	CHECK_EQ(io_answered(&bed, BLOCK_READ, 0, 4096, buf, &late), 0);
	stand_still(pid);
	io_submit(&bed, &stuck, BLOCK_READ, 0, sizeof(buf), buf);
	io_submit(&bed, &flush, BLOCK_FLUSH, 0, 0, NULL);
	block_commit(bed.c);
	CHECK_EQ(figures(&bed).in_flight, 2);
	CHECK_EQ(io_wait(&bed, &stuck), -ETIMEDOUT);
	CHECK_EQ(io_wait(&bed, &flush), -ETIMEDOUT);
	memset(buf, 0x55, sizeof(buf));
	kill(pid, SIGCONT);
	CHECK_EQ(io_answered(&bed, BLOCK_FLUSH, 0, 0, NULL, &late), 0);
	step_for(&bed, 100);
	CHECK(same(buf, sizeof(buf), 0x55));
	CHECK_EQ(stuck.dones, 1);
	f = figures(&bed);
	CHECK(f.connections == 1 && f.reconnects == f.lost && f.in_flight == 0 && f.timeouts == 2 + late);
	CHECK(f.lost >= 1 && f.lost <= 1 + late);
	/* and while there is no server at all */
	end(pid);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 4096, buf), -ETIMEDOUT);
	pid = serve("nbdkit -f -t 1 -U %s memory 8M", sock);
	CHECK_EQ(io_answered(&bed, BLOCK_READ, 0, 4096, buf, &late), 0);
	bed_close(&bed);
	end(pid);
}

/* Nobody waits any longer: everything ends at once, is not touched again, and the disk can be used or closed. */
static void abandoned(void)
{
	static unsigned char buf[MiB];
	struct io stuck[80];
	struct bed bed;
	pid_t pid;

	pid = serve("nbdkit -f -t 1 -U %s memory 8M", sock);
	bed_open(&bed, "blk,%s", uri);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, 4096, buf), 0);
	stand_still(pid);
	for (unsigned int i = 0; i < 80; i++) /* more than are sent at a time */
		io_submit(&bed, &stuck[i], BLOCK_READ, i * 8192, 8192, buf + i * 8192);
	block_commit(bed.c);
	step_for(&bed, 50);
	CHECK(block_abandon(bed.c));
	block_commit(bed.c);
	for (unsigned int i = 0; i < 80; i++) {
		CHECK_EQ(stuck[i].dones, 1);
		CHECK_EQ(stuck[i].result, -ETIMEDOUT);
	}
	memset(buf, 0x55, sizeof(buf));
	kill(pid, SIGCONT);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	CHECK(same(buf, sizeof(buf), 0x55));
	/* dead, in the middle of connecting */
	end(pid);
	io_submit(&bed, &stuck[0], BLOCK_READ, 0, 4096, buf);
	block_commit(bed.c);
	step_for(&bed, 50);
	CHECK_EQ(stuck[0].dones, 0);
	block_abandon(bed.c);
	block_commit(bed.c);
	CHECK_EQ(stuck[0].result, -ETIMEDOUT);
	bed_close(&bed);
}

/* Somebody who accepts and says nothing: neither the open nor the close waits for ever. */
static void mute_server(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct bed bed;
	int listening;
	pid_t pid;

	snprintf(a.sun_path, sizeof(a.sun_path), "%.100s", sock);
	listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	REQUIRE(!bind(listening, (struct sockaddr *)&a, sizeof(a)) && !listen(listening, 8));
	refuses("no answer within 1 s", "blk,%s,timeout=1", uri);
	close(listening);
	pid = serve("nbdkit -f -U %s memory 8M", sock);
	bed_open(&bed, "blk,%s", uri);
	end(pid);
	unlink(sock);
	listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	REQUIRE(!bind(listening, (struct sockaddr *)&a, sizeof(a)) && !listen(listening, 8));
	step_for(&bed, 300);
	bed_close(&bed);
	close(listening);
}

static void noticed(void *arg)
{
	struct bed *bed = arg;
	struct sl_err err;

	CHECK_EQ(block_refresh(bed->block, &err), 0);
}

/* A disk that grows and shrinks: asked for, noticed, and not believed. */
static void resized(void)
{
	static unsigned char a[4096], b[4096];
	struct bed bed;
	struct sl_err err;
	struct io wait;
	pid_t pid;

	file_make("disk", 8 * MiB, NULL, 0);
	pid = serve("nbdkit -f -U %s file %s/disk", sock, dir);
	bed_open(&bed, "blk,%s", uri);
	fill(a, sizeof(a), 1);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 8 * MiB, 4096, a), -ENOSPC);
	REQUIRE(!shell("truncate -s 16M %s/disk", dir));
	CHECK_EQ(block_refresh(bed.block, &err), 0);
	CHECK_EQ(bed.block->info.size, 16 * MiB);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 16 * MiB - 4096, 4096, a), 0); /* over a new connection */
	CHECK_EQ(io(&bed, BLOCK_READ, 16 * MiB - 4096, 4096, b), 0);
	CHECK(!memcmp(a, b, sizeof(a)));
	CHECK_EQ(figures(&bed).lost, 0);
	/* it comes back larger: that is noticed */
	end(pid);
	block_watch(bed.block, bed.loop, noticed, &bed);
	REQUIRE(!shell("truncate -s 24M %s/disk", dir));
	step_for(&bed, 50);
	pid = serve("nbdkit -f -U %s file %s/disk", sock, dir);
	CHECK_EQ(io(&bed, BLOCK_READ, 16 * MiB - 4096, 4096, b), 0);
	for (uint64_t until = sl_now() + 60000000000u; bed.block->info.size != 24 * MiB && sl_now() < until;)
		sl_loop_step(bed.loop, 5);
	CHECK_EQ(io(&bed, BLOCK_READ, 24 * MiB - 4096, 4096, b), 0);
	/* smaller: it may be the wrong one */
	end(pid);
	REQUIRE(!shell("truncate -s 4M %s/disk", dir));
	step_for(&bed, 50);
	pid = serve("nbdkit -f -U %s file %s/disk", sock, dir);
	io_submit(&bed, &wait, BLOCK_READ, 0, 4096, b);
	block_commit(bed.c);
	step_for(&bed, 500);
	CHECK_EQ(wait.dones, 0);
	CHECK_EQ(block_refresh(bed.block, &err), 0);
	CHECK_EQ(io_wait(&bed, &wait), 0);
	CHECK_EQ(bed.block->info.size, 4 * MiB);
	CHECK_EQ(io(&bed, BLOCK_READ, 4 * MiB, 4096, b), -ENOSPC);
	/* nothing to resize with, and nobody to ask */
	CHECK_EQ(block_resize(bed.block, 8 * MiB, &err), -ENOTSUP);
	end(pid);
	CHECK(block_refresh(bed.block, &err) < 0 && strstr(err.text, "cannot look at the size"));
	bed_close(&bed);
}

static void errors(void)
{
	struct bed bed;
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char path[256];
	int fd, listening;
	pid_t pid;

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
}

static const struct t_case cases[] = {
	{"nbdkit_round_trip", nbdkit_round_trip},
	{"server_killed", server_killed},
	{"error_and_delay", error_and_delay},
	{"silent_server", silent_server},
	{"server_side", server_side},
	{"timeout", timeout},
	{"abandoned", abandoned},
	{"mute_server", mute_server},
	{"resized", resized},
	{"errors", errors},
};

NBD_MAIN("nbdkit qemu-nbd", cases)
