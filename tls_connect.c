/* SPDX-License-Identifier: ISC */
#include "tls_connect.h"

#include "core/dprint.h"
#include "core/mem/shm_mem.h"
#include "core/xavp.h"

#include <string.h>
#include <strings.h>

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

void tls_connect_get_wish(struct tls_connect_wish *wish)
{
	str root = cfg_get(tls, tls_cfg, xavp_cfg);

	memset(wish, 0, sizeof(*wish));
	memcpy(wish->server_id, server_id, sizeof(wish->server_id));
	if (root.len <= 0)
		return;
	copy_member(&root, "server_id", wish->server_id);
	copy_member(&root, "server_name", wish->server_name);
}

int tls_connect_take_wish(struct tls_connect_wish **wish)
{
	struct tls_connect_wish current;

	*wish = NULL;
	tls_connect_get_wish(&current);
	if (!current.server_id[0] && !current.server_name[0])
		return 0;
	*wish = shm_malloc(sizeof(**wish));
	if (!*wish)
		return -1;
	**wish = current;
	server_id[0] = '\0'; /* it was for one connection */
	return 0;
}

bool tls_connect_same_wish(const struct tls_connect_wish *a, const struct tls_connect_wish *b)
{
	static const struct tls_connect_wish nothing;

	a = a ? a : &nothing;
	b = b ? b : &nothing;
	return strcasecmp(a->server_id, b->server_id) == 0 &&
	       strcasecmp(a->server_name, b->server_name) == 0;
}
