/* SPDX-License-Identifier: MIT */
/* hostile_test.c - front-ends that mean harm
 *
 * Each case is a bug that some vhost-user implementation had, by its number
 * in the list of historic bugs this project keeps. After each one the same
 * server has to serve an honest front-end, and neither descriptors nor
 * mappings nor heap may have grown.
 *
 * More than 800 lines: a flat list of cases, none of which knows another.
 *
 * Rows without a case: b26 (a device's trust in a request's lengths; the
 * echo device here moves bytes through cursors only, real devices have tests of
 * their own), b27 (VDUSE, not in this project; the size checks are b16), b28
 * and b32 (the front-end's side).
 */
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "bed.h"
#include "t.h"

#define BIT30 (1ULL << SL_F_PROTOCOL_FEATURES)
#define PACKED (1ULL << SL_F_RING_PACKED)

static struct bed b;
static struct fe f;
static unsigned int fds, maps;
static size_t heap;

/* ---- the frame of each case ---- */

static void honest(void)
{
	struct fe good;

	for (int packed = 0; packed < 2; packed++) {
		unsigned int gone;

		fe_up(&good, &b, packed);
		gone = b.gone; /* all that were before it */
		CHECK(fe_echo(&good, 0) && fe_echo(&good, 1));
		CHECK(fe_get_base(&good, 0) != UINT32_MAX);
		fe_close(&good);
		CHECK(bed_wait(&b, &b.gone, gone + 1));
	}
	bed_run(&b);
}

static void open_bed(bool threaded)
{
	bed_open(&b, threaded);
	honest(); /* first uses allocate */
	fds = count_fds();
	maps = count_maps();
	heap = mallinfo2().uordblks;
}

/* A hostile front-end that got as far as features; it asks for acknowledgements. */
static void attack(void)
{
	fe_connect(&f, &b);
	fe_hello(&f, FE_RING_FEATURES | BIT30, FE_ALL_PROTOCOL);
}

static void begin(void)
{
	open_bed(false);
	attack();
}

static void end(void)
{
	fe_close(&f);
	honest();
	CHECK_EQ(count_fds(), fds);
	CHECK_EQ(count_maps(), maps);
	/* Freed pieces that the allocator keeps at hand count as used; exact leaks are for the sanitizer's build. */
	CHECK(mallinfo2().uordblks <= heap + 0x8000);
	bed_close(&b);
}

/* The message is refused, by acknowledgement or by closing; then there is a connection again. */
static bool refused(uint32_t request, const void *payload, uint32_t size, const int *fd, unsigned int nfds)
{
	int ret = fe_set(&f, request, payload, size, fd, nfds);

	if (ret < 0) {
		fe_close(&f);
		attack();
	}
	return ret != 0;
}

/* Raw bytes with @count copies of a descriptor. */
static void send_with_fds(int sock, const void *bytes, size_t n, int fd, unsigned int count)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(250 * sizeof(int))];
	} control;
	struct iovec iov = {(void *)(uintptr_t)bytes, n};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf,
			    .msg_controllen = CMSG_SPACE(count * sizeof(int))};

	*CMSG_FIRSTHDR(&mh) = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
	for (unsigned int i = 0; i < count; i++)
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&mh)) + i * sizeof(int), &fd, sizeof(int));
	REQUIRE(sendmsg(sock, &mh, MSG_NOSIGNAL) == (ssize_t)n);
}

static bool refused_state(uint32_t request, uint32_t index, uint32_t num)
{
	struct vu_vring_state st = {index, num};

	return refused(request, &st, sizeof(st), NULL, 0);
}

static bool refused_region(uint64_t gpa, uint64_t size, uint64_t uva, uint64_t offset)
{
	struct vu_mem_table table = {.n = 1, .region = {{gpa, size, uva, offset}}};
	struct vu_mem_reg reg = {.region = {gpa, size, uva, offset}};

	return refused(VU_SET_MEM_TABLE, &table, 8 + sizeof(struct vu_region), &f.g.fd, 1) &&
	       refused(VU_ADD_MEM_REG, &reg, sizeof(reg), &f.g.fd, 1);
}

/* ---- memory tables ---- */

static void b01_nregions(void)
{
	struct vu_mem_table table = {0};
	uint8_t big[8 + 9 * 32] = {9};
	int many[8];

	begin();
	for (int i = 0; i < 8; i++)
		many[i] = f.g.fd;
	table.n = 9;
	CHECK(refused(VU_SET_MEM_TABLE, &table, sizeof(table), many, 8));
	for (int i = 0; i < 8; i++)
		many[i] = f.g.fd;
	CHECK(refused(VU_SET_MEM_TABLE, big, sizeof(big), many, 8));
	table.n = UINT32_MAX;
	CHECK(refused(VU_SET_MEM_TABLE, &table, sizeof(table), NULL, 0));
	CHECK(refused(VU_SET_MEM_TABLE, &table, 8, NULL, 0));
	table.n = 0x08000001; /* times 32 is 32 */
	CHECK(refused(VU_SET_MEM_TABLE, &table, 40, &f.g.fd, 1));
	end();
}

static void b02_size_plus_offset_wraps(void)
{
	begin();
	CHECK(refused_region(0, 0x100000, 0, UINT64_MAX - 0xfff));
	CHECK(refused_region(0, UINT64_MAX - 0xfff, 0, 0x1000));
	CHECK(refused_region(0, 0x8000000000000000, 0, 0x8000000000000000));
	CHECK(refused_region(UINT64_MAX - 0xfff, 0x2000, 0, 0));
	CHECK(refused_region(0, 0x2000, UINT64_MAX - 0xfff, 0));
	CHECK(refused_region(0, GUEST_SIZE, 0, 0x1000)); /* one page beyond the file */
	CHECK(refused_region(0, 0x1000, 0, GUEST_SIZE));
	end();
}

static void b03_size_rounds_to_nothing(void)
{
	begin();
	CHECK(refused_region(0, UINT64_MAX, 0, 0));
	CHECK(refused_region(0, UINT64_MAX - 4094, 0, 0));
	CHECK(refused_region(0, 0, 0, 0));
	CHECK(refused_region(0, 1, 0, UINT64_MAX));
	end();
}

static void b04_fewer_fds_than_regions(void)
{
	struct vu_mem_table table = {.n = 4};
	int two[2];

	begin();
	two[0] = two[1] = f.g.fd;
	for (unsigned int i = 0; i < 4; i++)
		table.region[i] = (struct vu_region){i * 0x10000, 0x10000, i * 0x10000, 0};
	CHECK(refused(VU_SET_MEM_TABLE, &table, sizeof(table), &f.g.fd, 1));
	CHECK(refused(VU_SET_MEM_TABLE, &table, sizeof(table), NULL, 0));
	two[0] = two[1] = f.g.fd;
	CHECK(refused(VU_SET_MEM_TABLE, &table, 8 + 32, two, 2));
	CHECK(refused(VU_SET_LOG_FD, NULL, 0, NULL, 0));
	CHECK(refused(VU_ADD_MEM_REG, &(struct vu_mem_reg){0}, sizeof(struct vu_mem_reg), NULL, 0));
	CHECK(refused(VU_SET_BACKEND_REQ_FD, NULL, 0, NULL, 0));
	end();
}

static void b05_log_offset_and_size(void)
{
	static const struct vu_log bad[] = {{0x1000, GUEST_SIZE}, {0x1000, UINT64_MAX - 0xfff}, {UINT64_MAX, 1},
					    {0, 0}, {UINT64_MAX, UINT64_MAX}, {GUEST_SIZE, 1}};

	begin();
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(refused(VU_SET_LOG_BASE, &bad[i], sizeof(bad[i]), &f.g.fd, 1));
	CHECK(refused(VU_SET_LOG_BASE, &(struct vu_log){4096, 0}, sizeof(struct vu_log), NULL, 0));
	/* a good log much too small for the memory: writes beyond it are dropped */
	CHECK_EQ(fe_set(&f, VU_SET_LOG_BASE, &(struct vu_log){1, 0x3fffff}, sizeof(struct vu_log), &f.g.fd, 1), 0);
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, FE_RING_FEATURES | BIT30 | 1ULL << SL_F_LOG_ALL), 0);
	CHECK_EQ(fe_set_memory(&f), 0);
	fe_ring_new(&f, 0, 8);
	CHECK_EQ(fe_ring_send(&f, 0, 0), 0);
	{
		struct vu_vring_addr addr = fe_ring_addr(&f, 0);

		addr.flags = VU_VRING_LOG;
		addr.log = UINT64_MAX - 1; /* wraps with the first write */
		CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
	}
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
	CHECK(fe_echo(&f, 0));
	end();
}

/* ---- descriptors ---- */

static void b06_surplus_fds(void)
{
	struct rlimit old, tight;
	int many[8];

	begin();
	REQUIRE(!getrlimit(RLIMIT_NOFILE, &old));
	tight = old;
	tight.rlim_cur = 64;
	REQUIRE(!setrlimit(RLIMIT_NOFILE, &tight));
	for (int i = 0; i < 8; i++)
		many[i] = f.g.fd;
	/* refused with an acknowledgement, so that all of them meet the same connection */
	for (int i = 0; i < 100000; i++) {
		struct vu_vring_state st = {0, 8};

		CHECK_EQ(fe_set(&f, i % 2 ? VU_SET_OWNER : VU_SET_VRING_NUM, &st, i % 2 ? 0 : sizeof(st), many, 8), 1);
		if (i % 1000 == 0)
			CHECK(count_fds() <= fds + 8);
	}
	/* more than a message may ever have: the connection ends */
	for (int i = 0; i < 1000; i++) {
		struct vu_header h = {VU_SET_OWNER, VU_VERSION | VU_NEED_REPLY, 0};

		send_with_fds(f.sock, &h, sizeof(h), f.g.fd, 9 + (unsigned int)i % 200);
		bed_run(&b);
		fe_close(&f);
		attack();
	}
	REQUIRE(!setrlimit(RLIMIT_NOFILE, &old));
	end();
}

static void b07_repeated_num(void)
{
	begin();
	for (int i = 0; i < 100000; i++)
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, (uint32_t)i % 2, 1u << i % 9), 0);
	end();
}

static void b08_index_beyond_16_bits(void)
{
	static const uint32_t requests[] = {VU_SET_VRING_NUM, VU_SET_VRING_BASE, VU_SET_VRING_ENABLE};
	struct vu_vring_addr addr = {.index = 0x10001};
	uint64_t kick = 0x10001;

	begin();
	for (int i = 0; i < 3; i++) {
		CHECK(refused_state(requests[i], 0x10001, 1));
		CHECK(refused_state(requests[i], 0x80000000, 1));
	}
	CHECK(refused(VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0));
	CHECK(refused(VU_SET_VRING_KICK, &kick, sizeof(kick), &f.g.fd, 1));
	kick = 0x100000001;
	CHECK(refused(VU_SET_VRING_CALL, &kick, sizeof(kick), &f.g.fd, 1));
	CHECK_EQ(fe_get_base(&f, 0x10001), UINT32_MAX);
	fe_close(&f);
	attack();
	end();
}

static void b09_crypto_session(void)
{
	uint8_t session[512];

	begin();
	memset(session, 0xff, sizeof(session));
	for (uint32_t size = 0; size <= sizeof(session); size += 64) {
		CHECK(refused(VU_CREATE_CRYPTO_SESSION, session, size, NULL, 0));
		CHECK(refused(VU_CLOSE_CRYPTO_SESSION, session, size, NULL, 0));
	}
	end();
}

static void b10_get_inflight_repeated(void)
{
	struct vu_inflight want = {.num_queues = BED_QUEUES, .queue_size = 256};
	struct vu_msg m;

	begin();
	for (int i = 0; i < 5000; i++) {
		REQUIRE(!fe_get(&f, VU_GET_INFLIGHT_FD, &want, sizeof(want), &m) && m.nfds == 1);
		if (i % 3 == 0)
			CHECK_EQ(fe_set(&f, VU_SET_INFLIGHT_FD, &m.p.inflight, sizeof(want), m.fds, 1), 0);
		vu_msg_close_fds(&m);
	}
	CHECK(count_fds() <= fds + 10);
	CHECK(count_maps() <= maps + 2);
	/* asked for, and gone before the answer could be sent */
	for (int i = 0; i < 500; i++) {
		fe_send(&f, VU_GET_INFLIGHT_FD, 0, &want, sizeof(want), NULL, 0);
		fe_close(&f);
		attack();
	}
	end();
}

/* Every message that takes no descriptor, with one, and every one that takes some, with one too many. */
static void b11_fds_where_none_belong(void)
{
	begin();
	for (uint32_t id = 0; id < VU_REQUEST_END + 3; id++) {
		const struct vu_message_rule *rule = vu_request_rule(id);
		uint8_t zeros[VU_MAX_PAYLOAD] = {0};
		int many[VU_MAX_FDS];
		unsigned int n = rule ? rule->max_fds + 1u : 1;

		for (int i = 0; i < VU_MAX_FDS; i++)
			many[i] = f.g.fd;
		if (n > VU_MAX_FDS)
			n = VU_MAX_FDS; /* a table of no region */
		CHECK(refused(id, zeros, rule ? rule->min : 0, many, n));
		bed_run(&b);
		CHECK(count_fds() <= fds + 5);
	}
	end();
}

/* ---- inflight regions ---- */

static void b12_inflight_num_queues(void)
{
	struct vu_inflight in = {.mmap_size = GUEST_SIZE, .num_queues = BED_QUEUES + 1, .queue_size = 16};
	struct vu_msg m;

	begin();
	CHECK(refused(VU_SET_INFLIGHT_FD, &in, sizeof(in), &f.g.fd, 1));
	CHECK(!fe_get(&f, VU_GET_INFLIGHT_FD, &in, sizeof(in), &m) && !m.p.inflight.mmap_size && !m.nfds);
	in.num_queues = 0;
	CHECK(refused(VU_SET_INFLIGHT_FD, &in, sizeof(in), &f.g.fd, 1));
	in.num_queues = UINT16_MAX;
	CHECK(refused(VU_SET_INFLIGHT_FD, &in, sizeof(in), &f.g.fd, 1));
	in.num_queues = BED_QUEUES;
	in.queue_size = BED_QUEUE_MAX + 1;
	CHECK(refused(VU_SET_INFLIGHT_FD, &in, sizeof(in), &f.g.fd, 1));
	CHECK(!fe_get(&f, VU_GET_INFLIGHT_FD, &in, sizeof(in), &m) && !m.p.inflight.mmap_size && !m.nfds);
	in.queue_size = 0;
	CHECK(refused(VU_SET_INFLIGHT_FD, &in, sizeof(in), &f.g.fd, 1));
	in.queue_size = 256;
	in.mmap_size = 4096; /* too small for these queues */
	CHECK(refused(VU_SET_INFLIGHT_FD, &in, sizeof(in), &f.g.fd, 1));
	in.mmap_size = UINT64_MAX;
	CHECK(refused(VU_SET_INFLIGHT_FD, &in, sizeof(in), &f.g.fd, 1));
	in.mmap_size = GUEST_SIZE;
	in.mmap_offset = 4096; /* beyond the file */
	CHECK(refused(VU_SET_INFLIGHT_FD, &in, sizeof(in), &f.g.fd, 1));
	in.mmap_offset = 3;
	in.mmap_size = 0x100000;
	CHECK(refused(VU_SET_INFLIGHT_FD, &in, sizeof(in), &f.g.fd, 1));
	in.mmap_offset = UINT64_MAX - 7;
	CHECK(refused(VU_SET_INFLIGHT_FD, &in, sizeof(in), &f.g.fd, 1));
	/* before any queue exists: fine, and harmless */
	in.mmap_offset = 0;
	CHECK(!refused(VU_SET_INFLIGHT_FD, &in, sizeof(in), &f.g.fd, 1));
	end();
}

/* Regions full of lies: the ring may be refused or break, nothing else. */
static void lying_region(bool packed)
{
	struct vu_inflight in = {.mmap_size = 0x10000, .num_queues = BED_QUEUES, .queue_size = 256};
	uint64_t seed = 88172645463325252;

	open_bed(false);
	for (int round = 0; round < 60; round++) {
		int fd = memfd_create("inflight", MFD_CLOEXEC);
		uint8_t *region;

		REQUIRE(fd >= 0 && !ftruncate(fd, 0x10000));
		region = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		REQUIRE(region != MAP_FAILED);
		fe_connect(&f, &b);
		fe_hello(&f, FE_RING_FEATURES | BIT30 | (packed ? PACKED : 0), FE_ALL_PROTOCOL);
		CHECK_EQ(fe_set_memory(&f), 0);
		CHECK_EQ(fe_set(&f, VU_SET_INFLIGHT_FD, &in, sizeof(in), &fd, 1), 0);
		for (size_t i = 0; i < 0x10000; i++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			region[i] = round == 0 ? 0xff : round == 1 ? 1 : (uint8_t)(seed >> 11);
		}
		/* a header that is believed, so that the rest is looked at */
		for (int q = 0; q < 2 && round % 4 != 3; q++) {
			uint16_t version = 1, num = 16;

			memcpy(region + q * 0x8000 + 8, &version, 2);
			memcpy(region + q * 0x8000 + 10, &num, 2);
			if (round % 2)
				memset(region + q * 0x8000 + 12, 0, 20);
		}
		for (unsigned int i = 0; i < BED_QUEUES; i++) {
			fe_ring_new(&f, i, 16);
			fe_ring_send(&f, i, packed ? 0x80008000 : 0);
			fe_set_state(&f, VU_SET_VRING_ENABLE, i, 1);
			fe_offer(&f, i, 64);
		}
		for (int i = 0; i < 5; i++)
			bed_run(&b);
		CHECK(fe_alive(&f));
		for (unsigned int i = 0; i < BED_QUEUES; i++)
			CHECK(fe_get_base(&f, i) != UINT32_MAX || packed);
		munmap(region, 0x10000);
		close(fd);
		fe_close(&f);
	}
	end();
}

static void b13_inflight_lies_split(void)
{
	lying_region(false);
}

static void b14_inflight_lies_packed(void)
{
	lying_region(true);
}

/* ---- rings ---- */

static void b15_index_beyond_the_queues(void)
{
	static const uint32_t states[] = {VU_SET_VRING_NUM, VU_SET_VRING_BASE, VU_SET_VRING_ENABLE};
	static const uint32_t with_fd[] = {VU_SET_VRING_KICK, VU_SET_VRING_CALL, VU_SET_VRING_ERR};

	begin();
	for (uint32_t index = BED_QUEUES; index < 256; index += 127) {
		struct vu_vring_addr addr = {.index = index};
		uint64_t value = index;

		for (int i = 0; i < 3; i++) {
			CHECK(refused_state(states[i], index, 1));
			CHECK(refused(with_fd[i], &value, sizeof(value), &f.g.fd, 1));
		}
		CHECK(refused(VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0));
		CHECK_EQ(fe_get_base(&f, index), UINT32_MAX);
		fe_close(&f);
		attack();
	}
	CHECK(refused_state(VU_SET_VRING_NUM, UINT32_MAX, 1));
	end();
}

static void b16_bad_sizes(void)
{
	static const uint32_t bad[] = {0, 3, 257, 512, 32769, 65536, 65536 + 16, 0x80000000, UINT32_MAX};

	begin();
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(refused_state(VU_SET_VRING_NUM, 0, bad[i]));
	/* packed: any size up to the device's */
	fe_close(&f);
	fe_connect(&f, &b);
	fe_hello(&f, FE_RING_FEATURES | BIT30 | PACKED, FE_ALL_PROTOCOL);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, 0, 3), 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, 0, 257), 1);
	/* before the features are known 3 may be right; it does not start as a split ring */
	fe_close(&f);
	fe_connect(&f, &b);
	fe_set_u64(&f, VU_SET_PROTOCOL_FEATURES, FE_ALL_PROTOCOL);
	f.ack = true;
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, 0, 3), 0);
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, FE_RING_FEATURES), 0);
	CHECK_EQ(fe_set_memory(&f), 0);
	fe_ring_new(&f, 0, 4);
	{
		struct vu_vring_addr addr = fe_ring_addr(&f, 0);

		CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
	}
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, 0, f.ring[0].kick), 0);
	CHECK(!sl_queue_running(b.dev, 0));
	/* a split base has 16 bits */
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, 0, 4), 0);
	CHECK(sl_queue_running(b.dev, 0));
	fe_get_base(&f, 0);
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_BASE, 0, 0x10000), 0);
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, 0, f.ring[0].kick), 0);
	CHECK(!sl_queue_running(b.dev, 0));
	end();
}

static void b17_cut_header_with_fds(void)
{
	struct vu_header h = {VU_SET_MEM_TABLE, VU_VERSION, 40};

	begin();
	for (size_t n = 1; n < sizeof(h); n++) {
		send_with_fds(f.sock, &h, n, f.g.fd, 1 + (unsigned int)n % 8);
		bed_run(&b);
		fe_close(&f);
		attack();
	}
	/* cut in the payload */
	send_with_fds(f.sock, &h, sizeof(h), f.g.fd, 8);
	REQUIRE(send(f.sock, &h, 5, MSG_NOSIGNAL) == 5);
	bed_run(&b);
	end();
}

static void b18_truncated_control_data(void)
{
	struct vu_header h = {VU_SET_OWNER, VU_VERSION, 0};

	begin();
	for (unsigned int n = 9; n <= 250; n += 27) {
		send_with_fds(f.sock, &h, sizeof(h), f.g.fd, n);
		CHECK(!fe_alive(&f));
		fe_close(&f);
		attack();
	}
	/* descriptors hidden at a payload's byte, where nobody offers room for them */
	h = (struct vu_header){VU_SET_FEATURES, VU_VERSION, 8};
	REQUIRE(send(f.sock, &h, sizeof(h), 0) == sizeof(h));
	bed_run(&b);
	send_with_fds(f.sock, "\0\0\0\0\0\0\0", 8, f.g.fd, 8);
	CHECK(!fe_alive(&f));
	end();
}

static void b19_bad_table_with_good_fds(void)
{
	struct vu_mem_table table = {.n = 3};
	int three[3];

	begin();
	for (int round = 0; round < 500; round++) {
		for (int i = 0; i < 3; i++) {
			three[i] = f.g.fd;
			table.region[i] = (struct vu_region){(uint64_t)i * 0x10000, 0x10000, (uint64_t)i * 0x10000, 0};
		}
		if (round % 3 == 0)
			table.region[2].gpa = 0xffff; /* overlap */
		else if (round % 3 == 1)
			table.region[1].mmap_offset = GUEST_SIZE; /* outside the file */
		else
			three[2] = f.sock; /* cannot be mapped */
		CHECK(refused(VU_SET_MEM_TABLE, &table, 8 + 3 * sizeof(struct vu_region), three, 3));
	}
	CHECK(count_maps() <= maps + 1);
	/* what was there before is still there */
	CHECK_EQ(fe_set_memory(&f), 0);
	fe_ring_up(&f, 0, 8);
	for (int i = 0; i < 3; i++)
		three[i] = f.g.fd;
	table.region[2] = table.region[0];
	CHECK_EQ(fe_set(&f, VU_SET_MEM_TABLE, &table, 8 + 3 * sizeof(struct vu_region), three, 3), 1);
	CHECK(fe_echo(&f, 0));
	end();
}

/* The ring's last byte in another region, or nowhere. */
static void b20_half_mapped_ring(void)
{
	begin();
	for (int part = 0; part < 3; part++) {
		struct vu_mem_table table = {.n = 1};
		struct vu_vring_addr addr;
		int two[2];

		fe_ring_new(&f, 0, 256); /* a descriptor table of exactly 4096 bytes */
		addr = fe_ring_addr(&f, 0);
		*(part == 0 ? &addr.desc : part == 1 ? &addr.avail : &addr.used) = f.g.uva + 0x20000 - 512;
		table.region[0] = (struct vu_region){f.g.gpa, 0x20000, f.g.uva, 0};
		CHECK_EQ(fe_set(&f, VU_SET_MEM_TABLE, &table, 40, &f.g.fd, 1), 0);
		CHECK_EQ(fe_ring_send(&f, 0, 0), 0);
		CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
		CHECK(!sl_queue_running(b.dev, 0));
		/* the rest in a region next to it, but elsewhere in this process */
		table.n = 2;
		table.region[1] = (struct vu_region){f.g.gpa + 0x20000, 0x1000, f.g.uva + 0x20000, 0x300000};
		two[0] = two[1] = f.g.fd;
		CHECK_EQ(fe_set(&f, VU_SET_MEM_TABLE, &table, 8 + 64, two, 2), 0);
		CHECK(!sl_queue_running(b.dev, 0));
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 0), 0);
	}
	end();
}

/* ---- the worker runs while everything is changed under it ---- */

struct flood {
	struct fe *fe;
	atomic_bool stop;
};

static void *flood(void *arg)
{
	struct flood *x = arg;

	/* Only kicks: the ring itself belongs to the other thread. */
	while (!x->stop) {
		eventfd_write(x->fe->ring[0].kick, 1);
		usleep(50);
	}
	return NULL;
}

static void b21_changes_under_a_running_worker(void)
{
	struct flood x = {.fe = &f};
	struct vu_mem_reg reg;
	pthread_t t;

	open_bed(true);
	attack();
	CHECK_EQ(fe_set_memory(&f), 0);
	fe_ring_up(&f, 0, 16);
	fe_ring_up(&f, 1, 16);
	REQUIRE(!pthread_create(&t, NULL, flood, &x));
	for (int i = 0; i < 300; i++) {
		struct vu_vring_addr addr = fe_ring_addr(&f, 0), other = addr;

		CHECK(fe_offer(&f, 0, 64) != NULL);
		other.desc += 0x1000;
		CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &other, sizeof(other), NULL, 0), 1);
		CHECK_EQ(fe_set_memory(&f), 0);
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_NUM, 0, 8), 1);
		reg = (struct vu_mem_reg){.region = {0x10000000, 0x1000, 0x10000000, 0}};
		CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &reg, sizeof(reg), &f.g.fd, 1), 0);
		CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, 0, i % 2 ? f.ring[0].call : -1), 0);
		CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, 0, f.ring[0].kick), 0);
		CHECK_EQ(fe_set(&f, VU_REM_MEM_REG, &reg, sizeof(reg), NULL, 0), 0);
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 0), 0);
		CHECK_EQ(fe_set(&f, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
		CHECK(fe_done(&f, 0) != NULL);
		CHECK(fe_echo(&f, 1));
	}
	x.stop = true;
	pthread_join(t, NULL);
	end();
}

/* There is no IOTLB here; the messages about it are not known. */
static void b22_iotlb(void)
{
	uint8_t iotlb[32] = {0};

	begin();
	CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, FE_RING_FEATURES | 1ULL << SL_F_ACCESS_PLATFORM), 1);
	for (uint8_t type = 0; type < 6; type++) {
		iotlb[25] = type;
		CHECK(refused(VU_IOTLB_MSG, iotlb, 26, NULL, 0));
		CHECK(refused(VU_IOTLB_MSG, iotlb, 32, NULL, 0));
	}
	end();
}

static void b23_more_than_1023_fds(void)
{
	struct rlimit old, wide;
	static int many[1100];

	REQUIRE(!getrlimit(RLIMIT_NOFILE, &old));
	wide = old;
	wide.rlim_cur = 2048;
	if (old.rlim_max < 2048 || setrlimit(RLIMIT_NOFILE, &wide))
		SKIP("no more than 1024 descriptors are allowed here");
	open_bed(false);
	for (int i = 0; i < 1100; i++)
		REQUIRE((many[i] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0);
	fe_up(&f, &b, false);
	CHECK(f.sock > 1023);
	CHECK(fe_echo(&f, 0) && fe_echo(&f, 1));
	for (int i = 0; i < 1100; i++)
		close(many[i]);
	REQUIRE(!setrlimit(RLIMIT_NOFILE, &old));
	end();
}

static void b24_kick_and_its_flag(void)
{
	uint64_t value;

	begin();
	for (uint32_t id = VU_SET_VRING_KICK; id <= VU_SET_VRING_ERR; id++) {
		value = 0;
		CHECK(refused(id, &value, sizeof(value), NULL, 0));
		value = VU_VRING_NOFD;
		CHECK(refused(id, &value, sizeof(value), &f.g.fd, 1));
		CHECK(!refused(id, &value, sizeof(value), NULL, 0));
	}
	/* descriptors that are nothing to wait on or to write to */
	CHECK_EQ(fe_set_memory(&f), 0);
	fe_ring_up(&f, 0, 8);
	fe_ring_up(&f, 1, 8);
	CHECK(fe_echo(&f, 0));
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_KICK, 0, f.g.fd), 0);
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, 1, f.g.fd), 0);
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_ERR, 0, f.g.fd), 0);
	bed_run(&b);
	CHECK(fe_alive(&f));
	CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, 1, f.ring[1].call), 0);
	CHECK(fe_echo(&f, 1));
	CHECK(fe_get_base(&f, 0) != UINT32_MAX);
	fe_ring_up(&f, 0, 8);
	CHECK(fe_echo(&f, 0));
	end();
}

/* Refusals while something is pending, and the end of the server in the middle of it: nobody waits for ever. */
static void b25_errors_do_not_deadlock(void)
{
	struct vu_vring_state st = {0, 0};
	struct vu_msg m;

	begin();
	CHECK_EQ(fe_set_memory(&f), 0);
	fe_ring_up(&f, 0, 8);
	b.hold = true;
	fe_offer(&f, 0, 64);
	b.served = 0;
	CHECK(bed_wait(&b, &b.served, 1));
	fe_send(&f, VU_GET_VRING_BASE, 0, &st, sizeof(st), NULL, 0);
	for (int i = 0; i < 50; i++) {
		fe_send(&f, VU_SET_VRING_NUM, VU_NEED_REPLY, "\xff\xff\xff\xff\0\0\0", 8, NULL, 0);
		fe_send(&f, VU_SET_MEM_TABLE, VU_NEED_REPLY, "\1\0\0\0\0\0\0", 8, &f.g.fd, 1);
		fe_send(&f, VU_REM_MEM_REG, VU_NEED_REPLY, &(struct vu_mem_reg){0}, sizeof(struct vu_mem_reg), NULL, 0);
	}
	bed_run(&b);
	bed_release(&b);
	CHECK_EQ(fe_recv(&f, &m), 0);
	CHECK_EQ(m.h.request, VU_GET_VRING_BASE);
	for (int i = 0; i < 150; i++) {
		CHECK_EQ(fe_recv(&f, &m), 0);
		CHECK_EQ(m.p.u64, 1);
	}
	CHECK(fe_alive(&f));
	/* a refusal that closes, with more messages behind it */
	for (int i = 0; i < 20; i++)
		fe_send(&f, i ? VU_GET_FEATURES : VU_SET_OWNER, i ? 0 : VU_REPLY, NULL, 0, NULL, 0);
	CHECK(!fe_alive(&f));
	end();
}

/* The firmware drives the queue; the operating system resets it and programs it anew, over and over. */
static void b29_reset_and_program_again(void)
{
	open_bed(true);
	attack();
	CHECK_EQ(fe_set_memory(&f), 0);
	for (int i = 0; i < 100; i++) {
		bool packed = i & 4;

		f.packed = packed;
		f.features = FE_RING_FEATURES | BIT30 | (packed ? PACKED : 0);
		CHECK_EQ(fe_set_u64(&f, VU_SET_FEATURES, f.features), 0);
		for (unsigned int q = 0; q < BED_QUEUES; q++) {
			fe_ring_up(&f, q, (uint16_t)(8 << i % 4));
			CHECK(fe_echo(&f, q));
			fe_offer(&f, q, 64); /* still on its way */
		}
		if (i % 3 == 0)
			CHECK_EQ(fe_set_u64(&f, VU_SET_STATUS, 0), 0);
		else if (i % 3 == 1)
			CHECK_EQ(fe_set(&f, VU_RESET_DEVICE, NULL, 0, NULL, 0), 0);
		else
			CHECK(fe_get_base(&f, 0) != UINT32_MAX && fe_get_base(&f, 1) != UINT32_MAX);
	}
	end();
}

/* Ten front-ends at once: one is served, the others wait their turn. */
static void b30_many_at_once(void)
{
	struct fe all[10];

	open_bed(true);
	for (int i = 0; i < 10; i++)
		fe_connect(&all[i], &b);
	bed_run(&b);
	for (int i = 0; i < 10; i++) {
		fe_hello(&all[i], FE_RING_FEATURES | BIT30, FE_ALL_PROTOCOL);
		CHECK_EQ(fe_set_memory(&all[i]), 0);
		fe_ring_up(&all[i], 0, 8);
		for (int k = 0; k < 20; k++)
			CHECK(fe_echo(&all[i], 0));
		fe_offer(&all[i], 0, 64); /* goes in the middle of its work */
		fe_close(&all[i]);
	}
	fe_connect(&f, &b);
	end();
}

/* Without an inflight region a restarted back-end does what the base says: it never skips on its own. */
static void b31_base_is_obeyed(void)
{
	begin();
	CHECK_EQ(fe_set_memory(&f), 0);
	fe_ring_new(&f, 0, 8);
	for (int i = 0; i < 3; i++)
		fe_offer_quietly(&f, 0, 64);
	CHECK_EQ(fe_ring_send(&f, 0, 0), 0); /* the used index, not the available one */
	CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
	for (int i = 0; i < 3; i++)
		CHECK(fe_done(&f, 0) != NULL);
	CHECK(fe_idle(&f, 0));
	end();
}

/* The daemon is restarted while the driver uses the device. */
static void b33_restart_while_started(void)
{
	open_bed(false);
	fe_up(&f, &b, false);
	for (int life = 0; life < 20; life++) {
		struct sockaddr_un sun = {.sun_family = AF_UNIX};

		for (int i = 0; i < 5; i++)
			CHECK(fe_echo(&f, 0));
		bed_unserve(&b);
		fe_offer_quietly(&f, 0, 64); /* while nobody is there */
		bed_serve(&b);
		fe_hangup(&f);
		strcpy(sun.sun_path, b.path);
		f.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		REQUIRE(!connect(f.sock, (struct sockaddr *)&sun, sizeof(sun)));
		fe_hello(&f, f.features, f.protocol);
		CHECK_EQ(fe_set_memory(&f), 0);
		CHECK_EQ(fe_ring_send(&f, 0, (uint32_t)(6 * life + 5)), 0);
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
		CHECK(fe_done(&f, 0) != NULL);
	}
	end();
}

/* The functions a transport calls, with an index that is out of range. */
static void b34_api_index(void)
{
	struct sl_queue_setup setup = {.vq = {.num = 8}, .kick_fd = -1, .call_fd = -1};
	struct sl_queue_stats stats;
	struct sl_err err = {0};
	struct sl_mem *mem = sl_mem_new(NULL, 0, &err);
	static const unsigned int bad[] = {BED_QUEUES, 0x10000, 0x7fffffff, UINT32_MAX};

	begin();
	for (int i = 0; i < 4; i++) {
		CHECK(sl_queue_start(b.dev, bad[i], &setup, mem, &err) < 0);
		sl_queue_stop(b.dev, bad[i]);
		sl_queue_kick(b.dev, bad[i]);
		sl_queue_set_call(b.dev, bad[i], -1);
		sl_queue_set_kick(b.dev, bad[i], -1);
		sl_queue_set_log(b.dev, bad[i], NULL, false, 0);
		sl_queue_stats(b.dev, bad[i], &stats);
		CHECK(!sl_queue_running(b.dev, bad[i]));
		CHECK_EQ(stats.requests, 0);
	}
	sl_mem_put(mem);
	end();
}

static void b35_overlaps_and_sizes(void)
{
	static const uint32_t sizes[] = {1, 7, 9, 4097, VU_MAX_PAYLOAD, VU_MAX_PAYLOAD + 1, 0x7fffffff, UINT32_MAX};
	struct vu_mem_reg reg;
	struct vu_mem_table table = {.n = 2};
	int two[2];

	begin();
	two[0] = two[1] = f.g.fd;
	table.region[0] = (struct vu_region){0, 0x10000, 0, 0};
	table.region[1] = (struct vu_region){0xffff, 0x10000, 0x10000, 0};
	CHECK(refused(VU_SET_MEM_TABLE, &table, 8 + 64, two, 2));
	CHECK_EQ(fe_set_memory(&f), 0);
	reg = (struct vu_mem_reg){.region = {f.g.gpa, GUEST_SIZE, f.g.uva, 0}};
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &reg, sizeof(reg), &f.g.fd, 1), 1);
	reg.region.gpa += GUEST_SIZE - 1;
	CHECK_EQ(fe_set(&f, VU_ADD_MEM_REG, &reg, sizeof(reg), &f.g.fd, 1), 1);
	CHECK_EQ(fe_set(&f, VU_REM_MEM_REG, &reg, sizeof(reg), NULL, 0), 1);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct vu_header h = {VU_SET_FEATURES, VU_VERSION | VU_NEED_REPLY, sizes[i]};
		uint8_t zeros[4096] = {0};

		send(f.sock, &h, sizeof(h), MSG_NOSIGNAL);
		for (uint32_t left = sizes[i] > 5000 ? 5000 : sizes[i]; left;) {
			uint32_t n = left < sizeof(zeros) ? left : sizeof(zeros);

			send(f.sock, zeros, n, MSG_NOSIGNAL);
			bed_run(&b);
			left -= n;
		}
		fe_close(&f);
		attack();
	}
	end();
}

/* Memory that shrinks while it is mapped harms nobody but its owner. */
static void truncated_memory(void)
{
	CHECK_EQ(sl_mem_guard(), 0);
	open_bed(true);
	fe_up(&f, &b, false);
	CHECK(fe_echo(&f, 0));
	munmap(f.g.mem, GUEST_SIZE); /* this process is also the front-end */
	f.g.mem = NULL;
	REQUIRE(!ftruncate(f.g.fd, 0));
	eventfd_write(f.ring[0].kick, 1);
	for (int i = 0; i < 20; i++)
		sl_loop_step(b.loop, 1);
	CHECK(fe_alive(&f));
	end();
}

/* Call and error descriptors that block when they are written to stop nobody. */
static void full_descriptors(void)
{
	int full = eventfd(0, EFD_CLOEXEC);

	REQUIRE(full >= 0 && !eventfd_write(full, UINT64_MAX - 1));
	for (int packed = 0; packed < 2; packed++) {
		open_bed(false);
		fe_up(&f, &b, packed);
		/* the control loop calls when a ring gets a call descriptor at last */
		CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, 0, -1), 0);
		CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_CALL, 0, full), 0);
		CHECK(fe_alive(&f));
		/* and reports a ring that breaks */
		CHECK_EQ(fe_set_fd(&f, VU_SET_VRING_ERR, 1, full), 0);
		memset(f.g.mem + GUEST_RING(1), 0xff, 0x1000);
		eventfd_write(f.ring[1].kick, 1);
		bed_run(&b);
		CHECK(fe_alive(&f));
		end();
	}
	close(full);
}

/* A call descriptor that looked harmless, and blocks when it is too late to look again. */
static void call_that_turns(bool threaded)
{
	static const uint64_t full = UINT64_MAX - 1;

	for (int packed = 0; packed < 2; packed++) {
		open_bed(threaded);
		fe_up(&f, &b, packed);
		for (unsigned int i = 0; i < BED_QUEUES; i++) {
			uint64_t n;

			CHECK(fe_echo(&f, i));
			CHECK(read(f.ring[i].call, &n, sizeof(n)) == sizeof(n)); /* it does call */
			REQUIRE(!eventfd_write(f.ring[i].call, full));
			REQUIRE(!fcntl(f.ring[i].call, F_SETFL, 0));
		}
		for (int i = 0; i < 100; i++)
			CHECK(fe_echo(&f, 0) && fe_echo(&f, 1));
		CHECK(fe_alive(&f));
		end();
	}
}

static void call_that_turns_stepped(void)
{
	call_that_turns(false);
}

static void call_that_turns_threaded(void)
{
	call_that_turns(true);
}

/* ---- noise ---- */

static uint64_t seed = 0x9e3779b97f4a7c15;

static uint32_t any(uint32_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 33) % below;
}

static uint64_t interesting(void)
{
	static const uint64_t values[] = {
		0, 1, 2, 3, 7, 8, 15, 16, 64, 255, 256, 257, 4095, 4096, 0x8000, 0xffff, 0x10000, 0x10001, 0x40000000,
		0x80008000, 0xffffffff, 0x100000000, 0x7f1234000000, 1ULL << 63, UINT64_MAX, UINT64_MAX - 4095,
		FE_ALL_PROTOCOL, FE_RING_FEATURES, BIT30, FE_RING_FEATURES | PACKED, GUEST_SIZE,
	};

	return values[any(sizeof(values) / sizeof(values[0]))];
}

/* Messages that are nearly right, in any order, with any descriptors. */
static void nearly_right_messages(void)
{
	open_bed(false);
	for (int round = 0; round < 300; round++) {
		struct vu_msg drop;
		struct vu_rx rx = {0};

		if (any(4))
			fe_up(&f, &b, any(2));
		else
			fe_connect(&f, &b);
		for (int i = 0; i < 60; i++) {
			uint32_t id = any(VU_REQUEST_END + 1);
			const struct vu_message_rule *rule = vu_request_rule(id);
			uint32_t size = rule && any(8) ? rule->min : any(300);
			unsigned int n = rule && any(8) ? rule->min_fds : any(9);
			union vu_payload p;
			int many[8];

			if (id == VU_SET_MEM_TABLE && any(4)) {
				n = any(4);
				size = 8 + n * 32;
			}
			for (size_t k = 0; k < 40; k++)
				((uint64_t *)&p)[k] = any(3) ? interesting() : any(3);
			if (id == VU_SET_MEM_TABLE && any(4))
				p.table.n = n;
			if (id >= VU_SET_VRING_KICK && id <= VU_SET_VRING_ERR && any(4)) {
				n = any(2);
				p.u64 = any(3) | (n ? 0 : VU_VRING_NOFD);
			}
			for (unsigned int k = 0; k < n; k++)
				many[k] = any(3) || f.ring[0].kick < 0 ? f.g.fd : any(2) ? f.sock : f.ring[0].kick;
			if (fe_send(&f, id, any(3) ? VU_NEED_REPLY : 0, &p, size, many, n) < 0)
				break;
			if (any(2))
				bed_run(&b);
			while (vu_recv(f.sock, &rx, &drop) == 1)
				vu_msg_close_fds(&drop);
		}
		fe_close(&f);
		bed_run(&b);
	}
	fe_connect(&f, &b);
	end();
}

static void random_bytes(void)
{
	open_bed(false);
	for (int round = 0; round < 2000; round++) {
		uint8_t noise[64];

		fe_connect(&f, &b);
		for (size_t i = 0; i < sizeof(noise); i++)
			noise[i] = (uint8_t)any(256);
		if (any(2)) {
			noise[4] = 1 | (uint8_t)(any(2) * 8);
			memset(noise + 1, 0, 3);
			memset(noise + 5, 0, 3);
			memset(noise + 9, 0, 3);
			noise[0] &= 63;
		}
		if (any(2))
			send_with_fds(f.sock, noise, 1 + any(sizeof(noise)), f.g.fd, 1 + any(12));
		else
			send(f.sock, noise, 1 + any(sizeof(noise)), 0);
		bed_run(&b);
		fe_close(&f);
	}
	fe_connect(&f, &b);
	end();
}

static const struct t_case cases[] = {
	{"b01_nregions", b01_nregions},
	{"b02_size_plus_offset_wraps", b02_size_plus_offset_wraps},
	{"b03_size_rounds_to_nothing", b03_size_rounds_to_nothing},
	{"b04_fewer_fds_than_regions", b04_fewer_fds_than_regions},
	{"b05_log_offset_and_size", b05_log_offset_and_size},
	{"b06_surplus_fds", b06_surplus_fds},
	{"b07_repeated_num", b07_repeated_num},
	{"b08_index_beyond_16_bits", b08_index_beyond_16_bits},
	{"b09_crypto_session", b09_crypto_session},
	{"b10_get_inflight_repeated", b10_get_inflight_repeated},
	{"b11_fds_where_none_belong", b11_fds_where_none_belong},
	{"b12_inflight_num_queues", b12_inflight_num_queues},
	{"b13_inflight_lies_split", b13_inflight_lies_split},
	{"b14_inflight_lies_packed", b14_inflight_lies_packed},
	{"b15_index_beyond_the_queues", b15_index_beyond_the_queues},
	{"b16_bad_sizes", b16_bad_sizes},
	{"b17_cut_header_with_fds", b17_cut_header_with_fds},
	{"b18_truncated_control_data", b18_truncated_control_data},
	{"b19_bad_table_with_good_fds", b19_bad_table_with_good_fds},
	{"b20_half_mapped_ring", b20_half_mapped_ring},
	{"b21_changes_under_a_running_worker", b21_changes_under_a_running_worker},
	{"b22_iotlb", b22_iotlb},
	{"b23_more_than_1023_fds", b23_more_than_1023_fds},
	{"b24_kick_and_its_flag", b24_kick_and_its_flag},
	{"b25_errors_do_not_deadlock", b25_errors_do_not_deadlock},
	{"b29_reset_and_program_again", b29_reset_and_program_again},
	{"b30_many_at_once", b30_many_at_once},
	{"b31_base_is_obeyed", b31_base_is_obeyed},
	{"b33_restart_while_started", b33_restart_while_started},
	{"b34_api_index", b34_api_index},
	{"b35_overlaps_and_sizes", b35_overlaps_and_sizes},
	{"truncated_memory", truncated_memory},
	{"full_descriptors", full_descriptors},
	{"call_that_turns_stepped", call_that_turns_stepped},
	{"call_that_turns_threaded", call_that_turns_threaded},
	{"nearly_right_messages", nearly_right_messages},
	{"random_bytes", random_bytes},
};

T_MAIN(cases)
