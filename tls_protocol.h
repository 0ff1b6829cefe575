/* SPDX-License-Identifier: ISC */
/*
 * What two ends of TLS agree on: versions, security level, cipher suites, groups, signature
 * algorithms and the application's protocol, from a domain's settings. Engine process only.
 */
#ifndef TLS_PROTOCOL_H
#define TLS_PROTOCOL_H

#include "tls_build.h"

/* Steps of building an SSL_CTX. The first sets the versions that the other steps go by; suites come
 * before certificates, which the security level judges. */
void tls_protocol_build_versions(struct tls_build *b);
void tls_protocol_build_ciphers(struct tls_build *b);
void tls_protocol_build_lists(struct tls_build *b); /* groups, signatures, ALPN */

/* Tries whether all steps together leave anything to talk with. The last step, if none failed. */
void tls_protocol_probe(struct tls_build *b);

/*
 * Gives an accepted connection the groups of the SSL_CTX that it was switched to. OpenSSL takes
 * groups over when an SSL is made and cannot reset them to the library's, so an SSL has to begin
 * with an SSL_CTX that has none if there is one.
 */
bool tls_protocol_enter(SSL *ssl, const SSL_CTX *ctx);

#endif
