/* SPDX-License-Identifier: ISC */
/*
 * zlib compression for TLS 1.2 and older (RFC 3749), for OpenSSL libraries
 * that have none, as most today, and instead of the one of those that have.
 *
 * What it promises: a connection's state takes no more memory than is said
 * below, whatever the peer sends; a record never becomes more than
 * OpenSSL has room for; what is corrupt or has been made to grow without
 * limit is refused, which OpenSSL tells the peer with decompression_failure.
 *
 * OpenSSL keeps the structures of a method to itself since 1.1.0, so they are
 * described here once more; fixed_c_zlib_install() proves the description
 * before anything relies on it.
 */
#ifndef FIXED_C_ZLIB_H
#define FIXED_C_ZLIB_H

#include <openssl/ssl.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes for one direction of one connection. To expand: a window of 32 KB, which the peer may
 * choose, and zlib's state. To compress zlib takes 38 KB, other makes of it more. */
#define FIXED_C_ZLIB_EXPAND   (64 * 1024)
#define FIXED_C_ZLIB_COMPRESS (512 * 1024)

#define FIXED_C_ZLIB_WHY 160

/* What one connection has compressed and expanded. Owner: the caller. */
struct fixed_c_zlib_meter {
	uint64_t clear;      /* bytes before compression, and after expansion */
	uint64_t packed;     /* the same bytes between */
	const char *trouble; /* static: why a record was refused, or NULL */
};

/*
 * Makes the method known to the OpenSSL library of this process, as RFC 3749's number 1. Before
 * any other thread uses OpenSSL. Returns 0, or -1 with the reason in why: then nothing has
 * changed. Calling it again changes nothing.
 */
int fixed_c_zlib_install(char why[FIXED_C_ZLIB_WHY]);
bool fixed_c_zlib_installed(void);

/*
 * Lets connections of a context compress, whatever its security level: OpenSSL forbids it from
 * level 2 on. Nothing else is allowed by that. After fixed_c_zlib_install().
 */
void fixed_c_zlib_allow(SSL_CTX *ctx);

/* What the calling thread compresses from now on counts there; NULL: nowhere. */
void fixed_c_zlib_count(struct fixed_c_zlib_meter *meter);

#endif
