/* SPDX-License-Identifier: ISC */
/*
 * The memory that the engine and the other processes share, and how they wake each other. Only
 * tls_engine.c, which asks, and the files of the engine's own process use it.
 */
#ifndef TLS_AREA_H
#define TLS_AREA_H

#include "tls_slot.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* Sessions at one time; a handle is an index of a table, plus one. */
#define TLS_AREA_SESSIONS (1u << 18)
#define TLS_AREA_THREADS  256
/* Domains at one time, counting those that only old connections have. */
#define TLS_AREA_DOMAINS (1u << 16)
#define TLS_AREA_SUITES  256

/* States of a slot. The process moves it from IDLE to ASKED, the engine on to SERVED and DONE, the
 * process back to IDLE; whoever misses the deadline leaves GIVEN_UP, which the engine turns into
 * IDLE when it is done. */
enum tls_slot_state {
	TLS_SLOT_IDLE,
	TLS_SLOT_ASKED,
	TLS_SLOT_SERVED,
	TLS_SLOT_DONE,
	TLS_SLOT_GIVEN_UP,
};

/* Names of suites that were negotiated, so that no other process needs OpenSSL to tell them. */
struct tls_area_suite {
	_Atomic uint16_t suite; /* set last; 0 ends the table */
	struct tls_session_suite names;
};

struct tls_area_domain {
	atomic_uint users; /* connections */
	char name[TLS_DOMAIN_NAME];
};

/*
 * Shared by all processes, mapped before the first fork. Asked slots stand in a bitmap; the
 * sessions to release form a list that any process adds to and the engine takes whole.
 */
struct tls_area {
	unsigned slots;
	_Atomic uint64_t idle[TLS_AREA_THREADS / 64]; /* bitmap of engine threads without work */
	_Atomic uint32_t wakes[TLS_AREA_THREADS];     /* futex of each: changes when it is woken */
	_Atomic uint32_t delivering; /* workers that have an answer and look for work next */
	_Atomic uint32_t sessions;
	_Atomic uint32_t served;   /* requests: tells a stuck engine from a slow one */
	_Atomic uint32_t released; /* first handle of the list, 0: none */
	_Atomic uint32_t next_released[TLS_AREA_SESSIONS + 1];
	struct tls_area_domain domains[TLS_AREA_DOMAINS + 1]; /* by id; 0 is none */
	struct tls_area_suite suites[TLS_AREA_SUITES + 1];
	_Atomic uint64_t *asked; /* bitmap of slots */
	struct tls_engine_slot *slot;
	size_t size;
};

extern struct tls_area *tls_area;

/* Makes the area for the given number of processes, before the first fork. Returns 0, or -1 with
 * errno set. */
int tls_area_create(unsigned processes);
void tls_area_destroy(void);

/* The table's entry for a suite, or the one after its last. */
struct tls_area_suite *tls_area_suite(uint16_t suite);

/* Words of a bitmap of slots. */
size_t tls_area_words(void);

/* Takes one bit out of a bitmap, the lowest of the words from number first on. Returns its number,
 * or -1 when none is set. */
int tls_area_take_bit(_Atomic uint64_t *bitmap, size_t words, size_t first);

/* futex(2), between processes: sleeps while *word has the value. Returns 0, or -1 with errno set.
 */
int tls_area_wait(_Atomic uint32_t *word, uint32_t value, const struct timespec *timeout);
void tls_area_wake(_Atomic uint32_t *word);

/* Has some thread of the engine look for work. */
void tls_area_wake_engine(void);

/* Microseconds of a clock that only goes forward, the same in all processes. */
int64_t tls_area_now_us(void);

#endif
