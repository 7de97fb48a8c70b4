/* SPDX-License-Identifier: MIT */
/* test_virtio.c - the device model over the direct transport.
 *
 * The device under it is a tiny one: it copies what it reads to what it may
 * write, at once or (hold) when the test says so. More than 800 lines, because
 * every case needs that device and its handful of counters.
 */
#include "rig.h"

#include "transport/direct.h"

#include <sluice/log.h>

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>

static struct sl_loop *loop;
static struct sl_device *device;
static struct direct direct;
static struct rig rig;
static bool hold, done_by_commit;
static struct sl_req *held[128];
static unsigned int n_held, n_requests, n_commits, n_starts, n_stops, n_resets, n_features, written_off, written_len;
static void (*on_request)(struct sl_queue *q);

static void finish(struct sl_req *r)
{
	char buf[256];
	size_t n = sl_cursor_read(&r->chain.out, buf, sizeof(buf));

	sl_req_done(r, (uint32_t)sl_cursor_write(&r->chain.in, buf, n));
}

static void request(struct sl_queue *q, struct sl_req *r)
{
	CHECK_EQ(sl_queue_index(q), *(unsigned int *)sl_queue_priv(q) - 1);
	n_requests++;
	if (on_request)
		on_request(q);
	if (hold)
		held[n_held++] = r;
	else
		finish(r);
}

static void commit(struct sl_queue *q)
{
	(void)q;
	n_commits++;
	while (done_by_commit && n_held)
		sl_req_done(held[--n_held], 0);
}

static int queue_start(struct sl_queue *q)
{
	CHECK_EQ(*(unsigned int *)sl_queue_priv(q), 0);
	*(unsigned int *)sl_queue_priv(q) = sl_queue_index(q) + 1;
	n_starts++;
	return 0;
}

static void queue_stop(struct sl_queue *q)
{
	(void)q;
	n_stops++;
}

static void features_set(struct sl_device *d)
{
	CHECK(d == device);
	n_features++;
}

static void config_written(struct sl_device *d, uint32_t off, uint32_t len)
{
	CHECK(d == device);
	written_off = off;
	written_len = len;
}

static void reset(struct sl_device *d)
{
	CHECK(d == device);
	n_resets++;
}

static const struct sl_device_ops echo = {
	.type = "echo",
	.id = 63,
	.req_size = 8,
	.queue_size = sizeof(unsigned int),
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.request = request,
	.commit = commit,
	.features_set = features_set,
	.config_written = config_written,
	.reset = reset,
};

static struct sl_features all_features(void)
{
	struct sl_features f = {0};
	static const unsigned int bits[] = {SL_F_VERSION_1, SL_F_INDIRECT_DESC, SL_F_EVENT_IDX, SL_F_RING_PACKED,
					    SL_F_IN_ORDER, SL_F_RING_RESET, 3, 70};

	for (unsigned int i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
		sl_features_set(&f, bits[i]);
	return f;
}

static void open_device_on(struct sl_loop *data, unsigned int queues)
{
	static const struct sl_config_range writable[] = {{4, 2}, {0, 0}};
	struct sl_device_config cfg = {.ops = &echo, .priv = &rig, .name = "echo0", .offered = all_features(),
				       .num_queues = (uint16_t)queues, .max_queue_size = 1024, .config = "0123456789",
				       .config_len = 10, .writable = writable};

	loop = sl_loop_new();
	cfg.control = loop;
	if (data) {
		cfg.loops = &data;
		cfg.num_loops = 1;
	}
	device = sl_device_new(&cfg, NULL);
	REQUIRE(device);
	REQUIRE(direct_attach(&direct, device) == 0);
	rig_open(&rig, 16 << 20);
	hold = done_by_commit = false;
	on_request = NULL;
	n_held = n_requests = n_commits = n_starts = n_stops = n_resets = n_features = 0;
}

static void open_device(unsigned int queues)
{
	open_device_on(NULL, queues);
}

static void close_device(void)
{
	direct_detach(&direct);
	sl_device_free(device);
	sl_loop_free(loop);
	rig_close(&rig);
}

static void steps(int n)
{
	while (n--)
		sl_loop_step(loop, 0);
}

/* Choose ring features; bit 0 packed, 1 indirect, 2 event-idx, 3 in-order. */
static struct sl_features choose(unsigned int bits)
{
	static const unsigned int names[] = {SL_F_RING_PACKED, SL_F_INDIRECT_DESC, SL_F_EVENT_IDX, SL_F_IN_ORDER};
	struct sl_features f = {0};

	sl_features_set(&f, SL_F_VERSION_1);
	for (unsigned int i = 0; i < 4; i++)
		if (bits >> i & 1)
			sl_features_set(&f, names[i]);
	return f;
}

static void start(struct rig_queue *q, unsigned int index, uint16_t num, const struct sl_features *f)
{
	struct sl_err err = {0};

	rig_queue(&rig, q, num, f);
	if (sl_queue_start(device, index, &q->setup, rig.mem, &err)) {
		fprintf(stderr, "%s\n", err.text);
		REQUIRE(!"start");
	}
}

/* ---- features, status, configuration ---- */

static void features_must_be_a_subset(void)
{
	struct sl_features f = all_features();

	open_device(1);
	CHECK(sl_features_has(&f, 70) && !sl_features_has(&f, 71) && !sl_features_has(&f, 1000));
	CHECK_EQ(sl_features_word32(&f, 2), 1u << (70 - 64));
	CHECK_EQ(sl_features_word32(&f, 4), 0);
	CHECK_EQ(sl_features_word32(&f, UINT32_MAX), 0);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	CHECK_EQ(n_features, 1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	CHECK_EQ(n_features, 1);
	sl_features_set(&f, 71);
	CHECK_EQ(sl_device_accept(device, &f), -EINVAL);
	f = all_features();
	sl_features_set(&f, 5);
	CHECK_EQ(sl_device_accept(device, &f), -EINVAL);
	/* packed rings and in-order do not exist before VERSION_1 */
	f = choose(1);
	sl_features_clear(&f, SL_F_VERSION_1);
	CHECK_EQ(sl_device_accept(device, &f), -EINVAL);
	f = choose(6);
	sl_features_clear(&f, SL_F_VERSION_1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	close_device();
}

static void features_are_fixed_while_a_queue_runs(void)
{
	struct sl_features f = choose(2), g = choose(6);
	struct rig_queue q;

	open_device(1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	start(&q, 0, 8, &f);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	CHECK_EQ(sl_device_accept(device, &g), -EBUSY);
	direct_stop(&direct, 0);
	CHECK_EQ(sl_device_accept(device, &g), 0);
	rig_queue_close(&q);
	close_device();
}

static void a51_status_machine(void)
{
	struct sl_features f = choose(0);

	open_device(1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	CHECK_EQ(sl_device_set_status(device, SL_STATUS_ACKNOWLEDGE), 0);
	CHECK_EQ(sl_device_set_status(device, 3 | SL_STATUS_DRIVER_OK), -EINVAL); /* before FEATURES_OK */
	CHECK_EQ(sl_device_status(device), 3);
	CHECK_EQ(sl_device_set_status(device, SL_STATUS_FEATURES_OK), 0); /* clears nothing */
	CHECK_EQ(sl_device_status(device), 11);
	CHECK_EQ(sl_device_set_status(device, 15 | SL_STATUS_NEEDS_RESET), 0); /* not the driver's bit */
	CHECK_EQ(sl_device_status(device), 15);
	direct_reset(&direct);
	CHECK_EQ(sl_device_status(device), 0);
	CHECK_EQ(n_resets, 1);
	CHECK(!sl_features_has(sl_device_features(device), SL_F_VERSION_1));
	close_device();
}

static void a52_config_space(void)
{
	char buf[8];
	uint32_t gen;

	open_device(1);
	CHECK_EQ(sl_device_config_len(device), 10);
	sl_device_config_read(device, 8, buf, 4);
	CHECK(!memcmp(buf, "89\0\0", 4)); /* reads on as zeroes */
	sl_device_config_read(device, UINT32_MAX, buf, 4);
	CHECK(!memcmp(buf, "\0\0\0\0", 4));
	CHECK_EQ(sl_device_config_write(device, 4, "ab", 2), 0);
	CHECK(written_off == 4 && written_len == 2);
	CHECK_EQ(sl_device_config_write(device, 3, "ab", 2), -EINVAL);
	CHECK_EQ(sl_device_config_write(device, 5, "ab", 2), -EINVAL);
	CHECK_EQ(sl_device_config_write(device, 9, "ab", 2), -EINVAL);
	CHECK_EQ(sl_device_config_write(device, UINT32_MAX, "ab", 2), -EINVAL);
	CHECK_EQ(sl_device_config_write(device, 4, "ab", UINT32_MAX), -EINVAL);
	sl_device_config_read(device, 0, buf, 8);
	CHECK(!memcmp(buf, "0123ab67", 8));
	gen = sl_device_generation(device);
	sl_device_config_update(device, 0, "0123", 4); /* nothing changed */
	CHECK(sl_device_generation(device) == gen && direct.config_changes == 0);
	for (int i = 0; i < 600; i++) /* the generation wraps in an 8-bit register, but always changes */
		sl_device_config_update(device, 0, i % 2 ? "y" : "x", 1);
	CHECK_EQ(sl_device_generation(device) - gen, 600);
	CHECK_EQ(direct.config_changes, 600);
	sl_device_config_update(device, 9, "xy", 2); /* beyond the end: our own bug, but no overrun */
	CHECK_EQ(direct.config_changes, 600);
	close_device();
}

/* ---- queues ---- */

struct io {
	char *out, *in;
	struct sl_dq_buf bufs[4];
};

static void submit(struct rig_queue *q, struct io *io, unsigned int n)
{
	if (!io->out) {
		io->out = rig_alloc(&rig, 64, 64);
		io->in = rig_alloc(&rig, 64, 64);
	}
	snprintf(io->out, 64, "request %u", n);
	memset(io->in, 0, 64);
	io->bufs[0] = rig_buf(&rig, io->out, 5);
	io->bufs[1] = rig_buf(&rig, io->out + 5, 27);
	io->bufs[2] = rig_buf(&rig, io->in, 1);
	io->bufs[3] = rig_buf(&rig, io->in + 1, 63);
	REQUIRE(sl_dq_add(q->dq, io->bufs, 2, io->bufs + 2, 2, io));
}

static void reap(struct rig_queue *q, const struct io *io)
{
	uint32_t len = 0;

	CHECK(sl_dq_get(q->dq, &len) == io);
	CHECK_EQ(len, 32);
	CHECK(!strcmp(io->in, io->out));
}

/* Kick if the device asks for it. */
static void publish(struct rig_queue *q, unsigned int index)
{
	if (sl_dq_publish(q->dq))
		sl_queue_kick(device, index);
}

/* A device with one queue of @num entries in the @bits-th format. */
static void open_format(struct rig_queue *q, unsigned int bits, uint16_t num)
{
	struct sl_features f = choose(bits);

	open_device(1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	start(q, 0, num, &f);
}

static void close_format(struct rig_queue *q)
{
	direct_stop(&direct, 0);
	rig_queue_close(q);
	close_device();
}

static void requests_go_round_in_every_format(void)
{
	for (unsigned int bits = 0; bits < 16; bits++) {
		struct io io[4] = {0};
		struct rig_queue q;

		open_format(&q, bits, 16);
		for (unsigned int round = 0; round < 100; round++) {
			unsigned int n = 1 + round % 4;

			for (unsigned int i = 0; i < n; i++)
				submit(&q, &io[i], round * 4 + i);
			publish(&q, 0);
			steps(2);
			for (unsigned int i = 0; i < n; i++)
				reap(&q, &io[i]);
			CHECK(!sl_dq_get(q.dq, NULL));
		}
		CHECK(!sl_dq_broken(q.dq));
		close_format(&q);
	}
}

static struct rig_queue *watched;
static unsigned int seen_early;

static void look_while_done(struct sl_queue *q)
{
	(void)q;
	CHECK_EQ(direct.queues[0].calls, 0);
	while (sl_dq_get(watched->dq, NULL))
		seen_early++;
}

/* A driver that looks by itself gets the first ones while the device works on the last; the call comes at the end. */
static void long_round_shows_what_is_done(void)
{
	for (unsigned int bits = 0; bits < 16; bits++) {
		struct io io[40] = {0};
		struct rig_queue q;

		open_format(&q, bits, 256);
		steps(2);
		watched = &q;
		seen_early = 0;
		on_request = look_while_done;
		for (unsigned int i = 0; i < 40; i++)
			submit(&q, &io[i], i);
		publish(&q, 0);
		steps(1);
		CHECK(seen_early > 0 && seen_early < 40);
		CHECK_EQ(direct.queues[0].calls, 1);
		while (sl_dq_get(q.dq, NULL))
			seen_early++;
		CHECK_EQ(seen_early, 40);
		close_format(&q);
	}
}

static void one_call_a_round(void)
{
	struct sl_features f = choose(0);
	struct io io[4] = {0};
	struct rig_queue q;
	struct sl_queue_stats stats;
	unsigned int calls;

	open_device(1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	start(&q, 0, 64, &f);
	steps(2);
	calls = direct.queues[0].calls;
	CHECK_EQ(calls, 0); /* a fresh ring has nothing to tell */
	for (unsigned int i = 0; i < 4; i++)
		submit(&q, &io[i], i);
	publish(&q, 0);
	steps(3);
	CHECK_EQ(direct.queues[0].calls, calls + 1);
	CHECK_EQ(n_commits, 1);
	sl_queue_stats(device, 0, &stats);
	CHECK(stats.requests == 4 && stats.rounds == 1 && stats.kicks == 1 && stats.calls == 1);
	/* held requests that finish together are published together */
	for (unsigned int i = 0; i < 4; i++)
		reap(&q, &io[i]);
	hold = true;
	for (unsigned int i = 0; i < 4; i++)
		submit(&q, &io[i], i);
	publish(&q, 0);
	steps(2);
	CHECK_EQ(n_held, 4);
	for (unsigned int i = 0; i < 4; i++)
		finish(held[i]);
	CHECK(!sl_dq_get(q.dq, NULL));
	steps(1);
	CHECK_EQ(direct.queues[0].calls, calls + 2);
	for (unsigned int i = 0; i < 4; i++)
		reap(&q, &io[i]);
	direct_stop(&direct, 0);
	rig_queue_close(&q);
	close_device();
}

static void stop_waits_for_requests_in_flight(void)
{
	for (unsigned int packed = 0; packed < 2; packed++) {
		struct sl_features f = choose(packed);
		struct io io[3] = {0};
		struct rig_queue q;
		uint32_t base;

		open_device(1);
		CHECK_EQ(sl_device_accept(device, &f), 0);
		start(&q, 0, 16, &f);
		hold = true;
		submit(&q, &io[0], 0);
		submit(&q, &io[1], 1);
		publish(&q, 0);
		steps(2);
		CHECK_EQ(n_held, 2);
		direct.queues[0].stopped = false;
		sl_queue_stop(device, 0);
		submit(&q, &io[2], 2); /* comes too late */
		publish(&q, 0);
		steps(3);
		CHECK(!direct.queues[0].stopped);
		finish(held[0]);
		steps(3);
		CHECK(!direct.queues[0].stopped && n_stops == 0);
		finish(held[1]);
		steps(3);
		CHECK(direct.queues[0].stopped && n_stops == 1);
		base = direct.queues[0].base;
		CHECK_EQ(n_held, 2);
		reap(&q, &io[0]);
		reap(&q, &io[1]);
		/* and goes on where it stopped, with what came too late, and calls once for what may have got lost */
		hold = false;
		q.setup.vq.base = base;
		CHECK_EQ(sl_queue_start(device, 0, &q.setup, rig.mem, NULL), 0);
		CHECK(direct.queues[0].calls > 0);
		steps(2);
		reap(&q, &io[2]);
		direct_stop(&direct, 0);
		rig_queue_close(&q);
		close_device();
	}
}

static void reset_waits_and_touches_nothing_afterwards(void) /* C5 in the core */
{
	struct sl_features f = choose(0);
	struct io io = {0};
	struct rig_queue q[2];
	char *copy;

	open_device(2);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	start(&q[0], 0, 16, &f);
	start(&q[1], 1, 16, &f);
	hold = true;
	submit(&q[0], &io, 0);
	publish(&q[0], 0);
	steps(2);
	CHECK_EQ(n_held, 1);
	direct.reset = false;
	direct.queues[0].stopped = direct.queues[1].stopped = false;
	sl_device_reset(device, NULL, NULL);
	steps(3);
	CHECK_EQ(n_resets, 0);
	finish(held[0]);
	steps(4);
	CHECK_EQ(n_resets, 1);
	CHECK(!direct.queues[0].stopped && !direct.queues[1].stopped); /* nobody asked for those */
	CHECK(!sl_queue_running(device, 0) && !sl_queue_running(device, 1));
	copy = malloc(rig.size);
	memcpy(copy, rig.driver, rig.size);
	sl_queue_kick(device, 0);
	steps(5);
	CHECK(!memcmp(copy, rig.driver, rig.size));
	free(copy);
	rig_queue_close(&q[0]);
	rig_queue_close(&q[1]);
	close_device();
}

static void a35_broken_queue_leaves_its_sibling_alone(void)
{
	struct sl_features f = choose(0);
	struct io io = {0};
	struct rig_queue q[2];
	unsigned int before;

	open_device(2);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	CHECK_EQ(sl_device_set_status(device, 15), 0);
	start(&q[0], 0, 16, &f);
	start(&q[1], 1, 16, &f);
	steps(2);
	/* avail idx far ahead */
	*(uint16_t *)(void *)(rig.driver + (q[0].setup.vq.driver - RIG_GPA) + 2) = 1000;
	sl_queue_kick(device, 0);
	steps(3);
	CHECK(direct.queues[0].broken != NULL);
	CHECK(sl_device_status(device) & SL_STATUS_NEEDS_RESET);
	CHECK_EQ(direct.config_changes, 1);
	CHECK(!direct.queues[1].broken);
	before = n_requests;
	for (int i = 0; i < 100; i++) {
		sl_queue_kick(device, 0); /* ignored for ever, at no cost */
		CHECK(!sl_loop_step(loop, 0));
	}
	CHECK_EQ(n_requests, before);
	submit(&q[1], &io, 1);
	publish(&q[1], 1);
	steps(2);
	reap(&q[1], &io);
	/* reset restores it */
	direct_reset(&direct);
	CHECK_EQ(sl_device_status(device), 0);
	rig_queue_close(&q[0]);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	start(&q[0], 0, 16, &f);
	submit(&q[0], &io, 2);
	publish(&q[0], 0);
	steps(2);
	reap(&q[0], &io);
	rig_queue_close(&q[0]);
	rig_queue_close(&q[1]);
	close_device();
}

static unsigned int lines;

static void count_line(void *arg, enum sl_log_level level, const char *line)
{
	(void)arg;
	(void)level;
	(void)line;
	lines++;
}

/* A guest that breaks its ring again and again neither floods the log nor keeps the loop busy. */
static void a34_nonsense_floods_nothing(void)
{
	struct sl_features f = choose(0);
	struct rig_queue q;

	open_device(1);
	lines = 0;
	sl_log_to(count_line, NULL, SL_LOG_INFO);
	for (int i = 0; i < 100; i++) {
		CHECK_EQ(sl_device_accept(device, &f), 0);
		start(&q, 0, 16, &f);
		*(uint16_t *)(void *)(rig.driver + (q.setup.vq.driver - RIG_GPA) + 2) = 0x7fff;
		sl_queue_kick(device, 0);
		steps(3);
		CHECK(direct.queues[0].broken);
		CHECK(!sl_loop_step(loop, 0));
		direct_reset(&direct);
		rig_queue_close(&q);
	}
	CHECK(lines >= 1 && lines <= 10);
	sl_log_to(NULL, NULL, SL_LOG_INFO);
	close_device();
}

static void a15_kick_of_a_queue_that_does_not_run(void)
{
	struct sl_features f = choose(0);
	struct io io = {0};
	struct rig_queue q;

	open_device(1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	rig_queue(&rig, &q, 16, &f);
	submit(&q, &io, 0);
	sl_dq_publish(q.dq);
	sl_queue_kick(device, 0); /* before it was started */
	sl_queue_kick(device, 77);
	steps(3);
	CHECK_EQ(n_requests, 0);
	CHECK_EQ(sl_queue_start(device, 0, &q.setup, rig.mem, NULL), 0);
	steps(2);
	reap(&q, &io);
	direct_stop(&direct, 0);
	submit(&q, &io, 1);
	sl_dq_publish(q.dq);
	sl_queue_kick(device, 0); /* after it was stopped */
	steps(3);
	CHECK_EQ(n_requests, 1);
	rig_queue_close(&q);
	close_device();
}

static void fail_once(struct sl_queue *q)
{
	sl_queue_fail(q, "the driver asked for it");
	on_request = NULL;
}

static void device_can_fail_a_queue(void)
{
	struct sl_features f = choose(0);
	struct io io[2] = {0};
	struct rig_queue q;

	open_device(1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	start(&q, 0, 16, &f);
	on_request = fail_once;
	submit(&q, &io[0], 0);
	submit(&q, &io[1], 1);
	publish(&q, 0);
	steps(3);
	CHECK_EQ(n_requests, 1);
	CHECK(direct.queues[0].broken && !strcmp(direct.queues[0].broken, "the driver asked for it"));
	CHECK(!sl_dq_get(q.dq, NULL));
	direct_reset(&direct);
	rig_queue_close(&q);
	close_device();
}

static struct sl_queue *to_fail;

static void remember(struct sl_queue *q)
{
	to_fail = q;
}

/* A migration must not miss what a request wrote because its queue broke meanwhile. */
static void broken_queue_still_logs_what_was_written(void)
{
	struct sl_features f = choose(0);
	int fd = memfd_create("log", MFD_CLOEXEC);
	struct sl_mapping *map;
	struct sl_dirty_log *log;
	struct io io = {0};
	struct rig_queue q;
	uint64_t page;

	REQUIRE(fd >= 0 && ftruncate(fd, 65536) == 0);
	map = sl_mapping_new(fd, 0, 65536, NULL);
	log = sl_dirty_log_new(map, 65536);
	open_device(1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	rig_queue(&rig, &q, 16, &f);
	q.setup.vq.log = log;
	CHECK_EQ(sl_queue_start(device, 0, &q.setup, rig.mem, NULL), 0);
	hold = true;
	on_request = remember;
	submit(&q, &io, 0);
	page = rig_gpa(&rig, io.in) / SL_DIRTY_PAGE;
	publish(&q, 0);
	steps(2);
	CHECK_EQ(n_held, 1);
	sl_queue_fail(to_fail, "the driver asked for it");
	steps(2);
	CHECK_EQ(((uint8_t *)sl_mapping_addr(map))[page / 8] >> page % 8 & 1, 0);
	finish(held[0]);
	steps(2);
	CHECK_EQ(((uint8_t *)sl_mapping_addr(map))[page / 8] >> page % 8 & 1, 1);
	CHECK(!sl_dq_get(q.dq, NULL)); /* logged, but never told */
	direct_reset(&direct);
	rig_queue_close(&q);
	close_device();
	sl_dirty_log_put(log);
	sl_mapping_put(map);
	close(fd);
}

static struct rig_queue *refill;
static struct io refill_io[128];
static unsigned int refill_n;

static void add_another(struct sl_queue *q)
{
	void *cookie;

	(void)q;
	while ((cookie = sl_dq_get(refill->dq, NULL)))
		;
	if (sl_dq_outstanding(refill->dq) >= 100)
		return;
	refill_n++;
	submit(refill, &refill_io[refill_n % 128], refill_n);
	sl_dq_publish(refill->dq);
}

static void a27_work_in_one_turn_is_bounded(void)
{
	struct sl_features f = choose(0);
	struct rig_queue q;

	open_device(1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	start(&q, 0, 512, &f);
	steps(2);
	memset(refill_io, 0, sizeof(refill_io));
	refill = &q;
	refill_n = 1;
	submit(&q, &refill_io[0], 0);
	sl_dq_publish(q.dq);
	on_request = add_another; /* a guest that adds one for each that is taken */
	sl_queue_kick(device, 0);
	CHECK(n_requests <= 512);
	sl_loop_step(loop, 0);
	CHECK(n_requests <= 2 * 512);
	on_request = NULL;
	steps(3);
	direct_stop(&direct, 0);
	rig_queue_close(&q);
	close_device();
}

/* Chains of so many pieces that the memory for their lists runs out, on a queue of 256. */
enum { CHAINS = 100, PIECES = 1024 };

static void add_large_chains(struct rig_queue *q, struct io *io)
{
	uint64_t *desc, (*table)[2] = rig_alloc(&rig, PIECES * sizeof(*table), 16);

	for (unsigned int i = 0; i < PIECES; i++) { /* 1 byte, at an address of its own; NEXT */
		table[i][0] = RIG_GPA + 2 * i;
		table[i][1] = 1 | (i + 1 < PIECES ? 1ull << 32 | (uint64_t)(i + 1) << 48 : 0);
	}
	for (unsigned int i = 0; i < CHAINS; i++) {
		struct sl_dq_buf all = rig_buf(&rig, table, PIECES * sizeof(*table));

		REQUIRE(sl_dq_add(q->dq, &all, 1, NULL, 0, &io[i]));
	}
	desc = (uint64_t *)(void *)(rig.driver + (q->setup.vq.desc - RIG_GPA));
	for (unsigned int i = 0; i < CHAINS; i++)
		desc[2 * i + 1] |= 4ull << 32; /* INDIRECT: one table for all */
}

/* The queue goes on when one of them is done. */
static void starved_queue_goes_on(void)
{
	struct sl_features f = choose(2); /* indirect */
	struct io io[CHAINS] = {0};
	struct rig_queue q;
	unsigned int first;

	open_device(1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	start(&q, 0, 256, &f);
	add_large_chains(&q, io);
	hold = true;
	publish(&q, 0);
	steps(3);
	first = n_held;
	CHECK(first > 0 && first < CHAINS);
	/* nothing is broken, and nobody spins or is helped by a kick */
	CHECK(!direct.queues[0].broken);
	CHECK(!sl_loop_step(loop, 0));
	sl_queue_kick(device, 0);
	steps(3);
	CHECK_EQ(n_held, first);
	CHECK(!sl_loop_step(loop, 0));
	for (unsigned int i = 0; i < CHAINS; i++) {
		CHECK(i < n_held);
		sl_req_done(held[i], 0);
		steps(2);
		CHECK_EQ(n_held, first + i + 1 < CHAINS ? first + i + 1 : CHAINS);
	}
	for (unsigned int i = 0; i < CHAINS; i++)
		CHECK(sl_dq_get(q.dq, NULL) != NULL);
	CHECK(!sl_dq_get(q.dq, NULL) && !sl_dq_broken(q.dq));
	direct_stop(&direct, 0);
	rig_queue_close(&q);
	close_device();
}

/* And also when all of them are done in the round that was short of memory. */
static void queue_short_of_memory_for_a_round_goes_on(void)
{
	struct sl_features f = choose(2); /* indirect */
	struct io io[CHAINS] = {0};
	struct rig_queue q;

	open_device(1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	start(&q, 0, 256, &f);
	add_large_chains(&q, io);
	hold = done_by_commit = true;
	publish(&q, 0);
	steps(5);
	CHECK(!direct.queues[0].broken);
	CHECK(n_commits > 1);
	for (unsigned int i = 0; i < CHAINS; i++)
		CHECK(sl_dq_get(q.dq, NULL) != NULL);
	CHECK(!sl_dq_get(q.dq, NULL) && !sl_dq_broken(q.dq));
	direct_stop(&direct, 0);
	rig_queue_close(&q);
	close_device();
}

static void a29_bad_starts_are_refused(void)
{
	struct sl_features f = choose(0);
	struct rig_queue q, again;
	struct sl_err err;
	int file;

	open_device(1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	rig_queue(&rig, &q, 16, &f);
	again = q;
	CHECK_EQ(sl_queue_start(device, 1, &q.setup, rig.mem, &err), -EINVAL);
	again.setup.vq.num = 0;
	CHECK_EQ(sl_queue_start(device, 0, &again.setup, rig.mem, &err), -EINVAL);
	again.setup.vq.num = 2048;
	CHECK_EQ(sl_queue_start(device, 0, &again.setup, rig.mem, &err), -EINVAL);
	again.setup.vq.num = 12;
	CHECK(sl_queue_start(device, 0, &again.setup, rig.mem, &err) < 0); /* no power of two */
	again = q;
	again.setup.vq.desc = RIG_GPA + rig.size - 16; /* reaches out of memory */
	CHECK(sl_queue_start(device, 0, &again.setup, rig.mem, &err) < 0);
	again = q;
	file = open("/dev/null", O_RDONLY | O_CLOEXEC); /* cannot be waited on */
	again.setup.kick_fd = file;
	CHECK(sl_queue_start(device, 0, &again.setup, rig.mem, &err) < 0);
	CHECK(strstr(err.text, "kick descriptor"));
	CHECK_EQ(n_starts, n_stops);
	close(file);
	CHECK_EQ(sl_queue_start(device, 0, &q.setup, rig.mem, &err), 0);
	CHECK_EQ(sl_queue_start(device, 0, &q.setup, rig.mem, &err), -EBUSY);
	direct_stop(&direct, 0);
	direct_stop(&direct, 0); /* a stopped queue answers at once */
	rig_queue_close(&q);
	close_device();
}

static void call_descriptor_that_blocks_does_not(void)
{
	struct sl_features f = choose(0);
	struct io io = {0};
	struct rig_queue q;
	uint64_t full = UINT64_MAX - 1;
	int call = eventfd(0, EFD_CLOEXEC); /* blocking, and full */

	REQUIRE(write(call, &full, sizeof(full)) == sizeof(full));
	open_device(1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	rig_queue(&rig, &q, 16, &f);
	q.setup.call_fd = call;
	CHECK_EQ(sl_queue_start(device, 0, &q.setup, rig.mem, NULL), 0);
	submit(&q, &io, 0);
	publish(&q, 0);
	steps(2);
	reap(&q, &io);
	direct_stop(&direct, 0);
	close(call);
	rig_queue_close(&q);
	close_device();
}

static void memory_may_change_under_requests(void)
{
	struct sl_features f = choose(0);
	struct io io[2] = {0};
	struct rig_queue q;
	struct sl_mem_region r = {.gpa = RIG_GPA, .uva = RIG_GPA, .size = 16 << 20, .access = 3};
	struct sl_mapping *other;
	struct sl_mem *mem;

	open_device(1);
	CHECK_EQ(sl_device_accept(device, &f), 0);
	start(&q, 0, 16, &f);
	hold = true;
	submit(&q, &io[0], 0);
	publish(&q, 0);
	steps(2);
	other = sl_mapping_new(rig.fd, 0, rig.size, NULL); /* the same memory at another address */
	r.hva = sl_mapping_addr(other);
	r.mapping = other;
	mem = sl_mem_new(&r, 1, NULL);
	sl_device_set_mem(device, mem);
	sl_mem_put(mem);
	sl_mapping_put(other);
	sl_mem_put(rig.mem); /* only the request in flight keeps it now */
	sl_mapping_put(rig.mapping);
	submit(&q, &io[1], 1);
	publish(&q, 0);
	steps(2);
	finish(held[0]);
	finish(held[1]);
	steps(1);
	reap(&q, &io[0]);
	reap(&q, &io[1]);
	/* a map without the ring breaks the queue, nothing else */
	mem = sl_mem_new(NULL, 0, NULL);
	sl_device_set_mem(device, mem);
	steps(2);
	CHECK(direct.queues[0].broken != NULL);
	sl_mem_put(mem);
	direct_detach(&direct);
	sl_device_free(device);
	sl_loop_free(loop);
	munmap(rig.driver, rig.size);
	close(rig.fd);
	rig_queue_close(&q);
}

/* ---- another thread ---- */

static void *run_loop(void *arg)
{
	sl_loop_run(arg);
	return NULL;
}

static void queue_on_another_thread(void)
{
	for (unsigned int packed = 0; packed < 2; packed++) {
		struct sl_features f = choose(packed | 4);
		struct sl_loop *data = sl_loop_new();
		struct io io[8] = {0};
		struct rig_queue q;
		pthread_t thread;
		unsigned int sent = 0, got = 0;
		int kick = eventfd(0, EFD_CLOEXEC), call = eventfd(0, EFD_CLOEXEC);
		uint64_t n, one = 1;

		REQUIRE(data && pthread_create(&thread, NULL, run_loop, data) == 0);
		while (sl_loop_is_here(data))
			usleep(100);
		open_device_on(data, 1);
		CHECK_EQ(sl_device_accept(device, &f), 0);
		rig_queue(&rig, &q, 64, &f);
		q.setup.kick_fd = kick;
		q.setup.call_fd = call;
		CHECK_EQ(sl_queue_start(device, 0, &q.setup, rig.mem, NULL), 0);
		while (got < 20000) {
			struct io *done;

			while (sent - got < 8 && sent < 20000)
				submit(&q, &io[sent % 8], sent), sent++;
			if (sl_dq_publish(q.dq))
				REQUIRE(write(kick, &one, sizeof(one)) == sizeof(one));
			while ((done = sl_dq_get(q.dq, NULL))) {
				CHECK(!strcmp(done->in, done->out));
				got++;
			}
			if (sent - got == 8 && !sl_dq_rearm(q.dq))
				REQUIRE(read(call, &n, sizeof(n)) == sizeof(n));
			REQUIRE(!sl_dq_broken(q.dq));
		}
		direct_stop(&direct, 0);
		close_device();
		sl_loop_quit(data);
		pthread_join(thread, NULL);
		sl_loop_free(data);
		close(kick);
		close(call);
		rig_queue_close(&q);
	}
}

static const struct t_case cases[] = {
	{"features_must_be_a_subset", features_must_be_a_subset},
	{"features_are_fixed_while_a_queue_runs", features_are_fixed_while_a_queue_runs},
	{"a51_status_machine", a51_status_machine},
	{"a52_config_space", a52_config_space},
	{"requests_go_round_in_every_format", requests_go_round_in_every_format},
	{"long_round_shows_what_is_done", long_round_shows_what_is_done},
	{"one_call_a_round", one_call_a_round},
	{"stop_waits_for_requests_in_flight", stop_waits_for_requests_in_flight},
	{"reset_waits_and_touches_nothing_afterwards", reset_waits_and_touches_nothing_afterwards},
	{"a35_broken_queue_leaves_its_sibling_alone", a35_broken_queue_leaves_its_sibling_alone},
	{"a34_nonsense_floods_nothing", a34_nonsense_floods_nothing},
	{"a15_kick_of_a_queue_that_does_not_run", a15_kick_of_a_queue_that_does_not_run},
	{"device_can_fail_a_queue", device_can_fail_a_queue},
	{"broken_queue_still_logs_what_was_written", broken_queue_still_logs_what_was_written},
	{"a27_work_in_one_turn_is_bounded", a27_work_in_one_turn_is_bounded},
	{"starved_queue_goes_on", starved_queue_goes_on},
	{"queue_short_of_memory_for_a_round_goes_on", queue_short_of_memory_for_a_round_goes_on},
	{"a29_bad_starts_are_refused", a29_bad_starts_are_refused},
	{"call_descriptor_that_blocks_does_not", call_descriptor_that_blocks_does_not},
	{"memory_may_change_under_requests", memory_may_change_under_requests},
	{"queue_on_another_thread", queue_on_another_thread},
};
T_MAIN(cases)
