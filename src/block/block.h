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

#include "base/opts.h"

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
 * @offset, @len: bytes; already checked against the source's size and block size by block_submit(). A filter may change
 *        @offset and @flags on the way down: done() does not rely on them
 * @iov, @iovcnt: READ, WRITE: memory, whose lengths sum to @len; the array stays valid and unchanged until done();
 *        the source may trim its entries meanwhile, and mends them before done()
 * @done: result is 0 or -errno; the request may be reused or freed inside it
 * @result: of a request on the channel's list of finished ones
 * @next: belongs to whoever holds the request between submit and done
 * @channel: the channel of the source that holds it; set by block_submit() and block_forward()
 * @scratch: belongs to whoever holds the request (a filter, then the source below it) between submit and done
 */
struct block_req {
	enum block_op op;
	unsigned int flags;
	uint64_t offset, len;
	struct iovec *iov;
	unsigned int iovcnt;
	int result;
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
 * @discard_granularity: bytes, 0 when unknown
 * @read_only:    every write is refused
 * @flush:        it has a cache that FLUSH makes durable; without one each write is durable when done and FLUSH
 *                does nothing
 * @discard, @write_zeroes, @secure_erase: takes these requests
 * @unmap_zeroes: BLOCK_UNMAP may give space back
 * @single:       for one channel at a time: a flush does not cover what went through another one
 */
struct block_info {
	uint64_t size;
	uint32_t block_size, physical_size, optimal_size, discard_granularity;
	bool read_only, flush, discard, write_zeroes, unmap_zeroes, secure_erase, single;
};

struct block;
struct block_channel;
struct block_report;

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
 * @resize:       control; give the store a new size, which a refresh then finds. Optional
 * @abandon:      on the channel's loop; nobody waits any longer: each request in flight is finished with -ETIMEDOUT by
 *                the next commit, and its memory is not touched again. The store may still carry it out. Optional: a
 *                source without it always answers in the end
 * @drain:        on the channel's loop; a stop begins: what is held only to keep a limit goes on, and so does what
 *                still comes until the channel is detached. Optional
 * @report:       control, beside data loops; say how the source is, see struct block_report. Optional
 */
struct block_ops {
	const char *name;
	size_t block_size, channel_size;
	void (*close)(struct block *b);
	int (*attach)(struct block_channel *c, struct sl_err *err);
	void (*detach)(struct block_channel *c);
	void (*submit)(struct block_channel *c, struct block_req *req);
	void (*commit)(struct block_channel *c);
	int (*refresh)(struct block *b, struct sl_err *err);
	int (*resize)(struct block *b, uint64_t size, struct sl_err *err);
	void (*abandon)(struct block_channel *c);
	void (*drain)(struct block_channel *c);
	void (*report)(struct block *b, const struct block_report *r);
};

/**
 * struct block_report - who wants to know how a source is
 * @number: one figure; @name is "LAYER.WHAT-UNIT" in lower case, as "nbd.reconnects", "rbd.oldest-request-ms"
 */
struct block_report {
	void (*number)(void *arg, const char *name, uint64_t value);
	void *arg;
};

/**
 * struct block - an open source
 * @info:    may change only through refresh()
 * @name:    for messages
 * @above:   the filter on top of it
 * @watcher: loop of @changed; NULL: nobody wants to know
 * @changed: see block_watch()
 */
struct block {
	const struct block_ops *ops;
	struct block_info info;
	char *name;
	struct block *above;
	struct sl_loop *watcher;
	struct sl_task changed;
};

/**
 * struct block_channel - a loop's access to a source
 * @finished, @finished_end: requests whose @result is known, done at the end of the next commit
 */
struct block_channel {
	struct block *block;
	struct sl_loop *loop;
	struct block_req *finished, **finished_end;
};

/**
 * struct block_options - the keys every source takes
 * @read_only:  refuse writes
 * @discard:    give space back when asked to; off: DISCARD is not offered and BLOCK_UNMAP is ignored
 * @block_size: logical block, 0: what the source prefers
 */
struct block_options {
	bool read_only, discard;
	uint64_t block_size;
};

/**
 * struct block_source - a row of the table of sources
 * @prefix:  what the SOURCE text starts with; NULL: a path
 * @source:  for `sluice devices`
 * @options: the source's own keys, or NULL
 * @open:    @text is the SOURCE behind the prefix. 0 or -errno with @err filled
 */
struct block_source {
	const char *prefix;
	struct opt_source source;
	const struct opt_table *options;
	int (*open)(const char *text, const struct block_options *o, struct spec *s, struct block **out,
		    struct sl_err *err);
};

/**
 * struct block_filter - a row of the table of filters
 * @options:    its keys
 * @reads_only: with the keys of @s it never changes what is below, so the source is opened read-only. Optional
 * @stack:      when its keys ask for it, put the filter on top of *@b. 0 or -errno with @err filled, *@b then unchanged
 */
struct block_filter {
	const struct opt_table *options;
	bool (*reads_only)(const struct spec *s);
	int (*stack)(struct spec *s, struct block **b, struct sl_err *err);
};

extern const struct block_source block_source_file, block_source_memory, block_source_null;
#ifdef HAVE_LIBNBD
extern const struct block_source block_source_nbd, block_source_nbd_unix, block_source_nbds, block_source_nbds_unix;
extern const struct opt_table nbd_options_table;
#endif
#ifdef HAVE_LIBRBD
extern const struct block_source block_source_rbd;
extern const struct opt_table rbd_options_table;
#endif
extern const struct block_filter block_filter_delay, block_filter_error, block_filter_overlay, block_filter_record,
	block_filter_throttle;
extern const struct opt_table block_options_table, file_options_table, delay_options_table, error_options_table;
extern const struct opt_table overlay_options_table, record_options_table, throttle_options_table;

/** block_source_at() - the @n-th row of the table of sources; NULL after the last one */
const struct block_source *block_source_at(unsigned int n);

/**
 * block_open() - open the source that @s names, with the filters its keys ask for; control
 *
 * Marks the keys it took as used. Return: 0 or -errno with @err filled.
 */
int block_open(struct spec *s, struct block **out, struct sl_err *err);
void block_close(struct block *b); /* NULL allowed */
/** block_attach() - on @loop's thread; NULL with @err filled */
struct block_channel *block_attach(struct block *b, struct sl_loop *loop, struct sl_err *err);
void block_detach(struct block_channel *c); /* NULL allowed */
/** block_refresh() - control; look at the source's size again; 0 or -errno with @err filled */
int block_refresh(struct block *b, struct sl_err *err);
/** block_resize() - control; make the source so many bytes large, and refresh; 0 or -errno with @err filled */
int block_resize(struct block *b, uint64_t size, struct sl_err *err);
/**
 * block_watch() - be told that the store says it changed, so that a block_refresh() is worth while; control
 * @fn: on @control, soon after
 *
 * At most once for each block; it ends with block_close().
 */
void block_watch(struct block *b, struct sl_loop *control, void (*fn)(void *arg), void *arg);
/** block_abandon() - on the channel's loop, a block_commit() follows; see struct block_ops. Return: can the source? */
bool block_abandon(struct block_channel *c);
/** block_drain() - on the channel's loop, a block_commit() follows; see struct block_ops */
void block_drain(struct block_channel *c);
/** block_report() - control; the figures of the whole stack */
void block_report(struct block *b, const struct block_report *r);

/**
 * block_submit() - hand a request to the source
 *
 * Checks range, alignment, read-only and abilities first. A request that fails
 * the check is finished with -EINVAL, -ENOSPC (beyond the end), -EROFS or
 * -EOPNOTSUPP at the next block_commit(); done() is never called in here.
 */
void block_submit(struct block_channel *c, struct block_req *req);
void block_commit(struct block_channel *c);

/* ---- for sources and filters ---- */

/** block_changed() - the store says that it changed (another size); any thread, until close() */
void block_changed(struct block *b);
/** block_alloc() - a zeroed block with its own copy of @name; NULL with @err filled. block_free() undoes it */
struct block *block_alloc(const struct block_ops *ops, const char *name, struct sl_err *err);
void block_free(struct block *b);

/**
 * block_set_size() - check @size against the block size @o asks for, or @preferred, and fill @b->info
 *
 * Return: 0 or -EINVAL with @err filled.
 */
int block_set_size(struct block *b, uint64_t size, uint32_t preferred, const struct block_options *o,
		   struct sl_err *err);

/** block_size_now() - the size, which refresh() may change under the data loops */
static inline uint64_t block_size_now(const struct block *b)
{
	return __atomic_load_n(&b->info.size, __ATOMIC_RELAXED);
}

/** block_finish() - the request's result is known: done() at the end of the next commit, never in here */
static inline void block_finish(struct block_channel *c, struct block_req *req, int result)
{
	req->result = result;
	req->next = NULL;
	*c->finished_end = req;
	c->finished_end = &req->next;
}

/** block_forward() - a filter hands a request, checked already, to the channel below */
static inline void block_forward(struct block_channel *below, struct block_req *req)
{
	req->channel = below;
	below->block->ops->submit(below, req);
}

#endif
