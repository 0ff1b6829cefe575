/* SPDX-License-Identifier: ISC */
/* Has certificates that end soon logged once a day. */
#ifndef TLS_REMINDER_H
#define TLS_REMINDER_H

/* Makes its timer in the host's timer process. From mod_init. Returns 0 or -1. */
int tls_reminder_init(void);

#endif
