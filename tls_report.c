/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_report.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TLS_REPORT_LINE  1024 /* longest line */
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

/* Bytes of the printable character at text, 0 if there is none (RFC 3629). */
static size_t character_size(const char *text)
{
	const unsigned char *c = (const unsigned char *)text;
	size_t size = c[0] < 0x80 ? 1 : c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : 4;

	if (c[0] < ' ' || c[0] == 0x7f || (c[0] >= 0x80 && c[0] < 0xc2) || c[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < size; i++)
		if ((c[i] & 0xc0) != 0x80)
			return 0;
	/* Neither longer than need be, nor half of a UTF-16 pair, nor beyond U+10FFFF. */
	if ((c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xed && c[1] >= 0xa0) ||
	    (c[0] == 0xf0 && c[1] < 0x90) || (c[0] == 0xf4 && c[1] >= 0x90))
		return 0;
	return size;
}

/* Appends the message to the line in a form that can be printed. Returns the line's length. */
static size_t append_clean(char *line, size_t len, const char *message)
{
	while (*message && len + sizeof("\\xff") < TLS_REPORT_LINE) {
		size_t size = character_size(message);

		if (*message == '\n' || *message == '\r' || *message == '\t') {
			line[len++] = ' ';
			message++;
		} else if (size == 0) {
			len += (size_t)snprintf(line + len, sizeof("\\xff"), "\\x%02x",
						(unsigned char)*message++);
		} else {
			memcpy(line + len, message, size);
			len += size;
			message += size;
		}
	}
	return len;
}

static void report_add(struct tls_report *r, char level, const char *format, va_list args)
{
	char message[TLS_REPORT_LINE], line[TLS_REPORT_LINE] = {level, ' '};
	size_t len = 2;

	if (vsnprintf(message, sizeof(message), format, args) > 0)
		len = append_clean(line, len, message);
	line[len++] = '\n';
	add_line(r, line, len);
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

size_t tls_report_copy(const struct tls_report *r, char *to, size_t size)
{
	size_t room = size - 64, len = r->len; /* the last line is shorter than that */
	unsigned left = r->lost;

	while (len > room) {
		len -= 1;
		while (len > 0 && r->text[len - 1] != '\n')
			len--;
		left++;
	}
	if (len > 0)
		memcpy(to, r->text, len);
	to[len] = '\0';
	if (left > 0)
		len += (size_t)snprintf(to + len, size - len, "%c and %u more problems\n",
					r->errors ? 'E' : 'W', left);
	return len;
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
