/* SPDX-License-Identifier: MIT */
/* fake.h - a scripted vhost-user back-end on a thread: honest, but for the one thing it is told to do wrong. */
#ifndef TESTS_DRIVER_FAKE_H
#define TESTS_DRIVER_FAKE_H

#include "t.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <sluice/features.h>

#include "vhost/wire.h"

#define FAKE_FEATURES ((1ULL << SL_F_VERSION_1) | (1ULL << SL_F_PROTOCOL_FEATURES) | (1ULL << SL_F_EVENT_IDX) | 0x200)
#define FAKE_PROTOCOL                                                                                                  \
	((1ULL << VU_F_MQ) | (1ULL << VU_F_REPLY_ACK) | (1ULL << VU_F_BACKEND_REQ) | (1ULL << VU_F_CONFIG) |           \
	 (1ULL << VU_F_INFLIGHT_SHMFD) | (1ULL << VU_F_STATUS) | (1ULL << VU_F_RESET_DEVICE) |                         \
	 (1ULL << VU_F_LOG_SHMFD) | (1ULL << VU_F_PAGEFAULT))

/* what to do instead of the honest answer */
enum fake_sin {
	SIN_NONE,
	SIN_CLOSE,	   /* close the connection */
	SIN_SILENT,	   /* never answer */
	SIN_DRIP,	   /* a byte of the answer now and then, for longer than anybody should wait */
	SIN_HALF,	   /* a part of the header, then close */
	SIN_OTHER_ID,	   /* the answer to another request */
	SIN_UNKNOWN_ID,	   /* the answer to no request there is */
	SIN_NO_REPLY_FLAG, /* a request of its own where an answer belongs */
	SIN_VERSION,	   /* another protocol version */
	SIN_SHORT,	   /* an answer one byte short */
	SIN_LONG,	   /* an answer with bytes to spare */
	SIN_HUGE,	   /* a payload size of 4 GiB - 1 */
	SIN_FDS,	   /* descriptors nobody asked for: as many as fit */
	NUM_SINS,
	SIN_REFUSE = NUM_SINS, /* properly refuse: what can be acknowledged */
	SIN_EDIT,	       /* answer, but let edit() change it before */
};

/**
 * struct fake
 * @sock:     its end of the connection
 * @request, @sin: what goes wrong where
 * @edit:     SIN_EDIT
 * @features, @protocol, @queues, @config: what it offers
 * @seen:     how often each request came
 * @last:     the last one of each kind
 * @back:     the back-end request channel, or -1
 * @need_replies: requests that asked for an acknowledgement
 */
struct fake {
	pthread_t thread;
	int sock;
	uint32_t request;
	enum fake_sin sin;
	void (*edit)(struct fake *f, struct vu_msg *reply);
	uint64_t features, protocol, queues, status;
	uint8_t config[64];
	unsigned int seen[VU_REQUEST_END];
	struct vu_msg last[VU_REQUEST_END];
	int back;
	bool dead;
};

static inline void fake_send(struct fake *f, const struct vu_msg *m)
{
	if (vu_send_wait(f->sock, m, 60000))
		f->dead = true;
}

static inline void fake_drip(struct fake *f, const struct vu_msg *m)
{
	const char *p = (const char *)&m->h;

	for (unsigned int i = 0; i < VU_HEADER_SIZE; i++) {
		if (send(f->sock, p + i, 1, MSG_NOSIGNAL) != 1)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = 60000000 }, NULL);
	}
	f->dead = true;
}

static inline void fake_answer(struct fake *f, struct vu_msg *m)
{
	if (m->h.request != f->request || !f->sin) {
		fake_send(f, m);
		return;
	}
	switch (f->sin) {
	case SIN_CLOSE:
		f->dead = true;
		return;
	case SIN_SILENT:
		return;
	case SIN_DRIP:
		fake_drip(f, m);
		return;
	case SIN_HALF:
		send(f->sock, &m->h, 5, MSG_NOSIGNAL);
		f->dead = true;
		return;
	case SIN_OTHER_ID:
		m->h.request = m->h.request == VU_GET_FEATURES ? VU_GET_QUEUE_NUM : VU_GET_FEATURES;
		break;
	case SIN_UNKNOWN_ID:
		m->h.request = 0xffffff00;
		break;
	case SIN_NO_REPLY_FLAG:
		m->h.flags &= ~VU_REPLY;
		break;
	case SIN_VERSION:
		m->h.flags = (m->h.flags & ~VU_VERSION_MASK) | 2;
		break;
	case SIN_SHORT:
		m->h.size--;
		break;
	case SIN_LONG:
		m->h.size = sizeof(struct vu_config);
		break;
	case SIN_HUGE: {
		struct vu_header h = m->h;

		h.size = UINT32_MAX;
		send(f->sock, &h, sizeof(h), MSG_NOSIGNAL);
		return;
	}
	case SIN_FDS:
		while (m->nfds < VU_MAX_FDS)
			m->fds[m->nfds++] = f->sock;
		break;
	case SIN_REFUSE:
		m->p.u64 = 1;
		break;
	case SIN_EDIT:
		f->edit(f, m);
		break;
	default:
		break;
	}
	fake_send(f, m);
}

static inline int fake_memfd(uint64_t size)
{
	int fd = memfd_create("fake", MFD_CLOEXEC);

	REQUIRE(fd >= 0 && !ftruncate(fd, (off_t)size));
	return fd;
}

/* The honest answer to @m, in place. Return: false when it gets none. */
static inline bool fake_think(struct fake *f, struct vu_msg *m)
{
	uint32_t need = m->h.flags & VU_NEED_REPLY;

	vu_msg_close_fds(m);
	m->h.flags = VU_VERSION | VU_REPLY;
	switch (m->h.request) {
	case VU_GET_FEATURES:
		m->p.u64 = f->features;
		break;
	case VU_GET_PROTOCOL_FEATURES:
		m->p.u64 = f->protocol;
		break;
	case VU_GET_QUEUE_NUM:
		m->p.u64 = f->queues;
		break;
	case VU_GET_STATUS:
		m->p.u64 = f->status;
		break;
	case VU_GET_CONFIG:
		memcpy(m->p.config.data, f->config, m->p.config.size < 64 ? m->p.config.size : 64);
		return true;
	case VU_GET_VRING_BASE:
		m->p.state.num = 77;
		return true;
	case VU_GET_INFLIGHT_FD:
		m->p.inflight.mmap_size = 4096;
		m->fds[m->nfds++] = fake_memfd(4096);
		return true;
	case VU_SET_STATUS:
		f->status = m->p.u64;
		m->p.u64 = 0;
		if (!need)
			return false;
		break;
	default:
		m->p.u64 = 0;
		if (!need)
			return false;
	}
	m->h.size = sizeof(m->p.u64);
	return true;
}

static inline void *fake_run(void *arg)
{
	struct fake *f = arg;
	struct vu_msg m;

	while (!f->dead && !vu_recv_wait(f->sock, &m, -1)) {
		if (m.h.request < VU_REQUEST_END) {
			f->seen[m.h.request]++;
			f->last[m.h.request] = m;
		}
		if (m.h.request == VU_SET_BACKEND_REQ_FD && m.nfds)
			f->back = vu_msg_take_fd(&m, 0);
		if (fake_think(f, &m))
			fake_answer(f, &m);
		for (unsigned int i = 0; i < m.nfds; i++)
			if (m.fds[i] == f->sock)
				m.fds[i] = -1;
		vu_msg_close_fds(&m);
	}
	shutdown(f->sock, SHUT_RDWR);
	return NULL;
}

/* Start on @sock, which becomes the fake's; the fields that say what it offers are set before. */
static inline void fake_start(struct fake *f, int sock)
{
	f->sock = sock;
	f->back = -1;
	f->dead = false;
	REQUIRE(!pthread_create(&f->thread, NULL, fake_run, f));
}

/* After the link was closed. */
static inline void fake_join(struct fake *f)
{
	pthread_join(f->thread, NULL);
	close(f->sock);
	if (f->back >= 0)
		close(f->back);
}

static inline struct fake *fake_new(void)
{
	struct fake *f = calloc(1, sizeof(*f));

	REQUIRE(f);
	f->features = FAKE_FEATURES;
	f->protocol = FAKE_PROTOCOL;
	f->queues = 4;
	for (unsigned int i = 0; i < sizeof(f->config); i++)
		f->config[i] = (uint8_t)(i + 1);
	return f;
}

static inline unsigned int count_fds(void)
{
	unsigned int n = 0;
	DIR *d = opendir("/proc/self/fd");

	REQUIRE(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

#endif
