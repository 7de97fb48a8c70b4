/* SPDX-License-Identifier: MIT */
/* file.h - private to file.c (requests) and file_open.c (opening) */
#ifndef BLOCK_FILE_H
#define BLOCK_FILE_H

#include "block/block.h"

/**
 * struct file - an open file or block device
 * @direct:     O_DIRECT: the kernel moves data past the page cache
 * @durable:    cache=writethrough: each change is durable when done
 * @is_device:  a block device
 * @mem_align:  direct: alignment of memory, a power of two
 * @dio_align:  direct: alignment of offsets and lengths, a power of two not larger than info.block_size
 * @zeroes:     FILE_ZEROES bytes that read as zero and take no memory
 */
struct file {
	struct block b;
	int fd;
	bool direct, durable, is_device;
	uint32_t mem_align, dio_align;
	void *zeroes;
};

#define FILE_ZEROES (1u << 20)

extern const struct block_ops file_ops;

/** file_size() - bytes of an open file or device; 0 or -errno */
int file_size(int fd, bool is_device, uint64_t *size);

#endif
