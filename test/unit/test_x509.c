/* SPDX-License-Identifier: ISC */
/*
 * Units of what a certificate says: certificates made of single bytes, signed by nobody, in tables
 * of a name, a subjectAltName, a serial or a time and the text that must come out; NULL: none may.
 * test/scenario/test_attributes.py brings others through whole handshakes.
 */
#include "tls_x509.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/err.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define MAX_DER  (160 * 1024)

/* ---- DER ---- */

struct der {
	uint8_t *data;
	size_t len;
};

/* One TLV around what the parts hold, whose memory it frees. */
static struct der tlv(int tag, size_t count, const struct der *parts)
{
	struct der out = {test_malloc(MAX_DER), 0};
	size_t len = 0;

	for (size_t i = 0; i < count; i++)
		len += parts[i].len;
	assert_true(len + 8 < MAX_DER);
	out.data[out.len++] = (uint8_t)tag;
	if (len < 128) {
		out.data[out.len++] = (uint8_t)len;
	} else {
		out.data[out.len++] = 0x83;
		out.data[out.len++] = (uint8_t)(len >> 16);
		out.data[out.len++] = (uint8_t)(len >> 8);
		out.data[out.len++] = (uint8_t)len;
		while (out.data[2] == 0) { /* DER: the shortest form */
			out.data[1]--;
			memmove(out.data + 2, out.data + 3, --out.len - 2);
		}
		if (out.data[1] == 0x81 && out.data[2] < 128)
			out.data[1] = out.data[2];
	}
	for (size_t i = 0; i < count; i++) {
		memcpy(out.data + out.len, parts[i].data, parts[i].len);
		out.len += parts[i].len;
		test_free(parts[i].data);
	}
	return out;
}

static struct der raw(const void *data, size_t len)
{
	struct der out = {test_malloc(len + 1), len};

	memcpy(out.data, data, len);
	return out;
}

#define BYTES(text)   raw("" text, sizeof(text) - 1)
#define SEQ(tag, ...) tlv(tag, COUNT(((struct der[]){__VA_ARGS__})), (struct der[]){__VA_ARGS__})

static struct der prim(int tag, const void *data, size_t len)
{
	struct der part = raw(data, len);

	return tlv(tag, 1, &part);
}

/* What a certificate is made of; what is not given is harmless. */
struct made {
	int cn_type; /* 0: no subject */
	const char *cn;
	size_t cn_len;
	const char *sans; /* whole content of the extension's OCTET STRING */
	size_t sans_len;
	int san_extensions;
	const char *serial;
	size_t serial_len;
	int time_type;
	const char *not_after;
};

static struct der key_info(void)
{
	/* An RSA key of a few bits: nothing looks at it. */
	static const char spki[] = "\x30\x1a\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"
				   "\x05\x00\x03\x09\x00\x30"
				   "\x06\x02\x01\x7f\x02\x01\x03";

	return raw(spki, sizeof(spki) - 1);
}

static struct der subject_of(const struct made *m)
{
	if (!m->cn_type)
		return tlv(0x30, 0, NULL);
	return SEQ(0x30, SEQ(0x31, SEQ(0x30, BYTES("\x06\x03\x55\x04\x03"),
				       prim(m->cn_type, m->cn, m->cn_len))));
}

static struct der san_extension(const struct made *m)
{
	return SEQ(0x30, BYTES("\x06\x03\x55\x1d\x11"), prim(4, m->sans, m->sans_len));
}

static struct der extensions_of(const struct made *m)
{
	if (m->san_extensions == 0)
		return BYTES("");
	if (m->san_extensions == 1)
		return SEQ(0xa3, SEQ(0x30, san_extension(m)));
	return SEQ(0xa3, SEQ(0x30, san_extension(m), san_extension(m)));
}

static struct der algorithm(void)
{
	return BYTES("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00");
}

static struct der make(const struct made *m)
{
	const char *end = m->not_after ? m->not_after : "480101000000Z";

	return SEQ(0x30,
		   SEQ(0x30, BYTES("\xa0\x03\x02\x01\x02"),
		       prim(2, m->serial ? m->serial : "\x05", m->serial ? m->serial_len : 1),
		       algorithm(), BYTES("\x30\x00"),
		       SEQ(0x30,
			   BYTES("\x17\x0d"
				 "200102030405Z"),
			   prim(m->time_type ? m->time_type : V_ASN1_UTCTIME, end, strlen(end))),
		       subject_of(m), key_info(), extensions_of(m)),
		   algorithm(), BYTES("\x03\x02\x00\x01"));
}

/* Opens what was made. False if OpenSSL refuses it, as it does before a handshake ends. */
static bool open_made(struct tls_x509 *x, const struct made *m)
{
	struct der der = make(m);
	bool opened = tls_x509_open(x, der.data, der.len) == 0;

	test_free(der.data);
	assert_int_equal(ERR_peek_error(), 0);
	return opened;
}

static void expect(const char *what, char *got, const char *want)
{
	if (!got != !want || (got && strcmp(got, want) != 0))
		fail_msg("%s: '%s' instead of '%s'", what, got ? got : "NULL",
			 want ? want : "NULL");
	free(got);
	assert_int_equal(ERR_peek_error(), 0);
}

/* ---- names ---- */

struct name_case {
	const char *what;
	int type;
	const char *bytes;
	size_t len;
	const char *cn, *line;
};

#define TEXT(what, type, bytes, cn, line)                                                          \
	{                                                                                          \
		what, type, bytes, sizeof(bytes) - 1, cn, line                                     \
	}

static const struct name_case names[] = {
	TEXT("utf8", V_ASN1_UTF8STRING, "Z\xc3\xbcrich", "Z\xc3\xbcrich", "/CN=Z\\xC3\\xBCrich"),
	TEXT("utf8 nul", V_ASN1_UTF8STRING, "a\0b", NULL, NULL),
	TEXT("utf8 nul at the end", V_ASN1_UTF8STRING, "a\0", NULL, NULL),
	TEXT("utf8 overlong nul", V_ASN1_UTF8STRING, "a\xc0\x80", NULL, NULL),
	TEXT("utf8 overlong slash", V_ASN1_UTF8STRING, "\xe0\x80\xaf", NULL, NULL),
	TEXT("utf8 surrogate", V_ASN1_UTF8STRING, "\xed\xa0\x80", NULL, NULL),
	TEXT("utf8 too high", V_ASN1_UTF8STRING, "\xf4\x90\x80\x80", NULL, NULL),
	TEXT("utf8 highest", V_ASN1_UTF8STRING, "\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf",
	     "/CN=\\xF4\\x8F\\xBF\\xBF"),
	TEXT("utf8 cut", V_ASN1_UTF8STRING, "a\xe2\x82", NULL, NULL),
	TEXT("utf8 tail only", V_ASN1_UTF8STRING, "\x82", NULL, NULL),
	TEXT("utf8 five bytes", V_ASN1_UTF8STRING, "\xf8\x88\x80\x80\x80", NULL, NULL),
	TEXT("bmp", V_ASN1_BMPSTRING, "\x00Z\x00\xfc\x65\xe5", "Z\xc3\xbc\xe6\x97\xa5",
	     "/CN=Z\\xC3\\xBC\\xE6\\x97\\xA5"),
	TEXT("bmp nul", V_ASN1_BMPSTRING, "\0a\0\0\0b", NULL, NULL),
	TEXT("bmp odd", V_ASN1_BMPSTRING, "\0a\0", NULL, NULL),
	TEXT("bmp surrogates", V_ASN1_BMPSTRING, "\xd8\x3d\xde\x00", NULL, NULL),
	TEXT("universal", V_ASN1_UNIVERSALSTRING, "\0\1\xf6\0", "\xf0\x9f\x98\x80",
	     "/CN=\\xF0\\x9F\\x98\\x80"),
	TEXT("universal too high", V_ASN1_UNIVERSALSTRING, "\0\x11\0\0", NULL, NULL),
	TEXT("universal cut", V_ASN1_UNIVERSALSTRING, "\0\0\0", NULL, NULL),
	TEXT("printable", V_ASN1_PRINTABLESTRING, "plain", "plain", "/CN=plain"),
	TEXT("printable high", V_ASN1_PRINTABLESTRING, "Z\xfcrich", NULL, NULL),
	TEXT("teletex", V_ASN1_T61STRING, "plain", "plain", "/CN=plain"),
	TEXT("teletex high", V_ASN1_T61STRING, "Z\xfcrich", NULL, NULL),
	TEXT("ia5", V_ASN1_IA5STRING, "a@b", "a@b", "/CN=a@b"),
	TEXT("del", V_ASN1_IA5STRING, "a\x7f", NULL, NULL),
	TEXT("line feed", V_ASN1_UTF8STRING, "a\nb", NULL, NULL),
	TEXT("c1", V_ASN1_UTF8STRING, "a\xc2\x85", NULL, NULL),
	TEXT("no-break space", V_ASN1_UTF8STRING, "a\xc2\xa0", "a\xc2\xa0", "/CN=a\\xC2\\xA0"),
	TEXT("empty", V_ASN1_UTF8STRING, "", "", "/CN="),
	TEXT("octets", V_ASN1_OCTET_STRING, "plain", NULL, NULL),
	TEXT("bits", V_ASN1_BIT_STRING, "\0plain", NULL, NULL),
	TEXT("slash, backslash", V_ASN1_UTF8STRING, "a/O=b\\x", "a/O=b\\x", "/CN=a\\x2FO=b\\x5Cx"),
};

static void test_names(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(names); i++) {
		const struct name_case *n = &names[i];
		struct made m = {.cn_type = n->type, .cn = n->bytes, .cn_len = n->len};
		struct tls_x509 x;

		if (!open_made(&x, &m)) {
			assert_null(n->cn);
			continue;
		}
		expect(n->what, tls_x509_name(&x, false, NID_commonName), n->cn);
		expect(n->what, tls_x509_name_line(&x, false), n->line);
		expect(n->what, tls_x509_name(&x, true, NID_commonName), NULL);
		expect(n->what, tls_x509_name(&x, false, NID_countryName), NULL);
		expect(n->what, tls_x509_name_line(&x, true), "");
		tls_x509_close(&x);
		tls_x509_close(&x);
	}
}

/* ---- subjectAltName ---- */

struct san_case {
	const char *what;
	const char *bytes; /* of the extension */
	size_t len;
	int extensions;
	int type, index;
	int count; /* of that type */
	const char *text;
};

#define SAN(what, bytes, type, index, count, text)                                                 \
	{                                                                                          \
		what, bytes, sizeof(bytes) - 1, 1, type, index, count, text                        \
	}

static const struct san_case sans[] = {
	SAN("dns",
	    "\x30\x05\x82\x03"
	    "a.b",
	    GEN_DNS, 0, 1, "a.b"),
	SAN("another type",
	    "\x30\x05\x82\x03"
	    "a.b",
	    GEN_URI, 0, 0, NULL),
	SAN("beyond",
	    "\x30\x05\x82\x03"
	    "a.b",
	    GEN_DNS, 1, 1, NULL),
	SAN("last",
	    "\x30\x0a\x82\x03"
	    "a.b\x82\x03"
	    "c.d",
	    GEN_DNS, -1, 2, "c.d"),
	SAN("first from the end",
	    "\x30\x0a\x82\x03"
	    "a.b\x82\x03"
	    "c.d",
	    GEN_DNS, -2, 2, "a.b"),
	SAN("before the first",
	    "\x30\x0a\x82\x03"
	    "a.b\x82\x03"
	    "c.d",
	    GEN_DNS, -3, 2, NULL),
	SAN("lowest index",
	    "\x30\x05\x82\x03"
	    "a.b",
	    GEN_DNS, INT32_MIN, 1, NULL),
	SAN("highest index",
	    "\x30\x05\x82\x03"
	    "a.b",
	    GEN_DNS, INT32_MAX, 1, NULL),
	SAN("dns nul",
	    "\x30\x05\x82\x03"
	    "a\0b",
	    GEN_DNS, 0, 1, NULL),
	SAN("dns high", "\x30\x04\x82\x02\xc3\xbc", GEN_DNS, 0, 1, NULL),
	SAN("dns empty", "\x30\x02\x82\x00", GEN_DNS, 0, 1, ""),
	SAN("email nul",
	    "\x30\x05\x81\x03"
	    "a@\0",
	    GEN_EMAIL, 0, 1, NULL),
	SAN("uri line feed",
	    "\x30\x05\x86\x03"
	    "a\nb",
	    GEN_URI, 0, 1, NULL),
	SAN("ipv4", "\x30\x06\x87\x04\x7f\0\0\1", GEN_IPADD, 0, 1, "127.0.0.1"),
	SAN("ipv6", "\x30\x12\x87\x10\x20\1\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1", GEN_IPADD, 0, 1,
	    "2001:db8:0:0:0:0:0:1"),
	SAN("ip of 8", "\x30\x0a\x87\x08\x7f\0\0\1\xff\xff\xff\xff", GEN_IPADD, 0, 1, NULL),
	SAN("ip empty", "\x30\x02\x87\x00", GEN_IPADD, 0, 1, NULL),
	SAN("other name", "\x30\x0b\xa0\x09\x06\x03\x2a\x03\x04\xa0\x02\x0c\x00", GEN_DNS, 0, 0,
	    NULL),
	SAN("directory name", "\x30\x04\xa4\x02\x30\x00", GEN_DNS, 0, 0, NULL),
	SAN("none in it", "\x30\x00", GEN_DNS, 0, 0, NULL),
	SAN("malformed",
	    "\x30\x05\x82\x09"
	    "abc",
	    GEN_DNS, 0, -1, NULL),
	SAN("no sequence", "\x04\x00", GEN_DNS, 0, -1, NULL),
	SAN("nothing", "", GEN_DNS, 0, -1, NULL),
	{"twice",
	 "\x30\x05\x82\x03"
	 "a.b",
	 7, 2, GEN_DNS, 0, -1, NULL},
	{"no extension", "", 0, 0, GEN_DNS, 0, 0, NULL},
};

static void test_sans(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(sans); i++) {
		const struct san_case *s = &sans[i];
		struct made m = {
			.sans = s->bytes, .sans_len = s->len, .san_extensions = s->extensions};
		struct tls_x509 x;

		assert_true(open_made(&x, &m));
		assert_int_equal(tls_x509_san_count(&x, s->type), s->count);
		expect(s->what, tls_x509_san(&x, s->type, s->index), s->text);
		tls_x509_close(&x);
	}
}

/* ---- numbers and times ---- */

struct serial_case {
	const char *bytes;
	size_t len;
	const char *text;
};

#define SERIAL(bytes, text)                                                                        \
	{                                                                                          \
		bytes, sizeof(bytes) - 1, text                                                     \
	}

static const struct serial_case serials[] = {
	SERIAL("\0", "0"),
	SERIAL("\x7f", "127"),
	SERIAL("\xff", "-1"),
	SERIAL("\x80", "-128"),
	SERIAL("\xff\x7f", "-129"),
	SERIAL("\0\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615"),
	SERIAL("\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
	       "-730750818665451459101842416358141509827966271488"),
	SERIAL("\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "340282366920938463463374607431768211456"),
};

static void test_serials(void **state)
{
	static char longest[TLS_X509_SERIAL + 1];
	struct tls_x509 x;

	(void)state;
	for (size_t i = 0; i < COUNT(serials); i++) {
		struct made m = {.serial = serials[i].bytes, .serial_len = serials[i].len};

		assert_true(open_made(&x, &m));
		expect("serial", tls_x509_serial(&x), serials[i].text);
		tls_x509_close(&x);
	}
	memset(longest, 0x7f, sizeof(longest));
	for (size_t len = TLS_X509_SERIAL; len <= sizeof(longest); len++) {
		struct made m = {.serial = longest, .serial_len = len};
		char *text;

		assert_true(open_made(&x, &m));
		text = tls_x509_serial(&x);
		assert_int_equal(text != NULL, len == TLS_X509_SERIAL);
		free(text);
		tls_x509_close(&x);
	}
}

struct time_case {
	int type;
	const char *bytes, *text;
};

static const struct time_case times[] = {
	{V_ASN1_UTCTIME, "480101000000Z", "Jan  1 00:00:00 2048 GMT"},
	{V_ASN1_UTCTIME, "500101000000Z", "Jan  1 00:00:00 1950 GMT"},
	{V_ASN1_UTCTIME, "491231235959Z", "Dec 31 23:59:59 2049 GMT"},
	{V_ASN1_GENERALIZEDTIME, "20500228235959Z", "Feb 28 23:59:59 2050 GMT"},
	{V_ASN1_GENERALIZEDTIME, "99991231235959Z", "Dec 31 23:59:59 9999 GMT"},
	{V_ASN1_GENERALIZEDTIME, "20500229000000Z", NULL},
	{V_ASN1_GENERALIZEDTIME, "20500228235959.9Z", NULL},
	{V_ASN1_GENERALIZEDTIME, "20500228235959", NULL},
	{V_ASN1_GENERALIZEDTIME, "2050022823595Z", NULL},
	{V_ASN1_UTCTIME, "4801010000Z", NULL},
	{V_ASN1_UTCTIME, "480101000000+0100", NULL},
	{V_ASN1_UTCTIME, "481301000000Z", NULL},
	{V_ASN1_UTCTIME, "48010100000\x30", NULL},
	{V_ASN1_UTCTIME, "", NULL},
	{V_ASN1_GENERALIZEDTIME, "not a time at Z", NULL},
};

static void test_times(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(times); i++) {
		struct made m = {.time_type = times[i].type, .not_after = times[i].bytes};
		struct tls_x509 x;

		if (!open_made(&x, &m)) {
			assert_null(times[i].text);
			continue;
		}
		expect(times[i].bytes, tls_x509_not_after(&x), times[i].text);
		expect("not before", tls_x509_not_before(&x), "Jan  2 03:04:05 2020 GMT");
		if (times[i].text)
			assert_int_equal(tls_x509_expired(&x),
					 strstr(times[i].text, "1950") != NULL);
		tls_x509_close(&x);
	}
}

/* ---- the whole ---- */

static void test_pem(void **state)
{
	static char filler[60000];
	struct made m = {.cn_type = V_ASN1_UTF8STRING, .cn = filler, .cn_len = sizeof(filler)};
	struct der der;
	struct tls_x509 x;
	char *pem, *encoded, *name;

	(void)state;
	memset(filler, 'x', sizeof(filler));
	der = make(&m);
	assert_int_equal(tls_x509_open(&x, der.data, der.len), 0);
	test_free(der.data);
	pem = tls_x509_pem(&x);
	encoded = tls_x509_urlencoded(&x);
	name = tls_x509_name(&x, false, NID_commonName);
	assert_true(strlen(pem) > der.len * 4 / 3);
	assert_true(strlen(encoded) > strlen(pem));
	assert_null(strpbrk(encoded, " +/=\n"));
	assert_memory_equal(encoded, "-----BEGIN%20CERTIFICATE-----%0a", 32);
	assert_int_equal(strlen(name), sizeof(filler));
	free(pem);
	free(encoded);
	free(name);
	expect("version", tls_x509_version(&x), "2");
	assert_false(tls_x509_self_signed(&x));
	tls_x509_close(&x);
}

/* Not one byte more or less; and every byte changed once gives a value or none, nothing worse. */
static void test_broken(void **state)
{
	struct made m = {.cn_type = V_ASN1_UTF8STRING,
			 .cn = "name",
			 .cn_len = 4,
			 .sans = "\x30\x0b\x82\x03"
				 "a.b\x87\x04\x7f\0\0\1",
			 .sans_len = 13,
			 .san_extensions = 1};
	struct der der = make(&m);
	struct tls_x509 x;

	(void)state;
	for (size_t len = 0; len < der.len; len++)
		assert_int_equal(tls_x509_open(&x, der.data, len), -1);
	assert_int_equal(tls_x509_open(&x, der.data, der.len + 1), -1);
	for (size_t i = 0; i < der.len; i++) {
		der.data[i] ^= 0x81;
		if (tls_x509_open(&x, der.data, der.len) == 0) {
			free(tls_x509_name(&x, false, NID_commonName));
			free(tls_x509_name_line(&x, false));
			free(tls_x509_san(&x, GEN_DNS, 0));
			free(tls_x509_san(&x, GEN_IPADD, 0));
			free(tls_x509_serial(&x));
			free(tls_x509_not_before(&x));
			free(tls_x509_not_after(&x));
			free(tls_x509_version(&x));
			free(tls_x509_urlencoded(&x));
			(void)tls_x509_self_signed(&x);
			(void)tls_x509_expired(&x);
			tls_x509_close(&x);
		}
		assert_int_equal(ERR_peek_error(), 0);
		der.data[i] ^= 0x81;
	}
	test_free(der.data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),   cmocka_unit_test(test_sans),
		cmocka_unit_test(test_serials), cmocka_unit_test(test_times),
		cmocka_unit_test(test_pem),     cmocka_unit_test(test_broken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
