/* SPDX-License-Identifier: ISC */
#include "tls_expiry.h"

#include "tls_compat.h"

#include <openssl/x509.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A path, or the name of a domain, and a key. */
#define PLACE_TEXT (4096 + 64)
#define DAY        86400

/* One of a domain's two certificates. */
struct ending {
	const struct tls_domain *domain;
	unsigned which;
	int64_t left; /* seconds */
};

struct endings {
	struct ending *rows;
	size_t count, room;
};

int64_t tls_expiry_left(const X509 *cert)
{
	int64_t left = 0;

	tls_time_left(X509_get0_notAfter(cert), &left);
	return left;
}

static const char *file_of(const struct ending *e)
{
	const struct tls_settings *s = &e->domain->settings;
	const char *file = e->which ? s->certificate2 : s->certificate;

	return file ? file : "";
}

/* By file; of one file the domain that the configuration has first. */
static int compare(const void *a, const void *b)
{
	const struct ending *x = a, *y = b;
	int order = strcmp(file_of(x), file_of(y));

	return order ? order : (x->domain > y->domain) - (x->domain < y->domain);
}

static bool add(struct endings *list, const struct ending *e)
{
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 16;
		struct ending *rows = realloc(list->rows, room * sizeof(*rows));

		if (!rows)
			return false;
		list->rows = rows;
		list->room = room;
	}
	list->rows[list->count++] = *e;
	return true;
}

/* Where the file is named, in the form of all messages about a configuration. */
static const char *place_of(const struct ending *e, char *text, size_t size)
{
	const struct tls_domain *d = e->domain;
	const char *key = e->which ? "certificate2" : "certificate";
	const struct tls_place *place = e->which ? &d->places.certificate2 : &d->places.certificate;

	if (!place->file)
		place = &d->place;
	if (place->file)
		snprintf(text, size, "%s:%u: %s", place->file, place->line, key);
	else
		snprintf(text, size, "%s: parameter %s", d->name, key);
	return text;
}

static const char *when(int64_t left, char *text, size_t size)
{
	long days = (long)((left < 0 ? -left : left) / DAY);

	if (left < 0)
		snprintf(text, size, "expired %ld day%s ago", days, days == 1 ? "" : "s");
	else if (days == 0)
		snprintf(text, size, "expires in less than a day");
	else
		snprintf(text, size, "expires in %ld day%s", days, days == 1 ? "" : "s");
	return text;
}

/* Warns of a file, which more domains than the given one show. */
static void warn(const struct ending *e, size_t more, struct tls_report *report)
{
	char place[PLACE_TEXT], subject[256], ends[64], others[64] = "";

	if (more > 0)
		snprintf(others, sizeof(others), " and %zu more", more);
	tls_report_warning(
		report, "%s: file '%s': certificate '%s' of domain %s%s %s",
		place_of(e, place, sizeof(place)), file_of(e),
		tls_identity_subject(e->domain->shown[e->which], subject, sizeof(subject)),
		e->domain->name, others, when(e->left, ends, sizeof(ends)));
}

static void warn_all(struct endings *list, struct tls_report *report)
{
	if (list->count > 0)
		qsort(list->rows, list->count, sizeof(*list->rows), compare);
	for (size_t i = 0, next; i < list->count; i = next) {
		for (next = i + 1; next < list->count; next++)
			if (strcmp(file_of(&list->rows[next]), file_of(&list->rows[i])) != 0)
				break;
		warn(&list->rows[i], next - i - 1, report);
	}
}

int64_t tls_expiry_look(const struct tls_domain_set *set, bool with_ended,
			struct tls_report *report)
{
	struct endings list = {0};
	int64_t first = TLS_EXPIRY_NONE;

	for (size_t i = 0; i < 2 * set->count; i++) {
		struct ending e = {.domain = &set->domains[i / 2], .which = i % 2};

		if (!e.domain->shown || !e.domain->shown[e.which])
			continue;
		e.left = tls_expiry_left(e.domain->shown[e.which]);
		if (e.left < first)
			first = e.left;
		if (e.left < TLS_EXPIRY_SOON && (e.left >= 0 || with_ended) && !add(&list, &e))
			tls_report_warning(report, "out of memory");
	}
	warn_all(&list, report);
	free(list.rows);
	return first;
}

bool tls_expiry_is_due(int64_t now, int64_t *last)
{
	bool due = *last > 0 && now >= *last + DAY;

	if (*last == 0 || now < *last || due)
		*last = now;
	return due;
}
