/* SPDX-License-Identifier: MIT */
/* file.c - requests to raw files and block devices.
 *
 * Theory of operation
 *
 * Everything goes through the loop's io_uring. A read that is in the page
 * cache is answered inside the commit's one system call; one that is not
 * completes later and holds nobody up. Measured against preadv2(RWF_NOWAIT)
 * in the commit the batch costs the same at depth 1 and less above.
 *
 * A transfer that the kernel cuts short is continued where it stopped: @index
 * and @cut say how far into the caller's list it got. The list is trimmed for
 * the time of the call and mended right after, as its owner needs it whole.
 *
 * O_DIRECT wants aligned memory. A request with memory that is not goes
 * through one of the channel's few bounce buffers, piece by piece; when none
 * is free it waits in line.
 *
 * WRITE_ZEROES tries the cheapest way first and goes one step on when the file
 * system or device does not know it: punch a hole (when space may be given
 * back), zero the range, write zeroes. A channel remembers what does not work.
 */
#include "block/file.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/uring.h"
#include "block/worker.h"

#define BOUNCE_SIZE (128u << 10)
#define BOUNCE_COUNT 8u
#define MAX_PIECE (1u << 30) /* of one system call, bytes */
#define MAX_INLINE (2u << 20) /* what the loop's own thread may copy for one request, bytes */

/**
 * struct file_channel
 * @bounce:        direct: BOUNCE_COUNT buffers in one mapping, of which @bounce_free[0 .. @bounce_n) are free
 * @bounce_wait:   requests that wait for one, oldest first
 * @no_punch, @no_zero_range: the file system said EOPNOTSUPP
 */
struct file_channel {
	struct block_channel c;
	struct uring *u;
	struct worker *worker;
	unsigned char *bounce, *bounce_free[BOUNCE_COUNT];
	unsigned int bounce_n;
	struct block_req *bounce_wait, **bounce_wait_end;
	bool no_punch, no_zero_range;
};

enum step { STEP_PUNCH, STEP_ZERO_RANGE, STEP_WRITE_ZEROES, STEP_SYNC };

/**
 * struct transfer - in a request's scratch while io_uring has it
 * @done:       bytes moved
 * @index, @cut: where that is in the request's list: entry, and bytes into it
 * @trimmed:    entry @index has lost its first @cut bytes for the time of the call
 * @bounce:     buffer in use, or NULL
 * @step:       DISCARD, WRITE_ZEROES: what is being tried
 */
struct transfer {
	struct uring_op op;
	uint64_t done;
	size_t cut;
	unsigned char *bounce;
	uint32_t index;
	bool trimmed;
	unsigned char step;
};

/** struct call - in a request's scratch while the worker has it */
struct call {
	struct worker_job job;
	int result;
};

static_assert(sizeof(struct transfer) <= sizeof(((struct block_req *)0)->scratch), "scratch is too small");
static_assert(sizeof(struct call) <= sizeof(((struct block_req *)0)->scratch), "scratch is too small");

static struct block_req *req_of(void *scratch)
{
	return (struct block_req *)(void *)((char *)scratch - offsetof(struct block_req, scratch));
}

static struct file *file_of(const struct block_req *req)
{
	return (struct file *)req->channel->block;
}

static struct file_channel *channel_of(const struct block_req *req)
{
	return (struct file_channel *)req->channel;
}

static bool wants_durable(const struct block_req *req)
{
	return (req->flags & BLOCK_FUA) || file_of(req)->durable;
}

static struct transfer *start_transfer(struct block_req *req, void (*prepare)(struct uring_op *, struct io_uring_sqe *),
				       void (*done)(struct uring_op *, int))
{
	struct transfer *t = (struct transfer *)(void *)req->scratch;

	*t = (struct transfer){.op = {.prepare = prepare, .done = done}};
	return t;
}

static void advance(struct block_req *req, struct transfer *t, size_t n)
{
	t->done += n;
	while (n && n >= req->iov[t->index].iov_len - t->cut) {
		n -= req->iov[t->index].iov_len - t->cut;
		t->index++;
		t->cut = 0;
	}
	t->cut += n;
}

/* ---- READ and WRITE straight from and to the caller's memory ---- */

static void trim(struct block_req *req, struct transfer *t, bool on)
{
	struct iovec *v = &req->iov[t->index];

	if (on == t->trimmed || !t->cut)
		return;
	v->iov_base = on ? (char *)v->iov_base + t->cut : (char *)v->iov_base - t->cut;
	v->iov_len = on ? v->iov_len - t->cut : v->iov_len + t->cut;
	t->trimmed = on;
}

static void rw_prepare(struct uring_op *op, struct io_uring_sqe *sqe)
{
	struct transfer *t = (struct transfer *)op;
	struct block_req *req = req_of(t);
	uint64_t offset = req->offset + t->done;
	unsigned int n = req->iovcnt - t->index < IOV_MAX ? req->iovcnt - t->index : IOV_MAX;
	struct iovec *v = &req->iov[t->index];
	int fd = file_of(req)->fd;

	trim(req, t, true);
	if (req->op == BLOCK_READ) {
		if (n == 1)
			io_uring_prep_read(sqe, fd, v->iov_base,
					   (unsigned int)(v->iov_len < MAX_PIECE ? v->iov_len : MAX_PIECE), offset);
		else
			io_uring_prep_readv(sqe, fd, v, n, offset);
	} else {
		io_uring_prep_writev2(sqe, fd, v, n, offset, wants_durable(req) ? RWF_DSYNC : 0);
	}
	/* A large copy out of the page cache is left to a kernel thread: this one has siblings to serve. */
	if (req->len > MAX_INLINE)
		io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
}

static void rw_done(struct uring_op *op, int res)
{
	struct transfer *t = (struct transfer *)op;
	struct block_req *req = req_of(t);

	trim(req, t, false);
	if (res > 0 && (uint64_t)res < req->len - t->done) {
		advance(req, t, (size_t)res);
		uring_submit(channel_of(req)->u, op);
		return;
	}
	/* No bytes at all: the file ends before the disk does. */
	req->done(req, res > 0 ? 0 : res ? res : -EIO);
}

/* ---- READ and WRITE through a bounce buffer ---- */

static void copy_piece(const struct block_req *req, const struct transfer *t, size_t n)
{
	unsigned char *b = t->bounce;
	size_t cut = t->cut;

	for (const struct iovec *v = &req->iov[t->index]; n; v++) {
		size_t len = v->iov_len - cut < n ? v->iov_len - cut : n;

		if (req->op == BLOCK_READ)
			memcpy((char *)v->iov_base + cut, b, len);
		else
			memcpy(b, (char *)v->iov_base + cut, len);
		b += len;
		n -= len;
		cut = 0;
	}
}

static void bounce_prepare(struct uring_op *op, struct io_uring_sqe *sqe)
{
	struct transfer *t = (struct transfer *)op;
	struct block_req *req = req_of(t);
	uint64_t left = req->len - t->done;
	unsigned int n = left < BOUNCE_SIZE ? (unsigned int)left : BOUNCE_SIZE;

	if (req->op == BLOCK_READ) {
		io_uring_prep_read(sqe, file_of(req)->fd, t->bounce, n, req->offset + t->done);
	} else {
		copy_piece(req, t, n);
		io_uring_prep_write(sqe, file_of(req)->fd, t->bounce, n, req->offset + t->done);
		sqe->rw_flags = wants_durable(req) ? RWF_DSYNC : 0;
	}
}

static void bounce_done(struct uring_op *op, int res);

static void bounce_submit(struct file_channel *ch, struct block_req *req)
{
	struct transfer *t;

	if (!ch->bounce_n) {
		req->next = NULL;
		*ch->bounce_wait_end = req;
		ch->bounce_wait_end = &req->next;
		return;
	}
	t = start_transfer(req, bounce_prepare, bounce_done);
	t->bounce = ch->bounce_free[--ch->bounce_n];
	uring_submit(ch->u, &t->op);
}

static void bounce_put(struct file_channel *ch, unsigned char *bounce)
{
	struct block_req *req = ch->bounce_wait;

	ch->bounce_free[ch->bounce_n++] = bounce;
	if (!req)
		return;
	ch->bounce_wait = req->next;
	if (!ch->bounce_wait)
		ch->bounce_wait_end = &ch->bounce_wait;
	bounce_submit(ch, req);
}

static void bounce_done(struct uring_op *op, int res)
{
	struct transfer *t = (struct transfer *)op;
	struct block_req *req = req_of(t);

	if (res > 0) {
		if (req->op == BLOCK_READ)
			copy_piece(req, t, (size_t)res);
		advance(req, t, (size_t)res);
		if (t->done < req->len) {
			uring_submit(channel_of(req)->u, op);
			return;
		}
	}
	bounce_put(channel_of(req), t->bounce);
	req->done(req, res > 0 ? 0 : res ? res : -EIO);
}

/* Each entry for itself, so that also any part of the list that one call takes has a legal length. */
static bool is_aligned(const struct file *f, const struct block_req *req)
{
	for (unsigned int i = 0; i < req->iovcnt; i++)
		if (((uintptr_t)req->iov[i].iov_base & (f->mem_align - 1)) ||
		    (req->iov[i].iov_len & (f->dio_align - 1)))
			return false;
	return true;
}

static void submit_rw(struct file_channel *ch, struct block_req *req)
{
	const struct file *f = file_of(req);

	if (f->direct && !is_aligned(f, req))
		bounce_submit(ch, req);
	else
		uring_submit(ch->u, &start_transfer(req, rw_prepare, rw_done)->op);
}

/* ---- FLUSH, DISCARD, WRITE_ZEROES ---- */

static void space_prepare(struct uring_op *op, struct io_uring_sqe *sqe)
{
	struct transfer *t = (struct transfer *)op;
	struct block_req *req = req_of(t);
	const struct file *f = file_of(req);
	uint64_t left = req->len - t->done;

	switch ((enum step)t->step) {
	case STEP_PUNCH:
		io_uring_prep_fallocate(sqe, f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)req->offset,
					(off_t)req->len);
		break;
	case STEP_ZERO_RANGE:
		io_uring_prep_fallocate(sqe, f->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)req->offset,
					(off_t)req->len);
		break;
	case STEP_WRITE_ZEROES:
		io_uring_prep_write(sqe, f->fd, f->zeroes, left < FILE_ZEROES ? (unsigned int)left : FILE_ZEROES,
				    req->offset + t->done);
		io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
		break;
	case STEP_SYNC:
		io_uring_prep_fsync(sqe, f->fd, IORING_FSYNC_DATASYNC);
		break;
	}
}

/* @t->step does not work here: remember that and take the next one; false: there is none. */
static bool next_step(struct file_channel *ch, const struct block_req *req, struct transfer *t)
{
	if (t->step == STEP_PUNCH)
		ch->no_punch = true;
	else
		ch->no_zero_range = true;
	if (req->op == BLOCK_DISCARD)
		return false;
	t->step = t->step == STEP_PUNCH && !ch->no_zero_range ? STEP_ZERO_RANGE : STEP_WRITE_ZEROES;
	return true;
}

static void space_done(struct uring_op *op, int res)
{
	struct transfer *t = (struct transfer *)op;
	struct block_req *req = req_of(t);
	struct file_channel *ch = channel_of(req);

	if (res == -EOPNOTSUPP && t->step < STEP_WRITE_ZEROES) {
		if (next_step(ch, req, t)) {
			uring_submit(ch->u, op);
			return;
		}
		res = 0; /* DISCARD is a hint */
	}
	if (t->step == STEP_WRITE_ZEROES && res >= 0) {
		t->done += (unsigned int)res;
		if (res && t->done < req->len) {
			uring_submit(ch->u, op);
			return;
		}
		res = res ? 0 : -EIO;
	}
	if (!res && t->step != STEP_SYNC && wants_durable(req)) {
		t->step = STEP_SYNC;
		uring_submit(ch->u, op);
		return;
	}
	req->done(req, res);
}

static void submit_space(struct file_channel *ch, struct block_req *req)
{
	struct transfer *t = start_transfer(req, space_prepare, space_done);
	bool unmap = req->op == BLOCK_DISCARD || ((req->flags & BLOCK_UNMAP) && ch->c.block->info.unmap_zeroes);

	if (req->op == BLOCK_FLUSH)
		t->step = STEP_SYNC;
	else if (unmap && (!ch->no_punch || req->op == BLOCK_DISCARD))
		t->step = STEP_PUNCH;
	else
		t->step = ch->no_zero_range ? STEP_WRITE_ZEROES : STEP_ZERO_RANGE;
	uring_submit(ch->u, &t->op);
}

/* ---- ioctls of block devices ---- */

static void run_ioctl(struct worker_job *job)
{
	struct call *call = (struct call *)job;
	struct block_req *req = req_of(call);
	uint64_t range[2] = {req->offset, req->len};
	int fd = file_of(req)->fd;

	call->result = ioctl(fd, req->op == BLOCK_DISCARD ? BLKDISCARD : BLKSECDISCARD, range) < 0 ? -errno : 0;
	if (!call->result && wants_durable(req) && fdatasync(fd) < 0)
		call->result = -errno;
}

static void ioctl_finished(void *arg)
{
	struct call *call = arg;
	struct block_req *req = req_of(call);

	req->done(req, req->op == BLOCK_DISCARD && call->result == -EOPNOTSUPP ? 0 : call->result);
}

static void submit_ioctl(struct file_channel *ch, struct block_req *req)
{
	struct call *call = (struct call *)(void *)req->scratch;
	int ret;

	*call = (struct call){.job = {.run = run_ioctl, .finished = {.fn = ioctl_finished, .arg = call}}};
	ret = worker_submit(ch->worker, &call->job);
	if (ret)
		block_finish(&ch->c, req, ret);
}

/* ---- the table ---- */

static void file_submit(struct block_channel *c, struct block_req *req)
{
	struct file_channel *ch = (struct file_channel *)c;
	const struct file *f = (struct file *)c->block;

	switch (req->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		submit_rw(ch, req);
		break;
	case BLOCK_FLUSH:
		if (f->durable || f->b.info.read_only)
			block_finish(c, req, 0);
		else
			submit_space(ch, req);
		break;
	case BLOCK_WRITE_ZEROES:
		submit_space(ch, req);
		break;
	case BLOCK_DISCARD:
		if (f->is_device)
			submit_ioctl(ch, req);
		else
			submit_space(ch, req);
		break;
	case BLOCK_SECURE_ERASE:
		submit_ioctl(ch, req);
		break;
	case BLOCK_NUM_OPS:
		break;
	}
}

static void file_commit(struct block_channel *c)
{
	uring_commit(((struct file_channel *)c)->u);
}

static int file_attach(struct block_channel *c, struct sl_err *err)
{
	struct file_channel *ch = (struct file_channel *)c;
	const struct file *f = (struct file *)c->block;

	ch->u = uring_of(c->loop, err);
	ch->worker = ch->u && f->is_device ? worker_of(c->loop, err) : NULL;
	if (!ch->u || (f->is_device && !ch->worker))
		return -1;
	ch->bounce_wait_end = &ch->bounce_wait;
	if (!f->direct)
		return 0;
	/* Takes memory only when it is used. */
	ch->bounce = mmap(NULL, BOUNCE_COUNT * BOUNCE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ch->bounce == MAP_FAILED)
		return sl_err_set(err, ENOMEM, "%s: out of memory", c->block->name);
	for (unsigned int i = 0; i < BOUNCE_COUNT; i++)
		ch->bounce_free[ch->bounce_n++] = ch->bounce + i * BOUNCE_SIZE;
	return 0;
}

static void file_detach(struct block_channel *c)
{
	struct file_channel *ch = (struct file_channel *)c;

	if (ch->bounce)
		munmap(ch->bounce, BOUNCE_COUNT * BOUNCE_SIZE);
}

static void file_close(struct block *b)
{
	struct file *f = (struct file *)b;

	if (f->zeroes)
		munmap(f->zeroes, FILE_ZEROES);
	if (f->fd >= 0)
		close(f->fd);
	block_free(b);
}

static int file_refresh(struct block *b, struct sl_err *err)
{
	struct file *f = (struct file *)b;
	uint64_t size;
	int ret = file_size(f->fd, f->is_device, &size);

	if (ret)
		return sl_err_set(err, -ret, "%s: cannot tell the size: %s", b->name, strerror(-ret));
	size -= size % b->info.block_size;
	if (!size)
		return sl_err_set(err, EINVAL, "%s: has shrunk to less than one block", b->name);
	__atomic_store_n(&b->info.size, size, __ATOMIC_RELAXED);
	return 0;
}

static int file_resize(struct block *b, uint64_t size, struct sl_err *err)
{
	const struct file *f = (const struct file *)b;

	if (f->is_device)
		return sl_err_set(err, ENOTSUP, "%s: a block device has the size it has", b->name);
	/* Nothing new goes beyond the end while that moves; a write that is under way there makes the file longer again. */
	if (size < block_size_now(b))
		__atomic_store_n(&b->info.size, size, __ATOMIC_RELAXED);
	if (ftruncate(f->fd, (off_t)size) < 0) {
		int error = errno;
		struct sl_err ignored;

		file_refresh(b, &ignored);
		return sl_err_set(err, error, "%s: cannot be made %llu bytes large: %s", b->name,
				  (unsigned long long)size, strerror(error));
	}
	return 0;
}

const struct block_ops file_ops = {
	.name = "file",
	.block_size = sizeof(struct file),
	.channel_size = sizeof(struct file_channel),
	.close = file_close,
	.attach = file_attach,
	.detach = file_detach,
	.submit = file_submit,
	.commit = file_commit,
	.refresh = file_refresh,
	.resize = file_resize,
};
