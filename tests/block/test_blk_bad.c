/* SPDX-License-Identifier: MIT */
/* test_blk_bad.c - bad requests to the virtio-blk device: each gets its status byte, and the next driver is served.
 *
 * Cases that start with a letter and a number are bugs that other systems had:
 * cloud-hypervisor (a25, c1, c2, c5, c6), crosvm (c3, c4), QEMU (c7, c8).
 */
#include "disk.h"

static void a25_chain_without_status(void)
{
	struct sl_features mask;
	struct disk d;

	for (unsigned int bits = 0; bits < 16; bits++) {
		struct sl_dq_buf b;

		mask = mask_of(bits);
		disk_open(&d, "blk,memory:1M,in-order=on", &mask);
		disk_header(&d, VIRTIO_BLK_T_IN, 0);
		/* More often than there are slots and descriptors. */
		for (unsigned int i = 0; i < 3 * DISK_RING; i++) {
			b = disk_buf(&d, d.header, sizeof(*d.header));
			CHECK_EQ(disk_chain(&d, &b, 1, NULL, 0), NO_ANSWER);
			CHECK_EQ(d.len, 0);
			/* And one with nothing but room for an answer. */
			b = disk_buf(&d, d.status, 1);
			CHECK_EQ(disk_chain(&d, NULL, 0, &b, 1), IOERR);
		}
		still_serves(&d);
		disk_close(&d);
	}
}

static void short_header(void)
{
	struct disk d;

	disk_open(&d, "blk,memory:1M", NULL);
	for (uint32_t len = 1; len < sizeof(*d.header); len++) {
		struct sl_dq_buf out = disk_buf(&d, d.header, len), in = disk_buf(&d, d.status, 1);

		disk_header(&d, VIRTIO_BLK_T_FLUSH, 0);
		CHECK_EQ(disk_chain(&d, &out, 1, &in, 1), IOERR);
	}
	still_serves(&d);
	disk_close(&d);
}

static void c1_write_zeroes_wrap(void)
{
	static const uint64_t sectors[] = {UINT64_MAX, UINT64_MAX - 7, 1ULL << 63, 1ULL << 55, (1ULL << 55) - 1,
					   UINT64_MAX / 512, UINT64_MAX / 512 + 1, SECTORS_1M + 1};
	struct disk d;

	disk_open(&d, "blk,memory:1M", NULL);
	memset(d.data, 0x33, 4096);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 0, 4096, 0), OK);
	for (unsigned int i = 0; i < sizeof(sectors) / sizeof(sectors[0]); i++) {
		for (uint32_t n = 0; n < 3; n++) {
			static const uint32_t counts[] = {8, UINT32_MAX, 1 << 21};

			disk_range(&d, 0, sectors[i], counts[n], 0);
			CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, 1), IOERR);
			CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_DISCARD, 1), IOERR);
		}
		CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, sectors[i], 0, 4096), IOERR);
		CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, sectors[i], 4096, 0), IOERR);
	}
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, 0, 0, 4096), OK);
	CHECK_EQ(d.data[0], 0x33);
	still_serves(&d);
	disk_close(&d);
}

static void c2_discard_past_capacity(void)
{
	struct disk d;

	disk_open(&d, "blk,memory:1M", NULL);
	disk_range(&d, 0, SECTORS_1M - 8, 9, 0);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_DISCARD, 1), IOERR);
	disk_range(&d, 0, SECTORS_1M, 1, 0);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_DISCARD, 1), IOERR);
	disk_range(&d, 0, SECTORS_1M - 8, 8, 0);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_DISCARD, 1), OK);
	still_serves(&d);
	disk_close(&d);
}

static void c3_more_ranges_than_advertised(void)
{
	struct disk d;
	unsigned int before;

	disk_open(&d, "blk,memory:1M", NULL);
	memset(d.data, 0, DISK_DATA);
	before = n_submits;
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_DISCARD, 33), IOERR);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, 33), IOERR);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_DISCARD, DISK_DATA / 16), IOERR);
	CHECK_EQ(n_submits, before); /* none of them was begun */
	still_serves(&d);
	disk_close(&d);

	/* One range may be 1 GiB long. */
	disk_open(&d, "blk,null:4G", NULL);
	disk_range(&d, 0, 8, 1 << 21, 0);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_DISCARD, 1), OK);
	disk_range(&d, 0, 8, (1 << 21) + 1, 0);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_DISCARD, 1), IOERR);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, 1), IOERR);
	disk_close(&d);
}

static void c4_write_across_the_end(void)
{
	const char *path = file_make("disk", 1 << 20, NULL, 0);
	struct stat st;
	char spec[256];
	struct disk d;

	snprintf(spec, sizeof(spec), "blk,%s", path);
	disk_open(&d, spec, NULL);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, SECTORS_1M - 1, 4096, 0), IOERR);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, SECTORS_1M, 512, 0), IOERR);
	disk_range(&d, 0, SECTORS_1M - 1, 2, 0);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, 1), IOERR);
	still_serves(&d);
	disk_close(&d);
	REQUIRE(stat(path, &st) == 0);
	CHECK_EQ(st.st_size, 1 << 20);
}

/* Requests that the kernel works on when the device is reset: the reset waits, then nothing is written any more. */
static void c5_reset_with_requests_in_the_kernel(void)
{
	enum { N = 16, LEN = 32768 };
	const char *path = file_make("disk", 64 << 20, NULL, 0);
	char spec[256];
	unsigned char *a;
	struct disk d;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	a = malloc(64 << 20);
	memset(a, 0x11, 64 << 20);
	REQUIRE(pwrite(fd, a, 64 << 20, 0) == 64 << 20 && fdatasync(fd) == 0);
	snprintf(spec, sizeof(spec), "blk,%s", path);
	for (unsigned int round = 0; round < 10; round++) {
		disk_open(&d, spec, NULL);
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		for (unsigned int i = 0; i < N; i++) {
			struct virtio_blk_outhdr *h = rig_alloc(&d.rig, sizeof(*h), 16);
			struct sl_dq_buf out = disk_buf(&d, h, sizeof(*h));
			struct sl_dq_buf in[2] = {disk_buf(&d, d.data + i * LEN, LEN), disk_buf(&d, d.status + i, 1)};

			h->sector = htole64((i * 7 + round) * 4096 % (64 << 11));
			disk_offer(&d, &out, 1, in, 2, d.status + i);
		}
		if (round & 1)
			sl_loop_step(d.loop, 0);
		direct_reset(&d.direct);
		memset(d.data, 0x77, N * LEN);
		for (unsigned int i = 0; i < 5; i++)
			sl_loop_step(d.loop, 2);
		for (unsigned int i = 0; i < N * LEN; i += 512)
			CHECK_EQ(d.data[i], 0x77);
		rig_queue_close(&d.q);
		disk_start(&d, NULL);
		still_serves(&d);
		disk_close(&d);
	}
	close(fd);
	free(a);
}

static void c6_end_out_of_range(void)
{
	struct disk d;

	disk_open(&d, "blk,memory:1M", NULL);
	memset(d.data, 0x66, DISK_DATA);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, SECTORS_1M - 7, 0, 4096), IOERR);
	CHECK_EQ(d.data[0], 0x66);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, 1, 0, DISK_DATA), IOERR);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, SECTORS_1M - 8, 0, 4096), OK);
	still_serves(&d);
	disk_close(&d);
}

static void c7_bad_ranges(void)
{
	static const uint32_t odd[] = {1, 8, 15, 17, 31, 33, 511};
	struct disk d;

	disk_open(&d, "blk,memory:1M", NULL);
	for (unsigned int bit = 0; bit < 32; bit++) {
		disk_range(&d, 0, 0, 8, 1u << bit);
		CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_DISCARD, 1), UNSUPP);
		CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_SECURE_ERASE, 1), UNSUPP);
		CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, 1), bit ? UNSUPP : OK);
	}
	for (unsigned int i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		disk_range(&d, 0, 0, 8, 0);
		CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_DISCARD, 0, odd[i], 0), IOERR);
	}
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_DISCARD, 0, 0, 0), IOERR);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_WRITE_ZEROES, 0, 0, 0), IOERR);
	/* The good one before a bad one is done, the one behind it is not. */
	memset(d.data, 0x44, 3 * 512);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 0, 3 * 512, 0), OK);
	disk_range(&d, 0, 0, 1, 0);
	disk_range(&d, 1, 1, 1, 0x80);
	disk_range(&d, 2, 2, 1, 0);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, 3), UNSUPP);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, 0, 0, 3 * 512), OK);
	CHECK(all_zero(d.data, 512) && d.data[512] == 0x44 && d.data[1024] == 0x44);
	still_serves(&d);
	disk_close(&d);
}

static void c8_scsi_command(void)
{
	struct sl_dq_buf out[3], in[3];
	struct disk d;

	disk_open(&d, "blk,memory:1M", NULL);
	memset(d.data, 0xff, DISK_DATA);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_SCSI_CMD, 0, DISK_DATA / 2, 0), UNSUPP);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_SCSI_CMD | VIRTIO_BLK_T_OUT, 0, 96, 0), UNSUPP);
	/* Command, data, sense, SCSI's own result, status. */
	disk_header(&d, VIRTIO_BLK_T_SCSI_CMD, 0);
	out[0] = disk_buf(&d, d.header, sizeof(*d.header));
	out[1] = disk_buf(&d, d.data, 65536);
	in[0] = disk_buf(&d, d.data + 65536, 65536);
	in[1] = disk_buf(&d, d.data + 2 * 65536, 96 + 16);
	in[2] = disk_buf(&d, d.status, 1);
	CHECK_EQ(disk_chain(&d, out, 2, in, 3), UNSUPP);
	for (unsigned int i = 0; i < 3 * 65536; i += 16)
		CHECK_EQ(d.data[i], 0xff);
	still_serves(&d);
	disk_close(&d);
}

static void c9_status_placement(void)
{
	struct sl_dq_buf out[3], in[2];
	struct disk d;

	disk_open(&d, "blk,memory:1M", NULL);
	/* A status byte that the device may only read is no status byte. */
	disk_header(&d, VIRTIO_BLK_T_OUT, 0);
	out[0] = disk_buf(&d, d.header, sizeof(*d.header));
	out[1] = disk_buf(&d, d.data, 511);
	out[2] = disk_buf(&d, d.status, 1);
	CHECK_EQ(disk_chain(&d, out, 3, NULL, 0), NO_ANSWER);
	CHECK_EQ(d.len, 0);
	/* A read whose data is 511 bytes and the status in front of them: the last byte is the status. */
	disk_header(&d, VIRTIO_BLK_T_IN, 0);
	in[0] = disk_buf(&d, d.status, 1);
	in[1] = disk_buf(&d, d.data, 512);
	d.data[511] = NO_ANSWER;
	disk_chain(&d, out, 1, in, 2);
	CHECK_EQ(d.data[511], OK);
	CHECK_EQ(d.len, 513);
	/* A read of 512 bytes without a byte more. */
	d.data[511] = NO_ANSWER;
	CHECK_EQ(disk_chain(&d, out, 1, in + 1, 1), NO_ANSWER);
	CHECK_EQ(d.data[511], IOERR);
	still_serves(&d);
	disk_close(&d);
}

static void c9_get_id_sizes(void)
{
	static const uint32_t sizes[] = {1, 19, 20, 21, 4096};
	struct disk d;

	disk_open(&d, "blk,memory:1M,serial=abcdefghijklmnopqrst", NULL);
	for (unsigned int i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint32_t n = sizes[i] < 20 ? sizes[i] : 20;

		memset(d.data, 0xdd, 5000);
		CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_GET_ID, 0, 0, sizes[i]), OK);
		CHECK(!memcmp(d.data, "abcdefghijklmnopqrst", n));
		for (uint32_t k = n; k <= sizes[i]; k++) /* a large buffer costs no large write */
			CHECK_EQ((uint8_t)d.data[k], 0xdd);
	}
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_GET_ID, 0, 0, 0), OK);
	still_serves(&d);
	disk_close(&d);
}

static void c9_odd_data_and_types(void)
{
	static const uint32_t odd[] = {1, 511, 513, 4095, 4097};
	struct disk d;

	disk_open(&d, "blk,memory:1M", NULL);
	for (unsigned int i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, 0, 0, odd[i]), IOERR);
		CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 0, odd[i], 0), IOERR);
	}
	for (uint32_t type = 0; type < 32; type++) {
		if (type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_OUT || type == VIRTIO_BLK_T_FLUSH ||
		    type == VIRTIO_BLK_T_GET_ID || type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES ||
		    type == VIRTIO_BLK_T_SECURE_ERASE)
			continue;
		CHECK_EQ(disk_io(&d, type, 0, 512, 0), UNSUPP);
		CHECK_EQ(disk_io(&d, type | 1u << 31, 0, 0, 512), UNSUPP);
	}
	CHECK_EQ(disk_io(&d, UINT32_MAX, 0, 0, 0), UNSUPP);
	/* Data that a flush has no use for does not keep it from flushing. */
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_FLUSH, UINT64_MAX, 512, 512), OK);
	CHECK_EQ(last_op, BLOCK_FLUSH);
	still_serves(&d);
	disk_close(&d);
}

/* More than a driver that keeps to the advertised limits can ask for; it would hold up everybody else. */
static void too_much_data(void)
{
	struct sl_features mask = mask_of(0);
	struct sl_dq_buf out[64], in[64];
	struct disk d;

	disk_open(&d, "blk,null:1G", &mask);
	disk_header(&d, VIRTIO_BLK_T_IN, 0);
	out[0] = disk_buf(&d, d.header, sizeof(*d.header));
	for (unsigned int i = 0; i < 40; i++)
		in[i] = disk_buf(&d, d.rig.driver, 4 << 20);
	in[31] = disk_buf(&d, d.status, 1);
	CHECK_EQ(disk_chain(&d, out, 1, in, 32), OK); /* 124 MiB */
	in[31] = in[0];
	in[40] = disk_buf(&d, d.status, 1);
	CHECK_EQ(disk_chain(&d, out, 1, in, 41), IOERR);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, 0, 0, 4096), OK);
	disk_close(&d);
}

static void not_negotiated(void)
{
	struct sl_features mask = {{UINT64_MAX, UINT64_MAX}};
	struct disk d;

	sl_features_clear(&mask, VIRTIO_BLK_F_DISCARD);
	sl_features_clear(&mask, VIRTIO_BLK_F_WRITE_ZEROES);
	sl_features_clear(&mask, VIRTIO_BLK_F_SECURE_ERASE);
	disk_open(&d, "blk,memory:1M", &mask);
	disk_range(&d, 0, 0, 8, 0);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_DISCARD, 1), UNSUPP);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, 1), UNSUPP);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_SECURE_ERASE, 1), UNSUPP);
	still_serves(&d);
	disk_close(&d);
}

static void read_only_disk(void)
{
	struct disk d;

	disk_open(&d, "blk,memory:1M,readonly=on", NULL);
	disk_range(&d, 0, 0, 8, 0);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_DISCARD, 1), IOERR);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, 1), IOERR);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_SECURE_ERASE, 1), IOERR);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 0, 512, 0), IOERR);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_FLUSH, 0, 0, 0), OK);
	memset(d.data, 1, 4096);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, 0, 0, 4096), OK);
	CHECK(all_zero(d.data, 4096));
	disk_close(&d);
}

static void error_of_that_request_only(void)
{
	struct disk d;

	disk_open(&d, "blk,memory:1M,error=100%,error-sectors=8-8,error-count=1", NULL);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_OUT, 0, 4096, 0), OK);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, 8, 0, 512), IOERR);
	CHECK_EQ(d.len, 513);
	CHECK_EQ(disk_io(&d, VIRTIO_BLK_T_IN, 8, 0, 512), OK);
	disk_close(&d);
	disk_open(&d, "blk,memory:1M,error=100%,error-op=discard,error-errno=EOPNOTSUPP", NULL);
	disk_range(&d, 0, 0, 8, 0);
	CHECK_EQ(disk_ranges(&d, VIRTIO_BLK_T_DISCARD, 1), UNSUPP);
	still_serves(&d);
	disk_close(&d);
}

static const struct t_case cases[] = {
	{"a25_chain_without_status", a25_chain_without_status},
	{"short_header", short_header},
	{"c1_write_zeroes_wrap", c1_write_zeroes_wrap},
	{"c2_discard_past_capacity", c2_discard_past_capacity},
	{"c3_more_ranges_than_advertised", c3_more_ranges_than_advertised},
	{"c4_write_across_the_end", c4_write_across_the_end},
	{"c5_reset_with_requests_in_the_kernel", c5_reset_with_requests_in_the_kernel},
	{"c6_end_out_of_range", c6_end_out_of_range},
	{"c7_bad_ranges", c7_bad_ranges},
	{"c8_scsi_command", c8_scsi_command},
	{"c9_status_placement", c9_status_placement},
	{"c9_get_id_sizes", c9_get_id_sizes},
	{"c9_odd_data_and_types", c9_odd_data_and_types},
	{"too_much_data", too_much_data},
	{"not_negotiated", not_negotiated},
	{"read_only_disk", read_only_disk},
	{"error_of_that_request_only", error_of_that_request_only},
};

BED_MAIN(cases)
