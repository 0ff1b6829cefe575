/* SPDX-License-Identifier: ISC */
/*
 * What the module counts. ONE row per counter: it yields the enum, the name
 * in SER's statistics (group tls) and its help; doc/counters.md has the same
 * rows.
 *
 * The values lie in an anonymous shared mapping, made before the first fork.
 * Each process counts in a slot of its own and a reader adds the slots up, so
 * that no message makes two processors share a cache line. No lock.
 */
#ifndef TLS_COUNTER_H
#define TLS_COUNTER_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Why a handshake fails: X(name, "help"). The first one stands for every cause without a name. */
#define TLS_CAUSES(X)                                                                              \
	X(protocol, "no common version or suite, or broken messages")                              \
	X(not_tls, "the connection did not begin with TLS")                                        \
	X(timeout, "took longer than handshake_timeout")                                           \
	X(certificate, "the peer's certificate is missing or does not verify")                     \
	X(name, "the peer's certificate does not have the expected name")                          \
	X(domain, "no domain for the address and name that the client asked for")                  \
	X(alert, "the peer sent an alert")                                                         \
	X(closed, "the connection was closed in the middle")                                       \
	X(memory, "shared memory was low, or a memory or table was full")                          \
	X(engine, "the engine did not answer in time")                                             \
	X(queue, "too much clear text waited (con_ct_wq_max, ct_wq_max)")                          \
	X(send, "the peer does not read (send_timeout), or cannot be reached")

/*
 * X(name, kind, "help"), and CAUSE(name, "help") for the causes above, which are SUM rows named
 * handshakes_failed_NAME. SUM adds the slots up, MAX takes the largest; ASK is asked when somebody
 * reads it and has no slot.
 */
#define TLS_COUNTERS(X, CAUSE)                                                                     \
	X(opened_connections, ASK, "TLS connections now")                                          \
	X(max_connections, ASK, "SER's limit of TLS connections, tls_max_connections")             \
	X(peak_connections, MAX, "most TLS connections at one time")                               \
	X(connections_fast, SUM, "established connections now whose records any process seals")    \
	X(connections_held, SUM, "established connections now that the engine holds")              \
	X(connections_refused, SUM, "connections not made for want of shared memory")              \
	X(connections_failed, SUM, "connections that ended with an error after their handshake")   \
	X(clear_text_write_queued_bytes, ASK, "bytes of clear text that wait for handshakes now")  \
	X(handshakes_server, SUM, "handshakes done with clients")                                  \
	X(handshakes_client, SUM, "handshakes done with servers")                                  \
	X(handshakes_full, SUM, "of these, full ones")                                             \
	X(handshakes_resumed, SUM, "of these, those that resumed a session")                       \
	X(handshakes_tls1_3, SUM, "of these, with TLS 1.3")                                        \
	X(handshakes_tls1_2, SUM, "of these, with TLS 1.2")                                        \
	X(handshakes_tls1_1, SUM, "of these, with TLS 1.1")                                        \
	X(handshakes_tls1_0, SUM, "of these, with TLS 1.0 or older")                               \
	X(handshakes_failed_server, SUM, "handshakes with clients that failed")                    \
	X(handshakes_failed_client, SUM, "handshakes with servers that failed")                    \
	TLS_CAUSES(CAUSE)                                                                          \
	X(bytes_received, SUM, "bytes of clear text that peers sent")                              \
	X(bytes_sent, SUM, "bytes of clear text sent")                                             \
	X(records_received, SUM, "records that carried them")                                      \
	X(records_sent, SUM, "records that carried them")                                          \
	X(events, SUM, "event routes and callbacks run")                                           \
	X(events_dropped, SUM, "of these, those that executed drop")                               \
	X(engine_sessions, ASK, "handshakes and connections that the engine has now")              \
	X(engine_requests, SUM, "requests about connections that the engine answered")             \
	X(engine_queue_us, SUM, "microseconds that they waited for a thread of the engine")        \
	X(engine_queue_us_max, MAX, "the longest such wait")                                       \
	X(engine_service_us, SUM, "microseconds that the engine worked on them")                   \
	X(engine_service_us_max, MAX, "the longest such work")                                     \
	X(engine_timeouts, SUM, "requests that were given up (engine_timeout)")                    \
	X(reloads, SUM, "reloads that succeeded")                                                  \
	X(reloads_failed, SUM, "reloads that changed nothing because of an error")                 \
	X(certificate_expires, SUM, "when the first of the certificates shown expires, Unix time") \
	X(certificate_days_left, ASK, "days until then; 0 when it has, 99999 without one")

enum tls_cause {
#define TLS_CAUSE_ROW(name, help) TLS_CAUSE_##name,
	TLS_CAUSES(TLS_CAUSE_ROW)
#undef TLS_CAUSE_ROW
	/* how many there are */
	TLS_CAUSE_COUNT
};

enum tls_counter {
#define TLS_COUNTER_ROW(name, kind, help) TLS_COUNT_##name,
#define TLS_CAUSE_ROW(name, help)         TLS_COUNT_handshakes_failed_##name,
	TLS_COUNTERS(TLS_COUNTER_ROW, TLS_CAUSE_ROW)
#undef TLS_CAUSE_ROW
#undef TLS_COUNTER_ROW
	/* how many there are */
	TLS_COUNTER_COUNT
};

enum tls_counter_kind {
	TLS_COUNTER_SUM,
	TLS_COUNTER_MAX,
	TLS_COUNTER_ASK,
};

struct tls_counter_row {
	const char *name, *help;
	enum tls_counter_kind kind;
};

extern const struct tls_counter_row tls_counter_rows[TLS_COUNTER_COUNT];

/* The slot of the engine's process, whose threads share it. */
#define TLS_COUNTER_ENGINE UINT_MAX

/* Makes the slots: one per process and the engine's. Returns 0, or -1 with errno set. */
int tls_counter_create(unsigned processes);
void tls_counter_destroy(void);

/* Any process, any thread; process is the caller's place in the host's process table. Nothing
 * happens before the slots are made. */
void tls_counter_add(unsigned process, enum tls_counter row, int64_t n);
/* Adds clear text that came or went, and the records that carried it. */
void tls_counter_add_clear(unsigned process, bool sent, size_t bytes, size_t records);
/* Raises a MAX row to n, if it is less. */
void tls_counter_raise(unsigned process, enum tls_counter row, int64_t n);
/* Sets a row that only this slot has. */
void tls_counter_set(unsigned process, enum tls_counter row, int64_t n);

/* The row's value over all slots; 0 for an ASK row. */
int64_t tls_counter_get(enum tls_counter row);

/* The row that counts handshakes that failed for that cause. */
enum tls_counter tls_counter_of_cause(enum tls_cause cause);

#endif
