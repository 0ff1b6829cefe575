# SPDX-License-Identifier: ISC
"""The engine stopped and going on while SER works: what waits is served, what was given up is cleaned away."""
from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest

from certs import V
from clients import Endpoint, RawTls, TcpClient, TlsClient, UdpClient
from ser import wait_until

HELD = {"high": V.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"}
WIDE = "tcp_rd_buf_size=65536\ntcp_conn_wq_max=1048576"


def _params(certs, **more):
    return certs.server_params(cipher_list="ALL:@SECLEVEL=0", **more)


def _sessions(ser) -> int:
    return int(ser.rpc("tls.info")["engine_sessions"])


def _clean(ser, shm: int) -> None:
    """Nothing is left of connections that are gone."""
    ser.wait_connections(0, 10)
    wait_until(lambda: _sessions(ser) == 0, 10, "the engine's sessions to go")
    wait_until(lambda: ser.shm_used() <= shm + 64 * 1024, 10, "shared memory to come back")


def _order(endpoint, call_id: str) -> list[int]:
    return [int(m.get("CSeq").split()[0]) for m in endpoint.messages() if m.call_id == call_id]


def test_a_short_stop_costs_time_only(pool, certs):
    """Handshakes, a connection that the engine holds, a reload: each waits and succeeds."""
    ser = pool.fresh(tls=_params(certs, engine_timeout=20000, config="tls.cfg"), readers=4, children=2,
                     files={"tls.cfg": _section(certs, "server:default", "client:default")}).start()
    with TlsClient(ser.tls_port, certs.client_context(**HELD)) as held, UdpClient(ser.udp_port) as caller, \
            Endpoint(certs.server_context()) as endpoint:
        assert held.ask().status == 200
        with ser.engine_stopped():
            fresh = [RawTls(ser.tls_port, certs.client_context()) for _ in range(3)]
            for raw in fresh:
                raw.sock.sendall(raw.flight())
            held.send(held.build(call_id="held-while-stopped"))
            caller.send(caller.build("OPTIONS", endpoint.uri, call_id="out-while-stopped"))
            answer = []
            reload = threading.Thread(target=lambda: answer.append(ser.rpc("tls.reload", timeout=30)))
            reload.start()
            time.sleep(0.7)
            assert not answer
        reload.join(30)
        assert answer == ["Ok. TLS configuration reloaded."]
        assert held.recv().call_id == "held-while-stopped"
        assert endpoint.wait_messages(1)[0].call_id == "out-while-stopped"
        for raw in fresh:
            raw.handshake(lambda flight: flight and raw.sock.sendall(flight))
            raw.send(raw.build())
            assert raw.recv().status == 200
            raw.fin()
    assert not ser.failures()


def _section(certs, *roles: str) -> str:
    params = certs.server_params()
    return "".join(f"[{role}]\ncertificate = {params['certificate']}\nprivate_key = {params['private_key']}\n"
                   "cipher_list = ALL:@SECLEVEL=0\n" for role in roles)


def test_what_a_long_stop_took_comes_back(pool, certs):
    """Round after round: nothing of the given-up requests stays, and every process is served again."""
    ser = pool.fresh(tls=_params(certs, engine_timeout=300, config="tls.cfg"), readers=4, children=3,
                     files={"tls.cfg": _section(certs, "server:default", "client:default")}).start()
    shm = 0
    for turn in range(3):
        held = [TlsClient(ser.tls_port, certs.client_context(**HELD)) for _ in range(4)]
        fast = [TlsClient(ser.tls_port, certs.client_context()) for _ in range(2)]
        for client in held + fast:
            assert client.ask().status == 200
        with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller:
            with ser.engine_stopped():
                fresh = [RawTls(ser.tls_port, certs.client_context()) for _ in range(4)]
                for raw in fresh:
                    raw.sock.sendall(raw.flight())
                for client in held:
                    client.send(client.build())
                for _ in range(6):
                    caller.send(caller.build("OPTIONS", endpoint.uri))
                for client in held + fresh:
                    assert client.closed_by_ser(20), "given up"
                for client in fast:
                    assert client.ask().status == 200, "needs no engine"
            for client in held + fast + fresh:
                client.sock.close()
            # Each process that waited in vain has another try.
            for _ in range(12):
                wait_until(lambda: caller.ask("OPTIONS", endpoint.uri).status == 200, 20, "the processes to recover")
            with TlsClient(ser.tls_port, certs.client_context(**HELD)) as again:
                assert again.ask().status == 200
        shm = shm or ser.shm_used()
        _clean(ser, shm)
    assert ser.rpc("tls.reload") == "Ok. TLS configuration reloaded."


@pytest.mark.parametrize("kind", ["fast", "held"])
def test_many_senders_while_the_engine_stutters(pool, certs, kind):
    """Every message arrives, once, and each sender's in its order; the route sleeps before anything is sent."""
    ser = pool.fresh(tls=_params(certs, engine_timeout=30000, con_ct_wq_max=1 << 20), readers=8, children=4,
                     core=WIDE, modules=("cfgutils",),
                     events="event_route[tls:connection-out] {\n\tusleep(300000);\n}").start()
    over = threading.Event()

    def stutter() -> None:
        pick = random.Random(7)
        while not over.is_set():
            with ser.engine_stopped():
                time.sleep(pick.uniform(0.005, 0.08))
            time.sleep(pick.uniform(0.005, 0.08))

    def abort() -> None:
        while not over.is_set():
            raw = RawTls(ser.tls_port, certs.client_context())
            raw.sock.sendall(raw.flight()[:random.choice((40, 5000))])
            raw.rst()
            time.sleep(0.01)

    count, senders = 60, 6
    context = certs.server_context(**(HELD if kind == "held" else {}))
    threads = [threading.Thread(target=stutter), threading.Thread(target=abort)]
    with Endpoint(context, delay=0.2) as endpoint:
        callers = [TcpClient(ser.tcp_port) for _ in range(senders)]

        def send(number: int, first: int = 1, last: int = count) -> None:
            caller = callers[number]
            for n in range(first, last + 1):
                caller.send(caller.build("MESSAGE", endpoint.uri, call_id=f"sender-{number}", cseq=n,
                                         body=b"x" * (n * 37 % 3000)))
                time.sleep(0.01)

        # Two processes that find no connection at the same moment would open two.
        send(0, last=1)
        wait_until(lambda: ser.connection_count() > senders, 5, "the connection to the endpoint")

        work = [threading.Thread(target=send, args=(n, 2 if n == 0 else 1)) for n in range(senders)]
        for thread in threads + work:
            thread.start()
        try:
            for thread in work:
                thread.join(60)
            wait_until(lambda: len(endpoint.messages()) >= count * senders, 30, "all messages")
        finally:
            over.set()
            for thread in threads:
                thread.join(10)
        for n in range(senders):
            got = [c for i, c in enumerate(_order(endpoint, f"sender-{n}"))]
            assert sorted(set(got)) == list(range(1, count + 1))
            assert got == list(range(1, count + 1)), "in order, once"
        assert len(endpoint.arrivals) == 1
        for caller in callers:
            caller.close()
    _clean(ser, ser.shm_used())


def test_a_reload_by_a_process_that_once_waited_in_vain(pool, certs):
    """The engine works again, though nothing has shown it: what takes its time gets it."""
    many = _section(certs, "server:default", "client:default",
                    *(f"client:10.1.{n // 250}.{n % 250 + 1}:5061" for n in range(1000)))
    ser = pool.fresh(tls=_params(certs, engine_timeout=200, config="tls.cfg"), readers=1, children=1,
                     files={"tls.cfg": many}, params=[("jsonrpcs", "pretty_format", 0)], route="""
	if (is_method("INFO")) {
		jsonrpc_exec('{"jsonrpc": "2.0", "method": "tls.reload", "id": 1}');
		xlog("L_NOTICE", "reload: $jsonrpl(code) $jsonrpl(body)\\n");
		sl_send_reply("200", "OK");
		exit;
	}""").start()
    with UdpClient(ser.udp_port) as caller, Endpoint(certs.server_context()) as endpoint:
        with ser.engine_stopped():
            caller.send(caller.build("OPTIONS", endpoint.uri))
            ser.wait_log(r"did not answer in time \(engine_timeout\)", 10)
        assert caller.ask("INFO", "sip:127.0.0.1", timeout=30).status == 200
        assert "TLS configuration reloaded" in ser.wait_log(r"reload: .*$", 10)[0]
        assert caller.ask("OPTIONS", endpoint.uri).status == 200


UAC = 'loadmodule "uac.so"\nmodparam("uac", "restore_mode", "none")'


@pytest.mark.parametrize("readers", [1, 8])
@pytest.mark.parametrize("kind", ["fast", "held"])
def test_routes_that_send_sleep_and_drop_under_load(pool, certs, readers, kind):
    """From within the read hook the route opens a connection, whose own route sends on it, too."""
    send = """
	$uac_req(method) = "%s";
	$uac_req(ruri) = "sip:peer@127.0.0.1:" + %s + ";transport=tls";
	$uac_req(turi) = $uac_req(ruri);
	$uac_req(furi) = "sip:ser@localhost";
	uac_req_send();"""
    context = certs.server_context(**(HELD if kind == "held" else {}))
    with Endpoint(context) as endpoint:
        events = f"""
event_route[tls:connection-in] {{
	usleep(20000);{send % ("INFO", f'"{endpoint.port}"')}
	if ($sp mod 4 == 0) drop;
}}
event_route[tls:connection-out] {{
	usleep(20000);{send % ("NOTIFY", "$sp")}
}}"""
        ser = pool.fresh(tls=_params(certs, ca_list=str(certs.calist), verify_client="optional"), readers=readers,
                         children=2, modules=("cfgutils",), raw=UAC, events=events, core=WIDE).start()
        client_context = certs.client_context("client", **(HELD if kind == "held" else {}))
        answered, dropped, problems = [], [], []

        def visit() -> None:
            try:
                with TlsClient(ser.tls_port, client_context, timeout=60) as client:
                    dropping = client.local_port % 4 == 0
                    try:
                        for n in range(3):
                            client.send(client.build(call_id=f"{client.local_port}-{n}"))
                        got = [client.recv(60).call_id for _ in range(3)]
                    except OSError:
                        assert dropping
                        dropped.append(client.local_port)
                        return
                    assert not dropping and got == [f"{client.local_port}-{n}" for n in range(3)]
                    answered.append(client.local_port)
            except BaseException as problem:  # pylint: disable=broad-exception-caught
                problems.append(repr(problem))

        for _ in range(2):
            threads = [threading.Thread(target=visit) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
        assert len(answered) + len(dropped) == 32 and not problems, problems
        endpoint.wait_messages(32, "INFO", timeout=30)
        wait_until(lambda: len(endpoint.messages("NOTIFY")) == len(endpoint.arrivals), 10, "a NOTIFY on each connection")
        assert all(a.messages[0].method == "INFO" for a in endpoint.arrivals), "what waited goes first"
    wait_until(lambda: _sessions(ser) == 0, 20, "the engine's sessions to go")


def test_the_engine_is_killed_under_load(pool, certs):
    """SER ends, and does not hang, whatever its processes were doing with the engine."""
    ser = pool.fresh(tls=_params(certs, engine_timeout=60000), readers=4, children=4).start()
    pid = ser.engine_pid()
    over = threading.Event()

    def visit(context) -> None:
        while not over.is_set():
            try:
                with TlsClient(ser.tls_port, context, timeout=2) as client:
                    for _ in range(5):
                        client.ask(timeout=2)
            except (OSError, ValueError):
                pass

    threads = [threading.Thread(target=visit, args=(certs.client_context(**more),)) for more in (HELD, {}, HELD, {})]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        os.kill(pid, signal.SIGSTOP)  # everybody waits for it
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        start = time.monotonic()
        assert ser.wait_end(20) != 0
        assert time.monotonic() - start < 20
    finally:
        over.set()
        for thread in threads:
            thread.join(20)
