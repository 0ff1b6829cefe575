# SPDX-License-Identifier: ISC
"""Private keys: passwords from everywhere, files that only root reads, and what a core dump holds."""
from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import termios
import threading
from pathlib import Path

import pytest

from clients import TlsClient
from domains import base, fault, load, put, section, site
from ser import ASAN, SLOW, wait_until
from test_secrets import needles_of

WORD = "correct-horse-battery-9471"
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def locked(certs):
    return certs.authority().issue("ser.example.org", "DNS:ser.example.org", password=WORD)


def _params(locked, **more) -> dict:
    return {"certificate": str(locked.pem), "private_key": str(locked.key), "tls_log": 1, **more}


def _talks(ser, certs) -> None:
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200


def _owner_only(ser, name: str) -> None:
    """Has the file of that name beside ser.cfg readable for its owner only, from the start on."""
    original = ser.write_cfg

    def write_and_lock() -> None:
        original()
        (ser.dir / name).chmod(0o400)
        ser.dir.chmod(0o777)

    ser.write_cfg = write_and_lock


# -- passwords --------------------------------------------------------------------------------


def test_password_parameter(pool, certs, locked):
    ser = pool.fresh(tls=_params(locked, private_key_password=WORD)).start()
    _talks(ser, certs)
    assert WORD not in str(ser.rpc("cfg.get", "tls", "private_key_password")) + str(ser.rpc("tls.options")) + ser.log()


def test_password_file(pool, certs, locked):
    ser = pool.fresh(tls=_params(locked, private_key_password="file:word"), files={"word": f"{WORD}\nmore\n"})
    _owner_only(ser, "word")
    ser.start()
    _talks(ser, certs)
    assert "password file" not in ser.log()


def test_password_file_that_others_read_is_warned_of(pool, certs, locked):
    ser = pool.fresh(tls=_params(locked, private_key_password="file:word"), files={"word": WORD}).start()
    ser.wait_log(r"WARNING: .*private_key_password: password file '\S*/word' can be read by other users", 1)
    ser.wait_log(r"WARNING: .*private key file '\S*' can be read by other users", 1)
    _talks(ser, certs)


def test_password_of_a_section(pool, certs, locked):
    settings = {"certificate": locked.pem, "private_key": locked.key}
    ser = site(pool, certs, fresh=True, cfg=section("server:default", **settings, private_key_password=WORD))
    _talks(ser, certs)
    put(ser, section("server:default", **settings, private_key_password="wrong"))
    assert "is encrypted" in fault(ser, "tls.reload")
    ser.wait_log(r"ERROR: .*tls\.cfg:3: private_key: .* is encrypted and the password is wrong$", 2)
    _talks(ser, certs)
    put(ser, WORD, name="word")
    load(ser, section("server:default", **settings, private_key_password="file:word"))
    _talks(ser, certs)


@pytest.mark.parametrize("password,want", [
    ("Wr0ng-word", "the password is wrong"), ("", r"no password is given \(private_key_password\)"),
    ("file:none", r"private_key_password: cannot read file '\S*/none': No such file"),
    ("file:empty", r"private_key_password: .*empty"), ("x" * 2000, "the password is wrong"),
    ("file:long", "the password is too long")], ids=lambda x: x[:12])
def test_wrong_password_refuses_the_start(pool, locked, password, want):
    log = pool.fresh(tls=_params(locked, private_key_password=password),
                     files={"empty": "\n", "long": "y" * 5000}).start_failure()
    assert re.search(rf"ERROR: .*server:default: parameter .*{want}", log), log
    assert password in ("", "file:none", "file:empty", "file:long") or password not in log


# -- the terminal -------------------------------------------------------------------------------


class Typist:
    """Answers every prompt on the other end of a terminal."""

    def __init__(self, word: str):
        self.word, self.seen = word, b""
        self.master, self.slave = pty.openpty()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._type, daemon=True)
        self.thread.start()

    def _type(self) -> None:
        asked = 0
        while not self.over.is_set():
            if not select.select([self.master], [], [], 0.05)[0]:
                continue
            try:
                self.seen += os.read(self.master, 4096)
            except OSError:
                return
            if self.seen.count(b"Password of") > asked and self.seen.endswith(b": "):
                asked += 1
                wait_until(lambda: not termios.tcgetattr(self.slave)[3] & termios.ECHO, 5, "the echo to end")
                os.write(self.master, self.word.encode() + b"\n")

    def close(self) -> None:
        self.over.set()
        self.thread.join(5)
        os.close(self.master)
        os.close(self.slave)


@pytest.mark.parametrize("word", [WORD, "Wr0ng-word"], ids=["right", "wrong"])
def test_prompt(pool, certs, locked, word):
    """Each key is asked for once, although it serves both roles; what is typed is not shown."""
    typist = Typist(word)
    try:
        ser = pool.fresh(tls=_params(locked, key_password_mode=1), terminal=typist.slave)
        if word == WORD:
            ser.start(20)
            _talks(ser, certs)
        else:
            assert "the password is wrong" in ser.start_failure(20)
        text = typist.seen.decode()
        assert text.count("Password of the private key in ") == 1 and str(locked.key) in text, text
        assert word not in text
    finally:
        typist.close()


def test_prompt_without_a_terminal(pool, locked):
    log = pool.fresh(tls=_params(locked, key_password_mode=1)).start_failure()
    assert re.search(r"is encrypted and there is no terminal to ask for its password \(key_password_mode\)", log), log


def test_a_reload_does_not_ask(pool, certs, locked):
    ser = site(pool, certs, fresh=True, tls={"key_password_mode": 1})
    put(ser, section("server:default", certificate=locked.pem, private_key=locked.key))
    assert "encrypted" in fault(ser, "tls.reload")
    assert "no password is given" in ser.log()
    _talks(ser, certs)


# -- privileges -----------------------------------------------------------------------------------


@NEEDS_ROOT
def test_keys_of_root(pool, certs):
    """They serve on, also after reloads that do not change them; one that needs them again says what to do."""
    cfg = base(certs, private_key="locked.key", certificate="cert.pem")
    ser = pool.fresh(tls={"config": "tls.cfg", "tls_log": 1}, core='user="nobody"\ngroup="nogroup"',
                     files={"tls.cfg": cfg, "locked.key": certs.key("server"), "cert.pem": certs.pem("server")})
    _owner_only(ser, "locked.key")
    ser.start()
    engine = Path(f"/proc/{ser.engine_pid()}/status").read_text()
    assert re.search(r"^Uid:\s+65534\s+65534\s+65534\s+65534$", engine, re.M), engine
    assert re.search(r"^Gid:\s+65534\s", engine, re.M), engine
    _talks(ser, certs)
    load(ser, cfg, section("server:any", server_name="other.example.org", certificate=certs.pem("server"),
                           private_key=certs.key("server")))
    _talks(ser, certs)
    shutil.copy(certs.pem("server-chain"), ser.dir / "cert.pem")
    text = fault(ser, "tls.reload")
    assert "locked.key" in text, text
    ser.wait_log(r"ERROR: .*private_key: cannot read file '\S*/locked\.key': Permission denied for user nobody, as whom "
                 r"SER runs since it gave up root's rights at its start: let that user or its group read it, or "
                 r"restart SER$", 2)
    _talks(ser, certs)


@NEEDS_ROOT
def test_ca_path_that_the_later_user_cannot_read(pool, certs):
    ser = pool.fresh(tls=certs.server_params(ca_path="closed", verify_certificate=1), core='user="nobody"',
                     files={"closed/x.pem": certs.calist})
    original = ser.write_cfg

    def write_and_lock() -> None:
        original()
        (ser.dir / "closed").chmod(0o700)
        ser.dir.chmod(0o777)

    ser.write_cfg = write_and_lock
    assert re.search(r"ERROR: .*ca_path: cannot read directory '\S*/closed': Permission denied for user nobody",
                     ser.start_failure())


# -- memory -----------------------------------------------------------------------------------------


@NEEDS_ROOT
@pytest.mark.skipif(ASAN, reason="the sanitizer's memory is too large")
def test_core_dumps_hold_no_key(pool, certs, locked, tmp_path):
    """Of one process of each kind, once the key was used; nor the password, from a file or a section."""
    ser = site(pool, certs, fresh=True, shm_mb=16, pkg_mb=4, files={"word": WORD},
               cfg=section("server:default", certificate=locked.pem, private_key=locked.key,
                           private_key_password=WORD) +
               section("server:any", server_name="b.example.org", certificate=locked.pem, private_key=locked.key,
                       private_key_password="file:word"))
    for _ in range(4):
        _talks(ser, certs)
    needles = needles_of(locked.key, WORD.encode()) | {"password": WORD.encode()}
    kinds = {re.sub(r"[^a-z ]|child|=.*", "", role): pid for pid, role in ser.processes().items()}
    assert len(kinds) >= 5 and any("tls engine" in kind for kind in kinds), kinds
    found = {}
    for kind, pid in kinds.items():
        subprocess.run(["gdb", "-p", str(pid), "-batch", "-nx", "-ex", f"gcore {tmp_path}/core.{pid}"],
                       capture_output=True, check=True, timeout=60 * SLOW)
        data = (tmp_path / f"core.{pid}").read_bytes()
        assert len(data) > 1 << 20
        found[kind] = {name for name, needle in needles.items() if needle in data}
        (tmp_path / f"core.{pid}").unlink()
    engines = {kind for kind in found if "tls engine" in kind}
    assert all(found[kind] for kind in engines), "the search finds nothing at all"
    assert not {kind: hits for kind, hits in found.items() if hits and kind not in engines}
