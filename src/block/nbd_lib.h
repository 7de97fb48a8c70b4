/* SPDX-License-Identifier: MIT */
/* nbd_lib.h - libnbd, loaded when the first connection is made
 *
 * Linked into the program it would be twenty libraries (TLS, XML, Unicode),
 * which every start of sluice would load and set up: 2 ms, also without NBD.
 * Included in place of libnbd.h; its functions are called by their names.
 */
#ifndef BLOCK_NBD_LIB_H
#define BLOCK_NBD_LIB_H

#include <libnbd.h>

#include <sluice/error.h>

/* Every function of libnbd that is called. */
#define NBD_CALLS(X) \
	X(nbd_aio_connect_unix) X(nbd_aio_connect_uri) X(nbd_aio_disconnect) X(nbd_aio_flush) \
	X(nbd_aio_get_direction) X(nbd_aio_get_fd) X(nbd_aio_is_closed) X(nbd_aio_is_dead) X(nbd_aio_is_ready) \
	X(nbd_aio_notify_read) X(nbd_aio_notify_write) X(nbd_aio_pread) X(nbd_aio_pwrite) X(nbd_aio_trim) \
	X(nbd_aio_zero) X(nbd_can_flush) X(nbd_can_fua) X(nbd_can_multi_conn) X(nbd_can_trim) X(nbd_can_zero) \
	X(nbd_close) X(nbd_create) X(nbd_flush) X(nbd_get_block_size) X(nbd_get_errno) X(nbd_get_error) \
	X(nbd_get_size) X(nbd_is_read_only) X(nbd_pwrite) X(nbd_set_pread_initialize) \
	X(nbd_set_request_structured_replies) X(nbd_set_tls_certificates) X(nbd_set_tls_psk_file) \
	X(nbd_set_tls_username) X(nbd_set_tls_verify_peer) X(nbd_set_uri_allow_local_file) X(nbd_trim) \
	X(nbd_zero)

struct nbd_calls {
#define NBD_MEMBER(name) __typeof__(name) *name;
	NBD_CALLS(NBD_MEMBER)
#undef NBD_MEMBER
};

/** libnbd - set by nbd_load(), before anybody uses it, and constant then */
extern struct nbd_calls libnbd;

/** nbd_load() - load the library, once; 0 or -errno with @err filled. Any thread */
int nbd_load(struct sl_err *err);

#ifndef NBD_LIB_HERE /* as in nbd_lib.c, which has to name the members */
#define nbd_aio_connect_unix libnbd.nbd_aio_connect_unix
#define nbd_aio_connect_uri libnbd.nbd_aio_connect_uri
#define nbd_aio_disconnect libnbd.nbd_aio_disconnect
#define nbd_aio_flush libnbd.nbd_aio_flush
#define nbd_aio_get_direction libnbd.nbd_aio_get_direction
#define nbd_aio_get_fd libnbd.nbd_aio_get_fd
#define nbd_aio_is_closed libnbd.nbd_aio_is_closed
#define nbd_aio_is_dead libnbd.nbd_aio_is_dead
#define nbd_aio_is_ready libnbd.nbd_aio_is_ready
#define nbd_aio_notify_read libnbd.nbd_aio_notify_read
#define nbd_aio_notify_write libnbd.nbd_aio_notify_write
#define nbd_aio_pread libnbd.nbd_aio_pread
#define nbd_aio_pwrite libnbd.nbd_aio_pwrite
#define nbd_aio_trim libnbd.nbd_aio_trim
#define nbd_aio_zero libnbd.nbd_aio_zero
#define nbd_can_flush libnbd.nbd_can_flush
#define nbd_can_fua libnbd.nbd_can_fua
#define nbd_can_multi_conn libnbd.nbd_can_multi_conn
#define nbd_can_trim libnbd.nbd_can_trim
#define nbd_can_zero libnbd.nbd_can_zero
#define nbd_close libnbd.nbd_close
#define nbd_create libnbd.nbd_create
#define nbd_flush libnbd.nbd_flush
#define nbd_get_block_size libnbd.nbd_get_block_size
#define nbd_get_errno libnbd.nbd_get_errno
#define nbd_get_error libnbd.nbd_get_error
#define nbd_get_size libnbd.nbd_get_size
#define nbd_is_read_only libnbd.nbd_is_read_only
#define nbd_pwrite libnbd.nbd_pwrite
#define nbd_set_pread_initialize libnbd.nbd_set_pread_initialize
#define nbd_set_request_structured_replies libnbd.nbd_set_request_structured_replies
#define nbd_set_tls_certificates libnbd.nbd_set_tls_certificates
#define nbd_set_tls_psk_file libnbd.nbd_set_tls_psk_file
#define nbd_set_tls_username libnbd.nbd_set_tls_username
#define nbd_set_tls_verify_peer libnbd.nbd_set_tls_verify_peer
#define nbd_set_uri_allow_local_file libnbd.nbd_set_uri_allow_local_file
#define nbd_trim libnbd.nbd_trim
#define nbd_zero libnbd.nbd_zero
#endif

#endif
