/* SPDX-License-Identifier: MIT */
/* uml.c - the engine that is a User-mode Linux kernel
 *
 * The kernel is a program of its own. It connects to each device by the path
 * of a socket, for which there is a private directory while it runs; its
 * guardian removes that even when we are killed (see child.c).
 */
#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/engine.h"
#include "machine/install_paths.h"

#define MIB (1ULL << 20)
/* what User-mode Linux 6.1 reserves for a process's extended state, see uml_xsave.c */
#define UML_XSAVE_BYTES 2696

/**
 * struct uml - the engine's state
 * @dir: the private directory; empty: not made yet
 * @env: LD_PRELOAD=..., or empty
 */
struct uml {
	char dir[PATH_MAX];
	char env[PATH_MAX + 32];
};

/* Its driver asks for any id; what the guest makes of it depends on the guest's modules. */
static bool uml_hosts(uint16_t id)
{
	(void)id;
	return true;
}

static bool needs_wide_xsave(void)
{
	unsigned int eax, bytes, ecx, edx;

	return __get_cpuid_count(0xd, 0, &eax, &bytes, &ecx, &edx) && bytes > UML_XSAVE_BYTES;
}

/* Beside the program while it is not installed, else where it was installed. */
static bool find_library(char *path, size_t len)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n > 0) {
		self[n] = '\0';
		slash = strrchr(self, '/');
		if (snprintf(path, len, "%.*s/src/machine/sluice-uml-xsave.so", (int)(slash - self), self) < (int)len &&
		    !access(path, R_OK))
			return true;
	}
	return snprintf(path, len, "%s/sluice-uml-xsave.so", SLUICE_LIBEXEC) < (int)len && !access(path, R_OK);
}

/* Any other program would run, and what it did would be taken for the guest's. */
static bool is_linux(const char *path)
{
	static const char banner[] = "Linux version ";
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	bool found = false;
	void *text;

	if (fd < 0)
		return false;
	if (!fstat(fd, &st) && st.st_size > 0) {
		text = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (text != MAP_FAILED) {
			found = memmem(text, (size_t)st.st_size, banner, sizeof(banner) - 1);
			munmap(text, (size_t)st.st_size);
		}
	}
	close(fd);
	return found;
}

static int uml_check(const struct machine_options *o, struct sl_err *err)
{
	char path[PATH_MAX];
	int ret = machine_check_file("--kernel", o->kernel, ELFMAG, 0, "User-mode Linux kernel (ELF program)", err);

	if (ret)
		return ret;
	if (access(o->kernel, X_OK))
		return sl_err_set(err, errno, "--kernel %s: %s", o->kernel, strerror(errno));
	if (!is_linux(o->kernel))
		return sl_err_set(err, ENOEXEC, "--kernel %s: is a program, but no User-mode Linux kernel", o->kernel);
	if (o->cpus != 1)
		return sl_err_set(err, EINVAL, "--cpus %u: User-mode Linux has one", o->cpus);
	if (o->hugepages)
		return sl_err_set(err, ENOTSUP, "--memory: hugepages=on: User-mode Linux cannot; engines kvm and qemu can");
	if (needs_wide_xsave() && !find_library(path, sizeof(path)))
		return sl_err_set(err, ENOENT, "engine uml: %s/sluice-uml-xsave.so: not there, and this CPU needs it",
				  SLUICE_LIBEXEC);
	return o->initrd ? machine_check_file("--initrd", o->initrd, "", 0, "", err) : 0;
}

static int make_dir(struct uml *u, struct sl_err *err)
{
	const char *tmp = getenv("TMPDIR");

	if ((size_t)snprintf(u->dir, sizeof(u->dir), "%s/sluice-XXXXXX", tmp && *tmp ? tmp : "/tmp") >= sizeof(u->dir) ||
	    !mkdtemp(u->dir)) {
		int ret = sl_err_set(err, errno, "%s: %s", u->dir, strerror(errno));

		u->dir[0] = '\0';
		return ret;
	}
	return 0;
}

static int add_device(struct uml *u, struct machine_device *d, unsigned int index, struct child_argv *a,
		      struct sl_err *err)
{
	char path[PATH_MAX + 16];
	int ret = 0;

	snprintf(path, sizeof(path), "%s", d->place.socket ? d->place.socket : "");
	if (d->served) {
		snprintf(path, sizeof(path), "%s/%u", u->dir, index);
		ret = machine_serve(d, path, -1, err);
	} else if (strpbrk(path, ":, ")) {
		ret = sl_err_set(err, EINVAL, "%s: socket=%s: engine uml takes no path with ':', ',' or ' '",
				 d->type->type, path);
	}
	child_arg(a, "virtio_uml.device=%s:%u", path, d->type->id);
	return ret;
}

/* A word of the guest's command line is an argument of its own. */
static void add_words(struct child_argv *a, const char *text)
{
	while (*(text += strspn(text, " "))) {
		size_t n = strcspn(text, " ");

		child_arg(a, "%.*s", (int)n, text);
		text += n;
	}
}

static int uml_start(struct machine *m, int console, struct sl_err *err)
{
	const struct machine_options *o = m->options;
	struct child_argv a = {0};
	struct uml *u = calloc(1, sizeof(*u));
	char library[PATH_MAX];
	int ret;

	if (!u)
		return sl_err_set(err, ENOMEM, "out of memory");
	m->priv = u;
	ret = make_dir(u, err);
	child_arg(&a, "%s%s", strchr(o->kernel, '/') ? "" : "./", o->kernel);
	child_arg(&a, "mem=%lluM", (unsigned long long)(o->memory / MIB));
	if (o->initrd)
		child_arg(&a, "initrd=%s", o->initrd);
	for (unsigned int i = 0; i < o->num_devices && !ret; i++)
		ret = add_device(u, &m->devices[i], i, &a, err);
	add_words(&a, "con=null con0=fd:0,fd:1 noreboot panic=-1");
	add_words(&a, o->append ? o->append : "");
	if (needs_wide_xsave() && find_library(library, sizeof(library)))
		snprintf(u->env, sizeof(u->env), "LD_PRELOAD=%s", library);
	if (!ret) {
		const struct child_config cfg = {
			.argv = &a, .console = console, .env = u->env[0] ? u->env : NULL, .rmdir = u->dir,
		};

		ret = child_start(&m->child, &cfg, err);
	}
	child_argv_free(&a);
	return ret;
}

static const char *uml_verdict(struct machine *m, int status, char *buf, size_t len)
{
	(void)m;
	if (!status)
		return NULL;
	if (status == 128 + SIGABRT)
		return "the guest panicked";
	if (status > 128)
		snprintf(buf, len, "User-mode Linux was killed by signal %d", status - 128);
	else
		snprintf(buf, len, "User-mode Linux ended with status %d", status);
	return buf;
}

/* The guardian does this too, but there is none when the start failed. */
static void uml_finish(struct machine *m)
{
	struct uml *u = m->priv;

	if (!u)
		return;
	for (unsigned int i = 0; i < m->options->num_devices && u->dir[0]; i++) {
		char path[PATH_MAX + 16];

		snprintf(path, sizeof(path), "%s/%u", u->dir, i);
		unlink(path);
	}
	if (u->dir[0])
		rmdir(u->dir);
	free(u);
}

const struct engine engine_uml = {
	.name = "uml",
	.hosts = uml_hosts,
	.check = uml_check,
	.start = uml_start,
	.verdict = uml_verdict,
	.finish = uml_finish,
};
