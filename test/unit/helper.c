/* SPDX-License-Identifier: ISC */
#include "helper.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

size_t unhex(const char *digits, uint8_t *out)
{
	size_t n = strlen(digits) / 2;

	for (size_t i = 0; i < n; i++) {
		unsigned int byte;

		assert_int_equal(sscanf(digits + 2 * i, "%2x", &byte), 1);
		out[i] = (uint8_t)byte;
	}
	return n;
}

uint8_t *pattern(size_t len)
{
	static uint8_t text[PATTERN_MAX];
	static uint8_t salt;

	assert_true(len <= sizeof(text));
	salt += 13;
	for (size_t i = 0; i < len; i++)
		text[i] = (uint8_t)(i * 31 + (i >> 8) + salt);
	return text;
}

void assert_reads(SSL *ssl, const uint8_t *wire, size_t n, const uint8_t *text, size_t len)
{
	static uint8_t back[PATTERN_MAX];
	size_t got = 0;

	assert_int_equal(BIO_write(SSL_get_rbio(ssl), wire, (int)n), n);
	while (got < len) {
		int part = SSL_read(ssl, back + got, (int)(sizeof(back) - got));

		assert_true(part > 0);
		got += (size_t)part;
	}
	assert_int_equal(got, len);
	assert_memory_equal(back, text, len);
}

void raise_error(void)
{
	ERR_put_error(ERR_LIB_EVP, 0, ERR_R_INTERNAL_ERROR, __FILE__, __LINE__);
}

void assert_zeros(const void *memory, size_t len)
{
	for (size_t i = 0; i < len; i++)
		assert_int_equal(((const uint8_t *)memory)[i], 0);
}

/* Takes the key. */
static void use_key(SSL_CTX *ctx, EVP_PKEY *key)
{
	X509_NAME *name = X509_NAME_new();
	X509 *cert = X509_new();

	X509_set_version(cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
	X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
	X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"peer", -1, -1,
				   0);
	X509_set_subject_name(cert, name);
	X509_set_issuer_name(cert, name);
	X509_NAME_free(name);
	X509_set_pubkey(cert, key);
	assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
	assert_int_equal(SSL_CTX_use_certificate(ctx, cert), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(ctx, key), 1);
	X509_free(cert);
	EVP_PKEY_free(key);
}

void make_identity(SSL_CTX *ctx)
{
	EVP_PKEY_CTX *gen = EVP_PKEY_CTX_new_id(EVP_PKEY_EC, NULL);
	EVP_PKEY *key = NULL;

	assert_true(EVP_PKEY_keygen_init(gen) > 0);
	assert_true(EVP_PKEY_CTX_set_ec_paramgen_curve_nid(gen, NID_X9_62_prime256v1) > 0);
	assert_true(EVP_PKEY_keygen(gen, &key) > 0);
	EVP_PKEY_CTX_free(gen);
	use_key(ctx, key);
}

void make_rsa_identity(SSL_CTX *ctx)
{
	EVP_PKEY_CTX *gen = EVP_PKEY_CTX_new_id(EVP_PKEY_RSA, NULL);
	EVP_PKEY *key = NULL;

	assert_true(EVP_PKEY_keygen_init(gen) > 0);
	assert_true(EVP_PKEY_CTX_set_rsa_keygen_bits(gen, 1024) > 0);
	assert_true(EVP_PKEY_keygen(gen, &key) > 0);
	EVP_PKEY_CTX_free(gen);
	use_key(ctx, key);
}
