/* SPDX-License-Identifier: ISC */
/* Stands before tls_aead.c: sees what is sealed and opened, and may refuse. */
#ifndef TEST_UNIT_AEAD_H
#define TEST_UNIT_AEAD_H

#include "tls_aead.h"

#include <stdbool.h>

/* Called before each tls_aead_seal() and tls_aead_open(), if set; these fail when it returns false.
 */
extern bool (*aead_before)(const struct tls_aead_with *with, bool seals);

#endif
