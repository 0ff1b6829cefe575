/* SPDX-License-Identifier: ISC */
/*
 * Units of the warnings of certificates that end: which are told, in which
 * words, and when again.
 */
#include "tls_expiry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/x509.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define DAY      86400L
#define HOUR     3600L

static X509 *make_cert(const char *cn, long seconds)
{
	X509 *cert = X509_new();
	X509_NAME *subject = X509_NAME_new();

	X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)cn, -1, -1,
				   0);
	X509_set_subject_name(cert, subject);
	X509_NAME_free(subject);
	X509_gmtime_adj(X509_getm_notAfter(cert), seconds);
	return cert;
}

/* A domain with one certificate, in the given file. */
static struct tls_domain make_domain(const char *name, const char *file, X509 **shown)
{
	struct tls_domain d = {.shown = shown};

	snprintf(d.name, sizeof(d.name), "%s", name);
	d.settings.certificate = (char *)file;
	return d;
}

static void test_words(void **state)
{
	static const struct {
		long left;
		bool with_ended;
		const char *want; /* the end of the warning, NULL: none */
	} rows[] = {
		{14 * DAY + HOUR, true, NULL},
		{14 * DAY - HOUR, false, "expires in 13 days\n"},
		{2 * DAY + HOUR, false, "expires in 2 days\n"},
		{DAY + HOUR, false, "expires in 1 day\n"},
		{HOUR, false, "expires in less than a day\n"},
		{-HOUR, false, NULL},
		{-HOUR, true, "expired 0 days ago\n"},
		{-DAY - HOUR, true, "expired 1 day ago\n"},
		{-30 * DAY - HOUR, true, "expired 30 days ago\n"},
	};

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		X509 *shown[2] = {make_cert("a.example.org", rows[i].left), NULL};
		struct tls_domain d = make_domain("server:default", "a.pem", shown);
		struct tls_domain_set set = {.domains = &d, .count = 1};
		struct tls_report report = {0};
		int64_t first = tls_expiry_look(&set, rows[i].with_ended, &report);
		char want[256];

		assert_true(first <= rows[i].left && first > rows[i].left - 60);
		snprintf(want, sizeof(want),
			 "W server:default: parameter certificate: file 'a.pem': certificate "
			 "'CN=a.example.org' of domain server:default %s",
			 rows[i].want ? rows[i].want : "");
		if (rows[i].want)
			assert_string_equal(report.text, want);
		else
			assert_null(report.text);
		tls_report_free(&report);
		X509_free(shown[0]);
	}
}

/* One line per file; the second certificate is told as such; the first end counts. */
static void test_set(void **state)
{
	X509 *near = make_cert("near", 3 * DAY + HOUR), *far = make_cert("far", 300 * DAY);
	X509 *nearer = make_cert("nearer", 2 * DAY + HOUR);
	X509 *one[2] = {near, NULL}, *two[2] = {far, nearer}, *none[2] = {NULL, NULL};
	struct tls_domain domains[] = {
		make_domain("server:a", "near.pem", one), make_domain("server:b", "far.pem", two),
		make_domain("client:c", NULL, none),      make_domain("server:d", "near.pem", one),
		make_domain("server:e", "near.pem", one),
	};
	struct tls_domain_set set = {.domains = domains, .count = COUNT(domains)};
	struct tls_report report = {0};
	int64_t first;

	(void)state;
	domains[1].settings.certificate2 = (char *)"nearer.pem";
	domains[1].place.file = "tls.cfg";
	domains[1].places.certificate2.file = "tls.cfg";
	domains[1].places.certificate2.line = 7;
	first = tls_expiry_look(&set, false, &report);
	assert_true(first <= 2 * DAY + HOUR && first > 2 * DAY);
	assert_string_equal(
		report.text,
		"W server:a: parameter certificate: file 'near.pem': certificate 'CN=near' of "
		"domain server:a and 2 more expires in 3 days\n"
		"W tls.cfg:7: certificate2: file 'nearer.pem': certificate 'CN=nearer' of domain "
		"server:b expires in 2 days\n");
	tls_report_free(&report);
	set.domains = &domains[2];
	set.count = 1;
	report = (struct tls_report){0};
	assert_true(tls_expiry_look(&set, true, &report) == TLS_EXPIRY_NONE);
	assert_null(report.text);
	X509_free(near);
	X509_free(far);
	X509_free(nearer);
}

static void test_once_a_day(void **state)
{
	const int64_t start = 1800000000;
	int64_t last = 0;
	int told = 0;

	(void)state;
	assert_false(tls_expiry_is_due(start, &last));
	for (int64_t now = start; now <= start + 10 * DAY; now += 10)
		told += tls_expiry_is_due(now, &last);
	assert_int_equal(told, 10);
	/* A clock that jumps over days, and one that is set back. */
	assert_true(tls_expiry_is_due(start + 20 * DAY, &last));
	assert_false(tls_expiry_is_due(start + 20 * DAY + 10, &last));
	assert_false(tls_expiry_is_due(start, &last));
	assert_false(tls_expiry_is_due(start + DAY - 1, &last));
	assert_true(tls_expiry_is_due(start + DAY, &last));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_set),
		cmocka_unit_test(test_once_a_day),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
