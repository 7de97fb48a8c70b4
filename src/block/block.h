/* SPDX-License-Identifier: MIT */
/* block.h - where blocks live: the table every source and every filter implements.
 *
 * A source is opened once (struct block). Each loop that wants to do I/O
 * attaches a channel (struct block_channel); requests are submitted on a
 * channel and finish on its loop. A filter is a source that has another one
 * below it and implements the same table.
 *
 *   open -> attach (once a loop) -> { submit* commit }* ... done* -> detach -> close
 *
 * done() runs exactly once for each submitted request, on the channel's loop,
 * from commit() or later, never inside submit().
 */
#ifndef BLOCK_H
#define BLOCK_H

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <sluice/error.h>
#include <sluice/loop.h>

enum block_op {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,
	BLOCK_DISCARD,	     /* contents undefined afterwards */
	BLOCK_WRITE_ZEROES,  /* reads as zeroes afterwards */
	BLOCK_SECURE_ERASE,
	BLOCK_NUM_OPS,
};

enum block_flag {
	BLOCK_FUA = 1,	 /* WRITE, WRITE_ZEROES, DISCARD: durable before done() */
	BLOCK_UNMAP = 2, /* WRITE_ZEROES: space may be given back */
};

/**
 * struct block_req - one request; lives in the caller's slot until done()
 * @op, @flags: what to do
 * @offset, @len: bytes; already checked against the source's size and block size by block_submit()
 * @iov, @iovcnt: READ, WRITE: memory, whose lengths sum to @len; the array stays valid and unchanged until done()
 * @done: result is 0 or -errno; the request may be reused or freed inside it
 * @next: belongs to the source between submit and done
 * @channel: set by block_submit()
 * @scratch: belongs to the source (the lowest one) between submit and done
 */
struct block_req {
	enum block_op op;
	unsigned int flags;
	uint64_t offset, len;
	struct iovec *iov;
	unsigned int iovcnt;
	void (*done)(struct block_req *req, int result);
	struct block_req *next;
	struct block_channel *channel;
	alignas(16) unsigned char scratch[64];
};

/**
 * struct block_info - what a source is and can
 * @size:             bytes; a multiple of @block_size
 * @block_size:       logical block: unit of offsets and lengths; a power of two, 512 to 64 KiB
 * @physical_size:    physical block, a power of two multiple of @block_size
 * @optimal_size:     preferred I/O, bytes, 0 when unknown
 * @max_segments:     of one request's iov; 0: IOV_MAX
 * @discard_granularity: bytes, 0 when unknown
 * @read_only, @flush, @discard, @write_zeroes, @unmap_zeroes, @secure_erase: what it can
 */
struct block_info {
	uint64_t size;
	uint32_t block_size, physical_size, optimal_size, max_segments, discard_granularity;
	bool read_only, flush, discard, write_zeroes, unmap_zeroes, secure_erase;
};

struct block;
struct block_channel;

/**
 * struct block_ops - a kind of source
 * @name:         "file", "memory", ...
 * @block_size:   bytes of the source's own struct, which starts with struct block
 * @channel_size: bytes of its own channel struct, which starts with struct block_channel
 * @close:        control; all channels are detached
 * @attach, @detach: on the channel's loop; detach only when nothing is in flight. Optional
 * @submit:       on the channel's loop; must take the request
 * @commit:       the batch ends: start what was submitted. Optional
 * @refresh:      control; look at the size again, update block->info. Optional
 */
struct block_ops {
	const char *name;
	size_t block_size, channel_size;
	void (*close)(struct block *b);
	int (*attach)(struct block_channel *c);
	void (*detach)(struct block_channel *c);
	void (*submit)(struct block_channel *c, struct block_req *req);
	void (*commit)(struct block_channel *c);
	int (*refresh)(struct block *b, struct sl_err *err);
};

/** struct block - an open source. @info may change only through refresh() */
struct block {
	const struct block_ops *ops;
	struct block_info info;
	char *name; /* for messages */
};

/** struct block_channel - a loop's access to a source */
struct block_channel {
	struct block *block;
	struct sl_loop *loop;
};

/* Opening: see block_open() in block.c and the option table in block_options.h. */
void block_close(struct block *b); /* NULL allowed */
struct block_channel *block_attach(struct block *b, struct sl_loop *loop, struct sl_err *err);
void block_detach(struct block_channel *c); /* NULL allowed */

/**
 * block_submit() - hand a request to the source
 *
 * Checks range, alignment, read-only and abilities first. A request that fails
 * the check is finished with -EINVAL, -ENOSPC (beyond the end), -EROFS or
 * -EOPNOTSUPP at the next block_commit(); done() is never called in here.
 */
void block_submit(struct block_channel *c, struct block_req *req);
void block_commit(struct block_channel *c);

#endif
