/* SPDX-License-Identifier: MIT */
/* step.c - the fast rings against the reference model, by random steps
 *
 * usage: ring-step [FACTOR [SEED]]
 *
 * Three pairs: fast vq with the model driver, model device with the fast dq,
 * and fast with fast. A book keeps what each side did; after each step
 * whatever the other side may see is compared with it: which chain comes next
 * and with what buffers, which completion comes next and with what length,
 * whether there is more, whether to kick and to call. Devices are stopped and
 * restarted at random, the fast and the model one taking over from each other.
 */
#include "model.h"
#include "rig.h"
#include "t.h"

enum { DRIVER_FAST = 1, DEVICE_FAST = 2 };

struct step_req {
	struct model_chain want; /* as added, id and slots as popped */
	uint32_t in_len, len;
	bool pushed;
	struct sl_chain fast;
};

/* A first-in first-out list of requests. */
struct fifo {
	int *e;
	unsigned int first, n, size;
};

static struct {
	struct rig r;
	unsigned int kind;
	bool device_fast; /* now */
	struct model_driver mdrv;
	struct model_device mdev;
	struct step_req *req;
	struct fifo idle, added, visible, popped, staged, used;
	struct model_place drv_place, dev_place; /* published by the driver, by the device */
	int *held;				 /* popped and not pushed */
	unsigned int held_n;
	uint64_t seed;
	unsigned long steps, chains;
} s;

static void put(struct fifo *f, int v)
{
	f->e[(f->first + f->n++) % f->size] = v;
}

static int get(struct fifo *f)
{
	int v = f->e[f->first];

	f->first = (f->first + 1) % f->size;
	f->n--;
	return v;
}

static unsigned int below(unsigned int n)
{
	return rig_below(&s.seed, n);
}

static void advance(struct model_place *p, unsigned int n)
{
	unsigned int num = s.r.o.num;

	if (!s.r.o.packed) {
		p->index = (p->index + n) & 0xffff;
		return;
	}
	p->wrap ^= (p->index + n) / num;
	p->index = (p->index + n) % num;
}

static struct model_ring view(unsigned char *mem)
{
	return (struct model_ring){.num = s.r.o.num,
				   .packed = s.r.o.packed,
				   .event_idx = s.r.o.event_idx,
				   .in_order = s.r.o.in_order,
				   .desc = mem + s.r.at.desc,
				   .driver = mem + s.r.at.driver,
				   .device = mem + s.r.at.device,
				   .guest = mem,
				   .guest_base = RIG_GPA};
}

/* ---- driver steps ---- */

static void make_chain(struct model_chain *c)
{
	unsigned int most = s.r.o.num < 5 ? s.r.o.num : 5, n = 1 + below(most);

	memset(c, 0, sizeof(*c));
	c->out = below(n + 1);
	c->in = n - c->out;
	for (unsigned int i = 0; i < n; i++) {
		c->piece[i].len = 1 + below(below(4) ? 8 : 40);
		c->piece[i].addr = rig_buf(&s.r, below((unsigned int)(s.r.size - s.r.buffers) - c->piece[i].len));
	}
}

static bool add(int i)
{
	struct step_req *q = &s.req[i];
	struct sl_dq_buf b[MODEL_PIECES];
	unsigned int n;

	make_chain(&q->want);
	n = q->want.out + q->want.in;
	q->in_len = 0;
	q->pushed = false;
	for (unsigned int k = 0; k < n; k++) {
		b[k] = (struct sl_dq_buf){q->want.piece[k].addr, q->want.piece[k].len};
		q->in_len += k < q->want.out ? 0 : b[k].len;
	}
	if (s.kind & DRIVER_FAST)
		return sl_dq_add(s.r.dq, b, q->want.out, b + q->want.out, q->want.in, q);
	return model_driver_add(&s.mdrv, &q->want, s.r.o.indirect && n > 1 && below(2), i);
}

static void driver_adds(void)
{
	for (unsigned int k = 1 + below(4); k-- && s.idle.n;) {
		int i = get(&s.idle);

		if (!add(i)) {
			put(&s.idle, i);
			return;
		}
		put(&s.added, i);
	}
}

/* The chains become visible; @slots of them is known from what the model counted or the free slots of dq. */
static void driver_publishes(void)
{
	struct model_ring r = view(s.r.drv);
	struct model_place from = s.drv_place;
	unsigned int n = s.added.n;
	bool kick;

	if (s.kind & DRIVER_FAST) {
		kick = sl_dq_publish(s.r.dq);
		if (r.packed) {
			s.drv_place.index = sl_dq_kick_data(s.r.dq) & 0x7fff;
			s.drv_place.wrap = sl_dq_kick_data(s.r.dq) >> 15;
		} else {
			s.drv_place.index = sl_dq_kick_data(s.r.dq);
		}
		CHECK_EQ(kick, n && model_wants_kick(&r, from, s.drv_place));
	} else {
		model_driver_publish(&s.mdrv);
		s.drv_place = s.mdrv.published;
	}
	while (s.added.n)
		put(&s.visible, get(&s.added));
}

static void driver_gets(void)
{
	for (unsigned int k = 1 + below(6); k--;) {
		uint32_t len = 0;
		int i, want = -1;

		if (s.kind & DRIVER_FAST) {
			struct step_req *q = sl_dq_get(s.r.dq, &len);

			i = q ? (int)(q - s.req) : -1;
		} else {
			i = model_driver_get(&s.mdrv, &len);
		}
		if (s.used.n)
			want = get(&s.used);
		CHECK_EQ(i, want);
		if (i < 0 || want < 0)
			return;
		CHECK_EQ(len, s.req[i].len);
		put(&s.idle, i);
		s.chains++;
	}
}

static void driver_events(void)
{
	if (!(s.kind & DRIVER_FAST))
		model_driver_events(&s.mdrv, below(2));
	else if (below(2))
		sl_dq_disarm(s.r.dq);
	else
		CHECK_EQ(sl_dq_rearm(s.r.dq), s.used.n > 0);
}

/* ---- device steps ---- */

/* The same bytes in the same order, whatever the pieces. */
static void compare_pieces(const struct model_piece *a, unsigned int an, const struct iovec *v, unsigned int vn)
{
	uint32_t a_at = 0;
	size_t v_at = 0;

	while (an && vn) {
		uint64_t gpa = RIG_GPA + (uint64_t)((unsigned char *)v->iov_base - s.r.dev) + v_at;
		size_t n = v->iov_len - v_at < a->len - a_at ? v->iov_len - v_at : a->len - a_at;

		CHECK_EQ(gpa, a->addr + a_at);
		v_at += n;
		a_at += (uint32_t)n;
		if (v_at == v->iov_len) {
			v++;
			vn--;
			v_at = 0;
		}
		if (a_at == a->len) {
			a++;
			an--;
			a_at = 0;
		}
	}
	CHECK_EQ(an, 0);
	CHECK_EQ(vn, 0);
}

static void compare_chain(const struct model_chain *want, const struct model_chain *have)
{
	CHECK_EQ(want->out, have->out);
	CHECK_EQ(want->in, have->in);
	CHECK(!memcmp(want->piece, have->piece, sizeof(want->piece)));
}

static void device_pops(void)
{
	for (unsigned int k = 1 + below(6); k--;) {
		int i = s.visible.n ? s.visible.e[s.visible.first] : -1;
		struct step_req *q = i >= 0 ? &s.req[i] : NULL;
		static struct sl_chain none;
		bool got;

		if (s.device_fast) {
			struct sl_chain *c = q ? &q->fast : &none;

			CHECK_EQ(sl_vq_pending(s.r.vq), q != NULL);
			got = sl_vq_pop(s.r.vq, c) == 1;
			if (got && q) {
				compare_pieces(q->want.piece, q->want.out, c->out.iov, c->out.cnt);
				compare_pieces(q->want.piece + q->want.out, q->want.in, c->in.iov, c->in.cnt);
				CHECK_EQ(c->in.bytes, q->in_len);
				q->want.id = c->id;
				q->want.slots = c->slots;
			}
		} else {
			struct model_chain c = {0};

			got = model_device_pop(&s.mdev, &c);
			if (got && q) {
				compare_chain(&q->want, &c);
				q->want.id = c.id;
				q->want.slots = c.slots;
			}
		}
		CHECK_EQ(got, q != NULL);
		if (!got || !q)
			return;
		get(&s.visible);
		put(&s.popped, i);
		s.held[s.held_n++] = i;
	}
}

/* The book's in-order rule: what is staged is the longest pushed front of what was popped. */
static void book_push(int i)
{
	s.req[i].pushed = true;
	if (!s.r.o.in_order) {
		put(&s.staged, i);
		return;
	}
	while (s.popped.n && s.req[s.popped.e[s.popped.first]].pushed)
		put(&s.staged, get(&s.popped));
}

static void device_pushes(void)
{
	for (unsigned int k = 1 + below(6); k-- && s.held_n;) {
		unsigned int at = below(s.held_n);
		int i = s.held[at];
		struct step_req *q = &s.req[i];

		s.held[at] = s.held[--s.held_n];
		q->len = q->in_len ? below(q->in_len + 1) : 0;
		if (s.device_fast)
			sl_vq_push(s.r.vq, &q->fast, q->len);
		if (!s.r.o.in_order)
			s.popped.n = 0; /* the order of pops is of no interest */
		book_push(i);
	}
	if (s.device_fast)
		CHECK_EQ(sl_vq_inflight(s.r.vq), s.held_n);
}

static unsigned int slots_of(int i)
{
	return s.r.o.packed ? s.req[i].want.slots : 1;
}

static void device_publishes(void)
{
	struct model_ring r = view(s.r.dev);
	struct model_place from = s.dev_place;
	static struct model_used u[32768];
	unsigned int n = s.staged.n;
	bool batch = !s.device_fast && s.r.o.in_order && n && below(2);

	for (unsigned int k = 0; k < n; k++) {
		int i = get(&s.staged);

		u[k] = (struct model_used){s.req[i].want.id, s.req[i].want.slots, s.req[i].len};
		advance(&s.dev_place, slots_of(i));
		if (batch && k + 1 < n)
			s.req[i].len = s.req[i].in_len; /* skipped ones count as used completely */
		put(&s.used, i);
	}
	if (s.device_fast)
		CHECK_EQ(sl_vq_publish(s.r.vq), n && model_wants_call(&r, from, s.dev_place));
	else if (n)
		model_device_use(&s.mdev, u, n, batch);
}

static void device_events(void)
{
	if (!s.device_fast)
		model_device_events(&s.mdev, below(2));
	else if (below(2))
		sl_vq_disarm(s.r.vq);
	else
		CHECK_EQ(sl_vq_rearm(s.r.vq), s.visible.n > 0);
}

/* Stop with nothing in flight; a successor of either kind goes on. */
static void device_restarts(void)
{
	struct model_ring r = view(s.r.dev);
	uint32_t base;

	if (s.held_n)
		return;
	device_publishes();
	base = s.device_fast ? sl_vq_base(s.r.vq) : model_device_base(&s.mdev);
	sl_vq_free(s.r.vq);
	s.r.vq = NULL;
	s.r.cfg.base = base;
	if (s.kind & DEVICE_FAST && s.kind & DRIVER_FAST)
		s.device_fast = below(2);
	if (s.device_fast)
		REQUIRE(rig_start(&s.r));
	else
		model_device_init(&s.mdev, &r, base);
	CHECK_EQ(base, s.device_fast ? sl_vq_base(s.r.vq) : model_device_base(&s.mdev));
}

/* ---- run ---- */

static void (*const actions[])(void) = {
    driver_adds,   driver_publishes, driver_gets,   driver_events,   device_pops,
    device_pushes, device_publishes, device_events, device_restarts,
};

static void *array(size_t n, size_t size)
{
	void *p = calloc(n, size);

	REQUIRE(p);
	return p;
}

static void run(const struct rig_options *o, unsigned int kind, unsigned long steps)
{
	struct fifo *fifos[] = {&s.idle, &s.added, &s.visible, &s.popped, &s.staged, &s.used};
	unsigned int n = o->num;
	struct model_ring drv, dev;

	rig_open(&s.r, o);
	s.kind = kind;
	s.device_fast = kind & DEVICE_FAST;
	s.req = array(n, sizeof(*s.req));
	s.held = array(n, sizeof(*s.held));
	s.held_n = 0;
	for (unsigned int i = 0; i < 6; i++)
		*fifos[i] = (struct fifo){array(n, sizeof(int)), 0, 0, n};
	for (unsigned int i = 0; i < n; i++)
		put(&s.idle, (int)i);
	s.drv_place = s.dev_place = (struct model_place){0, o->packed};
	drv = view(s.r.drv);
	dev = view(s.r.dev);
	model_driver_init(&s.mdrv, &drv, RIG_GPA + s.r.tables);
	model_device_init(&s.mdev, &dev, s.r.cfg.base);
	if (s.device_fast)
		REQUIRE(rig_start(&s.r));
	for (unsigned long i = 0; i < steps && !t_failures; i++) {
		unsigned int bias = (unsigned int)(i / 256) % 3; /* runs full, runs empty, any */
		unsigned int a = below(9 + (bias < 2 ? 4 : 0));

		if (a >= 9)
			a = bias ? 4 + a % 3 : a % 2;
		actions[a]();
		s.steps++;
	}
	CHECK(!s.device_fast || !sl_vq_broken(s.r.vq));
	CHECK(!sl_dq_broken(s.r.dq));
	if (t_failures) {
		printf("num %u packed %d event_idx %d indirect %d in_order %d kind %u\n", o->num, o->packed,
		       o->event_idx, o->indirect, o->in_order, kind);
		exit(1);
	}
	model_driver_free(&s.mdrv);
	rig_close(&s.r);
	for (unsigned int i = 0; i < 6; i++)
		free(fifos[i]->e);
	free(s.req);
	free(s.held);
}

/* The packed event comparison against the literal rule, exhaustively for small rings. */
static void compare_events(void)
{
	for (unsigned int num = 1; num <= 5; num++) {
		for (unsigned int v = 0; v < 4 * num * num * (num + 1); v++) {
			unsigned int off = v % num, from = v / num % num, count = v / num / num % (num + 1);
			bool wrap = v / num / num / (num + 1) & 1, event_wrap = v / num / num / (num + 1) & 2;
			unsigned char area[4] = {(unsigned char)off, event_wrap ? 0x80 : 0, 2, 0};
			struct model_ring r = {.num = num, .packed = true, .event_idx = true, .driver = area};
			struct model_place a = {from, wrap}, b = a;
			uint32_t word = WIRE_EVENT(off, event_wrap, WIRE_EVENT_DESC);

			s.r.o = (struct rig_options){.num = (uint16_t)num, .packed = true};
			advance(&b, count);
			CHECK_EQ(wire_need_event_packed(word, true, (uint16_t)num, (uint16_t)b.index, b.wrap,
							(uint16_t)count),
				 model_wants_call(&r, a, b));
		}
	}
}

int main(int argc, char **argv)
{
	static const uint16_t sizes[] = {1, 2, 3, 7, 8, 256, 32768};
	double factor = argc > 1 ? atof(argv[1]) : 1;
	unsigned long runs = 0;

	s.seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 20261121;
	printf("seed %llu\n", (unsigned long long)s.seed);
	compare_events();
	for (unsigned int v = 0; v < 7 * 32 * 3; v++) {
		unsigned int flags = v % 32;
		struct rig_options o = {.num = sizes[v / 32 % 7],
					.packed = flags & 1,
					.event_idx = flags & 2,
					.indirect = flags & 4,
					.in_order = flags & 8,
					.one_byte = flags & 16 ? 300 : 0,
					.buffers = 1000};

		if (!o.packed && o.num & (o.num - 1))
			continue;
		if (o.indirect) {
			o.indirect_max = MODEL_PIECES;
			o.indirect_min = 2;
		}
		run(&o, 1 + v / 32 / 7, (unsigned long)((o.num > 1000 ? 300000 : 100000) * factor));
		runs++;
	}
	printf("%lu steps, %lu chains, in %lu queues\n", s.steps, s.chains, runs);
	return t_failures ? 1 : 0;
}
