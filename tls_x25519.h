/* SPDX-License-Identifier: ISC */
/*
 * The secret that two keys of X25519 share (RFC 7748 section 6.1), by libcrypto.
 *
 * Any process. What is kept of libcrypto belongs to the thread, and has no key.
 */
#ifndef TLS_X25519_H
#define TLS_X25519_H

#include <openssl/evp.h>

#include <stdbool.h>
#include <stdint.h>

#define TLS_X25519_KEY 32 /* bytes of either part of a key, and of a secret */

/* Owner: who made it; it holds a secret. */
struct tls_x25519_key {
	uint8_t private_part[TLS_X25519_KEY], public_part[TLS_X25519_KEY];
};

enum tls_x25519 {
	TLS_X25519_OK,
	TLS_X25519_REFUSED, /* the peer's key is of small order: the secret would be zeros */
	TLS_X25519_FAILED,  /* libcrypto cannot, or has failed */
};

/* True if libcrypto can do this here: not before OpenSSL 3, nor with every FIPS provider. */
bool tls_x25519_works(void);

/* Takes both parts of a key. Returns false, and leaves what may be secret, if it is not X25519's.
 */
bool tls_x25519_take(struct tls_x25519_key *to, const EVP_PKEY *key);

/* Makes the secret that the key shares with a peer of that public key. Leaves no errors of
 * libcrypto but its own, and may leave something secret when it fails. */
enum tls_x25519 tls_x25519_secret(const struct tls_x25519_key *key,
				  const uint8_t peer[TLS_X25519_KEY],
				  uint8_t secret[TLS_X25519_KEY]);

/* Frees what is kept for the calling thread. */
void tls_x25519_thread_end(void);

#endif
