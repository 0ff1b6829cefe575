/* SPDX-License-Identifier: ISC */
#include "tls_build.h"

#include <stdio.h>
#include <string.h>

/* The module parameter of a field. */
static const char *param_of(const char *name)
{
#define TLS_I(field, param, cfg, def, lo, hi, rt, help) {#field, param},
#define TLS_S(field, param, cfg, def, check, rt, help)  {#field, param},
	static const struct {
		const char *field, *param;
	} rows[] = {TLS_DOMAIN_PARAMS(TLS_I, TLS_S)};
#undef TLS_I
#undef TLS_S

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (strcmp(rows[i].field, name) == 0)
			return rows[i].param;
	return name;
}

const char *tls_build_place(const struct tls_build *b, const struct tls_place *place,
			    const char *name, char *text)
{
	const struct tls_context_input *input = b->input;

	if (!place->file)
		place = &input->section;
	if (place->file)
		snprintf(text, TLS_BUILD_PLACE, "%s:%u: %s", place->file, place->line, name);
	else if (input->of_parameters)
		snprintf(text, TLS_BUILD_PLACE, "%s: parameter %s", input->name, param_of(name));
	else
		snprintf(text, TLS_BUILD_PLACE, "%s: %s", input->name, name);
	return text;
}

void tls_build_say(struct tls_build *b, void (*what)(struct tls_report *, const char *, ...),
		   const struct tls_place *place, const char *name, const char *text)
{
	char where[TLS_BUILD_PLACE];

	if (what == tls_report_error || !b->input->quiet)
		what(b->report, "%s: %s", tls_build_place(b, place, name, where), text);
}
