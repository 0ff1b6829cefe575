/* SPDX-License-Identifier: ISC */
/*
 * The hashes of TLS and the functions that derive keys with them: HKDF with the labels of TLS 1.3
 * (RFC 8446 section 7.1, RFC 5869) and the PRF of the versions before (RFC 5246 section 5, RFC 4346
 * section 5). When libcrypto fails, its reason stays in the thread's queue of errors.
 */
#ifndef TLS_KDF_H
#define TLS_KDF_H

#include "tls_hash.h"

enum tls_prf_hash {
	TLS_PRF_SHA256 = 1,
	TLS_PRF_SHA384,
	TLS_PRF_MD5_SHA1, /* both together, before TLS 1.2; only for tls_kdf_prf() */
};

/* Bytes of a hash of the key schedule (enum tls_prf_hash), or 0 for another one. */
size_t tls_kdf_hash_size(uint8_t hash);

/* HMAC (RFC 2104), which with the salt as its key is HKDF-Extract (RFC 5869 section 2.2): out gets
 * as many bytes as the hash has. Returns 0, or -1 when libcrypto fails. */
int tls_kdf_hmac(uint8_t hash, struct tls_bytes key, struct tls_bytes data, uint8_t *out);

/* The hash of pieces that follow each other; an empty one may be NULL. Returns 0, or -1 when
 * libcrypto fails. */
int tls_kdf_hash(uint8_t hash, const struct tls_bytes *pieces, size_t count, uint8_t *out);

/*
 * HKDF-Expand-Label. label is the whole one, "tls13 " included, of 255 bytes at most, as context
 * is; out overlaps nothing. Returns 0, or -1: libcrypto fails, or something is too long.
 */
int tls_kdf_expand_label(uint8_t hash, struct tls_bytes secret, struct tls_bytes label,
			 struct tls_bytes context, uint8_t *out, size_t len);

/*
 * The verify_data of a Finished message (RFC 8446 section 4.4.4): secret is the handshake traffic
 * secret of who sends it, transcript the hash of the messages before it; these and out have the
 * size of the hash. Returns 0, or -1 when libcrypto fails.
 */
int tls_kdf_finished(uint8_t hash, const uint8_t *secret, const uint8_t *transcript, uint8_t *out);

/* PRF(secret, label + seed). Returns 0, or -1 when libcrypto fails. */
int tls_kdf_prf(uint8_t hash, struct tls_bytes secret, struct tls_bytes seed, uint8_t *out,
		size_t len);

#endif
