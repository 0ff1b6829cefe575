# SPDX-License-Identifier: ISC
"""Malformed tls.cfg: an error with its place, or Ok; SER goes on and serves as before."""
from __future__ import annotations

import os
import random
import re
import socket

import pytest

from clients import TlsClient
from domains import base, errors, load, own, section, site

RESULTS = {"Ok", "Error while loading TLS configuration file", "Error while fixing TLS configuration",
           "No server listening socket found for one of TLS domains"}


@pytest.fixture
def ser(pool, certs):
    return site(pool, certs, cfg=base(certs))


def _state(ser):
    rows = ser.rpc("tls.domains")
    return [{key: value for key, value in row.items() if key != "connections"} for row in rows], ser.engine_pid()


@pytest.fixture(autouse=True)
def serves_on(ser, certs):
    """Whatever the test does."""
    (ser.dir / "cert.pem").unlink(missing_ok=True)
    load(ser, base(certs))
    before = _state(ser)
    yield
    assert _state(ser) == before
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200


def _rich(certs, ser) -> str:
    """A text with everything of the grammar in it."""
    return f"""\
\ufeff# comment \u00e4\u00f6
[server:default]   # more
method = TLSv1.2+
certificate = "{certs.pem('server')}"
private_key={certs.key('server')} # key
ca_list = {certs.calist}
verify_certificate = off
verify_client = optional
cipher_list = "ECDHE+AESGCM:\\
TLS_AES_128_GCM_SHA256"
verify_depth = 9

[ server : 127.0.0.1 : {ser.tls_port} ]
server_name = a.example.org
server_name_mode = 1
verify_name = off
refuse_unknown_name = yes

[srv:any]
server_name = "b.example.org"
cert_file2 = {certs.pem('server-rsa')}
pkey_file2 = {certs.key('server-rsa')}
ca_list =
[client:[2001:db8::1]:5061]
verify_names = "x y, z\\t\\#\\""
[client:any]
server_id = x
"""


def _judge(ser, data: bytes, name: str = "bad.cfg") -> tuple[str, list[str]]:
    (ser.dir / name).write_bytes(data)
    got = ser.rpc("tls.check", name)
    assert set(got) == {"result", "messages"} and got["result"] in RESULTS, got
    wrong = [m for m in got["messages"] if m.startswith("error: ")]
    assert (got["result"] == "Ok") == (not wrong), got
    assert all(re.match(r"error: \S+/" + re.escape(name) + r":(\d+:(\d+:)?)? ", m) or "more" in m
               for m in wrong), wrong
    return got["result"], got["messages"]


def test_truncated_at_each_of_many_places(ser, certs):
    data = _rich(certs, ser).encode()
    assert _judge(ser, data)[0] == "Ok"
    step = max(len(data) // 250, 1)
    results = [_judge(ser, data[:at])[0] for at in range(0, len(data), step)]
    assert len(results) >= 200
    assert results.count("Ok") > 10 and results.count("Error while loading TLS configuration file") > 10


def test_each_line_left_out_or_doubled(ser, certs):
    lines = _rich(certs, ser).encode().splitlines(keepends=True)
    for n in range(len(lines)):
        _judge(ser, b"".join(lines[:n] + lines[n + 1:]))
        _judge(ser, b"".join(lines[:n + 1] + lines[n:]))


@pytest.mark.parametrize("seed", range(4))
def test_bytes_changed_at_random(ser, certs, seed):
    rng = random.Random(seed)
    data = _rich(certs, ser).encode()
    for _ in range(40):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(changed))
            changed[at:at + rng.choice((0, 1, 5))] = rng.choice(
                (bytes([rng.randrange(256)]), b"\0", b'"', b"\\", b"[", b"]", b"=", b"#", b"\n", b"\r", b"\xff\xfe", b""))
        _judge(ser, bytes(changed))


HEADS = ["", ":", "server", "server:", ":default", "[server", "server:default:5061", "server:1.2.3", "server:1.2.3.4.5",
         "server:256.1.1.1", "server:127.0.0.1:", "server:127.0.0.1:-1", "server:127.0.0.1:65536", "server:127.0.0.1:5061x",
         "server:::1", "server:[::1", "server:[::1]x", "server:[::g]:1", "server:[127.0.0.1]:1", "server:localhost",
         "server:default client:default", "proxy:default", "server:any:5061", "server:*:5061", "client:0x7f.1",
         "server:127.0.0.1:99999999999999999999", "server:[fe80::1%lo]:5061", "server default", "servers:default"]


@pytest.mark.parametrize("head", HEADS, ids=lambda h: h or "empty")
def test_wrong_section(ser, certs, head):
    found = errors(ser, base(certs) + f"[{head}]\n")
    assert found[0].startswith("checked.cfg:4"), found


VALUES = {
    "method": ["TLS", "TLSv1.4", "1.2", "yes", "TLSv1.2 +"], "verify_depth": ["-1", "101", "x", "1.5", "0x9", "9z", "1e1", "99999999999999999999"],
    "verify_certificate": ["2", "-1", "ja", "y", "truee", "yes no"], "require_certificate": ["10"],
    "verify_client": ["yes", "1", "optional_no"], "server_name_mode": ["3", "-1", "exact"], "crl_check": ["none", "1"],
    "verify_name": ["yes", "dns"], "refuse_unknown_name": ["maybe"], "certificate": ["/", "none.pem", '"\\q"', '"a', "/dev/null"],
    "private_key": ["none.key", "/tmp"], "ca_list": ["none.pem", "/dev/null", "/tmp"], "ca_path": ["none", "/etc/passwd"],
    "crl": ["none", "/etc/passwd"], "cipher_list": ["NOSUCH", ":", '" "', "TLS_NOSUCH"],
    "server_name": ["a..b", ".a", "a.", "a/b", '"a b"', "x" * 254, "\u00e4.example.org", "*.example.org"],
}


@pytest.mark.parametrize("key,value", [(k, v) for k, vs in VALUES.items() for v in vs], ids=lambda x: x[:30])
def test_wrong_value(ser, certs, key, value):
    text = section("server:default", **(own(certs) | {key: value})) if key in own(certs) else base(certs) + f"{key} = {value}\n"
    line = next(n for n, one in enumerate(text.splitlines(), 1) if one.startswith(f"{key} ="))
    found = errors(ser, text)
    assert any(e.startswith(f"checked.cfg:{line}:") for e in found), found


@pytest.mark.parametrize("line", ["= value", "method", "method TLSv1.2", "method : TLSv1.2", "method == TLSv1.2", "method = = x",
                                  "[server:any", "server:any]", "; comment", "// comment", "<?xml?>", "\x01", "method = TLSv1.2 x",
                                  '"method" = x', "include x", "modparam(\"tls\", \"method\", \"x\")", "{"])
def test_wrong_line(ser, certs, line):
    assert errors(ser, base(certs) + line + "\n")[0].startswith("checked.cfg:4:")


def test_nul_bytes(ser, certs):
    text = base(certs).encode()
    for data, place in ((b"\0", "1:1"), (text + b"\0", "4:1"), (text + b"# \0\n", "4:3"), (text + b"method = TLSv1.2\0x\n", "4:17"),
                        (b"\0" * 100000, "1:1"), (text.replace(b"c", b"\0"), "2:1")):
        result, messages = _judge(ser, data)
        assert result != "Ok" and len(messages) == 1 and f"bad.cfg:{place}: " in messages[0], messages
    assert _judge(ser, text.decode().encode("utf-16"))[0] != "Ok"


@pytest.mark.parametrize("size", [65000, 70000, 5_000_000])
@pytest.mark.parametrize("where", ["comment", "value", "key", "section", "blanks"])
def test_huge_lines(ser, certs, size, where):
    fill = "x" * size
    line = {"comment": "#" + fill, "value": f"verify_names = {fill}", "key": f"{fill} = 1", "section": f"[server:{fill}]",
            "blanks": " " * size}[where]
    result, messages = _judge(ser, (base(certs) + line + "\n").encode())
    assert (result == "Ok") == (size == 65000 and where in ("comment", "value", "blanks")), messages
    if result != "Ok":
        assert "bad.cfg:4:" in messages[0] and max(map(len, messages)) < 1000, messages


def test_values_continued_without_end(ser, certs):
    assert _judge(ser, (base(certs) + 'verify_names = "' + "xxxxxxxxx\\\n" * 20000 + '"\n').encode())[0] != "Ok"
    assert _judge(ser, (base(certs) + "# " + "\\\n" * 20000).encode())[0] == "Ok"


def test_very_many_errors(ser, certs):
    _, messages = _judge(ser, b"rubbish\n" * 50000)
    assert 50 <= len(messages) <= 102 and "more" in messages[-1], (len(messages), messages[-1])


def test_very_many_bad_domains(ser, certs):
    """Errors of files, not of the grammar."""
    text = base(certs) + "".join(section("server:any", server_name=f"n{n}", ca_list="none.pem") for n in range(1500))
    result, messages = _judge(ser, text.encode())
    assert result == "Error while fixing TLS configuration" and len(messages) > 50
    assert "more" in messages[-1] and all("No such file" in m for m in messages[:-1] if m.startswith("error")), messages[-2:]


@pytest.mark.parametrize("make", ["fifo", "socket", "device", "loop", "huge", "unreadable", "empty", "deep name"])
def test_what_is_no_file(ser, certs, make):
    path = ser.dir / f"odd-{make.split()[0]}"
    if make == "fifo":
        os.mkfifo(path)
    elif make == "socket":
        path = ser.rpc_path
    elif make == "device":
        path.symlink_to("/dev/zero")
    elif make == "loop":
        path.symlink_to(path)
    elif make == "huge":
        with open(path, "wb") as file:
            file.truncate(100 << 20)
    elif make == "empty":
        path.write_bytes(b"")
        assert ser.rpc("tls.check", str(path))["result"] == "Ok"
        return
    elif make == "deep name":
        path = "/" + "x/" * 1000 + "tls.cfg"
    elif make == "unreadable":
        path = path / "below"
    got = ser.rpc("tls.check", str(path))
    assert got["result"] == "Error while loading TLS configuration file" and len(got["messages"]) == 1, got


@pytest.mark.parametrize("key", ["certificate", "private_key", "ca_list", "crl", "private_key_password"])
@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_what_is_no_file_in_a_setting(ser, certs, key, kind):
    """The engine neither waits for a pipe nor reads for ever."""
    path = ser.dir / f"odd-{kind}-{key}"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path = ser.rpc_path
    locked = certs.authority().issue("locked", "DNS:x", password="word")
    settings = {"certificate": locked.pem, "private_key": locked.key, "private_key_password": "word"}
    settings[key] = f"file:{path}" if key == "private_key_password" else path
    found = errors(ser, section("server:default", **settings))
    assert any(str(path.name) in e for e in found), found


@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_what_is_no_file_in_a_directory(ser, certs, kind):
    """A list of revoked certificates is left out; what OpenSSL would open in a handshake is an error."""
    folder = ser.dir / f"folder-{kind}"
    folder.mkdir()
    path = folder / "5ed36f99.0"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        socket.socket(socket.AF_UNIX).bind(str(path))
    found = errors(ser, base(certs) + f"ca_path = {folder}\n")
    assert "is not a regular file" in found[0] and "5ed36f99.0" in found[0], found
    assert "contains no file" in errors(ser, base(certs) + f"crl = {folder}\n")[0]


def test_a_bad_reload_each_time_between_good_ones(ser, certs):
    data = _rich(certs, ser).encode()
    for at in range(0, len(data), 60):
        (ser.dir / "tls.cfg").write_bytes(data[:at] + b"\0")
        with pytest.raises(AssertionError, match="Error while loading TLS configuration file"):
            ser.rpc("tls.reload")
    load(ser, base(certs))
