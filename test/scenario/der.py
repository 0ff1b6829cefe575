# SPDX-License-Identifier: ISC
"""Certificates made of single bytes, for what no library agrees to make: NULs, wrong encodings, odd serials.

certificate() takes names as (attribute, string type, bytes) and SANs as (kind, bytes); issue() signs one with
an Authority's key and puts it and its own key into files.
"""
from __future__ import annotations

import itertools
from pathlib import Path
from typing import Sequence

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certs import Authority, write

UTF8, PRINTABLE, T61, IA5, BMP, UNIVERSAL = 0x0C, 0x13, 0x14, 0x16, 0x1E, 0x1C
UTC, GENERALIZED = 0x17, 0x18
OTHER, EMAIL, DNS, URI, IP = 0xA0, 0x81, 0x82, 0x86, 0x87

ATTRIBUTES = {"C": "2.5.4.6", "ST": "2.5.4.8", "L": "2.5.4.7", "O": "2.5.4.10", "OU": "2.5.4.11", "CN": "2.5.4.3",
              "UID": "0.9.2342.19200300.100.1.1"}

Name = Sequence[tuple[str, int, bytes]]
San = tuple[int, bytes]

_serial = itertools.count(1)


def tlv(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body


def oid(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    out = b""
    for number in [first * 40 + second, *rest]:
        digits = [number & 127]
        while number := number >> 7:
            digits.append(number & 127 | 128)
        out += bytes(reversed(digits))
    return tlv(6, out)


def integer(number: int) -> bytes:
    return tlv(2, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def name(parts: Name) -> bytes:
    return tlv(0x30, *(tlv(0x31, tlv(0x30, oid(ATTRIBUTES.get(key, key)), tlv(kind, value)))
                       for key, kind, value in parts))


def text_name(**parts: str) -> Name:
    return [(key, UTF8, value.encode()) for key, value in parts.items()]


def extension(number: str, value: bytes, critical: bool = False) -> bytes:
    return tlv(0x30, oid(number), tlv(1, b"\xff") if critical else b"", tlv(4, value))


def sans_extension(sans: Sequence[San]) -> bytes:
    return extension("2.5.29.17", tlv(0x30, *(tlv(kind, value) for kind, value in sans)))


def certificate(authority: Authority, file: str, *, subject: Name = (), sans: Sequence[San] | None = None,
                serial: bytes | None = None, not_before: tuple[int, bytes] = (UTC, b"200102030405Z"),
                not_after: tuple[int, bytes] = (UTC, b"481231235959Z"), extensions: Sequence[bytes] = (),
                self_signed: bool = False) -> tuple[Path, Path]:
    """A certificate and its key, in files; serial is the content of its INTEGER."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    algorithm = tlv(0x30, oid("1.2.840.10045.4.3.2"))
    all_extensions = [*([] if sans is None else [sans_extension(sans)]), *extensions]
    issuer = name(subject) if self_signed else authority.cert.subject.public_bytes()
    body = tlv(
        0x30, tlv(0xA0, integer(2)), tlv(2, serial) if serial is not None else integer(next(_serial)), algorithm, issuer,
        tlv(0x30, tlv(*not_before), tlv(*not_after)), name(subject), spki,
        tlv(0xA3, tlv(0x30, *all_extensions)) if all_extensions else b"")
    signature = (key if self_signed else authority.private).sign(body, ec.ECDSA(hashes.SHA256()))
    der = tlv(0x30, body, algorithm, tlv(3, b"\0", signature))
    base = authority.folder / file
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return write(base.with_suffix(".pem"), to_pem(der)), write(base.with_suffix(".key"), pem)


def to_pem(der: bytes) -> bytes:
    import base64
    text = base64.b64encode(der).decode()
    lines = [text[i:i + 64] for i in range(0, len(text), 64)]
    return ("-----BEGIN CERTIFICATE-----\n" + "\n".join(lines) + "\n-----END CERTIFICATE-----\n").encode()
