# SPDX-License-Identifier: ISC
"""The programs that take part in the demonstration: SER, baresip phones, openssl s_client.

A caller may rely on: every program runs with the demonstration's folder as its working folder and
writes nowhere else, every wait is bounded, whatever did not happen raises Failure with the
end of the program's output, and stop() ends nothing but what start() began.
"""
from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, TypeVar

HOST = "127.0.0.1"
DOMAIN = "ser.example.org"
OTHER_DOMAIN = "other.example.net"
SIPS_PORT = 5061  # SER's, if it is free
TIMEOUT = 8.0
T = TypeVar("T")


class Failure(Exception):
    """A step that did not happen; log is the output that may tell why."""

    def __init__(self, what: str, log: str = ""):
        super().__init__(what)
        self.log = log


def port_is_free(port: int, kind: int = socket.SOCK_STREAM) -> bool:
    with socket.socket(socket.AF_INET, kind) as sock:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return sock.getsockname()[1]


def choose_port(wanted: int) -> int:
    return wanted if port_is_free(wanted) else free_port()


def choose_pair(wanted: int) -> int:
    """A port that is free for UDP and TCP and whose successor is free for TLS, as baresip takes them."""
    for port in (wanted, *(free_port() for _ in range(50))):
        if port < 65535 and port_is_free(port, socket.SOCK_DGRAM) and port_is_free(port) and port_is_free(port + 1):
            return port
    raise Failure("no two free ports in a row on loopback")


def fields_of(line: str) -> dict[str, str]:
    """The key=value fields of a log line."""
    return {key: value.strip('"') for key, value in re.findall(r'(\w+)=("[^"]*"|\S+)', line)}


def plain(text: str) -> str:
    """Text without the colours that baresip prints."""
    return re.sub(r"\x1b\[[;\d]*m", "", text)


class Party:
    """A program in the background. It leads a session of its own, so that Ctrl-C reaches only run-demo."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        self.log_path: Path | None = folder / f"{name}.log"
        self.errors_path: Path | None = None  # None: what it says on stderr goes to the log as well
        self.process: subprocess.Popen | None = None

    def spawn(self, command: list[str], **environment: str) -> None:
        env = {**os.environ, "LC_ALL": "C", "HOME": str(self.folder), **environment}
        with ExitStack() as files:
            out = files.enter_context(open(self.log_path, "wb")) if self.log_path else None
            err = files.enter_context(open(self.errors_path, "wb")) if self.errors_path else out
            self.process = subprocess.Popen(command, cwd=self.folder, env=env, stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=err, start_new_session=True)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path and self.log_path.exists() else ""

    def fail(self, what: str) -> Failure:
        return Failure(what, self.tail())

    def tail(self) -> str:
        """The end of what it printed, under a headline; nothing if it printed nothing."""
        text = self.log()
        if self.errors_path and self.errors_path.exists():
            text += self.errors_path.read_text(errors="replace")
        lines = "\n".join(line for line in plain(text).splitlines()[-40:] if line.strip())
        return lines and f"The end of {self.log_path}:\n{lines}"

    def wait_for(self, probe: Callable[[], T | None], what: str, timeout: float = TIMEOUT) -> T:
        """The first true value of probe(); fails when the program ends or the time is over."""
        assert self.process is not None
        end = time.monotonic() + timeout
        while not (value := probe()):
            if self.ended():
                raise self.fail(f"{self.name} ended before it did this: {what}")
            if time.monotonic() > end:
                raise self.fail(f"{self.name}: not within {timeout:g} s: {what}")
            time.sleep(0.03)
        return value

    def wait_to_listen(self, port: int) -> None:
        assert self.process is not None
        pid = self.process.pid
        self.wait_for(lambda: listens(pid, port), f"listen on port {port}")

    def ended(self) -> bool:
        """True when the program is over. It stays a zombie, so that its number belongs to nobody else."""
        return self.process is None or os.waitid(
            os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def stop(self, timeout: float = TIMEOUT, polite: bool = True) -> int | None:
        """Ends the program and what it left behind; returns its exit status, None if it had to be killed."""
        if self.process is None:
            return None
        end = time.monotonic() + timeout
        if polite and not self.ended():
            os.kill(self.process.pid, signal.SIGTERM)
        while not (ended := self.ended()) and time.monotonic() < end:
            time.sleep(0.02)
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process, self.process = self.process, None
        status = process.wait()
        return status if ended else None


def listens(session: int, port: int) -> bool:
    """True when a process of the session listens there. It is not connected to: that would be in its log."""
    address = f"{int.from_bytes(socket.inet_aton(HOST), sys.byteorder):08X}:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1] == address and row[3] == "0A"}
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return bool(sockets) and any(holds(pid, session, sockets) for pid in pids)


def holds(pid: int, session: int, files: set[str]) -> bool:
    try:
        return os.getsid(pid) == session and any(
            os.readlink(entry) in files for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it ended meanwhile, or belongs to another user
        return False


class Ser(Party):
    """SER with the module. in_foreground: its log goes to the terminal and cannot be looked at."""

    def __init__(self, folder: Path, binary: str, module: Path, in_foreground: bool):
        super().__init__("SER", folder)
        self.log_path = None if in_foreground else folder / "ser.log"
        self.binary, self.module = binary, module
        self.port = 0
        self.seen = 0

    def start(self, template: str, other_port: int) -> None:
        for attempt in range(3):
            self.port = choose_port(SIPS_PORT) if attempt == 0 else free_port()
            config = self.folder / "ser.cfg"
            text = template
            for key, value in (("TLS_PORT", self.port), ("OTHER_PORT", other_port), ("TLS_SO", self.module)):
                text = text.replace(f"@{key}@", str(value))
            config.write_text(text)
            self.spawn([self.binary, "-f", str(config), "-DD", "-E", "-m", "32", "-M", "8",
                        "-w", str(self.folder), "-Y", str(self.folder), "-P", str(self.folder / "ser.pid")])
            try:
                self.wait_to_listen(self.port)
                return
            except Failure as failure:
                if "already in use" not in failure.log or attempt == 2:
                    raise
                self.stop()

    def news(self) -> str:
        """What SER logged since mark_seen()."""
        return self.log()[self.seen:]

    def mark_seen(self) -> None:
        self.seen = len(self.log())

    def line(self, pattern: str, what: str, then: bool = False) -> str:
        """The new log line that the pattern is found in, from the match on. then: later lines are new."""
        found = self.wait_for(lambda: re.search(rf"{pattern}.*\n", self.news()), f"log {what}")
        if then:
            self.seen += found.end()
        return found[0]

    def connection_of(self, peer: str, event: str = "established") -> dict[str, str]:
        """The fields of the module's own line about the connection with this address."""
        return fields_of(self.line(f"tls: {event} peer={re.escape(peer)} ", f"a connection as {event}: {peer}"))

    def failure(self) -> dict[str, str]:
        """The fields of the one new line about a failed connection."""
        self.line("tls: failed ", "the failed connection")
        lines = re.findall("tls: failed .*", self.news())
        if len(lines) != 1:
            raise self.fail(f"SER logs {len(lines)} lines about one failed connection")
        return fields_of(lines[0])

    def request(self, method: str) -> dict[str, str]:
        """The fields of the line that SER's script logs about a request."""
        return fields_of(self.line(f"demo: request={method} ", f"the {method} that it got"))


class Phone(Party):
    """A baresip of which the SIP trace can be read and which takes commands.

    It has a codec to offer, but no module for sound: these print from threads, into the trace's lines.
    """

    MODULES = ("module\tg711.so", "module\tuuid.so", "module_app\taccount.so", "module_app\tmenu.so")

    def __init__(self, user: str, folder: Path, certificate: str, domain: str = DOMAIN):
        super().__init__(user, folder)
        self.errors_path = folder / f"{user}.errors"  # its progress display would cut the trace's lines
        self.user, self.domain, self.certificate = user, domain, certificate
        self.control_port = 0

    def configure(self, account: str, port: int = 0, control: bool = True) -> None:
        home = self.folder / self.user
        home.mkdir(exist_ok=True)
        certs = self.folder / "certs"
        pem = home / "cert.pem"
        pem.touch(mode=0o600)
        pem.write_text("".join((certs / f"{self.certificate}.{end}").read_text() for end in ("pem", "key")))
        lines = [f"sip_listen\t{HOST}:{port}", f"sip_certificate\t{self.user}/cert.pem", "sip_cafile\tcerts/ca.pem",
                 "net_interface\t127.0.0.1", f"module_path\t{self.modules_folder()}", *self.MODULES]
        if control:
            self.control_port = free_port()
            lines += ["module_app\tctrl_tcp.so", f"ctrl_tcp_listen\t{HOST}:{self.control_port}"]
        (home / "config").write_text("\n".join(lines) + "\n")
        (home / "accounts").write_text(f"<sip:{self.user}@{self.domain};transport=tls>;auth_pass=none;{account}\n")
        (home / "contacts").write_text("")

    @staticmethod
    def modules_folder() -> Path:
        for base in ("/usr/lib", "/usr/local/lib"):
            for found in (Path(base, "baresip/modules"), *Path(base).glob("*/baresip/modules")):
                if (found / "ctrl_tcp.so").exists():
                    return found
        raise Failure("baresip's modules are not installed (package baresip-core)")

    def start(self, version: str) -> None:
        """version: the highest that it offers, 1.3 or 1.2."""
        self.spawn(["stdbuf", "-oL", "baresip", "-f", self.user, "-s"], OPENSSL_CONF=f"baresip-tls{version}.cnf")
        self.wait_for(lambda: "baresip is ready" in self.log(), "become ready")
        self.wait_to_listen(self.control_port)

    def listen(self, account: str) -> int:
        """Starts it as a server; returns its TLS port."""
        for attempt in range(3):
            port = choose_pair(5070 if attempt == 0 else free_port())
            self.configure(account, port)
            try:
                self.start("1.3")
                self.wait_to_listen(port + 1)
                return port + 1
            except Failure:
                self.stop()
                if attempt == 2:
                    raise
        raise AssertionError

    def command(self, command: str, params: str = "") -> None:
        data = json.dumps({"command": command, "params": params}).encode()
        try:
            with socket.create_connection((HOST, self.control_port), 3) as sock:
                sock.sendall(b"%d:%b," % (len(data), data))
                if not sock.recv(4096):
                    raise self.fail(f"{self.user}'s baresip does not take the command {command}")
        except OSError as problem:
            raise self.fail(f"{self.user}'s baresip does not take the command {command}: {problem}") from None

    def trace(self) -> list[tuple[str, str, str, str]]:
        """(from, to, first line, method) of each SIP message that it sent or got, over TLS."""
        found = []
        for block in re.finditer(r"^TLS (\S+) -> (\S+)\n(.*?)^\s*$", self.log().replace("\r", ""), re.M | re.S):
            method = re.search(r"^CSeq: \d+ (\w+)$", block[3], re.M)
            if method:
                found.append((block[1], block[2], block[3].splitlines()[0], method[1]))
        return found

    def message(self, start: str, method: str) -> tuple[str, str, str]:
        """Waits for a message of which the first line begins so; returns its from, to and first line."""
        hit = self.wait_for(lambda: [m for m in self.trace() if m[2].startswith(start) and m[3] == method],
                            f"show '{start}' ({method}) in its trace")
        return hit[0][:3]


def sip_request(method: str, user: str) -> bytes:
    """A request of somebody whose connection the answer shall come back on."""
    target = f"sip:{DOMAIN}"
    serial = f"{os.getpid()}.{time.monotonic_ns()}"
    return "\r\n".join([
        f"{method} {target} SIP/2.0", f"Via: SIP/2.0/TLS {HOST}:9;branch=z9hG4bK{serial};rport",
        f"From: <sip:{user}@{DOMAIN}>;tag={serial}", f"To: <sip:{user}@{DOMAIN}>", f"Call-ID: {serial}@{HOST}",
        f"CSeq: 1 {method}", "Max-Forwards: 70", f"Contact: <sip:{user}@{HOST}:9;transport=tls>", "Expires: 60",
        "Content-Length: 0", "", ""]).encode()


class SClient(Party):
    """openssl s_client: verifies SER's chain and name or gives up."""

    def __init__(self, folder: Path):
        super().__init__("openssl s_client", folder)
        self.log_path = folder / "s_client.log"
        self.status: int | None = None

    def ask(self, port: int, version: str, request: bytes, ca: str = "ca", client: str = "") -> str:
        """Sends the request; returns the first line of the answer, nothing if there was no connection."""
        command = ["openssl", "s_client", "-connect", f"{HOST}:{port}", f"-tls{version.replace('.', '_')}", "-brief",
                   "-nocommands", "-servername", DOMAIN, "-CAfile", f"certs/{ca}.pem", "-verify_hostname", DOMAIN,
                   "-verify_return_error"]
        if client:
            command += ["-cert", f"certs/{client}.pem", "-key", f"certs/{client}.key"]
        assert self.log_path is not None
        with open(self.log_path, "wb") as log:
            process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=log, bufsize=0, start_new_session=True)
        self.process = process
        try:
            answer = self.talk(process, request)
            self.status = self.stop(polite=False)
        finally:
            self.stop()
        if self.status is None:
            raise self.fail("openssl s_client did not end")
        return answer.split(b"\r\n", 1)[0].decode(errors="replace")

    def talk(self, process: subprocess.Popen, request: bytes) -> bytes:
        assert process.stdin and process.stdout
        answer = b""
        end = time.monotonic() + TIMEOUT
        with process.stdin, process.stdout:
            try:
                process.stdin.write(request)
            except BrokenPipeError:  # it has given up already
                return answer
            while b"\r\n\r\n" not in answer:
                if not select.select([process.stdout], [], [], max(end - time.monotonic(), 0))[0]:
                    raise self.fail("openssl s_client got no answer")
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    break
                answer += data
        return answer

    def said(self, name: str) -> str:
        """What it reports under this name about the connection."""
        found = re.search(rf"^{name}: (.*)$", self.log(), re.M)
        return found[1] if found else ""
