/* SPDX-License-Identifier: MIT */
/* blk.c - virtio-blk (virtio 1.4, 5.2).
 *
 * Theory of operation
 *
 * A request is a header, data and a status byte, in any descriptor layout: the
 * header is the first 16 bytes the driver wrote, the status is the last byte it
 * may be given, and what lies between is data. request() only lists requests
 * and asks the processor for the lines it will need; commit() handles the
 * whole batch, so that their cache misses overlap.
 *
 * What a bad request gets
 *
 *   no room for a status byte               used with length 0, as nothing can be said
 *   header too short                        IOERR
 *   unknown type, or one not negotiated     UNSUPP
 *   data no multiple of 512, out of range   IOERR
 *   more data than the advertised limits    IOERR
 *   any change of a read-only disk          IOERR
 *   a range with reserved flags             UNSUPP
 *   ranges no multiple of 16 bytes, none, too many or too large   IOERR
 *
 * Ranges (DISCARD, WRITE_ZEROES, SECURE_ERASE) are carried out one after the
 * other; each is fetched once, judged and then done, so a bad one leaves those
 * before it done.
 *
 * The used length always spans everything up to the status byte, which is the
 * last byte of the list, also where the data in between was left as it was.
 *
 * The disk's size may change while it is in use: the capacity in the
 * configuration follows, and the driver is told. Of a disk that has shrunk,
 * requests beyond the new end get IOERR.
 *
 * Writes are durable when a later FLUSH says so. Without FLUSH (not negotiated,
 * or the driver chose write-through in its configuration) each is when done.
 */
#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sluice/log.h>

#include "block/block.h"
#include "devices/devices.h"

#define SECTOR_SHIFT 9
#define SECTOR_SIZE (1u << SECTOR_SHIFT)
#define BLK_ID 2
#define BLK_MAX_QUEUES 256	      /* vhost-user names a ring with 8 bits */
#define BLK_SEG_MAX 126		      /* with header and status 128 descriptors, which any driver's ring has */
#define BLK_SIZE_MAX (1u << 20)	      /* bytes of one segment */
#define BLK_MAX_DATA (BLK_SEG_MAX * BLK_SIZE_MAX)
#define BLK_MAX_RANGES 32
#define BLK_MAX_RANGE_SECTORS (1u << 21) /* of one range: 1 GiB */

/** struct blk_options */
struct blk_options {
	uint64_t queues;
	const char *serial;
};

/**
 * struct blk_stats - what a queue did since the disk was opened; one writer, the queue's loop: relaxed atomics
 * @done:   requests that the source carried out, well or not
 * @read_bytes, @write_bytes: of those that went well
 * @errors: answers other than OK
 */
struct blk_stats {
	alignas(64) uint64_t done[BLOCK_NUM_OPS];
	uint64_t read_bytes, write_bytes, errors;
};

/**
 * struct blk - a disk
 * @write_back: the driver takes care of durability with FLUSH; set on the control loop, read on data loops (relaxed:
 *              what the driver does after its change is ordered behind it by the kick)
 * @id:         answer to GET_ID, padded with zero bytes
 * @stats:      one for each queue
 */
struct blk {
	struct served_device served;
	struct block *source;
	bool write_back;
	char id[VIRTIO_BLK_ID_BYTES];
	struct blk_stats *stats;
};

/**
 * struct blk_queue
 * @batch, @batch_end: requests since the last commit
 * @commit:            for what is submitted while requests finish
 * @limit:             of lines about requests that the source failed
 */
struct blk_queue {
	struct blk *blk;
	struct blk_stats *stats;
	struct block_channel *channel;
	struct sl_req *batch, **batch_end;
	struct sl_task commit;
	const struct sl_features *features;
	struct sl_log_limit limit;
};

/**
 * struct blk_req - private state of a request
 * @status: where the status byte goes
 * @len:    the used length of an answer
 */
struct blk_req {
	struct block_req b;
	uint8_t *status;
	uint32_t len;
};

static struct blk_req *blk_req_of(struct sl_req *r)
{
	return (struct blk_req *)(void *)r->priv;
}

static struct sl_req *sl_req_of(struct block_req *b)
{
	return (struct sl_req *)(void *)((char *)b - offsetof(struct sl_req, priv));
}

static inline void count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* ---- answers ---- */

static void answer(struct sl_req *r, uint8_t status)
{
	struct blk_req *br = blk_req_of(r);

	if (status != VIRTIO_BLK_S_OK)
		count(&((struct blk_queue *)sl_queue_priv(r->queue))->stats->errors, 1);
	*br->status = status;
	sl_req_done(r, br->len);
}

static uint8_t status_of(int result)
{
	if (!result)
		return VIRTIO_BLK_S_OK;
	return result == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

/* Did the driver ask for what cannot be, so that block_submit() refused it? */
static bool is_drivers_fault(const struct blk *blk, const struct block_req *b, int result)
{
	uint64_t size = block_size_now(blk->source);

	if (result == -ENOSPC && b->op != BLOCK_FLUSH)
		return b->offset > size || b->len > size - b->offset;
	return result == -EINVAL || result == -EROFS || result == -EOPNOTSUPP;
}

/* A disk that fails is for the host to know, too. */
static void complain(struct blk_queue *bq, const struct block_req *b, int result)
{
	static const char *const what[BLOCK_NUM_OPS] = {
		[BLOCK_READ] = "read", [BLOCK_WRITE] = "write", [BLOCK_FLUSH] = "flush", [BLOCK_DISCARD] = "discard",
		[BLOCK_WRITE_ZEROES] = "write zeroes", [BLOCK_SECURE_ERASE] = "secure erase",
	};

	if (!is_drivers_fault(bq->blk, b, result))
		sl_log_limited(&bq->limit, SL_LOG_WARN, "%s: %s: %s", bq->blk->source->name, what[b->op], strerror(-result));
}

static void count_done(struct blk_queue *bq, const struct block_req *b, int result)
{
	struct blk_stats *s = bq->stats;

	count(&s->done[b->op], 1);
	if (result)
		complain(bq, b, result);
	if (!result && b->op == BLOCK_READ)
		count(&s->read_bytes, b->len);
	else if (!result && b->op == BLOCK_WRITE)
		count(&s->write_bytes, b->len);
}

static void request_done(struct block_req *b, int result)
{
	struct sl_req *r = sl_req_of(b);

	count_done(sl_queue_priv(r->queue), b, result);
	answer(r, status_of(result));
}

/* ---- IN, OUT, FLUSH, GET_ID ---- */

static unsigned int durability(const struct blk *blk)
{
	return __atomic_load_n(&blk->write_back, __ATOMIC_RELAXED) ? 0 : BLOCK_FUA;
}

static void submit_data(struct blk_queue *bq, struct sl_req *r, enum block_op op, const struct sl_cursor *data,
			uint64_t sector)
{
	struct block_req *b = &blk_req_of(r)->b;

	/* What is no multiple of 512 bytes, or of the block size, the source's block_submit() refuses. */
	if (data->bytes > BLK_MAX_DATA || sector >> (64 - SECTOR_SHIFT)) {
		answer(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	b->op = op;
	b->flags = op == BLOCK_WRITE ? durability(bq->blk) : 0;
	b->offset = sector << SECTOR_SHIFT;
	b->len = data->bytes;
	b->iov = data->iov;
	b->iovcnt = data->cnt;
	b->done = request_done;
	block_submit(bq->channel, b);
}

static void submit_flush(struct blk_queue *bq, struct sl_req *r)
{
	struct block_req *b = &blk_req_of(r)->b;

	b->op = BLOCK_FLUSH;
	b->flags = 0;
	b->offset = b->len = 0;
	b->iovcnt = 0;
	b->done = request_done;
	block_submit(bq->channel, b);
}

static void get_id(const struct blk *blk, struct sl_req *r)
{
	struct sl_cursor *in = &r->chain.in;

	sl_cursor_write(in, blk->id, sizeof(blk->id));
	answer(r, VIRTIO_BLK_S_OK);
}

/* ---- DISCARD, WRITE_ZEROES, SECURE_ERASE ---- */

/* 1: the next range is in @b; 0: there is none; -errno: it is bad */
static int next_range(struct sl_cursor *out, const struct blk *blk, struct block_req *b)
{
	struct virtio_blk_discard_write_zeroes range;
	uint32_t flags, sectors;
	uint64_t sector;

	if (sl_cursor_read(out, &range, sizeof(range)) != sizeof(range))
		return 0;
	flags = le32toh(range.flags);
	sectors = le32toh(range.num_sectors);
	sector = le64toh(range.sector);
	if (flags & ~(b->op == BLOCK_WRITE_ZEROES ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
		return -EOPNOTSUPP;
	if (sectors > BLK_MAX_RANGE_SECTORS || sector >> (64 - SECTOR_SHIFT))
		return -EIO;
	b->flags = durability(blk) | (flags ? BLOCK_UNMAP : 0);
	b->offset = sector << SECTOR_SHIFT;
	b->len = (uint64_t)sectors << SECTOR_SHIFT;
	return 1;
}

static void submit_range(struct blk_queue *bq, struct sl_req *r)
{
	struct block_req *b = &blk_req_of(r)->b;
	int ret = next_range(&r->chain.out, bq->blk, b);

	if (ret == 1)
		block_submit(bq->channel, b);
	else
		answer(r, status_of(ret));
}

static void range_done(struct block_req *b, int result)
{
	struct sl_req *r = sl_req_of(b);
	struct blk_queue *bq = sl_queue_priv(r->queue);

	count_done(bq, b, result);
	if (result) {
		answer(r, status_of(result));
		return;
	}
	submit_range(bq, r);
	sl_task_post(sl_queue_loop(r->queue), &bq->commit);
}

static void submit_ranges(struct blk_queue *bq, struct sl_req *r, enum block_op op, unsigned int feature)
{
	struct block_req *b = &blk_req_of(r)->b;
	size_t bytes = r->chain.out.bytes, each = sizeof(struct virtio_blk_discard_write_zeroes);

	if (bq->blk->source->info.read_only) {
		answer(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (!sl_features_has(bq->features, feature)) {
		answer(r, VIRTIO_BLK_S_UNSUPP);
		return;
	}
	if (!bytes || bytes % each || bytes / each > BLK_MAX_RANGES) {
		answer(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	b->op = op;
	b->iovcnt = 0;
	b->done = range_done;
	submit_range(bq, r);
}

/* ---- a request ---- */

static void handle(struct blk_queue *bq, struct sl_req *r)
{
	struct blk_req *br = blk_req_of(r);
	struct sl_cursor *out = &r->chain.out, *in = &r->chain.in;
	size_t room = in->bytes;
	struct virtio_blk_outhdr header;

	br->len = room < UINT32_MAX ? (uint32_t)room : UINT32_MAX;
	br->status = sl_cursor_last_byte(in);
	if (!br->status) {
		sl_req_done(r, 0);
		return;
	}
	if (sl_cursor_read(out, &header, sizeof(header)) != sizeof(header)) {
		answer(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	switch (le32toh(header.type)) {
	case VIRTIO_BLK_T_IN:
		submit_data(bq, r, BLOCK_READ, in, le64toh(header.sector));
		break;
	case VIRTIO_BLK_T_OUT:
		submit_data(bq, r, BLOCK_WRITE, out, le64toh(header.sector));
		break;
	case VIRTIO_BLK_T_FLUSH:
		submit_flush(bq, r);
		break;
	case VIRTIO_BLK_T_GET_ID:
		get_id(bq->blk, r);
		break;
	case VIRTIO_BLK_T_DISCARD:
		submit_ranges(bq, r, BLOCK_DISCARD, VIRTIO_BLK_F_DISCARD);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		submit_ranges(bq, r, BLOCK_WRITE_ZEROES, VIRTIO_BLK_F_WRITE_ZEROES);
		break;
	case VIRTIO_BLK_T_SECURE_ERASE:
		submit_ranges(bq, r, BLOCK_SECURE_ERASE, VIRTIO_BLK_F_SECURE_ERASE);
		break;
	default:
		answer(r, VIRTIO_BLK_S_UNSUPP);
	}
}

static void blk_request(struct sl_queue *q, struct sl_req *r)
{
	struct blk_queue *bq = sl_queue_priv(q);
	const struct sl_cursor *in = &r->chain.in;

	/* The driver wrote these lines last on another processor. */
	if (r->chain.out.cnt)
		__builtin_prefetch(r->chain.out.iov->iov_base);
	if (in->cnt)
		__builtin_prefetch((char *)in->iov[in->cnt - 1].iov_base + in->iov[in->cnt - 1].iov_len - 1, 1);
	r->next = NULL;
	*bq->batch_end = r;
	bq->batch_end = &r->next;
}

static void blk_commit(struct sl_queue *q)
{
	struct blk_queue *bq = sl_queue_priv(q);
	struct sl_req *r = bq->batch;

	bq->batch = NULL;
	bq->batch_end = &bq->batch;
	while (r) {
		struct sl_req *next = r->next;

		handle(bq, r);
		r = next;
	}
	block_commit(bq->channel);
}

static void commit_ranges(void *arg)
{
	block_commit(((struct blk_queue *)arg)->channel);
}

static void blk_abandon(struct sl_queue *q)
{
	struct blk_queue *bq = sl_queue_priv(q);

	if (block_abandon(bq->channel))
		block_commit(bq->channel);
}

static void blk_drain(struct sl_queue *q)
{
	struct blk_queue *bq = sl_queue_priv(q);

	block_drain(bq->channel);
	block_commit(bq->channel);
}

/* ---- queues, features, configuration ---- */

static int blk_queue_start(struct sl_queue *q)
{
	struct blk_queue *bq = sl_queue_priv(q);
	struct sl_device *d = sl_queue_device(q);
	struct sl_err err;

	bq->blk = sl_device_priv(d);
	bq->stats = &bq->blk->stats[sl_queue_index(q)];
	bq->features = sl_device_features(d);
	bq->batch_end = &bq->batch;
	bq->commit = (struct sl_task){.fn = commit_ranges, .arg = bq};
	bq->channel = block_attach(bq->blk->source, sl_queue_loop(q), &err);
	if (bq->channel)
		return 0;
	sl_log(SL_LOG_ERROR, "%s", err.text);
	return -EIO;
}

static void blk_queue_stop(struct sl_queue *q)
{
	struct blk_queue *bq = sl_queue_priv(q);

	sl_task_cancel(sl_queue_loop(q), &bq->commit);
	block_detach(bq->channel);
}

/* virtio 1.4, 5.2.5.2: with CONFIG_WCE the driver chooses, else FLUSH alone means that it flushes. */
static void set_write_back(struct sl_device *d)
{
	struct blk *blk = sl_device_priv(d);
	const struct sl_features *f = sl_device_features(d);
	bool on = sl_features_has(f, VIRTIO_BLK_F_FLUSH);
	uint8_t wce;

	if (on && sl_features_has(f, VIRTIO_BLK_F_CONFIG_WCE)) {
		sl_device_config_read(d, offsetof(struct virtio_blk_config, wce), &wce, sizeof(wce));
		on = wce;
	}
	__atomic_store_n(&blk->write_back, on, __ATOMIC_RELAXED);
}

static void blk_config_written(struct sl_device *d, uint32_t off, uint32_t len)
{
	(void)off; /* only the byte wce may be written */
	(void)len;
	set_write_back(d);
}

static void blk_reset(struct sl_device *d)
{
	const uint8_t wce = 1;

	sl_device_config_update(d, offsetof(struct virtio_blk_config, wce), &wce, sizeof(wce));
	set_write_back(d);
}

static const struct sl_device_ops blk_ops = {
	.type = "blk",
	.id = BLK_ID,
	.req_size = sizeof(struct blk_req),
	.queue_size = sizeof(struct blk_queue),
	.queue_start = blk_queue_start,
	.queue_stop = blk_queue_stop,
	.request = blk_request,
	.commit = blk_commit,
	.drain = blk_drain,
	.abandon = blk_abandon,
	.features_set = set_write_back,
	.config_written = blk_config_written,
	.reset = blk_reset,
};

/* ---- opening ---- */

static const struct opt_def blk_defs[] = {
	{"queues", OPT_UINT, offsetof(struct blk_options, queues), .def = "1", .min = 1, .max = BLK_MAX_QUEUES,
	 .help = "number of request queues"},
	{"serial", OPT_STRING, offsetof(struct blk_options, serial),
	 .help = "the disk's name for the guest, up to 20 characters; the default is made from the source's text"},
	{0},
};

static const struct opt_table blk_options_table = {"blk", blk_defs};

static const struct opt_table *const blk_tables[] = {
	&blk_options_table,     &block_options_table,	 &file_options_table,	&delay_options_table,
	&error_options_table,   &overlay_options_table, &record_options_table, &throttle_options_table,
#ifdef HAVE_LIBNBD
	&nbd_options_table,
#endif
#ifdef HAVE_LIBRBD
	&rbd_options_table,
#endif
	&device_options_table,  &device_place_table,	 NULL,
};

static const struct opt_source *blk_sources(unsigned int n)
{
	const struct block_source *s = block_source_at(n);

	return s ? &s->source : NULL;
}

static void offer(const struct block_info *info, const struct blk_options *bo, struct sl_features *f)
{
	static const unsigned int always[] = {VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_GEOMETRY,
					      VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_TOPOLOGY};

	for (unsigned int i = 0; i < sizeof(always) / sizeof(always[0]); i++)
		sl_features_set(f, always[i]);
	if (bo->queues > 1)
		sl_features_set(f, VIRTIO_BLK_F_MQ);
	if (info->read_only) {
		sl_features_set(f, VIRTIO_BLK_F_RO);
		return;
	}
	if (info->flush) {
		sl_features_set(f, VIRTIO_BLK_F_FLUSH);
		sl_features_set(f, VIRTIO_BLK_F_CONFIG_WCE);
	}
	if (info->discard)
		sl_features_set(f, VIRTIO_BLK_F_DISCARD);
	if (info->write_zeroes)
		sl_features_set(f, VIRTIO_BLK_F_WRITE_ZEROES);
	if (info->secure_erase)
		sl_features_set(f, VIRTIO_BLK_F_SECURE_ERASE);
}

static uint8_t log2_of(uint32_t n)
{
	return (uint8_t)(31 - __builtin_clz(n));
}

static void fill_config(const struct block_info *info, const struct blk_options *bo, const struct device_options *o,
			struct virtio_blk_config *c)
{
	uint64_t cylinders = info->size / (16 * 63 * SECTOR_SIZE);
	uint32_t align = (info->discard_granularity > info->block_size ? info->discard_granularity : info->block_size);

	*c = (struct virtio_blk_config){
		.capacity = htole64(info->size >> SECTOR_SHIFT),
		.size_max = htole32(BLK_SIZE_MAX),
		.seg_max = htole32(o->queue_size >= BLK_SEG_MAX + 2 ? BLK_SEG_MAX
				   : o->queue_size > 3		    ? (uint32_t)o->queue_size - 2
								    : 1),
		.geometry = {.cylinders = htole16(cylinders > UINT16_MAX ? UINT16_MAX : (uint16_t)cylinders),
			     .heads = 16,
			     .sectors = 63},
		.blk_size = htole32(info->block_size),
		.physical_block_exp = log2_of(info->physical_size / info->block_size),
		.min_io_size = htole16((uint16_t)(info->physical_size / info->block_size)),
		.opt_io_size = htole32(info->optimal_size / info->block_size),
		.wce = 1,
		.num_queues = htole16((uint16_t)bo->queues),
		.max_discard_sectors = htole32(BLK_MAX_RANGE_SECTORS),
		.max_discard_seg = htole32(BLK_MAX_RANGES),
		.discard_sector_alignment = htole32(align >> SECTOR_SHIFT),
		.max_write_zeroes_sectors = htole32(BLK_MAX_RANGE_SECTORS),
		.max_write_zeroes_seg = htole32(BLK_MAX_RANGES),
		.write_zeroes_may_unmap = info->unmap_zeroes,
		.max_secure_erase_sectors = htole32(BLK_MAX_RANGE_SECTORS),
		.max_secure_erase_seg = htole32(BLK_MAX_RANGES),
		.secure_erase_sector_alignment = htole32(info->block_size >> SECTOR_SHIFT),
	};
}

/* A name that stays the same for the same source and tells the guest nothing about the host. */
static void make_id(struct blk *blk, const char *serial, const char *source)
{
	uint64_t hash = 0xcbf29ce484222325u;
	char text[VIRTIO_BLK_ID_BYTES + 1];

	for (const char *p = source; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 0x100000001b3u;
	snprintf(text, sizeof(text), "sluice-%08x", (unsigned int)(hash ^ hash >> 32));
	memset(blk->id, 0, sizeof(blk->id));
	memcpy(blk->id, serial ? serial : text, strlen(serial ? serial : text));
}

static int read_size(struct blk *blk, struct sl_err *err)
{
	int ret = block_refresh(blk->source, err);
	uint64_t capacity = htole64(block_size_now(blk->source) >> SECTOR_SHIFT);

	/* Also after an error: a store that was resized and then fell silent may have another size by now. */
	sl_device_config_update(blk->served.dev, offsetof(struct virtio_blk_config, capacity), &capacity,
				sizeof(capacity));
	return ret;
}

/* The store says that it is not what it was. */
static void source_changed(void *arg)
{
	struct sl_err err;

	if (read_size(arg, &err))
		sl_log(SL_LOG_WARN, "%s", err.text);
}

static int make_device(struct blk *blk, const struct sl_device_config *cfg, struct sl_err *err)
{
	size_t size = cfg->num_queues * sizeof(*blk->stats);

	blk->stats = aligned_alloc(alignof(struct blk_stats), size);
	if (!blk->stats)
		return sl_err_set(err, ENOMEM, "%s: out of memory", cfg->name);
	memset(blk->stats, 0, size);
	blk->served.dev = sl_device_new(cfg, err);
	if (blk->served.dev)
		return 0;
	free(blk->stats);
	return -EINVAL;
}

static int blk_open(struct served_device *d, struct spec *s, const struct device_options *o,
		    const struct device_env *env, struct sl_err *err)
{
	static const struct sl_config_range writable[] = {{offsetof(struct virtio_blk_config, wce), 1}, {0, 0}};
	struct blk *blk = (struct blk *)d;
	struct sl_device_config cfg = {
		.ops = &blk_ops,
		.priv = blk,
		.max_queue_size = (uint16_t)o->queue_size,
		.config_len = sizeof(struct virtio_blk_config),
		.poll_us = (uint32_t)o->poll_us,
		.stop_timeout_ms = (uint32_t)o->stop_timeout * 1000,
		.control = env->control,
		.loops = env->loops,
		.num_loops = env->num_loops,
		.first_loop = env->first_loop,
	};
	struct virtio_blk_config config;
	struct blk_options bo = {0};
	char name[128];
	int ret = opts_apply(&blk_options_table, s, &bo, err);

	if (!ret && bo.serial && strlen(bo.serial) > sizeof(blk->id))
		ret = sl_err_set(err, EINVAL, "%s: serial=%s: longer than %zu characters", s->type, bo.serial,
				 sizeof(blk->id));
	if (!ret)
		ret = block_open(s, &blk->source, err);
	if (!ret && bo.queues > 1 && blk->source->info.single) {
		ret = sl_err_set(err, ENOTSUP, "%s: queues=%llu: this server offers no multi-conn, so one queue is all",
				 s->source, (unsigned long long)bo.queues);
		block_close(blk->source);
	}
	if (ret)
		return ret;
	make_id(blk, bo.serial, s->source);
	snprintf(name, sizeof(name), "blk %s", s->source);
	cfg.name = name;
	cfg.num_queues = (uint16_t)bo.queues;
	device_features(o, &cfg.offered);
	offer(&blk->source->info, &bo, &cfg.offered);
	if (sl_features_has(&cfg.offered, VIRTIO_BLK_F_CONFIG_WCE))
		cfg.writable = writable;
	fill_config(&blk->source->info, &bo, o, &config);
	cfg.config = &config;
	ret = make_device(blk, &cfg, err);
	if (ret)
		block_close(blk->source);
	else
		block_watch(blk->source, env->control, source_changed, blk);
	return ret;
}

static void blk_close(struct served_device *d)
{
	struct blk *blk = (struct blk *)d;

	sl_device_free(d->dev);
	block_close(blk->source);
	free(blk->stats);
}

/* ---- for the control plane ---- */

static int blk_refresh(struct served_device *d, struct sl_err *err)
{
	return read_size((struct blk *)d, err);
}

static int blk_resize(struct served_device *d, uint64_t size, struct sl_err *err)
{
	struct blk *blk = (struct blk *)d;
	int ret = block_resize(blk->source, size, err);
	struct sl_err ignored;

	if (!ret)
		return read_size(blk, err);
	/* What came of it nevertheless, the driver learns; of two errors the first one tells more. */
	read_size(blk, &ignored);
	return ret;
}

static void blk_report(struct served_device *d, const struct device_report *r)
{
	struct blk *blk = (struct blk *)d;
	const struct block_report below = {.number = r->number, .arg = r->arg};

	r->number(r->arg, "size-bytes", block_size_now(blk->source));
	r->number(r->arg, "block-size-bytes", blk->source->info.block_size);
	block_report(blk->source, &below);
}

static void blk_report_queue(struct served_device *d, unsigned int index, const struct device_report *r)
{
	static const char *const names[BLOCK_NUM_OPS] = {
		[BLOCK_READ] = "reads",
		[BLOCK_WRITE] = "writes",
		[BLOCK_FLUSH] = "flushes",
		[BLOCK_DISCARD] = "discards",
		[BLOCK_WRITE_ZEROES] = "write-zeroes",
		[BLOCK_SECURE_ERASE] = "secure-erases",
	};
	const struct blk_stats *s = &((const struct blk *)d)->stats[index];

	for (unsigned int op = 0; op < BLOCK_NUM_OPS; op++)
		r->number(r->arg, names[op], __atomic_load_n(&s->done[op], __ATOMIC_RELAXED));
	r->number(r->arg, "read-bytes", __atomic_load_n(&s->read_bytes, __ATOMIC_RELAXED));
	r->number(r->arg, "write-bytes", __atomic_load_n(&s->write_bytes, __ATOMIC_RELAXED));
	r->number(r->arg, "errors", __atomic_load_n(&s->errors, __ATOMIC_RELAXED));
}

const struct device_type device_blk = {
	.type = "blk",
	.summary = "a disk",
	.id = BLK_ID,
	.size = sizeof(struct blk),
	.sources = blk_sources,
	.tables = blk_tables,
	.open = blk_open,
	.close = blk_close,
	.refresh = blk_refresh,
	.resize = blk_resize,
	.report = blk_report,
	.report_queue = blk_report_queue,
};
