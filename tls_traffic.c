/* SPDX-License-Identifier: ISC */
#include "tls_traffic.h"

#include <openssl/crypto.h>
#include <openssl/err.h>

#include <string.h>

/* Where things stand in a ServerHello of TLS 1.2 without a session id, RFC 5246 section 7.4.1.3. */
#define HELLO_SESSION_ID  (TLS_MESSAGE_HEADER + 2 + TLS_RANDOM)
#define HELLO_COMPRESSION (HELLO_SESSION_ID + 1 + 2)

/* ---- what is noted during the handshake ---- */

/* Twice for each handshake: sscanf() takes longer than the cipher. */
static size_t from_hex(const char *hex, uint8_t *to, size_t size)
{
	size_t n = 0;

	for (; n < size && hex[2 * n] && hex[2 * n + 1]; n++) {
		int high = OPENSSL_hexchar2int((unsigned char)hex[2 * n]);
		int low = OPENSSL_hexchar2int((unsigned char)hex[2 * n + 1]);

		if (high < 0 || low < 0)
			break;
		to[n] = (uint8_t)(high << 4 | low);
	}
	return n;
}

void tls_traffic_note_secret(struct tls_traffic *t, const char *line)
{
	struct tls_provider_secrets *secrets = &t->secrets;
	const char *hex = strrchr(line, ' ');

	if (!hex)
		return;
	if (strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0)
		secrets->len = from_hex(hex + 1, secrets->client, sizeof(secrets->client));
	else if (strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24) == 0)
		secrets->len = from_hex(hex + 1, secrets->server, sizeof(secrets->server));
}

/*
 * Counts the records of each direction since its keys changed for the last time, which is
 * the sequence number that the stream goes on with. Keys change with a ChangeCipherSpec
 * record in TLS 1.2 and after that side's Finished in TLS 1.3; OpenSSL reports a record's
 * header before the message that it carries.
 */
void tls_traffic_count(struct tls_traffic *t, const SSL *ssl, int sent, int type,
		       const uint8_t *bytes)
{
	bool is_1_3 = SSL_version(ssl) == TLS1_3_VERSION;
	uint64_t *count = sent ? &t->sealed : &t->opened;

	if (type == SSL3_RT_HEADER) {
		*count = !is_1_3 && bytes[0] == TLS_CONTENT_CHANGE_CIPHER_SPEC ? 0 : *count + 1;
		t->received += sent ? 0 : (uint64_t)bytes[3] << 8 | bytes[4];
	} else if (type == SSL3_RT_HANDSHAKE && is_1_3 && bytes[0] == SSL3_MT_FINISHED) {
		*count = 0;
	}
}

/* Extensions of a ServerHello that change nothing after it, and the two that are kept here. */
static bool note_extension(struct tls_traffic *t, unsigned type, bool *extended_master)
{
	switch (type) {
	case TLSEXT_TYPE_extended_master_secret:
		*extended_master = true;
		return true;
	case TLSEXT_TYPE_session_ticket:
		t->promises_ticket = true;
		return true;
	case TLSEXT_TYPE_server_name:
	case TLSEXT_TYPE_status_request:
	case TLSEXT_TYPE_ec_point_formats:
	case TLSEXT_TYPE_application_layer_protocol_negotiation:
	case TLSEXT_TYPE_signed_certificate_timestamp:
	case TLSEXT_TYPE_encrypt_then_mac: /* not with an AEAD suite, RFC 7366 section 3 */
	case TLSEXT_TYPE_renegotiate:
		return true;
	default:
		return false;
	}
}

/* RFC 5246 section 7.4.1.3. A session id would promise that the session is kept. */
void tls_traffic_note_hello(struct tls_traffic *t, const uint8_t *message, size_t len)
{
	static const size_t extensions = HELLO_SESSION_ID + 1 + 2 + 1 + 2;
	bool extended_master = false, ok = len >= extensions && message[HELLO_SESSION_ID] == 0 &&
					   message[HELLO_COMPRESSION] == 0;
	size_t at = extensions;

	t->promises_ticket = false;
	while (ok && at < len) {
		ok = len - at >= 4 &&
		     note_extension(t, (unsigned)(message[at] << 8 | message[at + 1]),
				    &extended_master);
		at += ok ? 4 + (size_t)(message[at + 2] << 8 | message[at + 3]) : 0;
	}
	t->plain_hello = ok && at == len && extended_master;
}

/*
 * TLS 1.2 GCM sends 8 bytes of nonce in the clear, of which OpenSSL chose the first at
 * random; the stream counts on from it.
 */
void tls_traffic_note_nonce(struct tls_traffic *t, BIO *out)
{
	uint8_t *bytes;
	long len = BIO_get_mem_data(out, &bytes);
	bool sealed = false;

	for (long at = 0; !t->has_nonce && at + TLS_RECORD_HEADER <= len;) {
		long size = TLS_RECORD_HEADER + (bytes[at + 3] << 8 | bytes[at + 4]);

		if (sealed && at + size <= len && size >= TLS_RECORD_HEADER + 8) {
			memcpy(t->nonce, bytes + at + TLS_RECORD_HEADER, sizeof(t->nonce));
			t->has_nonce = true;
		}
		sealed |= bytes[at] == TLS_CONTENT_CHANGE_CIPHER_SPEC;
		at += size;
	}
}

/* ---- the stream ---- */

static uint8_t aead_of(const SSL_CIPHER *cipher)
{
	switch (SSL_CIPHER_get_cipher_nid(cipher)) {
	case NID_aes_128_gcm:
		return TLS_AEAD_AES_128_GCM;
	case NID_aes_256_gcm:
		return TLS_AEAD_AES_256_GCM;
	case NID_chacha20_poly1305:
		return TLS_AEAD_CHACHA20_POLY1305;
	default:
		return TLS_AEAD_NONE;
	}
}

static uint8_t prf_hash_of(const SSL_CIPHER *cipher)
{
	const EVP_MD *md = SSL_CIPHER_get_handshake_digest(cipher);

	return md && EVP_MD_size(md) == 48 ? TLS_PRF_SHA384 : TLS_PRF_SHA256;
}

static int stream_keys_1_2(const struct tls_traffic *t, SSL *ssl, struct tls_stream *stream,
			   uint8_t aead, uint8_t hash)
{
	bool client = !SSL_is_server(ssl);
	uint8_t master[SSL_MAX_MASTER_KEY_LENGTH], random_c[SSL3_RANDOM_SIZE],
		random_s[SSL3_RANDOM_SIZE];
	int result;

	if (SSL_SESSION_get_master_key(SSL_get_session(ssl), master, sizeof(master)) != 48 ||
	    SSL_get_client_random(ssl, random_c, sizeof(random_c)) != sizeof(random_c) ||
	    SSL_get_server_random(ssl, random_s, sizeof(random_s)) != sizeof(random_s))
		return -1;
	result = tls_record_keys_1_2(client ? &stream->wr : &stream->rd,
				     client ? &stream->rd : &stream->wr, aead, hash, master,
				     random_c, random_s);
	if (aead != TLS_AEAD_CHACHA20_POLY1305 && !t->has_nonce)
		result = -1;
	else if (aead != TLS_AEAD_CHACHA20_POLY1305)
		memcpy(stream->wr.iv + 4, t->nonce, sizeof(t->nonce));
	OPENSSL_cleanse(master, sizeof(master));
	return result;
}

static int stream_keys_1_3(const struct tls_traffic *t, SSL *ssl, struct tls_stream *stream,
			   uint8_t aead, uint8_t hash)
{
	const struct tls_provider_secrets *secrets = &t->secrets;
	bool client = !SSL_is_server(ssl);

	return tls_record_keys_1_3(&stream->wr, aead, hash,
				   client ? secrets->client : secrets->server, secrets->len) |
	       tls_record_keys_1_3(&stream->rd, aead, hash,
				   client ? secrets->server : secrets->client, secrets->len);
}

static bool limits_fragments(SSL *ssl)
{
	uint8_t mode = SSL_SESSION_get_max_fragment_length(SSL_get_session(ssl));

	return mode >= TLSEXT_max_fragment_length_512 && mode <= TLSEXT_max_fragment_length_4096;
}

bool tls_traffic_stream(const struct tls_traffic *t, SSL *ssl, struct tls_stream *stream)
{
	const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
	uint8_t aead = aead_of(cipher), hash = prf_hash_of(cipher);
	int version = SSL_version(ssl);

	memset(stream, 0, sizeof(*stream));
	if (aead == TLS_AEAD_NONE || version < TLS1_2_VERSION || SSL_get_current_compression(ssl) ||
	    SSL_has_pending(ssl) || limits_fragments(ssl))
		return false;
	if ((version == TLS1_3_VERSION ? stream_keys_1_3 : stream_keys_1_2)(t, ssl, stream, aead,
									    hash) != 0) {
		tls_stream_wipe(stream);
		return false;
	}
	stream->wr.seq = t->sealed;
	stream->rd.seq = t->opened;
	stream->update_after = TLS_STREAM_UPDATE_AFTER;
	stream->flags = SSL_is_server(ssl) ? 0 : TLS_STREAM_CLIENT;
	return true;
}

/* ---- the client's Finished ---- */

bool tls_traffic_knows_finished(const struct tls_traffic *t)
{
	return t->secrets.handshake_len > 0 && t->secrets.transcript_len > 0;
}

size_t tls_traffic_foretell(const struct tls_traffic *t, SSL *ssl, struct tls_await *await,
			    uint8_t *record)
{
	const SSL_CIPHER *cipher = SSL_get_pending_cipher(ssl);
	const struct tls_provider_secrets *secrets = &t->secrets;
	uint8_t aead = aead_of(cipher), hash = prf_hash_of(cipher);
	size_t size = tls_kdf_hash_size(hash), len;

	if (aead == TLS_AEAD_NONE || limits_fragments(ssl) || secrets->handshake_len != size ||
	    secrets->transcript_len != size ||
	    tls_await_init(await, aead, hash, secrets->client_handshake, secrets->transcript) != 0)
		return 0;
	len = tls_await_seal(await, record);
	tls_aead_forget();
	return len;
}

bool tls_traffic_foretell_resumed(const struct tls_traffic *t, SSL *ssl, struct tls_bytes messages,
				  struct tls_stream *stream,
				  uint8_t verify_data[TLS_EXCHANGE_VERIFY])
{
	uint8_t master[TLS_MASTER_SECRET];
	bool ok = SSL_get_state(ssl) == TLS_ST_SW_FINISHED &&
		  SSL_SESSION_get_master_key(SSL_get_session(ssl), master, sizeof(master)) ==
			  sizeof(master) &&
		  tls_exchange_resumed(prf_hash_of(SSL_get_current_cipher(ssl)), master, messages,
				       verify_data) == 0 &&
		  tls_traffic_stream(t, ssl, stream);

	OPENSSL_cleanse(master, sizeof(master));
	return ok;
}

/* ---- the end of a TLS 1.2 handshake ---- */

static bool exchange_key(SSL *ssl, struct tls_exchange *x)
{
	EVP_PKEY *key = NULL;
	bool ok = SSL_get_tmp_key(ssl, &key) == 1 && tls_x25519_take(&x->key, key);

	EVP_PKEY_free(key);
	ERR_clear_error();
	return ok;
}

bool tls_traffic_exchange(const struct tls_traffic *t, SSL *ssl, struct tls_exchange *x)
{
	const SSL_CIPHER *cipher = SSL_get_pending_cipher(ssl);

	memset(x, 0, sizeof(*x));
	if (SSL_get_state(ssl) != TLS_ST_SW_SRVR_DONE || !t->plain_hello)
		return false;
	x->aead = aead_of(cipher);
	x->hash = prf_hash_of(cipher);
	return x->aead != TLS_AEAD_NONE && SSL_CIPHER_get_kx_nid(cipher) == NID_kx_ecdhe &&
	       SSL_get_client_random(ssl, x->client_random, sizeof(x->client_random)) ==
		       sizeof(x->client_random) &&
	       SSL_get_server_random(ssl, x->server_random, sizeof(x->server_random)) ==
		       sizeof(x->server_random) &&
	       exchange_key(ssl, x);
}
