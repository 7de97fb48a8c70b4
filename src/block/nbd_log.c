/* SPDX-License-Identifier: MIT */
/* nbd_log.c - what was answered and is not durable yet, in case our own qemu-nbd dies.
 *
 * qemu-nbd answers a write when the kernel has the data; but where the data
 * is, in an image that grows, it keeps to itself until somebody flushes. If it
 * is killed in between, such a write is gone although the guest was told that
 * it is done and may never send it again. So a copy of each of them is kept
 * here, in the order of the answers, until a flush that was sent after the
 * answer is done. A qemu-nbd that was started again gets all of them once more
 * before it gets anything else.
 *
 * Two writes of the same block are in the right order here when the guest
 * waited for the first, and one that does not wait cannot know which is last.
 *
 * So every write is here, also one that is durable by itself: one that is
 * missing would be undone by an older one of the same block.
 *
 * A ring of bytes, whose pages come into being when they are used. Room is
 * reserved before a write is sent, so that there is some when it is answered.
 * A write without room waits; the channels send flushes of their own to make
 * some. One that is larger than the ring goes with FUA while the ring is empty.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "block/nbd.h"

#define SIZE (32u << 20)      /* a multiple of UNIT */
#define UNIT 64u	      /* everything starts at a multiple, so that a struct entry never goes over the end */
#define MAX_SPACE (1u << 30)  /* of a trim or zeroing at a time */

/** struct entry - in the ring, followed by the data of a write; @seq: the how-manieth; @op: enum block_op */
struct entry {
	uint64_t seq, offset, len;
	uint32_t op, flags;
};

/**
 * struct nbd_log
 * @lock:     guards everything below it
 * @start:    of the oldest entry, bytes from @ring
 * @used, @reserved: bytes
 * @seq:      of the newest entry
 */
struct nbd_log {
	unsigned char *ring;
	pthread_mutex_t lock;
	uint32_t start, used, reserved;
	uint64_t seq;
};

_Static_assert(sizeof(struct entry) <= UNIT && SIZE % UNIT == 0, "an entry is in one piece");

struct nbd_log *nbd_log_new(void)
{
	struct nbd_log *log = calloc(1, sizeof(*log));
	void *ring = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (!log || ring == MAP_FAILED) {
		if (ring != MAP_FAILED)
			munmap(ring, SIZE);
		free(log);
		return NULL;
	}
	log->ring = ring;
	pthread_mutex_init(&log->lock, NULL);
	return log;
}

void nbd_log_free(struct nbd_log *log)
{
	if (!log)
		return;
	pthread_mutex_destroy(&log->lock);
	munmap(log->ring, SIZE);
	free(log);
}

/* ---- writing down ---- */

/* Bytes that a request takes; 0: it changes nothing. */
static uint64_t room(enum block_op op, uint64_t len)
{
	if (op == BLOCK_READ || op == BLOCK_FLUSH)
		return 0;
	return UNIT + (op == BLOCK_WRITE ? (len + UNIT - 1) / UNIT * UNIT : 0);
}

int nbd_log_reserve(struct nbd_log *log, const struct block_req *req)
{
	uint64_t n = room(req->op, req->len);
	int ret = -1;

	if (!n)
		return 0;
	pthread_mutex_lock(&log->lock);
	if (n <= SIZE - log->used - log->reserved) {
		log->reserved += (uint32_t)n;
		ret = 1;
	} else if (n > SIZE && !log->used) {
		ret = 0;
	}
	pthread_mutex_unlock(&log->lock);
	return ret;
}

void nbd_log_release(struct nbd_log *log, const struct block_req *req)
{
	pthread_mutex_lock(&log->lock);
	log->reserved -= (uint32_t)room(req->op, req->len);
	pthread_mutex_unlock(&log->lock);
}

static void put_bytes(struct nbd_log *log, uint32_t at, const void *from, size_t len)
{
	size_t first = SIZE - at < len ? SIZE - at : len;

	memcpy(log->ring + at, from, first);
	memcpy(log->ring, (const char *)from + first, len - first);
}

void nbd_log_add(struct nbd_log *log, const struct block_req *req)
{
	const uint32_t n = (uint32_t)room(req->op, req->len);
	uint32_t at;

	pthread_mutex_lock(&log->lock);
	at = (log->start + log->used) % SIZE;
	*(struct entry *)(void *)(log->ring + at) = (struct entry){
		.seq = ++log->seq, .offset = req->offset, .len = req->len, .op = req->op, .flags = req->flags};
	at = (at + UNIT) % SIZE;
	for (unsigned int i = 0; req->op == BLOCK_WRITE && i < req->iovcnt; i++) {
		put_bytes(log, at, req->iov[i].iov_base, req->iov[i].iov_len);
		at = (uint32_t)((at + req->iov[i].iov_len) % SIZE);
	}
	log->reserved -= n;
	__atomic_store_n(&log->used, log->used + n, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&log->lock);
}

/* ---- forgetting ---- */

static const struct entry *oldest(const struct nbd_log *log)
{
	return log->used ? (const struct entry *)(const void *)(log->ring + log->start) : NULL;
}

static void forget_oldest(struct nbd_log *log)
{
	const struct entry *e = oldest(log);
	const uint32_t n = (uint32_t)room(e->op, e->len);

	log->start = (log->start + n) % SIZE;
	__atomic_store_n(&log->used, log->used - n, __ATOMIC_RELAXED);
	if (!log->used && !log->reserved)
		log->start = 0; /* where its pages are in the caches */
}

uint64_t nbd_log_mark(struct nbd_log *log)
{
	uint64_t mark;

	pthread_mutex_lock(&log->lock);
	mark = log->seq;
	pthread_mutex_unlock(&log->lock);
	return mark;
}

void nbd_log_flushed(struct nbd_log *log, uint64_t mark)
{
	const struct entry *e;

	pthread_mutex_lock(&log->lock);
	while ((e = oldest(log)) && e->seq <= mark)
		forget_oldest(log);
	pthread_mutex_unlock(&log->lock);
}

bool nbd_log_half(const struct nbd_log *log)
{
	return __atomic_load_n(&log->used, __ATOMIC_RELAXED) > SIZE / 2;
}

/* ---- once more ---- */

static int write_again(const struct nbd_log *log, struct nbd_handle *h, const struct entry *e, uint32_t at)
{
	const size_t first = SIZE - at < e->len ? SIZE - at : e->len;

	if (libnbd.nbd_pwrite(h, log->ring + at, first, e->offset, 0))
		return -1;
	return first == e->len ? 0 : libnbd.nbd_pwrite(h, log->ring, e->len - first, e->offset + first, 0);
}

static int space_again(struct nbd_handle *h, const struct entry *e)
{
	for (uint64_t done = 0, n; done < e->len; done += n) {
		n = e->len - done < MAX_SPACE ? e->len - done : MAX_SPACE;
		if (e->op == BLOCK_DISCARD ? libnbd.nbd_trim(h, n, e->offset + done, 0) :
					     libnbd.nbd_zero(h, n, e->offset + done,
						      e->flags & BLOCK_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE))
			return -1;
	}
	return 0;
}

int nbd_log_replay(struct nbd_log *log, struct nbd_handle *h, struct sl_err *err)
{
	uint32_t at = log->start, left = log->used;

	if (!left)
		return 0;
	while (left) {
		const struct entry *e = (const struct entry *)(const void *)(log->ring + at);
		const uint32_t n = (uint32_t)room(e->op, e->len);

		if (e->op == BLOCK_WRITE ? write_again(log, h, e, (at + UNIT) % SIZE) : space_again(h, e))
			return sl_err_set(err, EIO, "what it had answered cannot be written again: %s", nbd_say());
		at = (at + n) % SIZE;
		left -= n;
	}
	if (libnbd.nbd_flush(h, 0))
		return sl_err_set(err, EIO, "what it had answered cannot be made durable: %s", nbd_say());
	nbd_log_flushed(log, log->seq);
	return 0;
}
