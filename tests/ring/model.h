/* SPDX-License-Identifier: MIT */
/* model.h - driver and device of a virtqueue, written straight from virtio 1.4, 2.7 and 2.8.
 *
 * Slow and plain: no caching, no batching tricks, nothing shared with src/ring.
 * Both take the other side to be honest; for one thread.
 */
#ifndef RING_MODEL_H
#define RING_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#define MODEL_PIECES 8

/** struct model_ring - the parts of a queue in memory, and how to get from a guest address to memory */
struct model_ring {
	unsigned int num;
	bool packed, event_idx, in_order;
	unsigned char *desc, *driver, *device, *guest;
	uint64_t guest_base;
};

struct model_piece {
	uint64_t addr;
	uint32_t len;
};

/** struct model_chain - @out pieces for the device to read, then @in to write */
struct model_chain {
	struct model_piece piece[MODEL_PIECES];
	unsigned int out, in;
	unsigned int id, slots;
};

/** struct model_place - a place in a ring: free running index (split), or slot and wrap counter (packed) */
struct model_place {
	unsigned int index;
	bool wrap;
};

struct model_device {
	struct model_ring r;
	struct model_place avail, used;
	int expect; /* IN_ORDER, split: the descriptor that must come next (2.7.9); -1: not known yet */
};

struct model_used {
	unsigned int id, slots;
	uint32_t len;
};

struct model_driver {
	struct model_ring r;
	struct model_place avail, used, published;
	unsigned int next;   /* where to look for a free descriptor or id */
	unsigned int free;   /* descriptors free */
	unsigned char *busy; /* by descriptor (split) or id (packed) */
	struct model_owner {
		int request;
		unsigned int slots;
		unsigned short descs[MODEL_PIECES];
	} * owner; /* by head or id */
	unsigned int first_slot, first_flags;
	bool first_pending;
	uint64_t tables; /* guest address of num tables of MODEL_PIECES entries; 0: no indirect descriptors */
};

void model_device_init(struct model_device *d, const struct model_ring *r, uint32_t base);
uint32_t model_device_base(const struct model_device *d);
bool model_device_pop(struct model_device *d, struct model_chain *c);
bool model_device_pending(const struct model_device *d);
/* Use @n chains at once; with @batch (IN_ORDER) by one entry that names the last. Returns whether to call. */
bool model_device_use(struct model_device *d, const struct model_used *u, unsigned int n, bool batch);
void model_device_events(struct model_device *d, bool on);

void model_driver_init(struct model_driver *d, const struct model_ring *r, uint64_t tables);
void model_driver_free(struct model_driver *d);
bool model_driver_add(struct model_driver *d, const struct model_chain *c, bool indirect, int request);
/* Returns whether to kick. */
bool model_driver_publish(struct model_driver *d);
/* A request that the device used, or -1. */
int model_driver_get(struct model_driver *d, uint32_t *len);
bool model_driver_pending(const struct model_driver *d);
void model_driver_events(struct model_driver *d, bool on);

/* Does the other side want to hear of the places from @from up to, not including, @to?
 * Looks at each of them. @area: the event suppression area or ring part that the other side writes. */
bool model_wants_call(const struct model_ring *r, struct model_place from, struct model_place to);
bool model_wants_kick(const struct model_ring *r, struct model_place from, struct model_place to);

#endif
