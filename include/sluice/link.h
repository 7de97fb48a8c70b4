/* SPDX-License-Identifier: MIT */
/* link.h - what a virtio driver needs of the way to its device.
 *
 * A link carries the control plane only: features, status, configuration,
 * where the rings are. Data never crosses it; a running queue is shared memory
 * (see dq.h) plus kick and call. Every way to a device is one const table of
 * operations, so a driver is written once and works over all of them.
 *
 * The order a driver keeps:
 *
 *   features -> accept -> set_memory -> [inflight] -> queue_start, one a queue -> status DRIVER_OK
 *   ... data ... queue_stop, one a queue -> close
 *
 * Addresses of rings and buffers are device addresses: what the regions of
 * set_memory() say. This header is freestanding; kick() may be called by the
 * thread that owns the queue, everything else by one thread, the link's.
 *
 * What the other side answers is input: sizes, ids and values are checked, and
 * each wait is bounded. After -EPIPE (the device side is gone), -ETIMEDOUT or
 * -EPROTO the link is dead: only reconnect() and close() are of any use.
 */
#ifndef SLUICE_LINK_H
#define SLUICE_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sluice/dq.h>
#include <sluice/error.h>
#include <sluice/features.h>

struct sl_link;

/**
 * struct sl_link_region - memory that the device may use
 * @addr:   first device address; @addr + @size does not wrap
 * @size:   bytes
 * @hva:    where it is in this process
 * @fd:     what can be mapped to reach it, or -1 on links that share the address space;
 *          stays the caller's and stays open as long as the link uses the region
 * @offset: where in @fd the region starts
 */
struct sl_link_region {
	uint64_t addr, size;
	void *hva;
	int fd;
	uint64_t offset;
};

#define SL_LINK_MAX_REGIONS 8

/**
 * struct sl_link_queue - what makes a queue run
 * @num:     queue size
 * @desc:    device address of the descriptor table / descriptor ring
 * @driver:  ... of the available ring / driver event suppression area
 * @device:  ... of the used ring / device event suppression area
 * @base:    where the device goes on, as queue_stop() or sl_dq_base() gave it
 * @kick_fd: eventfd to use for kicks, or -1: the link makes what it needs. Stays the caller's
 * @call_fd: the same for calls
 */
struct sl_link_queue {
	uint16_t num;
	uint64_t desc, driver, device;
	uint32_t base;
	int kick_fd, call_fd;
};

/**
 * struct sl_link_inflight - a region in which the device notes the requests it holds
 * @fd:     belongs to whoever holds this struct
 * @size:   bytes to map
 * @offset: where in @fd
 * @num_queues, @queue_size: that it is made for
 */
struct sl_link_inflight {
	int fd;
	uint64_t size, offset;
	uint16_t num_queues, queue_size;
};

/* bits of events() */
enum {
	SL_LINK_CONFIG = 1, /* the device changed its configuration, or its status to NEEDS_RESET */
	SL_LINK_GONE = 2,   /* the device side went away */
};

/**
 * struct sl_link_ops - a kind of link
 *
 * All return 0 or -errno with @err filled, unless said otherwise. Operations
 * marked optional may be NULL: the link cannot do that.
 *
 * @name:         "vhost-user", "direct", ...
 * @features:     what the device offers
 * @accept:       what the driver chose; a subset of what is offered
 * @status_get:   device status (>= 0); a link without a status register answers what was last set
 * @status_set:   0 resets the device: all queues are stopped then
 * @config_read:  bytes of configuration; beyond its end they read as 0
 * @config_write: bytes of configuration
 * @num_queues:   how many there can be (> 0)
 * @set_memory:   replaces the regions; before the first queue_start() or while queues run
 * @queue_start:  let a stopped queue run
 * @queue_stop:   returns when no request is in flight any more; *@base (may be NULL) says where a successor goes on
 * @kick:         the driver made something available; @data: see sl_dq_kick_data(). Never fails, and never blocks but with a
 *                device side in another process that means it to: that shares the eventfd
 * @call_fd:      eventfd that becomes readable when the device calls; -1 while the queue is stopped. Optional
 * @event_fd:     becomes readable when events() has something to say; epoll it, never read it. Optional
 * @events:       SL_LINK_* bits since the last time; never blocks
 * @inflight_get: a fresh region for @num_queues queues of @queue_size. Optional
 * @inflight_set: use this region in all queues started from now on. Optional
 * @reconnect:    to a new incarnation of the device, waiting for it as long as the link's time-out: same features,
 *                memory and inflight region; all queues are stopped; the driver starts them with base as sl_dq_base()
 *                gives it after everything used was taken. Optional
 * @set_call:     another eventfd for the calls of a running queue, which stays the caller's; calls may reach the old one
 *                until this returns. Optional
 * @close:        stops nothing gracefully: the driver does that before. Frees the link
 */
struct sl_link_ops {
	const char *name;
	int (*features)(struct sl_link *l, struct sl_features *out, struct sl_err *err);
	int (*accept)(struct sl_link *l, const struct sl_features *f, struct sl_err *err);
	int (*status_get)(struct sl_link *l, struct sl_err *err);
	int (*status_set)(struct sl_link *l, uint8_t status, struct sl_err *err);
	int (*config_read)(struct sl_link *l, uint32_t off, void *dst, uint32_t len, struct sl_err *err);
	int (*config_write)(struct sl_link *l, uint32_t off, const void *src, uint32_t len, struct sl_err *err);
	int (*num_queues)(struct sl_link *l, struct sl_err *err);
	int (*set_memory)(struct sl_link *l, const struct sl_link_region *regions, unsigned int n, struct sl_err *err);
	int (*queue_start)(struct sl_link *l, unsigned int index, const struct sl_link_queue *q, struct sl_err *err);
	int (*queue_stop)(struct sl_link *l, unsigned int index, uint32_t *base, struct sl_err *err);
	void (*kick)(struct sl_link *l, unsigned int index, uint16_t data);
	int (*call_fd)(struct sl_link *l, unsigned int index);
	int (*event_fd)(struct sl_link *l);
	unsigned int (*events)(struct sl_link *l);
	int (*inflight_get)(struct sl_link *l, uint16_t num_queues, uint16_t queue_size, struct sl_link_inflight *out,
			    struct sl_err *err);
	int (*inflight_set)(struct sl_link *l, const struct sl_link_inflight *region, struct sl_err *err);
	int (*reconnect)(struct sl_link *l, struct sl_err *err);
	int (*set_call)(struct sl_link *l, unsigned int index, int fd, struct sl_err *err);
	void (*close)(struct sl_link *l);
};

/** struct sl_link - the start of every link's own struct */
struct sl_link {
	const struct sl_link_ops *ops;
};

/**
 * struct sl_link_vhost_user_config - how to reach a vhost-user back-end
 * @path:       socket to connect to, or NULL
 * @fd:         connected socket, when @path is NULL; the link owns it from now on, also when opening fails
 * @timeout_ms: longest wait for one answer, and of reconnect() for the back-end to listen; 0: 5000
 * @cancel_fd:  once it is readable every wait ends with -ECANCELED, and no connect waits for room in the back-end's
 *              backlog; 0: none
 * @patient:    queue_stop() waits for the requests in flight as long as there is a back-end
 */
struct sl_link_vhost_user_config {
	const char *path;
	int fd;
	unsigned int timeout_ms;
	int cancel_fd;
	bool patient;
};

/** sl_link_vhost_user_open() - connect and negotiate the protocol; NULL with @err filled and errno set */
SL_API struct sl_link *sl_link_vhost_user_open(const struct sl_link_vhost_user_config *cfg, struct sl_err *err);

/**
 * sl_link_wait() - sleep until there may be something new in a queue
 * @index:  the queue
 * @dq:     the driver's side of it, from which everything used was taken
 * @events: what events() said meanwhile; may be NULL
 *
 * Return: 0: look again; -EPROTO: the device broke the queue; -EPIPE: it has
 * gone; -EINTR: a signal; another -errno. @err is filled.
 */
SL_API int sl_link_wait(struct sl_link *l, unsigned int index, struct sl_dq *dq, unsigned int *events,
			struct sl_err *err);

struct sl_device;

/**
 * sl_link_direct_open() - attach to a device of this process, which must have no transport yet
 *
 * The link's thread is the one of the device's control loop; the link steps
 * that loop while it waits for the device. Data loops may be run by other
 * threads. close() leaves the device reset and detached.
 * Return: the link, or NULL with @err filled.
 */
SL_API struct sl_link *sl_link_direct_open(struct sl_device *device, struct sl_err *err);

/**
 * sl_link_negotiate() - reset the device and agree on features, up to FEATURES_OK; freestanding
 * @f: in: what the driver can use; out: what of it is offered and now in force
 *
 * Return: 0, -ENOTSUP without VERSION_1 on both sides, or another -errno with @err filled.
 */
SL_API int sl_link_negotiate(struct sl_link *l, struct sl_features *f, struct sl_err *err);
/** sl_link_driver_ok() - the queues are started: the device may work; freestanding; 0 or -errno with @err filled */
SL_API int sl_link_driver_ok(struct sl_link *l, struct sl_err *err);

/**
 * struct sl_dma - memory to share with a device, given out from its front
 * @region: what set_memory() wants
 * @used:   bytes given out
 */
struct sl_dma {
	struct sl_link_region region;
	uint64_t used;
};

/** sl_dma_open() - @size zeroed bytes of shared memory that the device finds at @addr; 0 or -errno */
SL_API int sl_dma_open(struct sl_dma *dma, uint64_t addr, uint64_t size, struct sl_err *err);
/** sl_dma_alloc() - take @size bytes, aligned to @align (a power of two); *@addr (may be NULL) is the device address.
 *                   NULL when there is no room */
SL_API void *sl_dma_alloc(struct sl_dma *dma, uint64_t size, uint64_t align, uint64_t *addr);
/**
 * sl_dma_queue() - a fresh queue of @num entries whose ring is taken from @dma
 * @f:     the features in force, see sl_link_negotiate()
 * @state: see struct sl_dq_config
 * @setup: filled with what queue_start() wants; the link makes kick and call
 *
 * Return: the queue, which needs no clean-up of its own; NULL with @err filled.
 */
SL_API struct sl_dq *sl_dma_queue(struct sl_dma *dma, const struct sl_features *f, uint16_t num, void *state,
				  struct sl_link_queue *setup, struct sl_err *err);
/** sl_dma_close() - unmap it, which no device may use any more; safe when closed */
SL_API void sl_dma_close(struct sl_dma *dma);

#endif
