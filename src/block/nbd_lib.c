/* SPDX-License-Identifier: MIT */
/* nbd_lib.c - see nbd_lib.h */
#define NBD_LIB_HERE
#include "block/nbd_lib.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>

struct nbd_calls libnbd;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct sl_err why;

static void *look_up(void *library, const char *name)
{
	void *at = dlsym(library, name);

	if (!at && !*why.text)
		sl_err_set(&why, ENOTSUP, "%s", dlerror());
	return at;
}

static void load(void)
{
	void *library = dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);

	if (!library) {
		sl_err_set(&why, ENOTSUP, "%s", dlerror());
		return;
	}
#define LOOK_UP(name) *(void **)&libnbd.name = look_up(library, #name);
	NBD_CALLS(LOOK_UP)
}

int nbd_load(struct sl_err *err)
{
	pthread_once(&once, load);
	return *why.text ? sl_err_set(err, ENOTSUP, "needs libnbd (package libnbd0): %s", why.text) : 0;
}
