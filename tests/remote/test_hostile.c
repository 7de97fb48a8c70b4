/* SPDX-License-Identifier: MIT */
/* test_hostile.c - a device in another process that is silent, lies, talks without end, or forgets.
 *
 * A thread listens on the socket and is one back-end after the other. What
 * each does wrong is up to the case; whatever it is, the device goes on with
 * the next honest one, and the control loop, which is this thread's, is never
 * held up.
 */
#include "bed.h"

#include <sys/eventfd.h>

#include "driver/fake.h"

#define NUM 8
#define MMIO_STATUS (BOARD_MMIO_BASE + 0x70)

/**
 * struct host - back-ends, one after the other
 * @set_up:  called for each before it starts
 * @fake:    the one that is there; under @lock
 * @guests, @enabled, @bases, @regions: connections, queues started, stops and inflight regions asked for so far; atomic
 * @base:    what the last SET_VRING_BASE said; atomic
 * @fills:   it makes descriptors for kicks and calls block whoever writes to them
 */
struct host {
	char *path;
	int listener;
	pthread_t thread;
	pthread_mutex_t lock;
	void (*set_up)(struct fake *f, unsigned int guest);
	struct fake *fake;
	unsigned int guests, enabled, bases, regions, base;
	bool fills;
};

static unsigned int get(const unsigned int *n)
{
	return __atomic_load_n(n, __ATOMIC_ACQUIRE);
}

static void add(unsigned int *n)
{
	__atomic_fetch_add(n, 1, __ATOMIC_ACQ_REL);
}

static void fill(int fd)
{
	eventfd_t n;

	REQUIRE(!fcntl(fd, F_SETFL, O_NONBLOCK));
	eventfd_read(fd, &n);
	REQUIRE(!eventfd_write(fd, UINT64_MAX - 1) && !fcntl(fd, F_SETFL, 0));
}

static void converse(struct host *h, struct fake *f)
{
	struct vu_msg m;
	bool answer;

	while (!f->dead && !vu_recv_wait(f->sock, &m, -1)) {
		uint32_t request = m.h.request, num = m.p.state.num;

		pthread_mutex_lock(&h->lock);
		if (request == VU_SET_BACKEND_REQ_FD && m.nfds) {
			if (f->back >= 0)
				close(f->back);
			f->back = vu_msg_take_fd(&m, 0);
		}
		if (h->fills && (request == VU_SET_VRING_KICK || request == VU_SET_VRING_CALL) && m.nfds)
			fill(m.fds[0]);
		answer = fake_think(f, &m);
		pthread_mutex_unlock(&h->lock);
		if (answer)
			fake_answer(f, &m);
		for (unsigned int i = 0; i < m.nfds; i++)
			if (m.fds[i] == f->sock)
				m.fds[i] = -1;
		vu_msg_close_fds(&m);
		if (request == VU_SET_VRING_BASE)
			__atomic_store_n(&h->base, num, __ATOMIC_RELEASE);
		if (request == VU_SET_VRING_ENABLE)
			add(&h->enabled);
		if (request == VU_GET_VRING_BASE)
			add(&h->bases);
		if (request == VU_GET_INFLIGHT_FD)
			add(&h->regions);
	}
}

static void *be_there(void *arg)
{
	struct host *h = arg;
	int fd;

	while ((fd = accept4(h->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		struct fake *f = fake_new();

		f->sock = fd;
		f->back = -1;
		h->set_up(f, h->guests);
		pthread_mutex_lock(&h->lock);
		h->fake = f;
		pthread_mutex_unlock(&h->lock);
		add(&h->guests);
		converse(h, f);
		pthread_mutex_lock(&h->lock);
		h->fake = NULL;
		pthread_mutex_unlock(&h->lock);
		close(f->sock);
		if (f->back >= 0)
			close(f->back);
		free(f);
	}
	return NULL;
}

static void host_open(struct host *h, struct bed *b, void (*set_up)(struct fake *f, unsigned int guest))
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	*h = (struct host){.path = b->socket, .set_up = set_up};
	pthread_mutex_init(&h->lock, NULL);
	memcpy(addr.sun_path, b->socket, strlen(b->socket));
	h->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	REQUIRE(h->listener >= 0 && !bind(h->listener, (struct sockaddr *)&addr, sizeof(addr)) && !listen(h->listener, 8));
	REQUIRE(!pthread_create(&h->thread, NULL, be_there, h));
}

/* The back-end that is there dies. */
static void host_kill(struct host *h)
{
	pthread_mutex_lock(&h->lock);
	if (h->fake)
		shutdown(h->fake->sock, SHUT_RDWR);
	pthread_mutex_unlock(&h->lock);
}

static void host_close(struct host *h)
{
	shutdown(h->listener, SHUT_RDWR);
	host_kill(h);
	pthread_join(h->thread, NULL);
	close(h->listener);
	pthread_mutex_destroy(&h->lock);
}

/* ---- a driver without requests ---- */

static const struct remote_type fake_type = {
	.type = "fake", .id = 42, .features = 0x200, .num_queues = 1, .config_lens = {64}};

struct queue {
	struct sl_dq *dq;
	void *state;
	struct sl_link_queue setup;
};

static void start_driver(struct bed *b, struct queue *q)
{
	struct sl_features f = {{1ull << SL_F_VERSION_1 | 0x200}};
	struct sl_err err = {""};

	REQUIRE(!sl_link_negotiate(b->link, &f, &err));
	free(q->state);
	q->state = aligned_alloc(64, (sl_dq_state_size(NUM) + 63) & ~(size_t)63);
	b->dma.used = 0;
	memset(b->dma.region.hva, 0, 16384);
	q->dq = sl_dma_queue(&b->dma, &f, NUM, q->state, &q->setup, &err);
	REQUIRE(q->dq);
	REQUIRE(!b->link->ops->queue_start(b->link, 0, &q->setup, &err));
	REQUIRE(!sl_link_driver_ok(b->link, &err));
}

static void open_on(struct host *h, struct bed *b, struct queue *q, void (*set_up)(struct fake *f, unsigned int guest),
		    enum board_kind kind, bool fills)
{
	bed_paths(b);
	*q = (struct queue){0};
	host_open(h, b, set_up);
	h->fills = fills;
	bed_device(b, &fake_type, false);
	bed_board(b, kind);
	start_driver(b, q);
}

static void open_all(struct host *h, struct bed *b, struct queue *q, void (*set_up)(struct fake *f, unsigned int guest))
{
	open_on(h, b, q, set_up, BOARD_MMIO_FD, false);
}

static void close_all(struct host *h, struct bed *b, struct queue *q)
{
	bed_close(b);
	host_close(h);
	free(q->state);
}

/* Ask for a reset without waiting for it. */
static void ask_reset(struct bed *b)
{
	board_write(&b->board, MMIO_STATUS, 4, 0);
}

static bool is_reset(struct bed *b)
{
	return !board_read(&b->board, MMIO_STATUS, 4);
}

/* ---- every wrong answer at every request ---- */

static uint32_t sin_request;
static enum fake_sin the_sin;

static void sinner_first(struct fake *f, unsigned int guest)
{
	if (guest)
		return;
	f->request = sin_request;
	f->sin = the_sin;
}

static void survives(void)
{
	struct host h;
	struct queue q;
	struct bed b;
	unsigned int lives;

	open_all(&h, &b, &q, sinner_first);
	UNTIL(&b, get(&h.enabled));
	for (lives = 1; lives < 3; lives++) {
		ask_reset(&b);
		if (sin_request == VU_GET_VRING_BASE && the_sin == SIN_SILENT && lives == 1) {
			UNTIL(&b, get(&h.bases));
			host_kill(&h);
		}
		UNTIL(&b, is_reset(&b));
		start_driver(&b, &q);
		UNTIL(&b, get(&h.enabled) > lives);
	}
	close_all(&h, &b, &q);
}

static void wrong_answers(void)
{
	static const uint32_t requests[] = {
		VU_GET_FEATURES, VU_GET_PROTOCOL_FEATURES, VU_SET_PROTOCOL_FEATURES, VU_GET_QUEUE_NUM,
		VU_SET_BACKEND_REQ_FD, VU_SET_OWNER, VU_GET_CONFIG, VU_SET_STATUS, VU_SET_FEATURES, VU_GET_STATUS,
		VU_SET_MEM_TABLE, VU_GET_INFLIGHT_FD, VU_SET_VRING_NUM, VU_SET_INFLIGHT_FD, VU_SET_VRING_BASE,
		VU_SET_VRING_ADDR, VU_SET_VRING_CALL, VU_SET_VRING_KICK, VU_SET_VRING_ENABLE, VU_GET_VRING_BASE,
	};
	unsigned int fds = count_fds();

	timeout_ms = 100;
	for (unsigned int i = 0; i < sizeof(requests) / sizeof(requests[0]); i++)
		for (the_sin = SIN_CLOSE; the_sin < NUM_SINS; the_sin++) {
			sin_request = requests[i];
			survives();
		}
	timeout_ms = 0;
	CHECK_EQ(count_fds(), fds);
}

/* ---- random answers ---- */

static uint64_t rng = 0x1234567;

static void scramble(struct fake *f, struct vu_msg *m)
{
	unsigned int n = 1 + random64(&rng) % 4;
	uint8_t *bytes = (uint8_t *)&m->h;

	(void)f;
	while (n--) {
		uint32_t at = (uint32_t)(random64(&rng) % (VU_HEADER_SIZE + (m->h.size < 64 ? m->h.size : 64)));
		uint8_t *p = at < VU_HEADER_SIZE ? bytes + at : m->p.bytes + (at - VU_HEADER_SIZE);

		*p = (uint8_t)(random64(&rng) % 3 ? *p ^ 1u << random64(&rng) % 8 : random64(&rng));
	}
	/* What is said to follow must be there, or nothing that comes later is looked at. */
	if (m->h.size > VU_MAX_PAYLOAD)
		m->h.size = (uint32_t)(random64(&rng) % VU_MAX_PAYLOAD);
}

static void random_first(struct fake *f, unsigned int guest)
{
	if (guest > 3)
		return;
	f->request = 1 + (uint32_t)(random64(&rng) % (VU_REQUEST_END - 1));
	f->sin = SIN_EDIT;
	f->edit = scramble;
}

static void random_answers(void)
{
	unsigned int fds = count_fds();

	timeout_ms = 100;
	for (unsigned int i = 0; i < 150; i++) {
		struct sl_err err = {""};
		struct queue q = {0};
		struct host h;
		struct bed b;

		bed_paths(&b);
		host_open(&h, &b, random_first);
		/* Properly said nonsense, such as no VERSION_1, may end it here. */
		if (!bed_try(&b, &fake_type, false, -1, &err)) {
			uint64_t until = sl_now() + 200000000;

			bed_board(&b, BOARD_MMIO_FD);
			start_driver(&b, &q);
			while (!get(&h.enabled) && sl_now() < until)
				sl_loop_step(b.loop, 2);
			ask_reset(&b);
			for (unsigned int n = 0; n < 5; n++)
				sl_loop_step(b.loop, 1);
		}
		close_all(&h, &b, &q);
	}
	timeout_ms = 0;
	CHECK_EQ(count_fds(), fds);
}

/* ---- silence ---- */

static void no_stop(struct fake *f, unsigned int guest)
{
	(void)guest;
	f->request = VU_GET_VRING_BASE;
	f->sin = SIN_SILENT;
}

/* Until the back-end says so, or dies, it may write to guest memory: the reset is not complete. */
static void reset_waits_for_the_answer(void)
{
	struct host h;
	struct queue q;
	struct bed b;
	unsigned int enabled, guests;
	uint64_t until;

	timeout_ms = 1000;
	open_all(&h, &b, &q, no_stop);
	UNTIL(&b, (enabled = get(&h.enabled)));
	guests = get(&h.guests);
	ask_reset(&b);
	UNTIL(&b, get(&h.bases));
	until = sl_now() + 1500000000; /* longer than other answers may take */
	UNTIL(&b, sl_now() > until);
	CHECK(!is_reset(&b));
	CHECK_EQ(get(&h.guests), guests);
	host_kill(&h);
	UNTIL(&b, is_reset(&b));
	start_driver(&b, &q);
	UNTIL(&b, get(&h.enabled) > enabled);
	ask_reset(&b);
	UNTIL(&b, get(&h.bases) >= 2);
	timeout_ms = 0;
	close_all(&h, &b, &q); /* at once */
}

/* ... but not for ever: one that does not say so is cut off, and what was in flight is forgotten with it. */
static void reset_is_bounded(void)
{
	struct host h;
	struct queue q;
	struct bed b;

	stop_timeout_ms = 100;
	open_all(&h, &b, &q, no_stop);
	for (unsigned int lives = 1; lives < 4; lives++) {
		UNTIL(&b, get(&h.enabled) == lives);
		CHECK_EQ(get(&h.regions), lives);
		forget_lines();
		ask_reset(&b);
		UNTIL(&b, is_reset(&b));
		CHECK(said("of a stop and is cut off"));
		start_driver(&b, &q);
	}
	UNTIL(&b, get(&h.enabled) == 4);
	UNTIL(&b, said("the back-end is back"));
	stop_timeout_ms = 0;
	close_all(&h, &b, &q);
}

/* ---- talk without end ---- */

static void honest(struct fake *f, unsigned int guest)
{
	(void)f;
	(void)guest;
}

static bool send_change(struct host *h)
{
	struct vu_msg m;
	uint32_t sent = 0;
	bool ok;

	vu_msg_init(&m, VU_BACKEND_CONFIG_CHANGE_MSG, 0);
	pthread_mutex_lock(&h->lock);
	ok = h->fake && h->fake->back >= 0 && vu_send(h->fake->back, &m, &sent) == 1;
	pthread_mutex_unlock(&h->lock);
	return ok;
}

static void *talk(void *arg)
{
	uint64_t until = sl_now() + 300000000;

	while (sl_now() < until)
		send_change(arg);
	return NULL;
}

static void talks_without_end(void)
{
	pthread_t thread;
	struct host h;
	struct queue q;
	struct bed b;

	open_all(&h, &b, &q, honest);
	UNTIL(&b, get(&h.enabled));
	REQUIRE(!pthread_create(&thread, NULL, talk, &h));
	for (unsigned int lives = 1; lives < 5; lives++) {
		ask_reset(&b);
		UNTIL(&b, is_reset(&b));
		start_driver(&b, &q);
		UNTIL(&b, get(&h.enabled) > lives);
	}
	pthread_join(thread, NULL);
	close_all(&h, &b, &q);
}

static void tells_of_a_change(void)
{
	uint8_t byte = 0;
	struct host h;
	struct queue q;
	struct bed b;

	open_all(&h, &b, &q, honest);
	UNTIL(&b, get(&h.enabled));
	b.link->ops->events(b.link);
	pthread_mutex_lock(&h.lock);
	h.fake->config[10] = 200;
	pthread_mutex_unlock(&h.lock);
	CHECK(send_change(&h));
	UNTIL(&b, b.link->ops->events(b.link) & SL_LINK_CONFIG);
	REQUIRE(!b.link->ops->config_read(b.link, 10, &byte, 1, NULL));
	CHECK_EQ(byte, 200);
	close_all(&h, &b, &q);
}

/* The change comes while the driver's side waits for an answer, and nothing comes after it. */
static void change_before_the_answer(struct fake *f, struct vu_msg *reply)
{
	struct vu_msg m;
	uint32_t sent = 0;

	(void)reply;
	if (f->config[10] == 200 || !(f->status & SL_STATUS_DRIVER_OK))
		return;
	f->config[10] = 200;
	vu_msg_init(&m, VU_BACKEND_CONFIG_CHANGE_MSG, 0);
	REQUIRE(vu_send(f->back, &m, &sent) == 1);
}

static void changes_early(struct fake *f, unsigned int guest)
{
	if (!guest)
		return;
	f->request = VU_SET_STATUS;
	f->sin = SIN_EDIT;
	f->edit = change_before_the_answer;
}

static void tells_of_a_change_meanwhile(void)
{
	uint8_t byte = 0;
	struct host h;
	struct queue q;
	struct bed b;

	open_all(&h, &b, &q, changes_early);
	UNTIL(&b, get(&h.enabled));
	host_kill(&h);
	UNTIL(&b, !b.link->ops->config_read(b.link, 10, &byte, 1, NULL) && byte == 200);
	close_all(&h, &b, &q);
}

/* ---- descriptors that it shares ---- */

static void blocks_nobody(void)
{
	static const enum board_kind kinds[] = {BOARD_MMIO, BOARD_MMIO_FD};

	for (unsigned int i = 0; i < 2; i++) {
		struct host h;
		struct queue q;
		struct bed b;

		open_on(&h, &b, &q, honest, kinds[i], true);
		for (unsigned int lives = 1; lives < 4; lives++) {
			UNTIL(&b, get(&h.enabled) == 2 * lives - 1);
			host_kill(&h);
			UNTIL(&b, get(&h.enabled) == 2 * lives);
			/* where nobody but the kernel and the back-end kicks by descriptor, this is the kernel's */
			if (kinds[i] == BOARD_MMIO)
				b.link->ops->kick(b.link, 0, 0);
			ask_reset(&b);
			UNTIL(&b, is_reset(&b));
			start_driver(&b, &q);
		}
		close_all(&h, &b, &q);
	}
}

/* ---- refusals ---- */

static void refuses_memory(struct fake *f, unsigned int guest)
{
	(void)guest;
	f->request = VU_SET_MEM_TABLE;
	f->sin = SIN_REFUSE;
}

/* One line, not one for each attempt. */
static void refusals_are_told_once(void)
{
	const char *line;
	struct host h;
	struct queue q;
	struct bed b;

	open_all(&h, &b, &q, refuses_memory);
	UNTIL(&b, get(&h.guests) >= 5);
	remote_leave(b.remote);
	line = strstr(lines, "SET_MEM_TABLE: the back-end refuses: waiting for it");
	CHECK(line && !strstr(line + 50, "the back-end"));
	close_all(&h, &b, &q);
}

/* ---- without an inflight region ---- */

static void forgetful(struct fake *f, unsigned int guest)
{
	(void)guest;
	f->protocol &= ~(1ull << VU_F_INFLIGHT_SHMFD);
}

static void set_index(struct bed *b, uint64_t ring, uint16_t idx)
{
	__atomic_store_n((uint16_t *)((char *)b->dma.region.hva + (ring - ADDR) + 2), idx, __ATOMIC_RELEASE);
}

static struct bed *offering;
static const struct queue *offered_in;

static void offer_at_once(const char *line)
{
	if (strstr(line, "has gone"))
		set_index(offering, offered_in->setup.driver, 6);
}

/* A back-end that was done with all it had dies; @watch sees the lines about it. */
static void goes_on(void (*watch)(const char *line))
{
	struct host h;
	struct queue q;
	struct bed b;

	open_all(&h, &b, &q, forgetful);
	UNTIL(&b, get(&h.enabled));
	set_index(&b, q.setup.driver, 5);
	set_index(&b, q.setup.device, 5);
	offering = &b;
	offered_in = &q;
	watch_lines(watch);
	host_kill(&h);
	UNTIL(&b, get(&h.enabled) == 2);
	CHECK_EQ(get(&h.base), 5);
	CHECK(!(board_read(&b.board, MMIO_STATUS, 4) & SL_STATUS_NEEDS_RESET));
	watch_lines(NULL);
	close_all(&h, &b, &q);
}

static void goes_on_where_all_is_done(void)
{
	goes_on(NULL);
}

/* What is made available once the death is known, the dead one has not begun. */
static void goes_on_with_what_came_later(void)
{
	goes_on(offer_at_once);
}

static void needs_a_reset_where_it_is_not(void)
{
	struct host h;
	struct queue q;
	struct bed b;

	open_all(&h, &b, &q, forgetful);
	UNTIL(&b, get(&h.enabled));
	set_index(&b, q.setup.driver, 6);
	set_index(&b, q.setup.device, 5);
	host_kill(&h);
	UNTIL(&b, board_read(&b.board, MMIO_STATUS, 4) & SL_STATUS_NEEDS_RESET);
	CHECK(said("died with requests in flight and keeps no inflight region"));
	ask_reset(&b);
	UNTIL(&b, is_reset(&b));
	start_driver(&b, &q);
	UNTIL(&b, get(&h.enabled) == 2);
	CHECK_EQ(get(&h.base), 0);
	close_all(&h, &b, &q);
}

/* ---- what the driver does wrong ---- */

static void refuses_a_bad_ring(void)
{
	struct host h;
	struct queue q;
	struct bed b;

	open_all(&h, &b, &q, honest);
	UNTIL(&b, get(&h.enabled));
	ask_reset(&b);
	UNTIL(&b, is_reset(&b));
	start_driver(&b, &q);
	UNTIL(&b, get(&h.enabled) == 2);
	ask_reset(&b);
	UNTIL(&b, is_reset(&b));
	REQUIRE(!sl_link_negotiate(b.link, &(struct sl_features){{1ull << SL_F_VERSION_1}}, NULL));
	q.setup.device = ADDR - 4096; /* not in memory */
	REQUIRE(!b.link->ops->queue_start(b.link, 0, &q.setup, NULL));
	sl_link_driver_ok(b.link, NULL);
	UNTIL(&b, board_read(&b.board, MMIO_STATUS, 4) & SL_STATUS_NEEDS_RESET);
	CHECK_EQ(get(&h.enabled), 2);
	close_all(&h, &b, &q);
}

static const struct t_case cases[] = {
	{"wrong_answers", wrong_answers},
	{"random_answers", random_answers},
	{"reset_waits_for_the_answer", reset_waits_for_the_answer},
	{"reset_is_bounded", reset_is_bounded},
	{"talks_without_end", talks_without_end},
	{"tells_of_a_change", tells_of_a_change},
	{"tells_of_a_change_meanwhile", tells_of_a_change_meanwhile},
	{"blocks_nobody", blocks_nobody},
	{"refusals_are_told_once", refusals_are_told_once},
	{"goes_on_where_all_is_done", goes_on_where_all_is_done},
	{"goes_on_with_what_came_later", goes_on_with_what_came_later},
	{"needs_a_reset_where_it_is_not", needs_a_reset_where_it_is_not},
	{"refuses_a_bad_ring", refuses_a_bad_ring},
};

int main(int argc, char **argv)
{
	sl_log_to(take_line, NULL, SL_LOG_INFO);
	(void)sluice_path;
	return t_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
