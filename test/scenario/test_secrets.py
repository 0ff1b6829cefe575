# SPDX-License-Identifier: ISC
"""Private keys are in the memory of the process "tls engine" and in that of no other."""
from __future__ import annotations

import base64
import os

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from certs import V
from clients import Endpoint, TlsClient, UdpClient

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
    needles = needles_of(certs.key(cert))
    seen_shared: set = set()
    found = {role: hits for pid, role in ser.processes().items()
             if (hits := _scan(pid, needles, seen_shared))}
    assert any("tls engine" in role for role in found), f"the scan found nothing in the engine: {found}"
    others = {role: hits for role, hits in found.items() if "tls engine" not in role}
    assert not others, f"private key found in {others}"
