/* SPDX-License-Identifier: MIT */
/* character.h - where the bytes of a serial line come from and go to: stdio, a pty, a file, a Unix socket
 *
 * Everything happens on one loop and nothing waits: who has bytes offers them
 * with character_write() and is told later when it did not take all of them;
 * who wants bytes asks with character_read() and is told later when there were
 * none. Nothing is kept here: what nobody reads stays with the peer, and what a
 * slow peer does not take stays with the writer. While there is no peer, bytes
 * written are gone; a peer may come and go at any time.
 */
#ifndef CHARACTER_CHARACTER_H
#define CHARACTER_CHARACTER_H

#include <stdbool.h>
#include <stddef.h>

#include <sluice/loop.h>

#include "base/opts.h"

struct character; /* a place, open */

/**
 * struct character_user - what its user is told, on the loop
 * @input: character_read() may be of use again after it gave 0
 * @room:  character_write() may be of use again after it took less than it was given
 */
struct character_user {
	void (*input)(void *arg);
	void (*room)(void *arg);
};

/**
 * character_open() - open a place by its @text: "stdio", "pty", "file:PATH", "unix:PATH", "none"
 * @what: in front of messages, "--console"
 *
 * Where a person needs to know more, a line says so. Return: the place, or NULL with @err filled.
 */
struct character *character_open(const char *what, const char *text, struct sl_loop *loop, struct sl_err *err);
/** character_use() - from now on @user is told */
void character_use(struct character *c, const struct character_user *user, void *arg);
/** character_read() - bytes that came; 0: none now, or none any more */
size_t character_read(struct character *c, void *data, size_t len);
/** character_write() - how many of @len bytes were taken, or thrown away for want of a peer */
size_t character_write(struct character *c, const void *data, size_t len);
/** character_is_keyboard() - does a person type there, so that keys may mean something to us? */
bool character_is_keyboard(const struct character *c);
/** character_restore() - give back what belongs to others, such as a terminal's modes; the rest goes on */
void character_restore(struct character *c);
/** character_close() - restore, and be gone; NULL allowed */
void character_close(struct character *c);

/** character_forms() - row @n of what can be opened, for help; NULL behind the last */
const struct opt_source *character_forms(unsigned int n);

#endif
