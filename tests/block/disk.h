/* SPDX-License-Identifier: MIT */
/* disk.h - a virtio-blk device over the direct transport, driven descriptor by descriptor */
#ifndef BLOCK_DISK_H
#define BLOCK_DISK_H

#include "bed.h"
#include "devices/devices.h"
#include "rig.h"
#include "transport/direct.h"

#include <endian.h>
#include <linux/virtio_blk.h>

#define DISK_RING 64
#define SECTORS_1M 2048
#define OK VIRTIO_BLK_S_OK
#define IOERR VIRTIO_BLK_S_IOERR
#define UNSUPP VIRTIO_BLK_S_UNSUPP
#define NO_ANSWER 0xee /* what a status byte holds before */

/* What the device handed to the source last; the linker puts this in front of block_submit(). */
static enum block_op last_op;
static unsigned int last_flags, n_submits;
void __real_block_submit(struct block_channel *c, struct block_req *req);
void __wrap_block_submit(struct block_channel *c, struct block_req *req);
void __wrap_block_submit(struct block_channel *c, struct block_req *req)
{
	__atomic_store_n(&last_op, req->op, __ATOMIC_RELAXED); /* queues_on_threads has two loops */
	__atomic_store_n(&last_flags, req->flags, __ATOMIC_RELAXED);
	__atomic_fetch_add(&n_submits, 1, __ATOMIC_RELAXED);
	__real_block_submit(c, req);
}

/**
 * struct disk - an open device with one queue running
 * @header, @status: of the request under way, in guest memory
 * @data:   DISK_DATA bytes of guest memory
 */
struct disk {
	struct sl_loop *loop;
	struct spec spec;
	struct served_device *served;
	struct sl_device *dev;
	struct direct direct;
	struct rig rig;
	struct rig_queue q;
	struct sl_features features;
	struct virtio_blk_outhdr *header;
	uint8_t *status;
	unsigned char *data;
	uint32_t len; /* used length of the last request */
};

#define DISK_DATA (1u << 20)

static inline void disk_start(struct disk *d, const struct sl_features *mask)
{
	uint16_t max = sl_device_max_queue_size(d->dev);

	d->features = *sl_device_offered(d->dev);
	for (unsigned int i = 0; mask && i < SL_FEATURE_WORDS; i++)
		d->features.w[i] &= mask->w[i];
	sl_device_set_status(d->dev, SL_STATUS_ACKNOWLEDGE | SL_STATUS_DRIVER);
	REQUIRE(sl_device_accept(d->dev, &d->features) == 0);
	REQUIRE(sl_device_set_status(d->dev, SL_STATUS_FEATURES_OK) == 0);
	rig_queue(&d->rig, &d->q, max < DISK_RING ? max : DISK_RING, &d->features);
	REQUIRE(sl_queue_start(d->dev, 0, &d->q.setup, d->rig.mem, NULL) == 0);
	sl_device_set_status(d->dev, SL_STATUS_DRIVER_OK);
	d->header = rig_alloc(&d->rig, sizeof(*d->header), 16);
	d->status = rig_alloc(&d->rig, 64, 64);
	d->data = rig_alloc(&d->rig, DISK_DATA, 4096);
}

/* @mask: feature bits that the driver accepts; NULL: all */
static inline void disk_open(struct disk *d, const char *text, const struct sl_features *mask)
{
	struct device_env env = {0};
	struct sl_err err = {0};

	*d = (struct disk){.loop = sl_loop_new()};
	REQUIRE(d->loop);
	env.control = d->loop;
	REQUIRE(spec_parse(&d->spec, text, &err) == 0);
	d->served = device_open(&d->spec, &env, &err);
	if (!d->served)
		fprintf(stderr, "%s: %s\n", text, err.text);
	REQUIRE(d->served);
	d->dev = d->served->dev;
	rig_open(&d->rig, 8 << 20);
	REQUIRE(direct_attach(&d->direct, d->dev) == 0);
	disk_start(d, mask);
}

static inline void disk_close(struct disk *d)
{
	direct_detach(&d->direct);
	device_close(d->served);
	rig_queue_close(&d->q);
	rig_close(&d->rig);
	sl_loop_free(d->loop);
	spec_free(&d->spec);
}

static inline struct sl_dq_buf disk_buf(const struct disk *d, const void *p, uint32_t len)
{
	return rig_buf(&d->rig, p, len);
}

/* Offer a chain and kick. */
static inline void disk_offer(struct disk *d, const struct sl_dq_buf *out, unsigned int out_n,
			      const struct sl_dq_buf *in, unsigned int in_n, void *cookie)
{
	REQUIRE(sl_dq_add(d->q.dq, out, out_n, in, in_n, cookie));
	sl_dq_publish(d->q.dq);
	sl_queue_kick(d->dev, 0);
}

/* The next used chain's cookie; a hang is a failure. */
static inline void *disk_get(struct disk *d)
{
	uint64_t until = sl_now() + 20000000000u;
	void *cookie = NULL;

	while (!(cookie = sl_dq_get(d->q.dq, &d->len)) && !d->direct.queues[0].broken && sl_now() < until)
		sl_loop_step(d->loop, 5);
	REQUIRE(cookie);
	return cookie;
}

/* Offer a chain, wait for it; the status byte as it then is. */
static inline uint8_t disk_chain(struct disk *d, const struct sl_dq_buf *out, unsigned int out_n,
				 const struct sl_dq_buf *in, unsigned int in_n)
{
	*d->status = NO_ANSWER;
	disk_offer(d, out, out_n, in, in_n, d);
	CHECK(disk_get(d) == d);
	CHECK(!d->direct.queues[0].broken);
	return *d->status;
}

static inline void disk_header(struct disk *d, uint32_t type, uint64_t sector)
{
	*d->header = (struct virtio_blk_outhdr){.type = htole32(type), .sector = htole64(sector)};
}

/* A request in the usual layout with @out_len bytes of d->data for the device to read, @in_len for it to write. */
static inline uint8_t disk_io(struct disk *d, uint32_t type, uint64_t sector, uint32_t out_len, uint32_t in_len)
{
	struct sl_dq_buf out[2] = {disk_buf(d, d->header, sizeof(*d->header)), disk_buf(d, d->data, out_len)};
	struct sl_dq_buf in[2] = {disk_buf(d, d->data, in_len), disk_buf(d, d->status, 1)};

	disk_header(d, type, sector);
	return disk_chain(d, out, out_len ? 2 : 1, in_len ? in : in + 1, in_len ? 2 : 1);
}

/* Discard, write-zeroes or secure-erase of @n ranges that the caller put into d->data. */
static inline uint8_t disk_ranges(struct disk *d, uint32_t type, unsigned int n)
{
	return disk_io(d, type, 0, n * (uint32_t)sizeof(struct virtio_blk_discard_write_zeroes), 0);
}

static inline void disk_range(struct disk *d, unsigned int i, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes r = {htole64(sector), htole32(sectors), htole32(flags)};

	memcpy(d->data + i * sizeof(r), &r, sizeof(r));
}

/* Everything but those of PACKED, INDIRECT, EVENT_IDX, IN_ORDER whose bit (0 to 3) is clear in @bits. */
static inline struct sl_features mask_of(unsigned int bits)
{
	static const unsigned int ring[] = {SL_F_RING_PACKED, SL_F_INDIRECT_DESC, SL_F_EVENT_IDX, SL_F_IN_ORDER};
	struct sl_features f = {{UINT64_MAX, UINT64_MAX}};

	for (unsigned int i = 0; i < 4; i++)
		if (!(bits >> i & 1))
			sl_features_clear(&f, ring[i]);
	return f;
}

/* After whatever a case did: the device still serves an honest driver. */
static inline void still_serves(struct disk *d)
{
	unsigned char *copy = malloc(4096);

	fill(d->data, 4096, 77);
	memcpy(copy, d->data, 4096);
	CHECK_EQ(disk_io(d, VIRTIO_BLK_T_OUT, 64, 4096, 0), OK);
	memset(d->data, 0, 4096);
	CHECK_EQ(disk_io(d, VIRTIO_BLK_T_IN, 64, 0, 4096), OK);
	CHECK(!memcmp(d->data, copy, 4096));
	CHECK_EQ(sl_dq_outstanding(d->q.dq), 0);
	free(copy);
}

#endif
