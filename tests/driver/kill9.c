/* SPDX-License-Identifier: MIT */
/* kill9.c - a daemon that is killed again and again under load completes every request exactly once.
 *
 * usage: kill9 SLUICE split|packed KILLS MAX_MS [KEYS]
 *
 * One thread starts `sluice serve`, kills it with SIGKILL after 1 to MAX_MS
 * milliseconds and starts it again at once, KILLS times; so kills also fall
 * into start-up, handshake and recovery. The main thread is the front-end: it
 * keeps an inflight region, its rings and its requests, goes on offering
 * requests while nobody is there, and reconnects. Each request owns a set of
 * blocks ("lane") and alternates writes and reads of them, so for each block
 * it is known which write was the last one: a request that is lost, done
 * twice, or done again after its completion shows as a cookie that never
 * comes, comes twice, or as a block with old contents. At the end everything
 * is read back through the device, and from the file.
 */
#include "t.h"

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <sluice/loop.h>

#include "cli/pattern.h"
#include "driver/blk.h"

#define QUEUES 2
#define DEPTH 32
#define RING 128
#define BLOCK 4096u
#define BLOCKS 4096u
#define LANES (QUEUES * DEPTH)
#define MS 1000000ull
#define HANG_NS 60000000000ull /* nothing finished for so long: lost */
#define DEVICE_ADDRESS 0x200000000ull

/** struct lane - a request and the blocks that only it touches */
struct lane {
	struct vblk_queue *queue;
	struct sl_dq_buf buf;
	void *data;
	uint32_t block;
	bool out, writing;
};

static struct {
	const char *sluice, *keys;
	bool packed;
	unsigned int kills, max_ms;
	char dir[64], image[96], socket[96], log[96];

	pthread_t killer;
	sem_t end; /* the killer may go */
	pid_t daemon;	   /* the killer's until it has ended */
	unsigned int done; /* kills so far, atomic */

	struct sl_link *link;
	struct sl_dma dma;
	struct sl_link_inflight inflight;
	struct vblk blk;
	struct vblk_queue queues[QUEUES];
	struct lane lanes[LANES];
	uint32_t generation[BLOCKS];
	uint64_t rng, finished, resumed, reconnects, failed_reconnects, max_resumed;
} k;

static uint64_t random64(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void die(const char *what, const char *why)
{
	fprintf(stderr, "kill9: after %u kills and %llu requests: %s: %s\n",
		__atomic_load_n(&k.done, __ATOMIC_RELAXED), (unsigned long long)k.finished, what, why);
	fprintf(stderr, "kill9: %llu reconnects, %llu cut short; the daemon's log is %s\n",
		(unsigned long long)k.reconnects, (unsigned long long)k.failed_reconnects, k.log);
	_exit(1);
}

/* ---- the daemon and its killer ---- */

static pid_t start_daemon(void)
{
	char spec[400];
	pid_t pid;
	int log;

	snprintf(spec, sizeof(spec), "blk,%s,socket=%s,queues=%d%s%s", k.image, k.socket, QUEUES, k.keys[0] ? "," : "",
		 k.keys);
	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* when the thread that started it ends */
	log = open(k.log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	dup2(log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	execl(k.sluice, k.sluice, "serve", "--device", spec, (char *)NULL);
	_exit(127);
}

static void *kill_and_restart(void *arg)
{
	uint64_t rng = 88172645463325252ull;
	int status;

	(void)arg;
	for (unsigned int i = 0; i < k.kills; i++) {
		uint64_t us = 1000 + random64(&rng) % (k.max_ms * 1000);

		nanosleep(&(struct timespec){ (time_t)(us / 1000000), (long)(us % 1000000) * 1000 }, NULL);
		kill(k.daemon, SIGKILL);
		if (waitpid(k.daemon, &status, 0) != k.daemon)
			die("waitpid", strerror(errno));
		if (!WIFSIGNALED(status))
			die("the daemon ended by itself", "exit status");
		__atomic_fetch_add(&k.done, 1, __ATOMIC_RELAXED);
		k.daemon = start_daemon();
	}
	/* The daemon would die with this thread, see start_daemon(). */
	while (sem_wait(&k.end))
		;
	return NULL;
}

/* ---- the front-end ---- */

static void connect_first(void)
{
	struct sl_link_vhost_user_config cfg = { .path = k.socket, .timeout_ms = 60000 };
	struct sl_err err;

	for (unsigned int i = 0; i < 2000 && !k.link; i++) {
		k.link = sl_link_vhost_user_open(&cfg, &err);
		if (!k.link)
			nanosleep(&(struct timespec){ .tv_nsec = 5 * MS }, NULL);
	}
	if (!k.link)
		die("connect", err.text);
}

static void set_up(void)
{
	struct sl_features mask = { .w = { UINT64_MAX, UINT64_MAX } };
	struct sl_err err = { 0 };
	uint64_t addr;
	void *p, *private;

	if (!k.packed)
		sl_features_clear(&mask, SL_F_RING_PACKED);
	if (vblk_open(&k.blk, k.link, &mask, &err))
		die("open", err.text);
	REQUIRE(sl_features_has(&k.blk.features, SL_F_RING_PACKED) == k.packed);
	REQUIRE(!sl_dma_open(&k.dma, DEVICE_ADDRESS, LANES * BLOCK + QUEUES * (1 << 16), &err));
	if (k.link->ops->set_memory(k.link, &k.dma.region, 1, &err) ||
	    k.link->ops->inflight_get(k.link, QUEUES, RING, &k.inflight, &err) ||
	    k.link->ops->inflight_set(k.link, &k.inflight, &err))
		die("set-up", err.text);
	k.blk.inflight = true;
	for (unsigned int i = 0; i < QUEUES; i++) {
		p = sl_dma_alloc(&k.dma, vblk_queue_shared_size(&k.blk, RING), 4096, &addr);
		private = aligned_alloc(64, (vblk_queue_private_size(RING) + 63) & ~(size_t)63);
		REQUIRE(p && private);
		if (vblk_queue_init(&k.queues[i], &k.blk, (uint16_t)i, RING, p, addr, private, &err))
			die("queue", err.text);
	}
	for (unsigned int i = 0; i < LANES; i++) {
		struct lane *l = &k.lanes[i];

		l->queue = &k.queues[i / DEPTH];
		l->data = sl_dma_alloc(&k.dma, BLOCK, 4096, &l->buf.addr);
		l->buf.len = BLOCK;
		REQUIRE(l->data);
	}
	if (vblk_start(&k.blk, k.queues, QUEUES, &err))
		die("start", err.text);
}

static void offer(struct lane *l)
{
	uint64_t sector = (uint64_t)l->block * (BLOCK / VBLK_SECTOR);
	bool ok;

	if (l->writing)
		pattern_fill(l->data, BLOCK, l->block, ++k.generation[l->block]);
	else
		memset(l->data, 0xee, BLOCK);
	ok = l->writing ? vblk_write(l->queue, sector, &l->buf, 1, l) : vblk_read(l->queue, sector, &l->buf, 1, l);
	if (!ok)
		die("offer", "the ring has no room");
	l->out = true;
}

static void offer_any(struct lane *l)
{
	unsigned int lane = (unsigned int)(l - k.lanes);

	l->block = lane + LANES * (uint32_t)(random64(&k.rng) % (BLOCKS / LANES));
	l->writing = !k.generation[l->block] || random64(&k.rng) % 4;
	offer(l);
}

static void finish(struct lane *l, int result)
{
	char text[64];

	if (l < k.lanes || l >= k.lanes + LANES || !l->out)
		die("a completion", "of a request that is not outstanding");
	l->out = false;
	k.finished++;
	snprintf(text, sizeof(text), "%s of block %u", l->writing ? "write" : "read", l->block);
	if (result)
		die(text, strerror(-result));
	if (!l->writing && !pattern_check(l->data, BLOCK, l->block, k.generation[l->block]))
		die(text, "not what was written last");
}

/* Take what finished and offer @again; false when nothing had finished. */
static bool turn(bool again)
{
	bool any = false;

	for (unsigned int i = 0; i < QUEUES; i++) {
		struct vblk_queue *q = &k.queues[i];
		struct lane *l;
		int result;

		while ((l = vblk_poll(q, &result))) {
			any = true;
			finish(l, result);
			if (again)
				offer_any(l);
		}
		if (vblk_broken(q))
			die("ring", vblk_broken(q));
		vblk_commit(q);
	}
	return any;
}

static unsigned int outstanding(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < LANES; i++)
		n += k.lanes[i].out;
	return n;
}

/* The socket has closed, so the dead process writes nothing any more. */
static void come_back(void)
{
	struct sl_err err;
	unsigned int n, tries = 0;

	turn(true);
	while (turn(false))
		;
	n = outstanding();
	while (vblk_restart(&k.blk, k.queues, QUEUES, &err)) {
		k.failed_reconnects++;
		if (++tries > 100)
			die("reconnect", err.text);
		/* Killed on the way: what it had finished is taken before the next one is told where to go on. */
		while (turn(false))
			;
		n = outstanding();
	}
	k.reconnects++;
	k.resumed += n;
	if (n > k.max_resumed)
		k.max_resumed = n;
	/* those that finished without being replaced above */
	for (unsigned int i = 0; i < LANES; i++)
		if (!k.lanes[i].out)
			offer_any(&k.lanes[i]);
	turn(true);
}

static void look_at_link(void)
{
	if (k.link->ops->events(k.link) & SL_LINK_GONE)
		come_back();
}

static void turn_until_killed(void)
{
	uint64_t last = sl_now(), now;

	for (unsigned int i = 0; i < LANES; i++)
		offer_any(&k.lanes[i]);
	for (;;) {
		now = sl_now();
		if (turn(true))
			last = now;
		look_at_link();
		if (now - last > HANG_NS)
			die("outstanding requests", "lost: none of them finishes");
		if (__atomic_load_n(&k.done, __ATOMIC_RELAXED) == k.kills && now - last < MS && k.reconnects &&
		    !(k.link->ops->events(k.link) & SL_LINK_GONE))
			return;
	}
}

static void drain(void)
{
	uint64_t last = sl_now();

	while (outstanding()) {
		if (turn(false))
			last = sl_now();
		look_at_link();
		if (sl_now() - last > HANG_NS)
			die("outstanding requests", "lost: some never finish");
	}
}

static void read_back(void)
{
	for (unsigned int i = 0; i < BLOCKS; i += LANES) {
		for (unsigned int n = 0; n < LANES; n++) {
			struct lane *l = &k.lanes[n];

			l->block = i + n;
			l->writing = false;
			if (k.generation[l->block])
				offer(l);
		}
		drain();
	}
}

static void compare_file(void)
{
	int fd = open(k.image, O_RDONLY | O_CLOEXEC);
	char *data = malloc(BLOCK);

	REQUIRE(fd >= 0 && data);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		REQUIRE(pread(fd, data, BLOCK, (off_t)i * BLOCK) == BLOCK);
		if (k.generation[i] && !pattern_check(data, BLOCK, i, k.generation[i]))
			die("the file", "differs from what was written");
	}
	close(fd);
	free(data);
}

static void clean_up(void)
{
	int status = 0;

	if (vblk_stop(&k.blk, k.queues, QUEUES, NULL))
		die("stop", "no answer");
	k.link->ops->close(k.link);
	kill(k.daemon, SIGTERM);
	if (waitpid(k.daemon, &status, 0) != k.daemon || status)
		die("SIGTERM", "the daemon does not end with status 0");
	sem_post(&k.end);
	pthread_join(k.killer, NULL);
	compare_file();
	for (unsigned int i = 0; i < QUEUES; i++)
		free(k.queues[i].dq); /* the start of the private memory */
	sl_dma_close(&k.dma);
	close(k.inflight.fd);
	unlink(k.image);
	unlink(k.socket);
	unlink(k.log);
	rmdir(k.dir);
}

int main(int argc, char **argv)
{
	int fd;

	if (argc < 5) {
		fprintf(stderr, "usage: kill9 SLUICE split|packed KILLS MAX_MS [KEYS]\n");
		return 2;
	}
	k.sluice = argv[1];
	k.packed = !strcmp(argv[2], "packed");
	k.kills = (unsigned int)atoi(argv[3]);
	k.max_ms = (unsigned int)atoi(argv[4]);
	k.keys = argc > 5 ? argv[5] : "";
	k.rng = 0x9e3779b97f4a7c15ull;
	snprintf(k.dir, sizeof(k.dir), "/tmp/sluice-kill9-XXXXXX");
	REQUIRE(mkdtemp(k.dir));
	snprintf(k.image, sizeof(k.image), "%s/disk.img", k.dir);
	snprintf(k.socket, sizeof(k.socket), "%s/disk.sock", k.dir);
	snprintf(k.log, sizeof(k.log), "%s/log", k.dir);
	fd = open(k.image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	REQUIRE(fd >= 0 && !ftruncate(fd, (off_t)BLOCKS * BLOCK));
	close(fd);

	k.daemon = start_daemon();
	connect_first();
	set_up();
	REQUIRE(!sem_init(&k.end, 0, 0));
	REQUIRE(!pthread_create(&k.killer, NULL, kill_and_restart, NULL));
	turn_until_killed();
	drain();
	read_back();
	clean_up();
	printf("%s%s%s: %u kills, %llu requests each exactly once, %llu resumed after a kill (at most %llu at once), "
	       "%llu reconnects, %llu more that a kill cut short\n",
	       argv[2], k.keys[0] ? " " : "", k.keys, k.kills, (unsigned long long)k.finished,
	       (unsigned long long)k.resumed, (unsigned long long)k.max_resumed, (unsigned long long)k.reconnects,
	       (unsigned long long)k.failed_reconnects);
	return 0;
}
