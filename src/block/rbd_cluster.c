/* SPDX-License-Identifier: MIT */
/* rbd_cluster.c - connections to Ceph clusters, one a disk or some that disks share (connections=N).
 *
 * A connection is about 15 threads and 30 MB of Ceph's libraries. They are
 * called on the threads of the keepers only, as all of it may block.
 */
#include "block/rbd.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_SECONDS "10"

struct ceph_calls ceph;

int ceph_load(const char *name, struct sl_err *err)
{
	static const char *const names[] = {CEPH_CALLS(LIBRARY_NAME)};
	/* librbd brings librados with it, and dlsym() looks there, too */
	static struct library library = {"librbd.so.1", names, &ceph, sizeof(names) / sizeof(names[0]), false};
	struct sl_err why;

	if (library_load(&library, &why))
		return sl_err_set(err, ENOTSUP, "%s: needs Ceph's library (package librbd1): %s", name, why.text);
	return 0;
}

/**
 * struct rbd_cluster
 * @conf, @user, @cache: what it was made with; others that want the same may share it
 * @shared: with connections=: others may come
 * @users: images; guarded by the registry's lock
 */
struct rbd_cluster {
	rados_t rados;
	char *conf, *user;
	bool cache, shared;
	unsigned int users;
	struct rbd_cluster *next;
};

/* The connections that may be shared. The one thing in here that belongs to the process and not to a disk. */
static struct {
	pthread_mutex_t lock;
	struct rbd_cluster *first;
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void cluster_free(struct rbd_cluster *c)
{
	if (c->rados)
		ceph.rados_shutdown(c->rados);
	free(c->conf);
	free(c->user);
	free(c);
}

/* ---- connecting ---- */

static int no_connection(struct rbd_cluster *c, const char *name, int ret, struct sl_err *err)
{
	char monitors[256] = "";

	if (ret == -ETIMEDOUT) {
		ceph.rados_conf_get(c->rados, "mon_host", monitors, sizeof(monitors));
		return sl_err_set(err, ETIMEDOUT, "%s: cannot connect: no monitor of the cluster answers in %s s%s%s", name,
				  CONNECT_SECONDS, *monitors ? ": mon_host is " : "", monitors);
	}
	if (ret == -EACCES || ret == -EPERM)
		return sl_err_set(err, EACCES, "%s: cannot connect: the cluster does not take the key of client.%s", name,
				  c->user);
	if (ret == -ENOENT)
		return sl_err_set(err, ENOENT, "%s: cannot connect: no monitor's address or no key for client.%s: "
				  "see mon_host and keyring in the cluster's configuration", name, c->user);
	return sl_err_set(err, -ret, "%s: cannot connect: %s", name, strerror(-ret));
}

/*
 * One image's answers come one after the other in any case (librbd sees to that), so the two threads Ceph has for them
 * unless configured mostly wake each other: with one, 4 KiB reads at depth 32 take 13 us of processor time instead of
 * 16, and a third of the context switches. Images that share a connection do have use for two.
 */
static void answer_on_one_thread(struct rbd_cluster *c)
{
	static const char key[] = "librados_thread_count", ceph_default[] = "2";
	char threads[8] = "";

	/* Another number is somebody's wish. Where this fails there are two, which works as well. */
	if (!ceph.rados_conf_get(c->rados, key, threads, sizeof(threads)) && !strcmp(threads, ceph_default))
		ceph.rados_conf_set(c->rados, key, "1");
}

static int configure(struct rbd_cluster *c, const char *name, struct sl_err *err)
{
	const char *const settings[][2] = {
		{"client_mount_timeout", CONNECT_SECONDS},
		{"rbd_cache", c->cache ? "true" : "false"},
		/* librbd copies what is written while it takes the request: guest memory is not looked at later. */
		{"rbd_disable_zero_copy_writes", "true"},
		{"err_to_stderr", "false"}, /* the line is ours to write */
	};
	int ret = 0;

	/* These stay, whatever the file says. */
	for (unsigned int i = 0; i < sizeof(settings) / sizeof(settings[0]) && !ret; i++)
		ret = ceph.rados_conf_set(c->rados, settings[i][0], settings[i][1]);
	if (ret)
		return sl_err_set(err, -ret, "%s: cannot configure Ceph's library: %s", name, strerror(-ret));
	ret = ceph.rados_conf_read_file(c->rados, *c->conf ? c->conf : NULL);
	if (ret == -ENOENT && !*c->conf)
		return sl_err_set(err, ENOENT, "%s: no configuration of a cluster: none of $CEPH_CONF, "
				  "/etc/ceph/ceph.conf, ~/.ceph/ceph.conf; add conf=FILE", name);
	if (ret)
		return sl_err_set(err, -ret, "%s: conf=%s: %s", name, c->conf, strerror(-ret));
	if (!c->shared)
		answer_on_one_thread(c);
	return 0;
}

static int cluster_connect(struct rbd_cluster *c, const char *name, struct sl_err *err)
{
	int ret = ceph.rados_create(&c->rados, c->user);

	if (ret) {
		c->rados = NULL;
		return sl_err_set(err, -ret, "%s: user=%s: %s", name, c->user, strerror(-ret));
	}
	ret = configure(c, name, err);
	if (ret)
		return ret;
	ret = ceph.rados_connect(c->rados);
	return ret ? no_connection(c, name, ret, err) : 0;
}

static int cluster_new(const struct rbd_options *o, const char *name, struct rbd_cluster **out, struct sl_err *err)
{
	struct rbd_cluster *c = calloc(1, sizeof(*c));
	int ret = -ENOMEM;

	if (c) {
		c->conf = strdup(o->conf ? o->conf : "");
		c->user = strdup(o->user);
		c->cache = o->cache;
		c->shared = o->connections;
		c->users = 1;
	}
	if (!c || !c->conf || !c->user)
		sl_err_set(err, ENOMEM, "%s: out of memory", name);
	else
		ret = cluster_connect(c, name, err);
	if (ret && c)
		cluster_free(c);
	else
		*out = c;
	return ret;
}

/* ---- sharing ---- */

/* The least used one that fits, when there are as many as there may be; NULL: make one. Under the lock. */
static struct rbd_cluster *least_used(const struct rbd_options *o)
{
	struct rbd_cluster *best = NULL;
	unsigned int n = 0;

	for (struct rbd_cluster *c = shared.first; c; c = c->next) {
		if (strcmp(c->conf, o->conf ? o->conf : "") || strcmp(c->user, o->user) || c->cache != o->cache)
			continue;
		n++;
		if (!best || c->users < best->users)
			best = c;
	}
	return n < o->connections ? NULL : best;
}

int rbd_cluster_get(const struct rbd_options *o, const char *name, struct rbd_cluster **out, struct sl_err *err)
{
	struct rbd_cluster *c = NULL;
	int ret;

	if (o->connections) {
		pthread_mutex_lock(&shared.lock);
		c = least_used(o);
		if (c)
			c->users++;
		pthread_mutex_unlock(&shared.lock);
	}
	if (c) {
		*out = c;
		return 0;
	}
	ret = cluster_new(o, name, out, err);
	if (ret || !o->connections)
		return ret;
	pthread_mutex_lock(&shared.lock);
	(*out)->next = shared.first;
	shared.first = *out;
	pthread_mutex_unlock(&shared.lock);
	return 0;
}

rados_t rbd_cluster_rados(const struct rbd_cluster *c)
{
	return c->rados;
}

void rbd_cluster_put(struct rbd_cluster *c)
{
	struct rbd_cluster **p = &shared.first;
	bool last;

	pthread_mutex_lock(&shared.lock);
	last = !--c->users;
	while (last && *p && *p != c)
		p = &(*p)->next;
	if (last && *p)
		*p = c->next;
	pthread_mutex_unlock(&shared.lock);
	if (last)
		cluster_free(c);
}
