/* SPDX-License-Identifier: ISC */
/*
 * Digests of what files contain, so that one machine's are another's, each made once however many
 * domains name the file. Engine process only; threads may share a cache.
 */
#ifndef TLS_DIGEST_H
#define TLS_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TLS_DIGEST_SIZE 32 /* SHA-256 */

struct tls_digest_cache;

/* A cache for at most count files. Returns NULL without memory. */
struct tls_digest_cache *tls_digest_cache_new(size_t count);
void tls_digest_cache_free(struct tls_digest_cache *cache); /* NULL is fine */

/*
 * The digest of a file's content, or of the names and contents of a directory's files that are not
 * hidden. Of what cannot be read it is that of nothing. state tells the file as it is now from the
 * same file once it has changed (a digest of its identity, size and times). Returns false only
 * without memory.
 */
bool tls_digest_of(struct tls_digest_cache *cache, const char *path,
		   const uint8_t state[TLS_DIGEST_SIZE], uint8_t digest[TLS_DIGEST_SIZE]);

#endif
