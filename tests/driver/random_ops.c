/* SPDX-License-Identifier: MIT */
/* random_ops.c - random_ops.h against any back-end that listens on a socket.
 *
 * usage: random_ops SOCKET split|packed REQUESTS [SEED]
 */
#include "random_ops.h"

#define RING 128

static void breathe(void *arg)
{
	(void)arg;
}

int main(int argc, char **argv)
{
	struct sl_link_vhost_user_config cfg = { .path = argc > 1 ? argv[1] : "" };
	struct sl_features mask = { .w = { UINT64_MAX, UINT64_MAX } };
	struct random_ops *r = calloc(1, sizeof(*r));
	struct vblk_queue q;
	struct sl_link *link;
	struct sl_dma dma;
	struct vblk blk;
	struct sl_err err = { 0 };
	uint64_t addr, data_addr;
	void *ring, *data, *private;

	if (argc < 4 || !r) {
		fprintf(stderr, "usage: random_ops SOCKET split|packed REQUESTS [SEED]\n");
		return 2;
	}
	if (strcmp(argv[2], "packed"))
		sl_features_clear(&mask, SL_F_RING_PACKED);
	link = sl_link_vhost_user_open(&cfg, &err);
	if (!link || vblk_open(&blk, link, &mask, &err) ||
	    sl_dma_open(&dma, 0x400000000ull, RANDOM_AREA + (64 << 10), &err)) {
		fprintf(stderr, "random_ops: %s\n", err.text);
		return 1;
	}
	ring = sl_dma_alloc(&dma, vblk_queue_shared_size(&blk, RING), 4096, &addr);
	data = sl_dma_alloc(&dma, RANDOM_AREA, 4096, &data_addr);
	private = aligned_alloc(64, (vblk_queue_private_size(RING) + 63) & ~(size_t)63);
	REQUIRE(ring && data && private);
	REQUIRE(blk.info.capacity >= RANDOM_LANES * RANDOM_ZONE * VBLK_SECTOR);
	if (vblk_queue_init(&q, &blk, 0, RING, ring, addr, private, &err) ||
	    link->ops->set_memory(link, &dma.region, 1, &err) || vblk_start(&blk, &q, 1, &err)) {
		fprintf(stderr, "random_ops: %s\n", err.text);
		return 1;
	}
	r->q = &q;
	r->breathe = breathe;
	r->rng = argc > 4 ? strtoull(argv[4], NULL, 0) : 0x2545f4914f6cdd1dull;
	random_run(r, (unsigned int)atoi(argv[3]), data, data_addr);
	if (vblk_stop(&blk, &q, 1, &err)) {
		fprintf(stderr, "random_ops: %s\n", err.text);
		t_failures++;
	}
	link->ops->close(link);
	sl_dma_close(&dma);
	printf("%u reads, %u writes, %u write-zeroes, %u discards, %u flushes, %u ids\n", r->count[R_READ],
	       r->count[R_WRITE], r->count[R_ZEROES], r->count[R_DISCARD], r->count[R_FLUSH], r->count[R_ID]);
	free(private);
	free(r);
	return t_failures != 0;
}
