/* SPDX-License-Identifier: MIT */
/* nbd_image.c - images of other formats, served to us by a qemu-nbd of our own.
 *
 * Each image has a thread, its keeper, which starts qemu-nbd, reads what it
 * says, and starts it again when it dies. qemu-nbd gets a listening socket the
 * way systemd hands one over. The kernel sends it SIGTERM when the keeper is
 * gone, also after kill -9. It opens the image with its own lock.
 *
 * Nothing is on disk: the socket has a name only while it is made. It is
 * reached through a descriptor that stands for that name, so nobody else can
 * connect to it. Each start has a socket of its own, which is where the keeper
 * writes again what the last qemu-nbd took with it (nbd_log.c) before it tells
 * anybody the place.
 *
 * To resize, the keeper ends qemu-nbd, which holds the image's lock, runs
 * qemu-img and starts qemu-nbd again. For the channels that is a server that
 * went away.
 */
#include "block/nbd_image.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <sluice/log.h>

#include "base/thread.h"
#include "block/nbd.h"

#define CONNECT_MS 10000u
#define CLOSE_MS 30000u	      /* qemu-nbd writes back what it holds; then SIGKILL */
#define KILL_MS 2000u	      /* a process that survives SIGKILL hangs in the kernel */
#define LOCK_MS 5000u	      /* for the qemu-nbd of a sluice that was killed to write back and let go of the image */
#define RESIZE_MS 60000u      /* qemu-img */
#define FIRST_PAUSE_MS 100u   /* before qemu-nbd is started again; doubles up to */
#define LAST_PAUSE_MS 5000u
#define GOOD_MS 1000u	      /* one that ran for so long may be started again soon */
#define MAX_ARGS 12
#define MS 1000000u

/**
 * struct program - a process of ours
 * @pid:  0: none. Changes with the image's lock held
 * @fd:   pidfd
 * @said: pipe from its standard error, -1 when it has none any more
 * @line: what it said and did not end with a newline yet, @n_line characters
 * @first: its first whole line
 */
struct program {
	pid_t pid;
	int fd, said;
	char line[384], first[384];
	size_t n_line;
};

/**
 * struct nbd_image
 * @refs:     the keeper and the source
 * @argv:     of qemu-nbd
 * @wake:     an eventfd: somebody wants something from the keeper
 * @name:     stands for the socket's, an O_PATH descriptor
 *
 * Keeper only:
 * @nbd:      the qemu-nbd
 * @died:     the last one did not end in good order: what it had answered has to be written again
 * @pause_ms: before the next start
 *
 * @lock guards, and @changed tells of:
 * @place:    where qemu-nbd listens, NULL: nowhere now
 * @users:    channels that may still get answers of the last qemu-nbd
 * @opened:   it is used: start it again when it ends
 * @failed:   it ended before that, for the reason @why
 * @closing:  end it for good
 * @over:     the keeper has left
 * @resize_to: bytes; 0: nobody wants that. The keeper answers with @resized, @resize_ret and @why
 * @restarts: how often qemu-nbd was started again
 */
struct nbd_image {
	unsigned int refs;
	char path[4096], format[16], cache[32], discard[32];
	char *argv[MAX_ARGS];
	int wake, name;
	struct program nbd;
	bool died;
	unsigned int pause_ms;
	struct nbd_log *log;
	struct sl_log_limit limit;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct nbd_place *place;
	unsigned int users;
	bool opened, failed, closing, over, resized;
	uint64_t resize_to, restarts;
	int resize_ret;
	struct sl_err why;
};

static bool is_set(struct nbd_image *image, const bool *what)
{
	bool set;

	pthread_mutex_lock(&image->lock);
	set = *what;
	pthread_mutex_unlock(&image->lock);
	return set;
}

/* ---- what a program says, and how it ended ---- */

/* Once an image is in use, what its qemu-nbd says goes to the log; before, it is why the open fails. */
static bool is_passed_on(struct nbd_image *image, const struct program *p)
{
	return p == &image->nbd && is_set(image, &image->opened);
}

static void line_said(struct nbd_image *image, struct program *p)
{
	const char *line = p->line;

	p->line[p->n_line] = '\0';
	p->n_line = 0;
	if (!strncmp(line, "qemu-nbd: ", 10) || !strncmp(line, "qemu-img: ", 10))
		line += 10;
	if (!p->first[0])
		snprintf(p->first, sizeof(p->first), "%s", line);
	/* About its own connections, which we end as we like, it need not tell us. */
	if (is_passed_on(image, p) && !strstr(line, "socket"))
		sl_log_limited(&image->limit, SL_LOG_WARN, "%s: qemu-nbd says: %s", image->path, line);
}

/* A line that is too long is cut, and what is no text is not shown as such. */
static void hear(struct nbd_image *image, struct program *p)
{
	unsigned char text[1024];
	ssize_t n;

	while (p->said >= 0 && (n = read(p->said, text, sizeof(text))) != 0) {
		if (n < 0)
			return;
		for (ssize_t i = 0; i < n; i++) {
			if (text[i] == '\n')
				line_said(image, p);
			else if (p->n_line < sizeof(p->line) - 1)
				p->line[p->n_line++] = (char)(text[i] < ' ' || text[i] == 127 ? '?' : text[i]);
		}
	}
	if (p->said >= 0) {
		close(p->said);
		p->said = -1;
	}
}

/* Until the program ends (true), somebody wakes the keeper up (when @wake), or the time is over. */
static bool wait_program(struct nbd_image *image, struct program *p, unsigned int ms, bool wake)
{
	const uint64_t until = sl_now() + (uint64_t)ms * MS;

	for (;;) {
		struct pollfd fds[3] = {{.fd = p->fd, .events = POLLIN},
					{.fd = p->said, .events = POLLIN},
					{.fd = wake ? image->wake : -1, .events = POLLIN}};
		uint64_t now = sl_now(), n;

		if (now > until && ms)
			return false;
		if (poll(fds, 3, ms ? (int)((until - now) / MS) + 1 : -1) < 0 && errno != EINTR)
			return false;
		if (fds[1].revents)
			hear(image, p);
		if (fds[0].revents)
			return true;
		if (fds[2].revents) {
			if (read(image->wake, &n, sizeof(n)) < 0) {
				/* Woken up already. */
			}
			return false;
		}
	}
}

/* Take leave of a program: @why it ended, if it did so by itself. Return: did it end well? */
static bool bury(struct nbd_image *image, struct program *p, struct sl_err *why)
{
	const bool passed_on = is_passed_on(image, p);
	siginfo_t info = {0};

	hear(image, p);
	if (p->n_line)
		line_said(image, p);
	pthread_mutex_lock(&image->lock);
	if (waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG) || !info.si_pid)
		sl_log(SL_LOG_ERROR, "%s: process %d does not end, not even by SIGKILL", image->path, (int)p->pid);
	p->pid = 0;
	pthread_mutex_unlock(&image->lock);
	if (info.si_code == CLD_EXITED && info.si_status == NBD_NO_PROGRAM && !p->first[0])
		sl_err_set(why, EIO, "needs the programs qemu-nbd and qemu-img (package qemu-utils)");
	else if (p->first[0] && info.si_code == CLD_EXITED && !passed_on)
		sl_err_set(why, EIO, "%s", p->first);
	else
		sl_err_set(why, EIO, "ended with %s %d", info.si_code == CLD_EXITED ? "status" : "signal",
			   info.si_status);
	if (p->said >= 0)
		close(p->said);
	close(p->fd);
	p->said = p->fd = -1;
	p->n_line = 0;
	p->first[0] = '\0';
	return info.si_pid && info.si_code == CLD_EXITED && !info.si_status;
}

/* In bounded time, whatever it does. */
static void end_nbd(struct nbd_image *image, struct sl_err *why)
{
	struct program *p = &image->nbd;

	if (!p->pid)
		return;
	kill(p->pid, SIGTERM);
	if (!wait_program(image, p, CLOSE_MS, false)) {
		kill(p->pid, SIGKILL);
		wait_program(image, p, KILL_MS, false);
	}
	image->died |= !bury(image, p, why);
}

/* ---- starting one ---- */

static int launch(struct nbd_image *image, struct program *p, char **argv, int listening)
{
	pid_t pid;
	int ret = nbd_launch(argv, listening, &pid, &p->fd, &p->said);

	if (ret) {
		p->fd = p->said = -1;
		return ret;
	}
	pthread_mutex_lock(&image->lock);
	p->pid = pid;
	pthread_mutex_unlock(&image->lock);
	return 0;
}

/* A socket whose name is gone when this returns; image->name stands for it. */
static int listen_privately(struct nbd_image *image)
{
	const char *tmp = getenv("TMPDIR");
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	char folder[80];
	int fd, ret = 0;

	if (snprintf(folder, sizeof(folder), "%s/sluice-nbd.XXXXXX", tmp ? tmp : "/tmp") >= (int)sizeof(folder))
		return -ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || !mkdtemp(folder)) {
		ret = -errno;
		goto out;
	}
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/socket", folder);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 64) < 0)
		ret = -errno;
	if (!ret && (image->name = open(addr.sun_path, O_PATH | O_CLOEXEC)) < 0)
		ret = -errno;
	unlink(addr.sun_path);
	rmdir(folder);
out:
	if (ret && fd >= 0)
		close(fd);
	return ret ? ret : nbd_launch_fd(fd);
}

static int start_nbd(struct nbd_image *image, struct sl_err *why)
{
	const char *tmp = getenv("TMPDIR");
	int fd = listen_privately(image), ret;

	if (fd < 0)
		return sl_err_set(why, -fd, "%s: no socket for qemu-nbd can be made there: %s", tmp ? tmp : "/tmp",
				  strerror(-fd));
	ret = launch(image, &image->nbd, image->argv, fd);
	close(fd);
	return ret ? sl_err_set(why, -ret, "cannot start qemu-nbd: %s", strerror(-ret)) : 0;
}

/* ---- the keeper ---- */

static struct nbd_place *make_place(struct nbd_image *image, struct sl_err *err)
{
	const struct nbd_options none = {0};
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", image->name);
	return nbd_place_new(image->path, NULL, path, &none, err);
}

static void publish(struct nbd_image *image, struct nbd_place *at)
{
	pthread_mutex_lock(&image->lock);
	if (image->place)
		nbd_place_put(image->place);
	image->place = at;
	pthread_cond_broadcast(&image->changed);
	pthread_mutex_unlock(&image->lock);
}

/* Answers that the last qemu-nbd has left in a socket would come too late for the log. */
static bool nobody_listens(struct nbd_image *image)
{
	bool nobody;

	pthread_mutex_lock(&image->lock);
	nobody = !image->users;
	pthread_mutex_unlock(&image->lock);
	return nobody;
}

/* Give a new qemu-nbd what the last one took with it. */
static int recover(struct nbd_image *image, struct nbd_place *at, struct sl_err *err)
{
	const uint64_t until = sl_now() + (uint64_t)CONNECT_MS * MS;
	struct nbd_attempt *a = nbd_attempt_start(at, CONNECT_MS, NULL, NULL, NULL);
	struct nbd_handle *h = NULL;
	int ret;

	if (!a)
		return sl_err_set(err, EAGAIN, "no thread to connect");
	while (!(nbd_attempt_wait(a, 10) && nobody_listens(image)) && sl_now() < until &&
	       !is_set(image, &image->closing))
		if (wait_program(image, &image->nbd, 1, false))
			break;
	ret = nbd_attempt_end(a, &h, err);
	if (!ret && !nobody_listens(image))
		ret = sl_err_set(err, EBUSY, "a connection to the last one is not given up");
	if (!ret) {
		ret = nbd_log_replay(image->log, h, err);
	}
	if (h) {
		libnbd.nbd_aio_disconnect(h, 0);
		libnbd.nbd_close(h);
	}
	image->died = ret != 0;
	return ret;
}

/* qemu-nbd runs and has what it needs: 0, or -errno with @why. */
static int begin(struct nbd_image *image, struct sl_err *why)
{
	struct nbd_place *at;
	int ret = start_nbd(image, why);

	if (ret)
		return ret;
	at = make_place(image, why);
	if (!at)
		return -ENOMEM;
	ret = image->died ? recover(image, at, why) : 0;
	if (ret)
		nbd_place_put(at);
	else
		publish(image, at);
	return ret;
}

static void close_name(struct nbd_image *image)
{
	if (image->name >= 0)
		close(image->name);
	image->name = -1;
}

/* Tell who waits for the open that there will be none, and wait with them for the end. */
static void fail(struct nbd_image *image, const struct sl_err *why)
{
	pthread_mutex_lock(&image->lock);
	image->failed = true;
	image->why = *why;
	pthread_cond_broadcast(&image->changed);
	while (!image->closing)
		pthread_cond_wait(&image->changed, &image->lock);
	pthread_mutex_unlock(&image->lock);
}

static int run_qemu_img(struct nbd_image *image, uint64_t size, struct sl_err *err)
{
	char program[] = "qemu-img", resize[] = "resize", quiet[] = "-q", f[] = "-f", end[] = "--", bytes[24];
	char *argv[] = {program, resize, quiet, f, image->format, end, image->path, bytes, NULL};
	struct program img = {.fd = -1, .said = -1};
	int ret;

	snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)size);
	ret = launch(image, &img, argv, -1);
	if (ret)
		return sl_err_set(err, -ret, "cannot start qemu-img: %s", strerror(-ret));
	if (!wait_program(image, &img, RESIZE_MS, false))
		kill(img.pid, SIGKILL);
	wait_program(image, &img, KILL_MS, false);
	if (bury(image, &img, err)) {
		err->text[0] = '\0';
		return 0;
	}
	return -EIO;
}

static uint64_t wished_size(struct nbd_image *image)
{
	uint64_t size;

	pthread_mutex_lock(&image->lock);
	size = image->resize_to;
	pthread_mutex_unlock(&image->lock);
	return size;
}

/* While no qemu-nbd has the image. */
static void grant_wish(struct nbd_image *image)
{
	struct sl_err err = {0};
	int ret = run_qemu_img(image, wished_size(image), &err);

	pthread_mutex_lock(&image->lock);
	image->resize_to = 0;
	image->resize_ret = ret;
	image->why = err;
	pthread_mutex_unlock(&image->lock);
}

/* qemu-nbd has been started since the wish was granted, with success or without. */
static void wish_is_over(struct nbd_image *image)
{
	pthread_mutex_lock(&image->lock);
	image->resized = !image->resize_to;
	pthread_cond_broadcast(&image->changed);
	pthread_mutex_unlock(&image->lock);
}

/* What ended without being asked: one line, and a pause that grows while it goes on like that. */
static void pause_before_next(struct nbd_image *image, const struct sl_err *why)
{
	struct program nobody = {.fd = -1, .said = -1};

	sl_log_limited(&image->limit, SL_LOG_ERROR, "%s: qemu-nbd is gone: %s; it is started again", image->path,
		       why->text);
	wait_program(image, &nobody, image->pause_ms, true);
	image->pause_ms = 2 * image->pause_ms < LAST_PAUSE_MS ? 2 * image->pause_ms : LAST_PAUSE_MS;
	pthread_mutex_lock(&image->lock);
	image->restarts++;
	pthread_mutex_unlock(&image->lock);
}

static void put(struct nbd_image *image);

static void *keeper_main(void *arg)
{
	struct nbd_image *image = arg;
	struct sl_err why, asked;

	while (!is_set(image, &image->closing)) {
		const uint64_t start = sl_now();
		bool ended;
		int ret;

		if (wished_size(image))
			grant_wish(image);
		ret = begin(image, &why);
		wish_is_over(image);
		ended = wait_program(image, &image->nbd, ret ? 1 : 0, true);
		publish(image, NULL);
		end_nbd(image, ended ? &why : &asked);
		close_name(image);
		if (!is_set(image, &image->opened)) {
			fail(image, &why);
			break;
		}
		if (sl_now() - start > (uint64_t)GOOD_MS * MS)
			image->pause_ms = FIRST_PAUSE_MS;
		if ((ended || ret) && !is_set(image, &image->closing) && !wished_size(image))
			pause_before_next(image, &why);
	}
	pthread_mutex_lock(&image->lock);
	image->over = true;
	pthread_cond_broadcast(&image->changed);
	pthread_mutex_unlock(&image->lock);
	put(image);
	return NULL;
}

/* ---- what others want from it ---- */

static void put(struct nbd_image *image)
{
	if (__atomic_sub_fetch(&image->refs, 1, __ATOMIC_ACQ_REL))
		return;
	nbd_log_free(image->log);
	if (image->wake >= 0)
		close(image->wake);
	pthread_cond_destroy(&image->changed);
	pthread_mutex_destroy(&image->lock);
	free(image);
}

/* With the lock held. */
static void wake(struct nbd_image *image)
{
	uint64_t one = 1;

	if (write(image->wake, &one, sizeof(one)) < 0) {
		/* It is awake. */
	}
	pthread_cond_broadcast(&image->changed);
}

/* With the lock held: until *@what or the time is over. */
static bool await(struct nbd_image *image, const bool *what, unsigned int ms)
{
	const uint64_t until = sl_now() + (uint64_t)ms * MS;
	const struct timespec t = {.tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u)};

	while (!*what && !pthread_cond_timedwait(&image->changed, &image->lock, &t))
		;
	return *what;
}

bool nbd_image_ended(struct nbd_image *image, unsigned int wait_ms, struct sl_err *why)
{
	bool failed;

	pthread_mutex_lock(&image->lock);
	failed = await(image, &image->failed, wait_ms);
	if (failed)
		*why = image->why;
	pthread_mutex_unlock(&image->lock);
	return failed;
}

bool nbd_image_opened(struct nbd_image *image)
{
	bool opened;

	pthread_mutex_lock(&image->lock);
	opened = image->opened = !image->failed;
	pthread_mutex_unlock(&image->lock);
	return opened;
}

struct nbd_place *nbd_image_place(struct nbd_image *image)
{
	struct nbd_place *at;

	pthread_mutex_lock(&image->lock);
	at = image->place;
	if (at)
		__atomic_add_fetch(&at->refs, 1, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&image->lock);
	return at;
}

struct nbd_log *nbd_image_log(struct nbd_image *image)
{
	return image->log;
}

void nbd_image_enter(struct nbd_image *image)
{
	pthread_mutex_lock(&image->lock);
	image->users++;
	pthread_mutex_unlock(&image->lock);
}

void nbd_image_leave(struct nbd_image *image)
{
	pthread_mutex_lock(&image->lock);
	image->users--;
	pthread_mutex_unlock(&image->lock);
}

int nbd_image_resize(struct nbd_image *image, uint64_t size, struct sl_err *err)
{
	bool done;
	int ret;

	pthread_mutex_lock(&image->lock);
	image->resized = false;
	image->resize_to = size;
	wake(image);
	done = await(image, &image->resized, CLOSE_MS + RESIZE_MS + CONNECT_MS);
	ret = done ? image->resize_ret : -ETIMEDOUT;
	if (ret)
		sl_err_set(err, -ret, "%s: %s", image->path, done ? image->why.text : "qemu-nbd does not end");
	pthread_mutex_unlock(&image->lock);
	return ret;
}

void nbd_image_report(struct nbd_image *image, const struct block_report *r)
{
	pthread_mutex_lock(&image->lock);
	r->number(r->arg, "nbd.server-restarts", image->restarts);
	pthread_mutex_unlock(&image->lock);
}

void nbd_image_close(struct nbd_image *image)
{
	if (!image)
		return;
	pthread_mutex_lock(&image->lock);
	image->closing = true;
	wake(image);
	if (!await(image, &image->over, CLOSE_MS + KILL_MS)) {
		/* The keeper itself waits for qemu-nbd. */
		if (image->nbd.pid)
			kill(image->nbd.pid, SIGKILL);
		await(image, &image->over, 2 * KILL_MS);
	}
	pthread_mutex_unlock(&image->lock);
	put(image);
}

/* ---- opening ---- */

static void set_arguments(struct nbd_image *image, const char *format, const char *cache,
			  const struct block_options *o)
{
	static char program[] = "qemu-nbd", persistent[] = "--persistent", shared[] = "--shared=0", f[] = "-f",
		    read_only[] = "--read-only", end[] = "--";
	char *args[] = {program, persistent, shared, image->cache, image->discard, f, image->format};
	unsigned int n = sizeof(args) / sizeof(args[0]);

	snprintf(image->format, sizeof(image->format), "%s", format);
	snprintf(image->cache, sizeof(image->cache), "--cache=%s", cache);
	snprintf(image->discard, sizeof(image->discard), "--discard=%s", o->discard ? "unmap" : "ignore");
	memcpy(image->argv, args, sizeof(args));
	if (o->read_only)
		image->argv[n++] = read_only;
	image->argv[n++] = end;
	image->argv[n] = image->path;
}

static struct nbd_image *new_image(void)
{
	struct nbd_image *image = calloc(1, sizeof(*image));
	pthread_condattr_t attr;

	if (!image)
		return NULL;
	*image = (struct nbd_image){.refs = 1, .pause_ms = FIRST_PAUSE_MS, .name = -1, .nbd = {.fd = -1, .said = -1}};
	pthread_mutex_init(&image->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&image->changed, &attr);
	pthread_condattr_destroy(&attr);
	image->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	image->log = nbd_log_new();
	if (image->wake >= 0 && image->log)
		return image;
	put(image);
	return NULL;
}

static int open_once(const char *path, const char *format, const char *cache, const struct block_options *o,
		     uint64_t timeout, struct block **out, struct sl_err *err)
{
	struct nbd_image *image = new_image();

	if (!image)
		return sl_err_set(err, ENOMEM, "%s: out of memory", path);
	if (snprintf(image->path, sizeof(image->path), "%s", path) >= (int)sizeof(image->path)) {
		put(image);
		return sl_err_set(err, ENAMETOOLONG, "%.80s...: the path is too long", path);
	}
	set_arguments(image, format, cache, o);
	image->refs++;
	if (thread_start(NULL, keeper_main, image)) {
		image->refs--;
		put(image);
		return sl_err_set(err, EAGAIN, "%s: cannot start a thread", path);
	}
	pthread_mutex_lock(&image->lock);
	while (!image->place && !image->failed)
		pthread_cond_wait(&image->changed, &image->lock);
	pthread_mutex_unlock(&image->lock);
	return nbd_open_at(path, NULL, image, !strcmp(cache, "writethrough"), timeout, o, out, err);
}

int nbd_image_open(const char *path, const char *format, const char *cache, const struct block_options *o,
		   struct spec *s, struct block **out, struct sl_err *err)
{
	const struct timespec pause = {.tv_nsec = (long)FIRST_PAUSE_MS * MS};
	const uint64_t until = sl_now() + (uint64_t)LOCK_MS * MS;
	struct nbd_options no = {0};
	int ret = opts_apply(&nbd_options_table, s, &no, err);

	if (!ret && (no.certificates || no.psk || no.username))
		ret = sl_err_set(err, EINVAL, "%s: TLS is for servers, not for images", path);
	if (ret)
		return ret;
	for (;;) {
		const bool last = sl_now() >= until;

		ret = open_once(path, format, cache, o, no.timeout, out, err);
		if (!ret || last || !strstr(err->text, "\" lock"))
			return ret;
		nanosleep(&pause, NULL);
		err->text[0] = '\0';
	}
}
