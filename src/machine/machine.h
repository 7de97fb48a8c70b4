/* SPDX-License-Identifier: MIT */
/* machine.h - a virtual machine whose devices are all sluice's; the CPU is an engine's.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include <stdint.h>

#include <devices/devices.h>

/**
 * struct machine_options - what `sluice run` was asked for
 * @engine:      "auto", or one of engine.h
 * @kernel:      what the engine boots
 * @initrd:      NULL: none
 * @append:      more words for the kernel's command line; NULL: none
 * @console:     where the guest's console is, see character_open()
 * @memory:      bytes, a multiple of 1 MiB
 * @hugepages:   in pages of 2 MiB from the kernel's pool
 * @cpus:        1 to MACHINE_MAX_CPUS
 * @observer:    looks at the machine while it runs; NULL: nobody does
 * @devices:     TYPE[,SOURCE][,KEY=VALUE]... of each device
 * @num_devices: entries of @devices
 */
struct machine_options {
	const char *engine, *kernel, *initrd, *append, *console;
	uint64_t memory;
	bool hugepages;
	unsigned int cpus;
	const struct machine_observer *observer;
	const char *const *devices;
	unsigned int num_devices;
};

#define MACHINE_MAX_CPUS 64
#define MACHINE_MIN_MEMORY (16ULL << 20)
#define MACHINE_MAX_MEMORY (1ULL << 40)

/** machine_keys() - the keys of a device that say how the guest reaches it */
const struct opt_table *machine_keys(void);

struct machine;

/**
 * struct machine_observer - all on the control loop
 * @up:   the devices are open, the guest does not run yet; 0 or -errno with @err filled
 * @down: they are about to be closed; not called when @up failed
 */
struct machine_observer {
	int (*up)(void *arg, struct machine *m, struct sl_err *err);
	void (*down)(void *arg);
	void *arg;
};
/** machine_device() - fill @v with the @n-th device; false: there are not so many */
bool machine_device(const struct machine *m, unsigned int n, struct device_view *v);
/** machine_quit() - end the guest as SIGTERM does */
void machine_quit(struct machine *m);

/**
 * machine_run() - boot a guest and serve its devices until it ends
 *
 * @env: where the devices run; the calling thread runs its control loop until
 *       the guest has ended
 *
 * SIGINT, SIGTERM and SIGHUP end the guest, a second one ends this process as
 * it would without us; SIGPWR presses the guest's power button, if it has one.
 *
 * Return: 0 when the guest switched itself off; 1 when it ended in any other
 * way, which has been logged; -errno with @err filled when it could not start.
 */
int machine_run(const struct machine_options *o, const struct device_env *env, struct sl_err *err);

#endif
