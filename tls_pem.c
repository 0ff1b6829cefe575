/* SPDX-License-Identifier: ISC */
#include "tls_pem.h"

#include "tls_compat.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ui.h>
#if TLS_HAVE_DECODER
#include <openssl/decoder.h>
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PASSWORD_SIZE 1024

const char *tls_pem_openssl_reason(void)
{
	unsigned long error = ERR_get_error();
	const char *reason = error ? ERR_reason_error_string(error) : NULL;

	ERR_clear_error();
	return reason ? reason : "unknown OpenSSL error";
}

bool tls_pem_others_can_read(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && (st.st_mode & S_IROTH);
}

/* Neither waits for whoever may write to a pipe, nor reads from a device that never ends. */
static FILE *open_regular(const char *path, char *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	FILE *file = NULL;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) != 0)
		snprintf(why, TLS_PEM_WHY, "cannot read file '%s': %s", path, strerror(errno));
	else if (S_ISDIR(st.st_mode))
		snprintf(why, TLS_PEM_WHY, "'%s' is a directory, not a file", path);
	else if (!S_ISREG(st.st_mode))
		snprintf(why, TLS_PEM_WHY, "'%s' is not a regular file", path);
	else if (st.st_size == 0)
		snprintf(why, TLS_PEM_WHY, "file '%s' is empty", path);
	else if (!(file = fdopen(fd, "r")))
		snprintf(why, TLS_PEM_WHY, "file '%s': %s", path, strerror(errno));
	if (fd >= 0 && !file)
		close(fd);
	return file;
}

static BIO *open_file(const char *path, char *why)
{
	FILE *file = open_regular(path, why);
	BIO *bio = file ? BIO_new_fp(file, BIO_CLOSE) : NULL;

	if (file && !bio) {
		snprintf(why, TLS_PEM_WHY, "out of memory");
		fclose(file);
	}
	return bio;
}

/* True when reading stopped because no further object stands in the file. */
static bool at_end(void)
{
	return ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
}

STACK_OF(X509) * tls_pem_certificates(const char *path, char *why)
{
	BIO *bio = open_file(path, why);
	STACK_OF(X509) *certs = bio ? sk_X509_new_null() : NULL;
	X509 *cert;

	if (certs) {
		ERR_clear_error();
		while ((cert = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL)))
			sk_X509_push(certs, cert);
	}
	BIO_free(bio);
	if (!certs || (at_end() && sk_X509_num(certs) > 0)) {
		ERR_clear_error();
		return certs;
	}
	if (at_end())
		snprintf(why, TLS_PEM_WHY, "file '%s' contains no certificate in PEM", path);
	else
		snprintf(why, TLS_PEM_WHY, "file '%s': certificate %d is broken: %s", path,
			 sk_X509_num(certs) + 1, tls_pem_openssl_reason());
	ERR_clear_error();
	sk_X509_pop_free(certs, X509_free);
	return NULL;
}

/* What the password callback gets and tells. */
struct asking {
	const struct tls_pem_password *password;
	const char *path;
	bool encrypted; /* the callback was called */
};

static int give_password(char *buffer, int size, int writing, void *arg)
{
	struct asking *asking = arg;
	const char *text = asking->password->text;
	char prompt[TLS_PEM_WHY];

	(void)writing;
	asking->encrypted = true;
	if (text && strlen(text) < (size_t)size) {
		memcpy(buffer, text, strlen(text));
		return (int)strlen(text);
	}
	if (text || !asking->password->may_ask)
		return -1;
	snprintf(prompt, sizeof(prompt), "Password of the private key in '%s': ", asking->path);
	return EVP_read_pw_string(buffer, size, prompt, 0) == 0 ? (int)strlen(buffer) : -1;
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
	while (!*has_key && PEM_read_bio(bio, &name, &header, &der, &len)) {
		*has_key = strstr(name, "PRIVATE KEY") != NULL;
		if (strcmp(name, PEM_STRING_PKCS8INF) == 0)
			key = decode_plain_key(der, (size_t)len);
		OPENSSL_free(name);
		OPENSSL_free(header);
		OPENSSL_clear_free(der, (size_t)len);
	}
	ERR_clear_error();
	return key;
}

EVP_PKEY *tls_pem_key(const char *path, const struct tls_pem_password *password, char *why)
{
	struct asking asking = {password, path, false};
	BIO *bio = open_file(path, why);
	bool has_key;
	EVP_PKEY *key;

	if (!bio)
		return NULL;
	key = read_plain_key(bio, &has_key);
	if (!key && has_key && BIO_seek(bio, 0) == 0)
		key = PEM_read_bio_PrivateKey(bio, NULL, give_password, &asking);
	BIO_free(bio);
	if (!key && asking.encrypted)
		snprintf(why, TLS_PEM_WHY, "the private key in file '%s' is encrypted and %s", path,
			 password->text || password->may_ask ? "the password is wrong"
							     : "no password is given "
							       "(private_key_password)");
	else if (!key && !has_key)
		snprintf(why, TLS_PEM_WHY, "file '%s' contains no private key in PEM", path);
	else if (!key)
		snprintf(why, TLS_PEM_WHY, "file '%s': the private key is broken: %s", path,
			 tls_pem_openssl_reason());
	ERR_clear_error();
	return key;
}

static int crls_of_file(const char *path, X509_STORE *store, char *why)
{
	BIO *bio = open_file(path, why);
	X509_CRL *crl;
	int count = 0;

	if (!bio)
		return -1;
	ERR_clear_error();
	while ((crl = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL))) {
		count += X509_STORE_add_crl(store, crl) == 1;
		X509_CRL_free(crl);
	}
	BIO_free(bio);
	if (!at_end() || count == 0) {
		snprintf(why, TLS_PEM_WHY, "file '%s' %s", path,
			 at_end() ? "contains no CRL in PEM" : "contains a broken CRL");
		count = -1;
	}
	ERR_clear_error();
	return count;
}

static int crls_of_directory(const char *path, X509_STORE *store, char *why)
{
	DIR *dir = opendir(path);
	const struct dirent *entry;
	int total = 0, count = 0;

	if (!dir) {
		snprintf(why, TLS_PEM_WHY, "directory '%s': %s", path, strerror(errno));
		return -1;
	}
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

int tls_pem_crls(const char *path, X509_STORE *store, char *why)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? crls_of_directory(path, store, why)
							   : crls_of_file(path, store, why);
}

char *tls_pem_password_file(const char *path, char *why)
{
	FILE *file = open_regular(path, why);
	char line[PASSWORD_SIZE], *password = NULL;

	if (!file)
		return NULL;
	setvbuf(file, NULL, _IONBF, 0); /* leaves no copy in a buffer */
	if (!fgets(line, sizeof(line), file) || line[0] == '\n')
		snprintf(why, TLS_PEM_WHY, "password file '%s' is empty", path);
	else if (!strchr(line, '\n') && strlen(line) == sizeof(line) - 1)
		snprintf(why, TLS_PEM_WHY, "password file '%s': the password is too long", path);
	else {
		line[strcspn(line, "\r\n")] = '\0';
		password = strdup(line);
	}
	OPENSSL_cleanse(line, sizeof(line));
	fclose(file);
	return password;
}
