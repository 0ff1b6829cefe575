/* SPDX-License-Identifier: ISC */
#include "tls_origin.h"

#include "tls_identity.h"

#include <string.h>

#define KEPT          4 /* certificates that stay parsed: routes ask for several values of one or two */
#define NAME_MAX_SIZE 256 /* a longer name matches nothing: it has 253 bytes at most and a dot */

/* Private to the process; an unused one has no cert in x. */
struct kept {
	struct tls_x509 x;
	uint8_t digest[TLS_CERT_DIGEST];
	uint64_t used; /* when: number of the call */
};

struct tls_conn *tls_origin_get(const struct sip_msg *msg)
{
	struct tcp_connection *c;
	struct tls_conn *conn;

	if (!msg || (msg->rcv.proto != PROTO_TLS && msg->rcv.proto != PROTO_WSS))
		return NULL;
	/* A timeout of 0 leaves the connection's own as it is. */
	c = tcpconn_get(msg->rcv.proto_reserved1, NULL, 0, NULL, 0);
	if (!c)
		return NULL;
	conn = c->type == PROTO_TLS || c->type == PROTO_WSS ? c->extra_data : NULL;
	if (conn && atomic_load(&conn->told))
		return conn;
	tls_conn_put(c);
	return NULL;
}

void tls_origin_put(struct tls_conn *conn)
{
	tls_conn_put(conn->tcp);
}

const struct tls_x509 *tls_origin_x509(const struct tls_cert *cert)
{
	static struct kept store[KEPT];
	static uint64_t calls;
	struct kept *oldest = store;

	if (!cert)
		return NULL;
	calls++;
	for (size_t i = 0; i < KEPT; i++) {
		if (store[i].x.cert &&
		    memcmp(store[i].digest, cert->digest, sizeof(store[i].digest)) == 0) {
			store[i].used = calls;
			return &store[i].x;
		}
		if (store[i].used < oldest->used)
			oldest = &store[i];
	}
	tls_x509_close(&oldest->x);
	if (tls_x509_open(&oldest->x, cert->der, cert->len) != 0)
		return NULL;
	memcpy(oldest->digest, cert->digest, sizeof(oldest->digest));
	oldest->used = calls;
	return &oldest->x;
}

bool tls_origin_verified(const struct sip_msg *msg)
{
	struct tls_conn *conn = tls_origin_get(msg);
	bool verified = conn && conn->verified;

	if (conn)
		tls_origin_put(conn);
	return verified;
}

bool tls_origin_may_speak_for(const struct sip_msg *msg, const str *domain)
{
	struct tls_conn *conn;
	const struct tls_x509 *x;
	char name[NAME_MAX_SIZE];
	bool may = false;

	if (!domain->s || domain->len <= 0 || (size_t)domain->len >= sizeof(name) ||
	    memchr(domain->s, '\0', (size_t)domain->len))
		return false;
	memcpy(name, domain->s, (size_t)domain->len);
	name[domain->len] = '\0';
	conn = tls_origin_get(msg);
	if (!conn)
		return false;
	x = conn->verified ? tls_origin_x509(conn->peer_cert) : NULL;
	if (x)
		may = tls_identity_match(x->cert, TLS_IDENTITY_SIP, name);
	tls_origin_put(conn);
	return may;
}
