/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_protocol.h"

#include "tls_compat.h"
#include "tls_pem.h"
#include "tls_workaround.h"

#include <openssl/err.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* RFC 9325 sections 4.1 and 4.2: forward secret key exchange and AEAD, without finite fields. */
#define TLS_STRONG_CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20"
/* For TLS 1.1 and older, whose security level is set apart. */
#define TLS_OLD_CIPHERS "DEFAULT"

#define ITEM_TEXT  128 /* of a list, in a message */
#define SEPARATORS ":, \t"

/* What an SSL_CTX cannot hold by itself. Owner: the SSL_CTX; never changes once that is built. */
struct extra {
	char *groups;  /* what tls_protocol_enter() gives; NULL: the library's */
	uint8_t *alpn; /* as on the wire: each name after a byte that is its length (RFC 7301) */
	size_t alpn_len;
};

static int extra_index = -1;
static CRYPTO_ONCE extra_once = CRYPTO_ONCE_STATIC_INIT;

static void free_extra(void *parent, void *ptr, CRYPTO_EX_DATA *data, int index, long argl,
		       void *argp)
{
	struct extra *extra = ptr;

	(void)parent;
	(void)data;
	(void)index;
	(void)argl;
	(void)argp;
	if (!extra)
		return;
	OPENSSL_free(extra->groups);
	OPENSSL_free(extra->alpn);
	OPENSSL_free(extra);
}

static void make_extra_index(void)
{
	extra_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_extra);
}

/* The context's, made when it is needed for the first time; NULL without memory. */
static struct extra *extra_of(SSL_CTX *ctx)
{
	struct extra *extra;

	CRYPTO_THREAD_run_once(&extra_once, make_extra_index);
	extra = SSL_CTX_get_ex_data(ctx, extra_index);
	if (extra)
		return extra;
	extra = OPENSSL_zalloc(sizeof(*extra));
	if (extra && SSL_CTX_set_ex_data(ctx, extra_index, extra))
		return extra;
	OPENSSL_free(extra);
	return NULL;
}

static void say_text(struct tls_build *b, const struct tls_place *place, const char *name,
		     const char *format, ...) __attribute__((format(printf, 4, 5)));
static void say_text(struct tls_build *b, const struct tls_place *place, const char *name,
		     const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	tls_build_say(b, tls_report_error, place, name, text);
}

static void say_unknown(struct tls_build *b, const struct tls_place *place, const char *name,
			const char *kind, const char *item)
{
	say_text(b, place, name, "'%.*s' is no %s that %s knows or allows", ITEM_TEXT, item, kind,
		 OpenSSL_version(OPENSSL_VERSION));
}

/* ---- versions ---- */

/* min_version and max_version narrow what method accepts; they never add to it. */
static void narrow_versions(struct tls_build *b)
{
	const struct tls_settings *s = b->settings;
	int low = s->min_version ? tls_param_version(s->min_version) : b->min;
	int high = s->max_version ? tls_param_version(s->max_version) : b->max;

	if (s->min_version && (low < b->min || (b->max && low > b->max))) {
		SAY_ERROR(b, min_version, "%s is not among the versions of method %s",
			  s->min_version, s->method);
	} else if (s->max_version && (high < b->min || (b->max && high > b->max))) {
		SAY_ERROR(b, max_version, "%s is not among the versions of method %s",
			  s->max_version, s->method);
	} else if (high && low > high) {
		SAY_ERROR(b, max_version, "%s is below min_version %s", s->max_version,
			  s->min_version);
	} else {
		b->min = low;
		b->max = high;
	}
}

/* Versions below TLS 1.2 hash with MD5 and SHA-1 together, which a FIPS provider lacks. */
static bool library_has_old_versions(void)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	bool has = md && EVP_DigestInit_ex(md, EVP_get_digestbyname(SN_md5_sha1), NULL) == 1;

	EVP_MD_CTX_free(md);
	ERR_clear_error();
	return has;
}

#define NO_OLD_VERSIONS "not supported by %s: it has no MD5-SHA1"

/* max_version if that leaves nothing but old versions, else method. */
static void say_only_old(struct tls_build *b, const struct tls_method *method)
{
	const char *library = OpenSSL_version(OPENSSL_VERSION);

	if (method->max && method->max < TLS1_2_VERSION)
		SAY_ERROR(b, method, "%s is " NO_OLD_VERSIONS, method->name, library);
	else
		SAY_ERROR(b, max_version, "%s and what is below are " NO_OLD_VERSIONS,
			  b->settings->max_version, library);
}

static void check_old_versions(struct tls_build *b, const struct tls_method *method)
{
	if (library_has_old_versions()) {
		SAY_WARNING(b, method,
			    "%s accepts versions below TLS 1.2, which are not secure (RFC 8996)",
			    method->name);
	} else if (b->max && b->max < TLS1_2_VERSION) {
		say_only_old(b, method);
	} else {
		SAY_WARNING(b, method, "of %s, versions below TLS 1.2 are " NO_OLD_VERSIONS,
			    method->name, OpenSSL_version(OPENSSL_VERSION));
		b->min = TLS1_2_VERSION;
		SSL_CTX_set_min_proto_version(b->ctx, b->min);
	}
}

void tls_protocol_build_versions(struct tls_build *b)
{
	const struct tls_method *method = tls_param_method(b->settings->method);

	b->min = method->min;
	b->max = method->max;
	narrow_versions(b);
	if (method->min == SSL2_VERSION || !SSL_CTX_set_min_proto_version(b->ctx, b->min) ||
	    !SSL_CTX_set_max_proto_version(b->ctx, b->max)) {
		SAY_ERROR(b, method, "%s is not supported by %s", method->name,
			  OpenSSL_version(OPENSSL_VERSION));
		ERR_clear_error();
		return;
	}
	if (b->min < TLS1_2_VERSION)
		check_old_versions(b, method);
}

/* ---- cipher suites and security level ---- */

/* Splits the list into TLS 1.3 suites, whose names begin with TLS_, and the rest. */
static int split_ciphers(const char *list, char **suites, char **ciphers)
{
	size_t size = strlen(list) + 2;
	char *copy = strdup(list), *save = NULL, *item;

	*suites = calloc(1, size);
	*ciphers = calloc(1, size);
	if (!copy || !*suites || !*ciphers) {
		free(copy);
		return -1;
	}
	for (item = strtok_r(copy, ":, ", &save); item; item = strtok_r(NULL, ":, ", &save)) {
		char *to = strncmp(item, "TLS_", 4) == 0 ? *suites : *ciphers;
		size_t len = strlen(to);

		snprintf(to + len, size - len, "%s%s", len ? ":" : "", item);
	}
	free(copy);
	return 0;
}

/* OpenSSL passes over names that it does not know; a typing error must not weaken a list. */
static bool check_cipher_names(struct tls_build *b, const struct tls_place *place, const char *name,
			       const char *list, int (*set)(SSL_CTX *ctx, const char *list))
{
	char *copy = strdup(list), *save = NULL, *item;
	bool known = copy != NULL;

	for (item = copy ? strtok_r(copy, ":", &save) : NULL; known && item;
	     item = strtok_r(NULL, ":", &save)) {
		if (strchr("!-+@", item[0])) /* takes away or orders */
			continue;
		known = set(b->ctx, item) == 1;
		if (!known)
			say_unknown(b, place, name, "suite", item);
	}
	ERR_clear_error();
	free(copy);
	return known;
}

/* A list of TLS 1.3 suites alone leaves nothing for older versions. */
static void only_tls_1_3(struct tls_build *b)
{
	if (b->max && b->max < TLS1_3_VERSION) {
		SAY_ERROR(b, cipher_list, "'%s' names suites of TLS 1.3 only, but method is %s",
			  b->settings->cipher_list, b->settings->method);
		return;
	}
	b->min = TLS1_3_VERSION;
	SSL_CTX_set_min_proto_version(b->ctx, b->min);
}

/* Sets one suite of TLS 1.3; OpenSSL drops those whose cipher no provider has without a word. */
static int set_suite(SSL_CTX *ctx, const char *suite)
{
	STACK_OF(SSL_CIPHER) *all =
		SSL_CTX_set_ciphersuites(ctx, suite) == 1 ? SSL_CTX_get_ciphers(ctx) : NULL;

	for (int i = 0; i < sk_SSL_CIPHER_num(all); i++)
		if (strcmp(SSL_CIPHER_get_name(sk_SSL_CIPHER_value(all, i)), suite) == 0)
			return 1;
	return 0;
}

static void apply_suites(struct tls_build *b, const struct tls_place *place, const char *name,
			 const char *list)
{
	if (check_cipher_names(b, place, name, list, set_suite) &&
	    !SSL_CTX_set_ciphersuites(b->ctx, list))
		say_text(b, place, name, "'%.*s': %s", ITEM_TEXT, list, tls_pem_openssl_reason());
}

static void apply_ciphers(struct tls_build *b, const char *suites, const char *ciphers)
{
	const struct tls_settings_places *places = b->input->places;

	if (!suites[0] && !ciphers[0])
		SAY_ERROR(b, cipher_list, "it names no cipher suite");
	if (suites[0] && b->settings->ciphersuites)
		SAY_WARNING(b, cipher_list,
			    "its suites of TLS 1.3 have no effect: ciphersuites is set");
	else if (suites[0])
		apply_suites(b, &places->cipher_list, "cipher_list", suites);
	if (suites[0] && !ciphers[0])
		only_tls_1_3(b);
	else if (!suites[0] && !b->settings->ciphersuites && b->min >= TLS1_3_VERSION)
		SAY_WARNING(b, cipher_list,
			    "it has no effect: only TLS 1.3 is accepted, and it names no suite of "
			    "that, which begin with TLS_");
	if (ciphers[0] &&
	    check_cipher_names(b, &places->cipher_list, "cipher_list", ciphers,
			       SSL_CTX_set_cipher_list) &&
	    !SSL_CTX_set_cipher_list(b->ctx, ciphers))
		SAY_ERROR(b, cipher_list, "'%s': %s", ciphers, tls_pem_openssl_reason());
}

static void apply_cipher_list(struct tls_build *b, const char *list)
{
	char *suites = NULL, *ciphers = NULL;

	if (split_ciphers(list, &suites, &ciphers) == 0)
		apply_ciphers(b, suites, ciphers);
	else
		SAY_ERROR(b, cipher_list, "out of memory");
	free(suites);
	free(ciphers);
}

/* Suites of TLS 1.3 alone, in any of the forms that a list of suites may have. */
static void apply_ciphersuites(struct tls_build *b, const char *list)
{
	char *suites = NULL, *ciphers = NULL;

	if (split_ciphers(list, &suites, &ciphers) != 0)
		SAY_ERROR(b, ciphersuites, "out of memory");
	else if (ciphers[0] || !suites[0])
		SAY_ERROR(b, ciphersuites,
			  "'%.*s' is no suite of TLS 1.3: their names begin with TLS_", ITEM_TEXT,
			  ciphers);
	else
		apply_suites(b, &b->input->places->ciphersuites, "ciphersuites", suites);
	if (b->max && b->max < TLS1_3_VERSION)
		SAY_WARNING(b, ciphersuites, "it has no effect: TLS 1.3 is not accepted");
	free(suites);
	free(ciphers);
}

static bool list_has_level(const char *list)
{
	return list && strstr(list, "@SECLEVEL=");
}

static void apply_level(struct tls_build *b)
{
	const struct tls_settings *s = b->settings;
	/* TLS 1.1 and older sign with SHA-1 and MD5. */
	int old_level = tls_workaround_on(TLS_WORKAROUND_OLD_VERSIONS) ? 0 : 1;

	if (list_has_level(s->cipher_list)) {
		if (s->security_level >= 0)
			SAY_ERROR(b, security_level,
				  "the @SECLEVEL in cipher_list says it already");
		return;
	}
	if (s->security_level >= 0) {
		SSL_CTX_set_security_level(b->ctx, s->security_level);
		if (b->min < TLS1_2_VERSION && s->security_level > old_level)
			SAY_WARNING(b, security_level,
				    "TLS 1.1 and older do not work with this level, but with %d",
				    old_level);
	} else if (b->min < TLS1_2_VERSION) {
		SSL_CTX_set_security_level(b->ctx, old_level);
	}
}

void tls_protocol_build_ciphers(struct tls_build *b)
{
	const struct tls_settings *s = b->settings;
	bool old = b->min < TLS1_2_VERSION;

	apply_level(b);
	if (s->cipher_list)
		apply_cipher_list(b, s->cipher_list);
	else if (!SSL_CTX_set_cipher_list(b->ctx, old ? TLS_OLD_CIPHERS : TLS_STRONG_CIPHERS))
		SAY_ERROR(b, cipher_list, "cannot set the default: %s", tls_pem_openssl_reason());
	if (s->ciphersuites)
		apply_ciphersuites(b, s->ciphersuites);
}

/* ---- groups and signature algorithms ---- */

static bool set_groups(SSL *ssl, const char *list)
{
	return SSL_set1_groups_list(ssl, list) == 1;
}

static bool set_signatures(SSL *ssl, const char *list)
{
	return SSL_set1_sigalgs_list(ssl, list) == 1;
}

/*
 * Takes a list apart, tries each name on a connection, and puts the list together as OpenSSL wants
 * it. A name with a '?' before it is left out if the library does not know it. Returns text of
 * OPENSSL_malloc(), or NULL when a problem was told.
 */
static char *known_names(struct tls_build *b, const struct tls_place *place, const char *name,
			 const char *kind, const char *list, bool (*set)(SSL *, const char *))
{
	size_t size = strlen(list) + 2, len = 0;
	char *copy = strdup(list), *known = OPENSSL_zalloc(size), *save = NULL;
	SSL *ssl = SSL_new(b->ctx);
	unsigned errors = b->report->errors;
	bool ok = copy && known && ssl;

	for (char *item = ok ? strtok_r(copy, SEPARATORS, &save) : NULL; item;
	     item = strtok_r(NULL, SEPARATORS, &save)) {
		bool optional = item[0] == '?';

		item += optional;
		if (set(ssl, item))
			len += (size_t)snprintf(known + len, size - len, "%s%s", len ? ":" : "",
						item);
		else if (!optional)
			say_unknown(b, place, name, kind, item);
	}
	if (!ok)
		say_text(b, place, name, "out of memory");
	else if (b->report->errors == errors && len == 0)
		say_text(b, place, name, "'%.*s' leaves no %s", ITEM_TEXT, list, kind);
	else if (b->report->errors == errors && !set(ssl, known))
		say_text(b, place, name, "'%.*s' is no list of %ss, or one stands there twice",
			 ITEM_TEXT, known, kind);
	ERR_clear_error();
	SSL_free(ssl);
	free(copy);
	if (b->report->errors == errors)
		return known;
	OPENSSL_free(known);
	return NULL;
}

static void build_groups(struct tls_build *b)
{
	struct extra *extra = extra_of(b->ctx);
	char *groups = known_names(b, &b->input->places->groups, "groups", "group",
				   b->settings->groups, set_groups);

	if (groups && (!extra || SSL_CTX_set1_groups_list(b->ctx, groups) != 1))
		SAY_ERROR(b, groups, "out of memory");
	if (extra)
		extra->groups = groups;
	else
		OPENSSL_free(groups);
}

bool tls_protocol_enter(SSL *ssl, const SSL_CTX *ctx)
{
	const struct extra *extra = SSL_CTX_get_ex_data(ctx, extra_index);

	return !extra || !extra->groups || SSL_set1_groups_list(ssl, extra->groups) == 1;
}

static void build_signatures(struct tls_build *b)
{
	char *list = known_names(b, &b->input->places->signature_algorithms, "signature_algorithms",
				 "signature algorithm", b->settings->signature_algorithms,
				 set_signatures);

	if (list && SSL_CTX_set1_sigalgs_list(b->ctx, list) != 1)
		SAY_ERROR(b, signature_algorithms, "out of memory");
	OPENSSL_free(list);
}

/* ---- ALPN ---- */

/* The first of our protocols that the client has, too; with none, RFC 7301 section 3.2 wants the
 * alert no_application_protocol. */
static int on_alpn(SSL *ssl, const unsigned char **chosen, unsigned char *len,
		   const unsigned char *offered, unsigned offered_len, void *arg)
{
	const struct extra *extra = arg;
	unsigned char *found = NULL;

	(void)ssl;
	if (SSL_select_next_proto(&found, len, extra->alpn, (unsigned)extra->alpn_len, offered,
				  offered_len) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*chosen = found;
	return SSL_TLSEXT_ERR_OK;
}

/* Writes the list as it stands on the wire. Returns its length, 0 when a problem was told. */
static size_t alpn_wire(struct tls_build *b, const char *list, uint8_t *wire)
{
	size_t used = 0;

	for (list += strspn(list, ", \t"); *list; list += strspn(list, ", \t")) {
		size_t len = strcspn(list, ", \t");

		if (len > 255) {
			SAY_ERROR(b, alpn, "'%.20s...' is longer than 255 bytes", list);
			return 0;
		}
		wire[used++] = (uint8_t)len;
		memcpy(wire + used, list, len);
		used += len;
		list += len;
	}
	if (used == 0 || used > 65535)
		SAY_ERROR(b, alpn, "%s", used ? "the list is too long" : "it names no protocol");
	return used <= 65535 ? used : 0;
}

static void build_alpn(struct tls_build *b)
{
	struct extra *extra = extra_of(b->ctx);
	uint8_t *wire = OPENSSL_malloc(strlen(b->settings->alpn) + 2);

	if (!extra || !wire) {
		SAY_ERROR(b, alpn, "out of memory");
		OPENSSL_free(wire);
		return;
	}
	extra->alpn = wire;
	extra->alpn_len = alpn_wire(b, b->settings->alpn, wire);
	if (extra->alpn_len == 0)
		return;
	if (b->input->role == TLS_ROLE_SERVER)
		SSL_CTX_set_alpn_select_cb(b->ctx, on_alpn, extra);
	else if (SSL_CTX_set_alpn_protos(b->ctx, wire, (unsigned)extra->alpn_len) != 0)
		SAY_ERROR(b, alpn, "out of memory");
}

void tls_protocol_build_lists(struct tls_build *b)
{
	const struct tls_settings *s = b->settings;

	if (!extra_of(b->ctx))
		tls_report_error(b->report, "out of memory");
	if (s->groups)
		build_groups(b);
	if (s->signature_algorithms)
		build_signatures(b);
	if (s->alpn)
		build_alpn(b);
}

/* ---- all of it together ---- */

/* How a key signs in the suites of TLS 1.2 and older (RFC 5246 section 7.4.3, RFC 8422). */
static int auth_of(const X509 *cert)
{
	switch (EVP_PKEY_base_id(X509_get0_pubkey(cert))) {
	case EVP_PKEY_RSA:
	case EVP_PKEY_RSA_PSS:
		return NID_auth_rsa;
	case EVP_PKEY_EC:
	case EVP_PKEY_ED25519:
	case EVP_PKEY_ED448:
		return NID_auth_ecdsa;
	case EVP_PKEY_DSA:
		return NID_auth_dss;
	default:
		return NID_undef;
	}
}

/* What is not known here, such as GOST, may have its key. */
static bool may_have_key_for(const struct tls_build *b, int auth)
{
	if (auth != NID_auth_rsa && auth != NID_auth_ecdsa && auth != NID_auth_dss)
		return true;
	for (int i = 0; i < 2; i++)
		if (b->own_cert[i] && auth_of(b->own_cert[i]) == auth)
			return true;
	return false;
}

/* Suites that no certificate's key goes with are none: OpenSSL would find "no shared cipher" in
 * each handshake. With signature_algorithms it tells only those suites that these leave. */
static void probe_keys(struct tls_build *b, STACK_OF(SSL_CIPHER) * suites)
{
	const X509 *first = b->own_cert[0], *second = b->own_cert[1];
	int old = 0, usable = 0, newer = 0;
	char keys[64];

	for (int i = 0; i < sk_SSL_CIPHER_num(suites); i++) {
		int auth = SSL_CIPHER_get_auth_nid(sk_SSL_CIPHER_value(suites, i));

		newer += auth == NID_auth_any;
		old += auth != NID_auth_any;
		usable += auth != NID_auth_any && may_have_key_for(b, auth);
	}
	if (!first || old == 0 || usable > 0 || b->settings->signature_algorithms)
		return;
	snprintf(keys, sizeof(keys), "%s%s%s", tls_key_type(X509_get0_pubkey(first)),
		 second ? " or " : "", second ? tls_key_type(X509_get0_pubkey(second)) : "");
	if (newer == 0)
		SAY_ERROR(
			b, cipher_list,
			"none of its suites goes with a key of type %s, as the certificate has it",
			keys);
	else
		SAY_WARNING(b, cipher_list,
			    "none of its suites below TLS 1.3 goes with a key of type %s, as the "
			    "certificate has it",
			    keys);
}

void tls_protocol_probe(struct tls_build *b)
{
	const struct tls_settings *s = b->settings;
	SSL *ssl = SSL_new(b->ctx);
	STACK_OF(SSL_CIPHER) *suites = ssl ? SSL_get1_supported_ciphers(ssl) : NULL;

	if (!ssl)
		tls_report_error(b->report, "%s: cannot make a connection: %s", b->input->name,
				 tls_pem_openssl_reason());
	else if (sk_SSL_CIPHER_num(suites) <= 0)
		SAY_ERROR(b, method, "with %s and cipher_list '%s', %s has no cipher suite left",
			  s->method, s->cipher_list ? s->cipher_list : "(default)",
			  OpenSSL_version(OPENSSL_VERSION));
	else if (b->input->role == TLS_ROLE_SERVER)
		probe_keys(b, suites);
	sk_SSL_CIPHER_free(suites);
	SSL_free(ssl);
	ERR_clear_error();
}
