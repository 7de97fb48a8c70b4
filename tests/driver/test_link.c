/* SPDX-License-Identifier: MIT */
/* test_link.c - the vhost-user link against back-ends that are honest, odd, hostile, gone, and back again.
 *
 * The heart is a matrix: in a conversation from connect to close, each request
 * in turn is answered in each wrong way. The link must fail at that request,
 * in bounded time, with a text that names it, be dead afterwards, and neither
 * leak nor close a descriptor that is not its own.
 */
#include "fake.h"

#include <sys/eventfd.h>
#include <sys/un.h>

#include <sluice/link.h>
#include <sluice/loop.h>

#define TIMEOUT_MS 60000 /* of an honest answer */
#define HANG_NS 90000000000ull
#define ADDR 0x700000000ull

/** struct talk - a conversation; @err and @ret of the step that failed */
struct talk {
	struct fake *fake;
	struct sl_link *link;
	struct sl_dma dma;
	struct sl_link_inflight inflight;
	struct sl_err err;
	int ret;
};

static void talk_open_impatient(struct talk *t, struct fake *fake, unsigned int timeout_ms)
{
	struct sl_link_vhost_user_config cfg = { .timeout_ms = timeout_ms };
	int pair[2];

	*t = (struct talk){ .fake = fake, .inflight.fd = -1 };
	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	REQUIRE(!sl_dma_open(&t->dma, ADDR, 65536, NULL));
	fake_start(fake, pair[1]);
	cfg.fd = pair[0];
	t->link = sl_link_vhost_user_open(&cfg, &t->err);
	t->ret = t->link ? 0 : -EIO;
}

static void talk_open(struct talk *t, struct fake *fake)
{
	talk_open_impatient(t, fake, TIMEOUT_MS);
}

static void talk_close(struct talk *t)
{
	if (t->link)
		t->link->ops->close(t->link);
	fake_join(t->fake);
	sl_dma_close(&t->dma);
	if (t->inflight.fd >= 0)
		close(t->inflight.fd);
	free(t->fake);
}

static struct sl_link_queue ring(void)
{
	return (struct sl_link_queue){ .num = 64,
				       .desc = ADDR + 0x1000,
				       .driver = ADDR + 0x2000,
				       .device = ADDR + 0x3000,
				       .base = 5,
				       .kick_fd = -1,
				       .call_fd = -1 };
}

/* Everything a driver does up to the running queue, until a step fails. */
static int talk_up(struct talk *t)
{
	struct sl_link *l = t->link;
	struct sl_link_queue q = ring();
	struct sl_features f = { 0 };
	uint8_t config[8];

	if (!t->ret)
		t->ret = l->ops->status_set(l, 0, &t->err);
	if (!t->ret)
		t->ret = l->ops->features(l, &f, &t->err);
	if (!t->ret)
		t->ret = l->ops->accept(l, &f, &t->err);
	if (!t->ret)
		t->ret = l->ops->status_set(l, 11, &t->err);
	if (!t->ret && l->ops->status_get(l, &t->err) != 11)
		t->ret = -EIO;
	if (!t->ret)
		t->ret = l->ops->config_read(l, 8, config, sizeof(config), &t->err);
	if (!t->ret)
		t->ret = l->ops->config_write(l, 3, config, 1, &t->err);
	if (!t->ret)
		t->ret = l->ops->set_memory(l, &t->dma.region, 1, &t->err);
	if (!t->ret)
		t->ret = l->ops->inflight_get(l, 1, 64, &t->inflight, &t->err);
	if (!t->ret)
		t->ret = l->ops->inflight_set(l, &t->inflight, &t->err);
	if (!t->ret)
		t->ret = l->ops->queue_start(l, 1, &q, &t->err);
	return t->ret;
}

static int talk_down(struct talk *t)
{
	uint32_t base = 0;

	if (!t->ret)
		t->ret = t->link->ops->queue_stop(t->link, 1, &base, &t->err);
	if (!t->ret)
		CHECK_EQ(base, 77);
	return t->ret;
}

static void test_honest(void)
{
	struct fake *f = fake_new();
	struct vu_region region;
	struct talk t;

	talk_open(&t, f);
	REQUIRE(t.link);
	CHECK_EQ(t.link->ops->num_queues(t.link, NULL), 4);
	CHECK_EQ(talk_up(&t), 0);
	CHECK(t.link->ops->call_fd(t.link, 1) >= 0);
	CHECK_EQ(t.link->ops->call_fd(t.link, 0), -1);
	t.link->ops->kick(t.link, 1, 0);
	CHECK_EQ(talk_down(&t), 0);
	CHECK_EQ(t.link->ops->events(t.link), 0);
	/* what was said: only what is understood is asked for, rings by our addresses, the rest by the device's */
	CHECK_EQ(f->last[VU_SET_PROTOCOL_FEATURES].p.u64 & ~(1ULL << VU_F_LOG_SHMFD | 1ULL << VU_F_PAGEFAULT),
		 f->last[VU_SET_PROTOCOL_FEATURES].p.u64);
	CHECK_EQ(f->last[VU_SET_FEATURES].p.u64, FAKE_FEATURES);
	region = f->last[VU_SET_MEM_TABLE].p.table.region[0];
	CHECK_EQ(region.gpa, ADDR);
	CHECK_EQ(region.uva, (uintptr_t)t.dma.region.hva);
	CHECK_EQ(f->last[VU_SET_VRING_ADDR].p.addr.index, 1);
	CHECK_EQ(f->last[VU_SET_VRING_ADDR].p.addr.desc, region.uva + 0x1000);
	CHECK_EQ(f->last[VU_SET_VRING_ADDR].p.addr.avail, region.uva + 0x2000);
	CHECK_EQ(f->last[VU_SET_VRING_ADDR].p.addr.used, region.uva + 0x3000);
	CHECK_EQ(f->last[VU_SET_VRING_BASE].p.state.num, 5);
	CHECK_EQ(f->seen[VU_SET_VRING_ENABLE], 1);
	CHECK_EQ(f->seen[VU_SET_VRING_NUM], 2); /* once before SET_INFLIGHT_FD, for DPDK */
	talk_close(&t);
}

static const uint32_t conversation[] = {
	VU_GET_FEATURES,    VU_GET_PROTOCOL_FEATURES, VU_GET_QUEUE_NUM,	  VU_SET_BACKEND_REQ_FD, VU_SET_OWNER,
	VU_SET_STATUS,	    VU_SET_FEATURES,	      VU_GET_STATUS,	  VU_GET_CONFIG,	 VU_SET_CONFIG,
	VU_SET_MEM_TABLE,   VU_GET_INFLIGHT_FD,	      VU_SET_VRING_NUM,	  VU_SET_INFLIGHT_FD,	 VU_SET_VRING_BASE,
	VU_SET_VRING_ADDR,  VU_SET_VRING_CALL,	      VU_SET_VRING_KICK,  VU_SET_VRING_ENABLE,	 VU_GET_VRING_BASE,
};

static bool harmless(uint32_t request, enum fake_sin sin)
{
	/* Answers of another legal size. */
	return (request == VU_GET_INFLIGHT_FD && sin == SIN_SHORT) || (request == VU_GET_CONFIG && sin == SIN_LONG);
}

/* Return: false when an honest answer came too late for @timeout_ms: no test of anything. */
static bool one_sin(uint32_t request, enum fake_sin sin, unsigned int timeout_ms)
{
	struct fake *f = fake_new();
	struct sl_features features;
	unsigned int before;
	uint64_t start;
	struct talk t;
	bool named;

	before = count_fds();
	f->request = request;
	f->sin = sin;
	start = sl_now();
	talk_open_impatient(&t, f, timeout_ms);
	talk_up(&t);
	talk_down(&t);
	if (!t.ret && !harmless(request, sin)) {
		fprintf(stderr, "request %s, sin %d: nobody minded\n", vu_request_name(request), sin);
		CHECK(t.ret);
	}
	CHECK(sl_now() - start < HANG_NS);
	named = !t.ret || strstr(t.err.text, vu_request_name(request));
	if (!named && !strstr(t.err.text, "no answer within")) {
		fprintf(stderr, "request %s, sin %d: '%s'\n", vu_request_name(request), sin, t.err.text);
		CHECK(!"the text names the request");
	}
	if (t.link && t.ret) {
		/* dead: says so without waiting for anybody */
		start = sl_now();
		CHECK(t.link->ops->features(t.link, &features, NULL) == -EPIPE);
		CHECK(t.link->ops->status_set(t.link, 15, NULL) == -EPIPE);
		CHECK(t.link->ops->events(t.link) & SL_LINK_GONE);
		CHECK(timeout_ms < TIMEOUT_MS || sl_now() - start < TIMEOUT_MS * 1000000ull);
	}
	talk_close(&t);
	CHECK_EQ(count_fds(), before);
	return named;
}

/* The sins that end by a time-out are tried with a short one first, and with longer ones on a busy machine. */
static void sin_at(uint32_t request, enum fake_sin sin)
{
	bool waits = sin == SIN_SILENT || sin == SIN_DRIP, named = false;

	for (unsigned int ms = waits ? 150 : TIMEOUT_MS; ms <= TIMEOUT_MS && !named; ms *= 4)
		named = one_sin(request, sin, ms);
	CHECK(named);
}

static void test_every_sin_at_every_request(void)
{
	for (unsigned int r = 0; r < sizeof(conversation) / sizeof(conversation[0]); r++)
		for (enum fake_sin sin = SIN_CLOSE; sin < NUM_SINS; sin++)
			sin_at(conversation[r], sin);
}

/* A refusal is an error of that request only. */
static void test_refusals(void)
{
	static const uint32_t refusable[] = {
		VU_SET_OWNER,	   VU_SET_FEATURES,  VU_SET_CONFIG,	VU_SET_MEM_TABLE,
		VU_SET_VRING_ADDR, VU_SET_VRING_NUM, VU_SET_VRING_KICK, VU_SET_INFLIGHT_FD
	};

	for (unsigned int i = 0; i < sizeof(refusable) / sizeof(refusable[0]); i++) {
		unsigned int before = count_fds();
		struct fake *f = fake_new();
		struct sl_features features;
		struct talk t;

		f->request = refusable[i];
		f->sin = SIN_REFUSE;
		talk_open(&t, f);
		talk_up(&t);
		CHECK(t.ret);
		CHECK(strstr(t.err.text, "refuses"));
		CHECK(strstr(t.err.text, vu_request_name(refusable[i])));
		if (t.link) {
			CHECK_EQ(t.ret, -EREMOTEIO);
			CHECK_EQ(t.link->ops->features(t.link, &features, NULL), 0);
			CHECK_EQ(t.link->ops->call_fd(t.link, 1), -1);
		}
		talk_close(&t);
		CHECK_EQ(count_fds(), before);
	}
}

/* ---- answers that are well formed and lie ---- */

static void config_size_lies(struct fake *f, struct vu_msg *r)
{
	(void)f;
	r->p.config.size = 4096;
}

static void config_offset_lies(struct fake *f, struct vu_msg *r)
{
	(void)f;
	r->p.config.offset = 4;
}

static void config_refused(struct fake *f, struct vu_msg *r)
{
	(void)f;
	r->h.size = 0;
}

static void config_short(struct fake *f, struct vu_msg *r)
{
	(void)f;
	r->p.config.size = 10;
	r->h.size = VU_CONFIG_HEAD + 10;
}

static void base_of_other_queue(struct fake *f, struct vu_msg *r)
{
	(void)f;
	r->p.state.index = 0;
}

static void no_queues(struct fake *f, struct vu_msg *r)
{
	(void)f;
	r->p.u64 = 0;
}

static void status_too_wide(struct fake *f, struct vu_msg *r)
{
	(void)f;
	r->p.u64 = 0x10b;
}

static void inflight_without_fd(struct fake *f, struct vu_msg *r)
{
	(void)f;
	vu_msg_close_fds(r);
}

static void inflight_of_nothing(struct fake *f, struct vu_msg *r)
{
	(void)f;
	r->p.inflight.mmap_size = 0;
}

static void test_lies(void)
{
	static const struct {
		uint32_t request;
		void (*edit)(struct fake *f, struct vu_msg *r);
		int ret; /* 0: harmless */
		bool alive;
	} lies[] = {
		{ VU_GET_CONFIG, config_size_lies, -EPROTO, false },
		{ VU_GET_CONFIG, config_offset_lies, -EPROTO, false },
		{ VU_GET_CONFIG, config_refused, -EREMOTEIO, true },
		{ VU_GET_CONFIG, config_short, 0, true },
		{ VU_GET_VRING_BASE, base_of_other_queue, -EPROTO, false },
		{ VU_GET_QUEUE_NUM, no_queues, -EIO, false },
		{ VU_GET_STATUS, status_too_wide, -EIO, false },
		{ VU_GET_INFLIGHT_FD, inflight_without_fd, -EREMOTEIO, true },
		{ VU_GET_INFLIGHT_FD, inflight_of_nothing, -EREMOTEIO, true },
	};

	for (unsigned int i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		unsigned int before = count_fds();
		struct fake *f = fake_new();
		struct sl_features features;
		struct talk t;

		f->request = lies[i].request;
		f->sin = SIN_EDIT;
		f->edit = lies[i].edit;
		talk_open(&t, f);
		talk_up(&t);
		talk_down(&t);
		if (t.ret != lies[i].ret)
			fprintf(stderr, "lie %u: %d %s\n", i, t.ret, t.err.text);
		CHECK_EQ(t.ret, lies[i].ret);
		if (t.link)
			CHECK_EQ(t.link->ops->features(t.link, &features, NULL), lies[i].alive ? 0 : -EPIPE);
		talk_close(&t);
		CHECK_EQ(count_fds(), before);
	}
}

/* Bytes beyond the end of a short configuration read as 0; the rest is what the back-end has, by offset. */
static void test_config(void)
{
	struct fake *f = fake_new();
	uint8_t got[16];
	struct talk t;

	f->request = VU_GET_CONFIG;
	f->sin = SIN_EDIT;
	f->edit = config_short;
	talk_open(&t, f);
	REQUIRE(t.link);
	memset(got, 0xee, sizeof(got));
	CHECK_EQ(t.link->ops->config_read(t.link, 4, got, 16, NULL), 0);
	CHECK_EQ(got[0], 5);
	CHECK_EQ(got[5], 10);
	CHECK_EQ(got[6], 0);
	CHECK_EQ(got[15], 0);
	CHECK_EQ(t.link->ops->config_read(t.link, 12, got, 8, NULL), 0);
	CHECK_EQ(got[0], 0);
	CHECK_EQ(t.link->ops->config_read(t.link, VU_MAX_CONFIG, got, 1, NULL), -EINVAL);
	CHECK_EQ(t.link->ops->config_read(t.link, UINT32_MAX, got, 8, NULL), -EINVAL);
	talk_close(&t);
}

/* No protocol features at all: an old back-end. */
static void test_plain(void)
{
	struct fake *f = fake_new();
	struct sl_link_queue q = ring();
	struct sl_features features;
	uint8_t config[4];
	struct talk t;

	f->features &= ~(1ULL << SL_F_PROTOCOL_FEATURES);
	talk_open(&t, f);
	REQUIRE(t.link);
	CHECK_EQ(t.link->ops->features(t.link, &features, NULL), 0);
	CHECK_EQ(t.link->ops->accept(t.link, &features, NULL), 0);
	CHECK_EQ(t.link->ops->status_set(t.link, 3, NULL), 0);
	CHECK_EQ(t.link->ops->status_get(t.link, NULL), 3);
	CHECK_EQ(t.link->ops->config_read(t.link, 0, config, 4, NULL), -ENOTSUP);
	CHECK_EQ(t.link->ops->inflight_get(t.link, 1, 64, &t.inflight, NULL), -ENOTSUP);
	CHECK_EQ(t.link->ops->set_memory(t.link, &t.dma.region, 1, NULL), 0);
	CHECK_EQ(t.link->ops->queue_start(t.link, 0, &q, NULL), 0);
	CHECK_EQ(t.link->ops->queue_stop(t.link, 0, NULL, NULL), 0);
	CHECK_EQ(f->seen[VU_SET_VRING_ENABLE], 0);
	CHECK_EQ(f->seen[VU_GET_PROTOCOL_FEATURES], 0);
	CHECK_EQ(f->last[VU_SET_FEATURES].h.flags, VU_VERSION);
	talk_close(&t);
}

/* What the caller does wrong is refused without a word to the back-end. */
static void test_caller(void)
{
	struct fake *f = fake_new();
	struct sl_features features = { .w = { 1ULL << 63 } };
	struct sl_link_queue q = ring();
	struct sl_link_region many[SL_LINK_MAX_REGIONS + 1] = { 0 };
	struct talk t;

	talk_open(&t, f);
	REQUIRE(t.link);
	CHECK_EQ(t.link->ops->accept(t.link, &features, NULL), -EINVAL);
	features = (struct sl_features){ .w = { 0, 1 } };
	CHECK_EQ(t.link->ops->accept(t.link, &features, NULL), -EINVAL);
	CHECK_EQ(t.link->ops->set_memory(t.link, many, SL_LINK_MAX_REGIONS + 1, NULL), -EINVAL);
	CHECK_EQ(t.link->ops->set_memory(t.link, many, 0, NULL), -EINVAL);
	many[0].fd = -1;
	CHECK_EQ(t.link->ops->set_memory(t.link, many, 1, NULL), -EINVAL);
	CHECK_EQ(t.link->ops->queue_stop(t.link, 0, NULL, NULL), -EINVAL);
	CHECK_EQ(t.link->ops->queue_stop(t.link, 9999, NULL, NULL), -EINVAL);
	CHECK_EQ(t.link->ops->queue_start(t.link, 4, &q, NULL), -EINVAL);
	CHECK_EQ(t.link->ops->set_memory(t.link, &t.dma.region, 1, NULL), 0);
	q.device = ADDR + 65536;
	CHECK_EQ(t.link->ops->queue_start(t.link, 0, &q, NULL), -EFAULT);
	q = ring();
	CHECK_EQ(t.link->ops->queue_start(t.link, 0, &q, NULL), 0);
	CHECK_EQ(t.link->ops->queue_start(t.link, 0, &q, NULL), -EBUSY);
	CHECK_EQ(f->seen[VU_SET_FEATURES], 0);
	CHECK_EQ(f->seen[VU_SET_MEM_TABLE], 1);
	CHECK_EQ(t.link->ops->reconnect(t.link, NULL), -ENOTSUP);
	talk_close(&t);
}

/* A caller's own eventfds are used and stay its own. */
static void test_own_eventfds(void)
{
	struct fake *f = fake_new();
	struct sl_link_queue q = ring();
	uint64_t n = 0;
	struct talk t;

	q.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q.call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	talk_open(&t, f);
	REQUIRE(t.link);
	CHECK_EQ(t.link->ops->set_memory(t.link, &t.dma.region, 1, NULL), 0);
	CHECK_EQ(t.link->ops->queue_start(t.link, 0, &q, NULL), 0);
	CHECK_EQ(t.link->ops->call_fd(t.link, 0), q.call_fd);
	t.link->ops->kick(t.link, 0, 0);
	talk_close(&t);
	CHECK_EQ(read(q.kick_fd, &n, sizeof(n)), sizeof(n));
	CHECK_EQ(n, 1);
	CHECK_EQ(close(q.kick_fd), 0);
	CHECK_EQ(close(q.call_fd), 0);
}

/* ---- the back-end's own requests ---- */

static void back_request(struct fake *f, uint32_t request, uint32_t flags, bool with_fds)
{
	struct vu_msg m;

	vu_msg_init(&m, request, 0);
	m.h.flags |= flags;
	while (with_fds && m.nfds < VU_MAX_FDS)
		m.fds[m.nfds++] = f->back;
	CHECK_EQ(vu_send_wait(f->back, &m, TIMEOUT_MS), 0);
}

static void ask_before_answer(struct fake *f, struct vu_msg *r)
{
	struct vu_msg ack;

	(void)r;
	back_request(f, VU_BACKEND_CONFIG_CHANGE_MSG, VU_NEED_REPLY, false);
	CHECK_EQ(vu_recv_wait(f->back, &ack, TIMEOUT_MS), 0);
	CHECK_EQ(ack.p.u64, 0);
	CHECK_EQ(ack.h.flags, VU_VERSION | VU_REPLY);
}

/* The back-end answers only after we answered it. */
static void test_crossing_requests(void)
{
	struct fake *f = fake_new();
	struct talk t;
	uint8_t config[4];

	f->request = VU_GET_CONFIG;
	f->sin = SIN_EDIT;
	f->edit = ask_before_answer;
	talk_open(&t, f);
	REQUIRE(t.link);
	CHECK_EQ(t.link->ops->config_read(t.link, 0, config, 4, &t.err), 0);
	CHECK_EQ(t.link->ops->events(t.link), SL_LINK_CONFIG);
	CHECK_EQ(t.link->ops->events(t.link), 0);
	talk_close(&t);
}

static bool readable(int fd)
{
	fd_set set;
	struct timeval none = { 0 };

	FD_ZERO(&set);
	FD_SET(fd, &set);
	return select(fd + 1, &set, NULL, NULL, &none) == 1;
}

static void test_config_change(void)
{
	struct fake *f = fake_new();
	struct vu_msg ack;
	struct talk t;

	talk_open(&t, f);
	REQUIRE(t.link);
	CHECK(!readable(t.link->ops->event_fd(t.link)));
	back_request(f, VU_BACKEND_CONFIG_CHANGE_MSG, 0, false);
	CHECK(readable(t.link->ops->event_fd(t.link)));
	CHECK_EQ(t.link->ops->events(t.link), SL_LINK_CONFIG);
	CHECK(!readable(t.link->ops->event_fd(t.link)));
	/* unknown, but properly asked: properly refused */
	back_request(f, 99, VU_NEED_REPLY, true);
	CHECK_EQ(t.link->ops->events(t.link), 0);
	CHECK_EQ(vu_recv_wait(f->back, &ack, TIMEOUT_MS), 0);
	CHECK_EQ(ack.p.u64, 1);
	talk_close(&t);
}

/* Garbage on its channel costs a back-end the channel, not us the link or a descriptor. */
static void test_back_channel_garbage(void)
{
	unsigned int before = count_fds();
	struct fake *f = fake_new();
	struct talk t;

	talk_open(&t, f);
	REQUIRE(t.link);
	back_request(f, VU_BACKEND_CONFIG_CHANGE_MSG, 0, true);
	back_request(f, VU_BACKEND_CONFIG_CHANGE_MSG, 2, false); /* version 3 */
	CHECK_EQ(t.link->ops->events(t.link), 0);
	CHECK_EQ(talk_up(&t), 0);
	CHECK_EQ(talk_down(&t), 0);
	talk_close(&t);
	CHECK_EQ(count_fds(), before);
}

/* A back-end that asks and asks and never reads an answer must not hold us up. */
static void test_back_channel_flood(void)
{
	struct fake *f = fake_new();
	struct vu_msg m;
	struct talk t;
	int ret = 0;

	talk_open(&t, f);
	REQUIRE(t.link);
	vu_msg_init(&m, VU_BACKEND_CONFIG_CHANGE_MSG, 0);
	m.h.flags |= VU_NEED_REPLY;
	for (unsigned int i = 0; i < 100000 && !ret; i++) {
		ret = vu_send_wait(f->back, &m, 0);
		t.link->ops->events(t.link);
	}
	CHECK(ret);
	CHECK_EQ(talk_up(&t), 0);
	talk_close(&t);
}

/* ---- ends ---- */

static void test_gone(void)
{
	struct fake *f = fake_new();
	struct sl_link_queue q = ring();
	struct talk t;

	talk_open(&t, f);
	REQUIRE(t.link);
	CHECK_EQ(t.link->ops->set_memory(t.link, &t.dma.region, 1, NULL), 0);
	shutdown(f->sock, SHUT_RDWR);
	CHECK(readable(t.link->ops->event_fd(t.link)));
	CHECK_EQ(t.link->ops->events(t.link), SL_LINK_GONE);
	CHECK_EQ(t.link->ops->queue_start(t.link, 0, &q, &t.err), -EPIPE);
	t.link->ops->kick(t.link, 0, 0);
	talk_close(&t);
}

static void test_out_of_turn(void)
{
	struct fake *f = fake_new();
	struct talk t;

	talk_open(&t, f);
	REQUIRE(t.link);
	CHECK_EQ(send(f->sock, "x", 1, MSG_NOSIGNAL), 1);
	CHECK_EQ(t.link->ops->events(t.link), SL_LINK_GONE);
	talk_close(&t);
}

/* ---- coming back ---- */

static int listen_at(struct sockaddr_un *addr)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	addr->sun_family = AF_UNIX;
	snprintf(addr->sun_path, sizeof(addr->sun_path), "/tmp/sluice-test-link-%d", (int)getpid());
	unlink(addr->sun_path);
	REQUIRE(!bind(fd, (struct sockaddr *)addr, sizeof(*addr)) && !listen(fd, 4));
	return fd;
}

struct acceptor {
	struct fake *fake;
	int listener;
};

static void *accept_one(void *arg)
{
	struct acceptor *a = arg;
	int fd = accept4(a->listener, NULL, NULL, SOCK_CLOEXEC);

	REQUIRE(fd >= 0);
	fake_start(a->fake, fd);
	return NULL;
}

static pthread_t accept_soon(struct acceptor *a)
{
	pthread_t thread;

	REQUIRE(!pthread_create(&thread, NULL, accept_one, a));
	return thread;
}

static void test_reconnect(void)
{
	struct sockaddr_un addr = { 0 };
	struct acceptor a = { .fake = fake_new(), .listener = listen_at(&addr) };
	struct sl_link_vhost_user_config cfg = { .path = addr.sun_path, .timeout_ms = 10000 };
	struct fake *first = a.fake, *second, *third;
	struct sl_link_queue q = ring();
	struct talk t = { .inflight.fd = -1 };
	pthread_t thread = accept_soon(&a);

	REQUIRE(!sl_dma_open(&t.dma, ADDR, 65536, NULL));
	t.link = sl_link_vhost_user_open(&cfg, &t.err);
	REQUIRE(t.link);
	pthread_join(thread, NULL);
	CHECK_EQ(talk_up(&t), 0);
	CHECK_EQ(t.link->ops->status_set(t.link, 15, NULL), 0);
	shutdown(first->sock, SHUT_RDWR);
	CHECK_EQ(t.link->ops->events(t.link), SL_LINK_GONE);

	a.fake = second = fake_new();
	thread = accept_soon(&a);
	CHECK_EQ(t.link->ops->reconnect(t.link, &t.err), 0);
	pthread_join(thread, NULL);
	CHECK_EQ(t.link->ops->events(t.link), 0);
	/* it was told all that the first one was told, and waits for DRIVER_OK */
	CHECK_EQ(second->last[VU_SET_FEATURES].p.u64, first->last[VU_SET_FEATURES].p.u64);
	CHECK_EQ(second->last[VU_SET_MEM_TABLE].p.table.region[0].uva, (uintptr_t)t.dma.region.hva);
	CHECK_EQ(second->last[VU_SET_INFLIGHT_FD].p.inflight.mmap_size, 4096);
	CHECK_EQ(second->last[VU_SET_INFLIGHT_FD].p.inflight.queue_size, 64);
	CHECK_EQ(second->seen[VU_GET_INFLIGHT_FD], 0);
	CHECK_EQ(second->status, 11);
	CHECK_EQ(t.link->ops->call_fd(t.link, 1), -1);
	q.base = 9;
	CHECK_EQ(t.link->ops->queue_start(t.link, 1, &q, NULL), 0);
	CHECK_EQ(second->last[VU_SET_VRING_BASE].p.state.num, 9);
	shutdown(second->sock, SHUT_RDWR);

	/* the third one can less */
	a.fake = third = fake_new();
	third->features &= ~(1ULL << SL_F_EVENT_IDX);
	thread = accept_soon(&a);
	CHECK_EQ(t.link->ops->reconnect(t.link, &t.err), -ENOTSUP);
	pthread_join(thread, NULL);
	/* and then nobody listens any more */
	close(a.listener);
	unlink(addr.sun_path);
	CHECK_EQ(t.link->ops->reconnect(t.link, &t.err), -ENOENT);
	t.link->ops->close(t.link);
	fake_join(first);
	fake_join(second);
	fake_join(third);
	free(first);
	free(second);
	free(third);
	sl_dma_close(&t.dma);
	close(t.inflight.fd);
}

static void test_open_errors(void)
{
	char *path = malloc(300);
	struct sl_link_vhost_user_config cfg = { .path = "/nonexistent/sluice" };
	struct sl_err err;

	REQUIRE(path);
	CHECK(!sl_link_vhost_user_open(&cfg, &err));
	CHECK(!strcmp(err.text, "vhost-user: /nonexistent/sluice: connect: No such file or directory"));
	memset(path, 'x', 299);
	path[299] = 0;
	cfg.path = path;
	CHECK(!sl_link_vhost_user_open(&cfg, &err));
	CHECK(strstr(err.text, "longer"));
	free(path);
}

static const struct t_case cases[] = {
	{ "honest", test_honest },
	{ "every_sin_at_every_request", test_every_sin_at_every_request },
	{ "refusals", test_refusals },
	{ "lies", test_lies },
	{ "config", test_config },
	{ "plain", test_plain },
	{ "caller", test_caller },
	{ "own_eventfds", test_own_eventfds },
	{ "crossing_requests", test_crossing_requests },
	{ "config_change", test_config_change },
	{ "back_channel_garbage", test_back_channel_garbage },
	{ "back_channel_flood", test_back_channel_flood },
	{ "gone", test_gone },
	{ "out_of_turn", test_out_of_turn },
	{ "reconnect", test_reconnect },
	{ "open_errors", test_open_errors },
};
T_MAIN(cases)
