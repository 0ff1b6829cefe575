/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_domain.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* RFC 9325 section 4.2: forward secret key exchange and AEAD. */
#define TLS_STRONG_CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20"
/* TLS 1.1 and older sign with SHA-1 and MD5, which OpenSSL allows at level 0 only. */
#define TLS_OLD_CIPHERS "DEFAULT:@SECLEVEL=0"

/* What the steps of building one domain share. */
struct build {
	const struct tls_domain_source *source;
	struct tls_domain *domain;
	struct tls_report *report;
	bool quiet; /* the same settings were warned of before */
};

typedef void (*build_step)(struct build *b);

#define BUILD_ERROR(b, format, ...)                                                                \
	tls_report_error((b)->report, "%s: " format, (b)->domain->name, ##__VA_ARGS__)
#define BUILD_WARNING(b, format, ...)                                                              \
	do {                                                                                       \
		if (!(b)->quiet)                                                                   \
			tls_report_warning((b)->report, "%s: " format, (b)->domain->name,          \
					   ##__VA_ARGS__);                                         \
	} while (0)

char *tls_domain_path(const char *dir, const char *name)
{
	char *path = NULL;

	if (name[0] == '/' || name[0] == '.')
		return strdup(name);
	if (asprintf(&path, "%s/%s", dir, name) < 0)
		return NULL;
	return path;
}

/* The first error of libcrypto's queue is the most specific; empties the queue. */
static const char *openssl_reason(void)
{
	unsigned long error = ERR_get_error();
	const char *reason = error ? ERR_reason_error_string(error) : NULL;

	ERR_clear_error();
	return reason ? reason : "unknown OpenSSL error";
}

/* Opens the file that a parameter names; reports why not. The caller frees the BIO. */
static BIO *open_file(struct build *b, const char *param, const char *name)
{
	char *path = tls_domain_path(b->source->dir, name);
	struct stat st;
	FILE *file = NULL;
	BIO *bio = NULL;

	if (!path)
		BUILD_ERROR(b, "parameter %s: out of memory", param);
	else if (stat(path, &st) != 0 || (!S_ISDIR(st.st_mode) && !(file = fopen(path, "re"))))
		BUILD_ERROR(b, "parameter %s: cannot read file '%s': %s", param, path,
			    strerror(errno));
	else if (!file)
		BUILD_ERROR(b, "parameter %s: '%s' is a directory, not a file", param, path);
	else if (S_ISREG(st.st_mode) && st.st_size == 0)
		BUILD_ERROR(b, "parameter %s: file '%s' is empty", param, path);
	else if (!(bio = BIO_new_fp(file, BIO_CLOSE)))
		BUILD_ERROR(b, "parameter %s: out of memory", param);
	if (file && !bio)
		fclose(file);
	free(path);
	return bio;
}

/* Reads every certificate of a file; an empty or a broken one is reported and gives NULL. */
static STACK_OF(X509) * read_certificates(struct build *b, const char *param, const char *name)
{
	BIO *bio = open_file(b, param, name);
	STACK_OF(X509) *certs = bio ? sk_X509_new_null() : NULL;
	unsigned long error;
	X509 *cert;

	if (!certs) {
		BIO_free(bio);
		return NULL;
	}
	while ((cert = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL)))
		sk_X509_push(certs, cert);
	BIO_free(bio);
	error = ERR_peek_last_error();
	if (sk_X509_num(certs) == 0 || ERR_GET_REASON(error) != PEM_R_NO_START_LINE) {
		if (sk_X509_num(certs) == 0 && ERR_GET_REASON(error) == PEM_R_NO_START_LINE)
			BUILD_ERROR(b, "parameter %s: file '%s' contains no certificate in PEM",
				    param, name);
		else
			BUILD_ERROR(b, "parameter %s: file '%s': certificate %d is broken: %s",
				    param, name, sk_X509_num(certs) + 1, openssl_reason());
		sk_X509_pop_free(certs, X509_free);
		certs = NULL;
	}
	ERR_clear_error();
	return certs;
}

static const char *subject_text(const X509 *cert, char *text, size_t size)
{
	BIO *bio = BIO_new(BIO_s_mem());
	int len;

	text[0] = '\0';
	if (!bio)
		return text;
	X509_NAME_print_ex(bio, X509_get_subject_name(cert), 0, XN_FLAG_RFC2253);
	len = BIO_read(bio, text, (int)size - 1);
	text[len > 0 ? len : 0] = '\0';
	BIO_free(bio);
	return text;
}

static void time_text(const ASN1_TIME *time, char *text, size_t size)
{
	BIO *bio = BIO_new(BIO_s_mem());
	int len = 0;

	if (bio && ASN1_TIME_print(bio, time))
		len = BIO_read(bio, text, (int)size - 1);
	text[len > 0 ? len : 0] = '\0';
	BIO_free(bio);
}

/* An operator may need the server more than a valid date, so a date only warns. */
static void warn_of_dates(struct build *b, const X509 *cert, const char *param, const char *name)
{
	char subject[256], when[64];

	if (X509_cmp_current_time(X509_get0_notAfter(cert)) < 0) {
		time_text(X509_get0_notAfter(cert), when, sizeof(when));
		BUILD_WARNING(b, "parameter %s: file '%s': certificate '%s' expired on %s", param,
			      name, subject_text(cert, subject, sizeof(subject)), when);
	} else if (X509_cmp_current_time(X509_get0_notBefore(cert)) > 0) {
		time_text(X509_get0_notBefore(cert), when, sizeof(when));
		BUILD_WARNING(b, "parameter %s: file '%s': certificate '%s' is not valid before %s",
			      param, name, subject_text(cert, subject, sizeof(subject)), when);
	}
}

static bool list_has_level(const char *list)
{
	return list && strstr(list, "@SECLEVEL=");
}

static void build_method(struct build *b)
{
	const struct tls_method *method = tls_param_method(b->domain->settings.method);
	SSL_CTX *ctx = b->domain->ctx;

	if (method->min == SSL2_VERSION || !SSL_CTX_set_min_proto_version(ctx, method->min) ||
	    !SSL_CTX_set_max_proto_version(ctx, method->max)) {
		BUILD_ERROR(b, "parameter tls_method: %s is not supported by %s", method->name,
			    OpenSSL_version(OPENSSL_VERSION));
		ERR_clear_error();
		return;
	}
	if (method->min < TLS1_2_VERSION)
		BUILD_WARNING(b,
			      "parameter tls_method: %s accepts versions below TLS 1.2, "
			      "which are not secure (RFC 8996)",
			      method->name);
}

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

/* A list of TLS 1.3 suites alone leaves nothing for older versions. */
static void only_tls_1_3(struct build *b)
{
	const struct tls_method *method = tls_param_method(b->domain->settings.method);

	if (method->max && method->max < TLS1_3_VERSION)
		BUILD_ERROR(b,
			    "parameter cipher_list: '%s' names suites of TLS 1.3 only, but "
			    "tls_method is %s",
			    b->domain->settings.cipher_list, method->name);
	else
		SSL_CTX_set_min_proto_version(b->domain->ctx, TLS1_3_VERSION);
}

static void apply_cipher_list(struct build *b, const char *list)
{
	char *suites = NULL, *ciphers = NULL;

	if (split_ciphers(list, &suites, &ciphers) != 0)
		BUILD_ERROR(b, "parameter cipher_list: out of memory");
	else if (!suites[0] && !ciphers[0])
		BUILD_ERROR(b, "parameter cipher_list: '%s' names no cipher suite", list);
	else if (suites[0] && !SSL_CTX_set_ciphersuites(b->domain->ctx, suites))
		BUILD_ERROR(b, "parameter cipher_list: '%s' has an unknown TLS 1.3 suite: %s",
			    suites, openssl_reason());
	else if (!ciphers[0])
		only_tls_1_3(b);
	else if (!SSL_CTX_set_cipher_list(b->domain->ctx, ciphers))
		BUILD_ERROR(b, "parameter cipher_list: '%s' names no suite that %s knows: %s",
			    ciphers, OpenSSL_version(OPENSSL_VERSION), openssl_reason());
	free(suites);
	free(ciphers);
}

static void build_ciphers(struct build *b)
{
	const struct tls_settings *s = &b->domain->settings;
	bool old = tls_param_method(s->method)->min < TLS1_2_VERSION;

	if (old && !list_has_level(s->cipher_list))
		SSL_CTX_set_security_level(b->domain->ctx, 0);
	if (s->cipher_list)
		apply_cipher_list(b, s->cipher_list);
	else if (!SSL_CTX_set_cipher_list(b->domain->ctx,
					  old ? TLS_OLD_CIPHERS : TLS_STRONG_CIPHERS))
		BUILD_ERROR(b, "cannot set the default cipher list: %s", openssl_reason());
}

/* Called by libcrypto for an encrypted key: notes that, and gives no password. */
static int note_encrypted(char *buffer, int size, int writing, void *encrypted)
{
	(void)buffer;
	(void)size;
	(void)writing;
	*(bool *)encrypted = true;
	return -1;
}

static EVP_PKEY *read_key(struct build *b, const char *param, const char *name)
{
	BIO *bio = open_file(b, param, name);
	bool encrypted = false;
	EVP_PKEY *key;

	if (!bio)
		return NULL;
	key = PEM_read_bio_PrivateKey(bio, NULL, note_encrypted, &encrypted);
	BIO_free(bio);
	if (!key && encrypted)
		BUILD_ERROR(b,
			    "parameter %s: the private key in file '%s' is encrypted, "
			    "a key without a password is needed",
			    param, name);
	else if (!key && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE)
		BUILD_ERROR(b, "parameter %s: file '%s' contains no private key in PEM", param,
			    name);
	else if (!key)
		BUILD_ERROR(b, "parameter %s: file '%s': the private key is broken: %s", param,
			    name, openssl_reason());
	ERR_clear_error();
	return key;
}

static void apply_certificate(struct build *b, STACK_OF(X509) * certs)
{
	const char *name = b->domain->settings.certificate;
	SSL_CTX *ctx = b->domain->ctx;

	if (SSL_CTX_use_certificate(ctx, sk_X509_value(certs, 0)) != 1)
		BUILD_ERROR(b,
			    "parameter certificate: file '%s': the certificate cannot be used: "
			    "%s",
			    name, openssl_reason());
	for (int i = 1; i < sk_X509_num(certs); i++)
		if (SSL_CTX_add1_chain_cert(ctx, sk_X509_value(certs, i)) != 1)
			BUILD_ERROR(b,
				    "parameter certificate: file '%s': chain certificate %d "
				    "cannot be used: %s",
				    name, i + 1, openssl_reason());
}

static void build_certificate(struct build *b)
{
	const struct tls_settings *s = &b->domain->settings;
	const char *param = s->private_key ? "private_key" : "certificate";
	const char *name = s->private_key ? s->private_key : s->certificate;
	STACK_OF(X509) * certs;
	EVP_PKEY *key;

	if (!s->certificate) {
		if (b->domain->role == TLS_ROLE_SERVER)
			BUILD_ERROR(b, "parameter certificate: a server needs a certificate");
		return;
	}
	certs = read_certificates(b, "certificate", s->certificate);
	key = read_key(b, param, name);
	if (certs) {
		warn_of_dates(b, sk_X509_value(certs, 0), "certificate", s->certificate);
		apply_certificate(b, certs);
	}
	if (certs && key && X509_check_private_key(sk_X509_value(certs, 0), key) != 1)
		BUILD_ERROR(b,
			    "parameter %s: the private key in file '%s' does not belong to the "
			    "certificate in file '%s'",
			    param, name, s->certificate);
	else if (certs && key && SSL_CTX_use_PrivateKey(b->domain->ctx, key) != 1)
		BUILD_ERROR(b, "parameter %s: the private key in file '%s' cannot be used: %s",
			    param, name, openssl_reason());
	ERR_clear_error();
	EVP_PKEY_free(key);
	sk_X509_pop_free(certs, X509_free);
}

/* A trusted certificate is a CA's, or stands for itself. */
static bool is_trust_anchor(X509 *cert)
{
	return X509_check_ca(cert) > 0 ||
	       X509_NAME_cmp(X509_get_subject_name(cert), X509_get_issuer_name(cert)) == 0;
}

static void build_ca_list(struct build *b)
{
	const char *name = b->domain->settings.ca_list;
	X509_STORE *store = SSL_CTX_get_cert_store(b->domain->ctx);
	STACK_OF(X509) * certs;
	int anchors = 0;

	if (!name || !(certs = read_certificates(b, "ca_list", name)))
		return;
	for (int i = 0; i < sk_X509_num(certs); i++) {
		X509 *cert = sk_X509_value(certs, i);

		anchors += is_trust_anchor(cert);
		warn_of_dates(b, cert, "ca_list", name);
		if (X509_STORE_add_cert(store, cert) != 1 ||
		    SSL_CTX_add_client_CA(b->domain->ctx, cert) != 1)
			BUILD_ERROR(b,
				    "parameter ca_list: file '%s': certificate %d cannot be "
				    "used: %s",
				    name, i + 1, openssl_reason());
	}
	if (anchors == 0)
		BUILD_ERROR(b,
			    "parameter ca_list: none of the %d certificates in file '%s' is a "
			    "CA's",
			    sk_X509_num(certs), name);
	sk_X509_pop_free(certs, X509_free);
}

static void build_ca_path(struct build *b)
{
	const char *name = b->domain->settings.ca_path;
	char *path = name ? tls_domain_path(b->source->dir, name) : NULL;
	struct stat st;

	if (!name)
		return;
	if (!path)
		BUILD_ERROR(b, "parameter ca_path: out of memory");
	else if (stat(path, &st) != 0)
		BUILD_ERROR(b, "parameter ca_path: directory '%s': %s", path, strerror(errno));
	else if (!S_ISDIR(st.st_mode))
		BUILD_ERROR(b, "parameter ca_path: '%s' is not a directory", path);
	else if (SSL_CTX_load_verify_locations(b->domain->ctx, NULL, path) != 1)
		BUILD_ERROR(b, "parameter ca_path: directory '%s': %s", path, openssl_reason());
	free(path);
}

static void build_crl(struct build *b)
{
	const char *name = b->domain->settings.crl;
	X509_STORE *store = SSL_CTX_get_cert_store(b->domain->ctx);
	BIO *bio = name ? open_file(b, "crl", name) : NULL;
	X509_CRL *crl;
	int found = 0;

	if (!bio)
		return;
	while ((crl = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL))) {
		found += X509_STORE_add_crl(store, crl) == 1;
		X509_CRL_free(crl);
	}
	BIO_free(bio);
	if (found == 0 || ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
		BUILD_ERROR(b, "parameter crl: file '%s': %s", name,
			    found == 0 ? "contains no usable CRL in PEM" : openssl_reason());
	ERR_clear_error();
	X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
}

static void build_verify(struct build *b)
{
	const struct tls_settings *s = &b->domain->settings;
	bool require = s->require_certificate;
	bool verify = s->verify_certificate || require;

	if (b->domain->role == TLS_ROLE_SERVER && strcasecmp(s->verify_client, "off") != 0) {
		require |= strcasecmp(s->verify_client, "on") == 0;
		b->domain->accept_unverified =
			!verify && strcasecmp(s->verify_client, "optional_no_ca") == 0;
		verify = true;
	}
	SSL_CTX_set_verify(b->domain->ctx,
			   (verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE) |
				   (require ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
			   SSL_CTX_get_verify_callback(b->domain->ctx));
	SSL_CTX_set_verify_depth(b->domain->ctx, s->verify_depth);
	if (verify && !b->domain->accept_unverified && !s->ca_list && !s->ca_path)
		BUILD_WARNING(b, "certificates of peers must verify, but neither ca_list nor "
				 "ca_path is set: no certificate will");
}

/* A session is resumed only in a domain of the name and context that it was made in. */
static void build_sessions(struct build *b)
{
	const struct cfg_group_tls *cfg = b->source->cfg;
	unsigned char context[EVP_MAX_MD_SIZE];
	unsigned int len = 0;
	char text[512];

	snprintf(text, sizeof(text), "%.*s/%s", cfg->session_id.len, cfg->session_id.s,
		 b->domain->name);
	if (!EVP_Digest(text, strlen(text), context, &len, EVP_sha256(), NULL) ||
	    !SSL_CTX_set_session_id_context(b->domain->ctx, context, len))
		BUILD_ERROR(b, "parameter session_id: %s", openssl_reason());
	SSL_CTX_set_session_cache_mode(b->domain->ctx,
				       cfg->session_cache && b->domain->role == TLS_ROLE_SERVER
					       ? SSL_SESS_CACHE_SERVER
					       : SSL_SESS_CACHE_OFF);
	/* One ticket is what a SIP peer that comes back needs; each costs a record and an HMAC. */
	SSL_CTX_set_num_tickets(b->domain->ctx, 1);
}

/*
 * Left alone, OpenSSL builds its own chain anew for every handshake that has a CA store, a
 * quarter of the handshake's cost. Do it once.
 */
static void build_chain(struct build *b)
{
	STACK_OF(X509) *chain = NULL;

	SSL_CTX_set_mode(b->domain->ctx, SSL_MODE_NO_AUTO_CHAIN);
	SSL_CTX_get0_chain_certs(b->domain->ctx, &chain);
	if (SSL_CTX_get0_certificate(b->domain->ctx) && !chain)
		SSL_CTX_build_cert_chain(b->domain->ctx, SSL_BUILD_CHAIN_FLAG_NO_ROOT |
								 SSL_BUILD_CHAIN_FLAG_IGNORE_ERROR |
								 SSL_BUILD_CHAIN_FLAG_CLEAR_ERROR);
	ERR_clear_error();
}

static void build_options(struct build *b)
{
	const struct cfg_group_tls *cfg = b->source->cfg;
	uint64_t options = SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE |
			   SSL_OP_PRIORITIZE_CHACHA | SSL_OP_SINGLE_DH_USE;

	SSL_CTX_clear_options(b->domain->ctx, SSL_OP_NO_COMPRESSION);
	if (cfg->disable_compression)
		options |= SSL_OP_NO_COMPRESSION;
	SSL_CTX_set_options(b->domain->ctx, options);
	SSL_CTX_set_mode(b->domain->ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
						 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_dh_auto(b->domain->ctx, 1);
	SSL_CTX_set_max_send_fragment(b->domain->ctx, cfg->ssl_max_send_fragment);
}

/* Only a try shows whether versions, suites and level leave anything to talk with. */
static void build_probe(struct build *b)
{
	const struct tls_settings *s = &b->domain->settings;
	SSL *ssl = SSL_new(b->domain->ctx);
	STACK_OF(SSL_CIPHER) *ciphers = ssl ? SSL_get1_supported_ciphers(ssl) : NULL;

	if (!ssl)
		BUILD_ERROR(b, "cannot make a connection: %s", openssl_reason());
	else if (sk_SSL_CIPHER_num(ciphers) <= 0)
		BUILD_ERROR(b, "%s can use no cipher suite of %s with parameter tls_method %s",
			    OpenSSL_version(OPENSSL_VERSION),
			    s->cipher_list ? s->cipher_list : "its own", s->method);
	sk_SSL_CIPHER_free(ciphers);
	SSL_free(ssl);
	ERR_clear_error();
}

static void build_domain(const struct tls_domain_source *source, struct tls_domain *domain,
			 enum tls_role role, struct tls_report *report)
{
	static const build_step steps[] = {
		build_method, build_ciphers, build_certificate, build_ca_list, build_ca_path,
		build_crl,    build_verify,  build_sessions,    build_chain,   build_options,
	};
	struct build b = {source, domain, report, role == TLS_ROLE_CLIENT};
	unsigned errors = report->errors;

	domain->role = role;
	domain->name = role == TLS_ROLE_SERVER ? "server:default" : "client:default";
	if (tls_settings_from_cfg(&domain->settings, source->cfg) != 0) {
		BUILD_ERROR(&b, "out of memory");
		return;
	}
	domain->ctx =
		SSL_CTX_new(role == TLS_ROLE_SERVER ? TLS_server_method() : TLS_client_method());
	if (!domain->ctx) {
		BUILD_ERROR(&b, "cannot make an SSL_CTX: %s", openssl_reason());
		return;
	}
	source->prepare(domain->ctx);
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		steps[i](&b);
	if (report->errors == errors)
		build_probe(&b);
}

static void free_domain(struct tls_domain *domain)
{
	SSL_CTX_free(domain->ctx);
	tls_settings_free(&domain->settings);
}

struct tls_domain_set *tls_domain_set_new(const struct tls_domain_source *source,
					  struct tls_report *report)
{
	struct tls_domain_set *set = calloc(1, sizeof(*set));

	if (!set) {
		tls_report_error(report, "out of memory");
		return NULL;
	}
	atomic_init(&set->refs, 1);
	build_domain(source, &set->server, TLS_ROLE_SERVER, report);
	/* Both have the same settings, so the same errors. */
	if (report->errors == 0)
		build_domain(source, &set->client, TLS_ROLE_CLIENT, report);
	if (report->errors > 0) {
		tls_domain_set_unref(set);
		return NULL;
	}
	return set;
}

struct tls_domain_set *tls_domain_set_ref(struct tls_domain_set *set)
{
	atomic_fetch_add_explicit(&set->refs, 1, memory_order_relaxed);
	return set;
}

void tls_domain_set_unref(struct tls_domain_set *set)
{
	if (!set || atomic_fetch_sub_explicit(&set->refs, 1, memory_order_acq_rel) != 1)
		return;
	free_domain(&set->server);
	free_domain(&set->client);
	free(set);
}

struct tls_domain *tls_domain_find(struct tls_domain_set *set, enum tls_role role)
{
	return role == TLS_ROLE_SERVER ? &set->server : &set->client;
}
