# SPDX-License-Identifier: ISC
"""The client's part of a TLS 1.2 key exchange: what may come, in every form, what may not, and who has to read it.

In most handshakes that is the process that reads; the engine has done its part before. Where it has not, a client
must notice nothing of that.
"""
from __future__ import annotations

import contextlib
import socket
import ssl
import time
from typing import Callable

import pytest

from certs import DOMAIN, V, responder, write
from clients import (ALERT, ALERT_NAMES, APPLICATION, CHANGE_CIPHER_SPEC, HANDSHAKE, Direction12, RawTls, Tool,
                     UdpClient, WssClient, gnutls_client, half_wrong, logged_secrets, openssl_client, read_all,
                     record, request, split_records, trickle)
from domains import base, load, one_domain, own, replace_domain, section, site
from ser import wait_until
from test_counters import counters
from test_resumption import make_keys
from test_wss import ROUTES

CHANGE = record(CHANGE_CIPHER_SPEC, b"\1")
TICKET, CERTIFICATE, VERIFY, KEY_EXCHANGE = 4, 11, 15, 16
AEAD = ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"]
ONLY_12 = {"low": V.TLSv1_2, "high": V.TLSv1_2}
KEY_LOG = {"keylog_mode": 11, "keylog_file": "keys"}
NO_EXTENDED_MASTER_SECRET = 1  # OpenSSL's option, for which Python has no name
Put = Callable[[socket.socket, bytes], None]  # sends a ClientHello
Shape = Callable[[ssl.SSLContext], None]
LATE = "the handshake takes too long (handshake_timeout)"
PEER = "the peer ended the handshake with an alert"
CLOSED = "the connection was closed during the handshake"


@pytest.fixture
def ser(pool, certs):
    return pool.get(tls=certs.server_params(handshake_timeout=3))


@pytest.fixture
def web(pool, certs):
    return pool.get(tls=certs.server_params(), modules=("xhttp", "websocket"), core="tcp_accept_no_cl=yes",
                    events=ROUTES)


def sessions(ser) -> int:
    """The handshakes and connections that the engine has."""
    return int(ser.rpc("tls.info")["engine_sessions"])


def held(ser, count: int) -> None:
    """The engine has so many. It forgets a handshake when it has answered, which may be after the answer was sent."""
    if count:
        time.sleep(0.05)
    wait_until(lambda: sessions(ser) == count, 5, f"{count} sessions")


@contextlib.contextmanager
def asked(ser, times: int):
    """The engine is asked so often until the connection ends."""
    before = counters(ser)["engine_requests"]
    yield
    ser.wait_connections(0)
    assert counters(ser)["engine_requests"] - before == times


def option(bit: int) -> Shape:
    return lambda context: setattr(context, "options", context.options | bit)


def half_open(raw: RawTls, put: Put = socket.socket.sendall) -> tuple[bytes, bytes]:
    """Sends the ClientHello; returns it, and what the client has to send last."""
    hello = raw.flight()
    put(raw.sock, hello)
    while not (flight := raw.flight()):
        raw.feed()
    return hello, flight


class Exchanging:
    """A client that has SER's messages up to ServerHelloDone, and has answered nothing yet."""

    def __init__(self, ser, certs, *, shape: Shape | None = None, put: Put = socket.socket.sendall,
                 engine: int | None = 0, **more):
        self.ser = ser
        with logged_secrets(certs.client_context, verify=False, **(ONLY_12 | more)) as (self.context, secrets):
            if shape:
                shape(self.context)
            self.raw = RawTls(ser.tls_port, self.context)
            hello, self.flight = half_open(self.raw, put)
        self.port = self.raw.local_port
        if engine is not None:
            held(ser, engine)
        (kind, self.key_exchange), change, (last, sealed) = split_records(self.flight)
        assert (kind, self.key_exchange[:5], change, last) == (HANDSHAKE, b"\x10\0\0\x21\x20", (20, b"\1"), HANDSHAKE)
        self.take_keys(secrets["CLIENT_RANDOM"], hello, sealed)

    def take_keys(self, master: bytes, hello: bytes, sealed: bytes) -> None:
        """Those of both directions, and the Finished that OpenSSL has sealed."""
        keys = master, self.raw.ssl.cipher()[0], hello[11:43], bytes(self.raw.wire_in[11:43])
        self.write, self.read = Direction12(*keys, client=True), Direction12(*keys, client=False)
        self.finished = Direction12(*keys, client=True).open(HANDSHAKE, sealed)
        assert self.finished[:4] == b"\x14\0\0\x0c"

    def put(self, *parts: bytes) -> "Exchanging":
        self.raw.sock.sendall(b"".join(parts))
        return self

    def answer(self) -> "Exchanging":
        """Sends what OpenSSL has made for it."""
        self.write.sequence = 1
        return self.put(self.flight)

    def seal(self, payload: bytes, kind: int = HANDSHAKE) -> bytes:
        return self.write.seal(kind, payload)

    def begin(self) -> bytes:
        """All before the Finished."""
        return record(HANDSHAKE, self.key_exchange) + CHANGE

    def complete(self) -> list[tuple[int, bytes]]:
        """The records with which SER ends the handshake, which OpenSSL has found to be right."""
        mark = len(self.raw.wire_in)
        while not self.raw.complete:
            self.raw.feed()
            self.raw.flight()
        return split_records(bytes(self.raw.wire_in[mark:]))

    def alert(self) -> str | None:
        """The alert with which SER closes, which is not protected, and all that it sends."""
        sent, closed = read_all(self.raw.sock)
        assert closed, "the connection stays open"
        records = split_records(sent)
        assert not records or [(kind, alert[0]) for kind, alert in records] == [(ALERT, 2)], records
        return ALERT_NAMES[records[0][1][1]] if records else None

    def talks(self) -> dict[str, str]:
        """The handshake ends and a request is answered: the line about it."""
        self.complete()
        self.put(self.seal(self.raw.build(), APPLICATION))
        assert self.raw.recv().status == 200
        line = self.ser.wait_established(self.port)
        assert line["version"] == "TLSv1.2" and line["path"] == "fast" and line["sni"] == DOMAIN, line
        return line

    def fails(self, reason: str, **alerts: str) -> None:
        line = self.ser.wait_failure(self.port)
        assert line["reason"] == reason, line
        assert {key: line[key] for key in ("alert_sent", "alert_received") if key in line} == alerts, line
        assert line["domain"] == "server:default" and line["sni"] == DOMAIN and line["offered"] == "0303", line
        assert "c02b" in line["suites"], line
        assert not self.ser.established(self.port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.raw.sock.close()


def resumes(ser, client: Exchanging, session=None) -> dict[str, str]:
    """The line about a connection that resumes the client's session, which must."""
    with RawTls(ser.tls_port, client.context, session=session or client.raw.ssl.session).handshake() as again:
        assert again.ssl.session_reused and again.ssl.version() == "TLSv1.2"
        assert again.ask().status == 200
        line = ser.wait_established(again.local_port)
    assert line["resumed"] == "yes", line
    return line


def plain(payload: bytes) -> bytes:
    return record(HANDSHAKE, payload)


def message(kind: int, body: bytes) -> bytes:
    return plain(bytes([kind]) + len(body).to_bytes(3, "big") + body)


def many(put: Callable[[bytes], bytes], data: bytes, step: int = 1) -> bytes:
    """Records of so many bytes."""
    return b"".join(put(data[at:at + step]) for at in range(0, len(data), step))


def flip(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


# -- what may come -----------------------------------------------------------------------------------

WARNING = b"\1\x5a"  # user_canceled
PLAIN_WARNING = record(ALERT, WARNING)
GOOD = {
    "whole": lambda c: c.begin() + c.seal(c.finished),
    "key_exchange_in_two_records": lambda c: many(plain, c.key_exchange, 9) + CHANGE + c.seal(c.finished),
    "finished_in_two_records": lambda c: c.begin() + many(c.seal, c.finished, 13),
    "records_of_one_byte": lambda c: many(plain, c.key_exchange) + CHANGE + many(c.seal, c.finished),
    "warnings_between": lambda c: (PLAIN_WARNING + plain(c.key_exchange) + PLAIN_WARNING * 2 + CHANGE +
                                   c.seal(WARNING, ALERT) + c.seal(WARNING, ALERT) + c.seal(c.finished)),
}


@pytest.mark.parametrize("cert", ["server", "server-rsa"])
@pytest.mark.parametrize("suite", AEAD)
@pytest.mark.parametrize("name", GOOD)
def test_every_form(pool, certs, name, suite, cert):
    suite = f"ECDHE-{'RSA' if 'rsa' in cert else 'ECDSA'}-{suite}"
    ser = pool.get(tls=certs.server_params(cert))
    with Exchanging(ser, certs, ciphers=suite) as client:
        assert client.raw.ssl.cipher()[0] == suite
        client.put(GOOD[name](client)).talks()


@pytest.mark.parametrize("step", [1, 2, 7, 41, 50])
@pytest.mark.parametrize("suite", AEAD)
def test_many_packets(ser, certs, suite, step):
    with Exchanging(ser, certs, ciphers=f"ECDHE-ECDSA-{suite}") as client:
        trickle(client.raw.sock, client.begin() + client.seal(client.finished), step, pause=0.004)
        client.talks()


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 9, 41, 42, 43, 47, 48, 49, 53, 60, 92, 93, 94, -1])
def test_two_packets(ser, certs, cut):
    """With a request behind the handshake's last message."""
    with Exchanging(ser, certs) as client:
        whole = client.begin() + client.seal(client.finished) + client.seal(client.raw.build(), APPLICATION)
        client.put(whole[:cut])
        time.sleep(0.05)
        client.put(whole[cut:]).complete()
        assert client.raw.recv().status == 200


def test_requests_in_the_same_packet(ser, certs):
    """They wait for SER's Finished, which comes before the answers."""
    with Exchanging(ser, certs) as client:
        asks = [client.raw.build(call_id=f"early-{n}") for n in range(3)]
        client.put(client.begin(), client.seal(client.finished), *(client.seal(ask, APPLICATION) for ask in asks))
        client.complete()
        assert [client.raw.recv().call_id for _ in asks] == [f"early-{n}" for n in range(3)]


@pytest.mark.parametrize("step", [1, 30, 200])
def test_a_client_hello_in_parts(ser, certs, step):
    """The engine is asked more than once for the ServerHello, and then no more."""
    with Exchanging(ser, certs, put=lambda sock, hello: trickle(sock, hello, step, 0.002)) as client:
        client.answer().talks()


def test_a_client_hello_in_records_of_one_byte(ser, certs):
    def put(sock, hello):
        sock.sendall(many(lambda byte: record(HANDSHAKE, byte, 0x0301), hello[5:]))

    with Exchanging(ser, certs, put=put) as client:
        client.answer().talks()


def test_on_a_websocket(web, certs):
    with asked(web, 1), WssClient(web.tls_port, certs.client_context(**ONLY_12)) as client:
        assert client.ask().status == 200


# -- what may not ------------------------------------------------------------------------------------

# Shares of small order, which make a secret of zeros whatever the other key is (RFC 7748 section 6.1).
PRIME = 2 ** 255 - 19
SMALL = [0, 1, PRIME - 1, PRIME, PRIME + 1,
         int.from_bytes(bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"), "little"),
         int.from_bytes(bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"), "little")]


SIP = b"OPTIONS sip:x SIP/2.0\r\n\r\n"
UNEXPECTED, OVERFLOW = "unexpected_message", "record_overflow"
# (reason, SER's alert, one of the client's before it) -> name -> what is sent
REFUSED = {
    ("unexpected handshake message", UNEXPECTED): {
        "certificate": lambda c: message(CERTIFICATE, b"\0\0\0"),
        "certificate_verify": lambda c: message(VERIFY, b"\4\3\0\0"),
        "client_hello": lambda c: message(1, b"\3\3" + bytes(40)),
        "finished_first": lambda c: plain(c.finished),
        "key_exchange_twice": lambda c: plain(c.key_exchange) * 2,
        "no_change": lambda c: plain(c.key_exchange) + c.seal(c.finished),
        "no_change_plain": lambda c: plain(c.key_exchange) + plain(c.finished),
        "hello_instead": lambda c: c.begin() + c.seal(b"\1\0\0\2\3\3"),
        "key_exchange_again": lambda c: c.begin() + c.seal(c.key_exchange),
    },
    ("unexpected ChangeCipherSpec", UNEXPECTED): {
        "change_first": lambda c: CHANGE,
    },
    ("unexpected record type", UNEXPECTED): {
        "data_first": lambda c: record(APPLICATION, SIP),
        "plain_sip": lambda c: c.raw.build(),
        "heartbeat": lambda c: record(24, b"\1\0\0"),
        "data_before_change": lambda c: plain(c.key_exchange) + c.seal(SIP, APPLICATION),
        "data_before_finished": lambda c: c.begin() + c.seal(SIP, APPLICATION),
        "no_data_before_finished": lambda c: c.begin() + c.seal(b"", APPLICATION),
        "change_twice": lambda c: c.begin() + CHANGE,
        "change_sealed": lambda c: c.begin() + c.seal(b"\1", CHANGE_CIPHER_SPEC),
    },
    ("bad length of ClientKeyExchange", "decode_error"): {
        "message_too_long": lambda c: message(KEY_EXCHANGE, c.key_exchange[4:] + b"\0"),
        "message_too_short": lambda c: message(KEY_EXCHANGE, c.key_exchange[4:-1]),
        "message_empty": lambda c: message(KEY_EXCHANGE, b""),
        "message_endless": lambda c: plain(b"\x10\xff\xff\xff" + bytes(60)),
        "share_of_p256": lambda c: message(KEY_EXCHANGE, b"\x41\4" + bytes(64)),
    },
    ("bad length of a key share", "decode_error"): {
        "share_of_31": lambda c: plain(c.key_exchange[:4] + b"\x1f" + c.key_exchange[5:]),
        "share_of_33": lambda c: plain(c.key_exchange[:4] + b"\x21" + c.key_exchange[5:]),
    },
    ("bad key share", "illegal_parameter"): {
        f"small_order_{n}": lambda c, share=share: message(KEY_EXCHANGE, b"\x20" + share.to_bytes(32, "little"))
        for n, share in enumerate(SMALL)
    },
    ("data after a ClientKeyExchange in its record", UNEXPECTED): {
        "data_after_it": lambda c: plain(c.key_exchange + b"\x14"),
        "finished_after_it": lambda c: plain(c.key_exchange + c.finished),
    },
    ("data after a Finished in its record", UNEXPECTED): {
        "data_after_finished": lambda c: c.begin() + c.seal(c.finished + b"\0"),
    },
    ("record inside a handshake message", UNEXPECTED): {
        "change_inside": lambda c: plain(c.key_exchange[:9]) + CHANGE,
        "alert_inside": lambda c: plain(c.key_exchange[:9]) + PLAIN_WARNING,
        "sealed_alert_inside": lambda c: c.begin() + c.seal(c.finished[:9]) + c.seal(WARNING, ALERT),
    },
    ("empty record", UNEXPECTED): {
        "empty": lambda c: plain(b""),
        "empty_alert": lambda c: record(ALERT, b""),
        "empty_change": lambda c: plain(c.key_exchange) + record(CHANGE_CIPHER_SPEC, b""),
        "empty_finished": lambda c: c.begin() + c.seal(b""),
    },
    ("oversized record", OVERFLOW): {
        "oversized": lambda c: plain(bytes(16385)),
        "oversized_finished": lambda c: c.begin() + plain(bytes(16641)),
    },
    ("bad record version", "protocol_version"): {
        "tls_11": lambda c: record(HANDSHAKE, c.key_exchange, 0x0302),
        "tls_13": lambda c: record(HANDSHAKE, c.key_exchange, 0x0304),
        "ssl_2": lambda c: record(HANDSHAKE, c.key_exchange, 0x0002),
        "finished_of_tls_11": lambda c: c.begin() + flip(c.seal(c.finished), 2),
    },
    ("malformed alert", "decode_error"): {"alert_of_one_byte": lambda c: record(ALERT, b"\1")},
    ("malformed alert", "illegal_parameter", "user_canceled"): {"alert_of_level_3": lambda c: record(ALERT, b"\3\x5a")},
    ("too many warning alerts", UNEXPECTED, "user_canceled"): {
        "endless_warnings": lambda c: PLAIN_WARNING * 6,
        "endless_warnings_later": lambda c: (PLAIN_WARNING * 3 + c.begin() + c.seal(WARNING, ALERT) +
                                             c.seal(WARNING, ALERT) + c.seal(WARNING, ALERT)),
    },
    ("bad ChangeCipherSpec", "decode_error"): {
        "change_to_2": lambda c: plain(c.key_exchange) + record(CHANGE_CIPHER_SPEC, b"\2"),
        "change_of_two": lambda c: plain(c.key_exchange) + record(CHANGE_CIPHER_SPEC, b"\1\1"),
    },
    ("bad Finished", "decrypt_error"): {
        "first_bit": lambda c: c.begin() + c.seal(flip(c.finished, 4)),
        "last_bit": lambda c: c.begin() + c.seal(flip(c.finished, -1)),
        "zeros": lambda c: c.begin() + c.seal(c.finished[:4] + bytes(12)),
    },
    ("bad length of Finished", "decode_error"): {
        "finished_too_short": lambda c: c.begin() + c.seal(b"\x14\0\0\x0b" + c.finished[4:15]),
        "finished_too_long": lambda c: c.begin() + c.seal(b"\x14\0\0\x20" + c.finished[4:] + bytes(20)),
        "finished_without_data": lambda c: c.begin() + c.seal(b"\x14\0\0\0"),
    },
    ("record does not authenticate", "bad_record_mac"): {
        "finished_not_protected": lambda c: c.begin() + plain(c.finished),
        "alert_not_protected": lambda c: c.begin() + record(ALERT, b"\2\x28"),
        "damaged": lambda c: c.begin() + flip(c.seal(c.finished), 30),
        "damaged_tag": lambda c: c.begin() + flip(c.seal(c.finished), -1),
        "damaged_share": lambda c: plain(flip(c.key_exchange, 20)) + CHANGE + c.seal(c.finished),
        "wrong_number": lambda c: c.begin() + (c.seal(b"") and c.seal(c.finished)),
        "keys_of_the_server": lambda c: c.begin() + c.read.seal(HANDSHAKE, c.finished),
    },
}
BAD = {name: (make, *why) for why, group in REFUSED.items() for name, make in group.items()}


@pytest.mark.parametrize("name", BAD)
def test_bad(ser, certs, name):
    make, reason, *alerts = BAD[name]
    with Exchanging(ser, certs) as client:
        client.put(make(client))
        got = client.alert()
        client.fails(reason, **dict(zip(("alert_sent", "alert_received"), alerts)))
    assert got in (alerts[0], None)  # a reset may have overtaken it


@pytest.mark.parametrize("name", ["small_order_0", "last_bit", "change_first"])
def test_the_alert_is_seen_on_the_wire(ser, certs, name):
    """One that cannot be overtaken by a reset: SER has read all that was sent."""
    make, _, alert = BAD[name]
    with Exchanging(ser, certs) as client:
        assert client.put(make(client)).alert() == alert


# Where OpenSSL, which reads these messages if there is a key log, says something else. It takes what has None.
OPENSSL = {
    "plain_sip": "protocol_version", "message_empty": "handshake_failure", "message_endless": "illegal_parameter",
    "share_of_p256": "illegal_parameter", "alert_of_one_byte": UNEXPECTED, "change_to_2": UNEXPECTED,
    "change_of_two": UNEXPECTED, "change_twice": "internal_error", "finished_not_protected": "internal_error",
    "alert_not_protected": "internal_error", "oversized_finished": "bad_record_mac",
    **dict.fromkeys(["data_after_it", "data_after_finished", "alert_inside", "empty", "empty_change",
                     "empty_finished"]),
}


@pytest.mark.parametrize("name", [name for name in BAD if OPENSSL.get(name, "the same")])
def test_bad_with_a_key_log(pool, certs, name):
    """The engine reads the client's messages, and refuses the same."""
    make, _, *alerts = BAD[name]
    ser = pool.get(tls=certs.server_params(**KEY_LOG))
    with Exchanging(ser, certs, engine=1) as client:
        got = client.put(make(client)).alert()
        line = ser.wait_failure(client.port)
    assert line["alert_sent"] == OPENSSL.get(name, alerts[0]) and got in (line["alert_sent"], None), line
    held(ser, 0)


# -- clients that give up ----------------------------------------------------------------------------

STEPS = {
    "first": lambda c: b"",
    "in_a_record": lambda c: c.begin()[:3],
    "in_a_message": lambda c: plain(c.key_exchange[:9]),
    "after_key_exchange": lambda c: plain(c.key_exchange),
    "in_change_cipher_spec": lambda c: plain(c.key_exchange) + CHANGE[:5],
    "after_change_cipher_spec": lambda c: c.begin(),
    "in_finished": lambda c: c.begin() + c.seal(c.finished)[:20],
}


@pytest.mark.parametrize("alert", [b"\1\0", b"\2\0", b"\2\x2a", b"\2\x50"],
                         ids=["close_notify", "fatal_close_notify", "bad_certificate", "internal_error"])
@pytest.mark.parametrize("step", ["first", "after_key_exchange", "after_change_cipher_spec"])
def test_the_client_refuses(ser, certs, step, alert):
    with Exchanging(ser, certs) as client:
        client.put(STEPS[step](client))
        client.put(client.seal(alert, ALERT) if "cipher" in step else record(ALERT, alert))
        assert client.alert() is None
        client.fails(PEER, alert_received=ALERT_NAMES[alert[1]])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("end", ["fin", "rst"])
def test_the_client_leaves(ser, certs, end, step):
    with Exchanging(ser, certs) as client:
        client.put(STEPS[step](client))
        time.sleep(0.05)
        getattr(client.raw, end)()
        client.fails(CLOSED)


def test_a_request_of_a_client_that_has_gone(ser, certs):
    """It came before the end, so it is served."""
    with Exchanging(ser, certs) as client:
        ask = client.raw.build("REGISTER", to=f"<sip:gone@{DOMAIN}>", headers=["Expires: 60"])
        client.put(client.begin(), client.seal(client.finished), client.seal(ask, APPLICATION))
    wait_until(lambda: f"127.0.0.1:{client.port}" in str(ser.rpc("ul.dump")), 5, "the contact")
    assert ser.established(client.port) and not ser.failures(client.port)


@pytest.mark.parametrize("step", ["first", "in_a_message", "after_change_cipher_spec", "in_finished"])
def test_the_client_falls_silent(ser, certs, step):
    with Exchanging(ser, certs) as client:
        client.put(STEPS[step](client))
        assert read_all(client.raw.sock, 9) == (b"", True)
        client.fails(LATE)


def test_bytes_do_not_prolong_it(ser, certs):
    with Exchanging(ser, certs) as client:
        start = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in client.key_exchange:
                client.put(plain(bytes([byte])))
                time.sleep(0.3)
        assert time.monotonic() - start < 6.5
        client.fails(LATE)


# -- meanwhile ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 20, 48, 60])
def test_what_waits_is_sent_after_it(pool, certs, cut):
    """A request that a route sends to the client while its last messages are missing."""
    ser = pool.get(tls=certs.server_params())
    with Exchanging(ser, certs) as client, UdpClient(ser.udp_port) as caller:
        client.put(client.flight[:cut])
        uri = f"sip:127.0.0.1:{client.port};transport=tls"
        caller.send(caller.build("OPTIONS", uri, call_id="while-waiting"))
        wait_until(lambda: int(ser.rpc("tls.info")["clear_text_write_queued_bytes"]) > 0, 5, "the request to wait")
        client.raw.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.raw.sock.recv(1)
        client.put(client.flight[cut:]).complete()
        assert client.raw.recv().call_id == "while-waiting"


def test_a_half_open_handshake_keeps_nothing_in_the_engine(pool, certs):
    ser = pool.fresh(tls=certs.server_params(), readers=2).start()
    with Exchanging(ser, certs) as first:
        first.answer().talks()
    ser.wait_connections(0)
    shm = ser.shm_used()
    with asked(ser, 40), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Exchanging(ser, certs)) for _ in range(40)]
        for client in clients[::2]:
            client.answer().talks()
        for client in clients[1::4]:
            client.put(BAD["last_bit"][0](client)).fails("bad Finished", alert_sent="decrypt_error")
    wait_until(lambda: ser.shm_used() <= shm + 64 * 1024, 5, "shared memory to come back")


def test_a_reload_meanwhile(pool, certs):
    """The domain is gone and another one is new, but the connection is the old one's; so is its ticket."""
    ser = site(pool, certs, fresh=True, cfg="".join(one_domain(certs, DOMAIN)))
    with Exchanging(ser, certs) as client:
        replace_domain(ser, certs)
        assert client.answer().talks()["domain"] == f"server:any {DOMAIN}"
        assert ser.rpc("tls.list")[0]["dom"] == f"TLSs<any:{DOMAIN}>"
        load(ser, *one_domain(certs, DOMAIN))
        assert resumes(ser, client)["domain"] == f"server:any {DOMAIN}"


def test_many_at_once(pool, certs):
    """Half of them are right; no reader takes one for the other."""
    ser = pool.fresh(tls=certs.server_params(), readers=4).start()

    def attempt(turn: int, right: bool) -> bool:
        with Exchanging(ser, certs, engine=None) as client:
            if not right:
                bad = client.begin() + client.seal(flip(client.finished, 4 + turn))
                return client.put(bad).alert() == "decrypt_error"
            client.answer().talks()
        return True

    wrong = half_wrong(attempt)
    assert not wrong and len(ser.failures()) == 36 and len(ser.established()) == 36


# -- the ticket --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", AEAD)
def test_the_last_messages(ser, certs, suite):
    """A ticket, ChangeCipherSpec and Finished, and nothing before the client's."""
    with Exchanging(ser, certs, ciphers=f"ECDHE-ECDSA-{suite}") as client:
        client.raw.sock.settimeout(0.2)
        for part in (client.begin(), client.seal(client.finished)):
            with pytest.raises(TimeoutError):
                client.raw.sock.recv(1)
            client.put(part)
        (one, ticket), change, (two, sealed) = client.complete()
        assert (one, ticket[0], change, two) == (HANDSHAKE, TICKET, (CHANGE_CIPHER_SPEC, b"\1"), HANDSHAKE)
        assert client.read.open(HANDSHAKE, sealed)[:4] == b"\x14\0\0\x0c"
        assert client.talks()["resumed"] == "no" and client.raw.ssl.session.has_ticket
    assert resumes(ser, client)["suite"] == ser.established(client.port)[0]["suite"]


@pytest.mark.parametrize("shape,tickets", [(option(ssl.OP_NO_TICKET), 1), (None, 0)],
                         ids=["the_client_wants_none", "session_tickets_0"])
def test_no_ticket(pool, certs, shape, tickets):
    ser = pool.get(tls=certs.server_params(session_tickets=tickets))
    with Exchanging(ser, certs, shape=shape) as client:
        client.answer()
        assert [kind for kind, _ in client.complete()] == [CHANGE_CIPHER_SPEC, HANDSHAKE]
        client.talks()
        assert not client.raw.ssl.session.has_ticket
        assert not client.raw.ssl.session.id


def test_a_foreign_ticket(pool, certs):
    """Of a server with other keys: a whole handshake, with a ticket of this one."""
    here, there = (pool.fresh(tls=certs.server_params()).start() for _ in range(2))
    with Exchanging(there, certs) as client:
        client.answer().talks()
        session = client.raw.ssl.session
    with RawTls(here.tls_port, client.context, session=session) as raw:
        _, flight = half_open(raw)
        held(here, 0)
        raw.sock.sendall(flight)
        assert raw.handshake().ask().status == 200 and not raw.ssl.session_reused
    resumes(here, client, raw.ssl.session)


def test_tickets_of_both_ways_are_alike(pool, certs):
    """Two machines with the same keys, of which one logs its connections' keys: but for one bit nobody can tell by the ticket."""
    files = {"keys": make_keys()[0]}
    here, there = (pool.fresh(tls=certs.server_params(session_ticket_keys="keys", **more), files=files).start()
                   for more in ({}, KEY_LOG))
    found = []
    for ser, engine in ((here, 0), (there, 1)):
        with Exchanging(ser, certs, engine=engine) as client:
            (_, ticket), *_ = client.answer().complete()
            client.talks()
        lines = [resumes(other, client) for other in (here, there)]
        found.append((len(ticket), ticket[:25], [{k: v for k, v in line.items() if k not in ("peer", "local", "line")}
                                                 for line in lines]))
    assert found[0] == found[1]
    assert found[0][1][4:8] == (7200).to_bytes(4, "big")


def test_a_ticket_after_a_reload(pool, certs):
    ser = site(pool, certs)
    with Exchanging(ser, certs) as client:
        client.answer().talks()
    load(ser, base(certs), section("server:any", server_name="more.example.org", **own(certs)))
    session = client.raw.ssl.session
    for _ in range(3):
        resumes(ser, client, session)


def test_a_ticket_is_worth_nothing_where_certificates_are_asked_for(pool, certs):
    ser = site(pool, certs)
    with Exchanging(ser, certs) as client:
        client.answer().talks()
    load(ser, base(certs, verify_certificate="yes", ca_list=certs.calist))
    with RawTls(ser.tls_port, client.context, session=client.raw.ssl.session).handshake() as again:
        assert not again.ssl.session_reused and again.ask().status == 200


# -- who is not read so ------------------------------------------------------------------------------

RSA = {"name": "server-rsa"}  # whose key needs no curve of the client's
ANY_SUITE = {"cipher_list": "ALL:@SECLEVEL=0"}
# name -> SER's parameters, the client's context, what is done to that
OTHERS = {
    "p256": ({}, {}, lambda context: context.set_ecdh_curve("prime256v1")),
    "p521": (RSA, {}, lambda context: context.set_ecdh_curve("secp521r1")),
    "no_extended_master_secret": ({}, {}, option(NO_EXTENDED_MASTER_SECRET)),
    "cbc": (ANY_SUITE, {"ciphers": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"}, None),
    "ccm": (ANY_SUITE, {"ciphers": "ECDHE-ECDSA-AES128-CCM:@SECLEVEL=0"}, None),
    "tls_11": (ANY_SUITE | {"tls_method": "TLSv1.0+"}, {"low": V.TLSv1_1, "high": V.TLSv1_1, "legacy": True}, None),
    "session_id": ({"session_cache": 1}, {}, option(ssl.OP_NO_TICKET)),
    "key_log": (KEY_LOG, {}, None),
    "certificate": ({"verify_certificate": 1, "require_certificate": 1, "ca_list": "@"}, {"cert": "client"}, None),
    "certificate_not_given": ({"verify_certificate": 1, "ca_list": "@"}, {}, None),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others(pool, certs, name):
    """The engine holds what they have begun; it ends, fails and resumes as ever."""
    params, more, shape = OTHERS[name]
    params = {key: str(certs.calist) if value == "@" else value for key, value in params.items()}
    ser = pool.get(tls=certs.server_params(**params))
    context = certs.client_context(**(ONLY_12 | more))
    if shape:
        shape(context)
    for bad in (False, True):
        with RawTls(ser.tls_port, context) as raw:
            _, flight = half_open(raw)
            held(ser, 1)
            raw.sock.sendall(flip(flight, -1) if bad else flight)
            if bad:
                assert ser.wait_failure(raw.local_port)["alert_sent"] in ("bad_record_mac", "decrypt_error")
                continue
            assert raw.handshake().ask().status == 200
            line, session = ser.wait_established(raw.local_port), raw.ssl.session
            assert line["verified"] == ("yes" if "cert" in more else "none") and line["resumed"] == "no", line
        ser.wait_connections(0)
    with RawTls(ser.tls_port, context, session=session).handshake() as again:
        assert again.ssl.session_reused and again.ask().status == 200
        assert ser.wait_established(again.local_port)["verified"] == line["verified"]


@pytest.mark.parametrize("suite", ["AES128-GCM-SHA256", "DHE-RSA-AES128-GCM-SHA256", "AES256-SHA"])
def test_other_key_exchanges(pool, certs, suite):
    ser = pool.get(tls=certs.server_params("server-rsa", **ANY_SUITE))
    with RawTls(ser.tls_port, certs.client_context(ciphers=f"{suite}:@SECLEVEL=0", **ONLY_12)) as raw:
        _, flight = half_open(raw)
        held(ser, 1)
        raw.sock.sendall(flight)
        assert raw.handshake().ask().status == 200 and raw.ssl.cipher()[0] == suite
    ser.wait_connections(0)


def test_more_than_the_client_hello(ser, certs):
    """Part of a record comes with it, so the engine waits for the rest."""
    with Exchanging(ser, certs, put=lambda sock, hello: sock.sendall(hello + b"\x16\3"), engine=1) as client:
        client.put(client.flight[2:10])
        time.sleep(0.05)
        client.write.sequence = 1
        client.put(client.flight[10:]).talks()
    resumes(ser, client)


def with_protocols(size: int) -> Shape:
    """So many bytes of ALPN, which SER overlooks, in a ClientHello."""
    names = ["x" * 99] * (size // 100 - 1)
    names.append("x" * (size - 100 * len(names) - 1))
    return lambda context: context.set_alpn_protocols(names)


def hello_of(ser, certs, size: int) -> int:
    """Bytes of a ClientHello with so many of ALPN."""
    context = certs.client_context(**ONLY_12)
    with_protocols(size)(context)
    with RawTls(ser.tls_port, context) as raw:
        return sum(len(payload) for _, payload in split_records(raw.flight()))


def test_a_client_hello_of_every_length(ser, certs):
    """A reader that waits keeps it in shared memory, so a long one stays with the engine; it does as well."""
    room = 4096 - hello_of(ser, certs, 3000) + 3000
    for size, engine in ((2, 0), (room, 0), (room + 1, 1), (5000, 1), (16300, 1), (60000, 1)):
        with Exchanging(ser, certs, shape=with_protocols(size), engine=engine) as client:
            client.answer().talks()
        resumes(ser, client)


@pytest.mark.parametrize("size", [4096, 8000, 14000, 60000])
def test_a_long_client_hello_takes_no_shared_memory(pool, certs, size):
    ser = pool.fresh(tls=certs.server_params(handshake_timeout=60), readers=2).start()

    def each(more: int) -> tuple[float, int]:
        """Shared memory of a client that is half open, and how many the engine has of 30."""
        used = ser.shm_used()
        with contextlib.ExitStack() as stack:
            for _ in range(30):
                stack.enter_context(Exchanging(ser, certs, shape=with_protocols(more), engine=None))
            time.sleep(0.05)
            wait_until(lambda: sessions(ser) in (0, 30), 5, "the engine to have answered")
            found = (ser.shm_used() - used) / 30, sessions(ser)
        ser.wait_connections(0)
        return found

    each(2)
    (short, left), (long, kept) = each(2), each(size)
    assert long <= short + 512, (short, long)
    assert (left, kept) == (0, 30)


# The begin of a message, of which OpenSSL keeps a part for itself: a ClientKeyExchange, or none that it knows.
BEGINS = [b"\x10", b"\x10\0", b"\x10\0\0", b"\xff\xff\xff", b"\0"]
SHARE = b"\x10\0\0\x21\x20"  # what every ClientKeyExchange with a key of X25519 begins with


def behind(more: bytes) -> Put:
    """With more in the record of the ClientHello."""
    return lambda sock, hello: sock.sendall(record(HANDSHAKE, hello[5:] + more, 0x0301))


def next_to(more: bytes) -> Put:
    """With more in a record of its own."""
    return lambda sock, hello: sock.sendall(hello + plain(more))


@pytest.fixture(params=[behind, next_to], ids=["behind", "next_to"])
def place(request) -> Callable[[bytes], Put]:
    return request.param


@pytest.fixture
def both(pool, certs):
    """A SER, and one whose engine reads all messages of its clients."""
    return [pool.get(tls=certs.server_params(handshake_timeout=3, **more)) for more in ({}, KEY_LOG)]


@pytest.mark.parametrize("begin", BEGINS)
def test_a_message_that_has_begun_and_does_not_go_on(both, certs, begin, place):
    """The client's next message is not what OpenSSL takes for it, so it is refused; so is it here."""
    found = []
    for ser in both:
        with Exchanging(ser, certs, put=place(begin), engine=1) as client:
            got = client.answer().alert()
            line = ser.wait_failure(client.port)
            found.append((line["reason"], line.get("alert_sent")))
            assert got in (line.get("alert_sent"), None) and not ser.established(client.port)
        held(ser, 0)
    assert found[0] == found[1] and found[0][0] != LATE


@pytest.mark.parametrize("size", range(1, len(SHARE) + 1))
def test_a_message_that_has_begun_and_goes_on(both, certs, size, place):
    for ser in both:
        with Exchanging(ser, certs, put=place(SHARE[:size]), engine=1) as client:
            client.put(plain(client.key_exchange[size:]), CHANGE, client.seal(client.finished)).talks()
            line, = ser.established(client.port)
            assert line["resumed"] == "no"
        resumes(ser, client)


@pytest.mark.parametrize("name", ["last_bit", "change_first", "damaged", "key_exchange_again"])
def test_bad_after_a_message_that_has_begun(both, certs, name):
    make, _, alert = BAD[name]
    for ser in both:
        with Exchanging(ser, certs, put=behind(SHARE[:2]), engine=1) as client:
            rest = make(client).replace(plain(client.key_exchange), plain(client.key_exchange[2:]), 1)
            assert client.put(rest).alert() in (alert, None)
            assert ser.wait_failure(client.port)["alert_sent"] == alert


def test_a_key_log_that_is_switched_on_meanwhile(pool, certs):
    """It has the connections whose ClientHello comes from then on."""
    ser = pool.get(tls=certs.server_params(keylog_mode=1, keylog_file="keys"))
    with Exchanging(ser, certs) as client:
        ser.rpc("cfg.set_now_int", "tls", "keylog_mode", 11)
        client.answer().talks()
        with Exchanging(ser, certs, engine=1) as later:
            later.answer().talks()
        ser.rpc("cfg.set_now_int", "tls", "keylog_mode", 1)
    lines = (ser.dir / "keys").read_text().splitlines()
    assert [line.split()[0] for line in lines if line[0] != "#"] == ["CLIENT_RANDOM"], lines


def test_how_often_the_engine_is_asked(ser, certs):
    """Once, for a whole handshake and for one that resumes."""
    with asked(ser, 1), Exchanging(ser, certs) as client:
        client.answer().talks()
    with asked(ser, 1):
        resumes(ser, client)


def _with_chain(ser, certs, size: int) -> tuple[int, int]:
    """Connects to a server with a long chain: bytes of the messages up to ServerHelloDone, sessions meanwhile."""
    filler = certs.authority().issue("filler", *[f"DNS:{'x' * 200}"] * (size // 203))
    made = certs.authority().issue("leaf", f"DNS:{DOMAIN}", chain=[filler.pem])
    load(ser, section("server:default", certificate=made.pem, private_key=made.key))
    with RawTls(ser.tls_port, certs.client_context(verify=False, **ONLY_12)) as raw:
        hello, flight = half_open(raw)
        time.sleep(0.05)
        found = sum(len(payload) for _, payload in split_records(hello + bytes(raw.wire_in))), sessions(ser)
        raw.sock.sendall(flight)
        assert raw.handshake().ask().status == 200 and raw.ssl.session.has_ticket
    ser.wait_connections(0)
    return found


def test_chains_of_every_length(pool, certs):
    """SER keeps 16 KB of messages, and a session behind them, if both find room; nobody notices when not."""
    ser = site(pool, certs)
    found = [_with_chain(ser, certs, size) for size in (200, 8000, *range(13000, 16500, 203), 30000, 70000)]
    sizes = {way: [size for size, sessions in found if sessions == way] for way in (0, 1)}
    assert max(sizes[0]) < min(sizes[1]) and 15700 < max(sizes[0]) < 16384, sizes


# -- other people's programs -------------------------------------------------------------------------

TLS_12 = "NORMAL:-VERS-ALL:+VERS-TLS1.2"
X25519 = f"{TLS_12}:-GROUP-ALL:+GROUP-X25519:+GROUP-SECP256R1"
TOOLS = {
    "openssl": (openssl_client, ["-tls1_2"], 1),
    "openssl_without_tickets": (openssl_client, ["-tls1_2", "-no_ticket"], 1),
    "openssl_p384": (openssl_client, ["-tls1_2", "-groups", "P-384:P-256"], 2),
    "gnutls": (gnutls_client, ["--priority", X25519], 1),
    "gnutls_chacha20": (gnutls_client, ["--priority", f"{X25519}:-CIPHER-ALL:+CHACHA20-POLY1305"], 1),
    "gnutls_p256": (gnutls_client, ["--priority", f"{TLS_12}:-GROUP-ALL:+GROUP-SECP256R1"], 2),
    "gnutls_without_extended_master_secret": (gnutls_client, ["--priority", f"{X25519}:%NO_SESSION_HASH"], 2),
}


@pytest.mark.parametrize("name", TOOLS)
def test_tools(ser, certs, name):
    make, args, times = TOOLS[name]
    with asked(ser, times), make(ser.tls_port, certs, *args) as tool:
        tool.wait_for("Verify return code: 0|Handshake was completed")
        tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
        tool.wait_for(r"SIP/2\.0 200 OK")


def test_a_server_that_says_more(pool, certs):
    """The status of its certificate, which is a message of its own, and the protocol."""
    ser, authority = site(pool, certs), certs.authority()
    made = authority.issue("with a status", f"DNS:{DOMAIN}")
    status = write(ser.dir / "status.der", responder(authority, made.cert))
    load(ser, base(certs, certificate=made.pem, private_key=made.key, ca_list=certs.calist, ocsp_response=status,
                   alpn="sip/2"))
    with asked(ser, 1), openssl_client(ser.tls_port, certs, "-tls1_2", "-status", "-alpn", "sip/2") as tool:
        tool.wait_for("Verify return code: 0")
        assert "OCSP Response Status: successful" in tool.text and "ALPN protocol: sip/2" in tool.text
        tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
        tool.wait_for(r"SIP/2\.0 200 OK")


def test_small_records(ser, certs):
    """OpenSSL makes them for as long as the connection lives."""
    with openssl_client(ser.tls_port, certs, "-tls1_2", "-maxfraglen", "512") as tool:
        tool.wait_for("Verify return code: 0")
        held(ser, 1)
        tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
        tool.wait_for(r"SIP/2\.0 200 OK")
    ser.wait_connections(0)


def test_gnutls_resumes(ser, certs):
    with asked(ser, 2), gnutls_client(ser.tls_port, certs, "--resume", "--waitresumption", "--priority",
                                      X25519) as tool:
        tool.wait_for("This is a resumed session", timeout=15)
        tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
        tool.wait_for(r"SIP/2\.0 200 OK")


def test_curl(web, certs):
    there = f"{DOMAIN}:{web.tls_port}"
    with asked(web, 1), Tool(["curl", "-sS", "-i", "--tls-max", "1.2", "--cacert", certs.calist, "--resolve",
                              f"{there}:127.0.0.1", f"https://{there}/"]) as tool:
        assert tool.finish() == 0 and "404 Not Found" in tool.text, tool.text
