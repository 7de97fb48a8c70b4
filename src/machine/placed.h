/* SPDX-License-Identifier: MIT */
/* placed.h - devices of engine kvm that another process serves over vhost-user
 */
#ifndef MACHINE_PLACED_H
#define MACHINE_PLACED_H

#include "driver/remote.h"
#include "machine/engine.h"

/**
 * placed_open() - wait for the back-end at socket= and become its device
 * @interrupt_fd: readable: somebody wants this to end
 *
 * Fills @d->type and @d->remote. Return: 0 or -errno with @err filled.
 */
int placed_open(struct machine_device *d, const struct device_env *env, int interrupt_fd, struct sl_err *err);

#endif
