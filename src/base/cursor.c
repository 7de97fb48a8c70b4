/* SPDX-License-Identifier: MIT */
/* cursor.c - trimming and copying at the two ends of a scatter-gather list */
#include <sluice/cursor.h>

#include <string.h>

/* What to do with each piece at the front of the list. */
enum piece { PIECE_READ, PIECE_WRITE, PIECE_ZERO, PIECE_SKIP };

/* An entry at either end is used up: it gets its first address and length back for whoever reads the original list. */
static inline void drop_entry(struct sl_cursor *c, struct iovec *v)
{
	if (v == c->iov) {
		v->iov_base = (char *)v->iov_base - c->front_cut;
		v->iov_len += c->front_cut;
		c->front_cut = 0;
	}
	if (v == &c->iov[c->cnt - 1]) {
		v->iov_len += c->back_cut;
		c->back_cut = 0;
	}
	c->cnt--;
}

/* Walk @len bytes from the front and drop them; @buf is what the pieces are copied to or from. */
static inline size_t walk(struct sl_cursor *c, enum piece what, void *buf, const void *src, size_t len)
{
	size_t done = 0;

	if (len > c->bytes)
		len = c->bytes;
	while (done < len) {
		struct iovec *v = c->iov;
		size_t n = v->iov_len < len - done ? v->iov_len : len - done;

		switch (what) {
		case PIECE_READ:
			memcpy((char *)buf + done, v->iov_base, n);
			break;
		case PIECE_WRITE:
			memcpy(v->iov_base, (const char *)src + done, n);
			break;
		case PIECE_ZERO:
			memset(v->iov_base, 0, n);
			break;
		case PIECE_SKIP:
			break;
		}
		done += n;
		if (n == v->iov_len) {
			drop_entry(c, v);
			c->iov++;
		} else {
			v->iov_base = (char *)v->iov_base + n;
			v->iov_len -= n;
			c->front_cut += (uint32_t)n;
		}
	}
	c->bytes -= done;
	return done;
}

size_t sl_cursor_read(struct sl_cursor *c, void *dst, size_t len)
{
	return walk(c, PIECE_READ, dst, NULL, len);
}

size_t sl_cursor_write(struct sl_cursor *c, const void *src, size_t len)
{
	return walk(c, PIECE_WRITE, NULL, src, len);
}

size_t sl_cursor_zero(struct sl_cursor *c, size_t len)
{
	return walk(c, PIECE_ZERO, NULL, NULL, len);
}

size_t sl_cursor_skip(struct sl_cursor *c, size_t len)
{
	return walk(c, PIECE_SKIP, NULL, NULL, len);
}

uint8_t *sl_cursor_last_byte(struct sl_cursor *c)
{
	struct iovec *v;
	uint8_t *p;

	if (!c->cnt)
		return NULL;
	v = &c->iov[c->cnt - 1];
	p = (uint8_t *)v->iov_base + v->iov_len - 1;
	c->bytes--;
	v->iov_len--;
	c->back_cut++;
	if (!v->iov_len)
		drop_entry(c, v);
	return p;
}
