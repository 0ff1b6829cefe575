/* SPDX-License-Identifier: ISC */
#include "aead.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/err.h>

#define NOTES_MAX 4096

bool (*aead_may_succeed)(void);
bool aead_fails, aead_watched;

static struct {
	uint8_t key[16]; /* or the first bytes of a longer one */
	uint8_t nonce[TLS_AEAD_NONCE];
} notes[NOTES_MAX];
static size_t noted;

void aead_forget_notes(void)
{
	noted = 0;
}

size_t aead_noted(void)
{
	return noted;
}

void assert_nonces_differ(void)
{
	for (size_t i = 0; i < noted; i++)
		for (size_t j = 0; j < i; j++)
			if (memcmp(&notes[i], &notes[j], sizeof(notes[0])) == 0)
				fail_msg("seals %zu and %zu share key and nonce", j, i);
}

static void note(const struct tls_aead_with *with)
{
	assert_true(noted < NOTES_MAX);
	memcpy(notes[noted].key, with->key, sizeof(notes[0].key));
	memcpy(notes[noted].nonce, with->nonce, TLS_AEAD_NONCE);
	noted++;
}

static bool may_succeed(void)
{
	if (!aead_fails && (!aead_may_succeed || aead_may_succeed()))
		return true;
	ERR_clear_error(); /* as tls_aead.c does */
	return false;
}

/* What the linker's option --wrap puts in the place of the functions, and makes of their names. */
int __wrap_tls_aead_seal(const struct tls_aead_with *with, uint8_t *text, size_t len);
int __wrap_tls_aead_open(const struct tls_aead_with *with, uint8_t *text, size_t len);
int __real_tls_aead_seal(const struct tls_aead_with *with, uint8_t *text, size_t len);
int __real_tls_aead_open(const struct tls_aead_with *with, uint8_t *text, size_t len);

int __wrap_tls_aead_seal(const struct tls_aead_with *with, uint8_t *text, size_t len)
{
	if (aead_watched)
		note(with);
	return may_succeed() ? __real_tls_aead_seal(with, text, len) : -1;
}

int __wrap_tls_aead_open(const struct tls_aead_with *with, uint8_t *text, size_t len)
{
	return may_succeed() ? __real_tls_aead_open(with, text, len) : -1;
}
