/* SPDX-License-Identifier: ISC */
/*
 * Units of hashes and HMAC: vectors, pieces, which way to libcrypto is taken when a provider's
 * functions are missing, fail or do something else than they should, and what stays of a key:
 *
 *   gcc -I. -I../.. test_hash.c helper.c ../../tls_{hash,dispatch}.c -lcmocka -lcrypto
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "helper.h"
#include "tls_hash.h"

#include "tls_compat.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/md5.h>
#include <openssl/sha.h>

#define COUNT(a)  (sizeof(a) / sizeof((a)[0]))
#define TEXT_MAX  1000000
#define LONG_TEXT 1000 /* bytes; a longer one is hashed but once */

#include "test_hash.h"
#include "test_hash_rows.h"
#if TLS_HAVE_PROVIDERS
#include "wiped.h"
#endif

/* ---- what hashes do, whichever way ---- */

static const EVP_MD *md_of(enum tls_hash hash)
{
	static const EVP_MD *(*const mds[TLS_HASHES])(void) = {
		[TLS_HASH_SHA256] = EVP_sha256,
		[TLS_HASH_SHA384] = EVP_sha384,
		[TLS_HASH_MD5] = EVP_md5,
		[TLS_HASH_SHA1] = EVP_sha1,
	};

	return mds[hash]();
}

static struct tls_bytes bytes(const void *data, size_t len)
{
	return (struct tls_bytes){data, len};
}

/* Of the whole text, as libcrypto has it. */
static void digest_of(enum tls_hash hash, struct tls_bytes text, uint8_t *out)
{
	assert_int_equal(EVP_Digest(text.data, text.len, out, NULL, md_of(hash), NULL), 1);
}

static void hmac_of(enum tls_hash hash, struct tls_bytes key, struct tls_bytes text, uint8_t *out)
{
	assert_non_null(HMAC(md_of(hash), key.data, (int)key.len, text.data, text.len, out, NULL));
}

/* Nothing is written behind a hash, and nobody's errors are left. */
static void assert_digest(enum tls_hash hash, const struct tls_bytes *pieces, size_t count,
			  const uint8_t *want)
{
	uint8_t out[TLS_HASH_MAX + 1];
	size_t size = tls_hash_size(hash);

	memset(out, 0xee, sizeof(out));
	assert_true(tls_hash_digest(hash, pieces, count, out));
	assert_memory_equal(out, want, size);
	assert_int_equal(out[size], 0xee);
	assert_int_equal(ERR_peek_error(), 0);
}

static void assert_hmac(enum tls_hash hash, struct tls_bytes key, const struct tls_bytes *pieces,
			size_t count, const uint8_t *want)
{
	uint8_t out[TLS_HASH_MAX + 1];
	size_t size = tls_hash_size(hash);

	memset(out, 0xee, sizeof(out));
	assert_true(tls_hash_hmac(hash, key, pieces, count, out));
	assert_memory_equal(out, want, size);
	assert_int_equal(out[size], 0xee);
	assert_int_equal(ERR_peek_error(), 0);
}

/* What it returns borrows out. */
static struct tls_bytes sample(const struct sample *s, uint8_t *out)
{
	if (s->text)
		memcpy(out, s->text, s->len);
	for (size_t i = 0; !s->text && i < s->len; i++)
		out[i] = (uint8_t)(s->first + i * s->step);
	return bytes(out, s->len);
}

static void assert_vectors(enum tls_hash hash, size_t longest)
{
	static uint8_t key[256], text[TEXT_MAX];
	uint8_t want[TLS_HASH_MAX];

	for (size_t i = 0; i < COUNT(hash_vectors); i++) {
		const struct vector *v = &hash_vectors[i];
		struct tls_bytes whole;

		if (v->hash != hash || v->text.len > longest)
			continue;
		whole = sample(&v->text, text);
		assert_int_equal(unhex(v->want, want), tls_hash_size(hash));
		assert_digest(hash, &whole, 1, want);
	}
	for (size_t i = 0; i < COUNT(hmac_vectors); i++) {
		const struct vector *v = &hmac_vectors[i];
		struct tls_bytes whole = sample(&v->text, text);

		if (v->hash != hash)
			continue;
		assert_int_equal(unhex(v->want, want), tls_hash_size(hash));
		assert_hmac(hash, sample(&v->key, key), &whole, 1, want);
	}
}

/* A key and a text of these lengths, in one piece and in none. */
static void assert_like_libcrypto(enum tls_hash hash, size_t key_len, size_t text_len)
{
	uint8_t key[512], want[TLS_HASH_MAX];
	const struct tls_bytes text = {pattern(text_len), text_len};

	assert_true(key_len <= sizeof(key));
	for (size_t i = 0; i < key_len; i++)
		key[i] = (uint8_t)(i * 7 + text_len + 1);
	hmac_of(hash, bytes(key, key_len), text, want);
	assert_hmac(hash, bytes(key, key_len), &text, 1, want);
	digest_of(hash, text, want);
	assert_digest(hash, &text, 1, want);
	hmac_of(hash, bytes(key, key_len), bytes("", 0), want);
	assert_hmac(hash, bytes(key, key_len), NULL, 0, want);
}

/* A text that is cut in two, with nothing before, between and behind. */
static void assert_cut(enum tls_hash hash, struct tls_bytes key, struct tls_bytes text, size_t cut)
{
	const uint8_t *data = text.data;
	const struct tls_bytes pieces[] = {
		{NULL, 0}, {data, cut}, {NULL, 0}, {NULL, 0}, {data + cut, text.len - cut},
		{data, 0}};
	uint8_t want[TLS_HASH_MAX];

	digest_of(hash, text, want);
	assert_digest(hash, pieces, COUNT(pieces), want);
	digest_of(hash, bytes(data, cut), want);
	assert_digest(hash, pieces, 3, want);
	hmac_of(hash, key, text, want);
	assert_hmac(hash, key, pieces, COUNT(pieces), want);
	hmac_of(hash, key, bytes(data, cut), want);
	assert_hmac(hash, key, pieces, 4, want);
}

static void assert_many_pieces(enum tls_hash hash)
{
	const uint8_t *text = pattern(200);
	struct tls_bytes pieces[200];
	uint8_t want[TLS_HASH_MAX];

	for (size_t i = 0; i < COUNT(pieces); i++)
		pieces[i] = bytes(text + i, 1);
	digest_of(hash, bytes(text, COUNT(pieces)), want);
	assert_digest(hash, pieces, COUNT(pieces), want);
	hmac_of(hash, bytes("key", 3), bytes(text, COUNT(pieces)), want);
	assert_hmac(hash, bytes("key", 3), pieces, COUNT(pieces), want);
}

/* Each piece in turn has the place where the HMAC goes. */
static void assert_out_is_piece(enum tls_hash hash)
{
	size_t size = tls_hash_size(hash);
	uint8_t text[3 * TLS_HASH_MAX], work[3 * TLS_HASH_MAX], want[TLS_HASH_MAX];

	memcpy(text, pattern(3 * size), 3 * size);
	hmac_of(hash, bytes("key", 3), bytes(text, 3 * size), want);
	for (size_t i = 0; i < 3; i++) {
		const struct tls_bytes pieces[] = {
			{work, size}, {work + size, size}, {work + 2 * size, size}};

		memcpy(work, text, 3 * size);
		assert_true(tls_hash_hmac(hash, bytes("key", 3), pieces, 3, work + i * size));
		assert_memory_equal(work + i * size, want, size);
		memcpy(work + i * size, text + i * size, size);
		assert_memory_equal(work, text, 3 * size);
	}
}

/* libcrypto would take the key that it had before. */
static void assert_no_key_is_refused(enum tls_hash hash)
{
	const struct tls_bytes text = {"text", 4};
	uint8_t out[TLS_HASH_MAX], want[TLS_HASH_MAX];
	int before;

	hmac_of(hash, bytes("key", 3), text, want);
	assert_hmac(hash, bytes("key", 3), &text, 1, want);
	before = calls;
	memset(out, 0xee, sizeof(out));
	assert_false(tls_hash_hmac(hash, bytes(NULL, 0), &text, 1, out));
	assert_false(tls_hash_hmac(hash, bytes(NULL, 3), &text, 1, out));
	assert_false(tls_hash_hmac(hash, bytes(NULL, 0), NULL, 0, out));
	assert_true(are_all(0xee, out, sizeof(out)));
	assert_int_equal(calls, before);
	assert_hmac(hash, bytes("key", 3), &text, 1, want);
}

/* Whether a key is the one before, begins like it, or is longer than a block. */
static void assert_keys_in_turn(enum tls_hash hash)
{
	static const struct sample keys[] = {
		TEXT("secret"),     TEXT("secret"),     TEXT("secre"),      TEXT("secret1"),
		TEXT("secret"),     TEXT("Secret"),     REPEATED('k', 300), REPEATED('k', 300),
		REPEATED('k', 299), TEXT("secret"),     TEXT("secret"),     TEXT(""),
		TEXT("secret"),     REPEATED('k', 128), REPEATED('k', 129), REPEATED('k', 64),
		REPEATED('k', 65),
	};
	uint8_t key[300], want[TLS_HASH_MAX];

	for (size_t i = 0; i < COUNT(keys); i++) {
		const struct tls_bytes with = sample(&keys[i], key), text = {"text", 4};

		hmac_of(hash, with, text, want);
		assert_hmac(hash, with, &text, 1, want);
	}
}

static void assert_all(enum tls_hash hash)
{
	static const size_t lengths[] = {0,  1,  16, 20,  32,  48,  63,  64,
					 65, 96, 97, 127, 128, 129, 256, 300};

	assert_vectors(hash, LONG_TEXT);
	for (size_t i = 0; i < COUNT(lengths); i++)
		assert_like_libcrypto(hash, lengths[i], lengths[COUNT(lengths) - 1 - i]);
	for (size_t cut = 0; cut <= 150; cut += 50)
		assert_cut(hash, bytes("key", 3), bytes(pattern(150), 150), cut);
	assert_keys_in_turn(hash);
	assert_out_is_piece(hash);
	assert_no_key_is_refused(hash);
}

static void test_sizes(void **state)
{
	(void)state;
	assert_int_equal(tls_hash_size(TLS_HASH_SHA256), 32);
	assert_int_equal(tls_hash_size(TLS_HASH_SHA384), TLS_HASH_MAX);
	assert_int_equal(tls_hash_size(TLS_HASH_MD5), 16);
	assert_int_equal(tls_hash_size(TLS_HASH_SHA1), 20);
}

/* ---- ways ---- */

/* That many hashes have contexts of a provider's functions, and as many have EVP's. */
static void assert_left(int direct, int evp)
{
	const struct hash_left want = {
		.contexts = direct, .mds = direct, .evp_digests = evp, .evp_hmacs = evp};

	assert_memory_equal(&hash_left, &want, sizeof(want));
#if TLS_HAVE_PROVIDERS
	assert_int_equal(open_queries, 0);
#endif
}

static void end(void)
{
	tls_hash_thread_end();
	assert_left(0, 0);
}

static void count_anew(void)
{
	calls = spare_calls = 0;
	direct_hashes = evp_hashes = 0;
}

/* The thread begins anew, and has a way to each hash. */
static void begin(void)
{
	uint8_t out[TLS_HASH_MAX];

	end();
	for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++) {
		assert_true(tls_hash_hmac(hash, bytes("", 0), NULL, 0, out));
		assert_true(tls_hash_digest(hash, NULL, 0, out));
	}
	tls_hash_forget();
	count_anew();
}

/* Hides the provider's functions, if there are any, or shows them again. */
static void hide_provider(bool hidden)
{
#if TLS_HAVE_PROVIDERS
	shown.hidden = hidden ? OSSL_OP_DIGEST : 0;
#else
	(void)hidden;
#endif
}

/* The first way that there is to be tested; the last one is EVP's, by_evp = true. */
#define FIRST_WAY (TLS_HAVE_PROVIDERS ? 0 : 1)

static void assert_was(bool by_evp)
{
	assert_int_equal(evp_hashes > 0, by_evp);
	assert_int_equal(direct_hashes > 0, !by_evp);
}

/* Everything, with what takes long, once by each way. */
static void test_lengths(void **state)
{
	(void)state;
	for (int by_evp = FIRST_WAY; by_evp < 2; by_evp++) {
		hide_provider(by_evp);
		begin();
		for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++) {
			assert_all(hash);
			assert_vectors(hash, TEXT_MAX);
			for (size_t i = 0; i <= 300; i++) {
				assert_like_libcrypto(hash, i, 50);
				assert_like_libcrypto(hash, 7 * i % 300, i);
			}
			for (size_t cut = 0; cut <= 150; cut++)
				assert_cut(hash, bytes(pattern(20), 20), bytes(pattern(150), 150),
					   cut);
			assert_many_pieces(hash);
		}
		assert_was(by_evp);
	}
	hide_provider(false);
}

#if TLS_HAVE_PROVIDERS

static const struct shown_algorithm *shown_algorithm(size_t i)
{
	return i < COUNT(hash_algorithms) ? &hash_algorithms[i] : NULL;
}

/* Everything works, and is done by EVP or by the provider's functions. Then all is shown again. */
static void assert_way(bool by_evp)
{
	begin();
	for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++)
		assert_all(hash);
	assert_was(by_evp);
	assert_left(by_evp ? 0 : TLS_HASHES, by_evp ? TLS_HASHES : 0);
	end();
	memset(&shown, 0, sizeof(shown));
}

static void test_ways(void **state)
{
	(void)state;
	assert_way(false);
	hide_provider(true);
	assert_way(true);
	shown.twice = OSSL_OP_DIGEST;
	assert_way(true);
	assert_way(false);
}

/* What is amiss with one hash is so with none of the others. */
static void test_each_hash_has_its_way(void **state)
{
	(void)state;
	for (enum tls_hash odd = 0; odd < TLS_HASHES; odd++) {
		hide_provider(true);
		shown.name = hash_algorithms[odd].name;
		begin();
		assert_left(TLS_HASHES - 1, 1);
		for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++) {
			count_anew();
			assert_all(hash);
			assert_was(hash == odd);
		}
		memset(&shown, 0, sizeof(shown));
	}
}

static void test_function_is_missing(void **state)
{
	(void)state;
	for (size_t i = 0; i < DIGEST_FUNCTIONS; i++) {
		shown.missing =
			(struct function_id){OSSL_OP_DIGEST, hash_algorithms[0].functions[i].id};
		assert_way(true);
	}
	shown.missing = (struct function_id){OSSL_OP_DIGEST, OSSL_FUNC_DIGEST_DUPCTX};
	assert_way(false);
}

static const char *provider_name; /* of every provider; NULL: its own */
static bool md_has_no_provider;

HIDDEN const char *OSSL_PROVIDER_get0_name(const OSSL_PROVIDER *provider)
{
	REAL(const char *, OSSL_PROVIDER_get0_name, (const OSSL_PROVIDER *));

	return provider_name ? provider_name : real(provider);
}

HIDDEN const OSSL_PROVIDER *EVP_MD_get0_provider(const EVP_MD *md)
{
	REAL(const OSSL_PROVIDER *, EVP_MD_get0_provider, (const EVP_MD *));

	return md_has_no_provider ? NULL : real(md);
}

/* Of another one the functions are not even looked at. */
static void test_other_provider(void **state)
{
	static const char *const names[] = {"fips", "defaul", "default2", "Default", ""};

	(void)state;
	for (size_t i = 0; i < COUNT(names); i++) {
		provider_ctx = NULL;
		provider_name = names[i];
		assert_way(true);
		assert_null(provider_ctx);
	}
	provider_name = "default";
	assert_way(false);
	provider_name = NULL;
	md_has_no_provider = true;
	assert_way(true);
	md_has_no_provider = false;
}

/* ---- functions that do something else ---- */

static void *no_new_ctx(void *provider)
{
	(void)provider;
	raise_error();
	return NULL;
}

static int no_init(void *ctx, const OSSL_PARAM params[])
{
	(void)ctx, (void)params;
	raise_error();
	return 0;
}

static int odd_init(void *ctx, const OSSL_PARAM params[])
{
	return real_digests[hash_of_ctx(ctx)].init(ctx, params) == 1 ? 2 : 0;
}

/* Goes on where it was, but for the first time. */
static int lazy_init(void *ctx, const OSSL_PARAM params[])
{
	return digests[hash_of_ctx(ctx)].len == 0 ? note_digest_init(ctx, params) : 1;
}

static int no_update(void *ctx, const unsigned char *data, size_t len)
{
	(void)ctx, (void)data, (void)len;
	return 0;
}

static int odd_update(void *ctx, const unsigned char *data, size_t len)
{
	return real_digests[hash_of_ctx(ctx)].update(ctx, data, len) == 1 ? 2 : 0;
}

static int update_of_a_block(void *ctx, const unsigned char *data, size_t len)
{
	size_t block = block_of(hash_of_ctx(ctx));

	return real_digests[hash_of_ctx(ctx)].update(ctx, data, len < block ? len : block);
}

static int no_final(void *ctx, unsigned char *out, size_t *len, size_t size)
{
	(void)ctx, (void)out, (void)len, (void)size;
	return 0;
}

/* Says that it was none. */
static int odd_final(void *ctx, unsigned char *out, size_t *len, size_t size)
{
	return real_digests[hash_of_ctx(ctx)].final(ctx, out, len, size) == 1 ? 2 : 0;
}

static int mute_final(void *ctx, unsigned char *out, size_t *len, size_t size)
{
	size_t mine;

	(void)len;
	return real_digests[hash_of_ctx(ctx)].final(ctx, out, &mine, size);
}

static int short_final(void *ctx, unsigned char *out, size_t *len, size_t size)
{
	int result = real_digests[hash_of_ctx(ctx)].final(ctx, out, len, size);

	(*len)--;
	return result;
}

static void test_function_does_something_else(void **state)
{
	static const struct {
		int id;
		void (*by)(void);
	} others[] = {
#define OTHER(id, by) {OSSL_FUNC_DIGEST_##id, (void (*)(void))(by)}
		OTHER(NEWCTX, no_new_ctx), OTHER(INIT, no_init),
		OTHER(INIT, odd_init),     OTHER(INIT, lazy_init),
		OTHER(UPDATE, no_update),  OTHER(UPDATE, odd_update),
		OTHER(FINAL, no_final),    OTHER(UPDATE, update_of_a_block),
		OTHER(FINAL, odd_final),   OTHER(FINAL, mute_final),
		OTHER(FINAL, short_final),
#undef OTHER
	};

	(void)state;
	for (size_t i = 0; i < COUNT(others); i++) {
		shown.other = (struct function_id){OSSL_OP_DIGEST, others[i].id};
		shown.by = others[i].by;
		assert_way(true);
	}
}

/* A provider may say no with -1, too. */
static int negative_final(void *ctx, unsigned char *out, size_t *len, size_t size)
{
	return note_digest_final(ctx, out, len, size) == 1 ? 1 : -1;
}

static void test_no_is_negative(void **state)
{
	(void)state;
	shown.other = (struct function_id){OSSL_OP_DIGEST, OSSL_FUNC_DIGEST_FINAL};
	shown.by = (void (*)(void))negative_final;
	assert_way(false);
}

/* ---- hashes that are wrong ---- */

static bool any(const struct digest *digest)
{
	(void)digest;
	return true;
}

/* HMAC begins with a block. */
static bool of_hmac(const struct digest *digest)
{
	return digest->first == block_of(hash_of_ctx(digest->ctx));
}

static bool of_no_hmac(const struct digest *digest)
{
	return !of_hmac(digest);
}

/* The text is longer than a hash. */
static bool of_outer_hash(const struct digest *digest)
{
	return of_hmac(digest) && digest->pieces == 2 &&
	       digest->len - digest->first == tls_hash_size(hash_of_ctx(digest->ctx));
}

/* HMAC's inner hash of a text of that many bytes, with a key that is none, and with one. */
static bool of_empty_key(const struct digest *digest)
{
	return of_hmac(digest) && digest->pieces == 2 && !digest->has_key &&
	       digest->len - digest->first == 100;
}

static bool of_key_like_a_hash(const struct digest *digest)
{
	enum tls_hash hash = hash_of_ctx(digest->ctx);

	return of_hmac(digest) && digest->pieces == 3 &&
	       digest->len - digest->first == 100 + tls_hash_size(hash);
}

static bool of_long_key(const struct digest *digest)
{
	return !of_hmac(digest) && digest->pieces == 1 && digest->first > 128;
}

static bool of_one_piece(const struct digest *digest)
{
	return !of_hmac(digest) && digest->pieces == 1 && digest->first == 100;
}

static bool of_long_first_piece(const struct digest *digest)
{
	return !of_hmac(digest) && digest->pieces > 1 && digest->first > 128;
}

static bool of_first_piece_like_a_hash(const struct digest *digest)
{
	return digest->pieces > 1 && digest->first == tls_hash_size(hash_of_ctx(digest->ctx));
}

/* One wrong bit in the first byte or the last, in none but some cases: all of them are looked at
 * before a provider's functions are relied on. */
static void test_wrong_hashes(void **state)
{
	static bool (*const lies[])(const struct digest *) = {
		any,
		of_hmac,
		of_no_hmac,
		of_outer_hash,
		of_empty_key,
		of_key_like_a_hash,
		of_long_key,
		of_one_piece,
		of_long_first_piece,
		of_first_piece_like_a_hash,
	};

	(void)state;
	for (size_t i = 0; i < COUNT(lies); i++) {
		first_bit_lies = lies[i];
		assert_way(true);
		first_bit_lies = NULL;
		last_bit_lies = lies[i];
		assert_way(true);
		last_bit_lies = NULL;
	}
	assert_way(false);
}

#endif

/* ---- what fails ---- */

static void no_error(void)
{
}

/* What is asked for. */
enum what {
	DIGEST,
	HMAC_SHORT_KEY,
	HMAC_LONG_KEY,
	WHATS,
};

/* What the caller has, which nobody but the caller wipes. */
static struct {
	uint8_t key[200], text[100], out[TLS_HASH_MAX];
} caller;

static struct tls_bytes key_for(enum what what)
{
	return bytes(caller.key, what == HMAC_LONG_KEY ? sizeof(caller.key) : 20);
}

/* Returns what the function does; when it has gone well, so is the hash right. */
static bool ask(enum tls_hash hash, enum what what)
{
	const struct tls_bytes pieces[] = {
		{caller.text, 30}, {NULL, 0}, {caller.text + 30, sizeof(caller.text) - 30}};
	uint8_t want[TLS_HASH_MAX];
	bool ok;

	memcpy(caller.key, pattern(sizeof(caller.key)), sizeof(caller.key));
	memcpy(caller.text, pattern(sizeof(caller.text)), sizeof(caller.text));
	if (what == DIGEST) {
		digest_of(hash, bytes(caller.text, sizeof(caller.text)), want);
		ok = tls_hash_digest(hash, pieces, COUNT(pieces), caller.out);
	} else {
		hmac_of(hash, key_for(what), bytes(caller.text, sizeof(caller.text)), want);
		ok = tls_hash_hmac(hash, key_for(what), pieces, COUNT(pieces), caller.out);
	}
	if (ok)
		assert_memory_equal(caller.out, want, tls_hash_size(hash));
	return ok;
}

/* How many calls it takes, of a thread that has its way, or of one that has not. */
static int calls_to(enum tls_hash hash, enum what what)
{
	count_anew();
	assert_true(ask(hash, what));
	return calls;
}

/* The call of that number fails, and with it what was asked for; its reason stays. */
static void assert_fails(enum tls_hash hash, enum what what, int call)
{
	call_fails = call;
	assert_false(ask(hash, what));
	assert_int_equal(call_fails, 0);
	assert_int_equal(ERR_peek_error() != 0, add_error != no_error);
	ERR_clear_error();
}

/* Whatever call fails, nothing is left by it, no other way is taken, and the next time it is right
 * again. */
static void fail_each_call(bool by_evp, enum tls_hash hash, enum what what)
{
	const struct hash_left before = hash_left;
	int count = calls_to(hash, what);

	assert_true(count >= 4);
	for (int i = 1; i <= count; i++) {
		assert_fails(hash, what, i);
		assert_memory_equal(&hash_left, &before, sizeof(before));
		assert_true(ask(hash, what));
		tls_hash_forget();
		assert_no_keys();
	}
	assert_was(by_evp);
}

/* Likewise in a thread that begins with it. */
static void fail_each_call_at_first(bool by_evp, enum tls_hash hash, enum what what)
{
	int count;

	end();
	count = calls_to(hash, what);
	for (int i = 1; i <= count; i++) {
		end();
		assert_fails(hash, what, i);
		assert_true(ask(hash, what));
		for (int other = 0; other < WHATS; other++)
			assert_true(ask(hash, other));
		assert_left(by_evp ? 0 : 1, by_evp ? 1 : 0);
	}
}

static void fail_all(void)
{
	for (int by_evp = FIRST_WAY; by_evp < 2; by_evp++) {
		hide_provider(by_evp);
		for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++) {
			for (int what = 0; what < WHATS; what++) {
				begin();
				fail_each_call(by_evp, hash, what);
				fail_each_call_at_first(by_evp, hash, what);
			}
		}
	}
	hide_provider(false);
}

static void test_calls_fail(void **state)
{
	static const int failures[] = {0, -1, 2};

	(void)state;
	for (size_t i = 0; i < COUNT(failures); i++) {
		failure = failures[i];
		add_error = raise_error;
		fail_all();
		add_error = no_error;
		fail_all();
	}
	failure = 0;
	add_error = raise_error;
}

#if TLS_HAVE_PROVIDERS

/* Whatever call fails while a way is looked for: there is EVP's. */
static void test_fails_to_choose(void **state)
{
	static const int failures[] = {0, -1, 2};

	(void)state;
	for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++) {
		for (size_t i = 0; i < COUNT(failures) * WHATS; i++) {
			enum what what = i / COUNT(failures);
			int count;

			failure = failures[i % COUNT(failures)];
			end();
			count = (calls_to(hash, what), spare_calls);
			assert_true(count > 30);
			for (int call = 1; call <= count; call++) {
				end();
				count_anew();
				spare_call_fails = call;
				assert_true(ask(hash, what));
				assert_int_equal(spare_call_fails, 0);
				assert_int_equal(ERR_peek_error(), 0);
				assert_true(ask(hash, DIGEST));
				assert_true(ask(hash, HMAC_SHORT_KEY));
				assert_left(0, 1);
			}
		}
	}
	failure = 0;
	end();
}

/* What has another length is no hash. */
static void test_wrong_length(void **state)
{
	(void)state;
	begin();
	for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++) {
		for (int what = 0; what < WHATS; what++) {
			digest_cuts = true;
			assert_false(ask(hash, what));
			digest_cuts = false;
			assert_true(ask(hash, what));
		}
	}
	assert_was(false);
}

#endif

/* The errors of others stay, whichever way is found. */
static void test_keeps_errors(void **state)
{
	(void)state;
	for (int by_evp = FIRST_WAY; by_evp < 2; by_evp++) {
		for (int fails = 0; fails < 2; fails++) {
			hide_provider(by_evp);
			end();
			raise_error();
			spare_call_fails = fails;
			assert_true(ask(TLS_HASH_SHA256, DIGEST));
			assert_true(ask(TLS_HASH_SHA256, HMAC_SHORT_KEY));
			tls_hash_forget();
			spare_call_fails = 0;
			assert_int_equal(ERR_GET_REASON(ERR_get_error()), ERR_R_INTERNAL_ERROR);
			assert_int_equal(ERR_get_error(), 0);
		}
	}
	hide_provider(false);
}

/* ---- what stays of a key ---- */

static bool uses_key(enum tls_hash hash)
{
	bool used = digests[hash].ctx && digests[hash].has_key;

	for (size_t i = 0; i < EVP_HMACS_MAX; i++)
		used = used || (evp_hmacs[i].ctx && evp_hmacs[i].has_key);
	return used;
}

#if TLS_HAVE_PROVIDERS

/* Has a context make the hash of nothing. */
static void hash_nothing(enum tls_hash hash, void *ctx)
{
	uint8_t out[TLS_HASH_MAX];
	size_t len;

	assert_int_equal(real_digests[hash].init(ctx, NULL), 1);
	assert_int_equal(real_digests[hash].final(ctx, out, &len, sizeof(out)), 1);
}

/* The context's memory is that of one which never had a key. */
static bool is_like_new(enum tls_hash hash)
{
	static const size_t sizes[TLS_HASHES] = {
		[TLS_HASH_SHA256] = sizeof(SHA256_CTX),
		[TLS_HASH_SHA384] = sizeof(SHA512_CTX),
		[TLS_HASH_MD5] = sizeof(MD5_CTX),
		[TLS_HASH_SHA1] = sizeof(SHA_CTX),
	};
	void *ctx = digests[hash].ctx, *other = real_digests[hash].new_ctx((void *)provider_ctx);
	size_t len = sizes[hash];
	bool same;

	assert_true(len <= malloc_usable_size(ctx) && len <= malloc_usable_size(other));
	hash_nothing(hash, other);
	same = memcmp(ctx, other, len) == 0;
	real_digests[hash].free_ctx(other);
	return same;
}

#endif

/* Has hash forget a key, by a way that the thread has. */
static void assert_forgets(enum tls_hash hash, bool by_evp)
{
	const struct hash_left before = hash_left;

	for (int what = HMAC_SHORT_KEY; what < WHATS; what++) {
		assert_true(ask(hash, what));
		assert_true(uses_key(hash));
#if TLS_HAVE_PROVIDERS
		if (!by_evp)
			assert_false(is_like_new(hash));
#endif
		tls_hash_forget();
		assert_no_keys();
#if TLS_HAVE_PROVIDERS
		if (!by_evp)
			assert_true(is_like_new(hash));
#endif
		assert_memory_equal(&hash_left, &before, sizeof(before));
		assert_true(ask(hash, what));
		assert_true(ask(hash, DIGEST));
	}
	tls_hash_forget();
	assert_was(by_evp);
}

static void test_forget(void **state)
{
	(void)state;
	for (int by_evp = FIRST_WAY; by_evp < 2; by_evp++) {
		hide_provider(by_evp);
		begin();
		for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++)
			assert_forgets(hash, by_evp);
		/* All at once, each of them after something has failed. */
		for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++) {
			assert_true(ask(hash, HMAC_LONG_KEY));
			assert_fails(hash, HMAC_LONG_KEY, 2);
		}
		tls_hash_forget();
		assert_no_keys();
#if TLS_HAVE_PROVIDERS
		for (enum tls_hash hash = 0; hash < TLS_HASHES && !by_evp; hash++)
			assert_true(is_like_new(hash));
#endif
	}
	hide_provider(false);
}

/* The calls that overwrite a key: one begins and one ends. */
#define CALLS_TO_FORGET 2

static void assert_forget_calls(int want)
{
	calls = spare_calls = 0;
	tls_hash_forget();
	assert_int_equal(calls, want);
	assert_int_equal(spare_calls, 0);
}

/* Only what has a key forgets it, and only once. */
static void test_forget_is_cheap(void **state)
{
	(void)state;
	for (int by_evp = FIRST_WAY; by_evp < 2; by_evp++) {
		hide_provider(by_evp);
		end();
		assert_forget_calls(0);
		assert_left(0, 0);
		begin();
		assert_forget_calls(0);
		for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++) {
			assert_true(ask(hash, DIGEST));
			assert_forget_calls(0);
			assert_true(ask(hash, HMAC_SHORT_KEY));
			assert_forget_calls(CALLS_TO_FORGET);
			assert_forget_calls(0);
		}
		assert_true(ask(TLS_HASH_MD5, HMAC_SHORT_KEY));
		assert_true(ask(TLS_HASH_SHA1, HMAC_LONG_KEY));
		assert_true(ask(TLS_HASH_MD5, HMAC_LONG_KEY));
		assert_forget_calls(2 * CALLS_TO_FORGET);
		assert_true(ask(TLS_HASH_MD5, HMAC_SHORT_KEY));
		end();
		assert_forget_calls(0);
	}
	hide_provider(false);
}

/* What cannot forget its key is freed, and found again. */
static void cannot_forget(bool by_evp, enum tls_hash hash)
{
	int others = TLS_HASHES - 1;

	for (int i = 1; i <= CALLS_TO_FORGET; i++) {
		begin();
		assert_true(ask(hash, HMAC_SHORT_KEY));
		call_fails = i;
		tls_hash_forget();
		assert_int_equal(call_fails, 0);
		assert_left(by_evp ? 0 : others, by_evp ? others : 0);
		assert_no_keys();
		assert_int_equal(ERR_peek_error(), 0);
		assert_forget_calls(0);
		assert_true(ask(hash, HMAC_SHORT_KEY));
		assert_true(ask(hash, DIGEST));
		assert_left(by_evp ? 0 : TLS_HASHES, by_evp ? TLS_HASHES : 0);
		assert_forget_calls(CALLS_TO_FORGET);
		assert_was(by_evp);
	}
}

static void test_cannot_forget(void **state)
{
	static const int failures[] = {0, -1, 2};

	(void)state;
	for (size_t i = 0; i < COUNT(failures); i++) {
		failure = failures[i];
		for (int by_evp = FIRST_WAY; by_evp < 2; by_evp++) {
			hide_provider(by_evp);
			for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++)
				cannot_forget(by_evp, hash);
		}
	}
	failure = 0;
	hide_provider(false);
}

#if TLS_HAVE_PROVIDERS

static unsigned seen_secrets;

static void expose_but_callers(const void *at, size_t len)
{
	const uint8_t *from = at, *end = (const uint8_t *)(&caller + 1);

	if (spare || (from >= (const uint8_t *)&caller && from < end))
		return;
	seen_secrets++;
	expose(at, len);
}

/* Neither a key with its padding nor HMAC's inner hash stays on the stack, whatever fails. */
static void test_stack_is_wiped(void **state)
{
	static const int failures[] = {0, 2};

	(void)state;
	begin();
	note_hashed = expose_but_callers;
	note_digest = expose_but_callers;
	for (size_t i = 0; i < COUNT(failures) * TLS_HASHES * WHATS; i++) {
		enum tls_hash hash = i / WHATS % TLS_HASHES;
		enum what what = i % WHATS;
		int count = calls_to(hash, what);

		failure = failures[i / WHATS / TLS_HASHES];
		seen_secrets = 0;
		assert_true(ask(hash, what));
		assert_int_equal(seen_secrets > 0, what != DIGEST);
		assert_int_equal(exposed_count(), 0);
		for (int call = 1; call <= count; call++) {
			assert_fails(hash, what, call);
			assert_int_equal(exposed_count(), 0);
		}
	}
	failure = 0;
	note_hashed = NULL;
	note_digest = NULL;
	assert_was(false);
}

#endif

/* ---- what stays in memory ---- */

#define NEEDLE    16 /* bytes */
#define CHUNK     65536
#define RANGE_MAX (256UL << 20) /* what is larger is a sanitizer's own */

/* What is looked for: a key, as it is and padded, and its HMAC, as they are and in the numbers that
 * a hash makes of them. Every bit is inverted, so as not to be found here. */
static uint8_t needles[7][NEEDLE];

static void needle_set(size_t i, const uint8_t *data, uint8_t pad, size_t word)
{
	for (size_t j = 0; j < NEEDLE; j++)
		needles[i][j] = (uint8_t) ~(data[j ^ (word - 1)] ^ pad);
}

/* Makes an HMAC. The key is nowhere but on the stack, where it stays. */
static __attribute__((noinline)) void use_secret(enum tls_hash hash)
{
	const uint8_t *inverted = pattern(NEEDLE);
	uint8_t key[NEEDLE], out[TLS_HASH_MAX];
	size_t word = hash == TLS_HASH_SHA384 ? 8 : 4;

	for (size_t i = 0; i < NEEDLE; i++)
		key[i] = (uint8_t)~inverted[i];
	assert_true(tls_hash_hmac(hash, bytes(key, NEEDLE), NULL, 0, out));
	needle_set(0, key, 0, 1);
	needle_set(1, key, 0x36, 1);
	needle_set(2, key, 0x5c, 1);
	needle_set(3, out, 0, 1);
	needle_set(4, out, 0, word);
	needle_set(5, key, 0x36, word);
	needle_set(6, key, 0x5c, word);
}

static bool chunk_has_secret(const uint8_t *chunk, size_t len)
{
	uint8_t needle[NEEDLE];
	bool found = false;

	for (size_t i = 0; i < COUNT(needles); i++) {
		for (size_t j = 0; j < NEEDLE; j++)
			needle[j] = (uint8_t)~needles[i][j];
		found = found || memmem(chunk, len, needle, NEEDLE);
	}
	return found;
}

static bool range_has_secret(int memory, unsigned long from, unsigned long to)
{
	uint8_t chunk[CHUNK];
	bool found = false;
	ssize_t n;

	for (; !found && from < to; from += CHUNK - NEEDLE) {
		size_t len = to - from < CHUNK ? to - from : CHUNK;

		n = pread(memory, chunk, len, (off_t)from);
		found = n > 0 && chunk_has_secret(chunk, (size_t)n);
	}
	return found;
}

static bool memory_has_secret(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	int memory = open("/proc/self/mem", O_RDONLY);
	unsigned long from, to, stack = (unsigned long)&maps;
	char line[512], mode[8];
	bool found = false;

	assert_true(maps && memory >= 0);
	while (!found && fgets(line, sizeof(line), maps)) {
		assert_int_equal(sscanf(line, "%lx-%lx %7s", &from, &to, mode), 3);
		if (mode[1] == 'w' && to - from <= RANGE_MAX && (stack < from || stack >= to))
			found = range_has_secret(memory, from, to);
	}
	close(memory);
	fclose(maps);
	return found;
}

/* True if the stack below that address has a secret, of which no copy stays. */
static bool stack_has_secret(uintptr_t top)
{
	uint8_t *stack = stack_below(top);
	bool found = chunk_has_secret(stack, STACK);

	memset(stack, 0, STACK);
	return found;
}

/* Where the handshake makes an HMAC is deeper than where its key is forgotten. */
static __attribute__((noinline)) void use_secret_below(enum tls_hash hash)
{
	uint8_t room[1024] = {0};

	__asm__ volatile("" : : "r"(room) : "memory");
	use_secret(hash);
	__asm__ volatile("" : : "r"(room) : "memory");
}

static void test_stack(void **state)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);

	(void)state;
	for (int by_evp = FIRST_WAY; by_evp < 2; by_evp++) {
		hide_provider(by_evp);
		begin();
		for (int i = 0; i < 16; i++) {
			use_secret_below((enum tls_hash)(i % TLS_HASHES));
			assert_true(stack_has_secret(here));
			tls_hash_forget();
			assert_false(stack_has_secret(here));
		}
	}
	hide_provider(false);
}

/* To look takes long where the program is watched, so not after each hash. */
static void test_memory(void **state)
{
	static void (*const forgets[])(void) = {tls_hash_forget, tls_hash_thread_end};

	(void)state;
	for (int by_evp = FIRST_WAY; by_evp < 2; by_evp++) {
		hide_provider(by_evp);
		for (size_t i = 0; i < COUNT(forgets); i++) {
			begin();
			use_secret(by_evp ? TLS_HASH_SHA256 : TLS_HASH_SHA384);
			assert_true(memory_has_secret());
			forgets[i]();
			assert_false(memory_has_secret());
		}
	}
	hide_provider(false);
}

/* ---- threads ---- */

static void test_thread_end(void **state)
{
	(void)state;
	for (int by_evp = FIRST_WAY; by_evp < 2; by_evp++) {
		hide_provider(by_evp);
		begin();
		for (int i = 0; i < 2; i++) {
			for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++)
				assert_true(ask(hash, i == 0 ? HMAC_SHORT_KEY : DIGEST));
			end();
			end();
			assert_no_keys();
			tls_hash_forget();
			assert_left(0, 0);
		}
		assert_true(ask(TLS_HASH_SHA1, DIGEST));
		end();
	}
	hide_provider(false);
}

#if TLS_HAVE_PROVIDERS

/* A thread has ways of its own, and leaves those of others alone. */
static void *thread_run(void *arg)
{
	assert_way(false);
	hide_provider(true);
	assert_way(true);
	assert_way(false);
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
		count_anew();
		for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++)
			assert_all(hash);
		assert_was(by_evp);
	}
	end();
}

#endif

/* Nothing that threads do at the same time mixes. */
static void *hash_often(void *arg)
{
	const struct tls_bytes text = {arg, 8};
	uint8_t want[2][TLS_HASHES][TLS_HASH_MAX], out[TLS_HASH_MAX];
	long different = 0;

	for (int i = 0; i < 500; i++) {
		for (enum tls_hash hash = 0; hash < TLS_HASHES; hash++) {
			size_t size = tls_hash_size(hash);

			different += !tls_hash_digest(hash, &text, 1, i ? out : want[0][hash]);
			different += i && memcmp(out, want[0][hash], size) != 0;
			different += !tls_hash_hmac(hash, text, &text, 1, i ? out : want[1][hash]);
			different += i && memcmp(out, want[1][hash], size) != 0;
		}
		if (i % 7 == 0)
			tls_hash_forget();
		if (i % 100 == 0)
			tls_hash_thread_end();
	}
	tls_hash_thread_end();
	*(long *)arg = different;
	return NULL;
}

static void test_threads(void **state)
{
	pthread_t threads[4];
	long different[COUNT(threads)] = {1, 2, 3, 4};

	(void)state;
	for (size_t i = 0; i < COUNT(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, hash_often, &different[i]), 0);
	for (size_t i = 0; i < COUNT(threads); i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	for (size_t i = 0; i < COUNT(threads); i++)
		assert_int_equal(different[i], 0);
}

static int group_end(void **state)
{
	(void)state;
	tls_hash_thread_end();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_lengths),
#if TLS_HAVE_PROVIDERS
		cmocka_unit_test(test_ways),
		cmocka_unit_test(test_each_hash_has_its_way),
		cmocka_unit_test(test_function_is_missing),
		cmocka_unit_test(test_other_provider),
		cmocka_unit_test(test_function_does_something_else),
		cmocka_unit_test(test_no_is_negative),
		cmocka_unit_test(test_wrong_hashes),
		cmocka_unit_test(test_fails_to_choose),
		cmocka_unit_test(test_wrong_length),
		cmocka_unit_test(test_stack_is_wiped),
#endif
		cmocka_unit_test(test_calls_fail),
		cmocka_unit_test(test_keeps_errors),
		cmocka_unit_test(test_forget),
		cmocka_unit_test(test_forget_is_cheap),
		cmocka_unit_test(test_cannot_forget),
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_stack),
		cmocka_unit_test(test_thread_end),
#if TLS_HAVE_PROVIDERS
		cmocka_unit_test(test_thread),
#endif
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, group_end);
}
