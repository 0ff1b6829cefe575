/* SPDX-License-Identifier: ISC */
#include "tls_address.h"

#include <arpa/inet.h>
#include <stdio.h>

const char *tls_address_text(const struct tls_address *a, char *text)
{
	char ip[INET6_ADDRSTRLEN] = "?";

	inet_ntop(a->ip_len == 4 ? AF_INET : AF_INET6, a->ip, ip, sizeof(ip));
	snprintf(text, TLS_ADDRESS_TEXT, a->ip_len == 4 ? "%s:%u" : "[%s]:%u", ip, a->port);
	return text;
}
