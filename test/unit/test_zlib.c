/* SPDX-License-Identifier: ISC */
/*
 * Units of the compression method, through OpenSSL's own COMP functions.
 *
 *   gcc -I../.. test_zlib.c -lcmocka -lssl -lcrypto -lz
 */
#include "fixed_c_zlib.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define RECORD   16384 /* clear text of one record */
#define OVERHEAD 1024  /* RFC 5246 section 6.2.2 */

static unsigned char clear[4 * RECORD], packed[4 * RECORD], back[RECORD];

static COMP_CTX *new_ctx(void)
{
	COMP_CTX *ctx = COMP_CTX_new((COMP_METHOD *)&method);

	assert_non_null(ctx);
	return ctx;
}

static unsigned next_random(void)
{
	static uint32_t x = 1;

	x = x * 1664525 + 1013904223;
	return x >> 8;
}

/* Like SIP, or with all bytes alike, or like ciphertext. */
static void fill(int kind, size_t len)
{
	static const char line[] = "Via: SIP/2.0/TLS 192.0.2.1:5061;branch=z9hG4bK";

	for (size_t i = 0; i < len; i++)
		clear[i] = kind == 0   ? (unsigned char)line[(i + i / 400) % (sizeof(line) - 1)]
			   : kind == 1 ? 0
				       : (unsigned char)next_random();
}

static int pack(COMP_CTX *to, size_t len)
{
	return COMP_compress_block(to, packed, (int)len + OVERHEAD, clear, (int)len);
}

static int expand(COMP_CTX *from, int len)
{
	return COMP_expand_block(from, back, RECORD, packed, len);
}

static void test_there_and_back(void **state)
{
	static const size_t sizes[] = {0, 0,    1,    2,    16,     500, 0,     0,
				       1, 1460, 4096, 5000, RECORD, 3,   RECORD};

	(void)state;
	for (int kind = 0; kind < 3; kind++) {
		struct fixed_c_zlib_meter m = {0};
		COMP_CTX *to = new_ctx(), *from = new_ctx();
		uint64_t sent = 0, wire = 0;

		fixed_c_zlib_count(&m);
		for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
			int size;

			fill(kind, sizes[i]);
			size = pack(to, sizes[i]);
			assert_in_range(size, 1, sizes[i] + OVERHEAD);
			assert_int_equal(expand(from, size), sizes[i]);
			assert_memory_equal(back, clear, sizes[i]);
			sent += sizes[i];
			wire += (uint64_t)size;
		}
		assert_int_equal(m.clear, 2 * sent);
		assert_int_equal(m.packed, 2 * wire);
		assert_null(m.trouble);
		if (kind < 2)
			assert_true(wire * 10 < sent);
		assert_in_range(state_of(to)->used, 1, 48 * 1024);
		assert_in_range(state_of(from)->used, 1, 48 * 1024);
		COMP_CTX_free(to);
		COMP_CTX_free(from);
		fixed_c_zlib_count(NULL);
	}
}

/* Records of the largest window that the format has. */
static void test_large_window(void **state)
{
	z_stream z = {0};
	COMP_CTX *from = new_ctx();

	(void)state;
	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15, 9, Z_DEFAULT_STRATEGY), Z_OK);
	for (int i = 0; i < 20; i++) {
		fill(2, RECORD);
		z.next_in = clear;
		z.avail_in = RECORD;
		z.next_out = packed;
		z.avail_out = sizeof(packed);
		assert_int_equal(deflate(&z, Z_SYNC_FLUSH), Z_OK);
		assert_int_equal(expand(from, (int)(sizeof(packed) - z.avail_out)), RECORD);
		assert_memory_equal(back, clear, RECORD);
	}
	assert_in_range(state_of(from)->used, 32 * 1024, FIXED_C_ZLIB_EXPAND);
	deflateEnd(&z);
	COMP_CTX_free(from);
}

static int deflate_all(size_t len, int flush)
{
	z_stream z = {0};
	int size;

	assert_int_equal(deflateInit(&z, 9), Z_OK);
	z.next_in = clear;
	z.avail_in = (uInt)len;
	z.next_out = packed;
	z.avail_out = sizeof(packed);
	assert_int_equal(deflate(&z, flush), flush == Z_FINISH ? Z_STREAM_END : Z_OK);
	size = (int)(sizeof(packed) - z.avail_out);
	deflateEnd(&z);
	return size;
}

static void expect_refused(COMP_CTX *from, int size, const char *trouble)
{
	struct fixed_c_zlib_meter m = {0};

	fixed_c_zlib_count(&m);
	assert_int_equal(expand(from, size), -1);
	assert_non_null(m.trouble);
	assert_non_null(strstr(m.trouble, trouble));
	/* What follows depends on it (RFC 3749 section 3), so nothing is taken any more. */
	m.trouble = NULL;
	size = deflate_all(1, Z_SYNC_FLUSH);
	assert_int_equal(expand(from, size), -1);
	fixed_c_zlib_count(NULL);
	assert_int_equal(expand(from, size), -1);
	COMP_CTX_free(from);
}

static void test_limit_of_a_record(void **state)
{
	static const size_t bombs[] = {RECORD + 1, RECORD + 2, 2 * RECORD, 4 * RECORD};

	(void)state;
	for (int kind = 0; kind < 3; kind += 1) {
		COMP_CTX *from = new_ctx();
		int size;

		fill(kind, 4 * RECORD);
		size = deflate_all(RECORD, Z_SYNC_FLUSH);
		assert_int_equal(expand(from, size), RECORD);
		assert_memory_equal(back, clear, RECORD);
		COMP_CTX_free(from);
	}
	for (size_t i = 0; i < sizeof(bombs) / sizeof(bombs[0]); i++) {
		fill((int)i % 2, bombs[i]);
		expect_refused(new_ctx(), deflate_all(bombs[i], Z_SYNC_FLUSH),
			       "beyond the limit of a record");
	}
}

static void test_growth_over_records(void **state)
{
	struct fixed_c_zlib_meter m = {0};
	z_stream z = {0};
	COMP_CTX *from = new_ctx();
	int result, records = 0;

	(void)state;
	fixed_c_zlib_count(&m);
	fill(1, RECORD);
	assert_int_equal(deflateInit(&z, 9), Z_OK);
	do {
		z.next_in = clear;
		z.avail_in = RECORD;
		z.next_out = packed;
		z.avail_out = sizeof(packed);
		assert_int_equal(deflate(&z, Z_SYNC_FLUSH), Z_OK);
		result = expand(from, (int)(sizeof(packed) - z.avail_out));
		assert_true(++records < 100);
	} while (result == RECORD);
	assert_int_equal(result, -1);
	assert_int_equal(records, RATIO_AFTER / RECORD + 1);
	assert_non_null(strstr(m.trouble, "without measure"));
	fixed_c_zlib_count(NULL);
	deflateEnd(&z);
	COMP_CTX_free(from);
}

static void test_corrupt(void **state)
{
	static const unsigned char dictionary[] = {0x78, 0xbb, 1, 2, 3, 4, 5};

	(void)state;
	fill(0, 600);
	memset(packed, 0xff, 20);
	expect_refused(new_ctx(), 20, "corrupt");
	memcpy(packed, dictionary, sizeof(dictionary));
	expect_refused(new_ctx(), sizeof(dictionary), "corrupt");
	expect_refused(new_ctx(), deflate_all(600, Z_FINISH), "corrupt");
}

/* Every bit turned, every length: no crash, and never more than there is room for. */
static void test_damage(void **state)
{
	static unsigned char kept[1024];
	int size;

	(void)state;
	fill(0, 600);
	size = deflate_all(600, Z_SYNC_FLUSH);
	assert_in_range(size, 20, sizeof(kept));
	memcpy(kept, packed, (size_t)size);
	for (int bit = 0; bit < 8 * size; bit++) {
		COMP_CTX *from = new_ctx();

		memcpy(packed, kept, (size_t)size);
		packed[bit / 8] ^= (unsigned char)(1 << bit % 8);
		assert_in_range(expand(from, size) + 1, 0, RECORD + 1);
		COMP_CTX_free(from);
	}
	for (int len = 1; len < size; len++) {
		COMP_CTX *from = new_ctx();
		int first, second;

		memcpy(packed, kept, (size_t)size);
		first = expand(from, len);
		assert_in_range(first, 0, 600);
		memmove(packed, kept + len, (size_t)(size - len));
		second = expand(from, size - len);
		assert_int_equal(first + second, 600);
		COMP_CTX_free(from);
	}
}

static void test_no_room(void **state)
{
	struct fixed_c_zlib_meter m = {0};
	COMP_CTX *to = new_ctx();

	(void)state;
	fixed_c_zlib_count(&m);
	fill(2, 1000);
	assert_int_equal(COMP_compress_block(to, packed, 900, clear, 1000), -1);
	assert_string_equal(m.trouble, "a record cannot be compressed");
	assert_int_equal(pack(to, 10), -1);
	fixed_c_zlib_count(NULL);
	COMP_CTX_free(to);
}

/* Each direction has a context of its own. */
static void test_one_direction(void **state)
{
	COMP_CTX *ctx = new_ctx();
	int size;

	(void)state;
	fill(0, 100);
	size = pack(ctx, 100);
	assert_true(size > 0);
	assert_int_equal(expand(ctx, size), -1);
	assert_int_equal(pack(ctx, 100), -1);
	COMP_CTX_free(ctx);
}

static void test_memory(void **state)
{
	struct state s = {.limit = 1000};
	void *a = memory_take(&s, 10, 60), *b = memory_take(&s, 1, 400);

	(void)state;
	assert_non_null(a);
	assert_non_null(b);
	assert_int_equal(s.used, 1000);
	assert_null(memory_take(&s, 1, 1));
	assert_null(memory_take(&s, ~0u, ~0u));
	memory_give(&s, a);
	assert_int_equal(s.used, 400);
	assert_null(memory_take(&s, 601, 1));
	memory_give(&s, b);
	assert_int_equal(s.used, 0);
}

/* What a connection of the context may do. */
static int may(SSL_CTX *ctx, int op, int bits)
{
	SSL *ssl = SSL_new(ctx);
	int nid = op == SSL_SECOP_VERSION ? TLS1_1_VERSION : 0;
	int result;

	assert_non_null(ssl);
	result = SSL_get_security_callback(ssl)(ssl, NULL, op, bits, nid, NULL, NULL);
	SSL_free(ssl);
	return result;
}

/* Compression is allowed and nothing else, at any level. */
static void test_security_level(void **state)
{
	static const int ops[] = {
		SSL_SECOP_TMP_DH,      SSL_SECOP_VERSION,         SSL_SECOP_TICKET,
		SSL_SECOP_EE_KEY,      SSL_SECOP_CA_KEY,          SSL_SECOP_CA_MD,
		SSL_SECOP_PEER_EE_KEY, SSL_SECOP_CURVE_SUPPORTED,
	};
	static const int bits[] = {0, 40, 63, 79, 80, 111, 112, 128, 192, 256};
	SSL_CTX *ours = SSL_CTX_new(TLS_method()), *plain = SSL_CTX_new(TLS_method());
	int refused = 0;

	(void)state;
	fixed_c_zlib_allow(ours);
	for (int level = 0; level <= 5; level++) {
		SSL_CTX_set_security_level(ours, level);
		SSL_CTX_set_security_level(plain, level);
		for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
			for (size_t k = 0; k < sizeof(bits) / sizeof(bits[0]); k++) {
				int want = may(plain, ops[i], bits[k]);

				assert_int_equal(may(ours, ops[i], bits[k]), want);
				refused += !want;
			}
		}
		assert_true(may(ours, SSL_SECOP_COMPRESSION, 0));
		assert_int_equal(may(plain, SSL_SECOP_COMPRESSION, 0), level < 2);
	}
	assert_true(refused > 20);
	SSL_CTX_free(ours);
	SSL_CTX_free(plain);
}

/* A library's own method makes room, and installing it again changes nothing. */
static void test_install(void **state)
{
	static const struct method theirs = {.type = NID_zlib_compression, .name = "theirs"};
	STACK_OF(SSL_COMP) *all = SSL_COMP_get_compression_methods();
	int before = sk_SSL_COMP_num(all);
	char why[FIXED_C_ZLIB_WHY] = "";

	(void)state;
	assert_null(add_method(&theirs));
	assert_ptr_equal(find_entry(METHOD_ID)->method, &theirs);
	assert_false(fixed_c_zlib_installed());
	for (int i = 0; i < 2; i++) {
		assert_int_equal(fixed_c_zlib_install(why), 0);
		assert_true(fixed_c_zlib_installed());
		assert_ptr_equal(find_entry(METHOD_ID)->method, &method);
		assert_string_equal(SSL_COMP_get0_name((SSL_COMP *)find_entry(METHOD_ID)),
				    "zlib compression");
		assert_null(find_entry(PRIVATE_ID));
		assert_in_range(sk_SSL_COMP_num(all), before > 0 ? before : 1, before + 1);
	}
	assert_string_equal(why, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there_and_back),
		cmocka_unit_test(test_large_window),
		cmocka_unit_test(test_limit_of_a_record),
		cmocka_unit_test(test_growth_over_records),
		cmocka_unit_test(test_corrupt),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_no_room),
		cmocka_unit_test(test_one_direction),
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_install),
		cmocka_unit_test(test_security_level),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
