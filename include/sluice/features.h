/* SPDX-License-Identifier: MIT */
/* features.h - what driver and device agree with: the status bits, feature sets of more than 64 bits and the bits that
 * belong to no device type (virtio 1.4, 2.1 "Device Status Field", 2.2 "Feature Bits", 6 "Reserved Feature Bits").
 */
#ifndef SLUICE_FEATURES_H
#define SLUICE_FEATURES_H

#include <stdbool.h>
#include <stdint.h>

enum sl_status {
	SL_STATUS_ACKNOWLEDGE = 1,
	SL_STATUS_DRIVER = 2,
	SL_STATUS_DRIVER_OK = 4,
	SL_STATUS_FEATURES_OK = 8,
	SL_STATUS_NEEDS_RESET = 64,
	SL_STATUS_FAILED = 128,
};

#define SL_FEATURE_WORDS 2 /* 128 bits: bit 70 is the highest one assigned by virtio 1.4 */

/** struct sl_features - bit n is w[n / 64] >> (n % 64) & 1 */
struct sl_features {
	uint64_t w[SL_FEATURE_WORDS];
};

enum {
	SL_F_NOTIFY_ON_EMPTY = 24,
	SL_F_LOG_ALL = 26, /* vhost only: log writes to guest memory */
	SL_F_ANY_LAYOUT = 27,
	SL_F_INDIRECT_DESC = 28,
	SL_F_EVENT_IDX = 29,
	SL_F_PROTOCOL_FEATURES = 30, /* vhost-user only */
	SL_F_VERSION_1 = 32,
	SL_F_ACCESS_PLATFORM = 33,
	SL_F_RING_PACKED = 34,
	SL_F_IN_ORDER = 35,
	SL_F_ORDER_PLATFORM = 36,
	SL_F_NOTIFICATION_DATA = 38,
	SL_F_NOTIF_CONFIG_DATA = 39, /* pci */
	SL_F_RING_RESET = 40,
	SL_F_ADMIN_VQ = 41,
	SL_F_SUSPEND = 43,
};

static inline bool sl_features_has(const struct sl_features *f, unsigned int bit)
{
	return bit < 64 * SL_FEATURE_WORDS && (f->w[bit / 64] >> (bit % 64) & 1);
}

static inline void sl_features_set(struct sl_features *f, unsigned int bit)
{
	f->w[bit / 64] |= 1ULL << (bit % 64);
}

static inline void sl_features_clear(struct sl_features *f, unsigned int bit)
{
	f->w[bit / 64] &= ~(1ULL << (bit % 64));
}

/** sl_features_word32() - the 32 bits that a select register of @sel shows; 0 beyond the end */
static inline uint32_t sl_features_word32(const struct sl_features *f, uint32_t sel)
{
	return sel / 2 < SL_FEATURE_WORDS ? (uint32_t)(f->w[sel / 2] >> (sel % 2 * 32)) : 0;
}

#endif
