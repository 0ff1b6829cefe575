# SPDX-License-Identifier: ISC
"""tls.cfg: its grammar, what sections inherit, and which one a connection meets."""
from __future__ import annotations

import random
import re

import pytest
from cryptography import x509

from certs import V, responder
from clients import Endpoint, TlsClient, UdpClient, failed_handshake
from domains import base, check, errors, line_of, load, met, own, section, site, visit, warnings
from ser import TOP
from test_start import EXAMPLE_18

TWO = ("127.0.0.1", "127.0.0.2")


@pytest.fixture
def ser(pool, certs):
    return site(pool, certs, tls_addrs=TWO)


def _second(ser, certs, name, **more):
    return visit(ser, certs, name, port=ser.tls_ports[1], addr="127.0.0.2", **more)


def _shown(port, certs, name=None, **more):
    """The common name of the certificate that SER shows."""
    with TlsClient(port, certs.client_context(verify=False, **more), name=name) as client:
        cert = x509.load_der_x509_certificate(client.tls.getpeercert(True))
    return cert.subject.rfc4514_string().split("CN=")[1].split(",")[0]


# -- words ----------------------------------------------------------------------------------------


KEYS = [
    ("method", "TLSv1.3"), ("tls_method", "TLSv1.2+"), ("verify_certificate", "no"), ("verify_cert", "off"),
    ("require_certificate", "0"), ("require_cert", "false"), ("verify_depth", "5"), ("cipher_list", "ECDHE+AESGCM"),
    ("ca_list", "@CA@"), ("calist_file", "@CA@"), ("ca_path", "/etc/ssl/certs"), ("crl", "@CRL@"), ("crl_check", "leaf"),
    ("server_name", "a.example.org"), ("server_name_mode", "2"), ("server_id", "carrier"),
    ("verify_client", "optional"), ("verify_name", "off"), ("verify_names", "a.example.org"),
    ("private_key_password", "none"), ("pkey_password", "none"), ("private_key_password2", "x"),
    ("pkey_password2", "x"), ("refuse_unknown_name", "no"),
]


@pytest.mark.parametrize("key,value", KEYS, ids=[key for key, _ in KEYS])
def test_keys_are_known(ser, certs, key, value):
    crl = certs.more / "empty-crl.pem"
    crl.write_bytes(certs.authority().crl())
    value = value.replace("@CA@", str(certs.calist)).replace("@CRL@", str(crl))
    text = base(certs)
    for word in (key, key.upper()):
        assert check(ser, f"{text}{word} = {value}\n")[0] == "Ok"
    found = errors(ser, f"{text}{key[:-1]}y = {value}\n")
    assert re.match(rf"checked\.cfg:4:1: unknown key '{key[:-1]}y'", found[0]), found


ALIASES = {
    "descendant": ("cert_file", "pkey_file", "cert_file2", "pkey_file2", "pkey_password", "pkey_password2"),
    "specification": ("certificate", "private_key", "certificate2", "private_key2", "private_key_password",
                      "private_key_password2"),
}


@pytest.mark.parametrize("names", ALIASES)
def test_files_by_either_name(ser, certs, names):
    ca = certs.authority()
    first = ca.issue("first", "DNS:first", password="one")
    second = ca.issue("second", "DNS:second", rsa_key=True, password="two")
    values = (first.pem, first.key, second.pem, second.key, "one", "two")
    load(ser, section("server:default", **dict(zip(ALIASES[names], values))))
    more = {"high": V.TLSv1_2}
    assert _shown(ser.tls_port, certs, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256", **more) == "first"
    assert _shown(ser.tls_port, certs, ciphers="ECDHE-RSA-AES128-GCM-SHA256", **more) == "second"


@pytest.mark.parametrize("verify,ca", [("verify_cert", "calist_file"), ("verify_certificate", "ca_list")])
@pytest.mark.parametrize("require", ["require_cert", "require_certificate"])
def test_verification_by_either_name(ser, certs, verify, require, ca):
    load(ser, base(certs, **{verify: "yes", require: "yes", ca: certs.calist}))
    failed_handshake(ser.tls_port, certs.client_context())
    failed_handshake(ser.tls_port, certs.client_context("foreign-client"))
    assert met(ser, ser.tls_port, certs.client_context("client"))["verified"] == "yes"


@pytest.mark.parametrize("role,want", [("server", "server"), ("srv", "server"), ("s", "server"), ("SERVER", "server"),
                                       ("client", "client"), ("cli", "client"), ("c", "client")])
def test_roles_and_addresses(ser, certs, role, want):
    extra = f"certificate={certs.pem('server')}\nprivate_key={certs.key('server')}\n"
    heads = {"any": "any", "all": "any", "127.0.0.1:@TLS_PORT@": f"127.0.0.1:{ser.tls_port}",
             " 127.0.0.2 ": "127.0.0.2:0", "127.0.0.1:0": "127.0.0.1:0"}
    if want == "client":
        heads |= {"[2001:db8::1]:5061": "[2001:db8::1]:5061", "[2001:DB8:0::2]": "[2001:db8::2]:0"}
    text = "".join(f"[{role}:{head}]\nserver_name = n{n}\n{extra}" for n, head in enumerate(heads))
    for default in ("default", "def", "*"):
        load(ser, f"[{role}:{default}]\n{extra}{text}")
        rows = [row for row in ser.rpc("tls.domains") if row["name"].startswith(want)]
        assert rows[0]["name"] == f"{want}:default" and rows[0]["line"] == 1
        assert [row["name"] for row in rows[1:]] == [f"{want}:{to} n{n}" for n, to in enumerate(heads.values())]


def test_quotes_comments_and_continuations(ser, certs):
    (ser.dir / "my # ca.pem").write_bytes(certs.calist.read_bytes())
    load(ser, f"""\
 # a comment
[ server : default ]  # another
certificate="{certs.pem('server')}"# and one
  private_key\t=   {certs.key('server')}   # and one
ca_list = "my # ca.pem"
cipher_list = "ECDHE-ECDSA-AES128-GCM-SHA256:\\
TLS_AES_128_GCM_SHA256"\r
verify_certificate = yes""")
    assert met(ser, ser.tls_port, certs.client_context("client"))["suite"] == "TLS_AES_128_GCM_SHA256"


# -- the specification's and the repository's own files ----------------------------------------------


def test_example_18(pool, certs):
    """Each of its sections with its content, and the inheritance that it relies on."""
    files = {"tls.cfg": EXAMPLE_18}
    for who, cert in (("default", "server"), ("local", "server-other")):
        files |= {f"{who}_key.pem": certs.key(cert), f"{who}_cert.pem": certs.pem(cert),
                  f"{who}_ca.pem": certs.calist}
    ser = site(pool, certs, fresh=True, cfg=EXAMPLE_18, files=files, tls_addrs=TWO)
    local = f"server:127.0.0.1:{ser.tls_port}"
    rows = {row["name"]: row for row in ser.rpc("tls.domains")}
    assert {name: row["line"] for name, row in rows.items()} == {
        "server:default": 1, "client:default": 9, local: 14}
    assert "other.example.net" in rows[local]["subject"] and "ser.example.org" in rows["server:default"]["subject"]
    # The default section: TLS 1.0 alone, nobody is asked for a certificate.
    old = {"legacy": True, "high": V.TLSv1}
    assert _second(ser, certs, None, **old) == "server:default"
    assert _second(ser, certs, None, cert="foreign-client", **old) == "server:default"
    # More relaxed on the loopback interface, except for bad certificates.
    for more in (old, {}):
        assert visit(ser, certs, None, **more) == local
        assert visit(ser, certs, None, cert="client", **more) == local
    failed_handshake(ser.tls_port, certs.client_context("foreign-client"))
    # Clients of ours must show a certificate that verifies, and there is no ca_list.
    with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri, timeout=10).status >= 400
        assert ser.wait_failure(endpoint.port)["domain"] == "client:default"


def _sample(certs, ser, uncomment: bool) -> str:
    text = (TOP / "tls.cfg").read_text()
    if uncomment:
        text = re.sub(r"^#(?=[\[a-z])", "", text, flags=re.M)
    text = text.replace("192.0.2.1:5061", f"127.0.0.1:{ser.tls_port}")
    text = text.replace("192.0.2.1:5071", f"127.0.0.2:{ser.tls_ports[1]}")
    return re.sub(r"/etc/\S*/(?=[\w.-]+\s*$)", "", text, flags=re.M)


@pytest.mark.parametrize("uncomment", [False, True], ids=["as_it_is", "all_of_it"])
def test_the_sample_loads(ser, certs, uncomment):
    text = _sample(certs, ser, uncomment)
    if uncomment:
        # In [server:default] alternatives stand side by side; a name is verified where certificates are.
        text = text.replace("verify_certificate = no", "verify_certificate = yes")
    rsa = certs.authority().issue("rsa", "DNS:ser.example.org", rsa_key=True, password="sesame")
    ec = certs.authority().issue("ser.example.org", "DNS:ser.example.org", password="sesame")
    plain = certs.authority().issue("example.org", "DNS:example.org")
    names = set(re.findall(r"^(?:private_key|certificate|ca_list|crl|private_key_password)2? = (?:file:)?(\S+)", text, re.M))
    assert names
    for name in names:
        # A section that has a certificate of its own does not inherit the password of another's key.
        source = {"cert-rsa.pem": rsa, "cert.pem": ec}.get(name, plain)
        pem = source.pem.read_bytes() + source.key.read_bytes()
        if name.startswith("password"):
            pem = b"sesame\n"
        elif name.startswith("crl"):
            pem = certs.authority().crl()
        elif "ca" in name.split(".")[0].split("-"):
            pem = certs.calist.read_bytes()
        (ser.dir / name).write_bytes(pem)
    for name, made in (("cert.ocsp", ec), ("cert-rsa.ocsp", rsa)):
        (ser.dir / name).write_bytes(responder(certs.authority(), made.cert))
    if not uncomment:
        (ser.dir / "cert.pem").write_bytes(certs.pem("cert").read_bytes())
    (ser.dir / "certs").mkdir(exist_ok=True)
    load(ser, text)
    assert len(ser.rpc("tls.domains")) == (6 if uncomment else 2)


# -- directories --------------------------------------------------------------------------------------


@pytest.fixture
def folder(ser):
    path = ser.dir / f"conf{random.randrange(10**9)}"
    path.mkdir()
    return path


def _named(certs, name, **more):
    return section("server:any", server_name=name, **own(certs, **more))


def _check_folder(ser, folder):
    got = ser.rpc("tls.check", str(folder))
    return got["result"], [m.replace(f"{folder}/", "") for m in got["messages"]]


def test_directory(pool, certs):
    """Read in the order of names; what editors leave behind is not."""
    files = {"conf/20-b.cfg": _named(certs, "b.example.org"), "conf/10-a.cfg": _named(certs, "a.example.org"),
             "conf/30-default": base(certs, method="TLSv1.3"), "conf/.hidden": "rubbish", "conf/a.bak": "rubbish",
             "conf/a~": "rubbish", "conf/sub/x.cfg": "rubbish"}
    ser = site(pool, certs, fresh=True, files=files, tls={"config": "conf"})
    rows = [(row["name"], row["file"].rsplit("/", 1)[1]) for row in ser.rpc("tls.domains") if row["line"]]
    assert rows == [("server:default", "30-default"), ("server:any a.example.org", "10-a.cfg"),
                    ("server:any b.example.org", "20-b.cfg")]
    assert met(ser, ser.tls_port, certs.client_context(verify=False), "b.example.org")["version"] == "TLSv1.3", \
        "inherited from another file"
    for name in ("a.bak", "a~", "sub"):
        ser.wait_log(rf"WARNING: .*conf/{re.escape(name)}: ", 1)
    assert ".hidden" not in ser.log()


def test_errors_in_a_directory(ser, certs, folder):
    (folder / "a.cfg").write_text(base(certs) + "nonsense = 1\n")
    (folder / "b.cfg").write_text("\n\n" + section("server:any", server_name="x", verify_depth="many"))
    result, messages = _check_folder(ser, folder)
    assert result == "Error while loading TLS configuration file"
    assert len(messages) == 2, messages
    assert messages[0].startswith("error: a.cfg:4:1: unknown key") and messages[1].startswith("error: b.cfg:5:16: ")


def test_duplicate_in_two_files(ser, certs, folder):
    (folder / "a.cfg").write_text(base(certs) + _named(certs, "x.example.org"))
    (folder / "b.cfg").write_text("\n" + _named(certs, "X.Example.org"))
    messages = [m for m in _check_folder(ser, folder)[1] if m.startswith("error")]
    assert len(messages) == 1 and "b.cfg:2" in messages[0] and "a.cfg:4" in messages[0], messages


def test_empty_directory(ser, folder):
    result, messages = _check_folder(ser, folder)
    assert result != "Ok" and "no configuration file" in messages[0]


def test_directory_of_directories_ends(ser, certs, folder):
    """A link back to itself is no endless walk."""
    (folder / "a.cfg").write_text(base(certs))
    (folder / "loop").symlink_to(folder)
    (folder / "dangling").symlink_to(folder / "nowhere")
    result, messages = _check_folder(ser, folder)
    assert any("loop" in m for m in messages) and any("dangling" in m for m in messages), messages


# -- inheritance ---------------------------------------------------------------------------------------


def test_sections_inherit_from_their_default(ser, certs):
    """Whatever the order of sections; each key by itself."""
    strict = base(certs, method="TLSv1.2", ca_list=certs.calist, verify_certificate="yes", require_certificate="yes",
                  cipher_list="ECDHE-ECDSA-CHACHA20-POLY1305")
    named = section("server:any", server_name="a.example.org") + "\n" + \
        section("server:any", server_name="b.example.org", require_certificate="no", method="TLSv1.3", cipher_list="")
    for text in (strict + named, named + strict):
        load(ser, text)
        failed_handshake(ser.tls_port, certs.client_context(), name="a.example.org")
        line = met(ser, ser.tls_port, certs.client_context("client", verify=False), "a.example.org")
        assert (line["domain"], line["version"], line["verified"]) == ("server:any a.example.org", "TLSv1.2", "yes")
        assert "CHACHA20" in line["suite"]
        line = met(ser, ser.tls_port, certs.client_context(verify=False), "b.example.org")
        assert (line["domain"], line["version"]) == ("server:any b.example.org", "TLSv1.3")
        failed_handshake(ser.tls_port, certs.client_context("foreign-client", verify=False), name="b.example.org")


def test_a_default_of_servers_is_none_of_clients(ser, certs):
    load(ser, base(certs, verify_certificate="yes", require_certificate="yes", method="TLSv1.3"))
    with Endpoint(certs.server_context("foreign-server", high=V.TLSv1_2)) as endpoint, UdpClient(ser.udp_port) as caller:
        assert caller.ask("OPTIONS", endpoint.uri).status == 200


def test_names_are_not_inherited(ser, certs):
    """server_name and server_id of a default section are its own."""
    load(ser, base(certs, server_name="d.example.org"), section("server:127.0.0.2:0"))
    assert _second(ser, certs, None) == "server:127.0.0.2:0"


def test_an_empty_value_clears(ser, certs):
    default = base(certs, method="TLSv1.2", ca_list=certs.calist, verify_certificate="yes", require_certificate="yes",
                   verify_depth=0, cipher_list="ECDHE-ECDSA-CHACHA20-POLY1305")
    load(ser, default, section("server:any", server_name="a.example.org", require_certificate="", method="",
                               cipher_list='""', verify_certificate=""))
    line = met(ser, ser.tls_port, certs.client_context(verify=False), "a.example.org")
    assert line["version"] == "TLSv1.3"
    load(ser, default, section("server:any", server_name="a.example.org", ca_list=""))
    failed_handshake(ser.tls_port, certs.client_context("client", verify=False), name="a.example.org")
    load(ser, default, section("server:any", server_name="a.example.org", verify_depth=""))
    met(ser, ser.tls_port, certs.client_context("client-chain", verify=False), "a.example.org")


def test_without_a_default_certificate_unknown_clients_are_refused(ser, certs):
    (ser.dir / "cert.pem").unlink(missing_ok=True)
    load(ser, _named(certs, "a.example.org"))
    assert visit(ser, certs, "a.example.org") == "server:any a.example.org"
    for name in ("b.example.org", None):
        port, _ = failed_handshake(ser.tls_port, certs.client_context(verify=False), name=name)
        failure = ser.wait_failure(port)
        assert "no domain" in failure["reason"] and "domain" not in failure, failure


# -- which section -----------------------------------------------------------------------------------


LADDER = ["server:default", "server:any n.example.org", "server:127.0.0.1:0", "server:127.0.0.1:0 n.example.org",
          "server:127.0.0.1:PORT", "server:127.0.0.1:PORT n.example.org"]


def _ladder(certs, ser, order):
    parts = []
    for row in order:
        head, _, name = row.replace("PORT", str(ser.tls_port)).partition(" ")
        parts.append(section(head, **({"server_name": name} if name else {}), **own(certs)))
    return "\n".join(parts)


@pytest.mark.parametrize("seed", range(6))
def test_most_specific_section_wins_in_any_order(ser, certs, seed):
    order = LADDER[:] if seed else LADDER[::-1]
    if seed > 1:
        random.Random(seed).shuffle(order)
    load(ser, _ladder(certs, ser, order))
    port = ser.tls_port
    for name in ("n.example.org", "N.Example.ORG"):
        assert visit(ser, certs, name) == f"server:127.0.0.1:{port} n.example.org"
    assert visit(ser, certs, "other.example.org") == visit(ser, certs, None) == f"server:127.0.0.1:{port}"
    assert _second(ser, certs, "n.example.org") == "server:any n.example.org"
    assert _second(ser, certs, "other.example.org") == _second(ser, certs, None) == "server:default"


@pytest.mark.parametrize("left_out,named,plain", [
    (LADDER[5:], "server:127.0.0.1:0 n.example.org", "server:127.0.0.1:PORT"),
    (LADDER[4:], "server:127.0.0.1:0 n.example.org", "server:127.0.0.1:0"),
    (LADDER[3:], "server:127.0.0.1:0", "server:127.0.0.1:0"),
    (LADDER[2:], "server:any n.example.org", "server:default"),
    (LADDER[1:], "server:default", "server:default"),
], ids=str)
def test_the_next_specific_section_when_one_is_missing(ser, certs, left_out, named, plain):
    load(ser, _ladder(certs, ser, [row for row in LADDER if row not in left_out]))
    assert visit(ser, certs, "n.example.org") == named.replace("PORT", str(ser.tls_port))
    assert visit(ser, certs, None) == plain.replace("PORT", str(ser.tls_port))


def test_ipv6_section(pool, certs):
    ser = site(pool, certs, fresh=True, tls_addrs=("127.0.0.1", "[::1]"))
    port = ser.tls_ports[1]
    load(ser, base(certs), section("server:[0:0::1]:0", server_name="six.example.org"), section(f"server:[::1]:{port}"))
    for name, want in (("six.example.org", "server:[::1]:0 six.example.org"), (None, f"server:[::1]:{port}")):
        assert visit(ser, certs, name, port=port, addr="::1") == want
    assert visit(ser, certs, "six.example.org") == "server:default"


# -- refused ---------------------------------------------------------------------------------------------


DUPLICATES = {
    "default": ("[server:default]", "[s:*]"),
    "client default": ("[client:default]", "[c:def]"),
    "address": ("[server:127.0.0.1:@TLS_PORT@]", "[srv:127.0.0.1:@TLS_PORT@]"),
    "port 0": ("[server:127.0.0.1]", "[server:127.0.0.1:0]"),
    "name": ("[server:any]\nserver_name = a.example.org", "[server:all]\nserver_name = A.EXAMPLE.ORG"),
    "address and name": ("[server:127.0.0.1:0]\nserver_name = a.b", "[server:127.0.0.1]\nserver_name = a.b"),
    "IPv6": ("[client:[2001:db8::1]:5061]", "[client:[2001:DB8:0:0::1]:5061]"),
    "server_id": ("[client:any]\nserver_id = x", "[client:any]\nserver_id = X"),
    "server_id of different sections": ("[client:any]\nserver_id = x\nserver_name = a.b",
                                        "[client:127.0.0.9:0]\nserver_id = x"),
}


@pytest.mark.parametrize("case", DUPLICATES)
def test_duplicates_are_refused_naming_both_places(ser, certs, case):
    first, second = DUPLICATES[case]
    files = f"certificate = {certs.pem('server')}\nprivate_key = {certs.key('server')}\n"
    text = ("" if case == "default" else base(certs)) + f"{first}\n{files}\n# between\n{second}\n{files}"
    lines = [n for n, line in enumerate(text.splitlines(), 1)
             if line in (first.splitlines()[0], second.splitlines()[0])]
    found = errors(ser, text)
    assert len(found) == 1 and all(f"checked.cfg:{n}" in found[0] for n in lines), found


def test_near_duplicates_are_fine(ser, certs):
    load(ser, base(certs), _named(certs, "a.example.org"), _named(certs, "b.example.org"),
         section("server:127.0.0.1:0"), section(f"server:127.0.0.1:{ser.tls_port}"), section("server:127.0.0.2:0"),
         section("client:127.0.0.1:0"), section("client:127.0.0.1:5061"),
         section("client:127.0.0.1:5061", server_name="a.example.org"), section("client:any", server_id="a"))


def test_any_needs_a_name(ser, certs):
    assert "server_name" in errors(ser, base(certs), "[server:any]\n")[0]
    assert "server_id" in errors(ser, base(certs), "[client:any]\n")[0]


def test_several_errors_at_once(ser, certs):
    text = base(certs) + """\
method = TLSv9
verify_depth = 101
verify_certificate = maybe
no_such_key = 1
tls_log = 3
[server:localhost:5061]
[sever:default]
[client:127.0.0.1:70000]
server_name_mode = 3
server_name = "unclosed
ca_list = two words
verify_client = sometimes
verify_depth = 1
verify_depth = 2
stray
"""
    found = errors(ser, text)
    for number, (line, word) in enumerate([
            ("method", "TLSv1.2"), ("verify_depth = 101", "0 to 100"), ("verify_certificate", "yes or no"),
            ("no_such_key", "unknown key"), ("tls_log", "whole module"), ("localhost", "address"),
            ("sever", "section type"), ("70000", "port"), ("mode = 3", "0 to 2"), ("unclosed", "quote"),
            ("two words", "double quotes"), ("sometimes", "optional"), ("verify_depth = 2", "twice"),
            ("^stray", "unknown key")]):
        where = f"checked.cfg:{line_of(text, line)}:"
        assert any(e.startswith(where) and word in e for e in found), (where, word, found)
        assert re.match(r"checked\.cfg:\d+:\d+: ", found[number]), "file, line and column"
    assert len(found) == 14, found


def test_several_bad_files_at_once(ser, certs):
    text = base(certs) + section("server:any", server_name="a", ca_list="none.pem", crl="none.crl") + \
        section("server:any", server_name="b", cipher_list="NOSUCH", private_key=certs.key("client"))
    found = errors(ser, text)
    for pattern, line in (("none.pem", "none.pem"), ("none.crl", "none.crl"), ("NOSUCH", "NOSUCH"),
                          ("client.key", "client.key")):
        assert any(f"checked.cfg:{line_of(text, line)}: " in e and pattern in e for e in found), (pattern, found)
    assert len(found) == 4, found


def test_no_tls_socket_at_a_servers_address(ser, certs):
    found = errors(ser, base(certs), "", "[server:127.0.0.7:5061]")
    assert len(found) == 1 and "checked.cfg:6: " in found[0], found
    assert all(f"{addr}:{port}" in found[0] for addr, port in zip(TWO, ser.tls_ports)), found
    assert errors(ser, base(certs), f"[server:127.0.0.2:{ser.tls_port}]")
    assert ser.rpc("tls.check", str(ser.dir / "checked.cfg"))["result"] == \
        "No server listening socket found for one of TLS domains"


def test_no_section(ser):
    (ser.dir / "cert.pem").unlink(missing_ok=True)
    got = warnings(ser, "# nothing\n")
    assert any("no section" in w for w in got), got


# -- at the start ------------------------------------------------------------------------------------------


def test_ignored_parameters_are_named(pool, certs):
    params = {"certificate": "none.pem", "private_key": "none.key", "ca_list": "none", "verify_certificate": 1,
              "require_certificate": 1, "verify_depth": 3, "tls_method": "TLSv1.3", "cipher_list": "X", "crl": "none",
              "server_name": "a.b", "verify_client": "on"}
    ser = site(pool, certs, fresh=True, tls=params)
    for name in params:
        ser.wait_log(rf"WARNING: .*parameter {name} is ignored", 1)
    assert len(re.findall("is ignored", ser.log())) == len(params), "no others"
    assert visit(ser, certs, high=V.TLSv1_2) == "server:default"


@pytest.mark.parametrize("text,want", [
    ("[server:default]\nmethod = x\nbad = 1\n", (r"tls\.cfg:2:10: ", r"tls\.cfg:3:1: ")),
    ("[server:127.0.0.9:1]\n", (r"tls\.cfg:1: .*127\.0\.0\.1:",)),
    ("[server:default]\ncertificate = none.pem\n", (r"tls\.cfg:2: certificate: .*none\.pem",)),
], ids=["grammar", "socket", "file"])
def test_a_bad_file_stops_the_start(pool, certs, text, want):
    log = pool.fresh(tls={"config": "tls.cfg"}, files={"tls.cfg": text}).start_failure()
    for pattern in want:
        assert re.search(rf"ERROR: .*{pattern}", log), log


def test_a_missing_file_stops_the_start(pool):
    log = pool.fresh(tls={"config": "none.cfg"}).start_failure()
    assert re.search(r"ERROR: .*none\.cfg.*No such file", log), log
