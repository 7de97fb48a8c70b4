/* SPDX-License-Identifier: MIT */
/* nbd.c - disks behind NBD servers, by libnbd.
 *
 * Theory of operation
 *
 * Each channel has a connection of its own, made by nbd_connect.c and then
 * driven by its loop. A request waits on a list, is sent in one piece after
 * the other (mostly there is only one), and is on the list of what was sent
 * until the server answered. libnbd reads into one stretch of memory, so a
 * request of several stretches moves through a bounce buffer.
 *
 * A connection that is lost gives everything that was sent back to the front
 * of the list that waits, to be sent again from its start, and a new one is
 * made, again and again with a pause that grows. What the dead server had done
 * already is done twice by that, with the same outcome, as no answer to it was
 * passed on and nobody may rely on what is in blocks with a request under way.
 * The list and not libnbd says what has been answered: from the moment a
 * handle is given up its callbacks are not listened to, so nothing finishes
 * twice; and libnbd touches no memory of a request once its handle is closed,
 * which is how a request is given up for good (timeout=, abandon).
 *
 * Callbacks run inside libnbd with its lock held and must not call it. They
 * only put the request on the list of answers; settle() does the rest.
 *
 * A flush covers the writes of the other connections only when the server says
 * so (multi-conn); without, the source is for one channel (info.single).
 *
 * The size. A server cannot tell that it changed, and tells it only while a
 * connection is made. So a refresh makes one to ask, and each channel makes a
 * new one when the disk was found to have another size than its own knows. One
 * that is made again for another reason and finds a larger disk says so
 * (block_changed()). A smaller one may just as well be the wrong one: it waits
 * until somebody asks for a refresh.
 *
 * Our own qemu-nbd (nbd_image.c) holds what it has not written yet; if it dies,
 * requests that were answered are lost with it. They are in a log until a
 * flush (nbd_log.c).
 */
#include "block/nbd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <sluice/log.h>

#define CONNECT_MS 10000u     /* for connecting and negotiating */
#define FIRST_PAUSE_MS 100u   /* before connecting again; doubles up to */
#define LAST_PAUSE_MS 2000u
#define RESTART_PAUSE_MS 20u  /* before asking again whether our own qemu-nbd has started */
#define MAX_SENT 64u	      /* pieces under way on one connection */
#define MAX_ANSWERS 32u	      /* passed on at a time */
#define MAX_SPACE (1u << 30)  /* of a discard or write-zeroes */
#define NUM_BOUNCES 16u
#define MS 1000000u

/**
 * struct nbd_channel
 * @h:        NULL: none; ready for requests otherwise
 * @attempt:  to get one; neither: @timer says when to begin one
 * @size:     bytes that this connection knows
 * @known:    what the size of the disk was when it was made
 * @made:     there has been a connection
 * @lost:     it has been said that there is none
 * @leaving:  the server said that it shuts down: this connection is over
 * @flushing: a flush of our own is under way, up to @mark of the log
 * @full:     a request waits for room in the log
 * @flush_error: the last such flush failed with this error: who waits for room gets it as well
 * @closing:  inside nbd_close(): its callbacks say nothing
 * @settling: settle() is running further up
 * @log:      a server that dies of each request does not flood the log
 * @waiting, @sent, @answered: requests
 */
struct nbd_channel {
	struct block_channel c;
	struct nbd_handle *h;
	struct nbd_attempt *attempt;
	struct sl_watch watch;
	struct sl_timer timer;
	unsigned int pause_ms, n_sent, n_bounces;
	uint64_t size, known, mark;
	int flush_error;
	bool made, lost, leaving, flushing, full, closing, settling;
	struct sl_log_limit log;
	struct deadline age;
	struct block_req *waiting, **waiting_end, *sent, *answered, **answered_end;
	unsigned char *bounces[NUM_BOUNCES], *bounce_memory;
};

/**
 * struct job - in a request's scratch
 * @prev:    on the list of what was sent (the next one is in the request)
 * @age:     on the channel's list from submit to done
 * @done:    bytes that are finished; of a flush: the log's mark
 * @piece:   bytes under way
 * @syncing: the data is written, a flush stands in for FUA
 * @logged:  there is room for it in the log
 * @sent, @over: is it on those lists? Otherwise it waits
 */
struct job {
	struct block_req **prev;
	struct deadline_entry age;
	uint64_t done;
	unsigned char *bounce;
	uint32_t piece;
	bool syncing, logged, sent, over;
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

static void count(uint64_t *n)
{
	__atomic_add_fetch(n, 1, __ATOMIC_RELAXED);
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

/* From wherever it is on the list: for what is rare. */
static void wait_del(struct nbd_channel *ch, struct block_req *req)
{
	struct block_req **at = &ch->waiting;

	while (*at != req)
		at = &(*at)->next;
	*at = req->next;
	if (!*at)
		ch->waiting_end = at;
}

static void sent_add(struct nbd_channel *ch, struct block_req *req)
{
	struct job *j = job_of(req);

	req->next = ch->sent;
	if (req->next)
		job_of(req->next)->prev = &req->next;
	ch->sent = req;
	j->prev = &ch->sent;
	j->sent = true;
	ch->n_sent++;
}

static void sent_del(struct nbd_channel *ch, struct block_req *req)
{
	struct job *j = job_of(req);

	*j->prev = req->next;
	if (req->next)
		job_of(req->next)->prev = j->prev;
	j->sent = false;
	ch->n_sent--;
}

/* It is on none of the lists. */
static void over(struct nbd_channel *ch, struct block_req *req, int result)
{
	job_of(req)->over = true;
	req->result = result;
	req->next = NULL;
	*ch->answered_end = req;
	ch->answered_end = &req->next;
}

static void answered(struct nbd_channel *ch, struct block_req *req, int result)
{
	sent_del(ch, req);
	over(ch, req, result);
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
	if (!*error)
		ch->pause_ms = FIRST_PAUSE_MS; /* this server lives, and does not only let itself be connected to */
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
	uint32_t flags = n->fua && ((req->flags & BLOCK_FUA) || (n->log && !j->logged)) ? LIBNBD_CMD_FLAG_FUA : 0;

	if (req->op == BLOCK_FLUSH || j->syncing) {
		if (n->log && !j->syncing)
			j->done = nbd_log_mark(n->log);
		return libnbd.nbd_aio_flush(ch->h, cb, 0);
	}
	j->piece = left < most ? (uint32_t)left : most;
	if (is_rw(req) && !memory)
		memory = (unsigned char *)req->iov->iov_base + j->done;
	switch (req->op) {
	case BLOCK_READ:
		return libnbd.nbd_aio_pread(ch->h, memory, j->piece, at, cb, 0);
	case BLOCK_WRITE:
		if (j->bounce)
			bounce_copy(req, j);
		return libnbd.nbd_aio_pwrite(ch->h, memory, j->piece, at, cb, flags);
	case BLOCK_DISCARD:
		return libnbd.nbd_aio_trim(ch->h, j->piece, at, cb, flags);
	default:
		if (!(req->flags & BLOCK_UNMAP) || !n->b.info.unmap_zeroes)
			flags |= LIBNBD_CMD_FLAG_NO_HOLE;
		return libnbd.nbd_aio_zero(ch->h, j->piece, at, cb, flags);
	}
}

static void keep_in_log(struct nbd *n, struct block_req *req)
{
	struct job *j = job_of(req);

	if (req->op == BLOCK_FLUSH && !req->result)
		nbd_log_flushed(n->log, j->done);
	else if (j->logged && !req->result)
		nbd_log_add(n->log, req);
	else if (j->logged)
		nbd_log_release(n->log, req);
}

/* The server answered a piece: the next one, the flush that stands in for FUA, or the end. */
static void piece_over(struct nbd_channel *ch, struct block_req *req)
{
	struct nbd *n = nbd_of(ch);
	struct job *j = job_of(req);

	j->over = false;
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
	if (n->log)
		keep_in_log(n, req);
	deadline_del(&ch->age, &j->age);
	req->done(req, req->result);
}

/* ---- the flushes that keep the log of what may be lost short ---- */

static int own_flush_done(void *arg, int *error)
{
	struct nbd_channel *ch = arg;

	if (ch->closing)
		return 1;
	ch->flushing = false;
	if (!*error)
		nbd_log_flushed(nbd_of(ch)->log, ch->mark);
	else if (*error != ENOTCONN && *error != ESHUTDOWN)
		ch->flush_error = *error;
	return 1;
}

static void flush_log(struct nbd_channel *ch)
{
	const nbd_completion_callback cb = {.callback = own_flush_done, .user_data = ch};
	struct nbd_log *log = nbd_of(ch)->log;

	if (!log || !ch->h || ch->flushing || !(ch->full || nbd_log_half(log)))
		return;
	ch->mark = nbd_log_mark(log);
	ch->flushing = libnbd.nbd_aio_flush(ch->h, cb, 0) >= 0;
}

/* ---- the connection ---- */

static bool is_over(const struct nbd_channel *ch)
{
	return ch->h && (ch->leaving || libnbd.nbd_aio_is_dead(ch->h) || libnbd.nbd_aio_is_closed(ch->h));
}

/* From here on libnbd touches no request's memory. */
static void drop_handle(struct nbd_channel *ch)
{
	sl_watch_del(&ch->watch);
	ch->leaving = ch->flushing = false;
	ch->closing = true;
	libnbd.nbd_close(ch->h);
	ch->closing = false;
	ch->h = NULL;
	if (nbd_of(ch)->image)
		nbd_image_leave(nbd_of(ch)->image);
	__atomic_sub_fetch(&nbd_of(ch)->connections, 1, __ATOMIC_RELAXED);
	while (ch->sent) {
		struct block_req *req = ch->sent;
		struct job *j = job_of(req);

		sent_del(ch, req);
		/* From its start: what is not durable yet may have gone with the server. */
		j->done = 0;
		j->syncing = false;
		wait_first(ch, req);
	}
}

static void begin_attempt(void *arg);

static void connect_later(struct nbd_channel *ch, unsigned int ms)
{
	sl_timer_set(ch->c.loop, &ch->timer, (uint64_t)ms * MS);
}

static void lost(struct nbd_channel *ch, const char *reason)
{
	if (!ch->lost)
		sl_log_limited(&ch->log, SL_LOG_WARN, "%s: no connection: %s; requests wait for the next one",
			       ch->c.block->name, reason);
	ch->lost = true;
	if (ch->h) {
		count(&nbd_of(ch)->losses);
		drop_handle(ch);
	}
	connect_later(ch, ch->pause_ms);
	ch->pause_ms = 2 * ch->pause_ms < LAST_PAUSE_MS ? 2 * ch->pause_ms : LAST_PAUSE_MS;
}

/* The disk has another size than this connection knows: a new one, once nothing is under way. */
static bool is_outdated(const struct nbd_channel *ch)
{
	uint64_t size = block_size_now(ch->c.block);

	return ch->h && size != ch->known && size != ch->size;
}

static void renew(struct nbd_channel *ch)
{
	libnbd.nbd_aio_disconnect(ch->h, 0);
	drop_handle(ch);
	begin_attempt(ch);
}

/* 0, or why what answers now is not the disk that was opened. */
static int differs(const struct nbd *n, struct nbd_handle *h, struct sl_err *why)
{
	const struct block_info *info = &n->b.info;
	int64_t size = libnbd.nbd_get_size(h);

	if (size < (int64_t)block_size_now(&n->b))
		return sl_err_set(why, EIO, "the disk has shrunk to %" PRIi64 " bytes, and nobody has asked for a "
				  "refresh", size);
	if (!info->read_only && libnbd.nbd_is_read_only(h) != 0)
		return sl_err_set(why, EIO, "the disk has become read-only");
	if ((n->flush && libnbd.nbd_can_flush(h) != 1) || (n->fua && libnbd.nbd_can_fua(h) != 1) ||
	    (info->discard && libnbd.nbd_can_trim(h) != 1) || (info->write_zeroes && libnbd.nbd_can_zero(h) != 1) ||
	    (!info->single && libnbd.nbd_can_multi_conn(h) != 1))
		return sl_err_set(why, EIO, "the server can do less than before");
	return 0;
}

static void settle(struct nbd_channel *ch);

static void use_handle(struct nbd_channel *ch, struct nbd_handle *h)
{
	struct nbd *n = nbd_of(ch);

	if (n->image)
		nbd_image_enter(n->image);
	ch->h = h;
	ch->size = (uint64_t)libnbd.nbd_get_size(h) & ~(uint64_t)(n->b.info.block_size - 1);
	__atomic_add_fetch(&n->connections, 1, __ATOMIC_RELAXED);
	if (sl_watch_add(ch->c.loop, &ch->watch, libnbd.nbd_aio_get_fd(h), nbd_events(h))) {
		lost(ch, "cannot watch its socket");
		return;
	}
	if (ch->made)
		count(&n->reconnects);
	if (ch->lost)
		sl_log_limited(&ch->log, SL_LOG_INFO, "%s: connected again", n->b.name);
	ch->made = true;
	ch->lost = false;
	if (ch->size != ch->known) {
		__atomic_store_n(&n->found, ch->size, __ATOMIC_RELAXED);
		block_changed(&n->b);
	}
	settle(ch);
}

static void attempt_over(void *arg)
{
	struct nbd_channel *ch = arg;
	struct nbd_handle *h = NULL;
	struct sl_err why;
	int ret = nbd_attempt_end(ch->attempt, &h, &why);

	ch->attempt = NULL;
	if (!ret && ch->known != block_size_now(ch->c.block)) {
		/* A refresh has overtaken it. */
		libnbd.nbd_close(h);
		begin_attempt(ch);
		return;
	}
	if (!ret)
		ret = differs(nbd_of(ch), h, &why);
	if (!ret) {
		use_handle(ch, h);
		return;
	}
	if (h)
		libnbd.nbd_close(h);
	lost(ch, why.text);
}

static void begin_attempt(void *arg)
{
	struct nbd_channel *ch = arg;
	struct nbd_place *at = nbd_place_of(nbd_of(ch));

	if (!at) {
		connect_later(ch, RESTART_PAUSE_MS);
		return;
	}
	ch->known = block_size_now(ch->c.block);
	ch->attempt = nbd_attempt_start(at, CONNECT_MS, ch->c.loop, attempt_over, ch);
	if (!ch->attempt)
		lost(ch, "no thread for it");
	nbd_place_put(at);
}

/* ---- requests ---- */

/* Room in the log for the first one that waits; false: not now. */
static bool has_room(struct nbd_channel *ch, struct block_req *req)
{
	struct nbd_log *log = nbd_of(ch)->log;
	struct job *j = job_of(req);
	int ret = log && !j->logged ? nbd_log_reserve(log, req) : 0;

	ch->full = ret < 0;
	if (ret > 0)
		j->logged = true;
	return ret >= 0;
}

static void send_waiting(struct nbd_channel *ch)
{
	while (ch->h && ch->waiting && ch->n_sent < MAX_SENT && !is_over(ch)) {
		struct block_req *req = ch->waiting;
		struct job *j = job_of(req);

		if (is_rw(req) && req->iovcnt > 1 && !j->bounce) {
			if (!ch->n_bounces)
				return;
			j->bounce = ch->bounces[--ch->n_bounces];
		}
		if (!has_room(ch, req)) {
			if (!ch->flush_error)
				return;
			wait_take(ch);
			over(ch, req, -ch->flush_error);
			ch->flush_error = 0;
			continue;
		}
		wait_take(ch);
		sent_add(ch, req);
		/* Refused by a connection that has just died: it stays on the list, to be sent again. */
		if (issue(ch, req) < 0 && !is_over(ch))
			answered(ch, req, libnbd.nbd_get_errno() ? -libnbd.nbd_get_errno() : -EIO);
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
			lost(ch, ch->leaving ? "the server shuts down" : nbd_say());
		if (!is_outdated(ch))
			send_waiting(ch);
		else if (!ch->sent)
			renew(ch);
		flush_log(ch);
	} while (ch->answered || is_over(ch));
	if (ch->h)
		sl_watch_mod(&ch->watch, nbd_events(ch->h));
	ch->settling = false;
}

static bool has_more(const struct nbd_channel *ch)
{
	char byte;

	return recv(ch->watch.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

/* libnbd takes one answer at a time. Those that have arrived meanwhile are passed on together, with one call to the
 * guest. Not just tried for: without one, libnbd would send nothing before the next has come. */
static void read_answers(struct nbd_channel *ch)
{
	unsigned int before, left = MAX_ANSWERS;

	do {
		before = ch->n_sent;
		libnbd.nbd_aio_notify_read(ch->h);
	} while (--left && ch->n_sent && ch->n_sent < before && !is_over(ch) && (nbd_events(ch->h) & EPOLLIN) &&
		 has_more(ch));
}

static void event(void *arg, uint32_t events)
{
	struct nbd_channel *ch = arg;
	const unsigned int turn = nbd_turn(ch->h, events);

	if (turn == LIBNBD_AIO_DIRECTION_READ)
		read_answers(ch);
	else if (turn == LIBNBD_AIO_DIRECTION_WRITE)
		libnbd.nbd_aio_notify_write(ch->h);
	settle(ch);
}

/* Nobody waits for @req any longer. What else was sent on its connection has to be sent again. */
static void give_up(struct nbd_channel *ch, struct block_req *req, const char *reason)
{
	struct job *j = job_of(req);

	if (j->over)
		return;
	if (j->sent)
		lost(ch, reason);
	wait_del(ch, req);
	over(ch, req, -ETIMEDOUT);
}

void nbd_expired(struct block_channel *c, struct deadline_entry *e)
{
	struct nbd_channel *ch = (struct nbd_channel *)c;
	struct job *j = (struct job *)((char *)e - offsetof(struct job, age));
	struct block_req *req = (struct block_req *)((char *)j - offsetof(struct block_req, scratch));

	give_up(ch, req, "no answer in time");
	settle(ch);
}

/* ---- the table of operations ---- */

static int nbd_attach(struct block_channel *c, struct sl_err *err)
{
	struct nbd_channel *ch = (struct nbd_channel *)c;

	ch->bounce_memory = malloc((size_t)NUM_BOUNCES * NBD_BOUNCE_SIZE);
	if (!ch->bounce_memory)
		return sl_err_set(err, ENOMEM, "%s: out of memory", c->block->name);
	for (; ch->n_bounces < NUM_BOUNCES; ch->n_bounces++)
		ch->bounces[ch->n_bounces] = ch->bounce_memory + (size_t)ch->n_bounces * NBD_BOUNCE_SIZE;
	ch->waiting_end = &ch->waiting;
	ch->answered_end = &ch->answered;
	ch->watch.fn = event;
	ch->watch.arg = ch->timer.arg = ch;
	ch->timer.fn = begin_attempt;
	ch->pause_ms = FIRST_PAUSE_MS;
	deadline_start(&ch->age, &nbd_of(ch)->ages, c);
	begin_attempt(ch);
	return 0;
}

static void nbd_detach(struct block_channel *c)
{
	struct nbd_channel *ch = (struct nbd_channel *)c;
	struct nbd_handle *h = NULL;
	struct sl_err why;

	deadline_stop(&ch->age);
	sl_timer_clear(c->loop, &ch->timer);
	if (ch->attempt)
		nbd_attempt_end(ch->attempt, &h, &why);
	if (h)
		libnbd.nbd_close(h);
	if (ch->h) {
		libnbd.nbd_aio_disconnect(ch->h, 0); /* so that the server does not complain */
		drop_handle(ch);
	}
	free(ch->bounce_memory);
}

static void nbd_submit(struct block_channel *c, struct block_req *req)
{
	struct nbd_channel *ch = (struct nbd_channel *)c;

	if (req->op == BLOCK_FLUSH && !((struct nbd *)c->block)->flush) {
		block_finish(c, req, 0);
		return;
	}
	*job_of(req) = (struct job){0};
	deadline_add(&ch->age, &job_of(req)->age);
	wait_last(ch, req);
}

static void nbd_commit(struct block_channel *c)
{
	settle((struct nbd_channel *)c);
}

static void nbd_abandon(struct block_channel *c)
{
	struct nbd_channel *ch = (struct nbd_channel *)c;

	if (ch->sent)
		lost(ch, "its requests were given up");
	while (ch->waiting)
		give_up(ch, ch->waiting, NULL);
}

const struct block_ops nbd_ops = {
	.name = "nbd",
	.block_size = sizeof(struct nbd),
	.channel_size = sizeof(struct nbd_channel),
	.close = nbd_free,
	.attach = nbd_attach,
	.detach = nbd_detach,
	.submit = nbd_submit,
	.commit = nbd_commit,
	.refresh = nbd_refresh,
	.resize = nbd_resize,
	.abandon = nbd_abandon,
	.report = nbd_report,
};
