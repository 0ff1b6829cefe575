/* SPDX-License-Identifier: ISC */
/*
 * What the host sees of the module: exports, and the order of its start. Nothing includes this
 * file's declarations; everything else is reached through the hooks and tables below.
 */
#include "tls_engine.h"
#include "tls_log.h"
#include "tls_select.h"
#include "tls_server.h"
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

/* The host looks these up by name; all else stays inside (-fvisibility=hidden). */
#pragma GCC visibility push(default)
MODULE_VERSION
extern struct module_exports exports;
int mod_register(char *path, int *dlflags, void *unused1, void *unused2);
#pragma GCC visibility pop

static int mod_init(void);
static int is_peer_verified(struct sip_msg *msg, char *unused1, char *unused2);
static int engine_start(void);
static void module_end(void);

static cmd_export_t commands[] = {
	{"is_peer_verified", (cmd_function)is_peer_verified, 0, 0, 0, REQUEST_ROUTE},
	{0},
};

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
	.cmds = commands,
	.params = parameters,
	.init_mod_f = mod_init,
};

static struct tls_hooks hooks = {
	.read = tls_h_read,
	.encode = tls_h_encode,
	.on_tcpconn_init = tls_h_tcpconn_init,
	.tcpconn_clean = tls_h_tcpconn_clean,
	.tcpconn_close = tls_h_tcpconn_close,
	.init_si = tls_h_init_si,
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
	tls_workaround_check_version(OpenSSL_version_num(), OpenSSL_version(OPENSSL_VERSION),
				     default_tls_cfg.force_run, &report);
	return report_end(&report);
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
	if (cfg_declare("tls", tls_cfg_def, &default_tls_cfg, cfg_sizeof(tls), &tls_cfg) != 0) {
		LM_ERR("tls: cannot declare the configuration group\n");
		return -1;
	}
	if (tls_conn_init() != 0) {
		LM_ERR("tls: out of shared memory\n");
		return -1;
	}
	/* Database drivers rely on it that the TLS module makes OpenSSL ready. Cleaning it up at
	 * exit is left out: it would run while others still use it. */
	if (!OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL)) {
		LM_ERR("tls: cannot initialise OpenSSL\n");
		return -1;
	}
	if (tls_watch_init() != 0)
		return -1;
	return register_procs(1);
}

static int load_domains(void)
{
	struct tls_engine_slot *slot = tls_engine_slot((unsigned)process_no);

	if (!slot) {
		LM_ERR("tls: no way to ask the engine process\n");
		return -1;
	}
	slot->request.op = TLS_ENGINE_LOAD;
	if (tls_engine_call(slot, LOAD_TIMEOUT_MS) != 0) {
		LM_ERR("tls: the engine process does not answer\n");
		return -1;
	}
	tls_log_report((const char *)slot->out);
	return slot->answer.state == TLS_SESSION_FAILED ? -1 : 0;
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
	if (!config.dir || tls_engine_create((unsigned)get_max_procs()) != 0) {
		LM_ERR("tls: cannot make the engine's shared area: %s\n", strerror(errno));
		return -1;
	}
	tls_server_set_processes((unsigned)get_max_procs());
	pid = fork_process(PROC_NOCHLDINIT, "tls engine", 0);
	if (pid == 0)
		tls_engine_run(&config);
	if (pid < 0) {
		LM_ERR("tls: cannot fork the engine process: %s\n", strerror(errno));
		return -1;
	}
	return load_domains();
}

/* Hook destroy: after the last connection was freed. */
static void module_end(void)
{
	tls_watch_destroy();
	tls_conn_destroy();
	tls_engine_destroy();
}

static int is_peer_verified(struct sip_msg *msg, char *unused1, char *unused2)
{
	(void)unused1;
	(void)unused2;
	return tls_select_peer_verified(msg) ? 1 : -1;
}
