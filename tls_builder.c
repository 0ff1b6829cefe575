/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_builder.h"

#include "tls_context.h"
#include "tls_digest.h"
#include "tls_file.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* RPC clients know these texts. */
#define TLS_SUMMARY_LOAD   "Error while loading TLS configuration file"
#define TLS_SUMMARY_FIX    "Error while fixing TLS configuration"
#define TLS_SUMMARY_SOCKET "No server listening socket found for one of TLS domains"

/* What the functions that build one set share. */
struct builder {
	const struct tls_builder_source *source;
	struct tls_domain_set *set;
	struct tls_report *report;
	struct tls_digest_cache *digests; /* of the files that sessions depend on */
	atomic_size_t next;               /* domain that a thread builds next */
	atomic_bool changed;              /* a file was written to while the set was built */
};

/* ---- settings of a section, its default section and the built-in defaults ---- */

/*
 * Takes what the section sets from the section, everything else from base. Texts are not copied:
 * they belong to the set's configuration, or are built in.
 */
static void inherit(struct tls_domain *d, const struct tls_config_section *section,
		    const struct tls_domain *base)
{
#define INHERIT(field)                                                                             \
	d->settings.field = section->lines.field ? section->settings.field : base->settings.field; \
	d->places.field = section->lines.field                                                     \
				  ? (struct tls_place){section->file, section->lines.field}        \
				  : base->places.field;
#define TLS_I(field, param, cfg, def, lo, hi, rt, help) INHERIT(field)
#define TLS_S(field, param, cfg, def, check, rt, help)  INHERIT(field)
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
#undef INHERIT
	/* A certificate of its own comes with a key and a response of its own. */
	if (section->lines.certificate && !section->lines.private_key)
		d->settings.private_key = NULL;
	if (section->lines.certificate && !section->lines.private_key_password)
		d->settings.private_key_password = NULL;
	if (section->lines.certificate && !section->lines.ocsp_response)
		d->settings.ocsp_response = NULL;
	if (section->lines.certificate2 && !section->lines.private_key2)
		d->settings.private_key2 = NULL;
	if (section->lines.certificate2 && !section->lines.private_key_password2)
		d->settings.private_key_password2 = NULL;
	if (section->lines.certificate2 && !section->lines.ocsp_response2)
		d->settings.ocsp_response2 = NULL;
}

/* The rows' defaults; an empty text is not set. */
static void builtin_settings(struct tls_domain *d)
{
#define TLS_I(field, param, cfg, def, lo, hi, rt, help) d->settings.field = (def);
#define TLS_S(field, param, cfg, def, check, rt, help)                                             \
	d->settings.field = sizeof(def) > 1 ? (char *)(def) : NULL;
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
	if (d->role == TLS_ROLE_CLIENT)
		d->settings.certificate = NULL; /* it needs none */
}

static const struct tls_config_section *default_section(const struct tls_config *config,
							enum tls_role role)
{
	for (size_t i = 0; i < config->count; i++)
		if (config->sections[i].scope == TLS_CONFIG_DEFAULT &&
		    config->sections[i].role == role)
			return &config->sections[i];
	return NULL;
}

static struct tls_domain *add_domain(struct builder *b, enum tls_role role,
				     enum tls_config_scope scope)
{
	struct tls_domain *d = &b->set->domains[b->set->count++];

	d->role = role;
	d->scope = scope;
	return d;
}

static void add_section(struct builder *b, const struct tls_config_section *section,
			const struct tls_domain *base)
{
	struct tls_domain *d = add_domain(b, section->role, section->scope);

	d->address = section->address;
	d->place = (struct tls_place){section->file, section->line};
	inherit(d, section, base);
	tls_domain_name(d);
}

static bool file_exists(const struct builder *b, const char *name)
{
	char *path = tls_file_path(b->source->dir, name);
	struct stat st;
	bool exists = path && stat(path, &st) == 0;

	free(path);
	return exists;
}

/* The default domain of a role: its section, or what is built in. A server without a certificate
 * has none, and refuses clients that no other section is for. */
static void add_default(struct builder *b, enum tls_role role)
{
	const struct tls_config_section *section = default_section(b->set->config, role);
	struct tls_domain builtin = {.role = role};
	struct tls_domain *d;

	builtin_settings(&builtin);
	if (section) {
		add_section(b, section, &builtin);
	} else if (role == TLS_ROLE_CLIENT || file_exists(b, builtin.settings.certificate)) {
		d = add_domain(b, role, TLS_CONFIG_DEFAULT);
		d->settings = builtin.settings;
		tls_domain_name(d);
	} else {
		tls_report_warning(b->report,
				   "%s: no [server:default] section and no file '%s': clients "
				   "that no other section is for are refused",
				   b->source->config, builtin.settings.certificate);
	}
}

/* What sections of a role inherit: their default section's settings, but for its own names. */
static void base_settings(struct builder *b, enum tls_role role, struct tls_domain *base)
{
	const struct tls_config_section *section = default_section(b->set->config, role);
	struct tls_domain builtin = {.role = role};

	builtin_settings(&builtin);
	*base = builtin;
	if (section)
		inherit(base, section, &builtin);
	base->settings.server_name = base->settings.server_id = NULL;
}

static int draft_from_config(struct builder *b)
{
	const struct tls_config *previous =
		b->source->previous ? b->source->previous->config : NULL;
	struct tls_config *config = tls_config_read(b->source->config, previous, b->report);
	const struct tls_config_section *defaults[2];
	struct tls_domain bases[2];

	if (!config)
		return -1;
	b->set->config = config;
	b->set->domains = calloc(config->count + 2, sizeof(*b->set->domains));
	if (!b->set->domains) {
		tls_report_error(b->report, "out of memory");
		return -1;
	}
	add_default(b, TLS_ROLE_SERVER);
	add_default(b, TLS_ROLE_CLIENT);
	base_settings(b, TLS_ROLE_SERVER, &bases[TLS_ROLE_SERVER]);
	base_settings(b, TLS_ROLE_CLIENT, &bases[TLS_ROLE_CLIENT]);
	defaults[TLS_ROLE_SERVER] = default_section(config, TLS_ROLE_SERVER);
	defaults[TLS_ROLE_CLIENT] = default_section(config, TLS_ROLE_CLIENT);
	for (size_t i = 0; i < config->count; i++) {
		const struct tls_config_section *section = &config->sections[i];

		if (section != defaults[section->role])
			add_section(b, section, &bases[section->role]);
	}
	return 0;
}

static int draft_from_parameters(struct builder *b)
{
	b->set->domains = calloc(2, sizeof(*b->set->domains));
	if (!b->set->domains || tls_settings_from_cfg(&b->set->parameters, b->source->cfg) != 0) {
		tls_report_error(b->report, "out of memory");
		return -1;
	}
	for (enum tls_role role = TLS_ROLE_SERVER; role <= TLS_ROLE_CLIENT; role++) {
		struct tls_domain *d = add_domain(b, role, TLS_CONFIG_DEFAULT);

		d->settings = b->set->parameters;
		tls_domain_name(d);
	}
	return 0;
}

/* ---- checks ---- */

static void check_socket(struct builder *b, const struct tls_domain *d)
{
	char address[TLS_ADDRESS_TEXT], list[1024] = "";

	if (d->role != TLS_ROLE_SERVER || d->scope != TLS_CONFIG_ADDRESS)
		return;
	for (size_t i = 0; i < b->source->socket_count; i++) {
		const struct tls_address *socket = &b->source->sockets[i];
		static const uint8_t any[16];
		size_t len = strlen(list);

		if (socket->ip_len == d->address.ip_len &&
		    (memcmp(socket->ip, d->address.ip, socket->ip_len) == 0 ||
		     memcmp(socket->ip, any, socket->ip_len) == 0) &&
		    (d->address.port == 0 || d->address.port == socket->port))
			return;
		snprintf(list + len, sizeof(list) - len, "%s%s", len ? ", " : "",
			 tls_address_text(socket, address));
	}
	b->report->summary = TLS_SUMMARY_SOCKET;
	tls_report_error(b->report,
			 "%s:%u: no TLS socket of the server is at %s, expected one of %s",
			 d->place.file, d->place.line, tls_address_text(&d->address, address),
			 list[0] ? list : "(no TLS sockets)");
}

static void check_scope(struct builder *b, const struct tls_domain *d)
{
	const struct tls_settings *s = &d->settings;

	if (d->scope != TLS_CONFIG_ANY || s->server_name ||
	    (d->role == TLS_ROLE_CLIENT && s->server_id))
		return;
	tls_report_error(b->report, "%s:%u: a section for any address needs a server_name%s",
			 d->place.file, d->place.line,
			 d->role == TLS_ROLE_CLIENT ? " or a server_id"
						    : " (else it is [server:default])");
}

static void check_unique(struct builder *b, struct tls_domain *d)
{
	const struct tls_domain *other = tls_map_add(b->set->names, d->name, d);

	if (other)
		tls_report_error(b->report, "%s:%u: section [%s] stands at %s:%u already",
				 d->place.file, d->place.line, d->name, other->place.file,
				 other->place.line);
}

/* ---- material ---- */

/* Owns ctx and what is in shown from now on, whatever it returns. */
static struct tls_material *material_new(SSL_CTX *ctx, X509 *const *shown, const uint8_t *stamp,
					 bool settled)
{
	struct tls_material *m = calloc(1, sizeof(*m));

	if (!m || !ctx) {
		SSL_CTX_free(ctx);
		X509_free(shown[0]);
		X509_free(shown[1]);
		free(m);
		return NULL;
	}
	atomic_init(&m->refs, 1);
	memcpy(m->shown, shown, sizeof(m->shown));
	memcpy(m->stamp, stamp, TLS_STAMP_SIZE);
	m->settled = settled;
	m->ctx = ctx;
	return m;
}

static struct tls_domain *domain_before(const struct builder *b, const struct tls_domain *d)
{
	const struct tls_domain_set *previous = b->source->previous;

	return previous ? tls_map_get(previous->names, d->name) : NULL;
}

static struct tls_domain *default_of(const struct tls_domain_set *set, enum tls_role role)
{
	return role == TLS_ROLE_SERVER ? set->server_default : set->client_default;
}

static void say_no_digest(const struct tls_domain *d, struct tls_report *report)
{
	tls_report_error(report, "%s: out of memory, or OpenSSL has no SHA-256", d->name);
}

static SSL_CTX *make_context(const struct builder *b, const struct tls_domain *d, X509 **shown,
			     struct tls_report *report)
{
	uint8_t rules[TLS_STAMP_SIZE];
	const struct tls_domain *base = default_of(b->set, d->role);
	struct tls_context_input input = {
		.role = d->role,
		.name = d->name,
		.settings = &d->settings,
		.places = &d->places,
		.section = d->place,
		.of_parameters = !b->set->config,
		.cfg = b->source->cfg,
		.dir = b->source->dir,
		.prepare = b->source->prepare,
		.shown = shown,
		.session_context = rules,
		.session_context_size = sizeof(rules),
		.may_ask = b->source->may_ask,
		/* Both roles have the settings of the module parameters. */
		.quiet = !b->set->config && d->role == TLS_ROLE_CLIENT,
	};

	if (base && base != d && base->ctx && tls_context_same_store(&d->settings, &base->settings))
		input.store_from = base->ctx;
	if (tls_stamp_rules(b->source->dir, b->source->cfg, d->role, &d->settings, b->digests,
			    rules))
		return tls_context_new(&input, report);
	say_no_digest(d, report);
	return NULL;
}

/* True when the key was read with rights that this process gave up. Then the stamp must do, even
 * where the file is so new that it may have changed within it. */
static bool key_is_closed(const struct builder *b, const struct tls_settings *s)
{
	const char *name = s->private_key ? s->private_key : s->certificate;
	char *path = name ? tls_file_path(b->source->dir, name) : NULL;
	bool closed = path && access(path, R_OK) != 0 && errno == EACCES;

	free(path);
	return closed;
}

/* Notes when a domain's files are not what they were before they were read: its stamp, its session
 * context and its SSL_CTX may then be of different times. */
static void check_unchanged(struct builder *b, const struct tls_domain *d, const uint8_t *before)
{
	uint8_t stamp[TLS_STAMP_SIZE];
	bool settled;

	if (tls_stamp_settings(b->source->dir, d->name, &d->settings, stamp, &settled) &&
	    memcmp(before, stamp, TLS_STAMP_SIZE) != 0)
		atomic_store(&b->changed, true);
}

/* Gives a domain its material: the one it had before, if nothing changed, or a new one. */
static void build_material(struct builder *b, struct tls_domain *d, struct tls_report *report)
{
	const struct tls_domain *before = domain_before(b, d);
	X509 *shown[2] = {NULL, NULL};
	uint8_t stamp[TLS_STAMP_SIZE];
	bool settled;
	SSL_CTX *ctx;

	if (!tls_stamp_settings(b->source->dir, d->name, &d->settings, stamp, &settled)) {
		say_no_digest(d, report);
		return;
	}
	if (before && memcmp(before->material->stamp, stamp, TLS_STAMP_SIZE) == 0 &&
	    (before->material->settled || key_is_closed(b, &d->settings))) {
		d->material = before->material;
		atomic_fetch_add(&d->material->refs, 1);
	} else {
		ctx = make_context(b, d, shown, report);
		d->material = material_new(ctx, shown, stamp, settled);
		if (ctx && !d->material)
			tls_report_error(report, "out of memory");
		check_unchanged(b, d, stamp);
	}
	if (d->material) {
		d->ctx = d->material->ctx;
		d->shown = d->material->shown;
	}
}

static void *build_thread(void *arg)
{
	struct builder *b = arg;
	struct tls_report *report = calloc(1, sizeof(*report));
	size_t i;

	while (report && (i = atomic_fetch_add(&b->next, 1)) < b->set->count)
		if (!b->set->domains[i].material)
			build_material(b, &b->set->domains[i], report);
	tls_context_thread_end();
	return report;
}

static void merge_report(struct builder *b, struct tls_report *report)
{
	if (!report) {
		tls_report_error(b->report, "out of memory");
		return;
	}
	tls_report_merge(b->report, report);
	tls_report_free(report);
	free(report);
}

/* Default domains first: others share their CA store. */
static void build_materials(struct builder *b)
{
	unsigned wanted = b->set->count < 64 ? 1 : b->source->threads, started = 0;
	pthread_t threads[64];
	void *report;

	for (size_t i = 0; i < b->set->count; i++) {
		struct tls_domain *d = &b->set->domains[i];

		/* Of module parameters both roles are made, so an error would be told twice. */
		if (d->scope == TLS_CONFIG_DEFAULT && (b->set->config || !b->report->errors))
			build_material(b, d, b->report);
	}
	if (b->report->errors && !b->set->config)
		return;
	atomic_init(&b->next, 0);
	while (started + 1 < wanted && started < 64 &&
	       pthread_create(&threads[started], NULL, build_thread, b) == 0)
		started++;
	merge_report(b, build_thread(b));
	while (started > 0) {
		pthread_join(threads[--started], &report);
		merge_report(b, report);
	}
	/* Others may have taken their CA store while its files changed. */
	for (size_t i = 0; i < b->set->count; i++) {
		const struct tls_domain *d = &b->set->domains[i];

		if (d->scope == TLS_CONFIG_DEFAULT && d->material)
			check_unchanged(b, d, d->material->stamp);
	}
}

/* ---- idents ---- */

static struct tls_domain_ident *ident_new(const struct tls_builder_source *source, const char *name)
{
	struct tls_domain_ident *ident = calloc(1, sizeof(*ident));

	if (!ident)
		return NULL;
	atomic_init(&ident->refs, 1);
	ident->gone = source->gone;
	ident->id = source->new_id(name);
	if (ident->id)
		return ident;
	free(ident);
	return NULL;
}

static void build_idents(struct builder *b)
{
	for (size_t i = 0; i < b->set->count; i++) {
		struct tls_domain *d = &b->set->domains[i];
		const struct tls_domain *before = domain_before(b, d);

		if (before) {
			d->ident = before->ident;
			atomic_fetch_add(&d->ident->refs, 1);
		} else {
			d->ident = ident_new(b->source, d->name);
		}
		if (!d->ident) {
			tls_report_error(b->report, "too many domains, or out of memory");
			return;
		}
	}
}

/* ---- the whole ---- */

/* The default, unless another one has the library's groups: see tls_protocol_enter(). */
static const struct tls_domain *find_beginning(const struct tls_domain_set *set)
{
	const struct tls_domain *found = set->server_default;

	for (size_t i = 0; i < set->count && (!found || found->settings.groups); i++) {
		const struct tls_domain *d = &set->domains[i];

		if (d->role == TLS_ROLE_SERVER && (!found || !d->settings.groups))
			found = d;
	}
	return found;
}

static void finish_domains(struct builder *b)
{
	for (size_t i = 0; i < b->set->count; i++) {
		struct tls_domain *d = &b->set->domains[i];

		d->accept_unverified = tls_context_accepts_unverified(d->role, &d->settings);
		d->rule = tls_identity_rule_of(d->settings.verify_name);
		if (d->scope == TLS_CONFIG_DEFAULT && d->role == TLS_ROLE_SERVER)
			b->set->server_default = d;
		else if (d->scope == TLS_CONFIG_DEFAULT)
			b->set->client_default = d;
	}
	b->set->server_begin = find_beginning(b->set);
}

/* Keys of a file are read each time; generated ones go on from set to set. */
static void build_tickets(struct builder *b)
{
	const str *name = &b->source->cfg->session_ticket_keys;
	struct tls_ticket_keys *before = b->source->previous ? b->source->previous->tickets : NULL;
	char *path = name->len > 0 ? tls_file_path(b->source->dir, name->s) : NULL;

	if (path)
		b->set->tickets = tls_ticket_keys_read(path, b->report);
	else if (name->len <= 0 && before && tls_ticket_keys_generated(before))
		b->set->tickets = tls_ticket_keys_ref(before);
	else if (name->len <= 0)
		b->set->tickets = tls_ticket_keys_new();
	free(path);
	if (!b->set->tickets && b->report->errors == 0)
		tls_report_error(b->report,
				 "session tickets: out of memory, or OpenSSL has no AES-256-CBC");
}

static void build_set(struct builder *b)
{
	b->report->summary = TLS_SUMMARY_LOAD;
	if ((b->source->config ? draft_from_config(b) : draft_from_parameters(b)) != 0)
		return;
	b->report->summary = TLS_SUMMARY_FIX;
	b->set->names = tls_map_new(b->set->count);
	b->digests = tls_digest_cache_new(3 * b->set->count);
	if (!b->set->names || !b->digests) {
		tls_report_error(b->report, "out of memory");
		return;
	}
	for (size_t i = 0; i < b->set->count; i++) {
		check_unique(b, &b->set->domains[i]);
		check_scope(b, &b->set->domains[i]);
		check_socket(b, &b->set->domains[i]);
	}
	finish_domains(b);
	build_tickets(b);
	build_materials(b);
	if (!b->report->errors)
		tls_domain_index(b->set, b->report);
	if (!b->report->errors)
		build_idents(b);
}

struct tls_domain_set *tls_builder_set(const struct tls_builder_source *source,
				       struct tls_report *report, bool *changed)
{
	struct builder b = {.source = source, .report = report};

	b.set = calloc(1, sizeof(*b.set));
	if (!b.set) {
		tls_report_error(report, "out of memory");
		return NULL;
	}
	atomic_init(&b.set->refs, 1);
	build_set(&b);
	tls_digest_cache_free(b.digests);
	*changed = atomic_load(&b.changed);
	if (report->errors == 0)
		return b.set;
	tls_domain_set_unref(b.set);
	return NULL;
}
