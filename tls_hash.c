/* SPDX-License-Identifier: ISC */
#include "tls_hash.h"

#include "tls_compat.h"
#include "tls_dispatch.h"
#include "tls_rare.h"
#include "tls_wipe.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#if TLS_HAVE_PROVIDERS
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#else
#include <openssl/hmac.h>
#endif

#include <string.h>

#define MAX_BLOCK 128

static const struct {
	const char *name;
	const EVP_MD *(*md)(void);
	size_t size, block; /* RFC 2104 calls them L and B */
} hashes[TLS_HASHES] = {
	[TLS_HASH_SHA256] = {"SHA256", EVP_sha256, 32, 64},
	[TLS_HASH_SHA384] = {"SHA384", EVP_sha384, 48, 128},
	[TLS_HASH_MD5] = {"MD5", EVP_md5, 16, 64},
	[TLS_HASH_SHA1] = {"SHA1", EVP_sha1, 20, 64},
};

size_t tls_hash_size(enum tls_hash hash)
{
	return hashes[hash].size;
}

#if TLS_HAVE_PROVIDERS
/* provider-digest(7) */
struct functions {
	OSSL_FUNC_digest_newctx_fn *new_ctx;
	OSSL_FUNC_digest_freectx_fn *free_ctx;
	OSSL_FUNC_digest_init_fn *init;
	OSSL_FUNC_digest_update_fn *update;
	OSSL_FUNC_digest_final_fn *final;
};

typedef EVP_MAC_CTX hmac_ctx;
#else
typedef HMAC_CTX hmac_ctx;
#endif

/* What is kept of a hash. */
struct kept {
	enum tls_way way;
	bool has_key; /* of an HMAC, or what follows from it */
	EVP_MD_CTX *evp;
	hmac_ctx *evp_hmac;
#if TLS_HAVE_PROVIDERS
	struct functions call;
	void *ctx;
	EVP_MD *md; /* keeps the provider */
#endif
};

/* Owner: the thread. */
static __thread struct kept kept_all[TLS_HASHES];

/* ---- HMAC by EVP, in which versions of libcrypto differ ---- */

#if TLS_HAVE_PROVIDERS

static hmac_ctx *evp_hmac_new(enum tls_hash hash)
{
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)hashes[hash].name,
						 0),
		OSSL_PARAM_construct_end(),
	};
	EVP_MAC *hmac = EVP_MAC_fetch(NULL, OSSL_MAC_NAME_HMAC, NULL);
	EVP_MAC_CTX *ctx = hmac ? EVP_MAC_CTX_new(hmac) : NULL;

	EVP_MAC_free(hmac);
	if (!ctx || EVP_MAC_CTX_set_params(ctx, params) == 1)
		return ctx;
	EVP_MAC_CTX_free(ctx);
	return NULL;
}

static void evp_hmac_free(hmac_ctx *ctx)
{
	EVP_MAC_CTX_free(ctx);
}

static bool evp_hmac_begin(hmac_ctx *ctx, enum tls_hash hash, struct tls_bytes key)
{
	(void)hash;
	return EVP_MAC_init(ctx, key.data, key.len, NULL) == 1;
}

static bool evp_hmac_run(hmac_ctx *ctx, const struct tls_bytes *pieces, size_t count, uint8_t *out)
{
	bool ok = true;
	size_t len;

	for (size_t i = 0; ok && i < count; i++)
		ok = EVP_MAC_update(ctx, pieces[i].data, pieces[i].len) == 1;
	return ok && EVP_MAC_final(ctx, out, &len, TLS_HASH_MAX) == 1;
}

#else

static hmac_ctx *evp_hmac_new(enum tls_hash hash)
{
	(void)hash;
	return HMAC_CTX_new();
}

static void evp_hmac_free(hmac_ctx *ctx)
{
	HMAC_CTX_free(ctx);
}

static bool evp_hmac_begin(hmac_ctx *ctx, enum tls_hash hash, struct tls_bytes key)
{
	return HMAC_Init_ex(ctx, key.data, (int)key.len, hashes[hash].md(), NULL) == 1;
}

static bool evp_hmac_run(hmac_ctx *ctx, const struct tls_bytes *pieces, size_t count, uint8_t *out)
{
	bool ok = true;

	for (size_t i = 0; ok && i < count; i++)
		ok = HMAC_Update(ctx, pieces[i].data, pieces[i].len) == 1;
	return ok && HMAC_Final(ctx, out, NULL) == 1;
}

#endif

/* ---- by EVP ---- */

static bool evp_hmac(struct kept *kept, enum tls_hash hash, struct tls_bytes key,
		     const struct tls_bytes *pieces, size_t count, uint8_t *out)
{
	if (!kept->evp_hmac)
		kept->evp_hmac = evp_hmac_new(hash);
	return kept->evp_hmac && evp_hmac_begin(kept->evp_hmac, hash, key) &&
	       evp_hmac_run(kept->evp_hmac, pieces, count, out);
}

/* OpenSSL 1.1.1 without engines follows a NULL pointer if it is told no type. */
static bool evp_begin(EVP_MD_CTX *ctx, enum tls_hash hash, bool is_new)
{
	const EVP_MD *md = is_new || !TLS_HAVE_PROVIDERS ? hashes[hash].md() : NULL;

	return EVP_DigestInit_ex(ctx, md, NULL) == 1;
}

static bool evp_digest(struct kept *kept, enum tls_hash hash, const struct tls_bytes *pieces,
		       size_t count, uint8_t *out)
{
	bool is_new = !kept->evp, ok;

	if (is_new)
		kept->evp = EVP_MD_CTX_new();
	ok = kept->evp && evp_begin(kept->evp, hash, is_new);
	if (!ok && is_new) {
		EVP_MD_CTX_free(kept->evp);
		kept->evp = NULL;
	}
	for (size_t i = 0; ok && i < count; i++)
		ok = EVP_DigestUpdate(kept->evp, pieces[i].data, pieces[i].len) == 1;
	return ok && EVP_DigestFinal_ex(kept->evp, out, NULL) == 1;
}

static void evp_free(struct kept *kept)
{
	EVP_MD_CTX_free(kept->evp);
	evp_hmac_free(kept->evp_hmac);
	kept->evp = NULL;
	kept->evp_hmac = NULL;
}

/* ---- by the functions of a provider ---- */

#if TLS_HAVE_PROVIDERS

/* One piece before the others, or none of it. */
static bool direct_digest(const struct kept *kept, enum tls_hash hash, struct tls_bytes first,
			  const struct tls_bytes *pieces, size_t count, uint8_t *out)
{
	const struct functions *call = &kept->call;
	bool ok = call->init(kept->ctx, NULL) == 1 &&
		  (first.len == 0 || call->update(kept->ctx, first.data, first.len) == 1);
	size_t size = hashes[hash].size, len = 0;

	for (size_t i = 0; ok && i < count; i++)
		ok = pieces[i].len == 0 ||
		     call->update(kept->ctx, pieces[i].data, pieces[i].len) == 1;
	return ok && call->final(kept->ctx, out, &len, size) == 1 && len == size;
}

/* Gives pad the key, which is hashed if it is longer than a block, and zeros behind it. */
static bool pad_key(const struct kept *kept, enum tls_hash hash, struct tls_bytes key, uint8_t *pad)
{
	memset(pad, 0, hashes[hash].block);
	if (key.len > hashes[hash].block)
		return direct_digest(kept, hash, key, NULL, 0, pad);
	if (key.len > 0)
		memcpy(pad, key.data, key.len);
	return true;
}

static void add_to_pad(enum tls_hash hash, uint8_t *pad, uint8_t byte)
{
	for (size_t i = 0; i < hashes[hash].block; i++)
		pad[i] ^= byte;
}

/* H(K XOR opad, H(K XOR ipad, pieces)), RFC 2104 section 2. */
static bool direct_hmac(const struct kept *kept, enum tls_hash hash, struct tls_bytes key,
			const struct tls_bytes *pieces, size_t count, uint8_t *out)
{
	static const uint8_t ipad = 0x36, opad = 0x5c;
	uint8_t pad[MAX_BLOCK], inner[TLS_HASH_MAX];
	const struct tls_bytes first = {pad, hashes[hash].block},
			       second = {inner, hashes[hash].size};
	bool ok = pad_key(kept, hash, key, pad);

	add_to_pad(hash, pad, ipad);
	ok = ok && direct_digest(kept, hash, first, pieces, count, inner);
	add_to_pad(hash, pad, ipad ^ opad);
	ok = ok && direct_digest(kept, hash, first, &second, 1, out);
	OPENSSL_cleanse(pad, sizeof(pad));
	OPENSSL_cleanse(inner, sizeof(inner));
	return ok;
}

static const struct tls_dispatch wanted[] = {
	{OSSL_FUNC_DIGEST_NEWCTX, offsetof(struct functions, new_ctx)},
	{OSSL_FUNC_DIGEST_FREECTX, offsetof(struct functions, free_ctx)},
	{OSSL_FUNC_DIGEST_INIT, offsetof(struct functions, init)},
	{OSSL_FUNC_DIGEST_UPDATE, offsetof(struct functions, update)},
	{OSSL_FUNC_DIGEST_FINAL, offsetof(struct functions, final)},
	{0, 0},
};

/* Of OpenSSL's default provider only: what else there is, as a FIPS module, may want HMAC whole. */
static bool direct_find(struct kept *kept, enum tls_hash hash)
{
	const char *name = hashes[hash].name;
	const OSSL_PROVIDER *provider;

	kept->md = EVP_MD_fetch(NULL, name, NULL);
	provider = kept->md ? EVP_MD_get0_provider(kept->md) : NULL;
	if (!provider || strcmp(OSSL_PROVIDER_get0_name(provider), "default") != 0 ||
	    !tls_dispatch_find(provider, OSSL_OP_DIGEST, name, wanted, &kept->call))
		return false;
	kept->ctx = kept->call.new_ctx(OSSL_PROVIDER_get0_provider_ctx(provider));
	return kept->ctx != NULL;
}

static void direct_free(struct kept *kept)
{
	if (kept->ctx)
		kept->call.free_ctx(kept->ctx);
	EVP_MD_free(kept->md);
	kept->ctx = NULL;
	kept->md = NULL;
	memset(&kept->call, 0, sizeof(kept->call));
}

/* True if EVP makes the same of a key of that length and a text in pieces. */
static bool direct_agrees_on(struct kept *kept, enum tls_hash hash, size_t key_len)
{
	static const uint8_t text[3 * MAX_BLOCK] = "a text that everybody may know, and its zeros";
	const struct tls_bytes key = {text + 1, key_len},
			       pieces[] = {{text, 100}, {NULL, 0}, {text + 7, key_len}};
	uint8_t ours[TLS_HASH_MAX], theirs[TLS_HASH_MAX];
	size_t size = hashes[hash].size;

	return direct_hmac(kept, hash, key, pieces, 3, ours) &&
	       evp_hmac(kept, hash, key, pieces, 3, theirs) && memcmp(ours, theirs, size) == 0 &&
	       direct_digest(kept, hash, key, pieces, 3, ours) &&
	       evp_digest(kept, hash, (struct tls_bytes[]){key, pieces[0], pieces[2]}, 3, theirs) &&
	       memcmp(ours, theirs, size) == 0;
}

static bool direct_agrees(struct kept *kept, enum tls_hash hash)
{
	return direct_agrees_on(kept, hash, hashes[hash].size) && direct_agrees_on(kept, hash, 0) &&
	       direct_agrees_on(kept, hash, 2 * MAX_BLOCK);
}

/* Takes this way if it can be gone. */
static void direct_try(struct kept *kept, enum tls_hash hash)
{
	ERR_set_mark();
	if (direct_find(kept, hash) && direct_agrees(kept, hash)) {
		evp_free(kept);
		kept->way = TLS_WAY_PROVIDER;
	} else {
		direct_free(kept);
	}
	ERR_pop_to_mark();
}

#else

static void direct_try(struct kept *kept, enum tls_hash hash)
{
	(void)kept, (void)hash;
}

static void direct_free(struct kept *kept)
{
	(void)kept;
}

#endif

/* ---- the shorter way that there is ---- */

static TLS_RARE void choose_way(struct kept *kept, enum tls_hash hash)
{
	kept->way = TLS_WAY_EVP;
	direct_try(kept, hash);
}

static struct kept *kept_of(enum tls_hash hash)
{
	struct kept *kept = &kept_all[hash];

	if (kept->way == TLS_WAY_UNKNOWN)
		choose_way(kept, hash);
	return kept;
}

bool tls_hash_digest(enum tls_hash hash, const struct tls_bytes *pieces, size_t count, uint8_t *out)
{
	struct kept *kept = kept_of(hash);

#if TLS_HAVE_PROVIDERS
	if (kept->way == TLS_WAY_PROVIDER)
		return direct_digest(kept, hash, (struct tls_bytes){NULL, 0}, pieces, count, out);
#endif
	return evp_digest(kept, hash, pieces, count, out);
}

bool tls_hash_hmac(enum tls_hash hash, struct tls_bytes key, const struct tls_bytes *pieces,
		   size_t count, uint8_t *out)
{
	struct kept *kept = kept_of(hash);

	if (!key.data)
		return false;
	kept->has_key = true;
#if TLS_HAVE_PROVIDERS
	if (kept->way == TLS_WAY_PROVIDER)
		return direct_hmac(kept, hash, key, pieces, count, out);
#endif
	return evp_hmac(kept, hash, key, pieces, count, out);
}

static void kept_free(struct kept *kept)
{
	evp_free(kept);
	direct_free(kept);
	kept->way = TLS_WAY_UNKNOWN;
	kept->has_key = false;
}

/* Has the contexts work with what everybody knows. A hash of nothing is enough for one that has no
 * other state than the last block and what came of it. */
static bool forget(struct kept *kept, enum tls_hash hash)
{
	static const uint8_t zeros[TLS_HASH_MAX];
	struct tls_bytes key = {zeros, hashes[hash].size};
	uint8_t out[TLS_HASH_MAX];

#if TLS_HAVE_PROVIDERS
	if (kept->way == TLS_WAY_PROVIDER)
		return direct_digest(kept, hash, (struct tls_bytes){NULL, 0}, NULL, 0, out);
#endif
	return evp_hmac(kept, hash, key, NULL, 0, out);
}

void tls_hash_forget(void)
{
	for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++) {
		struct kept *kept = &kept_all[hash];

		if (kept->has_key && !forget(kept, hash)) {
			kept_free(kept);
			ERR_clear_error();
		}
		kept->has_key = false;
	}
	tls_wipe_stack();
}

void tls_hash_thread_end(void)
{
	for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++)
		kept_free(&kept_all[hash]);
}
