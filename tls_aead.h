/* SPDX-License-Identifier: ISC */
/*
 * The AEAD of one record (RFC 5116), as three suites of TLS use it. Every operation is libcrypto's.
 *
 * A message of SIP is short, so that what leads to the cipher costs more than the cipher: with
 * OpenSSL 3 the functions of its provider are called as provider-cipher(7) describes them, without
 * the layer that looks them up anew each time. They have to give what EVP gives, which each thread
 * checks before its first use; where they do not, and with older libraries, it is EVP that is
 * called.
 *
 * What is kept between two calls belongs to the calling thread.
 */
#ifndef TLS_AEAD_H
#define TLS_AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TLS_AEAD_MAX_KEY 32
#define TLS_AEAD_NONCE   12
#define TLS_AEAD_TAG     16

enum tls_aead {
	TLS_AEAD_NONE,
	TLS_AEAD_AES_128_GCM,
	TLS_AEAD_AES_256_GCM,
	TLS_AEAD_CHACHA20_POLY1305,
	TLS_AEADS,
};

/* What a text is sealed with. Owner of all that it points to: the caller. */
struct tls_aead_with {
	uint8_t aead;         /* enum tls_aead */
	const uint8_t *key;   /* of tls_aead_key_size() bytes */
	const uint8_t *nonce; /* of TLS_AEAD_NONCE bytes */
	const uint8_t *aad;   /* additional data, which is authenticated only */
	size_t aad_len;
};

static inline bool tls_aead_is_known(uint8_t aead)
{
	return aead > TLS_AEAD_NONE && aead < TLS_AEADS;
}

/* Bytes of key of an AEAD, or 0 for an unknown one. */
size_t tls_aead_key_size(uint8_t aead);

/*
 * Encrypts len bytes of text in place and puts the tag, of TLS_AEAD_TAG bytes, behind them. Returns
 * 0, or -1 when libcrypto failed or the AEAD is unknown: the text is worth nothing then.
 */
int tls_aead_seal(const struct tls_aead_with *with, uint8_t *text, size_t len);

/*
 * Decrypts len bytes of text in place, if the tag behind them is right. Returns 0, or -1: nobody
 * may see the text then.
 */
int tls_aead_open(const struct tls_aead_with *with, uint8_t *text, size_t len);

/* Overwrites the keys that the calling thread used last. */
void tls_aead_forget(void);

/* Frees what the calling thread keeps. For a thread that ends before its process does; harmless
 * otherwise. */
void tls_aead_thread_end(void);

#endif
