/* SPDX-License-Identifier: ISC */
/*
 * Stand-ins for functions of OpenSSL, beside those of test_x25519.h and test_hash.h, and for those
 * of tls_aead.c; which memory has secrets is noted, too. With tls_exchange.c, so as to know when it
 * forgets keys. Included by test_exchange.c alone.
 */
#ifndef TEST_EXCHANGE_STAND_INS_H
#define TEST_EXCHANGE_STAND_INS_H

#include "test_hash.h"
#include "test_x25519.h"
#include "wiped.h"

/* To overwrite a key is no step of the handshake. */
static void forget_keys(void)
{
	spare = true;
	tls_hash_forget();
	spare = false;
}

#define tls_hash_forget forget_keys
#include "tls_exchange.c"
#undef tls_hash_forget

static time_t clock_ahead; /* of the real one */
/* The keys that a cipher or HMAC begins with are to be wiped, too. */
static bool keys_are_exposed;
static uint8_t last_wiped[64]; /* of that size */

static void expose_key(const void *at, size_t len)
{
	if (keys_are_exposed && at)
		expose(at, len);
}

static void expose_hmac_key(const void *at, size_t len)
{
	if (len == TLS_TICKET_SECRET)
		expose_key(at, len);
}

/* What HMAC's padding is made of is as secret as the key. */
static void expose_pad(const void *at, size_t len)
{
	if (!spare && (len == block_of(TLS_HASH_SHA256) || len == block_of(TLS_HASH_SHA384)))
		expose(at, len);
}

static void keep_wiped(const void *at, size_t len)
{
	if (len == sizeof(last_wiped))
		memcpy(last_wiped, at, len);
}

/* No context has the key of a connection, and no memory has its secrets. */
static void assert_forgotten(void)
{
	assert_no_keys();
	assert_int_equal(exposed_count(), 0);
}

static void end_thread(void)
{
	tls_exchange_thread_end();
	assert_no_keys();
}

static const struct shown_algorithm *shown_algorithm(size_t i)
{
	if (i < COUNT(hash_algorithms))
		return &hash_algorithms[i];
	i -= COUNT(hash_algorithms);
	return i < COUNT(x25519_algorithms) ? &x25519_algorithms[i] : NULL;
}

STAND_IN(int, EVP_PKEY_get_octet_string_param,
	 (const EVP_PKEY *key, const char *part, unsigned char *to, size_t size, size_t *len),
	 (key, part, to, size, len), 0)
STAND_IN(EVP_CIPHER_CTX *, EVP_CIPHER_CTX_new, (void), (), NULL)
STAND_IN_NOTING(int, EVP_EncryptInit_ex,
		(EVP_CIPHER_CTX * ctx, const EVP_CIPHER *cipher, ENGINE *e,
		 const unsigned char *key, const unsigned char *iv),
		(ctx, cipher, e, key, iv), 0, expose_key(key, 32))
STAND_IN_NOTING(int, EVP_DecryptInit_ex,
		(EVP_CIPHER_CTX * ctx, const EVP_CIPHER *cipher, ENGINE *e,
		 const unsigned char *key, const unsigned char *iv),
		(ctx, cipher, e, key, iv), 0, expose_key(key, 32))
STAND_IN_NOTING(int, EVP_EncryptUpdate,
		(EVP_CIPHER_CTX * ctx, unsigned char *out, int *out_len, const unsigned char *in,
		 int len),
		(ctx, out, out_len, in, len), 0, expose(in, (size_t)len))
STAND_IN(int, EVP_EncryptFinal_ex, (EVP_CIPHER_CTX * ctx, unsigned char *out, int *len),
	 (ctx, out, len), 0)
STAND_IN(int, RAND_bytes, (unsigned char *to, int len), (to, len), 0)
STAND_IN(int, RAND_priv_bytes, (unsigned char *to, int len), (to, len), 0)
STAND_IN(int, SSL_SESSION_set1_master_key,
	 (SSL_SESSION * session, const unsigned char *key, size_t len), (session, key, len), 0)
STAND_IN(int, SSL_SESSION_set1_ticket_appdata,
	 (SSL_SESSION * session, const void *data, size_t len), (session, data, len), 0)
STAND_IN(int, i2d_SSL_SESSION, (const SSL_SESSION *session, unsigned char **to), (session, to), 0)
STAND_IN(size_t, SSL_get_client_random, (const SSL *ssl, unsigned char *to, size_t len),
	 (ssl, to, len), (ERR_clear_error(), (size_t)0))
STAND_IN(size_t, SSL_get_server_random, (const SSL *ssl, unsigned char *to, size_t len),
	 (ssl, to, len), (ERR_clear_error(), (size_t)0))

HIDDEN time_t time(time_t *to)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	now.tv_sec += clock_ahead;
	if (to)
		*to = now.tv_sec;
	return now.tv_sec;
}

#endif
