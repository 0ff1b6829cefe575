/* SPDX-License-Identifier: ISC */
/* The selects: @tls, @tls.peer.subject.cn and the others of doc/selects.md. */
#ifndef TLS_SELECT_H
#define TLS_SELECT_H

#include <stdbool.h>

/* Makes them known to the host. Before its configuration is read. Returns 0 or -1. */
int tls_select_init(void);

/*
 * False if the configuration has a select of tls that does not exist; it was logged. To be asked
 * before SER serves anything: the host itself starts, and takes such a select for one without a
 * value, so a condition on it would never hold.
 */
bool tls_select_all_known(void);

#endif
