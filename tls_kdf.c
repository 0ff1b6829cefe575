/* SPDX-License-Identifier: ISC */
#include "tls_kdf.h"

#include "tls_compat.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#if TLS_HAVE_EVP_MAC
#include <openssl/core_names.h>
#include <openssl/params.h>
#else
#include <openssl/hmac.h>
#endif

#include <stdbool.h>
#include <string.h>

#define MAX_LABEL 255
#define MAX_INFO  (2 + 1 + MAX_LABEL + 1 + MAX_LABEL)

enum hash {
	HASH_SHA256,
	HASH_SHA384,
	HASH_MD5,
	HASH_SHA1,
	HASHES,
};

static const size_t hash_sizes[HASHES] = {32, 48, 16, 20};

size_t tls_kdf_hash_size(uint8_t hash)
{
	switch (hash) {
	case TLS_PRF_SHA256:
		return hash_sizes[HASH_SHA256];
	case TLS_PRF_SHA384:
		return hash_sizes[HASH_SHA384];
	default:
		return 0;
	}
}

static enum hash hash_of(uint8_t hash)
{
	return hash == TLS_PRF_SHA384 ? HASH_SHA384 : HASH_SHA256;
}

/* Owner: the thread. Of the first two hashes only. */
static __thread EVP_MD_CTX *digest_ctx[HASH_SHA384 + 1];

static void digest_ctx_free(void)
{
	for (size_t i = 0; i < sizeof(digest_ctx) / sizeof(digest_ctx[0]); i++) {
		EVP_MD_CTX_free(digest_ctx[i]);
		digest_ctx[i] = NULL;
	}
}

/* ---- what was expanded last ---- */

#define RECALLED_LABEL 16
/* One handshake of TLS 1.3 has 11: both sides' keys, IVs and keys of a Finished, both sides' keys
 * and IVs of application traffic, the key of a binder. */
#define RECALLED 12

struct expanded {
	uint8_t hash, len, label_len, secret_len; /* len 0: not used */
	uint8_t label[RECALLED_LABEL], secret[TLS_KDF_MAX_HASH], out[TLS_KDF_MAX_HASH];
};

/* Owner: the thread. */
static __thread struct expanded expanded[RECALLED];
static __thread unsigned next_expanded;

static const uint8_t *recall(uint8_t hash, struct tls_kdf_bytes secret, struct tls_kdf_bytes label,
			     size_t len)
{
	for (unsigned i = 0; i < RECALLED; i++) {
		const struct expanded *e = &expanded[i];

		if (e->len == len && e->hash == hash && e->label_len == label.len &&
		    e->secret_len == secret.len && memcmp(e->label, label.data, label.len) == 0 &&
		    CRYPTO_memcmp(e->secret, secret.data, secret.len) == 0)
			return e->out;
	}
	return NULL;
}

static void remember(uint8_t hash, struct tls_kdf_bytes secret, struct tls_kdf_bytes label,
		     const uint8_t *out, size_t len)
{
	struct expanded *e = &expanded[next_expanded];

	next_expanded = (next_expanded + 1) % RECALLED;
	e->hash = hash;
	e->len = (uint8_t)len;
	e->label_len = (uint8_t)label.len;
	e->secret_len = (uint8_t)secret.len;
	memcpy(e->label, label.data, label.len);
	memcpy(e->secret, secret.data, secret.len);
	memcpy(e->out, out, len);
}

/* ---- HMAC, in which versions of libcrypto differ ---- */

#if TLS_HAVE_EVP_MAC

/* The key that a hash was used with last: libcrypto begins anew with it in half the time, and one
 * key comes several times in a row. */
struct last_key {
	bool used;
	size_t len; /* 0: a long one, or one that failed */
	uint8_t bytes[TLS_KDF_MAX_HASH];
};

/* Owner: the thread. */
static __thread EVP_MAC_CTX *hmacs[HASHES];
static __thread struct last_key last_keys[HASHES];

static EVP_MAC_CTX *hmac_of(enum hash hash)
{
	static char names[HASHES][8] = {"SHA256", "SHA384", "MD5", "SHA1"};
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, names[hash], 0),
		OSSL_PARAM_construct_end(),
	};
	EVP_MAC *hmac;

	if (hmacs[hash])
		return hmacs[hash];
	hmac = EVP_MAC_fetch(NULL, OSSL_MAC_NAME_HMAC, NULL);
	hmacs[hash] = hmac ? EVP_MAC_CTX_new(hmac) : NULL;
	EVP_MAC_free(hmac);
	if (hmacs[hash] && EVP_MAC_CTX_set_params(hmacs[hash], params) != 1) {
		EVP_MAC_CTX_free(hmacs[hash]);
		hmacs[hash] = NULL;
	}
	return hmacs[hash];
}

/* Without a key libcrypto takes the last one again. */
static bool hmac_begin(EVP_MAC_CTX *ctx, struct last_key *last, struct tls_kdf_bytes key)
{
	if (last->len > 0 && last->len == key.len &&
	    CRYPTO_memcmp(last->bytes, key.data, key.len) == 0)
		return EVP_MAC_init(ctx, NULL, 0, NULL) == 1;
	last->used = true;
	last->len = 0;
	if (EVP_MAC_init(ctx, key.data, key.len, NULL) != 1)
		return false;
	if (key.len <= sizeof(last->bytes)) {
		memcpy(last->bytes, key.data, key.len);
		last->len = key.len;
	}
	return true;
}

static bool hmac(enum hash hash, struct tls_kdf_bytes key, const struct tls_kdf_bytes *pieces,
		 size_t count, uint8_t *out)
{
	EVP_MAC_CTX *ctx = key.data ? hmac_of(hash) : NULL;
	bool ok = ctx && hmac_begin(ctx, &last_keys[hash], key);
	size_t len;

	for (size_t i = 0; ok && i < count; i++)
		ok = EVP_MAC_update(ctx, pieces[i].data, pieces[i].len) == 1;
	return ok && EVP_MAC_final(ctx, out, &len, TLS_KDF_MAX_HASH) == 1;
}

static void hmac_forget(void)
{
	static const uint8_t zeros[TLS_KDF_MAX_HASH];

	for (size_t i = 0; i < HASHES; i++)
		if (last_keys[i].used)
			EVP_MAC_init(hmacs[i], zeros, hash_sizes[i], NULL);
	OPENSSL_cleanse(last_keys, sizeof(last_keys));
}

static void hmac_free(void)
{
	for (size_t i = 0; i < HASHES; i++) {
		EVP_MAC_CTX_free(hmacs[i]);
		hmacs[i] = NULL;
	}
	OPENSSL_cleanse(last_keys, sizeof(last_keys));
}

#else

/* Owner: the thread. */
static __thread HMAC_CTX *hmac_ctx;

static const EVP_MD *digest(enum hash hash)
{
	switch (hash) {
	case HASH_SHA256:
		return EVP_sha256();
	case HASH_SHA384:
		return EVP_sha384();
	case HASH_MD5:
		return EVP_md5();
	default:
		return EVP_sha1();
	}
}

static bool hmac(enum hash hash, struct tls_kdf_bytes key, const struct tls_kdf_bytes *pieces,
		 size_t count, uint8_t *out)
{
	bool ok;

	if (!hmac_ctx)
		hmac_ctx = HMAC_CTX_new();
	ok = key.data && hmac_ctx &&
	     HMAC_Init_ex(hmac_ctx, key.data, (int)key.len, digest(hash), NULL) == 1;
	for (size_t i = 0; ok && i < count; i++)
		ok = HMAC_Update(hmac_ctx, pieces[i].data, pieces[i].len) == 1;
	return ok && HMAC_Final(hmac_ctx, out, NULL) == 1;
}

static void hmac_forget(void)
{
	if (hmac_ctx)
		HMAC_CTX_reset(hmac_ctx);
}

static void hmac_free(void)
{
	HMAC_CTX_free(hmac_ctx);
	hmac_ctx = NULL;
}

#endif

/* ---- what the thread keeps ---- */

void tls_kdf_forget(void)
{
	hmac_forget();
	OPENSSL_cleanse(expanded, sizeof(expanded));
}

void tls_kdf_thread_end(void)
{
	hmac_free();
	digest_ctx_free();
	OPENSSL_cleanse(expanded, sizeof(expanded));
}

/* ---- the functions ---- */

int tls_kdf_hmac(uint8_t hash, struct tls_kdf_bytes key, struct tls_kdf_bytes data, uint8_t *out)
{
	return tls_kdf_hash_size(hash) != 0 && hmac(hash_of(hash), key, &data, 1, out) ? 0 : -1;
}

/* The thread's context, which begins anew; NULL when libcrypto fails. */
static EVP_MD_CTX *digest_begin(enum hash hash)
{
	const EVP_MD *md = hash == HASH_SHA384 ? EVP_sha384() : EVP_sha256();
	EVP_MD_CTX *ctx = digest_ctx[hash];

	if (ctx)
		return EVP_DigestInit_ex(ctx, NULL, NULL) == 1 ? ctx : NULL;
	ctx = EVP_MD_CTX_new();
	if (ctx && EVP_DigestInit_ex(ctx, md, NULL) == 1) {
		digest_ctx[hash] = ctx;
		return ctx;
	}
	EVP_MD_CTX_free(ctx);
	return NULL;
}

int tls_kdf_hash(uint8_t hash, const struct tls_kdf_bytes *pieces, size_t count, uint8_t *out)
{
	EVP_MD_CTX *ctx = tls_kdf_hash_size(hash) != 0 ? digest_begin(hash_of(hash)) : NULL;
	bool ok = ctx != NULL;

	for (size_t i = 0; ok && i < count; i++)
		ok = EVP_DigestUpdate(ctx, pieces[i].data, pieces[i].len) == 1;
	return ok && EVP_DigestFinal_ex(ctx, out, NULL) == 1 ? 0 : -1;
}

/* struct HkdfLabel of RFC 8446 section 7.1. Returns its bytes. */
static size_t write_info(uint8_t *to, struct tls_kdf_bytes label, struct tls_kdf_bytes context,
			 size_t len)
{
	uint8_t *at = to;

	*at++ = (uint8_t)(len >> 8);
	*at++ = (uint8_t)len;
	*at++ = (uint8_t)label.len;
	if (label.len > 0)
		memcpy(at, label.data, label.len);
	at += label.len;
	*at++ = (uint8_t)context.len;
	if (context.len > 0)
		memcpy(at, context.data, context.len);
	return (size_t)(at - to) + context.len;
}

static bool expand_label(uint8_t hash, struct tls_kdf_bytes secret, struct tls_kdf_bytes label,
			 struct tls_kdf_bytes context, uint8_t *out, size_t len)
{
	size_t size = tls_kdf_hash_size(hash), done = 0;
	uint8_t block[TLS_KDF_MAX_HASH], info[MAX_INFO], number = 0;
	struct tls_kdf_bytes pieces[] = {{block, 0}, {info, 0}, {&number, 1}};
	bool ok = size != 0 && label.len <= MAX_LABEL && context.len <= MAX_LABEL &&
		  len <= 255 * size;

	if (ok)
		pieces[1].len = write_info(info, label, context, len);
	while (ok && done < len) { /* RFC 5869 section 2.3 */
		size_t part = len - done < size ? len - done : size;

		number++;
		ok = hmac(hash_of(hash), secret, pieces, 3, block);
		if (ok)
			memcpy(out + done, block, part);
		pieces[0].len = size;
		done += part;
	}
	OPENSSL_cleanse(block, sizeof(block));
	return ok;
}

/* Nothing but the secret goes into a key, an IV or the key of a Finished: RFC 8446 sections 7.3 and
 * 4.4.4. */
static bool can_be_recalled(struct tls_kdf_bytes secret, struct tls_kdf_bytes label,
			    struct tls_kdf_bytes context, size_t len)
{
	return context.len == 0 && label.len > 0 && label.len <= RECALLED_LABEL && len > 0 &&
	       len <= TLS_KDF_MAX_HASH && secret.data && secret.len <= TLS_KDF_MAX_HASH;
}

int tls_kdf_expand_label(uint8_t hash, struct tls_kdf_bytes secret, struct tls_kdf_bytes label,
			 struct tls_kdf_bytes context, uint8_t *out, size_t len)
{
	bool may_recall = can_be_recalled(secret, label, context, len);
	const uint8_t *known = may_recall ? recall(hash, secret, label, len) : NULL;

	if (known) {
		memcpy(out, known, len);
		return 0;
	}
	if (!expand_label(hash, secret, label, context, out, len))
		return -1;
	if (may_recall)
		remember(hash, secret, label, out, len);
	return 0;
}

int tls_kdf_finished(uint8_t hash, const uint8_t *secret, const uint8_t *transcript, uint8_t *out)
{
	static const char label[] = "tls13 finished";
	size_t size = tls_kdf_hash_size(hash);
	uint8_t key[TLS_KDF_MAX_HASH];
	struct tls_kdf_bytes messages = {transcript, size};
	bool ok = tls_kdf_expand_label(hash, (struct tls_kdf_bytes){secret, size},
				       (struct tls_kdf_bytes){label, sizeof(label) - 1},
				       (struct tls_kdf_bytes){NULL, 0}, key, size) == 0 &&
		  hmac(hash_of(hash), (struct tls_kdf_bytes){key, size}, &messages, 1, out);

	OPENSSL_cleanse(key, sizeof(key));
	return ok ? 0 : -1;
}

/* Adds P_hash(secret, seed) of RFC 5246 section 5 to out, bit by bit without carry. */
static bool add_p_hash(enum hash hash, struct tls_kdf_bytes secret, struct tls_kdf_bytes seed,
		       uint8_t *out, size_t len)
{
	uint8_t a[TLS_KDF_MAX_HASH], block[TLS_KDF_MAX_HASH];
	struct tls_kdf_bytes pieces[] = {{a, hash_sizes[hash]}, seed};
	bool ok = hmac(hash, secret, &seed, 1, a);

	for (size_t done = 0; ok && done < len; done += hash_sizes[hash]) {
		ok = hmac(hash, secret, pieces, 2, block);
		for (size_t i = 0; ok && i < hash_sizes[hash] && done + i < len; i++)
			out[done + i] ^= block[i];
		if (ok && done + hash_sizes[hash] < len)
			ok = hmac(hash, secret, pieces, 1, a);
	}
	OPENSSL_cleanse(a, sizeof(a));
	OPENSSL_cleanse(block, sizeof(block));
	return ok;
}

int tls_kdf_prf(uint8_t hash, struct tls_kdf_bytes secret, struct tls_kdf_bytes seed, uint8_t *out,
		size_t len)
{
	size_t half = (secret.len + 1) / 2; /* RFC 4346 section 5: they may share a byte */
	struct tls_kdf_bytes first = {secret.data, half};
	struct tls_kdf_bytes second = {(const uint8_t *)secret.data + secret.len - half, half};
	bool ok;

	memset(out, 0, len);
	if (hash == TLS_PRF_MD5_SHA1)
		ok = add_p_hash(HASH_MD5, first, seed, out, len) &&
		     add_p_hash(HASH_SHA1, second, seed, out, len);
	else
		ok = tls_kdf_hash_size(hash) != 0 &&
		     add_p_hash(hash_of(hash), secret, seed, out, len);
	return ok ? 0 : -1;
}
