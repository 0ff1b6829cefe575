/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_answer.h"

#include "fixed_c_zlib.h"
#include "tls_area.h"
#include "tls_builder.h"
#include "tls_compat.h"
#include "tls_expiry.h"
#include "tls_file.h"
#include "tls_pem.h"
#include "tls_provider.h"

#include <sys/prctl.h>

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* How often the files of the domains are read when they change meanwhile. */
#define MAX_TRIES 3

static struct tls_domain_set *domains; /* in force */
static pthread_mutex_t domains_lock = PTHREAD_MUTEX_INITIALIZER;

static const struct tls_engine_config *engine;
static bool needs_keylog; /* OpenSSL does not use tls_provider.h */

/* Domains that a reload has replaced, each with the reference that it had when it was in force.
 * Only the thread that loads knows them. */
static struct tls_domain_set *old_domains;

/* Ids of domains that are gone; some still have connections. Guarded by id_lock. */
static uint32_t gone_ids[TLS_AREA_DOMAINS], gone_count, used_ids;
static pthread_mutex_t id_lock = PTHREAD_MUTEX_INITIALIZER;

struct tls_domain_set *tls_answer_domains(void)
{
	struct tls_domain_set *set;

	pthread_mutex_lock(&domains_lock);
	set = domains ? tls_domain_set_ref(domains) : NULL;
	pthread_mutex_unlock(&domains_lock);
	return set;
}

void tls_answer_init(const struct tls_engine_config *config)
{
	engine = config;
	needs_keylog = !tls_provider_install();
}

static void answer_report(struct tls_engine_slot *slot, const struct tls_report *report)
{
	slot->answer.out_len = (uint32_t)tls_report_copy(report, (char *)slot->out, TLS_ENGINE_OUT);
}

/* ---- ids of domains ---- */

/* An id that no connection uses any more, or a fresh one; 0 when there is none. */
static uint32_t take_id(void)
{
	for (uint32_t i = 0; i < gone_count; i++) {
		uint32_t id = gone_ids[i];

		if (atomic_load(&tls_area->domains[id].users) == 0) {
			gone_ids[i] = gone_ids[--gone_count];
			return id;
		}
	}
	return used_ids < TLS_AREA_DOMAINS ? ++used_ids : 0;
}

static uint32_t new_domain_id(const char *name)
{
	uint32_t id;

	pthread_mutex_lock(&id_lock);
	id = take_id();
	pthread_mutex_unlock(&id_lock);
	if (id)
		snprintf(tls_area->domains[id].name, sizeof(tls_area->domains[id].name), "%s",
			 name);
	return id;
}

static void domain_gone(uint32_t id)
{
	pthread_mutex_lock(&id_lock);
	gone_ids[gone_count++] = id; /* each stands there once at most */
	pthread_mutex_unlock(&id_lock);
}

/* ---- from a configuration to domains ---- */

unsigned tls_answer_processors(void)
{
	long online = sysconf(_SC_NPROCESSORS_ONLN);

	return online > 0 ? (unsigned)online : 1;
}

/* Compression has to be there before the first SSL_CTX. False: it was asked for, but it is not. */
static bool prepare_compression(struct tls_report *report)
{
	char why[FIXED_C_ZLIB_WHY];

	if (engine->cfg->disable_compression || fixed_c_zlib_install(why) == 0)
		return true;
	if (engine->cfg->force_run) {
		tls_report_warning(
			report,
			"parameter tls_disable_compression: no compression is offered, "
			"it does not work with %s; going on because tls_force_run is set",
			why);
		return true;
	}
	tls_report_error(report,
			 "parameter tls_disable_compression: compression does not work with %s; "
			 "set it to 1, or tls_force_run to start without",
			 why);
	return false;
}

/* Once, with the rights that are left. Returns -1 if it cannot be used. */
static int open_keylog(struct tls_report *report)
{
	const struct cfg_group_tls *cfg = engine->cfg;
	unsigned errors = report->errors;
	char *path = NULL;

	if (!(cfg->keylog_mode & TLS_KEYLOG_INIT))
		return 0;
	if (cfg->keylog_file.len > 0) {
		path = tls_file_path(engine->dir, cfg->keylog_file.s);
		if (!path)
			tls_report_error(report, "out of memory");
	}
	tls_keylog_open(path, cfg->keylog_peer.s, report);
	return report->errors > errors ? -1 : 0;
}

/* Once the files that only root can read were read. */
static int drop_privileges(const struct tls_domain_set *set, struct tls_report *report)
{
	uid_t user = geteuid();

	if (engine->drop_privileges() != 0) {
		tls_report_error(report, "the engine process cannot drop its privileges");
		return -1;
	}
	if (geteuid() != user)
		tls_file_privileges_dropped();
	return tls_domain_set_check_access(set, engine->dir, report);
}

/* Files that somebody writes to at this moment are read again, so that the set is of one time. */
static struct tls_domain_set *build_set(const struct tls_builder_source *source,
					struct tls_report *report)
{
	struct tls_report told = {0};
	struct tls_domain_set *set = NULL;
	bool changed = true;

	for (int tries = 0; changed && tries < MAX_TRIES; tries++) {
		tls_domain_set_unref(set);
		tls_report_free(&told);
		changed = false;
		set = tls_builder_set(source, &told, &changed);
	}
	if (changed) {
		if (told.errors == 0)
			tls_report_error(&told,
					 "files changed each time that they were read; try again");
		tls_domain_set_unref(set);
		set = NULL;
	}
	tls_report_merge(report, &told);
	report->summary = told.summary;
	tls_report_free(&told);
	return set;
}

static void prepare_ctx(SSL_CTX *ctx)
{
	tls_session_prepare(ctx, needs_keylog || (engine->cfg->keylog_mode & TLS_KEYLOG_INIT));
}

static struct tls_domain_set *build_domains(const char *name, struct tls_domain_set *previous,
					    struct tls_report *report)
{
	char *config = name[0] ? tls_file_path(engine->dir, name) : NULL;
	struct tls_builder_source source = {
		.cfg = engine->cfg,
		.dir = engine->dir,
		.config = config,
		.sockets = engine->sockets,
		.socket_count = engine->socket_count,
		.previous = previous,
		.may_ask = !previous && engine->cfg->key_password_mode == 1,
		.threads = tls_answer_processors(),
		.prepare = prepare_ctx,
		.new_id = new_domain_id,
		.gone = domain_gone,
	};
	struct tls_domain_set *set = NULL;

	if (name[0] && !config)
		tls_report_error(report, "out of memory");
	else if (prepare_compression(report))
		set = build_set(&source, report);
	free(config);
	tls_pem_forget_passwords();
	if (set && !previous && drop_privileges(set, report) != 0) {
		tls_domain_set_unref(set);
		set = NULL;
	} else if (set && !previous && open_keylog(report) != 0) {
		tls_domain_set_unref(set);
		set = NULL;
	}
	/* setuid() clears the first; the second keeps keys from others of the same user. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	prctl(PR_SET_DUMPABLE, 0);
	return set;
}

/* What has ended already was told when it was read. */
static void note_expiry(enum tls_engine_op op, const struct tls_domain_set *set,
			struct tls_report *report)
{
	int64_t left = tls_expiry_look(set, false, report);

	if (op == TLS_ENGINE_LOAD)
		tls_counter_set(TLS_COUNTER_ENGINE, TLS_COUNT_certificate_expires,
				left == TLS_EXPIRY_NONE ? 0 : (int64_t)time(NULL) + left);
}

/* Thousands of domains leave more behind than the C library gives back. */
static void give_back_memory(void)
{
	malloc_trim(0);
}

bool tls_answer_free_old(void)
{
	struct tls_domain_set **link = &old_domains, *set;
	bool freed = false;

	while ((set = *link)) {
		if (tls_domain_set_is_used(set)) {
			link = &set->next_old;
			continue;
		}
		*link = set->next_old;
		tls_domain_set_unref(set);
		freed = true;
	}
	if (freed)
		give_back_memory();
	return old_domains != NULL;
}

void tls_answer_load(struct tls_engine_slot *slot)
{
	struct tls_report report = {0};
	struct tls_domain_set *previous, *set = NULL;

	previous = tls_answer_domains();
	set = build_domains((const char *)slot->in, previous, &report);
	slot->answer.state = set ? TLS_SESSION_HELD : TLS_SESSION_FAILED;
	if (previous && slot->request.op == TLS_ENGINE_LOAD)
		tls_counter_add(TLS_COUNTER_ENGINE,
				set ? TLS_COUNT_reloads : TLS_COUNT_reloads_failed, 1);
	if (set)
		note_expiry(slot->request.op, set, &report);
	if (set && slot->request.op == TLS_ENGINE_LOAD) {
		pthread_mutex_lock(&domains_lock);
		domains = set;
		pthread_mutex_unlock(&domains_lock);
		set = NULL;
		if (previous) {
			previous->next_old = old_domains;
			old_domains = previous;
		}
	}
	tls_domain_set_unref(set);
	tls_domain_set_unref(previous);
	give_back_memory();
	snprintf(slot->answer.text, TLS_SESSION_TEXT, "%s", report.summary ? report.summary : "");
	answer_report(slot, &report);
	tls_report_free(&report);
}

/* ---- what is told of them ---- */

void tls_answer_expiry(struct tls_engine_slot *slot)
{
	struct tls_domain_set *set = tls_answer_domains();
	struct tls_report report = {0};

	if (set)
		tls_expiry_look(set, true, &report);
	tls_domain_set_unref(set);
	slot->answer.state = TLS_SESSION_HELD;
	answer_report(slot, &report);
	tls_report_free(&report);
}

void tls_answer_status(struct tls_engine_slot *slot, unsigned threads)
{
	struct tls_engine_status *status = (struct tls_engine_status *)slot->out;
	struct tls_domain_set *set = tls_answer_domains();

	*status = (struct tls_engine_status){
		.threads = threads,
		.domains = set ? set->count : 0,
		.heap = tls_heap_in_use(),
	};
	tls_domain_set_unref(set);
	slot->answer.state = TLS_SESSION_HELD;
	slot->answer.out_len = sizeof(*status);
}

/* Adds one of a domain's certificates; the first one's names stand for both, the earlier end
 * counts. */
static void describe_certificate(SSL *ssl, struct tls_engine_domain *row)
{
	X509 *cert = SSL_get_certificate(ssl);
	EVP_PKEY *key = X509_get0_pubkey(cert);
	size_t len = strlen(row->key_type);
	STACK_OF(X509) *chain = NULL;
	int64_t expires;

	snprintf(row->key_type + len, sizeof(row->key_type) - len, "%s%s %d", len ? " + " : "",
		 tls_key_type(key), EVP_PKEY_bits(key));
	expires = tls_expiry_left(cert);
	if (row->chain == 0 || expires < row->expires)
		row->expires = expires;
	if (row->chain > 0)
		return;
	tls_identity_subject(cert, row->subject, sizeof(row->subject));
	tls_identity_names(cert, TLS_IDENTITY_OFF, row->names, sizeof(row->names));
	SSL_get0_chain_certs(ssl, &chain);
	row->chain = 1 + (chain ? (unsigned)sk_X509_num(chain) : 0);
}

/* Through an SSL of its own: going from one certificate to the next changes what it goes over. */
static void describe_domain(const struct tls_domain *d, struct tls_engine_domain *row)
{
	SSL *ssl = SSL_new(d->ctx);
	const X509 *first;
	long more;

	memset(row, 0, sizeof(*row));
	row->id = d->ident->id;
	snprintf(row->name, sizeof(row->name), "%s", d->name);
	snprintf(row->file, sizeof(row->file), "%s", d->place.file ? d->place.file : "");
	row->line = d->place.line;
	first = ssl ? SSL_get_certificate(ssl) : NULL;
	if (first)
		describe_certificate(ssl, row);
	for (more = first ? SSL_set_current_cert(ssl, SSL_CERT_SET_FIRST) : 0; more == 1;
	     more = SSL_set_current_cert(ssl, SSL_CERT_SET_NEXT))
		if (SSL_get_certificate(ssl) != first)
			describe_certificate(ssl, row);
	SSL_free(ssl);
}

void tls_answer_list(struct tls_engine_slot *slot)
{
	struct tls_domain_set *set = tls_answer_domains();
	struct tls_engine_domain *rows = (struct tls_engine_domain *)slot->out;
	size_t room = sizeof(slot->out) / sizeof(*rows);

	slot->answer.state = TLS_SESSION_HELD;
	for (size_t i = slot->request.first; set && i < set->count; i++) {
		const struct tls_domain *d = &set->domains[i];
		struct tls_engine_domain *row = &rows[slot->answer.rows];

		if (slot->answer.rows == room) {
			slot->answer.more = true;
			break;
		}
		slot->answer.rows++;
		describe_domain(d, row);
	}
	tls_domain_set_unref(set);
}
