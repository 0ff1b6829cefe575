/* SPDX-License-Identifier: ISC */
/*
 * Watches connections whose time is limited: handshakes (handshake_timeout,
 * absolute) and connections with ciphertext that does not get out
 * (send_timeout, without progress). The host's own timers know neither.
 * A timer looks at the list once a second and has the host close what is late.
 */
#ifndef TLS_WATCH_H
#define TLS_WATCH_H

#include "tls_conn.h"

/* Makes the list, and its timer in the host's timer process. Returns 0 or -1. From mod_init. */
int tls_watch_init(void);
/* To be called when all other processes are gone. One of them may have held the lock and left the
 * list half linked, so from here on nobody touches either. */
void tls_watch_end(void);
void tls_watch_destroy(void);

/* What tls_watch_add() needs. */
void tls_watch_enlist(struct tls_conn *conn);

/* Puts a connection on the list, if it is not there. It stays until its handshake is done and its
 * write queue is empty, or it is removed. With write_lock held, or before others know it. */
static inline void tls_watch_add(struct tls_conn *conn)
{
	if (!conn->watch.listed)
		tls_watch_enlist(conn);
}

/* Takes it off; to be called before it is freed. */
void tls_watch_remove(struct tls_conn *conn);

/* Has the host close the connection of that id. Returns 0, or -1 if there is none of TLS. */
int tls_watch_close(int id);

/* True if the connection's handshake has taken too long. */
#define TLS_WATCH_LATE "the handshake takes too long (handshake_timeout)"
bool tls_watch_handshake_late(const struct tls_conn *conn);

#endif
