/* SPDX-License-Identifier: MIT */
/* devices.h - the table of device types, and opening one from TYPE[,SOURCE][,KEY=VALUE]...
 *
 * Control loop only. Adding a type = one file + one row in device_types[].
 * Help text, option checks and tests iterate the table.
 */
#ifndef DEVICES_H
#define DEVICES_H

#include "base/opts.h"
#include <sluice/virtio.h>

/**
 * struct device_env - where a device is to run
 * @control:    the control loop
 * @loops:      data loops; NULL: everything on @control
 * @num_loops:  entries of @loops
 * @first_loop: the loop of the device's first queue, see struct sl_device_config
 */
struct device_env {
	struct sl_loop *control;
	struct sl_loop *const *loops;
	unsigned int num_loops, first_loop;
};

/**
 * struct device_place - the keys of whoever serves the device, not the device's own
 * @socket: listen on (serve) or connect to (run) this path; NULL: not given
 * @fd:     inherited listening or connected socket; DEVICE_NO_FD: not given
 */
struct device_place {
	const char *socket;
	uint64_t fd;
};
#define DEVICE_NO_FD UINT64_MAX

/**
 * struct device_options - the keys every device takes
 * @packed, @indirect, @event_idx, @in_order: ring features to offer
 * @queue_size: largest ring a driver may ask for
 * @poll_us:    bound of the adaptive polling before a loop sleeps; 0 never polls
 */
struct device_options {
	bool packed, indirect, event_idx, in_order;
	uint64_t queue_size, poll_us;
};

struct device_type;

/**
 * struct served_device - an open device
 * @type:  its row
 * @dev:   what a transport attaches to
 * @place: strings point into the spec it was opened from
 */
struct served_device {
	const struct device_type *type;
	struct sl_device *dev;
	struct device_place place;
};

/**
 * struct device_type - a row of the table
 * @type, @id, @summary: name, virtio device id, one line of help without a final dot
 * @sources:  the @n-th form of SOURCE that it takes; NULL after the last one
 * @tables:   every layer whose keys it takes; ends with NULL
 * @open:     fill @d->dev; @d is zeroed memory of @size bytes that starts with struct served_device.
 *            On error it cleans up after itself. Keys it leaves unused are refused by device_open()
 * @close:    all queues are stopped and the transport is detached; must not free @d
 * @refresh:  look at the back-end again, tell the driver of a new configuration. Optional
 */
struct device_type {
	const char *type, *summary;
	uint16_t id;
	size_t size;
	const struct opt_source *(*sources)(unsigned int n);
	const struct opt_table *const *tables;
	int (*open)(struct served_device *d, struct spec *s, const struct device_options *o,
		    const struct device_env *env, struct sl_err *err);
	void (*close)(struct served_device *d);
	int (*refresh)(struct served_device *d, struct sl_err *err);
};

extern const struct device_type device_blk;
/* Tables that belong into every type's list. */
extern const struct opt_table device_place_table, device_options_table;

/** device_types() - the table; ends with NULL */
const struct device_type *const *device_types(void);
/** device_type_find() - the row of @name, or NULL with @err naming the nearest one */
const struct device_type *device_type_find(const char *name, struct sl_err *err);

/**
 * device_open() - open the device that @s describes
 *
 * @s must outlive the device. Return: the device, or NULL with @err filled;
 * every key of @s was known to one of the type's tables.
 */
struct served_device *device_open(struct spec *s, const struct device_env *env, struct sl_err *err);
/** device_close() - all queues are stopped and the transport is detached; NULL allowed */
void device_close(struct served_device *d);
/** device_refresh() - the back-end may have changed (a disk was resized); 0 or -errno with @err filled */
int device_refresh(struct served_device *d, struct sl_err *err);
/** device_features() - fill the ring features to offer according to @o */
void device_features(const struct device_options *o, struct sl_features *f);

#endif
