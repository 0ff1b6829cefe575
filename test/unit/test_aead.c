/* SPDX-License-Identifier: ISC */
/*
 * Units of the AEAD of a record: vectors, damage, and which way to libcrypto is taken when a
 * provider's functions are missing, fail or do something else than they should:
 *
 *   gcc -I. -I../.. test_aead.c helper.c ../../tls_{aead,dispatch}.c -lcmocka -lcrypto
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "helper.h"
#include "tls_aead.h"

#include "tls_compat.h"

#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/err.h>
#include <openssl/evp.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define TEXT_MAX 16400

#include "stand_ins.h"

static const uint8_t aeads[] = {TLS_AEAD_AES_128_GCM, TLS_AEAD_AES_256_GCM,
				TLS_AEAD_CHACHA20_POLY1305};

/* ---- stand-ins for functions of libcrypto ---- */

static unsigned evp_calls;    /* that set a key */
static unsigned evp_zeros;    /* of these: one that is known to everybody */
static int evp_contexts;      /* that are not freed */
static const char *evp_fails; /* the function that does */

static bool evp_may(const char *function)
{
	if (!evp_fails || strcmp(function, evp_fails) != 0)
		return true;
	raise_error();
	return false;
}

HIDDEN EVP_CIPHER_CTX *EVP_CIPHER_CTX_new(void)
{
	REAL(EVP_CIPHER_CTX *, EVP_CIPHER_CTX_new, (void));

	evp_contexts++;
	return real();
}

HIDDEN void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *ctx)
{
	REAL(void, EVP_CIPHER_CTX_free, (EVP_CIPHER_CTX *));

	evp_contexts -= ctx != NULL;
	real(ctx);
}

HIDDEN int EVP_CipherInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, ENGINE *impl,
			     const unsigned char *key, const unsigned char *iv, int enc)
{
	REAL(int, EVP_CipherInit_ex,
	     (EVP_CIPHER_CTX *, const EVP_CIPHER *, ENGINE *, const unsigned char *,
	      const unsigned char *, int));

	evp_calls += key != NULL;
	evp_zeros += key && key[0] == 0 && memcmp(key, key + 1, 15) == 0;
	return evp_may(key ? "key" : "init") ? real(ctx, cipher, impl, key, iv, enc) : 0;
}

HIDDEN int EVP_CipherUpdate(EVP_CIPHER_CTX *ctx, unsigned char *out, int *out_len,
			    const unsigned char *in, int in_len)
{
	REAL(int, EVP_CipherUpdate,
	     (EVP_CIPHER_CTX *, unsigned char *, int *, const unsigned char *, int));

	return evp_may(out ? "text" : "aad") ? real(ctx, out, out_len, in, in_len) : 0;
}

HIDDEN int EVP_CipherFinal_ex(EVP_CIPHER_CTX *ctx, unsigned char *out, int *out_len)
{
	REAL(int, EVP_CipherFinal_ex, (EVP_CIPHER_CTX *, unsigned char *, int *));

	return evp_may("final") ? real(ctx, out, out_len) : 0;
}

HIDDEN int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *ctx, int type, int arg, void *at)
{
	REAL(int, EVP_CIPHER_CTX_ctrl, (EVP_CIPHER_CTX *, int, int, void *));

	return evp_may("tag") ? real(ctx, type, arg, at) : 0;
}

#if TLS_HAVE_PROVIDERS

static bool by_engine; /* EVP's cipher is no provider's */

HIDDEN const EVP_CIPHER *EVP_CIPHER_CTX_get0_cipher(const EVP_CIPHER_CTX *ctx)
{
	REAL(const EVP_CIPHER *, EVP_CIPHER_CTX_get0_cipher, (const EVP_CIPHER_CTX *));

	return by_engine ? EVP_aes_128_gcm() : real(ctx);
}

static OSSL_FUNC_cipher_newctx_fn *real_new_ctx;
static OSSL_FUNC_cipher_freectx_fn *real_free_ctx;
static OSSL_FUNC_cipher_encrypt_init_fn *real_encrypt_init;
static OSSL_FUNC_cipher_decrypt_init_fn *real_decrypt_init;
static OSSL_FUNC_cipher_update_fn *real_update;
static OSSL_FUNC_cipher_final_fn *real_final;
static OSSL_FUNC_cipher_get_ctx_params_fn *real_get_ctx_params;

static int contexts;                           /* that are not freed */
static unsigned direct_calls;                  /* that set a key */
static uint8_t last_keys[2][TLS_AEAD_MAX_KEY]; /* of what was opened, of what was sealed */
static void *opening;                          /* the context of the last open */
static size_t text_len;                        /* since the last init */
static bool init_fails, update_fails, final_fails, params_fail;
static int fail_with_error(void)
{
	raise_error();
	return failure;
}

static void *count_new_ctx(void *provider)
{
	contexts++;
	return real_new_ctx(provider);
}

static void count_free_ctx(void *ctx)
{
	contexts--;
	real_free_ctx(ctx);
}

static int note_init(OSSL_FUNC_cipher_encrypt_init_fn *real, uint8_t *last_key, void *ctx,
		     const unsigned char *key, size_t key_len, const unsigned char *iv,
		     size_t iv_len, const OSSL_PARAM params[])
{
	direct_calls++;
	text_len = 0;
	memcpy(last_key, key, key_len);
	return init_fails ? fail_with_error() : real(ctx, key, key_len, iv, iv_len, params);
}

static int note_encrypt_init(void *ctx, const unsigned char *key, size_t key_len,
			     const unsigned char *iv, size_t iv_len, const OSSL_PARAM params[])
{
	return note_init(real_encrypt_init, last_keys[1], ctx, key, key_len, iv, iv_len, params);
}

static int note_decrypt_init(void *ctx, const unsigned char *key, size_t key_len,
			     const unsigned char *iv, size_t iv_len, const OSSL_PARAM params[])
{
	opening = ctx;
	return note_init(real_decrypt_init, last_keys[0], ctx, key, key_len, iv, iv_len, params);
}

static int may_update(void *ctx, unsigned char *out, size_t *out_len, size_t out_size,
		      const unsigned char *in, size_t in_len)
{
	text_len += out ? in_len : 0;
	return update_fails ? fail_with_error()
			    : real_update(ctx, out, out_len, out_size, in, in_len);
}

static int may_final(void *ctx, unsigned char *out, size_t *out_len, size_t out_size)
{
	return final_fails ? fail_with_error() : real_final(ctx, out, out_len, out_size);
}

static int may_get_params(void *ctx, OSSL_PARAM params[])
{
	return params_fail ? fail_with_error() : real_get_ctx_params(ctx, params);
}

static const struct shown_function cipher_functions[] = {
#define SEEN(id, real, noting)                                                                     \
	{                                                                                          \
		OSSL_FUNC_CIPHER_##id, (void (**)(void)) & (real), (void (*)(void))(noting)        \
	}
	SEEN(NEWCTX, real_new_ctx, count_new_ctx),
	SEEN(FREECTX, real_free_ctx, count_free_ctx),
	SEEN(ENCRYPT_INIT, real_encrypt_init, note_encrypt_init),
	SEEN(DECRYPT_INIT, real_decrypt_init, note_decrypt_init),
	SEEN(UPDATE, real_update, may_update),
	SEEN(FINAL, real_final, may_final),
	SEEN(GET_CTX_PARAMS, real_get_ctx_params, may_get_params),
#undef SEEN
};

static const struct shown_algorithm cipher_algorithms[TLS_AEADS] = {
#define CIPHER(name)                                                                               \
	{                                                                                          \
		OSSL_OP_CIPHER, (name), cipher_functions, COUNT(cipher_functions)                  \
	}
	[TLS_AEAD_AES_128_GCM] = CIPHER("AES-128-GCM"),
	[TLS_AEAD_AES_256_GCM] = CIPHER("AES-256-GCM"),
	[TLS_AEAD_CHACHA20_POLY1305] = CIPHER("ChaCha20-Poly1305"),
#undef CIPHER
};

/* The one that this program is about at the moment: they share where their functions are noted. */
static uint8_t about = TLS_AEAD_AES_128_GCM;

static const struct shown_algorithm *shown_algorithm(size_t i)
{
	return i == 0 ? &cipher_algorithms[about] : NULL;
}

#endif

/* ---- what an AEAD does, whichever way ---- */

static const struct vector {
	const char *source;
	uint8_t aead;
	const char *key, *nonce, *aad, *text, *sealed;
} vectors[] = {
	{"GCM's specification, test case 4", TLS_AEAD_AES_128_GCM,
	 "feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
	 "feedfacedeadbeeffeedfacedeadbeefabaddad2",
	 "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c9595680953"
	 "2fcf0e2449a6b525b16aedf5aa0de657ba637b39",
	 "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c"
	 "7d8f6a5aac84aa051ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47"},
	{"GCM's specification, test case 16", TLS_AEAD_AES_256_GCM,
	 "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
	 "cafebabefacedbaddecaf888", "feedfacedeadbeeffeedfacedeadbeefabaddad2",
	 "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c9595680953"
	 "2fcf0e2449a6b525b16aedf5aa0de657ba637b39",
	 "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3d"
	 "a7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b"},
	{"GCM's specification, test case 1: neither text nor additional data", TLS_AEAD_AES_128_GCM,
	 "00000000000000000000000000000000", "000000000000000000000000", "", "",
	 "58e2fccefa7e3061367f1d57a4e7455a"},
	{"RFC 8439 section 2.8.2", TLS_AEAD_CHACHA20_POLY1305,
	 "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
	 "070000004041424344454647", "50515253c0c1c2c3c4c5c6c7",
	 "4c616469657320616e642047656e746c656d656e206f662074686520636c617373206f6620273939"
	 "3a204966204920636f756c64206f6666657220796f75206f6e6c79206f6e652074697020666f7220"
	 "746865206675747572652c2073756e73637265656e20776f756c642062652069742e",
	 "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca96712"
	 "82fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58"
	 "fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09"
	 "e26a7e902ecbd0600691"},
};

static void assert_vector(const struct vector *v)
{
	uint8_t key[32], nonce[TLS_AEAD_NONCE], aad[32], text[160], sealed[160], work[160];
	struct tls_aead_with with = {v->aead, key, nonce, aad, unhex(v->aad, aad)};
	size_t len = unhex(v->text, text);

	assert_int_equal(unhex(v->key, key), tls_aead_key_size(v->aead));
	assert_int_equal(unhex(v->nonce, nonce), TLS_AEAD_NONCE);
	assert_int_equal(unhex(v->sealed, sealed), len + TLS_AEAD_TAG);
	memcpy(work, text, len);
	assert_int_equal(tls_aead_seal(&with, work, len), 0);
	assert_memory_equal(work, sealed, len + TLS_AEAD_TAG);
	assert_int_equal(tls_aead_open(&with, work, len), 0);
	assert_memory_equal(work, text, len);
}

/* One of the three, with a key, a nonce and additional data of its own. */
struct sample {
	uint8_t key[TLS_AEAD_MAX_KEY], nonce[TLS_AEAD_NONCE], aad[13];
	struct tls_aead_with with;
};

static void sample_make(struct sample *s, uint8_t aead)
{
	memcpy(s->key, pattern(sizeof(s->key)), sizeof(s->key));
	memcpy(s->nonce, pattern(sizeof(s->nonce)), sizeof(s->nonce));
	memcpy(s->aad, pattern(sizeof(s->aad)), sizeof(s->aad));
	s->with = (struct tls_aead_with){aead, s->key, s->nonce, s->aad, sizeof(s->aad)};
}

static void assert_round_trip(uint8_t aead, size_t len)
{
	static uint8_t text[TEXT_MAX], work[TEXT_MAX + TLS_AEAD_TAG + 1];
	struct sample s;

	sample_make(&s, aead);
	memcpy(text, pattern(len + 1), len + 1);
	memcpy(work, text, len);
	work[len + TLS_AEAD_TAG] = 0xa5; /* behind the tag nothing is written */
	assert_int_equal(tls_aead_seal(&s.with, work, len), 0);
	assert_true(len < 8 || memcmp(work, text, len) != 0);
	assert_int_equal(tls_aead_open(&s.with, work, len), 0);
	assert_memory_equal(work, text, len);
	assert_int_equal(work[len + TLS_AEAD_TAG], 0xa5);
	assert_int_equal(ERR_peek_error(), 0);
}

/* A bit that is not right, anywhere, and nothing is opened. */
static void assert_damage(uint8_t aead)
{
	uint8_t sealed[40 + TLS_AEAD_TAG] = "forty bytes of text, all of which count", work[56];
	struct sample s;
	struct {
		uint8_t *at;
		size_t len;
	} places[] = {{work, sizeof(work)},
		      {s.key, tls_aead_key_size(aead)},
		      {s.nonce, sizeof(s.nonce)},
		      {s.aad, sizeof(s.aad)}};

	sample_make(&s, aead);
	assert_int_equal(tls_aead_seal(&s.with, sealed, 40), 0);
	for (size_t place = 0; place < COUNT(places); place++) {
		for (size_t bit = 0; bit < 8 * places[place].len; bit++) {
			memcpy(work, sealed, sizeof(work));
			places[place].at[bit / 8] ^= (uint8_t)(1u << bit % 8);
			assert_int_equal(tls_aead_open(&s.with, work, 40), -1);
			assert_int_equal(ERR_peek_error(), 0);
			places[place].at[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
	}
	memcpy(work, sealed, sizeof(work));
	s.with.aad_len--;
	assert_int_equal(tls_aead_open(&s.with, work, 40), -1);
	s.with.aad_len++;
	memcpy(work, sealed, sizeof(work));
	assert_int_equal(tls_aead_open(&s.with, work, 39), -1);
	memcpy(work, sealed, sizeof(work));
	assert_int_equal(tls_aead_open(&s.with, work, 40), 0);
}

/* Two keys in turn, as two connections of one process have them. */
static void assert_keys_in_turn(uint8_t aead)
{
	uint8_t text[2][20 + TLS_AEAD_TAG] = {"of one connection", "and of the other"};
	uint8_t sealed[2][sizeof(text[0])], work[sizeof(text[0])];
	struct sample s[2];

	memcpy(sealed, text, sizeof(text));
	for (size_t i = 0; i < 2; i++) {
		sample_make(&s[i], aead);
		assert_int_equal(tls_aead_seal(&s[i].with, sealed[i], 20), 0);
	}
	for (size_t i = 0; i < 4; i++) {
		memcpy(work, sealed[i % 2], sizeof(work));
		assert_int_equal(tls_aead_open(&s[1 - i % 2].with, work, 20), -1);
		memcpy(work, sealed[i % 2], sizeof(work));
		assert_int_equal(tls_aead_open(&s[i % 2].with, work, 20), 0);
		assert_memory_equal(work, text[i % 2], 20);
	}
}

static void assert_all(uint8_t aead)
{
	static const size_t lengths[] = {0, 1, 15, 16, 17, 31, 32, 33, 287, 288, 289, 1400, 16384};

	for (size_t i = 0; i < COUNT(vectors); i++)
		if (vectors[i].aead == aead)
			assert_vector(&vectors[i]);
	for (size_t i = 0; i < COUNT(lengths); i++)
		assert_round_trip(aead, lengths[i]);
	assert_damage(aead);
	assert_keys_in_turn(aead);
}

static void test_sizes(void **state)
{
	(void)state;
	assert_int_equal(tls_aead_key_size(TLS_AEAD_NONE), 0);
	assert_int_equal(tls_aead_key_size(TLS_AEAD_AES_128_GCM), 16);
	assert_int_equal(tls_aead_key_size(TLS_AEAD_AES_256_GCM), 32);
	assert_int_equal(tls_aead_key_size(TLS_AEAD_CHACHA20_POLY1305), 32);
	assert_int_equal(tls_aead_key_size(TLS_AEADS), 0);
	assert_int_equal(tls_aead_key_size(255), 0);
}

static void test_unknown(void **state)
{
	static const uint8_t unknown[] = {TLS_AEAD_NONE, TLS_AEADS, 255};
	uint8_t text[1 + TLS_AEAD_TAG] = {0};
	struct sample s;

	(void)state;
	sample_make(&s, TLS_AEAD_NONE);
	for (size_t i = 0; i < COUNT(unknown); i++) {
		s.with.aead = unknown[i];
		assert_int_equal(tls_aead_seal(&s.with, text, 1), -1);
		assert_int_equal(tls_aead_open(&s.with, text, 1), -1);
	}
	tls_aead_forget();
	assert_int_equal(ERR_peek_error(), 0);
}

/* ---- ways ---- */

/* Hides the provider's functions, if there are any, or shows them again. */
static void hide_provider(bool hidden)
{
#if TLS_HAVE_PROVIDERS
	shown.hidden = hidden ? OSSL_OP_CIPHER : 0;
#else
	(void)hidden;
#endif
}

/* The thread begins anew with one AEAD. */
static void begin(uint8_t aead)
{
	tls_aead_thread_end();
#if TLS_HAVE_PROVIDERS
	memset(last_keys, 0, sizeof(last_keys));
	about = aead;
#endif
	assert_round_trip(aead, 100);
	evp_calls = 0;
#if TLS_HAVE_PROVIDERS
	direct_calls = 0;
#endif
}

#if TLS_HAVE_PROVIDERS

/* Everything works, and is done by EVP or by the provider's functions. */
static void assert_way(uint8_t aead, bool by_evp)
{
	begin(aead);
	assert_all(aead);
	assert_int_equal(evp_calls > 0, by_evp);
	assert_int_equal(direct_calls > 0, !by_evp);
	assert_int_equal(contexts, by_evp ? 0 : 2);
	assert_int_equal(evp_contexts, by_evp ? 2 : 0);
	assert_int_equal(open_queries, 0);
	tls_aead_thread_end();
	assert_int_equal(contexts, 0);
	assert_int_equal(evp_contexts, 0);
	memset(&shown, 0, sizeof(shown));
}

static void test_provider(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(aeads); i++)
		assert_way(aeads[i], false);
}

static void test_no_provider(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(aeads); i++) {
		hide_provider(true);
		assert_way(aeads[i], true);
	}
}

static void test_engine(void **state)
{
	(void)state;
	by_engine = true;
	assert_way(TLS_AEAD_AES_128_GCM, true);
	by_engine = false;
}

static void test_two_of_a_name(void **state)
{
	(void)state;
	shown.twice = OSSL_OP_CIPHER;
	assert_way(TLS_AEAD_AES_128_GCM, true);
}

static void test_function_is_missing(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(cipher_functions); i++) {
		shown.missing = (struct function_id){OSSL_OP_CIPHER, cipher_functions[i].id};
		assert_way(TLS_AEAD_AES_128_GCM, true);
	}
	shown.missing = (struct function_id){OSSL_OP_CIPHER, OSSL_FUNC_CIPHER_DUPCTX};
	assert_way(TLS_AEAD_AES_128_GCM, false);
}

static void *no_new_ctx(void *provider)
{
	(void)provider;
	return NULL;
}

static void *one_new_ctx(void *provider)
{
	return contexts == 0 ? count_new_ctx(provider) : NULL;
}

static int no_init(void *ctx, const unsigned char *key, size_t key_len, const unsigned char *iv,
		   size_t iv_len, const OSSL_PARAM params[])
{
	(void)ctx, (void)key, (void)key_len, (void)iv, (void)iv_len, (void)params;
	raise_error();
	return 0;
}

static int same_nonce(void *ctx, const unsigned char *key, size_t key_len, const unsigned char *iv,
		      size_t iv_len, const OSSL_PARAM params[])
{
	static const uint8_t zeros[TLS_AEAD_NONCE];

	(void)iv;
	return real_encrypt_init(ctx, key, key_len, zeros, iv_len, params);
}

static int no_update(void *ctx, unsigned char *out, size_t *out_len, size_t out_size,
		     const unsigned char *in, size_t in_len)
{
	(void)ctx, (void)out, (void)out_len, (void)out_size, (void)in, (void)in_len;
	return 0;
}

static int no_aad(void *ctx, unsigned char *out, size_t *out_len, size_t out_size,
		  const unsigned char *in, size_t in_len)
{
	return out ? real_update(ctx, out, out_len, out_size, in, in_len) : 1;
}

static int other_text(void *ctx, unsigned char *out, size_t *out_len, size_t out_size,
		      const unsigned char *in, size_t in_len)
{
	int result = real_update(ctx, out, out_len, out_size, in, in_len);

	if (out)
		out[in_len - 1] ^= 1;
	return result;
}

/* What is sealed is right, what is opened is not. */
static int opens_other_text(void *ctx, unsigned char *out, size_t *out_len, size_t out_size,
			    const unsigned char *in, size_t in_len)
{
	int result = real_update(ctx, out, out_len, out_size, in, in_len);

	if (out && ctx == opening)
		out[0] ^= 1;
	return result;
}

/* The additional data of TLS 1.3 has 5 bytes, that of TLS 1.2 has 13. */
static int no_long_aad(void *ctx, unsigned char *out, size_t *out_len, size_t out_size,
		       const unsigned char *in, size_t in_len)
{
	return out || in_len < 13 ? real_update(ctx, out, out_len, out_size, in, in_len) : 1;
}

static int short_update(void *ctx, unsigned char *out, size_t *out_len, size_t out_size,
			const unsigned char *in, size_t in_len)
{
	int result = real_update(ctx, out, out_len, out_size, in, in_len);

	*out_len -= out && in_len == 32;
	return result;
}

static int no_final(void *ctx, unsigned char *out, size_t *out_len, size_t out_size)
{
	(void)ctx, (void)out, (void)out_len, (void)out_size;
	return 0;
}

/* Opens whatever comes: a tag that is wrong, too. */
static int any_final(void *ctx, unsigned char *out, size_t *out_len, size_t out_size)
{
	(void)real_final(ctx, out, out_len, out_size);
	return 1;
}

static int no_tag(void *ctx, OSSL_PARAM params[])
{
	(void)ctx, (void)params;
	return 1;
}

static int no_tag_of_nothing(void *ctx, OSSL_PARAM params[])
{
	return text_len == 0 ? 1 : real_get_ctx_params(ctx, params);
}

static const struct other {
	int id;
	void (*by)(void);
} others[] = {
#define OTHER(id, by)                                                                              \
	{                                                                                          \
		OSSL_FUNC_CIPHER_##id, (void (*)(void))(by)                                        \
	}
	OTHER(NEWCTX, no_new_ctx),
	OTHER(NEWCTX, one_new_ctx),
	OTHER(ENCRYPT_INIT, no_init),
	OTHER(DECRYPT_INIT, no_init),
	OTHER(ENCRYPT_INIT, same_nonce),
	OTHER(UPDATE, no_update),
	OTHER(UPDATE, no_aad),
	OTHER(UPDATE, no_long_aad),
	OTHER(UPDATE, other_text),
	OTHER(UPDATE, opens_other_text),
	OTHER(UPDATE, short_update),
	OTHER(FINAL, no_final),
	OTHER(FINAL, any_final),
	OTHER(GET_CTX_PARAMS, no_tag),
	OTHER(GET_CTX_PARAMS, no_tag_of_nothing),
#undef OTHER
};

static void test_function_does_something_else(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(others); i++) {
		for (size_t j = 0; j < COUNT(aeads); j++) {
			shown.other = (struct function_id){OSSL_OP_CIPHER, others[i].id};
			shown.by = others[i].by;
			assert_way(aeads[j], true);
		}
	}
}

/* A provider may say no with -1, too. */
static int negative_final(void *ctx, unsigned char *out, size_t *out_len, size_t out_size)
{
	return real_final(ctx, out, out_len, out_size) == 1 ? 1 : -1;
}

static void test_no_is_negative(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(aeads); i++) {
		shown.other = (struct function_id){OSSL_OP_CIPHER, OSSL_FUNC_CIPHER_FINAL};
		shown.by = (void (*)(void))negative_final;
		assert_way(aeads[i], false);
	}
}

/* A function that fails later, or returns something else than 1, fails one record, and EVP is not
 * asked. */
static void test_function_fails_later(void **state)
{
	bool *const fails[] = {&init_fails, &update_fails, &final_fails, &params_fail};
	const int failures[] = {0, -1, 2};
	uint8_t text[10 + TLS_AEAD_TAG] = "ten bytes", work[sizeof(text)];
	struct sample s;

	(void)state;
	for (size_t i = 0; i < COUNT(fails) * COUNT(failures); i++) {
		bool *fail = fails[i / COUNT(failures)];

		failure = failures[i % COUNT(failures)];
		begin(TLS_AEAD_AES_256_GCM);
		sample_make(&s, TLS_AEAD_AES_256_GCM);
		assert_int_equal(tls_aead_seal(&s.with, text, 10), 0);
		memcpy(work, text, sizeof(text));
		*fail = true;
		assert_int_equal(tls_aead_seal(&s.with, text, 10), -1);
		assert_int_equal(ERR_peek_error(), 0);
		if (fail != &params_fail)
			assert_int_equal(tls_aead_open(&s.with, work, 10), -1);
		assert_int_equal(ERR_peek_error(), 0);
		*fail = false;
		assert_all(TLS_AEAD_AES_256_GCM);
		assert_int_equal(evp_calls, 0);
	}
}

/* What cannot forget its key is freed. */
static void test_cannot_forget(void **state)
{
	(void)state;
	begin(TLS_AEAD_AES_256_GCM);
	assert_int_equal(contexts, 2);
	init_fails = true;
	failure = 0;
	tls_aead_forget();
	init_fails = false;
	assert_int_equal(contexts, 0);
	assert_int_equal(ERR_peek_error(), 0);
	assert_way(TLS_AEAD_AES_256_GCM, false);
}

/* The errors of others stay. */
static void test_keeps_errors(void **state)
{
	(void)state;
	for (int hidden = 0; hidden < 2; hidden++) {
		tls_aead_thread_end();
		hide_provider(hidden);
		raise_error();
		tls_aead_seal(&(struct tls_aead_with){.aead = TLS_AEAD_AES_128_GCM,
						      .key = last_keys[0],
						      .nonce = last_keys[1],
						      .aad = last_keys[1]},
			      (uint8_t[16 + TLS_AEAD_TAG]){0}, 16);
		assert_int_not_equal(ERR_get_error(), 0);
		assert_int_equal(ERR_get_error(), 0);
	}
	memset(&shown, 0, sizeof(shown));
}

#endif

/* By EVP, whether its contexts are there or not: what fails fails one record. */
static void test_evp_fails(void **state)
{
	static const char *const functions[] = {"init", "key", "aad", "text", "final", "tag"};
	uint8_t sealed[10 + TLS_AEAD_TAG] = "ten bytes", work[sizeof(sealed)];
	struct sample s;

	(void)state;
	hide_provider(true);
	begin(TLS_AEAD_AES_128_GCM);
	sample_make(&s, TLS_AEAD_AES_128_GCM);
	assert_int_equal(tls_aead_seal(&s.with, sealed, 10), 0);
	for (size_t i = 0; i < 2 * COUNT(functions); i++) {
		bool anew = i % 2 || i == 0; /* contexts: only then are they initialised */

		if (anew)
			tls_aead_thread_end();
		evp_fails = functions[i / 2];
		memcpy(work, sealed, sizeof(sealed));
		assert_int_equal(tls_aead_open(&s.with, work, 10), -1);
		assert_int_equal(tls_aead_seal(&s.with, work, 10), -1);
		assert_int_equal(ERR_peek_error(), 0);
		tls_aead_forget();
		assert_int_equal(ERR_peek_error(), 0);
		evp_fails = NULL;
		memcpy(work, sealed, sizeof(sealed));
		assert_int_equal(tls_aead_open(&s.with, work, 10), 0);
		assert_all(TLS_AEAD_AES_128_GCM);
	}
	hide_provider(false);
}

/* Only a key that everybody knows is left in either context. */
static void test_forget(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(aeads); i++) {
#if TLS_HAVE_PROVIDERS
		begin(aeads[i]);
		assert_true(last_keys[0][0] || last_keys[0][1] || last_keys[0][2]);
		tls_aead_forget();
		assert_zeros(last_keys, sizeof(last_keys));
		assert_int_equal(direct_calls, 2);
		assert_all(aeads[i]);
#endif
		hide_provider(true);
		begin(aeads[i]);
		evp_zeros = 0;
		tls_aead_forget();
		assert_int_equal(evp_calls, 2);
		assert_int_equal(evp_zeros, 2);
		assert_all(aeads[i]);
		hide_provider(false);
	}
}

static void *thread_run(void *arg)
{
	for (int i = 0; i < 2; i++) {
		begin(TLS_AEAD_AES_128_GCM);
		assert_all(TLS_AEAD_AES_128_GCM);
	}
	tls_aead_thread_end();
	tls_aead_thread_end();
	return arg;
}

static void test_thread(void **state)
{
	pthread_t thread;

	begin(TLS_AEAD_AES_128_GCM);
	assert_int_equal(pthread_create(&thread, NULL, thread_run, state), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_all(TLS_AEAD_AES_128_GCM);
}

static int group_end(void **state)
{
	(void)state;
	tls_aead_thread_end();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_unknown),
#if TLS_HAVE_PROVIDERS
		cmocka_unit_test(test_provider),
		cmocka_unit_test(test_no_provider),
		cmocka_unit_test(test_engine),
		cmocka_unit_test(test_two_of_a_name),
		cmocka_unit_test(test_function_is_missing),
		cmocka_unit_test(test_function_does_something_else),
		cmocka_unit_test(test_no_is_negative),
		cmocka_unit_test(test_function_fails_later),
		cmocka_unit_test(test_cannot_forget),
		cmocka_unit_test(test_keeps_errors),
#endif
		cmocka_unit_test(test_evp_fails),
		cmocka_unit_test(test_forget),
		cmocka_unit_test(test_thread),
	};

	return cmocka_run_group_tests(tests, NULL, group_end);
}
