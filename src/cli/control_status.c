/* SPDX-License-Identifier: MIT */
/* control_status.c - what a running process says of its devices, as JSON */
#include "cli/control.h"

#include <unistd.h>

static const char *const states[] = {
	[SL_QUEUE_STOPPED] = "stopped",
	[SL_QUEUE_RUNNING] = "running",
	[SL_QUEUE_STOPPING] = "stopping",
	[SL_QUEUE_BROKEN] = "broken",
};

/* Names of files may be no UTF-8, which JSON has to be. */
static json_t *text_json(const char *text)
{
	json_t *t = text ? json_string(text) : json_null();

	return t ? t : json_string("?");
}

static void add_number(void *arg, const char *name, uint64_t value)
{
	json_object_set_new(arg, name, json_integer((json_int_t)value));
}

static json_t *queue_json(struct served_device *d, unsigned int index)
{
	json_t *queue = json_pack("{s:i, s:s}", "index", index, "state", states[sl_queue_state(d->dev, index)]);
	const struct device_report r = {.number = add_number, .arg = queue};

	device_report_queue(d, index, &r);
	return queue;
}

static json_t *device_json(const struct device_view *v)
{
	json_t *device = json_pack("{s:i, s:o, s:o, s:s, s:b}", "number", v->number, "id", text_json(v->id), "device",
				   text_json(v->text), "type", v->type, "connected", v->connected);
	json_t *figures = json_object(), *queues = json_array();
	const struct device_report r = {.number = add_number, .arg = figures};

	if (v->socket)
		json_object_set_new(device, "socket", text_json(v->socket));
	json_object_set_new(device, "elsewhere", json_boolean(!v->served));
	if (v->served) {
		device_report(v->served, &r);
		for (unsigned int i = 0; i < sl_device_num_queues(v->served->dev); i++)
			json_array_append_new(queues, queue_json(v->served, i));
	}
	json_object_set_new(device, "figures", figures);
	json_object_set_new(device, "queues", queues);
	return device;
}

json_t *control_status(const struct control_config *cfg, const struct device_view *only, uint64_t started)
{
	json_t *devices = json_array();
	struct device_view v;

	if (only)
		json_array_append_new(devices, device_json(only));
	for (unsigned int n = 0; !only && cfg->device(cfg->arg, n, &v); n++)
		json_array_append_new(devices, device_json(&v));
	return json_pack("{s:s, s:i, s:I, s:o}", "command", cfg->command, "pid", (int)getpid(), "up-ms",
			 (json_int_t)((sl_now() - started) / 1000000), "devices", devices);
}
