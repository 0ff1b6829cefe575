/* SPDX-License-Identifier: ISC */
/*
 * libFuzzer target of the end of a TLS 1.2 handshake: the input is a list of steps, each a record
 * that a client might send when the server has said ServerHelloDone (as it should be, raw or
 * damaged), or something that this end does. What must always hold is asserted after each step.
 * The Finished that a TLS 1.3 client is waited for is fuzz_stream.c's.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I../.. fuzz_await.c \
 *         ../../tls_{dispatch,hash,x25519,kdf,aead,record,stream,exchange,await}.c \
 *         -lcrypto -o fuzz_await
 *   ./fuzz_await -max_total_time=60 corpus_await
 *
 * Input: one byte of suite and ticket, then steps: kind, type, two bytes of length, content. The
 * content is what differs from what is due: zeros are the right message, or a part of it.
 */
#include "steps.h"
#include "tls_await.h"

#include <stdlib.h>
#include <string.h>

#define MESSAGES 100
#define SESSION  150

enum config {
	CONFIG_SUITE = 3,
	CONFIG_TICKET = 4,
};

enum step_kind {
	STEP_RECORD,    /* protected if it has to be */
	STEP_OTHER,     /* protected if it must not be, clear if it had to be protected */
	STEP_RAW,       /* no record but bytes */
	STEP_DAMAGED,   /* one bit is wrong */
	STEP_TRUNCATED, /* the end is missing */
	STEP_WRITE,
	STEP_ALERT,
	STEP_REPEAT, /* a record, many times */
	STEP_KINDS,
};

/* RFC 7748 section 6.1: the client is Alice, the server Bob. */
static const uint8_t key_exchange[TLS_EXCHANGE_MESSAGE] = {
	0x10, 0,    0,    0x21, 0x20, 0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54,
	0x74, 0x8b, 0x7d, 0xdc, 0xb4, 0x3e, 0xf7, 0x5a, 0x0d, 0xbf, 0x3a, 0x0d, 0x26,
	0x38, 0x1a, 0xf4, 0xeb, 0xa4, 0xa9, 0x8e, 0xaa, 0x9b, 0x4e, 0x6a,
};
static const uint8_t private_key[TLS_X25519_KEY] = {
	0x5d, 0xab, 0x08, 0x7e, 0x62, 0x4a, 0x8a, 0x4b, 0x79, 0xe1, 0x7f,
	0x8b, 0x83, 0x80, 0x0e, 0xe6, 0x6f, 0x3b, 0xb1, 0x29, 0x26, 0x18,
	0xb6, 0xfd, 0x1c, 0x2f, 0x8b, 0x27, 0xff, 0x88, 0xe0, 0xeb,
};
static const uint8_t public_key[TLS_X25519_KEY] = {
	0xde, 0x9e, 0xdb, 0x7d, 0x7b, 0x7d, 0xc1, 0xb4, 0xd3, 0x5b, 0x61,
	0xc2, 0xec, 0xe4, 0x35, 0x37, 0x3f, 0x83, 0x43, 0xc8, 0x5b, 0x78,
	0x67, 0x4d, 0xad, 0xfc, 0x7e, 0x14, 0x6f, 0x88, 0x2b, 0x4f,
};

static struct tls_record_keys mirror; /* how the client reads, once the stream is established */
static struct tls_await due;          /* while TLS_STREAM_AWAITS is set */

static void setup(struct tls_stream *s, uint8_t config)
{
	static const uint8_t suites[][2] = {
		{TLS_AEAD_AES_128_GCM, TLS_PRF_SHA256},
		{TLS_AEAD_AES_256_GCM, TLS_PRF_SHA384},
		{TLS_AEAD_CHACHA20_POLY1305, TLS_PRF_SHA256},
		{TLS_AEAD_AES_128_GCM, TLS_PRF_SHA384},
	};
	static const uint8_t messages[MESSAGES + SESSION];
	struct tls_exchange *x = &due.exchange;

	memset(&due, 0, sizeof(due));
	x->aead = suites[config & CONFIG_SUITE][0];
	x->hash = suites[config & CONFIG_SUITE][1];
	memcpy(x->key.private_part, private_key, sizeof(private_key));
	memcpy(x->key.public_part, public_key, sizeof(public_key));
	x->messages_len = MESSAGES;
	if (config & CONFIG_TICKET) {
		x->ticket.session_len = SESSION;
		x->ticket.master_at = 20;
	}
	due.messages = messages;
	tls_await_begin_exchange(s, &due);
}

/* The client must be able to read everything, in order, whatever it was. */
static void peer_reads(uint8_t *out, size_t len)
{
	struct tls_record_header h;
	uint8_t *plain, type, alert;
	size_t plain_len;

	for (size_t at = 0; at < len; at += h.size) {
		REQUIRE(tls_record_peek(&mirror, out + at, len - at, &h, &alert) == 1);
		REQUIRE(tls_record_open(&mirror, out + at, h.size, &plain, &plain_len, &type,
					&alert) == 0);
		REQUIRE(type == TLS_CONTENT_APPLICATION_DATA || type == TLS_CONTENT_ALERT);
		REQUIRE(type != TLS_CONTENT_ALERT || plain_len == 2);
	}
}

/* The next record of what is said last, which is not protected. */
static size_t take_clear(const uint8_t *out, size_t len, uint8_t type)
{
	struct tls_record_header h;
	uint8_t alert;

	REQUIRE(tls_record_peek_clear(out, len, &h, &alert) == 1 && h.type == type);
	return h.size;
}

/* The ticket if there is to be one, ChangeCipherSpec and Finished, with the first number. */
static void check_end(const struct tls_stream *s, const struct tls_await *was, uint8_t *out,
		      size_t len)
{
	struct tls_record_keys k = s->wr;
	uint8_t *plain, type, alert;
	size_t at = 0, plain_len;

	if (was->exchange.ticket.session_len > 0)
		at = take_clear(out, len, TLS_CONTENT_HANDSHAKE);
	at += take_clear(out + at, len - at, TLS_CONTENT_CHANGE_CIPHER_SPEC);
	REQUIRE(k.seq == 1);
	k.seq = 0;
	REQUIRE(tls_record_open(&k, out + at, len - at, &plain, &plain_len, &type, &alert) == 0);
	REQUIRE(type == TLS_CONTENT_HANDSHAKE && plain_len == TLS_EXCHANGE_FINISHED);
	REQUIRE(memcmp(plain, "\x14\0\0\x0c", 4) == 0);
	mirror = k;
}

/* Only the right Finished ends the wait, whose last part was opened in place, and nothing of it
 * stays. */
static void check_finished(const struct tls_stream *s, const struct tls_await *was,
			   const uint8_t *in)
{
	static const struct tls_await none;
	bool gcm = was->exchange.aead != TLS_AEAD_CHACHA20_POLY1305;
	size_t had = was->received_len;

	REQUIRE(was->step == TLS_AWAIT_FINISHED);
	REQUIRE(memcmp(was->received, was->expected, had) == 0);
	REQUIRE(memcmp(in + TLS_RECORD_HEADER + (gcm ? 8 : 0), was->expected + had,
		       was->expected_len - had) == 0);
	REQUIRE(memcmp(&due, &none, sizeof(due)) == 0);
	REQUIRE(memcmp(s->rd.key, was->keys.key, sizeof(s->rd.key)) == 0);
	REQUIRE(s->flags == 0 || s->flags == TLS_STREAM_WRITE_CLOSED);
	REQUIRE(s->warnings == 0);
}

/* One message after the other, and no record of this end before the last. */
static void check_waiting(const struct tls_stream *s, const struct tls_await *was,
			  const uint8_t *reply, const struct tls_stream_event *ev)
{
	REQUIRE(s->flags & TLS_STREAM_CLEAR);
	REQUIRE(s->wr.seq == 0 || (s->flags & TLS_STREAM_DEAD));
	REQUIRE(due.step == was->step ||
		(was->step == TLS_AWAIT_KEY_EXCHANGE && due.step == TLS_AWAIT_CHANGE) ||
		(was->step == TLS_AWAIT_CHANGE && due.step == TLS_AWAIT_FINISHED));
	if (due.step != TLS_AWAIT_KEY_EXCHANGE && was->step != TLS_AWAIT_KEY_EXCHANGE)
		REQUIRE(memcmp(&due.keys, &was->keys, sizeof(due.keys)) == 0);
	REQUIRE(ev->reply_len == 0 || ev->reply_len == 7);
	if (ev->reply_len > 0)
		REQUIRE(memcmp(reply, "\x15\x03\x03\0\x02\x02", 6) == 0 &&
			reply[6] == ev->alert_sent);
}

static int await_reads(struct tls_stream *s, uint8_t *in, size_t len, uint8_t *reply,
		       struct tls_stream_event *ev, size_t *need)
{
	struct tls_await was = due;
	int rc = tls_await_read(s, &due, in, len, reply, ev, need);

	REQUIRE(!ev->data && !ev->data_len);
	if (s->flags & TLS_STREAM_AWAITS) {
		check_waiting(s, &was, reply, ev);
		return rc;
	}
	REQUIRE(rc == 1);
	check_finished(s, &was, in);
	check_end(s, &was, reply, ev->reply_len);
	return rc;
}

static void stream_reads(struct tls_stream *s, const uint8_t *bytes, size_t len)
{
	uint8_t flags = s->flags;
	uint8_t *in = malloc(len ? len : 1);
	uint8_t *reply = malloc(TLS_AWAIT_REPLY_MAX);
	struct tls_stream_event ev;
	size_t need;
	int rc;

	REQUIRE(in && reply);
	memcpy(in, bytes, len);
	rc = flags & TLS_STREAM_AWAITS ? await_reads(s, in, len, reply, &ev, &need)
				       : tls_stream_read(s, in, len, reply, &ev, &need);
	REQUIRE(rc >= -1 && rc <= 1);
	REQUIRE(ev.consumed <= len && ev.reply_len <= TLS_AWAIT_REPLY_MAX);
	REQUIRE((rc == -1) == (ev.error != NULL));
	REQUIRE((rc == -1) == ((s->flags & TLS_STREAM_DEAD) != 0));
	REQUIRE(rc != 1 || ev.consumed != 0);
	REQUIRE(rc != 0 || (ev.consumed == 0 && (need == 0 || need > len)));
	if (flags & TLS_STREAM_DEAD)
		REQUIRE(ev.reply_len == 0);
	if (!(flags & TLS_STREAM_AWAITS))
		peer_reads(reply, ev.reply_len);
	free(in);
	free(reply);
}

/* What the client has to say next, of which it has said a part. */
static const uint8_t *due_next(const struct step *step, size_t *len)
{
	static const uint8_t change[] = {1};
	const uint8_t *message = due.step == TLS_AWAIT_FINISHED ? due.expected : key_exchange;
	size_t size = due.step == TLS_AWAIT_FINISHED ? due.expected_len : sizeof(key_exchange);

	if (step->type == TLS_CONTENT_CHANGE_CIPHER_SPEC) {
		*len = sizeof(change);
		return change;
	}
	*len = step->type == TLS_CONTENT_HANDSHAKE ? size - due.received_len : 0;
	return message + due.received_len;
}

static size_t make_record(const struct tls_stream *s, const struct step *step, uint8_t *rec)
{
	static uint8_t inner[TLS_RECORD_MAX_PLAIN];
	bool clear = (s->flags & TLS_STREAM_AWAITS) && due.step != TLS_AWAIT_FINISHED;
	struct tls_record_keys k = s->rd; /* what the client seals with now */
	size_t len = 0;

	memcpy(inner, step->content, step->len);
	if (s->flags & TLS_STREAM_AWAITS) {
		const uint8_t *next = due_next(step, &len);

		for (size_t i = 0; i < step->len && i < len; i++)
			inner[i] ^= next[i];
	}
	if (clear && step->kind == STEP_OTHER)
		k = due.keys;
	if (clear == (step->kind != STEP_OTHER) || k.aead == TLS_AEAD_NONE)
		return tls_record_put(step->type, inner, step->len, rec);
	return tls_record_seal(&k, step->type, inner, step->len, rec);
}

/* Nobody writes before the stream is established. */
static void run_write(struct tls_stream *s, const struct step *step)
{
	size_t room = step->len + 40u * step->type;
	uint8_t *out = malloc(room ? room : 1);
	size_t taken, n;

	REQUIRE(out);
	n = tls_stream_write(s, step->content, step->len, &taken, step->type, out, room);
	REQUIRE(n <= room && taken <= step->len && (n != 0) == (taken != 0));
	peer_reads(out, n);
	free(out);
}

static void run_alert(struct tls_stream *s, uint8_t alert)
{
	bool clear = s->flags & TLS_STREAM_CLEAR;
	uint8_t out[TLS_STREAM_REPLY_MAX];
	size_t n = tls_stream_alert(s, alert, out);

	if (!clear)
		peer_reads(out, n);
	else if (n > 0)
		REQUIRE(n == 7 && out[0] == TLS_CONTENT_ALERT && out[6] == alert);
}

static void run_record(struct tls_stream *s, const struct step *step)
{
	static uint8_t rec[TLS_RECORD_MAX];
	size_t n = make_record(s, step, rec);

	if (step->kind == STEP_DAMAGED)
		rec[(step->type * 31u) % n] ^= (uint8_t)(1 << step->type % 8);
	if (step->kind == STEP_TRUNCATED)
		n = (step->type * 31u) % n;
	stream_reads(s, rec, n);
}

static void run_step(struct tls_stream *s, const struct step *step)
{
	switch (step->kind) {
	case STEP_RAW:
		stream_reads(s, step->content, step->len);
		return;
	case STEP_WRITE:
		if (!(s->flags & TLS_STREAM_AWAITS))
			run_write(s, step);
		return;
	case STEP_ALERT:
		run_alert(s, step->type);
		return;
	case STEP_REPEAT:
		for (size_t i = 0; i < 40; i++)
			run_record(s, step);
		return;
	default:
		run_record(s, step);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tls_stream s;
	struct step step;

	if (size == 0)
		return 0;
	setup(&s, *data++);
	size--;
	while (next_step(&data, &size, STEP_KINDS, TLS_RECORD_MAX_PLAIN, &step))
		run_step(&s, &step);
	return 0;
}
