/* SPDX-License-Identifier: MIT */
/* memory.c - memory:SIZE: a disk in this process's memory, gone when it ends.
 *
 * The copy is made in submit; several loops may copy at the same time, as a
 * disk may be asked to by several queues. Pages are taken when they are
 * written and given back when they are discarded.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"

struct memory {
	struct block b;
	unsigned char *data;
	size_t page; /* of the host, bytes */
};

static void copy(unsigned char *data, const struct block_req *req)
{
	for (unsigned int i = 0; i < req->iovcnt; i++) {
		const struct iovec *v = &req->iov[i];

		if (req->op == BLOCK_READ)
			memcpy(v->iov_base, data, v->iov_len);
		else
			memcpy(data, v->iov_base, v->iov_len);
		data += v->iov_len;
	}
}

/* Make the range read as zeroes. Whole pages inside it go back to the host, which also takes the least time. */
static void clear(struct memory *m, uint64_t offset, uint64_t len)
{
	uint64_t end = offset + len;
	uint64_t from = (offset + m->page - 1) & ~(uint64_t)(m->page - 1), to = end & ~(uint64_t)(m->page - 1);

	if (from >= to || madvise(m->data + from, to - from, MADV_DONTNEED) < 0) {
		memset(m->data + offset, 0, len);
		return;
	}
	memset(m->data + offset, 0, from - offset);
	memset(m->data + to, 0, end - to);
}

static void memory_submit(struct block_channel *c, struct block_req *req)
{
	struct memory *m = (struct memory *)c->block;

	switch (req->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		copy(m->data + req->offset, req);
		break;
	case BLOCK_WRITE_ZEROES:
	case BLOCK_DISCARD:
	case BLOCK_SECURE_ERASE:
		clear(m, req->offset, req->len);
		break;
	case BLOCK_FLUSH:
	case BLOCK_NUM_OPS:
		break;
	}
	block_finish(c, req, 0);
}

static void memory_close(struct block *b)
{
	struct memory *m = (struct memory *)b;

	if (m->data)
		munmap(m->data, b->info.size);
	block_free(b);
}

static const struct block_ops memory_ops = {
	.name = "memory",
	.block_size = sizeof(struct memory),
	.channel_size = sizeof(struct block_channel),
	.close = memory_close,
	.submit = memory_submit,
};

static int memory_open(const char *text, const struct block_options *o, struct spec *s, struct block **out,
		       struct sl_err *err)
{
	struct memory *m;
	uint64_t size;
	void *data;
	int ret;

	if (opt_parse_size(text, &size) || size > INT64_MAX)
		return sl_err_set(err, EINVAL, "%s: wants a size, as in memory:64M", s->source);
	m = (struct memory *)block_alloc(&memory_ops, s->source, err);
	if (!m)
		return -ENOMEM;
	ret = block_set_size(&m->b, size, 512, o, err);
	if (ret)
		goto fail;
	data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (data == MAP_FAILED) {
		ret = sl_err_set(err, errno, "%s: no address space for a disk of that size: %s", s->source,
				 strerror(errno));
		goto fail;
	}
	m->data = data;
	m->page = (size_t)sysconf(_SC_PAGESIZE);
	m->b.info.physical_size = m->b.info.block_size > 4096 ? m->b.info.block_size : 4096;
	m->b.info.discard_granularity = (uint32_t)m->page;
	m->b.info.discard = m->b.info.unmap_zeroes = o->discard;
	m->b.info.flush = m->b.info.write_zeroes = m->b.info.secure_erase = true;
	*out = &m->b;
	return 0;
fail:
	memory_close(&m->b);
	return ret;
}

const struct block_source block_source_memory = {
	.prefix = "memory:",
	.source = {"memory:SIZE", "a disk in memory, all zeroes at first and gone when the program ends"},
	.open = memory_open,
};
