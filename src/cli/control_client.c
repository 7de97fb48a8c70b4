/* SPDX-License-Identifier: MIT */
/* control_client.c - the other side of the control socket: what `sluice control` and `sluice top` share */
#include "cli/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* More than any answer; a peer that is no sluice may send for ever. */
#define MAX_ANSWER (64u << 20)

const char *control_path(const char *path)
{
	const char *env = getenv("SLUICE_CONTROL");

	return path ? path : env && *env ? env : NULL;
}

int control_connect(const char *path, struct sl_err *err)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct stat st;
	int fd, ret;

	if (strlen(path) >= sizeof(sun.sun_path))
		return sl_err_set(err, ENAMETOOLONG, "%s: path is longer than %zu bytes", path, sizeof(sun.sun_path) - 1);
	strcpy(sun.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return sl_err_set(err, errno, "%s: %s", path, strerror(errno));
	if (!connect(fd, (const struct sockaddr *)&sun, sizeof(sun)))
		return fd;
	if (errno != ECONNREFUSED)
		ret = sl_err_set(err, errno, "%s: %s", path, strerror(errno));
	else
		ret = sl_err_set(err, ECONNREFUSED, "%s: %s", path, !stat(path, &st) && !S_ISSOCK(st.st_mode) ?
				 "is no socket" : "nobody listens there any more");
	close(fd);
	return ret;
}

int control_send(int fd, const char *path, json_t *request, struct sl_err *err)
{
	char *text = json_dumps(request, JSON_COMPACT);
	size_t len = text ? strlen(text) : 0;
	int ret = 0;

	json_decref(request);
	if (!text)
		return sl_err_set(err, EINVAL, "%s: cannot be asked this: no UTF-8", path);
	text[len++] = '\n'; /* in the place of the zero byte */
	if (len > CONTROL_MAX_LINE)
		ret = sl_err_set(err, EMSGSIZE, "%s: cannot be asked this: too long", path);
	else if (send(fd, text, len, MSG_NOSIGNAL) != (ssize_t)len)
		ret = sl_err_set(err, EPIPE, "%s: the process has ended", path);
	free(text);
	return ret;
}

/* The bytes up to the end of the line, in memory of its own; NULL: the other end is gone. */
static char *receive_line(int fd)
{
	size_t size = 0, used = 0;
	char *line = NULL;

	for (;;) {
		char *more = used == size ? realloc(line, size = size ? 2 * size : 4096) : line;
		ssize_t n;

		if (!more || size > MAX_ANSWER)
			break;
		line = more;
		n = recv(fd, line + used, size - used, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		used += (size_t)n;
		if (line[used - 1] == '\n') {
			line[used - 1] = '\0';
			return line;
		}
	}
	free(line);
	return NULL;
}

json_t *control_receive(int fd, const char *path, struct sl_err *err)
{
	char *line = receive_line(fd);
	json_t *answer = line ? json_loads(line, 0, NULL) : NULL, *result = NULL;
	const char *error = json_string_value(json_object_get(answer, "error"));

	if (!line)
		sl_err_set(err, EPIPE, "%s: the process has ended", path);
	else if (error)
		sl_err_set(err, EINVAL, "%s: %s", path, error);
	else if (!(result = json_incref(json_object_get(answer, "result"))))
		sl_err_set(err, EPROTO, "%s: is no control socket of sluice", path);
	json_decref(answer);
	free(line);
	return result;
}

const char *control_human(char buf[16], double n, unsigned int base)
{
	static const char units[] = " KMGTPE";
	unsigned int i = 0;

	for (; n >= base && units[i + 1]; i++)
		n /= base;
	if (i)
		snprintf(buf, 16, "%.*f%c", n < 10 ? 2 : n < 100 ? 1 : 0, n, units[i]);
	else
		snprintf(buf, 16, "%.0f", n);
	return buf;
}

uint64_t control_number(const json_t *object, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(object, name));
}
