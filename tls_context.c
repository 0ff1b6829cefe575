/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_context.h"

#include "fixed_c_zlib.h"
#include "tls_compat.h"
#include "tls_file.h"
#include "tls_identity.h"
#include "tls_ocsp.h"
#include "tls_pem.h"
#include "tls_protocol.h"
#include "tls_provider.h"
#include "tls_ticket.h"
#include "tls_workaround.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

typedef void (*build_step)(struct tls_build *b);

/* ---- certificates and keys ---- */

/* An operator may need the server more than a valid date, so a date only warns. Returns text, or
 * NULL when the dates are fine. */
static const char *dates_text(const X509 *cert, const char *path, char *text, size_t size)
{
	bool expired = tls_time_compare(X509_get0_notAfter(cert)) < 0;
	char subject[256], when[64] = "";
	BIO *bio;
	int len;

	if (!expired && tls_time_compare(X509_get0_notBefore(cert)) <= 0)
		return NULL;
	bio = BIO_new(BIO_s_mem());
	if (bio &&
	    ASN1_TIME_print(bio, expired ? X509_get0_notAfter(cert) : X509_get0_notBefore(cert))) {
		len = BIO_read(bio, when, sizeof(when) - 1);
		when[len > 0 ? len : 0] = '\0';
	}
	BIO_free(bio);
	snprintf(text, size, "file '%s': certificate '%s' %s %s", path,
		 tls_identity_subject(cert, subject, sizeof(subject)),
		 expired ? "expired on" : "is not valid before", when);
	return text;
}

/* One of a domain's two certificates: the settings that make it, and where they stand. */
struct credential {
	const char *certificate_name, *key_name, *password_name;
	const char *certificate, *key, *password;
	const struct tls_place *certificate_place, *key_place, *password_place;
	X509 **own_cert;
};

/* The password to try, malloc()ed: the setting's text or the first line of the file it names. */
static char *credential_password(struct tls_build *b, const struct credential *c)
{
	char why[TLS_PEM_WHY], *path, *password = NULL;

	if (!c->password)
		return NULL;
	if (strncmp(c->password, "file:", 5) != 0)
		return strdup(c->password);
	path = tls_file_path(b->input->dir, c->password + 5);
	if (path)
		password = tls_pem_password_file(path, why);
	else
		snprintf(why, sizeof(why), "out of memory");
	if (!password) {
		tls_build_say(b, tls_report_error, c->password_place, c->password_name, why);
	} else if (tls_file_others_can_read(path)) {
		snprintf(why, sizeof(why), "password file '%s' can be read by other users", path);
		tls_build_say(b, tls_report_warning, c->password_place, c->password_name, why);
	}
	free(path);
	return password;
}

static EVP_PKEY *credential_key(struct tls_build *b, const struct credential *c)
{
	const struct tls_place *place = c->key ? c->key_place : c->certificate_place;
	const char *name = c->key ? c->key_name : c->certificate_name;
	char *path = tls_file_path(b->input->dir, c->key ? c->key : c->certificate);
	char *text = credential_password(b, c);
	struct tls_pem_password password = {text, b->input->may_ask};
	bool has_password = text || !c->password; /* else that is the problem, and was told */
	char why[TLS_PEM_WHY] = "out of memory";
	EVP_PKEY *key = path && has_password ? tls_pem_key(path, &password, why) : NULL;

	if (!key && has_password)
		tls_build_say(b, tls_report_error, place, name, why);
	if (key && tls_file_others_can_read(path)) {
		snprintf(why, sizeof(why), "private key file '%s' can be read by other users",
			 path);
		tls_build_say(b, tls_report_warning, place, name, why);
	}
	if (text)
		OPENSSL_cleanse(text, strlen(text));
	free(text);
	free(path);
	return key;
}

/* Each certificate of a chain is issued by the next (RFC 8446 section 4.4.2). */
static bool chain_is_in_order(STACK_OF(X509) * certs)
{
	for (int i = 0; i + 1 < sk_X509_num(certs); i++)
		if (X509_check_issued(sk_X509_value(certs, i + 1), sk_X509_value(certs, i)) !=
		    X509_V_OK)
			return false;
	return true;
}

static void use_chain(struct tls_build *b, const struct credential *c, STACK_OF(X509) * certs)
{
	char why[TLS_PEM_WHY];

	if (SSL_CTX_use_certificate(b->ctx, sk_X509_value(certs, 0)) != 1) {
		snprintf(why, sizeof(why), "file '%s': the certificate cannot be used: %s",
			 c->certificate, tls_pem_openssl_reason());
		tls_build_say(b, tls_report_error, c->certificate_place, c->certificate_name, why);
		return;
	}
	SSL_CTX_clear_chain_certs(b->ctx);
	for (int i = 1; i < sk_X509_num(certs); i++) {
		if (SSL_CTX_add1_chain_cert(b->ctx, sk_X509_value(certs, i)) == 1)
			continue;
		snprintf(why, sizeof(why),
			 "file '%s': certificate %d of the chain cannot be used: "
			 "%s",
			 c->certificate, i + 1, tls_pem_openssl_reason());
		tls_build_say(b, tls_report_error, c->certificate_place, c->certificate_name, why);
	}
	if (!chain_is_in_order(certs)) {
		snprintf(why, sizeof(why),
			 "file '%s': the chain is not in order or a certificate "
			 "is missing: each must be issued by the next",
			 c->certificate);
		tls_build_say(b, tls_report_warning, c->certificate_place, c->certificate_name,
			      why);
	}
}

/* OpenSSL keeps one certificate for each type of key: another one would take its place. */
static bool has_certificate_of_type(const struct tls_build *b, const EVP_PKEY *key)
{
	X509 *before = SSL_CTX_get0_certificate(b->ctx);

	return before && strcmp(tls_key_type(X509_get0_pubkey(before)), tls_key_type(key)) == 0;
}

static void note_shown(struct tls_build *b, const struct credential *c, X509 *cert)
{
	X509 **shown = &b->input->shown[c->certificate == b->settings->certificate2];

	if (!*shown && X509_up_ref(cert))
		*shown = cert;
}

static void use_credential(struct tls_build *b, const struct credential *c, STACK_OF(X509) * certs,
			   EVP_PKEY *key)
{
	const char *key_file = c->key ? c->key : c->certificate;
	char why[TLS_PEM_WHY];

	if (has_certificate_of_type(b, key)) {
		snprintf(why, sizeof(why),
			 "file '%s': its key is of the same type as the first certificate's",
			 c->certificate);
		tls_build_say(b, tls_report_error, c->certificate_place, c->certificate_name, why);
		return;
	}
	if (dates_text(sk_X509_value(certs, 0), c->certificate, why, sizeof(why)))
		tls_build_say(b, tls_report_warning, c->certificate_place, c->certificate_name,
			      why);
	note_shown(b, c, sk_X509_value(certs, 0));
	use_chain(b, c, certs);
	if (X509_check_private_key(sk_X509_value(certs, 0), key) != 1)
		snprintf(why, sizeof(why),
			 "the private key in file '%s' does not belong to the "
			 "certificate in file '%s'",
			 key_file, c->certificate);
	else if (SSL_CTX_use_PrivateKey(b->ctx, key) != 1)
		snprintf(why, sizeof(why), "the private key in file '%s' cannot be used: %s",
			 key_file, tls_pem_openssl_reason());
	else {
		*c->own_cert = sk_X509_value(certs, 0);
		X509_up_ref(*c->own_cert);
		return;
	}
	ERR_clear_error();
	tls_build_say(b, tls_report_error, c->key ? c->key_place : c->certificate_place,
		      c->key ? c->key_name : c->certificate_name, why);
}

static void build_credential(struct tls_build *b, const struct credential *c)
{
	char why[TLS_PEM_WHY] = "out of memory";
	STACK_OF(X509) * certs;
	EVP_PKEY *key;
	char *path;

	if (!c->certificate)
		return;
	path = tls_file_path(b->input->dir, c->certificate);
	certs = path ? tls_pem_certificates(path, why) : NULL;
	if (!certs)
		tls_build_say(b, tls_report_error, c->certificate_place, c->certificate_name, why);
	key = credential_key(b, c);
	if (certs && key)
		use_credential(b, c, certs, key);
	EVP_PKEY_free(key);
	sk_X509_pop_free(certs, X509_free);
	free(path);
}

#define CREDENTIAL(b, number, cert, key, password)                                                 \
	{                                                                                          \
#cert, #key, #password, (b)->settings->cert, (b)->settings->key,                   \
			(b)->settings->password, &(b)->input->places->cert,                        \
			&(b)->input->places->key, &(b)->input->places->password,                   \
			&(b)->own_cert[number]                                                     \
	}

static void build_certificate(struct tls_build *b)
{
	struct credential first = CREDENTIAL(b, 0, certificate, private_key, private_key_password);
	struct credential second =
		CREDENTIAL(b, 1, certificate2, private_key2, private_key_password2);
	X509 *own;

	if (!first.certificate && b->input->role == TLS_ROLE_SERVER)
		SAY_ERROR(b, certificate, "a server needs a certificate");
	build_credential(b, &first);
	own = SSL_CTX_get0_certificate(b->ctx);
	build_credential(b, &second);
	if (own)
		SSL_CTX_select_current_cert(b->ctx, own);
}

/* ---- trust ---- */

/* A trusted certificate is a CA's, or stands for itself. */
static bool is_trust_anchor(X509 *cert)
{
	return X509_check_ca(cert) > 0 ||
	       X509_NAME_cmp(X509_get_subject_name(cert), X509_get_issuer_name(cert)) == 0;
}

static void add_ca(struct tls_build *b, X509 *cert, const char *path, int number)
{
	char text[TLS_PEM_WHY];

	if (dates_text(cert, path, text, sizeof(text)))
		SAY_WARNING(b, ca_list, "%s", text);
	if (X509_STORE_add_cert(SSL_CTX_get_cert_store(b->ctx), cert) != 1 ||
	    SSL_CTX_add_client_CA(b->ctx, cert) != 1)
		SAY_ERROR(b, ca_list, "file '%s': certificate %d cannot be used: %s", path, number,
			  tls_pem_openssl_reason());
}

static void build_ca_list(struct tls_build *b, const char *path)
{
	char why[TLS_PEM_WHY] = "out of memory";
	STACK_OF(X509) *certs = path ? tls_pem_certificates(path, why) : NULL;
	int anchors = 0;

	if (!certs) {
		SAY_ERROR(b, ca_list, "%s", why);
		return;
	}
	for (int i = 0; i < sk_X509_num(certs); i++) {
		anchors += is_trust_anchor(sk_X509_value(certs, i));
		add_ca(b, sk_X509_value(certs, i), path, i + 1);
	}
	if (anchors == 0)
		SAY_ERROR(b, ca_list, "none of the %d certificates in file '%s' is a CA's",
			  sk_X509_num(certs), path);
	sk_X509_pop_free(certs, X509_free);
}

static void build_ca_path(struct tls_build *b, const char *path)
{
	char why[TLS_PEM_WHY];
	struct stat st;

	if (!path)
		SAY_ERROR(b, ca_path, "out of memory");
	else if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
		SAY_ERROR(b, ca_path, "'%s' is not a directory", path);
	else if (tls_pem_check_hashed(path, why) != 0)
		SAY_ERROR(b, ca_path, "%s", why);
	else if (SSL_CTX_load_verify_locations(b->ctx, NULL, path) != 1)
		SAY_ERROR(b, ca_path, "directory '%s': %s", path, tls_pem_openssl_reason());
}

static void build_crl(struct tls_build *b, const char *path)
{
	X509_STORE *store = SSL_CTX_get_cert_store(b->ctx);
	bool leaf = strcasecmp(b->settings->crl_check, "leaf") == 0;
	char why[TLS_PEM_WHY] = "out of memory";

	if (!path || tls_pem_crls(path, store, why) < 0)
		SAY_ERROR(b, crl, "%s", why);
	X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | (leaf ? 0 : X509_V_FLAG_CRL_CHECK_ALL));
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

bool tls_context_same_store(const struct tls_settings *a, const struct tls_settings *b)
{
	return same_text(a->ca_list, b->ca_list) && same_text(a->ca_path, b->ca_path) &&
	       same_text(a->crl, b->crl) && same_text(a->crl_check, b->crl_check);
}

/* Domains that inherit their CAs share one store of them. */
static void share_store(struct tls_build *b)
{
	SSL_CTX *from = b->input->store_from;

	SSL_CTX_set1_cert_store(b->ctx, SSL_CTX_get_cert_store(from));
	if (SSL_CTX_get_verify_mode(b->ctx) & SSL_VERIFY_PEER)
		SSL_CTX_set_client_CA_list(b->ctx,
					   SSL_dup_CA_list(SSL_CTX_get_client_CA_list(from)));
}

static void build_store(struct tls_build *b)
{
	const struct tls_settings *s = b->settings;
	const char *dir = b->input->dir;
	char *ca_list = s->ca_list ? tls_file_path(dir, s->ca_list) : NULL;
	char *ca_path = s->ca_path ? tls_file_path(dir, s->ca_path) : NULL;
	char *crl = s->crl ? tls_file_path(dir, s->crl) : NULL;

	if (b->input->store_from)
		share_store(b);
	else {
		if (s->ca_list)
			build_ca_list(b, ca_list);
		if (s->ca_path)
			build_ca_path(b, ca_path);
		if (s->crl)
			build_crl(b, crl);
	}
	free(ca_list);
	free(ca_path);
	free(crl);
}

bool tls_context_accepts_unverified(enum tls_role role, const struct tls_settings *s)
{
	return role == TLS_ROLE_SERVER && !s->verify_certificate && !s->require_certificate &&
	       strcasecmp(s->verify_client, "optional_no_ca") == 0;
}

/* A client asks for its server_name, or for a name that routes give for each connection. */
static bool has_name_to_ask_for(const struct tls_build *b)
{
	return b->input->role == TLS_ROLE_CLIENT &&
	       (b->settings->server_name || b->input->cfg->xavp_cfg.len > 0);
}

static void check_verify_name(struct tls_build *b, bool verify)
{
	const struct tls_settings *s = b->settings;
	enum tls_identity_rule rule = tls_identity_rule_of(s->verify_name);
	const char *bad;
	size_t len = 0;

	if (rule == TLS_IDENTITY_OFF) {
		if (s->verify_names)
			SAY_WARNING(b, verify_names,
				    "it has no effect, no name is verified: verify_name is off");
		return;
	}
	if (!verify || tls_context_accepts_unverified(b->input->role, s))
		SAY_ERROR(b, verify_name,
			  "a name is worth nothing unless the certificate that "
			  "holds it is verified: set verify_certificate or "
			  "require_certificate%s",
			  b->input->role == TLS_ROLE_SERVER ? " or verify_client" : "");
	if (!s->verify_names && !has_name_to_ask_for(b))
		SAY_ERROR(b, verify_name, "which name? set verify_names%s",
			  b->input->role == TLS_ROLE_CLIENT ? " or server_name" : "");
	bad = s->verify_names ? tls_identity_bad_name(rule, s->verify_names, &len) : NULL;
	if (bad)
		SAY_ERROR(b, verify_names, "'%.*s' is no name of a domain or host", (int)len, bad);
}

static void build_verify(struct tls_build *b)
{
	const struct tls_settings *s = b->settings;
	bool require = s->require_certificate;
	bool verify = s->verify_certificate || require;

	if (b->input->role == TLS_ROLE_SERVER && strcasecmp(s->verify_client, "off") != 0) {
		require |= strcasecmp(s->verify_client, "on") == 0;
		verify = true;
	}
	SSL_CTX_set_verify(b->ctx,
			   (verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE) |
				   (require ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
			   SSL_CTX_get_verify_callback(b->ctx));
	SSL_CTX_set_verify_depth(b->ctx, s->verify_depth);
	if (verify && !s->ca_list && !s->ca_path &&
	    !tls_context_accepts_unverified(b->input->role, s))
		SAY_WARNING(b, ca_list,
			    "certificates of peers must verify, but neither ca_list "
			    "nor ca_path is set: no certificate will");
	check_verify_name(b, verify);
}

/* ---- sessions, options ---- */

/* Whom a certificate is for; a new one for the same names makes no difference. */
static bool add_own_names(EVP_MD_CTX *md, const X509 *cert)
{
	int at = X509_get_ext_by_NID(cert, NID_subject_alt_name, -1);
	const ASN1_OCTET_STRING *names =
		at >= 0 ? X509_EXTENSION_get_data(X509_get_ext(cert, at)) : NULL;
	unsigned char *subject = NULL;
	int len = i2d_X509_NAME(X509_get_subject_name(cert), &subject);
	bool ok = len >= 0 && EVP_DigestUpdate(md, subject, (size_t)len) == 1;

	if (ok && names)
		ok = EVP_DigestUpdate(md, ASN1_STRING_get0_data(names),
				      (size_t)ASN1_STRING_length(names)) == 1;
	OPENSSL_free(subject);
	return ok;
}

/*
 * A client that resumes does not see the certificate again: it may only get to one with the names
 * that it saw (and to the same server_name, RFC 6066 section 3, and rules, which the input tells).
 */
static bool session_context(struct tls_build *b, uint8_t digest[EVP_MAX_MD_SIZE], unsigned *len)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	bool ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
		  EVP_DigestUpdate(md, b->input->session_context, b->input->session_context_size) ==
			  1;
	int more = SSL_CTX_set_current_cert(b->ctx, SSL_CERT_SET_FIRST);

	for (; ok && more == 1; more = SSL_CTX_set_current_cert(b->ctx, SSL_CERT_SET_NEXT))
		ok = add_own_names(md, SSL_CTX_get0_certificate(b->ctx));
	ok = ok && EVP_DigestFinal_ex(md, digest, len) == 1;
	EVP_MD_CTX_free(md);
	ERR_clear_error();
	return ok;
}

static void build_sessions(struct tls_build *b)
{
	bool cache = b->input->cfg->session_cache && b->input->role == TLS_ROLE_SERVER;
	uint8_t digest[EVP_MAX_MD_SIZE];
	unsigned len;

	if (!session_context(b, digest, &len) ||
	    !SSL_CTX_set_session_id_context(b->ctx, digest, len))
		tls_report_error(b->report, "%s: cannot set the session context: %s",
				 b->input->name, tls_pem_openssl_reason());
	SSL_CTX_set_session_cache_mode(b->ctx, cache ? SSL_SESS_CACHE_SERVER : SSL_SESS_CACHE_OFF);
	SSL_CTX_set_timeout(b->ctx, TLS_TICKET_LIFETIME);
	SSL_CTX_set_num_tickets(b->ctx, (size_t)b->settings->session_tickets);
	if (b->settings->session_tickets == 0)
		SSL_CTX_set_options(b->ctx, SSL_OP_NO_TICKET);
}

/* True if no trusted certificate issued this one, nor is it its own issuer. */
static bool issuer_is_missing(struct tls_build *b, X509 *cert)
{
	X509_STORE_CTX *store = X509_STORE_CTX_new();
	X509 *issuer = NULL;
	bool missing;

	missing = store && X509_check_issued(cert, cert) != X509_V_OK &&
		  X509_STORE_CTX_init(store, SSL_CTX_get_cert_store(b->ctx), cert, NULL) == 1 &&
		  X509_STORE_CTX_get1_issuer(&issuer, store, cert) != 1;
	X509_free(issuer);
	X509_STORE_CTX_free(store);
	ERR_clear_error();
	return missing;
}

/* An intermediate that was left out is what most often makes peers refuse a certificate; with CAs
 * at hand it can be noticed. */
static void check_issuer(struct tls_build *b)
{
	STACK_OF(X509) *chain = NULL;
	X509 *last = SSL_CTX_get0_certificate(b->ctx);
	char subject[256];

	SSL_CTX_get0_chain_certs(b->ctx, &chain);
	if (chain && sk_X509_num(chain) > 0)
		last = sk_X509_value(chain, sk_X509_num(chain) - 1);
	if ((b->settings->ca_list || b->settings->ca_path) && issuer_is_missing(b, last))
		SAY_WARNING(b, certificate,
			    "no certificate of the chain or of ca_list issued "
			    "'%s': an intermediate may be missing",
			    tls_identity_subject(last, subject, sizeof(subject)));
}

/*
 * Left alone, OpenSSL builds its own chain anew for every handshake that has a CA store, a
 * quarter of the handshake's cost. Do it once.
 */
static void build_chain(struct tls_build *b)
{
	X509 *own = SSL_CTX_get0_certificate(b->ctx);
	int more;

	SSL_CTX_set_mode(b->ctx, SSL_MODE_NO_AUTO_CHAIN);
	for (more = SSL_CTX_set_current_cert(b->ctx, SSL_CERT_SET_FIRST); more == 1;
	     more = SSL_CTX_set_current_cert(b->ctx, SSL_CERT_SET_NEXT)) {
		STACK_OF(X509) *chain = NULL;

		SSL_CTX_get0_chain_certs(b->ctx, &chain);
		if (!chain)
			SSL_CTX_build_cert_chain(b->ctx, SSL_BUILD_CHAIN_FLAG_NO_ROOT |
								 SSL_BUILD_CHAIN_FLAG_IGNORE_ERROR |
								 SSL_BUILD_CHAIN_FLAG_CLEAR_ERROR);
		check_issuer(b);
	}
	if (own)
		SSL_CTX_select_current_cert(b->ctx, own);
	ERR_clear_error();
}

static void build_ocsp(struct tls_build *b, const char *name, const struct tls_place *place,
		       const char *file, X509 *cert)
{
	char *path = file ? tls_file_path(b->input->dir, file) : NULL;
	struct tls_ocsp_source source = {path, place, name, cert};

	if (!file)
		return;
	if (!path)
		tls_build_say(b, tls_report_error, place, name, "out of memory");
	else if (b->input->role == TLS_ROLE_CLIENT)
		tls_build_say(b, tls_report_warning, place, name,
			      "it has no effect for connections that are opened");
	else if (cert)
		tls_ocsp_build(b, &source);
	free(path);
}

static void build_responses(struct tls_build *b)
{
	const struct tls_settings *s = b->settings;

	if (s->ocsp_response2 && !s->certificate2)
		SAY_ERROR(b, ocsp_response2, "it needs certificate2, which is not set");
	build_ocsp(b, "ocsp_response", &b->input->places->ocsp_response, s->ocsp_response,
		   b->own_cert[0]);
	build_ocsp(b, "ocsp_response2", &b->input->places->ocsp_response2, s->ocsp_response2,
		   b->own_cert[1]);
}

static void build_options(struct tls_build *b)
{
	const struct cfg_group_tls *cfg = b->input->cfg;
	uint64_t options = SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE |
			   SSL_OP_PRIORITIZE_CHACHA | SSL_OP_SINGLE_DH_USE;

	if (tls_workaround_on(TLS_WORKAROUND_CERT_COMPRESSION))
		options |= TLS_OP_NO_RX_CERTIFICATE_COMPRESSION;
	SSL_CTX_clear_options(b->ctx, SSL_OP_NO_COMPRESSION);
	if (fixed_c_zlib_installed())
		fixed_c_zlib_allow(b->ctx);
	else
		options |= SSL_OP_NO_COMPRESSION;
	SSL_CTX_set_options(b->ctx, options);
	SSL_CTX_set_mode(b->ctx,
			 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (cfg->ssl_release_buffers == 1)
		SSL_CTX_set_mode(b->ctx, SSL_MODE_RELEASE_BUFFERS);
	else if (cfg->ssl_release_buffers == 0)
		SSL_CTX_clear_mode(b->ctx, SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_dh_auto(b->ctx, 1);
	if (cfg->ssl_max_send_fragment > 0)
		SSL_CTX_set_max_send_fragment(b->ctx, cfg->ssl_max_send_fragment);
}

SSL_CTX *tls_context_new(const struct tls_context_input *input, struct tls_report *report)
{
	static const build_step steps[] = {
		tls_protocol_build_versions,
		tls_protocol_build_ciphers,
		tls_protocol_build_lists,
		build_certificate,
		build_verify,
		build_store,
		build_sessions,
		build_chain,
		build_responses,
		build_options,
	};
	struct tls_build b = {.input = input, .settings = input->settings, .report = report};
	unsigned errors = report->errors;

	b.ctx = tls_provider_ssl_ctx(input->role == TLS_ROLE_SERVER ? TLS_server_method()
								    : TLS_client_method());
	if (!b.ctx) {
		tls_report_error(report, "%s: cannot make an SSL_CTX: %s", input->name,
				 tls_pem_openssl_reason());
		return NULL;
	}
	input->prepare(b.ctx);
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		steps[i](&b);
	if (report->errors == errors)
		tls_protocol_probe(&b);
	X509_free(b.own_cert[0]);
	X509_free(b.own_cert[1]);
	if (report->errors == errors)
		return b.ctx;
	SSL_CTX_free(b.ctx);
	return NULL;
}

bool tls_context_enter(SSL *ssl, const SSL_CTX *ctx)
{
	SSL_clear_options(ssl, SSL_OP_NO_TICKET);
	SSL_set_options(ssl, SSL_CTX_get_options(ctx) & SSL_OP_NO_TICKET);
	return SSL_set_num_tickets(ssl, SSL_CTX_get_num_tickets(ctx)) == 1 &&
	       tls_protocol_enter(ssl, ctx);
}

void tls_context_thread_end(void)
{
	tls_pem_thread_end();
}
