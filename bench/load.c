/* SPDX-License-Identifier: ISC */
/*
 * The load client of the benchmark: one thread, non-blocking sockets, a fixed
 * amount of work over plain TCP or TLS, every answer checked.
 *
 * -m connect: -n times connect, full handshake, one request, orderly close, -k
 *    at a time. A connection counts when the server has closed its side too, so
 *    that the server has nothing left to do when this program ends.
 * -m keep: opens -k connections with one request each and prints "ready"; each
 *    line on standard input has one more sent on each of them, with a result of
 *    its own; end of file closes the connections.
 *
 * With -d the client asks for names, spread over that many domains, from the -f
 * first connection on; then the server's certificate has to be for that name.
 *
 * A result is one line of JSON. Exit status: 0 all answered, 1 not, 2 usage.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#define LOAD_OPENING_MAX 16 /* connections being set up at a time */
#define LOAD_FAILED_MAX  5  /* failures after which going on would tell nothing new */
#define LOAD_REPLY_MAX   4096
#define LOAD_STRIDE      7919 /* a prime: neighbours in time are no neighbours in the file */

enum load_state { LOAD_CONNECT, LOAD_HANDSHAKE, LOAD_SEND, LOAD_RECEIVE, LOAD_CLOSE, LOAD_PARKED };

struct load_link {
	int fd;
	SSL *ssl; /* NULL over plain TCP */
	enum load_state state;
	size_t sent, got;
	char reply[LOAD_REPLY_MAX];
};

struct load_options {
	const char *mode, *tls, *suite, *cert;
	int port;
	long count, links, limit;
	long domains, first;
};

/* The whole program's state: it is one run of one thread. */
struct load_run {
	struct load_options opt;
	SSL_CTX *ctx;
	X509 *cert; /* the one that every server has to present, without domains */
	int epoll;
	bool keep;
	struct load_link *links;
	char request[1024];
	size_t request_len;
	long opening; /* links that are not yet open, at most LOAD_OPENING_MAX */
	long opened;  /* keep: links that had their first answer */
	long started; /* links begun, which is what connect counts */
	long done;    /* ... and finished */
	long failed;
	long resumed;
	uint64_t deadline;
	char version[16], cipher[64], group[32], error[256];
};

static uint64_t load_clock(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void load_link_drop(struct load_link *l)
{
	SSL_free(l->ssl);
	l->ssl = NULL;
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
}

/* Keeps the first cause: what follows is mostly its consequence. */
static void load_link_fail(struct load_run *r, struct load_link *l, const char *what)
{
	unsigned long e = ERR_peek_error();
	const char *cause = errno ? strerror(errno) : NULL;
	char text[128];

	if (e) {
		ERR_error_string_n(e, text, sizeof(text));
		cause = text;
	}
	ERR_clear_error();
	if (!r->error[0])
		snprintf(r->error, sizeof(r->error), "%s%s%s", what, cause ? ": " : "",
			 cause ? cause : "");
	r->failed++;
	if (l->state == LOAD_CONNECT || l->state == LOAD_HANDSHAKE)
		r->opening--;
	l->state = LOAD_PARKED;
	load_link_drop(l);
}

/* Asks for the domain whose turn it is. */
static bool load_link_name(struct load_run *r, struct load_link *l)
{
	long number = (r->opt.first + r->started) % r->opt.domains * LOAD_STRIDE % r->opt.domains;
	char name[64];

	snprintf(name, sizeof(name), "d%05ld.bench.invalid", number);
	return SSL_set_tlsext_host_name(l->ssl, name) == 1;
}

static int load_link_open(struct load_run *r, struct load_link *l)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(r->opt.port)};
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
	int one = 1;

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	l->sent = l->got = 0;
	l->state = LOAD_CONNECT;
	r->opening++;
	errno = 0;
	l->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (l->fd < 0)
		goto err;
	setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(l->fd, (struct sockaddr *)&sin, sizeof(sin)) < 0 && errno != EINPROGRESS)
		goto err;
	if (r->ctx) {
		l->ssl = SSL_new(r->ctx);
		if (!l->ssl || !SSL_set_fd(l->ssl, l->fd))
			goto err;
		if (r->opt.domains && !load_link_name(r, l))
			goto err;
		SSL_set_connect_state(l->ssl);
	}
	ev.data.ptr = l;
	if (epoll_ctl(r->epoll, EPOLL_CTL_ADD, l->fd, &ev) < 0)
		goto err;
	return 0;
err:
	load_link_fail(r, l, "no connection");
	return -1;
}

/* 1 go on, 0 wait for the socket, -1 failed */
static int load_ssl_result(struct load_link *l, int ret)
{
	int e;

	if (ret > 0)
		return 1;
	e = SSL_get_error(l->ssl, ret);
	return e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

/* Bytes moved, 0 wait for the socket, -1 failed or closed */
static ssize_t load_link_io(struct load_link *l, bool out, void *buf, size_t len)
{
	ssize_t n;

	errno = 0;
	if (l->ssl) {
		int ret;

		n = out ? SSL_write(l->ssl, buf, (int)len) : SSL_read(l->ssl, buf, (int)len);
		ret = load_ssl_result(l, (int)n);
		return ret > 0 ? n : ret;
	}
	n = out ? send(l->fd, buf, len, MSG_NOSIGNAL) : recv(l->fd, buf, len, 0);
	if (n > 0)
		return n;
	return n < 0 && errno == EAGAIN ? 0 : -1;
}

static int load_link_connected(struct load_run *r, struct load_link *l)
{
	socklen_t len = sizeof(int);
	int err = 0;
	struct tcp_info info;
	socklen_t info_len = sizeof(info);

	getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (err) {
		errno = err;
		load_link_fail(r, l, "no connection");
		return -1;
	}
	if (getsockopt(l->fd, IPPROTO_TCP, TCP_INFO, &info, &info_len) == 0 &&
	    info.tcpi_state == TCP_SYN_SENT)
		return 0;
	l->state = l->ssl ? LOAD_HANDSHAKE : LOAD_SEND;
	if (!l->ssl)
		r->opening--;
	return 1;
}

/* Pinned instead of verified through its CA, which would only make this client slower. */
static bool load_link_trusted(const struct load_run *r, const struct load_link *l)
{
	X509 *cert = SSL_get0_peer_certificate(l->ssl);
	const char *name = SSL_get_servername(l->ssl, TLSEXT_NAMETYPE_host_name);

	if (r->opt.domains)
		return cert && name && X509_check_host(cert, name, 0, 0, NULL) == 1;
	return cert && X509_cmp(cert, r->cert) == 0;
}

static int load_link_handshake(struct load_run *r, struct load_link *l)
{
	int ret;

	errno = 0;
	ret = load_ssl_result(l, SSL_do_handshake(l->ssl));
	if (ret < 0)
		load_link_fail(r, l, "handshake broken off");
	if (ret <= 0)
		return ret;
	if (!load_link_trusted(r, l)) {
		load_link_fail(r, l, "certificate is not the expected one");
		return -1;
	}
	if (!r->version[0]) {
		const char *group = OBJ_nid2sn((int)SSL_get_negotiated_group(l->ssl));

		snprintf(r->version, sizeof(r->version), "%s", SSL_get_version(l->ssl));
		snprintf(r->cipher, sizeof(r->cipher), "%s", SSL_get_cipher_name(l->ssl));
		snprintf(r->group, sizeof(r->group), "%s", group ? group : "?");
	}
	r->resumed += SSL_session_reused(l->ssl);
	r->opening--;
	l->state = LOAD_SEND;
	return 1;
}

static int load_link_send(struct load_run *r, struct load_link *l)
{
	ssize_t n = load_link_io(l, true, r->request + l->sent, r->request_len - l->sent);

	if (n < 0)
		load_link_fail(r, l, "closed before the request");
	if (n <= 0)
		return (int)n;
	l->sent += (size_t)n;
	if (l->sent == r->request_len) {
		l->got = 0;
		l->state = LOAD_RECEIVE;
	}
	return 1;
}

/* What the answer to the request that is now complete leads to */
static void load_link_answered(struct load_run *r, struct load_link *l)
{
	l->sent = 0;
	if (!r->keep) {
		/* the server's end of file is awaited below TLS: a close_notify is its choice */
		if (l->ssl)
			SSL_shutdown(l->ssl);
		shutdown(l->fd, SHUT_WR);
		l->state = LOAD_CLOSE;
		return;
	}
	if (r->opened < r->opt.links) {
		r->opened++;
		l->state = LOAD_PARKED;
		return;
	}
	r->done++;
	l->state = LOAD_PARKED;
}

static int load_link_receive(struct load_run *r, struct load_link *l)
{
	ssize_t n = load_link_io(l, false, l->reply + l->got, sizeof(l->reply) - l->got);

	if (n < 0)
		load_link_fail(r, l, "closed before the answer");
	if (n <= 0)
		return (int)n;
	l->got += (size_t)n;
	if (l->got < 4 || memcmp(l->reply + l->got - 4, "\r\n\r\n", 4) != 0) {
		if (l->got < sizeof(l->reply))
			return 1;
		load_link_fail(r, l, "answer without an end");
		return -1;
	}
	if (memcmp(l->reply, "SIP/2.0 200 ", 12) != 0 ||
	    memmem(l->reply + 12, l->got - 12, "SIP/2.0 ", 8)) {
		load_link_fail(r, l, "answer is not one 200");
		return -1;
	}
	load_link_answered(r, l);
	return 1;
}

static int load_link_close(struct load_run *r, struct load_link *l)
{
	ssize_t n = recv(l->fd, l->reply, sizeof(l->reply), 0);

	if (n > 0)
		return 1;
	if (n < 0 && errno == EAGAIN)
		return 0;
	r->done++;
	l->state = LOAD_PARKED;
	load_link_drop(l);
	return 0;
}

/* As far as the socket goes: events are edge-triggered. */
static void load_link_step(struct load_run *r, struct load_link *l)
{
	int ret = 1;

	while (ret > 0) {
		switch (l->state) {
		case LOAD_CONNECT:
			ret = load_link_connected(r, l);
			break;
		case LOAD_HANDSHAKE:
			ret = load_link_handshake(r, l);
			break;
		case LOAD_SEND:
			ret = load_link_send(r, l);
			break;
		case LOAD_RECEIVE:
			ret = load_link_receive(r, l);
			break;
		case LOAD_CLOSE:
			ret = load_link_close(r, l);
			break;
		case LOAD_PARKED:
			ret = 0;
			break;
		}
	}
}

/* True when time is over, which is then the error unless there is one */
static bool load_is_late(struct load_run *r)
{
	if (load_clock(CLOCK_MONOTONIC) <= r->deadline)
		return false;
	if (!r->error[0])
		snprintf(r->error, sizeof(r->error), "no answer within %lds", r->opt.limit);
	return true;
}

/* Waits once for sockets; -1: time is over or too much has failed. */
static int load_wait(struct load_run *r)
{
	struct epoll_event ev[64];
	int i, n;

	if (r->failed >= LOAD_FAILED_MAX || load_is_late(r))
		return -1;
	n = epoll_wait(r->epoll, ev, 64, 1000);
	for (i = 0; i < n; i++)
		load_link_step(r, ev[i].data.ptr);
	return 0;
}

static int load_run_connect(struct load_run *r)
{
	long i;

	while (r->done + r->failed < r->opt.count) {
		for (i = 0; i < r->opt.links && r->started < r->opt.count; i++) {
			if (r->links[i].state != LOAD_PARKED)
				continue;
			r->started++;
			load_link_open(r, &r->links[i]);
		}
		if (load_wait(r) < 0)
			return -1;
	}
	return r->failed ? -1 : 0;
}

static int load_run_open(struct load_run *r)
{
	long i, next = 0;

	while (r->opened < r->opt.links) {
		while (next < r->opt.links && next - r->opened < LOAD_OPENING_MAX)
			load_link_open(r, &r->links[next++]);
		if (r->failed || load_wait(r) < 0)
			return -1;
	}
	/* what the server sends from now on shall cost it no more than to send it */
	for (i = 0; i < r->opt.links; i++)
		epoll_ctl(r->epoll, EPOLL_CTL_DEL, r->links[i].fd, NULL);
	return 0;
}

/* Has the kernel hold back what is sent, or let it go */
static void load_link_cork(const struct load_link *l, int on)
{
	setsockopt(l->fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on));
}

/* True when there is something to be read, the end included */
static bool load_link_has_input(const struct load_link *l)
{
	char byte;

	return recv(l->fd, &byte, 1, MSG_PEEK) >= 0 || errno != EAGAIN;
}

/* Makes the next request, but does not let it go */
static int load_link_ask(struct load_run *r, struct load_link *l)
{
	load_link_cork(l, 1);
	l->state = LOAD_SEND;
	if (load_link_has_input(l)) {
		errno = 0; /* a bare end has none */
		load_link_fail(r, l, "more than one answer, or an end");
		return -1;
	}
	return load_link_send(r, l) > 0 && l->state == LOAD_RECEIVE ? 0 : -1;
}

/* Looks at the answers once every link that waits for one has something; else at none. */
static void load_take_answers(struct load_run *r)
{
	long i;

	for (i = 0; i < r->opt.links; i++)
		if (r->links[i].state == LOAD_RECEIVE && !load_link_has_input(&r->links[i]))
			return;
	for (i = 0; i < r->opt.links; i++)
		load_link_step(r, &r->links[i]);
}

/*
 * One request on each link. While the server works this program sleeps, on nothing that the server
 * had to wake, whether it speaks TLS or not: requests are made before the first goes out, answers
 * are looked at when all are there.
 */
static int load_run_requests(struct load_run *r)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	long i;

	for (i = 0; i < r->opt.links; i++)
		if (load_link_ask(r, &r->links[i]) < 0)
			break;
	for (i = 0; i < r->opt.links && !r->failed; i++)
		load_link_cork(&r->links[i], 0);
	while (!r->failed && r->done < r->opt.links && !load_is_late(r)) {
		nanosleep(&pause, NULL);
		load_take_answers(r);
	}
	return r->done == r->opt.links ? 0 : -1;
}

static bool load_line_await(void)
{
	char line[16];

	return fgets(line, sizeof(line), stdin) != NULL;
}

static void load_result_print(const struct load_run *r, uint64_t wall, uint64_t cpu)
{
	const char *p;

	printf("{\"done\": %ld, \"failed\": %ld, \"resumed\": %ld, \"version\": \"%s\", "
	       "\"cipher\": \"%s\", \"group\": \"%s\", \"wall_ns\": %llu, \"client_cpu_ns\": %llu, "
	       "\"error\": \"",
	       r->done, r->failed, r->resumed, r->version, r->cipher, r->group,
	       (unsigned long long)wall, (unsigned long long)cpu);
	for (p = r->error; *p; p++)
		putchar(*p == '"' || *p == '\\' || (unsigned char)*p < ' ' ? '\'' : *p);
	printf("\"}\n");
	fflush(stdout);
}

/* One measured piece of work, with its result */
static int load_execute(struct load_run *r, int (*work)(struct load_run *))
{
	uint64_t wall = load_clock(CLOCK_MONOTONIC);
	uint64_t cpu = load_clock(CLOCK_PROCESS_CPUTIME_ID);
	int ret;

	r->deadline = wall + (uint64_t)r->opt.limit * 1000000000u;
	r->started = r->done = 0;
	ret = work(r);
	load_result_print(r, load_clock(CLOCK_MONOTONIC) - wall,
			  load_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu);
	return ret;
}

static int load_keep(struct load_run *r)
{
	int ret = 0;

	r->deadline = load_clock(CLOCK_MONOTONIC) + (uint64_t)r->opt.limit * 1000000000u;
	if (load_run_open(r) < 0) {
		load_result_print(r, 0, 0);
		return -1;
	}
	printf("ready\n");
	fflush(stdout);
	while (ret == 0 && load_line_await())
		ret = load_execute(r, load_run_requests);
	return ret;
}

/* One suite only, so that the server has no choice and all of them do the same. */
static SSL_CTX *load_ctx_new(const struct load_options *opt)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	bool is13 = strcmp(opt->tls, "1.3") == 0;
	int version = is13 ? TLS1_3_VERSION : TLS1_2_VERSION;

	if (!ctx || !SSL_CTX_set_min_proto_version(ctx, version) ||
	    !SSL_CTX_set_max_proto_version(ctx, version) ||
	    !SSL_CTX_set1_groups_list(ctx, "X25519:P-256") ||
	    !(is13 ? SSL_CTX_set_ciphersuites(ctx, opt->suite)
		   : SSL_CTX_set_cipher_list(ctx, opt->suite))) {
		ERR_print_errors_fp(stderr);
		SSL_CTX_free(ctx);
		return NULL;
	}
	SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	return ctx;
}

static X509 *load_cert_read(const char *file)
{
	FILE *f = fopen(file, "r");
	X509 *cert = f ? PEM_read_X509(f, NULL, NULL, NULL) : NULL;

	if (!cert)
		fprintf(stderr, "load: no certificate in %s\n", file);
	if (f)
		fclose(f);
	return cert;
}

/* An OPTIONS of the size that phones send: about 500 bytes. */
static void load_request_build(struct load_run *r)
{
	const char *transport = r->opt.tls ? "TLS" : "TCP";
	int n;

	n = snprintf(
		r->request, sizeof(r->request),
		"OPTIONS sip:bench@127.0.0.1:%05d SIP/2.0\r\n"
		"Via: SIP/2.0/%s 127.0.0.1:5070;branch=z9hG4bK-524287-1---6f1d2c3b4a5968;rport\r\n"
		"Max-Forwards: 70\r\n"
		"Contact: <sip:load@127.0.0.1:5070;transport=%s>\r\n"
		"To: <sip:bench@127.0.0.1>\r\n"
		"From: \"Load\" <sip:load@127.0.0.1>;tag=8a7b6c5d\r\n"
		"Call-ID: 57c1d8e0a9f24b6c8d1e3f5a7b9c0d2e@127.0.0.1\r\n"
		"CSeq: 1 OPTIONS\r\n"
		"Accept: application/sdp\r\n"
		"Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE\r\n"
		"User-Agent: load client of the tls module\r\n"
		"Content-Length: 0\r\n\r\n",
		r->opt.port, transport, transport);
	r->request_len = (size_t)n;
}

/* -1: not a number */
static long load_number(const char *text)
{
	char *end;
	long n = strtol(text, &end, 10);

	return *text && !*end ? n : -1;
}

static int load_options_parse(struct load_options *opt, int argc, char **argv)
{
	int c;

	*opt = (struct load_options){.mode = "connect", .count = 1, .links = 1, .limit = 60};
	while ((c = getopt(argc, argv, "m:p:n:k:t:s:c:w:d:f:")) != -1) {
		switch (c) {
		case 'm':
			opt->mode = optarg;
			break;
		case 'p':
			opt->port = (int)load_number(optarg);
			break;
		case 'n':
			opt->count = load_number(optarg);
			break;
		case 'k':
			opt->links = load_number(optarg);
			break;
		case 't':
			opt->tls = optarg;
			break;
		case 's':
			opt->suite = optarg;
			break;
		case 'c':
			opt->cert = optarg;
			break;
		case 'w':
			opt->limit = load_number(optarg);
			break;
		case 'd':
			opt->domains = load_number(optarg);
			break;
		case 'f':
			opt->first = load_number(optarg);
			break;
		default:
			return -1;
		}
	}
	if (opt->tls && (!opt->suite || !opt->cert == !opt->domains))
		return -1;
	if (opt->domains < 0 || opt->first < 0 || (opt->domains && !opt->tls))
		return -1;
	return opt->port > 0 && opt->count >= 0 && opt->links > 0 && opt->limit > 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
	static struct load_run r;
	struct rlimit files;
	long i;

	if (load_options_parse(&r.opt, argc, argv) < 0) {
		fprintf(stderr, "usage: load -p port [-m connect|keep] [-n count] [-k links] "
				"[-t 1.2|1.3 -s suite -c cert.pem|-d domains [-f first]] "
				"[-w seconds]\n");
		return 2;
	}
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	signal(SIGPIPE, SIG_IGN);
	r.keep = strcmp(r.opt.mode, "keep") == 0;
	r.epoll = epoll_create1(EPOLL_CLOEXEC);
	r.links = calloc((size_t)r.opt.links, sizeof(*r.links));
	if (r.epoll < 0 || !r.links)
		return 2;
	for (i = 0; i < r.opt.links; i++)
		r.links[i] = (struct load_link){.fd = -1, .state = LOAD_PARKED};
	if (r.opt.tls && (!(r.ctx = load_ctx_new(&r.opt)) ||
			  (r.opt.cert && !(r.cert = load_cert_read(r.opt.cert)))))
		return 2;
	load_request_build(&r);
	return (r.keep ? load_keep(&r) : load_execute(&r, load_run_connect)) < 0 ? 1 : 0;
}
