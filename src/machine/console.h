/* SPDX-License-Identifier: MIT */
/* console.h - our standard input and output as a guest's console */
#ifndef MACHINE_CONSOLE_H
#define MACHINE_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <termios.h>

#include <sluice/loop.h>

/**
 * struct console_pipe - bytes on their way from one descriptor to another
 * @from, @to: watched only while they can help; a regular file, which epoll does
 *             not take, counts as always ready
 * @data:      what was read and not yet written: @data[@start] to @data[@end]
 */
struct console_pipe {
	struct sl_loop *loop;
	struct sl_watch from, to;
	int from_fd, to_fd;
	bool from_polled, to_polled, closed;
	size_t start, end;
	char data[4096];
};

/**
 * struct console - the relay between the terminal and @fd
 * @saved: the terminal as it was, when @is_tty
 */
struct console {
	struct console_pipe in, out;
	int fd;
	bool is_tty;
	struct termios saved;
};

/** console_start() - relay between standard input and output and @fd, a stream socket, which it takes; 0 or -errno */
int console_start(struct console *c, struct sl_loop *loop, int fd);
/** console_restore() - the terminal as it was; nothing else changes */
void console_restore(struct console *c);
/** console_stop() - write out what is still to be read from @fd, restore the terminal */
void console_stop(struct console *c);

#endif
