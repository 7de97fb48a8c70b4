/* SPDX-License-Identifier: MIT */
/* test_stop.c - a disk whose store does not answer is stopped and reset in bounded time */
#include "block/disk.h"

/* Offer a read that the filter below holds. */
static void offer(struct disk *d)
{
	const struct sl_dq_buf out = disk_buf(d, d->header, sizeof(*d->header));
	const struct sl_dq_buf in[] = {disk_buf(d, d->data, 4096), disk_buf(d, d->status, 1)};

	*d->header = (struct virtio_blk_outhdr){.type = htole32(VIRTIO_BLK_T_IN)};
	*d->status = NO_ANSWER;
	disk_offer(d, &out, 1, in, 2, d);
	for (int i = 0; i < 3; i++)
		sl_loop_step(d->loop, 0);
	CHECK(!sl_dq_get(d->q.dq, NULL));
}

/* The driver hears of it, as nobody else will carry it out. */
static void stop(void)
{
	struct disk d;

	disk_open(&d, "blk,memory:1M,delay-ms=600000,stop-timeout=1", NULL);
	offer(&d);
	direct_stop(&d.direct, 0);
	CHECK(sl_dq_get(d.q.dq, NULL) == &d);
	CHECK_EQ(*d.status, IOERR);
	disk_close(&d);
}

static void reset(void)
{
	struct disk d;

	disk_open(&d, "blk,memory:1M,delay-ms=600000,stop-timeout=1", NULL);
	offer(&d);
	direct_reset(&d.direct);
	CHECK_EQ(sl_device_status(d.dev), 0);
	disk_close(&d);
}

/* 0 waits as long as it takes. */
static void no_bound(void)
{
	struct disk d;

	disk_open(&d, "blk,memory:1M,delay-ms=1500,stop-timeout=0", NULL);
	offer(&d);
	direct_stop(&d.direct, 0);
	CHECK(sl_dq_get(d.q.dq, NULL) == &d);
	CHECK_EQ(*d.status, OK);
	disk_close(&d);
}

/* What is answered in time is as it would have been. */
static void in_time(void)
{
	struct disk d;

	disk_open(&d, "blk,memory:1M,delay-ms=300,stop-timeout=60", NULL);
	offer(&d);
	direct_stop(&d.direct, 0);
	CHECK(sl_dq_get(d.q.dq, NULL) == &d);
	CHECK_EQ(*d.status, OK);
	disk_close(&d);
}

static const struct t_case cases[] = {
	{"stop", stop},
	{"reset", reset},
	{"no_bound", no_bound},
	{"in_time", in_time},
};

T_MAIN(cases)
