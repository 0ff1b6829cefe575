/* SPDX-License-Identifier: ISC */
/*
 * To be preloaded: makes the n-th allocation of ordinary heap fail in the one process whose pid
 * stands in the file that FAILMALLOC names, and counts the pieces that it has. The test maps the
 * same file.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void __libc_free(void *p);

struct control {
	_Atomic int64_t pid;    /* of the process that counts, 0: none */
	_Atomic int64_t left;   /* until one fails; <= 0: none does */
	_Atomic int64_t seen;   /* allocations since the test set it to 0 */
	_Atomic int64_t failed; /* likewise */
	_Atomic int64_t live;   /* pieces: allocations minus frees since then */
};

static struct control *control;

__attribute__((constructor)) static void map_control(void)
{
	const char *name = getenv("FAILMALLOC");
	int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
	void *area =
		fd >= 0 ? mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
			: MAP_FAILED;

	if (fd >= 0)
		close(fd);
	if (area != MAP_FAILED)
		control = area;
}

static int counts(void)
{
	return control && atomic_load(&control->pid) == getpid();
}

static int fails(void)
{
	if (!counts())
		return 0;
	atomic_fetch_add(&control->seen, 1);
	if (atomic_load(&control->left) <= 0 || atomic_fetch_sub(&control->left, 1) != 1)
		return 0;
	atomic_fetch_add(&control->failed, 1);
	errno = ENOMEM;
	return 1;
}

static void *counted(void *p)
{
	if (p && counts())
		atomic_fetch_add(&control->live, 1);
	return p;
}

void *malloc(size_t size)
{
	return fails() ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
	return fails() ? NULL : counted(__libc_calloc(count, size));
}

void *realloc(void *p, size_t size)
{
	if (fails())
		return NULL;
	return p ? __libc_realloc(p, size) : counted(__libc_realloc(p, size));
}

void free(void *p)
{
	if (p && counts())
		atomic_fetch_sub(&control->live, 1);
	__libc_free(p);
}
