/* SPDX-License-Identifier: MIT */
/* opts.h - the one grammar of devices, TYPE[,SOURCE][,KEY=VALUE]..., and tables of its keys.
 *
 * A comma inside a value or source is written twice. Each layer (the device
 * model, a device, a source, a filter) has a constant table of its keys that
 * says where the value goes in that layer's struct; opts_apply() fills it.
 * Help text, checks and `sluice devices` iterate the same tables.
 */
#ifndef BASE_OPTS_H
#define BASE_OPTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sluice/error.h>

enum opt_type {
	OPT_BOOL,   /* bool: on, off */
	OPT_UINT,   /* uint64_t: decimal or 0x, between min and max */
	OPT_SIZE,   /* uint64_t: bytes, with K M G T (powers of 1024), between min and max */
	OPT_STRING, /* const char *: points into the spec; NULL when not given and no default */
	OPT_ENUM,   /* unsigned int: index into @values */
};

/**
 * struct opt_def - one key
 * @name:   "queue-size"
 * @offset: offsetof() the value in the layer's struct
 * @def:    default as a person would write it; NULL: leave the member as it is
 * @values: OPT_ENUM: names, ends with NULL
 * @help:   one sentence without a final dot, shown by `sluice devices`
 */
struct opt_def {
	const char *name;
	enum opt_type type;
	size_t offset;
	const char *def;
	uint64_t min, max;
	const char *const *values;
	const char *help;
};

/** struct opt_table - the keys of one layer; ends with a name of NULL */
struct opt_table {
	const char *layer; /* "blk", "file", "virtio": for messages and help */
	const struct opt_def *defs;
};

/**
 * struct opt_source - a form of the SOURCE piece, for help
 * @form: "memory:SIZE"
 * @help: one sentence without a final dot
 */
struct opt_source {
	const char *form, *help;
};

struct spec_pair {
	const char *key, *value;
	bool used;
};

/**
 * struct spec - a device as the person wrote it, cut into pieces
 * @type:   "blk"
 * @source: the piece without '=' after the type, or NULL
 */
struct spec {
	const char *type, *source;
	struct spec_pair *pairs;
	unsigned int n;
	char *text; /* the storage of all strings */
};

/** spec_parse() - cut @text; a key given twice is an error; 0 or -errno with @err filled */
int spec_parse(struct spec *s, const char *text, struct sl_err *err);
void spec_free(struct spec *s);
/** spec_has() - was @key given? */
bool spec_has(const struct spec *s, const char *key);

/** opts_apply() - defaults, then the pairs of @s that @table knows, into @target; marks those used */
int opts_apply(const struct opt_table *table, struct spec *s, void *target, struct sl_err *err);
/** opts_finish() - error for the first pair no table used, with the nearest key of @tables (ends with NULL) */
int opts_finish(const struct opt_table *const *tables, const struct spec *s, struct sl_err *err);

/** opt_nearest() - the name most like @text, or NULL when none is near; @names ends with NULL */
const char *opt_nearest(const char *text, const char *const *names);
/** opt_parse_size() - "64K", "1G", ...; 0 or -EINVAL / -ERANGE */
int opt_parse_size(const char *text, uint64_t *out);
/** opt_parse_uint() - decimal or 0x; 0 or -EINVAL / -ERANGE */
int opt_parse_uint(const char *text, uint64_t *out);

#endif
