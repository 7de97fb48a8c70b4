/* SPDX-License-Identifier: MIT */
/* memory_test.c - vhost-user server: memory tables and slots, dirty log, inflight region */
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "case.h"

/* ---- memory ---- */

static void memory_slots(void)
{
	struct vu_mem_reg lo, hi;
	uint32_t base;

	bed_open(&b, false);
	fe_connect(&f, &b);
	fe_hello(&f, FE_RING_FEATURES | BIT30, FE_ALL_PROTOCOL);
	lo = (struct vu_mem_reg){.region = {f.g.gpa, 0x100000, f.g.uva, 0}};
	/* the data, with other user addresses than its neighbour's */
	hi = (struct vu_mem_reg){.region = {f.g.gpa + 0x100000, 0x300000, 0x5500000000, 0x100000}};
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &lo, sizeof(lo), &f.g.fd, 1), 0);
	fe_ring_up(&f, 0, 8);
	CHECK(sl_queue_running(b.dev, 0));
	/* more memory under a running ring */
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &hi, sizeof(hi), &f.g.fd, 1), 0);
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &hi, sizeof(hi), &f.g.fd, 1), 1);
	hi.region.gpa += 4096;
	CHECK_EQ(fe_set(&f, VU_REM_MEM_REG, &hi, sizeof(hi), NULL, 0), 1);
	hi.region.gpa -= 4096;
	hi.region.mmap_offset = 12345; /* does not count, nor does a descriptor */
	CHECK_EQ(fe_set(&f, VU_REM_MEM_REG, &hi, sizeof(hi), &f.g.fd, 1), 0);
	CHECK(sl_queue_running(b.dev, 0));
	CHECK_EQ(count_maps(), 2); /* ours, and the low region */
	/* the ring's own memory goes: the ring stops there, and goes on when the memory is back */
	CHECK_EQ(fe_set(&f, VU_REM_MEM_REG, &lo, sizeof(lo), NULL, 0), 0);
	CHECK(!sl_queue_running(b.dev, 0));
	CHECK_EQ(count_maps(), 1);
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &lo, sizeof(lo), &f.g.fd, 1), 0);
	hi.region.mmap_offset = 0x100000;
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &hi, sizeof(hi), &f.g.fd, 1), 0);
	CHECK(fe_echo(&f, 0));
	base = fe_get_base(&f, 0);
	CHECK_EQ(base, 2);
	down();
}

static void many_slots(void)
{
	unsigned int n;

	begin(FE_RING_FEATURES | BIT30);
	fe_ring_up(&f, 0, 8);
	for (n = 1; n < 512; n++) {
		struct vu_mem_reg r = {.region = {0x100000000 + n * 0x10000, 0x1000, 0x6600000000 + n * 0x10000, 0}};

		if (fe_set(&f, VU_ADD_MEM_REG, &r, sizeof(r), &f.g.fd, 1))
			break;
	}
	CHECK_EQ(n, 512);
	{
		struct vu_mem_reg r = {.region = {0x90000000, 0x1000, 0x90000000, 0}};

		CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &r, sizeof(r), &f.g.fd, 1), 1);
	}
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(fe_set_memory(&f), 0);
	CHECK_EQ(count_maps(), 2);
	CHECK(fe_echo(&f, 0));
	down();
}

/* Memory that a request in flight uses is not given back before that request is done. */
static void memory_in_flight(uint32_t request, bool threaded)
{
	struct vu_mem_reg reg;
	struct vu_mem_table none = {0};
	struct vu_msg m;

	bed_open(&b, threaded);
	fe_up(&f, &b, false);
	reg = (struct vu_mem_reg){.region = {f.g.gpa, GUEST_SIZE, f.g.uva, 0}};
	b.hold = true;
	fe_offer(&f, 0, 64);
	CHECK(bed_wait(&b, &b.served, 1));
	if (request == VU_REM_MEM_REG)
		fe_send(&f, request, VU_NEED_REPLY, &reg, sizeof(reg), NULL, 0);
	else
		fe_send(&f, request, VU_NEED_REPLY, &none, 8, NULL, 0);
	CHECK(fe_idle(&f, 0));
	CHECK_EQ(recv(f.sock, &m, 1, MSG_PEEK | MSG_DONTWAIT), -1);
	CHECK_EQ(count_maps(), 2);
	bed_release(&b);
	CHECK_EQ(fe_recv(&f, &m), 0);
	CHECK_EQ(m.p.u64, 0);
	CHECK_EQ(count_maps(), 1);
	CHECK(fe_done(&f, 0) != NULL);
	CHECK_EQ(fe_set_memory(&f), 0);
	CHECK(fe_echo(&f, 0));
	CHECK(fe_echo(&f, 1));
	down();
}

static void rem_mem_reg_in_flight(void)
{
	memory_in_flight(VU_REM_MEM_REG, false);
}

static void rem_mem_reg_in_flight_threaded(void)
{
	memory_in_flight(VU_REM_MEM_REG, true);
}

static void set_mem_table_in_flight(void)
{
	memory_in_flight(VU_SET_MEM_TABLE, false);
}

/* The same memory under other user addresses: rings are looked up anew. */
static void ring_addresses_follow_the_table(void)
{
	begin(FE_RING_FEATURES | BIT30);
	fe_ring_up(&f, 0, 8);
	CHECK(fe_echo(&f, 0));
	f.g.gpa = 0x80000000;
	CHECK_EQ(fe_set_memory(&f), 0);
	CHECK(fe_echo(&f, 0));
	f.g.uva = 0x7f9999000000;
	CHECK_EQ(fe_set_memory(&f), 0);
	CHECK(!sl_queue_running(b.dev, 0)); /* its addresses are nowhere now */
	{
		struct vu_vring_addr addr = fe_ring_addr(&f, 0);

		CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
	}
	CHECK(fe_echo(&f, 0));
	down();
}

/* ---- dirty log ---- */

#define LOG_BYTES 0x10000ULL /* pages up to 2 GiB */

static bool is_dirty(const uint8_t *log, uint64_t gpa)
{
	return log[gpa / 4096 / 8] >> (gpa / 4096 % 8) & 1;
}

static unsigned int dirty_pages(const uint8_t *log)
{
	unsigned int n = 0;

	for (size_t i = 0; i < LOG_BYTES; i++)
		n += (unsigned int)__builtin_popcount(log[i]);
	return n;
}

static void dirty_log(bool packed, bool threaded)
{
	struct vu_log lb = {LOG_BYTES, 4096};
	struct vu_vring_addr addr;
	struct vu_msg m;
	uint64_t features = FE_RING_FEATURES | BIT30 | (packed ? PACKED : 0), in_gpa, ring_gpa;
	int fd = memfd_create("log", MFD_CLOEXEC);
	uint8_t *log, *data;

	REQUIRE(fd >= 0 && !ftruncate(fd, LOG_BYTES + 4096));
	log = mmap(NULL, LOG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
	REQUIRE(log != MAP_FAILED);
	bed_open(&b, threaded);
	fe_up(&f, &b, packed);
	CHECK_EQ(fe_send(&f, VU_SET_LOG_BASE, 0, &lb, sizeof(lb), &fd, 1), 0);
	CHECK_EQ(fe_recv(&f, &m), 0);
	CHECK_EQ(m.h.request, VU_SET_LOG_BASE);
	CHECK_EQ(m.p.u64, 0);
	CHECK_EQ(fe_set(&f, VU_SET_LOG_FD, NULL, 0, &fd, 1), 0);
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(dirty_pages(log), 0); /* not before LOG_ALL */

	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, features | LOG_ALL), 0);
	data = fe_offer(&f, 0, 3000);
	in_gpa = f.g.gpa + (uint64_t)(data - f.g.mem) + 0x1000;
	CHECK(fe_done(&f, 0) == data);
	CHECK(is_dirty(log, in_gpa));
	CHECK_EQ(dirty_pages(log), 1); /* what the device wrote, not what it read, and not the ring */

	/* now the ring too, while it runs, under an address of the front-end's choice */
	addr = fe_ring_addr(&f, 0);
	addr.flags = VU_VRING_LOG;
	addr.log = f.g.gpa + GUEST_RING(0) + f.ring[0].layout.device;
	CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
	memset(log, 0, LOG_BYTES);
	CHECK(fe_echo(&f, 0));
	/* QEMU names the event area of a packed ring; what is written is the descriptor ring */
	ring_gpa = packed ? f.g.gpa + GUEST_RING(0) + f.ring[0].layout.desc : addr.log;
	CHECK(is_dirty(log, ring_gpa));
	CHECK(dirty_pages(log) >= 2);

	/* a ring that starts with logging on */
	memset(log, 0, LOG_BYTES);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 0), 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
	memset(log, 0, LOG_BYTES);
	CHECK(fe_echo(&f, 0));
	CHECK(is_dirty(log, ring_gpa));

	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, features), 0);
	memset(log, 0, LOG_BYTES);
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(dirty_pages(log), 0);
	down();
	munmap(log, LOG_BYTES);
	close(fd);
}

/* The log is replaced by another one while rings write to it (QEMU does when its memory grows). */
static void dirty_log_replaced(void)
{
	struct vu_log lb = {LOG_BYTES, 0};
	struct vu_msg m;
	uint8_t *log[3];
	int fd[3];

	begin(FE_RING_FEATURES | BIT30 | LOG_ALL);
	fe_ring_up(&f, 0, 8);
	for (int i = 0; i < 3; i++) {
		fd[i] = memfd_create("log", MFD_CLOEXEC);
		REQUIRE(fd[i] >= 0 && !ftruncate(fd[i], LOG_BYTES));
		log[i] = mmap(NULL, LOG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd[i], 0);
		REQUIRE(log[i] != MAP_FAILED);
		CHECK_EQ(fe_send(&f, VU_SET_LOG_BASE, VU_NEED_REPLY, &lb, sizeof(lb), &fd[i], 1), 0);
		CHECK_EQ(fe_recv(&f, &m), 0); /* one answer, though it has one of its own */
		CHECK_EQ(m.p.u64, 0);
		CHECK_EQ(count_maps(), (unsigned int)(3 + i + 1)); /* guest memory twice, ours of the logs, its one */
		CHECK(fe_echo(&f, 0));
		CHECK_EQ(dirty_pages(log[i]), 1);
		for (int k = 0; k < i; k++)
			CHECK_EQ(dirty_pages(log[k]), 1); /* as it was left */
	}
	down();
	for (int i = 0; i < 3; i++) {
		munmap(log[i], LOG_BYTES);
		close(fd[i]);
	}
}

static void dirty_log_split(void)
{
	dirty_log(false, false);
}

static void dirty_log_packed(void)
{
	dirty_log(true, false);
}

static void dirty_log_threaded(void)
{
	dirty_log(false, true);
}

/* ---- inflight region ---- */

static void inflight_region(void)
{
	struct vu_inflight want = {.num_queues = BED_QUEUES, .queue_size = 16}, region;
	struct vu_msg m;
	int fd;

	begin(FE_RING_FEATURES | BIT30);
	for (uint32_t size = VU_INFLIGHT_MIN; size <= sizeof(want); size += 4) {
		struct stat st;

		REQUIRE(!fe_get(&f, VU_GET_INFLIGHT_FD, &want, size, &m));
		CHECK_EQ(m.h.size, size);
		region = m.p.inflight;
		CHECK_EQ(m.nfds, 1);
		CHECK(region.mmap_size >= BED_QUEUES * sl_inflight_size(false, 16));
		CHECK_EQ(region.mmap_size % (BED_QUEUES * 4096), 0);
		fd = vu_msg_take_fd(&m, 0);
		CHECK(!fstat(fd, &st) && (uint64_t)st.st_size == region.mmap_size);
		if (size == VU_INFLIGHT_MIN)
			close(fd);
	}
	CHECK_EQ(count_maps(), 2); /* nothing is kept of a region before it comes back */
	CHECK_EQ(fe_set(&f, VU_SET_INFLIGHT_FD, &region, sizeof(region), &fd, 1), 0);
	CHECK_EQ(count_maps(), 3);
	fe_ring_up(&f, 0, 16);
	fe_ring_up(&f, 1, 8);
	CHECK(fe_echo(&f, 0));
	CHECK(fe_echo(&f, 1));
	CHECK_EQ(fe_set(&f, VU_SET_INFLIGHT_FD, &region, sizeof(region), &fd, 1), 1); /* not under running rings */
	CHECK(fe_get_base(&f, 0) != UINT32_MAX);
	/* a ring larger than its part does not start */
	fe_ring_new(&f, 0, 32);
	CHECK_EQ(fe_ring_send(&f, 0, 0), 0);
	CHECK(!sl_queue_running(b.dev, 0));
	CHECK(fe_echo(&f, 1));
	/* but does with a region that covers it */
	close(fd);
	want.queue_size = 32;
	REQUIRE(!fe_get(&f, VU_GET_INFLIGHT_FD, &want, sizeof(want), &m) && m.nfds == 1);
	CHECK(fe_get_base(&f, 1) != UINT32_MAX);
	CHECK_EQ(fe_set(&f, VU_SET_INFLIGHT_FD, &m.p.inflight, sizeof(want), m.fds, 1), 0);
	vu_msg_close_fds(&m);
	CHECK_EQ(count_maps(), 3); /* the old one is gone */
	CHECK(fe_echo(&f, 0));
	down();
}

/* A back-end that ends with requests unfinished; the next one finishes each of them once. */
static void inflight_resume(bool packed)
{
	struct vu_inflight want = {.num_queues = BED_QUEUES, .queue_size = 16}, region;
	struct bed first, second;
	struct vu_msg m;
	uint8_t *data[6], *done;
	unsigned int seen[6] = {0};
	int fd;

	/* The first one keeps its requests for good: seen from the ring it is as good as killed. */
	bed_open(&first, false);
	fe_connect(&f, &first);
	fe_hello(&f, FE_RING_FEATURES | BIT30 | (packed ? PACKED : 0), FE_ALL_PROTOCOL);
	CHECK_EQ(fe_set_memory(&f), 0);
	REQUIRE(!fe_get(&f, VU_GET_INFLIGHT_FD, &want, sizeof(want), &m) && m.nfds == 1);
	region = m.p.inflight;
	fd = vu_msg_take_fd(&m, 0);
	CHECK_EQ(fe_set(&f, VU_SET_INFLIGHT_FD, &region, sizeof(region), &fd, 1), 0);
	fe_ring_up(&f, 0, 16);
	CHECK(fe_echo(&f, 0));
	first.hold = true;
	for (int i = 0; i < 3; i++)
		data[i] = fe_offer(&f, 0, 256);
	CHECK(bed_wait(&first, &first.served, 4));
	for (int i = 3; i < 6; i++)
		data[i] = fe_offer_quietly(&f, 0, 256); /* never seen by the first one */

	bed_open(&second, false);
	{
		struct fe again = f;
		struct sockaddr_un sun = {.sun_family = AF_UNIX};

		strcpy(sun.sun_path, second.path);
		again.b = &second;
		again.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		REQUIRE(!connect(again.sock, (struct sockaddr *)&sun, sizeof(sun)));
		fe_hello(&again, f.features, f.protocol);
		CHECK_EQ(fe_set_memory(&again), 0);
		CHECK_EQ(fe_set(&again, VU_SET_INFLIGHT_FD, &region, sizeof(region), &fd, 1), 0);
		/* where the ring's used index stands, as QEMU finds it after a lost connection */
		CHECK_EQ(fe_ring_send(&again, 0, packed ? 0x80028002 : 1), 0);
		CHECK_EQ(fe_set_state(&again, VU_SET_VRING_ENABLE, 0, 1), 0);
		for (int i = 0; i < 6; i++) {
			done = fe_done(&again, 0);
			CHECK(done != NULL);
			for (int k = 0; k < 6; k++)
				seen[k] += done == data[k];
		}
		CHECK(fe_idle(&again, 0));
		CHECK_EQ(second.served, 6);
		CHECK(fe_echo(&again, 0));
		fe_hangup(&again);
		bed_run(&second);
	}
	for (int k = 0; k < 6; k++) {
		CHECK_EQ(seen[k], 1);
		CHECK(!memcmp(data[k], data[k] + 0x1000, 256));
	}
	close(fd);
	bed_close(&second);
	bed_release(&first);
	fe_close(&f);
	bed_close(&first);
}

static void inflight_resume_split(void)
{
	inflight_resume(false);
}

static void inflight_resume_packed(void)
{
	inflight_resume(true);
}

static const struct t_case cases[] = {
	{"memory_slots", memory_slots},
	{"many_slots", many_slots},
	{"rem_mem_reg_in_flight", rem_mem_reg_in_flight},
	{"rem_mem_reg_in_flight_threaded", rem_mem_reg_in_flight_threaded},
	{"set_mem_table_in_flight", set_mem_table_in_flight},
	{"ring_addresses_follow_the_table", ring_addresses_follow_the_table},
	{"dirty_log_replaced", dirty_log_replaced},
	{"dirty_log_split", dirty_log_split},
	{"dirty_log_packed", dirty_log_packed},
	{"dirty_log_threaded", dirty_log_threaded},
	{"inflight_region", inflight_region},
	{"inflight_resume_split", inflight_resume_split},
	{"inflight_resume_packed", inflight_resume_packed},
};

T_MAIN(cases)
