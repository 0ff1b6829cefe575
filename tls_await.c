/* SPDX-License-Identifier: ISC */
#include "tls_await.h"

#include <openssl/crypto.h>

#include <stdbool.h>
#include <string.h>

_Static_assert(TLS_EXCHANGE_MESSAGE <= TLS_AWAIT_MESSAGE, "room for a ClientKeyExchange");

void tls_await_wipe(struct tls_await *a)
{
	OPENSSL_cleanse(a, sizeof(*a));
}

/* The header of a Finished with a content of size bytes. */
static void await_expect(struct tls_await *a, size_t size)
{
	a->expected[0] = TLS_MESSAGE_FINISHED;
	a->expected[3] = (uint8_t)size;
	a->expected_len = (uint8_t)(TLS_MESSAGE_HEADER + size);
}

int tls_await_init(struct tls_await *a, uint8_t aead, uint8_t hash, const uint8_t *secret,
		   const uint8_t *transcript)
{
	size_t size = tls_kdf_hash_size(hash);

	memset(a, 0, sizeof(*a));
	await_expect(a, size);
	if (tls_record_keys_1_3(&a->keys, aead, hash, secret, size) == 0 &&
	    tls_kdf_finished(hash, secret, transcript, a->expected + TLS_MESSAGE_HEADER) == 0)
		return 0;
	tls_await_wipe(a);
	return -1;
}

size_t tls_await_seal(const struct tls_await *a, uint8_t *out)
{
	struct tls_record_keys keys = a->keys;
	size_t n = tls_record_seal(&keys, TLS_CONTENT_HANDSHAKE, a->expected, a->expected_len, out);

	tls_record_keys_wipe(&keys);
	return n;
}

static void await_swap_keys(struct tls_stream *s, struct tls_await *a)
{
	struct tls_record_keys keys = s->rd;

	s->rd = a->keys;
	a->keys = keys;
	tls_record_keys_wipe(&keys);
}

void tls_await_begin(struct tls_stream *s, struct tls_await *a)
{
	await_swap_keys(s, a);
	s->flags |= TLS_STREAM_AWAITS;
}

void tls_await_begin_resumed(struct tls_stream *s, struct tls_await *a,
			     const uint8_t verify_data[TLS_EXCHANGE_VERIFY])
{
	memset(a, 0, sizeof(*a));
	a->step = TLS_AWAIT_CHANGE;
	a->keys = s->rd;
	a->keys.seq = 0; /* what was counted so far was not protected */
	await_expect(a, TLS_EXCHANGE_VERIFY);
	memcpy(a->expected + TLS_MESSAGE_HEADER, verify_data, TLS_EXCHANGE_VERIFY);
	s->flags |= TLS_STREAM_AWAITS;
}

void tls_await_begin_exchange(struct tls_stream *s, struct tls_await *a)
{
	memset(s, 0, sizeof(*s));
	s->rd.version = TLS_VERSION_1_2;
	s->flags = TLS_STREAM_AWAITS | TLS_STREAM_CLEAR;
	a->step = TLS_AWAIT_KEY_EXCHANGE;
}

/* TLS 1.2: the ticket and this end's Finished, which it has not sent yet. */
static int await_answer(struct tls_stream_call *c, struct tls_await *a)
{
	size_t len = tls_exchange_end(&a->exchange, a->messages, a->expected, &c->s->wr, c->reply);

	if (len == 0)
		return tls_stream_fail(c, TLS_ALERT_INTERNAL_ERROR, "cannot seal the Finished");
	c->ev->reply_len = len;
	c->s->flags &= (uint8_t)~TLS_STREAM_CLEAR;
	return 1;
}

/* The Finished is right. */
static int await_end(struct tls_stream_call *c, struct tls_await *a)
{
	if (c->s->rd.version == TLS_VERSION_1_3)
		await_swap_keys(c->s, a);
	else if ((c->s->flags & TLS_STREAM_CLEAR) && await_answer(c, a) < 0)
		return -1;
	c->s->flags &= (uint8_t)~TLS_STREAM_AWAITS;
	c->s->warnings = 0;
	tls_await_wipe(a);
	return 1;
}

/* Adds a part of a message of len bytes, of which none may follow in the record: the next one comes
 * with other keys (RFC 8446 section 5.1). Returns 1 when it is whole, 0 when not yet, or -1. */
static int await_part(struct tls_stream_call *c, struct tls_await *a, struct tls_bytes part,
		      const uint8_t header[TLS_MESSAGE_HEADER], size_t len)
{
	size_t left = len - a->received_len, n = part.len < left ? part.len : left;

	memcpy(a->received + a->received_len, part.data, n);
	a->received_len += (uint8_t)n;
	if (a->received[0] != header[0])
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE,
				       "unexpected handshake message");
	if (a->received_len < TLS_MESSAGE_HEADER)
		return 0;
	if (memcmp(a->received, header, TLS_MESSAGE_HEADER) != 0)
		return tls_stream_fail(c, TLS_ALERT_DECODE_ERROR,
				       a->step == TLS_AWAIT_FINISHED
					       ? "bad length of Finished"
					       : "bad length of ClientKeyExchange");
	if (n < part.len)
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE,
				       a->step == TLS_AWAIT_FINISHED
					       ? "data after a Finished in its record"
					       : "data after a ClientKeyExchange in its record");
	return a->received_len == len;
}

/* Takes a part of the Finished, which may come in several records. Only the whole of it is told
 * right from wrong. */
static int await_finished(struct tls_stream_call *c, struct tls_await *a, struct tls_bytes part)
{
	int rc = await_part(c, a, part, a->expected, a->expected_len);

	if (rc <= 0)
		return rc < 0 ? -1 : 1;
	if (CRYPTO_memcmp(a->received, a->expected, a->expected_len) != 0)
		return tls_stream_fail(c, TLS_ALERT_DECRYPT_ERROR, "bad Finished");
	return await_end(c, a);
}

/* Takes a part of the ClientKeyExchange, likewise. */
static int await_key_exchange(struct tls_stream_call *c, struct tls_await *a, struct tls_bytes part)
{
	static const uint8_t header[TLS_MESSAGE_HEADER] = {TLS_MESSAGE_CLIENT_KEY_EXCHANGE, 0, 0,
							   1 + TLS_X25519_KEY};
	int rc = await_part(c, a, part, header, TLS_EXCHANGE_MESSAGE);
	uint8_t alert;

	if (rc <= 0)
		return rc < 0 ? -1 : 1;
	if (a->received[TLS_MESSAGE_HEADER] != TLS_X25519_KEY)
		return tls_stream_fail(c, TLS_ALERT_DECODE_ERROR, "bad length of a key share");
	a->received_len = 0;
	await_expect(a, TLS_EXCHANGE_VERIFY);
	if (tls_exchange_keys(&a->exchange, a->messages, a->received, &a->keys, &c->s->wr,
			      a->expected + TLS_MESSAGE_HEADER, &alert) != 0)
		return tls_stream_fail(c, alert,
				       alert == TLS_ALERT_INTERNAL_ERROR ? "cannot make the keys"
									 : "bad key share");
	a->step = TLS_AWAIT_CHANGE;
	return 1;
}

/* Any alert ends a handshake, but for a warning, in TLS 1.3 user_canceled. */
static int await_alert(struct tls_stream_call *c, const uint8_t *p, size_t len)
{
	int rc = tls_stream_take_alert(c, p, len);

	if (c->ev->alert_sent >= 0 || (rc > 0 && c->ev->alert_received != TLS_ALERT_CLOSE_NOTIFY))
		return rc;
	return tls_stream_dead(c, "the peer ended the handshake with an alert");
}

static int await_content(struct tls_stream_call *c, struct tls_await *a, uint8_t type,
			 const uint8_t *p, size_t len)
{
	if (a->received_len != 0 && type != TLS_CONTENT_HANDSHAKE)
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE,
				       "record inside a handshake message");
	if (len == 0 && type != TLS_CONTENT_APPLICATION_DATA) /* RFC 8446 section 5.4 */
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE, "empty record");
	if (type == TLS_CONTENT_HANDSHAKE)
		return await_finished(c, a, (struct tls_bytes){p, len});
	if (type == TLS_CONTENT_ALERT)
		return await_alert(c, p, len);
	return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE, "unexpected record type");
}

/*
 * TLS 1.3: records that are not protected are a ChangeCipherSpec, which means nothing (RFC 8446
 * section 5), and the alert of a client that has no keys because it could make nothing of the
 * server's messages.
 */
static int await_plain(struct tls_stream_call *c, const uint8_t *in, size_t in_len, size_t *need)
{
	bool is_alert = in[0] == TLS_CONTENT_ALERT;
	size_t content = is_alert ? 2 : 1, size = TLS_RECORD_HEADER + content;

	if (in_len < size) {
		*need = size;
		return 0;
	}
	c->ev->consumed = size;
	if (in[1] == 3 && in[3] == 0 && in[4] == content) {
		if (is_alert && c->s->rd.seq == 0)
			return await_alert(c, in + TLS_RECORD_HEADER, content);
		if (!is_alert && in[TLS_RECORD_HEADER] == 1)
			return tls_stream_count(c, &c->s->warnings, TLS_STREAM_MAX_WARNINGS,
						"too many ChangeCipherSpecs");
	}
	return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE, "unexpected record type");
}

/* TLS 1.2: the content of a record that is not protected. */
static int await_clear_content(struct tls_stream_call *c, struct tls_await *a, uint8_t type,
			       struct tls_bytes content)
{
	const uint8_t *bytes = content.data;

	if (a->received_len != 0 && type != TLS_CONTENT_HANDSHAKE)
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE,
				       "record inside a handshake message");
	if (type == TLS_CONTENT_ALERT)
		return await_alert(c, bytes, content.len);
	if (type == TLS_CONTENT_HANDSHAKE && a->step == TLS_AWAIT_KEY_EXCHANGE)
		return await_key_exchange(c, a, content);
	if (type == TLS_CONTENT_HANDSHAKE)
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE,
				       "unexpected handshake message");
	if (a->step != TLS_AWAIT_CHANGE)
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE,
				       "unexpected ChangeCipherSpec");
	if (content.len != 1 || bytes[0] != 1)
		return tls_stream_fail(c, TLS_ALERT_DECODE_ERROR, "bad ChangeCipherSpec");
	c->s->rd = a->keys;
	a->step = TLS_AWAIT_FINISHED;
	return 1;
}

/* TLS 1.2: a record that is not protected. Returns as tls_stream_read() does. */
static int await_clear(struct tls_stream_call *c, struct tls_await *a, const uint8_t *in,
		       size_t in_len, size_t *need)
{
	struct tls_record_header h;
	uint8_t alert;
	int rc = tls_record_peek_clear(in, in_len, &h, &alert);

	if (rc < 0)
		return tls_stream_fail(c, alert, tls_stream_record_error(alert));
	if (rc == 0) {
		*need = h.size;
		return 0;
	}
	c->ev->consumed = h.size;
	if (h.size == TLS_RECORD_HEADER) /* RFC 5246 section 6.2.1 */
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE, "empty record");
	return await_clear_content(
		c, a, h.type,
		(struct tls_bytes){in + TLS_RECORD_HEADER, h.size - TLS_RECORD_HEADER});
}

int tls_await_read(struct tls_stream *s, struct tls_await *a, uint8_t *in, size_t in_len,
		   uint8_t *reply, struct tls_stream_event *ev, size_t *need)
{
	struct tls_stream_call c = {s, ev, reply};
	uint8_t *plain, type;
	size_t plain_len;
	int rc;

	if (tls_stream_begin(&c, need) < 0)
		return -1;
	if (a->step != TLS_AWAIT_FINISHED)
		return await_clear(&c, a, in, in_len, need);
	if (s->rd.version == TLS_VERSION_1_3 && in_len > 0 &&
	    (in[0] == TLS_CONTENT_CHANGE_CIPHER_SPEC || in[0] == TLS_CONTENT_ALERT))
		return await_plain(&c, in, in_len, need);
	rc = tls_stream_open(&c, in, in_len, &plain, &plain_len, &type, need);
	return rc > 0 ? await_content(&c, a, type, plain, plain_len) : rc;
}
