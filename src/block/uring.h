/* SPDX-License-Identifier: MIT */
/* uring.h - one io_uring for each loop, shared by all sources on it */
#ifndef BLOCK_URING_H
#define BLOCK_URING_H

#include <liburing.h>
#include <sluice/error.h>
#include <sluice/loop.h>

struct uring;

/**
 * struct uring_op - one operation; lives in the caller's slot until done()
 * @prepare: fill @sqe (all but user_data); called once for each uring_submit(), at once or when there is room.
 *           What @sqe points to must stay valid until done()
 * @done:    @res is what the system call would have returned, or -errno; called from uring_commit() or later,
 *           on the loop; may submit again
 */
struct uring_op {
	void (*prepare)(struct uring_op *op, struct io_uring_sqe *sqe);
	void (*done)(struct uring_op *op, int res);
	struct uring_op *next;
};

/** uring_probe() - may this process have an io_uring? 0 or -errno with @err filled; @who starts the text */
int uring_probe(const char *who, struct sl_err *err);
/** uring_of() - the loop's ring, made when there is none yet; NULL with @err filled */
struct uring *uring_of(struct sl_loop *loop, struct sl_err *err);
/** uring_submit() - stage @op, or queue it behind those that wait for room */
void uring_submit(struct uring *u, struct uring_op *op);
/** uring_commit() - hand what is staged to the kernel in one call and take what is done already */
void uring_commit(struct uring *u);

#endif
