/* SPDX-License-Identifier: MIT */
/* record.h - the file that the record filter writes; docs/record.md explains it.
 *
 * A header, then records. All numbers are little endian. A record that begins
 * with zero, or that the file is too short for, is where the log ends.
 */
#ifndef BLOCK_RECORD_H
#define BLOCK_RECORD_H

#include <stdint.h>

#define RECORD_MAGIC "sluice record 1\n" /* 16 bytes, without a zero */

enum record_kind { RECORD_END, RECORD_SUBMITTED, RECORD_DONE };

/** struct record_header - @size: of the disk, bytes */
struct record_header {
	char magic[16];
	uint64_t size;
	uint32_t block_size, zero;
	uint64_t reserved[4];
};

/**
 * struct record
 * @kind:   enum record_kind
 * @op:     enum block_op: 1 write, 2 flush, 3 discard, 4 write-zeroes, 5 secure-erase
 * @flags:  enum block_flag
 * @result: RECORD_DONE: 0 or -errno
 * @id:     the same in both records of a request
 * @time:   CLOCK_MONOTONIC, ns
 * @offset, @len: bytes of the disk
 * @data:   bytes that follow this record: RECORD_SUBMITTED of a write: @len. Filled up to a multiple of 8
 */
struct record {
	uint8_t kind, op;
	uint16_t flags;
	int32_t result;
	uint64_t id, time, offset, len, data;
};

_Static_assert(sizeof(struct record_header) == 64 && sizeof(struct record) == 48, "sizes in the file");

#endif
