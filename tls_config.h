/* SPDX-License-Identifier: ISC */
/*
 * tls.cfg to sections of settings, each with the place that it comes from.
 * Knows the rows of tls_params.h and no OpenSSL; ordinary heap. What sections
 * inherit, and which one a connection takes, is the caller's.
 *
 *   [server:default]        server, srv, s; client, cli, c
 *   method = TLSv1.2+       default, def, *; any, all; 192.0.2.1:5061; [2001:db8::1]:5061
 *   ca_list = "my ca.pem"   # a comment
 *
 * Words are found whatever their case, '#' starts a comment, a backslash at the end of a line
 * continues it (a comment, too). A value ends at a blank, a '#' or the line's end unless it is in
 * double quotes; \\ \" \# \n \r \t and a backslash with a blank are escapes. Files are UTF-8 (or
 * any other superset of ASCII), with or without byte order mark, with LF or CR LF.
 */
#ifndef TLS_CONFIG_H
#define TLS_CONFIG_H

#include "tls_address.h"
#include "tls_params.h"
#include "tls_report.h"

#include <stddef.h>

#define TLS_CONFIG_MAX_FILE     (64 << 20) /* bytes */
#define TLS_CONFIG_MAX_LINE     65536      /* bytes, and of a value that is continued */
#define TLS_CONFIG_MAX_SECTIONS (1 << 18)
#define TLS_CONFIG_MAX_ERRORS   100 /* that are told; then one more says that there are more */

enum tls_config_scope {
	TLS_CONFIG_DEFAULT,
	TLS_CONFIG_ANY,
	TLS_CONFIG_ADDRESS,
};

/* Owner of the strings: the configuration that it was found in, with all that share its file. */
struct tls_config_section {
	enum tls_role role;
	enum tls_config_scope scope;
	struct tls_address address; /* port 0: any */
	const char *file;
	unsigned line;
	/*
	 * What this section sets; a field counts only if its line is not 0. A value that was
	 * cleared (empty) is NULL, but the row's default for a number and for a text of which the
	 * row's check refuses an empty one.
	 */
	struct tls_settings settings;
	struct tls_settings_lines lines;
};

/* One file as it was read; shared by the configurations in which it did not change. */
struct tls_config_file;

/* Immutable. Owner: whoever read it; freed by tls_config_free(), in any thread. */
struct tls_config {
	struct tls_config_section *sections; /* in the order of files and lines */
	size_t count;
	struct tls_config_file **files; /* sorted by name */
	size_t file_count;
};

/*
 * Reads a file, or each file of a directory in the order of their names. Of a directory's entries
 * these are left out: hidden ones without a word; with a warning directories, whatever else is no
 * regular file, and what editors and package managers leave behind (#NAME, NAME~, .bak, .orig,
 * .rej, .swp, .tmp, .save, .rpmnew, .rpmsave, .rpmorig, .dpkg-*, .ucf-*).
 *
 * Reports every problem as FILE:LINE:COLUMN (bytes, both from 1) and returns NULL if one is an
 * error. Files that are the same as in previous (or NULL) are not read again, and what they were
 * warned of is not repeated.
 */
struct tls_config *tls_config_read(const char *path, const struct tls_config *previous,
				   struct tls_report *report);

/* The same for a text, as if it were the content of a file called name. */
struct tls_config *tls_config_parse(const char *name, const char *text, size_t len,
				    struct tls_report *report);

void tls_config_free(struct tls_config *config); /* NULL is fine */

#endif
