/* SPDX-License-Identifier: MIT */
/* peers_test.c - vhost-user server: the habits of the front-ends there are */
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "case.h"

/* ---- sequences of messages, as these front-ends send them ---- */

/*
 * Linux's User-mode Linux: one region with gpa == uva == mmap offset, room for
 * two regions in the table, call before size and addresses, base always 0,
 * call descriptors that are sockets, a blocking kick eventfd, and for the end
 * just ENABLE(0) and hanging up.
 */
static void uml(bool packed)
{
	uint64_t features = FE_RING_FEATURES | (packed ? PACKED : 0);
	struct vu_mem_table table = {.n = 1};
	struct vu_vring_addr addr;
	int call[2], channel[2];

	bed_open(&b, false);
	for (int life = 0; life < 3; life++) {
		fe_connect(&f, &b);
		f.g.gpa = f.g.uva = 0x60000000 + (uint64_t)life * 0x1000000;
		f.features = features;
		f.packed = packed;
		CHECK_EQ(fe_set(&f, VU_SET_OWNER, NULL, 0, NULL, 0), 0);
		CHECK(fe_get_u64(&f, VU_GET_FEATURES) & BIT30);
		fe_get_u64(&f, VU_GET_PROTOCOL_FEATURES);
		CHECK_EQ(fe_set_u64(&f, VU_SET_PROTOCOL_FEATURES,
				    1ULL << VU_F_REPLY_ACK | 1ULL << VU_F_BACKEND_REQ | 1ULL << VU_F_CONFIG),
			 0);
		REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, channel));
		f.ack = true;
		CHECK_EQ(fe_set(&f, VU_SET_BACKEND_REQ_FD, NULL, 0, &channel[1], 1), 0);
		close(channel[1]);
		for (uint32_t n = 8; n <= BED_CONFIG_LEN + 8; n += 8) {
			struct vu_config c = {.size = n};
			struct vu_msg m;

			CHECK_EQ(fe_get(&f, VU_GET_CONFIG, &c, VU_CONFIG_HEAD + n, &m), 0);
		}
		CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, features | BIT30), 0);
		table.region[0] = (struct vu_region){f.g.gpa, GUEST_SIZE, f.g.uva, 0};
		CHECK_EQ(fe_set(&f, VU_SET_MEM_TABLE, &table, 8 + 2 * sizeof(struct vu_region), &f.g.fd, 1), 0);

		fe_ring_new(&f, 0, 16);
		fcntl(f.ring[0].kick, F_SETFL, 0);
		REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, call));
		CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, 0, call[1]), 0);
		close(call[1]);
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, 0, 16), 0);
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_BASE, 0, 0), 0);
		addr = fe_ring_addr(&f, 0);
		CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
		CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, 0, f.ring[0].kick), 0);
		if (life == 1) /* its network driver: a second SET_FEATURES without bit 30, and no ENABLE */
			CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, features), 0);
		else
			CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
		for (int i = 0; i < 50; i++) {
			uint64_t word;

			sl_dq_rearm(f.ring[0].dq);
			CHECK(fe_echo(&f, 0));
			CHECK(recv(call[0], &word, sizeof(word), MSG_DONTWAIT) == sizeof(word));
		}
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 0), 0);
		if (life == 0) { /* its driver was unloaded and loaded again: a new ring on the same connection */
			fe_ring_new(&f, 0, 16);
			CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, 0, 16), 0);
			CHECK_EQ(fe_set_state(&f, VU_SET_VRING_BASE, 0, 0), 0);
			CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
			CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, 0, f.ring[0].kick), 0);
			CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
			CHECK(fe_echo(&f, 0));
			CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 0), 0);
		}
		close(call[0]);
		close(channel[0]);
		fe_close(&f);
	}
	bed_close(&b);
}

static void uml_split(void)
{
	uml(false);
}

static void uml_packed(void)
{
	uml(true);
}

/* QEMU starts a device: features twice, inflight, memory slots, rings, ENABLE, status. */
static void qemu_start(uint16_t num, uint32_t base, const struct vu_inflight *region, int inflight_fd)
{
	uint64_t st;
	int err;

	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, f.features), 0);
	st = fe_get_u64(&f, VU_GET_STATUS);
	CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, st | SL_STATUS_FEATURES_OK), 0);
	CHECK(fe_get_u64(&f, VU_GET_STATUS) & SL_STATUS_FEATURES_OK);
	CHECK_EQ(fe_set(&f, VU_SET_INFLIGHT_FD, region, sizeof(*region), &inflight_fd, 1), 0);
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, f.features), 0);
	for (unsigned int i = 0; i < BED_QUEUES; i++) {
		struct vu_vring_addr addr;

		if (!base)
			fe_ring_new(&f, i, num);
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, i, num), 0);
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_BASE, i, base), 0);
		addr = fe_ring_addr(&f, i);
		CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
		CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, i, f.ring[i].kick), 0);
		err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_ERR, i, err), 0);
		close(err);
		CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, i, f.ring[i].call), 0);
	}
	for (unsigned int i = 0; i < BED_QUEUES; i++)
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, i, 1), 0);
	st = fe_get_u64(&f, VU_GET_STATUS);
	CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, st | 7), 0);
	CHECK_EQ(fe_get_u64(&f, VU_GET_STATUS), 15);
}

/* ... and stops it */
static void qemu_stop(uint32_t base)
{
	for (unsigned int i = 0; i < BED_QUEUES; i++)
		CHECK_EQ(fe_get_base(&f, i), base);
	CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 0), 0);
}

/* ... and how it did that up to version 7.2: the status first */
static void qemu_72_stop(uint32_t base)
{
	CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 0), 0);
	for (unsigned int i = 0; i < BED_QUEUES; i++)
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, i, 0), 0);
	for (unsigned int i = 0; i < BED_QUEUES; i++)
		CHECK_EQ(fe_get_base(&f, i), base);
}

/* QEMU with vhost-user-blk: firmware first, then the operating system, a pause, memory that comes and goes. */
static void qemu_blk(void)
{
	struct vu_inflight want = {.num_queues = BED_QUEUES, .queue_size = 128}, region;
	struct vu_mem_reg lo, hi, bar = {.region = {0xfd000000, 0x1000000, 0x7f0000000000, 0}};
	struct vu_msg m;
	int inflight_fd, bar_fd = memfd_create("bar", MFD_CLOEXEC);
	struct vu_config c = {.size = 60};

	REQUIRE(bar_fd >= 0 && !ftruncate(bar_fd, 0x1000000));
	bed_open(&b, false);
	fe_connect(&f, &b);
	/* vhost_user_backend_init; QEMU takes in-band notifications too, if offered, and never uses them */
	fe_hello(&f, FE_RING_FEATURES | BIT30, FE_ALL_PROTOCOL | 1ULL << VU_F_INBAND_NOTIFICATIONS);
	CHECK_EQ(fe_get_u64(&f, VU_GET_QUEUE_NUM), BED_QUEUES);
	CHECK(fe_get_u64(&f, VU_GET_MAX_MEM_SLOTS) >= 8);
	fe_open_channel(&f);
	for (unsigned int i = 0; i < BED_QUEUES; i++) { /* masked notifiers, before anything else about rings */
		int masked = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

		CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, i, masked), 0);
		close(masked);
	}
	CHECK_EQ(fe_get(&f, VU_GET_CONFIG, &c, VU_CONFIG_HEAD + 60, &m), 0);
	lo = (struct vu_mem_reg){.region = {f.g.gpa, 0x100000, f.g.uva, 0}};
	hi = (struct vu_mem_reg){.region = {f.g.gpa + 0x100000, GUEST_SIZE - 0x100000, f.g.uva + 0x100000, 0x100000}};
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &lo, sizeof(lo), &f.g.fd, 1), 0);
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &hi, sizeof(hi), &f.g.fd, 1), 0);
	REQUIRE(!fe_get(&f, VU_GET_INFLIGHT_FD, &want, sizeof(want), &m) && m.nfds == 1);
	region = m.p.inflight;
	inflight_fd = vu_msg_take_fd(&m, 0);

	qemu_start(128, 0, &region, inflight_fd); /* the firmware */
	for (int i = 0; i < 10; i++)
		CHECK(fe_echo(&f, 0));
	CHECK_EQ(fe_get_base(&f, 0), 10);
	CHECK_EQ(fe_get_base(&f, 1), 0);
	CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 0), 0);
	/* QEMU makes a new region after the reset */
	close(inflight_fd);
	REQUIRE(!fe_get(&f, VU_GET_INFLIGHT_FD, &want, sizeof(want), &m) && m.nfds == 1);
	region = m.p.inflight;
	inflight_fd = vu_msg_take_fd(&m, 0);

	qemu_start(128, 0, &region, inflight_fd); /* the operating system */
	for (int i = 0; i < 10; i++)
		CHECK(fe_echo(&f, 0) && fe_echo(&f, 1));
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &bar, sizeof(bar), &bar_fd, 1), 0); /* a BAR is mapped, and moves */
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(fe_set(&f, VU_REM_MEM_REG, &bar, sizeof(bar), NULL, 0), 0);
	CHECK(fe_echo(&f, 1));
	qemu_stop(11); /* paused */
	qemu_start(128, 11, &region, inflight_fd);
	CHECK(fe_echo(&f, 0) && fe_echo(&f, 1));
	qemu_72_stop(12);
	qemu_start(128, 12, &region, inflight_fd);
	CHECK(fe_echo(&f, 0) && fe_echo(&f, 1));
	qemu_stop(13);
	close(inflight_fd);
	close(bar_fd);
	fe_close(&f);
	bed_close(&b);
}

/* QEMU 7.2 stops with SET_STATUS 0, asks for the bases afterwards, and continues there after a pause. */
static void qemu72_pause(bool packed)
{
	uint64_t features = FE_RING_FEATURES | BIT30 | (packed ? PACKED : 0);

	bed_open(&b, false);
	fe_connect(&f, &b);
	fe_hello(&f, features, FE_ALL_PROTOCOL);
	CHECK_EQ(fe_set_memory(&f), 0);
	fe_ring_up(&f, 0, 16);
	for (int pause = 0; pause < 30; pause++) {
		uint32_t base;

		CHECK(fe_echo(&f, 0));
		if (pause % 5 == 4)
			CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 0), 0); /* twice, as there is one for each queue pair */
		CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 0), 0);
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 0), 0);
		base = fe_get_base(&f, 0);
		CHECK_EQ(base, sl_dq_base(f.ring[0].dq));
		CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, features), 0);
		CHECK_EQ(fe_ring_send(&f, 0, base), 0);
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
	}
	/* a fresh life begins at 0, whatever was before */
	CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 0), 0);
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, features), 0);
	fe_ring_up(&f, 0, 16);
	CHECK(fe_echo(&f, 0));
	fe_close(&f);
	bed_close(&b);
}

static void qemu72_pause_split(void)
{
	qemu72_pause(false);
}

static void qemu72_pause_packed(void)
{
	qemu72_pause(true);
}

/* DPDK's virtio-user: user addresses are guest addresses, a packed ring's base is 0x8000, status all along. */
static void dpdk(bool packed)
{
	uint64_t features = FE_RING_FEATURES | BIT30 | (packed ? PACKED : 0);

	bed_open(&b, false);
	fe_connect(&f, &b);
	f.g.gpa = f.g.uva = 0x100000000;
	CHECK_EQ(fe_set(&f, VU_SET_OWNER, NULL, 0, NULL, 0), 0);
	fe_get_u64(&f, VU_GET_FEATURES);
	fe_get_u64(&f, VU_GET_PROTOCOL_FEATURES);
	CHECK_EQ(fe_set_u64(&f, VU_SET_PROTOCOL_FEATURES,
			    1ULL << VU_F_MQ | 1ULL << VU_F_REPLY_ACK | 1ULL << VU_F_STATUS),
		 0);
	f.ack = true;
	f.features = features;
	f.packed = packed;
	for (int life = 0; life < 2; life++) { /* the port is stopped and started again */
		CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 0), 0);
		CHECK_EQ(fe_get_u64(&f, VU_GET_STATUS), 0);
		CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 1), 0);
		CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 3), 0);
		CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, features & ~BIT30), 0);
		CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 11), 0);
		CHECK_EQ(fe_get_u64(&f, VU_GET_STATUS), 11);
		for (unsigned int i = 0; i < BED_QUEUES; i++) {
			fe_ring_new(&f, i, 64);
			CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, i, f.ring[i].call), 0);
		}
		CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, features), 0);
		CHECK_EQ(fe_set_memory(&f), 0);
		for (unsigned int i = 0; i < BED_QUEUES; i++) {
			struct vu_vring_addr addr = fe_ring_addr(&f, i);

			CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, i, 64), 0);
			CHECK_EQ(fe_set_state(&f, VU_SET_VRING_BASE, i, packed ? 0x8000 : 0), 0);
			CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
			CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, i, f.ring[i].kick), 0);
		}
		for (unsigned int i = 0; i < BED_QUEUES; i++)
			CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, i, 1), 0);
		CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 15), 0);
		for (int i = 0; i < 100; i++)
			CHECK(fe_echo(&f, (unsigned int)i % 2));
		for (unsigned int i = 0; i < BED_QUEUES; i++)
			CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, i, 0), 0);
		for (unsigned int i = 0; i < BED_QUEUES; i++)
			CHECK(fe_get_base(&f, i) != UINT32_MAX);
	}
	fe_close(&f);
	bed_close(&b);
}

static void dpdk_split(void)
{
	dpdk(false);
}

static void dpdk_packed(void)
{
	dpdk(true);
}

static const struct t_case cases[] = {
	{"uml_split", uml_split},
	{"uml_packed", uml_packed},
	{"qemu_blk", qemu_blk},
	{"qemu72_pause_split", qemu72_pause_split},
	{"qemu72_pause_packed", qemu72_pause_packed},
	{"dpdk_split", dpdk_split},
	{"dpdk_packed", dpdk_packed},
};

T_MAIN(cases)
