/* SPDX-License-Identifier: ISC */
/*
 * What routes want of the connections that their process opens: the client
 * section (server_id) and the name to ask for.
 */
#ifndef TLS_CONNECT_H
#define TLS_CONNECT_H

#include "tls_session.h"

#include "core/str.h"

/* Empty texts: nothing is wanted. Of a connection: in shared memory, owned by it, never changed. */
struct tls_connect_wish {
	char server_name[TLS_SESSION_NAME];
	char server_id[TLS_SESSION_NAME];
};

/* Sets the server_id for the next connection that this process opens; an empty one resets.
 * Returns 0, or -1 when it is too long. */
int tls_connect_set_server_id(const str *id);

/* What the route that runs in this process wants at the moment: the XAVP's texts (parameter
 * xavp_cfg) before the one that was set by tls_connect_set_server_id(). */
void tls_connect_get_wish(struct tls_connect_wish *wish);

/* Copies that for a new connection, which uses up the text that was set. Returns 0 with *wish in
 * shared memory, or NULL if nothing is wanted; -1 without memory. */
int tls_connect_take_wish(struct tls_connect_wish **wish);

/* True if both are the same; NULL is the same as an empty one. */
bool tls_connect_same_wish(const struct tls_connect_wish *a, const struct tls_connect_wish *b);

#endif
