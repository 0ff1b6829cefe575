/* SPDX-License-Identifier: ISC */
/*
 * What is refused while shared memory is short, so that connections that are
 * there live on: new connections below low_mem_threshold1, operations below
 * low_mem_threshold2. All refusals share one log line a second.
 */
#ifndef TLS_SHORTAGE_H
#define TLS_SHORTAGE_H

#include "tls_conn.h"
#include "tls_rare.h"

/* Makes the counters in shared memory and their timer. From mod_init. Returns 0 or -1. */
int tls_shortage_init(void);
void tls_shortage_destroy(void);

/* Sets what the parameters' -1 stands for, and warns if a threshold leaves nothing; once the number
 * of processes is known and before there are connections. */
void tls_shortage_start(unsigned processes);

/* True when a new connection must not be made. The refusal is counted and told. */
bool tls_shortage_refuses_connection(const struct tls_conn *conn);

/* True if an operation that takes no shared memory is never refused: the operator has not set the
 * threshold, or to 0. */
static inline bool tls_shortage_is_for_memory(void)
{
	return cfg_get(tls, tls_cfg, low_mem_threshold2) <= 0;
}

/*
 * True when an operation on a connection must not be begun. One that takes no shared memory is
 * refused only where the operator has set the threshold. Counted and told.
 */
bool tls_shortage_refuses_operation(const struct tls_conn *conn, bool takes_memory);

/* Counts and tells that shared memory was really not there: for the connection as a whole, or for
 * an operation on it. */
TLS_RARE void tls_shortage_failed(const struct tls_conn *conn, bool whole_connection);

#endif
