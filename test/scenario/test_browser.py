# SPDX-License-Identifier: ISC
"""A phone in a real browser, over secure WebSocket, and a phone on plain TLS. doc/recipes.md shows the lines
that make SER serve both."""
from __future__ import annotations

import pytest

from browser import Browser
from certs import DOMAIN
from clients import TlsClient, answer
from ser import wait_until
from test_wss import ROUTES

NATHELPER = (("nathelper", "received_avp", "$avp(RECEIVED)"), ("registrar", "received_avp", "$avp(RECEIVED)"))
WEBSOCKET_ROUTE = """
	if (nat_uac_test("64")) {
		force_rport();
		if (is_method("REGISTER")) {
			fix_nated_register();
		} else {
			add_contact_alias();
		}
	}
"""


@pytest.fixture
def ser(pool, certs):
    return pool.fresh(
        tls=certs.server_params(ca_list=str(certs.calist)), readers=3,
        modules=("nathelper", "xhttp", "websocket"), events=ROUTES, route=WEBSOCKET_ROUTE,
        core="tcp_accept_no_cl=yes\ntcp_rd_buf_size=65536",
        params=(*NATHELPER, ("websocket", "keepalive_timeout", 3), ("websocket", "keepalive_interval", 1))).start()


@pytest.fixture
def browser(tmp_path, ser, certs):
    browser = Browser(tmp_path, f"wss://{DOMAIN}:{ser.tls_port}", ca=certs.calist)
    yield browser
    browser.stop()


def _register(desk: TlsClient) -> None:
    contact = f"sip:desk@{desk.local};transport=tls"
    data = desk.build("REGISTER", f"sip:{DOMAIN}", to=f"<sip:desk@{DOMAIN}>", headers=["Expires: 300"])
    desk.send(data.replace(f"<sip:tester@{desk.local};transport=tls>".encode(), f"<{contact}>".encode()))
    assert desk.recv().status == 200


def _message_from_browser(browser: Browser, desk: TlsClient, body: str) -> None:
    browser.do("message", to=f"sip:desk@{DOMAIN}", body=body)
    got = desk.recv(60)
    assert (got.method, got.body.decode()) == ("MESSAGE", body)
    assert f"sip:web@{DOMAIN}" in got.get("From")
    desk.send(answer(got))
    browser.wait("answer", status=200)


def _message_to_browser(browser: Browser, desk: TlsClient, body: str) -> None:
    reply = desk.ask("MESSAGE", f"sip:web@{DOMAIN}", timeout=60, body=body.encode(), headers=["Content-Type: text/plain"])
    assert reply.status == 200
    assert browser.wait("message")["body"] == body


def _frames(ser) -> list[int]:
    """WebSocket frames that SER has sent and received."""
    names = ("websocket.ws_transmitted_frames", "websocket.ws_received_frames")
    return [int(ser.rpc("stats.fetch", name)[name]) for name in names]


def test_browser(ser, certs, browser):
    browser.wait("connected")
    browser.do("register")
    browser.wait("registration", state="Registered")
    with TlsClient(ser.tls_port, certs.client_context()) as desk:
        _register(desk)
        for body in ("hello", "grüße \N{BELL} \N{TELEPHONE RECEIVER}", "x" * 30000):
            _message_from_browser(browser, desk, body)
            _message_to_browser(browser, desk, body)

        rows = ser.rpc("tls.list")
        web = [row for row in rows if row["src_port"] != desk.local_port]
        assert len(web) == 1 and web[0]["state"] == "established" and web[0]["sni"] == DOMAIN, rows
        assert {c["type"] for c in ser.connections()} == {"WSS", "TLS"}

        # The host pings from a process of its own; nothing but pongs comes back.
        before = _frames(ser)
        wait_until(lambda: all(now >= then + 2 for now, then in zip(_frames(ser), before)), 20,
                   "two pings and the browser's pongs", step=0.2)
        _message_to_browser(browser, desk, "still there")

        browser.do("unregister")
        browser.wait("registration", state="Unregistered")
        assert desk.ask("MESSAGE", f"sip:web@{DOMAIN}").status == 404
        browser.do("stop")
        browser.wait("disconnected")
        ser.wait_connections(1)


def test_browser_that_does_not_trust_the_ca(ser, tmp_path):
    """The proof that the browser of the other test verifies."""
    browser = Browser(tmp_path, f"wss://{DOMAIN}:{ser.tls_port}")
    try:
        browser.wait("error")
        wait_until(ser.failures, 10, "a line about the browser's refusal")
        assert {f["alert_received"] for f in ser.failures()} <= {"certificate_unknown", "unknown_ca"}
        assert ser.established() == []
    finally:
        browser.stop()
