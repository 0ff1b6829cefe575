# SPDX-License-Identifier: ISC
"""Messages arrive whole and in order, however the bytes of the wire are cut; on both paths."""
from __future__ import annotations

import contextlib
import ssl
import threading

import pytest

from certs import V
from clients import RawTls, TcpClient, TlsClient, sized_request, trickle

# The host's read buffer is 16 KB by default; the second configuration gives room for 64 KB.
WIDE = "tcp_rd_buf_size=65536\ntcp_conn_wq_max=1048576"

PATHS = {
    "tls13": {},
    "tls12": {"high": V.TLSv1_2},
    "cbc": {"high": V.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"},
}


@pytest.fixture(params=PATHS)
def context(request, certs):
    return certs.client_context(**PATHS[request.param])


@pytest.fixture
def ser(pool, certs):
    return pool.get(tls=certs.server_params(cipher_list="ALL:@SECLEVEL=0"), core=WIDE)


def _body(message: bytes) -> bytes:
    return message.partition(b"\r\n\r\n")[2]


def test_byte_at_a_time(ser, context):
    with RawTls(ser.tls_port, context) as client:
        client.handshake(lambda data: trickle(client.sock, data))
        for _ in range(2):
            trickle(client.sock, client.seal(client.build(uri=client.ser_uri)))
            assert client.recv().status == 200


def test_byte_at_a_time_slowly_enough_that_every_byte_is_one_read(ser, context):
    with RawTls(ser.tls_port, context) as client:
        client.handshake()
        data = client.seal(client.build(uri=client.ser_uri))
        trickle(client.sock, data[:64], pause=0.002)
        trickle(client.sock, data[64:-40], step=50, pause=0.002)
        trickle(client.sock, data[-40:], pause=0.002)
        assert client.recv().status == 200


def test_split_at_every_boundary_of_the_header(ser, context):
    """A record cut in two at every place of its header, around its end, and within."""
    with RawTls(ser.tls_port, context) as client:
        client.handshake()
        first = client.seal(client.build(uri=client.ser_uri))
        places = [*range(1, 40), len(first) // 2, *range(len(first) - 20, len(first))]
        client.sock.sendall(first)
        assert client.recv().status == 200
        for at in places:
            data = client.seal(client.build(uri=client.ser_uri))
            trickle(client.sock, data[:at], step=at)
            threading.Event().wait(0.001)
            client.sock.sendall(data[at:])
            assert client.recv().status == 200, f"cut at {at}"


def test_handshake_split_at_every_boundary(ser, context):
    with RawTls(ser.tls_port, context) as probe:
        size = len(probe.flight())
    for at in [*range(1, 12), 43, 44, size // 2, size - 2, size - 1]:
        with RawTls(ser.tls_port, context) as client:

            def cut(data: bytes) -> None:
                client.sock.sendall(data[:at])
                threading.Event().wait(0.002)
                client.sock.sendall(data[at:])

            client.handshake(cut)
            assert client.ask().status == 200, f"cut at {at}"


def test_first_request_in_the_same_segment_as_the_end_of_the_handshake(ser, context):
    for count in (1, 5):
        with RawTls(ser.tls_port, context) as client:
            flights: list[bytes] = []

            def hold_last(data: bytes) -> None:
                flights.append(data)
                if not client.complete:
                    client.sock.sendall(data)

            client.handshake(hold_last)
            if client.ssl.version() == "TLSv1.3":
                extra = b"".join(client.seal(client.build(uri=client.ser_uri)) for _ in range(count))
                client.sock.sendall(flights[-1] + extra)
            else:  # the server has the last word
                client.sock.sendall(b"".join(client.seal(client.build(uri=client.ser_uri)) for _ in range(count)))
            for _ in range(count):
                assert client.recv().status == 200


def test_many_requests_in_one_record(ser, context):
    with TlsClient(ser.tls_port, context) as client:
        requests = [client.build(uri=client.ser_uri, cseq=n) for n in range(1, 41)]
        client.send(b"".join(requests))
        for n in range(1, 41):
            assert client.recv().get("CSeq") == f"{n} OPTIONS"


def test_one_request_over_many_records(ser, context):
    with RawTls(ser.tls_port, context) as client:
        client.handshake()
        data = client.build(uri=client.ser_uri)
        client.sock.sendall(b"".join(client.seal(data[at:at + 7]) for at in range(0, len(data), 7)))
        assert client.recv().status == 200
        for at in range(0, len(data), 50):
            client.sock.sendall(client.seal(data[at:at + 50]))
            threading.Event().wait(0.002)
        assert client.recv().status == 200


def test_many_records_in_one_segment(ser, context):
    with RawTls(ser.tls_port, context) as client:
        client.handshake()
        client.sock.sendall(b"".join(client.seal(client.build(uri=client.ser_uri, cseq=n)) for n in range(1, 31)))
        for n in range(1, 31):
            assert client.recv().get("CSeq") == f"{n} OPTIONS"


@pytest.mark.parametrize("size", [4095, 8192, 16383, 16384, 16385, 20000, 32768, 50000, 60000])
def test_big_messages_both_ways(ser, context, size):
    """Bigger than a record; the reply carries the request's body back."""
    with TlsClient(ser.tls_port, context) as client:
        message = sized_request(client.ser_uri, size, echo=True, via=client.local)
        for _ in range(2):
            client.send(message)
            reply = client.recv()
            assert reply.status == 200 and reply.body == _body(message)


def test_big_and_small_in_turn(ser, context):
    with TlsClient(ser.tls_port, context) as client:
        for size in (600, 60000, 600, 16384, 600, 33000, 60000):
            message = sized_request(client.ser_uri, size, echo=True, via=client.local)
            client.send(message)
            assert client.recv().body == _body(message)


def test_big_messages_in_small_pieces(ser, context):
    with RawTls(ser.tls_port, context) as client:
        client.handshake()
        message = sized_request(client.ser_uri, 40000, echo=True, via=client.local)
        trickle(client.sock, client.seal(message), step=1399)
        assert client.recv().body == _body(message)


@pytest.mark.parametrize("size", [15000, 16000])
def test_up_to_the_default_read_buffer(pool, certs, context, size):
    ser = pool.get(tls=certs.server_params(cipher_list="ALL:@SECLEVEL=0"))
    with TlsClient(ser.tls_port, context) as client:
        for _ in range(3):
            message = sized_request(client.ser_uri, size, echo=True, via=client.local)
            client.send(message)
            assert client.recv().body == _body(message)


def test_bigger_than_the_read_buffer_closes_that_connection_as_on_tcp(pool, certs, context):
    ser = pool.get(tls=certs.server_params(cipher_list="ALL:@SECLEVEL=0"))
    with TcpClient(ser.tcp_port) as plain:
        plain.send(sized_request(plain.ser_uri, 40000, transport="TCP"))
        assert plain.closed_by_ser()
    with TlsClient(ser.tls_port, context) as bystander, TlsClient(ser.tls_port, context) as client:
        with contextlib.suppress(OSError):  # SER may close before all of it was written
            client.send(sized_request(client.ser_uri, 40000))
        assert client.closed_by_ser()
        assert bystander.ask().status == 200
        line = ser.wait_failure(client.local_port)
        assert "tcp_rd_buf_size" in line["reason"] and line["domain"] == "server:default", line


class SharedTls(RawTls):
    """RawTls for two threads: Python's SSLSocket must not be used by two at once."""

    def __init__(self, ser, context):
        super().__init__(ser.tls_port, context)
        self.lock = threading.Lock()
        self.handshake()

    def locked_send(self, data: bytes) -> None:
        with self.lock:
            sealed = self.seal(data)
        self.sock.sendall(sealed)

    def _more(self, timeout: float) -> bytes:
        while True:
            with self.lock:
                try:
                    return self.ssl.read(65536)
                except ssl.SSLWantReadError:
                    pass
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionResetError("closed by SER")
            with self.lock:
                self.incoming.write(data)


@pytest.mark.parametrize("at_once", [1, 10, 1000])
def test_a_thousand_pipelined(ser, context, at_once):
    """Sent without waiting; a thread reads at the same time; all replies are there and in order."""
    count = 1000
    with SharedTls(ser, context) as client:
        requests = [client.build(uri=client.ser_uri, cseq=n) for n in range(count)]
        seen: list[str | None] = []
        problem: list[BaseException] = []

        def read() -> None:
            try:
                for _ in range(count):
                    seen.append(client.recv(15).get("CSeq"))
            except BaseException as error:
                problem.append(error)

        reader = threading.Thread(target=read)
        client.sock.settimeout(15)
        reader.start()
        for at in range(0, count, at_once):
            client.locked_send(b"".join(requests[at:at + at_once]))
        reader.join(60)
        assert not problem, problem
        assert seen == [f"{n} OPTIONS" for n in range(count)]


def test_a_client_that_reads_late(ser, context):
    """The replies fill the socket and wait in SER; all come when the client reads again."""
    with TlsClient(ser.tls_port, context) as client:
        message = sized_request(client.ser_uri, 30000, echo=True, via=client.local)
        for _ in range(20):
            client.send(message)
        threading.Event().wait(0.5)
        for _ in range(20):
            assert client.recv().body == _body(message)


def test_keepalive_crlf(ser, context):
    """RFC 5626 pings before, between and after requests."""
    with TlsClient(ser.tls_port, context) as client:
        client.send(b"\r\n\r\n")
        assert client.ask().status == 200
        client.send(b"\r\n\r\n\r\n\r\n" + client.build(uri=client.ser_uri) + b"\r\n\r\n")
        assert client.recv().status == 200
