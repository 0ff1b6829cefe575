# SPDX-License-Identifier: ISC
"""Selects, pseudo-variables and functions that ask about a connection: every row, on every kind of connection."""
from __future__ import annotations

import hashlib
import re
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


def test_nothing_without_tls(ser, certs, pair):
    with TlsClient(ser.tls_port, _context(certs, pair.files["peer"])) as client:
        rows = all_rows(pair, client, V.TLSv1_3)
    with TcpClient(ser.tcp_port) as client:
        ask_all(client, dict.fromkeys([*rows, "$sel(tls)", "$tls_description"], NULL))


def test_without_a_certificate_of_the_peer(ser, certs, pair):
    context = certs.client_context()
    context.check_hostname = False
    with TlsClient(ser.tls_port, context, name=None) as client:
        rows = certificate_rows(pair, "peer")
        ask_all(client, dict.fromkeys([*_as_variables(rows), *certificate_variables(pair, "peer")], NULL))
        ask_all(client, _as_variables(certificate_rows(pair, "my")))
        ask_all(client, {f"$tls_peer_{name}": "0" for name, _ in PEER_ROWS.values()})
        ask_all(client, {"$tls_peer_server_name": NULL, "$sel(tls.server_name)": NULL})


def test_a_resumed_session_knows_the_peer(ser, certs, pair):
    context = _context(certs, pair.files["peer"])
    with TlsClient(ser.tls_port, context) as client:
        client.ask()
        session = client.tls.session
    with TlsClient(ser.tls_port, context, session=session) as client:
        assert client.tls.session_reused
        ask_all(client, _as_variables(certificate_rows(pair, "peer")) | {
            "$tls_peer_verified": "1", "$sel(tls.peer.verified_cert_chain[0])": pair.pem["peer"],
            "$sel(tls.peer.verified_cert_chain[1])": NULL})


def test_an_index_that_is_a_variable(ser, certs, pair):
    with TlsClient(ser.tls_port, _context(certs, pair.files["peer"])) as client:
        reply = client.ask(headers=["X-Index: 1", "X-Ask: $(tls_peer_san_uri[$(hdr(X-Index){s.int})])"])
        assert reply.body == b"urn:uuid:peer"


# Selects as a route has them, and numbers.
NATIVE = r"""
	$var(n) = 0;
	if (@tls.peer.verified == "1") { $var(n) = $var(n) + 1; }
	if (@tls.PEER.Subj.CommonName == "peer.example.com") { $var(n) = $var(n) + 1; }
	if (@tls.peer.uri[1] == "urn:uuid:peer" && @tls.my.dns[-1] == "my2.example.com") { $var(n) = $var(n) + 1; }
	if (defined @tls.peer.dns[1] && !defined @tls.peer.dns[2]) { $var(n) = $var(n) + 1; }
	if ($tls_peer_verified == 1 && $tls_peer_expired == 0 && $tls_cipher_bits > 100) { $var(n) = $var(n) + 1; }
	if ($tls_peer_san_count(DNS) == 2 && $tls_my_san_count(ip) > 1) { $var(n) = $var(n) + 1; }
	if ($tls_peer_subject_cn != $tls_my_subject_cn && $tls_peer_subject_cn != $null) { $var(n) = $var(n) + 1; }
	append_to_reply("X-Native: $var(n)\r\n");
	$var(i) = 0;
	$var(all) = "";
	while ($var(i) < $tls_peer_san_count(DNS)) {
		$var(all) = $var(all) + $(tls_peer_san_hostname[$var(i)]) + " ";
		$var(i) = $var(i) + 1;
	}
	append_to_reply("X-All: $var(all)\r\n");
"""


@pytest.mark.parametrize("kind", [TlsClient, WssClient], ids=["tls", "wss"])
def test_in_a_route(pool, certs, pair, kind):
    ser = pool.get(tls=_params(pair, certs), route=NATIVE, events=WEBSOCKET, modules=("xhttp", "websocket"),
                   core=f"tcp_accept_no_cl=yes\n{WIDE}")
    with kind(ser.tls_port, _context(certs, pair.files["peer"])) as client:
        reply = client.ask()
        assert reply.get("X-Native") == "7"
        assert reply.get("X-All") == f"{DOMAIN} peer2.example.com"


BAD = ["$sel(tls.peer.nothing)", "$sel(tls.peer.cn)", "$sel(tls.peer.subject[1])", "$sel(tls.peer.verified_cert_chain)",
       "$sel(tls.peer.subject.cn.x)", "$sel(tls.count.dns)", "$sel(tls.peer.count)", "$sel(tls.peer.count.verified)",
       "$(tls_peer_san_uri[*])", "$tls(x_subject_line)", "$tls_peer_san_count(X)", "$(tls_version[1])"]


def test_what_there_is_not(ser, certs, pair):
    with TlsClient(ser.tls_port, _context(certs, pair.files["peer"])) as client:
        for what in BAD:
            assert ask(client, what) == ["cannot be evaluated"], what


@pytest.mark.parametrize("select", ["@tls.peer.verifed", "@tls.peer.subject.cn.x", "@tls.version[1]"])
def test_a_misspelled_select_stops_the_start(pool, certs, pair, select):
    """The host alone would start; a condition on it would never hold."""
    log = pool.fresh(tls=_params(pair, certs), route=f'if ({select} == "1") {{ drop; }}').start_failure()
    assert f"tls: there is no select {select}\n" in log


# -- other routes ---------------------------------------------------------------------------

RELAY = r"""
	if ($hdr(X-Later) != $null) {
		$avp(ask) = $hdr(X-Later);
		$avp(for) = $hdr(X-For);
		t_on_reply("LATER");
		t_on_branch("LATER");
		t_on_failure("LATER");
		t_relay();
		exit;
	}
"""
LATER = r"""
route[MAY] {
	$var(may) = "no";
	if (tls_peer_may_speak_for("$avp(for)")) { $var(may) = "yes"; }
	if (is_peer_verified()) { $var(may) = $var(may) + " verified"; }
	pv_evalx("$var(got)", "$avp(ask)");
}
onreply_route[LATER] {
	route(MAY);
	append_hf("X-Reply-May: $var(may)\r\nX-Reply: $(var(got){s.encode.hexa})\r\n");
}
branch_route[LATER] {
	route(MAY);
	append_hf("X-Branch-May: $var(may)\r\nX-Branch: $(var(got){s.encode.hexa})\r\n");
}
failure_route[LATER] {
	route(MAY);
	append_to_reply("X-Failure-May: $var(may)\r\nX-Failure: $(var(got){s.encode.hexa})\r\n");
	t_reply("480", "Not there");
}
"""


def _later(message, where: str, rows: dict[str, str]) -> None:
    got = bytes.fromhex(message.get(where) or "").decode().split(SEPARATOR)
    assert dict(zip(rows, got)) == rows


@pytest.fixture
def relay(pool, certs, pair):
    return pool.get(tls=_params(pair, certs), route=RELAY, events=LATER, core=WIDE)


@pytest.mark.parametrize("tls", [V.TLSv1_3, V.TLSv1_2], ids=["tls13", "tls12"])
def test_of_the_server_that_a_reply_came_from(relay, certs, pair, tls):
    """SER is the client there; the request came by UDP."""
    context = certs.server_context(high=tls, ask_client=True)
    context.load_cert_chain(*pair.files["peer"])
    rows = {key: value for side in SIDES for key, value in certificate_variables(pair, side).items()
            if "cert" not in key}
    rows |= {"$tls_peer_verified": "1", "$tls_version": "TLSv1.3" if tls == V.TLSv1_3 else "TLSv1.2",
             "$tls_peer_server_name": NULL}
    with Endpoint(context) as endpoint, UdpClient(relay.udp_port) as caller:
        reply = caller.ask("OPTIONS", endpoint.uri,
                           headers=["X-Later: " + SEPARATOR.join(rows), "X-For: peer.example.com"])
        assert reply.status == 200
        _later(reply, "X-Reply", rows)
        assert reply.get("X-Reply-May") == "yes verified"
        request = endpoint.messages()[0]
        _later(request, "X-Branch", dict.fromkeys(rows, NULL))
        assert request.get("X-Branch-May") == "no"


def test_branch_and_failure_routes_ask_of_the_request(relay, certs, pair):
    rows = {"$tls_peer_subject_cn": PEER["CN"], "$tls_my_subject_cn": MINE["CN"], "$tls_peer_verified": "1",
            "$tls_cipher_bits": "256"}
    headers = ["X-Later: " + SEPARATOR.join(rows), "X-For: Peer.EXAMPLE.com"]
    with TlsClient(relay.tls_port, _context(certs, pair.files["peer"])) as client, \
            Endpoint(certs.server_context()) as endpoint:
        assert client.ask("OPTIONS", endpoint.uri, headers=headers).status == 200
        request = endpoint.messages()[0]
        _later(request, "X-Branch", rows)
        assert request.get("X-Branch-May") == "yes verified"
        endpoint.status = "404 Not found"
        reply = client.ask("OPTIONS", endpoint.uri, headers=headers)
        assert reply.status == 480
        _later(reply, "X-Failure", rows)
        assert reply.get("X-Failure-May") == "yes verified"


SEEN = ('xlog("L_NOTICE", "seen %s: $tls_version $tls_peer_subject_cn $tls_my_subject_cn $tls_peer_verified\\n");'
        'if (is_peer_verified()) { xlog("L_NOTICE", "seen %s: is verified\\n"); }')
ROUTES = {
    "route[LATER]": ("async", 't_reply("200", "Later");'), "onsend_route": ("onsend", ""),
    "reply_route": ("corereply", ""), "event_route[core:pre-routing]": ("pre", ""),
    "event_route[tm:branch-failure:LATER]": ("branchfailure", ""), "event_route[tcp:closed]": ("closed", ""),
    "event_route[core:worker-one-init]": ("init", ""), "event_route[core:msg-received]": ("received", ""),
    "event_route[tls:connection-in]": ("in", 'sl_send_reply("200", "Inside"); t_newtran(); t_reply("404", "Inside");'),
    "event_route[tls:connection-out]": ("out", 'sl_send_reply("200", "Inside");'),
}


def test_in_routes_of_every_other_type(pool, certs, pair):
    """A value where there is a message of the connection, none elsewhere; replies may be sent anywhere."""
    events = "\n".join(f"{head} {{ {SEEN % (name, name)} {more} }}" for head, (name, more) in ROUTES.items())
    ser = pool.fresh(
        tls=_params(pair, certs), events=events, modules=("tcpops",), params=(("tcpops", "closed_event", 1),),
        core=f"received_route_mode=1\nonsend_route_reply=yes\n{WIDE}",
        raw='loadmodule "async.so"\nmodparam("async", "workers", 1)',
        route='if (is_method("NOTIFY")) { t_newtran(); async_route("LATER", "1"); exit; }\n'
              'if (is_method("MESSAGE")) { t_on_branch_failure("LATER"); t_relay(); exit; }').start()
    context = certs.server_context()
    with Endpoint(context) as endpoint, TlsClient(ser.tls_port, _context(certs, pair.files["peer"])) as client:
        assert client.ask("NOTIFY").status == 200
        endpoint.status = "486 Busy Here"
        assert client.ask("MESSAGE", endpoint.uri).status == 486
    ser.wait_log("seen closed:")
    seen = {}
    for name, text in re.findall(r"seen (\w+): (.*)", ser.log()):
        seen.setdefault(name, set()).add(text)
    there = f"TLSv1.3 {PEER['CN']} {MINE['CN']} 1"
    for name in ("async", "branchfailure", "in", "pre", "onsend"):
        assert {there, "is verified"} <= seen[name], (name, seen)
    for name in ("out", "corereply"):
        assert f"TLSv1.3 {DOMAIN} {MINE['CN']} 1" in seen[name], (name, seen)
    for name in ("init", "received", "closed"):
        assert seen[name] == {f"{NULL} {NULL} {NULL} {NULL}"}, (name, seen)


def test_in_the_event_route_of_a_connection(pool, certs, pair):
    ser = pool.get(tls=_params(pair, certs), events="""
event_route[tls:connection-out] {
	$var(may) = "no";
	if (is_peer_verified() && tls_peer_may_speak_for("peer.example.com")) { $var(may) = "yes"; }
	xlog("L_WARN", "out: $tls_peer_subject_cn $tls_my_subject_cn $tls_version $sel(tls.peer.uri[1]) $var(may)\\n");
}
""")
    context = certs.server_context()
    context.load_cert_chain(*pair.files["peer"])
    with Endpoint(context) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200
        ser.wait_log(rf"out: {PEER['CN']} {MINE['CN']} TLSv1.3 urn:uuid:peer yes$", since=ser.test_mark)


# -- who the peer may speak for -------------------------------------------------------------

SPEAKS = r"""
	if (tls_peer_may_speak_for("$hdr(X-For)")) { append_to_reply("X-May: yes\r\n"); }
""" + ASK


def _speaker(pool, certs, pair, **more):
    return pool.get(tls=_params(pair, certs, verify_client="optional_no_ca", verify_certificate=0, **more),
                    route=SPEAKS, events=WEBSOCKET, modules=("xhttp", "websocket"),
                    core=f"tcp_accept_no_cl=yes\n{WIDE}")


@pytest.fixture
def speaker(pool, certs, pair):
    return _speaker(pool, certs, pair)


def may(client, domain: str) -> bool:
    return client.ask(headers=[f"X-For: {domain}"]).get("X-May") == "yes"


@pytest.mark.parametrize("kind", [TlsClient, WssClient], ids=["tls", "wss"])
def test_may_speak_for(speaker, certs, pair, kind):
    with kind(speaker.tls_port, _context(certs, pair.files["peer"])) as client:
        for domain in ("peer.example.com", "PEER.example.COM", "peer.example.com."):
            assert may(client, domain), domain
        # The DNS names do not count beside a sip URI; a name is a host and nothing else.
        for domain in (DOMAIN, "peer2.example.com", "example.com", "x.peer.example.com", "sip:peer.example.com",
                       "peer.example.com:5061", "*.example.com", "127.0.0.1", "peer.example.com, x", "x" * 255,
                       "peer.example.com" + "." * 240, "peer"):
            assert not may(client, domain), domain
        assert client.ask().get("X-May") is None, "no value"


def test_may_speak_for_nobody(speaker, certs, pair):
    san = [(URI, b"sip:peer.example.com")]
    itself = certificate(pair.authority, "self-signed", subject=text_name(CN="peer.example.com"), sans=san,
                         self_signed=True)
    late = certificate(pair.authority, "expired", sans=san, not_after=(UTC, b"210101000000Z"))
    for context in (_context(certs, itself), _context(certs, late), certs.client_context(),
                    certs.client_context("foreign-client")):
        with TlsClient(speaker.tls_port, context) as client:
            assert not may(client, "peer.example.com")
    with TcpClient(speaker.tcp_port) as client:
        assert not may(client, "peer.example.com")


def test_may_speak_for_names_without_sip_uri(speaker, certs, pair):
    dns = certificate(pair.authority, "dns-only", sans=[(DNS, b"a.example.com"), (DNS, b"b.example.com")],
                      subject=text_name(CN="cn.example.com"))
    with TlsClient(speaker.tls_port, _context(certs, dns)) as client:
        assert may(client, "a.example.com") and may(client, "b.example.com") and not may(client, "cn.example.com")
    cn = certificate(pair.authority, "cn-only", subject=text_name(CN="cn.example.com"))
    with TlsClient(speaker.tls_port, _context(certs, cn)) as client:
        assert may(client, "cn.example.com") and not may(client, "a.example.com")
    nul = certificate(pair.authority, "nul", sans=[(URI, b"sip:good.example.com\0.evil.example"),
                                                   (DNS, b"good.example.com\0.evil.example")])
    with TlsClient(speaker.tls_port, _context(certs, nul)) as client:
        assert not may(client, "good.example.com")


# -- what is wrong with a certificate -------------------------------------------------------


def _verdict(client) -> dict[str, str]:
    names = ("verified", "revoked", "expired", "selfsigned")
    return dict(zip(names, ask(client, *(f"$tls_peer_{name}" for name in names))))


def test_verdicts(pool, speaker, certs, pair):
    old = (UTC, b"210101000000Z")
    subject = text_name(CN="someone")
    kinds = {
        "good": (dict(), "1000"), "expired": (dict(not_after=old), "0010"),
        "itself": (dict(self_signed=True), "0001"), "itself-expired": (dict(self_signed=True, not_after=old), "0011"),
    }
    for name, (more, verdict) in kinds.items():
        files = certificate(pair.authority, f"verdict-{name}", subject=subject, **more)
        with TlsClient(speaker.tls_port, _context(certs, files)) as client:
            assert "".join(_verdict(client).values()) == verdict, name
            chain = ask(client, "$sel(tls.peer.verified_cert_chain[0])")[0]
            assert (chain == NULL) == (name != "good")
    with TlsClient(speaker.tls_port, certs.client_context("foreign-client")) as client:
        assert set(_verdict(client).values()) == {"0"}


def test_revoked(pool, certs, pair):
    from cryptography import x509
    crl = certs.path / "attributes-crl.pem"
    files = {name: certificate(pair.authority, f"revoked-{name}", subject=text_name(CN="someone"), **more)
             for name, more in {"now": {}, "and-expired": {"not_after": (UTC, b"210101000000Z")}}.items()}
    crl.write_bytes(pair.authority.crl(*(x509.load_pem_x509_certificate(pem.read_bytes())
                                         for pem, _ in files.values())))
    crl.chmod(0o644)
    ser = _speaker(pool, certs, pair, crl=str(crl))
    for name, verdict in (("now", "0100"), ("and-expired", "0110")):
        with TlsClient(ser.tls_port, _context(certs, files[name])) as client:
            assert "".join(_verdict(client).values()) == verdict, name
    with TlsClient(ser.tls_port, _context(certs, pair.files["peer"])) as client:
        assert "".join(_verdict(client).values()) == "1000"


# -- certificates that want to deceive ------------------------------------------------------


def cn(kind: int, value: bytes) -> dict:
    return {"subject": [("CN", kind, value)]}


def dns(*names: bytes) -> dict:
    return {"sans": [(DNS, name) for name in names]}


def line(text: str) -> dict[str, str]:
    return {"$tls_peer_subject": text, "$tls(p_subject_line)": text}


CN = "$tls_peer_subject_cn"
HOST = "$tls_peer_san_hostname"
MANY = [b"host%03d.example.com" % n for n in range(300)]

# What OpenSSL refuses to read, so that no handshake brings it, is in test/unit/test_x509.c.
HOSTILE: dict[str, tuple[dict, dict[str, str]]] = {
    "utf8": (cn(UTF8, "日本語 ü".encode()), {CN: "日本語 ü"}),
    "utf8, 4 bytes": (cn(UTF8, "😀".encode()), {CN: "😀"} | line("/CN=\\xF0\\x9F\\x98\\x80")),
    "bmp": (cn(BMP, "Zürich 日".encode("utf-16-be")), {CN: "Zürich 日"}),
    "universal": (cn(UNIVERSAL, "Zürich 😀".encode("utf-32-be")), {CN: "Zürich 😀"}),
    "teletex": (cn(T61, b"Wien"), {CN: "Wien"}),
    "teletex beyond ASCII": (cn(T61, "Zürich".encode("latin-1")), {CN: NULL} | line(NULL)),
    "ia5": (cn(IA5, b"a@b"), {CN: "a@b"}),
    "printable that is not": (cn(PRINTABLE, b"Z\xfcrich"), {CN: NULL} | line(NULL)),
    "nul": (cn(UTF8, b"good.example.com\0.evil"), {CN: NULL} | line(NULL)),
    "nul in printable": (cn(PRINTABLE, b"good\0evil"), {CN: NULL}),
    "nul in bmp": (cn(BMP, "good\0evil".encode("utf-16-be")), {CN: NULL}),
    "line feed": (cn(UTF8, b"a\r\nX-Evil: b"), {CN: NULL} | line(NULL)),
    "escape": (cn(UTF8, b"a\x1b[2Jb"), {CN: NULL}),
    "control beyond ASCII": (cn(UTF8, "a\x85b".encode()), {CN: NULL}),
    "empty": (cn(UTF8, b""), {CN: ""} | line("/CN=")),
    "no name": ({}, {CN: NULL, "$tls_peer_subject_organization": NULL} | line("")),
    "slash": (cn(UTF8, b"a/CN=b\\"), {CN: "a/CN=b\\"} | line("/CN=a\\x2FCN=b\\x5C")),
    "several": ({"subject": [("OU", UTF8, b"one"), ("OU", UTF8, b"two"), ("1.2.3.4", UTF8, b"three")]},
                {"$tls_peer_subject_unit": "one"} | line("/OU=one/OU=two/1.2.3.4=three")),
    "one field wrong": ({"subject": [("O", UTF8, b"fine"), ("OU", UTF8, b"a\0b"), ("CN", UTF8, b"good")]},
                        {"$tls_peer_subject_organization": "fine", "$tls_peer_subject_unit": NULL, CN: "good"}
                        | line(NULL)),
    "long name": (cn(UTF8, b"x" * 5000), {CN: "x" * 5000} | line("/CN=" + "x" * 5000)),
    "dns with nul": (dns(b"good.example.com\0.evil", b"second.example.com"),
                     {HOST: NULL, f"$({HOST[1:]}[1])": "second.example.com", "$tls_peer_san_count(DNS)": "2"}),
    "dns beyond ASCII": (dns("ü.example.com".encode()), {HOST: NULL}),
    "dns, empty": (dns(b""), {HOST: "", "$tls_peer_san_count(DNS)": "1"}),
    "email and uri with nul": ({"sans": [(EMAIL, b"a@b\0c"), (URI, b"sip:a\0b")]},
                               {"$tls_peer_san_email": NULL, "$tls_peer_san_uri": NULL}),
    "uri with line feed": ({"sans": [(URI, b"sip:a\r\nb")]}, {"$tls_peer_san_uri": NULL}),
    "ip of 5 bytes": ({"sans": [(IP, b"\x7f\0\0\1\1"), (IP, b"\x0a\0\0\1")]},
                      {"$tls_peer_san_ip": NULL, "$(tls_peer_san_ip[1])": "10.0.0.1"}),
    "ip, empty": ({"sans": [(IP, b"")]}, {"$tls_peer_san_ip": NULL}),
    "other name only": ({"sans": [(OTHER, oid("1.2.3") + tlv(0xA0, tlv(UTF8, b"a.example.com")))]},
                        {HOST: NULL, "$tls_peer_san_uri": NULL, "$tls_peer_san_count(DNS)": "0"}),
    "300 names": (dns(*MANY), {"$tls_peer_san_count(DNS)": "300", f"$({HOST[1:]}[299])": "host299.example.com",
                               f"$({HOST[1:]}[-300])": "host000.example.com", f"$({HOST[1:]}[300])": NULL,
                               f"$({HOST[1:]}[-301])": NULL, f"$({HOST[1:]}[2147483647])": NULL,
                               f"$({HOST[1:]}[-2147483647])": NULL}),
    "no names": ({"sans": []}, {HOST: NULL, "$tls_peer_san_count(DNS)": "0"}),
    "negative serial": ({"serial": b"\xff"}, {"$tls_peer_serial": "-1"}),
    "big negative serial": ({"serial": b"\x80" + b"\0" * 19}, {"$tls_peer_serial": str(-(1 << 159))}),
    "zero serial": ({"serial": b"\0"}, {"$tls_peer_serial": "0"}),
    "serial of 100 bytes": ({"serial": b"\x7f" * 100}, {"$tls_peer_serial": str(int.from_bytes(b"\x7f" * 100, "big"))}),
    "serial of 5000 bytes": ({"serial": b"\x7f" * 5000}, {"$tls_peer_serial": NULL}),
    "after 2050": ({"not_after": (GENERALIZED, b"20991231235959Z")},
                   {"$tls_peer_notAfter": "Dec 31 23:59:59 2099 GMT"}),
    "year 9999": ({"not_after": (GENERALIZED, b"99991231235959Z")}, {"$tls_peer_notAfter": "Dec 31 23:59:59 9999 GMT"}),
    "1950": ({"not_before": (UTC, b"500101000000Z")}, {"$tls_peer_notBefore": "Jan  1 00:00:00 1950 GMT"}),
    "time with a fraction": ({"not_after": (GENERALIZED, b"20491231235959.5Z")}, {"$tls_peer_notAfter": NULL}),
    "time of a zone": ({"not_after": (UTC, b"481231235959+0100")}, {"$tls_peer_notAfter": NULL}),
    "no time": ({"not_after": (UTC, b"481331235959Z")}, {"$tls_peer_notAfter": NULL}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_right_or_null(speaker, certs, pair, case):
    more, expected = HOSTILE[case]
    files = certificate(pair.authority, "hostile", **more)
    with TlsClient(speaker.tls_port, _context(certs, files)) as client:
        ask_all(client, expected | {"$sel(tls.peer.raw_cert)": files[0].read_text()})


@pytest.fixture(scope="module")
def big(pair):
    """A certificate of 64 KB."""
    return certificate(pair.authority, "big", subject=text_name(CN="big"), sans=[(DNS, b"big.example.com")],
                       extensions=[extension("1.2.3.4.5", b"x" * 65000)])


def test_big(speaker, certs, pair, big):
    pem = big[0].read_text()
    encoded = urllib.parse.quote(pem, safe="-_.~")
    size = {"raw_cert": len(pem), "urlencoded_cert": len(encoded)}
    with TlsClient(speaker.tls_port, _context(certs, big)) as client:
        ask_all(client, {f"$(tls_peer_{name}{{s.len}})": str(n) for name, n in size.items()}
                | {"$(tls_peer_raw_cert{s.md5})": hashlib.md5(pem.encode()).hexdigest(), CN: "big",
                   HOST: "big.example.com"})


def test_big_in_tls_1_2(speaker, certs, pair):
    """Its ticket, which holds the certificate, ends at 64 KB."""
    files = certificate(pair.authority, "big12", subject=text_name(CN="big"),
                        extensions=[extension("1.2.3.4.5", b"x" * 60000)])
    with TlsClient(speaker.tls_port, _context(certs, files, high=V.TLSv1_2)) as client:
        ask_all(client, {CN: "big", "$(tls_peer_raw_cert{s.len})": str(len(files[0].read_text()))})


def _memory_of(speaker, context, cn: str, count: int = 10) -> int:
    """Shared memory while so many connections with that certificate are open."""
    clients = [TlsClient(speaker.tls_port, context) for _ in range(count)]
    for client in clients:
        assert ask(client, CN) == [cn]
    used = speaker.shm_used()
    for client in clients:
        client.close()
    speaker.wait_connections(0)
    return used


def test_one_copy_in_shared_memory(speaker, certs, pair, big):
    small = _context(certs, pair.files["peer"])
    _memory_of(speaker, small, PEER["CN"])
    before = speaker.shm_used()
    usual = _memory_of(speaker, small, PEER["CN"])
    much = _memory_of(speaker, _context(certs, big), "big")
    assert 60000 < much - usual < 100000
    assert abs(speaker.shm_used() - before) < 10000, "it goes with the last connection"


def test_the_peer_closes_while_a_route_runs(pool, certs, pair):
    ser = pool.get(tls=_params(pair, certs), modules=("cfgutils",), debug=2,
                   route='if ($hdr(X-Late) == $null) { sl_send_reply("200", "OK"); exit; } usleep("300000"); xlog("L_WARN", "late: $tls_peer_subject_cn $tls_my_subject_cn\\n");')
    for how in ("close", "rst"):
        mark = ser.mark()
        client = TlsClient(ser.tls_port, _context(certs, pair.files["peer"]))
        assert client.ask().status == 200
        client.send(client.build(uri=client.ser_uri, headers=["X-Late: yes"]))
        getattr(client, how)()
        ser.wait_log(rf"late: ({PEER['CN']} {MINE['CN']}|{NULL} {NULL})$", since=mark)
