/* SPDX-License-Identifier: ISC */
#include "tls_flow.h"

#include "tls_event.h"
#include "tls_log.h"
#include "tls_stats.h"
#include "tls_watch.h"

#include "core/cfg/cfg_struct.h"
#include "core/mem/shm_mem.h"
#include "core/pt.h"
#include "core/tcp_int_send.h"

#include <string.h>
#include <sys/socket.h>

/* A held connection's close_notify is not worth keeping the TCP main process waiting. */
#define CLOSE_TIMEOUT_MS 50

uint8_t tls_output[TLS_OUTPUT_SIZE];

/* ---- the engine ---- */

static void fill_address(struct tls_address *a, const struct ip_addr *ip, unsigned short port)
{
	a->ip_len = (uint8_t)ip->len;
	a->port = port;
	memcpy(a->ip, ip->u.addr, ip->len);
}

struct tls_engine_slot *tls_flow_ask(struct tls_conn *conn, enum tls_engine_op op,
				     const uint8_t *in, size_t len, const char **reason)
{
	struct tls_engine_slot *slot = tls_engine_slot((unsigned)process_no);
	struct receive_info *rcv = &conn->tcp->rcv;

	conn->cause = TLS_CAUSE_engine;
	*reason = "reason=\"the engine is still busy with an earlier request\"";
	if (!slot)
		return NULL;
	slot->request.op = op;
	slot->request.handle = conn->handle;
	slot->request.in_len = (uint32_t)len;
	slot->request.keylog = tls_keylog_active();
	slot->request.setup.role = conn->role;
	if (conn->wish && !conn->handle) {
		memcpy(slot->request.setup.server_id, conn->wish->server_id, TLS_SESSION_NAME);
		memcpy(slot->request.setup.server_name, conn->wish->server_name, TLS_SESSION_NAME);
	}
	fill_address(&slot->request.setup.local, &rcv->dst_ip, rcv->dst_port);
	fill_address(&slot->request.setup.remote, &rcv->src_ip, rcv->src_port);
	if (len > 0)
		memcpy(slot->in, in, len);
	*reason = "reason=\"the engine did not answer in time (engine_timeout)\"";
	if (tls_engine_call(slot, (unsigned)cfg_get(tls, tls_cfg, engine_timeout)) != 0)
		return NULL;
	conn->handle = slot->answer.handle;
	conn->cause = (uint8_t)slot->answer.cause;
	tls_log_keys(conn, &slot->answer);
	conn->clear_bytes = slot->answer.clear_bytes;
	conn->packed_bytes = slot->answer.packed_bytes;
	return slot;
}

static const char *version_name(uint16_t version)
{
	switch (version) {
	case TLS_VERSION_1_3:
		return "TLSv1.3";
	case TLS_VERSION_1_2:
		return "TLSv1.2";
	case TLS_VERSION_1_1:
		return "TLSv1.1";
	case TLS_VERSION_1_0:
		return "TLSv1.0";
	default:
		return "SSLv3";
	}
}

static char *shm_copy(const char *text)
{
	size_t size = strlen(text) + 1;
	char *copy = shm_malloc(size);

	if (copy)
		memcpy(copy, text, size);
	return copy;
}

static void log_established(const struct tls_conn *conn)
{
	tls_log_conn(cfg_get(tls, tls_cfg, log), conn, "established",
		     "version=%s suite=%s path=%s verified=%s resumed=%s domain=\"%s\"%s%s",
		     version_name(conn->version), tls_engine_suite_name(conn->suite),
		     conn->state == TLS_CONN_FAST ? "fast" : "engine",
		     !conn->has_peer_cert ? "none"
		     : conn->verified     ? "yes"
					  : "no",
		     conn->resumed ? "yes" : "no", tls_engine_domain_name(conn->domain_id),
		     conn->server_name ? " sni=" : "", conn->server_name ? conn->server_name : "");
}

/* Keys are copied last: whatever fails before leaves none. */
static int keep_answer(struct tls_conn *conn, const struct tls_engine_slot *slot)
{
	const struct tls_engine_answer *answer = &slot->answer;
	const struct tls_session_info *info = &answer->info;

	if (tls_conn_keep_certs(conn, slot->cert, answer->cert_len) != 0 ||
	    (info->server_name[0] && !(conn->server_name = shm_copy(info->server_name))) ||
	    (tls_session_awaits(answer->state) && tls_conn_await(conn, slot) != 0))
		return -1;
	conn->domain_id = info->domain_id;
	tls_engine_domain_use(conn->domain_id, 1);
	conn->version = info->version;
	conn->suite = info->suite;
	conn->suite_bits = info->suite_bits;
	conn->resumed = info->resumed;
	conn->has_peer_cert = info->has_peer_cert;
	conn->verified = info->verified;
	conn->verify_result = (int32_t)info->verify_result;
	if (answer->state == TLS_SESSION_FAST || tls_session_awaits(answer->state))
		conn->stream = answer->stream;
	return 0;
}

int tls_flow_take(struct tls_conn *conn, struct tls_engine_slot *slot)
{
	int result = keep_answer(conn, slot);

	tls_slot_wipe_keys(&slot->answer);
	return result;
}

void tls_flow_establish(struct tls_conn *conn, enum tls_conn_state state)
{
	conn->state = (uint8_t)state;
	conn->stream.update_after = (uint64_t)cfg_get(tls, tls_cfg, key_update_records);
	atomic_store(&conn->told, true);
	tls_watch_remove(conn);
	tls_stats_note_peak();
	tls_conn_count_established(conn);
	log_established(conn);
	conn->event_due = tls_event_is_wanted(conn);
}

/* ---- clear text to records ---- */

static void count_sent(size_t bytes, size_t fragment)
{
	tls_conn_count_clear(true, bytes, (bytes + fragment - 1) / fragment);
}

int tls_flow_seal(struct tls_conn *conn, const void *data, size_t len, size_t *taken,
		  const char **reason)
{
	struct tls_engine_slot *slot;
	size_t fragment = tls_flow_fragment(), sealed;

	*taken = 0;
	if (conn->state == TLS_CONN_FAST) {
		sealed = tls_stream_write(&conn->stream, data, len, taken, fragment, tls_output,
					  sizeof(tls_output));
		*reason = "reason=\"a record could not be sealed\"";
		conn->cause = TLS_CAUSE_protocol;
		count_sent(*taken, fragment);
		return sealed > 0 ? (int)sealed : -1;
	}
	if (len > TLS_RECORD_MAX_PLAIN)
		len = TLS_RECORD_MAX_PLAIN;
	slot = tls_flow_ask(conn, TLS_ENGINE_WRITE, data, len, reason);
	if (!slot)
		return -1;
	*reason = slot->answer.text;
	if (slot->answer.state != TLS_SESSION_HELD || slot->answer.out_len > sizeof(tls_output) ||
	    slot->answer.more)
		return -1;
	memcpy(tls_output, slot->out, slot->answer.out_len);
	*taken = slot->answer.in_used;
	count_sent(*taken, fragment);
	return (int)slot->answer.out_len;
}

int tls_flow_flush(struct tls_conn *conn, const char **reason)
{
	while (conn->queue) {
		struct tls_blob *piece = conn->queue;
		size_t taken;
		bool last;
		int len = tls_flow_seal(conn, piece->data + piece->taken, piece->len - piece->taken,
					&taken, reason);

		if (len < 0)
			return -1;
		piece->taken += (uint32_t)taken;
		last = piece->taken == piece->len && !piece->next;
		if (piece->taken == piece->len)
			tls_conn_queue_pop(conn);
		*reason = "reason=\"cannot send\"";
		conn->cause = TLS_CAUSE_send;
		if (tls_flow_send(conn, tls_output, (size_t)len, last && conn->close_after_send) !=
		    0)
			return -1;
	}
	return 0;
}

/* ---- ends ---- */

void tls_flow_end(struct tls_conn *conn)
{
	conn->state = TLS_CONN_CLOSED;
	conn->eof = true;
	tls_blob_free(&conn->records);
	tls_blob_free(&conn->clear);
	tls_stream_wipe(&conn->stream);
	tls_conn_await_free(conn);
}

int tls_flow_send(struct tls_conn *conn, const uint8_t *data, size_t len, bool close_after)
{
	struct tcp_connection *c = conn->tcp;
	snd_flags_t flags = {0};

	if (close_after)
		flags.f |= SND_F_CON_CLOSE;
	if (len == 0)
		return 0;
	tls_watch_add(conn);
	return tcpconn_send_unsafe(c->fd, c, (const char *)data, (unsigned)len, flags) < 0 ? -1 : 0;
}

int tls_flow_send_soon(struct tls_conn *conn, const uint8_t *data, size_t len)
{
	struct tcp_connection *c = conn->tcp;
	ssize_t sent = 0;

	if (!c->wbuf_q.first)
		sent = send(c->fd, data, len, MSG_MORE | MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0) /* tls_flow_send() will find out what is wrong */
		sent = 0;
	return tls_flow_send(conn, data + sent, len - (size_t)sent, false);
}

void tls_flow_end_early(struct tls_conn *conn)
{
	if (conn->state == TLS_CONN_HANDSHAKE) {
		tls_log_failure(conn, TLS_CAUSE_closed,
				"the connection was closed during the handshake");
	} else if (conn->state == TLS_CONN_NEW) {
		tls_log_conn(L_INFO, conn, "closed",
			     "reason=\"the connection was closed without a byte\"");
	}
}

size_t tls_flow_close_notify(struct tls_conn *conn)
{
	struct tls_engine_slot *slot;

	if (conn->state == TLS_CONN_FAST)
		return tls_stream_alert(&conn->stream, TLS_ALERT_CLOSE_NOTIFY, tls_output);
	slot = conn->handle == 0 || tls_engine_is_stuck() ? NULL
							  : tls_engine_slot((unsigned)process_no);
	if (!slot)
		return 0;
	slot->request.op = TLS_ENGINE_CLOSE;
	slot->request.handle = conn->handle;
	if (tls_engine_call(slot, CLOSE_TIMEOUT_MS) != 0)
		return 0;
	memcpy(tls_output, slot->out, slot->answer.out_len);
	return slot->answer.out_len;
}
