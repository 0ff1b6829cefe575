/* SPDX-License-Identifier: ISC */
/*
 * A provider for OpenSSL 3 (provider(7)) with two algorithms, the key schedule of TLS 1.3 (RFC 8446
 * section 7.1) and the PRF of older versions (RFC 5246 section 5): libssl then derives through this
 * file, which sees the secrets of application traffic as they come into being. Without it they can
 * only be had from the key log, as text that takes as long to write as a signature, and each
 * derivation looks its hash up anew.
 *
 * Engine process only.
 */
#ifndef TLS_PROVIDER_H
#define TLS_PROVIDER_H

#include "tls_kdf.h"

#include <openssl/ssl.h>

#include <stdbool.h>

/* Secrets of TLS 1.3. Each length is 0 until what it belongs to is known. Owner: the session, which
 * wipes them. */
struct tls_provider_secrets {
	/* Of application traffic; both are known when the handshake is done. */
	uint8_t client[TLS_HASH_MAX], server[TLS_HASH_MAX];
	size_t len;
	/* Of the client's handshake messages, and the hash of all messages up to the server's
	 * Finished: known to this provider only. */
	uint8_t client_handshake[TLS_HASH_MAX], transcript[TLS_HASH_MAX];
	size_t handshake_len, transcript_len;
	/* What tickets are derived from, likewise: resumption_master_secret. */
	uint8_t resumption[TLS_HASH_MAX];
	size_t resumption_len;
};

/*
 * Makes the provider known, once, before the first SSL_CTX. Returns false if OpenSSL will not use
 * it: before version 3, with a FIPS provider, when its configuration demands another one, or when
 * it computes something else than OpenSSL's own does. The key log has to do then.
 */
bool tls_provider_install(void);

/* SSL_CTX_new() for contexts that use the provider, if it was installed. */
SSL_CTX *tls_provider_ssl_ctx(const SSL_METHOD *method);

/* Notes the secrets that the calling thread derives from now on; NULL: no longer. */
void tls_provider_watch(struct tls_provider_secrets *secrets);

#endif
