/* SPDX-License-Identifier: ISC */
/*
 * OCSP stapling (RFC 6960, RFC 6066 section 8): responses about our own certificates from files,
 * sent to clients that ask while they are up to date. Engine process only.
 */
#ifndef TLS_OCSP_H
#define TLS_OCSP_H

#include "tls_build.h"

/* A response and what it is for. All borrowed for the call. */
struct tls_ocsp_source {
	const char *path; /* of the DER file */
	const struct tls_place *place;
	const char *name; /* of the setting */
	X509 *cert;
};

/*
 * Reads a response and, if it is one about the certificate, made by its issuer (or whom that has
 * authorised), and says that it is good, has the context's connections send it in its time.
 * Certificates and the CA store must be in the context already. Reports anything else as an
 * error, and a time that is over or has not come as a warning.
 */
void tls_ocsp_build(struct tls_build *b, const struct tls_ocsp_source *source);

#endif
