/* SPDX-License-Identifier: ISC */
/*
 * The engine as the other processes see it: the one process in which OpenSSL lives. It owns the
 * domains, private keys and sessions, and serves requests with a few threads. A process fills in
 * its own slot of the shared area, calls, and waits for the answer with a deadline.
 */
#ifndef TLS_ENGINE_H
#define TLS_ENGINE_H

#include "tls_slot.h"

/* Before the engine is forked: has all processes learn when it dies. Returns 0, or -1 with errno
 * set. */
int tls_engine_prepare(void);

/* Behind that fork, in the engine and in its parent; the parent's other children come later. */
void tls_engine_forked(bool is_engine);

/* True when the engine has ended. Any process. */
bool tls_engine_has_died(void);

/*
 * The calling process's slot (number: its place in the host's process table), ready for a
 * request, or NULL while the engine still holds it after a missed deadline.
 */
struct tls_engine_slot *tls_engine_slot(unsigned process);

/*
 * Sends the slot's request and waits for the answer. Returns 0, or -1 when the deadline passed:
 * the session, if the request had one, is then of no more use and must be released.
 */
int tls_engine_call(struct tls_engine_slot *slot, unsigned timeout_ms);

/*
 * Asks for LOAD or CHECK of the configuration file or directory of that name (of len bytes; none:
 * the module parameters). Returns the slot with the answer, whose text says what failed on the
 * whole and whose out holds a report's text, or NULL when the engine does not answer.
 */
struct tls_engine_slot *tls_engine_load(unsigned process, enum tls_engine_op op, const char *name,
					size_t len, unsigned timeout_ms);

/* True when this process's last request was not answered, nor has anybody's been since. Its next
 * ones then wait a short time only. */
bool tls_engine_is_stuck(void);

/* Tells the engine that a session is not needed any more. Never waits; any process, once per
 * handle. */
void tls_engine_release(uint32_t handle);

/* Sessions that the engine holds at this moment. */
unsigned tls_engine_sessions(void);

/* The name of a domain that connections were told of, "" for 0. Any process. */
const char *tls_engine_domain_name(uint32_t id);

/* Counts the connections of a domain: by is 1 or -1. 0 is no domain. Any process. */
void tls_engine_domain_use(uint32_t id, int by);
unsigned tls_engine_domain_users(uint32_t id);

/* The name of a suite that a connection was told of, "" for others; and what OpenSSL calls it and
 * how it describes it. Any process. */
const char *tls_engine_suite_name(uint16_t suite);
const char *tls_engine_cipher_name(uint16_t suite);
const char *tls_engine_cipher_description(uint16_t suite);

#endif
