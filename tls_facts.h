/* SPDX-License-Identifier: ISC */
/*
 * What the line about a failed connection tells beside its reason: domain, the
 * peer's certificate, SNI, alerts, and what a client offered. The line of a
 * handshake is the same whichever process sees it fail.
 */
#ifndef TLS_FACTS_H
#define TLS_FACTS_H

#include <openssl/ssl.h>

#include <stddef.h>
#include <stdint.h>

/* Of what a client offered, a line tells this many bytes. */
#define TLS_OFFER_VERSIONS 32
#define TLS_OFFER_SUITES   150

/* A ClientHello's versions and suites, two bytes each, as they came. Plain data: crosses a process.
 */
struct tls_offer {
	uint8_t versions[TLS_OFFER_VERSIONS], suites[TLS_OFFER_SUITES];
	uint8_t versions_len, suites_len; /* without versions there was no ClientHello */
};

/* Borrows what it points to. */
struct tls_facts {
	const char *domain;   /* its name; NULL: it has none */
	const char *bad_cert; /* fields about the peer's certificate, each after a space, or "" */
	const char *server_name;        /* or "" */
	int alert_sent, alert_received; /* or -1 */
	const struct tls_offer *offer;  /* or NULL */
};

/* Takes what the ClientHello offers that a callback of SSL_CTX_set_client_hello_cb() looks at. */
void tls_offer_note(struct tls_offer *offer, SSL *ssl);

/* Appends the fields to a text of the given size, each after a space. What does not fit is cut. */
void tls_facts_tell(const struct tls_facts *facts, char *text, size_t size);

/* Appends to a text of a fixed size; what does not fit is cut. */
void tls_text_add(char *text, size_t size, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
