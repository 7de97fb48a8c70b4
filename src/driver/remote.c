/* SPDX-License-Identifier: MIT */
/* remote.c - a device whose queues run in another process: the device. See remote.h.
 *
 * Theory of operation
 *
 * The control loop writes down what is wanted: which queues are to run, with
 * which ring, kick and call; which configuration the driver wrote. A thread of
 * the device, the keeper, makes it so. It alone talks to the back-end, waits
 * for its answers and for its return, so that a back-end that is slow, silent
 * or gone holds up nobody else: not the control loop, no processor, no other
 * device. What it finds out (a queue has stopped, the configuration changed,
 * something cannot work) it writes down as well, and a task of the control
 * loop takes it from there.
 *
 *     control loop                     @lock                       keeper
 *     queue_start, queue_stop, ...  -> wanted, setup    -> link: start, stop, ...
 *     sl_queue_stopped(), ...       <- stopped, fault   <-
 *
 * The keeper compares what is wanted with what this connection's back-end has
 * been told, so a first start, a change and a return after a death are the
 * same code: a back-end that has just come has been told nothing.
 *
 * When a back-end dies
 *
 * Kicks are not lost: the eventfd keeps them, and a queue that starts again is
 * kicked once. Calls are not lost: the driver is called once. Requests are not
 * lost when there is an inflight region: the successor finds there what was in
 * flight and completes it. Without one nobody knows which of the requests that
 * the driver waits for were begun or done, out of order; a queue that has any
 * then needs a reset. A reset of the driver's makes a new region.
 *
 * A back-end that returns must offer what the driver was offered, and have a
 * configuration that its type calls the same. Another one is refused, with a
 * line, and asked again later.
 *
 * Stop
 *
 * A stop lasts as long as the back-end has requests in flight, because until
 * then it writes to guest memory; a death ends that as well. A back-end that
 * takes longer than stop_timeout_ms is cut off, which from here on is as if it
 * had died: nothing can take the memory away from it, but a driver must not
 * wait for ever. After remote_leave() nobody needs that memory any more, and
 * nothing is waited for.
 */
#include "base/thread.h"
#include "driver/remote_impl.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <sluice/log.h>

#include "base/notify.h"

#define SLOW_STOP_NS 5000000000ull

/* ---- data loops: what passes through this process ---- */

static void call_driver(void *arg)
{
	struct remote_queue *q = arg;
	bool wanted;

	pthread_mutex_lock(&q->r->lock);
	wanted = q->wanted;
	pthread_mutex_unlock(&q->r->lock);
	if (wanted)
		sl_queue_call(q->r->device, q->index);
}

static void relay(void *arg, uint32_t events)
{
	(void)events;
	call_driver(arg);
}

static void place_kick(struct sl_device *d, unsigned int index)
{
	struct remote *r = sl_device_priv(d);
	struct remote_queue *q = &r->queues[index];

	pthread_mutex_lock(&r->lock);
	if (q->wanted && !r->left)
		notify_peer(sl_queue_loop(sl_queue_at(d, index)), q->setup.kick_fd >= 0 ? q->setup.kick_fd : q->own_kick);
	pthread_mutex_unlock(&r->lock);
}

/* ---- the control loop ---- */

static void poke(void *arg)
{
	remote_signal(((struct remote *)arg)->wake_fd);
}

static void put_mem(struct remote_queue *q)
{
	sl_mem_put(q->mem);
	q->mem = NULL;
}

static void take_configuration(struct remote *r)
{
	uint8_t config[SL_DEVICE_MAX_CONFIG];
	bool any;

	pthread_mutex_lock(&r->lock);
	any = r->has_news;
	r->has_news = false;
	for (const struct sl_config_range *w = r->type->writable; any && r->written && w && w->len; w++)
		if (w->off + w->len <= r->config_len)
			memcpy(r->news + w->off, r->config + w->off, w->len);
	if (any)
		memcpy(r->config, r->news, r->config_len);
	memcpy(config, r->config, r->config_len);
	pthread_mutex_unlock(&r->lock);
	if (any)
		sl_device_config_update(r->device, 0, config, r->config_len);
}

/* What the keeper found out about a queue. */
static void take_queue(struct remote *r, struct remote_queue *q)
{
	char fault[sizeof(q->fault)];
	bool stopped;

	pthread_mutex_lock(&r->lock);
	stopped = q->stopped;
	q->stopped = false;
	memcpy(fault, q->fault, sizeof(fault));
	if (!q->wanted) /* it is about an earlier life */
		fault[0] = '\0';
	q->fault[0] = '\0';
	if (stopped)
		put_mem(q);
	pthread_mutex_unlock(&r->lock);
	if (stopped)
		sl_queue_stopped(r->device, q->index, 0);
	else if (fault[0])
		sl_device_needs_reset(r->device, q->index, fault);
}

static void told(void *arg)
{
	struct remote *r = arg;
	bool waiting = false;

	take_configuration(r);
	for (unsigned int i = 0; i < r->num_queues; i++)
		take_queue(r, &r->queues[i]);
	pthread_mutex_lock(&r->lock);
	for (unsigned int i = 0; i < r->num_queues; i++)
		waiting |= r->queues[i].asked || r->queues[i].stopped;
	pthread_mutex_unlock(&r->lock);
	if (waiting)
		return;
	sl_timer_clear(r->control, &r->slow);
	sl_timer_clear(r->control, &r->too_slow);
}

static void stop_is_slow(void *arg)
{
	struct remote *r = arg;

	sl_log(SL_LOG_WARN, "%s: stop: the back-end has not finished its requests after %u s: waiting for it", r->name,
	       (unsigned int)(SLOW_STOP_NS / 1000000000));
}

static void stop_is_too_slow(void *arg)
{
	struct remote *r = arg;

	pthread_mutex_lock(&r->lock);
	for (unsigned int i = 0; i < r->num_queues; i++)
		r->cut |= r->queues[i].asked;
	if (r->cut)
		remote_signal(r->cut_fd);
	pthread_mutex_unlock(&r->lock);
}

static int place_start(struct sl_device *d, unsigned int index, const struct sl_queue_setup *setup, struct sl_mem *mem,
		       struct sl_err *err)
{
	struct remote *r = sl_device_priv(d);
	struct remote_queue *q = &r->queues[index];
	/* Only to judge the ring; the back-end makes one of its own. */
	struct sl_vq *vq = sl_vq_new(&setup->vq, mem, err);

	if (!vq)
		return -EINVAL;
	sl_vq_free(vq);
	pthread_mutex_lock(&r->lock);
	if (q->used || r->left) {
		pthread_mutex_unlock(&r->lock);
		return sl_err_set(err, ENOTSUP, "%s: queue %u: %s", r->name, index,
				  r->left ? "the back-end was left" : "starts again only after a reset of the device");
	}
	q->used = q->wanted = true;
	q->setup = *setup;
	q->call_turn++;
	q->mem = sl_mem_get(mem);
	r->accepted = *sl_device_features(d);
	pthread_mutex_unlock(&r->lock);
	sl_task_post(r->control, &r->poke);
	return 0;
}

static void place_stop(struct sl_device *d, unsigned int index)
{
	struct remote *r = sl_device_priv(d);
	struct remote_queue *q = &r->queues[index];

	pthread_mutex_lock(&r->lock);
	q->wanted = false;
	q->asked = !r->left;
	q->stopped = r->left;
	q->fault[0] = '\0';
	pthread_mutex_unlock(&r->lock);
	if (!r->slow.set)
		sl_timer_set(r->control, &r->slow, SLOW_STOP_NS);
	if (!r->too_slow.set && r->stop_timeout_ms)
		sl_timer_set(r->control, &r->too_slow, r->stop_timeout_ms * 1000000ull);
	sl_task_post(r->control, r->left ? &r->told : &r->poke);
}

static void place_call(struct sl_device *d, unsigned int index, int fd)
{
	struct remote *r = sl_device_priv(d);
	struct remote_queue *q = &r->queues[index];

	pthread_mutex_lock(&r->lock);
	q->setup.call_fd = fd;
	q->call_turn++;
	pthread_mutex_unlock(&r->lock);
	sl_task_post(r->control, &r->poke);
}

static const struct sl_placement_ops placement = {
	.queue_start = place_start,
	.queue_stop = place_stop,
	.queue_call = place_call,
	.queue_kick = place_kick,
};

static void config_written(struct sl_device *d, uint32_t off, uint32_t len)
{
	struct remote *r = sl_device_priv(d);

	pthread_mutex_lock(&r->lock);
	sl_device_config_read(d, off, r->config + off, len);
	r->written = r->unsent = true;
	pthread_mutex_unlock(&r->lock);
	sl_task_post(r->control, &r->poke);
}

/* The driver begins a new life, and finds what it may write as the first back-end had it. */
static void reset(struct sl_device *d)
{
	struct remote *r = sl_device_priv(d);

	pthread_mutex_lock(&r->lock);
	r->epoch++;
	for (unsigned int i = 0; i < r->num_queues; i++)
		r->queues[i].used = false;
	for (const struct sl_config_range *w = r->type->writable; w && w->len; w++)
		if (w->off + w->len <= r->config_len)
			memcpy(r->config + w->off, r->initial + w->off, w->len);
	r->unsent = r->written;
	pthread_mutex_unlock(&r->lock);
	sl_device_config_update(d, 0, r->config, r->config_len);
	sl_task_post(r->control, &r->poke);
}

/* ---- life ---- */

static int make_device(struct remote *r, const struct remote_config *cfg, struct sl_err *err)
{
	const struct sl_device_config dev = {
		.ops = &r->ops,
		.priv = r,
		.name = r->name,
		.offered = r->known,
		.num_queues = r->num_queues,
		.max_queue_size = r->queue_size,
		.config = r->config,
		.config_len = r->config_len,
		.writable = r->type->writable,
		.control = r->control,
		.loops = cfg->loops,
		.num_loops = cfg->num_loops,
		.first_loop = cfg->first_loop,
	};

	r->device = sl_device_new(&dev, err);
	return r->device ? 0 : -EINVAL;
}

static void watch_relay(void *arg)
{
	struct remote_queue *q = arg;

	sl_watch_add(sl_queue_loop(sl_queue_at(q->r->device, q->index)), &q->relay, q->relay_fd, EPOLLIN | EPOLLET);
}

static void unwatch_relay(void *arg)
{
	struct remote_queue *q = arg;

	sl_task_cancel(q->relay.loop, &q->call);
	sl_watch_del(&q->relay);
}

static int make_queues(struct remote *r, struct sl_err *err)
{
	r->queues = calloc(r->num_queues, sizeof(*r->queues));
	if (!r->queues)
		return sl_err_set(err, ENOMEM, "%s: out of memory", r->name);
	for (unsigned int i = 0; i < r->num_queues; i++)
		r->queues[i] = (struct remote_queue){.r = r, .index = i, .own_kick = -1, .relay_fd = -1, .kick_fd = -1,
						     .call_fd = -1};
	for (unsigned int i = 0; i < r->num_queues; i++) {
		struct remote_queue *q = &r->queues[i];

		q->relay = (struct sl_watch){.fn = relay, .arg = q, .fd = -1};
		q->call = (struct sl_task){.fn = call_driver, .arg = q};
		q->own_kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		q->relay_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (q->relay_fd >= 0)
			sl_loop_invoke(sl_queue_loop(sl_queue_at(r->device, i)), watch_relay, q);
		if (q->own_kick < 0 || !q->relay.loop)
			return sl_err_set(err, EMFILE, "%s: eventfd: out of descriptors", r->name);
	}
	return 0;
}

static int watch_fd(struct remote *r, int fd, bool on)
{
	struct epoll_event ev = {.events = EPOLLIN};

	return epoll_ctl(r->cancel_fd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &ev);
}

/* Turn into what the back-end offers. Nobody else needs this thread before the device is there. */
static int first_connection(struct remote *r, int interrupt_fd, struct sl_err *err)
{
	int ret = 0;

	if (interrupt_fd >= 0 && watch_fd(r, interrupt_fd, true))
		return sl_err_set(err, errno, "%s: epoll: %s", r->name, strerror(errno));
	while (!ret && !r->link) {
		struct pollfd p = {.fd = r->cancel_fd, .events = POLLIN};

		if (poll(&p, 1, remote_next_try(r)) > 0)
			ret = sl_err_set(err, ECANCELED, "%s: interrupted", r->name);
		else
			ret = remote_connect(r, err);
	}
	if (interrupt_fd >= 0)
		watch_fd(r, interrupt_fd, false);
	memcpy(r->initial, r->config, r->config_len);
	return ret;
}

static int set_up(struct remote *r, const struct remote_config *cfg, struct sl_err *err)
{
	int ret;

	r->name = strdup(cfg->name);
	r->path = strdup(cfg->path);
	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->quit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->cut_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->cancel_fd = epoll_create1(EPOLL_CLOEXEC);
	if (!r->name || !r->path || r->wake_fd < 0 || r->quit_fd < 0 || r->cut_fd < 0 || r->cancel_fd < 0 ||
	    watch_fd(r, r->quit_fd, true) || watch_fd(r, r->cut_fd, true))
		return sl_err_set(err, errno, "%s: %s", cfg->name, strerror(errno));
	ret = first_connection(r, cfg->interrupt_fd, err);
	if (!ret)
		ret = make_device(r, cfg, err);
	if (!ret)
		ret = make_queues(r, err);
	if (ret)
		return ret;
	ret = thread_start(&r->keeper, remote_keep, r);
	r->kept = !ret;
	return ret ? sl_err_set(err, -ret, "%s: thread: %s", r->name, strerror(-ret)) : 0;
}

struct remote *remote_open(const struct remote_config *cfg, struct sl_err *err)
{
	struct remote *r = calloc(1, sizeof(*r));

	if (!r) {
		sl_err_set(err, ENOMEM, "%s: out of memory", cfg->name);
		return NULL;
	}
	r->type = cfg->type;
	r->ops = (struct sl_device_ops){.type = cfg->type->type, .id = cfg->type->id, .config_written = config_written,
					.reset = reset, .placement = &placement};
	r->without = cfg->without;
	r->num_queues = cfg->num_queues;
	r->queue_size = cfg->queue_size;
	r->timeout_ms = cfg->timeout_ms;
	r->stop_timeout_ms = cfg->stop_timeout_ms;
	r->control = cfg->control;
	r->own_config = cfg->config;
	r->config_len = cfg->config_len;
	if (cfg->config)
		memcpy(r->config, cfg->config, cfg->config_len);
	r->wake_fd = r->quit_fd = r->cut_fd = r->cancel_fd = r->region.fd = -1;
	r->epoch = 1;
	r->retry_ms = REMOTE_FIRST_RETRY_MS;
	r->since = sl_now();
	r->poke = (struct sl_task){.fn = poke, .arg = r};
	r->told = (struct sl_task){.fn = told, .arg = r};
	r->slow = (struct sl_timer){.fn = stop_is_slow, .arg = r};
	r->too_slow = (struct sl_timer){.fn = stop_is_too_slow, .arg = r};
	pthread_mutex_init(&r->lock, NULL);
	if (!set_up(r, cfg, err))
		return r;
	remote_close(r);
	return NULL;
}

struct sl_device *remote_device(const struct remote *r)
{
	return r->device;
}

bool remote_present(const struct remote *r)
{
	return __atomic_load_n(&r->present, __ATOMIC_RELAXED);
}

int remote_memory(struct remote *r, const struct sl_link_region *regions, unsigned int n, struct sl_err *err)
{
	for (unsigned int i = 0; i < n && i < SL_LINK_MAX_REGIONS; i++) {
		r->regions[i] = regions[i];
		r->regions[i].fd = fcntl(regions[i].fd, F_DUPFD_CLOEXEC, 3);
		if (r->regions[i].fd < 0)
			return sl_err_set(err, errno, "%s: memory: %s", r->name, strerror(errno));
		r->num_regions++;
	}
	return 0;
}

void remote_leave(struct remote *r)
{
	if (!r->kept)
		return;
	remote_signal(r->quit_fd);
	pthread_join(r->keeper, NULL);
	r->kept = false;
	pthread_mutex_lock(&r->lock);
	r->left = true;
	pthread_mutex_unlock(&r->lock);
}

void remote_close(struct remote *r)
{
	if (!r)
		return;
	remote_leave(r);
	remote_drop(r); /* when there never was a keeper */
	sl_task_cancel(r->control, &r->poke);
	sl_task_cancel(r->control, &r->told);
	sl_timer_clear(r->control, &r->slow);
	sl_timer_clear(r->control, &r->too_slow);
	for (unsigned int i = 0; i < r->num_queues && r->queues; i++) {
		struct remote_queue *q = &r->queues[i];

		if (q->relay.loop)
			sl_loop_invoke(q->relay.loop, unwatch_relay, q);
		if (q->relay_fd >= 0)
			close(q->relay_fd);
		if (q->own_kick >= 0)
			close(q->own_kick);
		put_mem(q);
	}
	sl_device_free(r->device);
	for (unsigned int i = 0; i < r->num_regions; i++)
		close(r->regions[i].fd);
	if (r->wake_fd >= 0)
		close(r->wake_fd);
	if (r->quit_fd >= 0)
		close(r->quit_fd);
	if (r->cut_fd >= 0)
		close(r->cut_fd);
	if (r->cancel_fd >= 0)
		close(r->cancel_fd);
	pthread_mutex_destroy(&r->lock);
	free(r->queues);
	free(r->name);
	free(r->path);
	free(r);
}
