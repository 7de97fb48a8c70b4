/* SPDX-License-Identifier: MIT */
/* case.h - what the cases of the programs here share: one bed, one front-end, how most of them begin and end */
#ifndef VHOST_CASE_H
#define VHOST_CASE_H

#include "bed.h"
#include "t.h"

#define BIT30	(1ULL << SL_F_PROTOCOL_FEATURES)
#define LOG_ALL (1ULL << SL_F_LOG_ALL)
#define PACKED	(1ULL << SL_F_RING_PACKED)

static struct bed b;
static struct fe f;

/* A front-end that has agreed on @features and sent its memory. */
static inline void begin(uint64_t features)
{
	bed_open(&b, false);
	fe_connect(&f, &b);
	fe_hello(&f, features, FE_ALL_PROTOCOL);
	CHECK_EQ(fe_set_memory(&f), 0);
}

static inline void down(void)
{
	fe_close(&f);
	bed_close(&b);
}

#endif
