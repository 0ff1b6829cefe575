/* SPDX-License-Identifier: ISC */
#include "tls_variable.h"

#include "tls_attribute.h"

#include "core/dprint.h"

#include <string.h>

#define MAX_VARIABLES 96

pv_export_t tls_variables[MAX_VARIABLES + 1];

static int get(struct sip_msg *msg, pv_param_t *param, pv_value_t *result)
{
	struct tls_attribute_value value;
	int index, flags;

	if (pv_get_spec_index(msg, param, &index, &flags) != 0)
		return pv_get_null(msg, param, result);
	if (flags == PV_IDX_NONE)
		index = 0;
	if (tls_attribute_get(msg, param->pvn.u.isname.name.n, index, &value) != 0)
		return pv_get_null(msg, param, result);
	if (value.type == TLS_ATTRIBUTE_TEXT)
		return pv_get_strval(msg, param, result, &value.text);
	if (value.type == TLS_ATTRIBUTE_BOTH)
		return pv_get_strintval(msg, param, result, &value.text, value.number);
	return pv_get_intstrval(msg, param, result, value.number, &value.text);
}

static int set_code(pv_spec_p spec, int code)
{
	if (code < 0)
		return -1;
	return pv_init_iname(spec, code);
}

/* One of several: all of them at one go is no value. */
static int parse_index(pv_spec_p spec, str *text)
{
	if (pv_parse_index(spec, text) != 0)
		return -1;
	return spec->pvp.pvi.type == PV_IDX_INT || spec->pvp.pvi.type == PV_IDX_PVAR ? 0 : -1;
}

static int parse_peer_count(pv_spec_p spec, str *name)
{
	return set_code(spec, tls_attribute_of_count(false, name));
}

static int parse_my_count(pv_spec_p spec, str *name)
{
	return set_code(spec, tls_attribute_of_count(true, name));
}

static int parse_line(pv_spec_p spec, str *name)
{
	return set_code(spec, tls_attribute_of_line(name));
}

/* Those with a name in brackets of their own. */
static const pv_export_t named[] = {
	{STR_STATIC_INIT("tls_peer_san_count"), PVT_OTHER, get, NULL, parse_peer_count, NULL, NULL,
	 0},
	{STR_STATIC_INIT("tls_my_san_count"), PVT_OTHER, get, NULL, parse_my_count, NULL, NULL, 0},
	{STR_STATIC_INIT("tls"), PVT_OTHER, get, NULL, parse_line, NULL, NULL, 0},
};

#define NAMED (sizeof(named) / sizeof(named[0]))

void tls_variable_init(void)
{
	static char names[MAX_VARIABLES][TLS_ATTRIBUTE_NAME];
	size_t n = 0;
	int code;

	while (n < MAX_VARIABLES - NAMED && tls_attribute_variable(n, names[n], &code)) {
		tls_variables[n] = (pv_export_t){
			.name = {names[n], (int)strlen(names[n])},
			.type = PVT_OTHER,
			.getf = get,
			.init_param = pv_init_iname,
			.iparam = code,
		};
		if (tls_attribute_indexing(code) != TLS_ATTRIBUTE_SINGLE)
			tls_variables[n].parse_index = parse_index;
		n++;
	}
	memcpy(&tls_variables[n], named, sizeof(named));
}

/* The host's own parser, so that $(tls_peer_san_uri[1]) and $tls(p_subject_line) can be asked for,
 * too; of this module's variables only. */
static pv_spec_t *find(const str *name)
{
	static char text[128];
	str dollar = {text, name->len + 1};
	int start = name->len > 0 && name->s[0] == '(';

	if (name->len < start + 3 || (size_t)name->len >= sizeof(text) - 1 ||
	    strncmp(name->s + start, "tls", 3) != 0)
		return NULL;
	text[0] = '$';
	memcpy(text + 1, name->s, (size_t)name->len);
	text[dollar.len] = '\0';
	return pv_locate_name(&dollar) == dollar.len ? pv_cache_get(&dollar) : NULL;
}

sr_kemi_xval_t *tls_variable_cget(sip_msg_t *msg, str *name)
{
	static sr_kemi_xval_t result;
	pv_spec_t *spec = find(name);
	pv_value_t value;

	memset(&result, 0, sizeof(result));
	if (!spec)
		LM_WARN("tls: cget: there is no variable %.*s\n", name->len, name->s);
	if (!spec || pv_get_spec_value(msg, spec, &value) != 0 || value.flags & PV_VAL_NULL) {
		sr_kemi_xval_null(&result, SR_KEMI_XVAL_NULL_EMPTY);
	} else if (value.flags & PV_TYPE_INT) {
		result.vtype = SR_KEMIP_INT;
		result.v.n = value.ri;
	} else {
		result.vtype = SR_KEMIP_STR;
		result.v.s = value.rs;
	}
	return &result;
}
