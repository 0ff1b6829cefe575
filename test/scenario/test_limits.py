# SPDX-License-Identifier: ISC
"""Low memory: connections and operations fail before the shared memory does; what a connection costs."""
from __future__ import annotations

import pytest

from certs import V
from clients import TcpClient, TlsClient, failed_handshake

HUGE_KB = 60 * 1024  # nearly all of the 64 MB that the tests give


def test_threshold1_refuses_new_connections(pool, certs):
    ser = pool.get(tls=certs.server_params(low_mem_threshold1=HUGE_KB * 2))
    port, _ = failed_handshake(ser.tls_port, certs.client_context())
    line = ser.wait_failure(port)
    assert "memory" in line["reason"].lower(), line
    with TcpClient(ser.tcp_port) as plain:
        assert plain.ask().status == 200


@pytest.mark.parametrize("number,refused", [(1, "every connection will be refused"), (2, "every handshake will be refused")])
def test_threshold_that_leaves_nothing_is_warned_of_at_the_start(pool, certs, number, refused):
    """Bytes instead of KB, say."""
    name = f"low_mem_threshold{number}"
    ser = pool.fresh(tls=certs.server_params(**{name: HUGE_KB * 2})).start()
    found = [line for line in ser.log().splitlines() if refused in line]
    assert len(found) == 1 and f"{name}={HUGE_KB * 2} asks for {HUGE_KB * 2} KB" in found[0] and "WARNING" in found[0], found


def test_usual_thresholds_are_not_warned_of(pool, certs):
    for value in (-1, 0, HUGE_KB // 2):
        ser = pool.fresh(tls=certs.server_params(low_mem_threshold1=value, low_mem_threshold2=value)).start()
        assert "will be refused" not in ser.log(), value
        ser.stop()


def test_threshold_at_run_time_counts_in_kb(pool, certs):
    """The same number means the same at start and at run time."""
    ser = pool.fresh(tls=certs.server_params(low_mem_threshold1=1024)).start()
    assert int(ser.rpc("cfg.get", "tls", "low_mem_threshold1")) == 1024
    free_kb = ser.shm_free() // 1024
    ser.rpc("cfg.set_now_int", "tls", "low_mem_threshold1", free_kb // 2)
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
    ser.rpc("cfg.set_now_int", "tls", "low_mem_threshold1", free_kb * 2)
    failed_handshake(ser.tls_port, certs.client_context())


def test_zero_disables(pool, certs):
    ser = pool.get(tls=certs.server_params(low_mem_threshold1=0, low_mem_threshold2=0))
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200


@pytest.mark.parametrize("name,more", [
    ("fast", {}), ("engine", {"high": V.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"})])
def test_no_openssl_object_is_in_shared_memory(pool, certs, name, more):
    """A connection's share: an SSL object alone has tens of KB, the module's own state some hundred bytes."""
    ser = pool.get(tls=certs.server_params(cipher_list="ALL:@SECLEVEL=0"))
    context = certs.client_context(**more)
    count = 40

    def grown(make) -> float:
        before = ser.shm_used()
        clients = [make() for _ in range(count)]
        for client in clients:
            assert client.ask().status == 200
        after = ser.shm_used()
        for client in clients:
            client.close()
        ser.wait_connections(0)
        return (after - before) / count

    grown(lambda: TlsClient(ser.tls_port, context))  # what is allocated once
    plain = grown(lambda: TcpClient(ser.tcp_port))
    tls = grown(lambda: TlsClient(ser.tls_port, context))
    assert tls - plain < 2048, f"{name}: {tls:.0f} bytes, plain TCP {plain:.0f}"


def test_out_of_shared_memory_is_survived(pool, certs):
    """No threshold, and nearly no memory: connections are refused, then served again."""
    ser = pool.fresh(tls=certs.server_params(low_mem_threshold1=0, low_mem_threshold2=0), shm_mb=8).start()
    ser.forgive("(?i)out of mem|no more|could not allocate|not enough|shm")
    clients = []
    refused = 0
    for _ in range(700):
        try:
            clients.append(TlsClient(ser.tls_port, certs.client_context(), timeout=3))
            if ser.shm_free() < 200 * 1024 and len(clients) % 10 == 0:
                clients[-1].ask(timeout=2)
        except (OSError, AssertionError):
            refused += 1
            if refused > 3:
                break
    assert refused, f"{len(clients)} connections and still memory left"
    for client in clients:
        client.close()
    ser.wait_connections(0, timeout=15)
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
