/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_serve.h"

#include "tls_answer.h"
#include "tls_area.h"

#include <sys/mman.h>
#include <sys/prctl.h>

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* An entry of the engine's table of sessions. busy and dead are guarded by table_lock. */
struct entry {
	struct tls_session *session;
	uint32_t next_free;
	bool busy; /* a thread serves it */
	bool dead; /* released while busy: the thread frees it */
};

static struct entry *table; /* TLS_AREA_SESSIONS + 1 entries, touched as they are used */
static uint32_t table_used = 1, table_free;
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

/* Slots that worker threads passed on to the loader, and the futex that tells it so. */
static _Atomic uint64_t *load_asked;
static _Atomic uint32_t load_work;

static unsigned thread_count; /* of those that serve connections */

/* ---- sessions ---- */

/* A handle for a new session, busy; 0 when the table is full. */
static uint32_t table_add(struct tls_session *session)
{
	uint32_t handle = 0;

	pthread_mutex_lock(&table_lock);
	if (table_free) {
		handle = table_free;
		table_free = table[handle].next_free;
	} else if (table_used <= TLS_AREA_SESSIONS) {
		handle = table_used++;
	}
	if (handle)
		table[handle] = (struct entry){.session = session, .busy = true};
	pthread_mutex_unlock(&table_lock);
	if (handle)
		atomic_fetch_add(&tls_area->sessions, 1);
	return handle;
}

static void table_remove(uint32_t handle)
{
	struct tls_session *session = table[handle].session;

	pthread_mutex_lock(&table_lock);
	table[handle] = (struct entry){.next_free = table_free};
	table_free = handle;
	pthread_mutex_unlock(&table_lock);
	atomic_fetch_sub(&tls_area->sessions, 1);
	tls_session_free(session);
}

/* The session behind a handle, busy now; NULL if it is not to be had. */
static struct tls_session *table_take(uint32_t handle)
{
	struct tls_session *session = NULL;

	if (handle == 0 || handle > TLS_AREA_SESSIONS)
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
	uint32_t handle = atomic_exchange(&tls_area->released, 0), next;

	for (; handle; handle = next) {
		bool busy;

		next = atomic_load(&tls_area->next_released[handle]);
		pthread_mutex_lock(&table_lock);
		busy = table[handle].busy;
		table[handle].dead = busy;
		pthread_mutex_unlock(&table_lock);
		if (!busy)
			table_remove(handle);
	}
}

static struct tls_session *new_session(struct tls_engine_slot *slot, uint32_t *handle)
{
	struct tls_domain_set *set = tls_answer_domains();
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

static void remember_suite(const struct tls_session *session, uint16_t suite)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct tls_area_suite *entry = tls_area_suite(suite);

	if (atomic_load(&entry->suite) == suite)
		return;
	pthread_mutex_lock(&lock);
	entry = tls_area_suite(suite);
	if (atomic_load(&entry->suite) == 0 && entry < &tls_area->suites[TLS_AREA_SUITES]) {
		tls_session_suite(session, &entry->names);
		atomic_store(&entry->suite, suite);
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
		.messages = slot->clear, /* there is no clear text yet */
		.messages_size = TLS_SESSION_MESSAGES,
		.await = &answer->await,
		.offer = &answer->offer,
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
	answer->flight_len = (uint32_t)io.flight_len;
	answer->clear_len = (uint32_t)io.clear_len;
	answer->clear_records = io.clear_records;
	answer->cert_len = (uint32_t)io.cert_len;
	answer->clear_bytes = io.clear_bytes;
	answer->packed_bytes = io.packed_bytes;
	answer->cause = io.cause;
	answer->more = io.more;
	write_keylog(slot);
	if (answer->info.suite) /* its handshake was done with this call */
		remember_suite(session, answer->info.suite);
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
	if (answer->state == TLS_SESSION_FAST || tls_session_awaits(answer->state))
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
	tls_slot_wipe_keys(&slot->answer);
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
	answer->info.suite = 0;
	answer->text[0] = answer->keylog[0] = answer->keylog_trouble[0] = '\0';
}

/* False if the process has given up meanwhile; else the request is the engine's until it is
 * answered. */
static bool take(struct tls_engine_slot *slot)
{
	uint32_t state = TLS_SLOT_ASKED;

	return atomic_compare_exchange_strong(&slot->state, &state, TLS_SLOT_SERVED);
}

static bool is_long(const struct tls_engine_slot *slot)
{
	return slot->request.op == TLS_ENGINE_LOAD || slot->request.op == TLS_ENGINE_CHECK;
}

/* Reloads, which take long for good reasons, are not among these requests. */
static void count_request(const struct tls_engine_slot *slot, int64_t begun_us)
{
	int64_t waited = begun_us - slot->request.asked_us, worked = tls_area_now_us() - begun_us;

	tls_counter_add(TLS_COUNTER_ENGINE, TLS_COUNT_engine_requests, 1);
	tls_counter_add(TLS_COUNTER_ENGINE, TLS_COUNT_engine_queue_us, waited);
	tls_counter_add(TLS_COUNTER_ENGINE, TLS_COUNT_engine_service_us, worked);
	tls_counter_raise(TLS_COUNTER_ENGINE, TLS_COUNT_engine_queue_us_max, waited);
	tls_counter_raise(TLS_COUNTER_ENGINE, TLS_COUNT_engine_service_us_max, worked);
}

/* Does what a request asks for. Returns the handle of a session that is over with its answer. */
static uint32_t serve(struct tls_engine_slot *slot)
{
	int64_t begun = tls_area_now_us();
	uint32_t over;

	reset_answer(&slot->answer);
	switch (slot->request.op) {
	case TLS_ENGINE_LOAD:
	case TLS_ENGINE_CHECK:
		tls_answer_load(slot);
		return 0;
	case TLS_ENGINE_DOMAINS:
		tls_answer_list(slot);
		return 0;
	case TLS_ENGINE_EXPIRY:
		tls_answer_expiry(slot);
		return 0;
	case TLS_ENGINE_STATUS:
		tls_answer_status(slot, thread_count);
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
	uint32_t state = TLS_SLOT_SERVED;

	atomic_fetch_add(&tls_area->served, 1);
	if (atomic_compare_exchange_strong(&slot->state, &state, TLS_SLOT_DONE)) {
		tls_area_wake(&slot->state);
		if (over)
			table_remove(over);
		return;
	}
	abandon(slot, over);
	atomic_store(&slot->state, TLS_SLOT_IDLE);
}

static bool any_asked(void)
{
	for (size_t i = 0; i < tls_area_words(); i++)
		if (atomic_load(&tls_area->asked[i]) != 0)
			return true;
	return false;
}

/* Takes one slot out of a bitmap, starting at a different word each time so that none waits for
 * ever. */
static struct tls_engine_slot *next_asked(_Atomic uint64_t *asked, unsigned *turn)
{
	int number = tls_area_take_bit(asked, tls_area_words(), *turn);

	if (number < 0)
		return NULL;
	*turn = (unsigned)number / 64 + 1;
	return &tls_area->slot[number];
}

/* Domains take seconds to build, so one thread does nothing else: handshakes never wait for it. */
static void *loader(void *unused)
{
	/* Held connections can keep replaced domains for days. */
	static const struct timespec soon = {.tv_sec = 1};
	unsigned turn = 0;

	(void)unused;
	for (;;) {
		uint32_t seen = atomic_load(&load_work);
		struct tls_engine_slot *slot = next_asked(load_asked, &turn);

		if (slot)
			deliver(slot, serve(slot));
		else
			tls_area_wait(&load_work, seen, tls_answer_free_old() ? &soon : NULL);
	}
	return NULL;
}

static void pass_to_loader(const struct tls_engine_slot *slot)
{
	size_t number = (size_t)(slot - tls_area->slot);

	atomic_fetch_or(&load_asked[number / 64], UINT64_C(1) << (number % 64));
	atomic_fetch_add(&load_work, 1);
	tls_area_wake(&load_work);
}

/* Sleeps until there may be work. A thread is in the bitmap before it looks for the last time, so
 * whoever asks after that look finds it there. */
static void wait_for_work(unsigned thread, uint32_t seen)
{
	uint64_t mask = UINT64_C(1) << (thread % 64);

	atomic_fetch_or(&tls_area->idle[thread / 64], mask);
	if (!any_asked() && atomic_load(&tls_area->released) == 0)
		tls_area_wait(&tls_area->wakes[thread], seen, NULL);
	atomic_fetch_and(&tls_area->idle[thread / 64], ~mask);
}

/* While a worker delivers, nobody else has to be woken: it looks for work when it is done. */
static void serve_and_go_on(struct tls_engine_slot *slot)
{
	uint32_t over = serve(slot);

	atomic_fetch_add(&tls_area->delivering, 1);
	deliver(slot, over);
	atomic_fetch_sub(&tls_area->delivering, 1);
}

static void *worker(void *number)
{
	unsigned thread = (unsigned)(uintptr_t)number, turn = 0;

	for (;;) {
		uint32_t seen = atomic_load(&tls_area->wakes[thread]);
		struct tls_engine_slot *slot = next_asked(tls_area->asked, &turn);

		if (slot && any_asked()) /* whoever asked may have woken this thread, busy now */
			tls_area_wake_engine();
		if (slot && take(slot))
			is_long(slot) ? pass_to_loader(slot) : serve_and_go_on(slot);
		if (atomic_load(&tls_area->released)) {
			/* Who asked while this thread delivered must not wait for so many. */
			if (any_asked())
				tls_area_wake_engine();
			free_released();
		}
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
		wanted = tls_answer_processors();
	if (wanted > TLS_AREA_THREADS)
		wanted = TLS_AREA_THREADS;
	/* Every arena keeps what it once had; one per thread is enough. */
	mallopt(M_ARENA_MAX, (int)wanted);
	load_asked = calloc(tls_area_words(), sizeof(*load_asked));
	if (!load_asked || pthread_create(&thread, NULL, loader, NULL) != 0)
		return 0;
	while (started < wanted &&
	       pthread_create(&thread, NULL, worker, (void *)(uintptr_t)started) == 0)
		started++;
	thread_count = started;
	return started;
}

void tls_serve_run(const struct tls_engine_config *config)
{
	sigset_t all;
	int signal_number;

	tls_answer_init(config);
	/* The host ends its processes with SIGTERM; nobody else may: this one dies with it. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	table = mmap(NULL, (TLS_AREA_SESSIONS + 1) * sizeof(*table), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (table == MAP_FAILED || start_threads(config->threads) == 0)
		_exit(1);
	while (sigwait(&all, &signal_number) == 0)
		if (signal_number == SIGTERM)
			break;
	/* No destructor may run while threads use what it destroys. */
	_exit(0);
}
