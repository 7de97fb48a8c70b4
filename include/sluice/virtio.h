/* SPDX-License-Identifier: MIT */
/* virtio.h - the device model: what every virtio device shares (virtio 1.4, chapter 2).
 *
 * A device is a const table of operations plus data: offered features, number
 * of queues, bytes of configuration. The core serves feature negotiation,
 * status, configuration space with its generation, queues, stop, reset and
 * faults; a device never sees a descriptor and holds no such code.
 *
 * Threads: one control loop calls everything marked "control". Each queue
 * belongs to one data loop, which may be the control loop itself; operations
 * marked "data" run there. No locks: the control loop reaches a data loop with
 * sl_loop_invoke(), a data loop answers with sl_task_send().
 *
 * Life of a queue:
 *
 *     stopped --sl_queue_start()--> running --sl_queue_stop()--> stopping --last request done--> stopped
 *                                      |                                   (transport: queue_stopped)
 *                                      +--ring broken--> broken --sl_queue_stop()--> ...
 *
 * A stop waits for requests in flight, at most stop_timeout_ms where the
 * device can give them up (struct sl_device_ops, @abandon).
 *
 * Once the transport heard queue_stopped, guest memory is not touched any more.
 */
#ifndef SLUICE_VIRTIO_H
#define SLUICE_VIRTIO_H

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sluice/features.h>
#include <sluice/loop.h>
#include <sluice/vq.h>

struct sl_device;
struct sl_placement_ops;
struct sl_queue;

/**
 * struct sl_req - one request, in a slot that its queue owns
 * @chain: the descriptors, as two cursors
 * @queue: where it came from
 * @next:  for the device's own lists while it holds the request
 * @priv:  the device's own, ops->req_size bytes, not initialised
 */
struct sl_req {
	struct sl_chain chain;
	struct sl_queue *queue;
	struct sl_req *next;
	alignas(16) unsigned char priv[];
};

/**
 * struct sl_device_ops - a device type
 * @type:           its name, as in the command line
 * @id:             virtio device id (virtio 1.4, chapter 5)
 * @req_size:       bytes of private state in each request slot
 * @queue_size:     bytes of private state of each queue (zeroed at each start)
 * @queue_start:    data; the queue is about to run; 0 or -errno. Optional
 * @queue_stop:     data; the last request is done. Optional
 * @request:        data; one request. The device calls sl_req_done() exactly
 *                  once, now or later on the same loop
 * @commit:         data; the batch ends: no more request() in this round. Optional
 * @features_set:   control; the driver's features are accepted. Optional
 * @drain:          data; a stop begins: what the device holds back by its own choice shall go on. Optional
 * @abandon:        data; a stop has waited long enough: finish every request that the device can let go of before this
 *                  returns, memory of the others stays in use. What it finishes is not told to the driver as done:
 *                  see sl_queue_stop(). Optional
 * @config_written: control; the driver wrote these bytes of configuration. Optional
 * @reset:          control; all queues are stopped, back to the initial state. Optional
 * @placement:      the queues run somewhere else; then the device has none of the operations marked data. Optional
 */
struct sl_device_ops {
	const char *type;
	uint16_t id;
	size_t req_size, queue_size;
	int (*queue_start)(struct sl_queue *q);
	void (*queue_stop)(struct sl_queue *q);
	void (*request)(struct sl_queue *q, struct sl_req *r);
	void (*commit)(struct sl_queue *q);
	void (*drain)(struct sl_queue *q);
	void (*abandon)(struct sl_queue *q);
	void (*features_set)(struct sl_device *d);
	void (*config_written)(struct sl_device *d, uint32_t off, uint32_t len);
	void (*reset)(struct sl_device *d);
	const struct sl_placement_ops *placement;
};

/** struct sl_config_range - bytes of configuration that a driver may write */
struct sl_config_range {
	uint16_t off, len;
};

/**
 * struct sl_shm - memory that a device shows its driver beside its queues (virtio 1.4, 2.10)
 * @id:   what the device's type calls it
 * @hva:  page aligned; lives as long as the device; driver and device read and write it at any time
 * @size: bytes, a multiple of 4096
 *
 * Transports that have no way for it (vhost-user, mmio) do not show it.
 */
struct sl_shm {
	uint8_t id;
	void *hva;
	uint64_t size;
};
#define SL_DEVICE_MAX_SHM 3

/**
 * struct sl_device_config - what a device is made of
 * @ops:            its type; outlives the device
 * @priv:           the device's own data, see sl_device_priv()
 * @name:           names the device in log lines; copied
 * @offered:        feature bits, the ring's ones included
 * @num_queues:     1 to SL_DEVICE_MAX_QUEUES
 * @max_queue_size: 1 to 32768
 * @config:         initial bytes of configuration; copied; may be NULL when @config_len is 0
 * @config_len:     at most SL_DEVICE_MAX_CONFIG
 * @writable:       ranges of configuration that a driver may write; ends with a len of 0; NULL: none
 * @shm, @num_shm:  shared memory; copied; at most SL_DEVICE_MAX_SHM
 * @poll_us:        see struct sl_poller
 * @stop_timeout_ms: how long a stop waits for requests in flight before ops->abandon(); 0: without end
 * @control:        the control loop
 * @loops:          data loops; queue i runs on loops[(@first_loop + i) % @num_loops]; NULL: all on @control
 */
struct sl_device_config {
	const struct sl_device_ops *ops;
	void *priv;
	const char *name;
	struct sl_features offered;
	uint16_t num_queues, max_queue_size;
	const void *config;
	uint16_t config_len;
	const struct sl_config_range *writable;
	const struct sl_shm *shm;
	unsigned int num_shm;
	uint32_t poll_us, stop_timeout_ms;
	struct sl_loop *control;
	struct sl_loop *const *loops;
	unsigned int num_loops, first_loop;
};

#define SL_DEVICE_MAX_QUEUES 1024
#define SL_DEVICE_MAX_CONFIG 4096

/* ---- for whoever builds a device (control) ---- */

/** sl_device_new() - a device after its reset, without a transport; NULL with @err filled */
SL_API struct sl_device *sl_device_new(const struct sl_device_config *cfg, struct sl_err *err);
/** sl_device_free() - all queues must be stopped and the transport detached */
SL_API void sl_device_free(struct sl_device *d);

/* ---- for devices ---- */

/* Constant: any thread may ask. */
SL_API void *sl_device_priv(const struct sl_device *d);
SL_API const char *sl_device_name(const struct sl_device *d);
/** sl_device_features() - what driver and device agreed on; fixed while a queue runs; any thread */
SL_API const struct sl_features *sl_device_features(const struct sl_device *d);
/** sl_device_config_update() - control; the device changes its configuration: new generation, the driver is told */
SL_API void sl_device_config_update(struct sl_device *d, uint32_t off, const void *src, uint32_t len);

/* Constant: any thread may ask. */
SL_API struct sl_device *sl_queue_device(const struct sl_queue *q);
SL_API unsigned int sl_queue_index(const struct sl_queue *q);
SL_API struct sl_loop *sl_queue_loop(const struct sl_queue *q);
/** sl_queue_priv() - ops->queue_size bytes, zeroed when the queue started */
SL_API void *sl_queue_priv(const struct sl_queue *q);
/**
 * sl_req_done() - data; the request is finished; the slot is the queue's again
 * @len: bytes written to the front of what the driver may be given
 */
SL_API void sl_req_done(struct sl_req *r, uint32_t len);
/** sl_queue_fail() - data; the driver broke this device type's rules beyond a status byte: the queue becomes broken */
SL_API void sl_queue_fail(struct sl_queue *q, const char *why);

/* ---- for transports ---- */

/**
 * struct sl_transport_ops - what a device tells its transport
 * @queue_call:     data; the driver is to be called; used where the queue has no call descriptor. Optional
 * @queue_stopped:  control; answer to sl_queue_stop(), perhaps before that returns
 * @queue_broken:   control; the ring is broken, NEEDS_RESET is set in the status
 * @config_changed: control; the driver is to be told
 * @shared_calls:   call descriptors are shared with somebody who may try to block us by them
 */
struct sl_transport_ops {
	void (*queue_call)(void *t, unsigned int index);
	void (*queue_stopped)(void *t, unsigned int index, uint32_t base);
	void (*queue_broken)(void *t, unsigned int index, const char *why);
	void (*config_changed)(void *t);
	bool shared_calls;
};

/** sl_device_attach() - control; @ops NULL detaches */
SL_API void sl_device_attach(struct sl_device *d, const struct sl_transport_ops *ops, void *t);

/* All of these are for the control loop; ids, numbers, sizes and what is offered never change. */
SL_API uint16_t sl_device_id(const struct sl_device *d);
SL_API unsigned int sl_device_num_queues(const struct sl_device *d);
SL_API uint16_t sl_device_max_queue_size(const struct sl_device *d);
SL_API struct sl_loop *sl_device_control(const struct sl_device *d);
SL_API const struct sl_features *sl_device_offered(const struct sl_device *d);
/** sl_device_accept() - the driver's choice of features; -EINVAL when it is no legal subset; -EBUSY when a queue runs with others */
SL_API int sl_device_accept(struct sl_device *d, const struct sl_features *f);
SL_API uint16_t sl_device_config_len(const struct sl_device *d);
/** sl_device_config_read() - bytes beyond the end read as 0 */
SL_API void sl_device_config_read(const struct sl_device *d, uint32_t off, void *dst, uint32_t len);
/** sl_device_config_write() - 0, or -EINVAL when a byte is not writable (then nothing is changed) */
SL_API int sl_device_config_write(struct sl_device *d, uint32_t off, const void *src, uint32_t len);
/** sl_device_shm() - shared memory; *@n is the number of regions */
SL_API const struct sl_shm *sl_device_shm(const struct sl_device *d, unsigned int *n);
/** sl_device_generation() - changes with each change of configuration; wraps */
SL_API uint32_t sl_device_generation(const struct sl_device *d);
/** sl_device_status() - the bits of enum sl_status, NEEDS_RESET included */
SL_API uint8_t sl_device_status(const struct sl_device *d);
/**
 * sl_device_set_status() - the driver writes its status
 *
 * Bits are only ever added (a write that clears one is ignored but for 0,
 * which is what sl_device_reset() is for); FEATURES_OK stays clear when the
 * features are not legal; DRIVER_OK is refused before FEATURES_OK.
 * Return: 0, or -EINVAL when something was refused.
 */
SL_API int sl_device_set_status(struct sl_device *d, uint8_t status);
/** sl_device_needs_reset() - control; what the driver set up for queue @index cannot work: it hears of NEEDS_RESET */
SL_API void sl_device_needs_reset(struct sl_device *d, unsigned int index, const char *why);
/**
 * sl_device_reset() - stop every queue, forget features and status
 * @done: called on the control loop when all requests in flight are done; before this returns when no queue
 *        runs. May be NULL
 *
 * queue_stopped is not called for the queues it stops. The driver forgets its
 * requests: none of them stays in an inflight region.
 */
SL_API void sl_device_reset(struct sl_device *d, void (*done)(void *arg), void *arg);

/**
 * struct sl_queue_setup - what makes a queue run
 * @vq:      ring addresses, size and position; the ring features are taken from the accepted features
 * @kick_fd: eventfd that the driver writes, or -1 (then sl_queue_kick()); stays the transport's
 * @call_fd: eventfd to write, or -1 (then queue_call); stays the transport's
 */
struct sl_queue_setup {
	struct sl_vq_config vq;
	int kick_fd, call_fd;
};

/**
 * sl_queue_start() - let a stopped queue run
 *
 * The ring is looked at once without waiting for a kick, and the driver is
 * called once, so that notifications lost in an earlier life do no harm.
 * Return: 0 or -errno with @err filled.
 */
SL_API int sl_queue_start(struct sl_device *d, unsigned int index, const struct sl_queue_setup *setup,
			  struct sl_mem *mem, struct sl_err *err);
/**
 * sl_queue_stop() - no new pops; queue_stopped follows when the last request is done. A stopped queue answers at once
 *
 * What ops->abandon() gives up stays in the queue's inflight region, so that
 * the next life of the ring carries it out. Where that cannot be (there is no
 * region, or the guest is being moved and its successor will not see it), the
 * driver gets whatever the device answers, which is an error.
 */
SL_API void sl_queue_stop(struct sl_device *d, unsigned int index);
/** sl_queue_reset() - sl_queue_stop() for a driver that forgets its requests: none stays in an inflight region */
SL_API void sl_queue_reset(struct sl_device *d, unsigned int index);
/** sl_queue_running() - was it started and is not yet asked to stop? Also a broken one */
SL_API bool sl_queue_running(const struct sl_device *d, unsigned int index);
enum sl_queue_state { SL_QUEUE_STOPPED, SL_QUEUE_RUNNING, SL_QUEUE_STOPPING, SL_QUEUE_BROKEN };
/** sl_queue_state() - control; see the picture above; a broken queue that stops is stopping */
SL_API enum sl_queue_state sl_queue_state(const struct sl_device *d, unsigned int index);
/** sl_queue_set_call() - another call descriptor, or -1; on return the old one is no longer used */
SL_API void sl_queue_set_call(struct sl_device *d, unsigned int index, int fd);
/** sl_queue_set_kick() - another kick descriptor, or -1; on return the old one is no longer used */
SL_API void sl_queue_set_kick(struct sl_device *d, unsigned int index, int fd);
/** sl_queue_kick() - a kick that came by other means than the descriptor; any thread, but see sl_loop_invoke() */
SL_API void sl_queue_kick(struct sl_device *d, unsigned int index);
/** sl_device_set_mem() - all running queues go on with this snapshot; requests in flight keep theirs */
SL_API void sl_device_set_mem(struct sl_device *d, struct sl_mem *mem);
/** sl_queue_set_log() - switch dirty logging of a running queue on or off */
SL_API void sl_queue_set_log(struct sl_device *d, unsigned int index, struct sl_dirty_log *log, bool log_ring,
			     uint64_t log_addr);

/**
 * struct sl_placement_ops - a device whose queues run in another process, or in the kernel
 * @queue_start: control; run the queue with this set-up, whose ring features are filled in; 0 or -errno with @err filled.
 *               What goes wrong later is told by sl_device_needs_reset()
 * @queue_stop:  control; answered by sl_queue_stopped(), later than this returns
 * @queue_call:  control; another call descriptor, or -1. Until the other side has taken it, calls may reach the old one
 * @queue_kick:  data; a kick that came by other means than the descriptor; also for a queue that does not run
 *
 * Such a device can have a transport over registers, not the vhost-user server:
 * nobody keeps the dirty log here.
 */
struct sl_placement_ops {
	int (*queue_start)(struct sl_device *d, unsigned int index, const struct sl_queue_setup *setup,
			   struct sl_mem *mem, struct sl_err *err);
	void (*queue_stop)(struct sl_device *d, unsigned int index);
	void (*queue_call)(struct sl_device *d, unsigned int index, int fd);
	void (*queue_kick)(struct sl_device *d, unsigned int index);
};
/** sl_queue_stopped() - control; a placement's answer to @queue_stop: guest memory is not touched any more */
SL_API void sl_queue_stopped(struct sl_device *d, unsigned int index, uint32_t base);
/** sl_queue_call() - data; a placement calls the driver by way of this process */
SL_API void sl_queue_call(struct sl_device *d, unsigned int index);
/** sl_queue_at() - queue @index, which is less than the number of queues */
SL_API struct sl_queue *sl_queue_at(struct sl_device *d, unsigned int index);

/**
 * struct sl_queue_stats - counters of a queue since the device was made
 * @requests: requests taken off the ring
 * @rounds:   times the ring was drained
 * @kicks:    kicks that arrived
 * @calls:    calls that were made
 * @in_flight: requests that the device holds now
 */
struct sl_queue_stats {
	uint64_t requests, rounds, kicks, calls, in_flight;
};
/** sl_queue_stats() - control; what a data loop counts meanwhile may be missing. Zeroes for a queue that is not there */
SL_API void sl_queue_stats(const struct sl_device *d, unsigned int index, struct sl_queue_stats *out);

#endif
