/* SPDX-License-Identifier: ISC */
/* Messages about a configuration: what they look like, and what becomes of too many of them. */
#include "tls_report.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_characters(void **state)
{
	static const struct {
		const char *message, *want;
	} rows[] = {
		{"plain \\ text", "plain \\ text"},
		{"two\nlines\r\tmore", "two lines  more"},
		{"\x1b[31m\x7f", "\\x1b[31m\\x7f"},
		{"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x93\x9e",
		 "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x93\x9e"},
		{"\xff\xfe", "\\xff\\xfe"},
		{"cut \xe2\x82", "cut \\xe2\\x82"},
		{"long \xc0\xaf \xe0\x80\xaf \xf0\x80\x80\xaf",
		 "long \\xc0\\xaf \\xe0\\x80\\xaf \\xf0\\x80\\x80\\xaf"},
		{"pair \xed\xa0\x80 \xf4\x90\x80\x80", "pair \\xed\\xa0\\x80 \\xf4\\x90\\x80\\x80"},
		{"", ""},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct tls_report report = {0};
		const char *text, *message;
		char level;
		int len;

		tls_report_warning(&report, "%s", rows[i].message);
		text = report.text;
		len = tls_report_next(&text, &message, &level);
		assert_int_equal(len, strlen(rows[i].want));
		assert_memory_equal(message, rows[i].want, (size_t)len);
		assert_int_equal(level, 'W');
		assert_int_equal(tls_report_next(&text, &message, &level), -1);
		tls_report_free(&report);
	}
}

static void test_long_message(void **state)
{
	struct tls_report report = {0};
	char message[5000];

	(void)state;
	memset(message, '\xff', sizeof(message) - 1);
	message[sizeof(message) - 1] = '\0';
	tls_report_error(&report, "%s", message);
	assert_in_range(report.len, 900, 1024);
	assert_int_equal(report.text[report.len - 1], '\n');
	tls_report_free(&report);
}

static void test_told_once(void **state)
{
	struct tls_report report = {0};

	(void)state;
	for (int i = 0; i < 3; i++)
		tls_report_error(&report, "the same");
	tls_report_error(&report, "same");
	assert_int_equal(report.errors, 2);
	assert_string_equal(report.text, "E the same\nE same\n");
	tls_report_free(&report);
}

static void test_copy(void **state)
{
	struct tls_report report = {0};
	char text[200];

	(void)state;
	assert_int_equal(tls_report_copy(&report, text, sizeof(text)), 0);
	assert_string_equal(text, "");
	for (int i = 0; i < 12; i++) /* lines of 12 bytes */
		tls_report_error(&report, "problem %d%d", i / 10, i % 10);
	for (size_t size = 64; size <= sizeof(text); size++) {
		size_t lines = (size - 64) / 13 < 12 ? (size - 64) / 13 : 12;
		size_t len = tls_report_copy(&report, text, size);
		char last[64];

		assert_int_equal(len, strlen(text));
		assert_true(len < size);
		assert_memory_equal(text, report.text, lines * 13);
		snprintf(last, sizeof(last), "E and %zu more problems\n", 12 - lines);
		assert_string_equal(text + lines * 13, lines < 12 ? last : "");
	}
	tls_report_free(&report);
}

static void test_very_many(void **state)
{
	struct tls_report report = {0}, merged = {0};
	static char text[1 << 20];

	(void)state;
	for (int i = 0; i < 1500; i++)
		tls_report_warning(&report, "problem %d", i);
	assert_int_equal(report.warnings, 1500);
	tls_report_merge(&merged, &report);
	tls_report_copy(&merged, text, sizeof(text));
	assert_non_null(strstr(text, "W problem 999\nW and 500 more problems\n"));
	tls_report_free(&report);
	tls_report_free(&merged);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_characters), cmocka_unit_test(test_long_message),
		cmocka_unit_test(test_told_once),  cmocka_unit_test(test_copy),
		cmocka_unit_test(test_very_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
