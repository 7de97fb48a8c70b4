/* SPDX-License-Identifier: MIT */
/* console.h - between a guest's console, a stream socket, and a place where its bytes come from and go to */
#ifndef MACHINE_CONSOLE_H
#define MACHINE_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>

#include <sluice/loop.h>

#include "character/character.h"

/**
 * struct console_buffer - bytes on their way in one direction
 * @data: what was read and not yet written: @data[@start] to @data[@end]
 */
struct console_buffer {
	size_t start, end;
	char data[4096];
};

/**
 * struct console
 * @from, @to: two descriptors of the socket, one to read and one to write
 * @readable, @writable: on them; only while they can help
 * @closed:    the guest says nothing any more
 * @out, @in:  from the guest, to the guest
 */
struct console {
	struct sl_loop *loop;
	struct character *place;
	int from, to;
	struct sl_watch readable, writable;
	bool closed;
	struct console_buffer out, in;
};

/** console_start() - relay between @fd and @place, both of which it takes; 0 or -errno */
int console_start(struct console *c, struct sl_loop *loop, struct character *place, int fd);
/** console_restore() - give the place's terminal back; nothing else changes */
void console_restore(struct console *c);
/** console_stop() - write out what is still to be read from @fd, close the place; safe when not started */
void console_stop(struct console *c);

#endif
