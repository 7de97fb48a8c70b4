/* SPDX-License-Identifier: MIT */
/* hugepages.h - guest memory in pages of 2 MiB from the kernel's pool */
#ifndef MACHINE_HUGEPAGES_H
#define MACHINE_HUGEPAGES_H

#include <stdint.h>

#include <sluice/error.h>

#define HUGEPAGE (2ULL << 20)

/** hugepages_check() - are there enough free ones for @memory bytes? 0, or -errno with @err saying how to get more */
int hugepages_check(uint64_t memory, struct sl_err *err);
/** hugepages_reserve() - set @memory bytes aside for the memfd @fd of MFD_HUGETLB, so that no access fails later */
int hugepages_reserve(int fd, uint64_t memory, struct sl_err *err);

#endif
