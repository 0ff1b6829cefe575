/* SPDX-License-Identifier: ISC */
/*
 * The certificates of a set of domains that end soon: whom to warn of, and
 * when to warn again. Engine process, but for tls_expiry_is_due().
 */
#ifndef TLS_EXPIRY_H
#define TLS_EXPIRY_H

#include "tls_domain.h"

/* A certificate with less time than this is warned of. */
#define TLS_EXPIRY_SOON (14 * 86400)

/* Of a set that shows no certificate. */
#define TLS_EXPIRY_NONE INT64_MAX

/* Seconds until a certificate ends, negative when it has. */
int64_t tls_expiry_left(const X509 *cert);

/*
 * Warns of each certificate that ends soon and, if told to, of those that have ended. One line for
 * each file, however many domains show it. Returns the seconds until the first one of all ends,
 * negative when it has, or TLS_EXPIRY_NONE.
 */
int64_t tls_expiry_look(const struct tls_domain_set *set, bool with_ended,
			struct tls_report *report);

/*
 * True once a day. now is the time of the clock that certificates go by; *last belongs to the
 * caller and begins with 0, the start, when a day begins. A clock that is set back begins a new
 * day.
 */
bool tls_expiry_is_due(int64_t now, int64_t *last);

#endif
