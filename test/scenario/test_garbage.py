# SPDX-License-Identifier: ISC
"""What is not TLS, or not TLS as it should be: the right alert, one log line, and nobody else notices."""
from __future__ import annotations

import os
import random
import socket
import struct
import time

import pytest

from certs import DOMAIN, V
from clients import (ALERT, APPLICATION, CHANGE_CIPHER_SPEC, HANDSHAKE, RawTls, Records13, TIMEOUT, TlsClient,
                     clear_alerts, read_all, record, request, trickle)


@pytest.fixture
def ser(pool, certs):
    return pool.get(tls=certs.server_params(cipher_list="ALL:@SECLEVEL=0"))


@pytest.fixture(autouse=True)
def bystander(ser, certs):
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
        yield client
        assert client.ask().status == 200
        assert not ser.failures(client.local_port)


SSLV2_HELLO = bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + os.urandom(16)

# bytes -> alerts that SER may send (empty: none is sent because the peer cannot be expected to read it)
GARBAGE = {
    "plain_sip": (request(transport="TCP"), {"unexpected_message"}),
    "http": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", {"unexpected_message"}),
    "zeros": (bytes(200), {"unexpected_message"}),
    "high_bytes": (b"\xc1\xc2\xc3" + bytes(range(200)), {"unexpected_message"}),
    "wrong_record_version": (b"\x16\x05\x05\0\5hello", {"unexpected_message"}),
    "letters_behind_a_type": (b"\x16" + b"A" * 200, {"unexpected_message"}),
    "letters": (b"A" * 200, {"unexpected_message"}),
    "oversized_record": (record(HANDSHAKE, b"\1" * 16385 + bytes(3000)), {"record_overflow", "unexpected_message",
                                                                         "decode_error", "illegal_parameter"}),
    "record_of_65535": (b"\x16\x03\x01\xff\xff" + bytes(70000), {"record_overflow"}),
    "empty_handshake_record": (record(HANDSHAKE, b"") * 40, {"unexpected_message", "decode_error"}),
    "application_data_first": (record(APPLICATION, b"x" * 40), {"unexpected_message"}),
    "change_cipher_spec_first": (record(CHANGE_CIPHER_SPEC, b"\1") * 40, {"unexpected_message"}),
    "unknown_record_type": (record(99, b"x" * 40), {"unexpected_message"}),
    "hello_that_lies_about_its_length": (record(HANDSHAKE, b"\1\0\0\x20" + b"\3\3" + bytes(30)), {"decode_error"}),
    "server_hello_first": (record(HANDSHAKE, b"\2\0\0\x26\3\3" + bytes(36)), {"unexpected_message"}),
    "finished_first": (record(HANDSHAKE, b"\x14\0\0\x20" + bytes(32)), {"unexpected_message"}),
    "huge_hello": (record(HANDSHAKE, b"\1\xff\xff\xff\3\3" + bytes(16000)), {"illegal_parameter", "decode_error",
                                                                          "unexpected_message",
                                                                          "handshake_failure"}),
    "heartbeat": (record(24, b"\1\x40\0" + bytes(20)), {"unexpected_message"}),
    "sslv2_hello": (SSLV2_HELLO, {"unexpected_message", "protocol_version", "decode_error", "handshake_failure"}),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_instead_of_a_client_hello(ser, name):
    data, alerts = GARBAGE[name]
    with socket.create_connection(("127.0.0.1", ser.tls_port), TIMEOUT) as sock:
        port = sock.getsockname()[1]
        sock.sendall(data)
        wire, closed = read_all(sock)
    assert closed, "the connection stays open"
    sent = clear_alerts(wire)
    line = ser.wait_failure(port)
    assert line["role"] == "server" and line["local"] == f"127.0.0.1:{ser.tls_port}"
    assert line["reason"], line
    if sent:  # a reset may have overtaken the alert
        assert len(sent) == 1 and sent[0] in alerts, sent
        assert line["alert_sent"] == sent[0]
    else:
        assert wire == b""


@pytest.mark.parametrize("name", ["application_data_first", "high_bytes", "wrong_record_version", "letters",
                                  "letters_behind_a_type", "plain_sip", "http", "unknown_record_type"])
def test_an_alert_is_seen_on_the_wire(ser, name):
    """One that cannot be overtaken by a reset: SER has read all that was sent."""
    with socket.create_connection(("127.0.0.1", ser.tls_port), TIMEOUT) as sock:
        sock.sendall(GARBAGE[name][0])
        wire, closed = read_all(sock)
    assert closed and clear_alerts(wire) == ["unexpected_message"]


@pytest.mark.parametrize("before", [b"", b"\r\n\r\n"])
def test_the_line_says_how_it_began(ser, before):
    with socket.create_connection(("127.0.0.1", ser.tls_port), TIMEOUT) as sock:
        sock.sendall(before + request(transport="TCP"))
        line = ser.wait_failure(sock.getsockname()[1])
    assert line["reason"].startswith("not TLS: the connection starts with 'OPTIONS sip:"), line


@pytest.mark.parametrize("seed", range(30))
def test_random_bytes(ser, seed):
    rng = random.Random(seed)
    data = bytes(rng.randrange(256) for _ in range(rng.choice((5, 11, 100, 3000, 20000))))
    if seed % 3 == 0:  # behind a header that looks right
        data = b"\x16\x03\x01" + struct.pack("!H", min(len(data), 16384)) + data
    with socket.create_connection(("127.0.0.1", ser.tls_port), TIMEOUT) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # SER closed while we were sending
        assert read_all(sock)[1]


@pytest.mark.parametrize("high", [V.TLSv1_2, V.TLSv1_3], ids=lambda v: v.name)
@pytest.mark.parametrize("seed", range(12))
def test_damaged_handshake(ser, certs, high, seed):
    """One bit of one flight is wrong."""
    rng = random.Random(seed)
    context = certs.client_context(high=high)
    damaged = rng.randrange(2)
    with RawTls(ser.tls_port, context) as client:
        for turn in range(2):
            while not (flight := bytearray(client.flight())):
                client.feed()
            if turn == damaged:
                flight[rng.randrange(5, len(flight))] ^= 1 << rng.randrange(8)
            client.sock.sendall(flight)
            if turn == damaged:
                client.sock.shutdown(socket.SHUT_WR)
                break
        assert client.closed_by_ser()


@pytest.mark.parametrize("path", ["tls13", "tls12", "cbc"])
@pytest.mark.parametrize("where", ["header_type", "header_length", "body", "tag"])
def test_damaged_record(ser, certs, path, where):
    more = {"tls13": {}, "tls12": {"high": V.TLSv1_2},
            "cbc": {"high": V.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"}}[path]
    with RawTls(ser.tls_port, certs.client_context(**more)) as client:
        client.handshake()
        assert client.ask().status == 200
        data = bytearray(client.seal(client.build(uri=client.ser_uri)))
        if where == "header_length":
            data[3:5] = struct.pack("!H", 17000)
            data += bytes(17000)
        else:
            data[{"header_type": 0, "body": 30, "tag": -1}[where]] ^= 8
        client.sock.sendall(data)
        assert client.closed_by_ser()
    line = ser.wait_failure(client.local_port)
    want = {"header_length": {"record_overflow"}, "header_type": {"unexpected_message", "bad_record_mac"}}
    assert line["alert_sent"] in want.get(where, {"bad_record_mac"}), line
    assert line["domain"] == "server:default" and line["sni"] == DOMAIN


def test_alert_for_a_damaged_record_is_on_the_wire(ser, certs):
    client = Records13(ser.tls_port, certs.client_context)
    with client:
        assert client.ask().status == 200
        data = bytearray(client.write.seal(APPLICATION, b"OPTIONS"))
        data[-1] ^= 1
        client.sock.sendall(data)
        assert client.closed_by_ser()
        assert client.alerts == ["bad_record_mac"]


INNER = {
    "no_content_type": (0, b"", {"unexpected_message"}),
    "change_cipher_spec_inside": (CHANGE_CIPHER_SPEC, b"\1", {"unexpected_message"}),
    "unknown_type_inside": (77, b"abc", {"unexpected_message"}),
    "client_hello_inside": (HANDSHAKE, b"\1\0\0\2\3\3", {"unexpected_message"}),
    "finished_inside": (HANDSHAKE, b"\x14\0\0\x20" + bytes(32), {"unexpected_message"}),
    "new_session_ticket_from_the_client": (HANDSHAKE, b"\4\0\0\3abc", {"unexpected_message"}),
    "key_update_of_wrong_length": (HANDSHAKE, b"\x18\0\0\2\0\0", {"decode_error", "unexpected_message"}),
    "key_update_with_wrong_value": (HANDSHAKE, b"\x18\0\0\1\7", {"illegal_parameter", "decode_error"}),
    "key_update_with_more_behind": (HANDSHAKE, b"\x18\0\0\1\0\x18\0\0\1\0", {"unexpected_message"}),
    "alert_of_one_byte": (ALERT, b"\2", {"decode_error", "unexpected_message"}),
    "empty_handshake_record": (HANDSHAKE, b"", {"unexpected_message"}),
}


@pytest.mark.parametrize("name", INNER)
def test_what_must_not_be_in_a_protected_record(ser, certs, name):
    kind, payload, alerts = INNER[name]
    with Records13(ser.tls_port, certs.client_context) as client:
        assert client.ask().status == 200
        client.send_record(kind, payload)
        assert client.closed_by_ser()
        assert set(client.alerts) <= alerts and client.alerts, client.alerts
    assert ser.wait_failure(client.local_port)["alert_sent"] == client.alerts[0]


def test_too_big_inside(ser, certs):
    with Records13(ser.tls_port, certs.client_context) as client:
        client.send_record(APPLICATION, bytes(16385))
        assert client.closed_by_ser() and client.alerts == ["record_overflow"]


def test_clear_text_record_on_an_established_connection(ser, certs):
    with Records13(ser.tls_port, certs.client_context) as client:
        assert client.ask().status == 200
        client.sock.sendall(record(HANDSHAKE, b"\1\0\0\2\3\3"))
        assert client.closed_by_ser() and client.alerts == ["unexpected_message"]


def test_padding_and_empty_records_are_allowed(ser, certs):
    with Records13(ser.tls_port, certs.client_context) as client:
        data = client.build(uri=client.ser_uri)
        client.send_record(APPLICATION, b"")
        client.send_record(APPLICATION, data[:50], padding=1000)
        client.send_record(APPLICATION, b"", padding=16384)
        client.send_record(APPLICATION, data[50:], padding=1)
        assert client.recv().status == 200


def test_an_endless_row_of_empty_records_is_cut(ser, certs):
    with Records13(ser.tls_port, certs.client_context) as client:
        assert client.ask().status == 200
        try:
            for _ in range(2000):
                client.send_record(APPLICATION, b"")
        except OSError:
            pass
        assert client.closed_by_ser()
    assert ser.wait_failure(client.local_port)["reason"]


def test_an_endless_row_of_key_updates_is_cut(ser, certs):
    with Records13(ser.tls_port, certs.client_context) as client:
        assert client.ask().status == 200
        try:
            for _ in range(2000):
                client.sock.sendall(client.key_update(True))
        except OSError:
            pass
        assert client.closed_by_ser()
    assert ser.wait_failure(client.local_port)["reason"]


def test_post_handshake_message_in_pieces(ser, certs):
    """A KeyUpdate whose bytes stand in several records is legal before the key changes."""
    with Records13(ser.tls_port, certs.client_context) as client:
        assert client.ask().status == 200
        for byte in bytes([24, 0, 0, 1, 0]):
            client.send_record(HANDSHAKE, bytes([byte]))
        client.write.update()
        assert client.ask().status == 200


@pytest.mark.parametrize("alert", [b"\2\x2a", b"\2\x14", b"\1\x2a"])
def test_alert_of_the_peer(ser, certs, alert):
    """In TLS 1.3 every alert but two is fatal, whatever level it claims (RFC 8446, section 6)."""
    with Records13(ser.tls_port, certs.client_context) as client:
        assert client.ask().status == 200
        client.send_record(ALERT, alert)
        assert client.closed_by_ser()
        assert not [name for name in client.alerts if name != "close_notify"]
    line = ser.wait_failure(client.local_port)
    assert line["alert_received"] in ("bad_certificate", "bad_record_mac"), line
    assert "alert_sent" not in line


def test_user_canceled_is_a_warning(ser, certs):
    with Records13(ser.tls_port, certs.client_context) as client:
        assert client.ask().status == 200
        client.send_record(ALERT, b"\1\x5a")
        assert client.ask().status == 200


def test_endless_client_hello_is_cut_by_the_handshake_timeout(pool, certs):
    ser = pool.get(tls=certs.server_params(handshake_timeout=2))
    with socket.create_connection(("127.0.0.1", ser.tls_port), TIMEOUT) as sock:
        port = sock.getsockname()[1]
        start = time.monotonic()
        sock.sendall(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03")
        try:
            while time.monotonic() < start + 9:
                trickle(sock, b"\0", pause=0.05)
        except OSError:
            pass
        took = time.monotonic() - start
    assert 1.5 < took < 6, f"cut after {took:.1f} s"
    line = ser.wait_failure(port)
    assert "time" in line["reason"].lower() and line["role"] == "server"


def test_plain_tcp_listener_is_not_tls(ser, certs):
    with pytest.raises(OSError):
        TlsClient(ser.tcp_port, certs.client_context(), timeout=1)
