/* SPDX-License-Identifier: ISC */
/*
 * Units of the stream that waits for a client's Finished: OpenSSL's client sends it to a stream
 * that has taken the place of OpenSSL's server; what else may come is a row of the table in
 * test_await_rows.h.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "aead.h"
#include "helper.h"
#include "kdf_calls.h"
#include "tls_await.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>

#define COUNT(a)   (sizeof(a) / sizeof((a)[0]))
#define WIRE_MAX   65536
#define CCS_SIZE   6 /* a ChangeCipherSpec with its header */
#define DEAD_FLAGS (TLS_STREAM_AWAITS | TLS_STREAM_DEAD | TLS_STREAM_WRITE_CLOSED)
#define RAW        255 /* a part of a row that is put on the wire as it is */

static const struct suite {
	const char *name;
	uint8_t aead, hash;
} suites[] = {
	{"TLS_AES_128_GCM_SHA256", TLS_AEAD_AES_128_GCM, TLS_PRF_SHA256},
	{"TLS_AES_256_GCM_SHA384", TLS_AEAD_AES_256_GCM, TLS_PRF_SHA384},
	{"TLS_CHACHA20_POLY1305_SHA256", TLS_AEAD_CHACHA20_POLY1305, TLS_PRF_SHA256},
};

/* How a connection is made; zeros are the usual. */
struct setup {
	const struct suite *suite;
	int tickets;
	int plain;  /* the client sends no ChangeCipherSpec */
	int verify; /* it asks who the server is, and trusts nobody */
	SSL_SESSION *session;
};

/* The client is OpenSSL's, the server is the stream under test once OpenSSL's has made a start. */
struct link {
	struct tls_stream s;
	struct tls_await a;
	SSL *client;
	int resumed;
	uint8_t foretold[TLS_AWAIT_RECORD]; /* what the client has to send */
	size_t foretold_len;
	uint8_t wire[WIRE_MAX]; /* what it has sent */
	size_t wire_len;
	uint8_t got[WIRE_MAX]; /* clear text that the stream has found */
	size_t got_len;
	struct tls_stream_event ev; /* of the last call */
	int rc;
};

static SSL_CTX *server_ctx, *client_ctx;
static struct link the_link;

/* What the server tells of its handshake: the messages up to its Finished, and the secrets. */
static struct {
	uint8_t messages[WIRE_MAX];
	size_t len;
	int whole;
	uint64_t tickets; /* sent after these */
	uint8_t client_handshake[TLS_HASH_MAX];
	uint8_t client[TLS_HASH_MAX], server[TLS_HASH_MAX];
} told;

/* ---- a client and a server ---- */

static void on_keylog(const SSL *ssl, const char *line)
{
	const char *secret = strrchr(line, ' ') + 1;

	(void)ssl;
	if (strncmp(line, "CLIENT_HANDSHAKE_TRAFFIC_SECRET ", 32) == 0)
		unhex(secret, told.client_handshake);
	else if (strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0)
		unhex(secret, told.client);
	else if (strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24) == 0)
		unhex(secret, told.server);
}

static void on_message(int sent, int version, int type, const void *data, size_t len, SSL *ssl,
		       void *arg)
{
	(void)version;
	(void)ssl;
	(void)arg;
	if (type != SSL3_RT_HANDSHAKE)
		return;
	if (told.whole) {
		told.tickets += sent && *(const uint8_t *)data == SSL3_MT_NEWSESSION_TICKET;
		return;
	}
	assert_true(told.len + len <= sizeof(told.messages));
	memcpy(told.messages + told.len, data, len);
	told.len += len;
	told.whole = sent && *(const uint8_t *)data == SSL3_MT_FINISHED;
}

static SSL *make_ssl(SSL_CTX *ctx, const struct suite *suite)
{
	SSL *ssl = SSL_new(ctx);

	assert_non_null(ssl);
	SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	assert_int_equal(SSL_set_min_proto_version(ssl, TLS1_3_VERSION), 1);
	assert_int_equal(SSL_set_ciphersuites(ssl, suite->name), 1);
	return ssl;
}

static SSL *make_client(const struct setup *how)
{
	SSL *ssl = make_ssl(client_ctx, how->suite);

	SSL_set_connect_state(ssl);
	if (how->plain)
		SSL_clear_options(ssl, SSL_OP_ENABLE_MIDDLEBOX_COMPAT);
	if (how->verify)
		SSL_set_verify(ssl, SSL_VERIFY_PEER, NULL);
	if (how->session)
		assert_int_equal(SSL_set_session(ssl, how->session), 1);
	return ssl;
}

static void pump(SSL *from, SSL *to)
{
	uint8_t wire[16384];
	int n = BIO_read(SSL_get_wbio(from), wire, sizeof(wire));

	assert_true(n > 0 && n < (int)sizeof(wire));
	assert_int_equal(BIO_write(SSL_get_rbio(to), wire, n), n);
}

/* Finds out the Finished from what the server tells, and gives it to the server as the client's. */
static void link_foretell(struct link *l, const struct suite *suite, SSL *server)
{
	const EVP_MD *md = suite->hash == TLS_PRF_SHA384 ? EVP_sha384() : EVP_sha256();
	uint8_t transcript[TLS_HASH_MAX];
	struct tls_await before;
	int n;

	assert_true(told.whole);
	assert_int_equal(EVP_Digest(told.messages, told.len, transcript, NULL, md, NULL), 1);
	assert_int_equal(
		tls_await_init(&l->a, suite->aead, suite->hash, told.client_handshake, transcript),
		0);
	before = l->a;
	l->foretold_len = tls_await_seal(&l->a, l->foretold);
	assert_memory_equal(&before, &l->a, sizeof(before));
	n = (int)l->foretold_len;
	assert_int_equal(n, 5 + 4 + tls_kdf_hash_size(suite->hash) + 1 + 16);
	assert_int_equal(BIO_write(SSL_get_rbio(server), l->foretold, n), n);
	assert_int_equal(SSL_do_handshake(server), 1);
	assert_int_equal(BIO_ctrl_pending(SSL_get_rbio(server)), 0);
}

static void link_begin(struct link *l, const struct setup *how)
{
	const struct suite *suite = how->suite;
	size_t size = tls_kdf_hash_size(suite->hash);

	memset(&l->s, 0, sizeof(l->s));
	assert_int_equal(tls_record_keys_1_3(&l->s.rd, suite->aead, suite->hash, told.client, size),
			 0);
	assert_int_equal(tls_record_keys_1_3(&l->s.wr, suite->aead, suite->hash, told.server, size),
			 0);
	l->s.wr.seq = told.tickets; /* a record each */
	tls_await_begin(&l->s, &l->a);
	assert_int_equal(l->s.flags, TLS_STREAM_AWAITS);
}

/* The server is done before the client has got anything; what it has sent is on its way then. */
static struct link *link_new(const struct setup *how)
{
	struct link *l = &the_link;
	SSL *server = make_ssl(server_ctx, how->suite);
	size_t flight;

	memset(l, 0, sizeof(*l));
	memset(&told, 0, sizeof(told));
	l->client = make_client(how);
	SSL_set_accept_state(server);
	SSL_set_msg_callback(server, on_message);
	assert_int_equal(SSL_set_num_tickets(server, (size_t)how->tickets), 1);
	assert_int_equal(SSL_do_handshake(l->client), -1);
	pump(l->client, server);
	assert_int_equal(SSL_do_handshake(server), -1);
	assert_int_equal(SSL_get_error(server, -1), SSL_ERROR_WANT_READ);
	flight = BIO_ctrl_pending(SSL_get_wbio(server));
	link_foretell(l, how->suite, server);
	assert_int_equal(told.tickets > 0, how->tickets > 0);
	assert_int_equal(BIO_ctrl_pending(SSL_get_wbio(server)) > flight, how->tickets > 0);
	link_begin(l, how);
	pump(server, l->client);
	l->resumed = SSL_session_reused(server);
	/* As the engine does: the connection is not over, its SSL is. */
	SSL_set_quiet_shutdown(server, 1);
	SSL_free(server);
	return l;
}

static void link_free(struct link *l)
{
	/* Otherwise its session cannot be resumed. */
	SSL_set_shutdown(l->client, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(l->client);
	ERR_clear_error();
}

static void link_take(struct link *l)
{
	int n = BIO_read(SSL_get_wbio(l->client), l->wire, sizeof(l->wire));

	assert_true(n > 0);
	l->wire_len = (size_t)n;
}

/* The client accepts what the server has sent. */
static void link_finish(struct link *l)
{
	assert_int_equal(SSL_do_handshake(l->client), 1);
	link_take(l);
}

/* What is known of the record's size when that many bytes of it are there. */
static size_t known_size(const struct link *l, const uint8_t *rec, size_t have)
{
	int protected = !(l->s.flags & TLS_STREAM_AWAITS) || rec[0] == TLS_CONTENT_APPLICATION_DATA;

	if (have == 0 || (protected && have < TLS_RECORD_HEADER))
		return 0;
	if (protected)
		return TLS_RECORD_HEADER + ((size_t)rec[3] << 8 | rec[4]);
	return rec[0] == TLS_CONTENT_ALERT ? TLS_RECORD_HEADER + 2 : CCS_SIZE;
}

/* The stream reads what the client has sent, in pieces of step bytes, until it fails. */
static void link_read(struct link *l, size_t step)
{
	uint8_t reply[TLS_STREAM_REPLY_MAX];
	size_t at = 0, have = 0, need;

	l->rc = 0;
	l->got_len = 0;
	while (l->rc >= 0 && at < l->wire_len) {
		uint8_t *rec = l->wire + at;

		if (l->s.flags & TLS_STREAM_AWAITS)
			l->rc = tls_await_read(&l->s, &l->a, rec, have - at, reply, &l->ev, &need);
		else
			l->rc = tls_stream_read(&l->s, rec, have - at, reply, &l->ev, &need);
		assert_int_equal(l->ev.reply_len, 0);
		assert_int_equal(l->ev.consumed == 0, l->rc == 0);
		if (l->rc == 0) {
			assert_true(have < l->wire_len);
			assert_int_equal(need, known_size(l, rec, have - at));
			have = have + step < l->wire_len ? have + step : l->wire_len;
		}
		if (l->ev.data_len)
			memcpy(l->got + l->got_len, l->ev.data, l->ev.data_len);
		l->got_len += l->ev.data_len;
		at += l->ev.consumed;
	}
	l->wire_len = 0;
}

static void assert_established(const struct link *l)
{
	assert_int_equal(l->rc, 1);
	assert_int_equal(l->s.flags, 0);
	assert_zeros(&l->a, sizeof(l->a));
}

static void link_say(struct link *l, size_t len)
{
	static uint8_t wire[2 * WIRE_MAX];
	const uint8_t *text = pattern(len);
	size_t taken, n;

	n = tls_stream_write(&l->s, text, len, &taken, 1000, wire, sizeof(wire));
	assert_int_equal(taken, len);
	assert_reads(l->client, wire, n, text, len);
}

static void link_hear(struct link *l, size_t len)
{
	const uint8_t *text = pattern(len);

	assert_int_equal(SSL_write(l->client, text, (int)len), (int)len);
	link_take(l);
	link_read(l, 7000);
	assert_int_equal(l->rc, 1);
	assert_int_equal(l->got_len, len);
	assert_memory_equal(l->got, text, len);
}

/* Both ways, and once more with the client's next keys, which follow from the present ones. */
static void link_talk(struct link *l)
{
	link_hear(l, 1);
	link_say(l, 1);
	link_say(l, 20000);
	link_hear(l, 20000);
	assert_int_equal(SSL_key_update(l->client, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
	link_hear(l, 700);
	link_say(l, 700);
}

/* What the client sends is what was foretold, behind the ChangeCipherSpec that it may send. */
static void test_foretold(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		for (int plain = 0; plain < 2; plain++) {
			struct link *l = link_new(&(struct setup){&suites[i], .plain = plain});
			size_t before = plain ? 0 : CCS_SIZE;

			link_finish(l);
			assert_int_equal(l->wire_len, before + l->foretold_len);
			assert_memory_equal(l->wire, "\x14\x03\x03\0\x01\x01", before);
			assert_memory_equal(l->wire + before, l->foretold, l->foretold_len);
			link_read(l, WIRE_MAX);
			assert_established(l);
			assert_int_equal(l->s.rd.seq, 0);
			assert_int_equal(l->s.wr.seq, 0);
			link_talk(l);
			link_free(l);
		}
	}
}

/* However it comes in, alone or with what the client says next. */
static void test_pieces(void **state)
{
	static const size_t steps[] = {1, 2, 3, 4, 5, 6, 7, 11, 64, 80, 100, WIRE_MAX};

	(void)state;
	for (size_t i = 0; i < COUNT(steps); i++) {
		for (int data = 0; data < 2; data++) {
			const struct suite *suite = &suites[i % COUNT(suites)];
			struct link *l = link_new(&(struct setup){suite, .plain = i % 2 == 0});

			assert_int_equal(SSL_do_handshake(l->client), 1);
			if (data)
				assert_int_equal(SSL_write(l->client, "hello", 5), 5);
			link_take(l);
			link_read(l, steps[i]);
			assert_established(l);
			assert_int_equal(l->s.rd.seq, data);
			assert_int_equal(l->got_len, data ? 5 : 0);
			assert_memory_equal(l->got, "hello", l->got_len);
			link_talk(l);
			link_free(l);
		}
	}
}

/* A ticket that went with the server's messages is one: the next connection resumes with it. */
static void test_tickets(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		struct setup how = {&suites[i], .tickets = (int)i + 1};

		for (int resumed = 0; resumed < 2; resumed++) {
			struct link *l = link_new(&how);

			assert_int_equal(l->resumed, resumed);
			link_finish(l);
			link_read(l, WIRE_MAX);
			assert_established(l);
			link_talk(l);
			SSL_SESSION_free(how.session);
			how.session = SSL_get1_session(l->client);
			assert_true(SSL_SESSION_is_resumable(how.session));
			assert_true(SSL_SESSION_has_ticket(how.session));
			link_free(l);
		}
		SSL_SESSION_free(how.session);
	}
}

/* RFC 8446 section 4.4.4: a server may speak before the client's Finished has come. */
static void test_early_words(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		struct link *l = link_new(&(struct setup){&suites[i], .tickets = 1});

		link_say(l, 3000);
		assert_int_equal(l->s.flags, TLS_STREAM_AWAITS);
		link_take(l);
		link_read(l, WIRE_MAX);
		assert_established(l);
		link_talk(l);
		link_free(l);
	}
}

/* A client that will have none of this server says so, in its own way. */
static void test_client_refuses(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		for (int plain = 0; plain < 2; plain++) {
			struct link *l =
				link_new(&(struct setup){&suites[i], .plain = plain, .verify = 1});

			assert_int_equal(SSL_do_handshake(l->client), -1);
			link_take(l);
			link_read(l, 1);
			assert_int_equal(l->rc, -1);
			assert_int_equal(l->ev.alert_received, SSL_AD_UNKNOWN_CA);
			assert_int_equal(l->ev.alert_sent, -1);
			assert_int_equal(l->s.flags, DEAD_FLAGS);
			link_free(l);
		}
	}
}

/* ---- what else may come ---- */

#include "test_await_rows.h"

/* A stream that waits, with keys that are made up, and what it waits for. */
struct waiting {
	struct tls_stream s;
	struct tls_await a;
	struct tls_record_keys next; /* of the client, after its Finished */
	uint8_t finished[TLS_AWAIT_MESSAGE];
	size_t finished_len;
};

static void waiting_new(struct waiting *w, const struct suite *suite)
{
	size_t size = tls_kdf_hash_size(suite->hash);
	uint8_t bytes[TLS_HASH_MAX] = {suite->aead};

	memset(w, 0, sizeof(*w));
	assert_int_equal(tls_record_keys_1_3(&w->s.rd, suite->aead, suite->hash, bytes, size), 0);
	bytes[1] = 1;
	assert_int_equal(tls_record_keys_1_3(&w->s.wr, suite->aead, suite->hash, bytes, size), 0);
	bytes[1] = 2;
	assert_int_equal(tls_await_init(&w->a, suite->aead, suite->hash, bytes, bytes), 0);
	w->next = w->s.rd;
	w->finished_len = w->a.expected_len;
	memcpy(w->finished, w->a.expected, w->finished_len);
	tls_await_begin(&w->s, &w->a);
}

/* One call, with memory that ends where the record does. */
static int waiting_read(struct waiting *w, const uint8_t *rec, size_t len, uint8_t *reply,
			struct tls_stream_event *ev, size_t *need)
{
	uint8_t *in = malloc(len ? len : 1);
	int rc;

	assert_non_null(in);
	memcpy(in, rec, len);
	rc = tls_await_read(&w->s, &w->a, in, len, reply, ev, need);
	free(in);
	assert_null(ev->data);
	assert_int_equal(ev->data_len, 0);
	assert_int_equal(rc < 0, ev->error != NULL);
	return rc;
}

/* The Finished as the client seals it next. */
static size_t waiting_seal(const struct waiting *w, uint8_t *rec)
{
	struct tls_record_keys k = w->s.rd;

	return tls_record_seal(&k, TLS_CONTENT_HANDSHAKE, w->finished, w->finished_len, rec);
}

/* The record that a row's part stands for, sealed with the keys that the client has. */
static size_t part_seal(const struct waiting *w, const struct part *part, uint8_t *out)
{
	static uint8_t content[TLS_RECORD_MAX_PLAIN];
	struct tls_record_keys k = w->s.rd;
	size_t to = part->to < w->finished_len ? part->to : w->finished_len, n = to - part->from;

	if (part->type == RAW)
		return unhex(part->hex, out);
	memcpy(content, w->finished + part->from, n);
	n += unhex(part->hex, content + n);
	memset(content + n, 0, part->zeros);
	return tls_record_seal(&k, part->type, content, n + part->zeros, out);
}

/* The reply is one alert, in a record of the server's application traffic. */
static void check_reply(struct tls_record_keys *k, uint8_t *reply,
			const struct tls_stream_event *ev)
{
	uint8_t *plain, type, alert;
	size_t len;

	if (ev->alert_sent < 0) {
		assert_int_equal(ev->reply_len, 0);
		return;
	}
	assert_int_equal(tls_record_open(k, reply, ev->reply_len, &plain, &len, &type, &alert), 0);
	assert_int_equal(type, TLS_CONTENT_ALERT);
	assert_int_equal(len, 2);
	assert_int_equal(plain[0], 2);
	assert_int_equal(plain[1], ev->alert_sent);
}

/* Nothing helps a stream that has failed, and nothing more is said. */
static void check_dead(struct waiting *w)
{
	uint8_t rec[TLS_AWAIT_RECORD], reply[TLS_STREAM_REPLY_MAX];
	size_t need, n = waiting_seal(w, rec);
	struct tls_stream_event ev;

	for (int i = 0; i < 2; i++) {
		assert_int_equal(waiting_read(w, rec, i == 0 ? n : 0, reply, &ev, &need), -1);
		assert_string_equal(ev.error, "the connection has failed before");
		assert_int_equal(ev.reply_len, 0);
		assert_int_equal(ev.consumed, 0);
	}
	assert_int_equal(tls_stream_alert(&w->s, TLS_ALERT_CLOSE_NOTIFY, reply), 0);
}

static void check_done(const struct waiting *w)
{
	assert_int_equal(w->s.flags, 0);
	assert_zeros(&w->a, sizeof(w->a));
	assert_memory_equal(&w->s.rd, &w->next, sizeof(w->next));
}

static void row_run(const struct row *row, const struct suite *suite)
{
	static uint8_t rec[TLS_RECORD_MAX];
	uint8_t reply[TLS_STREAM_REPLY_MAX];
	struct tls_stream_event ev = {0};
	struct tls_record_keys answers;
	struct waiting w;
	size_t n, need;
	int rc = 1;

	waiting_new(&w, suite);
	answers = w.s.wr;
	for (const struct part *p = row->parts; p < row->parts + COUNT(row->parts) && p->hex; p++) {
		for (unsigned int i = 0; i < p->repeat; i++) {
			if (rc != 1 || !(w.s.flags & TLS_STREAM_AWAITS))
				fail_msg("%s: ended early: %s", row->name, ev.error);
			n = part_seal(&w, p, rec);
			rc = waiting_read(&w, rec, n, reply, &ev, &need);
			assert_true(rc < 0 || ev.consumed == n);
		}
	}
	if (rc != row->rc || ev.alert_sent != row->sent || ev.alert_received != row->received ||
	    w.s.flags != row->flags)
		fail_msg("%s: rc %d, sent %d, received %d, flags %d (%s)", row->name, rc,
			 ev.alert_sent, ev.alert_received, w.s.flags, ev.error ? ev.error : "-");
	if (row->error && strcmp(ev.error, row->error) != 0)
		fail_msg("%s: %s", row->name, ev.error);
	check_reply(&answers, reply, &ev);
	if (rc < 0)
		check_dead(&w);
	else if (row->flags == 0)
		check_done(&w);
}

/* Two records, wherever the first one ends. */
static void test_cuts(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		uint8_t len = (uint8_t)(4 + tls_kdf_hash_size(suites[i].hash));

		for (uint8_t at = 1; at < len; at++)
			row_run(&(struct row){"cut", {PART(0, at), PART(at, ALL)}, DONE},
				&suites[i]);
	}
}

static void test_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++)
		for (size_t j = 0; j < COUNT(suites); j++)
			row_run(&rows[i], &suites[j]);
}

/* One wrong bit: of the type, of the length, of what proves that the client has the keys. */
static void test_wrong_bits(void **state)
{
	uint8_t rec[TLS_AWAIT_RECORD], reply[TLS_STREAM_REPLY_MAX];
	struct tls_stream_event ev;
	struct waiting fresh, w;
	size_t need;

	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		waiting_new(&fresh, &suites[i]);
		for (size_t bit = 0; bit < 8 * fresh.finished_len; bit++) {
			int want = bit < 8    ? TLS_ALERT_UNEXPECTED_MESSAGE
				   : bit < 32 ? TLS_ALERT_DECODE_ERROR
					      : TLS_ALERT_DECRYPT_ERROR;

			w = fresh;
			w.finished[bit / 8] ^= (uint8_t)(1 << bit % 8);
			assert_int_equal(
				waiting_read(&w, rec, waiting_seal(&w, rec), reply, &ev, &need),
				-1);
			assert_int_equal(ev.alert_sent, want);
			assert_int_equal(w.s.flags, DEAD_FLAGS);
			if (want == TLS_ALERT_DECRYPT_ERROR)
				assert_string_equal(ev.error, "bad Finished");
			check_reply(&fresh.s.wr, reply, &ev);
			fresh.s.wr.seq = 0;
		}
	}
}

/* Keys that are not those of the client's handshake, or not of this record. */
static void test_other_keys(void **state)
{
	uint8_t rec[TLS_AWAIT_RECORD], reply[TLS_STREAM_REPLY_MAX];
	struct tls_stream_event ev;
	struct waiting w;
	size_t need, n;

	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		for (int which = 0; which < 3; which++) {
			struct tls_record_keys k, answers;

			waiting_new(&w, &suites[i]);
			k = which == 0 ? w.next : which == 1 ? w.s.wr : w.s.rd;
			k.seq = which == 2;
			answers = w.s.wr;
			n = tls_record_seal(&k, TLS_CONTENT_HANDSHAKE, w.finished, w.finished_len,
					    rec);
			assert_int_equal(waiting_read(&w, rec, n, reply, &ev, &need), -1);
			assert_int_equal(ev.alert_sent, TLS_ALERT_BAD_RECORD_MAC);
			assert_string_equal(ev.error, "record does not authenticate");
			check_reply(&answers, reply, &ev);
			check_dead(&w);
		}
	}
}

/* No damaged record is a Finished; a part of one yields nothing but the wish for the rest. */
static void test_damage(void **state)
{
	uint8_t rec[TLS_AWAIT_RECORD], bad[TLS_AWAIT_RECORD];
	uint8_t reply[TLS_STREAM_REPLY_MAX];
	struct tls_stream_event ev;
	struct waiting fresh, w;
	size_t need, n;
	int rc;

	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		waiting_new(&fresh, &suites[i]);
		n = waiting_seal(&fresh, rec);
		for (size_t bit = 0; bit < 8 * n; bit++) {
			memcpy(bad, rec, n);
			bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
			w = fresh;
			rc = waiting_read(&w, bad, n, reply, &ev, &need);
			assert_true(rc == -1 || (rc == 0 && need > n));
			assert_int_equal(w.s.flags, rc < 0 ? DEAD_FLAGS : TLS_STREAM_AWAITS);
			assert_int_equal(rc < 0, ev.alert_sent >= 0);
		}
		w = fresh;
		for (size_t have = 0; have < n; have++) {
			assert_int_equal(waiting_read(&w, rec, have, reply, &ev, &need), 0);
			assert_int_equal(need, have < TLS_RECORD_HEADER ? 0 : n);
			assert_int_equal(ev.consumed, 0);
			assert_memory_equal(&w, &fresh, sizeof(w));
		}
	}
}

/* Records without protection are known by their first byte. */
static void test_parts_of_plain(void **state)
{
	static const char *const records[] = {"140303000101", "15030300020228"};
	uint8_t rec[8], reply[TLS_STREAM_REPLY_MAX];
	struct tls_stream_event ev;
	struct waiting fresh, w;
	size_t need, n;

	(void)state;
	waiting_new(&fresh, &suites[0]);
	w = fresh;
	for (size_t i = 0; i < COUNT(records); i++) {
		n = unhex(records[i], rec);
		for (size_t have = 1; have < n; have++) {
			assert_int_equal(waiting_read(&w, rec, have, reply, &ev, &need), 0);
			assert_int_equal(need, n);
			assert_int_equal(ev.consumed, 0);
			assert_memory_equal(&w, &fresh, sizeof(w));
		}
	}
}

/* ---- libcrypto fails ---- */

/* Whatever of it fails, no key stays, and the next attempt is right. */
static void test_init_fails(void **state)
{
	const uint8_t secret[TLS_HASH_MAX] = {1, 2, 3};
	struct tls_await want, a;

	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		uint8_t aead = suites[i].aead, hash = suites[i].hash;
		int derivations;

		calls = 0;
		assert_int_equal(tls_await_init(&want, aead, hash, secret, secret), 0);
		derivations = calls;
		assert_true(derivations >= 4);
		for (int n = 1; n <= derivations; n++) {
			call_fails = n;
			memset(&a, 0xee, sizeof(a));
			assert_int_equal(tls_await_init(&a, aead, hash, secret, secret), -1);
			assert_int_equal(call_fails, 0);
			assert_zeros(&a, sizeof(a));
			assert_int_equal(tls_await_init(&a, aead, hash, secret, secret), 0);
			assert_memory_equal(&a, &want, sizeof(a));
			ERR_clear_error();
		}
	}
}

static void test_init_refuses(void **state)
{
	static const struct {
		uint8_t aead, hash;
	} unknown[] = {
		{TLS_AEAD_NONE, TLS_PRF_SHA256}, {TLS_AEAD_CHACHA20_POLY1305 + 1, TLS_PRF_SHA256},
		{TLS_AEAD_AES_128_GCM, 0},       {TLS_AEAD_AES_128_GCM, TLS_PRF_MD5_SHA1},
		{TLS_AEAD_AES_128_GCM, 255},
	};
	const uint8_t secret[TLS_HASH_MAX] = {1, 2, 3};
	struct tls_await a;

	(void)state;
	for (size_t i = 0; i < COUNT(unknown); i++) {
		memset(&a, 0xee, sizeof(a));
		assert_int_equal(
			tls_await_init(&a, unknown[i].aead, unknown[i].hash, secret, secret), -1);
		assert_zeros(&a, sizeof(a));
	}
}

static void test_seal_fails(void **state)
{
	uint8_t want[TLS_AWAIT_RECORD], rec[TLS_AWAIT_RECORD];
	const uint8_t secret[TLS_HASH_MAX] = {1, 2, 3};
	struct tls_await a, before;
	size_t n;

	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		assert_int_equal(tls_await_init(&a, suites[i].aead, suites[i].hash, secret, secret),
				 0);
		before = a;
		n = tls_await_seal(&a, want);
		assert_true(n > 0);
		call_fails = 1;
		assert_int_equal(tls_await_seal(&a, rec), 0);
		assert_int_equal(call_fails, 0);
		assert_int_equal(tls_await_seal(&a, rec), n);
		assert_memory_equal(rec, want, n);
		assert_memory_equal(&a, &before, sizeof(a));
		tls_await_wipe(&a);
		assert_zeros(&a, sizeof(a));
	}
}

/* A record that cannot be opened is a wrong one; an alert that cannot be sealed is not sent. */
static void test_read_fails(void **state)
{
	uint8_t rec[TLS_AWAIT_RECORD], reply[TLS_STREAM_REPLY_MAX];
	struct tls_stream_event ev;
	struct waiting w;
	size_t need, n;

	(void)state;
	for (int sealed = 0; sealed < 2; sealed++) {
		waiting_new(&w, &suites[0]);
		n = waiting_seal(&w, rec);
		if (!sealed)
			w.s.wr.seq = UINT64_MAX;
		call_fails = 1;
		assert_int_equal(waiting_read(&w, rec, n, reply, &ev, &need), -1);
		assert_int_equal(call_fails, 0);
		assert_int_equal(ev.alert_sent, sealed ? TLS_ALERT_BAD_RECORD_MAC : -1);
		assert_int_equal(ev.reply_len > 0, sealed);
		assert_int_equal(w.s.flags, DEAD_FLAGS);
	}
}

static int group_begin(void **state)
{
	(void)state;
	server_ctx = SSL_CTX_new(TLS_server_method());
	client_ctx = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_keylog_callback(server_ctx, on_keylog);
	make_identity(server_ctx);
	aead_may_succeed = call_may_succeed;
	return 0;
}

static int group_end(void **state)
{
	(void)state;
	SSL_CTX_free(server_ctx);
	SSL_CTX_free(client_ctx);
	tls_record_thread_end();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_foretold),       cmocka_unit_test(test_pieces),
		cmocka_unit_test(test_tickets),        cmocka_unit_test(test_early_words),
		cmocka_unit_test(test_client_refuses), cmocka_unit_test(test_rows),
		cmocka_unit_test(test_wrong_bits),     cmocka_unit_test(test_other_keys),
		cmocka_unit_test(test_damage),         cmocka_unit_test(test_parts_of_plain),
		cmocka_unit_test(test_init_fails),     cmocka_unit_test(test_init_refuses),
		cmocka_unit_test(test_seal_fails),     cmocka_unit_test(test_read_fails),
		cmocka_unit_test(test_cuts),
	};

	return cmocka_run_group_tests(tests, group_begin, group_end);
}
