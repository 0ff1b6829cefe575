/* SPDX-License-Identifier: ISC */
#include "tls_report.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TLS_REPORT_LINE 1024 /* longest message */

static int report_append(struct tls_report *r, char level, const char *message, size_t len)
{
	char *text = realloc(r->text, r->len + len + 4);

	if (!text)
		return -1;
	r->text = text;
	text += r->len;
	*text++ = level;
	*text++ = ' ';
	for (size_t i = 0; i < len; i++)
		*text++ = message[i] == '\n' || message[i] == '\r' ? ' ' : message[i];
	*text++ = '\n';
	*text = '\0';
	r->len += len + 3;
	return 0;
}

static void report_add(struct tls_report *r, char level, const char *format, va_list args)
{
	char line[TLS_REPORT_LINE];
	int len = vsnprintf(line, sizeof(line), format, args);

	if (len < 0)
		len = 0;
	if ((size_t)len >= sizeof(line))
		len = sizeof(line) - 1;
	if (report_append(r, level, line, (size_t)len) != 0)
		r->lost++;
}

void tls_report_error(struct tls_report *r, const char *format, ...)
{
	va_list args;

	r->errors++;
	va_start(args, format);
	report_add(r, 'E', format, args);
	va_end(args);
}

void tls_report_warning(struct tls_report *r, const char *format, ...)
{
	va_list args;

	r->warnings++;
	va_start(args, format);
	report_add(r, 'W', format, args);
	va_end(args);
}

void tls_report_merge(struct tls_report *r, const struct tls_report *other)
{
	char *text = other->text ? realloc(r->text, r->len + other->len + 1) : r->text;

	if (other->text && text) {
		memcpy(text + r->len, other->text, other->len + 1);
		r->text = text;
		r->len += other->len;
	} else if (other->text) {
		r->lost++;
	}
	r->errors += other->errors;
	r->warnings += other->warnings;
	r->lost += other->lost;
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
