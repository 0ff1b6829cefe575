/* SPDX-License-Identifier: ISC */
/*
 * Units of X25519: vectors, shares of small order, and which way to libcrypto is taken when a
 * provider's functions are missing, fail or do something else than they should:
 *
 *   gcc -I. -I../.. test_x25519.c helper.c ../../tls_{x25519,dispatch}.c -lcmocka -lcrypto
 *
 * Without providers there is no such secret.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "helper.h"
#include "tls_x25519.h"

#include "tls_compat.h"

#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/err.h>
#include <openssl/evp.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#if TLS_HAVE_PROVIDERS

#include "test_x25519.h"
#include "wiped.h"

#include <openssl/core_names.h>
#include <openssl/params.h>
#include <openssl/proverr.h>

#define STEPS 8 /* calls that one secret takes, either way */

/* ---- stand-ins that no other program needs ---- */

static bool wipes_private; /* whoever takes a private part */
static bool part_cuts;     /* a part of a key lacks its last byte */
static bool keymgmt_is_others, keyexch_is_others;
static OSSL_PROVIDER *other_provider; /* who has made those */

HIDDEN int EVP_PKEY_get_octet_string_param(const EVP_PKEY *key, const char *part, unsigned char *to,
					   size_t size, size_t *len)
{
	int ok;
	REAL(int, EVP_PKEY_get_octet_string_param,
	     (const EVP_PKEY *, const char *, unsigned char *, size_t, size_t *));

	if (wipes_private && strcmp(part, OSSL_PKEY_PARAM_PRIV_KEY) == 0)
		expose(to, size);
	ok = RESULT(real(key, part, to, size, len));
	if (part_cuts)
		(*len)--;
	return ok;
}

/* It has one more parameter for one of the kinds of keys that are made here. */
HIDDEN EVP_PKEY *EVP_PKEY_Q_keygen(OSSL_LIB_CTX *lib, const char *query, const char *type, ...)
{
	EVP_PKEY *key = NULL;
	va_list args;
	REAL(EVP_PKEY *, EVP_PKEY_Q_keygen, (OSSL_LIB_CTX *, const char *, const char *, ...));

	va_start(args, type);
	if (call_may_succeed())
		key = strcmp(type, "EC") == 0 ? real(lib, query, type, va_arg(args, char *))
					      : real(lib, query, type);
	va_end(args);
	left.evp_keys += key != NULL;
	return key;
}

HIDDEN const OSSL_PROVIDER *EVP_KEYMGMT_get0_provider(const EVP_KEYMGMT *keymgmt)
{
	REAL(const OSSL_PROVIDER *, EVP_KEYMGMT_get0_provider, (const EVP_KEYMGMT *));

	return keymgmt_is_others ? other_provider : real(keymgmt);
}

HIDDEN OSSL_PROVIDER *EVP_KEYEXCH_get0_provider(const EVP_KEYEXCH *keyexch)
{
	REAL(OSSL_PROVIDER *, EVP_KEYEXCH_get0_provider, (const EVP_KEYEXCH *));

	return keyexch_is_others ? other_provider : real(keyexch);
}

/* ---- what X25519 does, whichever way ---- */

/* Keys that are independent of what is tested. */
static EVP_PKEY *raw_key(const uint8_t *private_part, const uint8_t *public_part)
{
	EVP_PKEY *key = private_part ? EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL,
								    private_part, TLS_X25519_KEY)
				     : EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL,
								   public_part, TLS_X25519_KEY);

	assert_non_null(key);
	left.evp_keys++;
	return key;
}

/* The key of that private part. */
static struct tls_x25519_key key_of(const uint8_t *private_part)
{
	EVP_PKEY *raw = raw_key(private_part, NULL);
	struct tls_x25519_key key;
	size_t len = sizeof(key.public_part);

	memcpy(key.private_part, private_part, sizeof(key.private_part));
	assert_int_equal(EVP_PKEY_get_raw_public_key(raw, key.public_part, &len), 1);
	assert_int_equal(len, sizeof(key.public_part));
	EVP_PKEY_free(raw);
	return key;
}

static struct tls_x25519_key key_of_hex(const char *private_part)
{
	uint8_t bytes[TLS_X25519_KEY];

	assert_int_equal(unhex(private_part, bytes), sizeof(bytes));
	return key_of(bytes);
}

/* Nothing is left, but for what is kept for the thread. */
static void assert_left(int evp_contexts, int keymgmts)
{
	const struct left want = {.evp_contexts = evp_contexts, .keymgmts = keymgmts};

	assert_memory_equal(&left, &want, sizeof(left));
	assert_int_equal(open_queries, 0);
}

/* One call. Neither way leaves anything but what finds it again. */
static enum tls_x25519 share(const struct tls_x25519_key *key, const uint8_t *peer, uint8_t *secret)
{
	enum tls_x25519 result = tls_x25519_secret(key, peer, secret);

	assert_true(left.evp_contexts + left.keymgmts <= 1);
	assert_left(left.evp_contexts, left.keymgmts);
	return result;
}

static void assert_secret(const struct tls_x25519_key *key, const uint8_t *peer,
			  const uint8_t *want)
{
	uint8_t secret[TLS_X25519_KEY];

	assert_int_equal(share(key, peer, secret), TLS_X25519_OK);
	assert_memory_equal(secret, want, sizeof(secret));
	assert_int_equal(ERR_peek_error(), 0);
}

static const struct vector {
	const char *source, *private_part, *peer, *secret;
} vectors[] = {
	{"RFC 7748 section 6.1, Alice", alice_private, bob_public, shared_secret},
	{"RFC 7748 section 6.1, Bob", bob_private, alice_public, shared_secret},
	{"RFC 7748 section 5.2, first",
	 "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
	 "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
	 "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"},
	{"RFC 7748 section 5.2, second: a bit that counts for nothing",
	 "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
	 "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
	 "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"},
	{"RFC 7748 section 5.2, after one iteration",
	 "0900000000000000000000000000000000000000000000000000000000000000",
	 "0900000000000000000000000000000000000000000000000000000000000000",
	 "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"},
};

static void assert_vectors(void)
{
	for (size_t i = 0; i < COUNT(vectors); i++) {
		struct tls_x25519_key key = key_of_hex(vectors[i].private_part);
		uint8_t peer[TLS_X25519_KEY], want[TLS_X25519_KEY];

		assert_int_equal(unhex(vectors[i].peer, peer), sizeof(peer));
		assert_int_equal(unhex(vectors[i].secret, want), sizeof(want));
		assert_secret(&key, peer, want);
	}
}

/* Whoever sends one of these knows the secret, whatever the other key is. */
static void assert_refused(const char *peer_hex, uint8_t last_bit)
{
	struct tls_x25519_key key = key_of(pattern(TLS_X25519_KEY));
	uint8_t peer[TLS_X25519_KEY], secret[TLS_X25519_KEY];

	assert_int_equal(unhex(peer_hex, peer), sizeof(peer));
	peer[sizeof(peer) - 1] |= last_bit;
	assert_int_equal(share(&key, peer, secret), TLS_X25519_REFUSED);
	ERR_clear_error();
}

static void assert_small_order_is_refused(void)
{
	for (size_t i = 0; i < COUNT(small_order); i++) {
		assert_refused(small_order[i], 0);
		assert_refused(small_order[i], 0x80); /* which X25519 ignores */
	}
}

/* The secret as EVP has it, of keys that are not made from what is tested. */
static void evp_secret_of(const struct tls_x25519_key *key, const uint8_t *peer, uint8_t *secret)
{
	EVP_PKEY *own = raw_key(key->private_part, NULL), *other = raw_key(NULL, peer);
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(own, NULL);
	size_t len = TLS_X25519_KEY;

	assert_int_equal(EVP_PKEY_derive_init(ctx), 1);
	assert_int_equal(EVP_PKEY_derive_set_peer(ctx, other), 1);
	assert_int_equal(EVP_PKEY_derive(ctx, secret, &len), 1);
	assert_int_equal(len, TLS_X25519_KEY);
	EVP_PKEY_CTX_free(ctx);
	EVP_PKEY_free(other);
	EVP_PKEY_free(own);
}

/* Two keys in turn, each with a share that nobody need have a private part for, too. */
static void assert_as_evp_has_it(void)
{
	struct tls_x25519_key a = key_of(pattern(TLS_X25519_KEY));
	struct tls_x25519_key b = key_of(pattern(TLS_X25519_KEY));
	uint8_t peer[TLS_X25519_KEY], of_a[TLS_X25519_KEY], of_b[TLS_X25519_KEY];
	uint8_t want[TLS_X25519_KEY];
	unsigned before = evp_calls;

	memcpy(peer, pattern(sizeof(peer)), sizeof(peer));
	evp_secret_of(&a, peer, of_a);
	evp_secret_of(&b, peer, of_b);
	evp_secret_of(&a, b.public_part, want);
	evp_calls = before;
	assert_secret(&a, peer, of_a);
	assert_secret(&b, peer, of_b);
	assert_secret(&a, b.public_part, want);
	assert_secret(&b, a.public_part, want);
}

static void assert_all(void)
{
	assert_vectors();
	assert_small_order_is_refused();
	assert_as_evp_has_it();
}

/* ---- ways ---- */

static void end(void)
{
	tls_x25519_thread_end();
	assert_left(0, 0);
}

/* The thread begins anew, and has a way. */
static void begin(void)
{
	struct tls_x25519_key key = key_of_hex(alice_private);
	uint8_t secret[TLS_X25519_KEY];

	end();
	assert_int_equal(share(&key, key.public_part, secret), TLS_X25519_OK);
	calls = 0;
	evp_calls = 0;
	direct_calls = 0;
}

static void hide_provider(bool hidden)
{
	shown.hidden = hidden ? OSSL_OP_KEYMGMT : 0;
}

static void assert_was(bool by_evp)
{
	assert_int_equal(evp_calls > 0, by_evp);
	assert_int_equal(direct_calls > 0, !by_evp);
	assert_left(by_evp, !by_evp);
}

/* Everything works, and is done by EVP or by the provider's functions. Then all is shown again. */
static void assert_way(bool by_evp)
{
	begin();
	assert_all();
	assert_was(by_evp);
	end();
	memset(&shown, 0, sizeof(shown));
}

static void test_provider(void **state)
{
	(void)state;
	for (int i = 0; i < 16; i++)
		assert_as_evp_has_it();
	assert_way(false);
}

static void test_no_provider(void **state)
{
	(void)state;
	end();
	hide_provider(true);
	for (int i = 0; i < 16; i++)
		assert_as_evp_has_it();
	assert_way(true);
}

static void test_no_algorithm(void **state)
{
	static const int operations[] = {OSSL_OP_KEYMGMT, OSSL_OP_KEYEXCH};

	(void)state;
	for (size_t i = 0; i < COUNT(operations); i++) {
		shown.hidden = operations[i];
		assert_way(true);
		shown.twice = operations[i];
		assert_way(true);
		assert_way(false);
	}
}

static void test_function_is_missing(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(x25519_algorithms); i++) {
		const struct shown_algorithm *shows = &x25519_algorithms[i];

		for (size_t j = 0; j < shows->count; j++) {
			shown.missing =
				(struct function_id){shows->operation, shows->functions[j].id};
			assert_way(true);
		}
	}
	shown.missing = (struct function_id){OSSL_OP_KEYMGMT, OSSL_FUNC_KEYMGMT_DUP};
	assert_way(false);
	shown.missing = (struct function_id){OSSL_OP_KEYEXCH, OSSL_FUNC_KEYEXCH_DUPCTX};
	assert_way(false);
}

/* A key is of use only to the provider that has made it. */
static void test_other_provider(void **state)
{
	OSSL_PROVIDER *other = OSSL_PROVIDER_load(NULL, "base");
	const struct {
		bool keymgmt, keyexch; /* whose provider is another one */
		OSSL_PROVIDER *provider;
	} rows[] = {
		{false, true, other}, {false, true, NULL}, {true, false, NULL}, {true, true, NULL}};

	(void)state;
	assert_non_null(other);
	for (size_t i = 0; i < COUNT(rows); i++) {
		keymgmt_is_others = rows[i].keymgmt;
		keyexch_is_others = rows[i].keyexch;
		other_provider = rows[i].provider;
		assert_way(true);
	}
	keymgmt_is_others = keyexch_is_others = false;
	assert_way(false);
	assert_int_equal(OSSL_PROVIDER_unload(other), 1);
}

static void *no_object(void *provider)
{
	(void)provider;
	raise_error();
	return NULL;
}

static void *one_key(void *provider)
{
	return left.keys == 0 ? note_new_key(provider) : NULL;
}

static int no_import(void *key, int selection, const OSSL_PARAM params[])
{
	(void)key, (void)selection, (void)params;
	raise_error();
	return 0;
}

static int no_public_import(void *key, int selection, const OSSL_PARAM params[])
{
	bool own = OSSL_PARAM_locate_const(params, OSSL_PKEY_PARAM_PRIV_KEY);

	return own ? real_import(key, selection, params) : 0;
}

static int empty_import(void *key, int selection, const OSSL_PARAM params[])
{
	(void)key, (void)selection, (void)params;
	return 1;
}

static int odd_import(void *key, int selection, const OSSL_PARAM params[])
{
	return real_import(key, selection, params) == 1 ? 2 : 0;
}

static int no_init(void *ctx, void *key, const OSSL_PARAM params[])
{
	(void)ctx, (void)key, (void)params;
	return 0;
}

static int odd_init(void *ctx, void *key, const OSSL_PARAM params[])
{
	return real_init(ctx, key, params) == 1 ? 2 : 0;
}

static int no_peer(void *ctx, void *key)
{
	(void)ctx, (void)key;
	return -1;
}

static int odd_peer(void *ctx, void *key)
{
	return real_set_peer(ctx, key) == 1 ? 2 : 0;
}

static int no_derive(void *ctx, unsigned char *secret, size_t *len, size_t size)
{
	(void)ctx, (void)secret, (void)len, (void)size;
	raise_error();
	return 0;
}

static int odd_derive(void *ctx, unsigned char *secret, size_t *len, size_t size)
{
	return real_derive(ctx, secret, len, size) == 1 ? 2 : 0;
}

static int negative_derive(void *ctx, unsigned char *secret, size_t *len, size_t size)
{
	return real_derive(ctx, secret, len, size) == 1 ? 1 : -1;
}

static int wrong_first_bit(void *ctx, unsigned char *secret, size_t *len, size_t size)
{
	int result = real_derive(ctx, secret, len, size);

	secret[0] ^= 1;
	return result;
}

static int wrong_last_bit(void *ctx, unsigned char *secret, size_t *len, size_t size)
{
	int result = real_derive(ctx, secret, len, size);

	secret[TLS_X25519_KEY - 1] ^= 0x80;
	return result;
}

static int short_derive(void *ctx, unsigned char *secret, size_t *len, size_t size)
{
	int result = real_derive(ctx, secret, len, size);

	(*len)--;
	return result;
}

/* A provider that takes its own key for the peer's, too. */
static int own_peer(void *ctx, void *key)
{
	int result = real_set_peer(ctx, key);

	return result == 1 ? real_init(ctx, key, NULL) : result;
}

static const struct shown_algorithm *shown_algorithm(size_t i)
{
	return i < COUNT(x25519_algorithms) ? &x25519_algorithms[i] : NULL;
}

static const struct other {
	struct function_id which;
	void (*by)(void);
} others[] = {
#define OTHER(operation, id, by)                                                                   \
	{                                                                                          \
		{OSSL_OP_##operation, OSSL_FUNC_##operation##_##id}, (void (*)(void))(by)          \
	}
	OTHER(KEYMGMT, NEW, no_object),          OTHER(KEYMGMT, NEW, one_key),
	OTHER(KEYMGMT, IMPORT, no_import),       OTHER(KEYMGMT, IMPORT, no_public_import),
	OTHER(KEYMGMT, IMPORT, empty_import),    OTHER(KEYMGMT, IMPORT, odd_import),
	OTHER(KEYEXCH, NEWCTX, no_object),       OTHER(KEYEXCH, INIT, no_init),
	OTHER(KEYEXCH, INIT, odd_init),          OTHER(KEYEXCH, SET_PEER, no_peer),
	OTHER(KEYEXCH, SET_PEER, odd_peer),      OTHER(KEYEXCH, SET_PEER, own_peer),
	OTHER(KEYEXCH, DERIVE, no_derive),       OTHER(KEYEXCH, DERIVE, odd_derive),
	OTHER(KEYEXCH, DERIVE, wrong_first_bit), OTHER(KEYEXCH, DERIVE, wrong_last_bit),
	OTHER(KEYEXCH, DERIVE, short_derive),
#undef OTHER
};

static void test_function_does_something_else(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(others); i++) {
		shown.other = others[i].which;
		shown.by = others[i].by;
		assert_way(true);
	}
}

/* A provider may say no with -1, too. */
static void test_no_is_negative(void **state)
{
	(void)state;
	shown.other = (struct function_id){OSSL_OP_KEYEXCH, OSSL_FUNC_KEYEXCH_DERIVE};
	shown.by = (void (*)(void))negative_derive;
	begin();
	assert_all();
	assert_int_equal(evp_calls, 0);
	assert_left(0, 1);
	end();
	memset(&shown, 0, sizeof(shown));
}

/* ---- what fails ---- */

static void no_error(void)
{
}

static void other_reason(void)
{
	ERR_raise(ERR_LIB_PROV, PROV_R_INVALID_KEY);
}

static void other_library(void)
{
	ERR_raise(ERR_LIB_EVP, PROV_R_FAILED_DURING_DERIVATION);
}

/* Alice's secret with Bob, once. */
static enum tls_x25519 share_once(void)
{
	struct tls_x25519_key alice;
	uint8_t bob[TLS_X25519_KEY], want[TLS_X25519_KEY], secret[TLS_X25519_KEY] = {0};
	enum tls_x25519 result;

	unhex(alice_private, alice.private_part);
	unhex(alice_public, alice.public_part);
	unhex(bob_public, bob);
	unhex(shared_secret, want);
	result = share(&alice, bob, secret);
	if (result == TLS_X25519_OK)
		assert_memory_equal(secret, want, sizeof(secret));
	return result;
}

/* Whatever call fails, it fails one secret, is no fault of the peer, and no other way is taken. */
static void fail_each_call(bool by_evp)
{
	hide_provider(by_evp);
	begin();
	assert_int_equal(share_once(), TLS_X25519_OK);
	assert_int_equal(calls, STEPS);
	for (int i = 1; i <= STEPS; i++) {
		call_fails = i;
		assert_int_equal(share_once(), TLS_X25519_FAILED);
		assert_int_equal(call_fails, 0);
		ERR_clear_error();
		assert_int_equal(share_once(), TLS_X25519_OK);
	}
	assert_was(by_evp);
	hide_provider(false);
}

static void test_fails_later(void **state)
{
	static void (*const errors[])(void) = {no_error, raise_error, other_reason, other_library};
	static const int failures[] = {0, -1, 2};

	(void)state;
	for (size_t i = 0; i < COUNT(errors) * COUNT(failures); i++) {
		add_error = errors[i / COUNT(failures)];
		failure = failures[i % COUNT(failures)];
		fail_each_call(false);
		fail_each_call(true);
	}
	add_error = raise_error;
	failure = 0;
}

/* Whatever call fails when a thread begins. While a way is looked for, there is EVP's. */
static void fail_to_begin(bool by_evp)
{
	int count, spare_count;

	hide_provider(by_evp);
	end();
	calls = spare_calls = 0;
	assert_int_equal(share_once(), TLS_X25519_OK);
	count = calls;
	spare_count = spare_calls;
	assert_int_equal(count, by_evp ? STEPS + 1 : STEPS);
	assert_true(spare_count > (by_evp ? 1 : STEPS));
	for (int i = 1; i <= count; i++) {
		end();
		call_fails = i;
		assert_int_equal(share_once(), TLS_X25519_FAILED);
		assert_int_equal(call_fails, 0);
		ERR_clear_error();
		assert_int_equal(share_once(), TLS_X25519_OK);
		assert_refused(small_order[0], 0);
	}
	for (int i = 1; i <= spare_count; i++) {
		end();
		spare_call_fails = i;
		assert_int_equal(share_once(), TLS_X25519_OK);
		assert_int_equal(spare_call_fails, 0);
		assert_int_equal(ERR_peek_error(), 0);
		assert_int_equal(share_once(), TLS_X25519_OK);
		assert_refused(small_order[0], 0);
	}
	hide_provider(false);
}

static void test_fails_to_begin(void **state)
{
	static void (*const errors[])(void) = {no_error, raise_error};

	(void)state;
	for (size_t i = 0; i < COUNT(errors); i++) {
		add_error = errors[i];
		fail_to_begin(false);
		fail_to_begin(true);
	}
	add_error = raise_error;
}

/* What has another length is no secret. */
static void test_wrong_length(void **state)
{
	(void)state;
	for (int by_evp = 0; by_evp < 2; by_evp++) {
		hide_provider(by_evp);
		begin();
		derive_cuts = true;
		assert_int_equal(share_once(), TLS_X25519_FAILED);
		derive_cuts = false;
		assert_int_equal(share_once(), TLS_X25519_OK);
		assert_was(by_evp);
	}
	hide_provider(false);
}

/* What others have left does not stay, and nothing is added that is none. */
static void test_leaves_no_errors(void **state)
{
	static const struct {
		int hidden;
		bool derive_fails;
	} rows[] = {{0, false}, {OSSL_OP_KEYMGMT, false}, {OSSL_OP_KEYEXCH, false}, {0, true}};

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		end();
		shown.hidden = rows[i].hidden;
		if (rows[i].derive_fails) {
			shown.other =
				(struct function_id){OSSL_OP_KEYEXCH, OSSL_FUNC_KEYEXCH_DERIVE};
			shown.by = (void (*)(void))no_derive;
		}
		other_reason();
		for (int again = 0; again < 2; again++)
			assert_int_equal(share_once(), TLS_X25519_OK);
		assert_int_equal(ERR_peek_error(), 0);
		memset(&shown, 0, sizeof(shown));
	}
}

static void refusal(void)
{
	ERR_raise(ERR_LIB_PROV, PROV_R_FAILED_DURING_DERIVATION);
}

/* What was refused before is not what has failed this time, for which there may be no error. */
static void test_stale_refusal(void **state)
{
	(void)state;
	add_error = no_error;
	for (int by_evp = 0; by_evp < 2; by_evp++) {
		hide_provider(by_evp);
		begin();
		for (int i = 1; i <= STEPS; i++) {
			refusal();
			call_fails = i;
			assert_int_equal(share_once(), TLS_X25519_FAILED);
			assert_int_equal(call_fails, 0);
			assert_int_equal(ERR_peek_error(), 0);
			refusal();
			assert_int_equal(share_once(), TLS_X25519_OK);
			assert_int_equal(ERR_peek_error(), 0);
		}
		assert_was(by_evp);
	}
	hide_provider(false);
	add_error = raise_error;
}

static enum tls_x25519 share_pattern(void)
{
	struct tls_x25519_key key = key_of(pattern(TLS_X25519_KEY));
	uint8_t peer[TLS_X25519_KEY], secret[TLS_X25519_KEY];

	memcpy(peer, pattern(sizeof(peer)), sizeof(peer));
	return share(&key, peer, secret);
}

/* Zeros are no secret, even if libcrypto is content with them, as X25519 itself is. */
static void test_zeros(void **state)
{
	static const uint8_t zeros[TLS_X25519_KEY];
	uint8_t bit[TLS_X25519_KEY];

	(void)state;
	for (int by_evp = 0; by_evp < 2; by_evp++) {
		hide_provider(by_evp);
		begin();
		derive_gives = zeros;
		assert_int_equal(share_pattern(), TLS_X25519_REFUSED);
		assert_small_order_is_refused();
		derive_gives = bit;
		for (size_t i = 0; i < 8 * sizeof(bit); i++) {
			memset(bit, 0, sizeof(bit));
			bit[i / 8] = (uint8_t)(1 << i % 8);
			assert_int_equal(share_pattern(), TLS_X25519_OK);
		}
		derive_gives = NULL;
		assert_all();
		assert_was(by_evp);
	}
	hide_provider(false);
}

/* Content with whatever comes. */
static int any_derive(void *ctx, unsigned char *secret, size_t *len, size_t size)
{
	if (note_derive(ctx, secret, len, size) != 1) {
		ERR_clear_error();
		memset(secret, 0, TLS_X25519_KEY);
		*len = TLS_X25519_KEY;
	}
	return 1;
}

/* Says that it is done, and leaves an error all the same. */
static int noisy_derive(void *ctx, unsigned char *secret, size_t *len, size_t size)
{
	int result = note_derive(ctx, secret, len, size);

	refusal();
	return result;
}

static void test_error_that_is_none(void **state)
{
	(void)state;
	shown.other = (struct function_id){OSSL_OP_KEYEXCH, OSSL_FUNC_KEYEXCH_DERIVE};
	shown.by = (void (*)(void))noisy_derive;
	begin();
	for (int again = 0; again < 2; again++)
		assert_int_equal(share_once(), TLS_X25519_OK);
	assert_was(false);
	memset(&shown, 0, sizeof(shown));
	ERR_clear_error();
}

/* What a provider does not refuse is refused all the same. */
static void test_provider_that_refuses_nothing(void **state)
{
	(void)state;
	shown.other = (struct function_id){OSSL_OP_KEYEXCH, OSSL_FUNC_KEYEXCH_DERIVE};
	shown.by = (void (*)(void))any_derive;
	assert_way(false);
}

/* A thread's first share may be of small order. */
static void test_refused_at_once(void **state)
{
	(void)state;
	for (int by_evp = 0; by_evp < 2; by_evp++) {
		hide_provider(by_evp);
		end();
		assert_small_order_is_refused();
		assert_int_equal(share_once(), TLS_X25519_OK);
		assert_left(by_evp, !by_evp);
	}
	hide_provider(false);
}

/* ---- keys of OpenSSL's ---- */

static EVP_PKEY *new_key(const char *type)
{
	EVP_PKEY *key =
		strcmp(type, "EC") == 0 ? EVP_EC_gen("P-256") : EVP_PKEY_Q_keygen(NULL, NULL, type);

	assert_non_null(key);
	return key;
}

static void test_take(void **state)
{
	struct tls_x25519_key key, want;

	(void)state;
	end();
	for (int i = 0; i < 4; i++) {
		EVP_PKEY *made = new_key("X25519");

		memset(&key, 0, sizeof(key));
		assert_true(tls_x25519_take(&key, made));
		want = key_of(key.private_part);
		assert_memory_equal(key.public_part, want.public_part, sizeof(key.public_part));
		EVP_PKEY_free(made);
	}
	for (size_t i = 0; i < COUNT(vectors); i++) {
		EVP_PKEY *raw;

		want = key_of_hex(vectors[i].private_part);
		raw = raw_key(want.private_part, NULL);
		assert_true(tls_x25519_take(&key, raw));
		assert_memory_equal(&key, &want, sizeof(key));
		EVP_PKEY_free(raw);
	}
	assert_left(0, 0);
	assert_int_equal(ERR_peek_error(), 0);
}

/* Of these, Ed25519's have parts of the same names and lengths. */
static void test_take_other_keys(void **state)
{
	static const char *const types[] = {"EC", "X448", "ED25519", "ED448"};
	struct tls_x25519_key key;
	EVP_PKEY *other;

	(void)state;
	for (size_t i = 0; i < COUNT(types); i++) {
		other = new_key(types[i]);
		assert_false(tls_x25519_take(&key, other));
		EVP_PKEY_free(other);
	}
	other = raw_key(NULL, pattern(TLS_X25519_KEY));
	assert_false(tls_x25519_take(&key, other));
	EVP_PKEY_free(other);
	assert_left(0, 0);
	ERR_clear_error();
}

static void test_take_fails(void **state)
{
	EVP_PKEY *made = new_key("X25519");
	struct tls_x25519_key key;

	(void)state;
	for (int i = 1; i <= 2; i++) {
		call_fails = i;
		assert_false(tls_x25519_take(&key, made));
		assert_int_equal(call_fails, 0);
	}
	part_cuts = true;
	assert_false(tls_x25519_take(&key, made));
	part_cuts = false;
	assert_true(tls_x25519_take(&key, made));
	EVP_PKEY_free(made);
	ERR_clear_error();
}

/* ---- whether it works ---- */

/* The answer is what the functions give, and nothing of the try stays. */
static void assert_works(bool want)
{
	wipes_private = true;
	assert_int_equal(tls_x25519_works(), want);
	wipes_private = false;
	assert_int_equal(exposed_count(), 0);
	assert_int_equal(ERR_peek_error(), 0);
	assert_left(0, 0);
}

/* What fails while a way is looked for stands not in the way of another. */
static void works_unless_a_call_fails(bool by_evp)
{
	int count, spare_count;

	hide_provider(by_evp);
	end();
	calls = spare_calls = 0;
	assert_works(true);
	count = calls;
	spare_count = spare_calls;
	assert_int_equal(count, 1 + 2 + STEPS + by_evp); /* a key, its parts, and a secret */
	assert_true(spare_count > 0);
	for (int i = 1; i <= count; i++) {
		call_fails = i;
		assert_works(false);
		assert_int_equal(call_fails, 0);
	}
	for (int i = 1; i <= spare_count; i++) {
		spare_call_fails = i;
		assert_works(true);
		assert_int_equal(spare_call_fails, 0);
	}
	hide_provider(false);
}

static void test_works(void **state)
{
	static const int failures[] = {0, -1, 2};

	(void)state;
	for (size_t i = 0; i < COUNT(failures); i++) {
		failure = failures[i];
		works_unless_a_call_fails(false);
		works_unless_a_call_fails(true);
	}
	failure = 0;
}

/* What lies from the beginning is not taken; EVP is all that there is besides. */
static void test_works_with_lies(void **state)
{
	bool *const lies[] = {&derive_lies, &derive_cuts, &part_cuts};

	(void)state;
	for (int by_evp = 0; by_evp < 2; by_evp++) {
		for (size_t i = 0; i < COUNT(lies); i++) {
			hide_provider(by_evp);
			begin();
			*lies[i] = true;
			assert_works(false);
			assert_works(false);
			*lies[i] = false;
			assert_works(true);
		}
	}
	hide_provider(false);
	shown.other = (struct function_id){OSSL_OP_KEYEXCH, OSSL_FUNC_KEYEXCH_DERIVE};
	shown.by = (void (*)(void))wrong_first_bit;
	assert_works(true);
	memset(&shown, 0, sizeof(shown));
}

/* ---- what is left on the stack ---- */

static uint8_t wanted[32]; /* static: what is searched for must not be found here */

/* True if the stack below that address has what is wanted. */
static bool stack_has_wanted(uintptr_t top)
{
	return memmem(stack_below(top), STACK, wanted, sizeof(wanted)) != NULL;
}

/* Leaves it there, below all that the next calls use themselves. */
static __attribute__((noinline)) void leave_wanted(void)
{
	uint8_t copy[2 * STACK] = {0};

	memcpy(copy + sizeof(copy) - 1024, wanted, sizeof(wanted));
	__asm__ volatile("" : : "r"(copy) : "memory"); /* it is stored */
}

/* libcrypto leaves about half of all secrets on the stack. */
static void test_stack(void **state)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);

	(void)state;
	memcpy(wanted, pattern(sizeof(wanted)), sizeof(wanted));
	leave_wanted();
	assert_true(stack_has_wanted(here - 512));
	for (int i = 0; i < 64; i++) {
		struct tls_x25519_key key = key_of(pattern(TLS_X25519_KEY));

		assert_int_equal(tls_x25519_secret(&key, key.public_part, wanted), TLS_X25519_OK);
		assert_false(stack_has_wanted(here));
	}
}

/* ---- threads ---- */

/* A thread has a way of its own, and leaves that of others alone. */
static void *thread_run(void *arg)
{
	const struct left before = left;

	memset(&left, 0, sizeof(left));
	assert_way(false);
	hide_provider(true);
	assert_way(true);
	assert_way(false);
	end();
	left = before;
	return arg;
}

static void test_thread(void **state)
{
	for (int by_evp = 0; by_evp < 2; by_evp++) {
		pthread_t thread;

		hide_provider(by_evp);
		begin();
		hide_provider(false);
		assert_int_equal(pthread_create(&thread, NULL, thread_run, state), 0);
		assert_int_equal(pthread_join(thread, NULL), 0);
		evp_calls = direct_calls = 0;
		assert_all();
		assert_was(by_evp);
	}
	end();
}

static int group_end(void **state)
{
	(void)state;
	tls_x25519_thread_end();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_provider),
		cmocka_unit_test(test_no_provider),
		cmocka_unit_test(test_no_algorithm),
		cmocka_unit_test(test_function_is_missing),
		cmocka_unit_test(test_other_provider),
		cmocka_unit_test(test_function_does_something_else),
		cmocka_unit_test(test_no_is_negative),
		cmocka_unit_test(test_fails_later),
		cmocka_unit_test(test_fails_to_begin),
		cmocka_unit_test(test_wrong_length),
		cmocka_unit_test(test_leaves_no_errors),
		cmocka_unit_test(test_stale_refusal),
		cmocka_unit_test(test_zeros),
		cmocka_unit_test(test_provider_that_refuses_nothing),
		cmocka_unit_test(test_error_that_is_none),
		cmocka_unit_test(test_refused_at_once),
		cmocka_unit_test(test_take),
		cmocka_unit_test(test_take_other_keys),
		cmocka_unit_test(test_take_fails),
		cmocka_unit_test(test_works),
		cmocka_unit_test(test_works_with_lies),
		cmocka_unit_test(test_stack),
		cmocka_unit_test(test_thread),
	};

	return cmocka_run_group_tests(tests, NULL, group_end);
}

#else

static void test_does_not_work(void **state)
{
	static const uint8_t peer[TLS_X25519_KEY] = {9};
	struct tls_x25519_key key = {{1}, {9}};
	uint8_t secret[TLS_X25519_KEY] = {0};
	EVP_PKEY *made = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, key.private_part,
						      sizeof(key.private_part));

	(void)state;
	assert_non_null(made);
	assert_false(tls_x25519_works());
	assert_false(tls_x25519_take(&key, made));
	assert_int_equal(tls_x25519_secret(&key, peer, secret), TLS_X25519_FAILED);
	assert_zeros(secret, sizeof(secret));
	tls_x25519_thread_end();
	EVP_PKEY_free(made);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_does_not_work)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
