/* SPDX-License-Identifier: ISC */
#include "tls_event.h"

#include "tls_log.h"

#include "core/action.h"
#include "core/fmsg.h"
#include "core/kemi.h"
#include "core/receive.h"
#include "core/route.h"
#include "core/script_cb.h"

struct event {
	str name;
	int route; /* its index, or -1 */
};

static struct event events[] = {
	[TLS_ROLE_SERVER] = {str_init("tls:connection-in"), -1},
	[TLS_ROLE_CLIENT] = {str_init("tls:connection-out"), -1},
};
static bool has_callback;

void tls_event_init(void)
{
	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		int route = route_lookup(&event_rt, events[i].name.s);

		events[i].route = route >= 0 && event_rt.rlist[route] ? route : -1;
	}
	has_callback = default_tls_cfg.event_callback.len > 0;
	if (has_callback && !sr_kemi_eng_get()) {
		LM_WARN("tls: parameter event_callback has no effect: no KEMI script is loaded\n");
		has_callback = false;
	}
}

bool tls_event_is_wanted(const struct tls_conn *conn)
{
	if (conn->role == TLS_ROLE_SERVER && !conn->verified)
		return false;
	return events[conn->role].route >= 0 || has_callback;
}

static bool run_script(struct event *event, sip_msg_t *msg)
{
	struct run_act_ctx ctx;
	int type = get_route_type();

	init_run_actions_ctx(&ctx);
	set_route_type(EVENT_ROUTE);
	if (event->route >= 0)
		run_top_route(event_rt.rlist[event->route], msg, &ctx);
	else if (sr_kemi_ctx_route(sr_kemi_eng_get(), &ctx, msg, EVENT_ROUTE,
				   &default_tls_cfg.event_callback, &event->name) < 0)
		LM_ERR("tls: cannot run function %s (event_callback) for %s\n",
		       default_tls_cfg.event_callback.s, event->name.s);
	set_route_type(type);
	return (ctx.run_flags & DROP_R_F) != 0;
}

bool tls_event_run(struct tcp_connection *c)
{
	const struct tls_conn *conn = c->extra_data;
	sip_msg_t msg;
	bool drop;

	if (faked_msg_get_new(&msg) != 0) {
		LM_ERR("tls: cannot make a message to run %s with\n", events[conn->role].name.s);
		return false;
	}
	/* What the host does for a message that came in on the connection. */
	msg.rcv = c->rcv;
	msg.rcv.proto_reserved1 = c->id;
	/*
	 * As around a request route. Else tm would keep a transaction that the route made, and
	 * take it for that of the next message with this one's number.
	 */
	exec_pre_script_cb(&msg, REQUEST_CB_TYPE);
	drop = run_script(&events[conn->role], &msg);
	exec_post_script_cb(&msg, REQUEST_CB_TYPE);
	tls_conn_count(TLS_COUNT_events, 1);
	tls_conn_count(TLS_COUNT_events_dropped, drop);
	free_sip_msg(&msg);
	ksr_msg_env_reset();
	return drop;
}
