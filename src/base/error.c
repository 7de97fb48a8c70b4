/* SPDX-License-Identifier: MIT */
/* error.c - the one line a failed open or configure call leaves behind */
#include <sluice/error.h>

#include <stdio.h>

int sl_err_set(struct sl_err *err, int errnum, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		va_start(ap, fmt);
		vsnprintf(err->text, sizeof(err->text), fmt, ap);
		va_end(ap);
	}
	return -errnum;
}
