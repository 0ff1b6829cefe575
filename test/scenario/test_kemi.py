# SPDX-License-Identifier: ISC
"""The module's functions for scripts in other languages, called by a route in Lua."""
from __future__ import annotations

import pytest

from certs import DOMAIN
from clients import Endpoint, TcpClient, TlsClient, WssClient
from domains import own, section

SCRIPT = """
local function got(name, value)
	KSR.hdr.append_to_reply("X-" .. name .. ": " .. type(value) .. " " .. tostring(value) .. "\\r\\n")
end

function ksr_request_route()
	got("Verified", KSR.tls.is_peer_verified())
	got("May", KSR.tls.peer_may_speak_for(KSR.pv.gete("$hdr(X-For)")))
	for name in string.gmatch(KSR.pv.gete("$hdr(X-Ask)"), "[^ ]+") do
		got("Value", KSR.tls.cget(name))
	end
	if KSR.pv.gete("$hdr(X-Id)") ~= "" then
		got("Set", KSR.tls.set_connect_server_id(KSR.pv.gete("$hdr(X-Id)")))
		KSR.tm.t_on_reply("ksr_reply")
		KSR.tm.t_relay()
		return 1
	end
	KSR.sl.send_reply(200, "OK")
	return 1
end

function ksr_reply()
	KSR.hdr.append("X-Server: " .. KSR.tls.cget("tls_peer_subject_cn") .. " " .. KSR.tls.is_peer_verified() .. " "
		.. KSR.tls.peer_may_speak_for("ser.example.org") .. "\\r\\n")
	return 1
end

function ksr_xhttp_event(evname)
	if string.lower(KSR.pv.gete("$hdr(Upgrade)")) == "websocket" then
		KSR.websocket.handle_handshake()
	end
	return 1
end
"""


@pytest.fixture
def ser(pool, certs):
    carrier = section("client:default", **own(certs, "client-rsa", server_id="carrier", ca_list=certs.calist,
                                              verify_certificate="yes"))
    cfg = "\n".join([section("server:default", **own(certs, ca_list=certs.calist, verify_certificate="yes")),
                     section("client:default", **own(certs, ca_list=certs.calist, verify_certificate="yes")),
                     carrier.replace("client:default", "client:any")])
    return pool.get(tls={"config": "tls.cfg", "tls_log": 1}, files={"tls.cfg": cfg, "route.lua": SCRIPT},
                    modules=("app_lua", "xhttp", "websocket"),
                    params=(("xhttp", "event_callback", "ksr_xhttp_event"),), core="tcp_accept_no_cl=yes",
                    native=False, raw='modparam("app_lua", "load", "@DIR@/route.lua")\ncfgengine "lua"')


def values(reply) -> list[str]:
    return reply.all("X-Value")


@pytest.mark.parametrize("kind", [TlsClient, WssClient], ids=["tls", "wss"])
def test_all_of_them(ser, certs, kind):
    with kind(ser.tls_port, certs.client_context("client")) as client:
        reply = client.ask(headers=[
            f"X-For: {DOMAIN}", "X-Ask: tls_peer_verified tls_cipher_bits tls_my_san_count(DNS) tls_my_san_hostname "
            "(tls_my_san_hostname[1]) $tls_version tls_my_subject_uid (tls_my_subject_cn{s.len}) tls(m_subject_line) "
            "tls_nothing ru tls tls_my_subject_cn$ru"])
        assert reply.get("X-Verified") == "number 1"
        assert reply.get("X-May") == "number -1", "sip:alice@DOMAIN speaks for one user only"
        got = values(reply)
        assert got[:5] == ["string 1", "string 256", "number 2", f"string {DOMAIN}", "string localhost"]
        # With its dollar sign it is no name; what there is no value of, and no name, is an empty text.
        assert got[5] == got[6] == "string"
        assert got[7] == f"number {len(DOMAIN)}" and DOMAIN in got[8]
        assert set(got[9:]) == {"string"} and len(got) == 13


def test_who_may_not(ser, certs):
    for client in (TlsClient(ser.tls_port, certs.client_context()), TcpClient(ser.tcp_port)):
        with client:
            reply = client.ask(headers=[f"X-For: {DOMAIN}", "X-Ask: tls_peer_subject_cn"])
            assert (reply.get("X-Verified"), reply.get("X-May")) == ("number -1", "number -1")
            assert values(reply) == ["string"]


def test_a_peer_that_may_speak(ser, certs):
    made = certs.authority().issue("proxy", "URI:sip:proxy.example.net")
    context = certs.client_context()
    context.load_cert_chain(made.pem, made.key)
    with TlsClient(ser.tls_port, context) as client:
        assert client.ask(headers=["X-For: proxy.example.net"]).get("X-May") == "number 1"
        assert client.ask(headers=["X-For: example.net"]).get("X-May") == "number -1"


@pytest.mark.parametrize("name,cn", [("carrier", "bob"), ("nobody", DOMAIN)])
def test_set_connect_server_id(ser, certs, name, cn):
    """And the reply route asks of the server that the reply came from."""
    with TcpClient(ser.tcp_port) as caller, Endpoint(certs.server_context(ask_client=True)) as endpoint:
        reply = caller.ask("OPTIONS", endpoint.uri, headers=[f"X-Id: {name}"])
        assert reply.status == 200 and reply.get("X-Server") == f"{DOMAIN} 1 1"
        subject = dict(pair[0] for pair in endpoint.arrivals[0].tls.getpeercert()["subject"])
        assert subject["commonName"] == cn
