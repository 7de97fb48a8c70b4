/* SPDX-License-Identifier: MIT */
/* worker.c - one thread for each loop that makes the system calls io_uring does not have.
 *
 * These are the ioctls of block devices: rare and slow, so one at a time in
 * order of arrival is good enough.
 */
#include "block/worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/loop_local.h"
#include "base/thread.h"

/**
 * struct worker
 * @lock:    guards @jobs, @jobs_end and @quit
 * @started: loop thread only
 */
struct worker {
	struct sl_loop *loop;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct worker_job *jobs, **jobs_end;
	bool started, quit;
};

static const char worker_key;

static struct worker_job *next_job(struct worker *w)
{
	struct worker_job *job;

	pthread_mutex_lock(&w->lock);
	while (!w->jobs && !w->quit)
		pthread_cond_wait(&w->more, &w->lock);
	job = w->jobs;
	if (job) {
		w->jobs = job->next;
		if (!w->jobs)
			w->jobs_end = &w->jobs;
	}
	pthread_mutex_unlock(&w->lock);
	return job;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct worker_job *job;

	while ((job = next_job(w))) {
		job->run(job);
		sl_task_send(w->loop, &job->finished);
	}
	return NULL;
}

int worker_submit(struct worker *w, struct worker_job *job)
{
	int ret = w->started ? 0 : thread_start(&w->thread, worker_main, w);

	if (ret)
		return ret;
	w->started = true;
	job->next = NULL;
	pthread_mutex_lock(&w->lock);
	*w->jobs_end = job;
	w->jobs_end = &job->next;
	pthread_cond_signal(&w->more);
	pthread_mutex_unlock(&w->lock);
	return 0;
}

static void *make(struct sl_loop *loop, struct sl_err *err)
{
	struct worker *w = calloc(1, sizeof(*w));

	if (!w) {
		sl_err_set(err, ENOMEM, "block: out of memory");
		return NULL;
	}
	w->loop = loop;
	w->jobs_end = &w->jobs;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->more, NULL);
	return w;
}

static void drop(void *object)
{
	struct worker *w = object;

	if (w->started) {
		pthread_mutex_lock(&w->lock);
		w->quit = true;
		pthread_cond_signal(&w->more);
		pthread_mutex_unlock(&w->lock);
		pthread_join(w->thread, NULL);
	}
	pthread_cond_destroy(&w->more);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

struct worker *worker_of(struct sl_loop *loop, struct sl_err *err)
{
	return loop_local(loop, &worker_key, make, drop, err);
}
