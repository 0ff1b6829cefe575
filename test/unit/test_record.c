/* SPDX-License-Identifier: ISC */
/*
 * Units of the record layer: RFC 8448's records, vectors, round trips, damage at
 * every byte, limits and the nonce invariant:
 *
 *   gcc -I. -I../.. test_record.c helper.c aead.c \
 *       ../../tls_{record,stream,hash,aead,dispatch}.c \
 *       -Wl,--wrap=tls_aead_seal,--wrap=tls_aead_open -lcmocka -lssl -lcrypto
 *
 * Vectors that are not an RFC's were computed with Python's hmac and cryptography modules.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "aead.h"
#include "helper.h"
#include "kdf_calls.h"
#include "tls_record.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/err.h>
#include <openssl/evp.h>

#define COUNT(a)     (sizeof(a) / sizeof((a)[0]))
#define RECORD_ROOM  (TLS_RECORD_MAX_PLAIN + 4096)
#define NONCE_RECORD 512

static const uint8_t suites[] = {TLS_AEAD_AES_128_GCM, TLS_AEAD_AES_256_GCM,
				 TLS_AEAD_CHACHA20_POLY1305};

static void assert_hex(const uint8_t *have, size_t have_len, const char *want)
{
	uint8_t bytes[512];
	size_t n = unhex(want, bytes);

	assert_int_equal(have_len, n);
	assert_memory_equal(have, bytes, n);
}

/* Keys that differ per suite and version. */
static void make_keys(struct tls_record_keys *k, uint16_t version, uint8_t aead)
{
	struct tls_record_keys other;
	uint8_t secret[48];
	uint8_t randoms[2][32];

	memset(secret, 0x20 + aead, sizeof(secret));
	memset(randoms, 0x77, sizeof(randoms));
	if (version == 0x0304)
		assert_int_equal(tls_record_keys_1_3(k, aead,
						     aead == TLS_AEAD_AES_256_GCM ? TLS_PRF_SHA384
										  : TLS_PRF_SHA256,
						     secret,
						     aead == TLS_AEAD_AES_256_GCM ? 48 : 32),
				 0);
	else
		assert_int_equal(tls_record_keys_1_2(k, &other, aead, TLS_PRF_SHA256, secret,
						     randoms[0], randoms[1]),
				 0);
}

#define C_SECRET "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"
#define S_SECRET "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"
#define DATA_50                                                                                    \
	"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b" \
	"2c2d2e2f3031"
#define TICKET                                                                                     \
	"17030300de3a6b8f90414a97d6959c3487680de5134a2b240e6cffac116e95d41d6af8f6b580dcf3d11d63c7" \
	"58db289a015940252f55713e061dc13e078891a38efbcf5753ad8ef170ad3c7353d16d9da773b9ca7f2b9fa1" \
	"b6c0d4a3d03f75e09c30ba1e62972ac46f75f7b981be63439b2999ce13064615139891d5e4c5b406f16e3fc1" \
	"81a77ca475840025db2f0a77f81b5ab05b94c01346755f69232c86519d86cbeeac87aac347d143f9605d64f6" \
	"50db4d023e70e952ca49fe5137121c74bc2697687e248746d6df353005f3bce18696129c8153556b3b6c6779" \
	"b37bf15985684f"

/* RFC 8448 section 3: what follows the handshake, and the keys it is protected with. */
static void test_rfc8448_keys(void **state)
{
	struct tls_record_keys k;
	uint8_t secret[32];

	(void)state;
	unhex(C_SECRET, secret);
	assert_int_equal(tls_record_keys_1_3(&k, TLS_AEAD_AES_128_GCM, TLS_PRF_SHA256, secret, 32),
			 0);
	assert_hex(k.key, 16, "17422dda596ed5d9acd890e3c63f5051");
	assert_hex(k.iv, 12, "5b78923dee08579033e523d9");
	assert_int_equal(k.seq, 0);
	unhex(S_SECRET, secret);
	assert_int_equal(tls_record_keys_1_3(&k, TLS_AEAD_AES_128_GCM, TLS_PRF_SHA256, secret, 32),
			 0);
	assert_hex(k.key, 16, "9f02283b6c9c07efc26bb9f2ac92e356");
	assert_hex(k.iv, 12, "cf782b88dd83549aadf1e984");
}

static void test_rfc8448_records(void **state)
{
	static const struct {
		const char *secret;
		uint64_t seq;
		uint8_t type;
		const char *plain; /* NULL: the ticket, of which only the start is compared */
		const char *record;
	} rows[] = {
		{S_SECRET, 0, TLS_CONTENT_HANDSHAKE, NULL, TICKET},
		{C_SECRET, 0, TLS_CONTENT_APPLICATION_DATA, DATA_50,
		 "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b3"
		 "95bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4"},
		{S_SECRET, 1, TLS_CONTENT_APPLICATION_DATA, DATA_50,
		 "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6d"
		 "ffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d"},
		{C_SECRET, 1, TLS_CONTENT_ALERT, "0100",
		 "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3"},
		{S_SECRET, 2, TLS_CONTENT_ALERT, "0100",
		 "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9"},
	};
	uint8_t secret[32], rec[512], plain_text[512], out[512], *plain, type, alert;
	struct tls_record_keys rd, wr;
	size_t size, len;

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		unhex(rows[i].secret, secret);
		assert_int_equal(
			tls_record_keys_1_3(&rd, TLS_AEAD_AES_128_GCM, TLS_PRF_SHA256, secret, 32),
			0);
		rd.seq = rows[i].seq;
		wr = rd;
		size = unhex(rows[i].record, rec);
		assert_int_equal(tls_record_open(&rd, rec, size, &plain, &len, &type, &alert), 0);
		assert_int_equal(type, rows[i].type);
		assert_int_equal(rd.seq, rows[i].seq + 1);
		if (rows[i].plain) {
			assert_hex(plain, len, rows[i].plain);
		} else {
			assert_int_equal(len, 205);
			assert_hex(plain, 8, "040000c90000001e");
		}
		memcpy(plain_text, plain, len);
		assert_int_equal(tls_record_seal(&wr, type, plain_text, len, out), size);
		assert_hex(out, size, rows[i].record);
	}
}

static void test_key_update(void **state)
{
	struct tls_record_keys k, before;
	uint8_t secret[48];

	(void)state;
	unhex(C_SECRET, secret);
	assert_int_equal(tls_record_keys_1_3(&k, TLS_AEAD_AES_128_GCM, TLS_PRF_SHA256, secret, 32),
			 0);
	k.seq = 17;
	assert_int_equal(tls_record_keys_update(&k), 0);
	assert_hex(k.secret, 32,
		   "fcdfcc72725aaee48bf64e4fd8b749cdbdbab39d90da0b26e2245ca6ea167207");
	assert_int_equal(k.seq, 0);
	assert_int_equal(k.version, 0x0304);
	for (size_t i = 0; i < sizeof(secret); i++)
		secret[i] = (uint8_t)i;
	assert_int_equal(tls_record_keys_1_3(&k, TLS_AEAD_AES_256_GCM, TLS_PRF_SHA384, secret, 48),
			 0);
	assert_hex(k.key, 32, "6877d022f1c61d24ebb7487c16752d9a4798e40431c75b39320e537c90e23225");
	assert_hex(k.iv, 12, "42822531a0fe88648fc09e9f");
	assert_int_equal(tls_record_keys_update(&k), 0);
	assert_hex(k.secret, 48,
		   "401331b63e9d59f202e8f041042d9516f4cd7fa2e2ee14631d3b49fc340d7af37fc2c0c9f252d80"
		   "36f81ec5b85cbe5db");
	assert_hex(k.key, 32, "eb354f3b48924ed78de34dd8aa6a6a0a51d857ddad1454d5cfa7b69f60712911");
	assert_hex(k.iv, 12, "8478ffbe4f2e5450789775b3");
	make_keys(&k, 0x0303, TLS_AEAD_AES_128_GCM);
	before = k;
	assert_int_equal(tls_record_keys_update(&k), -1);
	assert_memory_equal(&k, &before, sizeof(k));
}

static void test_tls12_records(void **state)
{
	static const struct {
		uint8_t aead, hash;
		const char *client, *server;
	} rows[] = {
		{TLS_AEAD_AES_128_GCM, TLS_PRF_SHA256,
		 "170303001d112233445566778901e54146acf29bb81c905f10abdc5d39bc548dc7ff",
		 "170303001d1122334455667789821674d5241b6676003b05c7093b11c4bde4483220"},
		{TLS_AEAD_AES_256_GCM, TLS_PRF_SHA384,
		 "170303001d1122334455667789325a59a98f98cc95fd87a04b229d3347d5d412f8cd",
		 "170303001d1122334455667789b54d74b9ee7634e896dffdca597d9777b980ff7249"},
		{TLS_AEAD_CHACHA20_POLY1305, TLS_PRF_SHA256,
		 "1703030015d0e3ec4d26601c70621a3bb01e363b4b429165c747",
		 "17030300155a6450ba35d35578c7dfe6991164b56bd2fdd7bd13"},
	};
	uint8_t master[48], cr[32], sr[32], out[64];
	struct tls_record_keys side[2];

	(void)state;
	for (size_t i = 0; i < sizeof(master); i++)
		master[i] = (uint8_t)i;
	memset(cr, 0xc1, sizeof(cr));
	memset(sr, 0x5e, sizeof(sr));
	for (size_t i = 0; i < COUNT(rows); i++) {
		assert_int_equal(tls_record_keys_1_2(&side[0], &side[1], rows[i].aead, rows[i].hash,
						     master, cr, sr),
				 0);
		for (int j = 0; j < 2; j++) {
			size_t n;

			if (rows[i].aead != TLS_AEAD_CHACHA20_POLY1305) {
				assert_hex(side[j].iv + 4, 8, "0000000000000000");
				unhex("1122334455667788", side[j].iv + 4);
			}
			side[j].seq = 1;
			n = tls_record_seal(&side[j], TLS_CONTENT_APPLICATION_DATA,
					    (const uint8_t *)"hello", 5, out);
			assert_hex(out, n, j == 0 ? rows[i].client : rows[i].server);
		}
	}
}

static void test_bad_keys(void **state)
{
	static const uint8_t zero[sizeof(struct tls_record_keys)];
	struct tls_record_keys k, k2;
	uint8_t bytes[64] = {1};

	(void)state;
	memset(&k, 0xaa, sizeof(k));
	assert_int_equal(tls_record_keys_1_3(&k, TLS_AEAD_NONE, TLS_PRF_SHA256, bytes, 32), -1);
	assert_memory_equal(&k, zero, sizeof(k));
	memset(&k, 0xaa, sizeof(k));
	assert_int_equal(tls_record_keys_1_3(&k, TLS_AEAD_AES_128_GCM, TLS_PRF_SHA256, bytes, 48),
			 -1);
	assert_memory_equal(&k, zero, sizeof(k));
	assert_int_equal(tls_record_keys_1_3(&k, TLS_AEAD_AES_128_GCM, 0, bytes, 0), -1);
	assert_int_equal(tls_record_keys_1_3(&k, 4, TLS_PRF_SHA256, bytes, 32), -1);
	memset(&k, 0xaa, sizeof(k));
	memset(&k2, 0xaa, sizeof(k2));
	assert_int_equal(tls_record_keys_1_2(&k, &k2, 200, TLS_PRF_SHA256, bytes, bytes, bytes),
			 -1);
	assert_memory_equal(&k, zero, sizeof(k));
	assert_memory_equal(&k2, zero, sizeof(k2));
	assert_int_equal(tls_record_keys_1_2(&k, &k2, TLS_AEAD_AES_128_GCM, 9, bytes, bytes, bytes),
			 -1);
	make_keys(&k, 0x0304, TLS_AEAD_AES_128_GCM);
	tls_record_keys_wipe(&k);
	assert_memory_equal(&k, zero, sizeof(k));
	assert_int_equal(tls_kdf_hash_size(TLS_PRF_SHA384), 48);
	assert_int_equal(tls_kdf_hash_size(3), 0);
}

static void round_trip(uint16_t version, uint8_t aead, size_t len)
{
	static uint8_t in[TLS_RECORD_MAX_PLAIN], out[RECORD_ROOM];
	struct tls_record_keys wr, rd;
	struct tls_record_header h;
	uint8_t *plain, type, alert;
	size_t n, plain_len;

	for (size_t i = 0; i < len; i++)
		in[i] = (uint8_t)(i * 7 + len);
	make_keys(&wr, version, aead);
	wr.seq = 0xfffffffe;
	rd = wr;
	for (int i = 0; i < 4; i++) {
		memset(out, 0xee, sizeof(out));
		n = tls_record_seal(&wr, TLS_CONTENT_APPLICATION_DATA, in, len, out);
		assert_true(n > len && n <= len + TLS_RECORD_OVERHEAD);
		assert_int_equal(out[n], 0xee);
		assert_int_equal(tls_record_peek(&rd, out, n, &h, &alert), 1);
		assert_int_equal(h.size, n);
		assert_int_equal(h.type, TLS_CONTENT_APPLICATION_DATA);
		assert_int_equal(tls_record_open(&rd, out, n, &plain, &plain_len, &type, &alert),
				 0);
		assert_int_equal(type, TLS_CONTENT_APPLICATION_DATA);
		assert_int_equal(plain_len, len);
		assert_memory_equal(plain, in, len);
	}
	assert_int_equal(wr.seq, 0x100000002);
	assert_int_equal(rd.seq, wr.seq);
}

static void test_round_trips(void **state)
{
	static const size_t sizes[] = {0, 1, 15, 16, 17, 500, 1400, 16383, 16384};

	(void)state;
	for (uint16_t version = 0x0303; version <= 0x0304; version++)
		for (size_t i = 0; i < COUNT(suites); i++)
			for (size_t j = 0; j < COUNT(sizes); j++)
				round_trip(version, suites[i], sizes[j]);
}

/* Every bit of a record matters, and no part of a record passes for all of it. */
static void damage(uint16_t version, uint8_t aead)
{
	static const uint8_t text[21] = "REGISTER sip:x";
	uint8_t good[128], bad[128], *plain, type, alert;
	struct tls_record_keys wr, rd, k;
	struct tls_record_header h;
	size_t n, len;

	make_keys(&wr, version, aead);
	wr.seq = 5;
	rd = wr;
	n = tls_record_seal(&wr, TLS_CONTENT_APPLICATION_DATA, text, sizeof(text), good);
	for (size_t bit = 0; bit < 8 * n; bit++) {
		memcpy(bad, good, n);
		bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
		k = rd;
		assert_int_equal(tls_record_open(&k, bad, n, &plain, &len, &type, &alert), -1);
		assert_int_equal(alert, TLS_ALERT_BAD_RECORD_MAC);
		assert_null(plain);
		assert_int_equal(k.seq, 5);
	}
	for (size_t part = 0; part < n; part++) {
		k = rd;
		assert_int_equal(tls_record_peek(&k, good, part, &h, &alert), 0);
		assert_int_equal(h.size, part < TLS_RECORD_HEADER ? 0 : n);
		/* The same with a header that agrees with what is there. */
		if (part < TLS_RECORD_HEADER)
			continue;
		memcpy(bad, good, part);
		bad[4] = (uint8_t)(part - TLS_RECORD_HEADER);
		assert_int_equal(tls_record_peek(&k, bad, part, &h, &alert), 1);
		assert_int_equal(tls_record_open(&k, bad, part, &plain, &len, &type, &alert), -1);
		assert_int_equal(alert, TLS_ALERT_BAD_RECORD_MAC);
	}
	memcpy(bad, good, n);
	k = rd;
	k.seq++;
	assert_int_equal(tls_record_open(&k, bad, n, &plain, &len, &type, &alert), -1);
	memcpy(bad, good, n);
	k = rd;
	aead_fails = true;
	assert_int_equal(tls_record_open(&k, bad, n, &plain, &len, &type, &alert), -1);
	aead_fails = false;
	assert_int_equal(k.seq, 5);
	assert_int_equal(ERR_peek_error(), 0);
	memcpy(bad, good, n);
	k = rd;
	assert_int_equal(tls_record_open(&k, bad, n, &plain, &len, &type, &alert), 0);
	assert_int_equal(ERR_peek_error(), 0);
}

static void test_damage(void **state)
{
	(void)state;
	for (uint16_t version = 0x0303; version <= 0x0304; version++)
		for (size_t i = 0; i < COUNT(suites); i++)
			damage(version, suites[i]);
}

static void test_peek(void **state)
{
	static const struct {
		uint16_t version;
		const char *header;
		int want;
		uint8_t alert;
		size_t size;
	} rows[] = {
		{0x0304, "1703034100", 0, 0, 16645},
		{0x0304, "1703034101", -1, TLS_ALERT_RECORD_OVERFLOW, 0},
		{0x0303, "1703034800", 0, 0, 18437},
		{0x0303, "1703034801", -1, TLS_ALERT_RECORD_OVERFLOW, 0},
		{0x0303, "170303ffff", -1, TLS_ALERT_RECORD_OVERFLOW, 0},
		{0x0304, "1703030000", 1, 0, 5},
		{0x0304, "17030300", 0, 0, 0},
		{0x0304, "1703020020", -1, TLS_ALERT_PROTOCOL_VERSION, 0},
		{0x0304, "1702030020", -1, TLS_ALERT_PROTOCOL_VERSION, 0},
		{0x0304, "1703040020", -1, TLS_ALERT_PROTOCOL_VERSION, 0},
		{0x0303, "1703010020", -1, TLS_ALERT_PROTOCOL_VERSION, 0},
		{0x0304, "140303000101", -1, TLS_ALERT_UNEXPECTED_MESSAGE, 0},
		{0x0304, "15030300020100", -1, TLS_ALERT_UNEXPECTED_MESSAGE, 0},
		{0x0304, "1603030020", -1, TLS_ALERT_UNEXPECTED_MESSAGE, 0},
		{0x0304, "1803030020", -1, TLS_ALERT_UNEXPECTED_MESSAGE, 0},
		{0x0303, "140303000101", -1, TLS_ALERT_UNEXPECTED_MESSAGE, 0},
		{0x0303, "1503030020", 0, 0, 37},
		{0x0303, "1603030020", 0, 0, 37},
		{0x0303, "1803030020", -1, TLS_ALERT_UNEXPECTED_MESSAGE, 0},
		{0x0303, "4f5054494f", -1, TLS_ALERT_UNEXPECTED_MESSAGE, 0}, /* OPTIO */
	};
	struct tls_record_keys k;
	struct tls_record_header h;
	uint8_t buf[16], alert;

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		size_t n = unhex(rows[i].header, buf);

		make_keys(&k, rows[i].version, TLS_AEAD_AES_128_GCM);
		alert = 0;
		assert_int_equal(tls_record_peek(&k, buf, n, &h, &alert), rows[i].want);
		assert_int_equal(alert, rows[i].alert);
		assert_int_equal(h.size, rows[i].size);
	}
}

/* RFC 5246 section 6.2.1: a record of a handshake that is not protected yet. */
static void test_peek_clear(void **state)
{
	static const struct {
		const char *header;
		int want;
		uint8_t alert;
		size_t size;
	} rows[] = {
		{"140303000101", 1, 0, 6},
		{"15030300020100", 1, 0, 7},
		{"1603030000", 1, 0, 5},
		{"160303000100ff", 1, 0, 6},
		{"1603034000", 0, 0, 16389},
		{"1603030001", 0, 0, 6},
		{"16030300", 0, 0, 0},
		{"", 0, 0, 0},
		{"1603034001", -1, TLS_ALERT_RECORD_OVERFLOW, 0},
		{"160303ffff", -1, TLS_ALERT_RECORD_OVERFLOW, 0},
		{"1603010001", -1, TLS_ALERT_PROTOCOL_VERSION, 0},
		{"1603040001", -1, TLS_ALERT_PROTOCOL_VERSION, 0},
		{"1602030001", -1, TLS_ALERT_PROTOCOL_VERSION, 0},
		{"1703030001", -1, TLS_ALERT_UNEXPECTED_MESSAGE, 0},
		{"1303030001", -1, TLS_ALERT_UNEXPECTED_MESSAGE, 0},
		{"4f5054494f", -1, TLS_ALERT_UNEXPECTED_MESSAGE, 0}, /* OPTIO */
	};
	struct tls_record_header h;
	uint8_t buf[16], alert;

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		size_t n = unhex(rows[i].header, buf);

		alert = 0;
		h.size = 99;
		assert_int_equal(tls_record_peek_clear(buf, n, &h, &alert), rows[i].want);
		assert_int_equal(alert, rows[i].alert);
		assert_int_equal(h.size, rows[i].size);
		assert_int_equal(h.type, h.size > 0 ? buf[0] : 0);
	}
}

/* What is put is found again. */
static void test_put(void **state)
{
	static const size_t lengths[] = {1, 2, 255, 256, 257, TLS_RECORD_MAX_PLAIN};
	static uint8_t in[TLS_RECORD_MAX_PLAIN];
	struct tls_record_header h;
	uint8_t alert;

	(void)state;
	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i * 7);
	for (size_t i = 0; i < COUNT(lengths); i++) {
		size_t size = TLS_RECORD_HEADER + lengths[i];
		uint8_t *out = malloc(size);

		assert_int_equal(tls_record_put(TLS_CONTENT_HANDSHAKE, in, lengths[i], out), size);
		assert_int_equal(tls_record_peek_clear(out, size, &h, &alert), 1);
		assert_int_equal(h.type, TLS_CONTENT_HANDSHAKE);
		assert_int_equal(h.size, size);
		assert_memory_equal(out + TLS_RECORD_HEADER, in, lengths[i]);
		free(out);
	}
}

/*
 * Seals a TLS 1.3 record whose inner plaintext is just what is given: with the type 0
 * tls_record_seal() adds a zero at the end, which is padding to the reader.
 */
static size_t seal_inner(struct tls_record_keys *k, const uint8_t *inner, size_t len, uint8_t *out)
{
	assert_true(len > 0 && inner[len - 1] == 0);
	return tls_record_seal(k, 0, inner, len - 1, out);
}

static void test_padding(void **state)
{
	static const struct {
		size_t len, type_at;
		uint8_t type;
		int want;
		size_t content;
	} rows[] = {
		{10, 4, 23, 0, 4}, {10, 0, 22, 0, 0},    {300, 0, 21, 0, 0},
		{1, 0, 0, -1, 0},  {16385, 0, 0, -1, 0}, {16385, 16383, 23, 0, 16383},
	};
	static uint8_t inner[RECORD_ROOM], out[RECORD_ROOM];
	struct tls_record_keys wr, rd;
	uint8_t *plain, type, alert;
	size_t n, len;

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		for (size_t j = 0; j < COUNT(suites); j++) {
			make_keys(&wr, 0x0304, suites[j]);
			rd = wr;
			memset(inner, 0, sizeof(inner));
			memset(inner, rows[i].type ? 'x' : 0, rows[i].type_at);
			inner[rows[i].type_at] = rows[i].type;
			n = seal_inner(&wr, inner, rows[i].len, out);
			assert_int_equal(n, rows[i].len + 21);
			alert = 0;
			assert_int_equal(tls_record_open(&rd, out, n, &plain, &len, &type, &alert),
					 rows[i].want);
			assert_int_equal(alert, rows[i].want ? TLS_ALERT_UNEXPECTED_MESSAGE : 0);
			assert_int_equal(len, rows[i].content);
			if (rows[i].want == 0)
				assert_int_equal(type, rows[i].type);
		}
	}
}

/* A TLS 1.3 record of AES-128-GCM that tls_record_seal() would refuse to make. */
static size_t seal_by_hand(const struct tls_record_keys *k, const uint8_t *inner, size_t len,
			   uint8_t *rec)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	size_t n = len + 16;
	int part;

	memcpy(rec, "\x17\x03\x03", 3);
	rec[3] = (uint8_t)(n >> 8);
	rec[4] = (uint8_t)n;
	assert_true(EVP_EncryptInit_ex(ctx, EVP_aes_128_gcm(), NULL, k->key, k->iv) > 0 &&
		    EVP_EncryptUpdate(ctx, NULL, &part, rec, 5) > 0 &&
		    EVP_EncryptUpdate(ctx, rec + 5, &part, inner, (int)len) > 0 &&
		    EVP_EncryptFinal_ex(ctx, rec + 5 + len, &part) > 0 &&
		    EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, rec + 5 + len) > 0);
	EVP_CIPHER_CTX_free(ctx);
	return n + 5;
}

static void test_inner_limits(void **state)
{
	static const struct {
		size_t len;
		int want;
		uint8_t alert;
	} rows[] = {
		{0, -1, TLS_ALERT_UNEXPECTED_MESSAGE}, /* not even a type */
		{TLS_RECORD_MAX_PLAIN + 1, 0, 0},
		{TLS_RECORD_MAX_PLAIN + 2, -1, TLS_ALERT_RECORD_OVERFLOW},
	};
	static uint8_t inner[TLS_RECORD_MAX_PLAIN + 2], rec[RECORD_ROOM];
	struct tls_record_keys k;
	uint8_t *plain, type, alert;
	size_t n, len;

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		make_keys(&k, 0x0304, TLS_AEAD_AES_128_GCM);
		memset(inner, 23, sizeof(inner));
		n = seal_by_hand(&k, inner, rows[i].len, rec);
		alert = 0;
		assert_int_equal(tls_record_open(&k, rec, n, &plain, &len, &type, &alert),
				 rows[i].want);
		assert_int_equal(alert, rows[i].alert);
	}
	assert_int_equal(tls_record_seal(&k, 23, inner, TLS_RECORD_MAX_PLAIN + 1, rec), 0);
	make_keys(&k, 0x0303, TLS_AEAD_CHACHA20_POLY1305);
	memset(rec, 0, sizeof(rec));
	memcpy(rec, "\x17\x03\x03\x40\x11", 5); /* 16385 and a tag */
	assert_int_equal(tls_record_open(&k, rec, 5 + 0x4011, &plain, &len, &type, &alert), -1);
	assert_int_equal(alert, TLS_ALERT_RECORD_OVERFLOW);
}

static void test_sequence_end(void **state)
{
	uint8_t out[64], *plain, type, alert = 0;
	struct tls_record_keys wr, rd;
	size_t n, len;

	(void)state;
	for (uint16_t version = 0x0303; version <= 0x0304; version++) {
		make_keys(&wr, version, TLS_AEAD_AES_128_GCM);
		wr.seq = UINT64_MAX - 1;
		rd = wr;
		n = tls_record_seal(&wr, 23, out, 0, out + 8);
		assert_true(n != 0);
		assert_int_equal(wr.seq, UINT64_MAX);
		assert_int_equal(tls_record_seal(&wr, 23, out, 0, out + 40), 0);
		assert_int_equal(wr.seq, UINT64_MAX);
		assert_int_equal(tls_record_open(&rd, out + 8, n, &plain, &len, &type, &alert), 0);
		assert_int_equal(tls_record_open(&rd, out + 8, n, &plain, &len, &type, &alert), -1);
		assert_int_equal(alert, TLS_ALERT_INTERNAL_ERROR);
	}
}

static void test_unknown_keys(void **state)
{
	uint8_t out[64] = {23, 3, 3, 0, 40}, *plain, type, alert = 0;
	struct tls_record_keys k;
	size_t len;

	(void)state;
	make_keys(&k, 0x0304, TLS_AEAD_AES_128_GCM);
	k.aead = 4;
	assert_int_equal(tls_record_seal(&k, 23, out, 1, out + 8), 0);
	assert_int_equal(tls_record_open(&k, out, 45, &plain, &len, &type, &alert), -1);
	assert_int_equal(alert, TLS_ALERT_INTERNAL_ERROR);
	make_keys(&k, 0x0304, TLS_AEAD_AES_128_GCM);
	k.version = 0x0302;
	assert_int_equal(tls_record_seal(&k, 23, out, 1, out + 8), 0);
}

/* Keys that cannot be derived are no keys, and a failed update leaves the old ones. */
static void test_derive_fails(void **state)
{
	static const uint8_t zero[sizeof(struct tls_record_keys)];
	struct tls_record_keys k, k2, before;
	uint8_t bytes[64] = {1};

	(void)state;
	for (int call = 1; call <= 2; call++) {
		memset(&k, 0xaa, sizeof(k));
		call_fails = call;
		assert_int_equal(
			tls_record_keys_1_3(&k, TLS_AEAD_AES_128_GCM, TLS_PRF_SHA256, bytes, 32),
			-1);
		assert_int_equal(call_fails, 0);
		assert_memory_equal(&k, zero, sizeof(k));
	}
	for (int call = 1; call <= 3; call++) {
		make_keys(&k, 0x0304, TLS_AEAD_AES_128_GCM);
		before = k;
		call_fails = call;
		assert_int_equal(tls_record_keys_update(&k), -1);
		assert_int_equal(call_fails, 0);
		assert_memory_equal(&k, &before, sizeof(k));
	}
	memset(&k, 0xaa, sizeof(k));
	memset(&k2, 0xaa, sizeof(k2));
	call_fails = 1;
	assert_int_equal(tls_record_keys_1_2(&k, &k2, TLS_AEAD_AES_128_GCM, TLS_PRF_SHA256, bytes,
					     bytes, bytes),
			 -1);
	assert_int_equal(call_fails, 0);
	assert_memory_equal(&k, zero, sizeof(k));
	assert_memory_equal(&k2, zero, sizeof(k2));
	assert_int_equal(ERR_peek_error(), 0);
}

/* No two seals share key and nonce, failed ones included. */
static void nonces(uint16_t version, uint8_t aead)
{
	static uint8_t in[100], out[2][200];
	struct tls_record_keys k;

	make_keys(&k, version, aead);
	memset(k.iv + 4, 0xff, 8); /* the explicit part has to wrap around */
	aead_forget_notes();
	aead_watched = true;
	for (size_t i = 0; i < NONCE_RECORD; i++) {
		uint64_t seq = k.seq;

		aead_fails = i % 7 == 3;
		assert_true((tls_record_seal(&k, (uint8_t)(21 + i % 3), in, i % 90, out[0]) == 0) ==
			    aead_fails);
		assert_true(k.seq == seq + 1 || k.seq == 0);
		aead_fails = false;
		assert_int_equal(ERR_peek_error(), 0);
		if (version == 0x0304 && i % 50 == 49)
			assert_int_equal(tls_record_keys_update(&k), 0);
	}
	aead_watched = false;
	assert_int_equal(aead_noted(), NONCE_RECORD);
	assert_nonces_differ();
}

static void test_nonces(void **state)
{
	(void)state;
	for (uint16_t version = 0x0303; version <= 0x0304; version++)
		for (size_t i = 0; i < COUNT(suites); i++)
			nonces(version, suites[i]);
}

/* TLS 1.2 GCM: the nonce on the wire counts from the one of record 0. */
static void test_explicit_nonce(void **state)
{
	struct tls_record_keys k;
	uint8_t out[64];

	(void)state;
	make_keys(&k, 0x0303, TLS_AEAD_AES_256_GCM);
	unhex("fffffffffffffffe", k.iv + 4);
	k.seq = 1;
	assert_true(tls_record_seal(&k, 23, out, 0, out + 16) != 0);
	assert_hex(out + 16 + 5, 8, "ffffffffffffffff");
	assert_true(tls_record_seal(&k, 23, out, 0, out + 16) != 0);
	assert_hex(out + 16 + 5, 8, "0000000000000000");
}

static void *thread_run(void *arg)
{
	for (size_t i = 0; i < COUNT(suites); i++)
		round_trip(0x0304, suites[i], 100);
	tls_record_thread_end();
	tls_record_thread_end();
	round_trip(0x0304, TLS_AEAD_AES_128_GCM, 100);
	tls_record_thread_end();
	return arg;
}

static void test_thread(void **state)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, thread_run, state), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
}

static int group_end(void **state)
{
	(void)state;
	tls_record_thread_end();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rfc8448_keys), cmocka_unit_test(test_rfc8448_records),
		cmocka_unit_test(test_key_update),   cmocka_unit_test(test_tls12_records),
		cmocka_unit_test(test_bad_keys),     cmocka_unit_test(test_round_trips),
		cmocka_unit_test(test_damage),       cmocka_unit_test(test_peek),
		cmocka_unit_test(test_peek_clear),   cmocka_unit_test(test_put),
		cmocka_unit_test(test_padding),      cmocka_unit_test(test_inner_limits),
		cmocka_unit_test(test_sequence_end), cmocka_unit_test(test_unknown_keys),
		cmocka_unit_test(test_nonces),       cmocka_unit_test(test_explicit_nonce),
		cmocka_unit_test(test_thread),       cmocka_unit_test(test_derive_fails),
	};

	return cmocka_run_group_tests(tests, NULL, group_end);
}
