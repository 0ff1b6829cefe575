/* SPDX-License-Identifier: ISC */
/*
 * The hook read: bytes of the peer to clear text for the host, by the engine
 * or on the fast path, and what follows a handshake that is done. Runs in TCP
 * readers only, never twice at once for one connection.
 */
#ifndef TLS_READ_H
#define TLS_READ_H

#include "core/tcp_conn.h"
#include "core/tcp_read.h"

/*
 * Puts clear text at c->req.pos. Returns its bytes, 0 if there is none yet, or -1 with req.error
 * set. flags as the host's core/tls_hooks.h has them: RD_CONN_REPEAT_READ asks to be called again
 * at once, RD_CONN_EOF tells that the peer is done. Takes write_lock.
 */
int tls_h_read(struct tcp_connection *c, rd_conn_flags_t *flags);

#endif
