/* SPDX-License-Identifier: MIT */
/* connection_test.c - vhost-user server: front-ends that come and go, the socket's file, kill -9 */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "case.h"

/* ---- coming and going ---- */

static void reconnect(void)
{
	unsigned int fds, maps;

	bed_open(&b, false);
	fds = count_fds();
	maps = count_maps();
	for (unsigned int i = 0; i < 100; i++) {
		fe_up(&f, &b, i & 1);
		CHECK(fe_echo(&f, 0) && fe_echo(&f, 1));
		fe_set_u64(&f, VU_SET_STATUS, 15);
		fe_close(&f);
		CHECK(bed_wait(&b, &b.gone, i + 1));
		CHECK_EQ(b.resets, i + 1);
		CHECK_EQ(sl_device_status(b.dev), 0);
	}
	CHECK_EQ(count_fds(), fds);
	CHECK_EQ(count_maps(), maps);
	bed_close(&b);
}

/* The front-end goes while requests are in flight: they are drained before the next one is let in. */
static void gone_in_flight(bool threaded)
{
	struct fe next;

	bed_open(&b, threaded);
	fe_up(&f, &b, false);
	b.hold = true;
	fe_offer(&f, 0, 64);
	fe_offer(&f, 1, 64);
	CHECK(bed_wait(&b, &b.served, 2));
	fe_hangup(&f);
	fe_connect(&next, &b);
	for (int i = 0; i < 20; i++)
		sl_loop_step(b.loop, 1);
	CHECK_EQ(b.gone, 0);
	bed_release(&b);
	CHECK(bed_wait(&b, &b.gone, 1));
	CHECK(fe_done(&f, 0) && fe_done(&f, 1)); /* the memory was still there */
	CHECK(fe_alive(&next));
	fe_close(&next);
	fe_close(&f);
	bed_close(&b);
}

static void gone_with_requests_in_flight(void)
{
	gone_in_flight(false);
}

static void gone_with_requests_in_flight_threaded(void)
{
	gone_in_flight(true);
}

/* The front-end goes while one of its messages waits for requests in flight. */
static void gone_while_draining(void)
{
	static const uint32_t waits[] = {VU_GET_VRING_BASE, VU_SET_VRING_ENABLE, VU_RESET_DEVICE, VU_SET_STATUS,
					 VU_SET_MEM_TABLE};
	unsigned int fds, maps;

	bed_open(&b, true);
	fds = count_fds();
	maps = count_maps();
	for (unsigned int i = 0; i < 5; i++) {
		struct vu_mem_table zeros = {0};

		fe_up(&f, &b, false);
		b.hold = true;
		fe_offer(&f, 0, 64);
		CHECK(bed_wait(&b, &b.served, i + 1));
		fe_send(&f, waits[i], 0, &zeros, waits[i] == VU_RESET_DEVICE ? 0 : 8, NULL, 0);
		for (int k = 0; k < 10; k++)
			sl_loop_step(b.loop, 1);
		fe_hangup(&f);
		for (int k = 0; k < 10; k++)
			sl_loop_step(b.loop, 1);
		CHECK_EQ(b.gone, i);
		bed_release(&b);
		CHECK(bed_wait(&b, &b.gone, i + 1));
		fe_close(&f);
		CHECK_EQ(count_fds(), fds);
		CHECK_EQ(count_maps(), maps);
	}
	bed_close(&b);
}

static void release_later(void *arg)
{
	bed_release(arg);
}

/* The server is stopped while a message waits, and while the front-end is being drained. */
static void stop_while_draining(void)
{
	static const uint32_t waits[] = {VU_GET_VRING_BASE, VU_SET_MEM_TABLE, VU_RESET_DEVICE};
	unsigned int maps = count_maps();

	for (int i = 0; i < 6; i++) {
		uint32_t wait = waits[i / 2];
		struct vu_mem_table table = {.n = wait == VU_SET_MEM_TABLE};
		/* bed_unserve() steps until the stop is done, so the request must be let go after it began */
		struct sl_timer later = {.fn = release_later, .arg = &b};

		bed_open(&b, false);
		fe_up(&f, &b, false);
		table.region[0] = (struct vu_region){0, 0x10000, 0, 0};
		b.hold = true;
		fe_offer(&f, 0, 64);
		CHECK(bed_wait(&b, &b.served, 1));
		fe_send(&f, wait, 0, &table, wait == VU_RESET_DEVICE ? 0 : table.n ? 40 : 8, &f.g.fd, table.n);
		bed_run(&b);
		if (i % 2) {
			fe_hangup(&f);
			bed_run(&b);
		}
		sl_timer_set(b.loop, &later, 5000000);
		bed_unserve(&b);
		fe_close(&f);
		bed_close(&b);
		CHECK_EQ(count_maps(), maps);
	}
}

/* A message cut at every byte, then the end. */
static void cut_everywhere(void)
{
	struct {
		struct vu_header h;
		struct vu_vring_state st;
	} msg = {{VU_SET_VRING_NUM, VU_VERSION, 8}, {0, 16}};
	unsigned int fds;

	bed_open(&b, false);
	fds = count_fds();
	for (size_t n = 0; n < sizeof(msg); n++) {
		fe_connect(&f, &b);
		REQUIRE(send(f.sock, &msg, n, 0) == (ssize_t)n);
		bed_run(&b);
		fe_close(&f);
		CHECK(bed_wait(&b, &b.gone, (unsigned int)n + 1));
		CHECK_EQ(count_fds(), fds);
	}
	bed_close(&b);
}

/* Byte by byte, with the descriptor on the first one, and the loop going round in between. */
static void slow_sender(void)
{
	struct {
		struct vu_header h;
		uint32_t value[2];
	} msg = {{VU_SET_VRING_KICK, VU_VERSION | VU_NEED_REPLY, 8}, {1, 0}};
	struct vu_msg m;

	bed_open(&b, false);
	fe_up(&f, &b, false);
	for (size_t i = 0; i < sizeof(msg); i++) {
		union {
			struct cmsghdr align;
			char buf[CMSG_SPACE(sizeof(int))];
		} control;
		struct iovec iov = {(char *)&msg + i, 1};
		struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

		if (!i) {
			mh.msg_control = control.buf;
			mh.msg_controllen = sizeof(control.buf);
			*CMSG_FIRSTHDR(&mh) = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
			memcpy(CMSG_DATA(CMSG_FIRSTHDR(&mh)), &f.ring[1].kick, sizeof(int));
		}
		REQUIRE(sendmsg(f.sock, &mh, 0) == 1);
		CHECK(fe_echo(&f, 0)); /* rings go on meanwhile */
	}
	CHECK_EQ(fe_recv(&f, &m), 0);
	CHECK_EQ(m.p.u64, 0);
	CHECK(fe_echo(&f, 1));
	fe_close(&f);
	bed_close(&b);
}

/* A front-end that asks and does not read the answers: nothing grows, nothing blocks, every answer comes. */
static void answers_not_read(void)
{
	struct vu_config c = {.size = VU_MAX_CONFIG};
	struct vu_msg m, q;
	struct vu_rx rx = {0};
	uint32_t sent = 0;
	unsigned int asked = 0, answered = 0;

	bed_open(&b, false);
	fe_up(&f, &b, false);
	vu_msg_init(&q, VU_GET_CONFIG, VU_CONFIG_HEAD + 4);
	q.p.config.size = c.size;
	for (int i = 0; i < 20000; i++) {
		if (vu_send(f.sock, &q, &sent) == 1) {
			sent = 0;
			asked++;
		}
		sl_loop_step(b.loop, 0);
	}
	CHECK(asked > 100 && asked < 20000);
	CHECK(fe_echo(&f, 0));
	for (int i = 0; i < 200000 && answered < asked; i++) {
		sl_loop_step(b.loop, 0);
		if (vu_recv(f.sock, &rx, &m) == 1) {
			answered++;
			CHECK_EQ(m.h.size, VU_CONFIG_HEAD + VU_MAX_CONFIG);
		}
	}
	CHECK_EQ(answered, asked);
	fe_close(&f);
	bed_close(&b);
}

static void storm(void)
{
	unsigned int fds, honest = 0;

	bed_open(&b, false);
	fds = count_fds();
	for (unsigned int i = 0; i < 3000; i++) {
		fe_connect(&f, &b);
		switch (i % 4) {
		case 0:
			break;
		case 1:
			send(f.sock, "\1\0\0\0\1", 5, 0);
			break;
		case 2:
			fe_send(&f, VU_SET_OWNER, 0, NULL, 0, NULL, 0);
			break;
		default:
			shutdown(f.sock, SHUT_WR);
			break;
		}
		if (i % 3)
			sl_loop_step(b.loop, 0);
		fe_close(&f);
		CHECK(bed_wait(&b, &b.gone, i + 1 + honest));
		if (i % 500 == 0) {
			fe_up(&f, &b, false);
			CHECK(fe_echo(&f, 0));
			fe_close(&f);
			CHECK(bed_wait(&b, &b.gone, i + 2 + honest++));
		}
	}
	CHECK_EQ(count_fds(), fds);
	bed_close(&b);
}

/* No descriptor left for a front-end: the server neither spins nor gives up. */
static void no_room_to_accept(void)
{
	struct rlimit old, tight;
	unsigned int turns = 0;

	bed_open(&b, false);
	fe_connect(&f, &b);
	REQUIRE(!getrlimit(RLIMIT_NOFILE, &old));
	tight = old;
	tight.rlim_cur = (rlim_t)f.g.fd + 1; /* the highest one in use */
	REQUIRE(!setrlimit(RLIMIT_NOFILE, &tight));
	for (int i = 0; i < 50; i++)
		turns += sl_loop_step(b.loop, 1);
	CHECK(turns < 10);
	REQUIRE(!setrlimit(RLIMIT_NOFILE, &old));
	CHECK(fe_alive(&f));
	fe_close(&f);
	bed_close(&b);
}

/* ---- the socket's file ---- */

static struct sl_vhost_user_server *try_path(const char *path, struct sl_err *err)
{
	struct sl_vhost_user_config cfg = {.device = b.dev, .path = path};

	*err = (struct sl_err){0};
	return sl_vhost_user_server_new(&cfg, err);
}

static void too_many_queues(void)
{
	static const struct sl_device_ops ops = {.type = "wide"};
	struct sl_device_config cfg = {.ops = &ops, .name = "wide", .num_queues = 257, .max_queue_size = 16};
	struct sl_err err = {0};
	struct sl_device *echo;

	bed_open(&b, false);
	bed_unserve(&b);
	cfg.control = b.loop;
	echo = b.dev;
	b.dev = sl_device_new(&cfg, &err);
	CHECK(!try_path(b.path, &err));
	CHECK(strstr(err.text, "at most 256") != NULL);
	sl_device_free(b.dev);
	b.dev = echo;
	bed_close(&b);
}

static void bad_paths(void)
{
	unsigned int fds;
	struct sl_err err;
	char path[300], dir[64], file[128];
	FILE *out;

	bed_open(&b, false);
	/* a live server */
	fds = count_fds();
	CHECK(!try_path(b.path, &err));
	CHECK(strstr(err.text, b.path) && strstr(err.text, "live server"));
	fe_up(&f, &b, false); /* which does not mind having been asked */
	CHECK(fe_echo(&f, 0));
	fe_close(&f);
	bed_run(&b);
	CHECK_EQ(count_fds(), fds);
	bed_unserve(&b);
	CHECK(access(b.path, F_OK) < 0); /* removed */

	fds = count_fds();
	memset(path, 'x', sizeof(path));
	memcpy(path, "/tmp/", 5);
	path[sizeof(path) - 1] = 0;
	CHECK(!try_path(path, &err));
	CHECK(strstr(err.text, "longer than 107") != NULL);
	CHECK(!try_path("/nowhere/at/all", &err));
	CHECK(strstr(err.text, "No such file") != NULL);
	snprintf(dir, sizeof(dir), "/tmp/vhost-test-dir-%d", getpid());
	REQUIRE(!mkdir(dir, 0700));
	CHECK(!try_path(dir, &err));
	CHECK(strstr(err.text, "no socket") != NULL);
	snprintf(file, sizeof(file), "%s/file", dir);
	out = fopen(file, "w");
	REQUIRE(out);
	fclose(out);
	CHECK(!try_path(file, &err));
	CHECK(strstr(err.text, "no socket") != NULL);
	CHECK_EQ(access(file, F_OK), 0);
	unlink(file);
	rmdir(dir);
	CHECK_EQ(count_fds(), fds);
	bed_serve(&b);
	bed_close(&b);
}

static void left_over_is_taken_over(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int dead;

	bed_open(&b, false);
	bed_unserve(&b);
	/* bound, then its process died: the file stays */
	dead = socket(AF_UNIX, SOCK_STREAM, 0);
	strcpy(sun.sun_path, b.path);
	REQUIRE(!bind(dead, (struct sockaddr *)&sun, sizeof(sun)) && !listen(dead, 1));
	close(dead);
	CHECK_EQ(access(b.path, F_OK), 0);
	bed_serve(&b);
	fe_up(&f, &b, false);
	CHECK(fe_echo(&f, 0));
	fe_close(&f);
	/* a file that is no longer ours is left alone */
	unlink(b.path);
	dead = socket(AF_UNIX, SOCK_STREAM, 0);
	REQUIRE(!bind(dead, (struct sockaddr *)&sun, sizeof(sun)));
	bed_unserve(&b);
	CHECK_EQ(access(b.path, F_OK), 0);
	close(dead);
	unlink(b.path);
	bed_serve(&b);
	bed_close(&b);
}

static struct sl_vhost_user_server *adopt(int fd, bool is_connected, struct sl_err *err)
{
	struct sl_vhost_user_config cfg = {.device = b.dev, .fd = fd, .connected = is_connected};

	*err = (struct sl_err){0};
	return sl_vhost_user_server_new(&cfg, err);
}

static void inherited(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct sl_err err;
	int sv[2], file, listening;

	bed_open(&b, false);
	bed_unserve(&b);
	file = open("/dev/null", O_RDONLY);
	CHECK(!adopt(file, false, &err));
	CHECK(strstr(err.text, "not a Unix stream socket") != NULL);
	close(file);
	REQUIRE(!socketpair(AF_UNIX, SOCK_DGRAM, 0, sv));
	CHECK(!adopt(sv[1], true, &err));
	CHECK(strstr(err.text, "not a Unix stream socket") != NULL);
	close(sv[0]);
	close(sv[1]);
	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	CHECK(!adopt(sv[1], false, &err));
	CHECK(strstr(err.text, "not a listening socket") != NULL);

	b.server = adopt(sv[1], true, &err);
	REQUIRE(b.server);
	fe_adopt(&f, &b, sv[0]);
	fe_hello(&f, FE_RING_FEATURES | BIT30, FE_ALL_PROTOCOL);
	CHECK_EQ(fe_set_memory(&f), 0);
	fe_ring_up(&f, 0, 8);
	CHECK(fe_echo(&f, 0));
	fe_close(&f);
	bed_run(&b);
	bed_unserve(&b);

	listening = socket(AF_UNIX, SOCK_STREAM, 0);
	strcpy(sun.sun_path, b.path);
	REQUIRE(!bind(listening, (struct sockaddr *)&sun, sizeof(sun)) && !listen(listening, 4));
	CHECK(!adopt(listening, true, &err));
	b.server = adopt(listening, false, &err);
	REQUIRE(b.server);
	for (int i = 0; i < 3; i++) {
		fe_up(&f, &b, false);
		CHECK(fe_echo(&f, 0));
		fe_close(&f);
	}
	bed_run(&b);
	bed_unserve(&b);
	CHECK_EQ(access(b.path, F_OK), 0); /* whoever made it removes it */
	unlink(b.path);
	bed_close(&b);
}

/* ---- kill -9 ---- */

/* A back-end of its own process; with @hold it never finishes what it takes from now on. */
static pid_t back_end(const char *path, bool hold, int ready)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	bed_open(&b, false);
	bed_unserve(&b);
	strcpy(b.path, path);
	bed_serve(&b);
	b.hold = hold;
	if (write(ready, "r", 1) != 1)
		_exit(1);
	for (;;)
		sl_loop_step(b.loop, -1);
}

static void kill9(bool packed)
{
	uint64_t features = FE_RING_FEATURES | BIT30 | (packed ? PACKED : 0);
	struct vu_inflight want = {.num_queues = BED_QUEUES, .queue_size = 64}, region = {0};
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct bed idle = {.loop = sl_loop_new()}; /* a loop to wait on, for there is no back-end in this process */
	unsigned int outstanding = 0, done = 0;
	struct vu_msg m;
	int fd = -1, ready[2];
	char path[64], c;

	snprintf(path, sizeof(path), "/tmp/vhost-test-kill-%d.sock", getpid());
	strcpy(sun.sun_path, path);
	REQUIRE(!pipe2(ready, O_CLOEXEC));
	fe_adopt(&f, &idle, -1);
	f.features = features;
	f.packed = packed;
	fe_ring_new(&f, 0, 64);
	for (int life = 0; life < 6; life++) {
		pid_t pid = back_end(path, life % 2 == 0, ready[1]);
		uint32_t base;
		int status;

		REQUIRE(pid > 0 && read(ready[0], &c, 1) == 1);
		f.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		REQUIRE(!connect(f.sock, (struct sockaddr *)&sun, sizeof(sun)));
		fe_hello(&f, features, FE_ALL_PROTOCOL);
		if (fd < 0) {
			REQUIRE(!fe_get(&f, VU_GET_INFLIGHT_FD, &want, sizeof(want), &m) && m.nfds == 1);
			region = m.p.inflight;
			fd = vu_msg_take_fd(&m, 0);
		}
		CHECK_EQ(fe_set_memory(&f), 0);
		CHECK_EQ(fe_set(&f, VU_SET_INFLIGHT_FD, &region, sizeof(region), &fd, 1), 0);
		/* what a front-end knows after a lost connection: how many it got back */
		base = packed ? ((2 * done / 64) % 2 ? 0 : 0x8000) | (2 * done % 64) : done;
		CHECK_EQ(fe_ring_send(&f, 0, packed ? base << 16 | base : base), 0);
		CHECK_EQ(fe_set_state(&f, VU_SET_VRING_ENABLE, 0, 1), 0);
		for (int i = 0; i < 7; i++) {
			CHECK(fe_offer(&f, 0, 128) != NULL);
			outstanding++;
		}
		if (life % 2 == 0) {
			usleep(20000); /* it takes them, and keeps them */
			CHECK(!sl_dq_get(f.ring[0].dq, NULL));
		} else {
			for (; outstanding; outstanding--, done++) {
				uint8_t *data = fe_done(&f, 0);

				CHECK(data && !memcmp(data, data + 0x1000, 128));
			}
			CHECK(fe_idle(&f, 0));
		}
		fe_hangup(&f);
		kill(pid, SIGKILL);
		REQUIRE(waitpid(pid, &status, 0) == pid);
	}
	CHECK_EQ(done, 42);
	close(fd);
	close(ready[0]);
	close(ready[1]);
	unlink(path);
	fe_close(&f);
	sl_loop_free(idle.loop);
}

static void kill9_split(void)
{
	kill9(false);
}

static void kill9_packed(void)
{
	kill9(true);
}

static const struct t_case cases[] = {
	{"reconnect", reconnect},
	{"gone_with_requests_in_flight", gone_with_requests_in_flight},
	{"gone_with_requests_in_flight_threaded", gone_with_requests_in_flight_threaded},
	{"gone_while_draining", gone_while_draining},
	{"stop_while_draining", stop_while_draining},
	{"cut_everywhere", cut_everywhere},
	{"slow_sender", slow_sender},
	{"answers_not_read", answers_not_read},
	{"storm", storm},
	{"no_room_to_accept", no_room_to_accept},
	{"too_many_queues", too_many_queues},
	{"bad_paths", bad_paths},
	{"left_over_is_taken_over", left_over_is_taken_over},
	{"inherited", inherited},
	{"kill9_split", kill9_split},
	{"kill9_packed", kill9_packed},
};

T_MAIN(cases)
