/* SPDX-License-Identifier: MIT */
/* devices.c - `sluice devices [TYPE] [--json]`: straight from the tables */
#include "cli/cmd.h"

#include "devices/devices.h"
#include "machine/machine.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static const char *const type_names[] = {
	[OPT_BOOL] = "on|off", [OPT_UINT] = "N", [OPT_SIZE] = "SIZE", [OPT_STRING] = "TEXT", [OPT_ENUM] = ""};

/* "writeback|none|writethrough", or the kind of value */
static void value_form(const struct opt_def *def, char *buf, size_t size)
{
	if (def->type != OPT_ENUM) {
		snprintf(buf, size, "%s", type_names[def->type]);
		return;
	}
	*buf = '\0';
	for (unsigned int i = 0; def->values[i]; i++)
		snprintf(buf + strlen(buf), size - strlen(buf), "%s%s", i ? "|" : "", def->values[i]);
}

static void print_key(const struct opt_def *def)
{
	char form[128], key[200];

	value_form(def, form, sizeof(form));
	snprintf(key, sizeof(key), "%s=%s", def->name, form);
	printf("    %-38s %s", key, def->help);
	if (def->def && def->type != OPT_STRING)
		printf(" [%s]", def->def);
	putchar('\n');
}

static void print_keys(const struct opt_table *table)
{
	if (!table->defs[0].name)
		return;
	printf("  keys of %s\n", table->layer);
	for (const struct opt_def *def = table->defs; def->name; def++)
		print_key(def);
}

static void print_type(const struct device_type *t)
{
	const struct opt_source *src;

	printf("%s: %s (virtio device id %u)\n", t->type, t->summary, t->id);
	for (unsigned int i = 0; t->sources && (src = t->sources(i)); i++)
		printf("%s    %-38s %s\n", i ? "" : "  sources\n", src->form, src->help);
	for (const struct opt_table *const *table = t->tables; *table; table++)
		print_keys(*table);
	print_keys(machine_keys());
}

static json_t *key_json(const struct opt_table *table, const struct opt_def *def)
{
	static const char *const kinds[] = {
		[OPT_BOOL] = "bool", [OPT_UINT] = "uint", [OPT_SIZE] = "size", [OPT_STRING] = "string", [OPT_ENUM] = "enum"};
	json_t *key = json_pack("{s:s, s:s, s:s, s:s?, s:s}", "name", def->name, "layer", table->layer, "type",
				kinds[def->type], "default", def->def, "help", def->help);

	if (def->type == OPT_ENUM) {
		json_t *values = json_array();

		for (unsigned int i = 0; def->values[i]; i++)
			json_array_append_new(values, json_string(def->values[i]));
		json_object_set_new(key, "values", values);
	}
	if (def->type == OPT_UINT || def->type == OPT_SIZE) {
		json_object_set_new(key, "min", json_integer((json_int_t)def->min));
		if (def->max)
			json_object_set_new(key, "max", json_integer((json_int_t)def->max));
	}
	return key;
}

static void keys_json(json_t *keys, const struct opt_table *table)
{
	for (const struct opt_def *def = table->defs; def->name; def++)
		json_array_append_new(keys, key_json(table, def));
}

static json_t *type_json(const struct device_type *t)
{
	json_t *keys = json_array(), *sources = json_array();
	const struct opt_source *src;

	for (unsigned int i = 0; t->sources && (src = t->sources(i)); i++)
		json_array_append_new(sources, json_pack("{s:s, s:s}", "form", src->form, "help", src->help));
	for (const struct opt_table *const *table = t->tables; *table; table++)
		keys_json(keys, *table);
	keys_json(keys, machine_keys());
	return json_pack("{s:s, s:i, s:s, s:o, s:o}", "type", t->type, "id", t->id, "summary", t->summary, "sources",
			 sources, "keys", keys);
}

static int print_json(const struct device_type *one)
{
	json_t *all = json_array();

	for (const struct device_type *const *t = device_types(); *t; t++)
		if (!one || *t == one)
			json_array_append_new(all, type_json(*t));
	json_dumpf(all, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(all);
	return 0;
}

int cmd_devices(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
	const struct device_type *one = NULL;
	bool json = false;
	struct sl_err err;
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case 'j':
			json = true;
			break;
		case 'h':
			printf("usage: sluice devices [TYPE] [--json]\n\n"
			       "Prints the device types with their sources, keys and [defaults].\n");
			return 0;
		default:
			return cmd_bad_option("devices", argv, c, options);
		}
	}
	if (argc - optind > 1)
		return cmd_usage("devices", "'%s': one TYPE at most", argv[optind + 1]);
	if (optind < argc) {
		one = device_type_find(argv[optind], &err);
		if (!one)
			return cmd_usage("devices", "%s", err.text);
	}
	if (json)
		return print_json(one);
	for (const struct device_type *const *t = device_types(); *t; t++)
		if (!one || *t == one)
			print_type(*t);
	return 0;
}
