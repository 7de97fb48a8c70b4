/* SPDX-License-Identifier: MIT */
/* filter_record.c - a log of every change that reaches the store, for crash tests.
 *
 * Theory of operation
 *
 * A request is logged twice: before it goes down, and when it is done, before
 * its caller is told. The place in the file is taken from one atomic counter,
 * so the file is one order of all events, of all channels, such that
 *
 *   - what the caller saw done is logged as done before anything it did after that;
 *   - what is logged as done before a flush was submitted was done before the store saw that flush, so that
 *     the flush makes it durable.
 *
 * The data of a write is copied to the log first and the record in front of it
 * last, so a record that is there is whole, also when the process is killed.
 *
 * The log is written with plain system calls on the loop's thread: this is a
 * tool for tests, and nothing may go down before it is logged.
 *
 * A log that cannot be written any more (its disk is full) ends there, and a
 * line says so; the disk goes on.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sluice/log.h>

#include "block/filter.h"
#include "block/record.h"

#define NUM_HOOKS 64u

/**
 * struct recorder
 * @fd:    the log
 * @path:  its name
 * @end:   atomic: where the next record goes
 * @ids:   atomic: of the last request
 * @ended: atomic: nothing more is logged
 */
struct recorder {
	struct filter f;
	int fd;
	char *path;
	uint64_t end, ids;
	bool ended;
};

struct record_channel {
	struct filter_channel fc;
	struct filter_hooks hooks;
};

/** struct recorded - a request under way */
struct recorded {
	struct filter_hook h;
	uint64_t id;
};

/* ---- the file ---- */

static int write_all(int fd, const void *data, size_t len, uint64_t at)
{
	ssize_t n = pwrite(fd, data, len, (off_t)at);

	return n == (ssize_t)len ? 0 : n < 0 ? -errno : -ENOSPC;
}

static int write_data(int fd, const struct block_req *req, uint64_t at)
{
	const struct iovec *v = req->iov;
	unsigned int left = req->iovcnt;

	while (left) {
		int cnt = left < IOV_MAX ? (int)left : IOV_MAX;
		size_t len = 0;
		ssize_t n;

		for (int i = 0; i < cnt; i++)
			len += v[i].iov_len;
		n = pwritev(fd, v, cnt, (off_t)at);
		if (n != (ssize_t)len)
			return n < 0 ? -errno : -ENOSPC;
		at += len;
		v += cnt;
		left -= (unsigned int)cnt;
	}
	return 0;
}

static void say_ended(struct recorder *f, int error)
{
	if (!__atomic_exchange_n(&f->ended, true, __ATOMIC_RELAXED))
		sl_log(SL_LOG_ERROR, "%s: record=%s: the log ends here: %s", f->f.b.name, f->path, strerror(-error));
}

static void log_event(struct recorder *f, enum record_kind kind, const struct block_req *req, uint64_t id, int result)
{
	uint64_t data = kind == RECORD_SUBMITTED && req->op == BLOCK_WRITE ? req->len : 0, at;
	struct record r = {
		.kind = (uint8_t)kind,
		.op = (uint8_t)req->op,
		.flags = htole16((uint16_t)req->flags),
		.result = (int32_t)htole32((uint32_t)result),
		.id = htole64(id),
		.time = htole64(sl_now()),
		.offset = htole64(req->op == BLOCK_FLUSH ? 0 : req->offset),
		.len = htole64(req->op == BLOCK_FLUSH ? 0 : req->len),
		.data = htole64(data),
	};
	int ret;

	if (__atomic_load_n(&f->ended, __ATOMIC_RELAXED))
		return;
	at = __atomic_fetch_add(&f->end, sizeof(r) + ((data + 7) & ~(uint64_t)7), __ATOMIC_ACQ_REL);
	ret = data ? write_data(f->fd, req, at + sizeof(r)) : 0;
	if (!ret)
		ret = write_all(f->fd, &r, sizeof(r), at);
	if (ret)
		say_ended(f, ret);
}

/* ---- requests ---- */

static void recorded_done(struct block_req *req, int result)
{
	struct recorded *d = (struct recorded *)req;
	struct block_req *origin = d->h.origin;
	struct record_channel *r = (struct record_channel *)origin->channel;

	/* Of the caller's: the stand-in may have been changed on its way. */
	log_event((struct recorder *)r->fc.c.block, RECORD_DONE, origin, d->id, result);
	filter_hook_put(&r->hooks, &d->h);
	origin->done(origin, result);
}

static void record_start(struct block_channel *c, struct block_req *req)
{
	struct record_channel *r = (struct record_channel *)c;
	struct recorder *f = (struct recorder *)c->block;
	struct recorded *d = (struct recorded *)filter_hook_get(&r->hooks, req, recorded_done);

	d->id = __atomic_add_fetch(&f->ids, 1, __ATOMIC_RELAXED);
	log_event(f, RECORD_SUBMITTED, req, d->id, 0);
	block_forward(r->fc.below, &d->h.req);
}

static void record_submit(struct block_channel *c, struct block_req *req)
{
	struct record_channel *r = (struct record_channel *)c;

	if (req->op == BLOCK_READ)
		block_forward(r->fc.below, req);
	else
		filter_hooks_submit(&r->hooks, req);
}

static int record_attach(struct block_channel *c, struct sl_err *err)
{
	struct record_channel *r = (struct record_channel *)c;
	int ret = filter_hooks_init(&r->hooks, &r->fc, NUM_HOOKS, sizeof(struct recorded), record_start, err);

	if (!ret)
		ret = filter_attach(c, err);
	if (ret)
		filter_hooks_free(&r->hooks);
	return ret;
}

static void record_detach(struct block_channel *c)
{
	filter_hooks_free(&((struct record_channel *)c)->hooks);
	filter_detach(c);
}

static void record_abandon(struct block_channel *c)
{
	filter_hooks_abandon(&((struct record_channel *)c)->hooks);
	filter_abandon(c);
}

static void record_report(struct block *b, const struct block_report *r)
{
	const struct recorder *f = (struct recorder *)b;

	r->number(r->arg, "record.requests", __atomic_load_n(&f->ids, __ATOMIC_RELAXED));
	r->number(r->arg, "record.log-bytes", __atomic_load_n(&f->end, __ATOMIC_RELAXED));
	filter_report(b, r);
}

static void recorder_free(struct recorder *f)
{
	if (f->fd >= 0)
		close(f->fd);
	free(f->path);
}

static void record_close(struct block *b)
{
	recorder_free((struct recorder *)b);
	filter_close(b);
}

static const struct block_ops record_ops = {
	.name = "record",
	.block_size = sizeof(struct recorder),
	.channel_size = sizeof(struct record_channel),
	.close = record_close,
	.attach = record_attach,
	.detach = record_detach,
	.submit = record_submit,
	.commit = filter_commit,
	.refresh = filter_refresh,
	.resize = filter_resize,
	.abandon = record_abandon,
	.report = record_report,
};

/* ---- opening ---- */

/** struct record_options - @path: NULL: no filter */
struct record_options {
	const char *path;
};

static const struct opt_def options[] = {
	{"record", OPT_STRING, offsetof(struct record_options, path),
	 .help = "log every change and flush that reaches the source, and when it was done, in this file"},
	{0},
};

const struct opt_table record_options_table = {"record filter", options};

/* Locked, so that two devices cannot take the same file for their logs; emptied only then. */
static int open_log(struct recorder *f, const struct spec *s, const char *path, struct sl_err *err)
{
	struct record_header h = {.size = htole64(f->f.b.info.size), .block_size = htole32(f->f.b.info.block_size)};
	struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int ret;

	f->path = strdup(path);
	f->fd = f->path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666) : -1;
	if (f->fd < 0)
		return sl_err_set(err, errno, "%s: record=%s: cannot open: %s", s->type, path, strerror(errno));
	if (fcntl(f->fd, F_OFD_SETLK, &whole) < 0 && (errno == EAGAIN || errno == EACCES))
		return sl_err_set(err, EBUSY, "%s: record=%s: in use by another device", s->type, path);
	memcpy(h.magic, RECORD_MAGIC, sizeof(h.magic));
	ret = ftruncate(f->fd, 0) < 0 ? -errno : write_all(f->fd, &h, sizeof(h), 0);
	if (ret)
		return sl_err_set(err, -ret, "%s: record=%s: cannot write: %s", s->type, path, strerror(-ret));
	f->end = sizeof(h);
	return 0;
}

static int record_stack(struct spec *s, struct block **b, struct sl_err *err)
{
	struct record_options o = {0};
	struct recorder *f;
	int ret = opts_apply(&record_options_table, s, &o, err);

	if (ret || !o.path)
		return ret;
	f = (struct recorder *)filter_alloc(&record_ops, *b, err);
	if (!f)
		return -ENOMEM;
	f->fd = -1;
	ret = open_log(f, s, o.path, err);
	if (ret) {
		recorder_free(f);
		block_free(&f->f.b);
		return ret;
	}
	*b = &f->f.b;
	return 0;
}

const struct block_filter block_filter_record = {
	.options = &record_options_table,
	.stack = record_stack,
};
