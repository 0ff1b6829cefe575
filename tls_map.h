/* SPDX-License-Identifier: ISC */
/*
 * A hash table from texts to pointers, made once and then only read. Neither
 * is copied or owned. The keys come from the operator, so nobody can choose
 * them to collide.
 */
#ifndef TLS_MAP_H
#define TLS_MAP_H

#include <stddef.h>

struct tls_map;

/* Room for count entries. Returns NULL without memory. */
struct tls_map *tls_map_new(size_t count);
void tls_map_free(struct tls_map *map);

/* Adds an entry; at most count in all. Returns the value that the key had before (and keeps it), or
 * NULL if it was added. */
void *tls_map_add(struct tls_map *map, const char *key, void *value);

/* Returns NULL if the key is not there. */
void *tls_map_get(const struct tls_map *map, const char *key);

#endif
