/* SPDX-License-Identifier: MIT */
/* stress.c - driver and device on two threads, sleeping and waking each other through eventfds
 *
 * usage: ring-stress [CHAINS]
 *
 * A wake-up that is lost leaves both asleep; poll's time limit then ends the
 * test. Both sides use one mapping, so that ThreadSanitizer also sees a
 * release or acquire that is missing: data is written with plain stores.
 */
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "rig.h"
#include "t.h"

#define HANG_MS 20000
#define BUF	16

static struct rig r;
static int kick_fd, call_fd;
static unsigned int total = 200000, sleeps[2], wakes[2];

static void wait_on(int fd, unsigned int who)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t n;

	sleeps[who]++;
	if (poll(&p, 1, HANG_MS) != 1) {
		fprintf(stderr, "a wake-up was lost: the %s sleeps for ever\n", who ? "device" : "driver");
		_exit(1);
	}
	REQUIRE(read(fd, &n, 8) == 8);
}

static void wake(int fd, unsigned int who)
{
	uint64_t one = 1;

	wakes[who]++;
	REQUIRE(write(fd, &one, 8) == 8);
}

/* The device: take everything, answer each chain with its number plus one. */
static void *device(void *arg)
{
	struct sl_chain c;
	unsigned int done = 0, v, batch = 0;

	(void)arg;
	while (done < total) {
		sl_vq_disarm(r.vq);
		while (sl_vq_pop(r.vq, &c) == 1) {
			CHECK_EQ(sl_cursor_read(&c.out, &v, 4), 4);
			CHECK_EQ(v, done);
			v++;
			sl_cursor_write(&c.in, &v, 4);
			sl_vq_push(r.vq, &c, 4);
			done++;
			if (++batch % 5 == 0 && sl_vq_publish(r.vq))
				wake(call_fd, 1);
		}
		if (sl_vq_publish(r.vq))
			wake(call_fd, 1);
		if (done < total && !sl_vq_rearm(r.vq))
			wait_on(kick_fd, 1);
	}
	CHECK(!sl_vq_broken(r.vq));
	return NULL;
}

static void driver(void)
{
	unsigned int sent = 0, got = 0, slots = r.o.num;
	uint64_t seed = 99;

	while (got < total) {
		unsigned int burst = 1 + rig_below(&seed, slots);
		unsigned int *p;
		uint32_t len;

		sl_dq_disarm(r.dq);
		while (sent < total && burst--) {
			size_t at = (size_t)(sent % (2 * slots)) * BUF;
			struct sl_dq_buf b[2] = {{rig_buf(&r, at), 4}, {rig_buf(&r, at + 8), 4}};

			p = (unsigned int *)(void *)rig_drv(&r, b[0].addr);
			*p = sent;
			if (!sl_dq_add(r.dq, b, 1, b + 1, 1, p))
				break;
			sent++;
		}
		if (sl_dq_publish(r.dq))
			wake(kick_fd, 0);
		while ((p = sl_dq_get(r.dq, &len))) {
			CHECK_EQ(p[0], got);
			CHECK_EQ(p[2], got + 1);
			CHECK_EQ(len, 4);
			got++;
		}
		/* with room left and more to send there is no need to sleep, but now and then do */
		if (got < total && (sent - got == slots / 2 || rig_below(&seed, 4) == 0) && sent > got &&
		    !sl_dq_rearm(r.dq))
			wait_on(call_fd, 0);
	}
	CHECK(!sl_dq_broken(r.dq));
}

int main(int argc, char **argv)
{
	if (argc > 1)
		total = (unsigned int)atoi(argv[1]);
	for (unsigned int i = 0; i < 16; i++) {
		struct rig_options o = {.packed = i & 1,
					.event_idx = i & 2,
					.in_order = i & 4,
					.num = i & 8 ? 4 : 64,
					.buffers = 2 * 64 * BUF,
					.one_mapping = true};
		pthread_t th;

		memset(sleeps, 0, sizeof(sleeps));
		memset(wakes, 0, sizeof(wakes));
		rig_open(&r, &o);
		REQUIRE(rig_start(&r));
		kick_fd = eventfd(0, 0);
		call_fd = eventfd(0, 0);
		REQUIRE(kick_fd >= 0 && call_fd >= 0);
		REQUIRE(!pthread_create(&th, NULL, device, NULL));
		driver();
		pthread_join(th, NULL);
		printf("packed %d event_idx %d in_order %d num %u: driver slept %u, kicked %u; device slept %u, called "
		       "%u\n",
		       o.packed, o.event_idx, o.in_order, o.num, sleeps[0], wakes[0], sleeps[1], wakes[1]);
		close(kick_fd);
		close(call_fd);
		rig_close(&r);
	}
	return t_failures ? 1 : 0;
}
