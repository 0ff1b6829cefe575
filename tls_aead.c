/* SPDX-License-Identifier: ISC */
#include "tls_aead.h"

#include "tls_compat.h"
#include "tls_dispatch.h"
#include "tls_rare.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#if TLS_HAVE_PROVIDERS
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#endif

#include <stdbool.h>
#include <string.h>

enum direction {
	OPEN,
	SEAL,
	DIRECTIONS,
};

static const struct {
	const char *name;
	const EVP_CIPHER *(*cipher)(void);
	size_t key_size;
} algorithms[TLS_AEADS] = {
	[TLS_AEAD_AES_128_GCM] = {"AES-128-GCM", EVP_aes_128_gcm, 16},
	[TLS_AEAD_AES_256_GCM] = {"AES-256-GCM", EVP_aes_256_gcm, 32},
	[TLS_AEAD_CHACHA20_POLY1305] = {"ChaCha20-Poly1305", EVP_chacha20_poly1305, 32},
};

size_t tls_aead_key_size(uint8_t aead)
{
	return aead < TLS_AEADS ? algorithms[aead].key_size : 0;
}

#if TLS_HAVE_PROVIDERS
/* provider-cipher(7) */
struct functions {
	OSSL_FUNC_cipher_newctx_fn *new_ctx;
	OSSL_FUNC_cipher_freectx_fn *free_ctx;
	OSSL_FUNC_cipher_encrypt_init_fn *encrypt_init;
	OSSL_FUNC_cipher_decrypt_init_fn *decrypt_init;
	OSSL_FUNC_cipher_update_fn *update;
	OSSL_FUNC_cipher_final_fn *final;
	OSSL_FUNC_cipher_get_ctx_params_fn *get_ctx_params;
};
#endif

/* What is kept of an AEAD, since to look it up and to make contexts costs more than a record. The
 * key is set anew each time, because the next record may be another connection's. */
struct kept {
	enum tls_way way;
	size_t key_size;
	EVP_CIPHER_CTX *evp[DIRECTIONS];
#if TLS_HAVE_PROVIDERS
	struct functions call;
	void *ctx[DIRECTIONS];
	EVP_CIPHER *cipher; /* keeps the provider */
#endif
};

/* Owner: the thread. */
static __thread struct kept kept_all[TLS_AEADS];

static const uint8_t no_key[TLS_AEAD_MAX_KEY], no_nonce[TLS_AEAD_NONCE];

/* ---- by EVP ---- */

static bool evp_find(struct kept *kept, uint8_t aead)
{
	bool ok = true;

	for (int direction = OPEN; direction < DIRECTIONS; direction++) {
		kept->evp[direction] = EVP_CIPHER_CTX_new();
		ok = ok && kept->evp[direction] &&
		     EVP_CipherInit_ex(kept->evp[direction], algorithms[aead].cipher(), NULL, NULL,
				       NULL, direction == SEAL) == 1;
	}
	return ok;
}

/* Gives the context its key, nonce and additional data. */
static bool evp_begin(EVP_CIPHER_CTX *ctx, const struct tls_aead_with *with)
{
	int n;

	return EVP_CipherInit_ex(ctx, NULL, NULL, with->key, with->nonce, -1) == 1 &&
	       EVP_CipherUpdate(ctx, NULL, &n, with->aad, (int)with->aad_len) == 1;
}

static bool evp_seal(const struct kept *kept, const struct tls_aead_with *with, uint8_t *text,
		     size_t len)
{
	EVP_CIPHER_CTX *ctx = kept->evp[SEAL];
	int n;

	return evp_begin(ctx, with) &&
	       (len == 0 || EVP_CipherUpdate(ctx, text, &n, text, (int)len) == 1) &&
	       EVP_CipherFinal_ex(ctx, text + len, &n) == 1 &&
	       EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TLS_AEAD_TAG, text + len) == 1;
}

static bool evp_open(const struct kept *kept, const struct tls_aead_with *with, uint8_t *text,
		     size_t len)
{
	EVP_CIPHER_CTX *ctx = kept->evp[OPEN];
	int n;

	return evp_begin(ctx, with) &&
	       EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TLS_AEAD_TAG, text + len) == 1 &&
	       (len == 0 || EVP_CipherUpdate(ctx, text, &n, text, (int)len) == 1) &&
	       EVP_CipherFinal_ex(ctx, text + len, &n) == 1;
}

static bool evp_forget(const struct kept *kept)
{
	return EVP_CipherInit_ex(kept->evp[SEAL], NULL, NULL, no_key, no_nonce, -1) == 1 &&
	       EVP_CipherInit_ex(kept->evp[OPEN], NULL, NULL, no_key, no_nonce, -1) == 1;
}

static void evp_free(struct kept *kept)
{
	for (int direction = OPEN; direction < DIRECTIONS; direction++) {
		EVP_CIPHER_CTX_free(kept->evp[direction]);
		kept->evp[direction] = NULL;
	}
}

/* ---- by the functions of a provider ---- */

#if TLS_HAVE_PROVIDERS

/* What follows when the context has its key and nonce. */
static inline bool direct_crypt(const struct functions *call, void *ctx,
				const struct tls_aead_with *with, uint8_t *text, size_t len)
{
	size_t n;

	return call->update(ctx, NULL, &n, with->aad_len, with->aad, with->aad_len) == 1 &&
	       (len == 0 || (call->update(ctx, text, &n, len, text, len) == 1 && n == len)) &&
	       call->final(ctx, text + len, &n, TLS_AEAD_TAG) == 1;
}

static bool direct_seal(const struct kept *kept, const struct tls_aead_with *with, uint8_t *text,
			size_t len)
{
	OSSL_PARAM tag[] = {
		OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, text + len, TLS_AEAD_TAG),
		OSSL_PARAM_END,
	};
	const struct functions *call = &kept->call;
	void *ctx = kept->ctx[SEAL];

	return call->encrypt_init(ctx, with->key, kept->key_size, with->nonce, TLS_AEAD_NONCE,
				  NULL) == 1 &&
	       direct_crypt(call, ctx, with, text, len) && call->get_ctx_params(ctx, tag) == 1;
}

static bool direct_open(const struct kept *kept, const struct tls_aead_with *with, uint8_t *text,
			size_t len)
{
	const OSSL_PARAM tag[] = {
		OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, text + len, TLS_AEAD_TAG),
		OSSL_PARAM_END,
	};
	const struct functions *call = &kept->call;
	void *ctx = kept->ctx[OPEN];

	return call->decrypt_init(ctx, with->key, kept->key_size, with->nonce, TLS_AEAD_NONCE,
				  tag) == 1 &&
	       direct_crypt(call, ctx, with, text, len);
}

static bool direct_forget(const struct kept *kept)
{
	return kept->call.encrypt_init(kept->ctx[SEAL], no_key, kept->key_size, no_nonce,
				       TLS_AEAD_NONCE, NULL) == 1 &&
	       kept->call.decrypt_init(kept->ctx[OPEN], no_key, kept->key_size, no_nonce,
				       TLS_AEAD_NONCE, NULL) == 1;
}

static const struct tls_dispatch wanted[] = {
	{OSSL_FUNC_CIPHER_NEWCTX, offsetof(struct functions, new_ctx)},
	{OSSL_FUNC_CIPHER_FREECTX, offsetof(struct functions, free_ctx)},
	{OSSL_FUNC_CIPHER_ENCRYPT_INIT, offsetof(struct functions, encrypt_init)},
	{OSSL_FUNC_CIPHER_DECRYPT_INIT, offsetof(struct functions, decrypt_init)},
	{OSSL_FUNC_CIPHER_UPDATE, offsetof(struct functions, update)},
	{OSSL_FUNC_CIPHER_FINAL, offsetof(struct functions, final)},
	{OSSL_FUNC_CIPHER_GET_CTX_PARAMS, offsetof(struct functions, get_ctx_params)},
	{0, 0},
};

/* Finds the functions that EVP's context uses, and makes contexts. An engine has none. */
static bool direct_find(struct kept *kept, const char *name)
{
	EVP_CIPHER *cipher = (EVP_CIPHER *)EVP_CIPHER_CTX_get0_cipher(kept->evp[SEAL]);
	const OSSL_PROVIDER *provider = EVP_CIPHER_get0_provider(cipher);

	if (!provider || EVP_CIPHER_up_ref(cipher) != 1)
		return false;
	kept->cipher = cipher;
	if (!tls_dispatch_find(provider, OSSL_OP_CIPHER, name, wanted, &kept->call))
		return false;
	for (int direction = OPEN; direction < DIRECTIONS; direction++)
		kept->ctx[direction] =
			kept->call.new_ctx(OSSL_PROVIDER_get0_provider_ctx(provider));
	return kept->ctx[OPEN] && kept->ctx[SEAL];
}

static void direct_free(struct kept *kept)
{
	for (int direction = OPEN; direction < DIRECTIONS; direction++) {
		if (kept->ctx[direction])
			kept->call.free_ctx(kept->ctx[direction]);
		kept->ctx[direction] = NULL;
	}
	EVP_CIPHER_free(kept->cipher);
	kept->cipher = NULL;
	memset(&kept->call, 0, sizeof(kept->call));
}

/* True if a text of that many bytes is sealed as EVP does it, opened again, and refused when its
 * tag is not right. */
static bool direct_agrees_on(const struct kept *kept, const struct tls_aead_with *with, size_t len)
{
	uint8_t text[64 + TLS_AEAD_TAG] = "a text that is neither long nor secret, in four blocks";
	uint8_t ours[sizeof(text)], theirs[sizeof(text)];

	memcpy(ours, text, sizeof(text));
	memcpy(theirs, text, sizeof(text));
	if (!direct_seal(kept, with, ours, len) || !evp_seal(kept, with, theirs, len) ||
	    memcmp(ours, theirs, len + TLS_AEAD_TAG) != 0 || !direct_open(kept, with, ours, len) ||
	    memcmp(ours, text, len) != 0)
		return false;
	theirs[len] ^= 1;
	return !direct_open(kept, with, theirs, len);
}

static bool direct_agrees(const struct kept *kept)
{
	static const uint8_t key[TLS_AEAD_MAX_KEY] = "a key that everybody may know",
			     nonce[TLS_AEAD_NONCE] = "and a nonce", aad[] = "with the data";
	struct tls_aead_with with = {.key = key, .nonce = nonce, .aad = aad, .aad_len = 5};

	if (!direct_agrees_on(kept, &with, 50) || !direct_agrees_on(kept, &with, 0))
		return false;
	with.aad_len = sizeof(aad) - 1;
	return direct_agrees_on(kept, &with, 32);
}

/* Takes this way if it can be gone. */
static void direct_try(struct kept *kept, const char *name)
{
	ERR_set_mark();
	if (direct_find(kept, name) && direct_agrees(kept)) {
		evp_free(kept);
		kept->way = TLS_WAY_PROVIDER;
	} else {
		direct_free(kept);
	}
	ERR_pop_to_mark();
}

#else

static void direct_try(struct kept *kept, const char *name)
{
	(void)kept, (void)name;
}

static void direct_free(struct kept *kept)
{
	(void)kept;
}

#endif

/* ---- the shorter way that there is ---- */

static TLS_RARE bool kept_make(struct kept *kept, uint8_t aead)
{
	kept->key_size = tls_aead_key_size(aead);
	if (!evp_find(kept, aead)) {
		evp_free(kept);
		return false;
	}
	kept->way = TLS_WAY_EVP;
	direct_try(kept, algorithms[aead].name);
	return true;
}

/* Returns NULL for an unknown AEAD, or when libcrypto fails. */
static inline const struct kept *kept_of(uint8_t aead)
{
	struct kept *kept;

	if (!tls_aead_is_known(aead))
		return NULL;
	kept = &kept_all[aead];
	return kept->way != TLS_WAY_UNKNOWN || kept_make(kept, aead) ? kept : NULL;
}

static TLS_RARE int fail(void)
{
	ERR_clear_error();
	return -1;
}

int tls_aead_seal(const struct tls_aead_with *with, uint8_t *text, size_t len)
{
	const struct kept *kept = kept_of(with->aead);

	if (!kept)
		return fail();
#if TLS_HAVE_PROVIDERS
	if (__builtin_expect(kept->way == TLS_WAY_PROVIDER, 1))
		return direct_seal(kept, with, text, len) ? 0 : fail();
#endif
	return evp_seal(kept, with, text, len) ? 0 : fail();
}

int tls_aead_open(const struct tls_aead_with *with, uint8_t *text, size_t len)
{
	const struct kept *kept = kept_of(with->aead);

	if (!kept)
		return fail();
#if TLS_HAVE_PROVIDERS
	if (__builtin_expect(kept->way == TLS_WAY_PROVIDER, 1))
		return direct_open(kept, with, text, len) ? 0 : fail();
#endif
	return evp_open(kept, with, text, len) ? 0 : fail();
}

static void kept_free(struct kept *kept)
{
	evp_free(kept);
	direct_free(kept);
	kept->way = TLS_WAY_UNKNOWN;
}

/* Has the contexts of both directions begin with a key that everybody knows. */
static bool forget(const struct kept *kept)
{
	switch (kept->way) {
	case TLS_WAY_EVP:
		return evp_forget(kept);
#if TLS_HAVE_PROVIDERS
	case TLS_WAY_PROVIDER:
		return direct_forget(kept);
#endif
	default:
		return true;
	}
}

void tls_aead_forget(void)
{
	for (size_t aead = 0; aead < TLS_AEADS; aead++) {
		if (forget(&kept_all[aead]))
			continue;
		kept_free(&kept_all[aead]);
		ERR_clear_error();
	}
}

void tls_aead_thread_end(void)
{
	for (size_t aead = 0; aead < TLS_AEADS; aead++)
		kept_free(&kept_all[aead]);
}
