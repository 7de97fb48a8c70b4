/* SPDX-License-Identifier: MIT */
/* server.h - NBD servers to start and to kill, and what every disk of theirs has to stand */
#ifndef NBD_SERVER_H
#define NBD_SERVER_H

#include "block/bed.h"

#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#define MiB (1u << 20)
#define SLOTS 32

static char sock[128], uri[256];
static int port; /* 0: servers listen on @sock */

/*
 * Of a disk with timeout=: again, until it is answered in time. How long an honest server takes on a busy machine is
 * nobody's promise. @late counts the others.
 */
static inline int io_answered(struct bed *bed, enum block_op op, uint64_t offset, uint64_t len, void *buf,
			      unsigned int *late)
{
	int ret;

	while ((ret = io(bed, op, offset, len, buf)) == -ETIMEDOUT && *late < 30)
		++*late;
	return ret;
}

static inline void nap(void)
{
	const struct timespec ms = {.tv_nsec = 5000000};

	nanosleep(&ms, NULL);
}

static inline bool can_connect(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(port ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok;

	snprintf(a.sun_path, sizeof(a.sun_path), "%.100s", sock);
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ok = !(port ? connect(fd, (struct sockaddr *)&in, sizeof(in)) : connect(fd, (struct sockaddr *)&a, sizeof(a)));
	close(fd);
	return ok;
}

/* A server on @sock or @port, started by the shell words @fmt; it dies with us. */
static inline pid_t SL_PRINTF(1, 2) serve(const char *fmt, ...)
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
	for (uint64_t until = sl_now() + 60000000000u; !can_connect() && sl_now() < until;)
		nap();
	return pid;
}

static inline void end(pid_t pid)
{
	kill(pid, SIGKILL);
	REQUIRE(waitpid(pid, NULL, 0) == pid);
}

static inline void round_trip(struct bed *bed, bool space)
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

struct slot {
	struct io io;
	unsigned int times;
	unsigned char data[16384], back[16384];
};

/* Every slot writes its own blocks again and again and reads them back, while the server dies twice. */
static inline void killed_under_load(const char *command)
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

static inline void SL_PRINTF(2, 3) refuses(const char *want, const char *fmt, ...)
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

/*
 * The cases, each in a folder of its own in which servers listen at @sock; not without all of @programs, as in
 * "nbdkit qemu-nbd".
 */
static inline int nbd_run(const char *programs, const struct t_case *cases, unsigned int n, int argc, char **argv)
{
	bool failed = false, done = false;

	if (shell("for i in %s; do command -v $i >/dev/null || exit 1; done", programs)) {
		printf("skip: not all of %s are installed\n", programs);
		return 77;
	}
	for (unsigned int i = 0; i < n; i++) {
		int ret;

		dir_make();
		snprintf(sock, sizeof(sock), "%s/sock", dir);
		snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s", sock);
		ret = t_run(&cases[i], 1, argc, argv);
		dir_remove();
		failed |= ret == 1;
		done |= ret == 0;
	}
	return failed ? 1 : done ? 0 : 77;
}

#define NBD_MAIN(programs, cases)                                                                                      \
	int main(int argc, char **argv)                                                                                \
	{                                                                                                              \
		return nbd_run(programs, cases, sizeof(cases) / sizeof((cases)[0]), argc, argv);                       \
	}

#endif
