/* SPDX-License-Identifier: MIT */
/* vhost_user_server.h - a device served to any vhost-user front-end over a Unix socket.
 *
 * One front-end at a time; it may come and go as often as it likes. A second
 * one waits in the socket's backlog. Everything runs on the device's control
 * loop, but for the queues.
 */
#ifndef SLUICE_VHOST_USER_SERVER_H
#define SLUICE_VHOST_USER_SERVER_H

#include <sluice/virtio.h>

struct sl_vhost_user_server;

/**
 * struct sl_vhost_user_config
 * @device:  what is served; it must have no transport yet
 * @path:    socket to create and listen on, or NULL. A left-over socket of a
 *           dead process is taken over, a live one is refused (-EADDRINUSE)
 * @fd:      inherited socket, used when @path is NULL; the server's once there is one
 * @connected: @fd is a connected socket, not a listening one: serve that one
 *           front-end, then call @gone
 * @gone:    control; a front-end went away by itself and its queues are drained. Optional
 * @arg:     for @gone
 */
struct sl_vhost_user_config {
	struct sl_device *device;
	const char *path;
	int fd;
	bool connected;
	void (*gone)(void *arg);
	void *arg;
};

/** sl_vhost_user_server_new() - control; serve it from now on; NULL with @err filled */
SL_API struct sl_vhost_user_server *sl_vhost_user_server_new(const struct sl_vhost_user_config *cfg, struct sl_err *err);
/** sl_vhost_user_server_connected() - control; is there a front-end? */
SL_API bool sl_vhost_user_server_connected(const struct sl_vhost_user_server *s);
/**
 * sl_vhost_user_server_stop() - end the connection, drain the queues, remove the socket
 * @done: called on the control loop, perhaps before this returns; then sl_vhost_user_server_free() may be called
 */
SL_API void sl_vhost_user_server_stop(struct sl_vhost_user_server *s, void (*done)(void *arg), void *arg);
/** sl_vhost_user_server_free() - control; when it has stopped; the device has no transport then. NULL allowed */
SL_API void sl_vhost_user_server_free(struct sl_vhost_user_server *s);

/**
 * sl_vhost_user_serve() - serve one device until SIGINT or SIGTERM: the whole life of a program that does nothing else
 * @cfg:  the device; its @control is not looked at, queues without @loops run on the calling thread
 * @path: as in struct sl_vhost_user_config
 *
 * What is in flight is finished before it returns; a second signal leaves at
 * once. Ignores SIGPIPE, calls sl_mem_guard(); other threads must have blocked
 * the two signals.
 * Return: 0, or -errno with @err filled.
 */
SL_API int sl_vhost_user_serve(const struct sl_device_config *cfg, const char *path, struct sl_err *err);

#endif
