/* SPDX-License-Identifier: ISC */
/*
 * Settings to an SSL_CTX: reads the files that a domain's settings name, says
 * of each what is wrong with it and where it was named. Engine process only.
 */
#ifndef TLS_CONTEXT_H
#define TLS_CONTEXT_H

#include "tls_build.h"

/* Returns the context, or NULL when one of the problems that were reported is an error. Its current
 * certificate is that of the setting certificate. */
SSL_CTX *tls_context_new(const struct tls_context_input *input, struct tls_report *report);

/* Gives an accepted connection, after it was switched to a context, what OpenSSL does not take over
 * from that. */
bool tls_context_enter(SSL *ssl, const SSL_CTX *ctx);

/* True when every certificate is accepted and only the result kept: optional_no_ca. */
bool tls_context_accepts_unverified(enum tls_role role, const struct tls_settings *settings);

/* True when both have the same CA certificates and revocation lists. */
bool tls_context_same_store(const struct tls_settings *a, const struct tls_settings *b);

/* To be called by a thread that has made contexts, before it ends. */
void tls_context_thread_end(void);

#endif
