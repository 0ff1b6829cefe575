/* SPDX-License-Identifier: ISC */
#include "tls_select.h"

#include "tls_conn.h"

#include "core/dprint.h"

/* The connection that a message came in on, with a reference to give back; NULL if it was no TLS
 * connection or is gone. */
static struct tcp_connection *connection_of(const struct sip_msg *msg)
{
	struct tcp_connection *c;

	if (msg->rcv.proto != PROTO_TLS && msg->rcv.proto != PROTO_WSS)
		return NULL;
	c = tcpconn_get(msg->rcv.proto_reserved1, NULL, 0, NULL, 0);
	if (c && (c->type == PROTO_TLS || c->type == PROTO_WSS) && c->extra_data)
		return c;
	if (c)
		tls_conn_put(c);
	return NULL;
}

bool tls_select_peer_verified(const struct sip_msg *msg)
{
	struct tcp_connection *c = connection_of(msg);
	struct tls_conn *conn;
	bool verified;

	if (!c)
		return false;
	conn = c->extra_data;
	lock_get(&c->write_lock);
	verified = conn->verified;
	lock_release(&c->write_lock);
	tls_conn_put(c);
	return verified;
}
