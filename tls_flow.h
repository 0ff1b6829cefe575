/* SPDX-License-Identifier: ISC */
/*
 * What both directions of a connection need: the engine's answers, clear text
 * to records and out, and the ends. Everything here works on one connection
 * with its write_lock held, in the process that holds it.
 *
 * A connection that cannot go on is told of by a reason: the start of a log
 * line's fields, static or good until the next request to the engine.
 */
#ifndef TLS_FLOW_H
#define TLS_FLOW_H

#include "tls_conn.h"
#include "tls_rare.h"

/* Clear text that one call of the hook encode takes. */
#define TLS_FLOW_MAX_CLEAR (32 * 1024)
#define TLS_OUTPUT_SIZE    (2 * TLS_FLOW_MAX_CLEAR + TLS_STREAM_REPLY_MAX + TLS_ENGINE_OUT)

_Static_assert(TLS_OUTPUT_SIZE >= TLS_AWAIT_REPLY_MAX, "room for the end of a handshake");

/* Records on their way out. Each process works on one connection at a time, so one buffer is
 * enough; its content is gone with the next call of a function below or of a hook. */
extern uint8_t tls_output[TLS_OUTPUT_SIZE];

/*
 * Asks the engine about a connection. Returns the slot with its answer, or NULL: the engine did
 * not answer, *reason says so, and the connection cannot go on.
 */
struct tls_engine_slot *tls_flow_ask(struct tls_conn *conn, enum tls_engine_op op,
				     const uint8_t *in, size_t len, const char **reason);

/* Keeps what the engine's answer says of the connection that is established now, or, if it was
 * foretold, will be. Returns 0, or -1 without memory. */
int tls_flow_take(struct tls_conn *conn, struct tls_engine_slot *slot);

/* Makes the connection, of which that is known, an established one. */
void tls_flow_establish(struct tls_conn *conn, enum tls_conn_state state);

/* Bytes of clear text that one record takes at most. */
static inline size_t tls_flow_fragment(void)
{
	int limit = cfg_get(tls, tls_cfg, ssl_max_send_fragment);

	return limit > 0 ? (size_t)limit : TLS_RECORD_MAX_PLAIN;
}

/*
 * Turns clear text into records in tls_output. Returns their bytes with *taken set to the bytes of
 * clear text that are in them, or -1 with a reason.
 */
int tls_flow_seal(struct tls_conn *conn, const void *data, size_t len, size_t *taken,
		  const char **reason);

/* Sends records on the reader's own descriptor, behind whatever is queued. Returns 0 or -1. */
int tls_flow_send(struct tls_conn *conn, const uint8_t *data, size_t len, bool close_after);

/* The same for records that have time until the next ones are sent, or until the system no longer
 * waits for these (MSG_MORE; 200 ms, or a longer round trip): one packet then carries both. */
int tls_flow_send_soon(struct tls_conn *conn, const uint8_t *data, size_t len);

/* Sends the clear text that waited for the handshake, in the reader that finished it. Returns 0,
 * or -1 with a reason. */
int tls_flow_flush(struct tls_conn *conn, const char **reason);

/* Puts a close_notify into tls_output, if there is time for one. Returns its bytes. */
size_t tls_flow_close_notify(struct tls_conn *conn);

/* Nothing more can be sent or read; the host closes when it sees the end of the file. */
TLS_RARE void tls_flow_end(struct tls_conn *conn);

/* Logs that a connection ends before its handshake did; nothing for others. One that brought no
 * byte at all is a port scan or a health check, and no failure. */
void tls_flow_end_early(struct tls_conn *conn);

#endif
