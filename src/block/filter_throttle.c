/* SPDX-License-Identifier: MIT */
/* filter_throttle.c - no more requests or bytes in a second than the limits say.
 *
 * Theory of operation
 *
 * Each limit is a token bucket (throttle.h) that all channels of the device
 * share, and all devices of a throttle-group. A request takes its tokens when
 * it comes and goes on at once when they are there. Otherwise it is held, in a
 * list for reads or one for all that changes the disk: a limit for writes does
 * not hold up reads, and neither overtakes its own kind.
 *
 * While a bucket has tokens to spare, a batch of requests passes on what they
 * are for a QUANTUM, and takes them together when it is committed. So a limit
 * that is out of reach costs a batch, and not each of its requests, an atomic
 * operation.
 *
 * Of a list only as many requests have taken their tokens as can go on within
 * a QUANTUM; those behind ask when these are gone. So lists that wait for the
 * same bucket take turns, however many requests each of them holds.
 *
 * A timer wakes up no sooner than after a QUANTUM and always a bit late. The
 * rate is held all the same: what waited asks for its tokens as of the time at
 * which the timer should have woken up, up to CATCH_UP ago, and a bucket
 * remembers LEAST_BURST of what it was not asked for in time.
 *
 * A flush is neither counted nor held: it is about requests that are done, so
 * holding it would save nobody any work. Requests are held where they are, in
 * the queue's slots: there can be no more of them than the ring has entries.
 *
 * When the queue stops, whoever waits for that, a guest that is moved, say,
 * must not wait for the limit: what is held takes its tokens, which later
 * requests then lack, and goes on. So stopping and starting gains nobody more
 * than the limit.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "block/filter.h"
#include "block/throttle.h"

#define QUANTUM 100000u	     /* ns */
#define LEAST_BURST 10000000u /* ns */
#define CATCH_UP 100000000u   /* ns */
#define GROUP_NAME_MAX 64

enum { LANE_READ, LANE_WRITE, NUM_LANES };

/* Each kind: all, and then by direction. */
enum { IOPS, IOPS_READ, IOPS_WRITE, BPS, BPS_READ, BPS_WRITE, NUM_LIMITS };

/**
 * struct throttle_options
 * @rates: a second; 0: no limit
 * @iops_burst, @bps_burst: 0: LEAST_BURST
 * @group: NULL: a bucket of its own
 */
struct throttle_options {
	uint64_t rates[NUM_LIMITS], iops_burst, bps_burst;
	const char *group;
};

/**
 * struct throttle_group - buckets and who uses them
 * @limits: as its first member gave them; @limits.group is not used
 * @users:  devices, and @next: of the groups with a name; under groups_lock
 */
struct throttle_group {
	struct bucket buckets[NUM_LIMITS];
	struct throttle_options limits;
	char name[GROUP_NAME_MAX];
	unsigned int users;
	struct throttle_group *next;
};

/**
 * struct throttle
 * @held:      requests that wait now
 * @delayed:   requests that had to wait, ever
 * @waited_ns: their waits, together; all three are relaxed atomics
 */
struct throttle {
	struct filter f;
	struct throttle_group *group;
	uint64_t held, delayed, waited_ns;
};

/**
 * struct lane - requests that wait, oldest first
 * @granted: so many at its head have taken their tokens
 */
struct lane {
	struct throttle_channel *channel;
	struct block_req *head, **end;
	unsigned int granted;
	struct sl_timer timer;
};

/**
 * struct throttle_channel
 * @now:   sl_now() of this batch; 0: not looked at yet
 * @spare: tokens that this batch may spend before it takes them
 * @spent: of these
 * @draining: nothing is held any more, also what a filter above lets go of later; until it is detached
 */
struct throttle_channel {
	struct filter_channel fc;
	struct lane lanes[NUM_LANES];
	uint64_t now, spare[NUM_LIMITS], spent[NUM_LIMITS];
	bool draining;
};

/** struct wait - in a request's scratch; @due: when it goes on, once granted */
struct wait {
	uint64_t since, due;
};

/*
 * The groups of this process, which devices that know nothing else of each
 * other find by name. Opening and closing only.
 */
static pthread_mutex_t groups_lock = PTHREAD_MUTEX_INITIALIZER;
static struct throttle_group *groups;

/* ---- tokens ---- */

static struct throttle *throttle_of(const struct throttle_channel *t)
{
	return (struct throttle *)t->fc.c.block;
}

static struct wait *wait_of(struct block_req *req)
{
	return (struct wait *)(void *)req->scratch;
}

/** struct cost - of a request: tokens of the limits of its @direction, and of those of all */
struct cost {
	unsigned int direction;
	uint64_t bytes;
};

static struct cost cost_of(const struct block_req *req)
{
	return (struct cost){
		.direction = req->op == BLOCK_READ ? 1 : 2,
		.bytes = req->op == BLOCK_READ || req->op == BLOCK_WRITE ? req->len : 0,
	};
}

/* Take what @req costs from every bucket it passes. Return: when it may go on. */
static uint64_t take(struct throttle_group *g, const struct block_req *req, uint64_t now)
{
	struct cost c = cost_of(req);
	const uint64_t due[] = {
		bucket_take(&g->buckets[IOPS], 1, now),
		bucket_take(&g->buckets[IOPS + c.direction], 1, now),
		bucket_take(&g->buckets[BPS], c.bytes, now),
		bucket_take(&g->buckets[BPS + c.direction], c.bytes, now),
	};
	uint64_t last = due[0];

	for (unsigned int i = 1; i < sizeof(due) / sizeof(due[0]); i++)
		last = due[i] > last ? due[i] : last;
	return last;
}

static void begin_batch(struct throttle_channel *t)
{
	t->now = sl_now();
	for (unsigned int i = 0; i < NUM_LIMITS; i++)
		t->spare[i] = bucket_slack(&throttle_of(t)->group->buckets[i], t->now, QUANTUM);
}

/* Does @req pass on what can be spared? */
static bool spend(struct throttle_channel *t, const struct block_req *req)
{
	struct cost c = cost_of(req);

	if (!t->spare[IOPS] || !t->spare[IOPS + c.direction] || t->spare[BPS] < c.bytes ||
	    t->spare[BPS + c.direction] < c.bytes)
		return false;
	t->spare[IOPS]--;
	t->spare[IOPS + c.direction]--;
	t->spare[BPS] -= c.bytes;
	t->spare[BPS + c.direction] -= c.bytes;
	t->spent[IOPS]++;
	t->spent[IOPS + c.direction]++;
	t->spent[BPS] += c.bytes;
	t->spent[BPS + c.direction] += c.bytes;
	return true;
}

/* From here on each request of the batch takes its own tokens. */
static void settle(struct throttle_channel *t)
{
	for (unsigned int i = 0; i < NUM_LIMITS; i++) {
		bucket_take(&throttle_of(t)->group->buckets[i], t->spent[i], t->now);
		t->spare[i] = t->spent[i] = 0;
	}
}

/* ---- lanes ---- */

static struct block_req *lane_pop(struct lane *l)
{
	struct block_req *req = l->head;

	l->head = req->next;
	if (!l->head)
		l->end = &l->head;
	__atomic_fetch_sub(&throttle_of(l->channel)->held, 1, __ATOMIC_RELAXED);
	return req;
}

/* Let the first ones take tokens as of @asked, until those of the last are a QUANTUM away. */
static void lane_grant(struct lane *l, uint64_t asked, uint64_t now)
{
	uint64_t due = 0;

	for (struct block_req *req = l->head; req && due < now + QUANTUM; req = req->next) {
		due = take(throttle_of(l->channel)->group, req, asked);
		wait_of(req)->due = due;
		l->granted++;
	}
}

static void lane_set_timer(struct lane *l, uint64_t now)
{
	uint64_t due = wait_of(l->head)->due;

	sl_timer_set(l->channel->fc.c.loop, &l->timer, due > now + QUANTUM ? due - now : QUANTUM);
}

static void lane_release(void *arg)
{
	struct lane *l = arg;
	struct throttle *f = throttle_of(l->channel);
	uint64_t now = sl_now(), asked = now - CATCH_UP;

	while (l->head) {
		struct block_req *req = l->head;

		if (!l->granted)
			lane_grant(l, asked, now);
		if (wait_of(req)->due > now)
			break;
		if (asked < wait_of(req)->due)
			asked = wait_of(req)->due;
		lane_pop(l);
		l->granted--;
		__atomic_fetch_add(&f->waited_ns, now - wait_of(req)->since, __ATOMIC_RELAXED);
		block_forward(l->channel->fc.below, req);
	}
	if (l->head)
		lane_set_timer(l, now);
	block_commit(l->channel->fc.below);
}

static void lane_hold(struct lane *l, struct block_req *req, uint64_t now, uint64_t due)
{
	struct throttle *f = throttle_of(l->channel);

	*wait_of(req) = (struct wait){.since = now, .due = due};
	req->next = NULL;
	*l->end = req;
	l->end = &req->next;
	__atomic_fetch_add(&f->held, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&f->delayed, 1, __ATOMIC_RELAXED);
	if (l->head == req) {
		l->granted = 1;
		lane_set_timer(l, now);
	}
}

/* ---- the table ---- */

static void throttle_submit(struct block_channel *c, struct block_req *req)
{
	struct throttle_channel *t = (struct throttle_channel *)c;
	struct lane *l = &t->lanes[req->op == BLOCK_READ ? LANE_READ : LANE_WRITE];
	uint64_t due = 0;

	if (req->op == BLOCK_FLUSH) {
		block_forward(t->fc.below, req);
		return;
	}
	if (!t->now)
		begin_batch(t);
	if (!l->head && spend(t, req)) {
		block_forward(t->fc.below, req);
		return;
	}
	settle(t);
	if (!l->head)
		due = take(throttle_of(t)->group, req, t->now);
	if (l->head || (due > t->now && !t->draining))
		lane_hold(l, req, t->now, due);
	else
		block_forward(t->fc.below, req);
}

static void throttle_commit(struct block_channel *c)
{
	struct throttle_channel *t = (struct throttle_channel *)c;

	if (t->now)
		settle(t);
	t->now = 0;
	filter_commit(c);
}

static int throttle_attach(struct block_channel *c, struct sl_err *err)
{
	struct throttle_channel *t = (struct throttle_channel *)c;

	for (unsigned int i = 0; i < NUM_LANES; i++) {
		struct lane *l = &t->lanes[i];

		l->channel = t;
		l->end = &l->head;
		l->timer = (struct sl_timer){.fn = lane_release, .arg = l};
	}
	return filter_attach(c, err);
}

static void throttle_abandon(struct block_channel *c)
{
	struct throttle_channel *t = (struct throttle_channel *)c;

	for (unsigned int i = 0; i < NUM_LANES; i++) {
		struct lane *l = &t->lanes[i];

		while (l->head)
			block_finish(c, lane_pop(l), -ETIMEDOUT);
		l->granted = 0;
		sl_timer_clear(c->loop, &l->timer);
	}
	filter_abandon(c);
}

static void throttle_drain(struct block_channel *c)
{
	struct throttle_channel *t = (struct throttle_channel *)c;
	const uint64_t now = sl_now();

	t->draining = true;
	for (unsigned int i = 0; i < NUM_LANES; i++) {
		struct lane *l = &t->lanes[i];

		for (; l->head; l->granted -= l->granted > 0) {
			if (!l->granted)
				take(throttle_of(t)->group, l->head, now);
			block_forward(t->fc.below, lane_pop(l));
		}
		sl_timer_clear(c->loop, &l->timer);
	}
}

static void throttle_report(struct block *b, const struct block_report *r)
{
	struct throttle *f = (struct throttle *)b;

	r->number(r->arg, "throttle.held", __atomic_load_n(&f->held, __ATOMIC_RELAXED));
	r->number(r->arg, "throttle.delayed", __atomic_load_n(&f->delayed, __ATOMIC_RELAXED));
	r->number(r->arg, "throttle.waited-ms", __atomic_load_n(&f->waited_ns, __ATOMIC_RELAXED) / 1000000);
	filter_report(b, r);
}

static void group_put(struct throttle_group *g)
{
	pthread_mutex_lock(&groups_lock);
	if (!--g->users) {
		for (struct throttle_group **p = &groups; *p; p = &(*p)->next) {
			if (*p == g) {
				*p = g->next;
				break;
			}
		}
		free(g);
	}
	pthread_mutex_unlock(&groups_lock);
}

static void throttle_close(struct block *b)
{
	group_put(((struct throttle *)b)->group);
	filter_close(b);
}

static const struct block_ops throttle_ops = {
	.name = "throttle",
	.block_size = sizeof(struct throttle),
	.channel_size = sizeof(struct throttle_channel),
	.close = throttle_close,
	.attach = throttle_attach,
	.detach = filter_detach,
	.submit = throttle_submit,
	.commit = throttle_commit,
	.refresh = filter_refresh,
	.resize = filter_resize,
	.abandon = throttle_abandon,
	.drain = throttle_drain,
	.report = throttle_report,
};

/* ---- opening ---- */

#define RATE(limit) offsetof(struct throttle_options, rates[limit])

/* The limits stand first and in their order. */
static const struct opt_def options[] = {
	{"iops", OPT_UINT, RATE(IOPS), .def = "0", .max = 1000000000,
	 .help = "at most so many requests a second; 0 is no limit"},
	{"iops-read", OPT_UINT, RATE(IOPS_READ), .def = "0", .max = 1000000000,
	 .help = "at most so many reads a second; 0 is no limit"},
	{"iops-write", OPT_UINT, RATE(IOPS_WRITE), .def = "0", .max = 1000000000,
	 .help = "at most so many requests a second that change the disk; 0 is no limit"},
	{"bps", OPT_SIZE, RATE(BPS), .def = "0", .help = "move at most so many bytes a second; 0 is no limit"},
	{"bps-read", OPT_SIZE, RATE(BPS_READ), .def = "0",
	 .help = "read at most so many bytes a second; 0 is no limit"},
	{"bps-write", OPT_SIZE, RATE(BPS_WRITE), .def = "0",
	 .help = "write at most so many bytes a second; 0 is no limit"},
	{"iops-burst", OPT_UINT, offsetof(struct throttle_options, iops_burst), .def = "0", .max = 1000000000,
	 .help = "requests that may pass at once after a pause; the default is what 10 ms bring"},
	{"bps-burst", OPT_SIZE, offsetof(struct throttle_options, bps_burst), .def = "0",
	 .help = "bytes that may pass at once after a pause; the default is what 10 ms bring"},
	{"throttle-group", OPT_STRING, offsetof(struct throttle_options, group),
	 .help = "share the limits with every device of this process that names the same group"},
	{0},
};

const struct opt_table throttle_options_table = {"throttle filter", options};

/* 0, or the first key in which a member differs from its group. */
static int check_member(const struct spec *s, const struct throttle_group *g, const struct throttle_options *o,
			struct sl_err *err)
{
	for (const struct opt_def *d = options; d->type != OPT_STRING; d++) {
		uint64_t ours, theirs;

		memcpy(&ours, (const char *)o + d->offset, sizeof(ours));
		memcpy(&theirs, (const char *)&g->limits + d->offset, sizeof(theirs));
		if (ours != theirs)
			return sl_err_set(err, EINVAL,
					  "%s: %s=%llu: throttle-group '%s' has %llu; all members give the same limits",
					  s->type, d->name, (unsigned long long)ours, g->name,
					  (unsigned long long)theirs);
	}
	return 0;
}

static struct throttle_group *group_new(const struct throttle_options *o, struct sl_err *err)
{
	struct throttle_group *g = calloc(1, sizeof(*g));

	if (!g) {
		sl_err_set(err, ENOMEM, "throttle: out of memory");
		return NULL;
	}
	g->limits = *o;
	if (o->group)
		strcpy(g->name, o->group);
	for (unsigned int i = 0; i < NUM_LIMITS; i++)
		bucket_init(&g->buckets[i], o->rates[i], i < BPS ? o->iops_burst : o->bps_burst, LEAST_BURST);
	return g;
}

static int group_get(const struct spec *s, const struct throttle_options *o, struct throttle_group **out,
		     struct sl_err *err)
{
	struct throttle_group *g = NULL;
	int ret = 0;

	pthread_mutex_lock(&groups_lock);
	if (o->group)
		for (g = groups; g && strcmp(g->name, o->group); g = g->next)
			;
	if (g) {
		ret = check_member(s, g, o, err);
	} else {
		g = group_new(o, err);
		ret = g ? 0 : -ENOMEM;
		if (g && o->group) {
			g->next = groups;
			groups = g;
		}
	}
	if (!ret)
		g->users++;
	pthread_mutex_unlock(&groups_lock);
	*out = g;
	return ret;
}

static int check_options(const struct spec *s, const struct throttle_options *o, bool *limited, struct sl_err *err)
{
	bool iops = o->rates[IOPS] || o->rates[IOPS_READ] || o->rates[IOPS_WRITE];
	bool bps = o->rates[BPS] || o->rates[BPS_READ] || o->rates[BPS_WRITE];

	*limited = iops || bps;
	if (o->iops_burst && !iops)
		return sl_err_set(err, EINVAL, "%s: iops-burst=: needs iops=, iops-read= or iops-write=", s->type);
	if (o->bps_burst && !bps)
		return sl_err_set(err, EINVAL, "%s: bps-burst=: needs bps=, bps-read= or bps-write=", s->type);
	if (o->group && !*limited)
		return sl_err_set(err, EINVAL, "%s: throttle-group=: needs a limit, as iops= or bps=", s->type);
	if (o->group && strlen(o->group) >= GROUP_NAME_MAX)
		return sl_err_set(err, EINVAL, "%s: throttle-group=%s: longer than %d characters", s->type, o->group,
				  GROUP_NAME_MAX - 1);
	return 0;
}

static int throttle_stack(struct spec *s, struct block **b, struct sl_err *err)
{
	struct throttle_options o = {0};
	struct throttle_group *g;
	struct throttle *f;
	bool limited;
	int ret = opts_apply(&throttle_options_table, s, &o, err);

	if (!ret)
		ret = check_options(s, &o, &limited, err);
	if (ret || !limited)
		return ret;
	ret = group_get(s, &o, &g, err);
	if (ret)
		return ret;
	f = (struct throttle *)filter_alloc(&throttle_ops, *b, err);
	if (!f) {
		group_put(g);
		return -ENOMEM;
	}
	f->group = g;
	*b = &f->f.b;
	return 0;
}

const struct block_filter block_filter_throttle = {
	.options = &throttle_options_table,
	.stack = throttle_stack,
};
