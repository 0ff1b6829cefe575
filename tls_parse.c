/* SPDX-License-Identifier: ISC */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tls_parse.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define MESSAGE_SIZE 768
#define SHOWN_SIZE   80 /* of a piece of the text that a message shows */
#define KEY_SIZE     40 /* a longer word is no key, and like none */

#define EXPECTED_ADDRESS                                                                           \
	"expected default, any, or an IPv4 address or an IPv6 address in brackets, with or "       \
	"without a port"

/* A place in the text that is being read; line 0: the file as a whole. */
struct mark {
	unsigned line, column;
};

/* The text that is being read. */
struct text_reader {
	struct tls_parser *parser;
	const char *path;
	struct tls_parsed *parsed; /* its sections so far */
	const char *p, *end, *line_start;
	unsigned line;
	/* The value that was read last. */
	char *value; /* the parser's */
	size_t value_len;
	struct mark value_at;
};

/* ---- what the rows yield ---- */

struct row {
	const char *name;
	size_t value, line; /* offsets in struct tls_settings and struct tls_settings_lines */
	bool is_text;
	int number, lo, hi; /* number, text: the default */
	const char *text;
	tls_param_check_f check;
};

static const struct row rows[] = {
#define PLACE(field)                                                                               \
	.value = offsetof(struct tls_settings, field),                                             \
	.line = offsetof(struct tls_settings_lines, field)
#define TLS_I(field, param, cfg, def, low, high, rt, help)                                         \
	{.name = (cfg), PLACE(field), .number = (def), .lo = (low), .hi = (high)},
#define TLS_S(field, param, cfg, def, function, rt, help)                                          \
	{.name = (cfg), PLACE(field), .is_text = true, .text = (def), .check = (function)},
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
#undef PLACE
};

enum row_index {
#define TLS_I(field, param, cfg, def, lo, hi, rt, help) ROW_##field,
#define TLS_S(field, param, cfg, def, check, rt, help)  ROW_##field,
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
};

static const struct key {
	const char *name;
	enum row_index row;
} keys[] = {
#define TLS_I(field, param, cfg, def, lo, hi, rt, help) {cfg, ROW_##field}, {param, ROW_##field},
#define TLS_S(field, param, cfg, def, check, rt, help)  {cfg, ROW_##field}, {param, ROW_##field},
#define TLS_A(name, field)                              {name, ROW_##field},
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S) TLS_PARAM_ALIASES(TLS_A) TLS_CONFIG_ALIASES(TLS_A)
#undef TLS_I
#undef TLS_S
#undef TLS_A
};

/* Parameters that are no keys here, to tell whoever tries. */
static const char *const global_names[] = {
#define TLS_I(field, param, cfg, def, lo, hi, rt, help) cfg, param,
#define TLS_S(field, param, cfg, def, check, rt, help)  cfg, param,
	TLS_GLOBAL_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
};

struct word {
	const char *name;
	int value;
};

static const struct word roles[] = {
	{"server", TLS_ROLE_SERVER}, {"srv", TLS_ROLE_SERVER}, {"s", TLS_ROLE_SERVER},
	{"client", TLS_ROLE_CLIENT}, {"cli", TLS_ROLE_CLIENT}, {"c", TLS_ROLE_CLIENT},
};

static const struct word scopes[] = {
	{"default", TLS_CONFIG_DEFAULT}, {"def", TLS_CONFIG_DEFAULT}, {"*", TLS_CONFIG_DEFAULT},
	{"any", TLS_CONFIG_ANY},         {"all", TLS_CONFIG_ANY},
};

static const struct word switches[] = {
	{"yes", 1}, {"on", 1},  {"true", 1},  {"enable", 1},  {"enabled", 1},  {"1", 1},
	{"no", 0},  {"off", 0}, {"false", 0}, {"disable", 0}, {"disabled", 0}, {"0", 0},
};

static bool word_is(const char *text, size_t len, const char *name)
{
	return strlen(name) == len && strncasecmp(text, name, len) == 0;
}

static const struct word *find_word(const struct word *words, size_t count, const char *text,
				    size_t len)
{
	for (size_t i = 0; i < count; i++)
		if (word_is(text, len, words[i].name))
			return &words[i];
	return NULL;
}

static const struct row *find_row(const char *text, size_t len)
{
	for (size_t i = 0; i < COUNT(keys); i++)
		if (word_is(text, len, keys[i].name))
			return &rows[keys[i].row];
	return NULL;
}

static bool is_global(const char *text, size_t len)
{
	for (size_t i = 0; i < COUNT(global_names); i++)
		if (word_is(text, len, global_names[i]))
			return true;
	return false;
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Levenshtein's distance of two words that are shorter than KEY_SIZE. */
static unsigned word_distance(const char *a, size_t a_len, const char *b)
{
	size_t b_len = strlen(b);
	unsigned costs[KEY_SIZE];

	for (size_t j = 0; j <= b_len; j++)
		costs[j] = (unsigned)j;
	for (size_t i = 0; i < a_len; i++) {
		unsigned diagonal = costs[0];

		costs[0] = (unsigned)i + 1;
		for (size_t j = 0; j < b_len; j++) {
			unsigned changed = diagonal + (lower(a[i]) != b[j]);
			unsigned other = (costs[j] < costs[j + 1] ? costs[j] : costs[j + 1]) + 1;

			diagonal = costs[j + 1];
			costs[j + 1] = changed < other ? changed : other;
		}
	}
	return costs[b_len];
}

/* The key that the word may have been meant to be, or NULL. */
static const char *nearest_key(const char *text, size_t len)
{
	unsigned best = len < 6 ? 2 : (unsigned)len / 3 + 1; /* so far must it be better than */
	const char *name = NULL;

	for (size_t i = 0; len < KEY_SIZE && i < COUNT(keys); i++) {
		unsigned distance = strlen(keys[i].name) < KEY_SIZE
					    ? word_distance(text, len, keys[i].name)
					    : best;

		if (distance < best) {
			best = distance;
			name = keys[i].name;
		}
	}
	return name;
}

/* ---- messages ---- */

static void tell(const struct tls_parser *parser, char level, const char *path, struct mark at,
		 const char *what)
{
	char place[32] = "";

	if (at.line)
		snprintf(place, sizeof(place), ":%u:%u", at.line, at.column);
	if (level == 'E')
		tls_report_error(parser->report, "%s%s: %s", path, place, what);
	else
		tls_report_warning(parser->report, "%s%s: %s", path, place, what);
}

static void fail_args(struct tls_parser *parser, const char *path, struct mark at,
		      const char *format, va_list args)
{
	char what[MESSAGE_SIZE];

	parser->errors++;
	vsnprintf(what, sizeof(what), format, args);
	if (parser->errors <= TLS_CONFIG_MAX_ERRORS)
		tell(parser, 'E', path, at, what);
	else if (parser->errors == TLS_CONFIG_MAX_ERRORS + 1)
		tls_report_error(parser->report,
				 "%s: more than %d errors, the others are not listed", path,
				 TLS_CONFIG_MAX_ERRORS);
}

__attribute__((format(printf, 3, 4))) static void fail(struct text_reader *r, struct mark at,
						       const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fail_args(r->parser, r->path, at, format, args);
	va_end(args);
}

static void warn(struct tls_parser *parser, const char *path, struct mark at, const char *what)
{
	if (parser->warnings++ < TLS_CONFIG_MAX_ERRORS)
		tell(parser, 'W', path, at, what);
}

static const struct mark whole_file = {0, 0};

void tls_parse_error(struct tls_parser *parser, const char *path, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fail_args(parser, path, whole_file, format, args);
	va_end(args);
}

void tls_parse_warning(struct tls_parser *parser, const char *path, const char *what)
{
	warn(parser, path, whole_file, what);
}

bool tls_parse_stopped(const struct tls_parser *parser)
{
	return parser->errors > TLS_CONFIG_MAX_ERRORS;
}

/* Length of the UTF-8 character that starts here, 0 if none does. */
static size_t utf8_length(const char *text, size_t len)
{
	unsigned char c = (unsigned char)text[0];
	size_t n = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;

	if (n > len)
		return 0;
	for (size_t i = 1; i < n; i++)
		if (((unsigned char)text[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

/* Copies text so that it fits a log line and an answer in JSON: short, UTF-8, no controls. */
static const char *shown(const char *text, size_t len, char *to)
{
	size_t used = 0;

	while (len > 0 && used < SHOWN_SIZE - 8) {
		size_t n = utf8_length(text, len);

		if (n == 0 || (unsigned char)*text < ' ' || *text == 0x7f) {
			to[used++] = '?';
			n = 1;
		} else {
			memcpy(to + used, text, n);
			used += n;
		}
		text += n;
		len -= n;
	}
	snprintf(to + used, SHOWN_SIZE - used, "%s", len > 0 ? "..." : "");
	return to;
}

/* ---- text ---- */

static struct mark here(const struct text_reader *r)
{
	return (struct mark){r->line, (unsigned)(r->p - r->line_start) + 1};
}

static bool at_char(const struct text_reader *r, char c)
{
	return r->p < r->end && *r->p == c;
}

static bool at_line_end(const struct text_reader *r)
{
	return r->p == r->end || *r->p == '\n';
}

/* A carriage return counts, so that the lines of other systems are read as they are. */
static bool at_blank(const struct text_reader *r)
{
	return r->p < r->end && (*r->p == ' ' || *r->p == '\t' || *r->p == '\r');
}

static bool at_word(const struct text_reader *r)
{
	char c = r->p < r->end ? lower(*r->p) : '\0';

	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c && strchr("_-.*", c));
}

/* Length of a backslash and a line end, 0 if this is none. */
static size_t continuation_length(const struct text_reader *r)
{
	size_t left = (size_t)(r->end - r->p);

	if (left >= 2 && memcmp(r->p, "\\\n", 2) == 0)
		return 2;
	return left >= 3 && memcmp(r->p, "\\\r\n", 3) == 0 ? 3 : 0;
}

static void next_line(struct text_reader *r, size_t len)
{
	r->p += len;
	r->line++;
	r->line_start = r->p;
}

/* Moves past a continuation. */
static bool skip_continuation(struct text_reader *r)
{
	size_t len = continuation_length(r);

	if (len)
		next_line(r, len);
	return len > 0;
}

static void skip_blanks(struct text_reader *r)
{
	while (at_blank(r) || continuation_length(r))
		if (!skip_continuation(r))
			r->p++;
}

/* Moves to the next line that is not continued from this one. */
static void skip_line(struct text_reader *r)
{
	struct mark at = here(r);
	bool comment = at_char(r, '#'), continued = false;

	while (!at_line_end(r)) {
		if (skip_continuation(r))
			continued = true;
		else
			r->p += *r->p == '\\' && r->end - r->p > 1 ? 2 : 1;
	}
	if (r->p < r->end)
		next_line(r, 1);
	if (comment && continued)
		warn(r->parser, r->path, at,
		     "a backslash at the end of a comment makes the next line a comment");
}

static size_t take_word(struct text_reader *r)
{
	const char *start = r->p;

	while (at_word(r))
		r->p++;
	return (size_t)(r->p - start);
}

/* A piece of the text and where it stands. */
struct piece {
	struct mark at;
	const char *text;
	size_t len;
};

/* The word behind the blanks, of length 0 if there is none. */
static struct piece next_word(struct text_reader *r)
{
	struct piece piece;

	skip_blanks(r);
	piece.at = here(r);
	piece.text = r->p;
	piece.len = take_word(r);
	return piece;
}

static bool expect_char(struct text_reader *r, char c, const char *where)
{
	skip_blanks(r);
	if (!at_char(r, c)) {
		fail(r, here(r), "expected '%c' %s", c, where);
		return false;
	}
	r->p++;
	return true;
}

/* The text that stands there is not shown: it may be half of a password. */
static bool expect_line_end(struct text_reader *r, const char *hint)
{
	skip_blanks(r);
	if (at_line_end(r) || at_char(r, '#'))
		return true;
	fail(r, here(r), "expected the end of the line%s", hint);
	return false;
}

/* ---- sections ---- */

static struct tls_config_section *add_section(struct text_reader *r)
{
	struct tls_parsed *parsed = r->parsed;

	if (r->parser->section_count++ >= TLS_CONFIG_MAX_SECTIONS) {
		fail(r, here(r), "more than %d sections", TLS_CONFIG_MAX_SECTIONS);
		return NULL;
	}
	if (parsed->count == parsed->room) {
		size_t room = parsed->room ? 2 * parsed->room : 4;
		void *sections = reallocarray(parsed->sections, room, sizeof(*parsed->sections));

		if (!sections) {
			fail(r, here(r), "out of memory");
			return NULL;
		}
		parsed->sections = sections;
		parsed->room = room;
	}
	parsed->sections[parsed->count] =
		(struct tls_config_section){.file = r->path, .line = r->line};
	return &parsed->sections[parsed->count++];
}

static bool parse_role(struct text_reader *r, struct tls_config_section *section)
{
	char text[SHOWN_SIZE];
	struct piece piece = next_word(r);
	const struct word *role = find_word(roles, COUNT(roles), piece.text, piece.len);

	if (!role) {
		fail(r, piece.at,
		     "section type '%s' is unknown, expected server (srv, s) or client "
		     "(cli, c)",
		     shown(piece.text, piece.len, text));
		return false;
	}
	section->role = (enum tls_role)role->value;
	return true;
}

static bool fail_address(struct text_reader *r, const char *start, struct mark at)
{
	char text[SHOWN_SIZE];
	const char *end = start;

	while (end < r->end && *end != ']' && *end != '\n' && *end != '\r' && *end != '#')
		end++;
	if (end < r->end && *start == '[' && *end == ']')
		end++;
	fail(r, at, "address '%s' is not valid, " EXPECTED_ADDRESS,
	     shown(start, (size_t)(end - start), text));
	return false;
}

/* Reads the text of an address; false if it is none. */
static bool take_ip(struct text_reader *r, int family, struct tls_address *address)
{
	char text[INET6_ADDRSTRLEN];
	size_t len = 0;

	while (at_word(r) || (family == AF_INET6 && (at_char(r, ':') || at_blank(r)))) {
		if (!at_blank(r))
			text[len++] = *r->p;
		if (len == sizeof(text))
			return false;
		r->p++;
	}
	text[len] = '\0';
	address->ip_len = family == AF_INET6 ? 16 : 4;
	return inet_pton(family, text, address->ip) == 1;
}

static bool parse_port(struct text_reader *r, struct tls_address *address)
{
	char text[SHOWN_SIZE];
	unsigned long port = 0;
	struct piece piece;

	skip_blanks(r);
	if (!at_char(r, ':'))
		return true;
	r->p++;
	piece = next_word(r);
	for (size_t i = 0; i < piece.len && port <= UINT16_MAX; i++)
		port = piece.text[i] >= '0' && piece.text[i] <= '9'
			       ? port * 10 + (unsigned long)(piece.text[i] - '0')
			       : UINT16_MAX + 1UL;
	if (piece.len == 0 || port > UINT16_MAX) {
		fail(r, piece.at, "port '%s' is not valid, expected 0 (any) to %d",
		     shown(piece.text, piece.len, text), UINT16_MAX);
		return false;
	}
	address->port = (uint16_t)port;
	return true;
}

static bool parse_address(struct text_reader *r, struct tls_config_section *section)
{
	struct piece piece = next_word(r);
	const struct word *scope = find_word(scopes, COUNT(scopes), piece.text, piece.len);

	if (scope) {
		section->scope = (enum tls_config_scope)scope->value;
		return true;
	}
	section->scope = TLS_CONFIG_ADDRESS;
	r->p = piece.text;
	if (at_char(r, '[')) {
		r->p++;
		if (!take_ip(r, AF_INET6, &section->address) || !at_char(r, ']'))
			return fail_address(r, piece.text, piece.at);
		r->p++;
	} else if (!take_ip(r, AF_INET, &section->address)) {
		return fail_address(r, piece.text, piece.at);
	}
	return parse_port(r, &section->address);
}

/* A section whose head is wrong stays, so that its settings are looked at, too. */
static bool parse_section(struct text_reader *r)
{
	struct tls_config_section *section = add_section(r);

	if (!section)
		return false;
	r->p++;
	return parse_role(r, section) && expect_char(r, ':', "after the section type") &&
	       parse_address(r, section) && expect_char(r, ']', "after the address") &&
	       expect_line_end(r, " after ']'");
}

/* ---- settings ---- */

/* The character that a backslash and the next one stand for, -1: none. */
static int take_escape(struct text_reader *r)
{
	static const char written[] = "nrt\\\"# ", meant[] = "\n\r\t\\\"# ";
	const char *found = r->end - r->p > 1 ? strchr(written, r->p[1]) : NULL;

	if (!found) {
		fail(r, here(r),
		     "unknown escape, expected \\\\ \\\" \\# \\n \\r \\t, or a blank "
		     "or the line's end after the backslash");
		return -1;
	}
	r->p += 2;
	return meant[found - written];
}

static bool at_value_end(const struct text_reader *r, bool quoted)
{
	return at_line_end(r) || (quoted ? *r->p == '"' : at_blank(r) || *r->p == '#');
}

static bool parse_value(struct text_reader *r)
{
	bool quoted = at_char(r, '"');

	r->value_len = 0;
	r->value_at = here(r);
	r->p += quoted;
	while (!at_value_end(r, quoted)) {
		int c = (unsigned char)*r->p;

		if (skip_continuation(r))
			continue;
		if (c == '\\')
			c = take_escape(r);
		else
			r->p++;
		if (c < 0)
			return false;
		if (r->value_len == TLS_CONFIG_MAX_LINE) {
			fail(r, r->value_at, "the value is longer than %d bytes",
			     TLS_CONFIG_MAX_LINE);
			return false;
		}
		r->value[r->value_len++] = (char)c;
	}
	r->value[r->value_len] = '\0';
	if (quoted && at_line_end(r)) {
		fail(r, r->value_at,
		     "the quote is not closed, expected '\"' before the end of the "
		     "line");
		return false;
	}
	r->p += quoted;
	return true;
}

static void fail_value(struct text_reader *r, const struct row *row, const char *expected)
{
	char text[SHOWN_SIZE];

	fail(r, r->value_at, "%s: value '%s' is not valid, expected %s", row->name,
	     shown(r->value, r->value_len, text), expected);
}

static void store_text(struct text_reader *r, const struct row *row, char **to)
{
	const char *text = r->value;
	const char *expected = row->check ? row->check(text) : NULL;

	if (expected && r->value_len == 0) {
		text = row->text;
	} else if (expected) {
		fail_value(r, row, expected);
		return;
	}
	if (!*text)
		return;
	*to = strdup(text);
	if (!*to)
		fail(r, r->value_at, "out of memory");
}

static void store_number(struct text_reader *r, const struct row *row, int *to)
{
	char expected[64], *end;
	const struct word *word = NULL;
	long number;

	if (r->value_len == 0) {
		*to = row->number;
		return;
	}
	if (row->lo == 0 && row->hi == 1) {
		word = find_word(switches, COUNT(switches), r->value, r->value_len);
		if (!word)
			fail_value(r, row,
				   "yes or no (on, off, true, false, enabled, disabled, "
				   "1, 0)");
		else
			*to = word->value;
		return;
	}
	errno = 0;
	number = strtol(r->value, &end, 10);
	if (*end || errno || number < row->lo || number > row->hi) {
		snprintf(expected, sizeof(expected), "a number from %d to %d", row->lo, row->hi);
		fail_value(r, row, expected);
		return;
	}
	*to = (int)number;
}

static void store_value(struct text_reader *r, const struct row *row, struct mark at)
{
	struct tls_config_section *section = &r->parsed->sections[r->parsed->count - 1];
	void *value = (char *)&section->settings + row->value;
	unsigned *line = (void *)((char *)&section->lines + row->line);

	if (*line) {
		fail(r, at, "%s is set twice in this section, first in line %u", row->name, *line);
		return;
	}
	*line = at.line;
	if (row->is_text)
		store_text(r, row, value);
	else
		store_number(r, row, value);
}

static bool fail_key(struct text_reader *r, struct mark at, const char *word, size_t len)
{
	char text[SHOWN_SIZE];
	const char *nearest = nearest_key(word, len);

	shown(word, len, text);
	if (is_global(word, len))
		fail(r, at, "'%s' is a parameter of the whole module, not of a section", text);
	else if (nearest)
		fail(r, at, "unknown key '%s', did you mean %s?", text, nearest);
	else
		fail(r, at, "unknown key '%s'", text);
	return false;
}

static bool parse_setting(struct text_reader *r)
{
	struct mark at = here(r);
	const char *start = r->p;
	size_t len = take_word(r);
	const struct row *row = find_row(start, len);

	if (!row)
		return fail_key(r, at, start, len);
	if (r->parsed->count == 0) {
		fail(r, at,
		     "%s stands before the first section, expected [server:ADDRESS] or "
		     "[client:ADDRESS]",
		     row->name);
		return false;
	}
	if (!expect_char(r, '=', "after the key"))
		return false;
	skip_blanks(r);
	if (!parse_value(r) ||
	    !expect_line_end(r, "; a value with blanks must be in double quotes"))
		return false;
	store_value(r, row, at);
	return true;
}

/* ---- lines ---- */

static void parse_line(struct text_reader *r)
{
	skip_blanks(r);
	if (at_char(r, '['))
		parse_section(r);
	else if (at_word(r))
		parse_setting(r);
	else if (at_char(r, ';'))
		fail(r, here(r), "a comment starts with '#'");
	else if (!at_line_end(r) && !at_char(r, '#'))
		fail(r, here(r),
		     "expected a section [TYPE:ADDRESS], a setting KEY = VALUE, or a "
		     "comment #");
	skip_line(r);
}

/* Finds what is no text before anything is made of it. */
static bool check_lines(struct text_reader *r)
{
	const char *nul = memchr(r->p, '\0', (size_t)(r->end - r->p));
	const char *line = r->p;
	bool ok = !nul;

	for (unsigned n = 1; line < r->end && !tls_parse_stopped(r->parser); n++) {
		const char *end = memchr(line, '\n', (size_t)(r->end - line));

		if (!end)
			end = r->end;
		if (nul && nul <= end) {
			fail(r, (struct mark){n, (unsigned)(nul - line) + 1},
			     "a NUL byte: the file is no text in UTF-8");
			return false;
		}
		if (end - line > TLS_CONFIG_MAX_LINE) {
			fail(r, (struct mark){n, TLS_CONFIG_MAX_LINE + 1},
			     "the line is longer than %d bytes", TLS_CONFIG_MAX_LINE);
			ok = false;
		}
		line = end + (end < r->end);
	}
	return ok;
}

/* ---- the whole ---- */

bool tls_parse_init(struct tls_parser *parser, struct tls_report *report)
{
	*parser = (struct tls_parser){.report = report};
	parser->value = malloc(TLS_CONFIG_MAX_LINE + 1);
	return parser->value;
}

void tls_parse_free(struct tls_parser *parser)
{
	free(parser->value);
}

void tls_parse_text(struct tls_parser *parser, const char *path, const char *text, size_t len,
		    struct tls_parsed *parsed)
{
	static const char mark[] = "\xef\xbb\xbf";
	struct text_reader r = {
		.parser = parser, .path = path, .parsed = parsed, .value = parser->value};

	r.p = text;
	r.end = text + len;
	if (len >= 3 && memcmp(text, mark, 3) == 0)
		r.p += 3;
	r.line = 1;
	r.line_start = r.p;
	if (!check_lines(&r))
		return;
	while (r.p < r.end && !tls_parse_stopped(parser))
		parse_line(&r);
}

void tls_parsed_free(struct tls_parsed *parsed)
{
	for (size_t i = 0; i < parsed->count; i++)
		tls_settings_free(&parsed->sections[i].settings);
	free(parsed->sections);
}
