/* SPDX-License-Identifier: MIT */
/* vhost_user_messages.c - vhost-user server: which handler a message has, and the handlers of device-wide messages */
#include "transport/vhost_user_server.h"

#include <errno.h>

#define PROTOCOL_FEATURES                                                                                              \
	(1ULL << VU_F_MQ | 1ULL << VU_F_LOG_SHMFD | 1ULL << VU_F_REPLY_ACK | 1ULL << VU_F_BACKEND_REQ |                \
	 1ULL << VU_F_CONFIG | 1ULL << VU_F_INFLIGHT_SHMFD | 1ULL << VU_F_RESET_DEVICE |                               \
	 1ULL << VU_F_INBAND_NOTIFICATIONS | 1ULL << VU_F_CONFIGURE_MEM_SLOTS | 1ULL << VU_F_STATUS)

/* Feature bits between front-end and back-end that no driver sees. */
#define VHOST_FEATURES (1ULL << SL_F_LOG_ALL | 1ULL << SL_F_PROTOCOL_FEATURES)

/* What a device may offer, but this transport cannot carry: an IOMMU, data with a kick. */
#define NOT_CARRIED (1ULL << SL_F_ACCESS_PLATFORM | 1ULL << SL_F_NOTIFICATION_DATA)

int vus_answer(struct sl_vhost_user_server *s, uint32_t size)
{
	struct vus_conn *c = s->conn;

	vu_msg_init(&c->out, c->in.h.request, size);
	c->out.h.flags |= VU_REPLY;
	return VUS_ANSWER;
}

static int answer_u64(struct sl_vhost_user_server *s, uint64_t value)
{
	vus_answer(s, sizeof(value));
	s->conn->out.p.u64 = value;
	return VUS_ANSWER;
}

int vus_when_drained(struct sl_vhost_user_server *s, int (*after)(struct sl_vhost_user_server *s))
{
	if (!s->draining)
		return after(s);
	s->conn->after = after;
	return VUS_LATER;
}

static uint64_t offered(const struct sl_vhost_user_server *s)
{
	return (sl_device_offered(s->device)->w[0] & ~NOT_CARRIED) | VHOST_FEATURES;
}

static int get_features(struct sl_vhost_user_server *s)
{
	return answer_u64(s, offered(s));
}

static int set_features(struct sl_vhost_user_server *s)
{
	uint64_t wanted = s->conn->in.p.u64;
	struct sl_features f = {.w = {wanted & ~VHOST_FEATURES}};
	int ret;

	if (wanted & ~offered(s))
		return -EINVAL;
	ret = sl_device_accept(s->device, &f);
	if (ret)
		return ret;
	s->features = wanted;
	s->features_set = true;
	if (!(wanted >> SL_F_PROTOCOL_FEATURES & 1))
		for (unsigned int i = 0; i < s->num_rings; i++)
			s->rings[i].enabled = true;
	vus_rings_log(s);
	vus_rings_start(s);
	return VUS_OK;
}

/* QEMU complains of CONFIG where a device has no configuration. */
static uint64_t protocol_offered(const struct sl_vhost_user_server *s)
{
	return PROTOCOL_FEATURES & ~(sl_device_config_len(s->device) ? 0 : 1ULL << VU_F_CONFIG);
}

static int get_protocol_features(struct sl_vhost_user_server *s)
{
	return answer_u64(s, protocol_offered(s));
}

static int set_protocol_features(struct sl_vhost_user_server *s)
{
	const uint64_t needed = 1ULL << VU_F_BACKEND_REQ | 1ULL << VU_F_REPLY_ACK;
	uint64_t wanted = s->conn->in.p.u64;

	if (wanted & ~protocol_offered(s))
		return -EINVAL;
	/* The protocol leaves a back-end no other answer than to close. */
	if (wanted >> VU_F_INBAND_NOTIFICATIONS & 1 && (wanted & needed) != needed)
		return -EPROTO;
	s->protocol = wanted;
	return VUS_OK;
}

/* Ownership means nothing on a socket; the protocol recommends to ignore RESET_OWNER. */
static int nothing(struct sl_vhost_user_server *s)
{
	(void)s;
	return VUS_OK;
}

static int get_queue_num(struct sl_vhost_user_server *s)
{
	return answer_u64(s, s->num_rings);
}

static int set_backend_req_fd(struct sl_vhost_user_server *s)
{
	vus_channel_set(s, vu_msg_take_fd(&s->conn->in, 0));
	return VUS_OK;
}

static int get_config(struct sl_vhost_user_server *s)
{
	const struct vu_config *in = &s->conn->in.p.config;
	struct vu_config *out = &s->conn->out.p.config;

	vus_answer(s, VU_CONFIG_HEAD + in->size);
	out->offset = in->offset;
	out->size = in->size;
	out->flags = in->flags;
	sl_device_config_read(s->device, in->offset, out->data, in->size);
	return VUS_ANSWER;
}

static int set_config(struct sl_vhost_user_server *s)
{
	const struct vu_config *in = &s->conn->in.p.config;

	if (in->flags > VU_CONFIG_MIGRATION)
		return -EINVAL;
	return sl_device_config_write(s->device, in->offset, in->data, in->size);
}

static int get_max_mem_slots(struct sl_vhost_user_server *s)
{
	return answer_u64(s, SL_MEM_MAX_REGIONS);
}

static int drained_for_reset(struct sl_vhost_user_server *s)
{
	for (unsigned int i = 0; i < s->num_rings; i++) {
		struct vus_ring *r = &s->rings[i];
		uint32_t left = r->left ? r->left : r->base;

		vus_ring_forget(r, false);
		/* QEMU 7.2 stops a device with SET_STATUS 0 and asks only then where its rings were. */
		r->left = left;
	}
	s->features = 0;
	s->features_set = false;
	sl_device_reset(s->device, NULL, NULL); /* nothing is in flight: it is done when this returns */
	return VUS_OK;
}

/* Connection, memory, call descriptors and protocol features stay; the driver's part starts anew. */
static int reset_device(struct sl_vhost_user_server *s)
{
	vus_rings_stop(s, VUS_FORGET);
	return vus_when_drained(s, drained_for_reset);
}

/* QEMU also pauses a guest in this way, so that requests may be left in the inflight region. */
static int clear_status(struct sl_vhost_user_server *s)
{
	vus_rings_stop(s, VUS_KEEP);
	return vus_when_drained(s, drained_for_reset);
}

static int set_status(struct sl_vhost_user_server *s)
{
	uint64_t status = s->conn->in.p.u64;

	if (status > UINT8_MAX)
		return -EINVAL;
	if (!status)
		return clear_status(s);
	/* Bits that the device does not take stay clear, which the front-end sees when it reads the status back. */
	sl_device_set_status(s->device, (uint8_t)status);
	return VUS_OK;
}

static int get_status(struct sl_vhost_user_server *s)
{
	return answer_u64(s, sl_device_status(s->device));
}

static int (*const handlers[VU_REQUEST_END])(struct sl_vhost_user_server *s) = {
	[VU_GET_FEATURES] = get_features,
	[VU_SET_FEATURES] = set_features,
	[VU_SET_OWNER] = nothing,
	[VU_RESET_OWNER] = nothing,
	[VU_SET_MEM_TABLE] = vus_set_mem_table,
	[VU_SET_LOG_BASE] = vus_set_log_base,
	[VU_SET_LOG_FD] = nothing, /* front-ends scan the log, nobody waits for a signal about it */
	[VU_SET_VRING_NUM] = vus_set_vring_num,
	[VU_SET_VRING_ADDR] = vus_set_vring_addr,
	[VU_SET_VRING_BASE] = vus_set_vring_base,
	[VU_GET_VRING_BASE] = vus_get_vring_base,
	[VU_SET_VRING_KICK] = vus_set_vring_kick,
	[VU_SET_VRING_CALL] = vus_set_vring_call,
	[VU_SET_VRING_ERR] = vus_set_vring_err,
	[VU_GET_PROTOCOL_FEATURES] = get_protocol_features,
	[VU_SET_PROTOCOL_FEATURES] = set_protocol_features,
	[VU_GET_QUEUE_NUM] = get_queue_num,
	[VU_SET_VRING_ENABLE] = vus_set_vring_enable,
	[VU_SET_BACKEND_REQ_FD] = set_backend_req_fd,
	[VU_GET_CONFIG] = get_config,
	[VU_SET_CONFIG] = set_config,
	[VU_GET_INFLIGHT_FD] = vus_get_inflight_fd,
	[VU_SET_INFLIGHT_FD] = vus_set_inflight_fd,
	[VU_RESET_DEVICE] = reset_device,
	[VU_VRING_KICK] = vus_vring_kick,
	[VU_GET_MAX_MEM_SLOTS] = get_max_mem_slots,
	[VU_ADD_MEM_REG] = vus_add_mem_reg,
	[VU_REM_MEM_REG] = vus_rem_mem_reg,
	[VU_SET_STATUS] = set_status,
	[VU_GET_STATUS] = get_status,
};

int vus_handle(struct sl_vhost_user_server *s)
{
	int (*handler)(struct sl_vhost_user_server *s) = handlers[s->conn->in.h.request];

	return handler ? handler(s) : -EOPNOTSUPP;
}
