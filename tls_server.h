/* SPDX-License-Identifier: ISC */
/*
 * The hooks through which the host's TCP core speaks TLS: struct tls_hooks in
 * core/tls_hooks.h says when each is called, by which process, holding what.
 */
#ifndef TLS_SERVER_H
#define TLS_SERVER_H

#include "tls_compat.h"
#include "tls_conn.h"

#include "core/tls_hooks.h"

int tls_h_init_si(struct socket_info *si);
int tls_h_tcpconn_init(struct tcp_connection *c, int sock);
void tls_h_tcpconn_clean(struct tcp_connection *c);
void tls_h_tcpconn_close(struct tcp_connection *c, int fd);
int tls_h_encode(struct tcp_connection *c, const char **buf, unsigned int *len, const char **rest,
		 unsigned int *rest_len, snd_flags_t *send_flags);

#if TLS_HAVE_MATCH_HOOKS
int tls_h_match_domain(struct tcp_connection *c, struct ip_addr *ip, unsigned short port);
int tls_h_match_connections_domain(struct tcp_connection *a, struct tcp_connection *b);
#endif

#endif
