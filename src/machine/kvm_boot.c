/* SPDX-License-Identifier: MIT */
/* kvm_boot.c - put a kernel into guest memory
 *
 * Every number of a file is a claim. Each is checked against the file's real
 * size and the guest's real memory before it is used, and what is wrong is
 * said in the person's terms.
 */
#include "machine/kvm_boot.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/kvm_layout.h"

#define MIB (1UL << 20)
#define PAGE 4096UL

/* bzImage */
#define BOOT_FLAG 0xaa55
#define MIN_PROTOCOL 0x020c /* the first with a 64-bit entry */
#define ENTRY_64 0x200
#define LOADER_UNDEFINED 0xff
#define HEADER_AT 0x1f1
#define SECTOR 512UL

/* PVH */
#define PVH_NOTE_NAME "Xen"
#define PVH_NOTE_ENTRY 18
#define PVH_MAGIC 0x336ec578
#define MAX_PHDRS 128
#define MAX_NOTES (64 * 1024)

struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};

struct hvm_module {
	uint64_t addr, size, cmdline, reserved;
};

struct hvm_memmap {
	uint64_t addr, size;
	uint32_t type, reserved;
};

/**
 * struct file - an open kernel or initrd
 * @what: "--kernel"
 */
struct file {
	const char *what, *path;
	int fd;
	uint64_t size;
};

static int bad(const struct file *f, struct sl_err *err, const char *why)
{
	return sl_err_set(err, ENOEXEC, "%s %s: %s", f->what, f->path, why);
}

static int file_open(struct file *f, const char *what, const char *path, struct sl_err *err)
{
	struct stat st;

	*f = (struct file){.what = what, .path = path};
	f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (f->fd < 0)
		return sl_err_set(err, errno, "%s %s: %s", what, path, strerror(errno));
	if (fstat(f->fd, &st) || !S_ISREG(st.st_mode)) {
		close(f->fd);
		return sl_err_set(err, EINVAL, "%s %s: is no regular file", what, path);
	}
	f->size = (uint64_t)st.st_size;
	return 0;
}

static int file_read(const struct file *f, uint64_t off, void *dst, uint64_t len, struct sl_err *err)
{
	char *p = dst;

	while (len) {
		ssize_t n = pread(f->fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return sl_err_set(err, errno, "%s %s: %s", f->what, f->path, strerror(errno));
		if (!n)
			return bad(f, err, "is cut off");
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

/* A piece of a file into guest memory; the caller has checked the file's side. */
static int file_load(const struct file *f, uint64_t off, const struct sl_mem *mem, uint64_t gpa, uint64_t len,
		     struct sl_err *err)
{
	void *dst = sl_mem_range(mem, gpa, len, SL_MEM_WRITE);

	if (!len)
		return 0;
	if (!dst)
		return sl_err_set(err, ENOEXEC, "%s %s: wants %" PRIu64 " bytes at address 0x%" PRIx64
				  ", where the guest has no memory; give it more with --memory", f->what, f->path, len, gpa);
	return file_read(f, off, dst, len, err);
}

/* ---- what both kinds of kernel are told ---- */

unsigned int boot_memory_map(const struct sl_mem *mem, struct boot_range *ranges)
{
	unsigned int n, count = 0;
	const struct sl_mem_region *r = sl_mem_regions(mem, &n);

	ranges[count++] = (struct boot_range){0, LAYOUT_LOW_RAM_END, BOOT_RAM};
	ranges[count++] = (struct boot_range){LAYOUT_LOW_RAM_END, 0xa0000 - LAYOUT_LOW_RAM_END, BOOT_RESERVED};
	ranges[count++] = (struct boot_range){LAYOUT_ACPI, LAYOUT_ACPI_SIZE, BOOT_RESERVED};
	ranges[count++] = (struct boot_range){LAYOUT_HIGH_RAM, r[0].size - LAYOUT_HIGH_RAM, BOOT_RAM};
	ranges[count++] = (struct boot_range){LAYOUT_ECAM, LAYOUT_ECAM_SIZE, BOOT_RESERVED};
	if (n > 1)
		ranges[count++] = (struct boot_range){r[1].gpa, r[1].size, BOOT_RAM};
	return count;
}

static uint64_t low_memory(const struct sl_mem *mem)
{
	unsigned int n;

	return sl_mem_regions(mem, &n)[0].size;
}

static int put_cmdline(const char *cmdline, uint64_t max, const struct sl_mem *mem, struct sl_err *err)
{
	uint64_t len = strlen(cmdline);

	if (len > max || len >= LAYOUT_CMDLINE_MAX)
		return sl_err_set(err, E2BIG, "--append: the kernel's command line has %" PRIu64 " bytes, and %" PRIu64
				  " are possible", len, max < LAYOUT_CMDLINE_MAX ? max : LAYOUT_CMDLINE_MAX - 1);
	return sl_mem_write(mem, LAYOUT_CMDLINE, cmdline, len + 1);
}

/* The initrd as high as possible, between @low, where the kernel ends, and @high. Gives address and size. */
static int put_initrd(const char *path, const struct sl_mem *mem, uint64_t low, uint64_t high, uint64_t *addr,
		      uint64_t *size, struct sl_err *err)
{
	struct file f;
	int ret = file_open(&f, "--initrd", path, err);

	if (ret)
		return ret;
	if (high > low_memory(mem))
		high = low_memory(mem);
	if (high < low || f.size > high - low || ((high - f.size) & ~(PAGE - 1)) < low) {
		ret = sl_err_set(err, ENOMEM, "--initrd %s: %" PRIu64 " bytes do not fit beside the kernel; give the guest "
				 "more with --memory", path, f.size);
	} else {
		*addr = (high - f.size) & ~(PAGE - 1);
		*size = f.size;
		ret = file_load(&f, 0, mem, *addr, f.size, err);
	}
	close(f.fd);
	return ret;
}

/* ---- bzImage ---- */

/* What people take for a kernel of this machine; @head has HEADER_AT bytes and more. */
static const char *other_kind(const unsigned char *head)
{
	static const struct {
		unsigned int at, len;
		const char *magic, *is;
	} kinds[] = {
		{0, 2, "\x1f\x8b", "is compressed (gzip); unpack it, or take the bzImage, which unpacks itself"},
		{0, 6, "\xfd" "7zXZ\0", "is compressed (xz); unpack it, or take the bzImage, which unpacks itself"},
		{0, 4, "\x28\xb5\x2f\xfd", "is compressed (zstd); unpack it, or take the bzImage, which unpacks itself"},
		{0, 4, "\x02\x21\x4c\x18", "is compressed (lz4); unpack it, or take the bzImage, which unpacks itself"},
		{0, 3, "BZh", "is compressed (bzip2); unpack it, or take the bzImage, which unpacks itself"},
		{0x38, 4, "ARM\x64", "is a Linux kernel for ARM, and this machine is x86-64"},
		{0x38, 4, "RSC\x05", "is a Linux kernel for RISC-V, and this machine is x86-64"},
		{0, 4, "\x27\x05\x19\x56", "is a kernel packed for U-Boot (uImage); engine kvm wants a bzImage"},
		{0, 6, "070701", "is a cpio archive, which is for --initrd"},
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!memcmp(head + kinds[i].at, kinds[i].magic, kinds[i].len))
			return kinds[i].is;
	return "is no Linux kernel (bzImage), and no ELF program with a PVH entry";
}

static int read_header(const struct file *f, struct setup_header *h, struct sl_err *err)
{
	unsigned char head[HEADER_AT + sizeof(*h)];
	size_t len;
	int ret;

	if (f->size < sizeof(head))
		return bad(f, err, "is too small to be a kernel");
	ret = file_read(f, 0, head, sizeof(head), err);
	if (ret)
		return ret;
	/* the header says itself where it ends: at the target of the jump it starts with */
	len = 0x202 + head[0x201] - HEADER_AT;
	memset(h, 0, sizeof(*h));
	memcpy(h, head + HEADER_AT, len < sizeof(*h) ? len : sizeof(*h));
	if (h->boot_flag != BOOT_FLAG || memcmp(&h->header, "HdrS", 4))
		return bad(f, err, other_kind(head));
	if (h->version < MIN_PROTOCOL || !(h->xloadflags & XLF_KERNEL_64))
		return bad(f, err, "is a bzImage without a 64-bit entry; engine kvm wants an x86-64 kernel of Linux 3.8 or later");
	if (!(h->loadflags & LOADED_HIGH))
		return bad(f, err, "is a zImage, which loads below 1 MiB");
	return 0;
}

static int load_bzimage(const struct file *f, const struct boot_source *src, const struct sl_mem *mem,
			struct boot_entry *out, struct sl_err *err)
{
	struct boot_params *bp = sl_mem_range(mem, LAYOUT_ZERO_PAGE, sizeof(*bp), SL_MEM_WRITE);
	struct boot_range ranges[BOOT_MAX_RANGES];
	uint64_t setup, code, load, end, initrd = 0, initrd_size = 0;
	struct setup_header h;
	int ret = read_header(f, &h, err);

	if (ret)
		return ret;
	setup = ((h.setup_sects ? h.setup_sects : 4) + 1) * SECTOR;
	code = h.syssize * 16ULL;
	if (setup >= f->size || code > f->size - setup + 15)
		return sl_err_set(err, ENOEXEC, "%s %s: is cut off: its header promises %" PRIu64 " bytes, it has %" PRIu64,
				  f->what, f->path, setup + code, f->size);
	if (code <= ENTRY_64)
		return bad(f, err, "holds no code");
	if (code > f->size - setup)
		code = f->size - setup;
	load = h.pref_address ? h.pref_address : LAYOUT_HIGH_RAM;
	if (__builtin_add_overflow(load, h.init_size > code ? h.init_size : code, &end) || load < LAYOUT_HIGH_RAM ||
	    end > low_memory(mem))
		return sl_err_set(err, ENOMEM, "%s %s: needs the memory from %" PRIu64 " to %" PRIu64
				  " MiB to start; give the guest more with --memory", f->what, f->path, load / MIB, end / MIB + 1);
	ret = file_load(f, setup, mem, load, code, err);
	if (!ret)
		ret = put_cmdline(src->cmdline, h.cmdline_size, mem, err);
	if (!ret && src->initrd)
		ret = put_initrd(src->initrd, mem, end, (uint64_t)h.initrd_addr_max + 1, &initrd, &initrd_size, err);
	if (ret)
		return ret;
	bp->hdr = h;
	bp->hdr.type_of_loader = LOADER_UNDEFINED;
	bp->hdr.code32_start = (uint32_t)load;
	bp->hdr.cmd_line_ptr = LAYOUT_CMDLINE;
	bp->hdr.ramdisk_image = (uint32_t)initrd;
	bp->hdr.ramdisk_size = (uint32_t)initrd_size;
	bp->acpi_rsdp_addr = src->rsdp;
	bp->e820_entries = (uint8_t)boot_memory_map(mem, ranges);
	for (unsigned int i = 0; i < bp->e820_entries; i++)
		bp->e820_table[i] = (struct boot_e820_entry){ranges[i].addr, ranges[i].size, ranges[i].type};
	*out = (struct boot_entry){.long_mode = true, .rip = load + ENTRY_64, .arg = LAYOUT_ZERO_PAGE};
	return 0;
}

/* ---- PVH ---- */

/* The entry among the notes of one segment; false when there is none. */
static bool find_entry(const unsigned char *notes, uint64_t len, uint64_t *entry)
{
	while (len >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		uint64_t name, desc, total;

		memcpy(&n, notes, sizeof(n));
		name = sizeof(n);
		desc = name + ((n.n_namesz + 3ULL) & ~3ULL);
		total = desc + ((n.n_descsz + 3ULL) & ~3ULL);
		if (desc + n.n_descsz > len)
			return false;
		if (n.n_type == PVH_NOTE_ENTRY && n.n_namesz == sizeof(PVH_NOTE_NAME) &&
		    !memcmp(notes + name, PVH_NOTE_NAME, sizeof(PVH_NOTE_NAME)) && (n.n_descsz == 4 || n.n_descsz == 8)) {
			*entry = 0;
			memcpy(entry, notes + desc, n.n_descsz);
			return true;
		}
		if (total > len)
			return false;
		notes += total;
		len -= total;
	}
	return false;
}

static bool inside(const struct file *f, uint64_t off, uint64_t len)
{
	return off <= f->size && len <= f->size - off;
}

static int read_entry(const struct file *f, const Elf64_Phdr *ph, uint64_t *entry, bool *found, struct sl_err *err)
{
	unsigned char *notes;
	int ret;

	if (!inside(f, ph->p_offset, ph->p_filesz))
		return bad(f, err, "is cut off: its notes lie beyond its end");
	if (ph->p_filesz > MAX_NOTES)
		return 0;
	notes = malloc(ph->p_filesz + 1);
	if (!notes)
		return sl_err_set(err, ENOMEM, "out of memory");
	ret = file_read(f, ph->p_offset, notes, ph->p_filesz, err);
	if (!ret)
		*found = find_entry(notes, ph->p_filesz, entry);
	free(notes);
	return ret;
}

static int read_elf(const struct file *f, Elf64_Ehdr *eh, struct sl_err *err)
{
	int ret = f->size < sizeof(*eh) ? bad(f, err, "is cut off") : file_read(f, 0, eh, sizeof(*eh), err);

	if (ret)
		return ret;
	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB || eh->e_machine != EM_X86_64)
		return bad(f, err, "is an ELF file, but not for x86-64");
	if (!eh->e_phnum || eh->e_phnum > MAX_PHDRS || eh->e_phentsize != sizeof(Elf64_Phdr))
		return bad(f, err, "is an ELF file without usable program headers");
	if (!inside(f, eh->e_phoff, (uint64_t)eh->e_phnum * sizeof(Elf64_Phdr)))
		return bad(f, err, "is cut off: its program headers lie beyond its end");
	return 0;
}

static int load_segment(const struct file *f, const Elf64_Phdr *ph, const struct sl_mem *mem, uint64_t *end,
			struct sl_err *err)
{
	uint64_t top;

	if (!ph->p_memsz)
		return 0;
	if (ph->p_filesz > ph->p_memsz || !inside(f, ph->p_offset, ph->p_filesz))
		return bad(f, err, "is cut off: a segment lies beyond its end");
	if (__builtin_add_overflow(ph->p_paddr, ph->p_memsz, &top) || ph->p_paddr < LAYOUT_HIGH_RAM ||
	    top > low_memory(mem))
		return sl_err_set(err, ENOMEM, "%s %s: wants to be loaded at 0x%" PRIx64 " to 0x%" PRIx64
				  ", and the guest's memory there is 0x%" PRIx64 " to 0x%" PRIx64, f->what, f->path, ph->p_paddr, top,
				  LAYOUT_HIGH_RAM, low_memory(mem));
	if (top > *end)
		*end = top;
	return file_load(f, ph->p_offset, mem, ph->p_paddr, ph->p_filesz, err);
}

static int read_segment(const struct file *f, const Elf64_Ehdr *eh, unsigned int i, Elf64_Phdr *ph, struct sl_err *err)
{
	return file_read(f, eh->e_phoff + i * sizeof(*ph), ph, sizeof(*ph), err);
}

/* The PVH entry of a program; that it has one is what makes it a kernel. */
static int find_pvh(const struct file *f, Elf64_Ehdr *eh, uint64_t *entry, struct sl_err *err)
{
	Elf64_Phdr ph;
	bool found = false;
	int ret = read_elf(f, eh, err);

	for (unsigned int i = 0; !ret && !found && i < eh->e_phnum; i++) {
		ret = read_segment(f, eh, i, &ph, err);
		if (!ret && ph.p_type == PT_NOTE)
			ret = read_entry(f, &ph, entry, &found, err);
	}
	if (!ret && !found)
		ret = bad(f, err, "is an ELF program without a PVH entry (a note 18 of Xen); for Linux, "
			  "that is a kernel without CONFIG_PVH");
	return ret;
}

/* All segments; gives the PVH entry and where the program ends. */
static int load_segments(const struct file *f, const struct sl_mem *mem, uint64_t *entry, uint64_t *end,
			 struct sl_err *err)
{
	Elf64_Phdr ph;
	Elf64_Ehdr eh;
	int ret = find_pvh(f, &eh, entry, err);

	*end = LAYOUT_HIGH_RAM;
	for (unsigned int i = 0; !ret && i < eh.e_phnum; i++) {
		ret = read_segment(f, &eh, i, &ph, err);
		if (!ret && ph.p_type == PT_LOAD)
			ret = load_segment(f, &ph, mem, end, err);
	}
	if (!ret && (*entry < LAYOUT_HIGH_RAM || *entry >= *end))
		ret = bad(f, err, "has its PVH entry outside of itself");
	return ret;
}

static int load_pvh(const struct file *f, const struct boot_source *src, const struct sl_mem *mem,
		    struct boot_entry *out, struct sl_err *err)
{
	struct hvm_start_info *si = sl_mem_range(mem, LAYOUT_ZERO_PAGE, sizeof(*si), SL_MEM_WRITE);
	struct hvm_module *module = sl_mem_range(mem, LAYOUT_ZERO_PAGE + sizeof(*si), sizeof(*module), SL_MEM_WRITE);
	struct hvm_memmap *map = sl_mem_range(mem, LAYOUT_MEMMAP, BOOT_MAX_RANGES * sizeof(*map), SL_MEM_WRITE);
	struct boot_range ranges[BOOT_MAX_RANGES];
	uint64_t entry = 0, end;
	int ret = load_segments(f, mem, &entry, &end, err);

	if (!ret)
		ret = put_cmdline(src->cmdline, LAYOUT_CMDLINE_MAX, mem, err);
	if (!ret && src->initrd)
		ret = put_initrd(src->initrd, mem, end, LAYOUT_4G, &module->addr, &module->size, err);
	if (ret)
		return ret;
	*si = (struct hvm_start_info){
		.magic = PVH_MAGIC, .version = 1, .nr_modules = src->initrd != NULL,
		.modlist = src->initrd ? LAYOUT_ZERO_PAGE + sizeof(*si) : 0, .cmdline = LAYOUT_CMDLINE, .rsdp = src->rsdp,
		.memmap = LAYOUT_MEMMAP, .memmap_entries = boot_memory_map(mem, ranges),
	};
	for (unsigned int i = 0; i < si->memmap_entries; i++)
		map[i] = (struct hvm_memmap){ranges[i].addr, ranges[i].size, ranges[i].type, 0};
	*out = (struct boot_entry){.rip = entry, .arg = LAYOUT_ZERO_PAGE};
	return 0;
}

/* ---- both ---- */

/* Open the kernel and tell the kinds apart. */
static int open_kernel(struct file *f, const char *path, bool *elf, struct sl_err *err)
{
	char magic[SELFMAG];
	int ret = file_open(f, "--kernel", path, err);

	if (ret)
		return ret;
	if (f->size < sizeof(magic))
		ret = bad(f, err, "is too small to be a kernel");
	else
		ret = file_read(f, 0, magic, sizeof(magic), err);
	*elf = !ret && !memcmp(magic, ELFMAG, SELFMAG);
	if (ret)
		close(f->fd);
	return ret;
}

int boot_check(const char *path, struct sl_err *err)
{
	struct setup_header h;
	Elf64_Ehdr eh;
	uint64_t entry;
	struct file f;
	bool elf;
	int ret = open_kernel(&f, path, &elf, err);

	if (ret)
		return ret;
	ret = elf ? find_pvh(&f, &eh, &entry, err) : read_header(&f, &h, err);
	close(f.fd);
	return ret;
}

int boot_load(const struct boot_source *src, const struct sl_mem *mem, struct boot_entry *out, struct sl_err *err)
{
	struct file f;
	bool elf;
	int ret = open_kernel(&f, src->kernel, &elf, err);

	if (ret)
		return ret;
	ret = elf ? load_pvh(&f, src, mem, out, err) : load_bzimage(&f, src, mem, out, err);
	close(f.fd);
	return ret;
}
