/* SPDX-License-Identifier: MIT */
/* bed.h - a vhost-user server with a tiny device, and a scripted front-end, in one process.
 *
 * The device copies what a request lets it read to where it may write. The
 * loop is stepped by hand, always while the front-end waits for something, so
 * that tests are deterministic; with @threaded the queues live on a loop of
 * their own thread. Guest memory is a memfd that the front-end maps itself:
 * each side sees it at its own address, and rings are named by a third one.
 */
#ifndef TESTS_VHOST_BED_H
#define TESTS_VHOST_BED_H

#include <pthread.h>
#include <stdatomic.h>

#include <sluice/dq.h>
#include <sluice/vhost_user_server.h>

#include "vhost/wire.h"

#define BED_QUEUES 2
#define BED_CONFIG_LEN 16
#define BED_QUEUE_MAX 256

/**
 * struct bed - the back-end
 * @hold:   keep requests instead of finishing them
 * @held:   ... here
 * @keeps:  so many of those cannot be given up
 * @served: requests seen
 * @gone:   front-ends that went away
 */
struct bed {
	struct sl_loop *loop, *data;
	pthread_t thread;
	bool threaded, packed_offered;
	struct sl_device *dev;
	struct sl_vhost_user_server *server;
	char path[64];
	atomic_bool hold;
	bool stopped;
	unsigned int keeps;
	struct sl_req *held;
	atomic_uint served, gone;
	unsigned int config_writes, resets;
};

/** bed_open() - a server listening on a path of its own; @threaded: queues on another thread */
void bed_open(struct bed *b, bool threaded);
/** bed_open_limited() - one whose device gives up what it holds when a stop has waited @timeout_ms */
void bed_open_limited(struct bed *b, bool threaded, unsigned int timeout_ms);
/** bed_serve() - (again) a server on @b->path, for tests that ended the first one */
void bed_serve(struct bed *b);
void bed_unserve(struct bed *b);
void bed_close(struct bed *b);
/** bed_run() - step the loop until it has nothing to do */
void bed_run(struct bed *b);
/** bed_release() - finish all held requests */
void bed_release(struct bed *b);
/** bed_wait() - step until @*count reaches @value; false when that takes too long */
bool bed_wait(struct bed *b, const atomic_uint *count, unsigned int value);

#define GUEST_SIZE 0x400000ULL
#define GUEST_RING(i) ((uint64_t)(i) * 0x10000)
#define GUEST_DATA 0x100000ULL

/** struct guest - memory that the front-end shares: @mem is where this process sees it */
struct guest {
	int fd;
	uint8_t *mem;
	uint64_t gpa, uva, offset;
};
void guest_open(struct guest *g);
void guest_close(struct guest *g);

/**
 * struct fe_ring - the driver's side of a ring
 * @state: private memory of @dq
 */
struct fe_ring {
	struct sl_dq *dq;
	void *state;
	int kick, call;
	unsigned int num, next_slot;
	struct sl_dq_layout layout;
	bool packed;
};

/**
 * struct fe - a front-end
 * @ack: ask for an acknowledgement of each message that has no answer
 */
struct fe {
	struct bed *b;
	struct guest g;
	int sock, channel;
	bool ack, packed;
	uint64_t protocol, features;
	struct fe_ring ring[BED_QUEUES];
};

#define FE_ALL_PROTOCOL                                                                                                \
	(1ULL << VU_F_MQ | 1ULL << VU_F_LOG_SHMFD | 1ULL << VU_F_REPLY_ACK | 1ULL << VU_F_BACKEND_REQ |                \
	 1ULL << VU_F_CONFIG | 1ULL << VU_F_INFLIGHT_SHMFD | 1ULL << VU_F_RESET_DEVICE |                               \
	 1ULL << VU_F_CONFIGURE_MEM_SLOTS | 1ULL << VU_F_STATUS)
#define FE_RING_FEATURES (1ULL << SL_F_VERSION_1 | 1ULL << SL_F_INDIRECT_DESC | 1ULL << SL_F_EVENT_IDX)

void fe_connect(struct fe *f, struct bed *b);
/** fe_adopt() - the same on a socket that is connected already */
void fe_adopt(struct fe *f, struct bed *b, int sock);
/** fe_hangup() - close the socket only; fe_close() the rest */
void fe_hangup(struct fe *f);
void fe_close(struct fe *f);

/** fe_send() - a request; 0 or -errno */
int fe_send(struct fe *f, uint32_t request, uint32_t flags, const void *payload, uint32_t size, const int *fds,
	    unsigned int nfds);
/** fe_recv() - step the loop until an answer is here; 0, -ETIMEDOUT, -ECONNRESET */
int fe_recv(struct fe *f, struct vu_msg *m);
/** fe_set() - a request without an answer of its own: 0 accepted, 1 refused, -1 the connection was closed */
int fe_set(struct fe *f, uint32_t request, const void *payload, uint32_t size, const int *fds, unsigned int nfds);
int fe_set_u64(struct fe *f, uint32_t request, uint64_t value);
int fe_set_state(struct fe *f, uint32_t request, uint32_t index, uint32_t num);
int fe_set_fd(struct fe *f, uint32_t request, uint32_t index, int fd);
/** fe_get() - a request with an answer; 0 or as fe_recv() */
int fe_get(struct fe *f, uint32_t request, const void *payload, uint32_t size, struct vu_msg *answer);
/** fe_get_u64() - ... whose answer is a number; UINT64_MAX when there is none */
uint64_t fe_get_u64(struct fe *f, uint32_t request);
/** fe_get_base() - GET_VRING_BASE; UINT32_MAX when it is refused */
uint32_t fe_get_base(struct fe *f, uint32_t index);
/** fe_alive() - does the connection still answer? */
bool fe_alive(struct fe *f);

/** fe_open_channel() - give the back-end a (new) socket for its own requests; @f->channel is our end */
void fe_open_channel(struct fe *f);
/** fe_told_once() - is exactly one request waiting in the channel, and is it this one? */
bool fe_told_once(struct fe *f, uint32_t request, uint32_t index);

/** fe_hello() - features and protocol features, with acknowledgements from then on */
void fe_hello(struct fe *f, uint64_t features, uint64_t protocol);
int fe_set_memory(struct fe *f);
/** fe_ring_new() - a fresh ring in guest memory; nothing is sent */
void fe_ring_new(struct fe *f, unsigned int i, uint16_t num);
struct vu_vring_addr fe_ring_addr(const struct fe *f, unsigned int i);
/** fe_ring_send() - NUM, BASE, ADDR, KICK, CALL; the acknowledgements or'ed together */
int fe_ring_send(struct fe *f, unsigned int i, uint32_t base);
/** fe_ring_up() - fe_ring_new(), fe_ring_send() and ENABLE(1) */
void fe_ring_up(struct fe *f, unsigned int i, uint16_t num);
/** fe_up() - an honest front-end with all rings running */
void fe_up(struct fe *f, struct bed *b, bool packed);

/** fe_offer() - one request with @len bytes to copy, visible to the device and kicked; its cookie */
uint8_t *fe_offer(struct fe *f, unsigned int i, uint32_t len);
/** fe_offer_quietly() - the same, but without a kick */
uint8_t *fe_offer_quietly(struct fe *f, unsigned int i, uint32_t len);
/** fe_done() - step until a request is done; its cookie, NULL when that takes too long */
uint8_t *fe_done(struct fe *f, unsigned int i);
/** fe_idle() - step for a moment; is nothing done? */
bool fe_idle(struct fe *f, unsigned int i);
/** fe_echo() - one request from end to end, contents compared */
bool fe_echo(struct fe *f, unsigned int i);

/** count_fds() - descriptors this process has open */
unsigned int count_fds(void);
/** count_maps() - mappings of memfds in this process */
unsigned int count_maps(void);

#endif
