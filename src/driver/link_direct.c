/* SPDX-License-Identifier: MIT */
/* link_direct.c - a driver's way to a device of its own process, without any protocol.
 *
 * The device sees the driver's memory through a mapping of its own, made from
 * the same descriptor, so that both sides never share an address by chance.
 * Kick and call are eventfds, as they are everywhere.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <sluice/link.h>
#include <sluice/virtio.h>

#define STEP_MS 10
#define STOP_NS 30000000000ull /* a device that holds a request for longer hangs */

struct direct_queue {
	int kick_fd, call_fd;
	bool started, own_kick, own_call, stopped;
	uint32_t base;
};

/**
 * struct direct_link
 * @mem:     what set_memory() made
 * @event:   eventfd for event_fd()
 * @reset:   the reset under way is complete
 */
struct direct_link {
	struct sl_link link;
	struct sl_device *device;
	struct sl_mem *mem;
	int event;
	bool reset;
	unsigned int num_queues;
	struct direct_queue queues[];
};

static struct direct_link *to_direct(struct sl_link *l)
{
	return (struct direct_link *)l;
}

/* ---- what the device tells; on its control loop, which is the link's thread ---- */

static void queue_stopped(void *arg, unsigned int index, uint32_t base)
{
	struct direct_link *l = arg;

	l->queues[index].stopped = true;
	l->queues[index].base = base;
}

static void queue_broken(void *arg, unsigned int index, const char *why)
{
	/* NEEDS_RESET is in the status, and config_changed() follows. */
	(void)arg;
	(void)index;
	(void)why;
}

static void signal_fd(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it is readable anyway */
}

static void config_changed(void *arg)
{
	signal_fd(((struct direct_link *)arg)->event);
}

static void reset_done(void *arg)
{
	((struct direct_link *)arg)->reset = true;
}

static const struct sl_transport_ops direct_transport = {
	.queue_stopped = queue_stopped,
	.queue_broken = queue_broken,
	.config_changed = config_changed,
};

static bool wait_until(struct direct_link *l, const bool *flag, uint64_t deadline)
{
	while (!*flag && sl_now() < deadline)
		sl_loop_step(sl_device_control(l->device), STEP_MS);
	return *flag;
}

/* ---- the table's operations ---- */

static int direct_features(struct sl_link *link, struct sl_features *out, struct sl_err *err)
{
	(void)err;
	*out = *sl_device_offered(to_direct(link)->device);
	sl_features_clear(out, SL_F_NOTIFICATION_DATA); /* does not cross an eventfd */
	return 0;
}

static int direct_accept(struct sl_link *link, const struct sl_features *f, struct sl_err *err)
{
	int ret = sl_device_accept(to_direct(link)->device, f);

	return ret ? sl_err_set(err, -ret, "direct: features: the device refuses the choice") : 0;
}

static int direct_status_get(struct sl_link *link, struct sl_err *err)
{
	(void)err;
	return sl_device_status(to_direct(link)->device);
}

static void forget_queue(struct direct_queue *q)
{
	if (q->own_kick && q->kick_fd >= 0)
		close(q->kick_fd);
	if (q->own_call && q->call_fd >= 0)
		close(q->call_fd);
	*q = (struct direct_queue){ .kick_fd = -1, .call_fd = -1 };
}

static int reset(struct direct_link *l, uint64_t deadline, struct sl_err *err)
{
	l->reset = false;
	sl_device_reset(l->device, reset_done, l);
	if (!wait_until(l, &l->reset, deadline))
		return sl_err_set(err, ETIMEDOUT, "direct: reset: the device does not finish its requests");
	for (unsigned int i = 0; i < l->num_queues; i++)
		forget_queue(&l->queues[i]);
	return 0;
}

static int direct_status_set(struct sl_link *link, uint8_t status, struct sl_err *err)
{
	struct direct_link *l = to_direct(link);
	int ret;

	if (!status)
		return reset(l, sl_now() + STOP_NS, err);
	ret = sl_device_set_status(l->device, status);
	return ret ? sl_err_set(err, -ret, "direct: status: the device refuses 0x%x", status) : 0;
}

static int direct_config_read(struct sl_link *link, uint32_t off, void *dst, uint32_t len, struct sl_err *err)
{
	(void)err;
	sl_device_config_read(to_direct(link)->device, off, dst, len);
	return 0;
}

static int direct_config_write(struct sl_link *link, uint32_t off, const void *src, uint32_t len, struct sl_err *err)
{
	int ret = sl_device_config_write(to_direct(link)->device, off, src, len);

	return ret ? sl_err_set(err, -ret, "direct: configuration: bytes %u to %u cannot be written", off,
				off + len - 1) : 0;
}

static int direct_num_queues(struct sl_link *link, struct sl_err *err)
{
	(void)err;
	return (int)to_direct(link)->num_queues;
}

static int map_region(const struct sl_link_region *r, struct sl_mem_region *out, struct sl_err *err)
{
	*out = (struct sl_mem_region){ .gpa = r->addr, .size = r->size, .uva = r->addr, .hva = r->hva,
				       .access = SL_MEM_READ | SL_MEM_WRITE };
	if (r->fd < 0)
		return 0;
	out->mapping = sl_mapping_new(r->fd, r->offset, r->size, err);
	if (!out->mapping)
		return -EINVAL;
	out->hva = sl_mapping_addr(out->mapping);
	return 0;
}

static int direct_set_memory(struct sl_link *link, const struct sl_link_region *regions, unsigned int n,
			     struct sl_err *err)
{
	struct direct_link *l = to_direct(link);
	struct sl_mem_region out[SL_LINK_MAX_REGIONS] = { 0 };
	struct sl_mem *mem = NULL;
	int ret = 0;

	if (n > SL_LINK_MAX_REGIONS)
		return sl_err_set(err, EINVAL, "direct: memory: %u regions; at most %u", n, SL_LINK_MAX_REGIONS);
	for (unsigned int i = 0; i < n && !ret; i++)
		ret = map_region(&regions[i], &out[i], err);
	if (!ret)
		mem = sl_mem_new(out, n, err);
	for (unsigned int i = 0; i < n; i++)
		if (out[i].mapping)
			sl_mapping_put(out[i].mapping); /* the snapshot has its own count */
	if (!mem)
		return ret ? ret : -EINVAL;
	sl_device_set_mem(l->device, mem);
	sl_mem_put(l->mem);
	l->mem = mem;
	return 0;
}

static int direct_queue_start(struct sl_link *link, unsigned int index, const struct sl_link_queue *q,
			      struct sl_err *err)
{
	struct direct_link *l = to_direct(link);
	struct sl_queue_setup setup = {
		.vq = { .num = q->num, .desc = q->desc, .driver = q->driver, .device = q->device, .base = q->base },
	};
	struct direct_queue n = {
		.kick_fd = q->kick_fd >= 0 ? q->kick_fd : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
		.call_fd = q->call_fd >= 0 ? q->call_fd : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
		.started = true,
		.own_kick = q->kick_fd < 0,
		.own_call = q->call_fd < 0,
	};
	int ret = 0;

	if (n.kick_fd < 0 || n.call_fd < 0)
		ret = sl_err_set(err, EMFILE, "direct: eventfd: %s", strerror(errno));
	else if (index >= l->num_queues || l->queues[index].started)
		ret = sl_err_set(err, EINVAL, "direct: queue %u runs already or is none of %u", index, l->num_queues);
	else if (!l->mem)
		ret = sl_err_set(err, EINVAL, "direct: queue %u: no memory was set", index);
	setup.kick_fd = n.kick_fd;
	setup.call_fd = n.call_fd;
	if (!ret)
		ret = sl_queue_start(l->device, index, &setup, l->mem, err);
	if (ret)
		forget_queue(&n);
	else
		l->queues[index] = n;
	return ret;
}

static int direct_queue_stop(struct sl_link *link, unsigned int index, uint32_t *base, struct sl_err *err)
{
	struct direct_link *l = to_direct(link);
	struct direct_queue *q = &l->queues[index];

	if (index >= l->num_queues || !q->started)
		return sl_err_set(err, EINVAL, "direct: queue %u does not run", index);
	q->stopped = false;
	sl_queue_stop(l->device, index);
	if (!wait_until(l, &q->stopped, sl_now() + STOP_NS))
		return sl_err_set(err, ETIMEDOUT, "direct: queue %u: the device does not finish its requests", index);
	if (base)
		*base = q->base;
	forget_queue(q);
	return 0;
}

static void direct_kick(struct sl_link *link, unsigned int index, uint16_t data)
{
	const struct direct_queue *q = &to_direct(link)->queues[index];

	(void)data;
	if (q->started)
		signal_fd(q->kick_fd);
}

static int direct_call_fd(struct sl_link *link, unsigned int index)
{
	return to_direct(link)->queues[index].call_fd;
}

static int direct_event_fd(struct sl_link *link)
{
	return to_direct(link)->event;
}

static unsigned int direct_events(struct sl_link *link)
{
	uint64_t n;

	return read(to_direct(link)->event, &n, sizeof(n)) == sizeof(n) ? SL_LINK_CONFIG : 0;
}

static void direct_close(struct sl_link *link)
{
	struct direct_link *l = to_direct(link);

	/* The device ends its requests sooner or later; before that nobody may let go of it. */
	reset(l, UINT64_MAX, NULL);
	sl_device_attach(l->device, NULL, NULL);
	sl_mem_put(l->mem);
	close(l->event);
	free(l);
}

static const struct sl_link_ops direct_ops = {
	.name = "direct",
	.features = direct_features,
	.accept = direct_accept,
	.status_get = direct_status_get,
	.status_set = direct_status_set,
	.config_read = direct_config_read,
	.config_write = direct_config_write,
	.num_queues = direct_num_queues,
	.set_memory = direct_set_memory,
	.queue_start = direct_queue_start,
	.queue_stop = direct_queue_stop,
	.kick = direct_kick,
	.call_fd = direct_call_fd,
	.event_fd = direct_event_fd,
	.events = direct_events,
	.close = direct_close,
};

struct sl_link *sl_link_direct_open(struct sl_device *device, struct sl_err *err)
{
	unsigned int n = sl_device_num_queues(device);
	struct direct_link *l = calloc(1, sizeof(*l) + n * sizeof(l->queues[0]));

	if (!l) {
		sl_err_set(err, ENOMEM, "direct: out of memory");
		return NULL;
	}
	l->link.ops = &direct_ops;
	l->device = device;
	l->num_queues = n;
	for (unsigned int i = 0; i < n; i++)
		forget_queue(&l->queues[i]);
	l->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->event < 0) {
		sl_err_set(err, errno, "direct: eventfd: %s", strerror(errno));
		free(l);
		return NULL;
	}
	sl_device_attach(device, &direct_transport, l);
	return &l->link;
}
