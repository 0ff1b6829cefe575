/* SPDX-License-Identifier: ISC */
/*
 * The floor of the benchmark: the least that a server can do with OpenSSL, one
 * thread that accepts, shakes hands, and answers every request with a fixed
 * 200, without parsing it. What SER costs above it is SER or the module.
 *
 * floor CERT KEY serves TLS 1.2 and 1.3, floor without arguments plain TCP.
 * It listens on a free port of 127.0.0.1, prints the port, and runs until it
 * is killed or its standard input ends.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#define FLOOR_REQUEST_MAX 2048

/* An open connection; owned by the event loop, freed by floor_conn_free(). */
struct floor_conn {
	int fd;
	SSL *ssl; /* NULL over plain TCP */
};

static char floor_reply[] =
	"SIP/2.0 200 OK\r\n"
	"Via: SIP/2.0/TLS 127.0.0.1:5070;branch=z9hG4bK-524287-1---6f1d2c3b4a5968;rport=40000;"
	"received=127.0.0.1\r\n"
	"To: <sip:bench@127.0.0.1>;tag=b27e1a1d33761e85846fc98f5f3a7e58.00000000\r\n"
	"From: \"Load\" <sip:load@127.0.0.1>;tag=8a7b6c5d\r\n"
	"Call-ID: 57c1d8e0a9f24b6c8d1e3f5a7b9c0d2e@127.0.0.1\r\n"
	"CSeq: 1 OPTIONS\r\n"
	"Server: the floor of the benchmark\r\n"
	"Content-Length: 0\r\n\r\n";

/* Says good-bye as the modules under test do (RFC 8446 section 6.1). */
static void floor_conn_free(struct floor_conn *c)
{
	if (c->ssl && SSL_is_init_finished(c->ssl))
		SSL_shutdown(c->ssl);
	SSL_free(c->ssl);
	close(c->fd);
	free(c);
	ERR_clear_error();
}

/* >0 bytes, 0 wait for the socket, -1 the connection is over */
static int floor_conn_read(struct floor_conn *c, char *buf, size_t len)
{
	int n;

	if (!c->ssl) {
		n = (int)recv(c->fd, buf, len, 0);
		return n > 0 ? n : (n < 0 && errno == EAGAIN ? 0 : -1);
	}
	n = SSL_read(c->ssl, buf, (int)len);
	if (n > 0)
		return n;
	return SSL_get_error(c->ssl, n) == SSL_ERROR_WANT_READ ? 0 : -1;
}

/* An answer always fits the socket's buffer: a client waits for it before it asks again. */
static int floor_conn_answer(struct floor_conn *c)
{
	int len = sizeof(floor_reply) - 1;

	if (c->ssl)
		return SSL_write(c->ssl, floor_reply, len) == len ? 0 : -1;
	return send(c->fd, floor_reply, (size_t)len, MSG_NOSIGNAL) == len ? 0 : -1;
}

/*
 * Answers what there is to read; -1: the connection is over. The load client
 * sends a request in one piece and waits, so none is ever put together here.
 */
static int floor_conn_serve(struct floor_conn *c)
{
	char buf[FLOOR_REQUEST_MAX];

	for (;;) {
		int n = floor_conn_read(c, buf, sizeof(buf));

		if (n <= 0)
			return n;
		if (n < 4 || memcmp(buf + n - 4, "\r\n\r\n", 4) != 0 || floor_conn_answer(c) < 0)
			return -1;
	}
}

static void floor_accept(int epoll, int listener, SSL_CTX *ctx)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET};
	struct floor_conn *c;
	int fd, one = 1;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		c = calloc(1, sizeof(*c));
		if (!c) {
			close(fd);
			continue;
		}
		c->fd = fd;
		ev.data.ptr = c;
		if (ctx && (!(c->ssl = SSL_new(ctx)) || !SSL_set_fd(c->ssl, fd))) {
			floor_conn_free(c);
			continue;
		}
		if (c->ssl)
			SSL_set_accept_state(c->ssl);
		if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev) < 0)
			floor_conn_free(c);
	}
}

/*
 * The same settings as the modules under test, and the best known ones where a
 * module is free to choose: one ticket, no chain to build, small idle memory.
 */
static SSL_CTX *floor_ctx_new(const char *cert, const char *key)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

	if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) ||
	    !SSL_CTX_use_certificate_chain_file(ctx, cert) ||
	    !SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) ||
	    !SSL_CTX_set_num_tickets(ctx, 1)) {
		ERR_print_errors_fp(stderr);
		SSL_CTX_free(ctx);
		return NULL;
	}
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	return ctx;
}

static int floor_listen(void)
{
	struct sockaddr_in sin = {.sin_family = AF_INET};
	socklen_t len = sizeof(sin);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sin, sizeof(sin)) < 0 || listen(fd, 1024) < 0 ||
	    getsockname(fd, (struct sockaddr *)&sin, &len) < 0) {
		perror("floor: listen");
		return -1;
	}
	printf("%d\n", ntohs(sin.sin_port));
	fflush(stdout);
	return fd;
}

static int floor_loop(int epoll, int listener, SSL_CTX *ctx)
{
	struct epoll_event ev[64];
	struct floor_conn *c;
	int i;

	for (;;) {
		int n = epoll_wait(epoll, ev, 64, -1);
		if (n < 0 && errno != EINTR)
			return 1;
		for (i = 0; i < n; i++) {
			c = ev[i].data.ptr;
			if (!c)
				floor_accept(epoll, listener, ctx);
			else if (c->fd == STDIN_FILENO)
				return 0;
			else if (floor_conn_serve(c) < 0)
				floor_conn_free(c);
		}
	}
}

int main(int argc, char **argv)
{
	static struct floor_conn input = {.fd = STDIN_FILENO};
	struct epoll_event ev = {.events = EPOLLIN};
	struct rlimit files;
	SSL_CTX *ctx = NULL;
	int epoll, listener;

	if (argc != 1 && argc != 3) {
		fprintf(stderr, "usage: floor [CERT KEY]\n");
		return 2;
	}
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && !(ctx = floor_ctx_new(argv[1], argv[2])))
		return 2;
	epoll = epoll_create1(EPOLL_CLOEXEC);
	listener = floor_listen();
	if (epoll < 0 || listener < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &ev) < 0)
		return 2;
	ev.data.ptr = &input;
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &ev) < 0)
		return 2;
	return floor_loop(epoll, listener, ctx);
}
