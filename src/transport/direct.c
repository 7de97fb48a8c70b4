/* SPDX-License-Identifier: MIT */
/* direct.c - a driver and a device in one process */
#include "transport/direct.h"

#include <errno.h>
#include <stdlib.h>

static void queue_call(void *arg, unsigned int index)
{
	struct direct *t = arg;

	__atomic_fetch_add(&t->queues[index].calls, 1, __ATOMIC_RELEASE);
}

static void queue_stopped(void *arg, unsigned int index, uint32_t base)
{
	struct direct *t = arg;

	t->queues[index].stopped = true;
	t->queues[index].base = base;
}

static void queue_broken(void *arg, unsigned int index, const char *why)
{
	struct direct *t = arg;

	t->queues[index].broken = why;
}

static void config_changed(void *arg)
{
	struct direct *t = arg;

	t->config_changes++;
}

static void reset_done(void *arg)
{
	struct direct *t = arg;

	t->reset = true;
}

static const struct sl_transport_ops direct_ops = {
	.queue_call = queue_call,
	.queue_stopped = queue_stopped,
	.queue_broken = queue_broken,
	.config_changed = config_changed,
	.shared_calls = true, /* what the caller hands over may be anything */
};

int direct_attach(struct direct *t, struct sl_device *device)
{
	*t = (struct direct){.device = device};
	t->queues = calloc(sl_device_num_queues(device), sizeof(*t->queues));
	if (!t->queues)
		return -ENOMEM;
	sl_device_attach(device, &direct_ops, t);
	return 0;
}

/* Turn the control loop until *@flag; a data loop of its own keeps running meanwhile. */
static void wait_for(struct direct *t, const bool *flag)
{
	while (!*flag)
		sl_loop_step(sl_device_control(t->device), 10);
}

uint32_t direct_stop(struct direct *t, unsigned int index)
{
	t->queues[index].stopped = false;
	sl_queue_stop(t->device, index);
	wait_for(t, &t->queues[index].stopped);
	return t->queues[index].base;
}

void direct_reset(struct direct *t)
{
	t->reset = false;
	sl_device_reset(t->device, reset_done, t);
	wait_for(t, &t->reset);
	for (unsigned int i = 0; i < sl_device_num_queues(t->device); i++)
		t->queues[i].broken = NULL;
}

void direct_detach(struct direct *t)
{
	direct_reset(t);
	sl_device_attach(t->device, NULL, NULL);
	free(t->queues);
	t->queues = NULL;
}
