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
static int read_stat(pid_t pid, struct cpu_sample *out)
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

int cpu_sample(pid_t pid, struct cpu_sample *out)
{
	int ret = read_stat(pid, out);

	out->fine = ret ? 0 : read_schedstat(pid);
	return ret;
}

struct cpu_time cpu_between(const struct cpu_sample *before, const struct cpu_sample *after)
{
	uint64_t user = after->user - before->user, system = after->system - before->system, fine;
	struct cpu_time t = { user, system };

	/* A thread that ended took its fine count along; then the ticks are the better answer. */
	if (after->fine < before->fine || after->fine - before->fine + 100000000 < user + system)
		return t;
	fine = after->fine - before->fine;
	t.user = user + system ? (uint64_t)((double)fine * (double)user / (double)(user + system)) : fine;
	t.system = fine - t.user;
	return t;
}
