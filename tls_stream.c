/* SPDX-License-Identifier: ISC */
/*
 * What an established TLS connection does beside moving data: alerts, key
 * updates, tickets, refused renegotiations and the limits on all of them;
 * tls_stream.h is the manual. Callers may rely on this: whatever the peer
 * sends, a call returns with the stream alive, closed for reading or dead,
 * and never with more than TLS_STREAM_REPLY_MAX bytes of reply.
 */
#include "tls_stream.h"

#include <openssl/crypto.h>

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* What a peer may send in a row without any application data: enough for every honest one. */
#define STREAM_MAX_EMPTY    32 /* records without content */
#define STREAM_MAX_UPDATES  32 /* KeyUpdate messages */
#define STREAM_MAX_TICKETS  64 /* NewSessionTicket messages */
#define STREAM_MAX_WARNINGS 5  /* warning alerts and HelloRequests */

#define STREAM_MAX_MESSAGE    65536 /* body of a post-handshake message */
#define STREAM_MESSAGE_HEADER 4     /* type and length, RFC 8446 section 4 */

#define STREAM_ALERT_WARNING 1
#define STREAM_ALERT_FATAL   2

/* RFC 8446 section 4, RFC 5246 section 7.4 */
enum stream_message {
	STREAM_HELLO_REQUEST = 0,
	STREAM_CLIENT_HELLO = 1,
	STREAM_NEW_SESSION_TICKET = 4,
	STREAM_FINISHED = 20,
	STREAM_KEY_UPDATE = 24,
};

/* One call of tls_stream_read(). */
struct stream_reading {
	struct tls_stream *s;
	struct tls_stream_event *ev;
	uint8_t *reply;
};

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

static void stream_kill(struct tls_stream *s)
{
	s->flags |= TLS_STREAM_DEAD | TLS_STREAM_WRITE_CLOSED;
}

/* Seals one alert; a stream that cannot is dead. */
static size_t stream_alert_seal(struct tls_stream *s, uint8_t level, uint8_t alert, uint8_t *out)
{
	const uint8_t message[2] = {level, alert};
	size_t n = tls_record_seal(&s->wr, TLS_CONTENT_ALERT, message, sizeof(message), out);

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
static size_t stream_key_update(struct tls_stream *s, uint8_t *out)
{
	static const uint8_t message[5] = {STREAM_KEY_UPDATE, 0, 0, 1, 0};
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

static int stream_dead(struct stream_reading *r, const char *error)
{
	stream_kill(r->s);
	r->ev->error = error;
	return -1;
}

/* Ends the stream with a fatal alert to the peer. */
static int stream_fail(struct stream_reading *r, uint8_t alert, const char *error)
{
	size_t n = tls_stream_alert(r->s, alert, r->reply + r->ev->reply_len);

	if (n != 0) {
		r->ev->reply_len += n;
		r->ev->alert_sent = alert;
	}
	return stream_dead(r, error);
}

/* Counts one more of what is limited. */
static int stream_count(struct stream_reading *r, uint8_t *count, uint8_t limit, const char *error)
{
	if (++*count <= limit)
		return 1;
	return stream_fail(r, TLS_ALERT_UNEXPECTED_MESSAGE, error);
}

/* RFC 5246 section 7.2.2: a warning, after which the connection can go on. */
static int stream_refuse_renegotiation(struct stream_reading *r)
{
	size_t n;

	if (r->s->flags & TLS_STREAM_WRITE_CLOSED)
		return 1;
	n = stream_alert_seal(r->s, STREAM_ALERT_WARNING, TLS_ALERT_NO_RENEGOTIATION,
			      r->reply + r->ev->reply_len);
	if (n == 0)
		return stream_dead(r, "cannot seal an alert");
	r->ev->reply_len += n;
	r->ev->alert_sent = TLS_ALERT_NO_RENEGOTIATION;
	return 1;
}

/* RFC 8446 section 4.6.3. rest is what follows the message in its record. */
static int stream_key_update_received(struct stream_reading *r, uint8_t request, size_t rest)
{
	struct tls_stream *s = r->s;
	size_t n;

	if (request > 1)
		return stream_fail(r, TLS_ALERT_ILLEGAL_PARAMETER, "bad KeyUpdate");
	/* RFC 8446 section 5.1: a message before a change of keys ends its record. */
	if (rest != 0)
		return stream_fail(r, TLS_ALERT_UNEXPECTED_MESSAGE,
				   "data after a KeyUpdate in its record");
	if (stream_count(r, &s->key_updates, STREAM_MAX_UPDATES, "too many KeyUpdates") < 0)
		return -1;
	if (tls_record_keys_update(&s->rd) != 0)
		return stream_fail(r, TLS_ALERT_INTERNAL_ERROR, "cannot update the keys");
	if (request == 0 || (s->flags & TLS_STREAM_WRITE_CLOSED))
		return 1;
	n = stream_key_update(s, r->reply + r->ev->reply_len);
	if (n == 0)
		return stream_dead(r, "cannot update the keys");
	r->ev->reply_len += n;
	return 1;
}

/* Judges a TLS 1.3 message by its header. */
static int stream_message_1_3(struct stream_reading *r)
{
	struct tls_stream *s = r->s;

	switch (s->hs_head[0]) {
	case STREAM_KEY_UPDATE:
		if (s->hs_left != 1)
			return stream_fail(r, TLS_ALERT_DECODE_ERROR, "bad KeyUpdate");
		return 1;
	case STREAM_NEW_SESSION_TICKET:
		if (!(s->flags & TLS_STREAM_CLIENT))
			break;
		if (s->hs_left > STREAM_MAX_MESSAGE)
			return stream_fail(r, TLS_ALERT_ILLEGAL_PARAMETER,
					   "oversized handshake message");
		return stream_count(r, &s->tickets, STREAM_MAX_TICKETS, "too many tickets");
	default: /* CertificateRequest too: this end never offers post_handshake_auth */
		break;
	}
	return stream_fail(r, TLS_ALERT_UNEXPECTED_MESSAGE, "unexpected handshake message");
}

/* Judges a TLS 1.2 message by its header: there is none but an attempt to renegotiate. */
static int stream_message_1_2(struct stream_reading *r)
{
	struct tls_stream *s = r->s;
	int client = s->flags & TLS_STREAM_CLIENT;

	if (!client && s->hs_head[0] == STREAM_CLIENT_HELLO) {
		if (stream_refuse_renegotiation(r) < 0)
			return -1;
		return stream_dead(r, "renegotiation attempt by the peer refused");
	}
	if (!client || s->hs_head[0] != STREAM_HELLO_REQUEST)
		return stream_fail(r, TLS_ALERT_UNEXPECTED_MESSAGE, "unexpected handshake message");
	if (s->hs_left != 0)
		return stream_fail(r, TLS_ALERT_DECODE_ERROR, "bad HelloRequest");
	if (stream_count(r, &s->warnings, STREAM_MAX_WARNINGS, "too many HelloRequests") < 0)
		return -1;
	return stream_refuse_renegotiation(r);
}

/* Takes bytes of a message's header; judges the message when the header is complete. */
static int stream_message_head(struct stream_reading *r, const uint8_t *p, size_t n)
{
	struct tls_stream *s = r->s;
	int rc;

	memcpy(s->hs_head + s->hs_head_len, p, n);
	s->hs_head_len += (uint8_t)n;
	if (s->hs_head_len < sizeof(s->hs_head))
		return 1;
	s->hs_left = (uint32_t)s->hs_head[1] << 16 | (uint32_t)s->hs_head[2] << 8 | s->hs_head[3];
	rc = stream_is_1_3(s) ? stream_message_1_3(r) : stream_message_1_2(r);
	if (s->hs_left == 0)
		s->hs_head_len = 0;
	return rc;
}

/* Messages may share a record and may span records (RFC 8446 section 5.1). */
static int stream_handshake(struct stream_reading *r, const uint8_t *p, size_t len)
{
	struct tls_stream *s = r->s;
	size_t n;
	int rc = 1;

	while (len > 0 && rc > 0) {
		if (s->hs_head_len < sizeof(s->hs_head)) {
			n = sizeof(s->hs_head) - s->hs_head_len;
			n = n < len ? n : len;
			rc = stream_message_head(r, p, n);
		} else {
			n = s->hs_left < len ? s->hs_left : len;
			s->hs_left -= (uint32_t)n;
			if (s->hs_left == 0)
				s->hs_head_len = 0;
			if (s->hs_head[0] == STREAM_KEY_UPDATE)
				rc = stream_key_update_received(r, *p, len - n);
		}
		p += n;
		len -= n;
	}
	return rc;
}

static int stream_alert_received(struct stream_reading *r, const uint8_t *p, size_t len)
{
	struct tls_stream *s = r->s;
	int warning;

	if (len != 2)
		return stream_fail(r, TLS_ALERT_DECODE_ERROR, "malformed alert");
	r->ev->alert_received = p[1];
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
			return stream_fail(r, TLS_ALERT_ILLEGAL_PARAMETER, "malformed alert");
	}
	if (!warning)
		return stream_dead(r, "fatal alert from the peer");
	return stream_count(r, &s->warnings, STREAM_MAX_WARNINGS, "too many warning alerts");
}

static int stream_data(struct stream_reading *r, uint8_t *p, size_t len)
{
	struct tls_stream *s = r->s;

	if (len == 0)
		return stream_count(r, &s->empty_records, STREAM_MAX_EMPTY,
				    "too many empty records");
	s->empty_records = 0;
	s->key_updates = 0;
	s->tickets = 0;
	s->warnings = 0;
	r->ev->data = p;
	r->ev->data_len = len;
	return 1;
}

static int stream_content(struct stream_reading *r, uint8_t type, uint8_t *p, size_t len)
{
	/* RFC 8446 section 5.1 */
	if (r->s->hs_head_len != 0 && type != TLS_CONTENT_HANDSHAKE)
		return stream_fail(r, TLS_ALERT_UNEXPECTED_MESSAGE,
				   "record inside a handshake message");
	/* RFC 8446 section 5.4, RFC 5246 section 6.2.1: only data may be empty. */
	if (len == 0 && type != TLS_CONTENT_APPLICATION_DATA)
		return stream_fail(r, TLS_ALERT_UNEXPECTED_MESSAGE, "empty record");
	switch (type) {
	case TLS_CONTENT_APPLICATION_DATA:
		return stream_data(r, p, len);
	case TLS_CONTENT_ALERT:
		return stream_alert_received(r, p, len);
	case TLS_CONTENT_HANDSHAKE:
		return stream_handshake(r, p, len);
	default:
		return stream_fail(r, TLS_ALERT_UNEXPECTED_MESSAGE, "unexpected record type");
	}
}

static const char *stream_record_error(uint8_t alert)
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
static int stream_begin(struct stream_reading *r, size_t *need)
{
	*r->ev = (struct tls_stream_event){.alert_sent = -1, .alert_received = -1};
	*need = 0;
	return r->s->flags & TLS_STREAM_DEAD ? stream_dead(r, "the connection has failed before")
					     : 0;
}

/* Opens the record at in. Returns as tls_stream_read() does. */
static int stream_open(struct stream_reading *r, uint8_t *in, size_t in_len, uint8_t **plain,
		       size_t *plain_len, uint8_t *type, size_t *need)
{
	struct tls_record_keys *keys = &r->s->rd;
	struct tls_record_header h;
	uint8_t alert = TLS_ALERT_INTERNAL_ERROR;
	int rc = tls_record_peek(keys, in, in_len, &h, &alert);

	if (rc == 0)
		*need = h.size;
	if (rc > 0) {
		r->ev->consumed = h.size;
		rc = tls_record_open(keys, in, h.size, plain, plain_len, type, &alert) == 0 ? 1
											    : -1;
	}
	return rc < 0 ? stream_fail(r, alert, stream_record_error(alert)) : rc;
}

int tls_stream_read(struct tls_stream *s, uint8_t *in, size_t in_len, uint8_t *reply,
		    struct tls_stream_event *ev, size_t *need)
{
	struct stream_reading r = {s, ev, reply};
	uint8_t *plain, type;
	size_t plain_len;
	int rc;

	if (stream_begin(&r, need) < 0)
		return -1;
	if (s->flags & TLS_STREAM_READ_CLOSED) { /* RFC 8446 section 6.1: ignored */
		ev->consumed = in_len;
		return in_len != 0;
	}
	rc = stream_open(&r, in, in_len, &plain, &plain_len, &type, need);
	return rc > 0 ? stream_content(&r, type, plain, plain_len) : rc;
}

/* ---- a client's Finished that is known before it comes ---- */

void tls_stream_await_wipe(struct tls_stream_await *a)
{
	OPENSSL_cleanse(a, sizeof(*a));
}

int tls_stream_await_init(struct tls_stream_await *a, uint8_t aead, uint8_t hash,
			  const uint8_t *secret, const uint8_t *transcript)
{
	size_t size = tls_kdf_hash_size(hash);

	memset(a, 0, sizeof(*a));
	a->expected[0] = STREAM_FINISHED;
	a->expected[3] = (uint8_t)size;
	a->expected_len = (uint8_t)(STREAM_MESSAGE_HEADER + size);
	if (tls_record_keys_1_3(&a->keys, aead, hash, secret, size) == 0 &&
	    tls_kdf_finished(hash, secret, transcript, a->expected + STREAM_MESSAGE_HEADER) == 0)
		return 0;
	tls_stream_await_wipe(a);
	return -1;
}

size_t tls_stream_await_seal(const struct tls_stream_await *a, uint8_t *out)
{
	struct tls_record_keys keys = a->keys;
	size_t n = tls_record_seal(&keys, TLS_CONTENT_HANDSHAKE, a->expected, a->expected_len, out);

	tls_record_keys_wipe(&keys);
	return n;
}

static void await_swap_keys(struct tls_stream *s, struct tls_stream_await *a)
{
	struct tls_record_keys keys = s->rd;

	s->rd = a->keys;
	a->keys = keys;
	tls_record_keys_wipe(&keys);
}

void tls_stream_await_begin(struct tls_stream *s, struct tls_stream_await *a)
{
	await_swap_keys(s, a);
	s->flags |= TLS_STREAM_AWAITS;
}

/* Takes a part of the Finished, which may come in several records. Only the whole of it is told
 * right from wrong. */
static int await_message(struct stream_reading *r, struct tls_stream_await *a, const uint8_t *p,
			 size_t len)
{
	size_t left = (size_t)(a->expected_len - a->received_len), n = len < left ? len : left;

	memcpy(a->received + a->received_len, p, n);
	a->received_len += (uint8_t)n;
	if (a->received[0] != STREAM_FINISHED)
		return stream_fail(r, TLS_ALERT_UNEXPECTED_MESSAGE, "unexpected handshake message");
	if (a->received_len < STREAM_MESSAGE_HEADER)
		return 1;
	if (memcmp(a->received, a->expected, STREAM_MESSAGE_HEADER) != 0)
		return stream_fail(r, TLS_ALERT_DECODE_ERROR, "bad length of Finished");
	if (n < len) /* RFC 8446 section 5.1: a message before a change of keys ends its record. */
		return stream_fail(r, TLS_ALERT_UNEXPECTED_MESSAGE,
				   "data after a Finished in its record");
	if (a->received_len < a->expected_len)
		return 1;
	if (CRYPTO_memcmp(a->received, a->expected, a->expected_len) != 0)
		return stream_fail(r, TLS_ALERT_DECRYPT_ERROR, "bad Finished");
	await_swap_keys(r->s, a);
	r->s->flags &= (uint8_t)~TLS_STREAM_AWAITS;
	r->s->warnings = 0;
	tls_stream_await_wipe(a);
	return 1;
}

/* Any alert ends a handshake, but for user_canceled, after which another one comes. */
static int await_alert(struct stream_reading *r, const uint8_t *p, size_t len)
{
	int rc = stream_alert_received(r, p, len);

	if (r->ev->alert_sent >= 0 || (rc > 0 && r->ev->alert_received == TLS_ALERT_USER_CANCELED))
		return rc;
	return stream_dead(r, "the peer ended the handshake with an alert");
}

static int await_content(struct stream_reading *r, struct tls_stream_await *a, uint8_t type,
			 const uint8_t *p, size_t len)
{
	if (a->received_len != 0 && type != TLS_CONTENT_HANDSHAKE)
		return stream_fail(r, TLS_ALERT_UNEXPECTED_MESSAGE,
				   "record inside a handshake message");
	if (len == 0 && type != TLS_CONTENT_APPLICATION_DATA) /* RFC 8446 section 5.4 */
		return stream_fail(r, TLS_ALERT_UNEXPECTED_MESSAGE, "empty record");
	if (type == TLS_CONTENT_HANDSHAKE)
		return await_message(r, a, p, len);
	if (type == TLS_CONTENT_ALERT)
		return await_alert(r, p, len);
	return stream_fail(r, TLS_ALERT_UNEXPECTED_MESSAGE, "unexpected record type");
}

/*
 * Records that are not protected: a ChangeCipherSpec, which means nothing (RFC 8446 section 5), and
 * the alert of a client that has no keys because it could make nothing of the server's messages.
 */
static int await_plain(struct stream_reading *r, const uint8_t *in, size_t in_len, size_t *need)
{
	bool is_alert = in[0] == TLS_CONTENT_ALERT;
	size_t content = is_alert ? 2 : 1, size = TLS_RECORD_HEADER + content;

	if (in_len < size) {
		*need = size;
		return 0;
	}
	r->ev->consumed = size;
	if (in[1] == 3 && in[3] == 0 && in[4] == content) {
		if (is_alert && r->s->rd.seq == 0)
			return await_alert(r, in + TLS_RECORD_HEADER, content);
		if (!is_alert && in[TLS_RECORD_HEADER] == 1)
			return stream_count(r, &r->s->warnings, STREAM_MAX_WARNINGS,
					    "too many ChangeCipherSpecs");
	}
	return stream_fail(r, TLS_ALERT_UNEXPECTED_MESSAGE, "unexpected record type");
}

int tls_stream_await_read(struct tls_stream *s, struct tls_stream_await *a, uint8_t *in,
			  size_t in_len, uint8_t *reply, struct tls_stream_event *ev, size_t *need)
{
	struct stream_reading r = {s, ev, reply};
	uint8_t *plain, type;
	size_t plain_len;
	int rc;

	if (stream_begin(&r, need) < 0)
		return -1;
	if (in_len > 0 && (in[0] == TLS_CONTENT_CHANGE_CIPHER_SPEC || in[0] == TLS_CONTENT_ALERT))
		return await_plain(&r, in, in_len, need);
	rc = stream_open(&r, in, in_len, &plain, &plain_len, &type, need);
	return rc > 0 ? await_content(&r, a, type, plain, plain_len) : rc;
}

size_t tls_stream_write(struct tls_stream *s, const uint8_t *in, size_t len, size_t *taken,
			size_t fragment, uint8_t *out, size_t out_size)
{
	static const size_t update_room = 5 + TLS_RECORD_OVERHEAD;
	uint64_t limit = s->update_after != 0 ? s->update_after : TLS_STREAM_UPDATE_AFTER;
	size_t used = 0;
	size_t n;

	*taken = 0;
	if (fragment == 0 || fragment > TLS_RECORD_MAX_PLAIN)
		fragment = TLS_RECORD_MAX_PLAIN;
	while (*taken < len && !(s->flags & (TLS_STREAM_WRITE_CLOSED | TLS_STREAM_DEAD))) {
		int update = stream_is_1_3(s) && s->wr.seq >= limit;
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
