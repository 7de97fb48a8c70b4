/* SPDX-License-Identifier: MIT */
/* test_power_cut.c - an overlay whose scratch file is cut off at any moment.
 *
 * The scratch file is recorded while random requests run on the overlay. Then,
 * for many places in the log, files are built as a power cut there could have
 * left them, and opened again as after a reboot. Each block must be what was
 * last flushed, or something newer; nothing else, and in particular not a hole.
 *
 * The disk is large and its requests fall on a few small islands, so that many
 * pages of the map are written.
 */
#include "bed.h"
#include "log.h"

#include <sys/mman.h>

#include "block/overlay.h"

#define BLOCK 512u
#define ISLANDS 40u
#define ISLAND_BLOCKS 16u
#define STRIDE (16ull << 20) /* a page of the map */
#define BLOCKS (ISLANDS * ISLAND_BLOCKS)
#define DEPTH 8u
#define REQUESTS 700u
#define MAX_CHANGES (2 * REQUESTS)
#define BOOT_ID_AT 72
#define SPEC "blk,memory:640M"

/**
 * struct change - a write, or write-zeroes (@value 0), of blocks of one island
 * @submitted: where the log ended when the overlay got it
 * @durable:   where it ended when something that makes it durable was done; UINT64_MAX: nothing did
 */
struct change {
	unsigned int first, n;
	uint32_t value;
	uint64_t submitted, durable;
	bool done;
};

/** struct slot - a request under way on the overlay; @covers: flush: the changes that were done when it came */
struct slot {
	struct io io;
	struct change *change;
	bool busy;
	unsigned char buf[ISLAND_BLOCKS * BLOCK];
	bool covers[MAX_CHANGES];
};

/** struct lab - the overlay under test: @initial: the scratch file as it was made; @data: where in it the disk is */
struct lab {
	char ovl[128], initial[128], log[128], cut[128];
	struct spec base_spec, scratch_spec;
	struct block *base, *scratch;
	uint64_t data;
	struct bed bed;
	struct change changes[MAX_CHANGES];
	unsigned int n;
	struct slot slots[DEPTH];
	struct log events;
};

static struct lab lab;
static uint32_t state = 1;

static uint32_t random_below(uint32_t n)
{
	state = state * 1664525u + 1013904223u;
	return (state >> 8) % n;
}

static uint64_t offset_of(unsigned int block)
{
	return block / ISLAND_BLOCKS * STRIDE + (uint64_t)(block % ISLAND_BLOCKS) * BLOCK;
}

/* ---- the run that is recorded ---- */

static uint64_t found;

static void number(void *arg, const char *name, uint64_t value)
{
	(void)arg;
	if (!strcmp(name, "record.log-bytes"))
		found = value;
}

static uint64_t log_end(void)
{
	const struct block_report r = {.number = number};

	block_report(lab.scratch, &r);
	return found;
}

static void copy_file(const char *from, const char *to)
{
	char cmd[400];

	snprintf(cmd, sizeof(cmd), "cp --sparse=always '%s' '%s'", from, to);
	REQUIRE(system(cmd) == 0);
}

static struct block *open_block(struct spec *s, const char *text)
{
	struct sl_err err;
	struct block *b = NULL;

	REQUIRE(spec_parse(s, text, &err) == 0);
	if (block_open(s, &b, &err))
		fprintf(stderr, "%s\n", err.text);
	REQUIRE(b);
	return b;
}

/* Made in the usual way, and then opened with the record filter between the overlay and its file. */
static void start(void)
{
	struct overlay *o;
	char text[400];
	struct sl_err err;
	struct bed once;
	int fd;

	snprintf(lab.ovl, sizeof(lab.ovl), "%s/ovl", dir);
	snprintf(lab.initial, sizeof(lab.initial), "%s/initial", dir);
	snprintf(lab.log, sizeof(lab.log), "%s/log", dir);
	snprintf(lab.cut, sizeof(lab.cut), "%s/cut", dir);
	bed_open(&once, SPEC ",overlay=%s", lab.ovl);
	bed_close(&once);
	copy_file(lab.ovl, lab.initial);

	lab.base = open_block(&lab.base_spec, SPEC ",readonly=on");
	snprintf(text, sizeof(text), "blk,%s,format=raw,record=%s", lab.ovl, lab.log);
	lab.scratch = open_block(&lab.scratch_spec, text);
	fd = open(lab.ovl, O_RDWR | O_CLOEXEC);
	REQUIRE(fd >= 0 && !overlay_open_on(lab.base, lab.scratch, fd, lab.ovl, false, &o, &err));
	lab.data = o->data;
	lab.bed.block = &o->f.b;
	lab.bed.loop = sl_loop_new();
	lab.bed.c = block_attach(lab.bed.block, lab.bed.loop, &err);
	REQUIRE(lab.bed.c);
}

static void end(void)
{
	block_detach(lab.bed.c);
	sl_loop_free(lab.bed.loop);
	log_read(&lab.events, lab.log); /* before what closing writes */
	block_close(lab.bed.block);
	spec_free(&lab.base_spec);
	spec_free(&lab.scratch_spec);
}

static void slot_done(struct block_req *req, int result)
{
	struct slot *s = (struct slot *)req;
	uint64_t now = log_end();

	CHECK_EQ(result, 0);
	s->busy = false;
	if (req->op == BLOCK_FLUSH) {
		for (unsigned int i = 0; i < lab.n; i++)
			if (s->covers[i] && now < lab.changes[i].durable)
				lab.changes[i].durable = now;
		return;
	}
	s->change->done = true;
	if (s->change->durable == 0) /* FUA */
		s->change->durable = now;
}

static bool overlaps(unsigned int first, unsigned int n)
{
	for (unsigned int i = 0; i < DEPTH; i++) {
		const struct slot *s = &lab.slots[i];

		if (s->busy && s->change && first < s->change->first + s->change->n && s->change->first < first + n)
			return true;
	}
	return false;
}

static void submit_flush(struct slot *s)
{
	s->change = NULL;
	for (unsigned int i = 0; i < lab.n; i++)
		s->covers[i] = lab.changes[i].done;
	memset(s->covers + lab.n, 0, sizeof(s->covers) - lab.n);
	s->io.req = (struct block_req){.op = BLOCK_FLUSH, .done = slot_done};
}

static bool submit_change(struct slot *s)
{
	unsigned int island = random_below(ISLANDS), first = random_below(ISLAND_BLOCKS);
	unsigned int n = 1 + random_below(ISLAND_BLOCKS - first);
	bool fua = random_below(12) == 0, zeroes = random_below(6) == 0;
	struct change *c = &lab.changes[lab.n];

	first += island * ISLAND_BLOCKS;
	if (overlaps(first, n))
		return false;
	*c = (struct change){.first = first, .n = n, .value = zeroes ? 0 : lab.n + 1, .submitted = log_end(),
			     .durable = fua ? 0 : UINT64_MAX};
	lab.n++;
	for (unsigned int i = 0; i < n * BLOCK / 4; i++)
		memcpy(s->buf + i * 4, &c->value, 4);
	s->change = c;
	s->io.one = (struct iovec){s->buf, n * BLOCK};
	s->io.req = (struct block_req){.op = zeroes ? BLOCK_WRITE_ZEROES : BLOCK_WRITE,
				       .flags = (fua ? BLOCK_FUA : 0) | (zeroes && random_below(2) ? BLOCK_UNMAP : 0),
				       .offset = offset_of(first), .len = n * BLOCK, .iov = &s->io.one,
				       .iovcnt = zeroes ? 0 : 1, .done = slot_done};
	return true;
}

static unsigned int busy(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < DEPTH; i++)
		n += lab.slots[i].busy;
	return n;
}

static void run(void)
{
	for (unsigned int left = REQUESTS; left || busy();) {
		for (unsigned int i = 0; i < DEPTH && left; i++) {
			struct slot *s = &lab.slots[i];

			if (s->busy || random_below(3) == 0)
				continue;
			left--;
			if (random_below(14) == 0)
				submit_flush(s);
			else if (!submit_change(s))
				continue;
			s->busy = true;
			block_submit(lab.bed.c, &s->io.req);
		}
		block_commit(lab.bed.c);
		sl_loop_step(lab.bed.loop, 1);
	}
}

/* ---- what a cut leaves ---- */

/* The first event from which on the write or write-zeroes @i of the log is durable; a lying disk ignores some flushes. */
static unsigned int durable_from(unsigned int i, unsigned int lies)
{
	const struct log *l = &lab.events;
	unsigned int done = i, flushes = 0;

	while (done < l->n && !(l->events[done].r->kind == RECORD_DONE && l->events[done].r->id == l->events[i].r->id))
		done++;
	if (done < l->n && (l->events[i].r->flags & BLOCK_FUA))
		return done;
	for (unsigned int f = 0; f < l->n; f++) {
		const struct record *r = l->events[f].r;

		if (r->op != BLOCK_FLUSH || r->kind != RECORD_SUBMITTED)
			continue;
		flushes++;
		if (f < done || (lies && flushes % lies == 0))
			continue;
		for (unsigned int d = f; d < l->n; d++)
			if (l->events[d].r->kind == RECORD_DONE && l->events[d].r->id == r->id)
				return d;
	}
	return UINT32_MAX;
}

static void apply(int fd, const struct event *e, bool torn)
{
	static const unsigned char zeroes[BLOCK];

	for (uint64_t at = 0; at < e->r->len; at += BLOCK) {
		if (torn && random_below(2))
			continue;
		REQUIRE(pwrite(fd, e->r->op == BLOCK_WRITE ? e->data + at : zeroes, BLOCK,
			       (off_t)(e->r->offset + at)) == BLOCK);
	}
}

/* The file as a cut before event @cut may have left it; @share in 100 of what is not durable is there. */
static void build(unsigned int cut, unsigned int share, const unsigned int *durable)
{
	int fd;

	copy_file(lab.initial, lab.cut);
	fd = open(lab.cut, O_RDWR | O_CLOEXEC);
	REQUIRE(fd >= 0);
	for (unsigned int i = 0; i < cut; i++) {
		const struct event *e = &lab.events.events[i];

		if (e->r->kind != RECORD_SUBMITTED || e->r->op == BLOCK_FLUSH)
			continue;
		if (durable[i] < cut)
			apply(fd, e, false);
		else if (random_below(100) < share)
			apply(fd, e, share < 100 && random_below(2));
	}
	REQUIRE(pwrite(fd, "0000", 4, BOOT_ID_AT) == 4); /* and then the host was started again */
	close(fd);
}

/* May @block have @value, when the log was cut at byte @cut? */
static bool allowed(unsigned int block, uint32_t value, uint64_t cut)
{
	bool ok = !value;

	for (unsigned int i = 0; i < lab.n; i++) {
		const struct change *c = &lab.changes[i];

		if (block < c->first || block >= c->first + c->n || c->submitted > cut)
			continue;
		ok = c->durable <= cut ? c->value == value : ok || c->value == value;
	}
	return ok;
}

/* How many blocks are what they must not be. */
static unsigned int judge(uint64_t cut)
{
	unsigned char buf[ISLAND_BLOCKS * BLOCK];
	unsigned int wrong = 0;
	struct bed bed;

	bed_open(&bed, SPEC ",overlay=%s", lab.cut);
	for (unsigned int island = 0; island < ISLANDS; island++) {
		CHECK_EQ(io(&bed, BLOCK_READ, island * STRIDE, sizeof(buf), buf), 0);
		for (unsigned int i = 0; i < ISLAND_BLOCKS; i++) {
			uint32_t value;

			memcpy(&value, buf + i * BLOCK, 4);
			for (unsigned int at = 4; at < BLOCK; at += 4)
				wrong += memcmp(buf + i * BLOCK + at, &value, 4) != 0;
			wrong += !allowed(island * ISLAND_BLOCKS + i, value, cut);
		}
	}
	bed_close(&bed);
	return wrong;
}

/* Cut at @cuts places; how many of the files were wrong? */
static unsigned int cut_everywhere(unsigned int cuts, unsigned int lies)
{
	static const unsigned int shares[] = {0, 100, 50, 10};
	const struct log *l = &lab.events;
	unsigned int *durable = calloc(l->n, sizeof(*durable)), wrong = 0;

	REQUIRE(durable);
	for (unsigned int i = 0; i < l->n; i++)
		if (l->events[i].r->kind == RECORD_SUBMITTED && l->events[i].r->op != BLOCK_FLUSH)
			durable[i] = durable_from(i, lies);
	for (unsigned int i = 0; i < cuts; i++) {
		unsigned int cut = random_below(l->n + 1);
		const unsigned char *end = cut < l->n ? (const unsigned char *)l->events[cut].r : NULL;
		uint64_t bytes = end ? (uint64_t)(end - l->bytes) : UINT64_MAX - 1;

		build(cut, shares[i % 4], durable);
		wrong += judge(bytes) != 0;
	}
	free(durable);
	return wrong;
}

static void overlay_survives(void)
{
	unsigned int cuts = getenv("SLUICE_SANITIZED") ? 60 : 200, flushes = 0, maps = 0, lost;

	start();
	run();
	end();
	for (unsigned int i = 0; i < lab.events.n; i++) {
		const struct record *r = lab.events.events[i].r;

		flushes += r->kind == RECORD_SUBMITTED && r->op == BLOCK_FLUSH;
		maps += r->kind == RECORD_SUBMITTED && r->op == BLOCK_WRITE && r->offset < lab.data;
	}
	printf("%u changes, %u events, %u syncs, %u pages of the map\n", lab.n, lab.events.n, flushes, maps);
	CHECK(maps > 20);
	CHECK_EQ(cut_everywhere(cuts, 0), 0);
	/* That this can fail: the same with a file that ignores every sync. */
	lost = cut_everywhere(40, 1);
	printf("a file that ignores syncs: %u of 40 cuts are wrong\n", lost);
	CHECK(lost > 0);
	log_free(&lab.events);
}

static const struct t_case cases[] = {
	{"overlay_survives", overlay_survives},
};

BED_MAIN(cases)
