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
 * cpu_time_process() - of all threads of @pid, also those that have ended
 *
 * The sum is as fine as the kernel's scheduler counts where it says so
 * (schedstat), else in ticks of 10 ms; the split into user and system is
 * always in ticks. Return: 0 or -errno.
 */
int cpu_time_process(pid_t pid, struct cpu_time *out);

#endif
