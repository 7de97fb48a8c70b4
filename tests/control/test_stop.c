/* SPDX-License-Identifier: MIT */
/* test_stop.c - a disk whose store does not answer is stopped and reset in bounded time; the figures that tell */
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

/** struct figure - one that is looked for */
struct figure {
	const char *name;
	uint64_t value;
};

static void number(void *arg, const char *name, uint64_t value)
{
	struct figure *f = arg;

	if (!strcmp(name, f->name))
		f->value = value;
}

/* A figure of the queue; UINT64_MAX: there is none of this name. */
static uint64_t figure(const struct disk *d, const char *name)
{
	struct figure f = {name, UINT64_MAX};
	const struct device_report r = {.number = number, .arg = &f};

	device_report_queue(d->served, 0, &r);
	return f.value;
}

/* The driver hears of it, as nobody else will carry it out. */
static void stop(void)
{
	struct disk d;

	disk_open(&d, "blk,memory:1M,delay-ms=600000,stop-timeout=1", NULL);
	offer(&d);
	CHECK_EQ(figure(&d, "in-flight"), 1);
	direct_stop(&d.direct, 0);
	CHECK(sl_dq_get(d.q.dq, NULL) == &d);
	CHECK_EQ(*d.status, IOERR);
	CHECK_EQ(figure(&d, "in-flight"), 0);
	CHECK_EQ(figure(&d, "requests"), 1);
	CHECK_EQ(figure(&d, "reads"), 1);
	CHECK_EQ(figure(&d, "read-bytes"), 0);
	CHECK_EQ(figure(&d, "errors"), 1);
	disk_close(&d);
}

/* Of a disk that shrinks what is beyond the end is an error, and what is not is not. */
static void shrink(void)
{
	const char *path;
	char spec[256];
	struct disk d;

	dir_make();
	path = file_make("disk", 2 << 20, NULL, 0);
	snprintf(spec, sizeof(spec), "blk,%s", path);
	disk_open(&d, spec, NULL);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 2 * SECTORS_1M - 8, 4096, 0), OK);
	CHECK_EQ(device_resize(d.served, 1 << 20, NULL), 0);
	CHECK_EQ(d.direct.config_changes, 1);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 2 * SECTORS_1M - 8, 4096, 0), IOERR);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, SECTORS_1M - 1, 0, 1024), IOERR); /* half of it */
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, SECTORS_1M - 8, 0, 4096), OK);
	CHECK_EQ(figure(&d, "writes"), 2); /* the source was asked */
	CHECK_EQ(figure(&d, "write-bytes"), 4096);
	CHECK_EQ(figure(&d, "errors"), 2);
	disk_close(&d);
	dir_remove();
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

	disk_open(&d, "blk,memory:1M,delay-ms=1500,stop-timeout=60", NULL);
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
	{"shrink", shrink},
};

T_MAIN(cases)
