/* SPDX-License-Identifier: MIT */
/* rbd_lib.c - librbd and librados, loaded when the first rbd: disk is opened.
 *
 * Linked into the program they would be two dozen libraries, which every start
 * of sluice would load and set up: 14 ms and 18 MB, also without any such disk.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>

#include "block/rbd.h"

struct ceph_calls ceph;

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
	void *rados = dlopen("librados.so.2", RTLD_NOW | RTLD_LOCAL);
	void *rbd = rados ? dlopen("librbd.so.1", RTLD_NOW | RTLD_LOCAL) : NULL;

	if (!rbd) {
		sl_err_set(&why, ENOTSUP, "%s", dlerror());
		return;
	}
#define LOOK_UP_RADOS(name) *(void **)&ceph.name = look_up(rados, #name);
#define LOOK_UP_RBD(name) *(void **)&ceph.name = look_up(rbd, #name);
	RADOS_CALLS(LOOK_UP_RADOS)
	RBD_CALLS(LOOK_UP_RBD)
}

int ceph_load(const char *name, struct sl_err *err)
{
	pthread_once(&once, load);
	return *why.text ? sl_err_set(err, ENOTSUP, "%s: needs Ceph's library (package librbd1): %s", name, why.text) : 0;
}
