# SPDX-License-Identifier: ISC
"""Client sections of tls.cfg: which one an outgoing connection takes, and what it does there."""
from __future__ import annotations

import ssl

import pytest

from certs import V
from clients import Endpoint, UdpClient
from domains import base, load, own, section, site
from ser import host_version

ROUTE = """
	if ($hdr(X-Id) != $null) {
		tls_set_connect_server_id("$hdr(X-Id)");
	}
	if ($hdr(X-Fixed) != $null) {
		tls_set_connect_server_id("fixed");
	}
	if ($hdr(X-Reset) != $null) {
		tls_set_connect_server_id("");
	}
	if ($hdr(X-Name) != $null) {
		$xavp(tls=>server_name) = $hdr(X-Name);
	}
	if ($hdr(X-Xid) != $null && $hdr(X-Name) != $null) {
		$xavp(tls[0]=>server_id) = $hdr(X-Xid);
	} else if ($hdr(X-Xid) != $null) {
		$xavp(tls=>server_id) = $hdr(X-Xid);
	}
"""
VERIFY = {"verify_certificate": "yes", "require_certificate": "yes"}


@pytest.fixture
def ser(pool, certs):
    return site(pool, certs, tls={"xavp_cfg": "tls"}, route=ROUTE, children=1)


class Server(Endpoint):
    """An endpoint that remembers the names that it was asked for and the certificates it was shown."""

    def __init__(self, certs, cert="server", **more):
        context = certs.server_context(cert, ask_client=True, **more)
        self.names: list[str | None] = []
        context.sni_callback = lambda sock, name, context: self.names.append(name)
        super().__init__(context)

    def shown(self):
        """The subject's common name that SER's certificate had in the last connection, or None."""
        cert = self.arrivals[-1].tls.getpeercert()
        return dict(pair[0] for pair in cert["subject"])["commonName"] if cert else None


def _ask(ser, server, *headers, status=200):
    """Sends a request through SER, on a new connection; returns the section's name."""
    with UdpClient(ser.udp_port) as caller:
        if status != 200:
            caller.send(caller.build("OPTIONS", server.uri, headers=headers))
            return ser.wait_failure(server.port)
        assert caller.ask("OPTIONS", server.uri, headers=headers).status == 200
    return ser.wait_established(server.port)["domain"]


def _at(server, port=None):
    return f"client:127.0.0.1:{server.port if port is None else port}"


def test_remote_address_and_port(ser, certs):
    with Server(certs) as one, Server(certs) as two:
        load(ser, base(certs), section(_at(one, 0), **own(certs, "client-rsa")), section(_at(one), **own(certs, "client")),
             section(f"client:127.0.0.1:{ser.tls_port}", **own(certs, "server-other")))
        assert _ask(ser, one) == _at(one) and one.shown() == "alice"
        assert _ask(ser, two) == _at(two, 0) and two.shown() == "bob"


def test_the_default_and_no_certificate(ser, certs):
    with Server(certs) as server:
        load(ser, base(certs), section("client:127.0.0.2:0", **own(certs)))
        assert _ask(ser, server) == "client:default"
        assert server.shown() is None and server.names == [None]


def test_a_section_clears_the_certificate(ser, certs):
    with Server(certs) as one, Server(certs) as two:
        load(ser, base(certs), section("client:default", **own(certs, "client")), section(_at(one), certificate=""))
        assert _ask(ser, one) == _at(one) and one.shown() is None
        assert _ask(ser, two) == "client:default" and two.shown() == "alice"


def test_a_sections_name_is_asked_for(ser, certs):
    with Server(certs) as server:
        load(ser, base(certs), section(_at(server), server_name="sip.carrier.example"))
        assert _ask(ser, server) == f"{_at(server)} sip.carrier.example"
        assert server.names == ["sip.carrier.example"]
        assert ser.wait_established(server.port)["sni"] == "sip.carrier.example"


LADDER = [  # headers, sections that there are, the one that is taken
    (("X-Id: x", "X-Name: n.example"), "IAPNZD", "I"), (("X-Id: X",), "IAPNZD", "I"),
    (("X-Xid: x",), "IAPNZD", "I"), (("X-Fixed: 1", "X-Xid: x"), "IAPNZD", "I"),
    (("X-Name: n.example",), "IAPNZD", "A"), (("X-Name: N.Example",), "PANZD", "A"),
    (("X-Name: n.example",), "PNZD", "N"), (("X-Name: n.example",), "PZD", "P"), (("X-Name: n.example",), "ZD", "Z"),
    (("X-Name: n.example",), "D", "D"), (("X-Id: unknown",), "IAPNZD", "P"), (("X-Id: unknown",), "IZD", "Z"),
    (("X-Name: other.example",), "IAPNZD", "P"), ((), "IAPNZD", "P"), ((), "NIZD", "Z"), ((), "IND", "D"),
]


@pytest.mark.parametrize("headers,there,want", LADDER, ids=str)
def test_server_id_then_name_and_address_then_address(ser, certs, headers, there, want):
    with Server(certs) as server:
        sections = {
            "I": ("client:any", {"server_id": "x"}, "client:any id=x"),
            "A": (_at(server), {"server_name": "n.example"}, f"{_at(server)} n.example"),
            "P": (_at(server), {}, _at(server)), "N": ("client:any", {"server_name": "n.example"}, "client:any n.example"),
            "Z": (_at(server, 0), {}, _at(server, 0)), "D": ("client:default", {}, "client:default"),
        }
        load(ser, base(certs), *(section(sections[one][0], **sections[one][1]) for one in there))
        assert _ask(ser, server, *headers) == sections[want][2]
        asked = [h.split(": ")[1] for h in headers if h.startswith("X-Name")]
        assert server.names == [asked[0] if asked else "n.example" if want in "AN" else None]


def test_an_empty_server_id_resets(ser, certs):
    with Server(certs) as one, Server(certs) as two:
        load(ser, base(certs), section("client:any", server_id="fixed"))
        assert _ask(ser, one, "X-Fixed: 1", "X-Reset: 1") == "client:default"
        assert _ask(ser, two, "X-Fixed: 1") == "client:any id=fixed"


def test_server_id_is_for_one_connection(ser, certs):
    with Server(certs) as one, Server(certs) as two:
        load(ser, base(certs), section("client:any", server_id="fixed"))
        assert _ask(ser, one, "X-Fixed: 1") == "client:any id=fixed"
        assert _ask(ser, two) == "client:default"


def test_xavp_is_for_its_message(ser, certs):
    with Server(certs) as one, Server(certs) as two:
        load(ser, base(certs), section("client:any", server_id="x", server_name="x.example"))
        assert _ask(ser, one, "X-Name: y.example", "X-Xid: x") == "client:any x.example id=x"
        assert one.names == ["y.example"]
        assert _ask(ser, two) == "client:default" and two.names == [None]


def test_xavp_before_the_function(ser, certs):
    with Server(certs) as server:
        load(ser, base(certs), section("client:any", server_id="fixed"), section("client:any", server_id="x"))
        assert _ask(ser, server, "X-Fixed: 1", "X-Name: n.example", "X-Xid: x") == "client:any id=x"


def test_too_long_a_server_id_is_an_error(ser, certs):
    with Server(certs) as server:
        load(ser, base(certs))
        mark = ser.mark()
        assert _ask(ser, server, f"X-Id: {'x' * 300}") == "client:default"
        ser.wait_log("ERROR: .*server_id", 2, mark)


@pytest.mark.skipif(host_version() < (6, 1), reason="hosts before 6.1 do not ask whether a connection fits")
def test_a_connection_is_not_used_for_another_section(pool, certs):
    ser = site(pool, certs, fresh=True, tls={"xavp_cfg": "tls"}, route=ROUTE, children=1,
               core="tls_connection_match_domain=yes")
    with Server(certs) as server, UdpClient(ser.udp_port) as caller:
        load(ser, base(certs), section("client:any", server_id="x"), section("client:any", server_id="fixed"))
        for headers, connections in (((), 1), (("X-Id: x",), 2), (("X-Id: X",), 2), (("X-Fixed: 1",), 3),
                                     (("X-Xid: x",), 3), (("X-Xid: x", "X-Name: n.example"), 4),
                                     (("X-Xid: x", "X-Name: N.example"), 4), ((), 4)):
            assert caller.ask("OPTIONS", server.uri, headers=headers).status == 200
            assert len(server.arrivals) == connections, headers


def test_a_name_that_is_an_address_is_not_sent(ser, certs):
    """RFC 6066: no literal addresses in server_name."""
    with Server(certs) as server:
        load(ser, base(certs))
        assert _ask(ser, server, "X-Name: 127.0.0.1") == "client:default"
        assert server.names == [None]


@pytest.mark.parametrize("rule", ["sip", "host"])
def test_the_name_asked_for_is_verified(ser, certs, rule):
    """Without verify_names: server_name of the section, or the route's."""
    strict = {"ca_list": certs.calist, "verify_name": rule, "server_name": "ser.example.org", **VERIFY}
    with Server(certs) as good, Server(certs) as bad, Server(certs, "server-other") as other:
        load(ser, base(certs), section("client:default", **strict))
        assert _ask(ser, good) == "client:default ser.example.org"
        assert ser.wait_established(good.port)["verified"] == "yes"
        line = _ask(ser, bad, "X-Name: wrong.example.org", status=0)
        assert line["expected"] == "wrong.example.org" and "ser.example.org" in line["presented"], line
        line = _ask(ser, other, status=0)
        assert (line["expected"], line["alert_sent"]) == ("ser.example.org", "bad_certificate")
        assert "other.example.net" in line["presented"]


def test_verify_names_before_the_name_asked_for(ser, certs):
    with Server(certs) as server:
        load(ser, base(certs), section("client:default", ca_list=certs.calist, verify_name="host", server_name="x.example",
                                       verify_names="ser.example.org", **VERIFY))
        _ask(ser, server)
        assert server.names == ["x.example"]


@pytest.mark.parametrize("high", [V.TLSv1_2, V.TLSv1_3], ids=lambda v: v.name)
def test_each_sections_own_rules(ser, certs, high):
    """Trust, versions and suites of the section, not of the default."""
    with Server(certs, high=high) as trusted, Server(certs, "foreign-server", high=high) as foreign, \
            Server(certs, high=high) as modern:
        load(ser, base(certs), section("client:default", ca_list=certs.calist, **VERIFY),
             section(_at(foreign), ca_list=certs.pem("foreign-ca"), cipher_list="TLS_CHACHA20_POLY1305_SHA256:ECDHE+CHACHA20"),
             section(_at(modern), method="TLSv1.3"))
        assert _ask(ser, trusted) == "client:default"
        assert _ask(ser, foreign) == _at(foreign)
        assert "CHACHA20" in ser.wait_established(foreign.port)["suite"]
        if high == V.TLSv1_2:
            assert _ask(ser, modern, status=0)["alert_received"] == "protocol_version"
        else:
            assert _ask(ser, modern) == _at(modern)


def test_an_unknown_server_id_is_told(ser, certs):
    load(ser, base(certs), section("client:any", server_id="fixed", **own(certs, "client")))
    mark = ser.mark()
    with Server(certs) as server:
        assert _ask(ser, server, "X-Fixed: 1") == "client:any id=fixed"
    assert "server_id" not in ser.log()[mark:]
    with Server(certs) as server:
        assert _ask(ser, server, "X-Id: typo") == "client:default"
    ser.wait_log("WARNING: .*no client section has the server_id 'typo', client:default is taken", 2, mark)


def test_the_name_to_verify_comes_from_the_route(ser, certs):
    """verify_name without names: that which a route asks for, each time; without one nobody is accepted."""
    load(ser, base(certs), section("client:default", ca_list=certs.calist, verify_name="sip", **VERIFY))
    for name in ("ser.example.org", "SER.example.org."):
        with Server(certs) as server:
            assert _ask(ser, server, f"X-Name: {name}") == "client:default"
            assert server.names == [name.removesuffix(".")]
    for headers, expected in ((["X-Name: other.example.org"], "other.example.org"), ([], "")):
        with Server(certs) as server:
            line = _ask(ser, server, *headers, status=0)
            assert line["expected"] == expected and line["alert_sent"] == "bad_certificate", line
            assert "ser.example.org" in line["presented"], line


def test_revoked_server(ser, certs):
    ca = certs.authority()
    made = ca.issue("doomed", "DNS:ser.example.org")
    crl = ser.dir / "servers.crl"
    crl.write_bytes(ca.crl(made.cert))
    load(ser, base(certs), section("client:default", ca_list=certs.calist, crl=crl, **VERIFY))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.pem, made.key)
    with Endpoint(context) as server, Server(certs) as good:
        assert _ask(ser, server, status=0)["alert_sent"] == "certificate_revoked"
        assert _ask(ser, good) == "client:default"
