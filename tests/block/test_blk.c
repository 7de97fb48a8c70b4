/* SPDX-License-Identifier: MIT */
/* test_blk.c - the virtio-blk device: every request, every layout, durability, configuration, opening */
#include "disk.h"

#include <pthread.h>
#include <semaphore.h>

/* ---- layouts ---- */

/* Cut @len bytes at @p into pieces of the sizes in @cuts (0 ends them; the rest is one piece). */
static unsigned int cut(const struct disk *d, const void *p, uint32_t len, const uint16_t *cuts, struct sl_dq_buf *buf)
{
	const char *at = p;
	unsigned int n = 0;

	while (len) {
		uint32_t piece = *cuts && *cuts < len ? *cuts++ : len;

		buf[n++] = disk_buf(d, at, piece);
		at += piece;
		len -= piece;
	}
	return n;
}

static void write_and_read(struct disk *d, const uint16_t *out_cuts, const uint16_t *in_cuts, uint32_t len,
			   uint64_t sector)
{
	/* One piece of memory each way, so that cuts may fall anywhere: header and data, data and status. */
	unsigned char *out = d->data, *in = d->data + DISK_DATA / 2;
	struct virtio_blk_outhdr header = {.type = htole32(VIRTIO_BLK_T_OUT), .sector = htole64(sector)};
	struct sl_dq_buf obuf[40], ibuf[40];
	unsigned int out_n, in_n;

	memcpy(out, &header, sizeof(header));
	fill(out + sizeof(header), len, (unsigned int)sector);
	out_n = cut(d, out, sizeof(header) + len, out_cuts, obuf);
	ibuf[0] = disk_buf(d, d->status, 1);
	CHECK_EQ(disk_chain(d, obuf, out_n, ibuf, 1), OK);
	CHECK_EQ(d->len, 1);

	header.type = htole32(VIRTIO_BLK_T_IN);
	memcpy(d->header, &header, sizeof(header));
	memset(in, 0xaa, len + 2);
	out_n = cut(d, d->header, sizeof(header), out_cuts, obuf);
	in_n = cut(d, in, len + 1, in_cuts, ibuf);
	disk_chain(d, obuf, out_n, ibuf, in_n);
	CHECK_EQ(in[len], OK);
	CHECK_EQ(in[len + 1], 0xaa);
	CHECK_EQ(d->len, len + 1);
	CHECK(!memcmp(in, out + sizeof(header), len));
}

static void layouts_of(const char *spec, unsigned int bits)
{
	static const uint16_t whole[] = {0}, usual[] = {16, 0}, two[] = {1, 15, 0}, deep[] = {8, 40, 0},
			      bytes[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0},
			      odd[] = {13, 7, 500, 9, 1024, 0};
	static const uint16_t *const cuts[] = {whole, usual, two, deep, bytes, odd};
	struct sl_features mask = mask_of(bits);
	struct disk d;

	disk_open(&d, spec, &mask);
	for (unsigned int o = 0; o < 6; o++)
		for (unsigned int i = 0; i < 6; i++) {
			write_and_read(&d, cuts[o], cuts[i], 512, o * 6 + i);
			write_and_read(&d, cuts[o], cuts[i], 4096, (o * 6 + i) * 8);
		}
	/* The status byte apart from its data, as every driver does it. */
	still_serves(&d);
	disk_close(&d);
}

static void layouts(void)
{
	char spec[256];

	for (unsigned int bits = 0; bits < 16; bits++) {
		layouts_of("blk,memory:1M,in-order=on", bits);
		snprintf(spec, sizeof(spec), "blk,%s,in-order=on", file_make("disk", 1 << 20, NULL, 0));
		layouts_of(spec, bits);
	}
}

/* ---- good requests ---- */

static void data_and_flush(void)
{
	struct disk d;

	disk_open(&d, "blk,memory:1M", NULL);
	still_serves(&d);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_FLUSH, 0, 0, 0), OK);
	CHECK_EQ(last_op, BLOCK_FLUSH);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 0, 0, 0), OK); /* no data at all */
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, SECTORS_1M, 0, 0), OK);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, SECTORS_1M - 1, 0, 512), OK);
	disk_close(&d);
}

static void ranges(void)
{
	static const uint32_t types[] = {VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_SECURE_ERASE};
	struct disk d;

	disk_open(&d, "blk,memory:1M", NULL);
	for (unsigned int t = 0; t < 3; t++) {
		memset(d.data, 0x55, 64 * 512);
		CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 0, 64 * 512, 0), OK);
		/* Every other sector, as many ranges as are allowed. */
		for (unsigned int i = 0; i < 32; i++)
			disk_range(&d, i, 2 * i, 1, t == 1 ? (i & 1) : 0);
		CHECK_EQ(disk_ranges(&d, types[t], 32), OK);
		CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, 0, 0, 64 * 512), OK);
		for (unsigned int i = 0; i < 32; i++)
			CHECK(all_zero(d.data + i * 1024, 512) && d.data[i * 1024 + 512] == 0x55);
		/* A range of nothing is fine, also at the very end. */
		disk_range(&d, 0, SECTORS_1M, 0, 0);
		CHECK_EQ(disk_ranges(&d, types[t], 1), OK);
	}
	disk_close(&d);
}

static void id_default_and_serial(void)
{
	char first[VIRTIO_BLK_ID_BYTES];
	struct disk d;

	disk_open(&d, "blk,memory:1M", NULL);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_GET_ID, 0, 0, VIRTIO_BLK_ID_BYTES), OK);
	CHECK_EQ(d.len, VIRTIO_BLK_ID_BYTES + 1);
	memcpy(first, d.data, sizeof(first));
	CHECK(!memcmp(first, "sluice-", 7));
	disk_close(&d);

	disk_open(&d, "blk,memory:2M", NULL);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_GET_ID, 0, 0, VIRTIO_BLK_ID_BYTES), OK);
	CHECK(memcmp(first, d.data, sizeof(first)));
	disk_close(&d);

	disk_open(&d, "blk,memory:1M,serial=12345678901234567890", NULL);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_GET_ID, 0, 0, VIRTIO_BLK_ID_BYTES), OK);
	CHECK(!memcmp(d.data, "12345678901234567890", VIRTIO_BLK_ID_BYTES));
	disk_close(&d);
}

static void many_outstanding(void)
{
	enum { N = 20, LEN = 4096 };
	uint8_t *status;
	struct disk d;

	disk_open(&d, "blk,memory:1M,delay-ms=5", NULL);
	status = rig_alloc(&d.rig, N, 1);
	disk_header(&d, VIRTIO_BLK_T_IN, 0);
	memset(status, NO_ANSWER, N);
	memset(d.data, 0xff, N * LEN);
	for (unsigned int i = 0; i < N; i++) {
		struct sl_dq_buf out = disk_buf(&d, d.header, sizeof(*d.header));
		struct sl_dq_buf in[2] = {disk_buf(&d, d.data + i * LEN, LEN), disk_buf(&d, status + i, 1)};

		disk_offer(&d, &out, 1, in, 2, status + i);
	}
	sl_loop_step(d.loop, 0);
	CHECK(!sl_dq_get(d.q.dq, NULL));
	for (unsigned int i = 0; i < N; i++)
		CHECK_EQ(*(uint8_t *)disk_get(&d), OK);
	CHECK(all_zero(status, N) && all_zero(d.data, N * LEN));
	disk_close(&d);
}

/* ---- durability ---- */

static void durable_by_flush_or_each(void)
{
	struct sl_features mask = {{UINT64_MAX, UINT64_MAX}};
	const uint8_t off = 0, on = 1;
	uint8_t wce;
	struct disk d;

	disk_open(&d, "blk,memory:1M", NULL);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 0, 512, 0), OK);
	CHECK_EQ(last_flags, 0);
	CHECK_EQ(sl_device_config_write(d.dev, offsetof(struct virtio_blk_config, wce), &off, 1), 0);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 0, 512, 0), OK);
	CHECK_EQ(last_flags, BLOCK_FUA);
	disk_range(&d, 0, 0, 1, 1);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, 1), OK);
	CHECK_EQ(last_flags, BLOCK_FUA | BLOCK_UNMAP);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, 0, 0, 512), OK);
	CHECK_EQ(last_flags, 0);
	CHECK_EQ(sl_device_config_write(d.dev, offsetof(struct virtio_blk_config, wce), &on, 1), 0);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 0, 512, 0), OK);
	CHECK_EQ(last_flags, 0);
	/* Nothing else of the configuration may be written. */
	for (uint32_t i = 0; i < sl_device_config_len(d.dev); i++)
		if (i != offsetof(struct virtio_blk_config, wce))
			CHECK_EQ(sl_device_config_write(d.dev, i, &off, 1), -EINVAL);
	/* A reset brings the default back. */
	CHECK_EQ(sl_device_config_write(d.dev, offsetof(struct virtio_blk_config, wce), &off, 1), 0);
	direct_reset(&d.direct);
	sl_device_config_read(d.dev, offsetof(struct virtio_blk_config, wce), &wce, 1);
	CHECK_EQ(wce, 1);
	rig_queue_close(&d.q);
	disk_start(&d, NULL);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 0, 512, 0), OK);
	CHECK_EQ(last_flags, 0);
	disk_close(&d);

	/* A driver that does not flush gets durable writes. */
	sl_features_clear(&mask, VIRTIO_BLK_F_FLUSH);
	disk_open(&d, "blk,memory:1M", &mask);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 0, 512, 0), OK);
	CHECK_EQ(last_flags, BLOCK_FUA);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_FLUSH, 0, 0, 0), OK);
	disk_close(&d);
}

/* ---- configuration ---- */

static void configuration(void)
{
	struct virtio_blk_config c;
	struct disk d;
	const struct sl_features *f;

	disk_open(&d, "blk,memory:1G,queues=4,block-size=4K", NULL);
	f = sl_device_offered(d.dev);
	CHECK_EQ(sl_device_id(d.dev), 2);
	CHECK_EQ(sl_device_num_queues(d.dev), 4);
	for (unsigned int i = 0; i < 17; i++) {
		bool wanted = i != 0 && i != 3 && i != 5 && i != 7 && i != 8 && i != 15;

		CHECK_EQ(sl_features_has(f, i), wanted);
	}
	sl_device_config_read(d.dev, 0, &c, sizeof(c));
	CHECK_EQ(le64toh(c.capacity), 1 << 21);
	CHECK_EQ(le32toh(c.seg_max), 126);
	CHECK(le32toh(c.size_max) >= 1 << 20);
	CHECK_EQ(le32toh(c.blk_size), 4096);
	CHECK(c.geometry.heads == 16 && c.geometry.sectors == 63);
	CHECK_EQ(le16toh(c.geometry.cylinders), (1 << 21) / (16 * 63));
	CHECK_EQ(c.physical_block_exp, 0);
	CHECK_EQ(le16toh(c.min_io_size), 1);
	CHECK_EQ(le16toh(c.num_queues), 4);
	CHECK_EQ(c.wce, 1);
	CHECK_EQ(le32toh(c.max_discard_seg), 32);
	CHECK_EQ(le32toh(c.max_write_zeroes_seg), 32);
	CHECK_EQ(le32toh(c.discard_sector_alignment), 8);
	CHECK_EQ(c.write_zeroes_may_unmap, 1);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, 0, 0, 512), IOERR); /* less than a block */
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, 8, 0, 4096), OK);
	disk_close(&d);

	disk_open(&d, "blk,memory:1M,readonly=on,queue-size=16,packed=off,indirect=off,event-idx=off", NULL);
	f = sl_device_offered(d.dev);
	CHECK(sl_features_has(f, VIRTIO_BLK_F_RO) && !sl_features_has(f, VIRTIO_BLK_F_FLUSH) &&
	      !sl_features_has(f, VIRTIO_BLK_F_DISCARD) && !sl_features_has(f, VIRTIO_BLK_F_WRITE_ZEROES) &&
	      !sl_features_has(f, VIRTIO_BLK_F_MQ) && !sl_features_has(f, VIRTIO_BLK_F_CONFIG_WCE) &&
	      !sl_features_has(f, SL_F_RING_PACKED) && !sl_features_has(f, SL_F_INDIRECT_DESC) &&
	      !sl_features_has(f, SL_F_EVENT_IDX) && !sl_features_has(f, SL_F_IN_ORDER));
	sl_device_config_read(d.dev, 0, &c, sizeof(c));
	CHECK_EQ(le32toh(c.seg_max), 14);
	CHECK_EQ(sl_device_max_queue_size(d.dev), 16);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, 0, 0, 4096), OK);
	disk_close(&d);
}

static void capacity_change(void)
{
	const char *path = file_make("disk", 1 << 20, NULL, 0);
	uint64_t capacity;
	uint32_t generation;
	char spec[256];
	struct disk d;

	snprintf(spec, sizeof(spec), "blk,%s,delay-ms=1", path);
	disk_open(&d, spec, NULL);
	generation = sl_device_generation(d.dev);
	CHECK_EQ(device_refresh(d.served, NULL), 0);
	CHECK_EQ(d.direct.config_changes, 0);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, SECTORS_1M, 0, 512), IOERR);
	REQUIRE(truncate(path, 2 << 20) == 0);
	CHECK_EQ(device_refresh(d.served, NULL), 0);
	CHECK_EQ(d.direct.config_changes, 1);
	CHECK(sl_device_generation(d.dev) != generation);
	sl_device_config_read(d.dev, 0, &capacity, sizeof(capacity));
	CHECK_EQ(le64toh(capacity), 2 * SECTORS_1M);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, SECTORS_1M, 0, 512), OK);
	disk_close(&d);
}

/* ---- opening ---- */

static void open_lines(void)
{
	static const char *const lines[][2] = {
		{"blc,memory:1M", "blc: unknown device type; did you mean 'blk'?"},
		{"submarine,memory:1M", "submarine: unknown device type; `sluice devices` lists them"},
		{"blk,memory:1M,qeues=2", "blk: unknown key 'qeues'; did you mean 'queues'?"},
		{"blk,memory:1M,color=red", "blk: unknown key 'color'; `sluice devices blk` lists the keys"},
		{"blk,memory:1M,queues=0", "blk: queues=0: out of range, 1 to 256 are allowed"},
		{"blk,memory:1M,queues=257", "blk: queues=257: out of range, 1 to 256 are allowed"},
		{"blk,memory:1M,queue-size=40000", "blk: queue-size=40000: out of range, 2 to 32768 are allowed"},
		{"blk,memory:1M,cache=none", "blk: key 'cache' belongs to 'file' and means nothing to memory:1M"},
		{"blk,memory:1M,serial=123456789012345678901",
		 "blk: serial=123456789012345678901: longer than 20 characters"},
		{"blk,/nowhere", "/nowhere: cannot open: No such file or directory"},
	};
	struct device_env env = {.control = sl_loop_new()};

	for (unsigned int i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		struct sl_err err = {0};
		struct spec spec;

		REQUIRE(spec_parse(&spec, lines[i][0], &err) == 0);
		CHECK(!device_open(&spec, &env, &err));
		if (strcmp(err.text, lines[i][1]))
			fprintf(stderr, "%s:\n  says     %s\n  expected %s\n", lines[i][0], err.text, lines[i][1]);
		CHECK(!strcmp(err.text, lines[i][1]));
		spec_free(&spec);
	}
	sl_loop_free(env.control);
}

/* ---- threads ---- */

struct runner {
	struct sl_loop *loop;
	pthread_t thread;
	struct sl_task hello;
	sem_t runs;
};

static void *run(void *arg)
{
	sl_loop_run(arg);
	return NULL;
}

static void hello(void *arg)
{
	sem_post(arg);
}

/* Back when the thread runs its loop: before, sl_loop_invoke() takes the loop for one that is stepped by hand. */
static void start_runner(struct runner *r)
{
	r->loop = sl_loop_new();
	r->hello = (struct sl_task){.fn = hello, .arg = &r->runs};
	REQUIRE(r->loop && sem_init(&r->runs, 0, 0) == 0);
	REQUIRE(pthread_create(&r->thread, NULL, run, r->loop) == 0);
	sl_task_send(r->loop, &r->hello);
	while (sem_wait(&r->runs) < 0)
		;
	sem_destroy(&r->runs);
}

/* Two queues on two threads, one file: each request done once, data as written. */
static void queues_on_threads(void)
{
	enum { ROUNDS = 200, LEN = 4096 };
	const char *path = file_make("disk", 1 << 20, NULL, 0);
	struct runner r[2];
	struct sl_loop *loops[2], *control = sl_loop_new();
	struct device_env env = {.control = control, .loops = loops, .num_loops = 2};
	struct served_device *served;
	struct sl_features f;
	struct rig_queue q[2];
	struct direct direct;
	struct spec spec;
	struct rig rig;
	char text[256];

	for (unsigned int i = 0; i < 2; i++) {
		start_runner(&r[i]);
		loops[i] = r[i].loop;
	}
	snprintf(text, sizeof(text), "blk,%s,queues=2", path);
	REQUIRE(spec_parse(&spec, text, NULL) == 0);
	served = device_open(&spec, &env, NULL);
	REQUIRE(served && direct_attach(&direct, served->dev) == 0);
	rig_open(&rig, 4 << 20);
	f = *sl_device_offered(served->dev);
	REQUIRE(sl_device_accept(served->dev, &f) == 0);
	for (unsigned int i = 0; i < 2; i++) {
		rig_queue(&rig, &q[i], DISK_RING, &f);
		REQUIRE(sl_queue_start(served->dev, i, &q[i].setup, rig.mem, NULL) == 0);
	}
	for (unsigned int n = 0; n < ROUNDS; n++) {
		struct virtio_blk_outhdr *h = rig_alloc(&rig, 32, 16);
		unsigned int i = n & 1;
		unsigned char *data = rig_alloc(&rig, LEN + 1, 16);
		struct sl_dq_buf out[2] = {rig_buf(&rig, h, sizeof(*h)), rig_buf(&rig, data, LEN)};
		struct sl_dq_buf in = rig_buf(&rig, data + LEN, 1);
		uint64_t until = sl_now() + 20000000000u;

		*h = (struct virtio_blk_outhdr){.type = htole32(VIRTIO_BLK_T_OUT), .sector = htole64(n * 8)};
		fill(data, LEN, n);
		data[LEN] = NO_ANSWER;
		REQUIRE(sl_dq_add(q[i].dq, out, 2, &in, 1, data));
		if (sl_dq_publish(q[i].dq))
			sl_queue_kick(served->dev, i);
		while (sl_dq_outstanding(q[i].dq) > (n < ROUNDS - 2 ? 8u : 0u) && sl_now() < until) {
			unsigned char *done = sl_dq_get(q[i].dq, NULL);

			CHECK(!done || done[LEN] == OK);
		}
	}
	CHECK_EQ(sl_dq_outstanding(q[0].dq) + sl_dq_outstanding(q[1].dq), 0);
	direct_detach(&direct);
	device_close(served);
	for (unsigned int i = 0; i < 2; i++) {
		sl_loop_quit(loops[i]);
		pthread_join(r[i].thread, NULL);
		sl_loop_free(loops[i]);
		rig_queue_close(&q[i]);
	}
	rig_close(&rig);
	sl_loop_free(control);
	spec_free(&spec);

	int fd = open(path, O_RDONLY);
	unsigned char a[LEN], b[LEN];

	for (unsigned int n = 0; n < ROUNDS; n++) {
		fill(a, LEN, n);
		REQUIRE(pread(fd, b, LEN, n * LEN) == LEN);
		CHECK(!memcmp(a, b, LEN));
	}
	close(fd);
}

static const struct t_case cases[] = {
	{"layouts", layouts},
	{"data_and_flush", data_and_flush},
	{"ranges", ranges},
	{"id_default_and_serial", id_default_and_serial},
	{"many_outstanding", many_outstanding},
	{"durable_by_flush_or_each", durable_by_flush_or_each},
	{"configuration", configuration},
	{"capacity_change", capacity_change},
	{"open_lines", open_lines},
	{"queues_on_threads", queues_on_threads},
};

BED_MAIN(cases)
