/* SPDX-License-Identifier: ISC */
/*
 * ONE row for each thing that routes can ask of the connection that a message
 * came in on. The rows yield the selects (tls_select.c) and pseudo-variables
 * (tls_variable.c); doc/selects.md lists them.
 */
#ifndef TLS_ATTRIBUTE_H
#define TLS_ATTRIBUTE_H

#include "core/parser/msg_parser.h"
#include "core/str.h"

#include <stdbool.h>
#include <stddef.h>

/* Longest name of a variable, and its NUL. */
#define TLS_ATTRIBUTE_NAME 48

enum tls_attribute_type {
	TLS_ATTRIBUTE_TEXT,
	TLS_ATTRIBUTE_BOTH,   /* a text that is also a number */
	TLS_ATTRIBUTE_NUMBER, /* a number that is also a text */
};

enum tls_attribute_index {
	TLS_ATTRIBUTE_SINGLE,
	TLS_ATTRIBUTE_INDEXED, /* one of several; the first unless an index is given */
	TLS_ATTRIBUTE_MUST_INDEX,
};

/* Valid until this process has asked for 16 more values; ends with a NUL that is not part of text.
 */
struct tls_attribute_value {
	str text;
	int number; /* of BOTH and NUMBER */
	enum tls_attribute_type type;
};

/*
 * A code stands for a row and whose certificate and name it is asked of.
 * Finds it by the words of a select behind "tls", whatever their case: {"peer", "subject", "cn"}.
 * Returns -1 if there is none.
 */
int tls_attribute_of_select(const str *words, size_t count);

/* Fills in the name and code of variable number n, from 0 on. Returns false behind the last one. */
bool tls_attribute_variable(size_t n, char name[TLS_ATTRIBUTE_NAME], int *code);

/* The code of $tls_peer_san_count(NAME), or my, or -1. */
int tls_attribute_of_count(bool my, const str *name);

/* The code of $tls(NAME), or -1. */
int tls_attribute_of_line(const str *name);

enum tls_attribute_index tls_attribute_indexing(int code);

/* Returns 0, or 1 if there is no such value. */
int tls_attribute_get(const struct sip_msg *msg, int code, int index,
		      struct tls_attribute_value *value);

#endif
