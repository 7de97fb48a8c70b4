/* SPDX-License-Identifier: MIT */
/* negotiate.c - what every driver does first and last of its set-up, over any link (virtio 1.4, 3.1.1); freestanding */
#include <errno.h>

#include <sluice/link.h>

#include "driver/fail.h"

#define ACCEPTED (SL_STATUS_ACKNOWLEDGE | SL_STATUS_DRIVER | SL_STATUS_FEATURES_OK)

int sl_link_negotiate(struct sl_link *l, struct sl_features *f, struct sl_err *err)
{
	struct sl_features offered;
	int ret;

	ret = l->ops->status_set(l, 0, err);
	if (!ret)
		ret = l->ops->status_set(l, SL_STATUS_ACKNOWLEDGE | SL_STATUS_DRIVER, err);
	if (!ret)
		ret = l->ops->features(l, &offered, err);
	if (ret)
		return ret;
	for (unsigned int i = 0; i < SL_FEATURE_WORDS; i++)
		f->w[i] &= offered.w[i];
	if (!sl_features_has(f, SL_F_VERSION_1))
		return driver_fail(err, ENOTSUP, "features: the device does not offer VERSION_1");
	ret = l->ops->accept(l, f, err);
	if (!ret)
		ret = l->ops->status_set(l, ACCEPTED, err);
	if (!ret)
		ret = l->ops->status_get(l, err);
	if (ret >= 0 && !(ret & SL_STATUS_FEATURES_OK))
		return driver_fail(err, EPROTO, "features: the device refuses the choice");
	return ret < 0 ? ret : 0;
}

int sl_link_driver_ok(struct sl_link *l, struct sl_err *err)
{
	return l->ops->status_set(l, ACCEPTED | SL_STATUS_DRIVER_OK, err);
}
