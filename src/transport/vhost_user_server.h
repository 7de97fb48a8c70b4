/* SPDX-License-Identifier: MIT */
/* vhost_user_server.h - what the files of the vhost-user server share. Everything here runs on the control loop. */
#ifndef TRANSPORT_VHOST_USER_SERVER_H
#define TRANSPORT_VHOST_USER_SERVER_H

#include <stdatomic.h>

#include <sluice/log.h>
#include <sluice/vhost_user_server.h>

#include "base/listen.h"
#include "vhost/wire.h"

#define VUS_MAX_RINGS 256 /* SET_VRING_KICK has 8 bits for the index */

/**
 * struct vus_ring - what the front-end said about one ring
 * @num:      size, 0: not said yet
 * @addr:     addresses, good when @have_addr
 * @base:     where to go on, as the front-end said or as the queue left it
 * @left:     where a reset stopped it: the answer to GET_VRING_BASE until the front-end says a base; 0: @base is
 * @kick, @call, @err: descriptors or -1
 * @polled:   SET_VRING_KICK came without a descriptor: look at the ring from time to time
 * @enabled:  SET_VRING_ENABLE, or SET_FEATURES without bit 30
 * @stopped:  GET_VRING_BASE stopped it; the next SET_VRING_KICK or VRING_KICK starts it
 * @running:  the device has it
 * @stopping: sl_queue_stop() was called and not answered yet
 * @broken:   the device found the ring broken; only GET_VRING_BASE or a reset helps
 * @calling:  @call_task is on its way (any thread)
 * @call_owed, @err_owed: in-band messages that did not fit into the socket yet
 */
struct vus_ring {
	struct sl_vhost_user_server *s;
	uint16_t index, num;
	bool have_addr, polled, enabled, stopped, running, stopping, broken, call_owed, err_owed;
	int kick, call, err;
	uint32_t base, left;
	struct vu_vring_addr addr;
	atomic_bool calling;
	struct sl_task call_task;
};

/**
 * struct vus_conn - one front-end; allocated while it is connected
 * @rx, @in:   the message being received or handled
 * @out, @sent: the answer being sent; @answering while it is not all sent
 * @after:     second half of a message that waits until rings have stopped; no message is read meanwhile
 */
struct vus_conn {
	int fd;
	struct sl_watch watch;
	struct vu_rx rx;
	struct vu_msg in, out;
	uint32_t sent;
	bool answering;
	int (*after)(struct sl_vhost_user_server *s);
};

/** struct vus_channel - the back-end's own requests (SET_BACKEND_REQ_FD); @fd -1: there is none */
struct vus_channel {
	int fd;
	bool config_owed, waiting;
	struct sl_watch watch;
};

/**
 * struct vus_inflight - the region of SET_INFLIGHT_FD
 * @stride: bytes from one queue's part to the next one's
 */
struct vus_inflight {
	struct sl_mapping *mapping;
	uint64_t stride;
	uint16_t num_queues, queue_size;
};

/**
 * struct sl_vhost_user_server
 * @listener:  where front-ends come in; it may be inherited, without a path
 * @conn:      the front-end, or NULL
 * @closing:   the front-end has gone, its rings are being drained
 * @draining:  rings that are stopping
 * @resume:    goes on with what waited for @draining
 * @protocol:  negotiated protocol features
 * @features:  what SET_FEATURES said, with the bits of vhost; good when @features_set
 * @mem:       never NULL
 * @next_mem:  takes the place of @mem when the rings have stopped
 */
struct sl_vhost_user_server {
	struct sl_vhost_user_config cfg;
	struct sl_device *device;
	struct sl_loop *loop;
	struct listener listener;
	struct sl_watch listen_watch;
	struct sl_timer accept_again, poll_timer;

	struct vus_conn *conn;
	bool closing, stop_wanted;
	unsigned int draining;
	struct sl_task resume;
	void (*stop_done)(void *arg);
	void *stop_arg;

	uint64_t protocol, features;
	bool features_set;
	struct sl_mem *mem, *next_mem;
	struct sl_dirty_log *log;
	struct vus_inflight inflight;
	struct vus_channel channel;

	unsigned int num_rings;
	struct sl_log_limit limit;
	struct vus_ring rings[];
};

static inline bool vus_has(const struct sl_vhost_user_server *s, enum vu_protocol_feature f)
{
	return s->protocol >> f & 1;
}

/** vus_complain() - one rate-limited line about what the front-end did */
void vus_complain(struct sl_vhost_user_server *s, const char *fmt, ...) SL_PRINTF(2, 3);

/* What a message's handler says. Negative: refused, -errno. */
enum {
	VUS_OK,	     /* done; acknowledge when asked to */
	VUS_ANSWER,  /* the answer is in conn->out */
	VUS_LATER,   /* conn->after finishes it */
};

/** vus_handle() - run the handler of conn->in (which passed the table of rules); returns one of the above */
int vus_handle(struct sl_vhost_user_server *s);
/** vus_answer() - prepare conn->out as the answer to conn->in with @size bytes of payload; returns VUS_ANSWER */
int vus_answer(struct sl_vhost_user_server *s, uint32_t size);
/** vus_when_drained() - finish the message with @after as soon as no ring is stopping; for a handler to return */
int vus_when_drained(struct sl_vhost_user_server *s, int (*after)(struct sl_vhost_user_server *s));

/* vhost_user_ring.c */
void vus_rings_init(struct sl_vhost_user_server *s);
/** vus_ring_forget() - back to the state at connect; @fds: also the call and error descriptors */
void vus_ring_forget(struct vus_ring *r, bool fds);
/** vus_rings_start() - something about all rings changed: start those that are ready now */
void vus_rings_start(struct sl_vhost_user_server *s);
/** vus_rings_run() - does any? If not, the device is suspended */
bool vus_rings_run(const struct sl_vhost_user_server *s);
/** enum vus_stop - requests that the device gives up: the inflight region keeps them, or they are forgotten */
enum vus_stop { VUS_KEEP, VUS_FORGET };
void vus_ring_stop(struct vus_ring *r, enum vus_stop how);
void vus_rings_stop(struct sl_vhost_user_server *s, enum vus_stop how);
/** vus_rings_log() - memory log, its feature or a ring's flag changed: tell the running rings */
void vus_rings_log(struct sl_vhost_user_server *s);
int vus_set_vring_num(struct sl_vhost_user_server *s);
int vus_set_vring_addr(struct sl_vhost_user_server *s);
int vus_set_vring_base(struct sl_vhost_user_server *s);
int vus_get_vring_base(struct sl_vhost_user_server *s);
int vus_set_vring_kick(struct sl_vhost_user_server *s);
int vus_set_vring_call(struct sl_vhost_user_server *s);
int vus_set_vring_err(struct sl_vhost_user_server *s);
int vus_set_vring_enable(struct sl_vhost_user_server *s);
int vus_vring_kick(struct sl_vhost_user_server *s);
extern const struct sl_transport_ops vus_transport_ops;

/* vhost_user_memory.c */
int vus_set_mem_table(struct sl_vhost_user_server *s);
int vus_add_mem_reg(struct sl_vhost_user_server *s);
int vus_rem_mem_reg(struct sl_vhost_user_server *s);
int vus_set_log_base(struct sl_vhost_user_server *s);
int vus_get_inflight_fd(struct sl_vhost_user_server *s);
int vus_set_inflight_fd(struct sl_vhost_user_server *s);
/** vus_inflight_part() - ring @index' part of the inflight region; -EINVAL when it does not cover the ring */
int vus_inflight_part(struct sl_vhost_user_server *s, unsigned int index, uint16_t num, bool packed, void **part);
/** vus_memory_forget() - drop memory, log and inflight region; no ring runs */
void vus_memory_forget(struct sl_vhost_user_server *s);

/* vhost_user_channel.c */
/** vus_channel_set() - use @fd (owned from now on) for requests to the front-end; -1: no more */
void vus_channel_set(struct sl_vhost_user_server *s, int fd);
/** vus_channel_flush() - send what is owed, as far as the socket takes it */
void vus_channel_flush(struct sl_vhost_user_server *s);

#endif
