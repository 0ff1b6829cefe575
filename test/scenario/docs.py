# SPDX-License-Identifier: ISC
"""The documents' own examples: finds them, and runs SER with them.

Every fenced block names its kind after the fence: ser.cfg (lines as they stand in SER's file), ser.cfg route
(statements of a route), tls.cfg, tls.cfg keys (lines of one section), lua, sh (commands), rpc (a command's reply), log
(lines of the log), text. In README, which is plain text, a block is indented by a tab.

The examples' addresses, ports and folders are put onto the loopback and into a folder of the test.
"""
from __future__ import annotations

import datetime
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from certs import Folder
from ser import TLS_SO, TOP, Config, Ser, free_port

DOC = TOP / "doc"
MOVED_FOLDERS = ("/etc/kamailio", "/etc/ssl/example.org", "/var/lib/kamailio", "/usr/local/etc/ser")


@dataclass(frozen=True)
class Block:
    file: str
    line: int  # of its first line
    heading: str  # that it stands below
    kind: str
    more: str  # what follows the kind
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def blocks(path: Path, kind: str = "") -> list[Block]:
    """The fenced blocks of a document, of one kind or all."""
    found, fence, info, heading, start, lines = [], None, "", "", 0, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = re.match(r"( *)```(.*)$", line)
        if match and fence is None:
            fence, info, start, lines = len(match[1]), match[2].strip(), number + 1, []
        elif match:
            first, _, more = info.partition(" ")
            found.append(Block(path.name, start, heading, first, more, "\n".join(lines) + "\n"))
            fence = None
        elif fence is not None:
            lines.append(line[fence:] if not line[:fence].strip() else line)
        elif line.startswith("#"):
            heading = line.strip("# ")
    assert fence is None, f"{path.name}:{start}: the fence has no end"
    return [block for block in found if not kind or block.kind == kind]


def readme_blocks() -> list[Block]:
    """The blocks of README that are for SER's configuration, or tls.cfg."""
    text = (TOP / "README").read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"(?:^\t.*\n|^\n(?=\t))+", text, re.M):
        kind = re.search(r"^\t(?:(modparam|loadmodule)|\[)", match[0], re.M)
        if kind:
            line = text.count("\n", 0, match.start()) + 1
            text_of = re.sub(r"^\t", "", match[0], flags=re.M)
            found.append(Block("README", line, "", "ser.cfg" if kind[1] else "tls.cfg", "", text_of))
    return found


class Places:
    """Where the examples' addresses are in the test: each on the loopback, each port one that is free."""

    ADDRESS = re.compile(r"\b(?:192\.0\.2|198\.51\.100|203\.0\.113)\.(\d+)\b|\b127\.0\.0\.1\b")
    WITH_PORT = re.compile(r"((?:192\.0\.2|198\.51\.100|203\.0\.113|127\.0\.0)\.\d+|\[2001:db8::\w+\]):(50\d\d|80\d\d|443)\b")

    def __init__(self) -> None:
        self.ports: dict[tuple[str, str], int] = {}

    @staticmethod
    def address(text: str) -> str:
        if text.startswith("["):
            return "[::1]"
        last = text.rsplit(".", 1)[1]
        return "127.0.0.1" if last == "1" else f"127.0.{text.split('.')[2]}.{last}"

    def port(self, address: str, port: str) -> int:
        key = (self.address(address), port)
        if key not in self.ports:
            self.ports[key] = free_port(key[0].strip("[]"))
        return self.ports[key]

    def map(self, text: str) -> str:
        text = self.WITH_PORT.sub(lambda m: f"{self.address(m[1])}:{self.port(m[1], m[2])}", text)
        text = re.sub(r"\[2001:db8::\w+\]", "[::1]", text)
        return self.ADDRESS.sub(lambda m: self.address(m[0]), text)


# What the value of a parameter or key names, and which of the tests' files takes its place.
FILE_KINDS = {
    "certificate": "pair", "certificate2": "pair2", "private_key": "key", "private": "key", "private_key2": "key2",
    "ca_list": "ca", "crl": "crl", "ca_path": "folder", "config": "tls.cfg",
    "session_ticket_keys": "tickets", "ocsp_response": "ocsp", "ocsp_response2": "ocsp2", "private_key_password": "password", "private_key_password2": "password2",
}
PASSWORD = "secret"
PARAM = re.compile(r'^modparam\("tls",\s*"(\w+)",\s*("[^"]*"|-?\d+)\)', re.M)
KEY = re.compile(r"^(\w+)\s*=\s*(.*?)(?:\s+#.*)?$", re.M)


def named_files(text: str) -> dict[str, str]:
    """Names of files in a block, to what they are."""
    aliases = {"cert_file": "certificate", "pkey_file": "private_key", "calist_file": "ca_list",
               "pkey_password": "private_key_password"}
    found = {}
    for name, value in [*PARAM.findall(text), *KEY.findall(text)]:
        kind = FILE_KINDS.get(aliases.get(name, name))
        value = value.strip('"')
        if kind and "password" in kind:
            if not value.startswith("file:"):
                continue
            value = value.removeprefix("file:")
        if kind in ("pair", "key") and "rsa" in value:
            kind += "2"
        if kind and value:
            found[value] = kind
    return found


class Files:
    """Makes the files that blocks name."""

    def __init__(self, certs: Folder):
        self.certs = certs

    def content(self, kind: str, encrypted: bool) -> bytes:
        certs = self.certs
        key = certs.key("server-encrypted" if encrypted else "server").read_bytes()
        issuer = certs.calist.read_bytes()  # whom a block's ca_list, the machine's own, does not have
        made = {
            "pair": certs.pem("server").read_bytes() + key + issuer,
            "key": key,
            "pair2": certs.pem("server-rsa").read_bytes() + certs.key("server-rsa").read_bytes() + issuer,
            "key2": certs.key("server-rsa").read_bytes(),
            "ca": certs.calist.read_bytes(),
            "crl": certs.pem("crl").read_bytes(),
            "ocsp": lambda: self.ocsp("server"), "ocsp2": lambda: self.ocsp("server-rsa"),
            "tickets": b"0123456789abcdef" * 8 + b"\n",
            "password": PASSWORD.encode(), "password2": PASSWORD.encode(),
            "tls.cfg": b"[server:default]\ncertificate = cert.pem\n",
        }[kind]
        return made if isinstance(made, bytes) else made()

    def ocsp(self, name: str) -> bytes:
        """The CA's word that a certificate is good."""
        authority, now = self.certs.authority(), datetime.datetime.utcnow()
        cert = x509.load_pem_x509_certificate(self.certs.pem(name).read_bytes())
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert, authority.cert, hashes.SHA256(), ocsp.OCSPCertStatus.GOOD, now - datetime.timedelta(hours=1),
            now + datetime.timedelta(days=3), None, None).responder_id(ocsp.OCSPResponderEncoding.HASH, authority.cert)
        return builder.sign(authority.private, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def make(self, text: str, folder: Path) -> None:
        """text is as mapped by DocSer.fill()."""
        shutil.copy(self.certs.pem("cert"), folder / "cert.pem")
        files = named_files(text)
        for name, kind in files.items():
            path = folder / name
            if path.exists() and not path.is_relative_to(folder):
                continue  # the machine's own, such as its list of CAs
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "folder":
                path.mkdir(exist_ok=True)
                continue
            path.write_bytes(self.content(kind, "password" in files.values()))
            path.chmod(0o600)


STAND_ALONE = """debug=2
log_stderror=yes
auto_aliases=no
dns=no
rev_dns=no
use_dns_cache=no
dns_cache_init=off
dst_blocklist_init=off
children=1
tcp_children=2
"""


class DocSer(Ser):
    """A SER that has what a block of the documents says. Its folder takes the place of /etc/kamailio."""

    def __init__(self, config: Config, folder: Path | None = None, places: Places | None = None,
                 named: Files | None = None):
        super().__init__(config)
        self.keep = folder is not None
        if folder is not None:
            shutil.rmtree(self.dir)
            self.dir = folder
            self.cfg, self.log_path, self.rpc_path = folder / "ser.cfg", folder / "ser.log", folder / "rpc"
            self.log_path.unlink(missing_ok=True)
        self.places = places or Places()
        self.named = named

    def fill(self, text: str) -> str:
        text = re.sub(r'loadmodule "(?:[\w/]*/)?tls\.so"', f'loadmodule "{TLS_SO}"', text)
        for folder in MOVED_FOLDERS:
            text = text.replace(folder, str(self.dir))
        return super().fill(self.places.map(text))

    def write_cfg(self) -> None:
        self.config.events = self.fill(self.config.events)
        super().write_cfg()
        if "request_route" in self.config.raw:
            self.cfg.write_text(STAND_ALONE + self.fill(self.config.raw) + self.fill(
                '\nloadmodule "jsonrpcs.so"\nmodparam("jsonrpcs", "transport", 4)\n'
                'modparam("jsonrpcs", "dgram_socket", "@DIR@/rpc")\n'))
        if self.named is not None:
            self.named.make(self.fill(self.config.raw), self.dir)

    def remove(self) -> None:
        if not self.keep:
            super().remove()


def doc_ser(text: str, folder: Path | None = None, places: Places | None = None, named: Files | None = None,
            **more) -> DocSer:
    """For a block that has its own listen and loadmodule lines."""
    return DocSer(Config(load_tls=False, tls_addrs=(), raw=text, **more), folder, places, named)
