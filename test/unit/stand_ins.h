/* SPDX-License-Identifier: ISC */
/*
 * What stand-ins for functions of libcrypto are made of. They are found before its own, count their
 * calls, and one of these fails when told to. Where there are providers, what one shows of its
 * functions are stand-ins, too. Hidden, so that they stand in for calls of the program itself only:
 * what EVP calls stays as it is.
 */
#ifndef TEST_UNIT_STAND_INS_H
#define TEST_UNIT_STAND_INS_H

#include "tls_compat.h"

#include <strings.h>
#if TLS_HAVE_PROVIDERS
#include <openssl/core_dispatch.h>
#include <openssl/provider.h>
#endif

#define HIDDEN __attribute__((visibility("hidden")))

#define REAL(type, name, params)                                                                   \
	static type(*real) params;                                                                 \
	if (!real)                                                                                 \
	real = dlsym(RTLD_NEXT, #name)

/* ---- what fails ---- */

/* The calls of this thread, and the number of the one that fails; 0: none. */
static __thread int calls, call_fails;
/* Likewise while spare is set: a way is looked for, beside which there is another, or a key is
 * forgotten. What fails then fails nothing that was asked for. */
static __thread int spare_calls, spare_call_fails;
static __thread bool spare;

/* What it returns, if that is a number, and what it does before. */
static __attribute__((unused)) int failure;
static void (*add_error)(void) = raise_error;

static inline bool call_may_succeed(void)
{
	int *fails = spare ? &spare_call_fails : &call_fails;

	(*(spare ? &spare_calls : &calls))++;
	if (*fails == 0 || --*fails != 0)
		return true;
	add_error();
	return false;
}

/* The result of a call that gives a number. When that is more than 1, the call has done its work,
 * but has not said so: only 1 means success. */
#define RESULT(call) (call_may_succeed() ? (call) : failure > 1 ? ((void)(call), failure) : failure)

#define STAND_IN_NOTING(type, name, params, args, failure, note)                                   \
	HIDDEN type name params                                                                    \
	{                                                                                          \
		REAL(type, name, params);                                                          \
                                                                                                   \
		note;                                                                              \
		return call_may_succeed() ? real args : (failure);                                 \
	}
#define STAND_IN(type, name, params, args, failure)                                                \
	STAND_IN_NOTING(type, name, params, args, failure, (void)0)

/* For what gives a number, for what makes an object, and for what frees it. */
#define STAND_IN_RESULT(name, params, args)                                                        \
	HIDDEN int name params                                                                     \
	{                                                                                          \
		REAL(int, name, params);                                                           \
                                                                                                   \
		return RESULT(real args);                                                          \
	}
#define STAND_IN_MAKING(type, name, params, args, count)                                           \
	HIDDEN type *name params                                                                   \
	{                                                                                          \
		REAL(type *, name, params);                                                        \
		type *made = call_may_succeed() ? real args : NULL;                                \
                                                                                                   \
		(count) += made != NULL;                                                           \
		return made;                                                                       \
	}
#define STAND_IN_FREEING(type, name, count)                                                        \
	HIDDEN void name(type *object)                                                             \
	{                                                                                          \
		REAL(void, name, (type *));                                                        \
                                                                                                   \
		(count) -= object != NULL;                                                         \
		real(object);                                                                      \
	}

#if TLS_HAVE_PROVIDERS

/* The module sets a mark among the errors where it begins to look for a way. */
HIDDEN int ERR_set_mark(void)
{
	REAL(int, ERR_set_mark, (void));

	spare = true;
	return real();
}

HIDDEN int ERR_pop_to_mark(void)
{
	REAL(int, ERR_pop_to_mark, (void));

	spare = false;
	return real();
}

/* ---- what a provider shows ---- */

#define SHOWN_MAX      6   /* algorithms that a program has stand-ins for */
#define TABLE_MAX      64  /* functions of one */
#define ALGORITHMS_MAX 256 /* of an operation */

/* A function of a provider's, where it is noted, and the one in its place. */
struct shown_function {
	int id;
	void (**real)(void);
	void (*noting)(void);
};

struct shown_algorithm {
	int operation;
	const char *name; /* the provider's first one for it */
	const struct shown_function *functions;
	size_t count;
};

/* The program's; NULL when there are no more. */
static const struct shown_algorithm *shown_algorithm(size_t i);

struct function_id {
	int operation, id;
};

#define EVERY_OPERATION (-1)

/* How what is shown differs from what a provider has; by name, or of all algorithms. */
static struct {
	const char *name;
	int hidden;                 /* the operation that has no such algorithm */
	int twice;                  /* the one that has two of them */
	struct function_id missing; /* the function that is not there */
	struct function_id other;   /* the one in whose place by is called */
	void (*by)(void);
} shown;

static __thread const void *provider_ctx; /* of the provider that was asked last */
static __thread int open_queries;         /* whose answers are still being looked at */
static __thread OSSL_DISPATCH tables[SHOWN_MAX][TABLE_MAX];
static __thread OSSL_ALGORITHM algorithms[ALGORITHMS_MAX];

static bool is_shown_function(const struct function_id *a, int operation, int id)
{
	return a->operation == operation && a->id == id;
}

static bool differs(const struct shown_algorithm *shows)
{
	return !shown.name || strcmp(shown.name, shows->name) == 0;
}

static void table_fill(OSSL_DISPATCH *table, const struct shown_algorithm *shows,
		       const OSSL_DISPATCH *from)
{
	size_t n = 0;

	for (; from->function_id != 0; from++) {
		int id = from->function_id;

		if (differs(shows) && is_shown_function(&shown.missing, shows->operation, id))
			continue;
		assert_true(n < TABLE_MAX - 1);
		table[n] = *from;
		for (size_t i = 0; i < shows->count; i++) {
			if (shows->functions[i].id == id) {
				*shows->functions[i].real = from->function;
				table[n].function = shows->functions[i].noting;
			}
		}
		if (differs(shows) && is_shown_function(&shown.other, shows->operation, id))
			table[n].function = shown.by;
		n++;
	}
	memset(&table[n], 0, sizeof(table[n]));
}

/* The number of the program's algorithm that this one is, or -1. */
static int which_algorithm(int operation, const char *names)
{
	const struct shown_algorithm *shows;

	for (int i = 0; (shows = shown_algorithm((size_t)i)); i++) {
		size_t len = strlen(shows->name);

		if (operation == shows->operation && strncasecmp(names, shows->name, len) == 0 &&
		    strchr(":", names[len]))
			return i;
	}
	return -1;
}

static bool has_stand_ins(int operation)
{
	const struct shown_algorithm *shows;

	for (size_t i = 0; (shows = shown_algorithm(i)); i++)
		if (shows->operation == operation)
			return true;
	return false;
}

/* Adds what is shown of one algorithm. Returns how many there are then. */
static size_t algorithm_add(size_t n, int operation, const OSSL_ALGORITHM *from)
{
	int which = which_algorithm(operation, from->algorithm_names);
	const struct shown_algorithm *shows = which < 0 ? NULL : shown_algorithm((size_t)which);
	bool hidden = shown.hidden == operation || shown.hidden == EVERY_OPERATION;

	if (shows && differs(shows) && hidden)
		return n;
	assert_true(n < ALGORITHMS_MAX - 2);
	algorithms[n] = *from;
	if (!shows)
		return n + 1;
	assert_true(which < SHOWN_MAX);
	table_fill(tables[which], shows, from->implementation);
	algorithms[n++].implementation = tables[which];
	if (differs(shows) && shown.twice == operation) {
		algorithms[n] = algorithms[n - 1];
		n++;
	}
	return n;
}

HIDDEN const OSSL_ALGORITHM *OSSL_PROVIDER_query_operation(const OSSL_PROVIDER *provider,
							   int operation, int *no_cache)
{
	REAL(const OSSL_ALGORITHM *, OSSL_PROVIDER_query_operation,
	     (const OSSL_PROVIDER *, int, int *));
	const OSSL_ALGORITHM *from = real(provider, operation, no_cache);
	size_t n = 0;

	if (!has_stand_ins(operation))
		return from;
	assert_int_equal(open_queries, 0);
	open_queries++;
	provider_ctx = OSSL_PROVIDER_get0_provider_ctx(provider);
	for (; from->algorithm_names; from++)
		n = algorithm_add(n, operation, from);
	memset(&algorithms[n], 0, sizeof(algorithms[n]));
	return algorithms;
}

HIDDEN void OSSL_PROVIDER_unquery_operation(const OSSL_PROVIDER *provider, int operation,
					    const OSSL_ALGORITHM *given)
{
	REAL(void, OSSL_PROVIDER_unquery_operation,
	     (const OSSL_PROVIDER *, int, const OSSL_ALGORITHM *));

	if (!has_stand_ins(operation)) {
		real(provider, operation, given);
		return;
	}
	assert_ptr_equal(given, algorithms);
	open_queries--;
	/* Nobody may look into them any more. */
	memset(tables, 0xff, sizeof(tables));
	memset(algorithms, 0xff, sizeof(algorithms));
}

#endif

#endif
