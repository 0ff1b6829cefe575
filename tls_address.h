/* SPDX-License-Identifier: ISC */
/* Which end of a connection this is, and the addresses of both. Plain data; no host. */
#ifndef TLS_ADDRESS_H
#define TLS_ADDRESS_H

#include <stdint.h>

enum tls_role {
	TLS_ROLE_SERVER,
	TLS_ROLE_CLIENT,
};

/* One end of a connection. */
struct tls_address {
	uint8_t ip[16]; /* 4 or 16 bytes, network order */
	uint8_t ip_len;
	uint16_t port;
};

/* Room for tls_address_text(): "[" IPv6 "]:" port. */
#define TLS_ADDRESS_TEXT 64
/* Writes "127.0.0.1:5061" or "[::1]:5061" to text and returns it. */
const char *tls_address_text(const struct tls_address *a, char *text);

#endif
