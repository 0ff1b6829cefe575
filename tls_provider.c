/* SPDX-License-Identifier: ISC */
#include "tls_provider.h"

#include "tls_compat.h"

#if TLS_HAVE_PROVIDERS

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/provider.h>

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define PROVIDER "ser-tls"

/*
 * Preferred where it is, so that all else comes from where it always comes from. The property is
 * none of OpenSSL's: a query for one takes the place of what the configuration says of it.
 */
#define PROPERTY       "ser.tls=yes"
#define PROPERTY_QUERY "?" PROPERTY
#define PROPERTIES     "provider=" PROVIDER "," PROPERTY
#define NOT_OURS       "ser.tls!=yes"

enum part {
	PART_KEY,
	PART_SALT,
	PART_PREFIX,
	PART_LABEL,
	PART_DATA,
	PARTS,
};

/* What to derive: EVP_KDF-TLS13_KDF(7). */
struct request {
	int mode;     /* EVP_KDF_HKDF_MODE_..., or -1 */
	uint8_t hash; /* enum tls_prf_hash, or 0 */
	struct tls_bytes part[PARTS];
};

static OSSL_PROVIDER *loaded; /* NULL: not in use */
static __thread struct tls_provider_secrets *watched;

/* ---- parameters ---- */

static const char *const part_names[PARTS] = {
	[PART_KEY] = OSSL_KDF_PARAM_KEY,       [PART_SALT] = OSSL_KDF_PARAM_SALT,
	[PART_PREFIX] = OSSL_KDF_PARAM_PREFIX, [PART_LABEL] = OSSL_KDF_PARAM_LABEL,
	[PART_DATA] = OSSL_KDF_PARAM_DATA,
};

static bool read_mode(const OSSL_PARAM *p, int *mode)
{
	if (p->data_type != OSSL_PARAM_UTF8_STRING)
		return OSSL_PARAM_get_int(p, mode) == 1;
	if (!p->data)
		return false;
	if (strcasecmp(p->data, "EXTRACT_ONLY") == 0)
		*mode = EVP_KDF_HKDF_MODE_EXTRACT_ONLY;
	else if (strcasecmp(p->data, "EXPAND_ONLY") == 0)
		*mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
	else
		return false;
	return true;
}

/* Another hash than those of tls_kdf.h becomes 0. */
static bool read_digest(const OSSL_PARAM *p, uint8_t *hash)
{
	static const struct {
		const char *name;
		uint8_t hash;
	} names[] = {
		{"SHA2-256", TLS_PRF_SHA256},   {"SHA256", TLS_PRF_SHA256},
		{"SHA2-384", TLS_PRF_SHA384},   {"SHA384", TLS_PRF_SHA384},
		{"MD5-SHA1", TLS_PRF_MD5_SHA1},
	};

	if (p->data_type != OSSL_PARAM_UTF8_STRING || !p->data)
		return false;
	*hash = 0;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcasecmp(p->data, names[i].name) == 0)
			*hash = names[i].hash;
	return true;
}

static bool read_part(const OSSL_PARAM *p, struct tls_bytes part[PARTS])
{
	for (int i = 0; i < PARTS; i++) {
		if (p->key[0] != part_names[i][0] || strcmp(p->key, part_names[i]) != 0)
			continue;
		if (p->data_type != OSSL_PARAM_OCTET_STRING)
			return false;
		part[i].data = p->data;
		part[i].len = p->data ? p->data_size : 0;
		break;
	}
	return true; /* what is not known does not matter: provider-kdf(7) */
}

/* Borrows what the parameters point to. */
static bool read_params(struct request *r, const OSSL_PARAM *p)
{
	bool ok = true;

	for (; ok && p && p->key; p++) {
		if (strcmp(p->key, OSSL_KDF_PARAM_MODE) == 0)
			ok = read_mode(p, &r->mode);
		else if (strcmp(p->key, OSSL_KDF_PARAM_DIGEST) == 0)
			ok = read_digest(p, &r->hash);
		else
			ok = read_part(p, r->part);
	}
	return ok;
}

/* What kdf makes of these parameters; NULL is fine. */
static bool run(EVP_KDF *kdf, uint8_t *out, size_t len, const OSSL_PARAM params[])
{
	EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	bool ok = ctx && EVP_KDF_derive(ctx, out, len, params) == 1;

	EVP_KDF_CTX_free(ctx);
	return ok;
}

/*
 * For a hash that tls_kdf.h does not have: then OpenSSL's own derives. All parameters have to come
 * with the call, as libssl's do.
 */
static int derive_elsewhere(const char *algorithm, uint8_t *out, size_t len,
			    const OSSL_PARAM params[])
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, algorithm, NOT_OURS);
	bool ok = run(kdf, out, len, params);

	EVP_KDF_free(kdf);
	return ok;
}

/* ---- the key schedule ---- */

/* The hash of no messages. */
static struct tls_bytes empty_hash(uint8_t hash)
{
	static const uint8_t sha256[] = {
		0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4,
		0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b,
		0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
	};
	static const uint8_t sha384[] = {
		0x38, 0xb0, 0x60, 0xa7, 0x51, 0xac, 0x96, 0x38, 0x4c, 0xd9, 0x32, 0x7e,
		0xb1, 0xb1, 0xe3, 0x6a, 0x21, 0xfd, 0xb7, 0x11, 0x14, 0xbe, 0x07, 0x43,
		0x4c, 0x0c, 0xc7, 0xbf, 0x63, 0xf6, 0xe1, 0xda, 0x27, 0x4e, 0xde, 0xbf,
		0xe7, 0x6f, 0x65, 0xfb, 0xd5, 0x1a, 0xd2, 0xf1, 0x48, 0x98, 0xb9, 0x5b,
	};

	return hash == TLS_PRF_SHA384 ? (struct tls_bytes){sha384, sizeof(sha384)}
				      : (struct tls_bytes){sha256, sizeof(sha256)};
}

static bool expand(const struct request *r, struct tls_bytes secret, struct tls_bytes data,
		   uint8_t *out, size_t len)
{
	struct tls_bytes prefix = r->part[PART_PREFIX], label = r->part[PART_LABEL];
	uint8_t whole[255];

	if (!prefix.data || !label.data || prefix.len + label.len > sizeof(whole))
		return false;
	memcpy(whole, prefix.data, prefix.len);
	memcpy(whole + prefix.len, label.data, label.len);
	label = (struct tls_bytes){whole, prefix.len + label.len};
	return tls_kdf_expand_label(r->hash, secret, label, data, out, len) == 0;
}

/* The secrets of application traffic are derived from the messages up to the server's Finished. */
static void note_transcript(struct tls_bytes transcript)
{
	if (!transcript.data || transcript.len > sizeof(watched->transcript))
		return;
	memcpy(watched->transcript, transcript.data, transcript.len);
	watched->transcript_len = transcript.len;
}

static bool is_label(struct tls_bytes label, const char *text)
{
	return label.len == strlen(text) && memcmp(label.data, text, label.len) == 0;
}

static void note(struct tls_bytes label, struct tls_bytes transcript, const uint8_t *secret,
		 size_t len)
{
	if (!watched || len > TLS_HASH_MAX)
		return;
	if (is_label(label, "c ap traffic")) {
		memcpy(watched->client, secret, len);
		watched->len = len;
	} else if (is_label(label, "s ap traffic")) {
		memcpy(watched->server, secret, len);
		watched->len = len;
		note_transcript(transcript);
	} else if (is_label(label, "c hs traffic")) {
		memcpy(watched->client_handshake, secret, len);
		watched->handshake_len = len;
	} else if (is_label(label, "res master")) {
		memcpy(watched->resumption, secret, len);
		watched->resumption_len = len;
	}
}

static bool derive_secret(const struct request *r, uint8_t *out, size_t len)
{
	if (!r->part[PART_KEY].data || !expand(r, r->part[PART_KEY], r->part[PART_DATA], out, len))
		return false;
	note(r->part[PART_LABEL], r->part[PART_DATA], out, len);
	return true;
}

/* From one stage of the schedule to the next; what is missing is a string of zeros. */
static bool extract(const struct request *r, uint8_t *out, size_t len)
{
	static const uint8_t zeros[TLS_HASH_MAX];
	size_t size = tls_kdf_hash_size(r->hash);
	struct tls_bytes none = {zeros, size}, secret = r->part[PART_KEY], salt = none;
	uint8_t derived[TLS_HASH_MAX];
	bool ok = len == size;

	if (ok && r->part[PART_SALT].data) {
		ok = expand(r, r->part[PART_SALT], empty_hash(r->hash), derived, size);
		salt.data = derived;
	}
	ok = ok && tls_kdf_hmac(r->hash, salt, secret.data ? secret : none, out) == 0;
	OPENSSL_cleanse(derived, sizeof(derived));
	return ok;
}

/* ---- TLS13-KDF as OpenSSL calls it: provider-kdf(7) ---- */

static void reset(void *ctx)
{
	struct request *r = ctx;

	for (int i = 0; i < PARTS; i++)
		OPENSSL_clear_free((void *)r->part[i].data, r->part[i].len);
	*r = (struct request){.mode = -1};
}

static void *new_ctx(void *provider)
{
	struct request *r = calloc(1, sizeof(*r));

	(void)provider;
	if (r)
		r->mode = -1;
	return r;
}

static void free_ctx(void *ctx)
{
	if (!ctx)
		return;
	reset(ctx);
	free(ctx);
}

/* An empty string is not the same as none. */
static void *bytes_dup(struct tls_bytes bytes)
{
	void *copy = OPENSSL_malloc(bytes.len + 1);

	if (copy && bytes.len > 0)
		memcpy(copy, bytes.data, bytes.len);
	return copy;
}

/* Keeps copies: the caller's memory may be gone when it derives. */
static int set_params(void *ctx, const OSSL_PARAM params[])
{
	struct request *r = ctx, now = *r;

	if (!read_params(&now, params))
		return 0;
	r->mode = now.mode;
	r->hash = now.hash;
	for (int i = 0; i < PARTS; i++) {
		struct tls_bytes *part = &r->part[i];
		void *copy = NULL;

		if (now.part[i].data == part->data)
			continue;
		if (now.part[i].data && !(copy = bytes_dup(now.part[i])))
			return 0;
		OPENSSL_clear_free((void *)part->data, part->len);
		*part = (struct tls_bytes){copy, now.part[i].len};
	}
	return 1;
}

static int derive(void *ctx, unsigned char *out, size_t len, const OSSL_PARAM params[])
{
	struct request r = *(struct request *)ctx;

	if (!read_params(&r, params))
		return 0;
	if (r.hash == 0)
		return derive_elsewhere(OSSL_KDF_NAME_TLS1_3_KDF, out, len, params);
	if (r.mode == EVP_KDF_HKDF_MODE_EXPAND_ONLY)
		return derive_secret(&r, out, len);
	return r.mode == EVP_KDF_HKDF_MODE_EXTRACT_ONLY && extract(&r, out, len);
}

static const OSSL_PARAM *settable(void *ctx, void *provider)
{
	static const OSSL_PARAM params[] = {
		OSSL_PARAM_int(OSSL_KDF_PARAM_MODE, NULL),
		OSSL_PARAM_utf8_string(OSSL_KDF_PARAM_DIGEST, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_KEY, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_SALT, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_PREFIX, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_LABEL, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_DATA, NULL, 0),
		OSSL_PARAM_END,
	};

	(void)ctx;
	(void)provider;
	return params;
}

/* ---- TLS1-PRF, likewise: EVP_KDF-TLS1_PRF(7) ---- */

/* A label and two randoms are 77 bytes; an exporter's context (RFC 5705) can be longer. */
#define MAX_SEED 1024

struct prf {
	uint8_t hash; /* enum tls_prf_hash, or 0 */
	uint8_t *secret;
	size_t secret_len, seed_len;
	uint8_t seed[MAX_SEED];
};

static void prf_reset(void *ctx)
{
	struct prf *prf = ctx;

	OPENSSL_clear_free(prf->secret, prf->secret_len);
	OPENSSL_cleanse(prf->seed, prf->seed_len);
	prf->hash = 0;
	prf->secret = NULL;
	prf->secret_len = prf->seed_len = 0;
}

static void *prf_new(void *provider)
{
	(void)provider;
	return calloc(1, sizeof(struct prf));
}

static void prf_free(void *ctx)
{
	if (!ctx)
		return;
	prf_reset(ctx);
	free(ctx);
}

static bool prf_take_secret(struct prf *prf, const OSSL_PARAM *p)
{
	struct tls_bytes secret = {p->data, p->data ? p->data_size : 0};

	if (p->data_type != OSSL_PARAM_OCTET_STRING)
		return false;
	OPENSSL_clear_free(prf->secret, prf->secret_len);
	prf->secret = bytes_dup(secret);
	prf->secret_len = prf->secret ? secret.len : 0;
	return prf->secret != NULL;
}

/* Each is appended to those before. */
static bool prf_take_seed(struct prf *prf, const OSSL_PARAM *p)
{
	if (p->data_type != OSSL_PARAM_OCTET_STRING || p->data_size > MAX_SEED - prf->seed_len)
		return false;
	if (p->data_size > 0 && p->data)
		memcpy(prf->seed + prf->seed_len, p->data, p->data_size);
	prf->seed_len += p->data ? p->data_size : 0;
	return true;
}

static int prf_set_params(void *ctx, const OSSL_PARAM *p)
{
	struct prf *prf = ctx;
	bool ok = true;

	for (; ok && p && p->key; p++) {
		if (strcmp(p->key, OSSL_KDF_PARAM_DIGEST) == 0)
			ok = read_digest(p, &prf->hash);
		else if (strcmp(p->key, OSSL_KDF_PARAM_SECRET) == 0)
			ok = prf_take_secret(prf, p);
		else if (strcmp(p->key, OSSL_KDF_PARAM_SEED) == 0)
			ok = prf_take_seed(prf, p);
	}
	return ok;
}

static int prf_derive(void *ctx, unsigned char *out, size_t len, const OSSL_PARAM params[])
{
	struct prf *prf = ctx;
	struct tls_bytes secret, seed;

	if (!prf_set_params(prf, params))
		return 0;
	if (prf->hash == 0)
		return derive_elsewhere(OSSL_KDF_NAME_TLS1_PRF, out, len, params);
	if (!prf->secret || prf->seed_len == 0)
		return 0;
	secret = (struct tls_bytes){prf->secret, prf->secret_len};
	seed = (struct tls_bytes){prf->seed, prf->seed_len};
	return tls_kdf_prf(prf->hash, secret, seed, out, len) == 0;
}

static const OSSL_PARAM *prf_settable(void *ctx, void *provider)
{
	static const OSSL_PARAM params[] = {
		OSSL_PARAM_utf8_string(OSSL_KDF_PARAM_DIGEST, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_SECRET, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_SEED, NULL, 0),
		OSSL_PARAM_END,
	};

	(void)ctx;
	(void)provider;
	return params;
}

/* ---- the provider ---- */

#define FUNCTION(number, function)                                                                 \
	{                                                                                          \
		number, (void (*)(void))(function)                                                 \
	}

static const OSSL_ALGORITHM *query_operation(void *provider, int operation, int *no_cache)
{
	static const OSSL_DISPATCH functions[] = {
		FUNCTION(OSSL_FUNC_KDF_NEWCTX, new_ctx),
		FUNCTION(OSSL_FUNC_KDF_FREECTX, free_ctx),
		FUNCTION(OSSL_FUNC_KDF_RESET, reset),
		FUNCTION(OSSL_FUNC_KDF_DERIVE, derive),
		FUNCTION(OSSL_FUNC_KDF_SET_CTX_PARAMS, set_params),
		FUNCTION(OSSL_FUNC_KDF_SETTABLE_CTX_PARAMS, settable),
		{0, NULL},
	};
	static const OSSL_DISPATCH prf_functions[] = {
		FUNCTION(OSSL_FUNC_KDF_NEWCTX, prf_new),
		FUNCTION(OSSL_FUNC_KDF_FREECTX, prf_free),
		FUNCTION(OSSL_FUNC_KDF_RESET, prf_reset),
		FUNCTION(OSSL_FUNC_KDF_DERIVE, prf_derive),
		FUNCTION(OSSL_FUNC_KDF_SET_CTX_PARAMS, prf_set_params),
		FUNCTION(OSSL_FUNC_KDF_SETTABLE_CTX_PARAMS, prf_settable),
		{0, NULL},
	};
	static const OSSL_ALGORITHM kdfs[] = {
		{OSSL_KDF_NAME_TLS1_3_KDF, PROPERTIES, functions, NULL},
		{OSSL_KDF_NAME_TLS1_PRF, PROPERTIES, prf_functions, NULL},
		{NULL, NULL, NULL, NULL},
	};

	(void)provider;
	*no_cache = 0;
	return operation == OSSL_OP_KDF ? kdfs : NULL;
}

static int init_provider(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *core,
			 const OSSL_DISPATCH **functions, void **provider)
{
	static const OSSL_DISPATCH table[] = {
		FUNCTION(OSSL_FUNC_PROVIDER_QUERY_OPERATION, query_operation),
		{0, NULL},
	};

	(void)core;
	*functions = table;
	*provider = (void *)handle; /* OpenSSL wants one that is not NULL */
	return 1;
}

/* ---- the start ---- */

/* Derives something as libssl does; each algorithm takes the parameters that it knows. */
static bool derive_with(EVP_KDF *kdf, int mode, char *digest, uint8_t *out, size_t len)
{
	static unsigned char key[TLS_HASH_MAX] = "key", salt[TLS_HASH_MAX] = "salt",
			     prefix[] = "tls13 ", label[] = "label", data[TLS_HASH_MAX];
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, key, len),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt, len),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, prefix, strlen("tls13 ")),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, label, strlen("label")),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_DATA, data, len),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SECRET, key, len),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, label, sizeof(label)),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, salt, sizeof(salt)),
		OSSL_PARAM_construct_end(),
	};

	return run(kdf, out, len, params);
}

/* True if OpenSSL takes this file's algorithm and it gives the same as the one that is taken else.
 */
static bool agrees(const char *algorithm, int mode, char *digest, size_t len)
{
	EVP_KDF *ours = EVP_KDF_fetch(NULL, algorithm, PROPERTY_QUERY);
	EVP_KDF *theirs = EVP_KDF_fetch(NULL, algorithm, NOT_OURS);
	uint8_t a[TLS_HASH_MAX], b[TLS_HASH_MAX];
	bool same = ours && theirs &&
		    EVP_KDF_get0_provider(ours) != EVP_KDF_get0_provider(theirs) &&
		    derive_with(ours, mode, digest, a, len) &&
		    derive_with(theirs, mode, digest, b, len) && memcmp(a, b, len) == 0;

	EVP_KDF_free(ours);
	EVP_KDF_free(theirs);
	return same;
}

static bool is_usable(void)
{
	static char sha256[] = "SHA2-256", sha384[] = "SHA2-384", both[] = "MD5-SHA1";
	const char *hkdf = OSSL_KDF_NAME_TLS1_3_KDF, *prf = OSSL_KDF_NAME_TLS1_PRF;

	return agrees(hkdf, EVP_KDF_HKDF_MODE_EXTRACT_ONLY, sha256, 32) &&
	       agrees(hkdf, EVP_KDF_HKDF_MODE_EXTRACT_ONLY, sha384, 48) &&
	       agrees(hkdf, EVP_KDF_HKDF_MODE_EXPAND_ONLY, sha256, 32) &&
	       agrees(hkdf, EVP_KDF_HKDF_MODE_EXPAND_ONLY, sha384, 48) &&
	       agrees(prf, 0, sha256, 48) && agrees(prf, 0, sha384, 48) && agrees(prf, 0, both, 48);
}

bool tls_provider_install(void)
{
	OPENSSL_init_ssl(0, NULL); /* reads the configuration, which may bring a FIPS provider */
	if (!OSSL_PROVIDER_available(NULL, "fips") &&
	    OSSL_PROVIDER_add_builtin(NULL, PROVIDER, init_provider) == 1)
		loaded = OSSL_PROVIDER_try_load(NULL, PROVIDER, 1);
	if (loaded && !is_usable()) {
		OSSL_PROVIDER_unload(loaded);
		loaded = NULL;
	}
	ERR_clear_error();
	return loaded != NULL;
}

SSL_CTX *tls_provider_ssl_ctx(const SSL_METHOD *method)
{
	return SSL_CTX_new_ex(NULL, loaded ? PROPERTY_QUERY : NULL, method);
}

void tls_provider_watch(struct tls_provider_secrets *secrets)
{
	watched = secrets;
}

#else

bool tls_provider_install(void)
{
	return false;
}

SSL_CTX *tls_provider_ssl_ctx(const SSL_METHOD *method)
{
	return SSL_CTX_new(method);
}

void tls_provider_watch(struct tls_provider_secrets *secrets)
{
	(void)secrets;
}

#endif
