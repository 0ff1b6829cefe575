/* SPDX-License-Identifier: ISC */
#include "tls_kdf.h"

#include <openssl/crypto.h>

#include <stdbool.h>
#include <string.h>

#define MAX_LABEL 255
#define MAX_INFO  (2 + 1 + MAX_LABEL + 1 + MAX_LABEL)

static enum tls_hash hash_of(uint8_t hash)
{
	return hash == TLS_PRF_SHA384 ? TLS_HASH_SHA384 : TLS_HASH_SHA256;
}

size_t tls_kdf_hash_size(uint8_t hash)
{
	return hash == TLS_PRF_SHA256 || hash == TLS_PRF_SHA384 ? tls_hash_size(hash_of(hash)) : 0;
}

int tls_kdf_hmac(uint8_t hash, struct tls_bytes key, struct tls_bytes data, uint8_t *out)
{
	return tls_kdf_hash_size(hash) != 0 && tls_hash_hmac(hash_of(hash), key, &data, 1, out)
		       ? 0
		       : -1;
}

int tls_kdf_hash(uint8_t hash, const struct tls_bytes *pieces, size_t count, uint8_t *out)
{
	return tls_kdf_hash_size(hash) != 0 && tls_hash_digest(hash_of(hash), pieces, count, out)
		       ? 0
		       : -1;
}

/* struct HkdfLabel of RFC 8446 section 7.1. Returns its bytes. */
static size_t write_info(uint8_t *to, struct tls_bytes label, struct tls_bytes context, size_t len)
{
	uint8_t *at = to;

	*at++ = (uint8_t)(len >> 8);
	*at++ = (uint8_t)len;
	*at++ = (uint8_t)label.len;
	if (label.len > 0)
		memcpy(at, label.data, label.len);
	at += label.len;
	*at++ = (uint8_t)context.len;
	if (context.len > 0)
		memcpy(at, context.data, context.len);
	return (size_t)(at - to) + context.len;
}

int tls_kdf_expand_label(uint8_t hash, struct tls_bytes secret, struct tls_bytes label,
			 struct tls_bytes context, uint8_t *out, size_t len)
{
	size_t size = tls_kdf_hash_size(hash), done = 0;
	uint8_t block[TLS_HASH_MAX], info[MAX_INFO], number = 0;
	struct tls_bytes pieces[] = {{block, 0}, {info, 0}, {&number, 1}};
	bool ok = size != 0 && label.len <= MAX_LABEL && context.len <= MAX_LABEL &&
		  len <= 255 * size;

	if (ok)
		pieces[1].len = write_info(info, label, context, len);
	while (ok && done < len) { /* RFC 5869 section 2.3 */
		size_t part = len - done < size ? len - done : size;

		number++;
		ok = tls_hash_hmac(hash_of(hash), secret, pieces, 3, block);
		if (ok)
			memcpy(out + done, block, part);
		pieces[0].len = size;
		done += part;
	}
	OPENSSL_cleanse(block, sizeof(block));
	return ok ? 0 : -1;
}

int tls_kdf_finished(uint8_t hash, const uint8_t *secret, const uint8_t *transcript, uint8_t *out)
{
	static const char label[] = "tls13 finished";
	size_t size = tls_kdf_hash_size(hash);
	uint8_t key[TLS_HASH_MAX];
	struct tls_bytes messages = {transcript, size};
	bool ok = tls_kdf_expand_label(hash, (struct tls_bytes){secret, size},
				       (struct tls_bytes){label, sizeof(label) - 1},
				       (struct tls_bytes){NULL, 0}, key, size) == 0 &&
		  tls_hash_hmac(hash_of(hash), (struct tls_bytes){key, size}, &messages, 1, out);

	OPENSSL_cleanse(key, sizeof(key));
	return ok ? 0 : -1;
}

/* Adds P_hash(secret, seed) of RFC 5246 section 5 to out, bit by bit without carry. */
static bool add_p_hash(enum tls_hash hash, struct tls_bytes secret, struct tls_bytes seed,
		       uint8_t *out, size_t len)
{
	uint8_t a[TLS_HASH_MAX], block[TLS_HASH_MAX];
	size_t size = tls_hash_size(hash);
	struct tls_bytes pieces[] = {{a, size}, seed};
	bool ok = tls_hash_hmac(hash, secret, &seed, 1, a);

	for (size_t done = 0; ok && done < len; done += size) {
		ok = tls_hash_hmac(hash, secret, pieces, 2, block);
		for (size_t i = 0; ok && i < size && done + i < len; i++)
			out[done + i] ^= block[i];
		if (ok && done + size < len)
			ok = tls_hash_hmac(hash, secret, pieces, 1, a);
	}
	OPENSSL_cleanse(a, sizeof(a));
	OPENSSL_cleanse(block, sizeof(block));
	return ok;
}

int tls_kdf_prf(uint8_t hash, struct tls_bytes secret, struct tls_bytes seed, uint8_t *out,
		size_t len)
{
	size_t half = (secret.len + 1) / 2; /* RFC 4346 section 5: they may share a byte */
	struct tls_bytes first = {secret.data, half};
	struct tls_bytes second = {(const uint8_t *)secret.data + secret.len - half, half};
	bool ok;

	memset(out, 0, len);
	if (hash == TLS_PRF_MD5_SHA1)
		ok = add_p_hash(TLS_HASH_MD5, first, seed, out, len) &&
		     add_p_hash(TLS_HASH_SHA1, second, seed, out, len);
	else
		ok = tls_kdf_hash_size(hash) != 0 &&
		     add_p_hash(hash_of(hash), secret, seed, out, len);
	return ok ? 0 : -1;
}
