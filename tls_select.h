/* SPDX-License-Identifier: ISC */
/* The selects: @tls, @tls.peer.subject.cn and the others of doc/selects.md. */
#ifndef TLS_SELECT_H
#define TLS_SELECT_H

/* Makes them known to the host. Before its configuration is read. Returns 0 or -1. */
int tls_select_init(void);

#endif
