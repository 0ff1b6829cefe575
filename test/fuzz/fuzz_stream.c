/* SPDX-License-Identifier: ISC */
/*
 * libFuzzer target of the established connection: the input is a list of
 * steps, each a record that a peer might send, sealed with the right keys (or
 * raw or damaged), or something that this end does. What must always hold is
 * asserted after each step.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I../.. fuzz_stream.c \
 *         ../../tls_{dispatch,hash,x25519,kdf,aead,record,stream,exchange,await}.c \
 *         -lcrypto -o fuzz_stream
 *   ./fuzz_stream -max_total_time=60 corpus_stream
 *
 * Input: one byte of version, role, suite and whether a Finished is due, then steps: kind, inner
 * type, two bytes of length, content. While the Finished is due, a handshake record's content is
 * what differs from it: zeros are the right one, or a part of it.
 */
#include "steps.h"
#include "tls_await.h"

#include <stdlib.h>
#include <string.h>

enum config {
	CONFIG_1_3 = 1,
	CONFIG_CLIENT = 2,
	CONFIG_AWAITS = 0x80, /* server and TLS 1.3 only */
};

enum step_kind {
	STEP_RECORD,    /* as it is */
	STEP_PADDED,    /* with padding: TLS 1.3 */
	STEP_RAW,       /* no record but bytes */
	STEP_DAMAGED,   /* one bit is wrong */
	STEP_TRUNCATED, /* the end is missing */
	STEP_WRITE,
	STEP_ALERT,
	STEP_REPEAT, /* a record, many times */
	STEP_KINDS,
};

static struct tls_record_keys mirror; /* how the peer reads what the stream writes */
static struct tls_await due;          /* while TLS_STREAM_AWAITS is set */

static void setup(struct tls_stream *s, uint8_t config)
{
	uint16_t version = config & CONFIG_1_3 ? 0x0304 : 0x0303;
	uint8_t aead = (uint8_t)(1 + (config >> 2) % 3);
	uint8_t bytes[48] = {config};
	struct tls_record_keys k[2];

	if (version == 0x0304) {
		REQUIRE(tls_record_keys_1_3(&k[0], aead, TLS_PRF_SHA256, bytes, 32) == 0);
		bytes[1] = 1;
		REQUIRE(tls_record_keys_1_3(&k[1], aead, TLS_PRF_SHA256, bytes, 32) == 0);
	} else {
		REQUIRE(tls_record_keys_1_2(&k[0], &k[1], aead, TLS_PRF_SHA256, bytes, bytes,
					    bytes) == 0);
	}
	memset(s, 0, sizeof(*s));
	s->rd = k[0];
	s->wr = k[1];
	s->update_after = 4;
	s->flags = config & CONFIG_CLIENT ? TLS_STREAM_CLIENT : 0;
	mirror = s->wr;
	if (!(config & CONFIG_AWAITS) || !(config & CONFIG_1_3) || (config & CONFIG_CLIENT))
		return;
	bytes[1] = 2;
	REQUIRE(tls_await_init(&due, aead, TLS_PRF_SHA256, bytes, bytes) == 0);
	tls_await_begin(s, &due);
}

/* The peer must be able to read everything, in order, whatever it was. */
static void peer_reads(uint8_t *out, size_t len)
{
	struct tls_record_header h;
	uint8_t *plain, type, alert;
	size_t plain_len;

	for (size_t at = 0; at < len; at += h.size) {
		REQUIRE(tls_record_peek(&mirror, out + at, len - at, &h, &alert) == 1);
		REQUIRE(tls_record_open(&mirror, out + at, h.size, &plain, &plain_len, &type,
					&alert) == 0);
		if (type == TLS_CONTENT_HANDSHAKE) {
			REQUIRE(plain_len == 5 && memcmp(plain, "\x18\0\0\1\0", 5) == 0);
			REQUIRE(tls_record_keys_update(&mirror) == 0);
		}
		if (type == TLS_CONTENT_ALERT)
			REQUIRE(plain_len == 2);
	}
}

/* Only the right Finished ends the wait, whose last part was opened in place, and nothing of it
 * stays. */
static void check_finished(const struct tls_stream *s, const struct tls_await *was,
			   const uint8_t *in, const struct tls_stream_event *ev)
{
	static const struct tls_await none;
	size_t had = was->received_len;

	REQUIRE(memcmp(was->received, was->expected, had) == 0);
	REQUIRE(memcmp(in + TLS_RECORD_HEADER, was->expected + had, was->expected_len - had) == 0);
	REQUIRE(memcmp(&s->rd, &was->keys, sizeof(s->rd)) == 0);
	REQUIRE(memcmp(&due, &none, sizeof(due)) == 0);
	REQUIRE(s->flags == 0 || s->flags == TLS_STREAM_WRITE_CLOSED);
	REQUIRE(ev->reply_len == 0 && ev->alert_received == -1);
}

static int await_reads(struct tls_stream *s, uint8_t *in, size_t len, uint8_t *reply,
		       struct tls_stream_event *ev, size_t *need)
{
	struct tls_await was = due;
	int rc = tls_await_read(s, &due, in, len, reply, ev, need);

	REQUIRE(!ev->data && !ev->data_len);
	if (s->flags & TLS_STREAM_AWAITS) {
		REQUIRE(memcmp(&due.keys, &was.keys, sizeof(due.keys)) == 0);
	} else {
		REQUIRE(rc == 1);
		check_finished(s, &was, in, ev);
	}
	return rc;
}

static void stream_reads(struct tls_stream *s, const uint8_t *bytes, size_t len)
{
	uint8_t flags = s->flags;
	uint8_t *in = malloc(len ? len : 1);
	uint8_t *reply = malloc(TLS_STREAM_REPLY_MAX);
	struct tls_stream_event ev;
	size_t need;
	int rc;

	REQUIRE(in && reply);
	memcpy(in, bytes, len);
	rc = flags & TLS_STREAM_AWAITS ? await_reads(s, in, len, reply, &ev, &need)
				       : tls_stream_read(s, in, len, reply, &ev, &need);
	REQUIRE(rc >= -1 && rc <= 1);
	REQUIRE(ev.consumed <= len && ev.reply_len <= TLS_STREAM_REPLY_MAX);
	REQUIRE((rc == -1) == (ev.error != NULL));
	REQUIRE((rc == -1) == ((s->flags & TLS_STREAM_DEAD) != 0));
	REQUIRE((s->flags & flags & ~TLS_STREAM_AWAITS) == (flags & ~TLS_STREAM_AWAITS));
	REQUIRE((ev.data != NULL) == (ev.data_len != 0));
	REQUIRE(rc == 1 || (!ev.data && ev.consumed <= len));
	REQUIRE(rc != 1 || ev.consumed != 0);
	REQUIRE(rc != 0 || (ev.consumed == 0 && (need == 0 || need > len)));
	if (ev.data)
		REQUIRE(ev.data >= in && ev.data + ev.data_len <= in + len);
	if (flags & (TLS_STREAM_WRITE_CLOSED | TLS_STREAM_DEAD))
		REQUIRE(ev.reply_len == 0);
	REQUIRE(ev.alert_sent == -1 || ev.reply_len != 0);
	peer_reads(reply, ev.reply_len);
	free(in);
	free(reply);
}

static size_t seal_step(const struct tls_stream *s, const struct step *step, uint8_t *rec)
{
	static uint8_t inner[TLS_RECORD_MAX_PLAIN];
	struct tls_record_keys k = s->rd; /* what the peer seals with now */

	memcpy(inner, step->content, step->len);
	if ((s->flags & TLS_STREAM_AWAITS) && step->type == TLS_CONTENT_HANDSHAKE)
		for (size_t i = 0; i < step->len && due.received_len + i < due.expected_len; i++)
			inner[i] ^= due.expected[due.received_len + i];
	if (step->kind != STEP_PADDED)
		return tls_record_seal(&k, step->type, inner, step->len, rec);
	/* A type of zero is one more byte of padding. */
	inner[step->len] = step->type;
	memset(inner + step->len + 1, 0, step->type);
	return tls_record_seal(&k, 0, inner, step->len + 1 + step->type, rec);
}

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

static void run_step(struct tls_stream *s, const struct step *step)
{
	static uint8_t rec[TLS_RECORD_MAX];
	size_t n;

	switch (step->kind) {
	case STEP_RAW:
		stream_reads(s, step->content, step->len);
		return;
	case STEP_WRITE:
		run_write(s, step);
		return;
	case STEP_ALERT:
		peer_reads(rec, tls_stream_alert(s, step->type, rec));
		return;
	case STEP_REPEAT:
		for (size_t i = 0; i < 70; i++) {
			n = seal_step(s, step, rec);
			stream_reads(s, rec, n);
		}
		return;
	default:
		n = seal_step(s, step, rec);
		if (step->kind == STEP_DAMAGED)
			rec[(step->type * 31u) % n] ^= (uint8_t)(1 << step->type % 8);
		if (step->kind == STEP_TRUNCATED)
			n = (step->type * 31u) % n;
		stream_reads(s, rec, n);
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
	while (next_step(&data, &size, STEP_KINDS, TLS_RECORD_MAX_PLAIN - 300, &step))
		run_step(&s, &step);
	return 0;
}
