/* SPDX-License-Identifier: MIT */
/* remote_keeper.c - the thread that talks to the back-end of a remote device. remote.c says how it fits in. */
#include "driver/remote_impl.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include <sluice/log.h>

#define MS 1000000ull
#define LAST_RETRY_MS 500
#define STABLE_NS (100 * MS) /* a connection that lasted so long was a good one */

#define DRIVER_IS_HERE (SL_STATUS_ACKNOWLEDGE | SL_STATUS_DRIVER)

static void clear_fd(int fd)
{
	uint64_t n;

	while (read(fd, &n, sizeof(n)) < 0 && errno == EINTR)
		;
}

static bool readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) > 0;
}

/* ---- the keeper: no back-end ---- */

static void forget_fds(struct remote_queue *q)
{
	if (q->kick_fd >= 0)
		close(q->kick_fd);
	if (q->call_fd >= 0)
		close(q->call_fd);
	q->kick_fd = q->call_fd = -1;
}

static void tell(struct remote *r)
{
	sl_task_send(r->control, &r->told);
}

/* Queues that no back-end has any more, and that the driver does not want either. */
static void settle(struct remote *r)
{
	bool any = false, waiting = false;

	pthread_mutex_lock(&r->lock);
	for (unsigned int i = 0; i < r->num_queues && r->queues; i++) {
		struct remote_queue *q = &r->queues[i];

		waiting |= q->running && q->asked;
		if (q->running || q->wanted)
			continue;
		q->failed = q->resumes = false;
		if (q->asked)
			any = q->stopped = true;
		q->asked = false;
	}
	if (r->cut && !waiting) {
		r->cut = false;
		clear_fd(r->cut_fd);
	}
	pthread_mutex_unlock(&r->lock);
	if (any)
		tell(r);
}

/* What the driver adds from here on, the back-end that is gone has not begun. */
static void note_place(struct remote *r, struct remote_queue *q)
{
	uint16_t used;

	pthread_mutex_lock(&r->lock);
	q->resumes = q->wanted;
	if (q->wanted)
		sl_vq_positions(&q->setup.vq, q->mem, &q->offered, &used);
	pthread_mutex_unlock(&r->lock);
}

/*
 * Where the next back-end goes on; under the lock. One with an inflight region
 * knows better. Without one it is only known when everything that the last one
 * can have begun is used: false when it is not.
 */
static bool find_place(const struct remote *r, const struct remote_queue *q, uint32_t *base)
{
	uint16_t avail, used;

	*base = q->setup.vq.base;
	if (!q->resumes)
		return true;
	if (!sl_vq_positions(&q->setup.vq, q->mem, &avail, &used))
		return r->region.fd >= 0;
	*base = used;
	return r->region.fd >= 0 || used == q->offered;
}

void remote_drop(struct remote *r)
{
	for (unsigned int i = 0; i < r->num_queues && r->queues; i++) {
		struct remote_queue *q = &r->queues[i];

		if (q->running)
			note_place(r, q);
		q->running = false;
		forget_fds(q);
	}
	if (r->link)
		r->link->ops->close(r->link);
	r->link = NULL;
	__atomic_store_n(&r->present, false, __ATOMIC_RELAXED);
	r->begun = 0;
}

/* Once for each reason, not once for each attempt. */
static void no_backend(struct remote *r, const char *why)
{
	if (!strcmp(r->why.text, why))
		return;
	sl_log(SL_LOG_WARN, "%s: %s: waiting for it", r->name, why);
	sl_err_set(&r->why, EAGAIN, "%s", why);
}

/* It is good for something: one that is refused, or refuses, at every attempt is not told of at every attempt. */
static void have_backend(struct remote *r, const char *how)
{
	if (r->why.text[0])
		sl_log(SL_LOG_INFO, "%s: the back-end is %s after %.1f s", r->name, how, (double)r->away / 1e9);
	r->why.text[0] = '\0';
}

static bool is_cut(struct remote *r)
{
	bool cut;

	pthread_mutex_lock(&r->lock);
	cut = r->cut;
	pthread_mutex_unlock(&r->lock);
	return cut;
}

static void lost(struct remote *r, const char *why)
{
	bool cut = r->link && is_cut(r);
	uint64_t now = sl_now();
	char text[120];

	if (r->link && now - r->since > STABLE_NS)
		r->retry_ms = REMOTE_FIRST_RETRY_MS;
	if (r->link)
		r->since = now;
	r->next_try = now + r->retry_ms * MS;
	if (cut) {
		snprintf(text, sizeof(text), "the back-end has not finished its requests within %u s of a stop and is cut off",
			 r->stop_timeout_ms / 1000);
		why = text;
	}
	/* Before anybody hears of it: what the driver makes available from then on was not begun. */
	remote_drop(r);
	if (cut || !readable(r->cancel_fd))
		no_backend(r, why);
	settle(r);
}

/* Nobody listens, which is what is waited for. */
static bool is_absence(int errnum)
{
	return errnum == ENOENT || errnum == ECONNREFUSED || errnum == EAGAIN;
}

/* ---- the keeper: a back-end that has just come ---- */

static void mask_features(const struct remote *r, struct sl_features *f)
{
	static const unsigned int rings[] = {SL_F_ANY_LAYOUT, SL_F_INDIRECT_DESC, SL_F_EVENT_IDX, SL_F_VERSION_1,
					     SL_F_RING_PACKED, SL_F_IN_ORDER, SL_F_ORDER_PLATFORM};
	uint64_t mask = r->type->features;

	for (unsigned int i = 0; i < sizeof(rings) / sizeof(rings[0]); i++)
		mask |= 1ull << rings[i];
	*f = (struct sl_features){{f->w[0] & mask & ~r->without.w[0]}};
}

static int read_config(struct remote *r, struct sl_link *l, uint8_t *config, struct sl_err *err)
{
	const uint16_t *len = r->type->config_lens;
	int ret = 0;

	if (r->own_config || !*len)
		return 0;
	if (r->is_known) {
		ret = l->ops->config_read(l, 0, config, r->config_len, err);
	} else {
		/* Back-ends refuse to give more than they know. */
		while ((ret = l->ops->config_read(l, 0, config, *len, err)) == -EREMOTEIO && len[1])
			len++;
		r->config_len = *len;
	}
	if (!ret && r->type->adjust)
		r->type->adjust(config, r->config_len, r->num_queues);
	return ret;
}

static int first_look(struct remote *r, struct sl_link *l, const struct sl_features *f, int queues, struct sl_err *err)
{
	uint16_t asked = r->num_queues;
	int ret;

	if (!sl_features_has(f, SL_F_VERSION_1))
		return sl_err_set(err, ENOTSUP, "%s: the back-end does not offer VERSION_1", r->name);
	if (r->num_queues > queues)
		return sl_err_set(err, EINVAL, "%s: queues=%u: the back-end has %d", r->name, r->num_queues, queues);
	if (!r->num_queues)
		r->num_queues = (uint16_t)queues;
	ret = read_config(r, l, r->config, err);
	if (ret) {
		r->num_queues = asked;
		return ret;
	}
	r->known = *f;
	r->is_known = true;
	return 0;
}

static int second_look(struct remote *r, struct sl_link *l, const struct sl_features *f, int queues, struct sl_err *err)
{
	uint8_t now[SL_DEVICE_MAX_CONFIG];
	const char *bad = NULL;
	int ret;

	if (r->known.w[0] & ~f->w[0])
		return sl_err_set(err, ENOTSUP, "the back-end came back without features %#llx",
				  (unsigned long long)(r->known.w[0] & ~f->w[0]));
	if (queues < r->num_queues)
		return sl_err_set(err, ENOTSUP, "the back-end came back with %d queues instead of %u", queues,
				  r->num_queues);
	ret = read_config(r, l, now, err);
	if (ret || r->own_config || !r->config_len)
		return ret;
	pthread_mutex_lock(&r->lock);
	/* What the driver may write is the driver's to say. */
	for (const struct sl_config_range *w = r->type->writable; w && w->len; w++)
		if (w->off + w->len <= r->config_len)
			memcpy(now + w->off, r->config + w->off, w->len);
	if (r->type->same)
		bad = r->type->same(r->config, now, r->config_len);
	else if (memcmp(r->config, now, r->config_len))
		bad = "another configuration";
	if (!bad) {
		memcpy(r->news, now, r->config_len);
		r->has_news = true;
	}
	pthread_mutex_unlock(&r->lock);
	if (bad)
		return sl_err_set(err, ENOTSUP, "the back-end came back with %s", bad);
	tell(r);
	return 0;
}

/* How many queues a back-end has that speaks of 256, which is what a link says when nobody told it? */
static int count_queues(const struct remote *r, struct sl_link *l, struct sl_err *err)
{
	int n = l->ops->num_queues(l, err);

	return n > 255 ? (r->num_queues > r->type->num_queues ? r->num_queues : r->type->num_queues) : n;
}

static int look(struct remote *r, struct sl_link *l, struct sl_err *err)
{
	struct sl_features f;
	int ret = l->ops->features(l, &f, err), queues = 0;

	if (!ret) {
		mask_features(r, &f);
		queues = count_queues(r, l, err);
		ret = queues < 0 ? queues : 0;
	}
	if (!ret)
		ret = r->is_known ? second_look(r, l, &f, queues, err) : first_look(r, l, &f, queues, err);
	return ret;
}

/* After these a link is dead; any other error is a refusal of this one thing. */
static bool is_dead(int ret)
{
	return ret == -EPIPE || ret == -ETIMEDOUT || ret == -EPROTO || ret == -ECANCELED;
}

/* One attempt; 0, or what speaks against ever using this back-end. */
int remote_connect(struct remote *r, struct sl_err *err)
{
	const struct sl_link_vhost_user_config cfg = {
		.path = r->path, .timeout_ms = r->timeout_ms, .cancel_fd = r->cancel_fd, .patient = true,
	};
	bool first = !r->is_known;
	struct sl_link *l = sl_link_vhost_user_open(&cfg, err);
	int ret;

	r->retry_ms = r->retry_ms < LAST_RETRY_MS / 2 ? 2 * r->retry_ms : LAST_RETRY_MS;
	if (!l) {
		lost(r, is_absence(errno) && r->why.text[0] ? r->why.text : err->text);
		return 0;
	}
	ret = look(r, l, err);
	if (ret) {
		l->ops->close(l);
		lost(r, err->text);
		return is_dead(ret) ? 0 : ret;
	}
	r->link = l;
	__atomic_store_n(&r->present, true, __ATOMIC_RELAXED);
	r->away = sl_now() - r->since;
	r->since += r->away;
	if (first)
		have_backend(r, "here");
	return 0;
}

/* ---- the keeper: tell the back-end what is wanted ---- */

static int stop_queues(struct remote *r, struct sl_err *err)
{
	for (unsigned int i = 0; i < r->num_queues; i++) {
		struct remote_queue *q = &r->queues[i];
		bool stop;
		int ret;

		pthread_mutex_lock(&r->lock);
		stop = q->running && !q->wanted;
		pthread_mutex_unlock(&r->lock);
		if (!stop)
			continue;
		ret = r->link->ops->queue_stop(r->link, i, NULL, err);
		if (ret)
			return ret;
		q->running = false;
		forget_fds(q);
	}
	settle(r);
	return 0;
}

static void drop_region(struct remote *r)
{
	if (r->region.fd >= 0)
		close(r->region.fd);
	r->region.fd = -1;
}

/* A region for the largest ring: all queues that belong together are wanted at the same moment. */
static int new_region(struct remote *r, struct sl_err *err)
{
	uint16_t num = 0;
	int ret;

	drop_region(r);
	r->region_epoch = r->begun;
	pthread_mutex_lock(&r->lock);
	for (unsigned int i = 0; i < r->num_queues; i++)
		if (r->queues[i].wanted && r->queues[i].setup.vq.num > num)
			num = r->queues[i].setup.vq.num;
	pthread_mutex_unlock(&r->lock);
	ret = r->link->ops->inflight_get(r->link, r->num_queues, num, &r->region, err);
	if (ret) {
		r->region.fd = -1;
		if (is_dead(ret))
			return ret;
		if (!r->warned)
			sl_log(SL_LOG_INFO, "%s: the back-end keeps no inflight region: killed with requests in flight, it cannot be "
			       "replaced until the driver resets the device", r->name);
		r->warned = true;
		return 0;
	}
	return r->link->ops->inflight_set(r->link, &r->region, err);
}

static int send_config(struct remote *r, struct sl_err *err)
{
	uint8_t config[SL_DEVICE_MAX_CONFIG];
	int ret = 0;

	pthread_mutex_lock(&r->lock);
	memcpy(config, r->config, r->config_len);
	r->unsent = false;
	pthread_mutex_unlock(&r->lock);
	for (const struct sl_config_range *w = r->type->writable; w && w->len && !is_dead(ret); w++)
		if (w->off + w->len <= r->config_len)
			ret = r->link->ops->config_write(r->link, w->off, config + w->off, w->len, err);
	if (ret && !is_dead(ret))
		sl_log(SL_LOG_WARN, "%s: %s", r->name, err->text);
	return is_dead(ret) ? ret : 0;
}

/* What comes before the queues: the driver's features, memory, the inflight region, the driver's configuration. */
static int begin(struct remote *r, unsigned int epoch, struct sl_err *err)
{
	const struct sl_link_ops *ops = r->link->ops;
	struct sl_features f;
	bool written;
	int ret = 0;

	if (r->begun) /* another life of the driver's */
		ret = ops->status_set(r->link, 0, err);
	r->begun = epoch;
	pthread_mutex_lock(&r->lock);
	f = r->accepted;
	written = r->written;
	pthread_mutex_unlock(&r->lock);
	if (!ret)
		ret = ops->status_set(r->link, DRIVER_IS_HERE, err);
	if (!ret)
		ret = ops->accept(r->link, &f, err);
	if (!ret)
		ret = ops->status_set(r->link, DRIVER_IS_HERE | SL_STATUS_FEATURES_OK, err);
	if (!ret)
		ret = ops->status_get(r->link, err);
	if (ret >= 0 && !(ret & SL_STATUS_FEATURES_OK))
		ret = sl_err_set(err, EREMOTEIO, "the back-end refuses the driver's features");
	if (ret >= 0)
		ret = ops->set_memory(r->link, r->regions, r->num_regions, err);
	if (!ret && r->region_epoch != epoch)
		ret = new_region(r, err);
	else if (!ret && r->region.fd >= 0)
		ret = ops->inflight_set(r->link, &r->region, err);
	return !ret && written ? send_config(r, err) : ret;
}

static int copy_fd(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* The transport may close its descriptors as soon as it said so, hence copies, made under the lock. */
static bool copy_setup(struct remote *r, struct remote_queue *q, struct sl_link_queue *out, bool *known)
{
	const struct sl_vq_config *vq = &q->setup.vq;
	uint32_t base;
	int kick, call;

	pthread_mutex_lock(&r->lock);
	if (!q->wanted || q->running || q->failed) {
		pthread_mutex_unlock(&r->lock);
		return false;
	}
	kick = q->setup.kick_fd >= 0 ? q->setup.kick_fd : q->own_kick;
	call = q->setup.call_fd >= 0 ? q->setup.call_fd : q->relay_fd;
	q->kick_fd = copy_fd(kick);
	q->call_fd = copy_fd(call);
	q->turn = q->call_turn;
	*known = find_place(r, q, &base);
	*out = (struct sl_link_queue){.num = vq->num, .desc = vq->desc, .driver = vq->driver, .device = vq->device,
				      .base = base, .kick_fd = q->kick_fd, .call_fd = q->call_fd};
	pthread_mutex_unlock(&r->lock);
	return true;
}

static void fail_queue(struct remote *r, struct remote_queue *q, const char *why)
{
	q->failed = true;
	forget_fds(q);
	pthread_mutex_lock(&r->lock);
	snprintf(q->fault, sizeof(q->fault), "%s", why);
	pthread_mutex_unlock(&r->lock);
	tell(r);
}

static void call(struct remote *r, struct remote_queue *q)
{
	sl_task_send(sl_queue_loop(sl_queue_at(r->device, q->index)), &q->call);
}

static int start_queue(struct remote *r, struct remote_queue *q, struct sl_err *err)
{
	struct sl_link_queue setup;
	bool known;
	int ret;

	if (!copy_setup(r, q, &setup, &known))
		return 0;
	if (!known) {
		fail_queue(r, q, "the back-end died with requests in flight and keeps no inflight region");
		return 0;
	}
	if (r->region.fd >= 0 && setup.num > r->region.queue_size) {
		fail_queue(r, q, "it is larger than the queues that were started before, for which the inflight region was made");
		return 0;
	}
	if (setup.kick_fd < 0 || setup.call_fd < 0) {
		fail_queue(r, q, "out of descriptors");
		return 0;
	}
	ret = r->link->ops->queue_start(r->link, q->index, &setup, err);
	if (is_dead(ret)) {
		note_place(r, q); /* it may have begun */
		forget_fds(q);
		return ret;
	}
	if (ret) {
		fail_queue(r, q, err->text);
		return 0;
	}
	q->running = true;
	sl_queue_kick(r->device, q->index);
	if (q->resumes) /* the dead one may have used buffers and not have called */
		call(r, q);
	return 0;
}

static int change_call(struct remote *r, struct remote_queue *q, struct sl_err *err)
{
	int fd = -1, ret;

	pthread_mutex_lock(&r->lock);
	if (q->running && q->wanted && q->turn != q->call_turn) {
		fd = copy_fd(q->setup.call_fd >= 0 ? q->setup.call_fd : q->relay_fd);
		q->turn = q->call_turn;
	}
	pthread_mutex_unlock(&r->lock);
	if (fd < 0)
		return 0;
	ret = r->link->ops->set_call(r->link, q->index, fd, err);
	close(q->call_fd);
	q->call_fd = fd;
	/* A call to the old descriptor may have come when nobody looked there any more. */
	call(r, q);
	return is_dead(ret) ? ret : 0;
}

static bool something_wanted(struct remote *r, unsigned int *epoch, bool *unsent)
{
	bool wanted = false;

	pthread_mutex_lock(&r->lock);
	for (unsigned int i = 0; i < r->num_queues; i++)
		wanted |= r->queues[i].wanted;
	*epoch = r->epoch;
	*unsent = r->unsent;
	pthread_mutex_unlock(&r->lock);
	return wanted;
}

static int start_queues(struct remote *r, struct sl_err *err)
{
	bool before = false, after = false;
	int ret = 0;

	for (unsigned int i = 0; i < r->num_queues && !ret; i++) {
		before |= r->queues[i].running;
		ret = start_queue(r, &r->queues[i], err);
		after |= r->queues[i].running;
	}
	if (!ret && after && !before)
		ret = r->link->ops->status_set(r->link, DRIVER_IS_HERE | SL_STATUS_FEATURES_OK | SL_STATUS_DRIVER_OK,
					       err);
	for (unsigned int i = 0; i < r->num_queues && !is_dead(ret); i++)
		ret = change_call(r, &r->queues[i], err);
	return ret;
}

/* The back-end was told something else than what is wanted: tell it. */
static void converge(struct remote *r)
{
	struct sl_err err = {""};
	unsigned int epoch;
	bool unsent, wanted;
	int ret = stop_queues(r, &err);

	wanted = something_wanted(r, &epoch, &unsent);
	if (!ret && wanted && r->begun != epoch)
		ret = begin(r, epoch, &err);
	else if (!ret && unsent)
		ret = send_config(r, &err);
	if (!ret && wanted)
		ret = start_queues(r, &err);
	if (ret)
		lost(r, ret == -EPIPE ? "the back-end has gone" : err.text);
	else
		have_backend(r, "back");
}

static void look_at_link(struct remote *r)
{
	unsigned int events = r->link->ops->events(r->link);
	uint8_t config[SL_DEVICE_MAX_CONFIG];
	struct sl_err err = {""};
	int ret = 0;

	if (events & SL_LINK_GONE) {
		lost(r, "the back-end has gone");
		return;
	}
	if (!(events & SL_LINK_CONFIG) || r->own_config)
		return;
	ret = read_config(r, r->link, config, &err);
	if (ret) {
		lost(r, err.text);
		return;
	}
	pthread_mutex_lock(&r->lock);
	memcpy(r->news, config, r->config_len);
	r->has_news = true;
	pthread_mutex_unlock(&r->lock);
	tell(r);
}

/* ---- the keeper: life ---- */

int remote_next_try(const struct remote *r)
{
	uint64_t now = sl_now();

	return r->next_try > now ? (int)((r->next_try - now) / MS) + 1 : 0;
}

static void wait_for_news(struct remote *r)
{
	struct pollfd p[3] = {{.fd = r->quit_fd, .events = POLLIN}, {.fd = r->wake_fd, .events = POLLIN}, {.fd = -1}};

	if (r->link)
		p[2] = (struct pollfd){.fd = r->link->ops->event_fd(r->link), .events = POLLIN};
	poll(p, 3, r->link ? -1 : remote_next_try(r));
	if (p[1].revents)
		clear_fd(r->wake_fd);
}

void *remote_keep(void *arg)
{
	struct remote *r = arg;
	struct sl_err err = {""};

	while (!readable(r->quit_fd)) {
		if (r->link)
			look_at_link(r);
		else if (!remote_next_try(r))
			remote_connect(r, &err);
		if (r->link)
			converge(r);
		else
			settle(r);
		wait_for_news(r);
	}
	remote_drop(r);
	drop_region(r);
	settle(r);
	return NULL;
}

