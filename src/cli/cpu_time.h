/* SPDX-License-Identifier: MIT */
/* cpu_time.h - processor time that a process or a thread has used. */
#ifndef CLI_CPU_TIME_H
#define CLI_CPU_TIME_H

#include <stdint.h>
#include <sys/types.h>

/** struct cpu_time - nanoseconds */
struct cpu_time {
	uint64_t user, system;
};

/** cpu_time_thread() - of the calling thread */
struct cpu_time cpu_time_thread(void);
/**
 * struct cpu_sample - a look at a process
 * @user, @system: all its threads, ended ones too, in ticks of 10 ms; nanoseconds
 * @fine: the scheduler's own count of the threads alive, 0 when it has none; nanoseconds
 */
struct cpu_sample {
	uint64_t user, system, fine;
};

/** cpu_sample() - look at @pid; 0 or -errno */
int cpu_sample(pid_t pid, struct cpu_sample *out);
/** cpu_between() - what was used between two looks: as exact as the scheduler counts, split as the ticks say */
struct cpu_time cpu_between(const struct cpu_sample *before, const struct cpu_sample *after);

#endif
