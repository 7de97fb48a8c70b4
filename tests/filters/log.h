/* SPDX-License-Identifier: MIT */
/* log.h - read the log of a record filter; of a host with this byte order */
#ifndef FILTERS_LOG_H
#define FILTERS_LOG_H

#include "block/record.h"
#include "t.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/** struct event - @data: of a write that was submitted */
struct event {
	const struct record *r;
	const unsigned char *data;
};

/** struct log - @events: in order, @n of them */
struct log {
	unsigned char *bytes;
	struct event *events;
	unsigned int n;
	uint64_t size;
	uint32_t block_size;
};

static inline void log_read(struct log *log, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	const struct record_header *h;
	struct stat st;
	size_t at = sizeof(struct record_header);

	REQUIRE(fd >= 0 && fstat(fd, &st) == 0);
	*log = (struct log){.bytes = malloc((size_t)st.st_size + 1)};
	log->events = calloc((size_t)st.st_size / sizeof(struct record) + 1, sizeof(struct event));
	REQUIRE(log->bytes && log->events && read(fd, log->bytes, (size_t)st.st_size) == st.st_size);
	close(fd);
	h = (const struct record_header *)(void *)log->bytes;
	REQUIRE((size_t)st.st_size >= sizeof(*h) && !memcmp(h->magic, RECORD_MAGIC, sizeof(h->magic)));
	log->size = h->size;
	log->block_size = h->block_size;
	while (at + sizeof(struct record) <= (size_t)st.st_size) {
		const struct record *r = (const struct record *)(void *)(log->bytes + at);

		if (!r->kind || at + sizeof(*r) + r->data > (size_t)st.st_size)
			break;
		log->events[log->n++] = (struct event){r, log->bytes + at + sizeof(*r)};
		at += sizeof(*r) + ((r->data + 7) & ~(uint64_t)7);
	}
}

static inline void log_free(struct log *log)
{
	free(log->bytes);
	free(log->events);
}

#endif
