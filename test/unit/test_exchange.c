/* SPDX-License-Identifier: ISC */
/*
 * Units of the end of a TLS 1.2 handshake without an SSL object: OpenSSL's client ends it with a
 * stream that takes the place of OpenSSL's server after ServerHelloDone. What the stream computes
 * is computed a second time here, with other functions of libcrypto; what else may come from a
 * client is a row of the tables in test_exchange_rows.h. Without providers there is no such end.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "aead.h"
#include "helper.h"
#include "tls_await.h"
#include "tls_resume.h"
#include "tls_traffic.h"

#include "tls_compat.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>

#define COUNT(a)   (sizeof(a) / sizeof((a)[0]))
#define WAIT_FLAGS (TLS_STREAM_AWAITS | TLS_STREAM_CLEAR)
#define DEAD_FLAGS (WAIT_FLAGS | TLS_STREAM_DEAD | TLS_STREAM_WRITE_CLOSED)

#include "test_exchange_rows.h"

/* ---- what a ServerHello says ---- */

/* Memory that ends where the message does. */
static void note_hello(struct tls_traffic *t, const uint8_t *message, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	assert_non_null(copy);
	memcpy(copy, message, len);
	tls_traffic_note_hello(t, copy, len);
	free(copy);
}

/* Neither what is cut nor what a message before it has left counts. */
static void test_hello_rows(void **state)
{
	uint8_t message[512];

	(void)state;
	for (size_t i = 0; i < COUNT(hello_rows); i++) {
		const struct hello_row *row = &hello_rows[i];
		size_t len = unhex("020000000303", message);

		memset(message + len, 0xaa, TLS_RANDOM);
		len += TLS_RANDOM;
		len += unhex(row->after, message + len);
		for (int before = 0; before < 2; before++) {
			struct tls_traffic t = {.plain_hello = before, .promises_ticket = before};

			note_hello(&t, message, len);
			if (t.plain_hello != row->plain || t.promises_ticket != row->ticket)
				fail_msg("%s: plain %d, ticket %d", row->name, t.plain_hello,
					 t.promises_ticket);
		}
	}
}

/* Where the last extension is the extended master secret, all of the message has to be there. */
static void check_prefixes(const uint8_t *message, size_t len)
{
	for (size_t cut = 0; cut <= len; cut++) {
		struct tls_traffic t = {.plain_hello = cut < len};

		note_hello(&t, message, cut);
		assert_int_equal(t.plain_hello, cut == len);
	}
}

static void test_hello_prefix(void **state)
{
	uint8_t message[64] = {2};
	size_t len = 4 + 2 + TLS_RANDOM;

	(void)state;
	len += unhex("00c02b000008" TICKET EMS, message + len);
	check_prefixes(message, len);
}

#if TLS_HAVE_PROVIDERS

#include <openssl/core_names.h>
#include <openssl/params.h>

#define WIRE_MAX 65536
#define TIMEOUT  7100 /* of a session; not OpenSSL's own */

static const struct suite {
	const char *name;
	uint8_t aead, hash;
} suites[] = {
	{"ECDHE-ECDSA-AES128-GCM-SHA256", TLS_AEAD_AES_128_GCM, TLS_PRF_SHA256},
	{"ECDHE-ECDSA-AES256-GCM-SHA384", TLS_AEAD_AES_256_GCM, TLS_PRF_SHA384},
	{"ECDHE-ECDSA-CHACHA20-POLY1305", TLS_AEAD_CHACHA20_POLY1305, TLS_PRF_SHA256},
};

static bool is_gcm(const struct suite *suite)
{
	return suite->aead != TLS_AEAD_CHACHA20_POLY1305;
}

#include "test_exchange_stand_ins.h"

/* ---- computed a second time ---- */

static const EVP_MD *md_of(uint8_t hash)
{
	return hash == TLS_PRF_SHA384 ? EVP_sha384() : EVP_sha256();
}

/* PRF(secret, label, seed) of RFC 5246 section 5. */
static void prf(uint8_t hash, struct tls_bytes secret, const char *label, struct tls_bytes seed,
		uint8_t *out, size_t len)
{
	char *digest = hash == TLS_PRF_SHA384 ? "SHA384" : "SHA256";
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SECRET, (void *)secret.data,
						  secret.len),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, (void *)label,
						  strlen(label)),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, (void *)seed.data, seed.len),
		OSSL_PARAM_construct_end(),
	};
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS1-PRF", NULL);
	EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);

	assert_int_equal(EVP_KDF_derive(ctx, out, len, params), 1);
	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
}

/* Messages of a handshake in a row. */
struct script {
	uint8_t bytes[4096];
	size_t len;
};

static void script_add(struct script *s, const void *message, size_t len)
{
	assert_true(s->len + len <= sizeof(s->bytes));
	memcpy(s->bytes + s->len, message, len);
	s->len += len;
}

/* PRF(secret, label, Hash(messages)). */
static void prf_of_script(uint8_t hash, const uint8_t *secret, size_t secret_len, const char *label,
			  const struct script *s, uint8_t *out, size_t len)
{
	uint8_t digest[EVP_MAX_MD_SIZE];
	unsigned int digest_len;

	assert_int_equal(EVP_Digest(s->bytes, s->len, digest, &digest_len, md_of(hash), NULL), 1);
	prf(hash, (struct tls_bytes){secret, secret_len}, label,
	    (struct tls_bytes){digest, digest_len}, out, len);
}

/* RFC 5246 section 6.3: the key block is both keys, then both IVs, the client's first. */
static void split_key_block(const struct tls_exchange *x, const uint8_t *master,
			    struct tls_record_keys *client, struct tls_record_keys *server)
{
	size_t key = tls_aead_key_size(x->aead);
	size_t iv = x->aead == TLS_AEAD_CHACHA20_POLY1305 ? 12 : 4;
	uint8_t seed[2 * TLS_RANDOM], block[2 * (32 + 12)];

	memcpy(seed, x->server_random, TLS_RANDOM);
	memcpy(seed + TLS_RANDOM, x->client_random, TLS_RANDOM);
	prf(x->hash, (struct tls_bytes){master, TLS_MASTER_SECRET}, "key expansion",
	    (struct tls_bytes){seed, sizeof(seed)}, block, 2 * (key + iv));
	memset(client, 0, sizeof(*client));
	client->version = TLS_VERSION_1_2;
	client->aead = x->aead;
	client->hash = x->hash;
	*server = *client;
	memcpy(client->key, block, key);
	memcpy(server->key, block + key, key);
	memcpy(client->iv, block + 2 * key, iv);
	memcpy(server->iv, block + 2 * key + iv, iv);
}

/* ---- what may come ---- */

#define MESSAGES 300 /* bytes of handshake messages that are made up */
#define SESSION  200 /* and of a session */

/* A stream that waits for a handshake that is made up, and how its client sees that. */
struct waiting {
	struct tls_stream s;
	struct tls_await a;
	uint8_t messages[MESSAGES + TLS_EXCHANGE_SESSION];
	uint8_t key_exchange[TLS_EXCHANGE_MESSAGE], finished[TLS_EXCHANGE_FINISHED];
	uint8_t master[TLS_MASTER_SECRET];
	struct tls_record_keys client, server;
};

static struct waiting fresh[COUNT(suites)];

/* The messages up to the client's Finished. */
static void waiting_script(const struct waiting *w, struct script *s)
{
	s->len = 0;
	script_add(s, w->messages, MESSAGES);
	script_add(s, w->key_exchange, sizeof(w->key_exchange));
}

/* RFC 7748 section 6.1: the client is Alice, the server Bob. */
static void make_client(struct waiting *w)
{
	const struct tls_exchange *x = &w->a.exchange;
	uint8_t secret[TLS_X25519_KEY];
	struct script script;

	unhex("1000002120", w->key_exchange);
	unhex(alice_public, w->key_exchange + 5);
	unhex(shared_secret, secret);
	waiting_script(w, &script);
	prf_of_script(x->hash, secret, sizeof(secret), "extended master secret", &script, w->master,
		      sizeof(w->master));
	split_key_block(x, w->master, &w->client, &w->server);
	unhex("1400000c", w->finished);
	prf_of_script(x->hash, w->master, sizeof(w->master), "client finished", &script,
		      w->finished + 4, 12);
}

static void make_ticket(struct tls_exchange_ticket *t)
{
	memset(t->name, 1, sizeof(t->name));
	memset(t->iv, 2, sizeof(t->iv));
	memset(t->cipher_key, 3, sizeof(t->cipher_key));
	memset(t->mac_key, 4, sizeof(t->mac_key));
	t->lifetime = 0x01020304;
	t->session_len = SESSION;
	t->master_at = 77;
}

static void make_waiting(struct waiting *w, const struct suite *suite)
{
	struct tls_exchange *x = &w->a.exchange;

	memset(w, 0, sizeof(*w));
	x->aead = suite->aead;
	x->hash = suite->hash;
	unhex(bob_private, x->key.private_part);
	unhex(bob_public, x->key.public_part);
	memset(x->client_random, 0xcc, sizeof(x->client_random));
	memset(x->server_random, 0x55, sizeof(x->server_random));
	for (size_t i = 0; i < sizeof(w->messages); i++)
		w->messages[i] = (uint8_t)(7 * i + (i >> 8));
	x->messages_len = MESSAGES;
	make_ticket(&x->ticket);
	make_client(w);
	memset(&w->s, 0xee, sizeof(w->s));
	tls_await_begin_exchange(&w->s, &w->a);
}

static void waiting_new(struct waiting *w, size_t suite)
{
	*w = fresh[suite];
	w->a.messages = w->messages;
}

/* Memory of a size that is known to the sanitizer. */
static uint8_t *exactly(const void *bytes, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	assert_non_null(copy);
	if (len > 0)
		memcpy(copy, bytes, len);
	return copy;
}

/* One call; neither its input nor the messages may be left. */
static int waiting_read(struct waiting *w, const uint8_t *rec, size_t len, uint8_t *reply,
			struct tls_stream_event *ev, size_t *need)
{
	const struct tls_exchange *x = &w->a.exchange;
	uint8_t *messages = exactly(w->messages, x->messages_len + x->ticket.session_len);
	uint8_t *in = exactly(rec, len);
	int rc;

	w->a.messages = messages;
	rc = tls_await_read(&w->s, &w->a, in, len, reply, ev, need);
	if (w->a.messages)
		w->a.messages = w->messages;
	free(in);
	free(messages);
	assert_null(ev->data);
	assert_int_equal(ev->data_len, 0);
	assert_int_equal(rc < 0, ev->error != NULL);
	assert_true(ev->reply_len <= TLS_AWAIT_REPLY_MAX);
	return rc;
}

/* The thread begins anew, with one of the two ways to libcrypto. */
static void new_thread(bool by_evp)
{
	shown.hidden = by_evp ? EVERY_OPERATION : 0;
	end_thread();
	evp_calls = direct_calls = 0;
	evp_hashes = direct_hashes = 0;
}

/* That way was taken, and no other. */
static void assert_was(bool by_evp)
{
	assert_int_equal(evp_calls > 0, by_evp);
	assert_int_equal(direct_calls > 0, !by_evp);
	assert_int_equal(by_evp ? direct_hashes : evp_hashes, 0);
}

/* The record that a row's part stands for. */
static size_t part_record(const struct waiting *w, const struct part *part, uint8_t *out)
{
	static uint8_t content[TLS_RECORD_MAX];
	struct tls_record_keys k = w->client;
	bool finished = part->how == SEALED;
	const uint8_t *due = finished ? w->finished : w->key_exchange;
	size_t due_len = finished ? sizeof(w->finished) : sizeof(w->key_exchange);
	size_t n = (part->to < due_len ? part->to : due_len) - part->from;

	memcpy(content, due + part->from, n);
	n += unhex(part->hex, content + n);
	memset(content + n, 0, part->zeros);
	n += part->zeros;
	k.seq = w->s.rd.seq;
	if (part->how == SEALED)
		return tls_record_seal(&k, part->type, content, n, out);
	if (part->how == CLEAR)
		return tls_record_put(part->type, content, n, out);
	memcpy(out, content, n);
	return n;
}

/* Before this end's ChangeCipherSpec an alert is not protected: the reply is one, and no more. */
static void check_alert(const uint8_t *reply, const struct tls_stream_event *ev)
{
	uint8_t want[] = {21, 3, 3, 0, 2, 2, (uint8_t)ev->alert_sent};

	if (ev->alert_sent < 0) {
		assert_int_equal(ev->reply_len, 0);
		return;
	}
	assert_int_equal(ev->reply_len, sizeof(want));
	assert_memory_equal(reply, want, sizeof(want));
}

/* Nothing helps a stream that has failed, and nothing more is said. */
static void check_dead(struct waiting *w)
{
	uint8_t rec[64], reply[TLS_AWAIT_REPLY_MAX];
	const struct part again = KEX;
	size_t need, n = part_record(w, &again, rec);
	struct tls_stream_event ev;

	for (int i = 0; i < 2; i++) {
		assert_int_equal(waiting_read(w, rec, i == 0 ? n : 0, reply, &ev, &need), -1);
		assert_string_equal(ev.error, "the connection has failed before");
		assert_int_equal(ev.reply_len, 0);
		assert_int_equal(ev.consumed, 0);
	}
	assert_int_equal(tls_stream_alert(&w->s, TLS_ALERT_CLOSE_NOTIFY, reply), 0);
	assert_forgotten();
}

/* ---- what is said last, as the client sees it ---- */

/* RFC 5077 section 4: what opens a ticket finds the session in it, with the master secret. */
static void check_ticket(const struct waiting *w, const struct tls_exchange_ticket *t,
			 const uint8_t *ticket, size_t len)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	uint8_t mac[32], want[TLS_EXCHANGE_SESSION], text[TLS_EXCHANGE_SESSION + 32];
	size_t sealed = ((size_t)t->session_len / 16 + 1) * 16;
	int n, rest;

	assert_int_equal(len, 16 + 16 + sealed + 32);
	assert_memory_equal(ticket, t->name, 16);
	assert_memory_equal(ticket + 16, t->iv, 16);
	assert_non_null(HMAC(EVP_sha256(), t->mac_key, 32, ticket, len - 32, mac, NULL));
	assert_memory_equal(ticket + len - 32, mac, 32);
	assert_int_equal(EVP_DecryptInit_ex(ctx, EVP_aes_256_cbc(), NULL, t->cipher_key, t->iv), 1);
	assert_int_equal(EVP_DecryptUpdate(ctx, text, &n, ticket + 32, (int)sealed), 1);
	assert_int_equal(EVP_DecryptFinal_ex(ctx, text + n, &rest), 1);
	assert_int_equal(n + rest, t->session_len);
	memcpy(want, w->messages + MESSAGES, t->session_len);
	memcpy(want + t->master_at, w->master, sizeof(w->master));
	assert_memory_equal(text, want, t->session_len);
	EVP_CIPHER_CTX_free(ctx);
}

/* RFC 5077 section 3.3: a NewSessionTicket in a record of its own. Returns the record's bytes. */
static size_t check_ticket_record(const struct waiting *w, const struct tls_exchange_ticket *t,
				  const uint8_t *rec, struct script *script)
{
	size_t ticket = (size_t)rec[13] << 8 | rec[14], message = 4 + 4 + 2 + ticket;
	uint8_t head[] = {22,
			  3,
			  3,
			  (uint8_t)(message >> 8),
			  (uint8_t)message,
			  4,
			  0,
			  (uint8_t)((message - 4) >> 8),
			  (uint8_t)(message - 4),
			  (uint8_t)(t->lifetime >> 24),
			  (uint8_t)(t->lifetime >> 16),
			  (uint8_t)(t->lifetime >> 8),
			  (uint8_t)t->lifetime};

	assert_memory_equal(rec, head, sizeof(head));
	check_ticket(w, t, rec + 15, ticket);
	script_add(script, rec + 5, message);
	return 5 + message;
}

/* All of the reply: the ticket if there is to be one, ChangeCipherSpec, the right Finished. */
static void check_end(const struct waiting *w, const struct tls_exchange *x, uint8_t *reply,
		      size_t len)
{
	struct tls_record_keys keys = w->server;
	uint8_t *plain, type, alert, want[TLS_EXCHANGE_FINISHED] = {20, 0, 0, 12};
	struct script script;
	size_t n, at = 0;

	waiting_script(w, &script);
	script_add(&script, w->finished, sizeof(w->finished));
	if (x->ticket.session_len > 0)
		at = check_ticket_record(w, &x->ticket, reply, &script);
	assert_memory_equal(reply + at, "\x14\x03\x03\0\x01\x01", 6);
	at += 6;
	if (x->aead != TLS_AEAD_CHACHA20_POLY1305) /* RFC 5288 section 3: the explicit nonce */
		assert_zeros(reply + at + 5, 8);
	assert_int_equal(tls_record_open(&keys, reply + at, len - at, &plain, &n, &type, &alert),
			 0);
	assert_int_equal(type, TLS_CONTENT_HANDSHAKE);
	prf_of_script(x->hash, w->master, sizeof(w->master), "server finished", &script, want + 4,
		      12);
	assert_int_equal(n, sizeof(want));
	assert_memory_equal(plain, want, sizeof(want));
}

/* What the stream has got is what follows from the client's messages, and nothing else stays. */
static void check_done(struct waiting *w, const struct tls_exchange *x, uint8_t *reply, size_t len)
{
	check_end(w, x, reply, len);
	assert_zeros(&w->a, sizeof(w->a));
	assert_int_equal(w->s.flags, 0);
	assert_int_equal(w->s.warnings, 0);
	assert_int_equal(w->s.wr.seq, 1);
	w->server.seq = w->s.wr.seq;
	w->client.seq = w->s.rd.seq;
	assert_memory_equal(&w->s.wr, &w->server, sizeof(w->server));
	assert_memory_equal(&w->s.rd, &w->client, sizeof(w->client));
	assert_forgotten();
}

static void check_row(const struct row *row, const struct waiting *w, int rc,
		      const struct tls_stream_event *ev)
{
	if (rc != row->rc || ev->alert_sent != row->sent || ev->alert_received != row->received ||
	    w->s.flags != row->flags)
		fail_msg("%s: rc %d, sent %d, received %d, flags %d (%s)", row->name, rc,
			 ev->alert_sent, ev->alert_received, w->s.flags,
			 ev->error ? ev->error : "-");
	if (row->error ? !ev->error || strcmp(ev->error, row->error) != 0 : ev->error != NULL)
		fail_msg("%s: %s", row->name, ev->error ? ev->error : "no error");
}

static void row_run(const struct row *row, size_t suite)
{
	static uint8_t rec[TLS_RECORD_MAX + 64];
	uint8_t reply[TLS_AWAIT_REPLY_MAX];
	struct tls_stream_event ev = {0};
	struct tls_exchange x = fresh[suite].a.exchange;
	struct waiting w;
	size_t n, need;
	int rc = 1;

	waiting_new(&w, suite);
	for (const struct part *p = row->parts; p < row->parts + COUNT(row->parts) && p->hex; p++) {
		for (unsigned int i = 0; i < p->repeat; i++) {
			if (rc != 1 || !(w.s.flags & TLS_STREAM_AWAITS) || ev.reply_len > 0)
				fail_msg("%s: ended early: %s", row->name, ev.error);
			n = part_record(&w, p, rec);
			rc = waiting_read(&w, rec, n, reply, &ev, &need);
			assert_true(rc < 0 || ev.consumed == n);
		}
	}
	check_row(row, &w, rc, &ev);
	if (rc > 0 && row->flags == 0) {
		check_done(&w, &x, reply, ev.reply_len);
		return;
	}
	check_alert(reply, &ev);
	if (rc < 0)
		check_dead(&w);
}

static void test_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++)
		for (size_t j = 0; j < COUNT(suites); j++)
			row_run(&rows[i], j);
}

/* Two records, wherever the first one ends. */
static void test_cuts(void **state)
{
	(void)state;
	for (uint8_t at = 1; at < TLS_EXCHANGE_MESSAGE; at++)
		row_run(&(struct row){"cut key exchange",
				      {PART(CLEAR, 0, at), PART(CLEAR, at, ALL), CHANGE, FINISHED},
				      DONE},
			at % COUNT(suites));
	for (uint8_t at = 1; at < TLS_EXCHANGE_FINISHED; at++)
		row_run(&(struct row){"cut Finished",
				      {KEX, CHANGE, PART(SEALED, 0, at), PART(SEALED, at, ALL)},
				      DONE},
			at % COUNT(suites));
}

/* ---- the client's part, step by step ---- */

enum { RECORDS = 3 }; /* ClientKeyExchange, ChangeCipherSpec, Finished */

static const struct part flight[RECORDS] = {KEX, CHANGE, FINISHED};

/* Lets a stream come to where it waits for that record, and makes it. Returns its bytes. */
static size_t waiting_at(struct waiting *w, size_t suite, int step, uint8_t *rec)
{
	uint8_t reply[TLS_AWAIT_REPLY_MAX];
	struct tls_stream_event ev;
	size_t need, n;

	waiting_new(w, suite);
	for (int i = 0; i < step; i++) {
		n = part_record(w, &flight[i], rec);
		assert_int_equal(waiting_read(w, rec, n, reply, &ev, &need), 1);
		assert_int_equal(ev.consumed, n);
		assert_int_equal(ev.reply_len, 0);
		assert_int_equal(w->s.flags, WAIT_FLAGS);
		assert_forgotten();
	}
	return part_record(w, &flight[step], rec);
}

/* What is known once the ClientKeyExchange has come, and when each key comes into use. */
static void check_keys(void)
{
	uint8_t rec[128];
	struct waiting w;

	for (size_t i = 0; i < COUNT(suites); i++) {
		waiting_at(&w, i, 0, rec);
		assert_int_equal(w.a.step, TLS_AWAIT_KEY_EXCHANGE);
		assert_int_equal(w.s.rd.version, TLS_VERSION_1_2);
		waiting_at(&w, i, 1, rec);
		assert_int_equal(w.a.step, TLS_AWAIT_CHANGE);
		assert_memory_equal(w.a.exchange.master, w.master, sizeof(w.master));
		assert_memory_equal(&w.s.wr, &w.server, sizeof(w.server));
		assert_memory_equal(&w.a.keys, &w.client, sizeof(w.client));
		assert_zeros(w.s.rd.key, sizeof(w.s.rd.key));
		waiting_at(&w, i, 2, rec);
		assert_int_equal(w.a.step, TLS_AWAIT_FINISHED);
		assert_memory_equal(&w.s.rd, &w.client, sizeof(w.client));
		assert_int_equal(w.a.expected_len, sizeof(w.finished));
		assert_memory_equal(w.a.expected, w.finished, sizeof(w.finished));
	}
}

static void test_keys(void **state)
{
	(void)state;
	for (int by_evp = 0; by_evp < 2; by_evp++) {
		new_thread(by_evp);
		check_keys();
		assert_true(evp_hashes + direct_hashes > 0);
		assert_was(by_evp);
	}
	new_thread(false);
}

/* A part of a record yields nothing but the wish for the rest. */
static void test_parts_of_records(void **state)
{
	uint8_t rec[128], reply[TLS_AWAIT_REPLY_MAX];
	struct tls_stream_event ev;
	struct waiting before, w;

	(void)state;
	for (int step = 0; step < RECORDS; step++) {
		size_t need, n = waiting_at(&before, 1, step, rec);

		w = before;
		for (size_t have = 0; have < n; have++) {
			assert_int_equal(waiting_read(&w, rec, have, reply, &ev, &need), 0);
			assert_int_equal(need, have < TLS_RECORD_HEADER ? 0 : n);
			assert_int_equal(ev.consumed, 0);
			assert_int_equal(ev.reply_len, 0);
			assert_memory_equal(&w.s, &before.s, sizeof(w.s));
			w.a.messages = before.a.messages;
			assert_memory_equal(&w.a, &before.a, sizeof(w.a));
		}
	}
}

/* What a wrong bit of the ClientKeyExchange is answered with; -1: it is not seen at once. */
static int alert_for_bit(size_t bit)
{
	if (bit < 8)
		return TLS_ALERT_UNEXPECTED_MESSAGE;
	return bit < 8 * 5 ? TLS_ALERT_DECODE_ERROR : -1;
}

/* One wrong bit of it. Another share, even an equal one (RFC 7748 section 5: the last bit means
 * nothing), was not in the messages that the client has hashed: its keys are other ones. */
static void test_wrong_bits_of_key_exchange(void **state)
{
	uint8_t rec[128], reply[TLS_AWAIT_REPLY_MAX];
	struct tls_stream_event ev;
	struct waiting w;
	size_t need, n;

	(void)state;
	for (size_t bit = 0; bit < 8 * TLS_EXCHANGE_MESSAGE; bit++) {
		int alert = alert_for_bit(bit), step = 0;

		n = waiting_at(&w, bit % COUNT(suites), 0, rec);
		rec[TLS_RECORD_HEADER + bit / 8] ^= (uint8_t)(1 << bit % 8);
		while (waiting_read(&w, rec, n, reply, &ev, &need) > 0 && step < 2)
			n = part_record(&w, &flight[++step], rec);
		assert_int_equal(step, alert < 0 ? 2 : 0);
		assert_int_equal(ev.alert_sent, alert < 0 ? TLS_ALERT_BAD_RECORD_MAC : alert);
		assert_int_equal(w.s.flags, DEAD_FLAGS);
		check_alert(reply, &ev);
	}
}

static void test_wrong_bits_of_finished(void **state)
{
	uint8_t rec[128], reply[TLS_AWAIT_REPLY_MAX];
	struct tls_stream_event ev;
	struct waiting before, w;
	size_t need, n;

	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		waiting_at(&before, i, 2, rec);
		for (size_t bit = 0; bit < 8 * TLS_EXCHANGE_FINISHED; bit++) {
			int want = bit < 8    ? TLS_ALERT_UNEXPECTED_MESSAGE
				   : bit < 32 ? TLS_ALERT_DECODE_ERROR
					      : TLS_ALERT_DECRYPT_ERROR;

			w = before;
			w.finished[bit / 8] ^= (uint8_t)(1 << bit % 8);
			n = part_record(&w, &flight[2], rec);
			assert_int_equal(waiting_read(&w, rec, n, reply, &ev, &need), -1);
			assert_int_equal(ev.alert_sent, want);
			assert_int_equal(w.s.flags, DEAD_FLAGS);
			check_alert(reply, &ev);
		}
	}
}

/* No damaged record ends the handshake. */
static void test_damage(void **state)
{
	uint8_t rec[128], reply[TLS_AWAIT_REPLY_MAX];
	struct tls_stream_event ev;
	struct waiting before, w;
	size_t need;

	(void)state;
	for (int step = 1; step < RECORDS; step++) {
		size_t n = waiting_at(&before, 0, step, rec);

		for (size_t bit = 0; bit < 8 * n; bit++) {
			int rc;

			w = before;
			rec[bit / 8] ^= (uint8_t)(1 << bit % 8);
			rc = waiting_read(&w, rec, n, reply, &ev, &need);
			rec[bit / 8] ^= (uint8_t)(1 << bit % 8);
			assert_true(rc == -1 || (rc == 0 && need > n));
			assert_int_equal(w.s.flags, rc < 0 ? DEAD_FLAGS : WAIT_FLAGS);
			check_alert(reply, &ev);
		}
	}
}

/* Keys that are not the client's, or not of this record. */
static void test_other_keys(void **state)
{
	uint8_t rec[128], reply[TLS_AWAIT_REPLY_MAX];
	struct tls_stream_event ev;
	struct waiting w;
	size_t need, n;

	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		for (int which = 0; which < 2; which++) {
			struct tls_record_keys k;

			waiting_at(&w, i, 2, rec);
			k = which == 0 ? w.server : w.client;
			k.seq = which == 1;
			n = tls_record_seal(&k, TLS_CONTENT_HANDSHAKE, w.finished,
					    sizeof(w.finished), rec);
			assert_int_equal(waiting_read(&w, rec, n, reply, &ev, &need), -1);
			assert_int_equal(ev.alert_sent, TLS_ALERT_BAD_RECORD_MAC);
			check_alert(reply, &ev);
			check_dead(&w);
		}
	}
}

/* RFC 7748 section 6.1: whoever sends one of these knows the secret, whatever the other key is. */
static void check_small_order(const char *share, uint8_t last_bit, size_t suite)
{
	uint8_t rec[128], reply[TLS_AWAIT_REPLY_MAX];
	struct tls_stream_event ev;
	struct waiting w;
	size_t need, n = waiting_at(&w, suite, 0, rec);

	unhex(share, rec + TLS_RECORD_HEADER + 5);
	rec[n - 1] |= last_bit;
	assert_int_equal(waiting_read(&w, rec, n, reply, &ev, &need), -1);
	assert_int_equal(ev.alert_sent, TLS_ALERT_ILLEGAL_PARAMETER);
	assert_string_equal(ev.error, "bad key share");
	assert_zeros(w.s.wr.key, sizeof(w.s.wr.key));
	check_alert(reply, &ev);
	check_dead(&w);
	assert_int_equal(ERR_peek_error(), 0);
}

static void test_small_order(void **state)
{
	(void)state;
	for (int by_evp = 0; by_evp < 2; by_evp++) {
		new_thread(by_evp);
		for (size_t i = 0; i < COUNT(small_order); i++) {
			check_small_order(small_order[i], 0, i % COUNT(suites));
			/* which X25519 ignores */
			check_small_order(small_order[i], 0x80, i % COUNT(suites));
		}
		assert_was(by_evp);
	}
	new_thread(false);
}

/* While it waits this end says goodbye without protection; later with it. */
static void test_own_alert(void **state)
{
	uint8_t rec[128], reply[TLS_AWAIT_REPLY_MAX];
	struct waiting w;

	(void)state;
	for (int step = 0; step < RECORDS; step++) {
		waiting_at(&w, 0, step, rec);
		assert_int_equal(tls_stream_alert(&w.s, TLS_ALERT_CLOSE_NOTIFY, reply), 7);
		assert_memory_equal(reply, "\x15\x03\x03\0\x02\x01\0", 7);
		assert_int_equal(w.s.flags, WAIT_FLAGS | TLS_STREAM_WRITE_CLOSED);
	}
}

static void test_alert_when_done(void **state)
{
	uint8_t rec[128], reply[TLS_AWAIT_REPLY_MAX], *plain, type, alert;
	struct tls_stream_event ev;
	struct waiting w;
	size_t need, n, len;

	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		n = waiting_at(&w, i, 2, rec);
		assert_int_equal(waiting_read(&w, rec, n, reply, &ev, &need), 1);
		n = tls_stream_alert(&w.s, TLS_ALERT_CLOSE_NOTIFY, reply);
		w.server.seq = 1;
		assert_int_equal(tls_record_open(&w.server, reply, n, &plain, &len, &type, &alert),
				 0);
		assert_int_equal(type, TLS_CONTENT_ALERT);
		assert_int_equal(len, 2);
		assert_memory_equal(plain, "\x01\0", 2);
	}
}

/* ---- what is said last ---- */

/* However long the session is, what is said has room, and is a ticket. */
static void test_sessions(void **state)
{
	static const uint16_t lengths[] = {0,
					   48,
					   49,
					   63,
					   64,
					   65,
					   TLS_EXCHANGE_SESSION - 16,
					   TLS_EXCHANGE_SESSION - 1,
					   TLS_EXCHANGE_SESSION};
	struct waiting w;
	uint8_t rec[128];

	(void)state;
	for (size_t i = 0; i < COUNT(lengths); i++) {
		for (int last = 0; last < 2; last++) {
			struct tls_exchange *x = &w.a.exchange;
			uint8_t *out = malloc(TLS_EXCHANGE_END_MAX), *messages;
			size_t n;

			assert_non_null(out);
			waiting_at(&w, i % COUNT(suites), 2, rec);
			x->ticket.session_len = lengths[i];
			x->ticket.master_at = last && lengths[i] ? (uint16_t)(lengths[i] - 48) : 0;
			messages = exactly(w.messages, MESSAGES + lengths[i]);
			n = tls_exchange_end(x, messages, w.finished, &w.s.wr, out);
			assert_true(n > 0 && n <= TLS_EXCHANGE_END_MAX);
			check_end(&w, x, out, n);
			assert_forgotten();
			free(messages);
			free(out);
		}
	}
}

/* Keys that have no number left seal nothing. */
static void test_no_number_left(void **state)
{
	uint8_t rec[128], reply[TLS_AWAIT_REPLY_MAX];
	struct tls_stream_event ev;
	struct waiting w;
	size_t need, n;

	(void)state;
	n = waiting_at(&w, 0, 2, rec);
	w.s.wr.seq = UINT64_MAX;
	assert_int_equal(waiting_read(&w, rec, n, reply, &ev, &need), -1);
	assert_int_equal(ev.alert_sent, TLS_ALERT_INTERNAL_ERROR);
	check_alert(reply, &ev);
}

static void test_unknown_suites(void **state)
{
	static const struct {
		uint8_t aead, hash;
	} unknown[] = {
		{TLS_AEAD_NONE, TLS_PRF_SHA256}, {TLS_AEAD_CHACHA20_POLY1305 + 1, TLS_PRF_SHA256},
		{TLS_AEAD_AES_128_GCM, 0},       {TLS_AEAD_AES_128_GCM, TLS_PRF_MD5_SHA1},
		{TLS_AEAD_AES_128_GCM, 255},
	};
	uint8_t rec[128], reply[TLS_AWAIT_REPLY_MAX];
	struct tls_stream_event ev;
	struct waiting w;

	(void)state;
	for (size_t i = 0; i < COUNT(unknown); i++) {
		size_t need, n = waiting_at(&w, 0, 0, rec);

		w.a.exchange.aead = unknown[i].aead;
		w.a.exchange.hash = unknown[i].hash;
		assert_int_equal(waiting_read(&w, rec, n, reply, &ev, &need), -1);
		assert_int_equal(ev.alert_sent, TLS_ALERT_INTERNAL_ERROR);
		assert_string_equal(ev.error, "cannot make the keys");
		assert_zeros(w.s.wr.key, sizeof(w.s.wr.key));
		assert_zeros(w.a.keys.key, sizeof(w.a.keys.key));
		check_alert(reply, &ev);
		check_dead(&w);
	}
}

/* ---- libcrypto fails ---- */

/* What has failed leaves no key, says so without protection, and does not go on. */
static void check_failed(struct waiting *w, int step, int rc, const uint8_t *reply,
			 const struct tls_stream_event *ev)
{
	assert_int_equal(rc, -1);
	check_alert(reply, ev);
	if (step == 0) {
		assert_int_equal(ev->alert_sent, TLS_ALERT_INTERNAL_ERROR);
		assert_string_equal(ev->error, "cannot make the keys");
		assert_zeros(&w->s.wr.key, sizeof(w->s.wr.key));
		assert_zeros(&w->a.keys.key, sizeof(w->a.keys.key));
	} else if (ev->alert_sent != TLS_ALERT_BAD_RECORD_MAC) { /* it could be opened */
		assert_int_equal(ev->alert_sent, TLS_ALERT_INTERNAL_ERROR);
		assert_string_equal(ev->error, "cannot seal the Finished");
	}
	assert_int_equal(w->s.flags, DEAD_FLAGS);
	check_dead(w);
	assert_int_equal(ERR_peek_error(), 0);
	tls_await_wipe(&w->a);
	assert_zeros(&w->a, sizeof(w->a));
}

/* What a thread has when a record comes. */
struct thread {
	bool is_new; /* no contexts yet, and no ways to libcrypto */
	bool by_evp; /* which those are */
};

/* A record that comes as the handshake is at a step. */
struct turn {
	struct waiting before, after;
	uint8_t rec[128], reply[TLS_AWAIT_REPLY_MAX];
	size_t len;
	struct tls_stream_event ev;
};

static int take_turn(struct turn *t, struct thread thread)
{
	size_t need;

	if (thread.is_new)
		end_thread();
	t->after = t->before;
	calls = spare_calls = 0;
	return waiting_read(&t->after, t->rec, t->len, t->reply, &t->ev, &need);
}

/* Whatever call fails beside those of the handshake, it fails nothing. Returns their number. */
static int fail_each_spare_call(struct turn *t, struct thread thread)
{
	uint8_t want[TLS_AWAIT_REPLY_MAX];
	struct waiting after;
	int count;

	assert_int_equal(take_turn(t, thread), 1);
	count = spare_calls;
	after = t->after;
	memcpy(want, t->reply, t->ev.reply_len);
	for (int i = 1; i <= count; i++) {
		spare_call_fails = i;
		assert_int_equal(take_turn(t, thread), 1);
		assert_int_equal(spare_call_fails, 0);
		assert_memory_equal(&t->after, &after, sizeof(after));
		assert_memory_equal(t->reply, want, t->ev.reply_len);
		assert_forgotten();
		assert_int_equal(ERR_peek_error(), 0);
		assert_int_equal(take_turn(t, thread), 1); /* makes again what could not forget */
	}
	return count;
}

/* Whatever call fails while a record is read. Returns how often the record could be opened
 * nevertheless. */
static int fail_each_call(size_t suite, int step, struct thread thread, int *count)
{
	struct turn t;
	int opened = 0;

	t.len = waiting_at(&t.before, suite, step, t.rec);
	assert_int_equal(take_turn(&t, thread), 1); /* it may make contexts in any case */
	assert_int_equal(fail_each_spare_call(&t, thread) > 0, step != 1);
	new_thread(thread.by_evp);
	for (int i = 0; i < 2; i++)
		assert_int_equal(take_turn(&t, thread), 1);
	*count = calls;
	for (int i = 1; i <= *count; i++) {
		int rc;

		call_fails = i;
		rc = take_turn(&t, thread);
		assert_int_equal(call_fails, 0);
		check_failed(&t.after, step, rc, t.reply, &t.ev);
		opened += t.ev.alert_sent == TLS_ALERT_INTERNAL_ERROR;
		assert_true(opened == 0 || t.ev.alert_sent == TLS_ALERT_INTERNAL_ERROR);
	}
	assert_int_equal(take_turn(&t, thread), 1);
	return opened;
}

static void test_libcrypto_fails(void **state)
{
	int count, opened;

	(void)state;
	for (size_t i = 0; i < 4 * COUNT(suites); i++) {
		struct thread thread = {.is_new = i & 1, .by_evp = i & 2};

		new_thread(thread.by_evp);
		opened = fail_each_call(i / 4, 0, thread, &count);
		assert_true(count >= 8 + 4 + 3 * 4);
		assert_int_equal(opened, count);
		assert_was(thread.by_evp);
		fail_each_call(i / 4, 1, thread, &count);
		assert_int_equal(count, 0);
		opened = fail_each_call(i / 4, 2, thread, &count);
		assert_true(opened >= 4 + 3 + 4 + 4 + 4 && opened < count);
	}
	new_thread(false);
}

/* ---- OpenSSL's client and server ---- */

/* How a connection is made; zeros are the usual. */
struct setup {
	const struct suite *suite;
	const char *ciphers;           /* instead of the suite's */
	const char *groups;            /* X25519, then P-256 for the certificate */
	bool rsa;                      /* the server's key */
	bool no_ticket;                /* the client takes none */
	bool caches;                   /* the server keeps sessions itself */
	bool short_records;            /* the client asks for those */
	bool is_1_3;                   /* both have TLS 1.3 */
	uint64_t server_op, client_op; /* SSL_OP_... */
	SSL_SESSION *session;          /* to be resumed */
};

/* OpenSSL's server, and what is noted of it as the engine does. */
struct server {
	SSL *ssl;
	struct tls_traffic traffic;
	uint8_t hello[512]; /* the ServerHello */
	size_t hello_len;
	uint8_t messages[WIRE_MAX];
	size_t messages_len;
};

/* The client is OpenSSL's, the server is the stream under test once OpenSSL's has made a start. */
struct link {
	struct tls_stream s;
	struct tls_await a;
	struct server server;
	SSL *client;
	uint8_t wire[WIRE_MAX]; /* what the client has sent */
	size_t wire_len;
	uint8_t said[TLS_AWAIT_REPLY_MAX]; /* the last of what the stream has replied */
	size_t said_len;
	uint8_t got[WIRE_MAX]; /* clear text that the stream has found */
	size_t got_len;
	uint64_t nonce; /* explicit one of its next record */
	struct tls_stream_event ev;
	int rc;
};

static SSL_CTX *server_ctx, *rsa_ctx, *client_ctx;
static struct tls_ticket_keys *ticket_keys;
static struct link the_link;

static void on_message(int sent, int version, int type, const void *data, size_t len, SSL *ssl,
		       void *arg)
{
	struct server *s = arg;
	const uint8_t *message = data;

	(void)version;
	tls_traffic_count(&s->traffic, ssl, sent, type, message);
	if (type != SSL3_RT_HANDSHAKE)
		return;
	assert_true(s->messages_len + len <= sizeof(s->messages));
	memcpy(s->messages + s->messages_len, message, len);
	s->messages_len += len;
	if (!sent || message[0] != SSL3_MT_SERVER_HELLO)
		return;
	assert_true(len <= sizeof(s->hello));
	memcpy(s->hello, message, len);
	s->hello_len = len;
	note_hello(&s->traffic, message, len);
}

static unsigned int on_psk(SSL *ssl, const char *identity, unsigned char *psk, unsigned int size)
{
	(void)ssl;
	(void)identity;
	assert_true(size >= 16);
	memset(psk, 1, 16);
	return 16;
}

static unsigned int on_client_psk(SSL *ssl, const char *hint, char *identity, unsigned int size,
				  unsigned char *psk, unsigned int psk_size)
{
	(void)hint;
	snprintf(identity, size, "client");
	return on_psk(ssl, NULL, psk, psk_size);
}

static SSL *make_ssl(SSL_CTX *ctx, const struct setup *how)
{
	int version = how->is_1_3 ? TLS1_3_VERSION : TLS1_2_VERSION;
	SSL *ssl = SSL_new(ctx);

	assert_non_null(ssl);
	SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	assert_int_equal(SSL_set_min_proto_version(ssl, TLS1_2_VERSION), 1);
	assert_int_equal(SSL_set_max_proto_version(ssl, version), 1);
	assert_int_equal(SSL_set_cipher_list(ssl, how->ciphers ? how->ciphers : how->suite->name),
			 1);
	assert_int_equal(SSL_set1_groups_list(ssl, how->groups ? how->groups : "X25519:P-256"), 1);
	return ssl;
}

static SSL *client_new(const struct setup *how)
{
	SSL *ssl = make_ssl(client_ctx, how);

	SSL_set_connect_state(ssl);
	SSL_set_options(ssl, how->client_op | (how->no_ticket ? SSL_OP_NO_TICKET : 0));
	SSL_set_psk_client_callback(ssl, on_client_psk);
	if (how->short_records)
		SSL_set_tlsext_max_fragment_length(ssl, TLSEXT_max_fragment_length_512);
	if (how->session)
		assert_int_equal(SSL_set_session(ssl, how->session), 1);
	return ssl;
}

static void server_new(struct server *s, const struct setup *how)
{
	memset(s, 0, sizeof(*s));
	SSL_CTX_set_session_cache_mode(server_ctx,
				       how->caches ? SSL_SESS_CACHE_SERVER : SSL_SESS_CACHE_OFF);
	s->ssl = make_ssl(how->rsa ? rsa_ctx : server_ctx, how);
	SSL_set_accept_state(s->ssl);
	SSL_set_options(s->ssl, how->server_op);
	SSL_set_psk_server_callback(s->ssl, on_psk);
	SSL_set_msg_callback(s->ssl, on_message);
	SSL_set_msg_callback_arg(s->ssl, s);
	assert_true(tls_resume_attach(s->ssl, ticket_keys));
}

static void pump(SSL *from, SSL *to)
{
	uint8_t wire[16384];
	int n = BIO_read(SSL_get_wbio(from), wire, sizeof(wire));

	assert_true(n > 0 && n < (int)sizeof(wire));
	assert_int_equal(BIO_write(SSL_get_rbio(to), wire, n), n);
}

/* Up to where both wait for the client. */
static void link_start(struct link *l, const struct setup *how)
{
	memset(l, 0, sizeof(*l));
	l->client = client_new(how);
	server_new(&l->server, how);
	assert_int_equal(SSL_do_handshake(l->client), -1);
	pump(l->client, l->server.ssl);
	assert_int_equal(SSL_do_handshake(l->server.ssl), -1);
	assert_int_equal(SSL_get_error(l->server.ssl, -1), SSL_ERROR_WANT_READ);
}

/* OpenSSL's server goes on, and both come to the end. */
static void link_without(struct link *l)
{
	pump(l->server.ssl, l->client);
	for (int i = 0; i < 4 && (SSL_in_init(l->client) || SSL_in_init(l->server.ssl)); i++) {
		SSL_do_handshake(l->client);
		if (BIO_ctrl_pending(SSL_get_wbio(l->client)) > 0)
			pump(l->client, l->server.ssl);
		SSL_do_handshake(l->server.ssl);
		if (BIO_ctrl_pending(SSL_get_wbio(l->server.ssl)) > 0)
			pump(l->server.ssl, l->client);
	}
	assert_int_equal(SSL_do_handshake(l->server.ssl), 1);
	assert_int_equal(SSL_do_handshake(l->client), 1);
}

/* What tls_session.c does when ServerHelloDone was said. */
static bool server_leave(struct server *s, struct tls_exchange *x)
{
	size_t len = s->messages_len;

	if (!tls_traffic_exchange(&s->traffic, s->ssl, x) ||
	    !SSL_SESSION_set_cipher(SSL_get_session(s->ssl), SSL_get_pending_cipher(s->ssl)) ||
	    (s->traffic.promises_ticket &&
	     !tls_resume_template(s->ssl, &x->ticket, s->messages + len,
				  sizeof(s->messages) - len)))
		return false;
	x->messages_len = (uint32_t)len;
	return true;
}

static void server_free(struct server *s)
{
	/* As the engine does: the connection is not over, its SSL is. */
	SSL_set_quiet_shutdown(s->ssl, 1);
	SSL_free(s->ssl);
	s->ssl = NULL;
}

static void link_free(struct link *l)
{
	if (l->server.ssl)
		server_free(&l->server);
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

/* Both have said Hello, and the stream waits for the client's part, which is on its way. */
static struct link *link_new(const struct setup *how)
{
	struct link *l = &the_link;

	link_start(l, how);
	assert_true(server_leave(&l->server, &l->a.exchange));
	assert_int_equal(l->a.exchange.aead, how->suite->aead);
	assert_int_equal(l->a.exchange.hash, how->suite->hash);
	l->a.messages = l->server.messages;
	tls_await_begin_exchange(&l->s, &l->a);
	assert_int_equal(l->s.flags, WAIT_FLAGS);
	pump(l->server.ssl, l->client);
	server_free(&l->server);
	assert_int_equal(SSL_do_handshake(l->client), -1);
	link_take(l);
	return l;
}

/* Notes the explicit nonces of what the stream sends, which have to be 0, 1, 2 and so on. */
static void check_nonces(struct link *l, const uint8_t *wire, size_t len)
{
	for (size_t at = 0; at < len;) {
		size_t size = TLS_RECORD_HEADER + ((size_t)wire[at + 3] << 8 | wire[at + 4]);

		for (int i = 0; i < 8; i++)
			assert_int_equal(wire[at + 5 + i], (uint8_t)(l->nonce >> (56 - 8 * i)));
		l->nonce++;
		at += size;
	}
}

static size_t known_size(const uint8_t *rec, size_t have)
{
	return have < TLS_RECORD_HEADER ? 0 : TLS_RECORD_HEADER + ((size_t)rec[3] << 8 | rec[4]);
}

/* Before the last of the client's messages nothing is said. */
static void link_hear_reply(struct link *l, const uint8_t *reply)
{
	if (l->ev.reply_len == 0)
		return;
	assert_int_equal(l->said_len, 0);
	memcpy(l->said, reply, l->ev.reply_len);
	l->said_len = l->ev.reply_len;
	assert_int_equal(BIO_write(SSL_get_rbio(l->client), reply, (int)l->said_len), l->said_len);
}

/* The stream reads what the client has sent, in pieces of step bytes, until it fails. */
static void link_read(struct link *l, size_t step)
{
	uint8_t reply[TLS_AWAIT_REPLY_MAX];
	size_t at = 0, have = 0, need;

	l->rc = 0;
	l->got_len = 0;
	while (l->rc >= 0 && at < l->wire_len) {
		uint8_t *rec = l->wire + at;

		if (l->s.flags & TLS_STREAM_AWAITS)
			l->rc = tls_await_read(&l->s, &l->a, rec, have - at, reply, &l->ev, &need);
		else
			l->rc = tls_stream_read(&l->s, rec, have - at, reply, &l->ev, &need);
		assert_int_equal(l->ev.consumed == 0, l->rc == 0);
		if (l->rc == 0) {
			assert_true(have < l->wire_len);
			assert_int_equal(need, known_size(rec, have - at));
			have = have + step < l->wire_len ? have + step : l->wire_len;
		}
		if (l->ev.data_len)
			memcpy(l->got + l->got_len, l->ev.data, l->ev.data_len);
		l->got_len += l->ev.data_len;
		at += l->ev.consumed;
		link_hear_reply(l, reply);
	}
	l->wire_len = 0;
}

/* The client takes what was said last, and both have the same keys. */
static void link_finish(struct link *l)
{
	assert_int_equal(l->rc, 1);
	assert_int_equal(l->s.flags, 0);
	assert_zeros(&l->a, sizeof(l->a));
	assert_forgotten();
	assert_true(l->said_len > 0);
	assert_int_equal(SSL_do_handshake(l->client), 1);
	assert_int_equal(SSL_get_extms_support(l->client), 1);
	assert_int_equal(l->s.wr.seq, 1);
	l->nonce = 1;
}

static void link_say(struct link *l, size_t len, bool gcm)
{
	static uint8_t wire[2 * WIRE_MAX];
	const uint8_t *text = pattern(len);
	size_t taken, n;

	n = tls_stream_write(&l->s, text, len, &taken, 1000, wire, sizeof(wire));
	assert_int_equal(taken, len);
	if (gcm)
		check_nonces(l, wire, n);
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

static void link_talk(struct link *l, const struct suite *suite)
{
	link_hear(l, 1);
	link_say(l, 1, is_gcm(suite));
	link_say(l, 20000, is_gcm(suite));
	link_hear(l, 20000);
	link_hear(l, 700);
	link_say(l, 700, is_gcm(suite));
}

/* However the client's part comes in. */
static void test_pieces(void **state)
{
	static const size_t steps[] = {WIRE_MAX, 1,  2,  3,  4,  5,  6,  7,
				       11,       37, 42, 43, 48, 49, 64, 90};

	(void)state;
	for (size_t i = 0; i < COUNT(steps); i++) {
		for (size_t j = 0; j < (i < 2 ? COUNT(suites) : 1); j++) {
			const struct suite *suite = &suites[(i + j) % COUNT(suites)];
			struct link *l = link_new(&(struct setup){.suite = suite});

			assert_int_equal(l->wire[5], 16); /* a ClientKeyExchange */
			link_read(l, steps[i]);
			link_finish(l);
			assert_int_equal(l->s.rd.seq, 1);
			link_talk(l, suite);
			link_free(l);
		}
	}
}

/* The client has the master secret that was made here: RFC 7627. */
static void test_master(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		struct link *l = link_new(&(struct setup){.suite = &suites[i]});
		uint8_t reply[TLS_AWAIT_REPLY_MAX], theirs[TLS_MASTER_SECRET];
		struct tls_record_keys client, server;
		size_t need;

		assert_int_equal(
			tls_await_read(&l->s, &l->a, l->wire, l->wire_len, reply, &l->ev, &need),
			1);
		assert_int_equal(SSL_SESSION_get_master_key(SSL_get_session(l->client), theirs,
							    sizeof(theirs)),
				 sizeof(theirs));
		assert_memory_equal(l->a.exchange.master, theirs, sizeof(theirs));
		split_key_block(&l->a.exchange, theirs, &client, &server);
		assert_memory_equal(&l->a.keys, &client, sizeof(client));
		assert_memory_equal(&l->s.wr, &server, sizeof(server));
		tls_await_wipe(&l->a);
		link_free(l);
	}
}

/* The same client cannot tell the same twice: each of its Finished is another connection's. */
static void test_replayed(void **state)
{
	uint8_t wire[512];
	struct link *l = link_new(&(struct setup){.suite = &suites[0]});
	size_t len = l->wire_len;

	(void)state;
	assert_true(len <= sizeof(wire));
	memcpy(wire, l->wire, len);
	tls_await_wipe(&l->a);
	link_free(l);
	l = link_new(&(struct setup){.suite = &suites[0]});
	memcpy(l->wire, wire, len);
	l->wire_len = len;
	link_read(l, WIRE_MAX);
	assert_int_equal(l->rc, -1);
	assert_int_equal(l->ev.alert_sent, TLS_ALERT_BAD_RECORD_MAC);
	assert_int_equal(SSL_do_handshake(l->client), -1);
	assert_int_equal(ERR_GET_REASON(ERR_peek_last_error()), SSL_R_SSLV3_ALERT_BAD_RECORD_MAC);
	tls_await_wipe(&l->a);
	link_free(l);
}

/* ---- tickets ---- */

static void assert_same_master(SSL *a, SSL *b)
{
	uint8_t one[TLS_MASTER_SECRET], two[TLS_MASTER_SECRET];

	assert_int_equal(SSL_SESSION_get_master_key(SSL_get_session(a), one, sizeof(one)), 48);
	assert_int_equal(SSL_SESSION_get_master_key(SSL_get_session(b), two, sizeof(two)), 48);
	assert_memory_equal(one, two, sizeof(one));
}

/* Lets a client have a ticket of the stream's. */
static SSL_SESSION *get_ticket(const struct setup *how)
{
	struct link *l = link_new(how);
	SSL_SESSION *session;

	link_read(l, WIRE_MAX);
	assert_int_equal(l->said[0], TLS_CONTENT_HANDSHAKE);
	link_finish(l);
	session = SSL_get1_session(l->client);
	assert_true(SSL_SESSION_is_resumable(session));
	assert_true(SSL_SESSION_has_ticket(session));
	assert_int_equal(SSL_SESSION_get_ticket_lifetime_hint(session), TIMEOUT);
	link_free(l);
	return session;
}

/* OpenSSL's server opens it: the session is what its own ticket would have. */
static void test_tickets(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		struct setup how = {.suite = &suites[i]};
		struct link *l = &the_link;
		struct tls_exchange x;
		const SSL_SESSION *session;

		how.session = get_ticket(&how);
		link_start(l, &how);
		assert_int_equal(SSL_session_reused(l->server.ssl), 1);
		assert_false(server_leave(&l->server, &x)); /* the keys are there already */
		link_without(l);
		assert_int_equal(SSL_session_reused(l->client), 1);
		assert_int_equal(SSL_get_extms_support(l->client), 1);
		assert_same_master(l->server.ssl, l->client);
		session = SSL_get_session(l->server.ssl);
		assert_int_equal(SSL_SESSION_get_timeout(session), TIMEOUT);
		assert_in_range(SSL_SESSION_get_time(session), time(NULL) - 60, time(NULL));
		link_free(l);
		SSL_SESSION_free(how.session);
	}
}

/* OpenSSL's server resumes a session up to its own Finished. Then the stream waits. */
static struct link *link_resumed(const struct setup *how)
{
	struct link *l = &the_link;
	uint8_t verify_data[TLS_EXCHANGE_VERIFY];
	struct server *server = &l->server;

	link_start(l, how);
	tls_traffic_note_nonce(&server->traffic, SSL_get_wbio(server->ssl));
	assert_true(tls_traffic_foretell_resumed(
		&server->traffic, server->ssl,
		(struct tls_bytes){server->messages, server->messages_len}, &l->s, verify_data));
	tls_await_begin_resumed(&l->s, &l->a, verify_data);
	assert_int_equal(l->s.flags, TLS_STREAM_AWAITS);
	pump(server->ssl, l->client);
	server_free(server);
	assert_int_equal(SSL_do_handshake(l->client), 1);
	assert_int_equal(SSL_session_reused(l->client), 1);
	link_take(l);
	return l;
}

/* Not before OpenSSL's Finished, nor when the client's has come. */
static void test_resumed_states(void **state)
{
	struct setup how = {.suite = &suites[2]};
	struct link *l = &the_link;
	struct tls_bytes messages = {l->server.messages, 10};
	uint8_t verify_data[TLS_EXCHANGE_VERIFY];
	struct tls_stream s;

	(void)state;
	link_start(l, &how);
	assert_false(tls_traffic_foretell_resumed(&l->server.traffic, l->server.ssl, messages, &s,
						  verify_data));
	link_free(l);
	how.session = get_ticket(&how);
	link_start(l, &how);
	link_without(l);
	assert_false(tls_traffic_foretell_resumed(&l->server.traffic, l->server.ssl, messages, &s,
						  verify_data));
	link_free(l);
	SSL_SESSION_free(how.session);
}

static void test_resumed(void **state)
{
	static const size_t steps[] = {WIRE_MAX, 1, 5, 6, 7, 50};

	(void)state;
	for (size_t i = 0; i < COUNT(steps); i++) {
		const struct suite *suite = &suites[i % COUNT(suites)];
		struct setup how = {.suite = suite};
		struct link *l;

		how.session = get_ticket(&how);
		l = link_resumed(&how);
		link_read(l, steps[i]);
		assert_int_equal(l->rc, 1);
		assert_int_equal(l->said_len, 0);
		assert_int_equal(l->s.flags, 0);
		assert_int_equal(l->s.rd.seq, 1);
		assert_zeros(&l->a, sizeof(l->a));
		link_hear(l, 20000);
		link_say(l, 20000, false); /* OpenSSL has chosen the first nonce */
		link_free(l);
		SSL_SESSION_free(how.session);
	}
}

/* This end has changed its keys: it says with protection what is wrong. */
static void test_resumed_is_wrong(void **state)
{
	struct setup how = {.suite = &suites[0]};
	uint8_t *plain, type, alert;
	struct link *l;
	size_t len;

	(void)state;
	how.session = get_ticket(&how);
	for (int early = 0; early < 2; early++) {
		struct tls_record_keys keys;

		l = link_resumed(&how);
		keys = l->s.wr;
		l->wire[early ? 0 : l->wire_len - 1] ^= early ? 20 ^ 22 : 1;
		link_read(l, WIRE_MAX);
		assert_int_equal(l->rc, -1);
		assert_int_equal(l->ev.alert_sent,
				 early ? TLS_ALERT_UNEXPECTED_MESSAGE : TLS_ALERT_BAD_RECORD_MAC);
		assert_int_equal(
			tls_record_open(&keys, l->said, l->said_len, &plain, &len, &type, &alert),
			0);
		assert_int_equal(type, TLS_CONTENT_ALERT);
		assert_int_equal(plain[1], l->ev.alert_sent);
		tls_await_wipe(&l->a);
		link_free(l);
	}
	SSL_SESSION_free(how.session);
}

/* A ticket is too old when its client has proved long ago who it is. */
static void test_old_ticket(void **state)
{
	static const time_t ages[] = {0, TLS_TICKET_MAX_AGE - 60, TLS_TICKET_MAX_AGE};
	struct setup how = {.suite = &suites[0]};
	struct link *l = &the_link;

	(void)state;
	how.session = get_ticket(&how);
	for (size_t i = 0; i < COUNT(ages); i++) {
		clock_ahead = ages[i];
		link_start(l, &how);
		link_without(l);
		clock_ahead = 0;
		assert_int_equal(SSL_session_reused(l->client), ages[i] < TLS_TICKET_MAX_AGE);
		link_free(l);
	}
	SSL_SESSION_free(how.session);
}

/* A session without extended master secret is no such: RFC 7627 section 5.3. */
static void test_ticket_keeps_extended_master(void **state)
{
	struct setup how = {.suite = &suites[0], .client_op = SSL_OP_NO_EXTENDED_MASTER_SECRET};
	struct link *l = &the_link;
	SSL_SESSION *session = get_ticket(&(struct setup){.suite = &suites[0]});

	(void)state;
	how.session = session;
	l->client = client_new(&how);
	server_new(&l->server, &how);
	assert_int_equal(SSL_do_handshake(l->client), -1);
	pump(l->client, l->server.ssl);
	assert_int_equal(SSL_do_handshake(l->server.ssl), -1);
	assert_int_equal(SSL_get_error(l->server.ssl, -1), SSL_ERROR_SSL);
	assert_int_equal(ERR_GET_REASON(ERR_peek_error()), SSL_R_INCONSISTENT_EXTMS);
	link_free(l);
	SSL_SESSION_free(session);
}

/* Whoever has read the keys of a shared ticket may have made its session, so it stands for nobody
 * where it matters who comes. */
static void test_ticket_is_trusted_with_nothing(void **state)
{
	struct setup how = {.suite = &suites[0]};
	struct link *l = &the_link;
	SSL_SESSION *session = get_ticket(&how);

	(void)state;
	how.session = session;
	for (int asks = 0; asks < 2; asks++) {
		l->client = client_new(&how);
		server_new(&l->server, &how);
		SSL_set_verify(l->server.ssl, asks ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
		assert_int_equal(SSL_do_handshake(l->client), -1);
		pump(l->client, l->server.ssl);
		assert_int_equal(SSL_do_handshake(l->server.ssl), -1);
		assert_int_equal(SSL_get_error(l->server.ssl, -1), SSL_ERROR_WANT_READ);
		assert_int_equal(SSL_session_reused(l->server.ssl), !asks);
		link_free(l);
	}
	SSL_SESSION_free(session);
}

/* A client that offers no ticket gets none, and its Finished is right without. */
static void test_no_ticket(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		for (int by_server = 0; by_server < 2; by_server++) {
			struct setup how = {.suite = &suites[i], .no_ticket = !by_server};
			struct link *l;

			how.server_op = by_server ? SSL_OP_NO_TICKET : 0;
			l = link_new(&how);
			assert_int_equal(l->a.exchange.ticket.session_len, 0);
			link_read(l, WIRE_MAX);
			link_finish(l);
			assert_int_equal(l->said[0], TLS_CONTENT_CHANGE_CIPHER_SPEC);
			assert_false(SSL_SESSION_has_ticket(SSL_get_session(l->client)));
			link_talk(l, &suites[i]);
			link_free(l);
		}
	}
}

/* ---- which handshakes need OpenSSL ---- */

/* Whether the ServerHello or something else is why. */
struct refusal {
	const char *name;
	struct setup how;
	bool plain_hello;
};

static const struct refusal refusals[] = {
	{"P-256", {.suite = &suites[0], .groups = "P-256"}, true},
	{"X448", {.suite = &suites[0], .groups = "X448:P-256"}, true},
	{"CBC", {.ciphers = "ECDHE-ECDSA-AES128-SHA256"}, true},
	{"CBC with the MAC first",
	 {.ciphers = "ECDHE-ECDSA-AES256-SHA384", .client_op = SSL_OP_NO_ENCRYPT_THEN_MAC},
	 true},
	{"CCM", {.ciphers = "ECDHE-ECDSA-AES128-CCM"}, true},
	{"CCM_8", {.ciphers = "ECDHE-ECDSA-AES256-CCM8"}, true},
	{"RSA", {.rsa = true, .ciphers = "AES128-GCM-SHA256:@SECLEVEL=1"}, true},
	{"DHE", {.rsa = true, .ciphers = "DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=1"}, true},
	{"PSK", {.ciphers = "PSK-AES128-GCM-SHA256"}, true},
	{"PSK with the key exchange", {.ciphers = "ECDHE-PSK-CHACHA20-POLY1305"}, true},
	{"no extended master secret",
	 {.suite = &suites[0], .client_op = SSL_OP_NO_EXTENDED_MASTER_SECRET},
	 false},
	{"none of the server's",
	 {.suite = &suites[1], .server_op = SSL_OP_NO_EXTENDED_MASTER_SECRET},
	 false},
	{"session id", {.suite = &suites[0], .no_ticket = true, .caches = true}, false},
	{"max_fragment_length", {.suite = &suites[0], .short_records = true}, false},
};

/* OpenSSL then ends the handshake, with nothing amiss. */
static void test_refusals(void **state)
{
	struct link *l = &the_link;
	struct tls_exchange x;

	(void)state;
	for (size_t i = 0; i < COUNT(refusals); i++) {
		const struct refusal *row = &refusals[i];

		link_start(l, &row->how);
		if (l->server.traffic.plain_hello != row->plain_hello)
			fail_msg("%s: plain %d", row->name, !row->plain_hello);
		if (server_leave(&l->server, &x))
			fail_msg("%s: is not refused", row->name);
		link_without(l);
		assert_same_master(l->server.ssl, l->client);
		link_free(l);
	}
	ERR_clear_error();
}

/* When a part of the client's message is in the SSL object, nobody else can have it. */
static void test_message_has_begun(void **state)
{
	struct link *l = &the_link;
	uint8_t head[TLS_RECORD_HEADER + 4];
	struct tls_exchange x;

	(void)state;
	link_start(l, &(struct setup){.suite = &suites[0]});
	pump(l->server.ssl, l->client);
	assert_int_equal(SSL_do_handshake(l->client), -1);
	link_take(l);
	tls_record_put(TLS_CONTENT_HANDSHAKE, l->wire + TLS_RECORD_HEADER, 4, head);
	assert_int_equal(BIO_write(SSL_get_rbio(l->server.ssl), head, sizeof(head)), sizeof(head));
	assert_int_equal(SSL_do_handshake(l->server.ssl), -1);
	assert_int_equal(SSL_get_error(l->server.ssl, -1), SSL_ERROR_WANT_READ);
	assert_false(tls_traffic_exchange(&l->server.traffic, l->server.ssl, &x));
	link_free(l);
}

/* Only where ServerHelloDone was said last. */
static void test_other_states(void **state)
{
	struct link *l = &the_link;
	struct tls_exchange x;

	(void)state;
	link_start(l, &(struct setup){.suite = &suites[0]});
	assert_true(tls_traffic_exchange(&l->server.traffic, l->server.ssl, &x));
	link_without(l);
	assert_false(tls_traffic_exchange(&l->server.traffic, l->server.ssl, &x));
	link_free(l);
	link_start(l, &(struct setup){.suite = &suites[0], .is_1_3 = true});
	assert_int_equal(SSL_version(l->server.ssl), TLS1_3_VERSION);
	assert_false(l->server.traffic.plain_hello);
	l->server.traffic.plain_hello = true;
	assert_false(tls_traffic_exchange(&l->server.traffic, l->server.ssl, &x));
	link_without(l);
	link_free(l);
}

static void test_hello_prefixes_of_openssl(void **state)
{
	struct link *l = &the_link;

	(void)state;
	link_start(l, &(struct setup){.suite = &suites[0]});
	assert_true(l->server.traffic.plain_hello && l->server.traffic.promises_ticket);
	check_prefixes(l->server.hello, l->server.hello_len);
	link_free(l);
}

static void public_of(const uint8_t *private_key, uint8_t *public_key)
{
	EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, private_key, 32);
	size_t len = 32;

	assert_int_equal(EVP_PKEY_get_raw_public_key(key, public_key, &len), 1);
	EVP_PKEY_free(key);
}

/* What the exchange is made of is what OpenSSL has said. */
static void test_exchange_is_filled_in(void **state)
{
	struct link *l = &the_link;
	struct tls_exchange x;
	uint8_t public_key[32];
	size_t random = TLS_RANDOM;

	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		link_start(l, &(struct setup){.suite = &suites[i]});
		memset(&x, 0xee, sizeof(x));
		assert_true(tls_traffic_exchange(&l->server.traffic, l->server.ssl, &x));
		assert_int_equal(x.aead, suites[i].aead);
		assert_int_equal(x.hash, suites[i].hash);
		assert_memory_equal(l->server.messages + 6, x.client_random, random);
		assert_memory_equal(l->server.hello + 6, x.server_random, random);
		public_of(x.key.private_part, public_key);
		assert_memory_equal(x.key.public_part, public_key, sizeof(public_key));
		assert_int_equal(x.ticket.session_len, 0);
		assert_zeros(x.master, sizeof(x.master));
		link_free(l);
	}
}

/* A key that cannot be had leaves no error behind, of which OpenSSL would think that it is its own:
 * SSL_get_error(3). */
static void test_exchange_fails(void **state)
{
	struct link *l = &the_link;
	struct tls_exchange x;

	(void)state;
	link_start(l, &(struct setup){.suite = &suites[0]});
	for (int i = 1; i <= 4; i++) {
		call_fails = i;
		assert_false(tls_traffic_exchange(&l->server.traffic, l->server.ssl, &x));
		assert_int_equal(call_fails, 0);
		assert_int_equal(ERR_peek_error(), 0);
	}
	assert_true(tls_traffic_exchange(&l->server.traffic, l->server.ssl, &x));
	link_free(l);
}

/* ---- the session of a ticket ---- */

/* A server that has said ServerHelloDone, with the cipher in its session. */
static SSL *template_server(struct link *l, const struct suite *suite)
{
	SSL *ssl;

	link_start(l, &(struct setup){.suite = suite});
	ssl = l->server.ssl;
	assert_int_equal(SSL_SESSION_set_cipher(SSL_get_session(ssl), SSL_get_pending_cipher(ssl)),
			 1);
	return ssl;
}

static void check_session(const struct tls_exchange_ticket *t, uint8_t *bytes,
			  const struct suite *suite)
{
	const uint8_t *at = bytes;
	uint8_t master[TLS_MASTER_SECRET], got[TLS_MASTER_SECRET];
	SSL_SESSION *session;
	int64_t born;
	void *data;
	size_t len;

	memset(master, 0x5a, sizeof(master));
	memcpy(bytes + t->master_at, master, sizeof(master));
	session = d2i_SSL_SESSION(NULL, &at, t->session_len);
	assert_non_null(session);
	assert_ptr_equal(at, bytes + t->session_len);
	assert_int_equal(SSL_SESSION_get_master_key(session, got, sizeof(got)), sizeof(got));
	assert_memory_equal(got, master, sizeof(master));
	assert_int_equal(SSL_SESSION_get_protocol_version(session), TLS1_2_VERSION);
	assert_string_equal(SSL_CIPHER_get_name(SSL_SESSION_get0_cipher(session)), suite->name);
	assert_int_equal(SSL_SESSION_get_timeout(session), TIMEOUT);
	assert_int_equal(SSL_SESSION_get0_ticket_appdata(session, &data, &len), 1);
	assert_int_equal(len, sizeof(born));
	memcpy(&born, data, sizeof(born));
	assert_in_range(born, time(NULL) - 60, time(NULL));
	assert_null(SSL_SESSION_get0_peer(session));
	SSL_SESSION_free(session);
}

static void test_template(void **state)
{
	struct link *l = &the_link;

	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		SSL *ssl = template_server(l, &suites[i]);
		struct tls_exchange_ticket t = {.lifetime = 1};
		uint8_t out[TLS_EXCHANGE_SESSION + 1];

		memset(out, 0xee, sizeof(out));
		assert_true(tls_resume_template(ssl, &t, out, sizeof(out)));
		assert_int_equal(t.lifetime, TIMEOUT);
		assert_true(t.session_len > 100 && t.session_len < 400);
		assert_true(t.master_at + TLS_MASTER_SECRET <= t.session_len);
		assert_int_equal(out[t.session_len], 0xee);
		assert_string_equal((char *)out + t.master_at,
				    "the master secret will stand in this place here");
		check_session(&t, out, &suites[i]);
		link_free(l);
	}
}

/* What a former call has left does not stand for what this one cannot make. */
static void test_template_fails(void **state)
{
	struct link *l = &the_link;
	SSL *ssl = template_server(l, &suites[0]);
	struct tls_exchange_ticket t = {0};
	uint8_t out[TLS_EXCHANGE_SESSION];
	int count;

	(void)state;
	calls = 0;
	assert_true(tls_resume_template(ssl, &t, out, sizeof(out)));
	count = calls;
	for (int i = 1; i <= count; i++) {
		call_fails = i;
		assert_false(tls_resume_template(ssl, &t, out, sizeof(out)));
		assert_int_equal(call_fails, 0);
	}
	assert_true(tls_resume_template(ssl, &t, out, sizeof(out)));
	link_free(l);
}

/* No byte beyond the room, and none beyond what a ticket is made of. */
static void test_template_room(void **state)
{
	static uint8_t out[4 * TLS_EXCHANGE_SESSION];
	struct tls_exchange_ticket t = {0};
	struct link *l = &the_link;
	SSL *ssl = template_server(l, &suites[0]);
	char name[TLS_EXCHANGE_SESSION];
	size_t len, rest;

	(void)state;
	assert_true(tls_resume_template(ssl, &t, out, sizeof(out)));
	len = t.session_len;
	for (size_t room = 0; room <= len; room++) {
		uint8_t *exact = exactly(out, room);

		assert_int_equal(tls_resume_template(ssl, &t, exact, room), room == len);
		free(exact);
	}
	rest = TLS_EXCHANGE_SESSION - len;
	memset(name, 'n', sizeof(name));
	for (size_t more = rest - 16; more <= rest; more++) {
		bool fits;

		name[more] = '\0';
		assert_int_equal(SSL_SESSION_set1_hostname(SSL_get_session(ssl), name), 1);
		fits = i2d_SSL_SESSION(SSL_get_session(ssl), NULL) <= TLS_EXCHANGE_SESSION;
		assert_true(fits || more > rest - 16);
		assert_true(!fits || more < rest);
		assert_int_equal(tls_resume_template(ssl, &t, out, sizeof(out)), fits);
		name[more] = 'n';
	}
	link_free(l);
}

/* A client may ask for a name that is this text, too. */
static void test_template_is_not_misled(void **state)
{
	struct tls_exchange_ticket t = {0};
	struct link *l = &the_link;
	SSL *ssl = template_server(l, &suites[0]);
	uint8_t out[TLS_EXCHANGE_SESSION];

	(void)state;
	assert_int_equal(
		SSL_SESSION_set1_hostname(SSL_get_session(ssl),
					  "the master secret will stand in this place here"),
		1);
	assert_true(tls_resume_template(ssl, &t, out, sizeof(out)));
	check_session(&t, out, &suites[0]);
	link_free(l);
}

/* Whatever call fails, OpenSSL's server can go on where it was. */
static void test_leave_fails(void **state)
{
	struct link *l = &the_link;
	struct tls_exchange x;
	int count = 0;

	(void)state;
	for (int i = 0; i <= count; i++) {
		struct tls_ticket_keys *keys = tls_ticket_keys_new();

		link_start(l, &(struct setup){.suite = &suites[i % 3]});
		assert_true(tls_resume_attach(l->server.ssl, keys)); /* which have to begin */
		end_thread();
		calls = 0;
		call_fails = i;
		assert_int_equal(server_leave(&l->server, &x), i == 0);
		assert_int_equal(call_fails, 0);
		if (i == 0)
			count = calls;
		link_without(l);
		assert_same_master(l->server.ssl, l->client);
		link_free(l);
		tls_ticket_keys_unref(keys);
	}
	assert_true(count >= 4 + 4 + 3 + 4);
}

/* ---- keys of tickets ---- */

/* None stays in memory that is not the caller's. */
static void test_ticket_keys_are_wiped(void **state)
{
	struct tls_ticket_keys *keys = tls_ticket_keys_new();
	EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
	EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	EVP_MAC_CTX *mac = EVP_MAC_CTX_new(hmac);
	uint8_t name[TLS_TICKET_NAME], iv[EVP_MAX_IV_LENGTH];
	struct tls_exchange_ticket t;

	(void)state;
	keys_are_exposed = true;
	assert_true(tls_ticket_share(keys, 0, &t));
	assert_int_equal(exposed_count(), 0);
	assert_memory_equal(last_wiped, t.cipher_key, sizeof(t.cipher_key));
	assert_memory_equal(last_wiped + 32, t.mac_key, sizeof(t.mac_key));
	assert_int_equal(tls_ticket_seal(keys, 0, name, iv, cipher, mac), 1);
	assert_int_equal(exposed_count(), 0);
	assert_int_equal(tls_ticket_open(keys, 0, name, iv, cipher, mac), 1);
	assert_int_equal(exposed_count(), 0);
	keys_are_exposed = false;
	EVP_MAC_CTX_free(mac);
	EVP_MAC_free(hmac);
	EVP_CIPHER_CTX_free(cipher);
	tls_ticket_keys_unref(keys);
}

static SSL_CTX *make_server_ctx(void)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

	tls_resume_prepare(ctx);
	SSL_CTX_set_timeout(ctx, TIMEOUT);
	SSL_CTX_set_session_id_context(ctx, (const uint8_t *)"unit", 4);
	SSL_CTX_set_dh_auto(ctx, 1);
	return ctx;
}

static int group_begin(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++)
		make_waiting(&fresh[i], &suites[i]);
	server_ctx = make_server_ctx();
	rsa_ctx = make_server_ctx();
	client_ctx = SSL_CTX_new(TLS_client_method());
	make_identity(server_ctx);
	SSL_CTX_set_security_level(rsa_ctx, 1);
	make_rsa_identity(rsa_ctx);
	ticket_keys = tls_ticket_keys_new();
	aead_may_succeed = call_may_succeed;
	note_secret = expose;
	note_hmac_key = expose_hmac_key;
	note_hashed = expose_pad;
	note_wiped = keep_wiped;
	return 0;
}

static int group_end(void **state)
{
	(void)state;
	SSL_CTX_free(server_ctx);
	SSL_CTX_free(rsa_ctx);
	SSL_CTX_free(client_ctx);
	tls_ticket_keys_unref(ticket_keys);
	tls_exchange_thread_end();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hello_rows),
		cmocka_unit_test(test_hello_prefix),
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_cuts),
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_parts_of_records),
		cmocka_unit_test(test_wrong_bits_of_key_exchange),
		cmocka_unit_test(test_wrong_bits_of_finished),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_other_keys),
		cmocka_unit_test(test_small_order),
		cmocka_unit_test(test_own_alert),
		cmocka_unit_test(test_alert_when_done),
		cmocka_unit_test(test_sessions),
		cmocka_unit_test(test_no_number_left),
		cmocka_unit_test(test_unknown_suites),
		cmocka_unit_test(test_libcrypto_fails),
		cmocka_unit_test(test_pieces),
		cmocka_unit_test(test_master),
		cmocka_unit_test(test_replayed),
		cmocka_unit_test(test_tickets),
		cmocka_unit_test(test_resumed),
		cmocka_unit_test(test_resumed_states),
		cmocka_unit_test(test_resumed_is_wrong),
		cmocka_unit_test(test_old_ticket),
		cmocka_unit_test(test_ticket_keeps_extended_master),
		cmocka_unit_test(test_ticket_is_trusted_with_nothing),
		cmocka_unit_test(test_no_ticket),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_message_has_begun),
		cmocka_unit_test(test_other_states),
		cmocka_unit_test(test_hello_prefixes_of_openssl),
		cmocka_unit_test(test_exchange_is_filled_in),
		cmocka_unit_test(test_exchange_fails),
		cmocka_unit_test(test_template),
		cmocka_unit_test(test_template_fails),
		cmocka_unit_test(test_template_room),
		cmocka_unit_test(test_template_is_not_misled),
		cmocka_unit_test(test_leave_fails),
		cmocka_unit_test(test_ticket_keys_are_wiped),
	};

	return cmocka_run_group_tests(tests, group_begin, group_end);
}

#else

static void test_does_not_work(void **state)
{
	static const uint8_t bytes[128];
	struct tls_exchange x = {.aead = TLS_AEAD_AES_128_GCM, .hash = TLS_PRF_SHA256};
	struct tls_record_keys client, server;
	uint8_t verify_data[TLS_EXCHANGE_VERIFY], alert = 0;

	(void)state;
	assert_int_equal(tls_exchange_keys(&x, bytes, bytes, &client, &server, verify_data, &alert),
			 -1);
	assert_int_equal(alert, TLS_ALERT_INTERNAL_ERROR);
	assert_zeros(x.master, sizeof(x.master));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hello_rows),
		cmocka_unit_test(test_hello_prefix),
		cmocka_unit_test(test_does_not_work),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
