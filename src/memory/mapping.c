/* SPDX-License-Identifier: MIT */
/* mapping.c - counted mappings of a peer's memory, and surviving their truncation.
 *
 * Theory of operation
 *
 * A front-end hands over a file and may truncate it later; touching the lost
 * pages raises SIGBUS. The handler looks the address up in the list of all
 * mappings, puts anonymous zero pages over the whole mapping and marks it as
 * lost; the access is then repeated and succeeds. The device behind it sees
 * zeroes, its ring breaks or its front-end goes away, and nobody else notices.
 *
 * The list is guarded by a spin lock that the handler takes too. That cannot
 * deadlock: code that holds the lock never touches guest memory.
 */
#include "memory/mapping.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define HUGE_PAGE (2ULL << 20)

/**
 * struct sl_mapping
 * @refs:      atomic
 * @base:      start of the mapping, page aligned; @length bytes
 * @addr:      the byte that was asked for
 * @lost:      atomic; replaced by zero pages
 * @next, @prev: list of all mappings
 */
struct sl_mapping {
	unsigned int refs;
	char *base;
	size_t length;
	void *addr;
	bool lost;
	struct sl_mapping *next, **prev;
};

/* Every mapping of the process, for the signal handler. */
static struct {
	bool lock;
	struct sl_mapping *head;
} all;

static void lock_all(void)
{
	while (__atomic_test_and_set(&all.lock, __ATOMIC_ACQUIRE))
		;
}

static void unlock_all(void)
{
	__atomic_clear(&all.lock, __ATOMIC_RELEASE);
}

/* The unit that offsets and lengths of a mapping of @fd must have. */
static uint64_t map_unit(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) == 0 && (unsigned long)fs.f_type == HUGETLBFS_MAGIC)
		return (uint64_t)fs.f_bsize;
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

static struct sl_mapping *refuse(struct sl_err *err, int errnum, uint64_t offset, uint64_t size, const char *why)
{
	sl_err_set(err, errnum, "memory: mapping of %" PRIu64 " bytes at offset %" PRIu64 ": %s", size, offset, why);
	errno = errnum;
	return NULL;
}

/* Take over the mapping at @base; NULL when there is no memory, and then it is gone. */
static struct sl_mapping *add_mapping(void *base, size_t length, size_t first)
{
	struct sl_mapping *m = calloc(1, sizeof(*m));

	if (!m) {
		munmap(base, length);
		return NULL;
	}
	m->refs = 1;
	m->base = base;
	m->length = length;
	m->addr = m->base + first;
	madvise(base, length, MADV_DONTDUMP);

	lock_all();
	m->next = all.head;
	m->prev = &all.head;
	if (m->next)
		m->next->prev = &m->next;
	all.head = m;
	unlock_all();
	return m;
}

struct sl_mapping *sl_mapping_new(int fd, uint64_t offset, uint64_t size, struct sl_err *err)
{
	uint64_t unit, start, end;
	struct sl_mapping *m;
	struct stat st;
	void *base;

	if (!size || __builtin_add_overflow(offset, size, &end) || end > INT64_MAX)
		return refuse(err, EINVAL, offset, size, "not a range of a file");
	if (fstat(fd, &st) < 0)
		return refuse(err, errno, offset, size, strerror(errno));
	if (S_ISREG(st.st_mode) && end > (uint64_t)st.st_size)
		return refuse(err, EINVAL, offset, size, "reaches beyond the end of the file");
	unit = map_unit(fd);
	start = offset & ~(unit - 1);
	if (__builtin_add_overflow(end, unit - 1, &end))
		return refuse(err, EINVAL, offset, size, "not a range of a file");
	end &= ~(unit - 1);

	base = mmap(NULL, end - start, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)start);
	if (base == MAP_FAILED)
		return refuse(err, errno, offset, size, strerror(errno));
	m = add_mapping(base, end - start, offset - start);
	return m ? m : refuse(err, ENOMEM, offset, size, "out of memory");
}

struct sl_mapping *mapping_new_private(uint64_t size, struct sl_err *err)
{
	uint64_t length, room, before;
	struct sl_mapping *m;
	char *base;

	if (__builtin_add_overflow(size, HUGE_PAGE - 1, &length) || !size ||
	    __builtin_add_overflow(length &= ~(HUGE_PAGE - 1), HUGE_PAGE, &room))
		return refuse(err, EINVAL, 0, size, "not a size");
	base = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return refuse(err, errno, 0, size, strerror(errno));
	before = -(uintptr_t)base & (HUGE_PAGE - 1);
	if (before)
		munmap(base, before);
	base += before;
	munmap(base + length, HUGE_PAGE - before);
	madvise(base, length, MADV_HUGEPAGE);
	madvise(base, length, MADV_DONTFORK); /* no copies on account of a child that has nothing to do with it */
	m = add_mapping(base, length, 0);
	return m ? m : refuse(err, ENOMEM, 0, size, "out of memory");
}

void *sl_mapping_addr(const struct sl_mapping *m)
{
	return m->addr;
}

struct sl_mapping *sl_mapping_get(struct sl_mapping *m)
{
	__atomic_fetch_add(&m->refs, 1, __ATOMIC_RELAXED);
	return m;
}

void sl_mapping_put(struct sl_mapping *m)
{
	/* Release our accesses, acquire everybody else's before the unmap. */
	if (!m || __atomic_sub_fetch(&m->refs, 1, __ATOMIC_ACQ_REL))
		return;
	lock_all();
	*m->prev = m->next;
	if (m->next)
		m->next->prev = m->prev;
	unlock_all();
	munmap(m->base, m->length);
	free(m);
}

bool mapping_lost(const struct sl_mapping *m)
{
	return __atomic_load_n(&m->lost, __ATOMIC_ACQUIRE);
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	const char *addr = info->si_addr;
	int saved = errno;
	bool found = false;

	(void)context;
	lock_all();
	for (struct sl_mapping *m = all.head; m && !found; m = m->next) {
		if (addr < m->base || addr >= m->base + m->length)
			continue;
		found = mmap(m->base, m->length, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
		__atomic_store_n(&m->lost, true, __ATOMIC_RELEASE);
	}
	unlock_all();
	if (!found)
		signal(sig, SIG_DFL); /* the access is repeated and takes the default effect */
	errno = saved;
}

int sl_mem_guard(void)
{
	struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};

	sigemptyset(&sa.sa_mask);
	return sigaction(SIGBUS, &sa, NULL) < 0 ? -errno : 0;
}
