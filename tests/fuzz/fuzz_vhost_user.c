/* SPDX-License-Identifier: MIT */
/* fuzz_vhost_user.c - a front-end made of fuzz input against the vhost-user server
 *
 * SOURCES: tests/vhost/bed.c src/base src/memory src/ring src/virtio src/vhost src/transport
 *
 * The input is a little program: messages (as they should be, with one thing
 * changed, or raw bytes), descriptors of all sorts with them, bytes for guest
 * memory, kicks, turns of the loop, requests held and released, hang-ups.
 * Meanwhile a second thread keeps rewriting the rings and the inflight region
 * (not with FUZZ_QUIET=1 in the environment, which makes a run repeatable).
 *
 * Oracles, beside the sanitizers: a turn of the loop ends; when the front-end
 * has gone and held requests are released, the server is ready for the next
 * one within a bounded number of turns, no descriptor is left and the held
 * list is empty.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <sluice/log.h>

#include "vhost/bed.h"

#define STEPS 20000 /* turns that a drain may take */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct bed b;
static struct guest g;
static int some_fds[4]; /* memory, an eventfd, a socket, a file that cannot be waited on */
static int inflight_fd;
static uint8_t *inflight;

#define INFLIGHT_SIZE 0x10000

/* ---- input ---- */

struct input {
	const uint8_t *p, *end;
};

static uint8_t byte(struct input *in)
{
	return in->p < in->end ? *in->p++ : 0;
}

static uint64_t number(struct input *in)
{
	static const uint64_t known[] = {
		0, 1, 2, 8, 16, 255, 256, 257, 4096, 0x8000, 0xffff, 0x10000, 0x40000000, 0x80008000, 0xffffffff,
		0x7f1234000000, 1ULL << 63, UINT64_MAX, UINT64_MAX - 4095, GUEST_SIZE,
	};
	uint8_t how = byte(in);
	uint64_t n = 0;

	if (how < 200)
		return known[how % (sizeof(known) / sizeof(known[0]))];
	for (int i = 0; i < how % 9; i++)
		n = n << 8 | byte(in);
	return n;
}

/* ---- the thread that rewrites memory ---- */

static void *rewrite(void *arg)
{
	uint32_t x = 1;

	(void)arg;
	for (;;) {
		for (int i = 0; i < 32; i++) {
			uint32_t at;

			x = x * 1664525 + 1013904223;
			/* the first bytes of a ring most of all */
			at = (x >> 8) % (x & 64 ? 0x40 : 0x1800);
			__atomic_store_n(g.mem + GUEST_RING(x >> 31) + at, (uint8_t)(x >> 16), __ATOMIC_RELAXED);
			__atomic_store_n(inflight + (x >> 12) % INFLIGHT_SIZE, (uint8_t)(x >> 3), __ATOMIC_RELAXED);
		}
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	}
	return NULL;
}

static void silent(void *arg, enum sl_log_level level, const char *line)
{
	(void)arg;
	(void)level;
	(void)line;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	pthread_t t;
	int sv[2];

	(void)argc;
	(void)argv;
	sl_log_to(silent, NULL, SL_LOG_DEBUG);
	signal(SIGPIPE, SIG_IGN);
	/* As every server does: /dev/zero, mapped at an offset, has pages that cannot be touched. */
	if (sl_mem_guard())
		abort();
	guest_open(&g);
	inflight_fd = memfd_create("inflight", MFD_CLOEXEC);
	if (inflight_fd < 0 || ftruncate(inflight_fd, INFLIGHT_SIZE) || socketpair(AF_UNIX, SOCK_STREAM, 0, sv))
		abort();
	inflight = mmap(NULL, INFLIGHT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, inflight_fd, 0);
	some_fds[0] = g.fd;
	some_fds[1] = eventfd(0, EFD_NONBLOCK);
	some_fds[2] = sv[0];
	some_fds[3] = open("/dev/zero", O_RDWR);
	bed_open(&b, false);
	if (!getenv("FUZZ_QUIET"))
		pthread_create(&t, NULL, rewrite, NULL);
	return 0;
}

/* ---- messages ---- */

static struct vu_vring_addr ring_addr(const struct fe *f, unsigned int i, uint16_t num)
{
	struct sl_dq_layout l;

	sl_dq_layout(f->packed, num, &l);
	return (struct vu_vring_addr){.index = i,
				      .flags = 0,
				      .desc = g.uva + GUEST_RING(i) + l.desc,
				      .avail = g.uva + GUEST_RING(i) + l.driver,
				      .used = g.uva + GUEST_RING(i) + l.device,
				      .log = g.gpa + GUEST_RING(i) + l.device};
}

/* The message as an honest front-end would send it; the number of its descriptors. */
static unsigned int honest(struct fe *f, struct input *in, uint32_t id, union vu_payload *p, uint32_t *size, int fds[8])
{
	const struct vu_message_rule *rule = vu_request_rule(id);
	uint8_t x = byte(in);
	unsigned int i = x & 1;

	memset(p, 0, sizeof(*p));
	*size = rule ? rule->min : 0;
	fds[0] = g.fd;
	switch (id) {
	case VU_SET_FEATURES:
		f->packed = x & 1;
		p->u64 = FE_RING_FEATURES | (x & 1 ? 1ULL << SL_F_RING_PACKED : 0) |
			 (x & 2 ? 0 : 1ULL << SL_F_PROTOCOL_FEATURES) | (x & 4 ? 1ULL << SL_F_LOG_ALL : 0) |
			 (x & 8 ? 1ULL << SL_F_IN_ORDER : 0);
		return 0;
	case VU_SET_PROTOCOL_FEATURES:
		p->u64 = FE_ALL_PROTOCOL | (x & 1 ? 1ULL << VU_F_INBAND_NOTIFICATIONS : 0);
		return 0;
	case VU_SET_MEM_TABLE:
		p->table.n = 1;
		p->table.region[0] = (struct vu_region){g.gpa, GUEST_SIZE, g.uva, 0};
		*size = 40;
		return 1;
	case VU_ADD_MEM_REG:
	case VU_REM_MEM_REG:
		p->reg.region = (struct vu_region){x & 1 ? 0x10000000 : g.gpa, x & 1 ? 0x1000 : GUEST_SIZE,
						   x & 1 ? 0x10000000 : g.uva, 0};
		return id == VU_ADD_MEM_REG;
	case VU_SET_LOG_BASE:
		p->log = (struct vu_log){0x10000, 0x200000};
		return 1;
	case VU_SET_VRING_NUM:
		p->state = (struct vu_vring_state){i, 8u << (x >> 1) % 4};
		return 0;
	case VU_SET_VRING_ADDR:
		p->addr = ring_addr(f, i, (uint16_t)(8u << (x >> 1) % 4));
		p->addr.flags = x >> 7;
		return 0;
	case VU_SET_VRING_BASE:
		p->state = (struct vu_vring_state){i, x & 2 ? 0 : x & 4 ? 0x80008000 : byte(in)};
		return 0;
	case VU_SET_VRING_KICK:
	case VU_SET_VRING_CALL:
	case VU_SET_VRING_ERR:
		p->u64 = i | (x & 64 ? VU_VRING_NOFD : 0);
		fds[0] = some_fds[x & 8 ? 2 : 1];
		return !(x & 64);
	case VU_SET_VRING_ENABLE:
		p->state = (struct vu_vring_state){i, !(x & 2)};
		return 0;
	case VU_SET_BACKEND_REQ_FD:
		fds[0] = some_fds[2];
		return 1;
	case VU_SET_STATUS:
		p->u64 = x & 16 ? 0 : x & 15;
		return 0;
	case VU_SET_CONFIG:
		p->config.offset = 4;
		p->config.size = 1 + (x & 1);
		*size = VU_CONFIG_HEAD + p->config.size;
		return 0;
	case VU_SET_INFLIGHT_FD:
		p->inflight = (struct vu_inflight){INFLIGHT_SIZE, 0, BED_QUEUES, 64};
		fds[0] = inflight_fd;
		return 1;
	case VU_SET_LOG_FD:
		return 1;
	default:
		p->state.index = i;
		return 0;
	}
}

static bool send_message(struct fe *f, struct input *in, uint32_t id)
{
	union vu_payload p;
	uint32_t size;
	int fds[8];
	unsigned int n = honest(f, in, id, &p, &size, fds);
	uint8_t change = byte(in);

	for (unsigned int i = n ? 1 : 0; i < 8; i++)
		fds[i] = some_fds[i % 4];
	if (change & 0xc0) { /* a quarter stays as it is */
		uint8_t where = byte(in);

		switch (change & 7) {
		case 0:
			size = (uint32_t)number(in) % (VU_MAX_PAYLOAD + 1);
			break;
		case 1:
			n = where % 9;
			break;
		case 2:
			fds[0] = some_fds[where % 4];
			break;
		case 3:
			((uint8_t *)&p)[where % 64] = byte(in);
			break;
		case 4:
			((uint32_t *)&p)[where % 16] = (uint32_t)number(in);
			break;
		default:
			((uint64_t *)&p)[where % 8] = number(in);
			break;
		}
	}
	return fe_send(f, id, change & 8 ? VU_NEED_REPLY : 0, &p, size, fds, n) == 0;
}

/* What brings an honest front-end to running rings. */
static bool bring_up(struct fe *f, struct input *in)
{
	static const uint8_t order[] = {VU_SET_PROTOCOL_FEATURES, VU_SET_FEATURES, VU_SET_MEM_TABLE, VU_SET_INFLIGHT_FD,
					VU_SET_VRING_NUM, VU_SET_VRING_ADDR, VU_SET_VRING_BASE, VU_SET_VRING_KICK,
					VU_SET_VRING_CALL, VU_SET_VRING_ENABLE};
	uint8_t skip = byte(in);

	for (unsigned int i = 0; i < sizeof(order); i++) {
		struct input none = {0};
		union vu_payload p;
		uint32_t size;
		int fds[8];
		unsigned int n;

		if (i == skip % 16)
			continue;
		n = honest(f, i == 1 ? in : &none, order[i], &p, &size, fds);
		if (fe_send(f, order[i], 0, &p, size, fds, n))
			return false;
	}
	return true;
}

/* A chain or two in the rings, mostly well formed. */
static void fill_ring(struct fe *f, struct input *in)
{
	unsigned int i = byte(in) & 1, num = 8u << (byte(in) & 3);
	uint8_t *desc = g.mem + GUEST_RING(i);
	struct sl_dq_layout l;

	sl_dq_layout(f->packed, (uint16_t)num, &l);
	for (unsigned int k = byte(in) % 8; k > 0; k--) {
		uint64_t addr = g.gpa + GUEST_DATA + (byte(in) << 8);
		uint32_t len = byte(in) & 1 ? (uint32_t)number(in) : 64;
		uint16_t flags = byte(in) & 7, next = byte(in), slot = byte(in) % num;

		if (f->packed) {
			flags |= (uint16_t)(byte(in) & 1 ? 0x80 : 0x8000);
			memcpy(desc + slot * 16, &addr, 8);
			memcpy(desc + slot * 16 + 8, &len, 4);
			memcpy(desc + slot * 16 + 12, &next, 2);
			memcpy(desc + slot * 16 + 14, &flags, 2);
		} else {
			memcpy(desc + slot * 16, &addr, 8);
			memcpy(desc + slot * 16 + 8, &len, 4);
			memcpy(desc + slot * 16 + 12, &flags, 2);
			memcpy(desc + slot * 16 + 14, &next, 2);
			memcpy(g.mem + GUEST_RING(i) + l.driver + 4 + 2 * (byte(in) % num), &slot, 2);
		}
	}
	if (!f->packed)
		g.mem[GUEST_RING(i) + l.driver + 2] = byte(in);
}

static void steps(unsigned int n)
{
	while (n-- && sl_loop_step(b.loop, 0))
		;
}

static void run(struct fe *f, struct input *in)
{
	struct vu_msg drop;
	struct vu_rx rx = {0};
	bool up = true;

	while (up && in->p < in->end) {
		uint8_t op = byte(in);

		switch (op % 16) {
		case 0:
			up = bring_up(f, in);
			break;
		case 1:
			fill_ring(f, in);
			break;
		case 2:
			eventfd_write(some_fds[1], 1);
			break;
		case 3:
			b.hold = op & 16;
			if (op & 32)
				bed_release(&b);
			break;
		case 4: {
			size_t n = byte(in), left = (size_t)(in->end - in->p);

			if (n > left)
				n = left;
			up = n == 0 || send(f->sock, in->p, n, MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
			in->p += n;
			break;
		}
		case 5:
			sl_device_config_update(b.dev, 0, &op, 1);
			break;
		case 6:
			steps(op >> 4);
			break;
		default:
			up = send_message(f, in, byte(in) % (VU_REQUEST_END + 1));
			break;
		}
		if (op & 128)
			steps(8);
		while (vu_recv(f->sock, &rx, &drop) == 1)
			vu_msg_close_fds(&drop);
	}
}

/* The lowest free descriptor: it only ever moves when one is left open or closed too often. */
static int lowest_free(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int before = lowest_free();
	unsigned int gone = b.gone;
	struct fe f = {.b = &b, .g = g, .channel = -1};

	memset(g.mem, 0, 0x20000);
	memset(inflight, 0, INFLIGHT_SIZE);
	f.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strcpy(sun.sun_path, b.path);
	if (f.sock < 0 || connect(f.sock, (struct sockaddr *)&sun, sizeof(sun)))
		abort();
	run(&f, &in);
	close(f.sock);
	steps(64);
	bed_release(&b);
	for (unsigned int i = 0; b.gone == gone; i++) {
		if (i == STEPS) {
			fprintf(stderr, "the server does not come to an end with this front-end\n");
			abort();
		}
		sl_loop_step(b.loop, 0);
	}
	if (b.held || lowest_free() != before) {
		fprintf(stderr, "something is left: %s\n", b.held ? "requests" : "descriptors");
		abort();
	}
	return 0;
}
