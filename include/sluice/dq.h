/* SPDX-License-Identifier: MIT */
/* dq.h - the driver side of a virtqueue, split and packed (virtio 1.4, 2.6 to 2.8).
 *
 * Freestanding: no allocation, no system call, no errno; bare-metal programs
 * use it as it is. It trusts the device no more than vq trusts the driver: an
 * id that is not outstanding, a length larger than what was offered, or an
 * index that jumps breaks the queue.
 *
 * A dq belongs to one thread at a time.
 */
#ifndef SLUICE_DQ_H
#define SLUICE_DQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sluice/error.h>

/**
 * struct sl_dq_config - everything that makes a queue
 * @num:    queue size; split: a power of two; 1 to 32768
 * @packed, @event_idx, @indirect, @in_order: RING_PACKED, EVENT_IDX, INDIRECT_DESC, IN_ORDER are in force
 * @ring:   zeroed memory of the size that sl_dq_layout() says, aligned to 4096, shared with the device
 * @state:  private memory of sl_dq_state_size() bytes, aligned to 16
 * @indirect_tables: with @indirect: shared memory of num * indirect_max * 16 bytes, aligned to 16 (may be NULL)
 * @indirect_gpa:    device address of @indirect_tables
 * @indirect_max:    entries of one indirect table; longer chains use the ring itself
 * @indirect_min:    chains of at least this many buffers go indirect
 */
struct sl_dq_config {
	uint16_t num;
	bool packed, event_idx, indirect, in_order;
	void *ring;
	void *state;
	void *indirect_tables;
	uint64_t indirect_gpa;
	uint16_t indirect_max, indirect_min;
};

/** struct sl_dq_buf - one piece of memory as the device sees it; @len is not 0 */
struct sl_dq_buf {
	uint64_t addr;
	uint32_t len;
};

/** struct sl_dq_layout - offsets into @ring of the three areas whose addresses the device is told */
struct sl_dq_layout {
	size_t desc, driver, device, size;
};

struct sl_dq;

/** sl_dq_layout() - where the areas of a ring of @num entries are, and the bytes it takes */
SL_API void sl_dq_layout(bool packed, uint16_t num, struct sl_dq_layout *out);
/** sl_dq_state_size() - bytes of private state; covers struct sl_dq itself */
SL_API size_t sl_dq_state_size(uint16_t num);
/** sl_dq_init() - a fresh queue inside @cfg->state; NULL when the configuration is not legal */
SL_API struct sl_dq *sl_dq_init(const struct sl_dq_config *cfg);

/**
 * sl_dq_add() - offer one chain: @out_n pieces the device reads, then @in_n it writes
 * @cookie: not NULL; comes back from sl_dq_get()
 *
 * Not visible before sl_dq_publish(). Return: true, or false when the ring has no room.
 */
SL_API bool sl_dq_add(struct sl_dq *dq, const struct sl_dq_buf *out, unsigned int out_n,
		      const struct sl_dq_buf *in, unsigned int in_n, void *cookie);
/** sl_dq_publish() - make all added chains visible; true when the device wants a kick */
SL_API bool sl_dq_publish(struct sl_dq *dq);
/** sl_dq_kick_data() - the word of a kick with NOTIFICATION_DATA, above the queue number (bits 16 to 31 of the register) */
SL_API uint16_t sl_dq_kick_data(const struct sl_dq *dq);
/** sl_dq_get() - the cookie of a chain that the device used, or NULL; *@len (may be NULL) gets the bytes written */
SL_API void *sl_dq_get(struct sl_dq *dq, uint32_t *len);
/** sl_dq_disarm() - ask the device not to call (a hint) */
SL_API void sl_dq_disarm(struct sl_dq *dq);
/** sl_dq_rearm() - ask the device to call from now on; true when more arrived meanwhile */
SL_API bool sl_dq_rearm(struct sl_dq *dq);
/** sl_dq_detach() - after the device stopped: cookies not got yet, one a call, then NULL */
SL_API void *sl_dq_detach(struct sl_dq *dq);
/** sl_dq_outstanding() - chains added and not got */
SL_API unsigned int sl_dq_outstanding(const struct sl_dq *dq);
/** sl_dq_broken() - NULL, or what the device did that it must not */
SL_API const char *sl_dq_broken(const struct sl_dq *dq);
/** sl_dq_base() - the vhost vring base for a device that takes over a fresh or idle queue */
SL_API uint32_t sl_dq_base(const struct sl_dq *dq);

#endif
