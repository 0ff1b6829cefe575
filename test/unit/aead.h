/* SPDX-License-Identifier: ISC */
/* Stands before tls_aead.c: notes what is sealed, and has calls fail as when libcrypto does. */
#ifndef TEST_UNIT_AEAD_H
#define TEST_UNIT_AEAD_H

#include "tls_aead.h"

#include <stdbool.h>

/* Asked before each tls_aead_seal() and tls_aead_open(), if set; these fail when it says no. */
extern bool (*aead_may_succeed)(void);

extern bool aead_fails; /* whatever it says */

/* While set, key and nonce of each seal are noted, of one that fails, too. */
extern bool aead_watched;

void aead_forget_notes(void);

/* How many are noted. */
size_t aead_noted(void);

/* No two of the notes are the same. */
void assert_nonces_differ(void);

#endif
