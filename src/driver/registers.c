/* SPDX-License-Identifier: MIT */
/* registers.c - what the links over mmio and pci have in common. Freestanding. See registers.h. */
#include "driver/registers.h"

#include <errno.h>

#include "driver/fail.h"

#define MAX_TRIES 100 /* a device whose configuration changes more often than that is broken */

/* The widest access that is aligned and not too long: what a field of the configuration wants. */
static unsigned int piece(uint64_t address, uint32_t left)
{
	if (address % 4 == 0 && left >= 4)
		return 4;
	return address % 2 == 0 && left >= 2 ? 2 : 1;
}

int register_config_read(struct register_link *r, uint64_t gen, unsigned int gen_width, uint64_t address, void *dst,
			 uint32_t len, struct sl_err *err)
{
	unsigned char *bytes = dst;
	uint32_t before, n;

	for (unsigned int i = 0; i < MAX_TRIES; i++) {
		before = register_get(r, gen, gen_width);
		for (uint32_t at = 0; at < len; at += n) {
			uint32_t value;

			n = piece(address + at, len - at);
			value = register_get(r, address + at, n);
			for (uint32_t k = 0; k < n; k++)
				bytes[at + k] = (unsigned char)(value >> 8 * k);
		}
		if (register_get(r, gen, gen_width) == before)
			return 0;
	}
	return driver_fail(err, EPROTO, "registers: configuration: it changes all the time");
}

void register_config_write(struct register_link *r, uint64_t address, const void *src, uint32_t len)
{
	const unsigned char *bytes = src;
	uint32_t n;

	for (uint32_t at = 0; at < len; at += n) {
		uint32_t value = 0;

		n = piece(address + at, len - at);
		for (uint32_t k = 0; k < n; k++)
			value |= (uint32_t)bytes[at + k] << 8 * k;
		register_set(r, address + at, n, value);
	}
}

int register_await(struct register_link *r, uint64_t address, unsigned int width, uint32_t mask, uint32_t want,
		   struct sl_err *err)
{
	for (unsigned int round = 0; (register_get(r, address, width) & mask) != want; round++)
		if (!r->access->wait(r->access->arg, round))
			return driver_fail(err, ETIMEDOUT, "registers: the device does not finish its requests");
	return 0;
}

void register_features(struct register_link *r, uint64_t select, uint64_t window, struct sl_features *out)
{
	uint32_t word[2 * SL_FEATURE_WORDS];

	for (uint32_t i = 0; i < 2 * SL_FEATURE_WORDS; i++) {
		register_set(r, select, 4, i);
		word[i] = register_get(r, window, 4);
	}
	/* QEMU's virtio-mmio takes every choice but 0 for 1. Bit 96 belongs to nobody, bit 32 is always there. */
	if (word[2] == word[1] && word[3] == word[1])
		word[2] = word[3] = 0;
	for (unsigned int i = 0; i < SL_FEATURE_WORDS; i++)
		out->w[i] = word[2 * i] | (uint64_t)word[2 * i + 1] << 32;
}

void register_accept(struct register_link *r, uint64_t select, uint64_t window, const struct sl_features *f)
{
	for (uint32_t i = 0; i < 2 * SL_FEATURE_WORDS; i++) {
		uint32_t word = sl_features_word32(f, i);

		if (i >= 2 && !word)
			continue; /* they are 0 since the reset; for the reason not to write that see above */
		register_set(r, select, 4, i);
		register_set(r, window, 4, word);
	}
	r->features = *f;
}

bool register_fresh(const struct register_link *r, const struct sl_link_queue *q)
{
	return q->base == (sl_features_has(&r->features, SL_F_RING_PACKED) ? 0x80008000u : 0);
}

void register_kick(struct register_link *r, uint64_t address, unsigned int width, unsigned int index, uint16_t data)
{
	if (sl_features_has(&r->features, SL_F_NOTIFICATION_DATA))
		register_set(r, address, 4, index | (uint32_t)data << 16);
	else
		register_set(r, address, width, index);
}

unsigned int register_events(struct register_link *r, uint32_t generation, uint32_t status)
{
	bool fault = status & SL_STATUS_NEEDS_RESET;
	bool news = generation != r->generation || fault != r->fault;

	r->generation = generation;
	r->fault = fault;
	return news ? SL_LINK_CONFIG : 0;
}
