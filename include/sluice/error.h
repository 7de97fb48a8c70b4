/* SPDX-License-Identifier: MIT */
/* error.h - how sluice reports what went wrong.
 *
 * Functions on the data path return 0, 1 or -errno and never a text. Functions
 * that open or configure something take a `struct sl_err *` (NULL allowed) and
 * put one line there: "WHERE: WHAT: WHY", without the program's name and
 * without a newline. They still return -errno.
 */
#ifndef SLUICE_ERROR_H
#define SLUICE_ERROR_H

#include <stdarg.h>
#include <stdint.h>

/* SL_API stands before every function of the library: it exports the symbol and, in C++, gives it its C name. */
#ifdef __cplusplus
#define SL_API extern "C" __attribute__((visibility("default")))
#else
#define SL_API __attribute__((visibility("default")))
#endif
#define SL_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/**
 * struct sl_err - one line of text about a failed open or configure call
 * @text: the line, always terminated; empty when nothing failed
 */
struct sl_err {
	char text[512];
};

/**
 * sl_err_set() - fill @err and return -@errnum, so that callers write
 *                `return sl_err_set(err, EINVAL, "...")`
 * @err:    where to put the text, or NULL
 * @errnum: a positive errno value
 * @fmt:    printf format of the line
 */
SL_API int sl_err_set(struct sl_err *err, int errnum, const char *fmt, ...) SL_PRINTF(3, 4);

#endif
