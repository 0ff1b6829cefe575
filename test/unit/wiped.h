/* SPDX-License-Identifier: ISC */
/*
 * Which memory of the module's own has secrets, until they are wiped there: a stand-in for
 * OPENSSL_cleanse(), found before it by calls of the program itself; and the stack.
 */
#ifndef TEST_UNIT_WIPED_H
#define TEST_UNIT_WIPED_H

#include <fcntl.h>
#include <unistd.h>

#define EXPOSED_MAX 16

static __thread struct {
	const uint8_t *at;
	size_t len;
} exposed[EXPOSED_MAX];

static void (*note_wiped)(const void *at, size_t len); /* told before it is */

/* There is a secret. */
static void expose(const void *at, size_t len)
{
	for (size_t i = 0; i < EXPOSED_MAX; i++) {
		if (!exposed[i].at || exposed[i].at == at) {
			exposed[i].at = at;
			exposed[i].len = len;
			return;
		}
	}
	fail();
}

static size_t exposed_count(void)
{
	size_t n = 0;

	for (size_t i = 0; i < EXPOSED_MAX; i++)
		n += exposed[i].at != NULL;
	return n;
}

__attribute__((visibility("hidden"))) void OPENSSL_cleanse(void *at, size_t len)
{
	static void (*real)(void *, size_t);
	const uint8_t *from = at;

	if (!real)
		real = dlsym(RTLD_NEXT, "OPENSSL_cleanse");
	if (note_wiped)
		note_wiped(at, len);
	for (size_t i = 0; i < EXPOSED_MAX; i++)
		if (exposed[i].at >= from && exposed[i].at + exposed[i].len <= from + len)
			exposed[i].at = NULL;
	real(at, len);
}

#define STACK 16384

/* A copy of the stack below that address, in memory that is no stack. */
__attribute__((noinline, unused)) static uint8_t *stack_below(uintptr_t top)
{
	static uint8_t stack[STACK];
	int memory = open("/proc/self/mem", O_RDONLY);

	assert_int_equal(pread(memory, stack, STACK, (off_t)(top - STACK)), STACK);
	close(memory);
	return stack;
}

#endif
