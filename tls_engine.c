/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_engine.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

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

/*
 * Shared by all processes, mapped before the first fork. Asked slots stand in a bitmap; the
 * sessions to release form a list that any process adds to and the engine takes whole.
 */
struct shared {
	unsigned slots;
	_Atomic uint32_t work;    /* futex: changes with every request and release */
	_Atomic uint32_t waiting; /* engine threads that sleep on work */
	_Atomic uint32_t sessions;
	_Atomic uint32_t released; /* first handle of the list, 0: none */
	_Atomic uint32_t next_released[MAX_SESSIONS + 1];
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
static const struct tls_engine_config *engine;

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

static void wake_engine(void)
{
	atomic_fetch_add(&shared->work, 1);
	if (atomic_load(&shared->waiting) > 0)
		futex_wake(&shared->work, 1);
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

/* Takes a request back, or leaves the slot to the engine. True if the answer came after all. */
static bool give_up(struct tls_engine_slot *slot)
{
	uint32_t state = SLOT_ASKED;

	if (atomic_compare_exchange_strong(&slot->state, &state, SLOT_IDLE))
		return false;
	state = SLOT_SERVED;
	return !atomic_compare_exchange_strong(&slot->state, &state, SLOT_GIVEN_UP);
}

int tls_engine_call(struct tls_engine_slot *slot, unsigned timeout_ms)
{
	unsigned number = (unsigned)(slot - shared->slot);
	struct timespec deadline, left;
	uint32_t state;

	now_plus(&deadline, timeout_ms);
	atomic_store(&slot->state, SLOT_ASKED);
	atomic_fetch_or(&shared->asked[number / 64], UINT64_C(1) << (number % 64));
	wake_engine();
	while ((state = atomic_load(&slot->state)) != SLOT_DONE) {
		if (!time_left(&deadline, &left)) {
			if (!give_up(slot))
				return -1;
			continue;
		}
		futex_wait(&slot->state, state, &left);
	}
	atomic_store(&slot->state, SLOT_IDLE);
	return 0;
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
	size_t len = report->len < TLS_ENGINE_OUT - 1 ? report->len : TLS_ENGINE_OUT - 1;

	if (report->text)
		memcpy(slot->out, report->text, len);
	slot->out[len] = '\0';
	slot->answer.out_len = (uint32_t)len;
}

/* Privileges go once the files that only root can read were read. */
static void load_domains(struct tls_engine_slot *slot)
{
	struct tls_domain_source source = {engine->cfg, engine->dir, tls_session_prepare};
	struct tls_report report = {0};
	struct tls_domain_set *set = tls_domain_set_new(&source, &report), *old;

	if (set && !domains && engine->drop_privileges() != 0) {
		tls_report_error(&report, "the engine process cannot drop its privileges");
		tls_domain_set_unref(set);
		set = NULL;
	}
	answer_report(slot, &report);
	slot->answer.state = set ? TLS_SESSION_HELD : TLS_SESSION_FAILED;
	tls_report_free(&report);
	if (!set)
		return;
	pthread_mutex_lock(&domains_lock);
	old = domains;
	domains = set;
	pthread_mutex_unlock(&domains_lock);
	tls_domain_set_unref(old);
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
	snprintf(slot->answer.text, TLS_SESSION_TEXT, "reason=\"%s\"",
		 session ? "too many sessions at one time" : "out of memory");
	return NULL;
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
	};

	if (slot->request.op == TLS_ENGINE_RUN)
		answer->state = tls_session_run(session, &io);
	else if (slot->request.op == TLS_ENGINE_WRITE)
		answer->state = tls_session_write(session, &io);
	else
		tls_session_close(session, &io);
	answer->in_used = (uint32_t)io.in_used;
	answer->out_len = (uint32_t)io.out_len;
	answer->clear_len = (uint32_t)io.clear_len;
	answer->cert_len = (uint32_t)io.cert_len;
	answer->more = io.more;
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
		if (!is_new)
			snprintf(answer->text, TLS_SESSION_TEXT, "reason=\"no such session\"");
		return 0;
	}
	call_session(slot, session);
	if (answer->state == TLS_SESSION_FAST)
		return handle;
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
}

static void reset_answer(struct tls_engine_answer *answer)
{
	answer->state = TLS_SESSION_FAILED;
	answer->handle = answer->in_used = 0;
	answer->out_len = answer->clear_len = answer->cert_len = 0;
	answer->more = false;
	answer->text[0] = '\0';
}

static void serve(struct tls_engine_slot *slot)
{
	uint32_t state = SLOT_ASKED, over = 0;

	if (!atomic_compare_exchange_strong(&slot->state, &state, SLOT_SERVED))
		return;
	reset_answer(&slot->answer);
	if (slot->request.op == TLS_ENGINE_LOAD)
		load_domains(slot);
	else
		over = serve_session(slot);
	state = SLOT_SERVED;
	if (atomic_compare_exchange_strong(&slot->state, &state, SLOT_DONE)) {
		futex_wake(&slot->state, 1);
		if (over)
			table_remove(over);
		return;
	}
	abandon(slot, over);
	atomic_store(&slot->state, SLOT_IDLE);
}

/* Takes one asked slot out of the bitmap, starting at a different word each time so that
 * none waits for ever. */
static struct tls_engine_slot *next_asked(unsigned *turn)
{
	size_t words = bitmap_words(shared->slots);

	for (size_t i = 0; i < words; i++) {
		size_t word = (*turn + i) % words;
		uint64_t bits;

		while ((bits = atomic_load(&shared->asked[word])) != 0) {
			unsigned bit = (unsigned)__builtin_ctzll(bits);
			uint64_t mask = UINT64_C(1) << bit;

			if (atomic_fetch_and(&shared->asked[word], ~mask) & mask) {
				*turn = (unsigned)word + 1;
				return &shared->slot[word * 64 + bit];
			}
		}
	}
	return NULL;
}

static void *worker(void *unused)
{
	unsigned turn = 0;

	(void)unused;
	for (;;) {
		uint32_t seen = atomic_load(&shared->work);
		struct tls_engine_slot *slot = next_asked(&turn);

		if (atomic_load(&shared->released))
			free_released();
		if (slot) {
			serve(slot);
			continue;
		}
		atomic_fetch_add(&shared->waiting, 1);
		futex_wait(&shared->work, seen, NULL);
		atomic_fetch_sub(&shared->waiting, 1);
	}
	return NULL;
}

static unsigned start_threads(unsigned wanted)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned started = 0;
	pthread_t thread;

	if (wanted == 0)
		wanted = processors > 0 ? (unsigned)processors : 1;
	if (wanted > MAX_THREADS)
		wanted = MAX_THREADS;
	/* Every arena keeps what it once had; one per thread is enough. */
	mallopt(M_ARENA_MAX, (int)wanted);
	while (started < wanted && pthread_create(&thread, NULL, worker, NULL) == 0)
		started++;
	return started;
}

void tls_engine_run(const struct tls_engine_config *config)
{
	sigset_t all;
	int signal_number;

	engine = config;
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
