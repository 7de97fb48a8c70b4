/* SPDX-License-Identifier: MIT */
/* vq.h - the device side of a virtqueue, split and packed (virtio 1.4, 2.6 to 2.8).
 *
 * The driver at the other end may be hostile and may write the ring at any
 * moment. Each descriptor is copied once from shared memory and only the copy
 * is judged. Work per call is bounded by the queue size. A broken ring is one
 * state, reached once; only sl_vq_free() leaves it.
 *
 * A vq belongs to one thread at a time.
 */
#ifndef SLUICE_VQ_H
#define SLUICE_VQ_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/cursor.h>
#include <sluice/memory.h>

#define SL_VQ_MAX_SIZE 32768

/* Descriptors of one chain: the queue size (virtio 1.4, 2.7.5), but with INDIRECT_DESC never less than this.
 * Linux fills tables up to the device's segment limit also when the queue is smaller. */
#define SL_VQ_CHAIN_MAX 1024

/**
 * struct sl_vq_config - everything that makes a running queue; fixed while it runs
 * @num:       queue size; split: a power of two; 1 to 32768
 * @packed:    RING_PACKED
 * @event_idx: EVENT_IDX
 * @indirect:  INDIRECT_DESC: without it an indirect descriptor breaks the ring
 * @in_order:  IN_ORDER: chains are used in the order they were made available, whatever order they are pushed in
 * @desc:      guest physical address of the descriptor table / descriptor ring
 * @driver:    ... of the available ring / driver event suppression area
 * @device:    ... of the used ring / device event suppression area
 * @base:      where to go on, as sl_vq_base() gives it
 * @inflight:  this queue's part of a vhost-user inflight region (see sl_inflight_size()), aligned to 8, or NULL.
 *             Shared with the front-end and not trusted. A region that was used before outranks @base
 * @log:       dirty log of writes to guest memory, or NULL; the vq takes its own count
 * @log_ring:  also log writes to the used ring (split) or descriptor ring (packed)
 * @log_addr:  guest physical address under which writes to the used ring are logged (split). Packed rings are
 *             logged at @desc and @device: front-ends differ in what they give here
 */
struct sl_vq_config {
	uint16_t num;
	bool packed, event_idx, indirect, in_order;
	uint64_t desc, driver, device;
	uint32_t base;
	void *inflight;
	struct sl_dirty_log *log;
	bool log_ring;
	uint64_t log_addr;
};

#define SL_CHAIN_INLINE 6

/**
 * struct sl_chain - one request of the driver
 * @out:  what the driver wrote (device-readable)
 * @in:   what the driver may be given (device-writable)
 * @id:   the head (split) or buffer id (packed) that names the chain until it is pushed
 * @slots: descriptors of the ring that the chain takes (packed; 1 for split)
 *
 * The rest is the vq's own. Filled by sl_vq_pop(), alive until sl_vq_push() or
 * sl_vq_free(). Must not move meanwhile: the cursors may point into @store.
 */
struct sl_chain {
	struct sl_cursor out, in;
	uint16_t id, slots;
	uint16_t out_cnt, in_cnt;     /* entries of iov[]: out first, then in */
	uint32_t seq;		      /* position in the order of pops (in_order) */
	struct iovec *iov;	      /* @store or a block of the vq's pool */
	struct sl_mem_hold *hold;     /* keeps the snapshot that @iov points into */
	struct iovec store[SL_CHAIN_INLINE];
};

struct sl_vq;

/**
 * sl_vq_new() - start a queue
 * @mem: guest memory; the vq takes its own count
 *
 * Refuses (-EINVAL) sizes that are not legal and misaligned rings, (-EFAULT)
 * rings that are not wholly inside memory or not contiguous in this process.
 * With @cfg->inflight the region is recovered first: requests that were in
 * flight when an earlier process died come out of sl_vq_pop() again, oldest
 * first, before anything new. Return: the queue, or NULL with @err filled and errno set.
 */
SL_API struct sl_vq *sl_vq_new(const struct sl_vq_config *cfg, struct sl_mem *mem, struct sl_err *err);
/** sl_vq_free() - end a queue; chains not pushed are forgotten, guest memory is not touched */
SL_API void sl_vq_free(struct sl_vq *vq);

/**
 * sl_vq_pop() - take the next chain the driver made available
 *
 * Return: 1: @c is filled; 0: there is none; -ENOBUFS: there is one, but it
 * needs more scatter-gather memory than is free until a chain is pushed;
 * any other -errno: the ring is broken (and says the same from now on).
 * A chain of 4 GiB or more, or one that falls into more than 65535 pieces of
 * guest memory, breaks the ring as well.
 */
SL_API int sl_vq_pop(struct sl_vq *vq, struct sl_chain *c);
/** sl_vq_resubmits() - how many of those sl_vq_pop() has yet to give that the inflight region had */
SL_API unsigned int sl_vq_resubmits(const struct sl_vq *vq);
/** sl_vq_pending() - would sl_vq_pop() find something? Cheap; for polling */
SL_API bool sl_vq_pending(const struct sl_vq *vq);
/**
 * sl_vq_push() - stage @c as used; not visible to the driver before sl_vq_publish()
 * @len: bytes written to the start of what the driver may be given
 */
SL_API void sl_vq_push(struct sl_vq *vq, struct sl_chain *c, uint32_t len);
/**
 * sl_vq_publish() - make all staged chains visible at once
 *
 * Return: true when the driver wants to be called.
 */
SL_API bool sl_vq_publish(struct sl_vq *vq);
/** sl_vq_disarm() - ask the driver not to kick (a hint) */
SL_API void sl_vq_disarm(struct sl_vq *vq);
/**
 * sl_vq_rearm() - ask the driver to kick from now on
 *
 * Return: true when more arrived meanwhile: go round again.
 */
SL_API bool sl_vq_rearm(struct sl_vq *vq);

/**
 * sl_vq_base() - where a successor has to go on; the vhost "vring base" of both formats
 *
 * Split: next index of the available ring, 16 bits, free running. Packed:
 * bits 0-14 available index, 15 its wrap counter, 16-30 used index, 31 its wrap counter.
 */
SL_API uint32_t sl_vq_base(const struct sl_vq *vq);
/** sl_vq_inflight() - chains popped and not yet pushed */
SL_API unsigned int sl_vq_inflight(const struct sl_vq *vq);
/** sl_vq_broken() - NULL, or why the ring is broken */
SL_API const char *sl_vq_broken(const struct sl_vq *vq);
/** sl_vq_set_mem() - use another snapshot from now on; chains in flight keep theirs. 0, or -EFAULT and the ring is broken */
SL_API int sl_vq_set_mem(struct sl_vq *vq, struct sl_mem *mem);
/** sl_vq_set_log() - switch dirty logging on (@log not NULL) or off while the queue runs */
SL_API void sl_vq_set_log(struct sl_vq *vq, struct sl_dirty_log *log, bool log_ring, uint64_t log_addr);

/**
 * sl_vq_positions() - how far driver and device have come in a split ring, whoever runs it
 * @cfg:   num, packed and the addresses
 * @avail: out: what the driver has made available, 16 bits, free running
 * @used:  out: what the device has used; where these are equal the driver waits for nothing
 *
 * Return: false for a ring that is not in @mem, and for a packed one, which does not show this.
 */
SL_API bool sl_vq_positions(const struct sl_vq_config *cfg, struct sl_mem *mem, uint16_t *avail, uint16_t *used);

/** sl_inflight_size() - bytes that one queue of @num entries takes in a vhost-user inflight region */
SL_API uint64_t sl_inflight_size(bool packed, uint16_t num);

#endif
