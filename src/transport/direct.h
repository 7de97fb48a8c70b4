/* SPDX-License-Identifier: MIT */
/* direct.h - a driver and a device in one process, without any protocol between them.
 *
 * The shortest transport: tests step the loop by hand and see each step, and
 * `sluice bench --device` measures a device without a socket. All functions
 * are for the device's control loop.
 */
#ifndef TRANSPORT_DIRECT_H
#define TRANSPORT_DIRECT_H

#include <sluice/virtio.h>

/**
 * struct direct
 * @device:         what is driven
 * @config_changes: configuration interrupts so far
 * @queues:         one for each queue of the device
 * @calls:          calls so far of a queue without a call descriptor (written on its data loop)
 * @stopped, @base: answer to the last sl_queue_stop()
 * @broken:         NULL, or why
 */
struct direct {
	struct sl_device *device;
	unsigned int config_changes;
	bool reset;
	struct direct_queue {
		unsigned int calls;
		bool stopped;
		uint32_t base;
		const char *broken;
	} *queues;
};

/** direct_attach() - become @device's transport; 0 or -ENOMEM */
int direct_attach(struct direct *t, struct sl_device *device);
/** direct_detach() - reset the device, wait for it, let it go */
void direct_detach(struct direct *t);
/** direct_stop() - stop a queue and wait for it, stepping the control loop; gives its vring base */
uint32_t direct_stop(struct direct *t, unsigned int index);
/** direct_reset() - reset the device and wait for it, stepping the control loop */
void direct_reset(struct direct *t);

#endif
