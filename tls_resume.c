/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_resume.h"

#include "tls_compat.h"

#include <openssl/err.h>

#include <stdint.h>
#include <string.h>
#include <time.h>

static int keys_index = -1;
static CRYPTO_ONCE keys_index_once = CRYPTO_ONCE_STATIC_INIT;

static void make_keys_index(void)
{
	keys_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

/* OpenSSL wants keys for a ticket. 0: a full handshake. */
static int on_ticket_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
			 tls_ticket_mac *mac, int seal)
{
	struct tls_ticket_keys *keys = SSL_get_ex_data(ssl, keys_index);
	int result;

	if (!keys)
		return 0;
	result = seal ? tls_ticket_seal(keys, now(), name, iv, cipher, mac)
		      : tls_ticket_open(keys, now(), name, iv, cipher, mac);
	ERR_clear_error();
	return result;
}

/* A new ticket says when the peer last proved by a full handshake who it is. */
static int on_ticket_made(SSL *ssl, void *unused)
{
	SSL_SESSION *session = SSL_get_session(ssl);
	int64_t born = time(NULL);
	void *data;
	size_t len;

	(void)unused;
	if (SSL_session_reused(ssl) && SSL_SESSION_get0_ticket_appdata(session, &data, &len) == 1 &&
	    len == sizeof(born))
		return 1; /* it has the former ticket's */
	return SSL_SESSION_set1_ticket_appdata(session, &born, sizeof(born));
}

/* False if the session's peer has to prove again who it is. */
static bool is_fresh(SSL_SESSION *session)
{
	const X509 *cert = SSL_SESSION_get0_peer(session);
	int64_t born;
	void *data;
	size_t len;

	if (SSL_SESSION_get0_ticket_appdata(session, &data, &len) != 1 || len != sizeof(born))
		return false;
	memcpy(&born, data, sizeof(born));
	return time(NULL) - born < TLS_TICKET_MAX_AGE &&
	       (!cert || tls_time_compare(X509_get0_notAfter(cert)) > 0);
}

/*
 * False for a session of a shared ticket that is more than the engine gives out as one. Whoever has
 * read the memory of a SER process may have made it, so it must be worth no more than a connection
 * of somebody unknown: nobody's certificate, and no domain that asks for one.
 */
static bool is_harmless(const SSL *ssl, SSL_SESSION *session)
{
	return !SSL_SESSION_get0_peer(session) &&
	       SSL_SESSION_get_protocol_version(session) == TLS1_2_VERSION &&
	       SSL_get_verify_mode(ssl) == SSL_VERIFY_NONE;
}

static SSL_TICKET_RETURN on_ticket_opened(SSL *ssl, SSL_SESSION *session, const unsigned char *name,
					  size_t name_len, SSL_TICKET_STATUS status, void *unused)
{
	(void)unused;
	if ((status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW) ||
	    name_len != TLS_TICKET_NAME || !is_fresh(session) ||
	    (tls_ticket_is_shared(name) && !is_harmless(ssl, session)))
		return SSL_TICKET_RETURN_IGNORE_RENEW;
	return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW;
}

void tls_resume_prepare(SSL_CTX *ctx)
{
	CRYPTO_THREAD_run_once(&keys_index_once, make_keys_index);
#if TLS_HAVE_EVP_MAC
	SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_ticket_key);
#else
	SSL_CTX_set_tlsext_ticket_key_cb(ctx, on_ticket_key);
#endif
	SSL_CTX_set_session_ticket_cb(ctx, on_ticket_made, on_ticket_opened, NULL);
}

bool tls_resume_attach(SSL *ssl, struct tls_ticket_keys *keys)
{
	return SSL_set_ex_data(ssl, keys_index, keys) == 1;
}

/* Writes the session as OpenSSL does into a ticket, with that secret. Returns its bytes, or 0. */
static size_t write_session(SSL_SESSION *session, const uint8_t *secret, size_t secret_len,
			    uint8_t *out, size_t size)
{
	int len = SSL_SESSION_set1_master_key(session, secret, secret_len) == 1
			  ? i2d_SSL_SESSION(session, NULL)
			  : 0;

	return len > 0 && (size_t)len <= size && i2d_SSL_SESSION(session, &out) == len ? (size_t)len
										       : 0;
}

bool tls_resume_template(SSL *ssl, struct tls_exchange_ticket *t, uint8_t *out, size_t size)
{
	/* One that no session can have. */
	static const uint8_t blank[TLS_MASTER_SECRET] =
		"the master secret will stand in this place here";
	SSL_SESSION *session = SSL_get_session(ssl);
	const uint8_t *at = NULL;
	size_t len = 0;

	if (size > TLS_EXCHANGE_SESSION)
		size = TLS_EXCHANGE_SESSION;
	if (on_ticket_made(ssl, NULL) == 1)
		len = write_session(session, blank, sizeof(blank), out, size);
	if (len > 0)
		at = memmem(out, len, blank, sizeof(blank));
	if (!at || !tls_ticket_share(SSL_get_ex_data(ssl, keys_index), now(), t))
		return false;
	t->lifetime = (uint32_t)SSL_SESSION_get_timeout(session);
	t->session_len = (uint16_t)len;
	t->master_at = (uint16_t)(at - out);
	return true;
}

bool tls_resume_sends_ticket(const SSL *ssl)
{
	return SSL_get_num_tickets(ssl) == 1 && !SSL_session_reused(ssl) &&
	       !(SSL_get_options(ssl) & SSL_OP_NO_TICKET);
}

/* Writes the session with the key that the client derives from the nonce (RFC 8446 section 4.6.1).
 * Returns its bytes, or 0. */
static size_t write_session_1_3(SSL *ssl, uint8_t hash, const uint8_t *secret,
				struct tls_bytes nonce, uint8_t out[TLS_EXCHANGE_SESSION])
{
	static const char label[] = "tls13 resumption";
	struct tls_bytes from = {secret, tls_kdf_hash_size(hash)};
	uint8_t psk[TLS_HASH_MAX];
	size_t len = 0;

	if (on_ticket_made(ssl, NULL) == 1 &&
	    tls_kdf_expand_label(hash, from, (struct tls_bytes){label, sizeof(label) - 1}, nonce,
				 psk, from.len) == 0)
		len = write_session(SSL_get_session(ssl), psk, from.len, out, TLS_EXCHANGE_SESSION);
	OPENSSL_cleanse(psk, sizeof(psk));
	return len;
}

/* Writes a ticket of that session, and what hides its age. Returns the ticket's bytes, or 0. */
static size_t write_ticket(SSL *ssl, const uint8_t *session, size_t len, uint8_t *age_add,
			   uint8_t *out)
{
	struct tls_exchange_ticket ticket;
	size_t sealed = 0;

	if (len > 0 && tls_ticket_make(SSL_get_ex_data(ssl, keys_index), now(), &ticket)) {
		memcpy(age_add, ticket.age_add, sizeof(ticket.age_add));
		sealed = tls_exchange_seal_ticket(&ticket, session, len, out);
	}
	OPENSSL_cleanse(&ticket, sizeof(ticket));
	return sealed;
}

size_t tls_resume_ticket(SSL *ssl, uint8_t hash, const uint8_t *secret, uint8_t *out)
{
	/* One nonce for each ticket of a connection, and there is only one. */
	static const uint8_t nonce = 0;
	static const size_t head = TLS_MESSAGE_HEADER + 4 + 4 + 1 + sizeof(nonce) + 2;
	uint8_t session[TLS_EXCHANGE_SESSION], age_add[4], *to = out;
	size_t len = write_session_1_3(ssl, hash, secret, (struct tls_bytes){&nonce, 1}, session);
	size_t sealed = write_ticket(ssl, session, len, age_add, out + head);

	OPENSSL_cleanse(session, sizeof(session));
	if (sealed == 0)
		return 0;
	to = tls_put(to, TLS_MESSAGE_NEW_SESSION_TICKET, 1);
	to = tls_put(to, (uint32_t)(head - TLS_MESSAGE_HEADER + sealed + 2), 3);
	to = tls_put(to, (uint32_t)SSL_SESSION_get_timeout(SSL_get_session(ssl)), 4);
	memcpy(to, age_add, sizeof(age_add));
	to = tls_put(to + sizeof(age_add), sizeof(nonce), 1);
	to = tls_put(to, nonce, sizeof(nonce));
	to = tls_put(to, (uint32_t)sealed, 2);
	tls_put(to + sealed, 0, 2); /* no extensions */
	return head + sealed + 2;
}
