/* SPDX-License-Identifier: ISC */
/*
 * What the steps share that build one SSL_CTX from a domain's settings, each in the file that knows
 * its settings: what they are given, and how they tell of problems. Engine process only.
 */
#ifndef TLS_BUILD_H
#define TLS_BUILD_H

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
	/* Two: get references to what certificate and certificate2 name, or stay as they are. */
	X509 **shown;
	const uint8_t *session_context; /* with the certificate's names: where a session resumes */
	size_t session_context_size;
	SSL_CTX *store_from; /* has a CA store of the same settings; NULL: make one */
	bool may_ask;        /* for passwords, on the terminal */
	bool quiet;          /* no warnings: the same settings were warned of before */
};

/* One SSL_CTX that is being built. Owner: tls_context_new(). */
struct tls_build {
	const struct tls_context_input *input;
	const struct tls_settings *settings;
	SSL_CTX *ctx;
	struct tls_report *report;
	int min, max;      /* versions; 0: the library's lowest or highest */
	X509 *own_cert[2]; /* of certificate and certificate2, or NULL; one reference each */
};

/* Room for tls_build_place(). */
#define TLS_BUILD_PLACE 512

/* Writes where a setting comes from: "tls.cfg:12: method" or "server:default: parameter
 * tls_method". */
const char *tls_build_place(const struct tls_build *b, const struct tls_place *place,
			    const char *name, char *text);

/* Reports a text about a setting; a warning is left out when the settings are to be quiet. */
void tls_build_say(struct tls_build *b, void (*what)(struct tls_report *, const char *, ...),
		   const struct tls_place *place, const char *name, const char *text);

/* Reports about the setting of a field; the format comes after "where: ". */
#define TLS_BUILD_SAY(b, what, field, format, ...)                                                 \
	do {                                                                                       \
		char place_[TLS_BUILD_PLACE];                                                      \
		what((b)->report, "%s: " format,                                                   \
		     tls_build_place(b, &(b)->input->places->field, #field, place_),               \
		     ##__VA_ARGS__);                                                               \
	} while (0)
#define SAY_ERROR(b, field, ...) TLS_BUILD_SAY(b, tls_report_error, field, __VA_ARGS__)
#define SAY_WARNING(b, field, ...)                                                                 \
	do {                                                                                       \
		if (!(b)->input->quiet)                                                            \
			TLS_BUILD_SAY(b, tls_report_warning, field, __VA_ARGS__);                  \
	} while (0)

#endif
