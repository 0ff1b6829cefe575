/* SPDX-License-Identifier: ISC */
/*
 * An established TLS connection without an SSL object: both directions' keys
 * and what RFC 8446 (sections 4.6, 5, 6) and RFC 5246 (section 7) ask of a
 * peer after the handshake: alerts, key updates, tickets, renegotiation
 * attempts, record and sequence limits.
 *
 * Plain data, may live in shared memory; the caller serialises its use.
 * Nothing here does I/O: bytes come in and go out through buffers.
 */
#ifndef TLS_STREAM_H
#define TLS_STREAM_H

#include "tls_rare.h"
#include "tls_record.h"

enum tls_stream_flag {
	TLS_STREAM_CLIENT = 1,       /* this end is the TLS client */
	TLS_STREAM_READ_CLOSED = 2,  /* close_notify was received */
	TLS_STREAM_WRITE_CLOSED = 4, /* close_notify or a fatal alert was sent */
	TLS_STREAM_DEAD = 8,    /* a fatal alert was sent or received, or an operation failed */
	TLS_STREAM_AWAITS = 16, /* not established yet: tls_await_read() reads */
	TLS_STREAM_CLEAR = 32,  /* while it awaits: alerts of this end are not protected */
};

struct tls_stream {
	struct tls_record_keys rd, wr;
	/* Records sealed with one key before a KeyUpdate of ours; 0: TLS_STREAM_UPDATE_AFTER. */
	uint64_t update_after;
	uint8_t flags;      /* enum tls_stream_flag */
	uint8_t hs_head[4]; /* header of a post-handshake message that is being received */
	uint8_t hs_head_len;
	uint8_t empty_records; /* in a row, limited */
	uint8_t key_updates;   /* of the peer since its last application data, limited */
	uint8_t tickets;       /* likewise */
	uint8_t warnings;      /* warning alerts and HelloRequests, likewise */
	uint32_t hs_left;      /* bytes of that message's body still to come */
};

/* What tls_stream_read() did. All pointers stay inside the caller's buffers. */
struct tls_stream_event {
	size_t consumed; /* bytes of the input that are done with */
	uint8_t *data;   /* clear text found, inside the input, or NULL */
	size_t data_len;
	size_t reply_len;   /* bytes put into reply that must be sent to the peer */
	int alert_sent;     /* alert that is in reply, or -1 */
	int alert_received; /* or -1 */
	const char *error;  /* static text when the stream is dead now, else NULL */
};

/* Room that tls_stream_read() and tls_stream_alert() may need for a reply. */
#define TLS_STREAM_REPLY_MAX 512

/*
 * Takes at most one record from in. Returns:
 *   1 a whole record was consumed (ev says what came of it: data, a reply, both or none),
 *   0 more bytes are needed; *need is set to the size of the whole record once known, else 0,
 *  -1 the stream is dead: ev->error says why, ev->reply_len bytes of reply (the alert) should
 *     still be sent.
 * close_notify sets TLS_STREAM_READ_CLOSED and returns 1; whatever comes after it is consumed
 * unread. A fatal alert received returns -1 without a reply. The record is opened in place.
 *
 * The reply must go out before anything that is sealed later: it may hold a KeyUpdate. Once
 * the write side is closed there is none. An alert that was sent or received need not be
 * the end: a warning (no_renegotiation, user_canceled) comes with 1.
 */
int tls_stream_read(struct tls_stream *s, uint8_t *in, size_t in_len, uint8_t *reply,
		    struct tls_stream_event *ev, size_t *need);

/*
 * Seals len bytes of application data into out as records of at most fragment bytes (1 to
 * TLS_RECORD_MAX_PLAIN), with a KeyUpdate first when the write key's limit is reached (TLS 1.3;
 * TLS 1.2 has no such thing and ends where the sequence numbers end).
 * Takes as much as fits into out_size; *taken says how much. Returns the bytes written, or 0
 * with *taken 0 when the stream cannot send any more (dead, closed, or libcrypto failed) or
 * when out_size has no room for one byte.
 */
size_t tls_stream_write(struct tls_stream *s, const uint8_t *in, size_t len, size_t *taken,
			size_t fragment, uint8_t *out, size_t out_size);

/*
 * Seals an alert (close_notify as warning, everything else fatal) into reply, of
 * TLS_STREAM_REPLY_MAX bytes, and marks the stream. Returns the bytes written, 0 when
 * the write side was closed before.
 */
size_t tls_stream_alert(struct tls_stream *s, uint8_t alert, uint8_t *reply);

/* The limit of records per key when none is given: below RFC 8446 section 5.5's 2^24.5. */
#define TLS_STREAM_UPDATE_AFTER (UINT64_C(1) << 24)

/* Overwrites both directions' keys. */
void tls_stream_wipe(struct tls_stream *s);

/* RFC name of an alert, such as "bad_certificate", or NULL if it has none. */
const char *tls_alert_name(int alert);

/* Room for an alert that has no name: its number. */
#define TLS_ALERT_TEXT 12

/* The name of an alert, or its number, which is written into number. */
const char *tls_alert_text(int alert, char number[TLS_ALERT_TEXT]);

/* ---- for tls_await.c: the parts of one call that reads ---- */

/* Warning alerts and HelloRequests in a row: enough for every honest peer. */
#define TLS_STREAM_MAX_WARNINGS 5

struct tls_stream_call {
	struct tls_stream *s;
	struct tls_stream_event *ev;
	uint8_t *reply; /* of TLS_STREAM_REPLY_MAX bytes, or TLS_AWAIT_REPLY_MAX */
};

/* Clears what the last call told. Returns 0, or -1 for a dead stream, which tells that it is. */
int tls_stream_begin(struct tls_stream_call *c, size_t *need);

/* Opens the record at in. Returns as tls_stream_read() does. */
int tls_stream_open(struct tls_stream_call *c, uint8_t *in, size_t in_len, uint8_t **plain,
		    size_t *plain_len, uint8_t *type, size_t *need);

/* Takes the content of an alert. Returns as tls_stream_read() does. */
TLS_RARE int tls_stream_take_alert(struct tls_stream_call *c, const uint8_t *p, size_t len);

/* Counts one more of what is limited. Returns 1, or -1 when it is too much. */
int tls_stream_count(struct tls_stream_call *c, uint8_t *count, uint8_t limit, const char *error);

/* What is wrong with a record that is answered with that alert. */
const char *tls_stream_record_error(uint8_t alert);

/* Ends the stream: with a fatal alert to the peer, without one. Both return -1. */
TLS_RARE int tls_stream_fail(struct tls_stream_call *c, uint8_t alert, const char *error);
TLS_RARE int tls_stream_dead(struct tls_stream_call *c, const char *error);

#endif
