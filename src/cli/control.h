/* SPDX-License-Identifier: MIT */
/* control.h - the control socket of `sluice serve` and `sluice run`, --control PATH.
 *
 * One JSON object a line in each direction; sluice-control(1) has the commands.
 * Everything runs on the control loop.
 */
#ifndef CLI_CONTROL_H
#define CLI_CONTROL_H

#include <jansson.h>

#include <sluice/loop.h>

#include "devices/devices.h"

/** A request and its answer: the longest line that is taken, without its end */
#define CONTROL_MAX_LINE 4096

/**
 * struct control_config
 * @path:    of the socket
 * @command: "serve", "run": for status
 * @device:  fill @view with the @n-th device; false: there are not so many
 * @quit:    end the process as SIGTERM does
 */
struct control_config {
	const char *path, *command;
	struct sl_loop *loop;
	bool (*device)(void *arg, unsigned int n, struct device_view *view);
	void (*quit)(void *arg);
	void *arg;
};

struct control;

/** control_new() - listen; NULL with @err filled and errno set */
struct control *control_new(const struct control_config *cfg, struct sl_err *err);
/** control_free() - hang up on all clients; NULL allowed */
void control_free(struct control *c);

/** control_status() - the devices and all their figures; @only not NULL: this one. NULL: out of memory */
json_t *control_status(const struct control_config *cfg, const struct device_view *only, uint64_t started);

/* ---- the other side: sluice control, sluice top ---- */

/** control_connect() - a blocking socket, or -errno with @err filled */
int control_connect(const char *path, struct sl_err *err);
/** control_send() - send @request, which it takes; 0 or -errno with @err filled */
int control_send(int fd, const char *path, json_t *request, struct sl_err *err);
/**
 * control_receive() - wait for the answer to the one request that was sent
 *
 * Return: "result" of the answer, or NULL with @err filled.
 */
json_t *control_receive(int fd, const char *path, struct sl_err *err);
/** control_path() - @path, or else what the environment names, or NULL */
const char *control_path(const char *path);
/** control_human() - @n in three digits and a power of 1024 or, @base 1000, of 1000; in @buf */
const char *control_human(char buf[16], double n, unsigned int base);
/** control_number() - a figure of a device or queue; 0 when it has none of this name */
uint64_t control_number(const json_t *object, const char *name);

#endif
