/* SPDX-License-Identifier: ISC */
/*
 * Settings to an SSL_CTX: reads the files that a domain's settings name, says
 * of each what is wrong with it and where it was named. Engine process only.
 */
#ifndef TLS_CONTEXT_H
#define TLS_CONTEXT_H

#include "tls_address.h"
#include "tls_params.h"

#include <openssl/ssl.h>

#include <stdbool.h>

/* Where a setting comes from; file NULL: a module parameter or the built-in default. */
struct tls_place {
	const char *file;
	unsigned line;
};

struct tls_settings_places {
#define TLS_I(field, param, cfg, def, lo, hi, rt, help) struct tls_place field;
#define TLS_S(field, param, cfg, def, check, rt, help)  struct tls_place field;
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
};

/* What a context is made of. All borrowed for the call. */
struct tls_context_input {
	enum tls_role role;
	const char *name; /* of the domain, as messages and session contexts call it */
	const struct tls_settings *settings;
	const struct tls_settings_places *places;
	struct tls_place
		section;    /* what messages about built-in defaults point to, if it has a file */
	bool of_parameters; /* the settings are those of the module parameters */
	const struct cfg_group_tls *cfg;
	const char *dir; /* directory that relative file names start from */
	void (*prepare)(SSL_CTX *ctx);
	const uint8_t *session_context; /* with the certificate's names: where a session resumes */
	size_t session_context_size;
	SSL_CTX *store_from; /* has a CA store of the same settings; NULL: make one */
	bool may_ask;        /* for passwords, on the terminal */
	bool quiet;          /* no warnings: the same settings were warned of before */
};

/* Returns the context, or NULL when one of the problems that were reported is an error. Its current
 * certificate is that of the setting certificate. */
SSL_CTX *tls_context_new(const struct tls_context_input *input, struct tls_report *report);

/* True when every certificate is accepted and only the result kept: optional_no_ca. */
bool tls_context_accepts_unverified(enum tls_role role, const struct tls_settings *settings);

/* True when both have the same CA certificates and revocation lists. */
bool tls_context_same_store(const struct tls_settings *a, const struct tls_settings *b);

/* A file name of the configuration as the module opens it: as it is when it starts with '/' or
 * '.', else inside dir. Returns malloc()ed text or NULL without memory. */
char *tls_context_path(const char *dir, const char *name);

/* To be called by a thread that has made contexts, before it ends. */
void tls_context_thread_end(void);

#endif
