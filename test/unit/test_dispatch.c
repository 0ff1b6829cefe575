/* SPDX-License-Identifier: ISC */
/*
 * Units of how a provider's functions are found, in tables that are made up:
 *
 *   gcc -I. -I../.. test_dispatch.c ../../tls_dispatch.c -lcmocka -lcrypto
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tls_dispatch.h"

#include "tls_compat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#if TLS_HAVE_PROVIDERS

#include <openssl/provider.h>

#define HIDDEN    __attribute__((visibility("hidden")))
#define OPERATION 7

/* ---- a provider ---- */

static int it; /* only its place counts */
static const OSSL_PROVIDER *const the_provider = (const OSSL_PROVIDER *)&it;

static void one(void)
{
}

static void two(void)
{
}

static void three(void)
{
}

static const OSSL_DISPATCH first_functions[] = {{5, one}, {3, two}, {8, one}, {0, NULL}};
static const OSSL_DISPATCH second_functions[] = {{3, three}, {0, NULL}};
static const OSSL_DISPATCH no_functions[] = {{0, NULL}};

/* Good only between query and unquery. */
static OSSL_DISPATCH tables[3][COUNT(first_functions)];
static OSSL_ALGORITHM algorithms[4];
static const char *algorithm_names[3]; /* NULL for what is not there */
static bool nothing;                   /* there is no table at all */
static bool not_to_be_kept;            /* none of what is in it */
static unsigned queries, unqueries;

HIDDEN const OSSL_ALGORITHM *OSSL_PROVIDER_query_operation(const OSSL_PROVIDER *provider,
							   int operation, int *no_cache)
{
	assert_ptr_equal(provider, the_provider);
	assert_int_equal(operation, OPERATION);
	if (not_to_be_kept)
		*no_cache = 1;
	queries++;
	memset(algorithms, 0, sizeof(algorithms));
	memcpy(tables[0], first_functions, sizeof(first_functions));
	memcpy(tables[1], second_functions, sizeof(second_functions));
	memcpy(tables[2], no_functions, sizeof(no_functions));
	for (size_t i = 0; i < COUNT(algorithm_names) && algorithm_names[i]; i++) {
		algorithms[i].algorithm_names = algorithm_names[i];
		algorithms[i].implementation = tables[i];
	}
	return nothing ? NULL : algorithms;
}

HIDDEN void OSSL_PROVIDER_unquery_operation(const OSSL_PROVIDER *provider, int operation,
					    const OSSL_ALGORITHM *given)
{
	assert_ptr_equal(provider, the_provider);
	assert_int_equal(operation, OPERATION);
	assert_ptr_equal(given, algorithms);
	unqueries++;
	memset(tables, 0xff, sizeof(tables));
	memset(algorithms, 0xff, sizeof(algorithms));
}

/* ---- what is found in it ---- */

static struct found {
	void (*three)(void), (*before)(void), (*five)(void);
} found;

static const struct tls_dispatch both[] = {
	{5, offsetof(struct found, five)},
	{3, offsetof(struct found, three)},
	{0, 0},
};
static const struct tls_dispatch three_only[] = {{3, offsetof(struct found, three)}, {0, 0}};
static const struct tls_dispatch none[] = {{0, 0}};

/* Whatever is found, the provider gets its table back. */
static bool look_for(const char *name, const struct tls_dispatch *wanted)
{
	bool ok;

	memset(&found, 0, sizeof(found));
	queries = unqueries = 0;
	ok = tls_dispatch_find(the_provider, OPERATION, name, wanted, &found);
	assert_int_equal(queries, 1);
	assert_int_equal(unqueries, nothing ? 0 : 1);
	assert_null(found.before);
	return ok;
}

static void assert_found(void (*of_three)(void), void (*of_five)(void))
{
	assert_ptr_equal(found.three, of_three);
	assert_ptr_equal(found.five, of_five);
}

static void set_names(const char *first, const char *second, const char *third)
{
	algorithm_names[0] = first;
	algorithm_names[1] = second;
	algorithm_names[2] = third;
}

static void test_functions(void **state)
{
	(void)state;
	set_names("A:1.2.3", "B", "C");
	assert_true(look_for("A", both));
	assert_found(two, one);
	assert_true(look_for("1.2.3", three_only));
	assert_found(two, NULL);
	assert_true(look_for("B", three_only));
	assert_found(three, NULL);
	assert_true(look_for("C", none));
	assert_found(NULL, NULL);
	assert_false(look_for("D", none));
}

static void test_function_is_missing(void **state)
{
	(void)state;
	set_names("A", "B", "C");
	assert_false(look_for("B", both));
	assert_false(look_for("C", three_only));
	assert_found(NULL, NULL);
}

static void test_not_to_be_kept(void **state)
{
	(void)state;
	set_names("A", "B", "C");
	not_to_be_kept = true;
	assert_false(look_for("A", both));
	assert_found(NULL, NULL);
	not_to_be_kept = false;
	assert_true(look_for("A", both));
}

/* There is no telling which of them EVP uses. */
static void test_two_of_a_name(void **state)
{
	(void)state;
	set_names("A:B", "B", "C");
	assert_false(look_for("B", three_only));
	assert_found(NULL, NULL);
	assert_true(look_for("A", three_only));
	set_names("A", "C", "b:A");
	assert_false(look_for("A", three_only));
	assert_true(look_for("B", none));
	set_names("A", "A", "A");
	assert_false(look_for("A", three_only));
}

static void test_no_table(void **state)
{
	(void)state;
	set_names(NULL, NULL, NULL);
	assert_false(look_for("A", none));
	nothing = true;
	assert_false(look_for("A", none));
	nothing = false;
}

static void test_names(void **state)
{
	static const struct {
		const char *names;
		bool found;
	} rows[] = {
		{"AES-128-GCM", true},
		{"aes-128-gcm", true},
		{"one:AES-128-GCM", true},
		{"AES-128-GCM:one", true},
		{"a:b:AES-128-gcm:c", true},
		{"AES-128-GCM-SIV:AES-128-GCM", true},
		{"AES-128-GCM-SIV", false},
		{"XAES-128-GCM", false},
		{"AES-128-GC", false},
		{"", false},
		{":", false},
		{"AES-128-CCM:AES-256-GCM", false},
		{"one:XAES-128-GCM", false},
		{"one:AES-128-GC", false},
	};

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		set_names("other", rows[i].names, NULL);
		if (look_for("AES-128-GCM", three_only) != rows[i].found)
			fail_msg("%s: %d", rows[i].names, !rows[i].found);
		assert_found(rows[i].found ? three : NULL, NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_functions),      cmocka_unit_test(test_function_is_missing),
		cmocka_unit_test(test_not_to_be_kept), cmocka_unit_test(test_two_of_a_name),
		cmocka_unit_test(test_no_table),       cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
	return 0;
}

#endif
