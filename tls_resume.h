/* SPDX-License-Identifier: ISC */
/*
 * Session tickets as OpenSSL asks for them: which keys seal and open them,
 * when a session is too old to be resumed; what a ticket of TLS 1.2 is made of
 * elsewhere, and tickets of TLS 1.3 without OpenSSL. Engine process only.
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

/* Room for what tls_resume_ticket() writes. */
#define TLS_RESUME_TICKET (64 + TLS_EXCHANGE_SESSION + TLS_EXCHANGE_TICKET_EXTRA)

/* True for a server of TLS 1.3 that sends one ticket after this handshake, a full one. */
bool tls_resume_sends_ticket(const SSL *ssl);

/*
 * Writes the NewSessionTicket (RFC 8446 section 4.6.1) of a full handshake of TLS 1.3 that is done,
 * into out, of TLS_RESUME_TICKET bytes. hash is that of the suite, secret its
 * resumption_master_secret; the session of ssl is for nothing else afterwards. OpenSSL does the
 * same, but writes the session twice and reads it once to copy it. Unlike there, ticket_age_add is
 * not in the session: who accepts early data needs it there. Returns the bytes, or 0 on failure, or
 * if there is no room.
 */
size_t tls_resume_ticket(SSL *ssl, uint8_t hash, const uint8_t *secret, uint8_t *out);

#endif
