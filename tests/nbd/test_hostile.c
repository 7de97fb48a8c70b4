/* SPDX-License-Identifier: MIT */
/* test_hostile.c - an NBD server that lies, stutters, mumbles and hangs up */
#include "nbd/server.h"

#include <endian.h>
#include <sys/mman.h>

#define DISK (1u * MiB)
#define CONNECTIONS 8
#define ALL 0x016d /* flags, flush, FUA, trim, zeroes, multi-conn */

/* What the server does with a request. */
enum trick { HONEST, ERROR, HANG_UP, HALF_A_REPLY, OTHER_COOKIE, OTHER_MAGIC, TWICE, NOISE, NUM_TRICKS };

/**
 * struct liar - a server in a process of its own, with which it shares this
 * @size, @least, @best, @most, @flags: what it says of its disk
 * @one_in: plays the next trick with one of so many requests, 0: never
 * @errors: error replies sent
 */
static struct liar {
	uint64_t size;
	uint32_t least, best, most;
	uint16_t flags;
	unsigned int one_in, played, errors, tricks[NUM_TRICKS];
	int listening;
	uint32_t random;
	unsigned char disk[DISK];
} *liar;
static pid_t liar_pid;

static uint32_t dice(uint32_t n)
{
	liar->random = liar->random * 1664525u + 1013904223u;
	return (liar->random >> 8) % n;
}

struct bytes {
	unsigned char b[128];
	size_t n;
};

static void add(struct bytes *to, uint64_t value, unsigned int bytes)
{
	while (bytes--)
		to->b[to->n++] = (unsigned char)(value >> (8 * bytes));
}

static bool get(int fd, void *to, size_t n)
{
	char *p = to;

	while (n) {
		ssize_t got = read(fd, p, n);

		if (got <= 0)
			return false;
		p += got;
		n -= (size_t)got;
	}
	return true;
}

static bool put(int fd, const void *from, size_t n)
{
	return send(fd, from, n, MSG_NOSIGNAL) == (ssize_t)n;
}

static bool option_reply(int fd, uint32_t option, uint32_t type, const struct bytes *data)
{
	struct bytes r = {.n = 0};

	add(&r, 0x3e889045565a9ull, 8);
	add(&r, option, 4);
	add(&r, type, 4);
	add(&r, data ? data->n : 0, 4);
	if (data) {
		memcpy(r.b + r.n, data->b, data->n);
		r.n += data->n;
	}
	return put(fd, r.b, r.n);
}

static bool go(int fd)
{
	struct bytes export = {.n = 0}, blocks = {.n = 0};

	add(&export, 0, 2);
	add(&export, liar->size, 8);
	add(&export, liar->flags, 2);
	add(&blocks, 3, 2);
	add(&blocks, liar->least, 4);
	add(&blocks, liar->best, 4);
	add(&blocks, liar->most, 4);
	return option_reply(fd, 7, 3, &export) && (!liar->least || option_reply(fd, 7, 3, &blocks)) &&
	       option_reply(fd, 7, 1, NULL);
}

static bool handshake(int fd)
{
	static unsigned char rest[65536];
	struct bytes hello = {.n = 0};
	unsigned char o[16];
	uint32_t option, len;

	add(&hello, 0x4e42444d41474943ull, 8);
	add(&hello, 0x49484156454f5054ull, 8);
	add(&hello, 3, 2);
	if (!put(fd, hello.b, hello.n) || !get(fd, o, 4))
		return false;
	while (get(fd, o, 16)) {
		memcpy(&option, o + 8, 4);
		memcpy(&len, o + 12, 4);
		option = be32toh(option);
		len = be32toh(len);
		if (len > sizeof(rest) || !get(fd, rest, len))
			return false;
		if (option == 7)
			return go(fd);
		if (!option_reply(fd, option, 0x80000001u, NULL))
			return false;
	}
	return false;
}

/* One request; false: the connection is over. */
static bool serve_one(int fd)
{
	unsigned char r[28], *data = NULL;
	static unsigned char written[DISK];
	uint16_t type;
	uint64_t cookie, offset;
	uint32_t len, error = 0;
	struct bytes reply = {.n = 0};
	enum trick trick = liar->one_in && !dice(liar->one_in) ? 1 + liar->played++ % (NUM_TRICKS - 1) : HONEST;

	if (!get(fd, r, sizeof(r)))
		return false;
	memcpy(&type, r + 6, 2);
	memcpy(&cookie, r + 8, 8);
	memcpy(&offset, r + 16, 8);
	memcpy(&len, r + 24, 4);
	type = be16toh(type);
	cookie = be64toh(cookie);
	offset = be64toh(offset);
	len = be32toh(len);
	if (type == 2 || offset > DISK || len > DISK - offset || (type == 1 && !get(fd, written, len)))
		return false;
	liar->tricks[trick]++;
	if (trick == HANG_UP)
		return false;
	if (trick == ERROR) {
		static const uint32_t codes[] = {1, 5, 12, 22, 28, 75, 95, 4711, 0xffffffffu};

		error = codes[dice(sizeof(codes) / sizeof(codes[0]))];
		__atomic_add_fetch(&liar->errors, 1, __ATOMIC_RELAXED);
	}
	if (!error && type == 1)
		memcpy(liar->disk + offset, written, len);
	if (!error && type == 6)
		memset(liar->disk + offset, 0, len);
	if (type == 0)
		data = liar->disk + offset;
	add(&reply, trick == OTHER_MAGIC ? 0x67446699u : 0x67446698u, 4);
	add(&reply, error, 4);
	add(&reply, trick == OTHER_COOKIE ? cookie ^ 0x5a : cookie, 8);
	if (trick == NOISE)
		return put(fd, r, sizeof(r)) && put(fd, liar->disk, 100);
	if (trick == HALF_A_REPLY) {
		put(fd, reply.b, data ? reply.n : 7);
		if (data)
			put(fd, data, len / 2);
		return false;
	}
	for (unsigned int i = 0; i < (trick == TWICE ? 2 : 1); i++)
		if (!put(fd, reply.b, reply.n) || (data && !error && !put(fd, data, len)))
			return false;
	return true;
}

static _Noreturn void lie(void)
{
	for (;;) {
		int fd = accept(liar->listening, NULL, NULL);

		if (handshake(fd))
			while (serve_one(fd))
				;
		close(fd);
	}
}

static void liar_start(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	liar = mmap(NULL, sizeof(*liar), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	REQUIRE(liar != MAP_FAILED);
	*liar = (struct liar){.size = DISK, .least = 512, .best = 4096, .most = DISK, .flags = ALL, .random = 7};
	snprintf(a.sun_path, sizeof(a.sun_path), "%.100s", sock);
	unlink(sock);
	liar->listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	REQUIRE(!bind(liar->listening, (struct sockaddr *)&a, sizeof(a)) && !listen(liar->listening, CONNECTIONS));
	liar_pid = fork();
	REQUIRE(liar_pid >= 0);
	if (!liar_pid)
		lie();
}

static void liar_stop(void)
{
	end(liar_pid);
	close(liar->listening);
	munmap(liar, sizeof(*liar));
}

/* Every answer is the right one, or the error that was sent; none comes twice; hangs end by a new connection. */
static void tricks(void)
{
	static unsigned char model[DISK], data[SLOTS][4096];
	struct io ios[SLOTS];
	unsigned int failed = 0, step = 0;
	struct bed bed;

	liar_start();
	bed_open(&bed, "blk,%s", uri);
	liar->one_in = 48;
	for (unsigned int round = 0; round < 60; round++) {
		const bool write = !(round & 1);

		for (unsigned int i = 0; i < SLOTS; i++) {
			uint64_t at = (step++ * 7919 % (DISK / 4096)) * 4096;

			if (write)
				fill(data[i], 4096, step);
			io_submit(&bed, &ios[i], write ? BLOCK_WRITE : BLOCK_READ, at, 4096, data[i]);
		}
		block_commit(bed.c);
		for (unsigned int i = 0; i < SLOTS; i++) {
			const uint64_t at = ios[i].req.offset;

			io_wait(&bed, &ios[i]);
			if (ios[i].result) {
				failed++;
				/* A write that failed may have been done once before its connection was lost. */
				if (write)
					memcpy(model + at, liar->disk + at, 4096);
			} else if (write) {
				memcpy(model + at, data[i], 4096);
			} else {
				CHECK(!memcmp(model + at, data[i], 4096));
			}
		}
		for (unsigned int i = 0; i < SLOTS; i++)
			CHECK_EQ(ios[i].dones, 1);
	}
	bed_close(&bed);
	CHECK(failed && failed <= liar->errors);
	for (unsigned int i = 0; i < NUM_TRICKS; i++)
		CHECK(liar->tricks[i]);
	liar_stop();
}

/* Numbers that make no sense are refused with a line, or made sense of. */
static void numbers(void)
{
	static const uint64_t sizes[] = {0, 1, 511, 512, 4096, 65535, DISK, DISK + 1, 1ull << 63, ~0ull, (1ull << 63) - 512};
	static const uint32_t blocks[] = {0, 1, 3, 512, 513, 4096, 65536, 131072, 0x80000000u, ~0u};
	unsigned int opened = 0, refused = 0;

	liar_start();
	for (unsigned int i = 0; i < 400; i++) {
		struct bed bed;
		char text[300];
		const char *said;

		liar->size = sizes[dice(sizeof(sizes) / sizeof(sizes[0]))];
		liar->least = blocks[dice(10)];
		liar->best = blocks[dice(10)];
		liar->most = blocks[dice(10)];
		liar->flags = (uint16_t)dice(65536);
		if (dice(2))
			liar->flags = ALL;
		snprintf(text, sizeof(text), "blk,%s%s", uri, dice(2) ? ",readonly=on" : "");
		said = bed_try(&bed, text);
		if (said[0]) {
			CHECK(!strncmp(said, uri, strlen(uri)) && !strchr(said, '\n'));
			refused++;
			continue;
		}
		opened++;
		CHECK(bed.block->info.size && bed.block->info.size % bed.block->info.block_size == 0);
		CHECK(bed.block->info.block_size >= 512 && bed.block->info.block_size <= 65536);
		CHECK(!(bed.block->info.block_size & (bed.block->info.block_size - 1)));
		CHECK(bed.block->info.physical_size >= bed.block->info.block_size);
		bed_close(&bed);
	}
	liar_stop();
	CHECK(opened > 20 && refused > 20);
}

static const struct t_case cases[] = {
	{"tricks", tricks},
	{"numbers", numbers},
};

NBD_MAIN("", cases)
