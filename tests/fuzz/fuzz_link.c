/* SPDX-License-Identifier: MIT */
/* fuzz_link.c - a back-end made of fuzz input against the vhost-user link of our drivers and of remote devices
 *
 * SOURCES: src/base src/memory src/vhost src/driver/link_vhost_user.c
 *
 * The input is a little program: operations of the link, and before each of
 * them what the back-end answers: as it should be, with one thing changed, raw
 * bytes, nothing; on its own channel, requests of any sort. The answers are in
 * the socket before they are waited for, so nothing here needs a thread.
 *
 * Oracles, beside the sanitizers: each operation ends soon; a link that says
 * it is dead stays dead; when it is closed no descriptor is left.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <sluice/link.h>
#include <sluice/loop.h>

#include "vhost/wire.h"

#define ADDR 0x100000ull
#define AREA 0x10000u
#define SOON 10000000000ull /* ns; a hang, however slow the machine */
#define BIT(n) (1ull << (n))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/** struct input - the program, as far as it is not used up; the back-end's ends of both channels, -1: none */
struct input {
	const uint8_t *p, *end;
	int sock, back;
};

static uint8_t byte(struct input *in)
{
	return in->p < in->end ? *in->p++ : 0;
}

static void need(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "fuzz_link: %s\n", what);
	abort();
}

static int next_fd(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

/* ---- what the back-end says ---- */

static void honest(struct vu_msg *m, uint32_t request)
{
	vu_msg_init(m, request, sizeof(m->p.u64));
	m->h.flags = VU_VERSION | VU_REPLY;
	switch (request) {
	case VU_GET_FEATURES:
		m->p.u64 = BIT(SL_F_VERSION_1) | BIT(SL_F_PROTOCOL_FEATURES) | BIT(SL_F_RING_PACKED);
		break;
	case VU_GET_PROTOCOL_FEATURES:
		m->p.u64 = BIT(VU_F_MQ) | BIT(VU_F_REPLY_ACK) | BIT(VU_F_BACKEND_REQ) | BIT(VU_F_CONFIG) |
			   BIT(VU_F_INFLIGHT_SHMFD) | BIT(VU_F_STATUS);
		break;
	case VU_GET_QUEUE_NUM:
		m->p.u64 = 4;
		break;
	case VU_GET_CONFIG:
		m->h.size = VU_CONFIG_HEAD + 64;
		memset(m->p.config.data, 7, 64);
		m->p.config.offset = 0;
		m->p.config.size = 64;
		break;
	case VU_GET_INFLIGHT_FD:
		m->h.size = sizeof(m->p.inflight);
		m->p.inflight = (struct vu_inflight){4096, 0, 2, 16};
		m->fds[m->nfds++] = 0;
		break;
	}
}

static void send_to(int sock, const struct vu_msg *m)
{
	uint32_t sent = 0;

	if (sock >= 0)
		vu_send(sock, m, &sent);
}

static void send_raw(struct input *in, int sock)
{
	unsigned int n = byte(in) % 64;

	if ((size_t)(in->end - in->p) < n)
		n = (unsigned int)(in->end - in->p);
	if (sock >= 0 && n && send(sock, in->p, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
	in->p += n;
}

/* One thing of an honest answer changed. */
static void change(struct input *in, struct vu_msg *m)
{
	uint8_t what = byte(in), value = byte(in);

	switch (what % 8) {
	case 0:
		m->h.request = value;
		break;
	case 1:
		m->h.flags = value;
		break;
	case 2:
		m->h.size = value;
		break;
	case 3:
		m->nfds = value % (VU_MAX_FDS + 1);
		memset(m->fds, 0, sizeof(m->fds));
		break;
	default:
		m->p.bytes[what % 32] = value;
	}
}

static void answer(struct input *in, uint32_t request)
{
	uint8_t how = byte(in);
	struct vu_msg m;

	honest(&m, request);
	switch (how % 16) {
	case 15:
		return;
	case 14:
		send_raw(in, in->sock);
		return;
	case 13:
	case 12:
		change(in, &m);
		break;
	}
	send_to(in->sock, &m);
}

/* Take what the link sent; among it may be the other channel. */
static void listen_to(struct input *in)
{
	struct vu_rx rx = {0};
	struct vu_msg m;

	m.nfds = 0;
	while (in->sock >= 0 && vu_recv(in->sock, &rx, &m) == 1) {
		if (m.h.request == VU_SET_BACKEND_REQ_FD && m.nfds && in->back < 0)
			in->back = vu_msg_take_fd(&m, 0);
		vu_msg_close_fds(&m);
	}
	vu_msg_close_fds(&m);
}

static void talk(struct input *in)
{
	uint8_t how = byte(in);
	struct vu_msg m;

	if (how % 4 == 3) {
		send_raw(in, in->back);
		return;
	}
	vu_msg_init(&m, how % 4 ? VU_BACKEND_CONFIG_CHANGE_MSG : byte(in), how % 4 == 2 ? 8 : 0);
	m.h.flags |= byte(in) & VU_NEED_REPLY;
	send_to(in->back, &m);
}

/* ---- what the driver does ---- */

static struct sl_link *open_link(struct input *in)
{
	static const uint32_t conversation[] = {VU_GET_FEATURES, VU_GET_PROTOCOL_FEATURES, VU_GET_QUEUE_NUM,
						VU_SET_BACKEND_REQ_FD, VU_SET_OWNER};
	struct sl_link_vhost_user_config cfg = {.timeout_ms = 1};
	struct sl_link *l;
	int pair[2];

	need(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
	in->sock = pair[1];
	for (unsigned int i = 0; i < sizeof(conversation) / sizeof(conversation[0]); i++)
		answer(in, conversation[i]);
	cfg.fd = pair[0];
	l = sl_link_vhost_user_open(&cfg, NULL);
	listen_to(in);
	return l;
}

static void start(struct input *in, struct sl_link *l, unsigned int queue)
{
	static const uint32_t conversation[] = {VU_SET_VRING_NUM, VU_SET_VRING_BASE, VU_SET_VRING_ADDR,
						VU_SET_VRING_CALL, VU_SET_VRING_KICK, VU_SET_VRING_ENABLE};
	const struct sl_link_queue q = {.num = 16, .desc = ADDR, .driver = ADDR + 256, .device = ADDR + 4096,
					.kick_fd = -1, .call_fd = -1};

	for (unsigned int i = 0; i < sizeof(conversation) / sizeof(conversation[0]); i++)
		answer(in, conversation[i]);
	l->ops->queue_start(l, queue, &q, NULL);
}

static void inflight(struct input *in, struct sl_link *l)
{
	struct sl_link_inflight region;

	answer(in, VU_GET_INFLIGHT_FD);
	if (l->ops->inflight_get(l, 2, 16, &region, NULL))
		return;
	answer(in, VU_SET_VRING_NUM);
	answer(in, VU_SET_VRING_NUM);
	answer(in, VU_SET_INFLIGHT_FD);
	l->ops->inflight_set(l, &region, NULL);
	close(region.fd);
}

static void operate(struct input *in, struct sl_link *l, const struct sl_link_region *memory)
{
	const struct sl_link_ops *ops = l->ops;
	uint8_t op = byte(in), config[64];
	struct sl_features f = {{BIT(SL_F_VERSION_1)}};
	uint32_t base;
	int fd;

	switch (op % 12) {
	case 0:
		answer(in, VU_SET_STATUS);
		ops->status_set(l, op >> 4, NULL);
		break;
	case 1:
		answer(in, VU_GET_STATUS);
		ops->status_get(l, NULL);
		break;
	case 2:
		answer(in, VU_SET_FEATURES);
		ops->accept(l, &f, NULL);
		break;
	case 3:
		answer(in, VU_GET_CONFIG);
		ops->config_read(l, op >> 4, config, 64u - (op >> 4), NULL);
		break;
	case 4:
		answer(in, VU_SET_CONFIG);
		ops->config_write(l, 32, "x", 1, NULL);
		break;
	case 5:
		answer(in, VU_SET_MEM_TABLE);
		ops->set_memory(l, memory, 1, NULL);
		break;
	case 6:
		inflight(in, l);
		break;
	case 7:
		start(in, l, op >> 4 & 3);
		break;
	case 8:
		answer(in, VU_GET_VRING_BASE);
		ops->queue_stop(l, op >> 4 & 3, &base, NULL);
		break;
	case 9:
		fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		answer(in, VU_SET_VRING_CALL);
		ops->set_call(l, op >> 4 & 3, fd, NULL);
		close(fd);
		break;
	case 10:
		talk(in);
		ops->events(l);
		break;
	case 11:
		if (op >> 4 > 12) { /* it dies */
			close(in->sock);
			in->sock = -1;
		}
		ops->kick(l, op >> 4 & 3, 0);
		break;
	}
	listen_to(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {.p = data, .end = data + size, .sock = -1, .back = -1};
	struct sl_link_region memory = {.addr = ADDR, .size = AREA};
	int free_fd = next_fd();
	uint64_t begun;
	struct sl_link *l;
	bool dead = false;

	memory.fd = memfd_create("fuzz", MFD_CLOEXEC);
	memory.hva = mmap(NULL, AREA, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(memory.fd >= 0 && memory.hva != MAP_FAILED, "memory");
	l = open_link(&in);
	while (l && in.p < in.end) {
		begun = sl_now();
		operate(&in, l, &memory);
		need(sl_now() - begun < SOON, "an operation takes too long");
		if (dead)
			need(l->ops->events(l) & SL_LINK_GONE, "a dead link lives");
		dead = l->ops->events(l) & SL_LINK_GONE;
	}
	if (l)
		l->ops->close(l);
	if (in.sock >= 0)
		close(in.sock);
	if (in.back >= 0)
		close(in.back);
	close(memory.fd);
	munmap(memory.hva, AREA);
	need(next_fd() == free_fd, "descriptors are left");
	return 0;
}
