/* SPDX-License-Identifier: ISC */
/*
 * The only place that names a version of OpenSSL or of the host: what the
 * versions differ in becomes a capability here, and missing functions get
 * their newer name.
 */
#ifndef TLS_COMPAT_H
#define TLS_COMPAT_H

#include <openssl/opensslv.h>

#if OPENSSL_VERSION_NUMBER < 0x10101000L
#error "OpenSSL 1.1.1 or newer is required"
#endif

/* Decoders that can be kept from one key to the next. */
#define TLS_HAVE_DECODER (OPENSSL_VERSION_NUMBER >= 0x30000000L)

/* The library that this module was compiled against, for the start-up check. */
#define TLS_BUILD_OPENSSL_NUMBER ((unsigned long)OPENSSL_VERSION_NUMBER)
#define TLS_BUILD_OPENSSL_TEXT   OPENSSL_VERSION_TEXT

/* Releases of one line with one number here promise each other's ABI: major and minor since
 * 3.0 (the third number is the patch level), major, minor and fix before. */
#define TLS_OPENSSL_LINE(number)                                                                   \
	((number) >= 0x30000000UL ? (unsigned long)(number)&0xfff00000UL                           \
				  : (unsigned long)(number)&0xfffff000UL)

#endif
