# SPDX-License-Identifier: ISC
"""Event routes: what runs when a handshake is done, before anything that waited is sent."""
from __future__ import annotations

import re
import socket
import threading
import time

import pytest

from certs import V
from clients import Endpoint, RawTls, TcpClient, TlsClient, UdpClient, WssClient, request, take_message
from ser import wait_until

WIDE = "tcp_rd_buf_size=65536\ntcp_conn_wq_max=1048576"
LINE = r'{} from $si:$sp at $Ri:$Rp by $proto conn $conid pid $pp\n'


def _route(name: str, *actions: str) -> str:
    line = LINE.format(name)
    return "\n".join([f"event_route[tls:connection-{name}] {{", f'\txlog("L_NOTICE", "event {line}");', *actions, "}"])


def _events(ser, name: str, port: int | None = None) -> list[dict[str, str]]:
    """The lines of the route above in this test, of one peer's port or all."""
    pattern = re.compile(rf"event {name} from (?P<ip>\S+):(?P<port>\d+) at (?P<at>\S+) by (?P<proto>\S+) "
                         r"conn (?P<id>\d+) pid (?P<pid>\d+)")
    found = [m.groupdict() for m in pattern.finditer(ser.log(), ser.test_mark)]
    return [e for e in found if port is None or int(e["port"]) == port]


VERSIONS = {
    "tls13": {},
    "tls12": {"high": V.TLSv1_2},
    "cbc": {"high": V.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"},
}


@pytest.fixture
def params(certs):
    return certs.server_params(ca_list=str(certs.calist), verify_certificate=1, cipher_list="ALL:@SECLEVEL=0")


# -- connections that SER opens -------------------------------------------------------------------


@pytest.fixture
def slow_out(pool, params):
    """Its route takes half a second."""
    return pool.get(tls=params, children=4, readers=3, core=WIDE, modules=("cfgutils",),
                    events=_route("out", "\tusleep(500000);", '\txlog("L_NOTICE", "event over\\n");'))


@pytest.mark.parametrize("version", VERSIONS)
def test_out_runs_once_before_anything_is_sent(slow_out, certs, version):
    ser = slow_out
    with Endpoint(certs.server_context(**VERSIONS[version])) as endpoint, UdpClient(ser.udp_port) as caller:
        for n in range(3):
            start = time.monotonic()
            assert caller.ask("OPTIONS", endpoint.uri).status == 200
            assert n > 0 or time.monotonic() - start > 0.5, "the request waits for the route"
        event, = _events(ser, "out", endpoint.port)
        assert event["ip"] == "127.0.0.1" and event["proto"] == "tls"
        assert event["at"] == f"127.0.0.1:{ser.tls_port}"
        assert int(event["pid"]) in ser.pids_of("tcp receiver")


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_sent_while_the_route_runs_waits_in_order(slow_out, certs, version):
    ser = slow_out
    with Endpoint(certs.server_context(**VERSIONS[version])) as endpoint, TcpClient(ser.tcp_port) as caller, \
            UdpClient(ser.udp_port) as other:
        sent = 0
        other.send(other.build("OPTIONS", endpoint.uri))
        wait_until(lambda: _events(ser, "out", endpoint.port), 10, "the route to run")
        while sent < 40:
            sent += 1
            caller.send(caller.build("MESSAGE", endpoint.uri, call_id="ordered", cseq=sent, body=b"x" * 800))
        got = [m for m in endpoint.wait_messages(sent + 1, timeout=20) if m.call_id == "ordered"]
        assert [m.get("CSeq") for m in got] == [f"{n} MESSAGE" for n in range(1, sent + 1)]
        assert endpoint.messages()[0].method == "OPTIONS", "what waited for the handshake goes first"
        assert len(_events(ser, "out", endpoint.port)) == 1


def test_a_server_that_speaks_first(slow_out, certs):
    """Its request comes with the end of the handshake: it is served after the route, not lost."""
    ser = slow_out
    with socket.create_server(("127.0.0.1", 0)) as listener, UdpClient(ser.udp_port) as caller:
        port = listener.getsockname()[1]
        caller.send(caller.build("OPTIONS", f"sip:x@127.0.0.1:{port};transport=tls"))
        listener.settimeout(10)
        sock, _ = listener.accept()
        context = certs.server_context()
        context.num_tickets = 0
        with context.wrap_socket(sock, server_side=True) as stream:
            uri = f"sip:127.0.0.1:{ser.tls_port};transport=tls"
            stream.sendall(b"".join(request(uri=uri, call_id=f"first-{n}") for n in range(3)))
            stream.settimeout(10)
            buffer, got = bytearray(), []
            while len(got) < 4:
                buffer += stream.recv(65536)
                while (message := take_message(buffer)) is not None:
                    got.append(message)
        assert got[0].method == "OPTIONS"
        assert [m.call_id for m in got[1:]] == ["first-0", "first-1", "first-2"]
        assert [m.status for m in got[1:]] == [200] * 3


@pytest.mark.parametrize("way", ["kill", "rst"])
def test_the_connection_ends_while_the_route_runs(slow_out, certs, way):
    ser = slow_out
    with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller:
        caller.send(caller.build("OPTIONS", endpoint.uri))
        event = wait_until(lambda: _events(ser, "out", endpoint.port), 10, "the route to run")[0]
        if way == "kill":
            assert ser.rpc("tls.kill", int(event["id"])) == "OK"
        else:
            wait_until(lambda: endpoint.arrivals[0].tls, 5, "the endpoint to have seen the end of the handshake, too")
            endpoint.arrivals[0].tls.shutdown(socket.SHUT_RDWR)
        ser.wait_log("event over", since=ser.test_mark)
        wait_until(lambda: int(event["id"]) not in {c["id"] for c in ser.connections()}, 10, "its end")
    with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200


def test_more_than_the_queue_holds_while_the_route_runs(pool, certs, params):
    ser = pool.fresh(tls=params | {"con_ct_wq_max": 20000}, children=2, readers=3, core=WIDE, modules=("cfgutils",),
                     events=_route("out", "\tusleep(1500000);")).start()
    with Endpoint(certs.server_context()) as endpoint, TcpClient(ser.tcp_port) as caller:
        caller.send(caller.build("MESSAGE", endpoint.uri, body=b"z" * 5000))
        wait_until(lambda: _events(ser, "out", endpoint.port), 10, "the route to run")
        for n in range(3):
            caller.send(caller.build("MESSAGE", endpoint.uri, cseq=n + 2, body=b"z" * 9000))
        assert "con_ct_wq_max" in ser.wait_failure(endpoint.port)["reason"]
    ser.wait_connections(0, 10)


UAC = 'loadmodule "uac.so"\nmodparam("uac", "restore_mode", "none")'


def test_the_route_sends_on_the_connection_that_it_is_about(pool, certs, params):
    ser = pool.get(tls=params, children=2, readers=2, raw=UAC, events=_route(
        "out", '\t$uac_req(method) = "INFO";', '\t$uac_req(ruri) = "sip:peer@" + $si + ":" + $sp + ";transport=tls";',
        "\t$uac_req(turi) = $uac_req(ruri);", '\t$uac_req(furi) = "sip:ser@localhost";', "\tuac_req_send();"))
    with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200
        got = endpoint.wait_messages(2)
        assert [m.method for m in got] == ["OPTIONS", "INFO"]
        assert len(endpoint.arrivals) == 1 and len(_events(ser, "out", endpoint.port)) == 1


def test_variables_of_the_route_do_not_outlive_it(pool, certs, params):
    ser = pool.get(tls=params, readers=1, events=_route("out", '\t$avp(left) = "over";', '\t$xavp(left=>a) = "over";'),
                   route='xlog("L_NOTICE", "left: $avp(left) $xavp(left=>a) $proto\\n");')
    with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller, \
            TlsClient(ser.tls_port, certs.client_context()) as client:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200
        assert _events(ser, "out", endpoint.port)
        assert client.ask().status == 200  # the same process serves it
        assert "left: <null> <null> tls" in ser.log()


@pytest.mark.parametrize("version", VERSIONS)
def test_drop_forbids_to_send(pool, certs, params, version):
    with Endpoint(certs.server_context(**VERSIONS[version]), delay=0.3) as blocked, \
            Endpoint(certs.server_context()) as good:
        ser = pool.fresh(tls=params, children=2, readers=2,
                         events=_route("out", f"\tif ($sp == {blocked.port}) drop;")).start()
        with UdpClient(ser.udp_port) as caller:
            caller.send(caller.build("OPTIONS", blocked.uri, call_id="early-0"))
            # The other process must find the connection, or it would open one of its own.
            wait_until(lambda: ser.connection_count() == 1, 5, "the connection", step=0.005)
            caller.send(caller.build("OPTIONS", blocked.uri, call_id="early-1"))
            line = ser.wait_log(r"tls: discarded peer=\S+:(\d+) .*drop\" messages=2 bytes=[1-9]\d+$", 10)
            assert int(line[1]) == blocked.port and "role=client" in line[0]
            assert len(_events(ser, "out", blocked.port)) == 1
            assert ser.connection_count() == 1, "the peer may still send"
            # The host: a send on such a connection fails and ends it.
            assert caller.ask("OPTIONS", blocked.uri).status in (477, 500, 503)
            assert ser.failures(blocked.port)[-1]["reason"].endswith("forbade to send")
            ser.wait_connections(0, 10)
            assert caller.ask("OPTIONS", good.uri).status == 200
        assert not blocked.messages() and not blocked.arrivals[0].error, "not a byte of SIP was sent"


# -- connections that SER accepts -------------------------------------------------------------------


@pytest.fixture
def slow_in(pool, params):
    return pool.get(tls=params, readers=2, modules=("cfgutils",), events=_route("in", "\tusleep(300000);"))


@pytest.mark.parametrize("version", VERSIONS)
def test_in_runs_for_a_verified_peer(slow_in, certs, version):
    """Its request comes with the end of the handshake and is served after the route."""
    ser = slow_in
    with TlsClient(ser.tls_port, certs.client_context("client", **VERSIONS[version])) as client:
        client.send(b"".join(client.build(call_id=f"{version}-{n}") for n in range(3)))
        assert [client.recv().call_id for _ in range(3)] == [f"{version}-{n}" for n in range(3)]
        event, = _events(ser, "in", client.local_port)
        assert event["at"] == f"127.0.0.1:{ser.tls_port}" and event["proto"] == "tls"
        assert client.ask().status == 200
        assert len(_events(ser, "in", client.local_port)) == 1


def test_request_in_one_packet_with_the_handshakes_end(slow_in, certs):
    ser = slow_in
    with RawTls(ser.tls_port, certs.client_context("client")) as client:
        flights: list[bytes] = []

        def put(flight: bytes) -> None:
            flights.append(flight)
            if len(flights) == 1:
                client.sock.sendall(flight)

        client.handshake(put)
        client.sock.sendall(b"".join(flights[1:]) + client.seal(client.build()))
        assert client.recv().status == 200
        assert _events(ser, "in", client.local_port)


def test_in_does_not_run_without_a_certificate(slow_in, certs):
    ser = slow_in
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
        assert not _events(ser, "in", client.local_port)


def test_in_does_not_run_for_a_certificate_that_does_not_verify(pool, certs):
    ser = pool.get(tls=certs.server_params(ca_list=str(certs.calist), verify_client="optional_no_ca"),
                   events=_route("in"))
    with TlsClient(ser.tls_port, certs.client_context("foreign-client")) as client, \
            TlsClient(ser.tls_port, certs.client_context("client")) as known:
        assert client.ask().status == 200 and known.ask().status == 200
        assert _events(ser, "in", known.local_port) and not _events(ser, "in", client.local_port)


def test_in_runs_for_a_resumed_session(slow_in, certs):
    ser = slow_in
    context = certs.client_context("client")
    with TlsClient(ser.tls_port, context) as first:
        assert first.ask().status == 200
        session = first.tls.session
    with TlsClient(ser.tls_port, context, session=session) as client:
        assert client.ask().status == 200 and client.tls.session_reused
        assert len(_events(ser, "in", client.local_port)) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_drop_refuses_the_peer(pool, certs, params, version):
    ser = pool.get(tls=params, readers=2, events=_route("in", "\tdrop;"), route='xlog("L_NOTICE", "request $ci\\n");')
    with RawTls(ser.tls_port, certs.client_context("client", **VERSIONS[version])) as client:
        client.handshake()
        client.send(client.build(call_id=f"refused-{version}"))
        assert client.closed_by_ser()
        line = ser.wait_failure(client.local_port)
        assert "executed drop" in line["reason"] and line["role"] == "server" and line["domain"]
    with TlsClient(ser.tls_port, certs.client_context()) as other:
        assert other.ask().status == 200, "no certificate, no event"
    assert f"request refused-{version}" not in ser.log()


def test_drop_tells_the_peer_why(pool, certs, params):
    ser = pool.get(tls=params, readers=2, events=_route("in", "\tdrop;"), route='xlog("L_NOTICE", "request $ci\\n");')
    with TlsClient(ser.tls_port, certs.client_context("client")) as client, pytest.raises(OSError) as caught:
        client.recv()
    assert "access" in str(caught.value).lower().replace("_", " ")


def test_many_at_once(slow_in, certs):
    ser = slow_in
    context = certs.client_context("client")
    done = []

    def visit() -> None:
        with TlsClient(ser.tls_port, context, timeout=30) as client:
            done.append((client.local_port, client.ask(timeout=30).status))

    threads = [threading.Thread(target=visit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [status for _, status in done] == [200] * 8
    assert {int(e["port"]) for e in _events(ser, "in")} == {port for port, _ in done}


WEBSOCKET = """
event_route[xhttp:request] {
	if ($hdr(Upgrade) =~ "websocket" && $rm =~ "GET") {
		ws_handle_handshake();
		exit;
	}
	xhttp_reply("404", "Not Found", "", "");
}
"""


def test_secure_websocket(pool, certs, params):
    ser = pool.get(tls=params, modules=("xhttp", "websocket", "cfgutils"), core="tcp_accept_no_cl=yes",
                   events=WEBSOCKET + _route("in", "\tusleep(200000);"))
    with WssClient(ser.tls_port, certs.client_context("client")) as client:
        reply = client.ask()
        assert reply.status == 200 and reply.get("X-Proto") == "wss"
        assert len(_events(ser, "in", client.local_port)) == 1, "once, before the upgrade"


# -- KEMI -------------------------------------------------------------------------------------------

LUA = """
function ksr_request_route()
	if KSR.pv.get("$rU") == nil then
		KSR.sl.sl_send_reply(200, "OK")
	else
		KSR.tm.t_relay()
	end
end

function ksr_tls_event(evname)
	KSR.notice("lua " .. evname .. " from " .. KSR.pv.get("$si") .. ":" .. KSR.pv.get("$sp") ..
		" conn " .. KSR.pv.get("$conid") .. "\\n")
	local file = io.open("@DIR@/blocked")
	if file then
		if file:read("*n") == KSR.pv.get("$sp") then
			KSR.set_drop()
		end
		file:close()
	end
end

function ksr_broken(evname)
	error("broken on purpose")
end
"""


def _lua(pool, params, **more):
    return pool.get(tls=params | more, readers=2, modules=("app_lua",), files={"ser.lua": LUA},
                    raw='modparam("app_lua", "load", "@DIR@/ser.lua")\ncfgengine "lua"')


def test_callback_of_a_lua_script(pool, certs, params):
    ser = _lua(pool, params, event_callback="ksr_tls_event")
    with Endpoint(certs.server_context()) as endpoint, Endpoint(certs.server_context()) as blocked, \
            UdpClient(ser.udp_port) as caller, TlsClient(ser.tls_port, certs.client_context("client")) as client:
        assert client.ask().status == 200
        ser.wait_log(rf"lua tls:connection-in from 127.0.0.1:{client.local_port} conn \d+$")
        assert caller.ask("OPTIONS", endpoint.uri).status == 200
        ser.wait_log(rf"lua tls:connection-out from 127.0.0.1:{endpoint.port} conn \d+$")
        (ser.dir / "blocked").write_text(str(blocked.port))
        caller.send(caller.build("OPTIONS", blocked.uri))
        ser.wait_log(rf"tls: discarded peer=127.0.0.1:{blocked.port} .*drop", 10)
        assert not blocked.messages()


def test_a_callback_that_fails_holds_nothing_up(pool, certs, params):
    ser = _lua(pool, params, event_callback="ksr_broken")
    with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200
        ser.wait_log("broken on purpose")


def test_a_callback_without_a_script_is_warned_of(pool, certs, params):
    ser = pool.fresh(tls=params | {"event_callback": "f"}).start()
    assert "event_callback has no effect" in ser.log()
    with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200
