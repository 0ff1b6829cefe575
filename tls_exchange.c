/* SPDX-License-Identifier: ISC */
#include "tls_exchange.h"

#include "tls_compat.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#if TLS_HAVE_PROVIDERS
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <openssl/proverr.h>
#endif

#include <string.h>

#define MAX_LABEL 22 /* "extended master secret" */

#define TICKET_MAC 32
/* A message's header, lifetime and length of the ticket, then that. */
#define TICKET_MAX (TLS_MESSAGE_HEADER + 4 + 2 + TLS_EXCHANGE_SESSION + TLS_EXCHANGE_TICKET_EXTRA)

_Static_assert(TICKET_MAX + 2 * TLS_RECORD_HEADER + 1 + TLS_EXCHANGE_FINISHED +
			       TLS_RECORD_OVERHEAD <=
		       TLS_EXCHANGE_END_MAX,
	       "room for what is sent last");

/* ---- X25519 ---- */

#if TLS_HAVE_PROVIDERS

/* Owner: the thread. Kept because to look the algorithm up takes as long as to make a key. */
static __thread EVP_PKEY_CTX *import_ctx;

/* Makes a key; private_key is NULL for one of the peer. With both parts, libcrypto need not compute
 * the public one anew. */
static EVP_PKEY *import_key(const uint8_t *public_key, const uint8_t *private_key)
{
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, (void *)public_key,
						  TLS_EXCHANGE_KEY),
		OSSL_PARAM_construct_end(),
		OSSL_PARAM_construct_end(),
	};
	EVP_PKEY *key = NULL;

	if (private_key)
		params[1] = OSSL_PARAM_construct_octet_string(
			OSSL_PKEY_PARAM_PRIV_KEY, (void *)private_key, TLS_EXCHANGE_KEY);
	if (!import_ctx)
		import_ctx = EVP_PKEY_CTX_new_from_name(NULL, "X25519", NULL);
	if (import_ctx && EVP_PKEY_fromdata_init(import_ctx) == 1)
		EVP_PKEY_fromdata(import_ctx, &key,
				  private_key ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY, params);
	return key;
}

/* A share of small order gives zeros, which nobody may use (RFC 7748 section 6.1). */
static uint8_t share_alert(void)
{
	unsigned long error = ERR_peek_last_error();

	return ERR_GET_LIB(error) == ERR_LIB_PROV &&
			       ERR_GET_REASON(error) == PROV_R_FAILED_DURING_DERIVATION
		       ? TLS_ALERT_ILLEGAL_PARAMETER
		       : TLS_ALERT_INTERNAL_ERROR;
}

static bool share_secret(const uint8_t *private_key, const uint8_t *public_key, const uint8_t *peer,
			 uint8_t *secret, uint8_t *alert)
{
	EVP_PKEY *own = import_key(public_key, private_key), *other = import_key(peer, NULL);
	EVP_PKEY_CTX *ctx = own && other ? EVP_PKEY_CTX_new(own, NULL) : NULL;
	size_t len = TLS_EXCHANGE_KEY;
	bool ok = ctx && EVP_PKEY_derive_init(ctx) == 1 &&
		  EVP_PKEY_derive_set_peer(ctx, other) == 1 &&
		  EVP_PKEY_derive(ctx, secret, &len) == 1 && len == TLS_EXCHANGE_KEY;

	if (!ok)
		*alert = share_alert();
	EVP_PKEY_CTX_free(ctx);
	EVP_PKEY_free(other);
	EVP_PKEY_free(own);
	return ok;
}

/* libcrypto's own function for raw keys leaves a copy of a private one in memory that it frees. */
static bool export_part(const EVP_PKEY *key, const char *part, uint8_t *out)
{
	size_t len;

	return EVP_PKEY_get_octet_string_param(key, part, out, TLS_EXCHANGE_KEY, &len) == 1 &&
	       len == TLS_EXCHANGE_KEY;
}

bool tls_exchange_take_key(struct tls_exchange *x, const EVP_PKEY *key)
{
	return EVP_PKEY_is_a(key, "X25519") &&
	       export_part(key, OSSL_PKEY_PARAM_PRIV_KEY, x->private_key) &&
	       export_part(key, OSSL_PKEY_PARAM_PUB_KEY, x->public_key);
}

static void forget_import_ctx(void)
{
	EVP_PKEY_CTX_free(import_ctx);
	import_ctx = NULL;
}

/* With the base point as the peer's key the secret is the own public key. */
bool tls_exchange_works(void)
{
	static const uint8_t base_point[TLS_EXCHANGE_KEY] = {9};
	EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "X25519");
	uint8_t secret[TLS_EXCHANGE_KEY], alert;
	struct tls_exchange x;
	bool ok = key && tls_exchange_take_key(&x, key) &&
		  share_secret(x.private_key, x.public_key, base_point, secret, &alert) &&
		  memcmp(secret, x.public_key, sizeof(secret)) == 0;

	EVP_PKEY_free(key);
	forget_import_ctx(); /* who asks this may never make a key again */
	OPENSSL_cleanse(&x, sizeof(x));
	ERR_clear_error();
	return ok;
}

void tls_exchange_thread_end(void)
{
	forget_import_ctx();
	tls_record_thread_end();
}

#else

static bool share_secret(const uint8_t *private_key, const uint8_t *public_key, const uint8_t *peer,
			 uint8_t *secret, uint8_t *alert)
{
	(void)private_key;
	(void)public_key;
	(void)peer;
	(void)secret;
	*alert = TLS_ALERT_INTERNAL_ERROR;
	return false;
}

bool tls_exchange_take_key(struct tls_exchange *x, const EVP_PKEY *key)
{
	(void)x;
	(void)key;
	return false;
}

bool tls_exchange_works(void)
{
	return false;
}

void tls_exchange_thread_end(void)
{
	tls_record_thread_end();
}

#endif

/* ---- keys ---- */

/* PRF(secret, label, digest of messages). */
static bool derive(uint8_t hash, struct tls_kdf_bytes secret, const char *label,
		   const uint8_t *digest, uint8_t *out, size_t len)
{
	size_t label_len = strlen(label), size = tls_kdf_hash_size(hash);
	uint8_t seed[MAX_LABEL + TLS_KDF_MAX_HASH];
	struct tls_kdf_bytes with = {seed, label_len + size};

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
	return derive(hash, (struct tls_kdf_bytes){master, TLS_MASTER_SECRET}, label, digest,
		      verify_data, TLS_EXCHANGE_VERIFY);
}

int tls_exchange_resumed(uint8_t hash, const uint8_t *master, struct tls_kdf_bytes messages,
			 uint8_t verify_data[TLS_EXCHANGE_VERIFY])
{
	uint8_t digest[TLS_KDF_MAX_HASH];

	return tls_kdf_hash(hash, &messages, 1, digest) == 0 &&
			       derive_finished(hash, master, "client finished", digest, verify_data)
		       ? 0
		       : -1;
}

int tls_exchange_keys(struct tls_exchange *x, const uint8_t *messages, const uint8_t *key_exchange,
		      struct tls_record_keys *client, struct tls_record_keys *server,
		      uint8_t verify_data[TLS_EXCHANGE_VERIFY], uint8_t *alert)
{
	const struct tls_kdf_bytes pieces[] = {{messages, x->messages_len},
					       {x->key_exchange, sizeof(x->key_exchange)}};
	uint8_t digest[TLS_KDF_MAX_HASH], secret[TLS_EXCHANGE_KEY];
	struct tls_kdf_bytes premaster = {secret, sizeof(secret)};
	bool ok;

	memcpy(x->key_exchange, key_exchange, sizeof(x->key_exchange));
	*alert = TLS_ALERT_INTERNAL_ERROR;
	ok = share_secret(x->private_key, x->public_key, key_exchange + TLS_MESSAGE_HEADER + 1,
			  secret, alert) &&
	     tls_kdf_hash(x->hash, pieces, 2, digest) == 0 &&
	     derive(x->hash, premaster, "extended master secret", digest, x->master,
		    sizeof(x->master)) &&
	     derive_finished(x->hash, x->master, "client finished", digest, verify_data) &&
	     tls_record_keys_1_2(client, server, x->aead, x->hash, x->master, x->client_random,
				 x->server_random) == 0;
	OPENSSL_cleanse(secret, sizeof(secret));
	tls_kdf_forget();
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
	struct tls_kdf_bytes key = {t->mac_key, sizeof(t->mac_key)}, text = {out, head + sealed};

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
	uint8_t ticket[TICKET_MAX], digest[TLS_KDF_MAX_HASH], own[TLS_EXCHANGE_FINISHED];
	size_t ticket_len = 0, len = 0, sealed = 0;
	bool ok = x->ticket.session_len == 0 ||
		  (ticket_len = write_ticket(x, messages + x->messages_len, ticket)) > 0;
	const struct tls_kdf_bytes pieces[] = {{messages, x->messages_len},
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
	tls_kdf_forget();
	ERR_clear_error();
	return sealed > 0 ? len + sealed : 0;
}
