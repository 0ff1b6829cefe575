# SPDX-License-Identifier: ISC
"""Each allocation of the module fails in turn: of the host's shared and private memory, and of the engine's
heap, OpenSSL's included. Nothing crashes, nothing leaks, no connection is half made."""
from __future__ import annotations

import os
import re
import ssl
from typing import Callable

import pytest

from certs import V
from clients import Endpoint, TlsClient, UdpClient
from domains import base, put
from ser import ASAN, wait_until
from starving import Heap, fail, failed, settings
from test_key_exchange import held

QUICK = 0.25  # seconds to wait for an answer that may not come
HELD = {"high": V.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"}


@pytest.fixture
def ser(pool, certs):
    ser = pool.get(**settings(tls=certs.server_params(ca_list=str(certs.calist), verify_client="optional",
                                                      cipher_list="ALL:@SECLEVEL=0"),
                              readers=1, params=[("tm", "fr_timer", 300), ("tm", "wt_timer", 100)]))
    yield ser
    fail(ser, 0)


def _exchange(ser, certs, **more) -> None:
    """A connection that must work."""
    with TlsClient(ser.tls_port, certs.client_context("client", **more)) as client:
        assert client.ask().status == 200


def _try_exchange(ser, certs, **more) -> bool:
    """One that may fail; with a request that comes in two parts of a record, and a long one."""
    try:
        with TlsClient(ser.tls_port, certs.client_context("client", **more), timeout=QUICK * 4) as client:
            status = client.ask(timeout=QUICK).status
            client.send(client.build(uri=client.ser_uri, body=b"x" * 20000)[:-1])
            client.send(b"x")
            return status == 200 and client.recv(QUICK).status == 200
    except (OSError, ssl.SSLError):
        return False


def _sweep(ser, operation: Callable[[], object], check: Callable[[], None]) -> int:
    """Fails the first allocation of the module during the operation, the second, and so on until there are
    no more. After each the check must pass, and all memory be back. Returns how many there are."""
    operation()
    check()
    ser.wait_connections(0)
    before = ser.shm_used() + 512
    for nth in range(1, 200):
        fail(ser, nth)
        operation()
        hit = failed(ser)
        fail(ser, 0)
        check()
        ser.wait_connections(0)
        wait_until(lambda: ser.shm_used() <= before, 5, f"the memory of round {nth} to come back")
        held(ser, 0)
        if not hit:
            ser.assert_healthy()
            return nth - 1
    raise AssertionError("allocations without end")


@pytest.mark.parametrize("more", [{}, HELD], ids=["fast", "held"])
def test_shared_memory_of_an_accepted_connection(ser, certs, more):
    count = _sweep(ser, lambda: _try_exchange(ser, certs, **more), lambda: _exchange(ser, certs, **more))
    assert count >= 4, count  # its state, the certificate, the name that was asked for, parts of records


def test_shared_memory_of_an_outgoing_connection(ser, certs):
    def send(uri: str, timeout: float) -> bool:
        with UdpClient(ser.udp_port) as caller:
            try:
                return caller.ask("OPTIONS", uri, timeout=timeout).status == 200
            except TimeoutError:
                return False

    def operation() -> bool:
        with Endpoint(certs.server_context(ask_client=True)) as there:
            return send(there.uri, QUICK * 3)

    def check() -> None:
        assert operation()

    count = _sweep(ser, operation, check)
    assert count >= 2, count  # its state, and the message that waits


def test_a_kept_connection_needs_no_memory(ser, certs):
    """Whole messages on an established connection, in both directions."""
    with TlsClient(ser.tls_port, certs.client_context("client")) as kept:
        assert kept.ask().status == 200
        for _ in range(10):
            fail(ser, 1)
            assert kept.ask().status == 200
        fail(ser, 0)
        assert not failed(ser)


def test_no_host_memory_in_a_reload(pool, certs):
    ser = pool.get(**settings(tls={"config": "tls.cfg"}, files={"tls.cfg": base(certs)}))
    for nth in (1, 2):
        put(ser, base(certs, verify_depth=nth))
        fail(ser, nth)
        assert ser.rpc("tls.reload").startswith("Ok")
        assert not failed(ser)
    fail(ser, 0)
    _exchange(ser, certs)


# -- the engine's heap ------------------------------------------------------------------------------


@pytest.fixture
def heap():
    if ASAN:
        pytest.skip("the sanitizer has an allocator of its own")
    heap = Heap()
    yield heap
    heap.close()


def _engine(pool, certs, heap, config=None, **more):
    ser = pool.fresh(tls={"config": "tls.cfg", "engine_threads": 1, "engine_timeout": 1000}, readers=1,
                     files={"tls.cfg": _config(certs, **(config or {}))},
                     params=[("tm", "fr_timer", 300), ("tm", "wt_timer", 100)],
                     env=heap.environment(), **more).start()
    heap.watch(ser.engine_pid())
    return ser


def _config(certs, **more) -> str:
    return base(certs, **{"ca_list": certs.calist, "verify_client": "optional", "cipher_list": '"ALL:@SECLEVEL=0"',
                          **more})


def _heap_sweep(ser, heap, operation: Callable[[], object], check: Callable[[], None], step: int) -> int:
    """The same for the engine's heap; what a failure leaves behind must not grow with the rounds. There are
    thousands, of which every step-th fails, others in each run: TLS_TEST_EVERY=1 makes each of them fail."""
    step = int(os.environ.get("TLS_TEST_EVERY") or step)
    for _ in range(5):
        operation()
    check()
    before, nth, rounds = heap["live"], 1 + os.getpid() % step, 0
    while True:
        rounds += 1
        heap.fail(nth)
        operation()
        hit = heap["failed"]
        heap.fail(0)
        if rounds % 10 == 1 or not hit:
            check()
            assert ser.engine_pid() == heap["pid"]
            held(ser, 0)
        if not hit:
            break
        nth += step
    check()
    held(ser, 0)
    grown = heap["live"] - before
    print(f"{nth} allocations, {rounds} rounds, {grown} pieces more")
    assert grown < 200 + rounds // 4, f"{grown} pieces of heap more after {rounds} rounds"
    ser.assert_healthy()
    return nth


def _handshake(ser, certs, **more) -> None:
    try:
        with TlsClient(ser.tls_port, certs.client_context("client", **more), timeout=3) as client:
            client.ask(timeout=QUICK)
    except (OSError, ssl.SSLError):
        pass


@pytest.mark.parametrize("more", [{}, HELD], ids=["fast", "held"])
def test_heap_of_an_accepted_connection(pool, certs, heap, more):
    ser = _engine(pool, certs, heap)
    count = _heap_sweep(ser, heap, lambda: _handshake(ser, certs, **more), lambda: _exchange(ser, certs, **more),
                        41)
    assert count > 100, count


def _ticket(ser, certs) -> bool | None:
    """Whether a client that is not asked for a certificate has got a ticket with its answer; None without one."""
    try:
        with TlsClient(ser.tls_port, certs.client_context(), timeout=3) as client:
            return client.ask(timeout=QUICK).status == 200 and client.tls.session.has_ticket
    except (OSError, ssl.SSLError):
        return None


def test_heap_of_a_ticket(pool, certs, heap):
    """What is asked for last is for the ticket, without which there is a connection all the same."""
    ser = _engine(pool, certs, heap, {"verify_client": "off"})
    count = _heap_sweep(ser, heap, lambda: _ticket(ser, certs), lambda: _exchange(ser, certs), 41)
    found = []
    for nth in range(count - 41 - 60, count + 1):
        heap.fail(nth)
        found.append(_ticket(ser, certs))
        heap.fail(0)
        _exchange(ser, certs)
    assert {True, False} <= set(found), found
    held(ser, 0)
    ser.assert_healthy()


def test_heap_of_an_outgoing_connection(pool, certs, heap):
    ser = _engine(pool, certs, heap)

    def operation() -> bool:
        mark = ser.mark()
        with Endpoint(certs.server_context(ask_client=True)) as there, UdpClient(ser.udp_port) as caller:
            caller.send(caller.build("OPTIONS", there.uri))
            # The line about an earlier connection may come late.
            failed = re.compile(rf"tls: failed peer=127\.0\.0\.1:{there.port} |127\.0\.0\.1:{there.port}: could not")
            wait_until(lambda: any(a.messages for a in there.arrivals) or failed.search(ser.log(), mark), 5,
                       "a message, or a failure", step=0.002)
            return any(a.messages for a in there.arrivals)

    def check() -> None:
        assert operation()

    count = _heap_sweep(ser, heap, operation, check, 61)
    assert count > 100, count


def test_heap_of_a_reload(pool, certs, heap):
    """A reload that fails changes nothing and says why."""
    ser = _engine(pool, certs, heap)
    turn = iter(range(1, 1 << 30))

    def operation() -> None:
        put(ser, _config(certs, verify_depth=1 + next(turn) % 90))
        try:
            ser.rpc("tls.reload")
        except AssertionError as problem:
            assert "Error while" in str(problem) or "memory" in str(problem), problem

    count = _heap_sweep(ser, heap, operation, lambda: _exchange(ser, certs), 97)
    assert count > 100, count
