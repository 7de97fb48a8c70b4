/* SPDX-License-Identifier: MIT */
/* filter_delay.c - requests of a kind wait before they go on, as on a slow disk.
 *
 * All wait equally long, so a list in order of arrival is a list in order of
 * deadline, and one timer for its head is enough.
 */
#include <errno.h>

#include "block/filter.h"

/**
 * struct delay_options
 * @ms: how long to hold a request; 0: no filter
 * @op: which ones, index into filter_op_names
 */
struct delay_options {
	uint64_t ms;
	unsigned int op;
};

struct delay {
	struct filter f;
	struct delay_options o;
};

struct delay_channel {
	struct filter_channel fc;
	struct block_req *head, **end;
	struct sl_timer timer;
};

/* In a request's scratch: when it goes on, as sl_now() counts. */
static uint64_t *deadline(struct block_req *req)
{
	return (uint64_t *)(void *)req->scratch;
}

static void set_timer(struct delay_channel *d)
{
	uint64_t now = sl_now(), due = *deadline(d->head);

	sl_timer_set(d->fc.c.loop, &d->timer, due > now ? due - now : 0);
}

static void release_due(void *arg)
{
	struct delay_channel *d = arg;
	uint64_t now = sl_now();

	while (d->head && *deadline(d->head) <= now) {
		struct block_req *req = d->head;

		d->head = req->next;
		block_forward(d->fc.below, req);
	}
	if (d->head)
		set_timer(d);
	else
		d->end = &d->head;
	block_commit(d->fc.below);
}

static void delay_submit(struct block_channel *c, struct block_req *req)
{
	struct delay_channel *d = (struct delay_channel *)c;
	const struct delay_options *o = &((struct delay *)c->block)->o;

	if (!filter_op_matches(o->op, req->op)) {
		block_forward(d->fc.below, req);
		return;
	}
	*deadline(req) = sl_now() + o->ms * 1000000;
	req->next = NULL;
	*d->end = req;
	d->end = &req->next;
	if (d->head == req)
		set_timer(d);
}

static void delay_abandon(struct block_channel *c)
{
	struct delay_channel *d = (struct delay_channel *)c;

	sl_timer_clear(c->loop, &d->timer);
	while (d->head) {
		struct block_req *req = d->head;

		d->head = req->next;
		block_finish(c, req, -ETIMEDOUT);
	}
	d->end = &d->head;
	filter_abandon(c);
}

static int delay_attach(struct block_channel *c, struct sl_err *err)
{
	struct delay_channel *d = (struct delay_channel *)c;

	d->end = &d->head;
	d->timer.fn = release_due;
	d->timer.arg = d;
	return filter_attach(c, err);
}

static const struct block_ops delay_ops = {
	.name = "delay",
	.block_size = sizeof(struct delay),
	.channel_size = sizeof(struct delay_channel),
	.close = filter_close,
	.attach = delay_attach,
	.detach = filter_detach,
	.submit = delay_submit,
	.commit = filter_commit,
	.refresh = filter_refresh,
	.resize = filter_resize,
	.abandon = delay_abandon,
	.drain = filter_drain,
	.report = filter_report,
};

static const struct opt_def options[] = {
	{"delay-ms", OPT_UINT, offsetof(struct delay_options, ms), .def = "0", .max = 600000,
	 .help = "hold each request for so many milliseconds"},
	{"delay-op", OPT_ENUM, offsetof(struct delay_options, op), .def = "any", .values = filter_op_names,
	 .help = "hold only requests of this kind"},
	{0},
};

const struct opt_table delay_options_table = {"delay filter", options};

static int delay_stack(struct spec *s, struct block **b, struct sl_err *err)
{
	struct delay_options o;
	struct delay *d;
	int ret = opts_apply(&delay_options_table, s, &o, err);

	if (ret)
		return ret;
	if (!o.ms)
		return spec_has(s, "delay-op") && !spec_has(s, "delay-ms")
			       ? sl_err_set(err, EINVAL, "%s: delay-op=: needs delay-ms=", s->type)
			       : 0;
	d = (struct delay *)filter_alloc(&delay_ops, *b, err);
	if (!d)
		return -ENOMEM;
	d->o = o;
	*b = &d->f.b;
	return 0;
}

const struct block_filter block_filter_delay = {
	.options = &delay_options_table,
	.stack = delay_stack,
};
