/* SPDX-License-Identifier: ISC */
/*
 * The module's state of one connection of the host, small and plain, because
 * any process may need it next. Lives in the host's shared memory behind
 * tcp_connection.extra_data; guarded by the connection's write_lock, unless
 * a member says otherwise; freed by the hook tcpconn_clean.
 */
#ifndef TLS_CONN_H
#define TLS_CONN_H

#include "tls_cert.h"
#include "tls_connect.h"
#include "tls_engine.h"
#include "tls_rare.h"

#include "core/tcp_conn.h"
#include "core/timer_ticks.h"

#include <stdatomic.h>

enum tls_conn_state {
	TLS_CONN_NEW,       /* no byte has come or gone */
	TLS_CONN_HANDSHAKE, /* the engine has a session, or await what ends it */
	TLS_CONN_FAST,      /* established: stream seals and opens */
	TLS_CONN_HELD,      /* established: the engine seals and opens */
	TLS_CONN_CLOSED,    /* failed or ended: nothing can be sent or read */
};

/* A piece of shared memory with a length. */
struct tls_blob {
	struct tls_blob *next; /* in a queue */
	uint32_t len;
	uint32_t taken; /* bytes at the start that are done with */
	uint8_t data[];
};

/* Links of the list of watched connections, guarded by its lock (tls_watch.c). */
struct tls_watch_link {
	struct tls_conn *next, *prev;
	bool listed;
	unsigned queued;  /* bytes in the host's write queue at the last look */
	ticks_t stalled;  /* since when these have not become fewer */
	ticks_t deadline; /* given to the host's queue; each write of the host moves it */
};

/* What is kept of a handshake that lacks the client's last messages only; owner: the connection. */
struct tls_conn_await {
	struct tls_await stream;
	struct tls_offer offer;
	/* TLS 1.3: records that go out before what the stream seals, or NULL. */
	struct tls_blob *tickets;
	struct tls_blob *messages; /* what stream.messages points to, or NULL */
};

struct tls_conn {
	struct tcp_connection *tcp; /* the owner */
	uint8_t state;              /* enum tls_conn_state */
	uint8_t role;               /* enum tls_role */
	bool eof;                   /* the peer has closed; what it sent before may still wait */
	bool close_after_send;      /* the host wanted to close, but clear text had to wait */
	bool timed_out;             /* closed by tls_watch.c: wake the reader, too */
	bool engine_has_more;       /* the engine's last answer did not fit its buffers */
	bool event_due;             /* established, but a route is to run before anything is sent */
	bool no_send;               /* a route forbade to send */
	bool failed;                /* and was counted so */
	uint8_t cause;              /* enum tls_cause of what fails, when it is recognised */
	uint8_t counted;            /* enum tls_conn_state that it was counted as being in, or 0 */
	bool resumed, verified, has_peer_cert;
	uint16_t version, suite, suite_bits;
	int32_t verify_result;         /* X509_V_... */
	uint32_t handle;               /* the engine's session, or 0 */
	uint32_t domain_id;            /* counted as its user, or 0 */
	struct tls_connect_wish *wish; /* of an outgoing one, or NULL; set when it is made */
	ticks_t started;
	int64_t created;                    /* seconds since 1970 */
	uint64_t clear_bytes, packed_bytes; /* both ways, so far; 0 without compression */
	struct tls_stream stream;
	struct tls_conn_await *await; /* while the client's last messages are missing, else NULL */
	struct tls_blob *records;     /* of the peer: a part of one, or whole ones that must wait */
	struct tls_blob *clear;       /* of the peer: found no room in the host's buffer yet */
	struct tls_blob *queue;       /* for the peer: clear text, waits for the handshake */
	uint32_t queued;              /* bytes in it */
	/* Filled in once, before told is set; then they never change, and whoever has a reference
	 * to tcp may read them without a lock: version, suite, verify_result and their like, too.
	 */
	struct tls_cert *own_cert, *peer_cert;
	struct tls_cert_chain *chain; /* what verified peer_cert, or NULL */
	char *server_name;            /* SNI, or NULL */
	atomic_bool told;             /* the handshake is done, and this is known */
	struct tls_watch_link watch;
};

/* Makes what all connections share. Returns 0, or -1 without memory. */
int tls_conn_init(void);
/* A process that was killed may have held the lock. */
void tls_conn_free_lock(void);
void tls_conn_destroy(void);

/* Of a connection that the host is just making, too: its flags come after the hook
 * on_tcpconn_init, its state before. */
enum tls_role tls_conn_role(const struct tcp_connection *tcp);

/* From on_tcpconn_init. Returns NULL without memory. Does not touch the connection's own members;
 * takes what the route wants of an outgoing one. */
struct tls_conn *tls_conn_new(struct tcp_connection *tcp);

/* Gives a reference to a connection back. Any process; the last one has TCP main free it. */
void tls_conn_put(struct tcp_connection *tcp);

/* Has TCP main close a connection; a reference goes with the command. Returns 0 or -1. */
int tls_conn_send_eof(struct tcp_connection *tcp);

/* Counts in the calling process's slot. */
void tls_conn_count(enum tls_counter row, int64_t n);
/* Counts clear text that came or went, and the records that carried it. */
void tls_conn_count_clear(bool sent, size_t bytes, size_t records);
/* Counts a connection that fails, once, by its cause if it is still in its handshake. */
TLS_RARE void tls_conn_count_failure(struct tls_conn *conn);
/* Counts one that is established now. */
void tls_conn_count_established(struct tls_conn *conn);

/* Frees everything, the engine's session too. NULL is fine. */
void tls_conn_free(struct tls_conn *conn);

/* Takes the certificates that an answer of the engine holds (struct tls_session_io). Returns 0, or
 * -1 without memory; tls_conn_free() frees what there is. */
int tls_conn_keep_certs(struct tls_conn *conn, const uint8_t *list, size_t len);

/* Keeps what an answer says that the stream waits for. Returns 0, or -1 without memory. */
int tls_conn_await(struct tls_conn *conn, const struct tls_engine_slot *slot);
/* Wipes and frees it; nothing if there is none. */
void tls_conn_await_free(struct tls_conn *conn);

/* Returns a copy of len bytes, or NULL without memory. */
struct tls_blob *tls_blob_new(const uint8_t *data, size_t len);
void tls_blob_free(struct tls_blob **blob);

/* Appends clear text to the queue. Returns 0, or -1 with a reason when it would exceed the
 * given limits (bytes of this connection, of all), NULL without memory. */
int tls_conn_queue_add(struct tls_conn *conn, const void *data, size_t len, unsigned max_conn,
		       unsigned max_all, const char **reason);
/* Frees the first piece of the queue. */
void tls_conn_queue_pop(struct tls_conn *conn);

/* Bytes of clear text in the queues of all connections. */
unsigned tls_conn_queued_bytes(void);

#endif
