/* SPDX-License-Identifier: ISC */
/*
 * Stamps: digests by which a domain is the same as one before it, or as one of another machine.
 * Engine process only; any thread.
 */
#ifndef TLS_STAMP_H
#define TLS_STAMP_H

#include "tls_address.h"
#include "tls_digest.h"
#include "tls_params.h"

#include <stdbool.h>
#include <stdint.h>

#define TLS_STAMP_SIZE 32 /* SHA-256 */

/*
 * Of everything that the SSL_CTX of the domain of that name depends on: equal stamps, equal
 * contexts. Files, whose relative names start from dir, count by what tells that they are the same
 * (inode, size, times). *settled tells whether none is so new that it may change again without a
 * difference in its times. Returns false without memory.
 */
bool tls_stamp_settings(const char *dir, const char *name, const struct tls_settings *s,
			uint8_t digest[TLS_STAMP_SIZE], bool *settled);

/*
 * Of what a session that is resumed was judged by: with other rules it must not be. Nothing in it
 * is of one machine only (addresses, names of files), so that others with the same rules agree;
 * files count by their content. Returns false without memory.
 */
bool tls_stamp_rules(const char *dir, const struct cfg_group_tls *cfg, enum tls_role role,
		     const struct tls_settings *s, struct tls_digest_cache *digests,
		     uint8_t digest[TLS_STAMP_SIZE]);

#endif
