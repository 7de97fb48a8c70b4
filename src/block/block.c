/* SPDX-License-Identifier: MIT */
/* block.c - opening sources from a spec, and the checks every request passes.
 *
 * A request is judged here, once, at the top of the stack: range, alignment,
 * abilities. Filters copy the abilities of what is below them, so nothing
 * below has to judge again.
 */
#include "block/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/opts.h"

static const struct block_source *const sources[] = {
	&block_source_memory,
	&block_source_null,
#ifdef HAVE_LIBNBD
	&block_source_nbd,
	&block_source_nbd_unix,
	&block_source_nbds,
	&block_source_nbds_unix,
#endif
#ifdef HAVE_LIBRBD
	&block_source_rbd,
#endif
	&block_source_file,
	NULL,
};

/* From the bottom of the stack upwards. */
static const struct block_filter *const filters[] = {
	&block_filter_overlay,
	&block_filter_record,
	&block_filter_error,
	&block_filter_throttle,
	&block_filter_delay,
};

static const struct opt_def options[] = {
	{"readonly", OPT_BOOL, offsetof(struct block_options, read_only), .def = "off",
	 .help = "refuse every write"},
	{"discard", OPT_BOOL, offsetof(struct block_options, discard), .def = "on",
	 .help = "give space back when the guest discards blocks"},
	{"block-size", OPT_SIZE, offsetof(struct block_options, block_size), .def = NULL, .min = 512, .max = 65536,
	 .help = "logical block size, a power of two; the default is what the source works best with"},
	{0},
};

const struct opt_table block_options_table = {"block", options};

const struct block_source *block_source_at(unsigned int n)
{
	return n < sizeof(sources) / sizeof(sources[0]) ? sources[n] : NULL;
}

/* ---- opening ---- */

/* The bytes of @text before a ':' that makes it a name of a kind of source; a path has a '/' before its first ':'. */
static size_t prefix_len(const char *text)
{
	size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789+-");

	return n && text[n] == ':' ? n + 1 : 0;
}

static int find_source(const char *text, const struct block_source **out, struct sl_err *err)
{
	size_t n = prefix_len(text);

	for (const struct block_source *const *s = sources; *s; s++) {
		*out = *s;
		if (!(*s)->prefix ? !n : n == strlen((*s)->prefix) && !strncmp(text, (*s)->prefix, n))
			return 0;
	}
#ifndef HAVE_LIBNBD
	if (!strncmp(text, "nbd", 3))
		return sl_err_set(err, ENOTSUP, "%s: this build has no NBD sources; they take the package libnbd-dev", text);
#endif
#ifndef HAVE_LIBRBD
	if (!strncmp(text, "rbd:", 4))
		return sl_err_set(err, ENOTSUP, "%s: this build has no Ceph RBD sources; they take the package librbd-dev",
				  text);
#endif
	return sl_err_set(err, ENOTSUP, "%s: no '%.*s' sources in this build; a file of that name is written ./%s",
			  text, (int)n, text, text);
}

static int stack_filters(struct spec *s, struct block **b, struct sl_err *err)
{
	for (unsigned int i = 0; i < sizeof(filters) / sizeof(filters[0]); i++) {
		int ret = filters[i]->stack(s, b, err);

		if (ret)
			return ret;
	}
	return 0;
}

int block_open(struct spec *s, struct block **out, struct sl_err *err)
{
	const struct block_source *source;
	struct block_options o = {0};
	struct block *b;
	int ret;

	if (!s->source)
		return sl_err_set(err, EINVAL, "%s: needs a source, as in '%s,disk.img' or '%s,memory:64M'", s->type,
				  s->type, s->type);
	ret = opts_apply(&block_options_table, s, &o, err);
	if (!ret && (o.block_size & (o.block_size - 1)))
		ret = sl_err_set(err, EINVAL, "%s: block-size=%llu: wants a power of two", s->type,
				 (unsigned long long)o.block_size);
	for (unsigned int i = 0; i < sizeof(filters) / sizeof(filters[0]); i++)
		o.read_only |= filters[i]->reads_only && filters[i]->reads_only(s);
	if (!ret)
		ret = find_source(s->source, &source, err);
	if (!ret)
		ret = source->open(s->source + (source->prefix ? strlen(source->prefix) : 0), &o, s, &b, err);
	if (ret)
		return ret;
	ret = stack_filters(s, &b, err);
	if (ret) {
		block_close(b);
		return ret;
	}
	*out = b;
	return 0;
}

struct block *block_alloc(const struct block_ops *ops, const char *name, struct sl_err *err)
{
	struct block *b = calloc(1, ops->block_size);

	if (b) {
		b->ops = ops;
		b->name = strdup(name);
		if (b->name)
			return b;
		free(b);
	}
	sl_err_set(err, ENOMEM, "%s: out of memory", name);
	return NULL;
}

void block_free(struct block *b)
{
	if (b->watcher)
		sl_task_cancel(b->watcher, &b->changed);
	free(b->name);
	free(b);
}

int block_set_size(struct block *b, uint64_t size, uint32_t preferred, const struct block_options *o,
		   struct sl_err *err)
{
	uint32_t block_size = o->block_size ? (uint32_t)o->block_size : preferred;

	if (size < block_size)
		return sl_err_set(err, EINVAL, "%s: too small: %llu bytes, less than one block of %u", b->name,
				  (unsigned long long)size, block_size);
	if (size % block_size)
		return sl_err_set(err, EINVAL,
				  "%s: %llu bytes are no multiple of the block size %u; %llu or %llu would be",
				  b->name, (unsigned long long)size, block_size,
				  (unsigned long long)(size - size % block_size),
				  (unsigned long long)(size - size % block_size + block_size));
	b->info.size = size;
	b->info.block_size = block_size;
	b->info.physical_size = block_size;
	b->info.read_only = o->read_only;
	return 0;
}

void block_close(struct block *b)
{
	if (b)
		b->ops->close(b);
}

/* ---- a store that changes ---- */

int block_refresh(struct block *b, struct sl_err *err)
{
	return b->ops->refresh ? b->ops->refresh(b, err) : 0;
}

int block_resize(struct block *b, uint64_t size, struct sl_err *err)
{
	int ret;

	if (!b->ops->resize)
		return sl_err_set(err, ENOTSUP, "%s: '%s' cannot be resized from here", b->name, b->ops->name);
	if (b->info.read_only)
		return sl_err_set(err, EROFS, "%s: is read-only", b->name);
	if (!size || size % b->info.block_size)
		return sl_err_set(err, EINVAL, "%s: %llu bytes: wants a multiple of the block size %u", b->name,
				  (unsigned long long)size, b->info.block_size);
	ret = b->ops->resize(b, size, err);
	return ret ? ret : block_refresh(b, err);
}

void block_watch(struct block *b, struct sl_loop *control, void (*fn)(void *arg), void *arg)
{
	b->changed = (struct sl_task){.fn = fn, .arg = arg};
	__atomic_store_n(&b->watcher, control, __ATOMIC_RELEASE);
}

void block_changed(struct block *b)
{
	struct sl_loop *watcher;

	while (b->above)
		b = b->above;
	watcher = __atomic_load_n(&b->watcher, __ATOMIC_ACQUIRE);
	if (watcher)
		sl_task_send(watcher, &b->changed);
}

void block_report(struct block *b, const struct block_report *r)
{
	if (b->ops->report)
		b->ops->report(b, r);
}

/* ---- channels ---- */

struct block_channel *block_attach(struct block *b, struct sl_loop *loop, struct sl_err *err)
{
	struct block_channel *c = calloc(1, b->ops->channel_size);

	if (!c) {
		sl_err_set(err, ENOMEM, "%s: out of memory", b->name);
		return NULL;
	}
	c->block = b;
	c->loop = loop;
	c->finished_end = &c->finished;
	if (b->ops->attach && b->ops->attach(c, err)) {
		free(c);
		return NULL;
	}
	return c;
}

void block_detach(struct block_channel *c)
{
	if (!c)
		return;
	if (c->block->ops->detach)
		c->block->ops->detach(c);
	free(c);
}

/* ---- requests ---- */

/* 0, or why the source cannot take the request. Nothing here can wrap: len is compared with what is left. */
static int check(const struct block *b, const struct block_req *req)
{
	const struct block_info *info = &b->info;
	uint64_t size = block_size_now(b);

	if (req->op == BLOCK_FLUSH)
		return 0;
	if ((req->offset | req->len) & (info->block_size - 1))
		return -EINVAL;
	if (req->offset > size || req->len > size - req->offset)
		return -ENOSPC;
	if (req->op == BLOCK_READ)
		return 0;
	if (info->read_only)
		return -EROFS;
	if ((req->op == BLOCK_DISCARD && !info->discard) || (req->op == BLOCK_WRITE_ZEROES && !info->write_zeroes) ||
	    (req->op == BLOCK_SECURE_ERASE && !info->secure_erase))
		return -EOPNOTSUPP;
	return 0;
}

void block_submit(struct block_channel *c, struct block_req *req)
{
	int ret = check(c->block, req);

	req->channel = c;
	if (ret || (!req->len && req->op != BLOCK_FLUSH))
		block_finish(c, req, ret);
	else
		c->block->ops->submit(c, req);
}

void block_commit(struct block_channel *c)
{
	struct block_req *req;

	if (c->block->ops->commit)
		c->block->ops->commit(c);
	req = c->finished;
	/* What done() submits goes on a new list and waits for the next commit. */
	c->finished = NULL;
	c->finished_end = &c->finished;
	while (req) {
		struct block_req *next = req->next;

		req->done(req, req->result);
		req = next;
	}
}

void block_drain(struct block_channel *c)
{
	if (c->block->ops->drain)
		c->block->ops->drain(c);
}

bool block_abandon(struct block_channel *c)
{
	if (c->block->ops->abandon)
		c->block->ops->abandon(c);
	return c->block->ops->abandon;
}
