/* SPDX-License-Identifier: MIT */
/* rings_test.c - vhost-user server: each rule about the states of a ring, and in-band notifications */
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "case.h"

/* ---- ring states ---- */

static void disabled_until_enabled(void)
{
	begin(FE_RING_FEATURES | BIT30);
	fe_ring_new(&f, 0, 8);
	CHECK_EQ(fe_ring_send(&f, 0, 0), 0);
	fe_offer(&f, 0, 64);
	CHECK(fe_idle(&f, 0));
	CHECK(!sl_queue_running(b.dev, 0));
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
	CHECK(fe_done(&f, 0) != NULL);
	down();
}

static void without_bit30_enabled(void)
{
	begin(FE_RING_FEATURES);
	fe_ring_new(&f, 0, 8);
	CHECK_EQ(fe_ring_send(&f, 0, 0), 0);
	CHECK(fe_echo(&f, 0));
	down();
}

static void dropping_bit30_enables(void)
{
	begin(FE_RING_FEATURES | BIT30);
	fe_ring_new(&f, 0, 8);
	CHECK_EQ(fe_ring_send(&f, 0, 0), 0);
	CHECK(!sl_queue_running(b.dev, 0));
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, FE_RING_FEATURES), 0);
	CHECK(sl_queue_running(b.dev, 0));
	CHECK(fe_echo(&f, 0));
	down();
}

/* QEMU's network front-end enables rings before they are set up */
static void enable_first(void)
{
	begin(FE_RING_FEATURES | BIT30);
	fe_ring_new(&f, 0, 8);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
	CHECK_EQ(fe_ring_send(&f, 0, 0), 0);
	CHECK(fe_echo(&f, 0));
	down();
}

static bool was_called(int fd)
{
	uint64_t n;

	return read(fd, &n, sizeof(n)) == sizeof(n);
}

/* Each of the things a ring needs may be the last one to come. */
static void any_order(void)
{
	for (int last = 0; last < 6; last++) {
		int err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		struct vu_vring_addr addr;

		bed_open(&b, false);
		fe_connect(&f, &b);
		fe_hello(&f, FE_RING_FEATURES | BIT30, FE_ALL_PROTOCOL);
		CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_ERR, 0, err), 0);
		fe_ring_new(&f, 0, 8);
		addr = fe_ring_addr(&f, 0);
		for (int k = 1; k <= 6; k++) {
			CHECK(!sl_queue_running(b.dev, 0));
			switch ((last + k) % 6) {
			case 0:
				CHECK_EQ(fe_set_memory(&f), 0);
				break;
			case 1:
				CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, 0, 8), 0);
				break;
			case 2:
				CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
				break;
			case 3:
				CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, 0, f.ring[0].kick), 0);
				break;
			case 4:
				CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
				break;
			default: /* call descriptors have no part in starting */
				CHECK_EQ(fe_set_state(&f, VU_SET_VRING_BASE, 0, 0), 0);
				CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, 0, f.ring[0].call), 0);
				break;
			}
			if (last == 5 && k == 5)
				break; /* everything but base and call is said: it runs */
		}
		CHECK(sl_queue_running(b.dev, 0));
		CHECK(fe_echo(&f, 0));
		CHECK(!was_called(err)); /* not started too early, nor twice */
		close(err);
		down();
	}
}

/* demand: buffers that are there when a ring is enabled are processed without another kick */
static void buffers_before_enable(void)
{
	begin(FE_RING_FEATURES | BIT30);
	fe_ring_new(&f, 0, 8);
	CHECK_EQ(fe_ring_send(&f, 0, 0), 0);
	CHECK(fe_offer_quietly(&f, 0, 64) != NULL);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
	CHECK(fe_done(&f, 0) != NULL);
	down();
}

/* Disabling drains: its acknowledgement comes after the last request is done, and nothing is taken afterwards. */
static void disable_drains(bool threaded, bool packed)
{
	struct vu_vring_state off = {0, 0};
	struct vu_msg m;
	struct fe other;

	bed_open(&b, threaded);
	fe_up(&f, &b, packed);
	b.hold = true;
	fe_offer(&f, 0, 64);
	CHECK(bed_wait(&b, &b.served, 1));
	fe_send(&f, VU_SET_VRING_ENABLE, VU_NEED_REPLY, &off, sizeof(off), NULL, 0);
	fe_send(&f, VU_GET_FEATURES, 0, NULL, 0, NULL, 0); /* not looked at meanwhile */
	CHECK(fe_idle(&f, 0));
	CHECK_EQ(recv(f.sock, &m, 1, MSG_PEEK | MSG_DONTWAIT), -1);
	/* the slot is taken, but the backlog is open */
	fe_connect(&other, &b);
	fe_close(&other);
	fe_offer(&f, 0, 64);
	bed_release(&b);
	CHECK_EQ(fe_recv(&f, &m), 0);
	CHECK_EQ(m.h.request, VU_SET_VRING_ENABLE);
	CHECK_EQ(m.p.u64, 0);
	CHECK_EQ(fe_recv(&f, &m), 0);
	CHECK_EQ(m.h.request, VU_GET_FEATURES);
	CHECK(fe_done(&f, 0) != NULL);
	CHECK(fe_idle(&f, 0));
	CHECK_EQ(b.served, 1);
	CHECK(fe_echo(&f, 1));
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
	CHECK(fe_done(&f, 0) != NULL); /* the second request */
	CHECK(fe_echo(&f, 0));
	down();
}

static void disable_drains_split(void)
{
	disable_drains(false, false);
}

static void disable_drains_packed_threaded(void)
{
	disable_drains(true, true);
}

static void get_base_drains(bool threaded, bool packed)
{
	struct vu_vring_state st = {0, 0};
	struct vu_msg m;
	uint8_t *data;

	bed_open(&b, threaded);
	fe_up(&f, &b, packed);
	CHECK(fe_echo(&f, 0));
	b.hold = true;
	data = fe_offer(&f, 0, 64);
	CHECK(bed_wait(&b, &b.served, 2));
	fe_send(&f, VU_GET_VRING_BASE, 0, &st, sizeof(st), NULL, 0);
	CHECK(fe_idle(&f, 0));
	bed_release(&b);
	CHECK_EQ(fe_recv(&f, &m), 0);
	CHECK_EQ(m.h.request, VU_GET_VRING_BASE);
	CHECK_EQ(m.p.state.index, 0);
	/* two descriptors a request: the packed index counts descriptors, the split one chains */
	CHECK_EQ(m.p.state.num, packed ? 0x80048004 : 2);
	CHECK(fe_done(&f, 0) == data);

	/* a kick that was on its way must not start it again */
	eventfd_write(f.ring[0].kick, 1);
	fe_offer_quietly(&f, 0, 64);
	CHECK(fe_idle(&f, 0));
	CHECK(!sl_queue_running(b.dev, 0));
	CHECK_EQ(fe_get_base(&f, 0), m.p.state.num); /* asking again changes nothing */
	/* the next kick descriptor does; enabled it still is */
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_BASE, 0, m.p.state.num), 0);
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, 0, f.ring[0].kick), 0);
	CHECK(fe_done(&f, 0) != NULL);
	CHECK(fe_echo(&f, 0));
	CHECK(fe_echo(&f, 1));
	down();
}

static void get_base_drains_split(void)
{
	get_base_drains(false, false);
}

static void get_base_drains_packed(void)
{
	get_base_drains(false, true);
}

static void get_base_drains_threaded(void)
{
	get_base_drains(true, false);
}

/* A packed ring stopped after every number of requests, over several laps, goes on where it was. */
static void packed_base_of_every_lap(void)
{
	begin(FE_RING_FEATURES | BIT30 | PACKED);
	fe_ring_up(&f, 0, 8);
	for (int i = 0; i < 40; i++) {
		uint32_t base;

		CHECK(fe_echo(&f, 0));
		base = fe_get_base(&f, 0);
		CHECK(base != UINT32_MAX);
		CHECK_EQ(fe_ring_send(&f, 0, base), 0);
	}
	down();
}

static void base_of_a_ring_that_never_ran(void)
{
	begin(FE_RING_FEATURES | BIT30);
	CHECK_EQ(fe_get_base(&f, 1), 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_BASE, 1, 1234), 0);
	CHECK_EQ(fe_get_base(&f, 1), 1234);
	down();
}

static void changes_while_running(void)
{
	int err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct vu_vring_addr addr;

	begin(FE_RING_FEATURES | BIT30);
	fe_ring_up(&f, 0, 8);
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_ERR, 0, err), 0);
	addr = fe_ring_addr(&f, 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, 0, 16), 1);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, 0, 8), 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_BASE, 0, 3), 1);
	CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
	addr.desc += 16;
	CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 1);
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, BIT30), 1);
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, FE_RING_FEATURES | BIT30), 0);
	CHECK(fe_echo(&f, 0));
	/* other descriptors */
	close(f.ring[0].kick);
	f.ring[0].kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, 0, f.ring[0].kick), 0);
	close(f.ring[0].call);
	f.ring[0].call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, 0, f.ring[0].call), 0);
	CHECK(fe_echo(&f, 0));
	CHECK(!was_called(err));
	close(err);
	down();
}

static void calls(void)
{
	int first, second = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	begin(FE_RING_FEATURES | BIT30);
	fe_ring_up(&f, 0, 8);
	first = f.ring[0].call;
	was_called(first);
	sl_dq_rearm(f.ring[0].dq);
	CHECK(fe_echo(&f, 0));
	CHECK(was_called(first));
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, 0, second), 0);
	sl_dq_rearm(f.ring[0].dq);
	CHECK(fe_echo(&f, 0));
	CHECK(!was_called(first));
	CHECK(was_called(second));
	/* nobody to call, then somebody again: what was missed is made up for */
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, 0, -1), 0);
	sl_dq_rearm(f.ring[0].dq);
	CHECK(fe_echo(&f, 0));
	CHECK(!was_called(second));
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, 0, second), 0);
	CHECK(was_called(second));
	close(second);
	down();
}

/* Without a kick descriptor and without in-band kicks the ring is looked at by itself. */
static void polled_ring(void)
{
	begin(FE_RING_FEATURES | BIT30);
	fe_ring_new(&f, 0, 8);
	CHECK_EQ(fe_ring_send(&f, 0, 0), 0);
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, 0, -1), 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
	for (int i = 0; i < 5; i++) {
		bed_run(&b);
		CHECK(fe_offer_quietly(&f, 0, 32) != NULL);
		CHECK(fe_done(&f, 0) != NULL);
	}
	/* from polled to kicked and back while it runs */
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, 0, f.ring[0].kick), 0);
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, 0, -1), 0);
	bed_run(&b);
	CHECK(fe_offer_quietly(&f, 0, 32) != NULL);
	CHECK(fe_done(&f, 0) != NULL);
	/* disabled, nothing is looked at any more */
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 0), 0);
	for (int i = 0; i < 5; i++)
		sl_loop_step(b.loop, 2);
	CHECK(!sl_loop_step(b.loop, 5));
	down();
}

/* ---- a ring that fails ---- */

static void bad_addresses(void)
{
	struct vu_vring_addr good, addr;
	int err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	static const uint64_t bad[] = {0, 0x1000, UINT64_MAX, UINT64_MAX - 4095, 0x7f1234000000 + GUEST_SIZE,
				       0x7f1234000000 + GUEST_SIZE - 64, 0x7f1234000000 + 1};

	begin(FE_RING_FEATURES | BIT30);
	fe_ring_up(&f, 1, 8);
	fe_ring_new(&f, 0, 256);
	good = fe_ring_addr(&f, 0);
	CHECK_EQ(fe_ring_send(&f, 0, 0), 0);
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_ERR, 0, err), 0);
	for (size_t i = 0; i < 3 * sizeof(bad) / sizeof(bad[0]); i++) {
		addr = good;
		*(i % 3 == 0 ? &addr.desc : i % 3 == 1 ? &addr.avail : &addr.used) = bad[i / 3];
		CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
		bed_run(&b);
		CHECK(!sl_queue_running(b.dev, 0));
		CHECK(was_called(err));
		CHECK(fe_echo(&f, 1));
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 0), 0);
	}
	CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &good, sizeof(good), NULL, 0), 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
	CHECK(fe_echo(&f, 0));
	close(err);
	down();
}

/* A ring that breaks: reported once, the sibling goes on, a stop and a fresh start bring it back. */
static void broken_ring(void)
{
	int err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	begin(FE_RING_FEATURES | BIT30);
	fe_ring_up(&f, 0, 8);
	fe_ring_up(&f, 1, 8);
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_ERR, 0, err), 0);
	CHECK(fe_echo(&f, 0));
	/* the available index jumps by more than there are entries */
	memcpy(f.g.mem + GUEST_RING(0) + f.ring[0].layout.driver + 2, "\xf0\x0f", 2);
	eventfd_write(f.ring[0].kick, 1);
	for (int i = 0; i < 100 && !was_called(err); i++)
		bed_run(&b);
	CHECK(sl_device_status(b.dev) & SL_STATUS_NEEDS_RESET);
	CHECK(fe_echo(&f, 1));
	/* it stays so, whatever else changes */
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 0), 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
	CHECK(!sl_queue_running(b.dev, 0));
	CHECK_EQ(fe_get_base(&f, 0), 1);
	fe_ring_up(&f, 0, 8);
	CHECK(fe_echo(&f, 0));
	close(err);
	down();
}

/* ---- in-band notifications ---- */

static void inband(void)
{
	struct vu_vring_addr addr;
	struct vu_vring_state ring = {1, 0};
	struct vu_msg m;

	bed_open(&b, false);
	fe_connect(&f, &b);
	fe_hello(&f, FE_RING_FEATURES | BIT30, FE_ALL_PROTOCOL | 1ULL << VU_F_INBAND_NOTIFICATIONS);
	CHECK_EQ(fe_set_memory(&f), 0);
	fe_open_channel(&f);
	fe_ring_new(&f, 1, 8);
	addr = fe_ring_addr(&f, 1);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, 1, 8), 0);
	CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 1, 1), 0);
	for (int i = 0; i < 3; i++) {
		bed_run(&b);
		sl_dq_rearm(f.ring[1].dq);
		CHECK(fe_offer_quietly(&f, 1, 64) != NULL);
		CHECK(fe_idle(&f, 1));
		CHECK_EQ(fe_set(&f, VU_VRING_KICK, &ring, sizeof(ring), NULL, 0), 0);
		CHECK(fe_done(&f, 1) != NULL);
		CHECK(fe_told_once(&f, VU_BACKEND_VRING_CALL, 1));
		sl_device_config_update(b.dev, 0, i % 2 ? "a" : "b", 1);
		CHECK(fe_told_once(&f, VU_BACKEND_CONFIG_CHANGE_MSG, 0)); /* and the call is not told again */
	}
	/* stopped, an in-band kick starts it again: it cannot be an old one */
	CHECK_EQ(fe_get_base(&f, 1), 3);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_BASE, 1, 3), 0);
	CHECK(!sl_queue_running(b.dev, 1));
	CHECK_EQ(fe_set(&f, VU_VRING_KICK, &ring, sizeof(ring), NULL, 0), 0);
	CHECK(sl_queue_running(b.dev, 1));
	/* broken: told in-band too */
	memcpy(f.g.mem + GUEST_RING(1) + f.ring[1].layout.driver + 2, "\xf0\x0f", 2);
	CHECK_EQ(fe_set(&f, VU_VRING_KICK, &ring, sizeof(ring), NULL, 0), 0);
	bed_run(&b);
	do
		CHECK_EQ(vu_recv_wait(f.channel, &m, 1000), 0);
	while (m.h.request == VU_BACKEND_VRING_CALL || m.h.request == VU_BACKEND_CONFIG_CHANGE_MSG);
	CHECK_EQ(m.h.request, VU_BACKEND_VRING_ERR);
	CHECK_EQ(m.p.state.index, 1);
	bed_run(&b);
	while (!vu_recv_wait(f.channel, &m, 0))
		CHECK(m.h.request != VU_BACKEND_VRING_ERR);
	sl_device_config_update(b.dev, 0, "z", 1);
	CHECK(fe_told_once(&f, VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	/* so is one that cannot start */
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, 0, 8), 0);
	addr.index = 0;
	addr.desc = 0;
	CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
	CHECK(fe_told_once(&f, VU_BACKEND_VRING_ERR, 0));
	ring.index = BED_QUEUES;
	CHECK_EQ(fe_set(&f, VU_VRING_KICK, &ring, sizeof(ring), NULL, 0), 1);
	down();
}

/* The calls of a ring on another thread cross over to the connection's loop. */
static void inband_threaded(void)
{
	struct vu_msg m;
	struct vu_rx rx = {0};
	unsigned int called = 0;

	bed_open(&b, true);
	fe_connect(&f, &b);
	fe_hello(&f, FE_RING_FEATURES | BIT30, FE_ALL_PROTOCOL | 1ULL << VU_F_INBAND_NOTIFICATIONS);
	CHECK_EQ(fe_set_memory(&f), 0);
	fe_open_channel(&f);
	for (unsigned int i = 0; i < 2; i++) {
		fe_ring_up(&f, i, 8);
		CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, i, -1), 0);
	}
	for (int i = 0; i < 200; i++) {
		sl_dq_rearm(f.ring[i % 2].dq);
		CHECK(fe_echo(&f, (unsigned int)i % 2));
		while (vu_recv(f.channel, &rx, &m) == 1)
			called++;
	}
	for (uint64_t until = sl_now() + 30000000000ull; !called && sl_now() < until;) {
		sl_loop_step(b.loop, 1);
		called += vu_recv(f.channel, &rx, &m) == 1;
	}
	CHECK(called > 0);
	fe_hangup(&f); /* with calls possibly on their way */
	CHECK(bed_wait(&b, &b.gone, 1));
	down();
}

static const struct t_case cases[] = {
	{"disabled_until_enabled", disabled_until_enabled},
	{"without_bit30_enabled", without_bit30_enabled},
	{"dropping_bit30_enables", dropping_bit30_enables},
	{"enable_first", enable_first},
	{"any_order", any_order},
	{"buffers_before_enable", buffers_before_enable},
	{"disable_drains_split", disable_drains_split},
	{"disable_drains_packed_threaded", disable_drains_packed_threaded},
	{"get_base_drains_split", get_base_drains_split},
	{"get_base_drains_packed", get_base_drains_packed},
	{"get_base_drains_threaded", get_base_drains_threaded},
	{"packed_base_of_every_lap", packed_base_of_every_lap},
	{"base_of_a_ring_that_never_ran", base_of_a_ring_that_never_ran},
	{"changes_while_running", changes_while_running},
	{"calls", calls},
	{"polled_ring", polled_ring},
	{"bad_addresses", bad_addresses},
	{"broken_ring", broken_ring},
	{"inband", inband},
	{"inband_threaded", inband_threaded},
};

T_MAIN(cases)
