/* SPDX-License-Identifier: ISC */
/*
 * One SSL object in the engine: a handshake, and what follows it. A handshake
 * that ends with an AEAD suite hands its keys over as a struct tls_stream and
 * is done with; any other connection stays here for its whole life.
 *
 * Lives in the engine process. A session is used by one thread at a time,
 * whichever. Nothing here blocks or touches a socket: bytes go through buffers.
 */
#ifndef TLS_SESSION_H
#define TLS_SESSION_H

#include "tls_counter.h"
#include "tls_domain.h"
#include "tls_facts.h"
#include "tls_await.h"

#define TLS_SESSION_NAME        256         /* longest host name (RFC 1035: 253) and its NUL */
#define TLS_SESSION_TEXT        1024        /* room for what is told of a failed connection */
#define TLS_SESSION_MESSAGES    (16 * 1024) /* longest handshake that is left to a reader */
#define TLS_SESSION_SUITE       48          /* longest suite name and its NUL */
#define TLS_SESSION_DESCRIPTION 128         /* longest description of a suite and its NUL */

/* Where a connection stands after a call. */
enum tls_session_state {
	TLS_SESSION_FAILED = -1, /* it is over: text says why, out may hold an alert */
	TLS_SESSION_HANDSHAKE,   /* more bytes of the peer are needed */
	TLS_SESSION_FAST,        /* done: stream and info are filled in */
	TLS_SESSION_FORETOLD,    /* the same, once the client's Finished has come: await, too; of
				    out only flight_len bytes go at once, the rest then */
	TLS_SESSION_EXCHANGE,    /* TLS 1.2: done here once ServerHelloDone was said; info is filled
				    in, and await, which ends the handshake */
	TLS_SESSION_HELD,        /* done, and it stays: info was filled in when it became so */
	TLS_SESSION_EOF,         /* held, and the peer sent close_notify */
};

/* True if the stream waits for the client, and the session is done with. */
static inline bool tls_session_awaits(enum tls_session_state state)
{
	return state == TLS_SESSION_FORETOLD || state == TLS_SESSION_EXCHANGE;
}

/* What is known of an established connection. Filled in by the call in which the handshake was
 * done; every other leaves it as it was. */
struct tls_session_info {
	uint16_t version;    /* enum tls_version, or that of SSL 3.0 */
	uint16_t suite;      /* its number; tls_session_suite() names it */
	uint16_t suite_bits; /* strength of its cipher */
	bool resumed;
	bool has_peer_cert;
	bool verified;      /* the peer showed a certificate and its chain verifies */
	long verify_result; /* X509_V_... */
	uint32_t domain_id; /* of its domain, for counting, or 0 */
	char server_name[TLS_SESSION_NAME]; /* SNI, or "" */
};

/* What a suite is called. */
struct tls_session_suite {
	char name[TLS_SESSION_SUITE];              /* RFC 8446 appendix B.4 */
	char cipher_name[TLS_SESSION_SUITE];       /* OpenSSL's */
	char description[TLS_SESSION_DESCRIPTION]; /* OpenSSL's */
};

/* What starts a session. Plain data: crosses a process. */
struct tls_session_setup {
	enum tls_role role;
	struct tls_address local, remote;
	char server_name[TLS_SESSION_NAME]; /* that a client asks for, "": its domain's */
	char server_id[TLS_SESSION_NAME];   /* of the domain that a client wants, or "" */
};

/* Input and output of one call; the buffers are the caller's. */
struct tls_session_io {
	const uint8_t *in; /* the peer's records, or for a write the clear text */
	size_t in_len;
	size_t in_used; /* FAST: the records after these belong to the stream */
	uint8_t *out;   /* records for the peer */
	size_t out_size, out_len, flight_len;
	uint8_t *clear; /* clear text of a held connection */
	size_t clear_size, clear_len;
	unsigned clear_records; /* that carried it */
	/* When the handshake is done: our certificate, the peer's, and what verified that, from its
	 * issuer on; each is DER after its length in 4 bytes, which are 0 for one that is not
	 * there. */
	uint8_t *cert;
	size_t cert_size, cert_len;
	unsigned keylog_mode;               /* TLS_KEYLOG_... bits, or 0: no lines */
	char *keylog;                       /* TLS_KEYLOG_TEXT bytes, lines are appended */
	uint64_t clear_bytes, packed_bytes; /* so far on a compressed connection: fixed_c_zlib.h */
	bool more;                          /* call again, without input: a buffer was too small */
	struct tls_session_info *info;
	struct tls_stream *stream;
	/* The messages of the handshake, as they are hashed; EXCHANGE: and the ticket's session. */
	uint8_t *messages;
	size_t messages_size, messages_len;
	bool messages_cut;       /* there was no room for one */
	struct tls_await *await; /* FORETOLD, EXCHANGE: what the stream waits for */
	struct tls_offer *offer; /* likewise: what a failure's line tells of the client */
	char *text;              /* TLS_SESSION_TEXT bytes */
	enum tls_cause cause;    /* FAILED: the same for counting */
};

struct tls_session;

/* To be done to every SSL_CTX that sessions use; keylog: lines of the key log may be wanted, or the
 * secrets of TLS 1.3 cannot be had otherwise (tls_provider.h). */
void tls_session_prepare(SSL_CTX *ctx, bool keylog);

/* Takes a reference to set. Returns NULL without memory. */
struct tls_session *tls_session_new(struct tls_domain_set *set,
				    const struct tls_session_setup *setup);

/* Takes records of the peer; goes on with the handshake, or reads if it is done. */
enum tls_session_state tls_session_run(struct tls_session *s, struct tls_session_io *io);

/* Seals clear text on a held connection; io->in_used says how much of it. */
enum tls_session_state tls_session_write(struct tls_session *s, struct tls_session_io *io);

/* Puts the close_notify of a held connection into io->out. */
void tls_session_close(struct tls_session *s, struct tls_session_io *io);

/* Says in text, of TLS_SESSION_TEXT bytes, that a server_id chose no domain; "" if it did. */
void tls_session_check_server_id(const struct tls_session *s, const char *server_id, char *text);

/* Names the suite of a session whose handshake is done. */
void tls_session_suite(const struct tls_session *s, struct tls_session_suite *suite);

/* Fills io->text with what a failure's line tells of a handshake, from " domain=" on: for one that
 * ends for a reason that the engine does not see. */
void tls_session_describe(struct tls_session *s, struct tls_session_io *io);

void tls_session_free(struct tls_session *s);

#endif
