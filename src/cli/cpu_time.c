/* SPDX-License-Identifier: MIT */
/* cpu_time.c - processor time that a process or a thread has used. See cpu_time.h. */
#include "cli/cpu_time.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

struct cpu_time cpu_time_thread(void)
{
	struct rusage u;

	getrusage(RUSAGE_THREAD, &u);
	return (struct cpu_time){
		.user = (uint64_t)u.ru_utime.tv_sec * 1000000000 + (uint64_t)u.ru_utime.tv_usec * 1000,
		.system = (uint64_t)u.ru_stime.tv_sec * 1000000000 + (uint64_t)u.ru_stime.tv_usec * 1000,
	};
}

static int read_line(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");
	int ret = 0;

	if (!f)
		return -errno;
	if (!fgets(buf, (int)size, f))
		ret = -EIO;
	fclose(f);
	return ret;
}

/* Ticks of the whole process. The name in parentheses may hold anything, so look from the last one on. */
static int read_stat(pid_t pid, struct cpu_time *out)
{
	const uint64_t tick = 1000000000ull / (uint64_t)sysconf(_SC_CLK_TCK);
	char path[64], line[1024];
	const char *p;
	int ret;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	ret = read_line(path, line, sizeof(line));
	if (ret)
		return ret == -ENOENT ? -ESRCH : ret;
	p = strrchr(line, ')');
	if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64, &out->user,
			 &out->system) != 2)
		return -EIO;
	out->user *= tick;
	out->system *= tick;
	return 0;
}

/* Sum of the scheduler's own counts; 0 when the kernel has none. Threads that ended are not in it. */
static uint64_t read_schedstat(pid_t pid)
{
	char path[300], line[128];
	struct dirent *e;
	uint64_t sum = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	d = opendir(path);
	if (!d)
		return 0;
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", (int)pid, e->d_name);
		if (!read_line(path, line, sizeof(line)))
			sum += strtoull(line, NULL, 10);
	}
	closedir(d);
	return sum;
}

int cpu_time_process(pid_t pid, struct cpu_time *out)
{
	int ret = read_stat(pid, out);
	uint64_t fine, coarse;

	if (ret)
		return ret;
	coarse = out->user + out->system;
	fine = read_schedstat(pid);
	/* The finer sum, split in the proportion of the ticks; unless much of the time is that of ended threads. */
	if (coarse && fine && fine + fine / 8 + 100000000 > coarse) {
		out->user = (uint64_t)((double)fine * (double)out->user / (double)coarse);
		out->system = fine - out->user;
	}
	return 0;
}
