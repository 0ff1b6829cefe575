/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_engine.h"

#include "tls_area.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/* ---- what is known of the engine ---- */

unsigned tls_engine_sessions(void)
{
	return tls_area ? atomic_load(&tls_area->sessions) : 0;
}

const char *tls_engine_domain_name(uint32_t id)
{
	return tls_area && id <= TLS_AREA_DOMAINS ? tls_area->domains[id].name : "";
}

void tls_engine_domain_use(uint32_t id, int by)
{
	if (tls_area && id != 0 && id <= TLS_AREA_DOMAINS)
		atomic_fetch_add(&tls_area->domains[id].users, (unsigned)by);
}

unsigned tls_engine_domain_users(uint32_t id)
{
	return tls_area && id <= TLS_AREA_DOMAINS ? atomic_load(&tls_area->domains[id].users) : 0;
}

const char *tls_engine_suite_name(uint16_t suite)
{
	return tls_area ? tls_area_suite(suite)->names.name : "";
}

const char *tls_engine_cipher_name(uint16_t suite)
{
	return tls_area ? tls_area_suite(suite)->names.cipher_name : "";
}

const char *tls_engine_cipher_description(uint16_t suite)
{
	return tls_area ? tls_area_suite(suite)->names.description : "";
}

/* ---- requests ---- */

struct tls_engine_slot *tls_engine_slot(unsigned process)
{
	struct tls_engine_slot *slot;

	if (!tls_area || process >= tls_area->slots)
		return NULL;
	slot = &tls_area->slot[process];
	if (atomic_load(&slot->state) != TLS_SLOT_IDLE)
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

/* Takes a request back, or leaves the slot to the engine, of which a dead one would never give it
 * back. True if the answer came after all. */
static bool give_up(struct tls_engine_slot *slot, bool dead)
{
	uint32_t state = TLS_SLOT_ASKED;

	if (atomic_compare_exchange_strong(&slot->state, &state, TLS_SLOT_IDLE))
		return false;
	state = TLS_SLOT_SERVED;
	return !atomic_compare_exchange_strong(&slot->state, &state,
					       dead ? TLS_SLOT_IDLE : TLS_SLOT_GIVEN_UP);
}

/* While the engine answers nobody, each process waits a full deadline once only: others than those
 * in a handshake wait behind it. */
#define STUCK_TIMEOUT_MS 100
static bool missed;
static uint32_t served_then;

/* Seconds after which a waiting process looks whether the engine is there at all. */
#define LOOK_AFTER 1

/* A pipe whose second end the engine alone has open: the first ends when the engine does, in
 * whatever way. */
static int lifeline[2] = {-1, -1};
static pid_t parent;

int tls_engine_prepare(void)
{
	parent = getpid();
	return pipe2(lifeline, O_CLOEXEC);
}

void tls_engine_forked(bool is_engine)
{
	close(lifeline[is_engine ? 0 : 1]);
}

bool tls_engine_has_died(void)
{
	struct pollfd first = {.fd = lifeline[0]};

	return poll(&first, 1, 0) > 0 && (first.revents & POLLHUP);
}

/* The parent ends SER when a child has died, but it remembers one signal only: that of this death
 * is lost when it comes while another is looked at. */
static void remind_parent(void)
{
	if (getppid() == parent)
		kill(parent, SIGCHLD);
}

bool tls_engine_is_stuck(void)
{
	return missed && atomic_load(&tls_area->served) == served_then;
}

int tls_engine_call(struct tls_engine_slot *slot, unsigned timeout_ms)
{
	unsigned number = (unsigned)(slot - tls_area->slot);
	bool in_doubt = tls_engine_is_stuck() && timeout_ms > STUCK_TIMEOUT_MS;
	struct timespec deadline, left;
	bool dead = false;
	uint32_t state;

	now_plus(&deadline, in_doubt ? STUCK_TIMEOUT_MS : timeout_ms);
	slot->request.asked_us = tls_area_now_us();
	atomic_store(&slot->state, TLS_SLOT_ASKED);
	atomic_fetch_or(&tls_area->asked[number / 64], UINT64_C(1) << (number % 64));
	tls_area_wake_engine();
	while ((state = atomic_load(&slot->state)) != TLS_SLOT_DONE) {
		if (!time_left(&deadline, &left) || dead) {
			if (in_doubt && state == TLS_SLOT_SERVED) {
				/* It works again, on a long one. */
				in_doubt = false;
				now_plus(&deadline, timeout_ms - STUCK_TIMEOUT_MS);
			} else if (!give_up(slot, dead)) {
				missed = true;
				tls_counter_add(number, TLS_COUNT_engine_timeouts, 1);
				served_then = atomic_load(&tls_area->served);
				return -1;
			}
			continue;
		}
		if (left.tv_sec >= LOOK_AFTER)
			left = (struct timespec){.tv_sec = LOOK_AFTER};
		/* EINTR: by SIGCHLD, maybe. */
		dead = tls_area_wait(&slot->state, state, &left) != 0 && errno != EAGAIN &&
		       tls_engine_has_died();
		if (dead)
			remind_parent();
	}
	missed = false;
	atomic_store(&slot->state, TLS_SLOT_IDLE);
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
	uint32_t first = atomic_load(&tls_area->released);

	do {
		atomic_store(&tls_area->next_released[handle], first);
	} while (!atomic_compare_exchange_weak(&tls_area->released, &first, handle));
	tls_area_wake_engine();
}
