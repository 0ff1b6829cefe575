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

/* Writes the session as OpenSSL does into a ticket, with a master secret that it cannot have.
 * Returns its bytes, or 0. */
static size_t write_session(SSL_SESSION *session, const uint8_t *blank, uint8_t *out, size_t size)
{
	int len = SSL_SESSION_set1_master_key(session, blank, TLS_MASTER_SECRET) == 1
			  ? i2d_SSL_SESSION(session, NULL)
			  : 0;

	return len > 0 && (size_t)len <= size && i2d_SSL_SESSION(session, &out) == len ? (size_t)len
										       : 0;
}

bool tls_resume_template(SSL *ssl, struct tls_exchange_ticket *t, uint8_t *out, size_t size)
{
	static const uint8_t blank[TLS_MASTER_SECRET] =
		"the master secret will stand in this place here";
	SSL_SESSION *session = SSL_get_session(ssl);
	const uint8_t *at = NULL;
	size_t len = 0;

	if (size > TLS_EXCHANGE_SESSION)
		size = TLS_EXCHANGE_SESSION;
	if (on_ticket_made(ssl, NULL) == 1)
		len = write_session(session, blank, out, size);
	if (len > 0)
		at = memmem(out, len, blank, sizeof(blank));
	if (!at || !tls_ticket_share(SSL_get_ex_data(ssl, keys_index), now(), t))
		return false;
	t->lifetime = (uint32_t)SSL_SESSION_get_timeout(session);
	t->session_len = (uint16_t)len;
	t->master_at = (uint16_t)(at - out);
	return true;
}
