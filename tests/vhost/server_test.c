/* SPDX-License-Identifier: MIT */
/* server_test.c - vhost-user server: negotiation, requests, configuration, status, reset */
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "case.h"

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
	/* and what the last front-end negotiated is forgotten */
	CHECK_EQ(fe_get_u64(&f, VU_GET_QUEUE_NUM), UINT64_MAX);
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
		CHECK_EQ(m.p.config.offset, 0);
		CHECK_EQ(m.p.config.flags, 0);
		CHECK(!memcmp(m.p.config.data, "0123456789abcdef\0\0\0", size < 19 ? size : 19));
	}
	CHECK_EQ(get_config(10, 6, &m), 0);
	CHECK_EQ(m.p.config.offset, 10);
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

static void config_change(void)
{
	unsigned int fds;

	begin(FE_RING_FEATURES | BIT30);
	sl_device_config_update(b.dev, 0, "z", 1); /* no channel yet: owed */
	fe_open_channel(&f);
	CHECK(!fe_told_once(&f, VU_BACKEND_CONFIG_CHANGE_MSG, 0)); /* and no ring: suspended */
	fe_ring_up(&f, 0, 8);
	CHECK(fe_told_once(&f, VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	CHECK_EQ(fe_get_base(&f, 0), 0);
	sl_device_config_update(b.dev, 0, "x", 1);
	sl_device_config_update(b.dev, 0, "w", 1);
	CHECK(!fe_told_once(&f, VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	fe_ring_up(&f, 0, 8);
	CHECK(fe_told_once(&f, VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	sl_device_config_update(b.dev, 0, "y", 1);
	CHECK(fe_told_once(&f, VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	/* closed by the front-end: noticed with the next change, which then goes to the next channel */
	fds = count_fds();
	close(f.channel);
	f.channel = -1;
	sl_device_config_update(b.dev, 0, "d", 1);
	CHECK_EQ(count_fds(), fds - 2);
	CHECK(fe_alive(&f));
	fe_open_channel(&f);
	CHECK(fe_told_once(&f, VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	fe_open_channel(&f); /* replaced */
	CHECK_EQ(count_fds(), fds);
	sl_device_config_update(b.dev, 0, "f", 1);
	CHECK(fe_told_once(&f, VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	down();
}

/* A front-end that does not read its channel costs nothing, and hears of the last change when it reads again. */
static void channel_not_read(void)
{
	struct vu_msg m;
	struct vu_rx rx = {0};
	unsigned int told = 0;

	begin(FE_RING_FEATURES | BIT30);
	fe_open_channel(&f);
	fe_ring_up(&f, 0, 8);
	for (int i = 0; i < 5000; i++)
		sl_device_config_update(b.dev, 0, i % 2 ? "a" : "b", 1);
	bed_run(&b);
	CHECK(!sl_loop_step(b.loop, 0)); /* it waits, it does not spin */
	while (vu_recv(f.channel, &rx, &m) == 1)
		told++;
	CHECK(told > 10 && told < 5000);
	CHECK(fe_told_once(&f, VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	CHECK(!sl_loop_step(b.loop, 0));
	sl_device_config_update(b.dev, 0, "c", 1);
	CHECK(fe_told_once(&f, VU_BACKEND_CONFIG_CHANGE_MSG, 0));
	/* replaced while full */
	for (int i = 0; i < 5000; i++)
		sl_device_config_update(b.dev, 0, i % 2 ? "a" : "b", 1);
	fe_open_channel(&f);
	CHECK(fe_told_once(&f, VU_BACKEND_CONFIG_CHANGE_MSG, 0));
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
	CHECK_EQ(fe_set_memory(&f), 0);
	fe_open_channel(&f);
	fe_ring_up(&f, 0, 8);
	CHECK(!fe_told_once(&f, VU_BACKEND_CONFIG_CHANGE_MSG, 0));
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
	/* the driver's part starts anew on the same connection and memory: no ring without features */
	fe_ring_up(&f, 1, 8);
	CHECK(!sl_queue_running(b.dev, 1));
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

/* ---- a program that does nothing else ---- */

static void copy(struct sl_queue *q, struct sl_req *r)
{
	char buf[512];
	size_t n = sl_cursor_read(&r->chain.out, buf, sizeof(buf));

	(void)q;
	sl_req_done(r, (uint32_t)sl_cursor_write(&r->chain.in, buf, n));
}

static void serve_until_signal(const char *path)
{
	static const struct sl_device_ops ops = {.type = "copy", .id = 42, .request = copy};
	const struct sl_device_config cfg = {.ops = &ops, .name = "copy", .offered.w[0] = FE_RING_FEATURES | PACKED,
					     .num_queues = BED_QUEUES, .max_queue_size = BED_QUEUE_MAX, .config = "x",
					     .config_len = 1};
	struct sl_err err;

	_exit(sl_vhost_user_serve(&cfg, path, &err) ? 1 : 0);
}

static void served_until_a_signal(void)
{
	struct sl_err err = {0};
	int nobody[2], status = -1;
	pid_t pid;

	bed_open(&b, false);
	bed_unserve(&b);
	pid = fork();
	REQUIRE(pid >= 0);
	if (!pid)
		serve_until_signal(b.path);
	fe_up(&f, &b, true);
	/* a call goes where nobody listens any more */
	REQUIRE(!pipe(nobody));
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, 0, nobody[1]), 0);
	close(nobody[0]);
	close(nobody[1]);
	CHECK(fe_echo(&f, 0) && fe_echo(&f, 1));
	CHECK(fe_alive(&f));
	/* the path is taken: refused, and the signals are as they were */
	CHECK_EQ(sl_vhost_user_serve(&(struct sl_device_config){.ops = &(struct sl_device_ops){.type = "x"}, .name = "x",
								.num_queues = 1, .max_queue_size = 1}, b.path, &err),
		 -EADDRINUSE);
	CHECK(strstr(err.text, "a live server"));
	kill(pid, SIGTERM);
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK(access(b.path, F_OK) < 0);
	CHECK(!fe_alive(&f));
	fe_close(&f);
	bed_serve(&b);
	bed_close(&b);
}

static const struct t_case cases[] = {
	{"hello", hello},
	{"refusal_without_ack", refusal_without_ack},
	{"inband_alone_closes", inband_alone_closes},
	{"echo_split", echo_split},
	{"echo_packed", echo_packed},
	{"echo_split_threaded", echo_split_threaded},
	{"echo_packed_threaded", echo_packed_threaded},
	{"config", config},
	{"config_change", config_change},
	{"channel_not_read", channel_not_read},
	{"status", status},
	{"reset_device_in_flight", reset_device_in_flight},
	{"reset_device_in_flight_threaded", reset_device_in_flight_threaded},
	{"status_zero_in_flight", status_zero_in_flight},
	{"served_until_a_signal", served_until_a_signal},
};

T_MAIN(cases)
