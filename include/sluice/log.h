/* SPDX-License-Identifier: MIT */
/* log.h - lines on standard error, or wherever the embedding program wants them.
 *
 * Any thread may log. Lines that a guest or a peer can provoke go through a
 * `struct sl_log_limit`, so that nobody floods the log.
 */
#ifndef SLUICE_LOG_H
#define SLUICE_LOG_H

#include <sluice/error.h>

enum sl_log_level { SL_LOG_ERROR, SL_LOG_WARN, SL_LOG_INFO, SL_LOG_DEBUG };

/**
 * sl_log_to() - send log lines to @fn instead of standard error
 * @fn:    called with a complete line without newline, from any thread; NULL restores standard error
 * @arg:   handed to @fn
 * @level: lines above this level are dropped (the default is SL_LOG_INFO)
 *
 * Call it before other threads of sluice run.
 */
SL_API void sl_log_to(void (*fn)(void *arg, enum sl_log_level level, const char *line), void *arg,
		      enum sl_log_level level);

/** sl_log() - log one line (no newline in @fmt) */
SL_API void sl_log(enum sl_log_level level, const char *fmt, ...) SL_PRINTF(2, 3);

/**
 * struct sl_log_limit - at most one burst of lines in each period, per place
 * @window:     start of the current period, CLOCK_MONOTONIC nanoseconds
 * @count:      lines in the current period
 * @suppressed: lines dropped since the last one that was written
 *
 * Zero it before use. Belongs to one thread.
 */
struct sl_log_limit {
	uint64_t window;
	unsigned int count;
	unsigned int suppressed;
};

/** sl_log_limited() - like sl_log(), at most 5 lines in 10 seconds for one @limit */
SL_API void sl_log_limited(struct sl_log_limit *limit, enum sl_log_level level, const char *fmt, ...)
	SL_PRINTF(3, 4);

#endif
