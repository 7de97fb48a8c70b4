/* SPDX-License-Identifier: MIT */
/* test_remote.c - a device in another process, `sluice serve`, behind each register transport: works, dies, comes back.
 *
 * usage: test_remote SLUICE [CASE...]
 */
#include "bed.h"

#include <semaphore.h>

static void serve_on(enum board_kind kind, bool packed)
{
	struct sl_queue_stats stats;
	struct bed b;
	bool called = false;

	bed_paths(&b);
	daemon_start(&b, "");
	bed_device(&b, &bed_type, packed);
	bed_board(&b, kind);
	for (unsigned int life = 0; life < 3; life++) {
		bed_driver(&b);
		CHECK(b.blk.info.capacity == (uint64_t)BLOCKS * BLOCK);
		memset(b.generation, 0, sizeof(b.generation));
		for (unsigned int i = 0; i < 20; i++) {
			offer_all(&b);
			vblk_rearm(&b.q);
			for (unsigned int n = 0; n < 1000 && !called; n++) {
				called = board_interrupted(&b.board, 0);
				sl_loop_step(b.loop, 1);
			}
			drain(&b);
		}
		read_back(&b);
	}
	CHECK(called);
	/* Where there are descriptors, calls do not pass through this process. */
	sl_queue_stats(remote_device(b.remote), 0, &stats);
	CHECK((stats.calls == 0) == (kind == BOARD_MMIO_FD || kind == BOARD_PCI_FD));
	CHECK(b.finished > 3 * 20 * LANES);
	bed_close(&b);
}

static void works_everywhere(void)
{
	for (enum board_kind kind = 0; kind < BOARD_KINDS; kind++)
		for (int packed = 0; packed < 2; packed++)
			serve_on(kind, packed);
}

/* ---- death and return ---- */

static void kill_on(enum board_kind kind, bool packed, const char *keys, bool data_loop)
{
	unsigned int kills = 0;
	uint64_t last, due;
	struct bed b;

	bed_paths(&b);
	if (data_loop)
		bed_data_loop(&b);
	daemon_start(&b, keys);
	bed_device(&b, &bed_type, packed);
	bed_board(&b, kind);
	bed_driver(&b);
	offer_all(&b);
	last = sl_now();
	due = last + 20000000;
	while (kills < 8 || !vblk_outstanding(&b.q)) {
		if (turn(&b, true))
			last = sl_now();
		REQUIRE(!hangs(last));
		if (sl_now() < due)
			continue;
		daemon_end(&b, SIGKILL);
		kills++;
		daemon_start(&b, keys);
		due = sl_now() + (10 + random64(&b.rng) % 60) * 1000000;
	}
	drain(&b);
	read_back(&b);
	CHECK(said("the back-end has gone"));
	UNTIL(&b, said("the back-end is back"));
	bed_close(&b);
}

static void killed_under_load(void)
{
	for (int packed = 0; packed < 2; packed++) {
		kill_on(BOARD_MMIO_FD, packed, ",delay-ms=2", false);
		kill_on(BOARD_PCI_FD, packed, ",delay-ms=2", true);
		kill_on(BOARD_PCI_INTX, packed, "", false);
		kill_on(BOARD_PCI_MSIX, packed, "", true);
	}
}

/* What is offered while nobody is there is done by whoever comes. */
static void offered_while_away(void)
{
	struct bed b;

	bed_paths(&b);
	daemon_start(&b, "");
	bed_device(&b, &bed_type, true);
	bed_board(&b, BOARD_PCI_FD);
	bed_driver(&b);
	offer_all(&b);
	drain(&b);
	daemon_end(&b, SIGTERM);
	UNTIL(&b, said("has gone"));
	offer_all(&b);
	ms_sleep(50);
	CHECK_EQ(vblk_outstanding(&b.q), LANES);
	daemon_start(&b, "");
	drain(&b);
	read_back(&b);
	bed_close(&b);
}

/* A driver resets, negotiates and starts while nobody is there: requests of its earlier life never happen. */
static void reset_while_away(void)
{
	for (int packed = 0; packed < 2; packed++) {
		struct bed b;

		bed_paths(&b);
		daemon_start(&b, ",delay-ms=50");
		bed_device(&b, &bed_type, packed);
		bed_board(&b, BOARD_MMIO_FD);
		bed_driver(&b);
		offer_all(&b);
		daemon_end(&b, SIGKILL); /* with all of them in flight */
		bed_driver(&b);
		memset(b.generation, 0, sizeof(b.generation));
		for (unsigned int i = 0; i < LANES / 2; i++)
			offer_any(&b, &b.lanes[i]);
		vblk_commit(&b.q);
		daemon_start(&b, "");
		drain(&b);
		CHECK_EQ(b.finished, LANES / 2);
		read_back(&b);
		bed_close(&b);
	}
}

/* The driver resets with requests in flight: the reset lasts as long as these. */
static void reset_under_load(void)
{
	struct bed b;

	bed_paths(&b);
	daemon_start(&b, ",delay-ms=20");
	bed_device(&b, &bed_type, false);
	bed_board(&b, BOARD_PCI_FD);
	for (unsigned int i = 0; i < 10; i++) {
		bed_driver(&b);
		memset(b.generation, 0, sizeof(b.generation));
		offer_all(&b);
	}
	drain(&b);
	bed_close(&b);
}

/* ... but not longer than its bound: then the back-end is cut off, and what it had is forgotten. */
static void reset_is_bounded(void)
{
	stop_timeout_ms = 200;
	for (int packed = 0; packed < 2; packed++) {
		struct bed b;

		bed_paths(&b);
		daemon_start(&b, ",delay-ms=600000");
		bed_device(&b, &bed_type, packed);
		bed_board(&b, packed ? BOARD_PCI_FD : BOARD_MMIO);
		bed_driver(&b);
		/* a reset that comes before the back-end has taken a request has nothing to wait for */
		for (uint64_t start = sl_now(); !said("of a stop and is cut off");) {
			REQUIRE(!hangs(start));
			offer_all(&b);
			for (unsigned int i = 0; i < 10; i++)
				sl_loop_step(b.loop, 2);
			bed_driver(&b);
			memset(b.generation, 0, sizeof(b.generation));
		}
		for (unsigned int i = 0; i < LANES / 2; i++)
			offer_any(&b, &b.lanes[i]);
		vblk_commit(&b.q);
		daemon_end(&b, SIGKILL);
		daemon_start(&b, "");
		drain(&b);
		CHECK_EQ(b.finished, LANES / 2);
		read_back(&b);
		bed_close(&b);
	}
	stop_timeout_ms = 0;
}

static void leave_with_requests(void)
{
	struct bed b;

	bed_paths(&b);
	daemon_start(&b, ",delay-ms=60000");
	bed_device(&b, &bed_type, false);
	bed_board(&b, BOARD_PCI_FD);
	bed_driver(&b);
	offer_all(&b);
	bed_close(&b); /* does not wait a minute */
}

/* ---- another one than before ---- */

static void refuses_another(void)
{
	static const struct {
		const char *keys, *line;
		off_t size;
	} others[] = {
		{"", "came back with a smaller disk", BLOCK * BLOCKS / 2},
		{",packed=off", "came back without features", BLOCK * BLOCKS},
		{",block-size=4096", "came back with another disk", BLOCK * BLOCKS},
	};
	struct bed b;

	bed_paths(&b);
	daemon_start(&b, "");
	bed_device(&b, &bed_type, true);
	bed_board(&b, BOARD_MMIO_FD);
	bed_driver(&b);
	for (unsigned int i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		forget_lines();
		daemon_end(&b, SIGKILL);
		REQUIRE(!truncate(b.image, others[i].size));
		daemon_start(&b, others[i].keys);
		offer_all(&b);
		UNTIL(&b, said(others[i].line));
		CHECK_EQ(vblk_outstanding(&b.q), LANES);
		daemon_end(&b, SIGKILL);
		REQUIRE(!truncate(b.image, (off_t)BLOCK * BLOCKS));
		memset(b.generation, 0, sizeof(b.generation)); /* the truncated half is lost */
		for (unsigned int n = 0; n < LANES; n++)
			b.lanes[n].writing = true;
		daemon_start(&b, "");
		drain(&b);
	}
	bed_close(&b);
}

/* A disk that grew while its server was away: the driver is told. */
static void grown_while_away(void)
{
	uint64_t capacity = 0;
	struct bed b;

	bed_paths(&b);
	daemon_start(&b, "");
	bed_device(&b, &bed_type, false);
	bed_board(&b, BOARD_MMIO);
	bed_driver(&b);
	daemon_end(&b, SIGTERM);
	REQUIRE(!truncate(b.image, (off_t)2 * BLOCK * BLOCKS));
	daemon_start(&b, "");
	UNTIL(&b, !b.link->ops->config_read(b.link, 0, &capacity, 8, NULL) &&
		  capacity == 2 * BLOCKS * (BLOCK / VBLK_SECTOR));
	offer_all(&b);
	drain(&b);
	bed_close(&b);
}

/* What the driver wrote into its configuration, the next back-end hears as well. */
static void keeps_what_was_written(void)
{
	const uint8_t through = 0;
	uint8_t wce = 1;
	struct bed b;

	bed_paths(&b);
	daemon_start(&b, "");
	bed_device(&b, &bed_type, false);
	bed_board(&b, BOARD_PCI_FD);
	bed_driver(&b);
	REQUIRE(!b.link->ops->config_write(b.link, 32, &through, 1, NULL));
	for (unsigned int i = 0; i < 2; i++) {
		offer_all(&b);
		drain(&b);
		REQUIRE(!b.link->ops->config_read(b.link, 32, &wce, 1, NULL));
		CHECK_EQ(wce, 0);
		daemon_end(&b, SIGKILL);
		daemon_start(&b, "");
	}
	bed_driver(&b);
	REQUIRE(!b.link->ops->config_read(b.link, 32, &wce, 1, NULL));
	CHECK_EQ(wce, 1);
	memset(b.generation, 0, sizeof(b.generation));
	offer_all(&b);
	drain(&b);
	bed_close(&b);
}

/* ---- start ---- */

static sem_t over;

static void *start_later(void *arg)
{
	for (unsigned int i = 0; i < 60000 && !said("waiting for it"); i++)
		ms_sleep(1);
	daemon_start(arg, "");
	/* The daemon dies with the thread that started it. */
	while (sem_wait(&over))
		;
	return NULL;
}

static void waits_for_the_first(void)
{
	pthread_t thread;
	struct bed b;

	bed_paths(&b);
	REQUIRE(!sem_init(&over, 0, 0));
	REQUIRE(!pthread_create(&thread, NULL, start_later, &b));
	bed_device(&b, &bed_type, true);
	CHECK(said("waiting for it"));
	CHECK(said("the back-end is here"));
	bed_board(&b, BOARD_MMIO);
	bed_driver(&b);
	offer_all(&b);
	drain(&b);
	remote_leave(b.remote);
	sem_post(&over);
	pthread_join(thread, NULL);
	bed_close(&b);
}

static void waiting_can_be_interrupted(void)
{
	struct sl_err err = {""};
	struct bed b;
	int fds[2];

	bed_paths(&b);
	REQUIRE(!pipe(fds) && write(fds[1], "x", 1) == 1);
	CHECK(bed_try(&b, &bed_type, true, fds[0], &err) && strstr(err.text, "interrupted"));
	close(fds[0]);
	close(fds[1]);
	bed_close(&b);
}

static void too_many_queues(void)
{
	struct remote_config cfg = {.type = &bed_type, .name = "disk", .num_queues = 2, .queue_size = 128, .interrupt_fd = -1};
	struct sl_err err = {""};
	struct bed b;

	bed_paths(&b);
	daemon_start(&b, "");
	b.loop = cfg.control = sl_loop_new();
	cfg.path = b.socket;
	CHECK(!remote_open(&cfg, &err));
	CHECK(strstr(err.text, "disk: queues=2: the back-end has 1"));
	bed_close(&b);
}

/* ---- somebody else's back-end, which has no inflight region ---- */

static void storage_daemon(struct bed *b)
{
	char file[200], export[300];

	snprintf(file, sizeof(file), "driver=file,node-name=f,filename=%s", b->image);
	snprintf(export, sizeof(export), "type=vhost-user-blk,id=e,addr.type=unix,addr.path=%s,node-name=f,writable=on",
		 b->socket);
	b->daemon = fork();
	if (b->daemon)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execlp("qemu-storage-daemon", "qemu-storage-daemon", "--blockdev", file, "--export", export, (char *)NULL);
	_exit(127);
}

static void foreign_on(enum board_kind kind)
{
	uint8_t status;
	struct bed b;

	bed_paths(&b);
	storage_daemon(&b);
	bed_device(&b, &bed_type, false);
	bed_board(&b, kind);
	for (unsigned int life = 0; life < 2; life++) {
		bed_driver(&b);
		CHECK(b.blk.info.capacity == (uint64_t)BLOCKS * BLOCK);
		memset(b.generation, 0, sizeof(b.generation));
		for (unsigned int i = 0; i < 5; i++) {
			offer_all(&b);
			drain(&b);
		}
		/* with nothing in flight it goes on, once it is known that it is gone */
		forget_lines();
		daemon_end(&b, SIGKILL);
		UNTIL(&b, said("has gone"));
		storage_daemon(&b);
		offer_all(&b);
		drain(&b);
		read_back(&b);
	}
	/* with requests in flight nobody knows which: the driver is told, and starts afresh */
	offer_all(&b);
	daemon_end(&b, SIGKILL);
	storage_daemon(&b);
	UNTIL(&b, (status = (uint8_t)b.link->ops->status_get(b.link, NULL)) & SL_STATUS_NEEDS_RESET || !vblk_outstanding(&b.q) ||
		  (turn(&b, false), false));
	bed_driver(&b);
	memset(b.generation, 0, sizeof(b.generation));
	offer_all(&b);
	drain(&b);
	read_back(&b);
	bed_close(&b);
}

static void foreign_backend(void)
{
	if (system("qemu-storage-daemon --version >/dev/null 2>&1"))
		SKIP("qemu-storage-daemon is not installed");
	foreign_on(BOARD_PCI_FD);
	foreign_on(BOARD_MMIO);
}

static const struct t_case cases[] = {
	{"foreign_backend", foreign_backend},
	{"works_everywhere", works_everywhere},
	{"killed_under_load", killed_under_load},
	{"offered_while_away", offered_while_away},
	{"reset_while_away", reset_while_away},
	{"reset_under_load", reset_under_load},
	{"reset_is_bounded", reset_is_bounded},
	{"leave_with_requests", leave_with_requests},
	{"refuses_another", refuses_another},
	{"grown_while_away", grown_while_away},
	{"keeps_what_was_written", keeps_what_was_written},
	{"waits_for_the_first", waits_for_the_first},
	{"waiting_can_be_interrupted", waiting_can_be_interrupted},
	{"too_many_queues", too_many_queues},
};

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: test_remote SLUICE [CASE...]\n");
		return 2;
	}
	sluice_path = argv[1];
	sl_log_to(take_line, NULL, SL_LOG_INFO);
	return t_run(cases, sizeof(cases) / sizeof(cases[0]), argc - 1, argv + 1);
}
