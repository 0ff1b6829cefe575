/* SPDX-License-Identifier: ISC */
#include "tls_pem.h"

#include "tls_compat.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ui.h>
#include <openssl/x509v3.h>
#if TLS_HAVE_DECODER
#include <openssl/decoder.h>
#endif

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PASSWORD_SIZE 1024

const char *tls_pem_openssl_reason(void)
{
	unsigned long error = ERR_get_error();
	const char *reason = error ? ERR_reason_error_string(error) : NULL;

	ERR_clear_error();
	return reason ? reason : "unknown OpenSSL error";
}

/* A BIO over the content of a file, which is the caller's to free after it. */
static BIO *open_file(const char *path, struct tls_file *file, char *why)
{
	BIO *bio;

	if (tls_file_read(path, file, why) != 0)
		return NULL;
	bio = BIO_new_mem_buf(file->data, (int)file->size);
	if (!bio) {
		snprintf(why, TLS_PEM_WHY, "out of memory");
		tls_file_free(file);
	}
	return bio;
}

static void close_file(BIO *bio, struct tls_file *file)
{
	BIO_free(bio);
	tls_file_free(file);
}

/* True when reading stopped because no further object stands in the file. */
static bool at_end(void)
{
	return ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
}

static bool is_whole(X509 *cert)
{
	bool whole = X509_get0_pubkey(cert) && X509_check_purpose(cert, -1, 0) == 1;

	ERR_clear_error();
	return whole;
}

/*
 * OpenSSL reads a certificate's key and extensions once and keeps to a failure, even one for want
 * of memory: nothing would verify by that CA any more. So what has failed is read again; what fails
 * then, too, is as it is in the file.
 */
static X509 *read_certificate(BIO *bio)
{
	X509 *cert = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL), *again;
	unsigned char *der = NULL;
	const unsigned char *at;
	int len;

	if (!cert || is_whole(cert))
		return cert;
	len = i2d_X509_AUX(cert, &der);
	at = der;
	again = len > 0 ? d2i_X509_AUX(NULL, &at, len) : NULL;
	if (again)
		(void)is_whole(again);
	OPENSSL_free(der);
	X509_free(cert);
	return again;
}

/* Reads certificates until there is no further one. Returns false without memory. */
static bool read_certificates(BIO *bio, STACK_OF(X509) * certs)
{
	X509 *cert;

	ERR_clear_error();
	while ((cert = read_certificate(bio))) {
		if (sk_X509_push(certs, cert) > 0)
			continue;
		X509_free(cert);
		return false;
	}
	return true;
}

STACK_OF(X509) * tls_pem_certificates(const char *path, char *why)
{
	struct tls_file file;
	BIO *bio = open_file(path, &file, why);
	STACK_OF(X509) * certs;
	bool complete;

	if (!bio)
		return NULL;
	certs = sk_X509_new_null();
	complete = certs && read_certificates(bio, certs);
	close_file(bio, &file);
	if (complete && at_end() && sk_X509_num(certs) > 0) {
		ERR_clear_error();
		return certs;
	}
	if (!complete)
		snprintf(why, TLS_PEM_WHY, "out of memory");
	else if (at_end())
		snprintf(why, TLS_PEM_WHY, "file '%s' contains no certificate in PEM", path);
	else
		snprintf(why, TLS_PEM_WHY, "file '%s': certificate %d is broken: %s", path,
			 sk_X509_num(certs) + 1, tls_pem_openssl_reason());
	ERR_clear_error();
	sk_X509_pop_free(certs, X509_free);
	return NULL;
}

/* A password that was typed; one key may serve many domains, and is asked for once. Owner: the
 * list, guarded by typed_lock, which also keeps threads from asking at the same time. */
struct typed {
	struct typed *next;
	char *path;
	char password[PASSWORD_SIZE];
};

static struct typed *typed_first;
static pthread_mutex_t typed_lock = PTHREAD_MUTEX_INITIALIZER;

void tls_pem_forget_passwords(void)
{
	pthread_mutex_lock(&typed_lock);
	while (typed_first) {
		struct typed *t = typed_first;

		typed_first = t->next;
		free(t->path);
		OPENSSL_cleanse(t, sizeof(*t));
		free(t);
	}
	pthread_mutex_unlock(&typed_lock);
}

/* With typed_lock held. Returns NULL without a terminal or memory. */
static struct typed *ask_password(const char *path)
{
	struct typed *t = calloc(1, sizeof(*t));
	char prompt[TLS_PEM_WHY];

	snprintf(prompt, sizeof(prompt), "Password of the private key in '%s': ", path);
	if (t)
		t->path = strdup(path);
	if (!t || !t->path || EVP_read_pw_string(t->password, PASSWORD_SIZE, prompt, 0) != 0) {
		if (t)
			free(t->path);
		free(t);
		return NULL;
	}
	t->next = typed_first;
	typed_first = t;
	return t;
}

/* What the password callback gets and tells. */
struct asking {
	const struct tls_pem_password *password;
	const char *path;
	bool encrypted; /* the callback was called */
	bool unasked;   /* the terminal was to be asked, but cannot */
};

static int copy_password(char *buffer, int size, const char *text)
{
	size_t len = strlen(text);

	if (len >= (size_t)size)
		return -1;
	memcpy(buffer, text, len);
	return (int)len;
}

static int give_password(char *buffer, int size, int writing, void *arg)
{
	struct asking *asking = arg;
	struct typed *t;
	int len = -1;

	(void)writing;
	asking->encrypted = true;
	if (asking->password->text)
		return copy_password(buffer, size, asking->password->text);
	if (!asking->password->may_ask)
		return -1;
	pthread_mutex_lock(&typed_lock);
	for (t = typed_first; t && strcmp(t->path, asking->path) != 0;)
		t = t->next;
	if (!t)
		t = ask_password(asking->path);
	if (t)
		len = copy_password(buffer, size, t->password);
	pthread_mutex_unlock(&typed_lock);
	asking->unasked = !t;
	return len;
}

#if TLS_HAVE_DECODER
/*
 * Since 3.0 OpenSSL collects its decoders anew for every key, which takes ten times as long as the
 * decoding, so with many domains each thread keeps them. The decoder writes to found.
 */
static __thread OSSL_DECODER_CTX *decoder;
static __thread EVP_PKEY *found;

static EVP_PKEY *decode_plain_key(const unsigned char *der, size_t len)
{
	EVP_PKEY *key;

	if (!decoder)
		decoder = OSSL_DECODER_CTX_new_for_pkey(&found, "DER", "PrivateKeyInfo", NULL,
							EVP_PKEY_KEYPAIR, NULL, NULL);
	found = NULL;
	if (!decoder || !OSSL_DECODER_from_data(decoder, &der, &len))
		return NULL;
	key = found;
	found = NULL;
	return key;
}

void tls_pem_thread_end(void)
{
	OSSL_DECODER_CTX_free(decoder);
	decoder = NULL;
}
#else
static EVP_PKEY *decode_plain_key(const unsigned char *der, size_t len)
{
	return d2i_AutoPrivateKey(NULL, &der, (long)len);
}

void tls_pem_thread_end(void)
{
}
#endif

/* The quick way: the file's first key is not encrypted and of today's format. NULL is no error;
 * *has_key tells whether there is a key at all. */
static EVP_PKEY *read_plain_key(BIO *bio, bool *has_key)
{
	char *name = NULL, *header = NULL;
	unsigned char *der = NULL;
	EVP_PKEY *key = NULL;
	long len = 0;

	*has_key = false;
	/* The flag for the secure heap has every buffer wiped, whether there is such a heap or not.
	 */
	while (!*has_key && PEM_read_bio_ex(bio, &name, &header, &der, &len,
					    PEM_FLAG_SECURE | PEM_FLAG_EAY_COMPATIBLE)) {
		*has_key = strstr(name, "PRIVATE KEY") != NULL;
		if (strcmp(name, PEM_STRING_PKCS8INF) == 0)
			key = decode_plain_key(der, (size_t)len);
		OPENSSL_secure_free(name);
		OPENSSL_secure_free(header);
		OPENSSL_secure_clear_free(der, (size_t)len);
	}
	ERR_clear_error();
	return key;
}

static const char *why_locked(const struct asking *asking)
{
	if (asking->unasked)
		return "there is no terminal to ask for its password (key_password_mode): start "
		       "SER in the foreground";
	if (asking->password->text || asking->password->may_ask)
		return "the password is wrong";
	return "no password is given (private_key_password)";
}

EVP_PKEY *tls_pem_key(const char *path, const struct tls_pem_password *password, char *why)
{
	struct asking asking = {password, path, false, false};
	struct tls_file file;
	BIO *bio = open_file(path, &file, why);
	bool has_key;
	EVP_PKEY *key;

	if (!bio)
		return NULL;
	key = read_plain_key(bio, &has_key);
	if (!key && has_key && BIO_reset(bio) == 1)
		key = PEM_read_bio_PrivateKey(bio, NULL, give_password, &asking);
	close_file(bio, &file);
	if (!key && asking.encrypted)
		snprintf(why, TLS_PEM_WHY, "the private key in file '%s' is encrypted and %s", path,
			 why_locked(&asking));
	else if (!key && !has_key)
		snprintf(why, TLS_PEM_WHY, "file '%s' contains no private key in PEM", path);
	else if (!key)
		snprintf(why, TLS_PEM_WHY, "file '%s': the private key is broken: %s", path,
			 tls_pem_openssl_reason());
	ERR_clear_error();
	return key;
}

/* Adds the lists that stand in a file. Returns their number, or -1 without memory. */
static int add_crls(BIO *bio, X509_STORE *store)
{
	X509_CRL *crl;
	int count = 0;

	ERR_clear_error();
	while ((crl = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL))) {
		bool added = X509_STORE_add_crl(store, crl) == 1;

		X509_CRL_free(crl);
		if (!added)
			return -1;
		count++;
	}
	return count;
}

static int crls_of_file(const char *path, X509_STORE *store, char *why)
{
	struct tls_file file;
	BIO *bio = open_file(path, &file, why);
	int count;

	if (!bio)
		return -1;
	count = add_crls(bio, store);
	close_file(bio, &file);
	if (count < 0)
		snprintf(why, TLS_PEM_WHY, "file '%s': out of memory", path);
	else if (!at_end() || count == 0) {
		snprintf(why, TLS_PEM_WHY, "file '%s' %s", path,
			 at_end() ? "contains no CRL in PEM" : "contains a broken CRL");
		count = -1;
	}
	ERR_clear_error();
	return count;
}

static DIR *open_directory(const char *path, char *why)
{
	DIR *dir = opendir(path);
	char reason[256];

	if (!dir)
		snprintf(why, TLS_PEM_WHY, "cannot read directory '%s': %s", path,
			 tls_file_reason(errno, reason, sizeof(reason)));
	return dir;
}

static int crls_of_directory(const char *path, X509_STORE *store, char *why)
{
	DIR *dir = open_directory(path, why);
	const struct dirent *entry;
	int total = 0, count = 0;

	if (!dir)
		return -1;
	while (count >= 0 && (entry = readdir(dir))) {
		char name[4096];
		struct stat st;

		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		if (entry->d_name[0] == '.' || stat(name, &st) != 0 || !S_ISREG(st.st_mode))
			continue;
		count = crls_of_file(name, store, why);
		total += count;
	}
	closedir(dir);
	if (count < 0)
		return -1;
	if (total == 0)
		snprintf(why, TLS_PEM_WHY, "directory '%s' contains no file", path);
	return total > 0 ? total : -1;
}

/* Like 5ed36f99.0, a certificate, or 5ed36f99.r0, a revocation list. */
static bool is_hashed_name(const char *name)
{
	if (strspn(name, "0123456789abcdef") != 8 || name[8] != '.')
		return false;
	name += name[9] == 'r' ? 10 : 9;
	return *name && name[strspn(name, "0123456789")] == '\0';
}

int tls_pem_check_hashed(const char *path, char *why)
{
	DIR *dir = open_directory(path, why);
	const struct dirent *entry;
	int result = 0;

	if (!dir)
		return -1;
	while (result == 0 && (entry = readdir(dir))) {
		char name[4096];
		struct stat st;

		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		if (!is_hashed_name(entry->d_name) || stat(name, &st) != 0 || S_ISREG(st.st_mode))
			continue;
		snprintf(why, TLS_PEM_WHY, "directory '%s': '%s' is not a regular file", path,
			 entry->d_name);
		result = -1;
	}
	closedir(dir);
	return result;
}

int tls_pem_crls(const char *path, X509_STORE *store, char *why)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? crls_of_directory(path, store, why)
							   : crls_of_file(path, store, why);
}

char *tls_pem_password_file(const char *path, char *why)
{
	struct tls_file file;
	char *password = NULL;
	size_t len;

	if (tls_file_read(path, &file, why) != 0)
		return NULL;
	len = strcspn(file.data, "\r\n");
	if (len == 0)
		snprintf(why, TLS_PEM_WHY, "password file '%s' is empty", path);
	else if (len >= PASSWORD_SIZE)
		snprintf(why, TLS_PEM_WHY, "password file '%s': the password is too long", path);
	else if (!(password = strndup(file.data, len)))
		snprintf(why, TLS_PEM_WHY, "out of memory");
	tls_file_free(&file);
	return password;
}
