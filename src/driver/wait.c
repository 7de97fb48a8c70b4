/* SPDX-License-Identifier: MIT */
/* wait.c - how a driver in user space sleeps until its device calls */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <sluice/link.h>

int sl_link_wait(struct sl_link *l, unsigned int index, struct sl_dq *dq, unsigned int *events, struct sl_err *err)
{
	struct pollfd p[] = {{.fd = l->ops->call_fd ? l->ops->call_fd(l, index) : -1, .events = POLLIN},
			     {.fd = l->ops->event_fd ? l->ops->event_fd(l) : -1, .events = POLLIN}};
	unsigned int seen = 0;
	uint64_t calls;

	if (events)
		*events = 0;
	if (p[0].fd < 0)
		return sl_err_set(err, EINVAL, "queue %u: cannot wait: there are no calls from a queue that is stopped", index);
	/* From here on the device calls; for what it did before it will not, so look again. */
	if (sl_dq_rearm(dq))
		return 0;
	if (sl_dq_broken(dq))
		return sl_err_set(err, EPROTO, "queue %u: %s", index, sl_dq_broken(dq));
	if (poll(p, 2, -1) < 0)
		return sl_err_set(err, errno, "queue %u: poll: %s", index, strerror(errno));
	if (p[1].revents && l->ops->events)
		seen = l->ops->events(l);
	if (events)
		*events = seen;
	/* What it used before it went is still there: only a queue without news is at its end. */
	if (seen & SL_LINK_GONE && !p[0].revents)
		return sl_err_set(err, EPIPE, "the device has gone");
	if (p[0].revents && read(p[0].fd, &calls, sizeof(calls)) < 0 && errno != EAGAIN)
		return sl_err_set(err, errno, "queue %u: call: %s", index, strerror(errno));
	return 0;
}
