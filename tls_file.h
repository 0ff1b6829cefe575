/* SPDX-License-Identifier: ISC */
/*
 * Finds and reads the files that a configuration names: regular ones only, whole, into
 * memory that is wiped. Ordinary heap; any thread; knows nothing of the host
 * or of OpenSSL's objects.
 */
#ifndef TLS_FILE_H
#define TLS_FILE_H

#include <stdbool.h>
#include <stddef.h>

#define TLS_FILE_WHY 512
#define TLS_FILE_MAX (256 << 20) /* bytes; revocation lists can be large */

/* Owner: whoever read it; freed by tls_file_free(), which wipes: it may hold a key. */
struct tls_file {
	char *data; /* with a NUL behind it */
	size_t size;
};

/*
 * Reads a whole file. A pipe, a device or a socket is neither waited for nor read without end: it
 * is an error, as is an empty file. Returns 0, or -1 with one clause in why, TLS_FILE_WHY bytes,
 * that names the file and what is wrong with it.
 */
int tls_file_read(const char *path, struct tls_file *file, char *why);
void tls_file_free(struct tls_file *file);

/* The text of an errno of a file or directory that could not be opened; that of EACCES says which
 * user may not, and what can be done. */
const char *tls_file_reason(int error, char *text, size_t size);

/* A file name of the configuration as the module opens it: as it is when it starts with '/' or
 * '.', else inside dir. Returns malloc()ed text or NULL without memory. */
char *tls_file_path(const char *dir, const char *name);

/* True when users other than the owner and its group can read the file. */
bool tls_file_others_can_read(const char *path);

/* From now on messages say that this process was root before. */
void tls_file_privileges_dropped(void);

#endif
