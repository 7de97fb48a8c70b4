/* SPDX-License-Identifier: MIT */
/* nbd.h - private to the NBD sources: nbd_open.c (keys, sizes, figures), nbd.c (requests), nbd_connect.c (libnbd, and
 * connections by it), nbd_image.c (a qemu-nbd of our own, for image formats), nbd_launch.c (how it starts) and
 * nbd_log.c (what it may lose) */
#ifndef BLOCK_NBD_H
#define BLOCK_NBD_H

#include <libnbd.h>
#include <sys/types.h>

#include "block/block.h"
#include "block/deadline.h"
#include "block/library.h"

struct nbd_image;
struct nbd_log;

#define NBD_BOUNCE_SIZE (256u << 10) /* of a buffer for requests of several stretches of memory */

/* ---- connections: nbd_connect.c ---- */

/* Every function of libnbd that is called. */
#define NBD_CALLS(X) \
	X(nbd_aio_connect_unix) X(nbd_aio_connect_uri) X(nbd_aio_disconnect) X(nbd_aio_flush) \
	X(nbd_aio_get_direction) X(nbd_aio_get_fd) X(nbd_aio_is_closed) X(nbd_aio_is_dead) X(nbd_aio_is_ready) \
	X(nbd_aio_notify_read) X(nbd_aio_notify_write) X(nbd_aio_pread) X(nbd_aio_pwrite) X(nbd_aio_trim) \
	X(nbd_aio_zero) X(nbd_can_flush) X(nbd_can_fua) X(nbd_can_multi_conn) X(nbd_can_trim) X(nbd_can_zero) \
	X(nbd_close) X(nbd_create) X(nbd_flush) X(nbd_get_block_size) X(nbd_get_errno) X(nbd_get_error) \
	X(nbd_get_size) X(nbd_is_read_only) X(nbd_pwrite) X(nbd_set_pread_initialize) \
	X(nbd_set_request_structured_replies) X(nbd_set_tls_certificates) X(nbd_set_tls_psk_file) \
	X(nbd_set_tls_username) X(nbd_set_tls_verify_peer) X(nbd_set_uri_allow_local_file) X(nbd_trim) \
	X(nbd_zero)

/** libnbd - its functions by their own names; set before the first connection is made, and constant then */
extern struct nbd_calls {
	NBD_CALLS(LIBRARY_MEMBER)
} libnbd;

/**
 * struct nbd_options - the keys of nbd: sources
 * @timeout: seconds, 0: requests wait for ever
 * @certificates, @psk, @username, @verify: TLS, see sluice-nbd(7)
 */
struct nbd_options {
	uint64_t timeout;
	const char *certificates, *psk, *username;
	bool verify;
};

/**
 * struct nbd_place - where the server is; never changed, and counted, as a look-up of a name may outlive its source
 * @name: for messages
 * @uri:  what libnbd connects to; NULL: @path
 * @path: Unix socket
 * @tls:  the connection must be encrypted
 */
struct nbd_place {
	unsigned int refs;
	char *name, *uri, *path;
	char *certificates, *psk, *username;
	bool tls, verify;
};

/** nbd_place_new() - copies of all texts; NULL with @err filled. nbd_place_put() gives it back */
struct nbd_place *nbd_place_new(const char *name, const char *uri, const char *path, const struct nbd_options *o,
				struct sl_err *err);
void nbd_place_put(struct nbd_place *at);

struct nbd_attempt;

/**
 * nbd_attempt_start() - begin to connect and negotiate, on a thread of its own
 * @limit_ms: until it gives up. The look-up of a name may take longer, but nobody has to wait for that
 * @loop: where @fn runs when it is over; NULL: nbd_attempt_wait() is called instead
 *
 * Return: the attempt, which nbd_attempt_end() gives back; NULL: no thread or no memory.
 */
struct nbd_attempt *nbd_attempt_start(struct nbd_place *at, unsigned int limit_ms, struct sl_loop *loop,
				      void (*fn)(void *arg), void *arg);
/** nbd_attempt_wait() - until it is over, for so long at most; is it? */
bool nbd_attempt_wait(struct nbd_attempt *a, unsigned int ms);
/** nbd_attempt_end() - over: 0 and a connection that is ready, or -errno and why; not over: never mind */
int nbd_attempt_end(struct nbd_attempt *a, struct nbd_handle **h, struct sl_err *why);
/** nbd_say() - what libnbd's last error on this thread was, without the name of its function */
const char *nbd_say(void);
/** nbd_events() - what to wait for, for poll() and epoll, whose bits are the same */
uint32_t nbd_events(struct nbd_handle *h);
/**
 * nbd_turn() - what libnbd is to be told when @events came: LIBNBD_AIO_DIRECTION_READ, _WRITE, or 0: nothing
 *
 * One of the two calls: the first may change what may be called next. nbd_poll() would call what may not be called
 * when a server hangs up at once.
 */
unsigned int nbd_turn(struct nbd_handle *h, uint32_t events);

/* ---- the source: nbd.c has its channels, nbd_open.c the rest ---- */

/**
 * struct nbd
 * @at:             where the server is; NULL: @image says
 * @piece, @bounce: largest piece of a read or write, with and without a bounce buffer; bytes
 * @fua, @flush:    what the server can
 * @durable:        every write is durable when the server answers
 * @log:            of @image; NULL: what was answered is not lost with the server
 * @found:          a connection found this other size; 0: none did
 * @connections, @reconnects, @losses: how many there are, were made again, were lost
 *
 * From @found on: all threads, relaxed.
 */
struct nbd {
	struct block b;
	struct nbd_place *at;
	struct nbd_image *image;
	struct nbd_log *log;
	struct deadlines ages;
	uint32_t piece, bounce;
	bool fua, flush, durable;
	uint64_t found;
	uint64_t connections, reconnects, losses;
};

/** nbd_open_at() - connect once, to learn what is there; control
 * @at:    where; NULL: @image, which belongs to the source from this call on, also when it fails
 * @name:  for messages
 * @durable: every write is durable when the server answers
 */
int nbd_open_at(const char *name, struct nbd_place *at, struct nbd_image *image, bool durable, uint64_t timeout,
		const struct block_options *o, struct block **out, struct sl_err *err);

extern const struct block_ops nbd_ops;

/** nbd_place_of() - where its server is now, for nbd_place_put(); NULL: our own qemu-nbd is being started again */
struct nbd_place *nbd_place_of(struct nbd *n);
/** nbd_expired() - for its deadlines */
void nbd_expired(struct block_channel *c, struct deadline_entry *e);
void nbd_free(struct block *b);
int nbd_refresh(struct block *b, struct sl_err *err);
int nbd_resize(struct block *b, uint64_t size, struct sl_err *err);
void nbd_report(struct block *b, const struct block_report *r);

/* ---- a qemu-nbd of our own: nbd_image.c ---- */

/** nbd_image_ended() - did qemu-nbd end instead of serving? @why: one line, its own words when it said something */
bool nbd_image_ended(struct nbd_image *image, unsigned int wait_ms, struct sl_err *why);
/** nbd_image_opened() - from now on qemu-nbd is started again when it ends; false: it has ended already */
bool nbd_image_opened(struct nbd_image *image);
/** nbd_image_place() - where it listens now, for nbd_place_put(); NULL: it is being started again. Any thread */
struct nbd_place *nbd_image_place(struct nbd_image *image);
struct nbd_log *nbd_image_log(struct nbd_image *image);
/** nbd_image_enter(), nbd_image_leave() - a channel has a connection; it has none any more, and gets no late answer */
void nbd_image_enter(struct nbd_image *image);
void nbd_image_leave(struct nbd_image *image);
/** nbd_image_resize() - end qemu-nbd, give the image another size, start qemu-nbd; control */
int nbd_image_resize(struct nbd_image *image, uint64_t size, struct sl_err *err);
void nbd_image_report(struct nbd_image *image, const struct block_report *r);
void nbd_image_close(struct nbd_image *image); /* NULL allowed; control */

/* ---- starting programs: nbd_launch.c ---- */

#define NBD_NO_PROGRAM 127 /* exit status: there is no such program */

/**
 * nbd_launch() - start argv[0], which ends with SIGTERM when this thread does
 * @listening: a socket from nbd_launch_fd() for it, or -1
 * @pidfd, @said: its pidfd, and a pipe from its standard error that does not block
 */
int nbd_launch(char **argv, int listening, pid_t *pid, int *pidfd, int *said);
/** nbd_launch_fd() - move @fd out of the way of the numbers that a child uses, whose dup2() would close it */
int nbd_launch_fd(int fd);

/* ---- what a qemu-nbd that dies takes with it: nbd_log.c ---- */

struct nbd_log *nbd_log_new(void); /* NULL: no memory */
void nbd_log_free(struct nbd_log *log); /* NULL allowed */
/**
 * nbd_log_reserve() - room for a request that is about to be sent
 *
 * Return: 1: there is; 0: it needs none, and is sent with FUA if it writes; -1: not now, after the next flush.
 */
int nbd_log_reserve(struct nbd_log *log, const struct block_req *req);
/** nbd_log_release() - it was not written */
void nbd_log_release(struct nbd_log *log, const struct block_req *req);
/** nbd_log_add() - it was written, and its memory still holds what */
void nbd_log_add(struct nbd_log *log, const struct block_req *req);
/** nbd_log_mark() - everything written by now; for a flush that is about to be sent */
uint64_t nbd_log_mark(struct nbd_log *log);
/** nbd_log_flushed() - the flush is done */
void nbd_log_flushed(struct nbd_log *log, uint64_t mark);
/** nbd_log_half() - is it time for a flush of our own? */
bool nbd_log_half(const struct nbd_log *log);
/** nbd_log_replay() - write everything again, in order; nobody adds meanwhile; 0 or -errno with @err filled */
int nbd_log_replay(struct nbd_log *log, struct nbd_handle *h, struct sl_err *err);

#endif
