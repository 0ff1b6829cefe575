/* SPDX-License-Identifier: ISC */
/*
 * Units of the name check: certificates that are made and signed in memory, in
 * tables of what they hold, the name that is asked for and the answer.
 *
 *   gcc -I../.. test_identity.c ../../tls_identity.c ../../tls_workaround.c ../../tls_report.c
 * -lcmocka -lcrypto
 */
#include "tls_identity.h"
#include "tls_workaround.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define SIP  TLS_IDENTITY_SIP
#define HOST TLS_IDENTITY_HOST
#define OFF  TLS_IDENTITY_OFF

#define L10 "abcdefghij"
#define L60 L10 L10 L10 L10 L10 L10
#define L63 L60 "abc"
/* 4 labels of 63, 63, 63 and 61 bytes: 253, and with one more 254. */
#define D253 L63 "." L63 "." L63 "." L60 "k"
#define D254 D253 "k"

static EVP_PKEY *key;

/* What a certificate holds. sans: words such as U:sip:example.com, D:example.com, I:7f000001 (hex),
 * E:mail, X:otherName, M:SmtpUTF8Mailbox, with %00 for any byte; NULL: no subjectAltName;
 * "malformed" and "twice" are what they say. cn: common names in the order of the certificate, "+"
 * puts one into the RDN of the one before, "/" does not; NULL: none. */
struct holds {
	const char *sans;
	const char *cn;
};

static size_t unescape(const char *from, size_t len, char *to)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		unsigned byte;

		if (from[i] == '%') {
			assert_int_equal(sscanf(from + i + 1, "%2x", &byte), 1);
			to[n++] = (char)byte;
			i += 2;
		} else {
			to[n++] = from[i];
		}
	}
	return n;
}

static void add_san(GENERAL_NAMES *sans, char kind, const char *data, size_t len)
{
	int type = kind == 'U'   ? GEN_URI
		   : kind == 'D' ? GEN_DNS
		   : kind == 'I' ? GEN_IPADD
				 : GEN_EMAIL;
	GENERAL_NAME *san = GENERAL_NAME_new();
	ASN1_STRING *value;

	if (kind == 'X' || kind == 'M') {
		ASN1_TYPE *any = ASN1_TYPE_new();

		value = ASN1_STRING_type_new(V_ASN1_UTF8STRING);
		assert_true(ASN1_STRING_set(value, data, (int)len));
		ASN1_TYPE_set(any, V_ASN1_UTF8STRING, value);
		assert_true(GENERAL_NAME_set0_othername(
			san, OBJ_txt2obj(kind == 'X' ? "1.2.3.4" : "1.3.6.1.5.5.7.8.9", 1), any));
	} else {
		value = ASN1_STRING_type_new(kind == 'I' ? V_ASN1_OCTET_STRING : V_ASN1_IA5STRING);
		assert_true(ASN1_STRING_set(value, data, (int)len));
		GENERAL_NAME_set0_value(san, type, value);
	}
	assert_true(sk_GENERAL_NAME_push(sans, san));
}

static void add_sans(X509 *cert, const char *words)
{
	GENERAL_NAMES *sans = sk_GENERAL_NAME_new_null();
	static char data[32768];

	assert_true(strlen(words) < sizeof(data));
	while (*words) {
		size_t word = strcspn(words, " ");
		size_t len = unescape(words + 2, word - 2, data);

		if (*words == 'I') {
			long bytes;
			unsigned char *raw;

			data[len] = '\0';
			raw = OPENSSL_hexstr2buf(data, &bytes);
			assert_non_null(raw);
			add_san(sans, 'I', (char *)raw, (size_t)bytes);
			OPENSSL_free(raw);
		} else {
			add_san(sans, *words, data, len);
		}
		words += word;
		words += strspn(words, " ");
	}
	assert_int_equal(X509_add1_ext_i2d(cert, NID_subject_alt_name, sans, 0, X509V3_ADD_APPEND),
			 1);
	GENERAL_NAMES_free(sans);
}

static void add_malformed(X509 *cert)
{
	static const unsigned char bytes[] = {0x30, 0x0d, 0x82, 0x20, 'e'};
	ASN1_OCTET_STRING *value = ASN1_OCTET_STRING_new();
	X509_EXTENSION *ext;

	assert_true(ASN1_OCTET_STRING_set(value, bytes, sizeof(bytes)));
	ext = X509_EXTENSION_create_by_NID(NULL, NID_subject_alt_name, 0, value);
	assert_true(X509_add_ext(cert, ext, -1));
	X509_EXTENSION_free(ext);
	ASN1_OCTET_STRING_free(value);
}

static void add_cns(X509_NAME *subject, const char *cn)
{
	bool same_rdn = false;
	char data[512];

	while (*cn) {
		size_t word = strcspn(cn, "/+");
		int len = (int)unescape(cn, word, data);

		assert_true(X509_NAME_add_entry_by_NID(subject, NID_commonName, V_ASN1_UTF8STRING,
						       (unsigned char *)data, len, -1,
						       same_rdn ? -1 : 0));
		same_rdn = cn[word] == '+';
		cn += word + (cn[word] != '\0');
	}
}

/* Through DER and back, as a peer's certificate comes. */
static X509 *cert_of(const struct holds *holds)
{
	X509 *cert = X509_new(), *read;
	X509_NAME *subject = X509_NAME_new();
	unsigned char *der = NULL;
	const unsigned char *p;
	int len;

	assert_true(X509_set_version(cert, 2));
	assert_true(ASN1_INTEGER_set(X509_get_serialNumber(cert), 1));
	assert_non_null(X509_gmtime_adj(X509_getm_notBefore(cert), 0));
	assert_non_null(X509_gmtime_adj(X509_getm_notAfter(cert), 3600));
	assert_true(X509_set_pubkey(cert, key));
	assert_true(X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_ASC,
					       (const unsigned char *)"Test", -1, -1, 0));
	if (holds->cn)
		add_cns(subject, holds->cn);
	assert_true(X509_set_subject_name(cert, subject));
	X509_NAME_free(subject);
	if (holds->sans && strcmp(holds->sans, "malformed") == 0) {
		add_malformed(cert);
	} else if (holds->sans && strcmp(holds->sans, "twice") == 0) {
		add_sans(cert, "D:example.com");
		add_sans(cert, "D:example.com");
	} else if (holds->sans) {
		add_sans(cert, holds->sans);
	}
	assert_true(X509_sign(cert, key, NULL));
	len = i2d_X509(cert, &der);
	assert_true(len > 0);
	p = der;
	read = d2i_X509(NULL, &p, len);
	assert_non_null(read);
	OPENSSL_free(der);
	X509_free(cert);
	return read;
}

struct match_row {
	struct holds holds;
	enum tls_identity_rule rule;
	const char *name;
	bool want;
};

static const struct match_row sip_rows[] = {
	/* sip URIs come first; dNSNames count only without one */
	{{"U:sip:example.com", NULL}, SIP, "example.com", true},
	{{"U:sip:example.com", NULL}, SIP, "EXAMPLE.com", true},
	{{"U:SIP:Example.COM", NULL}, SIP, "example.com", true},
	{{"U:sip:example.com D:a.example.com", NULL}, SIP, "a.example.com", false},
	{{"D:a.example.com U:sip:example.com", NULL}, SIP, "a.example.com", false},
	{{"D:a.example.com U:sip:example.com", NULL}, SIP, "example.com", true},
	{{"U:sip:a.com U:sip:b.com", NULL}, SIP, "b.com", true},
	{{"U:sip:a.com U:sip:b.com", NULL}, SIP, "a.com", true},
	{{"D:a.com D:b.com", NULL}, SIP, "a.com", true},
	{{"D:a.com D:b.com", NULL}, SIP, "b.com", true},
	{{"D:a.com D:B.com", NULL}, SIP, "b.COM", true},
	/* other URIs are no identities and keep no dNSName out */
	{{"U:sips:example.com", NULL}, SIP, "example.com", false},
	{{"U:http://example.com", NULL}, SIP, "example.com", false},
	{{"U:sips:a.com D:b.com", NULL}, SIP, "b.com", true},
	{{"U:xsip:example.com", NULL}, SIP, "example.com", false},
	{{"U:sip", NULL}, SIP, "example.com", false},
	{{"U:sip%1aexample.com", NULL}, SIP, "example.com", false},
	{{"U:example.com", NULL}, SIP, "example.com", false},
	{{"U:sip%00:example.com", NULL}, SIP, "example.com", false},
	{{"U:", NULL}, SIP, "example.com", false},
	{{"U:", NULL}, SIP, "", false},
	/* a URI of a user is none either */
	{{"U:sip:alice@example.com", NULL}, SIP, "example.com", false},
	{{"U:sip:@example.com", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com;x=@other.com", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com;x@other.com", NULL}, SIP, "other.com", false},
	{{"U:sip:example.com?a=b@c", NULL}, SIP, "example.com", false},
	{{"U:sip:alice%25x@a.com D:b.com", NULL}, SIP, "b.com", true},
	{{"U:sip:alice%2540example.com", NULL}, SIP, "example.com", false},
	/* port, parameters and headers are ignored */
	{{"U:sip:example.com:5061", NULL}, SIP, "example.com", true},
	{{"U:sip:example.com:5061;transport=tls", NULL}, SIP, "example.com", true},
	{{"U:sip:example.com;lr", NULL}, SIP, "example.com", true},
	{{"U:sip:example.com?subject=x", NULL}, SIP, "example.com", true},
	{{"U:sip:example.com:5061?subject=x:y", NULL}, SIP, "example.com", true},
	{{"U:sip:example.com;maddr=other.com", NULL}, SIP, "other.com", false},
	/* a sip URI that is malformed matches nothing and keeps dNSNames out */
	{{"U:sip:example.com:", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com:;lr", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com:5061x", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com:x", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com/", NULL}, SIP, "example.com", false},
	{{"U:sip://example.com", NULL}, SIP, "example.com", false},
	{{"U:sip:%20example.com", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com%20", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com%00", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com%00.evil.com", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com;%00", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com;%0a", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com;%7f", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com;%e9", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com:5061%00", NULL}, SIP, "example.com", false},
	{{"U:sip:ex%2561mple.com", NULL}, SIP, "example.com", false},
	{{"U:sip: D:b.com", NULL}, SIP, "b.com", false},
	{{"U:sip:a..com D:b.com", NULL}, SIP, "b.com", false},
	{{"U:sip:a.com%00 D:a.com", NULL}, SIP, "a.com", false},
	{{"U:sip:a..com U:sip:b.com", NULL}, SIP, "b.com", true},
	/* whole names, no wildcards */
	{{"U:sip:example.com", NULL}, SIP, "a.example.com", false},
	{{"U:sip:a.example.com", NULL}, SIP, "example.com", false},
	{{"U:sip:example.com", NULL}, SIP, "xample.com", false},
	{{"U:sip:example.com", NULL}, SIP, "example.co", false},
	{{"U:sip:example.com", NULL}, SIP, "example.comm", false},
	{{"U:sip:example.com", NULL}, SIP, "examplf.com", false},
	{{"U:sip:*.example.com", NULL}, SIP, "a.example.com", false},
	{{"D:*.example.com", NULL}, SIP, "a.example.com", false},
	{{"D:*.example.com", NULL}, SIP, "example.com", false},
	{{"D:*.example.com", NULL}, SIP, "*.example.com", true},
	{{"U:sip:*.example.com", NULL}, SIP, "*.Example.com", true},
	{{"D:a.example.com", NULL}, SIP, "*.example.com", false},
	{{"D:a*.example.com", NULL}, SIP, "a*.example.com", false},
	{{"D:a.*.com", NULL}, SIP, "a.*.com", false},
	{{"D:*", NULL}, SIP, "*", false},
	{{"D:*.", NULL}, SIP, "*.", false},
	{{"D:.example.com", NULL}, SIP, "a.example.com", false},
	{{"D:.example.com", NULL}, SIP, ".example.com", false},
	{{"D:example.com", NULL}, SIP, ".example.com", false},
	/* bytes that are no part of a name */
	{{"D:example.com%00.evil.com", NULL}, SIP, "example.com", false},
	{{"D:example.com%00", NULL}, SIP, "example.com", false},
	{{"D:%00example.com", NULL}, SIP, "example.com", false},
	{{"D:example.com%20", NULL}, SIP, "example.com", false},
	{{"D:", NULL}, SIP, "", false},
	{{"D:example.com", NULL}, SIP, "", false},
	{{"D:example.com", NULL}, SIP, " example.com", false},
	{{"D:example.com", NULL}, SIP, "sip:example.com", false},
	{{"D:example.com", NULL}, SIP, "example.com:5061", false},
	{{"D:b%fccher.com", NULL},
	 SIP,
	 "b\xfc"
	 "cher.com",
	 false},
	{{"D:b%c3%bccher.com", NULL},
	 SIP,
	 "b\xc3\xbc"
	 "cher.com",
	 false},
	{{"D:xn--bcher-kva.com", NULL},
	 SIP,
	 "b\xc3\xbc"
	 "cher.com",
	 false},
	{{"D:xn--bcher-kva.com", NULL}, SIP, "XN--bcher-kva.com", true},
	{{"U:sip:xn--bcher-kva.com", NULL}, SIP, "xn--bcher-kva.com", true},
	{{"D:a_b.example.com", NULL}, SIP, "a_b.example.com", true},
	{{"D:a@b.com", NULL}, SIP, "a@b.com", false},
	{{"D:a[b.com", NULL}, SIP, "a{b.com", false},
	/* dots */
	{{"U:sip:example.com", NULL}, SIP, "example.com.", true},
	{{"U:sip:example.com.", NULL}, SIP, "example.com", true},
	{{"U:sip:example.com..", NULL}, SIP, "example.com", false},
	{{"D:example.com", NULL}, SIP, "example.com.", true},
	{{"D:example.com.", NULL}, SIP, "example.com", false},
	{{"D:example.com", NULL}, SIP, "example.com..", false},
	{{"D:example..com", NULL}, SIP, "example..com", false},
	{{"D:.", NULL}, SIP, ".", false},
	{{"D:localhost", NULL}, SIP, "localhost", true},
	/* labels */
	{{"D:-a.com", NULL}, SIP, "-a.com", false},
	{{"D:a-.com", NULL}, SIP, "a-.com", false},
	{{"D:1.2.3", NULL}, SIP, "1.2.3", false},
	{{"D:3com.com", NULL}, SIP, "3com.com", true},
	{{"D:1.com", NULL}, SIP, "1.com", true},
	{{"D:com.1", NULL}, SIP, "com.1", false},
	/* lengths */
	{{"D:" L63 ".com", NULL}, SIP, L63 ".com", true},
	{{"D:" L63 "d.com", NULL}, SIP, L63 "d.com", false},
	{{"D:" D253, NULL}, SIP, D253, true},
	{{"D:" D253, NULL}, SIP, D253 ".", true},
	{{"U:sip:" D253 ".:5061;lr", NULL}, SIP, D253, true},
	{{"D:" D254, NULL}, SIP, D254, false},
	{{"D:" D254, NULL}, SIP, D253, false},
	{{"D:" D253, NULL}, SIP, D254, false},
	{{"U:sip:" D254, NULL}, SIP, D254, false},
	/* addresses: sip URIs can hold them, nothing else counts */
	{{"U:sip:192.0.2.1", NULL}, SIP, "192.0.2.1", true},
	{{"U:sip:192.0.2.1:5061", NULL}, SIP, "192.0.2.1", true},
	{{"U:sip:192.0.2.1", NULL}, SIP, "192.0.2.10", false},
	{{"U:sip:192.0.2.1.", NULL}, SIP, "192.0.2.1", false},
	{{"U:sip:192.0.2.01", NULL}, SIP, "192.0.2.1", false},
	{{"U:sip:192.0.2.1", NULL}, SIP, "::ffff:192.0.2.1", false},
	{{"U:sip:[c000:201::]", NULL}, SIP, "192.0.2.1", false},
	{{"U:sip:192.0.2.1", NULL}, SIP, "c000:201::", false},
	{{"U:sip:0.0.0.0", NULL}, SIP, "example.com", false},
	{{"U:sip:192.0.2.1 D:b.com", NULL}, SIP, "b.com", false},
	{{"U:sip:[2001:db8::1]", NULL}, SIP, "2001:DB8:0::1", true},
	{{"U:sip:[2001:db8::1]:5061;lr", NULL}, SIP, "[2001:db8::1]", true},
	{{"U:sip:[2001:db8::1]", NULL}, SIP, "[2001:db8::2]", false},
	{{"U:sip:[2001:db8::1", NULL}, SIP, "2001:db8::1", false},
	{{"U:sip:[2001:db8::1]x", NULL}, SIP, "2001:db8::1", false},
	{{"U:sip:[192.0.2.1]", NULL}, SIP, "192.0.2.1", false},
	{{"U:sip:[]", NULL}, SIP, "[]", false},
	{{"U:sip:[::1%00]", NULL}, SIP, "::1", false},
	{{"U:sip:2001:db8::1", NULL}, SIP, "2001:db8::1", false},
	{{"I:c0000201", NULL}, SIP, "192.0.2.1", false},
	{{"D:192.0.2.1", NULL}, SIP, "192.0.2.1", false},
	{{"I:c0000201 D:a.com", NULL}, SIP, "a.com", true},
	{{"U:sip:[fe80::1%2525eth0]", NULL}, SIP, "fe80::1%eth0", false},
	{{"D:example.com", NULL}, SIP, "[example.com]", false},
	/* the common name counts only without any subjectAltName */
	{{NULL, "example.com"}, SIP, "example.com", true},
	{{NULL, "Example.com"}, SIP, "eXample.com", true},
	{{NULL, "example.com"}, SIP, "a.example.com", false},
	{{NULL, "*.example.com"}, SIP, "a.example.com", false},
	{{NULL, "example.com%00.evil.com"}, SIP, "example.com", false},
	{{NULL, "Example Ltd"}, SIP, "Example Ltd", false},
	{{NULL, "192.0.2.1"}, SIP, "192.0.2.1", false},
	{{NULL, "sip:example.com"}, SIP, "example.com", false},
	{{NULL, NULL}, SIP, "example.com", false},
	{{"", "example.com"}, SIP, "example.com", false},
	{{"D:other.com", "example.com"}, SIP, "example.com", false},
	{{"I:c0000201", "example.com"}, SIP, "example.com", false},
	{{"E:a@example.com", "example.com"}, SIP, "example.com", false},
	{{"X:example.com", "example.com"}, SIP, "example.com", false},
	{{"malformed", "example.com"}, SIP, "example.com", false},
	{{"twice", "example.com"}, SIP, "example.com", false},
	/* several: the last, if it is alone in its RDN */
	{{NULL, "a.com/b.com"}, SIP, "b.com", true},
	{{NULL, "a.com/b.com"}, SIP, "a.com", false},
	{{NULL, "a.com/Example Ltd"}, SIP, "a.com", false},
	{{NULL, "a.com+b.com"}, SIP, "a.com", false},
	{{NULL, "a.com+b.com"}, SIP, "b.com", false},
	{{NULL, "a.com+b.com/c.com"}, SIP, "c.com", true},
	{{NULL, "c.com/a.com+b.com"}, SIP, "c.com", false},
	/* names in other places */
	{{"E:a@example.com X:example.com", NULL}, SIP, "example.com", false},
};

static const struct match_row host_rows[] = {
	{{"D:example.com", NULL}, HOST, "Example.com", true},
	{{"D:a.com D:example.com", NULL}, HOST, "example.com.", true},
	{{"D:example.com.", NULL}, HOST, "example.com", false},
	{{"U:sip:example.com", NULL}, HOST, "example.com", false},
	{{"U:sip:a.com D:b.com", NULL}, HOST, "b.com", true},
	/* wildcards: the whole left-most label, one label */
	{{"D:*.example.com", NULL}, HOST, "a.example.com", true},
	{{"D:*.Example.com", NULL}, HOST, "A.example.COM", true},
	{{"D:*.example.com", NULL}, HOST, "xn--bcher-kva.example.com", true},
	{{"D:*.example.com", NULL}, HOST, "example.com", false},
	{{"D:*.example.com", NULL}, HOST, "a.b.example.com", false},
	{{"D:*.example.com", NULL}, HOST, "a.example.com.evil.com", false},
	{{"D:a*.example.com", NULL}, HOST, "ab.example.com", false},
	{{"D:*a.example.com", NULL}, HOST, "ba.example.com", false},
	{{"D:a.*.example.com", NULL}, HOST, "a.b.example.com", false},
	{{"D:*.*.example.com", NULL}, HOST, "a.b.example.com", false},
	{{"D:*", NULL}, HOST, "localhost", false},
	{{"D:*.example.com", NULL}, HOST, "*.example.com", false},
	{{"D:a.example.com", NULL}, HOST, "*.example.com", false},
	{{"D:a.example.com", NULL}, HOST, ".example.com", false},
	{{"D:a.example.com", NULL}, HOST, "example.com", false},
	{{"D:.example.com", NULL}, HOST, "a.example.com", false},
	/* bytes and lengths */
	{{"D:example.com%00.evil.com", NULL}, HOST, "example.com", false},
	{{"D:example.com%00", NULL}, HOST, "example.com", false},
	{{"D:b%c3%bccher.com", NULL},
	 HOST,
	 "b\xc3\xbc"
	 "cher.com",
	 false},
	{{"D:xn--bcher-kva.com", NULL}, HOST, "xn--bcher-kva.com", true},
	{{"D:a_b.example.com", NULL}, HOST, "a_b.example.com", true},
	{{"D:" D253, NULL}, HOST, D253, true},
	{{"D:" D254, NULL}, HOST, D254, false},
	{{"D:example..com", NULL}, HOST, "example..com", false},
	{{"D:example.com", NULL}, HOST, "", false},
	{{"D:example.com", NULL}, HOST, "sip:example.com", false},
	/* addresses */
	{{"I:c0000201", NULL}, HOST, "192.0.2.1", true},
	{{"I:c0000201", NULL}, HOST, "192.0.2.1x", false},
	{{"I:c0000201", NULL}, HOST, "192.0.2.1.", false},
	{{"I:c0000201", NULL}, HOST, "192.0.2.01", false},
	{{"I:c0000201", NULL}, HOST, "192.0.2", false},
	{{"I:c0000201", NULL}, HOST, "192.0.2.2", false},
	{{"I:c0000201", NULL}, HOST, "[192.0.2.1]", false},
	{{"I:00000000000000000000ffffc0000201", NULL}, HOST, "192.0.2.1", false},
	{{"I:c0000201", NULL}, HOST, "::ffff:192.0.2.1", false},
	{{"I:c000020100", NULL}, HOST, "192.0.2.1", false},
	{{"I:20010db8000000000000000000000001", NULL}, HOST, "2001:DB8::1", true},
	{{"I:20010db8000000000000000000000001", NULL}, HOST, "[2001:db8::1]", true},
	{{"I:20010db8000000000000000000000001", NULL}, HOST, "[2001:db8::1]:5061", false},
	{{"I:20010db8000000000000000000000001", NULL}, HOST, "[2001:db8::2]", false},
	{{"D:192.0.2.1", NULL}, HOST, "192.0.2.1", false},
	{{"U:sip:192.0.2.1", NULL}, HOST, "192.0.2.1", false},
	/* never the common name */
	{{NULL, "example.com"}, HOST, "example.com", false},
	{{"I:c0000201", "example.com"}, HOST, "example.com", false},
	{{"D:a.com", "example.com"}, HOST, "example.com", false},
	{{NULL, "192.0.2.1"}, HOST, "192.0.2.1", false},
	{{"malformed", "example.com"}, HOST, "example.com", false},
	{{"twice", "example.com"}, HOST, "example.com", false},
	{{"E:a@example.com X:example.com", NULL}, HOST, "example.com", false},
};

static int check_rows(const struct match_row *rows, size_t count)
{
	int wrong = 0;

	for (size_t i = 0; i < count; i++) {
		const struct match_row *row = &rows[i];
		X509 *cert = cert_of(&row->holds);
		bool got = tls_identity_match(cert, row->rule, row->name);
		bool any = tls_identity_match_any(cert, row->rule, row->name);
		/* A separator divides a name into others. */
		bool one = !strchr(row->name, ' ');

		if (got != row->want || (one && any != row->want)) {
			print_error("row %zu: sans \"%s\" cn \"%s\" name \"%s\": got %d, any %d\n",
				    i, row->holds.sans ? row->holds.sans : "-",
				    row->holds.cn ? row->holds.cn : "-", row->name, got, any);
			wrong++;
		}
		if (ERR_peek_error()) {
			print_error("row %zu: leaves an error in the queue\n", i);
			wrong++;
		}
		X509_free(cert);
	}
	return wrong;
}

static void test_sip(void **state)
{
	(void)state;
	assert_int_equal(check_rows(sip_rows, COUNT(sip_rows)), 0);
}

static void test_host(void **state)
{
	(void)state;
	assert_int_equal(check_rows(host_rows, COUNT(host_rows)), 0);
}

/* One byte of a presented name is another: only the same letter in the other case may match. */
static void test_every_byte(void **state)
{
	static const char *const kinds[] = {"D:", "U:sip:"};
	static const char name[] = "a.example.com";
	int wrong = 0;

	(void)state;
	for (size_t k = 0; k < COUNT(kinds); k++)
		for (int byte = 0; byte < 256; byte++) {
			bool want = byte == 'm' || byte == 'M', sip, host;
			struct holds holds = {0};
			char sans[64];
			X509 *cert;

			snprintf(sans, sizeof(sans), "%sa.exa%%%02xple.com", kinds[k], byte);
			holds.sans = sans;
			cert = cert_of(&holds);
			sip = tls_identity_match(cert, SIP, name);
			host = tls_identity_match(cert, HOST, name);
			if (sip != want || host != (want && k == 0)) {
				print_error("%s: sip %d host %d\n", sans, sip, host);
				wrong++;
			}
			X509_free(cert);
		}
	assert_int_equal(wrong, 0);
}

static void test_many_sans(void **state)
{
	static char sans[32768];
	struct holds holds = {.sans = sans};
	size_t len = 0;
	char text[64];
	X509 *cert;

	(void)state;
	for (int i = 0; i < 1000; i++)
		len += (size_t)snprintf(sans + len, sizeof(sans) - len, "D:h%d.example.com ", i);
	snprintf(sans + len, sizeof(sans) - len, "I:c0000201");
	cert = cert_of(&holds);
	for (int rule = SIP; rule <= HOST; rule++) {
		assert_true(tls_identity_match(cert, rule, "h0.example.com"));
		assert_true(tls_identity_match(cert, rule, "h999.example.com"));
		assert_false(tls_identity_match(cert, rule, "h1000.example.com"));
		tls_identity_names(cert, rule, text, sizeof(text));
		assert_string_equal(text,
				    "DNS:h0.example.com, DNS:h1.example.com, DNS:h2.example.com, "
				    "...");
	}
	X509_free(cert);
	/* The last name decides that none of the thousand before it counts. */
	snprintf(sans + len, sizeof(sans) - len, "U:sip:example.com");
	cert = cert_of(&holds);
	assert_false(tls_identity_match(cert, SIP, "h999.example.com"));
	assert_true(tls_identity_match(cert, SIP, "example.com"));
	X509_free(cert);
}

static void test_lists(void **state)
{
	static const struct {
		const char *names;
		bool sip, host;
	} rows[] = {
		{"a.com", true, true},
		{"x.com,a.com", true, true},
		{"x.com a.com", true, true},
		{" ,x.com ,, a.com, ", true, true},
		{"x.com\ta.com\n", true, true},
		{"*.com,a..b,a.com", true, true},
		{"x.com,b.c.com", false, true},
		{"x.com,*.c.com", true, false},
		{"a.com.x,a.co", false, false},
		{"a.com;x.com", false, false},
		{"a", false, false},
		{"", false, false},
		{" , ", false, false},
		{"x.com", false, false},
		{D254 ",a.com", true, true},
		{D254, false, false},
		{NULL, false, false},
	};
	X509 *cert = cert_of(&(struct holds){"D:a.com D:*.c.com", NULL});

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		assert_int_equal(tls_identity_match_any(cert, SIP, rows[i].names), rows[i].sip);
		assert_int_equal(tls_identity_match_any(cert, HOST, rows[i].names), rows[i].host);
		assert_true(tls_identity_match_any(cert, OFF, rows[i].names));
		assert_false(tls_identity_match_any(NULL, SIP, rows[i].names));
	}
	assert_false(tls_identity_match(cert, SIP, "x.com,a.com"));
	assert_false(tls_identity_match(cert, SIP, NULL));
	assert_false(tls_identity_match(cert, (enum tls_identity_rule)7, "a.com"));
	assert_false(tls_identity_match(NULL, HOST, "a.com"));
	assert_true(tls_identity_match(NULL, OFF, NULL));
	X509_free(cert);
}

static void test_bad_names(void **state)
{
	static const struct {
		const char *names, *sip, *host; /* the bad one, or NULL */
	} rows[] = {
		{"a.com, 192.0.2.1 [::1] ::1, localhost.", NULL, NULL},
		{"a.com,*.b.com", NULL, "*.b.com"},
		{"a.com,sip:b.com,c..com", "sip:b.com", "sip:b.com"},
		{"a.com b.com:5061", "b.com:5061", "b.com:5061"},
		{"192.0.2.256", "192.0.2.256", "192.0.2.256"},
		{D253 " " D254, D254, D254},
		{"", NULL, NULL},
		{NULL, NULL, NULL},
	};

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++)
		for (int rule = SIP; rule <= HOST; rule++) {
			const char *want = rule == SIP ? rows[i].sip : rows[i].host;
			size_t len = 0;
			const char *got = tls_identity_bad_name(rule, rows[i].names, &len);

			assert_int_equal(got != NULL, want != NULL);
			if (got && want) {
				assert_int_equal(len, strlen(want));
				assert_memory_equal(got, want, len);
			}
			assert_null(tls_identity_bad_name(OFF, rows[i].names, &len));
		}
}

struct names_row {
	struct holds holds;
	enum tls_identity_rule rule;
	const char *want;
};

static const struct names_row names_rows[] = {
	{{"D:a.example.com U:sip:example.com I:c0000201", NULL},
	 SIP,
	 "sip:example.com, DNS:a.example.com"},
	{{"D:a.example.com U:sip:example.com I:c0000201", NULL},
	 HOST,
	 "DNS:a.example.com, IP:192.0.2.1"},
	{{"D:a.example.com U:sip:example.com I:c0000201", NULL},
	 OFF,
	 "sip:example.com, DNS:a.example.com, IP:192.0.2.1"},
	{{"U:SIP:alice@a.com U:sips:b.com U:DNS:c.com", NULL},
	 SIP,
	 "SIP:alice@a.com, URI:sips:b.com, URI:DNS:c.com"},
	{{"D:a.com,%20DNS:b.com", NULL}, SIP, "DNS:a.com\\x2c\\x20DNS:b.com"},
	{{"D:a%22%5c%00%0a%7f%e9%20%7e%21", NULL},
	 HOST,
	 "DNS:a\\x22\\x5c\\x00\\x0a\\x7f\\xe9\\x20~!"},
	{{"I:20010db8000000000000000000000001 I:c00002", NULL},
	 HOST,
	 "IP:2001:db8::1, IP:\\xc0\\x00\\x02"},
	{{"I:61626364656667", NULL}, HOST, "IP:\\x61\\x62\\x63\\x64\\x65\\x66\\x67"},
	{{NULL, "a.com/b%22+c d"}, SIP, "CN:a.com, CN:b\\x22, CN:c\\x20d"},
	{{NULL, "a.com"}, OFF, "CN:a.com"},
	{{NULL, "a.com"}, HOST, "none"},
	{{"D:b.com", "a.com"}, SIP, "DNS:b.com"},
	{{"I:c0000201", "a.com"}, SIP, "none"},
	{{"E:a@b.com X:c.com", NULL}, OFF, "none"},
	{{"", NULL}, SIP, "none"},
	{{"malformed", "a.com"}, SIP, "none"},
	{{"twice", "a.com"}, OFF, "none"},
	{{"D:", NULL}, HOST, "DNS:"},
};

static void test_names(void **state)
{
	char text[256];

	(void)state;
	for (size_t i = 0; i < COUNT(names_rows); i++) {
		X509 *cert = cert_of(&names_rows[i].holds);

		tls_identity_names(cert, names_rows[i].rule, text, sizeof(text));
		assert_string_equal(text, names_rows[i].want);
		assert_int_equal(ERR_peek_error(), 0);
		X509_free(cert);
	}
	tls_identity_names(NULL, SIP, text, sizeof(text));
	assert_string_equal(text, "none");
}

/* Each size gives whole names and, for those that there is no room for, dots. */
static void test_names_cut(void **state)
{
	static const char whole[] = "sip:a.com, DNS:b\\x22.com, DNS:c.com";
	static const char two[] = "sip:a.com, DNS:b\\x22.com, ...", one[] = "sip:a.com, ...";
	X509 *cert = cert_of(&(struct holds){"U:sip:a.com D:b%22.com D:c.com", NULL});

	(void)state;
	for (size_t size = 0; size <= sizeof(whole) + 2; size++) {
		char *text = malloc(size + 1);

		assert_non_null(text);
		memset(text, 'x', size + 1);
		tls_identity_names(cert, SIP, text, size);
		assert_int_equal(text[size], 'x');
		if (size >= sizeof(whole))
			assert_string_equal(text, whole);
		else if (size >= sizeof(two))
			assert_string_equal(text, two);
		else if (size >= sizeof(one))
			assert_string_equal(text, one);
		else if (size >= sizeof("..."))
			assert_string_equal(text, "...");
		else if (size > 0)
			assert_true(strlen(text) < size && strspn(text, ".") == strlen(text));
		free(text);
	}
	X509_free(cert);
}

/* What another had in the error queue stays there, what the check caused does not. */
static void test_error_queue(void **state)
{
	X509 *cert = cert_of(&(struct holds){"malformed", "a.com"});
	unsigned long earlier;
	char text[16];

	(void)state;
	ERR_clear_error();
	assert_null(OPENSSL_hexstr2buf("odd", NULL));
	earlier = ERR_peek_error();
	assert_int_not_equal(earlier, 0);
	assert_false(tls_identity_match(cert, SIP, "a.com"));
	assert_false(tls_identity_match(cert, HOST, "a.com"));
	tls_identity_names(cert, SIP, text, sizeof(text));
	assert_int_equal(ERR_get_error(), earlier);
	assert_int_equal(ERR_get_error(), 0);
	X509_free(cert);
}

/* With the workaround of CVE-2024-6119 OpenSSL is not asked about such a certificate. */
static void test_mailbox(void **state)
{
	const struct holds rows[] = {{"D:example.com M:a@example.com", NULL},
				     {"M:a@example.com D:example.com", NULL},
				     {"D:example.com X:a@example.com", NULL}};

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		X509 *cert = cert_of(&rows[i]);

		tls_workaround_enable(0);
		assert_true(tls_identity_match_any(cert, HOST, "example.com"));
		tls_workaround_enable(UINT32_C(1) << TLS_WORKAROUND_OTHER_NAME);
		assert_int_equal(tls_identity_match_any(cert, HOST, "example.com"),
				 !strchr(rows[i].sans, 'M'));
		assert_true(tls_identity_match_any(cert, SIP, "example.com"));
		X509_free(cert);
	}
	tls_workaround_enable(UINT32_MAX);
}

static void test_rule_of(void **state)
{
	(void)state;
	assert_int_equal(tls_identity_rule_of(NULL), OFF);
	assert_int_equal(tls_identity_rule_of(""), OFF);
	assert_int_equal(tls_identity_rule_of("Off"), OFF);
	assert_int_equal(tls_identity_rule_of("sip"), SIP);
	assert_int_equal(tls_identity_rule_of("SIP"), SIP);
	assert_int_equal(tls_identity_rule_of("Host"), HOST);
	assert_int_equal(tls_identity_rule_of("offf"), SIP);
	assert_int_equal(tls_identity_rule_of("hostname"), SIP);
	assert_int_equal(tls_identity_rule_of("ofx"), SIP);
}

static int make_key(void **state)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_id(EVP_PKEY_ED25519, NULL);
	bool made = ctx && EVP_PKEY_keygen_init(ctx) == 1 && EVP_PKEY_keygen(ctx, &key) == 1;

	(void)state;
	EVP_PKEY_CTX_free(ctx);
	return made ? 0 : -1;
}

static int free_key(void **state)
{
	(void)state;
	EVP_PKEY_free(key);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sip),         cmocka_unit_test(test_host),
		cmocka_unit_test(test_every_byte),  cmocka_unit_test(test_many_sans),
		cmocka_unit_test(test_lists),       cmocka_unit_test(test_bad_names),
		cmocka_unit_test(test_names),       cmocka_unit_test(test_names_cut),
		cmocka_unit_test(test_error_queue), cmocka_unit_test(test_rule_of),
		cmocka_unit_test(test_mailbox),
	};

	return cmocka_run_group_tests(tests, make_key, free_key);
}
