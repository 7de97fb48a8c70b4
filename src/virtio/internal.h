/* SPDX-License-Identifier: MIT */
/* internal.h - what device.c and queue.c know of each other */
#ifndef VIRTIO_INTERNAL_H
#define VIRTIO_INTERNAL_H

#include <sluice/log.h>
#include <sluice/virtio.h>

/** enum queue_state - as the control loop sees it; the picture is in sluice/virtio.h */
enum queue_state { QUEUE_STOPPED, QUEUE_RUNNING, QUEUE_STOPPING };

/**
 * struct sl_queue
 *
 * Control loop:
 * @state:       see above
 * @by_reset:    sl_device_reset() asked for the stop, not the transport
 * @last_base:   vring base of the last stop
 * @was_broken:  the data loop said so
 *
 * Data loop while RUNNING or STOPPING (handed over by sl_loop_invoke() and by
 * the stopped task):
 * @vq, @slots:  made by start, freed by stop
 * @free:        slots given back, last in first out: what was used last is still in the cache
 * @fresh:       slots never used so far: their memory is not even touched
 * @in_flight:   slots that the device holds; atomic, relaxed: the control loop may look at it
 * @stopping:    no more pops
 * @has_region:  an inflight region keeps what is not pushed, for the next life of the ring
 * @logged:      the dirty log is on: the guest is being moved
 * @forgotten:   the driver is resetting: nobody waits for what is in flight
 * @leaving:     what is done now stays in the inflight region
 * @broken:      no more pops, nothing is published any more
 * @starved:     the next chain waits for memory that a push gives back
 * @in_round:    requests that are done now are published at the end of the round, or before
 * @staged:      chains pushed and not yet published
 * @owes_call:   the driver wants to be called for what was published
 * @call_fd:     -1: transport's queue_call
 */
struct sl_queue {
	struct sl_device *device;
	struct sl_loop *loop;
	unsigned int index;

	enum queue_state state;
	bool by_reset, was_broken;
	uint32_t last_base;

	struct sl_vq *vq;
	char *slots;
	size_t slot_size, slots_bytes;
	struct sl_req *free;
	unsigned int num, fresh, in_flight, staged;
	bool stopping, broken, starved, in_round, owes_call;
	bool has_region, logged, forgotten, leaving;
	int call_fd;
	void *priv;
	const char *why; /* it is broken */

	struct sl_watch kick;
	struct sl_poller poller;
	struct sl_task kicked, flush, finish; /* on the data loop */
	struct sl_timer give_up;	      /* on the data loop, while a stop waits */
	struct sl_task stopped, broke;	      /* on the control loop */
	struct sl_queue_stats stats;	      /* written by the data loop, relaxed atomics */
};

/**
 * struct sl_device
 * @reset_done: not NULL while a reset waits for @stopping queues
 */
struct sl_device {
	const struct sl_device_ops *ops;
	void *priv;
	char *name;
	struct sl_loop *control;
	struct sl_features offered, accepted;
	uint8_t status;
	uint16_t num_queues, max_queue_size;
	uint32_t poll_us, stop_timeout_ms;

	uint8_t *config;
	uint16_t config_len;
	const struct sl_config_range *writable;
	uint32_t generation;
	struct sl_shm shm[SL_DEVICE_MAX_SHM];
	unsigned int num_shm;

	const struct sl_transport_ops *transport;
	void *t;

	void (*reset_done)(void *arg);
	void *reset_arg;
	struct sl_log_limit limit;

	struct sl_queue queues[];
};

/** queue_init() - a stopped queue */
void queue_init(struct sl_device *d, unsigned int index, struct sl_loop *loop);
/** queue_ask_stop() - control; a running queue starts to stop, @forget as sl_queue_reset(); false when it is stopped */
bool queue_ask_stop(struct sl_queue *q, bool forget);
/** device_queue_stopped() - control; queue.c tells that the stop is complete */
void device_queue_stopped(struct sl_queue *q);
/** device_queue_broke() - control; queue.c tells that the ring is broken */
void device_queue_broke(struct sl_queue *q);

#endif
