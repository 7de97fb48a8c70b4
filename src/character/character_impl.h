/* SPDX-License-Identifier: MIT */
/* character_impl.h - what a kind of place has to do; the rest is character.c's */
#ifndef CHARACTER_CHARACTER_IMPL_H
#define CHARACTER_CHARACTER_IMPL_H

#include "character/character.h"

/**
 * struct character_type - a kind of place
 * @name:     what its text begins with
 * @path:     a path follows, behind a colon
 * @keyboard: see character_is_keyboard()
 * @form:     for help
 * @open:     allocate a struct that begins with struct character, and connect it if there is a peer: NULL with @err
 *            filled. @where is "--console file:PATH", for messages; @path is what follows the colon
 * @left:     the peer is gone, character_disconnect() was called: see to the next one. NULL: there is none
 * @restore:  see character_restore(); optional
 * @close:    free it; the peer's descriptors are closed by then; optional, else free() does
 */
struct character_type {
	const char *name;
	bool path, keyboard;
	struct opt_source form;
	struct character *(*open)(struct sl_loop *loop, const char *where, const char *path, struct sl_err *err);
	void (*left)(struct character *c);
	void (*restore)(struct character *c);
	void (*close)(struct character *c);
};

/**
 * struct character - a place
 * @in, @out:   where bytes come from and go to; -1: there is no peer. @in_polled, @out_polled: what epoll does not take,
 *              such as a regular file, counts as always ready
 * @ready:      epoll said that @in has something, and it was not read since: descriptors may be others' too and
 *              block
 * @wants:      the user waits for input
 * @socket:     @out is one, written to without blocking by a flag
 */
struct character {
	const struct character_type *type;
	struct sl_loop *loop;
	const struct character_user *user;
	void *arg;
	int in, out;
	bool in_polled, out_polled, ready, wants, socket;
	struct sl_watch readable, writable;
};

/** character_new() - a place without a peer, @size bytes that begin with struct character; NULL with @err filled */
struct character *character_new(size_t size, struct sl_loop *loop, struct sl_err *err);
/** character_connect() - there is a peer: two descriptors become the place's; -1: none in this direction */
void character_connect(struct character *c, int in, int out);
/** character_connect_both() - the same with one for both directions; the peer counts as gone when that fails */
void character_connect_both(struct character *c, int fd);
/** character_disconnect() - it is gone: close them, and whoever waits for room goes on */
void character_disconnect(struct character *c);

extern const struct character_type character_file, character_none, character_pty, character_stdio, character_unix;

#endif
