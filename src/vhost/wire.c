/* SPDX-License-Identifier: MIT */
/* wire.c - the vhost-user message format: the table of rules and the two directions of a socket
 *
 * Theory of operation: a message is a header of 12 bytes, then as many bytes as it says. The sender
 * attaches the descriptors to the first byte. Receiving asks the kernel first for what is missing of
 * the header, then for what is missing of the payload, never for more, so that one read never holds
 * two messages. Only the read of the first byte offers room for descriptors: with any later byte the
 * kernel drops them by itself and says so with MSG_CTRUNC.
 */
#include "vhost/wire.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Payload sizes; a range only where senders are known to differ or the length is part of the message. */
#define NONE .min = 0, .max = 0
#define EXACTLY(type) .min = sizeof(type), .max = sizeof(type)
#define TABLE .min = 8, .max = sizeof(struct vu_mem_table), .min_fds = 0, .max_fds = VU_TABLE_REGIONS
#define CONFIG .min = VU_CONFIG_HEAD, .max = sizeof(struct vu_config)
#define INFLIGHT .min = VU_INFLIGHT_MIN, .max = sizeof(struct vu_inflight)
#define FDS(n) .min_fds = (n), .max_fds = (n)
#define ANSWERS(type) .answered = true, .reply_min = sizeof(type), .reply_max = sizeof(type)

static const struct vu_message_rule requests[VU_REQUEST_END] = {
	[VU_GET_FEATURES] = {"GET_FEATURES", NONE, .gate = VU_NO_GATE, ANSWERS(uint64_t)},
	[VU_SET_FEATURES] = {"SET_FEATURES", EXACTLY(uint64_t), .gate = VU_NO_GATE},
	[VU_SET_OWNER] = {"SET_OWNER", NONE, .gate = VU_NO_GATE},
	[VU_RESET_OWNER] = {"RESET_OWNER", NONE, .gate = VU_NO_GATE},
	[VU_SET_MEM_TABLE] = {"SET_MEM_TABLE", TABLE, .gate = VU_NO_GATE},
	[VU_SET_LOG_BASE] = {"SET_LOG_BASE", EXACTLY(struct vu_log), FDS(1), .gate = VU_F_LOG_SHMFD,
			     .answered = true, .reply_min = 0, .reply_max = sizeof(struct vu_log)},
	[VU_SET_LOG_FD] = {"SET_LOG_FD", NONE, FDS(1), .gate = VU_NO_GATE},
	[VU_SET_VRING_NUM] = {"SET_VRING_NUM", EXACTLY(struct vu_vring_state), .gate = VU_NO_GATE},
	[VU_SET_VRING_ADDR] = {"SET_VRING_ADDR", EXACTLY(struct vu_vring_addr), .gate = VU_NO_GATE},
	[VU_SET_VRING_BASE] = {"SET_VRING_BASE", EXACTLY(struct vu_vring_state), .gate = VU_NO_GATE},
	[VU_GET_VRING_BASE] = {"GET_VRING_BASE", EXACTLY(struct vu_vring_state), .gate = VU_NO_GATE,
			       ANSWERS(struct vu_vring_state)},
	[VU_SET_VRING_KICK] = {"SET_VRING_KICK", EXACTLY(uint64_t), .max_fds = 1, .gate = VU_NO_GATE},
	[VU_SET_VRING_CALL] = {"SET_VRING_CALL", EXACTLY(uint64_t), .max_fds = 1, .gate = VU_NO_GATE},
	[VU_SET_VRING_ERR] = {"SET_VRING_ERR", EXACTLY(uint64_t), .max_fds = 1, .gate = VU_NO_GATE},
	[VU_GET_PROTOCOL_FEATURES] = {"GET_PROTOCOL_FEATURES", NONE, .gate = VU_NO_GATE, ANSWERS(uint64_t)},
	[VU_SET_PROTOCOL_FEATURES] = {"SET_PROTOCOL_FEATURES", EXACTLY(uint64_t), .gate = VU_NO_GATE},
	[VU_GET_QUEUE_NUM] = {"GET_QUEUE_NUM", NONE, .gate = VU_F_MQ, ANSWERS(uint64_t)},
	[VU_SET_VRING_ENABLE] = {"SET_VRING_ENABLE", EXACTLY(struct vu_vring_state), .gate = VU_NO_GATE},
	[VU_SEND_RARP] = {"SEND_RARP", EXACTLY(uint64_t), .gate = VU_F_RARP},
	[VU_NET_SET_MTU] = {"NET_SET_MTU", EXACTLY(uint64_t), .gate = VU_F_MTU},
	[VU_SET_BACKEND_REQ_FD] = {"SET_BACKEND_REQ_FD", NONE, FDS(1), .gate = VU_F_BACKEND_REQ},
	[VU_GET_CONFIG] = {"GET_CONFIG", CONFIG, .gate = VU_F_CONFIG, .answered = true, .reply_min = 0,
			   .reply_max = sizeof(struct vu_config)},
	[VU_SET_CONFIG] = {"SET_CONFIG", CONFIG, .gate = VU_F_CONFIG},
	[VU_GET_INFLIGHT_FD] = {"GET_INFLIGHT_FD", INFLIGHT, .gate = VU_F_INFLIGHT_SHMFD, .answered = true,
				.reply_min = VU_INFLIGHT_MIN, .reply_max = sizeof(struct vu_inflight), .reply_fds = 1},
	[VU_SET_INFLIGHT_FD] = {"SET_INFLIGHT_FD", INFLIGHT, FDS(1), .gate = VU_F_INFLIGHT_SHMFD},
	[VU_RESET_DEVICE] = {"RESET_DEVICE", NONE, .gate = VU_F_RESET_DEVICE},
	[VU_VRING_KICK] = {"VRING_KICK", EXACTLY(struct vu_vring_state), .gate = VU_F_INBAND_NOTIFICATIONS},
	[VU_GET_MAX_MEM_SLOTS] = {"GET_MAX_MEM_SLOTS", NONE, .gate = VU_F_CONFIGURE_MEM_SLOTS, ANSWERS(uint64_t)},
	[VU_ADD_MEM_REG] = {"ADD_MEM_REG", EXACTLY(struct vu_mem_reg), FDS(1), .gate = VU_F_CONFIGURE_MEM_SLOTS},
	/* Some front-ends attach a descriptor, which the protocol lets a back-end take and close unused. */
	[VU_REM_MEM_REG] = {"REM_MEM_REG", EXACTLY(struct vu_mem_reg), .max_fds = 1,
			    .gate = VU_F_CONFIGURE_MEM_SLOTS},
	[VU_SET_STATUS] = {"SET_STATUS", EXACTLY(uint64_t), .gate = VU_F_STATUS},
	[VU_GET_STATUS] = {"GET_STATUS", NONE, .gate = VU_F_STATUS, ANSWERS(uint64_t)},
};

static const struct vu_message_rule backend_requests[VU_BACKEND_REQUEST_END] = {
	[VU_BACKEND_CONFIG_CHANGE_MSG] = {"CONFIG_CHANGE_MSG", NONE, .gate = VU_F_CONFIG},
	[VU_BACKEND_VRING_CALL] = {"VRING_CALL", EXACTLY(struct vu_vring_state), .gate = VU_F_INBAND_NOTIFICATIONS},
	[VU_BACKEND_VRING_ERR] = {"VRING_ERR", EXACTLY(struct vu_vring_state), .gate = VU_F_INBAND_NOTIFICATIONS},
};

const struct vu_message_rule *vu_request_rule(uint32_t request)
{
	return request < VU_REQUEST_END && requests[request].name ? &requests[request] : NULL;
}

const struct vu_message_rule *vu_backend_request_rule(uint32_t request)
{
	return request < VU_BACKEND_REQUEST_END && backend_requests[request].name ? &backend_requests[request] : NULL;
}

const char *vu_request_name(uint32_t request)
{
	const struct vu_message_rule *rule = vu_request_rule(request);

	return rule ? rule->name : "unknown message";
}

/* What the size alone does not say: counts inside the payload against size and descriptors. */
static const char *check_inside(const struct vu_msg *m)
{
	switch (m->h.request) {
	case VU_SET_MEM_TABLE:
		if (m->p.table.n > VU_TABLE_REGIONS)
			return "too many regions";
		/* More bytes than regions are fine: Linux's UML driver sends room for two with one in it. */
		if (m->h.size < 8 + m->p.table.n * sizeof(struct vu_region))
			return "shorter than its regions";
		if (m->nfds != m->p.table.n)
			return "not one file descriptor for each region";
		return NULL;
	case VU_SET_VRING_KICK:
	case VU_SET_VRING_CALL:
	case VU_SET_VRING_ERR:
		if (m->p.u64 & ~(uint64_t)(VU_VRING_INDEX_MASK | VU_VRING_NOFD))
			return "reserved bits set";
		if (m->nfds != !(m->p.u64 & VU_VRING_NOFD))
			return "file descriptor and its flag disagree";
		return NULL;
	case VU_GET_CONFIG:
		return m->p.config.size > VU_MAX_CONFIG ? "too large" : NULL;
	case VU_SET_CONFIG:
		return m->p.config.size > m->h.size - VU_CONFIG_HEAD ? "shorter than its data" : NULL;
	default:
		return NULL;
	}
}

const char *vu_rule_check(const struct vu_message_rule *rule, const struct vu_msg *m, uint64_t protocol)
{
	if (!rule)
		return "not known here";
	if (rule->gate != VU_NO_GATE && !(protocol >> rule->gate & 1))
		return "its protocol feature is not negotiated";
	if (m->h.size < rule->min || m->h.size > rule->max)
		return "wrong size";
	if (m->nfds < rule->min_fds || m->nfds > rule->max_fds)
		return "wrong number of file descriptors";
	return check_inside(m);
}

const char *vu_reply_check(uint32_t request, const struct vu_msg *reply)
{
	const struct vu_message_rule *rule = vu_request_rule(request);

	if (!rule || !rule->answered)
		return "no answer belongs to this request";
	if (reply->h.request != request || !(reply->h.flags & VU_REPLY))
		return "not the answer to this request";
	if (reply->h.size < rule->reply_min || reply->h.size > rule->reply_max)
		return "answer of a wrong size";
	return reply->nfds > rule->reply_fds ? "answer with too many file descriptors" : NULL;
}

void vu_msg_init(struct vu_msg *m, uint32_t request, uint32_t size)
{
	m->h = (struct vu_header){.request = request, .flags = VU_VERSION, .size = size};
	m->nfds = 0;
	memset(&m->p, 0, size < sizeof(m->p) ? size : sizeof(m->p));
}

int vu_msg_take_fd(struct vu_msg *m, unsigned int i)
{
	int fd = m->fds[i];

	m->fds[i] = -1;
	return fd;
}

void vu_msg_close_fds(struct vu_msg *m)
{
	for (uint32_t i = 0; i < m->nfds; i++)
		if (m->fds[i] >= 0)
			close(m->fds[i]);
	m->nfds = 0;
}

/* Collect the descriptors of one recvmsg. */
static void gather_fds(struct msghdr *mh, struct vu_msg *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		/* The control buffer has room for VU_MAX_FDS in all, so this always fits. */
		memcpy(m->fds + m->nfds, CMSG_DATA(c), n * sizeof(int));
		m->nfds += (uint32_t)n;
	}
}

/* One recvmsg of up to @len bytes; the bytes received or -errno. Descriptors may come only with the @first byte. */
static int recv_part(int sock, void *dst, size_t len, struct vu_msg *m, bool first)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(VU_MAX_FDS * sizeof(int))];
	} control;
	struct iovec iov = {dst, len};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (first) {
		mh.msg_control = control.buf;
		mh.msg_controllen = sizeof(control.buf);
	}
	do
		n = recvmsg(sock, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (first)
		gather_fds(&mh, m);
	/* Cut off: too many for the buffer, or (fewer arrived than fit) too many for this process. */
	if (mh.msg_flags & MSG_CTRUNC)
		return first && m->nfds < VU_MAX_FDS ? -EMFILE : -EPROTO;
	return n ? (int)n : -ECONNRESET;
}

static int recv_some(int sock, struct vu_rx *rx, struct vu_msg *m)
{
	for (;;) {
		uint32_t end = VU_HEADER_SIZE;
		uint8_t *at = (uint8_t *)&m->h + rx->have;
		int n;

		if (!rx->have) {
			m->nfds = 0;
		} else if (rx->have >= VU_HEADER_SIZE) {
			if ((m->h.flags & VU_VERSION_MASK) != VU_VERSION || m->h.size > VU_MAX_PAYLOAD)
				return -EPROTO;
			end += m->h.size;
			at = m->p.bytes + (rx->have - VU_HEADER_SIZE);
			if (rx->have == end) {
				rx->have = 0;
				return 1;
			}
		}
		n = recv_part(sock, at, end - rx->have, m, !rx->have);
		if (n < 0)
			return n;
		rx->have += (uint32_t)n;
	}
}

int vu_recv(int sock, struct vu_rx *rx, struct vu_msg *m)
{
	int r = recv_some(sock, rx, m);

	if (r < 0 && r != -EAGAIN) {
		vu_msg_close_fds(m);
		rx->have = 0;
	}
	return r;
}

int vu_send(int sock, const struct vu_msg *m, uint32_t *sent)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(VU_MAX_FDS * sizeof(int))];
	} control = {0};
	const uint32_t total = VU_HEADER_SIZE + m->h.size;

	while (*sent < total) {
		uint32_t skip = *sent < VU_HEADER_SIZE ? *sent : VU_HEADER_SIZE;
		uint32_t skip_payload = *sent - skip;
		struct iovec iov[2] = {
			{(uint8_t *)(uintptr_t)&m->h + skip, VU_HEADER_SIZE - skip},
			{(uint8_t *)(uintptr_t)m->p.bytes + skip_payload, m->h.size - skip_payload},
		};
		struct msghdr mh = {.msg_iov = iov, .msg_iovlen = 2};
		ssize_t n;

		if (!*sent && m->nfds) {
			struct cmsghdr *c;

			mh.msg_control = control.buf;
			mh.msg_controllen = CMSG_SPACE(m->nfds * sizeof(int));
			c = CMSG_FIRSTHDR(&mh);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(m->nfds * sizeof(int));
			memcpy(CMSG_DATA(c), m->fds, m->nfds * sizeof(int));
		}
		n = sendmsg(sock, &mh, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		*sent += (uint32_t)n;
	}
	return 1;
}

/* Wait for @events; 0, -ETIMEDOUT or -errno. */
static int wait_for(int sock, short events, int timeout_ms)
{
	struct pollfd p = {.fd = sock, .events = events};
	int n;

	do
		n = poll(&p, 1, timeout_ms);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return n ? 0 : -ETIMEDOUT;
}

int vu_recv_wait(int sock, struct vu_msg *m, int timeout_ms)
{
	struct vu_rx rx = {0};
	int r;

	while ((r = vu_recv(sock, &rx, m)) == -EAGAIN) {
		r = wait_for(sock, POLLIN, timeout_ms);
		if (r < 0) {
			if (rx.have)
				vu_msg_close_fds(m);
			return r;
		}
	}
	return r < 0 ? r : 0;
}

int vu_send_wait(int sock, const struct vu_msg *m, int timeout_ms)
{
	uint32_t sent = 0;
	int r;

	while ((r = vu_send(sock, m, &sent)) == -EAGAIN) {
		r = wait_for(sock, POLLOUT, timeout_ms);
		if (r < 0)
			return r;
	}
	return r < 0 ? r : 0;
}
