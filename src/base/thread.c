/* SPDX-License-Identifier: MIT */
/* thread.c - see thread.h */
#include "base/thread.h"

#include <signal.h>

int thread_start(pthread_t *thread, void *(*main)(void *arg), void *arg)
{
	sigset_t most, old;
	pthread_t it;
	int ret;

	sigfillset(&most);
	sigdelset(&most, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &most, &old);
	ret = pthread_create(thread ? thread : &it, NULL, main, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!ret && !thread)
		pthread_detach(it);
	return -ret;
}
