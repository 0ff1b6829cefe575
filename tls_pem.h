/* SPDX-License-Identifier: ISC */
/*
 * Reads what PEM files hold. Every function that fails writes one clause to
 * why, TLS_PEM_WHY bytes, that names the file and what is wrong with it.
 */
#ifndef TLS_PEM_H
#define TLS_PEM_H

#include "tls_file.h"

#include <openssl/x509.h>

#include <stdbool.h>

#define TLS_PEM_WHY TLS_FILE_WHY

/* Where the password of an encrypted key comes from: the text, else the terminal if allowed. */
struct tls_pem_password {
	const char *text; /* or NULL */
	bool may_ask;
};

/* Every certificate of a file, at least one; NULL on failure. */
STACK_OF(X509) * tls_pem_certificates(const char *path, char *why);

/* The first private key of a file; NULL on failure. */
EVP_PKEY *tls_pem_key(const char *path, const struct tls_pem_password *password, char *why);

/* Wipes the passwords that were typed; to be called when all keys were read. */
void tls_pem_forget_passwords(void);

/* Adds every revocation list of a file, or of the files of a directory, to store. Returns their
 * number, at least one, or -1. */
int tls_pem_crls(const char *path, X509_STORE *store, char *why);

/* Checks a directory whose files OpenSSL opens, by their hashed names, when it needs one: it would
 * wait for a pipe. Returns 0 or -1. */
int tls_pem_check_hashed(const char *path, char *why);

/* The first line of a file, for use as a password; malloc()ed, to be wiped, or NULL. */
char *tls_pem_password_file(const char *path, char *why);

/* The first, most specific error that OpenSSL noted; empties its queue. */
const char *tls_pem_openssl_reason(void);

/* Frees what the calling thread keeps from one key to the next. */
void tls_pem_thread_end(void);

#endif
