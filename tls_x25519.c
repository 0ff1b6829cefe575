/* SPDX-License-Identifier: ISC */
#include "tls_x25519.h"

#include "tls_compat.h"

#if TLS_HAVE_PROVIDERS

#include "tls_dispatch.h"
#include "tls_rare.h"
#include "tls_wipe.h"

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <openssl/proverr.h>

#include <string.h>

static const char name[] = "X25519";

/* provider-keymgmt(7), provider-keyexch(7) */
struct functions {
	OSSL_FUNC_keymgmt_new_fn *new_key;
	OSSL_FUNC_keymgmt_free_fn *free_key;
	OSSL_FUNC_keymgmt_import_fn *import;
	OSSL_FUNC_keyexch_newctx_fn *new_ctx;
	OSSL_FUNC_keyexch_freectx_fn *free_ctx;
	OSSL_FUNC_keyexch_init_fn *init;
	OSSL_FUNC_keyexch_set_peer_fn *set_peer;
	OSSL_FUNC_keyexch_derive_fn *derive;
};

/* Owner: the thread. Kept because to look an algorithm up takes as long as to make a key. */
static __thread struct {
	enum tls_way way;
	EVP_PKEY_CTX *import_ctx;
	struct functions call;
	void *provider_ctx;
	EVP_KEYMGMT *keymgmt; /* keeps the provider */
} kept;

/* What a key is made of. With both parts, libcrypto need not compute the public one anew. */
struct parts {
	OSSL_PARAM params[3];
};

static OSSL_PARAM part(const char *which, const uint8_t *bytes)
{
	return OSSL_PARAM_construct_octet_string(which, (void *)bytes, TLS_X25519_KEY);
}

static struct parts own_parts(const struct tls_x25519_key *key)
{
	return (struct parts){{part(OSSL_PKEY_PARAM_PUB_KEY, key->public_part),
			       part(OSSL_PKEY_PARAM_PRIV_KEY, key->private_part),
			       OSSL_PARAM_construct_end()}};
}

static struct parts peer_parts(const uint8_t *public_part)
{
	return (struct parts){{part(OSSL_PKEY_PARAM_PUB_KEY, public_part),
			       OSSL_PARAM_construct_end(), OSSL_PARAM_construct_end()}};
}

/* ---- by EVP ---- */

static EVP_PKEY *evp_import(struct parts parts, int selection)
{
	EVP_PKEY *key = NULL;

	if (!kept.import_ctx)
		kept.import_ctx = EVP_PKEY_CTX_new_from_name(NULL, name, NULL);
	if (kept.import_ctx && EVP_PKEY_fromdata_init(kept.import_ctx) == 1)
		EVP_PKEY_fromdata(kept.import_ctx, &key, selection, parts.params);
	return key;
}

static bool evp_secret(const struct tls_x25519_key *key, const uint8_t *peer, uint8_t *secret)
{
	EVP_PKEY *own = evp_import(own_parts(key), EVP_PKEY_KEYPAIR);
	EVP_PKEY *other = evp_import(peer_parts(peer), EVP_PKEY_PUBLIC_KEY);
	EVP_PKEY_CTX *ctx = own && other ? EVP_PKEY_CTX_new(own, NULL) : NULL;
	size_t len = TLS_X25519_KEY;
	bool ok = ctx && EVP_PKEY_derive_init(ctx) == 1 &&
		  EVP_PKEY_derive_set_peer(ctx, other) == 1 &&
		  EVP_PKEY_derive(ctx, secret, &len) == 1 && len == TLS_X25519_KEY;

	EVP_PKEY_CTX_free(ctx);
	EVP_PKEY_free(other);
	EVP_PKEY_free(own);
	return ok;
}

static void evp_free(void)
{
	EVP_PKEY_CTX_free(kept.import_ctx);
	kept.import_ctx = NULL;
}

/* ---- by the functions of a provider ---- */

static void *direct_import(struct parts parts, int selection)
{
	void *key = kept.call.new_key(kept.provider_ctx);

	if (key && kept.call.import(key, selection, parts.params) != 1) {
		kept.call.free_key(key);
		key = NULL;
	}
	return key;
}

/* The context has both keys of its own. */
static bool direct_derive(void *own, void *other, uint8_t *secret)
{
	void *ctx = kept.call.new_ctx(kept.provider_ctx);
	size_t len = TLS_X25519_KEY;
	bool ok = ctx && kept.call.init(ctx, own, NULL) == 1 &&
		  kept.call.set_peer(ctx, other) == 1 &&
		  kept.call.derive(ctx, secret, &len, TLS_X25519_KEY) == 1 && len == TLS_X25519_KEY;

	if (ctx)
		kept.call.free_ctx(ctx);
	return ok;
}

static bool direct_secret(const struct tls_x25519_key *key, const uint8_t *peer, uint8_t *secret)
{
	void *own = direct_import(own_parts(key), EVP_PKEY_KEYPAIR);
	void *other = own ? direct_import(peer_parts(peer), EVP_PKEY_PUBLIC_KEY) : NULL;
	bool ok = other && direct_derive(own, other, secret);

	if (other)
		kept.call.free_key(other);
	if (own)
		kept.call.free_key(own);
	return ok;
}

static const struct tls_dispatch of_keymgmt[] = {
	{OSSL_FUNC_KEYMGMT_NEW, offsetof(struct functions, new_key)},
	{OSSL_FUNC_KEYMGMT_FREE, offsetof(struct functions, free_key)},
	{OSSL_FUNC_KEYMGMT_IMPORT, offsetof(struct functions, import)},
	{0, 0},
};

static const struct tls_dispatch of_keyexch[] = {
	{OSSL_FUNC_KEYEXCH_NEWCTX, offsetof(struct functions, new_ctx)},
	{OSSL_FUNC_KEYEXCH_FREECTX, offsetof(struct functions, free_ctx)},
	{OSSL_FUNC_KEYEXCH_INIT, offsetof(struct functions, init)},
	{OSSL_FUNC_KEYEXCH_SET_PEER, offsetof(struct functions, set_peer)},
	{OSSL_FUNC_KEYEXCH_DERIVE, offsetof(struct functions, derive)},
	{0, 0},
};

/* True if EVP takes its key exchange from that provider, too: keys are its own. */
static bool exchanges_keys(const OSSL_PROVIDER *provider)
{
	EVP_KEYEXCH *keyexch = EVP_KEYEXCH_fetch(NULL, name, NULL);
	bool same = keyexch && EVP_KEYEXCH_get0_provider(keyexch) == provider;

	EVP_KEYEXCH_free(keyexch);
	return same;
}

static bool direct_find(void)
{
	const OSSL_PROVIDER *provider;

	kept.keymgmt = EVP_KEYMGMT_fetch(NULL, name, NULL);
	provider = kept.keymgmt ? EVP_KEYMGMT_get0_provider(kept.keymgmt) : NULL;
	if (!provider || !exchanges_keys(provider))
		return false;
	kept.provider_ctx = OSSL_PROVIDER_get0_provider_ctx(provider);
	return tls_dispatch_find(provider, OSSL_OP_KEYMGMT, name, of_keymgmt, &kept.call) &&
	       tls_dispatch_find(provider, OSSL_OP_KEYEXCH, name, of_keyexch, &kept.call);
}

static void direct_free(void)
{
	EVP_KEYMGMT_free(kept.keymgmt);
	kept.keymgmt = NULL;
	kept.provider_ctx = NULL;
	memset(&kept.call, 0, sizeof(kept.call));
}

/* The keys of RFC 7748 section 6.1 give its secret. */
static bool direct_agrees(void)
{
	static const struct tls_x25519_key alice = {
		{0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1,
		 0x72, 0x51, 0xb2, 0x66, 0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0,
		 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a},
		{0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54, 0x74, 0x8b, 0x7d,
		 0xdc, 0xb4, 0x3e, 0xf7, 0x5a, 0x0d, 0xbf, 0x3a, 0x0d, 0x26, 0x38,
		 0x1a, 0xf4, 0xeb, 0xa4, 0xa9, 0x8e, 0xaa, 0x9b, 0x4e, 0x6a},
	};
	static const uint8_t bob[TLS_X25519_KEY] = {
		0xde, 0x9e, 0xdb, 0x7d, 0x7b, 0x7d, 0xc1, 0xb4, 0xd3, 0x5b, 0x61,
		0xc2, 0xec, 0xe4, 0x35, 0x37, 0x3f, 0x83, 0x43, 0xc8, 0x5b, 0x78,
		0x67, 0x4d, 0xad, 0xfc, 0x7e, 0x14, 0x6f, 0x88, 0x2b, 0x4f,
	};
	static const uint8_t shared[TLS_X25519_KEY] = {
		0x4a, 0x5d, 0x9d, 0x5b, 0xa4, 0xce, 0x2d, 0xe1, 0x72, 0x8e, 0x3b,
		0xf4, 0x80, 0x35, 0x0f, 0x25, 0xe0, 0x7e, 0x21, 0xc9, 0x47, 0xd1,
		0x9e, 0x33, 0x76, 0xf0, 0x9b, 0x3c, 0x1e, 0x16, 0x17, 0x42,
	};
	uint8_t secret[TLS_X25519_KEY];

	return direct_secret(&alice, bob, secret) && memcmp(secret, shared, sizeof(secret)) == 0;
}

/* ---- the shorter way that there is ---- */

static TLS_RARE void choose_way(void)
{
	ERR_set_mark();
	if (direct_find() && direct_agrees()) {
		kept.way = TLS_WAY_PROVIDER;
	} else {
		direct_free();
		kept.way = TLS_WAY_EVP;
	}
	ERR_pop_to_mark();
}

/* How libcrypto says that the peer's key is of small order. */
static bool was_refused(void)
{
	unsigned long error = ERR_peek_last_error();

	return ERR_GET_LIB(error) == ERR_LIB_PROV &&
	       ERR_GET_REASON(error) == PROV_R_FAILED_DURING_DERIVATION;
}

/* Such a key gives zeros, which nobody may use (RFC 7748 section 6.1). */
static bool is_zeros(const uint8_t *secret)
{
	static const uint8_t zeros[TLS_X25519_KEY];

	return CRYPTO_memcmp(secret, zeros, sizeof(zeros)) == 0;
}

enum tls_x25519 tls_x25519_secret(const struct tls_x25519_key *key,
				  const uint8_t peer[TLS_X25519_KEY],
				  uint8_t secret[TLS_X25519_KEY])
{
	bool ok;

	ERR_clear_error(); /* what is there afterwards is of this call */
	if (kept.way == TLS_WAY_UNKNOWN)
		choose_way();
	ok = kept.way == TLS_WAY_PROVIDER ? direct_secret(key, peer, secret)
					  : evp_secret(key, peer, secret);
	tls_wipe_stack();
	if (ok ? is_zeros(secret) : was_refused())
		return TLS_X25519_REFUSED;
	return ok ? TLS_X25519_OK : TLS_X25519_FAILED;
}

/* libcrypto's own function for raw keys leaves a copy of a private one in memory that it frees. */
static bool export_part(const EVP_PKEY *key, const char *which, uint8_t *out)
{
	size_t len;

	return EVP_PKEY_get_octet_string_param(key, which, out, TLS_X25519_KEY, &len) == 1 &&
	       len == TLS_X25519_KEY;
}

bool tls_x25519_take(struct tls_x25519_key *to, const EVP_PKEY *key)
{
	return EVP_PKEY_is_a(key, name) &&
	       export_part(key, OSSL_PKEY_PARAM_PRIV_KEY, to->private_part) &&
	       export_part(key, OSSL_PKEY_PARAM_PUB_KEY, to->public_part);
}

/* With the base point as the peer's key the secret is the own public key. */
bool tls_x25519_works(void)
{
	static const uint8_t base_point[TLS_X25519_KEY] = {9};
	EVP_PKEY *made = EVP_PKEY_Q_keygen(NULL, NULL, name);
	uint8_t secret[TLS_X25519_KEY];
	struct tls_x25519_key key;
	bool ok = made && tls_x25519_take(&key, made) &&
		  tls_x25519_secret(&key, base_point, secret) == TLS_X25519_OK &&
		  memcmp(secret, key.public_part, sizeof(secret)) == 0;

	EVP_PKEY_free(made);
	tls_x25519_thread_end(); /* who asks this may never have a key again */
	OPENSSL_cleanse(&key, sizeof(key));
	ERR_clear_error();
	return ok;
}

void tls_x25519_thread_end(void)
{
	evp_free();
	direct_free();
	kept.way = TLS_WAY_UNKNOWN;
}

#else

bool tls_x25519_works(void)
{
	return false;
}

bool tls_x25519_take(struct tls_x25519_key *to, const EVP_PKEY *key)
{
	(void)to;
	(void)key;
	return false;
}

enum tls_x25519 tls_x25519_secret(const struct tls_x25519_key *key,
				  const uint8_t peer[TLS_X25519_KEY],
				  uint8_t secret[TLS_X25519_KEY])
{
	(void)key;
	(void)peer;
	(void)secret;
	return TLS_X25519_FAILED;
}

void tls_x25519_thread_end(void)
{
}

#endif
