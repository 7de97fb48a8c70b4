/* SPDX-License-Identifier: MIT */
/* nbd_image.c - images of other formats, served to us by a qemu-nbd of our own.
 *
 * qemu-nbd gets a listening socket the way systemd hands one over and ends
 * with us: the kernel sends it SIGTERM when the thread that opened the image
 * is gone, also after kill -9. It opens the image with its own lock. What it
 * says on standard error goes to a memory file, which never fills up and
 * blocks it, and is handed through when it ends.
 *
 * The socket lies in a folder that only this user may enter; kill -9 leaves
 * that folder behind, in TMPDIR or /tmp.
 */
#include "block/nbd_image.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "block/nbd.h"

#define EXIT_NO_PROGRAM 127
#define CLOSE_MS 30000u /* qemu-nbd writes back what it holds; then SIGKILL */
#define SOCKET_FD 3	/* where systemd's protocol wants it */

extern char **environ;

/** struct nbd_image - @folder: of the socket; empty: not made; @pid: 0: not started; @said: standard error */
struct nbd_image {
	char folder[80];
	struct sockaddr_un addr;
	pid_t pid;
	int said;
};

const char *nbd_image_socket(const struct nbd_image *image)
{
	return image->addr.sun_path;
}

/* ---- how it ended ---- */

/* WNOWAIT: the process number stays taken until nbd_image_close(). */
static bool has_ended(const struct nbd_image *image, unsigned int wait_ms, siginfo_t *info)
{
	const struct timespec pause = {.tv_nsec = 5000000};

	for (unsigned int ms = 0;; ms += 5) {
		info->si_pid = 0;
		if (!waitid(P_PID, (id_t)image->pid, info, WEXITED | WNOHANG | WNOWAIT) && info->si_pid)
			return true;
		if (ms >= wait_ms)
			return false;
		nanosleep(&pause, NULL);
	}
}

bool nbd_image_ended(const struct nbd_image *image, unsigned int wait_ms, char *why, size_t len)
{
	static const char me[] = "qemu-nbd: ";
	char text[384];
	siginfo_t info;
	ssize_t n;

	if (!has_ended(image, wait_ms, &info))
		return false;
	n = pread(image->said, text, sizeof(text) - 1, 0);
	text[n > 0 ? n : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
	if (info.si_code == CLD_EXITED && info.si_status == EXIT_NO_PROGRAM && !text[0])
		snprintf(why, len, "needs the program qemu-nbd (package qemu-utils)");
	else if (text[0])
		snprintf(why, len, "%s", text + (strncmp(text, me, strlen(me)) ? 0 : strlen(me)));
	else
		snprintf(why, len, "qemu-nbd ended with %s %d", info.si_code == CLD_EXITED ? "status" : "signal",
			 info.si_status);
	return true;
}

void nbd_image_close(struct nbd_image *image)
{
	siginfo_t info;

	if (!image)
		return;
	if (image->pid) {
		kill(image->pid, SIGTERM);
		if (!has_ended(image, CLOSE_MS, &info))
			kill(image->pid, SIGKILL);
		while (waitpid(image->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (image->said >= 0)
		close(image->said);
	if (image->folder[0]) {
		unlink(image->addr.sun_path);
		rmdir(image->folder);
	}
	free(image);
}

/* ---- starting ---- */

static int listen_privately(struct nbd_image *image)
{
	const char *tmp = getenv("TMPDIR");
	int fd, n;

	n = snprintf(image->folder, sizeof(image->folder), "%s/sluice-nbd.XXXXXX", tmp ? tmp : "/tmp");
	if (n >= (int)sizeof(image->folder) || !mkdtemp(image->folder)) {
		image->folder[0] = '\0';
		return n >= (int)sizeof(image->folder) ? -ENAMETOOLONG : -errno;
	}
	image->addr.sun_family = AF_UNIX;
	snprintf(image->addr.sun_path, sizeof(image->addr.sun_path), "%s/socket", image->folder);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&image->addr, sizeof(image->addr)) < 0 || listen(fd, 64) < 0) {
		n = -errno;
		close(fd);
		return n;
	}
	return fd;
}

/* In the child of a process with threads: no stdio, no malloc. */
static void write_number(char *to, unsigned int n)
{
	char digits[12];
	unsigned int i = 0;

	do
		digits[i++] = (char)('0' + n % 10);
	while (n /= 10);
	while (i)
		*to++ = digits[--i];
	*to = '\0';
}

/**
 * struct launch - made before fork(), used after it
 * @pid_text: the part of @envp that only the child knows
 */
struct launch {
	char **argv, **envp;
	char pid_text[32];
	pid_t parent;
	int listening, said;
};

static _Noreturn void run_child(struct launch *l)
{
	sigset_t none;

	setpgid(0, 0); /* Ctrl-C is for us: we end it when our last request is done */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != l->parent)
		_exit(1);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGTERM, SIG_DFL);
	if (dup2(l->said, STDERR_FILENO) < 0 || dup2(l->listening, SOCKET_FD) < 0)
		_exit(1);
	write_number(strchr(l->pid_text, '=') + 1, (unsigned int)getpid());
	execvpe(l->argv[0], l->argv, l->envp);
	_exit(EXIT_NO_PROGRAM);
}

static char **environment(char *pid_text)
{
	static char fds[] = "LISTEN_FDS=1";
	size_t n = 0, to = 0;
	char **envp;

	while (environ[n])
		n++;
	envp = calloc(n + 3, sizeof(*envp));
	if (!envp)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (strncmp(environ[i], "LISTEN_", strlen("LISTEN_")) != 0)
			envp[to++] = environ[i];
	envp[to++] = fds;
	envp[to] = pid_text;
	return envp;
}

static int launch(struct nbd_image *image, char **argv)
{
	struct launch l = {.argv = argv, .parent = getpid(), .pid_text = "LISTEN_PID="};
	int low;

	image->said = memfd_create("qemu-nbd", MFD_CLOEXEC);
	if (image->said < 0)
		return -errno;
	l.envp = environment(l.pid_text);
	if (!l.envp)
		return -ENOMEM;
	low = listen_privately(image);
	if (low < 0) {
		free(l.envp);
		return low;
	}
	/* Out of the way of the numbers that the child uses, so that dup2() never finds its source closed. */
	l.listening = fcntl(low, F_DUPFD_CLOEXEC, SOCKET_FD + 1);
	l.said = fcntl(image->said, F_DUPFD_CLOEXEC, SOCKET_FD + 1);
	close(low);
	image->pid = l.listening < 0 || l.said < 0 ? -1 : fork();
	if (!image->pid)
		run_child(&l);
	low = errno;
	if (l.listening >= 0)
		close(l.listening);
	if (l.said >= 0)
		close(l.said);
	free(l.envp);
	if (image->pid > 0)
		return 0;
	image->pid = 0;
	return -low;
}

int nbd_image_open(const char *path, const char *format, const char *cache, const struct block_options *o,
		   struct block **out, struct sl_err *err)
{
	char cache_arg[32], discard_arg[32], format_arg[16], path_arg[4096];
	char program[] = "qemu-nbd", persistent[] = "--persistent", shared[] = "--shared=0", f[] = "-f", end[] = "--";
	char read_only[] = "--read-only";
	char *argv[12] = {program, persistent, shared, cache_arg, discard_arg, f, format_arg};
	struct nbd_place at = {.image = calloc(1, sizeof(*at.image)), .durable = !strcmp(cache, "writethrough")};
	unsigned int n = 7;
	int ret;

	if (!at.image)
		return sl_err_set(err, ENOMEM, "%s: out of memory", path);
	at.image->said = -1;
	snprintf(cache_arg, sizeof(cache_arg), "--cache=%s", cache);
	snprintf(discard_arg, sizeof(discard_arg), "--discard=%s", o->discard ? "unmap" : "ignore");
	snprintf(format_arg, sizeof(format_arg), "%s", format);
	if (o->read_only)
		argv[n++] = read_only;
	argv[n++] = end;
	argv[n] = path_arg;
	ret = snprintf(path_arg, sizeof(path_arg), "%s", path) < (int)sizeof(path_arg) ? launch(at.image, argv)
										       : -ENAMETOOLONG;
	if (ret) {
		nbd_image_close(at.image);
		return sl_err_set(err, -ret, "%s: cannot start qemu-nbd: %s", path, strerror(-ret));
	}
	return nbd_open_at(&at, path, o, out, err);
}
