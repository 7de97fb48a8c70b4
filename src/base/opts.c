/* SPDX-License-Identifier: MIT */
/* opts.c - cutting TYPE[,SOURCE][,KEY=VALUE]... and filling option structs from tables */
#include "base/opts.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Cut the next piece at a single comma; ",," becomes ",". *@p moves behind it; NULL at the end. */
static char *next_piece(char **p)
{
	char *start = *p, *in = start, *out = start;

	if (!start)
		return NULL;
	while (*in && (in[0] != ',' || in[1] == ',')) {
		if (*in == ',')
			in++;
		*out++ = *in++;
	}
	*p = *in ? in + 1 : NULL;
	*out = '\0';
	return start;
}

/* A piece is a pair when a key (letters, digits, '-') stands before its first '='. */
static bool is_pair(const char *piece)
{
	size_t n = strspn(piece, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");

	return n > 0 && piece[n] == '=';
}

static int add_pair(struct spec *s, char *piece, struct sl_err *err)
{
	char *eq = strchr(piece, '=');
	struct spec_pair *pairs;

	*eq = '\0';
	if (spec_has(s, piece))
		return sl_err_set(err, EINVAL, "%s: key '%s' is given twice", s->type, piece);
	pairs = realloc(s->pairs, (s->n + 1) * sizeof(*pairs));
	if (!pairs)
		return sl_err_set(err, ENOMEM, "%s: out of memory", s->type);
	s->pairs = pairs;
	s->pairs[s->n++] = (struct spec_pair){.key = piece, .value = eq + 1};
	return 0;
}

int spec_parse(struct spec *s, const char *text, struct sl_err *err)
{
	char *p, *piece;
	int ret;

	*s = (struct spec){.text = strdup(text)};
	if (!s->text)
		return sl_err_set(err, ENOMEM, "%s: out of memory", text);
	p = s->text;
	s->type = next_piece(&p);
	if (!*s->type || is_pair(s->type)) {
		ret = sl_err_set(err, EINVAL, "'%s': a device starts with its type, as in 'blk,disk.img'", text);
		goto fail;
	}
	while ((piece = next_piece(&p))) {
		if (is_pair(piece)) {
			ret = add_pair(s, piece, err);
			if (ret)
				goto fail;
		} else if (!*piece) {
			ret = sl_err_set(err, EINVAL, "'%s': an empty piece between commas", text);
			goto fail;
		} else if (s->source || s->n) {
			ret = sl_err_set(err, EINVAL, "'%s': '%s' is neither KEY=VALUE nor the source behind '%s,'", text,
					 piece, s->type);
			goto fail;
		} else {
			s->source = piece;
		}
	}
	return 0;
fail:
	spec_free(s);
	return ret;
}

void spec_free(struct spec *s)
{
	free(s->pairs);
	free(s->text);
	*s = (struct spec){0};
}

bool spec_has(const struct spec *s, const char *key)
{
	for (unsigned int i = 0; i < s->n; i++)
		if (!strcmp(s->pairs[i].key, key))
			return true;
	return false;
}

int opt_parse_uint(const char *text, uint64_t *out)
{
	char *end;
	int base = !strncmp(text, "0x", 2) ? 16 : 10;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	*out = strtoull(text, &end, base);
	if (errno)
		return -ERANGE;
	return *end ? -EINVAL : 0;
}

int opt_parse_size(const char *text, uint64_t *out)
{
	static const char units[] = "KMGTPE";
	unsigned int shift = 0;
	const char *unit;
	uint64_t n;
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	if (*end) {
		unit = strchr(units, toupper((unsigned char)*end));
		if (!unit || (end[1] && strcmp(end + 1, "iB") && strcmp(end + 1, "B")))
			return -EINVAL;
		shift = 10 * (unsigned int)(unit - units + 1);
	}
	if (shift && n >> (64 - shift))
		return -ERANGE;
	*out = n << shift;
	return 0;
}

/* Levenshtein distance, in which two neighbours that changed places are one edit. Capped: names are short. */
static unsigned int distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b);
	unsigned int rows[3][64];

	if (la >= 63 || lb >= 63)
		return 99;
	for (size_t j = 0; j <= lb; j++)
		rows[0][j] = (unsigned int)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned int *row = rows[i % 3], *above = rows[(i + 2) % 3], *second = rows[(i + 1) % 3];
		const int c = tolower((unsigned char)a[i - 1]);

		row[0] = (unsigned int)i;
		for (size_t j = 1; j <= lb; j++) {
			row[j] = above[j - 1] + (c != b[j - 1]);
			if (above[j] + 1 < row[j])
				row[j] = above[j] + 1;
			if (row[j - 1] + 1 < row[j])
				row[j] = row[j - 1] + 1;
			if (i > 1 && j > 1 && c == b[j - 2] && tolower((unsigned char)a[i - 2]) == b[j - 1] &&
			    second[j - 2] + 1 < row[j])
				row[j] = second[j - 2] + 1;
		}
	}
	return rows[la % 3][lb];
}

const char *opt_nearest(const char *text, const char *const *names)
{
	const char *best = NULL;
	unsigned int best_d = (unsigned int)strlen(text) / 2 + 1;

	for (; *names; names++) {
		unsigned int d = distance(text, *names);

		if (d < best_d || (!best && *text && !strncmp(*names, text, strlen(text)))) {
			best_d = d;
			best = *names;
		}
	}
	return best;
}

static int bad_value(const struct spec *s, const struct opt_def *d, const char *value, const char *wants,
		     struct sl_err *err)
{
	return sl_err_set(err, EINVAL, "%s: %s=%s: wants %s", s->type, d->name, value, wants);
}

static int set_enum(const struct spec *s, const struct opt_def *d, const char *value, unsigned int *out,
		    struct sl_err *err)
{
	char wants[200] = "one of";
	const char *near = opt_nearest(value, d->values);

	for (unsigned int i = 0; d->values[i]; i++) {
		if (!strcmp(value, d->values[i])) {
			*out = i;
			return 0;
		}
		if (strlen(wants) + strlen(d->values[i]) + 3 < sizeof(wants)) {
			strcat(wants, i ? ", " : " ");
			strcat(wants, d->values[i]);
		}
	}
	if (near)
		return sl_err_set(err, EINVAL, "%s: %s=%s: unknown; did you mean '%s'?", s->type, d->name, value, near);
	return bad_value(s, d, value, wants, err);
}

static int set_number(const struct spec *s, const struct opt_def *d, const char *value, uint64_t *out,
		      struct sl_err *err)
{
	int ret = d->type == OPT_SIZE ? opt_parse_size(value, out) : opt_parse_uint(value, out);

	if (ret == -EINVAL)
		return bad_value(s, d, value, d->type == OPT_SIZE ? "a size such as 64K or 1G" : "a number", err);
	if (ret || *out < d->min || (d->max && *out > d->max))
		return sl_err_set(err, EINVAL, "%s: %s=%s: out of range, %llu to %llu are allowed", s->type, d->name,
				  value, (unsigned long long)d->min,
				  (unsigned long long)(d->max ? d->max : UINT64_MAX));
	return 0;
}

static int set_value(const struct spec *s, const struct opt_def *d, const char *value, void *target,
		     struct sl_err *err)
{
	static const char *const switches[] = {"off", "on", NULL};
	void *member = (char *)target + d->offset;
	unsigned int index;
	struct opt_def as_enum = *d;
	int ret;

	switch (d->type) {
	case OPT_BOOL:
		as_enum.values = switches;
		ret = set_enum(s, &as_enum, value, &index, err);
		if (!ret)
			*(bool *)member = index;
		return ret;
	case OPT_ENUM:
		return set_enum(s, d, value, member, err);
	case OPT_UINT:
	case OPT_SIZE:
		return set_number(s, d, value, member, err);
	case OPT_STRING:
		if (!*value)
			return sl_err_set(err, EINVAL, "%s: %s= needs a value", s->type, d->name);
		*(const char **)member = value;
		return 0;
	}
	return -EINVAL;
}

int opts_apply(const struct opt_table *table, struct spec *s, void *target, struct sl_err *err)
{
	for (const struct opt_def *d = table->defs; d->name; d++) {
		const char *value = d->def;
		int ret;

		for (unsigned int i = 0; i < s->n; i++) {
			if (!strcmp(s->pairs[i].key, d->name)) {
				value = s->pairs[i].value;
				s->pairs[i].used = true;
			}
		}
		if (!value)
			continue;
		ret = set_value(s, d, value, target, err);
		if (ret)
			return ret;
	}
	return 0;
}

int opts_finish(const struct opt_table *const *tables, const struct spec *s, struct sl_err *err)
{
	const char *names[128];
	unsigned int n = 0;
	const char *near;

	for (; *tables; tables++)
		for (const struct opt_def *d = (*tables)->defs; d->name && n < 127; d++)
			names[n++] = d->name;
	names[n] = NULL;
	for (unsigned int i = 0; i < s->n; i++) {
		if (s->pairs[i].used)
			continue;
		near = opt_nearest(s->pairs[i].key, names);
		if (near)
			return sl_err_set(err, EINVAL, "%s: unknown key '%s'; did you mean '%s'?", s->type,
					  s->pairs[i].key, near);
		return sl_err_set(err, EINVAL, "%s: unknown key '%s'; `sluice devices %s` lists the keys", s->type,
				  s->pairs[i].key, s->type);
	}
	return 0;
}
