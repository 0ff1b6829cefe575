# SPDX-License-Identifier: ISC
"""The three timeouts of the specification, each against peers that provoke it."""
from __future__ import annotations

import socket
import time

import pytest

from certs import DOMAIN
from clients import TIMEOUT, RawTls, TlsClient, trickle

HANDSHAKE = 2


@pytest.fixture
def ser(pool, certs):
    return pool.get(tls=certs.server_params(handshake_timeout=HANDSHAKE, connection_timeout=30))


def _lifetime(sock: socket.socket, start: float, limit: float) -> float:
    """Seconds until SER closes."""
    sock.settimeout(limit)
    try:
        while sock.recv(4096):
            pass
    except TimeoutError:
        pytest.fail(f"still open after {limit} s")
    except OSError:
        pass
    return time.monotonic() - start


def _in_time(took: float, seconds: float) -> None:
    # The host looks at its timers about once a second.
    assert seconds - 0.5 <= took <= seconds + 3.5, f"closed after {took:.1f} s instead of {seconds}"


def _told(ser, port: int) -> dict[str, str]:
    line = ser.wait_failure(port)
    assert "time" in line["reason"].lower(), line
    return line


def test_silence(ser):
    with socket.create_connection(("127.0.0.1", ser.tls_port), TIMEOUT) as sock:
        port = sock.getsockname()[1]
        _in_time(_lifetime(sock, time.monotonic(), 9), HANDSHAKE)
    _told(ser, port)


@pytest.mark.parametrize("part", [1, 5, 100, -1])
def test_part_of_the_client_hello(ser, certs, part):
    with RawTls(ser.tls_port, certs.client_context()) as client:
        start = time.monotonic()
        client.sock.sendall(client.flight()[:part])
        _in_time(_lifetime(client.sock, start, 9), HANDSHAKE)
    _told(ser, client.local_port)


def test_silence_after_the_servers_flight(ser, certs):
    with RawTls(ser.tls_port, certs.client_context()) as client:
        start = time.monotonic()
        client.sock.sendall(client.flight())
        _in_time(_lifetime(client.sock, start, 9), HANDSHAKE)
    line = _told(ser, client.local_port)
    assert line["domain"] == "server:default" and line["sni"] == DOMAIN and "0304" in line["offered"], line


def test_trickle_does_not_prolong_it(ser, certs):
    with RawTls(ser.tls_port, certs.client_context()) as client:
        start = time.monotonic()
        try:
            trickle(client.sock, client.flight()[:-1], pause=0.05)
            time.sleep(9)
        except OSError:
            pass
        _in_time(time.monotonic() - start, HANDSHAKE)
    _told(ser, client.local_port)


def test_a_slow_but_honest_client_gets_through(ser, certs):
    with RawTls(ser.tls_port, certs.client_context()) as client:
        client.handshake(lambda data: trickle(client.sock, data, step=40, pause=0.03))
        assert client.ask().status == 200
        time.sleep(HANDSHAKE + 2.5)
        assert client.ask().status == 200, "the handshake's timeout must end with the handshake"


def test_idle_connection_is_closed(pool, certs):
    ser = pool.get(tls=certs.server_params(connection_timeout=2))
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
        start = time.monotonic()
        took = _lifetime(client.tcp if client.tcp.fileno() >= 0 else client.tls, start, 15)
        # The reader keeps a connection for some seconds before the timeout of tcp main counts.
        assert 1.5 <= took <= 13
        assert not ser.failures(client.local_port), "to be idle is no failure"


def test_a_connection_in_use_is_not_idle(pool, certs):
    ser = pool.get(tls=certs.server_params(connection_timeout=3))
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        for _ in range(8):
            assert client.ask().status == 200
            time.sleep(1)


def test_minus_one_is_never(pool, certs):
    ser = pool.get(tls=certs.server_params(connection_timeout=-1), core="tcp_connection_lifetime=3")
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
        time.sleep(9)
        assert client.ask().status == 200


def test_connection_timeout_is_the_modules_and_not_tcps(pool, certs):
    ser = pool.get(tls=certs.server_params(connection_timeout=60), core="tcp_connection_lifetime=3")
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
        time.sleep(9)
        assert client.ask().status == 200
