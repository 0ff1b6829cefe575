/* SPDX-License-Identifier: ISC */
/*
 * The engine: the one process in which OpenSSL lives. It owns the domains,
 * private keys and sessions, and serves requests of all other processes with
 * a few threads. The other processes see this file only: they fill in their
 * own slot of the shared area, call, and wait for the answer with a deadline.
 *
 * The engine never takes a lock of the host and allocates nothing in the
 * host's memory.
 */
#ifndef TLS_ENGINE_H
#define TLS_ENGINE_H

#include "tls_session.h"

#define TLS_ENGINE_IN    (64 * 1024)
#define TLS_ENGINE_OUT   (72 * 1024) /* whatever TLS_ENGINE_IN bytes may become when sealed */
#define TLS_ENGINE_CLEAR (64 * 1024)
#define TLS_ENGINE_CERT  (100 * 1024) /* OpenSSL takes no longer chain (SSL_CTX_set_max_cert_list) \
				       */

enum tls_engine_op {
	TLS_ENGINE_LOAD = 1, /* build the domains; the answer's out holds a report's text */
	TLS_ENGINE_RUN,      /* tls_session_run(), with handle 0 on a new session */
	TLS_ENGINE_WRITE,    /* tls_session_write() */
	TLS_ENGINE_CLOSE,    /* tls_session_close() */
};

/* What is asked. in_len bytes stand in the slot's in. */
struct tls_engine_request {
	enum tls_engine_op op;
	uint32_t handle; /* of the session, 0 for a new one */
	uint32_t in_len;
	struct tls_session_setup setup; /* of a new session */
};

/* What was answered; lengths are those of the slot's buffers. */
struct tls_engine_answer {
	enum tls_session_state state;
	uint32_t handle; /* of the session; 0 when it is gone (FAST) or never was */
	uint32_t in_used;
	uint32_t out_len;
	uint32_t clear_len;
	uint32_t cert_len;
	bool more; /* call again without input for the rest */
	struct tls_session_info info;
	struct tls_stream stream; /* wipe it when it was taken */
	char text[TLS_SESSION_TEXT];
};

/*
 * One process's mail box. Lives in the shared area, as long as the server runs. The process
 * owns it but for the time of a call; after a missed deadline the engine keeps it until it
 * is done.
 */
struct tls_engine_slot {
	_Atomic uint32_t state;
	struct tls_engine_request request;
	struct tls_engine_answer answer;
	uint8_t in[TLS_ENGINE_IN];
	uint8_t out[TLS_ENGINE_OUT];
	uint8_t clear[TLS_ENGINE_CLEAR];
	uint8_t cert[TLS_ENGINE_CERT];
};

/* Makes the shared area for the given number of processes, before the first fork. Returns 0, or
 * -1 with errno set. */
int tls_engine_create(unsigned processes);

/* How the engine's process runs. Borrowed for as long as it does. */
struct tls_engine_config {
	const struct cfg_group_tls *cfg; /* as it was when the process was forked */
	const char *dir;                 /* directory of the main configuration file */
	unsigned threads;                /* 0: one per processor */
	/* Gives up root privileges; called once, by the first successful LOAD. Returns 0, or -1. */
	int (*drop_privileges)(void);
};

/* The engine's process: serves until it is told to end. Never returns. */
void tls_engine_run(const struct tls_engine_config *config) __attribute__((noreturn));

/*
 * The calling process's slot (number: its place in the host's process table), ready for a
 * request, or NULL while the engine still holds it after a missed deadline.
 */
struct tls_engine_slot *tls_engine_slot(unsigned process);

/*
 * Sends the slot's request and waits for the answer. Returns 0, or -1 when the deadline passed:
 * the session, if the request had one, is then of no more use and must be released.
 */
int tls_engine_call(struct tls_engine_slot *slot, unsigned timeout_ms);

/* Tells the engine that a session is not needed any more. Never waits; any process, once per
 * handle. */
void tls_engine_release(uint32_t handle);

/* Sessions that the engine holds at this moment. */
unsigned tls_engine_sessions(void);

/* Unmaps the shared area. */
void tls_engine_destroy(void);

#endif
