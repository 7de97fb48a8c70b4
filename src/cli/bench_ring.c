/* SPDX-License-Identifier: MIT */
/* bench_ring.c - what a ring costs by itself
 *
 * The calling thread is the driver, a second one the device. The driver keeps
 * a number of chains under way; the device hands each straight back. Neither
 * sleeps and no notification is ever asked for, so what remains is the ring:
 * the descriptors, the index or flags, and the cache lines that travel.
 */
#include "cli/bench_ring.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <sluice/dq.h>
#include <sluice/loop.h>
#include <sluice/vq.h>

#define GPA	    0x100000ULL
#define BUF_SIZE    64 /* bytes of one piece */
#define MAX_BUFFERS 16

struct ring_bench {
	const struct bench_ring_options *o;
	unsigned char *mem;
	size_t size, bufs; /* bytes; offset of the buffers */
	void *state;
	struct sl_mem *map;
	struct sl_dq *dq;
	struct sl_vq *vq;
	bool stop; /* atomic; set by the driver */
	const char *failed;
};

static void pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set); /* only a wish: an unpinned run is slower, not wrong */
}

/* In a container of one processor the other side must get its turn. */
static void relax(unsigned int *idle)
{
	if (++*idle % 4096 == 0)
		sched_yield();
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static void *device(void *arg)
{
	struct ring_bench *b = arg;
	struct sl_chain c;
	unsigned int idle = 0;

	pin(b->o->cpu < 0 ? -1 : b->o->cpu + 1);
	sl_vq_disarm(b->vq);
	while (!__atomic_load_n(&b->stop, __ATOMIC_RELAXED)) {
		unsigned int n = 0;

		while (n < 32 && sl_vq_pop(b->vq, &c) == 1) {
			sl_vq_push(b->vq, &c, (uint32_t)c.in.bytes);
			n++;
		}
		if (n)
			sl_vq_publish(b->vq);
		else
			relax(&idle);
	}
	return NULL;
}

/* Runs for the time asked for, then takes back what is under way. Returns the chains that went round. */
static uint64_t drive(struct ring_bench *b, uint64_t *ns)
{
	const struct bench_ring_options *o = b->o;
	struct sl_dq_buf buf[MAX_BUFFERS];
	uint64_t start = sl_now(), end = start + (uint64_t)(o->seconds * 1e9), now = start, done = 0;
	unsigned int under_way = 0, idle = 0, turn = 0;

	for (unsigned int i = 0; i < o->buffers; i++)
		buf[i] = (struct sl_dq_buf){GPA + b->bufs + (size_t)i * BUF_SIZE, BUF_SIZE};
	sl_dq_disarm(b->dq);
	while (now < end || under_way) {
		unsigned int before = under_way;

		while (now < end && under_way < o->depth && sl_dq_add(b->dq, buf, 1, buf + 1, o->buffers - 1, b))
			under_way++;
		sl_dq_publish(b->dq);
		while (sl_dq_get(b->dq, NULL)) {
			under_way--;
			done++;
		}
		if (under_way == before)
			relax(&idle);
		if (++turn % 64 == 0)
			now = sl_now();
		if (sl_dq_broken(b->dq) || now > end + 5000000000ULL) {
			b->failed = sl_dq_broken(b->dq) ? sl_dq_broken(b->dq) : "the device does not answer";
			break;
		}
	}
	*ns = sl_now() - start;
	return done;
}

static int set_up(struct ring_bench *b, struct sl_err *err)
{
	const struct bench_ring_options *o = b->o;
	struct sl_dq_config dcfg = {.num = o->num, .packed = o->packed};
	struct sl_vq_config vcfg = {.num = o->num, .packed = o->packed};
	struct sl_dq_layout at;
	struct sl_mem_region region = {.gpa = GPA, .uva = GPA, .access = SL_MEM_READ | SL_MEM_WRITE};

	sl_dq_layout(o->packed, o->num, &at);
	b->bufs = (at.size + 4095) & ~(size_t)4095;
	b->size = b->bufs + (size_t)MAX_BUFFERS * BUF_SIZE;
	b->mem = mmap(NULL, b->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	b->state = aligned_alloc(64, (sl_dq_state_size(o->num) + 63) & ~(size_t)63);
	if (b->mem == MAP_FAILED || !b->state)
		return sl_err_set(err, ENOMEM, "ring: memory: %s", strerror(ENOMEM));
	region.hva = b->mem;
	region.size = b->size;
	b->map = sl_mem_new(&region, 1, err);
	if (!b->map)
		return -EINVAL;
	dcfg.ring = b->mem;
	dcfg.state = b->state;
	b->dq = sl_dq_init(&dcfg);
	if (!b->dq)
		return sl_err_set(err, EINVAL, "ring: queue size %u: not legal for this format", o->num);
	vcfg.desc = GPA + at.desc;
	vcfg.driver = GPA + at.driver;
	vcfg.device = GPA + at.device;
	vcfg.base = sl_dq_base(b->dq);
	b->vq = sl_vq_new(&vcfg, b->map, err);
	return b->vq ? 0 : -EINVAL;
}

static void tear_down(struct ring_bench *b)
{
	sl_vq_free(b->vq);
	sl_mem_put(b->map);
	free(b->state);
	if (b->mem != MAP_FAILED)
		munmap(b->mem, b->size);
}

int bench_ring_run(const struct bench_ring_options *o, struct bench_ring_result *r, struct sl_err *err)
{
	struct ring_bench b = {.o = o, .mem = MAP_FAILED};
	cpu_set_t before;
	pthread_t th;
	uint64_t ns;
	int ret;

	if (!o->buffers || o->buffers > MAX_BUFFERS || !o->depth)
		return sl_err_set(err, EINVAL, "ring: between 1 and %u buffers and a depth of at least 1", MAX_BUFFERS);
	if (o->buffers > o->num)
		return sl_err_set(err, EINVAL, "ring: a chain of %u buffers does not fit a queue of %u", o->buffers, o->num);
	ret = set_up(&b, err);
	if (ret)
		goto out;
	sched_getaffinity(0, sizeof(before), &before);
	ret = pthread_create(&th, NULL, device, &b);
	if (ret) {
		ret = sl_err_set(err, ret, "ring: thread: %s", strerror(ret));
		goto out;
	}
	pin(o->cpu);
	r->chains = drive(&b, &ns);
	r->ns = r->chains ? (double)ns / (double)r->chains : 0;
	__atomic_store_n(&b.stop, true, __ATOMIC_RELAXED);
	pthread_join(th, NULL);
	sched_setaffinity(0, sizeof(before), &before);
	if (sl_vq_broken(b.vq))
		b.failed = sl_vq_broken(b.vq);
	if (b.failed)
		ret = sl_err_set(err, EIO, "ring: %s", b.failed);
out:
	tear_down(&b);
	return ret;
}
