/* SPDX-License-Identifier: MIT */
/* nbd_connect.c - connections to NBD servers, made on threads of their own.
 *
 * To connect is to look up a name, to shake hands, to read certificates: all
 * of that may block or compute for long, and none of it belongs on a loop that
 * serves other disks. So each attempt has a thread, which ends when the
 * connection is ready for requests or the time is over, and hands it to its
 * loop. The thread belongs to nobody: who does not want to wait any longer
 * turns away, and the last of the two cleans up.
 *
 * Whom we talk to. libnbd 1.14 checks a server's certificate only when it
 * comes with a host's name and against a CA it was given: without a file
 * ca-cert.pem it quietly takes any certificate (CVE-2024-7383), and over a
 * Unix socket it never looks. Both are refused here, unless verify is off. A
 * key that both sides share (PSK) proves both sides wherever they are.
 */
#include "base/thread.h"
#include "block/nbd.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000u

/* A host that is gone without a word (no power, no cable) is noticed within these seconds. */
#define ALIVE_IDLE 10
#define ALIVE_PAUSE 5
#define ALIVE_TRIES 4
#define UNACKED_MS 30000

struct nbd_calls libnbd;

static int load(struct sl_err *why)
{
	static const char *const names[] = {NBD_CALLS(LIBRARY_NAME)};
	static struct library library = {"libnbd.so.0", names, &libnbd, sizeof(names) / sizeof(names[0]), false};
	struct sl_err said;

	return library_load(&library, &said) ?
		       sl_err_set(why, ENOTSUP, "needs libnbd (package libnbd0): %s", said.text) : 0;
}

/* ---- places ---- */

static bool copy(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return !from || *to;
}

struct nbd_place *nbd_place_new(const char *name, const char *uri, const char *path, const struct nbd_options *o,
				struct sl_err *err)
{
	struct nbd_place *at = calloc(1, sizeof(*at));

	if (at) {
		at->refs = 1;
		at->tls = uri && !strncmp(uri, "nbds", 4);
		at->verify = o->verify;
		if (copy(&at->name, name) && copy(&at->uri, uri) && copy(&at->path, path) &&
		    copy(&at->certificates, o->certificates) && copy(&at->psk, o->psk) &&
		    copy(&at->username, o->username))
			return at;
		nbd_place_put(at);
	}
	sl_err_set(err, ENOMEM, "%s: out of memory", name);
	return NULL;
}

void nbd_place_put(struct nbd_place *at)
{
	if (__atomic_sub_fetch(&at->refs, 1, __ATOMIC_ACQ_REL))
		return;
	free(at->name);
	free(at->uri);
	free(at->path);
	free(at->certificates);
	free(at->psk);
	free(at->username);
	free(at);
}

/* ---- one connection ---- */

const char *nbd_say(void)
{
	const char *text = libnbd.nbd_get_error(), *colon;

	if (!text || !*text)
		return "the server ended the connection";
	colon = strstr(text, ": ");
	return !strncmp(text, "nbd_", 4) && colon ? colon + 2 : text;
}

/* libnbd's words, where a person needs others. */
static int say_why(const struct nbd_place *at, struct sl_err *why)
{
	const char *said = nbd_say();
	int code = libnbd.nbd_get_errno() > 0 ? libnbd.nbd_get_errno() : EIO;

	if (at->tls && strstr(said, "certificate verification"))
		return sl_err_set(why, EIO, "the server's certificate is not to be trusted: signed by another CA, for "
				  "another name, or expired");
	if (at->tls && strstr(said, "server refused TLS"))
		return sl_err_set(why, EIO, "the server has no TLS");
	if (!at->tls && strstr(said, "requires TLS"))
		return sl_err_set(why, EIO, "the server wants TLS: write nbds");
	return sl_err_set(why, code, "%s", said);
}

static int set_tls(struct nbd_handle *h, const struct nbd_place *at, struct sl_err *why)
{
	const char *username = at->username;
	char ca[4096], names[4096];
	struct passwd user, *found = NULL;

	if (!at->tls)
		return 0;
	/* libnbd would ask who has logged in, which is nobody where a service runs. */
	if (at->psk && !username && !getpwuid_r(geteuid(), &user, names, sizeof(names), &found) && found)
		username = found->pw_name;
	if (username && libnbd.nbd_set_tls_username(h, username))
		return say_why(at, why);
	if (at->psk)
		return libnbd.nbd_set_tls_psk_file(h, at->psk) ? say_why(at, why) : 0;
	/* Looked at each time: without it libnbd would trust whom it meets. */
	errno = ENAMETOOLONG;
	if (snprintf(ca, sizeof(ca), "%s/ca-cert.pem", at->certificates) >= (int)sizeof(ca) || access(ca, R_OK))
		return sl_err_set(why, errno, "tls-certificates=%s: cannot read ca-cert.pem in it: %s",
				  at->certificates, strerror(errno));
	if (libnbd.nbd_set_tls_certificates(h, at->certificates) || libnbd.nbd_set_tls_verify_peer(h, at->verify))
		return say_why(at, why);
	return 0;
}

uint32_t nbd_events(struct nbd_handle *h)
{
	unsigned int dir = libnbd.nbd_aio_get_direction(h);

	return (dir & LIBNBD_AIO_DIRECTION_READ ? EPOLLIN : 0) | (dir & LIBNBD_AIO_DIRECTION_WRITE ? EPOLLOUT : 0);
}

unsigned int nbd_turn(struct nbd_handle *h, uint32_t events)
{
	const uint32_t wanted = nbd_events(h), bad = EPOLLERR | EPOLLHUP;

	return (wanted & EPOLLIN) && (events & (EPOLLIN | bad))   ? LIBNBD_AIO_DIRECTION_READ :
	       (wanted & EPOLLOUT) && (events & (EPOLLOUT | bad)) ? LIBNBD_AIO_DIRECTION_WRITE :
								    0;
}

static int notify(struct nbd_handle *h, uint32_t events)
{
	const unsigned int turn = nbd_turn(h, events);

	return turn == LIBNBD_AIO_DIRECTION_READ  ? libnbd.nbd_aio_notify_read(h) :
	       turn == LIBNBD_AIO_DIRECTION_WRITE ? libnbd.nbd_aio_notify_write(h) :
						    0;
}

static int wait_ready(struct nbd_handle *h, const struct nbd_place *at, unsigned int limit_ms, int cancel,
		      struct sl_err *why)
{
	uint64_t until = sl_now() + (uint64_t)limit_ms * MS;

	while (!libnbd.nbd_aio_is_ready(h)) {
		struct pollfd p[2] = {{.fd = libnbd.nbd_aio_get_fd(h), .events = (short)nbd_events(h)},
				      {.fd = cancel, .events = POLLIN}};
		uint64_t now = sl_now();

		if (libnbd.nbd_aio_is_dead(h) || libnbd.nbd_aio_is_closed(h))
			return say_why(at, why);
		if (now >= until)
			return sl_err_set(why, ETIMEDOUT, "no answer within %u s", (limit_ms + 999) / 1000);
		if (poll(p, 2, (int)((until - now) / MS) + 1) < 0 && errno != EINTR)
			return sl_err_set(why, errno, "%s", strerror(errno));
		if (p[1].revents)
			return sl_err_set(why, ECANCELED, "given up");
		if (p[0].revents && notify(h, (uint32_t)p[0].revents) < 0)
			return say_why(at, why);
	}
	return 0;
}

/* A server that is there and slow may take its time; a host that is not there is told apart by its silence. */
static void watch_host(int fd)
{
	const int on = 1, idle = ALIVE_IDLE, pause = ALIVE_PAUSE, tries = ALIVE_TRIES, unacked = UNACKED_MS;
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);

	if (getsockname(fd, (struct sockaddr *)&a, &len) || (a.ss_family != AF_INET && a.ss_family != AF_INET6))
		return;
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &pause, sizeof(pause));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof(tries));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacked, sizeof(unacked));
}

static bool is_local(const struct nbd_place *at)
{
	return !at->uri || !strncmp(at->uri, "nbd+unix:", 9) || !strncmp(at->uri, "nbds+unix:", 10);
}

static int make(const struct nbd_place *at, unsigned int limit_ms, int cancel, struct nbd_handle **out,
		struct sl_err *why)
{
	int ret = load(why);
	struct nbd_handle *h;

	if (ret)
		return ret;
	h = libnbd.nbd_create();
	if (!h)
		return say_why(at, why);
	libnbd.nbd_set_pread_initialize(h, false); /* what is not read is not looked at */
	/* Structured replies leave out what is zero, and take twice as many system calls: not where bytes cost nothing. */
	libnbd.nbd_set_request_structured_replies(h, !is_local(at));
	libnbd.nbd_set_uri_allow_local_file(h, true);
	ret = set_tls(h, at, why);
	if (!ret && (at->uri ? libnbd.nbd_aio_connect_uri(h, at->uri) : libnbd.nbd_aio_connect_unix(h, at->path)))
		ret = say_why(at, why);
	if (!ret)
		ret = wait_ready(h, at, limit_ms, cancel, why);
	if (ret) {
		libnbd.nbd_close(h);
		return ret;
	}
	watch_host(libnbd.nbd_aio_get_fd(h));
	*out = h;
	return 0;
}

/* ---- attempts ---- */

/**
 * struct nbd_attempt
 * @refs:   the thread, and who started it
 * @cancel: an eventfd
 * @lock:   guards @wanted, @over
 * @wanted: @done may be sent
 * @ret, @h, @why: the outcome, once @over
 */
struct nbd_attempt {
	unsigned int refs;
	struct nbd_place *at;
	unsigned int limit_ms;
	int cancel;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool wanted, over;
	struct sl_loop *loop;
	struct sl_task done;
	int ret;
	struct nbd_handle *h;
	struct sl_err why;
};

static void put(struct nbd_attempt *a)
{
	if (__atomic_sub_fetch(&a->refs, 1, __ATOMIC_ACQ_REL))
		return;
	if (a->h)
		libnbd.nbd_close(a->h);
	if (a->cancel >= 0)
		close(a->cancel);
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->lock);
	nbd_place_put(a->at);
	free(a);
}

static void *attempt_main(void *arg)
{
	struct nbd_attempt *a = arg;

	a->ret = make(a->at, a->limit_ms, a->cancel, &a->h, &a->why);
	pthread_mutex_lock(&a->lock);
	a->over = true;
	if (a->wanted && a->loop)
		sl_task_send(a->loop, &a->done);
	pthread_cond_signal(&a->changed);
	pthread_mutex_unlock(&a->lock);
	put(a);
	return NULL;
}

struct nbd_attempt *nbd_attempt_start(struct nbd_place *at, unsigned int limit_ms, struct sl_loop *loop,
				      void (*fn)(void *arg), void *arg)
{
	struct nbd_attempt *a = calloc(1, sizeof(*a));
	pthread_condattr_t attr;

	if (!a)
		return NULL;
	__atomic_add_fetch(&at->refs, 1, __ATOMIC_RELAXED);
	*a = (struct nbd_attempt){.refs = 2, .at = at, .limit_ms = limit_ms, .wanted = true, .loop = loop,
				  .done = {.fn = fn, .arg = arg}};
	pthread_mutex_init(&a->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&a->changed, &attr);
	pthread_condattr_destroy(&attr);
	a->cancel = eventfd(0, EFD_CLOEXEC);
	if (a->cancel >= 0 && !thread_start(NULL, attempt_main, a))
		return a;
	a->refs = 1;
	put(a);
	return NULL;
}

bool nbd_attempt_wait(struct nbd_attempt *a, unsigned int ms)
{
	uint64_t until = sl_now() + (uint64_t)ms * MS;
	const struct timespec t = {.tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u)};
	bool over;

	pthread_mutex_lock(&a->lock);
	while (!a->over && !pthread_cond_timedwait(&a->changed, &a->lock, &t))
		;
	over = a->over;
	pthread_mutex_unlock(&a->lock);
	return over;
}

int nbd_attempt_end(struct nbd_attempt *a, struct nbd_handle **h, struct sl_err *why)
{
	uint64_t one = 1;
	int ret = -ETIMEDOUT;

	pthread_mutex_lock(&a->lock);
	a->wanted = false;
	if (a->over) {
		ret = a->ret;
		*h = a->h;
		a->h = NULL;
		*why = a->why;
	} else {
		sl_err_set(why, ETIMEDOUT, "no answer within %u s", (a->limit_ms + 999) / 1000);
	}
	pthread_mutex_unlock(&a->lock);
	if (a->loop)
		sl_task_cancel(a->loop, &a->done);
	if (write(a->cancel, &one, sizeof(one)) < 0) {
		/* It cannot fail; the attempt would end by its limit. */
	}
	put(a);
	return ret;
}
