/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_area.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <unistd.h>

struct tls_area *tls_area;

int tls_area_wait(_Atomic uint32_t *word, uint32_t value, const struct timespec *timeout)
{
	return (int)syscall(SYS_futex, word, FUTEX_WAIT, value, timeout, NULL, 0);
}

void tls_area_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static size_t bitmap_words(unsigned slots)
{
	return (slots + 63) / 64;
}

size_t tls_area_words(void)
{
	return bitmap_words(tls_area->slots);
}

int tls_area_create(unsigned processes)
{
	size_t head = (sizeof(struct tls_area) + 63) & ~(size_t)63;
	size_t bitmap = (bitmap_words(processes) * sizeof(uint64_t) + 63) & ~(size_t)63;
	size_t size = head + bitmap + processes * sizeof(struct tls_engine_slot);
	/* Pages that no process touches take no memory. */
	void *area = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (area == MAP_FAILED)
		return -1;
	tls_area = area;
	tls_area->slots = processes;
	tls_area->size = size;
	tls_area->asked = (_Atomic uint64_t *)((char *)area + head);
	tls_area->slot = (struct tls_engine_slot *)((char *)area + head + bitmap);
	return 0;
}

void tls_area_destroy(void)
{
	if (tls_area)
		munmap(tls_area, tls_area->size);
	tls_area = NULL;
}

struct tls_area_suite *tls_area_suite(uint16_t suite)
{
	struct tls_area_suite *entry = tls_area->suites;

	while (atomic_load(&entry->suite) != 0 && atomic_load(&entry->suite) != suite)
		entry++;
	return entry;
}

int64_t tls_area_now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int tls_area_take_bit(_Atomic uint64_t *bitmap, size_t words, size_t first)
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
void tls_area_wake_engine(void)
{
	int thread = -1;

	if (atomic_load(&tls_area->delivering) == 0)
		thread = tls_area_take_bit(tls_area->idle, TLS_AREA_THREADS / 64, 0);
	if (thread < 0)
		return;
	atomic_fetch_add(&tls_area->wakes[thread], 1);
	tls_area_wake(&tls_area->wakes[thread]);
}
