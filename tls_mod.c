/* SPDX-License-Identifier: ISC */
/*
 * What the host sees of the module: exports, and the order of its start. Nothing includes this
 * file's declarations; everything else is reached through the hooks and tables below.
 */
#include "tls_area.h"
#include "tls_cert.h"
#include "tls_engine.h"
#include "tls_event.h"
#include "tls_function.h"
#include "tls_log.h"
#include "tls_read.h"
#include "tls_reminder.h"
#include "tls_rpc.h"
#include "tls_select.h"
#include "tls_serve.h"
#include "tls_server.h"
#include "tls_shortage.h"
#include "tls_stats.h"
#include "tls_variable.h"
#include "tls_watch.h"
#include "tls_workaround.h"

#include "core/daemonize.h"
#include "core/globals.h"
#include "core/pt.h"
#include "core/sr_module.h"
#include "core/tls_hooks_init.h"

#include <openssl/ssl.h>

#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The engine reads all files of a configuration before it answers; there may be many. */
#define LOAD_TIMEOUT_MS (120 * 1000)

MODULE_VERSION

/* The host looks these up by name. */
extern struct module_exports exports;
int mod_register(char *path, int *dlflags, void *unused1, void *unused2);

static int mod_init(void);
static int child_init(int rank);
static int engine_start(void);
static void free_locks(void);
static void module_end(void);

#define TLS_I(field, param, cfg, def, lo, hi, rt, help)                                            \
	{(char *)(param), PARAM_INT, &default_tls_cfg.field},
#define TLS_S(field, param, cfg, def, check, rt, help)                                             \
	{(char *)(param), PARAM_STR, &default_tls_cfg.field},
#define TLS_A(alias, field) {(char *)(alias), PARAM_STR, &default_tls_cfg.field},
static param_export_t parameters[] = {TLS_ALL_PARAMS(TLS_I, TLS_S) TLS_PARAM_ALIASES(TLS_A){0}};
#undef TLS_I
#undef TLS_S
#undef TLS_A

struct module_exports exports = {
	.name = "tls", /* other modules ask for this name */
	.dlflags = DEFAULT_DLFLAGS,
	.cmds = tls_functions,
	.params = parameters,
	.rpc_methods = tls_rpc_methods,
	.pv_items = tls_variables,
	.init_mod_f = mod_init,
	.init_child_f = child_init,
	.destroy_mod_f = free_locks, /* before the host frees its connections */
};

static struct tls_hooks hooks = {
	.read = tls_h_read,
	.encode = tls_h_encode,
	.on_tcpconn_init = tls_h_tcpconn_init,
	.tcpconn_clean = tls_h_tcpconn_clean,
	.tcpconn_close = tls_h_tcpconn_close,
	.init_si = tls_h_init_si,
#if TLS_HAVE_MATCH_HOOKS
	.match_domain = tls_h_match_domain,
	.match_connections_domain = tls_h_match_connections_domain,
#endif
	.init = engine_start,
	.destroy = module_end,
};

/*
 * Called when the module is loaded, maybe before enable_tls=yes was read, and the host takes
 * hooks only while TLS is enabled. So they are registered in any case, and mod_init() takes them
 * back if TLS stays disabled.
 */
int mod_register(char *path, int *dlflags, void *unused1, void *unused2)
{
	int disabled = tls_disable;
	int result;

	(void)path;
	(void)dlflags;
	(void)unused1;
	(void)unused2;
	tls_variable_init();
	if (tls_select_init() != 0 || sr_kemi_modules_add(tls_kemi_functions) != 0)
		return -1;
	tls_disable = 0;
	result = register_tls_hooks(&hooks);
	tls_disable = disabled;
	return result;
}

/* Logs a report and frees it. Returns -1 if it holds errors. */
static int report_end(struct tls_report *report)
{
	int result = report->errors ? -1 : 0;

	tls_log_report(report->text);
	tls_report_free(report);
	return result;
}

/* Directory that relative file names start from; the host keeps its file's name absolute. */
static char *main_config_dir(void)
{
	char *name = strdup(cfg_file);
	char *dir = name ? strdup(dirname(name)) : NULL;

	free(name);
	return dir;
}

static int check_parameters(void)
{
	struct tls_report report = {0};

	tls_params_check(&default_tls_cfg, &report);
	tls_keylog_check(&default_tls_cfg, &report);
	tls_params_report_unsupported(&default_tls_cfg, &report);
	return report_end(&report);
}

/* What the library is, whether it will do, and which of its bugs must be worked around. */
static int check_library(void)
{
	const struct tls_workaround_wish wish = {
		.compression = !default_tls_cfg.disable_compression,
		.thresholds = default_tls_cfg.low_mem_threshold1 != 0 ||
			      default_tls_cfg.low_mem_threshold2 != 0,
	};
	struct tls_report report = {0};
	struct tls_library library;

	tls_library_probe(&library);
	tls_workaround_check(&library, default_tls_cfg.force_run != 0, &report);
	tls_workaround_enable(tls_workaround_choose(&library, &wish));
	if (report.errors == 0)
		LM_NOTICE("tls: %s, workarounds: %s\n", library.text, tls_workaround_list(true));
	return report_end(&report);
}

/* Parameters that a configuration file makes ineffective, as the specification says. */
static void warn_of_ignored(void)
{
	struct tls_report report = {0};

	if (default_tls_cfg.config.len > 0)
		tls_params_report_ignored(&default_tls_cfg, &report);
	report_end(&report);
}

static int mod_init(void)
{
	if (tls_disable) {
		LM_WARN("tls: TLS is disabled, set enable_tls=yes to enable it\n");
		tls_hook = (struct tls_hooks){0};
		return 0;
	}
	if (check_parameters() != 0)
		return -1;
	warn_of_ignored();
	if (tls_keylog_init() != 0)
		return -1;
	if (cfg_declare("tls", tls_cfg_def, &default_tls_cfg, cfg_sizeof(tls), &tls_cfg) != 0) {
		LM_ERR("tls: cannot declare the configuration group\n");
		return -1;
	}
	if (tls_conn_init() != 0 || tls_cert_init() != 0) {
		LM_ERR("tls: out of shared memory\n");
		return -1;
	}
	/* Database drivers rely on it that the TLS module makes OpenSSL ready. Cleaning it up at
	 * exit is left out: it would run while others still use it. */
	if (!OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL)) {
		LM_ERR("tls: cannot initialise OpenSSL\n");
		return -1;
	}
	if (check_library() != 0)
		return -1;
	if (tls_watch_init() != 0 || tls_shortage_init() != 0)
		return -1;
	tls_event_init();
	if (tls_stats_init() != 0 || tls_reminder_init() != 0)
		return -1;
	return register_procs(1);
}

static int load_domains(void)
{
	const str *config = &default_tls_cfg.config;
	struct tls_engine_slot *slot =
		tls_engine_load((unsigned)process_no, TLS_ENGINE_LOAD, config->s,
				(size_t)config->len, LOAD_TIMEOUT_MS);

	if (!slot) {
		LM_ERR("tls: the engine process %s\n",
		       tls_engine_has_died() ? "has ended while it read the configuration"
					     : "does not answer");
		return -1;
	}
	tls_log_report((const char *)slot->out);
	return slot->answer.state == TLS_SESSION_FAILED ? -1 : 0;
}

/* Only the engine needs them: they leave this process, whose copies the others will be, and the
 * run-time configuration. The name of a file is no secret. */
static void wipe_password(str *password)
{
	if (password->len > 0 && strncmp(password->s, "file:", 5) != 0) {
		OPENSSL_cleanse(password->s, (size_t)password->len);
		password->len = 0;
	}
}

/* The addresses of the host's TLS sockets; sections of servers are checked against them. */
static int list_sockets(struct tls_engine_config *config)
{
	struct tls_address *sockets;
	size_t count = 0;

	for (const struct socket_info *si = tls_listen; si; si = si->next)
		count++;
	sockets = calloc(count + 1, sizeof(*sockets));
	if (!sockets)
		return -1;
	config->sockets = sockets;
	for (const struct socket_info *si = tls_listen; si; si = si->next, sockets++) {
		sockets->ip_len = (uint8_t)si->address.len;
		sockets->port = si->port_no;
		memcpy(sockets->ip, si->address.u.addr, si->address.len);
	}
	config->socket_count = count;
	return 0;
}

/*
 * Hook init: the process table is there, root privileges still are, too, and nothing listens
 * yet. So the engine can read keys that only root can, and bad ones stop the start.
 */
static int engine_start(void)
{
	static struct tls_engine_config config;
	int pid;

	config = (struct tls_engine_config){
		.cfg = &default_tls_cfg,
		.dir = main_config_dir(),
		.threads = (unsigned)default_tls_cfg.engine_threads,
		.drop_privileges = do_suid,
	};
	if (!config.dir || list_sockets(&config) != 0 ||
	    tls_counter_create((unsigned)get_max_procs()) != 0 ||
	    tls_area_create((unsigned)get_max_procs()) != 0 || tls_engine_prepare() != 0) {
		LM_ERR("tls: cannot make what is shared with the engine: %s\n", strerror(errno));
		return -1;
	}
	tls_shortage_start((unsigned)get_max_procs());
	pid = fork_process(PROC_NOCHLDINIT, "tls engine", 0);
	if (pid == 0) {
		tls_engine_forked(true);
		tls_serve_run(&config);
	}
	if (pid < 0) {
		LM_ERR("tls: cannot fork the engine process: %s\n", strerror(errno));
		return -1;
	}
	tls_engine_forked(false);
	if (load_domains() != 0)
		return -1;
	wipe_password(&default_tls_cfg.private_key_password);
	wipe_password(&default_tls_cfg.private_key_password2);
	return 0;
}

/* The first call comes after the host has resolved the selects of all routes. */
static int child_init(int rank)
{
	if (rank != PROC_INIT || tls_select_all_known())
		return 0;
	LM_ERR("tls: routes have selects that do not exist, see above\n");
	return -1;
}

static void free_locks(void)
{
	tls_watch_end();
	tls_conn_free_lock();
	tls_cert_free_lock();
}

/* Hook destroy: after the last connection was freed. */
static void module_end(void)
{
	tls_watch_destroy();
	tls_shortage_destroy();
	tls_conn_destroy();
	tls_cert_destroy();
	tls_area_destroy();
	tls_counter_destroy();
}
