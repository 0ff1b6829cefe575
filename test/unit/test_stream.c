/* SPDX-License-Identifier: ISC */
/*
 * Units of the established connection: it talks to OpenSSL's own SSL through
 * memory, and every alert and limit is a row of the table in
 * test_stream_rows.h:
 *
 *   gcc -I. -I../.. test_stream.c helper.c aead.c \
 *       ../../tls_{record,stream,kdf,hash,aead,dispatch}.c \
 *       -Wl,--wrap=tls_aead_seal,--wrap=tls_aead_open -lcmocka -lssl -lcrypto
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "aead.h"
#include "helper.h"
#include "tls_stream.h"

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
#define WIRE_MAX   (1 << 18)
#define DEAD_FLAGS (TLS_STREAM_DEAD | TLS_STREAM_WRITE_CLOSED)
#define RAW        255 /* a part of a row that is put on the wire as it is */

static const struct suite {
	int version;
	const char *name;
	uint8_t aead, hash;
} suites[] = {
	{TLS1_3_VERSION, "TLS_AES_128_GCM_SHA256", TLS_AEAD_AES_128_GCM, TLS_PRF_SHA256},
	{TLS1_3_VERSION, "TLS_AES_256_GCM_SHA384", TLS_AEAD_AES_256_GCM, TLS_PRF_SHA384},
	{TLS1_3_VERSION, "TLS_CHACHA20_POLY1305_SHA256", TLS_AEAD_CHACHA20_POLY1305,
	 TLS_PRF_SHA256},
	{TLS1_2_VERSION, "ECDHE-ECDSA-AES128-GCM-SHA256", TLS_AEAD_AES_128_GCM, TLS_PRF_SHA256},
	{TLS1_2_VERSION, "ECDHE-ECDSA-AES256-GCM-SHA384", TLS_AEAD_AES_256_GCM, TLS_PRF_SHA384},
	{TLS1_2_VERSION, "ECDHE-ECDSA-CHACHA20-POLY1305", TLS_AEAD_CHACHA20_POLY1305,
	 TLS_PRF_SHA256},
};

/* One end is the stream under test, the other is OpenSSL's. */
struct link {
	struct tls_stream s;
	SSL *peer;
	uint8_t got[WIRE_MAX]; /* clear text that the stream has found */
	size_t got_len;
	size_t records;
	struct tls_stream_event ev; /* of the last record */
	int rc;
};

static SSL_CTX *server_ctx, *client_ctx;
static uint8_t traffic_secret[2][48]; /* the client's, the server's */
static struct link the_link;

static void on_keylog(const SSL *ssl, const char *line)
{
	const char *secret = strrchr(line, ' ') + 1;

	(void)ssl;
	if (strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0)
		unhex(secret, traffic_secret[0]);
	else if (strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24) == 0)
		unhex(secret, traffic_secret[1]);
}

static SSL *make_ssl(SSL_CTX *ctx, const struct suite *suite)
{
	SSL *ssl = SSL_new(ctx);

	assert_non_null(ssl);
	SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	assert_int_equal(SSL_set_min_proto_version(ssl, suite->version), 1);
	assert_int_equal(SSL_set_max_proto_version(ssl, suite->version), 1);
	if (suite->version == TLS1_3_VERSION)
		assert_int_equal(SSL_set_ciphersuites(ssl, suite->name), 1);
	else
		assert_int_equal(SSL_set_cipher_list(ssl, suite->name), 1);
	return ssl;
}

/* Moves what from has written to to, and keeps a copy. */
static void pump(SSL *from, SSL *to, uint8_t *log, size_t *log_len)
{
	int n = BIO_read(SSL_get_wbio(from), log + *log_len, (int)(16384 - *log_len));

	if (n <= 0)
		return;
	assert_int_equal(BIO_write(SSL_get_rbio(to), log + *log_len, n), n);
	*log_len += (size_t)n;
}

/* The explicit nonce of the first protected record of a flight: what follows ChangeCipherSpec. */
static void find_explicit_nonce(const uint8_t *log, size_t len, uint8_t *nonce)
{
	size_t at = 0;

	while (log[at] != TLS_CONTENT_CHANGE_CIPHER_SPEC) {
		at += 5 + ((size_t)log[at + 3] << 8 | log[at + 4]);
		assert_true(at + 6 < len);
	}
	memcpy(nonce, log + at + 6 + 5, 8);
}

static void take_keys(struct link *l, const struct suite *suite, SSL *mine, const uint8_t *log,
		      size_t log_len, int client)
{
	size_t secret_len = tls_kdf_hash_size(suite->hash);
	struct tls_record_keys k[2];
	uint8_t master[48], randoms[2][32];

	if (suite->version == TLS1_3_VERSION) {
		for (int i = 0; i < 2; i++)
			assert_int_equal(tls_record_keys_1_3(&k[i], suite->aead, suite->hash,
							     traffic_secret[i], secret_len),
					 0);
	} else {
		assert_int_equal(SSL_SESSION_get_master_key(SSL_get_session(mine), master, 48), 48);
		SSL_get_client_random(mine, randoms[0], 32);
		SSL_get_server_random(mine, randoms[1], 32);
		assert_int_equal(tls_record_keys_1_2(&k[0], &k[1], suite->aead, suite->hash, master,
						     randoms[0], randoms[1]),
				 0);
		k[0].seq = k[1].seq = 1; /* both Finished */
		if (suite->aead != TLS_AEAD_CHACHA20_POLY1305)
			find_explicit_nonce(log, log_len, k[client ? 0 : 1].iv + 4);
	}
	memset(&l->s, 0, sizeof(l->s));
	l->s.wr = k[client ? 0 : 1];
	l->s.rd = k[client ? 1 : 0];
	l->s.flags = client ? TLS_STREAM_CLIENT : 0;
	l->s.update_after = TLS_STREAM_UPDATE_AFTER;
}

/*
 * Makes a connection between two SSLs and puts the stream in the place of one of them. As
 * client the stream also gets the tickets that a TLS 1.3 server has sent.
 */
static struct link *link_new(const struct suite *suite, int client, int tickets)
{
	static uint8_t log[2][16384];
	size_t log_len[2] = {0, 0};
	struct link *l = &the_link;
	SSL *c = make_ssl(client_ctx, suite), *s = make_ssl(server_ctx, suite);

	memset(l, 0, sizeof(*l));
	SSL_set_connect_state(c);
	SSL_set_accept_state(s);
	assert_int_equal(SSL_set_num_tickets(s, (size_t)tickets), 1);
	for (int i = 0; i < 6; i++) {
		SSL_do_handshake(c);
		pump(c, s, log[0], &log_len[0]);
		SSL_do_handshake(s);
		if (!(client && suite->version == TLS1_3_VERSION && SSL_is_init_finished(s)))
			pump(s, c, log[1], &log_len[1]);
	}
	assert_true(SSL_is_init_finished(c) && SSL_is_init_finished(s));
	take_keys(l, suite, client ? c : s, log[client ? 0 : 1], log_len[client ? 0 : 1], client);
	if (!client && suite->version == TLS1_3_VERSION)
		l->s.wr.seq = (uint64_t)tickets;
	l->peer = client ? s : c;
	/* As the engine does: the connection is not over, its SSL is. */
	SSL_set_quiet_shutdown(client ? c : s, 1);
	SSL_free(client ? c : s);
	return l;
}

static void link_free(struct link *l)
{
	SSL_free(l->peer);
	ERR_clear_error();
}

/* Lets the stream read all that the peer has written, in pieces of step bytes. */
static void link_drain(struct link *l, size_t step)
{
	static uint8_t wire[WIRE_MAX];
	uint8_t reply[TLS_STREAM_REPLY_MAX];
	size_t at = 0, have = 0, need = 0;
	int n = BIO_read(SSL_get_wbio(l->peer), wire, sizeof(wire));
	size_t len = n > 0 ? (size_t)n : 0;

	l->rc = 0;
	while (l->rc >= 0 && (at < have || have < len)) {
		l->rc = tls_stream_read(&l->s, wire + at, have - at, reply, &l->ev, &need);
		if (l->rc == 0) {
			assert_true(have < len);
			assert_true(need == 0 || need > have - at);
			have = have + step < len ? have + step : len;
			continue;
		}
		assert_true(l->ev.reply_len <= sizeof(reply));
		if (l->ev.reply_len)
			BIO_write(SSL_get_rbio(l->peer), reply, (int)l->ev.reply_len);
		if (l->ev.data_len)
			memcpy(l->got + l->got_len, l->ev.data, l->ev.data_len);
		l->got_len += l->ev.data_len;
		at += l->ev.consumed;
		l->records++;
	}
}

/* The stream says len bytes and the peer must read them. */
static void link_say(struct link *l, size_t len, size_t fragment)
{
	static uint8_t wire[WIRE_MAX], back[WIRE_MAX];
	const uint8_t *text = pattern(len);
	size_t taken, n, got = 0;
	int part;

	n = tls_stream_write(&l->s, text, len, &taken, fragment, wire, sizeof(wire));
	assert_int_equal(taken, len);
	assert_int_equal(BIO_write(SSL_get_rbio(l->peer), wire, (int)n), n);
	while (got < len) {
		part = SSL_read(l->peer, back + got, (int)(sizeof(back) - got));
		assert_true(part > 0);
		got += (size_t)part;
	}
	assert_int_equal(got, len);
	assert_memory_equal(back, text, len);
}

/* The peer says len bytes and the stream must find them. */
static void link_hear(struct link *l, size_t len, size_t step)
{
	const uint8_t *text = pattern(len);

	l->got_len = 0;
	assert_int_equal(SSL_write(l->peer, text, (int)len), (int)len);
	link_drain(l, step);
	assert_int_equal(l->rc, 1);
	assert_int_equal(l->got_len, len);
	assert_memory_equal(l->got, text, len);
}

static void link_talk(struct link *l)
{
	static const size_t sizes[] = {1, 500, 1400, 16384, 40000};

	for (size_t i = 0; i < COUNT(sizes); i++) {
		link_say(l, sizes[i], i % 2 ? 16384 : 1000);
		link_hear(l, sizes[i], i == 1 ? 1 : 7000);
	}
}

static void test_talk(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		for (int client = 0; client < 2; client++) {
			struct link *l = link_new(&suites[i], client, 0);

			link_talk(l);
			link_free(l);
		}
	}
}

/* Tickets: read and dropped by a client, skipped over in the numbers by a server. */
static void test_tickets(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct link *l = link_new(&suites[i], 1, 3);

		link_drain(l, 9);
		assert_int_equal(l->records, 3);
		assert_int_equal(l->s.rd.seq, 3);
		assert_int_equal(l->s.tickets, 3);
		link_talk(l);
		assert_int_equal(l->s.tickets, 0);
		link_free(l);
		l = link_new(&suites[i], 0, 2);
		link_talk(l);
		link_free(l);
	}
}

static void test_peer_updates(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		for (int client = 0; client < 2; client++) {
			struct link *l = link_new(&suites[i], client, 0);

			for (int round = 0; round < 4; round++) {
				struct tls_record_keys before = l->s.wr;
				int ask = round % 2;

				assert_int_equal(
					SSL_key_update(l->peer, ask ? SSL_KEY_UPDATE_REQUESTED
								    : SSL_KEY_UPDATE_NOT_REQUESTED),
					1);
				assert_int_equal(SSL_do_handshake(l->peer), 1);
				link_drain(l, 100);
				assert_int_equal(l->rc, 1);
				assert_int_equal(l->ev.reply_len != 0, ask);
				assert_int_equal(memcmp(before.key, l->s.wr.key, 16) != 0, ask);
				link_hear(l, 700, 7000);
				link_say(l, 700, 16384);
			}
			link_talk(l);
			link_free(l);
		}
	}
}

static void test_own_updates(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		struct link *l = link_new(&suites[i], 0, 0);
		struct tls_record_keys first = l->s.wr;

		l->s.update_after = 3;
		link_say(l, 1000, 100); /* 3 records, KeyUpdate, 3 records, KeyUpdate, ... */
		assert_int_equal(l->s.wr.seq, suites[i].version == TLS1_3_VERSION ? 1 : 11);
		assert_int_equal(memcmp(first.key, l->s.wr.key, 16) != 0,
				 suites[i].version == TLS1_3_VERSION);
		link_talk(l);
		link_free(l);
	}
}

static void test_close(void **state)
{
	uint8_t out[TLS_STREAM_REPLY_MAX];
	size_t n, taken;

	(void)state;
	for (size_t i = 0; i < COUNT(suites); i++) {
		struct link *l = link_new(&suites[i], i % 2, 0);

		assert_int_equal(SSL_shutdown(l->peer), 0);
		link_drain(l, 100);
		assert_int_equal(l->rc, 1);
		assert_int_equal(l->ev.alert_received, TLS_ALERT_CLOSE_NOTIFY);
		assert_int_equal(l->s.flags & ~TLS_STREAM_CLIENT, TLS_STREAM_READ_CLOSED);
		n = tls_stream_alert(&l->s, TLS_ALERT_CLOSE_NOTIFY, out);
		assert_true(n != 0);
		BIO_write(SSL_get_rbio(l->peer), out, (int)n);
		assert_int_equal(SSL_shutdown(l->peer), 1);
		assert_int_equal(tls_stream_alert(&l->s, TLS_ALERT_CLOSE_NOTIFY, out), 0);
		assert_int_equal(tls_stream_write(&l->s, out, 1, &taken, 1, out, 99), 0);
		assert_int_equal(taken, 0);
		assert_false(l->s.flags & TLS_STREAM_DEAD);
		link_free(l);
		l = link_new(&suites[i], i % 2, 0);
		n = tls_stream_alert(&l->s, TLS_ALERT_INTERNAL_ERROR, out);
		BIO_write(SSL_get_rbio(l->peer), out, (int)n);
		assert_true(SSL_read(l->peer, out, 1) <= 0);
		assert_int_equal(ERR_GET_REASON(ERR_peek_error()),
				 SSL_R_TLSV1_ALERT_INTERNAL_ERROR);
		assert_int_equal(l->s.flags & DEAD_FLAGS, DEAD_FLAGS);
		link_free(l);
	}
}

static void test_renegotiation(void **state)
{
	(void)state;
	for (int client = 0; client < 2; client++) {
		struct link *l = link_new(&suites[3], client, 0);

		link_talk(l);
		assert_int_equal(SSL_renegotiate(l->peer), 1);
		SSL_do_handshake(l->peer);
		link_drain(l, 1000);
		assert_int_equal(l->ev.alert_sent, TLS_ALERT_NO_RENEGOTIATION);
		assert_int_equal(l->rc, client ? 1 : -1);
		if (client) {
			assert_int_equal(l->s.flags, TLS_STREAM_CLIENT);
		} else {
			assert_string_equal(l->ev.error,
					    "renegotiation attempt by the peer refused");
			assert_int_equal(l->s.flags, DEAD_FLAGS);
		}
		assert_true(SSL_do_handshake(l->peer) <= 0 || SSL_read(l->peer, l->got, 1) <= 0);
		assert_int_equal(ERR_GET_REASON(ERR_peek_error()), SSL_R_NO_RENEGOTIATION);
		link_free(l);
	}
}

#include "test_stream_rows.h"

static void stream_new(struct tls_stream *s, uint16_t version, uint8_t aead, int client)
{
	struct tls_record_keys k[2];
	uint8_t bytes[48] = {aead, 1};

	if (version == 0x0304) {
		for (int i = 0; i < 2; i++) {
			bytes[1] = (uint8_t)i;
			assert_int_equal(
				tls_record_keys_1_3(&k[i], aead, TLS_PRF_SHA384, bytes, 48), 0);
		}
	} else {
		assert_int_equal(tls_record_keys_1_2(&k[0], &k[1], aead, TLS_PRF_SHA256, bytes,
						     bytes, bytes),
				 0);
	}
	memset(s, 0, sizeof(*s));
	s->wr = k[client ? 0 : 1];
	s->rd = k[client ? 1 : 0];
	s->flags = client ? TLS_STREAM_CLIENT : 0;
}

/* The record that a row's part stands for, sealed as the peer would with its present keys. */
static size_t part_seal(const struct tls_stream *s, const struct part *part, uint8_t *out)
{
	static uint8_t content[TLS_RECORD_MAX_PLAIN];
	struct tls_record_keys k = s->rd;
	size_t n = unhex(part->hex, content);

	if (part->type == RAW) {
		memcpy(out, content, n);
		return n;
	}
	memset(content + n, 0, part->zeros);
	return tls_record_seal(&k, part->type, content, n + part->zeros, out);
}

/* What is in a reply must be the alert that the event tells of, last of all. */
static void check_reply(const struct row *row, struct tls_record_keys *k, uint8_t *reply,
			const struct tls_stream_event *ev)
{
	uint8_t *plain = NULL, type = 0, alert;
	size_t at = 0, len = 0;
	struct tls_record_header h;

	if (row->sent < 0 && !row->answer)
		assert_int_equal(ev->reply_len, 0);
	while (at < ev->reply_len) {
		assert_int_equal(tls_record_peek(k, reply + at, ev->reply_len - at, &h, &alert), 1);
		assert_int_equal(
			tls_record_open(k, reply + at, h.size, &plain, &len, &type, &alert), 0);
		at += h.size;
	}
	if (row->sent >= 0) {
		assert_int_equal(type, TLS_CONTENT_ALERT);
		assert_int_equal(len, 2);
		assert_int_equal(plain[0], row->sent == TLS_ALERT_NO_RENEGOTIATION ? 1 : 2);
		assert_int_equal(plain[1], row->sent);
	} else if (row->answer) {
		assert_int_equal(type, TLS_CONTENT_HANDSHAKE);
		assert_int_equal(len, 5);
		assert_memory_equal(plain, "\x18\0\0\1\0", 5);
	}
}

static void row_run(const struct row *row, uint8_t aead)
{
	static uint8_t rec[TLS_RECORD_MAX + 1];
	uint8_t reply[TLS_STREAM_REPLY_MAX];
	struct tls_stream_event ev = {0};
	struct tls_stream s, was;
	size_t n, need;
	int rc = 1;

	stream_new(&s, row->version, aead, row->client);
	s.flags |= row->preset;
	was = s;
	for (const struct part *p = row->parts; p < row->parts + COUNT(row->parts) && p->hex; p++) {
		for (unsigned int i = 0; i < (p->repeat ? p->repeat : 1); i++) {
			if (rc != 1)
				fail_msg("%s: ended early: %s", row->name, ev.error);
			n = part_seal(&s, p, rec);
			was = s;
			rc = tls_stream_read(&s, rec, n, reply, &ev, &need);
		}
	}
	if (rc != row->rc || ev.alert_sent != row->sent || ev.alert_received != row->received ||
	    (s.flags & ~TLS_STREAM_CLIENT) != row->flags)
		fail_msg("%s: rc %d, sent %d, received %d, flags %d (%s)", row->name, rc,
			 ev.alert_sent, ev.alert_received, s.flags, ev.error ? ev.error : "alive");
	if (row->error)
		assert_string_equal(ev.error, row->error);
	else
		assert_null(ev.error);
	assert_int_equal(ev.data_len, row->data);
	assert_int_equal(ev.data != NULL, row->data != 0);
	check_reply(row, &was.wr, reply, &ev);
	if (rc < 0) { /* and so it stays */
		assert_int_equal(tls_stream_read(&s, rec, 5, reply, &ev, &need), -1);
		assert_int_equal(ev.reply_len, 0);
		assert_int_equal(tls_stream_alert(&s, TLS_ALERT_CLOSE_NOTIFY, reply), 0);
	}
}

static void test_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++)
		for (uint8_t aead = 1; aead <= 3; aead++)
			row_run(&rows[i], aead);
}

/* No damaged record yields data; a part of one yields nothing but the wish for the rest. */
static void test_damage(void **state)
{
	uint8_t good[128], bad[128], reply[TLS_STREAM_REPLY_MAX];
	struct part part = {TLS_CONTENT_APPLICATION_DATA, "5245474953544552", 0, 0};
	struct tls_stream_event ev;
	struct tls_stream s, fresh;
	size_t n, need;
	int rc;

	(void)state;
	for (uint16_t version = 0x0303; version <= 0x0304; version++) {
		for (uint8_t aead = 1; aead <= 3; aead++) {
			stream_new(&fresh, version, aead, 0);
			n = part_seal(&fresh, &part, good);
			for (size_t bit = 0; bit < 8 * n; bit++) {
				memcpy(bad, good, n);
				bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
				s = fresh;
				rc = tls_stream_read(&s, bad, n, reply, &ev, &need);
				assert_null(ev.data);
				assert_true(rc == -1 || (rc == 0 && need > n));
				assert_int_equal(rc == -1, ev.alert_sent >= 0);
			}
			for (size_t have = 0; have < n; have++) {
				s = fresh;
				rc = tls_stream_read(&s, good, have, reply, &ev, &need);
				assert_int_equal(rc, 0);
				assert_int_equal(need, have < 5 ? 0 : n);
				assert_int_equal(ev.consumed, 0);
				assert_memory_equal(&s, &fresh, sizeof(s));
			}
		}
	}
}

/* Whatever room there is for output, it is kept to, and nothing is lost. */
static void test_write_room(void **state)
{
	struct tls_stream s;
	uint8_t in[300], back[300], *plain, type, alert;
	struct tls_record_header h;
	struct tls_record_keys rd;

	(void)state;
	for (size_t room = 0; room < 200; room++) {
		uint8_t *out = malloc(room ? room : 1);
		size_t done = 0, got = 0, taken = 0, n, len;

		stream_new(&s, room % 2 ? 0x0304 : 0x0303, (uint8_t)(1 + room % 3), 0);
		s.update_after = 2;
		rd = s.wr;
		memcpy(in, pattern(sizeof(in)), sizeof(in));
		do {
			n = tls_stream_write(&s, in + done, sizeof(in) - done, &taken, 50, out,
					     room);
			assert_true(n <= room);
			assert_int_equal(n != 0, taken != 0);
			done += taken;
			for (size_t at = 0; at < n; at += h.size) {
				assert_int_equal(tls_record_peek(&rd, out + at, n - at, &h, &alert),
						 1);
				assert_int_equal(tls_record_open(&rd, out + at, h.size, &plain,
								 &len, &type, &alert),
						 0);
				if (type == TLS_CONTENT_HANDSHAKE) {
					assert_int_equal(tls_record_keys_update(&rd), 0);
					continue;
				}
				assert_true(len > 0 && len <= 50);
				memcpy(back + got, plain, len);
				got += len;
			}
		} while (taken != 0 && done < sizeof(in));
		free(out);
		assert_int_equal(got, done);
		assert_memory_equal(back, in, done);
		if (room >= 64)
			assert_int_equal(done, sizeof(in));
		if (room <= TLS_RECORD_OVERHEAD)
			assert_int_equal(done, 0);
	}
}

/* Without a limit of the caller's there is one all the same. */
static void test_default_limit(void **state)
{
	uint8_t in[3] = {0}, out[200];
	struct tls_stream s;
	size_t taken;

	(void)state;
	stream_new(&s, 0x0304, TLS_AEAD_AES_256_GCM, 0);
	s.wr.seq = TLS_STREAM_UPDATE_AFTER - 2;
	assert_true(tls_stream_write(&s, in, 2, &taken, 1, out, sizeof(out)) != 0);
	assert_int_equal(s.wr.seq, TLS_STREAM_UPDATE_AFTER);
	assert_true(tls_stream_write(&s, in, 3, &taken, 1, out, sizeof(out)) != 0);
	assert_int_equal(s.wr.seq, 3);
}

static void test_alert_levels(void **state)
{
	static const uint8_t want[][2] = {{1, TLS_ALERT_CLOSE_NOTIFY}, {2, TLS_ALERT_DECODE_ERROR}};
	uint8_t out[TLS_STREAM_REPLY_MAX], *plain, type, alert;
	struct tls_record_keys k;
	struct tls_stream s;
	size_t n, len;

	(void)state;
	for (uint16_t version = 0x0303; version <= 0x0304; version++) {
		for (size_t i = 0; i < COUNT(want); i++) {
			stream_new(&s, version, TLS_AEAD_AES_128_GCM, 1);
			k = s.wr;
			n = tls_stream_alert(&s, want[i][1], out);
			assert_int_equal(tls_record_open(&k, out, n, &plain, &len, &type, &alert),
					 0);
			assert_int_equal(type, TLS_CONTENT_ALERT);
			assert_int_equal(len, 2);
			assert_memory_equal(plain, want[i], 2);
		}
	}
}

static void test_failures(void **state)
{
	uint8_t out[200], rec[64], reply[TLS_STREAM_REPLY_MAX];
	struct part ask = {TLS_CONTENT_HANDSHAKE, "1800000101", 0, 0};
	struct tls_stream_event ev;
	struct tls_stream s;
	size_t taken, need, n;

	(void)state;
	stream_new(&s, 0x0303, TLS_AEAD_AES_128_GCM, 0);
	s.wr.seq = UINT64_MAX - 1;
	assert_true(tls_stream_write(&s, out, 2, &taken, 1, out + 100, 100) != 0);
	assert_int_equal(taken, 1);
	assert_int_equal(s.flags, DEAD_FLAGS);
	assert_int_equal(tls_stream_write(&s, out, 2, &taken, 1, out + 100, 100), 0);
	stream_new(&s, 0x0304, TLS_AEAD_AES_128_GCM, 0);
	aead_fails = true;
	assert_int_equal(tls_stream_write(&s, out, 1, &taken, 1, out + 100, 100), 0);
	aead_fails = false;
	assert_int_equal(s.flags, DEAD_FLAGS);
	assert_int_equal(s.wr.seq, 1);
	stream_new(&s, 0x0304, TLS_AEAD_AES_128_GCM, 0);
	n = part_seal(&s, &ask, rec);
	s.wr.seq = UINT64_MAX; /* the answer cannot be sealed */
	assert_int_equal(tls_stream_read(&s, rec, n, reply, &ev, &need), -1);
	assert_int_equal(ev.reply_len, 0);
	assert_int_equal(ev.alert_sent, -1);
	assert_string_equal(ev.error, "cannot update the keys");
	stream_new(&s, 0x0304, TLS_AEAD_AES_128_GCM, 0);
	aead_fails = true;
	assert_int_equal(tls_stream_alert(&s, TLS_ALERT_CLOSE_NOTIFY, reply), 0);
	aead_fails = false;
	assert_int_equal(s.flags, DEAD_FLAGS);
	stream_new(&s, 0x0304, TLS_AEAD_AES_128_GCM, 0);
	tls_stream_wipe(&s);
	for (size_t i = 0; i < 2 * sizeof(s.rd); i++)
		assert_int_equal(((uint8_t *)&s)[i], 0);
}

/* Writes, alerts and both kinds of KeyUpdate in any order never use a nonce twice. */
static void nonces(uint16_t version, uint8_t aead)
{
	static uint8_t rec[TLS_RECORD_MAX], out[4000];
	uint8_t reply[TLS_STREAM_REPLY_MAX];
	struct part asks[] = {{TLS_CONTENT_HANDSHAKE, "1800000101", 0, 0},
			      {TLS_CONTENT_HANDSHAKE, "00000000", 0, 0},
			      {TLS_CONTENT_APPLICATION_DATA, "31", 0, 0}};
	struct tls_stream_event ev;
	struct tls_stream s;
	size_t n, need, taken;
	unsigned int seed = 4711u + aead;

	stream_new(&s, version, aead, 1);
	s.update_after = 5;
	memset(s.wr.iv + 4, 0xff, 8);
	aead_forget_notes();
	for (int i = 0; i < 1000; i++) {
		int ask = rand_r(&seed) % 3;
		size_t len = 1 + (size_t)rand_r(&seed) % 300;

		if (ask) {
			n = part_seal(&s, &asks[version == 0x0304 ? 0 : 1], rec);
			aead_watched = true;
			assert_int_equal(tls_stream_read(&s, rec, n, reply, &ev, &need), 1);
			aead_watched = false;
		}
		n = part_seal(&s, &asks[2], rec);
		aead_watched = true;
		assert_int_equal(tls_stream_read(&s, rec, n, reply, &ev, &need), 1);
		assert_true(tls_stream_write(&s, rec, len, &taken, 150, out, sizeof(out)) != 0);
		aead_watched = false;
	}
	aead_watched = true;
	assert_true(tls_stream_alert(&s, TLS_ALERT_INTERNAL_ERROR, reply) != 0);
	aead_watched = false;
	assert_true(aead_noted() > 2000);
	assert_nonces_differ();
}

static void test_nonces(void **state)
{
	(void)state;
	for (uint16_t version = 0x0303; version <= 0x0304; version++)
		for (uint8_t aead = 1; aead <= 3; aead++)
			nonces(version, aead);
}

static void test_alert_names(void **state)
{
	(void)state;
	assert_string_equal(tls_alert_name(0), "close_notify");
	assert_string_equal(tls_alert_name(42), "bad_certificate");
	assert_string_equal(tls_alert_name(120), "no_application_protocol");
	assert_null(tls_alert_name(121));
	assert_null(tls_alert_name(-1));
	assert_null(tls_alert_name(256));
}

static int group_begin(void **state)
{
	(void)state;
	server_ctx = SSL_CTX_new(TLS_server_method());
	client_ctx = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_keylog_callback(server_ctx, on_keylog);
	make_identity(server_ctx);
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
		cmocka_unit_test(test_talk),          cmocka_unit_test(test_tickets),
		cmocka_unit_test(test_peer_updates),  cmocka_unit_test(test_own_updates),
		cmocka_unit_test(test_close),         cmocka_unit_test(test_renegotiation),
		cmocka_unit_test(test_rows),          cmocka_unit_test(test_damage),
		cmocka_unit_test(test_write_room),    cmocka_unit_test(test_failures),
		cmocka_unit_test(test_nonces),        cmocka_unit_test(test_alert_names),
		cmocka_unit_test(test_default_limit), cmocka_unit_test(test_alert_levels),
	};

	return cmocka_run_group_tests(tests, group_begin, group_end);
}
