/* SPDX-License-Identifier: ISC */
/*
 * Functions of libcrypto leave secrets in the part of the stack that they have used: X25519 the
 * shared one, hashes the keys of an HMAC. What calls them next need not reach as far down.
 */
#ifndef TLS_WIPE_H
#define TLS_WIPE_H

#include <openssl/crypto.h>

#include <stdint.h>

/* More than what libcrypto was seen to use below a caller in the module itself; below libssl it
 * goes deeper, but that is in the engine, which has the keys anyway. */
#define TLS_WIPE_STACK 4096

/* Overwrites the stack below the caller's part. Not inlined, or it would be the caller's. */
static __attribute__((noinline, unused)) void tls_wipe_stack(void)
{
	uint8_t below[TLS_WIPE_STACK];

	OPENSSL_cleanse(below, sizeof(below));
}

#endif
