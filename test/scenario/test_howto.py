# SPDX-License-Identifier: ISC
"""doc/certificates.md: every command in it is run, SER is started with every result, and real clients connect.
And tools/tls-ca by itself: what it makes, what it refuses."""
from __future__ import annotations

import os
import pwd
import re
import ssl
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from cryptography import x509

from certs import V
from clients import TlsClient
from docs import DOC, Places, blocks, doc_ser
from ser import SLOW, TOP

TLS_CA = TOP / "tools" / "tls-ca"
CTL = 'loadmodule "ctl.so"\nmodparam("ctl", "binrpc", "unix:@DIR@/ctl")\n'


class Howto:
    """The document's blocks, run one after the other in a folder, with SER running from its first ser.cfg on."""

    def __init__(self, folder: Path):
        self.folder, self.etc = folder, folder / "etc"
        self.places = Places()
        self.blocks = blocks(DOC / "certificates.md")
        self.done: list[str] = []
        self.ser = None
        self.etc.mkdir()
        (folder / "tools").symlink_to(TOP / "tools")
        kamcmd = folder / "bin" / "kamcmd"
        kamcmd.parent.mkdir()
        kamcmd.write_text(f'#!/bin/sh\nexec /usr/sbin/kamcmd -s "unix:{self.etc}/ctl" "$@"\n')
        kamcmd.chmod(0o755)

    def command(self, text: str) -> str:
        if os.geteuid() != 0:
            text = text.replace("kamailio:", f"{pwd.getpwuid(os.geteuid()).pw_name}:")
        text = self.places.map(text.replace("/etc/kamailio", str(self.etc)))
        run = subprocess.run(["sh", "-eu"], input=text, cwd=self.folder, capture_output=True, text=True, check=False,
                             timeout=60 * SLOW, env=dict(os.environ, PATH=f"{self.folder}/bin:{os.environ['PATH']}"))
        assert run.returncode == 0 and "error" not in run.stdout, f"{text}\n{run.stdout}\n{run.stderr}"
        return run.stdout + run.stderr

    def start(self, text: str) -> None:
        self.stop()
        self.ser = doc_ser(text + CTL, self.etc, self.places).start()

    def stop(self) -> None:
        if self.ser is not None:
            self.ser.stop()
            self.ser = None

    def until(self, heading: str) -> str:
        """Runs the blocks below all headings up to and with this one; what the last ones printed."""
        printed = ""
        while self.blocks:
            if heading in self.done and self.blocks[0].heading != heading:
                return printed
            block = self.blocks.pop(0)
            self.done.append(block.heading)
            if block.heading == "A public CA":
                continue  # its files are a public CA's; test_docs.py loads it with others
            if block.kind == "sh":
                printed += self.command(block.text)
            elif block.kind == "tls.cfg":
                (self.etc / "tls.cfg").write_text(self.places.map(block.text))
                assert "Ok" in self.command("kamcmd tls.reload")
            elif "config" in block.text:
                # Its tls.cfg is the next block.
                (self.etc / "tls.cfg").write_text(self.places.map(self.blocks[0].text))
                self.start(block.text)
            else:
                assert block.kind == "ser.cfg", f"{block}: kind {block.kind}"
                self.start(block.text)
        assert heading in self.done, f"no heading {heading}"
        return printed

    @property
    def port(self) -> int:
        return self.places.port("192.0.2.1", "5061")

    def context(self, ca: str = "ca/ca.pem", cert: str = "") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / ca))
        if cert:
            context.load_cert_chain(self.folder / f"ca/{cert}.pem", self.folder / f"ca/{cert}.key")
        return context

    def handshake(self, context: ssl.SSLContext, name: str = "example.org") -> str:
        """Type of the key of the certificate that was shown; chain and name are verified."""
        with TlsClient(self.port, context, name=name, addr="127.0.0.1") as client:
            assert client.ask().status == 200
            der = client.sock.getpeercert(binary_form=True)
        return type(x509.load_der_x509_certificate(der).public_key()).__name__


@pytest.fixture(scope="module")
def howto():
    # Short: a unix socket's path has room for 107 characters.
    with tempfile.TemporaryDirectory(prefix="howto-") as folder:
        made = Howto(Path(folder))
        yield made
        made.stop()


def test_server_and_rsa_beside_it(howto):
    """From nothing to a handshake that verifies chain and name."""
    printed = howto.until("ser.cfg")
    assert "Verification: OK" in printed and "Verified peername: example.org" in printed
    assert "EllipticCurve" in howto.handshake(howto.context())
    old = howto.context()
    old.maximum_version = V.TLSv1_2
    old.set_ciphers("aRSA")
    assert "RSA" in howto.handshake(old)
    with pytest.raises(ssl.SSLCertVerificationError):
        howto.handshake(howto.context(), "other.example")


def test_client_certificates(howto):
    printed = howto.until("For phones and users")
    assert "Verification: OK" in printed
    howto.handshake(howto.context(cert="alice@example.org"))
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        howto.handshake(howto.context())
    howto.ser.wait_log("did not return a certificate")


def test_revocation(howto):
    assert "Ok. TLS configuration reloaded." in howto.until("Revocation")
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        howto.handshake(howto.context(cert="alice@example.org"))
    howto.ser.wait_log("certificate revoked")
    howto.command("tools/tls-ca client -q ca bob@example.org")
    howto.handshake(howto.context(cert="bob@example.org"))


def serial(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def test_renewal(howto):
    printed = howto.until("Renewal")
    assert re.search(r"^alice@example\.org\trevoked", printed, re.M)
    assert re.search(r"^example\.org\tvalid", printed, re.M)
    with TlsClient(howto.port, howto.context(cert="bob@example.org"), name="example.org") as client:
        der = client.sock.getpeercert(binary_form=True)
    assert x509.load_der_x509_certificate(der).serial_number == serial(howto.folder / "ca/example.org-2.pem")


def test_intermediate(howto):
    howto.until("An intermediate CA")
    for name in ("pem", "key"):
        new = (howto.folder / f"ca/branch.example.org.{name}").read_bytes()
        (howto.etc / f"tls/example.org.{name}").write_bytes(new)
    assert "Ok" in howto.command("kamcmd tls.reload")
    howto.handshake(howto.context(cert="bob@example.org"), "branch.example.org")


def test_by_hand(howto):
    """The specification's own steps, as they are today."""
    howto.until("By hand")
    context = howto.context("byhand/demoCA/cacert.pem")
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        howto.handshake(context)
    howto.ser.wait_log("did not return a certificate")
    by_hand = howto.folder / "byhand"
    context.load_cert_chain(by_hand / "ser1_cert.pem", by_hand / "ser1_key.pem")
    howto.handshake(context)
    assert (howto.etc / "cert.pem").read_text().count("BEGIN ") == 2
    listed = x509.load_pem_x509_crl((by_hand / "crl.pem").read_bytes())
    assert listed.get_revoked_certificate_by_serial_number(serial(by_hand / "ser1_cert.pem"))


def test_everything_was_run(howto):
    howto.until("What is in a file")
    assert not howto.blocks
    howto.stop()


# ---- tools/tls-ca

def run(*words: object, status: int = 0) -> str:
    done = subprocess.run([str(TLS_CA), *map(str, words)], capture_output=True, text=True, check=False,
                          timeout=30 * SLOW, stdin=subprocess.DEVNULL, start_new_session=True)
    assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if status == 0 else done.stderr


def refused(*words: object) -> str:
    """The one line of a command that must fail."""
    text = run(*words, status=1)
    assert text.startswith("tls-ca: ") and text.count("\n") == 1, text
    return text


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls-ca") / "ca"
    run("init", folder)
    run("server", folder, "example.org", "192.0.2.1", "2001:db8::1", "DNS:sip.example.org")
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def extension(cert: x509.Certificate, kind):
    return cert.extensions.get_extension_for_class(kind).value


def test_what_it_makes(ca):
    cert = x509.load_pem_x509_certificate((ca / "example.org.pem").read_bytes())
    names = extension(cert, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == ["example.org", "sip.example.org"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["sip:example.org"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1", "2001:db8::1"]
    uses = {use.dotted_string for use in extension(cert, x509.ExtendedKeyUsage)}
    assert uses == {"1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"}
    assert extension(cert, x509.KeyUsage).digital_signature and not extension(cert, x509.BasicConstraints).ca
    for key in ca.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600, key
    assert stat.S_IMODE(ca.stat().st_mode) == 0o700


def test_nothing_is_replaced(ca):
    before = everything(ca)
    assert "never replaced" in refused("init", ca)
    assert "example.org.pem is there already" in refused("server", ca, "example.org")
    assert "example.org.pem is there already" in refused("client", "-f", "example.org", ca, "x@example.org")
    assert "ca.pem is there already" in refused("server", "-f", "ca", ca, "example.org")
    assert everything(ca) == before


@pytest.mark.parametrize("words, said", [
    (["server"], "which folder"),
    (["make", "x"], "no command"),
    (["server", "--colour", "{ca}", "a.example"], "no option"),
    (["server", "{ca}"], "for which name"),
    (["server", "{ca}", "a b"], "'a b' is no name"),
    (["server", "{ca}", "a,DNS:b"], "is no name"),
    (["server", "{ca}", "a..b"], "is no DNS name"),
    (["client", "{ca}", "a@b@c"], "is no name"),
    (["server", "{ca}", "*.example.org"], "cannot be a file's name: see --file"),
    (["server", "-f", "../x", "{ca}", "a.example"], "no name of a file"),
    (["server", "-n", "ten", "{ca}", "a.example"], "not a number of days"),
    (["server", "-n", "4000", "{ca}", "a.example"], "does not live for 4000 more days"),
    (["server", "--until", "tomorrow", "{ca}", "a.example"], "not a date"),
    (["server", "-i", "nobody", "{ca}", "a.example"], "'nobody' is no CA"),
    (["server", "{ca}", "a" * 62 + ".example"], "too long for a common name"),
    (["server", "{ca}/none", "a.example"], "there is no CA"),
    (["server", "-p", "{ca}/none", "{ca}", "a.example"], "cannot be read"),
    (["revoke", "{ca}", "nobody"], "there is no"),
    (["revoke", "{ca}", "ca"], "was not issued here"),
    (["server", "-f"], "needs a value"),
])
def test_clear_errors(ca, words, said):
    before = everything(ca)
    assert said in refused(*(word.replace("{ca}", str(ca)) for word in words))
    assert everything(ca) == before
    assert not (ca / ".lock").exists()


def test_encrypted_ca_key(tmp_path):
    """The key of the CA is of no use without its password; a failure leaves nothing."""
    word, wrong = tmp_path / "password", tmp_path / "wrong"
    word.write_text("correct horse\n")
    wrong.write_text("battery staple\n")
    run("init", "-p", word, tmp_path / "ca")
    assert "ENCRYPTED" in (tmp_path / "ca/ca.key").read_text()
    run("server", "-q", "-p", word, tmp_path / "ca", "a.example")
    assert "ENCRYPTED" not in (tmp_path / "ca/a.example.key").read_text()
    assert "failed: openssl ca" in run("server", "-p", wrong, tmp_path / "ca", "b.example", status=1)
    assert not list((tmp_path / "ca").glob("b.example*"))


def test_one_at_a_time(ca):
    (ca / ".lock").mkdir()
    try:
        assert "another tls-ca is at work" in refused("crl", ca)
    finally:
        (ca / ".lock").rmdir()


def test_printed_lines(ca):
    """SER starts with the lines that it prints, and serves."""
    places = Places()
    printed = run("server", "-f", "printed", ca, "example.org")
    text = printed[printed.index("# ser.cfg"):printed.index("# or tls.cfg")]
    ser = doc_ser(text, places=places).start()
    context = ssl.create_default_context(cafile=str(ca / "ca.pem"))
    context.minimum_version = V.TLSv1_3
    with TlsClient(places.port("127.0.0.1", "5061"), context, name="example.org") as client:
        assert client.ask().status == 200
    ser.stop()
    ser = doc_ser('enable_tls=yes\nlisten=tls:127.0.0.1:5061\nloadmodule "tls.so"\n'
                  'modparam("tls", "config", "tls.cfg")\n', places=places,
                  files={"tls.cfg": printed[printed.index("[server:default]"):]}).start()
    with TlsClient(places.port("127.0.0.1", "5061"), context, name="example.org") as client:
        assert client.ask().status == 200
    ser.stop()
