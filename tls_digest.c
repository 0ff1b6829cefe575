/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_digest.h"

#include "tls_map.h"

#include <openssl/evp.h>

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct entry {
	struct entry *next;
	uint8_t state[TLS_DIGEST_SIZE]; /* of the file when it was read; zeros before */
	uint8_t digest[TLS_DIGEST_SIZE];
	char path[];
};

/* Owner: the one builder that made it. All members are guarded by lock. */
struct tls_digest_cache {
	pthread_mutex_t lock;
	struct tls_map *by_path; /* to the entries */
	struct entry *entries;
};

struct tls_digest_cache *tls_digest_cache_new(size_t count)
{
	struct tls_digest_cache *cache = calloc(1, sizeof(*cache));

	if (!cache)
		return NULL;
	pthread_mutex_init(&cache->lock, NULL);
	cache->by_path = tls_map_new(count);
	if (cache->by_path)
		return cache;
	tls_digest_cache_free(cache);
	return NULL;
}

void tls_digest_cache_free(struct tls_digest_cache *cache)
{
	struct entry *next;

	if (!cache)
		return;
	for (struct entry *e = cache->entries; e; e = next) {
		next = e->next;
		free(e);
	}
	tls_map_free(cache->by_path);
	pthread_mutex_destroy(&cache->lock);
	free(cache);
}

/* A pipe or a device is not waited for: it has no content that a digest could be made of. */
static FILE *open_regular(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	FILE *file = NULL;
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		file = fdopen(fd, "r");
	if (fd >= 0 && !file)
		close(fd);
	return file;
}

static bool add_file(EVP_MD_CTX *md, const char *path)
{
	FILE *file = open_regular(path);
	uint8_t buffer[16384];
	bool ok = true;
	size_t len;

	if (!file)
		return true;
	while (ok && (len = fread(buffer, 1, sizeof(buffer), file)) > 0)
		ok = EVP_DigestUpdate(md, buffer, len) == 1;
	fclose(file);
	return ok;
}

static bool digest_file(const char *path, uint8_t *digest)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	bool ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 && add_file(md, path) &&
		  EVP_DigestFinal_ex(md, digest, NULL) == 1;

	EVP_MD_CTX_free(md);
	return ok;
}

/* The same order on every machine, whatever its locale. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static bool add_entry(EVP_MD_CTX *md, const char *dir, const char *name)
{
	uint8_t digest[TLS_DIGEST_SIZE];
	char path[4096];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return digest_file(path, digest) && EVP_DigestUpdate(md, name, strlen(name) + 1) == 1 &&
	       EVP_DigestUpdate(md, digest, sizeof(digest)) == 1;
}

static bool digest_directory(const char *path, uint8_t *digest)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	struct dirent **entries = NULL;
	int count = scandir(path, &entries, is_visible, by_name);
	bool ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1;

	for (int i = 0; i < count; i++) {
		ok = ok && add_entry(md, path, entries[i]->d_name);
		free(entries[i]);
	}
	free(entries);
	ok = ok && EVP_DigestFinal_ex(md, digest, NULL) == 1;
	EVP_MD_CTX_free(md);
	return ok;
}

static bool digest_path(const char *path, uint8_t *digest)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? digest_directory(path, digest)
							   : digest_file(path, digest);
}

/* The path's entry, maybe a new one that is not filled in. */
static struct entry *entry_of(struct tls_digest_cache *cache, const char *path)
{
	struct entry *e = tls_map_get(cache->by_path, path);
	size_t size = strlen(path) + 1;

	if (e)
		return e;
	e = calloc(1, sizeof(*e) + size);
	if (!e)
		return NULL;
	memcpy(e->path, path, size);
	e->next = cache->entries;
	cache->entries = e;
	tls_map_add(cache->by_path, e->path, e);
	return e;
}

/* Whoever wants a file that another thread reads would read it, too: so it waits. */
bool tls_digest_of(struct tls_digest_cache *cache, const char *path,
		   const uint8_t state[TLS_DIGEST_SIZE], uint8_t digest[TLS_DIGEST_SIZE])
{
	struct entry *e;
	bool ok = false;

	pthread_mutex_lock(&cache->lock);
	e = entry_of(cache, path);
	if (e)
		ok = memcmp(e->state, state, TLS_DIGEST_SIZE) == 0 || digest_path(path, e->digest);
	if (ok) {
		memcpy(e->state, state, TLS_DIGEST_SIZE);
		memcpy(digest, e->digest, TLS_DIGEST_SIZE);
	}
	pthread_mutex_unlock(&cache->lock);
	return ok;
}
