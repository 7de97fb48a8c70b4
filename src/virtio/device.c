/* SPDX-License-Identifier: MIT */
/* device.c - the device model: features, status, configuration space, reset.
 *
 * Everything here runs on the control loop. A device type adds data and a few
 * operations; see sluice/virtio.h.
 */
#include "virtio/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void nothing(void *arg)
{
	(void)arg;
}

static int check_config(const struct sl_device_config *cfg, struct sl_err *err)
{
	if (!cfg->num_queues || cfg->num_queues > SL_DEVICE_MAX_QUEUES)
		return sl_err_set(err, EINVAL, "%s: %u queues, 1 to %u are allowed", cfg->name, cfg->num_queues,
				  SL_DEVICE_MAX_QUEUES);
	if (!cfg->max_queue_size || cfg->max_queue_size > SL_VQ_MAX_SIZE)
		return sl_err_set(err, EINVAL, "%s: queue size %u, 1 to %u are allowed", cfg->name, cfg->max_queue_size,
				  SL_VQ_MAX_SIZE);
	if (cfg->config_len > SL_DEVICE_MAX_CONFIG)
		return sl_err_set(err, EINVAL, "%s: %u bytes of configuration, at most %u are allowed", cfg->name,
				  cfg->config_len, SL_DEVICE_MAX_CONFIG);
	if (cfg->num_shm > SL_DEVICE_MAX_SHM)
		return sl_err_set(err, EINVAL, "%s: %u regions of shared memory, at most %u are allowed", cfg->name,
				  cfg->num_shm, SL_DEVICE_MAX_SHM);
	for (unsigned int i = 0; i < cfg->num_shm; i++)
		if (!cfg->shm[i].size || (cfg->shm[i].size | (uintptr_t)cfg->shm[i].hva) % 4096)
			return sl_err_set(err, EINVAL, "%s: shared memory %u: is not made of pages", cfg->name, cfg->shm[i].id);
	return 0;
}

struct sl_device *sl_device_new(const struct sl_device_config *cfg, struct sl_err *err)
{
	size_t priv_size = (cfg->ops->queue_size + 63) & ~(size_t)63;
	struct sl_device *d;
	char *privs;

	if (check_config(cfg, err))
		return NULL;
	d = calloc(1, sizeof(*d) + cfg->num_queues * sizeof(d->queues[0]));
	privs = d && priv_size ? aligned_alloc(64, cfg->num_queues * priv_size) : NULL;
	if (!d || (priv_size && !privs))
		goto no_memory;
	d->name = strdup(cfg->name);
	d->config = calloc(1, cfg->config_len ? cfg->config_len : 1);
	if (!d->name || !d->config)
		goto no_memory;
	if (cfg->config_len)
		memcpy(d->config, cfg->config, cfg->config_len);
	d->ops = cfg->ops;
	d->priv = cfg->priv;
	d->control = cfg->control;
	d->offered = cfg->offered;
	d->num_queues = cfg->num_queues;
	d->max_queue_size = cfg->max_queue_size;
	d->poll_us = cfg->poll_us;
	d->stop_timeout_ms = cfg->stop_timeout_ms;
	d->config_len = cfg->config_len;
	d->writable = cfg->writable;
	d->num_shm = cfg->num_shm;
	for (unsigned int i = 0; i < cfg->num_shm; i++)
		d->shm[i] = cfg->shm[i];
	for (unsigned int i = 0; i < d->num_queues; i++) {
		struct sl_loop *loop = d->control;

		if (cfg->num_loops)
			loop = cfg->loops[(cfg->first_loop + i) % cfg->num_loops];
		queue_init(d, i, loop);
		d->queues[i].priv = privs ? privs + i * priv_size : NULL;
	}
	return d;
no_memory:
	sl_err_set(err, ENOMEM, "%s: out of memory", cfg->name);
	if (d) {
		free(d->name);
		free(d->config);
	}
	free(privs);
	free(d);
	return NULL;
}

void sl_device_free(struct sl_device *d)
{
	if (!d)
		return;
	/* Kicks that other threads sent before are behind us when this returns. */
	for (unsigned int i = 0; i < d->num_queues; i++)
		sl_loop_invoke(d->queues[i].loop, nothing, NULL);
	free(d->queues[0].priv);
	free(d->config);
	free(d->name);
	free(d);
}

/* ---- features ---- */

/* Is @f a choice that a driver may make? */
static bool legal(const struct sl_device *d, const struct sl_features *f)
{
	for (unsigned int i = 0; i < SL_FEATURE_WORDS; i++)
		if (f->w[i] & ~d->offered.w[i])
			return false;
	/* virtio 1.4, 6.1: these have no meaning for a legacy driver */
	if (!sl_features_has(f, SL_F_VERSION_1) &&
	    (sl_features_has(f, SL_F_RING_PACKED) || sl_features_has(f, SL_F_IN_ORDER)))
		return false;
	return true;
}

int sl_device_accept(struct sl_device *d, const struct sl_features *f)
{
	if (!legal(d, f))
		return -EINVAL;
	if (!memcmp(f, &d->accepted, sizeof(*f)))
		return 0;
	for (unsigned int i = 0; i < d->num_queues; i++)
		if (d->queues[i].state != QUEUE_STOPPED)
			return -EBUSY;
	d->accepted = *f;
	if (d->ops->features_set)
		d->ops->features_set(d);
	return 0;
}

/* ---- configuration space ---- */

void sl_device_config_read(const struct sl_device *d, uint32_t off, void *dst, uint32_t len)
{
	uint32_t n = off < d->config_len ? d->config_len - off : 0;

	if (n > len)
		n = len;
	if (n)
		memcpy(dst, d->config + off, n);
	memset((char *)dst + n, 0, len - n);
}

static bool writable(const struct sl_device *d, uint32_t byte)
{
	for (const struct sl_config_range *r = d->writable; r && r->len; r++)
		if (byte >= r->off && byte - r->off < r->len)
			return true;
	return false;
}

int sl_device_config_write(struct sl_device *d, uint32_t off, const void *src, uint32_t len)
{
	if (off > d->config_len || len > d->config_len - off)
		return -EINVAL;
	for (uint32_t i = 0; i < len; i++)
		if (!writable(d, off + i))
			return -EINVAL;
	if (!len)
		return 0;
	memcpy(d->config + off, src, len);
	if (d->ops->config_written)
		d->ops->config_written(d, off, len);
	return 0;
}

void sl_device_config_update(struct sl_device *d, uint32_t off, const void *src, uint32_t len)
{
	if (off > d->config_len || len > d->config_len - off || !memcmp(d->config + off, src, len))
		return;
	memcpy(d->config + off, src, len);
	d->generation++;
	if (d->transport && d->transport->config_changed)
		d->transport->config_changed(d->t);
}

/* ---- status and reset ---- */

int sl_device_set_status(struct sl_device *d, uint8_t status)
{
	uint8_t added = status & (uint8_t)~d->status;
	int ret = 0;

	if (added & SL_STATUS_FEATURES_OK && !legal(d, &d->accepted)) {
		added &= (uint8_t)~SL_STATUS_FEATURES_OK;
		ret = -EINVAL;
	}
	if (added & SL_STATUS_DRIVER_OK && !((d->status | added) & SL_STATUS_FEATURES_OK) &&
	    sl_features_has(&d->accepted, SL_F_VERSION_1)) {
		added &= (uint8_t)~SL_STATUS_DRIVER_OK;
		ret = -EINVAL;
	}
	/* Only the device says that it needs a reset. */
	added &= (uint8_t)~SL_STATUS_NEEDS_RESET;
	d->status |= added;
	return ret;
}

static void reset_finish(struct sl_device *d)
{
	void (*done)(void *arg) = d->reset_done;

	for (unsigned int i = 0; i < d->num_queues; i++)
		if (d->queues[i].state != QUEUE_STOPPED)
			return;
	d->reset_done = NULL;
	d->accepted = (struct sl_features){0};
	d->status = 0;
	if (d->ops->reset)
		d->ops->reset(d);
	done(d->reset_arg);
}

void sl_device_reset(struct sl_device *d, void (*done)(void *arg), void *arg)
{
	d->reset_done = done ? done : nothing;
	d->reset_arg = arg;
	for (unsigned int i = 0; i < d->num_queues; i++) {
		struct sl_queue *q = &d->queues[i];

		/* One that stops already is still owed to the transport. */
		q->by_reset |= q->state == QUEUE_RUNNING;
		queue_ask_stop(q, true);
	}
	reset_finish(d);
}

static void stop(struct sl_device *d, unsigned int index, bool forget)
{
	struct sl_queue *q;

	if (index >= d->num_queues)
		return;
	q = &d->queues[index];
	if (!queue_ask_stop(q, forget) && d->transport)
		d->transport->queue_stopped(d->t, index, q->last_base);
}

void sl_queue_stop(struct sl_device *d, unsigned int index)
{
	stop(d, index, false);
}

void sl_queue_reset(struct sl_device *d, unsigned int index)
{
	stop(d, index, true);
}

void device_queue_stopped(struct sl_queue *q)
{
	struct sl_device *d = q->device;
	bool by_reset = q->by_reset;

	q->by_reset = false;
	if (!by_reset && d->transport)
		d->transport->queue_stopped(d->t, q->index, q->last_base);
	if (d->reset_done)
		reset_finish(d);
}

void sl_device_needs_reset(struct sl_device *d, unsigned int index, const char *why)
{
	sl_log_limited(&d->limit, SL_LOG_WARN, "%s: queue %u: %s: no more requests until the driver resets it", d->name,
		       index, why);
	d->status |= SL_STATUS_NEEDS_RESET;
	if (!d->transport)
		return;
	d->transport->queue_broken(d->t, index, why);
	/* virtio 1.4, 2.1.2: a driver that is up is told by a configuration change */
	if (d->transport->config_changed)
		d->transport->config_changed(d->t);
}

void device_queue_broke(struct sl_queue *q)
{
	q->was_broken = true;
	sl_device_needs_reset(q->device, q->index, q->why ? q->why : "broken");
}

/* ---- accessors ---- */

void sl_device_attach(struct sl_device *d, const struct sl_transport_ops *ops, void *t)
{
	d->transport = ops;
	d->t = t;
}

void *sl_device_priv(const struct sl_device *d)
{
	return d->priv;
}

const char *sl_device_name(const struct sl_device *d)
{
	return d->name;
}

uint16_t sl_device_id(const struct sl_device *d)
{
	return d->ops->id;
}

unsigned int sl_device_num_queues(const struct sl_device *d)
{
	return d->num_queues;
}

uint16_t sl_device_max_queue_size(const struct sl_device *d)
{
	return d->max_queue_size;
}

struct sl_loop *sl_device_control(const struct sl_device *d)
{
	return d->control;
}

const struct sl_features *sl_device_offered(const struct sl_device *d)
{
	return &d->offered;
}

const struct sl_features *sl_device_features(const struct sl_device *d)
{
	return &d->accepted;
}

uint16_t sl_device_config_len(const struct sl_device *d)
{
	return d->config_len;
}

const struct sl_shm *sl_device_shm(const struct sl_device *d, unsigned int *n)
{
	*n = d->num_shm;
	return d->shm;
}

uint32_t sl_device_generation(const struct sl_device *d)
{
	return d->generation;
}

uint8_t sl_device_status(const struct sl_device *d)
{
	return d->status;
}
