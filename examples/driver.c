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
#include <stdio.h>
#include <stdlib.h>

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
	void *state; /* of @dq */
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

/* An empty buffer goes to the device and comes back with random bytes. Real drivers keep many under way. */
static int print_line(struct driver *d, struct sl_err *err)
{
	uint32_t len;
	int ret = 0;

	sl_dq_add(d->dq, NULL, 0, &d->in, 1, d->buffer); /* the last argument is what sl_dq_get() returns */
	if (sl_dq_publish(d->dq))
		d->link->ops->kick(d->link, 0, sl_dq_kick_data(d->dq));
	while (!ret && !sl_dq_get(d->dq, &len))
		ret = sl_link_wait(d->link, 0, d->dq, NULL, err);
	for (uint32_t i = 0; !ret && i < len; i++)
		printf("%02x%s", d->buffer[i], i + 1 < len ? "" : "\n");
	return ret;
}

int main(int argc, char **argv)
{
	struct sl_link_vhost_user_config config = { .path = argv[1] };
	unsigned long lines = argc > 2 ? strtoul(argv[2], NULL, 10) : -1UL;
	struct driver d = { .dma.region.fd = -1 };
	struct sl_err err = { 0 };
	int ret;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: driver SOCKET [LINES]\n");
		return 2;
	}
	d.link = sl_link_vhost_user_open(&config, &err);
	ret = d.link ? start(&d, &err) : -1;
	while (!ret && lines--)
		ret = print_line(&d, &err);
	if (!ret)
		ret = d.link->ops->queue_stop(d.link, 0, NULL, &err);
	if (ret)
		fprintf(stderr, "driver: %s\n", err.text);
	if (d.link)
		d.link->ops->close(d.link); /* the device has let go of the memory: now it may be unmapped */
	sl_dma_close(&d.dma);
	free(d.state);
	return ret ? 1 : 0;
}
