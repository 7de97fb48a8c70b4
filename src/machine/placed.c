/* SPDX-License-Identifier: MIT */
/* placed.c - devices of engine kvm that another process serves: which types, their keys, what is special about each
 *
 * Most of a device type is the back-end's business. What is left for the
 * monitor is little: the id, how much configuration there is, which of its
 * bytes belong to whom.
 */
#include "machine/placed.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define BIT(n) (1ULL << (n))
#define FS_TAG_LEN 36

/**
 * struct placed_options - keys of a device that another process serves
 * @queues: 0: all that it has
 */
struct placed_options {
	const char *socket;
	uint64_t queues, queue_size, stop_timeout;
	bool packed, indirect, event_idx, in_order;
};

/** struct fs_config - virtio 1.4, 5.11.4 */
struct fs_config {
	char tag[FS_TAG_LEN];
	uint32_t num_request_queues;
} __attribute__((packed));

/* ---- blk ---- */

static const struct sl_config_range blk_writable[] = {{offsetof(struct virtio_blk_config, wce), 1}, {0, 0}};

static void blk_adjust(uint8_t *config, uint16_t len, uint16_t num_queues)
{
	struct virtio_blk_config *c = (struct virtio_blk_config *)config;

	if (len >= offsetof(struct virtio_blk_config, num_queues) + sizeof(c->num_queues))
		c->num_queues = htole16(num_queues);
}

/* A disk may have grown meanwhile; its geometry follows from that. */
static const char *blk_same(const uint8_t *was, const uint8_t *now, uint16_t len)
{
	struct virtio_blk_config before = {0}, after = {0};
	size_t n = len < sizeof(before) ? len : sizeof(before);

	memcpy(&before, was, n);
	memcpy(&after, now, n);
	if (le64toh(after.capacity) < le64toh(before.capacity))
		return "a smaller disk";
	after.capacity = before.capacity;
	after.geometry = before.geometry;
	return memcmp(&before, &after, n) ? "a disk of another kind" : NULL;
}

static const struct remote_type remote_blk = {
	.type = "blk",
	.id = 2,
	.features = BIT(VIRTIO_BLK_F_SIZE_MAX) | BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_GEOMETRY) |
		    BIT(VIRTIO_BLK_F_RO) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) |
		    BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_CONFIG_WCE) | BIT(VIRTIO_BLK_F_MQ) |
		    BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES),
	.num_queues = 1,
	.config_lens = {60, 36}, /* with and without discard and write-zeroes */
	.writable = blk_writable,
	.adjust = blk_adjust,
	.same = blk_same,
};

/* ---- fs ---- */

/* Back-ends know no tag: one directory may have several names. */
static const struct remote_type remote_fs = {
	.type = "fs",
	.id = 26,
	.num_queues = 2, /* one for urgent requests, one for the others */
};

static int fs_configure(const struct fs_options *o, struct fs_config *c, struct sl_err *err)
{
	if (!o->tag)
		return sl_err_set(err, EINVAL, "fs: tag=NAME is needed, the name by which the guest mounts it");
	if (!*o->tag || strlen(o->tag) > FS_TAG_LEN)
		return sl_err_set(err, EINVAL, "fs: tag=%s: 1 to %d characters are allowed", o->tag, FS_TAG_LEN);
	memset(c, 0, sizeof(*c));
	memcpy(c->tag, o->tag, strlen(o->tag));
	c->num_request_queues = htole32(1);
	return 0;
}

/* ---- the table, and keys ---- */

static const struct opt_def place_defs[] = {
	{"socket", OPT_STRING, offsetof(struct placed_options, socket), .help = "the device lives there, in another process"},
	{"queues", OPT_UINT, offsetof(struct placed_options, queues), .max = 255,
	 .help = "how many of its queues the guest gets; all, unless said"},
	{"queue-size", OPT_UINT, offsetof(struct placed_options, queue_size), .def = "256", .min = 2, .max = SL_VQ_MAX_SIZE,
	 .help = "largest ring that a driver may ask for"},
	{"stop-timeout", OPT_UINT, offsetof(struct placed_options, stop_timeout), .def = "60", .max = 86400,
	 .help = "seconds that a stop or reset waits for it, before it is cut off; 0 waits for ever"},
	{"packed", OPT_BOOL, offsetof(struct placed_options, packed), .def = "on", .help = "offer packed rings if it does"},
	{"indirect", OPT_BOOL, offsetof(struct placed_options, indirect), .def = "on",
	 .help = "offer indirect descriptors if it does"},
	{"event-idx", OPT_BOOL, offsetof(struct placed_options, event_idx), .def = "on",
	 .help = "offer notifications by index if it does"},
	{"in-order", OPT_BOOL, offsetof(struct placed_options, in_order), .def = "off",
	 .help = "offer to use buffers in order if it does"},
	{0},
};
static const struct opt_table place_table = {"a device in another process", place_defs};

static const struct opt_table *const fs_tables[] = {&fs_options_table, &place_table, NULL};
static const struct opt_table *const blk_tables[] = {&place_table, NULL};

/** struct placed_type - a type that can be elsewhere, and the tables of its keys */
static const struct placed_type {
	const struct device_type *type;
	const struct remote_type *remote;
	const struct opt_table *const *tables;
} placed_types[] = {
	{&device_blk, &remote_blk, blk_tables},
	{&device_fs, &remote_fs, fs_tables},
};

static const struct placed_type *find(struct machine_device *d, struct sl_err *err)
{
	d->type = device_type_find(d->spec.type, err);
	for (size_t i = 0; d->type && i < sizeof(placed_types) / sizeof(placed_types[0]); i++)
		if (placed_types[i].type == d->type)
			return &placed_types[i];
	if (d->type)
		sl_err_set(err, ENOTSUP, "%s: engine kvm cannot place this type in another process", d->spec.type);
	return NULL;
}

static int read_keys(struct machine_device *d, const struct placed_type *t, struct placed_options *o,
		     struct fs_options *fs, struct sl_err *err)
{
	struct stat st;
	int ret = opts_apply(&place_table, &d->spec, o, err);

	if (!ret && t->type == &device_fs)
		ret = opts_apply(&fs_options_table, &d->spec, fs, err);
	if (!ret)
		ret = device_finish_elsewhere(t->type, t->tables, &d->spec, err);
	/* One that is not there yet is waited for. */
	if (!ret && !stat(o->socket, &st) && !S_ISSOCK(st.st_mode))
		ret = sl_err_set(err, EINVAL, "%s: socket=%s: is no socket", d->spec.type, o->socket);
	return ret;
}

static void leave_out(const struct placed_options *o, struct sl_features *without)
{
	if (!o->packed)
		sl_features_set(without, SL_F_RING_PACKED);
	if (!o->indirect)
		sl_features_set(without, SL_F_INDIRECT_DESC);
	if (!o->event_idx)
		sl_features_set(without, SL_F_EVENT_IDX);
	if (!o->in_order)
		sl_features_set(without, SL_F_IN_ORDER);
}

int placed_open(struct machine_device *d, const struct device_env *env, int interrupt_fd, struct sl_err *err)
{
	const struct placed_type *t = find(d, err);
	struct remote_config cfg = {
		.control = env->control, .loops = env->loops, .num_loops = env->num_loops,
		.first_loop = env->first_loop, .interrupt_fd = interrupt_fd,
	};
	struct placed_options o = {0};
	struct fs_options fs = {0};
	struct fs_config config;
	char name[160];
	int ret;

	if (!t)
		return -EINVAL;
	cfg.type = t->remote;
	ret = read_keys(d, t, &o, &fs, err);
	if (!ret && t->type == &device_fs) {
		ret = fs_configure(&fs, &config, err);
		cfg.config = &config;
		cfg.config_len = sizeof(config);
	}
	if (ret)
		return ret;
	d->place.socket = o.socket;
	snprintf(name, sizeof(name), "%s %s", d->spec.type, o.socket);
	cfg.name = name;
	cfg.path = o.socket;
	cfg.num_queues = (uint16_t)o.queues;
	cfg.queue_size = (uint16_t)o.queue_size;
	cfg.stop_timeout_ms = (unsigned int)o.stop_timeout * 1000;
	leave_out(&o, &cfg.without);
	if (t->type == &device_blk && o.queues == 1)
		sl_features_set(&cfg.without, VIRTIO_BLK_F_MQ);
	d->remote = remote_open(&cfg, err);
	return d->remote ? 0 : -EIO;
}
