# SPDX-License-Identifier: ISC
"""The certificates of the tests, made by tools/make-certs, and TLS contexts for clients and servers.

Folder.pem(name) and Folder.key(name) are files that tools/make-certs --help lists.
"""
from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

from ser import TOP

DOMAIN = "ser.example.org"
V = ssl.TLSVersion


class Folder:
    def __init__(self, path: Path):
        self.path = path
        subprocess.run([str(TOP / "tools/make-certs"), "-q", str(path)], check=True, timeout=60)
        # SER may run as another user in a test; these keys protect nothing.
        path.chmod(0o755)
        for file in path.iterdir():
            file.chmod(0o644)

    def pem(self, name: str) -> Path:
        return self.path / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.path / f"{name}.key"

    @property
    def calist(self) -> Path:
        return self.path / "calist.pem"

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
