/* SPDX-License-Identifier: ISC */
/* Inputs of fuzz targets that are lists of steps, and what such a target asserts with. */
#ifndef TEST_FUZZ_STEPS_H
#define TEST_FUZZ_STEPS_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define REQUIRE(x)                                                                                 \
	do {                                                                                       \
		if (!(x))                                                                          \
			abort();                                                                   \
	} while (0)

struct step {
	uint8_t kind, type;
	const uint8_t *content;
	size_t len;
};

/* The next step of the input, with one of that many kinds and a content of max bytes at most: kind,
 * type, two bytes of length, content. Returns 0 at the end. */
static inline int next_step(const uint8_t **data, size_t *size, uint8_t kinds, size_t max,
			    struct step *step)
{
	const uint8_t *p = *data;
	size_t len;

	if (*size < 4)
		return 0;
	len = (size_t)p[2] << 8 | p[3];
	len = len < *size - 4 ? len : *size - 4;
	len = len < max ? len : max;
	*step = (struct step){p[0] % kinds, p[1], p + 4, len};
	*data += 4 + len;
	*size -= 4 + len;
	return 1;
}

#endif
