# SPDX-License-Identifier: ISC
"""Settings of a domain about the protocol: versions, suites, groups, signatures, level, ALPN, tickets, OCSP.

Each holds for the default section and for one that the client's name chooses, which OpenSSL treats
differently; each is tried with a client that it lets in and one that it refuses.
"""
from __future__ import annotations

import datetime
import re
import struct

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from certs import HOUR, REVOKED, V, responder, write
from clients import Endpoint, TlsClient, Tool, UdpClient, failed_handshake, request
from domains import base, check, errors, load, met, own, section, site, warnings
from ser import suite_key, wait_until

WHERE = {"default": None, "by name": "a.example.org"}


@pytest.fixture(params=WHERE)
def where(request):
    """The name that the client asks for, and with it which section the settings under test are in."""
    return WHERE[request.param]


@pytest.fixture
def ser(pool, certs):
    return site(pool, certs)


def text(certs, where, settings=None, other=None):
    """Two sections, of which the one that where chooses has the settings, the other one others."""
    first, second = (settings, other) if where is None else (other, settings)
    clear = {key: "" for key in (first or {}) if key not in (second or {})}
    return base(certs, **(first or {})) + section(
        "server:any", **(clear | own(certs) | (second or {}) | {"server_name": "a.example.org"}))


def put(ser, certs, where, settings, other=None):
    load(ser, text(certs, where, settings, other))


def connects(ser, certs, where, **more):
    return met(ser, ser.tls_port, certs.client_context(verify=False, **more), where)


def refused(ser, certs, where, **more):
    """The log line of a handshake that SER refuses."""
    port, _ = failed_handshake(ser.tls_port, certs.client_context(verify=False, **more), name=where)
    return ser.wait_failure(port)


def s_client(ser, certs, where, *args, asked=True):
    """What OpenSSL's client says of a connection; with asked, after an answer to a request."""
    name = ["-servername", where] if where else ["-noservername"]
    with Tool(["openssl", "s_client", "-connect", f"127.0.0.1:{ser.tls_port}", "-CAfile", certs.calist, *name,
               *args]) as tool:
        if asked:
            tool.wait_for("Verify return code")
            tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
            tool.wait_for(r"SIP/2\.0 200 OK")
        tool.finish()
        return tool.text


# -- versions -----------------------------------------------------------------------------------------------


def test_max_version(ser, certs, where):
    put(ser, certs, where, {"max_version": "TLSv1.2"})
    assert connects(ser, certs, where)["version"] == "TLSv1.2"
    assert refused(ser, certs, where, low=V.TLSv1_3)["alert_sent"] == "protocol_version"
    assert connects(ser, certs, "a.example.org" if where is None else None)["version"] == "TLSv1.3"


def test_min_version(ser, certs, where):
    put(ser, certs, where, {"min_version": "TLSv1.3"})
    assert connects(ser, certs, where)["version"] == "TLSv1.3"
    assert refused(ser, certs, where, high=V.TLSv1_2)["alert_sent"] == "protocol_version"
    assert connects(ser, certs, "a.example.org" if where is None else None, high=V.TLSv1_2)["version"] == "TLSv1.2"


def test_both_versions_narrow_a_wide_method(ser, certs, where):
    put(ser, certs, where, {"method": "SSLv23", "min_version": "TLSv1.1", "max_version": "TLSv1.1"})
    assert connects(ser, certs, where, legacy=True)["version"] == "TLSv1.1"
    assert refused(ser, certs, where)["alert_sent"] == "protocol_version"


@pytest.mark.parametrize("settings,told", [
    ({"method": "TLSv1.2", "min_version": "TLSv1.3"}, "min_version: TLSv1.3 is not among the versions of method TLSv1.2"),
    ({"min_version": "TLSv1.1"}, "min_version: TLSv1.1 is not among the versions of method TLSv1.2+"),
    ({"method": "TLSv1.3+", "max_version": "TLSv1.2"}, "max_version: TLSv1.2 is not among the versions of method TLSv1.3+"),
    ({"min_version": "TLSv1.3", "max_version": "TLSv1.2"}, "max_version: TLSv1.2 is below min_version TLSv1.3"),
    ({"max_version": "TLSv1.4"}, "value 'TLSv1.4' is not valid, expected one of TLSv1.3"),
    ({"max_version": "TLSv1.2+"}, "value 'TLSv1.2+' is not valid"),
])
def test_versions_that_contradict(ser, certs, settings, told):
    found = errors(ser, base(certs, **settings))
    assert len(found) == 1 and told in found[0] and found[0].startswith("checked.cfg:"), found
    assert not any("below TLS 1.2" in line for line in check(ser, base(certs, **settings))[1]), "none are accepted"


# -- suites -------------------------------------------------------------------------------------------------


def test_ciphersuites(ser, certs, where):
    """They are for TLS 1.3 alone, whatever cipher_list says for older versions."""
    put(ser, certs, where, {"ciphersuites": "TLS_CHACHA20_POLY1305_SHA256,TLS_AES_128_GCM_SHA256",
                            "cipher_list": "ECDHE-ECDSA-AES128-GCM-SHA256"})
    assert connects(ser, certs, where)["suite"] in ("TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256")
    assert suite_key(connects(ser, certs, where, high=V.TLSv1_2)["suite"]) == suite_key("ECDHE-ECDSA-AES128-GCM-SHA256")
    other = "a.example.org" if where is None else None
    assert connects(ser, certs, other)["suite"] == "TLS_AES_256_GCM_SHA384"
    put(ser, certs, where, {"ciphersuites": "TLS_CHACHA20_POLY1305_SHA256"})
    assert connects(ser, certs, where)["suite"] == "TLS_CHACHA20_POLY1305_SHA256"


def test_ciphersuites_nothing_in_common(ser, certs, where):
    put(ser, certs, where, {"ciphersuites": "TLS_AES_128_CCM_SHA256"})
    assert refused(ser, certs, where, low=V.TLSv1_3)["alert_sent"] == "handshake_failure"
    assert "Cipher is TLS_AES_128_CCM_SHA256" in s_client(ser, certs, where, "-ciphersuites", "TLS_AES_128_CCM_SHA256")


def test_ciphersuites_and_suites_in_cipher_list(ser, certs):
    both = base(certs, ciphersuites="TLS_AES_128_GCM_SHA256", cipher_list="TLS_AES_256_GCM_SHA384:ECDHE+AESGCM")
    found = warnings(ser, both)
    assert any("cipher_list: its suites of TLS 1.3 have no effect: ciphersuites is set" in w for w in found), found
    load(ser, both)
    assert connects(ser, certs, None)["suite"] == "TLS_AES_128_GCM_SHA256"
    found = warnings(ser, base(certs, method="TLSv1.2", ciphersuites="TLS_AES_128_GCM_SHA256"))
    assert any("ciphersuites: it has no effect: TLS 1.3 is not accepted" in w for w in found), found


def test_what_would_be_without_effect_is_warned_of(ser, certs):
    """An operator must not believe in a restriction that is none."""
    for settings, told in (({"method": "TLSv1.3", "cipher_list": "ECDHE+AESGCM"}, "cipher_list: it has no effect: only TLS 1.3"),
                           ({"min_version": "TLSv1.3", "cipher_list": "ECDHE+AESGCM"}, "cipher_list: it has no effect: only TLS 1.3"),
                           ({"verify_names": "a.example.org"}, "verify_names: it has no effect, no name is verified")):
        found = [w for w in warnings(ser, base(certs, **settings)) if "no effect" in w]
        assert len(found) == 1 and told in found[0], (settings, found)
    for settings in ({"cipher_list": "ECDHE+AESGCM"}, {"method": "TLSv1.3", "cipher_list": "ECDHE+AESGCM:TLS_AES_128_GCM_SHA256"},
                     {"method": "TLSv1.3", "cipher_list": "ECDHE+AESGCM", "ciphersuites": "TLS_AES_128_GCM_SHA256"}):
        assert not [w for w in warnings(ser, base(certs, **settings)) if "no effect" in w], settings


@pytest.mark.parametrize("value,told", [
    ("TLS_AES_128_GCM_SHA257", "'TLS_AES_128_GCM_SHA257' is no suite that"),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "is no suite of TLS 1.3: their names begin with TLS_"),
    ('", "', "is no suite of TLS 1.3"),
])
def test_bad_ciphersuites(ser, certs, value, told):
    assert told in errors(ser, base(certs, ciphersuites=value))[0]


KEY = "goes with a key of type"


@pytest.mark.parametrize("suites", ["ECDHE-RSA-AES128-GCM-SHA256", "aRSA:!PSK"])
def test_suites_that_no_key_goes_with(ser, certs, suites):
    """TLS 1.2 would find no shared cipher, whoever asks; TLS 1.3 does not care."""
    found = [w for w in warnings(ser, base(certs, cipher_list=suites)) if KEY in w]
    assert len(found) == 1 and "cipher_list: none of its suites below TLS 1.3 goes with a key of type EC" in found[0]
    found = errors(ser, base(certs, method="TLSv1.2", cipher_list=suites))
    assert len(found) == 1 and "cipher_list: none of its suites goes with a key of type EC" in found[0], found
    load(ser, base(certs, cipher_list=suites))
    assert connects(ser, certs, None)["version"] == "TLSv1.3"
    assert refused(ser, certs, None, high=V.TLSv1_2)["alert_sent"] == "handshake_failure"


def test_suites_that_a_key_goes_with(ser, certs):
    rsa = certs.authority().issue("rsa", "DNS:ser.example.org", rsa_key=True)
    both = {"certificate2": rsa.pem, "private_key2": rsa.key}
    for settings in ({}, {"cipher_list": "ECDHE-ECDSA-AES128-GCM-SHA256"}, {"cipher_list": "aRSA:aECDSA"},
                     {"method": "TLSv1.3"}, {"cipher_list": "aRSA", **both},
                     {"signature_algorithms": "rsa_pss_rsae_sha256"},
                     {"certificate": rsa.pem, "private_key": rsa.key, "cipher_list": "aRSA"}):
        assert not [w for w in warnings(ser, base(certs, **settings)) if KEY in w], settings


# -- groups -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_groups(ser, certs, where, version):
    put(ser, certs, where, {"groups": "P-384:P-521"}, {"groups": "X25519"})
    other = "a.example.org" if where is None else None
    for name, offer, got in ((where, "P-384:X25519", "secp384r1"), (where, "X25519:P-521", "secp521r1"),
                             (other, "P-384:X25519", "X25519")):
        assert got in s_client(ser, certs, name, version, "-groups", f"P-256:{offer}").split("Server Temp Key:")[1][:40]
    said = s_client(ser, certs, where, version, "-groups", "P-256:X25519", asked=False)
    assert "alert handshake failure" in said


def test_no_finite_fields_by_default(ser, certs, where):
    """RFC 9325 section 4.1: a client could make SER compute with 8192 bits for each handshake."""
    put(ser, certs, where, {})
    for offer in ("ffdhe2048", "ffdhe8192"):
        said = s_client(ser, certs, where, "-tls1_3", "-groups", offer, asked=False)
        assert "alert handshake failure" in said, said
        assert "X25519" in s_client(ser, certs, where, "-tls1_3", "-groups", f"{offer}:X25519")
    rsa = {"certificate": certs.pem("server-rsa"), "private_key": certs.key("server-rsa")}
    put(ser, certs, where, rsa)
    assert refused(ser, certs, where, high=V.TLSv1_2, ciphers="DHE")["alert_sent"] == "handshake_failure"
    for curve in ("X25519", "P-256", "X448", "P-521", "P-384"):
        assert "Cipher is TLS_" in s_client(ser, certs, where, "-tls1_3", "-groups", curve)


@pytest.mark.parametrize("groups", ["ffdhe2048:X25519", '""'])
def test_finite_fields_that_are_asked_for(ser, certs, where, groups):
    """By name, or with the library's own groups."""
    put(ser, certs, where, {"groups": groups, "cipher_list": "DHE+AESGCM", "certificate": certs.pem("server-rsa"),
                            "private_key": certs.key("server-rsa")})
    assert "Server Temp Key: DH, 2048 bits" in s_client(ser, certs, where, "-tls1_3", "-groups", "ffdhe2048")
    assert "TLS_DHE_RSA" in connects(ser, certs, where, high=V.TLSv1_2, ciphers="DHE")["suite"]


def test_groups_are_cleared(ser, certs, where):
    """A section without groups has the default's, whatever the section has that the connection began with."""
    put(ser, certs, where, {"groups": "P-521"})
    other = "a.example.org" if where is None else None
    assert "X25519" in s_client(ser, certs, other, "-groups", "X25519")
    assert "alert handshake failure" in s_client(ser, certs, where, "-groups", "X25519", asked=False)


def test_library_groups_beside_others(ser, certs, where):
    """Whichever of two sections leaves groups to the library, both have theirs and nothing of the other's."""
    other = "a.example.org" if where is None else None
    for these, those in (({"groups": "P-521"}, {"groups": '""'}), ({"groups": '""'}, {"groups": "P-521"})):
        put(ser, certs, where, these, those)
        for name, settings in ((where, these), (other, those)):
            free = settings["groups"] == '""'
            said = s_client(ser, certs, name, "-tls1_3", "-groups", "X448", asked=free)
            assert ("X448" if free else "alert handshake failure") in said, said
            assert "secp521r1" in s_client(ser, certs, name, "-tls1_3", "-groups", "P-521")


def test_groups_of_a_client(ser, certs):
    """SER's own offer: the key share of its ClientHello is of the first group."""
    load(ser, base(certs), section("client:default", groups="P-521:P-384"))
    with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200
    context = certs.server_context()
    context.set_ecdh_curve("prime256v1")
    with Endpoint(context) as endpoint, UdpClient(ser.udp_port) as caller:
        caller.send(caller.build("OPTIONS", endpoint.uri))
        assert ser.wait_failure(endpoint.port)["alert_received"] == "handshake_failure"


def test_groups_that_the_library_may_not_have(ser, certs):
    load(ser, base(certs, groups="?nonsense:?X25519MLKEM768:P-384"))
    assert "secp384r1" in s_client(ser, certs, None, "-groups", "P-384")
    assert "'nonsense' is no group that OpenSSL" in errors(ser, base(certs, groups="X25519:nonsense"))[0]
    assert "leaves no group" in errors(ser, base(certs, groups="?nonsense"))[0]
    assert "stands there twice" in errors(ser, base(certs, groups="P-256:P-256"))[0]


# -- signature algorithms -----------------------------------------------------------------------------------


def two_keys(certs):
    return {"certificate2": certs.pem("server-rsa"), "private_key2": certs.key("server-rsa")}


def test_signature_algorithms(ser, certs, where):
    """They choose the certificate: the client can do with both."""
    both = two_keys(certs)
    put(ser, certs, where, {"signature_algorithms": "rsa_pss_rsae_sha256", **both},
        {"signature_algorithms": "ecdsa_secp256r1_sha256:?nonsense", **both})
    other = "a.example.org" if where is None else None
    assert "Peer signature type: RSA-PSS" in s_client(ser, certs, where)
    assert "Peer signature type: ECDSA" in s_client(ser, certs, other)
    assert "alert handshake failure" in s_client(ser, certs, where, "-sigalgs", "ecdsa_secp256r1_sha256", asked=False)


def test_signatures_of_clients(ser, certs, where):
    """A client's certificate is judged by them, too."""
    put(ser, certs, where, {"signature_algorithms": "ecdsa_secp256r1_sha256", "verify_client": "on",
                            "ca_list": certs.calist})
    assert connects(ser, certs, where, cert="client")["verified"] == "yes"
    assert refused(ser, certs, where, cert="server-rsa")["alert_sent"] in ("handshake_failure", "certificate_required")


def test_bad_signature_algorithms(ser, certs):
    assert "'rsa_sha0' is no signature algorithm" in errors(ser, base(certs, signature_algorithms="rsa_sha0"))[0]


# -- security level -----------------------------------------------------------------------------------------


def test_security_level(ser, certs, where):
    """TLS 1.1 signs with SHA-1, which OpenSSL 3 allows at level 0 only."""
    old = {"method": "TLSv1.1", "cipher_list": "ALL"}
    put(ser, certs, where, {"security_level": 0, **old}, {"security_level": 1, **old})
    assert connects(ser, certs, where, legacy=True)["version"] == "TLSv1.1"
    refused(ser, certs, "a.example.org" if where is None else None, legacy=True)
    found = warnings(ser, base(certs, security_level=2, **old))
    assert any("security_level: TLS 1.1 and older do not work with this level" in w for w in found), found


def test_security_level_of_keys(ser, certs):
    """P-256 has 128 bits of strength, which is level 3; level 4 asks for 192."""
    load(ser, base(certs, security_level=3))
    connects(ser, certs, None)
    assert "ee key too small" in errors(ser, base(certs, security_level=4))[0]
    assert "expected a number from -1 to 5" in errors(ser, base(certs, security_level=6))[0]
    assert ("security_level: the @SECLEVEL in cipher_list says it already"
            in errors(ser, base(certs, security_level=1, cipher_list="ALL:@SECLEVEL=0"))[0])


# -- ALPN ---------------------------------------------------------------------------------------------------


def alpn_of(ser, certs, where, *offered):
    context = certs.client_context(verify=False)
    if offered:
        context.set_alpn_protocols(list(offered))
    with TlsClient(ser.tls_port, context, name=where) as client:
        assert client.ask().status == 200
        return client.tls.selected_alpn_protocol()


def test_alpn(ser, certs, where):
    """RFC 7301 section 3.2: the server's order decides, and nothing in common is an alert."""
    put(ser, certs, where, {"alpn": '"sip/2, http/1.1"'})
    assert alpn_of(ser, certs, where, "http/1.1", "sip/2") == "sip/2"
    assert alpn_of(ser, certs, where, "h2", "http/1.1") == "http/1.1"
    assert alpn_of(ser, certs, where) is None, "a client that offers nothing is let in"
    context = certs.client_context(verify=False)
    context.set_alpn_protocols(["h2", "sip/3"])
    port, _ = failed_handshake(ser.tls_port, context, name=where)
    line = ser.wait_failure(port)
    assert line["alert_sent"] == "no_application_protocol" and "application protocol" in line["reason"]
    other = "a.example.org" if where is None else None
    assert alpn_of(ser, certs, other, "h2", "sip/2") is None, "without the setting it is not looked at"


def test_alpn_of_a_client(ser, certs):
    load(ser, base(certs), section("client:default", alpn="sip/2,http/1.1"))
    for theirs, chosen in ((["h2", "sip/2"], "sip/2"), (["h2"], None), (None, None)):
        context = certs.server_context()
        if theirs:
            context.set_alpn_protocols(theirs)
        with Endpoint(context) as endpoint, UdpClient(ser.udp_port) as caller:
            assert caller.ask("OPTIONS", endpoint.uri).status == 200
            assert endpoint.arrivals[0].tls.selected_alpn_protocol() == chosen


def test_bad_alpn(ser, certs):
    assert "it names no protocol" in errors(ser, base(certs, alpn='", "'))[0]
    assert "is longer than 255 bytes" in errors(ser, base(certs, alpn="x" * 256))[0]


# -- tickets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3])
def test_session_tickets(ser, certs, where, count):
    put(ser, certs, where, {"session_tickets": count}, {"session_tickets": 2})
    said = s_client(ser, certs, where, "-tls1_3")
    assert said.count("Post-Handshake New Session Ticket arrived") == count
    assert ("TLS session ticket:" in s_client(ser, certs, where, "-tls1_2")) == (count > 0)
    context = certs.client_context(verify=False)
    with TlsClient(ser.tls_port, context, name=where) as client:
        assert client.ask().status == 200
        session = client.tls.session
    if session is not None and session.has_ticket:
        with TlsClient(ser.tls_port, context, name=where, session=session) as client:
            assert client.ask().status == 200
            assert client.tls.session_reused == (count > 0)


def ticket_messages(said: str) -> list[bytes]:
    """NewSessionTickets as s_client -msg shows them."""
    found = re.findall(r"NewSessionTicket\n((?:    (?:[0-9a-f]{2} ?)+\n)+)", said)
    return [bytes.fromhex(text) for text in found]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("suite", ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"])
def test_what_a_ticket_says(ser, certs, where, suite, count):
    """RFC 8446 section 4.6.1; one alone is the module's, several are OpenSSL's."""
    put(ser, certs, where, {"session_tickets": count})
    tickets = []
    for _ in range(3):
        tickets += ticket_messages(s_client(ser, certs, where, "-tls1_3", "-msg", "-ciphersuites", suite))
    assert len(tickets) == 3 * count
    for message in tickets:
        kind, high, length, lifetime, _, nonce_len = struct.unpack_from("!BBHI4sB", message)
        (ticket_len,) = struct.unpack_from("!H", message, 13 + nonce_len)
        assert (kind, high, length, lifetime) == (4, 0, len(message) - 4, 7200)
        assert nonce_len == (1 if count == 1 else 8)
        assert message[13 + nonce_len + 2 + ticket_len:] == b"\0\0", "no extensions, and nothing after them"
    assert len({message[8:12] for message in tickets}) == len(tickets), "ticket_age_add is a random number"
    assert len({message[-100:] for message in tickets}) == len(tickets)


def test_a_long_session_fits_into_a_ticket(ser, certs, where, tmp_path):
    protocol = "p" * 255
    put(ser, certs, where, {"session_tickets": 1, "alpn": protocol})
    args = ["-tls1_3", "-alpn", protocol]
    kept = tmp_path / "session"
    assert "New, TLSv1.3" in s_client(ser, certs, where, *args, "-sess_out", str(kept))
    assert "Reused, TLSv1.3" in s_client(ser, certs, where, *args, "-sess_in", str(kept))


def test_no_tickets_but_session_ids(pool, certs, where):
    ser = site(pool, certs, tls={"session_cache": 1})
    put(ser, certs, where, {"session_tickets": 0})
    context = certs.client_context(verify=False, high=V.TLSv1_2)
    with TlsClient(ser.tls_port, context, name=where) as client:
        session = client.tls.session
        assert not session.has_ticket and session.id
    with TlsClient(ser.tls_port, context, name=where, session=session) as client:
        assert client.tls.session_reused and client.ask().status == 200


# -- OCSP ---------------------------------------------------------------------------------------------------

@pytest.fixture
def stapled(ser, certs):
    """A certificate, and a function that puts a response for it into a file and loads it."""
    authority = certs.authority()
    made = authority.issue("a.example.org", "DNS:a.example.org", "DNS:ser.example.org")
    settings = {"certificate": made.pem, "private_key": made.key, "ca_list": certs.calist}

    def put_response(der, name="response.der"):
        return {"ocsp_response": write(ser.dir / name, der), **settings}

    return authority, made, put_response


def status_of(ser, certs, where, *args):
    """What a client gets that asks for the status of SER's certificate: good, or none."""
    said = s_client(ser, certs, where, "-status", *args)
    if "OCSP response: no response sent" in said:
        return "none"
    assert "OCSP Response Status: successful" in said, said
    return said.split("Cert Status: ")[1].split()[0]


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_ocsp(ser, certs, where, stapled, version):
    authority, made, put_response = stapled
    put(ser, certs, where, put_response(responder(authority, made.cert)), {"certificate": made.pem,
                                                                       "private_key": made.key})
    assert status_of(ser, certs, where, version) == "good"
    assert status_of(ser, certs, "a.example.org" if where is None else None, version) == "none"
    assert "Cert Status" not in s_client(ser, certs, where, version)


@pytest.mark.parametrize("digest", [hashes.SHA1, hashes.SHA256])
@pytest.mark.parametrize("end", [HOUR, None])
def test_ocsp_forms(ser, certs, stapled, digest, end):
    authority, made, put_response = stapled
    load(ser, base(certs, **put_response(responder(authority, made.cert, digest=digest, end=end))))
    assert status_of(ser, certs, None) == "good"


def test_ocsp_reload_of_the_response_alone(ser, certs, where, stapled):
    """Its file is looked at even if nothing else changed; a bad one changes nothing."""
    authority, made, put_response = stapled
    put(ser, certs, where, put_response(responder(authority, made.cert, end=-HOUR / 2)))
    assert status_of(ser, certs, where) == "none"
    assert [w for w in warnings(ser, text(certs, where, put_response(responder(authority, made.cert, end=-HOUR / 2))))
            if "the response expired on 2" in w and "is not sent" in w]
    put_response(responder(authority, made.cert))
    assert ser.rpc("tls.reload").startswith("Ok")
    assert status_of(ser, certs, where) == "good"
    put_response(b"garbage")
    with pytest.raises(AssertionError, match="contains no OCSP response in DER"):
        ser.rpc("tls.reload")
    assert status_of(ser, certs, where) == "good"


def test_ocsp_expires_later(ser, certs, stapled):
    authority, made, put_response = stapled
    seconds = datetime.timedelta(seconds=6)
    end = datetime.datetime.utcnow() + seconds
    load(ser, base(certs, **put_response(responder(authority, made.cert, end=seconds))))
    assert status_of(ser, certs, None) == "good"
    wait_until(lambda: datetime.datetime.utcnow() > end, 10, "the end of the response")
    assert status_of(ser, certs, None) == "none"


def test_ocsp_before_its_time(ser, certs, stapled):
    authority, made, put_response = stapled
    early = base(certs, **put_response(responder(authority, made.cert, begin=HOUR, end=2 * HOUR)))
    assert any("the response is not valid and not sent before 2" in w for w in warnings(ser, early))
    load(ser, early)
    assert status_of(ser, certs, None) == "none"


def test_ocsp_of_both_certificates(ser, certs, stapled):
    authority, made, put_response = stapled
    other = authority.issue("a.example.org", "DNS:ser.example.org", rsa_key=True)
    second = {"certificate2": other.pem, "private_key2": other.key,
              "ocsp_response2": write(ser.dir / "second.der", responder(authority, other.cert))}
    load(ser, base(certs, **put_response(responder(authority, made.cert, end=-HOUR / 2)), **second))
    assert status_of(ser, certs, None, "-sigalgs", "rsa_pss_rsae_sha256") == "good"
    assert status_of(ser, certs, None, "-sigalgs", "ecdsa_secp256r1_sha256") == "none"
    assert "it needs certificate2, which is not set" in errors(
        ser, base(certs, **put_response(responder(authority, made.cert)), ocsp_response2=second["ocsp_response2"]))[0]


def test_ocsp_goes_with_its_certificate(ser, certs, stapled):
    """A section with a certificate of its own does not inherit a response about another one."""
    authority, made, put_response = stapled
    load(ser, base(certs, **put_response(responder(authority, made.cert))),
         section("server:any", server_name="a.example.org", **own(certs)))
    assert status_of(ser, certs, "a.example.org") == "none"
    assert status_of(ser, certs, None) == "good"


def test_ocsp_authorised_responder(ser, certs, stapled):
    """The issuer may let somebody else answer, whose certificate must say so (RFC 6960 section 4.2.2.2)."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    authority, made, put_response = stapled
    now = datetime.datetime.utcnow()
    for usage, told in ((ExtendedKeyUsageOID.OCSP_SIGNING, None),
                        (ExtendedKeyUsageOID.SERVER_AUTH, "is not that of the certificate's issuer")):
        key = ec.generate_private_key(ec.SECP256R1())
        cert = (x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "responder")]))
                .issuer_name(authority.cert.subject).public_key(key.public_key()).serial_number(77)
                .not_valid_before(now - HOUR).not_valid_after(now + HOUR)
                .add_extension(x509.ExtendedKeyUsage([usage]), False).sign(authority.private, hashes.SHA256()))
        there = base(certs, **put_response(responder(authority, made.cert, signer=(cert, key))))
        if told:
            assert told in errors(ser, there)[0]
        else:
            load(ser, there)
            assert status_of(ser, certs, None) == "good"


def bad_responses(certs, authority, made):
    foreign = certs.authority("foreign-ca")
    unsuccessful = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    good = responder(authority, made.cert)
    return {
        "revoked": (responder(authority, made.cert, status=REVOKED), "says that the certificate is revoked"),
        "unknown": (responder(authority, made.cert, status=ocsp.OCSPCertStatus.UNKNOWN), "certificate is unknown"),
        "another's": (responder(authority, authority.issue("x").cert), "is not about the certificate"),
        "other issuer": (responder(foreign, made.cert), "is not about the certificate"),
        "other signer": (responder(authority, made.cert, signer=(foreign.cert, foreign.private)), "is not that of"),
        "changed": (good[:-9] + bytes([good[-9] ^ 1]) + good[-8:], "the signature of the response is not"),
        "try later": (unsuccessful.public_bytes(serialization.Encoding.DER), "did not answer: trylater"),
        "cut": (good[:-20], "contains no OCSP response in DER"),
        "more": (good + b"\0", "contains no OCSP response in DER"),
        "empty": (b"", "is empty"),
        "huge": (bytes(70000), "contains no OCSP response in DER"),
    }


def test_bad_ocsp_responses(ser, certs, stapled):
    authority, made, put_response = stapled
    for what, (der, told) in bad_responses(certs, authority, made).items():
        found = errors(ser, base(certs, **put_response(der)))
        assert len(found) == 1 and told in found[0] and "ocsp_response: " in found[0], (what, found)
    there = put_response(responder(authority, made.cert))
    assert "neither in the certificate's file nor in ca_list" in errors(ser, base(certs, **(there | {"ca_list": ""})))[0]
    assert "cannot read file '" in errors(ser, base(certs, **(there | {"ocsp_response": "nowhere.der"})))[0]
    found = warnings(ser, base(certs), section("client:default", ocsp_response=there["ocsp_response"],
                                               certificate=made.pem, private_key=made.key))
    assert any("ocsp_response: it has no effect for connections that are opened" in w for w in found), found


def test_ocsp_with_the_issuer_in_the_chain(ser, certs, stapled):
    authority, _, put_response = stapled
    sub = authority.sub("sub CA")
    made = sub.issue("a.example.org", "DNS:ser.example.org", chain=[sub.pem])
    there = put_response(responder(sub, made.cert)) | {"certificate": made.pem, "private_key": made.key, "ca_list": ""}
    load(ser, base(certs, **there))
    assert status_of(ser, certs, None) == "good"


# -- module parameters --------------------------------------------------------------------------------------


def test_as_module_parameters(pool, certs):
    """They are for both roles then; tls.options shows them."""
    values = {"min_version": "TLSv1.2", "max_version": "TLSv1.3", "ciphersuites": "TLS_AES_128_GCM_SHA256",
              "groups": "P-384", "signature_algorithms": "ecdsa_secp256r1_sha256", "security_level": 1,
              "alpn": "sip/2", "session_tickets": 2, "ocsp_response": "", "ocsp_response2": ""}
    ser = pool.fresh(tls=certs.server_params(**values)).start()
    options = ser.rpc("tls.options")
    assert {key: options[key] for key in values} == values
    context = certs.client_context()
    context.set_alpn_protocols(["sip/2"])
    line = met(ser, ser.tls_port, context)
    assert line["suite"] == "TLS_AES_128_GCM_SHA256"
    server = certs.server_context()
    server.set_alpn_protocols(["sip/2"])
    with Endpoint(server) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200
        assert endpoint.arrivals[0].tls.selected_alpn_protocol() == "sip/2"


def test_parameters_that_have_no_effect(pool, certs):
    """Each one that asks for something is told of; the defaults of the descendant are not."""
    silent = {"engine": "NONE", "engine_config": "NONE", "engine_algorithms": "ALL", "init_mode": 0, "renegotiation": 0,
              "provider_quirks": 0}
    ser = pool.fresh(tls=certs.server_params(**silent)).start()
    assert "has no effect" not in ser.log()
    loud = {"renegotiation": 1, "rand_engine": "krand", "engine_config": "/etc/x.cnf", "engine_algorithms": "RSA",
            "init_mode": 3, "provider_quirks": 1, "provider_quirks_config": "x"}
    ser = pool.fresh(tls=certs.server_params(**loud)).start()
    for name in loud:
        assert f"tls: parameter {name} has no effect: " in ser.log(), name
    met(ser, ser.tls_port, certs.client_context())


def test_engine_is_an_error(pool, certs):
    log = pool.fresh(tls=certs.server_params(engine="pkcs11")).start_failure()
    assert "parameter engine: value 'pkcs11': OpenSSL engines are not supported" in log
    log = pool.fresh(tls=certs.server_params(rand_engine="dice")).start_failure()
    assert "rand_engine: value 'dice' is not valid, expected one of krand" in log
