/* SPDX-License-Identifier: MIT */
/* qemu.c - the engine whose CPU is QEMU's TCG
 *
 * QEMU runs without any device of its own but a board and a serial port. Each
 * device of ours is the other end of a socket pair, so nothing is left behind
 * in a file system. A second pair carries QMP: its exit status is 0 for a
 * guest that switched itself off and for one that crashed alike, and only the
 * event SHUTDOWN tells them apart.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine/engine.h"

#define PROGRAM "qemu-system-x86_64"
#define MAX_QUEUE_SIZE 256 /* what the guest may ask of a queue; QEMU's own limit is 1024 */
#define MIB (1ULL << 20)

/* linux/Documentation/x86/boot.rst, "The Real-Mode Kernel Header" */
#define BZIMAGE_MAGIC "HdrS"
#define BZIMAGE_MAGIC_OFFSET 0x202

/* QEMU's vhost-user front-ends, by virtio device id */
static const struct {
	uint16_t id;
	const char *driver;
} drivers[] = {
	{2, "vhost-user-blk-pci"},
};

/**
 * struct qemu - the engine's state
 * @qmp:   our end of the monitor, non-blocking
 * @watch: on @qmp
 * @fds:   QEMU's ends
 * @line:  what was read from @qmp and does not make a line yet, @len bytes
 * @end:   why QEMU shut down, as it says; empty: not heard
 */
struct qemu {
	int qmp;
	struct sl_watch watch;
	int fds[CHILD_MAX_FDS];
	unsigned int num_fds;
	size_t len;
	char line[4096];
	char end[32];
};

static const char *driver_of(uint16_t id)
{
	for (size_t i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++)
		if (drivers[i].id == id)
			return drivers[i].driver;
	return NULL;
}

static bool qemu_hosts(uint16_t id)
{
	return driver_of(id) != NULL;
}

static int qemu_check(const struct machine_options *o, struct sl_err *err)
{
	int ret;

	if (!machine_in_path(PROGRAM))
		return sl_err_set(err, ENOENT, "engine qemu: %s is not there; type: sudo apt-get install "
				  "qemu-system-x86", PROGRAM);
	if (o->num_devices + 1 > CHILD_MAX_FDS)
		return sl_err_set(err, E2BIG, "engine qemu: %u devices are too many", o->num_devices);
	ret = machine_check_file("--kernel", o->kernel, BZIMAGE_MAGIC, BZIMAGE_MAGIC_OFFSET, "Linux kernel (bzImage)",
				 err);
	if (!ret && o->initrd)
		ret = machine_check_file("--initrd", o->initrd, "", 0, "", err);
	return ret;
}

/* One end of a new socket pair is kept for QEMU, the other one returned. */
static int pair_with_qemu(struct qemu *q, int *theirs)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv))
		return -errno;
	q->fds[q->num_fds++] = *theirs = sv[1];
	return sv[0];
}

/* ---- the monitor ---- */

static void qmp_line(struct qemu *q, const char *line)
{
	static const char hello[] = "{\"execute\": \"qmp_capabilities\"}\n";
	json_t *msg = json_loads(line, 0, NULL);
	const char *event = json_string_value(json_object_get(msg, "event"));

	if (json_object_get(msg, "QMP") && write(q->qmp, hello, sizeof(hello) - 1) < 0)
		sl_log(SL_LOG_WARN, "run: QEMU's monitor: %s", strerror(errno));
	if (event && !strcmp(event, "SHUTDOWN")) {
		const char *reason = json_string_value(json_object_get(json_object_get(msg, "data"), "reason"));

		snprintf(q->end, sizeof(q->end), "%s", reason ? reason : "unknown");
	}
	json_decref(msg);
}

static void qmp_read(void *arg, uint32_t events)
{
	struct qemu *q = arg;
	char *nl;
	ssize_t n;

	(void)events;
	while ((n = read(q->qmp, q->line + q->len, sizeof(q->line) - 1 - q->len)) > 0) {
		q->len += (size_t)n;
		q->line[q->len] = '\0';
		while ((nl = strchr(q->line, '\n'))) {
			*nl = '\0';
			qmp_line(q, q->line);
			q->len -= (size_t)(nl + 1 - q->line);
			memmove(q->line, nl + 1, q->len + 1);
		}
		if (q->len == sizeof(q->line) - 1) /* longer than any event we want */
			q->len = 0;
	}
	if (n == 0 || errno != EAGAIN)
		sl_watch_del(&q->watch);
}

static int add_monitor(struct machine *m, struct qemu *q, struct child_argv *a)
{
	int theirs, ret;

	q->qmp = pair_with_qemu(q, &theirs);
	if (q->qmp < 0)
		return q->qmp;
	fcntl(q->qmp, F_SETFL, O_NONBLOCK);
	q->watch = (struct sl_watch){.fn = qmp_read, .arg = q};
	ret = sl_watch_add(m->control, &q->watch, q->qmp, EPOLLIN);
	child_arg(a, "-chardev");
	child_arg(a, "socket,id=qmp,fd=%d", theirs);
	child_arg(a, "-mon");
	child_arg(a, "chardev=qmp,mode=control");
	return ret;
}

/* ---- the command line ---- */

static void add_board(const struct machine_options *o, struct child_argv *a)
{
	static const char *const fixed[] = {
		PROGRAM, "-name", "sluice", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", "tcg", "-cpu", "max", "-machine", "q35,memory-backend=ram", "-serial", "stdio",
	};

	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		child_arg(a, "%s", fixed[i]);
	child_arg(a, "-m");
	child_arg(a, "%lluM", (unsigned long long)(o->memory / MIB));
	child_arg(a, "-object");
	child_arg(a, "memory-backend-memfd,id=ram,share=on,size=%lluM%s", (unsigned long long)(o->memory / MIB),
		  o->hugepages ? ",hugetlb=on,hugetlbsize=2M" : "");
	child_arg(a, "-smp");
	child_arg(a, "%u", o->cpus);
	child_arg(a, "-kernel");
	child_arg(a, "%s", o->kernel);
	if (o->initrd) {
		child_arg(a, "-initrd");
		child_arg(a, "%s", o->initrd);
	}
	/* An emulated machine that hardly gets to run takes its timer for a broken one, and panics. */
	child_arg(a, "-append");
	child_arg(a, "console=ttyS0 panic=-1 no_timer_check%s%s", o->append ? " " : "", o->append ? o->append : "");
}

/* In QEMU's options a comma is written twice. */
static char *escaped(const char *text)
{
	char *out = malloc(2 * strlen(text) + 1), *p = out;

	for (; out && *text; *p++ = *text++)
		if (*text == ',')
			*p++ = ',';
	if (out)
		*p = '\0';
	return out;
}

static int add_chardev(struct qemu *q, struct machine_device *d, unsigned int index, struct child_argv *a,
		       struct sl_err *err)
{
	int ours, theirs, ret;

	child_arg(a, "-chardev");
	if (!d->served) {
		char *path = escaped(d->place.socket);

		child_arg(a, "socket,id=c%u,path=%s", index, path ? path : "");
		free(path);
		return path ? 0 : sl_err_set(err, ENOMEM, "out of memory");
	}
	ours = pair_with_qemu(q, &theirs);
	if (ours < 0)
		return sl_err_set(err, -ours, "socket: %s", strerror(-ours));
	child_arg(a, "socket,id=c%u,fd=%d", index, theirs);
	ret = machine_serve(d, NULL, ours, err);
	if (ret)
		close(ours);
	return ret;
}

static unsigned int power_of_two_below(unsigned int n)
{
	while (n & (n - 1))
		n &= n - 1;
	return n;
}

static int add_device(struct machine *m, struct qemu *q, unsigned int index, struct child_argv *a, struct sl_err *err)
{
	struct machine_device *d = &m->devices[index];
	unsigned int queues = (unsigned int)d->place.queues, size = MAX_QUEUE_SIZE;
	int ret = add_chardev(q, d, index, a, err);

	if (queues > m->options->cpus) /* Linux uses no more */
		queues = m->options->cpus;
	if (d->served && sl_device_max_queue_size(d->served->dev) < size)
		size = power_of_two_below(sl_device_max_queue_size(d->served->dev));
	child_arg(a, "-device");
	child_arg(a, "%s,chardev=c%u,num-queues=%u,queue-size=%u,packed=%s", driver_of(d->type->id), index, queues,
		  size, d->place.packed ? "on" : "off");
	return ret;
}

static int qemu_start(struct machine *m, int console, struct sl_err *err)
{
	struct child_argv a = {0};
	struct qemu *q = calloc(1, sizeof(*q));
	int ret;

	if (!q)
		return sl_err_set(err, ENOMEM, "out of memory");
	m->priv = q;
	add_board(m->options, &a);
	ret = add_monitor(m, q, &a);
	if (ret)
		sl_err_set(err, -ret, "QEMU's monitor: %s", strerror(-ret));
	for (unsigned int i = 0; i < m->options->num_devices && !ret; i++)
		ret = add_device(m, q, i, &a, err);
	if (!ret) {
		const struct child_config cfg = {
			.argv = &a, .console = console, .fds = q->fds, .num_fds = q->num_fds,
		};

		ret = child_start(&m->child, &cfg, err);
	}
	for (unsigned int i = 0; i < q->num_fds; i++)
		close(q->fds[i]);
	child_argv_free(&a);
	return ret;
}

static const char *qemu_verdict(struct machine *m, int status, char *buf, size_t len)
{
	struct qemu *q = m->priv;

	qmp_read(q, 0); /* what it said last */
	if (!strcmp(q->end, "guest-shutdown"))
		return NULL;
	if (!strcmp(q->end, "guest-reset"))
		return "the guest restarted, as it does after a panic";
	if (!strcmp(q->end, "guest-panic"))
		return "the guest panicked";
	if (status > 128)
		snprintf(buf, len, "QEMU was killed by signal %d", status - 128);
	else
		snprintf(buf, len, "QEMU ended with status %d%s%s", status, q->end[0] ? ": " : "", q->end);
	return buf;
}

static void qemu_finish(struct machine *m)
{
	struct qemu *q = m->priv;

	if (!q)
		return;
	sl_watch_del(&q->watch);
	if (q->qmp >= 0)
		close(q->qmp);
	free(q);
}

const struct engine engine_qemu = {
	.name = "qemu",
	.hosts = qemu_hosts,
	.check = qemu_check,
	.start = qemu_start,
	.verdict = qemu_verdict,
	.finish = qemu_finish,
};
