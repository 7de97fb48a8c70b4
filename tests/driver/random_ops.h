/* SPDX-License-Identifier: MIT */
/* random_ops.h - every kind of request at random, checked against a model of the disk's contents.
 *
 * Some requests are under way at a time, each in a zone of the disk of its
 * own, so that what a read must find is known although they finish in any
 * order. What was discarded is unknown until it is written again.
 */
#ifndef TESTS_DRIVER_RANDOM_OPS_H
#define TESTS_DRIVER_RANDOM_OPS_H

#include "t.h"

#include <sluice/loop.h>

#include "driver/blk.h"

#define RANDOM_LANES 8
#define RANDOM_ZONE 256 /* sectors */
#define RANDOM_SECTORS 64 /* of the longest request */
#define RANDOM_AREA (RANDOM_LANES * RANDOM_SECTORS * VBLK_SECTOR)
#define RANDOM_HANG_NS 30000000000ull

enum random_kind { R_READ, R_WRITE, R_ZEROES, R_DISCARD, R_FLUSH, R_ID, NUM_RANDOM_KINDS };

/** struct random_lane - a request and what its zone holds */
struct random_lane {
	unsigned char *data;
	uint64_t addr;
	enum random_kind kind;
	uint32_t first, n; /* sectors in the zone */
	bool out;
	bool known[RANDOM_ZONE];
	unsigned char zone[RANDOM_ZONE * VBLK_SECTOR];
};

/** struct random_ops - @breathe: let the device work; @count: requests of each kind that finished */
struct random_ops {
	struct vblk_queue *q;
	void (*breathe)(void *arg);
	void *arg;
	uint64_t rng;
	unsigned int count[NUM_RANDOM_KINDS];
	struct random_lane lanes[RANDOM_LANES];
};

static inline uint32_t random_upto(struct random_ops *r, uint32_t n)
{
	r->rng ^= r->rng << 13;
	r->rng ^= r->rng >> 7;
	r->rng ^= r->rng << 17;
	return (uint32_t)((r->rng >> 16) % n);
}

/* The data in one to four pieces, whole sectors each but where the device takes any. */
static inline unsigned int random_pieces(struct random_ops *r, const struct random_lane *l, struct sl_dq_buf *out)
{
	uint32_t most = r->q->blk->info.seg_max < 4 ? r->q->blk->info.seg_max : 4;
	uint32_t left = l->n * VBLK_SECTOR, at = 0, n = 0;

	while (left && n < most - 1) {
		uint32_t len = VBLK_SECTOR * (1 + random_upto(r, left / VBLK_SECTOR));

		out[n++] = (struct sl_dq_buf){ l->addr + at, len };
		at += len;
		left -= len;
	}
	if (left)
		out[n++] = (struct sl_dq_buf){ l->addr + at, left };
	return n;
}

static inline bool random_offer(struct random_ops *r, struct random_lane *l)
{
	const struct vblk_info *info = &r->q->blk->info;
	uint64_t sector = (uint64_t)(l - r->lanes) * RANDOM_ZONE;
	struct sl_dq_buf pieces[4];
	unsigned int unit = info->block_size / VBLK_SECTOR;

	l->kind = (enum random_kind)random_upto(r, NUM_RANDOM_KINDS);
	if (l->kind > R_DISCARD && random_upto(r, 8))
		l->kind = random_upto(r, 2) ? R_READ : R_WRITE;
	if ((l->kind == R_ZEROES && !info->max_write_zeroes) || (l->kind == R_DISCARD && !info->max_discard) ||
	    (l->kind == R_FLUSH && !info->flush))
		l->kind = R_READ;
	l->n = unit * (1 + random_upto(r, RANDOM_SECTORS / unit));
	if (l->kind == R_ZEROES && l->n > info->max_write_zeroes)
		l->n = unit;
	if (l->kind == R_DISCARD && l->n > info->max_discard)
		l->n = unit;
	l->first = unit * random_upto(r, (RANDOM_ZONE - l->n) / unit + 1);
	sector += l->first;
	switch (l->kind) {
	case R_READ:
		memset(l->data, 0xa5, (size_t)l->n * VBLK_SECTOR);
		return vblk_read(r->q, sector, pieces, random_pieces(r, l, pieces), l);
	case R_WRITE:
		for (uint32_t i = 0; i < l->n * VBLK_SECTOR; i++)
			l->data[i] = (unsigned char)random_upto(r, 256);
		return vblk_write(r->q, sector, pieces, random_pieces(r, l, pieces), l);
	case R_ZEROES:
		return vblk_write_zeroes(r->q, sector, l->n, info->write_zeroes_unmap && random_upto(r, 2), l);
	case R_DISCARD:
		return vblk_discard(r->q, sector, l->n, l);
	case R_FLUSH:
		return vblk_flush(r->q, l);
	default:
		return vblk_get_id(r->q, l->addr, l);
	}
}

static inline void random_finish(struct random_ops *r, struct random_lane *l, int result)
{
	unsigned char *zone = l->zone + l->first * VBLK_SECTOR;

	REQUIRE(l >= r->lanes && l < r->lanes + RANDOM_LANES && l->out);
	l->out = false;
	r->count[l->kind]++;
	CHECK(result == 0 || (l->kind == R_ID && result == -EOPNOTSUPP));
	switch (l->kind) {
	case R_READ:
		for (uint32_t i = 0; i < l->n; i++)
			CHECK(!l->known[l->first + i] ||
			      !memcmp(zone + i * VBLK_SECTOR, l->data + i * VBLK_SECTOR, VBLK_SECTOR));
		return;
	case R_WRITE:
		memcpy(zone, l->data, (size_t)l->n * VBLK_SECTOR);
		break;
	case R_ZEROES:
		memset(zone, 0, (size_t)l->n * VBLK_SECTOR);
		break;
	case R_DISCARD:
		break;
	default:
		return;
	}
	for (uint32_t i = 0; i < l->n; i++)
		l->known[l->first + i] = l->kind != R_DISCARD;
}

/* @n requests; @data: RANDOM_AREA bytes of shared memory at @addr. The disk's contents are unknown at first. */
static inline void random_run(struct random_ops *r, unsigned int n, unsigned char *data, uint64_t addr)
{
	uint64_t last = sl_now();
	struct random_lane *l;
	unsigned int out = 0;
	int result;

	for (unsigned int i = 0; i < RANDOM_LANES; i++) {
		r->lanes[i].data = data + i * RANDOM_SECTORS * VBLK_SECTOR;
		r->lanes[i].addr = addr + i * RANDOM_SECTORS * VBLK_SECTOR;
	}
	while (n || out) {
		for (unsigned int i = 0; i < RANDOM_LANES && n; i++) {
			if (r->lanes[i].out || random_upto(r, 3) == 0)
				continue;
			REQUIRE(random_offer(r, &r->lanes[i]));
			r->lanes[i].out = true;
			out++;
			n--;
		}
		vblk_commit(r->q);
		while ((l = vblk_poll(r->q, &result))) {
			random_finish(r, l, result);
			out--;
			last = sl_now();
		}
		REQUIRE(!vblk_broken(r->q));
		REQUIRE(sl_now() - last < RANDOM_HANG_NS);
		r->breathe(r->arg);
	}
}

#endif
