/* SPDX-License-Identifier: ISC */
/*
 * What test_x25519.c and test_exchange.c share: keys, and stand-ins for what tls_x25519.c calls,
 * which note what is not freed, and where a secret is.
 */
#ifndef TEST_X25519_H
#define TEST_X25519_H

#include "stand_ins.h"

/* RFC 7748 section 6.1 */
static const char alice_private[] =
	"77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
static const char alice_public[] =
	"8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
static const char bob_private[] =
	"5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb";
static const char bob_public[] = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";
static const char shared_secret[] =
	"4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";

/* Shares of which X25519 makes zeros: the points whose order divides 8, reduced or not. */
static const char *const small_order[] = {
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
};

/* ---- what is noted ---- */

/* What is not freed. */
static struct left {
	int keys, contexts; /* of the provider's functions */
	int evp_keys, evp_contexts, keymgmts, keyexchs;
} left;

static unsigned direct_calls, evp_calls; /* that make a secret */
static bool derive_lies, derive_cuts;    /* a secret has one wrong bit, or lacks its last byte */
static const uint8_t *derive_gives;      /* the secret, whatever the keys are; NULL: theirs */
/* Told where a secret is written to, but not of that with which a way is tried. */
static void (*note_secret)(const void *at, size_t len);

/* Returns what the function then does. */
static int spoil_secret(uint8_t *secret, size_t *len, int result)
{
	secret[0] ^= derive_lies;
	*len -= derive_cuts;
	if (!derive_gives)
		return result;
	memcpy(secret, derive_gives, TLS_X25519_KEY);
	*len = TLS_X25519_KEY;
	ERR_clear_error();
	return 1;
}

/* ---- EVP ---- */

STAND_IN_MAKING(EVP_PKEY_CTX, EVP_PKEY_CTX_new_from_name,
		(OSSL_LIB_CTX * lib, const char *name, const char *query), (lib, name, query),
		left.evp_contexts)
STAND_IN_MAKING(EVP_PKEY_CTX, EVP_PKEY_CTX_new, (EVP_PKEY * key, ENGINE *e), (key, e),
		left.evp_contexts)
STAND_IN_FREEING(EVP_PKEY_CTX, EVP_PKEY_CTX_free, left.evp_contexts)
STAND_IN_FREEING(EVP_PKEY, EVP_PKEY_free, left.evp_keys)
STAND_IN_RESULT(EVP_PKEY_fromdata_init, (EVP_PKEY_CTX * ctx), (ctx))
STAND_IN_RESULT(EVP_PKEY_derive_init, (EVP_PKEY_CTX * ctx), (ctx))
STAND_IN_RESULT(EVP_PKEY_derive_set_peer, (EVP_PKEY_CTX * ctx, EVP_PKEY *peer), (ctx, peer))
STAND_IN_MAKING(EVP_KEYMGMT, EVP_KEYMGMT_fetch,
		(OSSL_LIB_CTX * lib, const char *name, const char *query), (lib, name, query),
		left.keymgmts)
STAND_IN_FREEING(EVP_KEYMGMT, EVP_KEYMGMT_free, left.keymgmts)
STAND_IN_MAKING(EVP_KEYEXCH, EVP_KEYEXCH_fetch,
		(OSSL_LIB_CTX * lib, const char *name, const char *query), (lib, name, query),
		left.keyexchs)
STAND_IN_FREEING(EVP_KEYEXCH, EVP_KEYEXCH_free, left.keyexchs)

/* What it has made says more than its result. */
HIDDEN int EVP_PKEY_fromdata(EVP_PKEY_CTX *ctx, EVP_PKEY **key, int selection, OSSL_PARAM *params)
{
	int ok;
	REAL(int, EVP_PKEY_fromdata, (EVP_PKEY_CTX *, EVP_PKEY **, int, OSSL_PARAM *));

	ok = call_may_succeed() ? real(ctx, key, selection, params) : failure;
	left.evp_keys += *key != NULL;
	return ok;
}

HIDDEN int EVP_PKEY_derive(EVP_PKEY_CTX *ctx, unsigned char *secret, size_t *len)
{
	int ok;
	REAL(int, EVP_PKEY_derive, (EVP_PKEY_CTX *, unsigned char *, size_t *));

	evp_calls++;
	if (note_secret)
		note_secret(secret, TLS_X25519_KEY);
	ok = RESULT(real(ctx, secret, len));
	return spoil_secret(secret, len, ok);
}

/* ---- a provider's functions ---- */

static OSSL_FUNC_keymgmt_new_fn *real_new_key;
static OSSL_FUNC_keymgmt_free_fn *real_free_key;
static OSSL_FUNC_keymgmt_import_fn *real_import;
static OSSL_FUNC_keyexch_newctx_fn *real_new_ctx;
static OSSL_FUNC_keyexch_freectx_fn *real_free_ctx;
static OSSL_FUNC_keyexch_init_fn *real_init;
static OSSL_FUNC_keyexch_set_peer_fn *real_set_peer;
static OSSL_FUNC_keyexch_derive_fn *real_derive;

static void *note_new_key(void *provider)
{
	void *key = call_may_succeed() ? real_new_key(provider) : NULL;

	assert_ptr_equal(provider, provider_ctx);
	left.keys += key != NULL;
	return key;
}

static void note_free_key(void *key)
{
	assert_non_null(key);
	left.keys--;
	real_free_key(key);
}

static int note_import(void *key, int selection, const OSSL_PARAM params[])
{
	return RESULT(real_import(key, selection, params));
}

static void *note_new_ctx(void *provider)
{
	void *ctx = call_may_succeed() ? real_new_ctx(provider) : NULL;

	assert_ptr_equal(provider, provider_ctx);
	left.contexts += ctx != NULL;
	return ctx;
}

static void note_free_ctx(void *ctx)
{
	assert_non_null(ctx);
	left.contexts--;
	real_free_ctx(ctx);
}

static int note_init(void *ctx, void *key, const OSSL_PARAM params[])
{
	return RESULT(real_init(ctx, key, params));
}

static int note_set_peer(void *ctx, void *key)
{
	return RESULT(real_set_peer(ctx, key));
}

static int note_derive(void *ctx, unsigned char *secret, size_t *len, size_t size)
{
	int ok;

	direct_calls++;
	assert_int_equal(size, TLS_X25519_KEY);
	if (note_secret && !spare)
		note_secret(secret, size);
	ok = RESULT(real_derive(ctx, secret, len, size));
	return spoil_secret(secret, len, ok);
}

#define SEEN(operation, id, real, noting)                                                          \
	{                                                                                          \
		OSSL_FUNC_##operation##_##id, (void (**)(void)) & (real), (void (*)(void))(noting) \
	}
static const struct shown_function keymgmt_functions[] = {
	SEEN(KEYMGMT, NEW, real_new_key, note_new_key),
	SEEN(KEYMGMT, FREE, real_free_key, note_free_key),
	SEEN(KEYMGMT, IMPORT, real_import, note_import),
};
static const struct shown_function keyexch_functions[] = {
	SEEN(KEYEXCH, NEWCTX, real_new_ctx, note_new_ctx),
	SEEN(KEYEXCH, FREECTX, real_free_ctx, note_free_ctx),
	SEEN(KEYEXCH, INIT, real_init, note_init),
	SEEN(KEYEXCH, SET_PEER, real_set_peer, note_set_peer),
	SEEN(KEYEXCH, DERIVE, real_derive, note_derive),
};
#undef SEEN

static const struct shown_algorithm x25519_algorithms[] = {
	{OSSL_OP_KEYMGMT, "X25519", keymgmt_functions, COUNT(keymgmt_functions)},
	{OSSL_OP_KEYEXCH, "X25519", keyexch_functions, COUNT(keyexch_functions)},
};

#endif
