/* SPDX-License-Identifier: MIT */
/* fuzz_blk.c - random requests of a hostile driver to virtio-blk, while a second thread rewrites what it reads.
 *
 * SOURCES: src/base/*.c src/memory/*.c src/ring/*.c src/virtio/*.c src/transport/direct.c src/devices/*.c
 * SOURCES: src/block/block.c src/block/file.c src/block/file_open.c src/block/worker.c src/block/uring.c
 * SOURCES: src/block/filter.c src/block/filter_delay.c src/block/filter_error.c src/block/memory.c src/block/null.c
 * SOURCES: src/block/filter_record.c src/block/filter_throttle.c src/block/overlay.c src/block/overlay_file.c
 * SOURCES: src/block/overlay_flush.c
 * LIBS: -luring
 *
 * The input says which ring features to take, which source to use, and then
 * request after request: type, sector, how the parts are cut into descriptors.
 * Headers, ranges and data lie in memory that another thread keeps changing,
 * so the device may read each byte only once (not with FUZZ_QUIET=1 in the
 * environment, which makes a run repeatable).
 *
 * Oracles, each ends the run:
 *  - memory that no descriptor offered for writing is as it was;
 *  - every request comes back exactly once, in bounded time;
 *  - the ring is never broken, as the driver side here keeps to its rules;
 *  - a file source is as long as it was;
 *  - sanitizers.
 */
#include "block/block.h"
#include "devices/devices.h"
#include "rig.h"
#include "transport/direct.h"

#include <endian.h>
#include <linux/virtio_blk.h>
#include <pthread.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RING 64
#define READABLE (64u << 10) /* what the device reads: rewritten by the other thread */
#define WRITABLE (64u << 10) /* what it may write */
#define GUARD 4096u	     /* around that: nobody may write */
#define DISK (256u << 10)
#define CANARY 0xc9

enum { SOURCES = 2 };

/* One of everything, made with the first input. */
static struct fuzz {
	struct sl_loop *loop;
	struct spec spec[SOURCES];
	struct served_device *served[SOURCES];
	struct direct direct[SOURCES];
	struct rig rig;
	size_t rings; /* rig.used before the queue's ring */
	unsigned char *readable, *guard, *writable, *guard2;
	int disk_fd;
	bool racing; /* atomic: the other thread may write now */
} fuzz;

static void require(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz_blk: %s\n", what);
	abort();
}

/* Rewrites the device-readable memory: small numbers mostly, which make legal types, sectors and counts. */
static void *rewrite(void *arg)
{
	uint32_t x = 1;

	(void)arg;
	for (;;) {
		x = x * 1664525u + 1013904223u;
		if (__atomic_load_n(&fuzz.racing, __ATOMIC_ACQUIRE))
			__atomic_store_n(fuzz.readable + (x >> 8) % 512, (unsigned char)(x >> 28), __ATOMIC_RELAXED);
		else
			usleep(50);
	}
	return NULL;
}

static void open_source(unsigned int i, const char *text)
{
	struct device_env env = {.control = fuzz.loop};
	struct sl_err err;

	require(!spec_parse(&fuzz.spec[i], text, &err), "spec");
	fuzz.served[i] = device_open(&fuzz.spec[i], &env, &err);
	require(fuzz.served[i], text);
	require(!direct_attach(&fuzz.direct[i], fuzz.served[i]->dev), "attach");
}

static void make(void)
{
	char text[128];
	pthread_t thread;

	fuzz.loop = sl_loop_new();
	fuzz.disk_fd = memfd_create("disk", MFD_CLOEXEC);
	require(fuzz.loop && fuzz.disk_fd >= 0 && !ftruncate(fuzz.disk_fd, DISK), "disk");
	open_source(0, "blk,memory:256K,in-order=on");
	snprintf(text, sizeof(text), "blk,/proc/self/fd/%d,in-order=on", fuzz.disk_fd);
	open_source(1, text);
	rig_open(&fuzz.rig, 1u << 20);
	fuzz.readable = rig_alloc(&fuzz.rig, READABLE, 4096);
	fuzz.guard = rig_alloc(&fuzz.rig, GUARD, 4096);
	fuzz.writable = rig_alloc(&fuzz.rig, WRITABLE, 4096);
	fuzz.guard2 = rig_alloc(&fuzz.rig, GUARD, 4096);
	fuzz.rings = fuzz.rig.used;
	memset(fuzz.guard, CANARY, GUARD);
	memset(fuzz.guard2, CANARY, GUARD);
	require(getenv("FUZZ_QUIET") || !pthread_create(&thread, NULL, rewrite, NULL), "thread");
}

/** struct input - what is left of the fuzzer's bytes */
struct input {
	const uint8_t *at, *end;
};

static uint32_t take(struct input *in, unsigned int bytes)
{
	uint32_t v = 0;

	while (bytes-- && in->at < in->end)
		v = v << 8 | *in->at++;
	return v;
}

/* A list of at most @max pieces of the memory at @base, @room bytes large. */
static unsigned int pieces(struct input *in, unsigned int max, const unsigned char *base, uint32_t room,
			   struct sl_dq_buf *buf)
{
	static const uint32_t usual[] = {1, 16, 32, 512, 513, 1024, 4096, 8192};
	unsigned int n = take(in, 1) % (max + 1);

	for (unsigned int i = 0; i < n; i++) {
		uint32_t how = take(in, 1), offset = take(in, 1) * 16 % room;
		uint32_t len = how & 0x80 ? usual[how & 7] : how & 0x7f;

		if (!len)
			len = 1;
		if (len > room - offset)
			len = room - offset;
		buf[i] = rig_buf(&fuzz.rig, base + offset, len);
	}
	return n;
}

static void put_header(struct input *in)
{
	static const uint8_t types[] = {VIRTIO_BLK_T_IN,     VIRTIO_BLK_T_OUT,	       VIRTIO_BLK_T_FLUSH,
					VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD,     VIRTIO_BLK_T_WRITE_ZEROES,
					VIRTIO_BLK_T_OUT,    VIRTIO_BLK_T_SECURE_ERASE};
	uint32_t how = take(in, 1), type = how & 0x80 ? take(in, 4) : types[how & 7];
	uint64_t sector = how & 0x40 ? (uint64_t)take(in, 4) << 32 | take(in, 4) : take(in, 2) % (DISK / 512 + 2);
	struct virtio_blk_outhdr *h = (struct virtio_blk_outhdr *)(void *)fuzz.readable;
	struct virtio_blk_discard_write_zeroes *r = (struct virtio_blk_discard_write_zeroes *)(void *)(h + 1);

	h->type = htole32(type);
	h->sector = htole64(sector);
	for (unsigned int i = 0; i < 3; i++) {
		r[i].sector = htole64(how & 0x20 ? (uint64_t)take(in, 4) << 32 | take(in, 4) : take(in, 1));
		r[i].num_sectors = htole32(how & 0x20 ? take(in, 4) : take(in, 1));
		r[i].flags = htole32(how & 0x10 ? take(in, 1) : 0);
	}
}

static void collect(struct direct *direct, struct rig_queue *q, unsigned int allowed)
{
	for (unsigned int turn = 0; sl_dq_outstanding(q->dq) > allowed; turn++) {
		bool *cookie;

		sl_loop_step(fuzz.loop, turn > 100 ? 1 : 0);
		require(!direct->queues[0].broken, "the device calls the ring broken");
		while ((cookie = sl_dq_get(q->dq, NULL))) {
			require(*cookie, "a request is done twice");
			*cookie = false;
		}
		require(!sl_dq_broken(q->dq), "the device broke the ring");
		require(turn < 20000, "a request never ends");
	}
}

static void requests(struct input *in, struct direct *direct, struct rig_queue *q)
{
	static bool pending[256];

	for (unsigned int i = 0; i < 256 && in->at < in->end; i++) {
		struct sl_dq_buf out[8], inb[8];
		unsigned int out_n, in_n;

		put_header(in);
		out_n = pieces(in, 7, fuzz.readable, READABLE, out);
		/* Mostly the header is really in front. */
		if (out_n && out[0].len >= 16 && (take(in, 1) & 7))
			out[0].addr = rig_gpa(&fuzz.rig, fuzz.readable);
		in_n = pieces(in, 7, fuzz.writable, WRITABLE, inb);
		if (out_n + in_n == 0)
			continue;
		pending[i] = true;
		require(sl_dq_add(q->dq, out, out_n, inb, in_n, &pending[i]), "no room in the ring");
		if (sl_dq_publish(q->dq))
			sl_queue_kick(direct->device, 0);
		collect(direct, q, i % 4 ? 3 : 0);
	}
	collect(direct, q, 0);
	for (unsigned int i = 0; i < 256; i++)
		require(!pending[i], "a request is lost");
}

static void check_memory(void)
{
	struct stat st;

	for (unsigned int i = 0; i < GUARD; i++)
		require(fuzz.guard[i] == CANARY && fuzz.guard2[i] == CANARY, "memory beside the buffers was written");
	require(!fstat(fuzz.disk_fd, &st) && st.st_size == DISK, "the file has another length");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const unsigned int ring[] = {SL_F_RING_PACKED, SL_F_INDIRECT_DESC, SL_F_EVENT_IDX, SL_F_IN_ORDER};
	struct input in = {data, data + size};
	struct sl_features f;
	struct sl_device *dev;
	struct rig_queue q;
	uint32_t how;

	if (!fuzz.loop)
		make();
	if (!size)
		return 0;
	how = take(&in, 1);
	dev = fuzz.served[how >> 7]->dev;
	f = *sl_device_offered(dev);
	for (unsigned int i = 0; i < 4; i++)
		if (how >> i & 1)
			sl_features_clear(&f, ring[i]);
	fuzz.rig.used = fuzz.rings;
	rig_queue(&fuzz.rig, &q, RING, &f);
	require(!sl_device_accept(dev, &f) && !sl_queue_start(dev, 0, &q.setup, fuzz.rig.mem, NULL), "start");
	__atomic_store_n(&fuzz.racing, !(how & 0x40), __ATOMIC_RELEASE);
	requests(&in, &fuzz.direct[how >> 7], &q);
	__atomic_store_n(&fuzz.racing, false, __ATOMIC_RELEASE);
	direct_reset(&fuzz.direct[how >> 7]);
	rig_queue_close(&q);
	check_memory();
	return 0;
}
