/* SPDX-License-Identifier: MIT */
/* overlay.h - private to overlay.c (requests), overlay_flush.c (durability) and overlay_file.c (the scratch file) */
#ifndef BLOCK_OVERLAY_H
#define BLOCK_OVERLAY_H

#include <endian.h>

#include "block/filter.h"

struct overlay;

#define MAP_PAGE 4096u /* what is written of the map at a time, bytes */
#define MAP_PAGE_WORDS (MAP_PAGE / 8)
#define FLUSH_PAGES 16u /* of the map, written at the same time */

/**
 * struct overlay_map - which blocks are in the scratch file; a bit once set stays set
 * @words: a bit for each block, atomic, little endian as in the file; mapped, so that it takes memory where there are
 *         bits, and so that in an overlay=FILE it is the file's and outlives this process
 * @bytes: mapped
 * @dirty: a bit for each page of @words that has bits which are not durable yet; atomic
 * @pages: of @words
 */
struct overlay_map {
	uint64_t *words;
	size_t bytes;
	uint64_t *dirty;
	size_t pages;
};

/** struct overlay_page - a page of the map on its way to the file */
struct overlay_page {
	struct block_req req;
	struct overlay *overlay;
	struct iovec iov;
	unsigned char *data;
};

/**
 * struct overlay_flusher - see overlay_flush.c
 * @leading: somebody is making a round; atomic
 * @pending: requests that came since its beginning, newest first; atomic
 * @batch:   whom this round is for. This and what follows is the leader's
 * @taken:   a bit for each page that is in this round
 * @cursor:  of the pages from here on it is not known whether they are dirty
 */
struct overlay_flusher {
	bool leading;
	struct block_req *pending;
	struct block_req *batch;
	struct overlay_channel *leader;
	uint64_t *taken;
	size_t cursor;
	struct block_req sync;
	struct overlay_page pages[FLUSH_PAGES];
	unsigned int n, under_way;
	int result;
};

/**
 * struct overlay
 * @f:          @f.below is the base, which is only read
 * @scratch:    the file with what was written
 * @fd:         the same file, for the map and the header; -1: temporary
 * @shift:      log2 of the block size
 * @data:       where in the scratch file the disk begins
 * @durable_at: where in it the durable map begins
 * @temporary:  nothing has to outlive this process
 * @durable:    each change is durable when done
 * @allocated:  bits that are set; relaxed
 */
struct overlay {
	struct filter f;
	struct block *scratch;
	int fd;
	unsigned int shift;
	uint64_t data, durable_at, base_size;
	bool temporary, durable;
	uint64_t allocated;
	struct overlay_map map;
	struct overlay_flusher flusher;
};

/** struct overlay_channel - @fc.below: of the base */
struct overlay_channel {
	struct filter_channel fc;
	struct block_channel *scratch;
	struct filter_hooks hooks;
};

static inline struct overlay *overlay_of(const struct overlay_channel *ch)
{
	return (struct overlay *)ch->fc.c.block;
}

/** overlay_commit_soon() - something was handed down outside a batch */
static inline void overlay_commit_soon(struct overlay_channel *ch)
{
	sl_task_post(ch->fc.c.loop, &ch->hooks.resume);
}

/* ---- overlay.c ---- */

/**
 * overlay_new() - put an overlay on @base; @scratch has room for the disk from @data on
 * @map_bytes: room in the map, a multiple of MAP_PAGE
 *
 * Takes neither block when it fails (NULL with @err filled). The map is not mapped yet.
 */
struct overlay *overlay_new(struct block *base, struct block *scratch, uint64_t data, size_t map_bytes,
			    struct sl_err *err);
/** overlay_mark() - these blocks are in the scratch file from now on; any thread */
void overlay_mark(struct overlay *o, uint64_t first, uint64_t n);

/* ---- overlay_flush.c ---- */

/** overlay_flush() - all that is done becomes durable, and then @req is done; on its channel's loop */
void overlay_flush(struct overlay_channel *ch, struct block_req *req);
int overlay_flusher_init(struct overlay *o, struct sl_err *err);
void overlay_flusher_free(struct overlay *o);

/* ---- overlay_file.c ---- */

/**
 * struct overlay_options
 * @path: NULL: none
 */
struct overlay_options {
	const char *path;
	bool temporary;
};

/** overlay_open_file() - use @path, made when it is not there, as the scratch file above @base */
int overlay_open_file(struct block *base, const char *path, const struct block_options *bo, const char *cache,
		      struct overlay **out, struct sl_err *err);
/** overlay_open_on() - the same with an open file, which @scratch has locked; takes @scratch and @fd when it succeeds */
int overlay_open_on(struct block *base, struct block *scratch, int fd, const char *path, bool read_only,
		    struct overlay **out, struct sl_err *err);
/** overlay_open_temporary() - a scratch file that is gone with this process */
int overlay_open_temporary(struct block *base, const struct block_options *bo, const char *cache,
			   struct overlay **out, struct sl_err *err);
/** overlay_file_close() - make what was done durable, unless it is temporary, and let go of the map; no channels */
void overlay_file_close(struct overlay *o);
int overlay_resize(struct block *b, uint64_t size, struct sl_err *err);

#endif
