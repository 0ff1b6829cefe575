# SPDX-License-Identifier: ISC
"""SIP over secure WebSocket: the host changes the connection's type, the module keeps serving it."""
from __future__ import annotations

import struct
import time

import pytest

from certs import DOMAIN, V
from clients import TIMEOUT, RawTls, TcpClient, TlsClient, UdpClient, WssClient, answer, rst, sized_request
from ser import SLOW, wait_until

ROUTES = """
event_route[xhttp:request] {
	if ($hdr(Upgrade) =~ "websocket" && $rm =~ "GET") {
		ws_handle_handshake();
		exit;
	}
	xhttp_reply("404", "Not Found", "", "");
}
"""

PATHS = {
    "tls13": {},
    "tls12": {"high": V.TLSv1_2},
    "cbc": {"high": V.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"},
}


@pytest.fixture
def ser(pool, certs):
    return pool.get(
        tls=certs.server_params(ca_list=str(certs.calist), verify_certificate=1, cipher_list="ALL:@SECLEVEL=0"),
        modules=("xhttp", "websocket"), core="tcp_accept_no_cl=yes\ntcp_rd_buf_size=65536", events=ROUTES)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cert,verified", [(None, "no"), ("client", "yes")])
def test_options(ser, certs, path, cert, verified):
    with WssClient(ser.tls_port, certs.client_context(cert, **PATHS[path])) as client:
        for _ in range(5):
            reply = client.ask()
            assert reply.status == 200
            assert (reply.get("X-Proto"), reply.get("X-Verified")) == ("wss", verified)


def test_resumed_session_is_verified_too(ser, certs):
    context = certs.client_context("client")
    with TlsClient(ser.tls_port, context) as first:
        assert first.ask().get("X-Verified") == "yes"
        session = first.tls.session
    with WssClient(ser.tls_port, context, session=session) as client:
        assert client.tls.session_reused
        assert client.ask().get("X-Verified") == "yes"


def test_ping(ser, certs):
    with WssClient(ser.tls_port, certs.client_context()) as client:
        for n in range(5):
            assert client.ping(b"%d" % n) == b"%d" % n
        assert client.ask().status == 200


def test_a_register_and_a_request_sent_to_the_client(ser, certs):
    """A request that comes by TCP leaves on the WebSocket, encrypted by another process."""
    with WssClient(ser.tls_port, certs.client_context()) as phone, TcpClient(ser.tcp_port) as caller:
        headers = ["Expires: 60"]
        assert phone.ask("REGISTER", "sip:ser.example.org", headers=headers,
                         to="<sip:web@ser.example.org>").status == 200
        contact = f"sip:tester@{phone.local};transport=ws"
        caller.send(caller.build("MESSAGE", contact, body=b"hello"))
        got = phone.recv()
        assert got.method == "MESSAGE" and got.body == b"hello"
        phone.send(answer(got))
        while (reply := caller.recv()).status < 200:
            pass
        assert reply.status == 200


def test_many(ser, certs):
    context = certs.client_context()
    clients = [WssClient(ser.tls_port, context) for _ in range(15)]
    for _ in range(3):
        for client in clients:
            client.send(client.build(uri=client.ser_uri))
        for client in clients:
            assert client.recv().status == 200
    for client in clients[::2]:
        client.close()
    for client in clients[1::2]:
        client.rst()
    ser.wait_connections(0)


@pytest.mark.parametrize("way", ["close_notify", "fin", "rst"])
def test_close(ser, certs, way):
    for _ in range(5):
        client = WssClient(ser.tls_port, certs.client_context())
        assert client.ask().status == 200
        if way == "close_notify":
            client.close()
        elif way == "fin":
            client.tcp.close()
            client.sock.close()
        else:
            rst(client.sock)
    ser.wait_connections(0)


def test_upgrade_byte_at_a_time(ser, certs):
    with RawTls(ser.tls_port, certs.client_context()) as client:
        client.handshake()
        for byte in b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
                    b"Sec-WebSocket-Protocol: sip\r\nSec-WebSocket-Version: 13\r\n" \
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 0\r\n\r\n":
            client.send(bytes([byte]))
        data, end = b"", time.monotonic() + 5
        while b"\r\n\r\n" not in data and time.monotonic() < end:
            data += client._more(1)
        assert data.startswith(b"HTTP/1.1 101")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [16384, 16385, 40000])
def test_big_messages(ser, certs, path, size):
    """In both directions: more than a record holds, in one frame."""
    with WssClient(ser.tls_port, certs.client_context(**PATHS[path])) as client:
        data = sized_request(client.ser_uri, size, echo=True, transport="WSS", via=client.local)
        client.send(data)
        reply = client.recv()
        assert reply.status == 200 and reply.body == data.partition(b"\r\n\r\n")[2]
        assert client.ask().status == 200


@pytest.mark.parametrize("path", PATHS)
def test_frames_and_records_do_not_line_up(ser, certs, path):
    """A frame in many records, many frames in one, and a frame cut anywhere."""
    with WssClient(ser.tls_port, certs.client_context(**PATHS[path])) as client:
        one = client.frame(client.build(uri=client.ser_uri))
        for at in range(0, len(one), 50):
            client.sock.sendall(one[at:at + 50])
        assert client.recv().status == 200
        frames = b"".join(client.frame(client.build(uri=client.ser_uri)) for _ in range(10))
        client.sock.sendall(frames)
        for _ in range(10):
            assert client.recv().status == 200
        for cut in (1, 2, 5, len(one) - 1):
            both = b"".join(client.frame(client.build(uri=client.ser_uri)) for _ in range(2))
            client.sock.sendall(both[:cut])
            client.sock.sendall(both[cut:])
            assert [client.recv().status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("path", PATHS)
def test_close_handshake_of_the_client(ser, certs, path):
    """RFC 6455 section 5.5.1: SER answers the close frame and ends the connection, without a complaint."""
    with WssClient(ser.tls_port, certs.client_context(**PATHS[path])) as client:
        assert client.ask().status == 200
        client.sock.sendall(client.frame(struct.pack("!H", 1000), 8))
        assert _close_code(client) == 1000
        assert client.closed_by_ser()
        ser.wait_connections(0)
        assert ser.failures(client.local_port) == []


@pytest.mark.parametrize("path", ["tls13", "cbc"])
def test_close_by_command(ser, certs, path):
    """The close frame is sent by the process that serves the command."""
    with WssClient(ser.tls_port, certs.client_context(**PATHS[path])) as client:
        assert client.ask().status == 200
        ser.rpc("ws.close", ser.connections()[0]["id"])
        assert _close_code(client) in (1000, 1001)
        client.sock.sendall(client.frame(struct.pack("!H", 1000), 8))
        # The websocket module looks every few seconds for connections that it has closed.
        assert client.closed_by_ser(3 * TIMEOUT)
        ser.wait_connections(0)
        assert ser.failures(client.local_port) == []


def _close_code(client: WssClient) -> int:
    """Of the close frame that comes next."""
    while (got := client._take_frame()) is None or got[0] != 8:
        if got is None:
            client._pull(TIMEOUT)
    return int.from_bytes(got[1][:2], "big")


@pytest.mark.parametrize("path", PATHS)
def test_listed_counted_and_killed(ser, certs, path):
    with WssClient(ser.tls_port, certs.client_context(**PATHS[path])) as client:
        assert client.ask().status == 200
        (row,) = [row for row in ser.rpc("tls.list") if row["src_port"] == client.local_port]
        assert (row["state"], row["sni"], row["dom"]) == ("established", DOMAIN, "TLSs<default>")
        assert row["path"] == ("engine" if path == "cbc" else "fast")
        assert ser.rpc("tls.info")["opened_connections"] == 1
        ser.rpc("tls.kill", row["id"])
        assert client.closed_by_ser()
    ser.wait_connections(0)
    wait_until(lambda: ser.rpc("tls.info")["opened_connections"] == 0, 5, "the count to be 0 again")


def test_idle_for_too_long(pool, certs):
    """connection_timeout holds for a WebSocket too, and a ping counts as use."""
    ser = pool.get(
        tls=certs.server_params(connection_timeout=2), readers=2,
        modules=("xhttp", "websocket"), core="tcp_accept_no_cl=yes", events=ROUTES,
        params=(("websocket", "keepalive_mechanism", 0),))
    with WssClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert client.ping() == b"still there?"
            time.sleep(0.5)
        began = time.monotonic()
        assert client.closed_by_ser(15 * SLOW)
        assert time.monotonic() - began > 1
        assert ser.failures(client.local_port) == []


def test_parallel_senders(ser, certs):
    """Workers and readers send on one WebSocket at the same time: every frame is whole and comes once."""
    with WssClient(ser.tls_port, certs.client_context()) as phone, UdpClient(ser.udp_port) as udp:
        phone.ask("REGISTER", "sip:ser.example.org", headers=["Expires: 60"], to="<sip:web@ser.example.org>")
        contact = f"sip:tester@{phone.local};transport=ws"
        callers = [TcpClient(ser.tcp_port) for _ in range(3)] + [udp]
        bodies = set()
        for n in range(20):
            for i, caller in enumerate(callers):
                body = b"%d-%d-" % (i, n) + b"y" * (100 * n)
                bodies.add(body)
                caller.send(caller.build("MESSAGE", contact, body=body))
        got = []
        while len(got) < len(bodies):
            message = phone.recv()
            if message.method == "MESSAGE":
                phone.send(answer(message))
                if message.body not in got:
                    got.append(message.body)
        assert set(got) == bodies
        for caller in callers[:3]:
            caller.close()
