# SPDX-License-Identifier: ISC
"""Peers that do what is allowed and rare: long handshakes, second hellos, wildcard sockets, too many at once."""
from __future__ import annotations

import socket

import pytest

from certs import DOMAIN, V, Authority
from clients import Endpoint, RawTls, TlsClient, UdpClient, gnutls_client, request, rst
from domains import base, met, own, section, site
from ser import wait_until

BOTH = pytest.mark.parametrize("high", [V.TLSv1_2, V.TLSv1_3], ids=lambda v: v.name)


@pytest.fixture
def ser(pool, certs):
    return pool.get(tls=certs.server_params(ca_list=str(certs.calist), verify_client="optional", verify_depth=20))


@pytest.fixture(scope="module")
def long_chain(certs):
    """Certificate files of 40 KB and of nearly 100 KB, most of that in names of intermediates."""
    def make(names: int):
        authority, chain = certs.authority(), []
        for n in range(8):
            made = authority.issue(f"long {names} {n}", *[f"DNS:host{i}.{'y' * 50}.example.org" for i in range(names)], ca=True)
            authority = Authority(certs.more, made.pem, made.key)
            chain.insert(0, made.pem)
        return authority.issue("leaf", f"DNS:{DOMAIN}", "URI:sip:leaf@x", chain=chain)
    return {40: make(60), 100: make(160), 120: make(200)}


# -- long handshakes ---------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("protocols", [60, 240])
def test_client_hello_of_several_records(ser, certs, high, protocols):
    context = certs.client_context(high=high)
    context.set_alpn_protocols([f"{n:03}" * 80 for n in range(protocols)])
    with TlsClient(ser.tls_port, context) as client:
        assert client.ask().status == 200
        assert ser.wait_established(client.local_port)["path"] == "fast"


@BOTH
@pytest.mark.parametrize("size", [40, 100])
def test_long_chain_of_a_client(ser, certs, long_chain, high, size):
    context = certs.client_context(high=high)
    context.load_cert_chain(long_chain[size].pem, long_chain[size].key)
    assert met(ser, ser.tls_port, context)["verified"] == "yes"


@BOTH
def test_too_long_a_chain_of_a_client(ser, certs, long_chain, high):
    context = certs.client_context(high=high)
    context.load_cert_chain(long_chain[120].pem, long_chain[120].key)
    with RawTls(ser.tls_port, context) as client:
        port = client.local_port
        with pytest.raises(OSError):
            client.handshake()
            while client.sock.recv(4096):
                pass
            raise OSError("closed")
    line = ser.wait_failure(port)
    assert line["reason"] == "excessive message size" and line["alert_sent"] == "illegal_parameter", line


@BOTH
def test_long_chain_of_ser(pool, certs, long_chain, high):
    """It does not fit one answer of the engine, in either role."""
    made = long_chain[100]
    ser = pool.get(tls=certs.server_params() | {"certificate": str(made.pem), "private_key": str(made.key)})
    with TlsClient(ser.tls_port, certs.client_context(high=high)) as client:
        assert client.ask().status == 200
    with Endpoint(certs.server_context(ask_client=True, high=high)) as endpoint, UdpClient(ser.udp_port) as caller:
        for _ in range(3):
            assert caller.ask("OPTIONS", endpoint.uri).status == 200
        assert len(endpoint.arrivals) == 1


# -- second hellos, lost peers -----------------------------------------------------------------------


def test_hello_retry_request(pool, certs):
    """At security level 3 the client's only key share is too weak."""
    ser = pool.get(tls=certs.server_params(cipher_list="HIGH:@SECLEVEL=3"))
    groups = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-GROUP-ALL:+GROUP-FFDHE2048:+GROUP-X25519"
    with gnutls_client(ser.tls_port, certs, "--single-key-share", "--priority", groups, "-d", "5") as client:
        client.wait_for("Hello Retry Request")
        client.wait_for("Handshake was completed")
        client.write(request())
        client.wait_for("SIP/2.0 200 OK")
    assert ser.established()[-1]["path"] == "fast"


@pytest.mark.parametrize("way", ["fin", "rst"])
def test_the_line_about_a_lost_client_tells_its_offer(ser, certs, way):
    with RawTls(ser.tls_port, certs.client_context()) as client:
        client.sock.sendall(client.flight())
        assert client.sock.recv(1)
        port = client.local_port
        rst(client.sock) if way == "rst" else client.sock.shutdown(socket.SHUT_RDWR)
        line = ser.wait_failure(port)
    assert line["reason"] == "the connection was closed during the handshake", line
    assert line["domain"] == "server:default" and line["sni"] == DOMAIN and "0304" in line["offered"], line


# -- sockets and limits of the host ------------------------------------------------------------------


@pytest.mark.parametrize("socket_addr,addr,other", [("0.0.0.0", "127.0.0.7", "127.0.0.1"), ("[::]", "::1", "127.0.0.1")])
def test_wildcard_socket(pool, certs, socket_addr, addr, other):
    """A section is for the address that the client came to."""
    text = f"[{addr}]" if ":" in addr else addr
    ser = site(pool, certs, fresh=True, tls_addrs=(socket_addr, other) if ":" in addr else (socket_addr,),
               cfg=base(certs) + section(f"server:{text}:0", **own(certs, "server-rsa")))
    context = certs.client_context(verify=False)
    for at, port, domain in ((addr, ser.tls_ports[0], f"server:{text}:0"), (other, ser.tls_ports[-1], "server:default")):
        with TlsClient(port, context, addr=at) as client:
            client.send(client.build())
            line = ser.wait_established(client.local_port)
            assert line["domain"] == domain and line["local"].startswith(text if at == addr else at), line


def test_more_connections_than_allowed(pool, certs):
    """The host refuses them, nothing else notices, and its counter does not drift."""
    ser = pool.fresh(tls=certs.server_params(), core="tls_max_connections=4").start()
    clients = [TlsClient(ser.tls_port, certs.client_context()) for _ in range(4)]
    for _ in range(3):
        with pytest.raises(OSError):
            TlsClient(ser.tls_port, certs.client_context())
    assert ser.rpc("tls.info")["max_connections"] == 4 and ser.rpc("tls.info")["opened_connections"] == 4
    for client in clients:
        assert client.ask().status == 200
        client.sock.close()
    wait_until(lambda: ser.rpc("tls.info")["opened_connections"] == 0, 5, "no TLS connection")
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
