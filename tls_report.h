/* SPDX-License-Identifier: ISC */
/*
 * Collects what is wrong with a configuration, so that all of it can be told
 * at once, in the log and in an answer, by whoever asked. Ordinary heap; one
 * thread at a time; knows nothing of the host.
 */
#ifndef TLS_REPORT_H
#define TLS_REPORT_H

#include <stddef.h>

/* Owner: whoever initialised it with {0}; freed by tls_report_free(). */
struct tls_report {
	char *text; /* lines "E message\n" and "W message\n", or NULL */
	size_t len;
	unsigned errors;
	unsigned warnings;
	unsigned lost;       /* messages that were counted, but for which there was no room */
	const char *summary; /* static: what failed on the whole, or NULL */
};

/* Adds one message, unless it is there already. Line feeds in it become spaces; other control
 * characters and what is no UTF-8 are written as \x1b: it goes into logs and JSON. */
void tls_report_error(struct tls_report *r, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void tls_report_warning(struct tls_report *r, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Adds the messages of another report. */
void tls_report_merge(struct tls_report *r, const struct tls_report *other);

/*
 * Walks the messages of a text made by a report: returns the next message's length with
 * *message and *level ('E' or 'W') set and *text moved on, or -1 at the end.
 */
int tls_report_next(const char **text, const char **message, char *level);

/* Copies the text to a buffer of size bytes, 64 at least, with a final 0. What does not fit or was
 * lost is told by one more message. Returns the length. */
size_t tls_report_copy(const struct tls_report *r, char *to, size_t size);

void tls_report_free(struct tls_report *r);

#endif
