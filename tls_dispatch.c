/* SPDX-License-Identifier: ISC */
#include "tls_dispatch.h"

#if TLS_HAVE_PROVIDERS

#include <openssl/provider.h>

#include <string.h>
#include <strings.h>

/* The names of an algorithm are parted by colons, and case does not matter. */
static bool has_name(const char *names, const char *name)
{
	size_t len = strlen(name);

	for (; names; names = strchr(names, ':')) {
		names += *names == ':';
		if (strncasecmp(names, name, len) == 0 && strchr(":", names[len]))
			return true;
	}
	return false;
}

/* The only algorithm of that name. */
static const OSSL_ALGORITHM *only_one(const OSSL_ALGORITHM *all, const char *name)
{
	const OSSL_ALGORITHM *found = NULL;

	for (; all && all->algorithm_names; all++) {
		if (!has_name(all->algorithm_names, name))
			continue;
		if (found)
			return NULL;
		found = all;
	}
	return found;
}

static bool take_function(const OSSL_DISPATCH *table, const struct tls_dispatch *wanted,
			  void *functions)
{
	for (; table->function_id != 0; table++)
		if (table->function_id == wanted->function_id) {
			memcpy((char *)functions + wanted->at, &table->function,
			       sizeof(table->function));
			return true;
		}
	return false;
}

bool tls_dispatch_find(const OSSL_PROVIDER *provider, int operation, const char *name,
		       const struct tls_dispatch *wanted, void *functions)
{
	int no_cache = 0;
	const OSSL_ALGORITHM *all = OSSL_PROVIDER_query_operation(provider, operation, &no_cache);
	const OSSL_ALGORITHM *one = only_one(all, name);
	bool ok = one && !no_cache;

	for (; ok && wanted->function_id != 0; wanted++)
		ok = take_function(one->implementation, wanted, functions);
	if (all)
		OSSL_PROVIDER_unquery_operation(provider, operation, all);
	return ok;
}

#endif
