# SPDX-License-Identifier: ISC
"""The key log: Wireshark's tshark decrypts what was captured with it; where keys go and where they do not."""
from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
import stat
import struct
import subprocess
import threading

import pytest

from certs import V
from clients import Endpoint, TcpClient, TlsClient, WssClient
from ser import wait_until
from test_wss import ROUTES

INIT, ACTIVE, LOG, FILE, PEER, FILTER = 1, 2, 4, 8, 16, 1024
LINE_RE = re.compile(r"[A-Z0-9_]+ [0-9a-f]{64} [0-9a-f]{64,96}")
COMMENT_RE = re.compile(r"# peer=127\.0\.0\.1:(\d+) local=127\.0\.0\.1:(\d+) role=(server|client)")
LABELS_13 = {"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET", "EXPORTER_SECRET",
             "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"}
NEEDED_13 = LABELS_13 - {"EXPORTER_SECRET"}
VERSIONS = {"1.3": {"low": V.TLSv1_3}, "1.2": {"high": V.TLSv1_2}}


def _site(pool, certs, mode: int, **more):
    more.setdefault("tls", {})
    params = certs.server_params(ca_list=str(certs.calist), verify_certificate=1, keylog_mode=mode,
                                 keylog_file="keys", **more.pop("tls"))
    return pool.fresh(tls=params, **more)


def _uri(ser) -> str:
    """Of SER itself, whichever port the client is connected to."""
    return f"sip:127.0.0.1:{ser.tls_port};transport=tls"


def _lines(ser) -> list[str]:
    path = ser.dir / "keys"
    return path.read_text().splitlines() if path.exists() else []


def _labels(lines) -> set[str]:
    keys = [line for line in lines if not line.startswith("#")]
    assert all(LINE_RE.fullmatch(line) for line in keys), keys
    return {line.split()[0] for line in keys}


def _ask(ser, certs, **context) -> str:
    """One request over TLS; returns its Call-ID."""
    with TlsClient(ser.tls_port, certs.client_context(**context)) as client:
        return client.ask().call_id


# -- captures ----------------------------------------------------------------------------------------


class Tap:
    """A TCP relay that writes down what went through it as a capture file, for whoever may not capture."""

    def __init__(self, port: int, path):
        self.path, self.target = path, port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.packets: list[bytes] = []
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        client, _ = self.listener.accept()
        server = socket.create_connection(("127.0.0.1", self.target))
        self.sent = [1, 1]
        back = threading.Thread(target=self._copy, args=(server, client, 1), daemon=True)
        back.start()
        self._copy(client, server, 0)
        back.join(5)
        for sock in (client, server):
            sock.close()

    def _copy(self, source, to, way: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                self._packet(way, data)
                to.sendall(data)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)

    def _packet(self, way: int, data: bytes) -> None:
        """IPv4 and TCP headers; the client's port is 40000. Checksums are nobody's concern."""
        ports = (40000, self.target) if way == 0 else (self.target, 40000)
        with self.lock:
            tcp = struct.pack("!HHIIBBHHH", *ports, self.sent[way], self.sent[1 - way], 0x50, 0x18, 65535, 0, 0)
            self.sent[way] += len(data)
            ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40 + len(data), 0, 0, 64, 6, 0,
                             b"\x7f\0\0\1", b"\x7f\0\0\1")
            self.packets.append(ip + tcp + data)

    def stop(self) -> None:
        self.thread.join(10)
        self.listener.close()
        with open(self.path, "wb") as file:
            file.write(struct.pack("!IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))  # raw IP
            for n, packet in enumerate(self.packets):
                file.write(struct.pack("!IIII", 1, n, len(packet), len(packet)) + packet)


class Live:
    """tshark captures on the loopback interface."""

    def __init__(self, port: int, path):
        self.path, self.port = path, port
        self.log = path.with_suffix(".log")
        path.touch(mode=0o666)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["tshark", "-q", "-i", "lo", "-f", f"tcp port {port}", "-w", str(path)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        # Its word that it captures comes a moment early: only what was seen in the file counts.
        wait_until(self._sees, 20, "tshark to capture", step=0.1)

    def _sees(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 5).close()
        return self._captured() > 0

    def _captured(self) -> int:
        return max(0, self.path.stat().st_size - 512)

    def stop(self) -> None:
        """Ends it once nothing more comes."""
        sizes = []

        def calm() -> bool:
            sizes.append(self._captured())
            return len(sizes) > 5 and len(set(sizes[-5:])) == 1

        wait_until(calm, 20, "the capture to be complete", step=0.2)
        self.process.terminate()
        self.process.wait(20)


def _may_capture() -> bool:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except PermissionError:
        return False
    return True


@pytest.fixture(params=["live", "relay"])
def capture(request, tmp_path):
    if request.param == "live" and not _may_capture():
        pytest.skip("no right to capture: the relay's capture files are decrypted only")
    started = []

    def start(ser):
        made = (Live if request.param == "live" else Tap)(ser.tls_port, tmp_path / "capture.pcap")
        started.append(made)
        return made

    yield start
    for made in started:
        if isinstance(made, Live) and made.process.poll() is None:
            made.process.kill()
            made.process.wait(5)


def _decrypt(ser, capture, keys, protocol: str = "sip") -> list[list[str]]:
    """Method, status and Call-ID of each SIP message that tshark finds with the keys."""
    port = ser.tls_port
    done = subprocess.run(
        ["tshark", "-r", str(capture.path), "-o", f"tls.keylog_file:{keys}", "-d", f"tcp.port=={port},tls",
         "-d", f"tls.port=={port},{protocol}", "-Y", "sip", "-T", "fields",
         "-e", "sip.Method", "-e", "sip.Status-Code", "-e", "sip.Call-ID"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("bits", [0, FILTER], ids=["all", "filter"])
def test_tshark_decrypts(pool, certs, capture, tmp_path, version, bits):
    ser = _site(pool, certs, INIT | ACTIVE | FILE | bits).start()
    tap = capture(ser)
    with TlsClient(tap.port, certs.client_context(**VERSIONS[version])) as client:
        ids = [client.ask(uri=_uri(ser)).call_id for _ in range(2)]
    tap.stop()
    found = _decrypt(ser, tap, ser.dir / "keys")
    for call_id in ids:
        assert ["OPTIONS", "", call_id] in found
        assert ["", "200", call_id] in found
    nothing = tmp_path / "nothing"
    nothing.write_text("")
    assert _decrypt(ser, tap, nothing) == []


def test_tshark_decrypts_websocket(pool, certs, capture):
    ser = _site(pool, certs, INIT | ACTIVE | FILE, modules=("xhttp", "websocket"), core="tcp_accept_no_cl=yes",
                events=ROUTES).start()
    tap = capture(ser)
    with WssClient(tap.port, certs.client_context()) as client:
        call_id = client.ask(uri=_uri(ser)).call_id
    tap.stop()
    found = _decrypt(ser, tap, ser.dir / "keys", "http")
    assert ["OPTIONS", "", call_id] in found and ["", "200", call_id] in found


# -- where keys go -----------------------------------------------------------------------------------


def test_off_by_default(pool, certs):
    ser = pool.get(tls=certs.server_params())
    _ask(ser, certs)
    assert "keylog" not in ser.log() and "keys of new connections" not in ser.log()
    ser.forgive("keylog_mode|fixup failed")
    with pytest.raises(AssertionError):
        ser.rpc("cfg.set_now_int", "tls", "keylog_mode", ACTIVE | LOG)
    ser.wait_log(r"keylog_mode: value 6 needs bit 1 \(init\) when SER starts")


@pytest.mark.parametrize("version,labels,needed", [("1.3", LABELS_13, NEEDED_13),
                                                   ("1.2", {"CLIENT_RANDOM"}, {"CLIENT_RANDOM"})])
def test_file(pool, certs, version, labels, needed):
    ser = _site(pool, certs, INIT | ACTIVE | FILE).start()
    ser.wait_log(r"WARNING: .*keys of new connections are written \(keylog_mode 11\): to keylog_file;")
    with TlsClient(ser.tls_port, certs.client_context(**VERSIONS[version])) as client:
        client.ask()
        port = client.local_port
    lines = _lines(ser)
    assert _labels(lines) == labels
    assert COMMENT_RE.fullmatch(lines[0]).groups() == (str(port), str(ser.tls_port), "server")
    assert stat.S_IMODE((ser.dir / "keys").stat().st_mode) == 0o600
    assert "TRAFFIC_SECRET" not in ser.log() and "CLIENT_RANDOM" not in ser.log()

    ser.rpc("cfg.set_now_int", "tls", "keylog_mode", INIT | ACTIVE | FILE | FILTER)
    _ask(ser, certs, **VERSIONS[version])
    assert _labels(_lines(ser)[len(lines):]) == needed


def test_outgoing_connection(pool, certs):
    ser = _site(pool, certs, INIT | ACTIVE | FILE | LOG).start()
    with Endpoint(certs.server_context()) as far, TcpClient(ser.tcp_port) as caller:
        caller.send(caller.build("MESSAGE", f"sip:far@127.0.0.1:{far.port};transport=tls", body=b"hello"))
        while caller.recv().status < 200:
            pass
        lines = _lines(ser)
        assert LABELS_13 == _labels(lines)
        roles = {COMMENT_RE.fullmatch(line)[3] for line in lines if line.startswith("#")}
        peers = {COMMENT_RE.fullmatch(line)[1] for line in lines if line.startswith("#")}
        assert (roles, peers) == ({"client"}, {str(far.port)})


def test_log(pool, certs):
    ser = _site(pool, certs, INIT | ACTIVE | LOG, tls={"keylog_peer": "[::1]:9"}).start()
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        client.ask()
        found = re.findall(rf"NOTICE: .*tls: keylog peer=127\.0\.0\.1:{client.local_port} "
                           rf"local=127\.0\.0\.1:{ser.tls_port} role=server (.*)", ser.log())
    assert _labels(found) == LABELS_13
    assert _lines(ser) == []


def test_udp_peer(pool, certs):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(20)
        ser = _site(pool, certs, INIT | ACTIVE | PEER, tls={"keylog_peer": f"127.0.0.1:{peer.getsockname()[1]}"}).start()
        _ask(ser, certs)
        lines: list[str] = []
        while not LABELS_13 <= _labels(lines):
            text = peer.recv(65536).decode()
            assert text.endswith("\n") and COMMENT_RE.fullmatch(text.splitlines()[0])
            lines += text.splitlines()
    assert _labels(lines) == LABELS_13
    assert _lines(ser) == []


def test_on_for_a_while(pool, certs):
    """Switched on and off while SER runs: only the connections made meanwhile are in the file."""
    ser = _site(pool, certs, INIT).start()
    with TlsClient(ser.tls_port, certs.client_context()) as old:
        old.ask()
        ser.rpc("cfg.set_now_int", "tls", "keylog_mode", ACTIVE | FILE)
        ser.wait_log("WARNING: .*keys of new connections are written")
        with TlsClient(ser.tls_port, certs.client_context()) as new:
            new.ask()
            old.ask()
            port = str(new.local_port)
        ser.rpc("cfg.set_now_int", "tls", "keylog_mode", 0)
        ser.wait_log("keys of new connections are not written any more")
        _ask(ser, certs)
    assert {COMMENT_RE.fullmatch(line)[1] for line in _lines(ser) if line.startswith("#")} == {port}
    assert _labels(_lines(ser)) == LABELS_13
    ser.forgive("keylog_mode|fixup failed")
    for bad in (ACTIVE, ACTIVE | PEER, 32):
        with pytest.raises(AssertionError):
            ser.rpc("cfg.set_now_int", "tls", "keylog_mode", bad)


def test_many_at_once(pool, certs):
    """Lines stay whole, whichever threads of the engine write them."""
    ser = _site(pool, certs, INIT | ACTIVE | FILE, tls={"engine_threads": 8}, readers=4).start()
    context = certs.client_context()
    count = 40

    def work() -> None:
        for _ in range(count // 8):
            with TlsClient(ser.tls_port, context) as client:
                client.ask()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = _lines(ser)
    assert _labels(lines) == LABELS_13
    assert sum(line.startswith("CLIENT_TRAFFIC_SECRET_0") for line in lines) == count
    assert all(COMMENT_RE.fullmatch(line) for line in lines if line.startswith("#"))


def test_file_that_fails_later(pool, certs):
    """One line, calls go on; and it works again when the file does."""
    ser = _site(pool, certs, INIT | ACTIVE | FILE, readers=1).start()
    path = ser.dir / "keys"
    _ask(ser, certs)
    path.unlink()
    path.symlink_to(ser.dir / "elsewhere")
    for _ in range(3):
        _ask(ser, certs)
    wait_until(lambda: "cannot write keys: it is a symbolic link" in ser.log(), 5, "a line about the file")
    assert len(re.findall("ERROR: .*keylog_file: cannot write keys", ser.log())) == 1
    assert not (ser.dir / "elsewhere").exists()
    path.unlink()
    _ask(ser, certs)
    assert _labels(_lines(ser)) == LABELS_13


def test_file_belongs_to_the_user_of_ser(pool, certs):
    if os.geteuid() != 0:
        pytest.skip("only root can give up rights")
    ser = _site(pool, certs, INIT | ACTIVE | FILE, core='user="nobody"\ngroup="nogroup"')
    ser.dir.chmod(0o777)
    ser.start()
    _ask(ser, certs)
    assert (ser.dir / "keys").stat().st_uid == pwd.getpwnam("nobody").pw_uid
    assert _labels(_lines(ser)) == LABELS_13


# -- refused at the start ----------------------------------------------------------------------------


@pytest.mark.parametrize("params,said", [
    ({"keylog_mode": 32}, r"keylog_mode: value 32 has unknown bits"),
    ({"keylog_mode": 4096}, r"keylog_mode: value 4096 is out of range"),
    ({"keylog_mode": 11}, r"keylog_mode: value 11 has bit 8 \(file\), but keylog_file is not set"),
    ({"keylog_mode": 19}, r"keylog_mode: value 19 has bit 16 \(UDP peer\), but keylog_peer is not set"),
    ({"keylog_mode": 3}, r"keylog_mode: value 3 has bit 2 \(active\), but none of"),
    ({"keylog_mode": 1, "keylog_file": "/nonexistent/keys"}, r"keylog_file: cannot append to '/nonexistent/keys': No such"),
    ({"keylog_mode": 1, "keylog_file": "."}, r"keylog_file: cannot append to '\.': "),
    ({"keylog_mode": 1, "keylog_file": "link"}, r"keylog_file: cannot append to '.*/link': it is a symbolic link"),
    ({"keylog_mode": 1, "keylog_file": "/dev/null"}, r"keylog_file: cannot append to '/dev/null': it is no regular file"),
    *(({"keylog_mode": 1, "keylog_peer": peer}, r"keylog_peer: value '.*' is not valid, expected a numeric address")
      for peer in ("localhost:9", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:9", "[::1]", "[127.0.0.1]:9", ":9")),
])
def test_bad_parameters(pool, certs, params, said):
    ser = pool.fresh(tls=certs.server_params(**params))
    (ser.dir / "link").symlink_to("target")
    log = ser.start_failure()
    assert re.search(r"ERROR: .*" + said, log), log


def test_warnings(pool, certs):
    ser = pool.fresh(tls=certs.server_params(keylog_mode=ACTIVE | LOG, keylog_peer="192.0.2.1:9")).start()
    assert re.search(r"WARNING: .*keylog_mode: value 6 lacks bit 1", ser.log())
    assert re.search(r"WARNING: .*keylog_peer: secrets would go to 192\.0\.2\.1:9 unprotected", ser.log())
    _ask(ser, certs)
    assert "tls: keylog peer=" not in ser.log()

    ser = _site(pool, certs, INIT)
    (ser.dir / "keys").touch()
    (ser.dir / "keys").chmod(0o644)
    ser.start()
    assert re.search(r"WARNING: .*keylog_file: '.*/keys' can be read or written by other users", ser.log())
