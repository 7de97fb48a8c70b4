/* SPDX-License-Identifier: MIT */
/* vhost_user_server.c - vhost-user server: the socket, the connection, the life of a front-end
 *
 * Theory of operation
 *
 * One message at a time: receive it as its bytes come, judge it by the table
 * of rules (vhost/wire.c), run its handler, send the answer if there is one,
 * then read on. Nothing blocks. While an answer waits for room in the socket,
 * or a handler waits for rings to stop, no further message is read; other
 * devices on the same loop go on.
 *
 * Policy for messages that are wrong:
 *
 *  - Broken framing (version, a size beyond any message, descriptors where
 *    none belong or more than anybody sends): the stream can no longer be
 *    trusted, the connection is closed.
 *  - Whole, but not acceptable (unknown, not negotiated, wrong size or number
 *    of descriptors, nonsense inside, at the wrong moment): nothing is changed
 *    and the front-end is told in the one way it can hear. If it asked for an
 *    acknowledgement (REPLY_ACK) it gets a nonzero one and the connection goes
 *    on; otherwise the connection is closed, because the front-end would
 *    believe that the message took effect or wait for an answer for ever.
 *  - Rings that cannot start are not messages: see vhost_user_ring.c.
 *
 * Descriptors of a message belong to it; a handler takes those it keeps, the
 * rest is closed when the message is finished, however that comes about.
 *
 * When the front-end has gone (end of file at any moment, also within a
 * message) its rings are stopped, requests in flight are waited for, the
 * device is reset, everything that came from the front-end is dropped, and
 * only then the next one is accepted.
 */
#include "transport/vhost_user_server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Messages handled in one turn of the loop; a chatty front-end does not keep others waiting. */
#define BUDGET 32
/* How long not to accept when this process has run out of descriptors. */
#define ACCEPT_AGAIN_NS 100000000ULL

static void close_connection(struct sl_vhost_user_server *s);
static void wait_for_next(struct sl_vhost_user_server *s);

void vus_complain(struct sl_vhost_user_server *s, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	sl_log_limited(&s->limit, SL_LOG_WARN, "%s: vhost-user: %s", sl_device_name(s->device), text);
}

/* ---- one message ---- */

/* Watch for what this connection can do next: send, receive, or nothing before its rings have stopped. */
static void set_events(struct sl_vhost_user_server *s)
{
	struct vus_conn *c = s->conn;
	int ret = sl_watch_mod(&c->watch, c->answering ? EPOLLOUT : c->after ? 0 : EPOLLIN);

	if (ret < 0) {
		vus_complain(s, "%s", strerror(-ret));
		close_connection(s);
	}
}

/* The answer goes on; 1: all of it is sent, 0: later, -1: the connection is closed. */
static int send_answer(struct sl_vhost_user_server *s)
{
	struct vus_conn *c = s->conn;
	int ret = vu_send(c->fd, &c->out, &c->sent);

	if (ret == -EAGAIN)
		return 0;
	c->answering = false;
	vu_msg_close_fds(&c->out);
	if (ret == 1)
		return 1;
	close_connection(s);
	return -1;
}

static int answer(struct sl_vhost_user_server *s)
{
	s->conn->answering = true;
	s->conn->sent = 0;
	return send_answer(s);
}

static bool wants_ack(const struct sl_vhost_user_server *s)
{
	return s->conn->in.h.flags & VU_NEED_REPLY && vus_has(s, VU_F_REPLY_ACK);
}

/* The message was refused: tell the front-end, or part. */
static int refuse(struct sl_vhost_user_server *s, int error, const char *why)
{
	const struct vus_conn *c = s->conn;
	const struct vu_message_rule *rule = vu_request_rule(c->in.h.request);

	vus_complain(s, "%s (%u): %s", vu_request_name(c->in.h.request), c->in.h.request, why);
	/* A nonzero number would be taken for the answer itself where the message has one. */
	if (error == -EPROTO || !wants_ack(s) || (rule && rule->answered)) {
		close_connection(s);
		return -1;
	}
	vus_answer(s, sizeof(uint64_t));
	s->conn->out.p.u64 = 1;
	return answer(s);
}

/* A handler, or its second half, has said @ret; as send_answer(). */
static int finish(struct sl_vhost_user_server *s, int ret)
{
	vu_msg_close_fds(&s->conn->in);
	if (ret < 0)
		return refuse(s, ret, strerror(-ret));
	if (ret == VUS_LATER)
		return 0;
	if (ret == VUS_ANSWER)
		return answer(s);
	if (!wants_ack(s))
		return 1;
	vus_answer(s, sizeof(uint64_t));
	return answer(s);
}

static int handle(struct sl_vhost_user_server *s)
{
	struct vu_msg *m = &s->conn->in;
	const char *why = vu_rule_check(vu_request_rule(m->h.request), m, s->protocol);

	if (m->h.flags & VU_REPLY)
		why = "an answer nobody asked for";
	if (!why)
		return finish(s, vus_handle(s));
	vu_msg_close_fds(m);
	return refuse(s, -EINVAL, why);
}

static const char *recv_error(int error)
{
	switch (error) {
	case -EPROTO:
		return "not a message of this protocol";
	case -EMFILE:
		return "no room for its file descriptors";
	default:
		return strerror(-error);
	}
}

static void receive(struct sl_vhost_user_server *s)
{
	for (int i = 0; i < BUDGET; i++) {
		int ret = vu_recv(s->conn->fd, &s->conn->rx, &s->conn->in);

		if (ret == -EAGAIN)
			break;
		if (ret < 0) {
			if (ret != -ECONNRESET)
				vus_complain(s, "%s", recv_error(ret));
			close_connection(s);
			return;
		}
		ret = handle(s);
		if (ret < 0)
			return;
		if (!ret)
			break;
	}
	set_events(s);
}

static void connection_ready(void *arg, uint32_t events)
{
	struct sl_vhost_user_server *s = arg;

	(void)events; /* a hang-up shows when sending or receiving */
	if (!s->conn->answering || send_answer(s) > 0)
		receive(s);
}

/* ---- waiting for rings ---- */

/*
 * The last trace of the front-end. No call of a ring is on its way any more:
 * its loop sent it before it sent that the ring has stopped, and in that order they came.
 */
static void forget_front_end(struct sl_vhost_user_server *s)
{
	for (unsigned int i = 0; i < s->num_rings; i++)
		vus_ring_forget(&s->rings[i], true);
	vus_memory_forget(s);
	sl_timer_clear(s->loop, &s->poll_timer);
	s->protocol = s->features = 0;
	s->features_set = s->closing = s->channel.config_owed = false;
}

/* No ring runs any more: be ready for the next front-end. */
static void finish_closing(struct sl_vhost_user_server *s)
{
	free(s->conn);
	s->conn = NULL;
	sl_device_reset(s->device, NULL, NULL); /* nothing is in flight: it is done when this returns */
	forget_front_end(s);
	if (!s->stop_wanted)
		wait_for_next(s);
	/* The last thing here, for both may end in sl_vhost_user_server_free(). */
	if (s->stop_wanted && s->stop_done)
		s->stop_done(s->stop_arg);
	else if (!s->stop_wanted && s->cfg.gone)
		s->cfg.gone(s->cfg.arg);
}

static void resume(void *arg)
{
	struct sl_vhost_user_server *s = arg;
	int (*after)(struct sl_vhost_user_server *s);

	if (s->draining)
		return;
	if (s->closing) {
		finish_closing(s);
		return;
	}
	if (!s->conn || !s->conn->after)
		return;
	after = s->conn->after;
	s->conn->after = NULL;
	/* What else has arrived is read in the next turn: EPOLLIN is level triggered. */
	if (finish(s, after(s)) >= 0)
		set_events(s);
}

/* The front-end has gone or is sent away. The rest happens in resume(), when its rings have stopped. */
static void close_connection(struct sl_vhost_user_server *s)
{
	struct vus_conn *c = s->conn;

	s->closing = true;
	sl_watch_del(&c->watch);
	close(c->fd);
	vu_msg_close_fds(&c->in);
	if (c->answering)
		vu_msg_close_fds(&c->out);
	vus_channel_set(s, -1);
	vus_rings_stop(s, VUS_KEEP);
	sl_task_post(s->loop, &s->resume);
}

/* ---- accepting ---- */

static int connected(struct sl_vhost_user_server *s, int fd)
{
	struct vus_conn *c = calloc(1, sizeof(*c));
	struct sl_err err = {0};
	int ret;

	if (!c)
		return -ENOMEM;
	s->mem = sl_mem_new(NULL, 0, &err);
	c->fd = fd;
	c->watch = (struct sl_watch){.fn = connection_ready, .arg = s};
	ret = s->mem ? sl_watch_add(s->loop, &c->watch, fd, EPOLLIN) : -ENOMEM;
	if (ret < 0) {
		sl_mem_put(s->mem);
		s->mem = NULL;
		free(c);
		return ret;
	}
	s->conn = c;
	return 0;
}

static void accept_one(void *arg, uint32_t events)
{
	struct sl_vhost_user_server *s = arg;
	int fd = accept4(s->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int ret;

	(void)events;
	ret = fd < 0 ? -errno : connected(s, fd);
	if (!ret) {
		sl_watch_del(&s->listen_watch);
		return;
	}
	if (fd >= 0)
		close(fd);
	if (ret == -EAGAIN || ret == -EINTR || ret == -ECONNABORTED)
		return;
	vus_complain(s, "cannot accept a front-end: %s", strerror(-ret));
	sl_watch_del(&s->listen_watch);
	sl_timer_set(s->loop, &s->accept_again, ACCEPT_AGAIN_NS);
}

static void listen_again(void *arg)
{
	struct sl_vhost_user_server *s = arg;
	int ret = sl_watch_add(s->loop, &s->listen_watch, s->listener.fd, EPOLLIN);

	if (ret < 0) {
		vus_complain(s, "cannot wait for a front-end: %s", strerror(-ret));
		sl_timer_set(s->loop, &s->accept_again, ACCEPT_AGAIN_NS);
	}
}

static void wait_for_next(struct sl_vhost_user_server *s)
{
	if (s->listener.fd >= 0)
		listen_again(s);
}

/* ---- the socket ---- */

static int use_inherited(struct sl_vhost_user_server *s, int fd, bool is_connected, struct sl_err *err)
{
	int domain = 0, type = 0, listening = 0, ret;
	socklen_t len = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX ||
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM)
		return sl_err_set(err, EINVAL, "fd %d: not a Unix stream socket", fd);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || listening == is_connected)
		return sl_err_set(err, EINVAL, "fd %d: not a %s socket", fd, is_connected ? "connected" : "listening");
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	if (!is_connected) {
		s->listener.fd = fd;
		return 0;
	}
	ret = connected(s, fd);
	return ret ? sl_err_set(err, -ret, "fd %d: %s", fd, strerror(-ret)) : 0;
}

static void stop_listening(struct sl_vhost_user_server *s)
{
	sl_timer_clear(s->loop, &s->accept_again);
	sl_watch_del(&s->listen_watch);
	listener_close(&s->listener);
}

/* ---- life ---- */

struct sl_vhost_user_server *sl_vhost_user_server_new(const struct sl_vhost_user_config *cfg, struct sl_err *err)
{
	unsigned int n = sl_device_num_queues(cfg->device);
	struct sl_vhost_user_server *s;
	int ret;

	if (n > VUS_MAX_RINGS) {
		sl_err_set(err, EINVAL, "%s: %u queues: vhost-user carries at most %u", sl_device_name(cfg->device), n,
			   VUS_MAX_RINGS);
		return NULL;
	}
	s = calloc(1, sizeof(*s) + n * sizeof(s->rings[0]));
	if (!s) {
		sl_err_set(err, ENOMEM, "%s: out of memory", sl_device_name(cfg->device));
		return NULL;
	}
	s->cfg = *cfg;
	s->device = cfg->device;
	s->loop = sl_device_control(s->device);
	s->listener.fd = s->channel.fd = -1;
	s->listen_watch = (struct sl_watch){.fn = accept_one, .arg = s};
	s->accept_again = (struct sl_timer){.fn = listen_again, .arg = s};
	s->resume = (struct sl_task){.fn = resume, .arg = s};
	s->num_rings = n;
	vus_rings_init(s);

	ret = cfg->path ? listener_open(&s->listener, cfg->path, 0, err) : use_inherited(s, cfg->fd, cfg->connected, err);
	if (!ret && s->listener.fd >= 0) {
		ret = sl_watch_add(s->loop, &s->listen_watch, s->listener.fd, EPOLLIN);
		if (ret)
			sl_err_set(err, -ret, "%s: socket: %s", cfg->path ? cfg->path : "fd", strerror(-ret));
	}
	if (ret) {
		if (!cfg->path)
			s->listener.fd = -1; /* still the caller's */
		stop_listening(s);
		free(s);
		return NULL;
	}
	sl_device_attach(s->device, &vus_transport_ops, s);
	return s;
}

bool sl_vhost_user_server_connected(const struct sl_vhost_user_server *s)
{
	return s->conn && !s->closing;
}

void sl_vhost_user_server_stop(struct sl_vhost_user_server *s, void (*done)(void *arg), void *arg)
{
	s->stop_wanted = true;
	s->stop_done = done;
	s->stop_arg = arg;
	stop_listening(s);
	if (s->conn && !s->closing)
		close_connection(s);
	else if (!s->closing && done)
		done(arg);
}

void sl_vhost_user_server_free(struct sl_vhost_user_server *s)
{
	if (!s)
		return;
	sl_device_attach(s->device, NULL, NULL);
	sl_task_cancel(s->loop, &s->resume);
	free(s);
}
