/* SPDX-License-Identifier: ISC */
/*
 * The module's log lines about connections: one form, so that they can be
 * searched: "tls: <event> peer=... local=... role=... key=value ...".
 */
#ifndef TLS_LOG_H
#define TLS_LOG_H

#include "tls_conn.h"
#include "tls_rare.h"

#include "core/dprint.h"

/* Logs one line about a connection; event is "failed", "refused", "established" or "closed". */
void tls_log_conn(int level, const struct tls_conn *conn, const char *event, const char *format,
		  ...) __attribute__((format(printf, 4, 5)));

/* Appends to a text of TLS_SESSION_TEXT bytes what this process knows of a connection whose domain
 * is chosen; alerts are -1 where there was none. */
void tls_log_facts(const struct tls_conn *conn, int alert_sent, int alert_received, char *text);

/* Counts and logs that a connection failed: detail is its reason and what else is told, to which
 * the domain and its like are added if they are known and not there. write_lock must be held. */
TLS_RARE void tls_log_failed(struct tls_conn *conn, const char *detail);

/* The same for a reason that the engine does not see, once: it is asked what it knows of a
 * handshake. */
TLS_RARE void tls_log_failure(struct tls_conn *conn, enum tls_cause cause, const char *reason);

/* Logs the lines of the key log that an answer of the engine holds, and wipes them. */
void tls_log_keys(const struct tls_conn *conn, struct tls_engine_answer *answer);

/* Logs what a report's text holds, each message at its level. */
void tls_log_report(const char *text);

#endif
