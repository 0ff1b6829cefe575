/* SPDX-License-Identifier: ISC */
#include "tls_cert.h"

#include "tls_hash.h"

#include "core/locking.h"
#include "core/mem/shm_mem.h"

#include <stdbool.h>
#include <string.h>

#define BUCKETS 4096 /* a power of two */

/* In shared memory. Inside the lock nothing is waited for and no memory asked for. */
struct table {
	gen_lock_t lock;
	struct tls_cert *bucket[BUCKETS];
};

static struct table *table;

int tls_cert_init(void)
{
	table = shm_malloc(sizeof(*table));
	if (!table)
		return -1;
	memset(table, 0, sizeof(*table));
	return lock_init(&table->lock) ? 0 : -1;
}

void tls_cert_free_lock(void)
{
	if (table)
		lock_init(&table->lock);
}

void tls_cert_destroy(void)
{
	if (!table)
		return;
	lock_destroy(&table->lock);
	shm_free(table);
	table = NULL;
}

/* A peer chooses its certificate, but not its digest. */
static struct tls_cert **bucket_of(const uint8_t *digest)
{
	return &table->bucket[(digest[0] << 8 | digest[1]) & (BUCKETS - 1)];
}

/* With the lock held. A reference to the certificate of that digest, or NULL. */
static struct tls_cert *find(const uint8_t *digest)
{
	struct tls_cert *cert = *bucket_of(digest);

	while (cert && memcmp(cert->digest, digest, sizeof(cert->digest)) != 0)
		cert = cert->next;
	if (cert)
		cert->refs++;
	return cert;
}

static struct tls_cert *new_cert(const uint8_t *digest, const uint8_t *der, size_t len)
{
	struct tls_cert *cert = shm_malloc(sizeof(*cert) + len);

	if (!cert)
		return NULL;
	cert->refs = 1;
	cert->len = (uint32_t)len;
	memcpy(cert->digest, digest, sizeof(cert->digest));
	memcpy(cert->der, der, len);
	return cert;
}

struct tls_cert *tls_cert_get(const uint8_t *der, size_t len)
{
	uint8_t digest[TLS_CERT_DIGEST];
	struct tls_cert *cert, *mine;

	if (!tls_hash_digest(TLS_HASH_SHA256, &(struct tls_bytes){der, len}, 1, digest))
		return NULL;
	lock_get(&table->lock);
	cert = find(digest);
	lock_release(&table->lock);
	if (cert)
		return cert;
	mine = new_cert(digest, der, len);
	if (!mine)
		return NULL;
	lock_get(&table->lock);
	cert = find(digest); /* another process may have been faster */
	if (!cert) {
		mine->next = *bucket_of(digest);
		*bucket_of(digest) = mine;
	}
	lock_release(&table->lock);
	if (cert)
		shm_free(mine);
	return cert ? cert : mine;
}

void tls_cert_put(struct tls_cert *cert)
{
	struct tls_cert **link;
	bool last;

	if (!cert)
		return;
	lock_get(&table->lock);
	last = --cert->refs == 0;
	if (last) {
		for (link = bucket_of(cert->digest); *link != cert;)
			link = &(*link)->next;
		*link = cert->next;
	}
	lock_release(&table->lock);
	if (last)
		shm_free(cert);
}

struct tls_cert_chain *tls_cert_chain_new(uint32_t count)
{
	size_t size = sizeof(struct tls_cert_chain) + count * sizeof(struct tls_cert *);
	struct tls_cert_chain *chain = shm_malloc(size);

	if (!chain)
		return NULL;
	memset(chain, 0, size);
	chain->count = count;
	return chain;
}

void tls_cert_chain_free(struct tls_cert_chain *chain)
{
	if (!chain)
		return;
	for (uint32_t i = 0; i < chain->count; i++)
		tls_cert_put(chain->cert[i]);
	shm_free(chain);
}
