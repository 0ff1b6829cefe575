# SPDX-License-Identifier: ISC
"""The engine process stuck, gone, or with fewer rights: what the rest of SER does then."""
from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress

import pytest

from certs import DOMAIN, V
from clients import RawTls, TcpClient, TlsClient, UdpClient, rst
from ser import SLOW, thread_states, wait_until

DEADLINE_MS = 1000
NOBODY = 65534


@pytest.fixture
def ser(pool, certs):
    params = certs.server_params(engine_timeout=DEADLINE_MS, cipher_list="ALL:@SECLEVEL=0")
    return pool.fresh(tls=params, readers=1).start()


def test_a_stuck_engine_fails_handshakes_only(ser, certs):
    with TlsClient(ser.tls_port, certs.client_context()) as client, TcpClient(ser.tcp_port) as plain:
        assert client.ask().status == 200
        with ser.engine_stopped():
            late = [RawTls(ser.tls_port, certs.client_context()) for _ in range(4)]
            start = time.monotonic()
            for raw in late:
                raw.sock.sendall(raw.flight())
            # One deadline is waited for, whatever the number of handshakes before this request.
            assert client.ask(timeout=10).status == 200
            assert plain.ask(timeout=10).status == 200
            assert time.monotonic() - start < 2 * DEADLINE_MS / 1000 + 1
            for raw in late:
                assert raw.closed_by_ser(10)
                assert "engine" in ser.wait_failure(raw.local_port)["reason"]
                raw.fin()
        with TlsClient(ser.tls_port, certs.client_context()) as later:
            assert later.ask().status == 200
        assert client.ask().status == 200


@pytest.mark.parametrize("curve", ["", "prime256v1"])
def test_a_client_that_is_gone_before_the_answer(ser, certs, curve):
    """Its line tells what it asked for, whether the answer was the engine's last word (with X25519) or not."""
    context = certs.client_context(high=V.TLSv1_2)
    if curve:
        context.set_ecdh_curve(curve)
    client = RawTls(ser.tls_port, context)
    port = client.local_port
    with ser.engine_stopped():
        client.sock.sendall(client.flight())
        time.sleep(0.1)
        client.rst()
    line = ser.wait_failure(port)
    assert line["reason"] == "cannot send" and line["domain"] == "server:default" and line["sni"] == DOMAIN
    assert line["offered"] == "0303" and "c02b" in line["suites"].split(",")


@pytest.mark.parametrize("suite", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"])
def test_a_server_that_is_gone_before_what_waits_is_sent(pool, certs, suite):
    """Established by the peer's last flight, so the domain is known."""
    params = certs.server_params(ca_list=str(certs.calist), cipher_list="ALL:@SECLEVEL=0")
    ser = pool.fresh(tls=params, readers=1).start()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = certs.server_context(high=V.TLSv1_2, ciphers=suite)
    peer = context.wrap_bio(incoming, outgoing, server_side=True)

    def flight(sock: socket.socket) -> bytes:
        incoming.write(sock.recv(65536))
        with suppress(ssl.SSLWantReadError):
            peer.do_handshake()
        return outgoing.read()

    with socket.create_server(("127.0.0.1", 0)) as listener, UdpClient(ser.udp_port) as caller:
        port = listener.getsockname()[1]
        caller.send(caller.build("OPTIONS", f"sip:x@127.0.0.1:{port};transport=tls"))
        sock, _ = listener.accept()
        sock.sendall(flight(sock))
        last = flight(sock)
        with ser.engine_stopped():
            sock.sendall(last)
            time.sleep(0.1)
            rst(sock)
        line = ser.wait_failure(port)
    assert line["reason"] == "cannot send" and line["domain"] == "client:default" and line["role"] == "client"
    assert ser.established(port)


def test_a_terminated_engine_ends_the_server(ser, certs):
    """It has SIGTERM pending when it goes on; a connection that it holds does not delay the end."""
    held = certs.client_context(high=V.TLSv1_2, ciphers="ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    with TlsClient(ser.tls_port, held) as client:
        assert client.ask().status == 200
        with ser.engine_stopped() as pid:
            os.kill(pid, signal.SIGTERM)
        ask_to_the_end(ser, certs)
        assert ser.wait_end() == 0


def ask_to_the_end(ser, certs) -> None:
    """The host may have lost the engine's death behind another signal; who needs the engine tells it again."""
    deadline = time.monotonic() + 10 * SLOW
    while ser.process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), RawTls(ser.tls_port, certs.client_context()) as raw:
            raw.sock.sendall(raw.flight())
            raw.sock.recv(1)  # an answer, if the engine was not quite dead yet


def test_a_death_behind_other_signals(pool, certs):
    """The host's main process remembers one signal, here most of the time one of which it only logs that it came."""
    ser = pool.fresh(tls=certs.server_params(), debug=3).start()
    over = threading.Event()

    def keep_busy() -> None:
        while not over.is_set():
            os.kill(ser.process.pid, signal.SIGHUP)

    engine = ser.engine_pid()
    noise = threading.Thread(target=keep_busy)
    noise.start()
    try:
        time.sleep(0.1)
        os.kill(engine, signal.SIGKILL)
        time.sleep(0.1)
    finally:
        over.set()
        noise.join()
    ask_to_the_end(ser, certs)
    assert ser.wait_end() != 0


def test_a_killed_engine_ends_the_server(ser):
    os.kill(ser.engine_pid(), signal.SIGKILL)
    assert ser.wait_end() != 0


def test_shutdown_when_a_process_died(ser, certs):
    """Whatever lock it held: the main process must not wait for it."""
    clients = [socket.create_connection(("127.0.0.1", ser.tls_port)) for _ in range(50)]
    timers = [pid for pid, role in ser.processes().items() if "timer" in role]
    os.kill(timers[0], signal.SIGKILL)
    start = time.monotonic()
    assert ser.wait_end(20) != 0
    assert time.monotonic() - start < 10
    for client in clients:
        client.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_other_processes_of_the_user_cannot_read_the_engine(pool, certs):
    ser = pool.fresh(tls=certs.server_params(), user=NOBODY).start()
    pid = ser.engine_pid()
    assert os.stat(f"/proc/{pid}").st_uid in (0, NOBODY)
    probe = subprocess.run(["head", "-c1", f"/proc/{pid}/maps"], user=NOBODY, group=NOBODY, capture_output=True,
                           check=False)
    assert probe.returncode != 0 and b"ermission" in probe.stderr
    workers = [p for p, role in ser.processes().items() if "udp receiver" in role]
    probe = subprocess.run(["head", "-c1", f"/proc/{workers[0]}/status"], user=NOBODY, group=NOBODY,
                           capture_output=True, check=False)
    assert probe.returncode == 0  # the probe itself works


def test_the_engine_ends_with_the_main_process(pool, certs):
    settings = {"user": NOBODY} if os.geteuid() == 0 else {}
    ser = pool.fresh(tls=certs.server_params(), **settings).start()
    pid = ser.engine_pid()
    os.kill(ser.process.pid, signal.SIGKILL)
    wait_until(lambda: thread_states(pid) <= {"Z", "X"}, 5, "the engine to end")
    for other in ser.session_pids():
        os.kill(other, signal.SIGKILL)
    assert ser.wait_end() == -signal.SIGKILL
