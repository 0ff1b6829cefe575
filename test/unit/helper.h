/* SPDX-License-Identifier: ISC */
/* What several programs of the unit tests need. */
#ifndef TEST_UNIT_HELPER_H
#define TEST_UNIT_HELPER_H

#include <openssl/ssl.h>

#include <stddef.h>
#include <stdint.h>

/* Reads hex digits to out. Returns the bytes. */
size_t unhex(const char *digits, uint8_t *out);

/* Bytes that are others with each call; good until the next one. len is PATTERN_MAX at most. */
#define PATTERN_MAX (1 << 18)
uint8_t *pattern(size_t len);

/* ssl reads text, of PATTERN_MAX bytes at most, from the n bytes that come on the wire. */
void assert_reads(SSL *ssl, const uint8_t *wire, size_t n, const uint8_t *text, size_t len);

/* Puts an error into the thread's queue, as a function of OpenSSL does that fails. */
void raise_error(void);

void assert_zeros(const void *memory, size_t len);

/* Gives ctx a new key, ECDSA P-256, and its own certificate for it. */
void make_identity(SSL_CTX *ctx);

/* The same with a key of RSA, 1024 bits: for security level 1, made in no time. */
void make_rsa_identity(SSL_CTX *ctx);

#endif
