/* SPDX-License-Identifier: ISC */
#include "tls_connect.h"

#include "core/dprint.h"
#include "core/xavp.h"

#include <string.h>

static char server_id[TLS_SESSION_NAME];

int tls_connect_set_server_id(const str *id)
{
	if (id->len < 0 || (size_t)id->len >= sizeof(server_id)) {
		LM_ERR("tls: a server_id has at most %zu characters, not %d\n",
		       sizeof(server_id) - 1, id->len);
		return -1;
	}
	memcpy(server_id, id->s, (size_t)id->len);
	server_id[id->len] = '\0';
	return 0;
}

/* Copies the text of a member of the root XAVP, if it is there and fits. */
static void copy_member(str *root, const char *name, char *to)
{
	str member = {(char *)name, (int)strlen(name)};
	sr_xavp_t *avp = xavp_get_child_with_sval(root, &member);

	if (!avp || avp->val.v.s.len <= 0)
		return;
	if (avp->val.v.s.len >= TLS_SESSION_NAME) {
		LM_ERR("tls: $xavp(%.*s=>%s) is longer than %d characters, ignored\n", root->len,
		       root->s, name, TLS_SESSION_NAME - 1);
		return;
	}
	memcpy(to, avp->val.v.s.s, (size_t)avp->val.v.s.len);
	to[avp->val.v.s.len] = '\0';
}

void tls_connect_fill(struct tls_session_setup *setup)
{
	str root = cfg_get(tls, tls_cfg, xavp_cfg);

	memcpy(setup->server_id, server_id, sizeof(setup->server_id));
	server_id[0] = '\0'; /* it was for one connection */
	if (root.len <= 0)
		return;
	copy_member(&root, "server_id", setup->server_id);
	copy_member(&root, "server_name", setup->server_name);
}
