/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_x509.h"

#include "tls_compat.h"

#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int tls_x509_open(struct tls_x509 *x, const uint8_t *der, size_t len)
{
	const uint8_t *end = der;
	int critical = 0;

	*x = (struct tls_x509){0};
	ERR_set_mark();
	x->cert = d2i_X509(NULL, &end, (long)len);
	if (x->cert && end == der + len) {
		x->sans = X509_get_ext_d2i(x->cert, NID_subject_alt_name, &critical, NULL);
		x->bad_sans = !x->sans && critical != -1; /* -1: there is none */
	} else {
		tls_x509_close(x);
	}
	ERR_pop_to_mark();
	return x->cert ? 0 : -1;
}

void tls_x509_close(struct tls_x509 *x)
{
	GENERAL_NAMES_free(x->sans);
	X509_free(x->cert);
	*x = (struct tls_x509){0};
}

/* ---- strings of ASN.1 ---- */

/* A code point that a value may hold: no surrogate, no control character. */
static bool is_fine(uint32_t c)
{
	return c >= 0x20 && (c < 0x7f || c > 0x9f) && (c < 0xd800 || c > 0xdfff) && c <= 0x10ffff;
}

static size_t put_utf8(char *to, uint32_t c)
{
	static const uint8_t lead[] = {0, 0xc0, 0xe0, 0xf0};
	size_t more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;

	to[0] = (char)(lead[more] | c >> (6 * more));
	for (size_t i = 1; i <= more; i++)
		to[i] = (char)(0x80 | (c >> (6 * (more - i)) & 0x3f));
	return more + 1;
}

/* The code point at the start of bytes, in its shortest form only. Returns its bytes, or 0. */
static size_t get_utf8(const uint8_t *bytes, size_t len, uint32_t *c)
{
	static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
	size_t more = bytes[0] < 0x80 ? 0 : bytes[0] < 0xe0 ? 1 : bytes[0] < 0xf0 ? 2 : 3;

	if ((bytes[0] >= 0x80 && bytes[0] < 0xc2) || bytes[0] > 0xf4 || more >= len)
		return 0;
	*c = more ? bytes[0] & (0x3fu >> more) : bytes[0];
	for (size_t i = 1; i <= more; i++) {
		if ((bytes[i] & 0xc0) != 0x80)
			return 0;
		*c = *c << 6 | (bytes[i] & 0x3f);
	}
	return *c >= least[more] ? more + 1 : 0;
}

/* One character of a string whose characters have that many bytes (UCS-2, UCS-4, ASCII). */
static size_t get_fixed(const uint8_t *bytes, size_t len, size_t width, uint32_t *c)
{
	if (len < width)
		return 0;
	*c = 0;
	for (size_t i = 0; i < width; i++)
		*c = *c << 8 | bytes[i];
	return width == 1 && *c > 0x7e ? 0 : width;
}

/*
 * The next character of a string, or 0 bytes if there is no right one. TeletexString has ASCII only
 * here: what programs put into its other half is sometimes T.61, sometimes ISO 8859-1.
 */
static size_t get_char(int type, const uint8_t *bytes, size_t len, uint32_t *c)
{
	switch (type) {
	case V_ASN1_UTF8STRING:
		return get_utf8(bytes, len, c);
	case V_ASN1_BMPSTRING:
		return get_fixed(bytes, len, 2, c);
	case V_ASN1_UNIVERSALSTRING:
		return get_fixed(bytes, len, 4, c);
	case V_ASN1_PRINTABLESTRING:
	case V_ASN1_IA5STRING:
	case V_ASN1_NUMERICSTRING:
	case V_ASN1_VISIBLESTRING:
	case V_ASN1_T61STRING:
		return get_fixed(bytes, len, 1, c);
	default:
		return 0;
	}
}

static char *text_of_string(const ASN1_STRING *string)
{
	const uint8_t *bytes = ASN1_STRING_get0_data(string);
	size_t len = (size_t)ASN1_STRING_length(string), used;
	/* UCS-2 needs most room: 3 bytes for 2. */
	char *text = malloc(2 * len + 1), *to = text;

	for (; text && len > 0; bytes += used, len -= used) {
		uint32_t c = 0;

		used = get_char(ASN1_STRING_type(string), bytes, len, &c);
		if (used == 0 || !is_fine(c)) {
			free(text);
			return NULL;
		}
		to += put_utf8(to, c);
	}
	if (text)
		*to = '\0';
	return text;
}

/* ---- names ---- */

static tls_cert_name *name_of(const struct tls_x509 *x, bool issuer)
{
	return issuer ? X509_get_issuer_name(x->cert) : X509_get_subject_name(x->cert);
}

char *tls_x509_name(const struct tls_x509 *x, bool issuer, int nid)
{
	tls_cert_name *name = name_of(x, issuer);
	int at = X509_NAME_get_index_by_NID(name, nid, -1);

	return at < 0 ? NULL
		      : text_of_string(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
}

static bool is_plain(char c)
{
	return c >= ' ' && c < 0x7f && c != '/' && c != '\\';
}

/* The short name of an attribute's type, or its number in dots. Returns -1 if it is too long. */
static int key_of(const X509_NAME_ENTRY *entry, char *key, size_t size)
{
	const ASN1_OBJECT *object = X509_NAME_ENTRY_get_object(entry);
	int nid = OBJ_obj2nid(object);
	int len = nid != NID_undef ? snprintf(key, size, "%s", OBJ_nid2sn(nid))
				   : OBJ_obj2txt(key, (int)size, object, 1);

	return len > 0 && (size_t)len < size ? 0 : -1;
}

static int print_entry(FILE *out, const X509_NAME_ENTRY *entry)
{
	char key[128];
	char *value = text_of_string(X509_NAME_ENTRY_get_data(entry));
	int result = value ? key_of(entry, key, sizeof(key)) : -1;

	if (result == 0) {
		fprintf(out, "/%s=", key);
		for (const char *c = value; *c; c++)
			fprintf(out, is_plain(*c) ? "%c" : "\\x%02X", (unsigned char)*c);
	}
	free(value);
	return result;
}

char *tls_x509_name_line(const struct tls_x509 *x, bool issuer)
{
	tls_cert_name *name = name_of(x, issuer);
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	int result = 0;

	if (!out)
		return NULL;
	ERR_set_mark();
	for (int i = 0; i < X509_NAME_entry_count(name) && result == 0; i++)
		result = print_entry(out, X509_NAME_get_entry(name, i));
	ERR_pop_to_mark();
	if (fclose(out) == 0 && result == 0)
		return text;
	free(text);
	return NULL;
}

/* ---- subjectAltName ---- */

int tls_x509_san_count(const struct tls_x509 *x, int type)
{
	int count = 0;

	if (x->bad_sans)
		return -1;
	for (int i = 0; i < sk_GENERAL_NAME_num(x->sans); i++)
		count += sk_GENERAL_NAME_value(x->sans, i)->type == type;
	return count;
}

static const GENERAL_NAME *find_san(const struct tls_x509 *x, int type, int index)
{
	if (index < 0)
		index += tls_x509_san_count(x, type);
	if (index < 0)
		return NULL;
	for (int i = 0; i < sk_GENERAL_NAME_num(x->sans); i++) {
		const GENERAL_NAME *san = sk_GENERAL_NAME_value(x->sans, i);

		if (san->type == type && index-- == 0)
			return san;
	}
	return NULL;
}

static char *text_of_ip(const ASN1_STRING *ip)
{
	const uint8_t *b = ASN1_STRING_get0_data(ip);
	char text[sizeof("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")];
	size_t len = 0;

	if (ASN1_STRING_length(ip) == 4) {
		snprintf(text, sizeof(text), "%u.%u.%u.%u", b[0], b[1], b[2], b[3]);
		return strdup(text);
	}
	if (ASN1_STRING_length(ip) != 16)
		return NULL;
	for (int i = 0; i < 16; i += 2)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%x", i ? ":" : "",
					(unsigned)b[i] << 8 | b[i + 1]);
	return strdup(text);
}

char *tls_x509_san(const struct tls_x509 *x, int type, int index)
{
	const GENERAL_NAME *san = find_san(x, type, index);

	if (!san)
		return NULL;
	return type == GEN_IPADD ? text_of_ip(san->d.iPAddress) : text_of_string(san->d.ia5);
}

/* ---- the rest ---- */

/* What a BIO in memory holds, as a text; frees the BIO. */
static char *text_of_bio(BIO *bio)
{
	char *data, *text;
	long len = BIO_get_mem_data(bio, &data);

	text = len > 0 ? malloc((size_t)len + 1) : NULL;
	if (text) {
		memcpy(text, data, (size_t)len);
		text[len] = '\0';
	}
	BIO_free(bio);
	return text;
}

char *tls_x509_version(const struct tls_x509 *x)
{
	char text[32];
	long version = X509_get_version(x->cert);

	snprintf(text, sizeof(text), "%ld", version);
	return version < 0 ? NULL : strdup(text);
}

char *tls_x509_serial(const struct tls_x509 *x)
{
	const ASN1_INTEGER *serial = X509_get0_serialNumber(x->cert);
	BIGNUM *number;
	char *decimal, *text = NULL;

	if (ASN1_STRING_length(serial) > TLS_X509_SERIAL)
		return NULL;
	ERR_set_mark();
	number = ASN1_INTEGER_to_BN(serial, NULL);
	decimal = number ? BN_bn2dec(number) : NULL;
	if (decimal)
		text = strdup(decimal);
	OPENSSL_free(decimal);
	BN_free(number);
	ERR_pop_to_mark();
	return text;
}

/* Only the two forms of RFC 5280 section 4.1.2.5: in seconds, of Greenwich. */
static char *text_of_time(const ASN1_TIME *time)
{
	static const char month[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
					  "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
	const char *data = (const char *)ASN1_STRING_get0_data(time);
	size_t len = ASN1_STRING_type(time) == V_ASN1_UTCTIME ? 13 : 15;
	struct tm tm = {0};
	char text[64];
	bool good;

	ERR_set_mark();
	good = (size_t)ASN1_STRING_length(time) == len && data[len - 1] == 'Z' &&
	       ASN1_TIME_to_tm(time, &tm) && tm.tm_mon >= 0 && tm.tm_mon < 12;
	ERR_pop_to_mark();
	if (!good)
		return NULL;
	snprintf(text, sizeof(text), "%s %2d %02d:%02d:%02d %d GMT", month[tm.tm_mon], tm.tm_mday,
		 tm.tm_hour, tm.tm_min, tm.tm_sec, tm.tm_year + 1900);
	return strdup(text);
}

char *tls_x509_not_before(const struct tls_x509 *x)
{
	return text_of_time(X509_get0_notBefore(x->cert));
}

char *tls_x509_not_after(const struct tls_x509 *x)
{
	return text_of_time(X509_get0_notAfter(x->cert));
}

char *tls_x509_pem(const struct tls_x509 *x)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *text = NULL;

	if (!bio)
		return NULL;
	ERR_set_mark();
	if (PEM_write_bio_X509(bio, x->cert))
		text = text_of_bio(bio);
	else
		BIO_free(bio);
	ERR_pop_to_mark();
	return text;
}

static bool is_unreserved(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       memchr("-_.~", c, 4);
}

char *tls_x509_urlencoded(const struct tls_x509 *x)
{
	static const char hex[] = "0123456789abcdef";
	char *pem = tls_x509_pem(x);
	char *text = pem ? malloc(3 * strlen(pem) + 1) : NULL, *to = text;

	for (const char *c = pem; text && *c; c++) {
		if (is_unreserved(*c)) {
			*to++ = *c;
			continue;
		}
		*to++ = '%';
		*to++ = hex[(unsigned char)*c >> 4];
		*to++ = hex[(unsigned char)*c & 15];
	}
	if (text)
		*to = '\0';
	free(pem);
	return text;
}

bool tls_x509_self_signed(const struct tls_x509 *x)
{
	bool result;

	ERR_set_mark();
	result = (X509_get_extension_flags(x->cert) & EXFLAG_SS) != 0;
	ERR_pop_to_mark();
	return result;
}

bool tls_x509_expired(const struct tls_x509 *x)
{
	bool result;

	ERR_set_mark();
	result = tls_time_compare(X509_get0_notAfter(x->cert)) < 0;
	ERR_pop_to_mark();
	return result;
}
