# SPDX-License-Identifier: ISC
"""Sessions resume whichever process, reload or machine comes next, and never where they must not."""
from __future__ import annotations

import datetime
import os
import secrets
import shutil
import ssl
import threading

import pytest

from certs import V, write
from clients import RawTls, TlsClient, WssClient, failed_handshake, openssl_client, request
from domains import base, errors, fault, load, own, section, site, warnings
from ser import ASAN, wait_until
from test_wss import ROUTES

KINDS = {
    "tls12 ticket": {"high": V.TLSv1_2}, "tls12 id": {"high": V.TLSv1_2, "ticket": False}, "tls13 ticket": {},
}
TICKETS = {kind: more for kind, more in KINDS.items() if kind.endswith("ticket")}
VERIFY = {"verify_client": "on"}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(params=TICKETS)
def ticket(request):
    return TICKETS[request.param]


def client_of(certs, cert=None, ticket=True, **more):
    context = certs.client_context(cert, verify=False, **more)
    if not ticket:
        context.options |= ssl.OP_NO_TICKET
    return context


def connect(ser, context, session=None, name=None, port=0, verified=None):
    """A connection that is answered: its session, and whether it resumed the one that was given."""
    with TlsClient(port or ser.tls_port, context, name=name, session=session) as client:
        reply = client.ask()
        assert reply.status == 200
        line = ser.wait_established(client.local_port)
        reused = client.tls.session_reused
        assert (line["resumed"] == "yes") == reused
        if verified is not None:
            assert (reply.get("X-Verified") == "yes") == (line["verified"] == "yes") == verified
        return client.tls.session, reused


def resumes(ser, context, session, **more) -> bool:
    return connect(ser, context, session, **more)[1]


def reload(ser) -> str:
    """The answer, or the text of the fault."""
    try:
        return ser.rpc("tls.reload")
    except AssertionError as problem:
        return str(problem)


def make_keys(count: int = 1) -> list[str]:
    return [secrets.token_hex(64) for _ in range(count)]


def put_keys(ser, *keys: str, mode: int = 0o600, name: str = "tickets.keys"):
    path = write(ser.dir / name, "".join(key + "\n" for key in keys).encode())
    path.chmod(mode)
    return path


# -- one machine -----------------------------------------------------------------------------------------


def test_whichever_process_is_next(pool, certs, kind):
    """Many readers, many connections at a time, each of which goes to the reader that SER chooses."""
    ser = site(pool, certs, tls={"session_cache": 1}, readers=6)
    load(ser, base(certs))
    context = client_of(certs, **kind)
    session, _ = connect(ser, context)
    clients = []
    for _ in range(18):
        clients.append(TlsClient(ser.tls_port, context, name=None, session=session))
        assert clients[-1].tls.session_reused
        assert clients[-1].ask().status == 200
    for client in clients:
        client.close()


def test_session_id_needs_the_cache(pool, certs):
    ser = site(pool, certs)
    load(ser, base(certs))
    context = client_of(certs, **KINDS["tls12 id"])
    session, _ = connect(ser, context)
    assert not resumes(ser, context, session)


@pytest.mark.parametrize("change", ["another section", "certificate", "touched CA"])
def test_tickets_survive_what_does_not_change_the_rules(pool, certs, ticket, change):
    ser = site(pool, certs)
    made = certs.authority().issue("me", "DNS:me.example.org")
    ca = ser.dir / "same-ca.pem"
    shutil.copy(certs.calist, ca)
    rules = {"certificate": made.pem, "private_key": made.key, "ca_list": ca, "verify_certificate": 1}
    load(ser, base(certs), section("server:any", server_name="me.example.org", **rules))
    context = client_of(certs, "client", **ticket)
    session, _ = connect(ser, context, name="me.example.org", verified=True)
    if change == "certificate":
        again = certs.authority().issue("me", "DNS:me.example.org")
        rules |= {"certificate": again.pem, "private_key": again.key}
    elif change == "touched CA":
        write(ca, ca.read_bytes())
    more = section("server:any", **own(certs, server_name="b.example.org"))
    load(ser, base(certs), section("server:any", server_name="me.example.org", **rules), more)
    assert resumes(ser, context, session, name="me.example.org", verified=True)


@pytest.mark.parametrize("change", ["names", "CA", "CRL", "suites", "version", "depth", "session text"])
def test_sessions_do_not_survive_other_rules(pool, certs, kind, change):
    ser = site(pool, certs, tls={"session_cache": 1})
    made = certs.authority().issue("me", "DNS:me.example.org")
    ca, crl = ser.dir / "changing-ca.pem", ser.dir / "changing-crl.pem"
    shutil.copy(certs.calist, ca)
    write(crl, certs.authority().crl())
    rules = {"certificate": made.pem, "private_key": made.key, "ca_list": ca, "crl": crl, "verify_certificate": 1}

    def text(**more):
        return base(certs) + section("server:any", server_name="me.example.org", **(rules | more))

    load(ser, text())
    context = client_of(certs, "client", **kind)
    session, _ = connect(ser, context, name="me.example.org", verified=True)
    assert resumes(ser, context, session, name="me.example.org", verified=True)
    if change == "names":
        other = certs.authority().issue("me", "DNS:me.example.org", "DNS:other.example.org")
        load(ser, text(certificate=other.pem, private_key=other.key))
    elif change == "CA":
        write(ca, ca.read_bytes() + certs.pem("foreign-ca").read_bytes())
        load(ser, text())
    elif change == "CRL":
        other = certs.authority().issue("gone")
        write(crl, certs.authority().crl(other.cert))
        load(ser, text())
    elif change == "suites":
        load(ser, text(cipher_list="TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:ECDHE+AESGCM"))
    elif change == "version":
        load(ser, text(method="TLSv1.2" if kind.get("high") else "TLSv1.3"))
    elif change == "depth":
        load(ser, text(verify_depth=5))
    else:
        ser = site(pool, certs, tls={"session_cache": 1, "session_id": "another"})
        load(ser, text())
    assert not resumes(ser, context, session, name="me.example.org", verified=True)


def test_sections_at_other_addresses_with_the_same_rules(pool, certs, ticket):
    """Same certificate, same rules: the client meets the same server. Other rules: it does not."""
    ser = site(pool, certs, tls_addrs=("127.0.0.1", "127.0.0.1", "127.0.0.1"))
    first, second, third = ser.tls_ports
    load(ser, base(certs, ca_list=certs.calist), section(f"server:127.0.0.1:{second}", verify_certificate="yes"),
         section(f"server:127.0.0.1:{third}"))
    context = client_of(certs, "client", **ticket)
    session, _ = connect(ser, context, port=first)
    assert resumes(ser, context, session, port=third)
    assert not resumes(ser, context, session, port=second)


def test_files_that_change_while_they_are_read(pool, certs):
    """A reload then reads them again, or changes nothing; what it takes over is all of one time."""
    ser = site(pool, certs)
    ca, over = ser.dir / "restless-ca.pem", threading.Event()
    texts = [certs.calist.read_bytes(), certs.pem("foreign-ca").read_bytes()]
    write(ca, texts[0])
    rules = {"ca_list": ca, "verify_client": "on"}
    load(ser, base(certs, **rules))

    def change():
        turn = 0
        while not over.wait(0.0005):
            turn += 1
            write(ca, texts[turn % 2])

    thread = threading.Thread(target=change)
    thread.start()
    try:
        answers = [reload(ser) for _ in range(25)]
    finally:
        over.set()
        thread.join()
    for answer in answers:
        assert answer.startswith("Ok") or "files changed each time that they were read" in answer, answer
    write(ca, texts[1])
    assert ser.rpc("tls.reload").startswith("Ok")
    failed_handshake(ser.tls_port, certs.client_context("client", verify=False))
    connect(ser, client_of(certs, "foreign-client"), verified=True)


def test_client_certificate_that_ended(pool, certs):
    """Its sessions end with it, although they are younger than others that resume."""
    ser = site(pool, certs, tls={"session_cache": 1})
    load(ser, base(certs, ca_list=certs.calist, verify_client="optional_no_ca"))
    authority, days = certs.authority(), certs.authority().days
    authority.days = datetime.timedelta(seconds=4)
    try:
        made = authority.issue("short", "URI:sip:short@x")
    finally:
        authority.days = days
    sessions = []
    for more in KINDS.values():
        context = client_of(certs, **more)
        context.load_cert_chain(made.pem, made.key)
        sessions.append((context, connect(ser, context)[0]))
    wait_until(lambda: datetime.datetime.utcnow() > made.cert.not_valid_after + datetime.timedelta(seconds=1.1), 10,
               "the end of the certificate")
    for context, session in sessions:
        assert not resumes(ser, context, session, verified=False)


def test_identity_of_a_resumed_session_on_wss(pool, certs, ticket):
    """A route sees the peer verified, or not, as in the handshake that made the session."""
    ser = site(pool, certs, modules=("xhttp", "websocket"), core="tcp_accept_no_cl=yes", events=ROUTES)
    load(ser, base(certs, ca_list=certs.calist, verify_client="optional_no_ca"))
    for cert, verified in (("client", "yes"), ("foreign-client", "no"), (None, "no")):
        context = client_of(certs, cert, **ticket)
        session = None
        for turn in range(2):
            with WssClient(ser.tls_port, context, session=session) as client:
                assert client.tls.session_reused == (turn > 0)
                assert client.ask().get("X-Verified") == verified
                session = client.tls.session


# -- keys of a file ---------------------------------------------------------------------------------------


def cluster(pool, certs, *keys: list[str], **more):
    """A SER for each list of keys, all with the same tls.cfg; relative names, other folders."""
    sers = []
    for some in keys:
        files = {"tls.cfg": base(certs, ca_list="ca.pem", verify_certificate="yes"), "ca.pem": certs.calist,
                 "tickets.keys": "\n".join(some) + "\n"}
        sers.append(pool.fresh(tls={"config": "tls.cfg", "tls_log": 1, "session_ticket_keys": "tickets.keys", **more},
                               files=files).start())
    return sers


def test_machines_that_share_keys(pool, certs):
    """A phone resumes on another machine; on one with other keys it makes a full handshake."""
    one, two = make_keys(2)
    here, there, elsewhere = cluster(pool, certs, [one, two], [two, one], make_keys())
    for cert in (None, "client"):
        for more in TICKETS.values():
            context = client_of(certs, cert, **more)
            session, reused = connect(here, context, verified=cert is not None)
            assert not reused
            session, reused = connect(there, context, session, verified=cert is not None)
            assert reused
            assert resumes(here, context, session, verified=cert is not None)
            session, reused = connect(elsewhere, context, session, verified=cert is not None)
            assert not reused
            assert resumes(elsewhere, context, session, verified=cert is not None)


def test_keys_are_rotated_by_reload(pool, certs, ticket):
    old, new, newest = make_keys(3)
    ser, = cluster(pool, certs, [old])
    context = client_of(certs, **ticket)
    session, _ = connect(ser, context)

    def rotate(*keys):
        put_keys(ser, *keys)
        assert ser.rpc("tls.reload").startswith("Ok")

    rotate(new, old)
    session, reused = connect(ser, context, session)
    assert reused
    rotate(newest, new)
    assert resumes(ser, context, session)
    rotate(newest)
    assert not resumes(ser, context, session)


def test_a_bad_file_changes_nothing(pool, certs, ticket):
    key, = make_keys()
    ser, = cluster(pool, certs, [key])
    context = client_of(certs, **ticket)
    session, _ = connect(ser, context)
    put_keys(ser, "# a comment", make_keys()[0], key[:-1])
    load_fault = fault(ser, "tls.reload")
    assert "tickets.keys:3: session_ticket_keys: a key has 128 hex digits" in load_fault
    assert key[:20] not in ser.log()
    assert [e for e in errors(ser, base(certs)) if "tickets.keys:3:" in e]
    assert resumes(ser, context, session)
    (ser.dir / "tickets.keys").unlink()
    assert "cannot read file" in fault(ser, "tls.reload")
    assert resumes(ser, context, session)
    put_keys(ser, key, mode=0o604)
    assert [w for w in warnings(ser, base(certs)) if "tickets.keys' can be read by other users" in w]


def test_a_peer_that_leaves_with_its_finished(pool, certs):
    """Its suite, the first one since the start, has its name, and no later one gets another's."""
    key = make_keys()
    params = certs.server_params(cipher_list="ALL:@SECLEVEL=0", session_ticket_keys="keys")
    context = certs.client_context(high=V.TLSv1_2, ciphers="ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    with RawTls(pool.fresh(tls=params, files={"keys": key[0]}).start().tls_port, context) as client:
        assert client.handshake().ask().status == 200
        session = client.ssl.session
    ser = pool.fresh(tls=params, files={"keys": key[0]}).start()
    with RawTls(ser.tls_port, context, session=session) as client:
        while not client.complete:
            data = client.flight()
            client.sock.sendall(data + client.close_notify() if client.complete else data)
            if not client.complete:
                client.feed()
        line = ser.wait_established(client.local_port)
    assert (line["suite"], line["resumed"], line["path"]) == ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", "yes", "engine")
    other = certs.client_context(high=V.TLSv1_2, ciphers="ECDHE-ECDSA-AES256-SHA:@SECLEVEL=0")
    for again, suite in ((other, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"), (context, line["suite"])):
        with RawTls(ser.tls_port, again) as client:
            assert client.handshake().ask().status == 200
            assert ser.wait_established(client.local_port)["suite"] == suite


def test_a_bad_file_stops_the_start(pool, certs):
    ser = pool.fresh(tls=certs.server_params(session_ticket_keys="keys"), files={"keys": "00ff\n"})
    assert "keys:1: session_ticket_keys: a key has 128 hex digits" in ser.start_failure()


def test_without_a_file_of_domains(pool, certs, ticket):
    ser = pool.get(tls=certs.server_params(session_ticket_keys="keys"), files={"keys": "\n".join(make_keys(2))})
    context = client_of(certs, **ticket)
    session, _ = connect(ser, context)
    assert resumes(ser, context, session)


@pytest.mark.skipif(ASAN, reason="the sanitizers' memory is too large to search")
def test_ticket_keys_are_in_the_engine_only(pool, certs):
    if os.getuid() != 0:
        pytest.skip("needs to read the memory of other processes")
    from test_secrets import _scan

    key, = make_keys()
    ser, = cluster(pool, certs, [key])
    context = client_of(certs)
    session, _ = connect(ser, context)
    assert resumes(ser, context, session)
    raw = bytes.fromhex(key)
    needles = {"cipher": raw[:32], "hmac": raw[32:], "hex": key[10:60].encode()}
    seen: set = set()
    engine = ser.engine_pid()
    assert {"cipher", "hmac"} <= _scan(engine, needles, seen)
    for pid in set(ser.session_pids()) - {engine}:
        assert not _scan(pid, needles, seen), ser.processes().get(pid)


# -- other clients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_resumes_on_another_machine(pool, certs, version):
    here, there = cluster(pool, certs, *[make_keys()] * 2)
    kept = here.dir / "session.pem"
    for ser, option, expected in ((here, "-sess_out", "New"), (there, "-sess_in", "Reused")):
        with openssl_client(ser.tls_port, certs, version, option, kept) as tool:
            tool.wait_for(rf"^{expected}, TLSv1")
            tool.write(request(uri=f"sip:127.0.0.1:{ser.tls_port};transport=tls"))
            tool.wait_for(r"SIP/2\.0 200 OK")
            wait_until(kept.exists, 5, "the file of the session")
            tool.finish()
