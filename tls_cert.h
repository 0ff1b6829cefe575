/* SPDX-License-Identifier: ISC */
/*
 * Certificates of connections, in DER, in the host's shared memory: each is
 * kept once, however many connections have it (our own; a carrier's). They
 * are counted, never change, and can be given back by any process in any
 * state, with the host's own locks held.
 */
#ifndef TLS_CERT_H
#define TLS_CERT_H

#include <stddef.h>
#include <stdint.h>

#define TLS_CERT_DIGEST 32 /* SHA-256 */

/* Owner: its references. next and refs are guarded by the table's lock. */
struct tls_cert {
	struct tls_cert *next;
	unsigned refs;
	uint32_t len;
	uint8_t digest[TLS_CERT_DIGEST]; /* of der */
	uint8_t der[];
};

/* A chain without its end entity: what verified the peer's certificate, its issuer first. Owner:
 * whoever made it; holds a reference to each. */
struct tls_cert_chain {
	uint32_t count;
	struct tls_cert *cert[];
};

/* Makes the table in shared memory. Returns 0, or -1 without memory. From mod_init. */
int tls_cert_init(void);
/* Frees the table's lock, when all other processes are gone: one of them may have held it. */
void tls_cert_free_lock(void);
/* After the last reference was given back. */
void tls_cert_destroy(void);

/* A reference to the certificate with these bytes, or NULL without memory. */
struct tls_cert *tls_cert_get(const uint8_t *der, size_t len);
/* NULL is fine. */
void tls_cert_put(struct tls_cert *cert);

/* Room for count certificates, none of them there yet. Returns NULL without memory. */
struct tls_cert_chain *tls_cert_chain_new(uint32_t count);
/* NULL is fine. */
void tls_cert_chain_free(struct tls_cert_chain *chain);

#endif
