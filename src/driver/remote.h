/* SPDX-License-Identifier: MIT */
/* remote.h - a device whose queues run in another process: a device for a transport, a driver's link to the back-end.
 *
 * An ordinary device on one side, so that it works behind virtio-mmio and
 * virtio-pci alike. Its placement (struct sl_placement_ops) hands each queue
 * over through the table of a link (struct sl_link_ops): features, memory,
 * queue start with ring, kick and call, queue stop. Whatever fills that table
 * can hold the queues; here it is vhost-user.
 *
 * While queues run no byte, kick or call crosses this process, as far as the
 * transport has descriptors for kicks and calls.
 */
#ifndef DRIVER_REMOTE_H
#define DRIVER_REMOTE_H

#include <sluice/link.h>
#include <sluice/virtio.h>

struct remote;

/**
 * struct remote_type - what has to be known of a device type to place it elsewhere
 * @type, @id:      its name and virtio device id
 * @features:       bits of the type itself that need nothing from us; the ring's need not be named
 * @num_queues:     how many a back-end has that does not say so
 * @config_lens:    lengths of configuration to ask for, the longest first, as back-ends of different age know them;
 *                  ends with 0. None: the back-end has no configuration
 * @writable:       see struct sl_device_config
 * @adjust:         control or keeper; make bytes of the back-end fit this guest, which has @num_queues. Optional
 * @same:           may a back-end that was away have @now instead of @was? NULL, or what speaks against it. Optional:
 *                  then no byte may differ
 */
struct remote_type {
	const char *type;
	uint16_t id;
	uint64_t features;
	uint16_t num_queues;
	uint16_t config_lens[4];
	const struct sl_config_range *writable;
	void (*adjust)(uint8_t *config, uint16_t len, uint16_t num_queues);
	const char *(*same)(const uint8_t *was, const uint8_t *now, uint16_t len);
};

/**
 * struct remote_config
 * @type:         outlives the device
 * @name:         names the device in log lines; copied
 * @path:         socket of the back-end; copied
 * @without:      features not to offer
 * @num_queues:   how many the guest gets; 0: all that the back-end has
 * @queue_size:   largest ring
 * @config, @config_len: configuration, where the back-end has none; else NULL
 * @timeout_ms:   longest wait for one answer; 0: 5000
 * @stop_timeout_ms: longest wait for the requests in flight when the driver stops queues or resets; then the back-end is
 *                cut off; 0: no bound
 * @control, @loops, @num_loops, @first_loop: see struct sl_device_config; calls that cannot go straight to the driver
 *                pass through the data loops
 * @interrupt_fd: readable: give up waiting for the back-end; -1: none
 */
struct remote_config {
	const struct remote_type *type;
	const char *name, *path;
	struct sl_features without;
	uint16_t num_queues, queue_size;
	const void *config;
	uint16_t config_len;
	unsigned int timeout_ms, stop_timeout_ms;
	struct sl_loop *control;
	struct sl_loop *const *loops;
	unsigned int num_loops, first_loop;
	int interrupt_fd;
};

/**
 * remote_open() - wait for the back-end, without a limit, and become what it offers
 *
 * Return: the device; NULL with @err filled when the back-end cannot be used or @interrupt_fd said so.
 */
struct remote *remote_open(const struct remote_config *cfg, struct sl_err *err);
/** remote_device() - what a transport attaches to */
struct sl_device *remote_device(const struct remote *r);
/** remote_memory() - before the first queue starts: what the back-end is given; the descriptors are copied. 0 or -errno */
int remote_memory(struct remote *r, const struct sl_link_region *regions, unsigned int n, struct sl_err *err);
/** remote_present() - any thread; is there a back-end now? */
bool remote_present(const struct remote *r);
/** remote_leave() - control; the driver is gone: let go of the back-end, which ends its requests alone; stops end at once */
void remote_leave(struct remote *r);
/** remote_close() - the transport is detached; NULL allowed */
void remote_close(struct remote *r);

#endif
