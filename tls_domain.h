/* SPDX-License-Identifier: ISC */
/*
 * Domains: who this end is and whom it trusts, as one SSL_CTX per domain.
 * Lives in the engine process only. A set of domains never changes once it is
 * built; connections hold a reference to the set that they started with, so a
 * newer set can take its place at any time.
 */
#ifndef TLS_DOMAIN_H
#define TLS_DOMAIN_H

#include "tls_address.h"
#include "tls_params.h"

#include <openssl/ssl.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Owner: its set. Immutable once built, so threads share it without a lock. */
struct tls_domain {
	enum tls_role role;
	const char *name; /* as in tls.cfg, "server:default"; static */
	struct tls_settings settings;
	bool accept_unverified; /* optional_no_ca: the result is kept, never enforced */
	SSL_CTX *ctx;
};

/* Owner: its references; freed with the last one. */
struct tls_domain_set {
	atomic_uint refs;
	struct tls_domain server;
	struct tls_domain client;
};

/* What a set is built from. Borrowed for the call. */
struct tls_domain_source {
	const struct cfg_group_tls *cfg;
	const char *dir;               /* directory that relative file names start from */
	void (*prepare)(SSL_CTX *ctx); /* the user's callbacks, set on every SSL_CTX */
};

/*
 * Builds a set with one reference. Reports every problem that it finds; returns NULL if one
 * of them is an error.
 */
struct tls_domain_set *tls_domain_set_new(const struct tls_domain_source *source,
					  struct tls_report *report);
struct tls_domain_set *tls_domain_set_ref(struct tls_domain_set *set);
void tls_domain_set_unref(struct tls_domain_set *set);

/* The domain for a new connection. */
struct tls_domain *tls_domain_find(struct tls_domain_set *set, enum tls_role role);

/* A file name of the configuration as the module opens it: as it is when it starts with '/' or
 * '.', else inside dir. Returns malloc()ed text or NULL without memory. */
char *tls_domain_path(const char *dir, const char *name);

#endif
