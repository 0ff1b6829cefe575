/* SPDX-License-Identifier: ISC */
/*
 * Hashes and HMAC (RFC 2104), by libcrypto. What it takes to look one up is done once in each
 * thread, since that costs more than to use it, and the usual way goes past EVP, which costs more,
 * too. When libcrypto fails, its reason stays in the thread's queue of errors.
 */
#ifndef TLS_HASH_H
#define TLS_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TLS_HASH_MAX 48 /* bytes of the longest */

enum tls_hash {
	TLS_HASH_SHA256,
	TLS_HASH_SHA384,
	TLS_HASH_MD5,
	TLS_HASH_SHA1,
	TLS_HASHES,
};

/* Bytes that do not end with a NUL; borrowed. */
struct tls_bytes {
	const void *data;
	size_t len;
};

/* In bytes. */
size_t tls_hash_size(enum tls_hash hash);

/* Hashes pieces that follow each other; an empty one may be NULL. Returns false when libcrypto
 * fails. */
bool tls_hash_digest(enum tls_hash hash, const struct tls_bytes *pieces, size_t count,
		     uint8_t *out);

/* Likewise with a key, which may be empty, but not NULL. out may be one of the pieces. */
bool tls_hash_hmac(enum tls_hash hash, struct tls_bytes key, const struct tls_bytes *pieces,
		   size_t count, uint8_t *out);

/* Overwrites what the calling thread keeps of keys, and what is left of them on the stack below.
 * What cannot be overwritten is freed, and the thread's queue of errors cleared. */
void tls_hash_forget(void);

/* Frees what the calling thread keeps. */
void tls_hash_thread_end(void);

#endif
