/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_ocsp.h"

#include "tls_file.h"

#include <openssl/err.h>
#include <openssl/ocsp.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* certificate and certificate2 */
#define MAX_RESPONSES 2

struct response {
	X509 *cert;
	struct tls_file file; /* DER */
	time_t from, until;   /* 0: without end */
};

/* Owner: the SSL_CTX; never changes once that is built. */
struct responses {
	struct response list[MAX_RESPONSES];
	unsigned count;
};

static int responses_index = -1;
static CRYPTO_ONCE responses_once = CRYPTO_ONCE_STATIC_INIT;

static void free_responses(void *parent, void *ptr, CRYPTO_EX_DATA *data, int index, long argl,
			   void *argp)
{
	struct responses *responses = ptr;

	(void)parent;
	(void)data;
	(void)index;
	(void)argl;
	(void)argp;
	for (unsigned i = 0; responses && i < responses->count; i++) {
		X509_free(responses->list[i].cert);
		tls_file_free(&responses->list[i].file);
	}
	free(responses);
}

static void make_responses_index(void)
{
	responses_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_responses);
}

/* A client has asked: gives it the response about the certificate that it gets, if there is one. */
static int on_status(SSL *ssl, void *arg)
{
	const struct responses *responses = arg;
	const X509 *cert = SSL_get_certificate(ssl);
	time_t now = time(NULL);

	for (unsigned i = 0; cert && i < responses->count; i++) {
		const struct response *r = &responses->list[i];
		uint8_t *der;

		if (X509_cmp(cert, r->cert) != 0 || now < r->from || (r->until && now >= r->until))
			continue;
		der = OPENSSL_memdup(r->file.data, r->file.size); /* the SSL's from now on */
		if (!der)
			break;
		SSL_set_tlsext_status_ocsp_resp(ssl, der, (long)r->file.size);
		return SSL_TLSEXT_ERR_OK;
	}
	return SSL_TLSEXT_ERR_NOACK;
}

/* Takes the response over. */
static bool keep(SSL_CTX *ctx, const struct response *response)
{
	struct responses *responses;

	CRYPTO_THREAD_run_once(&responses_once, make_responses_index);
	responses = SSL_CTX_get_ex_data(ctx, responses_index);
	if (!responses) {
		responses = calloc(1, sizeof(*responses));
		if (!responses || !SSL_CTX_set_ex_data(ctx, responses_index, responses)) {
			free(responses);
			return false;
		}
		SSL_CTX_set_tlsext_status_cb(ctx, on_status);
		SSL_CTX_set_tlsext_status_arg(ctx, responses);
	}
	if (responses->count == MAX_RESPONSES)
		return false;
	X509_up_ref(response->cert);
	responses->list[responses->count++] = *response;
	return true;
}

/* ---- reading and judging a response ---- */

/* What is being read, and whom it is told to. */
struct reading {
	struct tls_build *b;
	const struct tls_ocsp_source *source;
	struct response response;
};

static void say(struct reading *r, void (*what)(struct tls_report *, const char *, ...),
		const char *format, ...) __attribute__((format(printf, 3, 4)));
static void say(struct reading *r, void (*what)(struct tls_report *, const char *, ...),
		const char *format, ...)
{
	char text[512];
	int len = snprintf(text, sizeof(text), "file '%s': ", r->source->path);
	va_list args;

	if (len < 0 || (size_t)len >= sizeof(text))
		len = 0;
	va_start(args, format);
	vsnprintf(text + len, sizeof(text) - (size_t)len, format, args);
	va_end(args);
	tls_build_say(r->b, what, r->source->place, r->source->name, text);
}

/* The certificate's issuer, of its chain or a trusted one. One reference. */
static X509 *issuer_of(struct tls_build *b, X509 *cert)
{
	X509_STORE_CTX *store = X509_STORE_CTX_new();
	STACK_OF(X509) *chain = NULL;
	X509 *issuer = NULL;

	if (SSL_CTX_select_current_cert(b->ctx, cert) == 1)
		SSL_CTX_get0_chain_certs(b->ctx, &chain);
	for (int i = 0; i < sk_X509_num(chain) && !issuer; i++)
		if (X509_check_issued(sk_X509_value(chain, i), cert) == X509_V_OK)
			issuer = sk_X509_value(chain, i);
	if (issuer)
		X509_up_ref(issuer);
	else if (!store ||
		 X509_STORE_CTX_init(store, SSL_CTX_get_cert_store(b->ctx), cert, NULL) != 1 ||
		 X509_STORE_CTX_get1_issuer(&issuer, store, cert) != 1)
		issuer = NULL;
	X509_STORE_CTX_free(store);
	ERR_clear_error();
	return issuer;
}

/* True if the id is the certificate's, whatever digest it was made with. */
static bool is_about(const OCSP_CERTID *id, X509 *cert, X509 *issuer)
{
	ASN1_OBJECT *digest = NULL;
	const EVP_MD *md = NULL;
	OCSP_CERTID *own;
	bool same;

	if (OCSP_id_get0_info(NULL, &digest, NULL, NULL, (OCSP_CERTID *)id) == 1)
		md = EVP_get_digestbyobj(digest);
	own = md ? OCSP_cert_to_id(md, cert, issuer) : NULL;
	same = own && OCSP_id_cmp((OCSP_CERTID *)id, own) == 0;
	OCSP_CERTID_free(own);
	return same;
}

static OCSP_SINGLERESP *single_about(OCSP_BASICRESP *basic, X509 *cert, X509 *issuer)
{
	for (int i = 0; i < OCSP_resp_count(basic); i++) {
		OCSP_SINGLERESP *single = OCSP_resp_get0(basic, i);

		if (is_about(OCSP_SINGLERESP_get0_id(single), cert, issuer))
			return single;
	}
	return NULL;
}

/* The issuer signed it, or a responder that the issuer has made a certificate for (RFC 6960
 * section 4.2.2.2). */
static bool is_signed(OCSP_BASICRESP *basic, X509 *issuer)
{
	X509_STORE *store = X509_STORE_new();
	STACK_OF(X509) *certs = sk_X509_new_null();
	bool ok = store && certs && X509_STORE_add_cert(store, issuer) == 1 &&
		  X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN) == 1 &&
		  sk_X509_push(certs, issuer) > 0 && OCSP_basic_verify(basic, certs, store, 0) == 1;

	sk_X509_free(certs);
	X509_STORE_free(store);
	ERR_clear_error();
	return ok;
}

static time_t seconds_of(const ASN1_GENERALIZEDTIME *time)
{
	struct tm tm;

	return time && ASN1_TIME_to_tm(time, &tm) == 1 ? timegm(&tm) : 0;
}

/* Notes from when until when the response is good. */
static void take_times(struct reading *r, const ASN1_GENERALIZEDTIME *from,
		       const ASN1_GENERALIZEDTIME *until)
{
	struct response *response = &r->response;
	time_t now = time(NULL);
	char when[32];
	struct tm tm;

	response->from = seconds_of(from);
	response->until = seconds_of(until);
	if (response->until && now >= response->until) {
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", gmtime_r(&response->until, &tm));
		say(r, tls_report_warning, "the response expired on %s UTC and is not sent", when);
	} else if (now < response->from) {
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", gmtime_r(&response->from, &tm));
		say(r, tls_report_warning, "the response is not valid and not sent before %s UTC",
		    when);
	}
}

static bool judge_single(struct reading *r, OCSP_SINGLERESP *single)
{
	ASN1_GENERALIZEDTIME *from = NULL, *until = NULL;
	int reason = 0, status = OCSP_single_get0_status(single, &reason, NULL, &from, &until);

	if (status != V_OCSP_CERTSTATUS_GOOD) {
		say(r, tls_report_error, "the response says that the certificate is %s",
		    OCSP_cert_status_str(status));
		return false;
	}
	take_times(r, from, until);
	return true;
}

static bool judge_basic(struct reading *r, OCSP_BASICRESP *basic)
{
	X509 *issuer = issuer_of(r->b, r->source->cert);
	OCSP_SINGLERESP *single = issuer ? single_about(basic, r->source->cert, issuer) : NULL;
	bool ok = false;

	if (!issuer)
		say(r, tls_report_error,
		    "it cannot be checked: the issuer of the certificate is neither in the "
		    "certificate's file nor in ca_list");
	else if (!single)
		say(r, tls_report_error, "the response is not about the certificate");
	else if (!is_signed(basic, issuer))
		say(r, tls_report_error,
		    "the signature of the response is not that of the certificate's issuer");
	else
		ok = judge_single(r, single);
	X509_free(issuer);
	return ok;
}

static bool judge(struct reading *r)
{
	const struct tls_file *file = &r->response.file;
	const uint8_t *der = (const uint8_t *)file->data;
	OCSP_RESPONSE *whole = d2i_OCSP_RESPONSE(NULL, &der, (long)file->size);
	int status = whole ? OCSP_response_status(whole) : -1;
	OCSP_BASICRESP *basic = NULL;
	bool ok = false;

	if (!whole || der != (const uint8_t *)file->data + file->size)
		say(r, tls_report_error, "it contains no OCSP response in DER");
	else if (status != OCSP_RESPONSE_STATUS_SUCCESSFUL)
		say(r, tls_report_error, "the responder did not answer: %s",
		    OCSP_response_status_str(status));
	else if (!(basic = OCSP_response_get1_basic(whole)))
		say(r, tls_report_error, "the response is not a basic one");
	else
		ok = judge_basic(r, basic);
	OCSP_BASICRESP_free(basic);
	OCSP_RESPONSE_free(whole);
	ERR_clear_error();
	return ok;
}

void tls_ocsp_build(struct tls_build *b, const struct tls_ocsp_source *source)
{
	struct reading r = {b, source, {.cert = source->cert}};
	char why[TLS_FILE_WHY];

	if (tls_file_read(source->path, &r.response.file, why) != 0) {
		tls_build_say(b, tls_report_error, source->place, source->name, why);
		return;
	}
	if (judge(&r)) {
		if (keep(b->ctx, &r.response))
			return;
		say(&r, tls_report_error, "out of memory");
	}
	tls_file_free(&r.response.file);
}
