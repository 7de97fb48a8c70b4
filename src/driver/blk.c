/* SPDX-License-Identifier: MIT */
/* blk.c - driver of virtio-blk devices over any link (virtio 1.4, 5.2). See blk.h.
 *
 * Freestanding but for memset and memcpy, which every C compiler asks for.
 */
#include <errno.h>

#include "driver/blk.h"
#include "driver/fail.h"

enum { /* feature bits, 5.2.3 */
	F_SIZE_MAX = 1,
	F_SEG_MAX = 2,
	F_GEOMETRY = 4,
	F_RO = 5,
	F_BLK_SIZE = 6,
	F_FLUSH = 9,
	F_TOPOLOGY = 10,
	F_CONFIG_WCE = 11,
	F_MQ = 12,
	F_DISCARD = 13,
	F_WRITE_ZEROES = 14,
};

enum { /* request types and status, 5.2.6 */
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_GET_ID = 8,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13,

	RANGE_UNMAP = 1,

	S_OK = 0,
	S_UNSUPP = 2,
	S_NOT_WRITTEN = 0xff,
};

enum { /* offsets in the configuration, 5.2.4 */
	C_CAPACITY = 0,
	C_SIZE_MAX = 8,
	C_SEG_MAX = 12,
	C_CYLINDERS = 16,
	C_HEADS = 18,
	C_SECTORS = 19,
	C_BLK_SIZE = 20,
	C_PHYSICAL_EXP = 24,
	C_OPT_IO_SIZE = 28,
	C_WRITEBACK = 32,
	C_NUM_QUEUES = 34,
	C_MAX_DISCARD = 36,
	C_DISCARD_ALIGN = 44,
	C_MAX_WRITE_ZEROES = 48,
	C_WRITE_ZEROES_UNMAP = 56,
	C_LEN = 60,
};

static const uint8_t known_features[] = {
	F_SIZE_MAX, F_SEG_MAX, F_GEOMETRY, F_RO, F_BLK_SIZE, F_FLUSH, F_TOPOLOGY, F_CONFIG_WCE, F_MQ, F_DISCARD,
	F_WRITE_ZEROES, SL_F_EVENT_IDX, SL_F_VERSION_1, SL_F_RING_PACKED, SL_F_IN_ORDER, SL_F_NOTIFICATION_DATA,
	SL_F_RING_RESET,
};

_Static_assert(sizeof(struct vblk_slot) == 64, "a slot is one cache line");

/* Little-endian bytes of the configuration. */
static uint64_t load(const uint8_t *config, unsigned int off, unsigned int bytes)
{
	uint64_t v = 0;

	while (bytes--)
		v = v << 8 | config[off + bytes];
	return v;
}

static uint32_t le32(uint32_t v)
{
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? v : __builtin_bswap32(v);
}

static uint64_t le64(uint64_t v)
{
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? v : __builtin_bswap64(v);
}

static int parse_config(struct vblk *b, const uint8_t *c, struct sl_err *err)
{
	const struct sl_features *f = &b->features;
	struct vblk_info *info = &b->info;
	uint64_t sectors = load(c, C_CAPACITY, 8);

	*info = (struct vblk_info){ .block_size = VBLK_SECTOR, .seg_max = VBLK_MAX_SEGMENTS, .num_queues = 1 };
	if (sectors > UINT64_MAX / VBLK_SECTOR)
		return driver_fail(err, EPROTO, "virtio-blk: configuration: capacity of more than 2^64 bytes");
	info->capacity = sectors * VBLK_SECTOR;
	if (sl_features_has(f, F_SIZE_MAX))
		info->size_max = (uint32_t)load(c, C_SIZE_MAX, 4);
	if (sl_features_has(f, F_SEG_MAX) && load(c, C_SEG_MAX, 4) < info->seg_max)
		info->seg_max = (uint32_t)load(c, C_SEG_MAX, 4);
	if (!info->seg_max)
		info->seg_max = 1;
	if (sl_features_has(f, F_GEOMETRY)) {
		info->cylinders = (uint16_t)load(c, C_CYLINDERS, 2);
		info->heads = c[C_HEADS];
		info->sectors = c[C_SECTORS];
	}
	if (sl_features_has(f, F_BLK_SIZE)) {
		info->block_size = (uint32_t)load(c, C_BLK_SIZE, 4);
		if (info->block_size < VBLK_SECTOR || (info->block_size & (info->block_size - 1)))
			return driver_fail(err, EPROTO,
						   "virtio-blk: configuration: block size is no power of two from 512");
	}
	info->physical_size = info->block_size;
	if (sl_features_has(f, F_TOPOLOGY)) {
		if (c[C_PHYSICAL_EXP] < 16)
			info->physical_size = info->block_size << c[C_PHYSICAL_EXP];
		info->optimal_size = (uint32_t)load(c, C_OPT_IO_SIZE, 4) * info->block_size;
	}
	info->read_only = sl_features_has(f, F_RO);
	info->flush = sl_features_has(f, F_FLUSH);
	info->writeback = sl_features_has(f, F_CONFIG_WCE) ? c[C_WRITEBACK] : info->flush;
	if (sl_features_has(f, F_MQ) && load(c, C_NUM_QUEUES, 2))
		info->num_queues = (uint16_t)load(c, C_NUM_QUEUES, 2);
	if (sl_features_has(f, F_DISCARD)) {
		info->max_discard = (uint32_t)load(c, C_MAX_DISCARD, 4);
		info->discard_alignment = (uint32_t)load(c, C_DISCARD_ALIGN, 4);
	}
	if (sl_features_has(f, F_WRITE_ZEROES)) {
		info->max_write_zeroes = (uint32_t)load(c, C_MAX_WRITE_ZEROES, 4);
		info->write_zeroes_unmap = c[C_WRITE_ZEROES_UNMAP];
	}
	return 0;
}

/* Everything this driver can use, of what @mask allows. */
static void choose(const struct sl_features *mask, struct sl_features *f)
{
	for (size_t i = 0; i < sizeof(known_features); i++)
		if (!mask || sl_features_has(mask, known_features[i]))
			sl_features_set(f, known_features[i]);
}

/* Bytes of configuration that the features in force define: some back-ends refuse to be asked for more. */
static uint32_t config_len(const struct sl_features *f)
{
	if (sl_features_has(f, F_WRITE_ZEROES))
		return C_LEN;
	if (sl_features_has(f, F_DISCARD))
		return C_MAX_WRITE_ZEROES;
	if (sl_features_has(f, F_MQ) || sl_features_has(f, F_CONFIG_WCE))
		return C_MAX_DISCARD;
	return sl_features_has(f, F_TOPOLOGY) ? C_WRITEBACK : C_PHYSICAL_EXP;
}

int vblk_open(struct vblk *b, struct sl_link *link, const struct sl_features *mask, struct sl_err *err)
{
	uint8_t config[C_LEN] = { 0 };
	int ret;

	*b = (struct vblk){ .link = link };
	choose(mask, &b->features);
	ret = sl_link_negotiate(link, &b->features, err);
	if (!ret)
		ret = link->ops->config_read(link, 0, config, config_len(&b->features), err);
	return ret ? ret : parse_config(b, config, err);
}

/* Shared memory of a queue: the ring, then the slots on a cache line of their own. */
static uint64_t slots_offset(const struct vblk *b, uint16_t num, struct sl_dq_layout *layout)
{
	sl_dq_layout(sl_features_has(&b->features, SL_F_RING_PACKED), num, layout);
	return (layout->size + sizeof(struct vblk_slot) - 1) & ~(sizeof(struct vblk_slot) - 1);
}

uint64_t vblk_queue_shared_size(const struct vblk *b, uint16_t num)
{
	struct sl_dq_layout layout;

	return slots_offset(b, num, &layout) + (uint64_t)num * sizeof(struct vblk_slot);
}

static size_t tags_offset(uint16_t num)
{
	return (sl_dq_state_size(num) + 15) & ~(size_t)15;
}

size_t vblk_queue_private_size(uint16_t num)
{
	return tags_offset(num) + num * sizeof(struct vblk_tag);
}

int vblk_queue_init(struct vblk_queue *q, struct vblk *b, uint16_t index, uint16_t num, void *shared, uint64_t addr,
		    void *private, struct sl_err *err)
{
	struct sl_dq_config cfg = {
		.num = num,
		.packed = sl_features_has(&b->features, SL_F_RING_PACKED),
		.event_idx = sl_features_has(&b->features, SL_F_EVENT_IDX),
		.in_order = sl_features_has(&b->features, SL_F_IN_ORDER),
		.ring = shared,
		.state = private,
	};
	struct sl_dq_layout layout;
	uint64_t slots = slots_offset(b, num, &layout);

	*q = (struct vblk_queue){ .blk = b, .index = index, .num = num };
	q->dq = sl_dq_init(&cfg);
	if (!q->dq)
		return driver_fail(err, EINVAL, "virtio-blk: queue: illegal size");
	q->slots = (void *)((char *)shared + slots);
	q->slots_addr = addr + slots;
	q->tags = (void *)((char *)private + tags_offset(num));
	for (uint32_t i = 0; i < num; i++)
		q->tags[i] = (struct vblk_tag){ .next_free = i + 1 };
	q->setup = (struct sl_link_queue){
		.num = num,
		.desc = addr + layout.desc,
		.driver = addr + layout.driver,
		.device = addr + layout.device,
		.kick_fd = -1,
		.call_fd = -1,
	};
	return 0;
}

int vblk_start(struct vblk *b, struct vblk_queue *queues, unsigned int n, struct sl_err *err)
{
	struct sl_link *l = b->link;
	int ret = 0;

	for (unsigned int i = 0; i < n && !ret; i++) {
		queues[i].setup.base = sl_dq_base(queues[i].dq);
		ret = l->ops->queue_start(l, queues[i].index, &queues[i].setup, err);
	}
	if (!ret)
		ret = sl_link_driver_ok(l, err);
	return ret;
}

int vblk_stop(struct vblk *b, struct vblk_queue *queues, unsigned int n, struct sl_err *err)
{
	int ret = 0;

	for (unsigned int i = 0; i < n && !ret; i++)
		ret = b->link->ops->queue_stop(b->link, queues[i].index, NULL, err);
	return ret;
}

int vblk_restart(struct vblk *b, struct vblk_queue *queues, unsigned int n, struct sl_err *err)
{
	int ret;

	for (unsigned int i = 0; i < n; i++)
		if (!b->inflight && vblk_outstanding(&queues[i]))
			return driver_fail(err, ENOTSUP,
						   "virtio-blk: requests are outstanding, but there is no inflight region");
	if (!b->link->ops->reconnect)
		return driver_fail(err, ENOTSUP, "virtio-blk: this link cannot reconnect");
	ret = b->link->ops->reconnect(b->link, err);
	if (!ret)
		ret = vblk_start(b, queues, n, err);
	/* A kick that was on its way when the device died is lost; and some back-ends start at the first kick. */
	for (unsigned int i = 0; i < n && !ret; i++)
		b->link->ops->kick(b->link, queues[i].index, sl_dq_kick_data(queues[i].dq));
	return ret;
}

/* The fixed parts of a free slot, or NULL. The tag is taken by offer(). */
static struct vblk_slot *prepare(struct vblk_queue *q, uint32_t type, uint64_t sector)
{
	struct vblk_slot *s;

	if (q->free >= q->num)
		return NULL;
	s = &q->slots[q->free];
	s->header.type = le32(type);
	s->header.reserved = 0;
	s->header.sector = le64(sector);
	s->status = S_NOT_WRITTEN;
	return s;
}

static bool offer(struct vblk_queue *q, const struct sl_dq_buf *out, unsigned int out_n, const struct sl_dq_buf *in,
		  unsigned int in_n, void *cookie)
{
	struct vblk_tag *tag = &q->tags[q->free];

	if (!sl_dq_add(q->dq, out, out_n, in, in_n, tag))
		return false;
	tag->cookie = cookie;
	q->free = tag->next_free;
	q->dirty = true;
	return true;
}

static struct sl_dq_buf part(const struct vblk_queue *q, size_t offset, uint32_t len)
{
	return (struct sl_dq_buf){ q->slots_addr + q->free * sizeof(struct vblk_slot) + offset, len };
}

#define HEADER(q) part(q, offsetof(struct vblk_slot, header), 16)
#define RANGE(q) part(q, offsetof(struct vblk_slot, range), 16)
#define STATUS(q) part(q, offsetof(struct vblk_slot, status), 1)

bool vblk_read(struct vblk_queue *q, uint64_t sector, const struct sl_dq_buf *data, unsigned int n, void *cookie)
{
	struct sl_dq_buf out, in[VBLK_MAX_SEGMENTS + 1];

	if (!prepare(q, T_IN, sector))
		return false;
	out = HEADER(q);
	for (unsigned int i = 0; i < n; i++)
		in[i] = data[i];
	in[n] = STATUS(q);
	return offer(q, &out, 1, in, n + 1, cookie);
}

bool vblk_write(struct vblk_queue *q, uint64_t sector, const struct sl_dq_buf *data, unsigned int n, void *cookie)
{
	struct sl_dq_buf out[VBLK_MAX_SEGMENTS + 1], in;

	if (!prepare(q, T_OUT, sector))
		return false;
	out[0] = HEADER(q);
	for (unsigned int i = 0; i < n; i++)
		out[i + 1] = data[i];
	in = STATUS(q);
	return offer(q, out, n + 1, &in, 1, cookie);
}

bool vblk_flush(struct vblk_queue *q, void *cookie)
{
	struct sl_dq_buf out, in;

	if (!prepare(q, T_FLUSH, 0))
		return false;
	out = HEADER(q);
	in = STATUS(q);
	return offer(q, &out, 1, &in, 1, cookie);
}

static bool range_request(struct vblk_queue *q, uint32_t type, uint64_t sector, uint32_t num_sectors, uint32_t flags,
			  void *cookie)
{
	struct vblk_slot *s = prepare(q, type, 0);
	struct sl_dq_buf out[2], in;

	if (!s)
		return false;
	s->range.sector = le64(sector);
	s->range.num_sectors = le32(num_sectors);
	s->range.flags = le32(flags);
	out[0] = HEADER(q);
	out[1] = RANGE(q);
	in = STATUS(q);
	return offer(q, out, 2, &in, 1, cookie);
}

bool vblk_discard(struct vblk_queue *q, uint64_t sector, uint32_t num_sectors, void *cookie)
{
	return range_request(q, T_DISCARD, sector, num_sectors, 0, cookie);
}

bool vblk_write_zeroes(struct vblk_queue *q, uint64_t sector, uint32_t num_sectors, bool unmap, void *cookie)
{
	return range_request(q, T_WRITE_ZEROES, sector, num_sectors, unmap ? RANGE_UNMAP : 0, cookie);
}

bool vblk_get_id(struct vblk_queue *q, uint64_t addr, void *cookie)
{
	struct sl_dq_buf out, in[2] = { { addr, VBLK_ID_BYTES } };

	if (!prepare(q, T_GET_ID, 0))
		return false;
	out = HEADER(q);
	in[1] = STATUS(q);
	return offer(q, &out, 1, in, 2, cookie);
}

void vblk_commit(struct vblk_queue *q)
{
	struct sl_link *l = q->blk->link;

	if (!q->dirty)
		return;
	q->dirty = false;
	q->commits++;
	if (sl_dq_publish(q->dq)) {
		q->kicks++;
		l->ops->kick(l, q->index, sl_dq_kick_data(q->dq));
	}
}

void *vblk_poll(struct vblk_queue *q, int *result)
{
	struct vblk_tag *tag = sl_dq_get(q->dq, NULL);
	uint32_t i;

	if (!tag)
		return NULL;
	i = (uint32_t)(tag - q->tags);
	/* The device is done with the slot, so one look decides; a status it never wrote counts as an error. */
	switch (*(volatile uint8_t *)&q->slots[i].status) {
	case S_OK:
		*result = 0;
		break;
	case S_UNSUPP:
		*result = -EOPNOTSUPP;
		break;
	default:
		*result = -EIO;
	}
	tag->next_free = q->free;
	q->free = i;
	return tag->cookie;
}
