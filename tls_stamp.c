/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_stamp.h"

#include "tls_file.h"

#include <openssl/evp.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* A digest that is being made. */
struct stamper {
	EVP_MD_CTX *md;
	const char *dir; /* that relative file names start from */
	bool settled;    /* no file is so new that it may change again within its own time stamp */
};

static void stamp_file(struct stamper *stamp, const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0)
		memset(&st, 0, sizeof(st));
	if (st.st_ctim.tv_sec >= time(NULL) - 1)
		stamp->settled = false;
	EVP_DigestUpdate(stamp->md, &st.st_dev, sizeof(st.st_dev));
	EVP_DigestUpdate(stamp->md, &st.st_ino, sizeof(st.st_ino));
	EVP_DigestUpdate(stamp->md, &st.st_size, sizeof(st.st_size));
	EVP_DigestUpdate(stamp->md, &st.st_mtim, sizeof(st.st_mtim));
	EVP_DigestUpdate(stamp->md, &st.st_ctim, sizeof(st.st_ctim));
}

/* A directory's own times do not tell of a file in it that was written to. */
static void stamp_directory(struct stamper *stamp, const char *path)
{
	struct dirent **entries = NULL;
	int count = scandir(path, &entries, NULL, alphasort);

	for (int i = 0; i < count; i++) {
		char name[4096];

		snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
		stamp_file(stamp, name);
		free(entries[i]);
	}
	free(entries);
}

static void stamp_path(struct stamper *stamp, const char *name)
{
	char *path = name ? tls_file_path(stamp->dir, name) : NULL;
	struct stat st;

	if (path && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		stamp_directory(stamp, path);
	if (path)
		stamp_file(stamp, path);
	free(path);
}

static void stamp_text(struct stamper *stamp, const char *text)
{
	uint8_t is_set = text != NULL;

	EVP_DigestUpdate(stamp->md, &is_set, 1);
	if (text)
		EVP_DigestUpdate(stamp->md, text, strlen(text) + 1);
}

static void stamp_password(struct stamper *stamp, const char *password)
{
	if (password && strncmp(password, "file:", 5) == 0)
		stamp_path(stamp, password + 5);
}

static void stamp_settings(struct stamper *stamp, const struct tls_settings *s)
{
#define TLS_I(field, param, cfg, def, lo, hi, rt, help)                                            \
	EVP_DigestUpdate(stamp->md, &s->field, sizeof(s->field));
#define TLS_S(field, param, cfg, def, check, rt, help) stamp_text(stamp, s->field);
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
}

static bool stamp_begin(struct stamper *stamp, const char *dir)
{
	*stamp = (struct stamper){EVP_MD_CTX_new(), dir, true};
	return stamp->md && EVP_DigestInit_ex(stamp->md, EVP_sha256(), NULL);
}

/* Ends a digest; ok tells whether it was begun. */
static bool stamp_end(struct stamper *stamp, bool ok, uint8_t *digest)
{
	ok = ok && EVP_DigestFinal_ex(stamp->md, digest, NULL);
	EVP_MD_CTX_free(stamp->md);
	return ok;
}

/* A digest that changes when the file does. */
static bool file_state(const char *dir, const char *name, uint8_t *state)
{
	struct stamper stamp;
	bool ok = stamp_begin(&stamp, dir);

	if (ok)
		stamp_path(&stamp, name);
	return stamp_end(&stamp, ok, state);
}

/* A file by what it contains, wherever it lies and however often it was written. */
static bool stamp_content(struct stamper *stamp, struct tls_digest_cache *digests, const char *name)
{
	uint8_t state[TLS_STAMP_SIZE], digest[TLS_DIGEST_SIZE] = {0};
	char *path = name ? tls_file_path(stamp->dir, name) : NULL;
	bool ok = !name || (path && file_state(stamp->dir, name, state) &&
			    tls_digest_of(digests, path, state, digest));

	EVP_DigestUpdate(stamp->md, digest, sizeof(digest));
	free(path);
	return ok;
}

static bool stamp_rules(struct stamper *stamp, struct tls_digest_cache *digests, enum tls_role role,
			const struct tls_settings *s)
{
	EVP_DigestUpdate(stamp->md, &role, sizeof(role));
	stamp_text(stamp, s->server_name);
	EVP_DigestUpdate(stamp->md, &s->server_name_mode, sizeof(s->server_name_mode));
	stamp_text(stamp, s->method);
	stamp_text(stamp, s->min_version);
	stamp_text(stamp, s->max_version);
	stamp_text(stamp, s->cipher_list);
	stamp_text(stamp, s->ciphersuites);
	stamp_text(stamp, s->signature_algorithms);
	EVP_DigestUpdate(stamp->md, &s->security_level, sizeof(s->security_level));
	stamp_text(stamp, s->verify_client);
	stamp_text(stamp, s->verify_name);
	stamp_text(stamp, s->verify_names);
	stamp_text(stamp, s->crl_check);
	EVP_DigestUpdate(stamp->md, &s->verify_certificate, sizeof(s->verify_certificate));
	EVP_DigestUpdate(stamp->md, &s->require_certificate, sizeof(s->require_certificate));
	EVP_DigestUpdate(stamp->md, &s->verify_depth, sizeof(s->verify_depth));
	return stamp_content(stamp, digests, s->ca_list) &&
	       stamp_content(stamp, digests, s->ca_path) && stamp_content(stamp, digests, s->crl);
}

bool tls_stamp_rules(const char *dir, const struct cfg_group_tls *cfg, enum tls_role role,
		     const struct tls_settings *s, struct tls_digest_cache *digests,
		     uint8_t digest[TLS_STAMP_SIZE])
{
	/* OpenSSL refuses the handshake when a session was compressed and may not be any more. */
	uint8_t compresses = !cfg->disable_compression;
	struct stamper stamp;
	bool ok = stamp_begin(&stamp, dir);

	ok = ok && EVP_DigestUpdate(stamp.md, cfg->session_id.s, (size_t)cfg->session_id.len) &&
	     EVP_DigestUpdate(stamp.md, &compresses, sizeof(compresses)) &&
	     stamp_rules(&stamp, digests, role, s);
	return stamp_end(&stamp, ok, digest);
}

bool tls_stamp_settings(const char *dir, const char *name, const struct tls_settings *s,
			uint8_t digest[TLS_STAMP_SIZE], bool *settled)
{
	struct stamper stamp;
	bool ok = stamp_begin(&stamp, dir);

	if (ok) {
		stamp_text(&stamp, name);
		stamp_settings(&stamp, s);
		stamp_path(&stamp, s->ca_list);
		stamp_path(&stamp, s->ca_path);
		stamp_path(&stamp, s->crl);
		stamp_path(&stamp, s->certificate);
		stamp_path(&stamp, s->private_key);
		stamp_path(&stamp, s->certificate2);
		stamp_path(&stamp, s->private_key2);
		stamp_path(&stamp, s->ocsp_response);
		stamp_path(&stamp, s->ocsp_response2);
		stamp_password(&stamp, s->private_key_password);
		stamp_password(&stamp, s->private_key_password2);
	}
	*settled = stamp.settled;
	return stamp_end(&stamp, ok, digest);
}
