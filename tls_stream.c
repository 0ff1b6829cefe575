/* SPDX-License-Identifier: ISC */
/*
 * What an established TLS connection does beside moving data: alerts, key
 * updates, tickets, refused renegotiations and the limits on all of them;
 * tls_stream.h is the manual. Callers may rely on this: whatever the peer
 * sends, a call returns with the stream alive, closed for reading or dead,
 * and never with more than TLS_STREAM_REPLY_MAX bytes of reply.
 */
#include "tls_stream.h"

#include "tls_rare.h"

#include <openssl/crypto.h>

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* What a peer may send in a row without any application data: enough for every honest one. */
#define STREAM_MAX_EMPTY   32 /* records without content */
#define STREAM_MAX_UPDATES 32 /* KeyUpdate messages */
#define STREAM_MAX_TICKETS 64 /* NewSessionTicket messages */

#define STREAM_MAX_MESSAGE 65536 /* body of a post-handshake message */

#define STREAM_ALERT_WARNING 1
#define STREAM_ALERT_FATAL   2

/* Every alert of RFC 8446 section 6 and those of RFC 5246 and its like that it dropped. */
static const struct {
	uint8_t alert;
	const char *name;
} stream_alert_names[] = {
	{0, "close_notify"},
	{10, "unexpected_message"},
	{20, "bad_record_mac"},
	{21, "decryption_failed"},
	{22, "record_overflow"},
	{30, "decompression_failure"},
	{40, "handshake_failure"},
	{41, "no_certificate"},
	{42, "bad_certificate"},
	{43, "unsupported_certificate"},
	{44, "certificate_revoked"},
	{45, "certificate_expired"},
	{46, "certificate_unknown"},
	{47, "illegal_parameter"},
	{48, "unknown_ca"},
	{49, "access_denied"},
	{50, "decode_error"},
	{51, "decrypt_error"},
	{60, "export_restriction"},
	{70, "protocol_version"},
	{71, "insufficient_security"},
	{80, "internal_error"},
	{86, "inappropriate_fallback"},
	{90, "user_canceled"},
	{100, "no_renegotiation"},
	{109, "missing_extension"},
	{110, "unsupported_extension"},
	{111, "certificate_unobtainable"},
	{112, "unrecognized_name"},
	{113, "bad_certificate_status_response"},
	{114, "bad_certificate_hash_value"},
	{115, "unknown_psk_identity"},
	{116, "certificate_required"},
	{120, "no_application_protocol"},
};

const char *tls_alert_name(int alert)
{
	size_t n = sizeof(stream_alert_names) / sizeof(stream_alert_names[0]);

	for (size_t i = 0; i < n; i++) {
		if (stream_alert_names[i].alert == alert)
			return stream_alert_names[i].name;
	}
	return NULL;
}

const char *tls_alert_text(int alert, char number[TLS_ALERT_TEXT])
{
	const char *name = tls_alert_name(alert);

	if (name)
		return name;
	snprintf(number, TLS_ALERT_TEXT, "%d", alert);
	return number;
}

void tls_stream_wipe(struct tls_stream *s)
{
	tls_record_keys_wipe(&s->rd);
	tls_record_keys_wipe(&s->wr);
}

static int stream_is_1_3(const struct tls_stream *s)
{
	return s->rd.version == TLS_VERSION_1_3;
}

/* RFC 8446 section 5.5 */
static int stream_update_is_due(const struct tls_stream *s)
{
	uint64_t limit = s->update_after != 0 ? s->update_after : TLS_STREAM_UPDATE_AFTER;

	return stream_is_1_3(s) && s->wr.seq >= limit;
}

static TLS_RARE void stream_kill(struct tls_stream *s)
{
	s->flags |= TLS_STREAM_DEAD | TLS_STREAM_WRITE_CLOSED;
}

/* Seals one alert; a stream that cannot is dead. */
static size_t stream_alert_seal(struct tls_stream *s, uint8_t level, uint8_t alert, uint8_t *out)
{
	const uint8_t message[2] = {level, alert};
	size_t n =
		s->flags & TLS_STREAM_CLEAR
			? tls_record_put(TLS_CONTENT_ALERT, message, sizeof(message), out)
			: tls_record_seal(&s->wr, TLS_CONTENT_ALERT, message, sizeof(message), out);

	if (n == 0)
		stream_kill(s);
	return n;
}

size_t tls_stream_alert(struct tls_stream *s, uint8_t alert, uint8_t *reply)
{
	int fatal = alert != TLS_ALERT_CLOSE_NOTIFY;
	size_t n = 0;

	if (!(s->flags & (TLS_STREAM_WRITE_CLOSED | TLS_STREAM_DEAD)))
		n = stream_alert_seal(s, fatal ? STREAM_ALERT_FATAL : STREAM_ALERT_WARNING, alert,
				      reply);
	s->flags |= TLS_STREAM_WRITE_CLOSED;
	if (fatal)
		stream_kill(s);
	return n;
}

/*
 * Seals a KeyUpdate that asks for none in return and moves the write keys on. The next keys
 * are derived first: once the message is on its way there must be nothing left that can fail.
 */
static TLS_RARE size_t stream_key_update(struct tls_stream *s, uint8_t *out)
{
	static const uint8_t message[5] = {TLS_MESSAGE_KEY_UPDATE, 0, 0, 1, 0};
	struct tls_record_keys next = s->wr;
	size_t n = 0;

	if (tls_record_keys_update(&next) == 0)
		n = tls_record_seal(&s->wr, TLS_CONTENT_HANDSHAKE, message, sizeof(message), out);
	if (n != 0)
		s->wr = next;
	else
		stream_kill(s);
	tls_record_keys_wipe(&next);
	return n;
}

int tls_stream_dead(struct tls_stream_call *c, const char *error)
{
	stream_kill(c->s);
	c->ev->error = error;
	return -1;
}

/* Ends the stream with a fatal alert to the peer. */
int tls_stream_fail(struct tls_stream_call *c, uint8_t alert, const char *error)
{
	size_t n = tls_stream_alert(c->s, alert, c->reply + c->ev->reply_len);

	if (n != 0) {
		c->ev->reply_len += n;
		c->ev->alert_sent = alert;
	}
	return tls_stream_dead(c, error);
}

/* Counts one more of what is limited. */
int tls_stream_count(struct tls_stream_call *c, uint8_t *count, uint8_t limit, const char *error)
{
	if (++*count <= limit)
		return 1;
	return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE, error);
}

/* RFC 5246 section 7.2.2: a warning, after which the connection can go on. */
static int stream_refuse_renegotiation(struct tls_stream_call *c)
{
	size_t n;

	if (c->s->flags & TLS_STREAM_WRITE_CLOSED)
		return 1;
	n = stream_alert_seal(c->s, STREAM_ALERT_WARNING, TLS_ALERT_NO_RENEGOTIATION,
			      c->reply + c->ev->reply_len);
	if (n == 0)
		return tls_stream_dead(c, "cannot seal an alert");
	c->ev->reply_len += n;
	c->ev->alert_sent = TLS_ALERT_NO_RENEGOTIATION;
	return 1;
}

/* RFC 8446 section 4.6.3. rest is what follows the message in its record. */
static int stream_key_update_received(struct tls_stream_call *c, uint8_t request, size_t rest)
{
	struct tls_stream *s = c->s;
	size_t n;

	if (request > 1)
		return tls_stream_fail(c, TLS_ALERT_ILLEGAL_PARAMETER, "bad KeyUpdate");
	/* RFC 8446 section 5.1: a message before a change of keys ends its record. */
	if (rest != 0)
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE,
				       "data after a KeyUpdate in its record");
	if (tls_stream_count(c, &s->key_updates, STREAM_MAX_UPDATES, "too many KeyUpdates") < 0)
		return -1;
	if (tls_record_keys_update(&s->rd) != 0)
		return tls_stream_fail(c, TLS_ALERT_INTERNAL_ERROR, "cannot update the keys");
	if (request == 0 || (s->flags & TLS_STREAM_WRITE_CLOSED))
		return 1;
	n = stream_key_update(s, c->reply + c->ev->reply_len);
	if (n == 0)
		return tls_stream_dead(c, "cannot update the keys");
	c->ev->reply_len += n;
	return 1;
}

/* Judges a TLS 1.3 message by its header. */
static int stream_message_1_3(struct tls_stream_call *c)
{
	struct tls_stream *s = c->s;

	switch (s->hs_head[0]) {
	case TLS_MESSAGE_KEY_UPDATE:
		if (s->hs_left != 1)
			return tls_stream_fail(c, TLS_ALERT_DECODE_ERROR, "bad KeyUpdate");
		return 1;
	case TLS_MESSAGE_NEW_SESSION_TICKET:
		if (!(s->flags & TLS_STREAM_CLIENT))
			break;
		if (s->hs_left > STREAM_MAX_MESSAGE)
			return tls_stream_fail(c, TLS_ALERT_ILLEGAL_PARAMETER,
					       "oversized handshake message");
		return tls_stream_count(c, &s->tickets, STREAM_MAX_TICKETS, "too many tickets");
	default: /* CertificateRequest too: this end never offers post_handshake_auth */
		break;
	}
	return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE, "unexpected handshake message");
}

/* Judges a TLS 1.2 message by its header: there is none but an attempt to renegotiate. */
static int stream_message_1_2(struct tls_stream_call *c)
{
	struct tls_stream *s = c->s;
	int client = s->flags & TLS_STREAM_CLIENT;

	if (!client && s->hs_head[0] == TLS_MESSAGE_CLIENT_HELLO) {
		if (stream_refuse_renegotiation(c) < 0)
			return -1;
		return tls_stream_dead(c, "renegotiation attempt by the peer refused");
	}
	if (!client || s->hs_head[0] != TLS_MESSAGE_HELLO_REQUEST)
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE,
				       "unexpected handshake message");
	if (s->hs_left != 0)
		return tls_stream_fail(c, TLS_ALERT_DECODE_ERROR, "bad HelloRequest");
	if (tls_stream_count(c, &s->warnings, TLS_STREAM_MAX_WARNINGS, "too many HelloRequests") <
	    0)
		return -1;
	return stream_refuse_renegotiation(c);
}

/* Takes bytes of a message's header; judges the message when the header is complete. */
static int stream_message_head(struct tls_stream_call *c, const uint8_t *p, size_t n)
{
	struct tls_stream *s = c->s;
	int rc;

	memcpy(s->hs_head + s->hs_head_len, p, n);
	s->hs_head_len += (uint8_t)n;
	if (s->hs_head_len < sizeof(s->hs_head))
		return 1;
	s->hs_left = (uint32_t)s->hs_head[1] << 16 | (uint32_t)s->hs_head[2] << 8 | s->hs_head[3];
	rc = stream_is_1_3(s) ? stream_message_1_3(c) : stream_message_1_2(c);
	if (s->hs_left == 0)
		s->hs_head_len = 0;
	return rc;
}

/* Messages may share a record and may span records (RFC 8446 section 5.1). */
static TLS_RARE int stream_handshake(struct tls_stream_call *c, const uint8_t *p, size_t len)
{
	struct tls_stream *s = c->s;
	size_t n;
	int rc = 1;

	while (len > 0 && rc > 0) {
		if (s->hs_head_len < sizeof(s->hs_head)) {
			n = sizeof(s->hs_head) - s->hs_head_len;
			n = n < len ? n : len;
			rc = stream_message_head(c, p, n);
		} else {
			n = s->hs_left < len ? s->hs_left : len;
			s->hs_left -= (uint32_t)n;
			if (s->hs_left == 0)
				s->hs_head_len = 0;
			if (s->hs_head[0] == TLS_MESSAGE_KEY_UPDATE)
				rc = stream_key_update_received(c, *p, len - n);
		}
		p += n;
		len -= n;
	}
	return rc;
}

int tls_stream_take_alert(struct tls_stream_call *c, const uint8_t *p, size_t len)
{
	struct tls_stream *s = c->s;
	int warning;

	if (len != 2)
		return tls_stream_fail(c, TLS_ALERT_DECODE_ERROR, "malformed alert");
	c->ev->alert_received = p[1];
	if (p[1] == TLS_ALERT_CLOSE_NOTIFY) {
		s->flags |= TLS_STREAM_READ_CLOSED;
		return 1;
	}
	/* RFC 8446 section 6: the level says nothing, all but two alerts are errors. */
	if (stream_is_1_3(s)) {
		warning = p[1] == TLS_ALERT_USER_CANCELED;
	} else {
		warning = p[0] == STREAM_ALERT_WARNING;
		if (!warning && p[0] != STREAM_ALERT_FATAL)
			return tls_stream_fail(c, TLS_ALERT_ILLEGAL_PARAMETER, "malformed alert");
	}
	if (!warning)
		return tls_stream_dead(c, "fatal alert from the peer");
	return tls_stream_count(c, &s->warnings, TLS_STREAM_MAX_WARNINGS,
				"too many warning alerts");
}

static int stream_data(struct tls_stream_call *c, uint8_t *p, size_t len)
{
	struct tls_stream *s = c->s;

	if (len == 0)
		return tls_stream_count(c, &s->empty_records, STREAM_MAX_EMPTY,
					"too many empty records");
	s->empty_records = 0;
	s->key_updates = 0;
	s->tickets = 0;
	s->warnings = 0;
	c->ev->data = p;
	c->ev->data_len = len;
	return 1;
}

static TLS_RARE int stream_content(struct tls_stream_call *c, uint8_t type, uint8_t *p, size_t len)
{
	/* RFC 8446 section 5.1 */
	if (c->s->hs_head_len != 0 && type != TLS_CONTENT_HANDSHAKE)
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE,
				       "record inside a handshake message");
	/* RFC 8446 section 5.4, RFC 5246 section 6.2.1: only data may be empty. */
	if (len == 0 && type != TLS_CONTENT_APPLICATION_DATA)
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE, "empty record");
	switch (type) {
	case TLS_CONTENT_APPLICATION_DATA:
		return stream_data(c, p, len);
	case TLS_CONTENT_ALERT:
		return tls_stream_take_alert(c, p, len);
	case TLS_CONTENT_HANDSHAKE:
		return stream_handshake(c, p, len);
	default:
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE, "unexpected record type");
	}
}

const char *tls_stream_record_error(uint8_t alert)
{
	switch (alert) {
	case TLS_ALERT_BAD_RECORD_MAC:
		return "record does not authenticate";
	case TLS_ALERT_RECORD_OVERFLOW:
		return "oversized record";
	case TLS_ALERT_PROTOCOL_VERSION:
		return "bad record version";
	case TLS_ALERT_UNEXPECTED_MESSAGE:
		return "unexpected record type";
	default:
		return "cannot open a record";
	}
}

/* Clears what the last call told; a dead stream tells that it is. */
int tls_stream_begin(struct tls_stream_call *c, size_t *need)
{
	*c->ev = (struct tls_stream_event){.alert_sent = -1, .alert_received = -1};
	*need = 0;
	return c->s->flags & TLS_STREAM_DEAD
		       ? tls_stream_dead(c, "the connection has failed before")
		       : 0;
}

/* Opens the record at in. Returns as tls_stream_read() does. */
int tls_stream_open(struct tls_stream_call *c, uint8_t *in, size_t in_len, uint8_t **plain,
		    size_t *plain_len, uint8_t *type, size_t *need)
{
	struct tls_record_keys *keys = &c->s->rd;
	struct tls_record_header h;
	uint8_t alert = TLS_ALERT_INTERNAL_ERROR;
	int rc = tls_record_peek(keys, in, in_len, &h, &alert);

	if (rc == 0)
		*need = h.size;
	if (rc > 0) {
		c->ev->consumed = h.size;
		rc = tls_record_open(keys, in, h.size, plain, plain_len, type, &alert) == 0 ? 1
											    : -1;
	}
	return rc < 0 ? tls_stream_fail(c, alert, tls_stream_record_error(alert)) : rc;
}

/* What tls_stream_read() finds when it is not what it nearly always is. */
static TLS_RARE int stream_read_any(struct tls_stream_call *c, uint8_t *in, size_t in_len,
				    size_t *need)
{
	uint8_t *plain, type;
	size_t plain_len;
	int rc;

	if (tls_stream_begin(c, need) < 0)
		return -1;
	if (c->s->flags & TLS_STREAM_READ_CLOSED) { /* RFC 8446 section 6.1: ignored */
		c->ev->consumed = in_len;
		return in_len != 0;
	}
	rc = tls_stream_open(c, in, in_len, &plain, &plain_len, &type, need);
	return rc > 0 ? stream_content(c, type, plain, plain_len) : rc;
}

/* One whole record that may hold data and nothing behind it, on a stream where nothing else is
 * under way. */
static bool stream_is_at_data(const struct tls_stream *s, const uint8_t *in, size_t in_len)
{
	struct tls_record_header h;
	uint8_t alert;

	return (s->flags & ~TLS_STREAM_CLIENT) == 0 && s->hs_head_len == 0 &&
	       tls_record_peek(&s->rd, in, in_len, &h, &alert) == 1 &&
	       h.type == TLS_CONTENT_APPLICATION_DATA && h.size == in_len;
}

int tls_stream_read(struct tls_stream *s, uint8_t *in, size_t in_len, uint8_t *reply,
		    struct tls_stream_event *ev, size_t *need)
{
	struct tls_stream_call c = {s, ev, reply};
	uint8_t *plain, type, alert;
	size_t plain_len;

	if (!stream_is_at_data(s, in, in_len))
		return stream_read_any(&c, in, in_len, need);
	*ev = (struct tls_stream_event){.consumed = in_len, .alert_sent = -1, .alert_received = -1};
	*need = 0;
	if (tls_record_open(&s->rd, in, in_len, &plain, &plain_len, &type, &alert) != 0)
		return tls_stream_fail(&c, alert, tls_stream_record_error(alert));
	if (type == TLS_CONTENT_APPLICATION_DATA)
		return stream_data(&c, plain, plain_len);
	return stream_content(&c, type, plain, plain_len);
}

/* What tls_stream_write() does when it is not what it nearly always is. */
static TLS_RARE size_t stream_write_any(struct tls_stream *s, const uint8_t *in, size_t len,
					size_t *taken, size_t fragment, uint8_t *out,
					size_t out_size)
{
	static const size_t update_room = 5 + TLS_RECORD_OVERHEAD;
	size_t used = 0;
	size_t n;

	*taken = 0;
	while (*taken < len && !(s->flags & (TLS_STREAM_WRITE_CLOSED | TLS_STREAM_DEAD))) {
		int update = stream_update_is_due(s);
		size_t room = out_size - used;
		size_t overhead = TLS_RECORD_OVERHEAD + (update ? update_room : 0);

		if (room <= overhead)
			break;
		if (update) {
			n = stream_key_update(s, out + used);
			if (n == 0)
				break;
			used += n;
		}
		n = len - *taken;
		n = n < fragment ? n : fragment;
		n = n < room - overhead ? n : room - overhead;
		room = tls_record_seal(&s->wr, TLS_CONTENT_APPLICATION_DATA, in + *taken, n,
				       out + used);
		if (room == 0) {
			stream_kill(s);
			break;
		}
		used += room;
		*taken += n;
	}
	return *taken != 0 ? used : 0;
}

size_t tls_stream_write(struct tls_stream *s, const uint8_t *in, size_t len, size_t *taken,
			size_t fragment, uint8_t *out, size_t out_size)
{
	bool is_one_record;
	size_t used;

	if (fragment == 0 || fragment > TLS_RECORD_MAX_PLAIN)
		fragment = TLS_RECORD_MAX_PLAIN;
	is_one_record = (s->flags & ~TLS_STREAM_CLIENT) == 0 && len > 0 && len <= fragment &&
			len + TLS_RECORD_OVERHEAD <= out_size && !stream_update_is_due(s);
	if (!is_one_record)
		return stream_write_any(s, in, len, taken, fragment, out, out_size);
	used = tls_record_seal(&s->wr, TLS_CONTENT_APPLICATION_DATA, in, len, out);
	if (used == 0)
		stream_kill(s);
	*taken = used > 0 ? len : 0;
	return used;
}
