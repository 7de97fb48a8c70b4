/* SPDX-License-Identifier: MIT */
/* library.h - shared libraries that are loaded when the first disk needs them.
 *
 * Linked into the program, libnbd would be twenty libraries (TLS, XML, Unicode)
 * that every start of sluice loads and sets up: 2 ms, also without NBD. Ceph's
 * would be two dozen: 14 ms and 18 MB.
 */
#ifndef BLOCK_LIBRARY_H
#define BLOCK_LIBRARY_H

#include <stdbool.h>

#include <sluice/error.h>

/**
 * struct library
 * @file:   for dlopen()
 * @names:  of @n functions
 * @calls:  where they go: a struct of @n pointers, in the order of @names; constant once library_load() has returned 0
 * @loaded: they are there; private to library_load()
 */
struct library {
	const char *file;
	const char *const *names;
	void *calls;
	unsigned int n;
	bool loaded;
};

/* The members and the names, from a list of functions X(nbd_create) X(nbd_close) ... */
#define LIBRARY_MEMBER(function) __typeof__(function) *function;
#define LIBRARY_NAME(function) #function,

/** library_load() - load @l, the first time; 0 or -ENOTSUP with @err filled: what is missing. Any thread */
int library_load(struct library *l, struct sl_err *err);

#endif
