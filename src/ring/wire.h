/* SPDX-License-Identifier: MIT */
/* wire.h - what lies in the memory that driver and device share (virtio 1.4, 2.7 and 2.8), and how it is touched.
 *
 * Included by src/ring/ only. Everything on the wire is little-endian, and so is every host this is built for.
 *
 * Theory of operation: shared memory is read and written through the helpers below and in no other way. Each is one
 * access that the compiler may neither split, repeat nor leave out. Ordering comes from three of them:
 *
 *     release store  ring_store16_release()  "all I wrote before is there"     pairs with the acquire load of the peer
 *     acquire load   ring_load16_acquire()   "I see all that came with it"     pairs with the release store of the peer
 *     full fence     ring_fence()            my store before my load           pairs with the full fence of the peer
 *
 * The pairs are:
 *     A  driver: avail idx / first flags (release)     device: pop (acquire)
 *     B  device: used idx / first flags (release)      driver: get (acquire)
 *     C  driver: publish, fence, read device's event   device: rearm writes event, fence, look for more
 *     D  device: publish, fence, read driver's event   driver: rearm writes event, fence, look for more
 * C and D are the store buffering pattern: without a full fence on both sides both may read the old value, and then
 * one side sleeps while the other believes it need not be woken. Release and acquire do not forbid that.
 */
#ifndef SLUICE_RING_WIRE_H
#define SLUICE_RING_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are little-endian and so must the host be");

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

enum { /* descriptor flags, both formats */
       WIRE_F_NEXT = 1,
       WIRE_F_WRITE = 2,
       WIRE_F_INDIRECT = 4,
       WIRE_F_AVAIL = 1 << 7, /* packed */
       WIRE_F_USED = 1 << 15, /* packed */
};

enum { WIRE_AVAIL_NO_INTERRUPT = 1, WIRE_USED_NO_NOTIFY = 1 };

enum { WIRE_EVENT_ENABLE = 0, WIRE_EVENT_DISABLE = 1, WIRE_EVENT_DESC = 2 }; /* packed */

/** struct wire_desc - split: entry of the descriptor table and of an indirect table */
struct wire_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

/** struct wire_pdesc - packed: entry of the descriptor ring and of an indirect table */
struct wire_pdesc {
	uint64_t addr;
	uint32_t len;
	uint16_t id, flags;
};

/** struct wire_avail - split: the available ring; ring[num] is the used_event field */
struct wire_avail {
	uint16_t flags, idx;
	uint16_t ring[];
};

struct wire_used_elem {
	uint32_t id, len;
};

/** struct wire_used - split: the used ring; behind ring[num - 1] comes the avail_event field, 16 bits */
struct wire_used {
	uint16_t flags, idx;
	struct wire_used_elem ring[];
};

/* An event suppression area of the packed format is read and written as one word:
 * bits 0-14 offset, 15 wrap counter, 16-17 flags. */
#define WIRE_EVENT(off, wrap, flags) ((uint32_t)(off) | (uint32_t)(wrap) << 15 | (uint32_t)(flags) << 16)

#define WIRE_DESC_SIZE	     16
#define WIRE_AVAIL_SIZE(num) (sizeof(struct wire_avail) + 2 * (size_t)(num) + 2)
#define WIRE_USED_SIZE(num)  (sizeof(struct wire_used) + 8 * (size_t)(num) + 2)

/* ---- the vhost-user inflight region (vhost-user, "Inflight I/O tracking") ---- */

struct wire_inflight_split_desc {
	uint8_t inflight, pad[5];
	uint16_t next;
	uint64_t counter;
};

struct wire_inflight_split {
	uint64_t features;
	uint16_t version, desc_num, last_batch_head, used_idx;
	struct wire_inflight_split_desc desc[];
};

struct wire_inflight_packed_desc {
	uint8_t inflight, pad;
	uint16_t next, last, num;
	uint64_t counter;
	uint16_t id, flags;
	uint32_t len;
	uint64_t addr;
};

/** union wire_inflight_used - both used positions of a packed region; one word, so that they change together */
union wire_inflight_used {
	uint64_t word;
	struct {
		uint16_t idx, old_idx;
		uint8_t wrap, old_wrap, pad[2];
	};
};

struct wire_inflight_packed {
	uint64_t features;
	uint16_t version, desc_num, free_head, old_free_head;
	union wire_inflight_used used;
	uint8_t pad[8];
	struct wire_inflight_packed_desc desc[];
};

_Static_assert(sizeof(struct wire_desc) == 16 && sizeof(struct wire_pdesc) == 16, "layout");
_Static_assert(sizeof(struct wire_inflight_split) == 16 && sizeof(struct wire_inflight_split_desc) == 16, "layout");
_Static_assert(sizeof(struct wire_inflight_packed) == 32 && sizeof(struct wire_inflight_packed_desc) == 32, "layout");
_Static_assert(offsetof(struct wire_inflight_packed, used) == 16, "layout");

/* ---- access ---- */

/* Tests enumerate a process's death at every store to shared memory: the hook runs before each. */
#ifdef SL_RING_CRASH_POINTS
extern void (*ring_crash_point)(void);
#define RING_CRASH_POINT() ring_crash_point()
#else
#define RING_CRASH_POINT() ((void)0)
#endif

#define RING_ACCESS(bits)                                                                  \
	static inline uint##bits##_t ring_load##bits(const uint##bits##_t *p)              \
	{                                                                                  \
		return __atomic_load_n(p, __ATOMIC_RELAXED);                               \
	}                                                                                  \
	static inline void ring_store##bits(uint##bits##_t *p, uint##bits##_t v)           \
	{                                                                                  \
		RING_CRASH_POINT();                                                        \
		__atomic_store_n(p, v, __ATOMIC_RELAXED);                                  \
	}                                                                                  \
	static inline void ring_store##bits##_release(uint##bits##_t *p, uint##bits##_t v) \
	{                                                                                  \
		RING_CRASH_POINT();                                                        \
		__atomic_store_n(p, v, __ATOMIC_RELEASE);                                  \
	}
RING_ACCESS(8)
RING_ACCESS(16)
RING_ACCESS(32)
RING_ACCESS(64)
#undef RING_ACCESS

static inline uint16_t ring_load16_acquire(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* Full fence: store before load. ThreadSanitizer knows no fences; a locked instruction is one as well. */
static inline void ring_fence(void)
{
#if defined(__SANITIZE_THREAD__)
#define RING_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RING_TSAN 1
#endif
#endif
#ifdef RING_TSAN
	uint32_t x = 0;

	__atomic_fetch_add(&x, 1, __ATOMIC_SEQ_CST);
	__asm__ volatile("" ::"r"(&x) : "memory");
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

typedef uint64_t __attribute__((may_alias)) wire_word;

/* The one fetch of 16 bytes, aligned to 8: two loads. Judge the copy. */
static inline void wire_fetch16(const void *p, uint64_t dst[2])
{
	dst[0] = __atomic_load_n((const wire_word *)p, __ATOMIC_RELAXED);
	dst[1] = __atomic_load_n((const wire_word *)p + 1, __ATOMIC_RELAXED);
}

static inline struct wire_desc wire_fetch_desc(const struct wire_desc *p)
{
	uint64_t w[2];

	wire_fetch16(p, w);
	return (struct wire_desc){w[0], (uint32_t)w[1], (uint16_t)(w[1] >> 32), (uint16_t)(w[1] >> 48)};
}

static inline struct wire_pdesc wire_fetch_pdesc(const struct wire_pdesc *p)
{
	uint64_t w[2];

	wire_fetch16(p, w);
	return (struct wire_pdesc){w[0], (uint32_t)w[1], (uint16_t)(w[1] >> 32), (uint16_t)(w[1] >> 48)};
}

/* Did @event lie in the range of positions [old, now) that was just published? Free running 16-bit numbers.
 * A window and not an equality: a batch may step over @event. */
static inline bool wire_need_event(uint16_t event, uint16_t now, uint16_t old)
{
	return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

/* The same for positions in a packed ring: @now and @wrap is the position after @count published slots. */
static inline bool wire_need_event_packed(uint32_t area, bool event_idx, uint16_t num, uint16_t now, bool wrap,
					  uint16_t count)
{
	uint16_t off = area & 0x7fff;

	switch (area >> 16 & 3) {
	case WIRE_EVENT_DISABLE:
		return false;
	case WIRE_EVENT_DESC:
		if (!event_idx)
			return true; /* not a legal value without the feature: rather one event too many */
		if ((area >> 15 & 1) != wrap)
			off = (uint16_t)(off - num); /* a position of the round before */
		return wire_need_event(off, now, (uint16_t)(now - count));
	default:
		return true;
	}
}

#endif
