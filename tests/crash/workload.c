/* SPDX-License-Identifier: MIT */
/* workload.c - what the guest of the crash test does: change files and databases, and say what it was told is durable.
 *
 * usage: workload DIRECTORY DISK MARKS ROUNDS
 *
 * Each stream is a process that makes one change after the other durable, in
 * its own way, and after the Nth writes a mark with N straight to the disk, to
 * a place of its own from byte MARKS on, behind the file system. So the mark
 * stands in the log of the disk's record filter behind everything that the
 * change needed. check.py knows the streams by their numbers.
 *
 * A last process changes files without making anything durable, so that there
 * is always something that may be lost or not.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK 4096
#define MARK_STRIDE (16 * BLOCK) /* apart, so that the guest does not make one request of two marks */
#define MARK_MAGIC "sluice mark\n" /* 12 bytes */

static const char *disk;
static off_t marks;

#define NEED(what) need((what), #what, __LINE__)

static void need(int good, const char *what, int line)
{
	if (good)
		return;
	printf("guest: FAIL workload.c:%d: %s: %s\n", line, what, strerror(errno));
	exit(1);
}

static void mark(unsigned int stream, uint64_t n)
{
	static unsigned char block[BLOCK] __attribute__((aligned(BLOCK)));
	static int fd = -1;

	if (fd < 0)
		fd = open(disk, O_WRONLY | O_DIRECT);
	NEED(fd >= 0);
	memcpy(block, MARK_MAGIC, 12);
	memcpy(block + 12, &stream, 4);
	memcpy(block + 16, &n, 8);
	NEED(pwrite(fd, block, BLOCK, marks + (off_t)stream * MARK_STRIDE) == BLOCK);
}

static void sync_folder(void)
{
	int fd = open(".", O_RDONLY | O_DIRECTORY);

	NEED(fd >= 0 && fsync(fd) == 0);
	close(fd);
}

/* @n in a line of so many bytes, which check.py makes too: the number and then letters that follow from it. */
static void line(char *text, uint64_t n, size_t len)
{
	int at = sprintf(text, "%06llu ", (unsigned long long)n);

	for (size_t i = (size_t)at; i < len - 1; i++)
		text[i] = (char)('a' + (n * 7 + i) % 26);
	text[len - 1] = '\n';
}

/* Lines of growing length at the end of a file. */
static void append(unsigned int stream, uint64_t rounds)
{
	int fd = open("append", O_WRONLY | O_CREAT | O_APPEND, 0644);
	char text[4096];

	NEED(fd >= 0);
	sync_folder();
	for (uint64_t n = 1; n <= rounds; n++) {
		size_t len = 100 + n * 37 % 3000;

		line(text, n, len);
		NEED(write(fd, text, len) == (ssize_t)len);
		NEED(n % 2 ? fsync(fd) == 0 : fdatasync(fd) == 0);
		mark(stream, n);
	}
}

/* A file that is replaced by a new one under its name. */
static void replace(unsigned int stream, uint64_t rounds)
{
	char text[64];

	for (uint64_t n = 1; n <= rounds; n++) {
		int fd = open("replace.new", O_WRONLY | O_CREAT | O_TRUNC, 0644);

		NEED(fd >= 0);
		line(text, n, sizeof(text));
		for (int i = 0; i < 200; i++)
			NEED(write(fd, text, sizeof(text)) == sizeof(text));
		NEED(fsync(fd) == 0 && close(fd) == 0);
		NEED(rename("replace.new", "replace") == 0);
		sync_folder();
		mark(stream, n);
	}
}

/* A file of fixed size whose slots are written in place, once each. */
static void in_place(unsigned int stream, uint64_t rounds)
{
	int fd = open("in-place", O_RDWR | O_CREAT, 0644);
	char text[512];

	NEED(fd >= 0);
	NEED(posix_fallocate(fd, 0, (off_t)(rounds * sizeof(text))) == 0 && fsync(fd) == 0);
	sync_folder();
	for (uint64_t n = 1; n <= rounds; n++) {
		line(text, n, sizeof(text));
		NEED(pwrite(fd, text, sizeof(text), (off_t)((n - 1) * sizeof(text))) == sizeof(text));
		NEED(fdatasync(fd) == 0);
		mark(stream, n);
	}
}

static void sql(sqlite3 *db, const char *statement)
{
	char *why = NULL;

	if (sqlite3_exec(db, statement, NULL, NULL, &why) == SQLITE_OK)
		return;
	printf("guest: FAIL %s: %s\n", statement, why);
	exit(1);
}

/* Rows in a table with an index, some of them changed again; each transaction is one more in the counter. */
static void database(unsigned int stream, uint64_t rounds, const char *name, const char *pragmas)
{
	char statement[512];
	sqlite3 *db;

	NEED(sqlite3_open(name, &db) == SQLITE_OK);
	sql(db, pragmas);
	sql(db, "CREATE TABLE rows (n INTEGER PRIMARY KEY, text TEXT, again INTEGER);"
		"CREATE INDEX by_text ON rows (text); CREATE TABLE counter (n INTEGER); INSERT INTO counter VALUES (0)");
	sync_folder();
	for (uint64_t n = 1; n <= rounds; n++) {
		snprintf(statement, sizeof(statement),
			 "BEGIN; INSERT INTO rows VALUES (%llu, '%llu' || hex(zeroblob(%llu)), 0);"
			 "UPDATE rows SET again = again + 1 WHERE n = %llu; UPDATE counter SET n = %llu; COMMIT",
			 (unsigned long long)n, (unsigned long long)n, (unsigned long long)(n * 97 % 1500),
			 (unsigned long long)(n / 2 + 1), (unsigned long long)n);
		sql(db, statement);
		mark(stream, n);
	}
	sqlite3_close(db);
}

static void with_log(unsigned int stream, uint64_t rounds)
{
	database(stream, rounds, "wal.db", "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; "
					   "PRAGMA wal_autocheckpoint=8");
}

/* EXTRA: also the journal's end is durable when a transaction is said to be, which FULL does not promise. */
static void with_journal(unsigned int stream, uint64_t rounds)
{
	database(stream, rounds, "journal.db", "PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA");
}

/* Nothing of this is ever made durable, and nothing is promised. */
static void noise(void)
{
	char text[3000], name[32];

	for (uint64_t n = 1;; n++) {
		int fd;

		snprintf(name, sizeof(name), "noise%llu", (unsigned long long)(n % 8));
		fd = open(name, O_WRONLY | O_CREAT | (n % 3 ? 0 : O_TRUNC), 0644);
		NEED(fd >= 0);
		line(text, n, sizeof(text));
		NEED(pwrite(fd, text, sizeof(text), (off_t)(n * 4099 % 100000)) == sizeof(text));
		if (n % 4 == 0)
			NEED(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE) == 0);
		close(fd);
		if (n % 16 == 0)
			unlink(name);
		usleep(3000);
	}
}

int main(int argc, char **argv)
{
	static void (*const streams[])(unsigned int, uint64_t) = {append, replace, in_place, with_log, with_journal};
	const unsigned int n = sizeof(streams) / sizeof(streams[0]);
	pid_t noisy;
	int status;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc != 5)
		return 2;
	NEED(chdir(argv[1]) == 0);
	disk = argv[2];
	marks = (off_t)strtoull(argv[3], NULL, 10);
	noisy = fork();
	if (!noisy) {
		noise();
	}
	for (unsigned int i = 0; i < n; i++) {
		if (fork())
			continue;
		streams[i](i, strtoull(argv[4], NULL, 10));
		_exit(0);
	}
	for (unsigned int i = 0; i < n; i++) {
		NEED(wait(&status) > 0);
		if (status)
			return 1;
	}
	kill(noisy, SIGKILL);
	return 0;
}
