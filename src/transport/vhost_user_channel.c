/* SPDX-License-Identifier: MIT */
/* vhost_user_channel.c - vhost-user server: the back-end's own requests to the front-end
 *
 * Nothing is queued: what is to be said is a set of flags (the configuration
 * changed, ring N calls, ring N failed), so a front-end that does not read
 * costs no memory and hears each of them once when it reads again. No request
 * asks for an answer, so nothing is ever read here; a front-end may be waiting
 * for our answer on the main socket at the same time.
 *
 * While no ring runs the device is suspended, and a suspended device says
 * nothing about its configuration: QEMU would not hear it. It is told when a
 * ring starts.
 */
#include "transport/vhost_user_server.h"

#include <errno.h>
#include <unistd.h>

static void writable(void *arg, uint32_t events)
{
	struct sl_vhost_user_server *s = arg;

	(void)events;
	sl_watch_del(&s->channel.watch);
	s->channel.waiting = false;
	vus_channel_flush(s);
}

/* Send one request; false when the rest has to wait. */
static bool say(struct sl_vhost_user_server *s, uint32_t request, const struct vus_ring *r)
{
	struct vu_msg m;
	uint32_t sent = 0;
	int ret;

	vu_msg_init(&m, request, r ? sizeof(m.p.state) : 0);
	if (r)
		m.p.state.index = r->index;
	ret = vu_send(s->channel.fd, &m, &sent);
	if (ret == 1)
		return true;
	/* A message is smaller than what a Unix socket takes at once: all or nothing. */
	if (ret == -EAGAIN && !sent) {
		s->channel.watch = (struct sl_watch){.fn = writable, .arg = s};
		s->channel.waiting = !sl_watch_add(s->loop, &s->channel.watch, s->channel.fd, EPOLLOUT);
		if (s->channel.waiting)
			return false;
	}
	vus_channel_set(s, -1);
	return false;
}

void vus_channel_flush(struct sl_vhost_user_server *s)
{
	struct vus_channel *c = &s->channel;

	if (c->fd < 0 || c->waiting)
		return;
	if (c->config_owed && vus_rings_run(s)) {
		if (!say(s, VU_BACKEND_CONFIG_CHANGE_MSG, NULL))
			return;
		c->config_owed = false;
	}
	for (unsigned int i = 0; i < s->num_rings; i++) {
		struct vus_ring *r = &s->rings[i];

		if (r->call_owed) {
			if (!say(s, VU_BACKEND_VRING_CALL, r))
				return;
			r->call_owed = false;
		}
		if (r->err_owed) {
			if (!say(s, VU_BACKEND_VRING_ERR, r))
				return;
			r->err_owed = false;
		}
	}
}

void vus_channel_set(struct sl_vhost_user_server *s, int fd)
{
	struct vus_channel *c = &s->channel;

	sl_watch_del(&c->watch);
	c->waiting = false;
	if (c->fd >= 0)
		close(c->fd);
	c->fd = fd;
	vus_channel_flush(s);
}
