/* SPDX-License-Identifier: ISC */
/*
 * tls.cfg, a file or a directory of files, to the sections of them all. Says which files are read
 * and which are known from the configuration before; what stands in them is tls_parse.h's. Knows
 * no OpenSSL; ordinary heap. What sections inherit, and which one a connection takes, is the
 * caller's.
 */
#ifndef TLS_CONFIG_H
#define TLS_CONFIG_H

#include "tls_parse.h"
#include "tls_report.h"

#include <stddef.h>

#define TLS_CONFIG_MAX_FILE (64 << 20) /* bytes */

/* One file as it was read; shared by the configurations in which it did not change. */
struct tls_config_file;

/*
 * Immutable. Owner: whoever read it; freed by tls_config_free(), in any thread. The strings of its
 * sections belong to its files, and so to all configurations that share them.
 */
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
