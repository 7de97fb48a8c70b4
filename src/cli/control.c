/* SPDX-License-Identifier: MIT */
/* control.c - the control socket: clients, lines, commands
 *
 * A client costs what is in struct client and, while it reads it, one answer.
 * It has one request at a time: no further line is looked at before the answer
 * is sent. So a client that does not read, or sends without end, holds up and
 * costs nobody else; one that has not taken an answer in SLOW_NS is hung up on,
 * and beyond MAX_CLIENTS nobody gets in.
 */
#include "cli/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/listen.h"

#define MAX_CLIENTS 16
#define SLOW_NS 10000000000ULL
/* How long not to accept when this process has run out of descriptors. */
#define ACCEPT_AGAIN_NS 100000000ULL

/**
 * struct client
 * @fd:     -1: a free place
 * @slow:   runs out when the answer has not been taken
 * @again:  look at the line that is in @in already
 * @answer: being sent, @sent of @len bytes; NULL: a request is read
 * @last:   hang up after this answer
 */
struct client {
	struct control *control;
	int fd;
	struct sl_watch watch;
	struct sl_timer slow;
	struct sl_task again;
	size_t used, len, sent;
	char *answer;
	bool last;
	char in[CONTROL_MAX_LINE + 1];
};

/**
 * struct control
 * @started: for the time it has been up
 * @quit:    posted, so that the answer is on its way before the process ends
 */
struct control {
	struct control_config cfg;
	uint64_t started;
	struct listener listener;
	struct sl_watch watch;
	struct sl_timer accept_again;
	struct sl_task quit;
	struct client clients[MAX_CLIENTS];
};

/* ---- commands ---- */

static bool names(const struct device_view *v, const char *name)
{
	char number[16];

	snprintf(number, sizeof(number), "%u", v->number);
	return (v->id && !strcmp(name, v->id)) || !strcmp(name, number) || !strcmp(name, v->text);
}

/* The device that a request names by "device": an id, a number or the text it was given as; the only one without. */
static int find_device(struct control *c, const json_t *request, struct device_view *v, struct sl_err *err)
{
	const json_t *device = json_object_get(request, "device");
	struct device_view second;
	char number[24];
	const char *name = json_string_value(device);

	if (!device) {
		if (!c->cfg.device(c->cfg.arg, 0, v))
			return sl_err_set(err, ENOENT, "there is no device");
		if (c->cfg.device(c->cfg.arg, 1, &second))
			return sl_err_set(err, EINVAL, "there are several devices: say which");
		return 0;
	}
	if (json_is_integer(device)) {
		snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(device));
		name = number;
	}
	if (!name)
		return sl_err_set(err, EINVAL, "\"device\": wants a string or a number");
	for (unsigned int n = 0; c->cfg.device(c->cfg.arg, n, v); n++)
		if (names(v, name))
			return 0;
	return sl_err_set(err, ENOENT, "%.100s: no such device", name);
}

static int find_served(struct control *c, const json_t *request, struct device_view *v, struct sl_err *err)
{
	int ret = find_device(c, request, v, err);

	if (!ret && !v->served)
		return sl_err_set(err, ENOTSUP, "%s: another process serves it: ask that one", v->text);
	return ret;
}

static json_t *do_status(struct control *c, const json_t *request, struct sl_err *err)
{
	struct device_view v;

	if (!json_object_get(request, "device"))
		return control_status(&c->cfg, NULL, c->started);
	return find_device(c, request, &v, err) ? NULL : control_status(&c->cfg, &v, c->started);
}

static void keep_size(void *arg, const char *name, uint64_t value)
{
	if (!strcmp(name, "size-bytes"))
		*(uint64_t *)arg = value;
}

static json_t *size_json(struct served_device *d)
{
	uint64_t size = 0;
	const struct device_report r = {.number = keep_size, .arg = &size};

	device_report(d, &r);
	return json_pack("{s:I}", "size-bytes", (json_int_t)size);
}

/* "size": bytes, or text as "10G" */
static int parse_size(const json_t *size, uint64_t *out, struct sl_err *err)
{
	if (json_is_integer(size) && json_integer_value(size) > 0)
		*out = (uint64_t)json_integer_value(size);
	else if (!json_is_string(size) || opt_parse_size(json_string_value(size), out) || *out > INT64_MAX)
		return sl_err_set(err, EINVAL, "\"size\": wants bytes, or text such as \"10G\"");
	return 0;
}

static json_t *do_resize(struct control *c, const json_t *request, struct sl_err *err)
{
	const json_t *size = json_object_get(request, "size");
	struct device_view v;
	uint64_t bytes = 0;
	int ret = find_served(c, request, &v, err);

	if (!ret && size)
		ret = parse_size(size, &bytes, err);
	if (!ret)
		ret = size ? device_resize(v.served, bytes, err) : device_refresh(v.served, err);
	return ret ? NULL : size_json(v.served);
}

static json_t *do_refresh(struct control *c, const json_t *request, struct sl_err *err)
{
	struct device_view v;
	int ret = 0;

	if (json_object_get(request, "device"))
		return find_served(c, request, &v, err) || device_refresh(v.served, err) ? NULL : size_json(v.served);
	for (unsigned int n = 0; !ret && c->cfg.device(c->cfg.arg, n, &v); n++)
		ret = v.served ? device_refresh(v.served, err) : 0;
	return ret ? NULL : json_object();
}

static json_t *do_quit(struct control *c, const json_t *request, struct sl_err *err)
{
	(void)request;
	(void)err;
	sl_task_post(c->cfg.loop, &c->quit);
	return json_object();
}

static const struct command {
	const char *name;
	json_t *(*fn)(struct control *c, const json_t *request, struct sl_err *err);
} commands[] = {
	{"status", do_status},
	{"resize", do_resize},
	{"refresh", do_refresh},
	{"quit", do_quit},
};

static int check_keys(const json_t *request, struct sl_err *err)
{
	void *i = json_object_iter((json_t *)(uintptr_t)request);

	for (; i; i = json_object_iter_next((json_t *)(uintptr_t)request, i)) {
		const char *key = json_object_iter_key(i);

		if (strcmp(key, "command") && strcmp(key, "device") && strcmp(key, "size"))
			return sl_err_set(err, EINVAL, "\"%.100s\": unknown key", key);
	}
	return 0;
}

static json_t *run_command(struct control *c, const json_t *request, struct sl_err *err)
{
	const char *name = json_string_value(json_object_get(request, "command"));

	if (!name) {
		sl_err_set(err, EINVAL, "wants an object with a \"command\"");
		return NULL;
	}
	if (check_keys(request, err))
		return NULL;
	for (unsigned int i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(name, commands[i].name))
			return commands[i].fn(c, request, err);
	sl_err_set(err, EINVAL, "%.100s: unknown command", name);
	return NULL;
}

/* ---- a client ---- */

static void drop(struct client *cl)
{
	struct sl_loop *loop = cl->control->cfg.loop;

	sl_watch_del(&cl->watch);
	sl_timer_clear(loop, &cl->slow);
	sl_task_cancel(loop, &cl->again);
	close(cl->fd);
	free(cl->answer);
	cl->answer = NULL;
	cl->fd = -1;
}

static void too_slow(void *arg)
{
	drop(arg);
}

/* Send what is left of the answer; false: the client is gone, or has to read first. */
static bool send_answer(struct client *cl)
{
	while (cl->sent < cl->len) {
		ssize_t n = send(cl->fd, cl->answer + cl->sent, cl->len - cl->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN && !sl_watch_mod(&cl->watch, EPOLLOUT))
			return false;
		if (n < 0) {
			drop(cl);
			return false;
		}
		cl->sent += (size_t)n;
	}
	sl_timer_clear(cl->control->cfg.loop, &cl->slow);
	free(cl->answer);
	cl->answer = NULL;
	if (cl->last || sl_watch_mod(&cl->watch, EPOLLIN)) {
		drop(cl);
		return false;
	}
	return true;
}

/* @result is taken; NULL: an error. False: the client is gone, or has to read first. */
static bool answer(struct client *cl, json_t *result, const struct sl_err *err)
{
	json_t *all = result ? json_pack("{s:b, s:o}", "ok", 1, "result", result) :
			       json_pack("{s:b, s:s}", "ok", 0, "error", err->text[0] ? err->text : "out of memory");

	/* Text with the bytes of a file name may be no UTF-8, which JSON has to be. */
	if (!all && !result)
		all = json_pack("{s:b, s:s}", "ok", 0, "error", "an error whose text is no UTF-8");
	cl->answer = all ? json_dumps(all, JSON_COMPACT) : NULL;
	json_decref(all);
	if (!cl->answer) {
		drop(cl);
		return false;
	}
	cl->len = strlen(cl->answer);
	cl->answer[cl->len++] = '\n'; /* in the place of the zero byte */
	cl->sent = 0;
	sl_timer_set(cl->control->cfg.loop, &cl->slow, SLOW_NS);
	return send_answer(cl);
}

static bool handle(struct client *cl, const char *line, size_t len)
{
	struct sl_err err = {0};
	json_error_t where;
	json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES, &where), *result = NULL;

	if (request)
		result = run_command(cl->control, request, &err);
	else
		sl_err_set(&err, EINVAL, "no JSON: %s", where.text);
	json_decref(request);
	return answer(cl, result, &err);
}

/* Handle the first whole line there is, one in a turn of the loop. False: there is none, or the client is gone. */
static bool next_line(struct client *cl)
{
	char line[CONTROL_MAX_LINE + 1];
	char *end = memchr(cl->in, '\n', cl->used);
	size_t len;

	if (!end)
		return false;
	len = (size_t)(end - cl->in);
	memcpy(line, cl->in, len);
	cl->used -= len + 1;
	memmove(cl->in, end + 1, cl->used);
	if (handle(cl, line, len) && memchr(cl->in, '\n', cl->used))
		sl_task_post(cl->control->cfg.loop, &cl->again);
	return true;
}

static void line_again(void *arg)
{
	struct client *cl = arg;

	if (!cl->answer)
		next_line(cl);
}

static void receive(struct client *cl)
{
	const struct sl_err too_long = {.text = "a line is too long"};
	ssize_t n = recv(cl->fd, cl->in + cl->used, sizeof(cl->in) - cl->used, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		drop(cl);
		return;
	}
	cl->used += (size_t)n;
	if (!next_line(cl) && cl->fd >= 0 && cl->used == sizeof(cl->in)) {
		cl->last = true;
		answer(cl, NULL, &too_long);
	}
}

static void client_ready(void *arg, uint32_t events)
{
	struct client *cl = arg;

	(void)events; /* a hang-up shows when sending or receiving */
	if (!cl->answer)
		receive(cl);
	else if (send_answer(cl))
		next_line(cl);
}

/* ---- all of them ---- */

static void refuse(int fd)
{
	static const char text[] = "{\"ok\":false,\"error\":\"too many clients\"}\n";

	if (send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
		/* It then hears nothing. */
	}
	close(fd);
}

static void start_client(struct control *c, int fd)
{
	struct client *cl = c->clients;

	while (cl < c->clients + MAX_CLIENTS && cl->fd >= 0)
		cl++;
	if (cl == c->clients + MAX_CLIENTS) {
		refuse(fd);
		return;
	}
	cl->fd = fd;
	cl->used = 0;
	cl->last = false;
	if (sl_watch_add(c->cfg.loop, &cl->watch, fd, EPOLLIN)) {
		close(fd);
		cl->fd = -1;
	}
}

static void accept_one(void *arg, uint32_t events)
{
	struct control *c = arg;
	int fd = accept4(c->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd >= 0) {
		start_client(c, fd);
	} else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
		sl_watch_del(&c->watch);
		sl_timer_set(c->cfg.loop, &c->accept_again, ACCEPT_AGAIN_NS);
	}
}

static void listen_again(void *arg)
{
	struct control *c = arg;

	if (sl_watch_add(c->cfg.loop, &c->watch, c->listener.fd, EPOLLIN))
		sl_timer_set(c->cfg.loop, &c->accept_again, ACCEPT_AGAIN_NS);
}

static void quit(void *arg)
{
	struct control *c = arg;

	c->cfg.quit(c->cfg.arg);
}

struct control *control_new(const struct control_config *cfg, struct sl_err *err)
{
	struct control *c = calloc(1, sizeof(*c));
	int ret;

	if (!c) {
		errno = -sl_err_set(err, ENOMEM, "--control: out of memory");
		return NULL;
	}
	c->cfg = *cfg;
	c->started = sl_now();
	c->watch = (struct sl_watch){.fn = accept_one, .arg = c};
	c->accept_again = (struct sl_timer){.fn = listen_again, .arg = c};
	c->quit = (struct sl_task){.fn = quit, .arg = c};
	for (unsigned int i = 0; i < MAX_CLIENTS; i++) {
		struct client *cl = &c->clients[i];

		cl->control = c;
		cl->fd = -1;
		cl->watch = (struct sl_watch){.fn = client_ready, .arg = cl};
		cl->slow = (struct sl_timer){.fn = too_slow, .arg = cl};
		cl->again = (struct sl_task){.fn = line_again, .arg = cl};
	}
	ret = listener_open(&c->listener, cfg->path, 0600, err);
	if (!ret) {
		ret = sl_watch_add(cfg->loop, &c->watch, c->listener.fd, EPOLLIN);
		if (ret)
			sl_err_set(err, -ret, "%s: socket: %s", cfg->path, strerror(-ret));
	}
	if (!ret)
		return c;
	listener_close(&c->listener);
	free(c);
	errno = -ret;
	return NULL;
}

void control_free(struct control *c)
{
	if (!c)
		return;
	for (unsigned int i = 0; i < MAX_CLIENTS; i++)
		if (c->clients[i].fd >= 0)
			drop(&c->clients[i]);
	sl_watch_del(&c->watch);
	sl_timer_clear(c->cfg.loop, &c->accept_again);
	sl_task_cancel(c->cfg.loop, &c->quit);
	listener_close(&c->listener);
	free(c);
}
