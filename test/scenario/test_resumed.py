# SPDX-License-Identifier: ISC
"""A TLS 1.2 session that resumes, by ticket and by session id: what may come last, what may not, who reads it.

SER has said all before its client does, so that its alerts are protected; the engine knows nothing of it any more.
"""
from __future__ import annotations

import contextlib
import socket
import ssl
import time
from typing import NamedTuple

import pytest

from certs import DOMAIN, V
from clients import (ALERT, ALERT_NAMES, APPLICATION, CHANGE_CIPHER_SPEC, HANDSHAKE, RawTls, TlsClient, UdpClient,
                     WssClient, half_wrong, logged_secrets, openssl_client, read_all, record, request, split_records,
                     trickle)
from domains import base, load, one_domain, replace_domain, site
from ser import wait_until
from test_attributes import (ASK, NULL, WIDE, Pair, _as_variables, _params, ask_all, certificate_rows,
                             certificate_variables)
from test_key_exchange import (AEAD, ANY_SUITE, CERTIFICATE, CHANGE, CLOSED, KEY_EXCHANGE, KEY_LOG, LATE,
                               NO_EXTENDED_MASTER_SECRET, ONLY_12, OVERFLOW, PEER, PLAIN_WARNING, SIP, TICKET,
                               UNEXPECTED, WARNING, Exchanging, Put, Shape, asked, behind, flip, half_open, held, many,
                               message, option, plain, resumes)
from test_resumption import cluster, make_keys, put_keys
from test_wss import ROUTES

CACHE = {"session_cache": 1}
NO_TICKET = option(ssl.OP_NO_TICKET)
SHAPES: dict[str, Shape | None] = {"ticket": None, "id": NO_TICKET}
CBC = "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"


@pytest.fixture(params=SHAPES)
def shape(request) -> Shape | None:
    return SHAPES[request.param]


@pytest.fixture
def ser(pool, certs):
    return pool.get(tls=certs.server_params(handshake_timeout=3, **CACHE))


class Met(NamedTuple):
    """What a client has kept of a full handshake."""

    context: ssl.SSLContext
    session: ssl.SSLSession
    master: bytes


def meet(ser, certs, shape: Shape | None = None, **more) -> Met:
    with logged_secrets(certs.client_context, verify=False, **(ONLY_12 | more)) as (context, secrets):
        if shape:
            shape(context)
        with RawTls(ser.tls_port, context).handshake() as raw:
            assert raw.ask().status == 200 and not raw.ssl.session_reused
            session = raw.ssl.session
    ser.wait_connections(0)
    assert session.has_ticket if shape is not NO_TICKET else session.id and not session.has_ticket
    return Met(context, session, secrets["CLIENT_RANDOM"])


class Resuming(Exchanging):
    """A client that resumes a session and has all of SER's messages; ChangeCipherSpec and Finished are missing."""

    def __init__(self, ser, met: Met, *, put: Put = socket.socket.sendall, engine: int | None = 0):
        self.ser, self.context = ser, met.context
        self.raw = RawTls(ser.tls_port, met.context, session=met.session)
        hello, self.flight = half_open(self.raw, put)
        assert self.raw.complete and self.raw.ssl.session_reused
        self.port = self.raw.local_port
        if engine is not None:
            held(ser, engine)
        change, (kind, sealed) = split_records(self.flight)
        assert (change, kind) == ((CHANGE_CIPHER_SPEC, b"\1"), HANDSHAKE)
        self.take_keys(met.master, hello, sealed)
        self.random = hello[11:43]
        *self.messages, before, (kind, self.sealed) = split_records(bytes(self.raw.wire_in))
        assert (before, kind) == ((CHANGE_CIPHER_SPEC, b"\1"), HANDSHAKE)
        self.own = self.read.open(HANDSHAKE, self.sealed)
        assert self.own[:4] == b"\x14\0\0\x0c"

    def begin(self) -> bytes:
        return CHANGE

    def alert(self) -> str | None:
        """The alert with which SER closes, which is the next record after its Finished, and all that it sends."""
        sent, closed = read_all(self.raw.sock)
        assert closed, "the connection stays open"
        records = split_records(sent)
        if not sent:
            return None
        (kind, sealed), = records
        assert kind == ALERT
        assert self.read.chacha or self.number(sealed) == self.number(self.sealed) + 1
        level, code = self.read.open(ALERT, sealed)
        assert level == 2
        return ALERT_NAMES[code]

    @staticmethod
    def number(sealed: bytes) -> int:
        """The part of a nonce that GCM sends."""
        return int.from_bytes(sealed[:8], "big")

    def talks(self) -> dict[str, str]:
        line = super().talks()
        assert line["resumed"] == "yes", line
        kind, reply = split_records(bytes(self.raw.wire_in))[-1]
        assert kind == APPLICATION and (self.read.chacha or self.number(reply) == self.number(self.sealed) + 1)
        return line


# -- what may come -----------------------------------------------------------------------------------

GOOD = {
    "whole": lambda c: CHANGE + c.seal(c.finished),
    "finished_in_two_records": lambda c: CHANGE + many(c.seal, c.finished, 13),
    "records_of_one_byte": lambda c: CHANGE + many(c.seal, c.finished),
    "warnings_between": lambda c: (PLAIN_WARNING * 2 + CHANGE + c.seal(WARNING, ALERT) + c.seal(WARNING, ALERT) +
                                   c.seal(c.finished)),
    "as_many_warnings_again_afterwards": lambda c: (PLAIN_WARNING * 5 + CHANGE + c.seal(c.finished) +
                                                    many(lambda warning: c.seal(warning, ALERT), WARNING * 5, 2)),
}


@pytest.mark.parametrize("suite", AEAD)
@pytest.mark.parametrize("name", GOOD)
def test_every_form(ser, certs, shape, name, suite):
    met = meet(ser, certs, shape, ciphers=f"ECDHE-ECDSA-{suite}")
    with asked(ser, 1), Resuming(ser, met) as client:
        assert client.raw.ssl.cipher()[0] == f"ECDHE-ECDSA-{suite}"
        client.put(GOOD[name](client)).talks()


@pytest.mark.parametrize("step", [1, 2, 7, 41])
@pytest.mark.parametrize("suite", AEAD)
def test_many_packets(ser, certs, shape, suite, step):
    with Resuming(ser, meet(ser, certs, shape, ciphers=f"ECDHE-ECDSA-{suite}")) as client:
        trickle(client.raw.sock, CHANGE + client.seal(client.finished), step, pause=0.004)
        client.talks()


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 7, 10, 11, 12, 30, 50, 51, 52, 56, 57, 80, -1])
def test_two_packets(ser, certs, cut):
    """With a request behind the handshake's last message."""
    with Resuming(ser, meet(ser, certs)) as client:
        whole = CHANGE + client.seal(client.finished) + client.seal(client.raw.build(), APPLICATION)
        client.put(whole[:cut])
        time.sleep(0.05)
        client.put(whole[cut:])
        assert client.raw.recv().status == 200
        assert ser.wait_established(client.port)["resumed"] == "yes"


def test_requests_in_the_same_packet(ser, certs, shape):
    with Resuming(ser, meet(ser, certs, shape)) as client:
        asks = [client.raw.build(call_id=f"early-{n}") for n in range(3)]
        client.put(CHANGE, client.seal(client.finished), *(client.seal(ask, APPLICATION) for ask in asks))
        assert [client.raw.recv().call_id for _ in asks] == [f"early-{n}" for n in range(3)]


def test_the_messages_of_ser(ser, certs, shape):
    """ServerHello, ChangeCipherSpec, Finished and no more, before the client's and after."""
    with Resuming(ser, meet(ser, certs, shape)) as client:
        assert [(kind, hello[0]) for kind, hello in client.messages] == [(HANDSHAKE, 2)]
        client.answer().raw.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.raw.sock.recv(1)
        client.talks()


@pytest.mark.parametrize("step", [1, 30, 200])
def test_a_client_hello_in_parts(ser, certs, shape, step):
    met = meet(ser, certs, shape)
    with Resuming(ser, met, put=lambda sock, hello: trickle(sock, hello, step, 0.002)) as client:
        client.answer().talks()


def test_a_client_hello_in_records_of_one_byte(ser, certs, shape):
    def put(sock, hello):
        sock.sendall(many(lambda byte: record(HANDSHAKE, byte, 0x0301), hello[5:]))

    with Resuming(ser, meet(ser, certs, shape), put=put) as client:
        client.answer().talks()


def test_on_a_websocket(pool, certs):
    web = pool.get(tls=certs.server_params(), modules=("xhttp", "websocket"), core="tcp_accept_no_cl=yes",
                   events=ROUTES)
    context = certs.client_context(**ONLY_12)
    with WssClient(web.tls_port, context) as client:
        session = client.tls.session
    web.wait_connections(0)
    with asked(web, 1), WssClient(web.tls_port, context, session=session) as client:
        assert client.tls.session_reused and client.ask().status == 200


# name -> the client's ciphers and the like, what is done to its context
OTHERS = {
    "p256": ({}, lambda context: context.set_ecdh_curve("prime256v1")),
    "no_extended_master_secret": ({}, option(NO_EXTENDED_MASTER_SECRET)),
    "rsa": ({"ciphers": "AES128-GCM-SHA256:@SECLEVEL=0"}, None),
    "dhe": ({"ciphers": "DHE-RSA-AES256-GCM-SHA384:@SECLEVEL=0"}, None),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_key_exchanges(pool, certs, name):
    """The engine has read all of their first handshakes; that makes no difference to a session."""
    more, shape = OTHERS[name]
    ser = pool.get(tls=certs.server_params("server-rsa", **ANY_SUITE))
    met = meet(ser, certs, shape, **more)
    with asked(ser, 1), Resuming(ser, met) as client:
        client.answer().raw.send(client.raw.build())
        assert client.raw.recv().status == 200
        line = ser.wait_established(client.port)
    assert (line["resumed"], line["path"]) == ("yes", "fast"), line


# -- what may not ------------------------------------------------------------------------------------

WHOLE_KEY_EXCHANGE = b"\x20" + bytes(range(32))
# (reason, SER's alert, one of the client's before it) -> name -> what is sent
REFUSED = {
    ("unexpected handshake message", UNEXPECTED): {
        "key_exchange": lambda c: message(KEY_EXCHANGE, WHOLE_KEY_EXCHANGE),
        "key_exchange_first": lambda c: message(KEY_EXCHANGE, WHOLE_KEY_EXCHANGE) + CHANGE + c.seal(c.finished),
        "certificate": lambda c: message(CERTIFICATE, b"\0\0\0"),
        "client_hello": lambda c: message(1, b"\3\3" + bytes(40)),
        "finished_first": lambda c: plain(c.finished),
        "no_change": lambda c: c.seal(c.finished),
        "key_exchange_later": lambda c: CHANGE + c.seal(b"\x10\0\0\x21" + WHOLE_KEY_EXCHANGE),
        "hello_instead": lambda c: CHANGE + c.seal(b"\1\0\0\2\3\3"),
    },
    ("unexpected record type", UNEXPECTED): {
        "data_first": lambda c: record(APPLICATION, SIP),
        "data_before_change": lambda c: c.seal(SIP, APPLICATION),
        "plain_sip": lambda c: c.raw.build(),
        "heartbeat": lambda c: record(24, b"\1\0\0"),
        "data_before_finished": lambda c: CHANGE + c.seal(SIP, APPLICATION),
        "no_data_before_finished": lambda c: CHANGE + c.seal(b"", APPLICATION),
        "change_twice": lambda c: CHANGE * 2,
        "change_inside": lambda c: CHANGE + c.seal(c.finished[:9]) + CHANGE,
        "change_sealed": lambda c: CHANGE + c.seal(b"\1", CHANGE_CIPHER_SPEC),
    },
    ("data after a Finished in its record", UNEXPECTED): {
        "data_after_finished": lambda c: CHANGE + c.seal(c.finished + b"\0"),
        "finished_twice": lambda c: CHANGE + c.seal(c.finished * 2),
    },
    ("record inside a handshake message", UNEXPECTED): {
        "alert_inside": lambda c: CHANGE + c.seal(c.finished[:9]) + c.seal(WARNING, ALERT),
        "data_inside": lambda c: CHANGE + c.seal(c.finished[:1]) + c.seal(SIP, APPLICATION),
    },
    ("empty record", UNEXPECTED): {
        "empty": lambda c: plain(b""),
        "empty_alert": lambda c: record(ALERT, b""),
        "empty_change": lambda c: record(CHANGE_CIPHER_SPEC, b""),
        "empty_finished": lambda c: CHANGE + c.seal(b""),
        "empty_alert_later": lambda c: CHANGE + c.seal(b"", ALERT),
    },
    ("oversized record", OVERFLOW): {
        "oversized": lambda c: record(CHANGE_CIPHER_SPEC, bytes(16385)),
        "oversized_finished": lambda c: CHANGE + plain(bytes(16641)),
    },
    ("bad record version", "protocol_version"): {
        "change_of_tls_11": lambda c: record(CHANGE_CIPHER_SPEC, b"\1", 0x0302),
        "change_of_tls_13": lambda c: record(CHANGE_CIPHER_SPEC, b"\1", 0x0304),
        "finished_of_tls_11": lambda c: CHANGE + flip(c.seal(c.finished), 2),
    },
    ("malformed alert", "decode_error"): {
        "alert_of_one_byte": lambda c: record(ALERT, b"\1"),
        "alert_of_one_byte_later": lambda c: CHANGE + c.seal(b"\1", ALERT),
    },
    ("malformed alert", "illegal_parameter", "user_canceled"): {
        "alert_of_level_3": lambda c: record(ALERT, b"\3\x5a"),
        "alert_of_level_3_later": lambda c: CHANGE + c.seal(b"\3\x5a", ALERT),
    },
    ("too many warning alerts", UNEXPECTED, "user_canceled"): {
        "endless_warnings": lambda c: PLAIN_WARNING * 6,
        "endless_warnings_later": lambda c: (PLAIN_WARNING * 3 + CHANGE +
                                             many(lambda warning: c.seal(warning, ALERT), WARNING * 3, 2)),
    },
    ("bad ChangeCipherSpec", "decode_error"): {
        "change_to_2": lambda c: record(CHANGE_CIPHER_SPEC, b"\2"),
        "change_of_two": lambda c: record(CHANGE_CIPHER_SPEC, b"\1\1"),
    },
    ("bad Finished", "decrypt_error"): {
        "first_bit": lambda c: CHANGE + c.seal(flip(c.finished, 4)),
        "last_bit": lambda c: CHANGE + c.seal(flip(c.finished, -1)),
        "zeros": lambda c: CHANGE + c.seal(c.finished[:4] + bytes(12)),
        "finished_of_the_server": lambda c: CHANGE + c.seal(c.own),
    },
    ("bad length of Finished", "decode_error"): {
        "finished_too_short": lambda c: CHANGE + c.seal(b"\x14\0\0\x0b" + c.finished[4:15]),
        "finished_too_long": lambda c: CHANGE + c.seal(b"\x14\0\0\x20" + c.finished[4:] + bytes(20)),
        "finished_without_data": lambda c: CHANGE + c.seal(b"\x14\0\0\0"),
    },
    ("record does not authenticate", "bad_record_mac"): {
        "finished_not_protected": lambda c: CHANGE + plain(c.finished),
        "alert_not_protected": lambda c: CHANGE + record(ALERT, b"\2\x28"),
        "damaged": lambda c: CHANGE + flip(c.seal(c.finished), 30),
        "damaged_tag": lambda c: CHANGE + flip(c.seal(c.finished), -1),
        "other_type": lambda c: CHANGE + flip(c.seal(c.finished), 0),
        "wrong_number": lambda c: CHANGE + (c.seal(b"") and c.seal(c.finished)),
        "records_of_the_server": lambda c: CHANGE + plain(c.sealed),
    },
}
BAD = {name: (make, *why) for why, group in REFUSED.items() for name, make in group.items()}


@pytest.mark.parametrize("name", BAD)
def test_bad(ser, certs, name):
    make, reason, *alerts = BAD[name]
    met = meet(ser, certs)
    with asked(ser, 1), Resuming(ser, met) as client:
        got = client.put(make(client)).alert()
        client.fails(reason, **dict(zip(("alert_sent", "alert_received"), alerts)))
    assert got == alerts[0] or got is None and "oversized" in name  # a reset may overtake it if much is unread
    resumes(ser, client)


@pytest.mark.parametrize("suite", AEAD[1:])
@pytest.mark.parametrize("name", ["change_to_2", "last_bit", "damaged"])
def test_bad_with_other_suites(ser, certs, shape, suite, name):
    make, reason, alert = BAD[name]
    with Resuming(ser, meet(ser, certs, shape, ciphers=f"ECDHE-ECDSA-{suite}")) as client:
        assert client.put(make(client)).alert() == alert
        line = ser.wait_failure(client.port)
        assert (line["reason"], line["alert_sent"]) == (reason, alert), line


@pytest.mark.parametrize("at", range(4, 16))
def test_every_byte_of_the_finished_counts(ser, certs, at):
    with Resuming(ser, meet(ser, certs)) as client:
        assert client.put(CHANGE, client.seal(flip(client.finished, at))).alert() == "decrypt_error"
        client.fails("bad Finished", alert_sent="decrypt_error")


def test_the_messages_of_another_connection(ser, certs, shape):
    """Of the same session, and so with the same master secret."""
    met = meet(ser, certs, shape)
    with Resuming(ser, met) as one, Resuming(ser, met) as two, Resuming(ser, met) as three:
        assert two.put(one.flight).alert() == "bad_record_mac"
        assert three.put(CHANGE, three.seal(one.finished)).alert() == "decrypt_error"
        one.answer().talks()


# Where OpenSSL, which reads what follows a ClientHello with more in its packet, says something else; None: it goes on.
OPENSSL: dict[str, str | None] = {
    "plain_sip": "protocol_version", "oversized_finished": "bad_record_mac",
    **dict.fromkeys(["alert_of_one_byte", "alert_of_one_byte_later", "alert_of_level_3_later", "change_to_2",
                     "change_of_two"], UNEXPECTED),
    **dict.fromkeys(["change_twice", "change_inside", "finished_not_protected", "alert_not_protected"],
                    "internal_error"),
    **dict.fromkeys(["data_after_finished", "empty", "empty_change", "empty_finished"]),
}


@pytest.mark.parametrize("name", [name for name in BAD if OPENSSL.get(name, "the same")])
def test_bad_for_the_engine(ser, certs, name):
    make, _, *alerts = BAD[name]
    with Resuming(ser, meet(ser, certs)) as client:
        first = make(client)[:1]
    ser.wait_connections(0)
    with Resuming(ser, meet(ser, certs), put=lambda sock, hello: sock.sendall(hello + first), engine=1) as client:
        got = client.put(make(client)[1:]).alert()
        line = ser.wait_failure(client.port)
    assert line["alert_sent"] == OPENSSL.get(name, alerts[0]) and got in (line["alert_sent"], None), (line, got)


# -- clients that give up ----------------------------------------------------------------------------

STEPS = {
    "first": lambda c: b"",
    "in_change_cipher_spec": lambda c: CHANGE[:5],
    "after_change_cipher_spec": lambda c: CHANGE,
    "in_a_record": lambda c: CHANGE + c.seal(c.finished)[:20],
    "in_finished": lambda c: CHANGE + c.seal(c.finished[:9]),
}


@pytest.mark.parametrize("alert", [b"\1\0", b"\2\0", b"\2\x2a", b"\2\x33"],
                         ids=["close_notify", "fatal_close_notify", "bad_certificate", "decrypt_error"])
@pytest.mark.parametrize("step", ["first", "after_change_cipher_spec"])
def test_the_client_refuses(ser, certs, shape, step, alert):
    met = meet(ser, certs, shape)
    with asked(ser, 1), Resuming(ser, met) as client:
        client.put(STEPS[step](client))
        client.put(client.seal(alert, ALERT) if "cipher" in step else record(ALERT, alert))
        assert client.alert() is None
        client.fails(PEER, alert_received=ALERT_NAMES[alert[1]])
    resumes(ser, client)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("end", ["fin", "rst"])
def test_the_client_leaves(ser, certs, shape, end, step):
    met = meet(ser, certs, shape)
    with asked(ser, 1), Resuming(ser, met) as client:
        client.put(STEPS[step](client))
        time.sleep(0.05)
        getattr(client.raw, end)()
        client.fails(CLOSED)
    resumes(ser, client)


@pytest.mark.parametrize("step", STEPS)
def test_the_client_falls_silent(ser, certs, shape, step):
    met = meet(ser, certs, shape)
    with asked(ser, 1), Resuming(ser, met) as client:
        client.put(STEPS[step](client))
        assert read_all(client.raw.sock, 9) == (b"", True)
        client.fails(LATE)
    resumes(ser, client)


def test_warnings_do_not_prolong_it(ser, certs):
    with Resuming(ser, meet(ser, certs)) as client:
        start = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in PLAIN_WARNING * 2 + CHANGE:
                client.put(bytes([byte]))
                time.sleep(0.3)
        assert time.monotonic() - start < 6.5
        client.fails(LATE)


def test_a_request_of_a_client_that_has_gone(ser, certs):
    """It came before the end, so it is served."""
    with Resuming(ser, meet(ser, certs)) as client:
        ask = client.raw.build("REGISTER", to=f"<sip:gone@{DOMAIN}>", headers=["Expires: 60"])
        client.put(CHANGE, client.seal(client.finished), client.seal(ask, APPLICATION), client.seal(b"\1\0", ALERT))
    wait_until(lambda: f"127.0.0.1:{client.port}" in str(ser.rpc("ul.dump")), 5, "the contact")
    assert ser.established(client.port)[0]["resumed"] == "yes" and not ser.failures(client.port)


# -- meanwhile ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 4, 6, 40])
def test_what_waits_is_sent_after_it(ser, certs, shape, cut):
    """A request that a route sends to the client while its last messages are missing."""
    with Resuming(ser, meet(ser, certs, shape)) as client, UdpClient(ser.udp_port) as caller:
        client.put(client.flight[:cut])
        uri = f"sip:127.0.0.1:{client.port};transport=tls"
        caller.send(caller.build("OPTIONS", uri, call_id="while-waiting"))
        wait_until(lambda: int(ser.rpc("tls.info")["clear_text_write_queued_bytes"]) > 0, 5, "the request to wait")
        client.raw.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.raw.sock.recv(1)
        client.put(client.flight[cut:])
        assert client.raw.recv().call_id == "while-waiting"


def test_what_waits_is_not_sent_to_a_client_that_fails(ser, certs):
    with Resuming(ser, meet(ser, certs)) as client, UdpClient(ser.udp_port) as caller:
        caller.send(caller.build("OPTIONS", f"sip:127.0.0.1:{client.port};transport=tls"))
        wait_until(lambda: int(ser.rpc("tls.info")["clear_text_write_queued_bytes"]) > 0, 5, "the request to wait")
        assert client.put(BAD["last_bit"][0](client)).alert() == "decrypt_error"
        client.fails("bad Finished", alert_sent="decrypt_error")
    wait_until(lambda: int(ser.rpc("tls.info")["clear_text_write_queued_bytes"]) == 0, 5, "the request to be dropped")


def test_a_half_open_handshake_keeps_nothing(pool, certs, shape):
    """Nor does one that ends; what it had in shared memory is used again."""
    ser = pool.fresh(tls=certs.server_params(**CACHE), readers=2).start()
    met = meet(ser, certs, shape)

    def some() -> int:
        with asked(ser, 40), contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Resuming(ser, met)) for _ in range(40)]
            for client in clients[::2]:
                client.answer().talks()
            for client in clients[1::4]:
                client.put(BAD["last_bit"][0](client)).fails("bad Finished", alert_sent="decrypt_error")
        resumes(ser, client)
        ser.wait_connections(0)
        return ser.shm_used()

    used = some()
    wait_until(lambda: some() <= used + 4096, 5, "no more shared memory to be used")


def test_a_reload_meanwhile(pool, certs, shape):
    """The domain is gone and another one is new, but the connection is the old one's; so is its session."""
    ser = site(pool, certs, fresh=True, cfg="".join(one_domain(certs, DOMAIN)), tls=CACHE)
    with Resuming(ser, meet(ser, certs, shape)) as client:
        replace_domain(ser, certs)
        assert client.answer().talks()["domain"] == f"server:any {DOMAIN}"
        assert ser.rpc("tls.list")[0]["dom"] == f"TLSs<any:{DOMAIN}>"
    load(ser, *one_domain(certs, DOMAIN))
    assert resumes(ser, client)["domain"] == f"server:any {DOMAIN}"


def test_many_at_once(pool, certs, shape):
    """Half of them are right; no reader takes one for the other, although all have one master secret."""
    ser = pool.fresh(tls=certs.server_params(**CACHE), readers=4).start()
    met = meet(ser, certs, shape)

    def attempt(turn: int, right: bool) -> bool:
        with Resuming(ser, met, engine=None) as client:
            if not right:
                bad = CHANGE + client.seal(flip(client.finished, 4 + turn))
                return client.put(bad).alert() == "decrypt_error"
            client.answer().talks()
        return True

    wrong = half_wrong(attempt)
    assert not wrong and len(ser.failures()) == 36 and len(ser.established()) == 36 + 1


# -- the session -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", AEAD)
def test_a_session_resumes_again_and_again(ser, certs, shape, suite):
    """Also while others resume it that never end, or that fail."""
    met = meet(ser, certs, shape, ciphers=f"ECDHE-ECDSA-{suite}")
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Resuming(ser, met))
            failing = stack.enter_context(Resuming(ser, met))
            assert failing.put(BAD["last_bit"][0](failing)).alert() == "decrypt_error"
            stack.enter_context(Resuming(ser, met)).answer().talks()


def test_a_session_id_that_the_engine_has_seen_fail(ser, certs):
    """OpenSSL forgets it, as RFC 5246 section 7.2.2 says; in a connection that is read elsewhere it lives on."""
    met = meet(ser, certs, NO_TICKET)
    for put, engine, name in ((socket.socket.sendall, 0, "the reader"),
                              (lambda sock, hello: sock.sendall(hello + CHANGE[:1]), 1, "the engine")):
        with Resuming(ser, met, put=put, engine=engine) as client:
            bad = CHANGE + client.seal(flip(client.finished, -1))
            assert client.put(bad[engine:]).alert() == "decrypt_error"
        ser.wait_connections(0)
        with RawTls(ser.tls_port, met.context, session=met.session).handshake() as again:
            assert again.ssl.session_reused == (name == "the reader") and again.ask().status == 200


def test_a_ticket_for_who_resumed_by_session_id(ser, certs):
    """And never had one: it comes before SER's ChangeCipherSpec and is part of what the Finished is about."""
    met = meet(ser, certs, NO_TICKET)
    met.context.options &= ~ssl.OP_NO_TICKET
    with asked(ser, 1), Resuming(ser, met) as client:
        assert [message[0] for _, message in client.messages] == [2, TICKET]
        client.answer().talks()
        assert client.raw.ssl.session.has_ticket
    resumes(ser, client)


@pytest.mark.parametrize("suite", AEAD)
def test_a_ticket_of_an_older_key(pool, certs, suite):
    """A new one comes with SER's messages, which resumes when the old key is gone."""
    old, new = make_keys(2)
    ser, = cluster(pool, certs, [old])
    load(ser, base(certs))
    met = meet(ser, certs, ciphers=f"ECDHE-ECDSA-{suite}")
    put_keys(ser, new, old)
    load(ser, base(certs))
    for good in (False, True):
        with asked(ser, 1), Resuming(ser, met) as client:
            assert [message[0] for _, message in client.messages] == [2, TICKET]
            if good:
                client.answer().talks()
            else:
                assert client.put(BAD["first_bit"][0](client)).alert() == "decrypt_error"
    put_keys(ser, new)
    load(ser, base(certs))
    with Resuming(ser, met._replace(session=client.raw.ssl.session)) as again:
        assert [message[0] for _, message in again.messages] == [2]
        again.answer().talks()
    with RawTls(ser.tls_port, met.context, session=met.session).handshake() as other:
        assert not other.ssl.session_reused and other.ask().status == 200


def test_a_client_with_a_certificate(pool, certs, shape):
    """It is asked for none when it resumes, and stays who it was."""
    pair = Pair(certs)
    ser = pool.get(tls=_params(pair, certs) | CACHE, route=ASK, core=WIDE)
    context = certs.client_context(verify=False, **ONLY_12)
    context.load_cert_chain(*pair.files["peer"])
    if shape:
        shape(context)
    rows = _as_variables(certificate_rows(pair, "peer")) | certificate_variables(pair, "peer") | {
        "$tls_peer_verified": "1", "$sel(tls.peer.verified_cert_chain[0])": pair.pem["peer"],
        "$sel(tls.peer.verified_cert_chain[1])": NULL}
    with TlsClient(ser.tls_port, context) as client:
        client.ask()
        session = client.tls.session
    ser.wait_connections(0)
    with asked(ser, 1), RawTls(ser.tls_port, context, session=session) as raw:
        _, flight = half_open(raw)
        held(ser, 0)
        raw.sock.sendall(flight)
        assert raw.complete and raw.ssl.session_reused
        ask_all(raw, rows)
        line = ser.wait_established(raw.local_port)
    assert (line["resumed"], line["verified"]) == ("yes", "yes"), line


# -- who is not read so ------------------------------------------------------------------------------

HELD = {
    "cbc": {"ciphers": CBC},
    "ccm": {"ciphers": "ECDHE-ECDSA-AES128-CCM:@SECLEVEL=0"},
    "tls_11": {"low": V.TLSv1_1, "high": V.TLSv1_1, "legacy": True},
}


@pytest.mark.parametrize("name", HELD)
def test_others(pool, certs, name, shape):
    """The engine holds what they have begun; it ends and fails as ever."""
    ser = pool.get(tls=certs.server_params(**ANY_SUITE, **CACHE, tls_method="TLSv1.0+"))
    met = meet(ser, certs, shape, **HELD[name])
    for bad in (False, True):
        with RawTls(ser.tls_port, met.context, session=met.session) as raw:
            _, flight = half_open(raw)
            assert raw.ssl.session_reused
            held(ser, 1)
            raw.sock.sendall(flip(flight, -1) if bad else flight)
            if bad:
                assert ser.wait_failure(raw.local_port)["alert_sent"] == "bad_record_mac"
                continue
            raw.send(raw.build())
            assert raw.recv().status == 200
            assert ser.wait_established(raw.local_port)["resumed"] == "yes"
        ser.wait_connections(0)


def test_small_records(pool, certs, tmp_path):
    """OpenSSL makes them for as long as the connection lives."""
    ser, kept = pool.get(tls=certs.server_params()), tmp_path / "session"
    for way, engine, expected in (("-sess_out", [], "New"), ("-sess_in", [], "Reused")):
        with openssl_client(ser.tls_port, certs, "-tls1_2", "-maxfraglen", "512", way, kept) as tool:
            tool.wait_for(f"^{expected}, TLSv1.2")
            held(ser, 1)
            tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
            tool.wait_for(r"SIP/2\.0 200 OK")
            wait_until(kept.exists, 5, "the file of the session")
            tool.finish()
        ser.wait_connections(0)


@pytest.mark.parametrize("part", [1, 3, 5, 6])
def test_more_than_the_client_hello(ser, certs, shape, part):
    """Of the ChangeCipherSpec so much comes with it, so the engine waits for the rest."""
    with Resuming(ser, meet(ser, certs, shape), put=lambda sock, hello: sock.sendall(hello + CHANGE[:part]),
                  engine=1) as client:
        client.put(client.flight[part:10])
        time.sleep(0.05)
        client.write.sequence = 1
        client.put(client.flight[10:]).talks()
    resumes(ser, client)


def test_a_warning_with_the_client_hello(ser, certs, shape):
    """A whole record, which the engine has taken: it goes on with the next."""
    with Resuming(ser, meet(ser, certs, shape), put=lambda sock, hello: sock.sendall(hello + PLAIN_WARNING),
                  engine=1) as client:
        client.answer().talks()


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("begin", [b"\x14", b"\x14\0\0", b"\x10", b"\xff\xff\xff", b"\0"])
def test_a_message_that_has_begun(ser, certs, shape, begin, goes_on):
    """In the record of the ClientHello, where a part of it stays with OpenSSL; the same again with a packet that the
    engine has to wait for."""
    found = []
    for more in (b"", CHANGE[:1]):
        def put(sock, hello):
            behind(begin)(sock, hello)
            sock.sendall(more)

        with Resuming(ser, meet(ser, certs, shape), put=put, engine=1) as client:
            rest = client.finished[len(begin) if goes_on else 0:]
            assert client.put(CHANGE[len(more):], client.seal(rest)).alert() == UNEXPECTED
            line = ser.wait_failure(client.port)
            found.append((line["reason"], line["alert_sent"]))
            assert not ser.established(client.port)
        held(ser, 0)
    assert found[0] == found[1]


# -- a key log ---------------------------------------------------------------------------------------


def test_a_key_log(pool, certs, shape):
    """It has a connection's secret once, when SER's Finished is sent, and the engine is asked no more often."""
    ser = pool.fresh(tls=certs.server_params(**KEY_LOG, **CACHE)).start()
    keys = ser.dir / "keys"
    met = meet(ser, certs, shape)
    seen = []
    for good in (True, False, True):
        mark = len(keys.read_text())
        with asked(ser, 1), Resuming(ser, met) as client:
            wait_until(lambda: "CLIENT_RANDOM" in keys.read_text()[mark:], 5, "the secret")
            if good:
                client.answer().talks()
            else:
                assert client.put(BAD["last_bit"][0](client)).alert() == "decrypt_error"
        lines = [line for line in keys.read_text()[mark:].splitlines() if not line.startswith("#")]
        assert lines == [f"CLIENT_RANDOM {client.random.hex()} {met.master.hex()}"]
        seen.append(client.random)
    assert len(set(seen)) == 3


# -- other people's programs -------------------------------------------------------------------------


@pytest.mark.parametrize("times,more", [(6, ()), (7, ("-no_ticket",))], ids=["ticket", "id"])
def test_openssl_reconnects(ser, certs, times, more):
    """One handshake, which takes two requests if it makes a session id, and five that resume it."""
    with asked(ser, times), openssl_client(ser.tls_port, certs, "-tls1_2", "-reconnect", *more) as tool:
        tool.wait_for(r"(?:^Reused, TLSv1\.2(?s:.*?)){5}")
        tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
        tool.wait_for(r"SIP/2\.0 200 OK")
    assert sum(line["resumed"] == "yes" for line in ser.established()) == 5
