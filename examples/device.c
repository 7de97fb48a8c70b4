/* SPDX-License-Identifier: MIT */
/* device.c - a virtio device of one's own, served over vhost-user: an entropy source (virtio 1.4, 5.4).
 *
 *   cc -o device device.c $(pkg-config --cflags --libs sluice)
 *   ./device /tmp/entropy.sock
 *
 * Any vhost-user front-end can use it: driver.c beside this file, or QEMU with
 *   -chardev socket,id=c,path=/tmp/entropy.sock -device vhost-user-rng-pci,chardev=c
 *
 * The driver offers empty buffers, the device fills them. Everything else -
 * the socket, features, status, memory, rings, stop, reset, front-ends that
 * come and go, guests that break the rules - is the library's work.
 */
#include <stdio.h>
#include <sys/random.h>

#include <sluice/vhost_user_server.h>

/* One request, on the queue's loop. A device that cannot answer at once keeps @r and calls sl_req_done() later. */
static void fill(struct sl_queue *q, struct sl_req *r)
{
	unsigned char bytes[256]; /* so many getrandom() gives at once, always; drivers ask again for more */
	size_t room = r->chain.in.bytes, want = room < sizeof(bytes) ? room : sizeof(bytes);

	if (!room || getrandom(bytes, want, 0) != (ssize_t)want) {
		sl_queue_fail(q, "a buffer without room for random bytes"); /* what a driver must not do, 5.4.6.1 */
		want = 0;
	}
	sl_req_done(r, (uint32_t)sl_cursor_write(&r->chain.in, bytes, want));
}

static const struct sl_device_ops entropy_ops = {
	.type = "rng",
	.id = 4,
	.request = fill,
};

#define BIT(n) (1ULL << (n))

static const struct sl_device_config entropy = {
	.ops = &entropy_ops,
	.name = "entropy",
	.offered.w[0] = BIT(SL_F_VERSION_1) | BIT(SL_F_RING_PACKED) | BIT(SL_F_INDIRECT_DESC) | BIT(SL_F_EVENT_IDX),
	.num_queues = 1,
	.max_queue_size = 256,
};

int main(int argc, char **argv)
{
	struct sl_err err;

	if (argc != 2) {
		fprintf(stderr, "usage: device SOCKET\n");
		return 2;
	}
	/* Returns after SIGINT or SIGTERM, when everything under way is finished. */
	if (sl_vhost_user_serve(&entropy, argv[1], &err)) {
		fprintf(stderr, "device: %s\n", err.text);
		return 1;
	}
	return 0;
}
