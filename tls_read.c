/* SPDX-License-Identifier: ISC */
#include "tls_read.h"

#include "tls_event.h"
#include "tls_flow.h"
#include "tls_log.h"
#include "tls_rare.h"
#include "tls_shortage.h"
#include "tls_watch.h"

#include "core/cfg_core.h"
#include "core/dst_blocklist.h"
#include "core/tcp_read.h"
#include "core/tcp_stats.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* One whole record, and what one read may bring beyond it. */
#define INPUT_SIZE (TLS_RECORD_MAX + TLS_ENGINE_IN)

/* What a message takes of the host's buffer, as a rule. */
#define USUAL_MESSAGE 512
#define CACHE_LINE    64

/* Each reader works on one connection at a time. */
static uint8_t input[INPUT_SIZE];

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

static size_t room_in(const struct tcp_req *req)
{
	return req->b_size - (size_t)(req->pos - req->buf);
}

static size_t room(const struct reading *r)
{
	return room_in(r->req);
}

static TLS_RARE void read_end(struct reading *r)
{
	tls_flow_end(r->conn);
	r->used = r->len;
	r->must_wait = false;
}

static TLS_RARE void read_fail(struct reading *r, const char *detail)
{
	tls_log_failed(r->conn, detail);
	read_end(r);
}

static void read_fail_for(struct reading *r, enum tls_cause cause, const char *detail)
{
	r->conn->cause = (uint8_t)cause;
	read_fail(r, detail);
}

/* What was read can neither be given to the host nor kept: its place in the stream would be lost.
 */
static TLS_RARE void read_starve(struct reading *r)
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
static TLS_RARE void deliver_kept(struct reading *r)
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

static TLS_RARE void stream_fail(struct reading *r, const struct tls_stream_event *event)
{
	char detail[TLS_SESSION_TEXT];

	snprintf(detail, sizeof(detail), "reason=\"%s\"", event->error ? event->error : "");
	tls_log_facts(r->conn, event->alert_sent, event->alert_received, detail);
	read_fail(r, detail);
}

static void send_fail(struct reading *r)
{
	tls_log_failure(r->conn, TLS_CAUSE_send, "cannot send");
	read_end(r);
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
		result = tls_stream_read(&conn->stream, input + r->used, r->len - r->used,
					 tls_output, &event, &r->need);
		if (event.reply_len > 0)
			(void)tls_flow_send(conn, tls_output, event.reply_len, false);
		if (result < 0) {
			stream_fail(r, &event);
			return;
		}
		if (result == 0)
			return;
		r->used += event.consumed;
		if (event.data_len > 0)
			tls_conn_count_clear(false, event.data_len, 1);
		if (event.data_len > 0 && deliver(r, event.data, event.data_len) != 0) {
			read_starve(r);
			return;
		}
		conn->eof |= (conn->stream.flags & TLS_STREAM_READ_CLOSED) != 0;
	}
}

/* A client that has sent more than its handshake already waits for nothing but the answer to that,
 * so its tickets (RFC 8446 section 4.6.1) may go with it. */
static int send_tickets(const struct reading *r, const uint8_t *tickets, size_t len)
{
	return r->used < r->len ? tls_flow_send_soon(r->conn, tickets, len)
				: tls_flow_send(r->conn, tickets, len, false);
}

static int send_answer(const struct reading *r, const struct tls_engine_slot *slot)
{
	const struct tls_engine_answer *answer = &slot->answer;

	if (answer->state == TLS_SESSION_FORETOLD)
		return tls_flow_send(r->conn, slot->out, answer->flight_len, false);
	if (r->conn->role == TLS_ROLE_SERVER && answer->state == TLS_SESSION_FAST &&
	    answer->info.version == TLS_VERSION_1_3)
		return send_tickets(r, slot->out, answer->out_len);
	return tls_flow_send(r->conn, slot->out, answer->out_len, false);
}

/* Sends what waited for the handshake, unless a route comes first. */
static void send_queued(struct reading *r)
{
	const char *reason;

	if (r->conn->queue && !r->conn->event_due && tls_flow_flush(r->conn, &reason) != 0)
		read_fail(r, reason);
}

/* Takes one answer of the engine about records that were read. */
static void take_answer(struct reading *r, struct tls_engine_slot *slot)
{
	struct tls_engine_answer *answer = &slot->answer;
	struct tls_conn *conn = r->conn;

	if (answer->state == TLS_SESSION_FAILED) {
		(void)send_answer(r, slot);
		read_fail(r, answer->text);
		return;
	}
	if (answer->state != TLS_SESSION_HANDSHAKE && conn->state < TLS_CONN_FAST &&
	    tls_flow_take(conn, slot) != 0) {
		read_starve(r);
		return;
	}
	if (send_answer(r, slot) != 0) {
		send_fail(r);
		return;
	}
	if (answer->state == TLS_SESSION_HANDSHAKE || tls_session_awaits(answer->state))
		return;
	if (conn->state < TLS_CONN_FAST)
		tls_flow_establish(conn, answer->state == TLS_SESSION_FAST ? TLS_CONN_FAST
									   : TLS_CONN_HELD);
	if (answer->clear_len > 0)
		tls_conn_count_clear(false, answer->clear_len, answer->clear_records);
	if (answer->clear_len > 0 && deliver(r, slot->clear, answer->clear_len) != 0) {
		read_starve(r);
		return;
	}
	if (answer->state == TLS_SESSION_EOF) {
		conn->eof = true;
		r->used = r->len;
	}
	send_queued(r);
}

static bool uses_engine(const struct tls_conn *conn)
{
	return conn->state != TLS_CONN_FAST && conn->state != TLS_CONN_CLOSED && !conn->await;
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
		slot = tls_flow_ask(conn, TLS_ENGINE_RUN, input + r->used, len, &reason);
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

/* Tickets of TLS 1.3 have been sealed before the alert, so they have to go before it. */
static void await_fail(struct reading *r, const struct tls_stream_event *event)
{
	const struct tls_blob *tickets = r->conn->await->tickets;

	if (event->reply_len > 0 && tickets)
		(void)tls_flow_send(r->conn, tickets->data, tickets->len, false);
	(void)tls_flow_send(r->conn, tls_output, event->reply_len, false);
	r->conn->cause = event->alert_sent == TLS_ALERT_INTERNAL_ERROR         ? TLS_CAUSE_memory
			 : event->alert_sent < 0 && event->alert_received >= 0 ? TLS_CAUSE_alert
									       : TLS_CAUSE_protocol;
	stream_fail(r, event);
}

/* Reads the messages that the client sends last, up to its Finished. */
static void read_await(struct reading *r)
{
	struct tls_conn *conn = r->conn;
	const struct tls_blob *tickets = conn->await->tickets;
	int result = 1;

	while (result > 0 && (conn->stream.flags & TLS_STREAM_AWAITS)) {
		struct tls_stream_event event;

		result = tls_await_read(&conn->stream, &conn->await->stream, input + r->used,
					r->len - r->used, tls_output, &event, &r->need);
		if (result < 0) {
			await_fail(r, &event);
			return;
		}
		r->used += event.consumed;
		/* TLS 1.2: this end's last messages. */
		if (tls_flow_send(conn, tls_output, event.reply_len, false) != 0) {
			send_fail(r);
			return;
		}
	}
	if (conn->stream.flags & TLS_STREAM_AWAITS)
		return;
	tls_flow_establish(conn, TLS_CONN_FAST);
	/* A peer that has gone meanwhile may have left a request. */
	if (tickets)
		(void)send_tickets(r, tickets->data, tickets->len);
	tls_conn_await_free(conn);
	send_queued(r);
}

/* A record with a handshake message (RFC 8446 section 5.1), or an SSLv2 ClientHello (RFC 5246
 * appendix E.2), which OpenSSL answers; as far as the bytes that are there tell. */
static bool may_begin_tls(const uint8_t *in, size_t len)
{
	if (in[0] & 0x80)
		return len < 3 || in[2] == TLS_MESSAGE_CLIENT_HELLO;
	return in[0] == TLS_CONTENT_HANDSHAKE && (len < 2 || in[1] == TLS_VERSION_1_0 >> 8);
}

/* Another protocol on the wrong port, or an alert. Neither is worth the engine, and OpenSSL would
 * end some of them without an alert. */
static bool is_foreign(const struct reading *r)
{
	return r->conn->state == TLS_CONN_NEW && r->conn->role == TLS_ROLE_SERVER && r->len > 0 &&
	       !may_begin_tls(input, r->len);
}

/* How it begins, as far as that can be printed; empty lines before a message are none of it (RFC
 * 3261 section 7.5). */
static void foreign_text(const uint8_t *in, size_t len, char *text, size_t size)
{
	size_t n = 0;

	for (; len > 0 && (*in == '\r' || *in == '\n'); len--)
		in++;
	for (; n < len && n < size - 1 && in[n] != '\r'; n++)
		text[n] = in[n] >= ' ' && in[n] < 0x7f && in[n] != '"' ? (char)in[n] : '.';
	text[n] = '\0';
}

static void foreign_fail(struct reading *r)
{
	static const uint8_t alert[] = {TLS_CONTENT_ALERT,           3, 1, 0, 2, 2,
					TLS_ALERT_UNEXPECTED_MESSAGE};
	char start[17], detail[160], number[TLS_ALERT_TEXT];

	if (r->len >= sizeof(alert) && memcmp(input, alert, 2) == 0 && input[4] == 2) {
		snprintf(detail, sizeof(detail),
			 "reason=\"the peer began with an alert\" alert_received=%s",
			 tls_alert_text(input[6], number));
		read_fail_for(r, TLS_CAUSE_alert, detail);
		return;
	}
	foreign_text(input, r->len, start, sizeof(start));
	(void)tls_flow_send(r->conn, alert, sizeof(alert), false);
	snprintf(detail, sizeof(detail),
		 "reason=\"not TLS: the connection starts with '%s'\" "
		 "alert_sent=unexpected_message",
		 start);
	read_fail_for(r, TLS_CAUSE_not_tls, detail);
}

/* What does not go the fast way, yet. */
static TLS_RARE void read_others(struct reading *r)
{
	if (is_foreign(r)) {
		foreign_fail(r);
		return;
	}
	if (uses_engine(r->conn))
		read_engine(r);
	if (r->conn->await && r->conn->state == TLS_CONN_HANDSHAKE)
		read_await(r);
}

static void read_records(struct reading *r)
{
	if (r->conn->state != TLS_CONN_FAST)
		read_others(r);
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

/* What tcp_read_data() does about an error, which recv() has taken from the socket. */
static TLS_RARE int receive_fail(struct tcp_connection *c, int error)
{
	if (error == ECONNRESET) {
		TCP_STATS_CON_RESET();
		c->event = TCP_CLOSED_RESET;
	} else if (error == ETIMEDOUT) {
		c->event = TCP_CLOSED_TIMEOUT;
	}
#ifdef USE_DST_BLOCKLIST
	if (error == ECONNRESET || error == ETIMEDOUT)
		dst_blocklist_su(BLST_ERR_SEND, c->rcv.proto, &c->rcv.src_su, &c->send_flags, NULL);
#endif
	tls_log_conn(cfg_get(core, core_cfg, corelog), c->extra_data, "broken", "reason=\"%s\"",
		     strerror(error));
	return -1;
}

/* As tcp_read_data(), but by recv(), whose way through the kernel is shorter than read()'s by a
 * quarter. The host's function is left the other states, and what is no data. */
static int read_bytes(struct reading *r, rd_conn_flags_t *flags)
{
	struct tcp_connection *c = r->conn->tcp;
	size_t want = bytes_wanted(r);
	ssize_t n = 0;

	if (c->state == S_CONN_OK && !(*flags & RD_CONN_FORCE_EOF))
		n = recv(c->fd, input + r->len, want, MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
		return receive_fail(c, errno);
	if (n <= 0)
		return tcp_read_data(c->fd, c, (char *)input + r->len, (int)want, flags);
	if ((size_t)n < want)
		*flags |= RD_CONN_SHORT_READ;
	return (int)n;
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
		n = read_bytes(r, flags);
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

static TLS_RARE void late_fail(struct reading *r)
{
	tls_log_failure(r->conn, TLS_CAUSE_timeout, TLS_WATCH_LATE);
	read_end(r);
}

/* True when reading must not go on. A handshake is not worth the memory that it takes while that is
 * short; a connection that is established lives on. */
static bool cannot_read(struct reading *r)
{
	if (r->conn->state >= TLS_CONN_FAST)
		return false;
	if (tls_watch_handshake_late(r->conn)) {
		late_fail(r);
		return true;
	}
	if (!tls_shortage_refuses_operation(r->conn, true))
		return false;
	r->conn->cause = TLS_CAUSE_memory;
	tls_conn_count_failure(r->conn);
	read_end(r);
	return true;
}

/* Without always_inline GCC finds that this has no effect and drops its calls. */
static inline __attribute__((always_inline)) void ask_for(const void *memory, size_t len)
{
	const char *bytes = memory;

	for (size_t at = 0; at < len; at += CACHE_LINE)
		__builtin_prefetch(bytes + at, 1);
	__builtin_prefetch(bytes + len - 1, 1);
}

/*
 * The connections served since this one's last message have pushed it out of the processor's
 * caches. To ask for all at once what a message needs, before the socket is read, costs less than
 * to wait for one line after the other.
 */
static inline __attribute__((always_inline)) void warm_up(const struct tls_conn *conn,
							  const struct tcp_req *req)
{
	size_t len = room_in(req);

	ask_for(conn, sizeof(*conn));
	ask_for(req->pos, len < USUAL_MESSAGE ? len : USUAL_MESSAGE);
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
			tls_flow_end_early(conn);
			tls_flow_end(conn);
			return -1;
		}
	}
	if (conn->eof && conn->state < TLS_CONN_FAST) {
		tls_flow_end_early(conn);
		tls_flow_end(conn);
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
			     ? tls_stream_alert(&conn->stream, TLS_ALERT_ACCESS_DENIED, tls_output)
			     : tls_flow_close_notify(conn);

	(void)tls_flow_send(conn, tls_output, len, false);
	read_fail(r, "reason=\"event_route[tls:connection-in] executed drop\"");
	r->req->pos -= r->delivered;
	r->delivered = 0;
}

/*
 * The handshake is done and a route is to know it, before anything that waited is sent and before
 * the host sees what the peer has sent. What others send meanwhile is queued.
 */
static TLS_RARE int read_event(struct tls_conn *conn, rd_conn_flags_t *flags, int delivered)
{
	struct reading r = {.conn = conn, .req = &conn->tcp->req, .delivered = delivered};
	bool drop = tls_event_run(conn->tcp);
	const char *reason;

	lock_get(&conn->tcp->write_lock);
	conn->event_due = false;
	if (conn->state == TLS_CONN_CLOSED) /* by TCP main, or for want of room in the queue */
		tls_flow_end(conn);
	else if (drop && conn->role == TLS_ROLE_SERVER)
		refuse_peer(&r);
	else if (drop)
		forbid_sending(conn);
	else if (tls_flow_flush(conn, &reason) != 0)
		read_fail(&r, reason);
	if (conn->state == TLS_CONN_CLOSED)
		*flags &= ~RD_CONN_REPEAT_READ;
	set_flags(&r, flags);
	lock_release(&conn->tcp->write_lock);
	return r.delivered;
}

/* The host has asked for more of a message that fills its buffer already. */
static TLS_RARE void refuse_message(struct tls_conn *conn)
{
	lock_get(&conn->tcp->write_lock);
	tls_log_failure(conn, TLS_CAUSE_protocol, "a message is longer than tcp_rd_buf_size");
	lock_release(&conn->tcp->write_lock);
	conn->tcp->req.error = TCP_REQ_OVERRUN;
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
		refuse_message(conn);
		return -1;
	}
	warm_up(conn, &c->req);
	lock_get(&c->write_lock);
	result = read_locked(conn, flags);
	lock_release(&c->write_lock);
	if (conn->event_due && result >= 0 && conn->state != TLS_CONN_CLOSED)
		result = read_event(conn, flags, result);
	if (result < 0)
		c->req.error = TCP_READ_ERROR;
	return result;
}
