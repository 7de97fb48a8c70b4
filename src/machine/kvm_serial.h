/* SPDX-License-Identifier: MIT */
/* kvm_serial.h - between the console's socket and a serial port, on the control loop */
#ifndef MACHINE_KVM_SERIAL_H
#define MACHINE_KVM_SERIAL_H

#include <sluice/loop.h>

#include "emulated/uart16550.h"

/**
 * struct serial_ops - what is typed after Ctrl-A; on the control loop
 * @end:    x
 * @button: p
 */
struct serial_ops {
	void (*end)(void *arg);
	void (*button)(void *arg);
};

/**
 * struct serial
 * @fd:       ours; non-blocking
 * @readable: on @fd, only while the port has room
 * @writable: on a duplicate of @fd, only while it is full
 * @send, @receive: serial_output() and serial_room() come from any thread
 * @keys:     Ctrl-A is for us
 * @escape:   the last byte was one
 * @in:       typed and not yet taken by the port, @in_start to @in_end
 * @out:      sent and not yet written, the same
 */
struct serial {
	struct sl_loop *loop;
	struct uart16550 *uart;
	const struct serial_ops *ops;
	void *arg;
	int fd, out_fd;
	struct sl_watch readable, writable;
	struct sl_task send, receive;
	bool keys, escape, closed;
	size_t in_start, in_end, out_start, out_end;
	char in[256], out[4096];
};

/** serial_start() - @fd stays the caller's; @keys: there is somebody who types; 0 or -errno */
int serial_start(struct serial *s, struct sl_loop *loop, struct uart16550 *uart, int fd, bool keys,
		 const struct serial_ops *ops, void *arg);
/** serial_output(), serial_room() - the port's callbacks of these names; any thread */
void serial_output(struct serial *s);
void serial_room(struct serial *s);
/** serial_stop() - the guest is gone: write what it said last, as far as that is possible without waiting */
void serial_stop(struct serial *s);

#endif
