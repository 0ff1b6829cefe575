/* SPDX-License-Identifier: ISC */
/*
 * The TLS record layer of an established connection: seals and opens AEAD
 * records (RFC 8446 section 5, RFC 5246 section 6.2.3.3, RFC 5288, RFC 7905)
 * and derives the keys for them. Every cryptographic operation is libcrypto's.
 *
 * Knows no SSL object and nothing of the host. The structures are plain data
 * that may live in shared memory and may be used by a different process for
 * every record; the cipher contexts are private to the calling thread.
 * The caller serialises the use of one struct tls_record_keys.
 */
#ifndef TLS_RECORD_H
#define TLS_RECORD_H

#include "tls_aead.h"
#include "tls_kdf.h"

#include <stddef.h>
#include <stdint.h>

#define TLS_RECORD_HEADER         5
#define TLS_RECORD_MAX_PLAIN      16384
#define TLS_RECORD_MAX_CIPHER     (TLS_RECORD_MAX_PLAIN + 2048) /* RFC 5246 section 6.2.3 */
#define TLS_RECORD_MAX_CIPHER_1_3 (TLS_RECORD_MAX_PLAIN + 256)  /* RFC 8446 section 5.2 */
#define TLS_RECORD_MAX            (TLS_RECORD_HEADER + TLS_RECORD_MAX_CIPHER)
/* header + explicit nonce (TLS 1.2 GCM) or inner type (TLS 1.3) + tag */
#define TLS_RECORD_OVERHEAD (TLS_RECORD_HEADER + 8 + TLS_AEAD_TAG)

#define TLS_MESSAGE_HEADER 4  /* type and length of a message, RFC 8446 section 4 */
#define TLS_MASTER_SECRET  48 /* bytes, before TLS 1.3: RFC 5246 section 8.1 */
#define TLS_RANDOM         32 /* RFC 5246 section 7.4.1.2 */

#define TLS_RECORD_MAX_SECRET TLS_HASH_MAX

/* RFC 8446 section 5.1 */
enum tls_content_type {
	TLS_CONTENT_CHANGE_CIPHER_SPEC = 20,
	TLS_CONTENT_ALERT = 21,
	TLS_CONTENT_HANDSHAKE = 22,
	TLS_CONTENT_APPLICATION_DATA = 23,
};

/* Messages of a handshake, RFC 8446 section 4, RFC 5246 section 7.4, RFC 5077 section 3.3; only
 * those that are read or written without OpenSSL. */
enum tls_message {
	TLS_MESSAGE_HELLO_REQUEST = 0,
	TLS_MESSAGE_CLIENT_HELLO = 1,
	TLS_MESSAGE_NEW_SESSION_TICKET = 4,
	TLS_MESSAGE_CLIENT_KEY_EXCHANGE = 16,
	TLS_MESSAGE_FINISHED = 20,
	TLS_MESSAGE_KEY_UPDATE = 24,
};

/* RFC 8446 section 4.2.1 */
enum tls_version {
	TLS_VERSION_1_0 = 0x0301,
	TLS_VERSION_1_1 = 0x0302,
	TLS_VERSION_1_2 = 0x0303,
	TLS_VERSION_1_3 = 0x0304,
};

/* RFC 8446 section 6, RFC 5246 section 7.2; only those that this code sends or names. */
enum tls_alert {
	TLS_ALERT_CLOSE_NOTIFY = 0,
	TLS_ALERT_UNEXPECTED_MESSAGE = 10,
	TLS_ALERT_BAD_RECORD_MAC = 20,
	TLS_ALERT_RECORD_OVERFLOW = 22,
	TLS_ALERT_ILLEGAL_PARAMETER = 47,
	TLS_ALERT_ACCESS_DENIED = 49,
	TLS_ALERT_DECODE_ERROR = 50,
	TLS_ALERT_DECRYPT_ERROR = 51,
	TLS_ALERT_PROTOCOL_VERSION = 70,
	TLS_ALERT_INTERNAL_ERROR = 80,
	TLS_ALERT_USER_CANCELED = 90,
	TLS_ALERT_NO_RENEGOTIATION = 100,
};

/*
 * Keys of one direction of one connection. Owner: the connection. Guarded by
 * whatever lock guards the connection. Wiped with tls_record_keys_wipe().
 */
struct tls_record_keys {
	uint16_t version; /* TLS_VERSION_1_2 or _1_3 */
	uint8_t aead;     /* enum tls_aead */
	uint8_t hash;     /* enum tls_prf_hash, TLS 1.3 only: hash of the key schedule */
	/* The number that the next record will use. Counted up BEFORE the record is
	 * sealed, so that no path can seal two records with one number. */
	uint64_t seq;
	/* TLS 1.3 and ChaCha20: the static IV. TLS 1.2 GCM: 4 bytes of salt (RFC 5288
	 * section 3), then the 8 byte explicit nonce of record 0 as a big-endian
	 * number; record n uses that number plus n, so nonces cannot repeat. */
	uint8_t iv[TLS_AEAD_NONCE];
	uint8_t key[TLS_AEAD_MAX_KEY];
	uint8_t secret[TLS_RECORD_MAX_SECRET]; /* TLS 1.3: application_traffic_secret_N */
};

/*
 * Fills k for TLS 1.3 from a traffic secret (RFC 8446 section 7.3); seq starts at 0.
 * secret_len must be the size of the hash. Returns 0, or -1 with k wiped.
 */
int tls_record_keys_1_3(struct tls_record_keys *k, uint8_t aead, uint8_t hash,
			const uint8_t *secret, size_t secret_len);

/*
 * Fills both directions for TLS 1.2 from the 48 byte master secret and the two 32 byte
 * randoms (RFC 5246 section 6.3); seq starts at 0. hash is the PRF's. The explicit part
 * of client->iv and server->iv (GCM) is zero: if the first record was sealed elsewhere, the
 * caller sets it from that. Returns 0, or -1 with both wiped.
 */
int tls_record_keys_1_2(struct tls_record_keys *client, struct tls_record_keys *server,
			uint8_t aead, uint8_t hash, const uint8_t *master,
			const uint8_t *client_random, const uint8_t *server_random);

/*
 * Moves k to the next generation of TLS 1.3 keys (RFC 8446 section 7.2); seq restarts
 * at 0. Returns 0, or -1 with k unchanged.
 */
int tls_record_keys_update(struct tls_record_keys *k);

/* Overwrites all of k, in a way that the compiler cannot drop. */
void tls_record_keys_wipe(struct tls_record_keys *k);

/* Writes a number of so many bytes, the first one first. Returns where it ends. */
static inline uint8_t *tls_put(uint8_t *to, uint32_t n, int bytes)
{
	for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
		*to++ = (uint8_t)(n >> shift);
	return to;
}

/* What tls_record_peek() found at the start of a buffer. */
struct tls_record_header {
	uint8_t type;
	size_t size; /* of the whole record, header included */
};

/*
 * Reads the header of the record at buf. Returns 1 when the whole record is there, 0 when
 * more bytes are needed (h->size is set as soon as the 5 header bytes are there, else 0),
 * or -1 with the alert to send in *alert: a length over the limit of k->version
 * (record_overflow), a type or version that cannot be (unexpected_message,
 * protocol_version). k is the reading direction.
 */
int tls_record_peek(const struct tls_record_keys *k, const uint8_t *buf, size_t len,
		    struct tls_record_header *h, uint8_t *alert);

/* The same for a record of TLS 1.2 that is not protected: one of a handshake, or an alert. */
int tls_record_peek_clear(const uint8_t *buf, size_t len, struct tls_record_header *h,
			  uint8_t *alert);

/*
 * Opens, in place, the one whole record of size bytes at rec. On success returns 0, the
 * content is *plain (inside rec) of *plain_len bytes and *type its (inner) type; k->seq has
 * moved on. On failure returns -1 with the alert to send in *alert.
 */
int tls_record_open(struct tls_record_keys *k, uint8_t *rec, size_t size, uint8_t **plain,
		    size_t *plain_len, uint8_t *type, uint8_t *alert);

/*
 * Seals len <= TLS_RECORD_MAX_PLAIN bytes as one record of the given type into out, which
 * has room for len + TLS_RECORD_OVERHEAD bytes and does not overlap in. Returns the bytes
 * written, or 0 on failure (the connection must then be closed): libcrypto failed or the
 * sequence number would wrap.
 */
size_t tls_record_seal(struct tls_record_keys *k, uint8_t type, const uint8_t *in, size_t len,
		       uint8_t *out);

/* Writes such a record. Returns its bytes, len and TLS_RECORD_HEADER. */
size_t tls_record_put(uint8_t type, const uint8_t *in, size_t len, uint8_t *out);

/*
 * Frees what the calling thread keeps between records. For a thread that sealed or opened
 * records and ends before its process does; harmless otherwise.
 */
void tls_record_thread_end(void);

#endif
