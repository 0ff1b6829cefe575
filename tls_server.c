/* SPDX-License-Identifier: ISC */
#include "tls_server.h"

#include "tls_connect.h"
#include "tls_event.h"
#include "tls_log.h"
#include "tls_shortage.h"
#include "tls_watch.h"

#include "core/cfg/cfg_struct.h"
#include "core/globals.h"
#include "core/mem/shm_mem.h"
#include "core/pt.h"
#include "core/tcp_info.h"
#include "core/tcp_init.h"
#include "core/tcp_int_send.h"
#include "core/tcp_read.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* One whole record, and what one read may bring beyond it. */
#define INPUT_SIZE (TLS_RECORD_MAX + TLS_ENGINE_IN)
/* Clear text that one call of the encode hook takes. */
#define ENCODE_MAX  (32 * 1024)
#define OUTPUT_SIZE (2 * ENCODE_MAX + TLS_STREAM_REPLY_MAX + TLS_ENGINE_OUT)
/* A held connection's close_notify is not worth keeping the TCP main process waiting. */
#define CLOSE_TIMEOUT_MS 50
/* Each process works on one connection at a time, so one buffer of each kind is enough. */
static uint8_t input[INPUT_SIZE];
static uint8_t output[OUTPUT_SIZE];

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

static void count_peak(void)
{
	struct tcp_gen_info info;

	tcp_get_info(&info);
	tls_counter_raise((unsigned)process_no, TLS_COUNT_peak_connections,
			  info.tls_connections_no);
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
	count_peak();
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

/* For a connection that ends before its handshake did. One that brought no byte at all is a
 * port scan or a health check, and no failure. */
static void log_early_end(struct tls_conn *conn)
{
	if (conn->state == TLS_CONN_HANDSHAKE) {
		conn->cause = TLS_CAUSE_closed;
		tls_conn_count_failure(conn);
		tls_log_handshake(conn, "the connection was closed during the handshake");
	} else if (conn->state == TLS_CONN_NEW) {
		tls_log_conn(L_INFO, conn, "closed",
			     "reason=\"the connection was closed without a byte\"");
	}
}

static size_t close_notify(struct tls_conn *conn)
{
	struct tls_engine_slot *slot;

	if (conn->state == TLS_CONN_FAST)
		return tls_stream_alert(&conn->stream, TLS_ALERT_CLOSE_NOTIFY, output);
	slot = tls_engine_is_stuck() ? NULL : tls_engine_slot((unsigned)process_no);
	if (!slot)
		return 0;
	slot->request.op = TLS_ENGINE_CLOSE;
	slot->request.handle = conn->handle;
	if (tls_engine_call(slot, CLOSE_TIMEOUT_MS) != 0)
		return 0;
	memcpy(output, slot->out, slot->answer.out_len);
	return slot->answer.out_len;
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
		len = close_notify(conn);
	if (!conn->timed_out)
		log_early_end(conn);
	conn->state = TLS_CONN_CLOSED;
	if (len > 0)
		(void)!send(fd, output, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (conn->timed_out || failed)
		shutdown(fd, SHUT_RDWR); /* a reader that has a copy of fd keeps it open else */
	lock_release(&c->write_lock);
}

/* Nothing more can be sent or read; the host closes when it sees the end of the file. */
static void conn_end(struct tls_conn *conn)
{
	conn->state = TLS_CONN_CLOSED;
	conn->eof = true;
	tls_blob_free(&conn->records);
	tls_blob_free(&conn->clear);
	tls_stream_wipe(&conn->stream);
}

/* Sends records on the reader's own descriptor, behind whatever is queued. */
static int send_records(struct tls_conn *conn, const uint8_t *data, size_t len, bool close_after)
{
	struct tcp_connection *c = conn->tcp;
	snd_flags_t flags = {0};

	if (close_after)
		flags.f |= SND_F_CON_CLOSE;
	if (len == 0)
		return 0;
	tls_watch_add(conn);
	return tcpconn_send_unsafe(c->fd, c, (const char *)data, (unsigned)len, flags) < 0 ? -1 : 0;
}

/* ---- the engine ---- */

static void fill_address(struct tls_address *a, const struct ip_addr *ip, unsigned short port)
{
	a->ip_len = (uint8_t)ip->len;
	a->port = port;
	memcpy(a->ip, ip->u.addr, ip->len);
}

/*
 * Asks the engine about a connection. Returns the slot with its answer, or NULL: the engine did
 * not answer, *reason says so, and the connection cannot go on.
 */
static struct tls_engine_slot *ask_engine(struct tls_conn *conn, enum tls_engine_op op,
					  const uint8_t *in, size_t len, const char **reason)
{
	struct tls_engine_slot *slot = tls_engine_slot((unsigned)process_no);
	struct receive_info *rcv = &conn->tcp->rcv;

	conn->cause = TLS_CAUSE_engine;
	*reason = "reason=\"the engine is still busy with an earlier request\"";
	if (!slot)
		return NULL;
	slot->request.op = op;
	slot->request.handle = conn->handle;
	slot->request.in_len = (uint32_t)len;
	slot->request.keylog = tls_keylog_active();
	slot->request.setup.role = conn->role;
	if (conn->wish && !conn->handle) {
		memcpy(slot->request.setup.server_id, conn->wish->server_id, TLS_SESSION_NAME);
		memcpy(slot->request.setup.server_name, conn->wish->server_name, TLS_SESSION_NAME);
	}
	fill_address(&slot->request.setup.local, &rcv->dst_ip, rcv->dst_port);
	fill_address(&slot->request.setup.remote, &rcv->src_ip, rcv->src_port);
	if (len > 0)
		memcpy(slot->in, in, len);
	*reason = "reason=\"the engine did not answer in time (engine_timeout)\"";
	if (tls_engine_call(slot, (unsigned)cfg_get(tls, tls_cfg, engine_timeout)) != 0)
		return NULL;
	conn->handle = slot->answer.handle;
	conn->cause = (uint8_t)slot->answer.cause;
	tls_log_keys(conn, &slot->answer);
	conn->clear_bytes = slot->answer.clear_bytes;
	conn->packed_bytes = slot->answer.packed_bytes;
	return slot;
}

static const char *version_name(uint16_t version)
{
	switch (version) {
	case 0x0304:
		return "TLSv1.3";
	case 0x0303:
		return "TLSv1.2";
	case 0x0302:
		return "TLSv1.1";
	case 0x0301:
		return "TLSv1.0";
	default:
		return "SSLv3";
	}
}

static char *shm_copy(const char *text)
{
	size_t size = strlen(text) + 1;
	char *copy = shm_malloc(size);

	if (copy)
		memcpy(copy, text, size);
	return copy;
}

static void log_established(const struct tls_conn *conn, const struct tls_session_info *info)
{
	tls_log_conn(cfg_get(tls, tls_cfg, log), conn, "established",
		     "version=%s suite=%s path=%s verified=%s resumed=%s domain=\"%s\"%s%s",
		     version_name(info->version), info->suite_name,
		     conn->state == TLS_CONN_FAST ? "fast" : "engine",
		     !info->has_peer_cert ? "none"
		     : info->verified     ? "yes"
					  : "no",
		     info->resumed ? "yes" : "no", tls_engine_domain_name(info->domain_id),
		     info->server_name[0] ? " sni=" : "", info->server_name);
}

/* Keeps what the engine's answer says of the connection that is established now. */
static int conn_establish(struct tls_conn *conn, struct tls_engine_slot *slot)
{
	const struct tls_session_info *info = &slot->answer.info;

	if (tls_conn_keep_certs(conn, slot->cert, slot->answer.cert_len) != 0) {
		tls_stream_wipe(&slot->answer.stream);
		return -1;
	}
	if (info->server_name[0] && !(conn->server_name = shm_copy(info->server_name))) {
		tls_stream_wipe(&slot->answer.stream);
		return -1;
	}
	conn->domain_id = info->domain_id;
	tls_engine_domain_use(conn->domain_id, 1);
	conn->version = info->version;
	conn->suite = info->suite;
	conn->suite_bits = info->suite_bits;
	conn->resumed = info->resumed;
	conn->has_peer_cert = info->has_peer_cert;
	conn->verified = info->verified;
	conn->verify_result = (int32_t)info->verify_result;
	if (slot->answer.state == TLS_SESSION_FAST) {
		conn->stream = slot->answer.stream;
		conn->stream.update_after = (uint64_t)cfg_get(tls, tls_cfg, key_update_records);
		tls_stream_wipe(&slot->answer.stream);
		conn->state = TLS_CONN_FAST;
	} else {
		conn->state = TLS_CONN_HELD;
	}
	atomic_store(&conn->told, true);
	tls_watch_remove(conn);
	count_peak();
	tls_conn_count_established(conn);
	log_established(conn, info);
	conn->event_due = tls_event_is_wanted(conn);
	return 0;
}

/* ---- clear text to records ---- */

static void count_sent(size_t bytes, size_t fragment)
{
	tls_conn_count(TLS_COUNT_bytes_sent, (int64_t)bytes);
	tls_conn_count(TLS_COUNT_records_sent, (int64_t)((bytes + fragment - 1) / fragment));
}

static void count_received(size_t bytes, unsigned records)
{
	tls_conn_count(TLS_COUNT_bytes_received, (int64_t)bytes);
	tls_conn_count(TLS_COUNT_records_received, records);
}

/*
 * Turns clear text into records in to. Returns their bytes with *taken set to the bytes of clear
 * text that are in them, or -1 with a reason.
 */
static int seal(struct tls_conn *conn, const void *data, size_t len, size_t *taken, uint8_t *to,
		size_t size, const char **reason)
{
	struct tls_engine_slot *slot;
	int limit = cfg_get(tls, tls_cfg, ssl_max_send_fragment);
	size_t fragment = limit > 0 ? (size_t)limit : TLS_RECORD_MAX_PLAIN;
	size_t sealed;

	*taken = 0;
	if (conn->state == TLS_CONN_FAST) {
		sealed = tls_stream_write(&conn->stream, data, len, taken, fragment, to, size);
		*reason = "reason=\"a record could not be sealed\"";
		conn->cause = TLS_CAUSE_protocol;
		count_sent(*taken, fragment);
		return sealed > 0 ? (int)sealed : -1;
	}
	if (len > TLS_RECORD_MAX_PLAIN)
		len = TLS_RECORD_MAX_PLAIN;
	slot = ask_engine(conn, TLS_ENGINE_WRITE, data, len, reason);
	if (!slot)
		return -1;
	*reason = slot->answer.text;
	if (slot->answer.state != TLS_SESSION_HELD || slot->answer.out_len > size ||
	    slot->answer.more)
		return -1;
	memcpy(to, slot->out, slot->answer.out_len);
	*taken = slot->answer.in_used;
	count_sent(*taken, fragment);
	return (int)slot->answer.out_len;
}

/* Sends the clear text that waited for the handshake. Called by the reader that finished it. */
static int flush_queue(struct tls_conn *conn, const char **reason)
{
	while (conn->queue) {
		struct tls_blob *piece = conn->queue;
		size_t taken;
		bool last;
		int len = seal(conn, piece->data + piece->taken, piece->len - piece->taken, &taken,
			       output, sizeof(output), reason);

		if (len < 0)
			return -1;
		piece->taken += (uint32_t)taken;
		last = piece->taken == piece->len && !piece->next;
		if (piece->taken == piece->len)
			tls_conn_queue_pop(conn);
		*reason = "reason=\"cannot send\"";
		conn->cause = TLS_CAUSE_send;
		if (send_records(conn, output, (size_t)len, last && conn->close_after_send) != 0)
			return -1;
	}
	return 0;
}

/* ---- records to clear text ---- */

/* What one call of the read hook works on. */
struct reading {
	struct tls_conn *conn;
	struct tcp_req *req;
	size_t len;     /* bytes in input */
	size_t used;    /* of them done with */
	size_t need;    /* size of the record that is incomplete, once known */
	bool must_wait; /* whole records are left because the host's buffer is full */
	int delivered;  /* bytes of clear text put into the host's buffer */
};

static size_t room(const struct reading *r)
{
	return r->req->b_size - (size_t)(r->req->pos - r->req->buf);
}

static void read_end(struct reading *r)
{
	conn_end(r->conn);
	r->used = r->len;
	r->must_wait = false;
}

static void read_fail(struct reading *r, const char *detail)
{
	tls_conn_count_failure(r->conn);
	tls_log_conn(L_WARN, r->conn, "failed", "%s", detail);
	read_end(r);
}

static void read_fail_for(struct reading *r, enum tls_cause cause, const char *detail)
{
	r->conn->cause = (uint8_t)cause;
	read_fail(r, detail);
}

/* What was read can neither be given to the host nor kept: its place in the stream would be lost.
 */
static void read_starve(struct reading *r)
{
	r->conn->cause = TLS_CAUSE_memory;
	tls_conn_count_failure(r->conn);
	tls_shortage_failed(r->conn, true);
	read_end(r);
}

/* Gives clear text to the host; keeps what finds no room. Returns -1 without memory. */
static int deliver(struct reading *r, const uint8_t *data, size_t len)
{
	size_t fits = len < room(r) ? len : room(r);

	memcpy(r->req->pos, data, fits);
	r->req->pos += fits;
	r->delivered += (int)fits;
	if (fits == len)
		return 0;
	r->conn->clear = tls_blob_new(data + fits, len - fits);
	return r->conn->clear ? 0 : -1;
}

/* Gives the host what an earlier call had to keep. */
static void deliver_kept(struct reading *r)
{
	struct tls_blob *kept = r->conn->clear;
	size_t len = kept->len - kept->taken;
	size_t fits = len < room(r) ? len : room(r);

	memcpy(r->req->pos, kept->data + kept->taken, fits);
	r->req->pos += fits;
	r->delivered += (int)fits;
	kept->taken += (uint32_t)fits;
	if (kept->taken == kept->len)
		tls_blob_free(&r->conn->clear);
}

static const char *alert_or_number(int alert)
{
	static char number[16];
	const char *name = tls_alert_name(alert);

	if (name)
		return name;
	snprintf(number, sizeof(number), "%d", alert);
	return number;
}

static void stream_fail(struct reading *r, const struct tls_stream_event *event)
{
	char detail[256];

	snprintf(detail, sizeof(detail), "reason=\"%s\"%s%s", event->error ? event->error : "",
		 event->alert_sent >= 0       ? " alert_sent="
		 : event->alert_received >= 0 ? " alert_received="
					      : "",
		 event->alert_sent >= 0       ? alert_or_number(event->alert_sent)
		 : event->alert_received >= 0 ? alert_or_number(event->alert_received)
					      : "");
	read_fail(r, detail);
}

/* Opens the records at hand for as long as the host has room. */
static void read_fast(struct reading *r)
{
	struct tls_conn *conn = r->conn;

	while (r->used < r->len) {
		struct tls_stream_event event;
		struct tls_record_header head;
		uint8_t alert;
		int result;

		if ((conn->clear || room(r) == 0) &&
		    tls_record_peek(&conn->stream.rd, input + r->used, r->len - r->used, &head,
				    &alert) == 1) {
			r->must_wait = true;
			return;
		}
		result = tls_stream_read(&conn->stream, input + r->used, r->len - r->used, output,
					 &event, &r->need);
		if (event.reply_len > 0)
			(void)send_records(conn, output, event.reply_len, false);
		if (result < 0) {
			stream_fail(r, &event);
			return;
		}
		if (result == 0)
			return;
		r->used += event.consumed;
		if (event.data_len > 0)
			count_received(event.data_len, 1);
		if (event.data_len > 0 && deliver(r, event.data, event.data_len) != 0) {
			read_starve(r);
			return;
		}
		conn->eof |= (conn->stream.flags & TLS_STREAM_READ_CLOSED) != 0;
	}
}

/* Takes one answer of the engine about records that were read. */
static void take_answer(struct reading *r, struct tls_engine_slot *slot)
{
	struct tls_engine_answer *answer = &slot->answer;
	struct tls_conn *conn = r->conn;
	const char *reason;

	if (send_records(conn, slot->out, answer->out_len, false) != 0) {
		read_fail_for(r, TLS_CAUSE_send, "reason=\"cannot send\"");
		return;
	}
	if (answer->state == TLS_SESSION_FAILED) {
		read_fail(r, answer->text);
		return;
	}
	if (answer->state == TLS_SESSION_HANDSHAKE)
		return;
	if (conn->state < TLS_CONN_FAST && conn_establish(conn, slot) != 0) {
		read_starve(r);
		return;
	}
	if (answer->clear_len > 0)
		count_received(answer->clear_len, answer->clear_records);
	if (answer->clear_len > 0 && deliver(r, slot->clear, answer->clear_len) != 0) {
		read_starve(r);
		return;
	}
	if (answer->state == TLS_SESSION_EOF) {
		conn->eof = true;
		r->used = r->len;
	}
	if (conn->queue && !conn->event_due && flush_queue(conn, &reason) != 0)
		read_fail(r, reason);
}

static bool uses_engine(const struct tls_conn *conn)
{
	return conn->state != TLS_CONN_FAST && conn->state != TLS_CONN_CLOSED;
}

/* Hands the records at hand to the engine: a handshake, or a connection that it holds. */
static void read_engine(struct reading *r)
{
	struct tls_conn *conn = r->conn;

	while ((r->used < r->len || conn->engine_has_more) && uses_engine(conn)) {
		size_t len = r->len - r->used < TLS_ENGINE_IN ? r->len - r->used : TLS_ENGINE_IN;
		struct tls_engine_slot *slot;
		const char *reason;

		if (conn->clear) { /* the host must make room first */
			r->must_wait = true;
			return;
		}
		if (conn->engine_has_more)
			len = 0;
		slot = ask_engine(conn, TLS_ENGINE_RUN, input + r->used, len, &reason);
		if (!slot) {
			read_fail(r, reason);
			return;
		}
		r->used += slot->answer.state == TLS_SESSION_FAST ? slot->answer.in_used : len;
		conn->engine_has_more = slot->answer.more;
		if (conn->state == TLS_CONN_NEW)
			conn->state = TLS_CONN_HANDSHAKE;
		take_answer(r, slot);
	}
}

/*
 * The first byte of an accepted connection tells a TLS handshake (or an SSLv2 ClientHello, which
 * OpenSSL answers) from an alert, or from another protocol on the wrong port. Neither of these is
 * worth the engine.
 */
static bool is_foreign(const struct reading *r)
{
	return r->conn->state == TLS_CONN_NEW && r->conn->role == TLS_ROLE_SERVER && r->len > 0 &&
	       input[0] != TLS_CONTENT_HANDSHAKE && !(input[0] & 0x80);
}

static void foreign_fail(struct reading *r)
{
	static const uint8_t alert[] = {TLS_CONTENT_ALERT,           3, 1, 0, 2, 2,
					TLS_ALERT_UNEXPECTED_MESSAGE};
	char start[17] = "", detail[160];

	if (r->len >= sizeof(alert) && memcmp(input, alert, 2) == 0 && input[4] == 2) {
		snprintf(detail, sizeof(detail),
			 "reason=\"the peer began with an alert\" alert_received=%s",
			 alert_or_number(input[6]));
		read_fail_for(r, TLS_CAUSE_alert, detail);
		return;
	}
	for (size_t i = 0; i < r->len && i < sizeof(start) - 1 && input[i] != '\r'; i++)
		start[i] = input[i] >= ' ' && input[i] < 0x7f && input[i] != '"' ? (char)input[i]
										 : '.';
	(void)send_records(r->conn, alert, sizeof(alert), false);
	snprintf(detail, sizeof(detail),
		 "reason=\"not TLS: the connection starts with '%s'\" "
		 "alert_sent=unexpected_message",
		 start);
	read_fail_for(r, TLS_CAUSE_not_tls, detail);
}

static void read_records(struct reading *r)
{
	if (is_foreign(r)) {
		foreign_fail(r);
		return;
	}
	if (uses_engine(r->conn))
		read_engine(r);
	if (r->conn->state == TLS_CONN_FAST)
		read_fast(r);
}

/* How much to read: the rest of a record that has begun, else what the host has room for. */
static size_t bytes_wanted(const struct reading *r)
{
	size_t have = r->len - r->used;
	size_t want = room(r) + TLS_RECORD_OVERHEAD;

	if (r->need > have && r->need - have > want)
		want = r->need - have;
	return want < sizeof(input) - r->len ? want : sizeof(input) - r->len;
}

/* Reads from the socket until there is clear text, or nothing more to read. Returns -1 when
 * the connection is broken. */
static int read_socket(struct reading *r, rd_conn_flags_t *flags)
{
	struct tcp_connection *c = r->conn->tcp;
	int n;

	while (r->delivered == 0 && !r->must_wait && !r->conn->eof) {
		if (r->used > 0) {
			memmove(input, input + r->used, r->len - r->used);
			r->len -= r->used;
			r->used = 0;
		}
		n = tcp_read_data(c->fd, c, (char *)input + r->len, (int)bytes_wanted(r), flags);
		if (n < 0)
			return -1;
		r->len += (size_t)n;
		if (n > 0)
			read_records(r);
		if (c->state == S_CONN_EOF)
			r->conn->eof = true;
		if (n == 0 || (*flags & RD_CONN_SHORT_READ))
			break;
	}
	return 0;
}

/* Loads the records that an earlier call had to leave. */
static void load_records(struct reading *r)
{
	struct tls_blob *kept = r->conn->records;

	if (!kept)
		return;
	memcpy(input, kept->data, kept->len);
	r->len = kept->len;
	tls_blob_free(&r->conn->records);
}

static int keep_records(struct reading *r)
{
	size_t left = r->len - r->used;

	if (left == 0 || r->conn->state == TLS_CONN_CLOSED)
		return 0;
	r->conn->records = tls_blob_new(input + r->used, left);
	return r->conn->records ? 0 : -1;
}

/*
 * Tells the host how to go on: call again at once while something waits for room, and only when
 * nothing does, that the peer has closed.
 */
static void set_flags(struct reading *r, rd_conn_flags_t *flags)
{
	struct tcp_connection *c = r->conn->tcp;

	if (r->must_wait || r->conn->clear) {
		*flags = (*flags | RD_CONN_REPEAT_READ) & ~RD_CONN_EOF;
		if (c->state == S_CONN_EOF)
			c->state = S_CONN_OK;
	} else if (r->conn->eof) {
		*flags |= RD_CONN_EOF;
		if (c->state != S_CONN_BAD)
			c->state = S_CONN_EOF;
	}
}

static void late_fail(struct reading *r)
{
	r->conn->cause = TLS_CAUSE_timeout;
	tls_conn_count_failure(r->conn);
	tls_log_handshake(r->conn, TLS_WATCH_LATE);
	read_end(r);
}

/* True when reading must not go on. A handshake is not worth the memory that it takes while that is
 * short; a connection that is established lives on. */
static bool cannot_read(struct reading *r)
{
	if (tls_watch_handshake_late(r->conn)) {
		late_fail(r);
		return true;
	}
	if (r->conn->state >= TLS_CONN_FAST || !tls_shortage_refuses_operation(r->conn, true))
		return false;
	r->conn->cause = TLS_CAUSE_memory;
	tls_conn_count_failure(r->conn);
	read_end(r);
	return true;
}

/* With write_lock held. Returns the bytes delivered, or -1. */
static int read_locked(struct tls_conn *conn, rd_conn_flags_t *flags)
{
	struct reading r = {.conn = conn, .req = &conn->tcp->req};

	if (!cannot_read(&r)) {
		if (conn->clear)
			deliver_kept(&r);
		load_records(&r);
		if ((r.len > 0 || conn->engine_has_more) && !conn->clear)
			read_records(&r);
		if (!conn->clear && read_socket(&r, flags) != 0) {
			log_early_end(conn);
			conn_end(conn);
			return -1;
		}
	}
	if (conn->eof && conn->state < TLS_CONN_FAST) {
		log_early_end(conn);
		conn_end(conn);
	}
	if (keep_records(&r) != 0)
		read_starve(&r);
	set_flags(&r, flags);
	return conn->tcp->state == S_CONN_BAD && r.delivered == 0 ? -1 : r.delivered;
}

/* The route of an outgoing connection executed drop: nothing is sent on it, now or later. */
static void forbid_sending(struct tls_conn *conn)
{
	unsigned messages = 0, bytes = conn->queued;

	for (; conn->queue; messages++)
		tls_conn_queue_pop(conn);
	conn->no_send = true;
	/* TCP main changes other flags meanwhile. */
	__atomic_fetch_or(&conn->tcp->flags, F_CONN_NOSEND, __ATOMIC_SEQ_CST);
	conn->eof |= conn->close_after_send;
	tls_log_conn(
		L_WARN, conn, "discarded",
		"reason=\"event_route[tls:connection-out] executed drop\" messages=%u bytes=%u",
		messages, bytes);
}

/* The route of an accepted connection executed drop: it ends, and what came on it goes unread. */
static void refuse_peer(struct reading *r)
{
	struct tls_conn *conn = r->conn;
	size_t len = conn->state == TLS_CONN_FAST
			     ? tls_stream_alert(&conn->stream, TLS_ALERT_ACCESS_DENIED, output)
			     : close_notify(conn);

	(void)send_records(conn, output, len, false);
	read_fail(r, "reason=\"event_route[tls:connection-in] executed drop\"");
	r->req->pos -= r->delivered;
	r->delivered = 0;
}

/*
 * The handshake is done and a route is to know it, before anything that waited is sent and before
 * the host sees what the peer has sent. What others send meanwhile is queued.
 */
static int read_event(struct tls_conn *conn, rd_conn_flags_t *flags, int delivered)
{
	struct reading r = {.conn = conn, .req = &conn->tcp->req, .delivered = delivered};
	bool drop = tls_event_run(conn->tcp);
	const char *reason;

	lock_get(&conn->tcp->write_lock);
	conn->event_due = false;
	if (conn->state == TLS_CONN_CLOSED) /* by TCP main, or for want of room in the queue */
		conn_end(conn);
	else if (drop && conn->role == TLS_ROLE_SERVER)
		refuse_peer(&r);
	else if (drop)
		forbid_sending(conn);
	else if (flush_queue(conn, &reason) != 0)
		read_fail(&r, reason);
	if (conn->state == TLS_CONN_CLOSED)
		*flags &= ~RD_CONN_REPEAT_READ;
	set_flags(&r, flags);
	lock_release(&conn->tcp->write_lock);
	return r.delivered;
}

int tls_h_read(struct tcp_connection *c, rd_conn_flags_t *flags)
{
	struct tls_conn *conn = c->extra_data;
	int result;

	*flags &= ~RD_CONN_REPEAT_READ;
	if (!conn) {
		LM_BUG("tls: connection %d without state\n", c->id);
		c->req.error = TCP_READ_ERROR;
		return -1;
	}
	if (c->req.pos >= c->req.buf + c->req.b_size) {
		tls_conn_count_failure(conn);
		tls_log_conn(L_WARN, conn, "failed",
			     "reason=\"a message is longer than tcp_rd_buf_size\"");
		c->req.error = TCP_REQ_OVERRUN;
		return -1;
	}
	lock_get(&c->write_lock);
	result = read_locked(conn, flags);
	lock_release(&c->write_lock);
	if (conn->event_due && result >= 0 && conn->state != TLS_CONN_CLOSED)
		result = read_event(conn, flags, result);
	if (result < 0)
		c->req.error = TCP_READ_ERROR;
	return result;
}

/* ---- the encode hook ---- */

static int encode_fail(struct tls_conn *conn, const char *detail)
{
	tls_conn_count_failure(conn);
	tls_log_conn(L_WARN, conn, "failed", "%s", detail);
	conn_end(conn);
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
static int encode_queue(struct tls_conn *conn, const char *data, unsigned len,
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
static int encode_client_hello(struct tls_conn *conn)
{
	const char *reason;
	struct tls_engine_slot *slot;

	conn->state = TLS_CONN_HANDSHAKE;
	slot = ask_engine(conn, TLS_ENGINE_RUN, NULL, 0, &reason);
	if (!slot)
		return encode_fail(conn, reason);
	if (slot->answer.state != TLS_SESSION_HANDSHAKE || slot->answer.more)
		return encode_fail(conn, slot->answer.text);
	if (slot->answer.text[0])
		LM_WARN("tls: %s\n", slot->answer.text);
	memcpy(output, slot->out, slot->answer.out_len);
	return (int)slot->answer.out_len;
}

static int encode_data(struct tls_conn *conn, const char *data, unsigned len, size_t *taken)
{
	const char *reason;
	size_t chunk = len < ENCODE_MAX ? len : ENCODE_MAX;
	int sealed;

	sealed = seal(conn, data, chunk, taken, output, sizeof(output), &reason);
	if (sealed < 0)
		return encode_fail(conn, reason);
	tls_watch_add(conn);
	/* The host has just set the idle time of plain TCP, unless a reader has the connection. */
	if (conn->tcp->reader_pid == 0)
		conn->tcp->timeout = get_ticks_raw() + conn->tcp->lifetime;
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

int tls_h_encode(struct tcp_connection *c, const char **buf, unsigned int *len, const char **rest,
		 unsigned int *rest_len, snd_flags_t *send_flags)
{
	static const char *expected_rest; /* what the host calls with next, before anything else */
	struct tls_conn *conn = c->extra_data;
	bool is_rest = *buf == expected_rest;
	size_t taken = *len;
	int result = -1;

	expected_rest = NULL;
	*rest = NULL;
	*rest_len = 0;
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
	if (result < 0)
		return -1;
	if (taken < *len) {
		*rest = expected_rest = *buf + taken;
		*rest_len = *len - (unsigned)taken;
		send_flags->f &= ~SND_F_CON_CLOSE; /* the last part's flags will close it */
	}
	*buf = (const char *)output;
	*len = (unsigned)result;
	return result;
}
