/* SPDX-License-Identifier: ISC */
#include "tls_log.h"

#include "core/pt.h"

#include <openssl/crypto.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* What a line tells more is not worth keeping the TCP main process waiting. */
#define DESCRIBE_TIMEOUT_MS 50

static struct tls_address address_of(const struct ip_addr *ip, unsigned short port)
{
	struct tls_address a = {.ip_len = (uint8_t)ip->len, .port = port};

	memcpy(a.ip, ip->u.addr, ip->len <= sizeof(a.ip) ? ip->len : 0);
	return a;
}

void tls_log_conn(int level, const struct tls_conn *conn, const char *event, const char *format,
		  ...)
{
	const struct receive_info *rcv = &conn->tcp->rcv;
	struct tls_address peer_address, local_address;
	char peer[TLS_ADDRESS_TEXT], local[TLS_ADDRESS_TEXT];
	char detail[TLS_SESSION_TEXT + 128];
	va_list args;

	if (!is_printable(level))
		return;
	peer_address = address_of(&rcv->src_ip, rcv->src_port);
	local_address = address_of(&rcv->dst_ip, rcv->dst_port);
	va_start(args, format);
	vsnprintf(detail, sizeof(detail), format, args);
	va_end(args);
	LOG(level, "tls: %s peer=%s local=%s role=%s %s\n", event,
	    tls_address_text(&peer_address, peer), tls_address_text(&local_address, local),
	    conn->role == TLS_ROLE_SERVER ? "server" : "client", detail);
}

void tls_log_facts(const struct tls_conn *conn, int alert_sent, int alert_received, char *text)
{
	struct tls_facts facts = {
		.domain = tls_engine_domain_name(conn->domain_id),
		.bad_cert = "",
		.server_name = conn->server_name ? conn->server_name : "",
		.alert_sent = alert_sent,
		.alert_received = alert_received,
		.offer = conn->await ? &conn->await->offer : NULL,
	};

	tls_facts_tell(&facts, text, TLS_SESSION_TEXT);
}

/* What the engine knows of a handshake, or "". */
static const char *ask_engine(const struct tls_conn *conn)
{
	struct tls_engine_slot *slot = NULL;

	if (conn->state == TLS_CONN_HANDSHAKE && conn->handle && !tls_engine_is_stuck())
		slot = tls_engine_slot((unsigned)process_no);
	if (slot) {
		slot->request.op = TLS_ENGINE_DESCRIBE;
		slot->request.handle = conn->handle;
		if (tls_engine_call(slot, DESCRIBE_TIMEOUT_MS) != 0)
			slot = NULL;
	}
	return slot ? slot->answer.text : "";
}

static bool has_domain(const struct tls_conn *conn)
{
	return conn->await || conn->domain_id != 0;
}

void tls_log_failed(struct tls_conn *conn, const char *detail)
{
	char text[TLS_SESSION_TEXT] = "";

	tls_conn_count_failure(conn);
	tls_text_add(text, sizeof(text), "%s", detail);
	if (has_domain(conn) && !strstr(detail, " domain=\""))
		tls_log_facts(conn, -1, -1, text);
	tls_log_conn(L_WARN, conn, "failed", "%s", text);
}

void tls_log_failure(struct tls_conn *conn, enum tls_cause cause, const char *reason)
{
	char detail[TLS_SESSION_TEXT] = "";

	if (conn->failed)
		return;
	conn->cause = (uint8_t)cause;
	tls_text_add(detail, sizeof(detail), "reason=\"%s\"%s", reason,
		     has_domain(conn) ? "" : ask_engine(conn));
	tls_log_failed(conn, detail);
}

void tls_log_keys(const struct tls_conn *conn, struct tls_engine_answer *answer)
{
	if (answer->keylog_trouble[0])
		LM_ERR("tls: %s\n", answer->keylog_trouble);
	if (!answer->keylog[0])
		return;
	for (char *line = answer->keylog, *end; (end = strchr(line, '\n')); line = end + 1) {
		*end = '\0';
		tls_log_conn(L_NOTICE, conn, "keylog", "%s", line);
	}
	OPENSSL_cleanse(answer->keylog, sizeof(answer->keylog));
}

void tls_log_report(const char *text)
{
	const char *message;
	char level;
	int len;

	while ((len = tls_report_next(&text, &message, &level)) >= 0) {
		if (level == 'E')
			LM_ERR("tls: %.*s\n", len, message);
		else
			LM_WARN("tls: %.*s\n", len, message);
	}
}
