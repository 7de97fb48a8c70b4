/* SPDX-License-Identifier: MIT */
/* driver.c - a virtio driver of one's own, in user space: prints random bytes of an entropy device.
 *
 *   cc -o driver driver.c $(pkg-config --cflags --libs sluice)
 *   ./driver /tmp/entropy.sock 4        four lines of 32 bytes; without a number: until Ctrl-C
 *
 * The device is at the other end of a vhost-user socket: device.c beside this
 * file, or anybody's vhost-user-rng. The link carries set-up only; after that
 * driver and device share memory and two eventfds, kick and call.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <sluice/link.h>

#define BIT(n) (1ULL << (n))
#define DEVICE_ADDRESS 0x100000 /* where the device finds the memory; any page that is not 0 will do */
#define MEMORY (64 << 10)
#define RING_SIZE 16
#define LINE 32 /* bytes */

struct driver {
	struct sl_link *link;
	struct sl_dma dma;
	struct sl_dq *dq;
	void *state;
	unsigned char *buffer;
	struct sl_dq_buf in; /* @buffer as the device sees it */
};

/* Agree on features, share memory, start the one queue that an entropy device has. */
static int start(struct driver *d, struct sl_err *err)
{
	struct sl_features f = { .w[0] = BIT(SL_F_VERSION_1) | BIT(SL_F_RING_PACKED) | BIT(SL_F_EVENT_IDX) };
	struct sl_link_queue queue;
	int ret = sl_link_negotiate(d->link, &f, err); /* leaves what the device offers: split rings, if need be */

	if (!ret)
		ret = sl_dma_open(&d->dma, DEVICE_ADDRESS, MEMORY, err);
	if (!ret)
		ret = d->link->ops->set_memory(d->link, &d->dma.region, 1, err);
	if (ret)
		return ret;
	d->in.len = LINE;
	d->buffer = sl_dma_alloc(&d->dma, LINE, 64, &d->in.addr);
	d->state = malloc(sl_dq_state_size(RING_SIZE));
	if (!d->buffer || !d->state)
		return sl_err_set(err, ENOMEM, "out of memory");
	d->dq = sl_dma_queue(&d->dma, &f, RING_SIZE, d->state, &queue, err);
	ret = d->dq ? d->link->ops->queue_start(d->link, 0, &queue, err) : -EINVAL;
	return ret ? ret : sl_link_driver_ok(d->link, err);
}

/* Sleep until the device calls. Return: 0, 1 for a signal, -errno. */
static int wait_for_call(struct driver *d, int signals, struct sl_err *err)
{
	struct pollfd p[] = { { .fd = d->link->ops->call_fd(d->link, 0), .events = POLLIN },
			      { .fd = d->link->ops->event_fd(d->link), .events = POLLIN },
			      { .fd = signals, .events = POLLIN } };
	uint64_t calls;

	/* From here on the device calls; for what it did before it will not, so look again. */
	if (sl_dq_rearm(d->dq))
		return 0;
	if (sl_dq_broken(d->dq)) /* a driver trusts its device no more than the other way round */
		return sl_err_set(err, EPROTO, "queue: %s", sl_dq_broken(d->dq));
	if (poll(p, 3, -1) < 0)
		return sl_err_set(err, errno, "poll: %s", strerror(errno));
	if (p[1].revents && d->link->ops->events(d->link) & SL_LINK_GONE)
		return sl_err_set(err, EPIPE, "the device has gone");
	if (p[0].revents && read(p[0].fd, &calls, sizeof(calls)) < 0)
		return sl_err_set(err, errno, "call: %s", strerror(errno));
	return p[2].revents ? 1 : 0;
}

/* An empty buffer goes to the device and comes back with *@len random bytes. Real drivers keep many under way. */
static int fetch(struct driver *d, int signals, uint32_t *len, struct sl_err *err)
{
	int ret = 0;

	sl_dq_add(d->dq, NULL, 0, &d->in, 1, d->buffer); /* the last argument is what sl_dq_get() returns */
	if (sl_dq_publish(d->dq))
		d->link->ops->kick(d->link, 0, sl_dq_kick_data(d->dq));
	while (!ret && !sl_dq_get(d->dq, len))
		ret = wait_for_call(d, signals, err);
	return ret;
}

static int run(struct driver *d, unsigned long lines, int signals, struct sl_err *err)
{
	int ret = start(d, err);
	uint32_t len;

	for (; !ret && lines; lines--) {
		ret = fetch(d, signals, &len, err);
		for (uint32_t i = 0; !ret && i < len; i++)
			printf("%02x%s", d->buffer[i], i + 1 < len ? "" : "\n");
	}
	/* The device lets go of the buffer that it may still hold. */
	return ret < 0 ? ret : d->link->ops->queue_stop(d->link, 0, NULL, err);
}

int main(int argc, char **argv)
{
	struct sl_link_vhost_user_config config = { .path = argv[1] };
	struct driver d = { .dma.region.fd = -1 };
	struct sl_err err = { 0 };
	sigset_t set;
	int ret;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: driver SOCKET [LINES]\n");
		return 2;
	}
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	d.link = sl_link_vhost_user_open(&config, &err);
	ret = d.link ? run(&d, argc > 2 ? strtoul(argv[2], NULL, 10) : -1UL, signalfd(-1, &set, 0), &err) : -1;
	if (ret)
		fprintf(stderr, "driver: %s\n", err.text);
	if (d.link)
		d.link->ops->close(d.link);
	sl_dma_close(&d.dma);
	free(d.state);
	return ret ? 1 : 0;
}
