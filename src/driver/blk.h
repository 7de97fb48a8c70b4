/* SPDX-License-Identifier: MIT */
/* blk.h - driver of virtio-blk devices over any link (virtio 1.4, 5.2).
 *
 * Freestanding: the caller gives all memory and nothing is allocated. Life:
 *
 *   vblk_open -> vblk_queue_init, one a queue -> vblk_start -> { submit* vblk_commit vblk_poll* }* -> vblk_stop
 *
 * A request is named by the caller's cookie, which comes back from vblk_poll()
 * once. vblk_open(), vblk_start(), vblk_restart() and vblk_stop() belong to the
 * link's thread; a queue belongs to one thread at a time.
 */
#ifndef DRIVER_BLK_H
#define DRIVER_BLK_H

#include <sluice/dq.h>
#include <sluice/link.h>

#define VBLK_SECTOR 512
#define VBLK_MAX_SEGMENTS 32 /* of one request's data */
#define VBLK_ID_BYTES 20

/**
 * struct vblk_info - what the device said about itself; members of features that were not accepted are 0
 * @capacity:      bytes
 * @block_size:    unit of offsets and lengths, bytes (512 when the device does not say)
 * @size_max:      longest segment, bytes; 0: no limit
 * @seg_max:       most segments of one request, at most VBLK_MAX_SEGMENTS
 * @num_queues:    at least 1
 * @physical_size: physical block, bytes
 * @optimal_size:  preferred I/O, bytes; 0: unknown
 * @cylinders, @heads, @sectors: geometry
 * @max_discard, @max_write_zeroes: sectors of one request; 0: it cannot
 * @discard_alignment: sectors
 */
struct vblk_info {
	uint64_t capacity;
	uint32_t block_size, size_max, seg_max;
	uint16_t num_queues;
	uint32_t physical_size, optimal_size;
	uint16_t cylinders;
	uint8_t heads, sectors;
	uint32_t max_discard, max_write_zeroes, discard_alignment;
	bool read_only, flush, writeback, write_zeroes_unmap;
};

/**
 * struct vblk - a device
 * @features: what was agreed on
 * @inflight: set by the caller once its link has an inflight region, see vblk_restart()
 */
struct vblk {
	struct sl_link *link;
	struct sl_features features;
	struct vblk_info info;
	bool inflight;
};

/**
 * struct vblk_slot - the fixed parts of a request, shared with the device
 *
 * One cache line, so that a small request costs one line beside its data.
 */
struct vblk_slot {
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	struct {
		uint64_t sector;
		uint32_t num_sectors, flags;
	} range; /* discard, write-zeroes */
	uint8_t status;
	uint8_t pad[31];
};

/** struct vblk_tag - the driver's own part of a request: whose it is, or the next free one */
struct vblk_tag {
	void *cookie;
	uint32_t next_free;
};

/**
 * struct vblk_queue - a queue
 * @slots, @slots_addr: one for each request, here and for the device
 * @tags:    one for each slot
 * @free:    first free tag; @num: none
 * @dirty:   something was offered since the last commit
 * @setup:   what the link is told
 * @commits: vblk_commit() calls that published something
 * @kicks:   how many of them had to kick
 */
struct vblk_queue {
	struct vblk *blk;
	struct sl_dq *dq;
	struct vblk_slot *slots;
	struct vblk_tag *tags;
	uint64_t slots_addr;
	uint32_t free;
	bool dirty;
	uint16_t index, num;
	struct sl_link_queue setup;
	uint64_t commits, kicks;
};

/**
 * vblk_open() - reset the device, negotiate, read its configuration
 * @mask: feature bits that may be accepted, the ring's ones included; NULL: all this driver knows
 *
 * VERSION_1 is required. Return: 0 or -errno with @err filled.
 */
int vblk_open(struct vblk *b, struct sl_link *link, const struct sl_features *mask, struct sl_err *err);

/** vblk_queue_shared_size() - bytes of memory shared with the device that a queue takes */
uint64_t vblk_queue_shared_size(const struct vblk *b, uint16_t num);
/** vblk_queue_private_size() - bytes of private memory that a queue takes */
size_t vblk_queue_private_size(uint16_t num);
/**
 * vblk_queue_init() - a fresh queue
 * @num:     size; a power of two unless packed. A request takes 2 entries and one for each segment
 * @shared:  zeroed, aligned to 4096; the device finds it at @addr
 * @private: aligned to 16
 *
 * Return: 0, or -EINVAL when the size is not legal.
 */
int vblk_queue_init(struct vblk_queue *q, struct vblk *b, uint16_t index, uint16_t num, void *shared, uint64_t addr,
		    void *private, struct sl_err *err);

/** vblk_start() - let the queues run and the device go */
int vblk_start(struct vblk *b, struct vblk_queue *queues, unsigned int n, struct sl_err *err);
/** vblk_stop() - stop the queues; everything used is still there for vblk_poll() */
int vblk_stop(struct vblk *b, struct vblk_queue *queues, unsigned int n, struct sl_err *err);
/**
 * vblk_restart() - the device side died: go on with its next incarnation
 *
 * The caller has taken everything that vblk_poll() gives. What is left
 * outstanding is done by the new incarnation, which learns of it from the
 * inflight region. Without one nobody knows what the old incarnation had done
 * out of order, so then -ENOTSUP with anything outstanding.
 */
int vblk_restart(struct vblk *b, struct vblk_queue *queues, unsigned int n, struct sl_err *err);

/*
 * Each of these offers one request, visible to the device after vblk_commit().
 * Return: true, or false when the queue has no room. @cookie is not NULL;
 * @n is 1 to VBLK_MAX_SEGMENTS.
 */
bool vblk_read(struct vblk_queue *q, uint64_t sector, const struct sl_dq_buf *data, unsigned int n, void *cookie);
bool vblk_write(struct vblk_queue *q, uint64_t sector, const struct sl_dq_buf *data, unsigned int n, void *cookie);
bool vblk_flush(struct vblk_queue *q, void *cookie);
bool vblk_discard(struct vblk_queue *q, uint64_t sector, uint32_t num_sectors, void *cookie);
bool vblk_write_zeroes(struct vblk_queue *q, uint64_t sector, uint32_t num_sectors, bool unmap, void *cookie);
/** vblk_get_id() - @addr: device address of VBLK_ID_BYTES bytes; a shorter name ends with a zero byte */
bool vblk_get_id(struct vblk_queue *q, uint64_t addr, void *cookie);

/** vblk_commit() - make what was offered visible, kick when the device wants it */
void vblk_commit(struct vblk_queue *q);
/** vblk_poll() - the cookie of a finished request, or NULL; *@result is 0, -EIO or -EOPNOTSUPP */
void *vblk_poll(struct vblk_queue *q, int *result);

/** vblk_disarm() - no calls wanted, for now (a hint) */
static inline void vblk_disarm(struct vblk_queue *q)
{
	sl_dq_disarm(q->dq);
}

/** vblk_rearm() - calls wanted; true when more finished meanwhile */
static inline bool vblk_rearm(struct vblk_queue *q)
{
	return sl_dq_rearm(q->dq);
}

/** vblk_outstanding() - requests that the device has */
static inline unsigned int vblk_outstanding(const struct vblk_queue *q)
{
	return sl_dq_outstanding(q->dq);
}

/** vblk_broken() - NULL, or what the device did that it must not */
static inline const char *vblk_broken(const struct vblk_queue *q)
{
	return sl_dq_broken(q->dq);
}

#endif
