/* SPDX-License-Identifier: ISC */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tls_config.h"

#include "tls_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* A file that was changed in the last seconds before it was read may change again without a
 * difference that its times show. */
#define SETTLE_SECONDS 1

/* What tells that a file is the one that was read before. */
struct stamp {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec modified, changed;
};

struct tls_config_file {
	atomic_uint refs;
	char *path;
	struct stamp stamp;
	bool settled; /* a change since it was read shows in the stamp */
	struct tls_parsed parsed;
};

struct reader {
	const struct tls_config *previous; /* or NULL */
	struct tls_config config;          /* what has been read so far; its sections come last */
	struct tls_parser parser;
	const char *path; /* the file or directory that is being read; messages name it */
	struct tls_config_file *file;
};

/* ---- files ---- */

static struct stamp make_stamp(const struct stat *st)
{
	return (struct stamp){st->st_dev, st->st_ino, st->st_size, st->st_mtim, st->st_ctim};
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool same_stamp(const struct stamp *a, const struct stamp *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	       same_time(&a->modified, &b->modified) && same_time(&a->changed, &b->changed);
}

static void file_unref(struct tls_config_file *f)
{
	if (atomic_fetch_sub(&f->refs, 1) != 1)
		return;
	tls_parsed_free(&f->parsed);
	free(f->path);
	free(f);
}

/* Makes room for the files that are read. */
static bool reserve_files(struct reader *r, size_t count)
{
	r->config.files = calloc(count + 1, sizeof(struct tls_config_file *));
	if (!r->config.files)
		tls_parse_error(&r->parser, r->path, "out of memory");
	return r->config.files;
}

/* Takes over the reference. */
static void add_file(struct reader *r, struct tls_config_file *f)
{
	r->config.files[r->config.file_count++] = f;
}

/* Makes the file that is read next. */
static bool begin_file(struct reader *r)
{
	struct tls_config_file *f = calloc(1, sizeof(*f));

	if (f)
		f->path = strdup(r->path);
	if (!f || !f->path) {
		free(f);
		tls_parse_error(&r->parser, r->path, "out of memory");
		return false;
	}
	atomic_init(&f->refs, 1);
	r->file = f;
	add_file(r, f);
	return true;
}

static int compare_path(const void *key, const void *file)
{
	const struct tls_config_file *const *f = file;

	return strcmp(key, (*f)->path);
}

/* The file as it was read before, if it is still the same. */
static struct tls_config_file *find_previous(const struct reader *r, const struct stat *st)
{
	struct stamp stamp = make_stamp(st);
	struct tls_config_file **found = NULL;

	if (r->previous)
		found = bsearch(r->path, r->previous->files, r->previous->file_count,
				sizeof(struct tls_config_file *), compare_path);
	return found && (*found)->settled && same_stamp(&stamp, &(*found)->stamp) ? *found : NULL;
}

/* Returns the malloc()ed content of a file of that size, NULL with errno. */
static char *read_all(int fd, off_t size, size_t *len)
{
	size_t room = (size_t)size + 1; /* to see that there is no more */
	char *text = malloc(room);
	ssize_t n = 1;

	*len = 0;
	while (text && n > 0 && *len < room) {
		n = read(fd, text + *len, room - *len);
		if (n > 0)
			*len += (size_t)n;
		else if (n < 0 && errno == EINTR)
			n = 1;
	}
	if (text && n < 0) {
		free(text);
		text = NULL;
	}
	return text;
}

static void fail_read(struct reader *r)
{
	char reason[256];

	tls_parse_error(&r->parser, r->path, "cannot be read: %s",
			tls_file_reason(errno, reason, sizeof(reason)));
}

static void parse_open_file(struct reader *r, int fd)
{
	struct timespec now;
	struct stat before, after;
	struct stamp stamp;
	size_t len;
	char *text;

	if (fstat(fd, &before) != 0) {
		fail_read(r);
		return;
	}
	if (before.st_size > TLS_CONFIG_MAX_FILE) {
		tls_parse_error(&r->parser, r->path, "the file is larger than %d MB",
				TLS_CONFIG_MAX_FILE >> 20);
		return;
	}
	text = read_all(fd, before.st_size, &len);
	if (!text || fstat(fd, &after) != 0) {
		fail_read(r);
		free(text);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	r->file->stamp = make_stamp(&before);
	r->file->settled = before.st_ctim.tv_sec + SETTLE_SECONDS < now.tv_sec;
	stamp = make_stamp(&after);
	if (!same_stamp(&stamp, &r->file->stamp) || len != (size_t)before.st_size)
		tls_parse_error(&r->parser, r->path, "changed while it was read");
	else
		tls_parse_text(&r->parser, r->file->path, text, len, &r->file->parsed);
	free(text);
}

/* Of a regular file. */
static void read_file(struct reader *r, const struct stat *st)
{
	struct tls_config_file *same = find_previous(r, st);
	int fd;

	if (same) {
		atomic_fetch_add(&same->refs, 1);
		r->parser.section_count += same->parsed.count;
		add_file(r, same);
		return;
	}
	if (!begin_file(r))
		return;
	fd = open(r->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0) {
		fail_read(r);
		return;
	}
	parse_open_file(r, fd);
	close(fd);
}

/* ---- directories ---- */

static bool is_leftover(const char *name)
{
	static const char *const endings[] = {
		"~",          ".bak",      ".orig",     ".rej",     ".swp",      ".tmp",
		".save",      ".rpmnew",   ".rpmsave",  ".rpmorig", ".dpkg-old", ".dpkg-new",
		".dpkg-dist", ".dpkg-tmp", ".dpkg-bak", ".ucf-old", ".ucf-new",  ".ucf-dist",
	};
	size_t len = strlen(name);

	for (size_t i = 0; i < COUNT(endings); i++) {
		size_t n = strlen(endings[i]);

		if (len > n && strcmp(name + len - n, endings[i]) == 0)
			return true;
	}
	return name[0] == '#';
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

/* In every locale the same. */
static int compare_names(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void read_entry(struct reader *r, const char *name)
{
	struct stat st;

	if (is_leftover(name))
		tls_parse_warning(&r->parser, r->path,
				  "left out: named like what an editor or package manager leaves "
				  "behind");
	else if (stat(r->path, &st) != 0)
		fail_read(r);
	else if (S_ISREG(st.st_mode))
		read_file(r, &st);
	else
		tls_parse_warning(&r->parser, r->path,
				  S_ISDIR(st.st_mode)
					  ? "left out: a directory inside of a directory"
					  : "left out: not a regular file");
}

static void read_name(struct reader *r, const char *directory, size_t len, const char *name)
{
	char *path = NULL;

	if (asprintf(&path, "%.*s/%s", (int)len, directory, name) < 0) {
		tls_parse_error(&r->parser, r->path, "out of memory");
		return;
	}
	r->path = path;
	read_entry(r, name);
	r->path = directory;
	free(path);
}

static void read_directory(struct reader *r, const char *directory)
{
	struct dirent **entries = NULL;
	int count = scandir(directory, &entries, is_visible, compare_names);
	bool ready = count >= 0 && reserve_files(r, (size_t)count);
	size_t len = strlen(directory);

	if (count < 0)
		fail_read(r);
	while (len > 1 && directory[len - 1] == '/')
		len--;
	for (int i = 0; i < count; i++) {
		if (ready && !tls_parse_stopped(&r->parser))
			read_name(r, directory, len, entries[i]->d_name);
		free(entries[i]);
	}
	free(entries);
	if (r->config.file_count == 0 && r->parser.errors == 0)
		tls_parse_error(&r->parser, r->path, "the directory has no configuration file");
}

/* ---- the whole ---- */

static void clear_config(struct tls_config *config)
{
	for (size_t i = 0; i < config->file_count; i++)
		file_unref(config->files[i]);
	free(config->files);
	free(config->sections);
}

/* Makes one list of the sections of all files. Returns false without memory. */
static bool collect_sections(struct reader *r)
{
	struct tls_config *c = &r->config;
	size_t count = 0;

	for (size_t i = 0; i < c->file_count; i++)
		count += c->files[i]->parsed.count;
	c->sections = calloc(count + 1, sizeof(*c->sections));
	if (!c->sections)
		return false;
	for (size_t i = 0; i < c->file_count; i++) {
		const struct tls_parsed *parsed = &c->files[i]->parsed;

		if (parsed->count > 0)
			memcpy(c->sections + c->count, parsed->sections,
			       parsed->count * sizeof(*parsed->sections));
		c->count += parsed->count;
	}
	if (c->count == 0)
		tls_parse_warning(&r->parser, r->path,
				  "there is no section, only the built-in defaults are used");
	return true;
}

static struct tls_config *make_config(struct reader *r)
{
	struct tls_config *config = malloc(sizeof(*config));

	if (!config || !collect_sections(r)) {
		tls_parse_error(&r->parser, r->path, "out of memory");
		free(config);
		return NULL;
	}
	*config = r->config;
	return config;
}

static bool reader_init(struct reader *r, const char *path, const struct tls_config *previous,
			struct tls_report *report)
{
	*r = (struct reader){.previous = previous, .path = path};
	if (tls_parse_init(&r->parser, report))
		return true;
	tls_parse_error(&r->parser, path, "out of memory");
	return false;
}

/* Returns what was read, or NULL if there was an error. */
static struct tls_config *reader_finish(struct reader *r)
{
	struct tls_config *config = r->parser.errors == 0 ? make_config(r) : NULL;

	if (!config)
		clear_config(&r->config);
	tls_parse_free(&r->parser);
	return config;
}

struct tls_config *tls_config_read(const char *path, const struct tls_config *previous,
				   struct tls_report *report)
{
	struct reader r;
	struct stat st;

	if (!reader_init(&r, path, previous, report))
		return NULL;
	if (stat(path, &st) != 0)
		fail_read(&r);
	else if (S_ISDIR(st.st_mode))
		read_directory(&r, path);
	else if (!S_ISREG(st.st_mode))
		tls_parse_error(&r.parser, r.path, "is neither a regular file nor a directory");
	else if (reserve_files(&r, 1))
		read_file(&r, &st);
	return reader_finish(&r);
}

struct tls_config *tls_config_parse(const char *name, const char *text, size_t len,
				    struct tls_report *report)
{
	struct reader r;

	if (!reader_init(&r, name, NULL, report))
		return NULL;
	if (reserve_files(&r, 1) && begin_file(&r))
		tls_parse_text(&r.parser, r.file->path, text, len, &r.file->parsed);
	return reader_finish(&r);
}

void tls_config_free(struct tls_config *config)
{
	if (!config)
		return;
	clear_config(config);
	free(config);
}
