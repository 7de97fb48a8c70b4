/* SPDX-License-Identifier: MIT */
/* vhost_user_ring.c - vhost-user server: the states of a ring
 *
 * Theory of operation
 *
 * The protocol has two axes, stopped or started and disabled or enabled. A
 * ring is the device's (@running) while it is both started and enabled:
 *
 *	started:  it has a size, addresses, a way to be kicked, features and
 *	          memory, and no GET_VRING_BASE came since. The protocol starts a
 *	          ring with its first kick; here it starts as soon as it could be
 *	          kicked and is looked at at once. For a front-end that kicks this
 *	          makes no difference; buffers that were there before (after a
 *	          restore, a reconnect, a crash) are not left until the next kick.
 *	enabled:  SET_VRING_ENABLE; or SET_FEATURES without bit 30, which enables
 *	          every ring for good, as such front-ends know no other way.
 *
 * GET_VRING_BASE and disabling wait until the requests in flight are done.
 * GET_VRING_BASE also closes the kick descriptor: a kick that is still in it
 * must not start the ring again behind the front-end's back.
 *
 * A ring that cannot start or that breaks is reported on the error descriptor
 * and in the log; the connection and the other rings go on. Starting is tried
 * again with each message that changes something about the ring.
 */
#include "transport/vhost_user_server.h"

#include <errno.h>
#include <unistd.h>

#include "base/notify.h"

/* How often a ring without any kick is looked at. */
#define POLL_NS 1000000ULL

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void report_failure(struct vus_ring *r)
{
	if (r->err >= 0) {
		notify_peer(r->s->loop, r->err);
	} else if (vus_has(r->s, VU_F_INBAND_NOTIFICATIONS)) {
		r->err_owed = true;
		vus_channel_flush(r->s);
	}
}

/* ---- start ---- */

/* Did the front-end say how this ring will be kicked? In-band kicks need no word about it. */
static bool has_kick(const struct vus_ring *r)
{
	return r->kick >= 0 || r->polled || vus_has(r->s, VU_F_INBAND_NOTIFICATIONS);
}

static bool ready(const struct vus_ring *r)
{
	unsigned int regions;

	if (r->running || r->stopped || r->broken || !r->enabled || !r->num || !r->have_addr)
		return false;
	if (!r->s->features_set || !has_kick(r))
		return false;
	sl_mem_regions(r->s->mem, &regions);
	return regions > 0;
}

/*
 * The base of a packed ring has two halves, available and used. Front-ends
 * that stopped with nothing in flight leave the used half out (DPDK), or send
 * just 0 for a fresh ring (User-mode Linux), which is also what the end of
 * the first lap looks like. The flags of the first descriptor tell these two
 * apart: USED is set there when the lap that just ended had wrap counter 1.
 */
static uint32_t packed_base(const struct vus_ring *r, uint64_t desc)
{
	uint8_t flags_high = 0;

	if (r->base >> 16)
		return r->base;
	if (r->base)
		return r->base << 16 | r->base;
	if (!sl_mem_read(r->s->mem, desc + 15, &flags_high, 1) && flags_high & 0x80)
		return 0;
	return 0x80008000;
}

static int translate(const struct vus_ring *r, struct sl_vq_config *vq, struct sl_err *err)
{
	const struct sl_mem *mem = r->s->mem;

	if (!sl_mem_uva_to_gpa(mem, r->addr.desc, &vq->desc) || !sl_mem_uva_to_gpa(mem, r->addr.avail, &vq->driver) ||
	    !sl_mem_uva_to_gpa(mem, r->addr.used, &vq->device))
		return sl_err_set(err, EFAULT, "ring addresses are not in the memory table");
	return 0;
}

static bool logs(const struct sl_vhost_user_server *s)
{
	return s->log && s->features >> SL_F_LOG_ALL & 1;
}

static int start(struct vus_ring *r, struct sl_err *err)
{
	struct sl_vhost_user_server *s = r->s;
	bool packed = s->features >> SL_F_RING_PACKED & 1;
	struct sl_queue_setup setup = {
		.vq = {.num = r->num, .log = logs(s) ? s->log : NULL, .log_ring = r->addr.flags & VU_VRING_LOG,
		       .log_addr = r->addr.log},
		.kick_fd = r->kick,
		.call_fd = r->call,
	};
	int ret;

	ret = translate(r, &setup.vq, err);
	if (ret)
		return ret;
	if (!packed && r->base > UINT16_MAX)
		return sl_err_set(err, EINVAL, "base %#x is beyond any split ring", r->base);
	setup.vq.base = packed ? packed_base(r, setup.vq.desc) : r->base;
	if (vus_inflight_part(s, r->index, r->num, packed, &setup.vq.inflight))
		return sl_err_set(err, EINVAL, "the inflight region does not cover it");
	return sl_queue_start(s->device, r->index, &setup, s->mem, err);
}

static void poll_rings(void *arg)
{
	struct sl_vhost_user_server *s = arg;
	bool again = false;

	for (unsigned int i = 0; i < s->num_rings; i++)
		if (s->rings[i].running && s->rings[i].polled) {
			sl_queue_kick(s->device, i);
			again = true;
		}
	if (again)
		sl_timer_set(s->loop, &s->poll_timer, POLL_NS);
}

static void try_start(struct vus_ring *r)
{
	struct sl_err err = {0};

	if (!ready(r))
		return;
	if (start(r, &err) < 0) {
		vus_complain(r->s, "queue %u: %s", r->index, err.text);
		report_failure(r);
		return;
	}
	r->running = true;
	r->left = 0;
	if (r->polled && !r->s->poll_timer.set)
		sl_timer_set(r->s->loop, &r->s->poll_timer, POLL_NS);
	vus_channel_flush(r->s);
}

bool vus_rings_run(const struct sl_vhost_user_server *s)
{
	for (unsigned int i = 0; i < s->num_rings; i++)
		if (s->rings[i].running)
			return true;
	return false;
}

void vus_rings_start(struct sl_vhost_user_server *s)
{
	for (unsigned int i = 0; i < s->num_rings; i++)
		try_start(&s->rings[i]);
}

/* ---- stop ---- */

void vus_ring_stop(struct vus_ring *r, enum vus_stop how)
{
	if (!r->running || r->stopping)
		return;
	r->stopping = true;
	r->s->draining++;
	if (how == VUS_FORGET)
		sl_queue_reset(r->s->device, r->index);
	else
		sl_queue_stop(r->s->device, r->index);
}

void vus_rings_stop(struct sl_vhost_user_server *s, enum vus_stop how)
{
	for (unsigned int i = 0; i < s->num_rings; i++)
		vus_ring_stop(&s->rings[i], how);
}

static void queue_stopped(void *t, unsigned int index, uint32_t base)
{
	struct sl_vhost_user_server *s = t;
	struct vus_ring *r = &s->rings[index];

	if (!r->stopping)
		return;
	r->stopping = r->running = false;
	r->base = base;
	/* Not from in here: the device may be in the middle of its own work. */
	if (!--s->draining)
		sl_task_post(s->loop, &s->resume);
}

static void queue_broken(void *t, unsigned int index, const char *why)
{
	struct sl_vhost_user_server *s = t;

	(void)why; /* the device logged it */
	s->rings[index].broken = true;
	report_failure(&s->rings[index]);
}

/* ---- messages ---- */

/* The ring that a message of the form struct vu_vring_state or struct vu_vring_addr names, or NULL. */
static struct vus_ring *named_ring(struct sl_vhost_user_server *s)
{
	uint32_t index = s->conn->in.p.state.index;

	return index < s->num_rings ? &s->rings[index] : NULL;
}

int vus_set_vring_num(struct sl_vhost_user_server *s)
{
	struct vus_ring *r = named_ring(s);
	uint32_t num = s->conn->in.p.state.num;

	if (!r || !num || num > sl_device_max_queue_size(s->device))
		return -EINVAL;
	if (r->running)
		return num == r->num ? VUS_OK : -EBUSY;
	/* Only packed rings may have any size; with features still open that shows when the ring starts. */
	if (num & (num - 1) && s->features_set && !(s->features >> SL_F_RING_PACKED & 1))
		return -EINVAL;
	r->num = (uint16_t)num;
	try_start(r);
	return VUS_OK;
}

int vus_set_vring_addr(struct sl_vhost_user_server *s)
{
	const struct vu_vring_addr *a = &s->conn->in.p.addr;
	struct vus_ring *r = named_ring(s);

	if (!r || a->flags & ~VU_VRING_LOG)
		return -EINVAL;
	/* While the ring runs this only switches its log (QEMU does so when a migration begins and ends). */
	if (r->running && (a->desc != r->addr.desc || a->avail != r->addr.avail || a->used != r->addr.used))
		return -EBUSY;
	r->addr = *a;
	r->have_addr = true;
	vus_rings_log(s);
	try_start(r);
	return VUS_OK;
}

int vus_set_vring_base(struct sl_vhost_user_server *s)
{
	struct vus_ring *r = named_ring(s);

	if (!r)
		return -EINVAL;
	if (r->running)
		return -EBUSY;
	r->base = s->conn->in.p.state.num;
	r->left = 0;
	try_start(r);
	return VUS_OK;
}

static int answer_base(struct sl_vhost_user_server *s)
{
	struct vus_ring *r = named_ring(s);

	r->stopped = true;
	r->broken = r->polled = false;
	close_fd(&r->kick);
	vus_answer(s, sizeof(struct vu_vring_state));
	s->conn->out.p.state = (struct vu_vring_state){r->index, r->left ? r->left : r->base};
	return VUS_ANSWER;
}

int vus_get_vring_base(struct sl_vhost_user_server *s)
{
	struct vus_ring *r = named_ring(s);

	if (!r)
		return -EINVAL;
	vus_ring_stop(r, VUS_KEEP);
	return vus_when_drained(s, answer_base);
}

static int after_disable(struct sl_vhost_user_server *s)
{
	(void)s;
	return VUS_OK;
}

int vus_set_vring_enable(struct sl_vhost_user_server *s)
{
	struct vus_ring *r = named_ring(s);
	uint32_t on = s->conn->in.p.state.num;

	if (!r || on > 1)
		return -EINVAL;
	r->enabled = on;
	if (on) {
		try_start(r);
		return VUS_OK;
	}
	vus_ring_stop(r, VUS_KEEP);
	return vus_when_drained(s, after_disable);
}

/* The ring of a message of the SET_VRING_KICK form, and its descriptor, taken over: -1 when there is none. */
static struct vus_ring *ring_and_fd(struct sl_vhost_user_server *s, int *fd)
{
	struct vu_msg *m = &s->conn->in;
	uint32_t index = m->p.u64 & VU_VRING_INDEX_MASK;

	if (index >= s->num_rings)
		return NULL;
	*fd = m->nfds ? vu_msg_take_fd(m, 0) : -1;
	return &s->rings[index];
}

int vus_set_vring_kick(struct sl_vhost_user_server *s)
{
	int fd, old;
	struct vus_ring *r = ring_and_fd(s, &fd);

	if (!r)
		return -EINVAL;
	old = r->kick;
	r->kick = fd;
	r->polled = fd < 0 && !vus_has(s, VU_F_INBAND_NOTIFICATIONS);
	r->stopped = false;
	if (r->running) {
		sl_queue_set_kick(s->device, r->index, fd);
		if (r->polled && !s->poll_timer.set)
			sl_timer_set(s->loop, &s->poll_timer, POLL_NS);
	}
	close_fd(&old);
	try_start(r);
	return VUS_OK;
}

int vus_set_vring_call(struct sl_vhost_user_server *s)
{
	int fd, old;
	struct vus_ring *r = ring_and_fd(s, &fd);

	if (!r)
		return -EINVAL;
	old = r->call;
	r->call = fd;
	if (r->running) {
		sl_queue_set_call(s->device, r->index, fd);
		/* What was used while there was nobody to call. */
		if (old < 0 && fd >= 0)
			notify_peer(s->loop, fd);
	}
	close_fd(&old);
	return VUS_OK;
}

int vus_set_vring_err(struct sl_vhost_user_server *s)
{
	int fd;
	struct vus_ring *r = ring_and_fd(s, &fd);

	if (!r)
		return -EINVAL;
	close_fd(&r->err);
	r->err = fd;
	return VUS_OK;
}

int vus_vring_kick(struct sl_vhost_user_server *s)
{
	struct vus_ring *r = named_ring(s);

	if (!r)
		return -EINVAL;
	if (r->running)
		sl_queue_kick(s->device, r->index);
	if (r->stopped) {
		r->stopped = false;
		try_start(r);
	}
	return VUS_OK;
}

/* ---- the rest ---- */

void vus_rings_log(struct sl_vhost_user_server *s)
{
	for (unsigned int i = 0; i < s->num_rings; i++) {
		struct vus_ring *r = &s->rings[i];

		if (r->running)
			sl_queue_set_log(s->device, i, logs(s) ? s->log : NULL, r->addr.flags & VU_VRING_LOG,
					 r->addr.log);
	}
}

/* Data loop: no descriptor to call with; the control loop may have a message to send. */
static void queue_call(void *t, unsigned int index)
{
	struct sl_vhost_user_server *s = t;
	struct vus_ring *r = &s->rings[index];

	if (!atomic_exchange(&r->calling, true))
		sl_task_send(s->loop, &r->call_task);
}

static void send_call(void *arg)
{
	struct vus_ring *r = arg;

	atomic_store(&r->calling, false);
	if (!vus_has(r->s, VU_F_INBAND_NOTIFICATIONS))
		return; /* the driver polls */
	r->call_owed = true;
	vus_channel_flush(r->s);
}

static void config_changed(void *t)
{
	struct sl_vhost_user_server *s = t;

	if (!vus_has(s, VU_F_CONFIG))
		return;
	s->channel.config_owed = true;
	vus_channel_flush(s);
}

void vus_rings_init(struct sl_vhost_user_server *s)
{
	s->poll_timer = (struct sl_timer){.fn = poll_rings, .arg = s};
	for (unsigned int i = 0; i < s->num_rings; i++) {
		struct vus_ring *r = &s->rings[i];

		r->s = s;
		r->index = (uint16_t)i;
		r->kick = r->call = r->err = -1;
		r->call_task = (struct sl_task){.fn = send_call, .arg = r};
	}
}

void vus_ring_forget(struct vus_ring *r, bool fds)
{
	r->num = 0;
	r->base = r->left = 0;
	r->have_addr = r->polled = r->enabled = r->stopped = r->broken = false;
	close_fd(&r->kick);
	if (!fds)
		return;
	r->call_owed = r->err_owed = false;
	close_fd(&r->call);
	close_fd(&r->err);
}

const struct sl_transport_ops vus_transport_ops = {
	.queue_call = queue_call,
	.queue_stopped = queue_stopped,
	.queue_broken = queue_broken,
	.config_changed = config_changed,
	.shared_calls = true,
};
