/* SPDX-License-Identifier: ISC */
/*
 * What EVP calls in the end: the functions that a provider has for an algorithm. To call them
 * without EVP is worth it where much else happens between two calls, since EVP's own code and data
 * have left the processor's caches by then.
 *
 * Any process; where OpenSSL has providers. Who finds functions has to compare them with EVP, or
 * with a known answer, before they are used, and has to keep an object of EVP that keeps the
 * provider.
 */
#ifndef TLS_DISPATCH_H
#define TLS_DISPATCH_H

#include "tls_compat.h"

#include <stdbool.h>
#include <stddef.h>

/* The way to an algorithm of libcrypto. */
enum tls_way {
	TLS_WAY_UNKNOWN, /* not looked for */
	TLS_WAY_EVP,
	TLS_WAY_PROVIDER,
};

#if TLS_HAVE_PROVIDERS

#include <openssl/core.h>

/* One function that is wanted: OSSL_FUNC_..., and where in a struct its pointer belongs. A list of
 * them ends with zeros. */
struct tls_dispatch {
	int function_id;
	size_t at;
};

/*
 * Fills a struct with the functions that the provider has for the algorithm of that name in an
 * operation (OSSL_OP_...). Returns false, and may have filled a part, if one is missing, if the
 * provider does not let its functions be kept, or if it has no such algorithm or more than one:
 * then there is no telling which of them EVP uses.
 */
bool tls_dispatch_find(const OSSL_PROVIDER *provider, int operation, const char *name,
		       const struct tls_dispatch *wanted, void *functions);

#endif

#endif
