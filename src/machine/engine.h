/* SPDX-License-Identifier: MIT */
/* engine.h - the seam between a machine and what runs its guest's instructions.
 *
 * An engine may be another program (QEMU, User-mode Linux), started by its
 * table's start(). It reaches every device over vhost-user: at a connected
 * descriptor or at a socket's path, as the engine prefers. The machine owns the
 * devices, the console and the child; the engine knows the program's command
 * line and what its end means.
 *
 * Or it runs the guest in this process (KVM): then it has end() and wait(), and
 * there is no child.
 */
#ifndef MACHINE_ENGINE_H
#define MACHINE_ENGINE_H

#include <stdbool.h>

#include <devices/devices.h>
#include <machine/child.h>
#include <machine/machine.h>
#include <sluice/log.h>
#include <sluice/vhost_user_server.h>

struct remote; /* driver/remote.h */

/**
 * struct machine_place - the keys of a device that another process serves
 * @socket: where it listens
 * @queues: how many of its queues the guest gets
 * @packed: let the guest use packed rings
 */
struct machine_place {
	const char *socket;
	uint64_t queues;
	bool packed;
};

/**
 * struct machine_link - the keys that say how a guest reaches a device, where that is the engine's
 * @mmio:      enum, 0 pci, 1 mmio
 * @legacy:    with the registers of drivers from before virtio 1.0
 * @ioeventfd: notifications are taken in the kernel; off, to compare, each returns to this process
 * @irqfd:     interrupts are raised in the kernel; off, to compare, each is a call of this process
 */
struct machine_link {
	unsigned int mmio;
	bool legacy, ioeventfd, irqfd;
};

/**
 * struct machine_device - one device of a machine
 * @spec:   how the person wrote it; the strings of the others point into it
 * @id:     its name, or NULL
 * @type:   its row
 * @served: the device, when this process serves it; else NULL
 * @server: its transport, made by the engine's start(); NULL when another process serves it
 * @remote: the device, when another process serves it and the engine has transports of its own; else NULL
 * @place:  what the engine is to tell the guest's side
 * @link:   the transport, where that is the engine's
 */
struct machine_device {
	struct spec spec;
	const char *id;
	const struct device_type *type;
	struct served_device *served;
	struct sl_vhost_user_server *server;
	struct remote *remote;
	struct machine_place place;
	struct machine_link link;
};

/**
 * struct machine - all of it
 * @keys:  the console is where a person types, who can have Ctrl-A
 * @ended: readable once the guest has ended, when that is not the child's end; else -1
 * @priv:  the engine's own, from start() to finish()
 */
struct machine {
	const struct machine_options *options;
	const struct engine *engine;
	struct sl_loop *control;
	struct machine_device *devices;
	struct child child;
	bool keys;
	int ended;
	void *priv;
};

/**
 * struct engine - a way to run a guest
 * @hosts:   can its guest be given a device with this virtio id?
 * @check:   is its program there, is the kernel one for it, can it do what the options ask? 0 or -errno
 * @links:   it has transports of its own, so that a device may say transport=
 * @start:   make the devices' servers, start @m->child with @console as its standard input and
 *           output, or set @m->ended; 0 or -errno. @console is closed by the caller
 * @end:     tell the guest to end; @m->ended follows. NULL: the child is told
 * @button:  press the guest's power button. NULL: it has none
 * @wait:    after @m->ended or end(): wait for it; a status for verdict(). NULL: the child's, see child_wait()
 * @verdict: the guest is gone with this status: NULL when the guest switched
 *           itself off, else why it ended. The text may lie in @buf
 * @finish:  give back what start() made, but for the servers; also after start() failed
 */
struct engine {
	const char *name;
	bool links;
	bool (*hosts)(uint16_t id);
	int (*check)(const struct machine_options *o, struct sl_err *err);
	int (*start)(struct machine *m, int console, struct sl_err *err);
	void (*end)(struct machine *m);
	void (*button)(struct machine *m);
	int (*wait)(struct machine *m);
	const char *(*verdict)(struct machine *m, int status, char *buf, size_t len);
	void (*finish)(struct machine *m);
};

extern const struct engine engine_kvm, engine_qemu, engine_uml;

/** machine_in_path() - is there a program of this name? */
bool machine_in_path(const char *program);
/** machine_check_file() - can @path be read, and is it a regular file that has @magic at @offset? */
int machine_check_file(const char *what, const char *path, const char *magic, size_t offset, const char *kind,
		       struct sl_err *err);
/** machine_serve() - make the server of @d, at @path, or when that is NULL on the connected socket @fd, which it takes */
int machine_serve(struct machine_device *d, const char *path, int fd, struct sl_err *err);

#endif
