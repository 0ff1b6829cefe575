/* SPDX-License-Identifier: ISC */
/*
 * tls_kdf.c, with stand-ins for the functions of tls_hash.c that it calls: they count their calls,
 * one of these fails when told to, and they note where a hash is written to. Included once, in
 * place of tls_kdf.h.
 */
#ifndef TEST_UNIT_KDF_CALLS_H
#define TEST_UNIT_KDF_CALLS_H

#include "helper.h"
#include "tls_hash.h"

/* The calls of this thread, and the number of the one that fails; 0: none. */
static __thread int calls, call_fails;
/* Told where a key for HMAC is, and where the HMAC is written to. */
static void (*note_hmac)(const void *at, size_t len);

static bool call_may_succeed(void)
{
	calls++;
	if (call_fails == 0 || --call_fails != 0)
		return true;
	raise_error();
	return false;
}

static bool counted_digest(enum tls_hash hash, const struct tls_bytes *pieces, size_t count,
			   uint8_t *out)
{
	return call_may_succeed() && tls_hash_digest(hash, pieces, count, out);
}

/* One that fails may have written all the same. */
static bool counted_hmac(enum tls_hash hash, struct tls_bytes key, const struct tls_bytes *pieces,
			 size_t count, uint8_t *out)
{
	bool ok = tls_hash_hmac(hash, key, pieces, count, out);

	if (note_hmac) {
		note_hmac(key.data, key.len);
		note_hmac(out, tls_hash_size(hash));
	}
	return call_may_succeed() && ok;
}

#define tls_hash_digest counted_digest
#define tls_hash_hmac   counted_hmac
#include "tls_kdf.c"
#undef tls_hash_digest
#undef tls_hash_hmac

#endif
