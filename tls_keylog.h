/* SPDX-License-Identifier: ISC */
/*
 * The key log: the secrets of new connections, with which Wireshark decrypts
 * what it captured. Lines have the NSS format (draft-ietf-tls-keylogfile),
 * after a comment with the connection's addresses. A process that asks the
 * engine says in each request what is switched on at that moment; the engine
 * writes to the file and to the UDP peer, the process itself to SER's log.
 */
#ifndef TLS_KEYLOG_H
#define TLS_KEYLOG_H

#include "tls_address.h"
#include "tls_params.h"
#include "tls_report.h"

#include <stdbool.h>

/* Bits of keylog_mode. */
enum tls_keylog_mode {
	TLS_KEYLOG_INIT = 1,   /* looked at at the start: it can be switched on while SER runs */
	TLS_KEYLOG_ACTIVE = 2, /* on now */
	TLS_KEYLOG_LOG = 4,
	TLS_KEYLOG_FILE = 8,
	TLS_KEYLOG_PEER = 16,
	TLS_KEYLOG_FILTER = 1024, /* only what decrypts application data */
};

/* Room for the lines of one call of a session: five secrets of TLS 1.3, SHA-384, are the most. */
#define TLS_KEYLOG_TEXT 2048
/* Room for what is told when they could not be written. */
#define TLS_KEYLOG_TROUBLE 320

/* Reports what of the parameters is wrong or does not fit together. */
void tls_keylog_check(const struct cfg_group_tls *cfg, struct tls_report *report);

/* Makes it switchable if the parameters say so, and has the log warn while it is on. To be called
 * in mod_init, before the configuration group is declared. Returns 0 or -1. */
int tls_keylog_init(void);

/* What the calling process has to ask the engine for: TLS_KEYLOG_... bits, or 0 while it is off. */
unsigned tls_keylog_active(void);

/* ---- in the engine ---- */

/*
 * Takes the file (NULL: none) and the peer ("": none) that lines go to, and tries them; reports
 * what is wrong. To be called once, with the rights that the engine keeps. path is kept.
 */
void tls_keylog_open(const char *path, const char *peer, struct tls_report *report);

/* Appends OpenSSL's line to text, which has room for TLS_KEYLOG_TEXT bytes, if mode wants it. */
void tls_keylog_add(char *text, unsigned mode, const char *line);

/*
 * Writes lines to the file and the peer, as mode says. Any thread. trouble has room for
 * TLS_KEYLOG_TROUBLE bytes; it gets a message when something fails for the first time since it
 * worked, else "".
 */
void tls_keylog_write(unsigned mode, enum tls_role role, const struct tls_address *peer,
		      const struct tls_address *local, const char *text, char *trouble);

#endif
