# SPDX-License-Identifier: ISC
"""The certificates of the tests, made by tools/make-certs, and TLS contexts for clients and servers.

Folder.pem(name) and Folder.key(name) are files that tools/make-certs --help lists. Authority makes what
a single test needs beyond them: any names, keys with passwords, chains, revocation lists.
"""
from __future__ import annotations

import datetime
import ipaddress
import itertools
import os
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from ser import TOP

DOMAIN = "ser.example.org"
V = ssl.TLSVersion
GOOD, REVOKED = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED
HOUR = datetime.timedelta(hours=1)


def write(path: Path, data: bytes) -> Path:
    """Replaces the file in one step, as deployment tools do."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    new.chmod(0o644)
    os.replace(new, path)
    return path


def _general_name(text: str) -> x509.GeneralName:
    kind, _, value = text.partition(":")
    if kind == "IP":
        return x509.IPAddress(ipaddress.ip_address(value))
    return {"DNS": x509.DNSName, "URI": x509.UniformResourceIdentifier, "email": x509.RFC822Name}[kind](value)


@dataclass
class Issued:
    """A certificate (with the intermediates that follow it, if asked for) and its key, in files."""

    pem: Path
    key: Path
    cert: x509.Certificate


class Authority:
    """A CA, with its certificate in the file pem."""

    _serial = itertools.count()

    def __init__(self, folder: Path, pem: Path, key: Path):
        self.folder, self.pem = folder, pem
        self.cert = x509.load_pem_x509_certificate(pem.read_bytes())
        self.private = serialization.load_pem_private_key(key.read_bytes(), None)
        self.days = datetime.timedelta(days=300, hours=12)

    def issue(self, cn: str, *sans: str, rsa_key: bool = False, ca: bool = False, password: str = "",
              chain: Sequence[Path] = (), file: str = "") -> Issued:
        """sans are like DNS:name, URI:sip:name, IP:127.0.0.1; chain is what follows in the file."""
        private = rsa.generate_private_key(65537, 2048) if rsa_key else ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.utcnow()
        builder = (x509.CertificateBuilder()
                   .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]))
                   .issuer_name(self.cert.subject).public_key(private.public_key())
                   .serial_number(x509.random_serial_number())
                   .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + self.days)
                   .add_extension(x509.BasicConstraints(ca, None), True)
                   .add_extension(x509.KeyUsage(not ca, False, rsa_key and not ca, False, False, ca, ca,
                                                False, False), True)
                   .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), False)
                   .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.private.public_key()),
                                  False))
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(s) for s in sans]), False)
        cert = builder.sign(self.private, hashes.SHA256())
        base = self.folder / (file or f"issued-{next(self._serial)}")
        pem = b"".join([cert.public_bytes(serialization.Encoding.PEM), *(path.read_bytes() for path in chain)])
        lock = (serialization.BestAvailableEncryption(password.encode()) if password
                else serialization.NoEncryption())
        key = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
        return Issued(write(base.with_suffix(".pem"), pem), write(base.with_suffix(".key"), key), cert)

    def sub(self, cn: str) -> "Authority":
        """An intermediate CA."""
        made = self.issue(cn, ca=True)
        return Authority(self.folder, made.pem, made.key)

    def crl(self, *revoked: x509.Certificate) -> bytes:
        now = datetime.datetime.utcnow()
        builder = (x509.CertificateRevocationListBuilder().issuer_name(self.cert.subject)
                   .last_update(now - datetime.timedelta(hours=1)).next_update(now + self.days))
        for cert in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(cert.serial_number)
                .revocation_date(now - datetime.timedelta(minutes=30)).build())
        return builder.sign(self.private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def responder(authority, cert, *, status=GOOD, begin=-HOUR, end: datetime.timedelta | None = HOUR, signer=None,
              issuer=None, digest=hashes.SHA1):
    """A response in DER about cert, made by its authority or by a signer (certificate and key)."""
    now = datetime.datetime.utcnow()
    revoked = status is REVOKED
    by, key = signer or (authority.cert, authority.private)
    builder = (ocsp.OCSPResponseBuilder()
               .add_response(cert, (issuer or authority).cert, digest(), status, now + begin, now + end if end else None,
                             now - HOUR if revoked else None, None)
               .responder_id(ocsp.OCSPResponderEncoding.HASH, by))
    if signer:
        builder = builder.certificates([by])
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


class Folder:
    def __init__(self, path: Path):
        self.path = path
        self.more = path / "more"
        subprocess.run([str(TOP / "tools/make-certs"), str(path)], check=True, timeout=60)
        # SER may run as another user in a test; these keys protect nothing.
        path.chmod(0o755)
        for file in path.iterdir():
            file.chmod(0o755 if file.is_dir() else 0o644)
        self.more.mkdir()
        self._authorities: dict[str, Authority] = {}

    def pem(self, name: str) -> Path:
        return self.path / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.path / f"{name}.key"

    @property
    def calist(self) -> Path:
        return self.path / "calist.pem"

    def authority(self, name: str = "ca") -> Authority:
        """One of the CAs among the files, as one that can issue more; calist.pem trusts ca."""
        if name not in self._authorities:
            self._authorities[name] = Authority(self.more, self.pem(name), self.key(name))
        return self._authorities[name]

    def server_params(self, name: str = "server", **more: object) -> dict[str, object]:
        """Parameters of a module that uses the named certificate and logs connections."""
        base: dict[str, object] = {"certificate": str(self.pem(name)), "private_key": str(self.key(name)),
                                   "tls_method": "TLSv1.2+", "tls_log": 1}
        return base | more

    def client_context(self, cert: str | None = None, *, verify: bool = True, low: V | None = None,
                       high: V | None = None, ciphers: str | None = None, legacy: bool = False,
                       keylog: Path | None = None) -> ssl.SSLContext:
        """Verifies the server's chain and name unless told otherwise."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if verify:
            context.load_verify_locations(self.calist)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self._shape(context, cert, low, high, ciphers, legacy)
        if keylog is not None:
            context.keylog_filename = str(keylog)
        return context

    def server_context(self, cert: str = "server", *, ask_client: bool = False, low: V | None = None,
                       high: V | None = None, ciphers: str | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if ask_client:
            context.load_verify_locations(self.calist)
            context.verify_mode = ssl.CERT_OPTIONAL
        self._shape(context, cert, low, high, ciphers, False)
        return context

    def _shape(self, context: ssl.SSLContext, cert: str | None, low: V | None, high: V | None,
               ciphers: str | None, legacy: bool) -> None:
        if cert is not None:
            context.load_cert_chain(self.pem(cert), self.key(cert))
        if ciphers is not None:
            context.set_ciphers(ciphers)
        elif legacy:
            context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = low if low is not None else V.TLSv1 if legacy else V.TLSv1_2
        if high is not None:
            context.maximum_version = high
