# SPDX-License-Identifier: ISC
"""The commands: what clients of them know (names, order, types), from kamcmd, kamcli and over jsonrpcs."""
from __future__ import annotations

import re
import subprocess
import time

import pytest

from certs import V
from clients import Endpoint, RawTls, TcpClient, TlsClient, UdpClient, WssClient
from domains import OK, base, check, fault, load, own, put, section, site
from ser import wait_until
from test_wss import ROUTES

LIST = {"id": int, "dom": str, "sni": str, "timestamp": str, "timeout": int, "src_ip": str, "src_port": int,
        "dst_ip": str, "dst_port": int, "cipher": str, "ct_wq_size": int, "enc_rd_buf": int, "flags": int, "state": str}
INFO = {"max_connections": int, "opened_connections": int, "clear_text_write_queued_bytes": int}
OPTIONS = {
    "force_run": int, "method": str, "verify_certificate": int, "verify_depth": int, "require_certificate": int,
    "verify_client": str, "private_key": str, "ca_list": str, "certificate": str, "cipher_list": str,
    "session_cache": int, "session_id": str, "config": str, "log": int, "debug": int, "connection_timeout": int,
    "disable_compression": int, "ssl_release_buffers": int, "ssl_freelist_max": int, "ssl_max_send_fragment": int,
    "ssl_read_ahead": int, "send_close_notify": int, "low_mem_threshold1": int, "low_mem_threshold2": int,
    "ct_wq_max": int, "con_ct_wq_max": int, "ct_wq_blk_size": int,
}
MORE_OPTIONS = {"certificate2", "private_key2", "ca_path", "crl", "crl_check", "verify_name", "verify_names", "server_name",
                "server_name_mode", "server_id", "refuse_unknown_name"}
CTL = 'loadmodule "ctl.so"\nmodparam("ctl", "binrpc", "unix:@DIR@/ctl")\nmodparam("ctl", "mode", 0666)\n'


@pytest.fixture
def ser(pool, certs):
    return site(pool, certs, raw=CTL)


def _same_head(record: dict, want: dict) -> None:
    """The fields that clients know come first and in their order; ours follow."""
    assert list(record)[:len(want)] == list(want)
    for key, kind in want.items():
        assert type(record[key]) is kind, (key, record[key])


def _list(ser) -> list[dict]:
    got = ser.rpc("tls.list")
    return [row for row in (got if isinstance(got, list) else [got]) if row]


def _row(ser, client) -> dict:
    found = [row for row in _list(ser) if client.local_port in (row["src_port"], row["dst_port"])]
    assert len(found) == 1, found
    return found[0]


# -- tls.list ----------------------------------------------------------------------------------------


def test_list_without_connections(ser, certs):
    load(ser, base(certs))
    ser.wait_connections(0)
    assert _list(ser) == []


def test_list(ser, certs):
    load(ser, base(certs), section("server:any", server_name="a.example.org", **own(certs)))
    before = time.time()
    with TlsClient(ser.tls_port, certs.client_context()) as one, \
            TlsClient(ser.tls_port, certs.client_context(verify=False), name="a.example.org") as two, \
            TlsClient(ser.tls_port, certs.client_context(verify=False, high=V.TLSv1_2), name=None) as three:
        for client in (one, two, three):
            assert client.ask().status == 200
        assert len(_list(ser)) == 3
        for client, dom, sni in ((one, "TLSs<default>", "ser.example.org"),
                                 (two, "TLSs<any:a.example.org>", "a.example.org"), (three, "TLSs<default>", "N/A")):
            row = _row(ser, client)
            _same_head(row, LIST)
            assert (row["dom"], row["sni"]) == (dom, sni)
            assert (row["src_ip"], row["src_port"]) == ("127.0.0.1", client.local_port)
            assert (row["dst_ip"], row["dst_port"]) == ("127.0.0.1", ser.tls_port)
            assert (row["state"], row["flags"], row["ct_wq_size"], row["enc_rd_buf"]) == ("established", 2, 0, 0)
            assert 0 <= row["timeout"] <= 600
            when = time.mktime(time.strptime(row["timestamp"], "%Y-%m-%d %H:%M:%S"))
            assert abs(when - before) < 5, row
            assert row["id"] in {c["id"] for c in ser.connections()}
        assert _row(ser, one)["cipher"].startswith("TLS_AES")
        assert "ECDHE" in _row(ser, three)["cipher"]


@pytest.mark.parametrize("high,curve,dom,path", [
    (V.TLSv1_2, "prime256v1", "N/A", "engine"),
    (V.TLSv1_2, None, "TLSs<default>", "fast"),
    (V.TLSv1_3, None, "TLSs<default>", "fast"),
], ids=["TLSv1_2_P-256", "TLSv1_2", "TLSv1_3"])
def test_list_in_the_handshake(ser, certs, high, curve, dom, path):
    """The engine is done with some handshakes before the client is."""
    load(ser, base(certs))
    context = certs.client_context(high=high)
    if curve:
        context.set_ecdh_curve(curve)
    with RawTls(ser.tls_port, context) as client:
        client.sock.sendall(client.flight())
        client.feed()
        row = _row(ser, client)
        assert (row["state"], row["flags"], row["dom"], row["path"]) == ("tls_accept", 0, dom, path)


def test_list_in_an_outgoing_handshake(ser, certs):
    load(ser, base(certs))
    with Endpoint(certs.server_context(), silent=True) as endpoint, UdpClient(ser.udp_port) as caller:
        caller.send(caller.build("OPTIONS", endpoint.uri))
        wait_until(lambda: endpoint.arrivals, 5, "a connection")
        row = wait_until(lambda: [r for r in _list(ser) if endpoint.port in (r["src_port"], r["dst_port"])], 5, "its row")[0]
        _same_head(row, LIST)
        assert row["state"] == "tls_connect" and row["ct_wq_size"] > 0


def test_list_of_outgoing_connections(ser, certs):
    with Endpoint(certs.server_context()) as endpoint, UdpClient(ser.udp_port) as caller:
        load(ser, base(certs), section(f"client:127.0.0.1:{endpoint.port}"))
        assert caller.ask("OPTIONS", endpoint.uri).status == 200
        rows = [row for row in _list(ser) if row["src_port"] == endpoint.port]
        assert [row["dom"] for row in rows] == [f"TLSc<127.0.0.1:{endpoint.port}>"]


def test_list_has_secure_websockets(pool, certs):
    ser = site(pool, certs, fresh=True, modules=("xhttp", "websocket"),
               core="tcp_accept_no_cl=yes", events=ROUTES)
    with WssClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200
        row = _row(ser, client)
        assert (row["state"], row["sni"]) == ("established", "ser.example.org")


# -- the others ---------------------------------------------------------------------------------------


def test_info(ser, certs):
    load(ser, base(certs))
    ser.wait_connections(0)
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        client.ask()
        info = ser.rpc("tls.info")
        _same_head(info, INFO)
        assert info["opened_connections"] == 1 and info["clear_text_write_queued_bytes"] == 0


def test_options(pool, certs):
    values = {"connection_timeout": 77, "tls_log": 5, "tls_debug": 6, "low_mem_threshold1": 100, "low_mem_threshold2": 50,
              "verify_depth": 4, "session_cache": 1, "tls_force_run": 11, "ct_wq_max": 20000, "con_ct_wq_max": 10000}
    ser = pool.fresh(tls=certs.server_params(ca_list=str(certs.calist)) | values).start()
    got = ser.rpc("tls.options")
    _same_head(got, OPTIONS)
    assert MORE_OPTIONS <= set(got) - set(OPTIONS)
    names = {"tls_log": "log", "tls_debug": "debug", "tls_force_run": "force_run"}
    for name, value in values.items():
        assert got[names.get(name, name)] == value
    assert (got["certificate"], got["ca_list"]) == (str(certs.pem("server")), str(certs.calist))
    assert not any("password" in key and "mode" not in key for key in got), "no secrets"
    ser.rpc("cfg.seti", "tls", "connection_timeout", 99)
    assert ser.rpc("tls.options")["connection_timeout"] == 99


def test_kill(ser, certs):
    load(ser, base(certs))
    with TlsClient(ser.tls_port, certs.client_context()) as victim, TlsClient(ser.tls_port, certs.client_context()) as other:
        assert victim.ask().status == other.ask().status == 200
        ident = _row(ser, victim)["id"]
        assert ser.rpc("tls.kill", ident) == "OK"
        assert victim.closed_by_ser(8)
        wait_until(lambda: len(_list(ser)) == 1, 8, "one connection")
        assert ser.rpc("tls.kill", ident) == "TLS connection id not found"
        assert other.ask().status == 200
    assert ser.rpc("tls.kill", 2**31 - 1) == "TLS connection id not found"
    assert fault(ser, "tls.kill")


def test_kill_is_for_tls_only(ser, certs):
    with TcpClient(ser.tcp_port) as client:
        assert client.ask().status == 200
        ident = [c["id"] for c in ser.connections() if c["src_port"] == client.local_port][0]
        assert ser.rpc("tls.kill", ident) == "TLS connection id not found"
        assert client.ask().status == 200


def test_domains(ser, certs):
    ca = certs.authority()
    rsa = ca.issue("rsa", "DNS:rsa.example.org", "DNS:two.example.org", "IP:127.0.0.1", rsa_key=True)
    load(ser, base(certs), section("server:any", server_name="rsa.example.org", certificate=rsa.pem, private_key=rsa.key),
         section("server:any", server_name="chain.example.org", **own(certs, "server-chain")))
    with TlsClient(ser.tls_port, certs.client_context(verify=False), name="rsa.example.org") as client:
        client.ask()
        rows = ser.rpc("tls.domains")
    assert [row["name"] for row in rows] == ["server:default", "client:default", "server:any rsa.example.org",
                                             "server:any chain.example.org"]
    default, outgoing, rsa_row, chain = rows
    assert (rsa_row["line"], rsa_row["connections"], rsa_row["chain_length"]) == (5, 1, 1)
    assert rsa_row["file"] == str(ser.dir / "tls.cfg")
    assert "rsa" in rsa_row["subject"] and "RSA" in rsa_row["key"] and "2048" in str(rsa_row)
    assert all(name in rsa_row["names"] for name in ("rsa.example.org", "two.example.org", "127.0.0.1"))
    assert rsa_row["expires_in_days"] == 300 and default["expires_in_days"] in (364, 365)
    assert (chain["chain_length"], default["connections"]) == (2, 0)
    assert outgoing["subject"] == ""


def test_domains_of_two_certificates(ser, certs):
    """The subject, names and expiry are those of the first; the second's key type is told, too."""
    load(ser, base(certs, certificate2=certs.pem("server-rsa"), private_key2=certs.key("server-rsa")),
         section("server:any", server_name="x", **own(certs, "server-other"), certificate2=certs.pem("server-rsa"),
                 private_key2=certs.key("server-rsa")))
    for row, subject in zip([r for r in ser.rpc("tls.domains") if r["name"] != "client:default"],
                            ("ser.example.org", "other.example.net")):
        assert subject in row["subject"] and "RSA" in row["key"] and "EC" in row["key"], row


def test_domains_counts_connections_across_reloads(ser, certs):
    load(ser, base(certs), section("server:any", server_name="a.example.org"))
    def count(name="server:any a.example.org"):
        return {row["name"]: row["connections"] for row in ser.rpc("tls.domains")}[name]
    with TlsClient(ser.tls_port, certs.client_context(verify=False), name="a.example.org") as client:
        client.ask()
        assert count() == 1
        load(ser, base(certs), section("server:any", server_name="a.example.org", method="TLSv1.3"))
        assert count() == 1
    wait_until(lambda: count() == 0, 5, "no connection")


def test_many_domains_in_one_list(ser, certs):
    load(ser, base(certs), *(section("server:any", server_name=f"n{n}.example.org") for n in range(300)))
    rows = ser.rpc("tls.domains")
    assert [row["name"] for row in rows[2:]] == [f"server:any n{n}.example.org" for n in range(300)]


def test_check_changes_nothing(ser, certs):
    load(ser, base(certs))
    before = ser.rpc("tls.domains")
    assert check(ser, section("server:default", **own(certs, "server-other")))[0] == "Ok"
    result, messages = check(ser, section("server:default", certificate="none.pem"))
    assert result == "Error while fixing TLS configuration"
    assert any(re.match(r"error: .*checked\.cfg:2: certificate: .*none\.pem", m) for m in messages), messages
    assert ser.rpc("tls.domains") == before
    assert ser.rpc("tls.check", "tls.cfg")["result"] == "Ok", "relative to ser.cfg"
    assert ser.rpc("tls.check", "none.cfg")["result"] == "Error while loading TLS configuration file"
    assert fault(ser, "tls.check")
    assert fault(ser, "tls.check", "")
    ser.rpc("tls.check", "x" * 200)


def test_faults_of_reload(ser, certs):
    load(ser, base(certs))
    for text, start in ((("rubbish",), "Error while loading TLS configuration file"),
                        ((section("server:default", certificate="none.pem"),), "Error while fixing TLS configuration"),
                        ((base(certs), "[server:127.0.0.99:1]"), "No server listening socket found for one of TLS domains")):
        put(ser, *text)
        message = fault(ser, "tls.reload")
        assert message.startswith(start) and "tls.cfg:" in message, message


def test_reload_reports_every_problem(ser, certs):
    load(ser, base(certs))
    many = [section("server:any", server_name=f"n{n}", ca_list=f"none{n}.pem") for n in range(40)]
    put(ser, base(certs), *many, "[server:127.0.0.99:1]")
    got = ser.rpc("tls.reload", "report")
    assert got["result"] == "No server listening socket found for one of TLS domains"
    for n in range(40):
        assert any(re.match(rf"error: .*/tls\.cfg:\d+: ca_list: .*/none{n}\.pem'", m) for m in got["messages"]), n
    assert [row["name"] for row in ser.rpc("tls.domains")] == ["server:default", "client:default"], "nothing has changed"
    assert _kamcmd(ser, "tls.reload", "report").count("error: ") == 41
    put(ser, base(certs), section("server:any", server_name="a"))
    assert ser.rpc("tls.reload", "report")["result"] == "Ok"
    assert len(ser.rpc("tls.domains")) == 3, "it is a reload"
    assert "'report'" in fault(ser, "tls.reload", "x")


# -- other clients ---------------------------------------------------------------------------------


def _kamcmd(ser, *words: object) -> str:
    done = subprocess.run(["kamcmd", "-s", f"unix:{ser.dir}/ctl", *map(str, words)], capture_output=True, text=True, timeout=20)
    return done.stdout + done.stderr


def _records(text: str) -> list[dict[str, str]]:
    return [dict(re.findall(r"^\t(\w+): ?(.*)$", block, re.M)) for block in re.findall(r"^\{\n(.*?)^\}", text, re.S | re.M)]


def test_kamcmd(ser, certs):
    load(ser, base(certs))
    assert _kamcmd(ser, "tls.reload").strip() == OK
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        client.ask()
        rows = _records(_kamcmd(ser, "tls.list"))
        assert len(rows) == 1 and list(rows[0])[:len(LIST)] == list(LIST)
        assert rows[0]["src_port"] == str(client.local_port)
        assert list(_records(_kamcmd(ser, "tls.info"))[0])[:3] == list(INFO)
        assert _kamcmd(ser, "tls.kill", rows[0]["id"]).strip() == "OK"
        assert client.closed_by_ser(8)
    options = _records(_kamcmd(ser, "tls.options"))[0]
    assert list(options)[:len(OPTIONS)] == list(OPTIONS)
    assert options["config"] == "tls.cfg"
    assert [row["name"] for row in _records(_kamcmd(ser, "tls.domains"))] == ["server:default", "client:default"]
    put(ser, "rubbish", name="bad.cfg")
    text = _kamcmd(ser, "tls.check", "bad.cfg")
    assert "Error while loading TLS configuration file" in text and "bad.cfg:1:1: " in text, text
    put(ser, "rubbish")
    text = _kamcmd(ser, "tls.reload")
    assert re.search(r"error: 500 - Error while loading TLS configuration file.*tls\.cfg:1:1: ", text), text
    assert "TLS connection id not found" in _kamcmd(ser, "tls.kill", 999999)


def test_kamcmd_with_many_domains(ser, certs):
    load(ser, base(certs), *(section("server:any", server_name=f"n{n}.example.org") for n in range(200)))
    assert len(_records(_kamcmd(ser, "tls.domains"))) == 202


def _kamcli(ser, *words: str):
    ini = ser.dir / "kamcli.ini"
    ini.write_text(f"[main]\ndomain=test\n[ctl]\ntype=jsonrpc\n[jsonrpc]\ntransport=socket\nsrvaddr={ser.rpc_path}\n"
                   f"rcvaddr={ser.dir}/kamcli\noutformat=json\n")
    done = subprocess.run(["kamcli", "--no-default-configs", "--config", str(ini), *words], capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


def test_kamcli(ser, certs):
    load(ser, base(certs))
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        client.ask()
        for words, want in ((("tls", "cfgreload"), OK), (("tls", "conlist"), str(client.local_port)),
                            (("tls", "cfgoptions"), '"ct_wq_blk_size"'), (("tls", "info"), '"max_connections"'),
                            (("rpc", "tls.kill", "i:99999"), "TLS connection id not found"),
                            (("rpc", "tls.list"), '"enc_rd_buf"'), (("rpc", "tls.domains"), "server:default"),
                            (("rpc", "tls.check", "tls.cfg"), '"Ok"')):
            text = _kamcli(ser, *words)
            assert want in text, (words, text)
    put(ser, "rubbish")
    assert "Error while loading TLS configuration file" in _kamcli(ser, "tls", "cfgreload")
