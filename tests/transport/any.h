/* SPDX-License-Identifier: MIT */
/* any.h - any sequence of register accesses at all, made from bytes, with oracles.
 *
 * A run ends with a reset by the engine. Then the registers are as they were
 * at the start, guest memory is left alone, and an honest driver is served.
 * abort() is called when one of that is not so.
 */
#ifndef TRANSPORT_ANY_H
#define TRANSPORT_ANY_H

#include <stddef.h>
#include <stdint.h>

#include "transport/board.h"

/** any_run() - one run over a board of @kind; @data also chooses between modern and legacy */
void any_run(enum board_kind kind, const uint8_t *data, size_t size);
/** any_race() - from now on a thread rewrites the memory that rings are in */
void any_race(void);

#endif
