/* SPDX-License-Identifier: MIT */
/* wire_test.c - the vhost-user codec: table of rules, partial messages, descriptors */
#include "vhost/wire.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bed.h"
#include "t.h"

static void pair(int sv[2])
{
	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
}

static void layout(void)
{
	/* the sizes of the protocol's text */
	CHECK_EQ(sizeof(struct vu_header), 12);
	CHECK_EQ(sizeof(struct vu_vring_state), 8);
	CHECK_EQ(sizeof(struct vu_vring_addr), 40);
	CHECK_EQ(sizeof(struct vu_region), 32);
	CHECK_EQ(sizeof(struct vu_mem_table), 8 + 8 * 32);
	CHECK_EQ(sizeof(struct vu_mem_reg), 40);
	CHECK_EQ(sizeof(struct vu_log), 16);
	CHECK_EQ(VU_CONFIG_HEAD, 12);
	CHECK_EQ(sizeof(struct vu_inflight), 24);
	CHECK_EQ(offsetof(struct vu_inflight, queue_size), 18);
}

static void every_rule_has_sense(void)
{
	for (uint32_t id = 0; id < VU_REQUEST_END + 5; id++) {
		const struct vu_message_rule *r = vu_request_rule(id);

		CHECK(vu_request_name(id) != NULL);
		if (!r)
			continue;
		CHECK(r->min <= r->max && r->max <= VU_MAX_PAYLOAD);
		CHECK(r->min_fds <= r->max_fds && r->max_fds <= VU_MAX_FDS);
		CHECK(r->answered || (!r->reply_max && !r->reply_fds));
		CHECK(r->gate >= VU_NO_GATE && r->gate < 64);
	}
	CHECK(!vu_request_rule(0));
	CHECK(!vu_request_rule(UINT32_MAX));
	CHECK(!vu_backend_request_rule(0));
	CHECK(!vu_backend_request_rule(UINT32_MAX));
	CHECK(vu_backend_request_rule(VU_BACKEND_VRING_CALL) != NULL);
}

/* Each rule refuses one byte and one descriptor too many or too few, and a gate that is shut. */
static void every_rule_refuses(void)
{
	for (uint32_t id = 0; id < VU_REQUEST_END; id++) {
		const struct vu_message_rule *r = vu_request_rule(id);
		struct vu_msg m;

		if (!r)
			continue;
		vu_msg_init(&m, id, r->min);
		m.nfds = r->min_fds;
		if (id == VU_SET_VRING_KICK || id == VU_SET_VRING_CALL || id == VU_SET_VRING_ERR)
			m.p.u64 = VU_VRING_NOFD;
		CHECK(!vu_rule_check(r, &m, UINT64_MAX));
		if (r->gate != VU_NO_GATE)
			CHECK(vu_rule_check(r, &m, ~(1ULL << r->gate)) != NULL);
		m.h.size = r->max + 1u;
		CHECK(vu_rule_check(r, &m, UINT64_MAX) != NULL);
		m.h.size = r->min - 1u;
		CHECK(vu_rule_check(r, &m, UINT64_MAX) != NULL);
		m.h.size = r->min;
		m.nfds = r->max_fds + 1u;
		CHECK(vu_rule_check(r, &m, UINT64_MAX) != NULL);
		m.nfds = r->min_fds - 1u;
		CHECK(vu_rule_check(r, &m, UINT64_MAX) != NULL);
	}
}

static void inner_counts(void)
{
	struct vu_msg m;

	vu_msg_init(&m, VU_SET_MEM_TABLE, 8 + 32);
	m.p.table.n = 1;
	m.nfds = 1;
	CHECK(!vu_rule_check(vu_request_rule(m.h.request), &m, 0));
	m.h.size = 8 + 64; /* User-mode Linux */
	CHECK(!vu_rule_check(vu_request_rule(m.h.request), &m, 0));
	m.p.table.n = m.nfds = 3;
	CHECK(vu_rule_check(vu_request_rule(m.h.request), &m, 0) != NULL);
	m.p.table.n = 9;
	m.nfds = 8;
	m.h.size = sizeof(m.p.table);
	CHECK(vu_rule_check(vu_request_rule(m.h.request), &m, 0) != NULL);

	vu_msg_init(&m, VU_SET_CONFIG, VU_CONFIG_HEAD + 4);
	m.p.config.size = 4;
	CHECK(!vu_rule_check(vu_request_rule(m.h.request), &m, UINT64_MAX));
	m.p.config.size = 5;
	CHECK(vu_rule_check(vu_request_rule(m.h.request), &m, UINT64_MAX) != NULL);
	vu_msg_init(&m, VU_GET_CONFIG, VU_CONFIG_HEAD);
	m.p.config.size = VU_MAX_CONFIG + 1;
	CHECK(vu_rule_check(vu_request_rule(m.h.request), &m, UINT64_MAX) != NULL);

	vu_msg_init(&m, VU_SET_VRING_KICK, 8);
	m.nfds = 1;
	CHECK(!vu_rule_check(vu_request_rule(m.h.request), &m, 0));
	m.p.u64 = VU_VRING_NOFD;
	CHECK(vu_rule_check(vu_request_rule(m.h.request), &m, 0) != NULL);
	m.nfds = 0;
	CHECK(!vu_rule_check(vu_request_rule(m.h.request), &m, 0));
	m.p.u64 = 0;
	CHECK(vu_rule_check(vu_request_rule(m.h.request), &m, 0) != NULL);
	m.p.u64 = VU_VRING_NOFD | 1ULL << 63;
	CHECK(vu_rule_check(vu_request_rule(m.h.request), &m, 0) != NULL);
}

static void replies(void)
{
	struct vu_msg m;

	vu_msg_init(&m, VU_GET_FEATURES, 8);
	CHECK(vu_reply_check(VU_GET_FEATURES, &m) != NULL); /* no reply flag */
	m.h.flags |= VU_REPLY;
	CHECK(!vu_reply_check(VU_GET_FEATURES, &m));
	CHECK(vu_reply_check(VU_GET_STATUS, &m) != NULL);
	CHECK(vu_reply_check(VU_SET_OWNER, &m) != NULL);
	m.nfds = 1;
	CHECK(vu_reply_check(VU_GET_FEATURES, &m) != NULL);
	m.nfds = 0;
	m.h.size = 4;
	CHECK(vu_reply_check(VU_GET_FEATURES, &m) != NULL);
}

static void there_and_back(void)
{
	unsigned int fds = count_fds();
	struct vu_msg a, b;
	int sv[2];

	pair(sv);
	vu_msg_init(&a, VU_SET_CONFIG, VU_MAX_PAYLOAD);
	for (unsigned int i = 0; i < VU_MAX_PAYLOAD; i++)
		a.p.bytes[i] = (uint8_t)(i * 3);
	for (a.nfds = 0; a.nfds < VU_MAX_FDS; a.nfds++)
		a.fds[a.nfds] = sv[0];
	CHECK_EQ(vu_send_wait(sv[0], &a, 1000), 0);
	CHECK_EQ(vu_recv_wait(sv[1], &b, 1000), 0);
	CHECK_EQ(b.h.size, VU_MAX_PAYLOAD);
	CHECK(!memcmp(a.p.bytes, b.p.bytes, VU_MAX_PAYLOAD));
	CHECK_EQ(b.nfds, VU_MAX_FDS);
	for (unsigned int i = 0; i < b.nfds; i++)
		CHECK(fcntl(b.fds[i], F_GETFD) & FD_CLOEXEC);
	close(vu_msg_take_fd(&b, 3));
	vu_msg_close_fds(&b);
	CHECK_EQ(vu_recv_wait(sv[1], &b, 1), -ETIMEDOUT);
	close(sv[0]);
	CHECK_EQ(vu_recv_wait(sv[1], &b, 1000), -ECONNRESET);
	a.nfds = 0;
	CHECK_EQ(vu_send_wait(sv[1], &a, 1000), -EPIPE);
	close(sv[1]);
	CHECK_EQ(count_fds(), fds);
}

/* Every cut of a message with a descriptor: nothing blocks, nothing is lost; two messages never mix. */
static void byte_by_byte(void)
{
	uint8_t wire[2 * (VU_HEADER_SIZE + 8)];
	struct vu_msg m;
	int sv[2];

	vu_msg_init(&m, VU_SET_FEATURES, 8);
	m.p.u64 = 0x1122334455667788;
	memcpy(wire, &m.h, VU_HEADER_SIZE);
	memcpy(wire + VU_HEADER_SIZE, &m.p, 8);
	memcpy(wire + VU_HEADER_SIZE + 8, wire, VU_HEADER_SIZE + 8);
	for (size_t step = 1; step < sizeof(wire); step++) {
		struct vu_rx rx = {0};
		unsigned int got = 0;

		pair(sv);
		for (size_t at = 0; at < sizeof(wire); at += step) {
			size_t n = sizeof(wire) - at < step ? sizeof(wire) - at : step;
			int ret;

			REQUIRE(send(sv[0], wire + at, n, 0) == (ssize_t)n);
			while ((ret = vu_recv(sv[1], &rx, &m)) == 1) {
				got++;
				CHECK_EQ(m.p.u64, 0x1122334455667788);
				CHECK_EQ(m.nfds, 0);
			}
			CHECK_EQ(ret, -EAGAIN);
		}
		CHECK_EQ(got, 2);
		close(sv[0]);
		close(sv[1]);
	}
}

static void send_raw(int sock, const void *bytes, size_t n, int fd, unsigned int nfds)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(250 * sizeof(int))];
	} control;
	struct iovec iov = {(void *)(uintptr_t)bytes, n};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

	if (nfds) {
		mh.msg_control = control.buf;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		*CMSG_FIRSTHDR(&mh) = (struct cmsghdr){CMSG_LEN(nfds * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
		for (unsigned int i = 0; i < nfds; i++)
			memcpy(CMSG_DATA(CMSG_FIRSTHDR(&mh)) + i * sizeof(int), &fd, sizeof(int));
	}
	REQUIRE(sendmsg(sock, &mh, 0) == (ssize_t)n);
}

static void framing_is_refused(void)
{
	static const struct {
		struct vu_header h;
		unsigned int first_fds, later_fds;
		int expect;
	} rows[] = {
		{{1, VU_VERSION, 0}, 0, 0, 1},
		{{1, 0, 0}, 0, 0, -EPROTO},
		{{1, 2, 0}, 0, 0, -EPROTO},
		{{1, VU_VERSION, VU_MAX_PAYLOAD + 1}, 1, 0, -EPROTO},
		{{1, VU_VERSION, UINT32_MAX}, 8, 0, -EPROTO},
		{{1, VU_VERSION, UINT32_MAX - 11}, 0, 0, -EPROTO},
		{{1, VU_VERSION, 0}, 8, 0, 1},
		{{1, VU_VERSION, 0}, 9, 0, -EPROTO},
		{{1, VU_VERSION, 0}, 250, 0, -EPROTO},
		{{1, VU_VERSION, 0}, 0, 1, -EPROTO},
		{{1, VU_VERSION, 0}, 2, 2, -EPROTO},
	};
	unsigned int fds = count_fds();

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct vu_rx rx = {0};
		struct vu_msg m;
		int sv[2], ret;

		pair(sv);
		send_raw(sv[0], &rows[i].h, 5, sv[0], rows[i].first_fds);
		ret = vu_recv(sv[1], &rx, &m);
		if (ret == -EAGAIN) {
			send_raw(sv[0], (const char *)&rows[i].h + 5, 7, sv[0], rows[i].later_fds);
			ret = vu_recv(sv[1], &rx, &m);
		}
		CHECK_EQ(ret, rows[i].expect);
		if (ret == 1) {
			CHECK_EQ(m.nfds, rows[i].first_fds);
			vu_msg_close_fds(&m);
		}
		close(sv[0]);
		close(sv[1]);
		CHECK_EQ(count_fds(), fds);
	}
}

/* Descriptors that do not fit into the process: said so, and none leaks. */
static void no_room_for_fds(void)
{
	struct rlimit old, tight;
	struct vu_header h = {1, VU_VERSION, 0};
	struct vu_rx rx = {0};
	struct vu_msg m;
	int sv[2];
	unsigned int fds;

	pair(sv);
	fds = count_fds();
	send_raw(sv[0], &h, sizeof(h), sv[0], 6);
	REQUIRE(!getrlimit(RLIMIT_NOFILE, &old));
	tight = old;
	tight.rlim_cur = (rlim_t)sv[1] + 3;
	REQUIRE(!setrlimit(RLIMIT_NOFILE, &tight));
	CHECK_EQ(vu_recv(sv[1], &rx, &m), -EMFILE);
	REQUIRE(!setrlimit(RLIMIT_NOFILE, &old));
	CHECK_EQ(count_fds(), fds);
	close(sv[0]);
	close(sv[1]);
}

/* A peer that does not read: the sender says so, and goes on where it stopped. */
static void full_socket(void)
{
	struct vu_msg m, got;
	struct vu_rx rx = {0};
	uint32_t sent = 0;
	unsigned int n = 0;
	int sv[2], ret;

	pair(sv);
	vu_msg_init(&m, VU_SET_CONFIG, VU_MAX_PAYLOAD);
	while ((ret = vu_send(sv[0], &m, &sent)) == 1) {
		sent = 0;
		n++;
	}
	CHECK_EQ(ret, -EAGAIN);
	CHECK(n > 1);
	CHECK_EQ(vu_send_wait(sv[0], &m, 1), -ETIMEDOUT);
	for (unsigned int i = 0; i < n; i++)
		CHECK_EQ(vu_recv(sv[1], &rx, &got), 1);
	while ((ret = vu_send(sv[0], &m, &sent)) == -EAGAIN)
		;
	CHECK_EQ(ret, 1);
	CHECK_EQ(vu_recv(sv[1], &rx, &got), 1);
	CHECK_EQ(got.h.size, VU_MAX_PAYLOAD);
	close(sv[0]);
	close(sv[1]);
}

static const struct t_case cases[] = {
	{"layout", layout},
	{"every_rule_has_sense", every_rule_has_sense},
	{"every_rule_refuses", every_rule_refuses},
	{"inner_counts", inner_counts},
	{"replies", replies},
	{"there_and_back", there_and_back},
	{"byte_by_byte", byte_by_byte},
	{"framing_is_refused", framing_is_refused},
	{"no_room_for_fds", no_room_for_fds},
	{"full_socket", full_socket},
};

T_MAIN(cases)
