/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_domain.h"

#include "tls_file.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* The longest search key: an address and a name. */
#define KEY_SIZE 512

/* ---- names ---- */

static const char *address_key(const struct tls_domain *d, char *text)
{
	if (d->scope == TLS_CONFIG_DEFAULT)
		return "default";
	if (d->scope == TLS_CONFIG_ANY)
		return "any";
	return tls_address_text(&d->address, text);
}

static void lower(char *text)
{
	for (; *text; text++)
		*text = (char)tolower((unsigned char)*text);
}

void tls_domain_name(struct tls_domain *d)
{
	char text[TLS_ADDRESS_TEXT];
	const char *address = address_key(d, text);
	const struct tls_settings *s = &d->settings;
	bool client = d->role == TLS_ROLE_CLIENT;

	snprintf(d->name, sizeof(d->name), "%s:%s%s%s%s%s", client ? "client" : "server", address,
		 s->server_name ? " " : "", s->server_name ? s->server_name : "",
		 client && s->server_id ? " id=" : "", client && s->server_id ? s->server_id : "");
	lower(d->name);
}

/* ---- the index ---- */

struct indexer {
	struct tls_domain_set *set;
	struct tls_report *report;
};

/*
 * Search keys: "s|ADDRESS|NAME" and "c|ADDRESS|NAME", NAME empty for a domain without one and
 * ADDRESS "any" for any; and "i|SERVER_ID". Returns the domain that has the key already.
 */
static const struct tls_domain *add_key(struct indexer *x, const char *kind, const char *address,
					const char *name, struct tls_domain *d)
{
	const struct tls_domain *before;
	char *key = NULL;

	if (asprintf(&key, "%s|%s%s%s", kind, address, address[0] ? "|" : "", name) < 0) {
		tls_report_error(x->report, "out of memory");
		return NULL;
	}
	lower(key);
	before = tls_map_add(x->set->index, key, d);
	if (before)
		free(key);
	else
		x->set->keys[x->set->key_count++] = key;
	return before;
}

/* A server_id names one section. */
static void add_server_id(struct indexer *x, struct tls_domain *d)
{
	const struct tls_domain *before = add_key(x, "i", "", d->settings.server_id, d);

	if (before)
		tls_report_error(x->report,
				 "%s:%u: server_id '%s' is that of the section at %s:%u already",
				 d->place.file, d->place.line, d->settings.server_id,
				 before->place.file, before->place.line);
}

/*
 * A client section is found by its address also without a name: server_name is then what it
 * asks for. Where several stand at one address, the one without a name is meant.
 */
static void index_client(struct indexer *x, struct tls_domain *d, const char *address, bool named)
{
	const struct tls_settings *s = &d->settings;

	if (named && s->server_id)
		add_server_id(x, d);
	if (named && s->server_name)
		add_key(x, "c", address, s->server_name, d);
	if (!s->server_id && d->scope == TLS_CONFIG_ADDRESS && named == (s->server_name != NULL))
		add_key(x, "c", address, "", d);
}

static void index_domain(struct indexer *x, struct tls_domain *d, bool named)
{
	char text[TLS_ADDRESS_TEXT];
	const char *address = address_key(d, text);
	const char *name = d->settings.server_name;

	if (d->role == TLS_ROLE_CLIENT)
		index_client(x, d, address, named);
	else if (named && d->scope != TLS_CONFIG_DEFAULT)
		add_key(x, "s", address, name ? name : "", d);
}

/* Client sections without a name come first, so that one of them gets its address's key. */
void tls_domain_index(struct tls_domain_set *set, struct tls_report *report)
{
	struct indexer x = {set, report};

	set->index = tls_map_new(3 * set->count + 1);
	set->keys = calloc(3 * set->count + 1, sizeof(*set->keys));
	if (!set->index || !set->keys) {
		tls_report_error(report, "out of memory");
		return;
	}
	for (int named = 0; named <= 1; named++)
		for (size_t i = 0; i < set->count; i++)
			index_domain(&x, &set->domains[i], named);
}

static struct tls_domain *look_up(const struct tls_domain_set *set, const char *kind,
				  const char *address, const char *name)
{
	char key[KEY_SIZE];

	if (snprintf(key, sizeof(key), "%s|%s%s%s", kind, address, address[0] ? "|" : "", name) >=
	    (int)sizeof(key))
		return NULL;
	lower(key);
	return tls_map_get(set->index, key);
}

/* By name at one address: the name itself, then the domains that it is a subdomain of. */
static struct tls_domain *look_up_name(const struct tls_domain_set *set, const char *kind,
				       const char *address, const char *name)
{
	struct tls_domain *d = look_up(set, kind, address, name);

	if (d && d->settings.server_name_mode != 2)
		return d;
	for (name = strchr(name, '.'); name && name[1]; name = strchr(name + 1, '.')) {
		d = look_up(set, kind, address, name + 1);
		if (d && d->settings.server_name_mode != 0)
			return d;
	}
	return NULL;
}

/* The texts under which an address may stand in the index: with its port, and with any. */
static void address_keys(const struct tls_address *a, char keys[2][TLS_ADDRESS_TEXT])
{
	struct tls_address any_port = *a;

	any_port.port = 0;
	tls_address_text(a, keys[0]);
	tls_address_text(&any_port, keys[1]);
}

/* By address and name; *by_name tells whether the name has decided. */
static struct tls_domain *search_server(const struct tls_domain_set *set,
					const struct tls_address *local, const char *name,
					bool *by_name)
{
	char keys[2][TLS_ADDRESS_TEXT];
	struct tls_domain *d = NULL;

	address_keys(local, keys);
	for (int i = 0; i < 2 && name && !d; i++)
		d = look_up_name(set, "s", keys[i], name);
	*by_name = d != NULL;
	for (int i = 0; i < 2 && !d; i++)
		d = look_up(set, "s", keys[i], "");
	if (!d && name && (d = look_up_name(set, "s", "any", name)))
		*by_name = true;
	return d;
}

const struct tls_domain *tls_domain_find_server(const struct tls_domain_set *set,
						const struct tls_address *local, const char *name,
						bool *unknown_name)
{
	struct tls_domain *d = NULL;
	bool by_name = false;

	if (set->key_count > 0) /* default sections have no keys, and often there are no others */
		d = search_server(set, local, name, &by_name);
	if (!d)
		d = set->server_default;
	*unknown_name =
		!by_name && name && d && d->settings.refuse_unknown_name &&
		(!d->settings.server_name || strcasecmp(d->settings.server_name, name) != 0);
	return *unknown_name ? NULL : d;
}

const struct tls_domain *tls_domain_find_client(const struct tls_domain_set *set,
						const char *server_id,
						const struct tls_address *remote, const char *name)
{
	char keys[2][TLS_ADDRESS_TEXT];
	struct tls_domain *d = NULL;
	bool named = name && name[0];

	if (server_id && server_id[0])
		d = look_up(set, "i", "", server_id);
	address_keys(remote, keys);
	for (int i = 0; i < 2 && named && !d; i++)
		d = look_up_name(set, "c", keys[i], name);
	if (!d && named)
		d = look_up_name(set, "c", "any", name);
	for (int i = 0; i < 2 && !d; i++)
		d = look_up(set, "c", keys[i], "");
	return d ? d : set->client_default;
}

/* ---- sets ---- */

static void material_unref(struct tls_material *m)
{
	if (!m || atomic_fetch_sub(&m->refs, 1) != 1)
		return;
	SSL_CTX_free(m->ctx);
	X509_free(m->shown[0]);
	X509_free(m->shown[1]);
	free(m);
}

static void ident_unref(struct tls_domain_ident *ident)
{
	if (!ident || atomic_fetch_sub(&ident->refs, 1) != 1)
		return;
	ident->gone(ident->id);
	free(ident);
}

struct tls_domain_set *tls_domain_set_ref(struct tls_domain_set *set)
{
	atomic_fetch_add_explicit(&set->refs, 1, memory_order_relaxed);
	return set;
}

bool tls_domain_set_is_used(const struct tls_domain_set *set)
{
	return atomic_load(&set->refs) > 1;
}

void tls_domain_set_unref(struct tls_domain_set *set)
{
	if (!set || atomic_fetch_sub_explicit(&set->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < set->count; i++) {
		material_unref(set->domains[i].material);
		ident_unref(set->domains[i].ident);
	}
	for (size_t i = 0; i < set->key_count; i++)
		free(set->keys[i]);
	free(set->keys);
	tls_ticket_keys_unref(set->tickets);
	tls_map_free(set->index);
	tls_map_free(set->names);
	tls_config_free(set->config);
	tls_settings_free(&set->parameters);
	free(set->domains);
	free(set);
}

int tls_domain_set_check_access(const struct tls_domain_set *set, const char *dir,
				struct tls_report *report)
{
	unsigned errors = report->errors;

	for (size_t i = 0; i < set->count; i++) {
		const char *name = set->domains[i].settings.ca_path;
		char *path = name ? tls_file_path(dir, name) : NULL;
		char reason[256];

		if (path && access(path, X_OK) != 0)
			tls_report_error(report, "%s: ca_path: cannot read directory '%s': %s",
					 set->domains[i].name, path,
					 tls_file_reason(errno, reason, sizeof(reason)));
		free(path);
	}
	return report->errors == errors ? 0 : -1;
}
