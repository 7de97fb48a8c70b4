/* SPDX-License-Identifier: MIT */
/* filter_error.c - some requests fail, as on a bad disk.
 *
 * The choice is pseudo-random and the same in every run, so that a failure
 * that was seen once can be seen again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/filter.h"

static const char *const errno_names[] = {"EIO", "ENOSPC", "EOPNOTSUPP", NULL};
static const int errno_values[] = {EIO, ENOSPC, EOPNOTSUPP};

/**
 * struct error_options
 * @rate:    "10%", NULL: no filter
 * @op:      which requests, index into filter_op_names
 * @sectors: "FROM-TO", 512-byte sectors, both included; NULL: all
 * @number:  index into errno_values
 * @count:   stop after so many failures; 0: never
 */
struct error_options {
	const char *rate, *sectors;
	unsigned int op, number;
	uint64_t count;
};

/**
 * struct error
 * @threshold: a 32-bit random number below it means failure
 * @from, @to: bytes; a request that touches one of them may fail
 * @left:      failures left; atomic, shared by the loops
 */
struct error {
	struct filter f;
	struct error_options o;
	uint64_t threshold, from, to, left;
};

struct error_channel {
	struct filter_channel fc;
	uint64_t random;
};

static uint32_t random32(struct error_channel *e)
{
	e->random ^= e->random << 13;
	e->random ^= e->random >> 7;
	e->random ^= e->random << 17;
	return (uint32_t)(e->random >> 16);
}

static bool take_one(struct error *f)
{
	uint64_t left = __atomic_load_n(&f->left, __ATOMIC_RELAXED);

	while (left && !__atomic_compare_exchange_n(&f->left, &left, left - 1, true, __ATOMIC_RELAXED,
						    __ATOMIC_RELAXED))
		;
	return left;
}

static bool in_range(const struct error *f, const struct block_req *req)
{
	if (!f->o.sectors)
		return true;
	return req->op != BLOCK_FLUSH && req->offset < f->to && req->offset + req->len > f->from;
}

static void error_submit(struct block_channel *c, struct block_req *req)
{
	struct error_channel *e = (struct error_channel *)c;
	struct error *f = (struct error *)c->block;

	if (filter_op_matches(f->o.op, req->op) && in_range(f, req) && random32(e) < f->threshold && take_one(f))
		block_finish(c, req, -errno_values[f->o.number]);
	else
		block_forward(e->fc.below, req);
}

static int error_attach(struct block_channel *c, struct sl_err *err)
{
	((struct error_channel *)c)->random = 0x9e3779b97f4a7c15u;
	return filter_attach(c, err);
}

static const struct block_ops error_ops = {
	.name = "error",
	.block_size = sizeof(struct error),
	.channel_size = sizeof(struct error_channel),
	.close = filter_close,
	.attach = error_attach,
	.detach = filter_detach,
	.submit = error_submit,
	.commit = filter_commit,
	.refresh = filter_refresh,
	.resize = filter_resize,
	.abandon = filter_abandon,
	.report = filter_report,
};

static const struct opt_def options[] = {
	{"error", OPT_STRING, offsetof(struct error_options, rate),
	 .help = "let this share of the requests fail, as in 10%"},
	{"error-op", OPT_ENUM, offsetof(struct error_options, op), .def = "any", .values = filter_op_names,
	 .help = "let only requests of this kind fail"},
	{"error-sectors", OPT_STRING, offsetof(struct error_options, sectors),
	 .help = "let only requests fail that touch the 512-byte sectors FROM-TO"},
	{"error-errno", OPT_ENUM, offsetof(struct error_options, number), .def = "EIO", .values = errno_names,
	 .help = "what they fail with"},
	{"error-count", OPT_UINT, offsetof(struct error_options, count), .def = "0",
	 .help = "stop after so many failures; 0 never stops"},
	{0},
};

const struct opt_table error_options_table = {"error filter", options};

static int parse_rate(const struct spec *s, const char *text, uint64_t *threshold, struct sl_err *err)
{
	char *end;
	double percent = strtod(text, &end);

	if (end == text || strcmp(end, "%") || !(percent >= 0 && percent <= 100))
		return sl_err_set(err, EINVAL, "%s: error=%s: wants a share such as 10%%", s->type, text);
	*threshold = (uint64_t)(percent / 100 * 4294967296.0);
	return 0;
}

static int parse_sectors(const struct spec *s, const char *text, struct error *f, struct sl_err *err)
{
	const char *dash = strchr(text, '-');
	char from[24] = "";

	if (dash && (size_t)(dash - text) < sizeof(from))
		memcpy(from, text, (size_t)(dash - text));
	if (!dash || opt_parse_uint(from, &f->from) || opt_parse_uint(dash + 1, &f->to) || f->from > f->to ||
	    f->to >= INT64_MAX / 512)
		return sl_err_set(err, EINVAL, "%s: error-sectors=%s: wants FROM-TO, as in 0-7", s->type, text);
	f->from *= 512;
	f->to = (f->to + 1) * 512;
	return 0;
}

static int error_stack(struct spec *s, struct block **b, struct sl_err *err)
{
	static const char *const needs_rate[] = {"error-op", "error-sectors", "error-errno", "error-count"};
	struct error_options o = {0};
	struct error *f;
	int ret = opts_apply(&error_options_table, s, &o, err);

	if (ret)
		return ret;
	if (!o.rate) {
		for (unsigned int i = 0; i < sizeof(needs_rate) / sizeof(needs_rate[0]); i++)
			if (spec_has(s, needs_rate[i]))
				return sl_err_set(err, EINVAL, "%s: %s=: needs error=", s->type, needs_rate[i]);
		return 0;
	}
	f = (struct error *)filter_alloc(&error_ops, *b, err);
	if (!f)
		return -ENOMEM;
	f->o = o;
	f->left = o.count ? o.count : UINT64_MAX;
	ret = parse_rate(s, o.rate, &f->threshold, err);
	if (!ret && o.sectors)
		ret = parse_sectors(s, o.sectors, f, err);
	if (ret) {
		block_free(&f->f.b);
		return ret;
	}
	*b = &f->f.b;
	return 0;
}

const struct block_filter block_filter_error = {
	.options = &error_options_table,
	.stack = error_stack,
};
