/* SPDX-License-Identifier: MIT */
/* worker.h - one thread for each loop that makes the system calls io_uring does not have */
#ifndef BLOCK_WORKER_H
#define BLOCK_WORKER_H

#include <stdbool.h>

#include <sluice/loop.h>

struct worker;

/**
 * struct worker_job - a call that may block; lives in the caller's slot until @finished has run
 * @run:      worker thread
 * @finished: task on the loop, sent when @run returned
 */
struct worker_job {
	void (*run)(struct worker_job *job);
	struct sl_task finished;
	struct worker_job *next;
};

/** worker_of() - the loop's worker; its thread starts with the first job. NULL with @err filled */
struct worker *worker_of(struct sl_loop *loop, struct sl_err *err);
/** worker_submit() - run @job after those submitted before it; 0 or -errno (then nothing will run) */
int worker_submit(struct worker *w, struct worker_job *job);

#endif
