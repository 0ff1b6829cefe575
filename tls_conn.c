/* SPDX-License-Identifier: ISC */
#include "tls_conn.h"

#include "core/dprint.h"
#include "core/globals.h"
#include "core/mem/shm_mem.h"
#include "core/pass_fd.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

/* Bytes in all queues; in shared memory. */
static atomic_uint *queued_bytes;

int tls_conn_init(void)
{
	queued_bytes = shm_malloc(sizeof(*queued_bytes));
	if (!queued_bytes)
		return -1;
	atomic_init(queued_bytes, 0);
	return 0;
}

void tls_conn_destroy(void)
{
	if (queued_bytes)
		shm_free(queued_bytes);
	queued_bytes = NULL;
}

unsigned tls_conn_queued_bytes(void)
{
	return queued_bytes ? atomic_load(queued_bytes) : 0;
}

struct tls_conn *tls_conn_new(struct tcp_connection *tcp)
{
	struct tls_conn *conn = shm_malloc(sizeof(*conn));

	if (!conn)
		return NULL;
	memset(conn, 0, sizeof(*conn));
	conn->tcp = tcp;
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

void tls_conn_free(struct tls_conn *conn)
{
	if (!conn)
		return;
	if (conn->handle)
		tls_engine_release(conn->handle);
	tls_engine_domain_use(conn->domain_id, -1);
	while (conn->queue)
		tls_conn_queue_pop(conn);
	tls_blob_free(&conn->records);
	tls_blob_free(&conn->clear);
	tls_blob_free(&conn->peer_cert);
	if (conn->server_name)
		shm_free(conn->server_name);
	tls_stream_wipe(&conn->stream);
	shm_free(conn);
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
	else if (atomic_load(queued_bytes) + len > max_all)
		*reason = "too much clear text waits for handshakes (ct_wq_max)";
	else if (!(*last = tls_blob_new(data, len)))
		*reason = "out of shared memory";
	else {
		atomic_fetch_add(queued_bytes, (unsigned)len);
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
	atomic_fetch_sub(queued_bytes, first->len);
	shm_free(first);
}
