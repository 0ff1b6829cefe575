/* SPDX-License-Identifier: ISC */
#include "tls_exchange.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include <string.h>

#define MAX_LABEL 22 /* "extended master secret" */

#define TICKET_MAC 32
/* A message's header, lifetime and length of the ticket, then that. */
#define TICKET_MAX (TLS_MESSAGE_HEADER + 4 + 2 + TLS_EXCHANGE_SESSION + TLS_EXCHANGE_TICKET_EXTRA)

_Static_assert(TICKET_MAX + 2 * TLS_RECORD_HEADER + 1 + TLS_EXCHANGE_FINISHED +
			       TLS_RECORD_OVERHEAD <=
		       TLS_EXCHANGE_END_MAX,
	       "room for what is sent last");

void tls_exchange_thread_end(void)
{
	tls_x25519_thread_end();
	tls_record_thread_end();
}

/* ---- keys ---- */

/* PRF(secret, label, digest of messages). */
static bool derive(uint8_t hash, struct tls_bytes secret, const char *label, const uint8_t *digest,
		   uint8_t *out, size_t len)
{
	size_t label_len = strlen(label), size = tls_kdf_hash_size(hash);
	uint8_t seed[MAX_LABEL + TLS_HASH_MAX];
	struct tls_bytes with = {seed, label_len + size};

	if (label_len > MAX_LABEL)
		return false;
	memcpy(seed, label, label_len);
	memcpy(seed + label_len, digest, size);
	return tls_kdf_prf(hash, secret, with, out, len) == 0;
}

/* The content of a Finished. */
static bool derive_finished(uint8_t hash, const uint8_t *master, const char *label,
			    const uint8_t *digest, uint8_t *verify_data)
{
	return derive(hash, (struct tls_bytes){master, TLS_MASTER_SECRET}, label, digest,
		      verify_data, TLS_EXCHANGE_VERIFY);
}

int tls_exchange_resumed(uint8_t hash, const uint8_t *master, struct tls_bytes messages,
			 uint8_t verify_data[TLS_EXCHANGE_VERIFY])
{
	uint8_t digest[TLS_HASH_MAX];

	return tls_kdf_hash(hash, &messages, 1, digest) == 0 &&
			       derive_finished(hash, master, "client finished", digest, verify_data)
		       ? 0
		       : -1;
}

int tls_exchange_keys(struct tls_exchange *x, const uint8_t *messages, const uint8_t *key_exchange,
		      struct tls_record_keys *client, struct tls_record_keys *server,
		      uint8_t verify_data[TLS_EXCHANGE_VERIFY], uint8_t *alert)
{
	const struct tls_bytes pieces[] = {{messages, x->messages_len},
					   {x->key_exchange, sizeof(x->key_exchange)}};
	const uint8_t *share = key_exchange + TLS_MESSAGE_HEADER + 1;
	uint8_t digest[TLS_HASH_MAX], secret[TLS_X25519_KEY];
	struct tls_bytes premaster = {secret, sizeof(secret)};
	enum tls_x25519 shared = tls_x25519_secret(&x->key, share, secret);
	bool ok;

	memcpy(x->key_exchange, key_exchange, sizeof(x->key_exchange));
	*alert = shared == TLS_X25519_REFUSED ? TLS_ALERT_ILLEGAL_PARAMETER
					      : TLS_ALERT_INTERNAL_ERROR;
	ok = shared == TLS_X25519_OK && tls_kdf_hash(x->hash, pieces, 2, digest) == 0 &&
	     derive(x->hash, premaster, "extended master secret", digest, x->master,
		    sizeof(x->master)) &&
	     derive_finished(x->hash, x->master, "client finished", digest, verify_data) &&
	     tls_record_keys_1_2(client, server, x->aead, x->hash, x->master, x->client_random,
				 x->server_random) == 0;
	OPENSSL_cleanse(secret, sizeof(secret));
	tls_hash_forget();
	ERR_clear_error();
	return ok ? 0 : -1;
}

/* ---- what the server sends last ---- */

/* Encrypts a session. Returns the bytes, or 0. */
static size_t seal_session(const struct tls_exchange_ticket *t, const uint8_t *session, size_t len,
			   uint8_t *out)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int most = 0, rest = 0;
	bool ok = ctx &&
		  EVP_EncryptInit_ex(ctx, EVP_aes_256_cbc(), NULL, t->cipher_key, t->iv) == 1 &&
		  EVP_EncryptUpdate(ctx, out, &most, session, (int)len) == 1 &&
		  EVP_EncryptFinal_ex(ctx, out + most, &rest) == 1;

	EVP_CIPHER_CTX_free(ctx);
	return ok ? (size_t)(most + rest) : 0;
}

size_t tls_exchange_seal_ticket(const struct tls_exchange_ticket *t, const uint8_t *session,
				size_t len, uint8_t *out)
{
	size_t head = sizeof(t->name) + sizeof(t->iv);
	size_t sealed = seal_session(t, session, len, out + head);
	struct tls_bytes key = {t->mac_key, sizeof(t->mac_key)}, text = {out, head + sealed};

	memcpy(out, t->name, sizeof(t->name));
	memcpy(out + sizeof(t->name), t->iv, sizeof(t->iv));
	if (sealed == 0 || tls_kdf_hmac(TLS_PRF_SHA256, key, text, out + text.len) != 0)
		return 0;
	return text.len + TICKET_MAC;
}

/* Writes a NewSessionTicket message (RFC 5077 sections 3.3 and 4). Returns its bytes, or 0. */
static size_t write_ticket(const struct tls_exchange *x, const uint8_t *session, uint8_t *out)
{
	static const size_t head = TLS_MESSAGE_HEADER + 4 + 2;
	const struct tls_exchange_ticket *t = &x->ticket;
	uint8_t text[TLS_EXCHANGE_SESSION];
	size_t len;

	memcpy(text, session, t->session_len);
	memcpy(text + t->master_at, x->master, sizeof(x->master));
	len = tls_exchange_seal_ticket(t, text, t->session_len, out + head);
	OPENSSL_cleanse(text, sizeof(text));
	if (len == 0)
		return 0;
	tls_put(tls_put(tls_put(tls_put(out, TLS_MESSAGE_NEW_SESSION_TICKET, 1),
				(uint32_t)(4 + 2 + len), 3),
			t->lifetime, 4),
		(uint32_t)len, 2);
	return head + len;
}

size_t tls_exchange_end(const struct tls_exchange *x, const uint8_t *messages,
			const uint8_t *finished, struct tls_record_keys *keys, uint8_t *out)
{
	static const uint8_t change[] = {1};
	uint8_t ticket[TICKET_MAX], digest[TLS_HASH_MAX], own[TLS_EXCHANGE_FINISHED];
	size_t ticket_len = 0, len = 0, sealed = 0;
	bool ok = x->ticket.session_len == 0 ||
		  (ticket_len = write_ticket(x, messages + x->messages_len, ticket)) > 0;
	const struct tls_bytes pieces[] = {{messages, x->messages_len},
					   {x->key_exchange, sizeof(x->key_exchange)},
					   {finished, TLS_EXCHANGE_FINISHED},
					   {ticket, ticket_len}};

	ok = ok && tls_kdf_hash(x->hash, pieces, 4, digest) == 0 &&
	     derive_finished(x->hash, x->master, "server finished", digest,
			     own + TLS_MESSAGE_HEADER);
	tls_put(tls_put(own, TLS_MESSAGE_FINISHED, 1), TLS_EXCHANGE_VERIFY, 3);
	if (ticket_len > 0)
		len = tls_record_put(TLS_CONTENT_HANDSHAKE, ticket, ticket_len, out);
	len += tls_record_put(TLS_CONTENT_CHANGE_CIPHER_SPEC, change, sizeof(change), out + len);
	if (ok)
		sealed = tls_record_seal(keys, TLS_CONTENT_HANDSHAKE, own, sizeof(own), out + len);
	tls_hash_forget();
	ERR_clear_error();
	return sealed > 0 ? len + sealed : 0;
}
