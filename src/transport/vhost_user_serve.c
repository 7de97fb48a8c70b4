/* SPDX-License-Identifier: MIT */
/* vhost_user_serve.c - all that a program with one device has to do around its server */
#include <sluice/memory.h>
#include <sluice/vhost_user_server.h>

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

/**
 * struct serving
 * @old_mask: the signals that were blocked before
 */
struct serving {
	struct sl_loop *loop;
	struct sl_vhost_user_server *server;
	struct sl_watch signals;
	sigset_t old_mask;
};

static void server_stopped(void *arg)
{
	sl_loop_quit(arg);
}

static void on_signal(void *arg, uint32_t events)
{
	struct serving *s = arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(s->signals.fd, &info, sizeof(info)) != sizeof(info))
		return;
	sl_watch_del(&s->signals);
	sigprocmask(SIG_SETMASK, &s->old_mask, NULL); /* whoever cannot wait sends another one */
	sl_vhost_user_server_stop(s->server, server_stopped, s->loop);
}

static int serve(struct serving *s, struct sl_device_config *cfg, const char *path, struct sl_err *err)
{
	struct sl_vhost_user_config at = {.path = path};
	int ret;

	cfg->control = s->loop;
	errno = 0;
	at.device = sl_device_new(cfg, err);
	if (!at.device)
		return errno ? -errno : -EINVAL;
	errno = 0;
	s->server = sl_vhost_user_server_new(&at, err);
	ret = s->server ? sl_loop_run(s->loop) : errno ? -errno : -EINVAL;
	sl_vhost_user_server_free(s->server);
	sl_device_free(at.device);
	return ret;
}

int sl_vhost_user_serve(const struct sl_device_config *cfg, const char *path, struct sl_err *err)
{
	struct serving s = {.loop = sl_loop_new(), .signals = {.fn = on_signal, .arg = &s}};
	struct sl_device_config mine = *cfg;
	sigset_t set;
	int fd, ret;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, &s.old_mask);
	signal(SIGPIPE, SIG_IGN); /* a call descriptor may be a pipe that nobody reads any more */
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (!s.loop || fd < 0 || sl_mem_guard() || sl_watch_add(s.loop, &s.signals, fd, EPOLLIN))
		ret = sl_err_set(err, errno, "cannot start: %s", strerror(errno));
	else
		ret = serve(&s, &mine, path, err);
	sl_watch_del(&s.signals);
	if (fd >= 0)
		close(fd);
	sl_loop_free(s.loop);
	sigprocmask(SIG_SETMASK, &s.old_mask, NULL);
	return ret;
}
