# SPDX-License-Identifier: ISC
"""Selects, pseudo-variables and functions that ask about a connection: every row, on every kind of connection."""
from __future__ import annotations

import hashlib
import urllib.parse

import pytest

from certs import DOMAIN, V
from clients import Endpoint, TcpClient, TlsClient, UdpClient, WssClient
from der import (BMP, DNS, EMAIL, GENERALIZED, IA5, IP, OTHER, PRINTABLE, T61, UNIVERSAL, URI, UTC, UTF8, certificate,
                 extension, oid, text_name, tlv)

NULL = "<null>"
SEPARATOR = "|#|"
WIDE = "tcp_rd_buf_size=131072\ntcp_conn_wq_max=1048576"

# A request says in X-Ask what the reply's body shall hold.
ASK = r"""
	if ($hdr(X-Ask) != $null) {
		$var(got) = "cannot be evaluated";
		pv_evalx("$var(got)", "$hdr(X-Ask)");
		set_reply_body("$var(got)", "text/plain");
		sl_send_reply("200", "OK");
		exit;
	}
"""
WEBSOCKET = """
event_route[xhttp:request] {
	if ($hdr(Upgrade) =~ "websocket" && $rm =~ "GET") {
		ws_handle_handshake();
		exit;
	}
}
"""

PEER = {"C": "AT", "ST": "Wien", "L": "Währing", "O": "Carrier & Söhne", "OU": "Voice", "CN": "peer.example.com",
        "UID": "carrier-7"}
MINE = {"C": "DE", "ST": "Berlin", "L": "Mitte", "O": "Operator", "OU": "Core", "CN": DOMAIN, "UID": "ser-1"}
ISSUER_CN = "Demo CA"


def _sans(label: str) -> list[tuple[int, bytes]]:
    return [(EMAIL, b"noc@%s.example.com" % label.encode()), (EMAIL, b"abuse@%s.example.com" % label.encode()),
            (DNS, DOMAIN.encode()), (DNS, b"%s2.example.com" % label.encode()),
            (OTHER, oid("1.3.6.1.4.1.311.20.2.3") + tlv(0xA0, tlv(UTF8, b"upn@example.com"))),
            (URI, b"sip:%s.example.com" % label.encode()), (URI, b"urn:uuid:%s" % label.encode()),
            (IP, bytes([127, 0, 0, 1])), (IP, bytes.fromhex("20010db8000000000000000000000001"))]


SERIALS = {"peer": (1 << 152) + 12345, "my": 987654321}


class Pair:
    """The certificates of both ends of this file's connections, and what is expected of them."""

    def __init__(self, certs):
        authority = certs.authority()
        self.authority = authority
        self.files = {
            side: certificate(authority, f"attributes-{side}", subject=text_name(**subject), sans=_sans(side),
                              serial=SERIALS[side].to_bytes(20, "big") if side == "peer" else b"\x3a\xde\x68\xb1")
            for side, subject in (("peer", PEER), ("my", MINE))}
        self.pem = {side: pem.read_text() for side, (pem, _) in self.files.items()}
        self.ca_pem = certs.pem("ca").read_text()
        self.issuer = {a.oid.dotted_string: a.value for a in authority.cert.subject}

    def issuer_field(self, number: str) -> str:
        return self.issuer.get(number, NULL)


@pytest.fixture(scope="module")
def pair(certs):
    return Pair(certs)


def _params(pair, certs, side="my", **more):
    pem, key = pair.files[side]
    return certs.server_params(ca_list=str(certs.calist), **{"verify_certificate": 1} | more) | {
        "certificate": str(pem), "private_key": str(key)}


@pytest.fixture
def ser(pool, certs, pair):
    return pool.get(tls=_params(pair, certs, cipher_list="ALL:@SECLEVEL=0"), route=ASK, events=WEBSOCKET,
                    modules=("xhttp", "websocket"), core=f"tcp_accept_no_cl=yes\n{WIDE}")


def _context(certs, files, **more):
    context = certs.client_context(**more)
    context.load_cert_chain(*files)
    return context


def ask(client, *what: str) -> list[str]:
    reply = client.ask(headers=["X-Ask: " + SEPARATOR.join(what)])
    values = reply.body.decode().split(SEPARATOR)
    assert len(values) == len(what), reply.body
    return values


def ask_all(client, expected: dict[str, str]) -> None:
    paths, got = list(expected), {}
    for i in range(0, len(paths), 40):  # a text of SER has a limit
        got |= zip(paths[i:i + 40], ask(client, *paths[i:i + 40]))
    assert got == expected


# -- the tables -----------------------------------------------------------------------------

NAME_FIELDS = {
    "CN": ("2.5.4.3", ["cn", "commonName", "common_name", "name"], "cn"),
    "L": ("2.5.4.7", ["l", "localityName", "locality_name", "locality"], "locality"),
    "C": ("2.5.4.6", ["c", "countryName", "country_name", "country"], "country"),
    "ST": ("2.5.4.8", ["st", "stateOrProvinceName", "state_or_province_name", "state"], "state"),
    "O": ("2.5.4.10", ["o", "organizationName", "organization_name", "organization"], "organization"),
    "OU": ("2.5.4.11", ["ou", "organizationalUnitName", "organizational_unit_name", "unit"], "unit"),
    "UID": ("0.9.2342.19200300.100.1.1", ["uid", "uniqueIdentifier", "unique_identifier"], "uid"),
}
SAN_TYPES = {
    "email": (["email", "emailAddress", "email_address"], "email", "EMAIL",
              ["noc@{}.example.com", "abuse@{}.example.com"]),
    "dns": (["host", "hostname", "dns"], "hostname", "DNS", [DOMAIN, "{}2.example.com"]),
    "uri": (["uri", "url", "urn"], "uri", "URI", ["sip:{}.example.com", "urn:uuid:{}"]),
    "ip": (["ip", "IPAddress", "ip_address"], "ip", "IP", ["127.0.0.1", "2001:db8:0:0:0:0:0:1"]),
}
SIDES = {"peer": (["peer"], PEER), "my": (["my", "me", "myself"], MINE)}


def _line(subject: dict[str, str]) -> str:
    def escape(value: str) -> str:
        return "".join(chr(b) if 0x20 <= b < 0x7f and b not in b"/\\" else f"\\x{b:02X}" for b in value.encode())
    return "".join(f"/{key}={escape(value)}" for key, value in subject.items())


def _issuer_line(pair) -> str:
    names = {number: key for key, (number, _, _) in NAME_FIELDS.items()}
    return "".join(f"/{names[number]}={value}" for number, value in pair.issuer.items())


def connection_rows(client, tls: V) -> dict[str, str]:
    name, version, bits = client.tls.cipher()
    rows = {"@tls.version": {V.TLSv1_3: "TLSv1.3", V.TLSv1_2: "TLSv1.2"}[tls], "@tls.cipher": name,
            "@tls.cipher.bits": str(bits), "@tls.server_name": DOMAIN, "@tls.serverName": DOMAIN}
    variables = {"$tls_version": rows["@tls.version"], "$tls_cipher_info": name, "$tls_cipher_bits": str(bits),
                 "$tls_peer_server_name": DOMAIN}
    return _as_variables(rows) | variables


def _as_variables(selects: dict[str, str]) -> dict[str, str]:
    """Selects in the form that a text can hold."""
    return {f"$sel({path.removeprefix('@')})": value for path, value in selects.items()}


def certificate_rows(pair, side: str) -> dict[str, str]:
    names, subject = SIDES[side]
    pem = pair.pem[side]
    single = {
        ("version",): "2", ("raw_cert", "rawCert"): pem,
        ("urlencoded_cert", "URLEncodedCert"): urllib.parse.quote(pem, safe="-_.~").replace("%2B", "%2b")
        .replace("%0A", "%0a").replace("%2F", "%2f").replace("%3D", "%3d"),
        ("sn", "serialNumber", "serial_number"): str(SERIALS[side]),
        ("not_before", "notBefore"): "Jan  2 03:04:05 2020 GMT", ("not_after", "notAfter"): "Dec 31 23:59:59 2048 GMT",
    }
    rows = {}
    for c in (f"@tls.{name}" for name in names):
        rows[c] = subject["CN"]
        rows |= {f"{c}.{word}": value for words, value in single.items() for word in words}
        for words, _, _, values in SAN_TYPES.values():
            values = [value.format(side) for value in values]
            for word in words:
                rows |= {f"{c}.{word}": values[0], f"{c}.{word}[0]": values[0], f"{c}.{word}[1]": values[1],
                         f"{c}.{word}[-1]": values[1], f"{c}.{word}[2]": NULL, f"{c}.{word}[-3]": NULL,
                         f"{c}.count.{word}": "2"}
        for n in ("subject", "subj", "issuer"):
            rows[f"{c}.{n}"] = subject["CN"] if n != "issuer" else pair.issuer_field("2.5.4.3")
            for key, (number, words, _) in NAME_FIELDS.items():
                value = pair.issuer_field(number) if n == "issuer" else subject[key]
                rows |= {f"{c}.{n}.{word}": value for word in words}
    return rows


def certificate_variables(pair, side: str) -> dict[str, str]:
    subject, start = SIDES[side][1], f"$tls_{side}_"
    selects = certificate_rows(pair, side)
    of = f"@tls.{side}."
    rows = {start + name: selects[of + word] for name, word in
            {"raw_cert": "raw_cert", "urlencoded_cert": "urlencoded_cert", "version": "version", "serial": "sn",
             "notBefore": "not_before", "notAfter": "not_after"}.items()}
    lines = {"subject": _line(subject), "issuer": _issuer_line(pair)}
    for n, line in lines.items():
        rows |= {f"{start}{n}": line, f"$tls({side[0]}_{n}_line)": line}
        for key, (number, _, name) in NAME_FIELDS.items():
            rows[f"{start}{n}_{name}"] = subject[key] if n == "subject" else pair.issuer_field(number)
    for _, name, count, values in SAN_TYPES.values():
        values = [value.format(side) for value in values]
        san = f"tls_{side}_san_{name}"
        rows |= {f"${san}": values[0], f"$({san}[0])": values[0], f"$({san}[1])": values[1], f"$({san}[-1])": values[1],
                 f"$({san}[2])": NULL, f"$tls_{side}_san_count({count})": "2"}
    return rows


PEER_ROWS = {"verified": ("verified", "1"), "revoked": ("revoked", "0"), "expired": ("expired", "0"),
             "self_signed": ("selfsigned", "0")}


def peer_rows(pair) -> dict[str, str]:
    rows = {f"@tls.peer.{word}": value for word, (_, value) in PEER_ROWS.items()}
    rows |= {f"@tls.my.{word}": NULL for word in PEER_ROWS}
    rows |= {"@tls.peer.verified_cert_chain[0]": pair.pem["peer"], "@tls.peer.verified_cert_chain[1]": pair.ca_pem,
             "@tls.peer.verified_cert_chain[-1]": pair.ca_pem, "@tls.peer.verified_cert_chain[2]": NULL,
             "@tls.my.verified_cert_chain[0]": NULL}
    return _as_variables(rows) | {f"$tls_peer_{name}": value for name, value in PEER_ROWS.values()}


def all_rows(pair, client, tls: V) -> dict[str, str]:
    rows = connection_rows(client, tls) | peer_rows(pair)
    for side in SIDES:
        rows |= _as_variables(certificate_rows(pair, side)) | certificate_variables(pair, side)
    return rows


PATHS = {"tls13": (V.TLSv1_3, {}), "tls12": (V.TLSv1_2, {}),
         "cbc": (V.TLSv1_2, {"ciphers": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"})}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [TlsClient, WssClient], ids=["tls", "wss"])
def test_every_row(ser, certs, pair, kind, path):
    tls, more = PATHS[path]
    with kind(ser.tls_port, _context(certs, pair.files["peer"], high=tls, **more)) as client:
        ask_all(client, all_rows(pair, client, tls))
        bare, desc, description, variable = ask(client, "$sel(tls)", "$sel(tls.desc)", "$sel(tls.description)",
                                                "$tls_description")
        assert bare == desc == description == variable
        assert bare.split()[0] == client.suite() and "Enc=" in bare and bare == bare.strip(), bare
