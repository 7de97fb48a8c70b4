/* SPDX-License-Identifier: MIT */
/* main.c - our drivers on bare metal: one device, one operation, a line of results on the serial port.
 *
 * The command line is words, in any order, all but unknown ones ignored:
 *
 *	blk		the device (there is only this one)
 *	pci | mmio	the link; the first device of the type
 *	split | packed	the ring
 *	read | write | verify	read; write a pattern; write it, flush, read it back and compare
 *	count=N		blocks of 4096 bytes, one request each (64)
 *	depth=N		requests in flight, 1 to 32 (8)
 *	poll | interrupt	how to wait for the device: MSI-X with pci, an edge on irq=N with mmio
 *	virtio_mmio.device=SIZE@BASE:IRQ	where a virtio-mmio device is, as Linux takes it; else QEMU's microvm's places
 *	irq=N		the line, where only that is missing
 *
 * or instead of all that
 *
 *	cpuid		print the processor's CPUID
 *	memory		write and read back some of all memory
 *
 * The last line begins with "bare: ok" or "bare: FAILED".
 */
#include "bare.h"


#include "driver/blk.h"
#include "driver/fail.h"
#include "driver/registers.h"

#define BLOCK 4096
#define BLOCK_SECTORS (BLOCK / VBLK_SECTOR)
#define MAX_DEPTH 32
#define RING 128
#define DMA_SIZE (256 << 10)
#define STATE_SIZE 16384
#define PATIENCE (60ull * 3000000000u) /* cycles that no wait exceeds: about a minute */
#define BLK_TYPE 2
#define MICROVM_BASE 0xfeb00000u
#define MICROVM_STRIDE 512
#define MICROVM_PLACES 24
#define NO_LINE UINT32_MAX

/** struct task - the command line */
struct task {
	bool mmio, packed, interrupt, write, check;
	uint64_t count, depth;
	uint64_t base; /* of the virtio-mmio device; 0: look for it */
	uint32_t line;
};

/* ---- command line ---- */

/* Behind @name, when the word at @s begins with it; NULL: it does not. */
static const char *after(const char *s, const char *name)
{
	while (*name)
		if (*s++ != *name++)
			return NULL;
	return s;
}

static bool is(const char *s, const char *name)
{
	s = after(s, name);
	return s && (!*s || *s == ' ');
}

static uint64_t number(const char *s, const char **end)
{
	uint64_t n = 0;
	bool hex = s[0] == '0' && s[1] == 'x';

	for (s += hex ? 2 : 0;; s++) {
		unsigned int digit = *s >= '0' && *s <= '9' ? (unsigned int)(*s - '0')
				     : hex && *s >= 'a' && *s <= 'f' ? (unsigned int)(*s - 'a') + 10 : 16;

		if (digit >= (hex ? 16 : 10))
			break;
		n = n * (hex ? 16 : 10) + digit;
	}
	if (end)
		*end = s;
	return n;
}

static bool is_blk(uint64_t base);

/* SIZE@BASE:IRQ; the first one with a disk counts. */
static void place(struct task *t, const char *s)
{
	uint64_t base;

	while (*s && *s != ' ' && *s != '@')
		s++;
	if (*s != '@' || t->base)
		return;
	base = number(s + 1, &s);
	if (!is_blk(base))
		return;
	t->base = base;
	if (*s == ':')
		t->line = (uint32_t)number(s + 1, NULL);
}

static void parse_word(struct task *t, const char *s)
{
	const char *value;

	if (is(s, "mmio"))
		t->mmio = true;
	else if (is(s, "packed"))
		t->packed = true;
	else if (is(s, "interrupt"))
		t->interrupt = true;
	else if (is(s, "write"))
		t->write = true;
	else if (is(s, "verify"))
		t->write = t->check = true;
	else if ((value = after(s, "count=")))
		t->count = number(value, NULL);
	else if ((value = after(s, "depth=")))
		t->depth = number(value, NULL);
	else if ((value = after(s, "irq=")))
		t->line = (uint32_t)number(value, NULL);
	else if ((value = after(s, "virtio_mmio.device=")))
		place(t, value);
}

static void parse(struct task *t, const char *s)
{
	*t = (struct task){.count = 64, .depth = 8, .line = NO_LINE};
	while (*s) {
		parse_word(t, s);
		while (*s && *s != ' ')
			s++;
		while (*s == ' ')
			s++;
	}
	if (!t->depth || t->depth > MAX_DEPTH)
		t->depth = MAX_DEPTH;
}

/* ---- registers ---- */

#define PORT_PCI_ADDRESS 0xcf8
#define PORT_PCI_DATA 0xcfc
#define PCI_ENABLE 0x80000000u

static uint64_t read_memory(uint64_t address, unsigned int width)
{
	uintptr_t at = (uintptr_t)address;

	switch (width) {
	case 1:
		return *(volatile uint8_t *)at;
	case 2:
		return *(volatile uint16_t *)at;
	default:
		return *(volatile uint32_t *)at;
	}
}

static void write_memory(uint64_t address, unsigned int width, uint64_t value)
{
	uintptr_t at = (uintptr_t)address;

	switch (width) {
	case 1:
		*(volatile uint8_t *)at = (uint8_t)value;
		break;
	case 2:
		*(volatile uint16_t *)at = (uint16_t)value;
		break;
	default:
		*(volatile uint32_t *)at = (uint32_t)value;
	}
}

static uint32_t read_config(uint64_t address, unsigned int width)
{
	out32(PORT_PCI_ADDRESS, PCI_ENABLE | (uint32_t)(address >> 4 & 0xff00) | (address & 0xfc));
	return in32(PORT_PCI_DATA) >> (address & 3) * 8 & (width == 4 ? UINT32_MAX : (1u << 8 * width) - 1);
}

static void write_config(uint64_t address, unsigned int width, uint32_t value)
{
	unsigned int shift = (address & 3) * 8;
	uint32_t mask = (width == 4 ? UINT32_MAX : (1u << 8 * width) - 1) << shift;
	uint32_t old = read_config(address & ~3ull, 4); /* leaves the address port pointing there */

	out32(PORT_PCI_DATA, (old & ~mask) | (value << shift & mask));
}

static uint64_t access_read(void *arg, enum register_space space, uint64_t address, unsigned int width)
{
	(void)arg;
	return space == REGISTER_PCI ? read_config(address, width) : read_memory(address, width);
}

static void access_write(void *arg, enum register_space space, uint64_t address, unsigned int width, uint64_t value)
{
	(void)arg;
	if (space == REGISTER_PCI)
		write_config(address, width, (uint32_t)value);
	else
		write_memory(address, width, value);
}

static bool access_wait(void *arg, unsigned int round)
{
	(void)arg;
	__builtin_ia32_pause();
	return round < 10000000;
}

static const struct register_access registers = {.read = access_read, .write = access_write, .wait = access_wait};

/* ---- the device ---- */

static union {
	struct link_mmio mmio;
	struct link_pci pci;
} link;

static bool is_blk(uint64_t base)
{
	return link_mmio_open(&link.mmio, &registers, base, NULL) && link_mmio_type(&link.mmio) == BLK_TYPE;
}

static void acknowledge(void)
{
	link_mmio_interrupt(&link.mmio);
}

static struct sl_link *find_mmio(struct task *t, struct sl_err *err)
{
	for (unsigned int i = 0; !t->base && i < MICROVM_PLACES; i++)
		if (is_blk(MICROVM_BASE + i * MICROVM_STRIDE))
			t->base = MICROVM_BASE + i * MICROVM_STRIDE;
	if (!t->base) {
		driver_fail(err, 1, "mmio: no disk");
		return NULL;
	}
	interrupts_init(acknowledge);
	if (t->interrupt && t->line == NO_LINE) {
		driver_fail(err, 1, "mmio: interrupt: which line? say irq=N");
		return NULL;
	}
	if (t->interrupt)
		interrupts_line(t->line);
	return link_mmio_open(&link.mmio, &registers, t->base, err);
}

static struct sl_link *find_pci(const struct task *t, struct sl_err *err)
{
	static const uint32_t vectors[2] = {VECTOR_CONFIG, VECTOR_QUEUE};
	struct sl_link *l = NULL;

	interrupts_init(NULL);
	for (uint64_t device = 0; device < 32; device++) {
		l = link_pci_open(&link.pci, &registers, device << 15, err);
		if (l && link.pci.type == BLK_TYPE)
			break;
		l = NULL;
	}
	if (!l)
		driver_fail(err, 1, "pci: no disk, or none with modern registers at assigned addresses");
	if (l && t->interrupt && link_pci_msix(&link.pci, MESSAGE_ADDRESS, vectors, 2)) {
		driver_fail(err, 1, "pci: no MSI-X");
		return NULL;
	}
	return l;
}

/* ---- the operation ---- */

static unsigned char dma[DMA_SIZE] __attribute__((aligned(4096)));
static unsigned char state[STATE_SIZE] __attribute__((aligned(64)));

struct run {
	struct task t;
	struct vblk blk;
	struct vblk_queue q;
	uint64_t *data[MAX_DEPTH];
	uint64_t block[MAX_DEPTH]; /* that the slot's request is for */
	uint64_t done, failed, wrong;
};

static uint64_t pattern(uint64_t block, unsigned int i)
{
	return (block * (BLOCK / 8) + i) * 0x9e3779b97f4a7c15ull;
}

static bool submit(struct run *r, unsigned int slot, uint64_t block, bool write)
{
	struct sl_dq_buf buf = {(uint64_t)(uintptr_t)r->data[slot], BLOCK};

	r->block[slot] = block;
	for (unsigned int i = 0; i < BLOCK / 8; i++)
		r->data[slot][i] = write ? pattern(block, i) : 0;
	return write ? vblk_write(&r->q, block * BLOCK_SECTORS, &buf, 1, &r->data[slot])
		     : vblk_read(&r->q, block * BLOCK_SECTORS, &buf, 1, &r->data[slot]);
}

/* The next finished request, or NULL when the device is silent for too long. */
static void *next(struct run *r, int *result)
{
	uint64_t start = cycles();
	void *cookie;

	for (;;) {
		cookie = vblk_poll(&r->q, result);
		if (cookie || vblk_broken(&r->q) || cycles() - start > PATIENCE)
			return cookie;
		if (!r->t.interrupt) {
			__builtin_ia32_pause();
			continue;
		}
		interrupts_off();
		if (!vblk_rearm(&r->q))
			interrupts_wait();
		vblk_disarm(&r->q);
	}
}

static bool finish(struct run *r, bool check, unsigned int *slot)
{
	int result;
	uint64_t **cookie = next(r, &result);

	if (!cookie)
		return false;
	*slot = (unsigned int)(cookie - r->data);
	r->done++;
	r->failed += result != 0;
	for (unsigned int i = 0; check && i < BLOCK / 8; i++)
		if (r->data[*slot][i] != pattern(r->block[*slot], i)) {
			r->wrong++;
			break;
		}
	return true;
}

/* One pass over all blocks; false when the device stopped answering. */
static bool pass(struct run *r, bool write, bool check)
{
	uint64_t next_block = 0;
	unsigned int slot;

	for (; next_block < r->t.depth && next_block < r->t.count; next_block++)
		if (!submit(r, (unsigned int)next_block, next_block, write))
			return false;
	vblk_commit(&r->q);
	while (vblk_outstanding(&r->q)) {
		if (!finish(r, check, &slot))
			return false;
		if (next_block < r->t.count && !submit(r, slot, next_block++, write))
			return false;
		vblk_commit(&r->q);
	}
	return true;
}

static bool flush(struct run *r)
{
	int result;

	if (!r->blk.info.flush)
		return true;
	if (!vblk_flush(&r->q, r))
		return false;
	vblk_commit(&r->q);
	return next(r, &result) == r && !result;
}

static bool work(struct run *r)
{
	if (r->t.write && (!pass(r, true, false) || !flush(r)))
		return false;
	return (r->t.write && !r->t.check) || pass(r, false, r->t.check);
}

static bool set_up(struct run *r, struct sl_link *l, struct sl_err *err)
{
	struct sl_features f = {{UINT64_MAX, UINT64_MAX}};
	uint64_t at;

	if (!r->t.packed)
		sl_features_clear(&f, SL_F_RING_PACKED);
	if (vblk_open(&r->blk, l, &f, err))
		return false;
	if (sl_features_has(&r->blk.features, SL_F_RING_PACKED) != r->t.packed)
		return driver_fail(err, 0, "the device does not offer packed rings");
	if (r->t.count > r->blk.info.capacity / BLOCK)
		return driver_fail(err, 0, "the disk has fewer blocks");
	at = (vblk_queue_shared_size(&r->blk, RING) + BLOCK - 1) / BLOCK * BLOCK;
	if (at + MAX_DEPTH * BLOCK > sizeof(dma) || vblk_queue_private_size(RING) > sizeof(state))
		return driver_fail(err, 0, "not enough memory set aside");
	for (unsigned int i = 0; i < MAX_DEPTH; i++)
		r->data[i] = (uint64_t *)(void *)(dma + at + i * BLOCK);
	return !vblk_queue_init(&r->q, &r->blk, 0, RING, dma, (uint64_t)(uintptr_t)dma, state, err) &&
	       !vblk_start(&r->blk, &r->q, 1, err);
}

static void report(const struct run *r, bool good, uint64_t spent)
{
	put(good ? "bare: ok: " : "bare: FAILED: ");
	put(r->t.mmio ? "mmio" : "pci");
	put(r->t.packed ? " packed" : " split");
	put(r->t.interrupt ? " interrupt: " : " poll: ");
	put_number(r->done);
	put(" requests, ");
	put_number(r->failed);
	put(" failed, ");
	put_number(r->wrong);
	put(" wrong, ");
	put_number(r->q.kicks);
	put(" kicks, ");
	put_number(interrupts_seen());
	put(" interrupts, ");
	put_number(r->done ? spent / r->done : 0);
	put(" cycles a request\n");
}

/* What needs no device; the other end of the program's life. */
static void inspect(const struct start_info *si, const char *s, uint64_t end)
{
	bool cpuid = false, memory = false, good = true;

	for (; *s; s++) {
		cpuid |= is(s, "cpuid");
		memory |= is(s, "memory");
	}
	if (!cpuid && !memory)
		return;
	if (cpuid)
		good = inspect_cpuid();
	if (memory)
		good &= inspect_memory(si, end);
	put(good ? "bare: ok\n" : "bare: FAILED\n");
	leave(good ? EXIT_GOOD : EXIT_BAD);
}

void bare_main(const struct start_info *si);

void bare_main(const struct start_info *si)
{
	const char *words = si->command_line ? (const char *)(uintptr_t)si->command_line : "";
	static struct run r;
	static struct sl_err err;
	struct sl_link *l;
	uint64_t start, mapped;
	bool good;

	if (si->magic != START_INFO_MAGIC)
		leave(EXIT_BAD);
	mapped = map_high();
	inspect(si, words, mapped);
	parse(&r.t, words);
	l = r.t.mmio ? find_mmio(&r.t, &err) : find_pci(&r.t, &err);
	if (!l || !set_up(&r, l, &err)) {
		put("bare: FAILED: ");
		put(err.text);
		put("\n");
		leave(EXIT_BAD);
	}
	start = cycles();
	good = work(&r) && !r.failed && !r.wrong;
	report(&r, good, cycles() - start);
	l->ops->close(l);
	leave(good ? EXIT_GOOD : EXIT_BAD);
}
