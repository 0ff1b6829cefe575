# SPDX-License-Identifier: ISC
"""Key updates of TLS 1.3: asked for by the peer, made by the peer, and the module's own."""
from __future__ import annotations

import time

import pytest

from clients import HANDSHAKE, Records13, gnutls_client, openssl_client, request, sized_request

SUITES = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
WIDE = "tcp_rd_buf_size=65536\ntcp_conn_wq_max=1048576"


@pytest.fixture(params=SUITES)
def ser(request, pool, certs):
    return pool.get(tls=certs.server_params(cipher_list=request.param), core=WIDE)


@pytest.fixture
def client(ser, certs):
    with Records13(ser.tls_port, certs.client_context) as one:
        yield one


def test_of_the_peer(client):
    for turn in range(4):
        client.sock.sendall(client.key_update(False))
        assert client.ask().status == 200, f"turn {turn}"
    assert client.key_updates == []


def test_asked_for_by_the_peer(client):
    """SER answers with one of its own (update_not_requested) before it sends anything else."""
    for turn in range(4):
        client.sock.sendall(client.key_update(True))
        assert client.ask().status == 200
        assert client.key_updates == [0] * (turn + 1)


def test_in_one_segment_with_requests(client):
    data = b""
    for n in range(1, 11):
        data += client.write.seal(23, client.build(uri=client.ser_uri, cseq=n)) + client.key_update(n % 2 == 0)
    client.sock.sendall(data)
    for n in range(1, 11):
        assert client.recv().get("CSeq") == f"{n} OPTIONS"
    assert client.ask().status == 200
    assert 1 <= len(client.key_updates) <= 5


def test_in_the_middle_of_a_message(client):
    message = client.build(uri=client.ser_uri)
    data = client.write.seal(23, message[:60]) + client.key_update(True) + client.write.seal(23, message[60:])
    client.sock.sendall(data)
    assert client.recv().status == 200 and client.key_updates == [0]


def test_cut_at_every_byte(client):
    for at in range(1, 27):
        data = client.key_update(False)
        client.sock.sendall(data[:at])
        time.sleep(0.001)
        client.sock.sendall(data[at:])
        assert client.ask().status == 200, f"cut at {at}"


def test_old_key_after_the_update_is_refused(client, ser):
    old = client.write
    data = old.seal(HANDSHAKE, bytes([24, 0, 0, 1, 0]))
    client.sock.sendall(data + old.seal(23, client.build(uri=client.ser_uri)))
    assert client.closed_by_ser() and client.alerts == ["bad_record_mac"]
    assert ser.wait_failure(client.local_port)["alert_sent"] == "bad_record_mac"


@pytest.mark.parametrize("every", [1, 2, 7])
def test_our_own(pool, certs, every):
    """After as many records as the parameter says; the peer is not asked for one."""
    ser = pool.get(tls=certs.server_params(key_update_records=every), core=WIDE)
    with Records13(ser.tls_port, certs.client_context) as client:
        for _ in range(40):
            assert client.ask().status == 200
        assert len(client.key_updates) >= 40 // every - 2
        assert len(client.key_updates) <= 40 // every + 4
        assert set(client.key_updates) == {0}
        message = sized_request(client.ser_uri, 60000, echo=True, via=client.local)
        client.send(message)
        assert client.recv().body == message.partition(b"\r\n\r\n")[2]


def test_our_own_and_the_peers_at_once(pool, certs):
    ser = pool.get(tls=certs.server_params(key_update_records=3), core=WIDE)
    with Records13(ser.tls_port, certs.client_context) as client:
        for n in range(40):
            if n % 2:
                client.sock.sendall(client.key_update(n % 4 == 1))
            assert client.ask().status == 200
        # An answer to the peer's update is a new key too, and its count begins anew.
        assert len(client.key_updates) >= 15


def test_not_without_need(client):
    """By default no message of a test's length needs another key."""
    for _ in range(50):
        assert client.ask().status == 200
    assert client.key_updates == []


@pytest.mark.parametrize("command,updates", [(b"k\n", 0), (b"K\n", 1)])
def test_openssl_s_client(ser, certs, command, updates):
    with openssl_client(ser.tls_port, certs, "-tls1_3", "-msg") as tool:
        tool.wait_for("Verify return code: 0")
        for turn in range(3):
            since = len(tool.text)
            tool.write(command)
            tool.wait_for("KEYUPDATE")
            time.sleep(0.1)  # what s_client reads next is data again
            tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
            tool.wait_for(r"SIP/2\.0 200 OK", since=since)
        assert tool.text.count("<<< TLS 1.3, Handshake [length 0005], KeyUpdate") == 3 * updates


@pytest.mark.parametrize("command", [b"^rekey^\n", b"^rekey1^\n"])
def test_gnutls_cli(ser, certs, command):
    with gnutls_client(ser.tls_port, certs, "--inline-commands", "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3") as tool:
        tool.wait_for("Handshake was completed")
        for _ in range(3):
            since = len(tool.text)
            tool.write(command)
            time.sleep(0.1)
            tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
            tool.wait_for(r"SIP/2\.0 200 OK", since=since)


def test_gnutls_cli_follows_our_own(pool, certs):
    ser = pool.get(tls=certs.server_params(key_update_records=1), core=WIDE)
    with gnutls_client(ser.tls_port, certs, "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3") as tool:
        tool.wait_for("Handshake was completed")
        for _ in range(5):
            since = len(tool.text)
            tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
            tool.wait_for(r"SIP/2\.0 200 OK", since=since)
