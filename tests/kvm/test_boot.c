/* SPDX-License-Identifier: MIT */
/* test_boot.c - kernels, good and broken, the ACPI tables, the processor a guest sees; all without KVM */
#include <asm/bootparam.h>
#include <asm/kvm_para.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine/kvm_acpi.h"
#include "machine/kvm_boot.h"
#include "machine/kvm_cpuid.h"
#include "machine/kvm_layout.h"
#include "t.h"

#define MIB (1UL << 20)

/* ---- a guest's memory and a kernel's file ---- */

static struct {
	char *hva;
	struct sl_mem *mem;
	uint8_t file[256 * 1024];
	size_t size;
	char path[64], initrd[64];
	struct sl_err err;
	struct boot_entry entry;
} g;

static void fresh(uint64_t memory)
{
	struct sl_mem_region r = {.size = memory, .access = SL_MEM_READ | SL_MEM_WRITE};

	memset(&g, 0, sizeof(g));
	g.hva = mmap(NULL, memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	REQUIRE(g.hva != MAP_FAILED);
	r.hva = g.hva;
	g.mem = sl_mem_new(&r, 1, NULL);
	REQUIRE(g.mem);
	strcpy(g.path, "/tmp/sluice-boot-XXXXXX");
	close(mkstemp(g.path));
}

static void done(uint64_t memory)
{
	unlink(g.path);
	if (g.initrd[0])
		unlink(g.initrd);
	sl_mem_put(g.mem);
	munmap(g.hva, memory);
}

static int load_with(const char *cmdline)
{
	const struct boot_source src = {g.path, g.initrd[0] ? g.initrd : NULL, cmdline, LAYOUT_ACPI};
	int fd = open(g.path, O_WRONLY | O_TRUNC);

	REQUIRE(write(fd, g.file, g.size) == (ssize_t)g.size);
	close(fd);
	g.err.text[0] = '\0';
	return boot_load(&src, g.mem, &g.entry, &g.err);
}

static int load(void)
{
	return load_with("console=ttyS0");
}

/* It must be refused with this text, which names the file. */
static void refused(const char *why)
{
	CHECK(load() < 0);
	if (!strstr(g.err.text, why) || !strstr(g.err.text, g.path)) {
		fprintf(stderr, "'%s' is not in '%s'\n", why, g.err.text);
		t_failures++;
	}
}

static struct setup_header *bzimage(void)
{
	struct setup_header *h = (void *)(g.file + 0x1f1);

	memset(g.file, 0, sizeof(g.file));
	g.size = 5 * 512 + 64 * 1024;
	for (size_t i = 5 * 512; i < g.size; i++)
		g.file[i] = (uint8_t)i;
	g.file[0x201] = 0x66;
	h->setup_sects = 4;
	h->syssize = 64 * 1024 / 16;
	h->boot_flag = 0xaa55;
	memcpy(&h->header, "HdrS", 4);
	h->version = 0x20f;
	h->loadflags = LOADED_HIGH;
	h->xloadflags = XLF_KERNEL_64;
	h->initrd_addr_max = 0x7fffffff;
	h->cmdline_size = 2047;
	h->pref_address = 16 * MIB;
	h->init_size = MIB;
	return h;
}

static void bzimage_good(void)
{
	const struct boot_params *bp;

	fresh(64 * MIB);
	bzimage();
	CHECK_EQ(load(), 0);
	bp = (void *)(g.hva + LAYOUT_ZERO_PAGE);
	CHECK(g.entry.long_mode);
	CHECK_EQ(g.entry.rip, 16 * MIB + 0x200);
	CHECK_EQ(g.entry.arg, LAYOUT_ZERO_PAGE);
	CHECK(!memcmp(g.hva + 16 * MIB, g.file + 5 * 512, 64 * 1024));
	CHECK(!strcmp(g.hva + LAYOUT_CMDLINE, "console=ttyS0"));
	CHECK_EQ(bp->hdr.cmd_line_ptr, LAYOUT_CMDLINE);
	CHECK_EQ(bp->acpi_rsdp_addr, LAYOUT_ACPI);
	CHECK_EQ(bp->hdr.type_of_loader, 0xff);
	CHECK(bp->e820_entries >= 4);
	CHECK_EQ(bp->hdr.ramdisk_size, 0);
	done(64 * MIB);
}

static void bzimage_initrd(void)
{
	static const char bytes[] = "a file system";
	const struct boot_params *bp;
	struct setup_header *h;
	int fd;

	fresh(64 * MIB);
	h = bzimage();
	strcpy(g.initrd, "/tmp/sluice-initrd-XXXXXX");
	fd = mkstemp(g.initrd);
	REQUIRE(write(fd, bytes, sizeof(bytes)) == sizeof(bytes));
	CHECK_EQ(load(), 0);
	bp = (void *)(g.hva + LAYOUT_ZERO_PAGE);
	CHECK_EQ(bp->hdr.ramdisk_size, sizeof(bytes));
	CHECK_EQ(bp->hdr.ramdisk_image % 4096, 0);
	CHECK(bp->hdr.ramdisk_image >= 17 * MIB && bp->hdr.ramdisk_image < 64 * MIB);
	CHECK(!memcmp(g.hva + bp->hdr.ramdisk_image, bytes, sizeof(bytes)));
	h->initrd_addr_max = 17 * MIB; /* below where the kernel ends */
	CHECK_EQ(load(), -ENOMEM);
	CHECK(strstr(g.err.text, "--initrd"));
	h->initrd_addr_max = 0x7fffffff;
	REQUIRE(!ftruncate(fd, 60 * (off_t)MIB));
	CHECK_EQ(load(), -ENOMEM);
	close(fd);
	done(64 * MIB);
}

static void bzimage_broken(void)
{
	struct setup_header *h;

	fresh(64 * MIB);
	h = bzimage();
	g.size = 3;
	refused("too small");
	g.size = 600;
	refused("too small");
	bzimage();
	g.size = 3000;
	refused("cut off");
	h = bzimage();
	h->syssize = 0xffffffff;
	refused("cut off: its header promises");
	h = bzimage();
	h->setup_sects = 255;
	refused("cut off");
	h = bzimage();
	h->syssize = 1;
	refused("holds no code");
	h = bzimage();
	h->boot_flag = 0;
	refused("is no Linux kernel");
	h = bzimage();
	h->version = 0x204;
	refused("without a 64-bit entry");
	h = bzimage();
	h->xloadflags = 0;
	refused("without a 64-bit entry");
	h = bzimage();
	h->loadflags = 0;
	refused("zImage");
	h = bzimage();
	h->pref_address = UINT64_MAX - 4096;
	refused("--memory");
	h = bzimage();
	h->pref_address = 0x1000;
	refused("--memory");
	h = bzimage();
	h->init_size = 63 * MIB;
	refused("--memory");
	h = bzimage();
	h->cmdline_size = 5;
	CHECK_EQ(load(), -E2BIG);
	done(64 * MIB);
}

/* Files that people take for a kernel of this machine. */
static void other_files(void)
{
	static const struct {
		const char *why;
		unsigned int at, len;
		const char *magic;
	} files[] = {
		{"is no Linux kernel", 0, 0, ""},
		{"is compressed (gzip)", 0, 3, "\x1f\x8b\x08"},
		{"is compressed (xz)", 0, 6, "\xfd" "7zXZ\0"},
		{"is compressed (zstd)", 0, 4, "\x28\xb5\x2f\xfd"},
		{"is compressed (lz4)", 0, 4, "\x02\x21\x4c\x18"},
		{"is compressed (bzip2)", 0, 4, "BZh9"},
		{"is a Linux kernel for ARM", 0x38, 4, "ARM\x64"},
		{"is a Linux kernel for RISC-V", 0x38, 4, "RSC\x05"},
		{"packed for U-Boot", 0, 4, "\x27\x05\x19\x56"},
		{"which is for --initrd", 0, 6, "070701"},
	};

	fresh(16 * MIB);
	refused("is too small"); /* empty */
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		memset(g.file, 0, sizeof(g.file));
		g.size = 8192;
		memcpy(g.file + files[i].at, files[i].magic, files[i].len);
		refused(files[i].why);
	}
	done(16 * MIB);
}

struct pvh {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[2];
	Elf64_Nhdr note;
	char name[4];
	uint32_t entry;
	uint8_t code[256];
};

static struct pvh *pvh(void)
{
	struct pvh *p = (void *)g.file;

	memset(g.file, 0, sizeof(g.file));
	g.size = sizeof(*p);
	memcpy(p->eh.e_ident, ELFMAG, SELFMAG);
	p->eh.e_ident[EI_CLASS] = ELFCLASS64;
	p->eh.e_ident[EI_DATA] = ELFDATA2LSB;
	p->eh.e_machine = EM_X86_64;
	p->eh.e_phoff = offsetof(struct pvh, ph);
	p->eh.e_phnum = 2;
	p->eh.e_phentsize = sizeof(p->ph[0]);
	p->ph[0] = (Elf64_Phdr){.p_type = PT_LOAD, .p_paddr = MIB, .p_filesz = sizeof(*p), .p_memsz = 2 * MIB};
	p->ph[1] = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = offsetof(struct pvh, note), .p_filesz = 20};
	p->note = (Elf64_Nhdr){.n_namesz = 4, .n_descsz = 4, .n_type = 18};
	memcpy(p->name, "Xen", 4);
	p->entry = MIB + offsetof(struct pvh, code);
	return p;
}

static void pvh_good(void)
{
	struct pvh *p;
	const uint32_t *si;

	fresh(16 * MIB);
	p = pvh();
	CHECK_EQ(load(), 0);
	CHECK(!g.entry.long_mode);
	CHECK_EQ(g.entry.rip, p->entry);
	si = (void *)(g.hva + g.entry.arg);
	CHECK_EQ(si[0], 0x336ec578);
	CHECK_EQ(si[1], 1);
	CHECK(!memcmp(g.hva + MIB, p, sizeof(*p)));
	CHECK_EQ(boot_check(g.path, &g.err), 0);
	done(16 * MIB);
}

static void pvh_broken(void)
{
	struct pvh *p;

	fresh(16 * MIB);
	pvh();
	g.size = 40;
	refused("cut off");
	p = pvh();
	g.size = sizeof(*p) - 1;
	refused("a segment lies beyond");
	p = pvh();
	p->eh.e_ident[EI_CLASS] = ELFCLASS32;
	refused("not for x86-64");
	p = pvh();
	p->eh.e_machine = EM_AARCH64;
	refused("not for x86-64");
	p = pvh();
	p->eh.e_phnum = 0xffff;
	refused("program headers");
	p = pvh();
	p->eh.e_phoff = UINT64_MAX - 8;
	refused("program headers lie beyond");
	p = pvh();
	p->ph[1].p_offset = UINT64_MAX;
	refused("notes lie beyond");
	p = pvh();
	p->ph[1].p_filesz = UINT64_MAX;
	refused("notes lie beyond");
	p = pvh();
	p->ph[1].p_type = PT_NULL;
	refused("without a PVH entry");
	p = pvh();
	p->note.n_namesz = UINT32_MAX;
	refused("without a PVH entry");
	p = pvh();
	p->note.n_descsz = UINT32_MAX;
	refused("without a PVH entry");
	p = pvh();
	p->note.n_type = 1;
	refused("without a PVH entry");
	p = pvh();
	p->ph[0].p_paddr = UINT64_MAX - 100;
	refused("wants to be loaded");
	p = pvh();
	p->ph[0].p_paddr = 0x7000; /* over what we prepare */
	refused("wants to be loaded");
	p = pvh();
	p->ph[0].p_memsz = 16 * MIB;
	refused("wants to be loaded");
	p = pvh();
	p->ph[0].p_memsz = 8;
	refused("a segment lies beyond");
	p = pvh();
	p->entry = 4 * MIB;
	refused("entry outside");
	done(16 * MIB);
}

/* Bytes of a good file changed at random: refused or loaded, never more than that. */
static void random_files(void)
{
	unsigned int seed = 1, loaded = 0;

	fresh(16 * MIB);
	for (int i = 0; i < 2000; i++) {
		if (i & 1)
			pvh();
		else
			bzimage()->pref_address = MIB;
		for (int n = rand_r(&seed) % 4; n >= 0; n--)
			g.file[(i & 1 ? 0 : 0x1f1) + rand_r(&seed) % 0x100] = (uint8_t)rand_r(&seed);
		if (!(rand_r(&seed) % 8))
			g.size = (size_t)rand_r(&seed) % g.size;
		loaded += !load();
	}
	CHECK(loaded > 100);
	done(16 * MIB);
}

/* ---- the memory map: nothing of it lies in the devices' hole (A48) ---- */

static void memory_map(void)
{
	struct sl_mem_region r[2] = {
		{.size = LAYOUT_HOLE, .access = SL_MEM_READ | SL_MEM_WRITE},
		{.gpa = LAYOUT_4G, .uva = LAYOUT_4G, .size = 1024 * MIB, .access = SL_MEM_READ | SL_MEM_WRITE},
	};
	void *hva = mmap(NULL, LAYOUT_HOLE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct boot_range ranges[BOOT_MAX_RANGES];
	uint64_t total = 0, len = 16;
	struct sl_mem *mem;
	unsigned int n;

	REQUIRE(hva != MAP_FAILED);
	r[0].hva = r[1].hva = hva;
	mem = sl_mem_new(r, 2, NULL);
	REQUIRE(mem);
	n = boot_memory_map(mem, ranges);
	for (unsigned int i = 0; i < n; i++) {
		uint64_t end = ranges[i].addr + ranges[i].size;

		for (unsigned int k = 0; k < i; k++)
			CHECK(end <= ranges[k].addr || ranges[i].addr >= ranges[k].addr + ranges[k].size);
		if (ranges[i].type == BOOT_RAM) {
			CHECK(end <= LAYOUT_HOLE || ranges[i].addr >= LAYOUT_4G);
			CHECK(sl_mem_range(mem, ranges[i].addr, ranges[i].size, SL_MEM_WRITE));
			total += ranges[i].size;
		}
	}
	CHECK(total > 4095UL * MIB && total < 4097UL * MIB);
	/* the last byte of memory is memory, the next one is not, and nothing reaches over the edge */
	CHECK(sl_mem_range(mem, LAYOUT_HOLE - 16, 16, SL_MEM_WRITE));
	CHECK(!sl_mem_range(mem, LAYOUT_HOLE - 15, 16, SL_MEM_WRITE));
	CHECK(!sl_mem_at(mem, LAYOUT_HOLE, &len, SL_MEM_READ));
	CHECK(!sl_mem_range(mem, LAYOUT_4G - 1, 2, SL_MEM_READ));
	CHECK(sl_mem_range(mem, LAYOUT_4G + 1024 * MIB - 1, 1, SL_MEM_READ));
	CHECK(!sl_mem_range(mem, LAYOUT_4G + 1024 * MIB, 1, SL_MEM_READ));
	sl_mem_put(mem);
	munmap(hva, LAYOUT_HOLE);
}

/* ---- ACPI ---- */

static uint8_t tables[LAYOUT_ACPI_SIZE];

static uint64_t number(const uint8_t *p, unsigned int bytes)
{
	uint64_t v = 0;

	memcpy(&v, p, bytes);
	return v;
}

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s += *p++;
	return s;
}

static const uint8_t *table_at(uint64_t gpa, const char *signature)
{
	const uint8_t *t = tables + (gpa - LAYOUT_ACPI);

	REQUIRE(gpa > LAYOUT_ACPI && gpa < LAYOUT_ACPI + LAYOUT_ACPI_SIZE);
	CHECK(!memcmp(t, signature, 4));
	CHECK_EQ(sum(t, number(t + 4, 4)), 0);
	return t;
}

static unsigned int count_text(const uint8_t *t, const char *text)
{
	unsigned int n = 0, len = (unsigned int)strlen(text);

	for (uint64_t i = 0; i + len <= number(t + 4, 4); i++)
		n += !memcmp(t + i, text, len);
	return n;
}

static void acpi_tables(void)
{
	const struct acpi_mmio mmio[2] = {{0xfeb00000, 4096, 5}, {0xfeb01000, 4096, 6}};
	const struct acpi_config cfg = {.cpus = 3, .mmio = mmio, .num_mmio = 2};
	const uint8_t *xsdt, *fadt, *madt, *mcfg, *dsdt;
	unsigned int cpus = 0;

	CHECK(acpi_build(&cfg, LAYOUT_ACPI, tables, sizeof(tables)) > 1000);
	CHECK(!memcmp(tables, "RSD PTR ", 8));
	CHECK_EQ(sum(tables, 20), 0);
	CHECK_EQ(sum(tables, 36), 0);
	xsdt = table_at(number(tables + 24, 8), "XSDT");
	CHECK_EQ(number(xsdt + 4, 4), 36 + 3 * 8);
	fadt = table_at(number(xsdt + 36, 8), "FACP");
	madt = table_at(number(xsdt + 44, 8), "APIC");
	mcfg = table_at(number(xsdt + 52, 8), "MCFG");
	CHECK_EQ(number(fadt + 4, 4), 276);
	dsdt = table_at(number(fadt + 140, 8), "DSDT");
	CHECK_EQ(number(fadt + 40, 4), number(fadt + 140, 8));
	CHECK_EQ(number(fadt + 36, 4) % 64, 0); /* FACS */
	CHECK_EQ(number(fadt + 64, 4), PORT_PM + 4);
	CHECK_EQ(number(fadt + 172 + 4, 8), PORT_PM + 4);
	CHECK_EQ(number(fadt + 208 + 4, 8), PORT_PM + 8);
	CHECK_EQ(number(fadt + 116 + 4, 8), PORT_RESET);
	CHECK_EQ(fadt[128], 6);
	CHECK_EQ(number(fadt + 112, 4) >> 10 & 1, 1);
	CHECK_EQ(number(fadt + 112, 4) >> 4 & 1, 0); /* a fixed power button */
	for (uint64_t at = 44; at < number(madt + 4, 4); at += madt[at + 1]) {
		REQUIRE(madt[at + 1]);
		if (madt[at] == 0)
			CHECK_EQ(madt[at + 3], cpus++);
	}
	CHECK_EQ(cpus, 3);
	CHECK_EQ(number(mcfg + 44, 8), LAYOUT_ECAM);
	CHECK_EQ(count_text(dsdt, "LNRO0005"), 2);
	CHECK_EQ(count_text(dsdt, "ACPI0007"), 3);
	CHECK_EQ(count_text(dsdt, "PCI0"), 1);
	CHECK_EQ(count_text(dsdt, "_S5_"), 1);
}

static void save(const char *dir, const char *name, const uint8_t *table)
{
	char path[100];
	int fd;

	snprintf(path, sizeof(path), "%s/%s.dat", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	REQUIRE(fd >= 0 && write(fd, table, number(table + 4, 4)) == (ssize_t)number(table + 4, 4));
	close(fd);
}

/* ACPI's own compiler reads each table, and compiles what it read without an error or a warning. */
static void acpi_compiler(void)
{
	static const char script[] =
		"cd %s && for t in *.dat; do iasl -d $t >log 2>&1 || { cat log; exit 1; }; "
		"! grep -iE 'error|warning|invalid|incorrect|unknown' log || { cat log; exit 1; }; "
		"iasl -p again ${t%%.dat}.dsl >log 2>&1; "
		"grep -q '^Compilation successful. 0 Errors, 0 Warnings' log || { cat log; exit 1; }; "
		"done";
	struct acpi_mmio mmio[13];
	const struct acpi_config cfg = {.cpus = 16, .mmio = mmio, .num_mmio = 13};
	char dir[] = "/tmp/sluice-acpi-XXXXXX", command[600];
	const uint8_t *xsdt, *fadt;

	if (system("command -v iasl >/dev/null 2>&1"))
		SKIP("iasl is not installed (package acpica-tools)");
	for (unsigned int i = 0; i < 13; i++)
		mmio[i] = (struct acpi_mmio){0xfeb00000 + i * 4096, 4096, i, i & 1};
	CHECK(acpi_build(&cfg, LAYOUT_ACPI, tables, sizeof(tables)) > 1000);
	REQUIRE(mkdtemp(dir));
	xsdt = table_at(number(tables + 24, 8), "XSDT");
	fadt = table_at(number(xsdt + 36, 8), "FACP");
	save(dir, "xsdt", xsdt);
	save(dir, "fadt", fadt);
	save(dir, "madt", table_at(number(xsdt + 44, 8), "APIC"));
	save(dir, "mcfg", table_at(number(xsdt + 52, 8), "MCFG"));
	save(dir, "dsdt", table_at(number(fadt + 140, 8), "DSDT"));
	snprintf(command, sizeof(command), script, dir);
	CHECK_EQ(system(command), 0);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	CHECK_EQ(system(command), 0);
}

static void acpi_no_room(void)
{
	static const struct acpi_config cfg = {.cpus = 16};
	uint8_t small[512 + 1] = {[512] = 0xa5};

	for (size_t size = 0; size <= 512; size++)
		CHECK_EQ(acpi_build(&cfg, LAYOUT_ACPI, small, size), -ENOSPC);
	CHECK_EQ(small[512], 0xa5);
}

/* ---- CPUID ---- */

static union {
	struct kvm_cpuid2 c;
	unsigned char room[sizeof(struct kvm_cpuid2) + CPUID_MAX_ENTRIES * sizeof(struct kvm_cpuid_entry2)];
} id;

static const struct kvm_cpuid_entry2 *leaf(uint32_t function, uint32_t index)
{
	for (unsigned int i = 0; i < id.c.nent; i++)
		if (id.c.entries[i].function == function && id.c.entries[i].index == index)
			return &id.c.entries[i];
	return NULL;
}

/* A host on which every bit of every leaf is set. */
static void filter(unsigned int cpu, unsigned int cpus)
{
	static const uint32_t leaves[] = {
		0, 1, 2, 3, 4, 5, 6, 7, 0xa, 0xb, 0xd, 0xf, 0x10, 0x12, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1d, 0x1f,
		0x40000000, 0x40000001, 0x40000010, 0x80000000, 0x80000001, 0x80000002, 0x80000003, 0x80000004, 0x80000005,
		0x80000006, 0x80000007, 0x80000008, 0x8000000a, 0x8000001b, 0x8000001d, 0x8000001e, 0x8000001f, 0x80000021,
	};

	memset(&id, 0xff, sizeof(id));
	id.c.nent = sizeof(leaves) / sizeof(leaves[0]);
	for (unsigned int i = 0; i < id.c.nent; i++) {
		id.c.entries[i].function = leaves[i];
		id.c.entries[i].index = 0;
	}
	cpuid_filter(&id.c, cpu, cpus, true);
}

static void cpuid_leaks_nothing(void)
{
	static const uint32_t gone[] = {3, 5, 0xa, 0xf, 0x10, 0x12, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1d, 0x1f,
					0x40000010, 0x8000000a, 0x8000001b, 0x8000001f};
	char name[49] = "";

	filter(2, 4);
	for (size_t i = 0; i < sizeof(gone) / sizeof(gone[0]); i++)
		CHECK(!leaf(gone[i], 0));
	for (uint32_t i = 0; i < 3; i++)
		memcpy(name + 16 * i, &leaf(0x80000002 + i, 0)->eax, 16);
	CHECK(!strcmp(name, "sluice virtual CPU"));
	CHECK_EQ(leaf(0, 0)->eax, 0xd);
	CHECK_EQ(leaf(6, 0)->eax, 4);
	CHECK_EQ(leaf(6, 0)->ecx, 0);
	CHECK_EQ(leaf(1, 0)->ecx >> 5 & 1, 0);		/* VMX */
	CHECK_EQ(leaf(1, 0)->ecx >> 3 & 1, 0);		/* MONITOR */
	CHECK_EQ(leaf(1, 0)->edx >> 18 & 1, 0);		/* serial number */
	CHECK_EQ(leaf(0x80000001, 0)->ecx >> 2 & 1, 0); /* SVM */
	CHECK_EQ(leaf(7, 0)->ebx >> 2 & 1, 0);		/* SGX */
	CHECK_EQ(leaf(0x80000007, 0)->edx, 1 << 8);
	CHECK_EQ(leaf(0x40000001, 0)->eax >> KVM_FEATURE_ASYNC_PF & 1, 0);
}

static void cpuid_topology(void)
{
	for (unsigned int cpus = 1; cpus <= KVM_MAX_CPUS; cpus++)
		for (unsigned int cpu = 0; cpu < cpus; cpu++) {
			filter(cpu, cpus);
			CHECK_EQ(leaf(1, 0)->ebx >> 24, cpu);
			CHECK(leaf(1, 0)->ecx >> 31);
			CHECK_EQ(leaf(1, 0)->edx >> 28 & 1, cpus > 1);
			CHECK_EQ(leaf(0xb, 0)->edx, cpu);
			CHECK_EQ(leaf(0xb, 0)->ebx, 1);
			CHECK_EQ(leaf(0xb, 1)->ebx, cpus);
			CHECK(1u << leaf(0xb, 1)->eax >= cpus);
			CHECK_EQ(leaf(0xb, 2)->ebx, 0);
			CHECK_EQ((leaf(0x80000008, 0)->ecx & 0xff) + 1, cpus);
			CHECK_EQ(leaf(0x8000001e, 0)->eax, cpu);
		}
}

/* More leaves than a vCPU takes: the list stays inside its bounds. */
static void cpuid_full(void)
{
	memset(&id, 0, sizeof(id));
	id.c.nent = CPUID_MAX_ENTRIES;
	id.c.entries[0] = (struct kvm_cpuid_entry2){.eax = 0xd};
	for (unsigned int i = 1; i < CPUID_MAX_ENTRIES; i++)
		id.c.entries[i] = (struct kvm_cpuid_entry2){.function = 0xd, .index = i};
	cpuid_filter(&id.c, 0, 1, false);
	CHECK_EQ(id.c.nent, CPUID_MAX_ENTRIES);
}

static const struct t_case cases[] = {
	{"bzimage-good", bzimage_good}, {"bzimage-initrd", bzimage_initrd}, {"bzimage-broken", bzimage_broken},
	{"other-files", other_files}, {"pvh-good", pvh_good}, {"pvh-broken", pvh_broken}, {"random-files", random_files},
	{"a48-memory-map", memory_map}, {"acpi-tables", acpi_tables}, {"acpi-no-room", acpi_no_room},
	{"acpi-compiler", acpi_compiler},
	{"cpuid-leaks-nothing", cpuid_leaks_nothing}, {"cpuid-topology", cpuid_topology}, {"cpuid-full", cpuid_full},
};
T_MAIN(cases)
