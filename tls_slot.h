/* SPDX-License-Identifier: ISC */
/*
 * What is said between the engine and the other processes: a process fills in the request of its
 * own slot, the engine the answer.
 */
#ifndef TLS_SLOT_H
#define TLS_SLOT_H

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

_Static_assert(TLS_SESSION_MESSAGES <= TLS_ENGINE_CLEAR, "a slot has room for the messages");

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
	char key_type[64]; /* "EC 256", "RSA 2048", or both with " + " */
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
	uint32_t handle; /* of the session; 0 when it is gone (FAST, what awaits) or never was */
	uint32_t in_used;
	uint32_t out_len, flight_len; /* struct tls_session_io */
	uint32_t clear_len;
	uint32_t clear_records; /* that carried it */
	uint32_t cert_len;
	uint32_t rows;                      /* of DOMAINS */
	uint64_t clear_bytes, packed_bytes; /* so far, on a connection with compression */
	bool more;                          /* call again without input for the rest */
	enum tls_cause cause;               /* of FAILED */
	struct tls_session_info info;
	struct tls_stream stream; /* when taken: tls_slot_wipe_keys() */
	struct tls_await await;
	struct tls_offer offer;
	char text[TLS_SESSION_TEXT];
	char keylog[TLS_KEYLOG_TEXT]; /* lines for SER's log; wipe them when they were taken */
	char keylog_trouble[TLS_KEYLOG_TROUBLE];
};

/* Overwrites the keys that an answer holds. */
static inline void tls_slot_wipe_keys(struct tls_engine_answer *answer)
{
	tls_stream_wipe(&answer->stream);
	tls_await_wipe(&answer->await);
}

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

#endif
