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
 * @id:     names it for `sluice control`; NULL: it has a number only
 * @socket: listen on (serve) or connect to (run) this path; NULL: not given
 * @fd:     inherited listening or connected socket; DEVICE_NO_FD: not given
 */
struct device_place {
	const char *id, *socket;
	uint64_t fd;
};
#define DEVICE_NO_FD UINT64_MAX

/**
 * struct device_options - the keys every device takes
 * @packed, @indirect, @event_idx, @in_order: ring features to offer
 * @queue_size: largest ring a driver may ask for
 * @poll_us:    bound of the adaptive polling before a loop sleeps; 0 never polls
 * @stop_timeout: seconds that a stop waits for requests in flight; 0: without end
 */
struct device_options {
	bool packed, indirect, event_idx, in_order;
	uint64_t queue_size, poll_us, stop_timeout;
};

/**
 * struct device_report - who wants to know figures of a device
 * @number: one figure; @name is "WHAT" or "LAYER.WHAT", with the unit at its end where there is one: "size-bytes"
 */
struct device_report {
	void (*number)(void *arg, const char *name, uint64_t value);
	void *arg;
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
 * struct device_view - a device as the process that has it shows it to others
 * @number:    its place on the command line, from 0
 * @text:      as it was typed there
 * @id, @socket: of its keys, or NULL
 * @type:      "blk"
 * @served:    NULL: another process serves it
 * @connected: a front-end, or a guest's driver, uses it
 */
struct device_view {
	unsigned int number;
	const char *text, *id, *socket, *type;
	struct served_device *served;
	bool connected;
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
 * @resize:   give the back-end so many bytes, tell the driver. Optional
 * @report:   figures of the device and of what is behind it. Optional
 * @report_queue: figures of a queue since the device was opened, beside those of the core. Optional
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
	int (*resize)(struct served_device *d, uint64_t size, struct sl_err *err);
	void (*report)(struct served_device *d, const struct device_report *r);
	void (*report_queue)(struct served_device *d, unsigned int index, const struct device_report *r);
};

/** struct fs_options - @socket: where it is served; @tag: by which the guest mounts it; NULL: not given */
struct fs_options {
	const char *socket, *tag;
};
extern const struct opt_table fs_options_table;

extern const struct device_type device_blk, device_fs;
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
/**
 * device_finish_elsewhere() - error for what the text of a device that another process serves says beside @tables
 *
 * opts_finish(), and a source, or a key of @type that is that other process's business.
 */
int device_finish_elsewhere(const struct device_type *type, const struct opt_table *const *tables, const struct spec *s,
			    struct sl_err *err);
/** device_close() - all queues are stopped and the transport is detached; NULL allowed */
void device_close(struct served_device *d);
/** device_refresh() - the back-end may have changed (a disk was resized); 0 or -errno with @err filled */
int device_refresh(struct served_device *d, struct sl_err *err);
/** device_resize() - make its back-end so many bytes large and tell the driver; 0 or -errno with @err filled */
int device_resize(struct served_device *d, uint64_t size, struct sl_err *err);
/** device_report(), device_report_queue() - its figures */
void device_report(struct served_device *d, const struct device_report *r);
void device_report_queue(struct served_device *d, unsigned int index, const struct device_report *r);
/**
 * device_check_ids() - is each id= of these devices a name that no other one has?
 * @texts: as the person wrote them; what is wrong otherwise is left for spec_parse() to say
 */
int device_check_ids(const char *const *texts, unsigned int n, struct sl_err *err);
/** device_features() - fill the ring features to offer according to @o */
void device_features(const struct device_options *o, struct sl_features *f);

#endif
