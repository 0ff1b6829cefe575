/* SPDX-License-Identifier: ISC */
/*
 * Domains: who this end is and whom it trusts, by address and name. Lives in
 * the engine process only. A set of domains never changes once it is built;
 * sessions hold a reference to the set that they started with, so a newer one
 * can take its place at any time.
 */
#ifndef TLS_DOMAIN_H
#define TLS_DOMAIN_H

#include "tls_build.h"
#include "tls_config.h"
#include "tls_identity.h"
#include "tls_map.h"
#include "tls_stamp.h"
#include "tls_ticket.h"

#include <stdatomic.h>
#include <stdint.h>

/* "server:" address, host name, server_id, and the NUL. */
#define TLS_DOMAIN_NAME 640

/* An SSL_CTX and what tells whether it is still up to date. Shared by the sets that it serves. */
struct tls_material {
	atomic_uint refs;
	uint8_t stamp[TLS_STAMP_SIZE]; /* tls_stamp_settings() */
	bool settled;                  /* the stamp will tell every later change of a file */
	SSL_CTX *ctx;
	X509 *shown[2]; /* by certificate and certificate2 */
};

/* A number that stays with a domain's name from set to set, so that its connections can be
 * counted. Shared by these sets. */
struct tls_domain_ident {
	atomic_uint refs;
	uint32_t id;
	void (*gone)(uint32_t id);
};

/* Owner: its set. Immutable once that is built, so threads share it without a lock. */
struct tls_domain {
	enum tls_role role;
	enum tls_config_scope scope;
	struct tls_address address;
	char name[TLS_DOMAIN_NAME];   /* "server:default", "client:192.0.2.1:5061 example.com" */
	struct tls_place place;       /* of its section; the set's config owns the file's name */
	struct tls_settings settings; /* with what it inherits; texts are the set's */
	struct tls_settings_places places;
	bool accept_unverified;
	enum tls_identity_rule rule;
	SSL_CTX *ctx;       /* the material's */
	X509 *const *shown; /* the material's: what certificate and certificate2 name, or NULL */
	struct tls_material *material;
	struct tls_domain_ident *ident;
};

/* Owner: its references. */
struct tls_domain_set {
	atomic_uint refs;
	struct tls_domain *domains;
	size_t count;
	struct tls_domain *server_default, *client_default; /* among them, or NULL */
	/* Whose context a connection is accepted with; NULL: there is no server. */
	const struct tls_domain *server_begin;
	struct tls_map *names; /* of domains, to them */
	struct tls_map *index; /* search keys to domains */
	char **keys;           /* of the index */
	size_t key_count;
	struct tls_ticket_keys *tickets;
	struct tls_config *config;       /* NULL: made of module parameters */
	struct tls_settings parameters;  /* then these */
	struct tls_domain_set *next_old; /* for whoever owns the set, once it was replaced */
};

/* Gives a domain that has its settings its name. */
void tls_domain_name(struct tls_domain *d);

/* Makes a set's domains known to the functions that find them; reports a server_id that
 * stands twice. For whoever builds the set. */
void tls_domain_index(struct tls_domain_set *set, struct tls_report *report);

/* Reports directories that OpenSSL reads in handshakes and this process, with the rights that it
 * has now, cannot. Returns 0 or -1. */
int tls_domain_set_check_access(const struct tls_domain_set *set, const char *dir,
				struct tls_report *report);

struct tls_domain_set *tls_domain_set_ref(struct tls_domain_set *set);
void tls_domain_set_unref(struct tls_domain_set *set); /* NULL is fine */
/* True if there are other references than the caller's. */
bool tls_domain_set_is_used(const struct tls_domain_set *set);

/*
 * The domain for an accepted connection: by local address and the name that the client asks for
 * (NULL: none), most specific first. NULL: no domain fits, or the one that does refuses unknown
 * names; *unknown_name tells the latter.
 */
const struct tls_domain *tls_domain_find_server(const struct tls_domain_set *set,
						const struct tls_address *local, const char *name,
						bool *unknown_name);

/* The domain for an outgoing connection: by server_id, else by remote address and the name to ask
 * for ("" or NULL: none), most specific first. */
const struct tls_domain *tls_domain_find_client(const struct tls_domain_set *set,
						const char *server_id,
						const struct tls_address *remote, const char *name);

#endif
