/* SPDX-License-Identifier: ISC */
#include "tls_rpc.h"

#include "tls_compat.h"
#include "tls_conn.h"
#include "tls_log.h"
#include "tls_watch.h"
#include "tls_workaround.h"

#include "core/globals.h"
#include "core/pt.h"
#include "core/tcp_info.h"

#include <openssl/crypto.h>

#include <stdio.h>
#include <string.h>
#include <time.h>

/* The engine reads all files of a configuration before it answers. */
#define LOAD_TIMEOUT_MS (120 * 1000)

#define NO_ENGINE "The TLS engine does not answer"

/* The host's table of connections and its lock; its own core.tcp_list uses them so, too. */
extern gen_lock_t *tcpconn_lock;
extern struct tcp_connection **tcpconn_id_hash;

/* ---- tls.list ---- */

/* "TLSs<default>", "TLSs<any:name>", "TLSc<ip:port>", from "server:any name" and so on. */
static void domain_text(uint32_t id, char *text, size_t size)
{
	const char *name = tls_engine_domain_name(id);
	const char *colon = strchr(name, ':');
	char *blank;

	snprintf(text, size, "N/A");
	if (!colon)
		return;
	snprintf(text, size, "TLS%c<%s>", name[0], colon + 1);
	while ((blank = strchr(text, ' ')))
		*blank = ':';
}

static const char *state_text(const struct tls_conn *conn)
{
	switch (conn->state) {
	case TLS_CONN_NEW:
		return "none/init";
	case TLS_CONN_HANDSHAKE:
		return conn->role == TLS_ROLE_SERVER ? "tls_accept" : "tls_connect";
	case TLS_CONN_FAST:
	case TLS_CONN_HELD:
		return "established";
	default:
		return "unknown/error";
	}
}

/* Ciphertext that waits. The host's lock is held, so a busy connection is not waited for. */
static int waiting_records(struct tcp_connection *c)
{
	const struct tls_conn *conn = c->extra_data;
	int len = 0;

	if (lock_try(&c->write_lock) != 0)
		return 0;
	if (conn->records)
		len = (int)conn->records->len;
	lock_release(&c->write_lock);
	return len;
}

/* One connection, copied while the host's lock was held. */
struct list_row {
	int id, timeout, src_port, dst_port, queued, records, flags;
	char domain[TLS_DOMAIN_NAME + 8], name[TLS_SESSION_NAME], created[24];
	char src[IP_ADDR_MAX_STR_SIZE], dst[IP_ADDR_MAX_STR_SIZE];
	char compression[32];
	const char *suite, *state, *path;
};

/* How many bytes of clear text one byte of compressed records stands for. */
static void compression_text(const struct tls_conn *conn, char *text, size_t size)
{
	uint64_t clear = conn->clear_bytes, packed = conn->packed_bytes;

	if (packed > 0)
		snprintf(text, size, "zlib %.2f", (double)clear / (double)packed);
	else
		snprintf(text, size, "none");
}

static void fill_list_row(struct list_row *row, struct tcp_connection *c)
{
	const struct tls_conn *conn = c->extra_data;
	time_t created = (time_t)conn->created;
	bool established = conn->state == TLS_CONN_FAST || conn->state == TLS_CONN_HELD;
	ticks_t now = get_ticks_raw();
	struct tm tm;

	row->id = c->id;
	domain_text(conn->domain_id, row->domain, sizeof(row->domain));
	snprintf(row->name, sizeof(row->name), "%s", conn->server_name ? conn->server_name : "N/A");
	strftime(row->created, sizeof(row->created), "%Y-%m-%d %H:%M:%S",
		 localtime_r(&created, &tm));
	row->timeout = TICKS_LT(c->timeout, now) ? 0 : (int)TICKS_TO_S(c->timeout - now);
	snprintf(row->src, sizeof(row->src), "%s", ip_addr2a(&c->rcv.src_ip));
	snprintf(row->dst, sizeof(row->dst), "%s", ip_addr2a(&c->rcv.dst_ip));
	row->src_port = c->rcv.src_port;
	row->dst_port = c->rcv.dst_port;
	row->suite = established ? tls_engine_suite_name(conn->suite) : "unknown";
	row->queued = (int)conn->queued;
	row->records = waiting_records(c);
	row->flags = established ? 2 : 0; /* bit 2 of the descendant's: handshaked */
	row->state = state_text(conn);
	row->path = conn->state == TLS_CONN_FAST || conn->await ? "fast" : "engine";
	compression_text(conn, row->compression, sizeof(row->compression));
}

static void add_list_row(rpc_t *rpc, void *ctx, struct list_row *row)
{
	void *handle;

	if (rpc->add(ctx, "{", &handle) < 0)
		return;
	rpc->struct_add(handle, "dsssdsdsdsdddsss", "id", row->id, "dom", row->domain, "sni",
			row->name, "timestamp", row->created, "timeout", row->timeout, "src_ip",
			row->src, "src_port", row->src_port, "dst_ip", row->dst, "dst_port",
			row->dst_port, "cipher", row->suite, "ct_wq_size", row->queued,
			"enc_rd_buf", row->records, "flags", row->flags, "state", row->state,
			"path", row->path, "compression", row->compression);
}

static void rpc_list(rpc_t *rpc, void *ctx)
{
	struct list_row row;

	lock_get(tcpconn_lock);
	for (unsigned h = 0; h < TCP_ID_HASH_SIZE; h++) {
		for (struct tcp_connection *c = tcpconn_id_hash[h]; c; c = c->id_next) {
			if ((c->type != PROTO_TLS && c->type != PROTO_WSS) || !c->extra_data)
				continue;
			fill_list_row(&row, c);
			add_list_row(rpc, ctx, &row);
		}
	}
	lock_release(tcpconn_lock);
}

/* ---- tls.info, tls.options, tls.kill ---- */

/* What only the engine knows; left out if it does not answer. */
static void add_status(rpc_t *rpc, void *handle)
{
	struct tls_engine_slot *slot = tls_engine_slot((unsigned)process_no);
	const struct tls_engine_status *status;

	if (!slot)
		return;
	slot->request.op = TLS_ENGINE_STATUS;
	if (tls_engine_call(slot, (unsigned)cfg_get(tls, tls_cfg, engine_timeout)) != 0)
		return;
	status = (const struct tls_engine_status *)slot->out;
	rpc->struct_add(handle, "ddd", "engine_threads", (int)status->threads, "engine_heap_kb",
			(int)(status->heap / 1024), "domains", (int)status->domains);
}

static void rpc_info(rpc_t *rpc, void *ctx)
{
	struct tcp_gen_info info;
	void *handle;

	tcp_get_info(&info);
	if (rpc->add(ctx, "{", &handle) < 0)
		return;
	rpc->struct_add(handle, "ddddsss", "max_connections", info.tls_max_connections,
			"opened_connections", info.tls_connections_no,
			"clear_text_write_queued_bytes", (int)tls_conn_queued_bytes(),
			"engine_sessions", (int)tls_engine_sessions(), "openssl",
			OpenSSL_version(OPENSSL_VERSION), "openssl_built_with",
			TLS_BUILD_OPENSSL_TEXT, "workarounds", tls_workaround_list(false));
	add_status(rpc, handle);
}

/* Rows of tls.options in the order that clients know; what follows the blank line is ours. */
#define OPTIONS(I, S)                                                                              \
	I(force_run)                                                                               \
	S(method)                                                                                  \
	I(verify_certificate)                                                                      \
	I(verify_depth)                                                                            \
	I(require_certificate)                                                                     \
	S(verify_client)                                                                           \
	S(private_key)                                                                             \
	S(ca_list)                                                                                 \
	S(certificate)                                                                             \
	S(cipher_list)                                                                             \
	I(session_cache)                                                                           \
	S(session_id)                                                                              \
	S(config)                                                                                  \
	I(log)                                                                                     \
	I(debug)                                                                                   \
	I(connection_timeout)                                                                      \
	I(disable_compression)                                                                     \
	I(ssl_release_buffers)                                                                     \
	I(ssl_freelist_max)                                                                        \
	I(ssl_max_send_fragment)                                                                   \
	I(ssl_read_ahead)                                                                          \
	I(send_close_notify)                                                                       \
	I(low_mem_threshold1)                                                                      \
	I(low_mem_threshold2)                                                                      \
	I(ct_wq_max)                                                                               \
	I(con_ct_wq_max)                                                                           \
	I(ct_wq_blk_size)                                                                          \
                                                                                                   \
	S(certificate2)                                                                            \
	S(private_key2)                                                                            \
	S(ca_path)                                                                                 \
	S(crl)                                                                                     \
	S(crl_check)                                                                               \
	S(verify_name)                                                                             \
	S(verify_names)                                                                            \
	S(server_name)                                                                             \
	I(server_name_mode)                                                                        \
	S(server_id)                                                                               \
	I(refuse_unknown_name)                                                                     \
	S(min_version)                                                                             \
	S(max_version)                                                                             \
	S(ciphersuites)                                                                            \
	S(groups)                                                                                  \
	S(signature_algorithms)                                                                    \
	I(security_level)                                                                          \
	S(alpn)                                                                                    \
	I(session_tickets)                                                                         \
	S(ocsp_response)                                                                           \
	S(ocsp_response2)                                                                          \
	S(session_ticket_keys)                                                                     \
	S(event_callback)                                                                          \
	S(xavp_cfg)                                                                                \
	I(send_timeout)                                                                            \
	I(handshake_timeout)                                                                       \
	I(key_update_records)                                                                      \
	I(key_password_mode)                                                                       \
	I(renegotiation)                                                                           \
	S(rand_engine)                                                                             \
	S(engine)                                                                                  \
	S(engine_config)                                                                           \
	S(engine_algorithms)                                                                       \
	I(init_mode)                                                                               \
	I(provider_quirks)                                                                         \
	S(provider_quirks_config)                                                                  \
	I(engine_threads)                                                                          \
	I(engine_timeout)

static void rpc_options(rpc_t *rpc, void *ctx)
{
	str text;
	void *handle;

	if (rpc->add(ctx, "{", &handle) < 0)
		return;
#define OPTION_I(field) rpc->struct_add(handle, "d", #field, cfg_get(tls, tls_cfg, field));
#define OPTION_S(field)                                                                            \
	text = cfg_get(tls, tls_cfg, field);                                                       \
	rpc->struct_add(handle, "S", #field, &text);
	OPTIONS(OPTION_I, OPTION_S)
#undef OPTION_I
#undef OPTION_S
}

static void rpc_kill(rpc_t *rpc, void *ctx)
{
	int id;

	if (rpc->scan(ctx, "d", &id) < 1)
		rpc->fault(ctx, 500, "expected the id of a connection, see tls.list");
	else if (tls_watch_close(id) == 0)
		rpc->add(ctx, "s", "OK");
	else
		rpc->add(ctx, "s", "TLS connection id not found");
}

/* ---- tls.reload, tls.check, tls.domains ---- */

/* Copies a message without the folders of file names: the host cuts a fault's text at 127 bytes. */
static void shorten(const char *message, int len, char *text, size_t size)
{
	const char *end = message + len;
	size_t at = 0;

	for (const char *p = message; p < end && at + 1 < size; p++) {
		if (*p == '/' && (p == message || p[-1] == ' ' || p[-1] == '\''))
			for (const char *q = p; q < end && !strchr(" ':", *q); q++)
				if (*q == '/')
					p = q + 1;
		text[at++] = *p;
	}
	text[at] = '\0';
}

/* Tells what failed on the whole, the first problem, and how many there are. */
static void fault_of(rpc_t *rpc, void *ctx, const struct tls_engine_slot *slot)
{
	const char *text = (const char *)slot->out, *message;
	char first[512] = "";
	int len, errors = 0;
	char level;

	while ((len = tls_report_next(&text, &message, &level)) >= 0)
		if (level == 'E' && errors++ == 0)
			shorten(message, len, first, sizeof(first));
	if (errors > 1)
		rpc->fault(ctx, 500, "%s (%d problems): %s", slot->answer.text, errors, first);
	else
		rpc->fault(ctx, 500, "%s: %s", slot->answer.text, first);
}

/* Result and every message, as a record: a fault has no room for them. */
static void add_report(rpc_t *rpc, void *ctx, const struct tls_engine_slot *slot)
{
	const char *text = (const char *)slot->out, *message;
	void *handle, *list;
	char level;
	str line;

	if (rpc->add(ctx, "{", &handle) < 0)
		return;
	rpc->struct_add(handle, "s[", "result",
			slot->answer.state == TLS_SESSION_FAILED ? slot->answer.text : "Ok",
			"messages", &list);
	while ((line.len = tls_report_next(&text, &message, &level)) >= 0) {
		char buffer[1100];

		line.len = snprintf(buffer, sizeof(buffer), "%s: %.*s",
				    level == 'E' ? "error" : "warning", line.len, message);
		line.s = buffer;
		rpc->array_add(list, "S", &line);
	}
}

static void rpc_reload(rpc_t *rpc, void *ctx)
{
	str config = cfg_get(tls, tls_cfg, config);
	const struct tls_engine_slot *slot;
	str mode = {NULL, 0};

	if (rpc->scan(ctx, "*S", &mode) < 1)
		mode.len = 0;
	if (mode.len > 0 && (mode.len != 6 || memcmp(mode.s, "report", 6) != 0)) {
		rpc->fault(ctx, 500, "expected no parameter, or 'report'");
		return;
	}
	if (config.len <= 0) {
		rpc->fault(ctx, 500, "No TLS configuration file configured");
		return;
	}
	slot = tls_engine_load((unsigned)process_no, TLS_ENGINE_LOAD, config.s, (size_t)config.len,
			       LOAD_TIMEOUT_MS);
	if (!slot) {
		rpc->fault(ctx, 500, NO_ENGINE);
		return;
	}
	tls_log_report((const char *)slot->out);
	if (mode.len > 0)
		add_report(rpc, ctx, slot);
	else if (slot->answer.state == TLS_SESSION_FAILED)
		fault_of(rpc, ctx, slot);
	else
		rpc->add(ctx, "s", "Ok. TLS configuration reloaded.");
}

static void rpc_check(rpc_t *rpc, void *ctx)
{
	const struct tls_engine_slot *slot;
	str name;

	if (rpc->scan(ctx, "S", &name) < 1 || name.len <= 0) {
		rpc->fault(ctx, 500, "expected the name of a file or directory");
		return;
	}
	slot = tls_engine_load((unsigned)process_no, TLS_ENGINE_CHECK, name.s, (size_t)name.len,
			       LOAD_TIMEOUT_MS);
	if (slot)
		add_report(rpc, ctx, slot);
	else
		rpc->fault(ctx, 500, NO_ENGINE);
}

static void add_domain(rpc_t *rpc, void *ctx, struct tls_engine_domain *row)
{
	void *handle;

	if (rpc->add(ctx, "{", &handle) < 0)
		return;
	rpc->struct_add(handle, "ssdsssdd", "name", row->name, "file", row->file, "line",
			(int)row->line, "subject", row->subject, "names", row->names, "key",
			row->key_type, "chain_length", (int)row->chain, "connections",
			(int)tls_engine_domain_users(row->id));
	if (row->chain > 0)
		rpc->struct_add(handle, "d", "expires_in_days", (int)(row->expires / 86400));
}

static void rpc_domains(rpc_t *rpc, void *ctx)
{
	struct tls_engine_slot *slot;
	uint32_t first = 0;

	do {
		slot = tls_engine_slot((unsigned)process_no);
		if (slot) {
			slot->request.op = TLS_ENGINE_DOMAINS;
			slot->request.first = first;
		}
		if (!slot || tls_engine_call(slot, LOAD_TIMEOUT_MS) != 0) {
			rpc->fault(ctx, 500, NO_ENGINE);
			return;
		}
		for (uint32_t i = 0; i < slot->answer.rows; i++)
			add_domain(rpc, ctx, &((struct tls_engine_domain *)slot->out)[i]);
		first += slot->answer.rows;
	} while (slot->answer.more);
}

static const char *list_doc[] = {"Lists the TLS connections.", NULL};
static const char *info_doc[] = {"Tells the state of TLS as a whole.", NULL};
static const char *options_doc[] = {"Lists the parameters and their values.", NULL};
static const char *kill_doc[] = {"Closes the connection of the given id.", NULL};
static const char *reload_doc[] = {"Reads the configuration file anew.", NULL};
static const char *check_doc[] = {"Tells what a reload of the given file would say.", NULL};
static const char *domains_doc[] = {"Lists the domains and their certificates.", NULL};

rpc_export_t tls_rpc_methods[] = {
	{"tls.list", rpc_list, list_doc, RET_ARRAY},
	{"tls.info", rpc_info, info_doc, 0},
	{"tls.options", rpc_options, options_doc, 0},
	{"tls.kill", rpc_kill, kill_doc, 0},
	{"tls.reload", rpc_reload, reload_doc, 0},
	{"tls.check", rpc_check, check_doc, 0},
	{"tls.domains", rpc_domains, domains_doc, RET_ARRAY},
	{0},
};
