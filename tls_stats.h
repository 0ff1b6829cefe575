/* SPDX-License-Identifier: ISC */
/* The module's counters in the host's statistics, group tls. */
#ifndef TLS_STATS_H
#define TLS_STATS_H

/* Registers them. From mod_init. Returns 0 or -1. */
int tls_stats_init(void);

/* Counts how many TLS connections there are, if there were never more. When one was made. */
void tls_stats_note_peak(void);

#endif
