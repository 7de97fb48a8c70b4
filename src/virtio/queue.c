/* SPDX-License-Identifier: MIT */
/* queue.c - a running queue: from kick to call.
 *
 * Theory of operation
 *
 * A running queue is either armed or active. Armed: the driver kicks, the loop
 * sleeps. Active: the queue is a poller of its loop, the driver is asked not
 * to kick, and each turn of the loop makes one round:
 *
 *	pop every chain there is, up to the queue's size or 16 MiB -> device's request()
 *	device's commit()
 *	publish what is done, call the driver at most once
 *
 * Of a long round, what is done is published before its end: a driver that
 * looks by itself takes it, and makes requests of it, while the device works on
 * the rest. Otherwise one of the two would always wait for the other. A driver
 * that sleeps is called at the end, once.
 *
 * When a round finds nothing (and the loop has spun long enough, see loop.c)
 * the loop arms the queue: rearm says whether something arrived between the
 * last look and the moment from which the driver kicks; then the queue stays
 * active and the round is repeated. The StoreLoad fence that makes this safe
 * is in the ring code, next to the one it pairs with on the driver's side.
 *
 * Requests that finish outside a round are published at the end of the turn,
 * all together.
 *
 * The kick descriptor is watched edge triggered and never read, as the
 * kernel's vhost does it: each write of the driver is an edge, and a peer
 * that hands over something that is not an eventfd can neither block the
 * loop nor keep it spinning.
 *
 * A stop that waits too long for requests in flight asks the device to give
 * them up; docs/stop-reset.md says what becomes of them.
 */
#include "virtio/internal.h"

#include "base/notify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A round takes no more requests when it holds this much data: somebody may have to copy it, and siblings wait. */
#define ROUND_BYTES (16u << 20)
/* Requests done in a round that the driver sees before it ends; fewer cost more fences than they gain. */
#define SHOWN_EARLY 16u

/* Counters have one writer; readers on other threads may see a slightly old value. */
static inline void count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static inline void set_in_flight(struct sl_queue *q, unsigned int n)
{
	__atomic_store_n(&q->in_flight, n, __ATOMIC_RELAXED);
}

/* ---- slots ---- */

static struct sl_req *take_slot(struct sl_queue *q)
{
	struct sl_req *r = q->free;

	if (r) {
		q->free = r->next;
	} else if (q->fresh < q->num) {
		r = (struct sl_req *)(q->slots + q->fresh++ * q->slot_size);
		r->queue = q;
	}
	return r;
}

static void give_slot(struct sl_queue *q, struct sl_req *r)
{
	r->next = q->free;
	q->free = r;
}

static int make_slots(struct sl_queue *q, unsigned int num)
{
	/* Whole cache lines, so that neighbours do not share one. */
	q->slot_size = (sizeof(struct sl_req) + q->device->ops->req_size + 63) & ~(size_t)63;
	q->slots_bytes = q->slot_size * num;
	q->slots = mmap(NULL, q->slots_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (q->slots == MAP_FAILED) {
		q->slots = NULL;
		return -ENOMEM;
	}
	q->num = num;
	q->fresh = 0;
	q->free = NULL;
	return 0;
}

/* ---- the round ---- */

static void call_driver(struct sl_queue *q)
{
	static const uint64_t one = 1;
	const struct sl_device *d = q->device;

	count(&q->stats.calls, 1);
	if (q->call_fd >= 0 && (d->ops->placement || (d->transport && d->transport->shared_calls))) {
		notify_peer(q->loop, q->call_fd);
	} else if (q->call_fd >= 0) {
		while (write(q->call_fd, &one, sizeof(one)) < 0 && errno == EINTR)
			;
	} else if (d->transport && d->transport->queue_call) {
		d->transport->queue_call(d->t, q->index);
	}
}

/* Let the driver see what is done. */
static void show(struct sl_queue *q)
{
	q->staged = 0;
	q->owes_call |= sl_vq_publish(q->vq);
}

static void flush(void *arg)
{
	struct sl_queue *q = arg;

	if (q->staged && !q->broken)
		show(q);
	if (!q->owes_call)
		return;
	q->owes_call = false;
	call_driver(q);
}

static void break_queue(struct sl_queue *q, const char *why)
{
	if (q->broken)
		return;
	flush(q); /* what was done before is still good */
	q->broken = true;
	q->why = why;
	sl_watch_del(&q->kick);
	sl_poller_deactivate(q->loop, &q->poller);
	sl_task_send(q->device->control, &q->broke);
}

/* One round of at most @max requests; false when it found none. */
static inline bool make_round(struct sl_queue *q, unsigned int max)
{
	const struct sl_device_ops *ops = q->device->ops;
	unsigned int n = 0;
	uint64_t bytes = 0;
	int ret = 0;

	q->in_round = true;
	while (n < max && bytes < ROUND_BYTES && !q->broken) {
		struct sl_req *r = take_slot(q);

		if (!r)
			break;
		ret = sl_vq_pop(q->vq, &r->chain);
		if (ret != 1) {
			give_slot(q, r);
			break;
		}
		n++;
		bytes += r->chain.out.bytes + r->chain.in.bytes;
		set_in_flight(q, q->in_flight + 1);
		ops->request(q, r);
	}
	if (n && ops->commit)
		ops->commit(q);
	q->in_round = false;
	flush(q);
	count(&q->stats.rounds, 1);
	count(&q->stats.requests, n);
	/* With nothing in flight no push will ever give memory back: waiting for one would be to spin. But when all of
	 * this round is done by now, its memory is there again. */
	if (ret == -ENOBUFS && q->in_flight)
		q->starved = true;
	else if (ret < 0 && !(ret == -ENOBUFS && n))
		break_queue(q, ret == -ENOBUFS ? "no memory for a request" : sl_vq_broken(q->vq));
	return n > 0;
}

static bool poll_queue(void *arg)
{
	struct sl_queue *q = arg;

	return !q->starved && sl_vq_pending(q->vq) && make_round(q, q->num);
}

static bool arm_queue(void *arg)
{
	struct sl_queue *q = arg;

	/* A starved queue goes on when a request is done; a kick would not help it. */
	return !q->starved && sl_vq_rearm(q->vq);
}

static void activate(struct sl_queue *q)
{
	if (sl_poller_active(&q->poller) || q->broken || q->stopping)
		return;
	sl_vq_disarm(q->vq);
	sl_poller_activate(q->loop, &q->poller);
}

/* A kick, by descriptor or by sl_queue_kick(). */
static void kicked(void *arg)
{
	struct sl_queue *q = arg;

	if (q->device->ops->placement) {
		q->device->ops->placement->queue_kick(q->device, q->index);
		return;
	}
	if (!q->vq || q->broken || q->stopping)
		return;
	count(&q->stats.kicks, 1);
	activate(q);
	poll_queue(q);
}

static void kick_ready(void *arg, uint32_t events)
{
	(void)events;
	kicked(arg);
}

void sl_req_done(struct sl_req *r, uint32_t len)
{
	struct sl_queue *q = r->queue;

	/* On a broken queue too: nothing is published any more, but what was written is in the dirty log. */
	if (!q->leaving)
		sl_vq_push(q->vq, &r->chain, len);
	q->staged++;
	if (!q->in_round)
		sl_task_post(q->loop, &q->flush);
	else if (q->staged >= SHOWN_EARLY && !q->broken)
		show(q);
	give_slot(q, r);
	set_in_flight(q, q->in_flight - 1);
	if (q->starved) {
		q->starved = false;
		activate(q);
	}
	/* Not here: the device is in the middle of something. */
	if (q->stopping && !q->in_flight)
		sl_task_post(q->loop, &q->finish);
}

void sl_queue_fail(struct sl_queue *q, const char *why)
{
	break_queue(q, why);
}

/* ---- start ---- */

struct start {
	struct sl_queue *q;
	const struct sl_queue_setup *setup;
	struct sl_mem *mem;
	struct sl_err *err;
	int ret;
};

static void drop_ring(struct sl_queue *q)
{
	sl_watch_del(&q->kick);
	sl_poller_deactivate(q->loop, &q->poller);
	sl_task_cancel(q->loop, &q->flush);
	sl_task_cancel(q->loop, &q->finish);
	sl_timer_clear(q->loop, &q->give_up);
	sl_vq_free(q->vq);
	q->vq = NULL;
	if (q->slots)
		munmap(q->slots, q->slots_bytes);
	q->slots = NULL;
}

/* Does a ring that starts at @base continue an earlier life? */
static bool continues(const struct sl_vq_config *vq)
{
	return vq->inflight || vq->base != (vq->packed ? 0x80008000u : 0);
}

static void start_on_data_loop(void *arg)
{
	struct start *s = arg;
	struct sl_queue *q = s->q;
	const struct sl_device *d = q->device;
	int ret;

	q->stopping = q->broken = q->starved = q->in_round = q->owes_call = q->forgotten = q->leaving = false;
	q->has_region = s->setup->vq.inflight;
	q->logged = s->setup->vq.log;
	q->staged = 0;
	set_in_flight(q, 0);
	q->call_fd = s->setup->call_fd;
	errno = 0;
	q->vq = sl_vq_new(&s->setup->vq, s->mem, s->err);
	if (!q->vq) {
		s->ret = errno ? -errno : -EINVAL;
		return;
	}
	ret = make_slots(q, s->setup->vq.num);
	if (ret)
		sl_err_set(s->err, ENOMEM, "%s: queue %u: out of memory", d->name, q->index);
	if (!ret && d->ops->queue_size)
		memset(q->priv, 0, d->ops->queue_size);
	if (!ret && d->ops->queue_start) {
		ret = d->ops->queue_start(q);
		if (ret)
			sl_err_set(s->err, -ret, "%s: queue %u: start: %s", d->name, q->index, strerror(-ret));
	}
	if (!ret && s->setup->kick_fd >= 0) {
		ret = sl_watch_add(q->loop, &q->kick, s->setup->kick_fd, EPOLLIN | EPOLLET);
		if (ret) {
			sl_err_set(s->err, -ret, "%s: queue %u: kick descriptor: %s", d->name, q->index, strerror(-ret));
			if (d->ops->queue_stop)
				d->ops->queue_stop(q);
		}
	}
	s->ret = ret;
	if (ret) {
		drop_ring(q);
		return;
	}
	activate(q);
	if (continues(&s->setup->vq))
		call_driver(q);
}

static void use_call_of_setup(void *arg)
{
	struct start *s = arg;

	s->q->call_fd = s->setup->call_fd;
}

/* The call descriptor is kept for the calls that come by way of this process. */
static int place_queue(struct start *s)
{
	sl_loop_invoke(s->q->loop, use_call_of_setup, s);
	return s->q->device->ops->placement->queue_start(s->q->device, s->q->index, s->setup, s->mem, s->err);
}

int sl_queue_start(struct sl_device *d, unsigned int index, const struct sl_queue_setup *setup, struct sl_mem *mem,
		   struct sl_err *err)
{
	struct sl_queue_setup with_features = *setup;
	struct start s = {.setup = &with_features, .mem = mem, .err = err};

	if (index >= d->num_queues)
		return sl_err_set(err, EINVAL, "%s: queue %u: there are %u", d->name, index, d->num_queues);
	s.q = &d->queues[index];
	if (s.q->state != QUEUE_STOPPED)
		return sl_err_set(err, EBUSY, "%s: queue %u: runs already", d->name, index);
	if (!setup->vq.num || setup->vq.num > d->max_queue_size)
		return sl_err_set(err, EINVAL, "%s: queue %u: size %u, 1 to %u are allowed", d->name, index, setup->vq.num,
				  d->max_queue_size);
	with_features.vq.packed = sl_features_has(&d->accepted, SL_F_RING_PACKED);
	with_features.vq.event_idx = sl_features_has(&d->accepted, SL_F_EVENT_IDX);
	with_features.vq.indirect = sl_features_has(&d->accepted, SL_F_INDIRECT_DESC);
	with_features.vq.in_order = sl_features_has(&d->accepted, SL_F_IN_ORDER);
	if (d->ops->placement)
		s.ret = place_queue(&s);
	else
		sl_loop_invoke(s.q->loop, start_on_data_loop, &s);
	if (!s.ret)
		s.q->state = QUEUE_RUNNING;
	s.q->was_broken = false;
	return s.ret;
}

/* ---- stop ---- */

/* Data loop, end of a turn: the last request is done. */
static void finish_stop(void *arg)
{
	struct sl_queue *q = arg;

	if (!q->vq || !q->stopping || q->in_flight)
		return;
	flush(q);
	q->last_base = sl_vq_base(q->vq);
	if (q->device->ops->queue_stop)
		q->device->ops->queue_stop(q);
	drop_ring(q);
	sl_task_send(q->device->control, &q->stopped);
}

static void set_give_up(struct sl_queue *q)
{
	if (q->device->stop_timeout_ms && q->device->ops->abandon)
		sl_timer_set(q->loop, &q->give_up, q->device->stop_timeout_ms * 1000000ULL);
}

/*
 * The stop has waited long enough. What the device gives up is not pushed but
 * left in the inflight region, where somebody will find it: no request fails
 * that a later try can still do. Otherwise the device's answer is pushed, an
 * error, or the driver would wait for it for ever.
 */
static void give_up(void *arg)
{
	struct sl_queue *q = arg;
	unsigned int waiting = q->in_flight, seconds = q->device->stop_timeout_ms / 1000;

	q->leaving = q->has_region && !q->logged && !q->forgotten;
	q->device->ops->abandon(q);
	if (waiting != q->in_flight)
		sl_log(SL_LOG_WARN, "%s: queue %u: stop: requests without an answer after %u s: %u, %s", q->device->name,
		       q->index, seconds, waiting - q->in_flight,
		       q->leaving ? "left in the inflight region for the next start" : "given up");
	q->leaving = false;
	if (!q->in_flight)
		return;
	sl_log(SL_LOG_WARN, "%s: queue %u: stop: requests that cannot be taken back: %u: waiting for them",
	       q->device->name, q->index, q->in_flight);
	set_give_up(q);
}

/*
 * What an earlier process left in the inflight region is begun before the
 * queue stops: whoever comes next may have the base and not the region, as
 * when a guest moves to another host. These were in flight together once, so
 * there are slots and memory for them; what a region says beyond that stays.
 */
static void take_resubmits(struct sl_queue *q)
{
	unsigned int n;

	while (!q->broken && !q->starved && (n = sl_vq_resubmits(q->vq)) && make_round(q, n))
		;
}

static void stop_on_data_loop(void *arg)
{
	struct sl_queue *q = arg;

	if (q->stopping)
		return;
	take_resubmits(q);
	q->stopping = true;
	sl_watch_del(&q->kick);
	sl_poller_deactivate(q->loop, &q->poller);
	if (!q->in_flight) {
		sl_task_post(q->loop, &q->finish);
		return;
	}
	set_give_up(q);
	if (q->device->ops->drain)
		q->device->ops->drain(q);
}

static void reset_on_data_loop(void *arg)
{
	((struct sl_queue *)arg)->forgotten = true;
	stop_on_data_loop(arg);
}

bool queue_ask_stop(struct sl_queue *q, bool forget)
{
	if (q->state == QUEUE_STOPPED)
		return false;
	if (q->device->ops->placement) {
		if (q->state == QUEUE_RUNNING)
			q->device->ops->placement->queue_stop(q->device, q->index);
	} else if (q->state == QUEUE_RUNNING || forget)
		sl_loop_invoke(q->loop, forget ? reset_on_data_loop : stop_on_data_loop, q);
	q->state = QUEUE_STOPPING;
	return true;
}

static void stopped(void *arg)
{
	struct sl_queue *q = arg;

	q->state = QUEUE_STOPPED;
	device_queue_stopped(q);
}

static void broke(void *arg)
{
	device_queue_broke(arg);
}

static void forget_call(void *arg)
{
	((struct sl_queue *)arg)->call_fd = -1;
}

void sl_queue_stopped(struct sl_device *d, unsigned int index, uint32_t base)
{
	/* A call that is under way on the data loop is over when this returns: the descriptor is the transport's again. */
	sl_loop_invoke(d->queues[index].loop, forget_call, &d->queues[index]);
	d->queues[index].last_base = base;
	stopped(&d->queues[index]);
}

void sl_queue_call(struct sl_device *d, unsigned int index)
{
	call_driver(&d->queues[index]);
}

/* ---- small changes while it runs ---- */

struct change {
	struct sl_queue *q;
	int fd;
	struct sl_mem *mem;
	struct sl_dirty_log *log;
	bool log_ring;
	uint64_t log_addr;
};

static void set_call(void *arg)
{
	struct change *c = arg;

	c->q->call_fd = c->fd;
}

static void set_kick(void *arg)
{
	struct change *c = arg;

	sl_watch_del(&c->q->kick);
	if (c->fd < 0 || !c->q->vq || c->q->broken || c->q->stopping)
		return;
	if (sl_watch_add(c->q->loop, &c->q->kick, c->fd, EPOLLIN | EPOLLET) < 0)
		break_queue(c->q, "the kick descriptor cannot be waited on");
	else
		activate(c->q); /* a kick on the old descriptor may be lost: look */
}

static void set_mem(void *arg)
{
	struct change *c = arg;

	if (c->q->vq && !c->q->broken && sl_vq_set_mem(c->q->vq, c->mem) < 0)
		break_queue(c->q, sl_vq_broken(c->q->vq));
}

static void set_log(void *arg)
{
	struct change *c = arg;

	c->q->logged = c->log;
	if (c->q->vq)
		sl_vq_set_log(c->q->vq, c->log, c->log_ring, c->log_addr);
}

/* Make a change on the data loop. A queue that is stopping may have lost its ring there already. */
static void change(struct sl_device *d, unsigned int index, void (*fn)(void *arg), struct change *c)
{
	if (index >= d->num_queues)
		return;
	c->q = &d->queues[index];
	if (c->q->state != QUEUE_STOPPED)
		sl_loop_invoke(c->q->loop, fn, c);
}

void sl_queue_set_call(struct sl_device *d, unsigned int index, int fd)
{
	change(d, index, set_call, &(struct change){.fd = fd});
	if (sl_queue_running(d, index) && d->ops->placement)
		d->ops->placement->queue_call(d, index, fd);
}

void sl_queue_set_kick(struct sl_device *d, unsigned int index, int fd)
{
	change(d, index, set_kick, &(struct change){.fd = fd});
}

void sl_queue_set_log(struct sl_device *d, unsigned int index, struct sl_dirty_log *log, bool log_ring,
		      uint64_t log_addr)
{
	change(d, index, set_log, &(struct change){.log = log, .log_ring = log_ring, .log_addr = log_addr});
}

void sl_device_set_mem(struct sl_device *d, struct sl_mem *mem)
{
	for (unsigned int i = 0; i < d->num_queues; i++)
		change(d, i, set_mem, &(struct change){.mem = mem});
}

void sl_queue_kick(struct sl_device *d, unsigned int index)
{
	struct sl_queue *q;

	if (index >= d->num_queues)
		return;
	q = &d->queues[index];
	if (sl_loop_is_here(q->loop))
		kicked(q);
	else
		sl_task_send(q->loop, &q->kicked);
}

/* ---- the rest ---- */

void queue_init(struct sl_device *d, unsigned int index, struct sl_loop *loop)
{
	struct sl_queue *q = &d->queues[index];

	q->device = d;
	q->index = index;
	q->loop = loop;
	q->call_fd = -1;
	q->kick = (struct sl_watch){.fn = kick_ready, .arg = q, .fd = -1};
	q->poller = (struct sl_poller){.poll = poll_queue, .arm = arm_queue, .arg = q, .max_us = d->poll_us};
	q->kicked = (struct sl_task){.fn = kicked, .arg = q};
	q->flush = (struct sl_task){.fn = flush, .arg = q};
	q->finish = (struct sl_task){.fn = finish_stop, .arg = q};
	q->give_up = (struct sl_timer){.fn = give_up, .arg = q};
	q->stopped = (struct sl_task){.fn = stopped, .arg = q};
	q->broke = (struct sl_task){.fn = broke, .arg = q};
}

struct sl_queue *sl_queue_at(struct sl_device *d, unsigned int index)
{
	return &d->queues[index];
}

struct sl_device *sl_queue_device(const struct sl_queue *q)
{
	return q->device;
}

unsigned int sl_queue_index(const struct sl_queue *q)
{
	return q->index;
}

struct sl_loop *sl_queue_loop(const struct sl_queue *q)
{
	return q->loop;
}

void *sl_queue_priv(const struct sl_queue *q)
{
	return q->priv;
}

bool sl_queue_running(const struct sl_device *d, unsigned int index)
{
	return index < d->num_queues && d->queues[index].state == QUEUE_RUNNING;
}

enum sl_queue_state sl_queue_state(const struct sl_device *d, unsigned int index)
{
	const struct sl_queue *q = index < d->num_queues ? &d->queues[index] : NULL;

	if (!q || q->state == QUEUE_STOPPED)
		return SL_QUEUE_STOPPED;
	if (q->state == QUEUE_STOPPING)
		return SL_QUEUE_STOPPING;
	return q->was_broken ? SL_QUEUE_BROKEN : SL_QUEUE_RUNNING;
}

void sl_queue_stats(const struct sl_device *d, unsigned int index, struct sl_queue_stats *out)
{
	const struct sl_queue_stats *s;

	*out = (struct sl_queue_stats){0};
	if (index >= d->num_queues)
		return;
	s = &d->queues[index].stats;
	out->requests = __atomic_load_n(&s->requests, __ATOMIC_RELAXED);
	out->rounds = __atomic_load_n(&s->rounds, __ATOMIC_RELAXED);
	out->kicks = __atomic_load_n(&s->kicks, __ATOMIC_RELAXED);
	out->calls = __atomic_load_n(&s->calls, __ATOMIC_RELAXED);
	out->in_flight = __atomic_load_n(&d->queues[index].in_flight, __ATOMIC_RELAXED);
}
