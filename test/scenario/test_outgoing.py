# SPDX-License-Identifier: ISC
"""SER as the client: it opens TLS connections to SIP servers and relays to them."""
from __future__ import annotations

import socket
import time

import pytest

from certs import V
from clients import Endpoint, TlsClient, UdpClient, TcpClient, answer, request
from ser import wait_until

WIDE = "tcp_rd_buf_size=65536\ntcp_conn_wq_max=1048576"


@pytest.fixture
def ser(pool, certs):
    return pool.get(tls=certs.server_params(ca_list=str(certs.calist), cipher_list="ALL:@SECLEVEL=0"),
                    children=4, readers=3, core=WIDE)


def _call(caller, endpoint: Endpoint) -> None:
    """INVITE, ACK, BYE along the route that SER recorded."""
    reply = caller.ask("INVITE", endpoint.uri)
    assert reply.status == 200 and reply.body.startswith(b"v=0")
    routes = [f"Route: {route}" for route in reversed(reply.all("Record-Route"))]
    assert routes
    to = reply.get("To")
    more = {"call_id": reply.call_id, "to": to, "headers": routes}
    caller.send(caller.build("ACK", endpoint.uri, cseq=1, **more))
    bye = caller.build("BYE", endpoint.uri, cseq=2, **more)
    caller.send(bye)
    while (done := caller.recv()).get("CSeq") != "2 BYE":
        pass
    assert done.status == 200

    def seen() -> list[str]:
        return sorted(m.method for m in endpoint.messages() if m.call_id == reply.call_id)

    # By UDP the ACK and the BYE go through different processes: one may overtake the other.
    wait_until(lambda: len(seen()) >= 3, 5, "ACK, BYE and INVITE at the endpoint")
    assert seen() == ["ACK", "BYE", "INVITE"]


VERSIONS = {
    "tls13": {},
    "tls12": {"high": V.TLSv1_2},
    "cbc": {"high": V.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"},
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("source", ["udp", "tcp", "tls"])
def test_a_call(ser, certs, version, source):
    make = {"udp": lambda: UdpClient(ser.udp_port), "tcp": lambda: TcpClient(ser.tcp_port),
            "tls": lambda: TlsClient(ser.tls_port, certs.client_context())}[source]
    with Endpoint(certs.server_context(**VERSIONS[version])) as endpoint, make() as caller:
        for _ in range(3):
            _call(caller, endpoint)
        assert len(endpoint.arrivals) == 1, "the connection is used again"
        line = ser.wait_established(endpoint.port)
        assert line["role"] == "client" and line["path"] == ("engine" if version == "cbc" else "fast")


def test_rsa_endpoint(ser, certs):
    with Endpoint(certs.server_context("server-rsa")) as endpoint, UdpClient(ser.udp_port) as caller:
        _call(caller, endpoint)


def test_client_certificate_is_shown(ser, certs):
    with Endpoint(certs.server_context(ask_client=True)) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200
        subject = endpoint.arrivals[0].tls.getpeercert()["subject"]
        assert (("commonName", "ser.example.org"),) in subject


@pytest.mark.parametrize("delay", [0, 1.0])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_burst_into_a_new_connection(ser, certs, version, delay):
    """Several UDP workers send at once while the connection is handshaking: nothing is lost or doubled."""
    with Endpoint(certs.server_context(**VERSIONS[version]), delay=delay) as endpoint, \
            UdpClient(ser.udp_port) as caller:
        sent = set()
        for n in range(60):
            call_id = f"burst-{version}-{delay}-{n}"
            sent.add(call_id)
            caller.send(caller.build("OPTIONS", endpoint.uri, call_id=call_id))
        answered: set = set()
        end = time.monotonic() + 15
        while answered != sent and time.monotonic() < end:
            reply = caller.recv(10)
            if reply.status == 200:
                answered.add(reply.call_id)
        assert answered == sent
        assert {m.call_id for m in endpoint.messages()} == sent
        lost = [a.error for a in endpoint.arrivals if a.error]
        assert not lost, lost


def test_each_senders_messages_stay_in_order(ser, certs):
    with Endpoint(certs.server_context(), delay=0.5) as endpoint, TcpClient(ser.tcp_port) as caller:
        caller.send(b"".join(caller.build("MESSAGE", endpoint.uri, call_id="ordered", cseq=n, body=b"x" * 500)
                             for n in range(1, 51)))
        got = endpoint.wait_messages(50)
        assert [m.get("CSeq") for m in got] == [f"{n} MESSAGE" for n in range(1, 51)]


@pytest.mark.parametrize("size", [16000, 17000, 40000, 60000])
@pytest.mark.parametrize("delay", [0, 0.5])
def test_big_messages_out(ser, certs, size, delay):
    with Endpoint(certs.server_context(), delay=delay) as endpoint, TcpClient(ser.tcp_port) as caller:
        body = bytes(i % 251 for i in range(size))
        assert caller.ask("MESSAGE", endpoint.uri, body=body).status == 200
        assert endpoint.messages()[0].body == body


def test_replies_byte_at_a_time(ser, certs):
    with Endpoint(certs.server_context(), chunk=1) as endpoint, UdpClient(ser.udp_port) as caller:
        for _ in range(3):
            assert caller.ask("OPTIONS", endpoint.uri).status == 200


def test_requests_in_both_directions_on_one_connection(ser, certs):
    """The endpoint sends requests of its own on the connection that SER opened."""
    with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200
        stream = endpoint.arrivals[0].tls
        stream.settimeout(5)
        stream.sendall(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls", call_id="from-the-endpoint"))
        got = endpoint.wait_messages(2)[-1]
        assert got.status == 200 and got.call_id == "from-the-endpoint"


def test_many_endpoints_at_once(ser, certs):
    context = certs.server_context()
    endpoints = [Endpoint(context, delay=0.2 * (n % 3)) for n in range(12)]
    try:
        with UdpClient(ser.udp_port) as caller:
            for turn in range(3):
                for n, endpoint in enumerate(endpoints):
                    caller.send(caller.build("OPTIONS", endpoint.uri, call_id=f"many-{turn}-{n}"))
            done: set = set()
            while len(done) < 36:
                reply = caller.recv(8)
                if reply.status == 200:
                    done.add(reply.call_id)
    finally:
        for endpoint in endpoints:
            endpoint.close()


def test_the_endpoint_closes_and_ser_connects_again(ser, certs):
    with Endpoint(certs.server_context(), close_after=1) as endpoint, UdpClient(ser.udp_port) as caller:
        for n in range(4):
            assert caller.ask("OPTIONS", endpoint.uri).status == 200
            time.sleep(0.2)
        assert len(endpoint.arrivals) == 4


# -- endpoints that misbehave ----------------------------------------------------------------------


def _fails(caller, uri: str, timeout: float = 15) -> None:
    assert caller.ask("OPTIONS", uri, timeout=timeout).status in (408, 477, 500, 503)


VERIFYING = {"verify_certificate": 1, "require_certificate": 1}


@pytest.mark.parametrize("cert,alert", [("foreign-server", "unknown_ca"), ("server-expired", "certificate_expired")])
def test_ser_refuses_the_certificate(pool, certs, cert, alert):
    ser = pool.get(tls=certs.server_params(ca_list=str(certs.calist), **VERIFYING), children=2)
    with Endpoint(certs.server_context(cert)) as endpoint, UdpClient(ser.udp_port) as caller:
        _fails(caller, endpoint.uri)
        line = ser.wait_failure(endpoint.port)
        assert line["role"] == "client" and line["alert_sent"] in (alert, "bad_certificate"), line
        assert "ser.example.org" in line["cert"] and line["reason"], line
        assert not endpoint.messages(), "nothing may be sent to a server that was refused"
        assert alert.replace("_", " ") in endpoint.arrivals[0].error.replace("_", " ").lower()


def test_ser_accepts_the_good_one_when_it_verifies(pool, certs):
    ser = pool.get(tls=certs.server_params(ca_list=str(certs.calist), **VERIFYING), children=2)
    with Endpoint(certs.server_context("server-chain")) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200
        assert ser.wait_established(endpoint.port)["verified"] == "yes"


def test_without_verification_a_foreign_certificate_is_taken(ser, certs):
    with Endpoint(certs.server_context("foreign-server")) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200


def test_the_endpoint_refuses_sers_certificate(pool, certs):
    ser = pool.get(tls=certs.server_params("foreign-server"))
    with Endpoint(certs.server_context(ask_client=True, high=V.TLSv1_2)) as endpoint, \
            UdpClient(ser.udp_port) as caller:
        _fails(caller, endpoint.uri)
        assert ser.wait_failure(endpoint.port)["alert_received"] == "unknown_ca"


def test_the_endpoint_speaks_no_tls(ser):
    with Endpoint(None) as endpoint, UdpClient(ser.udp_port) as caller:
        _fails(caller, endpoint.uri.replace("transport=tcp", "transport=tls"))


@pytest.mark.parametrize("what", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 300, b"\x15\x03\x03\x00\x02\x02\x28"],
                         ids=["http", "zeros", "alert"])
def test_the_endpoint_answers_garbage(ser, what):
    with socket.create_server(("127.0.0.1", 0)) as listener, UdpClient(ser.udp_port) as caller:
        port = listener.getsockname()[1]
        caller.send(caller.build("OPTIONS", f"sip:x@127.0.0.1:{port};transport=tls"))
        listener.settimeout(5)
        sock, _ = listener.accept()
        with sock:
            sock.recv(65536)
            sock.sendall(what)
            line = ser.wait_failure(port)
            assert line["role"] == "client"
            if what[0] == 0x15:
                assert line["alert_received"] == "handshake_failure"


@pytest.mark.parametrize("when", ["at_once", "after_hello", "mid_flight"])
def test_the_endpoint_closes_in_the_handshake(ser, certs, when):
    with socket.create_server(("127.0.0.1", 0)) as listener, UdpClient(ser.udp_port) as caller:
        port = listener.getsockname()[1]
        listener.settimeout(5)
        for _ in range(3):
            caller.send(caller.build("OPTIONS", f"sip:x@127.0.0.1:{port};transport=tls"))
            sock, _ = listener.accept()
            if when != "at_once":
                sock.recv(65536)
            if when == "mid_flight":
                sock.sendall(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03")
            sock.close()
            time.sleep(0.1)
    with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200


def test_an_endpoint_that_never_answers_meets_the_handshake_timeout(pool, certs):
    ser = pool.get(tls=certs.server_params(handshake_timeout=2), children=3)
    with Endpoint(certs.server_context(), silent=True) as endpoint, \
            Endpoint(certs.server_context()) as good, UdpClient(ser.udp_port) as caller:
        start = time.monotonic()
        caller.send(caller.build("OPTIONS", endpoint.uri))
        assert caller.ask("OPTIONS", good.uri).status == 200, "nobody waits for the silent one"
        line = ser.wait_failure(endpoint.port, 7)
        assert 1.5 < time.monotonic() - start < 6
        assert "time" in line["reason"].lower() and line["role"] == "client"


def test_an_endpoint_that_stops_reading_meets_the_send_timeout(pool, certs):
    """SER's queue for it fills up; the connection ends and nobody else waits."""
    ser = pool.get(tls=certs.server_params(send_timeout=2, con_ct_wq_max=65536), children=3,
                   core="tcp_conn_wq_max=16777216\ntcp_rd_buf_size=65536")
    with Endpoint(certs.server_context(), deaf=True) as endpoint, Endpoint(certs.server_context()) as good, \
            TcpClient(ser.tcp_port) as caller, UdpClient(ser.udp_port) as other:
        caller.send(caller.build("MESSAGE", endpoint.uri))
        wait_until(lambda: endpoint.arrivals and endpoint.arrivals[0].tls, 5, "the connection")
        for n in range(250):
            caller.send(caller.build("MESSAGE", endpoint.uri, cseq=n, body=b"z" * 40000))
        start = time.monotonic()
        slowest = 0.0
        while time.monotonic() < start + 10 and not ser.failures(endpoint.port):
            asked = time.monotonic()
            assert other.ask("OPTIONS", good.uri).status == 200
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.1)
        assert slowest < 2, f"others waited {slowest:.1f} s"
        line = ser.wait_failure(endpoint.port, 1)
        assert "send_timeout" in line["reason"] and line["role"] == "client", line
        assert line["domain"] == "client:default", line


def test_nobody_listens(ser):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with UdpClient(ser.udp_port) as caller:
        _fails(caller, f"sip:x@127.0.0.1:{port};transport=tls")


def test_to_a_phone_on_its_own_connection(ser, certs):
    """A UDP worker sends on a connection that a client opened and a TCP reader owns."""
    with TlsClient(ser.tls_port, certs.client_context()) as phone, UdpClient(ser.udp_port) as caller:
        assert phone.ask("REGISTER", "sip:ser.example.org", headers=["Expires: 60"],
                         to="<sip:loop@ser.example.org>").status == 200
        caller.send(caller.build("MESSAGE", f"sip:tester@{phone.local};transport=tls", body=b"hello"))
        got = phone.recv()
        assert got.body == b"hello"
        phone.send(answer(got))
        while (reply := caller.recv()).status < 200:
            pass
        assert reply.status == 200


def test_more_than_the_queue_holds_while_handshaking(pool, certs):
    """con_ct_wq_max: one line, the senders get an error, and SER serves on."""
    ser = pool.get(tls=certs.server_params(con_ct_wq_max=20000), children=2, core=WIDE)
    with Endpoint(certs.server_context(), silent=True) as endpoint, TcpClient(ser.tcp_port) as caller, \
            Endpoint(certs.server_context()) as good:
        for n in range(3):
            caller.send(caller.build("MESSAGE", endpoint.uri, cseq=n, body=b"z" * 9000))
        line = ser.wait_failure(endpoint.port)
        assert "con_ct_wq_max" in line["reason"], line
        while caller.recv().status < 300:
            pass
        assert caller.ask("OPTIONS", good.uri).status == 200


def _serve_once(listener: socket.socket, context, others: set) -> bytes:
    """Answers the TLS handshake of the first caller that is none of the others; returns what it sends first."""
    listener.settimeout(10)
    while True:
        sock, peer = listener.accept()
        if peer in others:
            sock.close()
            continue
        sock.settimeout(5)
        with context.wrap_socket(sock, server_side=True) as stream:
            return stream.recv(4096)


@pytest.mark.parametrize("slow", [False, True], ids=["at once", "slow connect"])
@pytest.mark.parametrize("close", [False, True], ids=["keep", "close after send"])
def test_close_after_send_waits_for_the_handshake(pool, certs, close, slow):
    """A connect that takes long lets the host see the flag before the handshake has begun."""
    route = 'set_forward_close();' if close else ""
    ser = pool.get(tls=certs.server_params(ca_list=str(certs.calist)), core="tcp_connect_timeout=10", route=route)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(3 if slow else 0)]  # SER's SYN finds no room in the queue
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.1)
        with UdpClient(ser.udp_port) as caller:
            caller.send(caller.build("MESSAGE", f"sip:bob@127.0.0.1:{listener.getsockname()[1]};transport=tls"))
            time.sleep(0.5 if slow else 0)
            others = {filler.getsockname() for filler in fillers}
            assert _serve_once(listener, certs.server_context(), others).startswith(b"MESSAGE ")
        for filler in fillers:
            filler.close()
