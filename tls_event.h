/* SPDX-License-Identifier: ISC */
/*
 * Event routes: event_route[tls:connection-out] when a handshake that this end
 * began is done, event_route[tls:connection-in] when one that a peer began is
 * done and its certificate has verified. Without these routes the function of
 * the parameter event_callback is called, if a KEMI script is loaded.
 */
#ifndef TLS_EVENT_H
#define TLS_EVENT_H

#include "tls_conn.h"

/* Looks up the routes. From mod_init. */
void tls_event_init(void);

/* True if a route or function wants to know that this connection's handshake is done. */
bool tls_event_is_wanted(const struct tls_conn *conn);

/*
 * Runs it, in the process that reads the connection, whose reference keeps the connection
 * meanwhile. To be called without write_lock: the route may send on this connection, ask about it,
 * and take its time. Returns true if it executed drop.
 */
bool tls_event_run(struct tcp_connection *c);

#endif
