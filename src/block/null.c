/* SPDX-License-Identifier: MIT */
/* null.c - null:SIZE: every request succeeds at once and no data moves.
 *
 * It shows what everything around a source costs. Reads leave the guest's
 * buffers as they are.
 */
#include <errno.h>

#include "block/block.h"

static void null_submit(struct block_channel *c, struct block_req *req)
{
	block_finish(c, req, 0);
}

static const struct block_ops null_ops = {
	.name = "null",
	.block_size = sizeof(struct block),
	.channel_size = sizeof(struct block_channel),
	.close = block_free,
	.submit = null_submit,
};

static int null_open(const char *text, const struct block_options *o, struct spec *s, struct block **out,
		     struct sl_err *err)
{
	struct block *b;
	uint64_t size;
	int ret;

	if (opt_parse_size(text, &size) || size > INT64_MAX)
		return sl_err_set(err, EINVAL, "%s: wants a size, as in null:64M", s->source);
	b = block_alloc(&null_ops, s->source, err);
	if (!b)
		return -ENOMEM;
	ret = block_set_size(b, size, 512, o, err);
	if (ret) {
		block_free(b);
		return ret;
	}
	b->info.discard = o->discard;
	b->info.flush = b->info.write_zeroes = b->info.unmap_zeroes = b->info.secure_erase = true;
	*out = b;
	return 0;
}

const struct block_source block_source_null = {
	.prefix = "null:",
	.source = {"null:SIZE", "a disk that forgets: requests succeed at once and no data moves"},
	.open = null_open,
};
