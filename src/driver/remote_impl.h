/* SPDX-License-Identifier: MIT */
/* remote_impl.h - what remote.c, the device, and remote_keeper.c, its thread, know of each other */
#ifndef DRIVER_REMOTE_IMPL_H
#define DRIVER_REMOTE_IMPL_H

#include "driver/remote.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#define REMOTE_FIRST_RETRY_MS 10

/**
 * struct remote_queue
 *
 * Fixed:
 * @own_kick: kicks, where the transport has no descriptor for them
 * @relay_fd: calls that pass through this process; @relay waits for them on the data loop
 * @call:     the keeper's calls, on the data loop. The back-end has the descriptors for kicks and calls as well, and might
 *            have made them block; nobody here writes to one but by notify_peer()
 *
 * Under @lock; written by the control loop, but for @stopped and @fault:
 * @wanted:   it is to run
 * @used:     it has run since the last reset
 * @setup:    with the transport's descriptors, or -1
 * @call_turn: counts changes of @setup.call_fd
 * @mem:      where its ring is; the control loop's, counted, while wanted or not yet stopped
 * @asked:    sl_queue_stopped() is owed
 * @stopped:  ... and can be called
 * @fault:    why it cannot run; empty: nothing is wrong
 *
 * Keeper:
 * @running:  this connection's back-end has it
 * @failed:   it cannot run; nobody tries again until the driver stops it
 * @resumes:  an earlier back-end had it
 * @offered:  what the driver had made available when that one went away
 * @turn:     of the call descriptor that the back-end has
 * @kick_fd, @call_fd: copies of what the back-end has, -1: none
 */
struct remote_queue {
	struct remote *r;
	unsigned int index;
	int own_kick, relay_fd;
	struct sl_watch relay;
	struct sl_task call;

	bool wanted, used, asked, stopped;
	struct sl_queue_setup setup;
	unsigned int call_turn;
	struct sl_mem *mem;
	char fault[200];

	bool running, failed, resumes;
	uint16_t offered;
	unsigned int turn;
	int kick_fd, call_fd;
};

/**
 * struct remote
 * @ops:       the device's
 * @wake_fd:   there is news for the keeper; @quit_fd: it is to end, readable for good
 * @cut_fd:    a stop has waited long enough: readable while @cut
 * @cancel_fd: an epoll of @quit_fd, @cut_fd and, until the device is open, of the caller's interrupt_fd: ends waits
 * @known:     what the first back-end offered, and that is offered; @is_known: there was one
 * @initial:   its configuration
 * @poke:      control; writes @wake_fd at the end of a turn, when everything that belongs together is written down
 * @told:      control; takes what the keeper wrote down
 * @slow, @too_slow: control; a stop takes long; it takes as long as stop_timeout_ms
 *
 * Under @lock:
 * @accepted:  the driver's features
 * @epoch:     counts the driver's resets, from 1
 * @config:    as the driver sees it; written by the control loop
 * @written:   the driver wrote bytes of it, ever
 * @unsent:    ... which the back-end does not know
 * @news, @has_news: configuration that the back-end gave
 * @left:      the keeper has ended
 * @cut:       the connection is to be cut, to end the stops that are asked for
 *
 * Keeper:
 * @link:      NULL: there is no back-end; @present: there is one, atomic, for others
 * @begun:     the epoch this back-end was told of; 0: none
 * @region, @region_epoch: inflight region, and for which life of the driver; no region: @region.fd is -1
 * @warned:    ... which was said
 * @since:     when the link was made or lost; @away: how long there was none before
 * @next_try:  not before; @retry_ms: grows from one to the next
 * @why:       the last reason logged for having no back-end; empty: there is one
 */
struct remote {
	const struct remote_type *type;
	char *name, *path;
	struct sl_device *device;
	struct sl_device_ops ops;
	struct sl_features without;
	unsigned int timeout_ms, stop_timeout_ms;
	struct sl_loop *control;
	uint16_t num_queues, queue_size, config_len;
	bool own_config;
	int wake_fd, quit_fd, cut_fd, cancel_fd;
	struct sl_link_region regions[SL_LINK_MAX_REGIONS];
	unsigned int num_regions;
	struct sl_task poke, told;
	struct sl_timer slow, too_slow;
	pthread_t keeper;
	bool kept;

	pthread_mutex_t lock;
	struct sl_features accepted;
	unsigned int epoch;
	uint8_t initial[SL_DEVICE_MAX_CONFIG], config[SL_DEVICE_MAX_CONFIG], news[SL_DEVICE_MAX_CONFIG];
	bool written, unsent, has_news, left, cut;

	struct sl_link *link;
	struct sl_features known;
	bool is_known, present, warned;
	unsigned int begun, region_epoch, retry_ms;
	struct sl_link_inflight region;
	uint64_t since, away, next_try;
	struct sl_err why;
	struct remote_queue *queues;
};

static inline void remote_signal(int fd)
{
	static const uint64_t one = 1;

	while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/** remote_connect() - one attempt to have a back-end; 0, or -errno with @err filled when this one must never be used */
int remote_connect(struct remote *r, struct sl_err *err);
/** remote_next_try() - milliseconds until another attempt makes sense */
int remote_next_try(const struct remote *r);
/** remote_drop() - let go of the back-end */
void remote_drop(struct remote *r);
/** remote_keep() - the keeper, from its thread's start to end; @arg is the struct remote */
void *remote_keep(void *arg);

#endif
