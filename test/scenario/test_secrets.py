# SPDX-License-Identifier: ISC
"""Private keys are in the memory of the process "tls engine" and of no other, those of an ended handshake nowhere."""
from __future__ import annotations

import base64
import os

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from certs import V
from clients import HANDSHAKE, Endpoint, RawTls, TlsClient, UdpClient, read_all, split_records
from test_key_exchange import ONLY_12, flip, half_open, held

CHUNK = 1 << 20


def needles_of(path, password: bytes | None = None) -> dict[str, bytes]:
    """The forms in which a key can lie in memory."""
    pem = path.read_bytes()
    key = serialization.load_pem_private_key(pem, password)
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8,
                            serialization.NoEncryption())
    found = {"der": der[-80:], "pem": base64.b64encode(der)[40:100]}
    numbers = {}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        numbers["scalar"] = (key.private_numbers().private_value, 32)
        found["der"] = der[20:68]
    else:
        assert isinstance(key, rsa.RSAPrivateKey)
        private = key.private_numbers()
        numbers = {"p": (private.p, 128), "q": (private.q, 128), "d": (private.d, 256)}
        found["der"] = der[-200:-100]
    for name, (value, size) in numbers.items():
        big = value.to_bytes(size, "big")
        found[f"{name}, big endian"] = big
        found[f"{name}, as a bignum"] = big[::-1]  # little-endian words of a little-endian machine
    return found


def _scan(pid: int, needles: dict[str, bytes], seen_shared: set) -> set[str]:
    """Names of the needles in the process' memory; a shared mapping is looked at once."""
    found = set()
    nothing = bytes(CHUNK)
    overlap = max(map(len, needles.values()))
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            span, perms, offset, device, inode, *rest = line.split(None, 5)
            if perms[0] != "r" or (perms[1] != "w" and inode != "0") or (rest and rest[0].startswith("[v")):
                continue  # of files, only what was written to can hold a secret
            if perms[3] == "s":
                mark = (device, inode, offset)
                if mark in seen_shared:
                    continue
                seen_shared.add(mark)
            start, end = (int(x, 16) for x in span.split("-"))
            tail = b""
            for at in range(start, end, CHUNK):
                try:
                    data = os.pread(mem.fileno(), min(CHUNK, end - at), at)
                except OSError:
                    break
                if data != nothing[:len(data)]:
                    searched = tail + data
                    found |= {name for name, needle in needles.items() if needle in searched}
                tail = data[-overlap:]
    return found


def scan(ser, needles: dict[str, bytes]) -> dict[str, set[str]]:
    """Names of the needles by what the process is for that has them."""
    seen_shared: set = set()
    return {role: hits for pid, role in ser.processes().items() if (hits := _scan(pid, needles, seen_shared))}


@pytest.mark.parametrize("cert", ["server", "server-rsa"])
def test_private_key_is_in_the_engine_only(pool, certs, cert):
    if os.getuid() != 0:
        pytest.skip("needs to read the memory of other processes")
    ser = pool.fresh(tls=certs.server_params(cert, cipher_list="ALL:@SECLEVEL=0", ca_list=str(certs.calist)),
                     readers=3, children=2, pkg_mb=4, shm_mb=32).start()
    # Use the key in every way first.
    for more in ({}, {"high": V.TLSv1_2}, {"high": V.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:@SECLEVEL=0"}):
        for _ in range(4):
            with TlsClient(ser.tls_port, certs.client_context(**more)) as client:
                assert client.ask().status == 200
    with Endpoint(certs.server_context(ask_client=True)) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200
    found = scan(ser, needles_of(certs.key(cert)))
    assert any("tls engine" in role for role in found), f"the scan found nothing in the engine: {found}"
    others = {role: hits for role, hits in found.items() if "tls engine" not in role}
    assert not others, f"private key found in {others}"


SERVER_KEY_EXCHANGE, X25519 = 12, b"\3\0\x1d\x20"


def share_of(wire: bytes) -> bytes:
    """The server's key share among the messages up to ServerHelloDone."""
    messages = b"".join(payload for kind, payload in split_records(wire) if kind == HANDSHAKE)
    while messages[0] != SERVER_KEY_EXCHANGE:
        messages = messages[4 + int.from_bytes(messages[1:4], "big"):]
    assert messages[4:8] == X25519
    return messages[8:40]


def public_of(private: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(private).public_key()
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def private_key_of(ser, public: bytes) -> bytes:
    """As it lies before the public one in shared memory, where a process of SER waits for the client."""
    pid = ser.pids_of("tcp receiver")[0]
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            span, perms, *_ = line.split(None, 2)
            start, end = (int(x, 16) for x in span.split("-"))
            data = os.pread(mem.fileno(), end - start, start) if perms == "rw-s" else b""
            at = data.find(public)
            while at >= 0:
                key = data[max(at - 32, 0):at]
                if len(key) == 32 and public_of(key) == public:
                    return key
                at = data.find(public, at + 1)
    raise AssertionError("no such key in shared memory")


def _complete(ser, raw: RawTls, flight: bytes) -> None:
    raw.sock.sendall(flight)
    assert raw.handshake().ask().status == 200


def _fail(ser, raw: RawTls, flight: bytes) -> None:
    raw.sock.sendall(flip(flight, -1))
    assert ser.wait_failure(raw.local_port)["alert_sent"] == "bad_record_mac"


ENDS = {
    "complete": _complete,
    "fail": _fail,
    "reset": lambda ser, raw, flight: raw.rst(),
    "timeout": lambda ser, raw, flight: read_all(raw.sock, 9),
    "kill": lambda ser, raw, flight: [ser.rpc("tls.kill", int(one["id"])) for one in ser.rpc("tls.list")],
}


@pytest.mark.parametrize("end", ENDS)
def test_nobody_has_the_key_of_a_handshake_that_is_over(pool, certs, end):
    """The engine has it no more as soon as it has given it away, the others when they are done with it."""
    if os.getuid() != 0:
        pytest.skip("needs to read the memory of other processes")
    ser = pool.get(tls=certs.server_params(handshake_timeout=2), readers=2, pkg_mb=4, shm_mb=32)
    with RawTls(ser.tls_port, certs.client_context(**ONLY_12)) as raw:
        _, flight = half_open(raw)
        held(ser, 0)
        needles = {"private key": private_key_of(ser, share_of(bytes(raw.wire_in)))}
        found = scan(ser, needles)
        assert len(found) == 1 and "tls engine" not in str(found), found
        ENDS[end](ser, raw, flight)
        if end == "complete":
            assert scan(ser, needles) == {}
        ser.wait_connections(int(end == "complete"))
    ser.wait_connections(0)
    assert scan(ser, needles) == {}
