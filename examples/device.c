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
#include <signal.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

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
#define OFFERED (BIT(SL_F_VERSION_1) | BIT(SL_F_RING_PACKED) | BIT(SL_F_INDIRECT_DESC) | BIT(SL_F_EVENT_IDX))

struct program {
	struct sl_loop *loop;
	struct sl_vhost_user_server *server;
	struct sl_watch signals;
};

static void server_stopped(void *arg)
{
	sl_loop_quit(arg);
}

/* The server finishes what is in flight, then says so. */
static void on_signal(void *arg, uint32_t events)
{
	struct program *p = arg;

	(void)events;
	sl_watch_del(&p->signals);
	sl_vhost_user_server_stop(p->server, server_stopped, p->loop);
}

static int serve(struct program *p, const char *path, struct sl_err *err)
{
	const struct sl_device_config config = { .ops = &entropy_ops, .name = "entropy", .offered.w[0] = OFFERED,
						 .num_queues = 1, .max_queue_size = 256, .control = p->loop };
	struct sl_device *device = sl_device_new(&config, err);

	if (!device)
		return 1;
	p->server = sl_vhost_user_server_new(&(struct sl_vhost_user_config){ .device = device, .path = path }, err);
	if (p->server) {
		fprintf(stderr, "device: listening on %s\n", path);
		sl_loop_run(p->loop);
		sl_vhost_user_server_free(p->server);
	}
	sl_device_free(device);
	return p->server ? 0 : 1;
}

int main(int argc, char **argv)
{
	struct program p = { .loop = sl_loop_new(), .signals = { .fn = on_signal, .arg = &p } };
	struct sl_err err = { 0 };
	sigset_t set;
	int ret;

	if (argc != 2) {
		fprintf(stderr, "usage: device SOCKET\n");
		return 2;
	}
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	/* sl_mem_guard(): a front-end that truncates its memory must not take this process along. */
	if (!p.loop || sl_mem_guard() || sl_watch_add(p.loop, &p.signals, signalfd(-1, &set, SFD_CLOEXEC), EPOLLIN)) {
		perror("device");
		return 1;
	}
	ret = serve(&p, argv[1], &err);
	if (ret)
		fprintf(stderr, "device: %s\n", err.text);
	sl_watch_del(&p.signals);
	sl_loop_free(p.loop);
	return ret;
}
