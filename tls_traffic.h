/* SPDX-License-Identifier: ISC */
/*
 * The traffic keys of one SSL object: what is noted while OpenSSL shakes hands,
 * the stream that goes on without it, what a client's Finished will be, and
 * what a TLS 1.2 handshake is ended with elsewhere.
 *
 * Engine process only.
 */
#ifndef TLS_TRAFFIC_H
#define TLS_TRAFFIC_H

#include "tls_provider.h"
#include "tls_await.h"

#include <openssl/ssl.h>

#include <stdbool.h>

/* Owner: the session, which wipes it. All zero at the start. */
struct tls_traffic {
	uint64_t sealed, opened; /* records since the keys of that direction changed */
	uint64_t received;       /* bytes that the peer's records contain, those that began, too */
	bool has_nonce;
	uint8_t nonce[8]; /* TLS 1.2 GCM: explicit nonce of our first sealed record */
	bool plain_hello, promises_ticket; /* the ServerHello: tls_traffic_note_hello() */
	struct tls_provider_secrets secrets;
};

/* Takes a line of OpenSSL's key log, "LABEL client_random secret": where the provider does not tell
 * the secrets of TLS 1.3, they are taken from there. */
void tls_traffic_note_secret(struct tls_traffic *t, const char *line);

/* Counts what OpenSSL's message callback reports, of which bytes are the first. */
void tls_traffic_count(struct tls_traffic *t, const SSL *ssl, int sent, int type,
		       const uint8_t *bytes);

/* Looks at a ServerHello, a whole message: whether tls_exchange.h does all that it promises. */
void tls_traffic_note_hello(struct tls_traffic *t, const uint8_t *message, size_t len);

/* Takes the nonce that OpenSSL chose for TLS 1.2 from the records that wait in out, once they hold
 * our Finished. */
void tls_traffic_note_nonce(struct tls_traffic *t, BIO *out);

/* Fills in the stream of a handshake that is done, if this connection can do without the SSL
 * object; else returns false with the stream wiped. */
bool tls_traffic_stream(const struct tls_traffic *t, SSL *ssl, struct tls_stream *stream);

/* True from the server's Finished on, if what a client's Finished depends on was noted. */
bool tls_traffic_knows_finished(const struct tls_traffic *t);

/*
 * Finds out what the client's Finished will be, for a connection that can do without the SSL object
 * then. Writes the record that a client sends it in, of TLS_AWAIT_RECORD bytes at most.
 * Returns its bytes, or 0 if it cannot be known; the caller wipes await.
 */
size_t tls_traffic_foretell(const struct tls_traffic *t, SSL *ssl, struct tls_await *await,
			    uint8_t *record);

/*
 * The same for a session of TLS 1.2 that is resumed, once OpenSSL has said its Finished: fills in
 * the stream, and verify_data with what the client's has to say. Returns false if it cannot be
 * known, or if this connection cannot do without the SSL object; the stream is wiped then.
 */
bool tls_traffic_foretell_resumed(const struct tls_traffic *t, SSL *ssl, struct tls_bytes messages,
				  struct tls_stream *stream,
				  uint8_t verify_data[TLS_EXCHANGE_VERIFY]);

/*
 * Fills in what ends a handshake of TLS 1.2 without the SSL object, which has just said
 * ServerHelloDone: all but the messages and the ticket. Returns false if this handshake needs
 * OpenSSL; the caller wipes x.
 */
bool tls_traffic_exchange(const struct tls_traffic *t, SSL *ssl, struct tls_exchange *x);

#endif
