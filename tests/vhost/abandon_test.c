/* SPDX-License-Identifier: MIT */
/* abandon_test.c - vhost-user server: a stop that has waited long enough for a store that does not answer
 *
 * The device keeps what it is asked for, and gives it up when the core says
 * so. What becomes of the requests depends on who could still carry them out.
 */
#include "case.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define TIMEOUT_MS 30
#define N 3

static struct vu_inflight region;
static int region_fd;
static uint8_t *data[N];

static bool was_copied(const uint8_t *p)
{
	return !memcmp(p, p + 0x1000, 256);
}

static void use_region(void)
{
	CHECK_EQ(fe_set(&f, VU_SET_INFLIGHT_FD, &region, sizeof(region), &region_fd, 1), 0);
}

/* A ring whose device holds N requests. */
static void hold_requests(bool packed, bool threaded, bool with_region)
{
	struct vu_inflight want = {.num_queues = BED_QUEUES, .queue_size = 16};
	struct vu_msg m;

	bed_open_limited(&b, threaded, TIMEOUT_MS);
	fe_connect(&f, &b);
	fe_hello(&f, FE_RING_FEATURES | BIT30 | LOG_ALL | (packed ? PACKED : 0), FE_ALL_PROTOCOL);
	CHECK_EQ(fe_set_memory(&f), 0);
	region_fd = -1;
	if (with_region) {
		REQUIRE(!fe_get(&f, VU_GET_INFLIGHT_FD, &want, sizeof(want), &m) && m.nfds == 1);
		region = m.p.inflight;
		region_fd = vu_msg_take_fd(&m, 0);
		use_region();
	}
	fe_ring_up(&f, 0, 16);
	CHECK(fe_echo(&f, 0));
	b.hold = true;
	for (int i = 0; i < N; i++)
		data[i] = fe_offer(&f, 0, 256);
	CHECK(bed_wait(&b, &b.served, 1 + N));
}

static void end(void)
{
	if (region_fd >= 0)
		close(region_fd);
	down();
}

/* Each of them is done once, in any order; @good: with what was asked for. */
static void all_done(bool good)
{
	unsigned int seen[N] = {0};

	for (int i = 0; i < N; i++) {
		const uint8_t *done = fe_done(&f, 0);

		CHECK(done != NULL);
		for (int k = 0; k < N; k++)
			seen[k] += done == data[k];
	}
	CHECK(fe_idle(&f, 0));
	for (int k = 0; k < N; k++) {
		CHECK_EQ(seen[k], 1);
		CHECK_EQ(was_copied(data[k]), good);
	}
}

static void start_again(uint32_t base)
{
	b.hold = false;
	CHECK_EQ(fe_ring_send(&f, 0, base), 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
}

/* Somebody will find them in the region: they are as good as new after the pause. */
static void region_keeps(bool packed, bool threaded)
{
	uint32_t base;

	hold_requests(packed, threaded, true);
	base = fe_get_base(&f, 0);
	CHECK(base != UINT32_MAX);
	CHECK(!sl_queue_running(b.dev, 0));
	CHECK(fe_idle(&f, 0));
	start_again(base);
	all_done(true);
	CHECK_EQ(b.served, 1 + 2 * N);
	CHECK(fe_echo(&f, 0));
	end();
}

static void region_keeps_split(void)
{
	region_keeps(false, false);
}

static void region_keeps_packed(void)
{
	region_keeps(true, true);
}

/* QEMU 7.2 pauses a guest by its status. */
static void region_keeps_at_status_0(void)
{
	hold_requests(false, false, true);
	CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 0), 0);
	CHECK(fe_idle(&f, 0));
	CHECK_EQ(fe_get_base(&f, 0), 1 + N);
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, f.features), 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, 0, 16), 0);
	start_again(1 + N);
	all_done(true);
	end();
}

/* Memory is exchanged under the ring: they are done with the new one. */
static void region_keeps_at_mem_table(void)
{
	hold_requests(false, false, true);
	b.hold = false;
	CHECK_EQ(fe_set_memory(&f), 0);
	all_done(true);
	CHECK_EQ(b.served, 1 + 2 * N);
	end();
}

/* The front-end hangs up, the server ends; the next one finds them. */
static void region_keeps_at_the_end(bool packed)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	hold_requests(packed, false, true);
	bed_unserve(&b);
	fe_hangup(&f);
	CHECK(!sl_dq_get(f.ring[0].dq, NULL));
	bed_serve(&b);
	strcpy(sun.sun_path, b.path);
	f.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	REQUIRE(!connect(f.sock, (struct sockaddr *)&sun, sizeof(sun)));
	fe_hello(&f, f.features, f.protocol);
	CHECK_EQ(fe_set_memory(&f), 0);
	use_region();
	start_again(packed ? 0x80028002 : 1); /* where the used index stands */
	all_done(true);
	end();
}

static void region_keeps_at_the_end_split(void)
{
	region_keeps_at_the_end(false);
}

static void region_keeps_at_the_end_packed(void)
{
	region_keeps_at_the_end(true);
}

/*
 * The ring starts with what the region keeps, and is stopped before its loop
 * has had a turn: both messages are sent before either is looked at. Return: the base.
 */
static uint32_t start_and_stop(uint32_t base, uint32_t stop_request)
{
	struct vu_vring_state on = {.index = 0, .num = 1}, which = {.index = 0};
	bool get_base = stop_request == VU_GET_VRING_BASE;
	struct vu_msg m;

	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 0), 0);
	CHECK_EQ(fe_ring_send(&f, 0, base), 0);
	CHECK_EQ(b.served, 1 + N);
	REQUIRE(!fe_send(&f, VU_SET_VRING_ENABLE, VU_NEED_REPLY, &on, sizeof(on), NULL, 0));
	REQUIRE(!fe_send(&f, stop_request, get_base ? 0 : VU_NEED_REPLY, &which, get_base ? sizeof(which) : 0, NULL, 0));
	REQUIRE(!fe_recv(&f, &m) && m.h.request == VU_SET_VRING_ENABLE && !m.p.u64);
	REQUIRE(!fe_recv(&f, &m) && m.h.request == stop_request);
	return m.p.state.num;
}

/* A stop does not overtake what an earlier life has left: whoever gets the base may not get the region. */
static void stop_finishes_what_was_left(bool packed, bool threaded)
{
	uint32_t before, base;

	hold_requests(packed, threaded, true);
	before = fe_get_base(&f, 0);
	CHECK(fe_idle(&f, 0));
	b.hold = false;
	base = start_and_stop(before, VU_GET_VRING_BASE);
	CHECK_EQ((uint16_t)base, (uint16_t)before); /* nothing new was taken */
	CHECK_EQ(b.served, 1 + 2 * N);
	for (int i = 0; i < N; i++)
		CHECK(was_copied(data[i]));
	all_done(true);
	/* and a successor without the region */
	CHECK_EQ(fe_ring_send(&f, 0, base), 0);
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(b.served, 1 + 2 * N + 1);
	end();
}

static void stop_finishes_what_was_left_split(void)
{
	stop_finishes_what_was_left(false, false);
	stop_finishes_what_was_left(false, true);
}

static void stop_finishes_what_was_left_packed(void)
{
	stop_finishes_what_was_left(true, false);
	stop_finishes_what_was_left(true, true);
}

/* ... but no longer than it waits for others: once more they stay where they are. */
static void stop_gives_up_what_was_left(bool packed)
{
	uint32_t base;

	hold_requests(packed, false, true);
	base = fe_get_base(&f, 0);
	CHECK_EQ(start_and_stop(base, VU_GET_VRING_BASE), base);
	CHECK_EQ(b.served, 1 + 2 * N);
	CHECK(fe_idle(&f, 0));
	start_again(base);
	all_done(true);
	CHECK_EQ(b.served, 1 + 3 * N);
	end();
}

static void stop_gives_up_what_was_left_split(void)
{
	stop_gives_up_what_was_left(false);
}

static void stop_gives_up_what_was_left_packed(void)
{
	stop_gives_up_what_was_left(true);
}

/* A reset at that moment: they do not come up again in the driver's next life. */
static void reset_ends_what_was_left(void)
{
	for (int packed = 0; packed < 2; packed++) {
		uint32_t base;

		hold_requests(packed, false, true);
		base = fe_get_base(&f, 0);
		b.hold = false;
		start_and_stop(base, VU_RESET_DEVICE);
		CHECK_EQ(b.resets, 1);
		CHECK_EQ(b.served, 1 + 2 * N);
		all_done(true);
		end();
	}
}

/* Without a region nobody would ever answer them. */
static void no_region(bool packed, bool threaded)
{
	uint32_t base;

	hold_requests(packed, threaded, false);
	base = fe_get_base(&f, 0);
	CHECK(base != UINT32_MAX);
	all_done(false);
	start_again(base);
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(b.served, 1 + N + 1);
	end();
}

static void no_region_split(void)
{
	no_region(false, true);
}

static void no_region_packed(void)
{
	no_region(true, false);
}

/* While a guest is being moved a region stays behind. */
static void moving(void)
{
	struct vu_log log = {.size = 0x100000};
	int fd = memfd_create("log", MFD_CLOEXEC);
	struct vu_msg m;

	REQUIRE(fd >= 0 && !ftruncate(fd, (off_t)log.size));
	hold_requests(false, false, true);
	REQUIRE(!fe_send(&f, VU_SET_LOG_BASE, 0, &log, sizeof(log), &fd, 1) && !fe_recv(&f, &m));
	CHECK(fe_get_base(&f, 0) != UINT32_MAX);
	all_done(false);
	close(fd);
	end();
}

/* A driver that resets has forgotten them, and they are not to appear in its next life. */
static void reset_forgets(bool packed)
{
	hold_requests(packed, false, true);
	CHECK_EQ(fe_set(&f, VU_RESET_DEVICE, NULL, 0, NULL, 0), 0);
	CHECK_EQ(b.resets, 1);
	all_done(false);
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, f.features), 0);
	fe_hangup(&f);
	bed_run(&b);
	CHECK_EQ(b.served, 1 + N);
	end();
}

static void reset_forgets_split(void)
{
	reset_forgets(false);
}

static void reset_forgets_packed(void)
{
	reset_forgets(true);
}

/* One that the device cannot give up is waited for; the others are where they were left. */
static void some_are_waited_for(void)
{
	struct vu_vring_state s = {.index = 0};
	struct pollfd p = {.events = POLLIN};
	struct vu_msg m;

	hold_requests(false, false, true);
	b.keeps = 1;
	REQUIRE(!fe_send(&f, VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
	p.fd = f.sock;
	for (int i = 0; i < 3 * TIMEOUT_MS; i++)
		sl_loop_step(b.loop, 1);
	CHECK_EQ(poll(&p, 1, 0), 0);
	CHECK(fe_idle(&f, 0));
	bed_release(&b);
	REQUIRE(!fe_recv(&f, &m));
	CHECK(was_copied(fe_done(&f, 0)));
	CHECK(fe_idle(&f, 0));
	start_again(m.p.state.num);
	for (int i = 1; i < N; i++)
		CHECK(was_copied(fe_done(&f, 0)));
	CHECK(fe_idle(&f, 0));
	end();
}

static const struct t_case cases[] = {
	{"region_keeps_split", region_keeps_split},
	{"region_keeps_packed", region_keeps_packed},
	{"region_keeps_at_status_0", region_keeps_at_status_0},
	{"region_keeps_at_mem_table", region_keeps_at_mem_table},
	{"region_keeps_at_the_end_split", region_keeps_at_the_end_split},
	{"region_keeps_at_the_end_packed", region_keeps_at_the_end_packed},
	{"stop_finishes_what_was_left_split", stop_finishes_what_was_left_split},
	{"stop_finishes_what_was_left_packed", stop_finishes_what_was_left_packed},
	{"stop_gives_up_what_was_left_split", stop_gives_up_what_was_left_split},
	{"stop_gives_up_what_was_left_packed", stop_gives_up_what_was_left_packed},
	{"reset_ends_what_was_left", reset_ends_what_was_left},
	{"no_region_split", no_region_split},
	{"no_region_packed", no_region_packed},
	{"moving", moving},
	{"reset_forgets_split", reset_forgets_split},
	{"reset_forgets_packed", reset_forgets_packed},
	{"some_are_waited_for", some_are_waited_for},
};

T_MAIN(cases)
