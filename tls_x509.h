/* SPDX-License-Identifier: ISC */
/*
 * What a certificate says, as texts. A value is right or there is none: bytes
 * that are not what their ASN.1 type promises, control characters (NUL among
 * them), and forms that RFC 5280 does not allow give NULL, and nothing is ever
 * cut, so that no value can pass for another one.
 *
 * Texts are UTF-8, in memory from malloc() that the caller frees; NULL also
 * without memory. Every function leaves OpenSSL's error queue as it was. An
 * opened certificate belongs to one thread at a time.
 */
#ifndef TLS_X509_H
#define TLS_X509_H

#include <openssl/x509v3.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A certificate that is looked at. */
struct tls_x509 {
	X509 *cert;
	GENERAL_NAMES *sans; /* of subjectAltName, or NULL */
	bool bad_sans;       /* it is there twice or malformed */
};

/* Parses one certificate, which must end where the bytes end. Returns 0, or -1. */
int tls_x509_open(struct tls_x509 *x, const uint8_t *der, size_t len);
/* A closed one is all 0 and can be closed again. */
void tls_x509_close(struct tls_x509 *x);

/* The version field of RFC 5280: "2" for version 3. */
char *tls_x509_version(const struct tls_x509 *x);
/* Decimal, of any sign; NULL beyond TLS_X509_SERIAL bytes (RFC 5280 has 20). */
#define TLS_X509_SERIAL 128
char *tls_x509_serial(const struct tls_x509 *x);
/* As OpenSSL prints times: "Nov  4 06:29:56 2026 GMT". */
char *tls_x509_not_before(const struct tls_x509 *x);
char *tls_x509_not_after(const struct tls_x509 *x);
char *tls_x509_pem(const struct tls_x509 *x);
/* PEM, with all but letters, digits and "-_.~" as %2b. */
char *tls_x509_urlencoded(const struct tls_x509 *x);

/* The first value of an attribute, by its NID, of the subject or issuer. */
char *tls_x509_name(const struct tls_x509 *x, bool issuer, int nid);
/*
 * The whole subject or issuer in OpenSSL's old form, /C=DE/O=Example/CN=a.example.com, that has a
 * byte other than printable ASCII as \xC3. So are a slash and a backslash of a value, which OpenSSL
 * itself leaves as they are: a value must not look like two.
 */
char *tls_x509_name_line(const struct tls_x509 *x, bool issuer);

/* The number of subjectAltNames of a type (GEN_DNS, GEN_EMAIL, GEN_URI, GEN_IPADD), the ones
 * without a right value included; -1 when the extension cannot be read. */
int tls_x509_san_count(const struct tls_x509 *x, int type);
/* One of them, from 0 on; from the last one, -1, on backwards. An IPv6 address is written as SER
 * does, 2001:db8:0:0:0:0:0:1. */
char *tls_x509_san(const struct tls_x509 *x, int type, int index);

/* True if it names itself as its issuer. */
bool tls_x509_self_signed(const struct tls_x509 *x);
/* True if it is not valid any more, by this machine's clock. */
bool tls_x509_expired(const struct tls_x509 *x);

#endif
