/* SPDX-License-Identifier: ISC */
#include "tls_server.h"

#include "tls_flow.h"
#include "tls_log.h"
#include "tls_rare.h"
#include "tls_shortage.h"
#include "tls_stats.h"
#include "tls_watch.h"

#include "core/cfg/cfg_struct.h"
#include "core/tcp_init.h"
#include "core/tcp_options.h"

#include <string.h>
#include <sys/socket.h>

int tls_h_init_si(struct socket_info *si)
{
	/* tcp_init() makes the socket; the protocol is set after it, as it asks for TCP's. */
	if (tcp_init(si) != 0) {
		LM_ERR("tls: cannot listen on %.*s\n", si->address_str.len, si->address_str.s);
		return -1;
	}
	si->proto = PROTO_TLS;
	return 0;
}

/* ---- the life of a connection ---- */

static ticks_t connection_lifetime(void)
{
	int seconds = cfg_get(tls, tls_cfg, connection_timeout);

	/* Half the range of ticks: the host compares times by their difference's sign. */
	return seconds < 0 ? (ticks_t)-1 / 2 : S_TO_TICKS((ticks_t)seconds);
}

int tls_h_tcpconn_init(struct tcp_connection *c, int sock)
{
	struct tls_conn none = {.tcp = c, .role = tls_conn_role(c)}, *conn;

	(void)sock;
	c->type = PROTO_TLS;
	c->rcv.proto = PROTO_TLS;
	c->lifetime = connection_lifetime();
	c->timeout = get_ticks_raw() + c->lifetime;
	if (tls_shortage_refuses_connection(&none)) {
		tls_conn_count(TLS_COUNT_connections_refused, 1);
		return -1;
	}
	conn = tls_conn_new(c);
	if (!conn) {
		tls_conn_count(TLS_COUNT_connections_refused, 1);
		tls_shortage_failed(&none, true);
		return -1;
	}
	c->extra_data = conn;
	tls_watch_add(conn);
	tls_stats_note_peak();
	return 0;
}

#if TLS_HAVE_MATCH_HOOKS
/*
 * The host compares the peer's address before; then the same wish means the same domain. It may
 * hold its lock of all connections here, so the engine is not asked: two wishes that lead to one
 * domain get two connections.
 */
int tls_h_match_domain(struct tcp_connection *c, struct ip_addr *ip, unsigned short port)
{
	const struct tls_conn *conn = c->extra_data;
	struct tls_connect_wish wish;

	(void)ip;
	(void)port;
	tls_connect_get_wish(&wish);
	return conn && tls_connect_same_wish(conn->wish, &wish);
}

int tls_h_match_connections_domain(struct tcp_connection *a, struct tcp_connection *b)
{
	const struct tls_conn *conn_a = a->extra_data, *conn_b = b->extra_data;

	return conn_a && conn_b && tls_connect_same_wish(conn_a->wish, conn_b->wish);
}
#endif

void tls_h_tcpconn_clean(struct tcp_connection *c)
{
	struct tls_conn *conn = c->extra_data;

	c->extra_data = NULL;
	if (!conn)
		return;
	tls_watch_remove(conn);
	tls_conn_free(conn);
}

/* With tcp_fd_cache the host calls shutdown() next, which sends the last bytes in one packet with
 * the FIN. Its close() alone may drop them, or leave them to whoever has a copy of the descriptor.
 */
static int last_send_flags(void)
{
	return (cfg_get(tcp, tcp_cfg, fd_cache) ? MSG_MORE : 0) | MSG_DONTWAIT | MSG_NOSIGNAL;
}

void tls_h_tcpconn_close(struct tcp_connection *c, int fd)
{
	struct tls_conn *conn = c->extra_data;
	bool failed;
	size_t len = 0;

	/* The host may hold its global lock here: a busy sender is not waited for. */
	if (!conn || lock_try(&c->write_lock) != 0)
		return;
	failed = conn->state == TLS_CONN_CLOSED;
	if ((conn->state == TLS_CONN_FAST || conn->state == TLS_CONN_HELD) && !c->wbuf_q.first &&
	    cfg_get(tls, tls_cfg, send_close_notify))
		len = tls_flow_close_notify(conn);
	if (!conn->timed_out)
		tls_flow_end_early(conn);
	conn->state = TLS_CONN_CLOSED;
	tls_conn_await_free(conn);
	if (len > 0)
		(void)!send(fd, tls_output, len, last_send_flags());
	if (conn->timed_out || failed)
		shutdown(fd, SHUT_RDWR); /* a reader that has a copy of fd keeps it open else */
	lock_release(&c->write_lock);
}

/* ---- the encode hook ---- */

/* What the host calls with next, before anything else, or NULL. */
static const char *expected_rest;

static TLS_RARE int encode_fail(struct tls_conn *conn, const char *detail)
{
	tls_log_failed(conn, detail);
	tls_flow_end(conn);
	return -1;
}

/* For a message that shared memory is too short for: it is lost, the connection lives on, unless it
 * was to be its last one, or the connection has only just been made for it. */
static int encode_refuse(const struct tls_conn *conn, const snd_flags_t *send_flags)
{
	return (send_flags->f & SND_F_CON_CLOSE) || conn->state == TLS_CONN_NEW ? -1 : 0;
}

/* Keeps clear text until the handshake is done. Returns 0, or -1: the connection is to be closed.
 */
static TLS_RARE int encode_queue(struct tls_conn *conn, const char *data, unsigned len,
				 snd_flags_t *send_flags)
{
	char detail[128];
	const char *reason;

	if (tls_shortage_refuses_operation(conn, true))
		return encode_refuse(conn, send_flags);
	if (tls_conn_queue_add(conn, data, len, (unsigned)cfg_get(tls, tls_cfg, con_ct_wq_max),
			       (unsigned)cfg_get(tls, tls_cfg, ct_wq_max), &reason) != 0) {
		if (!reason) {
			tls_shortage_failed(conn, false);
			return encode_refuse(conn, send_flags);
		}
		snprintf(detail, sizeof(detail), "reason=\"%s\"", reason);
		conn->cause = TLS_CAUSE_queue;
		return encode_fail(conn, detail);
	}
	if (send_flags->f & SND_F_CON_CLOSE) {
		conn->close_after_send = true;
		send_flags->f &= ~SND_F_CON_CLOSE;
		/* The host set it there, too: it would close once the ClientHello is out. */
		conn->tcp->send_flags.f &= (unsigned short)~SND_F_CON_CLOSE;
	}
	return 0;
}

/* The first send on a connection of ours: its records are the ClientHello. */
static TLS_RARE int encode_client_hello(struct tls_conn *conn)
{
	const char *reason;
	struct tls_engine_slot *slot;

	conn->state = TLS_CONN_HANDSHAKE;
	slot = tls_flow_ask(conn, TLS_ENGINE_RUN, NULL, 0, &reason);
	if (!slot)
		return encode_fail(conn, reason);
	if (slot->answer.state != TLS_SESSION_HANDSHAKE || slot->answer.more)
		return encode_fail(conn, slot->answer.text);
	if (slot->answer.text[0])
		LM_WARN("tls: %s\n", slot->answer.text);
	memcpy(tls_output, slot->out, slot->answer.out_len);
	return (int)slot->answer.out_len;
}

/* Records of an established connection are about to be sent. */
static void note_send(struct tls_conn *conn)
{
	tls_watch_add(conn);
	/* The host has just set the idle time of plain TCP, unless a reader has the connection. */
	if (conn->tcp->reader_pid == 0)
		conn->tcp->timeout = get_ticks_raw() + conn->tcp->lifetime;
}

static int encode_data(struct tls_conn *conn, const char *data, unsigned len, size_t *taken)
{
	const char *reason;
	size_t chunk = len < TLS_FLOW_MAX_CLEAR ? len : TLS_FLOW_MAX_CLEAR;
	int sealed;

	sealed = tls_flow_seal(conn, data, chunk, taken, &reason);
	if (sealed < 0)
		return encode_fail(conn, reason);
	note_send(conn);
	return sealed;
}

/*
 * True when a message must not be sent. Sealing takes no shared memory, but the host's queue does
 * that it must wait in when the peer does not take it at once, and the host closes a connection
 * whose queue cannot grow. The rest of a message of which a part is out already is never refused,
 * nor is the last message of a connection.
 */
static bool send_is_refused(const struct tls_conn *conn, bool is_rest,
			    const snd_flags_t *send_flags)
{
	return !is_rest && !(send_flags->f & SND_F_CON_CLOSE) &&
	       tls_shortage_refuses_operation(conn, conn->tcp->wbuf_q.first != NULL);
}

/*
 * The way of nearly every message: one record is what becomes of it, and nothing speaks against
 * sending it. Returns its bytes in tls_output, or 0 when another way has to be gone.
 */
static size_t encode_one(struct tls_conn *conn, const char *data, unsigned len)
{
	size_t fragment = tls_flow_fragment(), taken, sealed;

	if (conn->state != TLS_CONN_FAST || conn->event_due || conn->no_send || expected_rest ||
	    conn->tcp->wbuf_q.first || !tls_shortage_is_for_memory() || len > fragment)
		return 0;
	sealed = tls_stream_write(&conn->stream, (const uint8_t *)data, len, &taken, fragment,
				  tls_output, sizeof(tls_output));
	if (sealed == 0)
		return 0;
	tls_conn_count_clear(true, len, 1);
	note_send(conn);
	return sealed;
}

/* Every other message. Arguments and result are the hook's, but for tls_output. */
static TLS_RARE int encode_any(struct tls_conn *conn, const char **buf, unsigned *len,
			       const char **rest, unsigned *rest_len, snd_flags_t *send_flags)
{
	bool is_rest = *buf == expected_rest;
	size_t taken = *len;
	int result = -1;

	expected_rest = NULL;
	if (!conn || conn->state == TLS_CONN_CLOSED)
		return -1;
	if (conn->no_send)
		return encode_fail(conn, "reason=\"event_route[tls:connection-out] forbade to "
					 "send\"");
	if (conn->state >= TLS_CONN_FAST && !conn->event_due &&
	    send_is_refused(conn, is_rest, send_flags)) {
		result = 0;
	} else if (conn->state >= TLS_CONN_FAST && !conn->event_due) {
		result = encode_data(conn, *buf, *len, &taken);
	} else if (encode_queue(conn, *buf, *len, send_flags) == 0) {
		result = 0;
		if (conn->state == TLS_CONN_NEW && conn->role == TLS_ROLE_CLIENT)
			result = encode_client_hello(conn);
	}
	if (result >= 0 && taken < *len) {
		*rest = expected_rest = *buf + taken;
		*rest_len = *len - (unsigned)taken;
		send_flags->f &= ~SND_F_CON_CLOSE; /* the last part's flags will close it */
	}
	return result;
}

int tls_h_encode(struct tcp_connection *c, const char **buf, unsigned int *len, const char **rest,
		 unsigned int *rest_len, snd_flags_t *send_flags)
{
	struct tls_conn *conn = c->extra_data;
	int result = conn ? (int)encode_one(conn, *buf, *len) : 0;

	*rest = NULL;
	*rest_len = 0;
	if (result == 0)
		result = encode_any(conn, buf, len, rest, rest_len, send_flags);
	if (result < 0)
		return -1;
	*buf = (const char *)tls_output;
	*len = (unsigned)result;
	return result;
}
