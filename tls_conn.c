/* SPDX-License-Identifier: ISC */
#include "tls_conn.h"

#include "core/dprint.h"
#include "core/globals.h"
#include "core/locking.h"
#include "core/mem/shm_mem.h"
#include "core/pass_fd.h"
#include "core/pt.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

/* Blocks that are kept for the next connections: the host's allocator looks through thousands of
 * lists for one of their size, and gives what is freed to others, which leave a part unused. */
#define MAX_SPARES 32

struct spare {
	struct spare *next;
};

/* What is kept of one kind. */
struct spares {
	struct spare *first;
	unsigned count;
};

/* In shared memory. Inside the lock nothing is waited for. */
struct conns {
	atomic_uint queued_bytes; /* in all queues */
	gen_lock_t lock;          /* guards the rest */
	struct spares conn, await;
};

static struct conns *conns;

int tls_conn_init(void)
{
	conns = shm_malloc(sizeof(*conns));
	if (!conns)
		return -1;
	memset(conns, 0, sizeof(*conns));
	return lock_init(&conns->lock) ? 0 : -1;
}

void tls_conn_free_lock(void)
{
	if (conns)
		lock_init(&conns->lock);
}

static void free_spares(struct spares *spares)
{
	for (struct spare *spare = spares->first, *next; spare; spare = next) {
		next = spare->next;
		shm_free(spare);
	}
}

void tls_conn_destroy(void)
{
	if (!conns)
		return;
	free_spares(&conns->conn);
	free_spares(&conns->await);
	lock_destroy(&conns->lock);
	shm_free(conns);
	conns = NULL;
}

/* A block of the size that this kind has, or NULL without memory. */
static void *take(struct spares *spares, size_t size)
{
	struct spare *spare;

	lock_get(&conns->lock);
	spare = spares->first;
	if (spare) {
		spares->first = spare->next;
		spares->count--;
	}
	lock_release(&conns->lock);
	return spare ? spare : shm_malloc(size);
}

/* Takes a block back; what is secret in it was wiped. */
static void give(struct spares *spares, void *block)
{
	struct spare *spare = block;
	bool keep;

	lock_get(&conns->lock);
	keep = spares->count < MAX_SPARES;
	if (keep) {
		spare->next = spares->first;
		spares->first = spare;
		spares->count++;
	}
	lock_release(&conns->lock);
	if (!keep)
		shm_free(block);
}

unsigned tls_conn_queued_bytes(void)
{
	return conns ? atomic_load(&conns->queued_bytes) : 0;
}

enum tls_role tls_conn_role(const struct tcp_connection *tcp)
{
	return tcp->state == S_CONN_ACCEPT || (tcp->flags & F_CONN_PASSIVE) ? TLS_ROLE_SERVER
									    : TLS_ROLE_CLIENT;
}

struct tls_conn *tls_conn_new(struct tcp_connection *tcp)
{
	struct tls_conn *conn = take(&conns->conn, sizeof(*conn));

	if (!conn)
		return NULL;
	memset(conn, 0, sizeof(*conn));
	conn->tcp = tcp;
	conn->role = tls_conn_role(tcp);
	if (conn->role == TLS_ROLE_CLIENT && tls_connect_take_wish(&conn->wish) != 0) {
		shm_free(conn);
		return NULL;
	}
	conn->started = get_ticks_raw();
	conn->created = (int64_t)time(NULL);
	return conn;
}

int tls_conn_send_eof(struct tcp_connection *tcp)
{
	long command[2] = {(long)tcp, CONN_EOF};

	if (send_all(unix_tcp_sock, command, sizeof(command)) > 0)
		return 0;
	LM_ERR("tls: cannot reach the TCP main process about connection %d\n", tcp->id);
	return -1;
}

void tls_conn_put(struct tcp_connection *tcp)
{
	if (!tcpconn_put(tcp))
		return;
	atomic_inc(&tcp->refcnt); /* nobody else can find it any more */
	tls_conn_send_eof(tcp);
}

void tls_conn_count(enum tls_counter row, int64_t n)
{
	tls_counter_add((unsigned)process_no, row, n);
}

void tls_conn_count_clear(bool sent, size_t bytes, size_t records)
{
	tls_counter_add_clear((unsigned)process_no, sent, bytes, records);
}

void tls_conn_count_failure(struct tls_conn *conn)
{
	/* The host sets its flag only after on_tcpconn_init. */
	bool server = (conn->tcp->flags & F_CONN_PASSIVE) || conn->tcp->state == S_CONN_ACCEPT;

	if (conn->failed)
		return;
	conn->failed = true;
	if (conn->counted) {
		tls_conn_count(TLS_COUNT_connections_failed, 1);
		return;
	}
	tls_conn_count(server ? TLS_COUNT_handshakes_failed_server
			      : TLS_COUNT_handshakes_failed_client,
		       1);
	tls_conn_count(tls_counter_of_cause((enum tls_cause)conn->cause), 1);
}

static enum tls_counter version_row(uint16_t version)
{
	switch (version) {
	case TLS_VERSION_1_3:
		return TLS_COUNT_handshakes_tls1_3;
	case TLS_VERSION_1_2:
		return TLS_COUNT_handshakes_tls1_2;
	case TLS_VERSION_1_1:
		return TLS_COUNT_handshakes_tls1_1;
	default:
		return TLS_COUNT_handshakes_tls1_0;
	}
}

static enum tls_counter path_row(uint8_t state)
{
	return state == TLS_CONN_FAST ? TLS_COUNT_connections_fast : TLS_COUNT_connections_held;
}

void tls_conn_count_established(struct tls_conn *conn)
{
	conn->counted = conn->state;
	tls_conn_count(path_row(conn->counted), 1);
	tls_conn_count(version_row(conn->version), 1);
	tls_conn_count(conn->resumed ? TLS_COUNT_handshakes_resumed : TLS_COUNT_handshakes_full, 1);
	tls_conn_count(conn->role == TLS_ROLE_SERVER ? TLS_COUNT_handshakes_server
						     : TLS_COUNT_handshakes_client,
		       1);
}

void tls_conn_free(struct tls_conn *conn)
{
	if (!conn)
		return;
	if (conn->counted)
		tls_conn_count(path_row(conn->counted), -1);
	if (conn->handle)
		tls_engine_release(conn->handle);
	tls_engine_domain_use(conn->domain_id, -1);
	tls_conn_await_free(conn);
	while (conn->queue)
		tls_conn_queue_pop(conn);
	tls_blob_free(&conn->records);
	tls_blob_free(&conn->clear);
	tls_cert_put(conn->own_cert);
	tls_cert_put(conn->peer_cert);
	tls_cert_chain_free(conn->chain);
	if (conn->server_name)
		shm_free(conn->server_name);
	if (conn->wish)
		shm_free(conn->wish);
	tls_stream_wipe(&conn->stream);
	give(&conns->conn, conn);
}

/* Moves *at behind the next certificate; returns it with its length, or NULL at the end. */
static const uint8_t *next_cert(const uint8_t **at, const uint8_t *end, size_t *len)
{
	const uint8_t *cert = *at + 4;

	if (end - *at < 4)
		return NULL;
	*len = (size_t)(*at)[0] << 24 | (size_t)(*at)[1] << 16 | (size_t)(*at)[2] << 8 | (*at)[3];
	if (*len > (size_t)(end - cert))
		return NULL;
	*at = cert + *len;
	return cert;
}

/* The next certificate, *cert NULL if it is not there. Returns -1 without memory. */
static int keep_cert(struct tls_cert **cert, const uint8_t **at, const uint8_t *end)
{
	size_t len;
	const uint8_t *der = next_cert(at, end, &len);

	if (!der || len == 0)
		return 0;
	*cert = tls_cert_get(der, len);
	return *cert ? 0 : -1;
}

static int keep_chain(struct tls_conn *conn, const uint8_t *at, const uint8_t *end)
{
	uint32_t count = 0;
	size_t len;

	for (const uint8_t *p = at; next_cert(&p, end, &len);)
		count++;
	if (count == 0)
		return 0;
	conn->chain = tls_cert_chain_new(count);
	if (!conn->chain)
		return -1;
	for (uint32_t i = 0; i < count; i++)
		if (keep_cert(&conn->chain->cert[i], &at, end) != 0)
			return -1;
	return 0;
}

int tls_conn_keep_certs(struct tls_conn *conn, const uint8_t *list, size_t len)
{
	const uint8_t *end = list + len;

	if (keep_cert(&conn->own_cert, &list, end) != 0 ||
	    keep_cert(&conn->peer_cert, &list, end) != 0)
		return -1;
	return keep_chain(conn, list, end);
}

/* Keeps what goes with the answer. Returns false without memory. */
static bool keep_rest(struct tls_conn_await *await, const struct tls_engine_slot *slot)
{
	const struct tls_engine_answer *answer = &slot->answer;
	const struct tls_exchange *x = &answer->await.exchange;
	size_t tickets = answer->out_len - answer->flight_len;

	if (answer->state == TLS_SESSION_FORETOLD) {
		if (tickets > 0)
			await->tickets = tls_blob_new(slot->out + answer->flight_len, tickets);
		return tickets == 0 || await->tickets;
	}
	await->messages = tls_blob_new(slot->clear, x->messages_len + x->ticket.session_len);
	if (await->messages)
		await->stream.messages = await->messages->data;
	return await->messages;
}

int tls_conn_await(struct tls_conn *conn, const struct tls_engine_slot *slot)
{
	struct tls_conn_await *await = take(&conns->await, sizeof(*await));

	if (!await)
		return -1;
	*await = (struct tls_conn_await){.stream = slot->answer.await, .offer = slot->answer.offer};
	conn->await = await;
	if (keep_rest(await, slot))
		return 0;
	tls_conn_await_free(conn);
	return -1;
}

void tls_conn_await_free(struct tls_conn *conn)
{
	if (!conn->await)
		return;
	tls_await_wipe(&conn->await->stream);
	tls_blob_free(&conn->await->tickets);
	tls_blob_free(&conn->await->messages);
	give(&conns->await, conn->await);
	conn->await = NULL;
}

struct tls_blob *tls_blob_new(const uint8_t *data, size_t len)
{
	struct tls_blob *blob = shm_malloc(sizeof(*blob) + len);

	if (!blob)
		return NULL;
	blob->next = NULL;
	blob->len = (uint32_t)len;
	blob->taken = 0;
	memcpy(blob->data, data, len);
	return blob;
}

void tls_blob_free(struct tls_blob **blob)
{
	if (*blob)
		shm_free(*blob);
	*blob = NULL;
}

int tls_conn_queue_add(struct tls_conn *conn, const void *data, size_t len, unsigned max_conn,
		       unsigned max_all, const char **reason)
{
	struct tls_blob **last = &conn->queue;

	while (*last)
		last = &(*last)->next;
	if (conn->queued + len > max_conn)
		*reason = "too much clear text waits for the handshake (con_ct_wq_max)";
	else if (atomic_load(&conns->queued_bytes) + len > max_all)
		*reason = "too much clear text waits for handshakes (ct_wq_max)";
	else if (!(*last = tls_blob_new(data, len)))
		*reason = NULL;
	else {
		atomic_fetch_add(&conns->queued_bytes, (unsigned)len);
		conn->queued += (uint32_t)len;
		return 0;
	}
	return -1;
}

void tls_conn_queue_pop(struct tls_conn *conn)
{
	struct tls_blob *first = conn->queue;

	conn->queue = first->next;
	conn->queued -= first->len;
	atomic_fetch_sub(&conns->queued_bytes, first->len);
	shm_free(first);
}
