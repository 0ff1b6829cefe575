/* SPDX-License-Identifier: ISC */
/*
 * A module of the host for tests only: takes shared memory away, and makes the n-th allocation of
 * another module fail. starve.eat KB leaves so much, starve.release gives it back; starve.fail
 * MODULE N arms the failure in all processes, starve.seen tells how many allocations of that module
 * there were since, and whether one failed.
 */
#include "core/mem/mem.h"
#include "core/mem/shm_mem.h"
#include "core/rpc.h"
#include "core/sr_module.h"

#include <stdatomic.h>
#include <string.h>

MODULE_VERSION

#ifndef DBG_SR_MEMORY
#error "the host's allocators must be told who calls"
#endif

#define CHUNKS    65536
#define NAME_SIZE 32

/* In shared memory, before anything fails. */
struct starve {
	char module[NAME_SIZE]; /* whose allocations count */
	atomic_long left;       /* until one fails; <= 0: none does */
	atomic_long seen;       /* since then */
	atomic_long failed;     /* since then */
};

static struct starve *starve;
static void *chunks[CHUNKS];
static unsigned chunk_count;
static sr_shm_api_t shm;
static sr_pkg_api_t pkg;

static int fails(const char *module)
{
	if (!module || strcmp(module, starve->module) != 0)
		return 0;
	atomic_fetch_add(&starve->seen, 1);
	if (atomic_load(&starve->left) <= 0 || atomic_fetch_sub(&starve->left, 1) != 1)
		return 0;
	atomic_fetch_add(&starve->failed, 1);
	return 1;
}

#define MALLOC(root, call)                                                                         \
	static void *root##_##call(void *block, size_t size, const char *file, const char *func,   \
				   unsigned int line, const char *module)                          \
	{                                                                                          \
		return fails(module) ? NULL : root.call(block, size, file, func, line, module);    \
	}
#define REALLOC(root, call)                                                                        \
	static void *root##_##call(void *block, void *p, size_t size, const char *file,            \
				   const char *func, unsigned int line, const char *module)        \
	{                                                                                          \
		return fails(module) ? NULL : root.call(block, p, size, file, func, line, module); \
	}

MALLOC(shm, xmalloc)
MALLOC(shm, xmallocxz)
MALLOC(shm, xmalloc_unsafe)
REALLOC(shm, xrealloc)
REALLOC(shm, xreallocxf)
REALLOC(shm, xresize)
MALLOC(pkg, xmalloc)
MALLOC(pkg, xmallocxz)
REALLOC(pkg, xrealloc)
REALLOC(pkg, xreallocxf)

static void wrap_allocators(void)
{
	shm = _shm_root;
	pkg = _pkg_root;
	_shm_root.xmalloc = shm_xmalloc;
	_shm_root.xmallocxz = shm_xmallocxz;
	_shm_root.xmalloc_unsafe = shm_xmalloc_unsafe;
	_shm_root.xrealloc = shm_xrealloc;
	_shm_root.xreallocxf = shm_xreallocxf;
	_shm_root.xresize = shm_xresize;
	_pkg_root.xmalloc = pkg_xmalloc;
	_pkg_root.xmallocxz = pkg_xmallocxz;
	_pkg_root.xrealloc = pkg_xrealloc;
	_pkg_root.xreallocxf = pkg_xreallocxf;
}

static void release_all(void)
{
	while (chunk_count > 0)
		shm_free(chunks[--chunk_count]);
}

/* Large pieces first, so that what is left is not in one piece either. */
static void rpc_eat(rpc_t *rpc, void *ctx)
{
	int left;

	if (rpc->scan(ctx, "d", &left) < 1) {
		rpc->fault(ctx, 500, "expected KB");
		return;
	}
	for (size_t size = 1 << 20; size >= 256; size /= 2) {
		while (chunk_count < CHUNKS &&
		       shm_available() > ((unsigned long)left << 10) + size &&
		       (chunks[chunk_count] =
				shm.xmalloc(shm.mem_block, size, "", "", 0, "starve")))
			chunk_count++;
	}
	rpc->add(ctx, "d", (int)(shm_available() >> 10));
}

static void rpc_release(rpc_t *rpc, void *ctx)
{
	release_all();
	rpc->add(ctx, "d", (int)(shm_available() >> 10));
}

static void rpc_fail(rpc_t *rpc, void *ctx)
{
	char *module;
	int n;

	if (rpc->scan(ctx, "sd", &module, &n) < 2 || strlen(module) >= NAME_SIZE) {
		rpc->fault(ctx, 500, "expected a module and a number");
		return;
	}
	atomic_store(&starve->left, 0);
	memcpy(starve->module, module, strlen(module) + 1);
	atomic_store(&starve->seen, 0);
	atomic_store(&starve->failed, 0);
	atomic_store(&starve->left, n);
	rpc->add(ctx, "d", n);
}

static void rpc_seen(rpc_t *rpc, void *ctx)
{
	void *handle;

	if (rpc->add(ctx, "{", &handle) >= 0)
		rpc->struct_add(handle, "dd", "seen", (int)atomic_load(&starve->seen), "failed",
				(int)atomic_load(&starve->failed));
}

static int start(void)
{
	starve = shm_malloc(sizeof(*starve));
	if (!starve)
		return -1;
	memset(starve, 0, sizeof(*starve));
	wrap_allocators();
	return 0;
}

static const char *doc[] = {"For tests.", NULL};
static rpc_export_t commands[] = {
	{"starve.eat", rpc_eat, doc, 0},
	{"starve.release", rpc_release, doc, 0},
	{"starve.fail", rpc_fail, doc, 0},
	{"starve.seen", rpc_seen, doc, 0},
	{0},
};

struct module_exports exports = {
	.name = "starve",
	.dlflags = DEFAULT_DLFLAGS,
	.rpc_methods = commands,
	.init_mod_f = start,
};
