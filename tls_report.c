/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_report.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TLS_REPORT_LINE  1024 /* longest message */
#define TLS_REPORT_LINES 1000 /* that are kept; more are counted only */

/* True if the line, with its level and line feed, stands in the report. */
static bool has_line(const struct tls_report *r, const char *line, size_t len)
{
	const char *at = r->text, *end = at ? at + r->len : NULL;

	while (at && (at = memmem(at, (size_t)(end - at), line, len))) {
		if (at == r->text || at[-1] == '\n')
			return true;
		at++;
	}
	return false;
}

/* Adds one line that begins with its level; a line that is there already is not told again: many
 * sections may inherit one mistake. */
static void add_line(struct tls_report *r, const char *line, size_t len)
{
	bool error = line[0] == 'E';
	char *text;

	if (has_line(r, line, len))
		return;
	r->errors += error;
	r->warnings += !error;
	text = r->errors + r->warnings <= TLS_REPORT_LINES ? realloc(r->text, r->len + len + 1)
							   : NULL;
	if (!text) {
		r->lost++;
		return;
	}
	r->text = text;
	memcpy(text + r->len, line, len);
	r->len += len;
	text[r->len] = '\0';
}

static void report_add(struct tls_report *r, char level, const char *format, va_list args)
{
	char line[TLS_REPORT_LINE + 4] = {level, ' '};
	int len = vsnprintf(line + 2, TLS_REPORT_LINE, format, args);
	size_t size = 2 + (size_t)(len < 0 ? 0 : len < TLS_REPORT_LINE ? len : TLS_REPORT_LINE - 1);

	for (size_t i = 2; i < size; i++)
		if (line[i] == '\n' || line[i] == '\r')
			line[i] = ' ';
	line[size++] = '\n';
	add_line(r, line, size);
}

void tls_report_error(struct tls_report *r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	report_add(r, 'E', format, args);
	va_end(args);
}

void tls_report_warning(struct tls_report *r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	report_add(r, 'W', format, args);
	va_end(args);
}

void tls_report_merge(struct tls_report *r, const struct tls_report *other)
{
	const char *line = other->text, *end;

	for (; line && *line; line = end + 1) {
		end = strchr(line, '\n');
		add_line(r, line, (size_t)(end + 1 - line));
	}
	r->lost += other->lost;
	if (other->errors > 0 && r->errors == 0) /* its text may be lost */
		r->errors = other->errors;
}

int tls_report_next(const char **text, const char **message, char *level)
{
	const char *line = *text;
	const char *end;

	if (!line || !line[0] || line[1] != ' ')
		return -1;
	end = strchr(line, '\n');
	if (!end)
		end = line + strlen(line);
	*level = line[0];
	*message = line + 2;
	*text = *end ? end + 1 : end;
	return (int)(end - line - 2);
}

void tls_report_free(struct tls_report *r)
{
	free(r->text);
	*r = (struct tls_report){0};
}
