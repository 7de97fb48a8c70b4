/* SPDX-License-Identifier: MIT */
/* link_vhost_user.c - the front-end's side of vhost-user: a driver's way to a device in another process.
 *
 * Theory of operation
 *
 * One request is under way at a time. exchange() sends it and waits for what
 * has to come back: the answer some requests have of their own, or the
 * acknowledgement that REPLY_ACK gives to all others; without REPLY_ACK a
 * refusal shows only as a closed socket later. The whole wait has one
 * deadline, however slowly the bytes drip in. While it waits it serves the
 * back-end's own requests, because a back-end may be waiting for an answer to
 * one of those before it gives ours.
 *
 * Anything that is not the expected answer makes the link dead: after that
 * nobody can know which answer belongs to which request. A refusal that was
 * properly acknowledged does not.
 *
 * The link keeps what it was told (features, regions, inflight region), so
 * that reconnect() can say it again to a new process.
 *
 * More than 800 lines: one table of operations over one connection, whose
 * state every operation shares; the codec is apart already (vhost/wire.c).
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <sluice/link.h>
#include <sluice/loop.h>
#include <sluice/virtio.h>

#include "vhost/wire.h"

#define MAX_QUEUES 256 /* SET_VRING_KICK and CALL carry eight bits of index */
#define DEFAULT_TIMEOUT_MS 5000
#define RETRY_NS 2000000 /* between attempts to connect again */
#define BACK_BATCH 64	 /* requests of the back-end served at a time: it could send them without end */
#define NEVER UINT64_MAX /* a deadline */
#define MS 1000000ull

#define BIT(n) (1ULL << (n))

/* What this side understands. INFLIGHT_SHMFD, STATUS and RESET_DEVICE change nothing until they are used. */
#define PROTOCOL_FEATURES                                                                                              \
	(BIT(VU_F_MQ) | BIT(VU_F_REPLY_ACK) | BIT(VU_F_BACKEND_REQ) | BIT(VU_F_CONFIG) | BIT(VU_F_INFLIGHT_SHMFD) |    \
	 BIT(VU_F_RESET_DEVICE) | BIT(VU_F_STATUS))

/* Bits of GET_FEATURES that belong to vhost-user, not to the driver; and one that does not cross an eventfd. */
#define TRANSPORT_FEATURES (BIT(SL_F_LOG_ALL) | BIT(SL_F_PROTOCOL_FEATURES) | BIT(SL_F_NOTIFICATION_DATA))

/** struct link_queue - descriptors of a running queue; @own_*: made by the link */
struct link_queue {
	int kick_fd, call_fd;
	bool running, own_kick, own_call;
};

/**
 * struct vu_link
 * @name:      for messages
 * @path:      where to connect again, or NULL
 * @cancel:    ends waits, -1: nothing does
 * @patient:   see struct sl_link_vhost_user_config
 * @sock:      requests to the back-end, -1 when there is no connection
 * @back:      requests of the back-end, -1 when there is no such channel
 * @epoll:     both of them and @news, for event_fd()
 * @news:      eventfd: a request of the back-end was served while an answer was waited for, and events() has to tell
 * @dead:      the protocol is out of step or the back-end has gone
 * @config_changed: seen, and not yet told by events()
 * @features:  what GET_FEATURES said
 * @protocol:  protocol features in force
 * @accepted:  what SET_FEATURES said; valid when @has_accepted
 * @status:    last status set
 * @back_rx, @back_msg: a request of the back-end while it arrives
 */
struct vu_link {
	struct sl_link link;
	char *name, *path;
	unsigned int timeout_ms;
	int sock, back, epoll, news, cancel;
	bool patient, dead, config_changed, has_accepted, has_inflight;
	uint64_t features, protocol, accepted;
	uint8_t status;
	unsigned int num_queues, num_regions;
	struct sl_link_region regions[SL_LINK_MAX_REGIONS];
	struct sl_link_inflight inflight;
	struct link_queue queues[MAX_QUEUES];
	struct vu_rx back_rx;
	struct vu_msg back_msg;
};

static struct vu_link *to_vu(struct sl_link *l)
{
	return (struct vu_link *)l;
}

static bool protocol_has(const struct vu_link *l, unsigned int bit)
{
	return l->protocol & BIT(bit);
}

/* The connection is of no use any more. */
static int die(struct vu_link *l, int errnum, const char *what, const char *why, struct sl_err *err)
{
	l->dead = true;
	return sl_err_set(err, errnum, "vhost-user: %s: %s%s%s", l->name, what ? what : "", what ? ": " : "", why);
}

/* One text and one errno for the many ways in which a peer can be gone. */
static int die_socket(struct vu_link *l, int ret, const char *what, struct sl_err *err)
{
	switch (ret) {
	case -ECONNRESET:
	case -EPIPE:
	case -ENOTCONN:
	case -EBADF:
		return die(l, EPIPE, what, "the back-end has gone", err);
	case -EPROTO:
		return die(l, EPROTO, what, "malformed message from the back-end", err);
	default:
		return die(l, -ret, what, strerror(-ret), err);
	}
}

/* ---- the back-end's own requests ---- */

static void back_close(struct vu_link *l)
{
	if (l->back < 0)
		return;
	vu_msg_close_fds(&l->back_msg);
	close(l->back); /* leaves the epoll set by itself */
	l->back = -1;
}

/* Return: false when the channel had to be closed. */
static bool back_serve(struct vu_link *l)
{
	struct vu_msg *m = &l->back_msg, reply;
	uint32_t sent = 0;
	bool known;
	int ret = -EAGAIN;

	for (unsigned int i = 0; i < BACK_BATCH && (ret = vu_recv(l->back, &l->back_rx, m)) == 1; i++) {
		known = m->h.request == VU_BACKEND_CONFIG_CHANGE_MSG &&
			!vu_rule_check(vu_backend_request_rule(m->h.request), m, l->protocol);
		if (known && !l->config_changed) {
			l->config_changed = true;
			eventfd_write(l->news, 1);
		}
		vu_msg_close_fds(m);
		if (!(m->h.flags & VU_NEED_REPLY))
			continue;
		vu_msg_init(&reply, m->h.request, sizeof(reply.p.u64));
		reply.h.flags = VU_VERSION | VU_REPLY;
		reply.p.u64 = !known;
		/* A back-end that does not read its answers gets no more of them. */
		if (vu_send(l->back, &reply, &sent) != 1)
			return false;
		sent = 0;
	}
	return ret == 1 || ret == -EAGAIN;
}

/* ---- one request and what comes back ---- */

static int wait_ready(struct vu_link *l, short events, uint64_t deadline)
{
	struct pollfd p[3] = { { .fd = l->sock, .events = events },
			       { .fd = l->back, .events = POLLIN },
			       { .fd = l->cancel, .events = POLLIN } };
	uint64_t now;
	int ret;

	for (;;) {
		now = sl_now();
		if (now >= deadline)
			return -ETIMEDOUT;
		p[1].fd = l->back; /* poll skips -1 */
		ret = poll(p, 3, deadline == NEVER ? -1 : (int)((deadline - now) / MS) + 1);
		if (ret < 0 && errno != EINTR)
			return -errno;
		if (ret > 0 && p[2].revents)
			return -ECANCELED;
		if (ret > 0 && p[1].revents && !back_serve(l))
			back_close(l);
		if (ret > 0 && p[0].revents)
			return 0;
	}
}

static int send_all(struct vu_link *l, const struct vu_msg *m, uint64_t deadline)
{
	uint32_t sent = 0;
	int ret;

	while ((ret = vu_send(l->sock, m, &sent)) == -EAGAIN) {
		ret = wait_ready(l, POLLOUT, deadline);
		if (ret)
			return ret;
	}
	return ret == 1 ? 0 : ret;
}

static int recv_all(struct vu_link *l, struct vu_msg *m, uint64_t deadline)
{
	struct vu_rx rx = { 0 };
	int ret;

	m->nfds = 0;
	while ((ret = vu_recv(l->sock, &rx, m)) == -EAGAIN) {
		ret = wait_ready(l, POLLIN, deadline);
		if (ret) {
			vu_msg_close_fds(m);
			return ret;
		}
	}
	return ret == 1 ? 0 : ret;
}

static const char *ack_check(uint32_t request, const struct vu_msg *r)
{
	if (r->h.request != request || r->h.size != sizeof(r->p.u64) || r->nfds)
		return "malformed acknowledgement";
	return (r->h.flags & VU_REPLY) ? NULL : "acknowledgement that is none";
}

/*
 * exchange() - a request and its answer
 * @m: the request; its descriptors stay the caller's
 * @r: the answer; descriptors in it are the caller's. NULL for requests that have no answer of their own
 */
static int exchange(struct vu_link *l, struct vu_msg *m, struct vu_msg *r, struct sl_err *err)
{
	const char *what = vu_request_name(m->h.request), *bad;
	uint64_t deadline = sl_now() + l->timeout_ms * MS;
	struct vu_msg ack;
	int ret;

	if (l->dead || l->sock < 0)
		return sl_err_set(err, EPIPE, "vhost-user: %s: %s: no connection", l->name, what);
	if (l->patient && m->h.request == VU_GET_VRING_BASE)
		deadline = NEVER;
	if (!r && protocol_has(l, VU_F_REPLY_ACK))
		m->h.flags |= VU_NEED_REPLY;
	ret = send_all(l, m, deadline);
	if (ret || (!r && !(m->h.flags & VU_NEED_REPLY)))
		goto out;
	ret = recv_all(l, r ? r : &ack, deadline);
	if (ret)
		goto out;
	bad = r ? vu_reply_check(m->h.request, r) : ack_check(m->h.request, &ack);
	if (bad) {
		vu_msg_close_fds(r ? r : &ack);
		return die(l, EPROTO, what, bad, err);
	}
	if (!r && ack.p.u64)
		return sl_err_set(err, EREMOTEIO, "vhost-user: %s: %s: the back-end refuses", l->name, what);
	return 0;
out:
	if (ret == -ETIMEDOUT) {
		l->dead = true;
		return sl_err_set(err, ETIMEDOUT, "vhost-user: %s: %s: no answer within %u ms", l->name, what,
				  l->timeout_ms);
	}
	return ret ? die_socket(l, ret, what, err) : 0;
}

static int send_empty(struct vu_link *l, uint32_t request, struct sl_err *err)
{
	struct vu_msg m;

	vu_msg_init(&m, request, 0);
	return exchange(l, &m, NULL, err);
}

static int set_u64(struct vu_link *l, uint32_t request, uint64_t v, int fd, struct sl_err *err)
{
	struct vu_msg m;

	vu_msg_init(&m, request, sizeof(m.p.u64));
	m.p.u64 = v;
	if (fd >= 0)
		m.fds[m.nfds++] = fd;
	return exchange(l, &m, NULL, err);
}

static int get_u64(struct vu_link *l, uint32_t request, uint64_t *v, struct sl_err *err)
{
	struct vu_msg m, r;
	int ret;

	vu_msg_init(&m, request, 0);
	ret = exchange(l, &m, &r, err);
	if (!ret)
		*v = r.p.u64;
	return ret;
}

static int set_state(struct vu_link *l, uint32_t request, uint32_t index, uint32_t num, struct sl_err *err)
{
	struct vu_msg m;

	vu_msg_init(&m, request, sizeof(m.p.state));
	m.p.state = (struct vu_vring_state){ index, num };
	return exchange(l, &m, NULL, err);
}

/* ---- connecting ---- */

static int watch(struct vu_link *l, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP };

	return epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

static void disconnect(struct vu_link *l)
{
	back_close(l);
	if (l->sock >= 0)
		close(l->sock);
	l->sock = -1;
}

static int open_back_channel(struct vu_link *l, struct sl_err *err)
{
	struct vu_msg m;
	int pair[2], ret;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
		return sl_err_set(err, errno, "vhost-user: %s: socketpair: %s", l->name, strerror(errno));
	vu_msg_init(&m, VU_SET_BACKEND_REQ_FD, 0);
	m.fds[m.nfds++] = pair[1];
	l->back = pair[0];
	l->back_rx = (struct vu_rx){ 0 };
	l->back_msg.nfds = 0;
	ret = watch(l, l->back);
	if (ret)
		sl_err_set(err, -ret, "vhost-user: %s: epoll: %s", l->name, strerror(-ret));
	else
		ret = exchange(l, &m, NULL, err);
	close(pair[1]);
	return ret;
}

/* The conversation up to SET_OWNER, in the order QEMU keeps, which every back-end knows. */
static int negotiate(struct vu_link *l, struct sl_err *err)
{
	uint64_t v = 0;
	int ret;

	l->protocol = 0;
	ret = get_u64(l, VU_GET_FEATURES, &l->features, err);
	if (!ret && (l->features & BIT(SL_F_PROTOCOL_FEATURES))) {
		ret = get_u64(l, VU_GET_PROTOCOL_FEATURES, &v, err);
		if (!ret)
			ret = set_u64(l, VU_SET_PROTOCOL_FEATURES, v & PROTOCOL_FEATURES, -1, err);
		if (!ret)
			l->protocol = v & PROTOCOL_FEATURES;
	}
	l->num_queues = MAX_QUEUES;
	if (!ret && protocol_has(l, VU_F_MQ)) {
		ret = get_u64(l, VU_GET_QUEUE_NUM, &v, err);
		if (!ret && !v)
			ret = die(l, EPROTO, "GET_QUEUE_NUM", "the back-end has no queues", err);
		if (!ret && v < MAX_QUEUES)
			l->num_queues = (unsigned int)v;
	}
	if (!ret && protocol_has(l, VU_F_BACKEND_REQ))
		ret = open_back_channel(l, err);
	return ret ? ret : send_empty(l, VU_SET_OWNER, err);
}

static int connect_path(struct vu_link *l, struct sl_err *err)
{
	const struct timeval limit = { l->timeout_ms / 1000, l->timeout_ms % 1000 * 1000 };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, saved;

	if (strlen(l->path) >= sizeof(addr.sun_path))
		return sl_err_set(err, ENAMETOOLONG, "vhost-user: %s: path is longer than %zu bytes", l->path,
				  sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, l->path, strlen(l->path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (l->cancel >= 0 ? SOCK_NONBLOCK : 0), 0);
	/* Bounds the wait for room in the backlog. */
	if (fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) &&
	    !connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return fd;
	saved = errno;
	if (fd >= 0)
		close(fd);
	return sl_err_set(err, saved, "vhost-user: %s: connect: %s", l->path, strerror(saved));
}

/* @fd is the link's from here on. */
static int adopt(struct vu_link *l, int fd, struct sl_err *err)
{
	int ret;

	disconnect(l);
	l->sock = fd;
	l->dead = false;
	ret = watch(l, fd);
	if (ret)
		return sl_err_set(err, -ret, "vhost-user: %s: socket: %s", l->name, strerror(-ret));
	return negotiate(l, err);
}

/* ---- the table's operations ---- */

static int vu_link_features(struct sl_link *link, struct sl_features *out, struct sl_err *err)
{
	struct vu_link *l = to_vu(link);

	if (l->dead)
		return sl_err_set(err, EPIPE, "vhost-user: %s: no connection", l->name);
	*out = (struct sl_features){ .w[0] = l->features & ~TRANSPORT_FEATURES };
	return 0;
}

static int vu_link_accept(struct sl_link *link, const struct sl_features *f, struct sl_err *err)
{
	struct vu_link *l = to_vu(link);
	int ret;

	if (f->w[1] || (f->w[0] & (~l->features | TRANSPORT_FEATURES)))
		return sl_err_set(err, EINVAL, "vhost-user: %s: features that were not offered", l->name);
	ret = set_u64(l, VU_SET_FEATURES, f->w[0] | (l->features & BIT(SL_F_PROTOCOL_FEATURES)), -1, err);
	if (ret)
		return ret;
	l->accepted = f->w[0];
	l->has_accepted = true;
	return 0;
}

static int vu_link_status_get(struct sl_link *link, struct sl_err *err)
{
	struct vu_link *l = to_vu(link);
	uint64_t v = l->status;
	int ret = protocol_has(l, VU_F_STATUS) ? get_u64(l, VU_GET_STATUS, &v, err) : 0;

	if (!ret && v > UINT8_MAX)
		ret = die(l, EPROTO, "GET_STATUS", "a status of more than eight bits", err);
	return ret ? ret : (int)v;
}

static void forget_queue(struct link_queue *q)
{
	if (q->running && q->own_kick)
		close(q->kick_fd);
	if (q->running && q->own_call)
		close(q->call_fd);
	*q = (struct link_queue){ .kick_fd = -1, .call_fd = -1 };
}

static int vu_link_queue_stop(struct sl_link *link, unsigned int index, uint32_t *base, struct sl_err *err)
{
	struct vu_link *l = to_vu(link);
	struct vu_msg m, r;
	int ret;

	if (index >= l->num_queues || !l->queues[index].running)
		return sl_err_set(err, EINVAL, "vhost-user: %s: queue %u does not run", l->name, index);
	vu_msg_init(&m, VU_GET_VRING_BASE, sizeof(m.p.state));
	m.p.state.index = index;
	ret = exchange(l, &m, &r, err);
	if (ret)
		return ret;
	if (r.p.state.index != index)
		return die(l, EPROTO, "GET_VRING_BASE", "the answer is about another queue", err);
	if (base)
		*base = r.p.state.num;
	forget_queue(&l->queues[index]);
	return 0;
}

static int reset(struct vu_link *l, struct sl_err *err)
{
	int ret = 0;

	for (unsigned int i = 0; i < l->num_queues && !ret; i++)
		if (l->queues[i].running)
			ret = vu_link_queue_stop(&l->link, i, NULL, err);
	if (!ret && protocol_has(l, VU_F_STATUS))
		ret = set_u64(l, VU_SET_STATUS, 0, -1, err);
	else if (!ret && l->status && protocol_has(l, VU_F_RESET_DEVICE))
		ret = send_empty(l, VU_RESET_DEVICE, err);
	if (!ret)
		l->status = 0;
	return ret;
}

static int vu_link_status_set(struct sl_link *link, uint8_t status, struct sl_err *err)
{
	struct vu_link *l = to_vu(link);
	int ret = 0;

	if (!status)
		return reset(l, err);
	if (protocol_has(l, VU_F_STATUS))
		ret = set_u64(l, VU_SET_STATUS, status, -1, err);
	if (!ret)
		l->status = status;
	return ret;
}

/* Some back-ends ignore the offset, so the bytes are always asked for from the start. */
static int vu_link_config_read(struct sl_link *link, uint32_t off, void *dst, uint32_t len, struct sl_err *err)
{
	struct vu_link *l = to_vu(link);
	struct vu_msg m, r;
	uint32_t have;
	int ret;

	if (!protocol_has(l, VU_F_CONFIG))
		return sl_err_set(err, ENOTSUP, "vhost-user: %s: the back-end serves no configuration space", l->name);
	if (off > VU_MAX_CONFIG || len > VU_MAX_CONFIG - off)
		return sl_err_set(err, EINVAL, "vhost-user: %s: configuration beyond %u bytes", l->name, VU_MAX_CONFIG);
	vu_msg_init(&m, VU_GET_CONFIG, VU_CONFIG_HEAD + off + len);
	m.p.config.size = off + len;
	ret = exchange(l, &m, &r, err);
	if (ret)
		return ret;
	if (r.h.size < VU_CONFIG_HEAD || !r.p.config.size)
		return sl_err_set(err, EREMOTEIO, "vhost-user: %s: GET_CONFIG: the back-end refuses %u bytes", l->name,
				  off + len);
	have = r.h.size - VU_CONFIG_HEAD;
	if (r.p.config.offset || r.p.config.size > have || r.p.config.size > off + len)
		return die(l, EPROTO, "GET_CONFIG", "sizes in the answer disagree", err);
	have = r.p.config.size > off ? r.p.config.size - off : 0;
	memset(dst, 0, len);
	memcpy(dst, r.p.config.data + off, have);
	return 0;
}

static int vu_link_config_write(struct sl_link *link, uint32_t off, const void *src, uint32_t len, struct sl_err *err)
{
	struct vu_link *l = to_vu(link);
	struct vu_msg m;

	if (!protocol_has(l, VU_F_CONFIG))
		return sl_err_set(err, ENOTSUP, "vhost-user: %s: the back-end serves no configuration space", l->name);
	if (off > VU_MAX_CONFIG || len > VU_MAX_CONFIG - off)
		return sl_err_set(err, EINVAL, "vhost-user: %s: configuration beyond %u bytes", l->name, VU_MAX_CONFIG);
	vu_msg_init(&m, VU_SET_CONFIG, VU_CONFIG_HEAD + len);
	m.p.config.offset = off;
	m.p.config.size = len;
	m.p.config.flags = VU_CONFIG_WRITABLE;
	memcpy(m.p.config.data, src, len);
	return exchange(l, &m, NULL, err);
}

static int vu_link_num_queues(struct sl_link *link, struct sl_err *err)
{
	(void)err;
	return (int)to_vu(link)->num_queues;
}

static int send_regions(struct vu_link *l, struct sl_err *err)
{
	struct vu_msg m;

	vu_msg_init(&m, VU_SET_MEM_TABLE, (uint32_t)(offsetof(struct vu_mem_table, region) +
						      l->num_regions * sizeof(struct vu_region)));
	m.p.table.n = l->num_regions;
	for (unsigned int i = 0; i < l->num_regions; i++) {
		const struct sl_link_region *r = &l->regions[i];

		m.p.table.region[i] = (struct vu_region){ r->addr, r->size, (uintptr_t)r->hva, r->offset };
		m.fds[m.nfds++] = r->fd;
	}
	return exchange(l, &m, NULL, err);
}

static int vu_link_set_memory(struct sl_link *link, const struct sl_link_region *regions, unsigned int n,
			      struct sl_err *err)
{
	struct vu_link *l = to_vu(link);

	if (!n || n > SL_LINK_MAX_REGIONS)
		return sl_err_set(err, EINVAL, "vhost-user: %s: %u memory regions; 1 to %u can be told", l->name, n,
				  SL_LINK_MAX_REGIONS);
	for (unsigned int i = 0; i < n; i++)
		if (regions[i].fd < 0)
			return sl_err_set(err, EINVAL, "vhost-user: %s: memory without a descriptor", l->name);
	memcpy(l->regions, regions, n * sizeof(*regions));
	l->num_regions = n;
	return send_regions(l, err);
}

/* vhost-user names rings by the front-end's virtual addresses, everything else by device addresses. */
static bool ring_address(const struct vu_link *l, uint64_t addr, uint64_t *out)
{
	for (unsigned int i = 0; i < l->num_regions; i++) {
		const struct sl_link_region *r = &l->regions[i];

		if (addr >= r->addr && addr - r->addr < r->size) {
			*out = (uintptr_t)r->hva + (addr - r->addr);
			return true;
		}
	}
	return false;
}

static int send_addresses(struct vu_link *l, unsigned int index, const struct sl_link_queue *q, struct sl_err *err)
{
	struct vu_msg m;

	vu_msg_init(&m, VU_SET_VRING_ADDR, sizeof(m.p.addr));
	m.p.addr.index = index;
	if (!ring_address(l, q->desc, &m.p.addr.desc) || !ring_address(l, q->driver, &m.p.addr.avail) ||
	    !ring_address(l, q->device, &m.p.addr.used))
		return sl_err_set(err, EFAULT, "vhost-user: %s: ring %u is not in the memory of the link", l->name,
				  index);
	return exchange(l, &m, NULL, err);
}

static int make_fds(struct link_queue *n, const struct sl_link_queue *q, struct sl_err *err)
{
	*n = (struct link_queue){ .kick_fd = q->kick_fd, .call_fd = q->call_fd, .running = true };
	if (q->kick_fd < 0) {
		n->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		n->own_kick = true;
	}
	if (q->call_fd < 0) {
		n->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		n->own_call = true;
	}
	if (n->kick_fd >= 0 && n->call_fd >= 0)
		return 0;
	return sl_err_set(err, errno, "vhost-user: eventfd: %s", strerror(errno));
}

static int vu_link_queue_start(struct sl_link *link, unsigned int index, const struct sl_link_queue *q,
			       struct sl_err *err)
{
	struct vu_link *l = to_vu(link);
	struct link_queue n;
	int ret;

	if (index >= l->num_queues)
		return sl_err_set(err, EINVAL, "vhost-user: %s: queue %u: the back-end has %u", l->name, index,
				  l->num_queues);
	if (l->queues[index].running)
		return sl_err_set(err, EBUSY, "vhost-user: %s: queue %u runs already", l->name, index);
	ret = make_fds(&n, q, err);
	if (!ret)
		ret = set_state(l, VU_SET_VRING_NUM, index, q->num, err);
	if (!ret)
		ret = set_state(l, VU_SET_VRING_BASE, index, q->base, err);
	if (!ret)
		ret = send_addresses(l, index, q, err);
	if (!ret)
		ret = set_u64(l, VU_SET_VRING_CALL, index, n.call_fd, err);
	if (!ret)
		ret = set_u64(l, VU_SET_VRING_KICK, index, n.kick_fd, err);
	if (!ret && (l->features & BIT(SL_F_PROTOCOL_FEATURES)))
		ret = set_state(l, VU_SET_VRING_ENABLE, index, 1, err);
	if (ret)
		forget_queue(&n);
	else
		l->queues[index] = n;
	return ret;
}

static void vu_link_kick(struct sl_link *link, unsigned int index, uint16_t data)
{
	const struct link_queue *q = &to_vu(link)->queues[index];
	uint64_t one = 1;

	(void)data; /* NOTIFICATION_DATA does not cross an eventfd */
	if (q->running && write(q->kick_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: a kick is pending anyway */
}

static int vu_link_call_fd(struct sl_link *link, unsigned int index)
{
	const struct link_queue *q = &to_vu(link)->queues[index];

	return q->running ? q->call_fd : -1;
}

static int vu_link_set_call(struct sl_link *link, unsigned int index, int fd, struct sl_err *err)
{
	struct vu_link *l = to_vu(link);
	struct link_queue *q;

	if (index >= l->num_queues || !l->queues[index].running)
		return sl_err_set(err, EINVAL, "vhost-user: %s: queue %u does not run", l->name, index);
	q = &l->queues[index];
	if (q->own_call)
		close(q->call_fd);
	q->own_call = false;
	q->call_fd = fd;
	return set_u64(l, VU_SET_VRING_CALL, index, fd, err);
}

static int vu_link_event_fd(struct sl_link *link)
{
	return to_vu(link)->epoll;
}

static unsigned int vu_link_events(struct sl_link *link)
{
	struct vu_link *l = to_vu(link);
	struct pollfd p = { .fd = l->sock, .events = POLLIN };
	unsigned int events = 0;
	eventfd_t n;

	/* Nothing is under way now, so a byte out of turn is as bad as the end of the stream. */
	if (l->sock >= 0 && poll(&p, 1, 0) > 0)
		l->dead = true;
	if (l->back >= 0 && !back_serve(l))
		back_close(l);
	if (l->config_changed) {
		eventfd_read(l->news, &n);
		l->config_changed = false;
		events |= SL_LINK_CONFIG;
	}
	return events | (l->dead ? SL_LINK_GONE : 0u);
}

static int vu_link_inflight_get(struct sl_link *link, uint16_t num_queues, uint16_t queue_size,
				struct sl_link_inflight *out, struct sl_err *err)
{
	struct vu_link *l = to_vu(link);
	struct vu_msg m, r;
	int ret;

	if (!protocol_has(l, VU_F_INFLIGHT_SHMFD))
		return sl_err_set(err, ENOTSUP, "vhost-user: %s: the back-end keeps no inflight region", l->name);
	vu_msg_init(&m, VU_GET_INFLIGHT_FD, sizeof(m.p.inflight));
	m.p.inflight.num_queues = num_queues;
	m.p.inflight.queue_size = queue_size;
	ret = exchange(l, &m, &r, err);
	if (ret)
		return ret;
	if (r.nfds != 1 || !r.p.inflight.mmap_size) {
		vu_msg_close_fds(&r);
		return sl_err_set(err, EREMOTEIO, "vhost-user: %s: GET_INFLIGHT_FD: the back-end refuses", l->name);
	}
	*out = (struct sl_link_inflight){
		.fd = vu_msg_take_fd(&r, 0),
		.size = r.p.inflight.mmap_size,
		.offset = r.p.inflight.mmap_offset,
		.num_queues = num_queues,
		.queue_size = queue_size,
	};
	return 0;
}

static int send_inflight(struct vu_link *l, const struct sl_link_inflight *region, struct sl_err *err)
{
	struct vu_msg m;
	int ret = 0;

	/* DPDK makes a queue when a message first names it, and gives no part of the region to one not made yet. */
	for (unsigned int i = 0; i < region->num_queues && !ret; i++)
		ret = set_state(l, VU_SET_VRING_NUM, i, region->queue_size, err);
	if (ret)
		return ret;
	vu_msg_init(&m, VU_SET_INFLIGHT_FD, sizeof(m.p.inflight));
	m.p.inflight = (struct vu_inflight){ region->size, region->offset, region->num_queues, region->queue_size };
	m.fds[m.nfds++] = region->fd;
	return exchange(l, &m, NULL, err);
}

static int vu_link_inflight_set(struct sl_link *link, const struct sl_link_inflight *region, struct sl_err *err)
{
	struct vu_link *l = to_vu(link);
	int ret;

	if (!protocol_has(l, VU_F_INFLIGHT_SHMFD))
		return sl_err_set(err, ENOTSUP, "vhost-user: %s: the back-end keeps no inflight region", l->name);
	ret = send_inflight(l, region, err);
	if (ret)
		return ret;
	l->inflight = *region;
	l->has_inflight = true;
	return 0;
}

/* Say again to a new process what the old one was told. */
static int restore(struct vu_link *l, struct sl_err *err)
{
	const uint8_t status = SL_STATUS_ACKNOWLEDGE | SL_STATUS_DRIVER;
	int ret = 0;

	if (l->accepted & ~l->features)
		return sl_err_set(err, ENOTSUP, "vhost-user: %s: the back-end came back with fewer features", l->name);
	if (l->has_inflight && !protocol_has(l, VU_F_INFLIGHT_SHMFD))
		return sl_err_set(err, ENOTSUP, "vhost-user: %s: the back-end came back without INFLIGHT_SHMFD",
				  l->name);
	l->status = status;
	if (protocol_has(l, VU_F_STATUS))
		ret = set_u64(l, VU_SET_STATUS, status, -1, err);
	if (!ret && l->has_accepted)
		ret = set_u64(l, VU_SET_FEATURES, l->accepted | (l->features & BIT(SL_F_PROTOCOL_FEATURES)), -1, err);
	if (!ret && l->has_accepted)
		ret = vu_link_status_set(&l->link, status | SL_STATUS_FEATURES_OK, err);
	if (!ret && l->num_regions)
		ret = send_regions(l, err);
	if (!ret && l->has_inflight)
		ret = send_inflight(l, &l->inflight, err);
	return ret;
}

static bool worth_another_try(int ret)
{
	return ret == -ENOENT || ret == -ECONNREFUSED || ret == -EPIPE || ret == -ECONNRESET || ret == -EAGAIN;
}

static int vu_link_reconnect(struct sl_link *link, struct sl_err *err)
{
	struct vu_link *l = to_vu(link);
	uint64_t deadline = sl_now() + l->timeout_ms * MS;
	int ret;

	if (!l->path)
		return sl_err_set(err, ENOTSUP, "vhost-user: %s: no path to connect to again", l->name);
	for (unsigned int i = 0; i < MAX_QUEUES; i++)
		forget_queue(&l->queues[i]);
	for (;;) {
		ret = connect_path(l, err);
		if (ret >= 0)
			ret = adopt(l, ret, err);
		if (!ret)
			ret = restore(l, err);
		if (!ret || !worth_another_try(ret) || sl_now() >= deadline)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = RETRY_NS }, NULL);
	}
	l->dead = ret;
	return ret;
}

static void vu_link_close(struct sl_link *link)
{
	struct vu_link *l = to_vu(link);

	for (unsigned int i = 0; i < MAX_QUEUES; i++)
		forget_queue(&l->queues[i]);
	disconnect(l);
	if (l->epoll >= 0)
		close(l->epoll);
	if (l->news >= 0)
		close(l->news);
	free(l->name);
	free(l->path);
	free(l);
}

static const struct sl_link_ops vu_link_ops = {
	.name = "vhost-user",
	.features = vu_link_features,
	.accept = vu_link_accept,
	.status_get = vu_link_status_get,
	.status_set = vu_link_status_set,
	.config_read = vu_link_config_read,
	.config_write = vu_link_config_write,
	.num_queues = vu_link_num_queues,
	.set_memory = vu_link_set_memory,
	.queue_start = vu_link_queue_start,
	.queue_stop = vu_link_queue_stop,
	.kick = vu_link_kick,
	.call_fd = vu_link_call_fd,
	.event_fd = vu_link_event_fd,
	.events = vu_link_events,
	.inflight_get = vu_link_inflight_get,
	.inflight_set = vu_link_inflight_set,
	.reconnect = vu_link_reconnect,
	.set_call = vu_link_set_call,
	.close = vu_link_close,
};

struct sl_link *sl_link_vhost_user_open(const struct sl_link_vhost_user_config *cfg, struct sl_err *err)
{
	struct vu_link *l = calloc(1, sizeof(*l));
	int fd = cfg->path ? -1 : cfg->fd, ret;

	if (!l)
		goto nomem;
	l->link.ops = &vu_link_ops;
	l->sock = l->back = l->epoll = -1;
	l->cancel = cfg->cancel_fd > 0 ? cfg->cancel_fd : -1;
	l->patient = cfg->patient;
	l->timeout_ms = cfg->timeout_ms ? cfg->timeout_ms : DEFAULT_TIMEOUT_MS;
	for (unsigned int i = 0; i < MAX_QUEUES; i++)
		forget_queue(&l->queues[i]);
	l->name = strdup(cfg->path ? cfg->path : "connected socket");
	l->path = cfg->path ? strdup(cfg->path) : NULL;
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	l->news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!l->name || (cfg->path && !l->path) || l->epoll < 0 || l->news < 0 || watch(l, l->news))
		goto nomem;
	if (cfg->path)
		fd = connect_path(l, err);
	ret = fd >= 0 ? adopt(l, fd, err) : fd;
	if (!ret)
		return &l->link;
	vu_link_close(&l->link);
	errno = -ret;
	return NULL;
nomem:
	sl_err_set(err, errno, "vhost-user: link: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
	if (l)
		vu_link_close(&l->link);
	return NULL;
}
