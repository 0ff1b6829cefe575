/* SPDX-License-Identifier: ISC */
/*
 * libFuzzer target of the parser of tls.cfg: the input is a file. It loads or
 * is refused with errors that name their place; and what is loaded says so
 * when it is written down and loaded again.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I../.. (host headers) fuzz_config.c \
 *         ../../tls_config.c ../../tls_parse.c ../../tls_params.c ../../tls_address.c \
 *         ../../tls_file.c ../../tls_report.c -lcrypto -o fuzz_config
 *   ./fuzz_config -max_total_time=60 corpus_config
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tls_config.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(x)                                                                                 \
	do {                                                                                       \
		if (!(x))                                                                          \
			abort();                                                                   \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_text(FILE *f, const char *key, const char *value)
{
	fprintf(f, "%s = \"", key);
	for (; value && *value; value++) {
		if (*value == '\n')
			fputs("\\n", f);
		else if (*value == '\r')
			fputs("\\r", f);
		else
			fprintf(f, "%s%c", strchr("\\\"", *value) ? "\\" : "", *value);
	}
	fputs("\"\n", f);
}

static void write_section(FILE *f, const struct tls_config_section *s)
{
	char address[TLS_ADDRESS_TEXT];

	fprintf(f, "[%s:%s]\n", s->role == TLS_ROLE_SERVER ? "server" : "client",
		s->scope == TLS_CONFIG_DEFAULT ? "default"
		: s->scope == TLS_CONFIG_ANY   ? "any"
					       : tls_address_text(&s->address, address));
#define TLS_I(field, param, cfg, def, lo, hi, rt, help)                                            \
	if (s->lines.field)                                                                        \
		fprintf(f, "%s = %d\n", cfg, s->settings.field);                                   \
	else                                                                                       \
		REQUIRE(s->settings.field == 0);
#define TLS_S(field, param, cfg, def, check, rt, help)                                             \
	if (s->lines.field)                                                                        \
		write_text(f, cfg, s->settings.field);                                             \
	else                                                                                       \
		REQUIRE(!s->settings.field);
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
}

static char *write_config(const struct tls_config *c, size_t *len)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, len);

	REQUIRE(f);
	for (size_t i = 0; i < c->count; i++)
		write_section(f, &c->sections[i]);
	REQUIRE(fclose(f) == 0);
	return text;
}

/* Every message names the file, every error its line and column. */
static void check_report(const struct tls_report *report)
{
	const char *text = report->text, *message;
	unsigned line, column;
	char level;
	int len;

	REQUIRE(report->errors <= TLS_CONFIG_MAX_ERRORS + 1);
	REQUIRE(report->warnings <= TLS_CONFIG_MAX_ERRORS);
	while ((len = tls_report_next(&text, &message, &level)) >= 0) {
		REQUIRE(len > 3 && len < 1000);
		if (sscanf(message, "f:%u:%u: ", &line, &column) == 2)
			REQUIRE(line > 0 && column > 0);
		else
			REQUIRE(level == 'W' || strncmp(message, "f: more than", 12) == 0);
	}
}

/* A value of the greatest length may be longer once it is escaped. */
static bool is_rewritable(const char *text, size_t len)
{
	for (const char *end; len > 0; len -= (size_t)(end - text), text = end) {
		end = memchr(text, '\n', len);
		end = end ? end + 1 : text + len;
		if (end - text > TLS_CONFIG_MAX_LINE)
			return false;
	}
	return true;
}

static void check_again(const struct tls_config *c)
{
	struct tls_report report = {0};
	struct tls_config *again;
	size_t len, len_again;
	char *text = write_config(c, &len), *text_again;

	if (is_rewritable(text, len)) {
		again = tls_config_parse("f", text, len, &report);
		REQUIRE(again && again->count == c->count);
		text_again = write_config(again, &len_again);
		REQUIRE(len == len_again && memcmp(text, text_again, len) == 0);
		free(text_again);
		tls_config_free(again);
		tls_report_free(&report);
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tls_report report = {0};
	struct tls_config *c = tls_config_parse("f", (const char *)data, size, &report);

	REQUIRE((c != NULL) == (report.errors == 0));
	check_report(&report);
	if (c)
		check_again(c);
	tls_config_free(c);
	tls_report_free(&report);
	return 0;
}
