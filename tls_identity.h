/* SPDX-License-Identifier: ISC */
/*
 * Whether a certificate may speak for a name. Only names are looked at: whether
 * the chain, the dates and the key usage are good is for the verification of
 * the certificate to say, and a match is worth nothing without it.
 *
 * A name is a domain name, an IPv4 or an IPv6 address, the last also in
 * brackets. It is a host and nothing else: "sip:example.com" or
 * "example.com:5061" match nothing, because scheme and port have no part in the
 * comparison and must not look as if they had. A domain name has at most 253
 * bytes in labels of at most 63 letters, digits, '-' and '_'; its last label is
 * not a number; one trailing dot is ignored. Internationalised names are
 * compared in their ASCII form (xn--...), as RFC 5280 section 7.2 has them in
 * certificates: a name with other bytes matches nothing. Letters match without
 * regard to case. An address matches by its bytes, so that ::ffff:192.0.2.1 is
 * not 192.0.2.1. What is malformed, on either side, matches nothing; nothing is
 * ever cut to fit.
 *
 * Every function can be called from any thread, takes time in proportion to the
 * certificate's names, and leaves OpenSSL's error queue as it was.
 */
#ifndef TLS_IDENTITY_H
#define TLS_IDENTITY_H

#include <openssl/x509.h>

#include <stdbool.h>
#include <stddef.h>

enum tls_identity_rule {
	/* Any name matches any certificate. */
	TLS_IDENTITY_OFF,
	/*
	 * RFC 5922 sections 7.1 and 7.2. Identities are the hosts, domains or addresses, of the
	 * sip URIs without "@" in subjectAltName; port, parameters and headers are ignored. If
	 * there is no such URI, the dNSNames. If there is no subjectAltName at all, the subject's
	 * last common name, the most specific one, if it is a domain name and the only common
	 * name of its RDN.
	 * A sip URI whose host is malformed still keeps dNSNames out: its issuer meant to restrict
	 * the certificate, if only we knew to what. An iPAddress is no SIP identity.
	 * There are no wildcards: "*.example.com" matches the name "*.example.com" only.
	 */
	TLS_IDENTITY_SIP,
	/*
	 * RFC 9525: dNSNames, in which "*" may stand for the whole left-most label, for domains;
	 * iPAddresses for addresses. URIs and common names never count.
	 */
	TLS_IDENTITY_HOST,
};

/* The rule of "off", "sip" or "host", in any case; NULL and "" are off. Any other text gives
 * TLS_IDENTITY_SIP, as a mistake must not turn the check off. */
enum tls_identity_rule tls_identity_rule_of(const char *text);

/* True if cert may speak for name. Without a certificate or a name only TLS_IDENTITY_OFF is. */
bool tls_identity_match(X509 *cert, enum tls_identity_rule rule, const char *name);

/* True if cert may speak for one of the names, which commas or white space or both separate. */
bool tls_identity_match_any(X509 *cert, enum tls_identity_rule rule, const char *names);

/* The first of the names that is malformed and so matches no certificate under the rule, for a
 * check of settings; its length goes to len. NULL if there is none. */
const char *tls_identity_bad_name(enum tls_identity_rule rule, const char *names, size_t *len);

/*
 * Writes the names that the rule looks at to text, for a log line:
 * "sip:example.com, DNS:a.example.com", also URI:, IP: and CN:, or "none". TLS_IDENTITY_OFF gives
 * them all. Bytes other than printable ASCII, and what has a meaning in the line (quote,
 * backslash, comma, space), are written as \x22, so that no name can pass for two. From the first
 * name on that does not fit as a whole, "..." stands for the rest. At most size bytes with the
 * final 0.
 */
void tls_identity_names(X509 *cert, enum tls_identity_rule rule, char *text, size_t size);

/* Writes a certificate's subject to text in printable ASCII, for log lines and answers; cut to
 * size. Returns text. */
const char *tls_identity_subject(const X509 *cert, char *text, size_t size);

#endif
