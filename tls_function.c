/* SPDX-License-Identifier: ISC */
#include "tls_function.h"

#include "tls_connect.h"
#include "tls_origin.h"
#include "tls_variable.h"

#include "core/dprint.h"
#include "core/mod_fix.h"

/* ---- what a script in another language calls ---- */

static int kemi_is_peer_verified(sip_msg_t *msg)
{
	return tls_origin_verified(msg) ? 1 : -1;
}

static int kemi_set_connect_server_id(sip_msg_t *msg, str *id)
{
	(void)msg;
	return tls_connect_set_server_id(id) == 0 ? 1 : -1;
}

static int kemi_peer_may_speak_for(sip_msg_t *msg, str *domain)
{
	return tls_origin_may_speak_for(msg, domain) ? 1 : -1;
}

/* Without the parameters that are not used. */
#define KEMI(name, returns, function, ...)                                                         \
	{                                                                                          \
		STR_STATIC_INIT("tls"), STR_STATIC_INIT(name), returns, (void *)(function),        \
		{                                                                                  \
			__VA_ARGS__                                                                \
		}                                                                                  \
	}

sr_kemi_t tls_kemi_functions[] = {
	KEMI("is_peer_verified", SR_KEMIP_INT, kemi_is_peer_verified, SR_KEMIP_NONE),
	KEMI("set_connect_server_id", SR_KEMIP_INT, kemi_set_connect_server_id, SR_KEMIP_STR),
	KEMI("peer_may_speak_for", SR_KEMIP_INT, kemi_peer_may_speak_for, SR_KEMIP_STR),
	KEMI("cget", SR_KEMIP_XVAL, tls_variable_cget, SR_KEMIP_STR),
	{{NULL, 0}, {NULL, 0}, 0, NULL, {0}},
};

/* ---- what a route calls ---- */

static int is_peer_verified(struct sip_msg *msg, char *unused1, char *unused2)
{
	(void)unused1;
	(void)unused2;
	return kemi_is_peer_verified(msg);
}

/* The value of a function's parameter. Returns -1 without one, having said so. */
static int parameter(struct sip_msg *msg, char *param, const char *function, str *value)
{
	if (fixup_get_svalue(msg, (gparam_t *)param, value) == 0)
		return 0;
	LM_ERR("tls: %s(): the parameter has no value\n", function);
	return -1;
}

static int set_connect_server_id(struct sip_msg *msg, char *id, char *unused)
{
	str text;

	(void)unused;
	if (parameter(msg, id, "tls_set_connect_server_id", &text) != 0)
		return -1;
	return kemi_set_connect_server_id(msg, &text);
}

static int peer_may_speak_for(struct sip_msg *msg, char *domain, char *unused)
{
	str text;

	(void)unused;
	if (parameter(msg, domain, "tls_peer_may_speak_for", &text) != 0)
		return -1;
	return kemi_peer_may_speak_for(msg, &text);
}

cmd_export_t tls_functions[] = {
	{"is_peer_verified", (cmd_function)is_peer_verified, 0, NULL, NULL, ANY_ROUTE},
	{"tls_set_connect_server_id", (cmd_function)set_connect_server_id, 1, fixup_spve_null,
	 fixup_free_spve_null, ANY_ROUTE},
	{"tls_peer_may_speak_for", (cmd_function)peer_may_speak_for, 1, fixup_spve_null,
	 fixup_free_spve_null, ANY_ROUTE},
	{0},
};
