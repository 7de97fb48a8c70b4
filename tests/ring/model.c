/* SPDX-License-Identifier: MIT */
/* model.c - the reference model of both ring formats; section numbers are of virtio 1.4 */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NEXT = 1, WRITE = 2, INDIRECT = 4, AVAIL = 1 << 7, USED = 1 << 15 };

static void die(const char *what)
{
	fprintf(stderr, "model: %s\n", what);
	abort();
}

static unsigned int get16(const unsigned char *p)
{
	return p[0] | p[1] << 8;
}

static uint32_t get32(const unsigned char *p)
{
	return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const unsigned char *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static void put16(unsigned char *p, unsigned int v)
{
	p[0] = (unsigned char)v;
	p[1] = (unsigned char)(v >> 8);
}

static void put32(unsigned char *p, uint32_t v)
{
	put16(p, v & 0xffff);
	put16(p + 2, v >> 16);
}

static void put64(unsigned char *p, uint64_t v)
{
	put32(p, (uint32_t)v);
	put32(p + 4, (uint32_t)(v >> 32));
}

static unsigned char *at(const struct model_ring *r, uint64_t gpa)
{
	return r->guest + (gpa - r->guest_base);
}

static void step(const struct model_ring *r, struct model_place *p)
{
	if (!r->packed) {
		p->index = (p->index + 1) & 0xffff;
	} else if (++p->index == r->num) {
		p->index = 0;
		p->wrap = !p->wrap;
	}
}

static bool same(struct model_place a, struct model_place b)
{
	return a.index == b.index && a.wrap == b.wrap;
}

/* 2.7.7, 2.7.10 (split) and 2.8.10, 2.8.13 (packed): the event names one place of which the other side wants to hear.
 */
static bool wants(const struct model_ring *r, unsigned int flag, struct model_place event, bool all,
		  struct model_place from, struct model_place to)
{
	if (all)
		return !flag;
	for (; !same(from, to); step(r, &from))
		if (same(from, event))
			return true;
	return false;
}

static bool wants_packed(const struct model_ring *r, const unsigned char *area, struct model_place from,
			 struct model_place to)
{
	unsigned int flags = get16(area + 2) & 3, desc = get16(area);
	struct model_place event = {desc & 0x7fff, desc >> 15};

	return wants(r, flags == 1, event, flags != 2, from, to);
}

bool model_wants_call(const struct model_ring *r, struct model_place from, struct model_place to)
{
	struct model_place event = {0};

	if (r->packed)
		return wants_packed(r, r->driver, from, to);
	event.index = get16(r->driver + 4 + 2 * r->num);
	return wants(r, get16(r->driver) & 1, event, !r->event_idx, from, to);
}

bool model_wants_kick(const struct model_ring *r, struct model_place from, struct model_place to)
{
	struct model_place event = {0};

	if (r->packed)
		return wants_packed(r, r->device, from, to);
	event.index = get16(r->device + 4 + 8 * r->num);
	return wants(r, get16(r->device) & 1, event, !r->event_idx, from, to);
}

/* ---- device ---- */

void model_device_init(struct model_device *d, const struct model_ring *r, uint32_t base)
{
	*d = (struct model_device){.r = *r, .expect = -1};
	if (r->packed) {
		d->avail = (struct model_place){base & 0x7fff, base >> 15 & 1};
		d->used = (struct model_place){base >> 16 & 0x7fff, base >> 31};
	} else {
		d->avail.index = base & 0xffff;
		d->used.index = get16(r->device + 2);
	}
}

uint32_t model_device_base(const struct model_device *d)
{
	if (!d->r.packed)
		return d->avail.index;
	return d->avail.index | (uint32_t)d->avail.wrap << 15 | d->used.index << 16 | (uint32_t)d->used.wrap << 31;
}

bool model_device_pending(const struct model_device *d)
{
	unsigned int flags;

	if (!d->r.packed)
		return get16(d->r.driver + 2) != d->avail.index;
	flags = get16(d->r.desc + 16 * d->avail.index + 14);
	return !!(flags & AVAIL) == d->avail.wrap && !!(flags & USED) != d->avail.wrap;
}

static void add_piece(struct model_chain *c, const unsigned char *desc, unsigned int flags)
{
	if (c->out + c->in == MODEL_PIECES)
		die("chain too long");
	c->piece[c->out + c->in] = (struct model_piece){get64(desc), get32(desc + 8)};
	if (flags & WRITE)
		c->in++;
	else if (c->in)
		die("readable after writable");
	else
		c->out++;
}

static void pop_split(struct model_device *d, struct model_chain *c)
{
	const unsigned char *table = d->r.desc;
	unsigned int i = get16(d->r.driver + 4 + 2 * (d->avail.index % d->r.num));

	c->id = i;
	c->slots = 1;
	for (;;) {
		const unsigned char *desc = table + 16 * i;
		unsigned int flags = get16(desc + 12);

		if (table == d->r.desc && d->r.in_order) {
			if (d->expect >= 0 && (unsigned int)d->expect != i)
				die("descriptors are not in ring order");
			d->expect = (int)((i + 1) % d->r.num);
		}
		if (flags & INDIRECT) {
			table = at(&d->r, get64(desc));
			i = 0;
			continue;
		}
		add_piece(c, desc, flags);
		if (!(flags & NEXT))
			break;
		i = get16(desc + 14);
	}
	step(&d->r, &d->avail);
}

static void pop_packed(struct model_device *d, struct model_chain *c)
{
	for (;;) {
		const unsigned char *desc = d->r.desc + 16 * d->avail.index;
		unsigned int flags = get16(desc + 14);

		c->slots++;
		c->id = get16(desc + 12);
		step(&d->r, &d->avail);
		if (flags & INDIRECT) {
			const unsigned char *table = at(&d->r, get64(desc));

			for (uint32_t i = 0; i < get32(desc + 8) / 16; i++)
				add_piece(c, table + 16 * i, get16(table + 16 * i + 14));
			return;
		}
		add_piece(c, desc, flags);
		if (!(flags & NEXT))
			return;
	}
}

bool model_device_pop(struct model_device *d, struct model_chain *c)
{
	if (!model_device_pending(d))
		return false;
	memset(c, 0, sizeof(*c));
	if (d->r.packed)
		pop_packed(d, c);
	else
		pop_split(d, c);
	return true;
}

static void write_used(struct model_device *d, struct model_place p, const struct model_used *u)
{
	unsigned char *e;

	if (!d->r.packed) {
		e = d->r.device + 4 + 8 * (p.index % d->r.num);
		put32(e, u->id);
		put32(e + 4, u->len);
		return;
	}
	e = d->r.desc + 16 * p.index;
	put32(e + 8, u->len);
	put16(e + 12, u->id);
	put16(e + 14, (u->len ? WRITE : 0) | (p.wrap ? AVAIL | USED : 0));
}

bool model_device_use(struct model_device *d, const struct model_used *u, unsigned int n, bool batch)
{
	struct model_place from = d->used;

	for (unsigned int i = 0; i < n; i++) {
		if (!batch)
			write_used(d, d->used, &u[i]);
		for (unsigned int k = 0; k < (d->r.packed ? u[i].slots : 1); k++)
			step(&d->r, &d->used);
	}
	if (batch)
		write_used(d, from, &u[n - 1]);
	if (!d->r.packed)
		put16(d->r.device + 2, d->used.index);
	return model_wants_call(&d->r, from, d->used);
}

void model_device_events(struct model_device *d, bool on)
{
	if (d->r.packed) {
		put16(d->r.device, d->avail.index | d->avail.wrap << 15);
		put16(d->r.device + 2, !on ? 1 : d->r.event_idx ? 2 : 0);
	} else if (d->r.event_idx) {
		if (on)
			put16(d->r.device + 4 + 8 * d->r.num, d->avail.index);
	} else {
		put16(d->r.device, !on);
	}
}

/* ---- driver ---- */

void model_driver_init(struct model_driver *d, const struct model_ring *r, uint64_t tables)
{
	*d = (struct model_driver){.r = *r, .free = r->num, .tables = tables};
	if (r->packed)
		d->avail.wrap = d->used.wrap = d->published.wrap = true;
	d->busy = calloc(r->num, 1);
	d->owner = calloc(r->num, sizeof(*d->owner));
	if (!d->busy || !d->owner)
		die("out of memory");
}

void model_driver_free(struct model_driver *d)
{
	free(d->busy);
	free(d->owner);
}

/* In ring order, as IN_ORDER wants it (2.7.9). */
static unsigned int take(struct model_driver *d)
{
	unsigned int i;

	while (d->busy[d->next])
		d->next = (d->next + 1) % d->r.num;
	i = d->next;
	d->busy[i] = 1;
	d->next = (d->next + 1) % d->r.num;
	return i;
}

static void put_desc(const struct model_driver *d, unsigned char *p, struct model_piece b, unsigned int flags,
		     unsigned int next_or_id)
{
	put64(p, b.addr);
	put32(p + 8, b.len);
	put16(p + (d->r.packed ? 14 : 12), flags);
	put16(p + (d->r.packed ? 12 : 14), next_or_id);
}

static void put_ring(struct model_driver *d, struct model_piece b, unsigned int flags, unsigned int id)
{
	unsigned int old = get16(d->r.desc + 16 * d->avail.index + 14);

	flags |= d->avail.wrap ? AVAIL : USED;
	/* the first one becomes available last of all (2.8.15.1) */
	put_desc(d, d->r.desc + 16 * d->avail.index, b, d->first_pending ? flags : old, id);
	if (!d->first_pending) {
		d->first_slot = d->avail.index;
		d->first_flags = flags;
		d->first_pending = true;
	}
	step(&d->r, &d->avail);
}

static struct model_piece put_table(struct model_driver *d, const struct model_chain *c, unsigned int which)
{
	unsigned int n = c->out + c->in;
	uint64_t gpa = d->tables + 16ULL * MODEL_PIECES * which;

	for (unsigned int i = 0; i < n; i++) {
		unsigned int flags = i < c->out ? 0 : WRITE;

		if (!d->r.packed && i + 1 < n)
			flags |= NEXT;
		put_desc(d, at(&d->r, gpa) + 16 * i, c->piece[i], flags, d->r.packed || i + 1 == n ? 0 : i + 1);
	}
	return (struct model_piece){gpa, 16 * n};
}

bool model_driver_add(struct model_driver *d, const struct model_chain *c, bool indirect, int request)
{
	unsigned int n = c->out + c->in, slots = indirect ? 1 : n, id;
	struct model_owner *o;

	if (slots > d->free)
		return false;
	id = take(d);
	o = &d->owner[id];
	o->request = request;
	o->slots = slots;
	o->descs[0] = (unsigned short)id;
	for (unsigned int i = 1; i < slots && !d->r.packed; i++)
		o->descs[i] = (unsigned short)take(d);
	d->free -= slots;
	for (unsigned int i = 0; i < slots; i++) {
		struct model_piece b = indirect ? put_table(d, c, id) : c->piece[i];
		unsigned int flags = indirect ? INDIRECT : (i < c->out ? 0 : WRITE) | (i + 1 < n ? NEXT : 0);

		if (d->r.packed)
			put_ring(d, b, flags, id);
		else
			put_desc(d, d->r.desc + 16 * o->descs[i], b, flags, i + 1 < slots ? o->descs[i + 1] : 0);
	}
	if (!d->r.packed) {
		put16(d->r.driver + 4 + 2 * (d->avail.index % d->r.num), id);
		step(&d->r, &d->avail);
	}
	return true;
}

bool model_driver_publish(struct model_driver *d)
{
	struct model_place from = d->published;

	if (same(from, d->avail) && !d->first_pending)
		return false;
	if (d->r.packed)
		put16(d->r.desc + 16 * d->first_slot + 14, d->first_flags);
	else
		put16(d->r.driver + 2, d->avail.index);
	d->first_pending = false;
	d->published = d->avail;
	return model_wants_kick(&d->r, from, d->avail);
}

bool model_driver_pending(const struct model_driver *d)
{
	unsigned int flags;

	if (!d->r.packed)
		return get16(d->r.device + 2) != d->used.index;
	flags = get16(d->r.desc + 16 * d->used.index + 14);
	return !!(flags & AVAIL) == d->used.wrap && !!(flags & USED) == d->used.wrap;
}

int model_driver_get(struct model_driver *d, uint32_t *len)
{
	const unsigned char *e;
	struct model_owner *o;
	unsigned int id;

	if (!model_driver_pending(d))
		return -1;
	if (d->r.packed) {
		e = d->r.desc + 16 * d->used.index;
		id = get16(e + 12);
		*len = get32(e + 8);
	} else {
		e = d->r.device + 4 + 8 * (d->used.index % d->r.num);
		id = get32(e);
		*len = get32(e + 4);
	}
	if (id >= d->r.num || !d->busy[id])
		die("the device used something that is not outstanding");
	o = &d->owner[id];
	d->free += o->slots;
	for (unsigned int i = 0; i < (d->r.packed ? 1 : o->slots); i++)
		d->busy[o->descs[i]] = 0;
	for (unsigned int i = 0; i < (d->r.packed ? o->slots : 1); i++)
		step(&d->r, &d->used);
	return o->request;
}

void model_driver_events(struct model_driver *d, bool on)
{
	if (d->r.packed) {
		put16(d->r.driver, d->used.index | d->used.wrap << 15);
		put16(d->r.driver + 2, !on ? 1 : d->r.event_idx ? 2 : 0);
	} else if (d->r.event_idx) {
		if (on)
			put16(d->r.driver + 4 + 2 * d->r.num, d->used.index);
	} else {
		put16(d->r.driver, !on);
	}
}
