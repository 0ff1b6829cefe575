/* SPDX-License-Identifier: ISC */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tls_file.h"

#include <openssl/crypto.h>

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool was_root;

void tls_file_privileges_dropped(void)
{
	was_root = true;
}

/* The name of the user that this process runs as, or its number. */
static void user_text(char *text, size_t size)
{
	struct passwd entry, *found = NULL;
	char buffer[1024];

	if (getpwuid_r(geteuid(), &entry, buffer, sizeof(buffer), &found) == 0 && found)
		snprintf(text, size, "%s", found->pw_name);
	else
		snprintf(text, size, "%u", (unsigned)geteuid());
}

const char *tls_file_reason(int error, char *text, size_t size)
{
	char user[64];

	if (error != EACCES) {
		snprintf(text, size, "%s", strerror(error));
		return text;
	}
	user_text(user, sizeof(user));
	snprintf(text, size, "%s for user %s%s", strerror(error), user,
		 was_root ? ", as whom SER runs since it gave up root's rights at its start: "
			    "let that user or its group read it, or restart SER"
			  : "");
	return text;
}

bool tls_file_others_can_read(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && (st.st_mode & S_IROTH);
}

/* A relative name starts from SER's working directory, which may not be the one that was meant. */
static void cannot_read(const char *path, char *why)
{
	char reason[256], dir[160] = "";
	int error = errno;
	bool relative = path[0] != '/' && getcwd(dir, sizeof(dir));

	snprintf(why, TLS_FILE_WHY, "cannot read file '%s'%s%s: %s", path,
		 relative ? " of the working directory " : "", relative ? dir : "",
		 tls_file_reason(error, reason, sizeof(reason)));
}

/* Writes why not, unless it can. */
static bool can_be_read(const char *path, const struct stat *st, char *why)
{
	if (S_ISDIR(st->st_mode))
		snprintf(why, TLS_FILE_WHY, "'%s' is a directory, not a file", path);
	else if (!S_ISREG(st->st_mode))
		snprintf(why, TLS_FILE_WHY, "'%s' is not a regular file", path);
	else if (st->st_size == 0)
		snprintf(why, TLS_FILE_WHY, "file '%s' is empty", path);
	else if (st->st_size > TLS_FILE_MAX)
		snprintf(why, TLS_FILE_WHY, "file '%s' is larger than %d MB", path,
			 TLS_FILE_MAX >> 20);
	else
		return true;
	return false;
}

/* Reads size bytes, or up to an earlier end. Returns -1 with errno. */
static int read_bytes(int fd, struct tls_file *file, size_t size)
{
	ssize_t n = 1;

	file->data = malloc(size + 1);
	if (!file->data)
		return -1;
	while (n != 0 && file->size < size) {
		n = read(fd, file->data + file->size, size - file->size);
		if (n > 0)
			file->size += (size_t)n;
		else if (n < 0 && errno != EINTR)
			return -1;
	}
	file->data[file->size] = '\0';
	return 0;
}

static int read_open_file(int fd, const char *path, struct tls_file *file, char *why)
{
	struct stat st;

	if (fstat(fd, &st) != 0) {
		cannot_read(path, why);
		return -1;
	}
	if (!can_be_read(path, &st, why))
		return -1;
	if (read_bytes(fd, file, (size_t)st.st_size) == 0)
		return 0;
	cannot_read(path, why);
	tls_file_free(file);
	return -1;
}

int tls_file_read(const char *path, struct tls_file *file, char *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	int result;

	*file = (struct tls_file){NULL, 0};
	if (fd < 0) {
		/* A socket cannot be opened: say what it is. */
		int error = errno;

		if (stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !can_be_read(path, &st, why))
			return -1;
		errno = error;
		cannot_read(path, why);
		return -1;
	}
	result = read_open_file(fd, path, file, why);
	close(fd);
	return result;
}

void tls_file_free(struct tls_file *file)
{
	if (file->data)
		OPENSSL_cleanse(file->data, file->size);
	free(file->data);
	*file = (struct tls_file){NULL, 0};
}

char *tls_file_path(const char *dir, const char *name)
{
	char *path = NULL;

	if (name[0] == '/' || name[0] == '.')
		return strdup(name);
	if (asprintf(&path, "%s/%s", dir, name) < 0)
		return NULL;
	return path;
}
