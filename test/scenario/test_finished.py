# SPDX-License-Identifier: ISC
"""The last step of a TLS 1.3 handshake: what a client sends in the place of its Finished, and as it."""
from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from certs import DOMAIN, V
from clients import (ALERT, ALERT_NAMES, APPLICATION, CHANGE_CIPHER_SPEC, HANDSHAKE, TIMEOUT, Direction13, RawTls,
                     Tool, UdpClient, half_wrong, logged_secrets, openssl_client, read_all, record, request,
                     split_records, trickle)
from domains import one_domain, replace_domain, site
from ser import free_port, wait_until

SUITES = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
CHANGE = record(CHANGE_CIPHER_SPEC, b"\1")
LATE = "the handshake takes too long (handshake_timeout)"


@pytest.fixture
def ser(pool, certs):
    return pool.get(tls=certs.server_params(handshake_timeout=3))


class Finishing:
    """A client that has the server's messages and its own Finished, which it has not sent yet."""

    def __init__(self, ser, certs, more: bytes = b""):
        with logged_secrets(certs.client_context, verify=False) as (self.context, secrets):
            self.raw = RawTls(ser.tls_port, self.context)
            self.raw.sock.sendall(self.raw.flight() + more)
            while not self.raw.complete:
                self.raw.feed()
                self.last = self.raw.flight()
        suite = self.raw.ssl.cipher()[0]
        self.write = Direction13(secrets["CLIENT_HANDSHAKE_TRAFFIC_SECRET"], suite)
        self.data = Direction13(secrets["CLIENT_TRAFFIC_SECRET_0"], suite)
        self.read = Direction13(secrets["SERVER_TRAFFIC_SECRET_0"], suite)
        self.finished = Direction13(self.write.secret, suite).open(split_records(self.last)[-1][1])[1]
        assert self.finished[0] == 20
        self.ser = ser
        self.port = self.raw.local_port

    def put(self, *parts: bytes) -> "Finishing":
        self.raw.sock.sendall(b"".join(parts))
        return self

    def seal(self, payload: bytes, kind: int = HANDSHAKE, padding: int = 0) -> bytes:
        return self.write.seal(kind, payload, padding)

    def alert(self) -> str | None:
        """The alert with which SER closes. The ticket was sealed before it and has the first number."""
        sent, closed = read_all(self.raw.sock)
        assert closed, "the connection stays open"
        records = [self.read.open(payload) for _, payload in split_records(sent)]
        assert [kind for kind, _ in records] in ([], [HANDSHAKE], [HANDSHAKE, ALERT])
        return ALERT_NAMES[records[1][1][1]] if len(records) > 1 else None

    def talks(self) -> None:
        self.raw.send(self.raw.build())
        assert self.raw.recv().status == 200
        line = self.ser.wait_established(self.port)
        assert line["version"] == "TLSv1.3" and line["path"] == "fast" and line["sni"] == DOMAIN, line

    def fails(self, reason: str, **alerts: str) -> None:
        line = self.ser.wait_failure(self.port)
        assert line["reason"] == reason, line
        assert {key: line[key] for key in ("alert_sent", "alert_received") if key in line} == alerts, line
        assert line["domain"] == "server:default" and line["sni"] == DOMAIN and "0304" in line["offered"], line
        assert "1301" in line["suites"], line
        assert not self.ser.established(self.port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.raw.sock.close()


GOOD = {
    "whole": lambda c: (c.seal(c.finished),),
    "after_change_cipher_spec": lambda c: (CHANGE, c.seal(c.finished)),
    "after_two": lambda c: (CHANGE, CHANGE, c.seal(c.finished)),
    "padded": lambda c: (c.seal(c.finished, padding=900),),
    "in_two_records": lambda c: (c.seal(c.finished[:2]), c.seal(c.finished[2:])),
    "in_records_of_one_byte": lambda c: tuple(c.seal(c.finished[i:i + 1]) for i in range(len(c.finished))),
    "user_canceled_first": lambda c: (c.seal(b"\1\x5a", ALERT), c.seal(c.finished)),
}


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("name", GOOD)
def test_finished_in_every_form(pool, certs, name, suite):
    ser = pool.get(tls=certs.server_params(cipher_list=suite))
    with Finishing(ser, certs) as client:
        assert client.raw.ssl.cipher()[0] == suite
        client.put(*GOOD[name](client)).talks()


@pytest.mark.parametrize("suite", SUITES)
def test_byte_by_byte(pool, certs, suite):
    ser = pool.get(tls=certs.server_params(cipher_list=suite))
    with Finishing(ser, certs) as client:
        trickle(client.raw.sock, CHANGE + client.seal(client.finished), pause=0.002)
        client.talks()


def test_a_request_in_the_same_packet(ser, certs):
    with Finishing(ser, certs) as client:
        client.put(client.last, client.raw.seal(client.raw.build()))
        assert client.raw.recv().status == 200


@pytest.mark.parametrize("cut", [1, 5, 6, 11, 20, -1])
def test_in_two_packets(ser, certs, cut):
    with Finishing(ser, certs) as client:
        whole = CHANGE + client.seal(client.finished) + client.raw.seal(client.raw.build())
        client.put(whole[:cut])
        time.sleep(0.05)
        client.put(whole[cut:])
        assert client.raw.recv().status == 200


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


PEER = "the peer ended the handshake with an alert"
BAD = {
    "one_bit": (lambda c: (c.seal(_flip(c.finished, -1 % len(c.finished))),), "bad Finished", "decrypt_error"),
    "zeros": (lambda c: (c.seal(c.finished[:4] + bytes(len(c.finished) - 4)),), "bad Finished", "decrypt_error"),
    "short": (lambda c: (c.seal(b"\x14\0\0\x0c" + c.finished[4:16]),), "bad length of Finished", "decode_error"),
    "empty": (lambda c: (c.seal(b"\x14\0\0\0"),), "bad length of Finished", "decode_error"),
    "more_after_it": (lambda c: (c.seal(c.finished + b"\x18\0\0\1\0"),), "data after a Finished in its record",
                      "unexpected_message"),
    "certificate": (lambda c: (c.seal(b"\x0b\0\0\4\0\0\0\0"),), "unexpected handshake message", "unexpected_message"),
    "key_update": (lambda c: (c.seal(b"\x18\0\0\1\0"),), "unexpected handshake message", "unexpected_message"),
    "client_hello": (lambda c: (c.seal(b"\1\0\0\4\3\3\0\0"),), "unexpected handshake message", "unexpected_message"),
    "nothing_in_a_record": (lambda c: (c.seal(b""),), "empty record", "unexpected_message"),
    "nothing_in_an_alert": (lambda c: (c.seal(b"", ALERT),), "empty record", "unexpected_message"),
    "data_first": (lambda c: (c.seal(b"OPTIONS sip:x SIP/2.0\r\n\r\n", APPLICATION),), "unexpected record type",
                   "unexpected_message"),
    "data_with_its_own_keys": (lambda c: (c.data.seal(APPLICATION, b"OPTIONS sip:x SIP/2.0\r\n\r\n"),),
                               "record does not authenticate", "bad_record_mac"),
    "damaged": (lambda c: (_flip(c.seal(c.finished), 30),), "record does not authenticate", "bad_record_mac"),
    "not_protected": (lambda c: (record(HANDSHAKE, c.finished),), "unexpected record type", "unexpected_message"),
    "plain_data": (lambda c: (record(APPLICATION, b"x" * 40),), "record does not authenticate", "bad_record_mac"),
    "plain_sip": (lambda c: (c.raw.build(),), "unexpected record type", "unexpected_message"),
    "oversized": (lambda c: (record(APPLICATION, bytes(16641)),), "oversized record", "record_overflow"),
    "wrong_change_cipher_spec": (lambda c: (record(CHANGE_CIPHER_SPEC, b"\2"),), "unexpected record type",
                                 "unexpected_message"),
    "endless_change_cipher_spec": (lambda c: (CHANGE * 6,), "too many ChangeCipherSpecs", "unexpected_message"),
    "interrupted": (lambda c: (c.seal(c.finished[:9]), c.seal(b"\1\0", ALERT)), "record inside a handshake message",
                    "unexpected_message"),
    "plain_alert_too_late": (lambda c: (c.seal(c.finished[:9]), record(ALERT, b"\2\x28")), "unexpected record type",
                             "unexpected_message"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_finished(ser, certs, name):
    make, reason, alert = BAD[name]
    with Finishing(ser, certs) as client:
        client.put(*make(client))
        got = client.alert()
        client.fails(reason, alert_sent=alert)
    assert got in (alert, None)  # a reset may have overtaken it


def test_the_alert_is_seen_on_the_wire(ser, certs):
    """One that cannot be overtaken by a reset: SER has read all that was sent."""
    with Finishing(ser, certs) as client:
        assert client.put(client.seal(_flip(client.finished, 10))).alert() == "decrypt_error"


@pytest.mark.parametrize("alert", ["bad_certificate", "close_notify", "internal_error"])
@pytest.mark.parametrize("plain", [False, True], ids=["protected", "plain"])
def test_the_client_refuses(ser, certs, alert, plain):
    """A client that could make nothing of the ServerHello has no keys for its alert."""
    code = next(code for code, name in ALERT_NAMES.items() if name == alert)
    with Finishing(ser, certs) as client:
        payload = bytes([2, code])
        client.put(record(ALERT, payload) if plain else client.seal(payload, ALERT))
        assert client.alert() is None
        client.fails(PEER, alert_received=alert)


@pytest.mark.parametrize("part", [0, 3, 6, 20], ids=lambda n: f"{n}_bytes")
@pytest.mark.parametrize("end", ["fin", "rst"])
def test_the_client_leaves(ser, certs, end, part):
    with Finishing(ser, certs) as client:
        client.put((CHANGE + client.seal(client.finished))[:part])
        if part:
            time.sleep(0.05)
        getattr(client.raw, end)()
        client.fails("the connection was closed during the handshake")


@pytest.mark.parametrize("part", [0, 6, 20], ids=lambda n: f"{n}_bytes")
def test_the_client_falls_silent(ser, certs, part):
    with Finishing(ser, certs) as client:
        client.put((CHANGE + client.seal(client.finished))[:part])
        assert read_all(client.raw.sock, 9) == (b"", True)
        client.fails(LATE)


def test_change_cipher_specs_do_not_prolong_it(ser, certs):
    with Finishing(ser, certs) as client:
        start = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in CHANGE * 5:
                client.put(bytes([byte]))
                time.sleep(0.2)
        assert time.monotonic() - start < 6.5
        client.fails(LATE)


def test_what_waits_is_sent_after_it(pool, certs):
    """A request that a route sends to the client while its Finished is missing."""
    ser = pool.get(tls=certs.server_params())
    with Finishing(ser, certs) as client, UdpClient(ser.udp_port) as caller:
        uri = f"sip:127.0.0.1:{client.port};transport=tls"
        caller.send(caller.build("OPTIONS", uri, call_id="while-waiting"))
        wait_until(lambda: int(ser.rpc("tls.info")["clear_text_write_queued_bytes"]) > 0, 5, "the request to wait")
        client.raw.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.raw.sock.recv(1)
        client.put(client.last)
        assert client.raw.recv().call_id == "while-waiting"


def test_a_half_open_handshake_keeps_nothing_in_the_engine(pool, certs):
    ser = pool.fresh(tls=certs.server_params(), readers=2).start()
    with Finishing(ser, certs) as first:
        first.put(first.last).talks()
    ser.wait_connections(0)
    shm = ser.shm_used()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Finishing(ser, certs)) for _ in range(40)]
        assert int(ser.rpc("tls.info")["engine_sessions"]) == 0
        for client in clients[::2]:
            client.put(client.last).talks()
    ser.wait_connections(0)
    wait_until(lambda: ser.shm_used() <= shm + 64 * 1024, 5, "shared memory to come back")


def test_a_reload_meanwhile(pool, certs):
    """The domain is gone and another one is new, but the connection is the old one's."""
    ser = site(pool, certs, fresh=True, cfg="".join(one_domain(certs, DOMAIN)))
    with Finishing(ser, certs) as client:
        replace_domain(ser, certs)
        client.put(client.last)
        client.raw.send(client.raw.build())
        assert client.raw.recv().status == 200
        assert ser.wait_established(client.port)["domain"] == f"server:any {DOMAIN}"
        assert ser.rpc("tls.list")[0]["dom"] == f"TLSs<any:{DOMAIN}>"


def test_many_at_once(pool, certs):
    """Half of them are right; no reader takes one for the other."""
    ser = pool.fresh(tls=certs.server_params(), readers=4).start()

    def attempt(turn: int, right: bool) -> bool:
        with Finishing(ser, certs) as client:
            if not right:
                return client.put(client.seal(_flip(client.finished, 4 + turn))).alert() == "decrypt_error"
            client.put(client.last).talks()
        return True

    wrong = half_wrong(attempt)
    assert not wrong and len(ser.failures()) == 36 and len(ser.established()) == 36


def test_the_ticket_waits_for_it(ser, certs):
    """Clients expect it after the handshake."""
    with Finishing(ser, certs) as client:
        client.raw.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.raw.sock.recv(1)
        client.put(client.last)
        kind, message = client.read.open(split_records(client.raw.feed())[0][1])
        assert kind == HANDSHAKE and message[0] == 4
        client.talks()
        session = client.raw.ssl.session
        assert session.has_ticket
    with RawTls(ser.tls_port, client.context, session=session).handshake() as again:
        assert again.ssl.session_reused
        again.send(again.build())
        assert again.recv().status == 200
        assert ser.wait_established(again.local_port)["resumed"] == "yes"


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def _relay_in_parts(listener: socket.socket, port: int) -> None:
    """SER gets the ClientHello some time before the rest."""
    with listener.accept()[0] as client, socket.create_connection(("127.0.0.1", port)) as ser:
        client.settimeout(TIMEOUT)
        head = client.recv(5, socket.MSG_WAITALL)
        ser.sendall(head + client.recv(int.from_bytes(head[3:], "big"), socket.MSG_WAITALL))
        time.sleep(0.1)
        back = threading.Thread(target=_pump, args=(ser, client), daemon=True)
        back.start()
        _pump(client, ser)
        back.join(TIMEOUT)


def test_early_data_is_skipped(ser, certs, tmp_path):
    """A client may have a ticket from whoever was at this address before, and try it."""
    port, session, early = free_port(), tmp_path / "session", tmp_path / "early"
    with Tool(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", certs.pem("server"), "-key",
               certs.key("server"), "-early_data"]) as server:
        server.wait_for("ACCEPT")
        with openssl_client(port, certs, "-sess_out", session):
            wait_until(lambda: session.exists() and session.stat().st_size > 0, 5, "a ticket")
    early.write_bytes(request())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_relay_in_parts, args=(listener, ser.tls_port), daemon=True).start()
        with openssl_client(listener.getsockname()[1], certs, "-sess_in", session, "-early_data", early) as client:
            client.wait_for("Early data was rejected")
            client.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
            client.wait_for(r"SIP/2\.0 200 OK")


def test_more_than_the_client_hello(ser, certs):
    """Part of a record comes with it, so the engine waits for the Finished, which comes in parts."""
    with Finishing(ser, certs, more=CHANGE[:3]) as client:
        assert int(ser.rpc("tls.info")["engine_sessions"]) == 1
        client.put(CHANGE[3:], client.seal(client.finished[:9]))
        time.sleep(0.05)
        client.put(client.seal(client.finished[9:])).talks()


def test_a_wanted_certificate_cannot_be_foretold(pool, certs):
    """The ticket comes after the client's messages."""
    ser = pool.get(tls=certs.server_params(verify_certificate=1, require_certificate=1, ca_list=str(certs.calist)))
    context = certs.client_context(cert="client", low=V.TLSv1_3)
    with RawTls(ser.tls_port, context) as client:
        client.sock.sendall(client.flight())
        while not client.complete:
            client.feed()
            last = client.flight()
        assert int(ser.rpc("tls.info")["engine_sessions"]) == 1
        client.sock.sendall(last)
        client.send(client.build())
        assert client.recv().status == 200
        assert ser.wait_established(client.local_port)["verified"] == "yes"
        assert client.ssl.session.has_ticket
