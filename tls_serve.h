/* SPDX-License-Identifier: ISC */
/*
 * The engine's process: its threads, and the sessions that they serve. It never takes a lock of the
 * host and allocates nothing in the host's memory.
 */
#ifndef TLS_SERVE_H
#define TLS_SERVE_H

#include "tls_answer.h"

/* The engine's process: serves until it is told to end. Never returns. */
void tls_serve_run(const struct tls_engine_config *config) __attribute__((noreturn));

#endif
