/* SPDX-License-Identifier: MIT */
/* hugepages.c - guest memory in pages of 2 MiB from the kernel's pool
 *
 * A mapping reserves pages for its file unless it says MAP_NORESERVE, and the
 * file keeps them when the mapping goes. So whoever maps the file later, here
 * or in another process, finds them; they are zeroed when they are touched.
 */
#include "machine/hugepages.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static bool pool(const char *name, uint64_t *out)
{
	char path[128], text[32] = "";
	int fd;

	snprintf(path, sizeof(path), POOL "%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (read(fd, text, sizeof(text) - 1) <= 0)
		text[0] = '\0';
	close(fd);
	*out = strtoull(text, NULL, 10);
	return true;
}

static int too_few(uint64_t memory, uint64_t total, uint64_t avail, struct sl_err *err)
{
	uint64_t want = memory / HUGEPAGE;

	return sl_err_set(err, ENOMEM, "--memory %" PRIu64 "M,hugepages=on: needs %" PRIu64 " huge pages of 2 MiB, and %" PRIu64
			  " of %" PRIu64 " are free; type: echo %" PRIu64 " | sudo tee " POOL "nr_hugepages", memory >> 20, want, avail,
			  total, total + (want > avail ? want - avail : 0));
}

/* Pages in the pool and those of them that nobody uses or has reserved. */
static int count(uint64_t *total, uint64_t *avail, struct sl_err *err)
{
	uint64_t free_pages, reserved, more, surplus;

	if (!pool("nr_hugepages", total) || !pool("free_hugepages", &free_pages) || !pool("resv_hugepages", &reserved) ||
	    !pool("nr_overcommit_hugepages", &more) || !pool("surplus_hugepages", &surplus))
		return sl_err_set(err, ENOTSUP, "--memory: hugepages=on: this kernel has no huge pages of 2 MiB");
	*avail = free_pages > reserved ? free_pages - reserved : 0;
	*avail += more > surplus ? more - surplus : 0; /* which the kernel tries to find when they are asked for */
	return 0;
}

int hugepages_check(uint64_t memory, struct sl_err *err)
{
	uint64_t total, avail;
	int ret = count(&total, &avail, err);

	if (ret)
		return ret;
	if (memory % HUGEPAGE)
		return sl_err_set(err, EINVAL, "--memory %" PRIu64 "M,hugepages=on: wants a multiple of 2M", memory >> 20);
	return avail < memory / HUGEPAGE ? too_few(memory, total, avail, err) : 0;
}

int hugepages_reserve(int fd, uint64_t memory, struct sl_err *err)
{
	void *map = mmap(NULL, memory, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint64_t total, avail;

	if (map == MAP_FAILED)
		return errno == ENOMEM && !count(&total, &avail, err) ? too_few(memory, total, avail, err) :
			sl_err_set(err, errno, "--memory: hugepages=on: %s", strerror(errno));
	munmap(map, memory);
	return 0;
}
