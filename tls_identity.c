/* SPDX-License-Identifier: ISC */
#include "tls_identity.h"

#include "tls_compat.h"
#include "tls_workaround.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define DNS_NAME_MAX  253
#define DNS_LABEL_MAX 63
#define SEPARATORS    ", \t\r\n"

/* A domain name, not copied and without trailing dot, or the address that ip_len bytes hold. */
struct host {
	const char *name;
	size_t len;
	uint8_t ip[16];
	size_t ip_len;
};

/* The host may have set a locale, in which the C library's letters are others. */
static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool same_text(const char *a, const char *b, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (lower(a[i]) != lower(b[i]))
			return false;
	return true;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_label_byte(char c)
{
	return (lower(c) >= 'a' && lower(c) <= 'z') || is_digit(c) || c == '-' || c == '_';
}

static bool is_label(const char *label, size_t len)
{
	if (len == 0 || len > DNS_LABEL_MAX || label[0] == '-' || label[len - 1] == '-')
		return false;
	for (size_t i = 0; i < len; i++)
		if (!is_label_byte(label[i]))
			return false;
	return true;
}

static bool is_number(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!is_digit(text[i]))
			return false;
	return true;
}

/* A first label "*" is let through: it is for the rule to say what that means. */
static bool host_of_dns(struct host *host, const char *name, size_t len)
{
	size_t start = 0, end;

	if (len == 0 || len > DNS_NAME_MAX)
		return false;
	if (len > 2 && name[0] == '*' && name[1] == '.')
		start = 2;
	for (;; start = end + 1) {
		for (end = start; end < len && name[end] != '.';)
			end++;
		if (!is_label(name + start, end - start))
			return false;
		if (end == len)
			break;
	}
	*host = (struct host){.name = name, .len = len};
	/* Resolvers take such a name for an IPv4 address. */
	return !is_number(name + start, end - start);
}

static bool host_of_ip(struct host *host, int family, const char *text, size_t len)
{
	char copy[INET6_ADDRSTRLEN];

	if (len >= sizeof(copy) || memchr(text, '\0', len))
		return false;
	memcpy(copy, text, len);
	copy[len] = '\0';
	*host = (struct host){.ip_len = family == AF_INET ? 4 : 16};
	return inet_pton(family, copy, host->ip) == 1;
}

/* As RFC 3261's grammar has a host: the brackets of an IPv6 address are part of it. */
static bool host_of_sip(struct host *host, const char *text, size_t len)
{
	if (len >= 2 && text[0] == '[' && text[len - 1] == ']')
		return host_of_ip(host, AF_INET6, text + 1, len - 2);
	if (host_of_ip(host, AF_INET, text, len))
		return true;
	if (len > 0 && text[len - 1] == '.')
		len--;
	return host_of_dns(host, text, len);
}

/* A name to look for. */
static bool host_of_name(struct host *host, enum tls_identity_rule rule, const char *text,
			 size_t len)
{
	if (!host_of_sip(host, text, len) && !host_of_ip(host, AF_INET6, text, len))
		return false;
	return rule == TLS_IDENTITY_SIP || host->ip_len || host->name[0] != '*';
}

static bool same_host(const struct host *a, const struct host *b)
{
	if (a->ip_len || b->ip_len)
		return a->ip_len == b->ip_len && memcmp(a->ip, b->ip, a->ip_len) == 0;
	return a->len == b->len && same_text(a->name, b->name, a->len);
}

/* True for a sip URI that names no user. "@" has no other meaning in one. */
static bool is_sip_uri(const char *uri, size_t len)
{
	return len >= 4 && same_text(uri, "sip:", 4) && !memchr(uri, '@', len);
}

static bool host_of_sip_uri(struct host *host, const char *uri, size_t len)
{
	size_t start = strlen("sip:"), end = start, rest;

	if (end < len && uri[end] == '[')
		while (end < len && uri[end] != ']')
			end++;
	while (end < len && !memchr(":;?", uri[end], 3))
		end++;
	rest = end;
	if (rest < len && uri[rest] == ':') {
		while (++rest < len && is_digit(uri[rest]))
			;
		if (rest == end + 1 || (rest < len && uri[rest] != ';' && uri[rest] != '?'))
			return false;
	}
	for (; rest < len; rest++)
		if (uri[rest] <= ' ' || uri[rest] >= 0x7f)
			return false;
	return host_of_sip(host, uri + start, end - start);
}

/* The bytes of a name in subjectAltName. */
static const char *san_text(const GENERAL_NAME *san, int *type, size_t *len)
{
	const ASN1_STRING *value = GENERAL_NAME_get0_value(san, type);

	*len = 0;
	if (*type != GEN_URI && *type != GEN_DNS && *type != GEN_IPADD)
		return NULL;
	*len = (size_t)ASN1_STRING_length(value);
	return (const char *)ASN1_STRING_get0_data(value);
}

static bool sans_match(const GENERAL_NAMES *sans, const struct host *name)
{
	bool uri_seen = false, dns_matches = false;
	struct host host;

	for (int i = 0; i < sk_GENERAL_NAME_num(sans); i++) {
		int type;
		size_t len;
		const char *text = san_text(sk_GENERAL_NAME_value(sans, i), &type, &len);

		if (type == GEN_URI && is_sip_uri(text, len)) {
			uri_seen = true;
			if (host_of_sip_uri(&host, text, len) && same_host(&host, name))
				return true;
		} else if (type == GEN_DNS && host_of_dns(&host, text, len)) {
			dns_matches = dns_matches || same_host(&host, name);
		}
	}
	return dns_matches && !uri_seen;
}

/* The most specific common name, unless its RDN has two (RFC 6125 section 1.8, CN-ID). */
static const ASN1_STRING *last_cn(X509 *cert)
{
	tls_cert_name *subject = X509_get_subject_name(cert);
	const X509_NAME_ENTRY *entry = NULL, *before = NULL;
	int at = -1;

	while ((at = X509_NAME_get_index_by_NID(subject, NID_commonName, at)) >= 0) {
		before = entry;
		entry = X509_NAME_get_entry(subject, at);
	}
	if (!entry || (before && X509_NAME_ENTRY_set(before) == X509_NAME_ENTRY_set(entry)))
		return NULL;
	return X509_NAME_ENTRY_get_data(entry);
}

static bool cn_matches(X509 *cert, const struct host *name)
{
	const ASN1_STRING *cn = last_cn(cert);
	unsigned char *text = NULL;
	int len = cn ? ASN1_STRING_to_UTF8(&text, cn) : -1;
	struct host host;
	bool match = len >= 0 && host_of_dns(&host, (const char *)text, (size_t)len) &&
		     same_host(&host, name);

	OPENSSL_free(text);
	return match;
}

static bool has_sans(const X509 *cert)
{
	return X509_get_ext_by_NID(cert, NID_subject_alt_name, -1) >= 0;
}

static bool sip_match(X509 *cert, const struct host *name)
{
	GENERAL_NAMES *sans;
	bool match;

	if (!has_sans(cert))
		return cn_matches(cert, name);
	/* NULL too if the extension is malformed or there twice. */
	sans = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	match = sans && sans_match(sans, name);
	GENERAL_NAMES_free(sans);
	return match;
}

/* A name that OpenSSL reads as a string whatever it is: CVE-2024-6119. */
static bool has_mailbox(X509 *cert)
{
	GENERAL_NAMES *sans = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	bool has = false;

	for (int i = 0; i < sk_GENERAL_NAME_num(sans); i++) {
		ASN1_OBJECT *type;
		char text[32];

		if (GENERAL_NAME_get0_otherName(sk_GENERAL_NAME_value(sans, i), &type, NULL)) {
			OBJ_obj2txt(text, sizeof(text), type, 1);
			has |= strcmp(text, "1.3.6.1.5.5.7.8.9") == 0; /* RFC 9598 section 3 */
		}
	}
	GENERAL_NAMES_free(sans);
	return has;
}

/* OpenSSL is given bytes, not text: some of its versions read an address up to what they do not
 * understand, and take a name with a leading dot for a domain with all that is below it. */
static bool host_match(X509 *cert, const struct host *name)
{
	unsigned flags = X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS;

	if (tls_workaround_on(TLS_WORKAROUND_OTHER_NAME) && has_mailbox(cert))
		return false;
	if (name->ip_len)
		return X509_check_ip(cert, name->ip, name->ip_len, 0) == 1;
	return X509_check_host(cert, name->name, name->len, flags, NULL) == 1;
}

static bool match_one(X509 *cert, enum tls_identity_rule rule, const char *text, size_t len)
{
	struct host name;
	bool match = false;

	if (!cert || !host_of_name(&name, rule, text, len))
		return false;
	ERR_set_mark();
	if (rule == TLS_IDENTITY_SIP)
		match = sip_match(cert, &name);
	else if (rule == TLS_IDENTITY_HOST)
		match = host_match(cert, &name);
	ERR_pop_to_mark();
	return match;
}

bool tls_identity_match(X509 *cert, enum tls_identity_rule rule, const char *name)
{
	return rule == TLS_IDENTITY_OFF || (name && match_one(cert, rule, name, strlen(name)));
}

/* The first name at or after *at, which is moved behind it; NULL at the end. */
static const char *next_name(const char **at, size_t *len)
{
	const char *name = *at + strspn(*at, SEPARATORS);

	*len = strcspn(name, SEPARATORS);
	*at = name + *len;
	return *len ? name : NULL;
}

bool tls_identity_match_any(X509 *cert, enum tls_identity_rule rule, const char *names)
{
	const char *name;
	size_t len;

	if (rule == TLS_IDENTITY_OFF)
		return true;
	while (names && (name = next_name(&names, &len)))
		if (match_one(cert, rule, name, len))
			return true;
	return false;
}

const char *tls_identity_bad_name(enum tls_identity_rule rule, const char *names, size_t *len)
{
	struct host host;
	const char *name;

	while (rule != TLS_IDENTITY_OFF && names && (name = next_name(&names, len)))
		if (!host_of_name(&host, rule, name, *len))
			return name;
	return NULL;
}

enum tls_identity_rule tls_identity_rule_of(const char *text)
{
	size_t len = text ? strlen(text) : 0;

	if (len == 0 || (len == 3 && same_text(text, "off", 3)))
		return TLS_IDENTITY_OFF;
	return len == 4 && same_text(text, "host", 4) ? TLS_IDENTITY_HOST : TLS_IDENTITY_SIP;
}

/* Text that grows up to size. room is where the last name starts before which "..." would fit: cut
 * within a name, the rest would look like another. */
struct line {
	char *text;
	size_t size, len, room;
	bool cut;
};

static void line_add(struct line *line, const char *piece)
{
	size_t len = strlen(piece);

	line->cut = line->cut || len >= line->size - line->len;
	if (line->cut)
		return;
	memcpy(line->text + line->len, piece, len + 1);
	line->len += len;
}

static void line_add_name(struct line *line, const char *kind, const char *name, size_t len,
			  bool escape_all)
{
	char piece[8];

	if (line->len > 0)
		line_add(line, ", ");
	if (!line->cut && line->len + sizeof("...") <= line->size)
		line->room = line->len;
	line_add(line, kind);
	for (size_t i = 0; i < len && !line->cut; i++) {
		bool plain = name[i] > ' ' && name[i] < 0x7f && !strchr("\"\\,", name[i]);

		snprintf(piece, sizeof(piece), plain && !escape_all ? "%c" : "\\x%02x",
			 (unsigned char)name[i]);
		line_add(line, piece);
	}
}

static void line_add_san(struct line *line, int type, const char *text, size_t len)
{
	char ip[INET6_ADDRSTRLEN];

	if (type == GEN_DNS)
		line_add_name(line, "DNS:", text, len, false);
	else if (type == GEN_URI)
		line_add_name(line, len >= 4 && same_text(text, "sip:", 4) ? "" : "URI:", text, len,
			      false);
	else if ((len == 4 || len == 16) &&
		 inet_ntop(len == 4 ? AF_INET : AF_INET6, text, ip, sizeof(ip)))
		line_add_name(line, "IP:", ip, strlen(ip), false);
	else
		line_add_name(line, "IP:", text, len, true);
}

static void line_add_sans(struct line *line, X509 *cert, int wanted)
{
	GENERAL_NAMES *sans = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);

	for (int i = 0; i < sk_GENERAL_NAME_num(sans) && !line->cut; i++) {
		int type;
		size_t len;
		const char *text = san_text(sk_GENERAL_NAME_value(sans, i), &type, &len);

		if (type == wanted)
			line_add_san(line, type, text, len);
	}
	GENERAL_NAMES_free(sans);
}

static void line_add_cns(struct line *line, X509 *cert)
{
	tls_cert_name *subject = X509_get_subject_name(cert);
	int at = -1;

	while ((at = X509_NAME_get_index_by_NID(subject, NID_commonName, at)) >= 0) {
		const X509_NAME_ENTRY *entry = X509_NAME_get_entry(subject, at);
		unsigned char *text = NULL;
		int len = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(entry));

		if (len >= 0)
			line_add_name(line, "CN:", (const char *)text, (size_t)len, false);
		OPENSSL_free(text);
	}
}

void tls_identity_names(X509 *cert, enum tls_identity_rule rule, char *text, size_t size)
{
	struct line line = {.text = text, .size = size};

	if (size == 0)
		return;
	text[0] = '\0';
	ERR_set_mark();
	if (cert && rule != TLS_IDENTITY_HOST)
		line_add_sans(&line, cert, GEN_URI);
	if (cert)
		line_add_sans(&line, cert, GEN_DNS);
	if (cert && rule != TLS_IDENTITY_SIP)
		line_add_sans(&line, cert, GEN_IPADD);
	if (cert && rule != TLS_IDENTITY_HOST && !has_sans(cert))
		line_add_cns(&line, cert);
	ERR_pop_to_mark();
	if (line.len == 0)
		line_add(&line, "none");
	if (line.cut)
		snprintf(text + line.room, size - line.room, "...");
}

const char *tls_identity_subject(const X509 *cert, char *text, size_t size)
{
	BIO *bio = cert ? BIO_new(BIO_s_mem()) : NULL;
	int len = 0;

	if (bio &&
	    X509_NAME_print_ex(bio, X509_get_subject_name(cert), 0,
			       XN_FLAG_RFC2253 & ~(unsigned long)ASN1_STRFLGS_UTF8_CONVERT) >= 0)
		len = BIO_read(bio, text, (int)size - 1);
	text[len > 0 ? len : 0] = '\0';
	for (char *c = text; *c; c++)
		if (*c < ' ' || *c >= 0x7f || *c == '"')
			*c = '?';
	BIO_free(bio);
	return text;
}
