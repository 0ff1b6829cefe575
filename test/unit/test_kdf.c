/* SPDX-License-Identifier: ISC */
/*
 * Units of the key derivation: the functions against published vectors, against what OpenSSL
 * computes and at their limits; the provider as EVP_KDF calls it, as libssl uses it in whole
 * handshakes with a peer that does without, and the secrets that it notes.
 *
 * Vectors that are not an RFC's were computed with Python's hmac module.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "helper.h"
#include "tls_provider.h"

#include "tls_compat.h"

#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#if TLS_HAVE_PROVIDERS
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <openssl/x509.h>
#endif

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define NONE     ((struct tls_bytes){NULL, 0})

#include "kdf_calls.h"
#include "wiped.h"

static struct tls_bytes bytes(const void *data, size_t len)
{
	return (struct tls_bytes){data, len};
}

static struct tls_bytes text(const char *data)
{
	return bytes(data, strlen(data));
}

/* What it returns borrows out. */
static struct tls_bytes hex(const char *digits, uint8_t *out)
{
	return bytes(out, unhex(digits, out));
}

static void assert_hex(const uint8_t *have, const char *want)
{
	uint8_t buf[512];
	struct tls_bytes b = hex(want, buf);

	assert_memory_equal(have, buf, b.len);
}

/* ---- TLS 1.3: vectors ---- */

#define HEX_00_4F                                                                                  \
	"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b" \
	"2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f"
#define HEX_60_AF                                                                                  \
	"606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f808182838485868788898a8b" \
	"8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aaabacadaeaf"
#define HEX_00_1F "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define HEX_00_2F                                                                                  \
	"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b" \
	"2c2d2e2f"
#define HEX_0B    "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"
#define HEX_ZEROS "0000000000000000000000000000000000000000000000000000000000000000"
#define HEX_SEVENS                                                                                 \
	"0707070707070707070707070707070707070707070707070707070707070707070707070707070707070707" \
	"0707070707070707070707070707070707070707"

/* RFC 8448 section 3, the secrets in the order in which they follow from each other. */
#define EARLY     "33ad0a1c607ec03b09e6cd9893680ce210adf300aa1f2660e1b22e10f170f92a"
#define DERIVED_1 "6f2615a108c702c5678f54fc9dbab69716c076189c48250cebeac3576c3611ba"
#define SHARED    "8bd4054fb55b9d63fdfbacf9f04b9f0d35e6d63f537563efd46272900f89492d"
#define HANDSHAKE "1dc826e93606aa6fdc0aadc12f741b01046aa6b99f691ed221a9f0ca043fbeac"
#define DERIVED_2 "43de77e0c77713859a944db9db2590b53190a65b3ee2e4f12dd7a0bb7ce254b4"
#define MASTER    "18df06843d13a08bf2a449844c5f8a478001bc4d4c627984d5a41da8d0402919"
#define CLIENT_HS "b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21"
#define SERVER_HS "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38"
/* Hashes of messages: none, up to ServerHello, CertificateVerify, the server's Finished. */
#define HASH_NONE "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define HASH_NONE_384                                                                              \
	"38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f1" \
	"4898b95b"
#define HASH_HELLOS "860c06edc07858ee8e78f0e7428c58edd6b43f2ca3e6e95f02ed063cf0e1cad8"
#define HASH_VERIFY "edb7725fa7a3473b031ec8ef65a2485493900138a2b91291407d7951a06110ed"
#define HASH_SERVER "9608102a0f1ccc6db6250b7b7e417b1a000eaada3daae4777a7686c9ff83df13"

static void test_extract(void **state)
{
	static const struct {
		uint8_t hash;
		const char *salt, *secret, *want;
	} rows[] = {
		/* RFC 5869 appendix A.1 to A.3 */
		{TLS_PRF_SHA256, "000102030405060708090a0b0c", HEX_0B,
		 "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"},
		{TLS_PRF_SHA256, HEX_60_AF, HEX_00_4F,
		 "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244"},
		{TLS_PRF_SHA256, "", HEX_0B,
		 "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04"},
		{TLS_PRF_SHA256, HEX_ZEROS, HEX_ZEROS, EARLY},
		{TLS_PRF_SHA256, DERIVED_1, SHARED, HANDSHAKE},
		{TLS_PRF_SHA256, DERIVED_2, HEX_ZEROS, MASTER},
		{TLS_PRF_SHA384, HEX_60_AF, HEX_00_4F,
		 "b319f6831dff9314efb643baa29263b30e4a8d779fe31e9c901efd7de737c85b62e676d4dc87b08"
		 "95c6a7dc97b52cebb"},
		{TLS_PRF_SHA384, "", HEX_0B,
		 "10e40cf072a4c5626e43dd22c1cf727d4bb140975c9ad0cbc8e45b40068f8f0ba57cdb598af9dfa"
		 "6963a96899af047e5"},
	};
	uint8_t salt[128], secret[128], out[TLS_HASH_MAX + 1];

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		size_t size = tls_kdf_hash_size(rows[i].hash);

		assert_int_equal(2 * size, strlen(rows[i].want));
		memset(out, 0xee, sizeof(out));
		assert_int_equal(tls_kdf_hmac(rows[i].hash, hex(rows[i].salt, salt),
					      hex(rows[i].secret, secret), out),
				 0);
		assert_hex(out, rows[i].want);
		assert_int_equal(out[size], 0xee);
	}
}

static void test_expand_label(void **state)
{
	static const struct {
		uint8_t hash;
		const char *secret, *label, *context, *want;
	} rows[] = {
		{TLS_PRF_SHA256, EARLY, "tls13 derived", HASH_NONE, DERIVED_1},
		{TLS_PRF_SHA256, HANDSHAKE, "tls13 c hs traffic", HASH_HELLOS, CLIENT_HS},
		{TLS_PRF_SHA256, HANDSHAKE, "tls13 s hs traffic", HASH_HELLOS, SERVER_HS},
		{TLS_PRF_SHA256, HANDSHAKE, "tls13 derived", HASH_NONE, DERIVED_2},
		{TLS_PRF_SHA256, MASTER, "tls13 c ap traffic", HASH_SERVER,
		 "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"},
		{TLS_PRF_SHA256, MASTER, "tls13 s ap traffic", HASH_SERVER,
		 "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"},
		{TLS_PRF_SHA256, MASTER, "tls13 exp master", HASH_SERVER,
		 "fe22f881176eda18eb8f44529e6792c50c9a3f89452f68d8ae311b4309d3cf50"},
		{TLS_PRF_SHA256, HEX_00_2F, "tls13 key", "", "1826876791b8a16169e2b2fd9dcb797e"},
		{TLS_PRF_SHA384, HEX_00_2F, "tls13 key", "", "177f01c718ec17f6004f44c4dca0af7c"},
		{TLS_PRF_SHA384, HEX_00_2F, "tls13 derived", HASH_NONE_384,
		 "85672c80162b3076b4a14618cbbf66e53d55d61cdb683aba9f7c48d5b65a6a3b1c9d6c2638eed96"
		 "1d9f80878eca9fb56"},
		/* More than one block. */
		{TLS_PRF_SHA256, HEX_00_2F, "tls13 block", HEX_SEVENS,
		 "16474828087d6a42a4cb662dcb768f18dc530b0b55333fbf3d6cd19eca38a550cb46ac603080ea1"
		 "4fce2deec6008e8e87031c0a9ee4d81dab364b9f2d383f5a6e01ef042cfdf6573488ec6d585febaf"
		 "b7c15e75c45e3a6acca5435cc7c4705f635ac5657"},
		{TLS_PRF_SHA384, HEX_00_2F, "tls13 block", HEX_SEVENS,
		 "b4aff90a5788204d94afeddd2063d72898a78636738e2389ead86e945f852f0049d316493345ebc"
		 "6af7be09737920dbe3db3a8facd2f8560e419d62fd5a4abb0cdf2546c64957fd76f9b0bf5c8091e9"
		 "5f55bc758cb047ec09d818b15386625fd91ce9e2d"},
	};
	uint8_t secret[128], context[128], out[128];

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		size_t len = strlen(rows[i].want) / 2;

		memset(out, 0xee, sizeof(out));
		assert_int_equal(tls_kdf_expand_label(rows[i].hash, hex(rows[i].secret, secret),
						      text(rows[i].label),
						      hex(rows[i].context, context), out, len),
				 0);
		assert_hex(out, rows[i].want);
		assert_int_equal(out[len], 0xee);
	}
}

/* The first two are the server's and the client's of RFC 8448 section 3. */
static void test_finished(void **state)
{
	static const struct {
		uint8_t hash;
		const char *secret, *transcript, *want;
	} rows[] = {
		{TLS_PRF_SHA256, SERVER_HS, HASH_VERIFY,
		 "9b9b141d906337fbd2cbdce71df4deda4ab42c309572cb7fffee5454b78f0718"},
		{TLS_PRF_SHA256, CLIENT_HS, HASH_SERVER,
		 "a8ec436d677634ae525ac1fcebe11a039ec17694fac6e98527b642f2edd5ce61"},
		{TLS_PRF_SHA384, HEX_00_2F, HASH_NONE_384,
		 "8aa7ef197c71cd82fe706746b1032e093d2fc8cd44a72ec148835a29aa5ff0e0bd2662e4b1c9839"
		 "b3a493a02e0241e92"},
	};
	uint8_t secret[64], transcript[64], out[TLS_HASH_MAX + 1];

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		size_t size = tls_kdf_hash_size(rows[i].hash);

		assert_int_equal(2 * size, strlen(rows[i].want));
		assert_int_equal(hex(rows[i].secret, secret).len, size);
		assert_int_equal(hex(rows[i].transcript, transcript).len, size);
		memset(out, 0xee, sizeof(out));
		assert_int_equal(tls_kdf_finished(rows[i].hash, secret, transcript, out), 0);
		assert_hex(out, rows[i].want);
		assert_int_equal(out[size], 0xee);
	}
}

/* ---- TLS 1.3: limits ---- */

static int expand_sizes(uint8_t hash, size_t label_len, size_t context_len, uint8_t *out,
			size_t len)
{
	uint8_t secret[48], label[256], context[256];

	memset(label, 'l', sizeof(label));
	memset(context, 7, sizeof(context));
	return tls_kdf_expand_label(hash, hex(HEX_00_2F, secret), bytes(label, label_len),
				    bytes(context, context_len), out, len);
}

static void test_label_limits(void **state)
{
	uint8_t out[32] = {0};

	(void)state;
	assert_int_equal(expand_sizes(TLS_PRF_SHA256, 255, 255, out, 20), 0);
	assert_hex(out, "6d6afe54b6d99e8bf492e5617b6c8f13e7464a7b");
	assert_int_equal(expand_sizes(TLS_PRF_SHA384, 255, 255, out, 20), 0);
	assert_hex(out, "ae3dbd06f8e438597d7933eb6b9efe5ba1f7b9cf");
	for (uint8_t hash = TLS_PRF_SHA256; hash <= TLS_PRF_SHA384; hash++) {
		assert_int_equal(expand_sizes(hash, 256, 255, out, 20), -1);
		assert_int_equal(expand_sizes(hash, 255, 256, out, 20), -1);
		assert_int_equal(expand_sizes(hash, 256, 256, out, 0), -1);
	}
	assert_int_equal(ERR_peek_error(), 0);
}

static void test_output_limits(void **state)
{
	static const char *const ends[] = {
		"fd63c2828be7a91f8b628060c7fcbece27ed12008fa37abe0d6abe8b2aaf6f60",
		"ceafaf02f895adaa3a54bc79a8a8cc326962e5771993cdf7187846380dc2b58d",
	};
	static uint8_t out[255 * TLS_HASH_MAX + 1];
	uint8_t secret[48], context[64];

	(void)state;
	memset(context, 7, sizeof(context));
	for (uint8_t hash = TLS_PRF_SHA256; hash <= TLS_PRF_SHA384; hash++) {
		size_t most = 255 * tls_kdf_hash_size(hash);

		memset(out, 0xee, sizeof(out));
		assert_int_equal(tls_kdf_expand_label(hash, hex(HEX_00_2F, secret),
						      text("tls13 block"),
						      bytes(context, sizeof(context)), out, most),
				 0);
		assert_hex(out + most - 32, ends[hash - TLS_PRF_SHA256]);
		assert_int_equal(out[most], 0xee);
		assert_int_equal(expand_sizes(hash, 5, 5, out, most + 1), -1);
		assert_int_equal(out[most], 0xee);
		assert_int_equal(expand_sizes(hash, 5, 5, out, 0x10000 + 10), -1);
		out[0] = 0xee;
		assert_int_equal(expand_sizes(hash, 5, 5, out, 0), 0);
		assert_int_equal(out[0], 0xee);
	}
}

static void test_unknown_hashes(void **state)
{
	static const uint8_t hashes[] = {0, TLS_PRF_MD5_SHA1, 4, 200, 255};
	uint8_t secret[TLS_HASH_MAX] = {0}, out[64];

	(void)state;
	assert_int_equal(tls_kdf_hash_size(TLS_PRF_SHA256), 32);
	assert_int_equal(tls_kdf_hash_size(TLS_PRF_SHA384), 48);
	for (size_t i = 0; i < COUNT(hashes); i++) {
		assert_int_equal(tls_kdf_hash_size(hashes[i]), 0);
		assert_int_equal(tls_kdf_hmac(hashes[i], text("salt"), text("secret"), out), -1);
		assert_int_equal(tls_kdf_finished(hashes[i], secret, secret, out), -1);
		assert_int_equal(tls_kdf_hash(hashes[i], NULL, 0, out), -1);
		for (size_t len = 0; len < 40; len++)
			assert_int_equal(expand_sizes(hashes[i], 5, 5, out, len), -1);
		if (hashes[i] != TLS_PRF_MD5_SHA1)
			assert_int_equal(
				tls_kdf_prf(hashes[i], text("secret"), text("seed"), out, 40), -1);
	}
	assert_int_equal(ERR_peek_error(), 0);
}

/* libcrypto would take the key that it had before. */
static void test_no_secret_is_not_the_last_one(void **state)
{
	uint8_t out[64];

	(void)state;
	for (uint8_t hash = TLS_PRF_SHA256; hash <= TLS_PRF_SHA384; hash++) {
		assert_int_equal(tls_kdf_hmac(hash, text("salt"), text("secret"), out), 0);
		assert_int_equal(tls_kdf_hmac(hash, NONE, text("secret"), out), -1);
		assert_int_equal(
			tls_kdf_expand_label(hash, text("secret"), text("label"), NONE, out, 16),
			0);
		assert_int_equal(tls_kdf_expand_label(hash, NONE, text("label"), NONE, out, 16),
				 -1);
	}
	for (uint8_t hash = TLS_PRF_SHA256; hash <= TLS_PRF_MD5_SHA1; hash++) {
		assert_int_equal(tls_kdf_prf(hash, text("secret"), text("seed"), out, 60), 0);
		assert_int_equal(tls_kdf_prf(hash, NONE, text("seed"), out, 60), -1);
	}
	assert_int_equal(ERR_peek_error(), 0);
}

/* What differs in one of them is something else. */
struct expansion {
	uint8_t hash;
	const char *secret, *label;
	size_t len;
};

static const struct expansion expansions[] = {
	{TLS_PRF_SHA256, HEX_00_2F, "tls13 key", 16},
	{TLS_PRF_SHA384, HEX_00_2F, "tls13 key", 16},
	{TLS_PRF_SHA256, MASTER, "tls13 key", 16},
	{TLS_PRF_SHA256, HANDSHAKE, "tls13 key", 16},
	{TLS_PRF_SHA256, HEX_00_2F, "tls13 key", 32},
	{TLS_PRF_SHA256, HEX_00_2F, "tls13 kez", 16},
	{TLS_PRF_SHA256, HEX_00_2F, "tls13 ke", 16},
	{TLS_PRF_SHA256, HEX_00_2F, "tls13 iv", 12},
	{TLS_PRF_SHA256, HEX_00_2F, "tls13 finished", 32},
	{TLS_PRF_SHA384, HEX_00_2F, "tls13 finished", 48},
	{TLS_PRF_SHA256, HEX_00_1F, "tls13 key", 16},
	{TLS_PRF_SHA256, "", "tls13 key", 16},
	{TLS_PRF_SHA384, MASTER, "tls13 iv", 12},
	{TLS_PRF_SHA256, MASTER, "tls13 iv", 12},
	{TLS_PRF_SHA256, HEX_00_2F, "tls13 finished", 49},
	{TLS_PRF_SHA256, HEX_00_2F, "a label of 16 by", 16},
	{TLS_PRF_SHA256, HEX_00_2F, "a label of 17 byt", 16},
	{TLS_PRF_SHA256, HEX_00_2F, "", 16},
};

static void expand_one(const struct expansion *e, uint8_t out[64])
{
	uint8_t secret[64];

	memset(out, 0xee, 64);
	assert_int_equal(tls_kdf_expand_label(e->hash, hex(e->secret, secret), text(e->label), NONE,
					      out, e->len),
			 0);
}

/* Whatever was derived before, the same comes out, and nothing more. */
static void test_expansions(void **state)
{
	uint8_t want[COUNT(expansions)][64], out[64];
	unsigned seed = 1;

	(void)state;
	for (size_t i = 0; i < COUNT(expansions); i++) {
		expand_one(&expansions[i], want[i]);
		for (size_t j = 0; j < i; j++)
			assert_memory_not_equal(want[i], want[j], 12);
	}
	for (int turn = 0; turn < 500; turn++) {
		size_t i = (size_t)rand_r(&seed) % COUNT(expansions);

		expand_one(&expansions[i], out);
		assert_memory_equal(out, want[i], sizeof(out));
	}
}

/* An empty one is one, but none of what was there before either. */
static void test_empty_secret(void **state)
{
	uint8_t a[48], b[48];

	(void)state;
	for (uint8_t hash = TLS_PRF_SHA256; hash <= TLS_PRF_SHA384; hash++) {
		size_t size = tls_kdf_hash_size(hash);
		uint8_t zeros[48] = {0};

		assert_int_equal(tls_kdf_hmac(hash, text("salt"), text("secret"), a), 0);
		assert_int_equal(tls_kdf_hmac(hash, text(""), text("secret"), a), 0);
		/* HMAC fills its key up with zeros. */
		assert_int_equal(tls_kdf_hmac(hash, bytes(zeros, size), text("secret"), b), 0);
		assert_memory_equal(a, b, size);
		assert_int_equal(tls_kdf_hmac(hash, text("salt"), NONE, a), 0);
		assert_int_equal(tls_kdf_hmac(hash, text("salt"), text(""), b), 0);
		assert_memory_equal(a, b, size);
	}
}

/* ---- the PRF before TLS 1.3 ---- */

/* The first two are those of the TLS working group's mailing list, the third is one of NIST's; for
 * an odd length, the halves of a secret share a byte. */
static void test_prf(void **state)
{
	static const struct {
		uint8_t hash;
		const char *secret, *label, *seed, *want;
	} rows[] = {
		{TLS_PRF_SHA256, "9bbe436ba940f017b17652849a71db35", "test label",
		 "a0ba9f936cda311827a6f796ffd5198c",
		 "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c"
		 "9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789b"
		 "aa48082d122ee42c5a72e5a5110fff70187347b66"},
		{TLS_PRF_SHA384, "b80b733d6ceefcdc71566ea48e5567df", "test label",
		 "cd665cf6a8447dd6ff8b27555edb7465",
		 "7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cde9ca0faa60be9fe"
		 "34f82b1233c9146a0e534cb400fed2700884f9dc236f80edd8bfa961144c9e8d792eca722a7b32fc"
		 "3d416d473ebc2c5fd4abfdad05d9184259b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a6923"
		 "6a3e52655c9e9aee691c8f3a26854308d5eaa3be85e0990703d73e56f"},
		{TLS_PRF_MD5_SHA1,
		 "bded7fa5c1699c010be23dd06ada3a48349f21e5f86263d512c0c5cc379f0e780ec55d9844b2f1d"
		 "b02a96453513568d0",
		 "master secret",
		 "e5acaf549cd25c22d964c0d930fa4b5261d2507fad84c33715b7b9a864020693135e4d557fdf3aa"
		 "6406d82975d5c606a9734c9334b42136e96990fbd5358cdb2",
		 "2f6962dfbc744c4b2138bb6b3d33054c5ecc14f24851d9896395a44ab3964efc2090c5bf51a0891"
		 "209f46c1e1e998f62"},
		{TLS_PRF_MD5_SHA1, "00010203040506", "seed", "",
		 "239ee1ab6b8848dc3431bd26960a4aaba6720dd7941373e6067ef926bb6180ca7372ad328379d30"
		 "3"},
	};
	uint8_t secret[64], seed[128], out[256];

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		size_t label_len = strlen(rows[i].label), len = strlen(rows[i].want) / 2;
		size_t seed_len = hex(rows[i].seed, seed + label_len).len;

		memcpy(seed, rows[i].label, label_len);
		for (size_t part = 0; part <= len; part++) {
			memset(out, 0xee, sizeof(out));
			assert_int_equal(tls_kdf_prf(rows[i].hash, hex(rows[i].secret, secret),
						     bytes(seed, label_len + seed_len), out, part),
					 0);
			assert_int_equal(out[part], 0xee);
		}
		assert_hex(out, rows[i].want);
	}
}

/* ---- the hash of pieces ---- */

static void test_hash(void **state)
{
	const struct tls_bytes pieces[] = {text("abc"), NONE, text("dbcdecdefdefg")};
	uint8_t want[EVP_MAX_MD_SIZE], out[TLS_HASH_MAX + 1];

	(void)state;
	for (uint8_t hash = TLS_PRF_SHA256; hash <= TLS_PRF_SHA384; hash++) {
		const EVP_MD *md = hash == TLS_PRF_SHA256 ? EVP_sha256() : EVP_sha384();

		memset(out, 0xee, sizeof(out));
		assert_int_equal(tls_kdf_hash(hash, pieces, COUNT(pieces), out), 0);
		assert_int_equal(EVP_Digest("abcdbcdecdefdefg", 16, want, NULL, md, NULL), 1);
		assert_memory_equal(out, want, tls_kdf_hash_size(hash));
		assert_int_equal(out[tls_kdf_hash_size(hash)], 0xee);
		assert_int_equal(tls_kdf_hash(hash, NULL, 0, out), 0);
		assert_hex(out, hash == TLS_PRF_SHA256 ? HASH_NONE : HASH_NONE_384);
	}
}

/* ---- libcrypto fails ---- */

enum function {
	HASH,
	EXTRACT,
	FINISHED,
	EXPAND,
	PRF_SHA256,
	PRF_SHA384,
	PRF_MD5_SHA1,
	FUNCTIONS,
};

/* What each gives, and how many hashes it takes. */
static const struct {
	size_t len;
	int hashes;
} results[FUNCTIONS] = {{48, 1}, {32, 1}, {48, 2}, {100, 3}, {100, 8}, {100, 6}, {100, 24}};

/* What the caller has, which nobody but the caller wipes. */
static struct {
	uint8_t secret[TLS_HASH_MAX], out[100];
} caller = {.secret = "secret"};

static int call(enum function function)
{
	struct tls_bytes secret = {caller.secret, 6}, salt = {caller.secret, 4};
	uint8_t *out = caller.out;

	switch (function) {
	case HASH:
		return tls_kdf_hash(TLS_PRF_SHA384, &secret, 1, out);
	case EXTRACT:
		return tls_kdf_hmac(TLS_PRF_SHA256, salt, secret, out);
	case FINISHED:
		return tls_kdf_finished(TLS_PRF_SHA384, caller.secret, caller.secret, out);
	case EXPAND:
		return tls_kdf_expand_label(TLS_PRF_SHA384, secret, text("label"), NONE, out, 100);
	case PRF_SHA256:
		return tls_kdf_prf(TLS_PRF_SHA256, secret, text("seed"), out, 100);
	case PRF_SHA384:
		return tls_kdf_prf(TLS_PRF_SHA384, secret, text("seed"), out, 100);
	default:
		return tls_kdf_prf(TLS_PRF_MD5_SHA1, secret, text("seed"), out, 100);
	}
}

/* Whichever of the hashes cannot be had, it is told, its reason stays, and the next derivation is
 * right again. */
static void test_libcrypto_fails(void **state)
{
	uint8_t want[100];

	(void)state;
	for (int function = 0; function < FUNCTIONS; function++) {
		size_t len = results[function].len;
		int hashes;

		calls = 0;
		assert_int_equal(call(function), 0);
		hashes = calls;
		assert_int_equal(hashes, results[function].hashes);
		memcpy(want, caller.out, len);
		for (int n = 1; n <= hashes; n++) {
			call_fails = n;
			assert_int_equal(call(function), -1);
			assert_int_equal(call_fails, 0);
			assert_int_equal(ERR_GET_REASON(ERR_get_error()), ERR_R_INTERNAL_ERROR);
			assert_int_equal(ERR_peek_error(), 0);
			assert_int_equal(call(function), 0);
			assert_memory_equal(caller.out, want, len);
		}
	}
}

static unsigned seen_secrets;

static void expose_but_callers(const void *at, size_t len)
{
	const uint8_t *from = at, *end = (const uint8_t *)(&caller + 1);

	if (from >= (const uint8_t *)&caller && from < end)
		return;
	seen_secrets++;
	expose(at, len);
}

/* Nothing that was derived on the way stays, whether or not it comes to an end. */
static void test_secrets_are_wiped(void **state)
{
	(void)state;
	note_hmac = expose_but_callers;
	for (int function = 0; function < FUNCTIONS; function++) {
		for (int n = 0; n <= results[function].hashes; n++) {
			seen_secrets = 0;
			call_fails = n;
			assert_int_equal(call(function), n == 0 ? 0 : -1);
			assert_int_equal(call_fails, 0);
			assert_int_equal(seen_secrets > 0, function != HASH && function != EXTRACT);
			assert_int_equal(exposed_count(), 0);
		}
	}
	note_hmac = NULL;
	ERR_clear_error();
}

#if TLS_HAVE_PROVIDERS

/* ---- EVP_KDF ---- */

#define OURS   "provider=ser-tls"
#define THEIRS "provider=default"
#define TLS13  OSSL_KDF_NAME_TLS1_3_KDF
#define PRF    OSSL_KDF_NAME_TLS1_PRF

static const int extract_only = EVP_KDF_HKDF_MODE_EXTRACT_ONLY;
static const int expand_only = EVP_KDF_HKDF_MODE_EXPAND_ONLY;

/* The same in each run: what fails once fails again. */
static uint32_t seed_of_random = 2463534242;

static size_t below(size_t n)
{
	seed_of_random ^= seed_of_random << 13;
	seed_of_random ^= seed_of_random >> 17;
	seed_of_random ^= seed_of_random << 5;
	return seed_of_random % n;
}

static void fill(uint8_t *to, size_t len)
{
	for (size_t i = 0; i < len; i++)
		to[i] = (uint8_t)below(256);
}

struct params {
	OSSL_PARAM list[16]; /* an end is behind the last one */
	size_t count;
};

static void add(struct params *p, OSSL_PARAM one)
{
	assert_true(p->count + 1 < COUNT(p->list));
	p->list[p->count++] = one;
	p->list[p->count] = OSSL_PARAM_construct_end();
}

static void add_octets(struct params *p, const char *name, const void *data, size_t len)
{
	add(p, OSSL_PARAM_construct_octet_string(name, (void *)data, len));
}

static void add_text(struct params *p, const char *name, const char *value)
{
	add(p, OSSL_PARAM_construct_utf8_string(name, (char *)value, 0));
}

static void add_int(struct params *p, const char *name, const int *value)
{
	add(p, OSSL_PARAM_construct_int(name, (int *)value));
}

/* In the place of the one of that name. */
static void put(struct params *p, OSSL_PARAM one)
{
	size_t i = 0;

	while (i < p->count && strcmp(p->list[i].key, one.key) != 0)
		i++;
	assert_true(i < p->count);
	p->list[i] = one;
}

static void put_octets(struct params *p, const char *name, const void *data, size_t len)
{
	put(p, OSSL_PARAM_construct_octet_string(name, (void *)data, len));
}

static void put_text(struct params *p, const char *name, const char *value)
{
	put(p, OSSL_PARAM_construct_utf8_string(name, (char *)value, 0));
}

static void put_int(struct params *p, const char *name, const int *value)
{
	put(p, OSSL_PARAM_construct_int(name, (int *)value));
}

static void drop(struct params *p, const char *name)
{
	size_t kept = 0;

	for (size_t i = 0; i < p->count; i++)
		if (strcmp(p->list[i].key, name) != 0)
			p->list[kept++] = p->list[i];
	assert_int_equal(kept, p->count - 1);
	p->count = kept;
	p->list[kept] = OSSL_PARAM_construct_end();
}

static EVP_KDF_CTX *kdf_new(const char *provider, const char *name)
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, name, provider);
	EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);

	assert_non_null(ctx);
	EVP_KDF_free(kdf);
	return ctx;
}

/* Sets, then derives; returns 1 if both went well. */
static int derive(const char *provider, const char *name, const struct params *set,
		  const struct params *now, uint8_t *out, size_t len)
{
	EVP_KDF_CTX *ctx = kdf_new(provider, name);
	int ok = !set || EVP_KDF_CTX_set_params(ctx, set->list) == 1;

	ok = ok && EVP_KDF_derive(ctx, out, len, now ? now->list : NULL) == 1;
	EVP_KDF_CTX_free(ctx);
	ERR_clear_error();
	return ok;
}

/* Both must say the same, and say that they cannot in the same cases. Returns whether they can. */
static int same(const char *name, const struct params *set, const struct params *now, size_t len)
{
	uint8_t a[512], b[512];
	int ok;

	assert_true(len < sizeof(a));
	memset(a, 0xee, sizeof(a));
	ok = derive(OURS, name, set, now, a, len);
	assert_int_equal(derive(THEIRS, name, set, now, b, len), ok);
	if (ok)
		assert_memory_equal(a, b, len);
	assert_int_equal(a[len], 0xee);
	return ok;
}

static int same_both_ways(const char *name, const struct params *p, size_t len)
{
	int ok = same(name, NULL, p, len);

	assert_int_equal(same(name, p, NULL, len), ok);
	return ok;
}

static void test_who_is_asked(void **state)
{
	static const char *const names[] = {TLS13, PRF};

	(void)state;
	for (size_t i = 0; i < COUNT(names); i++) {
		EVP_KDF *ours = EVP_KDF_fetch(NULL, names[i], "?provider=ser-tls");
		EVP_KDF *usual = EVP_KDF_fetch(NULL, names[i], NULL);

		assert_string_equal(OSSL_PROVIDER_get0_name(EVP_KDF_get0_provider(ours)),
				    "ser-tls");
		/* Whoever does not ask for the provider does not get it. */
		assert_string_equal(OSSL_PROVIDER_get0_name(EVP_KDF_get0_provider(usual)),
				    "default");
		EVP_KDF_free(ours);
		EVP_KDF_free(usual);
	}
	assert_null(EVP_KDF_fetch(NULL, "HKDF", OURS));
	assert_null(EVP_MD_fetch(NULL, "SHA256", OURS));
	ERR_clear_error();
}

/* ---- TLS13-KDF ---- */

static const uint8_t some[2048] = {1, 2, 3, 4, 5};

static struct params expand_params(const char *label)
{
	struct params p = {.count = 0};

	add_int(&p, "mode", &expand_only);
	add_text(&p, "digest", "SHA2-256");
	add_octets(&p, "key", some, 32);
	add_octets(&p, "prefix", "tls13 ", 6);
	add_octets(&p, "label", label, strlen(label));
	add_octets(&p, "data", some, 32);
	return p;
}

static struct params extract_params(void)
{
	struct params p = expand_params("derived");

	put_int(&p, "mode", &extract_only);
	add_octets(&p, "salt", some, 32);
	return p;
}

static void add_random_mode(struct params *p, bool expand)
{
	static const char *const names[] = {"EXTRACT_ONLY", "EXPAND_ONLY", "extract_only",
					    "expand_only"};

	if (below(2) == 0)
		add_int(p, "mode", expand ? &expand_only : &extract_only);
	else
		add_text(p, "mode", names[2 * below(2) + (expand ? 1 : 0)]);
}

/* Adds 1 to most bytes of random memory, most often as many as a hash has, or nothing at all. */
static void add_random(struct params *p, const char *name, uint8_t *memory, size_t most)
{
	static const size_t usual[] = {32, 48, 64, 128};
	size_t len = below(2) == 0 ? usual[below(COUNT(usual))] : 1 + below(most);

	if (below(5) == 0)
		return;
	len = len > most ? most : len;
	fill(memory, len);
	add_octets(p, name, memory, len);
}

static void test_tls13_like_openssl(void **state)
{
	static const char *const digests[] = {"SHA2-256", "SHA2-384", "SHA256",
					      "SHA384",   "sha2-256", "sha384"};
	uint8_t key[1024], salt[200], prefix[6], label[243], data[64];
	int derived[2] = {0, 0};

	(void)state;
	for (int i = 0; i < 600; i++) {
		struct params p = {.count = 0};
		bool expand = below(2) == 0;
		const char *digest = digests[below(COUNT(digests))];
		size_t len = strstr(digest, "384") ? 48 : 32;
		size_t prefix_len = 1 + below(sizeof(prefix)), label_len = 1 + below(sizeof(label));

		add_random_mode(&p, expand);
		add_text(&p, "digest", digest);
		add_random(&p, "key", key, sizeof(key));
		add_random(&p, "salt", salt, sizeof(salt));
		add_random(&p, "data", data, sizeof(data));
		fill(prefix, prefix_len);
		add_octets(&p, "prefix", prefix, prefix_len);
		fill(label, label_len);
		add_octets(&p, "label", label, label_len);
		derived[expand] += same_both_ways(TLS13, &p, expand ? 1 + below(500) : len);
	}
	assert_true(derived[0] > 200 && derived[1] > 150);
}

static void test_tls13_key_sizes(void **state)
{
	static const size_t sizes[] = {1,  16, 31,  32,  33,  47,  48,  49,  63,
				       64, 65, 127, 128, 129, 255, 256, 1024};

	(void)state;
	for (size_t i = 0; i < COUNT(sizes); i++) {
		struct params p = expand_params("key"), q = extract_params();

		put_octets(&p, "key", some, sizes[i]);
		assert_true(same_both_ways(TLS13, &p, 40));
		put_octets(&q, "key", some, sizes[i]);
		assert_true(same_both_ways(TLS13, &q, 32));
		put_octets(&q, "salt", some, sizes[i]);
		assert_true(same_both_ways(TLS13, &q, 32));
		put_text(&q, "digest", "SHA2-384");
		assert_true(same_both_ways(TLS13, &q, 48));
	}
}

/* What libssl leaves out, and other ways to say the same. */
static void test_tls13_variants(void **state)
{
	struct params p = expand_params("key"), q = extract_params();
	unsigned int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
	int64_t long_mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;

	(void)state;
	add_text(&p, "nonsense", "whatever");
	add_int(&p, "nothing", &expand_only);
	assert_true(same_both_ways(TLS13, &p, 32));
	put(&p, OSSL_PARAM_construct_uint("mode", &mode));
	assert_true(same_both_ways(TLS13, &p, 32));
	put(&p, OSSL_PARAM_construct_int64("mode", &long_mode));
	assert_true(same_both_ways(TLS13, &p, 32));
	put_octets(&p, "data", some, 0);
	assert_true(same_both_ways(TLS13, &p, 16));
	drop(&p, "data");
	assert_true(same_both_ways(TLS13, &p, 16));
	add_octets(&p, "salt", some, 20);
	assert_true(same_both_ways(TLS13, &p, 16));
	drop(&q, "data");
	assert_true(same_both_ways(TLS13, &q, 32));
	drop(&q, "key");
	assert_true(same_both_ways(TLS13, &q, 32));
	drop(&q, "salt");
	assert_true(same_both_ways(TLS13, &q, 32));
	drop(&q, "label");
	drop(&q, "prefix");
	assert_true(same_both_ways(TLS13, &q, 32));
}

/* A string of no bytes is not the same as none. */
static void test_tls13_empty_strings(void **state)
{
	struct params p = expand_params("key"), q = extract_params();

	(void)state;
	put_octets(&p, "key", some, 0);
	assert_true(same_both_ways(TLS13, &p, 32));
	put_octets(&q, "key", some, 0);
	assert_true(same_both_ways(TLS13, &q, 32));
	put_octets(&q, "salt", some, 0);
	assert_true(same_both_ways(TLS13, &q, 32));
}

/* They go to OpenSSL's own, as libssl asks: with all parameters at once. */
static void test_other_hashes(void **state)
{
	static const char *const digests[] = {"SHA2-512", "SHA1", "SM3"};

	(void)state;
	for (size_t i = 0; i < COUNT(digests); i++) {
		struct params p = expand_params("key"), q = {.count = 0};

		put_text(&p, "digest", digests[i]);
		assert_true(same(TLS13, NULL, &p, 20));
		add_text(&q, "digest", digests[i]);
		add_octets(&q, "secret", some, 48);
		add_octets(&q, "seed", some, 77);
		assert_true(same(PRF, NULL, &q, 100));
	}
}

/* The first derivation of any connection: RFC 8448 section 3, as libssl asks for it. */
static void test_tls13_vectors(void **state)
{
	struct params p = {.count = 0};
	uint8_t out[32], early[32], shared[32];

	(void)state;
	add_int(&p, "mode", &extract_only);
	add_text(&p, "digest", "SHA2-256");
	assert_int_equal(derive(OURS, TLS13, NULL, &p, out, 32), 1);
	assert_hex(out, EARLY);
	hex(EARLY, early);
	hex(SHARED, shared);
	add_octets(&p, "key", shared, 32);
	add_octets(&p, "salt", early, 32);
	add_octets(&p, "prefix", "tls13 ", 6);
	add_octets(&p, "label", "derived", 7);
	assert_int_equal(derive(OURS, TLS13, NULL, &p, out, 32), 1);
	assert_hex(out, HANDSHAKE);
}

static void assert_refused(const char *name, const struct params *p, size_t len)
{
	uint8_t out[512];

	assert_int_equal(derive(OURS, name, NULL, p, out, len), 0);
	assert_int_equal(derive(OURS, name, p, NULL, out, len), 0);
}

static void test_tls13_what_is_missing(void **state)
{
	static const char *const needed[] = {"mode", "digest", "key", "prefix", "label"};

	(void)state;
	for (size_t i = 0; i < COUNT(needed); i++) {
		struct params p = expand_params("key"), q = extract_params();

		drop(&p, needed[i]);
		assert_refused(TLS13, &p, 32);
		drop(&q, needed[i]);
		if (strcmp(needed[i], "key") != 0)
			assert_refused(TLS13, &q, 32);
	}
}

static void test_tls13_what_is_wrong(void **state)
{
	static const int modes[] = {EVP_KDF_HKDF_MODE_EXTRACT_AND_EXPAND, -1, 3, 77};
	static const char *const names[] = {"EXTRACT_AND_EXPAND", "", "EXPAND", "EXPAND_ONLY "};
	static const char *const digests[] = {"", "NONSENSE", "MD5-SHA1", "SHA2"};
	const OSSL_PARAM wrong[] = {
		OSSL_PARAM_construct_int("key", (int *)&expand_only),
		OSSL_PARAM_construct_utf8_string("key", (char *)"text", 0),
		OSSL_PARAM_construct_int("prefix", (int *)&expand_only),
		OSSL_PARAM_construct_utf8_string("label", (char *)"label", 0),
		OSSL_PARAM_construct_int("data", (int *)&expand_only),
		OSSL_PARAM_construct_octet_string("digest", (char *)"SHA2-256", 8),
		OSSL_PARAM_construct_int("digest", (int *)&expand_only),
		OSSL_PARAM_construct_octet_string("mode", (int *)&expand_only, sizeof(int)),
	};

	(void)state;
	for (size_t i = 0; i < COUNT(wrong); i++) {
		struct params p = expand_params("key"), q = extract_params();

		put(&p, wrong[i]);
		assert_refused(TLS13, &p, 32);
		put(&q, wrong[i]);
		assert_refused(TLS13, &q, 32);
	}
	for (size_t i = 0; i < COUNT(modes); i++) {
		struct params p = expand_params("key");

		put_int(&p, "mode", &modes[i]);
		assert_refused(TLS13, &p, 32);
		put_text(&p, "mode", names[i]);
		assert_refused(TLS13, &p, 32);
	}
	for (size_t i = 0; i < COUNT(digests); i++) {
		struct params p = expand_params("key"), q = extract_params();

		put_text(&p, "digest", digests[i]);
		assert_refused(TLS13, &p, 32);
		put_text(&q, "digest", digests[i]);
		assert_refused(TLS13, &q, 32);
		assert_refused(TLS13, &q, 0);
	}
}

static void test_tls13_sizes(void **state)
{
	static const size_t not_32[] = {0, 1, 31, 33, 48, 64, 500};
	struct params p = expand_params("key"), q = extract_params();
	static uint8_t out[255 * 32 + 1];

	(void)state;
	for (size_t i = 0; i < COUNT(not_32); i++)
		assert_refused(TLS13, &q, not_32[i]);
	put_text(&q, "digest", "SHA2-384");
	assert_refused(TLS13, &q, 32);
	/* 255 bytes together with the prefix. */
	put_octets(&p, "label", some, 249);
	assert_true(same_both_ways(TLS13, &p, 32));
	put_octets(&p, "label", some, 250);
	assert_refused(TLS13, &p, 32);
	put_octets(&p, "label", some, 2000);
	assert_refused(TLS13, &p, 32);
	put_octets(&p, "label", some, 10);
	put_octets(&p, "prefix", some, 2000);
	assert_refused(TLS13, &p, 32);
	put_octets(&p, "prefix", some, 6);
	put_octets(&p, "data", some, 255);
	assert_true(same_both_ways(TLS13, &p, 32));
	put_octets(&p, "data", some, 256);
	assert_refused(TLS13, &p, 32);
	drop(&p, "data");
	assert_int_equal(derive(OURS, TLS13, NULL, &p, out, 255 * 32), 1);
	assert_int_equal(derive(OURS, TLS13, NULL, &p, out, 255 * 32 + 1), 0);
}

/* ---- what a context keeps ---- */

/* Sets one after the other, each from memory that is overwritten at once; then derives. */
static int set_and_derive(const char *provider, const char *name, const struct params *set,
			  size_t count, const struct params *now, uint8_t *out)
{
	EVP_KDF_CTX *ctx = kdf_new(provider, name);
	int ok = 1;

	for (size_t i = 0; ok && i < count; i++) {
		uint8_t gone[COUNT(set->list)][128];
		struct params p = set[i];

		for (size_t j = 0; j < p.count; j++) {
			assert_true(p.list[j].data_size < sizeof(gone[j]));
			memcpy(gone[j], p.list[j].data, p.list[j].data_size);
			gone[j][p.list[j].data_size] = '\0';
			p.list[j].data = gone[j];
		}
		ok = EVP_KDF_CTX_set_params(ctx, p.list) == 1;
		memset(gone, 0xdd, sizeof(gone));
	}
	ok = ok && EVP_KDF_derive(ctx, out, 48, now ? now->list : NULL) == 1;
	EVP_KDF_CTX_free(ctx);
	return ok;
}

static void assert_same_kept(const char *name, const struct params *set, size_t count,
			     const struct params *now, const uint8_t *want)
{
	uint8_t a[48], b[48];

	assert_int_equal(set_and_derive(OURS, name, set, count, now, a), 1);
	assert_int_equal(set_and_derive(THEIRS, name, set, count, now, b), 1);
	assert_memory_equal(a, b, sizeof(a));
	if (want)
		assert_memory_equal(a, want, sizeof(a));
}

/* Each that is set replaces the one before; the others stay. */
static void test_tls13_is_kept(void **state)
{
	struct params whole = expand_params("key"), other = expand_params("iv"),
		      part = {.count = 0};
	struct params steps[3];
	uint8_t want[48], more[100];

	(void)state;
	memset(more, 9, sizeof(more));
	put_text(&other, "digest", "SHA2-384");
	put_octets(&other, "key", more, 48);
	put_octets(&other, "data", more, 1);
	assert_int_equal(derive(OURS, TLS13, NULL, &whole, want, 48), 1);
	assert_same_kept(TLS13, &whole, 1, NULL, want);
	steps[0] = other;
	steps[1] = whole;
	assert_same_kept(TLS13, steps, 2, NULL, want);
	steps[1] = other;
	steps[2] = whole;
	assert_same_kept(TLS13, steps, 3, NULL, want);
	/* OpenSSL's own forgets the data whenever anything is set. */
	add_octets(&part, "data", more, 33);
	add_octets(&part, "key", more, 33);
	steps[0] = whole;
	steps[1] = part;
	assert_same_kept(TLS13, steps, 2, NULL, NULL);
	/* What comes with the derivation is preferred. */
	assert_same_kept(TLS13, &whole, 1, &part, NULL);
	add_octets(&part, "label", "other", 5);
	add_text(&part, "digest", "SHA2-384");
	assert_same_kept(TLS13, &whole, 1, &part, NULL);
	assert_same_kept(TLS13, &other, 1, &whole, want);
}

static void test_tls13_bad_ones_change_nothing(void **state)
{
	struct params good = expand_params("key"), bad = expand_params("iv");
	EVP_KDF_CTX *ctx = kdf_new(OURS, TLS13);
	uint8_t want[32], out[32];

	(void)state;
	put_int(&bad, "data", &expand_only);
	assert_int_equal(derive(OURS, TLS13, NULL, &good, want, 32), 1);
	assert_int_equal(EVP_KDF_CTX_set_params(ctx, good.list), 1);
	assert_true(EVP_KDF_CTX_set_params(ctx, bad.list) <= 0);
	assert_true(EVP_KDF_derive(ctx, out, 32, bad.list) <= 0);
	assert_int_equal(EVP_KDF_derive(ctx, out, 32, NULL), 1);
	assert_memory_equal(out, want, 32);
	EVP_KDF_CTX_free(ctx);
}

static struct params prf_params(void)
{
	struct params p = {.count = 0};

	add_text(&p, "digest", "SHA2-256");
	add_octets(&p, "secret", some, 48);
	add_octets(&p, "seed", "label", 5);
	return p;
}

static void test_reset(void **state)
{
	const struct params all[] = {expand_params("key"), prf_params()};
	static const char *const names[] = {TLS13, PRF};

	(void)state;
	for (size_t i = 0; i < COUNT(all); i++) {
		EVP_KDF_CTX *ctx = kdf_new(OURS, names[i]);
		struct params part = all[i];
		uint8_t want[32], out[32];

		assert_true(EVP_KDF_derive(ctx, out, 32, NULL) <= 0);
		assert_int_equal(EVP_KDF_CTX_set_params(ctx, all[i].list), 1);
		assert_int_equal(EVP_KDF_derive(ctx, want, 32, NULL), 1);
		EVP_KDF_CTX_reset(ctx);
		assert_true(EVP_KDF_derive(ctx, out, 32, NULL) <= 0);
		drop(&part, "digest");
		assert_int_equal(EVP_KDF_CTX_set_params(ctx, part.list), 1);
		assert_true(EVP_KDF_derive(ctx, out, 32, NULL) <= 0);
		EVP_KDF_CTX_reset(ctx);
		assert_int_equal(EVP_KDF_derive(ctx, out, 32, all[i].list), 1);
		assert_memory_equal(out, want, 32);
		assert_non_null(EVP_KDF_CTX_settable_params(ctx));
		EVP_KDF_CTX_free(ctx);
	}
}

/* ---- TLS1-PRF ---- */

static const char *const prf_digests[] = {"SHA2-256", "SHA2-384", "MD5-SHA1",
					  "SHA256",   "sha384",   "md5-sha1"};
static const uint8_t prf_hashes[] = {TLS_PRF_SHA256, TLS_PRF_SHA384, TLS_PRF_MD5_SHA1};

/* The function itself, without the provider. */
static void prf_like_openssl(size_t hash, size_t secret_len, size_t seed_len, size_t len)
{
	uint8_t secret[200], seed[200], want[201], out[201];
	struct params p = {.count = 0};

	fill(secret, secret_len);
	fill(seed, seed_len);
	add_text(&p, "digest", prf_digests[hash]);
	add_octets(&p, "secret", secret, secret_len);
	add_octets(&p, "seed", seed, seed_len);
	assert_int_equal(derive(THEIRS, PRF, NULL, &p, want, len), 1);
	memset(out, 0xee, sizeof(out));
	assert_int_equal(tls_kdf_prf(prf_hashes[hash], bytes(secret, secret_len),
				     bytes(seed, seed_len), out, len),
			 0);
	assert_memory_equal(out, want, len);
	assert_int_equal(out[len], 0xee);
}

static void test_prf_like_openssl(void **state)
{
	(void)state;
	for (size_t hash = 0; hash < COUNT(prf_hashes); hash++) {
		for (size_t len = 1; len <= 200; len++)
			prf_like_openssl(hash, 48, 77, len);
		for (size_t secret_len = 0; secret_len <= 150; secret_len++)
			prf_like_openssl(hash, secret_len, 1 + below(199), 1 + below(199));
	}
}

/* Seeds as libssl passes them: five, those that it does not need without any memory. */
static void test_provided_prf_like_openssl(void **state)
{
	uint8_t secret[200], seeds[5][200];

	(void)state;
	for (int i = 0; i < 300; i++) {
		struct params p = {.count = 0};
		size_t secret_len = below(sizeof(secret));

		fill(secret, secret_len);
		add_text(&p, "digest", prf_digests[below(COUNT(prf_digests))]);
		add_octets(&p, "secret", secret, secret_len);
		for (size_t j = 0; j < COUNT(seeds); j++) {
			size_t len = j > 0 && below(3) == 0 ? 0 : 1 + below(sizeof(seeds[j]));

			fill(seeds[j], len);
			add_octets(&p, "seed", len == 0 ? NULL : seeds[j], len);
		}
		add_text(&p, "nonsense", "whatever");
		assert_true(same_both_ways(PRF, &p, 1 + below(200)));
	}
}

static void test_prf_seed_limit(void **state)
{
	static const struct {
		size_t first, second;
		bool good;
	} rows[] = {{1024, 0, true},   {1000, 24, true}, {1025, 0, false},
		    {1000, 25, false}, {1024, 1, false}, {1, 1024, false},
		    {2000, 0, false},  {0, 0, false},    {0, 1024, true}};

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		struct params p = prf_params();

		put_octets(&p, "seed", some, rows[i].first);
		add_octets(&p, "seed", some, rows[i].second);
		/* Newer ones of OpenSSL have no limit. */
		if (rows[i].good)
			assert_int_equal(same(PRF, NULL, &p, 32), 1);
		else
			assert_refused(PRF, &p, 32);
	}
}

static void test_prf_refuses(void **state)
{
	static const char *const needed[] = {"digest", "secret", "seed"};
	static const char *const digests[] = {"", "NONSENSE", "MD5-SHA"};
	const OSSL_PARAM wrong[] = {
		OSSL_PARAM_construct_int("secret", (int *)&expand_only),
		OSSL_PARAM_construct_utf8_string("secret", (char *)"text", 0),
		OSSL_PARAM_construct_int("seed", (int *)&expand_only),
		OSSL_PARAM_construct_utf8_string("seed", (char *)"text", 0),
		OSSL_PARAM_construct_octet_string("digest", (char *)"SHA2-256", 8),
		OSSL_PARAM_construct_int("digest", (int *)&expand_only),
	};

	(void)state;
	for (size_t i = 0; i < COUNT(needed); i++) {
		struct params p = prf_params();

		drop(&p, needed[i]);
		assert_refused(PRF, &p, 32);
	}
	for (size_t i = 0; i < COUNT(wrong); i++) {
		struct params p = prf_params();

		put(&p, wrong[i]);
		assert_refused(PRF, &p, 32);
	}
	for (size_t i = 0; i < COUNT(digests); i++) {
		struct params p = prf_params();

		put_text(&p, "digest", digests[i]);
		assert_refused(PRF, &p, 32);
	}
}

/* Digest and secret are replaced; seeds are appended, those that come with the derivation too. */
static void test_prf_is_kept(void **state)
{
	struct params whole = prf_params(), other = {.count = 0}, seed = {.count = 0}, steps[3];
	uint8_t want[48], out[48];

	(void)state;
	add_text(&other, "digest", "MD5-SHA1");
	add_octets(&other, "secret", some, 31);
	add_octets(&seed, "seed", "more", 4);
	steps[0] = other;
	steps[1] = whole;
	steps[2] = seed;
	assert_int_equal(derive(OURS, PRF, NULL, &whole, want, 48), 1);
	assert_same_kept(PRF, steps, 2, NULL, want);
	assert_same_kept(PRF, steps, 3, NULL, NULL);
	assert_same_kept(PRF, steps, 3, &seed, NULL);
	assert_same_kept(PRF, &whole, 1, &other, NULL);
	add_octets(&whole, "seed", "moremore", 8);
	assert_int_equal(derive(OURS, PRF, NULL, &whole, want, 48), 1);
	assert_int_equal(set_and_derive(OURS, PRF, steps, 3, &seed, out), 1);
	assert_memory_equal(out, want, 48);
}

/* ---- libcrypto fails below the provider ---- */

static void test_derive_fails(void **state)
{
	const struct params all[] = {expand_params("key"), extract_params(), prf_params()};
	static const char *const names[] = {TLS13, TLS13, PRF};

	(void)state;
	for (size_t i = 0; i < COUNT(all); i++) {
		uint8_t want[32], out[32];
		int hashes;

		calls = 0;
		assert_int_equal(derive(OURS, names[i], NULL, &all[i], want, 32), 1);
		hashes = calls;
		assert_int_equal(hashes, i == 0 ? 1 : 2);
		for (int n = 1; n <= hashes; n++) {
			call_fails = n;
			assert_int_equal(derive(OURS, names[i], NULL, &all[i], out, 32), 0);
			assert_int_equal(derive(OURS, names[i], NULL, &all[i], out, 32), 1);
			assert_memory_equal(out, want, 32);
		}
	}
}

/* ---- the secrets that are noted ---- */

static const struct tls_provider_secrets no_secrets;

/* The digest goes by the size of its hash. */
static struct params label_params(const char *label, size_t size)
{
	struct params p = expand_params(label);

	if (size == 48)
		put_text(&p, "digest", "SHA2-384");
	put_octets(&p, "data", some, size);
	return p;
}

static void derive_label(const char *label, size_t size, uint8_t *out)
{
	struct params p = label_params(label, size);

	assert_int_equal(derive(OURS, TLS13, NULL, &p, out, size), 1);
}

/* Each secret as it comes, and with the last one what it was derived from. */
static void test_noted(void **state)
{
	uint8_t other[48];

	(void)state;
	for (size_t size = 32; size <= 48; size += 16) {
		struct tls_provider_secrets noted = no_secrets, want = no_secrets;

		tls_provider_watch(&noted);
		derive_label("c hs traffic", size, want.client_handshake);
		want.handshake_len = size;
		assert_memory_equal(&noted, &want, sizeof(noted));
		derive_label("c ap traffic", size, want.client);
		want.len = size;
		assert_memory_equal(&noted, &want, sizeof(noted));
		derive_label("s ap traffic", size, want.server);
		memcpy(want.transcript, some, size);
		want.transcript_len = size;
		assert_memory_equal(&noted, &want, sizeof(noted));
		derive_label("res master", size, want.resumption);
		want.resumption_len = size;
		tls_provider_watch(NULL);
		assert_memory_equal(&noted, &want, sizeof(noted));
		assert_memory_not_equal(want.client, want.server, size);
		assert_memory_not_equal(want.client, want.client_handshake, size);
		/* No longer. */
		noted = no_secrets;
		derive_label("s ap traffic", size, other);
		assert_memory_equal(&noted, &no_secrets, sizeof(noted));
	}
}

/* A label whose secrets are noted; but none of these is one, or comes from the provider at all. */
static void derive_in_vain(const char *label)
{
	struct params p = label_params(label, 32), q = extract_params();
	uint8_t out[64];

	/* No secret has that many bytes. */
	assert_int_equal(derive(OURS, TLS13, NULL, &p, out, 49), 1);
	put_octets(&q, "label", label, strlen(label));
	assert_int_equal(derive(OURS, TLS13, NULL, &q, out, 32), 1);
	assert_int_equal(derive(THEIRS, TLS13, NULL, &p, out, 32), 1);
	call_fails = 1;
	assert_int_equal(derive(OURS, TLS13, NULL, &p, out, 32), 0);
	drop(&p, "key");
	assert_int_equal(derive(OURS, TLS13, NULL, &p, out, 32), 0);
}

static void test_not_noted(void **state)
{
	static const char *const labels[] = {
		"derived",      "s hs traffic", "c e traffic",   "traffic upd",  "exp master",
		"res maste",    "c ap traffi",  "s ap traffic ", "C ap traffic", "c ap traffix",
		"x ap traffic", "c hs traffi",  "c hs traffic ", "C hs traffic", "c hs traffix",
		"key",          "finished",
	};
	struct tls_provider_secrets noted = no_secrets;
	uint8_t out[64];

	(void)state;
	tls_provider_watch(&noted);
	for (size_t i = 0; i < COUNT(labels); i++)
		derive_label(labels[i], i % 2 == 0 ? 48 : 32, out);
	derive_in_vain("c hs traffic");
	derive_in_vain("c ap traffic");
	derive_in_vain("s ap traffic");
	derive_in_vain("res master");
	tls_provider_watch(NULL);
	assert_memory_equal(&noted, &no_secrets, sizeof(noted));
}

/* No hash is as long as that, or there is none; the secret is noted all the same. */
static void test_transcript_not_noted(void **state)
{
	static const size_t sizes[] = {49, 64, 255, 0};

	(void)state;
	for (size_t i = 0; i <= COUNT(sizes); i++) {
		struct params p = label_params("s ap traffic", 32);
		struct tls_provider_secrets noted = no_secrets, want = no_secrets;

		if (i < COUNT(sizes))
			put_octets(&p, "data", some, sizes[i]);
		else
			drop(&p, "data");
		tls_provider_watch(&noted);
		assert_int_equal(derive(OURS, TLS13, NULL, &p, want.server, 32), 1);
		tls_provider_watch(NULL);
		want.len = 32;
		assert_memory_equal(&noted, &want, sizeof(noted));
	}
}

struct watcher {
	struct tls_provider_secrets noted;
	uint8_t unwatched[48], server[48], handshake[48];
};

static void *watch_elsewhere(void *arg)
{
	struct watcher *w = arg;

	derive_label("c ap traffic", 48, w->unwatched);
	tls_provider_watch(&w->noted);
	derive_label("s ap traffic", 48, w->server);
	derive_label("c hs traffic", 48, w->handshake);
	tls_hash_thread_end();
	return NULL;
}

static void test_noted_per_thread(void **state)
{
	struct tls_provider_secrets noted = no_secrets, want = no_secrets;
	struct watcher w = {.noted = no_secrets};
	uint8_t secret[48];
	pthread_t thread;

	(void)state;
	tls_provider_watch(&noted);
	assert_int_equal(pthread_create(&thread, NULL, watch_elsewhere, &w), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_memory_equal(&noted, &no_secrets, sizeof(noted));
	memcpy(want.server, w.server, 48);
	memcpy(want.client_handshake, w.handshake, 48);
	memcpy(want.transcript, some, 48);
	want.len = want.handshake_len = want.transcript_len = 48;
	assert_memory_equal(&w.noted, &want, sizeof(want));
	/* This thread's watch has not ended with the other one. */
	derive_label("c ap traffic", 32, secret);
	tls_provider_watch(NULL);
	assert_int_equal(noted.len, 32);
	assert_memory_equal(noted.client, secret, 32);
	assert_memory_equal(&w.noted, &want, sizeof(want));
}

/* ---- handshakes ---- */

enum { SERVER, CLIENT };

struct suite {
	int version;
	size_t size; /* of a secret that is noted, or 0 */
	const char *name, *security;
};

static const struct suite suites[] = {
	{TLS1_3_VERSION, 32, "TLS_AES_128_GCM_SHA256", ""},
	{TLS1_3_VERSION, 48, "TLS_AES_256_GCM_SHA384", ""},
	{TLS1_2_VERSION, 0, "ECDHE-ECDSA-AES128-GCM-SHA256", ""},
	{TLS1_2_VERSION, 0, "ECDHE-ECDSA-AES256-GCM-SHA384", ""},
	{TLS1_2_VERSION, 0, "ECDHE-ECDSA-AES128-SHA", ""},
	{TLS1_1_VERSION, 0, "ECDHE-ECDSA-AES128-SHA", "@SECLEVEL=0"},
	{TLS1_VERSION, 0, "ECDHE-ECDSA-AES256-SHA", "@SECLEVEL=0"},
};

struct side {
	SSL *ssl;
	struct tls_provider_secrets noted;
	int hashes; /* computed by tls_kdf.c */
};

static EVP_PKEY *server_key;
static X509 *server_cert;
static struct tls_provider_secrets logged; /* by the side without the provider */
/* Handshake messages as that side saw them, up to the server's Finished. */
static struct {
	uint8_t bytes[16384];
	size_t len;
	bool whole;
} messages;

static void make_cert(void)
{
	X509_NAME *name;

	server_key = EVP_EC_gen("P-256");
	server_cert = X509_new();
	assert_int_equal(X509_set_version(server_cert, 2), 1);
	ASN1_INTEGER_set(X509_get_serialNumber(server_cert), 1);
	X509_gmtime_adj(X509_getm_notBefore(server_cert), -3600);
	X509_gmtime_adj(X509_getm_notAfter(server_cert), 3600);
	name = X509_NAME_new();
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const uint8_t *)"kdf", -1, -1, 0);
	X509_set_subject_name(server_cert, name);
	X509_set_issuer_name(server_cert, name);
	X509_NAME_free(name);
	X509_set_pubkey(server_cert, server_key);
	assert_true(X509_sign(server_cert, server_key, EVP_sha256()) > 0);
}

static void log_key(const SSL *ssl, const char *line)
{
	const char *secret = strrchr(line, ' ') + 1;

	(void)ssl;
	if (strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0)
		logged.len = unhex(secret, logged.client);
	else if (strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24) == 0)
		logged.len = unhex(secret, logged.server);
	else if (strncmp(line, "CLIENT_HANDSHAKE_TRAFFIC_SECRET ", 32) == 0)
		logged.handshake_len = unhex(secret, logged.client_handshake);
}

/* The first Finished in TLS 1.3 is the server's. */
static void log_message(int sent, int version, int type, const void *data, size_t len, SSL *ssl,
			void *arg)
{
	(void)sent;
	(void)version;
	(void)ssl;
	(void)arg;
	if (type != SSL3_RT_HANDSHAKE || messages.whole)
		return;
	assert_true(messages.len + len <= sizeof(messages.bytes));
	memcpy(messages.bytes + messages.len, data, len);
	messages.len += len;
	messages.whole = *(const uint8_t *)data == SSL3_MT_FINISHED;
}

static SSL_CTX *ctx_new(const struct suite *suite, int role, bool ours)
{
	const SSL_METHOD *method = role == SERVER ? TLS_server_method() : TLS_client_method();
	SSL_CTX *ctx = ours ? tls_provider_ssl_ctx(method) : SSL_CTX_new(method);
	char list[100];

	assert_non_null(ctx);
	assert_int_equal(SSL_CTX_set_min_proto_version(ctx, suite->version), 1);
	assert_int_equal(SSL_CTX_set_max_proto_version(ctx, suite->version), 1);
	snprintf(list, sizeof(list), "%s%s", suite->name, suite->security);
	if (suite->version == TLS1_3_VERSION)
		assert_int_equal(SSL_CTX_set_ciphersuites(ctx, list), 1);
	else
		assert_int_equal(SSL_CTX_set_cipher_list(ctx, list), 1);
	/* A ticket is protected with an HMAC, which is not to be counted. */
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
	if (role == SERVER) {
		assert_int_equal(SSL_CTX_use_certificate(ctx, server_cert), 1);
		assert_int_equal(SSL_CTX_use_PrivateKey(ctx, server_key), 1);
	}
	if (!ours) {
		SSL_CTX_set_keylog_callback(ctx, log_key);
		SSL_CTX_set_msg_callback(ctx, log_message);
	}
	return ctx;
}

static void sides_new(struct side sides[2], SSL_CTX *const ctxs[2])
{
	BIO *to_server = BIO_new(BIO_s_mem()), *to_client = BIO_new(BIO_s_mem());

	for (int role = SERVER; role <= CLIENT; role++)
		sides[role] = (struct side){.ssl = SSL_new(ctxs[role])};
	assert_int_equal(BIO_up_ref(to_server), 1);
	assert_int_equal(BIO_up_ref(to_client), 1);
	SSL_set_bio(sides[SERVER].ssl, to_server, to_client);
	SSL_set_bio(sides[CLIENT].ssl, to_client, to_server);
	SSL_set_accept_state(sides[SERVER].ssl);
	SSL_set_connect_state(sides[CLIENT].ssl);
	logged = no_secrets;
	messages.len = 0;
	messages.whole = false;
}

static void sides_free(struct side sides[2])
{
	for (int role = SERVER; role <= CLIENT; role++) {
		/* Otherwise the session cannot be resumed. */
		SSL_set_shutdown(sides[role].ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
		SSL_free(sides[role].ssl);
	}
}

/* Returns whether the side may go on. Both sides are watched: one of them must not be noticed. */
static bool step(struct side *side)
{
	int result;

	calls = 0;
	tls_provider_watch(&side->noted);
	result = SSL_do_handshake(side->ssl);
	tls_provider_watch(NULL);
	side->hashes += calls;
	return result == 1 || SSL_get_error(side->ssl, result) == SSL_ERROR_WANT_READ;
}

static bool handshake(struct side sides[2])
{
	for (int i = 0; i < 10; i++) {
		if (!step(&sides[CLIENT]) || !step(&sides[SERVER]))
			return false;
		if (SSL_is_init_finished(sides[CLIENT].ssl) &&
		    SSL_is_init_finished(sides[SERVER].ssl))
			return true;
	}
	return false;
}

static void send_data(SSL *from, SSL *to)
{
	uint8_t sent[1000], got[1000];

	fill(sent, sizeof(sent));
	assert_int_equal(SSL_write(from, sent, sizeof(sent)), sizeof(sent));
	assert_int_equal(SSL_read(to, got, sizeof(got)), sizeof(got));
	assert_memory_equal(got, sent, sizeof(got));
}

static void send_both_ways(const struct side sides[2])
{
	send_data(sides[CLIENT].ssl, sides[SERVER].ssl);
	send_data(sides[SERVER].ssl, sides[CLIENT].ssl);
}

static void check_secrets(const struct suite *suite, const struct side *ours,
			  const struct side *plain)
{
	assert_true(ours->hashes > 0);
	assert_int_equal(plain->hashes, 0);
	assert_memory_equal(&plain->noted, &no_secrets, sizeof(no_secrets));
	assert_int_equal(logged.len, suite->size);
	assert_int_equal(logged.handshake_len, suite->size);
	if (suite->size > 0) {
		logged.transcript_len = suite->size;
		assert_true(messages.whole);
		assert_int_equal(EVP_Digest(messages.bytes, messages.len, logged.transcript, NULL,
					    suite->size == 48 ? EVP_sha384() : EVP_sha256(), NULL),
				 1);
	}
	/* That one is in no log. */
	memcpy(logged.resumption, ours->noted.resumption, sizeof(logged.resumption));
	logged.resumption_len = suite->size;
	assert_memory_equal(&ours->noted, &logged, sizeof(logged));
}

/* RFC 8446 section 4.6.1: what it is for. The client has taken the first ticket, or the second. */
static void check_resumption(const struct suite *suite, const struct side *ours, SSL *client)
{
	uint8_t key[48], want[48], nonce[8] = {0};
	uint8_t hash = suite->size == 48 ? TLS_PRF_SHA384 : TLS_PRF_SHA256;
	bool same = false;

	if (suite->size == 0)
		return;
	assert_int_equal(SSL_SESSION_get_master_key(SSL_get_session(client), key, sizeof(key)),
			 suite->size);
	for (; nonce[7] < 2 && !same; nonce[7]++) {
		assert_int_equal(
			tls_kdf_expand_label(hash, bytes(ours->noted.resumption, suite->size),
					     text("tls13 resumption"), bytes(nonce, sizeof(nonce)),
					     want, suite->size),
			0);
		same = memcmp(key, want, suite->size) == 0;
	}
	assert_true(same);
}

/* RFC 5705, RFC 8446 section 7.5. */
static void check_exporter(const struct side sides[2], size_t context_len)
{
	uint8_t out[2][100] = {{0}};

	for (int role = SERVER; role <= CLIENT; role++)
		assert_int_equal(SSL_export_keying_material(sides[role].ssl, out[role],
							    sizeof(out[role]), "EXPORTER-kdf", 12,
							    some, context_len, 1),
				 1);
	assert_memory_equal(out[SERVER], out[CLIENT], sizeof(out[0]));
}

static void check_connection(const struct suite *suite, struct side sides[2])
{
	for (int role = SERVER; role <= CLIENT; role++) {
		assert_int_equal(SSL_version(sides[role].ssl), suite->version);
		assert_string_equal(SSL_get_cipher(sides[role].ssl), suite->name);
	}
	send_both_ways(sides);
	check_exporter(sides, 0);
	check_exporter(sides, 900);
	if (suite->version != TLS1_3_VERSION)
		return;
	for (int role = SERVER; role <= CLIENT; role++) {
		assert_int_equal(SSL_key_update(sides[role].ssl, SSL_KEY_UPDATE_REQUESTED), 1);
		send_data(sides[role].ssl, sides[!role].ssl);
		send_data(sides[!role].ssl, sides[role].ssl);
		send_both_ways(sides);
	}
}

/* Once in full and once resumed, which derives from other secrets. */
static void connect_twice(const struct suite *suite, int role)
{
	SSL_CTX *ctxs[2] = {ctx_new(suite, SERVER, role == SERVER),
			    ctx_new(suite, CLIENT, role == CLIENT)};
	SSL_SESSION *session = NULL;
	struct tls_provider_secrets first;
	struct side sides[2];

	for (int resumed = 0; resumed < 2; resumed++) {
		sides_new(sides, ctxs);
		if (resumed)
			assert_int_equal(SSL_set_session(sides[CLIENT].ssl, session), 1);
		assert_true(handshake(sides));
		assert_int_equal(SSL_session_reused(sides[SERVER].ssl), resumed);
		check_secrets(suite, &sides[role], &sides[!role]);
		check_connection(suite, sides);
		check_resumption(suite, &sides[role], sides[CLIENT].ssl);
		if (resumed && suite->size > 0)
			assert_memory_not_equal(&first, &logged, sizeof(first));
		first = logged;
		SSL_SESSION_free(session);
		session = SSL_get1_session(sides[CLIENT].ssl);
		sides_free(sides);
	}
	SSL_SESSION_free(session);
	SSL_CTX_free(ctxs[SERVER]);
	SSL_CTX_free(ctxs[CLIENT]);
}

static void test_servers(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++)
		connect_twice(&suites[i], SERVER);
}

static void test_clients(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++)
		connect_twice(&suites[i], CLIENT);
}

/* Whichever derivation fails, no connection comes of it. */
static void handshakes_fail(const struct suite *suite, int role)
{
	SSL_CTX *ctxs[2] = {ctx_new(suite, SERVER, role == SERVER),
			    ctx_new(suite, CLIENT, role == CLIENT)};
	struct side sides[2];
	bool done = false;
	int n;

	for (n = 1; !done; n++) {
		sides_new(sides, ctxs);
		call_fails = n;
		done = handshake(sides);
		/* Only those go well that have not come as far as the failure. */
		assert_int_equal(done, call_fails > 0);
		call_fails = 0;
		if (done)
			send_both_ways(sides);
		sides_free(sides);
		ERR_clear_error();
	}
	assert_true(n > 5);
	SSL_CTX_free(ctxs[SERVER]);
	SSL_CTX_free(ctxs[CLIENT]);
}

static void test_handshakes_fail(void **state)
{
	static const size_t some_suites[] = {0, 3, 5};

	(void)state;
	for (size_t i = 0; i < COUNT(some_suites); i++)
		for (int role = SERVER; role <= CLIENT; role++)
			handshakes_fail(&suites[some_suites[i]], role);
}

/* ---- the start ---- */

static int group_start(void **state)
{
	SSL_CTX *ctx;

	(void)state;
	ctx = tls_provider_ssl_ctx(TLS_method());
	assert_non_null(ctx);
	SSL_CTX_free(ctx);
	assert_true(tls_provider_install());
	assert_int_equal(ERR_peek_error(), 0);
	make_cert();
	return 0;
}

static int group_end(void **state)
{
	(void)state;
	X509_free(server_cert);
	EVP_PKEY_free(server_key);
	tls_hash_thread_end();
	return 0;
}

#else

static void test_no_provider(void **state)
{
	struct tls_provider_secrets secrets;
	SSL_CTX *ctx;

	(void)state;
	assert_false(tls_provider_install());
	ctx = tls_provider_ssl_ctx(TLS_method());
	assert_non_null(ctx);
	SSL_CTX_free(ctx);
	tls_provider_watch(&secrets);
	tls_provider_watch(NULL);
}

static int group_start(void **state)
{
	(void)state;
	return 0;
}

static int group_end(void **state)
{
	(void)state;
	tls_hash_thread_end();
	return 0;
}

#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_extract),
		cmocka_unit_test(test_expand_label),
		cmocka_unit_test(test_finished),
		cmocka_unit_test(test_label_limits),
		cmocka_unit_test(test_output_limits),
		cmocka_unit_test(test_unknown_hashes),
		cmocka_unit_test(test_no_secret_is_not_the_last_one),
		cmocka_unit_test(test_expansions),
		cmocka_unit_test(test_empty_secret),
		cmocka_unit_test(test_prf),
		cmocka_unit_test(test_hash),
		cmocka_unit_test(test_libcrypto_fails),
		cmocka_unit_test(test_secrets_are_wiped),
#if TLS_HAVE_PROVIDERS
		cmocka_unit_test(test_who_is_asked),
		cmocka_unit_test(test_tls13_like_openssl),
		cmocka_unit_test(test_tls13_key_sizes),
		cmocka_unit_test(test_tls13_variants),
		cmocka_unit_test(test_tls13_empty_strings),
		cmocka_unit_test(test_other_hashes),
		cmocka_unit_test(test_tls13_vectors),
		cmocka_unit_test(test_tls13_what_is_missing),
		cmocka_unit_test(test_tls13_what_is_wrong),
		cmocka_unit_test(test_tls13_sizes),
		cmocka_unit_test(test_tls13_is_kept),
		cmocka_unit_test(test_tls13_bad_ones_change_nothing),
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_prf_like_openssl),
		cmocka_unit_test(test_provided_prf_like_openssl),
		cmocka_unit_test(test_prf_seed_limit),
		cmocka_unit_test(test_prf_refuses),
		cmocka_unit_test(test_prf_is_kept),
		cmocka_unit_test(test_derive_fails),
		cmocka_unit_test(test_noted),
		cmocka_unit_test(test_not_noted),
		cmocka_unit_test(test_transcript_not_noted),
		cmocka_unit_test(test_noted_per_thread),
		cmocka_unit_test(test_servers),
		cmocka_unit_test(test_clients),
		cmocka_unit_test(test_handshakes_fail),
#else
		cmocka_unit_test(test_no_provider),
#endif
	};

	return cmocka_run_group_tests(tests, group_start, group_end);
}
