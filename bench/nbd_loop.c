/* SPDX-License-Identifier: MIT */
/* nbd_loop.c - the least a program can do with libnbd: what NBD sources of sluice are measured against.
 *
 * usage: nbd_loop URI randread|randwrite DEPTH SECONDS
 *
 * Keeps DEPTH requests of 4 KiB under way on one connection and prints requests a second and the processor time of
 * each of them in nanoseconds, as JSON.
 */
#include <libnbd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BLOCK 4096u
#define MAX_DEPTH 1024

struct slot {
	bool free;
	char data[BLOCK];
};

static struct slot slots[MAX_DEPTH];
static unsigned int free_slots[MAX_DEPTH], n_free;
static uint64_t n_done;

static int done(void *arg, int *error)
{
	if (*error) {
		fprintf(stderr, "nbd_loop: a request failed: %s\n", strerror(*error));
		exit(1);
	}
	free_slots[n_free++] = (unsigned int)((struct slot *)arg - slots);
	n_done++;
	return 1;
}

static uint64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t next_random(void)
{
	static uint64_t x = 88172645463325252u;

	x ^= x << 13;
	x ^= x >> 7;
	return x ^= x << 17;
}

static int fail(void)
{
	fprintf(stderr, "nbd_loop: %s\n", nbd_get_error());
	return 1;
}

static bool issue(struct nbd_handle *h, bool write, uint64_t blocks)
{
	while (n_free) {
		struct slot *s = &slots[free_slots[--n_free]];
		nbd_completion_callback cb = {.callback = done, .user_data = s};
		uint64_t at = next_random() % blocks * BLOCK;

		if ((write ? nbd_aio_pwrite(h, s->data, BLOCK, at, cb, 0) :
			     nbd_aio_pread(h, s->data, BLOCK, at, cb, 0)) < 0)
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	struct nbd_handle *h = nbd_create();
	uint64_t start, cpu, end, n;
	bool write;

	if (argc != 5 || (n_free = (unsigned int)atoi(argv[3])) < 1 || n_free > MAX_DEPTH) {
		fprintf(stderr, "usage: nbd_loop URI randread|randwrite DEPTH SECONDS\n");
		return 2;
	}
	write = !strcmp(argv[2], "randwrite");
	for (unsigned int i = 0; i < n_free; i++)
		free_slots[i] = i;
	if (!h || nbd_set_pread_initialize(h, false) || nbd_connect_uri(h, argv[1]))
		return fail();
	start = now(CLOCK_MONOTONIC);
	cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	end = start + (uint64_t)(atof(argv[4]) * 1e9);
	while (now(CLOCK_MONOTONIC) < end)
		if (!issue(h, write, (uint64_t)nbd_get_size(h) / BLOCK) || nbd_poll(h, -1) < 0)
			return fail();
	end = now(CLOCK_MONOTONIC);
	cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	n = n_done;
	while (nbd_aio_in_flight(h) > 0) /* some servers do not like to be hung up on */
		if (nbd_poll(h, -1) < 0)
			return fail();
	printf("{\"iops\": %.0f, \"cpu_ns\": %.0f}\n", (double)n * 1e9 / (double)(end - start),
	       (double)cpu / (double)n);
	nbd_close(h);
	return 0;
}
