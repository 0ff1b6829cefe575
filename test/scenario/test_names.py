# SPDX-License-Identifier: ISC
"""The section that a client's name chooses, all of which applies; what certificates and their names must be."""
from __future__ import annotations

import re
import ssl
import subprocess

import pytest
from cryptography import x509

from certs import V, write
from clients import (Endpoint, RawTls, TlsClient, UdpClient, clear_alerts, failed_handshake, openssl_client, read_all)
from domains import base, errors, line_of, load, met, own, section, site, visit, warnings
from ser import wait_until

BOTH = pytest.mark.parametrize("high", [V.TLSv1_2, V.TLSv1_3], ids=lambda v: v.name)
VERIFY = {"verify_certificate": "yes", "require_certificate": "yes"}


@pytest.fixture
def ser(pool, certs):
    return site(pool, certs, tls={"session_cache": 1})


def _named(name, certs, cert="server", **more):
    return section("server:any", server_name=name, **own(certs, cert, **more))


def _issued(head, made, **more):
    return section(head, certificate=made.pem, private_key=made.key, **more)


# -- which name ------------------------------------------------------------------------------------


MODES = {
    0: {"a.example.org": True, "A.EXAMPLE.org": True, "x.a.example.org": False, "example.org": False,
        "xa.example.org": False, "a.example.org.evil.net": False},
    1: {"a.example.org": True, "x.a.example.org": True, "y.x.A.example.org": True, "example.org": False,
        "xa.example.org": False, "b.example.org": False},
    2: {"a.example.org": False, "x.a.example.org": True, "y.x.a.example.org": True, "example.org": False,
        "xa.example.org": False},
}


@pytest.mark.parametrize("mode", MODES)
def test_modes(ser, certs, mode):
    load(ser, base(certs), _named("a.example.org", certs, server_name_mode=mode))
    for name, want in MODES[mode].items():
        assert (visit(ser, certs, name) != "server:default") == want, name
    assert visit(ser, certs, None) == "server:default"


def test_nearest_domain_wins(ser, certs):
    load(ser, base(certs), _named("example.org", certs, server_name_mode=1),
         _named("a.example.org", certs, server_name_mode=2), _named("b.a.example.org", certs))
    for name, want in {"example.org": "example.org", "x.example.org": "example.org", "a.example.org": "example.org",
                       "x.a.example.org": "a.example.org", "b.a.example.org": "b.a.example.org",
                       "x.b.a.example.org": "a.example.org"}.items():
        assert visit(ser, certs, name) == f"server:any {want}", name


def test_the_log_tells_the_name(ser, certs):
    load(ser, base(certs))
    assert met(ser, ser.tls_port, certs.client_context(verify=False), "x.example.org")["sni"] == "x.example.org"


def test_a_trailing_dot_is_no_part_of_the_name(ser, certs):
    load(ser, base(certs, refuse_unknown_name="yes"), _named("a.example.org", certs))
    line = met(ser, ser.tls_port, certs.client_context(verify=False), "A.example.org.")
    assert line["domain"] == "server:any a.example.org" and line["sni"] == "A.example.org", line


@BOTH
@pytest.mark.parametrize("refuse", [True, False])
def test_unknown_name(ser, certs, refuse, high):
    load(ser, base(certs, refuse_unknown_name="yes" if refuse else "no"), _named("a.example.org", certs))
    context = certs.client_context(verify=False, high=high)
    assert visit(ser, certs, "a.example.org", high=high) == "server:any a.example.org"
    assert visit(ser, certs, None, high=high) == "server:default", "no name is no unknown name"
    if not refuse:
        assert visit(ser, certs, "unknown.example.org", high=high) == "server:default"
        return
    client = RawTls(ser.tls_port, context, name="unknown.example.org")
    with client:
        client.sock.sendall(client.flight())
        data, closed = read_all(client.sock)
    assert closed and clear_alerts(data) == ["unrecognized_name"], data
    line = ser.wait_failure(client.local_port)
    assert line["alert_sent"] == "unrecognized_name" and line["sni"] == "unknown.example.org", line


def test_a_name_at_an_address_can_be_refused(ser, certs):
    port = ser.tls_port
    load(ser, base(certs), section(f"server:127.0.0.1:{port}", refuse_unknown_name="yes"),
         section(f"server:127.0.0.1:{port}", server_name="a.example.org"))
    assert visit(ser, certs, "a.example.org").endswith(" a.example.org")
    _, reason = failed_handshake(port, certs.client_context(verify=False), name="b.example.org")
    assert "unrecognized" in reason.lower(), reason


# -- all of the section ----------------------------------------------------------------------------------


def test_versions_of_the_chosen_section(ser, certs):
    load(ser, base(certs, method="TLSv1.2"), _named("new.example.org", certs, method="TLSv1.3"),
         _named("old.example.org", certs, method="TLSv1.0+"))
    anything = certs.client_context(verify=False, legacy=True)
    for name, version in (("new.example.org", "TLSv1.3"), ("old.example.org", "TLSv1.3"), (None, "TLSv1.2")):
        assert met(ser, ser.tls_port, anything, name)["version"] == version
    old = certs.client_context(verify=False, legacy=True, high=V.TLSv1_1)
    assert met(ser, ser.tls_port, old, "old.example.org")["version"] == "TLSv1.1"
    for name, context in ((None, certs.client_context(verify=False, low=V.TLSv1_3)), (None, old),
                          ("new.example.org", certs.client_context(verify=False, high=V.TLSv1_2))):
        port, reason = failed_handshake(ser.tls_port, context, name=name)
        assert ser.wait_failure(port)["alert_sent"] == "protocol_version", reason


@pytest.mark.parametrize("default", ["TLSv1.3", "TLSv1.2+", "TLSv1.2", "TLSv1"])
def test_a_wider_section_than_the_default(ser, certs, default):
    load(ser, base(certs, method=default), _named("wide.example.org", certs, method="TLSv1+" if default == "TLSv1" else "TLSv1.2+"))
    for high in (V.TLSv1_2, V.TLSv1_3):
        line = met(ser, ser.tls_port, certs.client_context(verify=False, high=high), "wide.example.org") \
            if default != "TLSv1" or high == V.TLSv1_2 else None
        assert line is None or line["version"] == str(high.name).replace("TLSv1_", "TLSv1.")


def test_suites_of_the_chosen_section(ser, certs):
    load(ser, base(certs, cipher_list="ECDHE-ECDSA-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256"),
         _named("a.example.org", certs, cipher_list="ECDHE-ECDSA-CHACHA20-POLY1305:TLS_CHACHA20_POLY1305_SHA256"))
    for high in (V.TLSv1_2, V.TLSv1_3):
        context = certs.client_context(verify=False, high=high)
        assert "AES_128" in met(ser, ser.tls_port, context)["suite"]
        assert "CHACHA20" in met(ser, ser.tls_port, context, "a.example.org")["suite"]


@BOTH
def test_verification_of_the_chosen_section(ser, certs, high):
    load(ser, base(certs, ca_list=certs.pem("foreign-ca")),
         _named("strict.example.org", certs, ca_list=certs.calist, **VERIFY),
         _named("asks.example.org", certs, ca_list=certs.calist, verify_client="optional_no_ca"),
         _named("depth.example.org", certs, ca_list=certs.calist, verify_depth=0, **VERIFY))
    def context(cert=None):
        return certs.client_context(cert, verify=False, high=high)
    assert met(ser, ser.tls_port, context())["verified"] == "none"
    for cert in (None, "foreign-client"):
        failed_handshake(ser.tls_port, context(cert), name="strict.example.org")
    assert met(ser, ser.tls_port, context("client-chain"), "strict.example.org")["verified"] == "yes"
    assert met(ser, ser.tls_port, context("foreign-client"), "asks.example.org")["verified"] == "no"
    assert met(ser, ser.tls_port, context("client"), "depth.example.org")["verified"] == "yes"
    port, _ = failed_handshake(ser.tls_port, context("client-chain"), name="depth.example.org")
    assert ser.wait_failure(port)["domain"] == "server:any depth.example.org"


@pytest.mark.parametrize("default_asks", [True, False])
def test_relaxed_section_of_a_strict_default_and_back(ser, certs, default_asks):
    strict = {"ca_list": certs.calist, **VERIFY}
    load(ser, base(certs, **(strict if default_asks else {})),
         _named("a.example.org", certs, **({"verify_certificate": "no", "require_certificate": "no"} if default_asks else strict)))
    easy, hard = ("a.example.org", None) if default_asks else (None, "a.example.org")
    met(ser, ser.tls_port, certs.client_context(verify=False), easy)
    failed_handshake(ser.tls_port, certs.client_context(verify=False), name=hard)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_ca_list_of_the_chosen_section(ser, certs, version):
    """The names of CAs in the request for a certificate."""
    load(ser, base(certs, ca_list=certs.calist, verify_certificate="yes"),
         _named("a.example.org", certs, ca_list=certs.pem("foreign-ca"), verify_certificate="yes"))
    for name, want, other in (("x", "SER demo CA", "Foreign CA"), ("a.example.org", "Foreign CA", "SER demo CA")):
        tool = openssl_client(ser.tls_port, certs, version, "-servername", name)
        tool.command[tool.command.index("-verify_return_error")] = "-quiet"
        with tool:
            tool.finish()
        asked = tool.text.split("Acceptable client certificate CA names")[1].split("Requested Sig")[0].split("Client Cert")[0]
        assert want in asked and other not in asked, asked


# -- certificates and keys --------------------------------------------------------------------------


def _s_client(ser, certs, *args):
    with openssl_client(ser.tls_port, certs, *args) as tool:
        tool.finish()
        return tool.text


@pytest.mark.parametrize("name", ["ser.example.org", "unknown.example.org"])
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_rsa_and_ecdsa_side_by_side(ser, certs, name, version):
    second = {"certificate2": certs.pem("server-rsa"), "private_key2": certs.key("server-rsa")}
    load(ser, base(certs, **second), _named("ser.example.org", certs, **second))
    for offer, want in (("RSA-PSS+SHA256:RSA+SHA256", "RSA"), ("ECDSA+SHA256", "ECDSA"),
                        ("RSA-PSS+SHA256:RSA+SHA256:ECDSA+SHA256", "ECDSA")):
        text = _s_client(ser, certs, version, "-sigalgs", offer, "-servername", name)
        assert re.search(r"Peer signature type: (\S+)", text)[1].startswith(want), text
        assert "Verify return code: 0 (ok)" in text


def test_one_certificate_alone_refuses_clients_of_the_other_type(ser, certs):
    load(ser, base(certs))
    assert "alert handshake failure" in _s_client(ser, certs, "-tls1_3", "-sigalgs", "RSA-PSS+SHA256")


def test_a_second_certificate_of_the_same_type_is_refused(ser, certs):
    """It would take the place of the first."""
    text = base(certs, certificate2=certs.pem("server-other"), private_key2=certs.key("server-other"))
    found = errors(ser, text)
    assert len(found) == 1 and f"checked.cfg:{line_of(text, 'certificate2')}: certificate2" in found[0], found


def _sent(ser, certs, *args):
    text = _s_client(ser, certs, "-showcerts", *args)
    pems = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text.split("Server certificate")[0], re.S)
    found = [x509.load_pem_x509_certificate(pem.encode()).subject.rfc4514_string().split("CN=")[1].split(",")[0] for pem in pems]
    return found, "Verify return code: 0 (ok)" in text


@pytest.fixture(scope="module")
def long_chain(certs):
    first = certs.authority().sub("first intermediate")
    second = first.sub("second intermediate")
    return first, second, second.issue("leaf", "DNS:ser.example.org", chain=[second.pem, first.pem])


def test_chain_complete_and_in_order(ser, certs, long_chain):
    _, _, leaf = long_chain
    want = ["leaf", "second intermediate", "first intermediate"]
    load(ser, base(certs), _issued("server:any", leaf, server_name="ser.example.org"))
    assert _sent(ser, certs) == (want, True)
    load(ser, _issued("server:default", leaf))
    assert _sent(ser, certs) == (want, True)
    assert [row["chain_length"] for row in ser.rpc("tls.domains")][0] == 3


def test_chains_of_two_certificates_are_not_mixed(ser, certs, long_chain):
    _, _, leaf = long_chain
    sub = certs.authority("intermediate")
    rsa = sub.issue("rsa leaf", "DNS:ser.example.org", rsa_key=True, chain=[certs.pem("intermediate")])
    load(ser, _issued("server:default", leaf, certificate2=rsa.pem, private_key2=rsa.key, ca_list=certs.calist))
    assert _sent(ser, certs, "-sigalgs", "RSA-PSS+SHA256") == (["rsa leaf", "SER demo intermediate CA"], True)
    assert _sent(ser, certs, "-sigalgs", "ECDSA+SHA256") == (
        ["leaf", "second intermediate", "first intermediate"], True)


def test_chain_out_of_order_or_with_a_gap_warns(ser, certs, long_chain):
    first, second, _ = long_chain
    for chain in ([first.pem, second.pem], [first.pem]):
        leaf = second.issue("leaf", "DNS:x", chain=chain)
        found = warnings(ser, _issued("server:default", leaf))
        assert any(re.search(r"checked\.cfg:2: certificate: .*order", w) for w in found), found


def test_missing_intermediate_warns(ser, certs, long_chain):
    first, second, _ = long_chain
    for chain in ([], [second.pem]):
        leaf = second.issue("leaf", "DNS:x", chain=chain)
        found = warnings(ser, _issued("server:default", leaf, ca_list=certs.calist))
        assert any(re.search(r"checked\.cfg:2: certificate: .*intermediate", w) for w in found), found
    found = warnings(ser, _issued("server:default", long_chain[2], ca_list=certs.calist))
    assert not any("intermediate" in w for w in found), found


def test_intermediate_in_ca_list_is_sent(ser, certs):
    both = write(certs.more / "ca-and-sub.pem", certs.calist.read_bytes() + certs.pem("intermediate").read_bytes())
    leaf = certs.authority("intermediate").issue("leaf", "DNS:ser.example.org")
    load(ser, _issued("server:default", leaf, ca_list=both))
    assert _sent(ser, certs) == (["leaf", "SER demo intermediate CA"], True)


@pytest.mark.parametrize("password,reason", [
    ("secret", ""), ("wrong", "password"), ('""', "password"), ("file:password", ""), ("file:crlf", ""),
    ("file:wrong", "password"), ("file:none", "none"), ("file:empty", "empty"),
], ids=str)
@pytest.mark.parametrize("second", ["", "2"])
def test_password_of_a_key(ser, certs, password, reason, second):
    for name, text in {"password": "secret\n", "crlf": "secret\r\n", "wrong": "Secret\n", "empty": ""}.items():
        (ser.dir / name).write_text(text)
    made = certs.authority().issue("locked", "DNS:x", rsa_key=bool(second), password="secret")
    text = (base(certs) if second else "[server:default]\n") + \
        f"certificate{second} = {made.pem}\nprivate_key{second} = {made.key}\nprivate_key_password{second} = {password}\n"
    if not reason:
        load(ser, text)
        visit(ser, certs)
        return
    found = errors(ser, text)
    line = line_of(text, r"password2? = " if password.startswith("file:") and reason != "password" else r"^private_key2? = .*issued")
    assert len(found) == 1 and reason in found[0] and f"checked.cfg:{line}: " in found[0], found
    assert "secret" not in found[0].replace(str(ser.dir), "").lower()


def test_mismatched_pair_names_both_files(ser, certs):
    text = base(certs, private_key=certs.key("client"))
    found = errors(ser, text)
    assert len(found) == 1 and "server.pem" in found[0] and "client.key" in found[0], found
    assert f"checked.cfg:{line_of(text, 'private_key')}: private_key" in found[0]


# -- the peer's name -----------------------------------------------------------------------------------


PRESENTED = {
    "sip uri": ("URI:sip:ser.example.org",), "sip uri and dns": ("URI:sip:other.net", "DNS:ser.example.org"),
    "dns": ("DNS:ser.example.org",), "wildcard": ("DNS:*.example.org",), "user": ("URI:sip:alice@ser.example.org",),
    "other": ("DNS:other.example.net",), "cn only": (), "sips": ("URI:sips:ser.example.org",),
    "upper": ("DNS:SER.Example.ORG",), "subdomain": ("DNS:a.ser.example.org",), "port": ("URI:sip:ser.example.org:5061",),
}
SIP_OK = {"sip uri", "dns", "cn only", "upper", "port"}
HOST_OK = {"dns", "wildcard", "upper", "sip uri and dns"}


@pytest.fixture(scope="module")
def presented(certs):
    return {case: certs.authority().issue("ser.example.org", *sans) for case, sans in PRESENTED.items()}


@pytest.mark.parametrize("rule", ["sip", "host"])
@pytest.mark.parametrize("case", PRESENTED)
def test_name_of_a_client(ser, certs, presented, case, rule):
    load(ser, base(certs, ca_list=certs.calist, verify_name=rule, verify_names='"x.net, ser.example.org"', **VERIFY))
    made = presented[case]
    context = certs.client_context(verify=False)
    context.load_cert_chain(made.pem, made.key)
    if case in (SIP_OK if rule == "sip" else HOST_OK):
        assert met(ser, ser.tls_port, context)["verified"] == "yes"
        return
    port, reason = failed_handshake(ser.tls_port, context)
    line = ser.wait_failure(port)
    assert line["expected"] == "x.net, ser.example.org", line
    shown = [san.split(":", 1)[1] for san in PRESENTED[case] if rule == "sip" or san.startswith("DNS")]
    assert all(name in line["presented"] for name in shown), line
    assert line["alert_sent"] == "bad_certificate" and "hostname" in line["reason"], line
    assert "bad certificate" in reason.lower().replace("_", " ")


@BOTH
@pytest.mark.parametrize("rule", ["sip", "host"])
@pytest.mark.parametrize("case", PRESENTED)
def test_name_of_a_server(ser, certs, presented, case, rule, high):
    names = {"server_name": "ser.example.org"} if high == V.TLSv1_3 else {"verify_names": "ser.example.org"}
    load(ser, base(certs), section("client:default", ca_list=certs.calist, verify_name=rule, **names, **VERIFY))
    made = presented[case]
    context = certs.server_context(high=high)
    context.load_cert_chain(made.pem, made.key)
    with Endpoint(context) as endpoint, UdpClient(ser.udp_port) as caller:
        if case in (SIP_OK if rule == "sip" else HOST_OK):
            assert caller.ask("OPTIONS", endpoint.uri).status == 200
            assert ser.wait_established(endpoint.port)["verified"] == "yes"
        else:
            caller.send(caller.build("OPTIONS", endpoint.uri))
            line = ser.wait_failure(endpoint.port)
            assert (line["role"], line["expected"], line["alert_sent"]) == ("client", "ser.example.org", "bad_certificate")
            assert "hostname" in line["reason"] and "presented" in line, line
            wait_until(lambda: endpoint.arrivals[0].closed, 5, "the end of the connection")
            assert "bad certificate" in endpoint.arrivals[0].error.lower().replace("_", " ")
            assert not endpoint.messages()


def test_name_of_the_chosen_section(ser, certs, presented):
    load(ser, base(certs, ca_list=certs.calist, **VERIFY),
         _named("sip.example.org", certs, verify_name="sip", verify_names="ser.example.org"))
    made = presented["wildcard"]
    context = certs.client_context(verify=False)
    context.load_cert_chain(made.pem, made.key)
    assert met(ser, ser.tls_port, context)["verified"] == "yes"
    failed_handshake(ser.tls_port, context, name="sip.example.org")


def test_name_checks_that_cannot_work_are_refused(ser, certs):
    assert "verify_certificate" in errors(ser, base(certs, verify_name="sip", verify_names="a.b"))[0]
    assert "which name" in errors(ser, base(certs, verify_name="sip", ca_list=certs.calist, **VERIFY))[0]
    assert "verify_name" in errors(ser, base(certs, verify_name="dns"))[0]


# -- revocation, CAs, depth -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def revoked(certs):
    """A good and a revoked certificate below an intermediate CA, and the lists."""
    sub = certs.authority().sub("doomed intermediate")
    good = sub.issue("good", "URI:sip:good@x", chain=[sub.pem])
    bad = sub.issue("bad", "URI:sip:bad@x", chain=[sub.pem])
    return sub, good, bad


CRLS = {  # root revokes sub?, sub's list there?, crl_check -> good, bad
    "leaf revoked": (False, True, "chain", True, False),
    "leaf revoked, leaf only": (False, True, "leaf", True, False),
    "intermediate revoked": (True, True, "chain", False, False),
    "intermediate revoked, leaf only": (True, True, "leaf", True, False),
    "no list of the issuer": (False, False, "chain", False, False),
}


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("case", CRLS)
def test_crl(ser, certs, revoked, case, kind):
    sub, good, bad = revoked
    root_revokes, has_sub, mode, good_passes, bad_passes = CRLS[case]
    lists = [certs.authority().crl(*([sub.cert] if root_revokes else [])), *([sub.crl(bad.cert)] if has_sub else [])]
    path = ser.dir / f"crl-{kind}"
    if kind == "file":
        path.write_bytes(b"".join(lists))
    else:
        path.mkdir(exist_ok=True)
        for old in path.iterdir():
            old.unlink()
        for n, one in enumerate(lists):
            (path / f"{n}.pem").write_bytes(one)
    load(ser, base(certs), _named("a.example.org", certs, ca_list=certs.calist, crl=path, crl_check=mode, **VERIFY))
    for made, passes in ((good, good_passes), (bad, bad_passes)):
        context = certs.client_context(verify=False)
        context.load_cert_chain(made.pem, made.key)
        if passes:
            assert met(ser, ser.tls_port, context, "a.example.org")["verified"] == "yes"
            continue
        port, reason = failed_handshake(ser.tls_port, context, name="a.example.org")
        line = ser.wait_failure(port)
        if has_sub:
            assert line["alert_sent"] == "certificate_revoked" and "revoked" in line["reason"], line
            assert ("doomed" if root_revokes and mode == "chain" and made is good else "") in line["cert"], line
        else:
            assert "CRL" in line["reason"], line


def test_ca_path(ser, certs):
    folder = ser.dir / "hashed"
    folder.mkdir(exist_ok=True)

    digest = subprocess.run(["openssl", "x509", "-noout", "-hash", "-in", certs.calist], capture_output=True, text=True,
                            check=True).stdout.strip()
    (folder / f"{digest}.0").write_bytes(certs.calist.read_bytes())
    load(ser, base(certs, ca_path=folder, **VERIFY))
    assert met(ser, ser.tls_port, certs.client_context("client"))["verified"] == "yes"
    failed_handshake(ser.tls_port, certs.client_context("foreign-client"))


@pytest.mark.parametrize("depth,passes", [(0, 0), (1, 1), (2, 2)])
def test_verify_depth(ser, certs, long_chain, depth, passes):
    first, _, leaf2 = long_chain
    leaf1 = first.issue("one", "URI:sip:one@x", chain=[first.pem])
    leaf0 = certs.authority().issue("none", "URI:sip:none@x")
    load(ser, base(certs), _named("a.example.org", certs, ca_list=certs.calist, verify_depth=depth, **VERIFY))
    for between, made in enumerate((leaf0, leaf1, leaf2)):
        context = certs.client_context(verify=False)
        context.load_cert_chain(made.pem, made.key)
        if between <= passes:
            met(ser, ser.tls_port, context, "a.example.org")
        else:
            failed_handshake(ser.tls_port, context, name="a.example.org")


# -- sessions ------------------------------------------------------------------------------------------


KINDS = {
    "tls12 ticket": {"high": V.TLSv1_2}, "tls12 id": {"high": V.TLSv1_2, "ticket": False}, "tls13 ticket": {},
}


def _resuming(certs, ticket=True, cert=None, **more):
    context = certs.client_context(cert, verify=False, **more)
    if not ticket:
        context.options |= ssl.OP_NO_TICKET
    return context


def _session(ser, context, name, session=None):
    """A connection's session, and whether it resumed the one that was given."""
    with TlsClient(ser.tls_port, context, name=name, session=session) as client:
        assert client.ask().status == 200
        line = ser.wait_established(client.local_port)
        assert (line["resumed"] == "yes") == client.tls.session_reused
        return client.tls.session, client.tls.session_reused


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_resumes_in_its_own_domain_only(ser, certs, kind):
    load(ser, base(certs), _named("a.example.org", certs), _named("b.example.org", certs))
    names = [None, "a.example.org", "b.example.org"]
    for made_in in names:
        context = _resuming(certs, **KINDS[kind])
        for tried_in in names:
            session, _ = _session(ser, context, made_in)
            _, resumed = _session(ser, context, tried_in, session)
            assert resumed == (made_in == tried_in), (made_in, tried_in)


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_is_no_way_around_verification(ser, certs, kind):
    """A section that requires certificates does not take a session of one that does not."""
    load(ser, base(certs), _named("a.example.org", certs, ca_list=certs.calist, **VERIFY))
    context = _resuming(certs, **KINDS[kind])
    session, _ = _session(ser, context, None)
    with pytest.raises(OSError):
        _session(ser, context, "a.example.org", session)


@pytest.mark.parametrize("where", [None, "a.example.org"])
@pytest.mark.parametrize("kind", KINDS)
def test_stricter_rules_hold_for_old_sessions_too(ser, certs, kind, where):
    """After a reload a section's sessions do not get in without the certificate that it now requires."""
    def text(**more):
        rules = {"ca_list": certs.calist, **more}
        return base(certs, **(rules if where is None else {})) + _named("a.example.org", certs, **(rules if where else {}))
    load(ser, text())
    context = _resuming(certs, **KINDS[kind])
    session, _ = _session(ser, context, where)
    load(ser, text(**VERIFY))
    with pytest.raises(OSError):
        _session(ser, context, where, session)


@pytest.mark.parametrize("change", ["crl", "ca_list", "verify_name"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_is_judged_by_the_new_rules(ser, certs, kind, change):
    """Revoked, distrusted or of the wrong name since its session was made: it does not resume."""
    def text(**more):
        return base(certs) + _named("a.example.org", certs, **{"ca_list": certs.calist, **VERIFY, **more})
    load(ser, text())
    client = x509.load_pem_x509_certificate(certs.pem("client").read_bytes())
    context = _resuming(certs, cert="client", **KINDS[kind])
    session, _ = _session(ser, context, "a.example.org")
    session, resumed = _session(ser, context, "a.example.org", session)
    assert resumed
    crl = write(ser.dir / "new-crl.pem", certs.authority().crl(client))
    load(ser, text(**{"crl": {"crl": crl}, "ca_list": {"ca_list": certs.pem("foreign-ca")},
                      "verify_name": {"verify_name": "sip", "verify_names": "other.net"}}[change]))
    with pytest.raises(OSError):
        _session(ser, context, "a.example.org", session)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reload_without_a_change_keeps_sessions(ser, certs, kind):
    load(ser, base(certs), _named("a.example.org", certs))
    context = _resuming(certs, **KINDS[kind])
    session, _ = _session(ser, context, "a.example.org")
    assert ser.rpc("tls.reload").startswith("Ok")
    assert _session(ser, context, "a.example.org", session)[1]
