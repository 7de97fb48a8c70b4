/* SPDX-License-Identifier: MIT */
/* test_rbd.c - RBD images, with a real Ceph cluster (see with-ceph) whose OSD is stopped, killed and started again */
#include "block/bed.h"

#include <signal.h>
#include <sys/wait.h>

#include <sluice/log.h>

#define MiB (1u << 20)
#define SLOTS 32

static char lines[64][256];
static unsigned int n_lines;

/* Log lines come from more than one thread, but those that are looked for from this one. */
static void keep_line(void *arg, enum sl_log_level level, const char *line)
{
	unsigned int i = __atomic_fetch_add(&n_lines, 1, __ATOMIC_RELAXED);

	(void)arg;
	(void)level;
	fprintf(stderr, "log: %s\n", line);
	if (i < 64)
		snprintf(lines[i], sizeof(lines[i]), "%s", line);
}

static bool logged(const char *what)
{
	for (unsigned int i = 0; i < n_lines && i < 64; i++)
		if (strstr(lines[i], what))
			return true;
	return false;
}

static void new_image(const char *name, unsigned int mib)
{
	shell("rbd rm --no-progress rbd/%s >/dev/null 2>&1", name);
	REQUIRE(!shell("rbd create --size %uM rbd/%s", mib, name));
	n_lines = 0;
}

/* ---- the OSD ---- */

static pid_t osd(void)
{
	char path[256];
	FILE *in;
	int pid = 0;

	snprintf(path, sizeof(path), "%s/osd.pid", getenv("CEPH_DIR"));
	in = fopen(path, "re");
	REQUIRE(in && fscanf(in, "%d", &pid) == 1 && pid > 1);
	fclose(in);
	return pid;
}

/* All its threads stand still when this returns; it is nobody's child, so /proc has to tell. */
static void osd_stop(void)
{
	char path[64], state = 0;

	kill(osd(), SIGSTOP);
	snprintf(path, sizeof(path), "/proc/%d/stat", osd());
	for (unsigned int i = 0; i < 30000 && state != 'T'; i++) {
		FILE *in = fopen(path, "re");

		REQUIRE(in && fscanf(in, "%*d (%*[^)]) %c", &state) == 1);
		fclose(in);
		usleep(1000);
	}
	CHECK_EQ(state, 'T');
}

static void osd_go_on(void)
{
	kill(osd(), SIGCONT);
}

/* ---- figures ---- */

static uint64_t wanted_value;
static const char *wanted_name;

static void look_for(void *arg, const char *name, uint64_t value)
{
	(void)arg;
	if (!strcmp(name, wanted_name))
		wanted_value = value;
}

static uint64_t figure(struct bed *bed, const char *name)
{
	const struct block_report r = {.number = look_for};

	wanted_name = name;
	wanted_value = UINT64_MAX;
	block_report(bed->block, &r);
	return wanted_value;
}

static void step_ms(struct bed *bed, unsigned int ms)
{
	uint64_t until = sl_now() + (uint64_t)ms * 1000000;

	while (sl_now() < until)
		sl_loop_step(bed->loop, 10);
}

/* ---- cases ---- */

static void round_trip(void)
{
	unsigned char *a = malloc(12 * MiB), *b = malloc(12 * MiB);
	struct iovec iov[3] = {{b, 512}, {b + 1024, 5 * MiB}, {b + 6 * MiB, 4 * MiB - 512}};
	struct iovec *many = calloc(512, sizeof(*many));
	struct bed bed;
	struct io one;

	new_image("trip", 64);
	bed_open(&bed, "blk,rbd:rbd/trip");
	CHECK_EQ(bed.block->info.size, 64 * MiB);
	CHECK_EQ(bed.block->info.discard_granularity, 65536);
	CHECK(bed.block->info.discard && bed.block->info.write_zeroes && bed.block->info.flush);
	fill(a, 12 * MiB, 7);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 3 * MiB, 12 * MiB, a), 0); /* several pieces, several objects */
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE, 0, 4096, a, BLOCK_FUA), 0);
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE_ZEROES, 4096, 4096, NULL, BLOCK_FUA), 0);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 3 * MiB, 12 * MiB, b), 0);
	CHECK(!memcmp(a, b, 12 * MiB));
	CHECK_EQ(io(&bed, BLOCK_READ, 512, 512, b), 0);
	CHECK(!memcmp(a + 512, b, 512));
	/* stretches of memory that do not end where pieces end */
	memset(b, 0, 12 * MiB);
	io_submit_iov(&bed, &one, BLOCK_READ, 3 * MiB, 9 * MiB, iov, 3, 0);
	block_commit(bed.c);
	CHECK_EQ(io_wait(&bed, &one), 0);
	CHECK(!memcmp(b, a, 512) && !memcmp(b + 1024, a + 512, 5 * MiB));
	CHECK(!memcmp(b + 6 * MiB, a + 512 + 5 * MiB, 4 * MiB - 512));
	io_submit_iov(&bed, &one, BLOCK_WRITE, 32 * MiB, 9 * MiB, iov, 3, 0);
	block_commit(bed.c);
	CHECK_EQ(io_wait(&bed, &one), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 32 * MiB, 9 * MiB, b), 0);
	CHECK(!memcmp(a, b, 9 * MiB));
	/* more stretches than librbd is given at once */
	for (unsigned int i = 0; i < 512; i++)
		many[i] = (struct iovec){a + i * 1024, 1024};
	io_submit_iov(&bed, &one, BLOCK_WRITE, 50 * MiB, 512 * 1024, many, 512, 0);
	block_commit(bed.c);
	CHECK_EQ(io_wait(&bed, &one), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 50 * MiB, 512 * 1024, b), 0);
	CHECK(!memcmp(a, b, 512 * 1024));
	/* zeroes, with and without giving space back; discards */
	CHECK_EQ(io(&bed, BLOCK_WRITE_ZEROES, 3 * MiB + 512, 512, NULL), 0);
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE_ZEROES, 8 * MiB, 4 * MiB, NULL, BLOCK_UNMAP), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 3 * MiB, 12 * MiB, b), 0);
	CHECK(!memcmp(a, b, 512) && all_zero(b + 512, 512) && !memcmp(a + 1024, b + 1024, MiB));
	CHECK(all_zero(b + 5 * MiB, 4 * MiB));
	CHECK_EQ(io(&bed, BLOCK_DISCARD, 32 * MiB, 8 * MiB, NULL), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 32 * MiB, 8 * MiB, b), 0);
	CHECK(all_zero(b, 8 * MiB));
	/* bounds */
	CHECK_EQ(io(&bed, BLOCK_READ, 64 * MiB, 512, b), -ENOSPC);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 64 * MiB - 512, 1024, b), -ENOSPC);
	CHECK_EQ(figure(&bed, "rbd.requests-in-flight"), 0);
	CHECK_EQ(figure(&bed, "rbd.oldest-request-ms"), 0);
	bed_close(&bed);
	bed_open(&bed, "blk,rbd:rbd/trip,cache=on,connections=1,discard=off");
	CHECK(!bed.block->info.discard);
	CHECK_EQ(io_flags(&bed, BLOCK_WRITE, 0, 4096, b, BLOCK_FUA), 0);
	CHECK_EQ(io(&bed, BLOCK_FLUSH, 0, 0, NULL), 0);
	bed_close(&bed);
	free(a);
	free(b);
	free(many);
}

static void snapshot(void)
{
	unsigned char a[4096], b[4096];
	struct bed bed, snap;

	new_image("snapped", 16);
	bed_open(&bed, "blk,rbd:rbd/snapped");
	fill(a, sizeof(a), 1);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, sizeof(a), a), 0);
	REQUIRE(!shell("rbd snap create --no-progress rbd/snapped@one")); /* under a writer that holds the lock */
	memset(b, 9, sizeof(b));
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, sizeof(b), b), 0);
	bed_open(&snap, "blk,rbd:rbd/snapped@one");
	CHECK(snap.block->info.read_only);
	CHECK_EQ(io(&snap, BLOCK_READ, 0, sizeof(b), b), 0);
	CHECK(!memcmp(a, b, sizeof(a)));
	CHECK_EQ(io(&snap, BLOCK_WRITE, 0, sizeof(b), b), -EROFS);
	bed_close(&snap);
	bed_open(&snap, "blk,rbd:rbd/snapped,readonly=on"); /* needs no lock */
	CHECK_EQ(io(&snap, BLOCK_READ, 0, sizeof(b), b), 0);
	CHECK_EQ(b[0], 9);
	CHECK_EQ(io(&snap, BLOCK_WRITE, 0, sizeof(b), b), -EROFS);
	bed_close(&snap);
	bed_close(&bed);
	CHECK(!shell("rbd snap rm --no-progress rbd/snapped@one"));
}

static void namespaces(void)
{
	unsigned char a[512] = {1}, b[512];
	struct bed bed;

	new_image("same", 16);
	REQUIRE(!shell("rbd namespace create rbd/west && rbd create --size 32M rbd/west/same"));
	bed_open(&bed, "blk,rbd:rbd/same,namespace=west,user=admin");
	CHECK_EQ(bed.block->info.size, 32 * MiB);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, sizeof(a), a), 0);
	bed_close(&bed);
	bed_open(&bed, "blk,rbd:rbd/same");
	CHECK_EQ(io(&bed, BLOCK_READ, 0, sizeof(b), b), 0);
	CHECK(all_zero(b, sizeof(b)));
	bed_close(&bed);
}

static void refused(const char *spec, const char *why)
{
	struct bed bed;
	const char *line = bed_try(&bed, spec);

	if (!strstr(line, why))
		fprintf(stderr, "%s: '%s', not '%s'\n", spec, line, why);
	CHECK(strstr(line, why));
	CHECK(!strchr(line, '\n'));
}

static void one_line_each(void)
{
	char *conf = strdup(getenv("CEPH_CONF")), text[256], wrong[512];
	FILE *out;

	new_image("plain", 16);
	REQUIRE(!shell("rbd create --size 16M --image-feature layering rbd/unlockable"));
	refused("blk,rbd:rbd/none", "no image 'none' in the pool 'rbd'");
	refused("blk,rbd:none/plain", "no pool 'none'");
	refused("blk,rbd:rbd/plain@none", "no snapshot 'none'");
	refused("blk,rbd:rbd/plain,namespace=none", "namespace=none");
	refused("blk,rbd:rbd/a/plain", "namespace is a key");
	refused("blk,rbd:plain", "wants rbd:POOL/IMAGE");
	refused("blk,rbd:rbd/plain@", "wants rbd:POOL/IMAGE");
	refused("blk,rbd:rbd/unlockable", "no feature exclusive-lock");
	refused("blk,rbd:rbd/plain,conf=/none", "conf=/none: No such file");
	refused("blk,rbd:rbd/plain,timeout=x", "timeout=x");
	/* CEPH_AUTH is cephx where this runs */
	refused("blk,rbd:rbd/plain,user=nobody", "key of client.nobody");
	snprintf(wrong, sizeof(wrong), "%s/wrong", getenv("CEPH_DIR"));
	out = fopen(wrong, "we");
	REQUIRE(out);
	fprintf(out, "[client.admin]\n\tkey = AQBCRUZmAAAAABAAMDEyMzQ1Njc4OWFiY2RlZg==\n");
	fclose(out);
	snprintf(text, sizeof(text), "%s/wrong.conf", getenv("CEPH_DIR"));
	REQUIRE(!shell("sed 's,^keyring.*,keyring = %s,' $CEPH_CONF >%s", wrong, text));
	snprintf(wrong, sizeof(wrong), "blk,rbd:rbd/plain,conf=%s", text);
	refused(wrong, "does not take the key of client.admin");
	REQUIRE(!shell("sed -i 's,^mon host.*,mon host = [v2:127.0.0.1:1],' %s", text));
	refused(wrong, "no monitor of the cluster answers in 10 s");
	unsetenv("CEPH_CONF");
	setenv("HOME", "/none", 1);
	refused("blk,rbd:rbd/plain", "no configuration of a cluster");
	setenv("CEPH_CONF", conf, 1);
	free(conf);
}

static void second_writer(void)
{
	struct bed bed, other;
	unsigned char b[512];

	new_image("mine", 16);
	bed_open(&bed, "blk,rbd:rbd/mine");
	refused("blk,rbd:rbd/mine", "in use by another client of the cluster: client.");
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, sizeof(b), b), 0); /* the first one has not noticed */
	bed_close(&bed);
	bed_open(&bed, "blk,rbd:rbd/mine,exclusive=off,connections=1");
	bed_open(&other, "blk,rbd:rbd/mine,exclusive=off,connections=1");
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, sizeof(b), b), 0);
	CHECK_EQ(io(&other, BLOCK_WRITE, 0, sizeof(b), b), 0);
	bed_close(&other);
	bed_close(&bed);
}

static void changed(void *arg)
{
	struct bed *bed = arg;

	CHECK_EQ(block_refresh(bed->block, NULL), 0);
}

static void wait_size(struct bed *bed, uint64_t size)
{
	for (uint64_t until = sl_now() + 60000000000u; block_size_now(bed->block) != size && sl_now() < until;)
		sl_loop_step(bed->loop, 10);
	CHECK_EQ(block_size_now(bed->block), size);
}

static void resized(void)
{
	unsigned char b[4096];
	struct bed bed;
	struct sl_err err;

	new_image("elastic", 32);
	bed_open(&bed, "blk,rbd:rbd/elastic");
	block_watch(bed.block, bed.loop, changed, &bed);
	REQUIRE(!shell("rbd resize --no-progress --size 48M rbd/elastic"));
	wait_size(&bed, 48 * MiB);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 48 * MiB - sizeof(b), sizeof(b), b), 0);
	REQUIRE(!shell("rbd resize --no-progress --allow-shrink --size 16M rbd/elastic"));
	wait_size(&bed, 16 * MiB);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 16 * MiB, sizeof(b), b), -ENOSPC);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 16 * MiB - 512, sizeof(b), b), -ENOSPC);
	CHECK_EQ(io(&bed, BLOCK_READ, 16 * MiB - 512, 512, b), 0);
	/* from here, with the lock; what was cut off is gone */
	CHECK_EQ(block_resize(bed.block, 64 * MiB, &err), 0);
	CHECK_EQ(block_size_now(bed.block), 64 * MiB);
	CHECK_EQ(io(&bed, BLOCK_READ, 48 * MiB - sizeof(b), sizeof(b), b), 0);
	CHECK(all_zero(b, sizeof(b)));
	CHECK_EQ(block_resize(bed.block, 8 * MiB, &err), 0);
	CHECK_EQ(io(&bed, BLOCK_READ, 8 * MiB, 512, b), -ENOSPC);
	bed_close(&bed);
}

/* ---- an OSD that is not there ---- */

struct slot {
	struct io io;
	unsigned int times;
	unsigned char data[16384], back[16384];
};

static void slot_next(struct bed *bed, struct slot *s, unsigned int i)
{
	bool write = !(s->times & 1);

	CHECK_EQ(s->io.dones, 1);
	CHECK_EQ(s->io.result, 0);
	if (s->times && write)
		CHECK(!memcmp(s->data, s->back, sizeof(s->data)));
	if (write)
		fill(s->data, sizeof(s->data), s->times * SLOTS + i);
	io_submit(bed, &s->io, write ? BLOCK_WRITE : BLOCK_READ, i * sizeof(s->data), sizeof(s->data),
		  write ? s->data : s->back);
	s->times++;
}

/* Every slot writes its own blocks and reads them back, again and again, for @rounds of all slots. */
static void load(struct bed *bed, struct slot *slots, unsigned int rounds)
{
	uint64_t last = sl_now();
	unsigned int n = 0;

	while (n < rounds && sl_now() - last < 60000000000u) {
		for (unsigned int i = 0; i < SLOTS; i++) {
			if (!slots[i].io.dones)
				continue;
			slot_next(bed, &slots[i], i);
			n++;
			last = sl_now();
		}
		block_commit(bed->c);
		sl_loop_step(bed->loop, 20);
	}
	CHECK(n >= rounds); /* 60 s without an answer is no pause but a hang */
}

static void check_all(struct bed *bed, struct slot *slots)
{
	for (unsigned int i = 0; i < SLOTS; i++) {
		struct slot *s = &slots[i];

		CHECK_EQ(io_wait(bed, &s->io), 0);
		CHECK_EQ(io(bed, BLOCK_READ, i * sizeof(s->data), sizeof(s->data), s->back), 0);
		CHECK(!memcmp(s->data, s->back, sizeof(s->data)));
	}
}

static void osd_lost(void)
{
	struct slot *slots = calloc(SLOTS, sizeof(*slots));
	struct bed bed;

	new_image("load", 64);
	bed_open(&bed, "blk,rbd:rbd/load");
	for (unsigned int i = 0; i < SLOTS; i++)
		slots[i].io.dones = 1;
	load(&bed, slots, 500);
	osd_stop();
	for (unsigned int i = 0; i < 40; i++) { /* 4 s: what was under way comes to an end, what follows waits */
		for (unsigned int k = 0; k < SLOTS; k++)
			if (slots[k].io.dones)
				slot_next(&bed, &slots[k], k);
		block_commit(bed.c);
		step_ms(&bed, 100);
	}
	CHECK(figure(&bed, "rbd.requests-in-flight") > 0);
	CHECK(figure(&bed, "rbd.oldest-request-ms") >= 2000);
	CHECK(logged("requests has been waiting for"));
	CHECK(!logged("answered again"));
	osd_go_on();
	load(&bed, slots, 1000);
	for (unsigned int i = 0; i < 600 && !logged("answered again"); i++)
		step_ms(&bed, 100);
	CHECK(logged("answered again"));
	kill(osd(), SIGKILL);
	for (unsigned int i = 0; i < 10; i++)
		step_ms(&bed, 100);
	REQUIRE(!shell("exec %s", getenv("CEPH_OSD_START")));
	load(&bed, slots, 1000);
	check_all(&bed, slots);
	CHECK_EQ(figure(&bed, "rbd.timeouts"), 0);
	bed_close(&bed);
	free(slots);
}

/* 4 KiB, again until they are answered in time; @late counts the others. A busy machine may take longer than a second. */
static int io_answered(struct bed *bed, enum block_op op, void *buf, unsigned int *late)
{
	int ret;

	while ((ret = io(bed, op, 0, 4096, buf)) == -ETIMEDOUT && *late < 60)
		++*late;
	return ret;
}

static void timeout(void)
{
	unsigned char a[4096], b[2][4096];
	unsigned int late = 0;
	struct io stuck[2];
	struct bed bed;

	new_image("impatient", 16);
	bed_open(&bed, "blk,rbd:rbd/impatient,timeout=1");
	fill(a, sizeof(a), 3);
	CHECK_EQ(io_answered(&bed, BLOCK_WRITE, a, &late), 0);
	osd_stop();
	memset(b, 0x55, sizeof(b));
	io_submit(&bed, &stuck[0], BLOCK_READ, 0, sizeof(a), b[0]);
	io_submit(&bed, &stuck[1], BLOCK_WRITE, 8192, sizeof(a), a);
	block_commit(bed.c);
	CHECK_EQ(io_wait(&bed, &stuck[0]), -ETIMEDOUT);
	CHECK_EQ(io_wait(&bed, &stuck[1]), -ETIMEDOUT);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, sizeof(a), b[1]), -ETIMEDOUT);
	CHECK_EQ(figure(&bed, "rbd.timeouts"), 3 + late);
	CHECK_EQ(figure(&bed, "rbd.requests-in-flight"), 0);
	osd_go_on();
	CHECK_EQ(io_answered(&bed, BLOCK_READ, b[1], &late), 0);
	CHECK(!memcmp(a, b[1], sizeof(a)));
	step_ms(&bed, 200);
	CHECK_EQ(stuck[0].dones, 1); /* the late answers meant nobody, and went nowhere */
	CHECK_EQ(stuck[1].dones, 1);
	CHECK_EQ(b[0][0], 0x55);
	bed_close(&bed);
}

/* Given up, with a channel that is gone before the answers come. */
static void abandoned(void)
{
	unsigned char a[4096], *b = malloc(MiB);
	struct io stuck[300]; /* more than librbd is given at once */
	struct bed bed;
	struct sl_err err;

	new_image("left", 16);
	bed_open(&bed, "blk,rbd:rbd/left");
	fill(a, sizeof(a), 3);
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, sizeof(a), a), 0);
	osd_stop();
	memset(b, 0x55, MiB);
	for (unsigned int i = 0; i < 300; i++)
		io_submit(&bed, &stuck[i], i & 1 ? BLOCK_READ : BLOCK_WRITE, i * 4096, 4096, i & 1 ? b : a);
	block_commit(bed.c);
	step_ms(&bed, 50);
	CHECK_EQ(figure(&bed, "rbd.requests-in-flight"), 300);
	CHECK(block_abandon(bed.c));
	block_commit(bed.c);
	for (unsigned int i = 0; i < 300; i++)
		CHECK(stuck[i].dones == 1 && stuck[i].result == -ETIMEDOUT);
	block_detach(bed.c);
	free(b); /* nobody reads or writes it any more */
	bed.c = block_attach(bed.block, bed.loop, &err);
	REQUIRE(bed.c);
	osd_go_on();
	b = malloc(4096);
	CHECK_EQ(io(&bed, BLOCK_READ, 0, sizeof(a), b), 0);
	CHECK(!memcmp(a, b, sizeof(a)));
	step_ms(&bed, 200);
	bed_close(&bed);
	free(b);
}

#define MANY 5
#define EACH 300

/* However much guests want of a cluster that does not answer, the loop goes on, and with it a neighbour. */
static void much(void)
{
	unsigned char *a = malloc(48 * MiB), b[512];
	struct io *more = calloc(MANY * EACH, sizeof(*more)), big[4];
	struct bed bed[MANY] = {0}, sibling;
	struct sl_err err;

	new_image("wanted", 256);
	bed_open(&bed[0], "blk,rbd:rbd/wanted");
	bed_open(&sibling, "blk,memory:1M");
	fill(a, 48 * MiB, 5);
	CHECK_EQ(io(&bed[0], BLOCK_WRITE, 0, 48 * MiB, a), 0);
	for (unsigned int i = 1; i < MANY; i++) {
		bed[i] = bed[0];
		bed[i].c = block_attach(bed[0].block, bed[0].loop, &err);
		REQUIRE(bed[i].c);
	}
	osd_stop();
	for (unsigned int i = 0; i < MANY * EACH; i++)
		io_submit(&bed[i % MANY], &more[i], BLOCK_READ, i * 4096, 4096, a);
	for (unsigned int i = 0; i < 4; i++)
		io_submit(&bed[0], &big[i], BLOCK_WRITE, i * 48 * MiB, 48 * MiB, a);
	for (unsigned int i = 0; i < MANY; i++)
		block_commit(bed[i].c);
	CHECK_EQ(io(&sibling, BLOCK_READ, 0, 512, b), 0);
	step_ms(&bed[0], 50);
	for (unsigned int i = 0; i < MANY; i++) {
		CHECK(block_abandon(bed[i].c));
		block_commit(bed[i].c);
		if (i)
			block_detach(bed[i].c);
	}
	for (unsigned int i = 0; i < MANY * EACH; i++)
		CHECK(more[i].dones == 1 && more[i].result == -ETIMEDOUT);
	osd_go_on();
	CHECK_EQ(io(&bed[0], BLOCK_WRITE, 0, 48 * MiB, a), 0); /* there is room again */
	CHECK_EQ(io(&bed[0], BLOCK_READ, 47 * MiB, 512, b), 0);
	CHECK(!memcmp(a + 47 * MiB, b, 512));
	bed_close(&sibling);
	bed_close(&bed[0]);
	free(more);
	free(a);
}

/* The OSD is dead: the device ends all the same. Then nobody holds up a next one for longer than the cluster takes. */
static void closed_while_dead(void)
{
	unsigned char a[4096] = {0};
	struct io stuck;
	struct bed bed;

	new_image("orphan", 16);
	bed_open(&bed, "blk,rbd:rbd/orphan");
	CHECK_EQ(io(&bed, BLOCK_WRITE, 0, sizeof(a), a), 0);
	osd_stop();
	io_submit(&bed, &stuck, BLOCK_WRITE, 0, sizeof(a), a);
	block_commit(bed.c);
	step_ms(&bed, 20);
	block_abandon(bed.c);
	block_commit(bed.c);
	CHECK_EQ(stuck.dones, 1);
	bed_close(&bed);
	CHECK(logged("left without closing"));
	osd_go_on();
	bed_open(&bed, "blk,rbd:rbd/orphan");
	CHECK_EQ(io(&bed, BLOCK_READ, 0, sizeof(a), a), 0);
	bed_close(&bed);
}

static const struct t_case cases[] = {
	{"round_trip", round_trip},
	{"snapshot", snapshot},
	{"namespaces", namespaces},
	{"one_line_each", one_line_each},
	{"second_writer", second_writer},
	{"resized", resized},
	{"osd_lost", osd_lost},
	{"timeout", timeout},
	{"abandoned", abandoned},
	{"much", much},
	{"closed_while_dead", closed_while_dead},
};

int main(int argc, char **argv)
{
	sl_log_to(keep_line, NULL, SL_LOG_INFO);
	return t_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
