# SPDX-License-Identifier: ISC
"""Peers that go away in every way and at every place; SER stays well and a bystander is not disturbed."""
from __future__ import annotations

import ssl
import time

import pytest

from certs import V
from clients import ALERT, RawTls, TcpClient, TlsClient, record, rst

PATHS = {
    "tls13": {},
    "tls12": {"high": V.TLSv1_2},
    "cbc": {"high": V.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"},
}
WAYS = ["fin", "rst"]


@pytest.fixture(params=PATHS)
def context(request, certs):
    return certs.client_context(**PATHS[request.param])


@pytest.fixture
def ser(pool, certs):
    return pool.get(tls=certs.server_params(cipher_list="ALL:@SECLEVEL=0", ca_list=str(certs.calist),
                                            verify_certificate=1))


@pytest.fixture
def bystander(ser, certs):
    """A connection that lives through the test, on the same readers."""
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
        yield client
        assert client.ask().status == 200
        assert not ser.failures(client.local_port)


def _leave(client: RawTls, way: str) -> None:
    if way == "rst":
        rst(client.sock)
    else:
        client.sock.close()


def _only_bystander_left(ser) -> None:
    ser.wait_connections(1)


def _ends_with_close_notify(client: RawTls) -> bool:
    """Reads to the end; False when it is a reset or a FIN alone."""
    try:
        while True:
            try:
                if not client.ssl.read(65536):
                    return True
            except ssl.SSLWantReadError:
                client.feed()
    except ssl.SSLZeroReturnError:
        return True
    except (ConnectionResetError, ssl.SSLEOFError):
        return False


@pytest.mark.parametrize("core", ["tcp_fd_cache=yes\n", "tcp_fd_cache=no\n"])
def test_ser_says_goodbye_with_data_unread(pool, certs, core):
    """The kernel answers what nobody reads with a reset; the close_notify has to be out before."""
    ser = pool.get(tls=certs.server_params(), core=core, route="set_reply_close();\n")
    for _ in range(5):
        with RawTls(ser.tls_port, certs.client_context(high=V.TLSv1_2)) as client:
            client.handshake()
            client.sock.sendall(client.seal(client.build(uri=client.ser_uri)))
            try:
                for _ in range(3):
                    client.sock.sendall(client.seal(b"\r\n" * 8000))
            except OSError:
                pass  # SER was faster
            assert _ends_with_close_notify(client)


def test_close_notify_is_answered_and_the_connection_closed(ser, context, bystander):
    with RawTls(ser.tls_port, context) as client:
        client.handshake()
        assert client.ask().status == 200
        client.sock.sendall(client.close_notify())
        assert client.closed_by_ser()
    _only_bystander_left(ser)
    assert not ser.failures(client.local_port), "an orderly close is no failure"


@pytest.mark.parametrize("way", WAYS)
def test_close_without_close_notify(ser, context, bystander, way):
    client = RawTls(ser.tls_port, context)
    client.handshake()
    assert client.ask().status == 200
    _leave(client, way)
    _only_bystander_left(ser)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("keep", [1, 4, 5, 6, 50, -1])
def test_close_in_a_record(ser, context, bystander, way, keep):
    client = RawTls(ser.tls_port, context)
    client.handshake()
    client.sock.sendall(client.seal(client.build(uri=client.ser_uri))[:keep])
    _leave(client, way)
    _only_bystander_left(ser)


@pytest.mark.parametrize("way", WAYS)
def test_close_in_a_sip_message(ser, context, bystander, way):
    client = RawTls(ser.tls_port, context)
    client.handshake()
    client.send(client.build(uri=client.ser_uri)[:-10])
    _leave(client, way)
    _only_bystander_left(ser)


def test_request_and_close_notify_in_one_segment(ser, context, bystander):
    with RawTls(ser.tls_port, context) as client:
        client.handshake()
        client.sock.sendall(client.seal(client.build(uri=client.ser_uri)) + client.close_notify())
        client.closed_by_ser()
    _only_bystander_left(ser)


def test_half_close_after_a_request_is_still_answered(ser, context, bystander):
    """FIN right behind the request: the request was complete and is served."""
    before = ser.rpc("core.tcp_info")["opened_connections"]
    with RawTls(ser.tls_port, context) as client:
        client.handshake()
        client.send(client.build("REGISTER", client.ser_uri, headers=["Expires: 60"]))
        client.sock.shutdown(1)
        client.closed_by_ser()
    assert before >= 1
    _only_bystander_left(ser)


def test_data_after_close_notify_is_ignored(ser, context, bystander):
    with RawTls(ser.tls_port, context) as client:
        client.handshake()
        bye = client.close_notify()
        client.sock.sendall(bye + b"\x17\x03\x03\x00\x20" + bytes(32))
        assert client.closed_by_ser()
    _only_bystander_left(ser)


@pytest.mark.parametrize("way", WAYS)
def test_close_at_every_byte_of_the_client_hello(ser, context, bystander, way):
    with RawTls(ser.tls_port, context) as probe:
        hello = probe.flight()
    for at in range(len(hello) + 1):
        client = RawTls(ser.tls_port, context)
        client.sock.sendall(client.flight()[:at])
        _leave(client, way)
    _only_bystander_left(ser)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cert", [None, "client"])
def test_close_in_each_flight(ser, certs, bystander, way, cert):
    """Around every record of the client's second flight, with and without a certificate in it."""
    for more in PATHS.values():
        context = certs.client_context(cert, **more)
        size = 1
        at = 0
        while at <= size:
            client = RawTls(ser.tls_port, context)
            client.sock.sendall(client.flight())
            while not (flight := client.flight()):
                client.feed()
            size = len(flight)
            client.sock.sendall(flight[:at])
            if at % 2:
                time.sleep(0.001)
            _leave(client, way)
            at += 1 if at < 12 or size - at < 4 else max(size // 12, 1)
    _only_bystander_left(ser)


@pytest.mark.parametrize("way", WAYS)
def test_close_right_after_the_handshake(ser, context, bystander, way):
    for _ in range(20):
        client = RawTls(ser.tls_port, context)
        client.handshake()
        _leave(client, way)
    _only_bystander_left(ser)


@pytest.mark.parametrize("way", WAYS)
def test_close_while_the_reply_is_under_way(ser, context, bystander, way):
    for _ in range(20):
        client = RawTls(ser.tls_port, context)
        client.handshake()
        client.sock.sendall(b"".join(client.seal(client.build(uri=client.ser_uri)) for _ in range(5)))
        _leave(client, way)
    _only_bystander_left(ser)


@pytest.mark.parametrize("method", ["epoll_lt", "poll", "select"])
def test_routes_hear_of_a_reset(pool, certs, context, method):
    """As on TCP, whether the poll method tells of an error (select does not) or reading does."""
    routes = "\n".join(f'event_route[tcp:{what}] {{ xlog("L_NOTICE", "heard: {what} of $proto\\n"); }}'
                       for what in ("closed", "reset"))
    ser = pool.fresh(tls=certs.server_params(cipher_list="ALL:@SECLEVEL=0"), core=f"tcp_poll_method={method}",
                     modules=("tcpops",), params=(("tcpops", "closed_event", 1),), events=routes).start()
    for proto, client in (("tcp", TcpClient(ser.tcp_port)), ("tls", TlsClient(ser.tls_port, context))):
        assert client.ask().status == 200
        rst(client.sock)
        ser.wait_log(f"heard: reset of {proto}")
    assert "heard: closed of tls" not in ser.log()
    assert int(ser.rpc("stats.fetchn", "tcp:")["tcp.con_reset"]) == 2


def test_connect_and_say_nothing(ser, context, bystander):
    for way in WAYS * 10:
        client = RawTls(ser.tls_port, context)
        _leave(client, way)
    _only_bystander_left(ser)


@pytest.mark.parametrize("after_hello", [False, True])
def test_alert_in_the_handshake(ser, context, bystander, after_hello):
    client = RawTls(ser.tls_port, context)
    if after_hello:
        client.sock.sendall(client.flight())
        client.feed()
    client.sock.sendall(record(ALERT, bytes([2, 40])))
    assert client.closed_by_ser()
    line = ser.wait_failure(client.local_port)
    assert line["alert_received"] == "handshake_failure" and "alert_sent" not in line
    client.close()
    _only_bystander_left(ser)


def test_memory_comes_back(ser, certs, bystander):
    """Shared memory after many aborted connections is what it was."""

    def round_of_aborts() -> None:
        for more in PATHS.values():
            context = certs.client_context(**more)
            for step in range(30):
                client = RawTls(ser.tls_port, context)
                client.sock.sendall(client.flight()[:-(step % 3) or None])
                if step % 5 == 0:
                    time.sleep(0.002)
                _leave(client, WAYS[step % 2])
                with RawTls(ser.tls_port, context) as done:
                    done.handshake()
                    done.ask()
                    done.sock.sendall(done.seal(b"OPTIONS sip:")[:20 + step])
        _only_bystander_left(ser)

    round_of_aborts()
    before = ser.shm_used()
    for _ in range(2):
        round_of_aborts()
    assert ser.shm_used() - before < 20 * 1024
