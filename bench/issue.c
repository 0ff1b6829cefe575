/* SPDX-License-Identifier: ISC */
/*
 * Issues certificates for the benchmark of many domains.
 *
 *   issue folder first count
 *
 * writes NUMBER.key and NUMBER.pem (ECDSA P-256, five digits) for each number
 * from first on; the certificate is dNUMBER.bench.invalid's, from a CA of its own
 * (ca.key, ca.pem in the folder). Keys that are there stay, certificates are
 * always new ones: called again for one number it is a renewal. Exit status: 0
 * all written, 1 not, 2 usage.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#define ISSUE_MAX  100000 /* numbers have five digits */
#define ISSUE_PATH 4096
#define ISSUE_NAME 32
#define ISSUE_DAYS 3650

/* Owner: main(). The CA that signs what it issues. */
struct issue_ca {
	const char *folder;
	EVP_PKEY *key;
	X509 *cert;
};

static int issue_fail(const char *what)
{
	fprintf(stderr, "issue: %s: %s\n", what, errno ? strerror(errno) : "failed");
	ERR_print_errors_fp(stderr);
	return -1;
}

/* A file to write that its owner alone can read if it is to hold a key. */
static FILE *issue_file_open(const char *path, bool secret)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, secret ? 0600 : 0644);
	FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;

	if (!f && fd >= 0)
		close(fd);
	return f;
}

/* Takes f over; ok tells whether all was written to it. */
static int issue_file_close(FILE *f, bool ok)
{
	return f && fclose(f) == 0 && ok ? 0 : -1;
}

static EVP_PKEY *issue_key_read(const char *path)
{
	FILE *f = fopen(path, "re");
	EVP_PKEY *key = f ? PEM_read_PrivateKey(f, NULL, NULL, NULL) : NULL;

	if (f)
		fclose(f);
	ERR_clear_error();
	errno = 0;
	return key;
}

/* The key of that file, made if there is none. */
static EVP_PKEY *issue_key_get(const char *folder, const char *name)
{
	char path[ISSUE_PATH];
	EVP_PKEY *key;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.key", folder, name);
	key = issue_key_read(path);
	if (key)
		return key;
	key = EVP_EC_gen("P-256");
	f = key ? issue_file_open(path, true) : NULL;
	if (issue_file_close(f, f && PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL)) < 0) {
		issue_fail(path);
		EVP_PKEY_free(key);
		return NULL;
	}
	return key;
}

static int issue_extension_add(X509 *cert, int nid, const char *text)
{
	X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, nid, text);
	int ok = extension && X509_add_ext(cert, extension, -1);

	X509_EXTENSION_free(extension);
	return ok;
}

/* A certificate without extensions and signature. */
static X509 *issue_cert_new(const char *common_name, EVP_PKEY *key, const X509 *issuer)
{
	X509 *cert = X509_new();
	X509_NAME *subject = X509_NAME_new();
	uint64_t serial = 0;
	bool ok = cert && subject && RAND_bytes((unsigned char *)&serial, sizeof(serial)) == 1 &&
		  X509_set_version(cert, X509_VERSION_3) &&
		  ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial >> 1) &&
		  X509_gmtime_adj(X509_getm_notBefore(cert), -3600) &&
		  X509_gmtime_adj(X509_getm_notAfter(cert), 86400L * ISSUE_DAYS) &&
		  X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_UTF8,
					     (const unsigned char *)common_name, -1, -1, 0) &&
		  X509_set_subject_name(cert, subject) &&
		  X509_set_issuer_name(cert, issuer ? X509_get_subject_name(issuer) : subject) &&
		  X509_set_pubkey(cert, key);

	X509_NAME_free(subject);
	if (ok)
		return cert;
	X509_free(cert);
	return NULL;
}

static int issue_cert_write(const char *folder, const char *name, X509 *cert)
{
	char path[ISSUE_PATH];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.pem", folder, name);
	f = issue_file_open(path, false);
	if (issue_file_close(f, f && PEM_write_X509(f, cert)) < 0)
		return issue_fail(path);
	return 0;
}

/* Made anew each time: nobody verifies more than the names, the key stays. */
static int issue_ca_init(struct issue_ca *ca)
{
	ca->key = issue_key_get(ca->folder, "ca");
	ca->cert = ca->key ? issue_cert_new("Bench domains CA", ca->key, NULL) : NULL;
	if (!ca->cert ||
	    !issue_extension_add(ca->cert, NID_basic_constraints, "critical,CA:TRUE") ||
	    !X509_sign(ca->cert, ca->key, EVP_sha256()))
		return issue_fail("CA");
	return issue_cert_write(ca->folder, "ca", ca->cert);
}

static int issue_domain(const struct issue_ca *ca, long number)
{
	char name[ISSUE_NAME], host[2 * ISSUE_NAME], alternative[8 * ISSUE_NAME];
	EVP_PKEY *key;
	X509 *cert;
	int ret = -1;

	snprintf(name, sizeof(name), "%05ld", number);
	snprintf(host, sizeof(host), "d%s.bench.invalid", name);
	snprintf(alternative, sizeof(alternative), "DNS:%s,URI:sip:%s", host, host);
	key = issue_key_get(ca->folder, name);
	cert = key ? issue_cert_new(host, key, ca->cert) : NULL;
	if (cert && issue_extension_add(cert, NID_basic_constraints, "critical,CA:FALSE") &&
	    issue_extension_add(cert, NID_key_usage, "critical,digitalSignature") &&
	    issue_extension_add(cert, NID_ext_key_usage, "serverAuth,clientAuth") &&
	    issue_extension_add(cert, NID_subject_alt_name, alternative) &&
	    X509_sign(cert, ca->key, EVP_sha256()))
		ret = issue_cert_write(ca->folder, name, cert);
	else
		issue_fail(host);
	X509_free(cert);
	EVP_PKEY_free(key);
	return ret;
}

/* -1: not a number */
static long issue_number(const char *text)
{
	char *end;
	long n = strtol(text, &end, 10);

	return *text && !*end ? n : -1;
}

int main(int argc, char **argv)
{
	struct issue_ca ca = {.folder = argc == 4 ? argv[1] : NULL};
	long first = argc == 4 ? issue_number(argv[2]) : -1;
	long count = argc == 4 ? issue_number(argv[3]) : -1;
	int ret;

	if (first < 0 || count < 1 || count > ISSUE_MAX || first > ISSUE_MAX - count) {
		fprintf(stderr, "usage: issue folder first count\n");
		return 2;
	}
	ret = issue_ca_init(&ca);
	for (long i = first; ret == 0 && i < first + count; i++)
		ret = issue_domain(&ca, i);
	X509_free(ca.cert);
	EVP_PKEY_free(ca.key);
	return ret == 0 ? 0 : 1;
}
