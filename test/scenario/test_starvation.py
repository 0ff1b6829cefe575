# SPDX-License-Identifier: ISC
"""Shared memory that is nearly gone: new connections are refused first, then operations; those that are
there live on, and afterwards all is as it was before."""
from __future__ import annotations

import re
import time

import pytest

from clients import Endpoint, TlsClient, UdpClient, failed_handshake
from ser import wait_until
from starving import eat, release, set_threshold, settings

PLENTY = 2_000_000  # KB: more than there is
PROCESS_KB = (32, 16)  # what each process adds to the thresholds' default


@pytest.fixture
def ser(pool, certs):
    ser = pool.get(**settings(tls=certs.server_params(ca_list=str(certs.calist))))
    for number in (1, 2):
        set_threshold(ser, number, -1)
    yield ser
    release(ser)
    for number in (1, 2):
        set_threshold(ser, number, -1)


def _lines(ser) -> list[dict[str, str]]:
    return [f for f in ser.failures() if " refused " in f["line"]]


def _told(ser, since: int) -> tuple[int, int, int]:
    """Refused connections and operations that lines tell of, and the number of these lines."""
    found = re.findall(r"tls: refused .*?connections=(\d+) operations=(\d+)", ser.log()[since:])
    return sum(int(a) for a, _ in found), sum(int(b) for _, b in found), len(found)


def _refused(ser, certs) -> None:
    failed_handshake(ser.tls_port, certs.client_context())


def _limits(ser) -> tuple[int, int]:
    """The thresholds' defaults, as lines tell them; the processes are those of the process table."""
    count = len(ser.processes())
    return PROCESS_KB[0] * count, PROCESS_KB[1] * count


def _talks(ser, certs) -> None:
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200


def _silent(client) -> None:
    client.send(client.build(uri=client.ser_uri))
    with pytest.raises(TimeoutError):
        client.recv(0.3)


def test_default_refuses_connections_then_operations(ser, certs):
    first, second = _limits(ser)
    with TlsClient(ser.tls_port, certs.client_context()) as kept:
        assert kept.ask().status == 200
        left = eat(ser, (first + second) // 2)
        assert second < left < first
        _refused(ser, certs)
        line = wait_until(lambda: _lines(ser), 5, "a line")[0]
        assert line["reason"] == "shared memory is low (low_mem_threshold1)"
        assert int(line["limit_kb"]) >= first and 0 < int(line["free_kb"]) <= left and int(line["connections"]) >= 1
        assert kept.ask().status == 200
        eat(ser, 8)
        _refused(ser, certs)
        # What needs no shared memory goes on: the connection that is there does.
        for _ in range(20):
            assert kept.ask().status == 200
        release(ser)
        _talks(ser, certs)
        assert kept.ask().status == 200


def test_outgoing_connections_are_refused_first(ser, certs):
    with Endpoint(certs.server_context()) as there, Endpoint(certs.server_context()) as other, \
            UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", there.uri).status == 200
        since = ser.mark()
        set_threshold(ser, 1, PLENTY)
        assert caller.ask("OPTIONS", other.uri).status >= 400
        assert caller.ask("OPTIONS", there.uri).status == 200
        assert len(there.arrivals) == 1 and not other.arrivals
        wait_until(lambda: _told(ser, since)[0] == 1, 5, "a line")
        set_threshold(ser, 1, 0)
        assert caller.ask("OPTIONS", other.uri).status == 200


def test_operations_are_refused_where_a_number_is_set(ser, certs):
    """A message is not sent, the connection lives on; at run time in both directions."""
    with TlsClient(ser.tls_port, certs.client_context()) as kept, Endpoint(certs.server_context()) as there, \
            UdpClient(ser.udp_port) as caller:
        assert kept.ask().status == 200
        assert caller.ask("OPTIONS", there.uri).status == 200
        since = ser.mark()
        set_threshold(ser, 2, PLENTY)
        _silent(kept)
        with pytest.raises(TimeoutError):
            caller.ask("OPTIONS", there.uri, timeout=0.3)
        # A connection that is accepted cannot get through its handshake.
        _refused(ser, certs)
        wait_until(lambda: _told(ser, since)[1] >= 3, 5, "lines that tell of three operations")
        set_threshold(ser, 2, 0)
        assert kept.ask().status == 200
        assert caller.ask("OPTIONS", there.uri).status == 200
        assert len(there.arrivals) == 1
        _talks(ser, certs)


def test_zero_refuses_nothing_before_memory_is_gone(ser, certs):
    for number in (1, 2):
        set_threshold(ser, number, 0)
    with TlsClient(ser.tls_port, certs.client_context()) as kept:
        eat(ser, 100)
        _talks(ser, certs)
        assert not _lines(ser)
        eat(ser, 0)
        for _ in range(10):
            _refused(ser, certs)
            assert kept.ask().status == 200
        release(ser)
        _talks(ser, certs)
        assert kept.ask().status == 200


def test_one_line_a_second_tells_of_all(ser, certs):
    set_threshold(ser, 1, PLENTY)
    since, begin = ser.mark(), time.monotonic()
    for _ in range(120):
        _refused(ser, certs)
    wait_until(lambda: _told(ser, since)[0] >= 120, 5, "lines that tell of all refusals")
    seconds = time.monotonic() - begin
    told, _, lines = _told(ser, since)
    assert told == 120 and 1 <= lines <= seconds + 2, (told, lines, seconds)


def test_round_after_round(ser, certs):
    """No memory stays behind: as many connections as before, every time."""
    def serve(count: int) -> None:
        clients = [TlsClient(ser.tls_port, certs.client_context()) for _ in range(count)]
        try:
            for client in clients:
                assert client.ask().status == 200
        finally:
            for client in clients:
                client.close()
        ser.wait_connections(0)

    used = []
    serve(20)
    for left in (300, 200, 120, 60, 20, 4, 0):
        eat(ser, left)
        for _ in range(15):
            _refused(ser, certs)
        release(ser)
        serve(20)
        used.append(ser.shm_used())
    assert used[-1] <= used[0] + 1024, used
    assert int(ser.rpc("tls.info")["engine_sessions"]) == 0
