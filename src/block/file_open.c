/* SPDX-License-Identifier: MIT */
/* file_open.c - opening raw files and block devices, and refusing what is none.
 *
 * Locking: two writers would destroy a disk. A regular file is locked with
 * open-file-description locks, which also QEMU uses, and so that both exclude
 * each other: a writer locks the whole file for itself; a reader read-locks
 * the bytes by which QEMU says "others must not write" and asks that nobody
 * holds those by which it says "I write". A block device is opened
 * exclusively, which also excludes a mounted file system.
 *
 * The kernel gives the locks of a killed process back only when its last
 * requests are over, so a lock that is held is tried again for a moment. It
 * also means that no write of the dead process can land behind one of ours.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include <sluice/log.h>

#include "block/file.h"
#include "block/nbd_image.h"
#include "block/uring.h"

#define LOCK_TRIES 100
#define LOCK_PAUSE_MS 20

/* QEMU's bytes: at 100 + n a reader lock says "I use permission n", at 200 + n "others must not". */
#define QEMU_USES_WRITE 101 /* write, write-unchanged, resize */
#define QEMU_BARS_WRITE 201
#define QEMU_WRITE_KINDS 3

enum cache { CACHE_WRITEBACK, CACHE_NONE, CACHE_WRITETHROUGH };
enum format { FORMAT_RAW };

static const char *const cache_names[] = {"writeback", "none", "writethrough", NULL};
static const char *const format_names[] = {"raw", "qcow2", "qed", "vdi", "vhdx", "vmdk", "vpc", NULL};

/** struct file_options - @cache, @format: index into the names above */
struct file_options {
	unsigned int cache, format;
};

static const struct opt_def options[] = {
	{"cache", OPT_ENUM, offsetof(struct file_options, cache), .def = "writeback", .values = cache_names,
	 .help = "a finished write is, until it is flushed, in the page cache (writeback) or past it (none); "
		 "or durable (writethrough)"},
	{"format", OPT_ENUM, offsetof(struct file_options, format), .def = "raw", .values = format_names,
	 .help = "what the bytes of the file are; raw also accepts what looks like another format"},
	{0},
};

const struct opt_table file_options_table = {"file", options};

/* ---- refusing images of other formats ---- */

/**
 * struct magic - what a format puts where
 * @at: offset; negative: from the end of the file
 */
static const struct magic {
	const char *format;
	long at;
	unsigned int len;
	const char *bytes;
} magics[] = {
	{"qcow2", 0, 4, "QFI\xfb"},
	{"qed", 0, 4, "QED\0"},
	{"vdi", 64, 4, "\x7f\x10\xda\xbe"},
	{"vhdx", 0, 8, "vhdxfile"},
	{"vmdk", 0, 4, "KDMV"},
	{"vmdk", 0, 4, "COWD"},
	{"vmdk", 0, 21, "# Disk DescriptorFile"},
	{"vpc", 0, 8, "conectix"},
	{"vpc", -512, 8, "conectix"},
	{"overlay", 0, 15, "sluice overlay\n"},
};

static const char *probe_format(int fd, uint64_t size)
{
	for (unsigned int i = 0; i < sizeof(magics) / sizeof(magics[0]); i++) {
		const struct magic *m = &magics[i];
		char bytes[32];

		if (pread(fd, bytes, m->len, m->at < 0 ? (off_t)size + m->at : m->at) == (ssize_t)m->len &&
		    !memcmp(bytes, m->bytes, m->len))
			return m->format;
	}
	return NULL;
}

/* ---- opening and locking ---- */

static bool pause_and_retry(unsigned int *tries)
{
	struct timespec pause = {.tv_nsec = LOCK_PAUSE_MS * 1000000L};

	if (++*tries >= LOCK_TRIES)
		return false;
	nanosleep(&pause, NULL);
	return true;
}

static int open_error(const char *path, bool read_only, int errnum, struct sl_err *err)
{
	if (errnum == EBUSY)
		return sl_err_set(err, errnum, "%s: in use by another process or mounted", path);
	if (!read_only && (errnum == EACCES || errnum == EPERM || errnum == EROFS) && !access(path, R_OK))
		return sl_err_set(err, errnum, "%s: cannot open for writing: %s; add readonly=on to serve it read-only",
				  path, strerror(errnum));
	return sl_err_set(err, errnum, "%s: cannot open: %s", path, strerror(errnum));
}

/* The page cache is used while looking at the file; open_direct() changes that. */
static int open_path(const char *path, bool read_only, bool *is_device, struct sl_err *err)
{
	int flags = O_CLOEXEC | (read_only ? O_RDONLY : O_RDWR);
	unsigned int tries = 0;
	struct stat st;
	int fd;

	/* Looked at before it is opened, as opening a pipe would wait for its other end. */
	if (stat(path, &st) < 0)
		return open_error(path, read_only, errno, err);
	*is_device = S_ISBLK(st.st_mode);
	if (S_ISDIR(st.st_mode))
		return sl_err_set(err, EISDIR, "%s: is a directory; a disk is a file or a block device", path);
	if (!*is_device && !S_ISREG(st.st_mode))
		return sl_err_set(err, EINVAL, "%s: neither a regular file nor a block device", path);
	if (*is_device && !read_only)
		flags |= O_EXCL;
	do
		fd = open(path, flags);
	while (fd < 0 && errno == EBUSY && pause_and_retry(&tries));
	if (fd < 0)
		return open_error(path, read_only, errno, err);
	if (fstat(fd, &st) < 0 || S_ISBLK(st.st_mode) != *is_device || (!*is_device && !S_ISREG(st.st_mode))) {
		close(fd);
		return sl_err_set(err, EINVAL, "%s: was replaced while it was opened", path);
	}
	return fd;
}

/* 1: locked; 0: somebody else holds it; -errno: no locks here */
static int try_lock(int fd, bool read_only)
{
	struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct flock bar = {.l_type = F_RDLCK, .l_start = QEMU_BARS_WRITE, .l_len = QEMU_WRITE_KINDS};
	struct flock use = {.l_type = F_WRLCK, .l_start = QEMU_USES_WRITE, .l_len = QEMU_WRITE_KINDS};

	if (fcntl(fd, F_OFD_SETLK, read_only ? &bar : &whole) < 0)
		return errno == EAGAIN || errno == EACCES ? 0 : -errno;
	if (!read_only)
		return 1;
	if (fcntl(fd, F_OFD_GETLK, &use) < 0)
		return -errno;
	return use.l_type == F_UNLCK;
}

static int lock_file(const char *path, int fd, bool read_only, struct sl_err *err)
{
	unsigned int tries = 0;
	int ret;

	do
		ret = try_lock(fd, read_only);
	while (!ret && pause_and_retry(&tries));
	if (!ret)
		return sl_err_set(err, EBUSY, "%s: in use by another process", path);
	if (ret < 0)
		sl_log(SL_LOG_WARN, "%s: cannot be locked, nothing keeps others from writing to it: %s", path,
		       strerror(-ret));
	return 0;
}

/* ---- what the file or device is like ---- */

int file_size(int fd, bool is_device, uint64_t *size)
{
	struct stat st;

	if (is_device)
		return ioctl(fd, BLKGETSIZE64, size) < 0 ? -errno : 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	*size = (uint64_t)st.st_size;
	return 0;
}

/* Without STATX_DIOALIGN the way to learn the alignment is to try. */
static uint32_t try_alignment(int fd)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t align = 4096;

	if (page == MAP_FAILED)
		return align;
	if (pread(fd, page, 512, 0) == 512)
		align = 512;
	munmap(page, 4096);
	return align;
}

static int open_direct(struct file *f, struct sl_err *err)
{
	int flags = fcntl(f->fd, F_GETFL);
	struct statx stx = {0};

	if (flags < 0 || fcntl(f->fd, F_SETFL, flags | O_DIRECT) < 0)
		return sl_err_set(err, errno, "%s: cache=none: this file system cannot do it: %s", f->b.name,
				  strerror(errno));
	f->direct = true;
	if (statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) < 0 || !(stx.stx_mask & STATX_DIOALIGN)) {
		f->mem_align = f->dio_align = try_alignment(f->fd);
		return 0;
	}
	f->mem_align = stx.stx_dio_mem_align;
	f->dio_align = stx.stx_dio_offset_align;
	if (!f->dio_align)
		return sl_err_set(err, EINVAL, "%s: cache=none: this file cannot be used past the page cache",
				  f->b.name);
	return 0;
}

/* A number from the sysfs folder of the device's queue (a partition's is its disk's); 0 when there is none. */
static uint64_t queue_limit(dev_t dev, const char *name)
{
	static const char *const places[] = {"queue", "../queue"};
	unsigned long long value = 0;

	for (unsigned int i = 0; i < 2; i++) {
		char path[128];
		FILE *in;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(dev), minor(dev), places[i], name);
		in = fopen(path, "re");
		if (!in)
			continue;
		if (fscanf(in, "%llu", &value) != 1)
			value = 0;
		fclose(in);
		break;
	}
	return value;
}

/* Its range is not aligned, so this never erases: a device that can says EINVAL, one that cannot EOPNOTSUPP. */
static bool can_secure_erase(int fd)
{
	uint64_t range[2] = {1, 512};

	return ioctl(fd, BLKSECDISCARD, range) < 0 && errno == EINVAL;
}

static uint32_t power_of_two(uint64_t n, uint32_t least, uint32_t most)
{
	return n > least && n <= most && !(n & (n - 1)) ? (uint32_t)n : least;
}

static void describe_device(struct file *f, dev_t dev, const struct block_options *o)
{
	struct block_info *info = &f->b.info;
	unsigned int n;

	if (!ioctl(f->fd, BLKPBSZGET, &n))
		info->physical_size = power_of_two(n, info->block_size, 1u << 20);
	if (!ioctl(f->fd, BLKIOOPT, &n))
		info->optimal_size = n;
	info->discard_granularity = (uint32_t)queue_limit(dev, "discard_granularity");
	info->discard = o->discard && queue_limit(dev, "discard_max_bytes") > 0;
	info->secure_erase = o->discard && !o->read_only && can_secure_erase(f->fd);
}

static int describe(struct file *f, const struct block_options *o, struct sl_err *err)
{
	struct block_info *info = &f->b.info;
	uint32_t least = f->direct ? f->dio_align : 512;
	uint64_t size;
	struct stat st;
	int ret, n;

	if (f->is_device && !ioctl(f->fd, BLKSSZGET, &n) && n > (int)least)
		least = (uint32_t)n;
	if (o->block_size && o->block_size < least)
		return sl_err_set(err, EINVAL, "%s: block-size=%llu: %u is the least that works here", f->b.name,
				  (unsigned long long)o->block_size, least);
	if (fstat(f->fd, &st) < 0 || (ret = file_size(f->fd, f->is_device, &size)))
		return sl_err_set(err, EIO, "%s: cannot tell the size", f->b.name);
	ret = block_set_size(&f->b, size, least, o, err);
	if (ret)
		return ret;
	info->flush = !f->durable;
	info->write_zeroes = true;
	info->unmap_zeroes = o->discard;
	if (f->is_device) {
		describe_device(f, st.st_rdev, o);
		return 0;
	}
	info->physical_size = power_of_two((uint64_t)st.st_blksize, info->block_size, 65536);
	info->discard_granularity = info->physical_size;
	info->discard = o->discard;
	return 0;
}

/* ---- the row of the table ---- */

static int check_and_describe(struct file *f, const struct block_options *o, const struct file_options *fo,
			      bool probe, struct sl_err *err)
{
	const char *format;
	uint64_t size;
	int ret = 0;

	if (!f->is_device)
		ret = lock_file(f->b.name, f->fd, o->read_only, err);
	if (!ret && probe && !file_size(f->fd, f->is_device, &size)) {
		format = probe_format(f->fd, size);
		if (format && !strcmp(format, "overlay"))
			ret = sl_err_set(err, EINVAL,
					 "%s: is an overlay: its base is the source, and this file its overlay=",
					 f->b.name);
		else if (format)
			ret = sl_err_set(err, EINVAL,
					 "%s: looks like a %s image: write format=%s, or format=raw to serve its bytes "
					 "as they are",
					 f->b.name, format, format);
	}
	if (!ret && fo->cache == CACHE_NONE)
		ret = open_direct(f, err);
	if (!ret)
		ret = describe(f, o, err);
	return ret ? ret : uring_probe(f->b.name, err);
}

static int map_zeroes(struct file *f, struct sl_err *err)
{
	void *p = mmap(NULL, FILE_ZEROES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return sl_err_set(err, ENOMEM, "%s: out of memory", f->b.name);
	f->zeroes = p;
	return 0;
}

static int file_open(const char *text, const struct block_options *o, struct spec *s, struct block **out,
		     struct sl_err *err)
{
	struct file_options fo;
	struct file *f;
	int ret = opts_apply(&file_options_table, s, &fo, err);

	if (ret)
		return ret;
	if (fo.format != FORMAT_RAW)
#ifdef HAVE_LIBNBD
		return nbd_image_open(text, format_names[fo.format], cache_names[fo.cache], o, s, out, err);
#else
		return sl_err_set(err, ENOTSUP, "%s: format=%s: this build serves only raw; others take the package "
				  "libnbd-dev", text, format_names[fo.format]);
#endif
	f = (struct file *)block_alloc(&file_ops, text, err);
	if (!f)
		return -ENOMEM;
	f->durable = fo.cache == CACHE_WRITETHROUGH;
	f->fd = open_path(text, o->read_only, &f->is_device, err);
	ret = f->fd < 0 ? f->fd : map_zeroes(f, err);
	if (!ret)
		ret = check_and_describe(f, o, &fo, !spec_has(s, "format"), err);
	if (ret) {
		file_ops.close(&f->b);
		return ret;
	}
	*out = &f->b;
	return 0;
}

const struct block_source block_source_file = {
	.source = {"PATH", "a raw disk image or a block device"},
	.options = &file_options_table,
	.open = file_open,
};
