/* SPDX-License-Identifier: MIT */
/* nbd_open.c - NBD sources: their keys, what the server can, their size and figures. nbd.c has the requests. */
#include "block/nbd.h"

#include <errno.h>
#include <string.h>

#include "block/deadline.h"

#define CONNECT_MS 10000u     /* for connecting and negotiating */
#define REFRESH_MS 3000u      /* the same, while the control loop waits for it */
#define END_MS 1000u	      /* for a qemu-nbd that hangs up to be gone */
#define MAX_PIECE (32u << 20) /* of a read or write, which is what every server takes */

struct nbd_place *nbd_place_of(struct nbd *n)
{
	if (n->image)
		return nbd_image_place(n->image);
	__atomic_add_fetch(&n->at->refs, 1, __ATOMIC_RELAXED);
	return n->at;
}

/* ---- size and figures ---- */

void nbd_report(struct block *b, const struct block_report *r)
{
	struct nbd *n = (struct nbd *)b;

	r->number(r->arg, "nbd.connections", __atomic_load_n(&n->connections, __ATOMIC_RELAXED));
	r->number(r->arg, "nbd.reconnects", __atomic_load_n(&n->reconnects, __ATOMIC_RELAXED));
	r->number(r->arg, "nbd.connections-lost", __atomic_load_n(&n->losses, __ATOMIC_RELAXED));
	deadlines_report(&n->ages, r);
	if (n->image)
		nbd_image_report(n->image, r);
}

/* The size that the server tells now. */
static int ask_size(struct nbd *n, uint64_t *size, struct sl_err *err)
{
	struct nbd_place *at = nbd_place_of(n);
	struct nbd_handle *h = NULL;
	struct nbd_attempt *a;
	struct sl_err why;
	int ret;

	if (!at)
		return sl_err_set(err, EAGAIN, "%s: qemu-nbd is being started again", n->b.name);
	a = nbd_attempt_start(at, REFRESH_MS, NULL, NULL, NULL);
	nbd_place_put(at);
	if (!a)
		return sl_err_set(err, EAGAIN, "%s: cannot start a thread", n->b.name);
	nbd_attempt_wait(a, REFRESH_MS);
	ret = nbd_attempt_end(a, &h, &why);
	if (ret)
		return sl_err_set(err, -ret, "%s: cannot look at the size: %s", n->b.name, why.text);
	*size = libnbd.nbd_get_size(h) < 0 ? 0 : (uint64_t)libnbd.nbd_get_size(h);
	libnbd.nbd_aio_disconnect(h, 0);
	libnbd.nbd_close(h);
	return 0;
}

int nbd_refresh(struct block *b, struct sl_err *err)
{
	struct nbd *n = (struct nbd *)b;
	uint64_t size = __atomic_exchange_n(&n->found, 0, __ATOMIC_RELAXED);
	int ret = size ? 0 : ask_size(n, &size, err);

	if (ret)
		return ret;
	size -= size % b->info.block_size;
	if (!size)
		return sl_err_set(err, EINVAL, "%s: has shrunk to less than one block", b->name);
	__atomic_store_n(&b->info.size, size, __ATOMIC_RELAXED);
	return 0;
}

int nbd_resize(struct block *b, uint64_t size, struct sl_err *err)
{
	struct nbd *n = (struct nbd *)b;

	if (!n->image)
		return sl_err_set(err, ENOTSUP, "%s: 'nbd' cannot be resized from here", b->name);
	if (size < b->info.size)
		return sl_err_set(err, EINVAL, "%s: an image only grows here: what it loses when it shrinks is for "
				  "'qemu-img resize --shrink' to be told, while nobody uses it", b->name);
	return nbd_image_resize(n->image, size, err);
}

void nbd_free(struct block *b)
{
	struct nbd *n = (struct nbd *)b;

	nbd_image_close(n->image);
	if (n->at)
		nbd_place_put(n->at);
	deadlines_free(&n->ages);
	block_free(b);
}

/* ---- opening ---- */

static bool power_of_two(int64_t n, uint32_t least, uint32_t most)
{
	return n >= least && n <= most && !(n & (n - 1));
}

static int describe_sizes(struct nbd *n, struct nbd_handle *h, const struct block_options *o, struct sl_err *err)
{
	int64_t size = libnbd.nbd_get_size(h), least = libnbd.nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
	int64_t best = libnbd.nbd_get_block_size(h, LIBNBD_SIZE_PREFERRED);
	int64_t most = libnbd.nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);
	struct block_info *info = &n->b.info;
	int ret;

	if (least < 512)
		least = 512;
	if (size < 0 || !power_of_two(least, 512, 65536))
		return sl_err_set(err, EINVAL, "%s: the server's sizes make no sense: %lld bytes in blocks of %lld",
				  n->b.name, (long long)size, (long long)least);
	if (o->block_size && o->block_size < (uint64_t)least)
		return sl_err_set(err, EINVAL, "%s: block-size=%llu: %lld is the least that the server takes", n->b.name,
				  (unsigned long long)o->block_size, (long long)least);
	ret = block_set_size(&n->b, (uint64_t)size, (uint32_t)least, o, err);
	if (ret)
		return ret;
	if (most <= 0 || most > MAX_PIECE)
		most = MAX_PIECE;
	n->piece = (uint32_t)most & ~(info->block_size - 1);
	n->bounce = n->piece < NBD_BOUNCE_SIZE ? n->piece : NBD_BOUNCE_SIZE;
	if (!n->piece)
		return sl_err_set(err, EINVAL, "%s: the server takes no more than %lld bytes, less than one block of %u",
				  n->b.name, (long long)most, info->block_size);
	if (power_of_two(best, info->block_size, 65536))
		info->physical_size = (uint32_t)best;
	info->discard_granularity = info->physical_size;
	return 0;
}

static int describe(struct nbd *n, struct nbd_handle *h, const struct block_options *o, struct sl_err *err)
{
	struct block_info *info = &n->b.info;
	int ret = describe_sizes(n, h, o, err);

	if (ret)
		return ret;
	if (!o->read_only && libnbd.nbd_is_read_only(h) != 0)
		return sl_err_set(err, EROFS, "%s: the server does not let it be written; add readonly=on", n->b.name);
	n->fua = libnbd.nbd_can_fua(h) == 1;
	n->flush = libnbd.nbd_can_flush(h) == 1;
	info->flush = n->flush && !n->durable;
	info->discard = o->discard && libnbd.nbd_can_trim(h) == 1;
	info->write_zeroes = libnbd.nbd_can_zero(h) == 1;
	info->unmap_zeroes = info->write_zeroes && o->discard;
	info->single = libnbd.nbd_can_multi_conn(h) != 1;
	if (n->image && info->flush && n->fua && !o->read_only)
		n->log = nbd_image_log(n->image);
	return 0;
}

/* Connect once; our own server may end instead of answering, and its words are better than libnbd's. */
static int first_contact(struct nbd *n, unsigned int limit_ms, struct nbd_handle **h, struct sl_err *err)
{
	struct nbd_place *at = nbd_place_of(n);
	struct nbd_attempt *a = at ? nbd_attempt_start(at, limit_ms, NULL, NULL, NULL) : NULL;
	struct sl_err why;
	int ret;

	if (at)
		nbd_place_put(at);
	if (a)
		nbd_attempt_wait(a, limit_ms);
	ret = a ? nbd_attempt_end(a, h, &why) : sl_err_set(&why, EAGAIN, "no thread for it");
	if (ret && n->image && nbd_image_ended(n->image, END_MS, &why))
		return sl_err_set(err, EIO, "%s: %s", n->b.name, why.text);
	return ret ? sl_err_set(err, -ret, "%s: cannot connect: %s", n->b.name, why.text) : 0;
}

int nbd_open_at(const char *name, struct nbd_place *at, struct nbd_image *image, bool durable, uint64_t timeout,
		const struct block_options *o, struct block **out, struct sl_err *err)
{
	struct nbd *n = (struct nbd *)block_alloc(&nbd_ops, name, err);
	const bool shorter = timeout && timeout * 1000 < CONNECT_MS;
	struct nbd_handle *h = NULL;
	int ret;

	if (!n) {
		nbd_image_close(image);
		if (at)
			nbd_place_put(at);
		return -ENOMEM;
	}
	n->at = at;
	n->image = image;
	n->durable = durable;
	deadlines_init(&n->ages, "nbd", timeout, nbd_expired);
	ret = first_contact(n, shorter ? (unsigned int)timeout * 1000 : CONNECT_MS, &h, err);
	if (!ret) {
		ret = describe(n, h, o, err);
		libnbd.nbd_aio_disconnect(h, 0);
		libnbd.nbd_close(h);
	}
	if (!ret && image && !nbd_image_opened(image))
		ret = sl_err_set(err, EIO, "%s: qemu-nbd has ended", name);
	if (ret) {
		nbd_free(&n->b);
		return ret;
	}
	*out = &n->b;
	return 0;
}

/* ---- the rows of the table ---- */

static const struct opt_def options[] = {
	{"timeout", OPT_UINT, offsetof(struct nbd_options, timeout), .def = "0", .max = DEADLINE_TIMEOUT_MAX,
	 .help = "seconds after which a request without an answer fails; 0: it waits for ever"},
	{"tls-certificates", OPT_STRING, offsetof(struct nbd_options, certificates),
	 .help = "folder with ca-cert.pem and, for servers that ask for them, client-cert.pem and client-key.pem"},
	{"tls-psk", OPT_STRING, offsetof(struct nbd_options, psk),
	 .help = "file of user names and keys that the server shares, instead of certificates"},
	{"tls-username", OPT_STRING, offsetof(struct nbd_options, username),
	 .help = "whose key in the file of tls-psk to use; the default is who runs sluice"},
	{"tls-verify", OPT_BOOL, offsetof(struct nbd_options, verify), .def = "on",
	 .help = "check that the server's certificate is signed by ca-cert.pem and for its host"},
	{0},
};

const struct opt_table nbd_options_table = {"nbd", options};

/* Encrypted, but to whom? What libnbd does not check is said here. */
static int check_tls(const char *uri, const struct nbd_options *o, struct sl_err *err)
{
	const bool tls = !strncmp(uri, "nbds", 4), on_unix = !strncmp(uri, "nbds+unix:", 10);

	if (strstr(uri, "tls-certificates=") || strstr(uri, "tls-psk-file="))
		return sl_err_set(err, EINVAL, "%s: write tls-certificates= or tls-psk= as a key of the device", uri);
	if (!tls && (o->certificates || o->psk || o->username))
		return sl_err_set(err, EINVAL, "%s: no encryption is asked for: tls-certificates, tls-psk and "
				  "tls-username want nbds", uri);
	if (tls && !o->certificates == !o->psk)
		return sl_err_set(err, EINVAL, "%s: whom to trust? It takes one of tls-certificates=FOLDER and "
				  "tls-psk=FILE", uri);
	if (on_unix && !o->psk && o->verify)
		return sl_err_set(err, EINVAL, "%s: a certificate names a host, and a Unix socket has none to check: "
				  "use tls-psk=FILE, or tls-verify=off", uri);
	return 0;
}

static int nbd_open(const char *text, const struct block_options *o, struct spec *s, struct block **out,
		    struct sl_err *err)
{
	struct nbd_options no = {0};
	struct nbd_place *at;
	int ret = opts_apply(&nbd_options_table, s, &no, err);

	(void)text; /* libnbd reads the whole URI */
	if (!ret)
		ret = check_tls(s->source, &no, err);
	if (ret)
		return ret;
	at = nbd_place_new(s->source, s->source, NULL, &no, err);
	return at ? nbd_open_at(s->source, at, NULL, false, no.timeout, o, out, err) : -ENOMEM;
}

const struct block_source block_source_nbd = {
	.prefix = "nbd:",
	.source = {"nbd://HOST[:PORT][/EXPORT]", "a disk of an NBD server"},
	.options = &nbd_options_table,
	.open = nbd_open,
};

const struct block_source block_source_nbd_unix = {
	.prefix = "nbd+unix:",
	.source = {"nbd+unix:///[EXPORT]?socket=PATH", "a disk of an NBD server that listens on a Unix socket"},
	.options = &nbd_options_table,
	.open = nbd_open,
};

const struct block_source block_source_nbds = {
	.prefix = "nbds:",
	.source = {"nbds://HOST[:PORT][/EXPORT]", "the same, encrypted"},
	.options = &nbd_options_table,
	.open = nbd_open,
};

const struct block_source block_source_nbds_unix = {
	.prefix = "nbds+unix:",
	.source = {"nbds+unix:///[EXPORT]?socket=PATH", "the same, encrypted"},
	.options = &nbd_options_table,
	.open = nbd_open,
};
