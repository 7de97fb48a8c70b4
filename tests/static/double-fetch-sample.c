/* SPDX-License-Identifier: MIT */
/* double-fetch-sample.c - what the gate must find; never compiled.
 * A line that must be reported ends in "BAD".
 */
#include "ring/vq_impl.h"

struct header {
	uint32_t type, len;
};

int index_read_twice(struct sl_vq *vq)
{
	if (ring_load16(&vq->avail->idx) > vq->num)
		return -1;
	return ring_load16_acquire(&vq->avail->idx); /* BAD */
}

int descriptor_read_twice(struct sl_vq *vq, uint16_t i)
{
	struct wire_desc d = wire_fetch_desc(&vq->desc[i]);

	if (d.len > 16)
		return -1;
	d = wire_fetch_desc(&vq->desc[i]); /* BAD */
	return (int)d.len;
}

int head_read_twice(struct sl_vq *vq, uint16_t i)
{
	if (ring_load16(&vq->avail->ring[i]) >= vq->num)
		return -1;
	return ring_load16(&vq->avail->ring[i]); /* BAD */
}

int computed_index_read_twice(struct sl_vq *vq)
{
	if (ring_load16(&vq->avail->ring[vq->next_avail & (vq->num - 1)]) >= vq->num)
		return -1;
	return ring_load16(&vq->avail->ring[vq->next_avail & (vq->num - 1)]); /* BAD */
}

int bare_access(struct sl_vq *vq, uint16_t i)
{
	return (int)vq->desc[i].len; /* BAD */
}

int bare_index(struct sl_vq *vq)
{
	return vq->avail->idx; /* BAD */
}

int header_read_twice(const struct iovec *v)
{
	const struct header *h = v->iov_base;

	if (h->len > 16)
		return -1;
	return (int)h->len; /* BAD */
}

int good(struct sl_vq *vq, uint16_t i)
{
	struct wire_desc d = wire_fetch_desc(&vq->desc[i]);

	if (d.len > 16 || d.len < 2)
		return -1;
	i++;
	d = wire_fetch_desc(&vq->desc[i]);
	return (int)d.len;
}
