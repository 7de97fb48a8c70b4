// SPDX-License-Identifier: MIT
// double-fetch.cocci - memory that the other side can write is fetched once, and the copy is judged.
//
// 1. In one function the same place is not loaded twice through the helpers of ring/wire.h.
// 2. The shared parts of a queue are touched through those helpers only.
// 3. A pointer into guest memory is not dereferenced for the same field twice.
// Each hit is one line "FILE:LINE: what".

virtual report

// ---- 1: loads of the same place; an index or a pointer that changed in between makes it another place

@twice_member_of_entry@
identifier load =~ "^(ring_load|wire_fetch)";
identifier again =~ "^(ring_load|wire_fetch)";
expression array, i, other;
identifier member;
position p1, p2;
@@
 load@p1(&array[i].member)
 ... when != i = other
     when != i++
     when != ++i
     when != i--
     when != --i
 again@p2(&array[i].member)

@script:python@
p1 << twice_member_of_entry.p1;
p2 << twice_member_of_entry.p2;
@@
if p1[0].line != p2[0].line:
	print("%s:%s: fetched again, first in line %s" % (p2[0].file, p2[0].line, p1[0].line))

@twice_entry@
identifier load =~ "^(ring_load|wire_fetch)";
identifier again =~ "^(ring_load|wire_fetch)";
expression array, i, other;
position p1, p2;
@@
 load@p1(&array[i])
 ... when != i = other
     when != i++
     when != ++i
     when != i--
     when != --i
 again@p2(&array[i])

@script:python@
p1 << twice_entry.p1;
p2 << twice_entry.p2;
@@
if p1[0].line != p2[0].line:
	print("%s:%s: fetched again, first in line %s" % (p2[0].file, p2[0].line, p1[0].line))

@twice_field@
identifier load =~ "^(ring_load|wire_fetch)";
identifier again =~ "^(ring_load|wire_fetch)";
expression base, other;
identifier member;
position p1, p2;
@@
 load@p1(&base->member)
 ... when != base = other
 again@p2(&base->member)

@script:python@
p1 << twice_field.p1;
p2 << twice_field.p2;
@@
if p1[0].line != p2[0].line:
	print("%s:%s: fetched again, first in line %s" % (p2[0].file, p2[0].line, p1[0].line))

// ---- 2: no bare access

@address@
expression q, e;
identifier part =~ "^(desc|ring|avail|used|region_split|region_packed)$";
identifier member;
position p;
@@
(
 &q->part[e].member@p
|
 &q->part->member@p
|
 &q->part->member@p[e]
)

@bare@
struct sl_vq *vq;
struct sl_dq *dq;
expression e;
identifier part =~ "^(desc|ring|avail|used|region_split|region_packed)$";
identifier member;
position p != address.p;
@@
(
 vq->part[e].member@p
|
 vq->part->member@p
|
 dq->part[e].member@p
|
 dq->part->member@p
)

@script:python@
p << bare.p;
@@
print("%s:%s: shared memory touched without a helper" % (p[0].file, p[0].line))

// ---- 3: pointers into guest memory

@guest@
identifier ptr, member;
expression source, other;
position p1, p2;
@@
(
 ptr = <+... sl_mem_at(...) ...+>
|
 ptr = <+... sl_mem_range(...) ...+>
|
 ptr = <+... source.iov_base ...+>
|
 ptr = <+... source->iov_base ...+>
)
 ... when != ptr = other
 ptr->member@p1
 ... when != ptr = other
 ptr->member@p2

@script:python@
p1 << guest.p1;
p2 << guest.p2;
@@
if (p1[0].line, p1[0].column) != (p2[0].line, p2[0].column):
	print("%s:%s: guest memory read again, first in line %s" % (p2[0].file, p2[0].line, p1[0].line))
