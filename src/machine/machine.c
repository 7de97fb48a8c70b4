/* SPDX-License-Identifier: MIT */
/* machine.c - boot a guest on an engine and serve its devices until it ends
 *
 * The calling thread runs the control loop: the devices' control plane, the
 * console, signals, the child. Queues run where struct device_env says.
 *
 *     open devices -> engine starts the servers and its program -> loop
 *         -> the program ended -> engine's verdict -> servers drain -> close devices
 */
#include "machine/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/console.h"
#include "machine/engine.h"
#include "machine/hugepages.h"
#include "machine/kvm_probe.h"
#include "machine/placed.h"

static const struct engine *const engines[] = {&engine_kvm, &engine_qemu, &engine_uml};
#define NUM_ENGINES (sizeof(engines) / sizeof(engines[0]))

/**
 * struct run - a machine that runs
 * @place:    the console's other end, which @console takes
 * @signals:  SIGINT, SIGTERM, SIGHUP, SIGPWR as a descriptor
 * @signal:   the one that came first, 0: none
 * @ended:    the guest is gone
 * @stopping: servers that are still draining
 * @choice:   what "auto" chose and why; empty: nothing
 */
struct run {
	struct machine m; /* first */
	struct console console;
	struct character *place;
	struct sl_watch signal_watch, child_watch;
	int signals, signal;
	sigset_t old_mask;
	bool ended;
	unsigned int stopping;
	char choice[600];
};

/* KVM where it runs guests at hardware speed and has all that is asked for; else QEMU. @why, for the person. */
static const struct engine *choose_engine(char *why, size_t len)
{
	struct sl_err err = {0};
	uint64_t rate = 0;
	int ret;

	ret = kvm_probe(&rate, &err);
	if (!ret && rate >= KVM_PROBE_FAST) {
		snprintf(why, len, "engine kvm: /dev/kvm runs at hardware speed");
		return &engine_kvm;
	}
	if (ret)
		snprintf(why, len, "engine qemu: the guest's CPU is QEMU's TCG; %s", err.text);
	else
		snprintf(why, len, "engine qemu: the guest's CPU is QEMU's TCG; /dev/kvm is no hardware here: "
			 "%.1f million instructions a second", (double)rate / 1e6);
	return &engine_qemu;
}

static const struct engine *find_engine(struct run *r, struct sl_err *err)
{
	const char *name = r->m.options->engine, *near, *names[NUM_ENGINES + 2] = {"auto"};

	if (!strcmp(name, "auto"))
		return choose_engine(r->choice, sizeof(r->choice));
	for (unsigned int i = 0; i < NUM_ENGINES; i++) {
		if (!strcmp(engines[i]->name, name))
			return engines[i];
		names[i + 1] = engines[i]->name;
	}
	near = opt_nearest(name, names);
	sl_err_set(err, EINVAL, "--engine %s: no such engine%s%s%s", name, near ? "; did you mean " : "", near ? near : "",
		   near ? "?" : ": auto, kvm, qemu or uml");
	return NULL;
}

bool machine_in_path(const char *program)
{
	const char *path = getenv("PATH");
	char file[4096];

	for (path = path ? path : "/usr/bin:/bin"; *path;) {
		size_t n = strcspn(path, ":");

		snprintf(file, sizeof(file), "%.*s/%s", (int)n, path, program);
		if (!access(file, X_OK))
			return true;
		path += n + (path[n] == ':');
	}
	return false;
}

int machine_check_file(const char *what, const char *path, const char *magic, size_t offset, const char *kind,
		       struct sl_err *err)
{
	char found[16];
	size_t len = strlen(magic);
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), ret = 0;

	if (fd < 0)
		return sl_err_set(err, errno, "%s %s: %s", what, path, strerror(errno));
	if (fstat(fd, &st))
		ret = sl_err_set(err, errno, "%s %s: %s", what, path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		ret = sl_err_set(err, EINVAL, "%s %s: is no regular file", what, path);
	else if (pread(fd, found, len, (off_t)offset) != (ssize_t)len || memcmp(found, magic, len))
		ret = sl_err_set(err, ENOEXEC, "%s %s: is no %s", what, path, kind);
	close(fd);
	return ret;
}

/* ---- devices ---- */

static const struct opt_def place_defs[] = {
	{"socket", OPT_STRING, offsetof(struct machine_place, socket), .help = "the device lives there, in another process"},
	{"queues", OPT_UINT, offsetof(struct machine_place, queues), "1", 1, SL_DEVICE_MAX_QUEUES,
	 .help = "how many of its queues the guest gets"},
	{"packed", OPT_BOOL, offsetof(struct machine_place, packed), "off", .help = "let the guest use packed rings"},
	{NULL},
};
static const struct opt_table place_table = {"run", place_defs};

static int open_remote(struct machine_device *d, struct sl_err *err)
{
	static const struct opt_table *const tables[] = {&place_table, NULL};
	struct stat st;
	int ret;

	d->type = device_type_find(d->spec.type, err);
	if (!d->type)
		return -EINVAL;
	ret = opts_apply(&place_table, &d->spec, &d->place, err);
	if (!ret)
		ret = device_finish_elsewhere(d->type, tables, &d->spec, err);
	if (ret)
		return ret;
	if (stat(d->place.socket, &st))
		return sl_err_set(err, errno, "%s: socket=%s: %s", d->spec.type, d->place.socket, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return sl_err_set(err, EINVAL, "%s: socket=%s: is no socket", d->spec.type, d->place.socket);
	return 0;
}

static const char *const transports[] = {"pci", "mmio", NULL};
static const struct opt_def link_defs[] = {
	{"transport", OPT_ENUM, offsetof(struct machine_link, mmio), "pci", .values = transports,
	 .help = "how the guest reaches the device"},
	{"legacy", OPT_BOOL, offsetof(struct machine_link, legacy), "off",
	 .help = "pci: also the registers of drivers from before virtio 1.0 (transitional); mmio: these only (version 1)"},
	{"ioeventfd", OPT_BOOL, offsetof(struct machine_link, ioeventfd), "on",
	 .help = "take notifications in the kernel; off shows what they cost without"},
	{"irqfd", OPT_BOOL, offsetof(struct machine_link, irqfd), "on",
	 .help = "raise interrupts in the kernel; off shows what they cost without"},
	{NULL},
};
static const struct opt_table link_table = {"run with engine kvm", link_defs};

const struct opt_table *machine_keys(void)
{
	return &link_table;
}

/* These keys, which only some engines have; they are none of the device's. */
static int apply_link(const struct engine *e, struct machine_device *d, struct sl_err *err)
{
	for (const struct opt_def *def = link_defs; !e->links && def->name; def++)
		if (spec_has(&d->spec, def->name))
			return sl_err_set(err, ENOTSUP, "%s: %s: engine %s has its own way to the device; engine kvm takes it",
					  d->spec.type, def->name, e->name);
	return opts_apply(&link_table, &d->spec, &d->link, err);
}

/* The key id= names a device wherever it lives. */
static const struct opt_def name_defs[] = {
	{"id", OPT_STRING, offsetof(struct machine_device, id), .help = "name the device for `sluice control`"},
	{NULL},
};
static const struct opt_table name_table = {"run", name_defs};

static int open_local(struct machine_device *d, const struct device_env *env, struct sl_err *err)
{
	errno = 0;
	d->served = device_open(&d->spec, env, err);
	if (!d->served)
		return errno ? -errno : -EINVAL;
	d->type = d->served->type;
	d->place.queues = sl_device_num_queues(d->served->dev);
	d->place.packed = sl_features_has(sl_device_offered(d->served->dev), SL_F_RING_PACKED);
	if (d->served->place.fd != DEVICE_NO_FD)
		return sl_err_set(err, EINVAL, "%s: fd: only `sluice serve` takes it", d->spec.type);
	return 0;
}

/* Before its keys are looked at, which another engine may know. */
static int check_hosted(const struct engine *engine, const char *name, struct sl_err *err)
{
	const struct device_type *type = device_type_find(name, err);

	if (!type)
		return -EINVAL;
	if (engine->hosts(type->id))
		return 0;
	for (unsigned int i = 0; i < NUM_ENGINES; i++)
		if (engines[i]->hosts(type->id))
			return sl_err_set(err, ENOTSUP, "%s: engine %s cannot host it; engine %s can", name, engine->name,
					  engines[i]->name);
	return sl_err_set(err, ENOTSUP, "%s: no engine can host it", name);
}

static int open_device(struct run *r, struct machine_device *d, const struct device_env *env, const char *text,
		       struct sl_err *err)
{
	const struct engine *engine = r->m.engine;
	int ret = spec_parse(&d->spec, text, err);

	if (!ret)
		ret = check_hosted(engine, d->spec.type, err);
	if (!ret)
		ret = opts_apply(&name_table, &d->spec, d, err);
	if (!ret)
		ret = apply_link(engine, d, err);
	if (!ret && !spec_has(&d->spec, "socket"))
		ret = open_local(d, env, err);
	else if (!ret)
		ret = engine->links ? placed_open(d, env, r->signals, err) : open_remote(d, err);
	return ret;
}

static void close_devices(struct machine *m)
{
	for (unsigned int i = 0; i < m->options->num_devices; i++) {
		device_close(m->devices[i].served);
		remote_close(m->devices[i].remote);
		spec_free(&m->devices[i].spec);
	}
	free(m->devices);
}

int machine_serve(struct machine_device *d, const char *path, int fd, struct sl_err *err)
{
	const struct sl_vhost_user_config cfg = {
		.device = d->served->dev, .path = path, .fd = fd, .connected = !path,
	};

	errno = 0;
	d->server = sl_vhost_user_server_new(&cfg, err);
	return d->server ? 0 : errno ? -errno : -EINVAL;
}

static void server_stopped(void *arg)
{
	struct run *r = arg;

	r->stopping--;
}

/* The program is gone, so all that is waited for here is I/O in flight. */
static void stop_servers(struct run *r)
{
	struct machine *m = &r->m;

	for (unsigned int i = 0; i < m->options->num_devices; i++)
		if (m->devices[i].server) {
			r->stopping++;
			sl_vhost_user_server_stop(m->devices[i].server, server_stopped, r);
		}
	while (r->stopping)
		sl_loop_step(m->control, -1);
	for (unsigned int i = 0; i < m->options->num_devices; i++)
		sl_vhost_user_server_free(m->devices[i].server);
}

/* ---- the run ---- */

static void tell_to_end(struct machine *m)
{
	if (m->engine->end)
		m->engine->end(m);
	else
		child_end(&m->child);
}

/* Somebody has had enough: by signal @number, or by the control socket, which is the same as SIGTERM. */
static void end_by(struct run *r, int number)
{
	if (r->signal)
		return;
	r->signal = number;
	console_restore(&r->console);
	tell_to_end(&r->m);
	sigprocmask(SIG_SETMASK, &r->old_mask, NULL); /* whoever cannot wait sends another one */
}

static void on_signal(void *arg, uint32_t events)
{
	struct run *r = arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(r->signals, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo != SIGPWR)
		end_by(r, (int)info.ssi_signo);
	else if (r->m.engine->button)
		r->m.engine->button(&r->m);
	else
		sl_log(SL_LOG_WARN, "run: SIGPWR: with engine %s there is no power button", r->m.engine->name);
}

static void on_child(void *arg, uint32_t events)
{
	struct run *r = arg;

	(void)events;
	sl_loop_quit(r->m.control);
}

static int take_signals(struct run *r, struct sl_err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGPWR);
	r->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (r->signals < 0)
		return sl_err_set(err, errno, "signals: %s", strerror(errno));
	sigprocmask(SIG_BLOCK, &set, &r->old_mask);
	return 0;
}

static void give_back_signals(struct run *r)
{
	struct signalfd_siginfo info;

	/* One that nobody has read yet ended the wait for a back-end, or came when the run was over. */
	while (read(r->signals, &info, sizeof(info)) > 0)
		;
	sigprocmask(SIG_SETMASK, &r->old_mask, NULL);
	close(r->signals);
}

/* Turn the loop until the guest is gone; 0 or 1, the exit status. */
static int run_guest(struct run *r, int console)
{
	struct machine *m = &r->m;
	const char *why;
	char buf[128];
	int ret, status;

	r->signal_watch = (struct sl_watch){.fn = on_signal, .arg = r};
	r->child_watch = (struct sl_watch){.fn = on_child, .arg = r};
	ret = console_start(&r->console, m->control, r->place, console);
	if (!ret) {
		sl_watch_add(m->control, &r->signal_watch, r->signals, EPOLLIN);
		sl_watch_add(m->control, &r->child_watch, m->ended >= 0 ? m->ended : m->child.pidfd, EPOLLIN);
		sl_loop_run(m->control);
		sl_watch_del(&r->child_watch);
		sl_watch_del(&r->signal_watch);
	}
	tell_to_end(m);
	status = m->engine->wait ? m->engine->wait(m) : child_wait(&m->child);
	if (ret) {
		sl_log(SL_LOG_ERROR, "run: console: %s", strerror(-ret));
		return 1;
	}
	console_stop(&r->console);
	why = m->engine->verdict(m, status, buf, sizeof(buf));
	if (r->signal)
		why = r->signal == SIGINT ? "interrupted" : "told to end";
	if (why)
		sl_log(SL_LOG_ERROR, "run: %s", why);
	return why ? 1 : 0;
}

/* Where the console's bytes come from and go to. */
static int open_place(struct run *r, struct sl_err *err)
{
	struct machine *m = &r->m;

	errno = 0;
	r->place = character_open("--console", m->options->console, m->control, err);
	if (!r->place)
		return errno ? -errno : -EIO;
	m->keys = character_is_keyboard(r->place);
	return 0;
}

/* The devices are open: run the guest. */
static int boot(struct run *r, struct sl_err *err)
{
	struct machine *m = &r->m;
	int console[2], ret = open_place(r, err);

	if (ret)
		return ret;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, console)) {
		character_close(r->place);
		return sl_err_set(err, errno, "console: %s", strerror(errno));
	}
	if (r->choice[0])
		sl_log(SL_LOG_INFO, "run: %s", r->choice);
	ret = m->engine->start(m, console[1], err);
	close(console[1]);
	if (!ret)
		ret = run_guest(r, console[0]);
	else
		character_close(r->place);
	if (ret < 0)
		close(console[0]);
	r->ended = true;
	m->engine->finish(m);
	stop_servers(r);
	return ret;
}

static int run_machine(struct run *r, const struct device_env *env, struct sl_err *err)
{
	struct machine *m = &r->m;
	const struct machine_observer *o = m->options->observer;
	int ret = 0;

	for (unsigned int i = 0; i < m->options->num_devices && !ret; i++)
		ret = open_device(r, &m->devices[i], env, m->options->devices[i], err);
	if (!ret && o)
		ret = o->up(o->arg, m, err);
	if (ret)
		return ret;
	ret = boot(r, err);
	if (o)
		o->down(o->arg);
	return ret;
}

/* ---- for an observer ---- */

bool machine_device(const struct machine *m, unsigned int n, struct device_view *v)
{
	const struct machine_device *d;

	if (n >= m->options->num_devices)
		return false;
	d = &m->devices[n];
	*v = (struct device_view){
		.number = n, .text = m->options->devices[n], .id = d->id, .socket = d->place.socket,
		.type = d->spec.type, .served = d->served,
	};
	if (d->server)
		v->connected = sl_vhost_user_server_connected(d->server);
	else if (d->remote)
		v->connected = remote_present(d->remote);
	else if (d->served)
		v->connected = sl_device_status(d->served->dev) & SL_STATUS_DRIVER_OK;
	return true;
}

void machine_quit(struct machine *m)
{
	struct run *r = (struct run *)m;

	if (!r->ended)
		end_by(r, SIGTERM);
}

int machine_run(const struct machine_options *o, const struct device_env *env, struct sl_err *err)
{
	struct run r = {.m.options = o, .m.control = env->control, .m.ended = -1};
	int ret;

	r.m.engine = find_engine(&r, err);
	if (!r.m.engine)
		return -EINVAL;
	ret = r.m.engine->check(o, err);
	if (!ret && o->hugepages)
		ret = hugepages_check(o->memory, err);
	if (ret)
		return ret;
	r.m.devices = calloc(o->num_devices ? o->num_devices : 1, sizeof(*r.m.devices));
	if (!r.m.devices)
		return sl_err_set(err, ENOMEM, "out of memory");
	ret = take_signals(&r, err);
	if (!ret) {
		ret = run_machine(&r, env, err);
		give_back_signals(&r);
	}
	close_devices(&r.m);
	return ret;
}
