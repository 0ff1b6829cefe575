/* SPDX-License-Identifier: ISC */
#include "aead.h"

bool (*aead_before)(const struct tls_aead_with *with, bool seals);

/* What the linker's option --wrap puts in the place of the functions, and makes of their names. */
int __wrap_tls_aead_seal(const struct tls_aead_with *with, uint8_t *text, size_t len);
int __wrap_tls_aead_open(const struct tls_aead_with *with, uint8_t *text, size_t len);
int __real_tls_aead_seal(const struct tls_aead_with *with, uint8_t *text, size_t len);
int __real_tls_aead_open(const struct tls_aead_with *with, uint8_t *text, size_t len);

int __wrap_tls_aead_seal(const struct tls_aead_with *with, uint8_t *text, size_t len)
{
	return aead_before && !aead_before(with, true) ? -1 : __real_tls_aead_seal(with, text, len);
}

int __wrap_tls_aead_open(const struct tls_aead_with *with, uint8_t *text, size_t len)
{
	return aead_before && !aead_before(with, false) ? -1
							: __real_tls_aead_open(with, text, len);
}
