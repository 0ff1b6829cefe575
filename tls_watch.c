/* SPDX-License-Identifier: ISC */
#include "tls_watch.h"

#include "tls_log.h"

#include "core/globals.h"
#include "core/locking.h"
#include "core/mem/shm_mem.h"
#include "core/pass_fd.h"
#include "core/timer.h"

/* Seconds for which the host waits longer for a peer that does not read, so that it is not it that
 * closes, without a word of why, when this file has to try again. */
#define HOST_WAITS 10

/* Connections that are closed at one go, with the list's lock free again. */
#define MAX_LATE 256

/* In shared memory. The lock is taken inside write_lock and the host's connection lock; while it is
 * held no other lock is waited for. */
struct watch_list {
	gen_lock_t lock;
	struct tls_conn *first;
};

static struct watch_list *list;
static bool is_over;

enum late {
	LATE_NOT,
	LATE_HANDSHAKE,
	LATE_SEND,
};

struct late_conn {
	int id;
	enum late why;
};

bool tls_watch_handshake_late(const struct tls_conn *conn)
{
	ticks_t limit = S_TO_TICKS((ticks_t)cfg_get(tls, tls_cfg, handshake_timeout));

	return conn->state < TLS_CONN_FAST && TICKS_GE(get_ticks_raw(), conn->started + limit);
}

static void link_conn(struct tls_conn *conn)
{
	struct tls_watch_link *link = &conn->watch;

	link->listed = true;
	link->prev = NULL;
	link->next = list->first;
	if (list->first)
		list->first->watch.prev = conn;
	list->first = conn;
}

/* Late ones come back as they were, with the time since which nothing gets out. */
static void enlist(struct tls_conn *conn, bool anew)
{
	if (is_over)
		return;
	lock_get(&list->lock);
	if (!conn->watch.listed) {
		if (anew)
			conn->watch.queued = 0;
		link_conn(conn);
	}
	lock_release(&list->lock);
}

void tls_watch_enlist(struct tls_conn *conn)
{
	enlist(conn, true);
}

static void unlink_conn(struct tls_conn *conn)
{
	struct tls_watch_link *link = &conn->watch;

	if (link->prev)
		link->prev->watch.next = link->next;
	else
		list->first = link->next;
	if (link->next)
		link->next->watch.prev = link->prev;
	link->listed = false;
}

void tls_watch_remove(struct tls_conn *conn)
{
	if (is_over)
		return;
	lock_get(&list->lock);
	if (conn->watch.listed)
		unlink_conn(conn);
	lock_release(&list->lock);
}

/*
 * Looks after the host's queue of ciphertext that the socket did not take. The host gives up
 * after tcp_send_timeout; its deadline is moved so that send_timeout decides.
 */
static enum late look_at_queue(struct tls_conn *conn)
{
	struct tcp_wbuffer_queue *queue = &conn->tcp->wbuf_q;
	ticks_t limit = S_TO_TICKS((ticks_t)cfg_get(tls, tls_cfg, send_timeout));
	ticks_t now = get_ticks_raw();

	if (conn->watch.queued == 0 || queue->queued < conn->watch.queued ||
	    queue->wr_timeout != conn->watch.deadline)
		conn->watch.stalled = now;
	conn->watch.queued = queue->queued;
	if (TICKS_GE(now, conn->watch.stalled + limit))
		return LATE_SEND;
	if (conn->tcp->state != S_CONN_CONNECT && lock_try(&conn->tcp->write_lock) == 0) {
		if (queue->first)
			queue->wr_timeout = conn->watch.deadline =
				conn->watch.stalled + limit + S_TO_TICKS(HOST_WAITS);
		lock_release(&conn->tcp->write_lock);
	}
	return LATE_NOT;
}

static enum late look_at(struct tls_conn *conn)
{
	if (tls_watch_handshake_late(conn))
		return LATE_HANDSHAKE;
	if (conn->tcp->wbuf_q.first)
		return look_at_queue(conn);
	if (conn->state >= TLS_CONN_FAST && lock_try(&conn->tcp->write_lock) == 0) {
		if (!conn->tcp->wbuf_q.first) /* nobody is about to queue, either */
			unlink_conn(conn);
		lock_release(&conn->tcp->write_lock);
	}
	return LATE_NOT;
}

/* Asks the host to close c, whose reference goes with the command. A process that reads it at the
 * moment is woken by the hook tcpconn_close, which shuts the socket down. */
static void close_connection(struct tcp_connection *c)
{
	struct tls_conn *conn = c->extra_data;

	conn->timed_out = true;
	c->send_flags.f |= SND_F_CON_CLOSE;
	if (tls_conn_send_eof(c) != 0)
		tls_conn_put(c);
}

static struct tcp_connection *find_connection(int id)
{
	struct tcp_connection *c = tcpconn_get(id, NULL, 0, NULL, 0);

	if (c && (c->type == PROTO_TLS || c->type == PROTO_WSS) && c->extra_data)
		return c;
	if (c)
		tls_conn_put(c);
	return NULL;
}

int tls_watch_close(int id)
{
	struct tcp_connection *c = find_connection(id);

	if (!c)
		return -1;
	close_connection(c);
	return 0;
}

/* Logs why a connection is closed. False if it is not to be, for now: it is not late any more, or a
 * process works on it. */
static bool log_late(struct tls_conn *conn, enum late why)
{
	bool is_late;

	if (lock_try(&conn->tcp->write_lock) != 0)
		return false;
	is_late =
		why == LATE_SEND ? conn->tcp->wbuf_q.first != NULL : tls_watch_handshake_late(conn);
	conn->timed_out |= is_late;
	if (is_late && why == LATE_SEND)
		tls_log_failure(conn, TLS_CAUSE_send, "the peer does not read (send_timeout)");
	else if (is_late)
		tls_log_failure(conn, TLS_CAUSE_timeout, TLS_WATCH_LATE);
	lock_release(&conn->tcp->write_lock);
	return is_late;
}

/* Returns true if it was closed; otherwise it is looked at again. */
static bool close_late(const struct late_conn *late)
{
	struct tcp_connection *c = find_connection(late->id);

	if (!c)
		return false;
	if (!log_late(c->extra_data, late->why)) {
		enlist(c->extra_data, false);
		tls_conn_put(c);
		return false;
	}
	close_connection(c);
	return true;
}

/* Closes late connections, MAX_LATE at most. Returns their number. */
static size_t close_some(void)
{
	struct late_conn late[MAX_LATE];
	struct tls_conn *conn, *next;
	size_t found = 0, closed = 0;

	lock_get(&list->lock);
	for (conn = list->first; conn && found < MAX_LATE; conn = next) {
		enum late why = look_at(conn);

		next = conn->watch.next;
		if (why == LATE_NOT)
			continue;
		late[found].id = conn->tcp->id;
		late[found++].why = why;
		unlink_conn(conn);
	}
	lock_release(&list->lock);
	for (size_t i = 0; i < found; i++)
		closed += close_late(&late[i]);
	return closed;
}

static void watch_timer(unsigned int ticks, void *unused)
{
	(void)ticks;
	(void)unused;
	while (close_some() == MAX_LATE) /* those that were late are off the list */
		;
}

int tls_watch_init(void)
{
	list = shm_malloc(sizeof(*list));
	if (!list || !lock_init(&list->lock)) {
		LM_ERR("out of shared memory for the list of watched connections\n");
		return -1;
	}
	list->first = NULL;
	if (register_timer(watch_timer, NULL, 1) < 0) {
		LM_ERR("cannot register a timer\n");
		return -1;
	}
	return 0;
}

void tls_watch_end(void)
{
	is_over = true;
}

void tls_watch_destroy(void)
{
	if (!list)
		return;
	lock_destroy(&list->lock);
	shm_free(list);
	list = NULL;
}
