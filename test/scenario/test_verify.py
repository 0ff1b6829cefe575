# SPDX-License-Identifier: ISC
"""Client certificates: who gets in, and for whom is_peer_verified() is true."""
from __future__ import annotations

import pytest

from certs import V
from clients import TcpClient, TlsClient, failed_handshake

BOTH = pytest.mark.parametrize("high", [V.TLSv1_2, V.TLSv1_3], ids=lambda v: v.name)

OFF = {"verify_certificate": 0, "require_certificate": 0}
VERIFY = {"verify_certificate": 1, "require_certificate": 0}
REQUIRE = {"verify_certificate": 1, "require_certificate": 1}
REQUIRE_ONLY = {"verify_certificate": 0, "require_certificate": 1}


def _ser(pool, certs, mode, **more):
    return pool.get(tls=certs.server_params(ca_list=str(certs.calist), **mode, **more))


@BOTH
@pytest.mark.parametrize("mode,cert,verified", [
    (OFF, None, "no"), (OFF, "foreign-client", "no"), (OFF, "client-expired", "no"),
    (VERIFY, None, "no"), (VERIFY, "client", "yes"), (VERIFY, "client-rsa", "yes"), (VERIFY, "client-chain", "yes"),
    (REQUIRE, "client", "yes"), (REQUIRE, "client-chain", "yes"), (REQUIRE_ONLY, "client", "yes"),
], ids=str)
def test_let_in(pool, certs, high, mode, cert, verified):
    ser = _ser(pool, certs, mode)
    with TlsClient(ser.tls_port, certs.client_context(cert, high=high)) as client:
        for _ in range(2):
            reply = client.ask()
            assert (reply.status, reply.get("X-Verified")) == (200, verified)
        line = ser.wait_established(client.local_port)
        assert (line["verified"] == "yes") == (verified == "yes"), line


REFUSED = {
    ("verify", "foreign-client"): (VERIFY, ("UNKNOWN_CA", "BAD_CERTIFICATE"), ("unknown_ca", "bad_certificate")),
    ("verify", "client-expired"): (VERIFY, ("CERTIFICATE_EXPIRED",), ("certificate_expired",)),
    ("require", "foreign-client"): (REQUIRE, ("UNKNOWN_CA", "BAD_CERTIFICATE"), ("unknown_ca", "bad_certificate")),
    ("require", "client-expired"): (REQUIRE, ("CERTIFICATE_EXPIRED",), ("certificate_expired",)),
    ("require", None): (REQUIRE, ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE"),
                        ("certificate_required", "handshake_failure")),
    ("require_only", None): (REQUIRE_ONLY, ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE"),
                             ("certificate_required", "handshake_failure")),
}


@BOTH
@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_refused(pool, certs, high, case):
    mode, reasons, alerts = REFUSED[case]
    cert = case[1]
    ser = _ser(pool, certs, mode)
    with TlsClient(ser.tls_port, certs.client_context("client", high=high)) as bystander:
        port, reason = failed_handshake(ser.tls_port, certs.client_context(cert, high=high))
        assert any(word in reason.upper().replace(" ", "_") for word in reasons), reason
        line = ser.wait_failure(port)
        assert line["alert_sent"] in alerts and line["role"] == "server" and line["reason"], line
        assert "domain" in line, line
        if cert:
            assert {"foreign-client": "mallory", "client-expired": "dave"}[cert] in line["cert"], line
        assert bystander.ask().get("X-Verified") == "yes"


def test_verify_depth(pool, certs):
    """Depth 0: only the certificate itself, directly below a trusted CA."""
    ser = pool.get(tls=certs.server_params(ca_list=str(certs.calist), verify_depth=0, **REQUIRE))
    with TlsClient(ser.tls_port, certs.client_context("client")) as client:
        assert client.ask().get("X-Verified") == "yes"
    port, _ = failed_handshake(ser.tls_port, certs.client_context("client-chain"))
    line = ser.wait_failure(port)
    assert "carol" in line["cert"] or "intermediate" in line["cert"], line


def test_without_ca_list_every_verification_fails(pool, certs):
    ser = pool.get(tls=certs.server_params(**VERIFY))
    failed_handshake(ser.tls_port, certs.client_context("client"))
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().get("X-Verified") == "no"


def test_not_true_on_tcp(pool, certs):
    ser = _ser(pool, certs, VERIFY)
    with TcpClient(ser.tcp_port) as client:
        assert client.ask().get("X-Verified") == "no"


def test_many_clients_are_not_mixed_up(pool, certs):
    """Verified and unverified connections side by side over several readers."""
    ser = pool.get(tls=certs.server_params(ca_list=str(certs.calist), **VERIFY), readers=4)
    contexts = {"yes": certs.client_context("client"), "no": certs.client_context()}
    clients = [(want, TlsClient(ser.tls_port, contexts[want])) for want in ("yes", "no") * 10]
    for _ in range(3):
        for want, client in clients:
            assert client.ask().get("X-Verified") == want
    for _, client in clients:
        client.close()


@pytest.mark.parametrize("cert,verified", [(None, "no"), ("client", "yes")])
def test_engine_path(pool, certs, cert, verified):
    ser = pool.get(tls=certs.server_params(ca_list=str(certs.calist), cipher_list="ALL:@SECLEVEL=0", **VERIFY))
    context = certs.client_context(cert, high=V.TLSv1_2, ciphers="ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    with TlsClient(ser.tls_port, context) as client:
        assert client.ask().get("X-Verified") == verified
