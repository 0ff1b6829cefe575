# SPDX-License-Identifier: ISC
"""Many handshakes with 8 TCP readers, aborts at every step, garbage, and senders in other processes.

Every reply is checked. Afterwards the shared memory and the engine's memory are where they were after
the first tenth. TLS_STRESS_HANDSHAKES says how many handshakes (20000); TLS_STRESS_WORKERS by how many
client processes (4).
"""
from __future__ import annotations

import multiprocessing
import os
import random
import socket
import time
import traceback

import pytest

from certs import V, Folder
from clients import Endpoint, RawTls, TlsClient, UdpClient, answer, rst

HANDSHAKES = int(os.environ.get("TLS_STRESS_HANDSHAKES", "20000"))
WORKERS = int(os.environ.get("TLS_STRESS_WORKERS", "4"))
SHM_SLACK = 128 * 1024  # bytes: transactions, fragments of the host's allocator
ENGINE_SLACK_KB = 2048
LIMIT = 900  # seconds, for one phase

PATHS = [{}, {}, {"high": V.TLSv1_2}, {"high": V.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"}]

pytestmark = pytest.mark.stress
fork = multiprocessing.get_context("fork")


class Worker:
    """One client process: a random mix of everything that connections do."""

    def __init__(self, port: int, certs: Folder, seed: int):
        self.port, self.rng = port, random.Random(seed)
        self.contexts = [certs.client_context(cert, **path) for cert in (None, "client") for path in PATHS]
        self.sessions: list = [None] * len(self.contexts)
        self.replies = 0

    def polite(self) -> None:
        at = self.rng.randrange(len(self.contexts))
        session = self.sessions[at] if self.rng.random() < 0.2 else None
        client = TlsClient(self.port, self.contexts[at], session=session, timeout=20)
        want = "yes" if at >= len(PATHS) else "no"
        count = self.rng.choice((1, 1, 1, 3))
        for n in range(count):
            client.send(client.build(uri=client.ser_uri, cseq=n))
        for n in range(count):
            reply = client.recv(20)
            got = (reply.status, reply.get("CSeq"), reply.get("X-Verified"))
            assert got == (200, f"{n} OPTIONS", want), got
            assert f"rport={client.local_port}" in (reply.get("Via") or ""), "somebody else's reply"
            self.replies += 1
        self.sessions[at] = client.tls.session
        self.rng.choice((client.close, client.fin, client.rst))()

    def abort(self) -> None:
        """Leaves somewhere in the handshake or right after it."""
        client = RawTls(self.port, self.rng.choice(self.contexts), timeout=20)
        flight = client.flight()
        if self.rng.random() < 0.4:
            client.sock.sendall(flight[:self.rng.randrange(len(flight) + 1)])
        else:
            client.sock.sendall(flight)
            while not (flight := client.flight()):
                client.feed(20)
            client.sock.sendall(flight[:self.rng.randrange(len(flight) + 1)])
            if client.complete and self.rng.random() < 0.5:
                data = client.seal(client.build(uri=client.ser_uri))
                client.sock.sendall(data[:self.rng.randrange(len(data))])
        self.rng.choice((client.sock.close, lambda: rst(client.sock)))()

    def garbage(self) -> None:
        data = self.rng.randbytes(self.rng.choice((1, 5, 200, 5000)))
        if self.rng.random() < 0.5:
            data = b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data
        with socket.create_connection(("127.0.0.1", self.port), 20) as sock:
            sock.sendall(data)

    def run(self, count: int) -> int:
        for _ in range(count):
            dice = self.rng.random()
            if dice < 0.75:
                self.polite()
                continue
            try:
                self.abort() if dice < 0.92 else self.garbage()
            except (ConnectionError, BrokenPipeError):
                pass  # SER may close while garbage is being sent
        return self.replies


def _work(pipe, port: int, certs: Folder, seed: int, count: int) -> None:
    try:
        pipe.send(("ok", Worker(port, certs, seed).run(count)))
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))


def _exchange(caller: UdpClient, phone: TlsClient, n: int) -> None:
    """A request by UDP reaches the phone on its connection, and its answer comes back."""
    call_id = f"{os.getpid()}-{n}-{time.monotonic_ns()}"
    body = b"m" * (n * 37 % 3000)
    caller.send(caller.build("MESSAGE", f"sip:x@{phone.local};transport=tls", call_id=call_id, body=body))
    while (got := phone.recv(20)).call_id != call_id:
        pass
    assert got.body == body
    phone.send(answer(got))
    while (reply := caller.recv(20)).call_id != call_id or reply.status < 200:
        pass
    assert reply.status == 200


def _senders(pipe, stop, ser_tls: int, ser_udp: int, certs: Folder) -> None:
    """Messages into connections that other processes of SER own, and out over connections that SER opens."""
    done = 0
    try:
        context = certs.client_context()
        with UdpClient(ser_udp) as caller, Endpoint(certs.server_context(), close_after=15) as endpoint:
            while not stop.is_set():
                with TlsClient(ser_tls, context) as phone:
                    assert phone.ask().status == 200
                    for n in range(40):
                        _exchange(caller, phone, n)
                        done += 1
                for n in range(5):
                    # The endpoint closes after some requests; one may meet the closing connection.
                    status = caller.ask("OPTIONS", endpoint.uri, timeout=30).status
                    assert status in (200, 408, 477, 500, 503), status
                    done += status == 200
        pipe.send(("ok", done))
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))


def _collect(processes: list, limit: float) -> int:
    """Sum of what the processes did; fails with the first traceback."""
    end = time.monotonic() + limit
    total = 0
    problem = ""
    for process, pipe in processes:
        if pipe.poll(max(end - time.monotonic(), 0.1)):
            state, value = pipe.recv()
            total += value if state == "ok" else 0
            problem = problem or (value if state != "ok" else "")
        else:
            problem = problem or "a client process did not end in time"
        process.join(1)
        if process.is_alive():
            process.terminate()
    assert not problem, problem
    return total


def _start(target, *args):
    mine, theirs = fork.Pipe()
    process = fork.Process(target=target, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()
    return process, mine


def _phase(ser, certs: Folder, count: int, seed: int) -> None:
    stop = fork.Event()
    senders = [_start(_senders, stop, ser.tls_port, ser.udp_port, certs) for _ in range(2)]
    try:
        workers = [_start(_work, ser.tls_port, certs, seed + n, count // WORKERS) for n in range(WORKERS)]
        replies = _collect(workers, LIMIT)
    finally:
        stop.set()
    assert _collect(senders, 60) > 0
    assert replies >= count // 2
    ser.assert_healthy()
    ser.wait_connections(0, 30)


def test_twenty_thousand_handshakes(pool, certs):
    ser = pool.fresh(
        tls=certs.server_params(ca_list=str(certs.calist), verify_certificate=1, cipher_list="ALL:@SECLEVEL=0",
                                tls_log=3),
        readers=8, children=2, params=[("tm", "wt_timer", 500)]).start()
    _phase(ser, certs, HANDSHAKES // 10, 1)
    time.sleep(3)  # transactions end
    engine = ser.engine_pid()
    shm, pss = ser.shm_used(), ser.memory_kb(engine)
    _phase(ser, certs, HANDSHAKES - HANDSHAKES // 10, 1000)
    time.sleep(3)
    shm_after, pss_after = ser.shm_used(), ser.memory_kb(engine)
    print(f"shared memory {shm} -> {shm_after} bytes, engine {pss} -> {pss_after} KB")
    assert shm_after - shm < SHM_SLACK, f"shared memory {shm} -> {shm_after}"
    assert pss_after - pss < ENGINE_SLACK_KB, f"engine {pss} -> {pss_after} KB"
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
