/* SPDX-License-Identifier: MIT */
/* loop_local.h - one object of a kind for each loop, such as the io_uring that all sources on it share */
#ifndef BASE_LOOP_LOCAL_H
#define BASE_LOOP_LOCAL_H

#include <sluice/loop.h>

/**
 * loop_local() - the object of this loop with @key
 * @key:  any address that is unique to the kind
 * @make: called when there is none yet; NULL: then return NULL
 * @drop: called with the object when the loop is freed
 *
 * Loop thread only.
 */
void *loop_local(struct sl_loop *loop, const void *key, void *(*make)(struct sl_loop *loop, struct sl_err *err),
		 void (*drop)(void *object), struct sl_err *err);

#endif
