/* SPDX-License-Identifier: MIT */
/* serve.c - `sluice serve`: many devices in one process, each on a socket of its own.
 *
 * The main thread runs the control loop: sockets, messages, signals. A few
 * data threads run the queues. SIGTERM or SIGINT: no new requests, what is in
 * flight is finished, sockets are removed; a second one leaves at once (the
 * front-end sees a killed back-end, and an inflight region repairs that).
 * SIGHUP: look at the sizes of images again and tell the guests.
 */
#include "cli/cmd.h"
#include "cli/control.h"

#include "devices/devices.h"

#include <sluice/log.h>
#include <sluice/vhost_user_server.h>

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

/**
 * struct served - one --device
 * @text:      as it was typed
 * @connected: fd= is a connection: the device ends with it
 */
struct served {
	const char *text;
	struct spec spec;
	struct served_device *device;
	struct sl_vhost_user_server *server;
	struct serve *serve;
	bool connected;
};

/**
 * struct serve
 * @path:     of the control socket, or NULL
 * @alive:    servers that are not stopped
 * @stopping: a signal came, or somebody said quit
 */
struct serve {
	struct sl_loop *control;
	const char *path;
	struct control *socket;
	struct data_threads *threads;
	struct served *served;
	unsigned int n, alive;
	bool stopping;
	struct sl_watch signals;
	int signal_fd;
};

static const char help_text[] =
	"usage: sluice serve --device SPEC,socket=PATH [--device ...]... [--threads N] [--control PATH]\n\n"
	"  --device SPEC   TYPE[,SOURCE][,KEY=VALUE]...,socket=PATH or fd=N; see `sluice devices`\n"
	"  --threads N     threads that run the queues of all devices [1]\n"
	"  --control PATH  listen there for `sluice control` and `sluice top`\n\n"
	"  sluice serve --device blk,disk.img,socket=/tmp/disk.sock\n";

/* ---- the end ---- */

static void server_stopped(void *arg)
{
	struct served *s = arg;

	if (!--s->serve->alive)
		sl_loop_quit(s->serve->control);
}

static void connection_gone(void *arg)
{
	struct served *s = arg;

	if (!s->serve->stopping)
		sl_vhost_user_server_stop(s->server, server_stopped, s);
}

static void stop_all(struct serve *serve, const char *why)
{
	serve->stopping = true;
	sl_log(SL_LOG_INFO, "serve: %s: finishing what is in flight; a signal from now on leaves at once", why);
	for (unsigned int i = 0; i < serve->n; i++)
		sl_vhost_user_server_stop(serve->served[i].server, server_stopped, &serve->served[i]);
}

/* ---- the control socket ---- */

static bool control_device(void *arg, unsigned int n, struct device_view *v)
{
	const struct serve *serve = arg;
	const struct served *s = &serve->served[n];

	if (n >= serve->n)
		return false;
	*v = (struct device_view){
		.number = n, .text = s->text, .id = s->device->place.id, .socket = s->device->place.socket,
		.type = s->device->type->type, .served = s->device,
		.connected = sl_vhost_user_server_connected(s->server),
	};
	return true;
}

static void control_quit(void *arg)
{
	struct serve *serve = arg;

	if (!serve->stopping)
		stop_all(serve, "told to quit");
}

static int start_control(struct serve *serve, struct sl_err *err)
{
	const struct control_config cfg = {
		.path = serve->path, .command = "serve", .loop = serve->control,
		.device = control_device, .quit = control_quit, .arg = serve,
	};

	serve->socket = control_new(&cfg, err);
	return serve->socket ? 0 : -errno;
}

/* SIGHUP: somebody has changed the size of an image. */
static void refresh_devices(struct serve *serve)
{
	struct sl_err err;

	for (unsigned int i = 0; i < serve->n; i++)
		if (device_refresh(serve->served[i].device, &err))
			sl_log(SL_LOG_WARN, "serve: %s", err.text);
}

static void on_signal(void *arg, uint32_t events)
{
	struct serve *serve = arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(serve->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGHUP) {
		refresh_devices(serve);
		return;
	}
	if (serve->stopping)
		_exit(EXIT_RUNTIME);
	stop_all(serve, strsignal((int)info.ssi_signo));
}

static int watch_signals(struct serve *serve)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	serve->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (serve->signal_fd < 0)
		return -errno;
	serve->signals = (struct sl_watch){.fn = on_signal, .arg = serve};
	return sl_watch_add(serve->control, &serve->signals, serve->signal_fd, EPOLLIN);
}

/* ---- the start ---- */

/* Is @fd a socket that somebody is connected to already? */
static int look_at_fd(int fd, bool *connected, struct sl_err *err)
{
	int listening = 0;
	socklen_t len = sizeof(listening);

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
		return sl_err_set(err, EINVAL, "fd=%d: not an open socket: %s", fd, strerror(errno));
	*connected = !listening;
	return 0;
}

static int start_device(struct serve *serve, struct served *s, unsigned int first_loop, struct sl_err *err)
{
	struct sl_vhost_user_config cfg = {.fd = -1, .arg = s};
	struct device_env env = {.control = serve->control, .first_loop = first_loop};
	const struct device_place *place;
	int ret;

	ret = spec_parse(&s->spec, s->text, err);
	if (ret)
		return ret;
	env.loops = data_threads_loops(serve->threads, &env.num_loops);
	errno = 0;
	s->device = device_open(&s->spec, &env, err);
	if (!s->device)
		return errno ? -errno : -EINVAL;
	place = &s->device->place;
	if (!place->socket == (place->fd == DEVICE_NO_FD))
		return sl_err_set(err, EINVAL, "%s: say where it is served with either socket=PATH or fd=N", s->text);
	cfg.device = s->device->dev;
	cfg.path = place->socket;
	if (!place->socket) {
		cfg.fd = (int)place->fd;
		ret = look_at_fd(cfg.fd, &s->connected, err);
		if (ret)
			return ret;
		cfg.connected = s->connected;
		cfg.gone = s->connected ? connection_gone : NULL;
	}
	errno = 0;
	s->server = sl_vhost_user_server_new(&cfg, err);
	if (!s->server)
		return errno ? -errno : -EINVAL;
	serve->alive++;
	if (place->socket)
		sl_log(SL_LOG_INFO, "serve: %s: listening on %s", sl_device_name(s->device->dev), place->socket);
	else
		sl_log(SL_LOG_INFO, "serve: %s: on descriptor %d", sl_device_name(s->device->dev), cfg.fd);
	return 0;
}

static void end(struct serve *serve)
{
	control_free(serve->socket);
	for (unsigned int i = 0; i < serve->n; i++) {
		struct served *s = &serve->served[i];

		sl_vhost_user_server_free(s->server);
		device_close(s->device);
		spec_free(&s->spec);
	}
	data_threads_end(serve->threads);
	sl_watch_del(&serve->signals);
	if (serve->signal_fd >= 0)
		close(serve->signal_fd);
	sl_loop_free(serve->control);
	free(serve->served);
}

/* Servers that did start take their sockets with them when another one could not. */
static void abandon(struct serve *serve)
{
	serve->stopping = true;
	for (unsigned int i = 0; i < serve->n; i++)
		if (serve->served[i].server)
			sl_vhost_user_server_stop(serve->served[i].server, server_stopped, &serve->served[i]);
	if (serve->alive)
		sl_loop_run(serve->control);
}

static int check_ids(const struct serve *serve, struct sl_err *err)
{
	const char **texts = calloc(serve->n, sizeof(*texts));
	int ret = texts ? 0 : -ENOMEM;

	for (unsigned int i = 0; !ret && i < serve->n; i++)
		texts[i] = serve->served[i].text;
	ret = ret ? sl_err_set(err, ENOMEM, "out of memory") : device_check_ids(texts, serve->n, err);
	free(texts);
	return ret;
}

static int serve_devices(struct serve *serve, unsigned int threads)
{
	struct rlimit files;
	struct sl_err err = {0};
	int ret = check_ids(serve, &err), status = 0;

	/* Each device holds a handful of descriptors. */
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	serve->signal_fd = -1;
	if (ret) {
		free(serve->served);
		return cmd_fail("serve", &err, ret);
	}
	serve->control = sl_loop_new();
	if (!serve->control || sl_mem_guard() || watch_signals(serve))
		ret = sl_err_set(&err, ENOMEM, "cannot start: %s", strerror(errno));
	if (!ret) {
		serve->threads = data_threads_start(threads, &err);
		ret = serve->threads ? 0 : -ENOMEM;
	}
	for (unsigned int i = 0; i < serve->n && !ret; i++)
		ret = start_device(serve, &serve->served[i], i, &err);
	if (!ret && serve->path)
		ret = start_control(serve, &err);
	if (ret) {
		status = cmd_fail("serve", &err, ret);
		abandon(serve);
	} else {
		sl_loop_run(serve->control);
	}
	end(serve);
	return status;
}

int cmd_serve(int argc, char **argv)
{
	static const struct option options[] = {{"device", required_argument, NULL, 'd'},
						{"threads", required_argument, NULL, 't'},
						{"control", required_argument, NULL, 'c'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	struct serve serve = {0};
	uint64_t threads = 1;
	int c;

	serve.served = calloc((size_t)argc, sizeof(*serve.served));
	if (!serve.served)
		return EXIT_RUNTIME;
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case 'd':
			serve.served[serve.n].serve = &serve;
			serve.served[serve.n++].text = optarg;
			break;
		case 't':
			if (!opt_parse_uint(optarg, &threads) && threads && threads <= DATA_THREADS_MAX)
				break;
			free(serve.served);
			return cmd_usage("serve", "--threads %s: wants a number from 1 to %u", optarg, DATA_THREADS_MAX);
		case 'c':
			serve.path = optarg;
			break;
		case 'h':
			fputs(help_text, stdout);
			free(serve.served);
			return 0;
		default:
			free(serve.served);
			return cmd_bad_option("serve", argv, c, options);
		}
	}
	if (optind < argc || !serve.n) {
		free(serve.served);
		return optind < argc ? cmd_usage("serve", "'%s': unexpected; options start with --", argv[optind])
				     : cmd_usage("serve", "nothing to serve; add --device blk,FILE,socket=PATH");
	}
	return serve_devices(&serve, (unsigned int)threads);
}
