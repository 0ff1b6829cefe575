# SPDX-License-Identifier: ISC
"""tls.reload: all or nothing, for new connections, at no cost to those that there are.

TLS_RELOAD_SECONDS says how long the last test reloads under load (20).
"""
from __future__ import annotations

import multiprocessing
import os
import subprocess
import threading
import time
import traceback

import pytest
from cryptography import x509

from certs import V, write
from clients import Endpoint, RawTls, TlsClient, UdpClient, failed_handshake
from domains import OK, base, fault, load, met, own, put, section, site, visit
from ser import ASAN, wait_until

SECONDS = float(os.environ.get("TLS_RELOAD_SECONDS", "20"))
VERIFY = {"verify_certificate": "yes", "require_certificate": "yes"}


@pytest.fixture
def ser(pool, certs):
    return site(pool, certs)


def _cn(client) -> str:
    cert = x509.load_der_x509_certificate(client.tls.getpeercert(True))
    return cert.subject.rfc4514_string().split("CN=")[1].split(",")[0]


def _shown(ser, certs, name="ser.example.org", cert=None) -> str:
    with TlsClient(ser.tls_port, certs.client_context(cert, verify=False), name=name) as client:
        assert client.ask().status == 200
        return _cn(client)


def _rows(ser) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "connections"} for row in ser.rpc("tls.domains")]


@pytest.mark.parametrize("high", [V.TLSv1_2, V.TLSv1_3], ids=lambda v: v.name)
def test_new_connections_see_the_new_certificate_old_ones_go_on(ser, certs, high):
    ca = certs.authority()
    made = ca.issue("before", "DNS:ser.example.org", file="renewed")
    text = section("server:default", certificate=made.pem, private_key=made.key)
    load(ser, text)
    with TlsClient(ser.tls_port, certs.client_context(verify=False, high=high)) as old:
        assert old.ask().status == 200 and _cn(old) == "before"
        ca.issue("after", "DNS:ser.example.org", file="renewed")
        assert _shown(ser, certs) == "before", "nothing happens before the reload"
        assert ser.rpc("tls.reload") == OK
        assert _shown(ser, certs) == "after"
        for _ in range(3):
            assert old.ask().status == 200


def test_connections_that_the_engine_holds_go_on(ser, certs):
    text = base(certs, cipher_list="ALL:@SECLEVEL=0")
    load(ser, text)
    context = certs.client_context(verify=False, high=V.TLSv1_2, ciphers="ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    with TlsClient(ser.tls_port, context) as old:
        assert old.ask().status == 200
        load(ser, section("server:default", method="TLSv1.3", **own(certs, "server-other")))
        assert old.ask().status == 200


def test_a_handshake_ends_in_the_set_that_it_began_with(ser, certs):

    load(ser, base(certs))
    client = RawTls(ser.tls_port, certs.client_context(verify=False, low=V.TLSv1_3))
    with client:
        client.sock.sendall(client.flight())
        client.feed()
        load(ser, section("server:default", method="TLSv1.2", **own(certs, "server-other")))
        client.handshake()
        assert client.ask().status == 200
    assert _shown(ser, certs) == "other.example.net"


def test_sections_come_and_go(ser, certs):
    named = section("server:any", server_name="a.example.org", **own(certs, "server-other"))
    load(ser, base(certs), named)
    with TlsClient(ser.tls_port, certs.client_context(verify=False), name="a.example.org") as old:
        assert old.ask().status == 200
        load(ser, base(certs))
        assert visit(ser, certs, "a.example.org") == "server:default"
        assert old.ask().status == 200
        load(ser, base(certs), named)
        assert visit(ser, certs, "a.example.org") == "server:any a.example.org"


def test_client_sections_are_reloaded(ser, certs):
    with Endpoint(certs.server_context("foreign-server")) as one, Endpoint(certs.server_context("foreign-server")) as two, \
            UdpClient(ser.udp_port) as caller:
        load(ser, base(certs))
        assert caller.ask("OPTIONS", one.uri).status == 200
        load(ser, base(certs), section("client:default", ca_list=certs.calist, **VERIFY))
        assert caller.ask("OPTIONS", one.uri).status == 200, "the old connection"
        caller.send(caller.build("OPTIONS", two.uri))
        assert ser.wait_failure(two.port)["alert_sent"] == "unknown_ca"


# -- files that change while tls.cfg does not --------------------------------------------------------


def _gets_in(ser, certs, cert) -> bool:
    try:
        return met(ser, ser.tls_port, certs.client_context(cert, verify=False))["verified"] == "yes"
    except OSError:
        return False


def test_changed_ca_list_is_noticed(ser, certs):
    ca = write(ser.dir / "trusted.pem", certs.calist.read_bytes())
    load(ser, base(certs, ca_list="trusted.pem", **VERIFY))
    assert _gets_in(ser, certs, "client") and not _gets_in(ser, certs, "foreign-client")
    write(ca, certs.pem("foreign-ca").read_bytes())
    assert ser.rpc("tls.reload") == OK
    assert not _gets_in(ser, certs, "client") and _gets_in(ser, certs, "foreign-client")


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("where", ["default", "named"])
def test_changed_crl_is_noticed(ser, certs, kind, where):
    """Also where a domain shares its CAs with the default section."""
    ca = certs.authority()
    client = x509.load_pem_x509_certificate(certs.pem("client").read_bytes())
    path = ser.dir / f"lists-{kind}-{where}"
    if kind == "directory":
        path.mkdir()
    file = path / "one.pem" if kind == "directory" else path
    file.write_bytes(ca.crl())
    rules = {"ca_list": certs.calist, "crl": path, **VERIFY}
    if where == "default":
        load(ser, base(certs, **rules), section("server:any", server_name="ser.example.org"))
    else:
        load(ser, base(certs), section("server:any", server_name="ser.example.org", **rules))
    assert _gets_in(ser, certs, "client")
    write(file, ca.crl(client))
    assert ser.rpc("tls.reload") == OK
    assert not _gets_in(ser, certs, "client") and _gets_in(ser, certs, "client-rsa")


def test_changed_ca_path_is_noticed(ser, certs):

    folder = ser.dir / "hashes"
    folder.mkdir()
    def add(name):
        digest = subprocess.run(["openssl", "x509", "-noout", "-hash", "-in", certs.pem(name)], capture_output=True,
                                text=True, check=True).stdout.strip()
        (folder / f"{digest}.0").write_bytes(certs.pem(name).read_bytes())
        return folder / f"{digest}.0"
    old = add("ca")
    load(ser, base(certs, ca_path=folder, **VERIFY))
    assert _gets_in(ser, certs, "client") and not _gets_in(ser, certs, "foreign-client")
    old.unlink()
    add("foreign-ca")
    assert ser.rpc("tls.reload") == OK
    assert not _gets_in(ser, certs, "client") and _gets_in(ser, certs, "foreign-client")


def test_changed_key_and_password_are_noticed(ser, certs):
    """First the key alone, which then does not fit; then its certificate, too; then both with a password file."""
    ca = certs.authority()
    made, new = ca.issue("one", "DNS:x", file="pair"), ca.issue("two", "DNS:x")
    locked = ca.issue("three", "DNS:x", password="first")
    (ser.dir / "word").write_text("first\n")
    load(ser, section("server:default", certificate=made.pem, private_key=made.key, private_key_password="file:word"))
    write(made.key, new.key.read_bytes())
    assert "private" in fault(ser, "tls.reload")
    assert _shown(ser, certs) == "one"
    write(made.pem, new.pem.read_bytes())
    assert ser.rpc("tls.reload") == OK and _shown(ser, certs) == "two"
    write(made.key, locked.key.read_bytes())
    write(made.pem, locked.pem.read_bytes())
    assert ser.rpc("tls.reload") == OK and _shown(ser, certs) == "three"
    (ser.dir / "word").write_text("other\n")
    assert "private_key" in fault(ser, "tls.reload")
    assert _shown(ser, certs) == "three"


def test_changed_in_place_within_a_second(ser, certs):
    """The same size, the same inode: only the content and nanoseconds differ."""
    target = ser.dir / "inplace.pem"
    for name in ("server", "server-other", "server", "server-other"):
        text = (certs.pem(name).read_bytes() + certs.key(name).read_bytes()).ljust(4096)
        with open(target, "r+b" if target.exists() else "wb") as file:
            file.write(text)
        load(ser, section("server:default", certificate="inplace.pem"))
        assert _shown(ser, certs) == {"server": "ser.example.org", "server-other": "other.example.net"}[name]


def test_config_of_the_same_size_within_a_second(ser, certs):
    for name in ("aaa.org", "bbb.org", "ccc.org", "ddd.org"):
        load(ser, base(certs), section("server:any", server_name=name))
        assert ser.rpc("tls.domains")[-1]["name"] == f"server:any {name}"


def test_each_kind_of_file_by_itself(ser, certs):
    """In domains of their own whose files are so old that only what tells of a change leads to a new look."""
    ca = certs.authority()
    client = x509.load_pem_x509_certificate(certs.pem("client").read_bytes())
    folder = ser.dir / "each"
    (folder / "crls").mkdir(parents=True)
    (folder / "cas").mkdir()
    link = folder / "cas" / subprocess.run(["openssl", "x509", "-noout", "-hash", "-in", certs.calist], capture_output=True,
                                           text=True, check=True).stdout.strip()
    made = ca.issue("before", "DNS:x")
    files = {"ca.pem": certs.calist.read_bytes(), "crl.pem": ca.crl(), "crls/one.pem": ca.crl(),
             f"cas/{link.name}.0": certs.calist.read_bytes(), "cert.pem": made.pem.read_bytes() + made.key.read_bytes()}
    for name, data in files.items():
        (folder / name).write_bytes(data)

    def named(name, **more):
        return section("server:any", server_name=name, **more)

    text = base(certs) + named("calist", ca_list=folder / "ca.pem", **VERIFY) + \
        named("capath", ca_path=folder / "cas", **VERIFY) + \
        named("crlfile", ca_list=certs.calist, crl=folder / "crl.pem", **VERIFY) + \
        named("crldir", ca_list=certs.calist, crl=folder / "crls", **VERIFY) + named("cert", certificate=folder / "cert.pem")
    put(ser, text)
    time.sleep(2.5)
    assert ser.rpc("tls.reload") == OK
    names = ("calist", "capath", "crlfile", "crldir")
    for name in names:
        assert _shown(ser, certs, name, "client"), name
    assert _shown(ser, certs, "cert") == "before"
    new = ca.issue("after", "DNS:x")
    write(folder / "ca.pem", certs.pem("foreign-ca").read_bytes())
    link.with_suffix(".0").unlink()
    write(folder / "crl.pem", ca.crl(client))
    with open(folder / "crls/one.pem", "r+b") as file:  # in place: the directory's own times stay
        file.write(ca.crl(client))
    write(folder / "cert.pem", new.pem.read_bytes() + new.key.read_bytes())
    assert ser.rpc("tls.reload") == OK
    for name in names:
        port, _ = failed_handshake(ser.tls_port, certs.client_context("client", verify=False), name=name)
        assert ser.wait_failure(port)["domain"] == f"server:any {name}"
    assert _shown(ser, certs, "cert") == "after"


# -- all or nothing -------------------------------------------------------------------------------------


BAD = {"empty": b"", "rubbish": b"rubbish\n", "truncated": None, "missing": b"-", "directory": b"+"}


@pytest.mark.parametrize("how", BAD)
def test_a_failing_reload_changes_nothing(ser, certs, how):
    """With every file of the set made bad in turn."""
    ca = certs.authority()
    second = ca.issue("second", "DNS:second", rsa_key=True, password="word")
    sources = {"a.pem": certs.pem("server"), "a.key": certs.key("server"), "b.pem": certs.pem("server-other"),
               "b.key": certs.key("server-other"), "c.pem": second.pem, "c.key": second.key, "ca.pem": certs.calist,
               "client.pem": certs.pem("client"), "client.key": certs.key("client")}
    good = {name: source.read_bytes() for name, source in sources.items()} | {
        "list.crl": ca.crl(), "word": b"word\n"}
    for name, data in good.items():
        write(ser.dir / name, data)
    text = section("server:default", certificate="a.pem", private_key="a.key", ca_list="ca.pem", crl="list.crl",
                   verify_certificate="yes") + \
        section("server:any", server_name="other.example.net", certificate="b.pem", private_key="b.key", certificate2="c.pem",
                private_key2="c.key", private_key_password2="file:word") + \
        section("client:default", certificate="client.pem", private_key="client.key")
    load(ser, text)
    good["tls.cfg"] = (ser.dir / "tls.cfg").read_bytes()
    before = _rows(ser)

    def all_is_as_before():
        assert _rows(ser) == before
        assert _shown(ser, certs) == "ser.example.org"
        assert _shown(ser, certs, "other.example.net", "client") == "other.example.net"

    for name, data in good.items():
        path = ser.dir / name
        bad = BAD[how] if BAD[how] is not None else data[:len(data) // 2]
        path.unlink()
        if how == "directory":
            path.mkdir()
        elif how != "missing":
            write(path, bad)
        mark = ser.mark()
        # An empty tls.cfg, an empty directory of lists or a short password file that fits are no errors by themselves.
        if name == "tls.cfg" and how == "empty":
            write(ser.dir / "cert.pem", b"rubbish")
        if name == "list.crl" and how == "directory":
            (path / "x").write_text("rubbish")
        message = fault(ser, "tls.reload")
        assert message.startswith(("Error while loading TLS configuration file", "Error while fixing TLS configuration")), message
        ser.wait_log(r"ERROR: .*tls: ", 2, mark)
        if name != "tls.cfg":
            wait_until(lambda: name in ser.log()[mark:], 2, f"{name} in the log")
        if (ser.dir / "cert.pem").exists():
            (ser.dir / "cert.pem").unlink()
        if path.is_dir():
            for one in path.iterdir():
                one.unlink()
            path.rmdir()
        write(path, data)
        all_is_as_before()
    assert ser.rpc("tls.reload") == OK
    all_is_as_before()


def test_each_problem_is_in_the_log_with_its_place(ser, certs):
    load(ser, base(certs))
    put(ser, base(certs), section("server:any", server_name="a", ca_list="none.pem"), section("server:127.0.0.99:1"))
    mark = ser.mark()
    message = fault(ser, "tls.reload")
    assert "2 problems" in message and "tls.cfg:" in message, message
    for pattern in (r"ERROR: .*tls\.cfg:\d+: ca_list: .*none\.pem.*No such file", r"ERROR: .*tls\.cfg:\d+: .*127\.0\.0\.99:1"):
        ser.wait_log(pattern, 2, mark)


def test_the_fault_tells_file_line_and_reason(ser, certs):
    """In what the host leaves of a fault's text, whatever the length of the folder's name."""
    load(ser, base(certs))
    put(ser, base(certs), section("server:any", server_name="a", ca_list="none.pem"))
    message = fault(ser, "tls.reload")
    assert "tls.cfg:7" in message and "none.pem" in message and "No such file" in message, message


def test_without_a_config_nothing_can_be_reloaded(pool, certs):
    ser = pool.fresh(tls=certs.server_params()).start()
    assert fault(ser, "tls.reload") == "No TLS configuration file configured"


# -- another name for the file ------------------------------------------------------------------------


def test_config_is_changed_at_run_time(pool, certs):
    ser = site(pool, certs, fresh=True)
    put(ser, section("server:default", **own(certs, "server-other")), name="other.cfg")
    ser.rpc("cfg.sets", "tls", "config", "other.cfg")
    assert _shown(ser, certs) == "ser.example.org"
    assert ser.rpc("tls.reload") == OK
    assert _shown(ser, certs) == "other.example.net"
    assert ser.rpc("tls.options")["config"] == "other.cfg"
    ser.rpc("cfg.sets", "tls", "config", "none.cfg")
    assert "none.cfg" in fault(ser, "tls.reload")
    assert _shown(ser, certs) == "other.example.net"
    ser.rpc("cfg.sets", "tls", "config", str(ser.dir / "tls.cfg"))
    assert ser.rpc("tls.reload") == OK and _shown(ser, certs) == "ser.example.org"


def test_config_can_be_set_where_there_was_none(pool, certs):
    ser = pool.fresh(tls=certs.server_params()).start()
    put(ser, section("server:default", **own(certs, "server-other")), name="late.cfg")
    ser.rpc("cfg.sets", "tls", "config", "late.cfg")
    assert ser.rpc("tls.reload") == OK
    assert _shown(ser, certs) == "other.example.net"


# -- under load ----------------------------------------------------------------------------------------


fork = multiprocessing.get_context("fork")


def _client(pipe, port: int, contexts, names, end: float) -> None:
    """Handshakes and requests until the time is over; sends how many there were, or what failed."""
    count, sessions = 0, {}
    try:
        while time.monotonic() < end:
            which, name = count % len(contexts), names[count % len(names)]
            session = sessions.get((which, name)) if count % 3 == 0 else None
            with TlsClient(port, contexts[which], name=name, session=session, timeout=15) as client:
                assert client.ask(timeout=15).status == 200
                sessions[which, name] = client.tls.session
                client.rst() if count % 5 == 0 else None
            count += 1
        pipe.send((count, ""))
    except BaseException:
        pipe.send((count, traceback.format_exc()))


def test_reloads_under_handshake_load(pool, certs):
    """Ten a second; certificates change, sections come and go. No handshake fails, no memory grows."""
    ser = site(pool, certs, fresh=True, readers=4, tls={"tls_log": 5, "session_cache": 1})
    names = ["ser.example.org", "a.example.org", "gone.example.org", None]
    for n in range(2):
        certs.authority().issue("churn", "DNS:a.example.org", file="churn")

    def text(turn: int) -> str:
        churn = {"certificate": certs.more / "churn.pem", "private_key": certs.more / "churn.key"}
        parts = [base(certs, ca_list=certs.calist, verify_certificate="yes"),
                 section("server:any", server_name="a.example.org", **churn)]
        if turn % 2:
            parts.append(section("server:any", server_name="gone.example.org", method="TLSv1.2+"))
        return "\n".join(parts + [f"# {turn}\n"])

    load(ser, text(0))
    contexts = [certs.client_context(cert, verify=False, high=high) for cert in (None, "client")
                for high in (V.TLSv1_2, V.TLSv1_3)]
    end = time.monotonic() + SECONDS
    workers = []
    for _ in range(3):
        mine, other = fork.Pipe()
        process = fork.Process(target=_client, args=(other, ser.tls_port, contexts, names, end), daemon=True)
        process.start()
        workers.append((process, mine))
    engine = ser.engine_pid()
    turns, warm, slowest = 0, None, 0.0
    pair = certs.more / "churn.pem"
    while time.monotonic() < end:
        started = time.monotonic()
        turns += 1
        if turns % 3 == 0:
            write(pair, pair.read_bytes())
        write(ser.dir / "tls.cfg", text(turns).encode())
        assert ser.rpc("tls.reload") == OK
        slowest = max(slowest, time.monotonic() - started)
        if warm is None and end - time.monotonic() < SECONDS * 2 / 3:
            warm = (ser.shm_used(), ser.memory_kb(engine))
        time.sleep(max(0.0, started + 0.1 - time.monotonic()))
    results = []
    for process, pipe in workers:
        assert pipe.poll(30), "a client does not end"
        results.append(pipe.recv())
        process.join(10)
    problems = [problem for _, problem in results if problem]
    assert not problems, f"{len(problems)} clients failed, first:\n{problems[0]}"
    assert turns > SECONDS * 5, f"only {turns} reloads"
    assert sum(count for count, _ in results) > 20 * SECONDS
    ser.wait_connections(0, 10)
    shm, engine_kb = ser.shm_used(), ser.memory_kb(engine)
    print(f"{turns} reloads, slowest {slowest:.3f} s, {results}; shm {warm[0]} -> {shm}, engine {warm[1]} -> {engine_kb} KB")
    assert shm < warm[0] + 128 * 1024, f"shared memory grew from {warm[0]} to {shm}"
    # The sanitizers keep what was freed for a while.
    assert ASAN or engine_kb < warm[1] + 2048, f"the engine grew from {warm[1]} to {engine_kb} KB"


def test_handshakes_go_on_while_domains_are_built(pool, certs):
    """Also with one engine thread, and however long it takes."""
    ser = site(pool, certs, fresh=True, tls={"engine_threads": 1})
    names = (f"n{n}.example.org" for n in range(1500))
    many = put(ser, base(certs), *(section("server:any", server_name=name, **own(certs)) for name in names),
               name="many.cfg")
    got: list = []
    thread = threading.Thread(target=lambda: got.append(ser.rpc("tls.check", str(many), timeout=60)["result"]))
    thread.start()
    context, done = certs.client_context(), 0
    while thread.is_alive():
        met(ser, ser.tls_port, context)
        done += thread.is_alive()
    thread.join()
    assert got == ["Ok"]
    assert done >= 3, f"only {done} handshakes in all that time"
