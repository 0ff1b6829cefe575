# SPDX-License-Identifier: ISC
"""Telephones of others: baresip makes and takes calls over TLS, linphonec registers."""
from __future__ import annotations

import re
import shutil

import pytest

from certs import V
from clients import Baresip, Endpoint, UdpClient, linphonec
from ser import wait_until


@pytest.fixture
def ser(pool, certs):
    return pool.get(tls=certs.server_params(), children=2)


def _need(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"no {program}")


def test_baresip_calls_baresip(ser, certs, tmp_path):
    _need("baresip")
    with Baresip(tmp_path / "bob", certs, ser.tls_port, "bob", answer=True) as bob:
        bob.wait_for("200 OK", 10)
        with Baresip(tmp_path / "alice", certs, ser.tls_port, "alice",
                     f"d sip:bob@127.0.0.1:{ser.tls_port};transport=tls") as alice:
            alice.wait_for("(?i)call established", 15)
            bob.wait_for("(?i)call established", 5)
    assert len([line for line in ser.established() if line.get("role") == "server"]) >= 2


def test_baresip_takes_a_call_of_a_udp_caller(ser, certs, tmp_path):
    _need("baresip")
    with Baresip(tmp_path / "carol", certs, ser.tls_port, "carol", answer=True) as carol, \
            UdpClient(ser.udp_port) as caller:
        carol.wait_for("200 OK", 10)
        offer = (b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
                 b"m=audio 30000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n")
        reply = caller.ask("INVITE", f"sip:carol@127.0.0.1:{ser.tls_port};transport=tls", timeout=15, body=offer,
                           headers=["Content-Type: application/sdp"])
        assert reply.status == 200 and b"m=audio" in reply.body
        routes = [f"Route: {route}" for route in reversed(reply.all("Record-Route"))]
        contact = re.search("<(.*)>", reply.get("Contact"))[1]
        more = {"call_id": reply.call_id, "to": reply.get("To"), "headers": routes}
        caller.send(caller.build("ACK", contact, cseq=1, **more))
        carol.wait_for("(?i)call established", 5)
        caller.send(caller.build("BYE", contact, cseq=2, **more))
        while (reply := caller.recv(10)).get("CSeq") != "2 BYE":
            pass
        assert reply.status == 200


@pytest.mark.parametrize("high", [V.TLSv1_2, V.TLSv1_3], ids=lambda v: v.name)
def test_baresip_calls_an_endpoint(ser, certs, tmp_path, high):
    """baresip over TLS to SER, SER over TLS to another server."""
    _need("baresip")
    with Endpoint(certs.server_context(high=high)) as endpoint:
        route = endpoint.uri.replace("callee", "dora")
        with Baresip(tmp_path / "alice", certs, ser.tls_port, "alice", f"d {route}",
                     outbound=f"sip:127.0.0.1:{ser.tls_port};transport=tls"):
            assert endpoint.wait_messages(1, "INVITE", 15)
            endpoint.wait_messages(1, "ACK", 10)


def test_linphonec_registers(ser, certs, tmp_path):
    _need("linphonec")
    with linphonec(tmp_path, certs, ser.tls_port, "lin") as phone:
        phone.wait_for("linphonec>", 15)
        wait_until(lambda: "sip:lin@" in str(ser.rpc("ul.dump")), 15, "the registration")
        phone.write(b"quit\n")
