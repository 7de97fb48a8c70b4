/* SPDX-License-Identifier: MIT */
/* fail.h - how the freestanding parts report an error: sl_err_set() needs a libc, a constant text does not */
#ifndef DRIVER_FAIL_H
#define DRIVER_FAIL_H

#include <stddef.h>

#include <sluice/error.h>

/** driver_fail() - put @text into @err, which may be NULL, and return -@errnum */
static inline int driver_fail(struct sl_err *err, int errnum, const char *text)
{
	size_t i = 0;

	if (err) {
		for (; text[i] && i < sizeof(err->text) - 1; i++)
			err->text[i] = text[i];
		err->text[i] = 0;
	}
	return -errnum;
}

#endif
