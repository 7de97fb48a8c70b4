/* SPDX-License-Identifier: MIT */
/* cursor.h - what is left of a scatter-gather list.
 *
 * A cursor is a view on an iovec array that it may trim in place: the first
 * entry loses its front, the last one its back, entries between are never
 * touched. @front_cut and @back_cut remember how much the entries now first
 * and last have lost, so that the original list can be recovered (the dirty
 * log needs it). Entries never have length 0.
 *
 * The memory behind the entries is shared with a guest: copy once, judge the copy.
 */
#ifndef SLUICE_CURSOR_H
#define SLUICE_CURSOR_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <sluice/error.h>

/**
 * struct sl_cursor
 * @iov:       first entry that is left
 * @cnt:       entries left
 * @front_cut: bytes cut from the front of iov[0]
 * @back_cut:  bytes cut from the back of iov[cnt - 1]
 * @bytes:     sum of the lengths that are left
 */
struct sl_cursor {
	struct iovec *iov;
	uint32_t cnt;
	uint32_t front_cut;
	uint32_t back_cut;
	size_t bytes;
};

/** sl_cursor_read() - copy up to @len bytes out of the front and drop them; returns the bytes copied */
SL_API size_t sl_cursor_read(struct sl_cursor *c, void *dst, size_t len);
/** sl_cursor_write() - copy up to @len bytes into the front and drop them; returns the bytes copied */
SL_API size_t sl_cursor_write(struct sl_cursor *c, const void *src, size_t len);
/** sl_cursor_zero() - write up to @len zero bytes to the front and drop them; returns the bytes written */
SL_API size_t sl_cursor_zero(struct sl_cursor *c, size_t len);
/** sl_cursor_skip() - drop up to @len bytes from the front; returns the bytes dropped */
SL_API size_t sl_cursor_skip(struct sl_cursor *c, size_t len);
/** sl_cursor_last_byte() - cut the last byte off and return where it is, or NULL when nothing is left */
SL_API uint8_t *sl_cursor_last_byte(struct sl_cursor *c);

#endif
