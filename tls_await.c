/* SPDX-License-Identifier: ISC */
#include "tls_await.h"

#include <openssl/crypto.h>

#include <stdbool.h>
#include <string.h>

#define AWAIT_HEADER   4 /* type and length of a message, RFC 8446 section 4 */
#define AWAIT_FINISHED 20

void tls_await_wipe(struct tls_await *a)
{
	OPENSSL_cleanse(a, sizeof(*a));
}

int tls_await_init(struct tls_await *a, uint8_t aead, uint8_t hash, const uint8_t *secret,
		   const uint8_t *transcript)
{
	size_t size = tls_kdf_hash_size(hash);

	memset(a, 0, sizeof(*a));
	a->expected[0] = AWAIT_FINISHED;
	a->expected[3] = (uint8_t)size;
	a->expected_len = (uint8_t)(AWAIT_HEADER + size);
	if (tls_record_keys_1_3(&a->keys, aead, hash, secret, size) == 0 &&
	    tls_kdf_finished(hash, secret, transcript, a->expected + AWAIT_HEADER) == 0)
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

/* Takes a part of the Finished, which may come in several records. Only the whole of it is told
 * right from wrong. */
static int await_message(struct tls_stream_call *c, struct tls_await *a, const uint8_t *p,
			 size_t len)
{
	size_t left = (size_t)(a->expected_len - a->received_len), n = len < left ? len : left;

	memcpy(a->received + a->received_len, p, n);
	a->received_len += (uint8_t)n;
	if (a->received[0] != AWAIT_FINISHED)
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE,
				       "unexpected handshake message");
	if (a->received_len < AWAIT_HEADER)
		return 1;
	if (memcmp(a->received, a->expected, AWAIT_HEADER) != 0)
		return tls_stream_fail(c, TLS_ALERT_DECODE_ERROR, "bad length of Finished");
	if (n < len) /* RFC 8446 section 5.1: a message before a change of keys ends its record. */
		return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE,
				       "data after a Finished in its record");
	if (a->received_len < a->expected_len)
		return 1;
	if (CRYPTO_memcmp(a->received, a->expected, a->expected_len) != 0)
		return tls_stream_fail(c, TLS_ALERT_DECRYPT_ERROR, "bad Finished");
	await_swap_keys(c->s, a);
	c->s->flags &= (uint8_t)~TLS_STREAM_AWAITS;
	c->s->warnings = 0;
	tls_await_wipe(a);
	return 1;
}

/* Any alert ends a handshake, but for user_canceled, after which another one comes. */
static int await_alert(struct tls_stream_call *c, const uint8_t *p, size_t len)
{
	int rc = tls_stream_take_alert(c, p, len);

	if (c->ev->alert_sent >= 0 || (rc > 0 && c->ev->alert_received == TLS_ALERT_USER_CANCELED))
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
		return await_message(c, a, p, len);
	if (type == TLS_CONTENT_ALERT)
		return await_alert(c, p, len);
	return tls_stream_fail(c, TLS_ALERT_UNEXPECTED_MESSAGE, "unexpected record type");
}

/*
 * Records that are not protected: a ChangeCipherSpec, which means nothing (RFC 8446 section 5), and
 * the alert of a client that has no keys because it could make nothing of the server's messages.
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

int tls_await_read(struct tls_stream *s, struct tls_await *a, uint8_t *in, size_t in_len,
		   uint8_t *reply, struct tls_stream_event *ev, size_t *need)
{
	struct tls_stream_call c = {s, ev, reply};
	uint8_t *plain, type;
	size_t plain_len;
	int rc;

	if (tls_stream_begin(&c, need) < 0)
		return -1;
	if (in_len > 0 && (in[0] == TLS_CONTENT_CHANGE_CIPHER_SPEC || in[0] == TLS_CONTENT_ALERT))
		return await_plain(&c, in, in_len, need);
	rc = tls_stream_open(&c, in, in_len, &plain, &plain_len, &type, need);
	return rc > 0 ? await_content(&c, a, type, plain, plain_len) : rc;
}
