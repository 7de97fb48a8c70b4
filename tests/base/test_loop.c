/* SPDX-License-Identifier: MIT */
/* test_loop.c - the event loop: order, safety of removal, wake-ups from other threads, no CPU when idle */
#include "t.h"

#include <sluice/loop.h>

#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

static struct sl_loop *loop;
static char trail[64];
static unsigned int trail_n;

static void mark(void *arg)
{
	trail[trail_n++ % sizeof(trail)] = *(const char *)arg;
}

static void fresh(void)
{
	loop = sl_loop_new();
	REQUIRE(loop);
	trail_n = 0;
	memset(trail, 0, sizeof(trail));
}

static void tasks_run_in_order_and_once(void)
{
	struct sl_task a = {.fn = mark, .arg = (void *)"a"}, b = {.fn = mark, .arg = (void *)"b"},
		       c = {.fn = mark, .arg = (void *)"c"};

	fresh();
	sl_task_post(loop, &a);
	sl_task_post(loop, &b);
	sl_task_post(loop, &a);
	sl_task_send(loop, &c);
	sl_loop_step(loop, 0);
	CHECK(!strcmp(trail, "abc"));
	sl_task_post(loop, &a);
	sl_task_post(loop, &b);
	sl_task_cancel(loop, &b);
	sl_task_post(loop, &c);
	sl_task_cancel(loop, &a);
	sl_loop_step(loop, 0);
	CHECK(!strcmp(trail, "abcc"));
	sl_loop_free(loop);
}

static struct sl_task again;

static void post_again(void *arg)
{
	mark(arg);
	sl_task_post(loop, &again);
}

static void task_that_posts_itself_does_not_hold_the_turn(void)
{
	fresh();
	again = (struct sl_task){.fn = post_again, .arg = (void *)"x"};
	sl_task_post(loop, &again);
	for (int i = 0; i < 5; i++)
		sl_loop_step(loop, 0);
	CHECK(trail_n >= 5 && trail_n <= 10);
	sl_task_cancel(loop, &again);
	sl_loop_free(loop);
}

static void timers_fire_by_deadline(void)
{
	struct sl_timer a = {.fn = mark, .arg = (void *)"a"}, b = {.fn = mark, .arg = (void *)"b"},
			c = {.fn = mark, .arg = (void *)"c"};

	uint64_t start;

	fresh();
	do { /* b is due first, unless this thread stood still between the two */
		start = sl_now();
		sl_timer_set(loop, &a, 3000000);
		sl_timer_set(loop, &b, 1000000);
	} while (sl_now() - start > 2000000);
	sl_timer_set(loop, &c, 2000000);
	sl_timer_clear(loop, &c);
	while (trail_n < 2)
		sl_loop_step(loop, -1);
	CHECK(!strcmp(trail, "ba"));
	sl_timer_clear(loop, &a);
	sl_loop_free(loop);
}

static struct sl_watch one, two;
static int fds[2];

static void kill_the_other(void *arg, uint32_t events)
{
	(void)events;
	mark((char *)"k");
	sl_watch_del(arg);
}

static void watch_removed_in_the_same_batch_is_silent(void)
{
	fresh();
	for (int i = 0; i < 2; i++)
		REQUIRE((fds[i] = eventfd(1, EFD_NONBLOCK)) >= 0);
	one = (struct sl_watch){.fn = kill_the_other, .arg = &two};
	two = (struct sl_watch){.fn = kill_the_other, .arg = &one};
	CHECK_EQ(sl_watch_add(loop, &one, fds[0], EPOLLIN), 0);
	CHECK_EQ(sl_watch_add(loop, &two, fds[1], EPOLLIN), 0);
	sl_loop_step(loop, 0);
	CHECK_EQ(trail_n, 1);
	sl_watch_del(&one);
	sl_watch_del(&two);
	sl_watch_del(&two); /* harmless */
	sl_loop_step(loop, 0);
	CHECK_EQ(trail_n, 1);
	close(fds[0]);
	close(fds[1]);
	sl_loop_free(loop);
}

static void mark_watch(void *arg, uint32_t events)
{
	(void)events;
	mark(arg);
}

static void watch_paused_is_silent_even_for_hangup(void)
{
	int p[2];
	struct sl_watch w = {.fn = mark_watch, .arg = (void *)"w"};

	fresh();
	REQUIRE(pipe(p) == 0);
	CHECK_EQ(sl_watch_add(loop, &w, p[0], EPOLLIN), 0);
	close(p[1]);
	CHECK_EQ(sl_watch_mod(&w, 0), 0);
	sl_loop_step(loop, 0);
	CHECK_EQ(trail_n, 0);
	CHECK_EQ(sl_watch_mod(&w, EPOLLIN), 0);
	sl_loop_step(loop, 0);
	CHECK_EQ(trail_n, 1);
	sl_watch_del(&w);
	close(p[0]);
	sl_loop_free(loop);
}

/* ---- pollers ---- */

static unsigned int polls, work_left;
static atomic_uint arms; /* just before a sleep; another thread looks */
static bool late_work;

static bool poll_some(void *arg)
{
	(void)arg;
	polls++;
	if (!work_left)
		return false;
	work_left--;
	return true;
}

static bool arm_some(void *arg)
{
	(void)arg;
	arms++;
	if (late_work) {
		late_work = false;
		work_left = 1;
		return true;
	}
	return false;
}

static void poller_is_armed_before_sleep_and_looks_again(void)
{
	struct sl_poller p = {.poll = poll_some, .arm = arm_some};

	fresh();
	work_left = 3;
	late_work = true;
	sl_poller_activate(loop, &p);
	sl_poller_activate(loop, &p);
	while (sl_poller_active(&p))
		sl_loop_step(loop, 0);
	CHECK_EQ(work_left, 0);
	CHECK_EQ(arms, 2);
	CHECK_EQ(polls, 3 + 1 + 1 + 1);
	sl_poller_deactivate(loop, &p);
	sl_loop_free(loop);
}

static struct sl_poller pa, pb;

static bool drop_both(void *arg)
{
	(void)arg;
	polls++;
	sl_poller_deactivate(loop, &pa);
	sl_poller_deactivate(loop, &pb);
	return true;
}

static void poller_may_remove_others(void)
{
	fresh();
	polls = 0;
	pa = (struct sl_poller){.poll = drop_both, .arm = arm_some};
	pb = pa;
	sl_poller_activate(loop, &pa);
	sl_poller_activate(loop, &pb);
	sl_loop_step(loop, 0);
	CHECK_EQ(polls, 1);
	sl_loop_step(loop, 0);
	CHECK_EQ(polls, 1);
	sl_loop_free(loop);
}

/* ---- threads ---- */

static void *run_loop(void *arg)
{
	sl_loop_run(arg);
	return NULL;
}

static unsigned int sum;

static void add_one(void *arg)
{
	(void)arg;
	sum++;
}

#define SENDERS 3
#define SENDS 20000

static void *sender(void *arg)
{
	(void)arg;
	for (int i = 0; i < SENDS; i++)
		sl_loop_invoke(loop, add_one, NULL);
	return NULL;
}

static void invoke_runs_on_the_loop(void)
{
	pthread_t t, s[SENDERS];

	fresh();
	sum = 0;
	REQUIRE(pthread_create(&t, NULL, run_loop, loop) == 0);
	while (sl_loop_is_here(loop))
		usleep(100);
	for (int i = 0; i < SENDERS; i++)
		REQUIRE(pthread_create(&s[i], NULL, sender, NULL) == 0);
	for (int i = 0; i < SENDERS; i++)
		pthread_join(s[i], NULL);
	sl_loop_quit(loop);
	pthread_join(t, NULL);
	CHECK_EQ(sum, SENDERS * SENDS); /* no lock: they all ran on one thread */
	sl_loop_free(loop);
}

static void idle_costs_nothing(void)
{
	unsigned int arms_before = arms;
	struct rusage before, after;
	uint64_t used;
	struct sl_poller p = {.poll = poll_some, .arm = arm_some, .max_us = 50};
	pthread_t t;

	fresh();
	work_left = 10;
	late_work = false;
	polls = 0;
	sl_poller_activate(loop, &p);
	REQUIRE(pthread_create(&t, NULL, run_loop, loop) == 0);
	while (arms == arms_before)
		usleep(100);
	usleep(20000);
	getrusage(RUSAGE_SELF, &before);
	usleep(300000);
	getrusage(RUSAGE_SELF, &after);
	/* it sleeps: far less CPU than spinning would take */
	used = (uint64_t)(after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000 + (uint64_t)after.ru_utime.tv_usec -
	       (uint64_t)before.ru_utime.tv_usec;
	CHECK(used < 100000);
	sl_loop_quit(loop);
	pthread_join(t, NULL);
	CHECK_EQ(work_left, 0);
	CHECK(!sl_poller_active(&p));
	sl_loop_free(loop);
}

static const struct t_case cases[] = {
	{"tasks_run_in_order_and_once", tasks_run_in_order_and_once},
	{"task_that_posts_itself_does_not_hold_the_turn", task_that_posts_itself_does_not_hold_the_turn},
	{"timers_fire_by_deadline", timers_fire_by_deadline},
	{"watch_removed_in_the_same_batch_is_silent", watch_removed_in_the_same_batch_is_silent},
	{"watch_paused_is_silent_even_for_hangup", watch_paused_is_silent_even_for_hangup},
	{"poller_is_armed_before_sleep_and_looks_again", poller_is_armed_before_sleep_and_looks_again},
	{"poller_may_remove_others", poller_may_remove_others},
	{"invoke_runs_on_the_loop", invoke_runs_on_the_loop},
	{"idle_costs_nothing", idle_costs_nothing},
};
T_MAIN(cases)
