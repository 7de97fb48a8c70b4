/* SPDX-License-Identifier: MIT */
/* library.c - see library.h */
#include "block/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>

/* One for all: a library is asked for when a disk is opened or connected, which takes longer. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int load(struct library *l, struct sl_err *err)
{
	void *library = dlopen(l->file, RTLD_NOW | RTLD_LOCAL), **calls = l->calls;
	unsigned int i = 0;

	while (library && i < l->n && (calls[i] = dlsym(library, l->names[i])))
		i++;
	return i == l->n ? 0 : sl_err_set(err, ENOTSUP, "%s", dlerror());
}

int library_load(struct library *l, struct sl_err *err)
{
	int ret = 0;

	pthread_mutex_lock(&lock);
	if (!l->loaded)
		ret = load(l, err);
	l->loaded = !ret;
	pthread_mutex_unlock(&lock);
	return ret;
}
