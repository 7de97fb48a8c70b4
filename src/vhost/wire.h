/* SPDX-License-Identifier: MIT */
/* wire.h - the vhost-user message format: identifiers, payloads, one table of rules, and how messages
 * with their file descriptors cross a Unix stream socket.
 *
 * Pure: no state beyond what the caller holds, no policy. The server, the front-end link and tests
 * all use it, for both directions. Numbers are in the byte order of the host.
 * The protocol's text is QEMU's docs/interop/vhost-user.rst.
 */
#ifndef VHOST_WIRE_H
#define VHOST_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum vu_request { /* front-end to back-end */
	VU_GET_FEATURES = 1,
	VU_SET_FEATURES = 2,
	VU_SET_OWNER = 3,
	VU_RESET_OWNER = 4,
	VU_SET_MEM_TABLE = 5,
	VU_SET_LOG_BASE = 6,
	VU_SET_LOG_FD = 7,
	VU_SET_VRING_NUM = 8,
	VU_SET_VRING_ADDR = 9,
	VU_SET_VRING_BASE = 10,
	VU_GET_VRING_BASE = 11,
	VU_SET_VRING_KICK = 12,
	VU_SET_VRING_CALL = 13,
	VU_SET_VRING_ERR = 14,
	VU_GET_PROTOCOL_FEATURES = 15,
	VU_SET_PROTOCOL_FEATURES = 16,
	VU_GET_QUEUE_NUM = 17,
	VU_SET_VRING_ENABLE = 18,
	VU_SEND_RARP = 19,
	VU_NET_SET_MTU = 20,
	VU_SET_BACKEND_REQ_FD = 21,
	VU_IOTLB_MSG = 22,
	VU_SET_VRING_ENDIAN = 23,
	VU_GET_CONFIG = 24,
	VU_SET_CONFIG = 25,
	VU_CREATE_CRYPTO_SESSION = 26,
	VU_CLOSE_CRYPTO_SESSION = 27,
	VU_POSTCOPY_ADVISE = 28,
	VU_POSTCOPY_LISTEN = 29,
	VU_POSTCOPY_END = 30,
	VU_GET_INFLIGHT_FD = 31,
	VU_SET_INFLIGHT_FD = 32,
	VU_GPU_SET_SOCKET = 33,
	VU_RESET_DEVICE = 34,
	VU_VRING_KICK = 35,
	VU_GET_MAX_MEM_SLOTS = 36,
	VU_ADD_MEM_REG = 37,
	VU_REM_MEM_REG = 38,
	VU_SET_STATUS = 39,
	VU_GET_STATUS = 40,
	VU_GET_SHARED_OBJECT = 41,
	VU_SET_DEVICE_STATE_FD = 42,
	VU_CHECK_DEVICE_STATE = 43,
	VU_GET_SHMEM_CONFIG = 44,
	VU_REQUEST_END
};

enum vu_backend_request { /* back-end to front-end, over the socket of VU_SET_BACKEND_REQ_FD */
	VU_BACKEND_IOTLB_MSG = 1,
	VU_BACKEND_CONFIG_CHANGE_MSG = 2,
	VU_BACKEND_VRING_HOST_NOTIFIER_MSG = 3,
	VU_BACKEND_VRING_CALL = 4,
	VU_BACKEND_VRING_ERR = 5,
	VU_BACKEND_REQUEST_END
};

enum vu_protocol_feature { /* bit numbers */
	VU_F_MQ = 0,
	VU_F_LOG_SHMFD = 1,
	VU_F_RARP = 2,
	VU_F_REPLY_ACK = 3,
	VU_F_MTU = 4,
	VU_F_BACKEND_REQ = 5,
	VU_F_CROSS_ENDIAN = 6,
	VU_F_CRYPTO_SESSION = 7,
	VU_F_PAGEFAULT = 8,
	VU_F_CONFIG = 9,
	VU_F_BACKEND_SEND_FD = 10,
	VU_F_HOST_NOTIFIER = 11,
	VU_F_INFLIGHT_SHMFD = 12,
	VU_F_RESET_DEVICE = 13,
	VU_F_INBAND_NOTIFICATIONS = 14,
	VU_F_CONFIGURE_MEM_SLOTS = 15,
	VU_F_STATUS = 16,
	VU_F_XEN_MMAP = 17,
	VU_F_SHARED_OBJECT = 18,
	VU_F_DEVICE_STATE = 19,
	VU_F_GET_VRING_BASE_INFLIGHT = 20,
	VU_F_GPA_ADDRESSES = 21,
	VU_F_SHMEM_MAP = 22,
};

#define VU_VERSION 1u	      /* bits 0 and 1 of the flags */
#define VU_VERSION_MASK 3u
#define VU_REPLY 4u	      /* this is an answer */
#define VU_NEED_REPLY 8u      /* REPLY_ACK: the sender waits for a u64, 0 for success */

#define VU_MAX_FDS 8	      /* file descriptors of one message */
#define VU_TABLE_REGIONS 8    /* regions of one memory table */
#define VU_MAX_CONFIG 4096    /* bytes of configuration in one message */
#define VU_HEADER_SIZE 12u
#define VU_MAX_PAYLOAD (12 + VU_MAX_CONFIG)

#define VU_VRING_INDEX_MASK 0xffu /* SET_VRING_KICK, CALL, ERR: which ring */
#define VU_VRING_NOFD 0x100u	  /* ... no descriptor comes with the message */
#define VU_VRING_LOG 1u		  /* struct vu_vring_addr: log writes to the ring */
#define VU_CONFIG_WRITABLE 0u	  /* struct vu_config: a write of the driver */
#define VU_CONFIG_MIGRATION 1u	  /* ... a write to restore a migrated device */

struct vu_header {
	uint32_t request, flags, size;
};

/** struct vu_vring_state - @num: size, base or on/off, depending on the message */
struct vu_vring_state {
	uint32_t index, num;
};

/** struct vu_vring_addr - addresses are the front-end's virtual ones, but for @log, which is guest physical */
struct vu_vring_addr {
	uint32_t index, flags;
	uint64_t desc, used, avail, log;
};

struct vu_region {
	uint64_t gpa, size, uva, mmap_offset;
};

struct vu_mem_table {
	uint32_t n, pad;
	struct vu_region region[VU_TABLE_REGIONS];
};

struct vu_mem_reg {
	uint64_t pad;
	struct vu_region region;
};

struct vu_log {
	uint64_t size, offset;
};

struct vu_config {
	uint32_t offset, size, flags;
	uint8_t data[VU_MAX_CONFIG];
};
#define VU_CONFIG_HEAD ((uint32_t)offsetof(struct vu_config, data))

/** struct vu_inflight - 20 bytes in the protocol's text, 24 as QEMU and DPDK send it; both are taken */
struct vu_inflight {
	uint64_t mmap_size, mmap_offset;
	uint16_t num_queues, queue_size;
};
#define VU_INFLIGHT_MIN 20u

union vu_payload {
	uint64_t u64;
	struct vu_vring_state state;
	struct vu_vring_addr addr;
	struct vu_mem_table table;
	struct vu_mem_reg reg;
	struct vu_log log;
	struct vu_config config;
	struct vu_inflight inflight;
	uint8_t bytes[VU_MAX_PAYLOAD];
};

/**
 * struct vu_msg - one message
 * @nfds: descriptors in @fds; received ones belong to whoever holds the message, see vu_msg_take_fd()
 */
struct vu_msg {
	struct vu_header h;
	uint32_t nfds;
	int fds[VU_MAX_FDS];
	union vu_payload p;
};

/**
 * struct vu_message_rule - what a request and its answer must look like
 * @name:      NULL: no such message
 * @min, @max: payload bytes
 * @min_fds, @max_fds: file descriptors
 * @gate:      protocol feature bit that must be negotiated, or VU_NO_GATE
 * @answered:  it has an answer of its own (other than the one VU_NEED_REPLY asks for)
 * @reply_min, @reply_max: payload bytes of that answer
 * @reply_fds: most file descriptors of that answer
 */
struct vu_message_rule {
	const char *name;
	uint16_t min, max;
	uint8_t min_fds, max_fds;
	int8_t gate;
	bool answered;
	uint16_t reply_min, reply_max;
	uint8_t reply_fds;
};
#define VU_NO_GATE (-1)

/** vu_request_rule() - the rule of a front-end's request, NULL when there is none */
const struct vu_message_rule *vu_request_rule(uint32_t request);
/** vu_backend_request_rule() - the rule of a back-end's request, NULL when there is none */
const struct vu_message_rule *vu_backend_request_rule(uint32_t request);
/** vu_request_name() - for messages to people; never NULL */
const char *vu_request_name(uint32_t request);

/**
 * vu_rule_check() - are size, descriptors, gate and inner counts of a request as its rule says?
 * @rule:     of @m->h.request, or NULL
 * @protocol: protocol features that are negotiated
 *
 * Return: NULL when good, else the reason as a constant text.
 */
const char *vu_rule_check(const struct vu_message_rule *rule, const struct vu_msg *m, uint64_t protocol);
/** vu_reply_check() - is @reply the answer to a @request that has one of its own? NULL or the reason */
const char *vu_reply_check(uint32_t request, const struct vu_msg *reply);

/**
 * struct vu_rx - how far the message that is being received has come; zero it for a new connection
 */
struct vu_rx {
	uint32_t have; /* bytes of header and payload that are here */
};

/**
 * vu_recv() - go on receiving one message; never blocks
 * @rx: progress, kept from call to call
 * @m:  the message so far
 *
 * Never reads beyond the end of the message. Descriptors are taken with the
 * message's first byte only. On an error the descriptors received so far are
 * closed. Return: 1: @m is complete and @rx ready for the next one; -EAGAIN:
 * call again when the socket is readable; -ECONNRESET: the peer has gone
 * (also in the middle of a message); -EPROTO: wrong version, size above
 * VU_MAX_PAYLOAD, more descriptors than VU_MAX_FDS or ones where none belong;
 * -EMFILE: the descriptors did not fit into this process; other -errno.
 */
int vu_recv(int sock, struct vu_rx *rx, struct vu_msg *m);
/**
 * vu_send() - go on sending one message; never blocks, never raises SIGPIPE
 * @m:    @h.size bytes of payload and @nfds descriptors, which stay the caller's
 * @sent: bytes sent so far, 0 at first
 *
 * Return: 1: all is sent; -EAGAIN: call again when the socket is writable; other -errno.
 */
int vu_send(int sock, const struct vu_msg *m, uint32_t *sent);

/** vu_recv_wait() - a whole message, at most @timeout_ms (-1: no limit) for each part; 0, -ETIMEDOUT or as vu_recv() */
int vu_recv_wait(int sock, struct vu_msg *m, int timeout_ms);
/** vu_send_wait() - send a whole message, at most @timeout_ms (-1: no limit) for each part; 0, -ETIMEDOUT or -errno */
int vu_send_wait(int sock, const struct vu_msg *m, int timeout_ms);

/** vu_msg_init() - an empty request with @size bytes of payload (zeroed) and no descriptors */
void vu_msg_init(struct vu_msg *m, uint32_t request, uint32_t size);
/** vu_msg_take_fd() - hand descriptor @i over to the caller */
int vu_msg_take_fd(struct vu_msg *m, unsigned int i);
/** vu_msg_close_fds() - close the descriptors that nobody took */
void vu_msg_close_fds(struct vu_msg *m);

#endif
