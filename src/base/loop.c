/* SPDX-License-Identifier: MIT */
/* loop.c - the event loop.
 *
 * Theory of operation
 *
 * A turn looks at everything that can be looked at for free (tasks, timers,
 * active pollers) and only now and then, or when there is nothing else, asks
 * the kernel. A queue that is busy is an active poller with its notifications
 * off; a queue that is idle is armed and costs nothing.
 *
 * Before it sleeps a loop may spin, looking at the active pollers, for a time
 * that adapts to what spinning would have gained: when the last wait (spin and
 * sleep) was shorter than the pollers' bound, the window doubles up to that
 * bound; when it was longer, the window falls to 0. So a loop with steady work
 * polls, and a loop that idles goes to sleep at once.
 *
 * Tasks from other threads arrive on a lock-free stack. The eventfd is written
 * when the stack was empty, after the push; the loop empties the stack after
 * it read the eventfd, so a task is never left behind a sleep.
 */
#include <sluice/loop.h>

#include "base/loop_local.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_EVENTS 64	      /* descriptors handled in one turn */
#define MAX_LOCALS 8
#define TURNS_PER_LOOK 16     /* busy turns between two looks at the descriptors */
#define SPINS_PER_LOOK 64     /* the same while spinning without work */
#define FIRST_WINDOW_NS 4000u /* what the spin window grows from */
#define MS 1000000u
#define NO_LIMIT UINT64_MAX

struct local {
	const void *key;
	void *object;
	void (*drop)(void *object);
};

struct sl_loop {
	int epoll_fd, wake_fd;
	bool quit;    /* atomic */
	bool running; /* atomic: a thread is inside sl_loop_run() */
	bool coarse;  /* the kernel sleeps for whole milliseconds only */
	pthread_t thread;

	struct sl_task *remote;		   /* atomic: stack of tasks sent by other threads */
	struct sl_task *tasks, **tasks_end; /* posted by this thread */
	struct sl_task *due;		   /* those being run */
	struct sl_timer *timers;	   /* sorted by deadline */

	struct sl_poller *pollers;   /* active ones */
	struct sl_poller *poll_next; /* the one after the one being called */
	uint64_t window_ns;
	unsigned int busy_turns;

	struct epoll_event events[MAX_EVENTS];
	int n_events; /* of the batch being handled; 0 outside */

	struct sl_watch wake;
	struct local locals[MAX_LOCALS];
};

uint64_t sl_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static void woken(void *arg, uint32_t events)
{
	struct sl_loop *loop = arg;
	uint64_t n;

	(void)events;
	while (read(loop->wake_fd, &n, sizeof(n)) < 0 && errno == EINTR)
		;
}

struct sl_loop *sl_loop_new(void)
{
	struct sl_loop *loop = calloc(1, sizeof(*loop));

	if (!loop)
		return NULL;
	loop->tasks_end = &loop->tasks;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop->wake.fn = woken;
	loop->wake.arg = loop;
	if (loop->epoll_fd < 0 || loop->wake_fd < 0 || sl_watch_add(loop, &loop->wake, loop->wake_fd, EPOLLIN) < 0) {
		int saved = errno;

		if (loop->epoll_fd >= 0)
			close(loop->epoll_fd);
		if (loop->wake_fd >= 0)
			close(loop->wake_fd);
		free(loop);
		errno = saved;
		return NULL;
	}
	return loop;
}

void sl_loop_free(struct sl_loop *loop)
{
	if (!loop)
		return;
	for (unsigned int i = 0; i < MAX_LOCALS; i++)
		if (loop->locals[i].drop)
			loop->locals[i].drop(loop->locals[i].object);
	close(loop->wake_fd);
	close(loop->epoll_fd);
	free(loop);
}

void *loop_local(struct sl_loop *loop, const void *key, void *(*make)(struct sl_loop *loop, struct sl_err *err),
		 void (*drop)(void *object), struct sl_err *err)
{
	for (unsigned int i = 0; i < MAX_LOCALS; i++) {
		struct local *l = &loop->locals[i];

		if (l->key == key)
			return l->object;
		if (l->key)
			continue;
		if (!make)
			return NULL;
		l->object = make(loop, err);
		if (l->object) {
			l->key = key;
			l->drop = drop;
		}
		return l->object;
	}
	assert(!"more kinds of loop-local objects than MAX_LOCALS");
	return NULL;
}

/* ---- descriptors ---- */

int sl_watch_add(struct sl_loop *loop, struct sl_watch *w, int fd, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = w};

	if (events && epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -errno;
	w->loop = loop;
	w->fd = fd;
	w->events = events;
	return 0;
}

int sl_watch_mod(struct sl_watch *w, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = w};
	int op = !events ? EPOLL_CTL_DEL : !w->events ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

	/* A watch without events leaves the set: the kernel would still report EPOLLHUP for it. */
	if (events == w->events)
		return 0;
	if (epoll_ctl(w->loop->epoll_fd, op, w->fd, &ev) < 0)
		return -errno;
	w->events = events;
	return 0;
}

void sl_watch_del(struct sl_watch *w)
{
	struct sl_loop *loop = w->loop;

	if (!loop)
		return;
	if (w->events)
		epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	for (int i = 0; i < loop->n_events; i++)
		if (loop->events[i].data.ptr == w)
			loop->events[i].data.ptr = NULL;
	w->loop = NULL;
	w->events = 0;
}

/* Sleep until a descriptor is ready or @timeout_ns have passed; NO_LIMIT sleeps for ever. */
static int wait_for_descriptors(struct sl_loop *loop, uint64_t timeout_ns)
{
	struct timespec ts = {.tv_sec = (time_t)(timeout_ns / 1000000000), .tv_nsec = (long)(timeout_ns % 1000000000)};
	uint64_t ms = timeout_ns / MS + !!(timeout_ns % MS);
	int n;

	if (!timeout_ns || timeout_ns == NO_LIMIT)
		return epoll_wait(loop->epoll_fd, loop->events, MAX_EVENTS, timeout_ns ? -1 : 0);
	if (!loop->coarse) {
		n = epoll_pwait2(loop->epoll_fd, loop->events, MAX_EVENTS, &ts, NULL);
		if (n >= 0 || (errno != ENOSYS && errno != EPERM))
			return n;
		loop->coarse = true; /* kernels before 5.11, and seccomp profiles from those days */
	}
	return epoll_wait(loop->epoll_fd, loop->events, MAX_EVENTS, ms < INT32_MAX ? (int)ms : INT32_MAX);
}

/* Ask the kernel which descriptors are ready and handle them. */
static bool look_at_descriptors(struct sl_loop *loop, uint64_t timeout_ns)
{
	int n = wait_for_descriptors(loop, timeout_ns);

	if (n <= 0)
		return false;
	loop->n_events = n;
	for (int i = 0; i < n; i++) {
		struct sl_watch *w = loop->events[i].data.ptr;

		if (w && w->events)
			w->fn(w->arg, loop->events[i].events);
	}
	loop->n_events = 0;
	return true;
}

/* ---- timers ---- */

void sl_timer_clear(struct sl_loop *loop, struct sl_timer *t)
{
	if (!t->set)
		return;
	for (struct sl_timer **p = &loop->timers; *p; p = &(*p)->next) {
		if (*p == t) {
			*p = t->next;
			break;
		}
	}
	t->set = false;
}

void sl_timer_set(struct sl_loop *loop, struct sl_timer *t, uint64_t ns)
{
	struct sl_timer **p = &loop->timers;

	sl_timer_clear(loop, t);
	t->deadline = sl_now() + ns;
	while (*p && (*p)->deadline <= t->deadline)
		p = &(*p)->next;
	t->next = *p;
	t->set = true;
	*p = t;
}

static bool run_timers(struct sl_loop *loop)
{
	uint64_t now;
	bool work = false;

	if (!loop->timers)
		return false;
	now = sl_now();
	while (loop->timers && loop->timers->deadline <= now) {
		struct sl_timer *t = loop->timers;

		loop->timers = t->next;
		t->set = false;
		t->fn(t->arg);
		work = true;
	}
	return work;
}

/* How long the loop may sleep, in ns: the caller's limit or the next timer. */
static uint64_t sleep_limit(const struct sl_loop *loop, int timeout_ms)
{
	uint64_t limit = timeout_ms < 0 ? NO_LIMIT : (uint64_t)timeout_ms * MS;
	uint64_t now;

	if (!loop->timers || !timeout_ms)
		return limit;
	now = sl_now();
	if (loop->timers->deadline <= now)
		return 0;
	return loop->timers->deadline - now < limit ? loop->timers->deadline - now : limit;
}

/* ---- tasks ---- */

void sl_task_post(struct sl_loop *loop, struct sl_task *t)
{
	if (__atomic_exchange_n(&t->queued, true, __ATOMIC_ACQ_REL))
		return;
	t->next = NULL;
	*loop->tasks_end = t;
	loop->tasks_end = &t->next;
}

/* Move what other threads sent to the end of the own list, oldest first. */
static void take_remote(struct sl_loop *loop)
{
	struct sl_task *t, *fifo = NULL;

	if (!__atomic_load_n(&loop->remote, __ATOMIC_RELAXED))
		return;
	t = __atomic_exchange_n(&loop->remote, NULL, __ATOMIC_ACQUIRE);
	while (t) {
		struct sl_task *next = t->next;

		t->next = fifo;
		fifo = t;
		t = next;
	}
	*loop->tasks_end = fifo;
	for (; fifo; fifo = fifo->next)
		loop->tasks_end = &fifo->next;
}

static bool unlink_task(struct sl_task **p, struct sl_task *t)
{
	while (*p && *p != t)
		p = &(*p)->next;
	if (!*p)
		return false;
	*p = t->next;
	__atomic_store_n(&t->queued, false, __ATOMIC_RELEASE);
	return true;
}

void sl_task_cancel(struct sl_loop *loop, struct sl_task *t)
{
	if (!__atomic_load_n(&t->queued, __ATOMIC_ACQUIRE))
		return;
	take_remote(loop);
	if (unlink_task(&loop->due, t) || !unlink_task(&loop->tasks, t))
		return;
	loop->tasks_end = &loop->tasks;
	while (*loop->tasks_end)
		loop->tasks_end = &(*loop->tasks_end)->next;
}

static void wake(struct sl_loop *loop)
{
	uint64_t one = 1;

	while (write(loop->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void sl_task_send(struct sl_loop *loop, struct sl_task *t)
{
	struct sl_task *head;

	if (__atomic_exchange_n(&t->queued, true, __ATOMIC_ACQ_REL))
		return;
	head = __atomic_load_n(&loop->remote, __ATOMIC_RELAXED);
	do
		t->next = head;
	while (!__atomic_compare_exchange_n(&loop->remote, &head, t, true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
	if (!head)
		wake(loop);
}

/* Run the tasks that are there now; those they post wait for the next call. */
static bool run_tasks(struct sl_loop *loop)
{
	take_remote(loop);
	if (!loop->tasks)
		return false;
	loop->due = loop->tasks;
	loop->tasks = NULL;
	loop->tasks_end = &loop->tasks;
	while (loop->due) {
		struct sl_task *t = loop->due;

		loop->due = t->next;
		__atomic_store_n(&t->queued, false, __ATOMIC_RELEASE);
		t->fn(t->arg);
	}
	return true;
}

struct invocation {
	void (*fn)(void *arg);
	void *arg;
	sem_t done;
};

static void run_invocation(void *arg)
{
	struct invocation *inv = arg;

	inv->fn(inv->arg);
	sem_post(&inv->done);
}

bool sl_loop_is_here(const struct sl_loop *loop)
{
	return !__atomic_load_n(&loop->running, __ATOMIC_ACQUIRE) || pthread_equal(loop->thread, pthread_self());
}

void sl_loop_invoke(struct sl_loop *loop, void (*fn)(void *arg), void *arg)
{
	struct invocation inv = {.fn = fn, .arg = arg};
	struct sl_task task = {.fn = run_invocation, .arg = &inv};

	if (sl_loop_is_here(loop)) {
		fn(arg);
		return;
	}
	sem_init(&inv.done, 0, 0);
	sl_task_send(loop, &task);
	while (sem_wait(&inv.done) < 0)
		;
	sem_destroy(&inv.done);
}

/* ---- pollers ---- */

void sl_poller_activate(struct sl_loop *loop, struct sl_poller *p)
{
	if (p->prev)
		return;
	p->next = loop->pollers;
	p->prev = &loop->pollers;
	if (p->next)
		p->next->prev = &p->next;
	loop->pollers = p;
}

void sl_poller_deactivate(struct sl_loop *loop, struct sl_poller *p)
{
	if (!p->prev)
		return;
	if (loop->poll_next == p)
		loop->poll_next = p->next;
	*p->prev = p->next;
	if (p->next)
		p->next->prev = p->prev;
	p->prev = NULL;
}

static bool run_pollers(struct sl_loop *loop)
{
	bool work = false;

	for (struct sl_poller *p = loop->pollers; p; p = loop->poll_next) {
		loop->poll_next = p->next;
		work |= p->poll(p->arg);
	}
	return work;
}

/* Before a sleep: arm every active poller; true when one of them found work after all. */
static bool arm_pollers(struct sl_loop *loop)
{
	bool work = false;

	for (struct sl_poller *p = loop->pollers; p; p = loop->poll_next) {
		loop->poll_next = p->next;
		if (p->arm(p->arg))
			work = true;
		else
			sl_poller_deactivate(loop, p);
	}
	return work;
}

static uint64_t spin_bound_ns(const struct sl_loop *loop)
{
	uint32_t us = 0;

	for (const struct sl_poller *p = loop->pollers; p; p = p->next)
		if (p->max_us > us)
			us = p->max_us;
	return (uint64_t)us * 1000;
}

/* Look at the active pollers until one has work or @until has passed. */
static bool spin(struct sl_loop *loop, uint64_t until)
{
	for (unsigned int i = 1; loop->pollers; i++) {
		if (run_pollers(loop) || __atomic_load_n(&loop->remote, __ATOMIC_RELAXED))
			return true;
		if (i % SPINS_PER_LOOK == 0 && look_at_descriptors(loop, 0))
			return true;
		if (sl_now() >= until || (loop->timers && sl_now() >= loop->timers->deadline))
			return false;
		cpu_relax();
	}
	return false;
}

/* ---- turns ---- */

/* Nothing to do: spin a bounded time, arm, sleep. */
static bool wait_for_work(struct sl_loop *loop, int timeout_ms)
{
	uint64_t bound = timeout_ms ? spin_bound_ns(loop) : 0;
	uint64_t start = bound ? sl_now() : 0, waited;
	bool work;

	if (loop->window_ns > bound)
		loop->window_ns = bound;
	if (loop->window_ns && spin(loop, start + loop->window_ns))
		return true;
	if (arm_pollers(loop))
		return true;
	if (__atomic_load_n(&loop->remote, __ATOMIC_RELAXED) || loop->tasks)
		timeout_ms = 0;
	work = look_at_descriptors(loop, sleep_limit(loop, timeout_ms));
	if (bound) {
		waited = sl_now() - start;
		if (waited > bound)
			loop->window_ns = 0;
		else
			loop->window_ns = loop->window_ns ? 2 * loop->window_ns : FIRST_WINDOW_NS;
	}
	return work;
}

bool sl_loop_step(struct sl_loop *loop, int timeout_ms)
{
	bool work = run_tasks(loop);

	work |= run_timers(loop);
	work |= run_pollers(loop);
	if (!work) {
		work = wait_for_work(loop, timeout_ms);
	} else if (!timeout_ms || !loop->pollers || ++loop->busy_turns >= TURNS_PER_LOOK) {
		loop->busy_turns = 0;
		look_at_descriptors(loop, 0);
	}
	/* What was posted by descriptors and pollers belongs to this turn. */
	work |= run_tasks(loop);
	return work;
}

int sl_loop_run(struct sl_loop *loop)
{
	loop->thread = pthread_self();
	__atomic_store_n(&loop->running, true, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&loop->quit, __ATOMIC_ACQUIRE))
		sl_loop_step(loop, -1);
	__atomic_store_n(&loop->quit, false, __ATOMIC_RELEASE);
	__atomic_store_n(&loop->running, false, __ATOMIC_RELEASE);
	return 0;
}

void sl_loop_quit(struct sl_loop *loop)
{
	__atomic_store_n(&loop->quit, true, __ATOMIC_RELEASE);
	wake(loop);
}
