# SPDX-License-Identifier: ISC
"""Versions, suites, keys and clients: every handshake that the configuration allows, and no other."""
from __future__ import annotations

import re

import pytest

from certs import DOMAIN, V
from clients import TlsClient, failed_handshake, gnutls_client, openssl_client, request, sipsak
from ser import suite_key, version_key

SUITES_13 = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
AEAD_12 = ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"]
CBC_12 = ["AES128-SHA", "AES256-SHA", "AES128-SHA256", "AES256-SHA384"]


def _line(ser, client, **want: str) -> None:
    """What the line about the established connection must say."""
    line = ser.wait_established(client.local_port)
    for key, value in want.items():
        got = line.get(key, "")
        same_key = {"suite": suite_key, "version": version_key}.get(key, str)
        assert same_key(got) == same_key(value), f"{key}: {line}"


@pytest.mark.parametrize("version", [V.TLSv1_2, V.TLSv1_3], ids=lambda v: v.name)
@pytest.mark.parametrize("cert", ["server", "server-rsa"])
def test_version_and_key(pool, certs, version, cert):
    ser = pool.get(tls=certs.server_params(cert))
    with TlsClient(ser.tls_port, certs.client_context(low=version, high=version)) as client:
        assert client.version() == version.name.replace("_", ".")
        for _ in range(3):
            reply = client.ask()
            assert reply.status == 200 and reply.get("X-Proto") == "tls"
        _line(ser, client, version=client.version(), suite=client.suite(), path="fast", role="server",
              resumed="no", verified="none")


@pytest.mark.parametrize("suite", SUITES_13)
def test_suites_of_tls_13_chosen_by_the_server(pool, certs, suite):
    ser = pool.fresh(tls=certs.server_params(cipher_list=suite, tls_method="TLSv1.3")).start()
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.suite() == suite
        assert client.ask().status == 200
        _line(ser, client, suite=suite, path="fast")


@pytest.mark.parametrize("kind,cert", [("ECDSA", "server"), ("RSA", "server-rsa")])
@pytest.mark.parametrize("suite", AEAD_12 + CBC_12)
def test_suites_of_tls_12(pool, certs, suite, kind, cert):
    ser = pool.get(tls=certs.server_params(cert, cipher_list="ALL:@SECLEVEL=0"))
    name = f"ECDHE-{kind}-{suite}"
    context = certs.client_context(high=V.TLSv1_2, ciphers=f"{name}:@SECLEVEL=0")
    with TlsClient(ser.tls_port, context) as client:
        assert client.suite() == name
        for _ in range(3):
            assert client.ask().status == 200
        _line(ser, client, suite=name, path="fast" if suite in AEAD_12 else "engine")


def test_cbc_without_encrypt_then_mac_and_with_gnutls_with_it(pool, certs):
    """Python's OpenSSL offers encrypt-then-mac; s_client can leave it out."""
    ser = pool.get(tls=certs.server_params(cipher_list="ALL:@SECLEVEL=0"))
    for more in ((), ("-no_etm",)):
        with openssl_client(ser.tls_port, certs, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256", *more) as tool:
            tool.wait_for("Verify return code: 0")
            tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
            tool.wait_for(r"SIP/2\.0 200 OK")


METHODS = {
    "TLSv1": {"TLSv1"}, "TLSv1.0": {"TLSv1"}, "TLSv1+": {"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"},
    "TLSv1.0+": {"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}, "TLSv1.1": {"TLSv1.1"},
    "TLSv1.1+": {"TLSv1.1", "TLSv1.2", "TLSv1.3"}, "TLSv1.2": {"TLSv1.2"}, "TLSv1.2+": {"TLSv1.2", "TLSv1.3"},
    "TLSv1.3": {"TLSv1.3"}, "TLSv1.3+": {"TLSv1.3"}, "SSLv23": {"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"},
}
VERSIONS = {"TLSv1": V.TLSv1, "TLSv1.1": V.TLSv1_1, "TLSv1.2": V.TLSv1_2, "TLSv1.3": V.TLSv1_3}


@pytest.mark.parametrize("method", METHODS)
def test_method(pool, certs, method):
    ser = pool.fresh(tls=certs.server_params(tls_method=method)).start()
    for name, version in VERSIONS.items():
        context = certs.client_context(legacy=True, low=version, high=version)
        if name in METHODS[method]:
            with TlsClient(ser.tls_port, context) as client:
                assert client.version() == name and client.ask().status == 200
                _line(ser, client, version=name, path="fast" if version >= V.TLSv1_2 else "engine")
        else:
            port, reason = failed_handshake(ser.tls_port, context)
            assert re.search("(?i)protocol.version|unsupported protocol", reason), reason
            line = ser.wait_failure(port)
            assert line["role"] == "server" and line["reason"], line
            if name < min(METHODS[method]):
                assert line["alert_sent"] == "protocol_version", line
            # A client that is offered an older version than it wants ends the handshake itself.
            assert version_key(name) in {version_key(one) for one in line["offered"].split(",")}, line
            assert line["local"] == f"127.0.0.1:{ser.tls_port}"


def test_one_list_of_suites_for_both_versions(pool, certs):
    ser = pool.fresh(tls=certs.server_params(
        cipher_list="TLS_AES_128_GCM_SHA256:ECDHE-ECDSA-CHACHA20-POLY1305")).start()
    for high, want in ((V.TLSv1_3, "TLS_AES_128_GCM_SHA256"), (V.TLSv1_2, "ECDHE-ECDSA-CHACHA20-POLY1305")):
        with TlsClient(ser.tls_port, certs.client_context(high=high)) as client:
            assert client.suite() == want and client.ask().status == 200


def test_no_common_suite(pool, certs):
    ser = pool.fresh(tls=certs.server_params(cipher_list="ECDHE-ECDSA-AES256-GCM-SHA384", tls_method="TLSv1.2")).start()
    context = certs.client_context(high=V.TLSv1_2, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")
    port, reason = failed_handshake(ser.tls_port, context)
    assert "HANDSHAKE_FAILURE" in reason.upper().replace(" ", "_"), reason
    line = ser.wait_failure(port)
    assert line["alert_sent"] == "handshake_failure" and line.get("sni") == DOMAIN
    offered = {suite_key(name) for name in re.split("[,:]", line["suites"])}
    wanted = {suite_key("ECDHE-ECDSA-AES128-GCM-SHA256"), suite_key("c02b"), suite_key("0xc02b")}
    assert offered & wanted and line["reason"], line


def test_only_old_suites_keep_tls_13_usable(pool, certs):
    """A list without a suite of TLS 1.3 restricts the older versions only."""
    ser = pool.fresh(tls=certs.server_params(cipher_list="ECDHE-ECDSA-AES128-GCM-SHA256")).start()
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.version() == "TLSv1.3" and client.ask().status == 200


@pytest.mark.parametrize("high", [V.TLSv1_2, V.TLSv1_3], ids=lambda v: v.name)
def test_the_client_refuses_the_certificate(pool, certs, high):
    """The alert that the peer sent is told, and by which side."""
    ser = pool.get(tls=certs.server_params("foreign-server"))
    port, reason = failed_handshake(ser.tls_port, certs.client_context(high=high))
    assert "CERTIFICATE_VERIFY_FAILED" in reason
    line = ser.wait_failure(port)
    assert line["alert_received"] in ("unknown_ca", "bad_certificate"), line
    assert "alert_sent" not in line


def test_many_clients_one_after_the_other(pool, certs):
    ser = pool.get(tls=certs.server_params())
    context = certs.client_context()
    for _ in range(150):
        with TlsClient(ser.tls_port, context) as client:
            assert client.ask().status == 200


def test_many_connections_at_once(pool, certs):
    ser = pool.get(tls=certs.server_params())
    context = certs.client_context()
    clients = [TlsClient(ser.tls_port, context) for _ in range(60)]
    for _ in range(3):
        for client in clients:
            client.send(client.build(uri=client.ser_uri))
        for client in clients:
            assert client.recv().status == 200
    for client in clients:
        client.close()


# -- resumption ---------------------------------------------------------------------------------


@pytest.mark.parametrize("high", [V.TLSv1_2, V.TLSv1_3], ids=lambda v: v.name)
@pytest.mark.parametrize("cert,verified", [(None, "no"), ("client", "yes")])
def test_resumption(pool, certs, high, cert, verified):
    ser = pool.get(tls=certs.server_params(ca_list=str(certs.calist), verify_certificate=1), readers=4)
    context = certs.client_context(cert, high=high)
    session = None
    for turn in range(6):
        with TlsClient(ser.tls_port, context, session=session) as client:
            assert client.tls.session_reused == (turn > 0)
            reply = client.ask()
            assert (reply.status, reply.get("X-Verified")) == (200, verified), f"turn {turn}"
            session = client.tls.session
            _line(ser, client, resumed="yes" if turn else "no", verified="yes" if cert else "none", path="fast")


def test_resumption_refused_after_a_restart_is_a_full_handshake(pool, certs):
    params = certs.server_params()
    first = pool.fresh(tls=params).start()
    context = certs.client_context()
    with TlsClient(first.tls_port, context) as client:
        assert client.ask().status == 200
        session = client.tls.session
    second = pool.fresh(tls=params).start()
    with TlsClient(second.tls_port, context, session=session) as client:
        assert not client.tls.session_reused and client.ask().status == 200


# -- other people's clients ---------------------------------------------------------------------


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_s_client(pool, certs, version):
    ser = pool.get(tls=certs.server_params())
    with openssl_client(ser.tls_port, certs, version) as tool:
        tool.wait_for("Verify return code: 0")
        tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
        tool.wait_for(r"SIP/2\.0 200 OK")


@pytest.mark.parametrize("priority", [
    "NORMAL:-VERS-ALL:+VERS-TLS1.3", "NORMAL:-VERS-ALL:+VERS-TLS1.2",
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305",
    "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-CBC",
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:-GROUP-ALL:+GROUP-SECP521R1"])
def test_gnutls_cli(pool, certs, priority):
    ser = pool.get(tls=certs.server_params(cipher_list="ALL:@SECLEVEL=0"))
    with gnutls_client(ser.tls_port, certs, "--priority", priority) as tool:
        tool.wait_for("Handshake was completed")
        tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
        tool.wait_for(r"SIP/2\.0 200 OK")


def test_gnutls_cli_resumes(pool, certs):
    ser = pool.get(tls=certs.server_params())
    with gnutls_client(ser.tls_port, certs, "--resume", "--waitresumption") as tool:
        tool.wait_for("This is a resumed session", timeout=15)
        tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
        tool.wait_for(r"SIP/2\.0 200 OK")


def test_sipsak_options(pool, certs):
    ser = pool.get(tls=certs.server_params())
    with sipsak(ser.tls_port, certs, "-s", f"sip:{DOMAIN}") as tool:
        assert tool.finish(15) == 0, tool.text
        assert "200 OK" in tool.text


def test_sipsak_registers(pool, certs):
    ser = pool.get(tls=certs.server_params())
    with sipsak(ser.tls_port, certs, "-U", "-C", "sip:there@127.0.0.1", "-x", "60",
                "-s", f"sip:here@{DOMAIN}") as tool:
        assert tool.finish(15) == 0, tool.text
    assert "sip:there@127.0.0.1" in str(ser.rpc("ul.dump"))


# -- refusals that must not disturb anybody ------------------------------------------------------


def test_an_error_of_one_connection_is_not_seen_on_another(pool, certs):
    ser = pool.get(tls=certs.server_params("foreign-server"), readers=1)
    ok = certs.client_context(verify=False)
    bad = certs.client_context()
    with TlsClient(ser.tls_port, ok) as bystander:
        for _ in range(10):
            failed_handshake(ser.tls_port, bad)
            assert bystander.ask().status == 200
        assert not ser.failures(bystander.local_port)


def test_renegotiation_is_refused(pool, certs):
    """TLS 1.2: the request of a client to renegotiate is not followed, on both paths."""
    ser = pool.get(tls=certs.server_params(cipher_list="ALL:@SECLEVEL=0"))
    for suite in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA"):
        with openssl_client(ser.tls_port, certs, "-tls1_2", "-cipher", f"{suite}:@SECLEVEL=0") as tool:
            tool.wait_for("Verify return code: 0")
            tool.write(b"R\n")
            tool.wait_for("(?i)no.renegotiation|alert|unexpected eof|closed|errno")
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200


