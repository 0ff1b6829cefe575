/* SPDX-License-Identifier: ISC */
/*
 * The connection that a message came in on, TLS or WSS, and who its peer is.
 * For any process and any route with a message, also one that runs inside a
 * hook, with the connection's write_lock held: no lock of the module is taken.
 */
#ifndef TLS_ORIGIN_H
#define TLS_ORIGIN_H

#include "tls_conn.h"
#include "tls_x509.h"

#include "core/parser/msg_parser.h"

/*
 * That connection, whose handshake is done, with a reference to be given back: what it was told
 * (struct tls_conn) may be read until then. NULL if the message did not come over TLS or the
 * connection is gone.
 */
struct tls_conn *tls_origin_get(const struct sip_msg *msg);
void tls_origin_put(struct tls_conn *conn);

/* A certificate of such a connection, parsed; NULL if it is NULL or none. Belongs to this process's
 * store of the last few; good until the next call. */
const struct tls_x509 *tls_origin_x509(const struct tls_cert *cert);

/* True if the peer showed a certificate whose chain verified. */
bool tls_origin_verified(const struct sip_msg *msg);

/* True if, besides, that certificate may speak for the domain by the rules of RFC 5922
 * (TLS_IDENTITY_SIP in tls_identity.h). */
bool tls_origin_may_speak_for(const struct sip_msg *msg, const str *domain);

#endif
