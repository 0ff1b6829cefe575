/* SPDX-License-Identifier: ISC */
/*
 * The text of tls.cfg to sections of settings, each with the place that it comes from. Knows the
 * rows of tls_params.h, but neither files nor OpenSSL; ordinary heap; one thread at a time.
 *
 *   [server:default]        server, srv, s; client, cli, c
 *   method = TLSv1.2+       default, def, *; any, all; 192.0.2.1:5061; [2001:db8::1]:5061
 *   ca_list = "my ca.pem"   # a comment
 *
 * Words are found whatever their case, '#' starts a comment, a backslash at the end of a line
 * continues it (a comment, too). A value ends at a blank, a '#' or the line's end unless it is in
 * double quotes; \\ \" \# \n \r \t and a backslash with a blank are escapes. Texts are UTF-8 (or
 * any other superset of ASCII), with or without byte order mark, with LF or CR LF.
 */
#ifndef TLS_PARSE_H
#define TLS_PARSE_H

#include "tls_address.h"
#include "tls_params.h"
#include "tls_report.h"

#include <stdbool.h>
#include <stddef.h>

#define TLS_CONFIG_MAX_LINE     65536     /* bytes, and of a value that is continued */
#define TLS_CONFIG_MAX_SECTIONS (1 << 18) /* of all texts together */
#define TLS_CONFIG_MAX_ERRORS   100 /* that are told; then one more says that there are more */

enum tls_config_scope {
	TLS_CONFIG_DEFAULT,
	TLS_CONFIG_ANY,
	TLS_CONFIG_ADDRESS,
};

/* Owner of the strings in settings: the struct tls_parsed that it was found in. */
struct tls_config_section {
	enum tls_role role;
	enum tls_config_scope scope;
	struct tls_address address; /* port 0: any */
	const char *file;           /* the path that tls_parse_text() was given, no copy */
	unsigned line;              /* of its head, from 1 */
	/*
	 * What this section sets; a field counts only if its line is not 0. A value that was
	 * cleared (empty) is NULL, but the row's default for a number and for a text of which the
	 * row's check refuses an empty one.
	 */
	struct tls_settings settings;
	struct tls_settings_lines lines;
};

/*
 * What was found in one text. Owner: whoever initialised it with {0}; tls_parsed_free() frees the
 * sections and their strings.
 */
struct tls_parsed {
	struct tls_config_section *sections; /* in the order of lines, or NULL */
	size_t count;
	size_t room; /* sections that there is memory for */
};

/*
 * What goes on from text to text while the files of one configuration are read. Owner: whoever
 * initialised it with tls_parse_init(); freed by tls_parse_free().
 */
struct tls_parser {
	struct tls_report *report; /* the caller's, who keeps it for as long */
	unsigned errors, warnings; /* in all files, with those that were too many to be told */
	size_t section_count;      /* likewise; the caller adds those that it has from before */
	char *value; /* room for the value that is read, TLS_CONFIG_MAX_LINE + 1 bytes */
};

/* Returns false without memory: then the parser takes errors only, and there is nothing to free. */
bool tls_parse_init(struct tls_parser *parser, struct tls_report *report);
void tls_parse_free(struct tls_parser *parser);

/*
 * Reads the text of the file that path names, and adds its sections to *parsed, which need the path
 * for as long as they are there. Reports every problem as PATH:LINE:COLUMN (bytes, both from 1). If
 * one is an error, parser->errors has grown and the sections may be half of what was meant; they
 * are the caller's all the same.
 */
void tls_parse_text(struct tls_parser *parser, const char *path, const char *text, size_t len,
		    struct tls_parsed *parsed);

/* Reports what is wrong with a file as a whole, or with a directory, as PATH: what. */
void tls_parse_error(struct tls_parser *parser, const char *path, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void tls_parse_warning(struct tls_parser *parser, const char *path, const char *what);

/* True after more errors than are told: there is no point in reading on. */
bool tls_parse_stopped(const struct tls_parser *parser);

void tls_parsed_free(struct tls_parsed *parsed);

#endif
