/* SPDX-License-Identifier: MIT */
/* server_test.c - the vhost-user server as an honest front-end meets it
 *
 * More than 800 lines: a flat list of cases, none of which knows another.
 */
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "bed.h"
#include "t.h"

#define BIT30 (1ULL << SL_F_PROTOCOL_FEATURES)
#define LOG_ALL (1ULL << SL_F_LOG_ALL)
#define PACKED (1ULL << SL_F_RING_PACKED)

static struct bed b;
static struct fe f;

static void down(void)
{
	fe_close(&f);
	bed_close(&b);
}

/* ---- negotiation ---- */

static void hello(void)
{
	struct vu_msg m;
	uint64_t features, protocol;

	bed_open(&b, false);
	fe_connect(&f, &b);
	features = fe_get_u64(&f, VU_GET_FEATURES);
	CHECK(features & BIT30 && features & LOG_ALL && features & PACKED);
	CHECK(!(features >> SL_F_ACCESS_PLATFORM & 1));
	protocol = fe_get_u64(&f, VU_GET_PROTOCOL_FEATURES);
	CHECK_EQ(protocol, FE_ALL_PROTOCOL | 1ULL << VU_F_INBAND_NOTIFICATIONS);
	fe_hello(&f, FE_RING_FEATURES | BIT30, FE_ALL_PROTOCOL);
	CHECK_EQ(fe_get_u64(&f, VU_GET_QUEUE_NUM), BED_QUEUES);
	CHECK(fe_get_u64(&f, VU_GET_MAX_MEM_SLOTS) >= 256);
	CHECK_EQ(fe_set(&f, VU_SET_OWNER, NULL, 0, NULL, 0), 0);
	CHECK_EQ(fe_set(&f, VU_RESET_OWNER, NULL, 0, NULL, 0), 0);
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, 1ULL << 63), 1);
	CHECK_EQ(fe_set_u64(&f, VU_SET_PROTOCOL_FEATURES, 1ULL << VU_F_PAGEFAULT), 1);
	/* need_reply on a message with an answer of its own: one answer only */
	CHECK_EQ(fe_send(&f, VU_GET_FEATURES, VU_NEED_REPLY, NULL, 0, NULL, 0), 0);
	CHECK_EQ(fe_recv(&f, &m), 0);
	CHECK_EQ(m.p.u64, features);
	CHECK_EQ(fe_get_u64(&f, VU_GET_FEATURES), features);
	down();
}

/* What cannot be told with an acknowledgement ends the connection. */
static void refusal_without_ack(void)
{
	bed_open(&b, false);
	fe_connect(&f, &b);
	fe_hello(&f, FE_RING_FEATURES | BIT30, FE_ALL_PROTOCOL & ~(1ULL << VU_F_REPLY_ACK));
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, 1ULL << 63), -1);
	CHECK(bed_wait(&b, &b.gone, 1));
	fe_close(&f);
	/* need_reply before REPLY_ACK is negotiated means nothing */
	fe_connect(&f, &b);
	CHECK_EQ(fe_send(&f, VU_SET_OWNER, VU_NEED_REPLY, NULL, 0, NULL, 0), 0);
	CHECK_EQ(fe_get_u64(&f, VU_GET_PROTOCOL_FEATURES), FE_ALL_PROTOCOL | 1ULL << VU_F_INBAND_NOTIFICATIONS);
	down();
}

static void inband_alone_closes(void)
{
	static const uint64_t bad[] = {1ULL << VU_F_INBAND_NOTIFICATIONS,
				       1ULL << VU_F_INBAND_NOTIFICATIONS | 1ULL << VU_F_REPLY_ACK,
				       1ULL << VU_F_INBAND_NOTIFICATIONS | 1ULL << VU_F_BACKEND_REQ};

	bed_open(&b, false);
	for (int i = 0; i < 3; i++) {
		fe_connect(&f, &b);
		CHECK_EQ(fe_set_u64(&f, VU_SET_PROTOCOL_FEATURES, bad[i]), -1);
		fe_close(&f);
	}
	bed_close(&b);
}

/* ---- requests ---- */

static void echo(bool packed, bool threaded)
{
	bed_open(&b, threaded);
	fe_up(&f, &b, packed);
	for (int i = 0; i < 200; i++)
		CHECK(fe_echo(&f, (unsigned int)i % 2));
	down();
}

static void echo_split(void)
{
	echo(false, false);
}

static void echo_packed(void)
{
	echo(true, false);
}

static void echo_split_threaded(void)
{
	echo(false, true);
}

static void echo_packed_threaded(void)
{
	echo(true, true);
}

/* ---- ring states ---- */

static void begin(uint64_t features)
{
	bed_open(&b, false);
	fe_connect(&f, &b);
	fe_hello(&f, features, FE_ALL_PROTOCOL);
	CHECK_EQ(fe_set_memory(&f), 0);
}

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

/* Each of the things a ring needs may be the last one to come. */
static void any_order(void)
{
	for (int last = 0; last < 6; last++) {
		struct vu_vring_addr addr;

		bed_open(&b, false);
		fe_connect(&f, &b);
		fe_hello(&f, FE_RING_FEATURES | BIT30, FE_ALL_PROTOCOL);
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
	struct vu_vring_addr addr;

	begin(FE_RING_FEATURES | BIT30);
	fe_ring_up(&f, 0, 8);
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
	down();
}

static bool was_called(int fd)
{
	uint64_t n;

	return read(fd, &n, sizeof(n)) == sizeof(n);
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

/* ---- configuration, status, reset ---- */

static int get_config(uint32_t off, uint32_t size, struct vu_msg *m)
{
	struct vu_config c = {.offset = off, .size = size};

	return fe_get(&f, VU_GET_CONFIG, &c, VU_CONFIG_HEAD + size, m);
}

static int set_config(uint32_t off, uint32_t size, uint32_t flags, const char *data)
{
	struct vu_config c = {.offset = off, .size = size, .flags = flags};

	memcpy(c.data, data, size);
	return fe_set(&f, VU_SET_CONFIG, &c, VU_CONFIG_HEAD + size, NULL, 0);
}

static void config(void)
{
	struct vu_msg m;

	begin(FE_RING_FEATURES | BIT30);
	for (uint32_t size = 0; size <= 20; size++) { /* User-mode Linux: from 0, growing */
		CHECK_EQ(get_config(0, size, &m), 0);
		CHECK_EQ(m.p.config.size, size);
		CHECK(!memcmp(m.p.config.data, "0123456789abcdef\0\0\0", size < 19 ? size : 19));
	}
	CHECK_EQ(get_config(10, 6, &m), 0);
	CHECK(!memcmp(m.p.config.data, "abcdef", 6));
	CHECK_EQ(get_config(UINT32_MAX, 4, &m), 0);
	CHECK(!memcmp(m.p.config.data, "\0\0\0\0", 4));
	CHECK_EQ(get_config(0, VU_MAX_CONFIG, &m), 0);

	CHECK_EQ(set_config(4, 2, VU_CONFIG_WRITABLE, "XY"), 0);
	CHECK_EQ(b.config_writes, 1);
	CHECK_EQ(set_config(3, 2, VU_CONFIG_WRITABLE, "XY"), 1);
	CHECK_EQ(set_config(15, 2, VU_CONFIG_WRITABLE, "XY"), 1);
	CHECK_EQ(set_config(UINT32_MAX, 2, VU_CONFIG_WRITABLE, "XY"), 1);
	CHECK_EQ(set_config(4, 2, 2, "XY"), 1);
	CHECK_EQ(b.config_writes, 1);
	CHECK_EQ(get_config(3, 4, &m), 0);
	CHECK(!memcmp(m.p.config.data, "3XY6", 4));
	down();
}

static void open_channel(void)
{
	int sv[2];

	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
	CHECK_EQ(fe_set(&f, VU_SET_BACKEND_REQ_FD, NULL, 0, &sv[1], 1), 0);
	close(sv[1]);
	if (f.channel >= 0)
		close(f.channel);
	f.channel = sv[0];
}

/* Is exactly one request waiting in the channel, and is it this one? */
static bool told_once(uint32_t request, uint32_t index)
{
	struct vu_rx rx = {0};
	struct vu_msg m;

	bed_run(&b);
	return vu_recv(f.channel, &rx, &m) == 1 && m.h.request == request && m.h.flags == VU_VERSION &&
	       (!m.h.size || (m.h.size == sizeof(m.p.state) && m.p.state.index == index)) &&
	       vu_recv(f.channel, &rx, &m) == -EAGAIN;
}

static void config_change(void)
{
	unsigned int fds;

	begin(FE_RING_FEATURES | BIT30);
	sl_device_config_update(b.dev, 0, "z", 1); /* no channel yet: owed */
	open_channel();
	CHECK(told_once(VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	sl_device_config_update(b.dev, 0, "y", 1);
	CHECK(told_once(VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	/* closed by the front-end: noticed with the next change, which then goes to the next channel */
	fds = count_fds();
	close(f.channel);
	f.channel = -1;
	sl_device_config_update(b.dev, 0, "d", 1);
	CHECK_EQ(count_fds(), fds - 2);
	CHECK(fe_alive(&f));
	open_channel();
	CHECK(told_once(VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	open_channel(); /* replaced */
	CHECK_EQ(count_fds(), fds);
	sl_device_config_update(b.dev, 0, "f", 1);
	CHECK(told_once(VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	down();
}

/* A front-end that does not read its channel costs nothing, and hears of the last change when it reads again. */
static void channel_not_read(void)
{
	struct vu_msg m;
	struct vu_rx rx = {0};
	unsigned int told = 0;

	begin(FE_RING_FEATURES | BIT30);
	open_channel();
	for (int i = 0; i < 5000; i++)
		sl_device_config_update(b.dev, 0, i % 2 ? "a" : "b", 1);
	bed_run(&b);
	CHECK(!sl_loop_step(b.loop, 0)); /* it waits, it does not spin */
	while (vu_recv(f.channel, &rx, &m) == 1)
		told++;
	CHECK(told > 10 && told < 5000);
	CHECK(told_once(VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	CHECK(!sl_loop_step(b.loop, 0));
	sl_device_config_update(b.dev, 0, "c", 1);
	CHECK(told_once(VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	/* gone while full */
	for (int i = 0; i < 5000; i++)
		sl_device_config_update(b.dev, 0, i % 2 ? "a" : "b", 1);
	close(f.channel);
	f.channel = -1;
	bed_run(&b);
	CHECK(!sl_loop_step(b.loop, 0));
	CHECK(fe_alive(&f));
	/* nothing of it is told to the next front-end */
	sl_device_config_update(b.dev, 0, "g", 1);
	fe_close(&f);
	CHECK(bed_wait(&b, &b.gone, 1));
	fe_connect(&f, &b);
	fe_hello(&f, FE_RING_FEATURES | BIT30, FE_ALL_PROTOCOL);
	open_channel();
	CHECK(!told_once(VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	down();
}

static void status(void)
{
	begin(FE_RING_FEATURES | BIT30);
	CHECK_EQ(fe_get_u64(&f, VU_GET_STATUS), 0);
	CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, SL_STATUS_FEATURES_OK), 0); /* QEMU's order */
	CHECK_EQ(fe_get_u64(&f, VU_GET_STATUS), SL_STATUS_FEATURES_OK);
	CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 15), 0);
	CHECK_EQ(fe_get_u64(&f, VU_GET_STATUS), 15);
	CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 256), 1);
	fe_ring_up(&f, 0, 8);
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 0), 0);
	CHECK_EQ(fe_get_u64(&f, VU_GET_STATUS), 0);
	CHECK_EQ(b.resets, 1);
	CHECK(!sl_queue_running(b.dev, 0));
	/* the driver's part starts anew on the same connection and memory */
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, FE_RING_FEATURES | BIT30), 0);
	fe_ring_up(&f, 0, 8);
	CHECK(fe_echo(&f, 0));
	down();
}

static void reset_in_flight(bool threaded, bool by_status)
{
	uint64_t zero = 0;
	struct vu_msg m;

	bed_open(&b, threaded);
	fe_up(&f, &b, false);
	b.hold = true;
	fe_offer(&f, 0, 64);
	fe_offer(&f, 1, 64);
	CHECK(bed_wait(&b, &b.served, 2));
	if (by_status)
		fe_send(&f, VU_SET_STATUS, VU_NEED_REPLY, &zero, sizeof(zero), NULL, 0);
	else
		fe_send(&f, VU_RESET_DEVICE, VU_NEED_REPLY, NULL, 0, NULL, 0);
	CHECK(fe_idle(&f, 0));
	CHECK_EQ(recv(f.sock, &m, 1, MSG_PEEK | MSG_DONTWAIT), -1);
	CHECK_EQ(b.resets, 0);
	bed_release(&b);
	CHECK_EQ(fe_recv(&f, &m), 0);
	CHECK_EQ(m.p.u64, 0);
	CHECK_EQ(b.resets, 1);
	/* nothing touches the rings any more: a new life may begin in the same memory */
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, FE_RING_FEATURES | BIT30), 0);
	fe_ring_up(&f, 0, 8);
	fe_ring_up(&f, 1, 8);
	CHECK(fe_echo(&f, 0));
	CHECK(fe_echo(&f, 1));
	down();
}

static void reset_device_in_flight(void)
{
	reset_in_flight(false, false);
}

static void reset_device_in_flight_threaded(void)
{
	reset_in_flight(true, false);
}

static void status_zero_in_flight(void)
{
	reset_in_flight(false, true);
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
	open_channel();
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
		CHECK(told_once(VU_BACKEND_VRING_CALL, 1));
	}
	/* stopped, an in-band kick starts it again: it cannot be an old one */
	CHECK_EQ(fe_get_base(&f, 1), 3);
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
	open_channel();
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
	for (int i = 0; i < 1000 && !called; i++) {
		sl_loop_step(b.loop, 1);
		called += vu_recv(f.channel, &rx, &m) == 1;
	}
	CHECK(called > 0);
	fe_hangup(&f); /* with calls possibly on their way */
	CHECK(bed_wait(&b, &b.gone, 1));
	down();
}

/* ---- memory ---- */

static void memory_slots(void)
{
	struct vu_mem_reg lo, hi;
	uint32_t base;

	bed_open(&b, false);
	fe_connect(&f, &b);
	fe_hello(&f, FE_RING_FEATURES | BIT30, FE_ALL_PROTOCOL);
	lo = (struct vu_mem_reg){.region = {f.g.gpa, 0x100000, f.g.uva, 0}};
	/* the data, with other user addresses than its neighbour's */
	hi = (struct vu_mem_reg){.region = {f.g.gpa + 0x100000, 0x300000, 0x5500000000, 0x100000}};
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &lo, sizeof(lo), &f.g.fd, 1), 0);
	fe_ring_up(&f, 0, 8);
	CHECK(sl_queue_running(b.dev, 0));
	/* more memory under a running ring */
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &hi, sizeof(hi), &f.g.fd, 1), 0);
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &hi, sizeof(hi), &f.g.fd, 1), 1);
	hi.region.gpa += 4096;
	CHECK_EQ(fe_set(&f, VU_REM_MEM_REG, &hi, sizeof(hi), NULL, 0), 1);
	hi.region.gpa -= 4096;
	hi.region.mmap_offset = 12345; /* does not count, nor does a descriptor */
	CHECK_EQ(fe_set(&f, VU_REM_MEM_REG, &hi, sizeof(hi), &f.g.fd, 1), 0);
	CHECK(sl_queue_running(b.dev, 0));
	CHECK_EQ(count_maps(), 2); /* ours, and the low region */
	/* the ring's own memory goes: the ring stops there, and goes on when the memory is back */
	CHECK_EQ(fe_set(&f, VU_REM_MEM_REG, &lo, sizeof(lo), NULL, 0), 0);
	CHECK(!sl_queue_running(b.dev, 0));
	CHECK_EQ(count_maps(), 1);
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &lo, sizeof(lo), &f.g.fd, 1), 0);
	hi.region.mmap_offset = 0x100000;
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &hi, sizeof(hi), &f.g.fd, 1), 0);
	CHECK(fe_echo(&f, 0));
	base = fe_get_base(&f, 0);
	CHECK_EQ(base, 2);
	down();
}

static void many_slots(void)
{
	unsigned int n;

	begin(FE_RING_FEATURES | BIT30);
	fe_ring_up(&f, 0, 8);
	for (n = 1; n < 512; n++) {
		struct vu_mem_reg r = {.region = {0x100000000 + n * 0x10000, 0x1000, 0x6600000000 + n * 0x10000, 0}};

		if (fe_set(&f, VU_ADD_MEM_REG, &r, sizeof(r), &f.g.fd, 1))
			break;
	}
	CHECK_EQ(n, 512);
	{
		struct vu_mem_reg r = {.region = {0x90000000, 0x1000, 0x90000000, 0}};

		CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &r, sizeof(r), &f.g.fd, 1), 1);
	}
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(fe_set_memory(&f), 0);
	CHECK_EQ(count_maps(), 2);
	CHECK(fe_echo(&f, 0));
	down();
}

/* Memory that a request in flight uses is not given back before that request is done. */
static void memory_in_flight(uint32_t request, bool threaded)
{
	struct vu_mem_reg reg;
	struct vu_mem_table none = {0};
	struct vu_msg m;

	bed_open(&b, threaded);
	fe_up(&f, &b, false);
	reg = (struct vu_mem_reg){.region = {f.g.gpa, GUEST_SIZE, f.g.uva, 0}};
	b.hold = true;
	fe_offer(&f, 0, 64);
	CHECK(bed_wait(&b, &b.served, 1));
	if (request == VU_REM_MEM_REG)
		fe_send(&f, request, VU_NEED_REPLY, &reg, sizeof(reg), NULL, 0);
	else
		fe_send(&f, request, VU_NEED_REPLY, &none, 8, NULL, 0);
	CHECK(fe_idle(&f, 0));
	CHECK_EQ(recv(f.sock, &m, 1, MSG_PEEK | MSG_DONTWAIT), -1);
	CHECK_EQ(count_maps(), 2);
	bed_release(&b);
	CHECK_EQ(fe_recv(&f, &m), 0);
	CHECK_EQ(m.p.u64, 0);
	CHECK_EQ(count_maps(), 1);
	CHECK(fe_done(&f, 0) != NULL);
	CHECK_EQ(fe_set_memory(&f), 0);
	CHECK(fe_echo(&f, 0));
	CHECK(fe_echo(&f, 1));
	down();
}

static void rem_mem_reg_in_flight(void)
{
	memory_in_flight(VU_REM_MEM_REG, false);
}

static void rem_mem_reg_in_flight_threaded(void)
{
	memory_in_flight(VU_REM_MEM_REG, true);
}

static void set_mem_table_in_flight(void)
{
	memory_in_flight(VU_SET_MEM_TABLE, false);
}

/* The same memory under other user addresses: rings are looked up anew. */
static void ring_addresses_follow_the_table(void)
{
	begin(FE_RING_FEATURES | BIT30);
	fe_ring_up(&f, 0, 8);
	CHECK(fe_echo(&f, 0));
	f.g.gpa = 0x80000000;
	CHECK_EQ(fe_set_memory(&f), 0);
	CHECK(fe_echo(&f, 0));
	f.g.uva = 0x7f9999000000;
	CHECK_EQ(fe_set_memory(&f), 0);
	CHECK(!sl_queue_running(b.dev, 0)); /* its addresses are nowhere now */
	{
		struct vu_vring_addr addr = fe_ring_addr(&f, 0);

		CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
	}
	CHECK(fe_echo(&f, 0));
	down();
}

/* ---- dirty log ---- */

#define LOG_BYTES 0x10000ULL /* pages up to 2 GiB */

static bool is_dirty(const uint8_t *log, uint64_t gpa)
{
	return log[gpa / 4096 / 8] >> (gpa / 4096 % 8) & 1;
}

static unsigned int dirty_pages(const uint8_t *log)
{
	unsigned int n = 0;

	for (size_t i = 0; i < LOG_BYTES; i++)
		n += (unsigned int)__builtin_popcount(log[i]);
	return n;
}

static void dirty_log(bool packed, bool threaded)
{
	struct vu_log lb = {LOG_BYTES, 4096};
	struct vu_vring_addr addr;
	struct vu_msg m;
	uint64_t features = FE_RING_FEATURES | BIT30 | (packed ? PACKED : 0), in_gpa, ring_gpa;
	int fd = memfd_create("log", MFD_CLOEXEC);
	uint8_t *log, *data;

	REQUIRE(fd >= 0 && !ftruncate(fd, LOG_BYTES + 4096));
	log = mmap(NULL, LOG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
	REQUIRE(log != MAP_FAILED);
	bed_open(&b, threaded);
	fe_up(&f, &b, packed);
	CHECK_EQ(fe_send(&f, VU_SET_LOG_BASE, 0, &lb, sizeof(lb), &fd, 1), 0);
	CHECK_EQ(fe_recv(&f, &m), 0);
	CHECK_EQ(m.h.request, VU_SET_LOG_BASE);
	CHECK_EQ(m.p.u64, 0);
	CHECK_EQ(fe_set(&f, VU_SET_LOG_FD, NULL, 0, &fd, 1), 0);
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(dirty_pages(log), 0); /* not before LOG_ALL */

	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, features | LOG_ALL), 0);
	data = fe_offer(&f, 0, 3000);
	in_gpa = f.g.gpa + (uint64_t)(data - f.g.mem) + 0x1000;
	CHECK(fe_done(&f, 0) == data);
	CHECK(is_dirty(log, in_gpa));
	CHECK_EQ(dirty_pages(log), 1); /* what the device wrote, not what it read, and not the ring */

	/* now the ring too, while it runs, under an address of the front-end's choice */
	addr = fe_ring_addr(&f, 0);
	addr.flags = VU_VRING_LOG;
	addr.log = f.g.gpa + GUEST_RING(0) + f.ring[0].layout.device;
	CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
	memset(log, 0, LOG_BYTES);
	CHECK(fe_echo(&f, 0));
	/* QEMU names the event area of a packed ring; what is written is the descriptor ring */
	ring_gpa = packed ? f.g.gpa + GUEST_RING(0) + f.ring[0].layout.desc : addr.log;
	CHECK(is_dirty(log, ring_gpa));
	CHECK(dirty_pages(log) >= 2);

	/* a ring that starts with logging on */
	memset(log, 0, LOG_BYTES);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 0), 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
	memset(log, 0, LOG_BYTES);
	CHECK(fe_echo(&f, 0));
	CHECK(is_dirty(log, ring_gpa));

	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, features), 0);
	memset(log, 0, LOG_BYTES);
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(dirty_pages(log), 0);
	down();
	munmap(log, LOG_BYTES);
	close(fd);
}

static void dirty_log_split(void)
{
	dirty_log(false, false);
}

static void dirty_log_packed(void)
{
	dirty_log(true, false);
}

static void dirty_log_threaded(void)
{
	dirty_log(false, true);
}

/* ---- inflight region ---- */

static void inflight_region(void)
{
	struct vu_inflight want = {.num_queues = BED_QUEUES, .queue_size = 16}, region;
	struct vu_msg m;
	int fd;

	begin(FE_RING_FEATURES | BIT30);
	for (uint32_t size = VU_INFLIGHT_MIN; size <= sizeof(want); size += 4) {
		struct stat st;

		REQUIRE(!fe_get(&f, VU_GET_INFLIGHT_FD, &want, size, &m));
		CHECK_EQ(m.h.size, size);
		region = m.p.inflight;
		CHECK_EQ(m.nfds, 1);
		CHECK(region.mmap_size >= BED_QUEUES * sl_inflight_size(false, 16));
		CHECK_EQ(region.mmap_size % (BED_QUEUES * 4096), 0);
		fd = vu_msg_take_fd(&m, 0);
		CHECK(!fstat(fd, &st) && (uint64_t)st.st_size == region.mmap_size);
		if (size == VU_INFLIGHT_MIN)
			close(fd);
	}
	CHECK_EQ(count_maps(), 2); /* nothing is kept of a region before it comes back */
	CHECK_EQ(fe_set(&f, VU_SET_INFLIGHT_FD, &region, sizeof(region), &fd, 1), 0);
	CHECK_EQ(count_maps(), 3);
	fe_ring_up(&f, 0, 16);
	fe_ring_up(&f, 1, 8);
	CHECK(fe_echo(&f, 0));
	CHECK(fe_echo(&f, 1));
	CHECK_EQ(fe_set(&f, VU_SET_INFLIGHT_FD, &region, sizeof(region), &fd, 1), 1); /* not under running rings */
	CHECK(fe_get_base(&f, 0) != UINT32_MAX);
	/* a ring larger than its part does not start */
	fe_ring_new(&f, 0, 32);
	CHECK_EQ(fe_ring_send(&f, 0, 0), 0);
	CHECK(!sl_queue_running(b.dev, 0));
	CHECK(fe_echo(&f, 1));
	close(fd);
	down();
}

/* A back-end that ends with requests unfinished; the next one finishes each of them once. */
static void inflight_resume(bool packed)
{
	struct vu_inflight want = {.num_queues = BED_QUEUES, .queue_size = 16}, region;
	struct bed first, second;
	struct vu_msg m;
	uint8_t *data[6], *done;
	unsigned int seen[6] = {0};
	int fd;

	/* The first one keeps its requests for good: seen from the ring it is as good as killed. */
	bed_open(&first, false);
	fe_connect(&f, &first);
	fe_hello(&f, FE_RING_FEATURES | BIT30 | (packed ? PACKED : 0), FE_ALL_PROTOCOL);
	CHECK_EQ(fe_set_memory(&f), 0);
	REQUIRE(!fe_get(&f, VU_GET_INFLIGHT_FD, &want, sizeof(want), &m) && m.nfds == 1);
	region = m.p.inflight;
	fd = vu_msg_take_fd(&m, 0);
	CHECK_EQ(fe_set(&f, VU_SET_INFLIGHT_FD, &region, sizeof(region), &fd, 1), 0);
	fe_ring_up(&f, 0, 16);
	CHECK(fe_echo(&f, 0));
	first.hold = true;
	for (int i = 0; i < 3; i++)
		data[i] = fe_offer(&f, 0, 256);
	CHECK(bed_wait(&first, &first.served, 4));
	for (int i = 3; i < 6; i++)
		data[i] = fe_offer_quietly(&f, 0, 256); /* never seen by the first one */

	bed_open(&second, false);
	{
		struct fe again = f;
		struct sockaddr_un sun = {.sun_family = AF_UNIX};

		strcpy(sun.sun_path, second.path);
		again.b = &second;
		again.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		REQUIRE(!connect(again.sock, (struct sockaddr *)&sun, sizeof(sun)));
		fe_hello(&again, f.features, f.protocol);
		CHECK_EQ(fe_set_memory(&again), 0);
		CHECK_EQ(fe_set(&again, VU_SET_INFLIGHT_FD, &region, sizeof(region), &fd, 1), 0);
		/* where the ring's used index stands, as QEMU finds it after a lost connection */
		CHECK_EQ(fe_ring_send(&again, 0, packed ? 0x80028002 : 1), 0);
		CHECK_EQ(fe_set_state(&again, VU_SET_VRING_ENABLE, 0, 1), 0);
		for (int i = 0; i < 6; i++) {
			done = fe_done(&again, 0);
			CHECK(done != NULL);
			for (int k = 0; k < 6; k++)
				seen[k] += done == data[k];
		}
		CHECK(fe_idle(&again, 0));
		CHECK_EQ(second.served, 6);
		CHECK(fe_echo(&again, 0));
		fe_hangup(&again);
		bed_run(&second);
	}
	for (int k = 0; k < 6; k++) {
		CHECK_EQ(seen[k], 1);
		CHECK(!memcmp(data[k], data[k] + 0x1000, 256));
	}
	close(fd);
	bed_close(&second);
	bed_release(&first);
	fe_close(&f);
	bed_close(&first);
}

static void inflight_resume_split(void)
{
	inflight_resume(false);
}

static void inflight_resume_packed(void)
{
	inflight_resume(true);
}

static const struct t_case cases[] = {
	{"hello", hello},
	{"refusal_without_ack", refusal_without_ack},
	{"inband_alone_closes", inband_alone_closes},
	{"echo_split", echo_split},
	{"echo_packed", echo_packed},
	{"echo_split_threaded", echo_split_threaded},
	{"echo_packed_threaded", echo_packed_threaded},
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
	{"config", config},
	{"config_change", config_change},
	{"channel_not_read", channel_not_read},
	{"status", status},
	{"reset_device_in_flight", reset_device_in_flight},
	{"reset_device_in_flight_threaded", reset_device_in_flight_threaded},
	{"status_zero_in_flight", status_zero_in_flight},
	{"inband", inband},
	{"inband_threaded", inband_threaded},
	{"memory_slots", memory_slots},
	{"many_slots", many_slots},
	{"rem_mem_reg_in_flight", rem_mem_reg_in_flight},
	{"rem_mem_reg_in_flight_threaded", rem_mem_reg_in_flight_threaded},
	{"set_mem_table_in_flight", set_mem_table_in_flight},
	{"ring_addresses_follow_the_table", ring_addresses_follow_the_table},
	{"dirty_log_split", dirty_log_split},
	{"dirty_log_packed", dirty_log_packed},
	{"dirty_log_threaded", dirty_log_threaded},
	{"inflight_region", inflight_region},
	{"inflight_resume_split", inflight_resume_split},
	{"inflight_resume_packed", inflight_resume_packed},
};

T_MAIN(cases)
