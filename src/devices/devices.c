/* SPDX-License-Identifier: MIT */
/* devices.c - the table of device types, and the keys that all of them take */
#include "devices/devices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct device_type *const types[] = {
	&device_blk,
	&device_fs,
	NULL,
};
#define NUM_TYPES (sizeof(types) / sizeof(types[0]) - 1)

static const struct opt_def place_defs[] = {
	{"socket", OPT_STRING, offsetof(struct device_place, socket),
	 .help = "serve: listen on this path; run: the device lives there, in another process"},
	{"fd", OPT_UINT, offsetof(struct device_place, fd), .max = INT32_MAX,
	 .help = "use this inherited socket, listening or connected"},
	{"id", OPT_STRING, offsetof(struct device_place, id), .help = "name the device for `sluice control`"},
	{0},
};

const struct opt_table device_place_table = {"placement", place_defs};

static const struct opt_def device_defs[] = {
	{"packed", OPT_BOOL, offsetof(struct device_options, packed), .def = "on", .help = "offer packed rings"},
	{"indirect", OPT_BOOL, offsetof(struct device_options, indirect), .def = "on",
	 .help = "offer indirect descriptors"},
	{"event-idx", OPT_BOOL, offsetof(struct device_options, event_idx), .def = "on",
	 .help = "offer notifications by index, which saves most of them"},
	{"in-order", OPT_BOOL, offsetof(struct device_options, in_order), .def = "off",
	 .help = "offer to use buffers in order; a slow request then holds up those behind it"},
	{"queue-size", OPT_UINT, offsetof(struct device_options, queue_size), .def = "1024", .min = 2,
	 .max = SL_VQ_MAX_SIZE, .help = "largest ring that a driver may ask for"},
	{"poll-us", OPT_UINT, offsetof(struct device_options, poll_us), .def = "64", .max = 1000000,
	 .help = "look for work for up to so many microseconds before sleeping; 0 never polls"},
	{"stop-timeout", OPT_UINT, offsetof(struct device_options, stop_timeout), .def = "30", .max = 86400,
	 .help = "seconds that a stop or reset waits for a store that does not answer; 0 waits for ever"},
	{0},
};

const struct opt_table device_options_table = {"every device", device_defs};

const struct device_type *const *device_types(void)
{
	return types;
}

const struct device_type *device_type_find(const char *name, struct sl_err *err)
{
	const char *names[NUM_TYPES + 1] = {0};
	const char *near;

	for (unsigned int i = 0; i < NUM_TYPES; i++) {
		if (!strcmp(name, types[i]->type))
			return types[i];
		names[i] = types[i]->type;
	}
	near = opt_nearest(name, names);
	if (near)
		sl_err_set(err, EINVAL, "%s: unknown device type; did you mean '%s'?", name, near);
	else
		sl_err_set(err, EINVAL, "%s: unknown device type; `sluice devices` lists them", name);
	return NULL;
}

void device_features(const struct device_options *o, struct sl_features *f)
{
	static const unsigned int always[] = {SL_F_ANY_LAYOUT, SL_F_VERSION_1, SL_F_NOTIFICATION_DATA, SL_F_RING_RESET};

	for (unsigned int i = 0; i < sizeof(always) / sizeof(always[0]); i++)
		sl_features_set(f, always[i]);
	if (o->indirect)
		sl_features_set(f, SL_F_INDIRECT_DESC);
	if (o->event_idx)
		sl_features_set(f, SL_F_EVENT_IDX);
	if (o->packed)
		sl_features_set(f, SL_F_RING_PACKED);
	if (o->in_order)
		sl_features_set(f, SL_F_IN_ORDER);
}

/* A key that nobody took but some layer of the type knows, and the layer's name; NULL: there is none. */
static const char *other_key(const struct device_type *t, const struct spec *s, const char **layer)
{
	for (unsigned int i = 0; i < s->n; i++) {
		if (s->pairs[i].used)
			continue;
		for (const struct opt_table *const *table = t->tables; *table; table++)
			for (const struct opt_def *d = (*table)->defs; d->name; d++) {
				*layer = (*table)->layer;
				if (!strcmp(d->name, s->pairs[i].key))
					return d->name;
			}
	}
	return NULL;
}

/* Such a key is good, only not with this source. */
static int refuse_misplaced(const struct device_type *t, const struct spec *s, struct sl_err *err)
{
	const char *layer, *key = other_key(t, s, &layer);

	return !key ? 0 : sl_err_set(err, EINVAL, "%s: key '%s' belongs to '%s' and means nothing to %s", s->type, key, layer,
				     s->source ? s->source : "it");
}

int device_finish_elsewhere(const struct device_type *type, const struct opt_table *const *tables, const struct spec *s,
			    struct sl_err *err)
{
	const char *layer, *key = other_key(type, s, &layer);

	if (s->source)
		return sl_err_set(err, EINVAL, "%s: %s: the source belongs to the process that serves socket=", s->type,
				  s->source);
	if (key)
		return sl_err_set(err, EINVAL, "%s: key '%s' belongs to the process that serves socket=", s->type, key);
	return opts_finish(tables, s, err);
}

struct served_device *device_open(struct spec *s, const struct device_env *env, struct sl_err *err)
{
	const struct device_type *type = device_type_find(s->type, err);
	struct served_device *d = type ? calloc(1, type->size) : NULL;
	struct device_options o;

	if (!d) {
		if (type)
			sl_err_set(err, ENOMEM, "%s: out of memory", s->type);
		return NULL;
	}
	d->type = type;
	d->place.fd = DEVICE_NO_FD;
	if (opts_apply(&device_place_table, s, &d->place, err) || opts_apply(&device_options_table, s, &o, err) ||
	    type->open(d, s, &o, env, err)) {
		free(d);
		return NULL;
	}
	if (refuse_misplaced(type, s, err) || opts_finish(type->tables, s, err)) {
		device_close(d);
		return NULL;
	}
	return d;
}

void device_close(struct served_device *d)
{
	if (!d)
		return;
	d->type->close(d);
	free(d);
}

int device_refresh(struct served_device *d, struct sl_err *err)
{
	return d->type->refresh ? d->type->refresh(d, err) : 0;
}

int device_resize(struct served_device *d, uint64_t size, struct sl_err *err)
{
	if (!d->type->resize)
		return sl_err_set(err, ENOTSUP, "%s: has no size", sl_device_name(d->dev));
	return d->type->resize(d, size, err);
}

void device_report(struct served_device *d, const struct device_report *r)
{
	if (d->type->report)
		d->type->report(d, r);
}

void device_report_queue(struct served_device *d, unsigned int index, const struct device_report *r)
{
	struct sl_queue_stats s;

	sl_queue_stats(d->dev, index, &s);
	r->number(r->arg, "requests", s.requests);
	r->number(r->arg, "in-flight", s.in_flight);
	r->number(r->arg, "kicks", s.kicks);
	r->number(r->arg, "calls", s.calls);
	r->number(r->arg, "rounds", s.rounds);
	if (d->type->report_queue)
		d->type->report_queue(d, index, r);
}

/* ---- names ---- */

static const char *id_of(const struct spec *s)
{
	for (unsigned int i = 0; i < s->n; i++)
		if (!strcmp(s->pairs[i].key, "id"))
			return s->pairs[i].value;
	return NULL;
}

/* A device without a name goes by its number, so a name is none. */
static int check_id(const char *id, struct sl_err *err)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";

	if (!*id || id[strspn(id, allowed)] || strspn(id, "0123456789") == strlen(id))
		return sl_err_set(err, EINVAL, "id=%s: wants letters, digits, '-', '_' and '.', not digits alone", id);
	return 0;
}

int device_check_ids(const char *const *texts, unsigned int n, struct sl_err *err)
{
	struct spec *specs = calloc(n ? n : 1, sizeof(*specs));
	int ret = specs ? 0 : sl_err_set(err, ENOMEM, "out of memory");
	const char *id, *other;
	unsigned int parsed = 0;

	for (; !ret && parsed < n; parsed++) {
		if (spec_parse(&specs[parsed], texts[parsed], NULL))
			break;
		id = id_of(&specs[parsed]);
		if (!id)
			continue;
		ret = check_id(id, err);
		for (unsigned int i = 0; i < parsed && !ret; i++) {
			other = id_of(&specs[i]);
			if (other && !strcmp(other, id))
				ret = sl_err_set(err, EINVAL, "id=%s: two devices have this name", id);
		}
	}
	while (parsed--)
		spec_free(&specs[parsed]);
	free(specs);
	return ret;
}
