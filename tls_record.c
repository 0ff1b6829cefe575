/* SPDX-License-Identifier: ISC */
/*
 * Seals and opens AEAD records and derives their keys; tls_record.h is the
 * manual. Callers may rely on this: a sequence number is used up before its
 * record is sealed, and nothing of libcrypto is stored in the caller's
 * structures, so that they can move between processes.
 */
#include "tls_record.h"

#include "tls_rare.h"

#include <openssl/crypto.h>
#include <openssl/err.h>

#include <endian.h>
#include <string.h>

#define RECORD_SALT     4  /* RFC 5288 section 3 */
#define RECORD_EXPLICIT 8  /* likewise: the explicit part of the nonce */
#define RECORD_AAD_MAX  13 /* RFC 5246 section 6.2.3.3 */

void tls_record_keys_wipe(struct tls_record_keys *k)
{
	OPENSSL_cleanse(k, sizeof(*k));
}

/* HKDF-Expand-Label with an empty context (RFC 8446 sections 7.2 and 7.3). */
static int record_expand(uint8_t hash, const uint8_t *secret, const char *label, uint8_t *out,
			 size_t len)
{
	struct tls_bytes from = {secret, tls_kdf_hash_size(hash)};
	struct tls_bytes name = {label, strlen(label)}, none = {NULL, 0};
	int rc = tls_kdf_expand_label(hash, from, name, none, out, len);

	if (rc != 0)
		ERR_clear_error();
	return rc;
}

int tls_record_keys_1_3(struct tls_record_keys *k, uint8_t aead, uint8_t hash,
			const uint8_t *secret, size_t secret_len)
{
	size_t key_len = tls_aead_key_size(aead);

	memset(k, 0, sizeof(*k));
	if (key_len == 0 || secret_len == 0 || secret_len != tls_kdf_hash_size(hash))
		return -1;
	k->version = TLS_VERSION_1_3;
	k->aead = aead;
	k->hash = hash;
	memcpy(k->secret, secret, secret_len);
	if (record_expand(hash, secret, "tls13 key", k->key, key_len) == 0 &&
	    record_expand(hash, secret, "tls13 iv", k->iv, TLS_AEAD_NONCE) == 0)
		return 0;
	tls_record_keys_wipe(k);
	return -1;
}

int tls_record_keys_update(struct tls_record_keys *k)
{
	uint8_t secret[TLS_RECORD_MAX_SECRET];
	struct tls_record_keys next;
	size_t len = tls_kdf_hash_size(k->hash);
	int rc = -1;

	if (k->version != TLS_VERSION_1_3 || len == 0)
		return -1;
	if (record_expand(k->hash, k->secret, "tls13 traffic upd", secret, len) == 0 &&
	    tls_record_keys_1_3(&next, k->aead, k->hash, secret, len) == 0) {
		rc = 0;
		*k = next;
		tls_record_keys_wipe(&next);
	}
	tls_hash_forget();
	OPENSSL_cleanse(secret, sizeof(secret));
	return rc;
}

/* RFC 5246 section 6.3: PRF(master, "key expansion", server random + client random). */
static int record_key_block(uint8_t hash, const uint8_t *master, const uint8_t *client_random,
			    const uint8_t *server_random, uint8_t *out, size_t len)
{
	static const char label[] = "key expansion";
	uint8_t seed[sizeof(label) - 1 + 2 * TLS_RANDOM];
	struct tls_bytes from = {master, TLS_MASTER_SECRET}, with = {seed, sizeof(seed)};

	memcpy(seed, label, sizeof(label) - 1);
	memcpy(seed + sizeof(label) - 1, server_random, TLS_RANDOM);
	memcpy(seed + sizeof(label) - 1 + TLS_RANDOM, client_random, TLS_RANDOM);
	if (tls_kdf_prf(hash, from, with, out, len) == 0)
		return 0;
	ERR_clear_error();
	return -1;
}

/* The key block is both keys, then both IVs, the client's first. */
static void record_keys_fill_1_2(struct tls_record_keys *k, uint8_t aead, uint8_t hash,
				 const uint8_t *block, size_t key_len, size_t iv_len, int server)
{
	const uint8_t *iv = block + 2 * key_len;

	k->version = TLS_VERSION_1_2;
	k->aead = aead;
	k->hash = hash;
	memcpy(k->key, server ? block + key_len : block, key_len);
	memcpy(k->iv, server ? iv + iv_len : iv, iv_len);
}

int tls_record_keys_1_2(struct tls_record_keys *client, struct tls_record_keys *server,
			uint8_t aead, uint8_t hash, const uint8_t *master,
			const uint8_t *client_random, const uint8_t *server_random)
{
	uint8_t block[2 * (TLS_AEAD_MAX_KEY + TLS_AEAD_NONCE)];
	size_t key_len = tls_aead_key_size(aead);
	size_t iv_len = aead == TLS_AEAD_CHACHA20_POLY1305 ? TLS_AEAD_NONCE : RECORD_SALT;
	int rc = -1;

	memset(client, 0, sizeof(*client));
	memset(server, 0, sizeof(*server));
	if (key_len == 0 || tls_kdf_hash_size(hash) == 0)
		return -1;
	if (record_key_block(hash, master, client_random, server_random, block,
			     2 * (key_len + iv_len)) == 0) {
		record_keys_fill_1_2(client, aead, hash, block, key_len, iv_len, 0);
		record_keys_fill_1_2(server, aead, hash, block, key_len, iv_len, 1);
		rc = 0;
	}
	OPENSSL_cleanse(block, sizeof(block));
	return rc;
}

static void record_put64(uint8_t *out, uint64_t n)
{
	n = htobe64(n);
	memcpy(out, &n, sizeof(n));
}

static uint64_t record_get64(const uint8_t *in)
{
	uint64_t n;

	memcpy(&n, in, sizeof(n));
	return be64toh(n);
}

/* TLS 1.2 GCM records carry 8 bytes of their nonce; the others carry nothing. */
static size_t record_explicit_size(const struct tls_record_keys *k)
{
	if (k->version == TLS_VERSION_1_2 && k->aead != TLS_AEAD_CHACHA20_POLY1305)
		return RECORD_EXPLICIT;
	return 0;
}

/* RFC 8446 section 5.3 and RFC 7905 section 2: the IV xor the padded sequence number. */
static void record_nonce_xor(const struct tls_record_keys *k, uint64_t seq, uint8_t *nonce)
{
	memcpy(nonce, k->iv, RECORD_SALT);
	record_put64(nonce + RECORD_SALT, record_get64(k->iv + RECORD_SALT) ^ seq);
}

/*
 * Writes the additional data, returns its size: the header in TLS 1.3 (RFC 8446 section
 * 5.2), else number, type, version and length of the plaintext (RFC 5246 section 6.2.3.3).
 */
static size_t record_aad(const struct tls_record_keys *k, uint64_t seq, const uint8_t *header,
			 size_t plain_len, uint8_t *aad)
{
	if (k->version == TLS_VERSION_1_3) {
		memcpy(aad, header, TLS_RECORD_HEADER);
		return TLS_RECORD_HEADER;
	}
	record_put64(aad, seq);
	memcpy(aad + 8, header, 3);
	aad[11] = (uint8_t)(plain_len >> 8);
	aad[12] = (uint8_t)plain_len;
	return RECORD_AAD_MAX;
}

void tls_record_thread_end(void)
{
	tls_aead_thread_end();
	tls_hash_thread_end();
}

static TLS_RARE int record_refuse(uint8_t *alert, uint8_t value)
{
	*alert = value;
	return -1;
}

static size_t record_length(const uint8_t *rec)
{
	return (size_t)rec[3] << 8 | rec[4];
}

/*
 * What may arrive on an established connection. A ChangeCipherSpec is not among it: TLS 1.3
 * lets it pass only until the peer's Finished, after that it "MUST be treated as an
 * unexpected record type" (RFC 8446 section 5; appendix D.4 places it earlier still), and
 * in TLS 1.2 it would need a renegotiation.
 */
static int record_type_allowed(const struct tls_record_keys *k, uint8_t type)
{
	if (k->version == TLS_VERSION_1_3)
		return type == TLS_CONTENT_APPLICATION_DATA;
	return type >= TLS_CONTENT_ALERT && type <= TLS_CONTENT_APPLICATION_DATA;
}

/* A header with a content of at most limit bytes. Returns as tls_record_peek() does. */
static int record_peek(const uint8_t *buf, size_t len, size_t limit, struct tls_record_header *h,
		       uint8_t *alert)
{
	if (buf[1] != TLS_VERSION_1_2 >> 8 || buf[2] != (TLS_VERSION_1_2 & 0xff))
		return record_refuse(alert, TLS_ALERT_PROTOCOL_VERSION);
	if (record_length(buf) > limit)
		return record_refuse(alert, TLS_ALERT_RECORD_OVERFLOW);
	h->type = buf[0];
	h->size = TLS_RECORD_HEADER + record_length(buf);
	return len >= h->size;
}

int tls_record_peek(const struct tls_record_keys *k, const uint8_t *buf, size_t len,
		    struct tls_record_header *h, uint8_t *alert)
{
	size_t limit =
		k->version == TLS_VERSION_1_3 ? TLS_RECORD_MAX_CIPHER_1_3 : TLS_RECORD_MAX_CIPHER;

	*h = (struct tls_record_header){0, 0};
	if (len < TLS_RECORD_HEADER)
		return 0;
	if (!record_type_allowed(k, buf[0]))
		return record_refuse(alert, TLS_ALERT_UNEXPECTED_MESSAGE);
	return record_peek(buf, len, limit, h, alert);
}

int tls_record_peek_clear(const uint8_t *buf, size_t len, struct tls_record_header *h,
			  uint8_t *alert)
{
	*h = (struct tls_record_header){0, 0};
	if (len < TLS_RECORD_HEADER)
		return 0;
	if (buf[0] < TLS_CONTENT_CHANGE_CIPHER_SPEC || buf[0] > TLS_CONTENT_HANDSHAKE)
		return record_refuse(alert, TLS_ALERT_UNEXPECTED_MESSAGE);
	return record_peek(buf, len, TLS_RECORD_MAX_PLAIN, h, alert);
}

/* Known keys that have a number left. */
static int record_usable(const struct tls_record_keys *k)
{
	return tls_aead_is_known(k->aead) && k->seq != UINT64_MAX &&
	       (k->version == TLS_VERSION_1_2 || k->version == TLS_VERSION_1_3);
}

/* RFC 8446 section 5.4: the type is the last byte that is not zero. */
static int record_inner_type(const uint8_t *plain, size_t *len, uint8_t *type, uint8_t *alert)
{
	size_t n = *len;

	while (n > 0 && plain[n - 1] == 0)
		n--;
	if (n == 0)
		return record_refuse(alert, TLS_ALERT_UNEXPECTED_MESSAGE);
	*type = plain[n - 1];
	*len = n - 1;
	return 0;
}

int tls_record_open(struct tls_record_keys *k, uint8_t *rec, size_t size, uint8_t **plain,
		    size_t *plain_len, uint8_t *type, uint8_t *alert)
{
	int inner = k->version == TLS_VERSION_1_3;
	size_t prefix = TLS_RECORD_HEADER + record_explicit_size(k);
	uint8_t nonce[TLS_AEAD_NONCE];
	uint8_t aad[RECORD_AAD_MAX];
	struct tls_aead_with with = {k->aead, k->key, nonce, aad, 0};
	size_t len;

	*plain = NULL;
	*plain_len = 0;
	if (!record_usable(k))
		return record_refuse(alert, TLS_ALERT_INTERNAL_ERROR);
	if (size < prefix + TLS_AEAD_TAG || size != TLS_RECORD_HEADER + record_length(rec))
		return record_refuse(alert, TLS_ALERT_BAD_RECORD_MAC);
	len = size - prefix - TLS_AEAD_TAG;
	if (len > TLS_RECORD_MAX_PLAIN + (size_t)inner)
		return record_refuse(alert, TLS_ALERT_RECORD_OVERFLOW);
	record_nonce_xor(k, k->seq, nonce);
	if (prefix > TLS_RECORD_HEADER)
		memcpy(nonce + RECORD_SALT, rec + TLS_RECORD_HEADER, RECORD_EXPLICIT);
	with.aad_len = record_aad(k, k->seq, rec, len, aad);
	if (tls_aead_open(&with, rec + prefix, len) != 0)
		return record_refuse(alert, TLS_ALERT_BAD_RECORD_MAC);
	*type = rec[0];
	if (inner && record_inner_type(rec + prefix, &len, type, alert) != 0)
		return -1;
	k->seq++;
	*plain = rec + prefix;
	*plain_len = len;
	return 0;
}

/* Returns where the content begins. */
static uint8_t *record_put_header(uint8_t type, size_t len, uint8_t *out)
{
	*out++ = type;
	*out++ = TLS_VERSION_1_2 >> 8;
	*out++ = TLS_VERSION_1_2 & 0xff;
	*out++ = (uint8_t)(len >> 8);
	*out++ = (uint8_t)len;
	return out;
}

size_t tls_record_put(uint8_t type, const uint8_t *in, size_t len, uint8_t *out)
{
	memcpy(record_put_header(type, len, out), in, len);
	return TLS_RECORD_HEADER + len;
}

size_t tls_record_seal(struct tls_record_keys *k, uint8_t type, const uint8_t *in, size_t len,
		       uint8_t *out)
{
	int inner = k->version == TLS_VERSION_1_3;
	size_t explicit_len = record_explicit_size(k);
	size_t size = explicit_len + len + (size_t)inner + TLS_AEAD_TAG;
	uint8_t nonce[TLS_AEAD_NONCE];
	uint8_t aad[RECORD_AAD_MAX];
	struct tls_aead_with with = {k->aead, k->key, nonce, aad, 0};
	uint8_t *text;
	uint64_t seq;

	if (!record_usable(k) || len > TLS_RECORD_MAX_PLAIN)
		return 0;
	seq = k->seq++;
	text = record_put_header(inner ? TLS_CONTENT_APPLICATION_DATA : type, size, out);
	record_nonce_xor(k, seq, nonce);
	if (explicit_len != 0) {
		record_put64(nonce + RECORD_SALT, record_get64(k->iv + RECORD_SALT) + seq);
		memcpy(text, nonce + RECORD_SALT, RECORD_EXPLICIT);
		text += RECORD_EXPLICIT;
	}
	with.aad_len = record_aad(k, seq, out, len, aad);
	memcpy(text, in, len);
	if (inner)
		text[len] = type;
	if (tls_aead_seal(&with, text, len + (size_t)inner) == 0)
		return TLS_RECORD_HEADER + size;
	OPENSSL_cleanse(text, len + (size_t)inner); /* it may be clear text still */
	return 0;
}
