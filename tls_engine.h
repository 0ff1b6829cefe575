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

#include "tls_keylog.h"
#include "tls_session.h"

#define TLS_ENGINE_IN    (64 * 1024)
#define TLS_ENGINE_OUT   (72 * 1024) /* whatever TLS_ENGINE_IN bytes may become when sealed */
#define TLS_ENGINE_CLEAR (64 * 1024)
/* A chain of the peer's, of which OpenSSL takes no more than 100 KB (SSL_CTX_set_max_cert_list),
 * the root that it leads to and our own certificate. */
#define TLS_ENGINE_CERT (192 * 1024)

enum tls_engine_op {
	TLS_ENGINE_LOAD = 1, /* build the domains from the file or directory that is named by in, or
				from the module parameters; out gets a report's text */
	TLS_ENGINE_CHECK,    /* the same, but change nothing */
	TLS_ENGINE_EXPIRY,   /* out gets a report's text: certificates that end soon or have */
	TLS_ENGINE_STATUS,   /* out gets a struct tls_engine_status */
	TLS_ENGINE_DOMAINS,  /* out gets rows of the domains from number first on */
	TLS_ENGINE_RUN,      /* tls_session_run(), with handle 0 on a new session */
	TLS_ENGINE_WRITE,    /* tls_session_write() */
	TLS_ENGINE_CLOSE,    /* tls_session_close() */
	TLS_ENGINE_DESCRIBE, /* tls_session_describe() */
};

/* What is asked. in_len bytes stand in the slot's in. */
struct tls_engine_request {
	enum tls_engine_op op;
	uint32_t handle; /* of the session, 0 for a new one */
	uint32_t in_len;
	uint32_t first;                 /* of DOMAINS */
	int64_t asked_us;               /* when; set by tls_engine_call() */
	unsigned keylog;                /* tls_keylog_active() */
	struct tls_session_setup setup; /* of a new session */
};

/* What is told of one domain. Texts are cut to their room. */
struct tls_engine_domain {
	uint32_t id;
	char name[TLS_DOMAIN_NAME];
	char file[256]; /* "" for module parameters */
	unsigned line;
	char subject[256]; /* of its certificate, "" without one */
	char names[512];   /* subjectAltNames */
	int64_t expires;   /* seconds from now */
	char key_type[32]; /* "EC 256", "RSA 2048", or both with " + " */
	unsigned chain;    /* certificates that are sent */
};

/* What is told of the engine as a whole. */
struct tls_engine_status {
	unsigned threads; /* that serve connections */
	size_t domains;
	uint64_t heap; /* bytes in use; 0: this C library does not tell */
};

/* What was answered; lengths are those of the slot's buffers. */
struct tls_engine_answer {
	enum tls_session_state state;
	uint32_t handle; /* of the session; 0 when it is gone (FAST) or never was */
	uint32_t in_used;
	uint32_t out_len;
	uint32_t clear_len;
	uint32_t clear_records; /* that carried it */
	uint32_t cert_len;
	uint32_t rows;                      /* of DOMAINS */
	uint64_t clear_bytes, packed_bytes; /* so far, on a connection with compression */
	bool more;                          /* call again without input for the rest */
	enum tls_cause cause;               /* of FAILED */
	struct tls_session_info info;
	struct tls_stream stream; /* wipe it when it was taken */
	char text[TLS_SESSION_TEXT];
	char keylog[TLS_KEYLOG_TEXT]; /* lines for SER's log; wipe them when they were taken */
	char keylog_trouble[TLS_KEYLOG_TROUBLE];
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
	const struct cfg_group_tls *cfg;   /* as it was when the process was forked */
	const char *dir;                   /* directory of the main configuration file */
	unsigned threads;                  /* 0: one per processor */
	const struct tls_address *sockets; /* that the host listens on with TLS */
	size_t socket_count;
	/* Gives up root privileges; called once, by the first successful LOAD. Returns 0, or -1. */
	int (*drop_privileges)(void);
};

/* The engine's process: serves until it is told to end. Never returns. */
void tls_engine_run(const struct tls_engine_config *config) __attribute__((noreturn));

/* Tells the process that forked the engine its pid, so that it does not wait for a dead one. */
void tls_engine_set_child(pid_t pid);

/* True in that process when the engine has ended. Elsewhere the host sees to it. */
bool tls_engine_has_died(void);

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

/*
 * Asks for LOAD or CHECK of the configuration file or directory of that name (of len bytes; none:
 * the module parameters). Returns the slot with the answer, whose text says what failed on the
 * whole and whose out holds a report's text, or NULL when the engine does not answer.
 */
struct tls_engine_slot *tls_engine_load(unsigned process, enum tls_engine_op op, const char *name,
					size_t len, unsigned timeout_ms);

/* True when this process's last request was not answered, nor has anybody's been since. Its next
 * ones then wait a short time only. */
bool tls_engine_is_stuck(void);

/* Tells the engine that a session is not needed any more. Never waits; any process, once per
 * handle. */
void tls_engine_release(uint32_t handle);

/* Sessions that the engine holds at this moment. */
unsigned tls_engine_sessions(void);

/* The name of a domain that connections were told of, "" for 0. Any process. */
const char *tls_engine_domain_name(uint32_t id);

/* Counts the connections of a domain: by is 1 or -1. 0 is no domain. Any process. */
void tls_engine_domain_use(uint32_t id, int by);
unsigned tls_engine_domain_users(uint32_t id);

/* The name of a suite that a connection was told of, "" for others; and what OpenSSL calls it and
 * how it describes it. Any process. */
const char *tls_engine_suite_name(uint16_t suite);
const char *tls_engine_cipher_name(uint16_t suite);
const char *tls_engine_cipher_description(uint16_t suite);

/* Unmaps the shared area. */
void tls_engine_destroy(void);

#endif
