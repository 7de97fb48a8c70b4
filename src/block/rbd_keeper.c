/* SPDX-License-Identifier: MIT */
/* rbd_keeper.c - a thread for each image, which makes all calls that may block.
 *
 * Theory of operation
 *
 * librbd opens, locks, resizes and closes an image by asking the cluster, and
 * when that does not answer such a call does not come back. So a thread of its
 * own makes them, the control loop waits for a bounded time, and what takes
 * longer is left to the thread: it owns the image from then on, and frees
 * itself if it ever comes back.
 *
 * The same thread learns a new size. librbd says only that something changed,
 * in a callback that must not ask for more.
 *
 * The exclusive lock. librbd moves its lock between all who write, which
 * protects nobody. Held in the mode EXCLUSIVE it is not given away: a live
 * owner answers -EROFS to who asks. An owner that was killed answers nothing;
 * the cluster forgets it after a while (osd_client_watch_timeout, 30 s unless
 * configured), librbd then breaks the lock and bars the dead client from the
 * cluster, so that nothing it had under way arrives later. rbd_lock_acquire()
 * waits for all this by itself.
 */
#include "base/thread.h"
#include "block/rbd.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sluice/log.h>

#define OPEN_SECONDS 60u /* longer than a dead owner keeps the lock */
#define SAY_SECONDS 3u	 /* until a line says what it is that takes so long */
#define RESIZE_SECONDS 30u
#define CLOSE_SECONDS 5u
#define NEXT_CLOSE_SECONDS 1u /* after one that took longer than that: so many disks on a dead cluster end soon, too */

/**
 * struct rbd_keeper
 * @name ... @o: copies: the thread may outlive who asked
 * @size:    as the cluster said last; relaxed
 * @lock:    guards what is below
 * @event:   for the thread: look again; @answer: for the control loop
 * @doing:   what the thread is at
 * @opened, @open_ret, @err: opening is over, and how
 * @stale:   librbd said that something changed
 * @wanted:  a size to give the image; 0: none
 * @resized, @resize_ret: that is over, and how
 * @closing: the control loop has no more wishes
 * @over:    the thread is done with everything but itself
 * @left:    nobody waits for it: it frees itself
 * @watcher: who hears of a new size
 */
struct rbd_keeper {
	char *name, *pool, *image_name, *snap;
	struct rbd_options o;
	bool read_only;
	pthread_t thread;
	struct rbd_cluster *cluster;
	rados_ioctx_t pool_io;
	rbd_image_t image;
	uint64_t update_handle;
	bool watching;
	uint64_t size;

	pthread_mutex_t lock;
	pthread_cond_t event, answer;
	const char *doing;
	bool opened, stale, resized, closing, over, left;
	int open_ret, resize_ret;
	struct sl_err err;
	uint64_t wanted;
	struct block *watcher;
};

static void keeper_free(struct rbd_keeper *k)
{
	pthread_cond_destroy(&k->event);
	pthread_cond_destroy(&k->answer);
	pthread_mutex_destroy(&k->lock);
	free(k->name);
	free(k->pool);
	free(k->image_name);
	free(k->snap);
	free((void *)(uintptr_t)k->o.conf);
	free((void *)(uintptr_t)k->o.user);
	free((void *)(uintptr_t)k->o.namespace);
	free(k);
}

static void doing(struct rbd_keeper *k, const char *what)
{
	pthread_mutex_lock(&k->lock);
	k->doing = what;
	pthread_mutex_unlock(&k->lock);
}

/* ---- opening; on the thread ---- */

static int open_pool(struct rbd_keeper *k)
{
	bool exists = true;
	int ret;

	ret = ceph.rados_ioctx_create(rbd_cluster_rados(k->cluster), k->pool, &k->pool_io);
	if (ret) {
		k->pool_io = NULL;
		return sl_err_set(&k->err, -ret, "%s: no pool '%s' in the cluster: %s", k->name, k->pool, strerror(-ret));
	}
	if (!k->o.namespace)
		return 0;
	ret = ceph.rbd_namespace_exists(k->pool_io, k->o.namespace, &exists);
	if (!ret && !exists)
		return sl_err_set(&k->err, ENOENT, "%s: namespace=%s: the pool '%s' has none of that name", k->name,
				  k->o.namespace, k->pool);
	ceph.rados_ioctx_set_namespace(k->pool_io, k->o.namespace);
	return 0;
}

/* The image's or the pool's own settings go before ours; this one must not. */
static int check_settings(struct rbd_keeper *k)
{
	static const char key[] = "conf_rbd_disable_zero_copy_writes";
	char value[16];
	size_t image_len = sizeof(value), pool_len = sizeof(value);

	if ((!ceph.rbd_metadata_get(k->image, key, value, &image_len) && strcmp(value, "true")) ||
	    (!ceph.rbd_pool_metadata_get(k->pool_io, key, value, &pool_len) && strcmp(value, "true")))
		return sl_err_set(&k->err, ENOTSUP, "%s: rbd_disable_zero_copy_writes=%s is set for the image or its pool: "
				  "remove that, see rbd config", k->name, value);
	return 0;
}

static int open_image(struct rbd_keeper *k)
{
	int ret;

	if (k->read_only)
		ret = ceph.rbd_open_read_only(k->pool_io, k->image_name, &k->image, NULL);
	else
		ret = ceph.rbd_open(k->pool_io, k->image_name, &k->image, NULL);
	if (ret)
		k->image = NULL;
	if (ret == -ENOENT)
		return sl_err_set(&k->err, ENOENT, "%s: no image '%s' in the pool '%s'%s%s", k->name, k->image_name,
				  k->pool, k->o.namespace ? ", namespace " : "", k->o.namespace ? k->o.namespace : "");
	if (ret)
		return sl_err_set(&k->err, -ret, "%s: cannot open the image: %s", k->name, strerror(-ret));
	ret = k->snap ? ceph.rbd_snap_set(k->image, k->snap) : 0;
	if (ret)
		return sl_err_set(&k->err, -ret, "%s: no snapshot '%s' of the image: %s", k->name, k->snap, strerror(-ret));
	return check_settings(k);
}

/* Who holds the lock, for the line that says so. */
static void name_owner(struct rbd_keeper *k, char *text, size_t len)
{
	char tag[80], clients[256] = "", cookies[256], addresses[256] = "";
	size_t tag_len = sizeof(tag), clients_len = sizeof(clients), cookies_len = sizeof(cookies);
	size_t addresses_len = sizeof(addresses);
	int exclusive;

	if (ceph.rbd_list_lockers(k->image, &exclusive, tag, &tag_len, clients, &clients_len, cookies, &cookies_len, addresses,
			     &addresses_len) > 0)
		snprintf(text, len, ": %.60s at %.60s", clients, addresses);
}

static int lock_image(struct rbd_keeper *k)
{
	uint64_t features;
	char owner[160] = "";
	int ret = ceph.rbd_get_features(k->image, &features);

	if (!ret && !(features & RBD_FEATURE_EXCLUSIVE_LOCK))
		return sl_err_set(&k->err, ENOTSUP, "%s: the image has no feature exclusive-lock, so nothing keeps others from "
				  "writing to it: enable it (rbd feature enable) or add exclusive=off", k->name);
	name_owner(k, owner, sizeof(owner));
	if (!ret)
		ret = ceph.rbd_lock_acquire(k->image, RBD_LOCK_MODE_EXCLUSIVE);
	if (ret == -EROFS || ret == -EBUSY)
		return sl_err_set(&k->err, EBUSY, "%s: in use by another client of the cluster%s", k->name, owner);
	return ret ? sl_err_set(&k->err, -ret, "%s: cannot take the image's lock: %s", k->name, strerror(-ret)) : 0;
}

static int learn_size(struct rbd_keeper *k)
{
	uint64_t size;
	int ret = ceph.rbd_get_size(k->image, &size);

	if (ret)
		return ret;
	__atomic_store_n(&k->size, size, __ATOMIC_RELAXED);
	return 0;
}

/* On a thread of librbd's, which must not ask anything. */
static void updated(void *arg)
{
	struct rbd_keeper *k = arg;

	pthread_mutex_lock(&k->lock);
	k->stale = true;
	pthread_cond_signal(&k->event);
	pthread_mutex_unlock(&k->lock);
}

static int open_all(struct rbd_keeper *k)
{
	int ret = rbd_cluster_get(&k->o, k->name, &k->cluster, &k->err);

	if (ret)
		return ret;
	doing(k, "opening the image");
	ret = open_pool(k);
	if (!ret)
		ret = open_image(k);
	if (!ret && k->o.exclusive && !k->read_only) {
		doing(k, "waiting for the image's lock");
		ret = lock_image(k);
	}
	if (ret)
		return ret;
	if (!k->read_only) /* librbd does not hear of changes of what it may only read */
		ret = ceph.rbd_update_watch(k->image, &k->update_handle, updated, k);
	k->watching = !ret && !k->read_only;
	if (!ret)
		ret = learn_size(k);
	return ret ? sl_err_set(&k->err, -ret, "%s: cannot tell the size: %s", k->name, strerror(-ret)) : 0;
}

static void close_all(struct rbd_keeper *k)
{
	if (k->watching)
		ceph.rbd_update_unwatch(k->image, k->update_handle);
	if (k->image)
		ceph.rbd_close(k->image);
	if (k->pool_io)
		ceph.rados_ioctx_destroy(k->pool_io);
	if (k->cluster)
		rbd_cluster_put(k->cluster);
}

/* ---- the thread ---- */

/* Both are called, and return, with the lock held. */
static void look_at_size(struct rbd_keeper *k)
{
	uint64_t before = rbd_keeper_size(k);

	k->stale = false;
	pthread_mutex_unlock(&k->lock);
	learn_size(k);
	pthread_mutex_lock(&k->lock);
	if (rbd_keeper_size(k) != before && k->watcher)
		block_changed(k->watcher);
}

static void resize(struct rbd_keeper *k)
{
	uint64_t size = k->wanted;
	int ret;

	pthread_mutex_unlock(&k->lock);
	ret = ceph.rbd_resize(k->image, size);
	learn_size(k);
	pthread_mutex_lock(&k->lock);
	k->wanted = 0;
	k->resize_ret = ret;
	k->resized = true;
	pthread_cond_signal(&k->answer);
	if (k->watcher) /* who asked for it may have stopped waiting */
		block_changed(k->watcher);
}

static void *keeper_main(void *arg)
{
	struct rbd_keeper *k = arg;
	int ret = open_all(k);
	bool left;

	pthread_mutex_lock(&k->lock);
	k->open_ret = ret;
	k->opened = true;
	pthread_cond_signal(&k->answer);
	while (!k->closing) {
		if (k->wanted)
			resize(k);
		else if (k->stale)
			look_at_size(k);
		else
			pthread_cond_wait(&k->event, &k->lock);
	}
	pthread_mutex_unlock(&k->lock);
	close_all(k);
	pthread_mutex_lock(&k->lock);
	k->over = true;
	left = k->left;
	pthread_cond_signal(&k->answer);
	pthread_mutex_unlock(&k->lock);
	if (left)
		keeper_free(k);
	return NULL;
}

/* ---- the control loop's side ---- */

/* Wait until *@what, under the lock; false when it takes longer than @seconds. */
static bool wait_for(struct rbd_keeper *k, const bool *what, unsigned int seconds)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += seconds;
	while (!*what)
		if (pthread_cond_timedwait(&k->answer, &k->lock, &until))
			return *what;
	return true;
}

static struct rbd_keeper *keeper_new(const char *name, const struct rbd_place *at, const struct rbd_options *o)
{
	struct rbd_keeper *k = calloc(1, sizeof(*k));
	pthread_condattr_t attr;

	if (!k)
		return NULL;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&k->event, &attr);
	pthread_cond_init(&k->answer, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&k->lock, NULL);
	k->o = *o;
	k->name = strdup(name);
	k->pool = strdup(at->pool);
	k->image_name = strdup(at->image);
	k->snap = at->snap ? strdup(at->snap) : NULL;
	k->o.conf = o->conf ? strdup(o->conf) : NULL;
	k->o.user = strdup(o->user);
	k->o.namespace = o->namespace ? strdup(o->namespace) : NULL;
	k->read_only = at->read_only;
	k->doing = "connecting";
	if (k->name && k->pool && k->image_name && k->o.user && !k->snap == !at->snap && !k->o.conf == !o->conf &&
	    !k->o.namespace == !o->namespace && !thread_start(&k->thread, keeper_main, k))
		return k;
	keeper_free(k);
	return NULL;
}

/* Bounded; @k is gone afterwards. */
static void leave(struct rbd_keeper *k, unsigned int seconds)
{
	static bool given_up; /* a close has; control loop only */

	if (given_up && seconds > NEXT_CLOSE_SECONDS)
		seconds = NEXT_CLOSE_SECONDS;
	pthread_mutex_lock(&k->lock);
	k->watcher = NULL;
	k->closing = true;
	pthread_cond_signal(&k->event);
	if (wait_for(k, &k->over, seconds)) {
		pthread_mutex_unlock(&k->lock);
		pthread_join(k->thread, NULL);
		keeper_free(k);
		given_up = false;
		return;
	}
	given_up = true;
	if (seconds)
		sl_log(SL_LOG_WARN, "%s: the cluster does not answer: left without closing the image", k->name);
	k->left = true;
	pthread_detach(k->thread);
	pthread_mutex_unlock(&k->lock);
}

int rbd_keeper_open(const char *name, const struct rbd_place *at, const struct rbd_options *o, struct rbd_keeper **out,
		    struct sl_err *err)
{
	struct rbd_keeper *k;
	bool opened;
	int ret = ceph_load(name, err);

	if (ret)
		return ret;
	k = keeper_new(name, at, o);
	if (!k)
		return sl_err_set(err, ENOMEM, "%s: out of memory", name);
	pthread_mutex_lock(&k->lock);
	if (!wait_for(k, &k->opened, SAY_SECONDS)) {
		sl_log(SL_LOG_INFO, "%s: %s", name, k->doing);
		wait_for(k, &k->opened, OPEN_SECONDS - SAY_SECONDS);
	}
	opened = k->opened;
	ret = opened ? k->open_ret : -ETIMEDOUT;
	if (!opened)
		sl_err_set(err, ETIMEDOUT, "%s: %s: no answer in %u s", name, k->doing, OPEN_SECONDS);
	else if (ret && err)
		*err = k->err;
	pthread_mutex_unlock(&k->lock);
	if (ret)
		leave(k, opened ? CLOSE_SECONDS : 0);
	else
		*out = k;
	return ret;
}

rbd_image_t rbd_keeper_image(const struct rbd_keeper *k)
{
	return k->image;
}

uint64_t rbd_keeper_size(const struct rbd_keeper *k)
{
	return __atomic_load_n(&k->size, __ATOMIC_RELAXED);
}

void rbd_keeper_watch(struct rbd_keeper *k, struct block *b)
{
	pthread_mutex_lock(&k->lock);
	k->watcher = b;
	pthread_mutex_unlock(&k->lock);
}

int rbd_keeper_resize(struct rbd_keeper *k, uint64_t size, struct sl_err *err)
{
	int ret;

	pthread_mutex_lock(&k->lock);
	if (k->wanted) {
		pthread_mutex_unlock(&k->lock);
		return sl_err_set(err, EBUSY, "%s: still being resized", k->name);
	}
	k->wanted = size;
	k->resized = false;
	pthread_cond_signal(&k->event);
	ret = wait_for(k, &k->resized, RESIZE_SECONDS) ? k->resize_ret : -ETIMEDOUT;
	pthread_mutex_unlock(&k->lock);
	if (ret == -ETIMEDOUT)
		return sl_err_set(err, ETIMEDOUT, "%s: resizing takes longer than %u s and goes on", k->name,
				  RESIZE_SECONDS);
	return ret ? sl_err_set(err, -ret, "%s: cannot be resized: %s", k->name, strerror(-ret)) : 0;
}

void rbd_keeper_close(struct rbd_keeper *k)
{
	leave(k, CLOSE_SECONDS);
}
