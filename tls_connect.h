/* SPDX-License-Identifier: ISC */
/*
 * What a route wants of the connections that its process opens: the client
 * section (server_id) and the name to ask for. Private to each process.
 */
#ifndef TLS_CONNECT_H
#define TLS_CONNECT_H

#include "tls_session.h"

#include "core/str.h"

/* Sets the server_id for the next connection that this process opens; an empty one resets.
 * Returns 0, or -1 when it is too long. */
int tls_connect_set_server_id(const str *id);

/* Fills in server_name and server_id of a client's setup: the XAVP's (parameter xavp_cfg) before
 * the one that was set by tls_connect_set_server_id(). */
void tls_connect_fill(struct tls_session_setup *setup);

#endif
