/* SPDX-License-Identifier: ISC */
/*
 * The domains in force, and what the engine's process answers about them: it builds new ones from
 * the configuration, and describes those that there are. Any thread, unless it says otherwise.
 */
#ifndef TLS_ANSWER_H
#define TLS_ANSWER_H

#include "tls_domain.h"
#include "tls_params.h"
#include "tls_slot.h"

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

/* Once, before anything else here. */
void tls_answer_init(const struct tls_engine_config *config);

/* The domains in force, with a reference for the caller; NULL before the first LOAD. */
struct tls_domain_set *tls_answer_domains(void);

/* LOAD and CHECK. Only one thread, which does nothing else: it takes seconds. */
void tls_answer_load(struct tls_engine_slot *slot);

/*
 * Frees the domains that a reload has replaced and that no session uses any more. Thousands of them
 * take long, so no thread that serves sessions does it, but the one that loads. Returns whether it
 * has to look again.
 */
bool tls_answer_free_old(void);

/* Processors of the machine, at least 1: as many threads are worth while. */
unsigned tls_answer_processors(void);

/* EXPIRY, DOMAINS and STATUS. */
void tls_answer_expiry(struct tls_engine_slot *slot);
void tls_answer_list(struct tls_engine_slot *slot);
void tls_answer_status(struct tls_engine_slot *slot, unsigned threads);

#endif
