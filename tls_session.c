/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_session.h"

#include "fixed_c_zlib.h"
#include "tls_compat.h"
#include "tls_context.h"
#include "tls_keylog.h"
#include "tls_resume.h"
#include "tls_traffic.h"
#include "tls_workaround.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* A peer must not fill the log with its names. */
#define SUBJECT_TEXT 200
#define NAMES_TEXT   300
#define CERT_TEXT    (SUBJECT_TEXT + 2 * NAMES_TEXT + 64)
/* A ClientHello that is longer is not kept in shared memory, which clients could fill with it. */
#define MAX_HELLO 4096
/* Bytes of a client's certificates that TLS 1.3 tickets are made with. */
#define MAX_TICKET_CERT 60000

#define PSK_DHE_KE 1 /* RFC 8446 section 4.2.9 */

/* Owner: the engine's table. Used by one thread at a time. */
struct tls_session {
	SSL *ssl;
	BIO *in, *out;             /* owned by ssl */
	struct tls_session_io *io; /* while it runs, else NULL */
	struct tls_domain_set *set;
	const struct tls_domain *domain; /* NULL: none is found yet, and there is no default */
	struct tls_address local;
	enum tls_role role;
	bool done;
	int alert_sent, alert_received; /* or -1 */
	struct tls_traffic traffic;
	char server_name[TLS_SESSION_NAME];
	struct tls_offer offer;
	bool no_domain;           /* no section fits what the client asks for */
	bool mistaken;            /* OpenSSL expects another Finished than was foretold */
	bool takes_tickets;       /* TLS 1.3: the client says how it would resume a session */
	bool revoked;             /* a certificate of the peer's chain */
	char bad_cert[CERT_TEXT]; /* what is wrong with the peer's certificate */
	struct fixed_c_zlib_meter zlib;
};

/* A library that expects another Finished costs one handshake, and not all. */
static atomic_bool cannot_foretell;

static int session_index = -1;
static bool exchange_works; /* tls_x25519_works() */
static CRYPTO_ONCE begin_once = CRYPTO_ONCE_STATIC_INIT;

static void begin(void)
{
	session_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	exchange_works = tls_x25519_works();
}

static struct tls_session *session_of(const SSL *ssl)
{
	return SSL_get_ex_data(ssl, session_index);
}

static void on_keylog(const SSL *ssl, const char *line)
{
	struct tls_session *s = session_of(ssl);

	if (!s)
		return;
	if (s->io && s->io->keylog_mode)
		tls_keylog_add(s->io->keylog, s->io->keylog_mode, line);
	tls_traffic_note_secret(&s->traffic, line);
}

/* Keeps a message of the handshake: a hash that has begun cannot go to another process. */
static void note_message(struct tls_session *s, struct tls_session_io *io, const uint8_t *message,
			 size_t len)
{
	if (message[0] == SSL3_MT_SERVER_HELLO)
		tls_traffic_note_hello(&s->traffic, message, len);
	if (len > io->messages_size - io->messages_len) {
		io->messages_cut = true;
		return;
	}
	memcpy(io->messages + io->messages_len, message, len);
	io->messages_len += len;
}

static void on_message(int sent, int version, int type, const void *data, size_t len, SSL *ssl,
		       void *unused)
{
	struct tls_session *s = session_of(ssl);
	const uint8_t *bytes = data;

	(void)version;
	(void)unused;
	if (!s || len == 0)
		return;
	/* A ticket has room for 64 KB and holds the peer's certificate: OpenSSL would fail. */
	if (!sent && type == SSL3_RT_HANDSHAKE && bytes[0] == SSL3_MT_CERTIFICATE &&
	    len > MAX_TICKET_CERT)
		SSL_set_num_tickets(ssl, 0);
	if (type == SSL3_RT_HANDSHAKE && s->role == TLS_ROLE_SERVER && s->io && !s->done)
		note_message(s, s->io, bytes, len);
	tls_traffic_count(&s->traffic, ssl, sent, type, bytes);
	if (s->done && s->io && !sent && type == SSL3_RT_HEADER &&
	    bytes[0] == TLS_CONTENT_APPLICATION_DATA)
		s->io->clear_records++;
}

static void on_info(const SSL *ssl, int where, int value)
{
	struct tls_session *s = session_of(ssl);

	if (!s || !(where & SSL_CB_ALERT))
		return;
	if (where & SSL_CB_WRITE)
		s->alert_sent = value & 0xff;
	else
		s->alert_received = value & 0xff;
}

/* The names of which the peer's certificate must hold one; NULL: any will do. */
static const char *expected_names(const struct tls_session *s)
{
	if (s->domain->rule == TLS_IDENTITY_OFF)
		return NULL;
	return s->domain->settings.verify_names ? s->domain->settings.verify_names : s->server_name;
}

/* The chain has verified: now its end entity must be who it should be. */
static int check_identity(struct tls_session *s, X509 *cert, X509_STORE_CTX *store)
{
	const char *names = expected_names(s);
	char presented[NAMES_TEXT];

	if (!names || tls_identity_match_any(cert, s->domain->rule, names))
		return 1;
	X509_STORE_CTX_set_error(store, X509_V_ERR_HOSTNAME_MISMATCH);
	tls_identity_names(cert, s->domain->rule, presented, sizeof(presented));
	s->bad_cert[0] = '\0';
	tls_text_add(s->bad_cert, sizeof(s->bad_cert), " presented=\"%s\" expected=\"%.*s\"",
		     presented, NAMES_TEXT, names);
	return 0;
}

/* No session outlives the certificate that it was made with, nor those of its chain. */
static void limit_session(SSL *ssl, X509 *cert)
{
	SSL_SESSION *session = SSL_get_session(ssl);
	int64_t left;

	if (!session || !tls_time_left(X509_get0_notAfter(cert), &left))
		return;
	if (left > 0 && left < SSL_SESSION_get_timeout(session))
		SSL_SESSION_set_timeout(session, (long)left);
}

/* Keeps what a failure's log line will tell; optional_no_ca goes on nevertheless. */
static int on_verify(int ok, X509_STORE_CTX *store)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls_session *s = session_of(ssl);
	X509 *cert = X509_STORE_CTX_get_current_cert(store);
	int depth = X509_STORE_CTX_get_error_depth(store);
	char subject[SUBJECT_TEXT];

	if (!s)
		return ok;
	if (ok && cert)
		limit_session(ssl, cert);
	if (ok)
		return depth == 0 && cert ? check_identity(s, cert, store) : 1;
	/* The last problem is what is kept, and no later one may hide this. */
	s->revoked |= X509_STORE_CTX_get_error(store) == X509_V_ERR_CERT_REVOKED;
	if (s->revoked)
		X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REVOKED);
	tls_identity_subject(cert, subject, sizeof(subject));
	s->bad_cert[0] = '\0';
	tls_text_add(s->bad_cert, sizeof(s->bad_cert), " cert=\"%s\" depth=%d", subject, depth);
	return s->domain->accept_unverified;
}

/* Keeps a name in the form that it has in a ClientHello, without the trailing dot of a DNS name; it
 * goes into log lines. */
static void take_name(struct tls_session *s, const char *name, size_t len)
{
	if (len > 1 && name[len - 1] == '.')
		len--;
	for (size_t i = 0; i < len; i++)
		s->server_name[i] =
			name[i] > ' ' && name[i] < 0x7f && name[i] != '"' ? name[i] : '?';
	s->server_name[len] = '\0';
}

/* server_name of RFC 6066 section 3: a list with one entry of type host_name. */
static void note_server_name(struct tls_session *s, SSL *ssl)
{
	const unsigned char *ext;
	size_t len, name_len;

	if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &ext, &len) || len < 5 ||
	    ext[2] != TLSEXT_NAMETYPE_host_name)
		return;
	name_len = (size_t)ext[3] << 8 | ext[4];
	if (name_len > len - 5 || name_len >= sizeof(s->server_name))
		return;
	take_name(s, (const char *)ext + 5, name_len);
}

/*
 * Lets all of a domain's section apply, not only its certificate. Suites, CA lists, signature
 * algorithms, ALPN, stapling and security level come with the SSL_CTX; so does the session context,
 * since it is still the old one's.
 */
static bool switch_context(SSL *ssl, SSL_CTX *ctx)
{
	if (SSL_set_SSL_CTX(ssl, ctx) != ctx)
		return false;
	if (!tls_workaround_on(TLS_WORKAROUND_SWITCH_CONTEXT))
		return true;
	SSL_set_verify(ssl, SSL_CTX_get_verify_mode(ctx), SSL_CTX_get_verify_callback(ctx));
	SSL_set_verify_depth(ssl, SSL_CTX_get_verify_depth(ctx));
	return SSL_set_min_proto_version(ssl, SSL_CTX_get_min_proto_version(ctx)) &&
	       SSL_set_max_proto_version(ssl, SSL_CTX_get_max_proto_version(ctx));
}

static bool enter_domain(struct tls_session *s, const struct tls_domain *domain)
{
	s->domain = domain;
	return SSL_get_SSL_CTX(s->ssl) == domain->ctx ||
	       (switch_context(s->ssl, domain->ctx) && tls_context_enter(s->ssl, domain->ctx));
}

/* RFC 8446 section 4.2.9: a server of TLS 1.3 gives no ticket that the client could not use. */
static bool offers_resumption(SSL *ssl)
{
	const unsigned char *modes;
	size_t len;

	return SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk_kex_modes, &modes, &len) == 1 &&
	       len > 1 && memchr(modes + 1, PSK_DHE_KE, len - 1);
}

static int on_client_hello(SSL *ssl, int *alert, void *unused)
{
	struct tls_session *s = session_of(ssl);
	const struct tls_domain *domain;
	bool unknown;

	(void)unused;
	if (!s || s->offer.versions_len > 0) /* once: HelloRetryRequest brings a second one */
		return SSL_CLIENT_HELLO_SUCCESS;
	tls_offer_note(&s->offer, ssl);
	s->takes_tickets = offers_resumption(ssl);
	note_server_name(s, ssl);
	domain = tls_domain_find_server(s->set, &s->local,
					s->server_name[0] ? s->server_name : NULL, &unknown);
	if (domain && enter_domain(s, domain))
		return SSL_CLIENT_HELLO_SUCCESS;
	s->no_domain = !domain;
	*alert = domain              ? SSL_AD_INTERNAL_ERROR
		 : s->server_name[0] ? SSL_AD_UNRECOGNIZED_NAME
				     : SSL_AD_HANDSHAKE_FAILURE;
	return SSL_CLIENT_HELLO_ERROR;
}

void tls_session_prepare(SSL_CTX *ctx, bool keylog)
{
	CRYPTO_THREAD_run_once(&begin_once, begin);
	if (keylog)
		SSL_CTX_set_keylog_callback(ctx, on_keylog);
	SSL_CTX_set_msg_callback(ctx, on_message);
	SSL_CTX_set_info_callback(ctx, on_info);
	SSL_CTX_set_client_hello_cb(ctx, on_client_hello, NULL);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, on_verify);
	tls_resume_prepare(ctx);
}

static bool is_ip_address(const char *name)
{
	uint8_t ip[16];

	return inet_pton(AF_INET, name, ip) == 1 || inet_pton(AF_INET6, name, ip) == 1;
}

static bool start_client(struct tls_session *s)
{
	const char *name = s->domain->settings.server_name;

	SSL_set_connect_state(s->ssl);
	if (!s->server_name[0] && name)
		take_name(s, name, strnlen(name, sizeof(s->server_name) - 1));
	/* RFC 6066 section 3: an address is not sent as a name; it can be verified all the same. */
	return !s->server_name[0] || is_ip_address(s->server_name) ||
	       SSL_set_tlsext_host_name(s->ssl, s->server_name) == 1;
}

static bool session_start(struct tls_session *s, const struct tls_session_setup *setup)
{
	bool server = s->role == TLS_ROLE_SERVER;
	const struct tls_domain *begin;

	if (!server)
		take_name(s, setup->server_name,
			  strnlen(setup->server_name, sizeof(s->server_name) - 1));
	/* A server's is the default until the ClientHello tells. */
	s->domain = server ? s->set->server_default
			   : tls_domain_find_client(s->set, setup->server_id, &setup->remote,
						    s->server_name);
	begin = server ? s->set->server_begin : s->domain;
	if (!begin)
		return false;
	s->ssl = SSL_new(begin->ctx);
	s->in = BIO_new(BIO_s_mem());
	s->out = BIO_new(BIO_s_mem());
	if (!s->ssl || !s->in || !s->out || !SSL_set_ex_data(s->ssl, session_index, s) ||
	    !tls_resume_attach(s->ssl, s->set->tickets)) {
		BIO_free(s->in);
		BIO_free(s->out);
		return false;
	}
	SSL_set_bio(s->ssl, s->in, s->out);
	if (server)
		SSL_set_accept_state(s->ssl);
	return server || start_client(s);
}

struct tls_session *tls_session_new(struct tls_domain_set *set,
				    const struct tls_session_setup *setup)
{
	struct tls_session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->set = tls_domain_set_ref(set);
	s->role = setup->role;
	s->local = setup->local;
	s->alert_sent = s->alert_received = -1;
	if (!session_start(s, setup)) {
		tls_session_free(s);
		return NULL;
	}
	return s;
}

void tls_session_free(struct tls_session *s)
{
	if (!s)
		return;
	/* Without this OpenSSL takes a connection that ended without an alert for broken, and
	 * its session out of the cache. */
	if (s->ssl && s->done)
		SSL_set_shutdown(s->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(s->ssl);
	tls_domain_set_unref(s->set);
	fixed_c_zlib_count(NULL);
	OPENSSL_cleanse(s, sizeof(*s));
	free(s);
}

static void drain(struct tls_session *s, struct tls_session_io *io)
{
	size_t room = io->out_size - io->out_len;
	int len = room > 0 ? BIO_read(s->out, io->out + io->out_len, (int)room) : 0;

	if (len > 0)
		io->out_len += (size_t)len;
	if (BIO_ctrl_pending(s->out) > 0)
		io->more = true;
}

/* Tells why, in words and, for counting, as a cause. */
static const char *failure_reason(struct tls_session *s, int ssl_error, enum tls_cause *cause)
{
	unsigned long error = ERR_get_error();
	const char *reason = error ? ERR_reason_error_string(error) : NULL;
	long result = SSL_get_verify_result(s->ssl);

	*cause = TLS_CAUSE_protocol;
	if (ERR_GET_REASON(error) == SSL_R_CERTIFICATE_VERIFY_FAILED) {
		*cause = result == X509_V_ERR_HOSTNAME_MISMATCH ? TLS_CAUSE_name
								: TLS_CAUSE_certificate;
		return X509_verify_cert_error_string(result);
	}
	if (s->zlib.trouble)
		return s->zlib.trouble;
	if (s->no_domain) {
		*cause = TLS_CAUSE_domain;
		return "no domain for this address and name";
	}
	if (s->mistaken)
		return "OpenSSL expects another Finished than was foretold; the next ones are "
		       "waited for";
	if (s->alert_received >= 0 && s->alert_sent < 0) {
		*cause = TLS_CAUSE_alert;
		return "the peer ended the handshake with an alert";
	}
	if (ERR_GET_REASON(error) == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
		*cause = TLS_CAUSE_certificate;
	else if (ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE)
		*cause = TLS_CAUSE_memory;
	if (reason)
		return reason;
	return ssl_error == SSL_ERROR_SYSCALL ? "unexpected end of data" : "OpenSSL failed";
}

/* Appends to a line what is known of the session. */
static void session_tell(const struct tls_session *s, char *text)
{
	struct tls_facts facts = {
		.domain = s->domain ? s->domain->name : NULL,
		.bad_cert = s->bad_cert,
		.server_name = s->server_name,
		.alert_sent = s->alert_sent,
		.alert_received = s->alert_received,
		.offer = &s->offer,
	};

	tls_facts_tell(&facts, text, TLS_SESSION_TEXT);
}

/* Tells why in one line. */
static enum tls_session_state session_fail(struct tls_session *s, struct tls_session_io *io,
					   int ssl_error)
{
	io->text[0] = '\0';
	tls_text_add(io->text, TLS_SESSION_TEXT, "reason=\"%s\"",
		     failure_reason(s, ssl_error, &io->cause));
	session_tell(s, io->text);
	ERR_clear_error();
	drain(s, io);
	return TLS_SESSION_FAILED;
}

/* Appends a certificate, or a length of 0 for NULL. Returns false if there is no room for it. */
static bool add_cert(struct tls_session_io *io, X509 *cert)
{
	int len = cert ? i2d_X509(cert, NULL) : 0;
	uint8_t *to = io->cert + io->cert_len;

	if (len < 0 || io->cert_len + 4 + (size_t)len > io->cert_size)
		return false;
	to = tls_put(to, (uint32_t)len, 4);
	if (cert)
		i2d_X509(cert, &to);
	io->cert_len += 4 + (size_t)len;
	return true;
}

/* A resumed session has no chain: it was not verified again. */
static void add_chain(struct tls_session *s, struct tls_session_io *io)
{
	const STACK_OF(X509) *chain = SSL_get0_verified_chain(s->ssl);
	size_t start = io->cert_len;

	for (int i = 1; i < sk_X509_num(chain); i++)
		if (!add_cert(io, sk_X509_value(chain, i))) {
			io->cert_len = start; /* a part of it could be taken for the whole */
			return;
		}
}

static void fill_certs(struct tls_session *s, struct tls_session_io *io)
{
	X509 *peer = SSL_get_peer_certificate(s->ssl);

	io->info->has_peer_cert = peer != NULL;
	io->info->verify_result = SSL_get_verify_result(s->ssl);
	io->info->verified = peer && io->info->verify_result == X509_V_OK;
	if (!add_cert(io, SSL_get_certificate(s->ssl)))
		add_cert(io, NULL);
	if (add_cert(io, peer) && io->info->verified)
		add_chain(s, io);
	X509_free(peer);
}

static void fill_info(struct tls_session *s, struct tls_session_io *io)
{
	const SSL_CIPHER *cipher = SSL_get_current_cipher(s->ssl);
	struct tls_session_info *info = io->info;

	memset(info, 0, sizeof(*info));
	info->version = (uint16_t)SSL_version(s->ssl);
	info->suite = (uint16_t)SSL_CIPHER_get_protocol_id(cipher);
	info->suite_bits = (uint16_t)SSL_CIPHER_get_bits(cipher, NULL);
	info->resumed = SSL_session_reused(s->ssl);
	snprintf(info->server_name, sizeof(info->server_name), "%s", s->server_name);
	info->domain_id = s->domain->ident->id;
	fill_certs(s, io);
}

/* Reads what there is of a held connection, or notes that the peer is done. */
static enum tls_session_state session_read(struct tls_session *s, struct tls_session_io *io)
{
	int len, error;

	while (io->clear_len < io->clear_size) {
		ERR_clear_error();
		len = SSL_read(s->ssl, io->clear + io->clear_len,
			       (int)(io->clear_size - io->clear_len));
		if (len > 0) {
			io->clear_len += (size_t)len;
			continue;
		}
		error = SSL_get_error(s->ssl, len);
		drain(s, io);
		if (error == SSL_ERROR_WANT_READ)
			return TLS_SESSION_HELD;
		return error == SSL_ERROR_ZERO_RETURN ? TLS_SESSION_EOF
						      : session_fail(s, io, error);
	}
	io->more = true;
	drain(s, io);
	return TLS_SESSION_HELD;
}

static enum tls_session_state session_finish(struct tls_session *s, struct tls_session_io *io)
{
	s->done = true;
	fill_info(s, io);
	drain(s, io);
	/* A flight that does not fit is sent before the keys are handed over. */
	if (!io->more && tls_traffic_stream(&s->traffic, s->ssl, io->stream)) {
		io->in_used = io->in_len - BIO_ctrl_pending(s->in);
		return TLS_SESSION_FAST;
	}
	return session_read(s, io);
}

/* Begins a call that may compress or expand. */
static void call_begin(struct tls_session *s)
{
	fixed_c_zlib_count(&s->zlib);
	ERR_clear_error();
}

/* Ends it: the counts go with the answer, and no secret stays in the thread. */
static enum tls_session_state call_end(const struct tls_session *s, struct tls_session_io *io,
				       enum tls_session_state state)
{
	fixed_c_zlib_count(NULL);
	tls_hash_forget();
	io->clear_bytes = s->zlib.clear;
	io->packed_bytes = s->zlib.packed;
	return state;
}

/* For more of the peer. */
static enum tls_session_state session_wait(struct tls_session *s, struct tls_session_io *io)
{
	drain(s, io);
	return TLS_SESSION_HANDSHAKE;
}

static enum tls_session_state session_starve(struct tls_session_io *io)
{
	snprintf(io->text, TLS_SESSION_TEXT, "reason=\"out of memory\"");
	io->cause = TLS_CAUSE_memory;
	return TLS_SESSION_FAILED;
}

/* A server that asks for a certificate does not know what the client will say. */
static bool asks_for_certificate(const struct tls_session *s)
{
	return SSL_get_verify_mode(s->ssl) != SSL_VERIFY_NONE && !SSL_session_reused(s->ssl);
}

/* True if nothing but a Finished can come. Early data would come before it: OpenSSL knows how much
 * of that to skip. */
static bool can_foretell(const struct tls_session *s, const struct tls_session_io *io)
{
	return s->role == TLS_ROLE_SERVER && SSL_version(s->ssl) == TLS1_3_VERSION &&
	       !atomic_load(&cannot_foretell) && tls_traffic_knows_finished(&s->traffic) &&
	       !asks_for_certificate(s) &&
	       SSL_get_early_data_status(s->ssl) == SSL_EARLY_DATA_NOT_SENT &&
	       !SSL_has_pending(s->ssl) && BIO_ctrl_pending(s->in) == 0 &&
	       BIO_ctrl_pending(s->out) < io->out_size / 2;
}

/* The engine is done with a handshake that the client is not: what is known of it goes along. */
static void pass_on(struct tls_session *s, struct tls_session_io *io)
{
	fill_info(s, io);
	drain(s, io);
	*io->offer = s->offer;
}

/* Seals a ticket behind what goes out, with the keys of the stream. Returns false if the stream is
 * spoiled; without a ticket a client can live. */
static bool add_ticket(struct tls_session *s, struct tls_session_io *io)
{
	const struct tls_provider_secrets *secrets = &s->traffic.secrets;
	struct tls_record_keys *keys = &io->stream->wr;
	uint8_t message[TLS_RESUME_TICKET];
	size_t len = 0, sealed;

	if (secrets->resumption_len == tls_kdf_hash_size(keys->hash))
		len = tls_resume_ticket(s->ssl, keys->hash, secrets->resumption, message);
	ERR_clear_error();
	if (len == 0 || len + TLS_RECORD_OVERHEAD > io->out_size - io->out_len)
		return true;
	sealed = tls_record_seal(keys, TLS_CONTENT_HANDSHAKE, message, len, io->out + io->out_len);
	tls_aead_forget();
	io->out_len += sealed;
	return sealed > 0;
}

/*
 * Ends the handshake before the client does (RFC 8446 section 4.6.1): the SSL object is given what
 * the client has to send, so that one request to the engine does, and nothing of the handshake
 * stays in it. Whether the client's Finished is what it has to be is for the stream to see; until
 * then nothing is established.
 */
static enum tls_session_state session_foretell(struct tls_session *s, struct tls_session_io *io)
{
	uint8_t record[TLS_AWAIT_RECORD];
	size_t len = tls_traffic_foretell(&s->traffic, s->ssl, io->await, record);
	/* What else there may be is left to OpenSSL. */
	bool sends_ticket = s->takes_tickets && tls_resume_sends_ticket(s->ssl);
	int result;

	if (len == 0)
		return session_wait(s, io);
	drain(s, io);
	io->flight_len = io->out_len;
	if (BIO_write(s->in, record, (int)len) != (int)len)
		return session_starve(io);
	if (sends_ticket)
		SSL_set_num_tickets(s->ssl, 0);
	result = SSL_do_handshake(s->ssl);
	if (result != 1) {
		/* Without memory its alert is internal_error. */
		s->mistaken = s->alert_sent >= 0 && s->alert_sent != SSL_AD_INTERNAL_ERROR;
		if (s->mistaken)
			atomic_store(&cannot_foretell, true);
		return session_fail(s, io, SSL_get_error(s->ssl, result));
	}
	s->done = true;
	pass_on(s, io);
	if (io->more || !tls_traffic_stream(&s->traffic, s->ssl, io->stream) ||
	    (sends_ticket && !add_ticket(s, io)))
		return session_starve(io);
	tls_await_begin(io->stream, io->await);
	return TLS_SESSION_FORETOLD;
}

/* Bytes of the ClientHello that the messages begin with, or 0. */
static size_t hello_len(const struct tls_session_io *io)
{
	const uint8_t *hello = io->messages;

	if (io->messages_len < TLS_MESSAGE_HEADER || hello[0] != SSL3_MT_CLIENT_HELLO)
		return 0;
	return TLS_MESSAGE_HEADER + ((size_t)hello[1] << 16 | (size_t)hello[2] << 8 | hello[3]);
}

/* True for a TLS 1.2 server that has said its part, to a client of which nothing but a ClientHello
 * has come: a part of a message that follows may be inside OpenSSL. */
static bool can_leave_1_2(const struct tls_session *s, const struct tls_session_io *io)
{
	size_t len = hello_len(io);

	return s->role == TLS_ROLE_SERVER && SSL_version(s->ssl) == TLS1_2_VERSION && len > 0 &&
	       len <= MAX_HELLO && len == s->traffic.received && !io->messages_cut &&
	       BIO_ctrl_pending(s->in) == 0 && !SSL_has_pending(s->ssl) &&
	       BIO_ctrl_pending(s->out) <= io->out_size;
}

/* A session of TLS 1.2 is resumed: nothing is missing but the client's Finished, which follows from
 * the messages before it. */
static enum tls_session_state session_foretell_resumed(struct tls_session *s,
						       struct tls_session_io *io)
{
	struct tls_bytes messages = {io->messages, io->messages_len};
	uint8_t verify_data[TLS_EXCHANGE_VERIFY];

	if (!tls_traffic_foretell_resumed(&s->traffic, s->ssl, messages, io->stream, verify_data))
		return session_wait(s, io);
	pass_on(s, io);
	io->flight_len = io->out_len;
	tls_await_begin_resumed(io->stream, io->await, verify_data);
	return TLS_SESSION_FORETOLD;
}

/*
 * Leaves the rest of a TLS 1.2 handshake to whoever reads the client's messages, with this end's
 * key for it, so that one request to the engine does.
 */
static enum tls_session_state session_exchange(struct tls_session *s, struct tls_session_io *io)
{
	struct tls_exchange *x = &io->await->exchange;
	size_t len = io->messages_len;

	if (!tls_traffic_exchange(&s->traffic, s->ssl, x) ||
	    !SSL_SESSION_set_cipher(SSL_get_session(s->ssl), SSL_get_pending_cipher(s->ssl)) ||
	    (s->traffic.promises_ticket &&
	     !tls_resume_template(s->ssl, &x->ticket, io->messages + len, io->messages_size - len)))
		return session_wait(s, io);
	x->messages_len = (uint32_t)len;
	io->messages_len += x->ticket.session_len;
	pass_on(s, io);
	tls_await_begin_exchange(io->stream, io->await);
	return TLS_SESSION_EXCHANGE;
}

/* Looks whether the engine can be done with a handshake that is not. */
static enum tls_session_state session_leave(struct tls_session *s, struct tls_session_io *io,
					    bool knew_finished)
{
	bool can_leave = can_leave_1_2(s, io);
	enum tls_session_state state;

	/* Once only: later a part of the client's message may be inside. */
	if (!knew_finished && can_foretell(s, io))
		state = session_foretell(s, io);
	else if (can_leave && SSL_session_reused(s->ssl))
		state = session_foretell_resumed(s, io);
	else if (can_leave && exchange_works && !asks_for_certificate(s) && !io->keylog_mode)
		state = session_exchange(s, io);
	else
		return session_wait(s, io);
	if (!tls_session_awaits(state)) {
		tls_await_wipe(io->await);
		tls_stream_wipe(io->stream);
	}
	return state;
}

static enum tls_session_state session_handshake(struct tls_session *s, struct tls_session_io *io)
{
	bool knew_finished = tls_traffic_knows_finished(&s->traffic);
	int result = SSL_do_handshake(s->ssl);
	int error = result == 1 ? SSL_ERROR_NONE : SSL_get_error(s->ssl, result);

	if (SSL_version(s->ssl) == TLS1_2_VERSION)
		tls_traffic_note_nonce(&s->traffic, s->out);
	if (error == SSL_ERROR_NONE)
		return session_finish(s, io);
	return error == SSL_ERROR_WANT_READ ? session_leave(s, io, knew_finished)
					    : session_fail(s, io, error);
}

enum tls_session_state tls_session_run(struct tls_session *s, struct tls_session_io *io)
{
	enum tls_session_state state;

	if (io->in_len > 0 && BIO_write(s->in, io->in, (int)io->in_len) != (int)io->in_len)
		return session_starve(io);
	s->io = io;
	tls_provider_watch(&s->traffic.secrets);
	call_begin(s);
	state = call_end(s, io, s->done ? session_read(s, io) : session_handshake(s, io));
	tls_provider_watch(NULL);
	s->io = NULL;
	return state;
}

enum tls_session_state tls_session_write(struct tls_session *s, struct tls_session_io *io)
{
	int len;

	call_begin(s);
	len = SSL_write(s->ssl, io->in, (int)io->in_len);
	if (len <= 0)
		return call_end(s, io, session_fail(s, io, SSL_get_error(s->ssl, len)));
	io->in_used = (size_t)len;
	drain(s, io);
	return call_end(s, io, TLS_SESSION_HELD);
}

void tls_session_close(struct tls_session *s, struct tls_session_io *io)
{
	call_begin(s);
	if (s->done)
		SSL_shutdown(s->ssl);
	ERR_clear_error();
	drain(s, io);
	call_end(s, io, TLS_SESSION_HELD);
}

void tls_session_describe(struct tls_session *s, struct tls_session_io *io)
{
	io->text[0] = '\0';
	session_tell(s, io->text);
}

void tls_session_suite(const struct tls_session *s, struct tls_session_suite *suite)
{
	const SSL_CIPHER *cipher = SSL_get_current_cipher(s->ssl);
	const char *name = SSL_CIPHER_standard_name(cipher);

	snprintf(suite->cipher_name, sizeof(suite->cipher_name), "%s", SSL_CIPHER_get_name(cipher));
	snprintf(suite->name, sizeof(suite->name), "%s", name ? name : suite->cipher_name);
	if (!SSL_CIPHER_description(cipher, suite->description, sizeof(suite->description)))
		suite->description[0] = '\0';
	suite->description[strcspn(suite->description, "\n")] = '\0'; /* OpenSSL ends it with one */
}

void tls_session_check_server_id(const struct tls_session *s, const char *server_id, char *text)
{
	const char *own = s->domain->settings.server_id;

	text[0] = '\0';
	if (server_id[0] && (!own || strcasecmp(own, server_id) != 0))
		snprintf(text, TLS_SESSION_TEXT,
			 "no client section has the server_id '%s', %s is taken", server_id,
			 s->domain->name);
}
