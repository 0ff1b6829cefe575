/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_counter.h"

#include <sys/mman.h>

#include <stdatomic.h>

#define ROW(name, kind, help) {#name, help, TLS_COUNTER_##kind},
#define CAUSE(name, help)     {"handshakes_failed_" #name, "of these: " help, TLS_COUNTER_SUM},
const struct tls_counter_row tls_counter_rows[TLS_COUNTER_COUNT] = {TLS_COUNTERS(ROW, CAUSE)};
#undef ROW
#undef CAUSE

/* One process's values. Begins with a cache line of its own. */
struct slot {
	_Alignas(64) _Atomic int64_t value[TLS_COUNTER_COUNT];
};

static struct slot *slots;
static unsigned slot_count;

int tls_counter_create(unsigned processes)
{
	size_t size = (processes + 1) * sizeof(*slots);
	void *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED)
		return -1;
	slots = area;
	slot_count = processes + 1;
	return 0;
}

void tls_counter_destroy(void)
{
	if (slots)
		munmap(slots, slot_count * sizeof(*slots));
	slots = NULL;
}

static _Atomic int64_t *value_of(unsigned process, enum tls_counter row)
{
	return &slots[process < slot_count ? process : slot_count - 1].value[row];
}

void tls_counter_add(unsigned process, enum tls_counter row, int64_t n)
{
	if (slots)
		atomic_fetch_add_explicit(value_of(process, row), n, memory_order_relaxed);
}

void tls_counter_add_clear(unsigned process, bool sent, size_t bytes, size_t records)
{
	_Atomic int64_t *value = slots ? value_of(process, 0) : NULL;

	if (!value)
		return;
	atomic_fetch_add_explicit(&value[sent ? TLS_COUNT_bytes_sent : TLS_COUNT_bytes_received],
				  (int64_t)bytes, memory_order_relaxed);
	atomic_fetch_add_explicit(
		&value[sent ? TLS_COUNT_records_sent : TLS_COUNT_records_received],
		(int64_t)records, memory_order_relaxed);
}

void tls_counter_raise(unsigned process, enum tls_counter row, int64_t n)
{
	_Atomic int64_t *value = slots ? value_of(process, row) : NULL;
	int64_t old = value ? atomic_load_explicit(value, memory_order_relaxed) : n;

	while (old < n && !atomic_compare_exchange_weak_explicit(
				  value, &old, n, memory_order_relaxed, memory_order_relaxed))
		;
}

void tls_counter_set(unsigned process, enum tls_counter row, int64_t n)
{
	if (slots)
		atomic_store_explicit(value_of(process, row), n, memory_order_relaxed);
}

int64_t tls_counter_get(enum tls_counter row)
{
	int64_t result = 0;

	for (unsigned i = 0; slots && i < slot_count; i++) {
		int64_t n = atomic_load_explicit(&slots[i].value[row], memory_order_relaxed);

		if (tls_counter_rows[row].kind == TLS_COUNTER_SUM)
			result += n;
		else if (n > result)
			result = n;
	}
	return result;
}

enum tls_counter tls_counter_of_cause(enum tls_cause cause)
{
	return (enum tls_counter)(TLS_COUNT_handshakes_failed_protocol + cause);
}
