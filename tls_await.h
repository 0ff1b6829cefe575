/* SPDX-License-Identifier: ISC */
/*
 * A server's stream that is established but for the client's last messages.
 * In TLS 1.3 a server that asks for no certificate knows that message before
 * it comes (RFC 8446 section 4.6.1).
 *
 * Plain data, like a struct tls_stream.
 */
#ifndef TLS_AWAIT_H
#define TLS_AWAIT_H

#include "tls_stream.h"

/* A Finished message with its header (RFC 8446 section 4.4.4), and a record that holds it. */
#define TLS_AWAIT_MESSAGE (4 + TLS_KDF_MAX_HASH)
#define TLS_AWAIT_RECORD  (TLS_AWAIT_MESSAGE + TLS_RECORD_OVERHEAD)

/* What the stream needs beside its keys. Wiped with tls_await_wipe(). */
struct tls_await {
	/* Of the client's handshake messages; while the stream waits it has these, and here are
	 * those that follow. */
	struct tls_record_keys keys;
	uint8_t expected[TLS_AWAIT_MESSAGE], received[TLS_AWAIT_MESSAGE];
	uint8_t expected_len, received_len;
};

/*
 * Finds out what a client's Finished will be: secret is client_handshake_traffic_secret, transcript
 * the hash of the messages up to the server's Finished, both of the size of the hash. Returns 0, or
 * -1 with a wiped.
 */
int tls_await_init(struct tls_await *a, uint8_t aead, uint8_t hash, const uint8_t *secret,
		   const uint8_t *transcript);

/* Seals that Finished as a client does, before tls_await_begin(). out has room for TLS_AWAIT_RECORD
 * bytes. Returns those written, or 0 when libcrypto fails. */
size_t tls_await_seal(const struct tls_await *a, uint8_t *out);

/* Lets a stream with the keys of application traffic wait for the Finished. */
void tls_await_begin(struct tls_stream *s, struct tls_await *a);

/* Like tls_stream_read(), while TLS_STREAM_AWAITS is set. When the Finished has come and is right,
 * a is wiped and the flag is gone. */
int tls_await_read(struct tls_stream *s, struct tls_await *a, uint8_t *in, size_t in_len,
		   uint8_t *reply, struct tls_stream_event *ev, size_t *need);

void tls_await_wipe(struct tls_await *a);

#endif
