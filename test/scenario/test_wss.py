# SPDX-License-Identifier: ISC
"""SIP over secure WebSocket: the host changes the connection's type, the module keeps serving it."""
from __future__ import annotations

import time

import pytest

from certs import V
from clients import RawTls, TcpClient, TlsClient, WssClient, answer, rst

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
        modules=("xhttp", "websocket"), core="tcp_accept_no_cl=yes", events=ROUTES)


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
