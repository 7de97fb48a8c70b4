/* SPDX-License-Identifier: MIT */
/* nbd.c - disks behind NBD servers, by libnbd.
 *
 * Theory of operation
 *
 * Each channel has a connection of its own, driven by its loop. A request
 * waits on a list, is sent in one piece after the other (mostly there is only
 * one), and is on the list of what was sent until the server answered. libnbd
 * reads into one stretch of memory, so a request of several stretches moves
 * through a bounce buffer.
 *
 * A connection that is lost gives everything that was sent back to the front
 * of the list that waits, and a new one is made, again and again with a pause
 * that grows. A piece that the dead server had done already is done twice by
 * that, with the same outcome, as no answer to it was passed on and nobody may
 * rely on what is in blocks with a request under way. The list and not libnbd
 * says what has been answered: from the moment a handle is given up its
 * callbacks are not listened to, so nothing finishes twice.
 *
 * Callbacks run inside libnbd with its lock held and must not call it. They
 * only put the request on the list of answers; settle() does the rest.
 *
 * A flush covers the writes of the other connections only when the server says
 * so (multi-conn); without, the source is for one channel (info.single).
 *
 * Connecting never blocks a data loop, except for the look-up of a host name.
 */
#include "block/nbd.h"

#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include <sluice/log.h>

#define CONNECT_MS 10000u     /* for connecting and negotiating */
#define FIRST_PAUSE_MS 100u   /* before connecting again; doubles up to */
#define LAST_PAUSE_MS 2000u
#define MAX_SENT 64u	      /* pieces under way on one connection */
#define MAX_PIECE (32u << 20) /* of a read or write, which is what every server takes */
#define MAX_SPACE (1u << 30)  /* of a discard or write-zeroes */
#define NUM_BOUNCES 16u
#define BOUNCE_SIZE (256u << 10)
#define MS 1000000u

/**
 * struct nbd
 * @piece, @bounce: largest piece of a read or write, with and without a bounce buffer; bytes
 * @fua, @flush:    what the server can
 */
struct nbd {
	struct block b;
	struct nbd_place at;
	uint32_t piece, bounce;
	bool fua, flush;
};

/**
 * struct nbd_channel
 * @h:        NULL: none, @timer says when to make one
 * @ready:    requests may be sent
 * @lost:     it has been said that there is no connection
 * @failed:   there will not be one again
 * @leaving:  the server said that it shuts down: this connection is over
 * @log:      a server that dies of each request does not flood the log
 * @closing:  inside nbd_close(): its callbacks say nothing
 * @settling: settle() is running further up
 * @waiting, @sent, @answered: requests; @sent has the newest first
 */
struct nbd_channel {
	struct block_channel c;
	struct nbd_handle *h;
	struct sl_watch watch;
	struct sl_timer timer;
	unsigned int pause_ms, n_sent, n_bounces;
	bool ready, lost, failed, leaving, closing, settling;
	struct sl_log_limit log;
	struct block_req *waiting, **waiting_end, *sent, *answered, **answered_end;
	unsigned char *bounces[NUM_BOUNCES], *bounce_memory;
};

/**
 * struct job - in a request's scratch
 * @prev, @next: on the list of what was sent
 * @done, @piece: bytes that are finished, and under way
 * @syncing: the data is written, a flush stands in for FUA
 */
struct job {
	struct block_req *prev, *next;
	uint64_t done;
	unsigned char *bounce;
	uint32_t piece;
	bool syncing;
};

static struct job *job_of(struct block_req *req)
{
	_Static_assert(sizeof(struct job) <= sizeof(req->scratch), "a job fits a request");
	return (struct job *)req->scratch;
}

static struct nbd *nbd_of(struct nbd_channel *ch)
{
	return (struct nbd *)ch->c.block;
}

/* ---- the lists ---- */

static void wait_first(struct nbd_channel *ch, struct block_req *req)
{
	req->next = ch->waiting;
	ch->waiting = req;
	if (!req->next)
		ch->waiting_end = &req->next;
}

static void wait_last(struct nbd_channel *ch, struct block_req *req)
{
	req->next = NULL;
	*ch->waiting_end = req;
	ch->waiting_end = &req->next;
}

static struct block_req *wait_take(struct nbd_channel *ch)
{
	struct block_req *req = ch->waiting;

	ch->waiting = req->next;
	if (!ch->waiting)
		ch->waiting_end = &ch->waiting;
	return req;
}

static void sent_add(struct nbd_channel *ch, struct block_req *req)
{
	struct job *j = job_of(req);

	j->prev = NULL;
	j->next = ch->sent;
	if (j->next)
		job_of(j->next)->prev = req;
	ch->sent = req;
	ch->n_sent++;
}

static void sent_del(struct nbd_channel *ch, struct block_req *req)
{
	struct job *j = job_of(req);

	if (j->prev)
		job_of(j->prev)->next = j->next;
	else
		ch->sent = j->next;
	if (j->next)
		job_of(j->next)->prev = j->prev;
	ch->n_sent--;
}

static void answered(struct nbd_channel *ch, struct block_req *req, int result)
{
	sent_del(ch, req);
	req->result = result;
	req->next = NULL;
	*ch->answered_end = req;
	ch->answered_end = &req->next;
}

/* ---- pieces ---- */

static bool is_rw(const struct block_req *req)
{
	return req->op == BLOCK_READ || req->op == BLOCK_WRITE;
}

static void bounce_copy(const struct block_req *req, const struct job *j)
{
	unsigned char *b = j->bounce;
	uint64_t skip = j->done;
	size_t left = j->piece;

	for (const struct iovec *v = req->iov; left; v++) {
		size_t n;

		if (skip >= v->iov_len) {
			skip -= v->iov_len;
			continue;
		}
		n = v->iov_len - skip < left ? v->iov_len - skip : left;
		if (req->op == BLOCK_READ)
			memcpy((char *)v->iov_base + skip, b, n);
		else
			memcpy(b, (char *)v->iov_base + skip, n);
		b += n;
		left -= n;
		skip = 0;
	}
}

/* What libnbd says about a request: runs inside libnbd. ENOTCONN and ESHUTDOWN are no answers: it is sent again. */
static int piece_done(void *arg, int *error)
{
	struct block_req *req = arg;
	struct nbd_channel *ch = (struct nbd_channel *)req->channel;

	if (ch->closing)
		return 1;
	if (*error == ESHUTDOWN)
		ch->leaving = true;
	else if (*error != ENOTCONN)
		answered(ch, req, -*error);
	return 1;
}

/* Give the next piece of @req to libnbd; -1 when it does not take it. */
static int64_t issue(struct nbd_channel *ch, struct block_req *req)
{
	const struct nbd *n = nbd_of(ch);
	const nbd_completion_callback cb = {.callback = piece_done, .user_data = req};
	struct job *j = job_of(req);
	uint64_t at = req->offset + j->done, left = req->len - j->done;
	uint32_t most = !is_rw(req) ? MAX_SPACE : j->bounce ? n->bounce : n->piece;
	unsigned char *memory = j->bounce;
	uint32_t flags = (req->flags & BLOCK_FUA) && n->fua ? LIBNBD_CMD_FLAG_FUA : 0;

	j->piece = left < most ? (uint32_t)left : most;
	if (is_rw(req) && !memory)
		memory = (unsigned char *)req->iov->iov_base + j->done;
	if (req->op == BLOCK_FLUSH || j->syncing)
		return nbd_aio_flush(ch->h, cb, 0);
	switch (req->op) {
	case BLOCK_READ:
		return nbd_aio_pread(ch->h, memory, j->piece, at, cb, 0);
	case BLOCK_WRITE:
		if (j->bounce)
			bounce_copy(req, j);
		return nbd_aio_pwrite(ch->h, memory, j->piece, at, cb, flags);
	case BLOCK_DISCARD:
		return nbd_aio_trim(ch->h, j->piece, at, cb, flags);
	default:
		if (!(req->flags & BLOCK_UNMAP) || !n->b.info.unmap_zeroes)
			flags |= LIBNBD_CMD_FLAG_NO_HOLE;
		return nbd_aio_zero(ch->h, j->piece, at, cb, flags);
	}
}

/* The server answered a piece: the next one, the flush that stands in for FUA, or the end. */
static void piece_over(struct nbd_channel *ch, struct block_req *req)
{
	const struct nbd *n = nbd_of(ch);
	struct job *j = job_of(req);

	if (!req->result && !j->syncing && req->op != BLOCK_FLUSH) {
		if (req->op == BLOCK_READ && j->bounce)
			bounce_copy(req, j);
		j->done += j->piece;
		j->syncing = j->done == req->len && (req->flags & BLOCK_FUA) && req->op != BLOCK_READ && !n->fua &&
			     n->flush;
		if (j->done < req->len || j->syncing) {
			wait_first(ch, req);
			return;
		}
	}
	if (j->bounce)
		ch->bounces[ch->n_bounces++] = j->bounce;
	req->done(req, req->result);
}

/* ---- the connection ---- */

static struct nbd_handle *start(const struct nbd *n)
{
	struct nbd_handle *h = nbd_create();
	int ret;

	if (!h)
		return NULL;
	nbd_set_pread_initialize(h, false); /* what is not read is not looked at */
	if (n->at.image)
		ret = nbd_aio_connect_unix(h, nbd_image_socket(n->at.image));
	else
		ret = nbd_set_uri_allow_local_file(h, true) ? -1 : nbd_aio_connect_uri(h, n->at.uri);
	if (!ret)
		return h;
	nbd_close(h);
	return NULL;
}

static bool gone(struct nbd_handle *h)
{
	return nbd_aio_is_dead(h) || nbd_aio_is_closed(h);
}

static bool is_over(const struct nbd_channel *ch)
{
	return ch->ready && (ch->leaving || gone(ch->h));
}

static const char *why(void)
{
	const char *text = nbd_get_error();

	return text && *text ? text : "the server ended the connection";
}

/* What to wait for; poll() and epoll have the same bits. */
static uint32_t direction(struct nbd_handle *h)
{
	unsigned int dir = nbd_aio_get_direction(h);

	return (dir & LIBNBD_AIO_DIRECTION_READ ? EPOLLIN : 0) | (dir & LIBNBD_AIO_DIRECTION_WRITE ? EPOLLOUT : 0);
}

/* One of the two calls: the first may change what may be called next. nbd_poll() would call what may not be called
 * when a server hangs up at once. */
static int notify(struct nbd_handle *h, uint32_t events)
{
	const uint32_t dir = direction(h), bad = EPOLLERR | EPOLLHUP;

	if ((dir & EPOLLIN) && (events & (EPOLLIN | bad)))
		return nbd_aio_notify_read(h);
	if ((dir & EPOLLOUT) && (events & (EPOLLOUT | bad)))
		return nbd_aio_notify_write(h);
	return 0;
}

static void drop_handle(struct nbd_channel *ch)
{
	sl_watch_del(&ch->watch);
	ch->ready = ch->leaving = false;
	ch->closing = true;
	nbd_close(ch->h);
	ch->closing = false;
	ch->h = NULL;
	while (ch->sent) {
		struct block_req *req = ch->sent;

		sent_del(ch, req);
		wait_first(ch, req);
	}
}

static void lost(struct nbd_channel *ch, const char *reason)
{
	if (!ch->lost)
		sl_log_limited(&ch->log, SL_LOG_WARN, "%s: no connection: %s; requests wait for the next one",
			       ch->c.block->name, reason);
	ch->lost = true;
	if (ch->h)
		drop_handle(ch);
	sl_timer_set(ch->c.loop, &ch->timer, (uint64_t)ch->pause_ms * MS);
	ch->pause_ms = 2 * ch->pause_ms < LAST_PAUSE_MS ? 2 * ch->pause_ms : LAST_PAUSE_MS;
}

/* NULL, or why what answers now is not the disk that was opened. */
static const char *differs(struct nbd_channel *ch)
{
	const struct nbd *n = nbd_of(ch);
	const struct block_info *info = &n->b.info;

	if (nbd_get_size(ch->h) < (int64_t)info->size)
		return "the disk has become smaller";
	if (!info->read_only && nbd_is_read_only(ch->h) != 0)
		return "the disk has become read-only";
	if ((n->flush && nbd_can_flush(ch->h) != 1) || (n->fua && nbd_can_fua(ch->h) != 1) ||
	    (info->discard && nbd_can_trim(ch->h) != 1) || (info->write_zeroes && nbd_can_zero(ch->h) != 1) ||
	    (!info->single && nbd_can_multi_conn(ch->h) != 1))
		return "the server can do less than before";
	return NULL;
}

static void send_waiting(struct nbd_channel *ch)
{
	while (ch->ready && ch->waiting && ch->n_sent < MAX_SENT && !is_over(ch)) {
		struct block_req *req = ch->waiting;
		struct job *j = job_of(req);

		if (is_rw(req) && req->iovcnt > 1 && !j->bounce) {
			if (!ch->n_bounces)
				return;
			j->bounce = ch->bounces[--ch->n_bounces];
		}
		wait_take(ch);
		sent_add(ch, req);
		/* Refused by a connection that has just died: it stays on the list, to be sent again. */
		if (issue(ch, req) < 0 && !gone(ch->h))
			answered(ch, req, nbd_get_errno() ? -nbd_get_errno() : -EIO);
	}
}

static void fail_waiting(struct nbd_channel *ch)
{
	while (ch->waiting) {
		struct block_req *req = wait_take(ch);

		sent_add(ch, req);
		answered(ch, req, -EIO);
	}
}

/* After every call into libnbd: pass on what it answered, send what waits, look for other events. */
static void settle(struct nbd_channel *ch)
{
	if (ch->settling)
		return;
	ch->settling = true;
	do {
		while (ch->answered) {
			struct block_req *req = ch->answered;

			ch->answered = req->next;
			if (!ch->answered)
				ch->answered_end = &ch->answered;
			piece_over(ch, req);
		}
		if (is_over(ch))
			lost(ch, ch->leaving ? "the server shuts down" : why());
		if (ch->failed)
			fail_waiting(ch);
		send_waiting(ch);
	} while (ch->answered || is_over(ch));
	if (ch->ready)
		sl_watch_mod(&ch->watch, direction(ch->h));
	ch->settling = false;
}

static void look(struct nbd_channel *ch)
{
	const char *reason;

	if (nbd_aio_is_ready(ch->h) && !ch->ready) {
		reason = differs(ch);
		if (reason) {
			lost(ch, reason);
			return;
		}
		sl_timer_clear(ch->c.loop, &ch->timer);
		ch->pause_ms = FIRST_PAUSE_MS;
		ch->ready = true;
		if (ch->lost)
			sl_log_limited(&ch->log, SL_LOG_INFO, "%s: connected again", ch->c.block->name);
		ch->lost = false;
	} else if (gone(ch->h)) {
		lost(ch, why());
		settle(ch);
		return;
	}
	/* While it connects, libnbd may try one socket after the other, also with the same number. */
	if (!ch->ready || !ch->watch.loop || nbd_aio_get_fd(ch->h) != ch->watch.fd) {
		sl_watch_del(&ch->watch);
		if (sl_watch_add(ch->c.loop, &ch->watch, nbd_aio_get_fd(ch->h), direction(ch->h)))
			lost(ch, "cannot watch its socket");
	}
	settle(ch);
}

static void event(void *arg, uint32_t events)
{
	struct nbd_channel *ch = arg;
	int ret = notify(ch->h, events);

	/* Not every failure on the way to a connection makes the handle a dead one. */
	if (!ch->ready && ret < 0) {
		lost(ch, why());
		return;
	}
	look(ch);
}

/* Time to connect, or the time for connecting is over. */
static void connect_now(void *arg)
{
	struct nbd_channel *ch = arg;
	const struct nbd *n = nbd_of(ch);
	char text[256];

	if (ch->h) {
		lost(ch, "the server does not answer");
		return;
	}
	if (n->at.image && nbd_image_ended(n->at.image, 0, text, sizeof(text))) {
		sl_log(SL_LOG_ERROR, "%s: qemu-nbd is gone (%s): every request fails from now on", n->b.name, text);
		ch->failed = true;
		settle(ch);
		return;
	}
	ch->h = start(n);
	if (!ch->h) {
		lost(ch, why());
		return;
	}
	sl_timer_set(ch->c.loop, &ch->timer, (uint64_t)CONNECT_MS * MS);
	look(ch);
}

/* ---- the table of operations ---- */

static int nbd_attach(struct block_channel *c, struct sl_err *err)
{
	struct nbd_channel *ch = (struct nbd_channel *)c;

	ch->bounce_memory = malloc((size_t)NUM_BOUNCES * BOUNCE_SIZE);
	if (!ch->bounce_memory)
		return sl_err_set(err, ENOMEM, "%s: out of memory", c->block->name);
	for (; ch->n_bounces < NUM_BOUNCES; ch->n_bounces++)
		ch->bounces[ch->n_bounces] = ch->bounce_memory + (size_t)ch->n_bounces * BOUNCE_SIZE;
	ch->waiting_end = &ch->waiting;
	ch->answered_end = &ch->answered;
	ch->watch.fn = event;
	ch->watch.arg = ch->timer.arg = ch;
	ch->timer.fn = connect_now;
	ch->pause_ms = FIRST_PAUSE_MS;
	connect_now(ch);
	return 0;
}

static void nbd_detach(struct block_channel *c)
{
	struct nbd_channel *ch = (struct nbd_channel *)c;

	sl_timer_clear(c->loop, &ch->timer);
	if (ch->ready)
		nbd_aio_disconnect(ch->h, 0); /* so that the server does not complain */
	if (ch->h)
		drop_handle(ch);
	free(ch->bounce_memory);
}

static void nbd_submit(struct block_channel *c, struct block_req *req)
{
	if (req->op == BLOCK_FLUSH && !((struct nbd *)c->block)->flush) {
		block_finish(c, req, 0);
		return;
	}
	*job_of(req) = (struct job){0};
	wait_last((struct nbd_channel *)c, req);
}

static void nbd_commit(struct block_channel *c)
{
	settle((struct nbd_channel *)c);
}

static void nbd_free(struct block *b)
{
	struct nbd *n = (struct nbd *)b;

	nbd_image_close(n->at.image);
	block_free(b);
}

static const struct block_ops nbd_ops = {
	.name = "nbd",
	.block_size = sizeof(struct nbd),
	.channel_size = sizeof(struct nbd_channel),
	.close = nbd_free,
	.attach = nbd_attach,
	.detach = nbd_detach,
	.submit = nbd_submit,
	.commit = nbd_commit,
};

/* ---- opening ---- */

static bool power_of_two(int64_t n, uint32_t least, uint32_t most)
{
	return n >= least && n <= most && !(n & (n - 1));
}

static int describe_sizes(struct nbd *n, struct nbd_handle *h, const struct block_options *o, struct sl_err *err)
{
	int64_t size = nbd_get_size(h), least = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
	int64_t best = nbd_get_block_size(h, LIBNBD_SIZE_PREFERRED), most = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);
	struct block_info *info = &n->b.info;
	int ret;

	if (least < 512)
		least = 512;
	if (size < 0 || !power_of_two(least, 512, 65536))
		return sl_err_set(err, EINVAL, "%s: the server's sizes make no sense: %lld bytes in blocks of %lld",
				  n->b.name, (long long)size, (long long)least);
	if (o->block_size && o->block_size < (uint64_t)least)
		return sl_err_set(err, EINVAL, "%s: block-size=%llu: %lld is the least that the server takes", n->b.name,
				  (unsigned long long)o->block_size, (long long)least);
	ret = block_set_size(&n->b, (uint64_t)size, (uint32_t)least, o, err);
	if (ret)
		return ret;
	if (most <= 0 || most > MAX_PIECE)
		most = MAX_PIECE;
	n->piece = (uint32_t)most & ~(info->block_size - 1);
	n->bounce = n->piece < BOUNCE_SIZE ? n->piece : BOUNCE_SIZE;
	if (!n->piece)
		return sl_err_set(err, EINVAL, "%s: the server takes no more than %lld bytes, less than one block of %u",
				  n->b.name, (long long)most, info->block_size);
	if (power_of_two(best, info->block_size, 65536))
		info->physical_size = (uint32_t)best;
	info->discard_granularity = info->physical_size;
	return 0;
}

static int describe(struct nbd *n, struct nbd_handle *h, const struct block_options *o, struct sl_err *err)
{
	struct block_info *info = &n->b.info;
	int ret = describe_sizes(n, h, o, err);

	if (ret)
		return ret;
	if (!o->read_only && nbd_is_read_only(h) != 0)
		return sl_err_set(err, EROFS, "%s: the server does not let it be written; add readonly=on", n->b.name);
	n->fua = nbd_can_fua(h) == 1;
	n->flush = nbd_can_flush(h) == 1;
	info->flush = n->flush && !n->at.durable;
	info->discard = o->discard && nbd_can_trim(h) == 1;
	info->write_zeroes = nbd_can_zero(h) == 1;
	info->unmap_zeroes = info->write_zeroes && o->discard;
	info->single = nbd_can_multi_conn(h) != 1;
	return 0;
}

/* Our own server has ended instead of answering: its words are better than libnbd's. */
static int connect_error(const struct nbd *n, struct sl_err *err)
{
	char text[384];

	if (n->at.image && nbd_image_ended(n->at.image, 1000, text, sizeof(text)))
		return sl_err_set(err, EIO, "%s: %s", n->b.name, text);
	return sl_err_set(err, nbd_get_errno() > 0 ? nbd_get_errno() : EIO, "%s: cannot connect: %s", n->b.name, why());
}

static int wait_ready(const struct nbd *n, struct nbd_handle *h, struct sl_err *err)
{
	uint64_t until = sl_now() + (uint64_t)CONNECT_MS * MS;
	struct pollfd p;

	while (!nbd_aio_is_ready(h)) {
		uint64_t now = sl_now();

		if (gone(h))
			return connect_error(n, err);
		if (now >= until)
			return sl_err_set(err, ETIMEDOUT, "%s: cannot connect: no answer in %u s", n->b.name,
					  CONNECT_MS / 1000);
		p = (struct pollfd){.fd = nbd_aio_get_fd(h), .events = (short)direction(h)};
		if (poll(&p, 1, (int)((until - now) / MS) + 1) > 0 && notify(h, (uint32_t)p.revents) < 0)
			return connect_error(n, err);
	}
	return 0;
}

int nbd_open_at(const struct nbd_place *at, const char *name, const struct block_options *o, struct block **out,
		struct sl_err *err)
{
	struct nbd *n = (struct nbd *)block_alloc(&nbd_ops, name, err);
	struct nbd_handle *h;
	int ret;

	if (!n) {
		nbd_image_close(at->image);
		return -ENOMEM;
	}
	n->at = *at;
	if (!at->image)
		n->at.uri = n->b.name;
	h = start(n);
	ret = h ? wait_ready(n, h, err) : connect_error(n, err);
	if (!ret)
		ret = describe(n, h, o, err);
	if (h)
		nbd_close(h);
	if (ret)
		nbd_free(&n->b);
	else
		*out = &n->b;
	return ret;
}

static int nbd_open(const char *text, const struct block_options *o, struct spec *s, struct block **out,
		    struct sl_err *err)
{
	const struct nbd_place at = {.uri = s->source};

	(void)text; /* libnbd reads the whole URI */
	return nbd_open_at(&at, s->source, o, out, err);
}

const struct block_source block_source_nbd = {
	.prefix = "nbd:",
	.source = {"nbd://HOST[:PORT][/EXPORT]", "a disk of an NBD server"},
	.open = nbd_open,
};

const struct block_source block_source_nbd_unix = {
	.prefix = "nbd+unix:",
	.source = {"nbd+unix:///[EXPORT]?socket=PATH", "a disk of an NBD server that listens on a Unix socket"},
	.open = nbd_open,
};
