/* SPDX-License-Identifier: ISC */
#include "tls_params.h"

#include <openssl/ssl.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TLS_I(field, param, cfg, def, lo, hi, rt, help) .field = (def),
#define TLS_S(field, param, cfg, def, check, rt, help)  .field = {(char *)(def), sizeof(def) - 1},
struct cfg_group_tls default_tls_cfg = {TLS_ALL_PARAMS(TLS_I, TLS_S)};
#undef TLS_I
#undef TLS_S

void *tls_cfg = &default_tls_cfg;

/* The host changes an int without copying its configuration, a string it cannot. */
#define TLS_INT_RO CFG_VAR_INT | CFG_READONLY
#define TLS_INT_RW CFG_VAR_INT | CFG_ATOMIC
#define TLS_STR_RO CFG_VAR_STR | CFG_READONLY
#define TLS_STR_RW CFG_VAR_STR
#define TLS_I(field, param, cfg, def, lo, hi, rt, help)                                            \
	{(char *)(cfg), TLS_INT_##rt, lo, hi, NULL, NULL, (char *)(help)},
#define TLS_S(field, param, cfg, def, check, rt, help)                                             \
	{(char *)(cfg), TLS_STR_##rt, 0, 0, NULL, NULL, (char *)(help)},
cfg_def_t tls_cfg_def[] = {TLS_ALL_PARAMS(TLS_I, TLS_S){0}};
#undef TLS_I
#undef TLS_S

#define TLS_METHOD_NAMES                                                                           \
	"one of TLSv1.2+, TLSv1.3, TLSv1.3+, TLSv1.2, TLSv1.1, TLSv1.1+, TLSv1.0, TLSv1.0+, "      \
	"TLSv1, TLSv1+, SSLv23, SSLv3, SSLv2"

static const struct tls_method methods[] = {
	{"TLSv1.2+", TLS1_2_VERSION, 0},
	{"TLSv1.3", TLS1_3_VERSION, TLS1_3_VERSION},
	{"TLSv1.3+", TLS1_3_VERSION, 0},
	{"TLSv1.2", TLS1_2_VERSION, TLS1_2_VERSION},
	{"TLSv1.1", TLS1_1_VERSION, TLS1_1_VERSION},
	{"TLSv1.1+", TLS1_1_VERSION, 0},
	{"TLSv1.0", TLS1_VERSION, TLS1_VERSION},
	{"TLSv1.0+", TLS1_VERSION, 0},
	{"TLSv1", TLS1_VERSION, TLS1_VERSION},
	{"TLSv1+", TLS1_VERSION, 0},
	{"SSLv23", 0, 0},
	{"SSLv3", SSL3_VERSION, SSL3_VERSION},
	{"SSLv2", SSL2_VERSION, SSL2_VERSION},
};

const struct tls_method *tls_param_method(const char *name)
{
	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
		if (strcasecmp(methods[i].name, name) == 0)
			return &methods[i];
	return NULL;
}

const char *tls_param_check_method(const char *value)
{
	return tls_param_method(value) ? NULL : TLS_METHOD_NAMES;
}

int tls_param_version(const char *name)
{
	const struct tls_method *method = tls_param_method(name);

	return method && method->min == method->max && method->min != SSL2_VERSION ? method->min
										   : 0;
}

const char *tls_param_check_version(const char *value)
{
	return value[0] == '\0' || tls_param_version(value)
		       ? NULL
		       : "one of TLSv1.3, TLSv1.2, TLSv1.1, TLSv1.0, TLSv1, SSLv3";
}

static bool is_one_of(const char *value, const char *const *names)
{
	for (; *names; names++)
		if (strcasecmp(*names, value) == 0)
			return true;
	return false;
}

const char *tls_param_check_verify_client(const char *value)
{
	static const char *const names[] = {"off", "on", "optional", "optional_no_ca", NULL};

	return is_one_of(value, names) ? NULL : "one of off, on, optional, optional_no_ca";
}

const char *tls_param_check_crl_check(const char *value)
{
	static const char *const names[] = {"chain", "leaf", NULL};

	return is_one_of(value, names) ? NULL : "one of chain, leaf";
}

const char *tls_param_check_verify_name(const char *value)
{
	static const char *const names[] = {"off", "sip", "host", NULL};

	return is_one_of(value, names) ? NULL : "one of off, sip, host";
}

const char *tls_param_check_rand_engine(const char *value)
{
	static const char *const names[] = {"krand", "fastrand", "cryptorand", "kxlibssl", NULL};

	return value[0] == '\0' || is_one_of(value, names)
		       ? NULL
		       : "one of krand, fastrand, cryptorand, kxlibssl";
}

/* As it can stand in a ClientHello: RFC 6066 section 3, without the trailing dot. */
const char *tls_param_check_server_name(const char *value)
{
	size_t len = strlen(value);

	if (len > 253 || strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				       "0123456789-_.") != len)
		return "a DNS name of at most 253 letters, digits, '-' and '.'";
	return len > 0 && (value[0] == '.' || value[len - 1] == '.' || strstr(value, ".."))
		       ? "a DNS name without empty labels"
		       : NULL;
}

const char *tls_param_check_session_id(const char *value)
{
	size_t len = strlen(value);

	return len >= 1 && len <= SSL_MAX_SSL_SESSION_ID_LENGTH ? NULL : "1 to 32 characters";
}

static void check_int(const char *param, int value, int lo, int hi, struct tls_report *report)
{
	if (value < lo || value > hi)
		tls_report_error(report,
				 "parameter %s: value %d is out of range, expected %d to %d", param,
				 value, lo, hi);
}

static void check_str(const char *param, const str *value, tls_param_check_f check,
		      struct tls_report *report)
{
	const char *expected;

	if (value->len > 0 && memchr(value->s, '\0', (size_t)value->len)) {
		tls_report_error(report, "parameter %s: the value contains a NUL character", param);
		return;
	}
	expected = check ? check(value->s ? value->s : "") : NULL;
	if (expected)
		tls_report_error(report, "parameter %s: value '%.*s' is not valid, expected %s",
				 param, value->len, value->s ? value->s : "", expected);
}

/* -1 is the descendant's default, OpenSSL's own limit. */
static void check_fragment(int value, struct tls_report *report)
{
	if (value >= 0 && value < 512)
		tls_report_error(report,
				 "parameter ssl_max_send_fragment: value %d is out of range, "
				 "expected -1 or 512 to 16384",
				 value);
}

void tls_params_check(const struct cfg_group_tls *cfg, struct tls_report *report)
{
#define TLS_I(field, param, name, def, lo, hi, rt, help)                                           \
	check_int(param, cfg->field, lo, hi, report);
#define TLS_S(field, param, name, def, check, rt, help)                                            \
	check_str(param, &cfg->field, check, report);
	TLS_ALL_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
	check_fragment(cfg->ssl_max_send_fragment, report);
}

static void warn_ignored(const char *param, struct tls_report *report)
{
	tls_report_warning(
		report, "parameter %s is ignored: parameter config names a file of domains", param);
}

static bool is_text(const str *value, const char *text)
{
	return value->len == (int)strlen(text) && memcmp(value->s, text, strlen(text)) == 0;
}

void tls_params_report_ignored(const struct cfg_group_tls *cfg, struct tls_report *report)
{
#define TLS_I(field, param, name, def, lo, hi, rt, help)                                           \
	if (cfg->field != (def))                                                                   \
		warn_ignored(param, report);
#define TLS_S(field, param, name, def, check, rt, help)                                            \
	if (!is_text(&cfg->field, def))                                                            \
		warn_ignored(param, report);
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
}

static void warn_without_effect(const char *param, const char *why, struct tls_report *report)
{
	tls_report_warning(report, "parameter %s has no effect: %s", param, why);
}

void tls_params_report_unsupported(const struct cfg_group_tls *cfg, struct tls_report *report)
{
	static const char engines[] = "OpenSSL engines are not supported",
			  own_process[] = "OpenSSL is initialised in a process of its own";

	if (!is_text(&cfg->engine, "NONE") && cfg->engine.len > 0)
		tls_report_error(report,
				 "parameter engine: value '%.*s': %s, keys are read from files",
				 cfg->engine.len, cfg->engine.s, engines);
	if (!is_text(&cfg->engine_config, "NONE") && cfg->engine_config.len > 0)
		warn_without_effect("engine_config", engines, report);
	if (!is_text(&cfg->engine_algorithms, "ALL") && cfg->engine_algorithms.len > 0)
		warn_without_effect("engine_algorithms", engines, report);
	if (cfg->renegotiation)
		warn_without_effect("renegotiation",
				    "a renegotiation is always refused, its connection goes on",
				    report);
	if (cfg->rand_engine.len > 0)
		warn_without_effect("rand_engine", "OpenSSL's own random generator is used",
				    report);
	if (cfg->init_mode)
		warn_without_effect("init_mode", own_process, report);
	if (cfg->provider_quirks)
		warn_without_effect("provider_quirks", own_process, report);
	if (cfg->provider_quirks_config.len > 0)
		warn_without_effect("provider_quirks_config", own_process, report);
}

/* *to is NULL for an empty value. */
static int copy_str(char **to, const str *from)
{
	*to = NULL;
	if (!from->s || from->len <= 0)
		return 0;
	*to = strndup(from->s, (size_t)from->len);
	return *to ? 0 : -1;
}

int tls_settings_from_cfg(struct tls_settings *settings, const struct cfg_group_tls *cfg)
{
	int failed = 0;

	memset(settings, 0, sizeof(*settings));
#define TLS_I(field, param, name, def, lo, hi, rt, help) settings->field = cfg->field;
#define TLS_S(field, param, name, def, check, rt, help)                                            \
	failed |= copy_str(&settings->field, &cfg->field);
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
	if (failed)
		tls_settings_free(settings);
	return failed ? -1 : 0;
}

void tls_settings_free(struct tls_settings *settings)
{
#define TLS_I(field, param, name, def, lo, hi, rt, help)
#define TLS_S(field, param, name, def, check, rt, help) free(settings->field);
	TLS_DOMAIN_PARAMS(TLS_I, TLS_S)
#undef TLS_I
#undef TLS_S
	memset(settings, 0, sizeof(*settings));
}
