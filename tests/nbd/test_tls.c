/* SPDX-License-Identifier: MIT */
/* test_tls.c - encrypted NBD: whom we talk to, and whom not, with nbdkit and qemu-nbd as servers */
#include "nbd/server.h"

#define KEY "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"

/* A certificate in DIR/@folder as @who (server, client), for @name as in "IP:192.0.2.1", signed by DIR/@ca. */
static void sign(const char *ca, const char *folder, const char *who, const char *name, int days)
{
	REQUIRE(!shell("cd %s && mkdir -p %s && cp %s/ca-cert.pem %s/ && "
		       "openssl req " KEY " -keyout %s/%s-key.pem -out csr -subj /CN=%s 2>/dev/null && "
		       "echo subjectAltName=%s >ext && "
		       "openssl x509 -req -in csr -CA %s/ca-cert.pem -CAkey %s/ca-key.pem -CAcreateserial -days %d "
		       "-extfile ext -out %s/%s-cert.pem 2>/dev/null",
		       dir, folder, ca, folder, folder, who, who, name, ca, ca, days, folder, who));
}

static void make_ca(const char *name)
{
	REQUIRE(!shell("mkdir %s/%s && cd %s/%s && openssl req -x509 " KEY
		       " -keyout ca-key.pem -out ca-cert.pem -subj /CN=%s -days 2 2>/dev/null",
		       dir, name, dir, name, name));
}

/*
 * ca/, other/: two authorities. server/, expired/, elsewhere/: servers of the first, the last not for this address. No
 * name is looked up: a machine may know none, not even localhost.
 * client/: what a client of theirs has; stranger/: it trusts the other one.
 */
static void make_certificates(void)
{
	port = 20000 + (int)(getpid() % 10000); /* none that a client may be given, or it talks to itself */
	make_ca("ca");
	make_ca("other");
	sign("ca", "server", "server", "IP:127.0.0.1", 2);
	sign("ca", "expired", "server", "IP:127.0.0.1", -1);
	sign("ca", "elsewhere", "server", "DNS:elsewhere", 2);
	sign("ca", "client", "client", "DNS:somebody", 2);
	sign("other", "stranger", "client", "DNS:somebody", 2);
}

/* The URI and keys of a client with the certificates in @folder. */
static const char *with(const char *folder)
{
	snprintf(uri, sizeof(uri), "nbds://127.0.0.1:%d/,tls-certificates=%s/%s", port, dir, folder);
	return uri;
}

static void works(bool space)
{
	struct bed bed;

	bed_open(&bed, "blk,%s", uri);
	round_trip(&bed, space);
	bed_close(&bed);
}

static void certificates(void)
{
	pid_t pid;

	make_certificates();
	pid = serve("nbdkit -f -i 127.0.0.1 -p %d --tls=require --tls-certificates=%s/server memory 8M", port, dir);
	with("client");
	works(true);
	with("ca");
	works(true); /* the server does not ask who we are */
	refuses("another CA", "blk,%s", with("stranger"));
	refuses("ca-cert.pem", "blk,%s", with("nowhere"));
	refuses("write nbds", "blk,nbd://127.0.0.1:%d/", port);
	refuses("whom to trust", "blk,nbds://127.0.0.1:%d/", port);
	refuses("no encryption is asked for", "blk,nbd://127.0.0.1:%d/,tls-certificates=%s/client", port, dir);
	refuses("as a key", "blk,nbds://127.0.0.1:%d/?tls-certificates=%s/client", port, dir);
	end(pid);
	pid = serve("nbdkit -f -i 127.0.0.1 -p %d --tls=require --tls-verify-peer --tls-certificates=%s/server memory 8M",
		    port, dir);
	with("client");
	works(true);
	refuses("cannot connect", "blk,%s", with("ca"));
	end(pid);
	pid = serve("nbdkit -f -i 127.0.0.1 -p %d --tls=require --tls-certificates=%s/expired memory 8M", port, dir);
	refuses("expired", "blk,%s", with("client"));
	end(pid);
	pid = serve("nbdkit -f -i 127.0.0.1 -p %d --tls=require --tls-certificates=%s/elsewhere memory 8M", port, dir);
	refuses("another name", "blk,%s", with("client"));
	snprintf(uri, sizeof(uri), "nbds://127.0.0.1:%d/,tls-verify=off,tls-certificates=%s/client", port, dir);
	works(true);
	end(pid);
	pid = serve("nbdkit -f -i 127.0.0.1 -p %d memory 8M", port);
	refuses("the server has no TLS", "blk,%s", with("client"));
	end(pid);
}

static void shared_key(void)
{
	pid_t pid;

	port = 0;
	REQUIRE(!shell("echo me:$(openssl rand -hex 32) >%s/keys; echo me:$(openssl rand -hex 32) >%s/wrong", dir, dir));
	pid = serve("nbdkit -f -U %s --tls=require --tls-psk=%s/keys memory 8M", sock, dir);
	snprintf(uri, sizeof(uri), "nbds+unix:///?socket=%s,tls-psk=%s/keys,tls-username=me", sock, dir);
	works(true);
	/* The user's own name, though nobody has logged in. */
	REQUIRE(!shell("echo $(id -un):$(cut -d: -f2 <%s/keys) >>%s/keys", dir, dir));
	snprintf(uri, sizeof(uri), "nbds+unix:///?socket=%s,tls-psk=%s/keys", sock, dir);
	works(true);
	refuses("cannot connect", "blk,nbds+unix:///?socket=%s,tls-psk=%s/wrong,tls-username=me", sock, dir);
	refuses("cannot connect", "blk,nbds+unix:///?socket=%s,tls-psk=%s/keys,tls-username=you", sock, dir);
	refuses("cannot connect", "blk,nbds+unix:///?socket=%s,tls-psk=%s/none,tls-username=me", sock, dir);
	refuses("Unix socket", "blk,nbds+unix:///?socket=%s,tls-certificates=%s", sock, dir);
	end(pid);
}

static void qemu(void)
{
	pid_t pid;

	make_certificates();
	file_make("disk", 8 * MiB, NULL, 0);
	pid = serve("qemu-nbd -t -f raw -e 0 -b 127.0.0.1 -p %d --object "
		    "tls-creds-x509,id=t,endpoint=server,verify-peer=yes,dir=%s/server --tls-creds t %s/disk", port, dir, dir);
	with("client");
	works(true);
	refuses("another CA", "blk,%s", with("stranger"));
	end(pid);
}

static void server_killed(void)
{
	char command[512];

	make_certificates();
	file_make("disk", 8 * MiB, NULL, 0);
	snprintf(command, sizeof(command), "nbdkit -f -i 127.0.0.1 -p %d --tls=require --tls-certificates=%s/server "
		 "--filter=delay file %s/disk wdelay=2ms rdelay=1ms", port, dir, dir);
	with("client");
	killed_under_load(command);
}

static const struct t_case cases[] = {
	{"certificates", certificates},
	{"shared_key", shared_key},
	{"qemu", qemu},
	{"server_killed", server_killed},
};

NBD_MAIN("nbdkit qemu-nbd openssl", cases)
