/* SPDX-License-Identifier: MIT */
/* overlay.c - what is written goes to a scratch file; the disk below is only read.
 *
 * Theory of operation
 *
 * A map with a bit for each logical block says where the block is: in the
 * scratch file, at the same place as in the disk, or still in the base. A
 * write goes to the scratch file and sets its bits when it is done, before its
 * caller is told. No block is ever copied up: the bit's unit is the unit of
 * all requests. Bits are set for ever, so a read that looked at the map before
 * a write was done gets what was there before, and nothing has to be locked.
 *
 *	READ          from one place: handed down as it is. From both: piece by piece, one after the other, with
 *	              the caller's list of memory cut to the piece for the time of the call
 *	WRITE         blocks that all have their bits: handed down. Otherwise a stand-in is sent, and then the bits
 *	              are set
 *	WRITE_ZEROES  the same; when space may be given back, a hole in the scratch file with bits set is zeroes
 *	DISCARD       punches holes into the scratch file; bits stay as they are, so that the base's old data does
 *	              not come back where there was newer
 *	FLUSH         overlay_flush.c
 *
 * A write that fails, because the scratch file's disk is full for instance,
 * sets no bits: its blocks read as before.
 */
#include "block/overlay.h"

#include <errno.h>
#include <string.h>

#define NUM_HOOKS 64u

/**
 * struct split - a read from both places
 * @at:    bytes that are done
 * @len:   of the piece under way
 * @index, @cut: where the piece begins in the list: entry, and bytes into it
 * @last, @rest: where it ends: entry, and bytes of it
 * @first: entry @index as it was
 * @last_len: length of entry @last as it was, after the cut
 */
struct split {
	struct filter_hook h;
	uint64_t at, len;
	unsigned int index, last;
	size_t cut, rest, last_len;
	struct iovec first;
};

static struct overlay_channel *channel_of(const struct block_req *origin)
{
	return (struct overlay_channel *)origin->channel;
}

/* ---- the map ---- */

static uint64_t word_at(const struct overlay_map *m, uint64_t block)
{
	return le64toh(__atomic_load_n(&m->words[block / 64], __ATOMIC_ACQUIRE));
}

/* How many blocks from @first on, @n at most, are in the same place; *@set says in which. */
static uint64_t run_of(const struct overlay_map *m, uint64_t first, uint64_t n, bool *set)
{
	uint64_t done = 0;

	*set = word_at(m, first) >> first % 64 & 1;
	while (done < n) {
		unsigned int bit = (unsigned int)((first + done) % 64);
		uint64_t word = word_at(m, first + done);
		uint64_t other = (*set ? ~word : word) >> bit;
		unsigned int alike = other ? (unsigned int)__builtin_ctzll(other) : 64 - bit;

		done += alike;
		if (other)
			break;
	}
	return done < n ? done : n;
}

static bool all_set(const struct overlay *o, const struct block_req *req)
{
	uint64_t n = req->len >> o->shift;
	bool set;

	return run_of(&o->map, req->offset >> o->shift, n, &set) == n && set;
}

void overlay_mark(struct overlay *o, uint64_t first, uint64_t n)
{
	struct overlay_map *m = &o->map;
	uint64_t end = first + n, fresh = 0;

	while (first < end) {
		unsigned int bit = (unsigned int)(first % 64);
		uint64_t count = 64 - bit < end - first ? 64 - bit : end - first;
		uint64_t mask = htole64((~(uint64_t)0 >> (64 - count)) << bit), old;

		old = __atomic_fetch_or(&m->words[first / 64], mask, __ATOMIC_RELEASE);
		if (mask & ~old) {
			size_t page = first / 64 / MAP_PAGE_WORDS;

			fresh += (unsigned int)__builtin_popcountll(mask & ~old);
			/* After the bits: who takes the page off this list with acquire sees them. */
			__atomic_fetch_or(&m->dirty[page / 64], (uint64_t)1 << page % 64, __ATOMIC_RELEASE);
		}
		first += count;
	}
	__atomic_fetch_add(&o->allocated, fresh, __ATOMIC_RELAXED);
}

/* ---- WRITE, WRITE_ZEROES ---- */

static void to_scratch(struct overlay_channel *ch, struct block_req *req)
{
	req->offset += overlay_of(ch)->data;
	block_forward(ch->scratch, req);
}

static bool wants_durable(const struct overlay *o, const struct block_req *req)
{
	return !o->temporary && (o->durable || (req->flags & BLOCK_FUA));
}

static void write_done(struct block_req *req, int result)
{
	struct filter_hook *h = (struct filter_hook *)req;
	struct block_req *origin = h->origin;
	struct overlay_channel *ch = channel_of(origin);
	struct overlay *o = overlay_of(ch);

	filter_hook_put(&ch->hooks, h);
	if (!result && origin->op != BLOCK_DISCARD)
		overlay_mark(o, origin->offset >> o->shift, origin->len >> o->shift);
	if (!result && wants_durable(o, origin))
		overlay_flush(ch, origin);
	else
		origin->done(origin, result);
}

static void start_write(struct overlay_channel *ch, struct block_req *req)
{
	struct filter_hook *h = filter_hook_get(&ch->hooks, req, write_done);

	h->req.flags &= ~(unsigned int)BLOCK_FUA;
	to_scratch(ch, &h->req);
}

static void submit_change(struct overlay_channel *ch, struct block_req *req)
{
	const struct overlay *o = overlay_of(ch);

	if (wants_durable(o, req) || (req->op != BLOCK_DISCARD && !all_set(o, req))) {
		filter_hooks_submit(&ch->hooks, req);
		return;
	}
	req->flags &= ~(unsigned int)BLOCK_FUA;
	to_scratch(ch, req);
}

/* ---- READ ---- */

static void read_from(struct overlay_channel *ch, struct block_req *req, bool scratch)
{
	if (scratch)
		to_scratch(ch, req);
	else
		block_forward(ch->fc.below, req);
}

static void cut_list(struct split *s)
{
	struct iovec *iov = s->h.origin->iov;
	uint64_t left = s->len;

	s->first = iov[s->index];
	iov[s->index].iov_base = (char *)s->first.iov_base + s->cut;
	iov[s->index].iov_len = s->first.iov_len - s->cut;
	for (s->last = s->index; iov[s->last].iov_len < left; s->last++)
		left -= iov[s->last].iov_len;
	s->last_len = iov[s->last].iov_len;
	s->rest = iov[s->last].iov_len = (size_t)left;
}

/* The list as it was; the next piece begins where this one ended. */
static void mend_list(struct split *s)
{
	struct iovec *iov = s->h.origin->iov;

	iov[s->last].iov_len = s->last_len;
	iov[s->index] = s->first;
	if (s->rest == s->last_len) {
		s->index = s->last + 1;
		s->cut = 0;
	} else {
		s->cut = (s->last == s->index ? s->cut : 0) + s->rest;
		s->index = s->last;
	}
}

static void read_piece(struct overlay_channel *ch, struct split *s)
{
	const struct overlay *o = overlay_of(ch);
	struct block_req *origin = s->h.origin;
	uint64_t at = origin->offset + s->at;
	bool set;

	s->len = run_of(&o->map, at >> o->shift, (origin->len - s->at) >> o->shift, &set) << o->shift;
	cut_list(s);
	s->h.req.offset = at;
	s->h.req.len = s->len;
	s->h.req.iov = &origin->iov[s->index];
	s->h.req.iovcnt = s->last - s->index + 1;
	read_from(ch, &s->h.req, set);
}

static void piece_done(struct block_req *req, int result)
{
	struct split *s = (struct split *)req;
	struct block_req *origin = s->h.origin;
	struct overlay_channel *ch = channel_of(origin);

	mend_list(s);
	s->at += s->len;
	if (!result && s->at < origin->len) {
		read_piece(ch, s);
		overlay_commit_soon(ch);
		return;
	}
	filter_hook_put(&ch->hooks, &s->h);
	origin->done(origin, result);
}

static void start_read(struct overlay_channel *ch, struct block_req *req)
{
	struct split *s = (struct split *)filter_hook_get(&ch->hooks, req, piece_done);

	s->at = 0;
	s->index = 0;
	s->cut = 0;
	read_piece(ch, s);
}

static void submit_read(struct overlay_channel *ch, struct block_req *req)
{
	const struct overlay *o = overlay_of(ch);
	uint64_t n = req->len >> o->shift;
	bool set;

	if (run_of(&o->map, req->offset >> o->shift, n, &set) == n)
		read_from(ch, req, set);
	else
		filter_hooks_submit(&ch->hooks, req);
}

/* ---- the table ---- */

static void overlay_start(struct block_channel *c, struct block_req *req)
{
	struct overlay_channel *ch = (struct overlay_channel *)c;

	if (req->op == BLOCK_READ)
		start_read(ch, req);
	else
		start_write(ch, req);
}

static void overlay_submit(struct block_channel *c, struct block_req *req)
{
	struct overlay_channel *ch = (struct overlay_channel *)c;

	if (req->op == BLOCK_READ)
		submit_read(ch, req);
	else if (req->op != BLOCK_FLUSH)
		submit_change(ch, req);
	else if (overlay_of(ch)->temporary)
		block_finish(c, req, 0);
	else
		overlay_flush(ch, req);
}

static void overlay_commit(struct block_channel *c)
{
	struct overlay_channel *ch = (struct overlay_channel *)c;

	block_commit(ch->fc.below);
	block_commit(ch->scratch);
}

static int overlay_attach(struct block_channel *c, struct sl_err *err)
{
	struct overlay_channel *ch = (struct overlay_channel *)c;
	int ret = filter_hooks_init(&ch->hooks, &ch->fc, NUM_HOOKS, sizeof(struct split), overlay_start, err);

	if (!ret)
		ret = filter_attach(c, err);
	if (!ret) {
		ch->scratch = block_attach(overlay_of(ch)->scratch, c->loop, err);
		ret = ch->scratch ? 0 : -1;
	}
	if (ret) {
		block_detach(ch->fc.below);
		filter_hooks_free(&ch->hooks);
	}
	return ret;
}

static void overlay_detach(struct block_channel *c)
{
	struct overlay_channel *ch = (struct overlay_channel *)c;

	filter_hooks_free(&ch->hooks);
	block_detach(ch->scratch);
	filter_detach(c);
}

static void overlay_abandon(struct block_channel *c)
{
	struct overlay_channel *ch = (struct overlay_channel *)c;

	filter_hooks_abandon(&ch->hooks);
	block_abandon(ch->scratch);
	filter_abandon(c);
}

/* The disk is as large as the overlay, whatever the base does. */
static int overlay_refresh(struct block *b, struct sl_err *err)
{
	(void)b;
	(void)err;
	return 0;
}

static void overlay_report(struct block *b, const struct block_report *r)
{
	struct overlay *o = (struct overlay *)b;

	r->number(r->arg, "overlay.allocated-bytes", __atomic_load_n(&o->allocated, __ATOMIC_RELAXED) << o->shift);
	block_report(o->scratch, r);
	filter_report(b, r);
}

static void overlay_close(struct block *b)
{
	struct overlay *o = (struct overlay *)b;

	overlay_file_close(o);
	overlay_flusher_free(o);
	block_close(o->scratch);
	filter_close(b);
}

static const struct block_ops overlay_ops = {
	.name = "overlay",
	.block_size = sizeof(struct overlay),
	.channel_size = sizeof(struct overlay_channel),
	.close = overlay_close,
	.attach = overlay_attach,
	.detach = overlay_detach,
	.submit = overlay_submit,
	.commit = overlay_commit,
	.refresh = overlay_refresh,
	.resize = overlay_resize,
	.abandon = overlay_abandon,
	.report = overlay_report,
};

/* ---- opening ---- */

struct overlay *overlay_new(struct block *base, struct block *scratch, uint64_t data, size_t map_bytes,
			    struct sl_err *err)
{
	struct overlay *o = (struct overlay *)filter_alloc(&overlay_ops, base, err);
	struct block_info *info;

	if (!o)
		return NULL;
	o->fd = -1;
	o->data = data;
	o->base_size = base->info.size;
	o->shift = (unsigned int)__builtin_ctz(base->info.block_size);
	o->map.bytes = map_bytes;
	o->map.pages = map_bytes / MAP_PAGE;
	if (overlay_flusher_init(o, err)) {
		base->above = NULL;
		block_free(&o->f.b);
		return NULL;
	}
	o->scratch = scratch;
	info = &o->f.b.info;
	if (scratch->info.physical_size > info->physical_size)
		info->physical_size = scratch->info.physical_size;
	info->read_only = scratch->info.read_only;
	info->discard = scratch->info.discard;
	info->discard_granularity = scratch->info.discard_granularity;
	info->unmap_zeroes = scratch->info.unmap_zeroes;
	info->write_zeroes = info->flush = true;
	info->secure_erase = info->single = false;
	return o;
}

static const struct opt_def options[] = {
	{"overlay", OPT_STRING, offsetof(struct overlay_options, path),
	 .help = "write to this file, made when it is not there, and only read the source"},
	{"temporary", OPT_BOOL, offsetof(struct overlay_options, temporary), .def = "off",
	 .help = "write to a file that is gone when the device ends, and only read the source"},
	{0},
};

const struct opt_table overlay_options_table = {"overlay filter", options};

static struct spec_pair *pair_of(const struct spec *s, const char *key)
{
	for (unsigned int i = 0; i < s->n; i++)
		if (!strcmp(s->pairs[i].key, key))
			return &s->pairs[i];
	return NULL;
}

/* Asked before the source is opened; what does not make sense is said by stack(). */
static bool overlay_reads_only(const struct spec *s)
{
	const struct spec_pair *temporary = pair_of(s, "temporary");

	return spec_has(s, "overlay") || (temporary && !strcmp(temporary->value, "on"));
}

enum { WRITEBACK, NONE, WRITETHROUGH };

/* cache= is about the scratch file too, also when the source has no such key; words that only the source knows are its. */
static unsigned int cache_mode(const struct spec *s)
{
	static const char *const names[] = {"writeback", "none", "writethrough"};
	struct spec_pair *cache = pair_of(s, "cache");

	for (unsigned int i = 0; cache && i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(names[i], cache->value)) {
			cache->used = true;
			return i;
		}
	}
	return WRITEBACK;
}

static int overlay_stack(struct spec *s, struct block **b, struct sl_err *err)
{
	struct overlay_options oo = {0};
	struct block_options bo = {0};
	unsigned int mode;
	struct overlay *o;
	const char *cache;
	int ret = opts_apply(&overlay_options_table, s, &oo, err);

	if (!ret)
		ret = opts_apply(&block_options_table, s, &bo, err);
	if (ret || (!oo.path && !oo.temporary))
		return ret;
	if (oo.path && oo.temporary)
		return sl_err_set(err, EINVAL, "%s: overlay= and temporary=on exclude each other", s->type);
	if (oo.temporary && bo.read_only)
		return sl_err_set(err, EINVAL, "%s: temporary=on and readonly=on exclude each other", s->type);
	mode = cache_mode(s);
	bo.block_size = (*b)->info.block_size;
	/* What makes a write durable is the map too, so write-through is ours to do. */
	cache = mode == NONE ? "none" : "writeback";
	ret = oo.path ? overlay_open_file(*b, oo.path, &bo, cache, &o, err)
		      : overlay_open_temporary(*b, &bo, cache, &o, err);
	if (ret)
		return ret;
	o->durable = mode == WRITETHROUGH;
	o->f.b.info.flush = !o->durable;
	*b = &o->f.b;
	return 0;
}

const struct block_filter block_filter_overlay = {
	.options = &overlay_options_table,
	.reads_only = overlay_reads_only,
	.stack = overlay_stack,
};
