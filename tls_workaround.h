/* SPDX-License-Identifier: ISC */
/*
 * What the module expects of the OpenSSL library that it finds at run time,
 * and the one table of that library's bugs that the module works around.
 *
 * The library is probed once, in the process that starts the module; which
 * workarounds are in force is decided from that and the configuration, and
 * inherited by every process that is forked later. It never changes then.
 */
#ifndef TLS_WORKAROUND_H
#define TLS_WORKAROUND_H

#include "tls_report.h"

#include <stdbool.h>
#include <stdint.h>

/* One per row of the table, in its order; doc/workarounds.md describes each. */
enum tls_workaround {
	TLS_WORKAROUND_BLOCK_PADDING,
	TLS_WORKAROUND_KERBEROS,
	TLS_WORKAROUND_COMPRESSION,
	TLS_WORKAROUND_LOW_MEMORY,
	TLS_WORKAROUND_EXIT,
	TLS_WORKAROUND_SWITCH_CONTEXT,
	TLS_WORKAROUND_DECODER,
	TLS_WORKAROUND_FETCH,
	TLS_WORKAROUND_OLD_VERSIONS,
	TLS_WORKAROUND_RENEGOTIATION,
	TLS_WORKAROUND_OTHER_NAME,
	TLS_WORKAROUND_CERT_COMPRESSION,
	TLS_WORKAROUND_LOST_METHOD,
	TLS_WORKAROUNDS /* how many there are */
};

/* The library at run time, or what a test says that it is. */
struct tls_library {
	unsigned long number; /* OpenSSL_version_num() */
	const char *text;     /* OpenSSL_version(); static */
	char missing[128];    /* what the module needs and it does not have: "A, B", or "" */
	bool switches_whole;  /* SSL_set_SSL_CTX() brings versions and verification along */
	bool has_zlib;        /* it has a method of TLS compression by itself */
};

/* What the configuration wants, as far as it decides about a row. */
struct tls_workaround_wish {
	bool compression;
	bool thresholds; /* of low memory */
};

/* Asks the library. OpenSSL must be initialised. */
void tls_library_probe(struct tls_library *library);

/*
 * Compares the library with the one that the module was compiled against. Another line of
 * versions, or something missing, is an error; with force a warning.
 */
void tls_workaround_check(const struct tls_library *library, bool force, struct tls_report *report);

/* Which rows are needed: bit N stands for row N. */
uint32_t tls_workaround_choose(const struct tls_library *library,
			       const struct tls_workaround_wish *wish);

/* Puts the rows in force. Until then all are. */
void tls_workaround_enable(uint32_t rows);
bool tls_workaround_on(enum tls_workaround row);

/* The ids of the rows in force, separated by commas; static. With why, each with what it is for. */
const char *tls_workaround_list(bool why);

#endif
