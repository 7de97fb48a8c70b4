/* SPDX-License-Identifier: MIT */
/* fs.c - virtio-fs (virtio 1.4, 5.11), a directory of the host: of another process, as there is none of ours
 *
 * What the monitor has to know of it is here; src/machine/placed.c reaches the
 * process that serves it.
 */
#include <errno.h>

#include "devices/devices.h"

static const struct opt_def fs_defs[] = {
	{"socket", OPT_STRING, offsetof(struct fs_options, socket), .help = "where the process that serves it listens"},
	{"tag", OPT_STRING, offsetof(struct fs_options, tag), .help = "the name by which the guest mounts it"},
	{0},
};

const struct opt_table fs_options_table = {"fs", fs_defs};

static const struct opt_table *const fs_tables[] = {&fs_options_table, NULL};

static int fs_open(struct served_device *d, struct spec *s, const struct device_options *o,
		   const struct device_env *env, struct sl_err *err)
{
	(void)d;
	(void)o;
	(void)env;
	return sl_err_set(err, ENOTSUP, "%s: lives in another process only: socket=PATH in `sluice run --engine kvm`",
			  s->type);
}

const struct device_type device_fs = {
	.type = "fs",
	.summary = "a directory of the host, served by another process such as virtiofsd",
	.id = 26,
	.size = sizeof(struct served_device),
	.tables = fs_tables,
	.open = fs_open,
};
