/* SPDX-License-Identifier: MIT */
/* test_character.c - places that bytes come from and go to, and peers that come, go, and are slow. */
#include "character/character.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include <sluice/log.h>

#include "t.h"

/** struct bed - @said: the last line logged */
struct bed {
	struct sl_loop *loop;
	struct character *c;
	char dir[64], path[96], said[300];
	unsigned int inputs, rooms;
};

static void on_input(void *arg)
{
	((struct bed *)arg)->inputs++;
}

static void on_room(void *arg)
{
	((struct bed *)arg)->rooms++;
}

static const struct character_user user = {.input = on_input, .room = on_room};

static void note(void *arg, enum sl_log_level level, const char *text)
{
	(void)level;
	snprintf(((struct bed *)arg)->said, sizeof(((struct bed *)arg)->said), "%s", text);
}

static void make(struct bed *b, const char *kind)
{
	char text[200];
	struct sl_err err = {0};

	*b = (struct bed){.loop = sl_loop_new(), .dir = "/tmp/sluice-character-XXXXXX"};
	REQUIRE(b->loop && mkdtemp(b->dir));
	snprintf(b->path, sizeof(b->path), "%s/place", b->dir);
	snprintf(text, sizeof(text), "%s%s", kind, strchr(kind, ':') ? b->path : "");
	if (!strcmp(kind, "fifo:")) {
		REQUIRE(!mkfifo(b->path, 0600));
		return;
	}
	sl_log_to(note, b, SL_LOG_INFO);
	b->c = character_open("test", text, b->loop, &err);
	if (!b->c)
		fprintf(stderr, "%s\n", err.text);
	REQUIRE(b->c);
	character_use(b->c, &user, b);
}

static void destroy(struct bed *b)
{
	character_close(b->c);
	sl_log_to(NULL, NULL, SL_LOG_INFO);
	unlink(b->path);
	CHECK(!rmdir(b->dir));
	sl_loop_free(b->loop);
}

/* Turn the loop until *@what is no longer @was. */
static void until_more(struct bed *b, const unsigned int *what, unsigned int was)
{
	for (int i = 0; i < 200 && *what == was; i++)
		sl_loop_step(b->loop, 50);
	CHECK(*what > was);
}

static void settle(struct bed *b)
{
	while (sl_loop_step(b->loop, 0))
		;
}

static int dial(const struct bed *b)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(sun.sun_path, b->path);
	REQUIRE(fd >= 0 && !connect(fd, (struct sockaddr *)&sun, sizeof(sun)));
	return fd;
}

/* What the peer says must come. */
static void expect_input(struct bed *b, int peer, const char *text)
{
	char buf[100];
	size_t n = character_read(b->c, buf, sizeof(buf));
	unsigned int was = b->inputs;

	CHECK_EQ(n, 0);
	REQUIRE(write(peer, text, strlen(text)) == (ssize_t)strlen(text));
	until_more(b, &b->inputs, was);
	n = character_read(b->c, buf, sizeof(buf));
	CHECK(n == strlen(text) && !memcmp(buf, text, n));
	CHECK_EQ(character_read(b->c, buf, sizeof(buf)), 0);
}

static void expect_output(struct bed *b, int peer, const char *text)
{
	char buf[100];

	CHECK_EQ(character_write(b->c, text, strlen(text)), strlen(text));
	CHECK(read(peer, buf, sizeof(buf)) == (ssize_t)strlen(text) && !memcmp(buf, text, strlen(text)));
}

/* Write until the place takes no more. */
static size_t fill(struct bed *b)
{
	static const char data[4096];
	size_t total = 0, n;

	do {
		n = character_write(b->c, data, sizeof(data));
		total += n;
	} while (n == sizeof(data) && total < 16 << 20);
	CHECK(n < sizeof(data));
	return total;
}

static void texts(void)
{
	static const char *const wrong[] = {"", ":", "std", "stdio:", "stdio:x", "pty:0", "file", "file:", "unix", "unix:", "nonesuch"};
	struct sl_loop *loop = sl_loop_new();
	struct sl_err err;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		err.text[0] = '\0';
		CHECK(!character_open("--console", wrong[i], loop, &err) && strstr(err.text, "wants stdio, pty"));
	}
	CHECK(!character_open("--console", "file:/nonexistent/file", loop, &err) && strstr(err.text, "No such file"));
	CHECK(!character_open("--console", "unix:/nonexistent/file", loop, &err) && strstr(err.text, "No such file"));
	for (unsigned int i = 0; i < 5; i++)
		CHECK(character_forms(i) && character_forms(i)->form && character_forms(i)->help);
	CHECK(!character_forms(5));
	sl_loop_free(loop);
}

static void none(void)
{
	struct bed b;
	char buf[10];

	make(&b, "none");
	CHECK_EQ(character_write(b.c, "hello", 5), 5);
	CHECK_EQ(character_read(b.c, buf, sizeof(buf)), 0);
	settle(&b);
	CHECK(!b.inputs && !b.rooms && !character_is_keyboard(b.c));
	destroy(&b);
}

/* One peer after the other; the second waits for the first to go; without one, output is lost. */
static void unix_peers(void)
{
	struct bed b;
	int first, second;

	make(&b, "unix:");
	CHECK(strstr(b.said, "listening"));
	CHECK_EQ(character_write(b.c, "lost", 4), 4);
	first = dial(&b);
	settle(&b);
	second = dial(&b);
	expect_output(&b, first, "one");
	expect_input(&b, first, "from one");
	close(first);
	until_more(&b, &b.inputs, b.inputs);
	CHECK_EQ(character_read(b.c, (char[4]){0}, 4), 0); /* finds that nobody is there */
	settle(&b);
	expect_output(&b, second, "two");
	expect_input(&b, second, "from two");
	close(second);
	destroy(&b);
}

/* A peer that does not read: nothing blocks, and there is room again once it reads. */
static void unix_slow(void)
{
	struct bed b;
	char buf[65536] = "";
	size_t total;
	int peer;

	make(&b, "unix:");
	peer = dial(&b);
	settle(&b);
	total = fill(&b);
	CHECK_EQ(character_write(b.c, buf, sizeof(buf)), 0);
	settle(&b);
	CHECK_EQ(b.rooms, 0);
	while (total) {
		ssize_t n = read(peer, buf, sizeof(buf));

		REQUIRE(n > 0);
		total -= (size_t)n < total ? (size_t)n : total;
	}
	until_more(&b, &b.rooms, 0);
	CHECK(character_write(b.c, "x", 1) == 1);
	close(peer);
	destroy(&b);
}

/* A peer that goes while somebody waits for room: who waits goes on, to nowhere, and the next peer is served. */
static void unix_vanishes(void)
{
	struct bed b;
	int peer;

	make(&b, "unix:");
	peer = dial(&b);
	settle(&b);
	fill(&b);
	close(peer);
	until_more(&b, &b.rooms, 0);
	CHECK_EQ(character_write(b.c, "lost", 4), 4); /* finds that nobody is there */
	peer = dial(&b);
	settle(&b);
	expect_output(&b, peer, "found");
	close(peer);
	destroy(&b);
}

static void pty(void)
{
	struct bed b;
	char *name;
	int peer;

	make(&b, "pty");
	name = strstr(b.said, "/dev/pts/");
	REQUIRE(name);
	for (int i = 0; i < 3; i++) {
		struct termios t;

		CHECK_EQ(character_write(b.c, "lost", 4), 4);
		peer = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
		REQUIRE(peer >= 0);
		CHECK(!tcgetattr(peer, &t) && !(t.c_lflag & (ECHO | ICANON)) && !(t.c_oflag & OPOST));
		settle(&b);
		expect_input(&b, peer, "in\003");
		expect_output(&b, peer, "out\n");
		close(peer);
		until_more(&b, &b.inputs, b.inputs);
		CHECK_EQ(character_read(b.c, (char[4]){0}, 4), 0); /* finds that nobody is there */
	}
	peer = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	settle(&b);
	fill(&b);
	close(peer);
	until_more(&b, &b.rooms, 0);
	CHECK_EQ(character_write(b.c, "lost", 4), 4);
	settle(&b);
	destroy(&b);
}

static void file(void)
{
	struct bed b;
	char buf[10];
	int fd;

	make(&b, "file:");
	CHECK_EQ(character_write(b.c, "abc", 3), 3);
	CHECK_EQ(character_write(b.c, "def", 3), 3);
	CHECK_EQ(character_read(b.c, buf, sizeof(buf)), 0);
	settle(&b);
	fd = open(b.path, O_RDONLY | O_CLOEXEC);
	CHECK(read(fd, buf, sizeof(buf)) == 6 && !memcmp(buf, "abcdef", 6));
	close(fd);
	destroy(&b);
}

/* A FIFO wants a reader when it is opened; one that goes away later is not missed. */
static void fifo(void)
{
	struct sl_err err = {0};
	char text[120];
	struct bed b;
	int fd;

	signal(SIGPIPE, SIG_IGN);
	make(&b, "fifo:");
	snprintf(text, sizeof(text), "file:%s", b.path);
	CHECK(!character_open("test", text, b.loop, &err) && strstr(err.text, "nobody reads"));
	fd = open(b.path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	b.c = character_open("test", text, b.loop, &err);
	REQUIRE(b.c && fd >= 0);
	character_use(b.c, &user, &b);
	fill(&b);
	close(fd);
	until_more(&b, &b.rooms, 0);
	CHECK_EQ(character_write(b.c, "lost", 4), 4);
	destroy(&b);
}

static const struct t_case cases[] = {
	{"texts", texts},
	{"none", none},
	{"unix_peers", unix_peers},
	{"unix_slow", unix_slow},
	{"unix_vanishes", unix_vanishes},
	{"pty", pty},
	{"file", file},
	{"fifo", fifo},
};
T_MAIN(cases)
