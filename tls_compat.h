/* SPDX-License-Identifier: ISC */
/*
 * The only place that names a version of OpenSSL or of the host: what the
 * versions differ in becomes a capability here, and missing functions get
 * their newer name.
 */
#ifndef TLS_COMPAT_H
#define TLS_COMPAT_H

#include <openssl/e_os2.h>
#include <openssl/evp.h>
#include <openssl/opensslv.h>

#include <stdbool.h>
#include <stddef.h>
#include <features.h>
#include <stdint.h>
#include <sys/types.h> /* for ossl_ssize_t: OpenSSL 3.2 and 3.3 do not include it */

#if OPENSSL_VERSION_NUMBER < 0x10101000L
#error "OpenSSL 1.1.1 or newer is required"
#endif

/* Decoders that can be kept from one key to the next. */
#define TLS_HAVE_DECODER (OPENSSL_VERSION_NUMBER >= 0x30000000L)

/* OpenSSL's version numbers: 0xMNN00PP0 since 3.0; before that 0xMNNFFPPf, PP counting the letters.
 */
#define TLS_OPENSSL_NUMBER(major, minor, patch)                                                    \
	((unsigned long)(major) << 28 | (unsigned long)(minor) << 20 | (unsigned long)(patch) << 4)
#define TLS_OPENSSL_1_1_1(letter) (0x1010100fUL + ((unsigned long)((letter) - 'a' + 1) << 4))
#define TLS_OPENSSL_0_9_8(letter) (0x0090800fUL + ((unsigned long)((letter) - 'a' + 1) << 4))

/* 4.0 gives a certificate's names as const; 1.1.1 takes them only without. */
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
typedef const X509_NAME tls_cert_name;
#else
typedef X509_NAME tls_cert_name;
#endif

/* "EC", "RSA", "ED25519", "ML-DSA-65". A key that only a provider knows has no number. */
static inline const char *tls_key_type(const EVP_PKEY *key)
{
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
	const char *name = EVP_PKEY_get0_type_name(key);

	return name ? name : "unknown";
#else
	int type = EVP_PKEY_base_id(key);

	return type == EVP_PKEY_EC ? "EC" : type == EVP_PKEY_RSA ? "RSA" : OBJ_nid2sn(type);
#endif
}

/* Seconds from now until t, less than 0 after it. Returns false, and leaves *left, if t is no time.
 */
static inline bool tls_time_left(const ASN1_TIME *t, int64_t *left)
{
	int days, seconds;

	if (!ASN1_TIME_diff(&days, &seconds, NULL, t))
		return false;
	*left = (int64_t)days * 86400 + seconds;
	return true;
}

/* -1 for a time in the past or now, 1 for one to come, 0 for none at all: like
 * X509_cmp_current_time(), which 4.0 deprecates, but for any form of a time. */
static inline int tls_time_compare(const ASN1_TIME *t)
{
	int64_t left;

	if (!tls_time_left(t, &left))
		return 0;
	return left > 0 ? 1 : -1;
}

/* Options that only newer versions have; what they turn off is not there before. */
#if OPENSSL_VERSION_NUMBER >= 0x30200000L
#define TLS_OP_NO_RX_CERTIFICATE_COMPRESSION SSL_OP_NO_RX_CERTIFICATE_COMPRESSION
#else
#define TLS_OP_NO_RX_CERTIFICATE_COMPRESSION 0
#endif

/* Session tickets are authenticated through EVP_MAC, not HMAC_CTX. */
#define TLS_HAVE_EVP_MAC (OPENSSL_VERSION_NUMBER >= 0x30000000L)

/* Algorithms come from providers, and anybody can write one. */
#define TLS_HAVE_PROVIDERS (OPENSSL_VERSION_NUMBER >= 0x30000000L)

/* SSL_COMP_add_compression_method() keeps the number only (issue 31690 of OpenSSL). */
#define TLS_COMP_METHOD_IS_LOST (OPENSSL_VERSION_NUMBER >= 0x30400000L)

/* How the functions of a compression method tell sizes. */
#if OPENSSL_VERSION_NUMBER >= 0x30200000L
typedef size_t tls_comp_size;
typedef ossl_ssize_t tls_comp_result;
#else
typedef unsigned int tls_comp_size;
typedef int tls_comp_result;
#endif

/* The host asks whether a connection may be used again for what a route wants. */
#define TLS_HAVE_MATCH_HOOKS (VERSIONVAL >= 6001000)

/* The library that this module was compiled against, for the start-up check. */
#define TLS_BUILD_OPENSSL_NUMBER ((unsigned long)OPENSSL_VERSION_NUMBER)
#define TLS_BUILD_OPENSSL_TEXT   OPENSSL_VERSION_TEXT

/* Releases of one line with one number here promise each other's ABI: major and minor since
 * 3.0 (the third number is the patch level), major, minor and fix before. */
#define TLS_OPENSSL_LINE(number)                                                                   \
	((number) >= 0x30000000UL ? (unsigned long)(number)&0xfff00000UL                           \
				  : (unsigned long)(number)&0xfffff000UL)

/* Bytes of the C library's heap that are in use, all arenas together; 0 where it does not tell. */
#if defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 33)
#include <malloc.h>
#define TLS_HAVE_MALLINFO2
#endif
#endif

static inline uint64_t tls_heap_in_use(void)
{
#ifdef TLS_HAVE_MALLINFO2
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd;
#else
	return 0;
#endif
}

#endif
