# SPDX-License-Identifier: ISC
"""What a ticket is worth to somebody who has read the memory of a SER process: one who is nobody, of TLS 1.2.

Such a process seals the ticket of a full TLS 1.2 handshake that it ends itself, so it knows the keys of that ticket,
although not the key in the file. The ticket's name says that it is shared; it cannot be made to say anything else.
"""
from __future__ import annotations

import base64
import hmac
import os
import ssl
import struct
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from clients import openssl_client, request
from der import integer, tlv
from domains import base, own, section, site
from ser import wait_until
from test_key_exchange import KEY_LOG, flip
from test_resumption import make_keys

KEY, = make_keys()
KEYS = {"session_ticket_keys": "keys"}
FILES = {"keys": KEY + "\n"}
STRICT = "strict.example.org"
NO_CERTIFICATE = "peer did not return a certificate"

# Where things stand in a session as OpenSSL writes it (SSL_SESSION_ASN1): the first five by number, others by tag.
Session = dict[int, bytes]
VERSION, MASTER, PEER, CONTEXT, TICKET, BORN = 1, 4, 0xA3, 0xA4, 0xAA, 0xB2
TLS_13 = integer(0x0304)
TicketKeys = tuple[bytes, bytes]  # for AES and for the HMAC


class Ticket(NamedTuple):
    name: bytes
    iv: bytes
    session: Session

    def shared(self) -> bool:
        return bool(self.name[-1] & 1)


def content(der: bytes) -> tuple[int, bytes, bytes]:
    """Tag and content of the first element, and what follows it."""
    size, at = der[1], 2
    if size & 0x80:
        at += size & 0x7F
        size = int.from_bytes(der[2:at], "big")
    return der[0], der[at:at + size], der[at + size:]


def read(der: bytes) -> Session:
    _, rest, _ = content(der)
    session: Session = {}
    while rest:
        tag, _, after = content(rest)
        session[len(session) if len(session) <= MASTER else tag] = rest[:len(rest) - len(after)]
        rest = after
    return session


def written(session: Session) -> bytes:
    return tlv(0x30, *(session[key] for key in sorted(session)))


def keys_of(ticket: Ticket) -> TicketKeys:
    """What a SER process knows, if it is shared: HKDF-Expand-Label of the file's key, with name and iv."""
    label, context, keys = b"ser ticket", ticket.name + ticket.iv, b""
    info = struct.pack("!HB", 64, len(label)) + label + bytes([len(context)]) + context
    for number in (1, 2):
        keys += hmac.new(bytes.fromhex(KEY), keys[-32:] + info + bytes([number]), "sha256").digest()
    return keys[:32], keys[32:]


def opened(data: bytes) -> Ticket:
    ticket = Ticket(data[:16], data[16:32], {})
    cipher_key, mac_key = keys_of(ticket)
    assert hmac.digest(mac_key, data[:-32], "sha256") == data[-32:]
    aes = Cipher(algorithms.AES(cipher_key), modes.CBC(ticket.iv)).decryptor()
    clear = aes.update(data[32:-32]) + aes.finalize()
    return ticket._replace(session=read(clear[:-clear[-1]]))


def sealed(ticket: Ticket, keys: TicketKeys) -> bytes:
    clear = written(ticket.session)
    pad = 16 - len(clear) % 16
    aes = Cipher(algorithms.AES(keys[0]), modes.CBC(ticket.iv)).encryptor()
    data = ticket.name + ticket.iv + aes.update(clear + bytes([pad]) * pad) + aes.finalize()
    return data + hmac.digest(keys[1], data, "sha256")


class Place:
    """A server, as somebody meets it who uses openssl's client."""

    def __init__(self, ser, certs, folder: Path, *args: str):
        self.ser, self.certs, self.folder, self.args = ser, certs, folder, args

    def _lines(self) -> list[dict[str, str]]:
        return self.ser.established() + self.ser.failures()

    def connect(self, *args: str | Path) -> dict[str, str]:
        """The line about a connection, which is answered if it is established."""
        before = self._lines()
        with openssl_client(self.ser.tls_port, self.certs, *self.args, *args) as tool:
            line, = wait_until(lambda: [line for line in self._lines() if line not in before], 5, "a line about it")
            if "reason" not in line:
                tool.wait_for(rf"^{'Reused' if line['resumed'] == 'yes' else 'New'}, {line['version']}")
                tool.write(request(uri=f"sip:127.0.0.1:{self.ser.tls_port};transport=tls"))
                tool.wait_for(r"SIP/2\.0 200 OK")
            tool.finish()
        self.ser.wait_connections(0)
        return line

    def meet(self, *args: str | Path) -> tuple[Session, bytes]:
        """What a client keeps of a full handshake, and the ticket in it."""
        kept = self.folder / "kept"
        kept.unlink(missing_ok=True)
        assert self.connect("-sess_out", kept, *args)["resumed"] == "no"
        text = kept.read_text().replace("SSL SESSION PARAMETERS", "CERTIFICATE")
        session = read(ssl.PEM_cert_to_DER_cert(text))
        _, element, _ = content(session[TICKET])
        return session, content(element)[1]

    def resume(self, session: Session, ticket: bytes) -> str:
        """How a ticket is taken."""
        text = base64.encodebytes(written(session | {TICKET: tlv(TICKET, tlv(4, ticket))})).decode()
        offered = self.folder / "offered"
        offered.write_text(f"-----BEGIN SSL SESSION PARAMETERS-----\n{text}-----END SSL SESSION PARAMETERS-----\n")
        line = self.connect("-tls1_3" if session[VERSION] == TLS_13 else "-tls1_2", "-sess_in", offered)
        return (line["reason"] if "reason" in line else "full handshake" if line["resumed"] == "no" else
                f"resumed, verified={line['verified']}")


@pytest.fixture
def anyone(pool, certs, tmp_path):
    """Who asks for no certificate."""
    return Place(pool.get(tls=certs.server_params(**KEYS), files=FILES), certs, tmp_path)


ASKS = {"verify_certificate": 1, "require_certificate": 1}


@pytest.fixture(params=["machine", "section"])
def strict(request, pool, certs, tmp_path):
    """Who demands one and has the same keys for tickets: another machine, or another section of the same."""
    if request.param == "machine":
        ser = pool.get(tls=certs.server_params(ca_list=str(certs.calist), **ASKS, **KEYS), files=FILES)
        return Place(ser, certs, tmp_path)
    text = base(certs) + section("server:any", server_name=STRICT, ca_list=certs.calist, **own(certs, **ASKS))
    return Place(site(pool, certs, cfg=text, tls=KEYS, files=FILES), certs, tmp_path, "-servername", STRICT)


@pytest.fixture
def mine(certs):
    """For the rightful owner of a certificate."""
    return "-cert", certs.pem("client"), "-key", certs.key("client")


# -- what is shared ----------------------------------------------------------------------------------

P256 = ("-tls1_2", "-groups", "P-256")


@pytest.mark.parametrize("shared,args", [(True, ("-tls1_2",)), (False, P256), (False, ("-tls1_3",))],
                         ids=["tls12", "tls12_p256", "tls13"])
def test_what_is_shared(anyone, args, shared):
    """Only what a SER process seals."""
    session, ticket = anyone.meet(*args)
    assert opened(ticket).shared() == shared
    assert [opened(ticket).session[key] for key in (VERSION, MASTER)] == [session[key] for key in (VERSION, MASTER)]
    assert anyone.resume(session, ticket) == "resumed, verified=none"


def test_of_who_has_shown_a_certificate(strict, mine):
    session, ticket = strict.meet("-tls1_2", *mine)
    assert not opened(ticket).shared() and PEER in opened(ticket).session
    assert strict.resume(session, ticket) == "resumed, verified=yes"


@pytest.mark.parametrize("more", [KEY_LOG, {"verify_certificate": 1}], ids=["key_log", "not_given"])
def test_of_who_is_not_read_by_a_process_of_ser(pool, certs, tmp_path, more):
    place = Place(pool.get(tls=certs.server_params(**KEYS, **more, ca_list=str(certs.calist)), files=FILES), certs,
                  tmp_path)
    session, ticket = place.meet("-tls1_2")
    assert not opened(ticket).shared()
    assert place.resume(session, ticket) == "resumed, verified=none"


@pytest.mark.parametrize("args", [("-tls1_2",), P256], ids=["shared", "not_shared"])
def test_a_mark_that_is_flipped(anyone, args):
    session, ticket = anyone.meet(*args)
    assert anyone.resume(session, flip(ticket, 15)) == "full handshake"


# -- forgers -----------------------------------------------------------------------------------------


def reader(ticket: Ticket) -> bytes:
    """Knows the keys of a shared ticket, and puts another session into it."""
    return sealed(ticket, keys_of(ticket))


def unmarked(ticket: Ticket) -> Ticket:
    return ticket._replace(name=flip(ticket.name, -1))


def liar(ticket: Ticket) -> bytes:
    """Says of it that it is not shared."""
    return sealed(unmarked(ticket), keys_of(ticket))


def owner(ticket: Ticket) -> bytes:
    """Knows the key in the file, and so those of every ticket. That these succeed shows that the forging is right."""
    return reader(unmarked(ticket)._replace(iv=os.urandom(16)))


FORGERS = {forger.__name__: forger for forger in (reader, liar, owner)}


@pytest.fixture(params=FORGERS)
def forger(request):
    return request.param


def another(session: Session) -> Session:
    """With a master secret of the forger's, and as if of a handshake right now."""
    secret = os.urandom(len(content(session[MASTER])[1]))
    return session | {MASTER: tlv(4, secret), BORN: tlv(BORN, tlv(4, int(time.time()).to_bytes(8, "little")))}


def identity(certs) -> Session:
    """What makes a session one of somebody with a certificate, which is not secret."""
    return {PEER: tlv(PEER, ssl.PEM_cert_to_DER_cert(certs.pem("client").read_text()))}


def forge(place: Place, forger: str, session: Session, ticket: bytes, contains: Session) -> str:
    """Offers a session with a ticket that is the given one, but contains another."""
    known = opened(ticket)
    assert known.shared()
    return place.resume(session | {MASTER: contains[MASTER]}, FORGERS[forger](known._replace(session=contains)))


def test_nobody(anyone, forger):
    """A shared ticket lets the reader be resumed as nobody, which is what he is if he just connects."""
    session, ticket = anyone.meet("-tls1_2")
    expected = "full handshake" if forger == "liar" else "resumed, verified=none"
    assert forge(anyone, forger, session, ticket, another(opened(ticket).session)) == expected


def test_somebody_else(anyone, certs, forger):
    """Where no certificate is needed, but looked at by a route if there is one."""
    session, ticket = anyone.meet("-tls1_2")
    expected = "resumed, verified=yes" if forger == "owner" else "full handshake"
    assert forge(anyone, forger, session, ticket, another(opened(ticket).session) | identity(certs)) == expected


@pytest.mark.parametrize("verified", ["yes", "none"])
def test_where_certificates_are_asked_for(anyone, strict, certs, mine, forger, verified):
    """Somebody else, or nobody."""
    session, ticket = anyone.meet("-tls1_2")
    _, honest = strict.meet("-tls1_2", *mine)
    contains = another(opened(ticket).session) | {CONTEXT: opened(honest).session[CONTEXT]}
    if verified == "yes":
        contains |= identity(certs)
    expected = f"resumed, verified={verified}" if forger == "owner" else NO_CERTIFICATE
    assert forge(strict, forger, session, ticket, contains) == expected


@pytest.mark.parametrize("name", ["nobody", "somebody"])
def test_tls13(anyone, certs, forger, name):
    """Its tickets are not shared, so no shared one may contain a session of it."""
    _, ticket = anyone.meet("-tls1_2")
    session, model = anyone.meet("-tls1_3")
    contains = another(opened(model).session) | (identity(certs) if name == "somebody" else {})
    expected = f"resumed, verified={'yes' if name == 'somebody' else 'none'}"
    assert forge(anyone, forger, session, ticket, contains) == (expected if forger == "owner" else "full handshake")


def test_tls13_where_certificates_are_asked_for(anyone, strict, certs, mine, forger):
    _, ticket = anyone.meet("-tls1_2")
    session, model = strict.meet("-tls1_3", *mine)
    expected = "resumed, verified=yes" if forger == "owner" else NO_CERTIFICATE
    assert forge(strict, forger, session, ticket, another(opened(model).session)) == expected
