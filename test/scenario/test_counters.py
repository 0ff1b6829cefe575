# SPDX-License-Identifier: ISC
"""Counters in SER's statistics: each one is moved by what it is said to count."""
from __future__ import annotations

import re
import socket
import urllib.request
from contextlib import contextmanager

import pytest

from certs import V
from clients import Endpoint, RawTls, TcpClient, TlsClient, UdpClient, WssClient, failed_handshake, rst
from domains import base, fault, load, put, section, site
from ser import TOP, wait_until

CBC = {"high": V.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"}


def counters(ser) -> dict[str, int]:
    return {name.removeprefix("tls."): int(value) for name, value in ser.rpc("stats.fetchn", "tls:").items()}


@contextmanager
def moves(ser, **expected: int):
    """What happens inside moves these counters by so much, and no other handshake's counter."""
    before = counters(ser)
    yield
    found: dict[str, int] = {}

    def settled() -> bool:
        now = counters(ser)
        found.clear()
        found.update({name: now[name] - before[name] for name in now if now[name] != before[name]})
        return all(found.get(name, 0) == by for name, by in expected.items())

    try:
        wait_until(settled, 5, "the counters")
    except AssertionError:
        raise AssertionError(f"expected {expected}, found {found}") from None
    failed = {name: by for name, by in found.items() if name.startswith("handshakes_failed") and name not in expected}
    assert not failed, f"counted as well: {failed}"


def _fails(by: str, role: str = "server") -> dict[str, int]:
    return {f"handshakes_failed_{by}": 1, f"handshakes_failed_{role}": 1, "connections_failed": 0}


@pytest.fixture
def params(certs):
    return certs.server_params(ca_list=str(certs.calist), verify_certificate=1, cipher_list="ALL:@SECLEVEL=0",
                               tls_method="TLSv1.0+")


@pytest.fixture
def ser(pool, params):
    return pool.get(tls=params, core="tcp_rd_buf_size=65536")


def test_the_table_of_the_documentation(ser):
    text = (TOP / "doc/counters.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)` \|", text, re.M)) == sorted(counters(ser))


def test_get_statistics(ser):
    lines = ser.rpc("stats.get_statistics", "tls:")
    assert any(re.fullmatch(r"tls:max_connections = 2048", line) for line in lines), lines


# -- handshakes that succeed ------------------------------------------------------------------------


@pytest.mark.parametrize("row,shape", [("1_3", {}), ("1_2", {"high": V.TLSv1_2}),
                                       ("1_1", {"high": V.TLSv1_1, "legacy": True}),
                                       ("1_0", {"high": V.TLSv1, "legacy": True})])
def test_by_version(ser, certs, row, shape):
    with moves(ser, **{f"handshakes_tls{row}": 1}, handshakes_server=1, handshakes_full=1, handshakes_client=0):
        with TlsClient(ser.tls_port, certs.client_context(**shape)) as client:
            assert client.ask().status == 200


def test_client_handshakes(ser, certs):
    with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller:
        with moves(ser, handshakes_client=1, handshakes_server=0, handshakes_tls1_3=1):
            assert caller.ask("OPTIONS", endpoint.uri).status == 200


def test_resumed(ser, certs):
    context = certs.client_context()
    with TlsClient(ser.tls_port, context) as first:
        assert first.ask().status == 200
        session = first.tls.session
    with moves(ser, handshakes_resumed=1, handshakes_full=0, handshakes_server=1):
        with TlsClient(ser.tls_port, context, session=session) as client:
            assert client.ask().status == 200 and client.tls.session_reused


def test_connections(ser, certs):
    ser.wait_connections(0)
    with TlsClient(ser.tls_port, certs.client_context()) as fast, TcpClient(ser.tcp_port) as tcp, \
            TlsClient(ser.tls_port, certs.client_context(**CBC)) as held:
        assert fast.ask().status == held.ask().status == tcp.ask().status == 200
        now = counters(ser)
        assert [now[k] for k in ("opened_connections", "connections_fast", "connections_held")] == [2, 1, 1]
        assert now["engine_sessions"] == 1 and now["peak_connections"] >= 2 and now["max_connections"] == 2048
    wait_until(lambda: [counters(ser)[k] for k in ("opened_connections", "connections_fast", "connections_held")]
               == [0, 0, 0], 5, "no connection")
    assert counters(ser)["peak_connections"] >= 2


@pytest.mark.parametrize("shape", [{}, CBC], ids=["fast", "held"])
def test_bytes_and_records(ser, certs, shape):
    with TlsClient(ser.tls_port, certs.client_context(**shape)) as client:
        assert client.ask().status == 200
        request = client.build("MESSAGE", headers=["X-Echo: 1"], body=b"x" * 20000)
        before = counters(ser)
        client.send(request)
        client.recv()
        now = counters(ser)
        assert now["bytes_received"] - before["bytes_received"] == len(request)
        assert now["records_received"] - before["records_received"] == 2
        sent = now["bytes_sent"] - before["bytes_sent"]
        assert sent > 100
        assert now["records_sent"] - before["records_sent"] == (sent + 16383) // 16384


def test_waiting_clear_text(ser, certs):
    with Endpoint(certs.server_context(), silent=True) as endpoint, UdpClient(ser.udp_port) as caller:
        with moves(ser, clear_text_write_queued_bytes=0, **_fails("closed", "client")):
            caller.send(caller.build("OPTIONS", endpoint.uri))
            wait_until(lambda: counters(ser)["clear_text_write_queued_bytes"] > 300, 5, "a message that waits")
            endpoint.close()
            ser.wait_failure(endpoint.port)
            ser.wait_connections(0)


# -- handshakes that fail ---------------------------------------------------------------------------


def test_not_tls(ser):
    with moves(ser, **_fails("not_tls")), socket.create_connection(("127.0.0.1", ser.tls_port)) as sock:
        sock.sendall(b"OPTIONS sip:a SIP/2.0\r\n\r\n")
        sock.recv(100)


def test_protocol(pool, certs):
    ser = pool.get(tls=certs.server_params(tls_method="TLSv1.3"))
    with moves(ser, **_fails("protocol")):
        failed_handshake(ser.tls_port, certs.client_context(high=V.TLSv1_2))


def test_closed(ser, certs):
    with moves(ser, **_fails("closed")):
        raw = RawTls(ser.tls_port, certs.client_context())
        raw.sock.sendall(raw.flight())
        raw.feed()
        raw.fin()
    with moves(ser, handshakes_failed_server=0):  # nothing was sent: no handshake
        socket.create_connection(("127.0.0.1", ser.tls_port)).close()
        ser.wait_connections(0)


def test_alert(ser, certs):
    with moves(ser, **_fails("alert")), pytest.raises(OSError):
        TlsClient(ser.tls_port, certs.client_context(high=V.TLSv1_2), name="another.example.org")


@pytest.mark.parametrize("shown", [None, "foreign-client", "client-expired"])
def test_certificate(pool, certs, shown):
    ser = pool.get(tls=certs.server_params(ca_list=str(certs.calist), verify_certificate=1, require_certificate=1))
    with moves(ser, **_fails("certificate")):
        failed_handshake(ser.tls_port, certs.client_context(shown))


def test_certificate_of_a_server(ser, certs):
    with Endpoint(certs.server_context("foreign-server")) as endpoint, UdpClient(ser.udp_port) as caller:
        with moves(ser, **_fails("certificate", "client")):
            caller.send(caller.build("OPTIONS", endpoint.uri))


def test_name_and_domain(pool, certs):
    ser = site(pool, certs)
    load(ser, base(certs, refuse_unknown_name=1, server_name="ser.example.org", ca_list=certs.calist,
                   verify_client="on", verify_name="host", verify_names="other.example.org"))
    with moves(ser, **_fails("name")):
        failed_handshake(ser.tls_port, certs.client_context("client"))
    with moves(ser, **_fails("domain")):
        failed_handshake(ser.tls_port, certs.client_context(verify=False), name="unknown.example.org")


def test_timeout(pool, certs):
    ser = pool.get(tls=certs.server_params(handshake_timeout=1))
    with moves(ser, **_fails("timeout")):
        with socket.create_connection(("127.0.0.1", ser.tls_port), 20) as sock:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
            assert sock.recv(100) == b""


def test_queue(pool, certs, params):
    ser = pool.get(tls=params | {"con_ct_wq_max": 1024}, core="tcp_rd_buf_size=65536")
    with Endpoint(certs.server_context(), silent=True) as endpoint, TcpClient(ser.tcp_port) as caller:
        with moves(ser, **_fails("queue", "client")):
            caller.send(caller.build("MESSAGE", endpoint.uri, body=b"z" * 2000))


def test_memory(ser, certs):
    free_kb = ser.shm_free() // 1024
    ser.rpc("cfg.set_now_int", "tls", "low_mem_threshold1", free_kb + 1000)
    try:
        with moves(ser, connections_refused=1, handshakes_server=0):
            failed_handshake(ser.tls_port, certs.client_context())
    finally:
        ser.rpc("cfg.set_now_int", "tls", "low_mem_threshold1", -1)
    ser.rpc("cfg.set_now_int", "tls", "low_mem_threshold2", free_kb + 1000)
    try:
        with moves(ser, **_fails("memory")):
            failed_handshake(ser.tls_port, certs.client_context())
    finally:
        ser.rpc("cfg.set_now_int", "tls", "low_mem_threshold2", -1)


def test_engine(pool, certs):
    ser = pool.fresh(tls=certs.server_params(engine_timeout=300), readers=1).start()
    before = counters(ser)
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
    now = counters(ser)
    assert now["engine_requests"] > before["engine_requests"]
    assert 0 < now["engine_service_us_max"] <= now["engine_service_us"]
    assert 0 <= now["engine_queue_us_max"] <= now["engine_queue_us"]
    with ser.engine_stopped(), moves(ser, **_fails("engine"), engine_timeouts=1):
        raw = RawTls(ser.tls_port, certs.client_context())
        raw.sock.sendall(raw.flight())
        assert raw.closed_by_ser(10)
        raw.fin()


# -- the rest ---------------------------------------------------------------------------------------


def test_a_connection_that_fails_later(ser, certs):
    with moves(ser, connections_failed=1, handshakes_failed_server=0):
        with RawTls(ser.tls_port, certs.client_context()) as client:
            client.handshake()
            client.sock.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            assert client.closed_by_ser()


def test_a_reset_is_no_failure(ser, certs):
    with moves(ser, connections_failed=0, handshakes_server=1):
        client = TlsClient(ser.tls_port, certs.client_context())
        assert client.ask().status == 200
        rst(client.sock)
        ser.wait_connections(0)


def test_reloads(pool, certs):
    ser = site(pool, certs)
    with moves(ser, reloads=1, reloads_failed=0):
        load(ser, base(certs))
    put(ser, section("server:default", certificate="/nowhere.pem"))
    with moves(ser, reloads=0, reloads_failed=1):
        fault(ser, "tls.reload")
    load(ser, base(certs))


def test_events(pool, certs, params):
    ser = pool.get(tls=params, events="event_route[tls:connection-in] { exit; }\n"
                                      "event_route[tls:connection-out] { drop; }")
    with moves(ser, events=1, events_dropped=0), TlsClient(ser.tls_port, certs.client_context("client")) as client:
        assert client.ask().status == 200
    with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller:
        with moves(ser, events=1, events_dropped=1):
            caller.send(caller.build("OPTIONS", endpoint.uri))


def test_route_that_refuses(pool, certs, params):
    ser = pool.get(tls=params, events="event_route[tls:connection-in] { drop; }")
    with moves(ser, events_dropped=1, connections_failed=1):
        with RawTls(ser.tls_port, certs.client_context("client")) as client:
            client.handshake()
            assert client.closed_by_ser()


PROMETHEUS = """
event_route[xhttp:request] {
	if ($hdr(Upgrade) =~ "websocket") {
		ws_handle_handshake();
		exit;
	}
	if (prom_check_uri()) {
		prom_dispatch();
	}
}
"""


def test_prometheus_scrapes_them(pool, certs, params):
    ser = pool.get(tls=params, modules=("xhttp", "xhttp_prom", "websocket"), core="tcp_accept_no_cl=yes",
                   params=(("xhttp_prom", "xhttp_prom_stats", "tls:"),), events=PROMETHEUS)
    with WssClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{ser.tcp_port}/metrics", timeout=20) as reply:
            text = reply.read().decode()
    found = dict(re.findall(r"^kamailio_tls_(\w+) (\d+) \d+$", text, re.M))
    now = counters(ser)
    assert set(found) == set(now), text
    assert found["opened_connections"] == "1" and int(found["handshakes_tls1_3"]) == now["handshakes_tls1_3"] >= 1
