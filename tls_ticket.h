/* SPDX-License-Identifier: ISC */
/*
 * Keys that session tickets are sealed with (RFC 5077 section 4, RFC 8446 section 4.6.1), one set
 * of them for all domains: AES-256-CBC with HMAC-SHA256. They are generated and then renewed as
 * time goes on, or they come from a file that several machines share. Engine process only, ordinary
 * heap, wiped when they are not needed any more; any thread.
 *
 * No ticket is sealed with them as they are: each has keys of its own that follow from its name and
 * iv. Those of a *shared* ticket are known to another process, which seals it and could put any
 * session into it. Its name says so, and tls_resume.c trusts it with nothing.
 */
#ifndef TLS_TICKET_H
#define TLS_TICKET_H

#include "tls_compat.h"
#include "tls_exchange.h"
#include "tls_report.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <stdbool.h>
#include <stdint.h>

/* Seconds for which a session may be resumed. */
#define TLS_TICKET_LIFETIME 7200
/* Seconds after which a generated key is followed by a new one; it still opens tickets for a
 * session's lifetime after that. */
#define TLS_TICKET_RENEW 3600
/* Seconds since the last full handshake after which no session is resumed, however often it was
 * resumed and got new tickets (RFC 8446 section 4.6.1). */
#define TLS_TICKET_MAX_AGE 86400

#define TLS_TICKET_NAME     16 /* bytes of a key's name, which stands in each ticket */
#define TLS_TICKET_SECRET   64 /* bytes of a key: 32 for the cipher, then 32 for the HMAC */
#define TLS_TICKET_MAX_KEYS 16 /* in a file */

#if TLS_HAVE_EVP_MAC
typedef EVP_MAC_CTX tls_ticket_mac;
#else
typedef HMAC_CTX tls_ticket_mac;
#endif

struct tls_ticket_keys;

/* Keys that are generated, with one reference; NULL without memory or random numbers. */
struct tls_ticket_keys *tls_ticket_keys_new(void);

/*
 * The keys of a file, one a line as 128 hex digits; empty lines and those that begin with '#' do
 * not count. The first seals, all open. Reports what is wrong as FILE:LINE and returns NULL; warns
 * when other users can read the file.
 */
struct tls_ticket_keys *tls_ticket_keys_read(const char *path, struct tls_report *report);

/* True if they were generated, false if they are a file's. */
bool tls_ticket_keys_generated(const struct tls_ticket_keys *keys);

struct tls_ticket_keys *tls_ticket_keys_ref(struct tls_ticket_keys *keys);
void tls_ticket_keys_unref(struct tls_ticket_keys *keys); /* NULL is fine */

/*
 * Sets up cipher and mac for a new ticket and writes the key's name and a new iv, EVP_MAX_IV_LENGTH
 * bytes. now is in seconds of a clock that only goes forward. Returns 1, or -1 on failure.
 */
int tls_ticket_seal(struct tls_ticket_keys *keys, int64_t now, uint8_t *name, uint8_t *iv,
		    EVP_CIPHER_CTX *cipher, tls_ticket_mac *mac);

/* The same for a ticket that OpenSSL does not seal: fills in name, iv and keys. Returns false, with
 * t to be wiped, on failure. */
bool tls_ticket_make(struct tls_ticket_keys *keys, int64_t now, struct tls_exchange_ticket *t);
/* And for a shared one. */
bool tls_ticket_share(struct tls_ticket_keys *keys, int64_t now, struct tls_exchange_ticket *t);

/* True if the name is one of a shared ticket. */
bool tls_ticket_is_shared(const uint8_t *name);

/* The same as tls_ticket_seal() for a ticket that came. Returns 1; 2 if it should be replaced by a
 * new one, because its key is not the one that seals; 0 if no key has that name; -1 on failure. */
int tls_ticket_open(struct tls_ticket_keys *keys, int64_t now, const uint8_t *name,
		    const uint8_t *iv, EVP_CIPHER_CTX *cipher, tls_ticket_mac *mac);

#endif
