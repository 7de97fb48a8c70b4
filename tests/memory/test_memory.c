/* SPDX-License-Identifier: MIT */
/* test_memory.c - translation, snapshots, mappings, truncation, dirty log */
#include "t.h"

#include <sluice/memory.h>

#include <sys/mman.h>
#include <unistd.h>

static char a[4096], b[4096];

static struct sl_mem *two_regions(void)
{
	struct sl_mem_region r[] = {
		{.gpa = 0x2000, .size = 0x1000, .uva = 0x7000, .hva = b, .access = SL_MEM_READ | SL_MEM_WRITE},
		{.gpa = 0x1000, .size = 0x1000, .uva = 0x9000, .hva = a, .access = SL_MEM_READ | SL_MEM_WRITE},
	};
	struct sl_mem *m = sl_mem_new(r, 2, NULL);

	REQUIRE(m);
	return m;
}

static void at_cuts_and_never_wraps(void)
{
	struct sl_mem *m = two_regions();
	uint64_t len;

	len = 100;
	CHECK(sl_mem_at(m, 0x1000, &len, SL_MEM_READ) == a && len == 100);
	len = 100;
	CHECK(sl_mem_at(m, 0x1ff0, &len, SL_MEM_READ) == a + 0xff0 && len == 16);
	len = UINT64_MAX;
	CHECK(sl_mem_at(m, 0x2001, &len, SL_MEM_WRITE) == b + 1 && len == 0xfff);
	len = 1;
	CHECK(!sl_mem_at(m, 0xfff, &len, SL_MEM_READ));
	CHECK(!sl_mem_at(m, 0x3000, &len, SL_MEM_READ));
	CHECK(!sl_mem_at(m, UINT64_MAX, &len, SL_MEM_READ));
	len = 0;
	CHECK(!sl_mem_at(m, 0x1000, &len, SL_MEM_READ));
	CHECK(sl_mem_range(m, 0x1000, 0x1000, SL_MEM_READ) == a);
	CHECK(!sl_mem_range(m, 0x1001, 0x1000, SL_MEM_READ)); /* two regions are two places */
	sl_mem_put(m);
}

static void access_is_checked(void)
{
	struct sl_mem_region r = {.gpa = 0, .size = 16, .hva = a, .access = SL_MEM_READ};
	struct sl_mem *m = sl_mem_new(&r, 1, NULL);

	CHECK(sl_mem_range(m, 0, 16, SL_MEM_READ) == a);
	CHECK(!sl_mem_range(m, 0, 16, SL_MEM_WRITE));
	CHECK_EQ(sl_mem_write(m, 0, "x", 1), -EFAULT);
	sl_mem_put(m);
}

static void copies_cross_regions(void)
{
	struct sl_mem *m = two_regions();
	char got[8];

	CHECK_EQ(sl_mem_write(m, 0x1ffc, "12345678", 8), 0);
	CHECK(!memcmp(a + 0xffc, "1234", 4) && !memcmp(b, "5678", 4));
	CHECK_EQ(sl_mem_read(m, 0x1ffc, got, 8), 0);
	CHECK(!memcmp(got, "12345678", 8));
	CHECK_EQ(sl_mem_read(m, 0x2ffc, got, 8), -EFAULT);
	CHECK_EQ(sl_mem_read(m, 0x0ffc, got, 8), -EFAULT);
	sl_mem_put(m);
}

static void top_of_the_address_space(void)
{
	struct sl_mem_region r[] = {
		{.gpa = UINT64_MAX - 15, .uva = UINT64_MAX - 15, .size = 16, .hva = a, .access = 3},
		{.gpa = 0, .uva = 0, .size = 16, .hva = b, .access = 3},
	};
	struct sl_mem *m = sl_mem_new(r, 2, NULL);
	uint64_t len = 100;
	char got[32];

	REQUIRE(m);
	CHECK(sl_mem_at(m, UINT64_MAX, &len, SL_MEM_READ) == a + 15 && len == 1);
	CHECK_EQ(sl_mem_read(m, UINT64_MAX - 15, got, 16), 0);
	CHECK_EQ(sl_mem_read(m, UINT64_MAX - 15, got, 17), -EFAULT); /* does not go on at 0 */
	sl_mem_put(m);
}

static void bad_tables_are_refused(void)
{
	static const struct {
		uint64_t gpa, size, uva, gpa2, size2;
	} rows[] = {
		{0, 0, 0, 0x10000, 1},			/* empty */
		{UINT64_MAX, 2, 0, 0x10000, 1},		/* wraps */
		{0, 2, UINT64_MAX, 0x10000, 1},		/* user address wraps */
		{0x1000, 0x1000, 0, 0x1fff, 1},		/* overlap of one byte */
		{0x1000, 0x1000, 0, 0x1000, 0x1000},	/* twice the same */
		{0x1000, UINT64_MAX, 0, 0x10000, 1},
	};
	struct sl_err err;

	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct sl_mem_region r[] = {
			{.gpa = rows[i].gpa, .size = rows[i].size, .uva = rows[i].uva, .hva = a, .access = 3},
			{.gpa = rows[i].gpa2, .size = rows[i].size2, .hva = b, .access = 3},
		};

		err.text[0] = '\0';
		CHECK(!sl_mem_new(r, 2, &err));
		CHECK(err.text[0]);
	}
}

static void many_regions_are_found(void)
{
	static struct sl_mem_region r[SL_MEM_MAX_REGIONS + 1];
	struct sl_mem *m;

	for (unsigned int n = 1; n <= SL_MEM_MAX_REGIONS; n = n * 2 + 1) {
		for (unsigned int i = 0; i < n; i++)
			r[i] = (struct sl_mem_region){
				.gpa = 3 * i, .uva = 3 * i, .size = 2, .hva = a + 2 * i, .access = 3};
		m = sl_mem_new(r, n, NULL);
		REQUIRE(m);
		for (unsigned int i = 0; i < n; i++) {
			CHECK(sl_mem_range(m, 3 * i, 2, 3) == a + 2 * i);
			CHECK(!sl_mem_range(m, 3 * i + 2, 1, 3));
		}
		CHECK(!sl_mem_range(m, 3 * n, 1, 3));
		sl_mem_put(m);
	}
	CHECK(!sl_mem_new(r, SL_MEM_MAX_REGIONS + 1, NULL));
	m = sl_mem_new(NULL, 0, NULL);
	CHECK(m && !sl_mem_range(m, 0, 1, 1));
	sl_mem_put(m);
}

static void reverse_translation(void)
{
	struct sl_mem *m = two_regions();
	uint64_t gpa;

	CHECK(sl_mem_uva_to_gpa(m, 0x9001, &gpa) && gpa == 0x1001);
	CHECK(!sl_mem_uva_to_gpa(m, 0x8fff, &gpa));
	CHECK(!sl_mem_uva_to_gpa(m, 0xa000, &gpa));
	CHECK(sl_mem_hva_to_gpa(m, b + 5, &gpa) && gpa == 0x2005);
	CHECK(!sl_mem_hva_to_gpa(m, &m, &gpa));
	sl_mem_put(m);
}

static int file_of(off_t size)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	REQUIRE(fd >= 0 && ftruncate(fd, size) == 0);
	return fd;
}

static void mapping_refusals(void)
{
	static const struct {
		uint64_t offset, size;
	} rows[] = {
		{0, 0},		      /* nothing */
		{0, 8193},	      /* beyond the end */
		{8192, 1},	      /* at the end */
		{1, UINT64_MAX},      /* B2: wraps */
		{UINT64_MAX, 1},
		{0, UINT64_MAX},      /* B3: rounds up to 0 */
		{UINT64_MAX - 4095, 4096},
	};
	int fd = file_of(8192);
	struct sl_err err;

	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		err.text[0] = '\0';
		CHECK(!sl_mapping_new(fd, rows[i].offset, rows[i].size, &err));
		CHECK(strstr(err.text, "memory: mapping of"));
	}
	close(fd);
	CHECK(!sl_mapping_new(fd, 0, 4096, &err));
}

static void mapping_at_odd_offset_is_shared(void)
{
	int fd = file_of(8192);
	struct sl_mapping *m = sl_mapping_new(fd, 5000, 100, NULL);
	char got[3] = "";

	REQUIRE(m);
	memcpy(sl_mapping_addr(m), "abc", 3);
	CHECK(pread(fd, got, 3, 5000) == 3 && !memcmp(got, "abc", 3));
	sl_mapping_put(m);
	close(fd);
}

static void snapshots_keep_their_mappings(void)
{
	int fd = file_of(4096);
	struct sl_mapping *map = sl_mapping_new(fd, 0, 4096, NULL);
	struct sl_mem_region r = {.size = 4096, .access = 3, .mapping = map};
	struct sl_mem *old, *new;
	char *p;

	r.hva = sl_mapping_addr(map);
	old = sl_mem_new(&r, 1, NULL);
	new = sl_mem_new(&r, 1, NULL);
	sl_mapping_put(map);
	close(fd);
	sl_mem_put(new);
	p = sl_mem_range(old, 0, 4096, 3);
	p[0] = 'x'; /* still mapped */
	CHECK(sl_mem_get(old) == old);
	sl_mem_put(old);
	p[1] = 'y';
	sl_mem_put(old);
}

static void truncated_file_is_survived(void)
{
	int fd = file_of(65536);
	struct sl_mapping *map = sl_mapping_new(fd, 0, 65536, NULL);
	struct sl_mem_region r = {.size = 65536, .access = 3, .mapping = map};
	struct sl_mem *m;
	volatile char *p;

	REQUIRE(map && !sl_mem_guard());
	r.hva = sl_mapping_addr(map);
	m = sl_mem_new(&r, 1, NULL);
	p = r.hva;
	p[40000] = 'x';
	CHECK(!sl_mem_lost(m));
	REQUIRE(ftruncate(fd, 0) == 0);
	CHECK_EQ(p[40000], 0);
	p[10] = 'y';
	CHECK_EQ(p[10], 'y');
	CHECK(sl_mem_lost(m));
	sl_mem_put(m);
	sl_mapping_put(map);
	close(fd);
}

static void dirty_log_marks_pages(void)
{
	int fd = file_of(4096);
	struct sl_mapping *map = sl_mapping_new(fd, 0, 4096, NULL);
	struct sl_dirty_log *log = sl_dirty_log_new(map, 4); /* 32 pages */
	const uint8_t *bits = sl_mapping_addr(map);

	sl_dirty_log_mark(log, 4095, 2); /* the end of page 0 and the start of page 1 */
	CHECK_EQ(bits[0], 3);
	sl_dirty_log_mark(log, 9 * 4096ULL, 1);
	CHECK_EQ(bits[1], 2);
	sl_dirty_log_mark(log, 5 * 4096ULL, 0);
	CHECK_EQ(bits[0], 3);
	sl_dirty_log_mark(log, 31 * 4096ULL, 1ULL << 40); /* runs off the end: cut */
	CHECK_EQ(bits[3], 0x80);
	CHECK_EQ(bits[4], 0);
	sl_dirty_log_mark(log, UINT64_MAX, 2); /* wraps: ignored */
	sl_dirty_log_mark(log, 1ULL << 50, 1);
	CHECK_EQ(bits[2], 0);
	sl_dirty_log_put(log);
	sl_mapping_put(map);
	close(fd);
}

static const struct t_case cases[] = {
	{"at_cuts_and_never_wraps", at_cuts_and_never_wraps},
	{"access_is_checked", access_is_checked},
	{"copies_cross_regions", copies_cross_regions},
	{"top_of_the_address_space", top_of_the_address_space},
	{"bad_tables_are_refused", bad_tables_are_refused},
	{"many_regions_are_found", many_regions_are_found},
	{"reverse_translation", reverse_translation},
	{"mapping_refusals", mapping_refusals},
	{"mapping_at_odd_offset_is_shared", mapping_at_odd_offset_is_shared},
	{"snapshots_keep_their_mappings", snapshots_keep_their_mappings},
	{"truncated_file_is_survived", truncated_file_is_survived},
	{"dirty_log_marks_pages", dirty_log_marks_pages},
};
T_MAIN(cases)
