/* SPDX-License-Identifier: MIT */
/* loop.h - the event loop: descriptors, timers, tasks, pollers.
 *
 * One thread runs a loop; everything registered with it runs on that thread.
 * A turn of the loop is: tasks, due timers, active pollers, ready descriptors,
 * then the tasks posted during the turn. When a turn found no work the loop
 * may spin for a bounded time (see struct sl_poller), then arms every active
 * poller and sleeps in epoll_wait. An idle loop costs no CPU.
 *
 * All structures are owned by the caller and embedded in its own; nothing is
 * allocated by the functions below except where said.
 */
#ifndef SLUICE_LOOP_H
#define SLUICE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include <sluice/error.h>

struct sl_loop;

/** sl_loop_new() - a new loop, or NULL with errno set */
SL_API struct sl_loop *sl_loop_new(void);
/** sl_loop_free() - free @loop; nothing may be registered any more */
SL_API void sl_loop_free(struct sl_loop *loop);
/** sl_loop_run() - run turns on this thread until sl_loop_quit(); 0 or -errno */
SL_API int sl_loop_run(struct sl_loop *loop);
/** sl_loop_quit() - make sl_loop_run() return after its current turn; any thread, async-signal-safe */
SL_API void sl_loop_quit(struct sl_loop *loop);
/**
 * sl_loop_step() - one turn, for programs and tests that drive the loop by hand
 * @timeout_ms: how long to sleep when there is no work; 0 never sleeps, -1 is no limit
 *
 * Return: true when some work was done.
 */
SL_API bool sl_loop_step(struct sl_loop *loop, int timeout_ms);

/** sl_now() - CLOCK_MONOTONIC in nanoseconds */
SL_API uint64_t sl_now(void);

/**
 * struct sl_watch - a file descriptor to wait on (level triggered)
 * @fn: called on the loop's thread with the EPOLL* events that are ready
 *
 * After sl_watch_del() returns, @fn is not called again, also not for events
 * already collected in the current turn.
 */
struct sl_watch {
	void (*fn)(void *arg, uint32_t events);
	void *arg;
	int fd;
	uint32_t events;
	struct sl_loop *loop;
};
/** sl_watch_add() - start watching; @w->fn and @w->arg are set by the caller before; 0 or -errno */
SL_API int sl_watch_add(struct sl_loop *loop, struct sl_watch *w, int fd, uint32_t events);
/** sl_watch_mod() - change the set of events (0 pauses the watch) */
SL_API int sl_watch_mod(struct sl_watch *w, uint32_t events);
/** sl_watch_del() - stop watching; safe when not watching; does not close the descriptor */
SL_API void sl_watch_del(struct sl_watch *w);

/**
 * struct sl_timer - a one-shot timer
 * @fn: called once, not before the deadline, on the loop's thread
 */
struct sl_timer {
	void (*fn)(void *arg);
	void *arg;
	uint64_t deadline;
	struct sl_timer *next;
	bool set;
};
/** sl_timer_set() - (re)arm to fire @ns nanoseconds from now; loop thread only */
SL_API void sl_timer_set(struct sl_loop *loop, struct sl_timer *t, uint64_t ns);
/** sl_timer_clear() - disarm; safe when not armed */
SL_API void sl_timer_clear(struct sl_loop *loop, struct sl_timer *t);

/**
 * struct sl_task - a function to run soon on a loop
 *
 * A task may be posted again once it has started to run.
 */
struct sl_task {
	void (*fn)(void *arg);
	void *arg;
	struct sl_task *next;
	bool queued;
};
/** sl_task_post() - run @t at the end of this turn; loop thread only; a task already queued stays queued once */
SL_API void sl_task_post(struct sl_loop *loop, struct sl_task *t);
/** sl_task_cancel() - forget a task posted, or sent by a thread that sends no more; loop thread only */
SL_API void sl_task_cancel(struct sl_loop *loop, struct sl_task *t);
/** sl_task_send() - run @t on @loop as soon as it gets there and wake it up; any thread; FIFO for one sender */
SL_API void sl_task_send(struct sl_loop *loop, struct sl_task *t);
/**
 * sl_loop_invoke() - run @fn(@arg) on @loop's thread and wait until it returned
 *
 * Runs it at once when called on the loop's own thread, or when no thread runs
 * the loop (it is stepped by hand, by this thread). To exclude deadlock the
 * control loop invokes on data loops, never the other way round.
 */
SL_API void sl_loop_invoke(struct sl_loop *loop, void (*fn)(void *arg), void *arg);
/** sl_loop_is_here() - may this thread touch what belongs to @loop: is it its thread, or does no thread run it? */
SL_API bool sl_loop_is_here(const struct sl_loop *loop);

/**
 * struct sl_poller - something that can be looked at without a notification
 * @poll:   do the work there is, a bounded amount; true when there was any.
 *          Called once in each turn while the poller is active.
 * @arm:    about to sleep: switch notifications on; return true when work
 *          arrived meanwhile (the poller then stays active). After it returned
 *          false the poller is no longer active.
 * @max_us: upper bound of the time the loop may spin for this poller when it
 *          has nothing to do; 0: never
 *
 * The time really spun adapts between 0 and @max_us: it grows when sleeps turn
 * out to be shorter than @max_us and falls to 0 when they are longer.
 */
struct sl_poller {
	bool (*poll)(void *arg);
	bool (*arm)(void *arg);
	void *arg;
	uint32_t max_us;
	struct sl_poller *next, **prev; /* the loop's own */
};
/** sl_poller_activate() - from now on poll in every turn; safe when active */
SL_API void sl_poller_activate(struct sl_loop *loop, struct sl_poller *p);
/** sl_poller_deactivate() - stop polling without arming; safe when not active, also from within @poll */
SL_API void sl_poller_deactivate(struct sl_loop *loop, struct sl_poller *p);
/** sl_poller_active() - is it polled in each turn now? */
static inline bool sl_poller_active(const struct sl_poller *p)
{
	return p->prev != 0;
}

#endif
