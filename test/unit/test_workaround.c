/* SPDX-License-Identifier: ISC */
/*
 * Units of the table of workarounds and of the checks of the library: made-up
 * libraries, what is decided about them and what is said.
 *
 *   gcc -I../.. test_workaround.c ../../tls_workaround.c ../../tls_report.c -lcmocka -lssl -lcrypto
 */
#include "tls_compat.h"
#include "tls_workaround.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/ssl.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct tls_workaround_wish everything = {true, true};

struct row {
	unsigned long number;
	const char *ids; /* of the rows in force, apart from what only the wish decides */
};

static const struct row rows[] = {
	{0x0090802fUL, "1204, 1467, 6214, 6109, CVE-2021-3449"}, /* 0.9.8b */
	{0x0090803fUL, "1204, 1467, 6214, 6109, CVE-2021-3449"}, /* 0.9.8c */
	{0x0090804fUL, "1467, 6214, 6109, CVE-2021-3449"},       /* 0.9.8d */
	{0x0090805fUL, "6214, 6109, CVE-2021-3449"},             /* 0.9.8e */
	{0x1010100fUL, "6214, 6109, CVE-2021-3449"},             /* 1.1.1 */
	{0x101010afUL, "6214, 6109, CVE-2021-3449"},             /* 1.1.1j */
	{0x101010bfUL, "6214, 6109"},                            /* 1.1.1k */
	{0x1010117fUL, "6214, 6109"},                            /* 1.1.1w */
	{0x30000000UL, "6214, 6109, 15199, 17064, 10787, CVE-2024-6119"},
	{0x300000e0UL, "6214, 6109, 15199, 17064, 10787, CVE-2024-6119"}, /* 3.0.14 */
	{0x300000f0UL, "6214, 6109, 15199, 17064, 10787"},                /* 3.0.15 */
	{0x30000130UL, "6214, 6109, 15199, 17064, 10787"},                /* 3.0.19 */
	{0x30100060UL, "6214, 6109, 15199, 17064, 10787, CVE-2024-6119"},
	{0x30100070UL, "6214, 6109, 15199, 17064, 10787"},
	{0x30200020UL, "6214, 6109, 15199, 17064, 10787, CVE-2024-6119, CVE-2025-66199"},
	{0x30200030UL, "6214, 6109, 15199, 17064, 10787, CVE-2025-66199"},
	{0x30300010UL, "6214, 6109, 15199, 17064, 10787, CVE-2024-6119, CVE-2025-66199"},
	{0x30300020UL, "6214, 6109, 15199, 17064, 10787, CVE-2025-66199"},
	{0x30300050UL, "6214, 6109, 15199, 17064, 10787, CVE-2025-66199"},
	{0x30300060UL, "6214, 6109, 15199, 17064, 10787"},
	{0x30400030UL, "6214, 6109, 15199, 17064, 10787, CVE-2025-66199"},
	{0x30400040UL, "6214, 6109, 15199, 17064, 10787"},
	{0x30500040UL, "6214, 6109, 15199, 17064, 10787, CVE-2025-66199"},
	{0x30500050UL, "6214, 6109, 15199, 17064, 10787"},
	{0x30600000UL, "6214, 6109, 15199, 17064, 10787, CVE-2025-66199"},
	{0x30600010UL, "6214, 6109, 15199, 17064, 10787"},
	{0x40000000UL, "6109, 15199, 17064, 10787"},
};

static const char *chosen(const struct tls_library *library, const struct tls_workaround_wish *wish)
{
	tls_workaround_enable(tls_workaround_choose(library, wish));
	return tls_workaround_list(false);
}

static void test_versions(void **state)
{
	const struct tls_workaround_wish nothing = {false, false};

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		struct tls_library library = {.number = rows[i].number, .text = "made up"};

		assert_string_equal(chosen(&library, &nothing), rows[i].ids);
	}
}

static void test_wishes(void **state)
{
	struct tls_library library = {.number = 0x30000130UL, .text = "made up"};
	struct tls_workaround_wish wish = {true, false};

	(void)state;
	assert_string_equal(chosen(&library, &wish), "1468, 6214, 6109, 15199, 17064, 10787");
	wish = (struct tls_workaround_wish){false, true};
	assert_string_equal(chosen(&library, &wish), "1491, 6214, 6109, 15199, 17064, 10787");
	library.switches_whole = true;
	assert_string_equal(chosen(&library, &everything), "1468, 1491, 6214, 15199, 17064, 10787");
	assert_non_null(strstr(tls_workaround_list(true), "1491 (no recovery from a lack of "));
}

static void test_on(void **state)
{
	(void)state;
	tls_workaround_enable(UINT32_C(1) << TLS_WORKAROUND_OLD_VERSIONS);
	for (int i = 0; i < TLS_WORKAROUNDS; i++)
		assert_int_equal(tls_workaround_on(i), i == TLS_WORKAROUND_OLD_VERSIONS);
	tls_workaround_enable(0);
	assert_string_equal(tls_workaround_list(true), "");
	tls_workaround_enable(UINT32_MAX);
	for (int i = 0; i < TLS_WORKAROUNDS; i++)
		assert_true(tls_workaround_on(i));
	/* All of them fit. */
	assert_non_null(strstr(tls_workaround_list(true), "(memory for compressed certificates)"));
}

static void check(const struct tls_library *library, bool force, struct tls_report *report)
{
	*report = (struct tls_report){0};
	tls_workaround_check(library, force, report);
	if (report->text) {
		assert_non_null(strstr(report->text, library->text));
		assert_non_null(strstr(report->text, TLS_BUILD_OPENSSL_TEXT));
	}
}

static void expect(const struct tls_library *library, unsigned problems, const char *needle)
{
	struct tls_report report;

	check(library, false, &report);
	assert_int_equal(report.errors, problems);
	assert_int_equal(report.warnings, 0);
	if (problems) {
		assert_non_null(strstr(report.text, needle));
		assert_non_null(strstr(report.text, "tls_force_run"));
	}
	tls_report_free(&report);
	check(library, true, &report);
	assert_int_equal(report.errors, 0);
	assert_int_equal(report.warnings, problems);
	if (problems)
		assert_non_null(strstr(report.text, "because tls_force_run is set"));
	tls_report_free(&report);
}

static void test_lines(void **state)
{
	static const struct {
		unsigned long number;
		const char *text;
	} others[] = {
		{0x0090805fUL, "OpenSSL 0.9.8e"}, {0x1010117fUL, "OpenSSL 1.1.1w"},
		{0x30100000UL, "OpenSSL 3.1.0"},  {0x30500050UL, "OpenSSL 3.5.5"},
		{0x40000000UL, "OpenSSL 4.0.0"},
	};

	(void)state;
	for (size_t i = 0; i < COUNT(others); i++) {
		struct tls_library library = {.number = others[i].number, .text = others[i].text};
		bool same = TLS_OPENSSL_LINE(library.number) ==
			    TLS_OPENSSL_LINE(TLS_BUILD_OPENSSL_NUMBER);

		expect(&library, !same, "compile it again on this machine");
	}
	/* Since 3.0 the third number is the patch level; before it was a letter. */
	assert_int_equal(TLS_OPENSSL_LINE(0x30000130UL), TLS_OPENSSL_LINE(0x300000f0UL));
	assert_int_not_equal(TLS_OPENSSL_LINE(0x30000130UL), TLS_OPENSSL_LINE(0x30100130UL));
	assert_int_equal(TLS_OPENSSL_LINE(0x1010100fUL), TLS_OPENSSL_LINE(0x1010117fUL));
	assert_int_not_equal(TLS_OPENSSL_LINE(0x1010100fUL), TLS_OPENSSL_LINE(0x1010000fUL));
	assert_int_not_equal(TLS_OPENSSL_LINE(0x0090805fUL), TLS_OPENSSL_LINE(0x0090900fUL));
}

static void test_missing(void **state)
{
	struct tls_library library = {.number = TLS_BUILD_OPENSSL_NUMBER,
				      .text = "OpenSSL here",
				      .missing = "AES-256-GCM, TLS1-PRF"};

	(void)state;
	expect(&library, 1, "lacks AES-256-GCM, TLS1-PRF,");
	library.number ^= 0x10000000UL;
	expect(&library, 2, "lacks AES-256-GCM, TLS1-PRF,");
	library.number = TLS_BUILD_OPENSSL_NUMBER;
	library.missing[0] = '\0';
	expect(&library, 0, "");
}

/* The library that the tests run with has everything. */
static void test_probe(void **state)
{
	struct tls_library library;

	(void)state;
	memset(&library, 0xa5, sizeof(library));
	tls_library_probe(&library);
	assert_int_equal(library.number, OpenSSL_version_num());
	assert_string_equal(library.text, OpenSSL_version(OPENSSL_VERSION));
	assert_string_equal(library.missing, "");
	assert_false(library.switches_whole);
	expect(&library, 0, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_versions), cmocka_unit_test(test_wishes),
		cmocka_unit_test(test_on),       cmocka_unit_test(test_lines),
		cmocka_unit_test(test_missing),  cmocka_unit_test(test_probe),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
