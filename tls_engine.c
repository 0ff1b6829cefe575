/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_engine.h"

#include "fixed_c_zlib.h"
#include "tls_pem.h"
#include "tls_compat.h"
#include "tls_expiry.h"
#include "tls_provider.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Sessions at one time; a handle is an index of this table, plus one. */
#define MAX_SESSIONS (1u << 18)
#define MAX_THREADS  256
/* Domains at one time, counting those that only old connections have. */
#define MAX_DOMAINS (1u << 16)
#define MAX_SUITES  256
/* How often the files of the domains are read when they change meanwhile. */
#define MAX_TRIES 3

/* States of a slot. The process moves it from IDLE to ASKED, the engine on to SERVED and DONE, the
 * process back to IDLE; whoever misses the deadline leaves GIVEN_UP, which the engine turns into
 * IDLE when it is done. */
enum slot_state {
	SLOT_IDLE,
	SLOT_ASKED,
	SLOT_SERVED,
	SLOT_DONE,
	SLOT_GIVEN_UP,
};

/* Names of suites that were negotiated, so that no other process needs OpenSSL to tell them. */
struct shared_suite {
	_Atomic uint16_t suite; /* set last; 0 ends the table */
	char name[TLS_SESSION_SUITE];
	char cipher_name[TLS_SESSION_SUITE];
	char description[TLS_SESSION_DESCRIPTION];
};

struct shared_domain {
	atomic_uint users; /* connections */
	char name[TLS_DOMAIN_NAME];
};

/*
 * Shared by all processes, mapped before the first fork. Asked slots stand in a bitmap; the
 * sessions to release form a list that any process adds to and the engine takes whole.
 */
struct shared {
	unsigned slots;
	_Atomic uint64_t idle[MAX_THREADS / 64]; /* bitmap of engine threads without work */
	_Atomic uint32_t wakes[MAX_THREADS];     /* futex of each: changes when it is woken */
	_Atomic uint32_t delivering; /* workers that have an answer and look for work next */
	_Atomic uint32_t sessions;
	_Atomic uint32_t served;   /* requests: tells a stuck engine from a slow one */
	_Atomic uint32_t released; /* first handle of the list, 0: none */
	_Atomic uint32_t next_released[MAX_SESSIONS + 1];
	struct shared_domain domains[MAX_DOMAINS + 1]; /* by id; 0 is none */
	struct shared_suite suites[MAX_SUITES + 1];
	_Atomic uint64_t *asked; /* bitmap of slots */
	struct tls_engine_slot *slot;
	size_t size;
};

static struct shared *shared;

/* An entry of the engine's table of sessions. busy and dead are guarded by table_lock. */
struct entry {
	struct tls_session *session;
	uint32_t next_free;
	bool busy; /* a thread serves it */
	bool dead; /* released while busy: the thread frees it */
};

static struct entry *table; /* MAX_SESSIONS + 1 entries, touched as they are used */
static uint32_t table_used = 1, table_free;
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

static struct tls_domain_set *domains;
static pthread_mutex_t domains_lock = PTHREAD_MUTEX_INITIALIZER;

/* Slots that worker threads passed on to the loader, and the futex that tells it so. */
static _Atomic uint64_t *load_asked;
static _Atomic uint32_t load_work;

/* Ids of domains that are gone; some still have connections. Guarded by id_lock. */
static uint32_t gone_ids[MAX_DOMAINS], gone_count, used_ids;
static pthread_mutex_t id_lock = PTHREAD_MUTEX_INITIALIZER;
static const struct tls_engine_config *engine;
static unsigned thread_count;
static bool needs_keylog; /* OpenSSL does not use tls_provider.h */

static int futex_wait(_Atomic uint32_t *word, uint32_t value, const struct timespec *timeout)
{
	return (int)syscall(SYS_futex, word, FUTEX_WAIT, value, timeout, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count)
{
	syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}

static size_t bitmap_words(unsigned slots)
{
	return (slots + 63) / 64;
}

int tls_engine_create(unsigned processes)
{
	size_t head = (sizeof(struct shared) + 63) & ~(size_t)63;
	size_t bitmap = (bitmap_words(processes) * sizeof(uint64_t) + 63) & ~(size_t)63;
	size_t size = head + bitmap + processes * sizeof(struct tls_engine_slot);
	/* Pages that no process touches take no memory. */
	void *area = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (area == MAP_FAILED)
		return -1;
	shared = area;
	shared->slots = processes;
	shared->size = size;
	shared->asked = (_Atomic uint64_t *)((char *)area + head);
	shared->slot = (struct tls_engine_slot *)((char *)area + head + bitmap);
	return 0;
}

void tls_engine_destroy(void)
{
	if (shared)
		munmap(shared, shared->size);
	shared = NULL;
}

unsigned tls_engine_sessions(void)
{
	return shared ? atomic_load(&shared->sessions) : 0;
}

const char *tls_engine_domain_name(uint32_t id)
{
	return shared && id <= MAX_DOMAINS ? shared->domains[id].name : "";
}

void tls_engine_domain_use(uint32_t id, int by)
{
	if (shared && id != 0 && id <= MAX_DOMAINS)
		atomic_fetch_add(&shared->domains[id].users, (unsigned)by);
}

unsigned tls_engine_domain_users(uint32_t id)
{
	return shared && id <= MAX_DOMAINS ? atomic_load(&shared->domains[id].users) : 0;
}

static struct shared_suite *find_suite(uint16_t suite)
{
	struct shared_suite *entry = shared->suites;

	while (atomic_load(&entry->suite) != 0 && atomic_load(&entry->suite) != suite)
		entry++;
	return entry;
}

const char *tls_engine_suite_name(uint16_t suite)
{
	return shared ? find_suite(suite)->name : "";
}

const char *tls_engine_cipher_name(uint16_t suite)
{
	return shared ? find_suite(suite)->cipher_name : "";
}

const char *tls_engine_cipher_description(uint16_t suite)
{
	return shared ? find_suite(suite)->description : "";
}

/* Takes one bit out of a bitmap, the lowest of the words from number first on. Returns its number,
 * or -1 when none is set. */
static int take_bit(_Atomic uint64_t *bitmap, size_t words, size_t first)
{
	for (size_t i = 0; i < words; i++) {
		size_t word = (first + i) % words;
		uint64_t bits;

		while ((bits = atomic_load(&bitmap[word])) != 0) {
			unsigned bit = (unsigned)__builtin_ctzll(bits);
			uint64_t mask = UINT64_C(1) << bit;

			if (atomic_fetch_and(&bitmap[word], ~mask) & mask)
				return (int)(word * 64 + bit);
		}
	}
	return -1;
}

/* Wakes the idle thread of the lowest number, so that few threads with warm caches serve what few
 * can. None when one is about to look for work anyway; nor when all are busy, since the first to
 * finish will. */
static void wake_engine(void)
{
	int thread = -1;

	if (atomic_load(&shared->delivering) == 0)
		thread = take_bit(shared->idle, MAX_THREADS / 64, 0);
	if (thread < 0)
		return;
	atomic_fetch_add(&shared->wakes[thread], 1);
	futex_wake(&shared->wakes[thread], 1);
}

/* ---- the other processes' side ---- */

struct tls_engine_slot *tls_engine_slot(unsigned process)
{
	struct tls_engine_slot *slot;

	if (!shared || process >= shared->slots)
		return NULL;
	slot = &shared->slot[process];
	if (atomic_load(&slot->state) != SLOT_IDLE)
		return NULL;
	memset(&slot->request, 0, sizeof(slot->request));
	return slot;
}

static void now_plus(struct timespec *t, unsigned ms)
{
	clock_gettime(CLOCK_MONOTONIC, t);
	t->tv_sec += ms / 1000;
	t->tv_nsec += (long)(ms % 1000) * 1000000;
	if (t->tv_nsec >= 1000000000) {
		t->tv_sec++;
		t->tv_nsec -= 1000000000;
	}
}

/* Time left until t; false when none is. */
static bool time_left(const struct timespec *t, struct timespec *left)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	left->tv_sec = t->tv_sec - now.tv_sec;
	left->tv_nsec = t->tv_nsec - now.tv_nsec;
	if (left->tv_nsec < 0) {
		left->tv_sec--;
		left->tv_nsec += 1000000000;
	}
	return left->tv_sec >= 0;
}

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Takes a request back, or leaves the slot to the engine. True if the answer came after all. */
static bool give_up(struct tls_engine_slot *slot)
{
	uint32_t state = SLOT_ASKED;

	if (atomic_compare_exchange_strong(&slot->state, &state, SLOT_IDLE))
		return false;
	state = SLOT_SERVED;
	return !atomic_compare_exchange_strong(&slot->state, &state, SLOT_GIVEN_UP);
}

/* While the engine answers nobody, each process waits a full deadline once only: others than those
 * in a handshake wait behind it. */
#define STUCK_TIMEOUT_MS 100
static bool missed;
static uint32_t served_then;

/* Seconds after which a waiting process looks whether the engine is there at all. */
#define LOOK_AFTER 1
static pid_t child;

void tls_engine_set_child(pid_t pid)
{
	child = pid;
}

bool tls_engine_has_died(void)
{
	siginfo_t info = {0};

	/* WNOWAIT: the host is to see it, too. */
	return child > 0 && waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
	       info.si_pid == child;
}

bool tls_engine_is_stuck(void)
{
	return missed && atomic_load(&shared->served) == served_then;
}

int tls_engine_call(struct tls_engine_slot *slot, unsigned timeout_ms)
{
	unsigned number = (unsigned)(slot - shared->slot);
	bool in_doubt = tls_engine_is_stuck() && timeout_ms > STUCK_TIMEOUT_MS;
	struct timespec deadline, left;
	bool dead = false;
	uint32_t state;

	now_plus(&deadline, in_doubt ? STUCK_TIMEOUT_MS : timeout_ms);
	slot->request.asked_us = now_us();
	atomic_store(&slot->state, SLOT_ASKED);
	atomic_fetch_or(&shared->asked[number / 64], UINT64_C(1) << (number % 64));
	wake_engine();
	while ((state = atomic_load(&slot->state)) != SLOT_DONE) {
		if (!time_left(&deadline, &left) || dead) {
			if (in_doubt && state == SLOT_SERVED) { /* it works again, on a long one */
				in_doubt = false;
				now_plus(&deadline, timeout_ms - STUCK_TIMEOUT_MS);
			} else if (!give_up(slot)) {
				missed = true;
				tls_counter_add(number, TLS_COUNT_engine_timeouts, 1);
				served_then = atomic_load(&shared->served);
				return -1;
			}
			continue;
		}
		if (left.tv_sec >= LOOK_AFTER)
			left = (struct timespec){.tv_sec = LOOK_AFTER};
		dead = futex_wait(&slot->state, state, &left) != 0 && errno == ETIMEDOUT &&
		       tls_engine_has_died();
	}
	missed = false;
	atomic_store(&slot->state, SLOT_IDLE);
	return 0;
}

struct tls_engine_slot *tls_engine_load(unsigned process, enum tls_engine_op op, const char *name,
					size_t len, unsigned timeout_ms)
{
	struct tls_engine_slot *slot = tls_engine_slot(process);

	if (!slot || len >= sizeof(slot->in))
		return NULL;
	memcpy(slot->in, name, len);
	slot->in[len] = '\0';
	slot->request.op = op;
	slot->request.in_len = (uint32_t)len;
	return tls_engine_call(slot, timeout_ms) == 0 ? slot : NULL;
}

void tls_engine_release(uint32_t handle)
{
	uint32_t first = atomic_load(&shared->released);

	do {
		atomic_store(&shared->next_released[handle], first);
	} while (!atomic_compare_exchange_weak(&shared->released, &first, handle));
	wake_engine();
}

/* ---- the engine's side ---- */

/* A handle for a new session, busy; 0 when the table is full. */
static uint32_t table_add(struct tls_session *session)
{
	uint32_t handle = 0;

	pthread_mutex_lock(&table_lock);
	if (table_free) {
		handle = table_free;
		table_free = table[handle].next_free;
	} else if (table_used <= MAX_SESSIONS) {
		handle = table_used++;
	}
	if (handle)
		table[handle] = (struct entry){.session = session, .busy = true};
	pthread_mutex_unlock(&table_lock);
	if (handle)
		atomic_fetch_add(&shared->sessions, 1);
	return handle;
}

static void table_remove(uint32_t handle)
{
	struct tls_session *session = table[handle].session;

	pthread_mutex_lock(&table_lock);
	table[handle] = (struct entry){.next_free = table_free};
	table_free = handle;
	pthread_mutex_unlock(&table_lock);
	atomic_fetch_sub(&shared->sessions, 1);
	tls_session_free(session);
}

/* The session behind a handle, busy now; NULL if it is not to be had. */
static struct tls_session *table_take(uint32_t handle)
{
	struct tls_session *session = NULL;

	if (handle == 0 || handle > MAX_SESSIONS)
		return NULL;
	pthread_mutex_lock(&table_lock);
	if (table[handle].session && !table[handle].busy) {
		table[handle].busy = true;
		session = table[handle].session;
	}
	pthread_mutex_unlock(&table_lock);
	return session;
}

/* Gives a session back after use; frees it if it was released meanwhile. */
static void table_give(uint32_t handle)
{
	bool dead;

	pthread_mutex_lock(&table_lock);
	table[handle].busy = false;
	dead = table[handle].dead;
	pthread_mutex_unlock(&table_lock);
	if (dead)
		table_remove(handle);
}

static void free_released(void)
{
	uint32_t handle = atomic_exchange(&shared->released, 0), next;

	for (; handle; handle = next) {
		bool busy;

		next = atomic_load(&shared->next_released[handle]);
		pthread_mutex_lock(&table_lock);
		busy = table[handle].busy;
		table[handle].dead = busy;
		pthread_mutex_unlock(&table_lock);
		if (!busy)
			table_remove(handle);
	}
}

static struct tls_domain_set *current_domains(void)
{
	struct tls_domain_set *set;

	pthread_mutex_lock(&domains_lock);
	set = domains ? tls_domain_set_ref(domains) : NULL;
	pthread_mutex_unlock(&domains_lock);
	return set;
}

static void answer_report(struct tls_engine_slot *slot, const struct tls_report *report)
{
	slot->answer.out_len = (uint32_t)tls_report_copy(report, (char *)slot->out, TLS_ENGINE_OUT);
}

/* An id that no connection uses any more, or a fresh one; 0 when there is none. */
static uint32_t take_id(void)
{
	for (uint32_t i = 0; i < gone_count; i++) {
		uint32_t id = gone_ids[i];

		if (atomic_load(&shared->domains[id].users) == 0) {
			gone_ids[i] = gone_ids[--gone_count];
			return id;
		}
	}
	return used_ids < MAX_DOMAINS ? ++used_ids : 0;
}

static uint32_t new_domain_id(const char *name)
{
	uint32_t id;

	pthread_mutex_lock(&id_lock);
	id = take_id();
	pthread_mutex_unlock(&id_lock);
	if (id)
		snprintf(shared->domains[id].name, sizeof(shared->domains[id].name), "%s", name);
	return id;
}

static void domain_gone(uint32_t id)
{
	pthread_mutex_lock(&id_lock);
	gone_ids[gone_count++] = id; /* each stands there once at most */
	pthread_mutex_unlock(&id_lock);
}

static unsigned processors(void)
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
		path = tls_context_path(engine->dir, cfg->keylog_file.s);
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
static struct tls_domain_set *build_set(const struct tls_domain_source *source,
					struct tls_report *report)
{
	struct tls_report told = {0};
	struct tls_domain_set *set = NULL;
	bool changed = true;

	for (int tries = 0; changed && tries < MAX_TRIES; tries++) {
		tls_domain_set_unref(set);
		tls_report_free(&told);
		changed = false;
		set = tls_domain_set_new(source, &told, &changed);
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
	char *config = name[0] ? tls_context_path(engine->dir, name) : NULL;
	struct tls_domain_source source = {
		.cfg = engine->cfg,
		.dir = engine->dir,
		.config = config,
		.sockets = engine->sockets,
		.socket_count = engine->socket_count,
		.previous = previous,
		.may_ask = !previous && engine->cfg->key_password_mode == 1,
		.threads = processors(),
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

static void load_domains(struct tls_engine_slot *slot)
{
	struct tls_report report = {0};
	struct tls_domain_set *previous, *set = NULL;

	previous = current_domains();
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
		tls_domain_set_unref(previous); /* the reference that it had as the current one */
	}
	tls_domain_set_unref(set);
	tls_domain_set_unref(previous);
	malloc_trim(0); /* thousands of domains leave more behind than the C library gives back */
	snprintf(slot->answer.text, TLS_SESSION_TEXT, "%s", report.summary ? report.summary : "");
	answer_report(slot, &report);
	tls_report_free(&report);
}

static void report_expiry(struct tls_engine_slot *slot)
{
	struct tls_domain_set *set = current_domains();
	struct tls_report report = {0};

	if (set)
		tls_expiry_look(set, true, &report);
	tls_domain_set_unref(set);
	slot->answer.state = TLS_SESSION_HELD;
	answer_report(slot, &report);
	tls_report_free(&report);
}

static void report_status(struct tls_engine_slot *slot)
{
	struct tls_engine_status *status = (struct tls_engine_status *)slot->out;
	struct tls_domain_set *set = current_domains();

	*status = (struct tls_engine_status){
		.threads = thread_count,
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
	int type = EVP_PKEY_base_id(key);
	int64_t expires;

	snprintf(row->key_type + len, sizeof(row->key_type) - len, "%s%s %d", len ? " + " : "",
		 type == EVP_PKEY_EC    ? "EC"
		 : type == EVP_PKEY_RSA ? "RSA"
					: OBJ_nid2sn(type),
		 EVP_PKEY_bits(key));
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

static void list_domains(struct tls_engine_slot *slot)
{
	struct tls_domain_set *set = current_domains();
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

static struct tls_session *new_session(struct tls_engine_slot *slot, uint32_t *handle)
{
	struct tls_domain_set *set = current_domains();
	struct tls_session *session = set ? tls_session_new(set, &slot->request.setup) : NULL;

	tls_domain_set_unref(set);
	if (session)
		*handle = table_add(session);
	if (session && *handle)
		return session;
	tls_session_free(session);
	slot->answer.cause = TLS_CAUSE_memory;
	snprintf(slot->answer.text, TLS_SESSION_TEXT, "reason=\"%s\"",
		 session ? "too many sessions at one time" : "out of memory");
	return NULL;
}

static void remember_suite(const struct tls_session_info *info)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct shared_suite *entry;

	pthread_mutex_lock(&lock);
	entry = find_suite(info->suite);
	if (atomic_load(&entry->suite) == 0 && entry < &shared->suites[MAX_SUITES]) {
		memcpy(entry->name, info->suite_name, sizeof(entry->name));
		memcpy(entry->cipher_name, info->cipher_name, sizeof(entry->cipher_name));
		memcpy(entry->description, info->description, sizeof(entry->description));
		atomic_store(&entry->suite, info->suite);
	}
	pthread_mutex_unlock(&lock);
}

static void write_keylog(struct tls_engine_slot *slot)
{
	const struct tls_session_setup *setup = &slot->request.setup;
	struct tls_engine_answer *answer = &slot->answer;

	if (!answer->keylog[0])
		return;
	tls_keylog_write(slot->request.keylog, setup->role, &setup->remote, &setup->local,
			 answer->keylog, answer->keylog_trouble);
	if (!(slot->request.keylog & TLS_KEYLOG_LOG))
		OPENSSL_cleanse(answer->keylog, sizeof(answer->keylog));
}

static void call_session(struct tls_engine_slot *slot, struct tls_session *session)
{
	struct tls_engine_answer *answer = &slot->answer;
	struct tls_session_io io = {
		.in = slot->in,
		.in_len = slot->request.in_len,
		.out = slot->out,
		.out_size = sizeof(slot->out),
		.clear = slot->clear,
		.clear_size = sizeof(slot->clear),
		.cert = slot->cert,
		.cert_size = sizeof(slot->cert),
		.info = &answer->info,
		.stream = &answer->stream,
		.text = answer->text,
		.keylog_mode = slot->request.keylog,
		.keylog = answer->keylog,
	};

	if (slot->request.op == TLS_ENGINE_RUN)
		answer->state = tls_session_run(session, &io);
	else if (slot->request.op == TLS_ENGINE_WRITE)
		answer->state = tls_session_write(session, &io);
	else if (slot->request.op == TLS_ENGINE_CLOSE)
		tls_session_close(session, &io);
	else
		tls_session_describe(session, &io);
	answer->in_used = (uint32_t)io.in_used;
	answer->out_len = (uint32_t)io.out_len;
	answer->clear_len = (uint32_t)io.clear_len;
	answer->clear_records = io.clear_records;
	answer->cert_len = (uint32_t)io.cert_len;
	answer->clear_bytes = io.clear_bytes;
	answer->packed_bytes = io.packed_bytes;
	answer->cause = io.cause;
	answer->more = io.more;
	write_keylog(slot);
	if (answer->state == TLS_SESSION_FAST || answer->state == TLS_SESSION_HELD)
		remember_suite(&answer->info);
}

/*
 * Serves a request about a session. Returns the handle of a session that is over with this
 * answer, still busy, for the caller to remove once the answer was taken; else 0.
 */
static uint32_t serve_session(struct tls_engine_slot *slot)
{
	struct tls_engine_answer *answer = &slot->answer;
	uint32_t handle = slot->request.handle;
	bool is_new = handle == 0 && slot->request.op == TLS_ENGINE_RUN;
	struct tls_session *session = is_new ? new_session(slot, &handle) : table_take(handle);

	if (!session) {
		if (!is_new) {
			snprintf(answer->text, TLS_SESSION_TEXT, "reason=\"no such session\"");
			answer->cause = TLS_CAUSE_engine;
		}
		return 0;
	}
	call_session(slot, session);
	if (answer->state == TLS_SESSION_FAST)
		return handle;
	if (is_new && answer->state == TLS_SESSION_HANDSHAKE)
		tls_session_check_server_id(session, slot->request.setup.server_id, answer->text);
	answer->handle = handle;
	table_give(handle);
	return 0;
}

/* Nobody took the answer: a session that no other process knows goes, any other one will be
 * released by the process that gave up. */
static void abandon(struct tls_engine_slot *slot, uint32_t over)
{
	if (over && slot->request.handle)
		table_give(over);
	else if (over)
		table_remove(over);
	else if (slot->request.handle == 0 && slot->answer.handle)
		table_remove(slot->answer.handle);
	OPENSSL_cleanse(&slot->answer.stream, sizeof(slot->answer.stream));
	OPENSSL_cleanse(slot->answer.keylog, sizeof(slot->answer.keylog));
}

static void reset_answer(struct tls_engine_answer *answer)
{
	answer->state = TLS_SESSION_FAILED;
	answer->cause = TLS_CAUSE_protocol;
	answer->clear_records = 0;
	answer->handle = answer->in_used = 0;
	answer->out_len = answer->clear_len = answer->cert_len = answer->rows = 0;
	answer->clear_bytes = answer->packed_bytes = 0;
	answer->more = false;
	answer->text[0] = answer->keylog[0] = answer->keylog_trouble[0] = '\0';
}

/* False if the process has given up meanwhile; else the request is the engine's until it is
 * answered. */
static bool take(struct tls_engine_slot *slot)
{
	uint32_t state = SLOT_ASKED;

	return atomic_compare_exchange_strong(&slot->state, &state, SLOT_SERVED);
}

static bool is_long(const struct tls_engine_slot *slot)
{
	return slot->request.op == TLS_ENGINE_LOAD || slot->request.op == TLS_ENGINE_CHECK;
}

/* Reloads, which take long for good reasons, are not among these requests. */
static void count_request(const struct tls_engine_slot *slot, int64_t begun_us)
{
	int64_t waited = begun_us - slot->request.asked_us, worked = now_us() - begun_us;

	tls_counter_add(TLS_COUNTER_ENGINE, TLS_COUNT_engine_requests, 1);
	tls_counter_add(TLS_COUNTER_ENGINE, TLS_COUNT_engine_queue_us, waited);
	tls_counter_add(TLS_COUNTER_ENGINE, TLS_COUNT_engine_service_us, worked);
	tls_counter_raise(TLS_COUNTER_ENGINE, TLS_COUNT_engine_queue_us_max, waited);
	tls_counter_raise(TLS_COUNTER_ENGINE, TLS_COUNT_engine_service_us_max, worked);
}

/* Does what a request asks for. Returns the handle of a session that is over with its answer. */
static uint32_t serve(struct tls_engine_slot *slot)
{
	int64_t begun = now_us();
	uint32_t over;

	reset_answer(&slot->answer);
	switch (slot->request.op) {
	case TLS_ENGINE_LOAD:
	case TLS_ENGINE_CHECK:
		load_domains(slot);
		return 0;
	case TLS_ENGINE_DOMAINS:
		list_domains(slot);
		return 0;
	case TLS_ENGINE_EXPIRY:
		report_expiry(slot);
		return 0;
	case TLS_ENGINE_STATUS:
		report_status(slot);
		return 0;
	default:
		over = serve_session(slot);
		count_request(slot, begun);
		return over;
	}
}

/* Gives the answer to the process that waits for it, and frees what is over with it. */
static void deliver(struct tls_engine_slot *slot, uint32_t over)
{
	uint32_t state = SLOT_SERVED;

	atomic_fetch_add(&shared->served, 1);
	if (atomic_compare_exchange_strong(&slot->state, &state, SLOT_DONE)) {
		futex_wake(&slot->state, 1);
		if (over)
			table_remove(over);
		return;
	}
	abandon(slot, over);
	atomic_store(&slot->state, SLOT_IDLE);
}

static bool any_asked(void)
{
	for (size_t i = 0; i < bitmap_words(shared->slots); i++)
		if (atomic_load(&shared->asked[i]) != 0)
			return true;
	return false;
}

/* Takes one slot out of a bitmap, starting at a different word each time so that none waits for
 * ever. */
static struct tls_engine_slot *next_asked(_Atomic uint64_t *asked, unsigned *turn)
{
	int number = take_bit(asked, bitmap_words(shared->slots), *turn);

	if (number < 0)
		return NULL;
	*turn = (unsigned)number / 64 + 1;
	return &shared->slot[number];
}

/* Domains take seconds to build, so one thread does nothing else: handshakes never wait for it. */
static void *loader(void *unused)
{
	unsigned turn = 0;

	(void)unused;
	for (;;) {
		uint32_t seen = atomic_load(&load_work);
		struct tls_engine_slot *slot = next_asked(load_asked, &turn);

		if (slot)
			deliver(slot, serve(slot));
		else
			futex_wait(&load_work, seen, NULL);
	}
	return NULL;
}

static void pass_to_loader(const struct tls_engine_slot *slot)
{
	size_t number = (size_t)(slot - shared->slot);

	atomic_fetch_or(&load_asked[number / 64], UINT64_C(1) << (number % 64));
	atomic_fetch_add(&load_work, 1);
	futex_wake(&load_work, 1);
}

/* Sleeps until there may be work. A thread is in the bitmap before it looks for the last time, so
 * whoever asks after that look finds it there. */
static void wait_for_work(unsigned thread, uint32_t seen)
{
	uint64_t mask = UINT64_C(1) << (thread % 64);

	atomic_fetch_or(&shared->idle[thread / 64], mask);
	if (!any_asked() && atomic_load(&shared->released) == 0)
		futex_wait(&shared->wakes[thread], seen, NULL);
	atomic_fetch_and(&shared->idle[thread / 64], ~mask);
}

/*
 * While a worker delivers, nobody else has to be woken: it looks for work when it is done. To free
 * domains, whose last session this may have been, takes too long for that.
 */
static void serve_and_go_on(struct tls_engine_slot *slot)
{
	uint32_t over = serve(slot);
	struct tls_domain_set *set =
		over ? tls_domain_set_ref(tls_session_domains(table[over].session)) : NULL;

	atomic_fetch_add(&shared->delivering, 1);
	deliver(slot, over);
	atomic_fetch_sub(&shared->delivering, 1);
	tls_domain_set_unref(set);
}

static void *worker(void *number)
{
	unsigned thread = (unsigned)(uintptr_t)number, turn = 0;

	for (;;) {
		uint32_t seen = atomic_load(&shared->wakes[thread]);
		struct tls_engine_slot *slot = next_asked(shared->asked, &turn);

		if (slot && any_asked()) /* whoever asked may have woken this thread, busy now */
			wake_engine();
		if (atomic_load(&shared->released))
			free_released();
		if (slot && take(slot))
			is_long(slot) ? pass_to_loader(slot) : serve_and_go_on(slot);
		if (!slot)
			wait_for_work(thread, seen);
	}
	return NULL;
}

static unsigned start_threads(unsigned wanted)
{
	unsigned started = 0;
	pthread_t thread;

	if (wanted == 0)
		wanted = processors();
	if (wanted > MAX_THREADS)
		wanted = MAX_THREADS;
	/* Every arena keeps what it once had; one per thread is enough. */
	mallopt(M_ARENA_MAX, (int)wanted);
	load_asked = calloc(bitmap_words(shared->slots), sizeof(*load_asked));
	if (!load_asked || pthread_create(&thread, NULL, loader, NULL) != 0)
		return 0;
	while (started < wanted &&
	       pthread_create(&thread, NULL, worker, (void *)(uintptr_t)started) == 0)
		started++;
	thread_count = started;
	return started;
}

void tls_engine_run(const struct tls_engine_config *config)
{
	sigset_t all;
	int signal_number;

	engine = config;
	needs_keylog = !tls_provider_install();
	/* The host ends its processes with SIGTERM; nobody else may: this one dies with it. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	table = mmap(NULL, (MAX_SESSIONS + 1) * sizeof(*table), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (table == MAP_FAILED || start_threads(config->threads) == 0)
		_exit(1);
	while (sigwait(&all, &signal_number) == 0)
		if (signal_number == SIGTERM)
			break;
	/* No destructor may run while threads use what it destroys. */
	_exit(0);
}
