# SPDX-License-Identifier: ISC
"""TLS compression (RFC 3749): off unless asked for, works with peers that have it, refuses what abuses it.

No TLS library of Debian brings it any more, so the clients are OpenSSL with the module's own method; what is
on the wire is read with Python's zlib.
"""
from __future__ import annotations

import ctypes
import re
import secrets
import ssl
import subprocess
import zlib
from pathlib import Path

import pytest

from certs import V
from clients import Endpoint, RawTls, TlsClient, UdpClient, failed_handshake, sized_request, split_records
from ser import ASAN, TOP, wait_until

HONEST, CORRUPT, BOMB, SLOW_BOMB, END, DICTIONARY = range(6)

HANDSHAKE, APPLICATION = 22, 23
SERVER_HELLO = 2


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """The method in this process's OpenSSL. The module ssl offers it only when a context says so."""
    target = tmp_path_factory.mktemp("peer") / "zlib_peer.so"
    source = Path(__file__).with_name("zlib_peer.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", f"-I{TOP}", "-o", target, source,
                    "-lssl", "-lcrypto", "-lz"], check=True)
    library = ctypes.CDLL(str(target))
    assert library.peer_install() == 0
    yield library
    library.peer_set_mode(HONEST)


@pytest.fixture(autouse=True)
def honest(peer):
    peer.peer_set_mode(HONEST)


def squeeze(context: ssl.SSLContext) -> ssl.SSLContext:
    context.options &= ~ssl.OP_NO_COMPRESSION
    return context


def client_context(certs, ciphers: str = "ALL:@SECLEVEL=0", **more) -> ssl.SSLContext:
    return squeeze(certs.client_context(ciphers=ciphers, **({"high": V.TLSv1_2} | more)))


@pytest.fixture
def ser(pool, certs):
    return pool.get(tls=certs.server_params(tls_disable_compression=0))


def row_of(ser, client) -> dict:
    rows = ser.rpc("tls.list")
    rows = rows if isinstance(rows, list) else [rows]
    return next(row for row in rows if row["src_port"] == client.local_port)


def ratio(ser, client) -> float:
    text = row_of(ser, client)["compression"]
    assert text.startswith("zlib "), text
    return float(text.split()[1])


def test_off_by_default(pool, certs):
    ser = pool.get(tls=certs.server_params())
    with TlsClient(ser.tls_port, client_context(certs)) as client:
        assert client.ask().status == 200
        assert client.tls.compression() is None
        assert ser.wait_established(client.local_port)["path"] == "fast"
        assert row_of(ser, client)["compression"] == "none"
    assert "1468" not in ser.rpc("tls.info")["workarounds"].split(", ")


@pytest.mark.parametrize("name,ciphers", [("aead", "ECDHE+AESGCM:@SECLEVEL=0"),
                                          ("chacha", "ECDHE+CHACHA20:@SECLEVEL=0")])
def test_sip_with_a_peer_that_compresses(ser, certs, name, ciphers):
    """At the library's own security level, which is 2 on Debian and would forbid it."""
    with TlsClient(ser.tls_port, client_context(certs, ciphers)) as client:
        assert client.tls.compression() == "ZLIB"
        for _ in range(20):
            assert client.ask().status == 200
        assert ser.wait_established(client.local_port)["path"] == "engine"
        assert ratio(ser, client) > 3
    assert "1468" in ser.rpc("tls.info")["workarounds"].split(", ")


@pytest.mark.parametrize("version", [V.TLSv1, V.TLSv1_1, V.TLSv1_2])
def test_cbc_of_every_version(pool, certs, version):
    ser = pool.get(tls=certs.server_params(tls_disable_compression=0, tls_method="TLSv1.0+",
                                           cipher_list="ALL:@SECLEVEL=0"))
    context = client_context(certs, "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0", low=version, high=version)
    with TlsClient(ser.tls_port, context) as client:
        assert client.tls.compression() == "ZLIB"
        for _ in range(5):
            assert client.ask().status == 200
        assert ratio(ser, client) > 2


def test_tls_1_3_never_compresses(ser, certs):
    with TlsClient(ser.tls_port, client_context(certs, high=None)) as client:
        assert client.version() == "TLSv1.3" and client.tls.compression() is None
        assert client.ask().status == 200
        assert ser.wait_established(client.local_port)["path"] == "fast"
        assert row_of(ser, client)["compression"] == "none"


def test_a_client_without_it_is_served(ser, certs):
    with TlsClient(ser.tls_port, certs.client_context(high=V.TLSv1_2)) as client:
        assert client.tls.compression() is None
        assert client.ask().status == 200
        assert ser.wait_established(client.local_port)["path"] == "fast"


def test_the_security_level_stays(pool, certs):
    """Level 2 refuses TLS 1.0 and SHA-1, with compression as without."""
    ser = pool.get(tls=certs.server_params(tls_disable_compression=0,
                                           cipher_list="ECDHE-ECDSA-AES128-SHA:@SECLEVEL=2"))
    context = client_context(certs, "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    context.maximum_version = context.minimum_version = V.TLSv1_1
    failed_handshake(ser.tls_port, context)


def test_the_wire(pool, certs):
    """With a suite that does not encrypt, an independent zlib reads what SER sent."""
    suite = "ECDHE-ECDSA-NULL-SHA:@SECLEVEL=0"
    ser = pool.get(tls=certs.server_params(tls_disable_compression=0, cipher_list=suite))
    with RawTls(ser.tls_port, client_context(certs, suite)) as client:
        hello = client.flight()
        session_id = hello[5 + 38]
        suites_at = 5 + 39 + session_id
        methods_at = suites_at + 2 + int.from_bytes(hello[suites_at:suites_at + 2], "big")
        assert 1 in hello[methods_at + 1:methods_at + 1 + hello[methods_at]], "the client offers it"
        client.sock.sendall(hello)
        client.handshake()
        for _ in range(4):
            assert client.ask().status == 200
        records = split_records(bytes(client.wire_in))
        server_hello = next(p for kind, p in records if kind == HANDSHAKE and p[0] == SERVER_HELLO)
        assert server_hello[4 + 2 + 32 + 1 + server_hello[38] + 2] == 1, "the server chose zlib"
        ccs = next(i for i, (kind, _) in enumerate(records) if kind == 20)
        reader, clear = zlib.decompressobj(), []
        for kind, payload in records[ccs + 1:]:
            clear.append((kind, reader.decompress(payload[:-20]), len(payload) - 20))
        assert clear[0][0] == HANDSHAKE and clear[0][1][:4] == b"\x14\x00\x00\x0c"  # Finished
        messages = [(text, size) for kind, text, size in clear if kind == APPLICATION]
        assert messages and all(text.startswith(b"SIP/2.0 ") for text, _ in messages)
        for text, size in messages[1:]:
            assert size < len(text) / 3, f"{len(text)} bytes became {size}"


def test_large_messages(pool, certs):
    ser = pool.get(tls=certs.server_params(tls_disable_compression=0), core="tcp_rd_buf_size=65536")
    with TlsClient(ser.tls_port, client_context(certs)) as client:
        for size in (1000, 16384, 40000):
            client.send(sized_request(client.ser_uri, size, echo=True, transport="TLS", via=client.local))
            assert client.recv().status == 200
        assert ratio(ser, client) > 2


def test_resumption(ser, certs):
    context = client_context(certs)
    with TlsClient(ser.tls_port, context) as client:
        assert client.ask().status == 200
        session = client.tls.session
    with TlsClient(ser.tls_port, context, session=session) as client:
        assert client.tls.session_reused and client.tls.compression() == "ZLIB"
        assert client.ask().status == 200
        assert ser.wait_established(client.local_port)["resumed"] == "yes"
        assert ratio(ser, client) > 1


def test_a_compressed_session_where_it_is_off(pool, certs):
    """Machines that share ticket keys may differ: a full handshake, not a refusal."""
    files = {"tickets.keys": secrets.token_hex(64) + "\n"}
    on, off = (pool.fresh(tls=certs.server_params(tls_disable_compression=value, session_ticket_keys="tickets.keys"),
                          files=files).start() for value in (0, 1))
    context = client_context(certs)
    with TlsClient(on.tls_port, context) as client:
        assert client.ask().status == 200
        session = client.tls.session
    with TlsClient(off.tls_port, context, session=session) as client:
        assert not client.tls.session_reused and client.tls.compression() is None
        assert client.ask().status == 200


def test_as_a_client(pool, certs):
    """A ClientHello that offers TLS 1.3, too, must not offer compression: RFC 8446 section 4.1.2."""
    for method, want in (("TLSv1.2", "ZLIB"), ("TLSv1.2+", None)):
        ser = pool.get(tls=certs.server_params(tls_disable_compression=0, tls_method=method,
                                               ca_list=str(certs.calist)))
        context = squeeze(certs.server_context(high=V.TLSv1_2, ciphers="ALL:@SECLEVEL=0"))
        with Endpoint(context) as endpoint, UdpClient(ser.udp_port) as caller:
            for _ in range(5):
                assert caller.ask("OPTIONS", endpoint.uri).status == 200
            assert endpoint.arrivals[0].tls.compression() == want
            path = ser.wait_established(endpoint.port)["path"]
            assert path == ("engine" if want else "fast")


ABUSES = [
    ("corrupt", CORRUPT, "corrupt", 1),
    ("bomb", BOMB, "beyond the limit of a record", 1),
    ("slow_bomb", SLOW_BOMB, "grow without measure", 200),
    ("end_of_stream", END, "corrupt", 2),
]


def alert_of(client) -> str:
    try:
        while client.sock.recv(65536):
            pass
    except ssl.SSLError as problem:
        return str(problem)
    return "closed"


@pytest.mark.parametrize("name,mode,reason,records", ABUSES, ids=[a[0] for a in ABUSES])
def test_abuse_is_refused(pool, certs, peer, name, mode, reason, records):
    """One line, the right alert, and nobody else notices."""
    ser = pool.get(tls=certs.server_params(tls_disable_compression=0), core="tcp_rd_buf_size=2097152")
    before = ser.memory_kb(ser.engine_pid())
    with TlsClient(ser.tls_port, client_context(certs)) as other, \
            TlsClient(ser.tls_port, client_context(certs)) as client:
        assert client.ask().status == 200 and other.ask().status == 200
        peer.peer_set_mode(mode)
        try:
            for _ in range(records):
                client.tls.write(b"x" * 200)
        except OSError:
            pass  # refused before all were sent
        peer.peer_set_mode(HONEST)
        line = ser.wait_failure(client.local_port)
        assert reason in line["reason"], line
        assert line["alert_sent"] == "decompression_failure", line
        assert re.search("decompression.?failure|closed|reset|pipe", alert_of(client), re.I)
        assert other.ask().status == 200
    assert ASAN or ser.memory_kb(ser.engine_pid()) - before < 8 * 1024


@pytest.mark.parametrize("mode", [CORRUPT, DICTIONARY])
def test_abuse_in_the_handshake(ser, certs, peer, mode):
    """The client's Finished is the first compressed record."""
    peer.peer_set_mode(mode)
    port, problem = failed_handshake(ser.tls_port, client_context(certs))
    assert "decompression" in problem.lower().replace("_", " "), problem
    line = ser.wait_failure(port)
    assert line["alert_sent"] == "decompression_failure" and "corrupt" in line["reason"], line
    peer.peer_set_mode(HONEST)
    with TlsClient(ser.tls_port, client_context(certs)) as client:
        assert client.ask().status == 200


@pytest.mark.skipif(ASAN, reason="sanitizers keep freed memory and pad every piece")
def test_memory_of_a_connection(ser, certs):
    """In the engine, whose memory is its own: what the method promises, and OpenSSL's part."""
    count, context = 50, client_context(certs)
    clients = [TlsClient(ser.tls_port, context) for _ in range(5)]
    before = ser.memory_kb(ser.engine_pid())
    shm = ser.shm_used()
    clients += [TlsClient(ser.tls_port, context) for _ in range(count)]
    for client in clients:
        assert client.ask().status == 200
    grown = (ser.memory_kb(ser.engine_pid()) - before) / count
    shared = (ser.shm_used() - shm) / count
    for client in clients:
        client.close()
    assert grown < 250, f"{grown:.0f} KB of the engine for one connection"
    assert shared < 64 * 1024
    wait_until(lambda: ser.rpc("tls.info")["engine_sessions"] == 0, 5, "the sessions to end")


NO_METHODS = r"""
int SSL_COMP_add_compression_method(int id, void *method);
int SSL_COMP_add_compression_method(int id, void *method)
{
	(void)id;
	(void)method;
	return 1;
}
"""


def test_a_library_that_cannot(pool, certs, tmp_path):
    """Asked for and not to be had: SER does not start, unless it is forced to."""
    source, target = tmp_path / "none.c", tmp_path / "none.so"
    source.write_text(NO_METHODS)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", target, source], check=True)
    settings = {"preload": str(target)}
    log = pool.fresh(tls=certs.server_params(tls_disable_compression=0), **settings).start_failure()
    line = next(line for line in log.splitlines() if "tls_disable_compression" in line)
    for want in ("ERROR", "OpenSSL ", "zlib ", "no-comp", "set it to 1", "tls_force_run"):
        assert want in line, line
    ser = pool.fresh(tls=certs.server_params(tls_disable_compression=0, tls_force_run=1), **settings).start()
    ser.wait_log(r"WARNING.*tls_disable_compression: no compression is offered.*tls_force_run is set")
    with TlsClient(ser.tls_port, client_context(certs)) as client:
        assert client.tls.compression() is None and client.ask().status == 200
