/* SPDX-License-Identifier: MIT */
/* test_nbd.c - NBD sources, with nbdkit and qemu-nbd as servers */
#include "nbd/server.h"

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

static void errors(void)
{
	struct bed bed;
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char path[256];
	int fd, listening;
	pid_t pid;

	if (!have("nbdkit"))
		SKIP("no nbdkit");
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
	dir_remove();
}

static const struct t_case cases[] = {
	{"nbdkit_round_trip", nbdkit_round_trip},
	{"server_killed", server_killed},
	{"error_and_delay", error_and_delay},
	{"silent_server", silent_server},
	{"errors", errors},
};

T_MAIN(cases)
