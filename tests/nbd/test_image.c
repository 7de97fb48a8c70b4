/* SPDX-License-Identifier: MIT */
/* test_image.c - image formats, by qemu-nbd and qemu-img */
#include "nbd/server.h"

static void formats(void)
{
	static const char *const names[] = {"qcow2", "vmdk", "vhdx", "vdi", "vpc", "qed"};

	if (!have("qemu-nbd") || !have("qemu-img"))
		SKIP("no qemu-nbd or no qemu-img");
	begin();
	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const char *f = names[i];
		unsigned char *all = malloc(8 * MiB);
		struct bed bed;
		int fd;

		/* vpc rounds sizes up to a geometry unless told not to */
		REQUIRE(!shell("qemu-img create -q -f %s %s %s/disk.%s 8M", f, strcmp(f, "vpc") ? "" : "-o force_size=on",
			       dir, f));
		bed_open(&bed, "blk,%s/disk.%s,format=%s", dir, f, f);
		CHECK_EQ(bed.block->info.size, 8 * MiB);
		CHECK(!bed.block->info.single);
		round_trip(&bed, true);
		/* what a discard leaves is anything: for the comparison it must be something */
		fill(all, MiB, i);
		CHECK_EQ(io(&bed, BLOCK_WRITE, 5 * MiB, MiB, all), 0);
		CHECK_EQ(io(&bed, BLOCK_READ, 0, 8 * MiB, all), 0);
		bed_close(&bed);
		fd = open(file_make("copy", 0, NULL, 0), O_WRONLY | O_CLOEXEC);
		REQUIRE(fd >= 0 && write(fd, all, 8 * MiB) == 8 * MiB);
		close(fd);
		if (strcmp(f, "vpc"))
			CHECK_EQ(shell("qemu-img check -q -f %s %s/disk.%s", f, dir, f), 0);
		CHECK_EQ(shell("qemu-img compare -q -f %s -F raw %s/disk.%s %s/copy", f, dir, f, dir), 0);
		bed_open(&bed, "blk,%s/disk.%s,format=%s,readonly=on,cache=writethrough", dir, f, f);
		CHECK(bed.block->info.read_only);
		CHECK_EQ(io(&bed, BLOCK_WRITE, 0, 4096, all), -EROFS);
		bed_close(&bed);
		free(all);
	}
	/* nothing is left: no process, no folder of a socket */
	CHECK(shell("grep -qs 'disk[.]qcow2' /proc/[0-9]*/cmdline"));
	dir_remove();
}

/* Is a qemu-nbd with the image @name (a pattern that does not match itself) there? -q: also when a process vanishes */
static bool serves(const char *name)
{
	return !shell("grep -qsa 'qemu-nbd.*%s' /proc/[0-9]*/cmdline", name);
}

static void killed_sluice(void)
{
	unsigned int i;
	pid_t pid;

	if (!have("qemu-nbd") || !have("qemu-img"))
		SKIP("no qemu-nbd or no qemu-img");
	begin();
	REQUIRE(!shell("qemu-img create -q -f qcow2 %s/kill.qcow2 8M", dir));
	setenv("TMPDIR", dir, 1); /* the socket's folder stays */
	pid = fork();
	REQUIRE(pid >= 0);
	if (!pid) {
		struct bed bed;
		unsigned char buf[4096] = {1};

		bed_open(&bed, "blk,%s/kill.qcow2,format=qcow2", dir);
		REQUIRE(!io(&bed, BLOCK_WRITE, 0, 4096, buf));
		file_make("ready", 1, NULL, 0);
		pause();
	}
	for (i = 0; i < 2000 && shell("test -e %s/ready", dir); i++)
		nap();
	CHECK(serves("kill[.]qcow2"));
	end(pid);
	for (i = 0; i < 2000 && serves("kill[.]qcow2"); i++)
		nap();
	CHECK(!serves("kill[.]qcow2"));
	CHECK_EQ(shell("qemu-img check -q -f qcow2 %s/kill.qcow2", dir), 0);
	unsetenv("TMPDIR");
	dir_remove();
}

static void errors(void)
{
	struct bed bed;
	char path[256];

	if (!have("qemu-nbd") || !have("qemu-img"))
		SKIP("no qemu-nbd or no qemu-img");
	begin();
	REQUIRE(!shell("qemu-img create -q -f qcow2 %s/a.qcow2 8M", dir));
	refuses("format=qcow2", "blk,%s/a.qcow2", dir);
	bed_open(&bed, "blk,%s/a.qcow2,format=qcow2", dir);
	refuses("lock", "blk,%s/a.qcow2,format=qcow2", dir);
	bed_close(&bed);
	refuses("No such file", "blk,%s/none.qcow2,format=qcow2", dir);
	snprintf(path, sizeof(path), "%s", file_make("bad", MiB, "QFI\xfb\0\0\0\x03rubbish", 15));
	refuses("cluster size", "blk,%s,format=qcow2", path);
	refuses("VMDK", "blk,%s,format=vmdk", path);
	snprintf(path, sizeof(path), "%s", getenv("PATH"));
	setenv("PATH", "/nowhere", 1);
	refuses("qemu-utils", "blk,%s/a.qcow2,format=qcow2", dir);
	setenv("PATH", path, 1);
	dir_remove();
}

static const struct t_case cases[] = {
	{"formats", formats},
	{"killed_sluice", killed_sluice},
	{"errors", errors},
};

T_MAIN(cases)
