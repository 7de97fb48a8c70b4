/* SPDX-License-Identifier: MIT */
/* bed.h - a remote device on a board, our blk driver in front of it; the back-end is whatever listens on the socket. */
#ifndef TESTS_REMOTE_BED_H
#define TESTS_REMOTE_BED_H

#include "t.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <sluice/log.h>

#include "cli/pattern.h"
#include "driver/blk.h"
#include "driver/remote.h"
#include "transport/board.h"

#define RING 128
#define BLOCK 4096u
#define BLOCKS 1024u
#define LANES 32
#define ADDR 0x300000000ull
#define HANG_NS 90000000000ull

/** struct lane - a request and the blocks that only it touches */
struct lane {
	struct sl_dq_buf buf;
	void *data;
	uint32_t block;
	bool out, writing;
};

/**
 * struct bed
 * @daemon: process of the back-end, 0: none
 * @data:   loop for calls and kicks that pass through this process, on a thread; NULL: the control loop
 */
struct bed {
	char dir[64], socket[96], image[96];
	pid_t daemon;
	enum board_kind kind;
	bool packed;

	struct sl_loop *loop, *data;
	pthread_t data_thread;
	struct remote *remote;
	struct board board;
	bool on_board;
	struct sl_link *link;
	struct sl_dma dma;
	struct vblk blk;
	struct vblk_queue q;
	void *private, *shared;
	uint64_t shared_addr;
	struct lane lanes[LANES];
	uint32_t generation[BLOCKS];
	uint64_t rng, finished;
};

static pthread_mutex_t lines_lock = PTHREAD_MUTEX_INITIALIZER;
static char lines[65536];
static void (*on_line)(const char *line); /* on the thread that says it; under @lines_lock */
static unsigned int stop_timeout_ms;	  /* of the devices that follow */
static unsigned int timeout_ms;		  /* ... before a back-end counts as dead; 0: long enough for any honest one */

static inline void take_line(void *arg, enum sl_log_level level, const char *line)
{
	size_t n;

	(void)arg;
	(void)level;
	pthread_mutex_lock(&lines_lock);
	n = strlen(lines);
	snprintf(lines + n, sizeof(lines) - n, "%s\n", line);
	if (getenv("REMOTE_VERBOSE"))
		fprintf(stderr, "%10.6f %s\n", (double)sl_now() / 1e9, line);
	if (on_line)
		on_line(line);
	pthread_mutex_unlock(&lines_lock);
}

static inline void watch_lines(void (*fn)(const char *line))
{
	pthread_mutex_lock(&lines_lock);
	on_line = fn;
	pthread_mutex_unlock(&lines_lock);
}

static inline bool said(const char *what)
{
	bool found;

	pthread_mutex_lock(&lines_lock);
	found = strstr(lines, what);
	pthread_mutex_unlock(&lines_lock);
	return found;
}

static inline void forget_lines(void)
{
	pthread_mutex_lock(&lines_lock);
	lines[0] = '\0';
	pthread_mutex_unlock(&lines_lock);
}

/* Nothing has happened for too long: show what was said. */
static inline bool hangs(uint64_t since)
{
	if (sl_now() - since < HANG_NS)
		return false;
	pthread_mutex_lock(&lines_lock);
	fprintf(stderr, "nothing happens any more; lines so far:\n%s", lines);
	pthread_mutex_unlock(&lines_lock);
	return true;
}

static inline void ms_sleep(unsigned int ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l}, NULL);
}

/* ---- back-end: sluice serve ---- */

static const char *sluice_path;

static inline void daemon_start(struct bed *b, const char *keys)
{
	char spec[400];

	snprintf(spec, sizeof(spec), "blk,%s,socket=%s%s", b->image, b->socket, keys);
	b->daemon = fork();
	if (b->daemon)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!getenv("REMOTE_VERBOSE")) /* no stdio here: another thread may have held its locks */
		dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
	execl(sluice_path, sluice_path, "serve", "--device", spec, (char *)NULL);
	_exit(127);
}

static inline void daemon_end(struct bed *b, int sig)
{
	int status;

	if (!b->daemon)
		return;
	kill(b->daemon, sig);
	REQUIRE(waitpid(b->daemon, &status, 0) == b->daemon);
	b->daemon = 0;
}

/* ---- the device and the driver ---- */

static const char *bed_same(const uint8_t *was, const uint8_t *now, uint16_t len)
{
	uint64_t before, after;

	memcpy(&before, was, 8);
	memcpy(&after, now, 8);
	/* between 16 and 20 the geometry, which follows from the capacity */
	return after < before ? "a smaller disk" : memcmp(was + 20, now + 20, len - 20u) ? "another disk" : NULL;
}

static const struct sl_config_range bed_writable[] = {{32, 1}, {0, 0}};
static const struct remote_type bed_type = {
	.type = "blk", .id = 2, .features = 0xffffff, .num_queues = 1, .config_lens = {60, 36}, .writable = bed_writable,
	.same = bed_same,
};

/* A folder, an image of @blocks, a socket's name. */
static inline void bed_paths(struct bed *b)
{
	*b = (struct bed){.rng = 0x9e3779b97f4a7c15ull};
	snprintf(b->dir, sizeof(b->dir), "/tmp/sluice-remote-XXXXXX");
	REQUIRE(mkdtemp(b->dir));
	snprintf(b->socket, sizeof(b->socket), "%s/s", b->dir);
	snprintf(b->image, sizeof(b->image), "%s/disk", b->dir);
	REQUIRE(!close(creat(b->image, 0600)) && !truncate(b->image, (off_t)BLOCK * BLOCKS));
	forget_lines();
}

static inline void *run_loop(void *arg)
{
	sl_loop_run(arg);
	return NULL;
}

static inline void bed_data_loop(struct bed *b)
{
	b->data = sl_loop_new();
	REQUIRE(b->data && !pthread_create(&b->data_thread, NULL, run_loop, b->data));
}

static inline int bed_try(struct bed *b, const struct remote_type *type, bool packed, int interrupt_fd, struct sl_err *err)
{
	struct remote_config cfg = {
		.type = type, .name = "disk", .path = b->socket, .num_queues = 1, .queue_size = 128, .timeout_ms = 30000,
		.stop_timeout_ms = stop_timeout_ms, .interrupt_fd = interrupt_fd,
	};

	b->packed = packed;
	b->loop = sl_loop_new();
	REQUIRE(b->loop);
	cfg.control = b->loop;
	cfg.loops = &b->data;
	cfg.num_loops = b->data != NULL;
	if (timeout_ms)
		cfg.timeout_ms = timeout_ms;
	if (!packed)
		sl_features_set(&cfg.without, SL_F_RING_PACKED);
	b->remote = remote_open(&cfg, err);
	return b->remote ? 0 : -EIO;
}

static inline void bed_device(struct bed *b, const struct remote_type *type, bool packed)
{
	struct sl_err err = {""};

	if (bed_try(b, type, packed, -1, &err)) {
		fprintf(stderr, "%s\n", err.text);
		exit(1);
	}
}

static inline void bed_board(struct bed *b, enum board_kind kind)
{
	b->kind = kind;
	REQUIRE(!sl_dma_open(&b->dma, ADDR, 1 << 20, NULL));
	REQUIRE(!remote_memory(b->remote, &b->dma.region, 1, NULL));
	board_open(&b->board, kind, remote_device(b->remote), false);
	board_memory(&b->board, &b->dma.region, 1);
	b->link = board_link(&b->board);
	b->on_board = true;
}

/* Reset, negotiate, a fresh queue in the same memory, go. */
static inline void bed_driver(struct bed *b)
{
	struct sl_features mask = {{UINT64_MAX, UINT64_MAX}};
	struct sl_err err = {""};
	size_t size = (vblk_queue_private_size(RING) + 63) & ~(size_t)63;

	if (vblk_open(&b->blk, b->link, &mask, &err)) {
		fprintf(stderr, "%s\n", err.text);
		exit(1);
	}
	CHECK(sl_features_has(&b->blk.features, SL_F_RING_PACKED) == b->packed);
	if (!b->private) {
		b->private = aligned_alloc(64, size);
		b->shared = sl_dma_alloc(&b->dma, vblk_queue_shared_size(&b->blk, RING), 4096, &b->shared_addr);
		for (unsigned int i = 0; i < LANES; i++) {
			b->lanes[i].data = sl_dma_alloc(&b->dma, BLOCK, 4096, &b->lanes[i].buf.addr);
			b->lanes[i].buf.len = BLOCK;
		}
		REQUIRE(b->private && b->shared && b->lanes[LANES - 1].data);
	}
	memset(b->shared, 0, vblk_queue_shared_size(&b->blk, RING));
	for (unsigned int i = 0; i < LANES; i++)
		b->lanes[i].out = false;
	REQUIRE(!vblk_queue_init(&b->q, &b->blk, 0, RING, b->shared, b->shared_addr, b->private, &err));
	REQUIRE(!vblk_start(&b->blk, &b->q, 1, &err));
}

static inline void bed_close(struct bed *b)
{
	if (b->on_board) {
		remote_leave(b->remote);
		board_close(&b->board);
	}
	remote_close(b->remote);
	if (b->on_board)
		sl_dma_close(&b->dma);
	daemon_end(b, SIGKILL);
	if (b->data) {
		sl_loop_quit(b->data);
		pthread_join(b->data_thread, NULL);
		sl_loop_free(b->data);
	}
	sl_loop_free(b->loop);
	free(b->private);
	unlink(b->socket);
	unlink(b->image);
	rmdir(b->dir);
}

/* ---- load ---- */

static inline uint64_t random64(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline void offer(struct bed *b, struct lane *l)
{
	uint64_t sector = (uint64_t)l->block * (BLOCK / VBLK_SECTOR);

	if (l->writing)
		pattern_fill(l->data, BLOCK, l->block, ++b->generation[l->block]);
	else
		memset(l->data, 0xee, BLOCK);
	REQUIRE(l->writing ? vblk_write(&b->q, sector, &l->buf, 1, l) : vblk_read(&b->q, sector, &l->buf, 1, l));
	l->out = true;
}

static inline void offer_any(struct bed *b, struct lane *l)
{
	unsigned int lane = (unsigned int)(l - b->lanes);

	l->block = lane + LANES * (uint32_t)(random64(&b->rng) % (BLOCKS / LANES));
	l->writing = !b->generation[l->block] || random64(&b->rng) % 4;
	offer(b, l);
}

/* Take what finished, offer @again; false when nothing had finished. */
static inline bool turn(struct bed *b, bool again)
{
	struct lane *l;
	bool any = false;
	int result;

	while ((l = vblk_poll(&b->q, &result))) {
		any = true;
		REQUIRE(l >= b->lanes && l < b->lanes + LANES && l->out);
		l->out = false;
		b->finished++;
		REQUIRE(!result);
		REQUIRE(l->writing || pattern_check(l->data, BLOCK, l->block, b->generation[l->block]));
		if (again)
			offer_any(b, l);
	}
	if (vblk_broken(&b->q))
		fprintf(stderr, "ring: %s\n", vblk_broken(&b->q));
	REQUIRE(!vblk_broken(&b->q));
	vblk_commit(&b->q);
	board_step(&b->board);
	return any;
}

static inline void offer_all(struct bed *b)
{
	for (unsigned int i = 0; i < LANES; i++)
		if (!b->lanes[i].out)
			offer_any(b, &b->lanes[i]);
	vblk_commit(&b->q);
}

static inline void drain(struct bed *b)
{
	uint64_t last = sl_now();

	while (vblk_outstanding(&b->q)) {
		if (turn(b, false))
			last = sl_now();
		REQUIRE(!hangs(last));
	}
}

/* Read everything that was ever written through the device. */
static inline void read_back(struct bed *b)
{
	for (unsigned int i = 0; i < BLOCKS; i += LANES) {
		for (unsigned int n = 0; n < LANES; n++) {
			struct lane *l = &b->lanes[n];

			l->block = i + n;
			l->writing = false;
			if (b->generation[l->block])
				offer(b, l);
		}
		drain(b);
	}
}

/* Turn the control loop until @cond. */
#define UNTIL(b, cond)                                                                                                 \
	do {                                                                                                           \
		uint64_t until_start = sl_now();                                                                       \
		while (!(cond)) {                                                                                      \
			sl_loop_step((b)->loop, 2);                                                                    \
			REQUIRE(!hangs(until_start));                                                                  \
		}                                                                                                      \
	} while (0)

#endif
