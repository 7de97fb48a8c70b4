/* SPDX-License-Identifier: MIT */
/* rbd.c - disks in a Ceph cluster, by librbd.
 *
 * Theory of operation
 *
 * Requests are cut into pieces. Each piece is an operation of librbd's, which
 * finishes on one of librbd's threads; that puts it on a lock-free list and,
 * when the list was empty, wakes the channel's loop, where all the rest is
 * done. So a batch of answers costs one wake-up.
 *
 * An OSD that is down makes librbd wait, for as long as it takes, and no
 * operation can be called back. Still a reset and a timeout= must be able to
 * end a request. So whatever librbd holds belongs to us and not to the guest:
 *
 *   - what is written librbd copies while it takes the operation (see
 *     configure() in rbd_cluster.c, which makes sure of that);
 *   - what is read goes to a bounce buffer, and from there to the guest on the
 *     channel's loop, if the request is still there. That is one copy more:
 *     0.3 us for 4 KiB, where librbd spends 15 us of processor time on them;
 *   - operations and buffers are in a lane, which outlives the channel until
 *     librbd has given back the last one.
 *
 * An operation whose request has been given up (req is NULL) still takes its
 * place in the lane. So a guest that tries again and again while nothing comes
 * back soon waits for a place, with its timeout running, and librbd does not
 * collect operations, or copies of data, without bound.
 *
 * Bounds: librbd clips what crosses the image's end and says that all went
 * well. block_submit() checks against info.size, which changes by a refresh;
 * rbd_submit() against the size the keeper learned last, which is smaller for a
 * moment after a shrink. A read that comes back short is an error. A write that
 * is under way while the image shrinks is a write before the shrink.
 */
#include "block/rbd.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <sluice/log.h>

#include "block/deadline.h"

#define MAX_OPS 256u		/* operations under way on one channel */
#define READ_PIECE (256u << 10) /* bytes of a bounce buffer */
#define WRITE_PIECE (4u << 20)
#define SPACE_PIECE (64u << 20) /* of a discard or write-zeroes */
#define MAX_WRITTEN (64u << 20) /* bytes under way on one channel, which librbd has copies of; one piece more at most */
#define PIECE_IOVS 128u
#define DISCARD_GRANULARITY (64u << 10) /* librbd ignores smaller ones */
#define PHYSICAL_BLOCK 4096u		/* what an OSD allocates on a solid-state disk */

struct rbd {
	struct block b;
	struct rbd_keeper *keeper;
	rbd_image_t image;
	struct deadlines ages;
};

/**
 * struct rbd_op - an operation of librbd's
 * @next: on the list of free ones, or of those librbd is done with
 * @req:  whose piece it is; NULL: nobody's any more
 * @at, @len: the piece, bytes from the request's start
 * @written:  of a write, its bytes
 */
struct rbd_op {
	struct rbd_op *next;
	struct rbd_lane *lane;
	struct block_req *req;
	unsigned char *bounce;
	uint64_t at;
	uint32_t len, written;
	int64_t result;
};

/**
 * struct rbd_lane - what librbd holds of a channel; on the heap, as it may outlive it
 * @refs:     atomic: the channel, and each operation under way
 * @answered: atomic: stack of operations librbd is done with
 * @lock:     guards @closed, for those who send @task
 * @closed:   the channel is gone, and maybe its loop
 * @written:  bytes of writes under way
 */
struct rbd_lane {
	unsigned int refs;
	struct rbd_op *answered, *free;
	uint64_t written;
	struct sl_loop *loop;
	struct sl_task task;
	pthread_mutex_t lock;
	bool closed;
	unsigned char *bounces;
	struct rbd_op ops[MAX_OPS];
};

/**
 * struct rbd_channel
 * @waiting: requests that have pieces which librbd does not know yet
 */
struct rbd_channel {
	struct block_channel c;
	struct rbd_lane *lane;
	struct block_req *waiting, **waiting_end;
	struct deadline age;
	struct sl_log_limit log;
};

/**
 * struct job - in a request's scratch
 * @given:     bytes that librbd knows of
 * @ops:       under way
 * @error:     the first one
 * @given_all: there is nothing more to hand to librbd
 * @syncing:   the data is written, a flush follows for FUA
 */
struct job {
	struct deadline_entry age;
	uint64_t given;
	uint32_t ops;
	int error;
	bool given_all, syncing;
};

static struct job *job_of(struct block_req *req)
{
	_Static_assert(sizeof(struct job) <= sizeof(req->scratch), "a job fits a request");
	return (struct job *)req->scratch;
}

static struct block_req *req_of(struct deadline_entry *e)
{
	return (struct block_req *)(void *)((char *)e - offsetof(struct job, age) - offsetof(struct block_req, scratch));
}

static struct rbd *rbd_of(struct rbd_channel *ch)
{
	return (struct rbd *)ch->c.block;
}

/* ---- the lane ---- */

static void lane_put(struct rbd_lane *l)
{
	if (__atomic_sub_fetch(&l->refs, 1, __ATOMIC_ACQ_REL))
		return;
	munmap(l->bounces, (size_t)MAX_OPS * READ_PIECE);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

static struct rbd_lane *lane_new(struct sl_loop *loop)
{
	struct rbd_lane *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->bounces = mmap(NULL, (size_t)MAX_OPS * READ_PIECE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (l->bounces == MAP_FAILED) {
		free(l);
		return NULL;
	}
	l->refs = 1;
	l->loop = loop;
	pthread_mutex_init(&l->lock, NULL);
	for (unsigned int i = MAX_OPS; i--;) {
		struct rbd_op *op = &l->ops[i];

		op->bounce = l->bounces + (size_t)i * READ_PIECE;
		op->next = l->free;
		l->free = op;
	}
	return l;
}

/* On a thread of librbd's. */
static void op_answered(rbd_completion_t completion, void *arg)
{
	struct rbd_op *op = arg, *head;
	struct rbd_lane *l = __atomic_load_n(&op->lane, __ATOMIC_ACQUIRE); /* pairs with issue() */

	op->result = ceph.rbd_aio_get_return_value(completion);
	ceph.rbd_aio_release(completion);
	head = __atomic_load_n(&l->answered, __ATOMIC_RELAXED);
	do
		op->next = head;
	while (!__atomic_compare_exchange_n(&l->answered, &head, op, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED)); /* answers() */
	/* From here on @op is the loop's. The lock keeps the loop from going away in between. */
	if (!head) {
		pthread_mutex_lock(&l->lock);
		if (!l->closed)
			sl_task_send(l->loop, &l->task);
		pthread_mutex_unlock(&l->lock);
	}
	lane_put(l);
}

/* ---- requests and pieces ---- */

static void wait_last(struct rbd_channel *ch, struct block_req *req)
{
	req->next = NULL;
	*ch->waiting_end = req;
	ch->waiting_end = &req->next;
}

static void wait_first(struct rbd_channel *ch, struct block_req *req)
{
	req->next = ch->waiting;
	ch->waiting = req;
	if (!req->next)
		ch->waiting_end = &req->next;
}

static void wait_del(struct rbd_channel *ch, struct block_req *req)
{
	struct block_req **p = &ch->waiting;

	while (*p && *p != req)
		p = &(*p)->next;
	if (!*p)
		return;
	*p = req->next;
	if (!*p)
		ch->waiting_end = p;
}

/* The part of the request's memory that begins @skip bytes in, up to @most bytes: how many entries of @out, and bytes. */
static int slice(const struct block_req *req, uint64_t skip, uint32_t most, struct iovec *out, uint32_t *bytes)
{
	const struct iovec *v = req->iov;
	unsigned int n = 0;

	for (; skip >= v->iov_len; v++)
		skip -= v->iov_len;
	for (*bytes = 0; *bytes < most && n < PIECE_IOVS; v++, n++) {
		size_t len = v->iov_len - skip;

		out[n].iov_base = (char *)v->iov_base + skip;
		out[n].iov_len = len < most - *bytes ? len : most - *bytes;
		*bytes += (uint32_t)out[n].iov_len;
		skip = 0;
	}
	return (int)n;
}

static void copy_out(const struct block_req *req, const struct rbd_op *op)
{
	const unsigned char *from = op->bounce;
	const struct iovec *v = req->iov;
	uint64_t skip = op->at;
	size_t left = op->len;

	for (; skip >= v->iov_len; v++)
		skip -= v->iov_len;
	for (; left; v++) {
		size_t n = v->iov_len - skip < left ? v->iov_len - skip : left;

		memcpy((char *)v->iov_base + skip, from, n);
		from += n;
		left -= n;
		skip = 0;
	}
}

/* Hand @op to librbd; sets its length. */
static int start(struct rbd_channel *ch, struct block_req *req, struct rbd_op *op, rbd_completion_t done)
{
	const struct rbd *r = rbd_of(ch);
	uint64_t off = req->offset + op->at, left = req->len - op->at;
	uint32_t most = req->op == BLOCK_READ ? READ_PIECE : req->op == BLOCK_WRITE ? WRITE_PIECE : SPACE_PIECE;
	struct iovec iov[PIECE_IOVS];
	int n;

	op->len = left < most ? (uint32_t)left : most;
	if (req->op == BLOCK_FLUSH || job_of(req)->syncing)
		return ceph.rbd_aio_flush(r->image, done);
	switch (req->op) {
	case BLOCK_READ:
		return ceph.rbd_aio_read(r->image, off, op->len, (char *)op->bounce, done);
	case BLOCK_WRITE:
		n = slice(req, op->at, op->len, iov, &op->len);
		return ceph.rbd_aio_writev(r->image, iov, n, off, done);
	case BLOCK_DISCARD:
		return ceph.rbd_aio_discard(r->image, off, op->len, done);
	default:
		return ceph.rbd_aio_write_zeroes(r->image, off, op->len, done,
					    req->flags & BLOCK_UNMAP ? 0 : RBD_WRITE_ZEROES_FLAG_THICK_PROVISION, 0);
	}
}

static int issue(struct rbd_channel *ch, struct block_req *req)
{
	struct rbd_lane *l = ch->lane;
	struct rbd_op *op = l->free, *next = op->next;
	struct job *j = job_of(req);
	rbd_completion_t done;
	int ret = ceph.rbd_aio_create_completion(op, op_answered, &done);

	if (ret)
		return ret;
	/* librbd may be done with it before start() returns; nobody but this loop looks at more than its result. */
	op->req = req;
	op->at = j->given;
	__atomic_add_fetch(&l->refs, 1, __ATOMIC_RELAXED);
	/* librbd orders what was before with op_answered(); ThreadSanitizer is not shown how, so this says it again. */
	__atomic_store_n(&op->lane, l, __ATOMIC_RELEASE);
	ret = start(ch, req, op, done);
	if (ret < 0) {
		ceph.rbd_aio_release(done);
		__atomic_sub_fetch(&l->refs, 1, __ATOMIC_RELAXED);
		return ret;
	}
	l->free = next;
	op->written = req->op == BLOCK_WRITE ? op->len : 0;
	l->written += op->written;
	j->ops++;
	if (req->op != BLOCK_FLUSH && !j->syncing)
		j->given += op->len;
	j->given_all = j->given == req->len;
	return 0;
}

static void finish(struct rbd_channel *ch, struct block_req *req)
{
	struct job *j = job_of(req);

	deadline_del(&ch->age, &j->age);
	req->done(req, j->error);
}

/* Hand to librbd what waits, as long as there are operations. */
static void issue_waiting(struct rbd_channel *ch)
{
	while (ch->waiting && ch->lane->free && ch->lane->written < MAX_WRITTEN) {
		struct block_req *req = ch->waiting;
		struct job *j = job_of(req);

		if (!j->error)
			j->error = issue(ch, req);
		if (!j->error && !j->given_all)
			continue;
		wait_del(ch, req);
		if (!j->ops)
			finish(ch, req);
	}
}

static int piece_result(struct rbd_channel *ch, const struct rbd_op *op)
{
	const struct block_req *req = op->req;

	if (op->result == -ESHUTDOWN)
		sl_log_limited(&ch->log, SL_LOG_ERROR, "%s: barred from the cluster: another client has taken the image's "
			       "lock, so every request fails", ch->c.block->name);
	if (op->result < 0)
		return (int)op->result;
	if (req->op != BLOCK_READ)
		return 0;
	if (op->result != op->len) /* beyond the end of an image that has shrunk */
		return -ENOSPC;
	copy_out(req, op);
	return 0;
}

static void piece_over(struct rbd_channel *ch, struct rbd_op *op)
{
	struct block_req *req = op->req;
	struct job *j = job_of(req);
	int ret = piece_result(ch, op);

	if (!j->error)
		j->error = ret;
	if (--j->ops || !(j->given_all || j->error))
		return;
	if (!j->error && (req->flags & BLOCK_FUA) && !j->syncing) {
		j->syncing = true;
		wait_first(ch, req);
		return;
	}
	wait_del(ch, req);
	finish(ch, req);
}

/* librbd is done with some operations. */
static void answers(void *arg)
{
	struct rbd_channel *ch = arg;
	struct rbd_lane *l = ch->lane;
	struct rbd_op *op = __atomic_exchange_n(&l->answered, NULL, __ATOMIC_ACQUIRE), *fifo = NULL;

	while (op) {
		struct rbd_op *next = op->next;

		op->next = fifo;
		fifo = op;
		op = next;
	}
	while (fifo) {
		op = fifo;
		fifo = op->next;
		l->written -= op->written;
		if (op->req)
			piece_over(ch, op);
		op->next = l->free;
		l->free = op;
	}
	issue_waiting(ch);
}

/* Nobody waits for @req any more, or for any request when it is NULL. */
static void forget_ops(struct rbd_channel *ch, const struct block_req *req)
{
	for (unsigned int i = 0; i < MAX_OPS; i++)
		if (!req || ch->lane->ops[i].req == req)
			ch->lane->ops[i].req = NULL;
}

static void expired(struct block_channel *c, struct deadline_entry *e)
{
	struct rbd_channel *ch = (struct rbd_channel *)c;
	struct block_req *req = req_of(e);

	wait_del(ch, req);
	forget_ops(ch, req);
	job_of(req)->error = -ETIMEDOUT;
	finish(ch, req);
}

/* ---- the table of operations ---- */

static int rbd_attach(struct block_channel *c, struct sl_err *err)
{
	struct rbd_channel *ch = (struct rbd_channel *)c;

	ch->lane = lane_new(c->loop);
	if (!ch->lane)
		return sl_err_set(err, ENOMEM, "%s: out of memory", c->block->name);
	ch->lane->task = (struct sl_task){.fn = answers, .arg = ch};
	ch->waiting_end = &ch->waiting;
	deadline_start(&ch->age, &rbd_of(ch)->ages, c);
	return 0;
}

static void rbd_detach(struct block_channel *c)
{
	struct rbd_channel *ch = (struct rbd_channel *)c;
	struct rbd_lane *l = ch->lane;

	deadline_stop(&ch->age);
	pthread_mutex_lock(&l->lock);
	l->closed = true;
	pthread_mutex_unlock(&l->lock);
	sl_task_cancel(c->loop, &l->task);
	lane_put(l);
}

static void rbd_submit(struct block_channel *c, struct block_req *req)
{
	struct rbd_channel *ch = (struct rbd_channel *)c;
	uint64_t size = rbd_keeper_size(rbd_of(ch)->keeper);

	if (req->op != BLOCK_FLUSH && (req->len > size || req->offset > size - req->len)) {
		block_finish(c, req, -ENOSPC);
		return;
	}
	*job_of(req) = (struct job){0};
	deadline_add(&ch->age, &job_of(req)->age);
	wait_last(ch, req);
}

static void rbd_commit(struct block_channel *c)
{
	issue_waiting((struct rbd_channel *)c);
}

static void rbd_abandon(struct block_channel *c)
{
	struct rbd_channel *ch = (struct rbd_channel *)c;

	forget_ops(ch, NULL);
	ch->waiting = NULL;
	ch->waiting_end = &ch->waiting;
	while (ch->age.head) {
		struct block_req *req = req_of(ch->age.head);

		deadline_del(&ch->age, ch->age.head);
		block_finish(c, req, -ETIMEDOUT);
	}
}

static int rbd_refresh(struct block *b, struct sl_err *err)
{
	struct rbd *r = (struct rbd *)b;
	uint64_t size = rbd_keeper_size(r->keeper);

	(void)err;
	__atomic_store_n(&b->info.size, size - size % b->info.block_size, __ATOMIC_RELAXED);
	return 0;
}

static int rbd_resize_to(struct block *b, uint64_t size, struct sl_err *err)
{
	return rbd_keeper_resize(((struct rbd *)b)->keeper, size, err);
}

static void rbd_report(struct block *b, const struct block_report *r)
{
	deadlines_report(&((struct rbd *)b)->ages, r);
}

static void rbd_free(struct block *b)
{
	struct rbd *r = (struct rbd *)b;

	if (r->keeper)
		rbd_keeper_close(r->keeper);
	deadlines_free(&r->ages);
	block_free(b);
}

static const struct block_ops rbd_ops = {
	.name = "rbd",
	.block_size = sizeof(struct rbd),
	.channel_size = sizeof(struct rbd_channel),
	.close = rbd_free,
	.attach = rbd_attach,
	.detach = rbd_detach,
	.submit = rbd_submit,
	.commit = rbd_commit,
	.refresh = rbd_refresh,
	.resize = rbd_resize_to,
	.abandon = rbd_abandon,
	.report = rbd_report,
};

/* ---- opening ---- */

static const struct opt_def rbd_defs[] = {
	{"conf", OPT_STRING, offsetof(struct rbd_options, conf),
	 .help = "the cluster's configuration; the default is where Ceph's own tools look"},
	{"user", OPT_STRING, offsetof(struct rbd_options, user), .def = "admin",
	 .help = "who to be for the cluster, without 'client.'"},
	{"namespace", OPT_STRING, offsetof(struct rbd_options, namespace), .help = "the pool's namespace that the image is in"},
	{"exclusive", OPT_BOOL, offsetof(struct rbd_options, exclusive), .def = "on",
	 .help = "hold the image's lock, so that nobody else writes to it"},
	{"cache", OPT_BOOL, offsetof(struct rbd_options, cache), .def = "off", .help = "let librbd keep data in memory"},
	{"timeout", OPT_UINT, offsetof(struct rbd_options, timeout), .def = "0", .max = DEADLINE_TIMEOUT_MAX,
	 .help = "seconds after which a request fails that the cluster does not answer; 0: it waits"},
	{"connections", OPT_UINT, offsetof(struct rbd_options, connections), .def = "0", .max = 64,
	 .help = "share so many connections with the other disks that say so; 0: one of its own"},
	{0},
};

const struct opt_table rbd_options_table = {"rbd", rbd_defs};

static int describe(struct rbd *r, const struct rbd_place *at, const struct block_options *o, struct sl_err *err)
{
	struct block_info *info = &r->b.info;
	int ret = block_set_size(&r->b, rbd_keeper_size(r->keeper), 512, o, err);

	if (ret)
		return ret;
	if (info->block_size < PHYSICAL_BLOCK)
		info->physical_size = PHYSICAL_BLOCK;
	info->optimal_size = info->discard_granularity = DISCARD_GRANULARITY;
	info->read_only = at->read_only;
	info->flush = true;
	info->discard = o->discard;
	info->write_zeroes = true;
	info->unmap_zeroes = o->discard;
	return 0;
}

static int open_at(const char *name, const struct rbd_place *at, const struct block_options *o, struct spec *s,
		   struct block **out, struct sl_err *err)
{
	struct rbd_options ro = {0};
	struct rbd *r;
	int ret = opts_apply(&rbd_options_table, s, &ro, err);

	if (ret)
		return ret;
	r = (struct rbd *)block_alloc(&rbd_ops, name, err);
	if (!r)
		return -ENOMEM;
	deadlines_init(&r->ages, "rbd", ro.timeout, expired);
	ret = rbd_keeper_open(name, at, &ro, &r->keeper, err);
	if (!ret) {
		r->image = rbd_keeper_image(r->keeper);
		rbd_keeper_watch(r->keeper, &r->b);
		ret = describe(r, at, o, err);
	}
	if (ret)
		rbd_free(&r->b);
	else
		*out = &r->b;
	return ret;
}

/* POOL/IMAGE[@SNAP] in @text, which is cut to pieces. */
static int parse(char *text, const char *name, struct rbd_place *at, struct sl_err *err)
{
	char *image = strchr(text, '/'), *snap;

	if (image) {
		*image++ = '\0';
		snap = strchr(image, '@');
		if (snap)
			*snap++ = '\0';
		if (strchr(image, '/'))
			return sl_err_set(err, EINVAL, "%s: a namespace is a key: rbd:POOL/IMAGE,namespace=NAME", name);
		if (*text && *image && (!snap || *snap)) {
			at->pool = text;
			at->image = image;
			at->snap = snap;
			at->read_only |= snap != NULL;
			return 0;
		}
	}
	return sl_err_set(err, EINVAL, "%s: wants rbd:POOL/IMAGE or rbd:POOL/IMAGE@SNAP", name);
}

static int rbd_open_source(const char *text, const struct block_options *o, struct spec *s, struct block **out,
			   struct sl_err *err)
{
	struct rbd_place at = {.read_only = o->read_only};
	char *pieces = strdup(text);
	int ret;

	if (!pieces)
		return sl_err_set(err, ENOMEM, "%s: out of memory", s->source);
	ret = parse(pieces, s->source, &at, err);
	if (!ret)
		ret = open_at(s->source, &at, o, s, out, err);
	free(pieces);
	return ret;
}

const struct block_source block_source_rbd = {
	.prefix = "rbd:",
	.source = {"rbd:POOL/IMAGE[@SNAP]", "an image, or a snapshot of one, in a Ceph cluster"},
	.options = &rbd_options_table,
	.open = rbd_open_source,
};
