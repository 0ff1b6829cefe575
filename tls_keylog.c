/* SPDX-License-Identifier: ISC */
#define _GNU_SOURCE
#include "tls_keylog.h"

#include "core/dprint.h"
#include "core/timer.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define TARGETS   (TLS_KEYLOG_LOG | TLS_KEYLOG_FILE | TLS_KEYLOG_PEER)
#define ALL_MODES (TLS_KEYLOG_INIT | TLS_KEYLOG_ACTIVE | TARGETS | TLS_KEYLOG_FILTER)
/* How often the log is told that keys are written. */
#define REMIND_SECONDS 600

/* ---- parameters ---- */

/* Set before the fork: what may be switched on. */
static bool ready;

static bool is_on(int mode)
{
	return (mode & TLS_KEYLOG_ACTIVE) && (mode & TARGETS);
}

/* What a mode lacks, or NULL. */
static const char *mode_problem(int mode, bool has_file, bool has_peer)
{
	if (mode & ~ALL_MODES)
		return "has unknown bits, expected a sum of 1, 2, 4, 8, 16, 1024";
	if ((mode & TLS_KEYLOG_FILE) && !has_file)
		return "has bit 8 (file), but keylog_file is not set";
	if ((mode & TLS_KEYLOG_PEER) && !has_peer)
		return "has bit 16 (UDP peer), but keylog_peer is not set";
	if ((mode & TLS_KEYLOG_ACTIVE) && !(mode & TARGETS))
		return "has bit 2 (active), but none of 4 (log), 8 (file), 16 (UDP peer)";
	return NULL;
}

static bool is_port(const char *text)
{
	return text[0] >= '1' && text[0] <= '9' && strspn(text, "0123456789") == strlen(text) &&
	       strlen(text) <= 5 && strtol(text, NULL, 10) <= 65535;
}

/* Parses "host:port" or "[host]:port" with a numeric host. Returns 0 or -1. */
static int parse_peer(const char *text, struct sockaddr_storage *to, socklen_t *len)
{
	static const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
					      .ai_socktype = SOCK_DGRAM};
	char host[TLS_ADDRESS_TEXT];
	const char *colon = strrchr(text, ':');
	size_t host_len = colon ? (size_t)(colon - text) : 0;
	bool bracketed = host_len > 2 && text[0] == '[' && text[host_len - 1] == ']';
	struct addrinfo *found;

	if (host_len == 0 || host_len >= sizeof(host) || !is_port(colon + 1))
		return -1;
	snprintf(host, sizeof(host), "%.*s", (int)(bracketed ? host_len - 2 : host_len),
		 bracketed ? text + 1 : text);
	if ((strchr(host, ':') != NULL) != bracketed ||
	    getaddrinfo(host, colon + 1, &hints, &found) != 0)
		return -1;
	memcpy(to, found->ai_addr, found->ai_addrlen);
	*len = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

static bool is_loopback(const struct sockaddr_storage *a)
{
	if (a->ss_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

static void check_peer(const char *peer, struct tls_report *report)
{
	struct sockaddr_storage address;
	socklen_t len;

	if (parse_peer(peer, &address, &len) != 0)
		tls_report_error(report,
				 "parameter keylog_peer: value '%s' is not valid, expected a "
				 "numeric address and a port such as 127.0.0.1:9999 or [::1]:9999",
				 peer);
	else if (!is_loopback(&address))
		tls_report_warning(
			report, "parameter keylog_peer: secrets would go to %s unprotected", peer);
}

void tls_keylog_check(const struct cfg_group_tls *cfg, struct tls_report *report)
{
	int mode = cfg->keylog_mode;
	const char *problem =
		mode_problem(mode, cfg->keylog_file.len > 0, cfg->keylog_peer.len > 0);

	if (problem)
		tls_report_error(report, "parameter keylog_mode: value %d %s", mode, problem);
	else if ((mode & ~TLS_KEYLOG_FILTER) && !(mode & TLS_KEYLOG_INIT))
		tls_report_warning(report,
				   "parameter keylog_mode: value %d lacks bit 1 (init): no keys "
				   "are logged, nor can that be switched on",
				   mode);
	if (cfg->keylog_peer.len > 0)
		check_peer(cfg->keylog_peer.s, report);
}

/* ---- in every process but the engine ---- */

static void warn_on(int mode)
{
	LM_WARN("tls: the keys of new connections are written (keylog_mode %d): to%s%s%s; who "
		"reads them can read the calls\n",
		mode, (mode & TLS_KEYLOG_LOG) ? " this log" : "",
		(mode & TLS_KEYLOG_FILE) ? " keylog_file" : "",
		(mode & TLS_KEYLOG_PEER) ? " keylog_peer" : "");
}

static void remind(unsigned int ticks, void *unused)
{
	int mode = cfg_get(tls, tls_cfg, keylog_mode);

	(void)ticks;
	(void)unused;
	if (is_on(mode))
		warn_on(mode);
}

/* Before a new mode is set: the host refuses it when this returns -1. */
static int on_change(void *group, str *group_name, str *name, void **value)
{
	const struct cfg_group_tls *cfg = group;
	int mode = (int)(long)*value;
	const char *problem =
		mode_problem(mode, cfg->keylog_file.len > 0, cfg->keylog_peer.len > 0);

	(void)group_name;
	(void)name;
	if (!problem && is_on(mode) && !ready)
		problem = "needs bit 1 (init) when SER starts";
	if (problem) {
		LM_ERR("tls: keylog_mode: value %d %s\n", mode, problem);
		return -1;
	}
	if (is_on(mode))
		warn_on(mode);
	else if (is_on(cfg->keylog_mode))
		LM_WARN("tls: the keys of new connections are not written any more\n");
	return 0;
}

int tls_keylog_init(void)
{
	int mode = default_tls_cfg.keylog_mode;

	for (cfg_def_t *row = tls_cfg_def; row->name; row++)
		if (strcmp(row->name, "keylog_mode") == 0)
			row->on_change_cb = on_change;
	ready = mode & TLS_KEYLOG_INIT;
	if (!ready)
		return 0;
	if (is_on(mode))
		warn_on(mode);
	if (register_timer(remind, NULL, REMIND_SECONDS) < 0) {
		LM_ERR("tls: cannot register a timer\n");
		return -1;
	}
	return 0;
}

unsigned tls_keylog_active(void)
{
	int mode = ready ? cfg_get(tls, tls_cfg, keylog_mode) : 0;

	return is_on(mode) ? (unsigned)mode : 0;
}

/* ---- in the engine ---- */

static const char *file_name;
static struct sockaddr_storage peer_address;
static socklen_t peer_len;
static int peer_socket = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Guarded by lock. */
static bool file_failed, peer_failed;
static bool line_torn; /* the file ends with a part of a line */

/* What Wireshark decrypts application data with. It goes on to the secrets of application data only
 * behind the Finished messages, which it has to decrypt, too. */
static bool is_needed(const char *line)
{
	static const char *const labels[] = {
		"CLIENT_RANDOM ",
		"CLIENT_HANDSHAKE_TRAFFIC_SECRET ",
		"SERVER_HANDSHAKE_TRAFFIC_SECRET ",
		"CLIENT_TRAFFIC_SECRET_0 ",
		"SERVER_TRAFFIC_SECRET_0 ",
	};

	for (size_t i = 0; i < sizeof(labels) / sizeof(labels[0]); i++)
		if (strncmp(line, labels[i], strlen(labels[i])) == 0)
			return true;
	return false;
}

void tls_keylog_add(char *text, unsigned mode, const char *line)
{
	size_t len = strlen(text), size = strlen(line) + 1;

	if ((mode & TLS_KEYLOG_FILTER) && !is_needed(line))
		return;
	if (len + size < TLS_KEYLOG_TEXT)
		snprintf(text + len, TLS_KEYLOG_TEXT - len, "%s\n", line);
}

/* Opened for each use, so that it may be moved away at any time. Returns -1 with errno set. */
static int open_file(struct stat *status)
{
	int fd = open(file_name,
		      O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);

	if (fd < 0)
		return -1;
	if (fstat(fd, status) == 0 && S_ISREG(status->st_mode))
		return fd;
	close(fd);
	errno = EINVAL;
	return -1;
}

static const char *open_error(void)
{
	return errno == ELOOP    ? "it is a symbolic link"
	       : errno == EINVAL ? "it is no regular file"
				 : strerror(errno);
}

static void try_file(struct tls_report *report)
{
	struct stat status;
	int fd = open_file(&status);

	if (fd < 0) {
		tls_report_error(report, "parameter keylog_file: cannot append to '%s': %s",
				 file_name, open_error());
		return;
	}
	close(fd);
	if (status.st_mode & 077)
		tls_report_warning(report,
				   "parameter keylog_file: '%s' can be read or written by other "
				   "users",
				   file_name);
	if (status.st_uid != geteuid())
		tls_report_warning(report, "parameter keylog_file: '%s' belongs to another user",
				   file_name);
}

void tls_keylog_open(const char *path, const char *peer, struct tls_report *report)
{
	file_name = path;
	if (file_name)
		try_file(report);
	if (!peer[0] || parse_peer(peer, &peer_address, &peer_len) != 0)
		return;
	peer_socket = socket(peer_address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (peer_socket < 0)
		tls_report_error(report, "parameter keylog_peer: cannot make a socket: %s",
				 strerror(errno));
}

/* Returns NULL, or what went wrong. One write: nobody else's lines come in between. */
static const char *append(const char *text, size_t len)
{
	struct stat status;
	int fd = open_file(&status);
	ssize_t written;

	if (fd < 0)
		return open_error();
	if (line_torn && write(fd, "\n", 1) == 1)
		line_torn = false;
	written = write(fd, text, len);
	line_torn |= written > 0 && (size_t)written < len;
	close(fd);
	if (written < 0)
		return strerror(errno);
	return (size_t)written < len ? "the disk is full" : NULL;
}

static const char *send_peer(const char *text, size_t len)
{
	ssize_t sent = sendto(peer_socket, text, len, MSG_DONTWAIT | MSG_NOSIGNAL,
			      (const struct sockaddr *)&peer_address, peer_len);

	return sent < 0 ? strerror(errno) : NULL;
}

static void note(bool *failed, const char *what, const char *problem, char *trouble)
{
	if (problem && !*failed)
		snprintf(trouble, TLS_KEYLOG_TROUBLE, "%s: cannot write keys: %s", what, problem);
	*failed = problem != NULL;
}

void tls_keylog_write(unsigned mode, enum tls_role role, const struct tls_address *peer,
		      const struct tls_address *local, const char *text, char *trouble)
{
	char all[TLS_KEYLOG_TEXT + 2 * TLS_ADDRESS_TEXT + 32];
	char peer_text[TLS_ADDRESS_TEXT], local_text[TLS_ADDRESS_TEXT];
	size_t len;

	trouble[0] = '\0';
	snprintf(all, sizeof(all), "# peer=%s local=%s role=%s\n%s",
		 tls_address_text(peer, peer_text), tls_address_text(local, local_text),
		 role == TLS_ROLE_SERVER ? "server" : "client", text);
	len = strlen(all);
	pthread_mutex_lock(&lock);
	if ((mode & TLS_KEYLOG_FILE) && file_name)
		note(&file_failed, "keylog_file", append(all, len), trouble);
	if ((mode & TLS_KEYLOG_PEER) && peer_socket >= 0)
		note(&peer_failed, "keylog_peer", send_peer(all, len), trouble);
	pthread_mutex_unlock(&lock);
	OPENSSL_cleanse(all, sizeof(all));
}
