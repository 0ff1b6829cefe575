/* SPDX-License-Identifier: ISC */
/*
 * What a server does in a TLS 1.2 handshake from the client's key share on,
 * without an SSL object: keys, both Finished messages and the session ticket
 * (RFC 5246 sections 6.3 and 7.4, RFC 7627, RFC 5077 section 3.3). ECDHE with
 * X25519 only (RFC 8422), always with an extended master secret. How a ticket is
 * sealed is the same in TLS 1.3.
 *
 * Plain data, may live in shared memory. Any process; every cryptographic
 * operation is libcrypto's.
 */
#ifndef TLS_EXCHANGE_H
#define TLS_EXCHANGE_H

#include "tls_record.h"
#include "tls_x25519.h"

#include <stdbool.h>

#define TLS_EXCHANGE_VERIFY  12   /* bytes of a Finished, RFC 5246 section 7.4.9 */
#define TLS_EXCHANGE_SESSION 1024 /* longest session that a ticket is made of */

/* A ClientKeyExchange, and a Finished. */
#define TLS_EXCHANGE_MESSAGE  (TLS_MESSAGE_HEADER + 1 + TLS_X25519_KEY)
#define TLS_EXCHANGE_FINISHED (TLS_MESSAGE_HEADER + TLS_EXCHANGE_VERIFY)

/* Room for what tls_exchange_end() writes: ticket, ChangeCipherSpec and Finished, a record each. */
#define TLS_EXCHANGE_END_MAX                                                                       \
	(TLS_EXCHANGE_SESSION + 256 + TLS_EXCHANGE_FINISHED + TLS_RECORD_OVERHEAD)

/* What seals one ticket: AES-256-CBC, then HMAC-SHA256 (RFC 5077 section 4). */
struct tls_exchange_ticket {
	uint8_t name[16], iv[16];
	uint8_t age_add[4]; /* random; what TLS 1.3 hides a ticket's age with, RFC 8446
			       section 4.6.1 */
	uint8_t cipher_key[32], mac_key[32];
	uint32_t lifetime;    /* seconds, a hint for the client */
	uint16_t session_len; /* bytes of the session as OpenSSL writes it; 0: no ticket */
	uint16_t master_at;   /* where in it the master secret belongs */
};

/* Bytes of a ticket beside its session: name, iv, padding of the cipher, MAC. */
#define TLS_EXCHANGE_TICKET_EXTRA (16 + 16 + 16 + 32)

/* Owner: who waits for the client. Holds secrets. */
struct tls_exchange {
	uint8_t aead, hash;        /* enum tls_aead; enum tls_prf_hash of the PRF */
	struct tls_x25519_key key; /* this end's, for this handshake only */
	uint8_t client_random[TLS_RANDOM], server_random[TLS_RANDOM];
	uint32_t messages_len; /* bytes of the handshake messages up to ServerHelloDone */
	struct tls_exchange_ticket ticket;
	/* From tls_exchange_keys() on. */
	uint8_t key_exchange[TLS_EXCHANGE_MESSAGE]; /* the client's message */
	uint8_t master[TLS_MASTER_SECRET];
};

/*
 * What the Finished of a client says whose session is resumed, since it comes last (RFC 5246
 * section 7.4.9): messages are all before it, the server's Finished among them; hash is the PRF's.
 * Returns 0, or -1 when libcrypto fails.
 */
int tls_exchange_resumed(uint8_t hash, const uint8_t *master, struct tls_bytes messages,
			 uint8_t verify_data[TLS_EXCHANGE_VERIFY]);

/*
 * Takes the ClientKeyExchange, whose form was checked, and makes both directions' keys and what the
 * client's Finished has to say. messages has the handshake messages before it, of messages_len
 * bytes. Returns 0, or -1 with the alert to send.
 */
int tls_exchange_keys(struct tls_exchange *x, const uint8_t *messages, const uint8_t *key_exchange,
		      struct tls_record_keys *client, struct tls_record_keys *server,
		      uint8_t verify_data[TLS_EXCHANGE_VERIFY], uint8_t *alert);

/*
 * Writes what the server sends after the client's Finished, a whole message, into out, of
 * TLS_EXCHANGE_END_MAX bytes. The session of the ticket follows the messages; keys are this end's,
 * not used yet. Returns the bytes, or 0 when libcrypto fails.
 */
size_t tls_exchange_end(const struct tls_exchange *x, const uint8_t *messages,
			const uint8_t *finished, struct tls_record_keys *keys, uint8_t *out);

/* Writes a ticket of a session of len bytes, not what lies around it in its message, into out, of
 * len and TLS_EXCHANGE_TICKET_EXTRA bytes. Returns the bytes, or 0 when libcrypto fails. */
size_t tls_exchange_seal_ticket(const struct tls_exchange_ticket *t, const uint8_t *session,
				size_t len, uint8_t *out);

/* Like tls_record_thread_end(), which it calls. */
void tls_exchange_thread_end(void);

#endif
