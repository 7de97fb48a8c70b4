/* SPDX-License-Identifier: MIT */
/* overlay_file.c - the scratch file of an overlay: made, opened again, grown, closed.
 *
 * An overlay=FILE has a header, two maps and the disk:
 *
 *	0           struct overlay_header
 *	durable_at  the durable map: what a power cut leaves is right (overlay_flush.c)
 *	working_at  the map in use, mapped by the process that has it open
 *	data_at     the disk; what was not written is a hole
 *
 * The map in use is in the page cache, as the data of finished writes is. Both
 * survive the process, also kill -9, and neither survives the host for sure.
 * So the header has the id of the boot in which the file was last used: when
 * it is today's, the map in use is right; else it is made again from the
 * durable one, and with it go the writes that were never flushed.
 *
 * Both maps have their space on disk from the beginning (a 4096th of the disk
 * each, with blocks of 512 bytes), so a bit can always be stored: a full disk
 * is noticed by the write that needs room, and only by that one.
 *
 * A temporary file is the disk and nothing else, without a name.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/overlay.h"

#define OVERLAY_MAGIC "sluice overlay\n" /* 16 bytes with its zero */
#define OVERLAY_VERSION 1
#define DURABLE_AT (64u << 10)
#define DATA_ALIGN (1u << 20)
#define GROWTH 4 /* the maps have room for a disk so many times as large */
#define BOOT_ID_LEN 36

/**
 * struct overlay_header - numbers are little endian
 * @base_size: of the disk below, when the file was made
 * @map_bytes: room of each of the maps
 * @boot_id:   /proc/sys/kernel/random/boot_id when it was last opened for writing
 */
struct overlay_header {
	char magic[16];
	uint32_t version, block_size;
	uint64_t size, base_size, durable_at, working_at, data_at, map_bytes;
	char boot_id[BOOT_ID_LEN + 4];
};

/** struct layout - of a file, as the header has it, in the host's byte order */
struct layout {
	uint64_t size, base_size, durable_at, working_at, data_at, map_bytes;
	uint32_t block_size;
	bool same_boot;
};

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

/* Bytes of the map that a disk of this size needs, whole pages. */
static uint64_t map_need(uint64_t size, uint32_t block_size)
{
	return round_up(round_up(size / block_size, 8) / 8, MAP_PAGE);
}

static void read_boot_id(char *id)
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	memset(id, 0, BOOT_ID_LEN + 4);
	if (fd < 0)
		return;
	if (read(fd, id, BOOT_ID_LEN) != BOOT_ID_LEN)
		id[0] = '\0'; /* unknown is never the same */
	close(fd);
}

/* ---- the header ---- */

static int io_error(const char *path, const char *what, struct sl_err *err)
{
	return sl_err_set(err, errno, "overlay=%s: %s: %s", path, what, strerror(errno));
}

static int write_header(int fd, const struct layout *l)
{
	struct overlay_header h = {
		.magic = OVERLAY_MAGIC,
		.version = htole32(OVERLAY_VERSION),
		.block_size = htole32(l->block_size),
		.size = htole64(l->size),
		.base_size = htole64(l->base_size),
		.durable_at = htole64(l->durable_at),
		.working_at = htole64(l->working_at),
		.data_at = htole64(l->data_at),
		.map_bytes = htole64(l->map_bytes),
	};

	read_boot_id(h.boot_id);
	return pwrite(fd, &h, sizeof(h), 0) == sizeof(h) ? 0 : -1;
}

static bool is_sane(const struct layout *l, uint64_t file_size)
{
	const uint32_t block = l->block_size;

	return block >= 512 && block <= 65536 && !(block & (block - 1)) && l->size && l->size < INT64_MAX / 2 &&
	       !(l->size % block) && l->base_size && !(l->base_size % block) && l->base_size <= l->size &&
	       l->map_bytes && !(l->map_bytes % MAP_PAGE) && l->map_bytes < INT64_MAX / 8 &&
	       l->map_bytes >= map_need(l->size, block) && l->durable_at == DURABLE_AT &&
	       l->working_at == l->durable_at + l->map_bytes &&
	       l->data_at == round_up(l->working_at + l->map_bytes, DATA_ALIGN) && file_size >= l->data_at &&
	       file_size - l->data_at >= l->size;
}

static int read_header(int fd, const char *path, struct layout *l, struct sl_err *err)
{
	char boot_id[BOOT_ID_LEN + 4];
	struct overlay_header h;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return io_error(path, "cannot tell the size", err);
	if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || memcmp(h.magic, OVERLAY_MAGIC, sizeof(h.magic)))
		return sl_err_set(err, EINVAL, "overlay=%s: is no overlay, and not empty", path);
	if (le32toh(h.version) != OVERLAY_VERSION)
		return sl_err_set(err, EINVAL, "overlay=%s: of version %u; this program knows %u", path,
				  le32toh(h.version), OVERLAY_VERSION);
	*l = (struct layout){
		.block_size = le32toh(h.block_size),
		.size = le64toh(h.size),
		.base_size = le64toh(h.base_size),
		.durable_at = le64toh(h.durable_at),
		.working_at = le64toh(h.working_at),
		.data_at = le64toh(h.data_at),
		.map_bytes = le64toh(h.map_bytes),
	};
	read_boot_id(boot_id);
	l->same_boot = boot_id[0] && !memcmp(boot_id, h.boot_id, BOOT_ID_LEN);
	if (!is_sane(l, (uint64_t)st.st_size))
		return sl_err_set(err, EINVAL, "overlay=%s: its header is damaged", path);
	return 0;
}

/* The overlay is of this disk, as far as one can tell. */
static int check_base(const struct layout *l, const struct block *base, const char *path, struct sl_err *err)
{
	if (l->block_size != base->info.block_size)
		return sl_err_set(err, EINVAL, "overlay=%s: was made with block-size=%u, and %s has %u", path,
				  l->block_size, base->name, base->info.block_size);
	if (l->base_size != base->info.size)
		return sl_err_set(err, EINVAL, "overlay=%s: was made above a disk of %llu bytes, and %s has %llu", path,
				  (unsigned long long)l->base_size, base->name, (unsigned long long)base->info.size);
	return 0;
}

/* ---- making and opening the file ---- */

static void plan(struct layout *l, const struct block *base)
{
	*l = (struct layout){.size = base->info.size, .base_size = base->info.size,
			     .block_size = base->info.block_size, .durable_at = DURABLE_AT};
	l->map_bytes = map_need(l->size, l->block_size) * GROWTH;
	l->working_at = l->durable_at + l->map_bytes;
	l->data_at = round_up(l->working_at + l->map_bytes, DATA_ALIGN);
}

/* Space for the bits of a disk of @size in both maps, so that storing one cannot fail. */
static int reserve_maps(int fd, const struct layout *l, uint64_t size)
{
	uint64_t need = map_need(size, l->block_size);
	int ret = posix_fallocate(fd, (off_t)l->durable_at, (off_t)need);

	if (!ret)
		ret = posix_fallocate(fd, (off_t)l->working_at, (off_t)need);
	errno = ret;
	return ret ? -1 : 0;
}

/* A name is durable when its folder is. */
static void sync_folder(const char *path)
{
	char *copy = strdup(path), *slash = copy ? strrchr(copy, '/') : NULL;
	int fd;

	if (slash)
		slash[slash == copy] = '\0';
	fd = copy ? open(slash ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (fd >= 0) {
		fsync(fd);
		close(fd);
	}
	free(copy);
}

/* A file of the right size without any data is one that is being made, also when somebody was killed at that. */
static int is_blank(int fd, const struct layout *l)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return 0;
	return !st.st_size || ((uint64_t)st.st_size == l->data_at + l->size && lseek(fd, 0, SEEK_DATA) < 0);
}

static int make(int fd, const char *path, const struct layout *l, struct sl_err *err)
{
	if (reserve_maps(fd, l, l->size) < 0)
		return io_error(path, "no space for the map", err);
	if (write_header(fd, l) < 0 || fsync(fd) < 0)
		return io_error(path, "cannot write", err);
	sync_folder(path);
	return 0;
}

static int open_scratch(const char *path, const struct block_options *bo, const char *cache, struct block **out,
			struct sl_err *err)
{
	struct spec_pair pairs[] = {{.key = "format", .value = "raw"}, {.key = "cache", .value = cache}};
	struct spec s = {.type = "overlay", .source = path, .pairs = pairs, .n = 2};

	return block_source_file.open(path, bo, &s, out, err);
}

/* Blocks that the base does not have are zeroes: holes in the scratch file. */
static void mark_growth(struct overlay *o, uint64_t size)
{
	if (size > o->base_size)
		overlay_mark(o, o->base_size >> o->shift, (size - o->base_size) >> o->shift);
}

/* ---- the map ---- */

static int map_file(struct overlay *o, const struct layout *l, bool read_only)
{
	void *p = mmap(NULL, l->map_bytes, PROT_READ | PROT_WRITE, read_only ? MAP_PRIVATE : MAP_SHARED, o->fd,
		       (off_t)l->working_at);

	if (p == MAP_FAILED)
		return -1;
	o->map.words = p;
	return 0;
}

/*
 * Compare the two maps, page by page: after a reboot the durable one is right; before, the one in use, of which some
 * pages may not be durable yet.
 */
static int settle_maps(struct overlay *o, const struct layout *l)
{
	uint64_t need = map_need(l->size, l->block_size);
	uint64_t durable[MAP_PAGE_WORDS];

	for (uint64_t at = 0; at < need; at += MAP_PAGE) {
		uint64_t *words = o->map.words + at / 8;
		size_t page = (size_t)(at / MAP_PAGE);

		if (pread(o->fd, durable, MAP_PAGE, (off_t)(l->durable_at + at)) != (ssize_t)MAP_PAGE)
			return -1;
		if (memcmp(words, durable, MAP_PAGE)) {
			if (l->same_boot)
				o->map.dirty[page / 64] |= (uint64_t)1 << page % 64;
			else
				memcpy(words, durable, MAP_PAGE);
		}
		for (unsigned int i = 0; i < MAP_PAGE_WORDS; i++)
			o->allocated += (unsigned int)__builtin_popcountll(words[i]);
	}
	return 0;
}

static int start_file(struct overlay *o, const char *path, struct layout *l, bool read_only, struct sl_err *err)
{
	if (map_file(o, l, read_only) < 0)
		return io_error(path, "cannot map its map", err);
	if (settle_maps(o, l) < 0)
		return io_error(path, "cannot read its map", err);
	mark_growth(o, l->size);
	/* Only now: until the map in use is right, this is not the boot in which it was. */
	if (!read_only && write_header(o->fd, l) < 0)
		return io_error(path, "cannot write", err);
	o->durable_at = l->durable_at;
	o->f.b.info.size = l->size;
	return 0;
}

/* ---- opening ---- */

int overlay_open_on(struct block *base, struct block *scratch, int fd, const char *path, bool read_only,
		    struct overlay **out, struct sl_err *err)
{
	struct layout l;
	struct overlay *o;
	int ret;

	plan(&l, base);
	ret = !read_only && is_blank(fd, &l) ? make(fd, path, &l, err) : 0;
	if (!ret)
		ret = read_header(fd, path, &l, err);
	if (!ret)
		ret = check_base(&l, base, path, err);
	if (ret)
		return ret;
	o = overlay_new(base, scratch, l.data_at, l.map_bytes, err);
	if (!o)
		return -ENOMEM;
	o->fd = fd;
	ret = start_file(o, path, &l, read_only, err);
	if (ret) {
		o->fd = -1;
		overlay_file_close(o);
		overlay_flusher_free(o);
		base->above = NULL;
		block_free(&o->f.b);
		return ret;
	}
	*out = o;
	return 0;
}

int overlay_open_file(struct block *base, const char *path, const struct block_options *bo, const char *cache,
		      struct overlay **out, struct sl_err *err)
{
	int fd = open(path, O_CLOEXEC | (bo->read_only ? O_RDONLY : O_RDWR | O_CREAT), 0666);
	struct block *scratch;
	struct layout l;
	struct stat st;
	int ret;

	if (fd < 0)
		return io_error(path, "cannot open", err);
	/* Looked at before it is locked: a new one gets its size, which is the same whoever gives it. */
	plan(&l, base);
	if (!bo->read_only && !fstat(fd, &st) && S_ISREG(st.st_mode) && !st.st_size &&
	    ftruncate(fd, (off_t)(l.data_at + l.size)) < 0)
		ret = io_error(path, "cannot make it large enough", err);
	else
		ret = open_scratch(path, bo, cache, &scratch, err);
	if (!ret) {
		ret = overlay_open_on(base, scratch, fd, path, bo->read_only, out, err);
		if (ret)
			block_close(scratch);
	}
	if (ret)
		close(fd);
	return ret;
}

/* Its name is its descriptor's while it is opened, so that nobody else can open it. */
int overlay_open_temporary(struct block *base, const struct block_options *bo, const char *cache,
			   struct overlay **out, struct sl_err *err)
{
	uint64_t map_bytes = map_need(base->info.size, base->info.block_size);
	const char *tmp = getenv("TMPDIR");
	struct block *scratch;
	struct overlay *o;
	char path[32];
	void *p;
	int fd, ret;

	if (!tmp || !*tmp)
		tmp = "/var/tmp";
	fd = open(tmp, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return sl_err_set(err, errno, "temporary=on: %s: cannot make a file there: %s", tmp, strerror(errno));
	if (ftruncate(fd, (off_t)base->info.size) < 0) {
		ret = sl_err_set(err, errno, "temporary=on: %s: cannot make a file of %llu bytes there: %s", tmp,
				 (unsigned long long)base->info.size, strerror(errno));
		close(fd);
		return ret;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ret = open_scratch(path, bo, cache, &scratch, err);
	close(fd);
	if (ret)
		return ret;
	p = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	o = p == MAP_FAILED ? NULL : overlay_new(base, scratch, 0, map_bytes, err);
	if (!o) {
		if (p == MAP_FAILED)
			sl_err_set(err, ENOMEM, "temporary=on: out of memory");
		else
			munmap(p, map_bytes);
		block_close(scratch);
		return -ENOMEM;
	}
	o->map.words = p;
	o->temporary = true;
	*out = o;
	return 0;
}

/* ---- growing and closing ---- */

int overlay_resize(struct block *b, uint64_t size, struct sl_err *err)
{
	struct overlay *o = (struct overlay *)b;
	const char *name = o->scratch->name;
	struct layout l;
	int ret;

	if (size == b->info.size)
		return 0;
	if (o->temporary || size < b->info.size)
		return sl_err_set(err, ENOTSUP, "%s: %s", b->name,
				  o->temporary ? "a temporary overlay keeps its size" : "an overlay can only grow");
	ret = read_header(o->fd, name, &l, err);
	if (ret)
		return ret;
	if (map_need(size, l.block_size) > l.map_bytes)
		return sl_err_set(err, EFBIG, "overlay=%s: can grow to %llu bytes, not more", name,
				  (unsigned long long)(l.map_bytes * 8 * l.block_size));
	if (reserve_maps(o->fd, &l, size) < 0 || ftruncate(o->fd, (off_t)(l.data_at + size)) < 0)
		return io_error(name, "cannot grow", err);
	ret = block_refresh(o->scratch, err);
	if (ret)
		return ret;
	mark_growth(o, size);
	l.size = size;
	if (write_header(o->fd, &l) < 0 || fsync(o->fd) < 0)
		return io_error(name, "cannot write", err);
	__atomic_store_n(&b->info.size, size, __ATOMIC_RELAXED);
	return 0;
}

/* Everything is done; so that a reboot does not take away what was never flushed. Nobody is left to be told of errors. */
static void make_durable(struct overlay *o)
{
	bool any = false;

	for (size_t page = 0; page < o->map.pages; page++) {
		if (!(o->map.dirty[page / 64] >> page % 64 & 1))
			continue;
		if (!any && fdatasync(o->fd) < 0)
			return;
		any = true;
		if (pwrite(o->fd, o->map.words + page * MAP_PAGE_WORDS, MAP_PAGE,
			   (off_t)(o->durable_at + page * MAP_PAGE)) != (ssize_t)MAP_PAGE)
			return;
	}
	if (any)
		fdatasync(o->fd);
}

void overlay_file_close(struct overlay *o)
{
	if (o->fd >= 0 && !o->f.b.info.read_only)
		make_durable(o);
	if (o->map.words)
		munmap(o->map.words, o->map.bytes);
	o->map.words = NULL;
	if (o->fd >= 0)
		close(o->fd);
	o->fd = -1;
}
