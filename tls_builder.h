/* SPDX-License-Identifier: ISC */
/*
 * Builds sets of domains: from sections or module parameters to SSL_CTXs, with what has not changed
 * since the set before. Engine process only.
 */
#ifndef TLS_BUILDER_H
#define TLS_BUILDER_H

#include "tls_domain.h"

/* What a set is built from. Borrowed for the call. */
struct tls_builder_source {
	const struct cfg_group_tls *cfg;
	const char *dir;                   /* directory that relative file names start from */
	const char *config;                /* file or directory of sections, or NULL */
	const struct tls_address *sockets; /* that the host listens on with TLS */
	size_t socket_count;
	struct tls_domain_set *previous; /* whose unchanged parts are used again, or NULL */
	bool may_ask;                    /* for passwords, on the terminal */
	unsigned threads;                /* that build domains */
	void (*prepare)(SSL_CTX *ctx);   /* the user's callbacks, set on every SSL_CTX */
	/* Gives out numbers for domains that the previous set does not have, 0 when there are none
	 * left, and takes them back. */
	uint32_t (*new_id)(const char *name);
	void (*gone)(uint32_t id);
};

/*
 * Builds a set with one reference. Reports every problem that it finds; returns NULL if one of
 * them is an error. *changed becomes true when somebody wrote to a file meanwhile: then not all of
 * the set is of the same time, and it should not be used.
 */
struct tls_domain_set *tls_builder_set(const struct tls_builder_source *source,
				       struct tls_report *report, bool *changed);

#endif
