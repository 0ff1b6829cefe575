/* SPDX-License-Identifier: ISC */
#include "tls_map.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct entry {
	const char *key;
	void *value;
};

struct tls_map {
	size_t mask;
	struct entry entries[];
};

struct tls_map *tls_map_new(size_t count)
{
	size_t size = 8;
	struct tls_map *map;

	while (size < 2 * count) /* half of it stays free, so that searches end soon */
		size *= 2;
	map = calloc(1, sizeof(*map) + size * sizeof(struct entry));
	if (map)
		map->mask = size - 1;
	return map;
}

void tls_map_free(struct tls_map *map)
{
	free(map);
}

/* FNV-1a */
static size_t hash(const char *key)
{
	uint64_t h = UINT64_C(14695981039346656037);

	for (; *key; key++)
		h = (h ^ (unsigned char)*key) * UINT64_C(1099511628211);
	return (size_t)(h ^ h >> 32);
}

static size_t find(const struct tls_map *map, const char *key)
{
	size_t at = hash(key) & map->mask;

	while (map->entries[at].key && strcmp(map->entries[at].key, key) != 0)
		at = (at + 1) & map->mask;
	return at;
}

void *tls_map_add(struct tls_map *map, const char *key, void *value)
{
	struct entry *entry = &map->entries[find(map, key)];

	if (entry->key)
		return entry->value;
	entry->key = key;
	entry->value = value;
	return NULL;
}

void *tls_map_get(const struct tls_map *map, const char *key)
{
	return map->entries[find(map, key)].value;
}
