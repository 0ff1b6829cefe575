/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_domain.h"

#include "tls_file.h"

#include "tls_digest.h"

#include <openssl/evp.h>

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define STAMP_SIZE 32 /* SHA-256 */
/* RPC clients know these texts. */
#define TLS_SUMMARY_LOAD   "Error while loading TLS configuration file"
#define TLS_SUMMARY_FIX    "Error while fixing TLS configuration"
#define TLS_SUMMARY_SOCKET "No server listening socket found for one of TLS domains"
/* The longest search key: an address and a name. */
#define KEY_SIZE 512

struct tls_material {
	atomic_uint refs;
	uint8_t stamp[STAMP_SIZE]; /* of the settings and the files' identities */
	bool settled;              /* the stamp will tell every later change of a file */
	SSL_CTX *ctx;
	X509 *shown[2]; /* by certificate and certificate2 */
};

/* What the functions that build one set share. */
struct builder {
	const struct tls_domain_source *source;
	struct tls_domain_set *set;
	struct tls_report *report;
	struct tls_digest_cache *digests; /* of the files that sessions depend on */
	atomic_size_t next;               /* domain that a thread builds next */
	atomic_bool changed;              /* a file was written to while the set was built */
};

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

static void name_domain(struct tls_domain *d)
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
	name_domain(d);
}

static bool file_exists(const struct builder *b, const char *name)
{
	char *path = tls_context_path(b->source->dir, name);
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
		name_domain(d);
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
		name_domain(d);
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
	char *path = name ? tls_context_path(stamp->dir, name) : NULL;
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

static void stamp_settings(struct stamper *stamp, const struct tls_domain *d)
{
	const struct tls_settings *s = &d->settings;

	stamp_text(stamp, d->name);
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
	uint8_t state[STAMP_SIZE], digest[TLS_DIGEST_SIZE] = {0};
	char *path = name ? tls_context_path(stamp->dir, name) : NULL;
	bool ok = !name || (path && file_state(stamp->dir, name, state) &&
			    tls_digest_of(digests, path, state, digest));

	EVP_DigestUpdate(stamp->md, digest, sizeof(digest));
	free(path);
	return ok;
}

/*
 * What a session that is resumed was judged by: with other rules it must not be. Nothing here is of
 * one machine only (addresses, names of files), so that others with the same rules agree.
 */
static bool stamp_rules(struct stamper *stamp, struct tls_digest_cache *digests,
			const struct tls_domain *d)
{
	const struct tls_settings *s = &d->settings;

	EVP_DigestUpdate(stamp->md, &d->role, sizeof(d->role));
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

static bool make_rules_stamp(const struct builder *b, const struct tls_domain *d, uint8_t *digest)
{
	const str *session_id = &b->source->cfg->session_id;
	/* OpenSSL refuses the handshake when a session was compressed and may not be any more. */
	uint8_t compresses = !b->source->cfg->disable_compression;
	struct stamper stamp;
	bool ok = stamp_begin(&stamp, b->source->dir);

	ok = ok && EVP_DigestUpdate(stamp.md, session_id->s, (size_t)session_id->len) &&
	     EVP_DigestUpdate(stamp.md, &compresses, sizeof(compresses)) &&
	     stamp_rules(&stamp, b->digests, d);
	return stamp_end(&stamp, ok, digest);
}

/* Everything that an SSL_CTX depends on, in one digest: equal stamps, equal contexts. */
static bool make_stamp(const struct tls_domain_source *source, const struct tls_domain *d,
		       uint8_t *digest, bool *settled)
{
	const struct tls_settings *s = &d->settings;
	struct stamper stamp;
	bool ok = stamp_begin(&stamp, source->dir);

	if (ok) {
		stamp_settings(&stamp, d);
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

static void material_unref(struct tls_material *m)
{
	if (!m || atomic_fetch_sub(&m->refs, 1) != 1)
		return;
	SSL_CTX_free(m->ctx);
	X509_free(m->shown[0]);
	X509_free(m->shown[1]);
	free(m);
}

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
	memcpy(m->stamp, stamp, STAMP_SIZE);
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

static SSL_CTX *make_context(const struct builder *b, const struct tls_domain *d, X509 **shown,
			     struct tls_report *report)
{
	uint8_t rules[STAMP_SIZE];
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
	if (make_rules_stamp(b, d, rules))
		return tls_context_new(&input, report);
	tls_report_error(report, "out of memory");
	return NULL;
}

/* True when the key was read with rights that this process gave up. Then the stamp must do, even
 * where the file is so new that it may have changed within it. */
static bool key_is_closed(const struct builder *b, const struct tls_settings *s)
{
	const char *name = s->private_key ? s->private_key : s->certificate;
	char *path = name ? tls_context_path(b->source->dir, name) : NULL;
	bool closed = path && access(path, R_OK) != 0 && errno == EACCES;

	free(path);
	return closed;
}

/* Notes when a domain's files are not what they were before they were read: its stamp, its session
 * context and its SSL_CTX may then be of different times. */
static void check_unchanged(struct builder *b, const struct tls_domain *d, const uint8_t *before)
{
	uint8_t stamp[STAMP_SIZE];
	bool settled;

	if (make_stamp(b->source, d, stamp, &settled) && memcmp(before, stamp, STAMP_SIZE) != 0)
		atomic_store(&b->changed, true);
}

/* Gives a domain its material: the one it had before, if nothing changed, or a new one. */
static void build_material(struct builder *b, struct tls_domain *d, struct tls_report *report)
{
	const struct tls_domain *before = domain_before(b, d);
	X509 *shown[2] = {NULL, NULL};
	uint8_t stamp[STAMP_SIZE];
	bool settled;
	SSL_CTX *ctx;

	if (!make_stamp(b->source, d, stamp, &settled)) {
		tls_report_error(report, "out of memory");
		return;
	}
	if (before && memcmp(before->material->stamp, stamp, STAMP_SIZE) == 0 &&
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

static void ident_unref(struct tls_domain_ident *ident)
{
	if (!ident || atomic_fetch_sub(&ident->refs, 1) != 1)
		return;
	ident->gone(ident->id);
	free(ident);
}

static struct tls_domain_ident *ident_new(const struct tls_domain_source *source, const char *name)
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

/* ---- the index ---- */

/*
 * Search keys: "s|ADDRESS|NAME" and "c|ADDRESS|NAME", NAME empty for a domain without one and
 * ADDRESS "any" for any; and "i|SERVER_ID". Returns the domain that has the key already.
 */
static const struct tls_domain *add_key(struct builder *b, const char *kind, const char *address,
					const char *name, struct tls_domain *d)
{
	const struct tls_domain *before;
	char *key = NULL;

	if (asprintf(&key, "%s|%s%s%s", kind, address, address[0] ? "|" : "", name) < 0) {
		tls_report_error(b->report, "out of memory");
		return NULL;
	}
	lower(key);
	before = tls_map_add(b->set->index, key, d);
	if (before)
		free(key);
	else
		b->set->keys[b->set->key_count++] = key;
	return before;
}

/* A server_id names one section. */
static void add_server_id(struct builder *b, struct tls_domain *d)
{
	const struct tls_domain *before = add_key(b, "i", "", d->settings.server_id, d);

	if (before)
		tls_report_error(b->report,
				 "%s:%u: server_id '%s' is that of the section at %s:%u already",
				 d->place.file, d->place.line, d->settings.server_id,
				 before->place.file, before->place.line);
}

/*
 * A client section is found by its address also without a name: server_name is then what it
 * asks for. Where several stand at one address, the one without a name is meant.
 */
static void index_client(struct builder *b, struct tls_domain *d, const char *address, bool named)
{
	const struct tls_settings *s = &d->settings;

	if (named && s->server_id)
		add_server_id(b, d);
	if (named && s->server_name)
		add_key(b, "c", address, s->server_name, d);
	if (!s->server_id && d->scope == TLS_CONFIG_ADDRESS && named == (s->server_name != NULL))
		add_key(b, "c", address, "", d);
}

static void index_domain(struct builder *b, struct tls_domain *d, bool named)
{
	char text[TLS_ADDRESS_TEXT];
	const char *address = address_key(d, text);
	const char *name = d->settings.server_name;

	if (d->role == TLS_ROLE_CLIENT)
		index_client(b, d, address, named);
	else if (named && d->scope != TLS_CONFIG_DEFAULT)
		add_key(b, "s", address, name ? name : "", d);
}

/* Client sections without a name come first, so that one of them gets its address's key. */
static void build_index(struct builder *b)
{
	struct tls_domain_set *set = b->set;

	set->index = tls_map_new(3 * set->count + 1);
	set->keys = calloc(3 * set->count + 1, sizeof(*set->keys));
	if (!set->index || !set->keys) {
		tls_report_error(b->report, "out of memory");
		return;
	}
	for (int named = 0; named <= 1; named++)
		for (size_t i = 0; i < set->count; i++)
			index_domain(b, &set->domains[i], named);
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

const struct tls_domain *tls_domain_find_server(const struct tls_domain_set *set,
						const struct tls_address *local, const char *name,
						bool *unknown_name)
{
	char keys[2][TLS_ADDRESS_TEXT] = {"", ""};
	struct tls_domain *d = NULL;

	*unknown_name = false;
	if (set->key_count > 0)
		address_keys(local, keys);
	for (int i = 0; i < 2 && name && !d; i++)
		d = look_up_name(set, "s", keys[i], name);
	if (d)
		return d;
	for (int i = 0; i < 2 && !d; i++)
		d = look_up(set, "s", keys[i], "");
	if (!d && name && (d = look_up_name(set, "s", "any", name)))
		return d;
	if (!d)
		d = set->server_default;
	*unknown_name =
		name && d && d->settings.refuse_unknown_name &&
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
}

/* Keys of a file are read each time; generated ones go on from set to set. */
static void build_tickets(struct builder *b)
{
	const str *name = &b->source->cfg->session_ticket_keys;
	struct tls_ticket_keys *before = b->source->previous ? b->source->previous->tickets : NULL;
	char *path = name->len > 0 ? tls_context_path(b->source->dir, name->s) : NULL;

	if (path)
		b->set->tickets = tls_ticket_keys_read(path, b->report);
	else if (name->len <= 0 && before && tls_ticket_keys_generated(before))
		b->set->tickets = tls_ticket_keys_ref(before);
	else if (name->len <= 0)
		b->set->tickets = tls_ticket_keys_new();
	free(path);
	if (!b->set->tickets && b->report->errors == 0)
		tls_report_error(b->report, "out of memory");
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
		build_index(b);
	if (!b->report->errors)
		build_idents(b);
}

struct tls_domain_set *tls_domain_set_new(const struct tls_domain_source *source,
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
		char *path = name ? tls_context_path(dir, name) : NULL;
		char reason[256];

		if (path && access(path, X_OK) != 0)
			tls_report_error(report, "%s: ca_path: cannot read directory '%s': %s",
					 set->domains[i].name, path,
					 tls_file_reason(errno, reason, sizeof(reason)));
		free(path);
	}
	return report->errors == errors ? 0 : -1;
}
