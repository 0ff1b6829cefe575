/* SPDX-License-Identifier: ISC */
/*
 * A server's stream that is established but for the client's last messages,
 * of a client that is asked for no certificate. In TLS 1.3 that is a Finished,
 * which the server knows before it comes (RFC 8446 section 4.6.1). In TLS 1.2
 * (RFC 5246 section 7.3) it is the client's key share, from which the rest
 * follows, ChangeCipherSpec and Finished; to these the server answers. A
 * session that is resumed has its keys, so the last two are all.
 *
 * Plain data, like a struct tls_stream.
 */
#ifndef TLS_AWAIT_H
#define TLS_AWAIT_H

#include "tls_exchange.h"
#include "tls_stream.h"

/* The longest message, a Finished (RFC 8446 section 4.4.4), and a record that holds it. */
#define TLS_AWAIT_MESSAGE (TLS_MESSAGE_HEADER + TLS_HASH_MAX)
#define TLS_AWAIT_RECORD  (TLS_AWAIT_MESSAGE + TLS_RECORD_OVERHEAD)

/* Room that tls_await_read() may need for a reply. */
#define TLS_AWAIT_REPLY_MAX TLS_EXCHANGE_END_MAX

/* What has to come next. */
enum tls_await_step {
	TLS_AWAIT_FINISHED,
	TLS_AWAIT_KEY_EXCHANGE, /* TLS 1.2 */
	TLS_AWAIT_CHANGE,       /* TLS 1.2: a ChangeCipherSpec */
};

/* What the stream needs beside its keys. Wiped with tls_await_wipe(). */
struct tls_await {
	/* The client's keys that are in use later. TLS 1.3: those of application traffic, while the
	 * stream has those of the handshake messages. TLS 1.2: from TLS_AWAIT_CHANGE on. */
	struct tls_record_keys keys;
	uint8_t step; /* enum tls_await_step */
	/* The Finished; what has come of the message that is due. */
	uint8_t expected[TLS_AWAIT_MESSAGE], received[TLS_AWAIT_MESSAGE];
	uint8_t expected_len, received_len;
	/* TLS 1.2 only. The messages, and the session after them, are borrowed. */
	struct tls_exchange exchange;
	const uint8_t *messages;
};

/*
 * TLS 1.3: finds out what a client's Finished will be. secret is client_handshake_traffic_secret,
 * transcript the hash of the messages up to the server's Finished, both of the size of the hash.
 * Returns 0, or -1 with a wiped.
 */
int tls_await_init(struct tls_await *a, uint8_t aead, uint8_t hash, const uint8_t *secret,
		   const uint8_t *transcript);

/* Seals that Finished as a client does, before tls_await_begin(). out has room for TLS_AWAIT_RECORD
 * bytes. Returns those written, or 0 when libcrypto fails. */
size_t tls_await_seal(const struct tls_await *a, uint8_t *out);

/* Lets a stream with the keys of application traffic wait for the Finished. */
void tls_await_begin(struct tls_stream *s, struct tls_await *a);

/*
 * TLS 1.2, a resumed session: lets a stream with the keys of the connection wait for
 * ChangeCipherSpec and Finished. verify_data is what that has to say.
 */
void tls_await_begin_resumed(struct tls_stream *s, struct tls_await *a,
			     const uint8_t verify_data[TLS_EXCHANGE_VERIFY]);

/* TLS 1.2: lets a stream without keys wait for the client's part of a->exchange; all else of a is
 * zero. */
void tls_await_begin_exchange(struct tls_stream *s, struct tls_await *a);

/* Like tls_stream_read(), while TLS_STREAM_AWAITS is set; a reply has TLS_AWAIT_REPLY_MAX bytes.
 * When the Finished has come and is right, a is wiped and the flag is gone. */
int tls_await_read(struct tls_stream *s, struct tls_await *a, uint8_t *in, size_t in_len,
		   uint8_t *reply, struct tls_stream_event *ev, size_t *need);

void tls_await_wipe(struct tls_await *a);

#endif
