/* SPDX-License-Identifier: MIT */
/* deadline.c - how long the requests of a channel have been waiting for a store that may be gone.
 *
 * Requests are listed in the order in which they came, so the first one is the
 * oldest, and one timer that looks at it is enough. The timer is not cleared
 * when the list becomes empty: under load that happens all the time, and one
 * look too many after it costs less. Then it stays off until there is work.
 */
#include "block/deadline.h"

#include <inttypes.h>
#include <stdio.h>

#define MS 1000000u
#define SECOND (1000u * (uint64_t)MS)
#define FIRST_WARNING (2 * SECOND)
#define LOOK (1 * SECOND) /* the longest time between two looks while something waits */

void deadlines_init(struct deadlines *all, const char *layer, uint64_t timeout_s,
		    void (*expired)(struct block_channel *c, struct deadline_entry *e))
{
	all->layer = layer;
	all->timeout_ns = timeout_s * SECOND;
	all->expired = expired;
	pthread_mutex_init(&all->lock, NULL);
}

void deadlines_free(struct deadlines *all)
{
	pthread_mutex_destroy(&all->lock);
}

static void number(const struct block_report *r, const char *layer, const char *what, uint64_t value)
{
	char name[64];

	snprintf(name, sizeof(name), "%s.%s", layer, what);
	r->number(r->arg, name, value);
}

void deadlines_report(struct deadlines *all, const struct block_report *r)
{
	uint64_t now = sl_now(), count = 0, age = 0;

	pthread_mutex_lock(&all->lock);
	for (struct deadline *d = all->first; d; d = d->next) {
		uint64_t since = __atomic_load_n(&d->since, __ATOMIC_RELAXED);

		count += __atomic_load_n(&d->count, __ATOMIC_RELAXED);
		if (since && now > since && now - since > age)
			age = now - since;
	}
	pthread_mutex_unlock(&all->lock);
	number(r, all->layer, "requests-in-flight", count);
	number(r, all->layer, "oldest-request-ms", age / MS);
	number(r, all->layer, "timeouts", __atomic_load_n(&all->timeouts, __ATOMIC_RELAXED));
}

/* ---- the timer ---- */

static void expire(struct deadline *d, uint64_t now)
{
	uint64_t limit = d->all->timeout_ns;

	d->expiring = true;
	while (limit && d->head && now - d->head->since >= limit) {
		__atomic_add_fetch(&d->all->timeouts, 1, __ATOMIC_RELAXED);
		d->all->expired(d->channel, d->head);
	}
	d->expiring = false;
}

static void warn(struct deadline *d, uint64_t age)
{
	const char *name = d->channel->block->name;

	if (age >= d->warn_ns) {
		sl_log_limited(&d->log, SL_LOG_WARN, "%s: no answer: the oldest of %" PRIu64
			       " requests has been waiting for %" PRIu64 " s", name, d->count, age / SECOND);
		d->warned = true;
		d->answered = false;
		d->warn_ns = 2 * age;
	} else if (d->warned && d->answered && age < FIRST_WARNING) {
		sl_log_limited(&d->log, SL_LOG_INFO, "%s: requests are answered again", name);
		d->warned = false;
		d->warn_ns = FIRST_WARNING;
	}
}

static void look(void *arg)
{
	struct deadline *d = arg;
	uint64_t now = sl_now(), limit = d->all->timeout_ns, age, next = LOOK;

	warn(d, d->head ? now - d->head->since : 0);
	expire(d, now);
	if (!d->head)
		return;
	age = now - d->head->since;
	if (limit && limit - age < next)
		next = limit - age;
	sl_timer_set(d->channel->loop, &d->timer, next);
}

/* ---- the list ---- */

void deadline_start(struct deadline *d, struct deadlines *all, struct block_channel *c)
{
	*d = (struct deadline){.all = all, .channel = c, .warn_ns = FIRST_WARNING, .timer = {.fn = look, .arg = d}};
	pthread_mutex_lock(&all->lock);
	d->next = all->first;
	d->prev = &all->first;
	if (d->next)
		d->next->prev = &d->next;
	all->first = d;
	pthread_mutex_unlock(&all->lock);
}

void deadline_stop(struct deadline *d)
{
	if (!d->all)
		return;
	sl_timer_clear(d->channel->loop, &d->timer);
	pthread_mutex_lock(&d->all->lock);
	*d->prev = d->next;
	if (d->next)
		d->next->prev = d->prev;
	pthread_mutex_unlock(&d->all->lock);
	d->all = NULL;
}

static void publish(struct deadline *d, uint64_t count)
{
	__atomic_store_n(&d->count, count, __ATOMIC_RELAXED);
	__atomic_store_n(&d->since, d->head ? d->head->since : 0, __ATOMIC_RELAXED);
}

void deadline_add(struct deadline *d, struct deadline_entry *e)
{
	uint64_t limit = d->all->timeout_ns;

	e->since = sl_now();
	e->next = NULL;
	e->prev = d->tail;
	if (d->tail)
		d->tail->next = e;
	else
		d->head = e;
	d->tail = e;
	publish(d, d->count + 1);
	if (!d->timer.set)
		sl_timer_set(d->channel->loop, &d->timer, limit && limit < LOOK ? limit : LOOK);
}

void deadline_del(struct deadline *d, struct deadline_entry *e)
{
	if (e->prev)
		e->prev->next = e->next;
	else
		d->head = e->next;
	if (e->next)
		e->next->prev = e->prev;
	else
		d->tail = e->prev;
	d->answered |= !d->expiring;
	publish(d, d->count - 1);
}
