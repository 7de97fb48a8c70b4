/* SPDX-License-Identifier: MIT */
/* thread.h - threads that handle no signals: those are for the threads that expect them */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>

/**
 * thread_start() - run @main(@arg) on a new thread
 * @thread: set, to be joined or detached; NULL: it is detached
 *
 * All signals are blocked on it, and on the threads that it starts, but SIGBUS: a blocked one would end the process
 * where sl_mem_guard() could have mended the fault.
 *
 * Return: 0 or -errno.
 */
int thread_start(pthread_t *thread, void *(*main)(void *arg), void *arg);

#endif
