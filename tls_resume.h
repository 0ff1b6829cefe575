/* SPDX-License-Identifier: ISC */
/*
 * Session tickets as OpenSSL asks for them: which keys seal and open them,
 * when a session is too old to be resumed; and what a ticket of TLS 1.2 is
 * made of elsewhere. Engine process only.
 */
#ifndef TLS_RESUME_H
#define TLS_RESUME_H

#include "tls_ticket.h"

#include <openssl/ssl.h>

/* To be done to every SSL_CTX. */
void tls_resume_prepare(SSL_CTX *ctx);

/* Borrows the keys for all that ssl does. Returns false without memory. */
bool tls_resume_attach(SSL *ssl, struct tls_ticket_keys *keys);

/*
 * Fills in what the ticket of a TLS 1.2 handshake is made of that is not done yet, and writes its
 * session, of TLS_EXCHANGE_SESSION bytes at most, which lacks the master secret only. The session
 * of ssl has its cipher. Returns false on failure, or if there is no room.
 */
bool tls_resume_template(SSL *ssl, struct tls_exchange_ticket *t, uint8_t *out, size_t size);

#endif
