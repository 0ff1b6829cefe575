/* SPDX-License-Identifier: ISC */
/*
 * A mark for functions that a message on an established connection does not need as a rule: what
 * leads to them is laid out apart from what it does need, which is short of room in the processor's
 * caches.
 */
#ifndef TLS_RARE_H
#define TLS_RARE_H

#define TLS_RARE __attribute__((cold))

#endif
