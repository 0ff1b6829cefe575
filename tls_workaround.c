/* SPDX-License-Identifier: ISC */
#include "tls_workaround.h"

#include "tls_compat.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/ssl.h>

#include <stdio.h>
#include <string.h>

/* ---- the table ---- */

#define NEVER_ENDED (~0UL)

/* A stretch of versions that have a bug: from the first on, before the one that is mended. */
struct versions {
	unsigned long from, before;
};

#define MAX_VERSIONS 5

/*
 * A row without versions has all of them. needed says what the version alone does not; NULL:
 * nothing more. Rows whose workaround is how the module is built, and not a switch, are in the
 * table so that an operator can see what it is for.
 */
struct row {
	const char *id;  /* number in OpenSSL's list of bugs or issues, or of the CVE */
	const char *bug; /* in a few words, for the log */
	struct versions versions[MAX_VERSIONS];
	bool (*needed)(const struct tls_library *library, const struct tls_workaround_wish *wish);
};

static bool wants_compression(const struct tls_library *library,
			      const struct tls_workaround_wish *wish)
{
	(void)library;
	return wish->compression;
}

static bool wants_thresholds(const struct tls_library *library,
			     const struct tls_workaround_wish *wish)
{
	(void)library;
	return wish->thresholds;
}

static bool switches_partly(const struct tls_library *library,
			    const struct tls_workaround_wish *wish)
{
	(void)wish;
	return !library->switches_whole;
}

#define V TLS_OPENSSL_NUMBER

static const struct row rows[TLS_WORKAROUNDS] = {
	/* The library's own option for it has been without effect since 1.1.0. */
	[TLS_WORKAROUND_BLOCK_PADDING] = {"1204", "SSL_OP_TLS_BLOCK_PADDING_BUG with compression",
					  .versions = {{0x00908000UL, TLS_OPENSSL_0_9_8('d')}}},
	/* 1.1.0 has no Kerberos any more. */
	[TLS_WORKAROUND_KERBEROS] = {"1467", "Kerberos with the wrong allocator",
				     .versions = {{0, TLS_OPENSSL_0_9_8('e')}}},
	/* Then: memory of the wrong allocator. Now: no zlib, or one without limits. */
	[TLS_WORKAROUND_COMPRESSION] = {"1468", "zlib compression missing or without limits",
					.needed = wants_compression},
	[TLS_WORKAROUND_LOW_MEMORY] = {"1491", "no recovery from a lack of memory",
				       .needed = wants_thresholds},
	[TLS_WORKAROUND_EXIT] = {"6214", "clean-up at exit while threads run",
				 .versions = {{0, V(4, 0, 0)}}},
	[TLS_WORKAROUND_SWITCH_CONTEXT] = {"6109", "SSL_set_SSL_CTX switches only in part",
					   .needed = switches_partly},
	[TLS_WORKAROUND_DECODER] = {"15199", "decoders are collected anew for each key",
				    .versions = {{V(3, 0, 0), NEVER_ENDED}}},
	[TLS_WORKAROUND_FETCH] = {"17064", "ciphers are fetched anew for each use",
				  .versions = {{V(3, 0, 0), NEVER_ENDED}}},
	[TLS_WORKAROUND_OLD_VERSIONS] = {"10787", "TLS 1.1 and older need security level 0",
					 .versions = {{V(3, 0, 0), NEVER_ENDED}}},
	[TLS_WORKAROUND_RENEGOTIATION] = {"CVE-2021-3449", "crash by renegotiation",
					  .versions = {{0, TLS_OPENSSL_1_1_1('k')}}},
	[TLS_WORKAROUND_OTHER_NAME] = {"CVE-2024-6119", "crash by an otherName in a name check",
				       .versions = {{V(3, 0, 0), V(3, 0, 15)},
						    {V(3, 1, 0), V(3, 1, 7)},
						    {V(3, 2, 0), V(3, 2, 3)},
						    {V(3, 3, 0), V(3, 3, 2)}}},
	[TLS_WORKAROUND_CERT_COMPRESSION] = {"CVE-2025-66199", "memory for compressed certificates",
					     .versions = {{V(3, 2, 0), V(3, 3, 6)},
							  {V(3, 4, 0), V(3, 4, 4)},
							  {V(3, 5, 0), V(3, 5, 5)},
							  {V(3, 6, 0), V(3, 6, 1)}}},
	[TLS_WORKAROUND_LOST_METHOD] = {"31690", "a compression method is not kept",
					.versions = {{V(3, 4, 0), NEVER_ENDED}},
					.needed = wants_compression},
};

static bool is_affected(const struct row *row, unsigned long number)
{
	const struct versions *v = row->versions;

	if (!v->before)
		return true;
	for (; v < row->versions + MAX_VERSIONS && v->before; v++)
		if (number >= v->from && number < v->before)
			return true;
	return false;
}

uint32_t tls_workaround_choose(const struct tls_library *library,
			       const struct tls_workaround_wish *wish)
{
	uint32_t chosen = 0;

	for (unsigned i = 0; i < TLS_WORKAROUNDS; i++)
		if (is_affected(&rows[i], library->number) &&
		    (!rows[i].needed || rows[i].needed(library, wish)))
			chosen |= UINT32_C(1) << i;
	return chosen;
}

/* Set before the first fork, read by everybody. */
static uint32_t enabled = UINT32_MAX;

void tls_workaround_enable(uint32_t chosen)
{
	enabled = chosen;
}

bool tls_workaround_on(enum tls_workaround row)
{
	return enabled & UINT32_C(1) << row;
}

const char *tls_workaround_list(bool why)
{
	static char text[1024];
	size_t len = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < TLS_WORKAROUNDS && len < sizeof(text); i++)
		if (tls_workaround_on(i))
			len += (size_t)snprintf(text + len, sizeof(text) - len,
						why ? "%s%s (%s)" : "%s%s", len ? ", " : "",
						rows[i].id, rows[i].bug);
	return text;
}

/* ---- the library at run time ---- */

static bool has_cipher(const EVP_CIPHER *cipher)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	bool has = ctx && EVP_EncryptInit_ex(ctx, cipher, NULL, NULL, NULL) == 1;

	EVP_CIPHER_CTX_free(ctx);
	return has;
}

/* HKDF and the PRF of TLS 1.2 are made of it. */
static bool has_hmac(const EVP_MD *md)
{
	unsigned char out[EVP_MAX_MD_SIZE];
	unsigned len = 0;

	return HMAC(md, "", 0, (const unsigned char *)"", 0, out, &len) && len > 0;
}

static bool has_prf(void)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_id(EVP_PKEY_TLS1_PRF, NULL);
	bool has = ctx && EVP_PKEY_derive_init(ctx) > 0;

	EVP_PKEY_CTX_free(ctx);
	return has;
}

static void list_missing(char *text, size_t size)
{
	const struct {
		const char *name;
		bool has;
	} needs[] = {
		{"AES-128-GCM", has_cipher(EVP_aes_128_gcm())},
		{"AES-256-GCM", has_cipher(EVP_aes_256_gcm())},
		{"HMAC-SHA256", has_hmac(EVP_sha256())},
		{"HMAC-SHA384", has_hmac(EVP_sha384())},
		{"TLS1-PRF", has_prf()},
	};
	size_t len = 0;

	text[0] = '\0';
	for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]) && len < size; i++)
		if (!needs[i].has)
			len += (size_t)snprintf(text + len, size - len, "%s%s", len ? ", " : "",
						needs[i].name);
	ERR_clear_error();
}

/* Tries it: a connection of one context goes to another with other settings. */
static bool switches_whole(void)
{
	SSL_CTX *from = SSL_CTX_new(TLS_method()), *to = SSL_CTX_new(TLS_method());
	SSL *ssl = from && to ? SSL_new(from) : NULL;
	bool whole = false;

	if (ssl && SSL_CTX_set_min_proto_version(to, TLS1_3_VERSION)) {
		SSL_CTX_set_verify(to, SSL_VERIFY_PEER, NULL);
		SSL_CTX_set_verify_depth(to, 3);
		whole = SSL_set_SSL_CTX(ssl, to) == to &&
			SSL_get_min_proto_version(ssl) == TLS1_3_VERSION &&
			SSL_get_verify_mode(ssl) == SSL_VERIFY_PEER &&
			SSL_get_verify_depth(ssl) == 3;
	}
	SSL_free(ssl);
	SSL_CTX_free(from);
	SSL_CTX_free(to);
	ERR_clear_error();
	return whole;
}

void tls_library_probe(struct tls_library *library)
{
	library->number = OpenSSL_version_num();
	library->text = OpenSSL_version(OPENSSL_VERSION);
	library->switches_whole = switches_whole();
	library->has_zlib = sk_SSL_COMP_num(SSL_COMP_get_compression_methods()) > 0;
	list_missing(library->missing, sizeof(library->missing));
}

#define AT_OWN_RISK "or set tls_force_run to start at your own risk"

void tls_workaround_check(const struct tls_library *library, bool force, struct tls_report *report)
{
	void (*say)(struct tls_report *, const char *, ...) =
		force ? tls_report_warning : tls_report_error;
	const char *what = force ? "going on because tls_force_run is set" : NULL;

	if (TLS_OPENSSL_LINE(library->number) != TLS_OPENSSL_LINE(TLS_BUILD_OPENSSL_NUMBER))
		say(report, "the OpenSSL library is %s but the module was compiled with %s: %s",
		    library->text, TLS_BUILD_OPENSSL_TEXT,
		    what ? what : "compile it again on this machine, " AT_OWN_RISK);
	if (library->missing[0])
		say(report,
		    "the OpenSSL library, %s, lacks %s, which the module, compiled with %s, "
		    "relies on: %s",
		    library->text, library->missing, TLS_BUILD_OPENSSL_TEXT,
		    what ? what
			 : "install a library that has it, look for providers that openssl.cnf "
			   "turns off, " AT_OWN_RISK);
}
