/* SPDX-License-Identifier: ISC */
/*
 * What test_hash.c and test_exchange.c share: stand-ins for what tls_hash.c calls, which note what
 * is not freed, and which context has a key.
 */
#ifndef TEST_HASH_H
#define TEST_HASH_H

#include "stand_ins.h"
#include "tls_hash.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

/* ---- what is noted, of each thread ---- */

/* What is not freed. */
static __thread struct hash_left {
	int contexts; /* of the provider's functions */
	int mds, macs, evp_digests, evp_hmacs;
} hash_left;

static __thread unsigned direct_hashes, evp_hashes;        /* that are asked for, and finished */
static void (*note_hmac_key)(const void *key, size_t len); /* told EVP's */

#define EVP_HMACS_MAX 8

/* EVP's contexts for HMAC. */
static __thread struct {
	const void *ctx;
	bool has_key; /* that not everybody knows */
} evp_hmacs[EVP_HMACS_MAX];

static bool are_all(uint8_t byte, const uint8_t *bytes, size_t len)
{
	size_t n = 0;

	while (n < len && bytes[n] == byte)
		n++;
	return n == len;
}

static void evp_hmac_add(const void *ctx)
{
	size_t i = 0;

	if (!ctx)
		return;
	while (evp_hmacs[i].ctx) {
		i++;
		assert_true(i < EVP_HMACS_MAX);
	}
	evp_hmacs[i].ctx = ctx;
	evp_hmacs[i].has_key = false;
}

static void evp_hmac_drop(const void *ctx)
{
	for (size_t i = 0; i < EVP_HMACS_MAX; i++)
		if (evp_hmacs[i].ctx == ctx)
			evp_hmacs[i].ctx = NULL;
}

/* Not of contexts that OpenSSL has made. */
static void evp_hmac_note_key(const void *ctx, const void *key, size_t len)
{
	for (size_t i = 0; i < EVP_HMACS_MAX; i++)
		if (evp_hmacs[i].ctx == ctx)
			evp_hmacs[i].has_key = !are_all(0, key, len);
}

/* ---- EVP ---- */

STAND_IN_MAKING(EVP_MD_CTX, EVP_MD_CTX_new, (void), (), hash_left.evp_digests)
STAND_IN_FREEING(EVP_MD_CTX, EVP_MD_CTX_free, hash_left.evp_digests)
STAND_IN_RESULT(EVP_DigestInit_ex, (EVP_MD_CTX * ctx, const EVP_MD *md, ENGINE *e), (ctx, md, e))
STAND_IN_RESULT(EVP_DigestUpdate, (EVP_MD_CTX * ctx, const void *data, size_t len),
		(ctx, data, len))

HIDDEN int EVP_DigestFinal_ex(EVP_MD_CTX *ctx, unsigned char *out, unsigned int *len)
{
	REAL(int, EVP_DigestFinal_ex, (EVP_MD_CTX *, unsigned char *, unsigned int *));

	evp_hashes += !spare;
	return RESULT(real(ctx, out, len));
}

#if TLS_HAVE_PROVIDERS

STAND_IN_MAKING(EVP_MD, EVP_MD_fetch, (OSSL_LIB_CTX * lib, const char *name, const char *query),
		(lib, name, query), hash_left.mds)
STAND_IN_FREEING(EVP_MD, EVP_MD_free, hash_left.mds)
STAND_IN_MAKING(EVP_MAC, EVP_MAC_fetch, (OSSL_LIB_CTX * lib, const char *name, const char *query),
		(lib, name, query), hash_left.macs)
STAND_IN_FREEING(EVP_MAC, EVP_MAC_free, hash_left.macs)
STAND_IN_RESULT(EVP_MAC_CTX_set_params, (EVP_MAC_CTX * ctx, const OSSL_PARAM params[]),
		(ctx, params))
STAND_IN_RESULT(EVP_MAC_update, (EVP_MAC_CTX * ctx, const unsigned char *data, size_t len),
		(ctx, data, len))

HIDDEN EVP_MAC_CTX *EVP_MAC_CTX_new(EVP_MAC *mac)
{
	REAL(EVP_MAC_CTX *, EVP_MAC_CTX_new, (EVP_MAC *));
	EVP_MAC_CTX *ctx = call_may_succeed() ? real(mac) : NULL;

	evp_hmac_add(ctx);
	hash_left.evp_hmacs += ctx != NULL;
	return ctx;
}

HIDDEN void EVP_MAC_CTX_free(EVP_MAC_CTX *ctx)
{
	REAL(void, EVP_MAC_CTX_free, (EVP_MAC_CTX *));

	evp_hmac_drop(ctx);
	hash_left.evp_hmacs -= ctx != NULL;
	real(ctx);
}

HIDDEN int EVP_MAC_init(EVP_MAC_CTX *ctx, const unsigned char *key, size_t len,
			const OSSL_PARAM params[])
{
	int result;
	REAL(int, EVP_MAC_init, (EVP_MAC_CTX *, const unsigned char *, size_t, const OSSL_PARAM *));

	assert_non_null(key);
	if (note_hmac_key)
		note_hmac_key(key, len);
	result = RESULT(real(ctx, key, len, params));
	if (result > 0)
		evp_hmac_note_key(ctx, key, len);
	return result;
}

HIDDEN int EVP_MAC_final(EVP_MAC_CTX *ctx, unsigned char *out, size_t *len, size_t size)
{
	REAL(int, EVP_MAC_final, (EVP_MAC_CTX *, unsigned char *, size_t *, size_t));

	evp_hashes += !spare;
	return RESULT(real(ctx, out, len, size));
}

#else

HIDDEN HMAC_CTX *HMAC_CTX_new(void)
{
	REAL(HMAC_CTX *, HMAC_CTX_new, (void));
	HMAC_CTX *ctx = call_may_succeed() ? real() : NULL;

	evp_hmac_add(ctx);
	hash_left.evp_hmacs += ctx != NULL;
	return ctx;
}

HIDDEN void HMAC_CTX_free(HMAC_CTX *ctx)
{
	REAL(void, HMAC_CTX_free, (HMAC_CTX *));

	evp_hmac_drop(ctx);
	hash_left.evp_hmacs -= ctx != NULL;
	real(ctx);
}

HIDDEN int HMAC_Init_ex(HMAC_CTX *ctx, const void *key, int len, const EVP_MD *md, ENGINE *e)
{
	int result;
	REAL(int, HMAC_Init_ex, (HMAC_CTX *, const void *, int, const EVP_MD *, ENGINE *));

	assert_non_null(key);
	if (note_hmac_key)
		note_hmac_key(key, (size_t)len);
	result = RESULT(real(ctx, key, len, md, e));
	if (result > 0)
		evp_hmac_note_key(ctx, key, (size_t)len);
	return result;
}

STAND_IN_RESULT(HMAC_Update, (HMAC_CTX * ctx, const unsigned char *data, size_t len),
		(ctx, data, len))

HIDDEN int HMAC_Final(HMAC_CTX *ctx, unsigned char *out, unsigned int *len)
{
	REAL(int, HMAC_Final, (HMAC_CTX *, unsigned char *, unsigned int *));

	evp_hashes += !spare;
	return RESULT(real(ctx, out, len));
}

#endif

/* ---- a provider's functions ---- */

/* The provider's context for a hash. */
struct digest {
	void *ctx;
	size_t len;      /* of what was hashed since it began */
	size_t first;    /* of that, the first piece */
	unsigned pieces; /* of it */
	bool has_key;    /* HMAC's, which is in the first piece, and which not everybody knows */
};

static __thread struct digest digests[TLS_HASHES];

#if TLS_HAVE_PROVIDERS

#define DIGEST_FUNCTIONS 5

static struct {
	OSSL_FUNC_digest_newctx_fn *new_ctx;
	OSSL_FUNC_digest_freectx_fn *free_ctx;
	OSSL_FUNC_digest_init_fn *init;
	OSSL_FUNC_digest_update_fn *update;
	OSSL_FUNC_digest_final_fn *final;
} real_digests[TLS_HASHES];

/* Of which hash it is told that it lacks its last byte, and of which a bit is wrong. */
static bool digest_cuts;
static bool (*first_bit_lies)(const struct digest *digest), (*last_bit_lies)(const struct digest *);
/* Told what is to be hashed, and where a hash is written to. */
static void (*note_hashed)(const void *at, size_t len), (*note_digest)(const void *at, size_t len);

/* RFC 2104 */
static size_t block_of(enum tls_hash hash)
{
	return hash == TLS_HASH_SHA384 ? 128 : 64;
}

static enum tls_hash hash_of_ctx(const void *ctx)
{
	enum tls_hash hash = 0;

	assert_non_null(ctx);
	while (digests[hash].ctx != ctx) {
		hash++;
		assert_true(hash < TLS_HASHES);
	}
	return hash;
}

static void *note_new_digest(enum tls_hash hash, void *provider)
{
	void *ctx = call_may_succeed() ? real_digests[hash].new_ctx(provider) : NULL;

	assert_ptr_equal(provider, provider_ctx);
	assert_null(digests[hash].ctx);
	digests[hash] = (struct digest){.ctx = ctx};
	hash_left.contexts += ctx != NULL;
	return ctx;
}

static void note_free_digest(void *ctx)
{
	enum tls_hash hash = hash_of_ctx(ctx);

	digests[hash].ctx = NULL;
	hash_left.contexts--;
	real_digests[hash].free_ctx(ctx);
}

static int note_digest_init(void *ctx, const OSSL_PARAM params[])
{
	enum tls_hash hash = hash_of_ctx(ctx);
	int result = RESULT(real_digests[hash].init(ctx, params));

	if (result > 0)
		digests[hash] = (struct digest){.ctx = ctx};
	return result;
}

static int note_digest_update(void *ctx, const unsigned char *data, size_t len)
{
	enum tls_hash hash = hash_of_ctx(ctx);
	struct digest *digest = &digests[hash];
	int result;

	assert_true(data && len > 0);
	if (note_hashed)
		note_hashed(data, len);
	result = RESULT(real_digests[hash].update(ctx, data, len));
	if (result <= 0)
		return result;
	if (digest->pieces == 0) {
		digest->first = len;
		digest->has_key = len == block_of(hash) && !are_all(0x36, data, len) &&
				  !are_all(0x5c, data, len);
	}
	digest->len += len;
	digest->pieces++;
	return result;
}

static int note_digest_final(void *ctx, unsigned char *out, size_t *len, size_t size)
{
	enum tls_hash hash = hash_of_ctx(ctx);
	int result;

	direct_hashes += !spare;
	assert_int_equal(size, tls_hash_size(hash));
	if (note_digest)
		note_digest(out, size);
	result = RESULT(real_digests[hash].final(ctx, out, len, size));
	out[0] ^= first_bit_lies && first_bit_lies(&digests[hash]);
	out[size - 1] ^= last_bit_lies && last_bit_lies(&digests[hash]) ? 0x80 : 0;
	*len -= digest_cuts;
	return result;
}

#define DIGEST(hash)                                                                               \
	static void *note_new_##hash(void *provider)                                               \
	{                                                                                          \
		return note_new_digest(TLS_HASH_##hash, provider);                                 \
	}                                                                                          \
                                                                                                   \
	static const struct shown_function functions_##hash[DIGEST_FUNCTIONS] = {                  \
		SEEN(hash, NEWCTX, new_ctx, note_new_##hash),                                      \
		SEEN(hash, FREECTX, free_ctx, note_free_digest),                                   \
		SEEN(hash, INIT, init, note_digest_init),                                          \
		SEEN(hash, UPDATE, update, note_digest_update),                                    \
		SEEN(hash, FINAL, final, note_digest_final),                                       \
	};
#define SEEN(hash, id, real, noting)                                                               \
	{                                                                                          \
		OSSL_FUNC_DIGEST_##id, (void (**)(void)) & real_digests[TLS_HASH_##hash].real,     \
			(void (*)(void))(noting)                                                   \
	}
DIGEST(SHA256)
DIGEST(SHA384)
DIGEST(MD5)
DIGEST(SHA1)
#undef SEEN
#undef DIGEST

static const struct shown_algorithm hash_algorithms[TLS_HASHES] = {
	[TLS_HASH_SHA256] = {OSSL_OP_DIGEST, "SHA2-256", functions_SHA256, DIGEST_FUNCTIONS},
	[TLS_HASH_SHA384] = {OSSL_OP_DIGEST, "SHA2-384", functions_SHA384, DIGEST_FUNCTIONS},
	[TLS_HASH_MD5] = {OSSL_OP_DIGEST, "MD5", functions_MD5, DIGEST_FUNCTIONS},
	[TLS_HASH_SHA1] = {OSSL_OP_DIGEST, "SHA1", functions_SHA1, DIGEST_FUNCTIONS},
};

#endif

/* No context has a key that is a secret. */
static void assert_no_keys(void)
{
	for (size_t i = 0; i < EVP_HMACS_MAX; i++)
		assert_true(!evp_hmacs[i].ctx || !evp_hmacs[i].has_key);
	for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++)
		assert_true(!digests[hash].ctx || !digests[hash].has_key);
}

#endif
