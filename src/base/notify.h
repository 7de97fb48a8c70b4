/* SPDX-License-Identifier: MIT */
/* notify.h - wake somebody who shares the descriptor with us and may do anything with it */
#ifndef BASE_NOTIFY_H
#define BASE_NOTIFY_H

#include <sluice/loop.h>

/**
 * notify_peer() - add 1 to an eventfd, or send 8 bytes to a socket; never blocks
 * @loop: this thread's
 *
 * Anything else that @fd may be is left alone.
 */
void notify_peer(struct sl_loop *loop, int fd);

#endif
