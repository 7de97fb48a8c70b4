/* SPDX-License-Identifier: MIT */
/* kvm_probe.h - how fast does KVM run guest code here? */
#ifndef MACHINE_KVM_PROBE_H
#define MACHINE_KVM_PROBE_H

#include <stdint.h>

#include <sluice/error.h>

/*
 * Instructions a second below which KVM is no hardware. An interpreter in the
 * kernel makes one to five millions; hardware makes hundreds of millions, and
 * even a KVM inside an emulated processor makes some tens, although here most
 * of its time goes into entering the guest.
 */
#define KVM_PROBE_FAST 20000000ULL

/** kvm_probe() - run a small loop for some ms: instructions a second in *@rate; 0, or -errno with @err saying what to do */
int kvm_probe(uint64_t *rate, struct sl_err *err);

#endif
