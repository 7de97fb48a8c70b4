/* SPDX-License-Identifier: MIT */
/* rbd.h - private to the rbd source: rbd.c (requests), rbd_keeper.c (all that may block: opening, locking, sizes,
 * closing), rbd_cluster.c (Ceph's libraries, and connections)
 */
#ifndef BLOCK_RBD_H
#define BLOCK_RBD_H

#include <rbd/librbd.h>

#include "block/block.h"
#include "block/library.h"

/* Every function of librados and librbd that is called. */
#define CEPH_CALLS(X) \
	X(rados_create) X(rados_conf_read_file) X(rados_conf_set) X(rados_conf_get) X(rados_connect) X(rados_shutdown) \
	X(rados_ioctx_create) X(rados_ioctx_set_namespace) X(rados_ioctx_destroy) \
	X(rbd_open) X(rbd_open_read_only) X(rbd_snap_set) X(rbd_close) X(rbd_namespace_exists) X(rbd_get_features) \
	X(rbd_lock_acquire) X(rbd_list_lockers) X(rbd_metadata_get) X(rbd_pool_metadata_get) X(rbd_get_size) \
	X(rbd_resize) X(rbd_update_watch) X(rbd_update_unwatch) X(rbd_aio_create_completion) \
	X(rbd_aio_get_return_value) X(rbd_aio_release) X(rbd_aio_read) X(rbd_aio_writev) X(rbd_aio_flush) \
	X(rbd_aio_discard) X(rbd_aio_write_zeroes)

/** ceph - the functions by their own names; set by ceph_load(), before anybody uses them, and constant then */
extern struct ceph_calls {
	CEPH_CALLS(LIBRARY_MEMBER)
} ceph;

/** ceph_load() - load the libraries; @name: of the disk, for @err. 0 or -errno with @err filled */
int ceph_load(const char *name, struct sl_err *err);

/**
 * struct rbd_options - the keys of rbd: sources
 * @conf:        NULL: where Ceph's own tools look
 * @namespace:   or NULL
 * @connections: 0: a connection of its own; else as many that all who say so share
 * @timeout:     seconds, 0: wait for ever
 */
struct rbd_options {
	const char *conf, *user, *namespace;
	bool exclusive, cache;
	uint64_t connections, timeout;
};

/**
 * struct rbd_place - an image
 * @snap: or NULL
 */
struct rbd_place {
	const char *pool, *image, *snap;
	bool read_only;
};

struct rbd_keeper;
struct rbd_cluster;

/**
 * rbd_keeper_open() - open an image, for up to a minute; control
 * @name: for messages
 *
 * Return: 0 or -errno with @err filled. A call that hangs is left to its thread, which cleans up when it comes back.
 */
int rbd_keeper_open(const char *name, const struct rbd_place *at, const struct rbd_options *o, struct rbd_keeper **out,
		    struct sl_err *err);
rbd_image_t rbd_keeper_image(const struct rbd_keeper *k);
/** rbd_keeper_size() - as the cluster said last; any thread */
uint64_t rbd_keeper_size(const struct rbd_keeper *k);
/** rbd_keeper_watch() - @b gets a block_changed() when the size changes, until rbd_keeper_close(); control */
void rbd_keeper_watch(struct rbd_keeper *k, struct block *b);
/** rbd_keeper_resize() - for up to half a minute; control */
int rbd_keeper_resize(struct rbd_keeper *k, uint64_t size, struct sl_err *err);
/** rbd_keeper_close() - close the image, or leave that to the thread when it takes longer than some seconds; control */
void rbd_keeper_close(struct rbd_keeper *k);

/* ---- on a keeper's thread, for as long as it takes ---- */

/** rbd_cluster_get() - a connection, a new or a shared one; 0 or -errno with @err filled. rbd_cluster_put() undoes it */
int rbd_cluster_get(const struct rbd_options *o, const char *name, struct rbd_cluster **out, struct sl_err *err);
rados_t rbd_cluster_rados(const struct rbd_cluster *c);
void rbd_cluster_put(struct rbd_cluster *c);

#endif
